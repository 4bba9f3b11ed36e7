//! The expiry run over many accounts, against an UPDATE of as many rows.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use tokio_postgres::Client;

use super::Plan;
use super::driver::Ids;
use super::load::{self, Item, settle, value};
use super::program::set_clock;
use super::progress::Progress;
use super::report::{Report, Target, Unit, grouped, median};
use super::scratch::Scratch;

const DATABASE: &str = "bench_expire";
const ONE_LOT: &str = "one";
const TEN_LOTS: &str = "ten";
const LOTS: i64 = 10;

/// A round needs a lot in every account, which takes long to load.
const MOST_ROUNDS: u32 = 3;

pub async fn measure(scratch: &Scratch, plan: &Plan, report: &mut Report) -> Result<()> {
    let rounds = i64::from(plan.rounds.min(MOST_ROUNDS));
    let client = scratch.create_database(DATABASE).await?;
    // One lot lapses a round: all accounts have the same days.
    let days = Days::load(&client, rounds.max(LOTS)).await?;
    let ids = load::program(&client, ONE_LOT, plan.expire_lots).await?;
    grant_lots(scratch, ids, days.last[..rounds as usize].to_vec()).await?;
    let few = load::program(&client, TEN_LOTS, plan.expire_lots / LOTS).await?;
    grant_lots(scratch, few, days.last[..LOTS as usize].to_vec()).await?;
    load::bare_table(&client, "bare_big", ids).await?;
    client.batch_execute("vacuum analyze").await?;

    let progress = Progress::phase("expiring", rounds.unsigned_abs() * 2 + 1)?;
    let (mut bare, mut one) = (Vec::new(), Vec::new());
    for clock in &days.after[..rounds as usize] {
        progress.now("bare update");
        bare.push(update(&client, plan.expire_lots).await?);
        progress.advance(1);
        progress.now("one lot each");
        one.push(expire(&client, ONE_LOT, clock, plan.expire_lots).await?);
        progress.advance(1);
    }
    progress.now("ten lots each");
    let last = days.after.last().context("no days")?;
    let lots = plan.expire_lots / LOTS * LOTS;
    let ten = expire(&client, TEN_LOTS, last, lots).await?;
    progress.end();

    let base = median(&bare);
    let (that, unit) = ("bare update", Unit::PerSecond);
    let target = Some(Target::AtLeast(0.4));
    report.line("expire, one lot an account", that, unit, one, bare, target);
    let name = "expire, ten lots an account";
    report.line(name, that, unit, vec![ten], vec![base], None);
    report.notes.push(format!(
        "Expiry: {} lots in one call, against one UPDATE of as many rows; {rounds} rounds, \
         ten lots once.",
        grouped(plan.expire_lots as f64),
    ));
    drop(client);
    scratch.drop_database(DATABASE).await
}

/// Last days of lots, and a moment after each.
struct Days {
    last: Vec<String>,
    after: Vec<String>,
}

impl Days {
    async fn load(client: &Client, count: i64) -> Result<Self> {
        let rows = client
            .query(
                "select (current_date + 30 * n)::text,\n\
                 (current_date + 30 * n + 2)::text || ' 12:00+00'\n\
                 from generate_series(1, $1::bigint::integer) n",
                &[&count],
            )
            .await?;
        Ok(Self {
            last: rows.iter().map(|row| row.get(0)).collect(),
            after: rows.iter().map(|row| row.get(1)).collect(),
        })
    }
}

async fn grant_lots(scratch: &Scratch, ids: Ids, days: Vec<String>) -> Result<()> {
    let count = ids.count() * days.len() as i64;
    let what = format!("granting {} lots each", days.len());
    let items = days.into_iter().flat_map(move |day| {
        ids.all()
            .map(move |id| Item::new(id, 100, Some(("expires_on", day.clone()))))
    });
    load::grant(scratch, DATABASE, &what, count, items).await
}

/// Rows a second.
async fn update(client: &Client, rows: i64) -> Result<f64> {
    settle(client, "vacuum").await?;
    let start = Instant::now();
    let updated = client
        .execute("update bare_big set balance = balance - 1", &[])
        .await?;
    let rate = rows as f64 / start.elapsed().as_secs_f64();
    if updated != rows.unsigned_abs() {
        bail!("the bare update changed {updated} rows, not {rows}");
    }
    Ok(rate)
}

/// Lots a second.
async fn expire(client: &Client, program: &str, clock: &str, lots: i64) -> Result<f64> {
    settle(client, "vacuum").await?;
    set_clock(client, clock).await?;
    let start = Instant::now();
    let expire = "select lots from loyalty.expire($1)";
    let booked: i64 = value(client, expire, &[&program]).await?;
    let rate = lots as f64 / start.elapsed().as_secs_f64();
    if booked != lots {
        bail!("expire booked {booked} lots, not {lots}");
    }
    Ok(rate)
}
