//! What a superuser forces in past the guards must be named by `loyalty.verify()` (law 11).
//!
//! These columns are information that nothing else in the journal tells again; verify() can
//! hold them to bounds only: account.member_no, account.opened_at; wallet.status, but that a
//! closed account is empty; entry.actor, reason, idempotency_key and request_hash, but that
//! the last two come together; lot_class.funding and inactivity_months, but that points were
//! extended by them; entry.kind of what was forfeited at closing (it might have
//! been a spend); entry.occurred_at, but that lots were spent while they lasted,
//! lapsed afterwards, and holds ended in time; entry.granted_on, but that it lies before the
//! day it was booked and before the lot's last day; entry.hold_until of a hold that is over.
//! And a superuser who rewrites an entry with all that belongs to it, or journal and wallet
//! alike, has written another ledger, which only a backup tells from the true one.

use crate::columns;
use anyhow::{Result, ensure};
use loyalty_testkit::TestDb;
use loyalty_tests::{RICH_LEDGER, sqlstate};
use std::collections::BTreeSet;
use tokio_postgres::Client;

/// What to write into a column; `{x}` is the column. What changes nothing is left out.
fn entry_changes(column: &str) -> Option<Vec<String>> {
    let changes: &[&str] = match column {
        "account_id" => &["(select account_id from loyalty.account where member_no = 'empty')", "{x} + 100000"],
        "points" => &["{x} + 1", "{x} - 1", "-{x}", "0", "9223372036854775807"],
        "balance" => &["{x} + 1", "{x} - 1", "9223372036854775807"],
        "entry" => &["{x} + 1000", "{x} - 1"],
        "kind" => &["'grant'", "'spend'", "'hold'", "'capture'", "'release'", "'refund'", "'revoke'", "'repay'", "'transfer'", "'expire'", "'extend'"],
        "expires_on" => &["{x} + 1", "{x} - 1", "{x} + 400", "null", "'infinity'", "'2025-12-31'"],
        "granted_on" => &["case when {x} is null then date '2025-01-10' end", "case when {x} is not null then date '2031-01-01' end"],
        "request_hash" => &["case when {x} is null then 1 end", "null"],
        "idempotency_key" => &["case when {x} is null then 'forged' end", "null"],
        "refers_to" => &["{x} + 1", "{x} - 1", "case when {x} is null then 1 end", "null"],
        "available" => &["coalesce({x}, balance) + 1", "coalesce({x}, balance) - 1", "null"],
        "held" => &["{x} + 1", "{x} - 1", "-{x}", "null", "case when {x} is null then 1 end", "case when {x} is null then -1 end"],
        "debt" => &["{x} + 1", "{x} - 1", "null", "case when {x} is null then 1 end", "case when {x} is null then -1 end"],
        "other_account_id" => &["{x} + 1", "null", "case when {x} is null then 1 end"],
        "other_entry" => &["{x} + 1", "null", "case when {x} is null then 1 end"],
        "lot_expires_on" => &["null", "{x} || {x}", "{x}[2:] || {x}[1]", "({x}[1] + 1) || {x}[2:]", "array[null::date] || {x}[2:]", "array['2025-12-31'::date]"],
        "lot_points" => &["null", "{x} || {x}", "{x}[2:] || {x}[1]", "({x}[1] + 1) || {x}[2:]",
            "array[{x}[1] + 1, {x}[2] - 1] || {x}[3:]", "array[null::bigint] || {x}[2:]", "array[points]"],
        "lot_class" => &["null", "{x} || {x}", "({x}[1] + 1::smallint)::smallint || {x}[2:]", "'{1}'"],
        "hold_until" => &["null", "case when {x} is null then occurred_at + interval '1 day' end",
            "case when entry = any (select unnest(w.hold_entry) from loyalty.wallet w where w.account_id = entry.account_id)
                  then {x} + interval '1 minute' end"],
        "occurred_at" | "actor" | "reason" => &[],
        _ => return None,
    };
    Some(
        changes
            .iter()
            .map(|change| change.replace("{x}", column))
            .collect(),
    )
}

fn wallet_changes(column: &str) -> Option<Vec<String>> {
    let changes: &[&str] = match column {
        "account_id" => &["{x} + 100000"],
        "balance" => &["{x} + 1", "{x} - 1"],
        "debt" => &["coalesce({x}, 0) + 1", "null"],
        "program_id" => &["{x} % 3 + 1"],
        "status" => &["case when balance > 0 then 'closed'::loyalty.account_status end"],
        "first_entry" => &["null", "coalesce({x}, 0) + 1"],
        "last_entry" => &["{x} + 1", "{x} - 1"],
        "next_expiry_on" => &["{x} + 1", "{x} - 1", "null", "'2025-12-31'"],
        "lot_expires_on" => &[
            "({x}[1] + 1) || {x}[2:]",
            "({x}[1] - 1) || {x}[2:]",
            "{x}[2:] || {x}[1]",
            "{x}[2:]",
        ],
        "lot_granted" => &[
            "({x}[1] + 1) || {x}[2:]",
            "({x}[1] - 1) || {x}[2:]",
            "{x}[2:] || {x}[1]",
            "{x}[:cardinality({x}) - 1] || ({x}[cardinality({x})] + 1)",
        ],
        "lot_remaining" => &[
            "({x}[1] + 1) || {x}[2:]",
            "array[{x}[1] - 1, {x}[2] + 1] || {x}[3:]",
            "array[{x}[1] + 1, {x}[2] - 1] || {x}[3:]",
            "{x}[2:] || {x}[1]",
        ],
        "lot_class" => &[
            "array_fill(1::smallint, array[cardinality(lot_remaining)])",
            "{x}[2:] || {x}[1]",
            "null",
        ],
        "hold_entry" => &["null", "'{1}'", "{x}[2:]", "({x}[1] + 1) || {x}[2:]"],
        "hold_until" => &[
            "null",
            "'{2026-01-01}'",
            "{x}[2:]",
            "({x}[1] + interval '1 minute') || {x}[2:]",
        ],
        _ => return None,
    };
    Some(
        changes
            .iter()
            .map(|change| change.replace("{x}", column))
            .collect(),
    )
}

/// How a forgery ended.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// A constraint or a type refused it.
    Refused,
    /// It changed no row.
    Nothing,
    Found,
    Unseen,
}

