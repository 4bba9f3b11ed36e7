//! `./dev licences`: the licence texts of the crates that are linked into what is shipped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use walkdir::WalkDir;

use crate::context::Context;
use loyalty_testkit::os::{cargo_command, path_variable, run};

/// Where the texts are, in the repository.
pub const FILE: &str = "THIRD-PARTY-LICENSES";

/// What is shipped: the library and the relay.
const SHIPPED: [&str; 2] = ["pg_loyalty", "loyalty-relay"];

/// The crates are those of this platform, whatever machine asks.
const TARGET: &str = "x86_64-unknown-linux-gnu";

const LINE: &str =
    "================================================================================";

pub fn write(context: &Context) -> Result<()> {
    fs::write(context.repo.join(FILE), text(&context.repo)?)?;
    eprintln!("dev: wrote {FILE}");
    Ok(())
}

/// The names of the crates that are linked into a package of ours, itself included.
pub fn linked(repo: &Path, package: &str) -> Result<BTreeSet<String>> {
    let tree = tree(repo, &[package])?;
    Ok(tree.into_iter().map(|(name, _)| name).collect())
}

/// Name and version of each.
fn tree(repo: &Path, packages: &[&str]) -> Result<BTreeSet<(String, String)>> {
    let mut command = cargo_command(path_variable("LOYALTY_CARGO")?);
    command
        .current_dir(repo)
        .args(["tree", "--locked", "--offline", "--target", TARGET])
        .args(["--edges", "normal,no-proc-macro"])
        .args(["--prefix", "none", "--format", "{p}"]);
    for package in packages {
        command.args(["--package", package]);
    }
    let lines = run(&mut command)?;
    let mut found = BTreeSet::new();
    for line in lines.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split(' ');
        let name = words.next().context("no name")?;
        let version = words.next().and_then(|word| word.strip_prefix('v'));
        let version = version.with_context(|| line.to_owned())?;
        found.insert((name.to_owned(), version.to_owned()));
    }
    Ok(found)
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    /// None of a package of ours.
    source: Option<String>,
    license: Option<String>,
    authors: Vec<String>,
    manifest_path: PathBuf,
}

/// What the file must be for these sources.
pub fn text(repo: &Path) -> Result<String> {
    let mut command = cargo_command(path_variable("LOYALTY_CARGO")?);
    command
        .current_dir(repo)
        .args(["metadata", "--locked", "--offline", "--format-version", "1"])
        .args(["--filter-platform", TARGET]);
    let metadata: Metadata = serde_json::from_str(&run(&mut command)?)?;
    let packages: BTreeMap<(&str, &str), &Package> = metadata
        .packages
        .iter()
        .map(|package| ((package.name.as_str(), package.version.as_str()), package))
        .collect();
    let mut list = String::new();
    // each text once, with the crates that have it
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, version) in tree(repo, &SHIPPED)? {
        let package = packages
            .get(&(name.as_str(), version.as_str()))
            .with_context(|| format!("cargo knows no {name} {version}"))?;
        if package.source.is_none() {
            continue;
        }
        let licence = package.license.as_deref();
        let licence = licence.with_context(|| format!("{name} names no licence"))?;
        list.push_str(&format!("{name} {version}: {licence}\n"));
        for text in licence_texts(package)? {
            texts
                .entry(text)
                .or_default()
                .push(format!("{name} {version}"));
        }
    }
    let mut whole = format!(
        "The library pg_loyalty and the program loyalty-relay contain these crates, and the standard\n\
         library of Rust, which is licensed as \"MIT OR Apache-2.0\" by the Rust project's contributors.\n\
         Written by: ./dev licences\n\n{list}"
    );
    let mut texts: Vec<(String, Vec<String>)> = texts.into_iter().collect();
    texts.sort_by(|(_, one), (_, other)| one.cmp(other));
    for (text, crates) in texts {
        whole.push_str(&format!(
            "\n{LINE}\n{}\n{LINE}\n\n{text}\n",
            crates.join(", ")
        ));
    }
    Ok(whole)
}

/// The texts that come with a crate, also of what it took from others.
fn licence_texts(package: &Package) -> Result<BTreeSet<String>> {
    let dir = package.manifest_path.parent().context("no directory")?;
    let mut texts = BTreeSet::new();
    let is_code = |name: &str| matches!(name, "tests" | "benches" | "examples");
    for entry in WalkDir::new(dir)
        .into_iter()
        .filter_entry(|entry| !is_code(&entry.file_name().to_string_lossy()))
    {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_ascii_lowercase();
        let is_licence = [
            "license",
            "licence",
            "copying",
            "copyright",
            "notice",
            "unlicense",
        ]
        .iter()
        .any(|begin| name.starts_with(begin));
        if entry.file_type().is_file() && is_licence && !name.ends_with(".rs") {
            let text = fs::read(entry.path())?;
            texts.insert(tidy(&String::from_utf8_lossy(&text)));
        }
    }
    if texts.is_empty() {
        texts.insert(mit(package, dir)?);
    }
    Ok(texts)
}

fn tidy(text: &str) -> String {
    let text = text.trim_start_matches('\u{feff}').replace('\r', "");
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

/// Some crates come without the text of their licence, which all of them name as MIT. Who holds the
/// copyright, the head of the source says, or the manifest.
fn mit(package: &Package, dir: &Path) -> Result<String> {
    let Package {
        name,
        license,
        authors,
        ..
    } = package;
    ensure!(
        license.as_ref().is_some_and(|name| name.contains("MIT")),
        "{name} comes without the text of its licence"
    );
    let source = fs::read_to_string(dir.join("src/lib.rs"))?;
    let mut holders: Vec<String> = source
        .lines()
        .map_while(|line| line.strip_prefix("//LICENSE"))
        .filter(|line| line.contains("Copyright"))
        .map(|line| line.trim().to_owned())
        .collect();
    if holders.is_empty() {
        holders = authors
            .iter()
            .map(|author| format!("Copyright (c) {author}"))
            .collect();
    }
    if holders.is_empty() {
        bail!("{name} does not say whose it is");
    }
    Ok(format!("{}\n\n{MIT}", holders.join("\n")))
}

const MIT: &str = "\
Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the \"Software\"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED \"AS IS\", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.";
