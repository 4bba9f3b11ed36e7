//! Attacks that fail: tokens that are not one's own, codes used again, counters undone, secrets
//! read. Hostile text is in hostile.rs.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use loyalty_testkit::http::Answer;
use loyalty_testkit::token::{self, Claims, Role};
use serde_json::{Value, json};

use crate::world::{PASSWORD, Session, World};

/// base64url of `{"alg":"none","typ":"JWT"}`
const UNSIGNED_HEADER: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";

pub const HANAKO: &str = "hanako@example.com";
pub const TARO: &str = "taro@example.com";

/// Everything that an attack must leave as it was: who is who, what they have, what rules.
pub async fn state(world: &World) -> Result<Vec<String>> {
    let query = "select c.oid::regclass::text from pg_catalog.pg_class c
                  where c.relnamespace in ('loyalty'::regnamespace, 'loyalty_private'::regnamespace)
                    and c.relkind = 'r'
                    and c.relname not in ('audit', 'throttle', 'challenge', 'notice', 'session', 'refresh_token', 'device',
                                          'registration', 'member_upload', 'login_application')
                  order by 1";
    let mut state = Vec::new();
    for row in world.sql.query(query, &[]).await? {
        let name: String = row.get(0);
        let digest = format!(
            "select coalesce(md5(string_agg(r::text, ',' order by r::text)), '') from {name} r"
        );
        let digest: String = world.sql.query_one(&digest, &[]).await?.get(0);
        let table = name.rsplit('.').next().unwrap_or_default();
        state.push(format!("{table} {digest}"));
    }
    Ok(state)
}

/// What differs.
pub fn ensure_same(before: &[String], after: &[String]) -> Result<()> {
    let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    ensure!(
        new.is_empty() && before.len() == after.len(),
        "changed: {new:?}"
    );
    Ok(())
}

/// A person of `coin` who is logged in.
pub async fn logged_in(world: &World) -> Result<Session> {
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    Session::of(world.log_in(HANAKO, PASSWORD, "coin").await?.ok()?)
}

/// Claims of a token with some of them replaced, under the signature that it had.
fn tampered(token: &str, claims: &Value) -> Result<String> {
    let parts: Vec<&str> = token.split('.').collect();
    ensure!(parts.len() == 3);
    let other = token::sign(claims, "whatever; only the middle of it is used")?;
    let middle = other.split('.').nth(1).context("no claims")?;
    Ok(format!("{}.{middle}.{}", parts[0], parts[2]))
}

async fn attempts(world: &World, token: &str) -> Result<Vec<Answer>> {
    let account_id = world.hanako.account_id;
    Ok(vec![
        world.get(token, "/balance").await?,
        world.get(token, "/statement").await?,
        world.get(token, "/audit").await?,
        world.rpc(token, "own_sessions", json!({})).await?,
        world.rpc(token, "spend", json!({"points": 1})).await?,
        world
            .rpc(
                token,
                "grant",
                json!({"account_id": account_id, "points": 1}),
            )
            .await?,
        world
            .rpc(
                token,
                "change_password",
                json!({"old_password": PASSWORD, "new_password": "other2026abc"}),
            )
            .await?,
        world
            .rpc(
                token,
                "give_role",
                json!({"login_id": HANAKO, "role": "admin"}),
            )
            .await?,
    ])
}

