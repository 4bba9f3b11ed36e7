//! Exactly once: several sessions, clocks that jump (C2, C6; issue: "It must show").

use super::world::{
    Available, Ledger, START, ledger, number, program, set_clock, sound, texts, tick_at, tick_days,
};
use anyhow::{Result, ensure};
use loyalty_dev::testkit::TestDb;
use tokio_postgres::Client;

async fn world(label: &str, members: i64) -> Result<(TestDb, Client)> {
    let db = TestDb::create(label).await?;
    let client = db.connect().await?;
    program(&client, "tokyo", "Asia/Tokyo", members).await?;
    program(&client, "new_york", "America/New_York", members).await?;
    Ok((db, client))
}

/// One session that ticks every day of four months and a half.
async fn undisturbed(members: i64, available: Available) -> Result<Ledger> {
    let (_db, client) = world("undisturbed", members).await?;
    tick_days(&client, "2025-01-06", "2025-05-20", 1, 10_000).await?;
    sound(&client).await?;
    // it is a ledger worth comparing: both rules paid, and points lapsed
    for (sql, least) in [
        (
            "select count(*) from loyalty.entry where kind = 'grant' and reason = 'Anniversary'",
            100,
        ),
        (
            "select count(*) from loyalty.entry where kind = 'grant' and reason = 'Bonus'",
            200,
        ),
        (
            "select count(*) from loyalty.entry where kind = 'expire'",
            100,
        ),
    ] {
        ensure!(number(&client, sql).await? >= least, "{sql}");
    }
    ledger(&client, available).await
}

/// Two, four ticks at once never pay twice, share the programs, and leave nothing behind.
#[tokio::test]
async fn four_sessions_tick_at_once() -> Result<()> {
    let (db, client) = world("four", 150).await?;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(db.connect().await?);
    }
    let days = texts(
        &client,
        "select day::date::text from generate_series('2025-01-06'::date, '2025-05-20', '1 day') day",
    )
    .await?;
    for day in days {
        for session in &sessions {
            set_clock(session, &format!("{day} 12:30+00")).await?;
        }
        let tick = "call loyalty.tick(13)";
        let (a, b, c, d) = tokio::join!(
            sessions[0].batch_execute(tick),
            sessions[1].batch_execute(tick),
            sessions[2].batch_execute(tick),
            sessions[3].batch_execute(tick),
        );
        for outcome in [a, b, c, d] {
            outcome?;
        }
        // whoever found work in other hands left it to them, and they went on to the end
        set_clock(&client, &format!("{day} 12:30+00")).await?;
        ensure!(
            number(&client, "select count(*) from loyalty.due_run").await? == 0,
            "{day}"
        );
    }
    sound(&client).await?;
    let one = undisturbed(150, Available::Compared).await?;
    ensure!(ledger(&client, Available::Compared).await? == one);
    Ok(())
}

/// A week of downtime changes nothing but the hour: every period with its own day.
#[tokio::test]
async fn the_clock_jumps_by_weeks() -> Result<()> {
    let (_db, client) = world("weeks", 120).await?;
    tick_days(&client, "2025-01-06", "2025-05-19", 7, 1000).await?;
    tick_at(&client, "2025-05-20 12:30+00", 1000).await?;
    sound(&client).await?;
    ensure!(
        ledger(&client, Available::Compared).await?
            == undisturbed(120, Available::Compared).await?
    );
    // granted_on is the business day, however late the tick
    let late = "select count(*) from loyalty.entry e
                  join loyalty.account a using (account_id) join loyalty.program p using (program_id)
                 where e.kind = 'grant' and e.granted_on < timezone(p.time_zone, e.occurred_at)::date";
    ensure!(number(&client, late).await? > 0);
    Ok(())
}

/// So with all of it in one jump: expiry comes between payments as it would have come.
#[tokio::test]
async fn the_clock_jumps_by_months() -> Result<()> {
    let (_db, client) = world("months", 120).await?;
    tick_at(&client, "2025-05-20 12:30+00", 50).await?;
    sound(&client).await?;
    let caught_up = ledger(&client, Available::LateIsLess).await?;
    ensure!(caught_up == undisturbed(120, Available::LateIsLess).await?);
    Ok(())
}

