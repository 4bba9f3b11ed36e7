//! Logging in: what it answers to whom, and what its tokens open (A1, A7, C10, S8).

use anyhow::{Context, Result, ensure};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use loyalty_testkit::TestServer;
use loyalty_testkit::http::Answer;
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{PASSWORD, Session, World};

const HANAKO: &str = "hanako@example.com";

/// The claims of a token that is signed with the tests' key.
fn claims(token: &str) -> Result<Value> {
    let key = DecodingKey::from_secret(TestServer::get()?.jwt_secret.as_bytes());
    let read = jsonwebtoken::decode(token, &key, &Validation::new(Algorithm::HS256))?;
    Ok(read.claims)
}

#[tokio::test]
async fn a_login_answers_with_tokens_for_what_it_opens() -> Result<()> {
    let world = World::start("login").await?;
    let person = world.enrol(&world.hanako, Some(HANAKO)).await?;
    let answer = world
        .log_in(" Hanako@Example.COM ", PASSWORD, "coin")
        .await?;
    let session = Session::of(answer.ok()?)?;
    let body = &session.body;
    assert_eq!(
        json!([
            body["token_type"],
            body["expires_in"],
            body["program"],
            body["account_id"],
            body["role"]
        ]),
        json!(["Bearer", 600, "coin", world.hanako.account_id, "member"])
    );
    let claims = claims(&session.access)?;
    assert_eq!(claims["iss"], "loyalty");
    assert_eq!(claims["sub"], format!("identity:{person}"));
    assert_eq!(claims["role"], "loyalty_member");
    assert_eq!(claims["program"], "coin");
    assert_eq!(claims["account_id"], world.hanako.account_id);
    assert_eq!(claims["sid"], body["session_id"]);
    let (iat, exp) = (claims["iat"].as_i64(), claims["exp"].as_i64());
    assert_eq!(exp.zip(iat).map(|(exp, iat)| exp - iat), Some(600));
    ensure!(world.opens(&session).await?);
    // what is stored tells neither token nor password
    let stored = world
        .one(
            "select (select string_agg(t::text, ' ') from loyalty_private.refresh_token t) ||
                     (select string_agg(s::text, ' ') from loyalty_private.session s) ||
                     (select string_agg(c::text, ' ') from loyalty_private.credential c) ||
                     (select string_agg(a::text, ' ') from loyalty.audit a)",
        )
        .await?;
    for secret in [&session.access, &session.refresh, PASSWORD] {
        ensure!(!stored.contains(secret), "{secret} is stored");
    }
    ensure!(stored.contains("$argon2id$"), "{stored}");
    Ok(())
}

/// A7: one answer for an unknown ID and a wrong password; another for who may not come in.
#[tokio::test]
async fn a7_a_wrong_login_is_told_from_one_that_is_not_active() -> Result<()> {
    let world = World::start("login_wrong").await?;
    let person = world.enrol(&world.hanako, Some(HANAKO)).await?;
    let wrong = world.log_in(HANAKO, "coin2026abd", "coin").await?;
    let unknown = world.log_in("nobody@example.com", PASSWORD, "coin").await?;
    let nonsense = world
        .log_in("'; drop table loyalty.identity --", PASSWORD, "coin")
        .await?;
    assert_eq!(wrong.refused(401, "LY009")?, unknown.refused(401, "LY009")?);
    assert_eq!(wrong.text, nonsense.text);
    let shown = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        headers.remove("date");
        headers
    };
    assert_eq!(shown(&wrong), shown(&unknown));
    // the right password: of another program, of a suspended account, of a suspended login
    let active = async |program: &str| world.log_in(HANAKO, PASSWORD, program).await;
    active("mile").await?.refused(403, "LY010")?;
    active("coin").await?.ok()?;
    let account = world.hanako.account_id;
    let on_account = async |call: &str| {
        let query = format!("select loyalty.{call}({account})");
        world.sql.batch_execute(&query).await
    };
    on_account("suspend_account").await?;
    active("coin").await?.refused(403, "LY010")?;
    world
        .log_in(HANAKO, "coin2026abd", "coin")
        .await?
        .refused(401, "LY009")?;
    on_account("resume_account").await?;
    active("coin").await?.ok()?;
    let on_login = async |call: &str| {
        let query = format!("select loyalty.{call}({person})");
        world.sql.batch_execute(&query).await
    };
    on_login("suspend_identity").await?;
    active("coin").await?.refused(403, "LY010")?;
    on_login("resume_identity").await?;
    active("coin").await?.ok()?;
    on_login("close_identity").await?;
    active("coin").await?.refused(401, "LY009")?;
    // a program that there is not is no secret, nor are missing arguments
    active("none").await?.refused(404, "LY002")?;
    let nothing = json!({ "login_id": null, "password": "x" });
    let nothing = world.rpc("", "log_in", nothing).await?;
    nothing.refused(400, "22004")?;
    world
        .rpc("", "log_in", json!({ "login_id": "x" }))
        .await?
        .refused(400, "22023")?;
    Ok(())
}

