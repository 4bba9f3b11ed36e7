//! buildah with a store of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use loyalty_testkit::os::{self, create_dir, plain_command, wait_until};

/// How long a container's program may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Buildah {
    dir: PathBuf,
    driver: String,
}

impl Buildah {
    pub fn at(dir: &Path, driver: &str) -> Result<Self> {
        create_dir(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            driver: driver.to_owned(),
        })
    }

    pub fn command(&self, verb: &str) -> Command {
        let mut command = plain_command("buildah");
        command
            .arg("--root")
            .arg(self.dir.join("storage"))
            .arg("--runroot")
            .arg(self.dir.join("run"))
            .args(["--storage-driver", &self.driver])
            .arg(verb);
        command
    }

    fn run(&self, verb: &str, arguments: &[&str]) -> Result<String> {
        let said = os::run(self.command(verb).args(arguments))?;
        Ok(said.trim().to_owned())
    }

    pub fn has(&self, image: &str) -> bool {
        self.run("inspect", &["--type", "image", image]).is_ok()
    }

    /// Makes an image of a directory.
    pub fn import(&self, dir: &Path, image: &str) -> Result<()> {
        let container = self.run("from", &["scratch"])?;
        let dir = format!("{}/.", dir.display());
        let outcome = self
            .run("copy", &["--quiet", &container, &dir, "/"])
            .and_then(|_| self.run("config", &["--cmd", "bash", &container]))
            .and_then(|_| self.run("commit", &["--quiet", &container, image]));
        self.run("rm", &[&container])?;
        outcome.map(drop)
    }

    /// Name and size of each image, a line each.
    pub fn sizes(&self) -> Result<String> {
        os::run(
            self.command("images")
                .args(["--noheading", "--filter", "reference=pg_loyalty/*"])
                .args(["--format", "{{.Name}}:{{.Tag}} ({{.Size}})"]),
        )
    }

    /// A container of an image, which does not run anything yet.
    pub fn container(&self, image: &str) -> Result<Container<'_>> {
        let id = self.run("from", &["--pull-never", &format!("localhost/{image}")])?;
        let text = self.run("inspect", &["--type", "container", &id])?;
        let inspected: Value = serde_json::from_str(&text)?;
        let config = &inspected["Docker"]["config"];
        let words = |value: &Value| -> Vec<String> {
            let words = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let words = words.iter().filter_map(Value::as_str);
            words.map(str::to_owned).collect()
        };
        let health = words(&config["Healthcheck"]["Test"]);
        ensure!(
            health.first().is_some_and(|kind| kind == "CMD") && health.len() > 1,
            "{image} has no health check"
        );
        Ok(Container {
            buildah: self,
            id,
            user: config["User"].as_str().unwrap_or_default().to_owned(),
            entrypoint: words(&config["Entrypoint"]),
            arguments: words(&config["Cmd"]),
            health: health[1..].to_vec(),
        })
    }
}

/// Removed when dropped.
pub struct Container<'a> {
    buildah: &'a Buildah,
    id: String,
    pub user: String,
    pub entrypoint: Vec<String>,
    pub arguments: Vec<String>,
    health: Vec<String>,
}

impl Container<'_> {
    /// Runs a program in it as the image's user, with volumes and variables as the options say.
    pub fn command<S: AsRef<str>>(&self, options: &[String], words: &[S]) -> Command {
        let mut command = self.buildah.command("run");
        command
            .args(["--isolation", "chroot", "--network", "host"])
            .args(options)
            .args([&self.id, "--"])
            .args(words.iter().map(AsRef::as_ref));
        command
    }

    /// Starts what the image is for; what it says goes to the log.
    pub fn start(&self, options: &[String], arguments: &[String], log: &Path) -> Result<Running> {
        let output = fs::File::create(log)?;
        let words: Vec<&String> = self.entrypoint.iter().chain(arguments).collect();
        let mut command = self.command(options, &words);
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command.spawn().context("buildah cannot be started")?;
        Ok(Running {
            child: Some(child),
            log: log.to_owned(),
        })
    }

    /// What the image's own health check says.
    pub fn is_healthy(&self, options: &[String]) -> bool {
        os::run(&mut self.command(options, &self.health)).is_ok()
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.buildah.run("rm", &[&self.id]) {
            eprintln!("dev: {error:#}");
        }
    }
}

/// A container's program, ended when dropped.
pub struct Running {
    child: Option<Child>,
    pub log: PathBuf,
}

impl Running {
    pub fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_none_or(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    /// Waits for its end, which something else has asked for.
    pub fn ended(mut self) -> Result<()> {
        let mut child = self.child.take().context("it has ended")?;
        let status = child.wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else {
            return;
        };
        // buildah does not hand signals on. SIGINT: PostgreSQL shuts down fast.
        for signal in [Signal::SIGINT, Signal::SIGKILL] {
            for pid in descendants(child.id()) {
                let _gone_already = kill(Pid::from_raw(pid), signal);
            }
            if wait_until(PATIENCE, || matches!(child.try_wait(), Ok(Some(_)))) {
                return;
            }
        }
    }
}

/// The processes that come from one, the youngest generation last.
fn descendants(pid: u32) -> Vec<i32> {
    let mut found = vec![i32::try_from(pid).unwrap_or(-1)];
    let mut next = 0;
    while next < found.len() {
        let tasks = format!("/proc/{}/task", found[next]);
        for task in fs::read_dir(tasks).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            );
        }
        next += 1;
    }
    found.split_off(1)
}
