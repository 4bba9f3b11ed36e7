//! A base backup and archived WAL, and recovery to the operation that was chosen.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio_postgres::Client;

use super::check::{Findings, read_journal};
use super::kill::{ACCOUNTS, CLERKS};
use super::load::{Clerk, Fate, Receipt, Shift, clerks, open_accounts};
use super::{DURABLE, Effort, Outcome, Tally, until};
use loyalty_testkit::FreshCluster;
use loyalty_testkit::cluster::Cluster;
use loyalty_testkit::os::{self, run};

const RESTORE_POINT: &str = "before the import";

/// What is recovered to, and what the journal has then.
struct Target {
    name: &'static str,
    setting: String,
    keys: HashSet<String>,
}

/// After recovery to an operation the journal has just what was committed up to it, byte by
/// byte as clients were told, and verify() finds nothing (laws 1, 6 and 11).
pub async fn trial(effort: &Effort) -> Result<Outcome> {
    let mut tally = Tally::begin();
    let archive = Archive::new()?;
    let primary = FreshCluster::start(
        "archived",
        &format!(
            "{DURABLE}track_commit_timestamp = on\n{}",
            archive.settings()
        ),
    )?;
    let client = primary.connect("postgres").await?;
    let accounts = open_accounts(&client, ACCOUNTS).await?;
    let config = primary.cluster().config("postgres");
    let mut clerks = work(clerks(CLERKS, &accounts), &config, effort).await?;
    let backup = archive.dir.join("base");
    back_up(primary.cluster(), &backup)?;
    clerks = work(clerks, &config, effort).await?;
    client
        .execute("select pg_create_restore_point($1)", &[&RESTORE_POINT])
        .await?;
    let before: Vec<usize> = clerks.iter().map(|clerk| clerk.book.len()).collect();
    clerks = work(clerks, &config, effort).await?;

    // an operation in the middle of the last load, as an operator finds it by its key
    let chosen = middle(&clerks[0], before[0])?;
    let transaction: String = client
        .query_one(
            "select xmin::text from loyalty.entry where idempotency_key = $1",
            &[&chosen.key],
        )
        .await?
        .get(0);
    let journal = read_journal(&client).await?;
    let by_transaction = keys_by_transaction(&client).await?;
    archive.finish(&client).await?;
    primary.cluster().crash()?;
    let wal = archive.read(primary.cluster())?;
    for target in targets(&wal, &by_transaction, &transaction, effort.all)? {
        let recovered = recover(&archive, &backup, &target).await?;
        let client = recovered.connect("postgres").await?;
        let found = read_journal(&client).await?;
        same(&mut tally, &target, &found, &journal);
        let findings = Findings::of_verify(&client).await?;
        tally.look(target.name, &findings);
        tally.acknowledged += target.keys.len();
        tally.found += found
            .iter()
            .filter(|one| target.keys.contains(&one.key))
            .count();
        tally.next_ledger();
        tally.note("recoveries", 1);
        tally.note(
            "operations after the targets, left out",
            journal.len() - target.keys.len(),
        );
        again(&mut tally, target.name, &client, &clerks).await?;
    }
    Ok(tally.outcome(
        "base backup under load, archived WAL, the primary lost; recovered to a chosen operation",
    ))
}

async fn work(
    clerks: Vec<Clerk>,
    config: &tokio_postgres::Config,
    effort: &Effort,
) -> Result<Vec<Clerk>> {
    let shift = Shift::begin(clerks, config);
    tokio::time::sleep(effort.some_load() / 2).await;
    shift.end().await
}

fn middle(clerk: &Clerk, from: usize) -> Result<Receipt> {
    let told: Vec<&Receipt> = clerk.book[from..]
        .iter()
        .filter_map(|record| match &record.fate {
            Fate::Acknowledged(receipts) => receipts.first(),
            _ => None,
        })
        .collect();
    told.get(told.len() / 2)
        .map(|receipt| (*receipt).clone())
        .context("a clerk did nothing")
}

