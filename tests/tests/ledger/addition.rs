//! Tables that a DBA has given triggers and constraints besides: every operation minds them.

use crate::Ledger;
use anyhow::Result;

/// Every kind of write: single, bulk, both sides of a transfer, expiry.
const WORK: [&str; 6] = [
    "select loyalty.grant(1, 100, expires_on => '2025-06-20', idempotency_key => 'g')",
    "select loyalty.spend_fifo(1, 10)",
    "select loyalty.transfer(1, 2, 20)",
    "select count(*) from loyalty.grant_many('[{\"account_id\": 1, \"points\": 5}, {\"account_id\": 2, \"points\": 6}, {\"account_id\": 1, \"points\": 7}]')",
    "select count(*) from loyalty_private.grant_each('{1,2}', '{3,4}', 'r', null, null, '{a,b}')",
    "set loyalty.clock = '2025-07-01 10:00+09'; select loyalty.expire('p')",
];

async fn worked(ledger: &Ledger) -> Result<String> {
    for member in ["a", "b"] {
        ledger.account(member).await?;
    }
    for work in WORK {
        ledger.run(work).await?;
    }
    ledger
        .show("select string_agg(concat_ws(' ', account_id, entry, kind, points, balance, lot_expires_on, idempotency_key), ', ' order by account_id, entry) from loyalty.entry")
        .await
}

#[tokio::test]
async fn a_trigger_of_a_dba_sees_each_row_and_the_ledger_is_the_same() -> Result<()> {
    let plain = worked(&Ledger::open("addition_none", "").await?).await?;
    let ledger = Ledger::open("addition_trigger", "").await?;
    ledger
        .run(
            "create table seen (op text, account_id bigint, last_entry integer);
             create function see() returns trigger language plpgsql as $$
             begin
                 insert into public.seen values (tg_table_name, new.account_id, (to_jsonb(new) ->> case tg_table_name when 'entry' then 'entry' else 'last_entry' end)::integer);
                 return null;
             end $$;
             create trigger see after insert on loyalty.entry for each row execute function see();
             create trigger see after update on loyalty.wallet for each row execute function see();",
        )
        .await?;
    assert_eq!(worked(&ledger).await?, plain);
    assert_eq!(
        ledger
            .show("select count(*) from loyalty.entry e where not exists (select from seen s where s.op = 'entry' and (s.account_id, s.last_entry) = (e.account_id, e.entry))")
            .await?,
        "0"
    );
    assert_eq!(
        ledger
            .show("select count(*) from loyalty.wallet w where not exists (select from seen s where s.op = 'wallet' and (s.account_id, s.last_entry) = (w.account_id, w.last_entry))")
            .await?,
        "0"
    );
    assert_eq!(
        ledger.show("select count(*) from loyalty.verify()").await?,
        "0"
    );
    // the same key still gives the stored receipt
    ledger.run(WORK[0]).await?;
    assert_eq!(
        ledger
            .show("select count(*) from loyalty.entry where idempotency_key = 'g'")
            .await?,
        "1"
    );
    Ok(())
}

#[tokio::test]
async fn a_constraint_of_a_dba_is_kept_by_every_operation() -> Result<()> {
    let ledger = Ledger::open("addition_check", "").await?;
    let a = ledger.account("a").await?;
    ledger
        .run("alter table loyalty.wallet add constraint wallet_is_small check (balance <= 150)")
        .await?;
    ledger
        .run(&format!("select loyalty.grant({a}, 150)"))
        .await?;
    for call in [
        format!("select loyalty.grant({a}, 1)"),
        format!(
            "select * from loyalty_private.grant_each('{{{a}}}', '{{1}}', 'r', null, null, '{{k}}')"
        ),
    ] {
        assert_eq!(ledger.refused(&call).await?, "23514", "{call}");
    }
    assert_eq!(ledger.balance(a).await?, "150|0|150|2028-06-30|150");
    Ok(())
}

#[tokio::test]
async fn an_index_of_a_dba_finds_what_operations_wrote() -> Result<()> {
    let ledger = Ledger::open("addition_index", "").await?;
    ledger
        .run(
            "create index on loyalty.entry (kind, occurred_at);
             create index on loyalty.wallet (balance)",
        )
        .await?;
    worked(&ledger).await?;
    ledger
        .run("set enable_seqscan = off; set enable_bitmapscan = off")
        .await?;
    assert_eq!(
        ledger
            .show("select count(*) from loyalty.entry where kind = 'grant'")
            .await?,
        ledger
            .show("select count(*) from loyalty.entry where kind::text = 'grant'")
            .await?
    );
    assert_eq!(
        ledger
            .show("select count(*) from loyalty.wallet w where not exists (select from loyalty.wallet o where o.balance = w.balance)")
            .await?,
        "0"
    );
    Ok(())
}

