//! Guessing: growing delays, the lock, its ways out, and what ten thousand guesses come to.

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use loyalty_testkit::http::Answer;
use serde_json::json;

use crate::world::{PASSWORD, Session, World};

const HANAKO: &str = "hanako@example.com";

impl World {
    async fn guess(&self, login_id: &str) -> Result<Answer> {
        self.log_in(login_id, "coin2026abd", "coin").await
    }

    /// As if all delays, but not locks, had passed.
    async fn wait_out(&self) -> Result<()> {
        let query = "update loyalty_private.throttle set blocked_until = loyalty.now()
                      where blocked_until < 'infinity'";
        self.sql.batch_execute(query).await?;
        Ok(())
    }

    /// Ten wrong passwords.
    pub async fn lock_out(&self, login_id: &str) -> Result<()> {
        for _ in 0..10 {
            self.guess(login_id).await?.refused(401, "LY009")?;
            self.wait_out().await?;
        }
        self.guess(login_id).await?.throttled()?;
        Ok(())
    }
}

/// Wrong passwords: four for nothing, then 30 seconds, doubling up to 15 minutes, locked from
/// the tenth; for a login ID that nobody has just the same.
#[tokio::test]
async fn delays_grow_and_the_tenth_wrong_password_locks() -> Result<()> {
    let world = World::start("throttle").await?;
    let person = world.enrol(&world.hanako, Some(HANAKO)).await?;
    let mut seen = Vec::new();
    for login_id in [HANAKO, "nobody@example.com"] {
        let mut waits = Vec::new();
        for _ in 1..=10 {
            world.guess(login_id).await?.refused(401, "LY009")?;
            waits.push(world.delay_of(login_id).await?);
            world.wait_out().await?;
        }
        seen.push(waits);
    }
    // seconds to wait after each of the ten
    assert_eq!(seen[0], [0, 0, 0, 0, 30, 60, 120, 240, 480, 86_400]);
    assert_eq!(seen[0], seen[1]);
    // locked: the right password does not help, today and tomorrow
    let state = format!("select state from loyalty.identity where identity_id = {person}");
    assert_eq!(world.one(&state).await?, "(locked)");
    let locked = world.log_in(HANAKO, PASSWORD, "coin").await?;
    let unknown = world.log_in("nobody@example.com", PASSWORD, "coin").await?;
    assert_eq!(locked.throttled()?, 86_400);
    assert_eq!(locked.text, unknown.text);
    Ok(())
}

impl World {
    /// The seconds that the last failure blocks the next attempt for.
    async fn delay_of(&self, login_id: &str) -> Result<i64> {
        let query = "select case when t.blocked_until is null then 0
                                 when t.blocked_until = 'infinity' then 86400
                                 else extract(epoch from t.blocked_until - t.failed_at)::bigint end
                       from loyalty_private.throttle t
                      where t.scope = 'password'
                        and t.subject_hash = any (loyalty_private.keyed_hashes('throttle password', $1))";
        let seconds: i64 = self.sql.query_one(query, &[&login_id]).await?.get(0);
        if seconds > 0 {
            // what is blocked is not looked at, and does not count
            for password in ["coin2026abd", PASSWORD] {
                let told = self.log_in(login_id, password, "coin").await?.throttled()?;
                ensure!(i64::try_from(told)? <= seconds, "{told} of {seconds}");
            }
        }
        Ok(seconds)
    }
}

#[tokio::test]
async fn after_the_delay_the_right_password_is_good_and_forgets_the_wrong_ones() -> Result<()> {
    let mut world = World::start("throttle_wait").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    for _ in 0..5 {
        world.guess(HANAKO).await?.refused(401, "LY009")?;
    }
    ensure!(world.log_in(HANAKO, PASSWORD, "coin").await?.throttled()? <= 30);
    world.pass("31 seconds").await?;
    world.logged_in(HANAKO, "coin").await?;
    // all five are forgotten
    for _ in 0..4 {
        world.guess(HANAKO).await?.refused(401, "LY009")?;
    }
    world.logged_in(HANAKO, "coin").await?;
    Ok(())
}

/// Guesses that come at once are counted one after the other.
#[tokio::test]
async fn guesses_at_once_slip_past_no_limit() -> Result<()> {
    let world = World::start("throttle_race").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let answers = try_join_all((0..40).map(|_| world.guess(HANAKO))).await?;
    let mut looked_at = 0;
    for answer in &answers {
        match answer.status {
            401 => looked_at += 1,
            _ => ensure!(answer.throttled()? <= 30),
        }
    }
    assert_eq!(looked_at, 5);
    Ok(())
}