/// Expired, unsigned, signed by somebody else, with another role or account written in.
#[tokio::test]
async fn tokens_that_prove_nothing() -> Result<()> {
    let world = World::start("attack_token").await?;
    let session = logged_in(&world).await?;
    let mine: Value = claims_of(&session.access)?;
    let before = state(&world).await?;
    let with = |name: &str, value: Value| {
        let mut claims = mine.clone();
        claims[name] = value;
        claims
    };
    let payload = session.access.split('.').nth(1).context("no claims")?;
    let another = "another secret of at least thirty-two bytes";
    let bad = [
        ("expired", world.claims(&with("exp", json!(1_700_000_000)))?),
        (
            "not good yet",
            world.claims(&with("nbf", json!(4_102_444_800_i64)))?,
        ),
        ("unsigned", format!("{UNSIGNED_HEADER}.{payload}.")),
        (
            "signature left out",
            session
                .access
                .rsplit_once('.')
                .context("no parts")?
                .0
                .to_owned()
                + ".",
        ),
        ("signed by somebody else", token::sign(&mine, another)?),
        (
            "administrator by hand",
            tampered(&session.access, &with("role", json!("loyalty_admin")))?,
        ),
        (
            "operator by hand",
            tampered(&session.access, &with("role", json!("loyalty_operator")))?,
        ),
        (
            "another account",
            tampered(
                &session.access,
                &with("account_id", json!(world.taro.account_id)),
            )?,
        ),
        (
            "another program",
            tampered(&session.access, &with("program", json!("mile")))?,
        ),
        (
            "a longer life",
            tampered(&session.access, &with("exp", json!(4_102_444_800_i64)))?,
        ),
        ("a refresh token", session.refresh.clone()),
        ("no token", "x.y.z".to_owned()),
    ];
    for (what, token) in bad {
        for answer in attempts(&world, &token).await? {
            ensure!(
                answer.status == 401,
                "{what}: {} {}",
                answer.status,
                answer.text
            );
        }
    }
    ensure_same(&before, &state(&world).await?)?;
    // the token itself is good
    world.get(&session.access, "/balance").await?.ok()?;
    Ok(())
}

fn claims_of(token: &str) -> Result<Value> {
    let payload = token.split('.').nth(1).context("no claims")?;
    let payload = Base64UrlUnpadded::decode_vec(payload).map_err(anyhow::Error::msg)?;
    Ok(serde_json::from_slice(&payload)?)
}

/// A token of one program opens nothing of another, whatever it is asked with.
#[tokio::test]
async fn a_token_is_for_its_program() -> Result<()> {
    let world = World::start("attack_program").await?;
    let session = logged_in(&world).await?;
    world.enrol(&world.taro, Some(TARO)).await?;
    // a person of both programs, and one of coin only
    world.join(HANAKO, &world.hanako_mile).await?;
    let before = state(&world).await?;
    let (coin, mile) = (world.hanako.account_id, world.hanako_mile.account_id);
    for filter in [
        String::new(),
        format!("?account_id=eq.{mile}"),
        "?program=eq.mile".to_owned(),
    ] {
        let rows = world
            .get(&session.access, &format!("/balance{filter}"))
            .await?
            .ok()?;
        let ids: Vec<_> = rows
            .as_array()
            .context("rows")?
            .iter()
            .map(|row| row["account_id"].clone())
            .collect();
        ensure!(ids.iter().all(|id| *id == json!(coin)), "{filter}: {ids:?}");
    }
    world
        .rpc(
            &session.access,
            "spend",
            json!({"points": 1, "account_id": mile}),
        )
        .await?
        .refused(403, "LY010")?;
    let admin = world.admin("mile")?;
    for (function, arguments) in [
        ("grant", json!({"account_id": coin, "points": 1})),
        (
            "refund",
            json!({"account_id": coin, "operation_id": (coin << 24) + 1}),
        ),
        (
            "set_member",
            json!({"program": "coin", "member_no": "T-1", "name": "Evil"}),
        ),
        (
            "set_access_policy",
            json!({"program": "coin", "password_length": 6}),
        ),
        ("issue_keys", json!({"program": "coin", "member_no": "T-1"})),
        (
            "give_role",
            json!({"program": "coin", "login_id": HANAKO, "role": "admin"}),
        ),
        ("give_role", json!({"login_id": HANAKO, "role": "operator"})),
        (
            "set_template",
            json!({"program": "coin", "kind": "password_reset", "language": "ja", "subject": "x", "text_body": "{{ link }}"}),
        ),
        // taro is no member of mile
        ("unlock_identity", json!({"login_id": TARO})),
        ("suspend_identity", json!({"login_id": TARO, "reason": "x"})),
        ("close_identity", json!({"login_id": TARO, "reason": "x"})),
        ("resume_identity", json!({"login_id": TARO, "reason": "x"})),
        // hanako is, and of coin as well
        (
            "suspend_identity",
            json!({"login_id": HANAKO, "reason": "x"}),
        ),
        ("close_identity", json!({"login_id": HANAKO, "reason": "x"})),
        (
            "set_identity_provider",
            json!({"program": "mile", "issuer": "https://evil.example.com", "audience": "x"}),
        ),
        (
            "link_subject",
            json!({"issuer": "https://evil.example.com", "subject": "1", "member_no": "M-77"}),
        ),
    ] {
        let answer = world.rpc(&admin, function, arguments.clone()).await?;
        ensure!(
            matches!(answer.status, 403 | 404),
            "{function} {arguments}: {} {}",
            answer.status,
            answer.text
        );
    }
    ensure_same(&before, &state(&world).await?)
}

