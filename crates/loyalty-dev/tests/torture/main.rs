//! Faults, on purpose, as in `./dev torture`, shorter: what clients were told holds afterwards.
//! Durability is on here; the other tests' clusters have it off.

use anyhow::{Result, ensure};
use loyalty_dev::torture::check::{Findings, balances, compare_books};
use loyalty_dev::torture::load::{Fate, Record, Shift, clerks, open_accounts};
use loyalty_dev::torture::{Effort, Outcome, cron, cut, disk, hang, kill, recovery, standby, time};
use loyalty_testkit::TestDb;
use loyalty_tests::World;
use std::time::Duration;
use tokio_postgres::Client;

/// Tells what was done (cargo shows it when asked to, or when it fails), and fails on what does
/// not hold.
fn hold(outcome: Outcome) -> Result<()> {
    println!("{outcome:#?}");
    outcome.must_hold()
}

/// Laws 1, 2, 3, 6 and 11 when PostgreSQL is killed with signal 9 under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load() -> Result<()> {
    hold(kill::trial(&Effort::short()).await?)
}

/// Laws 1, 6 and 11 when the disk is full under the tables (53100), then under the WAL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_full() -> Result<()> {
    hold(disk::trial(&Effort::short()).await?)
}

/// Law 1, and who is told of whom, when a session spends and hangs with its transaction open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_hangs() -> Result<()> {
    hold(hang::trial(&Effort::short()).await?)
}

/// Laws 4, 6 and 11, and C6, when the machine's clock is set back an hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_is_set_back() -> Result<()> {
    hold(time::trial(&Effort::short()).await?)
}

/// Laws 1, 6 and 11 when the primary is killed under load and a standby takes over: synchronous,
/// then asynchronous and behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promoted_under_load() -> Result<()> {
    hold(standby::trial(&Effort::short()).await?)
}

/// Laws 1, 6 and 11 after a recovery from a base backup and archived WAL to a chosen operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovered_to_an_operation() -> Result<()> {
    hold(recovery::trial(&Effort::short()).await?)
}

/// C2, C6 and laws 6 and 11 without pg_cron, after a week of none, and with two of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pg_cron_absent_stopped_and_doubled() -> Result<()> {
    hold(cron::trial(&Effort::short()).await?)
}

/// Laws 1, 6 and 11 when clients are cut off in the middle of a call, over SQL and over HTTP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_cut_off() -> Result<()> {
    hold(cut::trial(&Effort::short()).await?)
}

