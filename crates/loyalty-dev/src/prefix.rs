//! A private copy of the machine's PostgreSQL with pg_loyalty installed in
//! it, so that neither building nor testing writes into the machine's own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use loyalty_install::Places;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::context::Context;
use crate::progress::{Step, run_logged};
use loyalty_testkit::EXTENSION_STAMP;
use loyalty_testkit::os::{cargo_command, create_dir, path_variable};

/// Bump when what is copied or installed here changes.
const LAYOUT: &str = "2";

#[derive(Clone, Debug)]
pub struct Prefix {
    root: PathBuf,
    major: u16,
    /// Of an unpacked PostgreSQL: what is copied, and where in the copy its installation is.
    tree: Option<(PathBuf, PathBuf)>,
}

/// How the extension is compiled: for measurements as it is shipped, else as is soonest done.
fn profile() -> &'static str {
    match cfg!(debug_assertions) {
        true => "quick",
        false => "release",
    }
}

impl Prefix {
    /// Debian's layout under `dir`: a PostgreSQL finds its files relative to
    /// its own program, so a copy of the whole tree is a working one.
    pub fn at(dir: &Path, major: u16) -> Self {
        Self {
            root: dir.join(major.to_string()),
            major,
            tree: None,
        }
    }

    /// The same of an unpacked Python wheel: `tree` is the installation in it, and the
    /// libraries that its programs look for lie two directories above.
    pub fn of_tree(dir: &Path, major: u16, tree: &Path) -> Self {
        let wheel = tree.ancestors().nth(2).unwrap_or(tree);
        let below = tree.strip_prefix(wheel).unwrap_or(tree);
        Self {
            tree: Some((wheel.to_owned(), below.to_owned())),
            ..Self::at(dir, major)
        }
    }

    pub fn bin(&self) -> PathBuf {
        self.libdir().join("bin")
    }

    pub fn pg_config(&self) -> PathBuf {
        self.bin().join("pg_config")
    }

    fn libdir(&self) -> PathBuf {
        match &self.tree {
            Some((_, below)) => self.root.join(below),
            None => self.root.join(format!("lib/postgresql/{}", self.major)),
        }
    }

    fn extension_dir(&self) -> PathBuf {
        match &self.tree {
            Some((_, below)) => extension_dir_of(&self.root.join(below)),
            None => self
                .root
                .join(format!("share/postgresql/{}/extension", self.major)),
        }
    }

    /// Makes or renews the copy and the extension; without a change since the
    /// last call it only looks.
    pub fn ensure(context: &Context) -> Result<Self> {
        let prefix = context.prefix();
        let _lock = prefix.ensure_copy(context)?;
        prefix.ensure_extension(context)?;
        Ok(prefix)
    }

    /// Makes or renews the copy of PostgreSQL; the lock keeps others out of it.
    pub fn ensure_copy(&self, context: &Context) -> Result<fs::File> {
        create_dir(&context.state)?;
        context.owner.must_enter(&context.state)?;
        let lock = fs::File::create(context.state.join("prefix.lock"))?;
        lock.lock().context("the prefix cannot be locked")?;
        self.copy_when_stale(context)?;
        Ok(lock)
    }

    fn copy_when_stale(&self, context: &Context) -> Result<()> {
        let major = self.major;
        // Headers are only read: a link does.
        let mut link = Some("include/postgresql");
        let mut trees = vec![
            format!("lib/postgresql/{major}"),
            format!("share/postgresql/{major}"),
        ];
        let mut system = Path::new("/usr");
        if let Some((wheel, _)) = &self.tree {
            (system, link, trees) = (wheel, None, vec![String::new()]);
        }
        if self.tree.is_none() && !system.join(&trees[0]).join("bin/postgres").exists() {
            bail!(
                "PostgreSQL {major} is not installed; install it with: apt install postgresql-{major}"
            );
        }
        let mut hash = Sha256::new();
        hash.update(LAYOUT);
        for tree in trees.iter().map(String::as_str).chain(link) {
            hash_listing(&system.join(tree), &mut hash)?;
        }
        let stamp = Stamp::new(&self.root.join("copy.stamp"), hash);
        if stamp.is_current() {
            return Ok(());
        }
        if self.root.exists() {
            // The machine's PostgreSQL was upgraded; ours cannot run meanwhile.
            if let Ok(cluster) = context.running_cluster() {
                eprintln!("dev: stopping the development cluster; ./dev up starts it again");
                cluster.stop()?;
            }
            fs::remove_dir_all(&self.root)?;
        }
        for tree in &trees {
            copy_tree(&system.join(tree), &self.root.join(tree))?;
        }
        if let Some(tree) = link {
            create_dir(&self.root.join("include"))?;
            symlink(system.join(tree), self.root.join(tree))?;
        }
        stamp.write()
    }

