//! `./dev bench --scale N`: the ledger of a whole platform, and how what it does grows with the
//! number of members.

mod calls;
mod copy;
mod disk;
mod dump;
mod figures;
mod fill;
mod history;
mod jobs;
mod reads;
mod shape;

use std::sync::Arc;

use anyhow::{Result, bail};
use clap::ValueEnum;
use tokio_postgres::Client;

use super::load::value;
use super::progress::Progress;
use super::report::grouped;
use super::scratch::{Scratch, Sizes};
use crate::context::Context;
use calls::Calls;
use figures::Figures;
use jobs::Jobs;
use shape::Platform;

/// What can be measured at each size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Single calls, warm
    Calls,
    /// Single calls from a cold start
    Cold,
    /// Whether plans read a ledger table from end to end
    Plans,
    /// Expiry and rule runs of all programs
    Runs,
    /// What loyalty.metrics costs
    Metrics,
    /// verify() of everything
    Verify,
    /// pg_dump, and pg_restore of it
    Dump,
}

/// Grants of an account, on average, in three years: as many as a year of monthly ones.
pub const GRANTS: f64 = 12.0;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Scale {
    pub sizes: Vec<usize>,
    pub grants: f64,
    pub seconds: u32,
    /// A quarter of the memory unless told.
    pub shared_buffers_gib: Option<u64>,
    pub parts: Vec<Part>,
}

/// Bytes on disk of a member, and of each grant, at the most that there is at once: the tables
/// and indexes, temporary files of verify() or a dump.
const MEMBER_BYTES: f64 = 800.0;
const GRANT_BYTES: f64 = 370.0;
/// The write-ahead log, and the cluster itself.
const OTHER_BYTES: f64 = 6e9;

const DATABASE: &str = "bench_scale";
const COPY: &str = "bench_scale_copy";

impl Scale {
    fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    /// Everything at each size in turn; the text to print, and what does not hold.
    pub async fn measure(&self, context: &Context) -> Result<(String, Vec<String>)> {
        let most = self.sizes.iter().copied().max().unwrap_or(0);
        disk::must_have_room(
            &context.state,
            OTHER_BYTES + most as f64 * (MEMBER_BYTES + GRANT_BYTES * self.grants),
            &format!("--scale {most}"),
        )?;
        let scratch = Scratch::start(context, Sizes::server(self.shared_buffers_gib)?)?;
        let mut text = scratch.surroundings().await?;
        text.push_str(&format!(
            "{} grants an account on average, in 37 months; single calls for {} s each\n",
            self.grants, self.seconds,
        ));
        let mut measured = Vec::new();
        for &members in &self.sizes {
            eprintln!("dev: {} members", grouped(members as f64));
            measured.push(self.at(&scratch, members).await?);
        }
        text.push_str(&figures::text(&measured));
        text.push('\n');
        for note in measured.iter().flat_map(|figures| &figures.notes) {
            text.push_str(note);
            text.push('\n');
        }
        let findings: Vec<String> = measured
            .into_iter()
            .flat_map(|figures| figures.findings)
            .collect();
        for finding in &findings {
            text.push_str(finding);
            text.push('\n');
        }
        Ok((text, findings))
    }

    async fn at(&self, scratch: &Scratch, members: usize) -> Result<Figures> {
        let mut figures = Figures::new(members);
        let platform = Arc::new(Platform::new(members, self.grants)?);
        let client = scratch.create_database(DATABASE).await?;
        durable(&client, false).await?;
        let filled = fill::fill(scratch, DATABASE, &client, &platform).await?;
        figures.bulk("load: an entry", filled.entries as f64, filled.took);
        let progress = Progress::phase("vacuum, analyze, checkpoint", 0)?;
        client.batch_execute("vacuum (analyze, parallel 2)").await?;
        durable(&client, true).await?;
        client.batch_execute("checkpoint").await?;
        progress.end();
        sizes(&client, &mut figures).await?;
        describe(&client, &platform, filled.entries, &mut figures).await?;

        let calls = Calls {
            config: scratch.cluster.config(DATABASE),
            platform: Arc::clone(&platform),
        };
        let mut client = client;
        if self.wants(Part::Calls) {
            calls::make_bare(&client, members).await?;
            self.warm(scratch, &client).await?;
            client
                .batch_execute("select pg_prewarm('bare_pkey'), pg_prewarm('bare')")
                .await?;
            calls.measure(self.seconds, &mut figures).await?;
            client.batch_execute("drop table bare").await?;
        }
        if self.wants(Part::Plans) {
            reads::look(&client, &platform, &mut figures).await?;
        }
        if self.wants(Part::Cold) {
            drop(client);
            calls::cool(scratch).await?;
            calls.cold(&mut figures).await?;
            client = scratch.cluster.connect(DATABASE).await?;
        }
        let jobs = Jobs {
            scratch,
            database: DATABASE,
            client: &client,
            platform: &platform,
        };
        if self.wants(Part::Runs) {
            self.warm(scratch, &client).await?;
            jobs.runs(self.seconds, &mut figures).await?;
        }
        if self.wants(Part::Metrics) {
            jobs.metrics(&mut figures).await?;
        }
        if self.wants(Part::Verify) {
            jobs.verify(&mut figures).await?;
        }
        if self.wants(Part::Dump) {
            dump::dump_and_restore(scratch, DATABASE, client, COPY, &mut figures).await?;
        } else {
            drop(client);
            scratch.drop_database(DATABASE).await?;
        }
        Ok(figures)
    }

