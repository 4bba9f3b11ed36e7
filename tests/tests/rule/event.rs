//! Events and purchases: paid at once or on a later day, recorded late, canceled (C5).

use crate::{Program, REFERRAL};
use anyhow::Result;
use loyalty_tests::until_one_waits;

/// `member_no granted_on points kind`, a line for each entry.
const ENTRIES: &str = "select a.member_no, e.granted_on, e.points, e.kind from loyalty.entry e
      join loyalty.account a using (account_id) order by e.occurred_at, a.member_no, e.entry";

#[tokio::test]
async fn an_unknown_kind_is_refused_with_those_that_are_known() -> Result<()> {
    let program = Program::open("event_kind").await?;
    program.account("a").await?;
    let none = program
        .refused("select loyalty.record_event('coin', 'referal', 'a')")
        .await?;
    assert_eq!(none.code, "22023");
    program.rule("referral", "event", REFERRAL, "").await?;
    program
        .rule(
            "rate",
            "purchase",
            r#"{"per_amount": 100, "points": 1, "rounding": "down"}"#,
            "",
        )
        .await?;
    for (call, code) in [
        ("'referal', 'a'", "22023"),
        ("'referral', 'nobody'", "LY002"),
        ("'referral', 'a', 'nobody'", "LY002"),
        ("'referral', 'a', 'a'", "22023"),
        ("'referral', null", "LY002"),
        ("'referral', 'a', occurred_on => '2024-05-02'", "22023"),
        ("'referral', 'a', occurred_on => 'infinity'", "22023"),
        ("'referral', 'a', occurred_on => '1800-01-01'", "22023"),
        ("'referral', 'a', reference => ''", "22023"),
        ("'referral', 'a', reference => repeat('x', 151)", "22023"),
        ("'referral', 'a', attributes => '[]'", "22023"),
        ("'purchase', 'a'", "22004"),
        ("'purchase', 'a', amount => -1", "22023"),
        ("'referral', 'a', amount => 1e13", "22023"),
        ("'purchase', 'a', amount => 'NaN'", "22023"),
        ("null, 'a'", "22023"),
    ] {
        let refusal = program
            .refused(&format!("select loyalty.record_event('coin', {call})"))
            .await?;
        assert_eq!(refusal.code, code, "{call}: {refusal:?}");
        assert!(!refusal.hint.is_empty(), "{call}: {refusal:?}");
        if refusal.reason == "event_kind_unknown" {
            assert!(refusal.hint.contains("purchase, referral"), "{refusal:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_same_reference_is_one_event() -> Result<()> {
    let program = Program::open("event_reference").await?;
    program
        .rule(
            "referral",
            "event",
            r#"{"event": "referral", "points": {"member": 3, "other": 2}}"#,
            "",
        )
        .await?;
    for member_no in ["a", "b", "c"] {
        program.account(member_no).await?;
    }
    let record = |parties: &str| {
        format!(
            "select event_id, is_new from loyalty.record_event('coin', 'referral', {parties}, reference => 'r')"
        )
    };
    assert_eq!(program.show(&record("'a', 'b'")).await?, "1|t");
    program.at("2024-05-03 10:00+09").await?;
    assert_eq!(program.show(&record("'a', 'b'")).await?, "1|f");
    assert_eq!(
        program.show(&record("'a', 'b', '2024-05-01'")).await?,
        "1|f"
    );
    for other in [
        "'a', 'c'",
        "'a'",
        "'c', 'b'",
        "'a', 'b', '2024-05-02'",
        "'a', 'b', amount => 5",
    ] {
        assert_eq!(
            program.refused(&record(other)).await?.code,
            "LY003",
            "{other}"
        );
    }
    assert_eq!(
        program.show(ENTRIES).await?,
        "a|2024-05-01|3|grant\nb|2024-05-01|2|grant"
    );
    // each without a reference is an event of its own
    program
        .run("select loyalty.record_event('coin', 'referral', 'a'); select loyalty.record_event('coin', 'referral', 'a')")
        .await?;
    assert_eq!(
        program.show("select count(*) from loyalty.event").await?,
        "3"
    );
    program.verify().await
}

/// Two sessions record the same reference at the same time: one event, one payment.
#[tokio::test]
async fn two_sessions_record_one_event() -> Result<()> {
    let program = Program::open("event_race").await?;
    program
        .rule("e", "event", r#"{"event": "visit", "points": 5}"#, "")
        .await?;
    let account = program.account("a").await?;
    let other = program.db.connect().await?;
    other
        .batch_execute("set loyalty.clock = '2024-05-01 10:00+09'")
        .await?;
    let record = "select loyalty.record_event('coin', 'visit', 'a', reference => 'r')";
    program.run(&format!("begin; {record}")).await?;
    let second = tokio::spawn(async move { other.batch_execute(record).await });
    until_one_waits(&program.db.connect().await?).await?;
    program.run("commit").await?;
    second.await??;
    assert_eq!(program.grants(account).await?.len(), 1);
    assert_eq!(
        program.show("select count(*) from loyalty.event").await?,
        "1"
    );
    Ok(())
}

#[tokio::test]
async fn points_by_amount_are_rounded_as_the_rule_says() -> Result<()> {
    let program = Program::open("event_rounding").await?;
    let points = async |rounding: &str, more: &str, amount: &str| {
        program
            .show(&format!(
                "select coalesce(loyalty_private.event_points('{{\"per_amount\": 300, \"points\": 10, \"rounding\": \"{rounding}\"{more}}}',
                                             'purchase', 'member', {amount}), 0)"
            ))
            .await
    };
    for (amount, down, up, half_up, whole_units) in [
        ("0", "0", "0", "0", "0"),
        ("0.01", "0", "1", "0", "0"),
        ("14.99", "0", "1", "0", "0"),
        ("15", "0", "1", "1", "0"),
        ("29.99", "0", "1", "1", "0"),
        ("30", "1", "1", "1", "0"),
        ("299.99", "9", "10", "10", "0"),
        ("300", "10", "10", "10", "10"),
        ("899", "29", "30", "30", "20"),
        (
            "1000000000000",
            "33333333333",
            "33333333334",
            "33333333333",
            "33333333330",
        ),
        // quotients of many digits are not rounded on the way
        ("299.99999999999999999999999999", "9", "10", "10", "0"),
        ("300.00000000000000000000000001", "10", "11", "10", "10"),
    ] {
        assert_eq!(points("down", "", amount).await?, down, "{amount}");
        assert_eq!(points("up", "", amount).await?, up, "{amount}");
        assert_eq!(points("half_up", "", amount).await?, half_up, "{amount}");
        assert_eq!(
            points("whole_units", "", amount).await?,
            whole_units,
            "{amount}"
        );
    }
    let limits = r#", "minimum_amount": 60, "max_points": 5"#;
    assert_eq!(points("down", limits, "59.99").await?, "0");
    assert_eq!(points("down", limits, "60").await?, "2");
    assert_eq!(points("down", limits, "6000").await?, "5");
    Ok(())
}

#[tokio::test]
async fn a_purchase_pays_at_once_and_is_taken_back_by_cancel() -> Result<()> {
    let program = Program::open("event_purchase").await?;
    program
        .rule(
            "rate",
            "purchase",
            r#"{"per_amount": 100, "points": 1, "rounding": "down"}"#,
            "title => 'Purchase', expiry => '1 year'",
        )
        .await?;
    let account = program.account("a").await?;
    let buy = |reference: &str, amount: &str| {
        format!(
            "select event_id, payments -> 0 ->> 'points' from loyalty.record_event('coin', 'purchase', 'a', amount => {amount}, reference => '{reference}')"
        )
    };
    assert_eq!(program.show(&buy("order 1", "1999")).await?, "1|19");
    assert_eq!(
        program.show(&buy("order 2", "99")).await?,
        "2|",
        "too little for a point"
    );
    assert_eq!(program.grants(account).await?, ["2024-05-01 19 2025-05-01"]);
    let cancel =
        |event: i64, more: &str| format!("select loyalty.cancel_event({event}, 'sent back'{more})");
    let long = program
        .refused("select loyalty.cancel_event(1, repeat('x', 1001))")
        .await?;
    assert_eq!(long.code, "22023");
    assert_eq!(program.show(&cancel(1, "")).await?, "19");
    assert_eq!(program.show(&cancel(1, "")).await?, "0", "once");
    assert_eq!(program.show(&cancel(2, "")).await?, "0");
    // what was spent: clamp leaves it, debt is repaid by later grants
    program.run(&buy("order 3", "1000")).await?;
    program
        .run(&format!("select loyalty.spend_fifo({account}, 4)"))
        .await?;
    assert_eq!(program.show(&cancel(3, "")).await?, "6");
    program.run(&buy("order 4", "1000")).await?;
    program
        .run(&format!("select loyalty.spend_fifo({account}, 10)"))
        .await?;
    program.run(&cancel(4, ", 'debt'")).await?;
    assert_eq!(
        program
            .show(&format!(
                "select debt from loyalty.wallet where account_id = {account}"
            ))
            .await?,
        "10"
    );
    // revoked by hand before: nothing is left to take, and it is canceled all the same
    program.run(&buy("order 5", "5000")).await?;
    program
        .run(&format!(
            "select loyalty.revoke({account}, operation_id) from loyalty_private.event_payments(5)"
        ))
        .await?;
    assert_eq!(program.show(&cancel(5, "")).await?, "0");
    assert_eq!(
        program
            .show("select count(*) from loyalty.event where canceled_at is not null")
            .await?,
        "5"
    );
    assert_eq!(program.refused(&cancel(99, "")).await?.code, "LY002");
    assert_eq!(program.refused(&cancel(5, ", 'wipe'")).await?.code, "22023");
    program.verify().await
}

#[tokio::test]
async fn c5_canceled_before_it_was_paid_is_not_paid() -> Result<()> {
    let program = Program::open("event_cancel").await?;
    program.rule("referral", "event", REFERRAL, "").await?;
    for member_no in ["a", "b", "c"] {
        program.account(member_no).await?;
    }
    program
        .run(
            "select loyalty.record_event('coin', 'referral', 'a', 'b');
              select loyalty.record_event('coin', 'referral', 'a', 'c');
              select loyalty.cancel_event(1)",
        )
        .await?;
    program.live_until("2024-06-17").await?;
    assert_eq!(
        program.show(ENTRIES).await?,
        "a|2024-06-17|5000|grant\nc|2024-06-17|5000|grant"
    );
    // canceled later, also when the rule has ended since
    program
        .run("select loyalty.end_rule('coin', 'referral')")
        .await?;
    program.live_until("2024-07-20").await?;
    assert_eq!(
        program.show("select loyalty.cancel_event(2)").await?,
        "10000"
    );
    assert_eq!(
        program
            .show("select sum(balance) from loyalty.wallet")
            .await?,
        "0"
    );
    program
        .run("select loyalty.rerun('coin', 'rule:referral', '2024-06-15')")
        .await?;
    program.live_until("2024-07-21").await?;
    assert_eq!(
        program
            .show("select sum(balance) from loyalty.wallet")
            .await?,
        "0"
    );
    program.verify().await
}

/// C5: recorded when its pay day is over, an event is paid then, effective as of that day; the
/// run of that day, whenever it comes, finds it paid.
#[tokio::test]
async fn c5_an_event_recorded_late_is_paid_as_of_its_day() -> Result<()> {
    let program = Program::open("event_late").await?;
    program.rule("referral", "event", REFERRAL, "").await?;
    let (a, b) = (program.account("a").await?, program.account("b").await?);
    let record = "select loyalty.record_event('coin', 'referral', 'a', 'b', '2024-05-10', reference => 'late')";
    program.live_until("2024-09-01").await?;
    program.run(record).await?;
    assert_eq!(program.grants(a).await?, ["2024-06-17 5000 2027-06-30"]);
    program
        .run("select loyalty.rerun('coin', 'rule:referral', '2024-06-15')")
        .await?;
    program.live_until("2024-10-20").await?;
    assert_eq!(program.grants(a).await?.len(), 1);
    assert_eq!(program.grants(b).await?.len(), 1);
    // after downtime: recorded on the pay day itself, before the run of it came
    program.at("2024-11-15 00:00+09").await?;
    program
        .run("select loyalty.record_event('coin', 'referral', 'a', 'b', '2024-10-31')")
        .await?;
    assert_eq!(program.grants(a).await?.len(), 2);
    program.live_until("2024-12-31").await?;
    assert_eq!(program.grants(a).await?.len(), 2);
    program.verify().await
}

/// C5: also by a rule with an expiry of its own, and where the run of the period comes later.
#[tokio::test]
async fn c5_an_event_recorded_late_is_no_failure_of_the_run() -> Result<()> {
    let program = Program::open("event_late_terms").await?;
    program
        .rule("referral", "event", REFERRAL, "expiry => '1 year'")
        .await?;
    let (a, b) = (program.account("a").await?, program.account("b").await?);
    program.live_until("2024-06-01").await?;
    program.at("2024-06-17 00:00+09").await?;
    program
        .run("select loyalty.record_event('coin', 'referral', 'a', 'b', '2024-05-10')")
        .await?;
    program.live_until("2024-06-17").await?;
    program
        .run("select loyalty.rerun('coin', 'rule:referral', '2024-06-15')")
        .await?;
    program.live_until("2024-06-18").await?;
    for account in [a, b] {
        assert_eq!(
            program.grants(account).await?,
            ["2024-06-17 5000 2025-06-17"]
        );
    }
    let failures = "select count(*) from loyalty.run_failure";
    assert_eq!(program.show(failures).await?, "0");
    program.verify().await
}

/// C5: what a run would have paid is paid: to the party whose account is open, and as points that
/// have lapsed since.
#[tokio::test]
async fn c5_an_event_recorded_late_is_paid_as_the_run_would_have() -> Result<()> {
    let program = Program::open("event_late_lapsed").await?;
    program
        .rule("referral", "event", REFERRAL, "expiry => '30 days'")
        .await?;
    let (a, b) = (program.account("a").await?, program.account("b").await?);
    program.live_until("2024-09-01").await?;
    program
        .run(&format!("select loyalty.close_account({b})"))
        .await?;
    program
        .run("select loyalty.record_event('coin', 'referral', 'a', 'b', '2024-05-10')")
        .await?;
    assert_eq!(program.grants(a).await?, ["2024-06-17 5000 2024-07-17"]);
    assert!(program.grants(b).await?.is_empty());
    program.live_until("2024-09-02").await?;
    let balance = format!("select balance from loyalty.balance({a})");
    assert_eq!(program.show(&balance).await?, "0");
    program.verify().await
}

/// An event whose recording is committed after the run has looked is paid with the next one.
#[tokio::test]
async fn c5_a_recording_that_the_run_did_not_see_is_paid_next_time() -> Result<()> {
    let program = Program::open("event_overlap").await?;
    program.rule("referral", "event", REFERRAL, "").await?;
    let a = program.account("a").await?;
    program.account("b").await?;
    let slow = program.db.connect().await?;
    // in a transaction of its own, on the eve of the pay day, 2024-06-17
    slow.batch_execute(
        "begin; set local loyalty.clock = '2024-06-16 23:59:59+09';
         select loyalty.record_event('coin', 'referral', 'a', 'b', '2024-05-10')",
    )
    .await?;
    program.live_until("2024-06-17").await?;
    slow.batch_execute("commit").await?;
    assert!(program.grants(a).await?.is_empty());
    program.live_until("2024-07-20").await?;
    assert_eq!(program.grants(a).await?, ["2024-07-16 5000 2027-07-31"]);
    program.live_until("2024-12-31").await?;
    assert_eq!(program.grants(a).await?.len(), 1);
    Ok(())
}

/// While a run pays events, cancel_event waits for its chunk, and then takes back what it paid.
#[tokio::test]
async fn canceling_waits_for_a_chunk_that_pays() -> Result<()> {
    let program = Program::open("event_cancel_race").await?;
    program.rule("referral", "event", REFERRAL, "").await?;
    program.account("a").await?;
    program.account("b").await?;
    program
        .run(
            "select loyalty.record_event('coin', 'referral', 'a', 'b');
              set loyalty.clock = '2024-06-17 10:00+09'",
        )
        .await?;
    program
        .run("begin;
              select g.code from loyalty_private.rule_payments(1, 'referral', '2024-06-15', null, 10) p
               cross join lateral loyalty_private.grant_each(p.account_ids, p.points, p.reason, p.granted_on, p.expires_on, p.idempotency_keys) g")
        .await?;
    let other = program.db.connect().await?;
    let cancel = tokio::spawn(async move {
        other
            .query_one("select loyalty.cancel_event(1)", &[])
            .await
            .map(|row| row.get::<_, i64>(0))
    });
    until_one_waits(&program.db.connect().await?).await?;
    program.run("commit").await?;
    assert_eq!(cancel.await??, 10_000);
    assert_eq!(
        program
            .show("select sum(balance) from loyalty.wallet")
            .await?,
        "0"
    );
    program.verify().await
}
