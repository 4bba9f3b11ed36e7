//! What is planned when: new rules, pauses, calendars and time zones that change.

use super::world::{number, program, refused, set_clock, sound, texts, tick_at};
use anyhow::{Result, ensure};
use loyalty_testkit::TestDb;
use tokio_postgres::Client;

async fn world(label: &str) -> Result<(TestDb, Client)> {
    let db = TestDb::create(label).await?;
    let client = db.connect().await?;
    program(&client, "p", "Asia/Tokyo", 60).await?;
    Ok((db, client))
}

async fn planned(client: &Client, job: &str) -> Result<String> {
    let rows = texts(
        client,
        &format!(
            "select (next_period, effective_on, timezone('Asia/Tokyo', due_at))::text from loyalty.schedule where job = '{job}'"
        ),
    )
    .await?;
    ensure!(rows.len() == 1, "{job}: {rows:?}");
    Ok(rows[0].clone())
}

async fn periods(client: &Client, job: &str) -> Result<Vec<String>> {
    texts(
        client,
        &format!("select (period, effective_on)::text from loyalty.run where job = '{job}' order by period"),
    )
    .await
}

/// A rule pays from its creation on, on that day too; what lies before is for a re-run.
#[tokio::test]
async fn a_new_rule_begins_today() -> Result<()> {
    let (_db, client) = world("new").await?;
    // 2025-06-15 is a Sunday (C2)
    for (time, code, expected) in [
        (
            "2025-06-16 10:00+09",
            "first",
            "(2025-06-15,2025-06-16,\"2025-06-16 00:00:00\")",
        ),
        (
            "2025-06-17 00:00+09",
            "second",
            "(2025-07-15,2025-07-15,\"2025-07-15 00:00:00\")",
        ),
    ] {
        set_clock(&client, time).await?;
        client
            .batch_execute(&format!(
                "select loyalty.create_rule('p', '{code}', 'anniversary',
                     '{{\"fact\": \"first_service_on\", \"every_years\": 1, \"points\": 1, \"day_of_month\": 15}}',
                     valid_from => '2020-01-01')"
            ))
            .await?;
        ensure!(
            planned(&client, &format!("rule:{code}")).await? == expected,
            "{code}"
        );
    }
    // and nothing of it is lost by planning again before the first tick
    set_clock(&client, "2025-09-01 10:00+09").await?;
    client
        .batch_execute("select loyalty_private.plan_schedule(1, 'rule:second')")
        .await?;
    tick_at(&client, "2025-09-01 10:00+09", 1000).await?;
    ensure!(
        periods(&client, "rule:second").await?
            == ["(2025-07-15,2025-07-15)", "(2025-08-15,2025-08-15)"]
    );
    sound(&client).await?;
    for (call, expected) in [
        ("loyalty_private.plan_schedule(999, 'expire')", "LY002"),
        ("loyalty_private.plan_schedule(1, 'sweep')", "22023"),
        ("loyalty_private.plan_schedule(1, 'rule:nothing')", "LY002"),
    ] {
        refused(&client, call, expected).await?;
    }
    Ok(())
}

