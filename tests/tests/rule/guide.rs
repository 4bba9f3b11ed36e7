//! The worked examples of the coin program's guide, paid by the tick under the test clock.

use crate::{ANNIVERSARY, Program, REFERRAL};
use anyhow::Result;

#[tokio::test]
async fn c2_c3_anniversaries_of_the_guide() -> Result<()> {
    let program = Program::open("guide_c2").await?;
    program
        .rule(
            "anniversary",
            "anniversary",
            ANNIVERSARY,
            "title => 'Anniversary coins'",
        )
        .await?;
    let mut members = Vec::new();
    for (member_no, first_service_on, expected) in [
        // C2: nominally 2025-06-15, a Sunday
        ("june", "2024-06-20", "2025-06-16 2026-06-15 2027-06-15"),
        // C3: that day included, and every 15 May after, rolled
        ("last", "2024-06-01", "2025-05-15 2026-05-15 2027-05-17"),
        ("old", "2019-11-03", "2025-05-15 2026-05-15 2027-05-17"),
        ("next", "2024-06-02", "2025-06-16 2026-06-15 2027-06-15"),
        // the 29th of February, the 31st, the 15th itself, and days around it
        ("leap", "2024-02-29", "2025-05-15 2026-05-15 2027-05-17"),
        ("end", "2024-08-31", "2025-08-15 2026-08-17"),
        ("day", "2024-08-15", "2025-08-15 2026-08-17"),
        ("first", "2024-08-01", "2025-08-15 2026-08-17"),
        ("eve", "2024-07-31", "2025-07-15 2026-07-15"),
    ] {
        let account = program
            .member(member_no, "first_service_on", first_service_on)
            .await?;
        members.push((account, member_no, expected));
    }
    program.live_until("2027-06-20").await?;
    for (account, member_no, expected) in members {
        assert_eq!(program.paid(account, 2000).await?, expected, "{member_no}");
    }
    program.verify().await
}

#[tokio::test]
async fn c2_without_a_cut_off_only_the_month_of_the_fact_counts() -> Result<()> {
    let program = Program::open("guide_leap").await?;
    let terms =
        r#"{"fact": "first_service_on", "every_years": 1, "points": 2000, "day_of_month": 15}"#;
    program
        .rule("anniversary", "anniversary", terms, "")
        .await?;
    let leap = program
        .member("leap", "first_service_on", "2024-02-29")
        .await?;
    let day = program
        .member("day", "first_service_on", "2024-03-15")
        .await?;
    let end = program
        .member("end", "first_service_on", "2024-03-31")
        .await?;
    program.live_until("2026-04-01").await?;
    assert_eq!(program.paid(leap, 2000).await?, "2025-02-17 2026-02-16");
    assert_eq!(program.paid(day, 2000).await?, "2025-03-17 2026-03-16");
    assert_eq!(program.paid(end, 2000).await?, "2025-03-17 2026-03-16");
    Ok(())
}

/// C6: to the last day of the month three years after the grant.
#[tokio::test]
async fn c6_each_lot_lapses_with_the_month_three_years_later() -> Result<()> {
    let program = Program::open("guide_c6").await?;
    program
        .rule("anniversary", "anniversary", ANNIVERSARY, "")
        .await?;
    program.rule("referral", "event", REFERRAL, "").await?;
    let june = program
        .member("june", "first_service_on", "2024-06-20")
        .await?;
    let may = program
        .member("may", "first_service_on", "2024-06-01")
        .await?;
    program.live_until("2026-07-01").await?;
    assert_eq!(
        program.grants(june).await?,
        ["2025-06-16 2000 2028-06-30", "2026-06-15 2000 2029-06-30"]
    );
    assert_eq!(
        program.grants(may).await?,
        ["2025-05-15 2000 2028-05-31", "2026-05-15 2000 2029-05-31"]
    );
    // the guide's own: granted 2025-06-15
    assert_eq!(
        program
            .show("select loyalty.expires_on(expiry, '2025-06-15') from loyalty.program")
            .await?,
        "2028-06-30"
    );
    Ok(())
}

