//! What the operating system is asked for: processes, owners, ports, secrets.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown, geteuid};
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};

/// What takes longer never comes: far more than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The user that server processes run as: whoever calls, except that
/// PostgreSQL refuses root, so root's servers run as `postgres`.
#[derive(Clone, Debug)]
pub struct Owner(Option<User>);

impl Owner {
    pub fn current() -> Result<Self> {
        if !geteuid().is_root() {
            return Ok(Self(None));
        }
        let user = User::from_name("postgres")?.context(
            "there is no user postgres, which root's clusters run as; \
             installing Debian's postgresql-common makes it",
        )?;
        Ok(Self(Some(user)))
    }

    /// A command run as the owner, free of the caller's `PG*` variables.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = plain_command(program);
        command.current_dir("/");
        if let Some(user) = &self.0 {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
            command.env("HOME", &user.dir).env("USER", &user.name);
        }
        command
    }

    /// An error that says what to do unless the owner may enter `dir`.
    pub fn must_enter(&self, dir: &Path) -> Result<()> {
        if let Some(user) = &self.0 {
            run(self.command("/usr/bin/test").arg("-x").arg(dir)).map_err(|_| {
                anyhow::anyhow!(
                    "the user {} may not enter {}; set LOYALTY_DEV_DIR to a directory where it may",
                    user.name,
                    dir.display()
                )
            })?;
        }
        Ok(())
    }

    pub fn own(&self, path: &Path) -> Result<()> {
        if let Some(user) = &self.0 {
            chown(path, Some(user.uid), Some(user.gid))
                .with_context(|| format!("{} cannot be given to {}", path.display(), user.name))?;
        }
        Ok(())
    }

    /// A directory that only the owner (and root) may enter.
    pub fn private_dir(&self, path: &Path) -> Result<()> {
        create_dir(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        self.own(path)
    }

    /// A file that only the owner (and root) may read.
    pub fn private_file(&self, path: &Path, text: &str) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(path)?;
            file.write_all(text.as_bytes())
        };
        write().with_context(|| format!("{} cannot be written", path.display()))?;
        self.own(path)
    }
}

pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("{} cannot be made", path.display()))
}

/// A command without the caller's `PG*` variables, which would redirect it.
pub fn plain_command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command
}

/// A cargo that does not know that a cargo has called us. `cargo run` tells its program
/// what package it is, and build scripts that look at that would run anew, and anew again
/// at the next call from a shell.
pub fn cargo_command(cargo: impl AsRef<Path>) -> Command {
    let mut command = Command::new(cargo.as_ref());
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|prefix| name_text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command quietly; its output becomes the error when it fails.
pub fn run(command: &mut Command) -> Result<String> {
    let name = program_name(command);
    let output = command
        .output()
        .with_context(|| format!("{name} cannot be started"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command whose output the user watches.
pub fn run_visible(command: &mut Command) -> Result<()> {
    let name = program_name(command);
    let status = command
        .status()
        .with_context(|| format!("{name} cannot be started"))?;
    if !status.success() {
        bail!("{name} failed ({status}); its own words are above");
    }
    Ok(())
}

fn program_name(command: &Command) -> String {
    let path = PathBuf::from(command.get_program());
    path.file_name().map_or_else(
        || path.display().to_string(),
        |n| n.to_string_lossy().into(),
    )
}

pub fn port_is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// `wanted` if nobody listens there, else the next port that is free.
pub fn free_port_from(wanted: u16) -> Result<u16> {
    (wanted..wanted.saturating_add(200))
        .find(|port| port_is_free(*port))
        .with_context(|| format!("no port from {wanted} to {} is free", wanted + 199))
}

/// Any port that is free just now.
pub fn any_free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// What `./dev` found or installed, handed over in an environment variable.
pub fn variable(name: &str) -> Result<String> {
    std::env::var(name)
        .with_context(|| format!("{name} is not set; call this tool through ./dev, which sets it"))
}

pub fn path_variable(name: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(variable(name)?))
}

/// `bytes` random bytes in hexadecimal.
pub fn random_hex(bytes: usize) -> Result<String> {
    let mut buffer = vec![0u8; bytes];
    getrandom::fill(&mut buffer).map_err(|e| anyhow::anyhow!("no random numbers: {e}"))?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Eight hexadecimal digits, to tell names apart.
pub fn short_hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Whether `pid` runs and was started with `mark` among its arguments; a pid
/// alone may meanwhile belong to somebody else's process.
pub fn is_running(pid: i32, mark: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark))
}

/// Processes that were started with `mark` among their arguments.
pub fn processes_with(mark: &str) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id() as i32 && is_running(*pid, mark))
        .collect()
}

/// Ends a process politely, then not, and waits until it has gone.
pub fn end_process(pid: i32, mark: &str) -> Result<()> {
    for (signal, patience) in [(Signal::SIGTERM, 5), (Signal::SIGKILL, 5)] {
        if !is_running(pid, mark) {
            return Ok(());
        }
        let _gone_already = kill(Pid::from_raw(pid), signal);
        if wait_until(Duration::from_secs(patience), || !is_running(pid, mark)) {
            return Ok(());
        }
    }
    bail!("process {pid} does not end")
}

/// Polls until `done`, false when `patience` is over.
pub fn wait_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The last lines of a log, for an error message.
pub fn log_tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Waits until somebody asks this process to end, and says how.
pub async fn interrupted() -> Result<&'static str> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "Ctrl-C",
        _ = terminate.recv() => "a termination signal",
        _ = hangup.recv() => "the terminal's end",
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::{any_free_port, free_port_from, random_hex};

    #[test]
    fn a_taken_port_is_passed_over() -> anyhow::Result<()> {
        let port = any_free_port()?;
        let _taken = TcpListener::bind(("127.0.0.1", port))?;
        assert!(free_port_from(port)? > port);
        Ok(())
    }

    #[test]
    fn secrets_are_long_enough_for_postgrest_and_differ() -> anyhow::Result<()> {
        let secret = random_hex(32)?;
        assert_eq!(secret.len(), 64);
        assert_ne!(secret, random_hex(32)?);
        Ok(())
    }
}
