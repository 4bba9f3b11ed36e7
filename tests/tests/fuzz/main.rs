//! The corpus of `./dev fuzz`, replayed: what was found once stays mended, and whoever changes a
//! parser runs it over text that reaches its corners.

#[path = "../../../fuzz/src/target/mod.rs"]
mod target;

use anyhow::{Result, ensure};
use std::panic::catch_unwind;

use target::TARGETS;

/// Bytes of a file: what is longer belongs to the fuzzer, not to the repository.
const LONGEST: usize = 4_096;

#[test]
fn every_target_has_a_corpus_and_stands_it() -> Result<()> {
    let corpus = loyalty_testkit::repository().join("fuzz/corpus");
    let mut kept: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(&corpus)? {
        kept.push(entry?.file_name().to_string_lossy().into_owned());
    }
    kept.sort();
    let names = TARGETS.map(|(name, _)| name);
    ensure!(kept == names, "corpora are of {kept:?}, targets {names:?}");
    for (name, target) in TARGETS {
        let mut files = 0;
        for entry in std::fs::read_dir(corpus.join(name))? {
            let path = entry?.path();
            let data = std::fs::read(&path)?;
            ensure!(data.len() <= LONGEST, "{} is too long", path.display());
            catch_unwind(|| target(&data)).map_err(|_| {
                anyhow::anyhow!("{name} does not stand {}; why is above", path.display())
            })?;
            files += 1;
        }
        ensure!(files >= 12, "{name} has {files} files only");
    }
    Ok(())
}
