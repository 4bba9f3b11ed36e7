//! Accounts, transfers, inactivity, reading back and ahead, limits, the clock.

use crate::Ledger;
use anyhow::Result;

#[tokio::test]
async fn a_transfer_keeps_the_last_day_of_each_lot() -> Result<()> {
    let ledger = Ledger::open("transfer", "").await?;
    let (a, b) = (ledger.account("a").await?, ledger.account("b").await?);
    ledger
        .receipt(&format!("grant({a}, 10, expires_on => '2025-06-20')"))
        .await?;
    ledger
        .receipt(&format!(
            "grant({a}, 90, expires_on => '2025-07-20', funding => 'sponsor')"
        ))
        .await?;
    let sent = ledger
        .receipt(&format!(
            "transfer(from_account => {a}, to_account => {b}, points => 30, reason => 'thanks')"
        ))
        .await?;
    assert_eq!(
        (sent.points, sent.balance, sent.lots.as_str()),
        (30, 70, "2025-06-20: 10, 2025-07-20: 20")
    );
    assert_eq!(
        ledger.lots(b).await?,
        "2025-06-20|10|10|0|t\n2025-07-20|20|20|0|t"
    );
    assert_eq!(
        ledger
            .show(&format!("select funding from loyalty.lots({b})"))
            .await?,
        "program\nsponsor"
    );
    for funding in ["''", "repeat('x', 64)"] {
        let grant = format!("grant({a}, 1, funding => {funding})");
        assert_eq!(ledger.refused_call(&grant).await?, "22023", "{funding}");
    }
    assert_eq!(
        ledger
            .refused_call(&format!("transfer({a}, {b}, 71)"))
            .await?,
        "LY001"
    );
    assert_eq!(
        ledger
            .refused_call(&format!("transfer({a}, {a}, 1)"))
            .await?,
        "22023"
    );
    assert_eq!(
        ledger
            .refused_call(&format!("transfer({a}, 999, 1)"))
            .await?,
        "LY002"
    );
    ledger
        .run("select loyalty.create_program(code => 'other', name => 'Other')")
        .await?;
    let other = ledger
        .show("select loyalty.open_account('other', 'a')")
        .await?;
    assert_eq!(
        ledger
            .refused_call(&format!("transfer({a}, {other}, 1)"))
            .await?,
        "22023"
    );
    ledger.verify().await
}

