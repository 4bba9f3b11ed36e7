//! The clients: pgbench for single statements, connections of our own for
//! calls with a thousand items.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::progress::Progress;
use super::scratch::Scratch;
use loyalty_testkit::client_program;
use loyalty_testkit::cluster::{Cluster, connect};

/// One run of pgbench.
pub struct Pgbench<'a> {
    pub database: &'a str,
    pub script: &'a Script,
    pub clients: u32,
    pub seconds: u32,
    /// Accounts to choose from.
    pub ids: Ids,
    pub synchronous_commit: bool,
}

/// First and last of a run of account numbers without gaps.
#[derive(Clone, Copy, Debug)]
pub struct Ids {
    pub first: i64,
    pub last: i64,
}

impl Ids {
    pub fn count(self) -> i64 {
        self.last - self.first + 1
    }

    pub fn all(self) -> impl Iterator<Item = i64> + Clone {
        self.first..=self.last
    }
}

/// A script of pgbench. `:id` is a random account, `:a || '-' || :b` a new key
/// of 36 characters, as long as a UUID.
pub struct Script {
    pub name: &'static str,
    pub statement: &'static str,
}

impl Script {
    fn text(&self) -> String {
        let mut text = "\\set id random(:first, :last)\n".to_owned();
        if self.statement.contains(":a ||") {
            text.push_str(
                "\\set a random(10000000000000000, 99999999999999999)\n\
                 \\set b random(100000000000000000, 999999999999999999)\n",
            );
        }
        text.push_str(self.statement);
        text.push_str(";\n");
        text
    }

    /// pgbench with this script, its file, and accounts to choose from.
    fn command(
        &self,
        scratch: &Scratch,
        database: &str,
        clients: u32,
        ids: Ids,
    ) -> Result<(Command, PathBuf)> {
        let file = scratch.file(&format!("{}.sql", self.name), &self.text())?;
        let cluster = &scratch.cluster;
        let mut command = client_program(
            &cluster.bin,
            "pgbench",
            &cluster.socket_dir,
            cluster.port,
            database,
        );
        command
            .args(["--no-vacuum", "--protocol=prepared"])
            .arg(format!("--client={clients}"))
            .arg(format!("--define=first={}", ids.first))
            .arg(format!("--define=last={}", ids.last))
            .arg("--file")
            .arg(&file);
        Ok((command, file))
    }
}

impl Pgbench<'_> {
    /// Transactions a second, connecting left out.
    pub async fn rate(&self, scratch: &Scratch) -> Result<f64> {
        let name = self.script.name;
        let (mut command, _) =
            self.script
                .command(scratch, self.database, self.clients, self.ids)?;
        if !self.synchronous_commit {
            command.env("PGOPTIONS", "-c synchronous_commit=off");
        }
        command
            .arg(format!("--jobs={}", self.clients.min(2)))
            .arg(format!("--time={}", self.seconds));
        let output = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .output()
            .await
            .context("pgbench cannot be started")?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!(
                "pgbench {name} failed ({}): {}",
                output.status,
                error.trim()
            );
        }
        let failed = field(&said, "number of failed transactions: ")?;
        if failed != 0.0 {
            bail!("{failed} transactions of pgbench {name} failed");
        }
        field(&said, "tps = ")
    }
}

/// The number that follows a label in pgbench's output.
fn field(output: &str, label: &str) -> Result<f64> {
    output
        .lines()
        .find_map(|line| line.strip_prefix(label))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("pgbench printed no \"{label}\""))
}

/// Calls that come at a steady rate, on average, however long each takes: a call that has to wait
/// for the one before is late by that, and its time counts from when it should have begun.
pub struct Steady<'a> {
    pub database: &'a str,
    pub script: &'a Script,
    pub clients: u32,
    pub per_second: u32,
    pub ids: Ids,
}

/// Such calls under way; dropped, they end.
pub struct Going {
    pgbench: tokio::process::Child,
    log: PathBuf,
}

/// When each call ended, in seconds since 1970, and how long it took, in milliseconds.
#[derive(Debug, Default, PartialEq)]
pub struct Times(Vec<(f64, f64)>);

/// pgbench keeps so many bytes of its log to itself; calls of this long fill it.
const LOG_DELAY: Duration = Duration::from_secs(1);

