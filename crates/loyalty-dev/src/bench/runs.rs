//! A run of a rule that pays every member, against an INSERT of the same rows; and what it
//! does to those who spend meanwhile. And a balance mail to every member, against the same.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};
use tokio_postgres::Client;

use super::driver::{Ids, Steady};
use super::load::{self, Item, settle, value};
use super::program::{self, NOTICE_JOB, RULE_JOB};
use super::progress::Progress;
use super::report::{Report, Target, Unit, grouped, median, percentile};
use super::scratch::Scratch;
use super::watch::{self, Memory, Run};
use super::{Plan, Topic, ledger};

const DATABASE: &str = "bench_runs";

/// Those who spend meanwhile are of another program.
const SPENDERS: &str = "till";
const PLENTY: i64 = 1_000_000;
const CLIENTS: u32 = 8;
const SPENDS_PER_SECOND: u32 = 500;

/// A round needs a run or two over all members.
const MOST_ROUNDS: u32 = 3;

pub async fn measure(scratch: &Scratch, plan: &Plan, report: &mut Report) -> Result<()> {
    let client = scratch.create_database(DATABASE).await?;
    let members = program::load(&client, plan.members).await?;
    let bench = Bench {
        scratch,
        client,
        members,
        rounds: plan.rounds.min(MOST_ROUNDS),
        seconds: plan.seconds,
    };
    // Not counted: from now on every member has points, as in life.
    bench.client.batch_execute("vacuum analyze").await?;
    bench.runs_of(RULE_JOB, "a first run").await?;
    bench.client.batch_execute("vacuum analyze").await?;
    if plan.wants(Topic::Runs) {
        let spenders = bench.load_spenders(plan.accounts).await?;
        bench.runs(spenders, report).await?;
    }
    if plan.wants(Topic::Notices) {
        bench.notices(report).await?;
    }
    report.notes.push(format!(
        "Runs and notices: {} members, all of them due at once; {} rounds.",
        grouped(members.count() as f64),
        bench.rounds,
    ));
    load::verify(&bench.client, report).await?;
    drop(bench);
    scratch.drop_database(DATABASE).await
}

struct Bench<'a> {
    scratch: &'a Scratch,
    client: Client,
    members: Ids,
    rounds: u32,
    seconds: u32,
}

