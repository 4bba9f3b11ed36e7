//! A dump of everything, and what it makes of an empty database.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use tokio_postgres::Client;

use super::disk;
use super::figures::Figures;
use super::jobs::VACUUM;
use crate::bench::load::{settle, value};
use crate::bench::progress::Progress;
use crate::bench::report::grouped;
use crate::bench::scratch::Scratch;
use loyalty_testkit::client_program;

/// What must come back as it was.
const TABLES: [&str; 4] = ["account", "entry", "wallet", "member"];

/// Rows of a table, and a number that stands for all of them, in any order.
type Digest = (i64, String);

/// Dumps with two processes and compresses lightly; `client`'s database is then dropped, so that
/// the disk need not hold it twice, and restored into `copy`.
pub async fn dump_and_restore(
    scratch: &Scratch,
    database: &str,
    client: Client,
    copy: &str,
    figures: &mut Figures,
) -> Result<()> {
    let members = figures.members as f64;
    let before = digests(&client).await?;
    settle(&client, VACUUM).await?;
    let dir = scratch.dir.join("dump");
    let progress = Progress::phase("pg_dump", 0)?;
    let start = Instant::now();
    program(scratch, "pg_dump", database, |command| {
        command
            .args(["--format=directory", "--jobs=2", "--compress=1", "--file"])
            .arg(&dir);
    })
    .await?;
    figures.bulk("dump: a member", members, start.elapsed());
    progress.end();
    figures.disk("dump, compressed", disk::bytes(&dir)? as f64);

    drop(client);
    scratch.drop_database(database).await?;
    let server = scratch.cluster.connect("postgres").await?;
    // Each by itself: together they would be a transaction.
    server
        .batch_execute(&format!("create database {copy} template template0"))
        .await?;
    server.batch_execute("checkpoint").await?;
    drop(server);
    let progress = Progress::phase("pg_restore", 0)?;
    let start = Instant::now();
    program(scratch, "pg_restore", copy, |command| {
        // In parallel an extension's tables come in any order, which its triggers refuse.
        command
            .env("PGOPTIONS", "-c session_replication_role=replica")
            .args(["--exit-on-error", "--jobs=2", "--dbname", copy])
            .arg(&dir);
    })
    .await?;
    figures.bulk("restore: a member", members, start.elapsed());
    progress.end();
    std::fs::remove_dir_all(&dir).context("the dump cannot be removed")?;

    let client = scratch.cluster.connect(copy).await?;
    let after = digests(&client).await?;
    ensure!(
        before == after,
        "what was restored is not what was dumped: {before:?}, {after:?}"
    );
    let rows: i64 = after.iter().map(|digest| digest.0).sum();
    figures.notes.push(format!(
        "{} members: all {} rows of accounts, journal, wallets and members came back as they were.",
        grouped(members),
        grouped(rows as f64),
    ));
    drop(client);
    scratch.drop_database(copy).await
}

async fn digests(client: &Client) -> Result<Vec<Digest>> {
    let progress = Progress::phase("comparing rows", TABLES.len() as u64)?;
    let mut digests = Vec::new();
    for table in TABLES {
        // A label of an enum has another number in each database.
        let columns = "select string_agg(format('t.%I', a.attname)
                              || case y.typtype when 'e' then '::text' else '' end, ', ' order by a.attnum)
                         from pg_attribute a join pg_type y on y.oid = a.atttypid
                        where a.attrelid = to_regclass('loyalty.' || $1) and a.attnum > 0
                              and not a.attisdropped";
        let columns: String = value(client, columns, &[&table]).await?;
        let row = client
            .query_one(
                &format!(
                    "select count(*), coalesce(sum(hash_record_extended(row({columns}), 0)::numeric), 0)::text\n\
                     from loyalty.{table} t"
                ),
                &[],
            )
            .await?;
        digests.push((row.get(0), row.get(1)));
        progress.advance(1);
    }
    progress.end();
    Ok(digests)
}

async fn program(
    scratch: &Scratch,
    name: &str,
    database: &str,
    arguments: impl FnOnce(&mut std::process::Command),
) -> Result<()> {
    let cluster = &scratch.cluster;
    let mut command = client_program(
        &cluster.bin,
        name,
        &cluster.socket_dir,
        cluster.port,
        database,
    );
    arguments(&mut command);
    let output = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("{name} cannot be started"))?;
    ensure!(
        output.status.success(),
        "{name} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