/// A code or a link is good once, for what it was sent for, and no longer than there is a newer one.
#[tokio::test]
async fn codes_and_links_are_good_once() -> Result<()> {
    let world = World::start("attack_replay").await?;
    let registration = world.begin(&world.ann).await?;
    world.choose(&registration, "ann@example.com").await?.ok()?;
    let first = world.mail_to("ann@example.com").await?.code()?;
    let other = world.begin(&world.taro).await?;
    world.choose(&other, TARO).await?.ok()?;
    let taros = world.mail_to(TARO).await?.code()?;
    let verify = async |registration: &str, code: &str| {
        let arguments = json!({"registration": registration, "code": code});
        world.rpc("", "verify_code", arguments).await
    };
    // a code of another registration
    if taros != first {
        verify(&registration, &taros).await?.refused(401, "LY009")?;
    }
    verify(&registration, &first).await?.ok()?;
    let answer = world.confirm(&registration, &world.ann).await?;
    answer.ok()?;
    // the whole of it once more
    for answer in [
        verify(&registration, &first).await?,
        world.confirm(&registration, &world.ann).await?,
        world.choose(&registration, "evil@example.com").await?,
    ] {
        ensure!(
            matches!(answer.status, 401 | 403),
            "{} {}",
            answer.status,
            answer.text
        );
    }
    // a link: the older of two, then the newer twice
    let ask = async || {
        let arguments = json!({"login_id": "ann@example.com", "program": "coin"});
        let asked = world
            .rpc("", "request_password_reset", arguments)
            .await?
            .ok()?;
        let key = asked["screen_key"].as_str().context("no key")?.to_owned();
        anyhow::Ok((key, world.mail_to("ann@example.com").await?.token()?))
    };
    let (old_key, old) = ask().await?;
    let (key, newer) = ask().await?;
    let reset = async |token: &str, key: &str, password: &str| {
        let arguments = json!({"token": token, "screen_key": key, "password": password, "password_again": password});
        world.rpc("", "reset_password", arguments).await
    };
    let refused = async |token: &str, key: &str| {
        let answer = reset(token, key, "evil2026abc").await?;
        ensure!(
            matches!(answer.status, 400 | 401 | 403),
            "{} {}",
            answer.status,
            answer.text
        );
        anyhow::Ok(())
    };
    refused(&old, &old_key).await?;
    refused(&old, &key).await?;
    reset(&newer, &key, "ann2026abcd").await?.ok()?;
    refused(&newer, &key).await?;
    // a link of one kind is none of another
    for function in ["unlock", "approve_family", "confirm_login_change"] {
        let answer = world.rpc("", function, json!({"token": newer})).await?;
        ensure!(
            matches!(answer.status, 401 | 403 | 404),
            "{function}: {} {}",
            answer.status,
            answer.text
        );
    }
    world
        .log_in("ann@example.com", "evil2026abc", "coin")
        .await?
        .refused(401, "LY009")?;
    world
        .log_in("ann@example.com", "ann2026abcd", "coin")
        .await?
        .ok()?;
    Ok(())
}

