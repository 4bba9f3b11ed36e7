//! Laws 1 to 6, 9 and 10.

use crate::Ledger;
use anyhow::Result;
use loyalty_core::wallet::ENTRIES_PER_ACCOUNT;

#[tokio::test]
async fn law_1_a_balance_is_the_sum_of_its_entries_and_of_its_lots() -> Result<()> {
    let ledger = Ledger::open("law_1", "").await?;
    let a = ledger.account("a").await?;
    ledger
        .receipt(&format!("grant({a}, 100, expires_on => '2025-07-01')"))
        .await?;
    ledger
        .receipt(&format!("grant({a}, 50, expires_on => '2025-08-01')"))
        .await?;
    let spent = ledger.receipt(&format!("spend_fifo({a}, 120)")).await?;
    assert_eq!(
        (spent.points, spent.balance, spent.available),
        (120, 30, 30)
    );
    let sums = format!(
        "select (select sum(points) from loyalty.statement({a})), (select sum(remaining) from loyalty.lots({a}))"
    );
    assert_eq!(ledger.show(&sums).await?, "30|30");
    assert_eq!(ledger.balance(a).await?, "30|0|30|2025-08-01|30");
    ledger.verify().await
}

#[tokio::test]
async fn law_2_a_lot_gives_no_more_than_it_got() -> Result<()> {
    let ledger = Ledger::open("law_2", "").await?;
    let a = ledger.account("a").await?;
    ledger.receipt(&format!("grant({a}, 100)")).await?;
    assert_eq!(
        ledger
            .refused_call(&format!("spend_fifo({a}, 101)"))
            .await?,
        "LY001"
    );
    assert_eq!(
        ledger.refused_call(&format!("hold({a}, 101)")).await?,
        "LY001"
    );
    assert_eq!(
        ledger
            .refused_call(&format!("explain_spend({a}, 101)"))
            .await?,
        "LY001"
    );
    ledger.receipt(&format!("spend_fifo({a}, 100)")).await?;
    assert_eq!(
        ledger.refused_call(&format!("spend_fifo({a}, 1)")).await?,
        "LY001"
    );
    assert_eq!(ledger.lots(a).await?, "2028-06-30|100|0|0|t");
    ledger.verify().await
}

#[tokio::test]
async fn law_3_entries_are_numbered_without_gaps_and_carry_the_balance() -> Result<()> {
    let ledger = Ledger::open("law_3", "").await?;
    let a = ledger.account("a").await?;
    ledger.receipt(&format!("grant({a}, 100)")).await?;
    assert_eq!(
        ledger
            .refused_call(&format!("spend_fifo({a}, 500)"))
            .await?,
        "LY001"
    );
    ledger.receipt(&format!("spend_fifo({a}, 30)")).await?;
    let hold = ledger.receipt(&format!("hold({a}, 20)")).await?;
    ledger
        .receipt(&format!("release({a}, {})", hold.id))
        .await?;
    let told = ledger
        .show(&format!("select entry, operation_id - {a} * 16777216, kind, points, balance from loyalty.statement({a})"))
        .await?;
    assert_eq!(
        told,
        "1|1|grant|100|100\n2|2|spend|-30|70\n3|3|hold|0|70\n4|4|release|0|70"
    );
    ledger.verify().await
}

