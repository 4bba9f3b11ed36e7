//! `./dev torture`: faults, on purpose, against clusters with durability on, and whether the
//! ledger is afterwards what its clients were told. The tests do the same, shorter.

pub mod check;
mod http;
pub mod load;

pub mod cron;
pub mod cut;
pub mod disk;
pub mod hang;
pub mod kill;
pub mod recovery;
pub mod standby;
pub mod time;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;
use tokio_postgres::Client;

use crate::context::Context;
use crate::prefix::Prefix;
use crate::test::TestRun;
use check::Findings;
use loyalty_testkit::os;

/// What a server has in production; the tests' clusters have it off.
pub const DURABLE: &str = "fsync = on\nfull_page_writes = on\nsynchronous_commit = on\n";

#[derive(Clone, Debug, clap::Args)]
pub struct TortureArgs {
    /// Kills of PostgreSQL under load
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of load before a fault, at most
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Only this fault; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// kill -9 of PostgreSQL under load
    Kill,
    /// No room on disk, under the tables and under the WAL
    DiskFull,
    /// Clients cut off in the middle of a call
    CutOff,
    /// A session that hangs with its transaction open
    Hang,
    /// The clock set back an hour
    Clock,
    /// The primary killed under load, and a standby promoted
    Standby,
    /// Base backup, archived WAL, and recovery to a chosen operation
    Recovery,
    /// pg_cron absent, stopped for a week, doubled
    Cron,
}

/// How much of a fault.
#[derive(Clone, Debug)]
pub struct Effort {
    pub kills: u32,
    /// Load before a fault, at most.
    pub load: Duration,
    /// Each variant of a fault, and not only what shows the most.
    pub all: bool,
}

impl Effort {
    /// For the tests.
    pub fn short() -> Self {
        Self {
            kills: 2,
            load: Duration::from_millis(800),
            all: false,
        }
    }

    /// A random part of the load's time, at least a quarter.
    fn some_load(&self) -> Duration {
        self.load.mul_f64(0.25 + 0.75 * fastrand::f64())
    }
}

/// What became of a fault.
#[derive(Debug)]
pub struct Outcome {
    /// What was done, in words.
    pub done: String,
    /// Operations that clients were told of, and how many of these the journal has.
    pub acknowledged: usize,
    pub found: usize,
    pub twice: usize,
    /// Rows of verify(), of all looks.
    pub verify: usize,
    /// Figures of the fault's own.
    pub notes: BTreeMap<&'static str, u64>,
    pub took: Duration,
    /// What does not hold; nothing, when well.
    pub problems: Vec<String>,
}

impl Outcome {
    pub fn must_hold(self) -> Result<()> {
        if !self.problems.is_empty() {
            bail!("{}:\n{}", self.done, self.problems.join("\n"));
        }
        Ok(())
    }
}

/// Gathers what the looks of a trial find.
struct Tally {
    begun: Instant,
    /// Acknowledged and found in ledgers before this one.
    before: (usize, usize),
    acknowledged: usize,
    found: usize,
    twice: usize,
    verify: usize,
    problems: Vec<String>,
    notes: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn begin() -> Self {
        Self {
            begun: Instant::now(),
            before: (0, 0),
            acknowledged: 0,
            found: 0,
            twice: 0,
            verify: 0,
            problems: Vec::new(),
            notes: BTreeMap::new(),
        }
    }

    /// From now on it is another ledger that is looked at.
    fn next_ledger(&mut self) {
        self.before = (self.acknowledged, self.found);
    }

    /// The newest figures of a ledger count, and all problems.
    fn look(&mut self, when: &str, findings: &Findings) {
        self.acknowledged = self.before.0 + findings.acknowledged;
        self.found = self.before.1 + findings.found;
        self.twice += findings.twice.len();
        self.verify += findings.verify.len();
        self.problems.extend(
            findings
                .problems()
                .iter()
                .map(|problem| format!("{when}: {problem}")),
        );
    }

