//! The install script: the files of `sql/` by the order of their folders and names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The folder of `sql/` that has the scripts from one version to the next.
pub const UPGRADE: &str = "upgrade";

/// Files with these names come first in a folder, in this order.
const FIRST: [&str; 3] = ["type", "table", "step"];

/// Files with these names come last.
const LAST: [&str; 3] = ["api", "right", "text"];

/// A file's place in its folder. Numbered files come before all others, so that a folder can
/// have an order of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Numbered(u32),
    First(usize),
    Named(String),
    Last(usize),
}

impl Place {
    fn of(stem: &str) -> Self {
        let position = |names: &[&str]| names.iter().position(|name| *name == stem);
        if let Some((number, _)) = numbered(stem) {
            Self::Numbered(number)
        } else if let Some(place) = position(&FIRST) {
            Self::First(place)
        } else if let Some(place) = position(&LAST) {
            Self::Last(place)
        } else {
            Self::Named(stem.to_owned())
        }
    }
}

/// The number and the rest of a name such as `10_role`.
fn numbered(name: &str) -> Option<(u32, &str)> {
    let (number, rest) = name.split_once('_')?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && is_plain(rest)).then_some(())?;
    Some((number.parse().ok()?, rest))
}

fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(plain)
}

/// The files that the install script consists of, in its order, relative to `sql`. Whatever else
/// is found there is an error: a file with a wrong name would be missed by nobody.
pub fn sql_files(sql: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for (name, path) in entries(sql)? {
        if name == UPGRADE {
            continue;
        }
        match numbered(&name) {
            Some((number, _)) if path.is_dir() => folders.push((number, name)),
            _ => return Err(wrong(&path, "is no folder with a name such as 20_ledger")),
        }
    }
    folders.sort();
    differ(sql, &folders)?;
    let mut files = Vec::new();
    for (_, folder) in folders {
        let dir = sql.join(&folder);
        let mut places = Vec::new();
        for (name, path) in entries(&dir)? {
            let stem = name.strip_suffix(".sql").unwrap_or_default();
            if !(path.is_file() && (is_plain(stem) || numbered(stem).is_some())) {
                return Err(wrong(&path, "is no file with a name such as table.sql"));
            }
            places.push((Place::of(stem), name));
        }
        places.sort();
        differ(&dir, &places)?;
        let folder = Path::new(&folder);
        files.extend(places.iter().map(|(_, name)| folder.join(name)));
    }
    Ok(files)
}

/// The names in a directory, without those that git and editors hide.
fn entries(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| told(dir, error))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with('.') {
            entries.push((name.into_owned(), path.clone()));
        }
    }
    Ok(entries)
}

/// Sorted places are all different.
fn differ<P: PartialEq>(dir: &Path, sorted: &[(P, String)]) -> io::Result<()> {
    match sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(wrong(
            dir,
            &format!("has two with one number: {} and {}", pair[0].1, pair[1].1),
        )),
        None => Ok(()),
    }
}

/// The script that `create extension` runs.
pub fn install_script(sql: &Path) -> io::Result<String> {
    let mut script = String::new();
    for file in sql_files(sql)? {
        let path = sql.join(&file);
        let text = fs::read_to_string(&path).map_err(|error| told(&path, error))?;
        script += &format!("-- sql/{}\n\n{}\n\n", file.display(), text.trim_end());
    }
    if script.is_empty() {
        return Err(wrong(sql, "has no SQL"));
    }
    script.truncate(script.len() - 1);
    Ok(script)
}

fn wrong(path: &Path, what: &str) -> io::Error {
    io::Error::other(format!("{} {what}", path.display()))
}

pub(crate) fn told(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;
    use std::path::PathBuf;

    use super::{install_script, sql_files};

    /// A directory of its own with these files in it.
    struct Sql(PathBuf);

    impl Sql {
        fn new(test: &str, files: &[&str]) -> io::Result<Self> {
            let dir = std::env::temp_dir().join(format!("sql-{}-{test}", std::process::id()));
            let sql = Self(dir);
            for file in files {
                let path = sql.0.join(file);
                fs::create_dir_all(path.parent().unwrap_or(&sql.0))?;
                fs::write(path, format!("select '{file}';\n"))?;
            }
            Ok(sql)
        }

        fn names(&self) -> io::Result<Vec<String>> {
            let files = sql_files(&self.0)?;
            Ok(files
                .iter()
                .map(|file| file.display().to_string())
                .collect())
        }
    }

    impl Drop for Sql {
        fn drop(&mut self) {
            let _gone_already = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn folders_and_files_have_one_order() -> io::Result<()> {
        let sql = Sql::new(
            "order",
            &[
                "20_b/api.sql",
                "20_b/bulk.sql",
                "20_b/zebra.sql",
                "20_b/text.sql",
                "20_b/table.sql",
                "20_b/type.sql",
                "20_b/step.sql",
                "20_b/right.sql",
                "20_b/9_late.sql",
                "20_b/10_later.sql",
                "20_b/.hidden",
                "100_c/a.sql",
                "05_a/a.sql",
                "upgrade/pg_loyalty--1.0.0--1.1.0.sql",
            ],
        )?;
        assert_eq!(
            sql.names()?,
            [
                "05_a/a.sql",
                "20_b/9_late.sql",
                "20_b/10_later.sql",
                "20_b/type.sql",
                "20_b/table.sql",
                "20_b/step.sql",
                "20_b/bulk.sql",
                "20_b/zebra.sql",
                "20_b/api.sql",
                "20_b/right.sql",
                "20_b/text.sql",
                "100_c/a.sql",
            ]
        );
        let script = install_script(&sql.0)?;
        assert!(script.starts_with("-- sql/05_a/a.sql\n\nselect '05_a/a.sql';\n\n-- sql/20_b/9_"));
        assert!(script.ends_with("select '100_c/a.sql';\n"));
        Ok(())
    }

    #[test]
    fn what_has_no_place_is_refused() -> io::Result<()> {
        for (test, files) in [
            ("stray", ["10_a/a.sql", "b.sql"]),
            ("folder", ["10_a/a.sql", "b/b.sql"]),
            ("suffix", ["10_a/a.sql", "10_a/b.txt"]),
            ("name", ["10_a/a.sql", "10_a/B b.sql"]),
            ("number", ["10_a/a.sql", "10_a/10_.sql"]),
            ("deep", ["10_a/a.sql", "10_a/b/c.sql"]),
            ("twin folders", ["10_a/a.sql", "010_b/b.sql"]),
            ("twins", ["10_a/1_a.sql", "10_a/01_b.sql"]),
        ] {
            let sql = Sql::new(test, &files)?;
            assert!(sql.names().is_err(), "{test} is accepted");
            let first = Sql::new(&format!("{test} alone"), &files[..1])?;
            assert!(first.names().is_ok(), "{test}: {} is refused", files[0]);
        }
        Ok(())
    }

    #[test]
    fn no_sql_is_no_script() -> io::Result<()> {
        let sql = Sql::new("none", &["upgrade/pg_loyalty--1.0.0--1.1.0.sql"])?;
        assert!(install_script(&sql.0).is_err());
        Ok(())
    }
}
