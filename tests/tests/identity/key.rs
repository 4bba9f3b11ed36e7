//! Authentication keys (A1, A6) and access policies, as administrators set them.

use std::path::Path;

use anyhow::{Context, Result};
use loyalty_testkit::http::Answer;
use loyalty_testkit::os::Owner;
use loyalty_testkit::{FreshCluster, TestServer};
use serde_json::{Value, json};
use tokio_postgres::error::SqlState;

use crate::world::{PASSWORD, Session, World};

impl World {
    async fn try_keys(&self, key_1: &str, key_2: &str) -> Result<Answer> {
        let arguments = json!({ "organisation_id": "ACME", "key_1": key_1, "key_2": key_2 });
        self.rpc("", "begin_registration", arguments).await
    }
}

fn text<'v>(value: &'v Value, name: &str) -> Result<&'v str> {
    value[name].as_str().with_context(|| format!("no {name}"))
}

#[tokio::test]
async fn a6_lost_keys_are_issued_anew_by_an_administrator() -> Result<()> {
    let world = World::start("key_again").await?;
    let admin = world.admin("coin")?;
    let arguments = json!({ "member_no": "H-1" });
    let first = world
        .rpc(&admin, "issue_keys", arguments.clone())
        .await?
        .ok()?;
    let second = world.rpc(&admin, "issue_keys", arguments).await?.ok()?;
    for keys in [&first, &second] {
        let (key_1, key_2) = (text(keys, "key_1")?, text(keys, "key_2")?);
        assert_eq!((key_1.len(), key_2.len()), (8, 10));
        // none that people take for another
        let plain = |key: &str| key.bytes().all(|b| b"ACDEFHJKMNPQRTUVWXY3479".contains(&b));
        assert!(plain(key_1) && plain(key_2), "{keys}");
    }
    assert_ne!(first, second);
    // the handed-out ones and the first ones are good no longer
    world
        .try_keys("KH1", "secret-H1")
        .await?
        .refused(401, "LY009")?;
    let (key_1, key_2) = (text(&first, "key_1")?, text(&first, "key_2")?);
    world.try_keys(key_1, key_2).await?.refused(401, "LY009")?;
    let (key_1, key_2) = (text(&second, "key_1")?, text(&second, "key_2")?);
    world.try_keys(&key_1.to_lowercase(), key_2).await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn only_the_programs_administrators_issue_keys() -> Result<()> {
    let world = World::start("key_who").await?;
    let arguments = json!({ "member_no": "H-1" });
    let call = async |token: &str| world.rpc(token, "issue_keys", arguments.clone()).await;
    call("").await?.refused(401, "LY009")?;
    call(&world.granter("coin")?).await?.refused(403, "LY010")?;
    let id = world.hanako.account_id;
    let claims = json!({ "role": "loyalty_member", "program": "coin", "account_id": id, "exp": 4_000_000_000u64 });
    call(&world.claims(&claims)?).await?.refused(403, "LY010")?;
    // there is no such member in the other program
    call(&world.admin("mile")?).await?.refused(404, "LY002")?;
    call(&world.operator()?).await?.refused(400, "22004")?;
    let arguments = json!({ "member_no": "H-1", "program": "coin" });
    world
        .rpc(&world.operator()?, "issue_keys", arguments)
        .await?
        .ok()?;
    let mine = json!({ "member_no": "M-77", "program": "mile" });
    world
        .rpc(&world.admin("coin")?, "issue_keys", mine)
        .await?
        .refused(403, "LY010")?;
    Ok(())
}

#[tokio::test]
async fn many_members_get_keys_in_one_call() -> Result<()> {
    let world = World::start("key_many").await?;
    let admin = world.admin("coin")?;
    let items = json!([
        { "member_no": "H-1", "key_1": "００１２", "key_2": "1985" },
        { "member_no": "T-1" },
        { "member_no": "X-9" },
        { "member_no": "A-1", "key_1": "0012" },
    ]);
    let arguments = json!({ "items": items });
    let answer = world
        .rpc(&admin, "issue_many_keys", arguments)
        .await?
        .ok()?;
    let issued = |n: usize| (&answer[n]["outcome"], &answer[n]["reason"]);
    let taken = json!("key_1 is another member's");
    assert_eq!(issued(0), (&json!("refused"), &taken));
    assert_eq!(issued(1), (&json!("issued"), &Value::Null));
    assert_eq!(issued(2), (&json!("refused"), &json!("no such member")));
    assert_eq!(issued(3), (&json!("refused"), &taken));
    // who was refused keeps what there was
    world.try_keys("KH1", "secret-H1").await?.ok()?;
    world.try_keys("KA1", "secret-A1").await?.ok()?;
    let items = json!([
        { "member_no": "H-1", "key_1": "００１２", "key_2": "1985" },
        { "member_no": "A-1", "key_2": "123" },
    ]);
    let arguments = json!({ "items": items });
    let answer = world
        .rpc(&admin, "issue_many_keys", arguments)
        .await?
        .ok()?;
    assert_eq!(answer[0]["outcome"], "issued");
    assert_eq!(answer[1]["outcome"], "refused");
    assert_eq!(answer[1]["key_1"], Value::Null);
    world.try_keys("0012", "1985").await?.ok()?;
    let taken = json!({ "member_no": "A-1", "key_1": "0012" });
    world
        .rpc(&admin, "issue_keys", taken)
        .await?
        .refused(400, "22023")?;
    for wrong in [json!({ "member_no": "A-1" }), json!([1]), Value::Null] {
        let arguments = json!({ "items": wrong });
        let answer = world.rpc(&admin, "issue_many_keys", arguments).await?;
        answer.refused(400, "22023")?;
    }
    Ok(())
}

#[tokio::test]
async fn keys_and_tokens_are_stored_as_hashes_only() -> Result<()> {
    let world = World::start("key_stored").await?;
    let registration = world.begin(&world.hanako).await?;
    world
        .choose(&registration, "hanako@example.com")
        .await?
        .ok()?;
    let code = world.mail_to("hanako@example.com").await?.code()?;
    let dump = loyalty_testkit::os::run(&mut world.db.program("pg_dump"))?;
    for secret in ["secret-H1", "SECRET-H1", &registration, PASSWORD] {
        // the test's own table of members has the keys as they were handed out
        let found = dump
            .lines()
            .filter(|line| line.contains(secret) && !line.contains("山田 花子"));
        assert_eq!(found.count(), 0, "{secret}");
    }
    let stored = "select count(*) from loyalty_private.challenge c where c::text ~ $1";
    let count: i64 = world.sql.query_one(stored, &[&code]).await?.get(0);
    assert_eq!(count, 0);
    Ok(())
}

/// The peppers of a server, the one in use first.
fn set_peppers(dir: &Path, letters: &[char]) -> Result<()> {
    let key = |letter: &char| {
        // 32 bytes, as base64url
        let bytes = format!("{}A", letter.to_string().repeat(42));
        json!({ "kty": "oct", "use": "sig", "alg": "HS256", "kid": letter, "k": bytes })
    };
    let keys: Vec<Value> = letters.iter().map(key).collect();
    let set = json!({ "keys": keys }).to_string();
    Owner::current()?.private_file(&dir.join("pepper.json"), &set)
}

#[tokio::test]
async fn keys_outlive_a_change_of_the_pepper() -> Result<()> {
    let name = format!("peppers-{}", std::process::id());
    let dir = TestServer::get()?.dir.join(name);
    Owner::current()?.private_dir(&dir)?;
    set_peppers(&dir, &['C'])?;
    let settings = format!("loyalty.secret_dir = '{}'", dir.display());
    let cluster = FreshCluster::start("peppers", &settings)?;
    let sql = cluster.connect("postgres").await?;
    sql.batch_execute(
        "create extension pg_loyalty;
         select loyalty.create_program('club', 'Club');
         select loyalty.set_access_policy('club', organisation_id => 'ACME');
         select loyalty.set_member('club', 'M-1'), loyalty.set_member('club', 'M-2');
         select loyalty.issue_keys('club', 'M-1', 'K-1', 'pine-42')",
    )
    .await?;
    let begin = async || {
        let query = "select coalesce(b ->> 'code', b ->> 'program')
                       from loyalty.begin_registration('ACME', 'K-1', 'pine-42') b";
        anyhow::Ok(sql.query_one(query, &[]).await?.get::<_, String>(0))
    };
    assert_eq!(begin().await?, "club");
    // the old one is still believed, and what it hashed is still taken
    set_peppers(&dir, &['D', 'C'])?;
    assert_eq!(begin().await?, "club");
    let taken = sql
        .query("select loyalty.issue_keys('club', 'M-2', 'K-1')", &[])
        .await;
    assert_eq!(sqlstate(taken), "22023");
    set_peppers(&dir, &['D'])?;
    assert_eq!(begin().await?, "LY009");
    drop(cluster);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

fn sqlstate<T>(answer: Result<T, tokio_postgres::Error>) -> String {
    let error = answer.err();
    let code = error.as_ref().and_then(tokio_postgres::Error::code);
    code.map_or("00000", SqlState::code).to_owned()
}

#[tokio::test]
async fn an_administrator_sets_the_access_policy() -> Result<()> {
    let world = World::start("key_policy").await?;
    let admin = world.admin("coin")?;
    let set =
        async |token: &str, change: Value| world.rpc(token, "set_access_policy", change).await;
    let rows = set(
        &admin,
        json!({ "terms_version": "2027-01", "token_life": "5 minutes" }),
    )
    .await?
    .ok()?;
    assert_eq!(rows.as_array().map(Vec::len), Some(1));
    assert_eq!(rows[0]["program"], "coin");
    assert_eq!(rows[0]["terms_version"], "2027-01");
    // what was left out stays
    assert_eq!(rows[0]["organisation_id"], "ACME");
    assert_eq!(rows[0]["password_symbols"], false);
    let shown = world.get(&admin, "/access_policy").await?.ok()?;
    assert_eq!(shown, rows);
    let cleared = json!({ "clear": ["terms_url"], "family_monthly_limit": 500 });
    let rows = set(&admin, cleared).await?.ok()?;
    assert_eq!(rows[0]["terms_url"], Value::Null);
    assert_eq!(rows[0]["family_monthly_limit"], 500);
    for (change, named) in [
        (json!({ "organisation_id": "mile" }), "organisation_id"),
        (json!({ "organisation_id": " " }), "organisation_id"),
        (json!({ "terms_version": "" }), "terms_version"),
        (json!({ "terms_url": "ftp://example.com" }), "terms_url"),
        (json!({ "password_length": 5 }), "password_length"),
        (json!({ "password_letters": 33 }), "password_letters"),
        (json!({ "password_digits": -1 }), "password_digits"),
        (json!({ "token_life": "2 hours" }), "token_life"),
        (json!({ "session_life": "1 minute" }), "session_life"),
        (json!({ "remembered_life": "2 years" }), "remembered_life"),
        (json!({ "family_relations": ["Bad!"] }), "family_relations"),
        (json!({ "family_degree": 3 }), "family_degree"),
        (json!({ "family_access": "all" }), "family_access"),
        (
            json!({ "family_monthly_limit": -1 }),
            "family_monthly_limit",
        ),
        (json!({ "approval_above": -1 }), "approval_above"),
        (json!({ "clear": ["password_length"] }), "clear"),
    ] {
        let body = set(&admin, change.clone()).await?.refused(400, "22023")?;
        assert!(
            text(&body, "message")?.starts_with(named),
            "{change}: {body}"
        );
    }
    let wrong = json!({ "site_url": "https://example.com/", "program": "coin" });
    let body = set(&world.operator()?, wrong)
        .await?
        .refused(400, "22023")?;
    assert!(text(&body, "message")?.starts_with("site_url"), "{body}");
    // nobody else
    set("", json!({})).await?.refused(401, "LY009")?;
    set(&world.granter("coin")?, json!({}))
        .await?
        .refused(403, "LY010")?;
    set(&admin, json!({ "program": "mile" }))
        .await?
        .refused(403, "LY010")?;
    let other = world
        .get(&world.admin("mile")?, "/access_policy")
        .await?
        .ok()?;
    assert_eq!(other[0]["program"], "mile");
    let session = world.register(&world.ann, "ann@example.com").await?;
    let read = world.get(&session.access, "/access_policy").await?;
    read.refused(403, "LY010")?;
    Ok(())
}

#[tokio::test]
async fn what_was_done_is_in_the_audit_without_secrets() -> Result<()> {
    let world = World::start("key_audit").await?;
    world
        .try_keys("KH1", "wrong-key")
        .await?
        .refused(401, "LY009")?;
    let registration = world.begin(&world.hanako).await?;
    world
        .choose(&registration, "hanako@example.com")
        .await?
        .ok()?;
    let code = world.mail_to("hanako@example.com").await?.code()?;
    let wrong = json!({ "registration": registration, "code": "x" });
    world.rpc("", "verify_code", wrong).await?;
    let right = json!({ "registration": registration, "code": code });
    world
        .rpc_from("192.0.2.7", "", "verify_code", right)
        .await?
        .ok()?;
    let confirmed = world.confirm(&registration, &world.hanako).await?;
    Session::of(confirmed.ok()?)?;
    let lines = "select string_agg(action || ' ' || outcome, ', ' order by audit_id)
                   from loyalty.audit where actor = 'loyalty_anon'";
    assert_eq!(
        world.one(lines).await?,
        "(\"begin_registration refused, begin_registration done, choose_login done, \
         verify_code refused, verify_code done, confirm_registration done\")"
    );
    let about = "select count(*) from loyalty.audit
                  where actor = 'loyalty_anon' and account_id is distinct from
                        (select account_id from someone where member_no = 'H-1')";
    assert_eq!(world.one(about).await?, "(0)");
    let from = "select action, outcome from loyalty.audit where address = '192.0.2.7'";
    assert_eq!(world.one(from).await?, "(verify_code,done)");
    for secret in [
        registration.as_str(),
        code.as_str(),
        "wrong-key",
        "hanako@example.com",
        PASSWORD,
    ] {
        let query = "select count(*) from loyalty.audit a where strpos(a::text, $1) > 0";
        let found: i64 = world.sql.query_one(query, &[&secret]).await?.get(0);
        assert_eq!(found, 0, "{secret}");
    }
    Ok(())
}

#[tokio::test]
async fn what_nobody_needs_any_more_is_purged() -> Result<()> {
    let mut world = World::start("key_purge").await?;
    world.register(&world.hanako, "hanako@example.com").await?;
    let given_up = world.begin(&world.taro).await?;
    world.choose(&given_up, "taro@example.com").await?.ok()?;
    world.mail_to("taro@example.com").await?;
    world
        .try_keys("KA1", "wrong")
        .await?
        .refused(401, "LY009")?;
    let purge = "select string_agg(what || ' ' || purged, ', ') from loyalty.purge_access('1 day')";
    assert_eq!(
        world.one(purge).await?,
        "(\"registration 0, challenge 0, throttle 0, device 0, identity 0, session 0\")"
    );
    world.pass("2 days").await?;
    assert_eq!(
        world.one(purge).await?,
        "(\"registration 2, challenge 2, throttle 4, device 0, identity 1, session 1\")"
    );
    // who finished stays
    world
        .log_in("hanako@example.com", PASSWORD, "coin")
        .await?
        .ok()?;
    let short = world
        .sql
        .query("select loyalty.purge_access('1 hour')", &[])
        .await;
    assert_eq!(sqlstate(short), "22023");
    Ok(())
}