/// Forces a forgery in past the guards and asks verify() for the account.
async fn force(client: &Client, sql: &str, account_id: i64) -> Result<Outcome> {
    client
        .batch_execute("begin; set local session_replication_role = replica")
        .await?;
    let outcome = match client.execute(sql, &[]).await {
        Err(_) => Outcome::Refused,
        Ok(0) => Outcome::Nothing,
        Ok(_) => {
            let row = client
                .query_one(
                    "select count(*) from loyalty.verify()
                      where account_id = $1 and law between 1 and 10 and problem <> ''",
                    &[&account_id],
                )
                .await?;
            if row.get::<_, i64>(0) > 0 {
                Outcome::Found
            } else {
                Outcome::Unseen
            }
        }
    };
    client.batch_execute("rollback").await?;
    Ok(outcome)
}

async fn rich(label: &str) -> Result<(TestDb, Client)> {
    let db = TestDb::create(label).await?;
    let client = db.connect().await?;
    client.batch_execute(RICH_LEDGER).await?;
    let kinds: i64 = client
        .query_one("select count(distinct kind) from loyalty.entry", &[])
        .await?
        .get(0);
    let all: i64 = client
        .query_one(
            "select cardinality(enum_range(null::loyalty.entry_kind))::bigint",
            &[],
        )
        .await?
        .get(0);
    ensure!(
        kinds == all,
        "the ledger has {kinds} of {all} kinds of entries"
    );
    let wrong = client.query("select * from loyalty.verify()", &[]).await?;
    ensure!(wrong.is_empty(), "verify() of a sound ledger: {wrong:?}");
    Ok((db, client))
}

/// Tries every forgery; how many were found, and which were refused. None may go unseen.
async fn force_all<'a>(
    client: &Client,
    forgeries: &'a [(String, i64)],
) -> Result<(usize, Vec<&'a str>)> {
    let (mut found, mut refused, mut unseen) = (0, Vec::new(), Vec::new());
    for (sql, account_id) in forgeries {
        match force(client, sql, *account_id).await? {
            Outcome::Found => found += 1,
            Outcome::Refused => refused.push(sql.as_str()),
            Outcome::Nothing => {}
            Outcome::Unseen => unseen.push(format!("account {account_id}: {sql}")),
        }
    }
    ensure!(
        unseen.is_empty(),
        "verify() says nothing of\n{}",
        unseen.join("\n")
    );
    Ok((found, refused))
}

