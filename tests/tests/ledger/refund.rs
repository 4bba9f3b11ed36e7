//! Law 7, and taking grants back.

use crate::Ledger;
use anyhow::Result;

#[tokio::test]
async fn law_7_a_refund_in_parts_goes_back_to_its_lots_and_never_beyond() -> Result<()> {
    let ledger = Ledger::open("refund", "").await?;
    let a = ledger.account("a").await?;
    ledger
        .receipt(&format!("grant({a}, 10, expires_on => '2025-06-20')"))
        .await?;
    ledger
        .receipt(&format!("grant({a}, 90, expires_on => '2025-07-20')"))
        .await?;
    let spent = ledger.receipt(&format!("spend_fifo({a}, 30)")).await?;
    assert_eq!(spent.lots, "2025-06-20: 10, 2025-07-20: 20");
    // the last taken first
    let refund = |points: &str| {
        format!(
            "refund(account_id => {a}, operation_id => {}, points => {points})",
            spent.id
        )
    };
    assert_eq!(ledger.receipt(&refund("15")).await?.lots, "2025-07-20: 15");
    let second = ledger.receipt(&refund("9")).await?;
    assert_eq!(second.lots, "2025-07-20: 5, 2025-06-20: 4");
    assert_eq!(
        (second.points, second.balance, second.available),
        (9, 94, 94)
    );
    assert_eq!(ledger.refused_call(&refund("7")).await?, "22023");
    assert_eq!(
        ledger.receipt(&refund("null")).await?.points,
        6,
        "all that is left"
    );
    assert_eq!(ledger.refused_call(&refund("null")).await?, "22023");
    assert_eq!(
        ledger.lots(a).await?,
        "2025-06-20|10|10|0|t\n2025-07-20|90|90|0|t"
    );
    let granted = format!("refund({a}, {a} * 16777216 + 1)");
    assert_eq!(ledger.refused_call(&granted).await?, "22023", "not a spend");
    assert_eq!(
        ledger
            .refused_call(&format!("refund({a}, {})", spent.id + 100))
            .await?,
        "LY002"
    );
    ledger.verify().await
}

#[tokio::test]
async fn law_7_refunded_points_past_their_day_are_forfeited_as_breakage() -> Result<()> {
    let ledger = Ledger::open("forfeit", "").await?;
    let a = ledger.account("a").await?;
    ledger
        .receipt(&format!("grant({a}, 10, expires_on => '2025-06-20')"))
        .await?;
    ledger
        .receipt(&format!("grant({a}, 90, expires_on => '2025-07-20')"))
        .await?;
    let spent = ledger.receipt(&format!("spend_fifo({a}, 30)")).await?;
    ledger.at("2025-06-21 00:00+09").await?;
    let refunded = ledger
        .receipt(&format!("refund({a}, {})", spent.id))
        .await?;
    assert_eq!(
        (refunded.points, refunded.balance, refunded.available),
        (30, 90, 90)
    );
    assert_eq!(ledger.lots(a).await?, "2025-07-20|90|90|0|t");
    let told = ledger
        .show(&format!(
            "select kind, points, balance from loyalty.statement({a}) offset 3"
        ))
        .await?;
    assert_eq!(told, "refund|30|100\nexpire|-10|90");
    let breakage = "select sum(points) from loyalty.journal where side = 'breakage'";
    assert_eq!(ledger.show(breakage).await?, "10");
    ledger.verify().await
}

#[tokio::test]
async fn law_7_refunded_points_past_their_day_have_a_grace_of_days() -> Result<()> {
    let ledger = Ledger::open("grace", "refund_grace_days => 5").await?;
    let a = ledger.account("a").await?;
    ledger
        .receipt(&format!("grant({a}, 10, expires_on => '2025-06-20')"))
        .await?;
    let spent = ledger.receipt(&format!("spend_fifo({a}, 10)")).await?;
    ledger.at("2025-06-21 00:00+09").await?;
    let refunded = ledger
        .receipt(&format!("refund({a}, {}, 4)", spent.id))
        .await?;
    assert_eq!(
        (refunded.available, refunded.lots.as_str()),
        (4, "2025-06-26: 4")
    );
    ledger.at("2025-06-26 23:59+09").await?;
    assert_eq!(ledger.balance(a).await?, "4|0|4|2025-06-26|4");
    ledger.at("2025-06-27 00:00+09").await?;
    assert_eq!(ledger.balance(a).await?, "4|0|0||");
    // none at all: today is the last day
    ledger
        .run("update loyalty.program set refund_grace_days = 0")
        .await?;
    let refunded = ledger
        .receipt(&format!("refund({a}, {})", spent.id))
        .await?;
    assert_eq!(refunded.lots, "2025-06-27: 6");
    ledger.verify().await
}