async fn keys_by_transaction(client: &Client) -> Result<HashMap<String, Vec<String>>> {
    let mut keys: HashMap<String, Vec<String>> = HashMap::new();
    for row in client
        .query(
            "select xmin::text, idempotency_key from loyalty.entry where idempotency_key is not null",
            &[],
        )
        .await?
    {
        keys.entry(row.get(0)).or_default().push(row.get(1));
    }
    Ok(keys)
}

/// A commit, or the restore point, in the order of the WAL.
#[derive(Debug)]
struct Event {
    transaction: String,
    place: String,
    committed_at: String,
    is_restore_point: bool,
}

/// Where recovery shall end, by each of its settings, and what was committed by then.
fn targets(
    wal: &[Event],
    by_transaction: &HashMap<String, Vec<String>>,
    transaction: &str,
    all: bool,
) -> Result<Vec<Target>> {
    let at = wal
        .iter()
        .position(|event| event.transaction == transaction && !event.is_restore_point)
        .context("the WAL has no commit of the chosen operation")?;
    let point = wal
        .iter()
        .position(|event| event.is_restore_point)
        .context("the WAL has no restore point")?;
    ensure!(point < at, "the restore point comes first");
    // what is not in the WAL was there before it
    let keys = |events: &[Event]| -> HashSet<String> {
        let later: HashSet<&String> = wal[events.len()..]
            .iter()
            .map(|event| &event.transaction)
            .collect();
        by_transaction
            .iter()
            .filter(|(transaction, _)| !later.contains(transaction))
            .flat_map(|(_, keys)| keys.clone())
            .collect()
    };
    let chosen = &wal[at];
    // of commits at the same microsecond recovery takes all that follow one another
    let same_time = wal[at + 1..]
        .iter()
        .take_while(|event| event.committed_at == chosen.committed_at)
        .count();
    let mut targets = vec![
        Target {
            name: "recovered to a transaction",
            setting: format!("recovery_target_xid = '{transaction}'"),
            keys: keys(&wal[..=at]),
        },
        Target {
            name: "recovered to a restore point",
            setting: format!("recovery_target_name = '{RESTORE_POINT}'"),
            keys: keys(&wal[..point]),
        },
    ];
    if all {
        targets.push(Target {
            name: "recovered to a place in the WAL",
            setting: format!("recovery_target_lsn = '{}'", chosen.place),
            keys: keys(&wal[..=at]),
        });
        let earlier_is_later = wal[..at]
            .iter()
            .any(|event| event.committed_at > chosen.committed_at);
        if !earlier_is_later {
            targets.push(Target {
                name: "recovered to a time",
                setting: format!("recovery_target_time = '{}'", chosen.committed_at),
                keys: keys(&wal[..=at + same_time]),
            });
        }
    }
    Ok(targets)
}

/// Where WAL is archived to, and the base backup lies; removed with this value.
struct Archive {
    dir: PathBuf,
}

impl Archive {
    fn new() -> Result<Self> {
        let server = loyalty_testkit::TestServer::get()?;
        let dir = server.dir.join(format!("archive-{}", os::random_hex(4)?));
        let archive = Self { dir };
        os::Owner::current()?.private_dir(&archive.dir)?;
        os::Owner::current()?.private_dir(&archive.wal())?;
        Ok(archive)
    }

    fn wal(&self) -> PathBuf {
        self.dir.join("wal")
    }

    fn settings(&self) -> String {
        let wal = self.wal();
        format!(
            "archive_mode = on\narchive_command = 'test ! -f {0}/%f && cp %p {0}/%f'\n",
            wal.display()
        )
    }

    /// Has the WAL archived to its end.
    async fn finish(&self, client: &Client) -> Result<()> {
        let last: String = client
            .query_one("select pg_walfile_name(pg_switch_wal())", &[])
            .await?
            .get(0);
        for _ in 0..1200 {
            if self.wal().join(&last).exists() {
                // cp may still write it
                let archived: bool = client
                    .query_one(
                        "select coalesce(last_archived_wal >= $1, false) from pg_stat_archiver",
                        &[&last],
                    )
                    .await?
                    .get(0);
                if archived {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{last} is not archived within a minute")
    }

    /// Commits and the restore point, as PostgreSQL's own tool reads them.
    fn read(&self, cluster: &Cluster) -> Result<Vec<Event>> {
        let mut segments: Vec<String> = std::fs::read_dir(self.wal())?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.len() == 24)
            .collect();
        segments.sort();
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
            bail!("no WAL was archived");
        };
        let output = cluster
            .owner
            .command(cluster.bin.join("pg_waldump"))
            .arg("--path")
            .arg(self.wal())
            .args([first, last])
            .env("TZ", "UTC")
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter_map(event).collect())
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        let _absent = std::fs::remove_dir_all(&self.dir);
    }
}

