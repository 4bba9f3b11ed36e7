//! Logins once they are there: how long they go on, refresh, and how they end (C9).

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use loyalty_testkit::Api;
use loyalty_testkit::http::Answer;
use serde_json::json;

use crate::world::{PASSWORD, Session, World};

const HANAKO: &str = "hanako@example.com";

impl World {
    pub async fn logged_in(&self, login_id: &str, program: &str) -> Result<Session> {
        Session::of(self.log_in(login_id, PASSWORD, program).await?.ok()?)
    }

    pub async fn refresh(&self, refresh_token: &str) -> Result<Answer> {
        let arguments = json!({ "refresh_token": refresh_token });
        self.rpc("", "refresh", arguments).await
    }

    /// The same through another PostgREST.
    async fn refresh_at(&self, api: &Api, refresh_token: &str) -> Result<Answer> {
        let request = self.post_at(api, "", "refresh");
        Answer::of(request.json(&json!({ "refresh_token": refresh_token }))).await
    }

    /// Whether a token still opens the account.
    pub async fn opens(&self, session: &Session) -> Result<bool> {
        let answer = self.get(&session.access, "/balance").await?;
        match answer.status {
            200 => Ok(answer.ok()?[0]["available"] == 1000),
            _ => answer.refused(401, "LY009").map(|_| false),
        }
    }
}

/// C9: remember-me is a longer life; each refresh begins it anew.
#[tokio::test]
async fn c9_a_remembered_login_lasts_longer() -> Result<()> {
    let mut world = World::start("remember").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let short = world.logged_in(HANAKO, "coin").await?;
    let arguments = json!({ "login_id": HANAKO, "password": PASSWORD, "remember": true });
    let long = Session::of(world.rpc("", "log_in", arguments).await?.ok()?)?;
    let lives =
        "select string_agg((s.expires_at - s.started_at)::text, ' ' order by s.is_remembered)
                   from loyalty_private.session s";
    // to the microsecond, but for the time between two looks at the clock
    let lives = world.one(lives).await?;
    ensure!(
        lives.contains("12:00:00") && lives.contains("60 days"),
        "{lives}"
    );
    world.pass("11 hours").await?;
    ensure!(world.opens(&short).await?);
    let short = Session::of(world.refresh(&short.refresh).await?.ok()?)?;
    world.pass("11 hours").await?;
    let short = Session::of(world.refresh(&short.refresh).await?.ok()?)?;
    world.pass("13 hours").await?;
    ensure!(!world.opens(&short).await?);
    world.refresh(&short.refresh).await?.refused(401, "LY009")?;
    world.pass("57 days").await?;
    let long = Session::of(world.refresh(&long.refresh).await?.ok()?)?;
    ensure!(world.opens(&long).await?);
    world.pass("61 days").await?;
    ensure!(!world.opens(&long).await?);
    world.refresh(&long.refresh).await?.refused(401, "LY009")?;
    Ok(())
}

#[tokio::test]
async fn a_program_sets_how_long_tokens_and_sessions_last() -> Result<()> {
    let world = World::start("login_life").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    world
        .sql
        .batch_execute(
            "select loyalty.set_access_policy('coin', token_life => '2 minutes', session_life => '20 minutes')",
        )
        .await?;
    let session = world.logged_in(HANAKO, "coin").await?;
    assert_eq!(session.body["expires_in"], 120);
    let life =
        "select s.expires_at - s.started_at < interval '21 minutes' from loyalty_private.session s";
    assert_eq!(world.one(life).await?, "(t)");
    Ok(())
}

/// Refresh tokens rotate. One that comes again after a while was stolen, from whomever.
#[tokio::test]
async fn a_refresh_token_is_good_once() -> Result<()> {
    let mut world = World::start("refresh").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let other_device = world.logged_in(HANAKO, "coin").await?;
    let first = world.logged_in(HANAKO, "coin").await?;
    let second = Session::of(world.refresh(&first.refresh).await?.ok()?)?;
    assert_eq!(second.body["session_id"], first.body["session_id"]);
    ensure!(second.refresh != first.refresh);
    let third = Session::of(world.refresh(&second.refresh).await?.ok()?)?;
    ensure!(world.opens(&first).await? && world.opens(&third).await?);
    // an old one ends all of this login, and nothing of the other
    world.pass("31 seconds").await?;
    let body = world.refresh(&first.refresh).await?.refused(401, "LY009")?;
    for session in [&first, &second, &third] {
        ensure!(!world.opens(session).await?);
        assert_eq!(
            world
                .refresh(&session.refresh)
                .await?
                .refused(401, "LY009")?,
            body
        );
    }
    ensure!(world.opens(&other_device).await?);
    let audited = "select a.outcome, a.details ->> 'session_id' from loyalty.audit a where a.action = 'refresh'";
    let session_id = first.body["session_id"].as_str().context("session_id")?;
    assert_eq!(world.one(audited).await?, format!("(refused,{session_id})"));
    // nobody's
    assert_eq!(
        world.refresh("no token").await?.refused(401, "LY009")?,
        body
    );
    world
        .rpc("", "refresh", json!({ "refresh_token": null }))
        .await?
        .refused(400, "22004")?;
    Ok(())
}

