//! Many clients at once: nothing overspent, totals exact, and no error but the ledger's own
//! reaches a client (never 40P01, 40001 or 23505).

mod funding;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use loyalty_testkit::{PATIENCE, TestDb};
use loyalty_tests::assert_sound;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio_postgres::Client;

const CLOCK: &str = "2025-06-15 10:00+09";

/// Rows of one bigint, or the SQLSTATE of the refusal; what has none is an error.
async fn ask(client: &Client, sql: &str) -> Result<Result<Vec<i64>, String>> {
    match client.query(sql, &[]).await {
        Ok(rows) => Ok(Ok(rows
            .iter()
            .map(|row| row.try_get(0))
            .collect::<Result<_, _>>()?)),
        Err(error) => {
            let code = error.code().map(|code| code.code().to_owned());
            Ok(Err(code.with_context(|| format!("{sql}: {error}"))?))
        }
    }
}

/// What must not be refused.
async fn number(client: &Client, sql: &str) -> Result<i64> {
    let row = client
        .query_one(sql, &[])
        .await
        .with_context(|| sql.to_owned())?;
    Ok(row.try_get(0)?)
}

async fn client(db: &TestDb) -> Result<Client> {
    let client = db.connect().await?;
    client
        .batch_execute(&format!("set loyalty.clock = '{CLOCK}'"))
        .await?;
    Ok(client)
}

async fn program(client: &Client) -> Result<()> {
    client
        .execute(
            "select loyalty.create_program(code => 'p', name => 'Programme')",
            &[],
        )
        .await?;
    Ok(())
}

async fn account(client: &Client, member: &str) -> Result<i64> {
    number(
        client,
        &format!("select loyalty.open_account(program => 'p', member_no => '{member}')"),
    )
    .await
}

async fn grant(client: &Client, account: i64, points: i64, expires_on: &str) -> Result<i64> {
    let sql = format!(
        "select operation_id from loyalty.grant(account_id => {account}, points => {points}, expires_on => '{expires_on}')"
    );
    number(client, &sql).await
}

async fn balance(client: &Client, account: i64) -> Result<i64> {
    number(
        client,
        &format!("select balance from loyalty.balance({account})"),
    )
    .await
}

/// So many clients do the same work, all starting at once; what each made of it.
async fn together<T, F>(
    db: &TestDb,
    clients: u64,
    work: impl Fn(u64, Client) -> F,
) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let start = Arc::new(Barrier::new(clients as usize));
    let mut tasks = JoinSet::new();
    for place in 0..clients {
        let doing = work(place, client(db).await?);
        let start = Arc::clone(&start);
        tasks.spawn(async move {
            start.wait().await;
            doing.await
        });
    }
    let mut results = Vec::new();
    while let Some(done) = tokio::time::timeout(PATIENCE, tasks.join_next())
        .await
        .context("somebody waits for ever")?
    {
        results.push(done??);
    }
    Ok(results)
}

