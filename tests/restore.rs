//! Law 12: a dump restored into a fresh cluster is the same ledger and gives the same
//! answers; and the extension comes, goes and comes again without a trace.

use anyhow::{Context as _, Result, ensure};
use loyalty_dev::os::run;
use loyalty_dev::testkit::{FreshCluster, TestDb, TestServer};
use loyalty_tests::{PG_CRON, RICH_LEDGER, points_cluster, sqlstate};
use std::path::PathBuf;
use std::process::Command;
use tokio_postgres::Client;

/// Questions whose answers must be the same in the copy, at any time.
const QUESTIONS: &[&str] = &[
    "select p::text from loyalty.program p order by program_id",
    "select c::text from loyalty.lot_class c order by program_id, lot_class",
    "select c::text from loyalty.calendar c order by 1",
    "select c::text from loyalty.calendar_day c order by 1",
    "select r::text from loyalty.run r order by run_id",
    "select s::text from loyalty.schedule s order by program_id, job",
    "select r::text from loyalty.rule r order by program_id, code, version",
    "select e::text from loyalty.event e order by event_id",
    "select (a.account_id, r.code, x.*)::text from loyalty.account a join (select distinct program_id, code from loyalty.rule) r using (program_id), loyalty.explain_rule(a.account_id, r.code) x where a.member_no in ('buyer', 'friend') order by 1",
    "select f::text from loyalty.run_failure f order by 1",
    "select d::text from loyalty.due_run d order by 1",
    // due_at and the like are of the machine's clock: the same only where they were restored
    "select n::text from loyalty.notice n where occasion ~ '^A-[1-4]$' order by notice_id",
    "select (to_jsonb(n) - 'due_at' - 'send_by')::text from loyalty.notice n order by notice_id",
    "select loyalty.notice_context(n)::text from loyalty.notice n order by notice_id",
    "select s::text from loyalty.notice_setting s order by program_id, kind",
    "select f::text from loyalty.notice_sender f order by program_id",
    "select r::text from loyalty.notice_preference r order by account_id, kind",
    "select t::text from loyalty.notice_template t order by program_id, kind, language",
    "select (n.kind, n.period, n.due_at)::text from (select k.kind, o.* from loyalty.program p, (values ('balance'), ('expiry')) k (kind), loyalty.next_notice(p.program_id, k.kind, loyalty.now()) o) n order by 1",
    "select (b.channel, b.waiting, b.given_up)::text from loyalty.notice_backlog() b",
    "select a::text from loyalty.account a order by account_id",
    "select m::text from loyalty.member m order by account_id",
    "select h::text from loyalty.service_hours h order by program_id",
    "select e::text from loyalty.entry e order by account_id, entry",
    "select w::text from loyalty.wallet w order by account_id",
    "select (a.account_id, b.*)::text from loyalty.account a, loyalty.balance(a.account_id) b order by 1",
    "select (a.account_id, b.*)::text from loyalty.account a, loyalty.balance(a.account_id, date '2025-03-15') b order by 1",
    "select (a.account_id, b.*)::text from loyalty.account a, loyalty.balance(a.account_id, date '2027-01-01') b order by 1",
    "select (a.account_id, l.*)::text from loyalty.account a, loyalty.lots(a.account_id) with ordinality l order by a.account_id, l.ordinality",
    "select s::text from loyalty.account a, loyalty.statement(a.account_id, '2025-01-11') s order by s.operation_id",
    "select j::text from loyalty.journal j order by operation_id, side",
    "select s::text from loyalty.account a, loyalty.explain_spend(a.account_id, 30) s where a.member_no in ('spender', 'many 20') order by a.account_id, step",
    "select loyalty.next_business_day('2025-08-13', 'office')::text",
    "select loyalty.today(code)::text from loyalty.program order by program_id",
    "select v::text from loyalty.verify() v",
];

/// The times at which they are asked: a zone's midnight, the end of lots, of holds.
const TIMES: &[&str] = &[
    "2025-07-10 10:00+09",
    "2025-08-31 14:59:59+00",
    "2025-08-31 15:00:00+00",
    "2026-09-01 00:00+09",
];

