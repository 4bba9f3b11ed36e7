//! What Prometheus may ask, and the page it asks.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use crate::notice::Outcome;
use crate::queue::Queue;

/// Scrapes that come close together share one look at the queue.
const BACKLOG_AGE: Duration = Duration::from_secs(5);
const BACKLOG_PATIENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Channel {
    channel: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    channel: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queued {
    channel: String,
    state: &'static str,
}

type Level = Gauge<f64, AtomicU64>;

pub struct Metrics {
    attempts: Family<Attempt, Counter>,
    seconds: Family<Channel, Histogram, fn() -> Histogram>,
    in_flight: Family<Channel, Gauge>,
    channel_up: Family<Channel, Gauge>,
    database_up: Gauge,
    connects: Counter,
    backlog: Family<Queued, Gauge>,
    oldest_due: Family<Channel, Level>,
}

impl Metrics {
    /// The metrics and the registry by which they are shown.
    pub fn new() -> (Arc<Self>, Registry) {
        let metrics = Self {
            attempts: Family::default(),
            seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.005, 2.0, 15))
            }),
            in_flight: Family::default(),
            channel_up: Family::default(),
            database_up: Gauge::default(),
            connects: Counter::default(),
            backlog: Family::default(),
            oldest_due: Family::default(),
        };
        let mut registry = Registry::with_prefix("loyalty_relay");
        registry.register(
            "build",
            "Which relay this is",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "attempts",
            "Attempts to send, by outcome: sent, refused (for good), deferred (counted, tried \
             again), released (not counted)",
            metrics.attempts.clone(),
        );
        registry.register_with_unit(
            "send",
            "Time from taking a notice up to its outcome",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register(
            "in_flight",
            "Notices on their way now",
            metrics.in_flight.clone(),
        );
        registry.register(
            "channel_up",
            "1 while notices flow, 0 while the channel's server is left alone",
            metrics.channel_up.clone(),
        );
        registry.register(
            "database_up",
            "1 while there is a session",
            metrics.database_up.clone(),
        );
        registry.register(
            "database_connects",
            "Sessions made with the database",
            metrics.connects.clone(),
        );
        registry.register(
            "backlog",
            "Notices in the database: waiting (all not sent yet), of them due now and leased (to \
             any relay), and given_up",
            metrics.backlog.clone(),
        );
        registry.register_with_unit(
            "oldest_due",
            "How long the longest overdue notice has been due",
            Unit::Seconds,
            metrics.oldest_due.clone(),
        );
        (Arc::new(metrics), registry)
    }

    pub fn database_connected(&self) {
        self.database_up.set(1);
        self.connects.inc();
    }

    pub fn database_lost(&self) {
        self.database_up.set(0);
    }

    pub fn took(&self, channel: &str) {
        self.in_flight.get_or_create(&label(channel)).inc();
    }

    /// An outcome is known.
    pub fn finished(&self, channel: &str, outcome: &Outcome, took: Duration) {
        let outcome = match outcome {
            Outcome::Sent => "sent",
            Outcome::Refused(_) => "refused",
            Outcome::Deferred(_) | Outcome::Faltered(..) => "deferred",
            Outcome::Down(_) | Outcome::Late => "released",
        };
        let channel = channel.to_owned();
        self.attempts
            .get_or_create(&Attempt {
                channel: channel.clone(),
                outcome,
            })
            .inc();
        self.seconds
            .get_or_create(&Channel { channel })
            .observe(took.as_secs_f64());
    }

    /// It is in the database too.
    pub fn settled(&self, channel: &str) {
        self.in_flight.get_or_create(&label(channel)).dec();
    }

    pub fn channel_is_up(&self, channel: &str, is_up: bool) {
        self.channel_up
            .get_or_create(&label(channel))
            .set(is_up.into());
    }
}

fn label(channel: &str) -> Channel {
    Channel {
        channel: channel.to_owned(),
    }
}

/// What the page's answers are made of.
pub struct Page {
    metrics: Arc<Metrics>,
    registry: Registry,
    queue: Arc<Queue>,
    channels: Vec<&'static str>,
    looked_at: Mutex<Option<Instant>>,
}

impl Page {
    pub fn new(
        metrics: Arc<Metrics>,
        registry: Registry,
        queue: Arc<Queue>,
        channels: Vec<&'static str>,
    ) -> Self {
        Self {
            metrics,
            registry,
            queue,
            channels,
            looked_at: Mutex::new(None),
        }
    }

    /// Serves until the process ends.
    pub async fn serve(self, listener: TcpListener) -> Result<()> {
        let app = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(health))
            .with_state(Arc::new(self));
        axum::serve(listener, app)
            .await
            .context("the metrics' page ended")
    }

    async fn look(&self) {
        {
            let mut looked_at = self.looked_at.lock().unwrap_or_else(|p| p.into_inner());
            if looked_at.is_some_and(|at| at.elapsed() < BACKLOG_AGE) {
                return;
            }
            *looked_at = Some(Instant::now());
        }
        let backlog = timeout(BACKLOG_PATIENCE, self.queue.backlog()).await;
        let Ok(Ok(backlog)) = backlog else {
            // Numbers of an hour ago would look like numbers of now.
            self.metrics.backlog.clear();
            self.metrics.oldest_due.clear();
            return;
        };
        for row in backlog {
            for (state, count) in [
                ("waiting", row.waiting),
                ("due", row.due),
                ("leased", row.leased),
                ("given_up", row.given_up),
            ] {
                let channel = row.channel.clone();
                self.metrics
                    .backlog
                    .get_or_create(&Queued { channel, state })
                    .set(count);
            }
            self.metrics
                .oldest_due
                .get_or_create(&label(&row.channel))
                .set(row.oldest_due_seconds);
        }
    }
}

async fn metrics(State(page): State<Arc<Page>>) -> impl IntoResponse {
    page.look().await;
    let mut body = String::new();
    let status = match text::encode(&mut body, &page.registry) {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (status, [(header::CONTENT_TYPE, kind)], body)
}

/// 200 while the database and every channel can be worked with, else 503 and what cannot.
async fn health(State(page): State<Arc<Page>>) -> impl IntoResponse {
    let mut body = String::new();
    let mut line = |what: &str, is_up: bool| {
        let state = if is_up { "up" } else { "down" };
        let _infallible = writeln!(body, "{what} {state}");
        is_up
    };
    let mut is_well = line("database", page.metrics.database_up.get() == 1);
    for channel in &page.channels {
        let up = page.metrics.channel_up.get_or_create(&label(channel)).get();
        is_well &= line(channel, up == 1);
    }
    let status = if is_well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, body)
}
