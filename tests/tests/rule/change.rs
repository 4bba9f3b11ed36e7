//! C7, law 9: criteria change, what was granted and what was in force do not.

use crate::{ANNIVERSARY, Program, REFERRAL};
use anyhow::Result;

/// `version valid_from valid_to points`, a line for each.
const VERSIONS: &str =
    "select version, valid_from, valid_to, terms ->> 'points' from loyalty.rule order by version";

#[tokio::test]
async fn c7_a_change_leaves_coins_granted_and_payments_made_alone() -> Result<()> {
    let program = Program::open("change_terms").await?;
    program
        .rule(
            "anniversary",
            "anniversary",
            ANNIVERSARY,
            "title => 'Old title'",
        )
        .await?;
    let account = program
        .member("june", "first_service_on", "2024-06-20")
        .await?;
    program.live_until("2025-06-20").await?;
    let before = program.grants(account).await?;
    assert_eq!(before, ["2025-06-16 2000 2028-06-30"]);
    let entry = "select e::text from loyalty.entry e where entry = 1";
    let first = program.show(entry).await?;

    let changed = ANNIVERSARY.replace("2000", "3000");
    program
        .run(&format!(
            "select loyalty.change_rule('coin', 'anniversary', terms => '{changed}', title => 'New title', expiry => '30 days')"
        ))
        .await?;
    assert_eq!(
        program.show(VERSIONS).await?,
        "1|2024-05-01|2025-06-20|2000\n2|2025-06-21||3000"
    );
    // the period paid by the old version is run again, by whom it was
    program
        .run("select loyalty.rerun('coin', 'rule:anniversary', '2025-06-15')")
        .await?;
    program.live_until("2026-06-20").await?;
    assert_eq!(
        program.grants(account).await?,
        ["2025-06-16 2000 2028-06-30", "2026-06-15 3000 2026-07-15"]
    );
    assert_eq!(program.show(entry).await?, first);
    assert_eq!(
        program
            .show("select reason from loyalty.entry where kind = 'grant' order by entry")
            .await?,
        "Old title\nNew title"
    );
    program.verify().await
}

#[tokio::test]
async fn c7_the_version_in_force_on_the_day_of_payment_decides() -> Result<()> {
    let program = Program::open("change_day").await?;
    program
        .rule("anniversary", "anniversary", ANNIVERSARY, "")
        .await?;
    let account = program
        .member("june", "first_service_on", "2024-06-20")
        .await?;
    let changed = ANNIVERSARY.replace("2000", "3000");
    // nominally the 15th, but paid on the 16th, from which the change is in force
    program
        .run(&format!(
            "select loyalty.change_rule('coin', 'anniversary', '{changed}', from_day => '2025-06-16')"
        ))
        .await?;
    program.live_until("2025-07-01").await?;
    assert_eq!(
        program.grants(account).await?,
        ["2025-06-16 3000 2028-06-30"]
    );
    Ok(())
}

/// Downtime over a change: each period by the terms of its own day.
#[tokio::test]
async fn c7_missed_periods_are_caught_up_by_the_terms_of_their_day() -> Result<()> {
    let program = Program::open("change_downtime").await?;
    let terms = |points: i64| {
        format!(
            r#"{{"fact": "first_service_on", "every_months": 1, "points": {points}, "day_of_month": 15}}"#
        )
    };
    program
        .rule("monthly", "anniversary", &terms(10), "")
        .await?;
    let account = program
        .member("a", "first_service_on", "2024-05-02")
        .await?;
    program
        .run(&format!(
            "select loyalty.change_rule('coin', 'monthly', '{}', from_day => '2024-08-01');
             select loyalty.change_rule('coin', 'monthly', '{}', from_day => '2024-10-01')",
            terms(20),
            terms(30)
        ))
        .await?;
    program.live_until("2024-11-20").await?;
    assert_eq!(
        program.show("select string_agg(granted_on || ' ' || points, ', ' order by entry) from loyalty.entry").await?,
        "2024-06-17 10, 2024-07-16 10, 2024-08-15 20, 2024-09-17 20, 2024-10-15 30, 2024-11-15 30"
    );
    assert_eq!(program.grants(account).await?.len(), 6);
    Ok(())
}