async fn answers(client: &Client) -> Result<String> {
    let mut answers = String::new();
    for time in TIMES {
        client
            .batch_execute(&format!("set loyalty.clock = '{time}'"))
            .await?;
        for question in QUESTIONS {
            answers += &format!("-- {time}: {question}\n");
            for row in client.query(*question, &[]).await.context(*question)? {
                answers += &format!("{}\n", row.get::<_, &str>(0));
            }
        }
    }
    ensure!(
        !answers.contains("loyalty.verify() v\n("),
        "verify() finds something: {answers}"
    );
    Ok(answers)
}

/// What happens next, in the words of the receipts: stored ones, new ones, refusals.
async fn go_on(client: &Client) -> Result<String> {
    client
        .batch_execute("set loyalty.clock = '2025-07-11 10:00+09'")
        .await?;
    let account = |member_no: &str| {
        format!(
            "(select account_id from loyalty.account a join loyalty.program p using (program_id)
                   where p.code = 'coin' and member_no = '{member_no}')"
        )
    };
    let (spender, holder, sender, receiver) = (
        account("spender"),
        account("holder"),
        account("sender"),
        account("receiver"),
    );
    let hold = format!(
        "(select operation_id from loyalty.statement({holder}) where idempotency_key = 'h1')"
    );
    let mut told = String::new();
    for call in [
        // idempotency keys are known, their receipts stored (law 6)
        format!(
            "loyalty.grant({spender}, 100, 'first', expires_on => '2025-03-31', idempotency_key => 'g1')"
        ),
        format!("loyalty.spend_fifo({spender}, 210, 'three lots', 's1')"),
        format!("loyalty.spend_fifo({spender}, 211, 'three lots', 's1')"),
        format!("loyalty.transfer({sender}, {receiver}, 150, 'present', 't1')"),
        format!("loyalty.hold({holder}, 25, '300 days', 'open', 'h1')"),
        // new ones get the next numbers
        format!("loyalty.spend_fifo({spender}, 33, idempotency_key => 'next')"),
        format!("loyalty.grant({spender}, 44, funding => 'shop')"),
        format!("loyalty.grant({spender}, 44, funding => 'somebody new')"),
        format!("loyalty.transfer({receiver}, {sender}, 5)"),
        // holds are open (law 8)
        format!("loyalty.capture({holder}, {hold}, 20)"),
        format!("loyalty.capture({holder}, {hold}, 1)"),
        format!("loyalty.spend_fifo({}, 1)", account("closed")),
        format!("loyalty.spend_fifo({}, 1)", account("suspended")),
        format!("loyalty.resume_account({})", account("suspended")),
        // sequences go on
        "loyalty.open_account('coin', 'somebody new')".to_owned(),
        "loyalty.open_account('coin', 'spender')".to_owned(),
        "loyalty.create_program('next', 'Next club')".to_owned(),
        "(select row(e.*) from loyalty.expire('coin') e)".to_owned(),
        // events are known by their reference, new ones get the next number
        "(select row(e.*) from loyalty.record_event('coin', 'purchase', 'buyer', amount => 999.99, reference => 'o1') e)".to_owned(),
        "(select row(e.*) from loyalty.record_event('coin', 'purchase', 'buyer', amount => 1, reference => 'o1') e)".to_owned(),
        "(select row(e.*) from loyalty.record_event('coin', 'purchase', 'friend', amount => 500) e)".to_owned(),
        "loyalty.cancel_event((select event_id from loyalty.event where reference = 'o1'))".to_owned(),
        "loyalty.end_rule('coin', 'rate', '2025-07-31')".to_owned(),
        // what was told already is not told again; what was not, gets the next number
        "loyalty.announce_order((select account_id from loyalty.member where email = 'late@example.com'), 'A-1', 'Night', 1, 40)".to_owned(),
        "loyalty.announce_order((select account_id from loyalty.member where email = 'late@example.com'), 'A-9', 'Night', 1, 40)".to_owned(),
        "(select max(notice_id) from loyalty.notice)".to_owned(),
        "(select q from loyalty.queue_balance_notices(loyalty.program_id('mile'), loyalty.today('mile'), 0, 10) q)".to_owned(),
        "(select row(t.subject, t.text_body) from loyalty.preview_template('mile', 'balance', 'en') t)".to_owned(),
    ] {
        let answer = client
            .query_one(&format!("select ({call})::text"), &[])
            .await;
        told += &match answer {
            Ok(row) => format!("{call}: {}\n", row.get::<_, Option<&str>>(0).unwrap_or("")),
            Err(_) => format!("{call}: {}\n", sqlstate(&answer)),
        };
    }
    client.batch_execute("call loyalty.tick()").await?;
    let wrong = client
        .query("select v::text from loyalty.verify() v", &[])
        .await?;
    ensure!(wrong.is_empty(), "verify() after {told}: {wrong:?}");
    for state in ["LY003", "LY004", "LY006"] {
        ensure!(told.contains(state), "no {state} in {told}");
    }
    Ok(told)
}

