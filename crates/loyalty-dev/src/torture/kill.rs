//! PostgreSQL is killed with signal 9, all of it, in the middle of its work, again and again.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::check::{balances, compare};
use super::load::{Shift, clerks, open_accounts, settle};
use super::{DURABLE, Effort, Outcome, Tally};
use loyalty_testkit::FreshCluster;

/// So few that clerks meet at their wallets.
pub const ACCOUNTS: i32 = 24;
pub const CLERKS: usize = 6;

/// Each acknowledged operation is there, none is there twice, verify() finds nothing (laws 1 to
/// 3, 6, 11). What was in doubt is asked for again under its key, and is there once then.
pub async fn trial(effort: &Effort) -> Result<Outcome> {
    let mut tally = Tally::begin();
    let cluster = FreshCluster::start("kill", DURABLE)?;
    let client = cluster.connect("postgres").await?;
    let accounts = open_accounts(&client, ACCOUNTS).await?;
    let start = balances(&client).await?;
    let mut clerks = clerks(CLERKS, &accounts);
    let config = cluster.cluster().config("postgres");
    for kill in 1..=effort.kills {
        let shift = Shift::begin(clerks, &config);
        tokio::time::sleep(effort.some_load()).await;
        cluster.cluster().crash()?;
        clerks = shift.end().await?;
        if kill % 4 == 0 {
            // and once more while it recovers, sooner or later
            cluster.cluster().start_without_waiting()?;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..200))).await;
            cluster.cluster().crash()?;
            tally.note("killed again in recovery", 1);
        }
        cluster.cluster().start()?;
        let client = cluster.connect("postgres").await?;
        // before anything is asked for again, which would bring back what was lost
        let findings = compare(&client, &clerks, &start).await?;
        tally.note("in doubt, and booked", findings.unanswered);
        tally.note("in doubt, and not booked", findings.undone);
        tally.look(&format!("after kill {kill}"), &findings);
        settle(&mut clerks, &client)
            .await
            .with_context(|| format!("after kill {kill}"))?;
    }
    let client = cluster.connect("postgres").await?;
    for clerk in &clerks {
        clerk.ask_all_again(&client).await?;
    }
    let findings = compare(&client, &clerks, &start).await?;
    tally.look("at the end", &findings);
    Ok(tally.outcome(format!(
        "{} kills of the server and all its processes by signal 9, {CLERKS} clients",
        effort.kills
    )))
}
