//! `./dev test`: format, lint, build, then the tests against a cluster of
//! their own, which is gone afterwards whatever happened.

mod binary;
mod schedule;
mod total;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::context::Context;
use crate::prefix::Prefix;
use crate::progress::{Step, run_logged};
use binary::Built;
use loyalty_testkit::cluster::Cluster;
use loyalty_testkit::keys;
use loyalty_testkit::os::{self, end_process, path_variable, processes_with, run_visible};
use loyalty_testkit::{FAST_SETTINGS, TestServer};
use schedule::{Durations, Job};
use total::Total;

const TEMPLATE: &str = "loyalty_template";
const CRON_DATABASE: &str = "loyalty_cron";

/// Its own tests cannot link without a server around them; `tests/` drives it
/// from outside.
const EXTENSION_PACKAGE: &str = "pg_loyalty";

/// Which tests to run; by default all, after the checks of format and lints.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Selection {
    /// Only tests whose names contain one of these
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Only the tests of a folder, such as tests/tests/FILE
    #[arg(long = "test", value_name = "FILE")]
    files: Vec<String>,
    /// How many test programs run at once [default: one more than there are cores]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Only the tests that are ignored otherwise
    #[arg(long, hide = true)]
    ignored: bool,
    /// No format check and no lints
    #[arg(long, hide = true)]
    no_lint: bool,
    /// Leave out the tests that want this of a server, which it has not
    #[arg(long, value_name = "WHAT", hide = true)]
    without: Vec<String>,
    /// More for the tests' environment; what they print is shown then
    #[arg(skip)]
    variables: Vec<(&'static str, String)>,
}

/// What not every PostgreSQL has, and the names of the tests that want it.
pub const WANTED: [(&str, &[&str]); 6] = [
    (
        "pg_cron",
        &[
            "a_dump_with_schedules",
            "docs_operations_prints_what_it_shows",
            "pg_cron_absent_stopped_and_doubled",
            "pg_cron_ticks",
        ],
    ),
    ("pg_stat_statements", &["secrets_are_left_nowhere"]),
    ("pgaudit", &["secrets_are_left_nowhere"]),
    (
        "plpgsql_check",
        &["plpgsql_check_finds_nothing", "plpgsql_check_is_heard"],
    ),
    (TLS, &["the_database_is_reached_by_tls_and_password"]),
    (DIRECTORIES, &["packaging_has_the_files_that_are_installed"]),
];

/// The others are extensions.
pub const TLS: &str = "TLS";
pub const DIRECTORIES: &str = "Debian's directories";

/// Says that only tests are run.
pub const NO_CHECKS: &str = "no format check, no lint";

/// Before the name of a test in what is said of those that are left out.
pub const LEFT_OUT: &str = "dev: left out: ";

