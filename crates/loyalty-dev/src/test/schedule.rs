//! Runs the test programs side by side, and shows what each printed, whole.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use loyalty_testkit::os;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::task::JoinSet;

use super::total::Total;

/// As many are said to be the longest.
const LONGEST: usize = 8;

pub struct Job {
    pub name: String,
    pub tests: usize,
    pub command: Command,
}

/// How long each took last, kept between runs, so that the long ones begin first.
pub struct Durations {
    file: PathBuf,
    seconds: BTreeMap<String, f64>,
}

impl Durations {
    pub fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_default();
        Self {
            file: file.to_owned(),
            seconds: serde_json::from_str(&text).unwrap_or_default(),
        }
    }

    /// By the last duration; at first by the number of tests.
    fn sort(&self, jobs: &mut [Job]) {
        let expected = |job: &Job| match self.seconds.get(&job.name) {
            Some(seconds) => *seconds,
            None => job.tests as f64,
        };
        jobs.sort_by(|a, b| expected(b).total_cmp(&expected(a)));
    }

    fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.seconds)?;
        fs::write(&self.file, text + "\n")
            .with_context(|| format!("{} cannot be written", self.file.display()))
    }
}

/// Process groups that run just now.
#[derive(Clone, Default)]
struct Running(Arc<Mutex<Vec<Pid>>>);

impl Running {
    fn update(&self, change: impl FnOnce(&mut Vec<Pid>)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn kill(&self) {
        self.update(|groups| {
            for group in groups.drain(..) {
                let _gone_already = killpg(group, Signal::SIGKILL);
            }
        });
    }
}

struct Finished {
    name: String,
    printed: String,
    status: ExitStatus,
    took: Duration,
}

/// Runs `at_once` of the jobs at a time; what they print goes through files in `dir`. What a
/// single one prints is shown as it comes.
pub async fn run(
    mut jobs: Vec<Job>,
    at_once: usize,
    dir: &Path,
    mut durations: Durations,
) -> Result<Total> {
    os::create_dir(dir)?;
    durations.sort(&mut jobs);
    let is_live = jobs.len() == 1;
    let mut waiting = VecDeque::from(jobs);
    let running = Running::default();
    let mut tasks = JoinSet::new();
    let mut total = Total::default();
    let mut took: Vec<(String, Duration)> = Vec::new();
    loop {
        while tasks.len() < at_once
            && let Some(job) = waiting.pop_front()
        {
            let file = dir.join(format!("{}.log", job.name.replace(' ', "-")));
            tasks.spawn(work(job, file, is_live, running.clone()));
        }
        let finished = tokio::select! {
            finished = tasks.join_next() => finished,
            name = os::interrupted() => {
                running.kill();
                bail!("stopped by {}", name?);
            }
        };
        let Some(finished) = finished else { break };
        let finished = finished??;
        if !is_live {
            show(&finished)?;
        }
        total.add(&finished.name, &finished.printed, finished.status);
        let seconds = finished.took.as_secs_f64();
        durations.seconds.insert(finished.name.clone(), seconds);
        took.push((finished.name, finished.took));
    }
    durations.save()?;
    took.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
    if took.len() > 1 {
        let longest = took.iter().take(LONGEST);
        let told: Vec<String> = longest
            .map(|(name, took)| format!("{name} {} s", took.as_secs()))
            .collect();
        eprintln!("dev: the longest: {}", told.join(", "));
    }
    Ok(total)
}

fn heading(name: &str) -> String {
    format!("     Running {name}\n")
}

fn show(finished: &Finished) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(heading(&finished.name).as_bytes())?;
    out.write_all(finished.printed.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Runs one to its end. Into a file: a pipe would stay open as long as any process that the
/// tests left behind.
async fn work(job: Job, file: PathBuf, is_live: bool, running: Running) -> Result<Finished> {
    let log = fs::File::create(&file)?;
    let mut command = tokio::process::Command::from(job.command);
    // A process group, so that what it starts can be ended with it.
    command
        .process_group(0)
        .stdout(log.try_clone()?)
        .stderr(log);
    let begun = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("{} cannot be started", job.name))?;
    let group = child.id().map(|id| Pid::from_raw(id.cast_signed()));
    running.update(|groups| groups.extend(group));
    if is_live {
        print!("{}", heading(&job.name));
    }
    let mut shown = 0;
    let status = loop {
        let status = tokio::time::timeout(Duration::from_millis(200), child.wait()).await;
        if is_live {
            shown = show_from(&file, shown)?;
        }
        if let Ok(status) = status {
            break status?;
        }
    };
    running.update(|groups| groups.retain(|other| Some(*other) != group));
    let printed = fs::read(&file)?;
    Ok(Finished {
        name: job.name,
        printed: String::from_utf8_lossy(&printed).into_owned(),
        status,
        took: begun.elapsed(),
    })
}

/// Shows what a file has from a place on; where it ends now.
fn show_from(file: &Path, place: u64) -> Result<u64> {
    let mut log = fs::File::open(file)?;
    log.seek(SeekFrom::Start(place))?;
    let mut new = Vec::new();
    log.read_to_end(&mut new)?;
    let mut out = std::io::stdout().lock();
    out.write_all(&new)?;
    out.flush()?;
    Ok(place + new.len() as u64)
}
