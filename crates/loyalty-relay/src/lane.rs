//! One channel at work: takes as many notices as can be on their way at once, no more, so
//! that each is sent as soon as it is taken and a killed relay leaves few behind.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::notice::{Notice, Outcome, Progress, Sender};
use crate::queue::Queue;

/// A statement that takes more takes long, and others wait for it.
const CLAIM_LIMIT: usize = 100;
/// How often connections that nobody uses are looked for.
const TIDY: Duration = Duration::from_secs(10);
/// Giving leases back when stopped: they run out by themselves else.
const RETURN_PATIENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Debug)]
pub struct Plan {
    pub concurrency: usize,
    pub lease: Duration,
    pub poll: Duration,
    pub max_pause: Duration,
    pub stop_timeout: Duration,
    /// End when nothing is due any more, or nothing can be done.
    pub once: bool,
}

/// What a lane has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub sent: u64,
    pub refused: u64,
    pub deferred: u64,
    pub released: u64,
}

pub struct Lane<S> {
    sender: Arc<S>,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    plan: Plan,
    stop: watch::Receiver<bool>,
    gate: Gate,
    tasks: JoinSet<Outcome>,
    in_flight: HashMap<Id, InFlight>,
    tally: Tally,
}

struct InFlight {
    notice_id: i64,
    attempt: i32,
    progress: Arc<Progress>,
}

