//! Exactly once: several sessions, clocks that jump (C2, C6; issue: "It must show").

use super::world::{
    Available, Ledger, START, ledger, number, program, set_clock, sound, texts, tick_at, tick_days,
};
use anyhow::{Context, Result, ensure};
use loyalty_testkit::TestDb;
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

/// Four sessions that tick at once, a day after the other.
async fn four_tick(db: &TestDb, client: &Client, from: &str, to: &str, chunk: i64) -> Result<()> {
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(db.connect().await?);
    }
    let days = client
        .query(
            "select day::date::text from generate_series($1::text::date, $2::text::date, '1 day') day",
            &[&from, &to],
        )
        .await?;
    for day in days {
        let noon = format!("{} 12:30+00", day.get::<_, &str>(0));
        for session in &sessions {
            set_clock(session, &noon).await?;
        }
        let tick = format!("call loyalty.tick({chunk})");
        let (a, b, c, d) = tokio::join!(
            sessions[0].batch_execute(&tick),
            sessions[1].batch_execute(&tick),
            sessions[2].batch_execute(&tick),
            sessions[3].batch_execute(&tick),
        );
        for outcome in [a, b, c, d] {
            outcome?;
        }
        // whoever found work in other hands left it to them, and they went on to the end
        set_clock(client, &noon).await?;
        ensure!(
            number(client, "select count(*) from loyalty.due_run").await? == 0,
            "{noon}"
        );
    }
    Ok(())
}

/// Two, four ticks at once never pay twice, share the programs, and leave nothing behind.
#[tokio::test]
async fn four_sessions_tick_at_once() -> Result<()> {
    let (db, client) = world("four", 150).await?;
    log_chunks(&client).await?;
    four_tick(&db, &client, "2025-01-06", "2025-05-20", 13).await?;
    sound(&client).await?;
    in_order(&client).await?;
    let one = undisturbed(150, Available::Compared).await?;
    ledger(&client, Available::Compared).await?.same_as(&one)
}

/// However many jobs of a program are due at once: none begins before those due before it are
/// done, whoever does them. Else entries of a member would come in any order.
#[tokio::test]
async fn four_sessions_keep_the_order_of_jobs() -> Result<()> {
    let db = TestDb::create("order").await?;
    let client = db.connect().await?;
    program(&client, "tokyo", "Asia/Tokyo", 12).await?;
    client
        .batch_execute(
            "select loyalty.create_rule('tokyo', 'month_' || n, 'anniversary',
                 '{\"fact\": \"first_service_on\", \"every_months\": 1, \"points\": 10, \"day_of_month\": 15}')
               from generate_series(10, 49) n",
        )
        .await?;
    tick_at(&client, "2025-01-14 12:00+09", 1000).await?;
    log_chunks(&client).await?;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let session = db.connect().await?;
        set_clock(&session, "2025-01-15 12:00+09").await?;
        sessions.push(session);
    }
    // a session that finds all in other hands comes again at once
    let until_done = async |session: &Client| -> Result<()> {
        let left = "select count(*) from loyalty.schedule where due_at <= loyalty.now()";
        while number(session, left).await? > 0 {
            session.batch_execute("call loyalty.tick(2)").await?;
        }
        Ok(())
    };
    let (a, b, c, d) = tokio::join!(
        until_done(&sessions[0]),
        until_done(&sessions[1]),
        until_done(&sessions[2]),
        until_done(&sessions[3]),
    );
    for outcome in [a, b, c, d] {
        outcome?;
    }
    set_clock(&client, "2025-01-15 12:00+09").await?;
    sound(&client).await?;
    let paid = "select count(*) from loyalty.entry where kind = 'grant' and reason like 'month_%'";
    ensure!(number(&client, paid).await? >= 40 * 10);
    ensure!(number(&client, "select count(*) from chunk").await? > 40 * 6);
    in_order(&client).await
}

/// Has the database note each chunk of a run in the order of their commits: ledger work of a
/// program goes under one lock.
async fn log_chunks(client: &Client) -> Result<()> {
    client
        .batch_execute(
            "create table chunk (n bigserial, program_id integer, job text, effective_on date);
             create function note_chunk() returns trigger language plpgsql as $$
             begin
                 insert into public.chunk (program_id, job, effective_on)
                 values (new.program_id, new.job, new.effective_on);
                 return null;
             end $$;
             create trigger note_chunk after update on loyalty.run
                 for each row when (new.chunks > old.chunks) execute function note_chunk()",
        )
        .await?;
    Ok(())
}

/// No job of a program was begun before another that was due earlier was done.
async fn in_order(client: &Client) -> Result<()> {
    let out_of_order = texts(
        client,
        "select c::text
           from (select n, program_id, effective_on, job,
                        lag((effective_on, job)) over (partition by program_id order by n) as behind
                   from chunk
                  where job not like 'notice:%') c
          where (effective_on, job) < behind
          order by n",
    )
    .await?;
    ensure!(out_of_order.is_empty(), "{out_of_order:#?}");
    Ok(())
}

/// A week of downtime changes nothing but the hour: every period with its own day.
#[tokio::test]
async fn the_clock_jumps_by_weeks() -> Result<()> {
    let (_db, client) = world("weeks", 120).await?;
    tick_days(&client, "2025-01-06", "2025-05-19", 7, 1000).await?;
    tick_at(&client, "2025-05-20 12:30+00", 1000).await?;
    sound(&client).await?;
    ledger(&client, Available::Compared)
        .await?
        .same_as(&undisturbed(120, Available::Compared).await?)?;
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
    ledger(&client, Available::LateIsLess)
        .await?
        .same_as(&undisturbed(120, Available::LateIsLess).await?)
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
        ledger(&client, Available::Compared)
            .await?
            .same_as(&before)
            .context(time)?;
        sound(&client).await?;
    }
    // and on, expiry of each day included
    tick_days(&client, "2025-02-19", "2025-05-20", 1, 1000).await?;
    sound(&client).await?;
    ledger(&client, Available::Compared)
        .await?
        .same_as(&undisturbed(120, Available::Compared).await?)?;
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
        ("Atlantic/Azores", "2025-10-25"),
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
                     or r.started_at > loyalty_private.midnight(r.period, '{zone}')"
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