#[tokio::test]
async fn a_suspended_account_only_receives_and_a_closed_one_nothing() -> Result<()> {
    let ledger = Ledger::open("status", "").await?;
    let (a, b) = (ledger.account("a").await?, ledger.account("b").await?);
    ledger.receipt(&format!("grant({a}, 100)")).await?;
    ledger.receipt(&format!("grant({b}, 100)")).await?;
    let spent = ledger.receipt(&format!("spend_fifo({a}, 50)")).await?;
    let hold = ledger.receipt(&format!("hold({a}, 5)")).await?;
    ledger
        .run(&format!("select loyalty.suspend_account({a})"))
        .await?;
    let asked = [
        format!("spend_fifo({a}, 1)"),
        format!("hold({a}, 1)"),
        format!("capture({a}, {})", hold.id),
        format!("transfer({a}, {b}, 1)"),
        format!("explain_spend({a}, 1)"),
    ];
    for call in &asked {
        assert_eq!(ledger.refused_call(call).await?, "LY004", "{call}");
    }
    ledger.receipt(&format!("grant({a}, 10)")).await?;
    ledger.receipt(&format!("transfer({b}, {a}, 1)")).await?;
    ledger
        .receipt(&format!("refund({a}, {}, 1)", spent.id))
        .await?;
    ledger
        .receipt(&format!("release({a}, {})", hold.id))
        .await?;
    ledger
        .run(&format!("select loyalty.resume_account({a})"))
        .await?;
    ledger.receipt(&format!("spend_fifo({a}, 1)")).await?;

    assert_eq!(
        ledger
            .refused(&format!("select loyalty.close_account({a})"))
            .await?,
        "22023",
        "not empty"
    );
    let held = ledger.receipt(&format!("hold({a}, 1)")).await?;
    let close = format!("select loyalty.close_account(account_id => {a}, forfeit => true)");
    assert_eq!(ledger.refused(&close).await?, "22023", "a hold is open");
    ledger
        .receipt(&format!("release({a}, {})", held.id))
        .await?;
    let left = ledger.receipt(&format!("hold({a}, 1)")).await?.available;
    let rest = ledger.receipt(&format!("hold({a}, {left})")).await?.id;
    assert_eq!(ledger.refused(&close).await?, "22023", "all of it is held");
    ledger
        .run(&format!(
            "select loyalty.release({a}, {rest}), loyalty.release({a}, {rest} - 1)"
        ))
        .await?;
    ledger.run(&close).await?;
    assert_eq!(ledger.balance(a).await?, "0|0|0||");
    let more = [
        format!("grant({a}, 10)"),
        format!("transfer({b}, {a}, 1)"),
        format!("refund({a}, {}, 1)", spent.id),
        format!("revoke({a}, {a} * 16777216 + 1, 1)"),
    ];
    for call in asked[..4].iter().chain(&more) {
        assert_eq!(ledger.refused_call(call).await?, "LY004", "{call}");
    }
    assert_eq!(
        ledger
            .refused(&format!("select loyalty.resume_account({a})"))
            .await?,
        "LY004"
    );
    assert_eq!(
        ledger.account("a").await?,
        a,
        "opening it again gives the same, closed one"
    );
    let breakage = "select sum(points) from loyalty.journal where side = 'breakage'";
    assert_eq!(ledger.show(breakage).await?, "61");
    ledger.verify().await
}

#[tokio::test]
async fn unknown_programs_and_accounts_are_told_so() -> Result<()> {
    let ledger = Ledger::open("unknown", "").await?;
    let a = ledger.account("a").await?;
    ledger.receipt(&format!("grant({a}, 10)")).await?;
    for call in [
        "open_account('nobody', 'a')",
        "today('nobody')",
        "verify('nobody')",
        "balance(999)",
        "lots(999)",
        "statement(999)",
        "explain_spend(999, 1)",
        "grant(999, 1)",
        "spend_fifo(999, 1)",
        "hold(999, 1)",
        "capture(999, 1)",
        "refund(999, 1)",
        "revoke(999, 1)",
        "transfer(999, 1, 1)",
        "suspend_account(999)",
    ] {
        assert_eq!(ledger.refused_call(call).await?, "LY002", "{call}");
    }
    assert_eq!(
        ledger
            .refused("select loyalty.create_program('p', 'Again')")
            .await?,
        "23505"
    );
    assert_eq!(
        ledger
            .refused("select loyalty.create_program('q', 'Q', time_zone => 'Mars')")
            .await?,
        "23514"
    );
    assert_eq!(
        ledger
            .refused("select loyalty.create_program('q', 'Q', calendar => 'Mars')")
            .await?,
        "22023"
    );
    assert_eq!(
        ledger
            .refused("select loyalty.create_program('q', 'Q', expiry => 'some day')")
            .await?,
        "22023"
    );
    Ok(())
}

/// S10: where no more lots fit, one can still be moved to the day that activity gives it.
#[tokio::test]
async fn s10_activity_moves_a_lot_among_as_many_as_there_can_be() -> Result<()> {
    let ledger = Ledger::open("full", "expiry => 'after 3 months of inactivity'").await?;
    let a = ledger.account("a").await?;
    ledger.receipt(&format!("grant({a}, 10)")).await?;
    let fill = format!(
        "select count(*) from loyalty.grant_many((
             select jsonb_agg(jsonb_build_object('account_id', {a}, 'points', 1, 'expires_on', date '2030-01-01' + n))
               from generate_series(1, 4095) n)) where error_code is null"
    );
    assert_eq!(ledger.show(&fill).await?, "4095");
    ledger.at("2025-06-16 10:00+09").await?;
    let spent = ledger.receipt(&format!("spend_fifo({a}, 1)")).await?;
    assert_eq!(spent.lots, "2025-09-16: 1");
    let more = format!("grant({a}, 1, expires_on => '2029-01-01')");
    assert_eq!(ledger.refused_call(&more).await?, "54000");
    ledger.verify().await
}