    fn note(&mut self, what: &'static str, number: usize) {
        *self.notes.entry(what).or_default() += number as u64;
    }

    fn hold(&mut self, what: &str, holds: bool) {
        if !holds {
            self.problems.push(what.to_owned());
        }
    }

    fn outcome(self, done: impl Into<String>) -> Outcome {
        Outcome {
            done: done.into(),
            acknowledged: self.acknowledged,
            found: self.found,
            twice: self.twice,
            verify: self.verify,
            notes: self.notes,
            took: self.begun.elapsed(),
            problems: self.problems,
        }
    }
}

/// Waits until the one value that a query gives is true.
async fn until(client: &Client, patience: Duration, sql: &str) -> Result<()> {
    let begun = Instant::now();
    while !client.query_one(sql, &[]).await?.get::<_, bool>(0) {
        if begun.elapsed() > patience {
            bail!("not within {} seconds: {sql}", patience.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn trial(fault: Fault, effort: &Effort) -> Result<Outcome> {
    match fault {
        Fault::Kill => kill::trial(effort).await,
        Fault::DiskFull => disk::trial(effort).await,
        Fault::CutOff => cut::trial(effort).await,
        Fault::Hang => hang::trial(effort).await,
        Fault::Clock => time::trial(effort).await,
        Fault::Standby => standby::trial(effort).await,
        Fault::Recovery => recovery::trial(effort).await,
        Fault::Cron => cron::trial(effort).await,
    }
}

pub async fn run(context: &Context, args: &TortureArgs) -> Result<()> {
    let prefix = Prefix::ensure(context)?;
    context.ensure_postgrest()?;
    let faults = if args.only.is_empty() {
        Fault::value_variants().to_vec()
    } else {
        args.only.clone()
    };
    let effort = Effort {
        kills: args.rounds,
        load: Duration::from_secs(args.seconds.into()),
        all: true,
    };
    let run = TestRun::start(context, &prefix, true).await?;
    run.server().install()?;
    let mut outcomes = Vec::new();
    for fault in faults {
        let name = name(fault);
        eprintln!("dev: {name}");
        let outcome = tokio::select! {
            outcome = trial(fault, &effort) => outcome,
            signal = os::interrupted() => bail!("stopped by {}", signal?),
        };
        outcomes.push((name, outcome));
    }
    drop(run);
    report(&outcomes)
}

fn name(fault: Fault) -> String {
    fault
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Prints a table and, below it, all that does not hold; an error if anything does not.
fn report(outcomes: &[(String, Result<Outcome>)]) -> Result<()> {
    println!(
        "{:<12} {:>12} {:>8} {:>6} {:>9} {:>8}  result",
        "fault", "acknowledged", "found", "twice", "verify()", "seconds"
    );
    for (name, outcome) in outcomes {
        match outcome {
            Ok(outcome) => println!(
                "{name:<12} {:>12} {:>8} {:>6} {:>9} {:>8.1}  {}",
                outcome.acknowledged,
                outcome.found,
                outcome.twice,
                outcome.verify,
                outcome.took.as_secs_f64(),
                if outcome.problems.is_empty() {
                    "holds"
                } else {
                    "DOES NOT HOLD"
                },
            ),
            Err(_) => println!("{name:<12} {:>47}  NOT RUN TO ITS END", ""),
        }
    }
    println!();
    let mut bad = 0;
    for (name, outcome) in outcomes {
        match outcome {
            Ok(outcome) => {
                println!("{name}: {}", outcome.done);
                for (what, number) in &outcome.notes {
                    println!("    {what}: {number}");
                }
                for problem in &outcome.problems {
                    println!("    DOES NOT HOLD: {problem}");
                }
                bad += usize::from(!outcome.problems.is_empty());
            }
            Err(error) => {
                println!("{name}: NOT RUN TO ITS END: {error:#}");
                bad += 1;
            }
        }
    }
    if bad > 0 {
        bail!("{bad} of {} faults: not as it should be", outcomes.len());
    }
    Ok(())
}
