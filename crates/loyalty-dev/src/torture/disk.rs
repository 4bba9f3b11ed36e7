//! The disk fills up while the ledger is written: under its tables, and under the WAL.
//!
//! A file system of its own, so small that it is soon full, is mounted where no other process
//! sees it: in a namespace, which an ordinary user may make too.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::{User, getegid, geteuid};
use tokio_postgres::Config;

use super::check::{balances, compare};
use super::kill::{ACCOUNTS, CLERKS};
use super::load::{Clerk, Fate, Shift, clerks, open_accounts, settle};
use super::{DURABLE, Effort, Outcome, Tally};
use crate::up::shell_word;
use loyalty_testkit::FreshCluster;
use loyalty_testkit::cluster::{Cluster, connect};
use loyalty_testkit::os::{Owner, plain_command};

/// Room for a database, and for some segments of the WAL.
const TABLES_SIZE: &str = "64m";
const WAL_SIZE: &str = "80m";
const WAL_SETTINGS: &str = "max_wal_size = 32MB\nmin_wal_size = 32MB\nwal_recycle = off\n";

/// Writes that find no room are refused with 53100 and nothing is booked (law 1); where the WAL
/// finds none, the server stops. With room again all goes on, and nothing acknowledged is lost.
pub async fn trial(effort: &Effort) -> Result<Outcome> {
    let mut tally = Tally::begin();
    let fresh = FreshCluster::start("disk", &format!("{DURABLE}{WAL_SETTINGS}"))?;
    let cluster = fresh.cluster();
    let dir = cluster
        .data
        .parent()
        .context("a data directory has a parent")?;
    let (tables, wal) = (dir.join("tables"), dir.join("wal"));
    cluster.stop()?;
    let mut room = Room::open(&cluster.owner)?;
    room.mount(&cluster.owner, &tables, TABLES_SIZE)?;
    room.mount(&cluster.owner, &wal, WAL_SIZE)?;
    room.run(&format!(
        "cp -a {data}/pg_wal/. {wal}/ && rm -r {data}/pg_wal && ln -s {wal} {data}/pg_wal",
        data = word(&cluster.data),
        wal = word(&wal),
    ))?;
    room.start(cluster)?;

    let superuser = fresh.connect("postgres").await?;
    superuser
        .batch_execute(&format!(
            "create tablespace small location '{}'",
            tables.display()
        ))
        .await?;
    superuser
        .batch_execute("create database points template template0 tablespace small")
        .await?;
    let client = fresh.connect("points").await?;
    let accounts = open_accounts(&client, ACCOUNTS).await?;
    let start = balances(&client).await?;
    let mut clerks = clerks(CLERKS, &accounts);
    let config = cluster.config("points");

    // under the tables
    client.batch_execute("checkpoint").await?;
    room.fill(&tables, "128k")?;
    let refused = |clerks: &[Clerk], code: &str| -> usize {
        let book = clerks.iter().flat_map(|clerk| &clerk.book);
        book.filter(|record| record.fate == Fate::Refused(code.to_owned()))
            .count()
    };
    for _ in 0..50 {
        clerks = work(clerks, &config, effort.some_load()).await?;
        if refused(&clerks, "53100") > 0 {
            break;
        }
    }
    let no_room = refused(&clerks, "53100");
    tally.note("calls refused with 53100", no_room);
    tally.hold("calls were to be refused with 53100", no_room > 0);
    // whoever was connected still is
    tally.look("tables full", &compare(&client, &clerks, &start).await?);
    room.free(&tables)?;
    settle(&mut clerks, &client).await?;
    clerks = work(clerks, &config, effort.some_load() / 2).await?;
    tally.look("room again", &compare(&client, &clerks, &start).await?);

    // under the WAL: a new segment finds no room, however soon it is wanted
    room.fill(&wal, "4m")?;
    let shift = Shift::begin(clerks, &config);
    tokio::time::sleep(effort.some_load() / 2).await;
    let switching = connect(&cluster.config("postgres")).await?;
    let mut switches = 0;
    while switching
        .simple_query("select pg_switch_wal()")
        .await
        .is_ok()
    {
        switches += 1;
        ensure!(switches < 100, "the WAL does not fill up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    clerks = shift.end().await?;
    let log = std::fs::read_to_string(&cluster.log)?;
    tally.hold(
        "the server was to stop with PANIC for want of room for the WAL",
        log.lines()
            .any(|line| line.contains("PANIC:") && line.contains("No space left")),
    );
    cluster.crash()?;
    room.free(&wal)?;
    room.start(cluster)?;
    let client = fresh.connect("points").await?;
    let findings = compare(&client, &clerks, &start).await?;
    tally.note("in doubt when the WAL was full", {
        findings.unanswered + findings.undone
    });
    tally.look("WAL had no room", &findings);
    settle(&mut clerks, &client).await?;
    clerks = work(clerks, &config, effort.some_load() / 2).await?;
    for clerk in &clerks {
        clerk.ask_all_again(&client).await?;
    }
    tally.look("at the end", &compare(&client, &clerks, &start).await?);
    cluster.stop()?;
    Ok(tally.outcome(
        "file systems of their own filled up under the tables (53100), then under the WAL (PANIC)",
    ))
}

async fn work(clerks: Vec<Clerk>, config: &Config, time: Duration) -> Result<Vec<Clerk>> {
    let shift = Shift::begin(clerks, config);
    tokio::time::sleep(time).await;
    shift.end().await
}

fn word(path: &Path) -> String {
    shell_word(&path.to_string_lossy())
}

/// A shell in a namespace with mounts of its own, which end with it and with the servers that
/// were started from it.
struct Room {
    shell: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What runs a program there as the clusters' owner, who root of the namespace is not.
    as_owner: Vec<String>,
}

const MARK: &str = "#room";

impl Room {
    /// In a user namespace; root may do with a mount namespace where these are switched off, and in
    /// a chroot that is no mount of its own with one whose mounts are as private as they were.
    fn open(owner: &Owner) -> Result<Self> {
        let (uid, gid) = match User::from_name("postgres")? {
            Some(user) if geteuid().is_root() => (user.uid, user.gid),
            _ => (geteuid(), getegid()),
        };
        let mut user_space = owner.command("/usr/bin/unshare");
        user_space.args(["--user", "--map-root-user", "--mount", "/bin/sh"]);
        let mut mount_space = plain_command("/usr/bin/unshare");
        mount_space.args(["--mount", "/bin/sh"]);
        let mut chroot_space = plain_command("/usr/bin/unshare");
        chroot_space.args(["--mount", "--propagation", "unchanged", "/bin/sh"]);
        let as_owner = vec![
            "/usr/bin/setpriv".to_owned(),
            format!("--reuid={uid}"),
            format!("--regid={gid}"),
            "--clear-groups".to_owned(),
        ];
        let tries = [
            (
                user_space,
                vec![
                    "/usr/bin/unshare".to_owned(),
                    "--user".to_owned(),
                    format!("--map-user={uid}"),
                    format!("--map-group={gid}"),
                ],
            ),
            (mount_space, as_owner.clone()),
            (chroot_space, as_owner),
        ];
        let mut said = String::new();
        for (shell, as_owner) in tries {
            match Self::with(shell, as_owner) {
                Ok(room) => return Ok(room),
                Err(error) => said.push_str(&format!("\n{error:#}")),
            }
        }
        bail!(
            "no file system can be mounted here to fill up: neither user namespaces \
             (unshare --user --mount) nor, for root, mount namespaces are allowed.{said}"
        )
    }

    fn with(mut shell: Command, as_owner: Vec<String>) -> Result<Self> {
        let mut shell = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("unshare cannot be started")?;
        let orders = shell.stdin.take().context("a shell has an input")?;
        let answers = shell.stdout.take().context("a shell has an output")?;
        let mut room = Self {
            shell,
            orders,
            answers: BufReader::new(answers),
            as_owner,
        };
        let device = || fs::metadata("/mnt").map(|mnt| mnt.dev());
        let before = device()?;
        room.run("mount -t tmpfs -o size=64k tmpfs /mnt")?;
        let during = device()?;
        room.run("umount /mnt")?;
        ensure!(
            before == during,
            "mounts of a namespace are everybody's here"
        );
        Ok(room)
    }

    /// Runs a script there.
    fn run(&mut self, script: &str) -> Result<()> {
        writeln!(
            self.orders,
            "{{ {script}\n}} 2>&1; echo; echo \"{MARK} $?\""
        )?;
        self.orders.flush()?;
        let mut said = String::new();
        loop {
            let mut line = String::new();
            ensure!(
                self.answers.read_line(&mut line)? > 0,
                "the shell in a namespace has ended: {said}"
            );
            if let Some(status) = line.strip_prefix(MARK) {
                ensure!(status.trim() == "0", "{script}: {}", said.trim());
                return Ok(());
            }
            said.push_str(&line);
        }
    }

    fn mount(&mut self, owner: &Owner, place: &Path, size: &str) -> Result<()> {
        owner.private_dir(place)?;
        let place = word(place);
        self.run(&format!(
            "owner=$(stat -c %u:%g {place}) && mount -t tmpfs -o size={size},mode=0700 tmpfs {place} \
             && chown $owner {place}"
        ))
    }

    fn start(&mut self, cluster: &Cluster) -> Result<()> {
        let command = cluster.start_command("--wait")?;
        let words: Vec<String> = self
            .as_owner
            .iter()
            .cloned()
            .chain(std::iter::once(
                command.get_program().to_string_lossy().into_owned(),
            ))
            .chain(
                command
                    .get_args()
                    .map(|argument| argument.to_string_lossy().into_owned()),
            )
            .map(|part| shell_word(&part))
            .collect();
        self.run(&format!("{} </dev/null >/dev/null 2>&1", words.join(" ")))
    }

    /// Leaves so much room, and no more.
    fn fill(&mut self, place: &Path, leave: &str) -> Result<()> {
        let place = word(place);
        self.run(&format!(
            "fallocate -l {leave} {place}/reserve && (cat /dev/zero >{place}/ballast 2>/dev/null; true) \
             && rm {place}/reserve"
        ))
    }

    fn free(&mut self, place: &Path) -> Result<()> {
        self.run(&format!("rm {}/ballast", word(place)))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _gone_already = writeln!(self.orders, "exit");
        let _ended = self.shell.wait();
    }
}