/// One member number, or many: the same are refused.
#[tokio::test]
async fn member_numbers_that_cannot_be_open_no_account() -> Result<()> {
    let ledger = Ledger::open("member_no", "").await?;
    for (member_no, code) in [
        ("''", "22023"),
        ("repeat('9', 101)", "22023"),
        ("'=1+1'", "22023"),
        ("null", "22004"),
    ] {
        for call in [
            format!("open_account('p', {member_no})"),
            format!("open_accounts('p', array['a', {member_no}])"),
        ] {
            assert_eq!(ledger.refused_call(&call).await?, code, "{call}");
        }
    }
    let accounts = "select count(*) from loyalty.account";
    assert_eq!(ledger.show(accounts).await?, "0");
    let longest =
        "select char_length(member_no) from loyalty.open_accounts('p', array[repeat('9', 100)])";
    assert_eq!(ledger.show(longest).await?, "100");
    Ok(())
}

/// S10: points can also vanish on a day set by inactivity.
#[tokio::test]
async fn s10_activity_moves_the_day_and_inactivity_lets_points_lapse() -> Result<()> {
    let ledger = Ledger::open("inactivity", "expiry => 'after 12 months of inactivity'").await?;
    let a = ledger.account("a").await?;
    assert_eq!(
        ledger.receipt(&format!("grant({a}, 100)")).await?.lots,
        "2026-06-15: 100"
    );
    ledger.at("2025-08-31 10:00+09").await?;
    let spent = ledger.receipt(&format!("spend_fifo({a}, 10)")).await?;
    assert_eq!(ledger.lots(a).await?, "2026-08-31|100|90|0|t");
    ledger.at("2025-10-01 10:00+09").await?;
    ledger
        .receipt(&format!("refund({a}, {}, 5)", spent.id))
        .await?;
    let day = format!("select max(expires_on) from loyalty.lots({a})");
    assert_eq!(
        ledger.show(&day).await?,
        "2026-08-31",
        "a refund is no activity of the member"
    );
    // points with a day of their own stay as they are
    ledger.at("2025-12-01 10:00+09").await?;
    ledger
        .receipt(&format!("grant({a}, 7, expires_on => '2026-01-31')"))
        .await?;
    assert_eq!(ledger.balance(a).await?, "102|0|102|2026-01-31|7");
    assert_eq!(ledger.show(&day).await?, "2026-12-01");
    ledger.at("2026-12-01 23:59+09").await?;
    assert_eq!(ledger.balance(a).await?, "102|0|95|2026-12-01|95");
    ledger.at("2026-12-02 00:00+09").await?;
    assert_eq!(ledger.balance(a).await?, "102|0|0||");
    // law 4: what comes now is not lost with what has lapsed, though no run came by
    let granted = ledger.receipt(&format!("grant({a}, 50)")).await?;
    assert_eq!(
        (granted.available, granted.lots.as_str()),
        (50, "2027-12-02: 50")
    );
    assert_eq!(
        ledger.show("select * from loyalty.expire('p')").await?,
        "2|102"
    );
    assert_eq!(ledger.balance(a).await?, "50|0|50|2027-12-02|50");
    ledger.verify().await
}

