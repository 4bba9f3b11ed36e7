//! Schedules (C6): pg_cron ticks, `loyalty.tick()` knows what is due where, and does each
//! (program, job, period) once.

use anyhow::{Context as _, Result, ensure};
use loyalty_testkit::{PATIENCE, TestDb};
use loyalty_tests::{PG_CRON, assert_sound, points_cluster, sqlstate, until_one_waits};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// A program in which each of so many members has a lot of 10 that lasts through 2025-01-31
/// and one of 5 that lasts through 2025-03-31.
async fn program(client: &Client, code: &str, time_zone: &str, members: i32) -> Result<()> {
    client
        .batch_execute(&format!(
            "set loyalty.clock = '2025-01-10 00:00+00';
             select loyalty.create_program('{code}', '{code}', time_zone => '{time_zone}');
             select loyalty.grant_many(jsonb_agg(jsonb_build_object(
                        'account_id', loyalty.open_account('{code}', n::text),
                        'points', points, 'expires_on', expires_on)))
               from generate_series(1, {members}) n,
                    (values (10, '2025-01-31'), (5, '2025-03-31')) l (points, expires_on)"
        ))
        .await?;
    Ok(())
}

async fn tick_at(client: &Client, time: &str, chunk_size: i32) -> Result<()> {
    client
        .batch_execute(&format!("set loyalty.clock = '{time}'"))
        .await?;
    client
        .batch_execute(&format!("call loyalty.tick({chunk_size})"))
        .await?;
    Ok(())
}

#[derive(Debug, PartialEq)]
struct Run {
    code: String,
    period: String,
    finished: bool,
    lots: i64,
    points: i64,
    chunks: i32,
    error: Option<String>,
}

async fn runs(client: &Client) -> Result<Vec<Run>> {
    let rows = client
        .query(
            "select p.code, r.period::text, r.finished_at is not null, r.lots, r.points, r.chunks, r.error
               from loyalty.run r join loyalty.program p using (program_id)
              order by r.period, p.code",
            &[],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Run {
            code: row.get(0),
            period: row.get(1),
            finished: row.get(2),
            lots: row.get(3),
            points: row.get(4),
            chunks: row.get(5),
            error: row.get(6),
        })
        .collect())
}

/// The ledger but for who did it and when.
async fn ledger(client: &Client) -> Result<String> {
    let row = client
        .query_one(
            "select md5((select string_agg((e.account_id, e.entry, e.kind, e.points, e.balance, e.lot_points,
                                            e.expires_on)::text, ',' order by account_id, entry) from loyalty.entry e)
                     || (select string_agg(w::text, ',' order by account_id) from loyalty.wallet w))",
            &[],
        )
        .await?;
    Ok(row.get(0))
}

async fn count(client: &Client, sql: &str) -> Result<i64> {
    Ok(client
        .query_one(sql, &[])
        .await
        .context(sql.to_owned())?
        .get(0))
}