#[tokio::test]
async fn law_4_points_lapse_at_midnight_in_the_programs_zone() -> Result<()> {
    for (zone, last, midnight) in [
        (
            "Asia/Tokyo",
            "2025-06-20 14:59:59.999999+00",
            "2025-06-20 15:00+00",
        ),
        (
            "America/New_York",
            "2025-06-21 03:59:59.999999+00",
            "2025-06-21 04:00+00",
        ),
        (
            "Pacific/Kiritimati",
            "2025-06-20 09:59:59.999999+00",
            "2025-06-20 10:00+00",
        ),
    ] {
        let ledger = Ledger::open("law_4", &format!("time_zone => '{zone}'")).await?;
        let a = ledger.account("a").await?;
        ledger
            .receipt(&format!("grant({a}, 100, expires_on => '2025-06-20')"))
            .await?;
        ledger.at(last).await?;
        assert_eq!(
            ledger.show("select loyalty.today('p')").await?,
            "2025-06-20",
            "{zone}"
        );
        assert_eq!(
            ledger.balance(a).await?,
            "100|0|100|2025-06-20|100",
            "{zone}"
        );
        ledger.receipt(&format!("spend_fifo({a}, 1)")).await?;
        assert_eq!(
            ledger.show("select * from loyalty.expire('p')").await?,
            "0|0",
            "{zone}: too early"
        );
        ledger.at(midnight).await?;
        assert_eq!(
            ledger.show("select loyalty.today('p')").await?,
            "2025-06-21",
            "{zone}"
        );
        assert_eq!(
            ledger.balance(a).await?,
            "99|0|0||",
            "{zone}: without any run"
        );
        assert_eq!(
            ledger.refused_call(&format!("spend_fifo({a}, 1)")).await?,
            "LY001"
        );
        ledger.verify().await?;
    }
    Ok(())
}

#[tokio::test]
async fn law_4_the_run_only_books_breakage_late_twice_or_never() -> Result<()> {
    let ledger = Ledger::open("expire", "").await?;
    let mut accounts = Vec::new();
    for member in ["a", "b", "c"] {
        let account = ledger.account(member).await?;
        ledger
            .receipt(&format!("grant({account}, 10, expires_on => '2025-06-20')"))
            .await?;
        ledger
            .receipt(&format!("grant({account}, 20, expires_on => '2025-06-25')"))
            .await?;
        ledger
            .receipt(&format!("grant({account}, 40, expires_on => '2025-12-31')"))
            .await?;
        accounts.push(account);
    }
    ledger.at("2025-07-30 10:00+09").await?;
    for &account in &accounts {
        assert_eq!(
            ledger.balance(account).await?,
            "70|0|40|2025-12-31|40",
            "a month late"
        );
    }
    assert_eq!(
        ledger
            .refused("select loyalty.expire('p', '2025-08-01'::date)")
            .await?,
        "22023"
    );
    assert_eq!(
        ledger.refused("select loyalty.expire('nobody')").await?,
        "LY002"
    );
    assert_eq!(
        ledger
            .refused("select loyalty.expire('p', batch_size => 0)")
            .await?,
        "22023"
    );
    // lots whose last day is before as_of
    assert_eq!(
        ledger
            .show("select * from loyalty.expire('p', as_of => '2025-06-20'::date)")
            .await?,
        "0|0"
    );
    assert_eq!(
        ledger
            .show("select * from loyalty.expire('p', '2025-06-21'::date, batch_size => 2)")
            .await?,
        "2|20"
    );
    assert_eq!(
        ledger
            .show("select * from loyalty.expire('p', '2025-06-20 15:00+00'::timestamptz)")
            .await?,
        "1|10"
    );
    assert_eq!(
        ledger
            .show("select * from loyalty.expire('p', batch_size => 1)")
            .await?,
        "1|20"
    );
    assert_eq!(
        ledger.show("select * from loyalty.expire('p')").await?,
        "2|40"
    );
    assert_eq!(
        ledger.show("select * from loyalty.expire('p')").await?,
        "0|0",
        "twice"
    );
    for account in accounts {
        assert_eq!(ledger.balance(account).await?, "40|0|40|2025-12-31|40");
    }
    ledger.verify().await
}

