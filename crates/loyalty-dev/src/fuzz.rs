//! `./dev fuzz`: libFuzzer on each parser of outside text, or made-up requests to the API, for as
//! long as told. What is found is kept in `fuzz/corpus/`, which the tests replay.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::context::Context;
use crate::test::{self, Selection};
use loyalty_testkit::os::{self, path_variable, run_visible};

/// The target that is no parser: the API as its OpenAPI page shows it.
const API: &str = "api";

/// What `cargo fuzz` sets too: counters and traced comparisons, which libFuzzer goes by. They
/// are LLVM's, so a stable compiler has them.
const INSTRUMENTED: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg",
    "fuzzing",
];

/// Files that are longer teach little.
const LONGEST: &str = "-max_len=4096";

#[derive(Clone, Debug, clap::Args)]
pub struct FuzzArgs {
    /// Only this one; all, one after the other, unless given
    target: Option<String>,
    /// How long for each
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Where chance begins; another one each time unless given
    #[arg(long)]
    seed: Option<u32>,
    /// Add to fuzz/corpus/ what reaches more than the files there do, as small as can be
    #[arg(long)]
    keep: bool,
}

pub async fn run(context: &Context, args: &FuzzArgs) -> Result<()> {
    let parsers = parsers(&context.repo)?;
    let chosen: Vec<&str> = match args.target.as_deref() {
        Some(API) => Vec::new(),
        Some(name) => match parsers.iter().find(|known| *known == name) {
            Some(known) => vec![known],
            None => bail!(
                "there is no target {name}; there are {}, {API}",
                parsers.join(", ")
            ),
        },
        None => parsers.iter().map(String::as_str).collect(),
    };
    if !chosen.is_empty() {
        let fuzzer = Fuzzer::build(context)?;
        for target in chosen {
            fuzzer.fuzz(target, args)?;
        }
    }
    if args.target.as_deref().is_none_or(|target| target == API) {
        let seed = match args.seed {
            Some(seed) => seed,
            None => u32::from_str_radix(&os::random_hex(4)?, 16)?,
        };
        eprintln!("dev: fuzz {API}, {} s, seed {seed}", args.seconds);
        let variables = vec![
            ("LOYALTY_FUZZ_SECONDS", args.seconds.to_string()),
            ("LOYALTY_FUZZ_SEED", seed.to_string()),
        ];
        test::test(
            context,
            &Selection::told("http", "fuzz_of_the_api", variables),
        )
        .await?;
    }
    Ok(())
}

/// The names of the targets, each of which has a corpus.
fn parsers(repo: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(repo.join("fuzz/corpus"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

struct Fuzzer {
    program: PathBuf,
    /// Where what is found lies until it is kept.
    found: PathBuf,
    corpus: PathBuf,
}

impl Fuzzer {
    fn build(context: &Context) -> Result<Self> {
        let dir = context.repo.join("fuzz");
        let target_dir = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => PathBuf::from(dir).join("fuzz"),
            None => context.repo.join("target/fuzz"),
        };
        let host = host()?;
        eprintln!("dev: building the fuzzer");
        run_visible(
            os::cargo_command(path_variable("LOYALTY_CARGO")?)
                .current_dir(&dir)
                .env("CARGO_TARGET_DIR", &target_dir)
                .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTED.join("\x1f"))
                // named, so that the flags are not those of build scripts
                .args([
                    "build",
                    "--quiet",
                    "--locked",
                    "--release",
                    "--target",
                    &host,
                ]),
        )
        .context("the fuzzer does not build")?;
        Ok(Self {
            program: target_dir.join(host).join("release/loyalty-fuzz"),
            found: target_dir.join("found"),
            corpus: dir.join("corpus"),
        })
    }

    fn command(&self, target: &str) -> Command {
        let mut command = Command::new("nice");
        command.arg(&self.program).env("FUZZ_TARGET", target);
        command
    }

    fn fuzz(&self, target: &str, args: &FuzzArgs) -> Result<()> {
        let corpus = self.corpus.join(target);
        let found = self.found.join(target);
        fs::create_dir_all(&found)?;
        // beside the corpus: the tests replay it from then on, once it is given a name
        let crashes = format!("-artifact_prefix={}/", self.found.display());
        eprintln!("dev: fuzz {target}, {} s", args.seconds);
        let mut command = self.command(target);
        command
            .args([&found, &corpus])
            .args([
                LONGEST,
                "-timeout=20",
                "-rss_limit_mb=1024",
                "-print_final_stats=1",
            ])
            .arg(format!("-max_total_time={}", args.seconds))
            .arg(crashes);
        if let Some(seed) = args.seed {
            command.arg(format!("-seed={seed}"));
        }
        run_visible(&mut command).with_context(|| {
            format!(
                "{target} has a finding, in {}; mend it, and keep the file in fuzz/corpus/{target}/",
                self.found.display()
            )
        })?;
        if args.keep {
            let before = count(&corpus)?;
            run_visible(
                self.command(target)
                    .args(["-merge=1", "-max_len=512"])
                    .args([&corpus, &found]),
            )?;
            eprintln!(
                "dev: fuzz/corpus/{target} has {} files, {before} before",
                count(&corpus)?
            );
        }
        Ok(())
    }
}

fn count(dir: &Path) -> Result<usize> {
    Ok(fs::read_dir(dir)?.count())
}

/// The platform that rustc builds for.
fn host() -> Result<String> {
    let rustc = path_variable("LOYALTY_CARGO")?.with_file_name("rustc");
    let version = os::run(Command::new(rustc).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    ensure!(host.is_some(), "rustc does not say what it builds for");
    Ok(host.unwrap_or_default().to_owned())
}