/// "rmgr: Transaction len …, tx: 797, lsn: 0/0303A5C8, prev …, desc: COMMIT 2026-01-01 … UTC; …"
fn event(line: &str) -> Option<Event> {
    let after = |mark: &str| line.split_once(mark).map(|(_, rest)| rest);
    let until = |text: &str, end: char| text.split(end).next().unwrap_or(text).trim().to_owned();
    let description = after("desc: ")?;
    let is_restore_point = description.starts_with("RESTORE_POINT");
    let committed_at = description.strip_prefix("COMMIT ");
    if !is_restore_point && committed_at.is_none() {
        return None;
    }
    Some(Event {
        transaction: until(after("tx:")?, ','),
        place: until(after("lsn: ")?, ','),
        committed_at: committed_at.map_or_else(String::new, |text| until(text, ';')),
        is_restore_point,
    })
}

fn back_up(cluster: &Cluster, place: &Path) -> Result<()> {
    run(cluster
        .owner
        .command(cluster.bin.join("pg_basebackup"))
        .args([
            "--username",
            loyalty_testkit::cluster::SUPERUSER,
            "--checkpoint",
            "fast",
        ])
        .args(["--wal-method", "none", "--no-manifest"])
        .arg("--port")
        .arg(cluster.port.to_string())
        .arg("--host")
        .arg(&cluster.socket_dir)
        .arg("--pgdata")
        .arg(place))
    .map(drop)
}

/// A cluster from the base backup and the archive, up to the target and no further.
async fn recover(archive: &Archive, backup: &Path, target: &Target) -> Result<FreshCluster> {
    let settings = format!(
        "archive_mode = off\nrestore_command = 'cp {}/%f %p'\n{}\nrecovery_target_action = promote\n",
        archive.wal().display(),
        target.setting
    );
    let recovered = FreshCluster::recovered("recovered", backup, &settings)?;
    let client = recovered.connect("postgres").await?;
    until(
        &client,
        Duration::from_secs(60),
        "select not pg_is_in_recovery()",
    )
    .await
    .with_context(|| format!("{} does not end", target.name))?;
    Ok(recovered)
}

/// Just the target's operations, each as it was.
fn same(tally: &mut Tally, target: &Target, found: &[Receipt], journal: &[Receipt]) {
    let expected: HashMap<&String, &Receipt> = journal
        .iter()
        .filter(|receipt| target.keys.contains(&receipt.key))
        .map(|receipt| (&receipt.key, receipt))
        .collect();
    let wrong = found
        .iter()
        .filter(|receipt| expected.get(&receipt.key) != Some(receipt))
        .count();
    tally.hold(
        &format!(
            "{}: {} operations, {wrong} of them not as they were, and {} were to be there",
            target.name,
            found.len(),
            expected.len()
        ),
        wrong == 0 && found.len() == expected.len() && expected.len() < journal.len(),
    );
}

/// Clients ask again for all that is there: they get what they were told, and no more is booked.
async fn again(tally: &mut Tally, name: &str, client: &Client, clerks: &[Clerk]) -> Result<()> {
    let keys: HashSet<String> = read_journal(client)
        .await?
        .into_iter()
        .map(|receipt| receipt.key)
        .collect();
    for clerk in clerks {
        clerk.ask_these_again(client, &keys).await?;
    }
    let after = read_journal(client).await?.len();
    tally.hold(
        &format!(
            "{name}: asked again, {} operations became {after}",
            keys.len()
        ),
        after == keys.len(),
    );
    Ok(())
}
