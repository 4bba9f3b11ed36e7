//! A tick under way: how long it takes, and how much memory its session takes meanwhile.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;

use super::load::value;
use super::progress::Progress;

/// Often enough to see what a chunk takes before it gives it back.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks at the memory for each look at how far the run is.
const LOOKS_AT_MEMORY: u32 = 20;

/// A run that a tick did.
pub struct Run {
    pub took: Duration,
    pub memory: Memory,
}

/// Most memory of its own, in MiB, that the server process had until then. Shared buffers are
/// not in it: they count towards a process as it touches them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub at_start: f64,
    pub at_a_quarter: f64,
    pub at_the_end: f64,
}

/// Calls the tick, and looks on from another session.
pub async fn tick(
    session: &Client,
    onlooker: &Client,
    job: &str,
    members: i64,
    progress: &Progress,
) -> Result<Run> {
    let how_far = onlooker
        .prepare(
            "select members, paid + queued, failed, outcome from loyalty.run
              where job = $1 order by run_id desc limit 1",
        )
        .await?;
    let mut memory = Memory::default();
    let (mut count, mut looked_at) = (0_u32, 0_i64);
    let ticking = session.batch_execute("call loyalty.tick()");
    let (_, took, most) = watched(session, ticking, async |most| {
        if count == 0 {
            memory.at_start = most;
        }
        count += 1;
        if count.is_multiple_of(LOOKS_AT_MEMORY)
            && let Some(row) = onlooker.query_opt(&how_far, &[&job]).await?
            && row.get::<_, Option<String>>(3).is_none()
        {
            let now: i64 = row.get(0);
            progress.advance((now - looked_at).max(0).unsigned_abs());
            looked_at = looked_at.max(now);
        }
        if looked_at * 4 <= members {
            memory.at_a_quarter = most;
        }
        Ok(())
    })
    .await?;
    memory.at_the_end = most;
    progress.advance((members - looked_at).max(0).unsigned_abs());
    let row = onlooker.query_one(&how_far, &[&job]).await?;
    let (done, failed): (i64, i64) = (row.get(1), row.get(2));
    let outcome: Option<String> = row.get(3);
    if outcome.as_deref() != Some("done") || done != members || failed != 0 {
        bail!("the run of {job} did {done} of {members} members, and {failed} failed");
    }
    Ok(Run { took, memory })
}

/// What a session does, how long it takes, and the most memory of its own meanwhile, in MiB,
/// which `look` is told again and again, first before it begins.
pub async fn watched<T>(
    session: &Client,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    mut look: impl AsyncFnMut(f64) -> Result<()>,
) -> Result<(T, Duration, f64)> {
    let pid: i32 = value(session, "select pg_backend_pid()", &[]).await?;
    let mut most = own_memory(pid)?;
    look(most).await?;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let start = Instant::now();
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                let took = start.elapsed();
                return Ok((done?, took, most));
            }
            _ = looks.tick() => {}
        }
        most = most.max(own_memory(pid)?);
        look(most).await?;
    }
}

/// MiB of its own that a server process has now.
fn own_memory(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
    let kib: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .with_context(|| format!("{path} has no RssAnon"))?
        .trim()
        .parse()?;
    Ok(kib / 1024.0)
}
