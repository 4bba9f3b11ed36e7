//! What the relay is told: flags, or environment variables of the same name.
//!
//! Secrets come from the environment or from files, never from the command line,
//! which everybody on the machine can read.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};

/// Sends the notices that pg_loyalty has queued: mail by SMTP, short messages by an HTTP
/// webhook.
///
/// Secrets are not options. They are read from the environment, or from the file that a
/// variable with _FILE at its end names: LOYALTY_RELAY_DATABASE_PASSWORD,
/// LOYALTY_RELAY_SMTP_PASSWORD, LOYALTY_RELAY_SMS_TOKEN.
///
/// Exit status: 0 all well; 1 with --once, some notices were not sent; 2 wrong settings;
/// 3 the database, the mail server or the webhook could not be worked with.
#[derive(Parser)]
#[command(name = "loyalty-relay", version, max_term_width = 100)]
// A later one overrides an earlier one, as of most programs.
#[command(args_override_self = true)]
pub struct Options {
    /// The database: libpq's keywords ("host=db dbname=points user=mail_relay") or a URL,
    /// without a password
    #[arg(
        long,
        env = "LOYALTY_RELAY_DATABASE",
        hide_env_values = true,
        value_name = "CONNECTION"
    )]
    database: String,
    /// PEM file of certificate authorities to trust beside the machine's
    #[arg(long, env = "LOYALTY_RELAY_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// The mail server; without one no mail is taken
    #[arg(long, env = "LOYALTY_RELAY_SMTP_HOST", value_name = "NAME")]
    smtp_host: Option<String>,
    /// Its port; by default 587, 465 or 25, as fits --smtp-tls
    #[arg(long, env = "LOYALTY_RELAY_SMTP_PORT", value_name = "PORT")]
    smtp_port: Option<u16>,
    #[arg(long, env = "LOYALTY_RELAY_SMTP_TLS", value_enum, default_value_t = SmtpTls::Starttls)]
    smtp_tls: SmtpTls,
    /// Log in to the mail server as this user
    #[arg(long, env = "LOYALTY_RELAY_SMTP_USER", value_name = "USER")]
    smtp_user: Option<String>,
    /// The name by which the relay greets; by default this machine's
    #[arg(long, env = "LOYALTY_RELAY_SMTP_HELLO", value_name = "NAME")]
    smtp_hello: Option<String>,
    /// Mails on their way at once, which is also the number of connections
    #[arg(long, env = "LOYALTY_RELAY_SMTP_CONCURRENCY", default_value_t = 8, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=500))]
    smtp_concurrency: u16,
    /// Longest time for a mail, from its first command to the server's last answer
    #[arg(long, env = "LOYALTY_RELAY_SMTP_TIMEOUT", default_value_t = 60, value_name = "SECONDS",
          value_parser = clap::value_parser!(u16).range(1..=3600))]
    smtp_timeout: u16,

    /// Where short messages are posted; without one none is taken
    #[arg(
        long,
        env = "LOYALTY_RELAY_SMS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    sms_url: Option<String>,
    /// Short messages on their way at once
    #[arg(long, env = "LOYALTY_RELAY_SMS_CONCURRENCY", default_value_t = 4, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=500))]
    sms_concurrency: u16,
    /// Longest time for a short message
    #[arg(long, env = "LOYALTY_RELAY_SMS_TIMEOUT", default_value_t = 20, value_name = "SECONDS",
          value_parser = clap::value_parser!(u16).range(1..=3600))]
    sms_timeout: u16,

    /// How long a notice is this relay's alone; at least twice the longest time to send one
    #[arg(long, env = "LOYALTY_RELAY_LEASE", default_value_t = 300, value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(2..=86_400))]
    lease: u32,
    /// How often to look without being woken: retries that came due, notices missed
    #[arg(long, env = "LOYALTY_RELAY_POLL", default_value_t = 10, value_name = "SECONDS",
          value_parser = clap::value_parser!(u16).range(1..=3600))]
    poll: u16,
    /// Longest pause between attempts to reach a database or server that is down
    #[arg(long, env = "LOYALTY_RELAY_MAX_PAUSE", default_value_t = 60, value_name = "SECONDS",
          value_parser = clap::value_parser!(u16).range(1..=3600))]
    max_pause: u16,
    /// How long SIGTERM lets what is on its way arrive
    #[arg(long, env = "LOYALTY_RELAY_STOP_TIMEOUT", default_value_t = 20, value_name = "SECONDS",
          value_parser = clap::value_parser!(u16).range(0..=3600))]
    stop_timeout: u16,

    /// Send what is due, print the counts, and end
    #[arg(long)]
    once: bool,
    /// Serve /metrics and /healthz here, for example 127.0.0.1:9187
    #[arg(long, env = "LOYALTY_RELAY_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// What to log: error, warn, info, debug
    #[arg(
        long,
        env = "LOYALTY_RELAY_LOG",
        default_value = "info",
        value_name = "LEVEL"
    )]
    log: String,
    #[arg(long, env = "LOYALTY_RELAY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SmtpTls {
    /// Plain at first, then TLS or nothing
    Starttls,
    /// TLS from the first byte
    Implicit,
    /// Not at all: for a server on this machine
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// A text that no log or error shows.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The options, checked.
#[derive(Debug)]
pub struct Settings {
    pub database: tokio_postgres::Config,
    pub ca_file: Option<PathBuf>,
    pub smtp: Option<Smtp>,
    pub sms: Option<Sms>,
    pub lease: Duration,
    pub poll: Duration,
    pub max_pause: Duration,
    pub stop_timeout: Duration,
    pub once: bool,
    pub listen: Option<SocketAddr>,
    pub log: String,
    pub log_format: LogFormat,
}

