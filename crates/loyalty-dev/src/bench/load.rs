//! Accounts and points to measure with.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio_postgres::Client;
use tokio_postgres::types::{FromSql, ToSql};
use uuid::Uuid;

use super::driver::{Bulk, Ids};
use super::progress::Progress;
use super::report::{Report, grouped};
use super::scratch::Scratch;

/// Accounts opened in one call.
const OPEN_CHUNK: i64 = 10_000;

/// Items in one call of `grant_many` and `spend_many`.
pub const CALL_ITEMS: usize = 1_000;

/// Clients that load; more would only queue for the cores.
const LOADERS: usize = 2;

/// Makes a program and opens its accounts.
pub async fn program(client: &Client, code: &str, accounts: i64) -> Result<Ids> {
    client
        .execute("select loyalty.create_program($1, $1)", &[&code])
        .await?;
    accounts_of(client, code, "m", accounts).await
}

/// Opens accounts whose numbers follow each other, for pgbench to choose from.
pub async fn accounts_of(client: &Client, code: &str, prefix: &str, count: i64) -> Result<Ids> {
    let phase = format!("opening accounts of {code}");
    let progress = Progress::phase(&phase, count.unsigned_abs())?;
    let mut ids: Option<Ids> = None;
    for first in (1..=count).step_by(OPEN_CHUNK as usize) {
        let last = count.min(first + OPEN_CHUNK - 1);
        let row = client
            .query_one(
                "select min(account_id), max(account_id), count(*)\n\
                 from loyalty.open_accounts($1, array(\n\
                 select $2::text || n from generate_series($3::bigint, $4::bigint) n))",
                &[&code, &prefix, &first, &last],
            )
            .await?;
        let (low, high, opened): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        let follows = ids.is_none_or(|ids| ids.last + 1 == low);
        if opened != last - first + 1 || high - low + 1 != opened || !follows {
            bail!("account numbers have gaps: {low} to {high} for {opened} accounts");
        }
        ids = Some(Ids {
            first: ids.map_or(low, |ids| ids.first),
            last: high,
        });
        progress.advance(opened.unsigned_abs());
    }
    progress.end();
    ids.context("no accounts were asked for")
}

/// A table as plain as pgbench's own, with a row for each account number.
pub async fn bare_table(client: &Client, name: &str, ids: Ids) -> Result<()> {
    client
        .batch_execute(&format!(
            "create table {name} (\n\
             id bigint primary key, balance bigint not null, filler char(84) not null default '');\n\
             insert into {name} (id, balance) select id, 0 from generate_series({}, {}) id",
            ids.first, ids.last
        ))
        .await?;
    Ok(())
}

/// `bare_many`: as many wallets updated and entries inserted as there are items, in copies of both
/// tables with their indexes, by a plain statement each; nothing is looked up or checked.
pub async fn bare_many(client: &Client) -> Result<()> {
    let progress = Progress::phase("copying wallets and entries", 0)?;
    client
        .batch_execute(
            "create table bare_wallet (like loyalty.wallet including indexes)\n\
                 with (fillfactor = 75);\n\
             create table bare_entry (like loyalty.entry including indexes);\n\
             insert into bare_wallet select * from loyalty.wallet order by account_id;\n\
             insert into bare_entry select * from loyalty.entry;\n\
             create sequence bare_number as integer start 1000000;\n\
             create function bare_many(items jsonb) returns table (error text) language plpgsql\n\
                 set enable_hashjoin = off set enable_mergejoin = off\n\
             as $$\n\
             declare\n\
                 account_ids bigint[];\n\
                 keys text[];\n\
                 number integer := nextval('bare_number');\n\
             begin\n\
                 select array_agg(i.account_id order by i.account_id),\n\
                        array_agg(i.idempotency_key order by i.account_id)\n\
                   into account_ids, keys\n\
                   from jsonb_to_recordset(items) i (account_id bigint, idempotency_key text);\n\
                 update bare_wallet w\n\
                    set balance = w.balance + 1, last_entry = w.last_entry + 1,\n\
                        lot_granted = w.lot_granted, lot_remaining = w.lot_remaining\n\
                   from unnest(account_ids) i (account_id)\n\
                  where w.account_id = i.account_id;\n\
                 insert into bare_entry (account_id, points, balance, occurred_at, entry, kind,\n\
                        expires_on, granted_on, request_hash, actor, reason, idempotency_key)\n\
                 select i.account_id, 1, 1, now(), number, 'grant',\n\
                        current_date, current_date, 1, current_user, 'bench', i.key\n\
                   from unnest(account_ids, keys) i (account_id, key);\n\
                 return query select null::text from unnest(account_ids);\n\
             end\n\
             $$",
        )
        .await?;
    progress.end();
    Ok(())
}

/// The first value of the one row that a query has.
pub async fn value<T>(client: &Client, sql: &str, arguments: &[&(dyn ToSql + Sync)]) -> Result<T>
where
    T: for<'a> FromSql<'a>,
{
    let row = client.query_one(sql, arguments).await;
    Ok(row.with_context(|| sql.to_owned())?.try_get(0)?)
}

