//! Operations that meet somebody else, in the one order of things that is a trial: somebody holds
//! what the operation comes to, and lets go when the rest is done.

use super::Ledger;
use anyhow::{Context as _, Result};
use loyalty_tests::{assert_sound, rows, sqlstate, until_one_waits};
use std::time::Duration;

/// Law 8: a hold that ends while its capture waits is not captured, and what a hold had is free
/// for a call of many that waited for another account. By the real clock, since a session that
/// waits cannot be told another time.
#[tokio::test]
async fn who_waited_goes_by_the_clock_as_it_is_then() -> Result<()> {
    let ledger = Ledger::open("meeting_clock", "").await?;
    ledger.run("reset loyalty.clock").await?;
    let mut accounts = Vec::new();
    for member in ["a", "b", "c"] {
        let account = ledger.account(member).await?;
        ledger.receipt(&format!("grant({account}, 100)")).await?;
        accounts.push(account);
    }
    let (a, b, c) = (accounts[0], accounts[1], accounts[2]);
    let hold = |account: i64| format!("hold({account}, 100, '1 second')");
    let held = ledger.receipt(&hold(a)).await?.id;
    ledger.receipt(&hold(c)).await?;
    let (locker, single, many) = (
        ledger.db.connect().await?,
        ledger.db.connect().await?,
        ledger.db.connect().await?,
    );
    locker
        .batch_execute(&format!(
            "begin; select from loyalty.wallet where account_id in ({a}, {b}) for update"
        ))
        .await?;
    let capture = format!("select loyalty.capture({a}, {held})");
    let items =
        format!(r#"[{{"account_id": {b}, "points": 1}}, {{"account_id": {c}, "points": 100}}]"#);
    let spend = format!("select points, error_code from loyalty.spend_many('{items}')");
    let (captured, spent, freed) =
        tokio::join!(single.simple_query(&capture), rows(&many, &spend), async {
            let over = "select clock_timestamp() > max(hold_until) from loyalty.entry";
            while ledger.show(over).await? != "t" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(locker.batch_execute("rollback").await?)
        });
    freed?;
    assert_eq!(sqlstate(&captured), "LY006");
    assert_eq!(spent?, ["1|", "100|"]);
    ledger.verify().await
}

/// Law 8: a hold lasts from when it is made, however long it had to wait for that.
#[tokio::test]
async fn a_hold_that_waited_lasts_as_long_as_any() -> Result<()> {
    let ledger = Ledger::open("meeting_hold", "").await?;
    ledger.run("reset loyalty.clock").await?;
    let a = ledger.account("a").await?;
    ledger.receipt(&format!("grant({a}, 100)")).await?;
    let (holder, caller) = (ledger.db.connect().await?, ledger.db.connect().await?);
    holder
        .batch_execute(&format!("begin; select loyalty.grant({a}, 1)"))
        .await?;
    let hold = format!("select points from loyalty.hold({a}, 60, '1 microsecond')");
    let (held, freed) = tokio::join!(rows(&caller, &hold), async {
        until_one_waits(&ledger.client).await?;
        anyhow::Ok(holder.batch_execute("commit").await?)
    });
    freed?;
    assert_eq!(held?, ["60"]);
    let lasted = "select hold_until - occurred_at from loyalty.entry where kind = 'hold'";
    assert_eq!(ledger.show(lasted).await?, "00:00:00.000001");
    ledger.verify().await
}

/// Law 9: whatever a session remembers of a program is gone once another has changed it.
#[tokio::test]
async fn a_program_changed_in_another_session_is_read_anew() -> Result<()> {
    let ledger = Ledger::open("meeting_program", "").await?;
    let a = ledger.account("a").await?;
    let grant = format!("grant({a}, 100)");
    assert_eq!(ledger.receipt(&grant).await?.lots, "2028-06-30: 100");
    let other = ledger.db.connect().await?;
    other
        .batch_execute("begin; update loyalty.program set expiry = 'end of month after 1 month'")
        .await?;
    assert_eq!(ledger.receipt(&grant).await?.lots, "2028-06-30: 100");
    other.batch_execute("commit").await?;
    assert_eq!(ledger.receipt(&grant).await?.lots, "2025-07-31: 100");

    // one that comes to a program just being changed waits, and goes by what it is then
    let fresh = ledger.db.connect().await?;
    fresh
        .batch_execute("set loyalty.clock = '2025-06-15 10:00+09'")
        .await?;
    other
        .batch_execute(
            "begin; lock table loyalty.program in access exclusive mode;
             update loyalty.program set expiry = 'never'",
        )
        .await?;
    let lots = format!("select lots from loyalty.{grant}");
    let (granted, changed) = tokio::join!(rows(&fresh, &lots), async {
        until_one_waits(&ledger.client).await?;
        anyhow::Ok(other.batch_execute("commit").await?)
    });
    changed?;
    assert_eq!(granted?, ["{\"(,100)\"}"]);
    assert_eq!(rows(&fresh, &lots).await?, ["{\"(,100)\"}"]);

    // nor is a code known by an old snapshot
    ledger
        .run("begin isolation level repeatable read; select from loyalty.program")
        .await?;
    other
        .batch_execute("update loyalty.program set code = 'q'")
        .await?;
    ledger.run("select loyalty.expire('p'); commit").await?;
    assert_eq!(ledger.refused("select loyalty.expire('p')").await?, "LY002");
    ledger.run("select loyalty.expire('q')").await?;
    assert_sound(&ledger.client).await
}

/// What a call of many had not booked when it had to wait is decided by what holds after that.
#[tokio::test]
async fn law_4_a_call_of_many_decides_by_what_holds_after_its_wait() -> Result<()> {
    let ledger = Ledger::open("many_waits", "expiry => 'end of month after 3 years'").await?;
    let (first, second, third) = (
        ledger.account("first").await?,
        ledger.account("second").await?,
        ledger.account("third").await?,
    );
    let holder = ledger.db.connect().await?;
    let grants = format!(
        "select error_code from loyalty.grant_many(
                '[{{\"account_id\": {first}, \"points\": 1}},
                  {{\"account_id\": {second}, \"points\": 2}},
                  {{\"account_id\": {third}, \"points\": 3}}]')"
    );
    let caller = ledger.db.connect().await?;
    for client in [&holder, &caller] {
        client
            .batch_execute("set loyalty.clock = '2025-06-15 10:00+09'; set datestyle = 'ISO'")
            .await?;
    }
    holder
        .batch_execute(&format!(
            "begin; select loyalty.grant({second}, 10, expires_on => '2030-01-01')"
        ))
        .await?;
    let (granted, changed) = tokio::join!(rows(&caller, &grants), async {
        until_one_waits(&ledger.client).await?;
        ledger
            .run("update loyalty.program set expiry = 'end of month after 1 year'")
            .await?;
        anyhow::Ok(holder.batch_execute("rollback").await?)
    });
    changed?;
    assert_eq!(granted?, ["", "", ""]);
    for (account, lot) in [
        (first, "2028-06-30|1|1|0|t"),
        (second, "2026-06-30|2|2|0|t"),
        (third, "2026-06-30|3|3|0|t"),
    ] {
        assert_eq!(ledger.lots(account).await?, lot);
    }
    ledger.verify().await
}

/// Law 6: a refund that read the wallet before the same call elsewhere, and the journal after
/// it, finds nothing left to give back, and the receipt.
#[tokio::test]
async fn law_6_the_same_refund_in_two_sessions_has_one_receipt() -> Result<()> {
    let ledger = Ledger::open("meeting_refund", "").await?;
    let a = ledger.account("a").await?;
    // a lot of a class, which is read between wallet and journal
    ledger
        .receipt(&format!("grant({a}, 100, funding => 'shop')"))
        .await?;
    let spend = ledger.receipt(&format!("spend_fifo({a}, 60)")).await?;
    let (first, second) = (ledger.db.connect().await?, ledger.db.connect().await?);
    for client in [&first, &second] {
        client
            .batch_execute("set loyalty.clock = '2025-06-15 10:00+09'")
            .await?;
    }
    let refund = format!(
        "select r::text from loyalty.refund({a}, {}, idempotency_key => 'k') r",
        spend.id
    );
    first
        .batch_execute("begin; lock table loyalty.lot_class in access exclusive mode")
        .await?;
    let (late, early) = tokio::join!(rows(&second, &refund), async {
        until_one_waits(&ledger.client).await?;
        let receipt = rows(&first, &refund).await?;
        first.batch_execute("commit").await?;
        anyhow::Ok(receipt)
    });
    assert_eq!(late?, early?);
    assert_eq!(
        ledger.show("select count(*) from loyalty.entry").await?,
        "3"
    );
    ledger.verify().await
}

/// An open session's operations go on, whichever index another makes anew beside them.
#[tokio::test]
async fn indexes_may_be_made_anew_between_operations() -> Result<()> {
    let ledger = Ledger::open("meeting_reindex", "").await?;
    let (a, b) = (ledger.account("a").await?, ledger.account("b").await?);
    ledger
        .receipt(&format!("grant({a}, 1000, funding => 'shop')"))
        .await?;
    let operations = format!(
        "select loyalty.grant({a}, 3, idempotency_key => clock_timestamp()::text);
         select loyalty.refund({a}, (loyalty.spend_fifo({a}, 2)).operation_id);
         select loyalty.capture({a}, (loyalty.hold({a}, 1)).operation_id);
         select loyalty.transfer({a}, {b}, 1);
         select loyalty.balance({a}), loyalty.lots({a}), loyalty.open_account('p', 'b');
         select loyalty.expire('p')"
    );
    ledger.run(&operations).await?;
    let all = "select i.indexrelid::regclass
                 from pg_index i join pg_class t on t.oid = i.indrelid
                where t.relnamespace in ('loyalty'::regnamespace, 'loyalty_private'::regnamespace)
                  and t.relname in ('wallet', 'entry', 'account', 'program', 'lot_class')";
    let indexes = ledger.rows(all).await?;
    assert!(indexes.len() > 8, "{indexes:?}");
    let other = ledger.db.connect().await?;
    for index in indexes {
        // within a transaction nothing else tells the session of it
        ledger.run("begin; select 1").await?;
        other
            .batch_execute(&format!("reindex index concurrently {index}"))
            .await?;
        ledger.run(&operations).await?;
        ledger.run("commit").await?;
    }
    ledger.verify().await
}

/// Who waited too long is told for whom, also where the holder locked the row first and changed it
/// in a savepoint: two transactions of one session are on the row then.
#[tokio::test]
async fn who_held_an_account_in_a_savepoint_is_named() -> Result<()> {
    let ledger = Ledger::open("meeting_savepoint", "").await?;
    let a = ledger.account("a").await?;
    let (holder, late) = (ledger.db.connect().await?, ledger.db.connect().await?);
    holder
        .batch_execute(&format!(
            "set application_name = 'the holder'; begin;
             select from loyalty.wallet where account_id = {a} for no key update;
             savepoint s; select loyalty.grant({a}, 1)"
        ))
        .await?;
    late.batch_execute("set lock_timeout = '200ms'").await?;
    let grant = format!("select loyalty.grant({a}, 1)");
    let refused = late.batch_execute(&grant).await;
    assert_eq!(sqlstate(&refused), "55P03");
    let error = refused.err().context("refused")?;
    let detail = error.as_db_error().and_then(|error| error.detail());
    assert!(
        detail.is_some_and(|detail| detail.contains("the holder")),
        "{detail:?}"
    );
    holder.batch_execute("rollback").await?;
    late.batch_execute(&grant).await?;
    ledger.verify().await
}
