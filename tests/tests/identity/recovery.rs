//! Forgotten passwords (A6, C12), with the mails as people get them.

use anyhow::{Context, Result, ensure};
use loyalty_testkit::http::Answer;
use loyalty_tests::until_one_waits;
use serde_json::json;

use crate::world::{PASSWORD, World};

const HANAKO: &str = "hanako@example.com";
pub const NEW: &str = "another2027";

impl World {
    pub async fn forgot(&self, login_id: &str, program: &str) -> Result<Answer> {
        let arguments = json!({ "login_id": login_id, "program": program });
        self.rpc("", "request_password_reset", arguments).await
    }

    /// The four digits on the screen, and the token of the mail.
    async fn begin_reset(&self, login_id: &str) -> Result<(String, String)> {
        let asked = self.forgot(login_id, "coin").await?.ok()?;
        let key = asked["screen_key"].as_str().context("screen_key")?;
        Ok((key.to_owned(), self.mail_to(login_id).await?.token()?))
    }

    async fn reset(&self, token: &str, key: &str, password: &str) -> Result<Answer> {
        let arguments = json!({
            "token": token, "screen_key": key, "password": password, "password_again": password,
        });
        self.rpc("", "reset_password", arguments).await
    }

    pub async fn accept(&self, token: &str) -> Result<Answer> {
        let arguments = json!({ "token": token, "password": NEW, "password_again": NEW });
        self.rpc("", "accept_login", arguments).await
    }
}

/// Other four digits than these.
fn wrong(key: &str) -> &'static str {
    if key == "0000" { "0001" } else { "0000" }
}

/// A6, C12: the guide's steps, in its order.
#[tokio::test]
async fn a6_c12_a_forgotten_password_is_set_anew() -> Result<()> {
    let world = World::start("reset").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let session = world.logged_in(HANAKO, "coin").await?;
    // the login ID is entered: four digits on the screen, a link by mail
    let (key, token) = world.begin_reset(HANAKO).await?;
    ensure!(
        key.len() == 4 && key.bytes().all(|b| b.is_ascii_digit()),
        "{key}"
    );
    // the link is opened; digits and the password twice
    let twice = json!({ "token": token, "screen_key": key, "password": NEW, "password_again": "another2028" });
    world
        .rpc("", "reset_password", twice)
        .await?
        .refused(400, "22023")?;
    // ASCII letters and digits only, at least two letters and three digits
    for bad in [
        "another27",
        "12345678a",
        "abc123",
        "another_2027",
        "another２０２７",
        HANAKO,
    ] {
        world
            .reset(&token, &key, bad)
            .await?
            .refused(400, "22023")?;
    }
    world
        .reset(&token, wrong(&key), NEW)
        .await?
        .refused(401, "LY009")?;
    world
        .log_in(HANAKO, NEW, "coin")
        .await?
        .refused(401, "LY009")?;
    world.reset(&token, &key, NEW).await?.ok()?;
    world
        .log_in(HANAKO, PASSWORD, "coin")
        .await?
        .refused(401, "LY009")?;
    world.log_in(HANAKO, NEW, "coin").await?.ok()?;
    // single use
    world
        .reset(&token, &key, "another2029")
        .await?
        .refused(401, "LY009")?;
    // whoever was in is out, and the person hears of it
    world
        .get(&session.access, "/balance")
        .await?
        .refused(401, "LY009")?;
    let told = world.mail_to(HANAKO).await?;
    ensure!(told.link().is_err() && !told.text.contains(NEW), "{told:?}");
    let audited = "select string_agg(a.action || ' ' || a.outcome, ', ' order by a.audit_id)
                     from loyalty.audit a where a.action like '%password%'";
    assert_eq!(
        world.one(audited).await?,
        "(\"request_password_reset done, reset_password refused, reset_password done\")"
    );
    Ok(())
}

