//! Operations that waited for another.

use crate::Ledger;
use anyhow::Result;
use loyalty_tests::until_one_waits;

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
    let (granted, changed) = tokio::join!(loyalty_tests::rows(&caller, &grants), async {
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
