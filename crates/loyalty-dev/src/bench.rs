//! `./dev bench`: speed and size of the ledger and of what runs by itself,
//! against bare SQL on the same private cluster with fsync on.

mod access;
mod driver;
mod expire;
mod ledger;
mod load;
mod program;
mod progress;
pub(crate) mod report;
mod runs;
mod scale;
mod scratch;
mod tick;
mod watch;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::context::Context;
use loyalty_testkit::os;
use report::{Report, grouped};
use scale::{Part, Scale};
use scratch::{Scratch, Sizes};

#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// Interleaved rounds, whose medians are shown [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Seconds of each measurement [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: Option<u32>,
    /// Accounts that calls choose from at random [default: 100000]
    #[arg(long, value_parser = clap::value_parser!(i64).range(1_000..=10_000_000))]
    accounts: Option<i64>,
    /// Lots that one expiry run books [default: 1000000]
    #[arg(long, value_parser = clap::value_parser!(i64).range(1_000..=10_000_000))]
    expire_lots: Option<i64>,
    /// Members that a run pays, or queues mails to [default: 1000000]
    #[arg(long, value_parser = clap::value_parser!(i64).range(1_000..=10_000_000))]
    members: Option<i64>,
    /// Small sizes, to see that it works; the figures mean little
    #[arg(long)]
    quick: bool,
    /// Only this; may be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<Topic>,
    /// Instead, measure a platform of so many members, of each of these sizes in turn: such as
    /// 40000,400000,4040000
    #[arg(
        long,
        value_name = "MEMBERS",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1_000..=10_000_000),
        conflicts_with_all = ["rounds", "accounts", "expire_lots", "members", "quick", "only"]
    )]
    scale: Vec<u32>,
    /// Of a platform, grants an account has on average, in 37 months [default: 12]
    #[arg(long, requires = "scale")]
    grants: Option<f64>,
    /// Of a platform's server, GiB of shared buffers [default: a quarter of the memory]
    #[arg(
        long,
        value_name = "GIB",
        value_parser = clap::value_parser!(u64).range(1..=1024),
        requires = "scale"
    )]
    shared_buffers: Option<u64>,
    /// Of a platform, measure only this; may be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "scale")]
    part: Vec<Part>,
    /// Put the output into docs/benchmarks.md too
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    write: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Topic {
    /// spend_fifo against an UPDATE of one row
    Spend,
    /// grant against the same
    Grant,
    /// balance against a SELECT of one row
    Balance,
    /// A spend after many small grants against one after a single grant
    SmallGrants,
    /// grant_many and spend_many against single calls
    Bulk,
    /// expire against an UPDATE of as many rows
    Expire,
    /// Bytes on disk for each grant
    Size,
    /// A rule's run over all members against an INSERT of the same rows, and spends meanwhile
    Runs,
    /// A balance mail to all members against the same
    Notices,
    /// The tick with nothing due
    Tick,
    /// A login, and what a request's token and row rights cost over HTTP
    Access,
}

impl Topic {
    /// Whether it is measured by single and bulk calls on one database.
    fn is_of_ledger(self) -> bool {
        !matches!(
            self,
            Self::Expire | Self::Runs | Self::Notices | Self::Tick | Self::Access
        )
    }
}

/// How much of everything, as asked for.
#[derive(Clone, Debug)]
struct Plan {
    topics: Vec<Topic>,
    rounds: u32,
    seconds: u32,
    accounts: i64,
    expire_lots: i64,
    members: i64,
    /// Accounts of each kind in the measurement of small grants.
    small_accounts: i64,
    small_grants: i64,
    quick: bool,
}

impl Plan {
    fn new(args: &BenchArgs) -> Self {
        let size = |full: i64, quick: i64| if args.quick { quick } else { full };
        let topics = if args.only.is_empty() {
            Topic::value_variants().to_vec()
        } else {
            args.only.clone()
        };
        Self {
            topics,
            rounds: args.rounds.unwrap_or(if args.quick { 2 } else { 5 }),
            seconds: args.seconds.unwrap_or(if args.quick { 1 } else { 5 }),
            accounts: args.accounts.unwrap_or(size(100_000, 2_000)),
            expire_lots: args.expire_lots.unwrap_or(size(1_000_000, 20_000)),
            members: args.members.unwrap_or(size(1_000_000, 20_000)),
            small_accounts: size(20, 4),
            small_grants: size(10_000, 1_000),
            quick: args.quick,
        }
    }

    fn wants(&self, topic: Topic) -> bool {
        self.topics.contains(&topic)
    }
}

pub fn run(args: BenchArgs) -> Result<()> {
    let context = Context::from_env()?;
    let plan = Plan::new(&args);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(async {
            if !args.scale.is_empty() {
                return scaled(&context, &args).await;
            }
            let scratch = Scratch::start(&context, Sizes::SMALL)?;
            let report = tokio::select! {
                report = measure(&scratch, &plan) => report?,
                name = os::interrupted() => bail!("stopped by {}", name?),
            };
            let text = report.text();
            print!("{text}");
            if args.write {
                report::write_into(&page(&context), report::RATIOS, &text)?;
            }
            report.must_be_sound()
        })
}

fn page(context: &Context) -> PathBuf {
    context.repo.join("docs/benchmarks.md")
}

async fn scaled(context: &Context, args: &BenchArgs) -> Result<()> {
    let scale = Scale {
        sizes: args.scale.iter().map(|&size| size as usize).collect(),
        grants: args.grants.unwrap_or(scale::GRANTS),
        seconds: args.seconds.unwrap_or(5),
        shared_buffers_gib: args.shared_buffers,
        parts: args.part.clone(),
    };
    let (text, findings) = tokio::select! {
        measured = scale.measure(context) => measured?,
        name = os::interrupted() => bail!("stopped by {}", name?),
    };
    print!("{text}");
    if args.write {
        report::write_into(&page(context), report::GROWTH, &text)?;
    }
    if !findings.is_empty() {
        bail!("something does not hold; see above");
    }
    Ok(())
}

async fn measure(scratch: &Scratch, plan: &Plan) -> Result<Report> {
    let quick = if plan.quick {
        "Quick: small sizes, the figures mean little.\n"
    } else {
        ""
    };
    let mut report = Report::new(format!(
        "{quick}{}{} accounts with 3 lots each; medians of {} interleaved rounds of {} s\n",
        scratch.surroundings().await?,
        grouped(plan.accounts as f64),
        plan.rounds,
        plan.seconds,
    ));
    if plan.topics.iter().any(|topic| topic.is_of_ledger()) {
        ledger::measure(scratch, plan, &mut report).await?;
    }
    if plan.wants(Topic::Expire) {
        expire::measure(scratch, plan, &mut report).await?;
    }
    if plan.wants(Topic::Runs) || plan.wants(Topic::Notices) {
        runs::measure(scratch, plan, &mut report).await?;
    }
    if plan.wants(Topic::Tick) {
        tick::measure(scratch, plan, &mut report).await?;
    }
    if plan.wants(Topic::Access) {
        access::measure(scratch, plan, &mut report).await?;
    }
    Ok(report)
}
