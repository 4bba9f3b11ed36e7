//! A member whom a run cannot pay, and a machine that cannot go on: who is listed, who is
//! paid, and how it is made good.

use super::world::{
    Available, Ledger, ledger, number, program, refused, set_clock, sound, texts, tick_at,
};
use anyhow::{Result, ensure};
use loyalty_testkit::TestDb;
use loyalty_tests::sqlstate;
use tokio_postgres::Client;

const PAY_DAY: &str = "2025-01-15 09:00+09";
const NEXT_PAY_DAY: &str = "2025-02-17 09:00+09";

async fn world(label: &str) -> Result<(TestDb, Client)> {
    let db = TestDb::create(label).await?;
    let client = db.connect().await?;
    program(&client, "p", "Asia/Tokyo", 90).await?;
    Ok((db, client))
}

async fn undisturbed() -> Result<Ledger> {
    let (_db, client) = world("undisturbed").await?;
    for day in [PAY_DAY, NEXT_PAY_DAY] {
        tick_at(&client, day, 1000).await?;
    }
    sound(&client).await?;
    ledger(&client, Available::Compared).await
}

/// Of the run of a rule in January.
async fn january(client: &Client, columns: &str, rule: &str) -> Result<String> {
    let found = texts(
        client,
        &format!("select ({columns})::text from loyalty.run where job = 'rule:{rule}' and period = '2025-01-15'"),
    )
    .await?;
    ensure!(found.len() == 1, "{found:?}");
    Ok(found[0].clone())
}

/// Member 2 began on the 31st of a January (C2), and has no room for another lot.
#[tokio::test]
async fn a_full_wallet_is_listed_and_stops_nobody() -> Result<()> {
    let (_db, client) = world("full").await?;
    let full = number(
        &client,
        "select account_id from loyalty.account where member_no = 'M-2'",
    )
    .await?;
    client
        .batch_execute(&format!(
            "select * from loyalty.grant_many((select jsonb_agg(jsonb_build_object(
                 'account_id', {full}, 'points', 1, 'expires_on', '2025-01-16'::date + n % 64,
                 'funding', 'shop ' || n / 64))
               from generate_series(0, 4095) n))"
        ))
        .await?;
    tick_at(&client, PAY_DAY, 20).await?;
    for rule in ["anniversary", "bonus"] {
        ensure!(
            january(&client, "outcome, failed, error", rule).await? == "(done,1,)",
            "{rule}"
        );
    }
    let paid = "select sum(paid)::bigint from loyalty.run where effective_on = '2025-01-15'";
    let keys = "select count(*) from loyalty.entry where idempotency_key like 'rule/%'";
    ensure!(number(&client, paid).await? == number(&client, keys).await?);
    ensure!(number(&client, keys).await? > 10);
    let listed = texts(
        &client,
        "select (f.account_id, f.idempotency_key, f.points, f.code, f.message <> '', f.failed_at = loyalty.now())::text
           from loyalty.run_failure f order by f.idempotency_key",
    )
    .await?;
    ensure!(
        listed
            == [
                format!("({full},rule/anniversary/24,2000,54000,t,t)"),
                format!("({full},rule/bonus/24,300,54000,t,t)")
            ],
        "{listed:?}"
    );

    // still full; then there is room
    let retry = "select (f.*)::text from loyalty.run r cross join lateral loyalty.retry_failures(r.run_id) f
                  where r.job like 'rule:%' order by r.job";
    ensure!(texts(&client, retry).await? == ["(1,0,1)", "(1,0,1)"]);
    tick_at(&client, "2025-01-20 09:00+09", 20).await?;
    let retried = texts(&client, retry).await?;
    ensure!(
        retried == ["(1,1,0)", "(1,1,0)"],
        "{retried:?} {:?}",
        texts(&client, "select f::text from loyalty.run_failure f").await?
    );
    ensure!(texts(&client, retry).await? == ["(0,0,0)", "(0,0,0)"]);
    ensure!(january(&client, "failed, points = paid * 2000", "anniversary").await? == "(0,t)");
    // on the terms of the day they were due
    let terms = texts(
        &client,
        &format!(
            "select (granted_on, expires_on, points)::text from loyalty.entry
              where account_id = {full} and idempotency_key like 'rule/%' order by entry"
        ),
    )
    .await?;
    ensure!(
        terms
            == [
                "(2025-01-15,2025-02-28,2000)",
                "(2025-01-15,2025-02-28,300)"
            ],
        "{terms:?}"
    );
    // a run of another kind has none
    let expiry = "select distinct (f.*)::text from loyalty.run r cross join lateral loyalty.retry_failures(r.run_id) f
                   where r.job = 'expire'";
    ensure!(texts(&client, expiry).await? == ["(0,0,0)"]);
    sound(&client).await?;
    refused(&client, "retry_failures(999)", "LY002").await
}

