//! What `./dev test` said: which tests passed, failed and were not run.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _, pipe};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::test::{LEFT_OUT, NO_CHECKS};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    /// With the file that each is in.
    pub failed: Vec<String>,
    /// The same, with the reason.
    pub not_run: Vec<String>,
    /// The extension was built and the tests began.
    pub started: bool,
    /// What ended the run, if it was not the tests.
    pub trouble: Option<String>,
    /// `./dev test` had all it wants, so that its errors are ours.
    checked: bool,
    file: String,
    last_word: String,
}

impl Tally {
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty() || (self.checked && self.trouble.is_some())
    }

    fn read(&mut self, line: &str) {
        let text = line.trim();
        if let Some(test) = line.strip_prefix(LEFT_OUT) {
            self.not_run.push(test.to_owned());
        } else if let Some(said) = line.strip_prefix("dev: ") {
            self.checked |= said.ends_with(NO_CHECKS);
            self.started |= said == "starting a cluster for the tests";
            self.last_word = said.to_owned();
        } else if let Some(file) = text.strip_prefix("Running ") {
            let name = file.split(" (").next().unwrap_or(file);
            self.file = name.trim_start_matches("unittests ").to_owned();
        } else if let Some(package) = text.strip_prefix("Doc-tests ") {
            self.file = format!("examples of {package}");
        } else if let Some((test, outcome)) = line
            .strip_prefix("test ")
            .and_then(|line| line.rsplit_once(" ... "))
        {
            let name = format!("{}: {test}", self.file);
            match outcome {
                "ok" => self.passed += 1,
                "FAILED" => self.failed.push(name),
                _ if outcome.starts_with("ignored") => {
                    self.not_run.push(format!("{name}, {outcome}"));
                }
                _ => {}
            }
        }
    }

    fn end(&mut self, success: bool) {
        if !success && self.failed.is_empty() {
            self.trouble = Some(std::mem::take(&mut self.last_word));
        }
    }
}

/// Runs `./dev test`, keeps what it says in `log`, and tells the gist of it.
pub fn run(command: &mut Command, log: &Path) -> Result<Tally> {
    let (reader, writer) = pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().context("the tests cannot be started")?;
    // Ours of the writing ends, or the reading one would never see its end.
    command.stdout(std::process::Stdio::null());
    command.stderr(std::process::Stdio::null());
    eprintln!("dev: all that the tests say goes to {}", log.display());
    let mut log = fs::File::create(log)?;
    let mut tally = Tally::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        log.write_all(&line)?;
        log.write_all(b"\n")?;
        let line = String::from_utf8_lossy(&line);
        tally.read(&line);
        let told = ["dev: ", "error", "test result: "];
        if told.iter().any(|start| line.starts_with(start)) || line.ends_with(" ... FAILED") {
            eprintln!("{line}");
        }
    }
    tally.end(child.wait()?.success());
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::Tally;

    fn told(lines: &[&str], success: bool) -> Tally {
        let mut tally = Tally::default();
        for line in lines {
            tally.read(line);
        }
        tally.end(success);
        tally
    }

    #[test]
    fn nothing_that_was_not_run_counts_as_passed() {
        let tally = told(
            &[
                "dev: all tests; no format check, no lint",
                "dev: starting a cluster for the tests",
                "dev: left out: ticks, which wants pg_cron",
                "     Running run",
                "test one::passes ... ok",
                "test one::fails ... FAILED",
                "test long ... ignored, ./dev matrix runs it",
                "test result: FAILED. 1 passed; 1 failed; 1 ignored",
                "dev: tests failed",
            ],
            false,
        );
        assert_eq!(tally.passed, 1);
        assert_eq!(tally.failed, ["run: one::fails"]);
        assert_eq!(
            tally.not_run,
            [
                "ticks, which wants pg_cron",
                "run: long, ignored, ./dev matrix runs it"
            ]
        );
        assert!(tally.started && tally.has_failed() && tally.trouble.is_none());
    }

    #[test]
    fn a_missing_package_is_no_failure_and_a_build_that_fails_is_one() {
        let missing = told(&["dev: apt-get install failed"], false);
        assert!(!missing.has_failed() && !missing.started);
        assert_eq!(missing.trouble.as_deref(), Some("apt-get install failed"));

        let broken = told(
            &[
                "dev: all tests; no format check, no lint",
                "dev: the extension does not build",
            ],
            false,
        );
        assert!(broken.has_failed() && !broken.started);

        // a test program that crashed
        let crashed = told(
            &[
                "dev: all tests; no format check, no lint",
                "test one ... ok",
                "dev: tests failed",
            ],
            false,
        );
        assert!(crashed.has_failed());
    }
}
