//! What tests look at a ledger with: its rows, its refusals, whether it is sound.

pub mod answer;
pub mod catalog;
pub mod hostile;
pub mod older;

use anyhow::{Context as _, Result, bail, ensure};
use loyalty_testkit::token;
use loyalty_testkit::{FreshCluster, PATIENCE, TestDb};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, SimpleQueryMessage};

/// A ledger in which every kind of operation has happened: SQL for a new database.
pub const RICH_LEDGER: &str = include_str!("rich.sql");

/// The SQLSTATE that a call was refused with, or `00000`.
pub fn sqlstate<T>(answer: &Result<T, tokio_postgres::Error>) -> String {
    match answer {
        Ok(_) => "00000".to_owned(),
        Err(error) => error
            .code()
            .map_or_else(|| error.to_string(), |code| code.code().to_owned()),
    }
}

/// The same of a request's statement: of what is raised for PostgREST, the code that clients see.
pub fn request_state<T>(answer: &Result<T, tokio_postgres::Error>) -> String {
    let told = answer.as_ref().err().and_then(|error| error.as_db_error());
    let body = told
        .filter(|told| told.code().code() == "PGRST")
        .and_then(|told| serde_json::from_str::<Value>(told.message()).ok());
    match body.as_ref().and_then(|body| body["code"].as_str()) {
        Some(code) => code.to_owned(),
        None => sqlstate(answer),
    }
}

/// Law 11: what is stored holds, in every program.
pub async fn assert_sound(client: &Client) -> Result<()> {
    let problems = rows(client, "select * from loyalty.verify()").await?;
    ensure!(problems.is_empty(), "verify(): {}", problems.join("\n"));
    Ok(())
}

/// SQL by which a superuser's transaction goes on as a request of a role, with a token of these
/// claims that this server signed.
pub fn as_request(role: &str, claims: Value) -> Result<String> {
    let mut claims = token::with_end(claims)?;
    claims["role"] = json!(role);
    Ok(format!(
        "select set_config('request.jwt.claims', c.claims, true),
                set_config('request.headers',
                    json_build_object('authorization', 'Bearer ' || loyalty_private.sign_token(c.claims))::text, true)
           from (values ($claims${claims}$claims$)) as c (claims);
         set local role {role}"
    ))
}

/// Until a session of the same database waits for another's lock.
pub async fn until_one_waits(client: &Client) -> Result<()> {
    let waiting = "select pid from pg_catalog.pg_stat_activity
                    where datname = current_database() and wait_event_type = 'Lock'";
    let begun = Instant::now();
    while client.query(waiting, &[]).await?.is_empty() {
        ensure!(begun.elapsed() < PATIENCE, "nobody waits");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Sets the test clock for whoever connects to it from now on.
pub async fn set_database_clock(db: &TestDb, instant: &str) -> Result<()> {
    let clock = format!(
        "alter database {} set loyalty.clock = '{instant}'",
        db.name()
    );
    Ok(db.connect().await?.batch_execute(&clock).await?)
}

/// Settings of a cluster whose database `points` has pg_cron.
pub const PG_CRON: &str = "shared_preload_libraries = 'pg_cron'
cron.database_name = 'points'
cron.use_background_workers = on
";

/// A cluster of its own, with an empty database `points`.
pub async fn points_cluster(label: &str, settings: &str) -> Result<FreshCluster> {
    let cluster = FreshCluster::start(label, settings)?;
    cluster
        .connect("postgres")
        .await?
        .batch_execute("create database points template template0")
        .await?;
    Ok(cluster)
}

/// An error as its reader gets it.
#[derive(Debug)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
    pub reason: String,
    pub field: String,
}

impl Refusal {
    pub fn of(error: &tokio_postgres::Error) -> Result<Self> {
        let error = error.as_db_error().context("no error of the database")?;
        let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
        Ok(Self {
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: text(error.detail()),
            hint: text(error.hint()),
            reason: text(error.constraint()),
            field: text(error.column()),
        })
    }
}

/// The rows of a query as psql would show them unaligned, columns divided by `|`.
pub async fn rows(client: &Client, sql: &str) -> Result<Vec<String>> {
    let messages = client
        .simple_query(sql)
        .await
        .with_context(|| sql.to_owned())?;
    Ok(messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|column| row.get(column).unwrap_or(""))
                    .collect::<Vec<_>>()
                    .join("|"),
            ),
            _ => None,
        })
        .collect())
}

/// A database of its own, and a session that days are told by ISO in.
pub struct World {
    pub db: TestDb,
    pub client: Client,
}

impl World {
    pub async fn open(name: &str) -> Result<Self> {
        let db = TestDb::create(name).await?;
        let client = db.connect().await?;
        let world = Self { db, client };
        world
            .run("set datestyle = 'ISO'; set timezone = 'UTC'")
            .await?;
        Ok(world)
    }

    /// Sets the test clock.
    pub async fn at(&self, clock: &str) -> Result<()> {
        self.run(&format!("set loyalty.clock = '{clock}'")).await
    }

    pub async fn run(&self, sql: &str) -> Result<()> {
        self.client
            .batch_execute(sql)
            .await
            .with_context(|| sql.to_owned())
    }

    /// The rows of a query, see [`rows`].
    pub async fn rows(&self, sql: &str) -> Result<Vec<String>> {
        rows(&self.client, sql).await
    }

    /// The same, a line for each.
    pub async fn show(&self, sql: &str) -> Result<String> {
        Ok(self.rows(sql).await?.join("\n"))
    }

    /// What it is refused with.
    pub async fn refusal(&self, sql: &str) -> Result<Refusal> {
        match self.client.simple_query(sql).await {
            Ok(_) => bail!("not refused: {sql}"),
            Err(error) => Refusal::of(&error).with_context(|| sql.to_owned()),
        }
    }

    /// The SQLSTATE that it is refused with.
    pub async fn refused(&self, sql: &str) -> Result<String> {
        Ok(self.refusal(sql).await?.code)
    }
}