/// Ten thousand guesses come to nothing, however patient who makes them.
#[tokio::test]
async fn ten_thousand_guesses_come_to_nothing() -> Result<()> {
    let world = World::start("throttle_10000").await?;
    // one after the other, each as soon as it is looked at: how many are, and how long it takes
    let query = "
        with recursive guess (scope, failures, at) as (
            select s.scope, 0, timestamptz '2026-01-01 00:00+00'
              from (values ('password'), ('key'), ('code'), ('send')) as s (scope)
             union all
            select g.scope, g.failures + 1,
                   coalesce(loyalty_private.blocked_until(g.scope, g.failures + 1, g.at), g.at)
              from guess g
             where g.failures < 10000 and g.at < 'infinity')
        select string_agg(format('%s %s', l.scope, l.how_many), ', ' order by l.scope)
          from (select g.scope,
                       count(*) filter (where g.failures > 0 and g.at <= '2027-01-01 00:00+00') as how_many
                  from guess g group by g.scope) l";
    let within_a_year = world.one(query).await?;
    let counts = within_a_year.trim_matches(['(', ')', '"']).split(", ");
    for count in counts {
        let (scope, guesses) = count.split_once(' ').context("count")?;
        let guesses: u32 = guesses.parse()?;
        // of a million codes, or of passwords, of which nine are looked at
        let most = if scope == "password" { 9 } else { 8_770 };
        ensure!(guesses <= most, "{scope}: {guesses} guesses in a year");
    }
    // for real: a hundred at one ID from a hundred addresses, and it stays locked
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let arguments = json!({ "login_id": HANAKO, "password": "coin2026abd", "program": "coin" });
    let mut looked_at = 0;
    for number in 0..100 {
        let from = format!("198.51.100.{number}");
        let answer = world
            .rpc_from(&from, "", "log_in", arguments.clone())
            .await?;
        looked_at += u32::from(answer.status == 401);
        world.wait_out().await?;
    }
    assert_eq!(looked_at, 10);
    world.log_in(HANAKO, PASSWORD, "coin").await?.throttled()?;
    Ok(())
}

/// Who tries many IDs is stopped by the address, as the proxy tells it.
#[tokio::test]
async fn a_clients_address_is_limited_too() -> Result<()> {
    let world = World::start("throttle_address").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let guess = async |from: &str, number: u32| {
        let arguments = json!({
            "login_id": format!("guess{number}@example.com"), "password": "coin2026abd", "program": "coin",
        });
        world.rpc_from(from, "", "log_in", arguments).await
    };
    let right = async |from: &str| {
        let arguments = json!({ "login_id": HANAKO, "password": PASSWORD, "program": "coin" });
        world.rpc_from(from, "", "log_in", arguments).await
    };
    let answers = try_join_all((0..50).map(|number| guess("203.0.113.7", number))).await?;
    for answer in &answers {
        answer.refused(401, "LY009")?;
    }
    ensure!(guess("203.0.113.7", 51).await?.throttled()? <= 60);
    ensure!(right("203.0.113.7").await?.throttled()? <= 60);
    // an address that the client made up does not count: the proxy's comes last
    ensure!(right("192.0.2.1, 203.0.113.7").await?.throttled()? <= 60);
    right("203.0.113.8").await?.ok()?;
    world.wait_out().await?;
    right("203.0.113.7").await?.ok()?;
    Ok(())
}

