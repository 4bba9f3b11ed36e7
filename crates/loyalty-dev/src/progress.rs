//! What is being done and for how long, in one line on standard error; what the programs say
//! that are run goes to a log.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use loyalty_testkit::os::log_tail;

/// How many lines of a log an error message has.
const TAIL: usize = 30;

/// Steps that are quicker than this are not worth a second line in a log.
const QUICK: Duration = Duration::from_secs(2);

/// One step of a command. On a terminal its line counts the seconds.
pub struct Step {
    line: String,
    start: Instant,
    ticker: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Step {
    /// `number` is shown where `./dev` has counted the steps of its command.
    pub fn begin(number: u8, what: &str) -> Self {
        let count = std::env::var("LOYALTY_STEPS").unwrap_or_default();
        let line = if count.is_empty() {
            format!("dev: {what}")
        } else {
            format!("dev: [{number}/{count}] {what}")
        };
        let start = Instant::now();
        let ticker = if std::io::stderr().is_terminal() {
            let (end, ended) = channel();
            let line = line.clone();
            let thread = std::thread::spawn(move || {
                loop {
                    eprint!("\r\x1b[K{line}, {} s …", start.elapsed().as_secs());
                    if ended.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout)
                    {
                        break;
                    }
                }
                eprint!("\r\x1b[K");
            });
            Some((end, thread))
        } else {
            eprintln!("{line}");
            None
        };
        Self {
            line,
            start,
            ticker,
        }
    }

    fn stop(&mut self) -> bool {
        let Some((end, thread)) = self.ticker.take() else {
            return false;
        };
        drop(end);
        thread.join().is_ok()
    }

    /// It is done.
    pub fn end(mut self) {
        let on_terminal = self.stop();
        let took = self.start.elapsed();
        if on_terminal || took >= QUICK {
            eprintln!("{}: {} s", self.line, took.as_secs());
        }
    }
}

/// A step that failed ends without a word: the error has them.
impl Drop for Step {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The log of this call of `./dev`, which has begun it.
pub fn log(state: &Path) -> PathBuf {
    std::env::var_os("LOYALTY_LOG").map_or_else(|| state.join("dev.log"), PathBuf::from)
}

/// Runs a command with all it says in the log. Its last lines there become the error.
pub fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    start_logged(command, log)?.wait(log)
}

/// A command that runs beside others, with all it says in the log.
pub struct Logged {
    name: String,
    child: std::process::Child,
}

pub fn start_logged(command: &mut Command, log: &Path) -> Result<Logged> {
    let name = command.get_program().to_string_lossy().into_owned();
    let name = name.rsplit('/').next().unwrap_or(&name).to_owned();
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("{} cannot be written", log.display()))?;
    writeln!(file, "$ {command:?}")?;
    let child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("{name} cannot be started"))?;
    Ok(Logged { name, child })
}

impl Logged {
    pub fn wait(mut self, log: &Path) -> Result<()> {
        let status = self.child.wait()?;
        if !status.success() {
            bail!(
                "{} failed ({status}). The end of {}:\n{}",
                self.name,
                log.display(),
                log_tail(log, TAIL)
            );
        }
        Ok(())
    }
}

/// Nobody waits for it any more.
impl Drop for Logged {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::run_logged;

    #[test]
    fn what_a_program_says_goes_to_the_log_and_into_the_error() -> anyhow::Result<()> {
        let name = format!("loyalty-progress-{}.log", std::process::id());
        let log = std::env::temp_dir().join(name);
        let said = "echo said; echo wrong >&2";
        run_logged(Command::new("sh").args(["-c", said]), &log)?;
        let failed = run_logged(Command::new("sh").args(["-c", "echo last; exit 3"]), &log);
        let text = fs::read_to_string(&log)?;
        fs::remove_file(&log)?;
        assert!(
            text.contains("said\nwrong\n") && text.contains("last\n"),
            "{text}"
        );
        let error = format!(
            "{:#}",
            failed.err().unwrap_or_else(|| anyhow::anyhow!("none"))
        );
        assert!(
            error.contains("last") && error.contains(&log.display().to_string()),
            "{error}"
        );
        Ok(())
    }
}