impl<S: Sender> Lane<S> {
    pub fn new(
        sender: S,
        queue: Arc<Queue>,
        metrics: Arc<Metrics>,
        plan: Plan,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            sender: Arc::new(sender),
            queue,
            metrics,
            gate: Gate::new(plan.max_pause),
            plan,
            stop,
            tasks: JoinSet::new(),
            in_flight: HashMap::new(),
            tally: Tally::default(),
        }
    }

    /// Works until stopped, or with `once` until nothing is due. An error is for `once` only:
    /// else it is waited out.
    pub async fn run(mut self) -> (Tally, Result<()>) {
        let result = self.work().await;
        self.drain().await;
        self.sender.tidy(true).await;
        (self.tally, result)
    }

    async fn work(&mut self) -> Result<()> {
        let mut wakes = self.queue.wakes();
        let mut stop = self.stop.clone();
        let mut backoff = Backoff::up_to(self.plan.max_pause);
        let mut look = interval(self.plan.poll);
        let mut tidy = interval(TIDY);
        for each in [&mut look, &mut tidy] {
            each.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        // Whether there may be something to take.
        let mut is_hungry = true;
        while !*stop.borrow() {
            let free = self
                .gate
                .limit(self.plan.concurrency)
                .saturating_sub(self.tasks.len())
                .min(CLAIM_LIMIT);
            if is_hungry && free > 0 {
                wakes.mark_unchanged();
                match self.take(free).await {
                    Ok(Some(taken)) => {
                        is_hungry = taken == free;
                        backoff.reset();
                    }
                    // The gate has closed.
                    Ok(None) => {}
                    Err(error) if self.plan.once => return Err(error),
                    Err(error) => {
                        let pause = backoff.pause();
                        tracing::error!(
                            channel = S::CHANNEL,
                            pause_ms = pause.as_millis(),
                            "nothing can be taken from the queue: {error:#}"
                        );
                        tokio::select! {
                            () = sleep(pause) => {}
                            _ = stop.changed() => {}
                        }
                    }
                }
                continue;
            }
            if self.plan.once && self.tasks.is_empty() {
                return match self.gate.paused_until() {
                    Some(_) => Err(anyhow!(
                        "the server for {} cannot be worked with",
                        S::CHANNEL
                    )),
                    None => Ok(()),
                };
            }
            let pause_ends = self.gate.paused_until();
            tokio::select! {
                Some(joined) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    is_hungry |= self.learn(joined);
                }
                _ = stop.changed() => {}
                _ = wakes.changed() => is_hungry = true,
                _ = look.tick() => is_hungry = true,
                _ = tidy.tick() => self.sender.tidy(false).await,
                () = sleep_until(pause_ends.unwrap_or_else(Instant::now)), if pause_ends.is_some() => {}
            }
        }
        Ok(())
    }

    /// Takes and begins; how many, or none at all because the gate or the relay closes.
    async fn take(&mut self, free: usize) -> Result<Option<usize>> {
        let mut stop = self.stop.clone();
        if self.gate.is_in_doubt() {
            let ready = tokio::select! {
                ready = self.sender.ready() => ready,
                _ = stop.changed() => return Ok(None),
            };
            if let Err(why) = ready {
                self.heed(&Outcome::Down(why));
                return Ok(None);
            }
        }
        // A task of its own: broken off halfway, it would leave leases that nobody knows of.
        let (queue, lease) = (Arc::clone(&self.queue), self.plan.lease);
        let mut taking = tokio::spawn(async move { queue.take(S::CHANNEL, free, lease).await });
        let notices = tokio::select! {
            taken = &mut taking => taken??,
            _ = stop.changed() => {
                match timeout(RETURN_PATIENCE, &mut taking).await {
                    Ok(taken) => self.give_back(&taken??).await,
                    Err(_) => taking.abort(),
                }
                return Ok(None);
            }
        };
        let taken = notices.len();
        self.gate.reached(taken == 0);
        self.metrics
            .channel_is_up(S::CHANNEL, !self.gate.is_in_doubt());
        for notice in notices {
            self.begin(notice);
        }
        Ok(Some(taken))
    }

    async fn give_back(&self, notices: &[Notice]) {
        let ids: Vec<_> = notices.iter().map(|notice| notice.notice_id).collect();
        let attempts: Vec<_> = notices.iter().map(|notice| notice.attempt).collect();
        self.give_back_all(&ids, &attempts).await;
    }

    async fn give_back_all(&self, notice_ids: &[i64], attempts: &[i32]) {
        if notice_ids.is_empty() {
            return;
        }
        let released = self.queue.give_back(notice_ids, attempts);
        if !matches!(timeout(RETURN_PATIENCE, released).await, Ok(Ok(_))) {
            tracing::warn!(
                channel = S::CHANNEL,
                count = notice_ids.len(),
                "notices could not be given back; their leases will run out"
            );
        }
    }

    fn begin(&mut self, notice: Notice) {
        let progress = Arc::new(Progress::default());
        let in_flight = InFlight {
            notice_id: notice.notice_id,
            attempt: notice.attempt,
            progress: Arc::clone(&progress),
        };
        let work = carry(
            Arc::clone(&self.sender),
            Arc::clone(&self.queue),
            Arc::clone(&self.metrics),
            notice,
            progress,
        );
        self.metrics.took(S::CHANNEL);
        let id = self.tasks.spawn(work).id();
        self.in_flight.insert(id, in_flight);
    }

    /// Takes in how a notice's task ended; true when it left the notice to be taken again.
    fn learn(&mut self, joined: Result<(Id, Outcome), tokio::task::JoinError>) -> bool {
        let (id, outcome) = match joined {
            Ok((id, outcome)) => (id, Some(outcome)),
            Err(error) => {
                tracing::error!(channel = S::CHANNEL, "a notice's task ended: {error}");
                (error.id(), None)
            }
        };
        self.in_flight.remove(&id);
        self.metrics.settled(S::CHANNEL);
        let Some(outcome) = outcome else {
            return false;
        };
        match &outcome {
            Outcome::Sent => self.tally.sent += 1,
            Outcome::Refused(_) => self.tally.refused += 1,
            Outcome::Deferred(_) | Outcome::Faltered(..) => self.tally.deferred += 1,
            Outcome::Down(_) | Outcome::Late => self.tally.released += 1,
        }
        self.heed(&outcome);
        matches!(outcome, Outcome::Down(_) | Outcome::Late)
    }

    /// Tells the gate, which may close.
    fn heed(&mut self, outcome: &Outcome) {
        if self.gate.learn(outcome)
            && let Outcome::Down(why) | Outcome::Faltered(why, _) = outcome
        {
            let pause = self
                .gate
                .paused_until()
                .map_or(Duration::ZERO, |until| until - Instant::now());
            tracing::warn!(
                channel = S::CHANNEL,
                pause_ms = pause.as_millis(),
                "the server cannot be worked with: {}",
                why.code
            );
        }
        self.metrics
            .channel_is_up(S::CHANNEL, self.gate.paused_until().is_none());
    }

    /// Lets what is on its way arrive, for a while; then breaks it off and gives back what
    /// the server cannot have.
    async fn drain(&mut self) {
        let until = Instant::now() + self.plan.stop_timeout;
        while !self.tasks.is_empty() {
            let joined = tokio::select! {
                joined = self.tasks.join_next_with_id() => joined,
                () = sleep_until(until) => None,
            };
            match joined {
                Some(joined) => {
                    self.learn(joined);
                }
                None => break,
            }
        }
        self.tasks.shutdown().await;
        let (mut notice_ids, mut attempts) = (Vec::new(), Vec::new());
        for in_flight in self.in_flight.values() {
            if !in_flight.progress.may_have_arrived() {
                notice_ids.push(in_flight.notice_id);
                attempts.push(in_flight.attempt);
            }
        }
        if !self.in_flight.is_empty() {
            tracing::warn!(
                channel = S::CHANNEL,
                given_back = notice_ids.len(),
                unknown = self.in_flight.len() - notice_ids.len(),
                "stopped with notices on their way"
            );
        }
        self.give_back_all(&notice_ids, &attempts).await;
    }
}

