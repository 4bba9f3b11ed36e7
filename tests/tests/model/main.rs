//! Random programs and thousands of random steps, compared after each step with a plain model
//! that was written apart from the implementation (laws 1 to 11).
//!
//! `LOYALTY_MODEL_CASES` cases of up to `LOYALTY_MODEL_STEPS` steps; `LOYALTY_MODEL_SEED`, which a
//! failure prints beside the fewest steps that lead to it, plays other ones.

mod compare;
mod operation;
mod reference;
mod request;
mod step;
mod world;

use anyhow::{Context as _, Result, bail, ensure};
use loyalty_testkit::TestDb;
use loyalty_tests::assert_sound;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::fmt::Write as _;
use std::str::FromStr;
use std::time::{Duration, Instant};
use step::Step;

/// A failure is cut down for so long.
const SHRINK: Duration = Duration::from_secs(60);

fn setting<T: FromStr>(name: &str, default: T) -> Result<T> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .ok()
            .with_context(|| format!("{name} is no number: {text}")),
        Err(_) => Ok(default),
    }
}

/// Entries made; or how many steps were played, and what then was wrong.
async fn play(
    db: &TestDb,
    shape: &step::World,
    steps: &[Step],
) -> Result<usize, (usize, anyhow::Error)> {
    let client = db.connect().await.map_err(|error| (0, error))?;
    let mut world = world::World::open(client, shape)
        .await
        .map_err(|error| (0, error))?;
    for (place, step) in steps.iter().enumerate() {
        world
            .play(place, step)
            .await
            .map_err(|error| (place + 1, error))?;
    }
    world
        .compare_journal()
        .await
        .map_err(|error| (steps.len(), error))?;
    Ok(world.entries())
}

/// The fewest steps found that still fail: ever smaller runs of steps are left out.
async fn shrink(
    db: &TestDb,
    shape: &step::World,
    steps: &[Step],
) -> (Vec<Step>, Option<anyhow::Error>) {
    let start = Instant::now();
    let mut fewest = steps.to_vec();
    let mut wrong = None;
    let mut run = fewest.len();
    while run > 0 {
        let mut from = 0;
        while from < fewest.len() && start.elapsed() < SHRINK {
            let mut fewer = fewest.clone();
            fewer.drain(from..(from + run).min(fewest.len()));
            match play(db, shape, &fewer).await {
                Ok(_) => from += run,
                Err((played, error)) => {
                    fewer.truncate(played);
                    fewest = fewer;
                    wrong = Some(error);
                }
            }
        }
        run /= 2;
    }
    (fewest, wrong)
}

async fn compare(name: &str, inactivity: bool) -> Result<()> {
    let most: usize = setting("LOYALTY_MODEL_STEPS", 300)?;
    let cases: usize = setting("LOYALTY_MODEL_CASES", 20)?;
    let seed: u64 = setting("LOYALTY_MODEL_SEED", 20_250_615)?;
    let mut bytes = [u8::from(inactivity); 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());

    let db = TestDb::create(name).await?;
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let strategy = (
        step::world(inactivity),
        proptest::collection::vec(step::step(inactivity), most / 2..=most),
    );
    let (mut played, mut entries) = (0, 0);
    for case in 1..=cases {
        let tree = strategy
            .new_tree(&mut runner)
            .map_err(|reason| anyhow::anyhow!("{reason}"))?;
        let (shape, mut steps) = tree.current();
        match play(&db, &shape, &steps).await {
            Ok(made) => {
                played += steps.len();
                entries += made;
            }
            Err((failed, error)) => {
                steps.truncate(failed);
                let (fewest, wrong) = shrink(&db, &shape, &steps).await;
                let mut told = String::new();
                for step in &fewest {
                    writeln!(told, "  {step:?}")?;
                }
                let wrong = wrong.unwrap_or(error);
                bail!(
                    "LOYALTY_MODEL_SEED={seed}, case {case}: {wrong:#}\nin {shape:?}\nby\n{told}"
                );
            }
        }
    }
    println!("{name}: {cases} cases, {played} steps, {entries} entries, seed {seed}");
    ensure!(entries > 0, "nothing was booked");
    let client = db.connect().await?;
    // so far it was asked program by program
    assert_sound(&client).await
}

#[tokio::test]
async fn the_plain_model_agrees_on_points_with_a_last_day() -> Result<()> {
    compare("model_days", false).await
}

#[tokio::test]
async fn the_plain_model_agrees_on_points_that_lapse_by_inactivity() -> Result<()> {
    compare("model_inactivity", true).await
}