#[tokio::test]
async fn a_column_of_a_dba_keeps_what_is_in_it() -> Result<()> {
    let plain = worked(&Ledger::open("addition_no_column", "").await?).await?;
    let ledger = Ledger::open("addition_column", "").await?;
    let a = ledger.account("a").await?;
    // this session has written both tables by then, and read them
    ledger
        .run(&format!("begin; select loyalty.grant({a}, 1); rollback"))
        .await?;
    ledger
        .run(&format!(
            "alter table loyalty.wallet add tier text default 'silver';
             alter table loyalty.entry add branch text default 'main';
             set session_replication_role = replica;
             update loyalty.wallet set tier = 'gold' where account_id = {a};
             reset session_replication_role"
        ))
        .await?;
    assert_eq!(worked(&ledger).await?, plain);
    assert_eq!(
        ledger
            .show("select account_id, tier from loyalty.wallet order by account_id")
            .await?,
        "1|gold\n2|silver"
    );
    assert_eq!(
        ledger
            .show("select distinct branch from loyalty.entry")
            .await?,
        "main"
    );
    ledger.verify().await?;
    // a column that is gone leaves its place behind
    ledger
        .run("alter table loyalty.wallet drop tier; alter table loyalty.entry drop branch")
        .await?;
    ledger
        .run(&format!("select loyalty.spend_fifo({a}, 1)"))
        .await?;
    ledger.verify().await
}

#[tokio::test]
async fn a_column_that_a_dba_wants_filled_is_filled() -> Result<()> {
    let ledger = Ledger::open("addition_not_null", "").await?;
    let a = ledger.account("a").await?;
    ledger
        .run("alter table loyalty.entry alter reason set not null")
        .await?;
    for call in [
        format!("grant({a}, 100)"),
        format!("grant_many('[{{\"account_id\": {a}, \"points\": 5}}]')"),
    ] {
        assert_eq!(ledger.refused_call(&call).await?, "23502", "{call}");
    }
    ledger
        .run(&format!("select loyalty.grant({a}, 100, 'sale')"))
        .await?;
    ledger.verify().await
}

/// Laws 1 and 3: a trigger runs within an operation, but is not the operation.
#[tokio::test]
async fn a_trigger_of_a_dba_cannot_write_the_ledger() -> Result<()> {
    let ledger = Ledger::open("addition_forgery", "").await?;
    let a = ledger.account("a").await?;
    ledger.run(&format!("select loyalty.grant({a}, 5)")).await?;
    let forgeries = [
        (
            "entry",
            "insert",
            "update loyalty.wallet set balance = balance + 1, lot_granted[1] = lot_granted[1] + 1, lot_remaining[1] = lot_remaining[1] + 1",
        ),
        (
            "wallet",
            "update",
            "update loyalty.entry set points = points + 1",
        ),
        ("wallet", "update", "delete from loyalty.entry"),
        ("account", "insert", "delete from loyalty.entry"),
    ];
    for (table, event, forgery) in forgeries {
        ledger
            .run(&format!(
                "create function forge() returns trigger language plpgsql as 'begin {forgery}; return null; end';
                 create trigger forge after {event} on loyalty.{table} for each row execute function forge()"
            ))
            .await?;
        let call = match table {
            "account" => "open_account('p', 'b')".to_owned(),
            _ => format!("grant({a}, 5)"),
        };
        assert_eq!(ledger.refused_call(&call).await?, "LY005", "{forgery}");
        ledger.run("drop function forge cascade").await?;
    }
    // nor afterwards, when nothing is under way
    assert_eq!(
        ledger
            .refused("update loyalty.wallet set balance = 0")
            .await?,
        "LY005"
    );
    ledger.verify().await
}

#[tokio::test]
async fn a_check_of_a_dba_in_the_place_of_ours_is_kept() -> Result<()> {
    let ledger = Ledger::open("addition_check_instead", "").await?;
    let a = ledger.account("a").await?;
    for (table, ours, check) in [
        ("wallet", "wallet_lots_are_the_balance", "balance <= 150"),
        ("entry", "entry_sign_fits_kind", "points <= 150"),
    ] {
        ledger
            .run(&format!(
                "begin;
                 alter table loyalty.{table} drop constraint {ours}, add constraint small check ({check})"
            ))
            .await?;
        let call = format!("select loyalty.grant({a}, 151)");
        assert_eq!(ledger.refused(&call).await?, "23514", "{table}");
        ledger.run("rollback").await?;
    }
    ledger.verify().await
}