/// C5: signed on 2025-05-20, both get 5,000 on 2025-06-16.
#[tokio::test]
async fn c5_a_referral_pays_both_in_the_month_after() -> Result<()> {
    let program = Program::open("guide_c5").await?;
    program
        .rule("referral", "event", REFERRAL, "title => 'Referral coins'")
        .await?;
    let (referrer, friend) = (
        program.account("referrer").await?,
        program.account("friend").await?,
    );
    program.at("2025-05-21 10:00+09").await?;
    let record = "select is_new, jsonb_path_query_array(payments, '$[*].pays_on'), jsonb_path_query_array(payments, '$[*].operation_id')
                    from loyalty.record_event('coin', 'referral', 'referrer', 'friend', '2025-05-20', reference => 'contract 1')";
    let both = "[\"2025-06-16\", \"2025-06-16\"]|[null, null]";
    assert_eq!(program.show(record).await?, format!("t|{both}"));
    assert_eq!(
        program.show(record).await?,
        format!("f|{both}"),
        "the same reference is one event"
    );
    program.live_until("2025-06-15").await?;
    assert!(program.grants(referrer).await?.is_empty());
    program.live_until("2025-06-16").await?;
    for account in [referrer, friend] {
        assert_eq!(
            program.grants(account).await?,
            ["2025-06-16 5000 2028-06-30"]
        );
    }
    program.live_until("2026-01-01").await?;
    assert_eq!(program.grants(friend).await?.len(), 1);
    assert_eq!(
        program
            .show("select distinct reason from loyalty.entry")
            .await?,
        "Referral coins"
    );
    Ok(())
}

/// C4: five or more years of contract at 2024-06-01; the 8th year gets 4,000 on 2024-05-29.
#[tokio::test]
async fn c4_tenure_pays_by_the_table_once() -> Result<()> {
    let program = Program::open("guide_c4").await?;
    let terms = r#"{"fact": "contract_since", "key_date": "2024-06-01", "pays_on": "2024-05-29",
                    "table": [{"years": 8, "points": 4000}, {"years": 5, "points": 2500}, {"years": 10, "points": 5000}]}"#;
    program
        .rule("tenure", "tenure", terms, "title => 'Special coins'")
        .await?;
    let mut members = Vec::new();
    for (member_no, contract_since, expected) in [
        ("eight", "2016-03-10", "4000"),
        ("just eight", "2016-06-01", "4000"),
        ("not yet eight", "2016-06-02", "2500"),
        ("five", "2019-06-01", "2500"),
        ("not yet five", "2019-06-02", ""),
        ("leap", "2016-02-29", "4000"),
        ("nine", "2014-06-02", "4000"),
        ("long", "1990-01-31", "5000"),
        ("later", "2024-06-15", ""),
    ] {
        let account = program
            .member(member_no, "contract_since", contract_since)
            .await?;
        members.push((account, member_no, expected));
    }
    let none = program
        .member("none", "first_service_on", "2001-01-01")
        .await?;
    program.live_until("2024-05-28").await?;
    assert_eq!(
        program.show("select count(*) from loyalty.entry").await?,
        "0"
    );
    program.live_until("2024-06-30").await?;
    for (account, member_no, expected) in members {
        let grants = program.grants(account).await?;
        let wanted: Vec<String> = expected
            .split_whitespace()
            .map(|points| format!("2024-05-29 {points} 2027-05-31"))
            .collect();
        assert_eq!(grants, wanted, "{member_no}");
    }
    assert!(program.grants(none).await?.is_empty());
    Ok(())
}