#[tokio::test]
async fn law_5_soonest_expiry_first_never_last_then_oldest() -> Result<()> {
    let ledger = Ledger::open("law_5", "").await?;
    let a = ledger.account("a").await?;
    ledger
        .receipt(&format!("grant({a}, 10, expiry => 'never')"))
        .await?;
    ledger
        .receipt(&format!(
            "grant({a}, 10, expires_on => '2025-08-01', funding => 'Second of a name')"
        ))
        .await?;
    ledger
        .receipt(&format!("grant({a}, 10, expires_on => '2025-08-01')"))
        .await?;
    ledger
        .receipt(&format!(
            "grant({a}, 10, expires_on => 'infinity', funding => 'sponsor')"
        ))
        .await?;
    ledger
        .receipt(&format!("grant({a}, 10, expires_on => '2025-07-01')"))
        .await?;
    ledger
        .receipt(&format!(
            "grant({a}, 10, expires_on => '2025-08-01', funding => 'Another name')"
        ))
        .await?;
    let order = format!("select expires_on, remaining, funding from loyalty.lots({a})");
    assert_eq!(
        ledger.show(&order).await?,
        "2025-07-01|10|program\n2025-08-01|10|Second of a name\n2025-08-01|10|program\n\
         2025-08-01|10|Another name\n|10|program\n|10|sponsor"
    );
    let explain = format!("select * from loyalty.explain_spend(account_id => {a}, points => 44)");
    let explained =
        "1|2025-07-01|10|0\n2|2025-08-01|10|0\n3|2025-08-01|10|0\n4|2025-08-01|10|0\n5||4|6";
    assert_eq!(ledger.show(&explain).await?, explained);
    assert_eq!(
        ledger.balance(a).await?,
        "60|0|60|2025-07-01|10",
        "explaining spends nothing"
    );
    let spent = ledger.receipt(&format!("spend_fifo({a}, 44)")).await?;
    assert_eq!(
        spent.lots,
        "2025-07-01: 10, 2025-08-01: 10, 2025-08-01: 10, 2025-08-01: 10, never: 4"
    );
    assert_eq!(
        ledger.balance(a).await?,
        "16|0|16||",
        "what never expires has no next expiry"
    );
    ledger.verify().await
}

#[tokio::test]
async fn law_6_a_key_gives_its_first_result_for_ever() -> Result<()> {
    let ledger = Ledger::open("law_6", "expiry => '10 days'").await?;
    let (a, b) = (ledger.account("a").await?, ledger.account("b").await?);
    let calls = [
        format!("loyalty.grant({a}, 100, 'welcome', idempotency_key => 'grant')"),
        format!("loyalty.spend_fifo({a}, 30, 'order 7', idempotency_key => 'spend')"),
        format!("loyalty.hold({a}, 20, idempotency_key => 'hold')"),
        format!("loyalty.capture({a}, {a} * 16777216 + 3, 5, idempotency_key => 'capture')"),
        format!("loyalty.refund({a}, {a} * 16777216 + 2, 10, idempotency_key => 'refund')"),
        format!("loyalty.revoke({a}, {a} * 16777216 + 1, 5, idempotency_key => 'revoke')"),
        format!("loyalty.transfer({a}, {b}, 5, idempotency_key => 'transfer')"),
    ];
    let mut first = Vec::new();
    for call in &calls {
        first.push(ledger.show(&format!("select * from {call}")).await?);
    }
    let entries = format!("select count(*) from loyalty.statement({a})");
    let many = format!(
        r#"select * from loyalty.grant_many('[{{"account_id": {b}, "points": 1, "idempotency_key": "m"}}]')"#
    );
    let many_first = ledger.show(&many).await?;
    let made = ledger.show(&entries).await?;
    // all that was granted has lapsed, is booked, the account is suspended, then closed
    for change in [
        "set loyalty.clock = '2025-06-16 10:00+09'",
        "set loyalty.clock = '2026-06-15 10:00+09'",
        "select loyalty.expire('p')",
        &format!("select loyalty.suspend_account({a})"),
        &format!("select loyalty.close_account({a})"),
        "update loyalty.program set expiry = '1 days'",
    ] {
        ledger.run(change).await?;
        for (call, first) in calls.iter().zip(&first) {
            assert_eq!(
                &ledger.show(&format!("select * from {call}")).await?,
                first,
                "after {change}"
            );
        }
        assert_eq!(ledger.show(&many).await?, many_first, "after {change}");
    }
    let now = ledger.show(&entries).await?;
    assert_eq!(
        now.parse::<i64>()?,
        made.parse::<i64>()? + 1,
        "only the breakage was booked"
    );
    // another amount, reason, operation; another account has its own keys
    for call in [
        format!("grant({a}, 101, 'welcome', idempotency_key => 'grant')"),
        format!("grant({a}, 100, 'hello', idempotency_key => 'grant')"),
        format!(
            "grant({a}, 100, 'welcome', expires_on => '2026-07-01', idempotency_key => 'grant')"
        ),
        format!("grant({a}, 100, 'welcome', funding => 'sponsor', idempotency_key => 'grant')"),
        format!("spend_fifo({a}, 100, 'welcome', idempotency_key => 'grant')"),
        format!("spend_fifo({a}, 31, 'order 7', idempotency_key => 'spend')"),
        format!("hold({a}, 20, '1 hour', idempotency_key => 'hold')"),
        format!("capture({a}, {a} * 16777216 + 3, 6, idempotency_key => 'capture')"),
        format!("refund({a}, {a} * 16777216 + 2, idempotency_key => 'refund')"),
        format!("revoke({a}, {a} * 16777216 + 1, 5, 'debt', idempotency_key => 'revoke')"),
        format!("transfer({a}, {b}, 6, idempotency_key => 'transfer')"),
    ] {
        assert_eq!(ledger.refused_call(&call).await?, "LY003", "{call}");
    }
    ledger
        .receipt(&format!("grant({b}, 7, idempotency_key => 'grant')"))
        .await?;
    ledger.verify().await
}