/// C12 by short message, where the login ID is a mobile number.
/// C12: whoever got past the old password while it is replaced has no session of it.
#[tokio::test]
async fn c12_a_login_under_way_does_not_outlive_the_password() -> Result<()> {
    let world = World::start("reset_race").await?;
    let identity_id = world.enrol(&world.hanako, Some(HANAKO)).await?;
    let replacing = world.db.connect().await?;
    replacing.batch_execute("begin").await?;
    let replace = "select loyalty_private.replace_password($1, loyalty.program_id('coin'), $2)";
    replacing.execute(replace, &[&identity_id, &NEW]).await?;
    let (answer, committed) = tokio::join!(world.log_in(HANAKO, PASSWORD, "coin"), async {
        until_one_waits(&world.sql).await?;
        anyhow::Ok(replacing.batch_execute("commit").await?)
    });
    committed?;
    answer?.refused(401, "LY009")?;
    let sessions = "select count(*) from loyalty_private.session where ended_at is null";
    ensure!(world.one(sessions).await? == "(0)");
    world.log_in(HANAKO, NEW, "coin").await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn c12_the_link_comes_by_short_message() -> Result<()> {
    let world = World::start("reset_sms").await?;
    world.enrol(&world.hanako, Some("090-1234-5678")).await?;
    let asked = world.forgot("０９０-1234-5678", "coin").await?.ok()?;
    let key = asked["screen_key"].as_str().context("screen_key")?;
    let token = world.mail_to("+819012345678").await?.token()?;
    world.reset(&token, key, NEW).await?.ok()?;
    world.log_in("+81 90 1234 5678", NEW, "coin").await?.ok()?;
    Ok(())
}

/// S8: who has no login ID is reached at the address of the member record.
#[tokio::test]
async fn s8_c12_a_member_number_is_enough_to_begin() -> Result<()> {
    let world = World::start("reset_member_no").await?;
    world.enrol(&world.zoe, None).await?;
    world
        .sql
        .batch_execute("select loyalty.set_member('mile', 'Z-1', email => 'zoe@example.com')")
        .await?;
    let asked = world.forgot("Z-1", "mile").await?.ok()?;
    let key = asked["screen_key"].as_str().context("screen_key")?;
    let token = world.mail_to("zoe@example.com").await?.token()?;
    world.reset(&token, key, NEW).await?.ok()?;
    world.log_in("Z-1", NEW, "mile").await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn c12_a_reset_is_good_for_fifteen_minutes() -> Result<()> {
    let mut world = World::start("reset_late").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let (key, token) = world.begin_reset(HANAKO).await?;
    world.pass("14 minutes 30 seconds").await?;
    world
        .reset(&token, wrong(&key), NEW)
        .await?
        .refused(401, "LY009")?;
    world.pass("31 seconds").await?;
    world
        .reset(&token, &key, NEW)
        .await?
        .refused(401, "LY009")?;
    world.logged_in(HANAKO, "coin").await?;
    Ok(())
}

#[tokio::test]
async fn c12_five_wrong_keys_end_the_link() -> Result<()> {
    let world = World::start("reset_tries").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let (key, token) = world.begin_reset(HANAKO).await?;
    for given in [wrong(&key), "", "12345", "'; select", wrong(&key)] {
        world
            .reset(&token, given, NEW)
            .await?
            .refused(401, "LY009")?;
    }
    world
        .reset(&token, &key, NEW)
        .await?
        .refused(401, "LY009")?;
    // nor do keys at once slip past that
    let (key, token) = world.begin_reset(HANAKO).await?;
    let tries = (0..30).map(|_| world.reset(&token, wrong(&key), NEW));
    for answer in futures_util::future::try_join_all(tries).await? {
        answer.refused(401, "LY009")?;
    }
    let failures = "select string_agg(c.failures::text, ' ' order by c.created_at) from loyalty_private.challenge c";
    assert_eq!(world.one(failures).await?, "(\"5 5\")");
    Ok(())
}

#[tokio::test]
async fn c12_only_the_newest_link_is_good_and_only_with_its_key() -> Result<()> {
    let world = World::start("reset_newest").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    world.enrol(&world.taro, Some("taro@example.com")).await?;
    let (old_key, old_token) = world.begin_reset(HANAKO).await?;
    let (key, token) = world.begin_reset(HANAKO).await?;
    let (taro_key, taro_token) = world.begin_reset("taro@example.com").await?;
    world
        .reset(&old_token, &old_key, NEW)
        .await?
        .refused(401, "LY009")?;
    // the same digits by chance would prove nothing
    if key != taro_key {
        world
            .reset(&token, &taro_key, NEW)
            .await?
            .refused(401, "LY009")?;
        world
            .reset(&taro_token, &key, NEW)
            .await?
            .refused(401, "LY009")?;
    }
    // a token for something else opens no reset
    world
        .rpc("", "unlock", json!({ "token": token }))
        .await?
        .refused(401, "LY009")?;
    world.accept(&token).await?.refused(401, "LY009")?;
    world.reset(&token, &key, NEW).await?.ok()?;
    world.reset(&taro_token, &taro_key, NEW).await?.ok()?;
    Ok(())
}

/// Nobody learns whether a login ID exists.
#[tokio::test]
async fn an_unknown_login_id_gets_the_same_answers() -> Result<()> {
    let world = World::start("reset_unknown").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let shape = |answer: &Answer| -> Result<(u16, Vec<String>, usize)> {
        let body = answer.json()?;
        let names = body
            .as_object()
            .context("no object")?
            .keys()
            .cloned()
            .collect();
        let digits = body["screen_key"].as_str().map_or(0, str::len);
        Ok((answer.status, names, digits))
    };
    let known = world.forgot(HANAKO, "coin").await?;
    let unknown = world.forgot("nobody@example.com", "coin").await?;
    // known, but not there
    let elsewhere = world.forgot(HANAKO, "mile").await?;
    known.ok()?;
    assert_eq!(shape(&known)?, shape(&unknown)?);
    assert_eq!(shape(&known)?, shape(&elsewhere)?);
    // the fourth is one too many, for whomever
    world.forgot(HANAKO, "coin").await?.ok()?;
    world.forgot("nobody@example.com", "coin").await?.ok()?;
    world.forgot("nobody@example.com", "coin").await?.ok()?;
    for login_id in [HANAKO, "nobody@example.com"] {
        ensure!(world.forgot(login_id, "coin").await?.throttled()? <= 60);
    }
    world.no_mail_to("nobody@example.com").await?;
    assert_eq!(world.queued_to(HANAKO).await?, 2);
    // what is written for one is written for the other
    let challenges = "select string_agg(format('%s %s', c.is_sent, c.number), ', ' order by c.is_sent)
                        from (select c.address is not null as is_sent, count(*) as number
                                from loyalty_private.challenge c where c.purpose = 'password_reset' group by 1) c";
    assert_eq!(world.one(challenges).await?, "(\"f 4, t 2\")");
    Ok(())
}

impl World {
    /// Mails queued to an address.
    async fn queued_to(&self, address: &str) -> Result<i64> {
        let query = "select count(*) from loyalty.notice n where n.address = $1";
        Ok(self.sql.query_one(query, &[&address]).await?.get(0))
    }
}

#[tokio::test]
async fn mails_are_not_sent_as_often_as_somebody_likes() -> Result<()> {
    let mut world = World::start("reset_often").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    for _ in 0..3 {
        world.forgot(HANAKO, "coin").await?.ok()?;
    }
    ensure!(world.forgot(HANAKO, "coin").await?.throttled()? <= 60);
    let unlock = json!({ "login_id": HANAKO, "program": "coin" });
    world.rpc("", "request_unlock", unlock).await?.throttled()?;
    assert_eq!(world.queued_to(HANAKO).await?, 3);
    world.pass("61 seconds").await?;
    world.forgot(HANAKO, "coin").await?.ok()?;
    ensure!(world.forgot(HANAKO, "coin").await?.throttled()? > 60);
    Ok(())
}

/// C12: a locked account is unlocked first.
#[tokio::test]
async fn c12_who_is_locked_out_unlocks_before_resetting() -> Result<()> {
    let world = World::start("reset_locked").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let (key, token) = world.begin_reset(HANAKO).await?;
    world.lock_out(HANAKO).await?;
    world
        .reset(&token, &key, NEW)
        .await?
        .refused(403, "LY010")?;
    // another request brings a link to unlock, and says the same as ever
    let asked = world.forgot(HANAKO, "coin").await?.ok()?;
    ensure!(asked["screen_key"].is_string());
    let link = world.mail_to(HANAKO).await?.link()?;
    ensure!(
        link.starts_with("https://coin.example.com/unlock#"),
        "{link}"
    );
    let (_, token) = link.split_once('#').context("token")?;
    let screen = asked["screen_key"].as_str().unwrap_or_default();
    world
        .reset(token, screen, NEW)
        .await?
        .refused(401, "LY009")?;
    world
        .rpc("", "unlock", json!({ "token": token }))
        .await?
        .ok()?;
    let (key, token) = world.begin_reset(HANAKO).await?;
    world.reset(&token, &key, NEW).await?.ok()?;
    world.log_in(HANAKO, NEW, "coin").await?.ok()?;
    Ok(())
}

/// C12: a link meets, in slow motion, an attempt of the same person's that was counted before:
/// one waits for the other, and both come through.
#[tokio::test]
async fn c12_a_link_and_an_attempt_wait_in_one_order() -> Result<()> {
    let world = World::start("reset_order").await?;
    let person = world.enrol(&world.hanako, Some(HANAKO)).await?;
    let client = world.db.connect().await?;
    let login = format!("select from loyalty.identity where identity_id = {person} for share");
    let request = |purpose: &str| {
        format!(
            "select loyalty_private.new_challenge('{purpose}', program_id, {person}, null, null)
               from loyalty.program where code = 'coin'"
        )
    };
    for (scope, purpose, then) in [
        ("password", "password_reset", login.clone()),
        ("send", "password_reset", request("password_reset")),
        ("password", "unlock", login),
        ("send", "unlock", request("unlock")),
    ] {
        let case = format!("{scope}, {purpose}");
        // there are wrong passwords and requests to forget
        for counted in ["password", "send"] {
            let counts = format!("select loyalty_private.begin_attempt('{counted}', '{HANAKO}')");
            world.sql.batch_execute(&counts).await?;
        }
        let query = format!(
            "select loyalty_private.challenge_token(c.challenge_id) || ' ' || loyalty_private.challenge_code(c.challenge_id, 'screen', 4)
               from loyalty.program p
              cross join loyalty_private.new_challenge('{purpose}', p.program_id, {person}, null, null) c where p.code = 'coin'"
        );
        let made: String = world.sql.query_one(&query, &[]).await?.get(0);
        let (token, key) = made.split_once(' ').context("token")?;
        client
            .batch_execute(&format!(
                "begin; select loyalty_private.begin_attempt('{scope}', '{HANAKO}')"
            ))
            .await?;
        let (answer, attempt) = tokio::join!(
            async {
                match purpose {
                    "unlock" => world.rpc("", "unlock", json!({ "token": token })).await,
                    _ => world.reset(token, key, NEW).await,
                }
            },
            async {
                until_one_waits(&world.sql).await?;
                client.batch_execute(&then).await?;
                anyhow::Ok(client.batch_execute("commit").await?)
            }
        );
        attempt.context(case.clone())?;
        let answer = answer?;
        // a request that came first has ended the link
        let expected = if scope == "send" { 401 } else { 200 };
        ensure!(answer.status == expected, "{case}: {}", answer.text);
    }
    Ok(())
}