#[tokio::test]
async fn a_grant_is_revoked_from_its_own_lot_and_no_further() -> Result<()> {
    let ledger = Ledger::open("revoke", "").await?;
    let a = ledger.account("a").await?;
    let first = ledger
        .receipt(&format!("grant({a}, 100, expires_on => '2025-07-01')"))
        .await?;
    ledger
        .receipt(&format!("grant({a}, 100, expires_on => '2025-08-01')"))
        .await?;
    let part = ledger
        .receipt(&format!(
            "revoke(account_id => {a}, operation_id => {}, points => 20)",
            first.id
        ))
        .await?;
    assert_eq!(
        (part.points, part.balance, part.lots.as_str()),
        (20, 180, "2025-07-01: 20")
    );
    ledger.receipt(&format!("spend_fifo({a}, 70)")).await?;
    assert_eq!(
        ledger
            .refused_call(&format!("revoke({a}, {}, 81)", first.id))
            .await?,
        "22023"
    );
    // 80 are left of it, 10 of them unspent
    let clamped = ledger
        .receipt(&format!("revoke({a}, {}, policy => 'clamp')", first.id))
        .await?;
    assert_eq!((clamped.points, clamped.balance), (10, 100));
    assert_eq!(
        ledger.lots(a).await?,
        "2025-07-01|100|0|0|t\n2025-08-01|100|100|0|t"
    );
    assert_eq!(
        ledger
            .refused_call(&format!("revoke({a}, {}, policy => 'other')", first.id))
            .await?,
        "22023"
    );
    let spend = format!("revoke({a}, {a} * 16777216 + 4)");
    assert_eq!(ledger.refused_call(&spend).await?, "22023", "not a grant");
    ledger.verify().await
}

#[tokio::test]
async fn a_revoked_and_spent_grant_is_a_debt_that_later_grants_repay() -> Result<()> {
    let ledger = Ledger::open("debt", "").await?;
    let a = ledger.account("a").await?;
    let granted = ledger
        .receipt(&format!("grant({a}, 100, expires_on => '2025-07-01')"))
        .await?;
    ledger.receipt(&format!("spend_fifo({a}, 70)")).await?;
    let hold = ledger.receipt(&format!("hold({a}, 10)")).await?;
    let revoked = ledger
        .receipt(&format!("revoke({a}, {}, policy => 'debt')", granted.id))
        .await?;
    // 20 were free, 70 are owed; the 10 held were not spent
    assert_eq!(
        (revoked.points, revoked.balance, revoked.available),
        (20, 10, 0)
    );
    ledger
        .receipt(&format!("release({a}, {})", hold.id))
        .await?;
    let repaying = ledger
        .receipt(&format!("grant({a}, 50, expires_on => '2025-08-01')"))
        .await?;
    assert_eq!(
        (repaying.points, repaying.balance, repaying.available),
        (50, 10, 10)
    );
    let rest = ledger
        .receipt(&format!("grant({a}, 50, expires_on => '2025-08-01')"))
        .await?;
    assert_eq!((rest.points, rest.balance, rest.available), (50, 40, 40));
    let told = ledger
        .show(&format!(
            "select kind, points, balance, debt from loyalty.statement({a}) offset 3"
        ))
        .await?;
    assert_eq!(
        told,
        "revoke|-20|10|70\nrelease|0|10|\ngrant|50|60|\nrepay|-50|10|-50\ngrant|50|60|\nrepay|-20|40|-20"
    );
    assert_eq!(
        ledger.lots(a).await?,
        "2025-07-01|100|10|0|t\n2025-08-01|100|30|0|t"
    );
    ledger.verify().await
}

