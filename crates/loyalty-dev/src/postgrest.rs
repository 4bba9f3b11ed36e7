//! PostgREST in front of one database.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio_postgres::Client;

use crate::os::{Owner, end_process, is_running, log_tail, wait_until};

/// What PostgREST is told; see docs/operations.md for a production file.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A libpq connection string of `loyalty_authenticator`.
    pub db_uri: String,
    pub jwt_secret: String,
    pub port: u16,
    /// Its health port, by which it says that the schema is loaded.
    pub admin_port: u16,
    pub pool: u16,
    /// `schema.function` called before each request, where there is one.
    pub pre_request: Option<String>,
}

impl Settings {
    fn text(&self) -> String {
        let mut lines = vec![
            format!("db-uri = {}", quoted(&self.db_uri)),
            "db-schemas = \"loyalty_api\"".to_owned(),
            "db-anon-role = \"loyalty_anon\"".to_owned(),
            format!("db-pool = {}", self.pool),
            format!("jwt-secret = {}", quoted(&self.jwt_secret)),
            "openapi-mode = \"follow-privileges\"".to_owned(),
            "server-host = \"127.0.0.1\"".to_owned(),
            format!("server-port = {}", self.port),
            format!("admin-server-port = {}", self.admin_port),
        ];
        if let Some(function) = &self.pre_request {
            lines.push(format!("db-pre-request = {}", quoted(function)));
        }
        lines.join("\n") + "\n"
    }
}

fn answers(url: &str) -> bool {
    ureq::get(url)
        .config()
        .timeout_global(Some(Duration::from_secs(2)))
        .build()
        .call()
        .is_ok()
}

/// The function that the extension wants called before each request, if any.
pub async fn pre_request(client: &Client) -> Result<Option<String>> {
    let name = "loyalty.pre_request";
    let row = client
        .query_one("select to_regprocedure($1 || '()') is not null", &[&name])
        .await?;
    Ok(row.get::<_, bool>(0).then(|| name.to_owned()))
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A PostgREST process with its files in `dir`: `NAME.conf`, `.log`, `.pid`.
#[derive(Clone, Debug)]
pub struct Postgrest {
    binary: PathBuf,
    conf: PathBuf,
    log: PathBuf,
    pid_file: PathBuf,
    owner: Owner,
}

impl Postgrest {
    pub fn at(binary: &Path, dir: &Path, name: &str, owner: &Owner) -> Self {
        Self {
            binary: binary.to_owned(),
            conf: dir.join(format!("{name}.conf")),
            log: dir.join(format!("{name}.log")),
            pid_file: dir.join(format!("{name}.pid")),
            owner: owner.clone(),
        }
    }

    fn pid(&self) -> Option<i32> {
        let pid = fs::read_to_string(&self.pid_file)
            .ok()?
            .trim()
            .parse()
            .ok()?;
        is_running(pid, &self.conf.to_string_lossy()).then_some(pid)
    }

    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Whether it runs with just these settings.
    pub fn is_running_with(&self, settings: &Settings) -> bool {
        self.is_running()
            && fs::read_to_string(&self.conf).is_ok_and(|text| text == settings.text())
    }

    /// Starts it and returns when it answers.
    pub fn start(&self, settings: &Settings) -> Result<()> {
        self.owner.private_file(&self.conf, &settings.text())?;
        self.owner.private_file(&self.log, "")?;
        let mut child = self.spawn()?;
        fs::write(&self.pid_file, child.id().to_string())?;
        let url = format!("http://127.0.0.1:{}/ready", settings.admin_port);
        let mut ended = None;
        let ready = wait_until(Duration::from_secs(30), || {
            ended = child.try_wait().ok().flatten();
            ended.is_some() || answers(&url)
        });
        if ready && ended.is_none() {
            return Ok(());
        }
        let why = ended.map_or_else(
            || "does not become ready within 30 seconds".to_owned(),
            |status| format!("ended ({status})"),
        );
        self.stop()?;
        bail!(
            "PostgREST on port {} {why}. The end of {}:\n{}",
            settings.port,
            self.log.display(),
            log_tail(&self.log, 8)
        );
    }

    fn spawn(&self) -> Result<Child> {
        let log = fs::OpenOptions::new().append(true).open(&self.log)?;
        let mut command: Command = self.owner.command(&self.binary);
        command
            .arg(&self.conf)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // Its own process group: the terminal's Ctrl-C is not meant for it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
            .spawn()
            .with_context(|| format!("{} cannot be started", self.binary.display()))
    }

    pub fn stop(&self) -> Result<()> {
        if let Some(pid) = self.pid() {
            end_process(pid, &self.conf.to_string_lossy())?;
        }
        let _absent = fs::remove_file(&self.pid_file);
        Ok(())
    }
}
