//! `./dev test`: format, lint, build, then the tests against a cluster of
//! their own, which is gone afterwards whatever happened.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::cluster::Cluster;
use crate::context::{Context, path_variable};
use crate::keys;
use crate::os::{self, end_process, processes_with, run_visible};
use crate::prefix::Prefix;
use crate::testkit::FAST_SETTINGS;

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
    /// Only the tests of tests/FILE.rs
    #[arg(long = "test", value_name = "FILE")]
    files: Vec<String>,
}

impl Selection {
    fn is_all(&self) -> bool {
        self.names.is_empty() && self.files.is_empty()
    }

    /// Arguments of cargo.
    fn targets(&self) -> impl Iterator<Item = &str> {
        self.files.iter().flat_map(|file| ["--test", file])
    }
}

pub async fn test(context: &Context, selection: &Selection) -> Result<()> {
    if selection.is_all() {
        format(context)?;
    } else {
        eprintln!("dev: only some tests; no format check, no lint");
    }
    let prefix = Prefix::ensure(context)?;
    context.ensure_postgrest()?;
    if selection.is_all() {
        lint(context)?;
    }
    clear_leftovers(context)?;
    let run = TestRun::start(context, &prefix).await?;
    let outcome = run.run_tests(selection).await;
    run.report_crashes();
    drop(run);
    outcome
}

/// `cargo fmt --check`.
pub fn format(context: &Context) -> Result<()> {
    eprintln!("dev: cargo fmt --check");
    run_visible(
        Command::new(path_variable("LOYALTY_CARGO_FMT")?)
            .current_dir(&context.repo)
            .args(["fmt", "--all", "--check"]),
    )
    .context("the format differs; mend it with: ./dev fmt")
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
    eprintln!("dev: cargo clippy -D warnings");
    run_visible(
        os::cargo_command(path_variable("LOYALTY_CARGO_CLIPPY")?)
            .current_dir(&context.repo)
            .args(["clippy", "--quiet", "--workspace", "--all-targets"])
            .args(["--no-default-features", "--features"])
            .arg(format!("{EXTENSION_PACKAGE}/pg{}", context.pg_major))
            .args(["--", "-D", "warnings"])
            .env("PGRX_PG_CONFIG_PATH", context.prefix().pg_config()),
    )
    .context("clippy has warnings")
}

/// A run's cluster and scratch directory; dropping it removes both.
struct TestRun {
    dir: PathBuf,
    cluster: Cluster,
    jwt_secret: String,
    secret_dir: PathBuf,
    context: Context,
}

impl TestRun {
    async fn start(context: &Context, prefix: &Prefix) -> Result<Self> {
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
        run.cluster.init(&format!(
            "{FAST_SETTINGS}\
                 listen_addresses = ''\n\
                 max_connections = 300\n\
                 max_worker_processes = 32\n\
                 max_prepared_transactions = 10\n\
                 shared_preload_libraries = 'pg_cron'\n\
                 cron.database_name = '{CRON_DATABASE}'\n\
                 cron.use_background_workers = on\n\
                 {}",
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

    fn cargo_test(&self, selection: &Selection, arguments: &[&str]) -> Result<Command> {
        let mut command = os::cargo_command(path_variable("LOYALTY_CARGO")?);
        command
            .current_dir(&self.context.repo)
            .args(["test", "--workspace", "--no-fail-fast"])
            .args(["--exclude", EXTENSION_PACKAGE])
            .args(selection.targets())
            .args(arguments)
            .args(&selection.names)
            .envs(self.variables());
        Ok(command)
    }

    async fn run_tests(&self, selection: &Selection) -> Result<()> {
        if !selection.names.is_empty() {
            // A misspelt name would pass, having run nothing.
            let listed = os::run(&mut self.cargo_test(selection, &["--quiet", "--", "--list"])?)?;
            if !listed.lines().any(|line| line.ends_with(": test")) {
                bail!("no test is named like {:?}", selection.names);
            }
        }
        let mut command = tokio::process::Command::from(self.cargo_test(selection, &["--"])?);
        // A process group, so that the test programs can be ended with cargo.
        command.process_group(0);
        let mut cargo = command.spawn().context("cargo cannot be started")?;
        tokio::select! {
            status = cargo.wait() => {
                if !status?.success() {
                    bail!("tests failed");
                }
                Ok(())
            }
            name = os::interrupted() => {
                if let Some(group) = cargo.id() {
                    let _gone_already = killpg(Pid::from_raw(group.cast_signed()), Signal::SIGKILL);
                }
                cargo.wait().await?;
                bail!("stopped by {}", name?)
            }
        }
    }

    /// The protocol with [`crate::testkit::TestServer`].
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
