//! Relays and databases that vanish.

use std::time::Duration;

use anyhow::Result;
use loyalty_testkit::mail::{Act, Step};
use nix::sys::signal::Signal;

use crate::world::{
    PATIENCE, Setup, World, assert_each_got_one, assert_none_lost, catcher, eventually, member,
};

/// kill -9 in the middle of 200 mails: none is lost, and none but what was on its way is sent
/// again, as the same mail.
#[tokio::test]
async fn a_killed_relay_loses_nothing() -> Result<()> {
    const AT_ONCE: usize = 6;
    let world = World::new("relay_kill").await?;
    let catcher = catcher().await?;
    catcher.set_script(|step| match step {
        Step::Message { .. } => Act::AcceptAfter(Duration::from_millis(10)),
        _ => Act::Accept,
    });
    world.queue(200).await?;
    let setup = || -> Result<Setup> {
        Ok(world
            .relay_to(&catcher)?
            .arg("--smtp-concurrency", &AT_ONCE.to_string())
            .arg("--smtp-timeout", "10")
            .arg("--lease", "20"))
    };
    let first = setup()?.start()?;
    catcher.wait_for(70, PATIENCE).await?;
    first.kill().await?;
    let sent = world.count("sent").await?;
    assert!(sent < 200, "it was killed too late");
    let second = setup()?.arg("--poll", "1").start()?;
    world.wait_for("sent", 200).await?;
    assert!(second.stop().await?.success());
    assert_none_lost(&catcher.caught(), 200, AT_ONCE)
}

/// SIGTERM: what is on its way arrives, the rest waits for the next relay, unleased.
#[tokio::test]
async fn a_stopped_relay_finishes_what_it_began() -> Result<()> {
    let world = World::new("relay_stop").await?;
    let catcher = catcher().await?;
    catcher.set_script(|step| match step {
        Step::Message { .. } => Act::AcceptAfter(Duration::from_millis(100)),
        _ => Act::Accept,
    });
    world.queue(60).await?;
    let relay = world
        .relay_to(&catcher)?
        .arg("--smtp-concurrency", "4")
        .start()?;
    catcher.wait_for(8, PATIENCE).await?;
    assert!(relay.stop().await?.success());
    let arrived = catcher.caught().len();
    assert!(arrived < 60, "it was stopped too late");
    assert_eq!(world.count("sent").await?, arrived);
    for (address, noted) in world.notices().await? {
        assert!(!noted.is_leased, "{address}");
        assert_eq!(
            noted.attempts,
            i32::from(noted.state == "sent"),
            "{address}"
        );
    }
    catcher.set_script(|_| Act::Accept);
    let _next = world.relay_to(&catcher)?.start()?;
    world.wait_for("sent", 60).await?;
    assert_each_got_one(&catcher.caught(), 60)
}

/// What does not arrive in time at a stop is given back, its attempt not counted.
#[tokio::test]
async fn a_stopped_relay_gives_back_what_hangs() -> Result<()> {
    let world = World::new("relay_hang").await?;
    let catcher = catcher().await?;
    catcher.set_script(|step| match step {
        Step::Rcpt(_) => Act::Hang,
        _ => Act::Accept,
    });
    world.queue(3).await?;
    let relay = world
        .relay_to(&catcher)?
        .arg("--stop-timeout", "0")
        .start()?;
    eventually("one is taken", async || {
        Ok(world.notices().await?.values().any(|noted| noted.is_leased))
    })
    .await?;
    assert!(relay.stop().await?.success());
    for (address, noted) in world.notices().await? {
        assert_eq!((noted.attempts, noted.is_leased), (0, false), "{address}");
    }
    Ok(())
}

/// A relay that was frozen until its lease ran out does not send what another has sent.
#[tokio::test]
async fn a_frozen_relay_does_not_send_what_is_no_longer_its() -> Result<()> {
    let world = World::new("relay_frozen").await?;
    let slow = catcher().await?;
    // Long enough to be frozen in.
    slow.set_script(|step| match step {
        Step::Rcpt(_) => Act::AcceptAfter(Duration::from_secs(2)),
        _ => Act::Accept,
    });
    world.queue(1).await?;
    let frozen = world
        .relay_to(&slow)?
        .arg("--smtp-timeout", "1")
        .arg("--lease", "2")
        .start()?;
    eventually("it is taken", async || {
        Ok(world.notice(&member(1)).await?.is_leased)
    })
    .await?;
    frozen.signal(Signal::SIGSTOP)?;
    let quick = catcher().await?;
    let _other = world.relay_to(&quick)?.arg("--poll", "1").start()?;
    quick.wait_for(1, PATIENCE).await?;
    world.wait_for("sent", 1).await?;
    frozen.signal(Signal::SIGCONT)?;
    assert!(frozen.stop().await?.success());
    assert_eq!(slow.caught().len(), 0);
    assert_eq!(world.notice(&member(1)).await?.state, "sent");
    Ok(())
}

/// Sessions are ended under it, as by a restart or a failover: it comes back by itself.
#[tokio::test]
async fn a_lost_database_is_found_again() -> Result<()> {
    let world = World::new("relay_lost").await?;
    let catcher = catcher().await?;
    let relay = world.relay_to(&catcher)?.start()?;
    for round in 1..=3 {
        world.queue(5).await?;
        world.wait_for("sent", round * 5).await?;
        let ended: i64 = world
            .client
            .query_one(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity
                  where datname = current_database() and application_name = 'loyalty-relay'",
                &[],
            )
            .await?
            .get(0);
        assert_eq!(ended, 1);
    }
    world.queue(5).await?;
    world.wait_for("sent", 20).await?;
    assert_each_got_one(&catcher.caught(), 20)?;
    assert!(
        relay
            .metric("loyalty_relay_database_connects_total")
            .await?
            >= 4.0
    );
    Ok(())
}
