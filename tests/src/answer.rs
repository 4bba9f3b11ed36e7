//! What a ledger answers, and all that is stored of it: the same in a copy of it, in an upgraded
//! one, and wherever it was moved to.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};
use tokio_postgres::Client;

use crate::{RICH_LEDGER, assert_sound, sqlstate};

/// People around [`RICH_LEDGER`]: logins, families, roles, approvals.
pub const PEOPLE: &str = include_str!("people.sql");

/// Fills an empty ledger: something of every kind, a row in every table that a dump has.
pub async fn fill(client: &Client) -> Result<()> {
    client.batch_execute(RICH_LEDGER).await?;
    client.batch_execute("call loyalty.tick(3)").await?;
    client.batch_execute(PEOPLE).await.context("people.sql")?;
    Ok(())
}

/// By table or sequence, the rows it has, in an order that depends on nothing else.
pub type Stored = BTreeMap<String, Vec<Map<String, Value>>>;

/// Every row of every table and sequence that a dump of the extension has.
pub async fn stored(client: &Client) -> Result<Stored> {
    client
        .batch_execute(
            "set timezone = 'UTC'; set datestyle = 'ISO'; set intervalstyle = 'postgres'",
        )
        .await?;
    let relations = client
        .query(
            "select c.oid::regclass::text, c.relkind = 'S'
               from pg_extension e, unnest(e.extconfig) r (oid)
               join pg_class c using (oid)
              where e.extname = 'pg_loyalty'",
            &[],
        )
        .await?;
    let mut stored = Stored::new();
    for relation in relations {
        let name: String = relation.get(0);
        let query = match relation.get(1) {
            true => format!(
                "select jsonb_build_object('last_value', last_value, 'is_called', is_called) from {name}"
            ),
            false => format!("select to_jsonb(t) from {name} t order by t::text"),
        };
        let rows = client.query(&query, &[]).await?;
        let rows = rows.iter().map(|row| match row.get(0) {
            Value::Object(columns) => Ok(columns),
            other => anyhow::bail!("{name} has a row {other}"),
        });
        stored.insert(name.clone(), rows.collect::<Result<_>>()?);
    }
    ensure!(!stored.is_empty(), "the extension is not there");
    Ok(stored)
}

/// The table with the supplied texts in it.
const TEXTS: &str = "loyalty.notice_template";

/// The same with the columns, tables and kinds of supplied texts of an earlier one only: what a
/// later version adds is left out.
pub fn as_in(earlier: &Stored, stored: &Stored) -> Stored {
    let texts = earlier.get(TEXTS).map(Vec::as_slice).unwrap_or_default();
    let is_new_text = |name: &str, row: &Map<String, Value>| {
        name == TEXTS
            && row["program_id"].is_null()
            && !texts.iter().any(|text| text["kind"] == row["kind"])
    };
    let known = |name: &str, row: &Map<String, Value>| {
        let columns = earlier.get(name).and_then(|rows| rows.first());
        let is_known = |column: &str| columns.is_none_or(|known| known.contains_key(column));
        let kept = row.iter().filter(|(column, _)| is_known(column));
        kept.map(|(column, value)| (column.clone(), value.clone()))
            .collect()
    };
    let tables = stored
        .iter()
        .filter(|(name, _)| earlier.contains_key(*name));
    tables
        .map(|(name, rows)| {
            (
                name.clone(),
                rows.iter()
                    .filter(|row| !is_new_text(name, row))
                    .map(|row| known(name, row))
                    .collect(),
            )
        })
        .collect()
}

/// Fails with the first row that is not the same, or missing, or too much.
pub fn same_rows(expected: &Stored, found: &Stored) -> Result<()> {
    let names = |stored: &Stored| stored.keys().cloned().collect::<Vec<_>>();
    ensure!(
        names(expected) == names(found),
        "{:?} and {:?}",
        names(expected),
        names(found)
    );
    let line = |row: &Map<String, Value>| Value::Object(row.clone()).to_string();
    for (name, rows) in expected {
        let other = &found[name];
        let ours: HashSet<String> = rows.iter().map(line).collect();
        let theirs: HashSet<String> = other.iter().map(line).collect();
        let lacking = ours.difference(&theirs).next();
        ensure!(lacking.is_none(), "{name} lacks {lacking:?}");
        let more = theirs.difference(&ours).next();
        ensure!(more.is_none(), "{name} has {more:?} besides");
        ensure!(
            rows.len() == other.len(),
            "{name} has {} rows, not {}",
            other.len(),
            rows.len()
        );
    }
    Ok(())
}