/// Ledger jobs of a program go one at a time: what is tried again is one of them.
#[tokio::test]
async fn a_retry_waits_for_the_tick() -> Result<()> {
    let (db, client) = world("turn").await?;
    tick_at(&client, PAY_DAY, 20).await?;
    let ticking = db.connect().await?;
    set_clock(&ticking, "2025-01-16 09:00+09").await?;
    ticking.batch_execute("begin").await?;
    let step = "select s.outcome from loyalty.tick_step(20, null) s";
    ensure!(texts(&ticking, step).await? == ["more"]);
    let retry = "set lock_timeout = '100ms';
                 select loyalty.retry_failures(r.run_id) from loyalty.run r where r.job = 'rule:anniversary'";
    let state = sqlstate(&client.batch_execute(retry).await);
    ensure!(state == "55P03", "{state}");
    ticking.batch_execute("commit").await?;
    client.batch_execute(retry).await?;
    tick_at(&client, "2025-01-16 09:00+09", 1000).await?;
    sound(&client).await
}

/// What was canceled after its payment had failed is not paid by trying again (C5).
#[tokio::test]
async fn a_retry_pays_no_canceled_event() -> Result<()> {
    let db = TestDb::create("canceled").await?;
    let client = db.connect().await?;
    set_clock(&client, "2026-06-10 12:00+09").await?;
    client
        .batch_execute(
            r#"select loyalty.create_program('c', 'C');
               select loyalty.set_member('c', 'M'), loyalty.set_member('c', 'F');
               select loyalty.create_rule('c', 'ref', 'event',
                   '{"event": "referral", "points": 5000, "months_after": 1, "day_of_month": 15}');
               select loyalty.record_event('c', 'referral', 'M', 'F');
               select count(*) from loyalty.grant_many((
                   select jsonb_agg(jsonb_build_object('account_id', a.account_id, 'points', 1,
                              'expires_on', case n when 0 then '2026-07-16' else date '2040-06-10' + n end))
                     from loyalty.account a, generate_series(0, 4095) n
                    where a.member_no = 'M'))"#,
        )
        .await?;
    tick_at(&client, "2026-07-15 12:00+09", 1000).await?;
    let failed = "select (f.points, f.code)::text from loyalty.run_failure f";
    ensure!(texts(&client, failed).await? == ["(5000,54000)"]);
    client
        .batch_execute("select loyalty.cancel_event(1, 'recorded by mistake')")
        .await?;
    // a lot lapses: there is room
    tick_at(&client, "2026-07-22 12:00+09", 1000).await?;
    let retry = "select (f.*)::text from loyalty.run r cross join lateral loyalty.retry_failures(r.run_id) f
                  where r.failed > 0";
    ensure!(texts(&client, retry).await? == ["(1,0,0)"]);
    ensure!(texts(&client, failed).await?.is_empty());
    let granted = "select count(*) from loyalty.entry e join loyalty.account a using (account_id)
                    where a.member_no = 'M' and e.points = 5000";
    ensure!(number(&client, granted).await? == 0);
    sound(&client).await
}