/// Two tabs, or many, refresh at once, through one pool of connections or two: all get the same new
/// token, each an access token, and the login goes on.
#[tokio::test]
async fn refreshes_at_once_get_the_same_new_token() -> Result<()> {
    let world = World::start("refresh_race").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let other_pool = world.db.api().await?;
    for number in [2, 10, 50] {
        let first = world.logged_in(HANAKO, "coin").await?;
        let mut newest = first.refresh.clone();
        for round in 1..=2 {
            let sessions = try_join_all((0..number).map(async |tab| {
                let api = if tab % 2 == 0 {
                    &world.api
                } else {
                    &other_pool
                };
                let answer = world.refresh_at(api, &newest).await?;
                Session::of(answer.ok()?)
            }))
            .await?;
            let tokens: BTreeSet<_> = sessions.iter().map(|session| &session.refresh).collect();
            assert_eq!(tokens.len(), 1, "{number} at once");
            for session in &sessions {
                ensure!(session.refresh != newest);
                ensure!(world.opens(session).await?);
            }
            newest = sessions[0].refresh.clone();
            // no tree grows: one token a generation
            let kept = format!(
                "select count(*), count(*) filter (where t.used_at is null) from loyalty_private.refresh_token t
                  where t.session_id = '{}'",
                first.body["session_id"].as_str().context("session_id")?
            );
            assert_eq!(world.one(&kept).await?, format!("({},1)", round + 1));
        }
        ensure!(world.opens(&first).await?);
    }
    Ok(())
}

/// An answer is lost, once or more, also in the middle: the same token gives the same new one, until
/// its seconds are over.
#[tokio::test]
async fn a_lost_answer_to_a_refresh_is_asked_for_again() -> Result<()> {
    let mut world = World::start("refresh_lost").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let first = world.logged_in(HANAKO, "coin").await?;
    for millis in [1, 5, 20] {
        let lost =
            tokio::time::timeout(Duration::from_millis(millis), world.refresh(&first.refresh));
        // whether or not it had an answer by then
        drop(lost.await);
    }
    let second = Session::of(world.refresh(&first.refresh).await?.ok()?)?;
    world.pass("29 seconds").await?;
    let again = Session::of(world.refresh(&first.refresh).await?.ok()?)?;
    assert_eq!(again.refresh, second.refresh);
    ensure!(world.opens(&again).await?);
    // it does not keep the session alive
    let used = "select count(distinct s.used_at) from loyalty_private.session s
                 where s.used_at > loyalty.now() - interval '29 seconds'";
    assert_eq!(world.one(used).await?, "(0)");
    // a tab that comes late, when the new one was used already, gets what followed it
    let third = Session::of(world.refresh(&second.refresh).await?.ok()?)?;
    let late = Session::of(world.refresh(&first.refresh).await?.ok()?)?;
    assert_eq!(late.refresh, third.refresh);
    // each token has its own seconds: the first one's are over, the second one's not
    world.pass("20 seconds").await?;
    let second_again = Session::of(world.refresh(&second.refresh).await?.ok()?)?;
    assert_eq!(second_again.refresh, third.refresh);
    let fourth = Session::of(world.refresh(&third.refresh).await?.ok()?)?;
    ensure!(world.opens(&fourth).await?);
    world.refresh(&first.refresh).await?.refused(401, "LY009")?;
    ensure!(!world.opens(&fourth).await?);
    Ok(())
}

