//! loyalty.preview says what will be done, and does nothing.

use super::world::{
    Available, ledger, program, refused, set_clock, sound, texts, tick_at, tick_days,
};
use anyhow::{Result, ensure};
use loyalty_testkit::TestDb;

/// Two years of it, compared with the two years as they come.
#[tokio::test]
async fn what_it_says_is_what_comes() -> Result<()> {
    let db = TestDb::create("preview").await?;
    let client = db.connect().await?;
    program(&client, "p", "Asia/Tokyo", 200).await?;
    client
        .batch_execute(
            "select loyalty.create_rule('p', 'thanks', 'tenure',
                 '{\"fact\": \"first_service_on\", \"key_date\": \"2025-06-01\", \"pays_on\": \"2025-06-02\",
                   \"table\": [{\"years\": 3, \"points\": 1000}, {\"years\": 5, \"points\": 4000}]}', 'Thanks')",
        )
        .await?;
    tick_days(&client, "2025-01-06", "2025-02-20", 1, 1000).await?;
    let before = ledger(&client, Available::Compared).await?;
    let preview = "select (day, job, period, members, points)::text from loyalty.preview('p')
                    where job like 'rule:%' order by day, job, period";
    let told = texts(&client, preview).await?;
    let lapsing = texts(
        &client,
        "select (day, period, points)::text from loyalty.preview('p', 2) where job = 'expire' order by day",
    )
    .await?;
    ledger(&client, Available::Compared)
        .await?
        .same_as(&before)?;
    ensure!(
        told.len() > 45 && lapsing.len() == 2,
        "{told:?} {lapsing:?}"
    );

    tick_days(&client, "2025-02-21", "2025-04-01", 1, 1000).await?;
    let lapsed = texts(
        &client,
        "select (r.effective_on, r.period, r.points)::text from loyalty.run r
          where r.job = 'expire' and r.points > 0 and r.period > '2025-02-20' order by r.period",
    )
    .await?;
    ensure!(lapsed == lapsing, "{lapsed:?} {lapsing:?}");
    tick_days(&client, "2025-04-02", "2027-02-20", 1, 1000).await?;
    sound(&client).await?;
    let came = texts(
        &client,
        "select (r.effective_on, r.job, r.period, r.paid, r.points)::text from loyalty.run r
          where r.job like 'rule:%' and r.effective_on between '2025-02-20' and '2027-02-20' and r.paid > 0
          order by r.effective_on, r.job, r.period",
    )
    .await?;
    for (told, came) in told.iter().zip(&came) {
        ensure!(told == came, "told {told}, came {came}");
    }
    ensure!(told.len() == came.len());
    Ok(())
}

/// What is overdue comes first, with its own day; and it says no to nonsense.
#[tokio::test]
async fn overdue_first() -> Result<()> {
    let db = TestDb::create("overdue").await?;
    let client = db.connect().await?;
    program(&client, "p", "Asia/Tokyo", 50).await?;
    set_clock(&client, "2025-02-20 09:00+09").await?;
    let days = texts(
        &client,
        "select distinct day::text from loyalty.preview('p', 1) where job = 'rule:bonus' order by 1",
    )
    .await?;
    ensure!(
        days == ["2025-01-15", "2025-02-17", "2025-03-17"],
        "{days:?}"
    );
    tick_at(&client, "2025-02-20 09:00+09", 1000).await?;
    let days = texts(
        &client,
        "select distinct day::text from loyalty.preview('p', 1) where job = 'rule:bonus' order by 1",
    )
    .await?;
    ensure!(days == ["2025-03-17"], "{days:?}");
    for (call, expected) in [
        ("preview('nobody')", "LY002"),
        ("preview('p', 0)", "22023"),
        ("preview('p', 121)", "22023"),
        ("preview('p', null)", "22023"),
    ] {
        refused(&client, call, expected).await?;
    }
    Ok(())
}