#[derive(Debug)]
pub struct Smtp {
    pub host: String,
    pub port: u16,
    pub tls: SmtpTls,
    pub login: Option<(String, Secret)>,
    pub hello: Option<String>,
    pub concurrency: usize,
    pub timeout: Duration,
}

#[derive(Debug)]
pub struct Sms {
    pub url: String,
    pub token: Option<Secret>,
    pub concurrency: usize,
    pub timeout: Duration,
}

const PREFIX: &str = "LOYALTY_RELAY_";

impl Settings {
    pub fn new(options: Options) -> Result<Self> {
        let seconds = |n: u16| Duration::from_secs(n.into());
        let settings = Self {
            database: database(&options.database)?,
            smtp: smtp(&options)?,
            sms: sms(&options)?,
            ca_file: options.ca_file,
            lease: Duration::from_secs(options.lease.into()),
            poll: seconds(options.poll),
            max_pause: seconds(options.max_pause),
            stop_timeout: seconds(options.stop_timeout),
            once: options.once,
            listen: options.listen,
            log: options.log,
            log_format: options.log_format,
        };
        let longest = [
            settings.smtp.as_ref().map(|smtp| smtp.timeout),
            settings.sms.as_ref().map(|sms| sms.timeout),
        ];
        let Some(longest) = longest.into_iter().flatten().max() else {
            bail!("nothing to send by: set --smtp-host, --sms-url, or both");
        };
        ensure!(
            settings.lease >= longest * 2,
            "--lease is {} s: at least {} s are needed, twice the longest timeout, \
             or two relays might send the same notice",
            settings.lease.as_secs(),
            longest.as_secs() * 2
        );
        Ok(settings)
    }
}

fn database(text: &str) -> Result<tokio_postgres::Config> {
    // The parser's own error may quote what is wrong, which may be a password.
    let Ok(mut config) = text.parse::<tokio_postgres::Config>() else {
        bail!("--database is neither keywords and values nor a URL that PostgreSQL knows");
    };
    ensure!(
        config.get_password().is_none(),
        "--database holds a password; put it into {PREFIX}DATABASE_PASSWORD, or into the file \
         that {PREFIX}DATABASE_PASSWORD_FILE names"
    );
    if let Some(password) = secret("DATABASE_PASSWORD")? {
        config.password(password.expose());
    }
    if config.get_application_name().is_none() {
        config.application_name("loyalty-relay");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(Duration::from_secs(10));
    }
    // A server that vanished without a word is noticed within about a minute.
    config
        .keepalives_idle(Duration::from_secs(30))
        .keepalives_interval(Duration::from_secs(10))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(60));
    Ok(config)
}

fn smtp(options: &Options) -> Result<Option<Smtp>> {
    let Some(host) = options.smtp_host.clone() else {
        return Ok(None);
    };
    let password = secret("SMTP_PASSWORD")?;
    let login = match (options.smtp_user.clone(), password) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        (Some(_), None) => bail!("--smtp-user is set, {PREFIX}SMTP_PASSWORD is not"),
        (None, Some(_)) => bail!("{PREFIX}SMTP_PASSWORD is set, --smtp-user is not"),
    };
    if login.is_some() && options.smtp_tls == SmtpTls::None {
        ensure!(
            is_this_machine(&host),
            "--smtp-tls none would send the password in the clear to {host}"
        );
    }
    let default_port = match options.smtp_tls {
        SmtpTls::Starttls => 587,
        SmtpTls::Implicit => 465,
        SmtpTls::None => 25,
    };
    Ok(Some(Smtp {
        port: options.smtp_port.unwrap_or(default_port),
        tls: options.smtp_tls,
        login,
        hello: options.smtp_hello.clone(),
        concurrency: options.smtp_concurrency.into(),
        timeout: Duration::from_secs(options.smtp_timeout.into()),
        host,
    }))
}