async fn rich() -> Result<TestDb> {
    let db = TestDb::create("restore").await?;
    let client = db.connect().await?;
    client.batch_execute(RICH_LEDGER).await?;
    client.batch_execute("call loyalty.tick(3)").await?;
    Ok(db)
}

fn file(name: &str) -> Result<PathBuf> {
    let dir = TestServer::get()?.dir.join("dumps");
    std::fs::create_dir_all(&dir)?;
    Ok(dir.join(format!("{name}-{}", std::process::id())))
}

/// Removes what it names when dropped.
struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0).or_else(|_| std::fs::remove_dir_all(&self.0));
    }
}

fn dump(mut pg_dump: Command, name: &str, arguments: &[&str]) -> Result<Gone> {
    let file = Gone(file(name)?);
    run(pg_dump.args(arguments).arg("-f").arg(&file.0))?;
    Ok(file)
}

fn psql(mut psql: Command, file: &Gone) -> Result<String> {
    run(psql
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
        .arg(&file.0))
}

/// Law 12, in each form that pg_dump has.
#[tokio::test]
async fn a_restored_dump_is_the_same_ledger() -> Result<()> {
    let db = rich().await?;
    let before = answers(&db.connect().await?).await?;
    let fresh = FreshCluster::start("restore", "")?;
    let main = fresh.connect("postgres").await?;
    let roles = "select count(*) from pg_roles where rolname like 'loyalty\\_%'";
    ensure!(main.query_one(roles, &[]).await?.get::<_, i64>(0) == 0);
    for name in ["plain", "custom", "directory", "pair"] {
        main.batch_execute(&format!("create database {name} template template0"))
            .await?;
    }

    let plain = dump(db.program("pg_dump"), "plain", &[])?;
    psql(fresh.program("psql", "plain"), &plain)?;
    ensure!(
        main.query_one(roles, &[]).await?.get::<_, i64>(0) == 8,
        "the roles come with the extension"
    );

    let custom = dump(db.program("pg_dump"), "custom", &["-Fc"])?;
    run(fresh
        .program("pg_restore", "custom")
        .args(["--exit-on-error", "-d", "custom"])
        .arg(&custom.0))?;

    let directory = dump(db.program("pg_dump"), "directory", &["-Fd", "-j", "2"])?;
    // pg_dump tells pg_restore no order among an extension's tables: their data takes one job
    for section in [
        ["--section=pre-data", "--jobs=4"],
        ["--section=data", "--jobs=1"],
        ["--section=post-data", "--jobs=4"],
    ] {
        run(fresh
            .program("pg_restore", "directory")
            .args(["--exit-on-error", "-d", "directory"])
            .args(section)
            .arg(&directory.0))?;
    }

    let schema = dump(db.program("pg_dump"), "schema", &["--schema-only"])?;
    let data = dump(db.program("pg_dump"), "data", &["--data-only"])?;
    psql(fresh.program("psql", "pair"), &schema)?;
    psql(fresh.program("psql", "pair"), &data)?;

    let source = db.connect().await?;
    let expected = go_on(&source).await?;
    let after = answers(&source).await?;
    for name in ["plain", "custom", "directory", "pair"] {
        let copy = fresh.connect(name).await?;
        similar(&before, &answers(&copy).await?).context(name)?;
        similar(&expected, &go_on(&copy).await?).context(name)?;
        similar(&after, &answers(&copy).await?).context(name)?;
        // the guard is up again: COPY was for the empty ledger
        for forged in [
            "copy loyalty.entry from '/dev/null'",
            "delete from loyalty.entry",
        ] {
            let state = sqlstate(&copy.batch_execute(forged).await);
            ensure!(state == "LY005", "{name}: {forged}: {state}");
        }
    }
    Ok(())
}