#[tokio::test]
async fn a_balance_in_the_past_is_as_it_was_and_in_the_future_as_it_will_be() -> Result<()> {
    let ledger = Ledger::open("as_of", "").await?;
    let a = ledger.account("a").await?;
    ledger
        .receipt(&format!("grant({a}, 100, expires_on => '2025-06-20')"))
        .await?;
    ledger
        .receipt(&format!("grant({a}, 50, expires_on => '2025-07-20')"))
        .await?;
    ledger.at("2025-06-17 12:00+09").await?;
    ledger.receipt(&format!("spend_fifo({a}, 30)")).await?;
    ledger.receipt(&format!("hold({a}, 5, '2 hours')")).await?;
    ledger.at("2025-06-18 12:00+09").await?;
    let at = async |as_of: &str| {
        ledger
            .show(&format!(
                "select * from loyalty.balance({a}, as_of => {as_of})"
            ))
            .await
    };
    assert_eq!(at("'2025-06-14'::date").await?, "0|0|0||");
    assert_eq!(at("'2025-06-16'::date").await?, "150|0|150|2025-06-20|100");
    assert_eq!(
        at("'2025-06-17 11:59:59+09'::timestamptz").await?,
        "150|0|150|2025-06-20|100"
    );
    assert_eq!(
        at("'2025-06-17 13:59:59+09'::timestamptz").await?,
        "120|5|115|2025-06-20|65"
    );
    assert_eq!(
        at("'2025-06-17'::date").await?,
        "120|0|120|2025-06-20|70",
        "the hold was over by then"
    );
    assert_eq!(at("null::timestamptz").await?, "120|0|120|2025-06-20|70");
    assert_eq!(at("'2025-06-20'::date").await?, "120|0|120|2025-06-20|70");
    assert_eq!(
        at("'2025-06-21 00:00+09'::timestamptz").await?,
        "50|0|50|2025-07-20|50"
    );
    assert_eq!(at("'2025-07-21'::date").await?, "0|0|0||");
    // statement: from and to a day, both in it, in the program's zone
    let days = async |days: &str| {
        ledger
            .show(&format!(
                "select string_agg(kind::text, ' ') from loyalty.statement({a}, {days})"
            ))
            .await
    };
    assert_eq!(days("from_date => '2025-06-16'").await?, "spend hold");
    assert_eq!(days("to_date => '2025-06-15'").await?, "grant grant");
    assert_eq!(
        days("'2025-06-15', '2025-06-17'").await?,
        "grant grant spend hold"
    );
    assert_eq!(days("'2025-06-16', '2025-06-16'").await?, "");
    ledger.verify().await
}

