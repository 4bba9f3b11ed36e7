//! A private PostgreSQL cluster: its own directory, socket and port.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_postgres::{Client, Config, NoTls};

use crate::os::{Owner, PATIENCE, log_tail, run, wait_until};

/// The superuser of every private cluster, whoever runs it.
pub const SUPERUSER: &str = "postgres";

/// Unix limits a socket's path to 107 bytes; PostgreSQL adds `/.s.PGSQL.NNNNN`.
const SOCKET_DIR_LIMIT: usize = 90;

#[derive(Clone, Debug)]
pub struct Cluster {
    /// Where `postgres`, `initdb`, `pg_ctl` and `psql` are.
    pub bin: PathBuf,
    pub data: PathBuf,
    pub socket_dir: PathBuf,
    pub port: u16,
    pub log: PathBuf,
    pub owner: Owner,
}

/// Who reaches the socket reaches the superuser: its directory is private. TCP
/// is for programs that know no sockets, with a password.
const LOGIN_RULES: &str = "# type database user address method\n\
    local all all trust\n\
    local replication all trust\n\
    host all all 127.0.0.1/32 scram-sha-256\n";

impl Cluster {
    /// A cluster that lives in `dir`, not made or started yet.
    pub fn at(bin: &Path, dir: &Path, port: u16, owner: &Owner) -> Self {
        Self {
            bin: bin.to_owned(),
            data: dir.join("data"),
            socket_dir: socket_dir(dir),
            port,
            log: dir.join("postgresql.log"),
            owner: owner.clone(),
        }
    }

    pub fn exists(&self) -> bool {
        self.data.join("PG_VERSION").exists()
    }

    /// Replaces the lines of postgresql.conf that `init` wrote; the next start reads them.
    pub fn configure(&self, settings: &str) -> Result<()> {
        self.owner
            .private_file(&self.data.join("loyalty.conf"), settings)
    }

    /// Makes the cluster; `settings` are lines of postgresql.conf.
    pub fn init(&self, settings: &str) -> Result<()> {
        let dir = self
            .data
            .parent()
            .context("a data directory has a parent")?;
        self.owner.private_dir(dir)?;
        // A half-made directory is an earlier call that was stopped.
        let making = dir.join("data.new");
        if making.exists() {
            fs::remove_dir_all(&making)?;
        }
        run(self
            .owner
            .command(self.bin.join("initdb"))
            .args(["--username", SUPERUSER, "--encoding", "UTF8"])
            .args([
                "--locale",
                "C.UTF-8",
                "--no-instructions",
                "--auth",
                "trust",
            ])
            .arg("--pgdata")
            .arg(&making))?;
        let conf = making.join("postgresql.conf");
        let mut text = fs::read_to_string(&conf)?;
        text.push_str("\ninclude = 'loyalty.conf'\n");
        fs::write(&conf, text)?;
        self.owner
            .private_file(&making.join("loyalty.conf"), settings)?;
        self.owner
            .private_file(&making.join("pg_hba.conf"), LOGIN_RULES)?;
        fs::rename(&making, &self.data)?;
        Ok(())
    }

    pub fn is_running(&self) -> bool {
        self.exists()
            && run(self
                .owner
                .command(self.bin.join("pg_ctl"))
                .arg("status")
                .arg("--pgdata")
                .arg(&self.data))
            .is_ok()
    }

    pub fn start(&self) -> Result<()> {
        self.start_and("--wait")
    }

    /// Starts it and leaves it to itself, also while it still recovers.
    pub fn start_without_waiting(&self) -> Result<()> {
        self.start_and("--no-wait")?;
        let pid_file = self.data.join("postmaster.pid");
        if !wait_until(PATIENCE, || {
            fs::read_to_string(&pid_file).is_ok_and(|text| text.lines().count() > 1)
        }) {
            bail!("PostgreSQL does not start on port {}", self.port);
        }
        Ok(())
    }

    fn start_and(&self, wait: &str) -> Result<()> {
        let status = self
            .start_command(wait)?
            .status()
            .context("pg_ctl cannot be started")?;
        if !status.success() {
            bail!(
                "PostgreSQL does not start on port {}. The end of {}:\n{}",
                self.port,
                self.log.display(),
                log_tail(&self.log, 8)
            );
        }
        Ok(())
    }

    /// The pg_ctl that starts it; `wait`: `--wait` or `--no-wait`.
    pub fn start_command(&self, wait: &str) -> Result<Command> {
        self.owner.private_dir(&self.socket_dir)?;
        // pg_ctl writes the log as the owner.
        if !self.log.exists() {
            self.owner.private_file(&self.log, "")?;
        }
        let options = format!(
            "-p {} -c unix_socket_directories='{}'",
            self.port,
            self.socket_dir.display()
        );
        let mut command = self.owner.command(self.bin.join("pg_ctl"));
        // The server inherits pg_ctl's output, which must not be a pipe that
        // someone reads to its end.
        command
            .args(["start", wait, "--silent", "--timeout", "60"])
            .arg("--pgdata")
            .arg(&self.data)
            .arg("--log")
            .arg(&self.log)
            .args(["--options", &options])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        Ok(command)
    }