/// The real pg_cron, its real minute: breakage is booked, once, and the run tells of it.
#[tokio::test]
async fn pg_cron_ticks() -> Result<()> {
    let cluster = points_cluster("cron", PG_CRON).await?;
    let client = cluster.connect("points").await?;
    client
        .batch_execute("create extension pg_cron; create extension pg_loyalty")
        .await?;
    program(&client, "tokyo", "Asia/Tokyo", 30).await?;
    program(&client, "paris", "Europe/Paris", 3).await?;
    client.batch_execute("reset loyalty.clock").await?;
    // creating the extension schedules nothing; twice installed is one job
    ensure!(count(&client, "select count(*) from cron.job").await? == 0);
    let first = count(&client, "select loyalty.install_schedules()").await?;
    let second = count(&client, "select loyalty.install_schedules()").await?;
    ensure!(first == second);
    ensure!(
        count(
            &client,
            "select count(*) from cron.job where command = 'call loyalty.tick()'"
        )
        .await?
            == 1
    );

    let start = Instant::now();
    loop {
        let done = runs(&client)
            .await?
            .iter()
            .filter(|run| run.finished)
            .count();
        if done == 2 {
            break;
        }
        if start.elapsed() > PATIENCE {
            let log = client
                .query("select d::text from cron.job_run_details d", &[])
                .await?;
            anyhow::bail!(
                "no run after {PATIENCE:?}: {:?} {log:?}",
                runs(&client).await?
            );
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for run in runs(&client).await? {
        let members = if run.code == "tokyo" { 30 } else { 3 };
        ensure!(
            (run.lots, run.points, run.chunks, &run.error) == (2 * members, 15 * members, 2, &None),
            "{run:?}"
        );
    }
    ensure!(
        count(
            &client,
            "select count(*) from loyalty.run where started_at <= finished_at
                           and finished_at > now() - interval '2 minutes'"
        )
        .await?
            == 2
    );
    ensure!(count(&client, "select sum(balance)::bigint from loyalty.wallet").await? == 0);
    assert_sound(&client).await?;

    let removed: bool = client
        .query_one("select loyalty.uninstall_schedules()", &[])
        .await?
        .get(0);
    ensure!(removed && count(&client, "select count(*) from cron.job").await? == 0);
    let removed: bool = client
        .query_one("select loyalty.uninstall_schedules()", &[])
        .await?
        .get(0);
    ensure!(!removed);
    Ok(())
}

/// Law 4 and C6: a program's day begins at midnight where it is.
#[tokio::test]
async fn midnight_is_the_programs_own() -> Result<()> {
    let db = TestDb::create("midnight").await?;
    let client = db.connect().await?;
    for (code, zone) in [
        ("auckland", "Pacific/Auckland"),
        ("tokyo", "Asia/Tokyo"),
        ("new_york", "America/New_York"),
    ] {
        program(&client, code, zone, 2).await?;
    }
    tick_at(&client, "2025-01-31 00:00+00", 100).await?;
    // midnights of 1 February, as they come; a second before nothing is due
    for (midnight, code) in [
        ("2025-01-31 11:00:00+00", "auckland"),
        ("2025-01-31 15:00:00+00", "tokyo"),
        ("2025-02-01 05:00:00+00", "new_york"),
    ] {
        let booked = format!(
            "select coalesce(sum(r.lots), 0)::bigint from loyalty.run r join loyalty.program p using (program_id)
              where p.code = '{code}'"
        );
        let before = client
            .query_one(
                "select ($1::text::timestamptz - interval '1 microsecond')::text",
                &[&midnight],
            )
            .await?;
        tick_at(&client, before.get(0), 100).await?;
        ensure!(
            count(&client, &booked).await? == 0,
            "{code} before its midnight"
        );
        tick_at(&client, midnight, 100).await?;
        ensure!(
            count(&client, &booked).await? == 2,
            "{code} at its midnight"
        );
    }
    assert_sound(&client).await
}

/// Once for each program, job and period, however many tick at once, and at once when
/// nothing is due.
#[tokio::test]
async fn four_sessions_tick_at_once() -> Result<()> {
    let db = TestDb::create("four").await?;
    let client = db.connect().await?;
    for code in ["a", "b", "c"] {
        program(&client, code, "Asia/Tokyo", 60).await?;
    }
    let mut others = Vec::new();
    for _ in 0..4 {
        let session = db.connect().await?;
        session
            .batch_execute("set loyalty.clock = '2025-02-03 12:00+09'")
            .await?;
        others.push(session);
    }
    let tick = "call loyalty.tick(7)";
    let (a, b, c, d) = tokio::join!(
        others[0].batch_execute(tick),
        others[1].batch_execute(tick),
        others[2].batch_execute(tick),
        others[3].batch_execute(tick),
    );
    for outcome in [a, b, c, d] {
        outcome?;
    }
    // whoever found a run in other hands has left it; the next tick closes what is open
    tick_at(&client, "2025-02-03 12:00+09", 7).await?;
    let done = runs(&client).await?;
    ensure!(done.len() == 3);
    for run in &done {
        ensure!(
            run.finished && (run.lots, run.points) == (60, 600) && run.chunks >= 10,
            "{run:?}"
        );
    }
    ensure!(
        count(
            &client,
            "select count(*) from loyalty.entry where kind = 'expire'"
        )
        .await?
            == 180
    );
    ensure!(count(&client, "select count(*) from loyalty.due_run").await? == 0);
    assert_sound(&client).await?;

    let before = ledger(&client).await?;
    for _ in 0..20 {
        tick_at(&client, "2025-02-03 23:59+09", 7).await?;
    }
    ensure!(runs(&client).await? == done && ledger(&client).await? == before);
    Ok(())
}

/// A session that dies in the middle leaves whole chunks; the next tick goes on, and the
/// ledger is that of an undisturbed run.
#[tokio::test]
async fn killed_in_the_middle() -> Result<()> {
    let mut ledgers = Vec::new();
    for kill in [false, true] {
        let db = TestDb::create("killed").await?;
        let client = db.connect().await?;
        program(&client, "p", "Asia/Tokyo", 200).await?;
        // the expiry run meets a wallet that somebody holds, and waits
        let blocker = db.connect().await?;
        if kill {
            blocker
                .batch_execute("begin; select from loyalty.wallet where account_id = 90 for update")
                .await?;
            let victim = db.connect().await?;
            victim
                .batch_execute("set loyalty.clock = '2025-02-01 12:00+09'")
                .await?;
            let pid: i32 = victim
                .query_one("select pg_backend_pid()", &[])
                .await?
                .get(0);
            let ticking =
                tokio::spawn(async move { victim.batch_execute("call loyalty.tick(20)").await });
            until_one_waits(&client).await?;
            client
                .batch_execute(&format!("select pg_terminate_backend({pid})"))
                .await?;
            ensure!(ticking.await?.is_err(), "the session was to be killed");
            blocker.batch_execute("rollback").await?;
            let half = runs(&client).await?;
            ensure!(
                half.len() == 1 && !half[0].finished && half[0].lots == 80 && half[0].chunks == 4,
                "{half:?}"
            );
            assert_sound(&client).await?;
        }
        tick_at(&client, "2025-02-01 12:00+09", 20).await?;
        let done = runs(&client).await?;
        ensure!(
            done.len() == 1 && done[0].finished && (done[0].lots, done[0].chunks) == (200, 11),
            "{done:?}"
        );
        assert_sound(&client).await?;
        ledgers.push(ledger(&client).await?);
    }
    ensure!(ledgers[0] == ledgers[1], "the ledgers differ");
    Ok(())
}

/// A week of downtime is caught up by one run; what was left open before is closed by it.
#[tokio::test]
async fn a_week_of_downtime() -> Result<()> {
    let db = TestDb::create("downtime").await?;
    let client = db.connect().await?;
    program(&client, "p", "Asia/Tokyo", 50).await?;
    tick_at(&client, "2025-01-31 12:00+09", 20).await?;
    // a crash after one chunk of 1 February's run
    client
        .batch_execute(
            "set loyalty.clock = '2025-02-01 00:00+09';
             select loyalty_private.run_chunk(program_id, 'expire', '2025-02-01', 20) from loyalty.program",
        )
        .await?;
    tick_at(&client, "2025-02-08 09:00+09", 20).await?;
    let done = runs(&client).await?;
    let told: Vec<(&str, bool, i64)> = done
        .iter()
        .map(|run| (run.period.as_str(), run.finished, run.lots))
        .collect();
    ensure!(
        told == [
            ("2025-01-31", true, 0),
            ("2025-02-01", true, 20),
            ("2025-02-08", true, 30)
        ],
        "{told:?}"
    );
    assert_sound(&client).await
}

/// A run that fails says why, lets the other programs go on, and is tried again.
#[tokio::test]
async fn a_failing_run() -> Result<()> {
    let db = TestDb::create("failing").await?;
    let client = db.connect().await?;
    for code in ["a", "b", "c"] {
        program(&client, code, "Asia/Tokyo", 10).await?;
    }
    client
        .batch_execute(
            "create function fail() returns trigger language plpgsql as
             $$ begin
                 if new.program_id = (select program_id from loyalty.program where code = 'b')
                    and new.account_id % 10 = 5 then
                     raise exception 'disk on fire' using errcode = '58030';
                 end if;
                 return new;
             end $$;
             create trigger fail before update on loyalty.wallet for each row execute function fail()",
        )
        .await?;
    tick_at(&client, "2025-02-01 12:00+09", 3).await?;
    let done = runs(&client).await?;
    let told: Vec<(&str, bool, i64)> = done
        .iter()
        .map(|run| (run.code.as_str(), run.finished, run.lots))
        .collect();
    ensure!(
        told == [("a", true, 10), ("b", false, 3), ("c", true, 10)],
        "{told:?}"
    );
    let error = done[1].error.clone().unwrap_or_default();
    ensure!(
        error.contains("58030") && error.contains("disk on fire"),
        "{error}"
    );
    assert_sound(&client).await?;
    // the same again, then the cause is gone
    tick_at(&client, "2025-02-01 12:01+09", 3).await?;
    ensure!(runs(&client).await? == done);
    client
        .batch_execute("drop trigger fail on loyalty.wallet")
        .await?;
    tick_at(&client, "2025-02-01 12:02+09", 3).await?;
    let done = runs(&client).await?;
    ensure!(
        done[1].finished && done[1].lots == 10 && done[1].error.is_none(),
        "{:?}",
        done[1]
    );
    assert_sound(&client).await
}

/// Law 8: wallets whose lapsed lots are all held end no run early, and keep none going.
#[tokio::test]
async fn pinned_wallets_end_no_run_early() -> Result<()> {
    let db = TestDb::create("pinned").await?;
    let client = db.connect().await?;
    program(&client, "p", "Asia/Tokyo", 10).await?;
    client
        .batch_execute(
            "set loyalty.clock = '2025-01-31 12:00+09';
             select loyalty.hold(account_id, 10, '20 days') from loyalty.account where account_id <= 4;
             -- on the second, a hold past its time beside the open one
             select loyalty.hold(2, 2, '1 minute')",
        )
        .await?;
    tick_at(&client, "2025-02-01 12:00+09", 2).await?;
    let done = runs(&client).await?;
    ensure!(
        done.len() == 1 && done[0].finished && done[0].lots == 6,
        "{done:?}"
    );
    assert_sound(&client).await?;
    // the holds' time is over on 20 February; the next run books what they kept
    tick_at(&client, "2025-02-20 12:01+09", 2).await?;
    let done = runs(&client).await?;
    ensure!(
        done.len() == 2 && done[1].finished && done[1].lots == 4,
        "{done:?}"
    );
    ensure!(count(&client, "select sum(balance)::bigint from loyalty.wallet").await? == 50);
    assert_sound(&client).await
}

/// The operator role works the schedules; the others cannot.
#[tokio::test]
async fn operators_tick() -> Result<()> {
    let db = TestDb::create("operator").await?;
    let client = db.connect().await?;
    program(&client, "a", "Asia/Tokyo", 5).await?;
    program(&client, "b", "Asia/Tokyo", 5).await?;
    let operator = db.connect_as("loyalty_operator").await?;
    tick_at(&operator, "2025-02-01 12:00+09", 2).await?;
    ensure!(
        runs(&operator)
            .await?
            .iter()
            .filter(|run| run.finished && run.lots == 5)
            .count()
            == 2
    );
    operator
        .batch_execute("set loyalty.clock = '2025-04-02 12:00+09'")
        .await?;
    let row = operator
        .query_one("select lots, points from loyalty.expire('a')", &[])
        .await?;
    ensure!((row.get::<_, i64>(0), row.get::<_, i64>(1)) == (5, 25));
    // a caller's search_path changes nothing
    operator.batch_execute("set search_path = ''").await?;
    operator.batch_execute("call loyalty.tick()").await?;
    ensure!(runs(&operator).await?.len() == 4);
    assert_sound(&client).await?;

    for size in ["0", "-1"] {
        let state = sqlstate(
            &operator
                .batch_execute(&format!("call loyalty.tick({size})"))
                .await,
        );
        ensure!(state == "22023", "tick({size}): {state}");
    }
    for role in [
        "loyalty_anon",
        "loyalty_member",
        "loyalty_family",
        "loyalty_granter",
        "loyalty_admin",
    ] {
        let session = db.connect_as(role).await?;
        for call in [
            "call loyalty.tick()",
            "select loyalty.expire('a')",
            "select loyalty_private.run_chunk(1, 'expire', '2025-01-01', 1)",
            "select loyalty.install_schedules()",
            "select loyalty.uninstall_schedules()",
            "select loyalty.rerun('a', 'expire', '2025-02-01')",
            "select loyalty.pause_schedule('a')",
            "select loyalty.preview('a')",
        ] {
            let state = sqlstate(&session.batch_execute(call).await);
            ensure!(state == "42501", "{role}: {call}: {state}");
        }
        // administrators see their program's by their token, and have none here
        let seen = session.query("select from loyalty.run", &[]).await;
        match role {
            "loyalty_admin" => ensure!(seen?.is_empty()),
            _ => ensure!(sqlstate(&seen) == "42501", "{role}"),
        }
    }
    Ok(())
}
