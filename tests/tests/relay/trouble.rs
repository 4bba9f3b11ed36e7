//! Mail servers that are down, slow, choosy or rude. Whatever they do, every other mail
//! arrives, and no attempt is counted that was none.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use loyalty_testkit::mail::{Act, Step};

use crate::world::{
    PATIENCE, World, assert_each_got_one, assert_none_lost, by_recipient, catcher, member,
};

/// A server that is down costs no mail an attempt, and none arrives twice.
#[tokio::test]
async fn a_server_that_is_down_is_waited_for() -> Result<()> {
    let world = World::new("relay_down").await?;
    let catcher = catcher().await?;
    catcher.go_down().await?;
    world.queue(20).await?;
    let relay = world.relay_to(&catcher)?.start()?;
    relay.wait_until_paused().await?;
    assert_eq!(relay.get("/healthz").await?.0, 503);
    for (address, noted) in world.notices().await? {
        assert_eq!((noted.attempts, noted.is_leased), (0, false), "{address}");
    }
    catcher.come_up()?;
    world.wait_for("sent", 20).await?;
    assert_each_got_one(&catcher.caught(), 20)?;
    for (address, noted) in world.notices().await? {
        assert_eq!(noted.attempts, 1, "{address}");
    }
    assert_eq!(relay.get("/healthz").await?.0, 200);
    Ok(())
}

/// It goes down in the middle: all arrive in the end, and only what was on its way may come twice.
#[tokio::test]
async fn a_server_that_goes_down_in_the_middle_is_waited_for() -> Result<()> {
    let world = World::new("relay_middle").await?;
    let catcher = catcher().await?;
    catcher.set_script(|step| match step {
        Step::Message { .. } => Act::AcceptAfter(Duration::from_millis(20)),
        _ => Act::Accept,
    });
    world.queue(60).await?;
    let relay = world
        .relay_to(&catcher)?
        .arg("--smtp-concurrency", "4")
        .start()?;
    catcher.wait_for(15, PATIENCE).await?;
    catcher.go_down().await?;
    relay.wait_until_paused().await?;
    catcher.come_up()?;
    // What was in the middle of its conversation has a counted attempt and a pause behind it.
    world.retry_until("sent", 60).await?;
    assert_none_lost(&catcher.caught(), 60, 4)
}

/// One mail that hangs holds one connection, until its time is over; the others pass by.
#[tokio::test]
async fn a_slow_answer_holds_up_nobody_else() -> Result<()> {
    let world = World::new("relay_slow").await?;
    let catcher = catcher().await?;
    catcher.set_script(|step| match step {
        Step::Rcpt(to) if *to == member(1) => Act::Hang,
        _ => Act::Accept,
    });
    world.queue(25).await?;
    let relay = world
        .relay_to(&catcher)?
        .arg("--smtp-concurrency", "2")
        .arg("--smtp-timeout", "4")
        .arg("--lease", "600")
        .start()?;
    world.wait_for("sent", 24).await?;
    relay.wait_for_log("put off: no answer in time").await?;
    let held = world.notice(&member(1)).await?;
    assert_eq!((held.state.as_str(), held.attempts), ("waiting", 1));
    catcher.set_script(|_| Act::Accept);
    world.retry_until("sent", 25).await?;
    assert_each_got_one(&catcher.caught(), 25)
}

/// A refused address fails for good and visibly; the others arrive.
#[tokio::test]
async fn a_refused_address_fails_alone() -> Result<()> {
    let world = World::new("relay_refused").await?;
    let catcher = catcher().await?;
    catcher.set_script(|step| match step {
        Step::Rcpt(to) if *to == member(3) => {
            Act::Answer("550 5.1.1 <member-3@example.com> is unknown here")
        }
        _ => Act::Accept,
    });
    world.queue(10).await?;
    let relay = world.relay_to(&catcher)?.start()?;
    world.wait_for("sent", 9).await?;
    world.wait_for("failed", 1).await?;
    let refused = world.notice(&member(3)).await?;
    assert_eq!(refused.attempts, 1);
    let error = refused.error.unwrap_or_default();
    assert!(
        error.contains("550 5.1.1 <(address)> is unknown here"),
        "{error}"
    );
    world.make_due().await?;
    assert_eq!(
        world.notice(&member(3)).await?.state,
        "failed",
        "it stays so"
    );
    let attempts = r#"loyalty_relay_attempts_total{channel="email",outcome="refused"}"#;
    assert_eq!(relay.metric(attempts).await?, 1.0);
    let mut log = relay.log()?;
    assert!(log.contains("refused for good: RCPT: 550 5.1.1"), "{log}");
    relay.stop().await?;
    log.retain(|c| c != '\n');
    assert!(
        !log.contains("@example.com"),
        "an address in the log: {log}"
    );
    Ok(())
}