/// A thief is quicker, and the person comes later, or the other way round: the login is over for both.
#[tokio::test]
async fn a_stolen_refresh_token_ends_the_login() -> Result<()> {
    let mut world = World::start("refresh_theft").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    for seconds in ["30 seconds", "10 minutes"] {
        let stolen = world.logged_in(HANAKO, "coin").await?;
        let thief = Session::of(world.refresh(&stolen.refresh).await?.ok()?)?;
        world.pass(seconds).await?;
        ensure!(world.opens(&thief).await?);
        world
            .refresh(&stolen.refresh)
            .await?
            .refused(401, "LY009")?;
        ensure!(!world.opens(&thief).await?);
        world.refresh(&thief.refresh).await?.refused(401, "LY009")?;
    }
    // both got the new one in time: the second to use it comes too late
    let stolen = world.logged_in(HANAKO, "coin").await?;
    let person = Session::of(world.refresh(&stolen.refresh).await?.ok()?)?;
    let thief = Session::of(world.refresh(&stolen.refresh).await?.ok()?)?;
    world.pass("9 minutes").await?;
    let person = Session::of(world.refresh(&person.refresh).await?.ok()?)?;
    world.pass("1 minute").await?;
    world.refresh(&thief.refresh).await?.refused(401, "LY009")?;
    ensure!(!world.opens(&person).await?);
    Ok(())
}

/// The new token is made, not stored; neither a role nor who reads the tables gets it.
#[tokio::test]
async fn a_refresh_token_to_be_given_again_is_not_stored() -> Result<()> {
    let world = World::start("refresh_stored").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let first = world.logged_in(HANAKO, "coin").await?;
    let second = Session::of(world.refresh(&first.refresh).await?.ok()?)?;
    ensure!(second.refresh.len() == 43, "{}", second.refresh);
    let stored = world
        .one(
            "select (select string_agg(t::text, ' ') from loyalty_private.refresh_token t) ||
                     (select string_agg(s::text, ' ') from loyalty_private.session s) ||
                     (select string_agg(d::text, ' ') from loyalty_private.device d)",
        )
        .await?;
    let device = first.body["device_token"]
        .as_str()
        .context("device_token")?;
    for secret in [&first.refresh, &second.refresh, device] {
        ensure!(!stored.contains(secret), "{secret} is stored");
    }
    Ok(())
}

#[tokio::test]
async fn logging_out_takes_effect_at_the_next_request() -> Result<()> {
    let world = World::start("logout").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    world.enrol(&world.taro, Some("taro@example.com")).await?;
    let mut sessions = Vec::new();
    for device in ["phone", "desk", "tablet", "shared"] {
        let request = world.post("", "log_in").header("User-Agent", device);
        let request = request.header(
            "X-Forwarded-For",
            format!("192.0.2.9, 198.51.100.{}", sessions.len()),
        );
        let arguments = json!({ "login_id": HANAKO, "password": PASSWORD });
        sessions.push(Session::of(
            Answer::of(request.json(&arguments)).await?.ok()?,
        )?);
    }
    let [phone, desk, tablet, shared] = &sessions[..] else {
        anyhow::bail!("four sessions");
    };
    let taro = world.logged_in("taro@example.com", "coin").await?;
    // one's own, and nobody else's
    let own = world.get(&desk.access, "/rpc/own_sessions").await?.ok()?;
    let own = own["sessions"].as_array().context("sessions")?;
    assert_eq!(own.len(), 4);
    let this = own.iter().filter(|session| session["is_this"] == true);
    let this: Vec<_> = this.map(|session| &session["device"]).collect();
    assert_eq!(this, ["desk"]);
    let phones = own
        .iter()
        .find(|session| session["device"] == "phone")
        .context("phone")?;
    assert_eq!(phones["address"], "198.51.100.0");
    assert_eq!(phones["session_id"], phone.body["session_id"]);
    // this one
    assert_eq!(
        world
            .rpc(&shared.access, "log_out", json!({}))
            .await?
            .ok()?,
        json!({ "ended": 1 })
    );
    ensure!(!world.opens(shared).await?);
    world
        .rpc(&shared.access, "log_out", json!({}))
        .await?
        .refused(401, "LY009")?;
    world
        .refresh(&shared.refresh)
        .await?
        .refused(401, "LY009")?;
    // another one, but not somebody else's
    let end = async |session: &Session| {
        let arguments = json!({ "session_id": session.body["session_id"] });
        world.rpc(&desk.access, "end_session", arguments).await
    };
    end(phone).await?.ok()?;
    ensure!(!world.opens(phone).await?);
    end(phone).await?.refused(404, "LY002")?;
    end(&taro).await?.refused(404, "LY002")?;
    ensure!(world.opens(&taro).await?);
    // all of them
    let ended = world
        .rpc(&desk.access, "log_out_everywhere", json!({}))
        .await?
        .ok()?;
    assert_eq!(ended, json!({ "ended": 2 }));
    for session in [desk, tablet] {
        ensure!(!world.opens(session).await?);
        world
            .refresh(&session.refresh)
            .await?
            .refused(401, "LY009")?;
    }
    ensure!(world.opens(&taro).await?);
    let audited = "select string_agg(a.action, ' ' order by a.audit_id) from loyalty.audit a
                    where a.action ~ '(log_out|end_session)'";
    assert_eq!(
        world.one(audited).await?,
        "(\"log_out end_session log_out_everywhere\")"
    );
    // tokens without a login, and nobody
    world
        .rpc(&world.admin("coin")?, "log_out", json!({}))
        .await?
        .refused(403, "LY010")?;
    for call in ["log_out", "log_out_everywhere", "own_sessions"] {
        world
            .rpc("", call, json!({}))
            .await?
            .refused(401, "LY009")?;
    }
    Ok(())
}