/// `Prefer: tx=rollback` would have a wrong password forgotten; it is not obeyed, or refused.
#[tokio::test]
async fn counters_are_not_rolled_back() -> Result<()> {
    let world = World::start("attack_rollback").await?;
    let session = logged_in(&world).await?;
    world.enrol(&world.taro, Some(TARO)).await?;
    for token in ["", &session.access] {
        for prefer in [
            "tx=rollback",
            "return=minimal, tx=rollback",
            "tx = rollback",
        ] {
            world.forgive().await?;
            let mut was_refused = false;
            let mut was_throttled = false;
            for _ in 0..7 {
                let answer = world.post(token, "log_in").header("Prefer", prefer).json(
                    &json!({"login_id": TARO, "password": "wrong2026abc", "program": "coin"}),
                );
                let answer = Answer::of(answer).await?;
                was_refused |= answer.status == 400;
                was_throttled |= answer.status == 429;
            }
            ensure!(
                was_refused || was_throttled,
                "{prefer}: as often as one likes"
            );
            let right = world
                .post(token, "log_in")
                .header("Prefer", prefer)
                .json(&json!({"login_id": TARO, "password": PASSWORD, "program": "coin"}));
            let right = Answer::of(right).await?.status;
            ensure!(matches!(right, 400 | 429), "{prefer}: {right}");
        }
    }
    Ok(())
}

/// Passwords, keys, codes, tokens: neither in a table that a role may read nor by a function.
#[tokio::test]
async fn what_is_stored_of_secrets_is_read_by_nobody() -> Result<()> {
    let world = World::start("attack_read").await?;
    logged_in(&world).await?;
    let tables = world
        .sql
        .query(
            "select distinct c.oid::regclass::text from pg_catalog.pg_class c
               join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0
              where c.relnamespace in ('loyalty'::regnamespace, 'loyalty_private'::regnamespace) and c.relkind = 'r'
                and a.attname ~ '_hash$' and a.attname <> 'request_hash'
              union select 'loyalty_private.challenge' order by 1",
            &[],
        )
        .await?;
    let tables: BTreeSet<String> = tables.iter().map(|row| row.get(0)).collect();
    for known in [
        "loyalty_private.credential",
        "loyalty_private.member_key",
        "loyalty_private.refresh_token",
        "loyalty_private.device",
        "loyalty_private.registration",
        "loyalty_private.throttle",
        "loyalty_private.challenge",
    ] {
        ensure!(tables.contains(known), "{known} is not looked at");
    }
    let roles = world
        .sql
        .query("select rolname::text from pg_catalog.pg_roles where rolname like 'loyalty\\_%' order by 1", &[])
        .await?;
    for role in roles.iter().map(|row| row.get::<_, String>(0)) {
        let client = world.db.connect_as(&role).await?;
        for table in &tables {
            for statement in [
                format!("select * from {table}"),
                format!("select count(*) from {table}"),
                format!("copy {table} to stdout"),
                format!("create temp view spy as select * from {table}; select * from spy"),
            ] {
                let code = match client.simple_query(&statement).await {
                    Ok(_) => "00000".to_owned(),
                    Err(error) => error
                        .code()
                        .map_or_else(|| error.to_string(), |code| code.code().to_owned()),
                };
                ensure!(code == "42501", "{role}: {statement}: {code}");
            }
        }
    }
    Ok(())
}

/// Who has a login of one role gets no token of another by it.
#[tokio::test]
async fn a_login_is_for_the_roles_one_has() -> Result<()> {
    let world = World::start("attack_role").await?;
    let session = logged_in(&world).await?;
    for role in [
        "admin",
        "granter",
        "operator",
        "postgres",
        "loyalty_operator",
        "family",
        "member'; --",
    ] {
        let arguments =
            json!({"login_id": HANAKO, "password": PASSWORD, "program": "coin", "role": role});
        let answer = world.rpc("", "log_in", arguments).await?;
        // family is what `member` covers; she is nobody's
        ensure!(
            matches!(answer.status, 400 | 403),
            "{role}: {} {}",
            answer.status,
            answer.text
        );
    }
    // of an account that is not hers
    let arguments = json!({
        "login_id": HANAKO, "password": PASSWORD, "program": "coin", "account_id": world.taro.account_id,
    });
    let answer = world.rpc("", "log_in", arguments).await?;
    ensure!(
        (400..500).contains(&answer.status),
        "{} {}",
        answer.status,
        answer.text
    );
    // roles that PostgREST may not become
    for role in [
        "postgres",
        "loyalty_relay",
        "loyalty_authenticator",
        "pg_read_all_data",
    ] {
        let claims = json!({"role": role, "program": "coin", "account_id": world.hanako.account_id, "exp": 4_102_444_800_i64});
        for answer in attempts(&world, &world.claims(&claims)?).await? {
            ensure!(
                (400..500).contains(&answer.status),
                "{role}: {} {}",
                answer.status,
                answer.text
            );
        }
    }
    // a session ended is the end of its token
    world
        .rpc(&session.access, "log_out", json!({}))
        .await?
        .ok()?;
    for answer in attempts(&world, &session.access).await? {
        answer.refused(401, "LY009")?;
    }
    let refresh = json!({"refresh_token": session.refresh});
    world
        .rpc("", "refresh", refresh)
        .await?
        .refused(401, "LY009")?;
    let claims = Claims::new(Role::Member, 600)?
        .program("coin")
        .account_id(world.hanako.account_id);
    ensure!(
        world
            .get(&world.claims(&serde_json::to_value(claims)?)?, "/balance")
            .await?
            .status
            == 200
    );
    Ok(())
}