impl Selection {
    /// A test of tests/tests/FILE, told more by its environment, and heard.
    pub fn told(file: &str, name: &str, variables: Vec<(&'static str, String)>) -> Self {
        Self {
            names: vec![name.to_owned()],
            files: vec![file.to_owned()],
            variables,
            ..Self::default()
        }
    }

    fn is_all(&self) -> bool {
        self.names.is_empty() && self.files.is_empty() && !self.ignored
    }

    fn has_checks(&self) -> bool {
        self.is_all() && !self.no_lint
    }

    fn has(&self, what: &str) -> bool {
        !self.without.iter().any(|name| name == what)
    }

    /// The names of tests to leave out, and what they want.
    fn left_out(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        WANTED
            .into_iter()
            .filter(|(what, _)| !self.has(what))
            .flat_map(|(what, tests)| tests.iter().map(move |test| (*test, what)))
    }

    /// How many test programs run at once. Tests wait for servers that start and for the disk;
    /// each program runs as many tests at once as there are cores.
    fn at_once(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.unwrap_or(cores + 1)
    }
}

pub async fn test(context: &Context, selection: &Selection) -> Result<()> {
    if selection.has_checks() {
        format(context)?;
    } else {
        let which = if selection.is_all() {
            "all"
        } else {
            "only some"
        };
        eprintln!("dev: {which} tests; {NO_CHECKS}");
    }
    let prefix = Prefix::ensure(context)?;
    context.ensure_postgrest()?;
    if selection.has_checks() {
        lint(context)?;
    }
    clear_leftovers(context)?;
    let run = TestRun::start(context, &prefix, selection.has("pg_cron")).await?;
    let outcome = run.run_tests(selection).await;
    run.report_crashes();
    drop(run);
    let total = outcome?;
    for test in &total.failed {
        eprintln!("dev: failed: {test}");
    }
    println!("{total}");
    if !total.failed.is_empty() {
        bail!("tests failed");
    }
    Ok(())
}

/// `cargo fmt --check`.
pub fn format(context: &Context) -> Result<()> {
    let step = Step::begin(3, "cargo fmt --check");
    let mut check = Command::new(path_variable("LOYALTY_CARGO_FMT")?);
    check
        .current_dir(&context.repo)
        .args(["fmt", "--all", "--check"]);
    run_logged(&mut check, &context.log())
        .context("the format differs; mend it with: ./dev fmt")?;
    step.end();
    Ok(())
}

/// Rewrites the sources in the standard format.
pub fn reformat(context: &Context) -> Result<()> {
    run_visible(
        Command::new(path_variable("LOYALTY_CARGO_FMT")?)
            .current_dir(&context.repo)
            .args(["fmt", "--all"]),
    )
}

/// Clippy, warnings as errors.
pub fn lint(context: &Context) -> Result<()> {
    let step = Step::begin(4, "cargo clippy -D warnings");
    let mut clippy = os::cargo_command(path_variable("LOYALTY_CARGO_CLIPPY")?);
    clippy
        .current_dir(&context.repo)
        .args(["clippy", "--quiet", "--workspace", "--all-targets"])
        .args(["--no-default-features", "--features"])
        .arg(format!("{EXTENSION_PACKAGE}/pg{}", context.pg_major))
        .args(["--", "-D", "warnings"])
        .env("PGRX_PG_CONFIG_PATH", context.prefix().pg_config());
    run_logged(&mut clippy, &context.log()).context("clippy has warnings")?;
    step.end();
    Ok(())
}

/// A run's cluster and scratch directory; dropping it removes both.
pub struct TestRun {
    dir: PathBuf,
    cluster: Cluster,
    jwt_secret: String,
    secret_dir: PathBuf,
    context: Context,
}

impl TestRun {
    pub async fn start(context: &Context, prefix: &Prefix, cron: bool) -> Result<Self> {
        let dir = runs_dir(context).join(std::process::id().to_string());
        eprintln!("dev: starting a cluster for the tests");
        os::create_dir(&dir)?;
        let cluster = Cluster::at(
            &prefix.bin(),
            &dir.join("cluster"),
            os::any_free_port()?,
            &context.owner,
        );
        let jwt_secret = os::random_hex(32)?;
        let secret_dir = keys::ensure(&context.owner, &dir.join("secret"), &jwt_secret)?;
        let run = Self {
            dir,
            cluster,
            jwt_secret,
            secret_dir,
            context: context.clone(),
        };
        let cron_settings = if cron {
            format!(
                "shared_preload_libraries = 'pg_cron'\n\
                 cron.database_name = '{CRON_DATABASE}'\n\
                 cron.use_background_workers = on\n"
            )
        } else {
            String::new()
        };
        run.cluster.init(&format!(
            "{FAST_SETTINGS}\
                 listen_addresses = ''\n\
                 max_connections = 300\n\
                 max_worker_processes = 32\n\
                 max_prepared_transactions = 10\n\
                 {cron_settings}{}",
            keys::setting(&run.secret_dir)
        ))?;
        run.cluster.start()?;
        let client = run.cluster.connect("postgres").await?;
        client
            .batch_execute(&format!("create database {TEMPLATE} template template0"))
            .await?;
        client
            .batch_execute(&format!(
                "create database {CRON_DATABASE} template template0"
            ))
            .await?;
        run.cluster
            .connect(TEMPLATE)
            .await?
            .batch_execute("create extension pg_loyalty")
            .await
            .context("create extension pg_loyalty failed")?;
        // The extension makes roles without login.
        client
            .batch_execute("alter role loyalty_authenticator login")
            .await?;
        client
            .batch_execute(&format!(
                "alter database {TEMPLATE} with is_template true allow_connections false"
            ))
            .await?;
        Ok(run)
    }

    /// Builds the tests and runs those that are selected.
    async fn run_tests(&self, selection: &Selection) -> Result<Total> {
        eprintln!("dev: building the tests");
        let built = Built::build(&self.context.repo, selection)?;
        let mut total = Total::default();
        let mut arguments = selection.names.clone();
        arguments.extend(selection.ignored.then(|| "--ignored".to_owned()));
        arguments.extend((!selection.variables.is_empty()).then(|| "--nocapture".to_owned()));
        let mut listed = Vec::new();
        for binary in built.binaries {
            let tests = binary.list(&arguments)?;
            listed.push((binary, tests));
        }
        // A misspelt name would pass, having run nothing.
        if listed.iter().all(|(_, tests)| tests.is_empty()) {
            bail!("no test is named like {:?}", selection.names);
        }
        for (name, what) in selection.left_out() {
            let mut is_there = false;
            for (_, tests) in &mut listed {
                for test in tests.extract_if(.., |test| test.contains(name)) {
                    eprintln!("{LEFT_OUT}{test}, which wants {what}");
                    total.skipped += 1;
                    is_there = true;
                }
            }
            if !is_there && selection.is_all() {
                bail!("{name} should be left out, and there is no such test");
            }
            arguments.extend(["--skip".to_owned(), name.to_owned()]);
        }
        let mut jobs = Vec::new();
        for (binary, tests) in listed {
            if tests.is_empty() {
                continue;
            }
            let mut command = binary.command(&arguments);
            command
                .envs(self.variables())
                .env("LOYALTY_TEST_RELAY", &built.relay)
                .envs(selection.variables.iter().cloned());
            jobs.push(Job {
                name: binary.name,
                tests: tests.len(),
                command,
            });
        }
        if selection.is_all() {
            jobs.push(self.examples()?);
        }
        let durations = Durations::read(&self.context.state.join("test-seconds.json"));
        let dir = self.dir.join("printed");
        let run = schedule::run(jobs, selection.at_once(), &dir, durations).await?;
        Ok(total.and(run))
    }

