//! The primary is lost under load, and a streaming standby takes over.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::check::{balances, compare};
use super::kill::{ACCOUNTS, CLERKS};
use super::load::{Shift, clerks, open_accounts, settle};
use super::{DURABLE, Effort, Outcome, Tally, until};
use loyalty_testkit::FreshCluster;

/// With a synchronous standby each acknowledged operation is on it. With an asynchronous one,
/// those of the last moment may be missing, which clients that ask again by their keys make
/// good; either way none is there twice and verify() finds nothing (laws 1, 6, 11).
pub async fn trial(effort: &Effort) -> Result<Outcome> {
    let mut tally = Tally::begin();
    synchronous(effort, &mut tally).await?;
    tally.next_ledger();
    asynchronous(effort, &mut tally).await?;
    Ok(tally.outcome(
        "the primary killed under load and its streaming standby promoted: a synchronous one, then an asynchronous one that was behind",
    ))
}

async fn synchronous(effort: &Effort, tally: &mut Tally) -> Result<()> {
    let primary = FreshCluster::start("primary", DURABLE)?;
    let client = primary.connect("postgres").await?;
    let accounts = open_accounts(&client, ACCOUNTS).await?;
    let start = balances(&client).await?;
    let standby = primary.standby("standby")?;
    client
        .batch_execute("alter system set synchronous_standby_names = '*'")
        .await?;
    client.batch_execute("select pg_reload_conf()").await?;
    until(
        &client,
        Duration::from_secs(30),
        "select count(*) = 1 from pg_stat_replication where sync_state = 'sync'",
    )
    .await
    .context("the standby was to be synchronous")?;

    let shift = Shift::begin(
        clerks(CLERKS, &accounts),
        &primary.cluster().config("postgres"),
    );
    tokio::time::sleep(effort.some_load()).await;
    primary.cluster().crash()?;
    let mut clerks = shift.end().await?;
    standby.cluster().promote()?;
    let client = standby.connect("postgres").await?;
    client
        .batch_execute("alter system reset synchronous_standby_names")
        .await?;
    client.batch_execute("select pg_reload_conf()").await?;
    let findings = compare(&client, &clerks, &start).await?;
    tally.note("synchronous: acknowledged and lost", findings.missing.len());
    tally.look("promoted, synchronous", &findings);
    settle(&mut clerks, &client).await?;
    // and work goes on
    let shift = Shift::begin(clerks, &standby.cluster().config("postgres"));
    tokio::time::sleep(effort.some_load() / 2).await;
    let clerks = shift.end().await?;
    for clerk in &clerks {
        clerk.ask_all_again(&client).await?;
    }
    tally.look(
        "synchronous, at the end",
        &compare(&client, &clerks, &start).await?,
    );
    Ok(())
}

async fn asynchronous(effort: &Effort, tally: &mut Tally) -> Result<()> {
    let primary = FreshCluster::start("primary", DURABLE)?;
    let client = primary.connect("postgres").await?;
    let accounts = open_accounts(&client, ACCOUNTS).await?;
    let start = balances(&client).await?;
    let standby = primary.standby("standby")?;
    let config = primary.cluster().config("postgres");
    let shift = Shift::begin(clerks(CLERKS, &accounts), &config);
    tokio::time::sleep(effort.some_load() / 2).await;
    // the network between the two fails a moment before the primary does
    let watcher = standby.connect("postgres").await?;
    watcher
        .batch_execute("alter system set primary_conninfo = ''")
        .await?;
    watcher.batch_execute("select pg_reload_conf()").await?;
    tokio::time::sleep(effort.some_load() / 2).await;
    primary.cluster().crash()?;
    let mut clerks = shift.end().await?;
    standby.cluster().promote()?;
    let client = standby.connect("postgres").await?;
    let mut findings = compare(&client, &clerks, &start).await?;
    // what the standby did not have: allowed, counted, and made good by its keys
    let lost = std::mem::take(&mut findings.missing);
    tally.hold(
        "some operations were to be lost, or nothing was shown",
        !lost.is_empty(),
    );
    tally.note("asynchronous: acknowledged and lost", lost.len());
    // the books' sums are with what was lost
    findings.balances.clear();
    findings.acknowledged = findings.found;
    tally.look("promoted, asynchronous", &findings);
    for clerk in &mut clerks {
        clerk.forget(&lost);
        clerk.settle(&client).await?;
    }
    let findings = compare(&client, &clerks, &start).await?;
    tally.note(
        "asynchronous: made good by their keys",
        lost.len() - findings.missing.len(),
    );
    tally.look("asked again, asynchronous", &findings);
    Ok(())
}
