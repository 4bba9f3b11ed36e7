//! What the relay tells those who watch it.

use anyhow::Result;
use loyalty_testkit::mail::{Act, Step};

use crate::world::{World, catcher, member};

#[tokio::test]
async fn metrics_count_what_happened() -> Result<()> {
    let world = World::new("relay_metrics").await?;
    let catcher = catcher().await?;
    catcher.set_script(|step| match step {
        Step::Rcpt(to) if *to == member(1) => Act::Answer("550 5.1.1 unknown"),
        Step::Rcpt(to) if *to == member(2) => Act::Answer("451 4.3.0 later"),
        _ => Act::Accept,
    });
    let relay = world.relay_to(&catcher)?.start()?;
    world.queue(10).await?;
    world.wait_for("sent", 8).await?;
    world.wait_for("failed", 1).await?;
    let wanted = [
        (
            r#"loyalty_relay_attempts_total{channel="email",outcome="sent"}"#,
            8.0,
        ),
        (
            r#"loyalty_relay_attempts_total{channel="email",outcome="refused"}"#,
            1.0,
        ),
        (
            r#"loyalty_relay_attempts_total{channel="email",outcome="deferred"}"#,
            1.0,
        ),
        (r#"loyalty_relay_send_seconds_count{channel="email"}"#, 10.0),
        (r#"loyalty_relay_in_flight{channel="email"}"#, 0.0),
        (r#"loyalty_relay_channel_up{channel="email"}"#, 1.0),
        ("loyalty_relay_database_up", 1.0),
        ("loyalty_relay_database_connects_total", 1.0),
    ];
    for (name, value) in wanted {
        crate::world::eventually(name, async || Ok(relay.metric(name).await? == value)).await?;
    }
    for (state, value) in [
        ("waiting", 1.0),
        ("due", 0.0),
        ("leased", 0.0),
        ("given_up", 1.0),
    ] {
        let name = format!(r#"loyalty_relay_backlog{{channel="email",state="{state}"}}"#);
        crate::world::eventually(&name, async || Ok(relay.metric(&name).await? == value)).await?;
    }
    assert_eq!(
        relay.get("/healthz").await?,
        (200, "database up\nemail up\n".to_owned())
    );
    assert_eq!(relay.get("/other").await?.0, 404);
    Ok(())
}

/// No address, no subject, no text, at the most talkative level.
#[tokio::test]
async fn the_log_holds_nothing_of_the_mails() -> Result<()> {
    let world = World::new("relay_log").await?;
    let catcher = catcher().await?;
    catcher.set_script(|step| match step {
        Step::Rcpt(to) if *to == member(2) => {
            Act::Answer("550 5.1.1 <member-2@example.com> is unknown")
        }
        Step::Data => Act::Answer("451-4.3.0 member-1@example.com\r\n451 4.3.0 later"),
        _ => Act::Accept,
    });
    let relay = world
        .relay_to(&catcher)?
        .arg("--log", "trace")
        .arg("--log-format", "json")
        .start()?;
    world.queue(2).await?;
    world.wait_for("failed", 1).await?;
    relay.wait_for_log("451 4.3.0").await?;
    catcher.set_script(|_| Act::Accept);
    world.retry_until("sent", 1).await?;
    let log = relay.log()?;
    assert!(log.contains(r#""channel":"email""#), "{log}");
    let row = world
        .client
        .query_one("select * from rendered limit 1", &[])
        .await?;
    let subject: String = row.get("subject");
    for secret in ["member-1", "member-2", "club@example.com", &subject] {
        assert!(!log.contains(secret), "{secret} in the log: {log}");
    }
    Ok(())
}
