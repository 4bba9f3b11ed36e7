//! pg_cron is not there, stands still for a week, and then ticks twice over.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio_postgres::Client;

use super::check::Findings;
use super::{DURABLE, Effort, Outcome, Tally};
use loyalty_testkit::FreshCluster;

const MEMBERS: i32 = 1_000;
const FIRST_DAY: &str = "2025-01-10 09:00+09";
/// A lot lapses each day; on the 15th a rule pays.
const WEEK: [&str; 7] = [
    "2025-01-11 09:00+09",
    "2025-01-12 09:00+09",
    "2025-01-13 09:00+09",
    "2025-01-14 09:00+09",
    "2025-01-15 09:00+09",
    "2025-01-16 09:00+09",
    "2025-01-17 09:00+09",
];

const SETTINGS: &str = "shared_preload_libraries = 'pg_cron'
cron.database_name = 'points'
cron.use_background_workers = on
";

/// Without pg_cron the call that wants it says so, and a tick by hand does its work. What was due
/// in a week without a tick is done once, though two jobs and two more sessions tick at once; it
/// is what a tick each day would have done (C2, C6; laws 6 and 11).
pub async fn trial(effort: &Effort) -> Result<Outcome> {
    let mut tally = Tally::begin();
    let cluster = FreshCluster::start("cron", DURABLE)?;
    let superuser = cluster.connect("postgres").await?;
    for database in ["points", "each_day"] {
        superuser
            .batch_execute(&format!("create database {database} template template0"))
            .await?;
    }
    // what a tick each day makes of it
    let client = cluster.connect("each_day").await?;
    world(&client).await?;
    for day in std::iter::once(FIRST_DAY).chain(WEEK) {
        tick_at(&client, day).await?;
    }
    let expected = ledger(&client).await?;
    ensure!(
        expected.len() as i32 > 2 * MEMBERS,
        "a ledger worth comparing"
    );

    // absent
    let client = cluster.connect("points").await?;
    world(&client).await?;
    let refused = client
        .query("select loyalty.install_schedules()", &[])
        .await;
    let code = refused
        .err()
        .and_then(|error| Some(error.as_db_error()?.code().code().to_owned()));
    tally.hold(
        &format!("install_schedules() without pg_cron was to be refused with 22023: {code:?}"),
        code.as_deref() == Some("22023"),
    );
    tick_at(&client, FIRST_DAY).await?;
    tally.hold(
        "a tick by hand was to leave nothing due",
        count(&client, "select count(*) from loyalty.due_run").await? == 0,
    );

    // stopped for a week; then there, and doubled
    superuser
        .batch_execute(&format!(
            "alter database points set loyalty.clock = '{}'",
            WEEK[6]
        ))
        .await?;
    drop(client);
    cluster.cluster().stop()?;
    std::fs::OpenOptions::new()
        .append(true)
        .open(cluster.cluster().data.join("loyalty.conf"))?
        .write_all(SETTINGS.as_bytes())?;
    cluster.cluster().start()?;
    let client = cluster.connect("points").await?;
    let due = count(&client, "select count(*) from loyalty.due_run").await?;
    tally.note("runs due after the week", due as usize);
    tally.hold("runs were to be due", due > 1);
    client.batch_execute("create extension pg_cron").await?;
    client
        .batch_execute(
            "select loyalty.install_schedules();
             select cron.schedule('the same again', '* * * * *', 'call loyalty.tick()')",
        )
        .await?;
    let jobs = double(&cluster, &client, effort).await?;
    tally.note("jobs of pg_cron that ticked", jobs as usize);
    tally.hold(
        "nothing was to be due any more",
        count(&client, "select count(*) from loyalty.due_run").await? == 0,
    );
    let found = ledger(&client).await?;
    let different = found
        .iter()
        .zip(&expected)
        .find(|(found, expected)| found != expected);
    tally.hold(
        &format!(
            "a week at once was to be the ledger of a tick each day: {} lines for {}, {different:?}",
            found.len(),
            expected.len()
        ),
        found == expected,
    );
    let twice = count(
        &client,
        "select count(*) from (select from loyalty.run group by program_id, job, period having count(*) > 1) r",
    )
    .await?;
    tally.hold("each period was to be run once", twice == 0);
    let unfinished = count(
        &client,
        "select count(*) from loyalty.run where finished_at is null or error is not null",
    )
    .await?;
    tally.hold("each run was to end well", unfinished == 0);
    tally.note(
        "runs done",
        count(&client, "select count(*) from loyalty.run").await? as usize,
    );
    tally.look("at the end", &Findings::of_verify(&client).await?);
    Ok(tally.outcome(
        "no pg_cron; none for a week; then two jobs of pg_cron and two sessions ticking at once",
    ))
}

