//! The cluster that is measured: made for the run, gone afterwards.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio_postgres::Client;

use super::load::value;
use super::report::grouped;
use crate::context::Context;
use loyalty_testkit::cluster::Cluster;
use loyalty_testkit::keys;
use loyalty_testkit::os::{self, Owner};

/// Time enough that no checkpoint falls into a measurement; the rest is
/// PostgreSQL's own, and durability is on.
const SETTINGS: &[(&str, &str)] = &[
    ("checkpoint_timeout", "30min"),
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
    ("autovacuum", "on"),
];

/// What the server may take.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub shared_buffers_gib: u64,
    /// The most of the write-ahead log between two checkpoints.
    pub max_wal_gib: u64,
    /// Whether shared buffers are of the pages that the machine has set aside.
    pub huge_pages: bool,
}

impl Sizes {
    /// Enough for 100,000 accounts, on a machine that does other things too.
    pub const SMALL: Self = Self {
        shared_buffers_gib: 1,
        max_wal_gib: 8,
        huge_pages: false,
    };

    /// A quarter of the memory in shared buffers unless told, as PostgreSQL's manual advises for
    /// a machine that is the server's own. Less of the log, since the disk has enough to hold.
    pub fn server(shared_buffers_gib: Option<u64>) -> Result<Self> {
        let meminfo = Meminfo::read()?;
        let quarter = (meminfo.memory_gib()? / 4.0).round().max(1.0) as u64;
        let shared_buffers_gib = shared_buffers_gib.unwrap_or(quarter);
        Ok(Self {
            shared_buffers_gib,
            max_wal_gib: 4,
            huge_pages: meminfo.huge_gib() > shared_buffers_gib as f64 * HUGE_PAGES_NEEDED,
        })
    }
}

/// Of shared buffers, all that shared memory comes to.
const HUGE_PAGES_NEEDED: f64 = 1.05;

pub struct Scratch {
    sizes: Sizes,
    pub dir: PathBuf,
    pub cluster: Cluster,
    pub owner: Owner,
    pub postgrest: PathBuf,
    pub jwt_secret: String,
    /// Others would take the machine's time, and remove this directory.
    _lock: fs::File,
}

impl Scratch {
    pub fn start(context: &Context, sizes: Sizes) -> Result<Self> {
        context.ensure_postgrest()?;
        os::create_dir(&context.state)?;
        let lock = fs::File::create(context.state.join("bench.lock"))?;
        if lock.try_lock().is_err() {
            bail!("another ./dev bench is running");
        }
        let dir = context.state.join("bench");
        let cluster = Cluster::at(
            &context.prefix().bin(),
            &dir.join("cluster"),
            os::any_free_port()?,
            &context.owner,
        );
        if dir.exists() {
            eprintln!("dev: removing what an earlier ./dev bench left");
            remove(&dir, &cluster)?;
        }
        os::create_dir(&dir)?;
        let jwt_secret = os::random_hex(32)?;
        let secrets = keys::ensure(&context.owner, &dir.join("secret"), &jwt_secret)?;
        let scratch = Self {
            sizes,
            dir,
            cluster,
            owner: context.owner.clone(),
            postgrest: context.postgrest_binary(),
            jwt_secret,
            _lock: lock,
        };
        eprintln!("dev: starting a cluster for the measurements");
        let settings: String = scratch
            .settings()
            .map(|(name, value)| format!("{name} = {value}\n"))
            .collect();
        scratch.cluster.init(&format!(
            "{settings}listen_addresses = ''\n{}",
            keys::setting(&secrets)
        ))?;
        scratch.cluster.start()?;
        Ok(scratch)
    }

    fn settings(&self) -> impl Iterator<Item = (&'static str, String)> {
        let sizes = self.sizes;
        let huge_pages = if sizes.huge_pages { "on" } else { "off" };
        let ours = [
            ("shared_buffers", format!("{}GB", sizes.shared_buffers_gib)),
            ("huge_pages", huge_pages.to_owned()),
            ("max_wal_size", format!("{}GB", sizes.max_wal_gib)),
        ];
        let others = SETTINGS
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        ours.into_iter().chain(others)
    }

