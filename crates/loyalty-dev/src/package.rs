//! `./dev package`: the Debian packages, built by debian/rules from a copy of the sources,
//! held against lintian, and tried in a Debian that has nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use loyalty_install::{Places, install_script, script_name};
use walkdir::WalkDir;

use crate::chroot::Chroot;
use crate::context::Context;
use crate::progress::run_logged;
use loyalty_testkit::os::{
    self, any_free_port, cargo_command, create_dir, path_variable, run, run_visible,
};
use loyalty_testkit::upgrade;

/// What an installed pg_loyalty is tried with.
pub const SMOKE: &str = include_str!("../sql/smoke.sql");

pub use loyalty_install::VERSION;

/// What the packages are made of, relative to the repository.
pub const SOURCES: [&str; 13] = [
    "Cargo.toml",
    "Cargo.lock",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "THIRD-PARTY-LICENSES",
    "build.rs",
    "pg_loyalty.control",
    "crates",
    "debian",
    "docs",
    "sql",
    "src",
];

#[derive(Clone, Debug, clap::Args)]
pub struct PackageArgs {
    /// Where the packages go; by default target/debian
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only build; trying them needs root and debootstrap
    #[arg(long)]
    no_try: bool,
}

pub fn package(context: &Context, args: &PackageArgs) -> Result<()> {
    let out = match &args.out {
        Some(dir) => std::path::absolute(dir)?,
        None => context.repo.join("target/debian"),
    };
    let packages = build(context, &out)?;
    lint(&out)?;
    try_cargo_pgrx(context)?;
    if !args.no_try {
        try_out(context, &packages)?;
    }
    for package in &packages {
        let bytes = fs::metadata(package)?.len();
        println!("{} ({} kB)", package.display(), bytes.div_ceil(1000));
    }
    Ok(())
}

/// debian/control for one major version of PostgreSQL.
pub fn control(template: &str, pg_major: u16) -> String {
    template.replace("PGVERSION", &pg_major.to_string())
}

fn build(context: &Context, out: &Path) -> Result<Vec<PathBuf>> {
    let dir = context.state.join("package");
    let source = dir.join("pg-loyalty");
    // dpkg-buildpackage leaves what it makes beside the sources.
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    for name in SOURCES.iter().chain(&["tests"]) {
        copy(&context.repo.join(name), &source.join(name))?;
    }
    let debian = source.join("debian");
    let template = fs::read_to_string(debian.join("control.in"))?;
    fs::write(debian.join("control"), control(&template, context.pg_major))?;
    eprintln!(
        "dev: building the packages for PostgreSQL {}",
        context.pg_major
    );
    let mut command = cargo_command("dpkg-buildpackage");
    command
        .current_dir(&source)
        // Rust need not be Debian's: what is missing will be missed.
        .args(["--build=binary", "--no-sign", "--no-check-builddeps"])
        .env("CARGO", path_variable("LOYALTY_CARGO")?)
        .env("CARGO_TARGET_DIR", target_dir(context)?)
        .stdout(std::io::stderr());
    run_visible(&mut command).context("the packages do not build")?;
    create_dir(out)?;
    let mut packages = Vec::new();
    for entry in fs::read_dir(&dir)? {
        let path = entry?.path();
        let Some(name) = path.file_name().filter(|_| path.is_file()) else {
            continue;
        };
        let target = out.join(name);
        fs::copy(&path, &target)?;
        if target
            .extension()
            .is_some_and(|extension| extension == "deb")
        {
            packages.push(target);
        }
    }
    packages.sort();
    ensure!(
        packages.len() == 2,
        "two packages were expected: {packages:?}"
    );
    Ok(packages)
}

fn target_dir(context: &Context) -> Result<PathBuf> {
    Ok(match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::path::absolute(dir)?,
        None => context.repo.join("target"),
    })
}

