//! The clients: pgbench for single statements, connections of our own for
//! calls with a thousand items.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::progress::Progress;
use super::scratch::Scratch;
use crate::cluster::{Cluster, connect};
use crate::testkit::client_program;

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
}

impl Pgbench<'_> {
    /// Transactions a second, connecting left out.
    pub async fn rate(&self, scratch: &Scratch) -> Result<f64> {
        let name = self.script.name;
        let file = scratch.file(&format!("{name}.sql"), &self.script.text())?;
        let cluster = &scratch.cluster;
        let mut command = client_program(
            &cluster.bin,
            "pgbench",
            &cluster.socket_dir,
            cluster.port,
            self.database,
        );
        if !self.synchronous_commit {
            command.env("PGOPTIONS", "-c synchronous_commit=off");
        }
        command
            .args(["--no-vacuum", "--protocol=prepared"])
            .arg(format!("--client={}", self.clients))
            .arg(format!("--jobs={}", self.clients.min(2)))
            .arg(format!("--time={}", self.seconds))
            .arg(format!("--define=first={}", self.ids.first))
            .arg(format!("--define=last={}", self.ids.last))
            .arg("--file")
            .arg(&file);
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

/// `grant_many` or `spend_many`, called with texts that are ready before the
/// clock starts; every outcome is fetched.
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
        let sql = format!("select * from loyalty.{}($1::text::jsonb)", self.function);
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
    use super::{Script, field};

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