/// While paused nothing is done; what was missed is caught up, each with its own day.
#[tokio::test]
async fn pause_and_resume() -> Result<()> {
    let (_db, client) = world("pause").await?;
    client
        .batch_execute("select loyalty.pause_schedule('p', 'rule:anniversary')")
        .await?;
    for day in [
        "2025-01-15 09:00+09",
        "2025-02-17 09:00+09",
        "2025-03-17 09:00+09",
    ] {
        tick_at(&client, day, 1000).await?;
    }
    ensure!(periods(&client, "rule:anniversary").await?.is_empty());
    ensure!(periods(&client, "rule:bonus").await?.len() == 3);
    ensure!(number(&client, "select count(*) from loyalty.due_run").await? == 0);
    client
        .batch_execute("select loyalty.resume_schedule('p', 'rule:anniversary')")
        .await?;
    let due = texts(
        &client,
        "select (job, period)::text from loyalty.due_run order by period",
    )
    .await?;
    ensure!(
        due == [
            "(rule:anniversary,2025-01-15)",
            "(rule:anniversary,2025-02-15)",
            "(rule:anniversary,2025-03-15)"
        ],
        "{due:?}"
    );
    // paused again in the middle of a run: it stays there
    client
        .batch_execute(
            "select loyalty_private.run_chunk(1, 'rule:anniversary', '2025-01-15', 20);
             select loyalty.pause_schedule('p')",
        )
        .await?;
    client.batch_execute("call loyalty.tick(20)").await?;
    let open = "select count(*) from loyalty.run where finished_at is null and chunks = 1 and members = 20";
    ensure!(number(&client, open).await? == 1);
    let resumed = texts(
        &client,
        "select s.job from loyalty.resume_schedule('p') s where not s.is_paused",
    )
    .await?;
    ensure!(
        resumed == ["expire", "rule:anniversary", "rule:bonus"],
        "{resumed:?}"
    );
    client.batch_execute("call loyalty.tick(20)").await?;
    ensure!(
        periods(&client, "rule:anniversary").await?
            == [
                "(2025-01-15,2025-01-15)",
                "(2025-02-15,2025-02-17)",
                "(2025-03-15,2025-03-17)"
            ]
    );
    let days = texts(
        &client,
        "select distinct granted_on::text from loyalty.entry where reason = 'Anniversary' order by 1",
    )
    .await?;
    ensure!(
        days == ["2025-01-15", "2025-02-17", "2025-03-17"],
        "{days:?}"
    );
    sound(&client).await?;
    for call in [
        "pause_schedule('p', 'sweep')",
        "resume_schedule('p', 'sweep')",
    ] {
        refused(&client, call, "22023").await?;
    }
    refused(&client, "pause_schedule('nobody')", "LY002").await
}

/// A day that the calendar closes after the plan was made moves the payment; so does a time zone.
#[tokio::test]
async fn calendars_and_time_zones_change() -> Result<()> {
    let (_db, client) = world("calendar").await?;
    tick_at(&client, "2025-01-15 09:00+09", 1000).await?;
    ensure!(
        planned(&client, "rule:bonus").await? == "(2025-02-15,2025-02-17,\"2025-02-17 00:00:00\")"
    );
    // closed an hour before it would have been paid
    tick_at(&client, "2025-02-16 23:00+09", 1000).await?;
    client
        .batch_execute("select loyalty.set_calendar_day('JP', '2025-02-17', false, 'Founding day')")
        .await?;
    tick_at(&client, "2025-02-17 09:00+09", 1000).await?;
    ensure!(periods(&client, "rule:bonus").await?.len() == 1);
    tick_at(&client, "2025-02-18 00:00+09", 1000).await?;
    ensure!(
        periods(&client, "rule:bonus").await?
            == ["(2025-01-15,2025-01-15)", "(2025-02-15,2025-02-18)"]
    );
    // opened: earlier than planned, once a midnight has come by
    client
        .batch_execute("select loyalty.set_calendar_day('JP', '2025-03-16', true)")
        .await?;
    tick_at(&client, "2025-03-01 00:00+09", 1000).await?;
    ensure!(
        planned(&client, "rule:bonus").await? == "(2025-03-15,2025-03-16,\"2025-03-16 00:00:00\")"
    );
    client
        .batch_execute("update loyalty.program set time_zone = 'UTC'")
        .await?;
    ensure!(
        planned(&client, "rule:bonus").await? == "(2025-03-15,2025-03-16,\"2025-03-16 09:00:00\")"
    );
    ensure!(planned(&client, "expire").await? == "(2025-03-02,2025-03-02,\"2025-03-02 09:00:00\")");
    client
        .batch_execute("update loyalty.program set calendar = 'none'")
        .await?;
    ensure!(
        planned(&client, "rule:bonus").await? == "(2025-03-15,2025-03-17,\"2025-03-17 09:00:00\")"
    );
    sound(&client).await
}

/// C7: a changed rule goes on where it stands, and pays nobody twice.
#[tokio::test]
async fn a_rule_changes_between_payments() -> Result<()> {
    let (_db, client) = world("change").await?;
    tick_at(&client, "2025-01-15 09:00+09", 1000).await?;
    // January's members would be paid on the 20th too, were it not for their keys
    client
        .batch_execute(
            "select loyalty.change_rule('p', 'bonus',
                 '{\"fact\": \"first_service_on\", \"every_months\": 6, \"points\": 500, \"day_of_month\": 20}')",
        )
        .await?;
    tick_at(&client, "2025-01-21 09:00+09", 1000).await?;
    tick_at(&client, "2025-02-21 09:00+09", 1000).await?;
    let told = texts(
        &client,
        "select (period, outcome, points / nullif(paid, 0))::text from loyalty.run where job = 'rule:bonus' order by period",
    )
    .await?;
    ensure!(
        told == [
            "(2025-01-15,done,300)",
            "(2025-01-20,done,)",
            "(2025-02-20,done,500)"
        ],
        "{told:?}"
    );
    client
        .batch_execute("select loyalty.end_rule('p', 'bonus', '2025-02-28')")
        .await?;
    ensure!(planned(&client, "rule:bonus").await? == "(,,)");
    tick_at(&client, "2025-04-21 09:00+09", 1000).await?;
    ensure!(periods(&client, "rule:bonus").await?.len() == 3);
    sound(&client).await
}

