//! The ledger in a second cluster by logical replication, and the switch-over to it, by the very
//! commands of docs/operations.md.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use loyalty_testkit::os::{plain_command, run};
use loyalty_testkit::{FreshCluster, TestServer};
use loyalty_tests::answer::{fill, same_rows, stored};
use loyalty_tests::{assert_sound, points_cluster, sqlstate};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config};

/// The commands of the guide's section, in its order.
fn steps() -> Result<Vec<String>> {
    let guide = include_str!("../../../docs/operations.md");
    let (_, section) = guide
        .split_once("\n## Move to another cluster\n")
        .context("no such section")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sh no-run\n").skip(1);
    let steps: Option<Vec<String>> = blocks
        .map(|block| Some(block.split_once("\n```")?.0.to_owned()))
        .collect();
    steps.context("a block without an end")
}

/// What an operator has in the shell: where the clusters are, and psql.
struct Shell {
    old: String,
    new: String,
}

impl Shell {
    fn run(&self, script: &str) -> Result<String> {
        let bin = &TestServer::get()?.bin;
        let path = format!(
            "{}:{}",
            bin.display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let mut bash: Command = plain_command("bash");
        bash.args(["-e", "-o", "pipefail", "-c", script])
            .env("PATH", path)
            .env("OLD", &self.old)
            .env("NEW", &self.new)
            .stdin(Stdio::null());
        run(&mut bash).with_context(|| script.to_owned())
    }

    /// Runs it again and again until it answers so.
    async fn until(&self, script: &str, answer: &str) -> Result<()> {
        for _ in 0..2400 {
            if self.run(script)?.trim() == answer {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{script} does not answer {answer:?}")
    }
}

fn address(cluster: &FreshCluster) -> String {
    let cluster = cluster.cluster();
    let (dir, port) = (cluster.socket_dir.display(), cluster.port);
    format!("host={dir} port={port} user=postgres dbname=points")
}

/// What a writer was told: its key, and the operation that it made.
type Acknowledged = Vec<(String, i64)>;

/// An application that books, and does not give up: what fails it asks again under the same key,
/// wherever the ledger is by then.
async fn write_on(
    mut place: watch::Receiver<Option<Config>>,
    number: usize,
) -> Result<Acknowledged> {
    let mut acknowledged = Acknowledged::new();
    let mut session: Option<Client> = None;
    loop {
        let Some(config) = place.borrow_and_update().clone() else {
            return Ok(acknowledged);
        };
        if session.as_ref().is_none_or(Client::is_closed) {
            session = loyalty_testkit::cluster::connect(&config).await.ok();
        }
        let Some(client) = &session else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let key = format!("w{number} {}", acknowledged.len());
        let call = match acknowledged.len() % 4 {
            0 => "select (loyalty.grant(1, 30, idempotency_key => $1)).operation_id",
            1 => "select (loyalty.spend_fifo(2, 1, idempotency_key => $1)).operation_id",
            2 => "select (loyalty.transfer(1, 2, 20, idempotency_key => $1)).operation_id",
            _ => "select (loyalty.hold(2, 1, '1 second', idempotency_key => $1)).operation_id",
        };
        match client.query_one(call, &[&key]).await {
            Ok(row) => acknowledged.push((key, row.get(0))),
            Err(error) => {
                // the session was ended, the ledger is read-only: nothing else may go wrong
                let code = error.code().map_or("closed", |code| code.code());
                ensure!(["closed", "25006", "57P01"].contains(&code), "{error:?}");
                if code == "25006" {
                    session = None;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }
}

/// Passes on what a writer came to an end by.
async fn none_gave_up(writers: &mut [JoinHandle<Result<Acknowledged>>]) -> Result<()> {
    if let Some(writer) = writers.iter_mut().find(|writer| writer.is_finished()) {
        writer.await??;
        bail!("a writer went home");
    }
    Ok(())
}

/// Law 12 in motion: under load to another cluster, which goes on where the old one stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replication_carries_the_ledger_to_another_cluster() -> Result<()> {
    let old = points_cluster("old", "wal_level = logical\n").await?;
    let new = points_cluster("new", "").await?;
    let shell = Shell {
        old: address(&old),
        new: address(&new),
    };
    let client = old.connect("points").await?;
    client.batch_execute("create extension pg_loyalty").await?;
    fill(&client).await?;
    client
        .batch_execute(
            "reset loyalty.clock;
             select loyalty.grant(1, 100000), loyalty.grant(2, 100000);
             set loyalty.clock = '2025-07-10 10:00+09'",
        )
        .await?;

    let steps = steps()?;
    let [
        publish,
        subscribe,
        copied,
        stop,
        caught_up,
        sequences,
        finish,
    ] = steps.as_slice()
    else {
        bail!("the section has {} steps", steps.len());
    };
    let (place, _) = watch::channel(Some(old.cluster().config("points")));
    let mut writers: Vec<_> = (0..4)
        .map(|number| tokio::spawn(write_on(place.subscribe(), number)))
        .collect();
    shell.run(publish)?;
    shell.run(subscribe)?;
    shell.until(copied, "t").await?;

    // while it follows: nothing derived twice, nothing derived of it wrong, and nobody else writes
    let copy = new.connect("points").await?;
    assert_sound(&copy).await?;
    let forged = copy.batch_execute("delete from loyalty.entry").await;
    ensure!(sqlstate(&forged) == "LY005", "{}", sqlstate(&forged));
    // changes of every table's kind of key
    for change in [
        "select loyalty.set_template('mile', 'balance', 'en', 'Mine', 'You have {{ points | number }}!')",
        "select loyalty.delete_template('mile', 'balance', 'en')",
        "select loyalty.set_template('coin', 'balance', 'en', 'Mine', 'You have {{ points | number }}.')",
        "select loyalty.set_member('coin', 'friend', name => 'Friend')",
        "select loyalty.suspend_account(account_id) from loyalty.account where member_no = 'many 1'",
        "delete from loyalty.calendar_day",
    ] {
        client.batch_execute(change).await.context(change)?;
    }
    // a session beside the replication sees what that changes of a program it knows
    let known = async || -> Result<Option<i32>> {
        let asked = "select loyalty.claim_program_id()";
        Ok(copy.query_one(asked, &[]).await?.try_get(0)?)
    };
    // whose rights do not matter: a token for who is logged in
    copy.batch_execute(
        "select set_config('request.jwt.claims', c.claims, false),
                set_config('request.headers',
                    json_build_object('authorization', 'Bearer ' || loyalty_private.sign_token(c.claims))::text, false)
           from (select json_build_object('role', session_user, 'program', 'coin', 'exp', 4102444800)::text) as c (claims)",
    )
    .await?;
    let id = known().await?;
    ensure!(id.is_some(), "coin is not known");
    for (from, to, then) in [("coin", "gold", None), ("gold", "coin", id)] {
        let rename = format!("update loyalty.program set code = '{to}' where code = '{from}'");
        client.batch_execute(&rename).await?;
        let renamed = "select count(*) from loyalty.program where code = $1";
        while copy.query_one(renamed, &[&to]).await?.get::<_, i64>(0) == 0 {
            none_gave_up(&mut writers).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ensure!(known().await? == then, "renamed to {to}");
    }
    copy.batch_execute("reset request.jwt.claims; reset request.headers")
        .await?;
    let booked = "select count(*) from loyalty.entry where idempotency_key ~ '^w'";
    let so_far = client.query_one(booked, &[]).await?.get::<_, i64>(0);
    while client.query_one(booked, &[]).await?.get::<_, i64>(0) < so_far + 400 {
        none_gave_up(&mut writers).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_sound(&copy).await?;

    // the switch-over
    drop(client);
    shell.run(stop)?;
    shell.until(caught_up, "t").await?;
    shell.run(sequences)?;
    let stopped = old.connect("points").await?;
    let refused = stopped.batch_execute("select loyalty.grant(1, 1)").await;
    ensure!(sqlstate(&refused) == "25006", "{}", sqlstate(&refused));
    same_rows(&stored(&stopped).await?, &stored(&copy).await?)?;
    let last_account: i64 = copy
        .query_one("select max(account_id) from loyalty.account", &[])
        .await?
        .get(0);
    let said = shell.run(finish)?;
    ensure!(said.trim().is_empty(), "{said}");
    place.send_replace(Some(new.cluster().config("points")));

    let so_far = copy.query_one(booked, &[]).await?.get::<_, i64>(0);
    while copy.query_one(booked, &[]).await?.get::<_, i64>(0) < so_far + 400 {
        none_gave_up(&mut writers).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    place.send_replace(None);
    let mut acknowledged = Acknowledged::new();
    for writer in writers {
        acknowledged.extend(writer.await??);
    }
    ensure!(
        acknowledged.len() > 800,
        "{} operations",
        acknowledged.len()
    );
    // each is there, once, under the number that it was told with, and nothing else is
    let mut found: Vec<(String, i64)> = Vec::new();
    for row in copy
        .query(
            "select idempotency_key, account_id << 24 | entry from loyalty.entry
              where idempotency_key ~ '^w' and not (kind = 'transfer' and points > 0)",
            &[],
        )
        .await?
    {
        found.push((row.get(0), row.get(1)));
    }
    found.sort();
    acknowledged.sort();
    ensure!(
        found == acknowledged,
        "told {}, found {}",
        acknowledged.len(),
        found.len()
    );
    assert_sound(&copy).await?;
    // known keys are known there, and numbers go on
    let (key, operation_id) = acknowledged
        .iter()
        .find(|(key, _)| key == "w0 0")
        .context("no first operation")?;
    let again = "select (loyalty.grant(1, 30, idempotency_key => $1)).operation_id";
    ensure!(copy.query_one(again, &[key]).await?.get::<_, i64>(0) == *operation_id);
    let opened: i64 = copy
        .query_one("select loyalty.open_account('coin', 'after the move')", &[])
        .await?
        .get(0);
    ensure!(opened > last_account, "{opened}");
    Ok(())
}
