//! What goes through all accounts: expiry, payments by a rule, verify().

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio_postgres::Client;

use super::calls;
use super::figures::Figures;
use super::shape::Platform;
use crate::bench::load::{VERIFY, settle, value};
use crate::bench::program::set_clock;
use crate::bench::progress::Progress;
use crate::bench::report::grouped;
use crate::bench::scratch::Scratch;
use crate::bench::watch::watched;

const RULE: &str = "anniversary";
const TERMS: &str =
    r#"{"fact": "first_service_on", "every_years": 1, "points": 2000, "day_of_month": 15}"#;

const WORK_METRICS: u32 = 20;

/// What jobs write to.
pub const VACUUM: &str = "vacuum loyalty.wallet, loyalty.entry, loyalty.run, loyalty.schedule";

pub struct Jobs<'a> {
    pub scratch: &'a Scratch,
    pub database: &'a str,
    pub client: &'a Client,
    pub platform: &'a Platform,
}

impl Jobs<'_> {
    /// The first nights of the next month, and its payments, by the test clock.
    pub async fn runs(&self, seconds: u32, figures: &mut Figures) -> Result<()> {
        let members = self.platform.members as f64;
        // What lapsed with the month that is over.
        let clock = self.clock("1 month", "5 minutes").await?;
        let before = self.last_run().await?;
        let run = self.tick(&clock, "expiry run of all programs").await?;
        let lots = self.sum("lots", before).await?;
        ensure!(lots > 0, "no lots lapsed");
        figures.bulk("expiry run, a month's lots: a member", members, run.0);
        figures.memory("expiry run", run.1);
        figures.notes.push(format!(
            "{} members: the month's expiry run booked {} lots of {} accounts' in {} programs.",
            grouped(members),
            grouped(lots as f64),
            grouped(members),
            self.platform.sizes.len(),
        ));

        let clock = self.clock("1 month", "1 day 5 minutes").await?;
        let run = self.tick(&clock, "expiry run with nothing to book").await?;
        figures.bulk("expiry run, nothing lapses: a member", members, run.0);

        set_clock(self.client, &clock).await?;
        calls::ticks(self.client, seconds, figures).await?;

        self.client
            .execute(
                "select loyalty.create_rule(p.code, $1, 'anniversary', $2::text::jsonb, 'For another year')\n\
                 from loyalty.program p",
                &[&RULE, &TERMS],
            )
            .await?;
        let due = "select (max(due_at) + interval '1 minute')::text from loyalty.schedule
                    where job = 'rule:' || $1";
        let due: String = value(self.client, due, &[&RULE]).await?;
        // Not counted: the expiry runs of the days until then.
        self.change("pause_schedule", "true").await?;
        self.tick(&due, "the nights until the payments").await?;

        let largest = "p.code = 'p001'";
        self.change("resume_schedule", largest).await?;
        let count = self.platform.sizes[0] as f64;
        self.payments(&due, "payments, largest program: a member", count, figures)
            .await?;
        if self.platform.sizes.len() > 1 {
            self.change("resume_schedule", "p.code <> 'p001'").await?;
            let others = members - count;
            self.payments(&due, "payments, all others: a member", others, figures)
                .await?;
        }
        Ok(())
    }

    async fn payments(
        &self,
        clock: &str,
        name: &str,
        members: f64,
        figures: &mut Figures,
    ) -> Result<()> {
        let before = self.last_run().await?;
        let run = self.tick(clock, name).await?;
        figures.bulk(name, members, run.0);
        figures.memory(name.split(':').next().unwrap_or(name), run.1);
        let looked_at = self.sum("members", before).await?;
        let paid = self.sum("paid", before).await?;
        ensure!(
            looked_at as f64 == members && self.sum("failed", before).await? == 0,
            "the run looked at {looked_at} members"
        );
        figures.notes.push(format!(
            "{} members, {}: {} of {} were paid.",
            grouped(self.platform.members as f64),
            name.split(':').next().unwrap_or(name),
            grouped(paid as f64),
            grouped(members),
        ));
        Ok(())
    }

    /// So long after the first of the next month where the programs are, or of one later.
    async fn clock(&self, months: &str, then: &str) -> Result<String> {
        let moment =
            "select (timezone('Asia/Tokyo', date_trunc('month', timezone('Asia/Tokyo', now()))
                              + $1::text::interval) + $2::text::interval)::text";
        value(self.client, moment, &[&months, &then]).await
    }

    async fn change(&self, function: &str, programs: &str) -> Result<()> {
        self.client
            .batch_execute(&format!(
                "select loyalty.{function}(p.code, 'rule:{RULE}')\n\
                 from loyalty.program p where {programs}"
            ))
            .await?;
        Ok(())
    }

    async fn last_run(&self) -> Result<i64> {
        let last = "select coalesce(max(run_id), 0) from loyalty.run";
        value(self.client, last, &[]).await
    }

    async fn sum(&self, column: &str, after: i64) -> Result<i64> {
        let sum = format!(
            "select coalesce(sum({column}), 0)::bigint from loyalty.run
              where run_id > $1 and (job <> 'expire' or period =
                    (select max(period) from loyalty.run where job = 'expire'))"
        );
        value(self.client, &sum, &[&after]).await
    }

    /// One tick by a session of its own, with the most memory that it took.
    async fn tick(&self, clock: &str, what: &str) -> Result<(Duration, f64)> {
        settle(self.client, VACUUM).await?;
        let session = self.scratch.cluster.connect(self.database).await?;
        set_clock(&session, clock).await?;
        let progress = Progress::phase(what, 0)?;
        let ticking = session.batch_execute("call loyalty.tick()");
        let (_, took, memory) = watched(&session, ticking, async |_| Ok(())).await?;
        progress.end();
        Ok((took, memory))
    }

    /// What an exporter asks for every few minutes, and what it asks for all the time; each after
    /// a first time that is not counted.
    pub async fn metrics(&self, figures: &mut Figures) -> Result<()> {
        settle(self.client, VACUUM).await?;
        let session = self.scratch.cluster.connect(self.database).await?;
        let progress = Progress::phase("points_metrics(), work_metrics()", 0)?;
        let points = "select count(*) from loyalty.points_metrics()";
        session.query_one(points, &[]).await?;
        let start = Instant::now();
        session.query_one(points, &[]).await?;
        let members = self.platform.members as f64;
        figures.bulk("points_metrics(): a member", members, start.elapsed());
        let work = "select count(*) from loyalty.work_metrics()";
        session.query_one(work, &[]).await?;
        let start = Instant::now();
        for _ in 0..WORK_METRICS {
            session.query_one(work, &[]).await?;
        }
        let programs = self.platform.sizes.len() as f64;
        figures.bulk(
            "work_metrics(): a program",
            programs,
            start.elapsed() / WORK_METRICS,
        );
        progress.end();
        Ok(())
    }

    /// Everything replayed in one call.
    pub async fn verify(&self, figures: &mut Figures) -> Result<()> {
        settle(self.client, VACUUM).await?;
        let entries: i64 = value(self.client, "select count(*) from loyalty.entry", &[]).await?;
        let session = self.scratch.cluster.connect(self.database).await?;
        let before = self.temporary().await?;
        let progress = Progress::phase("verify()", 0)?;
        let verifying = session.query(VERIFY, &[]);
        let (found, took, memory) = watched(&session, verifying, async |_| Ok(())).await?;
        progress.end();
        drop(session);
        figures.bulk("verify(): an entry", entries as f64, took);
        figures.memory("verify()", memory);
        figures
            .findings
            .extend(found.iter().map(|row| row.get::<_, String>(0)));
        figures.notes.push(format!(
            "{} members: verify() of {} entries found {}; {} MiB of temporary files.",
            grouped(self.platform.members as f64),
            grouped(entries as f64),
            if found.is_empty() {
                "nothing"
            } else {
                "LAWS BROKEN"
            },
            grouped((self.temporary().await? - before) as f64 / f64::from(1 << 20)),
        ));
        Ok(())
    }

    /// Bytes of temporary files so far, once the sessions that wrote them have told.
    async fn temporary(&self) -> Result<i64> {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let bytes = "select temp_bytes from pg_stat_database where datname = current_database()";
        value(self.client, bytes, &[]).await
    }
}