impl Bench<'_> {
    async fn load_spenders(&self, accounts: i64) -> Result<Ids> {
        let ids = load::program(&self.client, SPENDERS, accounts).await?;
        let items = ids.all().map(|id| Item::new(id, PLENTY, None));
        let what = "granting to those who spend";
        load::grant(self.scratch, DATABASE, what, ids.count(), items).await?;
        Ok(ids)
    }

    async fn runs(&self, spenders: Ids, report: &mut Report) -> Result<()> {
        self.make_copies(&["entry", "wallet"]).await?;
        let (mut paid, mut bare) = (Vec::new(), Vec::new());
        let (mut undisturbed, mut disturbed) = (Vec::new(), Vec::new());
        let mut memories = Vec::new();
        for round in 1..=self.rounds {
            let run = self
                .runs_of(RULE_JOB, &format!("round {round}: run"))
                .await?;
            paid.push(self.rate(run.took));
            memories.push(run.memory);
            bare.push(self.rate(self.insert_ledger_rows().await?));
            let (before, during) = self.spends(spenders, round).await?;
            undisturbed.push(before);
            disturbed.push(during);
        }
        let (that, target) = ("bare insert", Some(Target::AtLeast(0.3)));
        report.line(
            "rule run, members",
            that,
            Unit::PerSecond,
            paid,
            bare,
            target,
        );
        memory_line("rule run, memory", &memories, report);
        let (name, that) = ("spend during a run, p99", "undisturbed");
        let target = Some(Target::AtMost(5.0));
        report.line(
            name,
            that,
            Unit::Milliseconds,
            disturbed,
            undisturbed,
            target,
        );
        report.notes.push(format!(
            "Spends during a run: {SPENDS_PER_SECOND} a second by {CLIENTS} clients, in another program."
        ));
        Ok(())
    }

    async fn notices(&self, report: &mut Report) -> Result<()> {
        self.make_copies(&["notice"]).await?;
        program::send_balances(&self.client).await?;
        let (mut queued, mut bare, mut memories) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=self.rounds {
            let what = format!("round {round}: notices");
            let run = self.runs_of(NOTICE_JOB, &what).await?;
            queued.push(self.rate(run.took));
            memories.push(run.memory);
            bare.push(self.rate(self.insert_notices().await?));
        }
        let (name, that) = ("balance mails queued", "bare insert");
        let target = Some(Target::AtLeast(0.3));
        report.line(name, that, Unit::PerSecond, queued, bare, target);
        memory_line("balance mails, memory", &memories, report);
        Ok(())
    }

    fn rate(&self, took: Duration) -> f64 {
        self.members.count() as f64 / took.as_secs_f64()
    }

    /// One tick that has one period of a job to do, over all members.
    async fn runs_of(&self, job: &str, what: &str) -> Result<Run> {
        program::come_due(&self.client, job).await?;
        settle(&self.client, "vacuum").await?;
        let session = program::session_like(self.scratch, DATABASE, &self.client).await?;
        let progress = Progress::phase(what, self.members.count().unsigned_abs())?;
        let run = watch::tick(&session, &self.client, job, self.members.count(), &progress).await?;
        progress.end();
        Ok(run)
    }

    /// Tables with the columns and indexes of the extension's own, and nothing else.
    async fn make_copies(&self, tables: &[&str]) -> Result<()> {
        for table in tables {
            self.client
                .batch_execute(&format!(
                    "create table bare_{table} (like loyalty.{table} including indexes)"
                ))
                .await?;
        }
        Ok(())
    }

    /// The rows that the last run left, written again: a journal that grows, and a wallet each.
    async fn insert_ledger_rows(&self) -> Result<Duration> {
        let Ids { first, last } = self.members;
        let of_members = format!("account_id between {first} and {last}");
        self.client
            .batch_execute(&format!(
                "truncate bare_wallet;\n\
                 create table source_wallet as\n\
                 select * from loyalty.wallet where {of_members} order by account_id;\n\
                 create table source_entry as\n\
                 select e.* from loyalty.entry e\n\
                 join source_wallet w on w.account_id = e.account_id and w.last_entry = e.entry\n\
                 order by e.account_id"
            ))
            .await?;
        let took = self
            .timed(
                "insert into bare_entry select * from source_entry;\n\
                 insert into bare_wallet select * from source_wallet",
                &["entry", "wallet"],
            )
            .await?;
        self.client
            .batch_execute("drop table source_wallet, source_entry")
            .await?;
        Ok(took)
    }

    async fn insert_notices(&self) -> Result<Duration> {
        self.client
            .batch_execute(
                "create table source_notice as\n\
                 select * from loyalty.notice\n\
                 where occasion = (select max(occasion) from loyalty.notice where kind = 'balance')\n\
                 and kind = 'balance'\n\
                 order by account_id",
            )
            .await?;
        let took = self
            .timed(
                "insert into bare_notice select * from source_notice",
                &["notice"],
            )
            .await?;
        self.client
            .batch_execute("drop table source_notice")
            .await?;
        Ok(took)
    }

    /// How long the statements take, in one transaction.
    async fn timed(&self, sql: &str, sources: &[&str]) -> Result<Duration> {
        for table in sources {
            let count = format!("select count(*) from source_{table}");
            let rows: i64 = value(&self.client, &count, &[]).await?;
            if rows != self.members.count() {
                bail!("the run left {rows} rows in loyalty.{table}, not one a member");
            }
        }
        settle(&self.client, "vacuum").await?;
        let progress = Progress::phase("bare insert", 0)?;
        let start = Instant::now();
        self.client
            .batch_execute(&format!("begin;\n{sql};\ncommit"))
            .await?;
        let took = start.elapsed();
        progress.end();
        Ok(took)
    }

    /// The 99th percentile of the time of a spend, in milliseconds, before a run and during one.
    async fn spends(&self, ids: Ids, round: u32) -> Result<(f64, f64)> {
        let what = format!("round {round}: run while others spend");
        program::come_due(&self.client, RULE_JOB).await?;
        settle(&self.client, "vacuum").await?;
        let session = program::session_like(self.scratch, DATABASE, &self.client).await?;
        let progress = Progress::phase(&what, self.members.count().unsigned_abs())?;
        let spending = Steady {
            database: DATABASE,
            script: &ledger::SPEND,
            clients: CLIENTS,
            per_second: SPENDS_PER_SECOND,
            ids,
        }
        .start(self.scratch)
        .await?;
        let before = SystemTime::now();
        tokio::time::sleep(Duration::from_secs(self.seconds.into())).await;
        let from = SystemTime::now();
        let members = self.members.count();
        watch::tick(&session, &self.client, RULE_JOB, members, &progress).await?;
        let to = SystemTime::now();
        let times = spending.stop().await?;
        progress.end();
        Ok((
            percentile(&times.between(before, from), 99.0)?,
            percentile(&times.between(from, to), 99.0)?,
        ))
    }
}

/// A run that keeps what it is done with takes more at its end than at a quarter.
fn memory_line(name: &str, memories: &[Memory], report: &mut Report) {
    let all = |of: fn(&Memory) -> f64| memories.iter().map(of).collect::<Vec<f64>>();
    report.line(
        name,
        "at a quarter of it",
        Unit::Mebibytes,
        all(|memory| memory.at_the_end),
        all(|memory| memory.at_a_quarter),
        Some(Target::AtMost(1.1)),
    );
    report.notes.push(format!(
        "{name}: {:.1} MiB of its own when the session had only connected.",
        median(&all(|memory| memory.at_start)),
    ));
}
