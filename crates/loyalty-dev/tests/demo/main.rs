//! The demo of `./dev up`, four years by the test clock, compared to the point with a
//! calculation of its own (C2 to C7, C18).

mod model;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use chrono::NaiveDate;
use loyalty_dev::demo;
use loyalty_testkit::TestDb;
use loyalty_tests::assert_sound;
use model::{Notice, Run, Story, day};
use tokio_postgres::Client;

/// Where the relay of the story leaves off: what is queued from then on is left to a real one.
const LEFT_TO_THE_RELAY: &str = "2028-07-18";

#[tokio::test]
async fn demo_gives_what_is_calculated_apart_from_it() -> Result<()> {
    let db = TestDb::create("demo").await?;
    play(&db).await?;
    compare(&db.connect().await?).await?;
    // it is told once
    play(&db).await?;
    compare(&db.connect().await?).await
}

/// Its session ended three times in the middle, it goes on to the same end.
#[tokio::test]
async fn demo_goes_on_after_an_interruption() -> Result<()> {
    let db = TestDb::create("demo_interrupted").await?;
    let client = db.connect().await?;
    for reached in ["2024-06-17", "2026-03-20", "2028-05-01"] {
        let mut psql = demo::start(db.program("psql").stderr(Stdio::null()))?;
        let is_interrupted = interrupt(&client, reached).await;
        let status = psql.wait()?;
        is_interrupted?;
        if status.success() {
            bail!("the story was over before {reached} was interrupted");
        }
    }
    play(&db).await?;
    compare(&client).await
}

