//! What a run reads, counted in rows, since time tells little in a test: it must not grow with what
//! other programs have.

use crate::world::{START, program, tick_at};
use anyhow::Result;
use loyalty_testkit::TestDb;
use loyalty_tests::assert_sound;
use tokio_postgres::Client;

const LARGE: i64 = 2_000;
const SMALL: i64 = 20;
const SMALL_PROGRAMS: i64 = 10;

/// Rows of a table read by index or otherwise, since the database was made.
async fn rows_read(client: &Client, table: &str) -> Result<i64> {
    client
        .batch_execute("set stats_fetch_consistency = none; select pg_stat_force_next_flush()")
        .await?;
    let read = "select coalesce(idx_tup_fetch, 0) + seq_tup_read
                  from pg_stat_user_tables where relid = $1::text::regclass";
    Ok(client.query_one(read, &[&table]).await?.get(0))
}

/// Rows of a table that the tick of a day reads, in the afternoon.
async fn read_by_tick(client: &Client, day: &str, table: &str) -> Result<i64> {
    let before = rows_read(client, table).await?;
    tick_at(client, &format!("{day} 14:00+00"), 1_000).await?;
    Ok(rows_read(client, table).await? - before)
}

/// Small programs behind a large one: each run looks at its own members, each once.
#[tokio::test]
async fn a_run_reads_no_other_programs_wallets() -> Result<()> {
    let db = TestDb::create("run_reading").await?;
    let client = db.connect().await?;
    program(&client, "large", "UTC", LARGE).await?;
    for number in 0..SMALL_PROGRAMS {
        program(&client, &format!("small-{number}"), "UTC", SMALL).await?;
    }
    // as it is for millions, whatever the statistics of so few
    client.batch_execute("set enable_seqscan = off").await?;
    tick_at(&client, START, 1_000).await?;
    let members = LARGE + SMALL_PROGRAMS * SMALL;
    assert_eq!(
        read_by_tick(&client, "2025-01-06", "loyalty.wallet").await?,
        members
    );

    client
        .batch_execute(
            "select loyalty.set_notice_sender(code, email => 'club@example.org',
                                              preferences_url => 'https://example.org/me'),
                    loyalty.set_notice(code, 'balance', true, days_of_month => '{7}'),
                    loyalty.set_notice(code, 'expiry', true)
               from loyalty.program",
        )
        .await?;
    let jobs = 3;
    assert!(read_by_tick(&client, "2025-01-07", "loyalty.wallet").await? <= jobs * members);
    let runs: i64 = client
        .query_one(
            "select count(*) from loyalty.run where period in ('2025-01-06', '2025-01-07')",
            &[],
        )
        .await?
        .get(0);
    assert_eq!(runs, (1 + SMALL_PROGRAMS) * (1 + jobs));
    assert_sound(&client).await
}

/// A step of the tick finds what is due first without going through all that is due.
#[tokio::test]
async fn a_tick_of_many_programs_reads_few_jobs_for_each() -> Result<()> {
    const PROGRAMS: i64 = 120;
    let db = TestDb::create("run_reading_jobs").await?;
    let client = db.connect().await?;
    for number in 0..PROGRAMS {
        program(&client, &format!("p-{number}"), "UTC", 0).await?;
    }
    client
        .batch_execute("set enable_seqscan = off; set enable_bitmapscan = off")
        .await?;
    tick_at(&client, START, 1_000).await?;
    let read = read_by_tick(&client, "2025-01-06", "loyalty.schedule").await?;
    let runs: i64 = client
        .query_one(
            "select count(*) from loyalty.run where period = '2025-01-06'",
            &[],
        )
        .await?
        .get(0);
    assert_eq!(runs, PROGRAMS);
    // half of them on average, if each step looked at all
    assert!(read < PROGRAMS * 30, "{read}");
    Ok(())
}