#[tokio::test]
async fn law_6_a_refused_call_leaves_its_key_free() -> Result<()> {
    let ledger = Ledger::open("law_6_refused", "").await?;
    let a = ledger.account("a").await?;
    let spend = format!("spend_fifo({a}, 30, idempotency_key => 'k')");
    assert_eq!(ledger.refused_call(&spend).await?, "LY001");
    ledger.receipt(&format!("grant({a}, 100)")).await?;
    let done = ledger.receipt(&spend).await?;
    assert_eq!((done.points, done.balance), (30, 70));
    assert_eq!(ledger.receipt(&spend).await?.id, done.id);
    assert_eq!(ledger.balance(a).await?, "70|0|70|2028-06-30|70");
    ledger.verify().await
}

#[tokio::test]
async fn law_9_terms_are_frozen_at_the_grant() -> Result<()> {
    let ledger = Ledger::open("law_9", "").await?;
    let a = ledger.account("a").await?;
    // C6: valid to the last day of the month three years on
    let granted = ledger.receipt(&format!("grant({a}, 2000)")).await?;
    assert_eq!(granted.lots, "2028-06-30: 2000");
    // C7: criteria change later
    ledger
        .run("update loyalty.program set expiry = '10 days', time_zone = 'UTC'")
        .await?;
    assert_eq!(ledger.lots(a).await?, "2028-06-30|2000|2000|0|t");
    assert_eq!(
        ledger.receipt(&format!("grant({a}, 1)")).await?.lots,
        "2025-06-25: 1"
    );
    ledger
        .run("update loyalty.program set expiry = 'never'")
        .await?;
    assert_eq!(
        ledger.lots(a).await?,
        "2025-06-25|1|1|0|t\n2028-06-30|2000|2000|0|t"
    );
    ledger.at("2028-06-30 23:59:59+00").await?;
    assert_eq!(ledger.balance(a).await?, "2001|0|2000|2028-06-30|2000");
    ledger.at("2028-07-01 00:00+00").await?;
    assert_eq!(ledger.balance(a).await?, "2001|0|0||");
    ledger.verify().await
}

