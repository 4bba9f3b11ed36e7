//! A Debian of another release, kept between runs, with a copy of the working tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::chroot;
use crate::context::Context;
use crate::package;
use loyalty_testkit::os::{create_dir, path_variable, plain_command, run};

/// Where the sources are, and what is built of them stays, inside.
const SOURCES: &str = "pg_loyalty";
const TARGET: &str = "/target";

/// What is made from the sources, and what is none of them.
const NO_SOURCES: [&str; 2] = [".dev", "target"];

/// In a mount and process namespace of its own: however it ends, nothing stays mounted or
/// goes on. The shell stays, as the first process, to reap what the servers leave. Only where the
/// root is a mount of its own can a process inside have further namespaces.
const ENTER: &str = r#"set -e
root=$1 registry=$2
shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
[ -z "$registry" ] || mount --bind "$registry" "$root/root/.cargo/registry"
status=0
chroot "$root" "$@" || status=$?
exit "$status""#;

pub struct Room {
    root: PathBuf,
    /// The downloaded crates, which need not be downloaded again.
    registry: Option<PathBuf>,
}

impl Room {
    /// The room as it was left, or a new one, with today's sources.
    pub fn ensure(context: &Context, dir: &Path, release: &str, fresh: bool) -> Result<Self> {
        let root = dir.join(release);
        if fresh && root.exists() {
            fs::remove_dir_all(&root)?;
        }
        if !root.exists() {
            let debian = chroot::debian(context, release)?;
            let new = dir.join(format!("{release}.new"));
            if new.exists() {
                fs::remove_dir_all(&new)?;
            }
            run(plain_command("cp").arg("-a").arg(&debian).arg(&new))?;
            fs::rename(&new, &root)?;
        }
        let registry = cargo_home().map(|home| home.join("registry"));
        let room = Self {
            registry: registry.filter(|dir| dir.exists()),
            root,
        };
        room.furnish(context)?;
        Ok(room)
    }

    fn furnish(&self, context: &Context) -> Result<()> {
        chroot::make_ready(&self.root)?;
        fs::copy("/etc/hosts", self.root.join("etc/hosts"))
            .context("/etc/hosts cannot be copied")?;
        create_dir(&self.root.join("root/.cargo/registry"))?;
        // It runs on any Debian; should it not, ./dev inside gets its own.
        let programs = self.root.join("usr/local/bin");
        create_dir(&programs)?;
        fs::copy(
            path_variable("LOYALTY_POSTGREST")?,
            programs.join("postgrest"),
        )
        .context("postgrest cannot be copied")?;
        let sources = self.root.join(SOURCES);
        if sources.exists() {
            fs::remove_dir_all(&sources)?;
        }
        for entry in fs::read_dir(&context.repo)? {
            let entry = entry?;
            let name = entry.file_name();
            if !NO_SOURCES.iter().any(|other| name == *other) {
                package::copy(&entry.path(), &sources.join(&name))?;
            }
        }
        Ok(())
    }

    /// A program inside, run by root without the caller's environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child"])
            .args(["--", "sh", "-c", ENTER, "room"])
            .arg(&self.root)
            .arg(self.registry.as_deref().unwrap_or(Path::new("")))
            .arg(program)
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8")
            .env("CARGO_TARGET_DIR", TARGET);
        command
    }

    /// `./dev` inside.
    pub fn dev(&self, arguments: &[String]) -> Command {
        let mut command = self.command(&format!("/{SOURCES}/dev"));
        command.args(arguments);
        command
    }
}

fn cargo_home() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"));
    std::env::var_os("CARGO_HOME").map_or_else(home, |dir| Some(PathBuf::from(dir)))
}