/// What was done before is swept up by this kind of vacuum, and every page is written, so that
/// each measurement starts alike.
pub async fn settle(client: &Client, vacuum: &str) -> Result<()> {
    let progress = Progress::phase("vacuum, checkpoint", 0)?;
    client.batch_execute(vacuum).await?;
    client.batch_execute("checkpoint").await?;
    progress.end();
    Ok(())
}

/// Whether the ledger still holds together after all that.
pub async fn verify(client: &Client, report: &mut Report) -> Result<()> {
    let progress = Progress::phase("verify()", 0)?;
    let entries: i64 = value(client, "select count(*) from loyalty.entry", &[]).await?;
    let start = Instant::now();
    let found = client.query(VERIFY, &[]).await?;
    let took = start.elapsed().max(Duration::from_secs(1));
    progress.end();
    report.notes.push(format!(
        "verify() over the {} entries of this: {} in {:.0} s.",
        grouped(entries as f64),
        if found.is_empty() {
            "nothing found"
        } else {
            "LAWS BROKEN"
        },
        took.as_secs_f64(),
    ));
    let found = found.iter().map(|row| row.get::<_, String>(0));
    report.findings.extend(found);
    Ok(())
}

pub const VERIFY: &str = "select v::text from loyalty.verify() v limit 20";

/// Milliseconds since then.
pub fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1_000.0
}

/// One item of a call.
#[derive(Clone, Debug)]
pub struct Item {
    pub account_id: i64,
    pub points: i64,
    /// `granted_on` or `expires_on` with its day.
    pub day: Option<(&'static str, String)>,
}

impl Item {
    pub fn new(account_id: i64, points: i64, day: Option<(&'static str, String)>) -> Self {
        Self {
            account_id,
            points,
            day,
        }
    }
}

/// The JSON of one call, a new key for each item.
pub fn call(items: &[Item]) -> String {
    let mut text = "[".to_owned();
    for (place, item) in items.iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        // Writing into a String cannot fail.
        let _ok = write!(
            text,
            r#"{comma}{{"account_id":{},"points":{},"reason":"bench","idempotency_key":"{}""#,
            item.account_id,
            item.points,
            key()
        );
        if let Some((name, day)) = &item.day {
            let _ok = write!(text, r#","{name}":"{day}""#);
        }
        text.push('}');
    }
    text.push(']');
    text
}

/// 36 characters that look like a UUID.
fn key() -> String {
    Uuid::from_u128(fastrand::u128(..)).to_string()
}

/// Grants all items in calls of a thousand, without waiting for the disk.
pub async fn grant(
    scratch: &Scratch,
    database: &str,
    what: &str,
    count: i64,
    items: impl Iterator<Item = Item> + Send + 'static,
) -> Result<()> {
    let calls = count.unsigned_abs().div_ceil(CALL_ITEMS as u64);
    let progress = Progress::phase(what, calls)?;
    Bulk {
        cluster: &scratch.cluster,
        database,
        function: "loyalty.grant_many",
        clients: LOADERS,
        synchronous_commit: false,
    }
    .call_all(Calls { items }, Some(&progress))
    .await?;
    progress.end();
    Ok(())
}

/// Items cut into calls, each made when it is asked for.
struct Calls<I> {
    items: I,
}

impl<I: Iterator<Item = Item>> Iterator for Calls<I> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let items: Vec<Item> = self.items.by_ref().take(CALL_ITEMS).collect();
        (!items.is_empty()).then(|| call(&items))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Calls, Item, call, key};

    fn item(account_id: i64) -> Item {
        Item::new(account_id, 5, Some(("granted_on", "2027-01-31".to_owned())))
    }

    #[test]
    fn a_call_is_json_with_a_key_of_its_own_for_each_item() -> anyhow::Result<()> {
        let items = vec![item(1), item(2)];
        let parsed: Vec<serde_json::Value> = serde_json::from_str(&call(&items))?;
        let keys: HashSet<_> = parsed
            .iter()
            .filter_map(|item| item["idempotency_key"].as_str())
            .collect();
        assert_eq!(keys.len(), 2);
        assert_eq!(parsed[1]["account_id"], 2);
        assert_eq!(parsed[1]["granted_on"], "2027-01-31");
        assert_eq!(key().len(), 36);
        Ok(())
    }

    #[test]
    fn calls_hold_a_thousand_items_each_and_the_last_one_the_rest() -> anyhow::Result<()> {
        let sizes: Vec<usize> = Calls {
            items: (0..2_500).map(item),
        }
        .map(|text| serde_json::from_str::<Vec<serde_json::Value>>(&text).map(|items| items.len()))
        .collect::<Result<_, _>>()?;
        assert_eq!(sizes, [1_000, 1_000, 500]);
        Ok(())
    }
}
