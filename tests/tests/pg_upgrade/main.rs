//! `pg_upgrade` of a cluster with a ledger in it to a newer major version of PostgreSQL, whose
//! programs LOYALTY_TEST_NEXT_BIN names: `./dev matrix` has two versions at hand.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use loyalty_testkit::cluster::Cluster;
use loyalty_testkit::keys;
use loyalty_testkit::os::{Owner, any_free_port, run};
use loyalty_testkit::{FAST_SETTINGS, TestServer};
use loyalty_tests::answer::{Stored, answers, fill, go_on, same_rows, similar, stored};
use loyalty_tests::catalog::{catalog, differences_but_wording};
use loyalty_tests::{assert_sound, points_cluster};
use tokio_postgres::Client;

/// A cluster of the newer version, removed with this value.
struct Next {
    cluster: Cluster,
    dir: PathBuf,
}

impl Next {
    fn init(label: &str) -> Result<Self> {
        let bin = std::env::var("LOYALTY_TEST_NEXT_BIN")
            .context("LOYALTY_TEST_NEXT_BIN is not set; these tests are run by: ./dev matrix")?;
        let server = TestServer::get()?;
        let dir = server.dir.join(format!("next_{label}"));
        let cluster = Cluster::at(Path::new(&bin), &dir, any_free_port()?, &Owner::current()?);
        cluster.init(&format!(
            "{FAST_SETTINGS}listen_addresses = ''\n{}",
            keys::setting(&server.secret_dir)
        ))?;
        let next = Self { cluster, dir };
        // some versions make them unless told, and the two clusters have to agree
        let control = run(&mut next.program("pg_controldata"))?;
        if !control.contains("checksum version:           0") {
            run(next.program("pg_checksums").arg("--disable"))?;
        }
        Ok(next)
    }

    fn program(&self, name: &str) -> Command {
        let mut command = self.cluster.owner.command(self.cluster.bin.join(name));
        command.env("PGDATA", &self.cluster.data);
        command
    }

    /// Whether it has what [`WITHOUT_COLUMN_NUMBERS`] takes away.
    async fn numbers_columns(&self) -> Result<bool> {
        self.cluster.start()?;
        let client = self.cluster.connect("postgres").await?;
        client.batch_execute("create table probe (n int)").await?;
        let numbered = "select attoptions is not null from pg_attribute
                         where attrelid = 'probe'::regclass and attname = 'n'";
        Ok(client.query_one(numbered, &[]).await?.get(0))
    }

    fn pg_upgrade(&self, old: &Cluster, arguments: &[&str]) -> Result<String> {
        self.cluster.owner.private_dir(&self.cluster.socket_dir)?;
        let output = self
            .program("pg_upgrade")
            .current_dir(&self.dir)
            .args(["--username", "postgres", "--no-sync"])
            .arg("--old-bindir")
            .arg(&old.bin)
            .arg("--old-datadir")
            .arg(&old.data)
            .arg("--new-bindir")
            .arg(&self.cluster.bin)
            .arg("--new-datadir")
            .arg(&self.cluster.data)
            .arg("--socketdir")
            .arg(&self.cluster.socket_dir)
            .args(arguments)
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{said}\n{}",
            logged_errors(&self.cluster.data.join("pg_upgrade_output.d"))
        );
        Ok(said)
    }
}

/// Minor releases of late 2026 number the versions of columns, among their options, which
/// earlier minor releases of any major version refuse. This leaves the columns as the earlier
/// releases made them.
const WITHOUT_COLUMN_NUMBERS: &str = "
    update pg_attribute
       set attoptions = (select array_agg(o) from unnest(attoptions) o where o not like 'pg\\_attver=%')
     where array_to_string(attoptions, ' ') like '%pg\\_attver=%'";

/// What the logs of a pg_upgrade that failed say of it.
fn logged_errors(dir: &Path) -> String {
    let mut found = String::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found += &logged_errors(&path);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            let lines: Vec<&str> = text.lines().collect();
            for (number, line) in lines.iter().enumerate() {
                if line.contains("error:") || line.contains("ERROR:") {
                    found += &lines[number..lines.len().min(number + 6)].join("\n");
                    found.push('\n');
                }
            }
        }
    }
    found
}

impl Drop for Next {
    fn drop(&mut self) {
        let ended = self.cluster.stop();
        let removed = std::fs::remove_dir_all(&self.dir);
        if ended.is_err() || removed.is_err() {
            eprintln!("cleaning up after a test: {ended:?}, {removed:?}");
        }
    }
}

/// What the ledger has and says, and what it goes on with.
struct Ledger {
    rows: Stored,
    before: String,
    next: String,
    after: String,
}

impl Ledger {
    async fn expect(&self, client: &Client) -> Result<()> {
        same_rows(&self.rows, &stored(client).await?)?;
        similar(&self.before, &answers(client).await?)?;
        similar(&self.next, &go_on(client).await?)?;
        similar(&self.after, &answers(client).await?)?;
        assert_sound(client).await?;
        Ok(())
    }
}

/// By copy and by link, each with `--check` before it.
#[tokio::test]
#[ignore = "run by ./dev matrix"]
async fn pg_upgrade_keeps_the_ledger() -> Result<()> {
    let old = points_cluster("pg_upgrade", "").await?;
    let main = old.connect("postgres").await?;
    let client = old.connect("points").await?;
    client.batch_execute("create extension pg_loyalty").await?;
    fill(&client).await?;
    let (rows_before, before) = (stored(&client).await?, answers(&client).await?);
    drop(client);
    // a twin says what comes next
    main.batch_execute("create database twin template points")
        .await?;
    let twin = old.connect("twin").await?;
    let ledger = Ledger {
        rows: rows_before,
        before,
        next: go_on(&twin).await?,
        after: answers(&twin).await?,
    };
    drop((main, twin));
    if !Next::init("probe")?.numbers_columns().await? {
        for database in ["postgres", "template1", "points", "twin"] {
            let client = old.connect(database).await?;
            client.batch_execute(WITHOUT_COLUMN_NUMBERS).await?;
        }
    }
    old.cluster().stop()?;

    for (label, mode) in [("copy", "--copy"), ("link", "--link")] {
        let next = Next::init(label)?;
        let said = next.pg_upgrade(old.cluster(), &["--check", mode])?;
        ensure!(said.contains("compatible"), "{said}");
        next.pg_upgrade(old.cluster(), &[mode])?;
        next.cluster.start()?;
        let client = next.cluster.connect("points").await?;
        let server: i32 = client
            .query_one(
                "select current_setting('server_version_num')::int / 10000",
                &[],
            )
            .await?
            .get(0);
        ensure!(server > i32::from(TestServer::get()?.pg_major), "{server}");
        ledger.expect(&client).await.context(label)?;

        // all the same as if it had been installed there
        client
            .batch_execute("create database fresh template template0")
            .await?;
        let fresh = next.cluster.connect("fresh").await?;
        fresh.batch_execute("create extension pg_loyalty").await?;
        let fresh = catalog(&fresh).await?;
        let found = differences_but_wording(&fresh, &catalog(&client).await?);
        ensure!(found.is_empty(), "{label}: {}", found.join("\n"));
    }
    Ok(())
}