impl Steady<'_> {
    pub async fn start(&self, scratch: &Scratch) -> Result<Going> {
        let (mut command, file) =
            self.script
                .command(scratch, self.database, self.clients, self.ids)?;
        let log = file.with_extension("log");
        command
            .args(["--jobs=1", "--log", "--time=100000", "--log-prefix"])
            .arg(&log)
            .arg(format!("--rate={}", self.per_second))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let pgbench = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .context("pgbench cannot be started")?;
        let pid = pgbench.id().context("pgbench has ended already")?;
        let mut going = Going {
            log: PathBuf::from(format!("{}.{pid}", log.display())),
            pgbench,
        };
        let start = Instant::now();
        while going.times().is_ok_and(|times| times.0.is_empty()) || !going.log.exists() {
            if going.pgbench.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(60) {
                going.stop().await?;
                bail!("pgbench makes no calls");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(going)
    }
}

impl Going {
    pub async fn stop(mut self) -> Result<Times> {
        tokio::time::sleep(LOG_DELAY).await;
        let ended = self.pgbench.try_wait()?;
        let _gone = self.pgbench.start_kill();
        let times = self.times();
        let output = self.pgbench.wait_with_output().await?;
        let error = String::from_utf8_lossy(&output.stderr);
        if ended.is_some() || error.contains("aborted") {
            bail!("pgbench failed: {}", error.trim());
        }
        std::fs::remove_file(&self.log)?;
        times
    }

    fn times(&self) -> Result<Times> {
        let log = std::fs::read_to_string(&self.log)
            .with_context(|| format!("{} cannot be read", self.log.display()))?;
        Times::read(&log)
    }
}

impl Times {
    /// Lines of "client, number, time, script, end's second, its microsecond, lag"; the last may
    /// be cut off.
    fn read(log: &str) -> Result<Self> {
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        whole
            .lines()
            .map(|line| {
                let field = |index| -> Result<f64> {
                    line.split(' ')
                        .nth(index)
                        .and_then(|field| field.parse().ok())
                        .with_context(|| format!("pgbench logged \"{line}\""))
                };
                Ok((field(4)? + field(5)? / 1e6, field(2)? / 1e3))
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    /// How long the calls took that ended between two moments.
    pub fn between(&self, from: SystemTime, to: SystemTime) -> Vec<f64> {
        let seconds = |moment: SystemTime| {
            moment
                .duration_since(UNIX_EPOCH)
                .map_or(0.0, |since| since.as_secs_f64())
        };
        let span = seconds(from)..seconds(to);
        let inside = self.0.iter().filter(|(end, _)| span.contains(end));
        inside.map(|(_, time)| *time).collect()
    }
}

/// A function of items in JSON, such as `loyalty.grant_many`, called with texts that are ready
/// before the clock starts; every outcome is fetched.
pub struct Bulk<'a> {
    pub cluster: &'a Cluster,
    pub database: &'a str,
    pub function: &'static str,
    pub clients: usize,
    /// Off to load what is then measured.
    pub synchronous_commit: bool,
}

impl Bulk<'_> {
    /// Makes all the calls, as many at once as there are clients.
    pub async fn call_all<I>(&self, calls: I, progress: Option<&Progress>) -> Result<Duration>
    where
        I: Iterator<Item = String> + Send + 'static,
    {
        let calls = Arc::new(Mutex::new(calls));
        let ready = Arc::new(Barrier::new(self.clients + 1));
        let mut config = self.cluster.config(self.database);
        if !self.synchronous_commit {
            config.options("-c synchronous_commit=off");
        }
        let sql = format!("select * from {}($1::text::jsonb)", self.function);
        let mut workers = JoinSet::new();
        for _ in 0..self.clients {
            // Before the barrier, so that a failure here leaves nobody waiting.
            let client = connect(&config).await?;
            let statement = client.prepare(&sql).await?;
            let (calls, ready) = (Arc::clone(&calls), Arc::clone(&ready));
            let progress = progress.cloned();
            workers.spawn(async move {
                ready.wait().await;
                loop {
                    let call = calls.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(items) = call else { break };
                    let outcomes = client.query(&statement, &[&items]).await?;
                    for outcome in &outcomes {
                        if let Some(error) = outcome.get::<_, Option<String>>("error") {
                            return Err(anyhow!("an item of a call failed: {error}"));
                        }
                    }
                    if let Some(progress) = &progress {
                        progress.advance(1);
                    }
                }
                Ok(())
            });
        }
        ready.wait().await;
        let start = Instant::now();
        while let Some(outcome) = workers.join_next().await {
            outcome??;
        }
        Ok(start.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{Script, Times, field};

    #[test]
    fn the_rate_is_read_from_what_pgbench_prints() -> anyhow::Result<()> {
        let output = "number of clients: 8\n\
            number of failed transactions: 0 (0.000%)\n\
            latency average = 1.5 ms\n\
            tps = 5321.250000 (without initial connection time)\n";
        assert_eq!(field(output, "tps = ")?, 5321.25);
        assert_eq!(field(output, "number of failed transactions: ")?, 0.0);
        assert!(field("", "tps = ").is_err());
        Ok(())
    }

    #[test]
    fn times_are_read_from_whole_lines_of_the_log() -> anyhow::Result<()> {
        let log = "0 1 1500 0 1700000000 250000 12\n\
            3 7 800 0 1700000001 500000 0\n\
            2 9 70";
        let times = Times::read(log)?;
        assert_eq!(
            times,
            Times(vec![(1_700_000_000.25, 1.5), (1_700_000_001.5, 0.8)])
        );
        let second = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let inside = times.between(second(1_700_000_000), second(1_700_000_001));
        assert_eq!(inside, [1.5]);
        assert_eq!(Times::read("")?, Times::default());
        assert!(Times::read("0 1 failed 0 1700000000 250000\n").is_err());
        Ok(())
    }

    #[test]
    fn only_a_script_that_wants_a_key_makes_one() {
        let bare = Script {
            name: "select",
            statement: "select balance from bare where id = :id",
        };
        assert_eq!(
            bare.text(),
            "\\set id random(:first, :last)\nselect balance from bare where id = :id;\n"
        );
    }
}
