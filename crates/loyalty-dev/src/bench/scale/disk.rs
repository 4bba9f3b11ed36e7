//! The disk: whether there is room, and what of the files is in memory.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use walkdir::{DirEntry, WalkDir};

use crate::bench::report::grouped;

const MIB: f64 = 1_048_576.0;

/// An error unless there is room for so many bytes where `dir` is.
pub fn must_have_room(dir: &Path, needed: f64, whatfor: &str) -> Result<()> {
    let disk = nix::sys::statvfs::statvfs(dir)
        .with_context(|| format!("the disk of {} cannot be asked", dir.display()))?;
    let free = disk.blocks_available() as f64 * disk.fragment_size() as f64;
    ensure!(
        free >= needed,
        "{whatfor} needs about {} MiB of disk at {}, and {} MiB are free; ask for fewer members, or --grants",
        grouped(needed / MIB),
        dir.display(),
        grouped(free / MIB),
    );
    Ok(())
}

/// Bytes of all files below a directory.
pub fn bytes(dir: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in WalkDir::new(dir) {
        total += entry?.metadata()?.len();
    }
    Ok(total)
}

/// Has the system forget what it keeps of the files below a directory, so that they are read from
/// disk again. What was not written yet is written first.
pub fn forget(dir: &Path) -> Result<()> {
    for entry in WalkDir::new(dir) {
        let entry = entry?;
        if entry.file_type().is_file() {
            let file = fs::File::open(entry.path())?;
            file.sync_all()?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
    }
    Ok(())
}

/// Reads all files below a directory, so that the system has them in memory as far as they fit.
/// The server may remove some meanwhile.
pub fn remember(dir: &Path) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    for entry in WalkDir::new(dir) {
        match entry.map_err(io::Error::from).and_then(open_file) {
            Ok(Some(mut file)) => while file.read(&mut buffer)? > 0 {},
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn open_file(entry: DirEntry) -> io::Result<Option<fs::File>> {
    let is_file = entry.file_type().is_file();
    is_file.then(|| fs::File::open(entry.path())).transpose()
}