    fn ensure_extension(&self, context: &Context) -> Result<()> {
        let mut hash = Sha256::new();
        hash.update(LAYOUT);
        hash.update(profile());
        for name in EXTENSION_SOURCES {
            hash_contents(&context.repo.join(name), &mut hash)?;
        }
        let stamp = Stamp::new(&self.root.join(EXTENSION_STAMP), hash);
        if stamp.is_current() {
            return Ok(());
        }
        let step = Step::begin(3, "building the extension");
        let library = self.build_extension(context)?;
        self.clear_scripts()?;
        let places = Places::of(&self.pg_config())?;
        loyalty_install::install(&context.repo, &library, &places)?;
        step.end();
        stamp.write()
    }

    /// The extension's library, where cargo leaves it.
    fn build_extension(&self, context: &Context) -> Result<PathBuf> {
        let cargo = path_variable("LOYALTY_CARGO")?;
        let mut build = cargo_command(cargo);
        build
            .current_dir(&context.repo)
            .args(["build", "--profile", profile()])
            .args(["--package", "pg_loyalty", "--lib"])
            .args(["--no-default-features", "--features"])
            .arg(format!("pg{}", self.major))
            .env("PGRX_PG_CONFIG_PATH", self.pg_config())
            // a change of sql/ alone compiles nothing
            .env("LOYALTY_NO_INSTALL_SCRIPT", "1");
        run_logged(&mut build, &context.log()).context("the extension does not build")?;
        let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        let built = context.repo.join(target).join(profile());
        Ok(built.join("libpg_loyalty.so"))
    }

    /// Removes the scripts of versions that the sources no longer know.
    fn clear_scripts(&self) -> Result<()> {
        for script in self.scripts()? {
            fs::remove_file(script)?;
        }
        Ok(())
    }

    /// Identifies the build of the extension that is installed.
    pub fn extension_stamp(&self) -> Result<String> {
        let path = self.root.join(EXTENSION_STAMP);
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
    }

    /// Identifies the SQL that `create extension` runs.
    pub fn install_script_hash(&self) -> Result<String> {
        let mut scripts = self.scripts()?;
        scripts.sort();
        let mut hash = Sha256::new();
        for script in scripts {
            hash_contents(&script, &mut hash)?;
        }
        Ok(hex(hash))
    }

    fn scripts(&self) -> Result<Vec<PathBuf>> {
        Ok(fs::read_dir(self.extension_dir())?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("pg_loyalty--"))
            })
            .collect())
    }
}

/// What the extension is built from, relative to the repository.
const EXTENSION_SOURCES: [&str; 9] = [
    "Cargo.toml",
    "Cargo.lock",
    "build.rs",
    "pg_loyalty.control",
    "src",
    "sql",
    "crates/loyalty-core",
    "crates/loyalty-install",
    "crates/loyalty-secret",
];

/// Where an unpacked PostgreSQL has its extensions' files.
pub fn extension_dir_of(tree: &Path) -> PathBuf {
    let share = tree.join("share");
    let own = share.join("postgresql");
    let share = if own.exists() { own } else { share };
    share.join("extension")
}

/// A file that says what a step was last done for.
struct Stamp {
    path: PathBuf,
    value: String,
}

impl Stamp {
    fn new(path: &Path, hash: Sha256) -> Self {
        Self {
            path: path.to_owned(),
            value: hex(hash),
        }
    }

    fn is_current(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|value| value == self.value)
    }

    fn write(&self) -> Result<()> {
        fs::write(&self.path, &self.value)
            .with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in WalkDir::new(from) {
        let entry = entry?;
        let target = to.join(entry.path().strip_prefix(from)?);
        if entry.file_type().is_dir() {
            create_dir(&target)?;
        } else {
            // Links are followed: some point out of the tree by relative paths.
            fs::copy(entry.path(), &target)
                .with_context(|| format!("{} cannot be copied", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Names, sizes and times: enough to notice an upgrade by the package manager.
fn hash_listing(dir: &Path, hash: &mut Sha256) -> Result<()> {
    for entry in WalkDir::new(dir).sort_by_file_name() {
        let entry = entry.with_context(|| format!("{} cannot be read", dir.display()))?;
        let meta = entry.metadata()?;
        if meta.is_file() {
            let line = format!(
                "{} {} {:?}\n",
                entry.path().display(),
                meta.len(),
                meta.modified()?
            );
            hash.update(line.as_bytes());
        }
    }
    Ok(())
}

fn hash_contents(path: &Path, hash: &mut Sha256) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    for entry in WalkDir::new(path).sort_by_file_name() {
        let entry = entry?;
        if entry.file_type().is_file() {
            let text = fs::read(entry.path())
                .with_context(|| format!("{} cannot be read", entry.path().display()))?;
            hash.update(entry.path().to_string_lossy().as_bytes());
            hash.update(text.len().to_le_bytes());
            hash.update(&text);
        }
    }
    Ok(())
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}