/// C1: special coins by hand are a rule too, with its own limit and expiry.
#[tokio::test]
async fn c1_grants_by_hand_keep_to_the_rule() -> Result<()> {
    let program = Program::open("guide_manual").await?;
    program
        .rule(
            "mvp",
            "manual",
            r#"{"points": 300, "max_points": 1000}"#,
            "title => 'MVP', expiry => '90 days'",
        )
        .await?;
    let account = program.account("a").await?;
    let grant =
        |more: &str| format!("select points from loyalty.grant_by_rule({account}, 'mvp'{more})");
    assert_eq!(program.show(&grant("")).await?, "300");
    assert_eq!(
        program
            .show(&grant(", 1000, idempotency_key => 'k'"))
            .await?,
        "1000"
    );
    assert_eq!(
        program
            .show(&grant(", 1000, idempotency_key => 'k'"))
            .await?,
        "1000"
    );
    assert_eq!(
        program.grants(account).await?,
        ["2024-05-01 300 2024-07-30", "2024-05-01 1000 2024-07-30"]
    );
    assert_eq!(
        program
            .refused(&grant(", 999, idempotency_key => 'k'"))
            .await?
            .code,
        "LY003"
    );
    let refusal = program.refused(&grant(", 1001")).await?;
    assert_eq!(refusal.code, "22023");
    assert!(refusal.detail.contains("$.max_points"), "{refusal:?}");
    assert_eq!(program.refused(&grant(", 0")).await?.code, "22023");
    assert_eq!(
        program
            .refused(&format!("select loyalty.grant_by_rule({account}, 'none')"))
            .await?
            .code,
        "LY002"
    );
    assert_eq!(
        program
            .refused("select loyalty.grant_by_rule(99, 'mvp')")
            .await?
            .code,
        "LY002"
    );
    program
        .rule("birthday", "birthday", r#"{"points": 1}"#, "")
        .await?;
    assert_eq!(
        program
            .refused(&format!(
                "select loyalty.grant_by_rule({account}, 'birthday')"
            ))
            .await?
            .code,
        "22023"
    );
    program
        .run("select loyalty.end_rule('coin', 'mvp')")
        .await?;
    program.at("2024-05-02 00:00+09").await?;
    assert_eq!(program.refused(&grant("")).await?.code, "22023");
    Ok(())
}

/// Birthdays on the day itself, whatever day that is, and on a rolled day of the month.
#[tokio::test]
async fn birthdays_once_a_year() -> Result<()> {
    let program = Program::open("guide_birthday").await?;
    program
        .rule("day", "birthday", r#"{"points": 500}"#, "")
        .await?;
    program
        .rule(
            "month",
            "birthday",
            r#"{"points": 70, "day_of_month": 1}"#,
            "",
        )
        .await?;
    program
        .rule(
            "open",
            "birthday",
            r#"{"points": 9, "on_closed_day": "next_business_day"}"#,
            "",
        )
        .await?;
    program
        .run(
            "select loyalty.set_member('coin', 'leap', birth_date => '1996-02-29');
              select loyalty.set_member('coin', 'may', birth_date => '1980-05-31')",
        )
        .await?;
    let (leap, may) = (
        program.account("leap").await?,
        program.account("may").await?,
    );
    program.live_until("2026-03-05").await?;
    // 2025-02-28 is a Friday, 2026-02-28 a Saturday
    assert_eq!(program.paid(leap, 500).await?, "2025-02-28 2026-02-28");
    assert_eq!(program.paid(leap, 9).await?, "2025-02-28 2026-03-02");
    assert_eq!(program.paid(leap, 70).await?, "2025-02-03 2026-02-02");
    assert_eq!(program.paid(may, 500).await?, "2024-05-31 2025-05-31");
    assert_eq!(program.paid(may, 9).await?, "2024-05-31 2025-06-02");
    // 2024-05-01 was the day of the rule's creation
    assert_eq!(program.paid(may, 70).await?, "2024-05-01 2025-05-01");
    // corrected after it was paid: still one for the year
    program
        .run("select loyalty.set_member('coin', 'leap', birth_date => '1996-03-20')")
        .await?;
    program.live_until("2026-12-31").await?;
    assert_eq!(program.paid(leap, 500).await?, "2025-02-28 2026-02-28");
    Ok(())
}
