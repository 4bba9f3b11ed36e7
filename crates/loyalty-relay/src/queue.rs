//! The database's side: one session that takes, reports and listens, made anew whenever it
//! breaks.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::backoff::Backoff;
use crate::metrics::Metrics;
use crate::notice::Notice;

/// What a stranger's error may grow to.
const ERROR_CHARACTERS: usize = 500;

pub struct Queue {
    config: Config,
    tls: MakeRustlsConnect,
    slot: Mutex<Slot>,
    /// Changes when something was queued, or may have been.
    woken: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

struct Slot {
    session: Option<Arc<Session>>,
    backoff: Backoff,
    not_before: Instant,
}

struct Session {
    client: Client,
    take: Statement,
    sent: Statement,
    failed: Statement,
    release: Statement,
    backlog: Statement,
}

/// What waits in a channel.
#[derive(Clone, Debug)]
pub struct Backlog {
    pub channel: String,
    pub waiting: i64,
    pub due: i64,
    pub leased: i64,
    pub given_up: i64,
    pub oldest_due_seconds: f64,
}

impl Queue {
    pub fn new(
        config: Config,
        tls: MakeRustlsConnect,
        max_pause: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            config,
            tls,
            slot: Mutex::new(Slot {
                session: None,
                backoff: Backoff::up_to(max_pause),
                not_before: Instant::now(),
            }),
            woken: watch::Sender::new(0),
            metrics,
        }
    }

    /// Changes whenever there may be something to take.
    pub fn wakes(&self) -> watch::Receiver<u64> {
        self.woken.subscribe()
    }

    /// Takes up to `how_many` notices of a channel for the time of the lease.
    pub async fn take(
        &self,
        channel: &str,
        how_many: usize,
        lease: Duration,
    ) -> Result<Vec<Notice>> {
        let session = self.session().await?;
        let asked_at = Instant::now();
        let how_many = i32::try_from(how_many).unwrap_or(i32::MAX);
        let rows = session
            .client
            .query(&session.take, &[&how_many, &lease.as_secs_f64(), &channel])
            .await;
        let rows = self.or_part(&session, rows).await?;
        rows.iter()
            .map(|row| {
                Ok(Notice {
                    notice_id: row.try_get("notice_id")?,
                    attempt: row.try_get("attempt")?,
                    address: row.try_get::<_, Option<_>>("address")?.unwrap_or_default(),
                    sender: row.try_get("sender")?,
                    subject: row.try_get("subject")?,
                    text_body: row
                        .try_get::<_, Option<_>>("text_body")?
                        .unwrap_or_default(),
                    html_body: row.try_get("html_body")?,
                    message_id: row.try_get("message_id")?,
                    unsubscribe: row.try_get("unsubscribe")?,
                    hand_over_until: asked_at + lease / 2,
                })
            })
            .collect()
    }

    /// Reports that a notice has gone out. False: it was settled before.
    pub async fn sent(&self, notice_id: i64, attempt: i32) -> Result<bool> {
        let session = self.session().await?;
        let row = session
            .client
            .query_one(&session.sent, &[&notice_id, &attempt])
            .await;
        Ok(self.or_part(&session, row).await?.try_get(0)?)
    }

    /// Reports that an attempt failed. False: it is not the current one any more.
    pub async fn failed(
        &self,
        notice_id: i64,
        attempt: i32,
        error: &str,
        is_permanent: bool,
    ) -> Result<bool> {
        let session = self.session().await?;
        let error = printable(error);
        let row = session
            .client
            .query_one(
                &session.failed,
                &[&notice_id, &attempt, &error, &is_permanent],
            )
            .await;
        Ok(self.or_part(&session, row).await?.try_get(0)?)
    }

    /// Gives notices back that were not tried; how many were still this relay's.
    pub async fn give_back(&self, notice_ids: &[i64], attempts: &[i32]) -> Result<i64> {
        let session = self.session().await?;
        let row = session
            .client
            .query_one(&session.release, &[&notice_ids, &attempts])
            .await;
        Ok(self.or_part(&session, row).await?.try_get(0)?)
    }