/// Some would be paid on other terms than the rest, or the run would never end.
#[tokio::test]
async fn a_rule_is_not_changed_in_the_middle_of_its_run() -> Result<()> {
    let (_db, client) = world("halfway").await?;
    set_clock(&client, PAY_DAY).await?;
    let half_done = "select count(*) from loyalty.run r
                      where r.job = 'rule:anniversary' and r.chunks > 0 and r.finished_at is null";
    for _ in 0..1000 {
        if number(&client, half_done).await? > 0 {
            break;
        }
        client
            .batch_execute("select loyalty.tick_step(3, null)")
            .await?;
    }
    ensure!(number(&client, half_done).await? == 1);
    let terms =
        r#"'{"fact": "first_service_on", "every_years": 1, "points": 1, "day_of_month": 15}'"#;
    for call in [
        format!("change_rule('p', 'anniversary', terms => {terms}, from_day => '2025-01-15')"),
        "end_rule('p', 'anniversary', last_day => '2025-01-14')".to_owned(),
    ] {
        refused(&client, &call, "22023").await?;
    }
    // for later days it may
    client
        .batch_execute(&format!(
            "begin;
             select loyalty.change_rule('p', 'anniversary', terms => {terms}, from_day => '2025-03-01');
             rollback"
        ))
        .await?;
    tick_at(&client, PAY_DAY, 1000).await?;
    tick_at(&client, NEXT_PAY_DAY, 1000).await?;
    sound(&client).await?;
    ledger(&client, Available::Compared)
        .await?
        .same_as(&undisturbed().await?)
}

/// An error that nobody thought of, at one member: found in the chunk, listed, passed over.
#[tokio::test]
async fn an_error_at_one_member_is_found() -> Result<()> {
    let (_db, client) = world("poison").await?;
    let poisoned = number(
        &client,
        "select account_id from loyalty.account where member_no = 'M-2'",
    )
    .await?;
    client
        .batch_execute(&format!(
            "create function poison() returns trigger language plpgsql as
             $$ begin
                 if new.account_id = {poisoned} then raise exception 'no good'; end if;
                 return new;
             end $$;
             create trigger poison before update on loyalty.wallet for each row execute function poison()"
        ))
        .await?;
    tick_at(&client, PAY_DAY, 1000).await?;
    for rule in ["anniversary", "bonus"] {
        ensure!(
            january(&client, "outcome, members, failed, error", rule).await? == "(done,90,1,)",
            "{rule}: {}",
            january(&client, "outcome, members, failed, error", rule).await?
        );
    }
    let listed = texts(
        &client,
        "select (account_id, code, message)::text from loyalty.run_failure",
    )
    .await?;
    let expected = format!("({poisoned},P0001,\"no good\")");
    ensure!(listed == [expected.clone(), expected], "{listed:?}");

    // the cause is gone: a re-run pays the one, and nobody twice
    client
        .batch_execute("drop trigger poison on loyalty.wallet")
        .await?;
    for rule in ["anniversary", "bonus"] {
        client
            .batch_execute(&format!(
                "select loyalty.rerun('p', 'rule:{rule}', '2025-01-15')"
            ))
            .await?;
    }
    ensure!(number(&client, "select count(*) from loyalty.due_run").await? == 2);
    tick_at(&client, "2025-01-15 09:01+09", 1000).await?;
    tick_at(&client, NEXT_PAY_DAY, 1000).await?;
    sound(&client).await?;
    ledger(&client, Available::Compared)
        .await?
        .same_as(&undisturbed().await?)
}