    /// A file for a program of ours to read, such as a pgbench script.
    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(path)
    }

    /// Makes a database with the extension in it.
    pub async fn create_database(&self, name: &str) -> Result<Client> {
        self.cluster
            .connect("postgres")
            .await?
            .batch_execute(&format!("create database {name} template template0"))
            .await?;
        let client = self.cluster.connect(name).await?;
        client.batch_execute("create extension pg_loyalty").await?;
        Ok(client)
    }

    pub async fn drop_database(&self, name: &str) -> Result<()> {
        self.cluster
            .connect("postgres")
            .await?
            .batch_execute(&format!("drop database {name} with (force)"))
            .await?;
        Ok(())
    }

    /// What the figures were measured on, in lines.
    pub async fn surroundings(&self) -> Result<String> {
        let client = self.cluster.connect("postgres").await?;
        let version =
            "select default_version from pg_available_extensions where name = 'pg_loyalty'";
        let extension: String = value(&client, version, &[]).await?;
        let server: String = value(&client, "show server_version", &[]).await?;
        let mut on = Vec::new();
        for (name, wanted) in self.settings() {
            let actual: String = value(&client, "select current_setting($1)", &[&name]).await?;
            if actual != wanted {
                bail!("the cluster has {name} = {actual}, not {wanted}");
            }
            on.push(format!("{name} {wanted}"));
        }
        let cores = std::thread::available_parallelism()?;
        Ok(format!(
            "pg_loyalty {extension}, PostgreSQL {server}\n\
             {cores} cores for server and clients together, {} of memory, \
             {} synced 8 kB writes a second, one after the other\n\
             {}\n",
            format_args!("{:.0} GiB", Meminfo::read()?.memory_gib()?),
            grouped(sync_rate(&self.dir)?),
            on.join(", "),
        ))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.dir, &self.cluster) {
            eprintln!("dev: the measured cluster is not wholly removed: {error:#}");
        }
    }
}

fn remove(dir: &Path, cluster: &Cluster) -> Result<()> {
    cluster.stop()?;
    fs::remove_dir_all(dir).with_context(|| format!("{} cannot be removed", dir.display()))
}

/// What the machine says of its memory.
struct Meminfo(String);

impl Meminfo {
    fn read() -> Result<Self> {
        fs::read_to_string("/proc/meminfo")
            .map(Self)
            .context("/proc/meminfo cannot be read")
    }

    fn memory_gib(&self) -> Result<f64> {
        Ok(self.number("MemTotal")? / KIB_A_GIB)
    }

    /// Huge pages that are free; some kernels know of none.
    fn huge_gib(&self) -> f64 {
        let number = |name| self.number(name).unwrap_or(0.0);
        number("HugePages_Free") * number("Hugepagesize") / KIB_A_GIB
    }

    /// A line's number: KiB, or pages.
    fn number(&self, name: &str) -> Result<f64> {
        let rest = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .with_context(|| format!("/proc/meminfo has no {name}"))?;
        Ok(rest.trim().trim_end_matches(" kB").parse()?)
    }
}

const KIB_A_GIB: f64 = (1 << 20) as f64;

/// Writes of one block that reach the disk, a second: what durable commits of
/// a single client are bounded by.
fn sync_rate(dir: &Path) -> Result<f64> {
    let path = dir.join("sync");
    let file = fs::File::create(&path)?;
    let block = [0x5a_u8; 8192];
    // As PostgreSQL does it: into a file that is long enough already.
    for place in 0..128_u64 {
        file.write_all_at(&block, place * 8192)?;
    }
    file.sync_all()?;
    let start = Instant::now();
    let mut writes = 0_u64;
    while start.elapsed() < Duration::from_secs(1) {
        file.write_all_at(&block, writes % 128 * 8192)?;
        file.sync_data()?;
        writes += 1;
    }
    let rate = writes as f64 / start.elapsed().as_secs_f64();
    fs::remove_file(&path)?;
    Ok(rate)
}
