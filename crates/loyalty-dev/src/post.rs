//! The post office of `./dev up`: a mail catcher, and the relay that sends to it.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tokio_postgres::Client;

use crate::context::{Context, DATABASE};
use crate::progress::{Logged, Step, start_logged};
use loyalty_testkit::mail::store;
use loyalty_testkit::os::{cargo_command, path_variable};
use loyalty_testkit::service::{Service, answers};

/// The relay's login, made for the development cluster only.
const LOGIN: &str = "mail_relay";
const CATCHER: &str = "loyalty-mail-catcher";
const RELAY: &str = "loyalty-relay";

/// Starts what does not run yet, or runs with other settings, once it is built.
pub async fn start(context: &Context, client: &Client, build: Logged) -> Result<()> {
    let step = Step::begin(8, "building and starting the relay");
    build
        .wait(&context.log())
        .context("the relay does not build")?;
    // cargo runs this very program from there.
    let here = std::env::current_exe()?;
    let built = here.parent().context("this program is in no directory")?;
    for name in [CATCHER, RELAY] {
        context.copy_binary(&built.join(name), &binary(context, name))?;
    }
    ensure_login(client).await?;
    let mut settings = context.settings()?;
    let is_running = |settings: &_| -> Result<bool> {
        Ok(
            catcher(context).is_running_with(&catcher_arguments(context, settings))?
                && relay(context).is_running_with(&relay_arguments(context, settings)?)?,
        )
    };
    if is_running(&settings)? {
        step.end();
        return Ok(());
    }
    stop(context)?;
    settings.move_taken_mail_ports()?;
    context.save(&settings)?;
    for dir in ["mail", "post"] {
        context.owner.private_dir(&context.state.join(dir))?;
    }
    let page = format!("http://127.0.0.1:{}/messages", settings.mail_page_port);
    catcher(context).start(&catcher_arguments(context, &settings), || answers(&page))?;
    let health = format!("http://127.0.0.1:{}/healthz", settings.relay_port);
    relay(context).start(&relay_arguments(context, &settings)?, || answers(&health))?;
    step.end();
    Ok(())
}

/// The relay first: what it was about to send waits in the database.
pub fn stop(context: &Context) -> Result<()> {
    relay(context).stop()?;
    catcher(context).stop()
}

fn binary(context: &Context, name: &str) -> PathBuf {
    context.state.join("bin").join(name)
}

fn service(context: &Context, name: &str) -> Service {
    let dir = context.state.join("post");
    Service::at(&binary(context, name), &dir, name, &context.owner)
}

fn catcher(context: &Context) -> Service {
    service(context, CATCHER)
}

fn relay(context: &Context) -> Service {
    service(context, RELAY)
}

/// Begins to build both.
pub fn build(context: &Context) -> Result<Logged> {
    let mut cargo = cargo_command(path_variable("LOYALTY_CARGO")?);
    cargo
        .current_dir(&context.repo)
        .arg("build")
        .args(["--bin", RELAY, "--bin", CATCHER]);
    start_logged(&mut cargo, &context.log())
}

async fn ensure_login(client: &Client) -> Result<()> {
    let exists = "select from pg_catalog.pg_roles where rolname = $1";
    if client.query_opt(exists, &[&LOGIN]).await?.is_none() {
        client
            .batch_execute(&format!(
                "create role {LOGIN} login in role loyalty_relay;
                 select loyalty.install_log_settings('{LOGIN}')"
            ))
            .await?;
    }
    Ok(())
}

fn arguments(pairs: &[(&str, String)]) -> Vec<OsString> {
    pairs
        .iter()
        .flat_map(|(name, value)| [OsString::from(name), OsString::from(value)])
        .collect()
}

fn catcher_arguments(context: &Context, settings: &crate::context::Settings) -> Vec<OsString> {
    arguments(&[
        ("--dir", mail_dir(context).to_string_lossy().into_owned()),
        ("--smtp", format!("127.0.0.1:{}", settings.smtp_port)),
        ("--http", format!("127.0.0.1:{}", settings.mail_page_port)),
    ])
}

fn relay_arguments(
    context: &Context,
    settings: &crate::context::Settings,
) -> Result<Vec<OsString>> {
    let cluster = context.cluster()?;
    let database = format!(
        "host='{}' port={} user={LOGIN} dbname={DATABASE}",
        cluster.socket_dir.display(),
        settings.pg_port
    );
    let sms = format!("http://127.0.0.1:{}/sms", settings.mail_page_port);
    Ok(arguments(&[
        ("--database", database),
        ("--smtp-host", "127.0.0.1".to_owned()),
        ("--smtp-port", settings.smtp_port.to_string()),
        ("--smtp-tls", "none".to_owned()),
        ("--sms-url", sms),
        ("--listen", format!("127.0.0.1:{}", settings.relay_port)),
        ("--max-pause", "5".to_owned()),
        ("--stop-timeout", "3".to_owned()),
    ]))
}

/// Where the catcher keeps what it gets.
pub fn mail_dir(context: &Context) -> PathBuf {
    context.state.join("mail")
}

/// What `./dev up` says about mails.
pub fn lines(context: &Context, dev: &str, account_id: i64) -> Result<String> {
    let settings = context.settings()?;
    Ok(format!(
        r#"
# give her points: a mail goes out at once, to a catcher on this machine that delivers none
{dev} psql -c "select points, available from loyalty.grant({account_id}, 50, 'thanks')"
{dev} mail
# the mails as a page: http://127.0.0.1:{}/

# what the relay counts
curl -sS http://127.0.0.1:{}/metrics
"#,
        settings.mail_page_port, settings.relay_port
    ))
}

/// `./dev mail`: a line a message, or one message whole.
pub fn print(context: &Context, number: Option<u64>) -> Result<()> {
    let dir = mail_dir(context);
    if let Some(number) = number {
        let kept = store::read(&dir, number)?;
        println!(
            "From: {}\nTo: {}\nSubject: {}\nCaught: {}\n\n{}",
            kept.from, kept.to, kept.subject, kept.caught_at, kept.text
        );
        return Ok(());
    }
    let numbers = store::numbers(&dir)?;
    if numbers.is_empty() {
        println!("No mail was caught yet.");
    }
    for number in numbers {
        let kept = store::read(&dir, number)?;
        println!(
            "{:>6}  {}  {:<32}  {}",
            number, kept.caught_at, kept.to, kept.subject
        );
    }
    Ok(())
}
