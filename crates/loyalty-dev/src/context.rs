//! Where things are: the repository, the state directory, the tools.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::prefix::Prefix;
use crate::progress;
use loyalty_testkit::cluster::Cluster;
use loyalty_testkit::os::{self, Owner, free_port_from, path_variable, variable};
use loyalty_testkit::postgrest::Postgrest;

pub const DATABASE: &str = "loyalty";
const PG_PORT: u16 = 17432;
const API_PORT: u16 = 17480;
const SMTP_PORT: u16 = 17425;
const MAIL_PAGE_PORT: u16 = 17426;
const RELAY_PORT: u16 = 17427;

/// What `./dev` found or installed, handed over in environment variables.
#[derive(Clone, Debug)]
pub struct Context {
    /// The root of the repository.
    pub repo: PathBuf,
    /// What `./dev down --purge` removes.
    pub state: PathBuf,
    /// PostgreSQL's major version.
    pub pg_major: u16,
    /// An unpacked PostgreSQL to use instead of the machine's.
    pub pg_tree: Option<PathBuf>,
    pub owner: Owner,
}

/// What a later call must remember.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub pg_port: u16,
    pub api_port: u16,
    pub api_admin_port: u16,
    pub smtp_port: u16,
    /// Where the caught mails are looked at.
    pub mail_page_port: u16,
    /// The relay's metrics.
    pub relay_port: u16,
    pub jwt_secret: String,
    pub authenticator_password: String,
    /// The install script that the database's extension was made from.
    pub install_script_hash: String,
    /// The build of the extension that the cluster was started with.
    pub running_extension: String,
}

impl Default for Settings {
    /// Default ports; the secrets are still to be made.
    fn default() -> Self {
        Self {
            pg_port: PG_PORT,
            api_port: API_PORT,
            api_admin_port: API_PORT + 1,
            smtp_port: SMTP_PORT,
            mail_page_port: MAIL_PAGE_PORT,
            relay_port: RELAY_PORT,
            jwt_secret: String::new(),
            authenticator_password: String::new(),
            install_script_hash: String::new(),
            running_extension: String::new(),
        }
    }
}

impl Context {
    pub fn from_env() -> Result<Self> {
        let repo = path_variable("LOYALTY_REPO")?;
        let state = path_variable("LOYALTY_DEV_DIR")?;
        let major = variable("LOYALTY_PG")?;
        let pg_major = major
            .parse()
            .with_context(|| format!("LOYALTY_PG is {major:?}, not a PostgreSQL major version"))?;
        Ok(Self {
            repo,
            state,
            pg_major,
            pg_tree: std::env::var_os("LOYALTY_PG_TREE").map(PathBuf::from),
            owner: Owner::current()?,
        })
    }

    /// What the programs say that this call of `./dev` runs.
    pub fn log(&self) -> PathBuf {
        progress::log(&self.state)
    }

    /// The PostgreSQL to use, with its extension; see [`Prefix::ensure`].
    pub fn prefix(&self) -> Prefix {
        let dir = self.state.join("prefix");
        match &self.pg_tree {
            Some(tree) => Prefix::of_tree(&dir, self.pg_major, tree),
            None => Prefix::at(&dir, self.pg_major),
        }
    }

    /// The developer's own cluster.
    pub fn cluster(&self) -> Result<Cluster> {
        let settings = self.settings()?;
        let dir = self.state.join("cluster");
        let cluster = Cluster::at(&self.prefix().bin(), &dir, settings.pg_port, &self.owner);
        if let Ok(made_by) = fs::read_to_string(cluster.data.join("PG_VERSION"))
            && made_by.trim() != self.pg_major.to_string()
        {
            bail!(
                "the development cluster was made by PostgreSQL {}, and now {} is asked for; \
                 remove it first with: ./dev down --purge",
                made_by.trim(),
                self.pg_major
            );
        }
        Ok(cluster)
    }

    /// The programs of the major version that the cluster was made by.
    pub fn any_bin(&self) -> Result<PathBuf> {
        let version = self.state.join("cluster/data/PG_VERSION");
        let major = match fs::read_to_string(version) {
            Ok(text) => text.trim().parse()?,
            Err(_) => self.pg_major,
        };
        Ok(Prefix::at(&self.state.join("prefix"), major).bin())
    }