/// Questions whose answers must be the same in the copy, at any time.
const QUESTIONS: &[&str] = &[
    "select p::text from loyalty.program p order by program_id",
    "select c::text from loyalty.lot_class c order by program_id, lot_class",
    "select c::text from loyalty.calendar c order by 1",
    "select c::text from loyalty.calendar_day c order by 1",
    "select r::text from loyalty.run r order by run_id",
    "select s::text from loyalty.schedule s order by program_id, job",
    "select r::text from loyalty.rule r order by program_id, code, version",
    "select e::text from loyalty.event e order by event_id",
    "select (a.account_id, r.code, x.*)::text from loyalty.account a join (select distinct program_id, code from loyalty.rule) r using (program_id), loyalty.explain_rule(a.account_id, r.code) x where a.member_no in ('buyer', 'friend') order by 1",
    "select f::text from loyalty.run_failure f order by 1",
    "select d::text from loyalty.due_run d order by 1",
    // due_at and the like are of the machine's clock: the same only where they were restored
    "select n::text from loyalty.notice n where occasion ~ '^A-[1-4]$' order by notice_id",
    "select (to_jsonb(n) - 'due_at' - 'send_by')::text from loyalty.notice n order by notice_id",
    "select loyalty_private.notice_context(n)::text from loyalty.notice n order by notice_id",
    "select s::text from loyalty.notice_setting s order by program_id, kind",
    "select f::text from loyalty.notice_sender f order by program_id",
    "select r::text from loyalty.notice_preference r order by account_id, kind",
    // later versions may supply texts of more kinds
    "select t::text from loyalty.notice_template t where program_id is not null order by program_id, kind, language",
    "select (n.kind, n.period, n.due_at)::text from (select k.kind, o.* from loyalty.program p, (values ('balance'), ('expiry')) k (kind), loyalty.next_notice(p.program_id, k.kind, loyalty.now()) o) n order by 1",
    "select (b.channel, b.waiting, b.given_up)::text from loyalty.notice_backlog() b",
    "select a::text from loyalty.account a order by account_id",
    "select m::text from loyalty.member m order by account_id",
    "select h::text from loyalty.service_hours h order by program_id",
    "select e::text from loyalty.entry e order by account_id, entry",
    "select w::text from loyalty.wallet w order by account_id",
    "select (a.account_id, b.*)::text from loyalty.account a, loyalty.balance(a.account_id) b order by 1",
    "select (a.account_id, b.*)::text from loyalty.account a, loyalty.balance(a.account_id, date '2025-03-15') b order by 1",
    "select (a.account_id, b.*)::text from loyalty.account a, loyalty.balance(a.account_id, date '2027-01-01') b order by 1",
    "select (a.account_id, l.*)::text from loyalty.account a, loyalty.lots(a.account_id) with ordinality l order by a.account_id, l.ordinality",
    "select s::text from loyalty.account a, loyalty.statement(a.account_id, '2025-01-11') s order by s.operation_id",
    "select j::text from loyalty.journal j order by operation_id, side",
    "select s::text from loyalty.account a, loyalty.explain_spend(a.account_id, 30) s where a.member_no in ('spender', 'many 20') order by a.account_id, step",
    "select loyalty.next_business_day('2025-08-13', 'office')::text",
    "select loyalty.today(code)::text from loyalty.program order by program_id",
    "select v::text from loyalty.verify() v",
];

/// The times at which they are asked: a zone's midnight, the end of lots, of holds.
const TIMES: &[&str] = &[
    "2025-07-10 10:00+09",
    "2025-08-31 14:59:59+00",
    "2025-08-31 15:00:00+00",
    "2026-09-01 00:00+09",
];

/// All answers at all times; fails where verify() finds something.
pub async fn answers(client: &Client) -> Result<String> {
    let mut answers = String::new();
    for time in TIMES {
        client
            .batch_execute(&format!("set loyalty.clock = '{time}'"))
            .await?;
        for question in QUESTIONS {
            answers += &format!("-- {time}: {question}\n");
            for row in client.query(*question, &[]).await.context(*question)? {
                answers += &format!("{}\n", row.get::<_, &str>(0));
            }
        }
    }
    ensure!(
        !answers.contains("loyalty.verify() v\n("),
        "verify() finds something: {answers}"
    );
    Ok(answers)
}

