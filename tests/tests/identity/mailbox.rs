//! Where mails and short messages end: what people read, codes and links in it.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use loyalty_testkit::mail::{Catcher, Caught, Options};
use loyalty_testkit::{TestDb, TestServer, relay_program};
use mail_parser::MessageParser;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::world::PATIENCE;

/// A mail server, a provider of short messages, and a relay that sends to both.
pub struct Mailbox {
    pub catcher: Catcher,
    short: Arc<Mutex<Vec<Value>>>,
    seen: Mutex<BTreeMap<String, usize>>,
    _relay: Child,
}

/// A message as its reader sees it.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Empty in a short message.
    pub subject: String,
    pub text: String,
    pub html: Option<String>,
}

impl Message {
    /// The six digits in it.
    pub fn code(&self) -> Result<String> {
        let is_code = |word: &&str| word.len() == 6;
        let mut digits = self.text.split(|c: char| !c.is_ascii_digit());
        let code = digits.find(is_code);
        Ok(code.with_context(|| format!("no code in {self:?}"))?.into())
    }

    pub fn link(&self) -> Result<String> {
        let is_link = |word: &&str| word.starts_with("http") && word.contains('#');
        let link = self.text.split_whitespace().find(is_link);
        Ok(link.with_context(|| format!("no link in {self:?}"))?.into())
    }

    /// What the page behind the link would take from it.
    pub fn token(&self) -> Result<String> {
        let link = self.link()?;
        let (_, token) = link.split_once('#').context("no token")?;
        Ok(token.to_owned())
    }

    fn of_mail(mail: &Caught) -> Result<Self> {
        let message = MessageParser::default()
            .parse(&mail.data)
            .context("not a mail")?;
        let text = message.body_text(0).context("no text")?.into_owned();
        Ok(Self {
            subject: message.subject().unwrap_or_default().to_owned(),
            text,
            html: message.body_html(0).map(|html| html.into_owned()),
        })
    }
}

impl Mailbox {
    pub async fn open(db: &TestDb) -> Result<Self> {
        let catcher = Catcher::start(Options::default()).await?;
        let short = Arc::new(Mutex::new(Vec::new()));
        let app = Router::new()
            .route("/send", post(take))
            .with_state(Arc::clone(&short));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let sms_url = format!("http://{}/send", listener.local_addr()?);
        tokio::spawn(async move { axum::serve(listener, app).await });
        let relay = relay(db, &catcher, &sms_url)?;
        Ok(Self {
            catcher,
            short,
            seen: Mutex::default(),
            _relay: relay,
        })
    }

    /// All that came to an e-mail address or telephone number, the oldest first.
    pub fn all_to(&self, address: &str) -> Result<Vec<Message>> {
        if address.contains('@') {
            let all = self.catcher.caught();
            let mine = all.iter().filter(|mail| mail.to == [address]);
            return mine.map(Message::of_mail).collect();
        }
        let all = self.short.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = all.iter().filter(|short| short["to"] == address);
        let read = mine.map(|short| {
            let text = short["text"].as_str().context("no text")?.to_owned();
            Ok(Message {
                text,
                ..Message::default()
            })
        });
        read.collect()
    }

    /// The next message to an address that was not read yet; waits for it.
    pub async fn next_to(&self, address: &str) -> Result<Message> {
        let until = Instant::now() + PATIENCE;
        loop {
            let all = self.all_to(address)?;
            {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let read = seen.entry(address.to_owned()).or_default();
                if let Some(message) = all.get(*read) {
                    *read += 1;
                    return Ok(message.clone());
                }
            }
            if Instant::now() > until {
                bail!("no mail came to {address}");
            }
            sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

impl Mailbox {
    /// How many messages to an address were read.
    pub fn read_so_far(&self, address: &str) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(address).copied().unwrap_or(0)
    }
}

async fn take(State(short): State<Arc<Mutex<Vec<Value>>>>, body: String) {
    let body = serde_json::from_str(&body).unwrap_or_default();
    let mut all = short.lock().unwrap_or_else(PoisonError::into_inner);
    all.push(body);
}

/// The real program, which never looks by the clock: what is queued announces itself.
fn relay(db: &TestDb, catcher: &Catcher, sms_url: &str) -> Result<Child> {
    let server = TestServer::get()?;
    let connection = format!(
        "host='{}' port={} user=postgres dbname={} options='-c role=loyalty_relay'",
        server.socket_dir.display(),
        server.port,
        db.name()
    );
    let smtp = catcher.address();
    let mut command = Command::new(relay_program()?);
    command
        .env_clear()
        .args(["--database", &connection, "--poll", "3600"])
        .args(["--smtp-host", &smtp.ip().to_string(), "--smtp-tls", "none"])
        .args(["--smtp-port", &smtp.port().to_string()])
        .args(["--sms-url", sms_url, "--max-pause", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command.spawn().context("the relay cannot be started")
}