/// Sends one notice and does not rest before the database knows.
async fn carry<S: Sender>(
    sender: Arc<S>,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    notice: Notice,
    progress: Arc<Progress>,
) -> Outcome {
    let began = Instant::now();
    let outcome = sender.send(&notice, &progress).await;
    let took = began.elapsed();
    metrics.finished(S::CHANNEL, &outcome, took);
    log::<S>(&notice, &outcome, took);
    loop {
        match report(&queue, &notice, &outcome).await {
            Ok(true) => break,
            Ok(false) => {
                tracing::warn!(
                    channel = S::CHANNEL,
                    notice_id = notice.notice_id,
                    attempt = notice.attempt,
                    "was settled by another relay meanwhile"
                );
                break;
            }
            // The queue waits between attempts to reconnect.
            Err(error) => tracing::warn!(
                channel = S::CHANNEL,
                notice_id = notice.notice_id,
                "the outcome cannot be recorded yet: {error:#}"
            ),
        }
    }
    outcome
}

async fn report(queue: &Queue, notice: &Notice, outcome: &Outcome) -> Result<bool> {
    let (id, attempt) = (notice.notice_id, notice.attempt);
    match outcome {
        Outcome::Sent => queue.sent(id, attempt).await,
        Outcome::Refused(why) => queue.failed(id, attempt, &why.text, true).await,
        Outcome::Deferred(why) | Outcome::Faltered(why, _) => {
            queue.failed(id, attempt, &why.text, false).await
        }
        Outcome::Down(_) | Outcome::Late => Ok(queue.give_back(&[id], &[attempt]).await? == 1),
    }
}

/// Numbers and codes; no address, no subject, no body, no server's words.
fn log<S: Sender>(notice: &Notice, outcome: &Outcome, took: Duration) {
    let (channel, id, attempt) = (S::CHANNEL, notice.notice_id, notice.attempt);
    let took_ms = took.as_millis();
    match outcome {
        Outcome::Sent => tracing::debug!(channel, notice_id = id, attempt, took_ms, "sent"),
        Outcome::Refused(why) => {
            tracing::warn!(
                channel,
                notice_id = id,
                attempt,
                took_ms,
                "refused for good: {}",
                why.code
            );
        }
        Outcome::Deferred(why) | Outcome::Faltered(why, _) => {
            tracing::info!(
                channel,
                notice_id = id,
                attempt,
                took_ms,
                "put off: {}",
                why.code
            );
        }
        Outcome::Down(why) => {
            tracing::debug!(channel, notice_id = id, attempt, "given back: {}", why.code);
        }
        Outcome::Late => tracing::warn!(channel, notice_id = id, attempt, "given back: held up"),
    }
}