    /// The examples in the crates' documentation, which only cargo can run.
    fn examples(&self) -> Result<Job> {
        let mut command = os::cargo_command(path_variable("LOYALTY_CARGO")?);
        command
            .current_dir(&self.context.repo)
            .args(["test", "--quiet", "--doc"])
            .envs(self.variables());
        Ok(Job {
            name: "examples".to_owned(),
            tests: 1,
            command,
        })
    }

    /// For trials within this process.
    pub fn server(&self) -> TestServer {
        TestServer {
            bin: self.cluster.bin.clone(),
            socket_dir: self.cluster.socket_dir.clone(),
            port: self.cluster.port,
            pg_major: self.context.pg_major,
            template: TEMPLATE.to_owned(),
            cron_database: CRON_DATABASE.to_owned(),
            postgrest: self.context.postgrest_binary(),
            jwt_secret: self.jwt_secret.clone(),
            secret_dir: self.secret_dir.clone(),
            dir: self.dir.clone(),
        }
    }

    /// The protocol with [`TestServer`].
    fn variables(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        vec![
            ("LOYALTY_TEST_BIN", text(&self.cluster.bin)),
            ("LOYALTY_TEST_PGHOST", text(&self.cluster.socket_dir)),
            ("LOYALTY_TEST_PGPORT", self.cluster.port.to_string()),
            ("LOYALTY_TEST_PG_MAJOR", self.context.pg_major.to_string()),
            ("LOYALTY_TEST_TEMPLATE", TEMPLATE.to_owned()),
            ("LOYALTY_TEST_CRON_DATABASE", CRON_DATABASE.to_owned()),
            (
                "LOYALTY_TEST_POSTGREST",
                text(&self.context.postgrest_binary()),
            ),
            ("LOYALTY_TEST_JWT_SECRET", self.jwt_secret.clone()),
            ("LOYALTY_TEST_SECRET_DIR", text(&self.secret_dir)),
            ("LOYALTY_TEST_DIR", text(&self.dir)),
        ]
    }

    /// A server process that a signal ended would otherwise pass unseen: the
    /// cluster recovers by itself.
    fn report_crashes(&self) {
        let log = fs::read(&self.cluster.log).unwrap_or_default();
        for line in String::from_utf8_lossy(&log).lines() {
            if line.contains("was terminated by signal") || line.contains("PANIC:") {
                eprintln!("dev: the server's log says: {line}");
            }
        }
    }
}

impl Drop for TestRun {
    fn drop(&mut self) {
        if let Err(error) = remove_run(&self.dir, &self.cluster.bin, &self.context) {
            eprintln!("dev: the test cluster is not wholly removed: {error:#}");
        }
    }
}

fn runs_dir(context: &Context) -> PathBuf {
    context.state.join("test")
}

/// Removes what a run left that was killed before it could.
fn clear_leftovers(context: &Context) -> Result<()> {
    let Ok(entries) = fs::read_dir(runs_dir(context)) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if !pid.is_some_and(|pid| os::is_running(pid, "loyalty-dev")) {
            eprintln!("dev: removing what an earlier test run left");
            remove_run(&entry.path(), &context.prefix().bin(), context)?;
        }
    }
    Ok(())
}

/// Ends every server and PostgREST that was started in `dir`, then removes it.
fn remove_run(dir: &Path, bin: &Path, context: &Context) -> Result<()> {
    let mark = dir.to_string_lossy();
    for entry in fs::read_dir(dir)?.flatten() {
        let cluster = Cluster::at(bin, &entry.path(), 0, &context.owner);
        cluster.stop()?;
    }
    for pid in processes_with(&mark) {
        end_process(pid, &mark)?;
    }
    fs::remove_dir_all(dir).with_context(|| format!("{} cannot be removed", dir.display()))
}