    /// The running cluster, or what to do about it.
    pub fn running_cluster(&self) -> Result<Cluster> {
        let cluster = self.cluster()?;
        if !cluster.is_running() {
            bail!("the development cluster does not run; start it with: ./dev up");
        }
        Ok(cluster)
    }

    pub fn api(&self) -> Postgrest {
        let dir = self.state.join("api");
        Postgrest::at(&self.postgrest_binary(), &dir, "postgrest", &self.owner)
    }

    /// Our own copy: root's caches are closed to the user it runs as.
    pub fn postgrest_binary(&self) -> PathBuf {
        self.state.join("bin").join("postgrest")
    }

    /// Copies the PostgREST that `./dev` found to where its user can run it.
    pub fn ensure_postgrest(&self) -> Result<()> {
        self.copy_binary(
            &path_variable("LOYALTY_POSTGREST")?,
            &self.postgrest_binary(),
        )
    }

    /// Copies a program unless it is there already; one that runs keeps its old file.
    pub fn copy_binary(&self, source: &Path, target: &Path) -> Result<()> {
        let same = |a: &Path, b: &Path| -> bool {
            fs::read(a).is_ok_and(|left| fs::read(b).is_ok_and(|right| left == right))
        };
        if same(source, target) {
            return Ok(());
        }
        os::create_dir(&self.state.join("bin"))?;
        let new = target.with_extension("new");
        fs::copy(source, &new).with_context(|| format!("{} cannot be copied", source.display()))?;
        fs::rename(&new, target)?;
        Ok(())
    }

    fn settings_file(&self) -> PathBuf {
        self.state.join("settings.json")
    }

    /// The saved settings, or new ones with new secrets and default ports.
    pub fn settings(&self) -> Result<Settings> {
        let path = self.settings_file();
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| {
                format!(
                    "{} is damaged; start afresh with: ./dev down --purge",
                    path.display()
                )
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let settings = Settings {
                    jwt_secret: os::random_hex(32)?,
                    authenticator_password: os::random_hex(16)?,
                    ..Settings::default()
                };
                os::create_dir(&self.state)?;
                self.save(&settings)?;
                Ok(settings)
            }
            Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
        }
    }

    pub fn save(&self, settings: &Settings) -> Result<()> {
        let text = serde_json::to_string_pretty(settings)? + "\n";
        self.owner.private_file(&self.settings_file(), &text)
    }

    pub fn api_url(&self) -> Result<String> {
        Ok(format!("http://127.0.0.1:{}", self.settings()?.api_port))
    }
}

impl Settings {
    /// Moves a port that somebody else listens on, and says so.
    pub fn move_taken_pg_port(&mut self) -> Result<()> {
        move_port("PostgreSQL", &mut self.pg_port, &[])
    }

    pub fn move_taken_api_ports(&mut self) -> Result<()> {
        move_port("PostgREST", &mut self.api_port, &[self.pg_port])?;
        let taken = [self.pg_port, self.api_port];
        move_port("PostgREST's health check", &mut self.api_admin_port, &taken)
    }

    pub fn move_taken_mail_ports(&mut self) -> Result<()> {
        let mut taken = vec![self.pg_port, self.api_port, self.api_admin_port];
        for (whose, port) in [
            ("the mail catcher", &mut self.smtp_port),
            ("the mail catcher's page", &mut self.mail_page_port),
            ("the relay's metrics", &mut self.relay_port),
        ] {
            move_port(whose, port, &taken)?;
            taken.push(*port);
        }
        Ok(())
    }
}

fn move_port(whose: &str, port: &mut u16, reserved: &[u16]) -> Result<()> {
    let mut free = free_port_from(*port)?;
    while reserved.contains(&free) {
        free = free_port_from(free + 1)?;
    }
    if free != *port {
        eprintln!("dev: port {port} is taken by another program; {whose} uses {free}");
        *port = free;
    }
    Ok(())
}