    pub async fn backlog(&self) -> Result<Vec<Backlog>> {
        let session = self.session().await?;
        let rows = session.client.query(&session.backlog, &[]).await;
        let rows = self.or_part(&session, rows).await?;
        rows.iter()
            .map(|row| {
                Ok(Backlog {
                    channel: row.try_get("channel")?,
                    waiting: row.try_get("waiting")?,
                    due: row.try_get("due")?,
                    leased: row.try_get("leased")?,
                    given_up: row.try_get("given_up")?,
                    oldest_due_seconds: row.try_get("oldest_due_seconds")?,
                })
            })
            .collect()
    }

    /// The session, made when there is none. While the database is down each call waits for
    /// its turn and tries once.
    async fn session(&self) -> Result<Arc<Session>> {
        let mut slot = self.slot.lock().await;
        if let Some(session) = &slot.session
            && !session.client.is_closed()
        {
            return Ok(Arc::clone(session));
        }
        slot.session = None;
        sleep_until(slot.not_before).await;
        let connected = self.connect().await.context("no session with the database");
        match connected {
            Ok(session) => {
                let session = Arc::new(session);
                slot.session = Some(Arc::clone(&session));
                slot.backoff.reset();
                self.metrics.database_connected();
                tracing::info!("connected to the database");
                Ok(session)
            }
            Err(error) => {
                slot.not_before = Instant::now() + slot.backoff.pause();
                self.metrics.database_lost();
                Err(error)
            }
        }
    }

    /// Parts with a session after any error: a server that became read-only or a function
    /// that was replaced is cured by a new one, and nothing is lost by it.
    async fn or_part<T>(
        &self,
        session: &Arc<Session>,
        result: Result<T, tokio_postgres::Error>,
    ) -> Result<T> {
        if result.is_err() {
            let mut slot = self.slot.lock().await;
            let is_current = |current: &Arc<Session>| Arc::ptr_eq(current, session);
            if slot.session.as_ref().is_some_and(is_current) {
                slot.session = None;
                slot.not_before = Instant::now() + slot.backoff.pause();
                self.metrics.database_lost();
            }
        }
        Ok(result?)
    }

    async fn connect(&self) -> Result<Session> {
        let (client, connection) = self.config.connect(self.tls.clone()).await?;
        tokio::spawn(drive(connection, self.woken.clone()));
        client
            .batch_execute("set statement_timeout = '60s'; listen loyalty_notice")
            .await?;
        let session = Session {
            take: client
                .prepare(
                    "select notice_id, address, sender, subject, text_body, html_body, message_id,\n\
                            attempt, unsubscribe\n\
                       from loyalty.lease_notices($1, pg_catalog.make_interval(secs => $2),\n\
                                                  array[$3::text])",
                )
                .await?,
            sent: client.prepare("select loyalty.notice_sent($1, $2)").await?,
            failed: client
                .prepare("select loyalty.notice_failed($1, $2, $3, $4)")
                .await?,
            release: client
                .prepare("select loyalty.return_notices($1, $2)")
                .await?,
            backlog: client
                .prepare(
                    "select channel, waiting, due, leased, given_up,\n\
                            greatest(0, coalesce(extract(epoch from pg_catalog.clock_timestamp()\n\
                                     - oldest_due_at), 0))::float8 as oldest_due_seconds\n\
                       from loyalty.notice_backlog()",
                )
                .await?,
            client,
        };
        // What was announced while nobody listened.
        self.woken.send_modify(|count| *count += 1);
        Ok(session)
    }
}

/// Moves a session's bytes until it ends, and passes on what it hears.
async fn drive<T>(mut connection: Connection<Socket, T>, woken: watch::Sender<u64>)
where
    T: tokio_postgres::tls::TlsStream + Unpin,
{
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(_))) => woken.send_modify(|count| *count += 1),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => break,
        }
    }
    // Whoever waits for a notification learns by this that there is nobody to send one.
    woken.send_modify(|count| *count += 1);
}

/// PostgreSQL stores no zero bytes; a server's answer may be long.
fn printable(error: &str) -> String {
    error
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(ERROR_CHARACTERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn errors_are_stored_as_one_line_of_bounded_length() {
        assert_eq!(printable("a\0b\r\nc"), "a b  c");
        assert_eq!(printable(&"あ".repeat(900)).chars().count(), 500);
    }
}