/// Ends the session that plays the demo once it has come to a day.
async fn interrupt(client: &Client, reached: &str) -> Result<()> {
    let day: NaiveDate = reached.parse()?;
    loop {
        let row = client
            .query_one(
                "select to_regclass('public.demo_story') is not null,
                        (select array_agg(a.pid) from pg_stat_activity a
                          where a.datname = current_database() and a.application_name = 'psql')",
                &[],
            )
            .await?;
        let sessions: Option<Vec<i32>> = row.get(1);
        if row.get(0) {
            let row = client
                .query_one("select played_through from public.demo_story", &[])
                .await
                .context("the story was told before it was interrupted")?;
            if row.get::<_, NaiveDate>(0) >= day
                && let Some(session) = sessions.and_then(|sessions| sessions.first().copied())
            {
                client
                    .execute("select pg_terminate_backend($1, 60000)", &[&session])
                    .await?;
                return Ok(());
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn play(db: &TestDb) -> Result<()> {
    let mut psql: Command = db.program("psql");
    tokio::task::spawn_blocking(move || demo::play(&mut psql)).await?
}

/// The ledger, the runs and the outbox against the calculation.
async fn compare(client: &Client) -> Result<()> {
    let story = Story::calculate();
    client
        .batch_execute(
            "set timezone = 'Asia/Tokyo'; set loyalty.clock = '2028-07-31 23:59:59 Asia/Tokyo'",
        )
        .await?;
    totals(client, &story).await?;
    statements(client, &story).await?;
    lots(client, &story).await?;
    runs(client, &story).await?;
    notices(client, &story).await?;
    guide(&story);
    assert_sound(client).await?;
    client.batch_execute("reset loyalty.clock").await?;
    Ok(())
}

async fn lines(client: &Client, sql: &str) -> Result<Vec<String>> {
    let rows = client.query(sql, &[]).await.context(sql.to_owned())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Points and entries of each month, by what they were for; and what is left.
async fn totals(client: &Client, story: &Story) -> Result<()> {
    let mut expected: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for entry in story.members.iter().flat_map(|member| &member.entries) {
        let what = match entry.kind {
            "grant" => entry.reason,
            kind => kind,
        };
        let key = format!("{} {what}", entry.day.format("%Y-%m"));
        let total = expected.entry(key).or_default();
        total.0 += 1;
        total.1 += entry.points;
    }
    let expected: Vec<String> = expected
        .iter()
        .map(|(key, (entries, points))| format!("{key}: {entries} entries, {points} coins"))
        .collect();
    let found = lines(
        client,
        "select format('%s: %s entries, %s coins', t.key, count(*), sum(t.points)) as line
           from (select to_char(j.occurred_at, 'YYYY-MM ')
                        || case when j.kind = 'grant' then e.reason else j.kind::text end as key,
                        j.points
                   from loyalty.journal j
                   join loyalty.program p on p.program_id = j.program_id and p.code = 'coin'
                   join loyalty.entry e
                     on (e.account_id << 24 | e.entry) = j.operation_id and e.account_id = j.account_id
                  where j.side = 'member') t
          group by t.key
          order by t.key collate \"C\"",
    )
    .await?;
    assert_eq!(found, expected, "C2 to C7: totals of a month");

    let left: i64 = story.members.iter().map(model::Member::balance).sum();
    let row = client
        .query_one(
            "select count(*), sum(b.balance)::bigint, sum(b.available)::bigint
               from loyalty.account a
              cross join lateral loyalty.balance(a.account_id) b
              where a.program_id = loyalty.program_id('coin')",
            &[],
        )
        .await?;
    let found: (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(found, (1000, left, left));
    Ok(())
}

/// Every entry of every member.
async fn statements(client: &Client, story: &Story) -> Result<()> {
    let expected: Vec<String> = story
        .members
        .iter()
        .flat_map(|member| {
            member.entries.iter().map(|entry| {
                format!(
                    "{} {} {} {} '{}' {}",
                    member.no(),
                    entry.day,
                    entry.kind,
                    entry.points,
                    entry.reason,
                    entry
                        .expires_on
                        .map_or(String::new(), |day| day.to_string()),
                )
            })
        })
        .collect();
    let found = lines(
        client,
        "select format('%s %s %s %s ''%s'' %s', a.member_no, s.day, s.kind, s.points, s.reason, s.expires_on)
           from loyalty.account a
          cross join lateral loyalty.statement(a.account_id) s
          where a.program_id = loyalty.program_id('coin')
          order by a.member_no, s.entry",
    )
    .await?;
    same(&found, &expected, "statements")
}

/// C6: what each member holds, and through which day.
async fn lots(client: &Client, story: &Story) -> Result<()> {
    let expected: Vec<String> = story
        .members
        .iter()
        .flat_map(|member| {
            let held = member.lots.iter().filter(|(_, lot)| lot.remaining > 0);
            held.map(|(expires_on, lot)| {
                format!(
                    "{} {expires_on} {} of {}",
                    member.no(),
                    lot.remaining,
                    lot.granted
                )
            })
        })
        .collect();
    let found = lines(
        client,
        "select format('%s %s %s of %s', a.member_no, l.expires_on, l.remaining, l.granted)
           from loyalty.account a
          cross join lateral loyalty.lots(a.account_id) l
          where a.program_id = loyalty.program_id('coin') and l.remaining > 0
          order by a.member_no, l.expires_on",
    )
    .await?;
    same(&found, &expected, "C6: lots")
}

/// Each (job, period) once, with what it did.
async fn runs(client: &Client, story: &Story) -> Result<()> {
    let expected: Vec<String> = story
        .runs
        .iter()
        .map(|(job, period, effective, paid, lots, points, queued): &Run| {
            format!("{job} {period} {effective} done: {paid} paid, {lots} lots, {points} points, {queued} queued")
        })
        .collect();
    let found = lines(
        client,
        "select format('%s %s %s %s: %s paid, %s lots, %s points, %s queued%s', r.job, r.period, r.effective_on,
                       r.outcome, r.paid, r.lots, r.points, r.queued,
                       nullif(' ' || r.failed || ' failed', ' 0 failed') || r.error)
           from loyalty.run r
          where r.program_id = loyalty.program_id('coin')
          order by r.job collate \"C\", r.period",
    )
    .await?;
    same(&found, &expected, "runs")
}

/// C18: each mail once, and only the last of them still to be sent.
async fn notices(client: &Client, story: &Story) -> Result<()> {
    let expected: Vec<String> = story
        .notices
        .iter()
        .map(
            |(member_no, kind, day, points, expires_on, part): &Notice| {
                format!(
                    "{member_no} {kind} {day} {points} {} {} {}",
                    expires_on.map_or(String::new(), |day| day.to_string()),
                    part.map_or(String::new(), |part| part.to_string()),
                    if *day < LEFT_TO_THE_RELAY.parse().expect("a day") {
                        "sent"
                    } else {
                        "waiting"
                    },
                )
            },
        )
        .collect();
    let found = lines(
        client,
        "select format('%s %s %s %s %s %s %s', a.member_no, n.kind, n.queued_at::date, n.points, n.expires_on,
                       n.expiring_points,
                       loyalty.notice_state(n.attempts, n.leased_at, n.sent_at, n.gave_up_at))
           from loyalty.notice n
           join loyalty.account a on a.account_id = n.account_id
          where n.program_id = loyalty.program_id('coin')
          order by a.member_no collate \"C\", n.kind, n.queued_at::date, n.points",
    )
    .await?;
    same(&found, &expected, "C18: notices")
}

fn same(found: &[String], expected: &[String], what: &str) -> Result<()> {
    for (index, expected) in expected.iter().enumerate() {
        let found = found.get(index).map_or("nothing", String::as_str);
        if found != expected {
            bail!("{what}, line {}: {found}; expected: {expected}", index + 1);
        }
    }
    if found.len() > expected.len() {
        bail!("{what}: {} is too much", found[expected.len()]);
    }
    Ok(())
}

/// The guide's examples are part of the story.
fn guide(story: &Story) {
    let member = |n: i32| {
        let found = story.members.iter().find(|member| member.n == n);
        found.expect("a member of the story")
    };
    let granted = |n: i32, reason: &str| -> Vec<(NaiveDate, i64, Option<NaiveDate>)> {
        let entries = member(n).entries.iter();
        entries
            .filter(|entry| entry.reason == reason)
            .map(|entry| (entry.day, entry.points, entry.expires_on))
            .collect()
    };
    // C2, C6
    assert_eq!(member(401).first_service, day(2024, 6, 20));
    assert_eq!(
        granted(401, "Anniversary")[0],
        (day(2025, 6, 16), 2_000, Some(day(2028, 6, 30)))
    );
    // C3
    assert_eq!(
        granted(400, "Anniversary")
            .iter()
            .map(|grant| grant.0)
            .collect::<Vec<_>>(),
        [
            day(2025, 5, 15),
            day(2026, 5, 15),
            day(2027, 5, 17),
            day(2028, 5, 15)
        ]
    );
    // C4: eight years
    let eighth = story
        .members
        .iter()
        .find(|member| member.first_service <= day(2016, 6, 1) && member.n > 180);
    let eighth = eighth.expect("a member of eight years").n;
    assert_eq!(
        granted(eighth, "Years with us"),
        [(day(2024, 5, 29), 4_000, Some(day(2027, 5, 31)))]
    );
    // C5, C7: 5,000 before April 2027, 6,000 since
    let referrals: Vec<(NaiveDate, i64)> = story
        .members
        .iter()
        .flat_map(|member| &member.entries)
        .filter(|entry| entry.reason == "Referral")
        .map(|entry| (entry.day, entry.points))
        .collect();
    assert!(referrals.iter().any(|(_, points)| *points == 5_000));
    assert!(referrals.contains(&(day(2027, 4, 15), 6_000)));
}
