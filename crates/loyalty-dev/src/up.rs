//! `./dev up` and `./dev down`.

use std::fs;

use anyhow::{Context as _, Result};
use tokio_postgres::Client;

use crate::context::{Context, DATABASE, Settings};
use crate::demo;
use crate::post;
use crate::prefix::Prefix;
use crate::progress::Step;
use loyalty_testkit::authenticator_uri;
use loyalty_testkit::cluster::Cluster;
use loyalty_testkit::keys;
use loyalty_testkit::postgrest;
use loyalty_testkit::token::{Claims, Role, sign};

/// Starts what does not run and makes what is not there; then changes nothing. The API answers
/// before the demo is played, and the relay is built meanwhile.
pub async fn up(context: &Context, fresh: bool) -> Result<()> {
    let prefix = Prefix::ensure(context)?;
    context.ensure_postgrest()?;
    start_cluster(context, &prefix)?;
    if fresh {
        post::stop(context)?;
        context.api().stop()?;
        drop_database(context).await?;
    }
    ensure_database(context, &prefix).await?;
    let client = context.cluster()?.connect(DATABASE).await?;
    start_api(context, &client).await?;
    let build = post::build(context)?;
    demo::ensure(&client, &context.cluster()?).await?;
    // Only now: the tick goes by the real clock, the demo by its own.
    client
        .batch_execute("select loyalty.install_schedules()")
        .await?;
    post::start(context, &client, build).await?;
    demo::print_summary(&context.cluster()?)?;
    print_lines(context, &client).await
}

/// Stops everything; with `purge` removes it too.
pub fn down(context: &Context, purge: bool) -> Result<()> {
    let was_there = context.state.exists();
    if was_there {
        post::stop(context)?;
        context.api().stop()?;
        // The cluster may be of another major version than is now asked for.
        let dir = context.state.join("cluster");
        Cluster::at(&context.any_bin()?, &dir, 0, &context.owner).stop()?;
    }
    if purge && was_there {
        fs::remove_dir_all(&context.state)
            .with_context(|| format!("{} cannot be removed", context.state.display()))?;
        println!("Stopped, and {} removed.", context.state.display());
    } else {
        println!("Stopped. The data stays for the next ./dev up; ./dev down --purge removes it.");
    }
    Ok(())
}

fn start_cluster(context: &Context, prefix: &Prefix) -> Result<()> {
    let mut settings = context.settings()?;
    let mut cluster = context.cluster()?;
    let installed = prefix.extension_stamp()?;
    if cluster.is_running() {
        if settings.running_extension == installed {
            return Ok(());
        }
        eprintln!("dev: the extension has changed: PostgreSQL is restarted");
        post::stop(context)?;
        context.api().stop()?;
        cluster.stop()?;
    }
    settings.move_taken_pg_port()?;
    settings.running_extension = installed;
    context.save(&settings)?;
    cluster.port = settings.pg_port;
    let secrets = context.state.join("secret");
    keys::ensure(&context.owner, &secrets, &settings.jwt_secret)?;
    let what = format!("starting PostgreSQL on port {}", cluster.port);
    let step = Step::begin(4, &what);
    let lines = cluster_settings() + &keys::setting(&secrets);
    if cluster.exists() {
        cluster.configure(&lines)?;
    } else {
        cluster.init(&lines)?;
    }
    cluster.start()?;
    step.end();
    Ok(())
}

fn cluster_settings() -> String {
    format!(
        "listen_addresses = '127.0.0.1'\n\
         shared_preload_libraries = 'pg_cron'\n\
         cron.database_name = '{DATABASE}'\n\
         cron.use_background_workers = on\n\
         max_worker_processes = 16\n\
         fsync = on\n"
    )
}

async fn drop_database(context: &Context) -> Result<()> {
    eprintln!("dev: dropping the database {DATABASE}");
    context
        .cluster()?
        .connect("postgres")
        .await?
        .batch_execute(&format!("drop database if exists {DATABASE} with (force)"))
        .await
        .context("the database cannot be dropped")
}

