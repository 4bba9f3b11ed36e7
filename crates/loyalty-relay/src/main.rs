//! `loyalty-relay`: takes rendered notices from pg_loyalty's outbox and sends them, mail by
//! SMTP and short messages by a webhook. How to run it: docs/relay.md.
//!
//! The database decides what is due, when an attempt is repeated and when it is given up; the
//! relay only sends and reports, so any number of relays can run, and one that is killed
//! loses nothing.

mod backoff;
mod gate;
mod lane;
mod message;
mod metrics;
mod notice;
mod queue;
mod settings;
mod sms;
mod smtp;
mod tls;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing_subscriber::EnvFilter;

use crate::lane::{Lane, Plan, Tally};
use crate::metrics::{Metrics, Page};
use crate::notice::Sender;
use crate::queue::Queue;
use crate::settings::{LogFormat, Options, Settings};
use crate::sms::Webhook;
use crate::smtp::Mailer;

const SOME_NOT_SENT: u8 = 1;
const WRONG_SETTINGS: u8 = 2;
const CANNOT_WORK: u8 = 3;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let ready = Settings::new(options).and_then(|settings| {
        start_log(&settings)?;
        Relay::new(settings)
    });
    let relay = match ready {
        Ok(relay) => relay,
        Err(error) => {
            eprintln!("loyalty-relay: {error:#}");
            return ExitCode::from(WRONG_SETTINGS);
        }
    };
    match relay.run().await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(CANNOT_WORK)
        }
    }
}

fn start_log(settings: &Settings) -> Result<()> {
    let filter = EnvFilter::builder()
        .parse(&settings.log)
        .context("--log is not a level")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false);
    match settings.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

struct Relay {
    settings: Settings,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    registry: prometheus_client::registry::Registry,
    mailer: Option<(Mailer, usize)>,
    webhook: Option<(Webhook, usize)>,
}

impl Relay {
    fn new(mut settings: Settings) -> Result<Self> {
        tls::install()?;
        let authorities = tls::authorities(settings.ca_file.as_deref())?;
        let (metrics, registry) = Metrics::new();
        let queue = Arc::new(Queue::new(
            settings.database.clone(),
            tls::database(&authorities)?,
            settings.max_pause,
            Arc::clone(&metrics),
        ));
        let mailer = match settings.smtp.take() {
            Some(smtp) => {
                let concurrency = smtp.concurrency;
                Some((Mailer::new(smtp, &authorities)?, concurrency))
            }
            None => None,
        };
        let webhook = match settings.sms.take() {
            Some(sms) => {
                let concurrency = sms.concurrency;
                Some((Webhook::new(sms, &authorities)?, concurrency))
            }
            None => None,
        };
        Ok(Self {
            settings,
            queue,
            metrics,
            registry,
            mailer,
            webhook,
        })
    }

    async fn run(self) -> Result<u8> {
        let stop = stop_signal()?;
        let once = self.settings.once;
        let mut channels = Vec::new();
        let mut lanes = JoinSet::new();
        let plan = |concurrency| Plan {
            concurrency,
            lease: self.settings.lease,
            poll: self.settings.poll,
            max_pause: self.settings.max_pause,
            stop_timeout: self.settings.stop_timeout,
            once,
        };
        let shared = || (Arc::clone(&self.queue), Arc::clone(&self.metrics));
        if let Some((mailer, concurrency)) = self.mailer {
            let (queue, metrics) = shared();
            channels.push(Mailer::CHANNEL);
            lanes.spawn(Lane::new(mailer, queue, metrics, plan(concurrency), stop.clone()).run());
        }
        if let Some((webhook, concurrency)) = self.webhook {
            let (queue, metrics) = shared();
            channels.push(Webhook::CHANNEL);
            lanes.spawn(Lane::new(webhook, queue, metrics, plan(concurrency), stop.clone()).run());
        }
        if let Some(address) = self.settings.listen {
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("--listen {address} cannot be listened on"))?;
            tracing::info!(address = %listener.local_addr()?, "metrics");
            let page = Page::new(
                Arc::clone(&self.metrics),
                self.registry,
                Arc::clone(&self.queue),
                channels.clone(),
            );
            tokio::spawn(page.serve(listener));
        }
        tracing::info!(?channels, once, "started");
        let (tally, result) = finish(lanes).await;
        tracing::info!(
            sent = tally.sent,
            refused = tally.refused,
            deferred = tally.deferred,
            released = tally.released,
            "stopped"
        );
        if once {
            println!(
                "sent {}, refused {}, deferred {}",
                tally.sent, tally.refused, tally.deferred
            );
        }
        result?;
        let is_all_sent = tally.refused + tally.deferred + tally.released == 0;
        Ok(if once && !is_all_sent {
            SOME_NOT_SENT
        } else {
            0
        })
    }
}

/// Waits for every lane; the sum of what they did, and the first thing that went wrong.
async fn finish(mut lanes: JoinSet<(Tally, Result<()>)>) -> (Tally, Result<()>) {
    let mut sum = Tally::default();
    let mut result = Ok(());
    while let Some(joined) = lanes.join_next().await {
        let (tally, outcome) = match joined {
            Ok(ended) => ended,
            Err(error) => (Tally::default(), Err(error.into())),
        };
        sum.sent += tally.sent;
        sum.refused += tally.refused;
        sum.deferred += tally.deferred;
        sum.released += tally.released;
        result = result.and(outcome);
    }
    (sum, result)
}

/// Becomes true when somebody asks this process to end.
fn stop_signal() -> Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop");
        sender.send_replace(true);
        // Kept, or the receivers would see a closed channel as a change for ever.
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}