#[tokio::test]
async fn bulk_calls_give_each_item_its_own_outcome() -> Result<()> {
    let ledger = Ledger::open("bulk", "").await?;
    let (a, b) = (ledger.account("a").await?, ledger.account("b").await?);
    let grants = format!(
        r#"select item, account_id = {a}, points, balance, error_code from loyalty.grant_many('[
            {{"account_id": {a}, "points": 100, "reason": "welcome", "expires_on": "2025-07-01", "idempotency_key": "1"}},
            {{"account_id": {b}, "points": 0}},
            {{"account_id": 999, "points": 5}},
            {{"account_id": {a}, "points": 100, "idempotency_key": "1"}},
            {{"account_id": {a}, "points": 5, "expires_on": "2025-06-14"}},
            {{"account_id": {a}, "points": 20, "granted_on": "2025-05-31", "funding": "sponsor"}}]')"#
    );
    let told =
        "1|t|100|100|\n2|f|0||22023\n3|f|5||LY002\n4|t|100||LY003\n5|t|5||22023\n6|t|20|120|";
    assert_eq!(ledger.show(&grants).await?, told);
    assert_eq!(
        ledger.lots(a).await?,
        "2025-07-01|100|100|0|t\n2028-05-31|20|20|0|t"
    );
    let spends = format!(
        r#"select item, points, balance, error_code from loyalty.spend_many('[
            {{"account_id": {a}, "points": 70, "idempotency_key": "2"}},
            {{"account_id": {a}, "points": 70}},
            {{"account_id": {a}, "points": 50}},
            {{"account_id": {a}, "points": 70, "idempotency_key": "2"}}]')"#
    );
    assert_eq!(
        ledger.show(&spends).await?,
        "1|70|50|\n2|70||LY001\n3|50|0|\n4|70|50|"
    );
    let without =
        "select error_code from loyalty.grant_many('[{\"points\": 5}, {\"account_id\": 1}]')";
    assert_eq!(ledger.show(without).await?, "22004\n22004");
    for bad in ["{}", r#"[{"account_id": 1, "points": 5, "pionts": 5}]"#] {
        assert_eq!(
            ledger
                .refused(&format!("select loyalty.grant_many('{bad}')"))
                .await?,
            "22023",
            "{bad}"
        );
    }
    for verb in ["grant", "spend"] {
        let none = format!("select loyalty.{verb}_many(null)");
        assert_eq!(ledger.refused(&none).await?, "22004", "{verb}");
    }
    // JSON has a zero character, no text of PostgreSQL's does
    for text in ["reason", "idempotency_key", "funding"] {
        let zero = format!(
            r#"select error_code from loyalty_private.grant_items('[{{"account_id": {a}, "points": 1, "{text}": "a\u0000b"}}]', null)"#
        );
        assert_eq!(ledger.show(&zero).await?, "22023", "{text}");
    }
    let reason = r#"say \"ポイント\" \\ \t"#;
    let worded = format!(
        r#"select count(*) from loyalty.grant_many('[{{"account_id": {a}, "points": 1, "reason": "{reason}"}}]')"#
    );
    assert_eq!(ledger.show(&worded).await?, "1");
    let kept = format!("select reason from loyalty.statement({a}) order by entry desc limit 1");
    assert_eq!(ledger.show(&kept).await?, "say \"ポイント\" \\ \t");
    let many = format!(
        "select loyalty.grant_many(jsonb_agg(jsonb_build_object('account_id', {a}, 'points', 1))) from generate_series(1, 10001)"
    );
    assert_eq!(ledger.refused(&many).await?, "54000", "10,000 at most");
    ledger.verify().await
}

#[tokio::test]
async fn points_beyond_bigint_are_refused() -> Result<()> {
    let ledger = Ledger::open("overflow", "").await?;
    let (a, b) = (ledger.account("a").await?, ledger.account("b").await?);
    let most = i64::MAX;
    assert_eq!(
        ledger
            .receipt(&format!("grant({a}, {most})"))
            .await?
            .balance,
        most
    );
    assert_eq!(
        ledger.refused_call(&format!("grant({a}, 1)")).await?,
        "22003"
    );
    assert_eq!(
        ledger
            .refused_call(&format!("grant({a}, 1, expires_on => '2025-07-01')"))
            .await?,
        "22003"
    );
    ledger.receipt(&format!("grant({b}, 1)")).await?;
    assert_eq!(
        ledger
            .refused_call(&format!("transfer({b}, {a}, 1)"))
            .await?,
        "22003"
    );
    let many = format!(
        r#"select error_code from loyalty.grant_many('[{{"account_id": {a}, "points": 1}}]')"#
    );
    assert_eq!(ledger.show(&many).await?, "22003");
    assert_eq!(
        ledger
            .refused(&format!("select loyalty.grant({b}, 9223372036854775808)"))
            .await?,
        "42883"
    );
    assert_eq!(
        ledger
            .refused(&format!(
                "select loyalty.grant({b}, 9223372036854775808::bigint)"
            ))
            .await?,
        "22003"
    );
    // all of it goes out and comes back: sums of the journal are wider than its amounts
    let spent = ledger.receipt(&format!("spend_fifo({a}, {most})")).await?;
    ledger
        .receipt(&format!("refund({a}, {})", spent.id))
        .await?;
    assert_eq!(
        ledger.balance(a).await?,
        format!("{most}|0|{most}|2028-06-30|{most}")
    );
    ledger.verify().await
}

