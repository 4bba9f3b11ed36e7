//! A program of ours that runs in the background, with its files in one directory:
//! `NAME.log`, `.pid`, and `.started`, which says what it was started with.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::http;
use crate::os::{Owner, PATIENCE, end_process, is_running, log_tail, wait_until};

#[derive(Clone, Debug)]
pub struct Service {
    binary: PathBuf,
    dir: PathBuf,
    name: String,
    mark: PathBuf,
    owner: Owner,
}

impl Service {
    /// `binary` is a copy of the service's own: its path tells its process from others.
    pub fn at(binary: &Path, dir: &Path, name: &str, owner: &Owner) -> Self {
        Self {
            binary: binary.to_owned(),
            dir: dir.to_owned(),
            name: name.to_owned(),
            mark: binary.to_owned(),
            owner: owner.clone(),
        }
    }

    /// Of a binary that others may run too: an argument that tells its process from theirs.
    pub fn marked_by(self, mark: &Path) -> Self {
        Self {
            mark: mark.to_owned(),
            ..self
        }
    }

    pub fn file(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("{}.{suffix}", self.name))
    }

    pub fn log(&self) -> PathBuf {
        self.file("log")
    }

    fn pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.file("pid")).ok()?;
        let pid = text.trim().parse().ok()?;
        is_running(pid, &self.mark.to_string_lossy()).then_some(pid)
    }

    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Whether it runs, and was started from just this program with just these arguments.
    pub fn is_running_with(&self, arguments: &[OsString]) -> Result<bool> {
        let started = fs::read_to_string(self.file("started")).unwrap_or_default();
        Ok(self.is_running() && started == self.description(arguments)?)
    }

    fn description(&self, arguments: &[OsString]) -> Result<String> {
        let meta = fs::metadata(&self.binary)
            .with_context(|| format!("{} cannot be read", self.binary.display()))?;
        Ok(format!("{:?} {:?}\n", meta.modified()?, arguments))
    }

    /// Starts it, in a directory that is there, and returns when it is ready.
    pub fn start(&self, arguments: &[OsString], is_ready: impl Fn() -> bool) -> Result<()> {
        self.owner.private_file(&self.log(), "")?;
        let log = fs::OpenOptions::new().append(true).open(self.log())?;
        let mut command = self.owner.command(&self.binary);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // Its own process group: the terminal's Ctrl-C is not meant for it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command
            .spawn()
            .with_context(|| format!("{} cannot be started", self.binary.display()))?;
        fs::write(self.file("pid"), child.id().to_string())?;
        fs::write(self.file("started"), self.description(arguments)?)?;
        let mut ended = None;
        let ready = wait_until(PATIENCE, || {
            ended = child.try_wait().ok().flatten();
            ended.is_some() || is_ready()
        });
        if ready && ended.is_none() {
            return Ok(());
        }
        let why = ended.map_or_else(
            || {
                format!(
                    "does not become ready within {} seconds",
                    PATIENCE.as_secs()
                )
            },
            |status| format!("ended ({status})"),
        );
        let tail = log_tail(&self.log(), 8);
        self.stop()?;
        bail!(
            "{} {why}. The end of {}:\n{tail}",
            self.name,
            self.log().display()
        );
    }

    pub fn stop(&self) -> Result<()> {
        if let Some(pid) = self.pid() {
            end_process(pid, &self.mark.to_string_lossy())?;
        }
        for suffix in ["pid", "started"] {
            let _absent = fs::remove_file(self.file(suffix));
        }
        Ok(())
    }
}

/// Whether an address answers, and with no error.
pub fn answers(url: &str) -> bool {
    http::get(url, "", Duration::from_secs(2)).is_ok()
}
