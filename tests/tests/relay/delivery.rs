//! Design laws of the relay in fair weather: C18's mails arrive, once each, as they should look.

use anyhow::{Context as _, Result};
use mail_parser::{MessageParser, MimeHeaders as _};

use crate::world::{PATIENCE, World, assert_each_got_one, catcher};

/// C18: what is queued is sent, each mail once.
#[tokio::test]
async fn sends_what_is_queued_each_once() -> Result<()> {
    let world = World::new("relay_queued").await?;
    world.queue(30).await?;
    let catcher = catcher().await?;
    let relay = world.relay_to(&catcher)?.start()?;
    let caught = catcher.wait_for(30, PATIENCE).await?;
    world.wait_for("sent", 30).await?;
    assert_each_got_one(&caught, 30)?;
    assert!(relay.stop().await?.success());
    assert_each_got_one(&catcher.caught(), 30)?;
    for (address, noted) in world.notices().await? {
        assert_eq!((noted.attempts, noted.error), (1, None), "{address}");
    }
    Ok(())
}

/// The relay looks by itself once an hour only: here it is woken by NOTIFY.
#[tokio::test]
async fn wakes_when_something_is_queued() -> Result<()> {
    let world = World::new("relay_wakes").await?;
    let catcher = catcher().await?;
    let relay = world.relay_to(&catcher)?.start()?;
    relay.wait_for_log("connected to the database").await?;
    for round in 1..=3 {
        world.queue(1).await?;
        catcher.wait_for(round, PATIENCE).await?;
        world.wait_for("sent", round).await?;
    }
    assert_each_got_one(&catcher.caught(), 3)
}

#[tokio::test]
async fn a_mail_reads_as_it_was_written() -> Result<()> {
    let world = World::new("relay_mail").await?;
    world.queue(1).await?;
    let catcher = catcher().await?;
    let _relay = world.relay_to(&catcher)?.start()?;
    let caught = catcher.wait_for(1, PATIENCE).await?;
    let row = world
        .client
        .query_one("select * from rendered", &[])
        .await?;
    let column = |name: &str| row.get::<_, Option<String>>(name).unwrap_or_default();

    assert!(caught[0].data.is_ascii(), "7 bit for every server");
    assert_eq!(caught[0].from, "club@example.com");
    let mail = MessageParser::default()
        .parse(&caught[0].data)
        .context("not a mail")?;
    assert_eq!(mail.subject(), Some(column("subject").as_str()));
    assert!(
        column("subject").contains("ポイント"),
        "a subject beyond ASCII"
    );
    let from = mail.from().and_then(|from| from.first()).context("From")?;
    assert_eq!(from.name(), Some("ポイントクラブ"));
    assert_eq!(from.address(), Some("club@example.com"));
    let same_text = |left: &str, right: &str| {
        let lines = |text: &str| text.trim().lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(left), lines(right));
    };
    same_text(&mail.body_text(0).context("text")?, &column("text_body"));
    same_text(&mail.body_html(0).context("HTML")?, &column("html_body"));
    let kind = mail.content_type().context("Content-Type")?;
    assert_eq!(
        (kind.ctype(), kind.subtype()),
        ("multipart", Some("alternative"))
    );
    assert!(mail.date().is_some());
    let id = mail.message_id().context("Message-ID")?;
    assert_eq!(column("message_id").trim_matches(['<', '>']), id);
    let header = |name: &'static str| mail.header_raw(name).map(str::trim);
    assert_eq!(header("Auto-Submitted"), Some("auto-generated"));
    assert_eq!(
        header("List-Unsubscribe"),
        Some("<https://club.example.com/notices>")
    );
    Ok(())
}

#[tokio::test]
async fn two_relays_at_once_send_each_mail_once() -> Result<()> {
    let world = World::new("relay_two").await?;
    let catcher = catcher().await?;
    let relays = [
        world.relay_to(&catcher)?.start()?,
        world.relay_to(&catcher)?.start()?,
    ];
    for relay in &relays {
        relay.wait_for_log("connected to the database").await?;
    }
    world.queue(100).await?;
    world.wait_for("sent", 100).await?;
    assert_each_got_one(&catcher.caught(), 100)?;
    for relay in relays {
        assert!(relay.stop().await?.success());
    }
    assert_each_got_one(&catcher.caught(), 100)
}

/// Connections are kept and used again, no more of them than allowed.
#[tokio::test]
async fn connections_are_few() -> Result<()> {
    let world = World::new("relay_pool").await?;
    world.queue(40).await?;
    let catcher = catcher().await?;
    let relay = world
        .relay_to(&catcher)?
        .arg("--smtp-concurrency", "3")
        .start()?;
    world.wait_for("sent", 40).await?;
    relay.stop().await?;
    assert!(catcher.most_open() <= 3, "{} at once", catcher.most_open());
    assert!(
        catcher.connections() <= 4,
        "{} in all",
        catcher.connections()
    );
    assert_each_got_one(&catcher.caught(), 40)
}