/// P12: an administrator of one program leads no login of others astray: where mailed links lead
/// and what is written around them is an operator's.
#[tokio::test]
async fn p12_where_links_lead_is_not_an_administrators() -> Result<()> {
    let world = World::start("attack_link").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    world.join(HANAKO, &world.hanako_mile).await?;
    world
        .sql
        .batch_execute(&format!(
            "select loyalty.give_role(null, '{HANAKO}', 'operator')"
        ))
        .await?;
    let admin = world.admin("mile")?;
    let operator = world.operator()?;
    let before = state(&world).await?;
    for policy in [
        json!({"site_url": "https://evil.example.com"}),
        json!({"site_url": ""}),
        json!({"clear": ["site_url"]}),
        json!({"terms_version": "2027-01", "clear": ["terms_url", "site_url"]}),
    ] {
        let answer = world.rpc(&admin, "set_access_policy", policy).await?;
        answer.refused(403, "LY010")?;
    }
    let carrying: Vec<String> = world
        .sql
        .query(
            "select t.kind from loyalty.notice_template t where t.program_id is null
              group by t.kind having bool_or(t.text_body ~ '\\{\\{ (code|link) \\}\\}') order by 1",
            &[],
        )
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    ensure!(carrying.len() == 9, "{carrying:?}");
    for kind in &carrying {
        let text = json!({"kind": kind, "language": "ja", "subject": "500", "text_body": "500"});
        let answer = world.rpc(&admin, "set_template", text).await?;
        answer.refused(403, "LY010").with_context(|| kind.clone())?;
        let which = json!({"kind": kind, "language": "ja"});
        let answer = world.rpc(&admin, "delete_template", which).await?;
        answer.refused(403, "LY010").with_context(|| kind.clone())?;
    }
    ensure_same(&before, &state(&world).await?)?;
    let arguments = json!({"login_id": HANAKO, "program": "mile"});
    world
        .rpc("", "request_password_reset", arguments)
        .await?
        .ok()?;
    let mail = world.mail_to(HANAKO).await?;
    ensure!(
        mail.link()?
            .starts_with("https://mile.example.com/app/password_reset#"),
        "{mail:?}"
    );
    // the other texts and settings stay theirs, also with the site_url that there is
    let policy = json!({"site_url": "https://mile.example.com/app", "terms_version": "2027-01"});
    world.rpc(&admin, "set_access_policy", policy).await?.ok()?;
    for kind in ["balance", "password_changed"] {
        let text = json!({"kind": kind, "language": "ja", "subject": "x", "text_body": "x"});
        world.rpc(&admin, "set_template", text).await?.ok()?;
        let which = json!({"kind": kind, "language": "ja"});
        let deleted = world.rpc(&admin, "delete_template", which).await?.ok()?;
        assert_eq!(deleted, json!(true));
    }
    let policy = json!({"program": "mile", "site_url": "https://mile.example.com"});
    world
        .rpc(&operator, "set_access_policy", policy)
        .await?
        .ok()?;
    let text = json!({
        "program": "mile", "kind": "password_reset", "language": "ja", "subject": "x", "text_body": "{{ link }}",
    });
    world.rpc(&operator, "set_template", text).await?.ok()?;
    Ok(())
}
