//! A program with members, for runs and notices: time goes by the test clock, from one thing
//! that is due to the next.

use anyhow::{Result, bail};
use tokio_postgres::Client;

use super::driver::Ids;
use super::load::{self, value};
use super::progress::Progress;
use super::scratch::Scratch;

pub const PROGRAM: &str = "coin";
pub const RULE_JOB: &str = "rule:monthly";
pub const NOTICE_JOB: &str = "notice:balance";

/// Opens accounts with a member record each, and a rule that pays all of them every month.
pub async fn load(client: &Client, members: i64) -> Result<Ids> {
    let ids = load::program(client, PROGRAM, members).await?;
    let progress = Progress::phase("writing members", 0)?;
    client
        .execute(
            "insert into loyalty.member\n\
             (account_id, program_id, name, kana, birth_date, email, phone, facts, updated_at)\n\
             select a.account_id, a.program_id, 'Member ' || a.member_no, 'メンバー',\n\
             date '1950-01-01' + (a.account_id % 20000)::integer,\n\
             'member-' || a.account_id || '@example.com',\n\
             '+8190' || lpad((a.account_id % 100000000)::text, 8, '0'),\n\
             jsonb_build_object('first_service_on', date '2015-01-01' + (a.account_id % 3650)::integer),\n\
             a.opened_at\n\
             from loyalty.account a\n\
             join loyalty.program p on p.program_id = a.program_id\n\
             where p.code = $1",
            &[&PROGRAM],
        )
        .await?;
    client
        .execute(
            "select loyalty.create_rule($1, 'monthly', 'anniversary', $2::text::jsonb, 'For another month')",
            &[
                &PROGRAM,
                &r#"{"fact": "first_service_on", "every_months": 1, "points": 2000, "day_of_month": 15}"#,
            ],
        )
        .await?;
    progress.end();
    Ok(ids)
}

/// From now on the program sends balance mails.
pub async fn send_balances(client: &Client) -> Result<()> {
    let both = "select loyalty.set_notice_sender($1, email => 'Sample Club <points@example.com>'),
                       loyalty.set_notice($1, 'balance', is_enabled => true)";
    client.execute(both, &[&PROGRAM]).await?;
    Ok(())
}

/// Goes to where the next period of a job is due, and does everything else that is. The
/// session's next tick has that period to do and nothing more, which is returned.
pub async fn come_due(client: &Client, job: &str) -> Result<String> {
    let row = client
        .query_one(
            "select s.next_period::text, (s.due_at + interval '1 minute')::text\n\
             from loyalty.schedule s\n\
             join loyalty.program p on p.program_id = s.program_id\n\
             where p.code = $1 and s.job = $2",
            &[&PROGRAM, &job],
        )
        .await?;
    let (period, clock): (String, String) = (row.get(0), row.get(1));
    set_clock(client, &clock).await?;
    client
        .execute(
            "select loyalty.pause_schedule($1, s.job)\n\
             from loyalty.schedule s\n\
             join loyalty.program p on p.program_id = s.program_id\n\
             where p.code = $1 and s.job <> 'expire'",
            &[&PROGRAM],
        )
        .await?;
    client.batch_execute("call loyalty.tick()").await?;
    client
        .execute("select loyalty.resume_schedule($1, $2)", &[&PROGRAM, &job])
        .await?;
    let due = client
        .query("select job, period::text from loyalty.due_run", &[])
        .await?;
    let due: Vec<(String, String)> = due.iter().map(|row| (row.get(0), row.get(1))).collect();
    if due != [(job.to_owned(), period.clone())] {
        bail!("due is {due:?}, not just {job} of {period}");
    }
    Ok(period)
}

pub async fn set_clock(client: &Client, clock: &str) -> Result<()> {
    client
        .execute("select set_config('loyalty.clock', $1, false)", &[&clock])
        .await?;
    Ok(())
}

/// A session of its own for a tick, at the same time as another.
pub async fn session_like(scratch: &Scratch, database: &str, other: &Client) -> Result<Client> {
    let clock: String = value(other, "select current_setting('loyalty.clock')", &[]).await?;
    let session = scratch.cluster.connect(database).await?;
    set_clock(&session, &clock).await?;
    Ok(session)
}
