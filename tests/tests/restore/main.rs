//! Law 12: a dump restored into a fresh cluster is the same ledger and gives the same
//! answers; and the extension comes, goes and comes again without a trace.

use anyhow::{Context as _, Result, ensure};
use loyalty_testkit::os::run;
use loyalty_testkit::{FreshCluster, TestDb, TestServer};
use loyalty_tests::answer::{answers, as_in, fill, go_on, same_rows, similar, stored};
use loyalty_tests::older::{create_database, older, older_cluster};
use loyalty_tests::{PG_CRON, RICH_LEDGER, points_cluster, sqlstate};
use std::path::PathBuf;
use std::process::Command;
use tokio_postgres::Client;

async fn rich() -> Result<TestDb> {
    let db = TestDb::create("restore").await?;
    let client = db.connect().await?;
    fill(&client).await?;
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

/// Databases that a dump is restored into, each in a form of its own.
const FORMS: [&str; 7] = [
    "plain",
    "custom",
    "directory",
    "pair",
    "parallel",
    "data_only",
    "one_schema",
];

/// Law 12, in each form that pg_dump has.
#[tokio::test]
async fn a_restored_dump_is_the_same_ledger() -> Result<()> {
    let db = rich().await?;
    let before = answers(&db.connect().await?).await?;
    let fresh = FreshCluster::start("restore", "")?;
    let main = fresh.connect("postgres").await?;
    let roles = "select count(*) from pg_roles where rolname like 'loyalty\\_%'";
    let expected_roles: i64 = db.connect().await?.query_one(roles, &[]).await?.get(0);
    ensure!(expected_roles > 7 && main.query_one(roles, &[]).await?.get::<_, i64>(0) == 0);
    for name in FORMS {
        main.batch_execute(&format!("create database {name} template template0"))
            .await?;
    }

    let plain = dump(db.program("pg_dump"), "plain", &[])?;
    psql(fresh.program("psql", "plain"), &plain)?;
    ensure!(
        main.query_one(roles, &[]).await?.get::<_, i64>(0) == expected_roles,
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

    // superusers may load with triggers off, in any order: the dump is of one moment
    run(fresh
        .program("pg_restore", "parallel")
        .env("PGOPTIONS", "-c session_replication_role=replica")
        .args(["--exit-on-error", "-d", "parallel", "--jobs=4"])
        .arg(&directory.0))?;

    // into a database that has the extension already
    let data_only_copy = fresh.connect("data_only").await?;
    data_only_copy
        .batch_execute("create extension pg_loyalty")
        .await?;
    run(fresh
        .program("pg_restore", "data_only")
        .args(["--exit-on-error", "-d", "data_only", "--data-only"])
        .args(["--disable-triggers", "--jobs=4"])
        .arg(&directory.0))?;
    // of a database with more in it: the extension makes its schemas, so it is asked for, too
    let only = ["-Fc", "--schema=loyalty", "--extension=pg_loyalty"];
    let one_schema = dump(db.program("pg_dump"), "one", &only)?;
    run(fresh
        .program("pg_restore", "one_schema")
        .args(["--exit-on-error", "-d", "one_schema"])
        .arg(&one_schema.0))?;

    let source = db.connect().await?;
    let rows = stored(&source).await?;
    for (table, rows) in &rows {
        ensure!(!rows.is_empty(), "{table} is empty: nothing to restore");
    }
    let expected = go_on(&source).await?;
    let after = answers(&source).await?;
    for name in FORMS {
        let copy = fresh.connect(name).await?;
        same_rows(&rows, &stored(&copy).await?).context(name)?;
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

/// A whole cluster by `pg_dumpall`: roles with what was given to them, and tables of one's own
/// that refer to the ledger.
#[tokio::test]
async fn a_cluster_by_pg_dumpall() -> Result<()> {
    let source = points_cluster("all_source", "").await?;
    let client = source.connect("points").await?;
    client.batch_execute("create extension pg_loyalty").await?;
    fill(&client).await?;
    client
        .batch_execute(
            "create role clerk login noinherit in role loyalty_operator;
             alter role loyalty_authenticator login;
             create table public.card (
                 card_no text primary key,
                 account_id bigint not null references loyalty.account);
             insert into public.card select 'C-' || account_id, account_id from loyalty.account;
             create view public.card_balance with (security_invoker = true) as
                 select c.card_no, b.balance
                   from public.card c cross join lateral loyalty.balance(c.account_id) b;
             grant select on loyalty.program to public",
        )
        .await?;
    let (rows, before) = (stored(&client).await?, answers(&client).await?);
    let own = "select string_agg(b::text, ' ' order by b::text) from public.card_balance b";
    let cards: String = client.query_one(own, &[]).await?.get(0);
    let all = dump(source.program("pg_dumpall", "points"), "all", &[])?;

    let fresh = FreshCluster::start("all", "")?;
    let output = fresh
        .program("psql", "postgres")
        .args(["-X", "-q", "-v", "VERBOSITY=sqlstate", "-f"])
        .arg(&all.0)
        .output()?;
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    let errors: Vec<&str> = complaints
        .lines()
        .filter(|line| line.contains("ERROR"))
        .collect();
    // the superuser is there before
    ensure!(
        errors.len() == 1 && errors[0].contains("42710"),
        "{complaints}"
    );
    let copy = fresh.connect("points").await?;
    same_rows(&rows, &stored(&copy).await?)?;
    similar(&before, &answers(&copy).await?)?;
    ensure!(copy.query_one(own, &[]).await?.get::<_, String>(0) == cards);
    for granted in [
        "select pg_has_role('clerk', 'loyalty_operator', 'member')",
        "select rolcanlogin from pg_roles where rolname = 'loyalty_authenticator'",
        "select has_parameter_privilege('loyalty_operator', 'loyalty.clock', 'set')",
        "select exists (select from pg_class, aclexplode(relacl)
                         where oid = 'loyalty.program'::regclass and grantee = 0)",
    ] {
        ensure!(
            copy.query_one(granted, &[]).await?.get::<_, bool>(0),
            "{granted}"
        );
    }
    Ok(())
}

/// A dump of an older version on a server that has a later one only as its default: loaded by it
/// at once, or by the older one and then updated.
#[tokio::test]
async fn a_dump_of_an_older_version() -> Result<()> {
    for upgrade in &older()?.upgrades {
        let cluster = older_cluster("dump_older").await?;
        let client = cluster.connect("points").await?;
        client.batch_execute(&upgrade.install()).await?;
        fill(&client).await?;
        let (rows, before) = (stored(&client).await?, answers(&client).await?);
        let dumped = dump(cluster.program("pg_dump", "points"), "older", &[])?;
        create_database(&cluster, "at_once", "template0").await?;
        psql(cluster.program("psql", "at_once"), &dumped)?;
        create_database(&cluster, "updated", "template0").await?;
        let copy = cluster.connect("updated").await?;
        copy.batch_execute(&upgrade.install()).await?;
        // the dump's own `create extension if not exists` finds it there
        psql(cluster.program("psql", "updated"), &dumped)?;
        copy.batch_execute(&upgrade.update()).await?;
        let at_once = cluster.connect("at_once").await?;
        // a session of its own, as sequences are cached by the session
        let expected = go_on(&cluster.connect("points").await?).await?;
        for (name, copy) in [("at once", at_once), ("updated", copy)] {
            same_rows(&rows, &as_in(&rows, &stored(&copy).await?)).context(name)?;
            similar(&before, &answers(&copy).await?).context(name)?;
            similar(&expected, &go_on(&copy).await?).context(name)?;
        }
    }
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

/// A database in another encoding is told which one is needed, and has nothing of it.
#[tokio::test]
async fn a_database_that_is_not_in_utf_8() -> Result<()> {
    let fresh = FreshCluster::start("encoding", "")?;
    let main = fresh.connect("postgres").await?;
    for (name, encoding, code) in [
        ("western", "LATIN1", "0A000"),
        ("anything", "SQL_ASCII", "0A000"),
        // whose bytes the script is not
        ("japanese", "EUC_JP", "22021"),
    ] {
        main.batch_execute(&format!(
            "create database {name} encoding '{encoding}' locale 'C' template template0"
        ))
        .await?;
        let client = fresh.connect(name).await?;
        let refused = client.batch_execute("create extension pg_loyalty").await;
        ensure!(
            sqlstate(&refused) == code,
            "{encoding}: {}",
            sqlstate(&refused)
        );
        if code == "0A000" {
            let error = refused.err();
            let error = error.as_ref().and_then(|error| error.as_db_error());
            let hint = error.and_then(|error| error.hint()).unwrap_or_default();
            ensure!(hint.contains("UTF8"), "{encoding}: {hint}");
        }
        let left: i64 = client
            .query_one(
                "select (select count(*) from pg_extension where extname = 'pg_loyalty')
                      + (select count(*) from pg_namespace where nspname like 'loyalty%')
                      + (select count(*) from pg_roles where rolname like 'loyalty%')",
                &[],
            )
            .await?
            .get(0);
        ensure!(left == 0, "{encoding}: {left} left");
    }
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