/// A1: one login for several services; S8 where the member number is the login ID.
#[tokio::test]
async fn a1_one_login_opens_several_programs() -> Result<()> {
    let world = World::start("login_several").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    world.join(HANAKO, &world.hanako_mile).await?;
    let no_program = json!({ "login_id": HANAKO, "password": PASSWORD });
    let which = world.rpc("", "log_in", no_program.clone()).await?;
    let which = which.refused(400, "22023")?;
    let details = which["details"].as_str().context("details")?;
    ensure!(
        details.contains("coin") && details.contains("mile"),
        "{details}"
    );
    for (program, member) in [("coin", &world.hanako), ("mile", &world.hanako_mile)] {
        let session = world.logged_in(HANAKO, program).await?;
        assert_eq!(session.body["account_id"], member.account_id);
        ensure!(world.opens(&session).await?);
    }
    // the end of one link ends its sessions and leaves the others
    let (coin, mile) = (
        world.logged_in(HANAKO, "coin").await?,
        world.logged_in(HANAKO, "mile").await?,
    );
    world
        .sql
        .execute(
            "update loyalty.identity_link set ended_at = loyalty.now() where account_id = $1",
            &[&world.hanako_mile.account_id],
        )
        .await?;
    ensure!(world.opens(&coin).await? && !world.opens(&mile).await?);
    world.refresh(&mile.refresh).await?.refused(401, "LY009")?;
    // one link left: no program is needed
    let session = Session::of(world.rpc("", "log_in", no_program).await?.ok()?)?;
    assert_eq!(session.body["program"], "coin");
    Ok(())
}

#[tokio::test]
async fn s8_members_log_in_by_member_number_where_the_program_lets_them() -> Result<()> {
    let world = World::start("login_member_no").await?;
    world.enrol(&world.zoe, None).await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let session = world.logged_in("Z-1", "mile").await?;
    assert_eq!(session.body["account_id"], world.zoe.account_id);
    ensure!(world.opens(&session).await?);
    world
        .log_in("Z-1", "coin2026abd", "mile")
        .await?
        .refused(401, "LY009")?;
    // without the program a number says nothing, and coin does not let members in by it
    let alone = json!({ "login_id": "Z-1", "password": PASSWORD });
    world
        .rpc("", "log_in", alone)
        .await?
        .refused(401, "LY009")?;
    world
        .log_in("H-1", PASSWORD, "coin")
        .await?
        .refused(401, "LY009")?;
    // by e-mail all the same
    world
        .enrol(&world.hanako_mile, Some("mile@example.com"))
        .await?;
    for login_id in ["M-77", "mile@example.com"] {
        let session = world.logged_in(login_id, "mile").await?;
        assert_eq!(session.body["account_id"], world.hanako_mile.account_id);
    }
    Ok(())
}

#[tokio::test]
async fn staff_log_in_to_the_roles_they_have() -> Result<()> {
    let world = World::start("login_staff").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let log_in = async |role: &str, program: Value| {
        let arguments =
            json!({ "login_id": HANAKO, "password": PASSWORD, "role": role, "program": program });
        world.rpc("", "log_in", arguments).await
    };
    for role in ["granter", "admin", "operator"] {
        log_in(role, Value::Null).await?.refused(403, "LY010")?;
    }
    world
        .sql
        .batch_execute(&format!(
            "select loyalty.give_role('coin', '{HANAKO}', 'admin')"
        ))
        .await?;
    let session = Session::of(log_in("admin", Value::Null).await?.ok()?)?;
    assert_eq!(session.body["program"], "coin");
    assert_eq!(session.body["account_id"], Value::Null);
    assert_eq!(claims(&session.access)?["role"], "loyalty_admin");
    let balances = world.get(&session.access, "/balance").await?.ok()?;
    assert_eq!(balances.as_array().map(Vec::len), Some(3));
    log_in("admin", json!("mile"))
        .await?
        .refused(403, "LY010")?;
    log_in("granter", json!("coin"))
        .await?
        .refused(403, "LY010")?;
    log_in("loyalty_operator", Value::Null)
        .await?
        .refused(400, "22023")?;
    // the role is taken: the session is over
    let role_id = world
        .one("select role_id from loyalty.program_role where taken_at is null")
        .await?;
    let role_id: i64 = role_id.trim_matches(['(', ')']).parse()?;
    world
        .rpc(
            &world.operator()?,
            "take_role",
            json!({ "role_id": role_id }),
        )
        .await?
        .ok()?;
    world
        .get(&session.access, "/balance")
        .await?
        .refused(401, "LY009")?;
    world
        .refresh(&session.refresh)
        .await?
        .refused(401, "LY009")?;
    Ok(())
}

