//! Older versions of the extension, and upgrades from them. Those that were released come from
//! their commits. One more is made here of today's sources, so that there is always one: its
//! functions, views and comments differ, and it lacks some; what leads from it to the version
//! after it is written by the same command as for a release.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use loyalty_testkit::os::{plain_command, run};
use loyalty_testkit::upgrade::{self, Kind, Release, Sources, Statement};
use loyalty_testkit::{FreshCluster, Installation, TestServer, repository};

/// What the made version is called, what the one after it, and what that is called where the
/// part that is written by hand is missing.
pub const MADE: &str = "0.0.1";
pub const AFTER_MADE: &str = "0.0.2";
pub const UNFINISHED: &str = "0.0.3";

/// An upgrade from a version to a later one.
#[derive(Clone, Debug)]
pub struct Upgrade {
    pub from: String,
    pub to: String,
}

impl Upgrade {
    pub fn install(&self) -> String {
        format!("create extension pg_loyalty version '{}'", self.from)
    }

    /// A fresh install of what it leads to.
    pub fn install_new(&self) -> String {
        format!("create extension pg_loyalty version '{}'", self.to)
    }

    pub fn update(&self) -> String {
        format!("alter extension pg_loyalty update to '{}'", self.to)
    }
}

/// An installation with the scripts of older versions in it.
#[derive(Debug)]
pub struct Older {
    pub installation: Installation,
    pub upgrades: Vec<Upgrade>,
}

/// Made once in a process.
pub fn older() -> Result<&'static Older> {
    static OLDER: OnceLock<Result<Older>> = OnceLock::new();
    OLDER
        .get_or_init(make)
        .as_ref()
        .map_err(|error| anyhow::anyhow!("{error:#}"))
}

/// A cluster that has older versions, with an empty database `points`.
pub async fn older_cluster(label: &str) -> Result<FreshCluster> {
    let cluster = FreshCluster::start_of(&older()?.installation.bin, label, "")?;
    create_database(&cluster, "points", "template0").await?;
    Ok(cluster)
}

pub async fn create_database(cluster: &FreshCluster, name: &str, template: &str) -> Result<()> {
    let client = cluster.connect("postgres").await?;
    client
        .batch_execute(&format!("create database {name} template {template}"))
        .await?;
    Ok(())
}

fn make() -> Result<Older> {
    let repo = repository();
    let installation = Installation::copy("older")?;
    let write = |name: &str, script: &str| -> Result<()> {
        let path = installation.extension_dir.join(name);
        ensure!(!path.exists(), "{} is there", path.display());
        Ok(fs::write(path, script)?)
    };
    let mut upgrades = Vec::new();
    for Release { version, commit } in upgrade::releases(repo)? {
        if version == env!("CARGO_PKG_VERSION") {
            continue;
        }
        let script = Sources::Commit(repo, &commit).install_script()?;
        write(&format!("pg_loyalty--{version}.sql"), &script)?;
        upgrades.push(Upgrade {
            from: version,
            to: env!("CARGO_PKG_VERSION").to_owned(),
        });
    }
    let made = Made::new(repo)?;
    let delta = upgrade::delta(&made.old, &made.new);
    write(&format!("pg_loyalty--{MADE}.sql"), &made.old)?;
    write(&format!("pg_loyalty--{AFTER_MADE}.sql"), &made.new)?;
    write(&upgrade::script_name(MADE, UNFINISHED), &delta)?;
    write(
        &upgrade::script_name(MADE, AFTER_MADE),
        &format!("{delta}\n{BY_HAND}"),
    )?;
    upgrades.push(Upgrade {
        from: MADE.to_owned(),
        to: AFTER_MADE.to_owned(),
    });
    Ok(Older {
        installation,
        upgrades,
    })
}

/// The install scripts of the made version and of the one after it.
struct Made {
    old: String,
    new: String,
}

/// What the version after the made one adds; the table, which is never generated, is in both.
const ADDED: &str = "
create table loyalty.upgrade_trial (trial_id integer primary key);
comment on table loyalty.upgrade_trial is 'What an upgrade adds.';
comment on column loyalty.upgrade_trial.trial_id is 'A number.';
alter table loyalty.upgrade_trial enable row level security;
create function loyalty.upgrade_trial(wanted integer default 1)
    returns table (trial_id integer)
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select case when t.trial_id > 0 then t.trial_id else 0 end
      from loyalty.upgrade_trial t
     where t.trial_id = wanted;