async fn ensure_database(context: &Context, prefix: &Prefix) -> Result<()> {
    let cluster = context.cluster()?;
    let maintenance = cluster.connect("postgres").await?;
    let exists = "select from pg_database where datname = $1";
    if maintenance.query_opt(exists, &[&DATABASE]).await?.is_none() {
        maintenance
            .batch_execute(&format!("create database {DATABASE} template template0"))
            .await?;
    }
    let mut client = cluster.connect(DATABASE).await?;
    let mut settings = context.settings()?;
    let installed = prefix.install_script_hash()?;
    let exists = "select from pg_extension where extname = 'pg_loyalty'";
    if client.query_opt(exists, &[]).await?.is_some() {
        if settings.install_script_hash != installed {
            eprintln!(
                "dev: the extension's SQL has changed since the database was made; \
                 make a new one with: ./dev up --fresh"
            );
        }
        return Ok(());
    }
    let step = Step::begin(5, "making the database");
    let transaction = client.transaction().await?;
    transaction
        .batch_execute(&format!(
            "create extension pg_cron;\n\
             create extension pg_loyalty;\n\
             alter role loyalty_authenticator login password '{}';\n\
             select loyalty.install_log_settings()",
            settings.authenticator_password
        ))
        .await
        .context("the extension cannot be created")?;
    transaction.commit().await?;
    settings.install_script_hash = installed;
    context.save(&settings)?;
    step.end();
    Ok(())
}

async fn start_api(context: &Context, client: &Client) -> Result<()> {
    let mut settings = context.settings()?;
    let api = context.api();
    let conf = api_settings(context, &settings, client).await?;
    if api.is_running_with(&conf) {
        return Ok(());
    }
    api.stop()?;
    settings.move_taken_api_ports()?;
    context.save(&settings)?;
    context.owner.private_dir(&context.state.join("api"))?;
    let step = Step::begin(6, "starting the API");
    api.start(&api_settings(context, &settings, client).await?)?;
    step.end();
    eprintln!("dev: the API answers at {}", context.api_url()?);
    Ok(())
}

async fn api_settings(
    context: &Context,
    settings: &Settings,
    client: &Client,
) -> Result<postgrest::Settings> {
    let cluster = context.cluster()?;
    Ok(postgrest::Settings {
        db_uri: authenticator_uri(
            &cluster.socket_dir,
            settings.pg_port,
            DATABASE,
            Some(&settings.authenticator_password),
        ),
        jwt_secret: settings.jwt_secret.clone(),
        port: settings.api_port,
        admin_port: settings.api_admin_port,
        pool: 10,
        pre_request: postgrest::pre_request(client).await?,
        log_level: "error",
    })
}

/// A token for the demo; a member's is for the tour's member unless told
/// otherwise.
pub async fn token(
    context: &Context,
    role: Role,
    program: &str,
    account_id: Option<i64>,
    expires_in_seconds: i64,
) -> Result<String> {
    let mut claims = Claims::new(role, expires_in_seconds)?;
    if role != Role::Operator {
        claims = claims.program(program);
    }
    if role == Role::Member {
        let account_id = match account_id {
            Some(account_id) => account_id,
            None => {
                let client = context.running_cluster()?.connect(DATABASE).await?;
                demo::first_account(&client, program).await?
            }
        };
        claims = claims.account_id(account_id);
    }
    sign(&claims, &context.settings()?.jwt_secret)
}

async fn print_lines(context: &Context, client: &Client) -> Result<()> {
    let account_id = demo::first_account(client, demo::TOUR_PROGRAM).await?;
    print!(
        "{}",
        demo::lines(&context.repo, &context.api_url()?, account_id)
    );
    let dev = shell_word(&context.repo.join("dev").to_string_lossy());
    print!("{}", post::lines(context, &dev, account_id)?);
    Ok(())
}

/// Quotes a word for a shell to read back.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::shell_word;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(shell_word("/a/b-c.d"), "/a/b-c.d");
        assert_eq!(shell_word("/a b/c"), "'/a b/c'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
    }
}
