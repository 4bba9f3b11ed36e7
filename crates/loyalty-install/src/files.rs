//! The files of the extension, put where a PostgreSQL looks for them.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::script::{UPGRADE, install_script, told};

/// The version of everything here.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

const CONTROL: &str = "pg_loyalty.control";

/// How a control file names the version of its Cargo package; cargo-pgrx replaces the same.
const VERSION_MARK: &str = "@CARGO_VERSION@";

/// Where a PostgreSQL has the files of its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// `pg_config --pkglibdir`
    pub library: PathBuf,
    /// `extension` in `pg_config --sharedir`
    pub extension: PathBuf,
}

impl Places {
    /// Those of the PostgreSQL that a `pg_config` belongs to.
    pub fn of(pg_config: &Path) -> io::Result<Self> {
        let ask = |what: &str| {
            let output = Command::new(pg_config)
                .arg(what)
                .output()
                .map_err(|error| told(pg_config, error))?;
            if !output.status.success() {
                let failed = format!("{} {what} failed", pg_config.display());
                return Err(io::Error::other(failed));
            }
            let path = String::from_utf8_lossy(&output.stdout);
            Ok(PathBuf::from(path.trim_end()))
        };
        Ok(Self {
            library: ask("--pkglibdir")?,
            extension: ask("--sharedir")?.join("extension"),
        })
    }

    /// The same below `root`, as packages are made of.
    #[must_use]
    pub fn below(&self, root: &Path) -> Self {
        let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        Self {
            library: below(&self.library),
            extension: below(&self.extension),
        }
    }
}

/// The name of the script that installs a version.
pub fn script_name(version: &str) -> String {
    format!("pg_loyalty--{version}.sql")
}

/// Installs the extension of `repository`, whose library cargo has built.
pub fn install(repository: &Path, library: &Path, places: &Places) -> io::Result<()> {
    let sql = repository.join("sql");
    let read = |path: &Path| fs::read(path).map_err(|error| told(path, error));
    fs::create_dir_all(&places.library)?;
    fs::create_dir_all(&places.extension)?;
    put(&places.library.join("pg_loyalty.so"), &read(library)?)?;
    let script = install_script(&sql)?;
    put(
        &places.extension.join(script_name(VERSION)),
        script.as_bytes(),
    )?;
    let control =
        String::from_utf8_lossy(&read(&repository.join(CONTROL))?).replace(VERSION_MARK, VERSION);
    put(&places.extension.join(CONTROL), control.as_bytes())?;
    let upgrade = sql.join(UPGRADE);
    if upgrade.is_dir() {
        for entry in fs::read_dir(upgrade)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "sql") {
                let name = path.file_name().unwrap_or_default();
                put(&places.extension.join(name), &read(&path)?)?;
            }
        }
    }
    Ok(())
}

/// Replaces a file. Running servers keep the old one that they have mapped; writing into it
/// would crash them.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let write = || {
        fs::write(&new, bytes)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
        fs::rename(&new, path)
    };
    write().map_err(|error| told(path, error))
}
