//! Exactly once when PostgreSQL itself goes: kill -9, and a standby that takes over.
//!
//! The cursor and the payments are committed together, and keys refuse a second payment (law 6).
//! `LOYALTY_RUN_MEMBERS=100000 ./dev test in_the_middle` is the same with more members.

use super::world::{Available, Ledger, ledger, number, program, sound, tick_at};
use anyhow::{Context as _, Result, bail, ensure};
use loyalty_testkit::{FreshCluster, TestDb};
use loyalty_tests::assert_sound;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// The day after the 15th on which both rules pay, a day before which points lapse.
const PAY_DAY: &str = "2025-03-17 09:00+09";
const LATER: &str = "2025-04-01 09:00+09";

fn members() -> Result<i64> {
    match std::env::var("LOYALTY_RUN_MEMBERS") {
        Ok(text) => text.parse().context("LOYALTY_RUN_MEMBERS is a number"),
        Err(_) => Ok(20_000),
    }
}

/// A chunk is a fiftieth of the members.
fn chunk() -> Result<i64> {
    Ok(members()? / 50)
}

/// Up to the day before the run that will be disturbed.
async fn prepare(client: &Client) -> Result<()> {
    program(client, "p", "Asia/Tokyo", members()?).await?;
    for day in ["2025-01-15 09:00+09", "2025-02-17 09:00+09"] {
        tick_at(client, day, 10_000).await?;
    }
    Ok(())
}

async fn undisturbed() -> Result<Ledger> {
    let db = TestDb::create("undisturbed").await?;
    let client = db.connect().await?;
    prepare(&client).await?;
    tick_at(&client, PAY_DAY, 10_000).await?;
    tick_at(&client, LATER, 10_000).await?;
    sound(&client).await?;
    ledger(&client, Available::Compared).await
}

/// Half of the run: some chunks of the second rule are done, so those of the first are.
async fn until_in_the_middle(watcher: &Client) -> Result<()> {
    let start = Instant::now();
    let chunks = "select coalesce(sum(chunks), 0)::bigint from loyalty.run
                   where job = 'rule:bonus' and period = '2025-03-15'";
    while number(watcher, chunks).await? < 10 {
        if start.elapsed() > Duration::from_secs(600) {
            bail!("the run does not get on");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// What was committed before the end is whole: the cursor and the payments agree.
async fn half_done(client: &Client) -> Result<()> {
    let half = "select count(*) from loyalty.run
                 where job = 'rule:bonus' and period = '2025-03-15' and finished_at is null
                   and last_account > 0 and chunks between 5 and 49";
    ensure!(
        number(client, half).await? == 1,
        "the run was to be in its middle"
    );
    let torn = "select count(*) from loyalty.run r
                 where r.job like 'rule:%'
                   and r.paid <> (select count(*) from loyalty.entry e
                                   where e.kind = 'grant' and e.granted_on = r.effective_on
                                     and e.idempotency_key like 'rule/' || substr(r.job, 6) || '/%')";
    ensure!(
        number(client, torn).await? == 0,
        "a run and its payments disagree"
    );
    assert_sound(client).await
}

async fn go_on(client: &Client, expected: &Ledger) -> Result<()> {
    tick_at(client, PAY_DAY, chunk()?).await?;
    tick_at(client, LATER, chunk()?).await?;
    sound(client).await?;
    let found = ledger(client, Available::Compared).await?;
    found.same_as(expected)?;
    ensure!(found.entries.len() as i64 > members()? / 4);
    Ok(())
}

/// PostgreSQL, all of it, is killed with signal 9 in the middle of a run; it starts again,
/// and the next tick goes on.
#[tokio::test]
async fn killed_in_the_middle_of_a_run() -> Result<()> {
    let cluster = FreshCluster::start("killed", "")?;
    cluster
        .connect("postgres")
        .await?
        .batch_execute("create extension pg_loyalty")
        .await?;
    let client = cluster.connect("postgres").await?;
    prepare(&client).await?;
    let chunk = chunk()?;
    let ticking = tokio::spawn(async move { tick_at(&client, PAY_DAY, chunk).await });
    until_in_the_middle(&cluster.connect("postgres").await?).await?;
    cluster.cluster().crash()?;
    ensure!(ticking.await?.is_err(), "the tick was to be killed");

    cluster.cluster().start()?;
    let client = cluster.connect("postgres").await?;
    half_done(&client).await?;
    go_on(&client, &undisturbed().await?).await
}

/// The primary is killed in the middle of a run, and a streaming standby takes over: it may
/// lack the last chunks, and does these again.
#[tokio::test]
async fn promoted_in_the_middle_of_a_run() -> Result<()> {
    let primary = FreshCluster::start("primary", "")?;
    primary
        .connect("postgres")
        .await?
        .batch_execute("create extension pg_loyalty")
        .await?;
    let client = primary.connect("postgres").await?;
    prepare(&client).await?;
    let standby = primary.standby("standby")?;
    let watcher = standby.connect("postgres").await?;
    let refused = tick_at(&watcher, PAY_DAY, 100).await;
    ensure!(refused.is_err(), "a standby only reads");

    let chunk = chunk()?;
    let ticking = tokio::spawn(async move { tick_at(&client, PAY_DAY, chunk).await });
    until_in_the_middle(&watcher).await?;
    primary.cluster().crash()?;
    ensure!(ticking.await?.is_err(), "the tick was to be killed");

    standby.cluster().promote()?;
    let client = standby.connect("postgres").await?;
    half_done(&client).await?;
    go_on(&client, &undisturbed().await?).await
}