fn sms(options: &Options) -> Result<Option<Sms>> {
    let Some(url) = options.sms_url.clone() else {
        return Ok(None);
    };
    let Ok(parsed) = reqwest::Url::parse(&url) else {
        bail!("--sms-url is not a URL");
    };
    ensure!(
        parsed.password().is_none() && parsed.username().is_empty(),
        "--sms-url holds a user or a password; a token goes into {PREFIX}SMS_TOKEN"
    );
    let host = parsed.host_str().unwrap_or_default().to_owned();
    ensure!(
        parsed.scheme() == "https" || parsed.scheme() == "http" && is_this_machine(&host),
        "--sms-url must be https, or http on this machine"
    );
    Ok(Some(Sms {
        url,
        token: secret("SMS_TOKEN")?,
        concurrency: options.sms_concurrency.into(),
        timeout: Duration::from_secs(options.sms_timeout.into()),
    }))
}

fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// From the variable itself, or from the file that the variable with `_FILE` names.
fn secret(name: &str) -> Result<Option<Secret>> {
    let value = |name: String| std::env::var(name).ok().filter(|value| !value.is_empty());
    let file = value(format!("{PREFIX}{name}_FILE"));
    match (value(format!("{PREFIX}{name}")), file) {
        (Some(_), Some(_)) => bail!("both {PREFIX}{name} and {PREFIX}{name}_FILE are set"),
        (Some(text), None) => Ok(Some(Secret(text))),
        (None, Some(path)) => secret_file(Path::new(&path)).map(Some),
        (None, None) => Ok(None),
    }
}

fn secret_file(path: &Path) -> Result<Secret> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the secret in {} cannot be read", path.display()))?;
    let text = text.trim_end_matches(['\r', '\n']);
    ensure!(!text.is_empty(), "{} is empty", path.display());
    Ok(Secret(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{Options, Settings, SmtpTls};

    fn parse(arguments: &[&str]) -> anyhow::Result<Settings> {
        let program = ["loyalty-relay"];
        Settings::new(Options::try_parse_from(program.iter().chain(arguments))?)
    }

    const DATABASE: [&str; 2] = ["--database", "host=db dbname=points user=mail_relay"];

    fn with(arguments: &[&str]) -> anyhow::Result<Settings> {
        parse(&[&DATABASE[..], arguments].concat())
    }

    #[test]
    fn ports_follow_the_kind_of_tls() -> anyhow::Result<()> {
        for (tls, port) in [("starttls", 587), ("implicit", 465), ("none", 25)] {
            let settings = with(&["--smtp-host", "mail.example.com", "--smtp-tls", tls])?;
            assert_eq!(settings.smtp.map(|smtp| smtp.port), Some(port), "{tls}");
        }
        let settings = with(&["--smtp-host", "mail.example.com"])?;
        assert_eq!(settings.smtp.map(|smtp| smtp.tls), Some(SmtpTls::Starttls));
        Ok(())
    }

    #[test]
    fn what_cannot_work_is_refused_at_once() {
        let smtp = ["--smtp-host", "mail.example.com"];
        for wrong in [
            &[][..],
            &[&smtp[..], &["--lease", "119"]].concat(),
            &[&smtp[..], &["--smtp-timeout", "0"]].concat(),
            &[&smtp[..], &["--smtp-user", "relay"]].concat(),
            &["--sms-url", "http://sms.example.com/send"],
            &["--sms-url", "https://user:secret@sms.example.com/send"],
            &["--sms-url", "send"],
        ] {
            assert!(with(wrong).is_err(), "{wrong:?}");
        }
        assert!(with(&[&smtp[..], &["--lease", "120"]].concat()).is_ok());
        assert!(with(&["--sms-url", "http://127.0.0.1:8080/send"]).is_ok());
    }

    #[test]
    fn a_password_on_the_command_line_is_refused_and_not_repeated() {
        for database in [
            "host=db user=mail_relay password=hunter2",
            "postgres://mail_relay:hunter2@db/points",
            "host=db port=hunter2",
        ] {
            let error = parse(&["--database", database, "--smtp-host", "localhost"])
                .expect_err(database)
                .to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
