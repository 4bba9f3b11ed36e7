//! The test programs: built by one call of cargo, asked which tests they have.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use loyalty_testkit::os::{self, path_variable};
use serde::Deserialize;

use super::Selection;

/// The program that tests of mails start, built along with them.
const RELAY: &str = "loyalty-relay";

/// What one call of cargo built.
pub struct Built {
    pub binaries: Vec<Binary>,
    pub relay: PathBuf,
}

pub struct Binary {
    pub name: String,
    pub program: PathBuf,
    /// The folder of its package, in which cargo would run it.
    pub dir: PathBuf,
}

/// A line of what cargo says about a build, as far as it is needed.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

impl Built {
    pub fn build(repo: &Path, selection: &Selection) -> Result<Self> {
        let mut command = os::cargo_command(path_variable("LOYALTY_CARGO")?);
        command
            .current_dir(repo)
            .args(["build", "--bin", RELAY])
            .args(["--message-format", "json-render-diagnostics"]);
        if selection.files.is_empty() {
            command.arg("--tests");
        }
        for file in &selection.files {
            command.args(["--test", file]);
        }
        let output = command
            .stderr(Stdio::inherit())
            .output()
            .context("cargo cannot be started")?;
        if !output.status.success() {
            bail!("the tests do not build");
        }
        Self::read(&String::from_utf8_lossy(&output.stdout))
    }

    fn read(said: &str) -> Result<Self> {
        let mut binaries = Vec::new();
        let mut relay = None;
        for line in said.lines() {
            let message: Message = serde_json::from_str(line)
                .with_context(|| format!("cargo said what is not understood: {line}"))?;
            let Message {
                executable: Some(program),
                manifest_path: Some(manifest),
                target: Some(target),
                profile: Some(profile),
            } = message
            else {
                continue;
            };
            if !profile.test {
                if target.name == RELAY {
                    relay = Some(program);
                }
                continue;
            }
            let is_unit = !target.kind.iter().any(|kind| kind == "test");
            let suffix = if is_unit { " unit tests" } else { "" };
            binaries.push(Binary {
                name: format!("{}{suffix}", target.name),
                program,
                dir: manifest.parent().unwrap_or(Path::new("/")).to_owned(),
            });
        }
        Ok(Self {
            binaries,
            relay: relay.context("cargo built no relay")?,
        })
    }
}

impl Binary {
    pub fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .current_dir(&self.dir)
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// The names of the tests that it would run.
    pub fn list(&self, arguments: &[String]) -> Result<Vec<String>> {
        let mut command = self.command(arguments);
        let listed = os::run(command.args(["--list", "--format", "terse"]))
            .with_context(|| format!("{} does not list its tests", self.name))?;
        Ok(listed
            .lines()
            .filter_map(|line| Some(line.strip_suffix(": test")?.to_owned()))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::Built;

    #[test]
    fn only_test_programs_are_run() -> anyhow::Result<()> {
        let built = Built::read(
            r#"{"reason":"compiler-artifact","manifest_path":"/a/tests/Cargo.toml","target":{"kind":["lib"],"name":"x"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/a/tests/Cargo.toml","target":{"kind":["test"],"name":"ledger"},"profile":{"test":true},"executable":"/t/ledger-1"}
{"reason":"compiler-artifact","manifest_path":"/a/core/Cargo.toml","target":{"kind":["lib"],"name":"core"},"profile":{"test":true},"executable":"/t/core-1"}
{"reason":"compiler-artifact","manifest_path":"/a/relay/Cargo.toml","target":{"kind":["bin"],"name":"loyalty-relay"},"profile":{"test":false},"executable":"/t/loyalty-relay"}
{"reason":"build-finished","success":true}"#,
        )?;
        let names: Vec<&str> = built.binaries.iter().map(|b| b.name.as_str()).collect();
        assert_eq!(names, ["ledger", "core unit tests"]);
        assert_eq!(built.relay.to_str(), Some("/t/loyalty-relay"));
        assert_eq!(built.binaries[0].dir.to_str(), Some("/a/tests"));
        Ok(())
    }
}