/// Members with a lot for each day of the week, and a rule that pays some of them in it.
async fn world(client: &Client) -> Result<()> {
    client
        .batch_execute(&format!(
            "create extension pg_loyalty;
             set loyalty.clock = '2025-01-09 12:00+09';
             select loyalty.create_program('p', 'P');
             insert into loyalty.member (account_id, program_id, facts, updated_at)
             select o.account_id, loyalty.program_id('p'),
                    jsonb_build_object('first_service_on',
                        ('2020-01-01'::date + (substr(o.member_no, 3)::integer * 37 % 1800))::text),
                    loyalty.now()
               from loyalty.open_accounts('p', array(
                        select 'M-' || n from generate_series(1, {MEMBERS}) n order by n)) o;
             select loyalty.create_rule('p', 'bonus', 'anniversary',
                 '{{\"fact\": \"first_service_on\", \"every_months\": 6, \"points\": 300, \"day_of_month\": 15}}');
             select count(*) from loyalty.grant_many((
                 select jsonb_agg(jsonb_build_object('account_id', account_id, 'points', 10 + n,
                                                     'expires_on', '2025-01-09'::date + n))
                   from loyalty.account cross join generate_series(0, 8) n))"
        ))
        .await
        .context("the world of a week")
}

async fn tick_at(client: &Client, time: &str) -> Result<()> {
    client
        .batch_execute(&format!("set loyalty.clock = '{time}'"))
        .await?;
    client.batch_execute("call loyalty.tick(50)").await?;
    Ok(())
}

/// Waits for pg_cron's minute, and ticks in two sessions as soon as its jobs begin.
async fn double(cluster: &FreshCluster, client: &Client, effort: &Effort) -> Result<i64> {
    let (one, two) = (
        cluster.connect("points").await?,
        cluster.connect("points").await?,
    );
    let start = Instant::now();
    let patience = Duration::from_secs(130) + effort.load;
    let begun = "select count(*) from cron.job_run_details";
    while count(client, begun).await? == 0 {
        ensure!(start.elapsed() < patience, "pg_cron does not tick");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let tick = "call loyalty.tick(50)";
    let (first, second) = tokio::join!(one.batch_execute(tick), two.batch_execute(tick));
    first?;
    second?;
    let done = "select count(distinct jobid) from cron.job_run_details where status = 'succeeded'";
    while count(client, done).await? < 2 {
        ensure!(
            start.elapsed() < patience,
            "two jobs were to tick: {:?}",
            texts(client, "select d::text from cron.job_run_details d").await?
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    count(client, done).await
}

/// Who got what for what, and what they have; a run of a week's expiry is one entry of many lots.
async fn ledger(client: &Client) -> Result<Vec<String>> {
    texts(
        client,
        "select (account_id, kind, sum(points), max(granted_on) filter (where kind = 'grant'),
                 array_agg(idempotency_key order by idempotency_key) filter (where idempotency_key is not null))::text
           from loyalty.entry group by account_id, kind
         union all
         select (account_id, balance, debt, lot_expires_on, lot_granted, lot_remaining)::text
           from loyalty.wallet
         order by 1",
    )
    .await
}

async fn count(client: &Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[]).await?.get(0))
}

async fn texts(client: &Client, sql: &str) -> Result<Vec<String>> {
    let rows = client.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