/// Laws 1, 2, 6 and 11: what a wallet dropped after a lot's last day, the clock set back, a refund
/// begins again; also days later, and more than once.
#[tokio::test]
async fn a_lot_comes_back_with_the_clock() -> Result<()> {
    for (ahead, back) in [
        ("2026-01-31 15:20+00", "2026-01-31 14:20+00"),
        ("2026-01-31 15:20+00", "2026-01-20 14:20+00"),
        ("2026-02-10 15:20+00", "2026-01-31 14:20+00"),
        ("2026-02-10 15:20+00", "2026-01-20 14:20+00"),
    ] {
        let world = World::open("back").await?;
        world.at("2026-01-31 14:50+00").await?;
        world
            .run(
                "select loyalty.create_program('p', 'P'),
                        loyalty.open_account('p', 'a'), loyalty.open_account('p', 'b');
                 select loyalty.grant(a, 100), loyalty.grant(a, 50, expires_on => '2026-01-31'),
                        loyalty.spend_fifo(a, 20 + 10 * a, idempotency_key => 's')
                   from generate_series(1, 2) a",
            )
            .await?;
        let grant = "select loyalty.grant(a, 1) from generate_series(1, 2) a";
        let refund = "select (loyalty.refund(a, (loyalty.spend_fifo(a, 20 + 10 * a, idempotency_key => 's')).operation_id, 5)).points
                        from generate_series(1, 2) a";
        let verify = "select * from loyalty.verify()";
        let context = format!("{ahead}, then {back}");
        for turn in 0..2 {
            world.at(ahead).await?;
            world.run("call loyalty.tick()").await?;
            world.run(grant).await?;
            world.at(back).await?;
            for _ in 0..2 {
                let refunded = world.rows(refund).await?;
                ensure!(refunded == ["5", "5"], "{context}: {refunded:?}");
                ensure!(world.rows(verify).await?.is_empty(), "{context}: {turn}");
            }
            world
                .run("select loyalty.spend_fifo(a, 8), loyalty.grant(a, 3, expires_on => '2026-01-31')
                        from generate_series(1, 2) a")
                .await?;
            ensure!(
                world.rows(verify).await?.is_empty(),
                "{context}: {turn}, spent"
            );
        }
        // the day's run was done before: the next one books what came back since
        world.at("2026-02-12 12:00+09").await?;
        world.run("call loyalty.tick()").await?;
        ensure!(
            world.rows(verify).await?.is_empty(),
            "{context}: in the end"
        );
        let left = world
            .rows("select * from loyalty.lots(1) where expires_on = '2026-01-31'")
            .await?;
        ensure!(left.is_empty(), "{context}: {left:?}");
    }
    Ok(())
}

/// The comparison that all of this rests on finds what is wrong: in what clients were told, and
/// in the ledger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_comparison_finds_faults() -> Result<()> {
    let db = TestDb::create("comparison").await?;
    let client = db.connect().await?;
    let accounts = open_accounts(&client, 3).await?;
    let start = balances(&client).await?;
    let shift = Shift::begin(clerks(2, &accounts), &db.config());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let book: Vec<Record> = shift
        .end()
        .await?
        .into_iter()
        .flat_map(|clerk| clerk.book)
        .collect();
    let look = async |client: &Client, book: &[Record]| -> Result<Findings> {
        compare_books(client, &book.iter().collect::<Vec<_>>(), &start).await
    };
    let sound = look(&client, &book).await?;
    ensure!(sound.problems().is_empty(), "{sound:?}");
    ensure!(sound.acknowledged > 20 && sound.found == sound.acknowledged);
    let told = |record: &&Record| matches!(record.fate, Fate::Acknowledged(_));
    let some = book
        .iter()
        .rposition(|record| told(&record))
        .unwrap_or_default();

    // told of other points than were booked
    let mut wrong = book.clone();
    if let Fate::Acknowledged(receipts) = &mut wrong[some].fate {
        receipts[0].points += 1;
    }
    let found = look(&client, &wrong).await?;
    ensure!(found.different.len() == 1, "{found:?}");
    // told of what was not booked
    let mut wrong = book.clone();
    if let Fate::Acknowledged(receipts) = &mut wrong[some].fate {
        receipts[0].key.push('x');
    }
    let found = look(&client, &wrong).await?;
    ensure!(
        found.missing.len() == 1 && found.unasked.len() == 1,
        "{found:?}"
    );
    // told of no room, and booked
    let mut wrong = book.clone();
    wrong[some].fate = Fate::Refused("53100".to_owned());
    let found = look(&client, &wrong).await?;
    ensure!(
        !found.unasked.is_empty() && !found.problems().is_empty(),
        "{found:?}"
    );

    // the ledger, changed by a superuser with its guards off
    for (label, forgery) in [
        (
            "lost",
            "delete from loyalty.entry e using loyalty.wallet w
              where e.account_id = w.account_id and e.entry = w.last_entry",
        ),
        (
            "twice",
            "drop index loyalty.entry_by_key;
             insert into loyalty.entry
             select (jsonb_populate_record(e, jsonb_build_object('entry', w.last_entry + 1))).*
               from loyalty.entry e join loyalty.wallet w using (account_id)
              where e.account_id = 1 and e.idempotency_key is not null limit 1",
        ),
        (
            "balance",
            "update loyalty.wallet
                set balance = balance + 1, lot_granted[1] = lot_granted[1] + 1,
                    lot_remaining[1] = lot_remaining[1] + 1
              where account_id = 1",
        ),
    ] {
        client
            .batch_execute(&format!(
                "begin; set session_replication_role = replica; {forgery}"
            ))
            .await?;
        let found = look(&client, &book).await?;
        let seen = match label {
            "lost" => !found.missing.is_empty(),
            "twice" => found.twice.len() == 1,
            _ => found.balances.len() == 1,
        };
        ensure!(seen && !found.verify.is_empty(), "{label}: {found:?}");
        client.batch_execute("rollback").await?;
    }
    Ok(())
}