/// From the 25th to the 15th on the 20th: March has neither, so April's period pays it too.
#[tokio::test]
async fn c7_a_change_of_the_pay_day_leaves_nobody_out() -> Result<()> {
    let program = Program::open("change_pay_day").await?;
    let terms = |day: i64| {
        format!(
            r#"{{"fact": "first_service_on", "every_years": 1, "points": 100, "day_of_month": {day}}}"#
        )
    };
    program
        .rule("anniversary", "anniversary", &terms(25), "")
        .await?;
    program
        .run(&format!(
            "select loyalty.change_rule('coin', 'anniversary', '{}', from_day => '2025-03-20')",
            terms(15)
        ))
        .await?;
    let mut paid = Vec::new();
    for (member_no, on) in [
        ("february", "2024-02-10"),
        ("march", "2024-03-10"),
        ("april", "2024-04-10"),
    ] {
        paid.push((
            program.member(member_no, "first_service_on", on).await?,
            member_no,
        ));
    }
    // the other way round: the 5th was paid, the 25th comes too, and nobody is paid twice
    program
        .rule("other", "anniversary", &terms(5).replace("100", "7"), "")
        .await?;
    program
        .run(&format!(
            "select loyalty.change_rule('coin', 'other', '{}', from_day => '2025-03-20')",
            terms(25).replace("100", "7")
        ))
        .await?;
    program.live_until("2026-05-20").await?;
    for ((account, member_no), (hundred, seven)) in paid.iter().zip([
        ("2025-02-25 2026-02-16", "2025-02-05 2026-02-25"),
        ("2025-04-15 2026-03-16", "2025-03-05 2026-03-25"),
        ("2025-04-15 2026-04-15", "2025-04-25 2026-04-27"),
    ]) {
        assert_eq!(program.paid(*account, 100).await?, hundred, "{member_no}");
        assert_eq!(program.paid(*account, 7).await?, seven, "{member_no}");
    }
    // and what is forecast of the period that pays two months is both
    assert_eq!(
        program.show("select members, points from loyalty.rule_forecast(1, 'anniversary', '2025-03-31', '2025-04-30')").await?,
        "2|200"
    );
    Ok(())
}

#[tokio::test]
async fn c7_versions_never_overlap_and_plans_are_replaced() -> Result<()> {
    let program = Program::open("change_versions").await?;
    program
        .rule(
            "r",
            "birthday",
            r#"{"points": 1}"#,
            "valid_to => '2026-12-31'",
        )
        .await?;
    let change = |points: i64, more: &str| {
        format!("select loyalty.change_rule('coin', 'r', '{{\"points\": {points}}}'{more})")
    };
    program
        .run(&change(2, ", from_day => '2025-01-01'"))
        .await?;
    program
        .run(&change(3, ", from_day => '2026-01-01'"))
        .await?;
    assert_eq!(
        program.show(VERSIONS).await?,
        "1|2024-05-01|2024-12-31|1\n2|2025-01-01|2025-12-31|2\n3|2026-01-01|2026-12-31|3"
    );
    // a change on the day of a planned one, and before it, takes its place
    program
        .run(&change(4, ", from_day => '2025-01-01'"))
        .await?;
    assert_eq!(
        program.show(VERSIONS).await?,
        "1|2024-05-01|2024-12-31|1\n2|2025-01-01|2024-12-31|2\n3|2026-01-01|2025-12-31|3\n4|2025-01-01|2026-12-31|4"
    );
    // an end, and life after it
    program
        .run("select loyalty.end_rule('coin', 'r', '2025-06-30')")
        .await?;
    let again = program
        .refused("select loyalty.end_rule('coin', 'r', '2025-07-31')")
        .await?;
    assert_eq!(again.code, "22023");
    assert!(again.detail.contains("2025-06-30"), "{again:?}");
    program
        .run(&change(5, ", from_day => '2025-09-01'"))
        .await?;
    assert_eq!(
        program.show("select version, valid_from, valid_to from loyalty.rule where valid_to is null or valid_to >= valid_from order by version").await?,
        "1|2024-05-01|2024-12-31\n4|2025-01-01|2025-06-30\n5|2025-09-01|"
    );
    // an end before the rule begins is of all that was planned
    program.run("select loyalty.end_rule('coin', 'r')").await?;
    assert_eq!(
        program.show("select count(*) from loyalty.rule where valid_to is null or valid_to >= valid_from and valid_to > '2024-05-01'").await?,
        "0"
    );
    Ok(())
}

