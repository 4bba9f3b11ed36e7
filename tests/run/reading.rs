//! What a run reads, counted in rows, since time tells little in a test: it must not grow with what
//! other programs have.

use crate::world::{START, program, tick_at};
use anyhow::Result;
use loyalty_dev::testkit::TestDb;
use loyalty_tests::assert_sound;
use tokio_postgres::Client;

const LARGE: i64 = 2_000;
const SMALL: i64 = 20;
const SMALL_PROGRAMS: i64 = 10;

/// Wallets read by index or otherwise, since the database was made.
async fn wallets_read(client: &Client) -> Result<i64> {
    client
        .batch_execute("set stats_fetch_consistency = none; select pg_stat_force_next_flush()")
        .await?;
    let read = "select coalesce(idx_tup_fetch, 0) + seq_tup_read
                  from pg_stat_user_tables where relid = 'loyalty.wallet'::regclass";
    Ok(client.query_one(read, &[]).await?.get(0))
}

/// Small programs behind a large one: each expiry run looks at its own accounts, each once.
#[tokio::test]
async fn an_expiry_run_reads_no_other_programs_wallets() -> Result<()> {
    let db = TestDb::create("run_reading").await?;
    let client = db.connect().await?;
    program(&client, "large", "UTC", LARGE).await?;
    for number in 0..SMALL_PROGRAMS {
        program(&client, &format!("small-{number}"), "UTC", SMALL).await?;
    }
    // as it is for millions, whatever the statistics of so few
    client.batch_execute("set enable_seqscan = off").await?;
    tick_at(&client, START, 1_000).await?;
    let before = wallets_read(&client).await?;
    tick_at(&client, "2025-01-06 12:00+00", 1_000).await?;
    let read = wallets_read(&client).await? - before;
    let runs: i64 = client
        .query_one(
            "select count(*) from loyalty.run where job = 'expire' and period = '2025-01-06'",
            &[],
        )
        .await?
        .get(0);
    assert_eq!(runs, 1 + SMALL_PROGRAMS);
    assert_eq!(read, LARGE + SMALL_PROGRAMS * SMALL);
    assert_sound(&client).await
}
