//! A program with members and two rules that pay the same people on the same days, and how
//! ledgers are compared.

use anyhow::{Result, ensure};
use loyalty_tests::{assert_sound, sqlstate};
use std::collections::HashSet;
use tokio_postgres::Client;

/// When the worlds begin.
pub const START: &str = "2025-01-05 12:00+09";

/// Members' first service on all days of five years; three of them on days that not every
/// month or year has (C2). Two rules pay each of them on the same day; points last long
/// enough to lapse within the tests (C6 has three years).
pub async fn program(client: &Client, code: &str, zone: &str, members: i64) -> Result<()> {
    client
        .batch_execute(&format!(
            "set loyalty.clock = '{START}';
             select loyalty.create_program('{code}', '{code}', time_zone => '{zone}',
                                           expiry => 'end of month after 1 months');
             insert into loyalty.member (account_id, program_id, facts, updated_at)
             select o.account_id, loyalty.program_id('{code}'),
                    jsonb_build_object('first_service_on', case n
                        when 1 then '2024-02-29' when 2 then '2023-01-31' when 3 then '2024-01-15'
                        else ('2020-01-01'::date + (n * 37 % 1800)::integer)::text end),
                    loyalty.now()
               from loyalty.open_accounts('{code}', array(
                        select 'M-' || n from generate_series(1, {members}) n order by n)) o
              cross join lateral (select substr(o.member_no, 3)::bigint as n) m;
             select loyalty.create_rule('{code}', 'anniversary', 'anniversary',
                 '{{\"fact\": \"first_service_on\", \"every_years\": 1, \"points\": 2000, \"day_of_month\": 15}}',
                 'Anniversary');
             select loyalty.create_rule('{code}', 'bonus', 'anniversary',
                 '{{\"fact\": \"first_service_on\", \"every_months\": 6, \"points\": 300, \"day_of_month\": 15}}',
                 'Bonus')"
        ))
        .await?;
    Ok(())
}

pub async fn set_clock(client: &Client, time: &str) -> Result<()> {
    client
        .batch_execute(&format!("set loyalty.clock = '{time}'"))
        .await?;
    Ok(())
}

pub async fn tick_at(client: &Client, time: &str, chunk_size: i64) -> Result<()> {
    set_clock(client, time).await?;
    client
        .batch_execute(&format!("call loyalty.tick({chunk_size})"))
        .await?;
    Ok(())
}

/// Ticks each so many days from a day to another, at half past noon UTC.
pub async fn tick_days(client: &Client, from: &str, to: &str, step: i32, chunk: i64) -> Result<()> {
    let days = client
        .query(
            "select day::date::text
               from generate_series($1::text::date, $2::text::date, make_interval(days => $3)) day",
            &[&from, &to, &step],
        )
        .await?;
    for day in days {
        tick_at(
            client,
            &format!("{} 12:30+00", day.get::<_, &str>(0)),
            chunk,
        )
        .await?;
    }
    Ok(())
}

/// All that a ledger is, but for when it was written: entries, wallets, what rules paid, what
/// expiry booked in all (one run may book for several days). A line for each.
#[derive(Debug)]
pub struct Ledger {
    pub entries: Vec<String>,
    wallets: Vec<String>,
    runs: Vec<String>,
    failures: Vec<String>,
}

impl Ledger {
    /// Refused with what differs.
    pub fn same_as(&self, expected: &Ledger) -> Result<()> {
        for (what, found, expected) in [
            ("entries", &self.entries, &expected.entries),
            ("wallets", &self.wallets, &expected.wallets),
            ("runs", &self.runs, &expected.runs),
            ("failures", &self.failures, &expected.failures),
        ] {
            let without = |lines: &[String], others: &[String]| -> Vec<String> {
                let others: HashSet<&String> = others.iter().collect();
                lines
                    .iter()
                    .filter(|line| !others.contains(line))
                    .take(20)
                    .cloned()
                    .collect()
            };
            ensure!(
                found == expected,
                "{what} differ: {} instead of {}; found {:#?} instead of {:#?}",
                found.len(),
                expected.len(),
                without(found, expected),
                without(expected, found)
            );
        }
        Ok(())
    }
}

/// What a stored receipt says of the points available after it; a payment that comes so late
/// that it has lapsed is never available.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Available {
    Compared,
    LateIsLess,
}

pub async fn ledger(client: &Client, available: Available) -> Result<Ledger> {
    let available = match available {
        Available::Compared => "e.available",
        Available::LateIsLess => "0",
    };
    let lines = async |sql: &str| texts(client, sql).await;
    Ok(Ledger {
        entries: lines(&format!(
            "select (e.account_id, e.entry, e.kind, e.points, e.balance, {available}, e.held, e.debt,
                     e.granted_on, e.expires_on, e.lot_expires_on, e.lot_points, e.lot_class, e.refers_to,
                     e.reason, e.idempotency_key, e.request_hash, e.actor)::text
               from loyalty.entry e order by e.account_id, e.entry"
        ))
        .await?,
        wallets: lines("select w::text from loyalty.wallet w order by w.account_id").await?,
        runs: lines(
            "select (r.program_id, r.job, r.period, r.effective_on, r.outcome, r.members, r.paid, r.failed,
                     r.points, r.error)::text
               from loyalty.run r where r.job like 'rule:%'
             union all
             select (r.program_id, r.job, sum(r.lots), sum(r.points), count(*) filter (where r.finished_at is null))::text
               from loyalty.run r where r.job = 'expire' group by r.program_id, r.job
              order by 1",
        )
        .await?,
        failures: lines(
            "select (f.account_id, f.idempotency_key, f.points, f.code)::text from loyalty.run_failure f order by 1",
        )
        .await?,
    })
}

/// verify() finds nothing, nothing is due, no run is open.
pub async fn sound(client: &Client) -> Result<()> {
    assert_sound(client).await?;
    for sql in [
        "select d::text from loyalty.due_run d",
        "select r::text from loyalty.run r where r.finished_at is null or r.error is not null",
    ] {
        let wrong = client.query(sql, &[]).await?;
        let wrong: Vec<&str> = wrong.iter().map(|row| row.get(0)).collect();
        ensure!(wrong.is_empty(), "{sql}: {wrong:?}");
    }
    Ok(())
}

/// A call that must be refused, with that code.
pub async fn refused(client: &Client, call: &str, code: &str) -> Result<()> {
    let schema = match call.starts_with("loyalty") {
        true => "",
        false => "loyalty.",
    };
    let call = format!("select {schema}{call}");
    let state = sqlstate(&client.batch_execute(&call).await);
    ensure!(state == code, "{call}: {state}");
    Ok(())
}

pub async fn number(client: &Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// The first column of all rows, as text.
pub async fn texts(client: &Client, sql: &str) -> Result<Vec<String>> {
    let rows = client.query(sql, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| row.get::<_, Option<String>>(0).unwrap_or_default())
        .collect())
}