/// Times stay, so that cargo builds again only what has changed.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in WalkDir::new(from) {
        let entry = entry?;
        let target = to.join(entry.path().strip_prefix(from)?);
        let target = if entry.depth() == 0 { to } else { &target };
        if entry.file_type().is_dir() {
            create_dir(target)?;
            continue;
        }
        if let Some(parent) = target.parent() {
            create_dir(parent)?;
        }
        let modified = entry.metadata()?.modified()?;
        fs::copy(entry.path(), target)
            .with_context(|| format!("{} cannot be copied", entry.path().display()))?;
        fs::File::options()
            .write(true)
            .open(target)?
            .set_modified(modified)?;
    }
    Ok(())
}

fn lint(out: &Path) -> Result<()> {
    eprintln!("dev: lintian");
    let changes = fs::read_dir(out)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "changes"));
    run_visible(
        os::plain_command("lintian")
            .args(["--allow-root", "--fail-on", "error,warning"])
            .args(["--suppress-tags", NOT_IN_DEBIAN])
            .args(changes),
    )
    .context("lintian has complaints")
}

/// The packages are no part of Debian, whose bugs no upload of theirs closes.
const NOT_IN_DEBIAN: &str = "initial-upload-closes-no-bugs";

/// The files that PostgreSQL wants of the extension: library, control, and the scripts that
/// install it and lead from older versions to this one.
pub fn extension_files(repo: &Path, pg_major: u16) -> Result<BTreeSet<String>> {
    let share = format!("/usr/share/postgresql/{pg_major}/extension");
    let mut files = BTreeSet::from([
        format!("/usr/lib/postgresql/{pg_major}/lib/pg_loyalty.so"),
        format!("{share}/pg_loyalty.control"),
        format!("{share}/{}", script_name(VERSION)),
    ]);
    for script in upgrade::scripts(repo)? {
        let name = script.file_name().unwrap_or_default().to_string_lossy();
        files.insert(format!("{share}/{name}"));
    }
    Ok(files)
}

/// Who works with cargo-pgrx gets the same from it: the install script but for its comments,
/// and the control file.
fn try_cargo_pgrx(context: &Context) -> Result<()> {
    eprintln!("dev: cargo pgrx package");
    let major = context.pg_major;
    let out = context.state.join("package/pgrx");
    let pg_config = format!("/usr/lib/postgresql/{major}/bin/pg_config");
    let mut command = cargo_command(path_variable("LOYALTY_CARGO_PGRX")?);
    command
        .current_dir(&context.repo)
        // Else pgrx looks for its own configuration in the user's home.
        .env("PGRX_PG_CONFIG_PATH", &pg_config)
        .env("CARGO_TARGET_DIR", target_dir(context)?)
        .args(["pgrx", "package", "--package", "pg_loyalty"])
        .args(["--no-default-features", "--features"])
        .arg(format!("pg{major}"))
        .args(["--pg-config", &pg_config, "--out-dir"])
        .arg(&out);
    run_logged(&mut command, &context.log()).context("cargo pgrx package does not work")?;
    let places = Places::of(Path::new(&pg_config))?.below(&out);
    let read = |path: PathBuf| {
        fs::read_to_string(&path).with_context(|| format!("cargo-pgrx made no {}", path.display()))
    };
    let script = read(places.extension.join(script_name(VERSION)))?;
    let ours = install_script(&context.repo.join("sql"))?;
    let (before, after) = script
        .split_once(ours.trim_end())
        .context("cargo-pgrx makes another install script")?;
    ensure!(
        is_comment(before) && is_comment(after),
        "cargo-pgrx has more in the install script: {before}{after}"
    );
    let control = fs::read_to_string(context.repo.join("pg_loyalty.control"))?;
    ensure!(
        read(places.extension.join("pg_loyalty.control"))?.trim_end()
            == control.replace("@CARGO_VERSION@", VERSION).trim_end(),
        "cargo-pgrx makes another control file"
    );
    ensure!(
        places.library.join("pg_loyalty.so").is_file(),
        "cargo-pgrx left no library"
    );
    Ok(())
}

