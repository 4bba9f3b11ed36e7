//! Business days and expiry policies through SQL.

use crate::Ledger;
use anyhow::Result;

#[tokio::test]
async fn c2_and_c5_coins_are_paid_on_the_15th_rolled_to_a_business_day() -> Result<()> {
    let ledger = Ledger::open("business_day", "").await?;
    let one = async |sql: &str| ledger.show(&format!("select loyalty.{sql}")).await;
    // C2: first service on 2024-06-20; the 15th of June a year later is a Sunday
    assert_eq!(one("next_business_15th('2025-06-01')").await?, "2025-06-16");
    assert_eq!(
        one("next_business_15th(from_day => '2025-06-16', calendar => 'JP')").await?,
        "2025-06-16"
    );
    assert_eq!(one("next_business_15th('2025-06-17')").await?, "2025-07-15");
    assert_eq!(
        one("business_day_of_month('2025-06-20', 15)").await?,
        "2025-06-16"
    );
    // C3: customers from before the start are paid on 15 May
    assert_eq!(
        one("business_day_of_month('2025-05-01', 15)").await?,
        "2025-05-15"
    );
    // C5: a contract signed in August pays in September; the 15th is a holiday, Respect for the Aged Day
    assert_eq!(
        one("business_day_of_month((date '2025-08-31' + interval '1 month')::date, 15)").await?,
        "2025-09-16"
    );
    assert_eq!(
        one("business_day_of_month('2025-02-01', 31)").await?,
        "2025-02-28",
        "a shorter month ends sooner"
    );
    assert_eq!(one("is_business_day('2025-06-15')").await?, "f");
    assert_eq!(
        one("is_business_day(day => '2025-09-15', calendar => 'JP')").await?,
        "f"
    );
    assert_eq!(
        one("is_business_day('2025-09-15', 'none')").await?,
        "t",
        "weekends only"
    );
    assert_eq!(one("is_business_day('2025-09-14', 'none')").await?, "f");
    assert_eq!(one("next_business_day('2025-05-03')").await?, "2025-05-07");
    assert_eq!(
        one("next_business_day('2025-05-07')").await?,
        "2025-05-07",
        "on or after"
    );
    for call in [
        "is_business_day('2025-06-15', 'Atlantis')",
        "next_business_day('2025-06-15', 'Atlantis')",
        "business_day_of_month('2025-06-15', 15, 'Atlantis')",
        "next_business_15th('2025-06-15', 'Atlantis')",
        "business_day_of_month('2025-06-15', 0)",
        "business_day_of_month('2025-06-15', 32)",
        "is_business_day('infinity')",
    ] {
        assert_eq!(
            ledger.refused(&format!("select loyalty.{call}")).await?,
            "22023",
            "{call}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_calendar_opens_and_closes_days_against_its_rules() -> Result<()> {
    let ledger = Ledger::open("calendar", "").await?;
    let one = async |sql: &str| ledger.show(&format!("select loyalty.{sql}")).await;
    ledger
        .run("select loyalty.set_calendar_day('JP', '2025-06-16', false, 'Founding day')")
        .await?;
    assert_eq!(one("next_business_15th('2025-06-01')").await?, "2025-06-17");
    ledger
        .run("select loyalty.set_calendar_day('JP', '2025-06-15', true)")
        .await?;
    assert_eq!(one("next_business_15th('2025-06-01')").await?, "2025-06-15");
    ledger.run("delete from loyalty.calendar_day").await?;
    assert_eq!(one("next_business_15th('2025-06-01')").await?, "2025-06-16");

    assert_eq!(one("is_business_day('2025-12-31')").await?, "t");
    ledger
        .run("select loyalty.create_calendar('bank', year_end_closed => true)")
        .await?;
    ledger
        .run("select loyalty.create_calendar(calendar => 'abroad', based_on => 'none')")
        .await?;
    assert_eq!(one("is_business_day('2025-12-31', 'bank')").await?, "f");
    assert_eq!(
        one("next_business_day('2025-12-31', 'bank')").await?,
        "2026-01-05"
    );
    assert_eq!(one("is_business_day('2025-12-30', 'bank')").await?, "t");
    ledger
        .run("select loyalty.set_calendar_day('abroad', '2025-07-04', false, 'Independence Day')")
        .await?;
    assert_eq!(one("is_business_day('2025-07-04', 'abroad')").await?, "f");
    assert_eq!(one("is_business_day('2025-07-04', 'bank')").await?, "t");
    assert_eq!(one("is_business_day('2026-01-01', 'abroad')").await?, "t");
    // a calendar takes the days of the one it is based on
    ledger
        .run("select loyalty.set_calendar_day('JP', '2025-07-07', false, 'A new law')")
        .await?;
    assert_eq!(one("is_business_day('2025-07-07', 'bank')").await?, "f");
    assert_eq!(one("is_business_day('2025-07-07', 'abroad')").await?, "t");
    assert_eq!(
        ledger
            .refused("select loyalty.set_calendar_day('Atlantis', '2025-07-07', false)")
            .await?,
        "22023"
    );
    assert_eq!(
        ledger
            .refused("select loyalty.create_calendar('x', based_on => 'Atlantis')")
            .await?,
        "23514"
    );
    assert_eq!(
        ledger
            .refused("select loyalty.create_calendar('JP')")
            .await?,
        "23514"
    );
    Ok(())
}

#[tokio::test]
async fn c6_expiry_policies_read_and_say_their_last_day() -> Result<()> {
    let ledger = Ledger::open("expiry", "").await?;
    for (policy, text, last) in [
        (
            "end of month after 3 years",
            "end of month after 3 years",
            "2028-06-30",
        ),
        (
            "end of month after 8 months",
            "end of month after 8 months",
            "2026-02-28",
        ),
        ("180 days", "180 days", "2025-12-12"),
        ("fixed 2027-03-31", "fixed 2027-03-31", "2027-03-31"),
        (
            "after 12 months of inactivity",
            "after 12 months of inactivity",
            "2026-06-15",
        ),
        ("never", "never", ""),
    ] {
        let sql = format!(
            "select '{policy}'::loyalty.expiry_policy, loyalty.expires_on(policy => '{policy}', granted_on => '2025-06-15')"
        );
        assert_eq!(ledger.show(&sql).await?, format!("{text}|{last}"));
    }
    for bad in ["some day", "", "-1 days", "fixed 2027-02-30", "0 days"] {
        let sql = format!("select '{bad}'::loyalty.expiry_policy");
        assert_eq!(ledger.refused(&sql).await?, "22023", "{bad:?}");
    }
    let a = ledger.account("a").await?;
    let granted = ledger
        .receipt(&format!("grant({a}, 1, granted_on => '2025-05-31')"))
        .await?;
    assert_eq!(
        granted.lots, "2028-05-31: 1",
        "terms count from the day of the grant"
    );
    for call in [
        format!("grant({a}, 1, granted_on => '2025-06-16')"),
        format!("grant({a}, 1, granted_on => '2022-05-31')"),
        format!("grant({a}, 1, expires_on => '2025-06-14')"),
        format!("grant({a}, 1, expiry => 'fixed 2025-06-14')"),
        format!("grant({a}, 1, granted_on => '-infinity')"),
    ] {
        assert_eq!(ledger.refused_call(&call).await?, "22023", "{call}");
    }
    assert_eq!(
        ledger
            .receipt(&format!("grant({a}, 1, expires_on => '2025-06-15')"))
            .await?
            .available,
        2
    );
    ledger.verify().await
}

/// A balance at the end of time tells nothing of how far clocks are ahead of UTC.
#[tokio::test]
async fn a_balance_at_infinity_leaves_the_days_as_they_are() -> Result<()> {
    for zone in ["Asia/Tokyo", "Etc/GMT-9"] {
        let ledger = Ledger::open(
            &format!("calendar_infinity_{}", zone.len()),
            &format!("time_zone => '{zone}', expiry => '1 month'"),
        )
        .await?;
        let a = ledger.account("a").await?;
        // still the day before in UTC
        ledger.at("2025-06-15 00:30+09").await?;
        for infinity in ["-infinity", "infinity"] {
            ledger
                .run(&format!(
                    "select loyalty.balance({a}, as_of => '{infinity}'::timestamptz)"
                ))
                .await?;
            let lots = ledger.receipt(&format!("grant({a}, 1)")).await?.lots;
            assert_eq!(lots, "2025-07-15: 1", "{zone} after {infinity}");
        }
        ledger.verify().await?;
    }
    Ok(())
}

/// Law 11: what is booked at a day long ago holds, and at one that cannot be told nothing is booked.
#[tokio::test]
async fn the_clock_stands_at_days_that_can_be_told() -> Result<()> {
    let ledger = Ledger::open("calendar_clock", "").await?;
    let a = ledger.account("a").await?;
    for clock in [
        "0001-01-01 23:59:59.999999+00",
        "0044-03-15 BC",
        "infinity",
        "-infinity",
    ] {
        ledger.at(clock).await?;
        let call = format!("grant({a}, 1)");
        assert_eq!(ledger.refused_call(&call).await?, "22023", "{clock}");
    }
    for clock in ["0001-01-02 00:00+00", "1900-06-15 00:30+00"] {
        ledger.at(clock).await?;
        ledger.receipt(&format!("grant({a}, 1)")).await?;
    }
    ledger.at("2025-06-15 10:00+09").await?;
    ledger.verify().await
}