/// Law 11: every column of every entry, forged one at a time.
#[tokio::test]
async fn verify_names_a_forged_entry() -> Result<()> {
    let (_db, client) = rich("law_entry").await?;
    let rows = client
        .query(
            "select e.account_id, e.entry from loyalty.entry e join loyalty.account a using (account_id)
              where a.member_no !~ '^many' or a.member_no = 'many 7' order by 1, 2",
            &[],
        )
        .await?;
    let mut forgeries = Vec::new();
    for column in columns(&client, "loyalty.entry").await? {
        let changes = entry_changes(&column);
        ensure!(
            changes.is_some(),
            "loyalty.entry.{column}: forge it here, or tell why not"
        );
        for change in changes.unwrap_or_default() {
            for row in &rows {
                let (account_id, entry): (i64, i32) = (row.get(0), row.get(1));
                // a change to null forges only what was not
                let guard = match change.as_str() {
                    text if text.starts_with("case when") => format!("and ({change}) is not null"),
                    _ => String::new(),
                };
                let other = if change.contains("select account_id") {
                    format!("and account_id <> {change}")
                } else {
                    String::new()
                };
                forgeries.push((
                    format!(
                        "update loyalty.entry set {column} = {change}
                          where account_id = {account_id} and entry = {entry}
                            and {column} is distinct from {change} {guard} {other}
                            -- what was forfeited at closing may as well have been spent
                            and not ('{column}' = 'kind' and $${change}$$ = $$'spend'$$ and kind = 'expire'
                                     and account_id = (select account_id from loyalty.account where member_no = 'closed'))"
                    ),
                    account_id,
                ));
            }
        }
    }
    for row in &rows {
        let (account_id, entry): (i64, i32) = (row.get(0), row.get(1));
        forgeries.push((
            format!(
                "delete from loyalty.entry where account_id = {account_id} and entry = {entry}"
            ),
            account_id,
        ));
        forgeries.push((
            format!(
                "insert into loyalty.entry
                 select (jsonb_populate_record(e, jsonb_build_object(
                            'entry', (select max(entry) + 1 from loyalty.entry where account_id = {account_id}),
                            'idempotency_key', null, 'request_hash', null))).*
                   from loyalty.entry e where account_id = {account_id} and entry = {entry}"
            ),
            account_id,
        ));
    }
    let (found, refused) = force_all(&client, &forgeries).await?;
    let refused = refused.len();
    ensure!(
        found > 1500 && refused > 200,
        "only {found} found, {refused} refused"
    );
    Ok(())
}

/// Law 11: every column of every wallet, forged one at a time.
#[tokio::test]
async fn verify_names_a_forged_wallet() -> Result<()> {
    let (_db, client) = rich("law_wallet").await?;
    let rows = client
        .query(
            "select a.account_id from loyalty.account a
              where a.member_no !~ '^many' or a.member_no = 'many 7' order by 1",
            &[],
        )
        .await?;
    let mut forgeries = Vec::new();
    for column in columns(&client, "loyalty.wallet").await? {
        let changes = wallet_changes(&column);
        ensure!(
            changes.is_some(),
            "loyalty.wallet.{column}: forge it here, or tell why not"
        );
        for change in changes.unwrap_or_default() {
            for row in &rows {
                let account_id: i64 = row.get(0);
                let guard = match change.as_str() {
                    text if text.starts_with("case when") => format!("and ({change}) is not null"),
                    _ => String::new(),
                };
                forgeries.push((
                    format!(
                        "update loyalty.wallet set {column} = {change}
                          where account_id = {account_id} and {column} is distinct from {change} {guard}
                            and not ('{column}' ~ '^lot_' and lot_remaining = '{{}}')"
                    ),
                    account_id,
                ));
            }
        }
    }
    // what fits together within the wallet, but not with the journal
    for row in &rows {
        let account_id: i64 = row.get(0);
        for set in [
            "balance = balance + 1, lot_granted = (lot_granted[1] + 1) || lot_granted[2:],
             lot_remaining = (lot_remaining[1] + 1) || lot_remaining[2:]",
            "balance = balance - 1, lot_remaining = (lot_remaining[1] - 1) || lot_remaining[2:]",
            "balance = balance - lot_remaining[1], next_expiry_on = nullif(lot_expires_on[2], 'infinity'),
             lot_granted = lot_granted[2:], lot_remaining = lot_remaining[2:],
             lot_expires_on = lot_expires_on[2:], lot_class = lot_class[2:]",
            "lot_expires_on = (lot_expires_on[1] - 1) || lot_expires_on[2:], next_expiry_on = next_expiry_on - 1",
            "lot_expires_on = array_fill('infinity'::date, array[cardinality(lot_remaining)]), next_expiry_on = null",
            "hold_entry = coalesce(hold_entry, '{}') || 1, hold_until = coalesce(hold_until, '{}') || now()",
            "hold_entry = null, hold_until = null",
            "balance = 0, lot_expires_on = '{}', lot_granted = '{}', lot_remaining = '{}', lot_class = null,
             next_expiry_on = null, first_entry = null, last_entry = 0",
        ] {
            forgeries.push((
                format!(
                    "update loyalty.wallet w set {set}
                      where account_id = {account_id} and {}",
                    if set.starts_with("hold_entry = null") {
                        "hold_entry is not null"
                    } else {
                        "lot_remaining <> '{}'"
                    }
                ),
                account_id,
            ));
        }
        for gone in ["account", "wallet"] {
            forgeries.push((
                format!("delete from loyalty.{gone} where account_id = {account_id}"),
                account_id,
            ));
        }
        forgeries.push((
            format!("update loyalty.account set program_id = program_id % 3 + 1 where account_id = {account_id}"),
            account_id,
        ));
    }
    let (found, refused) = force_all(&client, &forgeries).await?;
    let refused = refused.len();
    ensure!(
        found > 300 && refused > 150,
        "only {found} found, {refused} refused"
    );
    Ok(())
}

