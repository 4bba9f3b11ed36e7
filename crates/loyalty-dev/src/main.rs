//! `loyalty-dev`: what `./dev` calls once its tools are there.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use loyalty_dev::bench::{self, BenchArgs};
use loyalty_dev::context::{Context, DATABASE};
use loyalty_dev::fuzz::{self, FuzzArgs};
use loyalty_dev::image::{self, ImageArgs};
use loyalty_dev::matrix::{self, MatrixArgs};
use loyalty_dev::package::{self, PackageArgs};
use loyalty_dev::prefix::Prefix;
use loyalty_dev::test::Selection;
use loyalty_dev::torture::{self, TortureArgs};
use loyalty_dev::{licences, picture, post, test, up};
use loyalty_testkit::client_program;
use loyalty_testkit::cluster;
use loyalty_testkit::token::Role;
use loyalty_testkit::upgrade;

#[derive(Parser)]
#[command(
    name = "./dev",
    about = "Runs, tests and measures pg_loyalty in a private cluster"
)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start everything, making what is missing: cluster, extension, API, demo
    Up {
        /// Drop the database first and make it and the demo again
        #[arg(long)]
        fresh: bool,
    },
    /// Stop everything
    Down {
        /// Remove the cluster and all its data too
        #[arg(long)]
        purge: bool,
    },
    /// Check format and lints, build, run all tests; or only some tests
    Test(Selection),
    /// Run all tests on every supported version of PostgreSQL that can be had
    Matrix(MatrixArgs),
    /// Measure, against bare SQL on the same cluster
    Bench(BenchArgs),
    /// Break things under load, and see whether the ledger holds
    Torture(TortureArgs),
    /// Look for text that a parser or the API cannot cope with
    Fuzz(FuzzArgs),
    /// psql in the development database
    Psql {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Print PGHOST, PGPORT, PGUSER, PGDATABASE and API_URL for a shell to eval
    Env,
    /// Print a token (JWT) for the API
    Token(TokenArgs),
    /// List the mails that the local catcher got, or print one
    Mail {
        /// The number of a mail in the list
        number: Option<u64>,
    },
    /// Build the container images with buildah, and try them
    Image(ImageArgs),
    /// Build the Debian packages, and try them
    Package(PackageArgs),
    /// Build and install the extension into the private PostgreSQL
    Ext,
    /// Print the part of an upgrade script that repeats changed functions, views and comments
    UpgradeScript {
        /// The released version to upgrade from; by default the newest
        version: Option<String>,
    },
    /// Rewrite the sources in the standard format
    Fmt,
    /// Check format and lints
    Lint,
    /// Write the licence texts of the crates that are shipped
    Licences,
    /// Write docs/picture.svg, a session in psql, from the development database
    Picture,
}

#[derive(clap::Args)]
struct TokenArgs {
    role: Role,
    /// The program's code; an operator needs none
    #[arg(long, default_value = loyalty_dev::demo::TOUR_PROGRAM)]
    program: String,
    /// The member's account; by default the tour's member
    #[arg(long)]
    account_id: Option<i64>,
    /// Seconds until the token ends
    #[arg(long, default_value_t = 86_400, allow_negative_numbers = true)]
    expires_in: i64,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dev: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let context = Context::from_env()?;
    match cli.command {
        Action::Up { fresh } => block_on(up::up(&context, fresh)),
        Action::Down { purge } => up::down(&context, purge),
        Action::Test(selection) => block_on(test::test(&context, &selection)),
        Action::Matrix(args) => matrix::matrix(&context, &args),
        Action::Bench(args) => {
            Prefix::ensure(&context)?;
            bench::run(args)
        }
        Action::Torture(args) => block_on(torture::run(&context, &args)),
        Action::Fuzz(args) => block_on(fuzz::run(&context, &args)),
        Action::Psql { args } => psql(&context, &args),
        Action::Env => env(&context),
        Action::Token(args) => block_on(token(&context, args)),
        Action::Mail { number } => post::print(&context, number),
        Action::Image(args) => image::image(&context, &args),
        Action::Package(args) => package::package(&context, &args),
        Action::Ext => Prefix::ensure(&context).map(drop),
        Action::UpgradeScript { version } => upgrade::print(&context.repo, version.as_deref()),
        Action::Fmt => test::reformat(&context),
        Action::Licences => licences::write(&context),
        Action::Picture => picture::draw(&context),
        Action::Lint => {
            test::format(&context)?;
            context.prefix().ensure_copy(&context)?;
            test::lint(&context)
        }
    }
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(work)
}

fn psql(context: &Context, args: &[String]) -> Result<()> {
    let cluster = context.running_cluster()?;
    let error = client_program(
        &cluster.bin,
        "psql",
        &cluster.socket_dir,
        cluster.port,
        DATABASE,
    )
    .args(args)
    .exec();
    bail!("psql cannot be started: {error}");
}

fn env(context: &Context) -> Result<()> {
    let cluster = context.running_cluster()?;
    println!(
        "PGHOST={}",
        up::shell_word(&cluster.socket_dir.to_string_lossy())
    );
    println!("PGPORT={}", cluster.port);
    println!("PGUSER={}", cluster::SUPERUSER);
    println!("PGDATABASE={DATABASE}");
    println!("API_URL={}", context.api_url()?);
    Ok(())
}

async fn token(context: &Context, args: TokenArgs) -> Result<()> {
    println!(
        "{}",
        up::token(
            context,
            args.role,
            &args.program,
            args.account_id,
            args.expires_in
        )
        .await?
    );
    Ok(())
}