/// A machine in trouble is no member's fault: the run says so, waits, and is not skipped.
#[tokio::test]
async fn trouble_stops_a_run_until_it_is_over() -> Result<()> {
    let (_db, client) = world("trouble").await?;
    program(&client, "other", "Asia/Tokyo", 90).await?;
    client
        .batch_execute(
            "create function trouble() returns trigger language plpgsql as
             $$ begin
                 if new.program_id = loyalty.program_id('p') and new.account_id % 40 = 2 then
                     raise exception 'disk on fire' using errcode = '58030';
                 end if;
                 return new;
             end $$;
             create trigger trouble before update on loyalty.wallet for each row execute function trouble()",
        )
        .await?;
    for _ in 0..2 {
        tick_at(&client, PAY_DAY, 20).await?;
    }
    let told = texts(
        &client,
        "select (p.code, r.outcome, r.failed, left(r.error, 5))::text from loyalty.run r
           join loyalty.program p using (program_id) where r.job = 'rule:anniversary' order by 1",
    )
    .await?;
    ensure!(told == ["(other,done,0,)", "(p,,0,58030)"], "{told:?}");
    // the expiry run of the other day comes nevertheless
    tick_at(&client, "2025-01-16 09:00+09", 20).await?;
    let expired = "select count(*) from loyalty.run where job = 'expire' and period = '2025-01-16' and outcome = 'done'";
    ensure!(number(&client, expired).await? == 2);
    client
        .batch_execute("drop trigger trouble on loyalty.wallet")
        .await?;
    tick_at(&client, "2025-01-16 09:01+09", 20).await?;
    sound(&client).await?;
    let paid = "select count(distinct (r.paid, r.points)) from loyalty.run r where r.job = 'rule:anniversary'";
    ensure!(
        number(&client, paid).await? == 1,
        "both programs have the same members"
    );
    let days =
        "select count(*) from loyalty.entry where kind = 'grant' and granted_on <> '2025-01-15'";
    ensure!(number(&client, days).await? == 0);
    Ok(())
}

/// C2: who came later is paid by a re-run, on the terms of its day; also of a period before
/// the rule was written.
#[tokio::test]
async fn a_rerun_pays_who_came_later() -> Result<()> {
    let (_db, client) = world("rerun").await?;
    tick_at(&client, PAY_DAY, 1000).await?;
    let before = january(&client, "paid", "anniversary").await?;
    set_clock(&client, "2025-01-31 09:00+09").await?;
    let late = number(&client, "select loyalty.open_account('p', 'late')").await?;
    client
        .batch_execute(&format!(
            "insert into loyalty.member (account_id, program_id, facts, updated_at)
             values ({late}, loyalty.program_id('p'), '{{\"first_service_on\": \"2023-01-20\"}}', loyalty.now())"
        ))
        .await?;
    let rerun = "select loyalty.rerun('p', 'rule:anniversary', '2025-01-15')";
    for _ in 0..2 {
        client.batch_execute(rerun).await?;
        ensure!(
            january(&client, "outcome, paid", "anniversary").await? == format!("(,{before})")
                || number(
                    &client,
                    "select count(*) from loyalty.entry e join loyalty.account a using (account_id)
                                 where a.member_no = 'late'"
                )
                .await?
                    == 1
        );
        client.batch_execute("call loyalty.tick(30)").await?;
        let paid: i64 = january(&client, "paid", "anniversary").await?.parse()?;
        ensure!(paid == before.parse::<i64>()? + 1, "{paid} after {before}");
        ensure!(january(&client, "members, failed", "anniversary").await? == "(91,0)");
    }
    let terms = texts(
        &client,
        &format!("select (granted_on, expires_on, points, idempotency_key)::text from loyalty.entry where account_id = {late}"),
    )
    .await?;
    ensure!(
        terms == ["(2025-01-15,2025-02-28,2000,rule/anniversary/24)"],
        "{terms:?}"
    );
    // the schedule is where it was
    let next = "select next_period::text from loyalty.schedule where job = 'rule:anniversary'";
    ensure!(texts(&client, next).await? == ["2025-02-15"]);
    sound(&client).await?;

    let refusals = [
        ("rerun('nobody', 'expire', '2025-01-15')", "LY002"),
        ("rerun('p', 'rule:nothing', '2025-01-15')", "22023"),
        ("rerun('p', 'rule:anniversary', '2025-01-16')", "22023"),
        ("rerun('p', 'rule:anniversary', '2025-02-15')", "22023"),
        ("rerun('p', 'expire', '2025-02-01')", "22023"),
        ("rerun('p', 'rule:anniversary', null)", "22004"),
        ("rerun('p', null, '2025-01-15')", "22004"),
    ];
    for (call, expected) in refusals {
        refused(&client, call, expected).await?;
    }
    client
        .batch_execute("select loyalty.pause_schedule('p', 'rule:anniversary')")
        .await?;
    ensure!(sqlstate(&client.batch_execute(rerun).await) == "22023");
    Ok(())
}