/// 4xx: later is better.
#[tokio::test]
async fn a_temporary_refusal_is_repeated() -> Result<()> {
    let world = World::new("relay_451").await?;
    let catcher = catcher().await?;
    catcher.set_script(|step| match step {
        Step::Rcpt(to) if *to == member(2) => Act::Answer("451 4.7.1 greylisted, come back"),
        _ => Act::Accept,
    });
    world.queue(3).await?;
    let relay = world.relay_to(&catcher)?.start()?;
    world.wait_for("sent", 2).await?;
    relay.wait_for_log("put off: RCPT: 451 4.7.1").await?;
    crate::world::eventually("the attempt is noted", async || {
        Ok(!world.notice(&member(2)).await?.is_leased)
    })
    .await?;
    let noted = world.notice(&member(2)).await?;
    assert_eq!((noted.state.as_str(), noted.attempts), ("waiting", 1));
    assert!(noted.error.unwrap_or_default().contains("greylisted"));
    catcher.set_script(|_| Act::Accept);
    world.retry_until("sent", 3).await?;
    assert_eq!(world.notice(&member(2)).await?.attempts, 2);
    assert_each_got_one(&catcher.caught(), 3)
}

/// A server that dislikes the sender says nothing of the members' addresses.
#[tokio::test]
async fn a_refused_sender_is_not_the_members_fault() -> Result<()> {
    let world = World::new("relay_sender").await?;
    let catcher = catcher().await?;
    catcher.set_script(|step| match step {
        Step::Mail(_) => Act::Answer("550 5.7.1 not from you"),
        _ => Act::Accept,
    });
    world.queue(2).await?;
    let relay = world.relay_to(&catcher)?.start()?;
    relay.wait_for_log("put off: MAIL: 550 5.7.1").await?;
    catcher.set_script(|_| Act::Accept);
    crate::world::eventually("both are sent", async || {
        world.make_due().await?;
        Ok(world.count("sent").await? == 2)
    })
    .await?;
    assert_each_got_one(&catcher.caught(), 2)
}

/// The connection breaks in the middle of the message: it was not taken, and comes again.
#[tokio::test]
async fn a_connection_that_breaks_in_a_message_loses_nothing() -> Result<()> {
    let world = World::new("relay_drop").await?;
    let catcher = catcher().await?;
    let drops = AtomicUsize::new(0);
    catcher.set_script(move |step| match step {
        Step::Content { to }
            if to[0] == member(2) && drops.fetch_add(1, Ordering::Relaxed) == 0 =>
        {
            Act::Drop
        }
        _ => Act::Accept,
    });
    world.queue(5).await?;
    let relay = world.relay_to(&catcher)?.start()?;
    world.wait_for("sent", 4).await?;
    relay.wait_for_log("put off: message:").await?;
    crate::world::eventually("it is sent", async || {
        world.make_due().await?;
        Ok(world.count("sent").await? == 5)
    })
    .await?;
    assert_eq!(world.notice(&member(2)).await?.attempts, 2);
    assert_each_got_one(&catcher.caught(), 5)
}

/// The server takes the message and breaks off before it says so: nobody can know, so it
/// comes again, as the same mail.
#[tokio::test]
async fn a_lost_answer_brings_the_same_mail_again() -> Result<()> {
    let world = World::new("relay_answer").await?;
    let catcher = catcher().await?;
    let drops = AtomicUsize::new(0);
    catcher.set_script(move |step| match step {
        Step::Message { .. } if drops.fetch_add(1, Ordering::Relaxed) == 0 => Act::KeepAndDrop,
        _ => Act::Accept,
    });
    world.queue(1).await?;
    let _relay = world.relay_to(&catcher)?.start()?;
    crate::world::eventually("it is sent", async || {
        world.make_due().await?;
        Ok(world.count("sent").await? == 1)
    })
    .await?;
    let mails = by_recipient(&catcher.caught())?;
    let ids = &mails[&member(1)];
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
    Ok(())
}

/// A server that drops every conversation costs few attempts: it is left alone as a whole.
#[tokio::test]
async fn a_broken_server_does_not_use_up_every_mails_attempts() -> Result<()> {
    let world = World::new("relay_broken").await?;
    let catcher = catcher().await?;
    catcher.set_script(|step| match step {
        Step::Data => Act::Drop,
        _ => Act::Accept,
    });
    world.queue(100).await?;
    let relay = world
        .relay_to(&catcher)?
        .arg("--smtp-concurrency", "4")
        .arg("--max-pause", "30")
        .start()?;
    relay.wait_until_paused().await?;
    let tried: i32 = world.notices().await?.values().map(|n| n.attempts).sum();
    assert!((3..=20).contains(&tried), "{tried} attempts");
    catcher.set_script(|_| Act::Accept);
    crate::world::eventually("all are sent", async || {
        world.make_due().await?;
        Ok(world.count("sent").await? == 100)
    })
    .await?;
    assert_each_got_one(&catcher.caught(), 100)
}

/// A connection that was kept and that the server closed meanwhile is no failed attempt.
#[tokio::test]
async fn a_kept_connection_may_be_gone() -> Result<()> {
    let world = World::new("relay_kept").await?;
    let catcher = catcher().await?;
    world.queue(1).await?;
    let _relay = world.relay_to(&catcher)?.start()?;
    world.wait_for("sent", 1).await?;
    catcher.go_down().await?;
    catcher.come_up()?;
    world.queue(1).await?;
    world.wait_for("sent", 2).await?;
    assert_eq!(world.notice(&member(2)).await?.attempts, 1);
    assert_each_got_one(&catcher.caught(), 2)
}