/// An operation_id has 24 bits for the entry: the next would be another account's.
#[tokio::test]
async fn an_account_with_all_its_entry_numbers_used_is_refused_more() -> Result<()> {
    let ledger = Ledger::open("entry_numbers", "").await?;
    let (a, b) = (ledger.account("a").await?, ledger.account("b").await?);
    ledger.receipt(&format!("grant({a}, 100)")).await?;
    ledger.receipt(&format!("grant({b}, 100)")).await?;
    // forced past the guard, for sixteen million calls take too long
    ledger
        .run(&format!(
            "set session_replication_role = replica; \
             update loyalty.wallet set last_entry = (1 << 24) - 12 where account_id = {a}; \
             set session_replication_role = origin"
        ))
        .await?;
    let spend = format!("select operation_id from loyalty.spend_fifo({a}, 1)");
    let mut made = 0;
    let refused = loop {
        match ledger.client.query_one(&spend, &[]).await {
            Ok(row) => {
                let id: i64 = row.try_get(0)?;
                assert_eq!(id >> 24, a, "not another account's");
                made += 1;
            }
            Err(error) => break error.code().map(|code| code.code().to_owned()),
        }
    };
    assert_eq!(refused.as_deref(), Some("54000"));
    assert!(made > 5, "refused {made} spends after the forced number");
    for call in [
        format!("spend_fifo({a}, 1)"),
        format!("grant({a}, 1)"),
        format!("hold({a}, 1)"),
        format!("transfer({a}, {b}, 1)"),
        format!("transfer({b}, {a}, 1)"),
    ] {
        assert_eq!(ledger.refused_call(&call).await?, "54000", "{call}");
    }
    let many = format!(
        r#"select error_code from loyalty.grant_many('[{{"account_id": {a}, "points": 1}}]')"#
    );
    assert_eq!(ledger.show(&many).await?, "54000");
    Ok(())
}

#[tokio::test]
async fn only_superusers_and_operators_set_the_clock() -> Result<()> {
    let ledger = Ledger::open("clock", "").await?;
    assert_eq!(
        ledger.show("select loyalty.now()").await?,
        "2025-06-15 01:00:00+00"
    );
    ledger.at("yesteryear").await?;
    assert_eq!(ledger.refused("select loyalty.now()").await?, "22007");
    ledger.run("reset loyalty.clock").await?;
    assert_eq!(
        ledger
            .show(
                "select loyalty.now() between now() - interval '1 day' and now() + interval '1 day'"
            )
            .await?,
        "t"
    );
    let set = "set loyalty.clock = '2030-01-01 00:00+00'";
    let operator = ledger.db.connect_as("loyalty_operator").await?;
    operator.batch_execute(set).await?;
    let told: String = operator
        .query_one("select loyalty.today('p')::text", &[])
        .await?
        .try_get(0)?;
    assert_eq!(told, "2030-01-01");
    for role in [
        "loyalty_anon",
        "loyalty_member",
        "loyalty_granter",
        "loyalty_admin",
    ] {
        let sets = [
            set,
            "select set_config('loyalty.clock', '2030-01-01 00:00+00', false)",
            "set local loyalty.clock = '2030-01-01 00:00+00'",
        ];
        let year = "select extract(year from loyalty.now())::bigint <> 2030";
        for sql in sets {
            // a session that has not used the extension yet may take a name it does not know,
            // which then comes to nothing
            let client = ledger.db.connect_as(role).await?;
            if let Err(refused) = client.batch_execute(sql).await {
                assert_eq!(
                    refused.code().map(|code| code.code()),
                    Some("42501"),
                    "{role}: {sql}"
                );
            }
            assert!(
                client.query_one(year, &[]).await?.try_get::<_, bool>(0)?,
                "{role}: {sql}"
            );
            let refused = client.batch_execute(sql).await.expect_err(role);
            assert_eq!(
                refused.code().map(|code| code.code()),
                Some("42501"),
                "{role}: {sql}"
            );
            assert!(
                client.query_one(year, &[]).await?.try_get::<_, bool>(0)?,
                "{role}: {sql}"
            );
        }
    }
    Ok(())
}

