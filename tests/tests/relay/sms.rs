//! Short messages by the webhook.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::world::{World, eventually};

#[derive(Clone, Debug)]
struct Posted {
    authorization: Option<String>,
    key: Option<String>,
    body: Value,
}

/// A status, and the header Retry-After.
type Answer = (u16, Option<&'static str>);

/// A provider of short messages that answers as told, then 202.
#[derive(Clone, Default)]
struct Provider {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl Provider {
    async fn start(answers: &[Answer]) -> Result<(Self, String)> {
        let provider = Self::default();
        provider.answers.lock().expect("answers").extend(answers);
        let app = Router::new()
            .route("/send", post(take))
            .with_state(provider.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/send", listener.local_addr()?);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok((provider, url))
    }

    fn posted(&self) -> Vec<Posted> {
        self.posted.lock().expect("posted").clone()
    }
}

async fn take(
    State(provider): State<Provider>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, HeaderMap, &'static str) {
    let header = |name| {
        let value = headers.get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    provider.posted.lock().expect("posted").push(Posted {
        authorization: header("authorization"),
        key: header("idempotency-key"),
        body: serde_json::from_str(&body).unwrap_or_default(),
    });
    let answer = provider.answers.lock().expect("answers").pop_front();
    let (status, retry_after) = answer.unwrap_or((202, None));
    let mut headers = HeaderMap::new();
    if let Some(value) = retry_after {
        headers.insert("retry-after", value.parse().expect("a header"));
    }
    let status = StatusCode::from_u16(status).expect("a status");
    (status, headers, "the provider's own words")
}

const TOKEN: &str = "token of the provider";

impl World {
    async fn queue_sms(&self) -> Result<()> {
        self.client.execute("select queue_sms()", &[]).await?;
        Ok(())
    }

    fn sms_relay(&self, url: &str) -> Result<crate::world::Setup> {
        Ok(self
            .relay()?
            .arg("--sms-url", url)
            .env("LOYALTY_RELAY_SMS_TOKEN", TOKEN))
    }
}

#[tokio::test]
async fn it_posts_json_with_token_and_key() -> Result<()> {
    let world = World::new("relay_sms").await?;
    world.queue_sms().await?;
    let (provider, url) = Provider::start(&[]).await?;
    assert_eq!(world.sms_relay(&url)?.once().await?.0, Some(0));
    let posted = provider.posted();
    assert_eq!(posted.len(), 1);
    let row = world
        .client
        .query_one("select * from rendered", &[])
        .await?;
    let body = &posted[0].body;
    assert_eq!(body["to"], row.get::<_, String>("address"));
    assert_eq!(body["text"], row.get::<_, String>("text_body"));
    let id: i64 = row.get("notice_id");
    assert_eq!(body["notice_id"], id);
    assert_eq!(posted[0].key, Some(id.to_string()));
    assert_eq!(posted[0].authorization, Some(format!("Bearer {TOKEN}")));
    world.wait_for("sent", 1).await
}

/// A server error is repeated under the same key; a refusal is not repeated.
#[tokio::test]
async fn failures_are_repeated_or_not() -> Result<()> {
    let world = World::new("relay_sms_fail").await?;
    world.queue_sms().await?;
    let (provider, url) = Provider::start(&[(500, None), (202, None), (422, None)]).await?;
    assert_eq!(world.sms_relay(&url)?.once().await?.0, Some(1), "500");
    let noted = world
        .notices()
        .await?
        .into_values()
        .next()
        .context("none")?;
    assert_eq!((noted.state.as_str(), noted.attempts), ("waiting", 1));
    let error = noted.error.unwrap_or_default();
    assert!(
        error.contains("HTTP 500 the provider's own words"),
        "{error}"
    );
    world.make_due().await?;
    assert_eq!(world.sms_relay(&url)?.once().await?.0, Some(0));
    let posted = provider.posted();
    assert_eq!(posted[0].key, posted[1].key);

    world.queue_sms().await?;
    assert_eq!(world.sms_relay(&url)?.once().await?.0, Some(1), "422");
    world.wait_for("failed", 1).await?;
    world.make_due().await?;
    assert_eq!(
        world.sms_relay(&url)?.once().await?.0,
        Some(0),
        "nothing is due"
    );
    assert_eq!(provider.posted().len(), 3);
    Ok(())
}

/// A wrong token and a provider that is not there cost no attempt; one that asks for a pause
/// gets it.
#[tokio::test]
async fn the_provider_is_left_alone_when_it_cannot_be_worked_with() -> Result<()> {
    let world = World::new("relay_sms_down").await?;
    for _ in 0..5 {
        world.queue_sms().await?;
    }
    let (_, url) = Provider::start(&[(401, None); 10]).await?;
    assert_eq!(world.sms_relay(&url)?.once().await?.0, Some(3), "401");
    let nobody = "http://127.0.0.1:1/send";
    assert_eq!(world.sms_relay(nobody)?.once().await?.0, Some(3), "nobody");
    for noted in world.notices().await?.values() {
        assert_eq!((noted.attempts, noted.is_leased), (0, false));
    }
    let (provider, url) = Provider::start(&[(429, Some("3600")); 10]).await?;
    let relay = world
        .sms_relay(&url)?
        .arg("--sms-concurrency", "2")
        .start()?;
    relay.wait_until_paused().await?;
    assert_eq!(relay.get("/healthz").await?.0, 503);
    world.queue_sms().await?;
    assert!(relay.stop().await?.success());
    let posted = provider.posted().len();
    assert!(
        posted <= 2,
        "{posted} posted to a provider that wants a pause"
    );
    Ok(())
}

/// A relay for mail alone leaves short messages to another, and the other way round.
#[tokio::test]
async fn channels_go_by_themselves() -> Result<()> {
    let world = World::new("relay_channels").await?;
    world.queue(2).await?;
    world.queue_sms().await?;
    let catcher = crate::world::catcher().await?;
    let mail = world.relay_to(&catcher)?.once().await?;
    assert_eq!(mail, (Some(0), "sent 2, refused 0, deferred 0\n".into()));
    let (provider, url) = Provider::start(&[]).await?;
    let both = world.sms_relay(&url)?.smtp(catcher.address());
    let relay = both.arg("--smtp-tls", "none").start()?;
    world.queue(1).await?;
    eventually(
        "both are sent",
        async || Ok(world.count("sent").await? == 4),
    )
    .await?;
    assert_eq!((catcher.caught().len(), provider.posted().len()), (3, 1));
    assert!(relay.stop().await?.success());
    Ok(())
}
