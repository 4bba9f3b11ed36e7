//! A minimal Debian by debootstrap, of this machine's release or another: the base of images
//! where no registry is reachable, and the place where packages and other versions are tried.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use crate::context::Context;
use loyalty_testkit::os::{create_dir, plain_command, run};

/// What Debian's slim images leave out, too.
const DISPENSABLE: [&str; 5] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "var/cache/apt/archives",
    "var/lib/apt/lists",
];

/// The release that this machine runs, such as `bookworm`.
pub fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(str::to_owned)
        .context("/etc/os-release names no release")
}

/// Where the machine gets its own packages from.
fn mirror() -> Result<String> {
    let codename = format!("Codename: {}", release()?);
    let listed = run(plain_command("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)"])
        .args(["Created-By: Packages", "Component: main", &codename]))?;
    let first = listed
        .lines()
        .next()
        .context("apt knows no mirror of this machine's release; `apt-get update` may help")?;
    Ok(first.trim_end_matches('/').to_owned())
}

/// How debootstrap makes a release that is newer than itself.
const NEWEST_SCRIPT: &str = "/usr/share/debootstrap/scripts/testing";

/// Settings of apt: signatures are checked, their age is not.
const OF_ANY_AGE: (&str, &str) = (
    "etc/apt/apt.conf.d/90any-age",
    "Acquire::Check-Valid-Until \"false\";\n",
);

/// The directory of the minimal Debian, made when it is not there.
pub fn debian(context: &Context, release: &str) -> Result<PathBuf> {
    if !geteuid().is_root() {
        bail!("debootstrap and chroot are root's");
    }
    let dir = context.state.join("debian").join(release);
    if dir.exists() {
        return Ok(dir);
    }
    eprintln!("dev: debootstrap {release}");
    let new = dir.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    create_dir(&new)?;
    let known = Path::new(NEWEST_SCRIPT).with_file_name(release).exists();
    run(plain_command("debootstrap")
        .args(["--variant=minbase", release])
        .arg(&new)
        .arg(mirror()?)
        .args((!known).then_some(NEWEST_SCRIPT)))?;
    with_updates(&new, release)?;
    if !known {
        // What testing signs is good for a week; a mirror that stands still serves it for longer.
        fs::write(new.join(OF_ANY_AGE.0), OF_ANY_AGE.1)?;
    }
    for name in DISPENSABLE {
        let place = new.join(name);
        for entry in fs::read_dir(&place).with_context(|| place.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                fs::remove_dir_all(&path)?;
            } else {
                fs::remove_file(&path)?;
            }
        }
    }
    fs::rename(&new, &dir)?;
    Ok(dir)
}

/// Adds the release's updates, from the mirror that debootstrap took.
fn with_updates(root: &Path, release: &str) -> Result<()> {
    let list = root.join("etc/apt/sources.list");
    let text = fs::read_to_string(&list)?;
    let mirror = text
        .split_whitespace()
        .nth(1)
        .context("debootstrap wrote no mirror")?
        .trim_end_matches('/');
    let text = format!(
        "deb {mirror} {release} main\n\
         deb {mirror} {release}-updates main\n\
         deb {mirror}-security {release}-security main\n"
    );
    fs::write(&list, text)?;
    Ok(())
}

/// Lets packages be installed inside: names are looked up as outside, and no service starts.
pub fn make_ready(root: &Path) -> Result<()> {
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf"))
        .context("/etc/resolv.conf cannot be copied")?;
    let policy = root.join("usr/sbin/policy-rc.d");
    fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A copy of the minimal Debian, to install into; gone when dropped.
pub struct Chroot {
    root: PathBuf,
}

impl Chroot {
    pub fn new(context: &Context, name: &str) -> Result<Self> {
        let debian = debian(context, &release()?)?;
        let chroot = Self {
            root: context.state.join("debian").join(name),
        };
        chroot.clear()?;
        run(plain_command("cp").arg("-a").arg(&debian).arg(&chroot.root))?;
        run(plain_command("mount")
            .args(["-t", "proc", "proc"])
            .arg(chroot.root.join("proc")))?;
        make_ready(&chroot.root)?;
        Ok(chroot)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A program inside, run by root without the caller's environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("chroot");
        command
            .arg(&self.root)
            .arg(program)
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8");
        command
    }

    fn clear(&self) -> Result<()> {
        if !self.root.exists() {
            return Ok(());
        }
        let proc = self.root.join("proc");
        if proc.join("self").exists() {
            run(plain_command("umount").arg(&proc))?;
        }
        fs::remove_dir_all(&self.root)
            .with_context(|| format!("{} cannot be removed", self.root.display()))
    }
}

impl Drop for Chroot {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("dev: {error:#}");
        }
    }
}
