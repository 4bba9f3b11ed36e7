//! `./dev matrix`: all tests on each supported version of PostgreSQL that can be had here, and
//! a table of what was run and what was not.

mod room;
mod tally;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use crate::bench::report::aligned;
use crate::chroot;
use crate::context::Context;
use crate::prefix::{Prefix, extension_dir_of};
use crate::test::{DIRECTORIES, TLS, WANTED};
use loyalty_testkit::os::{create_dir, plain_command, run};
use room::Room;
use tally::Tally;

/// The major versions that are supported.
const SUPPORTED: [u16; 4] = [15, 16, 17, 18];

/// The Debian release that has a major version.
const DEBIAN: [(u16, &str); 3] = [(15, "bookworm"), (17, "trixie"), (18, "forky")];

/// From and to: what `pg_upgrade` is tried with.
const UPGRADE: (u16, u16) = (15, 18);

/// The ignored tests that want a second PostgreSQL, whose programs [`NEXT_BIN`] names.
const UPGRADE_TESTS: &str = "pg_upgrade";
const NEXT_BIN: &str = "LOYALTY_TEST_NEXT_BIN";

#[derive(Clone, Debug, clap::Args)]
pub struct MatrixArgs {
    /// Only tests whose names contain one of these
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Only the tests of a folder, such as tests/tests/FILE
    #[arg(long = "test", value_name = "FILE")]
    files: Vec<String>,
    /// Only this major version; may be repeated
    #[arg(long, value_name = "MAJOR")]
    only: Vec<u16>,
    /// Never another Debian in a chroot; Python wheels instead, where there are some
    #[arg(long)]
    no_chroot: bool,
    /// Make the chroots again
    #[arg(long)]
    fresh: bool,
    /// Fail also when something was not run
    #[arg(long)]
    all: bool,
}

impl MatrixArgs {
    fn wants(&self, major: u16) -> bool {
        self.only.is_empty() || self.only.contains(&major)
    }

    /// Whether `pg_upgrade` is among what is asked for.
    fn wants_upgrade(&self) -> bool {
        let (old, new) = UPGRADE;
        let chosen = self.files.is_empty() || self.files.iter().any(|file| file == UPGRADE_TESTS);
        self.wants(old) && self.wants(new) && self.names.is_empty() && chosen
    }

    /// Arguments of `./dev test`.
    fn selection(&self) -> Vec<String> {
        let mut arguments = self.names.clone();
        for file in &self.files {
            arguments.extend(["--test".to_owned(), file.clone()]);
        }
        arguments
    }
}

/// Where a major version comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The release of the machine has it, or somebody installed it.
    Machine,
    /// A Debian of another release, in a chroot.
    Debian(&'static str),
    /// A Python wheel, which `./dev wheel` fetches.
    Wheel,
}

impl Source {
    fn of(major: u16, args: &MatrixArgs) -> Result<Self> {
        let installed = format!("/usr/lib/postgresql/{major}/bin/postgres");
        if Path::new(&installed).exists() {
            return Ok(Self::Machine);
        }
        let release = DEBIAN.iter().find(|(has, _)| *has == major);
        Ok(match release {
            Some((_, release)) if *release == chroot::release()? => Self::Machine,
            Some((_, release)) if geteuid().is_root() && !args.no_chroot => Self::Debian(release),
            _ => Self::Wheel,
        })
    }

    fn name(self) -> String {
        match self {
            Self::Machine => "this machine".to_owned(),
            Self::Debian(release) => format!("Debian {release}, chroot"),
            Self::Wheel => "Python wheel".to_owned(),
        }
    }
}

/// A line of the table.
struct Row {
    what: String,
    from: String,
    version: String,
    tally: Tally,
    /// Why nothing, or not everything, was run.
    trouble: Option<String>,
    seconds: u64,
}

pub fn matrix(context: &Context, args: &MatrixArgs) -> Result<()> {
    if let Some(major) = args.only.iter().find(|major| !SUPPORTED.contains(major)) {
        bail!("PostgreSQL {major} is not supported; these are: {SUPPORTED:?}");
    }
    let matrix = Matrix {
        context,
        args,
        dir: context.state.join("matrix"),
    };
    create_dir(&matrix.dir)?;
    let lock = fs::File::create(matrix.dir.join("lock"))?;
    if lock.try_lock().is_err() {
        bail!("another ./dev matrix is at work");
    }
    let mut rows = Vec::new();
    for major in SUPPORTED.into_iter().filter(|major| args.wants(*major)) {
        rows.push(matrix.row(major.to_string(), |row| matrix.major(major, row)));
    }
    if args.wants_upgrade() {
        let (old, new) = UPGRADE;
        rows.push(matrix.row(format!("{old} to {new}"), |row| matrix.upgrade(row)));
    }
    println!("{}", table(&rows));
    let failed = rows.iter().any(|row| row.tally.has_failed());
    let not_run = rows
        .iter()
        .any(|row| row.trouble.is_some() || !row.tally.started || !row.tally.not_run.is_empty());
    if failed {
        bail!("tests failed");
    }
    if args.all && not_run {
        bail!("not everything was run");
    }
    Ok(())
}

struct Matrix<'a> {
    context: &'a Context,
    args: &'a MatrixArgs,
    /// The chroots, the prefixes of wheels and the logs.
    dir: PathBuf,
}