    /// Has the system and the server read the data as far as it fits into their memory: as after a
    /// day of service.
    async fn warm(&self, scratch: &Scratch, client: &Client) -> Result<()> {
        let progress = Progress::phase("reading all files", 0)?;
        let base = scratch.cluster.data.join("base");
        tokio::task::spawn_blocking(move || disk::remember(&base)).await??;
        // What is asked for least comes first, and makes room for the rest.
        client
            .batch_execute(
                "create extension if not exists pg_prewarm;
                 select pg_prewarm('loyalty.entry');
                 select pg_prewarm(indexrelid) from pg_index
                  where indrelid in ('loyalty.account'::regclass, 'loyalty.member'::regclass,
                                     'loyalty.wallet'::regclass, 'loyalty.entry'::regclass);
                 select pg_prewarm('loyalty.account'), pg_prewarm('loyalty.member'),
                        pg_prewarm('loyalty.wallet')",
            )
            .await?;
        progress.end();
        Ok(())
    }
}

/// Loading may begin again after a crash; what is measured must last.
async fn durable(client: &Client, on: bool) -> Result<()> {
    for setting in ["fsync", "full_page_writes", "autovacuum"] {
        let change = if on {
            format!("alter system reset {setting}")
        } else {
            format!("alter system set {setting} = off")
        };
        client.batch_execute(&change).await?;
    }
    client.batch_execute("select pg_reload_conf()").await?;
    if on {
        nix::unistd::sync();
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let shown: String = value(client, "show fsync", &[]).await?;
        if shown != "on" {
            bail!("fsync is {shown}");
        }
    }
    Ok(())
}

/// Bytes of the ledger's tables and indexes.
async fn sizes(client: &Client, figures: &mut Figures) -> Result<()> {
    let rows = client
        .query(
            "select c.relname || case c.relkind when 'i' then ' (index)' else ' (table)' end,\n\
             case c.relkind when 'i' then pg_relation_size(c.oid) else pg_table_size(c.oid) end\n\
             from pg_class c\n\
             left join pg_index x on x.indexrelid = c.oid\n\
             join pg_class t on t.oid = coalesce(x.indrelid, c.oid)\n\
             where t.relnamespace in ('loyalty'::regnamespace, 'loyalty_private'::regnamespace) and c.relkind in ('r', 'i')\n\
             and t.relname in ('account', 'entry', 'wallet', 'member')\n\
             order by t.relname, c.relkind desc, c.relname",
            &[],
        )
        .await?;
    for row in rows {
        figures.disk(row.get(0), row.get::<_, i64>(1) as f64);
    }
    let all: i64 = value(client, "select pg_database_size(current_database())", &[]).await?;
    figures.disk("database", all as f64);
    Ok(())
}

async fn describe(
    client: &Client,
    platform: &Platform,
    entries: u64,
    figures: &mut Figures,
) -> Result<()> {
    let row = client
        .query_one(
            "select max(cardinality(lot_granted)), avg(cardinality(lot_granted))::float8,\n\
             sum(cardinality(lot_granted))::bigint from loyalty.wallet",
            &[],
        )
        .await?;
    let (most, mean, lots): (i32, f64, i64) = (row.get(0), row.get(1), row.get(2));
    figures.notes.push(format!(
        "{} members in {} programs of {} to {}; {} entries, {} lots, {mean:.1} an account and at most {most}.",
        grouped(platform.members as f64),
        platform.sizes.len(),
        grouped(platform.sizes.last().copied().unwrap_or(0) as f64),
        grouped(platform.sizes[0] as f64),
        grouped(entries as f64),
        grouped(lots as f64),
    ));
    Ok(())
}
