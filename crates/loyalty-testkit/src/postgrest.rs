//! PostgREST in front of one database.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio_postgres::Client;

use crate::os::Owner;
use crate::service::{Service, answers};

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
    /// `crit`, `error`, `warn` or `info`.
    pub log_level: &'static str,
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
            format!("log-level = {}", quoted(self.log_level)),
        ];
        if let Some(function) = &self.pre_request {
            lines.push(format!("db-pre-request = {}", quoted(function)));
        }
        lines.join("\n") + "\n"
    }
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

/// A PostgREST process with its files in a directory: `NAME.conf`, and those of a [`Service`].
#[derive(Clone, Debug)]
pub struct Postgrest {
    service: Service,
    conf: PathBuf,
    owner: Owner,
}

impl Postgrest {
    pub fn at(binary: &Path, dir: &Path, name: &str, owner: &Owner) -> Self {
        let service = Service::at(binary, dir, name, owner);
        let conf = service.file("conf");
        Self {
            service: service.marked_by(&conf),
            conf,
            owner: owner.clone(),
        }
    }

    pub fn is_running(&self) -> bool {
        self.service.is_running()
    }

    /// Whether it runs with just these settings.
    pub fn is_running_with(&self, settings: &Settings) -> bool {
        self.is_running()
            && fs::read_to_string(&self.conf).is_ok_and(|text| text == settings.text())
    }

    /// Starts it and returns when it answers.
    pub fn start(&self, settings: &Settings) -> Result<()> {
        self.owner.private_file(&self.conf, &settings.text())?;
        let url = format!("http://127.0.0.1:{}/ready", settings.admin_port);
        self.service
            .start(&[self.conf.clone().into()], || answers(&url))
            .with_context(|| format!("no PostgREST on port {}", settings.port))
    }

    pub fn log(&self) -> PathBuf {
        self.service.log()
    }

    pub fn stop(&self) -> Result<()> {
        self.service.stop()
    }
}