/// Who has a network of IPv6 to themselves, or a new port each time, is one client; the audit
/// keeps the address as it came.
#[tokio::test]
async fn a_clients_network_is_one_client() -> Result<()> {
    let world = World::start("throttle_network").await?;
    for (address, counted) in [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7:51234", "203.0.113.7"),
        ("[203.0.113.7]", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("[::FFFF:cb00:7107]:443", "203.0.113.7"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::3]", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::3]:51234", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("unknown", "unknown"),
        ("proxy.example.com:80", "proxy.example.com:80"),
        ("1.2.3.4.5:6", "1.2.3.4.5:6"),
        ("[", "["),
    ] {
        let query = format!("select loyalty_private.client_network('{address}')");
        assert_eq!(
            world.one(&query).await?,
            format!("({counted})"),
            "{address}"
        );
    }
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let from = async |address: &str, login_id: &str, password: &str| {
        let arguments = json!({ "login_id": login_id, "password": password, "program": "coin" });
        world.rpc_from(address, "", "log_in", arguments).await
    };
    for number in 0..50 {
        let nobody = format!("guess{number}@example.com");
        for address in [
            format!("2001:db8:1:2::{number:x}"),
            format!("203.0.113.7:{}", 50_000 + number),
        ] {
            let answer = from(&address, &nobody, "coin2026abd").await?;
            answer.refused(401, "LY009")?;
        }
    }
    for address in ["2001:db8:1:2:ffff::1", "203.0.113.7:443"] {
        ensure!(from(address, HANAKO, PASSWORD).await?.throttled()? <= 60);
    }
    for address in [
        "2001:db8:1:3::1",
        "[2001:db8:1:3::2]:443",
        "203.0.113.8:443",
    ] {
        from(address, HANAKO, PASSWORD).await?.ok()?;
        let kept = "select address from loyalty.audit order by audit_id desc limit 1";
        ensure!(world.one(kept).await?.contains(address));
    }
    Ok(())
}

#[tokio::test]
async fn who_is_locked_out_unlocks_by_mail() -> Result<()> {
    let world = World::start("unlock_mail").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let session = world.logged_in(HANAKO, "coin").await?;
    let ask = async |login_id: &str| {
        let arguments = json!({ "login_id": login_id, "program": "coin" });
        world.rpc("", "request_unlock", arguments).await
    };
    // not locked: the same answer, and no mail
    ask(HANAKO).await?.ok()?;
    world.no_mail_to(HANAKO).await?;
    world.lock_out(HANAKO).await?;
    // somebody's wrong passwords throw nobody out who is in
    world.get(&session.access, "/balance").await?.ok()?;
    let known = ask(HANAKO).await?.ok()?;
    let unknown = ask("nobody@example.com").await?.ok()?;
    let names = |body: &serde_json::Value| {
        body.as_object()
            .map(|body| body.keys().cloned().collect::<Vec<_>>())
    };
    assert_eq!(names(&known), names(&unknown));
    let token = world.mail_to(HANAKO).await?.token()?;
    world.no_mail_to("nobody@example.com").await?;
    let unlock = async |token: &str| world.rpc("", "unlock", json!({ "token": token })).await;
    unlock(&token.replace('.', ""))
        .await?
        .refused(401, "LY009")?;
    unlock(&format!("{}x", &token[..token.len() - 1]))
        .await?
        .refused(401, "LY009")?;
    unlock(&token).await?.ok()?;
    unlock(&token).await?.refused(401, "LY009")?;
    world.logged_in(HANAKO, "coin").await?;
    Ok(())
}

#[tokio::test]
async fn an_administrator_unlocks() -> Result<()> {
    let world = World::start("unlock_admin").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let session = world.logged_in(HANAKO, "coin").await?;
    world.lock_out(HANAKO).await?;
    let unlock = async |token: &str, login_id: &str| {
        world
            .rpc(token, "unlock_identity", json!({ "login_id": login_id }))
            .await
    };
    unlock(&session.access, HANAKO)
        .await?
        .refused(403, "LY010")?;
    unlock(&world.granter("coin")?, HANAKO)
        .await?
        .refused(403, "LY010")?;
    // another program's administrator does not learn that there is such a login
    unlock(&world.admin("mile")?, HANAKO)
        .await?
        .refused(404, "LY002")?;
    let admin = world.admin("coin")?;
    unlock(&admin, "nobody@example.com")
        .await?
        .refused(404, "LY002")?;
    // by login ID or member number
    assert_eq!(unlock(&admin, "H-1").await?.ok()?["was_locked"], true);
    world.logged_in(HANAKO, "coin").await?;
    assert_eq!(unlock(&admin, HANAKO).await?.ok()?["was_locked"], false);
    let audited = "select count(*) from loyalty.audit a where a.action = 'unlock_identity' and a.actor = 'loyalty_admin'";
    assert_eq!(world.one(audited).await?, "(2)");
    Ok(())
}

/// S8: a member number is guessed at like any login ID, and unlocked like one.
#[tokio::test]
async fn s8_a_member_number_is_throttled_within_its_program() -> Result<()> {
    let world = World::start("throttle_member_no").await?;
    world.enrol(&world.zoe, None).await?;
    let guess = async || world.log_in("z-1 ", "coin2026abd", "mile").await;
    let right = async || world.log_in("Z-1", PASSWORD, "mile").await;
    for _ in 0..10 {
        guess().await?.refused(401, "LY009")?;
        world.wait_out().await?;
    }
    right().await?.throttled()?;
    world
        .rpc(
            &world.admin("mile")?,
            "unlock_identity",
            json!({ "login_id": "Z-1" }),
        )
        .await?
        .ok()?;
    Session::of(right().await?.ok()?)?;
    Ok(())
}
