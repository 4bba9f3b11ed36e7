//! The machine's clock is set back an hour under load, over the midnight on which points lapse.
//!
//! It is the server's own clock, whatever reads it: libfaketime stands between it and the system.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tokio_postgres::{Client, Config};

use super::check::{Balances, balances, compare};
use super::load::{Clerk, Shift, clerks, open_accounts};
use super::{DURABLE, Effort, Outcome, Tally};
use loyalty_testkit::FreshCluster;
use loyalty_testkit::cluster::Cluster;

/// Ten minutes to midnight in Tokyo, where the points of January lapse.
const BEFORE_MIDNIGHT: i64 = 1_769_871_000;
const HALF_AN_HOUR: i64 = 30 * 60;
const AN_HOUR: i64 = 60 * 60;

const DIRECTORIES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib64/faketime",
    "/usr/lib/faketime",
];

/// Nothing is booked twice, no period is run twice, keys give their stored receipts, and
/// verify() finds nothing, wherever the clock jumps (laws 4, 6, 11; C6).
pub async fn trial(effort: &Effort) -> Result<Outcome> {
    let mut tally = Tally::begin();
    let cluster = FreshCluster::start("clock", DURABLE)?;
    let cluster = cluster.cluster();
    cluster.stop()?;
    let clock = Clock::of(cluster)?;
    clock.show(BEFORE_MIDNIGHT)?;
    clock.start(cluster)?;
    let client = cluster.connect("postgres").await?;
    let accounts = open_accounts(&client, 12).await?;
    client
        .batch_execute(
            "select loyalty.grant(account_id, 300, expires_on => '2026-01-31') from loyalty.account",
        )
        .await?;
    client.batch_execute("call loyalty.tick()").await?;
    let start = balances(&client).await?;
    let config = cluster.config("postgres");
    let mut clerks = clerks(4, &accounts);
    let mut runs = Vec::new();
    for (when, time) in [
        ("before midnight", BEFORE_MIDNIGHT),
        ("after midnight", BEFORE_MIDNIGHT + HALF_AN_HOUR),
        ("an hour back", BEFORE_MIDNIGHT + HALF_AN_HOUR - AN_HOUR),
        ("after midnight again", BEFORE_MIDNIGHT + HALF_AN_HOUR),
    ] {
        clerks = work_until(clerks, &config, effort, &clock, time).await?;
        ensure!(
            (seconds(&client).await? - time).abs() < HALF_AN_HOUR / 2,
            "the server's clock was to be {when}"
        );
        client.batch_execute("call loyalty.tick()").await?;
        clerks = work_until(clerks, &config, effort, &clock, time).await?;
        let expected = less_what_lapsed(&client, &start).await?;
        tally.look(when, &compare(&client, &clerks, &expected).await?);
        runs.push((expiry(&client).await?, when));
    }
    tally.hold(
        &format!("points were to lapse at midnight, once: {runs:?}"),
        runs[0].0.1 == 0 && runs[1].0.1 > 0 && runs[1].0 == runs[2].0 && runs[2].0 == runs[3].0,
    );
    for clerk in &clerks {
        clerk.ask_all_again(&client).await?;
    }
    let behind: i64 = client
        .query_one(
            "select count(*) from loyalty.entry e
               join loyalty.entry f on f.account_id = e.account_id and f.entry = e.entry + 1
              where f.occurred_at < e.occurred_at",
            &[],
        )
        .await?
        .get(0);
    tally.note(
        "entries booked at an earlier time than the one before them",
        behind as usize,
    );
    tally.hold("the clock was to go back under load", behind > 0);
    Ok(tally.outcome(
        "the server's clock set on past the midnight on which points lapse, back an hour, and on again",
    ))
}

/// Work, with the clock set in the middle of it.
async fn work_until(
    clerks: Vec<Clerk>,
    config: &Config,
    effort: &Effort,
    clock: &Clock,
    time: i64,
) -> Result<Vec<Clerk>> {
    let shift = Shift::begin(clerks, config);
    tokio::time::sleep(effort.some_load() / 4).await;
    clock.show(time)?;
    tokio::time::sleep(effort.some_load() / 4).await;
    shift.end().await
}

/// What the books cannot know of: points that lapsed, also as they were refunded.
async fn less_what_lapsed(client: &Client, start: &Balances) -> Result<Balances> {
    let mut start = start.clone();
    for row in client
        .query(
            "select account_id, sum(points)::bigint from loyalty.entry
              where kind = 'expire' group by account_id",
            &[],
        )
        .await?
    {
        *start.entry(row.get(0)).or_default() += row.get::<_, i64>(1);
    }
    Ok(start)
}

/// Runs of expiry that booked something, and the points they booked.
async fn expiry(client: &Client) -> Result<(i64, i64)> {
    let row = client
        .query_one(
            "select count(*), coalesce(sum(points), 0)::bigint from loyalty.run
              where job = 'expire' and points > 0",
            &[],
        )
        .await?;
    Ok((row.get(0), row.get(1)))
}

async fn seconds(client: &Client) -> Result<i64> {
    Ok(client
        .query_one("select extract(epoch from clock_timestamp())::bigint", &[])
        .await?
        .get(0))
}

/// The clock that a server sees.
struct Clock {
    library: PathBuf,
    /// Says by how much the server's clock is off, and is read each time it is asked.
    offset: PathBuf,
    cluster: Cluster,
}

impl Clock {
    fn of(cluster: &Cluster) -> Result<Self> {
        let library = DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join("libfaketime.so.1"))
            .find(|path| path.exists())
            .context("libfaketime is missing; install Debian's package libfaketime")?;
        Ok(Self {
            library,
            offset: cluster.data.with_file_name("clock"),
            cluster: cluster.clone(),
        })
    }

    /// Sets it to so many seconds after 1970.
    fn show(&self, time: i64) -> Result<()> {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_secs() as i64;
        // a new file, not an empty one for a moment
        let new = self.offset.with_extension("new");
        self.cluster
            .owner
            .private_file(&new, &format!("{:+}", time - now))?;
        std::fs::rename(&new, &self.offset)?;
        Ok(())
    }

    fn start(&self, cluster: &Cluster) -> Result<()> {
        let status = cluster
            .start_command("--wait")?
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.offset)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_DONT_RESET", "1")
            .status()?;
        ensure!(
            status.success(),
            "PostgreSQL does not start with libfaketime"
        );
        Ok(())
    }
}