/// An hour back, or years: nothing is paid twice, and later ticks go on.
#[tokio::test]
async fn the_clock_goes_back() -> Result<()> {
    let (_db, client) = world("back", 120).await?;
    tick_days(&client, "2025-01-06", "2025-02-18", 1, 1000).await?;
    for time in [
        "2025-02-18 11:30+00",
        "2025-02-17 00:00+09",
        "2025-02-16 23:59:59+09",
        "2025-02-15 00:00+09",
        "2025-01-06 12:00+00",
        "2015-03-01 12:00+00",
    ] {
        let before = ledger(&client, Available::Compared).await?;
        tick_at(&client, time, 1000).await?;
        ensure!(
            ledger(&client, Available::Compared).await? == before,
            "{time}"
        );
        sound(&client).await?;
    }
    // and on, expiry of each day included
    tick_days(&client, "2025-02-19", "2025-05-20", 1, 1000).await?;
    sound(&client).await?;
    ensure!(
        ledger(&client, Available::Compared).await?
            == undisturbed(120, Available::Compared).await?
    );
    Ok(())
}

/// A clock that was years ahead keeps a program's days from nobody: expiry goes on.
#[tokio::test]
async fn the_clock_was_ahead() -> Result<()> {
    let (_db, client) = world("ahead", 10).await?;
    tick_at(&client, "2031-07-01 00:00+09", 1000).await?;
    sound(&client).await?;
    tick_at(&client, START, 1000).await?;
    tick_at(&client, "2025-01-07 12:00+09", 1000).await?;
    let days = texts(
        &client,
        "select period::text from loyalty.run where job = 'expire' and period < '2025-01-10' order by 1",
    )
    .await?;
    ensure!(
        days.contains(&"2025-01-05".to_owned()) && days.contains(&"2025-01-07".to_owned()),
        "{days:?}"
    );
    ensure!(number(&client, "select count(*) from loyalty.due_run").await? == 0);
    Ok(())
}

/// Each local day once, at its first instant, through changes of daylight saving: also where
/// midnight does not exist or comes twice.
#[tokio::test]
async fn daylight_saving() -> Result<()> {
    for (zone, from) in [
        ("Europe/Paris", "2025-03-29"),
        ("Europe/Paris", "2025-10-25"),
        ("America/New_York", "2025-11-01"),
        // 00:00 is 01:00
        ("America/Sao_Paulo", "2018-11-03"),
        // 24:00 is 23:00
        ("America/Sao_Paulo", "2018-02-16"),
        // 01:00 is 00:00
        ("America/Havana", "2025-11-01"),
        // no 30 December
        ("Pacific/Apia", "2011-12-28"),
    ] {
        let db = TestDb::create("saving").await?;
        let client = db.connect().await?;
        let begin = format!("timezone('{zone}', '{from}'::timestamp)");
        let first = texts(&client, &format!("select ({begin})::text")).await?;
        set_clock(&client, &first[0]).await?;
        client
            .batch_execute(&format!(
                "select loyalty.create_program('p', 'p', time_zone => '{zone}')"
            ))
            .await?;
        let times = texts(
            &client,
            &format!(
                "select ({begin} + n * interval '30 minutes')::text from generate_series(0, 192) n"
            ),
        )
        .await?;
        for time in &times {
            tick_at(&client, time, 1000).await?;
        }
        let wrong = texts(
            &client,
            &format!(
                "select (r.period, timezone('{zone}', r.started_at))::text from loyalty.run r
                  where timezone('{zone}', r.started_at)::date <> r.period
                     or r.started_at > loyalty.midnight(r.period, '{zone}')"
            ),
        )
        .await?;
        ensure!(wrong.is_empty(), "{zone} {from}: {wrong:?}");
        let days = "select count(*) from loyalty.run where outcome = 'done'";
        let lived = format!(
            "select count(distinct timezone('{zone}', {begin} + n * interval '30 minutes')::date)
               from generate_series(0, 192) n"
        );
        ensure!(
            number(&client, days).await? == number(&client, &lived).await?,
            "{zone} {from}"
        );
    }
    Ok(())
}