#[tokio::test]
async fn a_suspended_person_is_out_at_the_next_request() -> Result<()> {
    let world = World::start("suspended").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let session = world.logged_in(HANAKO, "coin").await?;
    let act = async |token: &str, call: &str| {
        world
            .rpc(
                token,
                call,
                json!({ "login_id": HANAKO, "reason": "asked to" }),
            )
            .await
    };
    let admin = world.admin("coin")?;
    act(&session.access, "suspend_identity")
        .await?
        .refused(403, "LY010")?;
    act(&world.admin("mile")?, "suspend_identity")
        .await?
        .refused(404, "LY002")?;
    act(&admin, "suspend_identity").await?.ok()?;
    ensure!(!world.opens(&session).await?);
    world
        .refresh(&session.refresh)
        .await?
        .refused(401, "LY009")?;
    world
        .log_in(HANAKO, PASSWORD, "coin")
        .await?
        .refused(403, "LY010")?;
    act(&admin, "resume_identity").await?.ok()?;
    act(&admin, "resume_identity")
        .await?
        .refused(400, "22023")?;
    let session = world.logged_in(HANAKO, "coin").await?;
    // who is in another program too is the operators'
    world
        .sql
        .batch_execute(&format!(
            "select loyalty.give_role('mile', '{HANAKO}', 'granter');
             select loyalty.give_role('mile', '{HANAKO}', 'admin')"
        ))
        .await?;
    world.join(HANAKO, &world.hanako_mile).await?;
    act(&admin, "close_identity").await?.refused(403, "LY010")?;
    let by_operator = json!({ "login_id": HANAKO, "program": "coin" });
    world
        .rpc(&world.operator()?, "close_identity", by_operator)
        .await?
        .ok()?;
    ensure!(!world.opens(&session).await?);
    world
        .log_in(HANAKO, PASSWORD, "coin")
        .await?
        .refused(401, "LY009")?;
    // points stay, and the ID is free
    assert_eq!(
        world
            .one(&format!(
                "select available from loyalty.balance({})",
                world.hanako.account_id
            ))
            .await?,
        "(1000)"
    );
    world.enrol(&world.taro, Some(HANAKO)).await?;
    world.logged_in(HANAKO, "coin").await?;
    Ok(())
}

#[tokio::test]
async fn a_password_is_changed_by_who_knows_it() -> Result<()> {
    let world = World::start("change").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let here = world.logged_in(HANAKO, "coin").await?;
    let there = world.logged_in(HANAKO, "coin").await?;
    let change = async |old: &str, new: &str| {
        let arguments = json!({ "old_password": old, "new_password": new });
        world.rpc(&here.access, "change_password", arguments).await
    };
    change("coin2026abd", "other2027")
        .await?
        .refused(401, "LY009")?;
    // C12: the program's rule
    for bad in [
        "abcdefg12",
        "1234567a",
        "a1b2c3",
        "abc!12345",
        "ａｂ12345678",
    ] {
        change(PASSWORD, bad).await?.refused(400, "22023")?;
    }
    change(PASSWORD, "other2027").await?.ok()?;
    ensure!(world.opens(&here).await? && !world.opens(&there).await?);
    world
        .log_in(HANAKO, PASSWORD, "coin")
        .await?
        .refused(401, "LY009")?;
    world.log_in(HANAKO, "other2027", "coin").await?.ok()?;
    let mail = world.mail_to(HANAKO).await?;
    ensure!(
        mail.link().is_err() && !mail.text.contains("other2027"),
        "{mail:?}"
    );
    Ok(())
}