/// C10: nobody logs in, or goes on, while the program is closed.
#[tokio::test]
async fn c10_no_login_outside_of_the_service_hours() -> Result<()> {
    let mut world = World::start("login_closed").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    world
        .sql
        .batch_execute("select loyalty.set_service_hours('coin', '02:00', '05:00')")
        .await?;
    let session = world.logged_in(HANAKO, "coin").await?;
    world.set_clock("2026-06-15 23:30+09").await?;
    let session = Session::of(world.refresh(&session.refresh).await?.ok()?)?;
    world.set_clock("2026-06-16 02:00+09").await?;
    let alone = json!({ "login_id": HANAKO, "password": PASSWORD });
    for answer in [
        world.log_in(HANAKO, PASSWORD, "coin").await?,
        world.rpc("", "log_in", alone).await?,
        world.refresh(&session.refresh).await?,
        world
            .rpc(
                "",
                "request_password_reset",
                json!({ "login_id": HANAKO, "program": "coin" }),
            )
            .await?,
        world.get(&session.access, "/balance").await?,
    ] {
        answer.refused(503, "LY007")?;
        ensure!(answer.headers.contains_key("retry-after"));
    }
    world.set_clock("2026-06-16 05:00+09").await?;
    // the refresh token was not used up
    let session = Session::of(world.refresh(&session.refresh).await?.ok()?)?;
    ensure!(world.opens(&session).await?);
    Ok(())
}

/// What a session's token says cannot be changed by who has it.
#[tokio::test]
async fn a_token_that_was_tampered_with_opens_nothing() -> Result<()> {
    let world = World::start("login_tamper").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let session = world.logged_in(HANAKO, "coin").await?;
    let mut claims = claims(&session.access)?;
    let old = loyalty_testkit::token::sign(&claims, "another secret of thirty-two bytes!")?;
    claims["role"] = json!("loyalty_operator");
    let raised = loyalty_testkit::token::sign(&claims, "another secret of thirty-two bytes!")?;
    let (parts, forged): (Vec<_>, Vec<_>) = (
        session.access.split('.').collect(),
        raised.split('.').collect(),
    );
    let swapped = format!("{}.{}.{}", parts[0], forged[1], parts[2]);
    // {"alg":"none"}
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", forged[1]);
    for token in [&old, &raised, &swapped, &unsigned] {
        assert_eq!(world.get(token, "/balance").await?.status, 401);
        assert_eq!(
            world
                .rpc(token, "log_out_everywhere", json!({}))
                .await?
                .status,
            401
        );
    }
    ensure!(world.opens(&session).await?);
    // signed by the server's key, but of a session that is no such one
    for (claim, value) in [
        ("sid", json!("00000000-0000-4000-8000-000000000000")),
        ("sid", json!("'; select 1")),
        ("role", json!("loyalty_operator")),
    ] {
        let mut claims = self::claims(&session.access)?;
        claims[claim] = value;
        let token = world.claims(&claims)?;
        world.get(&token, "/balance").await?.refused(401, "LY009")?;
    }
    Ok(())
}

/// A refusal that counts cannot be taken back by who asks.
#[tokio::test]
async fn calls_that_count_are_posts_that_commit() -> Result<()> {
    let world = World::start("login_commit").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let arguments = json!({ "login_id": HANAKO, "password": "wrong" });
    let request = world.post("", "log_in").header("Prefer", "tx=rollback");
    Answer::of(request.json(&arguments))
        .await?
        .refused(400, "22023")?;
    let path = format!("/rpc/log_in?login_id={HANAKO}&password=wrong");
    let got = Answer::of(world.request(Method::GET, "", &path)).await?;
    assert_eq!(got.status, 405);
    // without a token nothing else is open
    for function in [
        "spend",
        "grant",
        "change_password",
        "unlock_identity",
        "approve_application",
    ] {
        world
            .rpc("", function, json!({}))
            .await?
            .refused(401, "LY009")?;
    }
    world
        .get("", "/login_application")
        .await?
        .refused(401, "LY009")?;
    Ok(())
}