/// What happens next, in the words of the receipts: stored ones, new ones, refusals.
pub async fn go_on(client: &Client) -> Result<String> {
    client
        .batch_execute("set loyalty.clock = '2025-07-11 10:00+09'")
        .await?;
    let account = |member_no: &str| {
        format!(
            "(select account_id from loyalty.account a join loyalty.program p using (program_id)
                   where p.code = 'coin' and member_no = '{member_no}')"
        )
    };
    let (spender, holder, sender, receiver) = (
        account("spender"),
        account("holder"),
        account("sender"),
        account("receiver"),
    );
    let hold = format!(
        "(select operation_id from loyalty.statement({holder}) where idempotency_key = 'h1')"
    );
    let mut told = String::new();
    for call in [
        // idempotency keys are known, their receipts stored (law 6)
        format!(
            "loyalty.grant({spender}, 100, 'first', expires_on => '2025-03-31', idempotency_key => 'g1')"
        ),
        format!("loyalty.spend_fifo({spender}, 210, 'three lots', 's1')"),
        format!("loyalty.spend_fifo({spender}, 211, 'three lots', 's1')"),
        format!("loyalty.transfer({sender}, {receiver}, 150, 'present', 't1')"),
        format!("loyalty.hold({holder}, 25, '300 days', 'open', 'h1')"),
        // new ones get the next numbers
        format!("loyalty.spend_fifo({spender}, 33, idempotency_key => 'next')"),
        format!("loyalty.grant({spender}, 44, funding => 'shop')"),
        format!("loyalty.grant({spender}, 44, funding => 'somebody new')"),
        format!("loyalty.transfer({receiver}, {sender}, 5)"),
        // holds are open (law 8)
        format!("loyalty.capture({holder}, {hold}, 20)"),
        format!("loyalty.capture({holder}, {hold}, 1)"),
        format!("loyalty.spend_fifo({}, 1)", account("closed")),
        format!("loyalty.spend_fifo({}, 1)", account("suspended")),
        format!("loyalty.resume_account({})", account("suspended")),
        // sequences go on
        "loyalty.open_account('coin', 'somebody new')".to_owned(),
        "loyalty.open_account('coin', 'spender')".to_owned(),
        "loyalty.create_program('next', 'Next club')".to_owned(),
        "(select row(e.*) from loyalty.expire('coin') e)".to_owned(),
        // events are known by their reference, new ones get the next number
        "(select row(e.*) from loyalty.record_event('coin', 'purchase', 'buyer', amount => 999.99, reference => 'o1') e)".to_owned(),
        "(select row(e.*) from loyalty.record_event('coin', 'purchase', 'buyer', amount => 1, reference => 'o1') e)".to_owned(),
        "(select row(e.*) from loyalty.record_event('coin', 'purchase', 'friend', amount => 500) e)".to_owned(),
        "loyalty.cancel_event((select event_id from loyalty.event where reference = 'o1'))".to_owned(),
        "loyalty.end_rule('coin', 'rate', '2025-07-31')".to_owned(),
        // what was told already is not told again; what was not, gets the next number
        "loyalty.announce_order((select account_id from loyalty.member where email = 'late@example.com'), 'A-1', 'Night', 1, 40)".to_owned(),
        "loyalty.announce_order((select account_id from loyalty.member where email = 'late@example.com'), 'A-9', 'Night', 1, 40)".to_owned(),
        "(select max(notice_id) from loyalty.notice)".to_owned(),
        "(select q from loyalty_private.queue_balance_notices(loyalty.program_id('mile'), loyalty.today('mile'), 0, 10) q)".to_owned(),
        "(select row(t.subject, t.text_body) from loyalty.preview_template('mile', 'balance', 'en') t)".to_owned(),
    ] {
        let answer = client
            .query_one(&format!("select ({call})::text"), &[])
            .await;
        told += &match answer {
            Ok(row) => format!("{call}: {}\n", row.get::<_, Option<&str>>(0).unwrap_or("")),
            Err(_) => format!("{call}: {}\n", sqlstate(&answer)),
        };
    }
    client.batch_execute("call loyalty.tick()").await?;
    assert_sound(client).await.with_context(|| told.clone())?;
    for state in ["LY003", "LY004", "LY006"] {
        ensure!(told.contains(state), "no {state} in {told}");
    }
    Ok(told)
}

/// Equal line by line; else the first that is not.
pub fn similar(expected: &str, found: &str) -> Result<()> {
    for (expected, found) in expected.lines().zip(found.lines()) {
        ensure!(expected == found, "expected: {expected}\nfound: {found}");
    }
    ensure!(expected.lines().count() == found.lines().count());
    Ok(())
}