/// Whether SQL has nothing but comments, as cargo-pgrx writes them: each begins a line.
fn is_comment(sql: &str) -> bool {
    let mut in_block = false;
    sql.lines().map(str::trim).all(|line| {
        let begins = line.starts_with("/*");
        let is_comment = in_block || begins || line.is_empty() || line.starts_with("--");
        in_block = (in_block || begins) && !line.ends_with("*/");
        is_comment
    })
}

/// Installs the packages into a bare Debian, uses them, and removes them.
fn try_out(context: &Context, packages: &[PathBuf]) -> Result<()> {
    eprintln!("dev: trying the packages in a bare Debian");
    let chroot = Chroot::new(context, "trial")?;
    let major = context.pg_major.to_string();
    let name = format!("postgresql-{major}-pg-loyalty");
    let inside = chroot.root().join("packages");
    create_dir(&inside)?;
    let mut paths = Vec::new();
    for package in packages {
        let file = package.file_name().context("a package without a name")?;
        fs::copy(package, inside.join(file))?;
        paths.push(format!("/packages/{}", file.to_string_lossy()));
    }
    // The cluster is made below, on a port that is free.
    let settings = chroot.root().join("etc/postgresql-common/createcluster.d");
    create_dir(&settings)?;
    fs::write(settings.join("trial.conf"), "create_main_cluster = false\n")?;
    run(chroot.command("apt-get").args(["update", "-qq"]))?;
    let mut install = chroot.command("apt-get");
    install.args(["install", "-qq", "-y", "--no-install-recommends"]);
    run(install.args(&paths))?;

    let listed = run(chroot.command("dpkg").args(["-L", &name]))?;
    let listed: BTreeSet<String> = listed
        .lines()
        .filter(|path| path.contains("/postgresql/") && path.contains("pg_loyalty"))
        .map(str::to_owned)
        .collect();
    let expected = extension_files(&context.repo, context.pg_major)?;
    ensure!(
        listed == expected,
        "the package has {listed:?}, not {expected:?}"
    );
    let said = run(chroot.command("loyalty-relay").arg("--version"))?;
    ensure!(said.trim() == format!("loyalty-relay {VERSION}"), "{said}");

    let port = any_free_port()?.to_string();
    run(chroot
        .command("pg_createcluster")
        .args(["--port", &port, &major, "trial"]))?;
    let control = |action: &str| {
        run(chroot.command("pg_ctlcluster").args([
            "--skip-systemctl-redirect",
            &major,
            "trial",
            action,
        ]))
    };
    control("start")?;
    let smoke = smoke(&chroot, &port);
    control("stop")?;
    smoke?;

    run(chroot
        .command("apt-get")
        .args(["purge", "-qq", "-y", &name, "loyalty-relay"]))?;
    if let Some(left) = expected
        .iter()
        .find(|path| chroot.root().join(&path[1..]).exists())
    {
        bail!("{left} is there after the package was purged");
    }
    eprintln!("dev: installed, a grant and a spend made, purged");
    Ok(())
}

fn smoke(chroot: &Chroot, port: &str) -> Result<()> {
    let mut psql = chroot.command("runuser");
    psql.args(["-u", "postgres", "--", "psql", "-XqAt", "-p", port])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = psql.spawn()?;
    child
        .stdin
        .take()
        .context("no input")?
        .write_all(SMOKE.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the packages do not work");
    ensure!(
        String::from_utf8_lossy(&output.stdout).trim() == VERSION,
        "another version is installed"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_comment;

    #[test]
    fn comments_are_told_from_sql() {
        let made = "/* <begin connected objects> */\n/*\nmade by pgrx.\n\nTwice.\n*/\n\n-- src/lib.rs:40\n";
        assert!(is_comment(made));
        assert!(!is_comment("/* one */\nselect 1;\n"));
        assert!(!is_comment("/*\none\n*/\nselect 1;\n"));
    }
}