    /// Stops the server, aborting what still runs in it.
    pub fn stop(&self) -> Result<()> {
        if self.is_running() {
            run(self
                .owner
                .command(self.bin.join("pg_ctl"))
                .args(["stop", "--wait", "--mode", "fast", "--timeout", "60"])
                .arg("--pgdata")
                .arg(&self.data))?;
        }
        if self.socket_dir.starts_with("/tmp") {
            let _absent = fs::remove_dir(&self.socket_dir);
        }
        Ok(())
    }

    /// Ends the server as a power cut would: no process of it gets to do anything more.
    pub fn crash(&self) -> Result<()> {
        let pid_file = self.data.join("postmaster.pid");
        let text = fs::read_to_string(&pid_file)
            .with_context(|| format!("{} cannot be read", pid_file.display()))?;
        let postmaster: i32 = text
            .lines()
            .next()
            .and_then(|line| line.trim().parse().ok())
            .with_context(|| format!("{} names no process", pid_file.display()))?;
        kill_tree(postmaster)?;
        // Where nobody reaps the dead, their numbers still look alive to the next start.
        let lock = format!(".s.PGSQL.{}.lock", self.port);
        for left_behind in [pid_file, self.socket_dir.join(lock)] {
            match fs::remove_file(left_behind) {
                // it had not come so far
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        Ok(())
    }

    /// Makes a running standby a primary.
    pub fn promote(&self) -> Result<()> {
        run(self
            .owner
            .command(self.bin.join("pg_ctl"))
            .args(["promote", "--wait", "--silent", "--timeout", "60"])
            .arg("--pgdata")
            .arg(&self.data))
        .map(drop)
    }

    /// Copies a running cluster into this one's directory, as its streaming standby.
    pub fn copy_of(&self, primary: &Cluster) -> Result<()> {
        let dir = self
            .data
            .parent()
            .context("a data directory has a parent")?;
        self.owner.private_dir(dir)?;
        run(self
            .owner
            .command(self.bin.join("pg_basebackup"))
            .args(["--username", SUPERUSER, "--checkpoint", "fast"])
            .args(["--wal-method", "stream", "--write-recovery-conf"])
            .arg("--port")
            .arg(primary.port.to_string())
            .arg("--host")
            .arg(&primary.socket_dir)
            .arg("--pgdata")
            .arg(&self.data))
        .map(drop)
    }

    /// How a superuser connects to `database`.
    pub fn config(&self, database: &str) -> Config {
        superuser_config(&self.socket_dir, self.port, database)
    }

    pub async fn connect(&self, database: &str) -> Result<Client> {
        connect(&self.config(database)).await
    }
}

/// Kills a server's first process and its children. The first is stopped before, so that it
/// notices no child's end.
fn kill_tree(first: i32) -> Result<()> {
    kill(Pid::from_raw(first), Signal::SIGSTOP)?;
    while parent_and_state(first).is_some_and(|(_, state)| !matches!(state, 'T' | 'Z')) {
        std::thread::yield_now();
    }
    let mut killed = vec![first];
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if parent_and_state(pid).is_some_and(|(parent, _)| parent == first) {
            killed.push(pid);
        }
    }
    for pid in killed.iter().rev() {
        // A child may have ended by itself.
        let _gone = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    let ended = |pid: &i32| parent_and_state(*pid).is_none_or(|(_, state)| state == 'Z');
    let start = Instant::now();
    while !killed.iter().all(ended) {
        if start.elapsed() > PATIENCE {
            bail!("killed processes do not end: {killed:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The parent of a process and its state, a letter; `Z` has ended.
fn parent_and_state(pid: i32) -> Option<(i32, char)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (name) state parent …", and a name may hold anything
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

/// How a superuser connects to a server's database.
pub fn superuser_config(socket_dir: &Path, port: u16, database: &str) -> Config {
    let mut config = Config::new();
    config
        .host_path(socket_dir)
        .port(port)
        .user(SUPERUSER)
        .dbname(database);
    config
}

/// Connects and drives the connection in the background.
pub async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        // An error ends the connection; the client's next call reports it.
        let _ended = connection.await;
    });
    Ok(client)
}

fn socket_dir(dir: &Path) -> PathBuf {
    let wanted = dir.join("socket");
    if wanted.as_os_str().len() <= SOCKET_DIR_LIMIT {
        return wanted;
    }
    let key = crate::os::short_hash(dir.to_string_lossy().as_bytes());
    PathBuf::from(format!("/tmp/pg_loyalty-{key}"))
}