#[tokio::test]
async fn law_10_the_journal_shows_both_sides_and_they_sum_to_zero() -> Result<()> {
    let ledger = Ledger::open("law_10", "expiry => '10 days'").await?;
    let (a, b) = (ledger.account("a").await?, ledger.account("b").await?);
    let granted = ledger.receipt(&format!("grant({a}, 100)")).await?;
    let spent = ledger.receipt(&format!("spend_fifo({a}, 30)")).await?;
    ledger
        .receipt(&format!("refund({a}, {}, 10)", spent.id))
        .await?;
    ledger.receipt(&format!("transfer({a}, {b}, 25)")).await?;
    ledger
        .receipt(&format!("revoke({a}, {}, 5)", granted.id))
        .await?;
    let hold = ledger.receipt(&format!("hold({a}, 8)")).await?;
    ledger
        .receipt(&format!("capture({a}, {}, 6)", hold.id))
        .await?;
    ledger.at("2025-07-01 10:00+09").await?;
    ledger.run("select loyalty.expire('p')").await?;
    let sides = "select side, sum(points) from loyalty.journal group by side order by side";
    assert_eq!(
        ledger.show(sides).await?,
        "breakage|69\nissued|-95\nmember|0\nother member|0\nredeemed|26",
        "100 issued less 5; 30 redeemed less 10, and 6; the rest lapsed"
    );
    let wrong =
        "select operation_id from loyalty.journal group by operation_id having sum(points) <> 0";
    assert_eq!(ledger.show(wrong).await?, "");
    let sent = format!(
        "select kind, points, other_account_id from loyalty.statement({b}) where kind = 'transfer'"
    );
    assert_eq!(ledger.show(&sent).await?, format!("transfer|25|{a}"));
    ledger.verify().await
}

/// Laws 1 and 3: what a full journal has no room for is not in the wallet either.
#[tokio::test]
async fn law_1_a_journal_that_is_full_leaves_nothing_in_the_wallet() -> Result<()> {
    let ledger = Ledger::open("law_1_full", "").await?;
    let (a, b) = (ledger.account("a").await?, ledger.account("b").await?);
    // room for three more
    ledger
        .run(&format!(
            "select loyalty.grant({a}, 5);
             set session_replication_role = replica;
             update loyalty.wallet set last_entry = {} where account_id = {a};
             reset session_replication_role",
            ENTRIES_PER_ACCOUNT - 3
        ))
        .await?;
    let item = |account: i64| format!(r#"{{"account_id": {account}, "points": 1}}"#);
    let items = [a, a, a, a, b].map(item).join(", ");
    let mut codes = ledger
        .rows(&format!(
            "select error_code from loyalty.grant_many('[{items}]') order by item"
        ))
        .await?;
    assert_eq!(codes.pop().as_deref(), Some(""), "another account");
    let booked = codes.iter().filter(|code| code.is_empty()).count();
    assert!((1..4).contains(&booked), "{codes:?}");
    assert!(codes[booked..].iter().all(|code| code == "54000"));
    for call in [
        format!("grant({a}, 1)"),
        format!("spend_fifo({a}, 1)"),
        format!("hold({a}, 1)"),
        format!("transfer({b}, {a}, 1)"),
        format!("transfer({a}, {b}, 1)"),
    ] {
        assert_eq!(ledger.refused_call(&call).await?, "54000", "{call}");
    }
    let agree = "select w.balance, w.balance - sum(e.points), (array_agg(e.balance order by entry desc))[1] - w.balance
                   from loyalty.wallet w join loyalty.entry e using (account_id) group by w.account_id order by 1";
    assert_eq!(
        ledger.show(agree).await?,
        format!("1|0|0\n{}|0|0", 5 + booked)
    );
    Ok(())
}
