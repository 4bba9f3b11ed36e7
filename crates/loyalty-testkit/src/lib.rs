//! What tests stand on: databases of their own in the cluster that
//! `./dev test` started, PostgREST in front of them, tokens.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use loyalty_testkit::TestDb;
//! use loyalty_testkit::token::{Claims, Role};
//!
//! let db = TestDb::create("refund").await?;
//! let client = db.connect().await?;
//! let api = db.api().await?;
//! let token = api.token(&Claims::new(Role::Member, 60)?.program("coin").account_id(1))?;
//! # let _ = (client, token);
//! # Ok(()) }
//! ```
//! Everything is removed when its value is dropped, also by a panic.

pub mod cluster;
pub mod http;
pub mod keys;
pub mod mail;
pub mod os;
pub mod plans;
pub mod postgrest;
pub mod service;
pub mod token;
pub mod upgrade;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio_postgres::{Client, Config};

use crate::cluster::{Cluster, SUPERUSER, connect, superuser_config};
pub use crate::os::PATIENCE;
use crate::os::{Owner, path_variable, plain_command, run, variable};
use crate::postgrest::{Postgrest, Settings, pre_request};

/// The cluster that `./dev test` started, found by its `LOYALTY_TEST_…`
/// environment variables.
#[derive(Clone, Debug)]
pub struct TestServer {
    pub bin: PathBuf,
    pub socket_dir: PathBuf,
    pub port: u16,
    pub pg_major: u16,
    /// A database with the extension in it, to copy.
    pub template: String,
    /// The one database of the cluster in which pg_cron can be created.
    pub cron_database: String,
    pub postgrest: PathBuf,
    pub jwt_secret: String,
    /// What `loyalty.secret_dir` names in its clusters.
    pub secret_dir: PathBuf,
    /// Scratch space, removed after the run.
    pub dir: PathBuf,
}

static SERVER: OnceLock<TestServer> = OnceLock::new();
static COUNTER: AtomicU32 = AtomicU32::new(0);

impl TestServer {
    /// The server, or an error that says to run `./dev test`.
    pub fn get() -> Result<&'static Self> {
        if let Some(server) = SERVER.get() {
            return Ok(server);
        }
        let server = Self::from_env().context("these tests are run by: ./dev test")?;
        Ok(SERVER.get_or_init(|| server))
    }

    fn from_env() -> Result<Self> {
        Ok(Self {
            bin: path_variable("LOYALTY_TEST_BIN")?,
            socket_dir: path_variable("LOYALTY_TEST_PGHOST")?,
            port: variable("LOYALTY_TEST_PGPORT")?.parse()?,
            pg_major: variable("LOYALTY_TEST_PG_MAJOR")?.parse()?,
            template: variable("LOYALTY_TEST_TEMPLATE")?,
            cron_database: variable("LOYALTY_TEST_CRON_DATABASE")?,
            postgrest: path_variable("LOYALTY_TEST_POSTGREST")?,
            jwt_secret: variable("LOYALTY_TEST_JWT_SECRET")?,
            secret_dir: path_variable("LOYALTY_TEST_SECRET_DIR")?,
            dir: path_variable("LOYALTY_TEST_DIR")?,
        })
    }

    /// Makes it the server of this process, where no `./dev test` has set the environment.
    pub fn install(self) -> Result<()> {
        SERVER
            .set(self)
            .map_err(|_| anyhow::anyhow!("this process has a server of its tests already"))
    }

    /// How a superuser connects to `database`.
    pub fn config(&self, database: &str) -> Config {
        superuser_config(&self.socket_dir, self.port, database)
    }

    /// One of PostgreSQL's programs, its connection set by the environment.
    pub fn program(&self, name: &str, database: &str) -> Command {
        client_program(&self.bin, name, &self.socket_dir, self.port, database)
    }

    /// A port that no other test gets. Another program still may take it
    /// before it is used.
    fn reserve_port(&self) -> Result<u16> {
        let dir = self.dir.join("ports");
        os::create_dir(&dir)?;
        loop {
            let port = os::any_free_port()?;
            if std::fs::File::create_new(dir.join(port.to_string())).is_ok() {
                return Ok(port);
            }
        }
    }
}

/// A database of one's own, dropped with this value.
#[derive(Debug)]
pub struct TestDb {
    name: String,
    server: &'static TestServer,
}

impl TestDb {
    /// A copy of the template: the extension is there, nothing else is.
    pub async fn create(label: &str) -> Result<Self> {
        Self::copy_of(&TestServer::get()?.template.clone(), label).await
    }

    /// A database without the extension.
    pub async fn create_empty(label: &str) -> Result<Self> {
        Self::copy_of("template0", label).await
    }

    /// A copy of this database as it is; nobody may be connected to it.
    pub async fn copy(&self, label: &str) -> Result<Self> {
        Self::copy_of(&self.name, label).await
    }

