//! B6: a device that the person logged in from before is not held up by what others got wrong, and
//! gives nobody more guesses.

use anyhow::{Context, Result, ensure};
use loyalty_testkit::http::Answer;
use serde_json::json;

use crate::world::{PASSWORD, Session, World};

const HANAKO: &str = "hanako@example.com";
const TARO: &str = "taro@example.com";
const WRONG: &str = "coin2026abd";
const HERE: &str = "203.0.113.7";

impl World {
    async fn log_in_by(&self, login_id: &str, password: &str, device: &str) -> Result<Answer> {
        let arguments = json!({
            "login_id": login_id, "password": password, "program": "coin", "device_token": device,
        });
        self.rpc_from(HERE, "", "log_in", arguments).await
    }

    /// The token of a device that the person logged in from.
    async fn device_of(&self, login_id: &str) -> Result<String> {
        let session = self.logged_in(login_id, "coin").await?;
        let token = session.body["device_token"].as_str();
        Ok(token.context("no device_token")?.to_owned())
    }

    /// Guesses at many IDs that block the address.
    async fn block_address(&self) -> Result<()> {
        for number in 0..50 {
            let nobody = format!("guess{number}@example.com");
            self.log_in_by(&nobody, WRONG, "")
                .await?
                .refused(401, "LY009")?;
        }
        Ok(())
    }

    async fn failures(&self, login_id: &str) -> Result<i64> {
        let query = "select coalesce(sum(t.failures), 0)::bigint from loyalty_private.throttle t
                      where t.scope = 'password'
                        and t.subject_hash = any (loyalty_private.keyed_hashes('throttle password', $1))";
        Ok(self.sql.query_one(query, &[&login_id]).await?.get(0))
    }
}

#[tokio::test]
async fn b6_a_known_device_comes_through_a_blocked_address() -> Result<()> {
    let world = World::start("device_address").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    world.enrol(&world.taro, Some(TARO)).await?;
    let device = world.device_of(HANAKO).await?;
    let of_taro = world.device_of(TARO).await?;
    world.block_address().await?;
    // nobody's, somebody else's, none
    for unknown in ["", "made up", &of_taro] {
        ensure!(
            world
                .log_in_by(HANAKO, PASSWORD, unknown)
                .await?
                .throttled()?
                <= 60
        );
    }
    // wrong ones count for the device only
    for _ in 0..4 {
        world
            .log_in_by(HANAKO, WRONG, &device)
            .await?
            .refused(401, "LY009")?;
    }
    assert_eq!(world.failures(HANAKO).await?, 0);
    assert_eq!(world.counted("address").await?, 50);
    let session = Session::of(world.log_in_by(HANAKO, PASSWORD, &device).await?.ok()?)?;
    assert_eq!(session.body["device_token"], device.as_str());
    // and are forgotten when it was right
    for _ in 0..4 {
        world
            .log_in_by(HANAKO, WRONG, &device)
            .await?
            .refused(401, "LY009")?;
    }
    // logging out is no end of it
    world
        .rpc(&session.access, "log_out", json!({}))
        .await?
        .ok()?;
    world.log_in_by(HANAKO, PASSWORD, &device).await?.ok()?;
    // what others did is not explained by who was known
    assert_eq!(world.counted("address").await?, 50);
    Ok(())
}

/// While others guess at the login ID the person comes through, until it is locked (C12).
#[tokio::test]
async fn b6_a_known_device_comes_through_an_attack_up_to_the_lock() -> Result<()> {
    let world = World::start("device_attack").await?;
    let person = world.enrol(&world.hanako, Some(HANAKO)).await?;
    let device = world.device_of(HANAKO).await?;
    let guess = async || world.log_in(HANAKO, WRONG, "coin").await;
    for _ in 0..5 {
        guess().await?.refused(401, "LY009")?;
    }
    world.log_in_by(HANAKO, PASSWORD, "").await?.throttled()?;
    world.log_in_by(HANAKO, PASSWORD, &device).await?.ok()?;
    world.lock_out(HANAKO).await?;
    for password in [PASSWORD, WRONG] {
        let seconds = world
            .log_in_by(HANAKO, password, &device)
            .await?
            .throttled()?;
        assert_eq!(seconds, 86_400);
    }
    let unlock = format!("select loyalty.unlock_identity({person})");
    world.sql.batch_execute(&unlock).await?;
    world.log_in_by(HANAKO, PASSWORD, &device).await?.ok()?;
    Ok(())
}

