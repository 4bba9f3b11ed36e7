//! `--once`, for those who have cron.

use anyhow::Result;
use loyalty_testkit::mail::{Act, Step};

use crate::world::{Setup, World, assert_each_got_one, catcher, member};

#[tokio::test]
async fn it_sends_what_is_due_and_says_how_many() -> Result<()> {
    let world = World::new("relay_once").await?;
    let catcher = catcher().await?;
    let nothing = world.relay_to(&catcher)?.once().await?;
    assert_eq!(nothing, (Some(0), "sent 0, refused 0, deferred 0\n".into()));
    world.queue(25).await?;
    let all = world.relay_to(&catcher)?.once().await?;
    assert_eq!(all, (Some(0), "sent 25, refused 0, deferred 0\n".into()));
    assert_each_got_one(&catcher.caught(), 25)
}

#[tokio::test]
async fn it_says_when_some_were_not_sent() -> Result<()> {
    let world = World::new("relay_once_some").await?;
    let catcher = catcher().await?;
    catcher.set_script(|step| match step {
        Step::Rcpt(to) if *to == member(1) => Act::Answer("550 5.1.1 unknown"),
        Step::Rcpt(to) if *to == member(2) => Act::Answer("452 4.2.2 mailbox full"),
        _ => Act::Accept,
    });
    world.queue(5).await?;
    let some = world.relay_to(&catcher)?.once().await?;
    assert_eq!(some, (Some(1), "sent 3, refused 1, deferred 1\n".into()));
    Ok(())
}

#[tokio::test]
async fn it_says_when_it_cannot_work() -> Result<()> {
    let world = World::new("relay_once_down").await?;
    let catcher = catcher().await?;
    catcher.go_down().await?;
    world.queue(2).await?;
    let (code, _) = world.relay_to(&catcher)?.once().await?;
    assert_eq!(code, Some(3), "no mail server");
    for (address, noted) in world.notices().await? {
        assert_eq!((noted.attempts, noted.is_leased), (0, false), "{address}");
    }
    catcher.come_up()?;
    let nobody = Setup::new("host=127.0.0.1 port=1 user=nobody dbname=nothing")?;
    let nobody = nobody.smtp(catcher.address()).arg("--smtp-tls", "none");
    assert_eq!(nobody.once().await?.0, Some(3), "no database");
    let no_rights = world.connection()?.replace("loyalty_relay", "loyalty_anon");
    let stranger = Setup::new(&no_rights)?.smtp(catcher.address());
    let (code, _) = stranger.arg("--smtp-tls", "none").once().await?;
    assert_eq!(code, Some(3), "not a relay");
    let (code, _) = world.relay()?.once().await?;
    assert_eq!(code, Some(2), "nothing to send by");
    assert_eq!(catcher.caught().len(), 0);
    Ok(())
}