    async fn copy_of(template: &str, label: &str) -> Result<Self> {
        let server = TestServer::get()?;
        let db = Self {
            name: unique_name(label),
            server,
        };
        connect(&server.config("postgres"))
            .await?
            .batch_execute(&format!("create database {} template {template}", db.name))
            .await
            .with_context(|| format!("database {} cannot be created", db.name))?;
        Ok(db)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// How a superuser connects.
    pub fn config(&self) -> Config {
        self.server.config(&self.name)
    }

    /// A superuser's session.
    pub async fn connect(&self) -> Result<Client> {
        connect(&self.config()).await
    }

    /// A session of `role`, also of one that may not log in.
    pub async fn connect_as(&self, role: &str) -> Result<Client> {
        let client = self.connect().await?;
        client
            .batch_execute(&format!("set session authorization {role}"))
            .await?;
        Ok(client)
    }

    /// `psql`, `pg_dump`, `pgbench`, … as a superuser in this database.
    pub fn program(&self, name: &str) -> Command {
        self.server.program(name, &self.name)
    }

    /// PostgREST in front of this database, stopped with the value.
    pub async fn api(&self) -> Result<Api> {
        self.api_with_secret(&self.server.jwt_secret).await
    }

    /// The same with another `jwt-secret`, such as `@` and the path of a JWK set.
    pub async fn api_with_secret(&self, jwt_secret: &str) -> Result<Api> {
        let server = self.server;
        let db_uri = authenticator_uri(&server.socket_dir, server.port, &self.name, None);
        Api::start(
            &self.connect().await?,
            &self.name,
            &db_uri,
            jwt_secret,
            true,
        )
        .await
    }

    /// The same without `db-pre-request`, as somebody may forget it.
    pub async fn api_without_pre_request(&self, jwt_secret: &str) -> Result<Api> {
        let server = self.server;
        let db_uri = authenticator_uri(&server.socket_dir, server.port, &self.name, None);
        Api::start(
            &self.connect().await?,
            &self.name,
            &db_uri,
            jwt_secret,
            false,
        )
        .await
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let dropped = run(self.server.program("dropdb", "postgres").args([
            "--force",
            "--if-exists",
            &self.name,
        ]));
        report(dropped.map(drop));
    }
}

/// A PostgREST of one's own, ended with this value.
#[derive(Debug)]
pub struct Api {
    url: String,
    postgrest: Postgrest,
    jwt_secret: String,
}

impl Api {
    async fn start(
        client: &Client,
        name: &str,
        db_uri: &str,
        jwt_secret: &str,
        has_pre_request: bool,
    ) -> Result<Self> {
        let server = TestServer::get()?;
        let pre_request = pre_request(client).await?.filter(|_| has_pre_request);
        let owner = Owner::current()?;
        let dir = server.dir.join(format!("api-{name}"));
        owner.private_dir(&dir)?;
        let postgrest = Postgrest::at(&server.postgrest, &dir, &unique_name("api"), &owner);
        let mut attempts = 0;
        loop {
            let settings = Settings {
                db_uri: db_uri.to_owned(),
                jwt_secret: jwt_secret.to_owned(),
                port: server.reserve_port()?,
                admin_port: server.reserve_port()?,
                pool: 10,
                pre_request: pre_request.clone(),
                log_level: "error",
            };
            attempts += 1;
            match postgrest.start(&settings) {
                Ok(()) => {
                    return Ok(Self {
                        url: format!("http://127.0.0.1:{}", settings.port),
                        postgrest,
                        jwt_secret: server.jwt_secret.clone(),
                    });
                }
                // Somebody may have taken the port in between.
                Err(_) if attempts < 3 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A token that this PostgREST believes; claims may be any JSON.
    pub fn token<T: Serialize>(&self, claims: &T) -> Result<String> {
        token::sign(claims, &self.jwt_secret)
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        report(self.postgrest.stop());
    }
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.ancestors().nth(2).unwrap_or(crate_dir)
}

/// The mail relay's program, as `./dev test` built it.
pub fn relay_program() -> Result<PathBuf> {
    path_variable("LOYALTY_TEST_RELAY").context("these tests are run by: ./dev test")
}

/// Another, empty cluster with the same PostgreSQL and the extension's files,
/// as a dump is restored into. Removed with this value.
#[derive(Debug)]
pub struct FreshCluster {
    cluster: Cluster,
    dir: PathBuf,
}

impl FreshCluster {
    /// `settings`: lines of postgresql.conf, e.g. to preload pg_cron.
    pub fn start(label: &str, settings: &str) -> Result<Self> {
        Self::start_of(&TestServer::get()?.bin, label, settings)
    }

    /// The same by the programs of another installation.
    pub fn start_of(bin: &Path, label: &str, settings: &str) -> Result<Self> {
        let server = TestServer::get()?;
        let dir = server.dir.join(unique_name(label));
        let port = server.reserve_port()?;
        let cluster = Cluster::at(bin, &dir, port, &Owner::current()?);
        let settings = format!(
            "{FAST_SETTINGS}listen_addresses = ''\n{}{settings}\n",
            keys::setting(&server.secret_dir)
        );
        cluster.init(&settings)?;
        let fresh = Self { cluster, dir };
        fresh.cluster.start()?;
        Ok(fresh)
    }

    /// A streaming standby of this cluster, to promote by `cluster().promote()`.
    pub fn standby(&self, label: &str) -> Result<Self> {
        let server = TestServer::get()?;
        let dir = server.dir.join(unique_name(label));
        let port = server.reserve_port()?;
        let cluster = Cluster::at(&server.bin, &dir, port, &Owner::current()?);
        cluster.copy_of(&self.cluster)?;
        let fresh = Self { cluster, dir };
        fresh.cluster.start()?;
        Ok(fresh)
    }

    /// A cluster that recovers from a base backup; `settings` say how far.
    pub fn recovered(label: &str, backup: &Path, settings: &str) -> Result<Self> {
        let server = TestServer::get()?;
        let dir = server.dir.join(unique_name(label));
        let owner = Owner::current()?;
        let cluster = Cluster::at(&server.bin, &dir, server.reserve_port()?, &owner);
        owner.private_dir(&dir)?;
        let fresh = Self { cluster, dir };
        let data = &fresh.cluster.data;
        run(owner.command("/bin/cp").arg("-a").arg(backup).arg(data))?;
        let conf = std::fs::read_to_string(data.join("loyalty.conf"))?;
        fresh.cluster.configure(&format!("{conf}\n{settings}"))?;
        owner.private_file(&data.join("recovery.signal"), "")?;
        fresh.cluster.start()?;
        Ok(fresh)
    }

    pub async fn connect(&self, database: &str) -> Result<Client> {
        self.cluster.connect(database).await
    }

    /// PostgREST in front of a database of this cluster, stopped with the value.
    pub async fn api(&self, database: &str) -> Result<Api> {
        let cluster = &self.cluster;
        let db_uri = authenticator_uri(&cluster.socket_dir, cluster.port, database, None);
        let name = unique_name(database);
        let secret = &TestServer::get()?.jwt_secret;
        Api::start(&self.connect(database).await?, &name, &db_uri, secret, true).await
    }

    pub fn program(&self, name: &str, database: &str) -> Command {
        let cluster = &self.cluster;
        client_program(
            &cluster.bin,
            name,
            &cluster.socket_dir,
            cluster.port,
            database,
        )
    }

    /// To stop, start or crash it.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }
}

impl Drop for FreshCluster {
    fn drop(&mut self) {
        report(self.cluster.stop());
        report(std::fs::remove_dir_all(&self.dir).map_err(Into::into));
    }
}

/// In the root of a private copy of PostgreSQL that has the extension.
pub const EXTENSION_STAMP: &str = "extension.stamp";

/// A copy of the server's PostgreSQL, for scripts of extensions that nobody else may see.
/// It stays until the run is over.
#[derive(Debug)]
pub struct Installation {
    pub bin: PathBuf,
    pub extension_dir: PathBuf,
}

impl Installation {
    /// By hard links: files may be added and removed, never written into.
    pub fn copy(label: &str) -> Result<Self> {
        let server = TestServer::get()?;
        let root = server
            .bin
            .ancestors()
            .find(|dir| dir.join(EXTENSION_STAMP).exists())
            .context("the server is no private copy")?;
        let copy = server.dir.join(unique_name(label));
        run(plain_command("cp")
            .args(["--archive", "--link"])
            .arg(root)
            .arg(&copy))?;
        let bin = copy.join(server.bin.strip_prefix(root)?);
        // a PostgreSQL finds its files relative to its own program
        let share = run(plain_command(bin.join("pg_config")).arg("--sharedir"))?;
        Ok(Self {
            bin,
            extension_dir: Path::new(share.trim()).join("extension"),
        })
    }
}

/// Nothing in a test's cluster outlives the run, so durability only costs time.
pub const FAST_SETTINGS: &str = "fsync = off\nfull_page_writes = off\n";

/// The address by which PostgREST logs in.
pub fn authenticator_uri(
    socket_dir: &Path,
    port: u16,
    database: &str,
    password: Option<&str>,
) -> String {
    let mut uri = format!(
        "host='{}' port={port} dbname={database} user=loyalty_authenticator",
        socket_dir.display()
    );
    if let Some(password) = password {
        uri.push_str(&format!(" password='{password}'"));
    }
    uri
}

/// One of PostgreSQL's client programs, as the superuser of a cluster.
pub fn client_program(
    bin: &Path,
    name: &str,
    socket_dir: &Path,
    port: u16,
    database: &str,
) -> Command {
    let mut command = plain_command(bin.join(name));
    command
        .env("PGHOST", socket_dir)
        .env("PGPORT", port.to_string())
        .env("PGUSER", SUPERUSER)
        .env("PGDATABASE", database);
    command
}

fn unique_name(label: &str) -> String {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let label: String = label
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .take(30)
        .collect();
    format!("t_{}_{}_{number}", label.to_lowercase(), std::process::id())
}

/// A drop cannot return an error, and a panic in it would hide the test's own.
fn report(result: Result<()>) {
    if let Err(error) = result {
        eprintln!("cleaning up after a test: {error:#}");
    }
}