/// Equal line by line; else the first that is not.
fn similar(expected: &str, found: &str) -> Result<()> {
    for (expected, found) in expected.lines().zip(found.lines()) {
        ensure!(expected == found, "expected: {expected}\nfound: {found}");
    }
    ensure!(expected.lines().count() == found.lines().count());
    Ok(())
}

/// A dump of a database with pg_cron's job in it; restored with pg_cron and without.
#[tokio::test]
async fn a_dump_with_schedules() -> Result<()> {
    let source = points_cluster("cron_source", PG_CRON).await?;
    let client = source.connect("points").await?;
    client
        .batch_execute("create extension pg_cron; create extension pg_loyalty")
        .await?;
    client.batch_execute(RICH_LEDGER).await?;
    client
        .batch_execute("select loyalty.install_schedules('0 0 1 1 *')")
        .await?;
    let before = answers(&client).await?;
    let dumped = dump(source.program("pg_dump", "points"), "cron", &[])?;

    // with pg_cron the job is there again
    let with = points_cluster("cron_with", PG_CRON).await?;
    psql(with.program("psql", "points"), &dumped)?;
    let copy = with.connect("points").await?;
    similar(&before, &answers(&copy).await?)?;
    let jobs: i64 = copy
        .query_one(
            "select count(*) from cron.job where command = 'call loyalty.tick()'",
            &[],
        )
        .await?
        .get(0);
    ensure!(jobs == 1);

    // without it psql complains of pg_cron, and of nothing else
    let without = points_cluster("cron_without", "").await?;
    let output = without
        .program("psql", "points")
        .args(["-X", "-q", "-f"])
        .arg(&dumped.0)
        .output()?;
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    for line in complaints.lines().filter(|line| line.contains("ERROR")) {
        ensure!(line.contains("cron"), "{line}");
    }
    ensure!(
        complaints.contains("pg_cron"),
        "no word of pg_cron: {complaints}"
    );
    let copy = without.connect("points").await?;
    similar(&before, &answers(&copy).await?)?;
    go_on(&copy).await?;
    Ok(())
}

/// A small ledger of its own, from nothing: what a session does after CREATE EXTENSION.
async fn start_over(client: &Client) -> Result<()> {
    for call in [
        "select loyalty.create_program('p', 'P')",
        "select loyalty.open_account('p', 'a'), loyalty.open_account('p', 'b')",
        "select loyalty.grant(1, 100, idempotency_key => 'k')",
        "select loyalty.grant(1, 100, funding => 'shop', expiry => 'after 3 months of inactivity')",
        "select loyalty.spend_fifo(1, 10)",
        "select loyalty.transfer(1, 2, 20)",
        "select loyalty.capture(1, (loyalty.hold(1, 5)).operation_id)",
        "select * from loyalty.grant_many('[{\"account_id\": 1, \"points\": 1}, {\"account_id\": 2, \"points\": 1}]')",
        "select loyalty.refund(1, (loyalty.spend_fifo(1, 2)).operation_id)",
        "select * from loyalty.expire('p')",
        "select * from loyalty.statement(1)",
        "select loyalty.next_business_15th('2025-06-01')",
        "call loyalty.tick()",
    ] {
        client.batch_execute(call).await.context(call)?;
    }
    let row = client
        .query_one(
            "select b.balance, (select count(*) from loyalty.verify()), loyalty.next_business_day('2025-01-01')::text
               from loyalty.balance(1) b",
            &[],
        )
        .await?;
    ensure!((row.get::<_, i64>(0), row.get::<_, i64>(1)) == (166, 0));
    ensure!(row.get::<_, &str>(2) == "2025-01-02");
    Ok(())
}