/// Who found a device gets ten guesses, as anybody: five with it, which then count.
#[tokio::test]
async fn b6_a_known_device_is_no_way_to_guess_more() -> Result<()> {
    let mut world = World::start("device_guess").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let device = world.device_of(HANAKO).await?;
    let mut looked_at = 0;
    for day in 0..20 {
        let answer = world.log_in_by(HANAKO, WRONG, &device).await?;
        looked_at += u32::from(answer.status == 401);
        if day == 3 {
            // nor does waiting give it new ones
            world.pass("2 days").await?;
        } else if day == 4 {
            assert_eq!(world.failures(HANAKO).await?, 5);
            assert_eq!(world.counted("address").await?, 5);
            ensure!(
                world
                    .log_in_by(HANAKO, PASSWORD, &device)
                    .await?
                    .throttled()?
                    <= 30
            );
        }
        let wait_out = "update loyalty_private.throttle set blocked_until = loyalty.now()
                         where blocked_until < 'infinity'";
        world.sql.batch_execute(wait_out).await?;
    }
    assert_eq!(looked_at, 10);
    assert_eq!(
        world
            .one("select count(*) from loyalty_private.device")
            .await?,
        "(0)"
    );
    Ok(())
}

/// The answer to a token does not tell whether there is such a login.
#[tokio::test]
async fn b6_a_device_token_tells_nothing_of_others() -> Result<()> {
    let world = World::start("device_tells").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    world.enrol(&world.taro, Some(TARO)).await?;
    let device = world.device_of(HANAKO).await?;
    for _ in 0..5 {
        let known = world.log_in_by(TARO, WRONG, &device).await?;
        let unknown = world
            .log_in_by("nobody@example.com", WRONG, &device)
            .await?;
        known.refused(401, "LY009")?;
        assert_eq!((known.status, &known.text), (unknown.status, &unknown.text));
    }
    let known = world.log_in_by(TARO, PASSWORD, &device).await?;
    let unknown = world
        .log_in_by("nobody@example.com", PASSWORD, &device)
        .await?;
    assert_eq!(known.throttled()?, unknown.throttled()?);
    // nor is it stored
    let stored = world
        .one("select string_agg(d::text, ' ') from loyalty_private.device d")
        .await?;
    ensure!(!stored.contains(&device), "{stored}");
    Ok(())
}

/// A new password and logging out everywhere end devices; so do a long time, and the twentieth after.
#[tokio::test]
async fn b6_devices_are_forgotten() -> Result<()> {
    let mut world = World::start("device_end").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let known = async |world: &World, device: &str| {
        let query = "select loyalty_private.known_device(i.identity_id, $2) is not null
                       from loyalty.identity i where i.login_id = $1";
        let row = world.sql.query_one(query, &[&HANAKO, &device]).await?;
        anyhow::Ok(row.get::<_, bool>(0))
    };
    let device = world.device_of(HANAKO).await?;
    let session = world.logged_in(HANAKO, "coin").await?;
    ensure!(known(&world, &device).await?);
    world
        .rpc(&session.access, "log_out_everywhere", json!({}))
        .await?
        .ok()?;
    ensure!(!known(&world, &device).await?);

    let device = world.device_of(HANAKO).await?;
    let session = world.logged_in(HANAKO, "coin").await?;
    let change = json!({ "old_password": PASSWORD, "new_password": "other2027" });
    world
        .rpc(&session.access, "change_password", change)
        .await?
        .ok()?;
    ensure!(!known(&world, &device).await?);
    let back = json!({ "old_password": "other2027", "new_password": PASSWORD });
    world
        .rpc(&session.access, "change_password", back)
        .await?
        .ok()?;

    let first = world.device_of(HANAKO).await?;
    world.pass("1 minute").await?;
    for _ in 0..19 {
        world.device_of(HANAKO).await?;
    }
    ensure!(known(&world, &first).await?);
    let last = world.device_of(HANAKO).await?;
    ensure!(!known(&world, &first).await? && known(&world, &last).await?);

    world.pass("179 days").await?;
    ensure!(known(&world, &last).await?);
    world.pass("2 days").await?;
    ensure!(!known(&world, &last).await?);
    let purged = "select purged from loyalty.purge_access('30 days') where what = 'device'";
    assert_eq!(world.one(purged).await?, "(20)");
    Ok(())
}

/// Who is signed in and types the old password is not held up by the address.
#[tokio::test]
async fn b6_changing_a_password_is_no_matter_of_the_address() -> Result<()> {
    let world = World::start("device_change").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let session = world.logged_in(HANAKO, "coin").await?;
    world.block_address().await?;
    let change = async |old: &str| {
        let arguments = json!({ "old_password": old, "new_password": "other2027" });
        world
            .rpc_from(HERE, &session.access, "change_password", arguments)
            .await
    };
    change(WRONG).await?.refused(401, "LY009")?;
    assert_eq!(world.failures(HANAKO).await?, 1);
    assert_eq!(world.counted("address").await?, 50);
    change(PASSWORD).await?.ok()?;
    Ok(())
}