/// Law 4 for a day that is over: where midnight comes twice, the first one ends it.
#[tokio::test]
async fn law_4_a_day_ends_at_the_first_of_two_midnights() -> Result<()> {
    let ledger = Ledger::open("two_midnights", "").await?;
    ledger.at("2025-10-20 12:00+00").await?;
    ledger
        .run("select loyalty.create_program('az', 'Azores', time_zone => 'Atlantic/Azores')")
        .await?;
    let account = ledger
        .show("select loyalty.open_account('az', 'm')")
        .await?;
    let grant = format!("select loyalty.grant({account}, 100, expires_on => '2025-10-25')");
    ledger.run(&grant).await?;
    let at_its_end = format!("select available from loyalty.balance({account}, date '2025-10-25')");
    assert_eq!(ledger.show(&at_its_end).await?, "100");
    // half past midnight, for the first time
    ledger.at("2025-10-26 00:30+00").await?;
    ledger
        .run(&format!("select loyalty.grant({account}, 7)"))
        .await?;
    for (days, points) in [("null, '2025-10-25'", "100"), ("'2025-10-26', null", "7")] {
        let lines = format!(
            "select string_agg(points::text, ' ') from loyalty.statement({account}, {days})"
        );
        assert_eq!(ledger.show(&lines).await?, points, "{days}");
    }
    assert_eq!(ledger.show(&at_its_end).await?, "100");
    ledger.verify().await
}

/// A session remembers how far a zone's clocks are from UTC, until they change.
#[tokio::test]
async fn days_end_at_midnight_also_where_clocks_change() -> Result<()> {
    let ledger = Ledger::open("clocks", "").await?;
    let days = [
        ("Europe/Paris", "2025-03-29"),
        ("Europe/Paris", "2025-10-25"),
        // 00:00 is 01:00
        ("America/Sao_Paulo", "2018-11-03"),
        // 24:00 is 23:00
        ("America/Sao_Paulo", "2018-02-17"),
        // 01:00 is 00:00: two midnights
        ("America/Havana", "2025-11-01"),
        ("Atlantic/Azores", "2025-10-25"),
        // no 30 December
        ("Pacific/Apia", "2011-12-29"),
        // not by whole minutes
        ("Africa/Monrovia", "1972-01-06"),
        ("Asia/Tokyo", "2025-06-15"),
        ("-03:30", "2025-06-15"),
    ];
    for (number, (zone, day)) in days.into_iter().enumerate() {
        let begin = format!("timezone('{zone}', date '{day}' - 1 + time '00:00')");
        let begins = ledger.show(&format!("select {begin}")).await?;
        ledger.at(&begins).await?;
        ledger
            .run(&format!(
                "select loyalty.create_program('zone-{number}', 'x', time_zone => '{zone}')"
            ))
            .await?;
        let account = ledger
            .show(&format!(
                "select loyalty.open_account('zone-{number}', 'm')"
            ))
            .await?;
        ledger
            .run(&format!(
                "select loyalty.grant({account}, 1, expires_on => '{day}')"
            ))
            .await?;
        // there and back again: not in their order
        let times = ledger
            .show(&format!(
                "select {begin} + n * interval '19 minutes' from generate_series(0, 240) n
                  order by n * 97 % 241"
            ))
            .await?;
        for time in times.lines() {
            ledger.at(time).await?;
            let spendable = ledger
                .show(&format!("select available from loyalty.balance({account})"))
                .await?;
            let expected = ledger
                .show(&format!(
                    "select (timezone('{zone}', '{time}'::timestamptz)::date <= '{day}')::int"
                ))
                .await?;
            assert_eq!(spendable, expected, "{zone} at {time}");
        }
    }
    Ok(())
}