/// DROP EXTENSION and CREATE EXTENSION again, also under sessions that were there before.
#[tokio::test]
async fn dropped_and_created_again() -> Result<()> {
    let db = TestDb::create("dropped").await?;
    let (client, old) = (db.connect().await?, db.connect().await?);
    start_over(&client).await?;
    old.batch_execute("select loyalty.spend_fifo(1, 1), loyalty.refund(1, (loyalty.spend_fifo(1, 1)).operation_id)")
        .await?;
    for _ in 0..2 {
        client
            .batch_execute("drop extension pg_loyalty; create extension pg_loyalty")
            .await?;
        start_over(&client)
            .await
            .context("the session that dropped it")?;
        client
            .batch_execute("drop extension pg_loyalty; create extension pg_loyalty")
            .await?;
        start_over(&old)
            .await
            .context("a session that was there before")?;
    }
    // nothing stays behind but the roles, which are the cluster's
    client.batch_execute("drop extension pg_loyalty").await?;
    let left: i64 = client
        .query_one(
            "select count(*) from pg_namespace where nspname like 'loyalty%'",
            &[],
        )
        .await?
        .get(0);
    ensure!(left == 0);
    Ok(())
}

/// Two databases of one cluster, created at the same time, in which the roles may be already.
#[tokio::test]
async fn two_databases_of_a_cluster() -> Result<()> {
    let fresh = FreshCluster::start("two", "")?;
    let main = fresh.connect("postgres").await?;
    // one of the roles is there, with a login that a DBA gave it
    for sql in [
        "create role loyalty_member login",
        "create database one",
        "create database two",
    ] {
        main.batch_execute(sql).await?;
    }
    let (one, two) = (fresh.connect("one").await?, fresh.connect("two").await?);
    let create = "create extension pg_loyalty";
    let (first, second) = tokio::join!(one.batch_execute(create), two.batch_execute(create));
    first?;
    second?;
    start_over(&one).await?;
    start_over(&two).await?;
    let logins = main
        .query(
            "select rolname::text from pg_roles where rolname like 'loyalty\\_%' and rolcanlogin",
            &[],
        )
        .await?;
    let logins: Vec<&str> = logins.iter().map(|row| row.get(0)).collect();
    ensure!(logins == ["loyalty_member"], "{logins:?}");
    Ok(())
}

/// Without pg_cron everything works but the installing of schedules, which says so.
#[tokio::test]
async fn without_pg_cron() -> Result<()> {
    let db = TestDb::create_empty("no_cron").await?;
    let client = db.connect().await?;
    client.batch_execute("create extension pg_loyalty").await?;
    start_over(&client).await?;
    let refused = client
        .query("select loyalty.install_schedules()", &[])
        .await;
    ensure!(sqlstate(&refused) == "22023", "{}", sqlstate(&refused));
    let hint = refused
        .err()
        .and_then(|error| Some(error.as_db_error()?.hint()?.to_owned()))
        .unwrap_or_default();
    ensure!(hint.contains("shared_preload_libraries"), "hint: {hint}");
    // a schema that only looks like pg_cron's is not called
    client
        .batch_execute(
            "create schema cron;
             create function cron.schedule(text, text, text) returns bigint
                 language sql return 1",
        )
        .await?;
    let refused = client
        .query("select loyalty.install_schedules()", &[])
        .await;
    ensure!(sqlstate(&refused) == "22023");
    let removed: bool = client
        .query_one("select loyalty.uninstall_schedules()", &[])
        .await?
        .get(0);
    ensure!(!removed);
    Ok(())
}