/// Whether it was done; refused only for want of points.
fn enough<T>(answer: Result<T, String>) -> Result<Option<T>> {
    match answer {
        Ok(done) => Ok(Some(done)),
        Err(code) => {
            ensure!(code == "LY001", "{code} reached a client");
            Ok(None)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_clients_spend_from_one_account() -> Result<()> {
    let db = TestDb::create("spend_at_once").await?;
    let setup = client(&db).await?;
    program(&setup).await?;
    let account = account(&setup, "m").await?;
    for day in ["2025-07-01", "2025-08-01", "2026-01-01"] {
        grant(&setup, account, 700, day).await?;
    }
    let spent = together(&db, 32, |place, client| async move {
        let mut random = StdRng::seed_from_u64(place);
        let mut spent = 0;
        // until not even a single point is left
        loop {
            let points = random.random_range(1..=9);
            let sql = |points: i64| {
                format!("select points from loyalty.spend_fifo(account_id => {account}, points => {points})")
            };
            if enough(ask(&client, &sql(points)).await?)?.is_some() {
                spent += points;
            } else if enough(ask(&client, &sql(1)).await?)?.is_some() {
                spent += 1;
            } else {
                return Ok(spent);
            }
        }
    })
    .await?;
    assert_eq!(
        spent.iter().sum::<i64>(),
        2_100,
        "law 1: exactly what was granted"
    );
    assert_eq!(balance(&setup, account).await?, 0);
    assert_sound(&setup).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_clients_grant_and_spend_on_one_account_while_verify_watches() -> Result<()> {
    let db = TestDb::create("grant_at_once").await?;
    let setup = client(&db).await?;
    program(&setup).await?;
    let account = account(&setup, "m").await?;
    let watching = Arc::new(AtomicBool::new(true));
    let watcher = tokio::spawn({
        let (watching, client) = (Arc::clone(&watching), client(&db).await?);
        async move {
            let mut looks = 0;
            while watching.load(Ordering::Relaxed) {
                assert_sound(&client).await?;
                looks += 1;
            }
            anyhow::Ok(looks)
        }
    });
    let done = together(&db, 32, |place, client| async move {
        let mut random = StdRng::seed_from_u64(place);
        let mut change = 0;
        for _ in 0..25 {
            let points: i64 = random.random_range(1..=50);
            if random.random_bool(0.5) {
                grant(
                    &client,
                    account,
                    points,
                    &format!("2025-07-{:02}", random.random_range(1..=20)),
                )
                .await?;
                change += points;
            } else {
                let sql = format!("select points from loyalty.spend_fifo({account}, {points})");
                if enough(ask(&client, &sql).await?)?.is_some() {
                    change -= points;
                }
            }
        }
        Ok(change)
    })
    .await;
    watching.store(false, Ordering::Relaxed);
    let looks = watcher.await??;
    assert!(looks > 0, "law 11: verify() never came to look");
    assert_eq!(
        balance(&setup, account).await?,
        done?.iter().sum::<i64>(),
        "law 1"
    );
    assert_sound(&setup).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_both_ways_between_few_accounts() -> Result<()> {
    let db = TestDb::create("transfer_at_once").await?;
    let setup = client(&db).await?;
    program(&setup).await?;
    let mut accounts = Vec::new();
    for member in ["a", "b", "c"] {
        let account = account(&setup, member).await?;
        grant(&setup, account, 100, "2025-07-01").await?;
        grant(&setup, account, 100, "2025-08-01").await?;
        accounts.push(account);
    }
    let all = accounts.clone();
    let moved = together(&db, 24, |place, client| {
        let mut accounts = all.clone();
        async move {
            let mut random = StdRng::seed_from_u64(place);
            let mut moved = 0;
            for _ in 0..30 {
                accounts.shuffle(&mut random);
                let sql = format!(
                    "select points from loyalty.transfer(from_account => {}, to_account => {}, points => {})",
                    accounts[0],
                    accounts[1],
                    random.random_range(1..=60)
                );
                moved += enough(ask(&client, &sql).await?)?.map_or(0, |points| points[0]);
            }
            Ok(moved)
        }
    })
    .await?;
    assert!(moved.iter().sum::<i64>() > 0);
    let mut total = 0;
    for &account in &accounts {
        total += balance(&setup, account).await?;
    }
    assert_eq!(total, 600, "law 10: what one sent another received");
    let other = number(
        &setup,
        "select sum(points)::bigint from loyalty.journal where side = 'other member'",
    )
    .await?;
    assert_eq!(other, 0, "law 10");
    assert_sound(&setup).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_calls_in_any_order_beside_single_ones_and_the_expiry_run() -> Result<()> {
    let db = TestDb::create("bulk_at_once").await?;
    let setup = client(&db).await?;
    program(&setup).await?;
    let mut accounts = Vec::new();
    setup
        .batch_execute("set loyalty.clock = '2025-06-01 10:00+09'")
        .await?;
    for member in 0..12 {
        let account = account(&setup, &format!("m{member}")).await?;
        // lapsed at CLOCK, not booked yet
        grant(&setup, account, 10, "2025-06-10").await?;
        grant(&setup, account, 1_000, "2025-07-10").await?;
        accounts.push(account);
    }
    setup
        .batch_execute(&format!("set loyalty.clock = '{CLOCK}'"))
        .await?;
    let all = accounts.clone();
    // change of the balances, and breakage
    let done = together(&db, 20, |place, client| {
        let mut accounts = all.clone();
        async move {
            let mut random = StdRng::seed_from_u64(place);
            let (mut change, mut breakage) = (0, 0);
            for round in 0..12 {
                accounts.shuffle(&mut random);
                // overlapping, in another order, some twice
                let mut items: Vec<i64> = accounts[..8].to_vec();
                items.push(accounts[3]);
                let points: i64 = random.random_range(1..=40);
                let text: Vec<String> = items
                    .iter()
                    .enumerate()
                    .map(|(item, account)| {
                        format!(
                            r#"{{"account_id": {account}, "points": {points}, "idempotency_key": "{place} {round} {item}"}}"#
                        )
                    })
                    .collect();
                match place % 5 {
                    0 | 1 => {
                        let (function, sign) = if place % 5 == 0 { ("grant_many", 1) } else { ("spend_many", -1) };
                        let sql = format!("select points, error_code from loyalty.{function}('[{}]')", text.join(","));
                        for row in client.query(&sql, &[]).await? {
                            match row.try_get::<_, Option<String>>(1)? {
                                None => change += sign * row.try_get::<_, i64>(0)?,
                                Some(code) => ensure!(code == "LY001", "{code} reached a client"),
                            }
                        }
                    }
                    2 => {
                        for account in items {
                            let sql = format!("select points from loyalty.spend_fifo({account}, {points})");
                            if enough(ask(&client, &sql).await?)?.is_some() {
                                change -= points;
                            }
                        }
                    }
                    3 => {
                        for pair in items.windows(2).take(6) {
                            let sql = format!("select points from loyalty.transfer({}, {}, {points})", pair[0], pair[1]);
                            enough(ask(&client, &sql).await?)?;
                        }
                    }
                    _ => {
                        let sql = "select points from loyalty.expire('p', batch_size => 3)";
                        breakage += number(&client, sql).await?;
                    }
                }
            }
            Ok((change, breakage))
        }
    })
    .await?;
    let change: i64 = done.iter().map(|done| done.0).sum();
    let breakage: i64 = done.iter().map(|done| done.1).sum();
    assert_eq!(breakage, 120, "law 4: each lapsed lot booked, and once");
    let total = number(&setup, "select sum(balance)::bigint from loyalty.wallet").await?;
    assert_eq!(total, 12 * 1_000 + change, "law 1");
    assert_sound(&setup).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_by_sixteen_clients_makes_one_entry() -> Result<()> {
    let db = TestDb::create("key_at_once").await?;
    let setup = client(&db).await?;
    program(&setup).await?;
    let (from, to) = (account(&setup, "a").await?, account(&setup, "b").await?);
    grant(&setup, from, 1_000, "2025-07-01").await?;
    let calls = [
        format!("loyalty.grant(account_id => {from}, points => 5, idempotency_key => 'grant')"),
        format!(
            "loyalty.spend_fifo(account_id => {from}, points => 7, idempotency_key => 'spend')"
        ),
        format!("loyalty.hold(account_id => {from}, points => 11, idempotency_key => 'hold')"),
        format!(
            "loyalty.transfer(from_account => {from}, to_account => {to}, points => 13, idempotency_key => 'move')"
        ),
    ];
    for call in calls {
        let before = number(
            &setup,
            &format!("select count(*) from loyalty.statement({from})"),
        )
        .await?;
        let receipts = together(&db, 16, |_, client| {
            let sql = format!("select r::text from {call} r");
            async move { Ok(client.query_one(&sql, &[]).await?.try_get::<_, String>(0)?) }
        })
        .await?;
        assert!(
            receipts.iter().all(|receipt| *receipt == receipts[0]),
            "law 6: {receipts:?}"
        );
        let after = number(
            &setup,
            &format!("select count(*) from loyalty.statement({from})"),
        )
        .await?;
        assert_eq!(after, before + 1, "{call}");
    }
    let many = together(&db, 16, |_, client| {
        let sql = format!(
            r#"select string_agg(m::text, ' ' order by item) from loyalty.grant_many('[
                {{"account_id": {to}, "points": 2, "idempotency_key": "many 1"}},
                {{"account_id": {from}, "points": 3, "idempotency_key": "many 2"}}]') m"#
        );
        async move { Ok(client.query_one(&sql, &[]).await?.try_get::<_, String>(0)?) }
    })
    .await?;
    assert!(
        many.iter().all(|receipt| *receipt == many[0]),
        "law 6: {many:?}"
    );
    assert_eq!(balance(&setup, from).await?, 1_000 + 5 - 7 - 13 + 3);
    assert_eq!(balance(&setup, to).await?, 13 + 2);
    assert_sound(&setup).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_hold_is_captured_once_and_one_spend_refunded_once() -> Result<()> {
    let db = TestDb::create("capture_at_once").await?;
    let setup = client(&db).await?;
    program(&setup).await?;
    let account = account(&setup, "m").await?;
    grant(&setup, account, 1_000, "2025-07-01").await?;
    let hold = number(
        &setup,
        &format!("select operation_id from loyalty.hold({account}, 100)"),
    )
    .await?;
    let captured = together(&db, 16, |place, client| async move {
        let sql = if place % 2 == 0 {
            format!("select points from loyalty.capture({account}, {hold})")
        } else {
            format!("select 0::bigint from loyalty.release({account}, {hold})")
        };
        match ask(&client, &sql).await? {
            Ok(points) => Ok(Some(points[0])),
            Err(code) => {
                ensure!(code == "LY006", "law 8: {code} reached a client");
                Ok(None)
            }
        }
    })
    .await?;
    let ends: Vec<i64> = captured.into_iter().flatten().collect();
    assert_eq!(ends.len(), 1, "law 8: a hold ends once");
    assert_eq!(balance(&setup, account).await?, 1_000 - ends[0]);

    let spend = number(
        &setup,
        &format!("select operation_id from loyalty.spend_fifo({account}, 90)"),
    )
    .await?;
    let refunded = together(&db, 16, |_, client| async move {
        let mut refunded = 0;
        for _ in 0..3 {
            match ask(
                &client,
                &format!("select points from loyalty.refund({account}, {spend}, 7)"),
            )
            .await?
            {
                Ok(points) => refunded += points[0],
                Err(code) => ensure!(code == "22023", "law 7: {code} reached a client"),
            }
        }
        Ok(refunded)
    })
    .await?;
    // the thirteenth would be more than is left
    assert_eq!(
        refunded.iter().sum::<i64>(),
        84,
        "law 7: never more than was spent"
    );
    assert_eq!(balance(&setup, account).await?, 1_000 - ends[0] - 90 + 84);
    assert_sound(&setup).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_clients_open_one_account() -> Result<()> {
    let db = TestDb::create("open_at_once").await?;
    let setup = client(&db).await?;
    program(&setup).await?;
    for member in 0..5 {
        let opened = together(&db, 16, |_, client| async move {
            account(&client, &format!("m{member}")).await
        })
        .await?;
        assert!(
            opened.iter().all(|account| *account == opened[0]),
            "{opened:?}"
        );
    }
    assert_eq!(
        number(&setup, "select count(*) from loyalty.account").await?,
        5
    );
    assert_sound(&setup).await
}

/// Members with one lapsed lot each, not booked yet at CLOCK.
async fn lapsed(setup: &Client, members: i64) -> Result<()> {
    program(setup).await?;
    setup
        .batch_execute("set loyalty.clock = '2025-06-01 10:00+09'")
        .await?;
    let sql = format!(
        "select count(*) from generate_series(1, {members}) m \
          cross join lateral loyalty.open_account('p', 'm' || m) a \
          cross join lateral loyalty.grant(account_id => a, points => m, expires_on => '2025-06-14') g"
    );
    assert_eq!(number(setup, &sql).await?, members);
    setup
        .batch_execute(&format!("set loyalty.clock = '{CLOCK}'"))
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiry_runs_at_once_book_each_lot_once() -> Result<()> {
    let db = TestDb::create("expire_at_once").await?;
    let setup = client(&db).await?;
    lapsed(&setup, 200).await?;
    let booked = together(&db, 4, |place, client| async move {
        let (mut lots, mut points) = (0, 0);
        loop {
            let sql = if place == 0 {
                "select lots, points from loyalty.expire('p')"
            } else {
                "select lots, points from loyalty.expire('p', batch_size => 7)"
            };
            let row = client.query_one(sql, &[]).await?;
            let found: i64 = row.try_get(0)?;
            lots += found;
            points += row.try_get::<_, i64>(1)?;
            if found == 0 {
                return Ok((lots, points));
            }
        }
    })
    .await?;
    assert_eq!(
        booked.iter().map(|b| b.0).sum::<i64>(),
        200,
        "law 4: each lot is booked once: {booked:?}"
    );
    assert_eq!(booked.iter().map(|b| b.1).sum::<i64>(), 200 * 201 / 2);
    assert_eq!(
        number(&setup, "select sum(balance)::bigint from loyalty.wallet").await?,
        0
    );
    assert_sound(&setup).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticks_at_once_do_what_is_due_once() -> Result<()> {
    let db = TestDb::create("tick_at_once").await?;
    let setup = client(&db).await?;
    lapsed(&setup, 200).await?;
    together(&db, 4, |_, client| async move {
        client
            .batch_execute("call loyalty.tick(chunk_size => 9)")
            .await?;
        Ok(())
    })
    .await?;
    // one that found it taken leaves the rest to the others, or to the next minute
    setup.batch_execute("call loyalty.tick()").await?;
    let row = setup.query_one("select count(*), sum(lots)::bigint, sum(points)::bigint from loyalty.run where finished_at is not null and error is null", &[]).await?;
    let runs: (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    assert_eq!(
        runs,
        (1, 200, 200 * 201 / 2),
        "one run of program, job and period"
    );
    assert_eq!(
        number(
            &setup,
            "select count(*) from loyalty.entry where kind = 'expire'"
        )
        .await?,
        200
    );
    assert_sound(&setup).await
}