#[tokio::test]
async fn points_refunded_by_grace_are_no_debt() -> Result<()> {
    let ledger = Ledger::open("grace_debt", "refund_grace_days => 5").await?;
    let a = ledger.account("a").await?;
    let granted = ledger
        .receipt(&format!("grant({a}, 100, expires_on => '2025-06-20')"))
        .await?;
    let spent = ledger.receipt(&format!("spend_fifo({a}, 100)")).await?;
    ledger.at("2025-06-21 10:00+09").await?;
    ledger
        .receipt(&format!("refund({a}, {}, 40)", spent.id))
        .await?;
    let revoked = ledger
        .receipt(&format!("revoke({a}, {}, policy => 'debt')", granted.id))
        .await?;
    assert_eq!(
        (revoked.points, revoked.available),
        (0, 40),
        "its own lot is empty"
    );
    let debt = ledger
        .show(&format!("select debt from loyalty.statement({a}) offset 3"))
        .await?;
    assert_eq!(debt, "60", "what was really spent");
    ledger.verify().await
}

#[tokio::test]
async fn points_that_lapsed_by_inactivity_are_neither_revoked_nor_refunded_from_later_ones()
-> Result<()> {
    let ledger = Ledger::open("generations", "expiry => 'after 2 months of inactivity'").await?;
    let a = ledger.account("a").await?;
    let first = ledger.receipt(&format!("grant({a}, 20)")).await?;
    let spent = ledger.receipt(&format!("spend_fifo({a}, 5)")).await?;
    ledger.at("2025-08-16 10:00+09").await?;
    ledger.run("select loyalty.expire('p')").await?;
    ledger.receipt(&format!("grant({a}, 17)")).await?;
    assert_eq!(
        ledger
            .receipt(&format!("revoke({a}, {})", first.id))
            .await?
            .points,
        0
    );
    let refunded = ledger
        .receipt(&format!("refund({a}, {})", spent.id))
        .await?;
    assert_eq!(
        (refunded.points, refunded.available),
        (5, 17),
        "law 7: forfeited, its day has passed"
    );
    assert_eq!(ledger.balance(a).await?, "17|0|17|2025-10-16|17");
    ledger.verify().await
}

#[tokio::test]
async fn what_is_debt_already_is_not_booked_again() -> Result<()> {
    let ledger = Ledger::open("debt_once", "").await?;
    let a = ledger.account("a").await?;
    let granted = ledger
        .receipt(&format!("grant({a}, 100, expires_on => '2025-06-20')"))
        .await?;
    ledger.receipt(&format!("spend_fifo({a}, 30)")).await?;
    ledger.at("2025-06-21 10:00+09").await?;
    ledger.run("select loyalty.expire('p')").await?;
    for points in ["20", "20", "null"] {
        ledger
            .receipt(&format!("revoke({a}, {}, {points}, 'debt')", granted.id))
            .await?;
    }
    let debt = ledger
        .show(&format!(
            "select debt from loyalty.statement({a}) where kind = 'revoke'"
        ))
        .await?;
    assert_eq!(debt, "20\n10\n", "30 were spent, whatever is asked for");
    ledger.verify().await
}

/// Law 9, S10: a lot that activity moved is found where it is, though the program lives by other
/// clocks since, on which that activity was on another day.
#[tokio::test]
async fn law_9_a_lot_is_found_after_the_time_zone_changed() -> Result<()> {
    for (name, from, to, at) in [
        ("zone_west", "Asia/Tokyo", "America/New_York", "08:00+09"),
        ("zone_east", "America/New_York", "Asia/Tokyo", "20:00-04"),
    ] {
        let terms = format!("expiry => 'after 3 months of inactivity', time_zone => '{from}'");
        let ledger = Ledger::open(name, &terms).await?;
        let a = ledger.account("a").await?;
        let grant = ledger.receipt(&format!("grant({a}, 100)")).await?.id;
        let mut spent = 0;
        for day in ["2025-06-17 12:00-04", &format!("2025-06-18 {at}")] {
            ledger.at(day).await?;
            spent = ledger.receipt(&format!("spend_fifo({a}, 10)")).await?.id;
        }
        ledger
            .run(&format!("update loyalty.program set time_zone = '{to}'"))
            .await?;
        let lots = format!("select expires_on, remaining from loyalty.lots({a})");
        assert_eq!(ledger.show(&lots).await?, "2025-09-18|80", "{name}");
        let back = ledger.receipt(&format!("refund({a}, {spent})")).await?;
        assert_eq!(back.lots, "2025-09-18: 10", "{name}");
        let revoked = ledger.receipt(&format!("revoke({a}, {grant})")).await?;
        assert_eq!(revoked.lots, "2025-09-18: 90", "{name}");
        ledger.verify().await?;
    }
    Ok(())
}