/// Law 11: forgeries of more than one row, each fit for what a row alone tells.
#[tokio::test]
async fn verify_names_what_was_forged_together() -> Result<()> {
    let (_db, client) = rich("law_together").await?;
    let account = |member_no: &'static str| {
        let client = &client;
        async move {
            let row = client
                .query_one(
                    "select a.account_id from loyalty.account a where a.member_no = $1 order by 1 limit 1",
                    &[&member_no],
                )
                .await?;
            anyhow::Ok(row.get::<_, i64>(0))
        }
    };
    let (spender, holder, debtor) = (
        account("spender").await?,
        account("holder").await?,
        account("debtor").await?,
    );
    let (sender, receiver, lapsed, clamped, late) = (
        account("sender").await?,
        account("receiver").await?,
        account("lapsed").await?,
        account("clamped").await?,
        account("late").await?,
    );
    // a grant of 100 raised by 1, all balances after it, and the wallet, but another lot of it
    let raised = format!(
        "with e as (update loyalty.entry
                       set points = points + (entry = 1)::int, balance = balance + 1,
                           available = available + 1
                     where account_id = {spender})
         update loyalty.wallet
            set balance = balance + 1,
                lot_granted = lot_granted[:cardinality(lot_granted) - 1] || lot_granted[cardinality(lot_granted)] + 1,
                lot_remaining = lot_remaining[:cardinality(lot_granted) - 1] || lot_remaining[cardinality(lot_granted)] + 1
          where account_id = {spender}"
    );
    let forgeries: Vec<(String, i64)> = [
        (raised, spender),
        // law 5: a spend from a later lot while an earlier one has points, the wallet to match
        (format!(
            "with e as (update loyalty.entry set expires_on = '2026-08-31' where account_id = {receiver} and kind = 'spend')
             update loyalty.wallet
                set lot_remaining = array[lot_remaining[1] + 10, lot_remaining[2] - 10]
              where account_id = {receiver}"), receiver),
        // law 4: spent after its day, lapsed before it
        (format!("update loyalty.entry set occurred_at = '2026-01-05' where account_id = {lapsed} and kind = 'spend'"), lapsed),
        (format!("update loyalty.entry set occurred_at = '2025-04-15' where account_id = {lapsed} and kind = 'expire'"), lapsed),
        // law 8: captured after its time; a hold that pins another lot than it took
        (format!("update loyalty.entry set occurred_at = occurred_at + interval '3 days' where account_id = {holder} and kind = 'capture'"), holder),
        (format!("update loyalty.entry set hold_until = occurred_at where account_id = {holder} and kind = 'hold'"), holder),
        (format!("update loyalty.entry set held = held + 1000 where account_id = {holder} and kind = 'hold'"), holder),
        // law 7: refunded over the spend, in two journals that fit
        (format!("update loyalty.entry set refers_to = 9 where account_id = {spender} and kind = 'refund' and refers_to = 6"), spender),
        // law 1: debt wrong on both sides of its repayment
        (format!("update loyalty.entry set debt = debt * 2 where account_id = {debtor} and debt is not null"), debtor),
        (format!("update loyalty.entry set points = points + 1, balance = balance + 1 where account_id = {debtor} and kind = 'repay'"), debtor),
        // law 10: both ends of a transfer swapped, or one of them renamed
        (format!("update loyalty.entry set points = -points where kind = 'transfer' and account_id = {sender}"), sender),
        ("update loyalty.entry set kind = 'spend', other_account_id = null, other_entry = null where kind = 'transfer' and points < 0".to_owned(), sender),
        (format!("update loyalty.entry set kind = 'grant', granted_on = '2025-01-12', other_account_id = null, other_entry = null
                   where kind = 'transfer' and points > 0 and account_id = {sender}"), receiver),
        // kinds exchanged with all that belongs to them
        (format!("update loyalty.entry set kind = 'expire' where account_id = {spender} and kind = 'spend'"), spender),
        (format!("update loyalty.entry set kind = 'spend', refers_to = null, held = null where account_id = {holder} and kind = 'capture'"), holder),
        (format!("update loyalty.entry set kind = 'grant', granted_on = occurred_at::date, refers_to = null where account_id = {spender} and kind = 'refund'"), spender),
        (format!("update loyalty.entry set kind = 'spend' where account_id = {lapsed} and kind = 'expire'"), lapsed),
        // what was forfeited at a refund comes back
        (format!("delete from loyalty.entry where account_id = {late} and kind = 'expire'"), late),
        // points of one account in another's journal
        (format!("update loyalty.entry set account_id = {clamped}, entry = 5 where account_id = {spender} and entry = 1"), spender),
        // all entries renumbered, from 2
        (format!("update loyalty.entry set entry = entry + 100000 where account_id = {spender}"), spender),
        // the last entry taken back, and the wallet's count with it
        (format!(
            "with e as (delete from loyalty.entry where account_id = {lapsed} and kind = 'spend')
             update loyalty.wallet set last_entry = last_entry - 1 where account_id = {lapsed}"), lapsed),
        // an account out of nothing
        ("insert into loyalty.entry (account_id, entry, kind, points, balance, occurred_at, actor, expires_on, granted_on)
          values (4711, 1, 'grant', 5, 5, '2025-01-10', 'forger', '2026-01-10', '2025-01-10')".to_owned(), 4711),
        ("insert into loyalty.wallet (account_id, program_id) values (4711, 1)".to_owned(), 4711),
        ("insert into loyalty.account (account_id, program_id, member_no, opened_at)
          overriding system value values (4711, 1, 'x', now())".to_owned(), 4711),
    ]
    .into();
    let expected = forgeries.len();
    let (found, refused) = force_all(&client, &forgeries).await?;
    ensure!(
        refused.is_empty(),
        "forge these so that they pass:\n{}",
        refused.join("\n")
    );
    ensure!(found == expected, "{found} found of {expected}");
    Ok(())
}

/// Law 11: forgeries of rows that the journal rests on, each told under the law that it breaks.
#[tokio::test]
async fn verify_names_the_law() -> Result<()> {
    let (_db, client) = rich("law_named").await?;
    let (spender, sender, receiver) = (
        "(select account_id from loyalty.account where member_no = 'spender')",
        "(select account_id from loyalty.account where member_no = 'sender')",
        "(select account_id from loyalty.account where member_no = 'receiver')",
    );
    let coin = "(select program_id from loyalty.program where code = 'coin')";
    let mile = "(select program_id from loyalty.program where code = 'mile')";
    for (law, told, forgery) in [
        (3, spender, format!("update loyalty.member set program_id = {mile} where account_id = {spender}")),
        (3, "4711", format!("insert into loyalty.member (account_id, program_id, updated_at) values (4711, {coin}, now())")),
        (6, spender, format!("update loyalty.entry set request_hash = null where account_id = {spender} and idempotency_key = 's1'")),
        (6, spender, format!("update loyalty.entry set idempotency_key = null where account_id = {spender} and idempotency_key = 's1'")),
        // a class that is gone, of another program, or of no row; in the journal and in the wallet
        (9, spender, format!("delete from loyalty.lot_class where program_id = {coin}")),
        (9, spender, format!("update loyalty.lot_class set program_id = {mile} where program_id = {coin}")),
        (9, spender, format!("update loyalty.wallet set lot_class = array_replace(lot_class, 1::smallint, 77::smallint) where account_id = {spender}")),
        (9, spender, format!("update loyalty.entry set lot_class = array_replace(lot_class, 1::smallint, 77::smallint) where account_id = {spender}")),
        (9, "(select account_id from loyalty.account where member_no = 'guest')", "delete from loyalty.lot_class where inactivity_months = 6".to_owned()),
        (10, sender, format!(
            "with a as (update loyalty.account set program_id = {mile} where account_id = {receiver})
             update loyalty.wallet set program_id = {mile} where account_id = {receiver}")),
    ] {
        for program in ["null", "'coin'"] {
            if told.contains("guest") && program == "'coin'" {
                continue;
            }
            client
                .batch_execute("begin; set local session_replication_role = replica")
                .await?;
            let forged = client.execute(&forgery, &[]).await?;
            let laws = client
                .query(
                    &format!("select distinct law from loyalty.verify({program}) where account_id = {told}"),
                    &[],
                )
                .await?;
            client.batch_execute("rollback").await?;
            let laws: BTreeSet<i32> = laws.iter().map(|row| row.get(0)).collect();
            ensure!(
                forged > 0 && laws.contains(&law),
                "verify({program}) names {laws:?} for law {law}: {forgery}"
            );
        }
    }
    Ok(())
}

/// Law 11: verify() of one program tells of it alone; an unknown one is an error.
#[tokio::test]
async fn verify_of_one_program() -> Result<()> {
    let (_db, client) = rich("law_program").await?;
    client
        .batch_execute(
            "set session_replication_role = replica;
             update loyalty.entry set balance = balance + 1 where entry = 1",
        )
        .await?;
    let programs = |rows: Vec<tokio_postgres::Row>| -> BTreeSet<String> {
        rows.iter().map(|row| row.get(0)).collect()
    };
    for (argument, expected) in [("null", 3), ("'coin'", 1), ("'mile'", 1), ("'stay'", 1)] {
        let told = programs(
            client
                .query(
                    &format!(
                        "select p.code from loyalty.verify({argument}) v
                           join loyalty.account a using (account_id) join loyalty.program p using (program_id)"
                    ),
                    &[],
                )
                .await?,
        );
        ensure!(told.len() == expected, "verify({argument}): {told:?}");
        ensure!(argument == "null" || told.iter().all(|code| argument == format!("'{code}'")));
    }
    let state = sqlstate(
        &client
            .query("select * from loyalty.verify('nowhere')", &[])
            .await,
    );
    ensure!(state == "LY002", "an unknown program: {state}");
    Ok(())
}

/// Law 11: verify() locks no writer out, sees one moment, and needs no more than EXECUTE.
#[tokio::test]
async fn verify_locks_nobody_out() -> Result<()> {
    let (db, client) = rich("law_locks").await?;
    let writer = db.connect().await?;
    let plain = format!("auditor_{}", db.name());
    client
        .batch_execute(&format!(
            "begin; create role {plain};
             grant usage on schema loyalty to {plain};
             grant execute on function loyalty.verify(text) to {plain};
             set local role {plain}"
        ))
        .await?;
    let wrong = client.query("select * from loyalty.verify()", &[]).await?;
    ensure!(wrong.is_empty());
    client.batch_execute("reset role").await?;
    let locks = client
        .query(
            "select relation::regclass::text, mode from pg_locks
              where pid = pg_backend_pid() and relation is not null
                and relation in (select oid from pg_class where relnamespace in ('loyalty'::regnamespace, 'loyalty_private'::regnamespace))",
            &[],
        )
        .await?;
    ensure!(!locks.is_empty(), "no lock seen");
    for lock in &locks {
        let (relation, mode): (String, String) = (lock.get(0), lock.get(1));
        ensure!(mode == "AccessShareLock", "{mode} on {relation}");
    }
    // its transaction is still open, and a writer is not in its way
    writer
        .batch_execute(
            "set lock_timeout = '5s'; set loyalty.clock = '2025-07-10 10:00+09';
             select loyalty.spend_fifo(a.account_id, 1) from loyalty.account a where a.member_no = 'spender'",
        )
        .await?;
    client.batch_execute("rollback").await?;
    // a writer that is not through yet is not in verify()'s way
    writer
        .batch_execute(
            "begin; select loyalty.spend_fifo(a.account_id, 1) from loyalty.account a where a.member_no = 'spender'",
        )
        .await?;
    client.batch_execute("set lock_timeout = '5s'").await?;
    let wrong = client.query("select * from loyalty.verify()", &[]).await?;
    ensure!(wrong.is_empty());
    Ok(())
}