end;
comment on function loyalty.upgrade_trial(integer) is 'A function that an upgrade adds; with a semicolon.';
create view loyalty.upgrade_trial_view with (security_invoker = true) as
    select t.trial_id from loyalty.upgrade_trial t;
comment on view loyalty.upgrade_trial_view is 'A view that an upgrade adds.';
revoke all on function loyalty.upgrade_trial(integer) from public;
";

/// The part of its upgrade script that nothing generates.
const BY_HAND: &str = "revoke all on function loyalty.upgrade_trial(integer) from public;\n";

impl Made {
    /// By a repository of its own, whose only commit is the made version: as for a release.
    fn new(sources: &Path) -> Result<Self> {
        let dir = TestServer::get()?
            .dir
            .join(format!("made_{}", std::process::id()));
        let copied = Self::in_repository(sources, &dir);
        fs::remove_dir_all(&dir)?;
        copied
    }

    fn in_repository(sources: &Path, repo: &Path) -> Result<Self> {
        fs::create_dir_all(repo)?;
        run(plain_command("cp")
            .arg("--recursive")
            .arg(sources.join("sql"))
            .arg(repo))?;
        let mut files = Vec::new();
        for entry in walk(&repo.join("sql"))? {
            if entry.starts_with(repo.join(upgrade::DIR))
                || entry.extension() != Some("sql".as_ref())
            {
                continue;
            }
            let script = fs::read_to_string(&entry)?;
            fs::write(&entry, changed(&script))?;
            files.push((entry, script));
        }
        let git = |arguments: &[&str]| run(git(repo).args(arguments));
        git(&["init", "--quiet"])?;
        git(&["add", "--all"])?;
        git(&["commit", "--quiet", "--message", MADE])?;
        let commit = git(&["rev-parse", "HEAD"])?.trim().to_owned();
        fs::write(
            repo.join(upgrade::DIR).join("released"),
            format!("# a comment\n{MADE} {commit}\n"),
        )?;
        for (path, script) in files {
            fs::write(path, script)?;
        }
        let releases = upgrade::releases(repo)?;
        let release = releases.last().context("no release")?;
        ensure!(release.version == MADE && release.commit == commit);
        let old = Sources::Commit(repo, &release.commit).install_script()?;
        let new = Sources::Tree(repo).install_script()?;
        ensure!(old != new, "nothing was changed");
        let table = ADDED.find("create function").context("no function")?;
        Ok(Self {
            old: old + &ADDED[..table],
            new: new + ADDED,
        })
    }
}

fn git(repo: &Path) -> Command {
    let mut command = plain_command("git");
    command
        .arg("-C")
        .arg(repo)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .args(["-c", "user.name=Test", "-c", "user.email=test@example.com"]);
    command
}

fn walk(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(walk(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// A script with every function, view and comment told otherwise, and working as before.
fn changed(script: &str) -> String {
    let mut changed = String::new();
    for statement in upgrade::statements(script) {
        changed += &otherwise(&statement);
        changed.push('\n');
    }
    changed
}

/// Where a body begins; within one there are texts between dollars, too.
const BODY: &str = "\nas $$\n";

fn otherwise(statement: &Statement) -> String {
    let text = &statement.text;
    let with = |place: Option<usize>, more: &str| {
        let (before, after) = text.split_at(place.unwrap_or(0));
        place.map_or_else(|| text.clone(), |_| format!("{before}{more}{after}"))
    };
    match &statement.kind {
        // a body that is a text: one more comment in it
        Kind::Routine(_) if text.contains(BODY) => {
            with(text.find(BODY).map(|at| at + BODY.len()), "-- as it was\n")
        }
        // another: another cost
        Kind::Routine(routine) if routine.kind == "function" => {
            let body = ["\nbegin atomic", "\n    return ", "\n    as '"];
            let place = body.iter().find_map(|body| text.find(body));
            with(place, "\n    cost 77")
        }
        Kind::View(_) => with(Some(text.len() - 1), "\n offset 0"),
        // those of functions without arguments are copied to others by name
        Kind::Comment(object) if !object.iter().any(|word| word.starts_with("loyalty_api.")) => {
            let quote = text.find(" is").and_then(|is| {
                let rest = text[is + 3..].trim_start();
                let quote = ["'", "$$"]
                    .into_iter()
                    .find(|quote| rest.starts_with(quote))?;
                Some(text.len() - rest.len() + quote.len())
            });
            with(quote, "Once: ")
        }
        _ => text.clone(),
    }
}
