//! Rotation of the signing key and the pepper: two keys are good for a time.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use loyalty_testkit::TestServer;
use loyalty_testkit::os::Owner;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::mailbox::Mailbox;
use crate::world::{PASSWORD, PATIENCE, Session, World};

const HANAKO: &str = "hanako@example.com";

/// The keys of one test's database.
struct Keys {
    owner: Owner,
    dir: PathBuf,
}

impl Keys {
    /// Writes a file anew, as an operator does: the first key is the one in use.
    fn write(&self, file: &str, keys: &[&Value]) -> Result<()> {
        let set = json!({ "keys": keys });
        self.owner
            .private_file(&self.dir.join(file), &set.to_string())
    }
}

fn key(id: &str) -> Result<Value> {
    let set: Value = serde_json::from_str(&loyalty_secret::key::generate(id)?)?;
    Ok(set["keys"][0].clone())
}

/// The header's kid.
fn kid(token: &str) -> Result<String> {
    jsonwebtoken::decode_header(token)?.kid.context("no kid")
}

impl World {
    /// PostgREST reads its settings again, as it does at the notification.
    async fn reload_until(&self, token: &str, status: u16) -> Result<()> {
        self.sql
            .batch_execute("notify pgrst, 'reload config'")
            .await?;
        let until = Instant::now() + PATIENCE;
        while self.get(token, "/balance").await?.status != status {
            ensure!(Instant::now() < until, "the reload has no effect");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

#[tokio::test]
async fn signing_keys_rotate_while_tokens_of_both_are_good() -> Result<()> {
    let mut world = World::start("rotate").await?;
    let server = TestServer::get()?;
    let keys = Keys {
        owner: Owner::current()?,
        dir: server.dir.join(format!("{}-keys", world.db.name())),
    };
    keys.owner.private_dir(&keys.dir)?;
    let (old, new) = (key("2025")?, key("2026")?);
    let pepper = key("one")?;
    keys.write("jwt.json", &[&old])?;
    keys.write("pepper.json", &[&pepper])?;
    world
        .sql
        .batch_execute(&format!(
            "alter database {} set loyalty.secret_dir = '{dir}'; set loyalty.secret_dir = '{dir}'",
            world.db.name(),
            dir = keys.dir.display()
        ))
        .await?;
    let jwt_secret = format!("@{}", keys.dir.join("jwt.json").display());
    world.api = world.db.api_with_secret(&jwt_secret).await?;
    // a relay that was connected already makes its links with the keys of before
    world.mailbox = Mailbox::open(&world.db).await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let first = world.logged_in(HANAKO, "coin").await?;
    assert_eq!(kid(&first.access)?, "2025");
    world.get(&first.access, "/balance").await?.ok()?;
    // a tool signs with the new key already; nobody believes it yet
    let secret = loyalty_secret::key::read(&json!({ "keys": [new] }).to_string())?;
    let claims = json!({ "role": "loyalty_admin", "program": "coin", "exp": 4_000_000_000u64 });
    let claims = claims.as_object().context("claims")?;
    let early = loyalty_secret::token::sign(&secret[0], claims);
    assert_eq!(world.get(&early, "/balance").await?.status, 401);

    // 1. the new key is believed, and the old one still signs
    keys.write("jwt.json", &[&old, &new])?;
    world.reload_until(&early, 200).await?;
    let second = world.logged_in(HANAKO, "coin").await?;
    assert_eq!(kid(&second.access)?, "2025");
    // 2. the new one signs, without a restart of the server, and the old one's tokens go on
    keys.write("jwt.json", &[&new, &old])?;
    let third = world.logged_in(HANAKO, "coin").await?;
    assert_eq!(kid(&third.access)?, "2026");
    for session in [&first, &second, &third] {
        world.get(&session.access, "/balance").await?.ok()?;
    }
    // 3. the old one's time is over: refresh tokens bring tokens of the new one
    keys.write("jwt.json", &[&new])?;
    world.reload_until(&first.access, 401).await?;
    let arguments = json!({ "refresh_token": first.refresh });
    let first = Session::of(world.rpc("", "refresh", arguments).await?.ok()?)?;
    assert_eq!(kid(&first.access)?, "2026");
    for session in [&first, &third] {
        world.get(&session.access, "/balance").await?.ok()?;
    }

    // the pepper: what was hashed or mailed with the old one is good while it is there
    let asked = json!({ "login_id": HANAKO, "program": "coin" });
    let asked = world.rpc("", "request_password_reset", asked).await?.ok()?;
    let token = world.mail_to(HANAKO).await?.token()?;
    let newer = key("two")?;
    keys.write("pepper.json", &[&newer, &pepper])?;
    let arguments = json!({
        "token": token, "screen_key": asked["screen_key"],
        "password": "another2027", "password_again": "another2027",
    });
    // sessions end with the password, so a refresh first; also one whose answer was lost before
    let lost = Session::of(world.refresh(&first.refresh).await?.ok()?)?;
    keys.write("pepper.json", &[&key("between")?, &newer, &pepper])?;
    let again = Session::of(world.refresh(&first.refresh).await?.ok()?)?;
    assert_eq!(again.refresh, lost.refresh);
    keys.write("pepper.json", &[&newer, &pepper])?;
    let third = json!({ "refresh_token": third.refresh });
    let third = Session::of(world.rpc("", "refresh", third).await?.ok()?)?;
    world.rpc("", "reset_password", arguments).await?.ok()?;
    let fourth = world.log_in(HANAKO, "another2027", "coin").await?.ok()?;
    let fourth = Session::of(fourth)?;
    // both peppers gone but the newest: refresh tokens of the old one are nothing
    let fifth = Session::of(world.log_in(HANAKO, "another2027", "coin").await?.ok()?)?;
    let newest = key("three")?;
    keys.write("pepper.json", &[&newest])?;
    for session in [&third, &fourth, &fifth] {
        let arguments = json!({ "refresh_token": session.refresh });
        world
            .rpc("", "refresh", arguments)
            .await?
            .refused(401, "LY009")?;
    }
    // passwords do not need it
    Session::of(world.log_in(HANAKO, "another2027", "coin").await?.ok()?)?;
    world
        .log_in(HANAKO, PASSWORD, "coin")
        .await?
        .refused(401, "LY009")?;
    Ok(())
}

/// Without keys nobody logs in, and nothing says where they should be but to who may know.
#[tokio::test]
async fn without_keys_nobody_logs_in() -> Result<()> {
    let mut world = World::start("no_keys").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let nowhere = "/nowhere/to/be/found";
    world
        .sql
        .batch_execute(&format!(
            "alter database {} set loyalty.secret_dir = '{nowhere}'",
            world.db.name()
        ))
        .await?;
    world.api = world.db.api().await?;
    let answer = world.log_in(HANAKO, PASSWORD, "coin").await?;
    ensure!(
        answer.status == 500 || answer.status == 503,
        "{} {}",
        answer.status,
        answer.text
    );
    ensure!(!answer.text.contains(nowhere), "{}", answer.text);
    // only a superuser says where they are
    let operator = world.db.connect_as("loyalty_operator").await?;
    operator.batch_execute("select loyalty.now()").await?;
    for statement in ["set loyalty.secret_dir = '/tmp'", "show loyalty.secret_dir"] {
        let refused = operator.batch_execute(statement).await.err();
        let code = refused.as_ref().and_then(|error| error.code());
        assert_eq!(code.map(|code| code.code()), Some("42501"), "{statement}");
    }
    Ok(())
}

/// A new pepper gives nobody new tries: what was counted under the old one goes on, for whatever
/// was guessed at, known or not, and for the client's address.
#[tokio::test]
async fn counts_of_wrong_passwords_outlive_a_change_of_the_pepper() -> Result<()> {
    let world = World::start("rotate_count").await?;
    let server = TestServer::get()?;
    let keys = Keys {
        owner: Owner::current()?,
        dir: server.dir.join(format!("{}-keys", world.db.name())),
    };
    keys.owner.private_dir(&keys.dir)?;
    let (old, new) = (key("old")?, key("new")?);
    keys.write("jwt.json", &[&key("2025")?])?;
    keys.write("pepper.json", &[&old])?;
    let dir = keys.dir.display();
    world
        .sql
        .batch_execute(&format!("set loyalty.secret_dir = '{dir}'"))
        .await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let guess = async |login_id: &str| {
        let guess = "select loyalty.log_in($1, 'coin2026abd', 'coin') ->> 'code'";
        let refused = world.sql.query_one(guess, &[&login_id]).await?;
        let wait_out = "update loyalty_private.throttle set blocked_until = loyalty.now()
                         where blocked_until < 'infinity'";
        world.sql.batch_execute(wait_out).await?;
        anyhow::Ok(refused.get::<_, String>(0))
    };
    let nobody = "nobody@example.com";
    for login_id in [HANAKO, nobody] {
        for _ in 0..9 {
            assert_eq!(guess(login_id).await?, "LY009");
        }
    }
    let locked = "locked@example.com";
    for _ in 0..10 {
        assert_eq!(guess(locked).await?, "LY009");
    }
    let failures = "select failures from loyalty_private.throttle where scope = 'address'";
    let from_here: i32 = world.sql.query_one(failures, &[]).await?.get(0);
    assert_eq!(from_here, 28);

    keys.write("pepper.json", &[&new, &old])?;
    assert_eq!(guess(locked).await?, "LY008");
    for login_id in [HANAKO, nobody] {
        assert_eq!(guess(login_id).await?, "LY009");
        assert_eq!(guess(login_id).await?, "LY008");
    }
    let from_here: i32 = world.sql.query_one(failures, &[]).await?.get(0);
    assert_eq!(from_here, 30);
    // nothing is counted under the old one any more, which may go
    keys.write("pepper.json", &[&new])?;
    for login_id in [HANAKO, nobody, locked] {
        assert_eq!(guess(login_id).await?, "LY008");
    }
    std::fs::remove_dir_all(&keys.dir)?;
    Ok(())
}