#[tokio::test]
async fn c7_days_that_are_over_cannot_be_changed() -> Result<()> {
    let program = Program::open("change_past").await?;
    program.rule("r", "event", REFERRAL, "").await?;
    for (call, code) in [
        (
            "change_rule('coin', 'r', title => 'x', from_day => '2024-04-30')",
            "22023",
        ),
        ("end_rule('coin', 'r', '2024-04-29')", "22023"),
        // events recorded under another name, or to be paid on another way, would stay unpaid
        (
            r#"change_rule('coin', 'r', '{"event": "other", "points": 1, "months_after": 1, "day_of_month": 15}')"#,
            "22023",
        ),
        (
            r#"change_rule('coin', 'r', '{"event": "referral", "points": 1}')"#,
            "22023",
        ),
        (
            r#"change_rule('coin', 'r', '{"event": "referral", "points": 0}')"#,
            "22023",
        ),
        ("change_rule('coin', 'r', title => '')", "22023"),
        // days that cannot be
        (
            "change_rule('coin', 'r', from_day => '2024-07-01', valid_to => '2024-06-30')",
            "22023",
        ),
        ("change_rule('coin', 'r', valid_to => '-infinity')", "22023"),
        ("change_rule('coin', 'r', valid_to => 'infinity')", "22023"),
        ("change_rule('coin', 'r', from_day => 'infinity')", "22023"),
        (
            "change_rule('coin', 'r', from_day => '2100-01-01')",
            "22023",
        ),
        ("end_rule('coin', 'r', 'infinity')", "22023"),
        ("end_rule('coin', 'r', '5874897-12-31')", "22023"),
    ] {
        let refusal = program.refused(&format!("select loyalty.{call}")).await?;
        assert_eq!(refusal.code, code, "{call}: {refusal:?}");
        if code == "22023" {
            assert!(!refusal.hint.is_empty(), "{call}");
        }
    }
    program
        .run("select loyalty.change_rule('coin', 'r', title => 'x', from_day => '2024-05-01')")
        .await?;
    program
        .run("select loyalty.end_rule('coin', 'r', '2024-04-30')")
        .await
}

/// Law 6: however often, in whatever order and by whichever version, one payment an occasion.
#[tokio::test]
async fn law6_corrected_facts_and_changed_intervals_never_pay_twice() -> Result<()> {
    let program = Program::open("change_fact").await?;
    let terms = |every: &str| {
        format!(r#"{{"fact": "first_service_on", {every}, "points": 100, "day_of_month": 15}}"#)
    };
    program
        .rule("r", "anniversary", &terms("\"every_years\": 1"), "")
        .await?;
    let account = program
        .member("a", "first_service_on", "2024-06-20")
        .await?;
    program.live_until("2025-06-20").await?;
    assert_eq!(program.paid(account, 100).await?, "2025-06-16");
    // it was July after all: the first year is paid
    program
        .member("a", "first_service_on", "2024-07-20")
        .await?;
    program.live_until("2025-07-20").await?;
    assert_eq!(program.paid(account, 100).await?, "2025-06-16");
    // what was paid is no failure, on whatever terms
    let failures = "select count(*) from loyalty.run_failure";
    assert_eq!(program.show(failures).await?, "0");
    program
        .run(&format!(
            "select loyalty.change_rule('coin', 'r', '{}')",
            terms("\"every_months\": 6")
        ))
        .await?;
    program.live_until("2026-08-01").await?;
    assert_eq!(
        program.paid(account, 100).await?,
        "2025-06-16 2026-01-15 2026-07-15"
    );
    program
        .run("select loyalty.rerun('coin', 'rule:r', '2026-01-15')")
        .await?;
    program.live_until("2026-08-02").await?;
    assert_eq!(
        program.paid(account, 100).await?,
        "2025-06-16 2026-01-15 2026-07-15"
    );
    assert_eq!(program.show(failures).await?, "0");
    Ok(())
}
