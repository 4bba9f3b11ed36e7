//! The tick with nothing due, as it is nearly always.

use std::time::Instant;

use anyhow::{Result, bail};
use tokio_postgres::Client;

use super::Plan;
use super::load::{milliseconds, value};
use super::program::set_clock;
use super::progress::Progress;
use super::report::{Report, Target, Unit, grouped, median};
use super::scratch::Scratch;

const DATABASE: &str = "bench_tick";
const PROGRAMS_QUICK: i32 = 20;
const PROGRAMS: i32 = 500;
const CALLS: usize = 200;
const SESSIONS: usize = 20;

/// Rows of the schedule for each program: expire, three rules, two notices.
const JOBS: i64 = 6;

/// All that recurs in a program.
const RECURRING: &str = r#"select
    loyalty.create_rule($1, 'yearly', 'anniversary',
        '{"fact": "first_service_on", "every_years": 1, "points": 2000, "day_of_month": 15}'),
    loyalty.create_rule($1, 'referral', 'event',
        '{"event": "referral", "points": {"member": 5000, "other": 5000},
          "months_after": 1, "day_of_month": 15}'),
    loyalty.create_rule($1, 'birthday', 'birthday', '{"points": 500, "day_of_month": 1}'),
    loyalty.set_notice_sender($1, email => 'points@example.com'),
    loyalty.set_notice($1, 'balance', is_enabled => true),
    loyalty.set_notice($1, 'expiry', is_enabled => true)"#;

const TICK: &str = "call loyalty.tick()";
const NOTHING: &str = "call nothing()";

/// Just after noon of a day in the middle of a month, when all of the day is done.
const CLOCK: &str = "(current_date + interval '1 month')::date::text || ' 14:00+00'";

pub async fn measure(scratch: &Scratch, plan: &Plan, report: &mut Report) -> Result<()> {
    let client = scratch.create_database(DATABASE).await?;
    let programs = if plan.quick { PROGRAMS_QUICK } else { PROGRAMS };
    let clock = load(&client, programs).await?;
    let progress = Progress::phase("ticking with nothing due", u64::from(plan.rounds))?;
    let (mut ticks, mut nothings) = (Vec::new(), Vec::new());
    let (mut first_ticks, mut first_nothings) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        nothings.push(again_and_again(&client, NOTHING).await?);
        ticks.push(again_and_again(&client, TICK).await?);
        first_nothings.push(in_new_sessions(scratch, NOTHING, &clock).await?);
        first_ticks.push(in_new_sessions(scratch, TICK, &clock).await?);
        progress.advance(1);
    }
    progress.end();
    if is_due(&client).await? != 0 {
        bail!("something became due while the tick was measured");
    }
    // What a session costs that has only begun is mostly the server's own.
    let (that, unit) = ("empty procedure", Unit::Milliseconds);
    let target = Some(Target::Below(5.0));
    report.line("tick, nothing due", that, unit, ticks, nothings, target);
    let name = "  first of a session";
    report.line(name, that, unit, first_ticks, first_nothings, None);
    report.notes.push(format!(
        "Ticks: {} programs with {JOBS} jobs each.",
        grouped(f64::from(programs)),
    ));
    drop(client);
    scratch.drop_database(DATABASE).await
}

/// Programs with all that recurs, and nothing due.
async fn load(client: &Client, programs: i32) -> Result<String> {
    let clock: String = value(client, &format!("select {CLOCK}"), &[]).await?;
    set_clock(client, &clock).await?;
    let progress = Progress::phase("making programs", programs.unsigned_abs().into())?;
    for number in 1..=programs {
        let code = format!("program-{number}");
        client
            .execute("select loyalty.create_program($1, $1)", &[&code])
            .await?;
        client.execute(RECURRING, &[&code]).await?;
        progress.advance(1);
    }
    progress.end();
    client
        .batch_execute("create procedure nothing() language plpgsql as 'begin commit; end'")
        .await?;
    client.batch_execute(TICK).await?;
    client.batch_execute("vacuum analyze").await?;
    let planned = "select count(*) from loyalty.schedule
                    where due_at > loyalty.now() and not is_paused";
    let planned: i64 = value(client, planned, &[]).await?;
    let due = is_due(client).await?;
    if planned != i64::from(programs) * JOBS || due != 0 {
        bail!("{planned} jobs are planned for {programs} programs, and {due} are due");
    }
    Ok(clock)
}

async fn is_due(client: &Client) -> Result<i64> {
    value(client, "select count(*) from loyalty.due_run", &[]).await
}

/// The median time of a call, in milliseconds.
async fn again_and_again(client: &Client, sql: &str) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..CALLS {
        let start = Instant::now();
        client.batch_execute(sql).await?;
        times.push(milliseconds(start));
    }
    Ok(median(&times))
}

/// The same, of the first call that a session makes; pg_cron opens one for each.
async fn in_new_sessions(scratch: &Scratch, sql: &str, clock: &str) -> Result<f64> {
    let mut config = scratch.cluster.config(DATABASE);
    // In the start-up packet, so that it is no call: blanks are escaped there.
    config.options(format!("-c loyalty.clock={}", clock.replace(' ', "\\ ")));
    let mut times = Vec::new();
    for _ in 0..SESSIONS {
        let session = loyalty_testkit::cluster::connect(&config).await?;
        let start = Instant::now();
        session.batch_execute(sql).await?;
        times.push(milliseconds(start));
    }
    Ok(median(&times))
}
