//! Law 8: holds.

use crate::Ledger;
use anyhow::Result;

#[tokio::test]
async fn law_8_a_hold_pins_its_lots_and_a_capture_may_be_partial() -> Result<()> {
    let ledger = Ledger::open("hold", "").await?;
    let a = ledger.account("a").await?;
    ledger
        .receipt(&format!("grant({a}, 10, expires_on => '2025-06-20')"))
        .await?;
    ledger
        .receipt(&format!("grant({a}, 90, expires_on => '2025-07-20')"))
        .await?;
    let hold = ledger
        .receipt(&format!(
            "hold(account_id => {a}, points => 30, expires_in => '30 days')"
        ))
        .await?;
    assert_eq!((hold.points, hold.balance, hold.available), (30, 100, 70));
    assert_eq!(hold.lots, "2025-06-20: 10, 2025-07-20: 20");
    assert_eq!(
        ledger.lots(a).await?,
        "2025-06-20|10|10|10|t\n2025-07-20|90|90|20|t"
    );
    assert_eq!(ledger.balance(a).await?, "100|30|70|2025-07-20|70");
    assert_eq!(
        ledger.refused_call(&format!("spend_fifo({a}, 71)")).await?,
        "LY001"
    );
    assert_eq!(
        ledger.receipt(&format!("spend_fifo({a}, 5)")).await?.lots,
        "2025-07-20: 5"
    );
    assert_eq!(
        ledger
            .refused_call(&format!("capture({a}, {}, 31)", hold.id))
            .await?,
        "22023"
    );
    // the rest goes home
    let captured = ledger
        .receipt(&format!(
            "capture(account_id => {a}, operation_id => {}, points => 12)",
            hold.id
        ))
        .await?;
    assert_eq!(
        (captured.points, captured.balance, captured.available),
        (12, 83, 83)
    );
    assert_eq!(captured.lots, "2025-06-20: 10, 2025-07-20: 2");
    assert_eq!(ledger.balance(a).await?, "83|0|83|2025-07-20|83");
    for call in ["capture", "release"] {
        assert_eq!(
            ledger
                .refused_call(&format!("{call}({a}, {})", hold.id))
                .await?,
            "LY006"
        );
    }
    let again = ledger.receipt(&format!("hold({a}, 3)")).await?;
    let released = ledger
        .receipt(&format!(
            "release(account_id => {a}, operation_id => {})",
            again.id
        ))
        .await?;
    assert_eq!(
        (released.points, released.balance, released.available),
        (3, 83, 83)
    );
    assert_eq!(
        ledger
            .refused_call(&format!("release({a}, {})", again.id))
            .await?,
        "LY006"
    );
    ledger.verify().await
}

#[tokio::test]
async fn law_8_pinned_points_outlive_their_last_day_until_the_hold_ends() -> Result<()> {
    let ledger = Ledger::open("hold_late", "").await?;
    let a = ledger.account("a").await?;
    ledger
        .receipt(&format!("grant({a}, 100, expires_on => '2025-06-20')"))
        .await?;
    let hold = ledger.receipt(&format!("hold({a}, 30, '10 days')")).await?;
    ledger.at("2025-06-21 10:00+09").await?;
    assert_eq!(ledger.balance(a).await?, "100|30|0||");
    assert_eq!(
        ledger.show("select * from loyalty.expire('p')").await?,
        "1|70",
        "but for the pinned ones"
    );
    assert_eq!(ledger.balance(a).await?, "30|30|0||");
    let captured = ledger
        .receipt(&format!("capture({a}, {}, 10)", hold.id))
        .await?;
    assert_eq!(
        (captured.points, captured.balance, captured.available),
        (10, 20, 0)
    );
    // what went home lapses there
    assert_eq!(
        ledger.show("select * from loyalty.expire('p')").await?,
        "1|20"
    );
    assert_eq!(ledger.balance(a).await?, "0|0|0||");
    ledger.verify().await
}

#[tokio::test]
async fn law_8_a_hold_past_its_time_counts_as_released_without_a_sweep() -> Result<()> {
    let ledger = Ledger::open("hold_over", "").await?;
    let a = ledger.account("a").await?;
    ledger
        .receipt(&format!("grant({a}, 100, expires_on => '2025-06-20')"))
        .await?;
    let hold = ledger
        .receipt(&format!("hold({a}, 30, '15 minutes')"))
        .await?;
    ledger.at("2025-06-15 10:14:59.999999+09").await?;
    assert_eq!(ledger.balance(a).await?, "100|30|70|2025-06-20|70");
    ledger.at("2025-06-15 10:15+09").await?;
    assert_eq!(
        ledger.balance(a).await?,
        "100|0|100|2025-06-20|100",
        "read, before anything was booked"
    );
    assert_eq!(ledger.lots(a).await?, "2025-06-20|100|100|0|t");
    for call in ["capture", "release"] {
        assert_eq!(
            ledger
                .refused_call(&format!("{call}({a}, {})", hold.id))
                .await?,
            "LY006"
        );
    }
    // the next operation books it
    assert_eq!(
        ledger
            .receipt(&format!("spend_fifo({a}, 100)"))
            .await?
            .balance,
        0
    );
    let told = ledger
        .show(&format!(
            "select kind, points, held from loyalty.statement({a})"
        ))
        .await?;
    assert_eq!(told, "grant|100|\nhold|0|30\nrelease|0|-30\nspend|-100|");
    ledger.verify().await
}

#[tokio::test]
async fn a_hold_is_an_operation_of_its_account_and_kind() -> Result<()> {
    let ledger = Ledger::open("hold_wrong", "").await?;
    let (a, b) = (ledger.account("a").await?, ledger.account("b").await?);
    let granted = ledger.receipt(&format!("grant({a}, 100)")).await?;
    ledger.receipt(&format!("grant({b}, 100)")).await?;
    let hold = ledger.receipt(&format!("hold({a}, 10)")).await?;
    for call in ["capture", "release"] {
        assert_eq!(
            ledger
                .refused_call(&format!("{call}({b}, {})", hold.id))
                .await?,
            "LY002",
            "another's"
        );
        assert_eq!(
            ledger
                .refused_call(&format!("{call}({a}, {})", hold.id + 1))
                .await?,
            "LY002"
        );
        assert_eq!(
            ledger
                .refused_call(&format!("{call}({a}, {})", granted.id))
                .await?,
            "22023"
        );
    }
    for time in ["0 seconds", "-1 minute", "2 years"] {
        assert_eq!(
            ledger
                .refused_call(&format!("hold({a}, 10, '{time}')"))
                .await?,
            "22023"
        );
    }
    ledger.verify().await
}

#[tokio::test]
async fn law_4_accounts_wholly_held_end_no_batch() -> Result<()> {
    let ledger = Ledger::open("held_batch", "").await?;
    for member in ["a", "b", "c", "d"] {
        let account = ledger.account(member).await?;
        ledger
            .receipt(&format!("grant({account}, 10, expires_on => '2025-06-20')"))
            .await?;
        if member < "c" {
            ledger
                .receipt(&format!("hold({account}, 10, '30 days')"))
                .await?;
        } else {
            // no plain wallet either: its hold is over by then
            ledger
                .receipt(&format!("hold({account}, 10, '1 day')"))
                .await?;
        }
    }
    ledger.at("2025-06-21 10:00+09").await?;
    for booked in ["1|10", "1|10", "0|0"] {
        assert_eq!(
            ledger
                .show("select * from loyalty.expire('p', batch_size => 1)")
                .await?,
            booked
        );
    }
    ledger.verify().await
}