impl Matrix<'_> {
    /// Fills a row; an error is what was not run for.
    fn row(&self, what: String, fill: impl FnOnce(&mut Row) -> Result<()>) -> Row {
        let start = Instant::now();
        let mut row = Row {
            what,
            from: String::new(),
            version: String::new(),
            tally: Tally::default(),
            trouble: None,
            seconds: 0,
        };
        eprintln!("dev: PostgreSQL {}", row.what);
        if let Err(error) = fill(&mut row) {
            row.trouble = Some(format!("{error:#}"));
        }
        row.seconds = start.elapsed().as_secs();
        row
    }

    fn major(&self, major: u16, row: &mut Row) -> Result<()> {
        let source = Source::of(major, self.args)?;
        row.from = source.name();
        let log = self.dir.join(format!("{major}.log"));
        let number = major.to_string();
        // Lints differ from one Rust to the next: ./dev test has them.
        let mut arguments = vec!["test".to_owned(), "--no-lint".to_owned()];
        arguments.extend(self.args.selection());
        match source {
            Source::Machine => {
                arguments.extend(["--pg".to_owned(), number]);
                let mut command = Command::new(self.context.repo.join("dev"));
                command
                    .env("LOYALTY_DEV_DIR", &self.context.state)
                    .args(&arguments);
                row.tally = tally::run(&mut command, &log)?;
                let bin = Path::new("/usr/lib/postgresql").join(major.to_string());
                row.version = version(&mut plain_command(bin.join("bin/postgres")))?;
            }
            Source::Debian(release) => {
                let room = Room::ensure(self.context, &self.dir, release, self.args.fresh)?;
                arguments.extend(["--pg".to_owned(), number]);
                row.tally = tally::run(&mut room.dev(&arguments), &log)?;
                let program = format!("/usr/lib/postgresql/{major}/bin/postgres");
                row.version = version(&mut room.command(&program))?;
            }
            Source::Wheel => {
                let wheel = self.wheel(major)?;
                let tree = wheel.pg_tree.clone().unwrap_or_default();
                row.version = version(&mut plain_command(tree.join("bin/postgres")))?;
                for (what, _) in WANTED {
                    if !has(&tree, what)? {
                        arguments.extend(["--without".to_owned(), what.to_owned()]);
                    }
                }
                let mut command = Command::new("/proc/self/exe");
                command
                    // By this name other runs know that it is alive.
                    .arg0("loyalty-dev")
                    .env("LOYALTY_PG", &number)
                    .env("LOYALTY_PG_TREE", &tree)
                    .env("LOYALTY_DEV_DIR", &wheel.state)
                    .args(&arguments);
                row.tally = tally::run(&mut command, &log)?;
            }
        }
        Ok(())
    }

    /// `pg_upgrade` from one version to another, by the tests that want both.
    fn upgrade(&self, row: &mut Row) -> Result<()> {
        let (old, new) = UPGRADE;
        let source = Source::of(old, self.args)?;
        row.from = format!("{}, {}", source.name(), Source::Wheel.name());
        if !matches!(source, Source::Machine) {
            bail!("the tests want PostgreSQL {old} on the machine itself");
        }
        let wheel = self.wheel(new)?;
        let prefix = Prefix::ensure(&wheel)?;
        row.version = version(&mut plain_command(prefix.bin().join("postgres")))?;
        let mut command = Command::new(self.context.repo.join("dev"));
        command
            .env("LOYALTY_DEV_DIR", &self.context.state)
            .env(NEXT_BIN, prefix.bin())
            .args(["test", "--pg", &old.to_string(), "--ignored", UPGRADE_TESTS]);
        row.tally = tally::run(&mut command, &self.dir.join("upgrade.log"))?;
        Ok(())
    }

    /// The context of a version that comes as a wheel.
    fn wheel(&self, major: u16) -> Result<Context> {
        let fetched = run(Command::new(self.context.repo.join("dev"))
            .arg("wheel")
            .arg(major.to_string()))?;
        Ok(Context {
            state: self.dir.join("wheel"),
            pg_major: major,
            pg_tree: Some(PathBuf::from(fetched.trim())),
            ..self.context.clone()
        })
    }
}

/// Whether an unpacked PostgreSQL has what some tests want.
fn has(tree: &Path, what: &str) -> Result<bool> {
    if what == TLS {
        let options = run(plain_command(tree.join("bin/pg_config")).arg("--configure"))?;
        return Ok(options.contains("--with-ssl") || options.contains("--with-openssl"));
    }
    let control = format!("{what}.control");
    Ok(what != DIRECTORIES && extension_dir_of(tree).join(control).exists())
}

/// What a server calls itself, such as `17.6`.
fn version(server: &mut Command) -> Result<String> {
    let said = run(server.arg("--version"))?;
    let number = said.split_whitespace().nth(2);
    Ok(number.context("the server names no version")?.to_owned())
}

fn table(rows: &[Row]) -> String {
    let head = [
        "major", "version", "from", "built", "passed", "failed", "not run", "min:s",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let tally = &row.tally;
        let number = |number: usize| match tally.started {
            true => number.to_string(),
            false => "-".to_owned(),
        };
        let not_run = match (&row.trouble, tally.started) {
            (None, true) => tally.not_run.len().to_string(),
            _ => "all".to_owned(),
        };
        lines.push(vec![
            row.what.clone(),
            row.version.clone(),
            row.from.clone(),
            if tally.started { "yes" } else { "no" }.to_owned(),
            number(tally.passed),
            number(tally.failed.len()),
            not_run,
            format!("{}:{:02}", row.seconds / 60, row.seconds % 60),
        ]);
    }
    // numbers to the right
    let mut text = aligned(&lines, |column| column <= 3).join("\n");
    text.push('\n');
    for row in rows {
        let reasons = row.trouble.iter().chain(&row.tally.trouble);
        let failed = row.tally.failed.iter().map(|test| ("failed", test));
        let not_run = row
            .tally
            .not_run
            .iter()
            .chain(reasons)
            .map(|test| ("not run", test));
        for (what, test) in failed.chain(not_run) {
            let _infallible = writeln!(text, "{} {what}: {test}", row.what);
        }
    }
    text
}