/// C18: a balance mail that downtime swallowed is sent late on its day, and skipped after it;
/// expiry notices go on with today's.
#[tokio::test]
async fn notices_missed() -> Result<()> {
    let (_db, client) = world("notice").await?;
    client
        .batch_execute(
            "select loyalty.set_notice_sender('p', email => 'Sample <points@example.com>');
             select loyalty.enable_notices('p');
             update loyalty.member set email = 'm' || account_id || '@example.com', language = 'en'",
        )
        .await?;
    tick_at(&client, "2025-01-15 12:59+09", 25).await?;
    ensure!(periods(&client, "notice:balance").await?.is_empty());
    tick_at(&client, "2025-01-15 18:00+09", 25).await?;
    tick_at(&client, "2025-02-02 08:44+09", 25).await?;
    tick_at(&client, "2025-02-15 13:00+09", 25).await?;
    let told = texts(
        &client,
        "select (period, outcome, members, queued > 0, note is null)::text from loyalty.run
          where job = 'notice:balance' order by period",
    )
    .await?;
    ensure!(
        told == [
            "(2025-01-15,done,60,t,t)",
            "(2025-02-01,skipped,0,f,f)",
            "(2025-02-15,done,60,t,t)"
        ],
        "{told:?}"
    );
    let told = texts(
        &client,
        "select (period, outcome)::text from loyalty.run where job = 'notice:expiry' order by period",
    )
    .await?;
    ensure!(
        told == ["(2025-01-15,done)", "(2025-02-15,done)"],
        "{told:?}"
    );
    // once: the same minute again, four at a time or not
    let before = number(&client, "select count(*) from loyalty.notice").await?;
    tick_at(&client, "2025-02-15 13:01+09", 25).await?;
    ensure!(number(&client, "select count(*) from loyalty.notice").await? == before && before > 0);
    sound(&client).await
}

/// C6, C18: a day that the time zone skips has no notices, and the tick goes on with the next.
#[tokio::test]
async fn notices_of_a_day_that_is_skipped() -> Result<()> {
    let (_db, client) = world("notice_skip").await?;
    client
        .batch_execute(
            // where it fails, it would go on for ever
            "set statement_timeout = '2 min';
             set loyalty.clock = '2011-12-29 12:00-10';
             select loyalty.create_program('apia', 'Apia', time_zone => 'Pacific/Apia');
             select loyalty.set_notice_sender('apia', email => 'apia@example.com');
             select loyalty.enable_notices('apia');
             select loyalty.set_notice('apia', 'expiry', at => '08:45');
             select loyalty.set_notice('apia', 'balance', days_of_month => '{30}')",
        )
        .await?;
    let planned = async || {
        texts(
            &client,
            "select format('%s %s %s', s.job, s.next_period, timezone('Pacific/Apia', s.due_at))
               from loyalty.schedule s
              where s.program_id = loyalty.program_id('apia') and s.job like 'notice:%' order by 1",
        )
        .await
    };
    // there is no 30th in that December
    ensure!(
        planned().await?
            == [
                "notice:balance 2012-01-30 2012-01-30 13:00:00",
                "notice:expiry 2011-12-31 2011-12-31 08:45:00"
            ],
        "{:?}",
        planned().await?
    );
    tick_at(&client, "2011-12-31 12:00+14", 25).await?;
    let done = texts(
        &client,
        "select format('%s %s %s', r.job, r.period, r.outcome) from loyalty.run r
          where r.program_id = loyalty.program_id('apia') and r.job like 'notice:%' order by 1",
    )
    .await?;
    ensure!(done == ["notice:expiry 2011-12-31 done"], "{done:?}");
    ensure!(
        planned().await?[1] == "notice:expiry 2012-01-01 2012-01-01 08:45:00",
        "{:?}",
        planned().await?
    );
    Ok(())
}
