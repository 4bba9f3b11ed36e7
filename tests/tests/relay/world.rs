//! A program with members who want mail, and relays that send it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use loyalty_testkit::http;
use loyalty_testkit::mail::{Catcher, Caught, Options};
use loyalty_testkit::{TestDb, TestServer, relay_program};
use mail_parser::MessageParser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

pub use loyalty_testkit::PATIENCE;

/// No test waits for the next look by the clock: what must happen is announced, or comes by
/// itself.
pub const NEVER: &str = "3600";

pub struct World {
    pub db: TestDb,
    pub client: Client,
    members: AtomicU32,
}

/// A notice as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    pub state: String,
    pub attempts: i32,
    pub is_leased: bool,
    pub error: Option<String>,
}

impl World {
    pub async fn new(label: &str) -> Result<Self> {
        let db = TestDb::create(label).await?;
        let client = db.connect().await?;
        client.batch_execute(include_str!("world.sql")).await?;
        Ok(Self {
            db,
            client,
            members: AtomicU32::new(0),
        })
    }

    /// Grants points to so many new members, which queues a mail for each, in one transaction.
    /// Their addresses: `member-1@example.com` and so on.
    pub async fn queue(&self, how_many: u32) -> Result<()> {
        let first = self.members.fetch_add(how_many, Ordering::Relaxed) + 1;
        let last = first + how_many - 1;
        self.client
            .execute(
                "select queue_mail(pg_catalog.int4range($1, $2, '[]'))",
                &[&i32::try_from(first)?, &i32::try_from(last)?],
            )
            .await?;
        Ok(())
    }

    /// All notices by their members' address.
    pub async fn notices(&self) -> Result<BTreeMap<String, Noted>> {
        let rows = self.client.query("select * from noted", &[]).await?;
        let noted = |row: &tokio_postgres::Row| {
            Ok((
                row.try_get("address")?,
                Noted {
                    state: row.try_get("state")?,
                    attempts: row.try_get("attempts")?,
                    is_leased: row.try_get("is_leased")?,
                    error: row.try_get("error")?,
                },
            ))
        };
        rows.iter().map(noted).collect()
    }

    pub async fn notice(&self, address: &str) -> Result<Noted> {
        let mut all = self.notices().await?;
        all.remove(address)
            .with_context(|| format!("no notice for {address}"))
    }

    /// How many notices are in a state.
    pub async fn count(&self, state: &str) -> Result<usize> {
        let all = self.notices().await?;
        Ok(all.values().filter(|noted| noted.state == state).count())
    }

    pub async fn wait_for(&self, state: &str, wanted: usize) -> Result<()> {
        eventually(&format!("{wanted} notices are {state}"), async || {
            Ok(self.count(state).await? == wanted)
        })
        .await
    }

    /// The pause before a retry passes in no time.
    pub async fn make_due(&self) -> Result<()> {
        self.client
            .execute("select make_due()", &[])
            .await
            .map(drop)
            .map_err(Into::into)
    }

    /// Retries at once, again and again: a failure may be in the log before it is in the outbox.
    pub async fn retry_until(&self, state: &str, wanted: usize) -> Result<()> {
        eventually(&format!("{wanted} notices are {state}"), async || {
            self.make_due().await?;
            Ok(self.count(state).await? == wanted)
        })
        .await
    }

    /// How the relay connects: as someone who is `loyalty_relay` and nothing else.
    pub fn connection(&self) -> Result<String> {
        let server = TestServer::get()?;
        Ok(format!(
            "host='{}' port={} user=postgres dbname={} options='-c role=loyalty_relay'",
            server.socket_dir.display(),
            server.port,
            self.db.name()
        ))
    }

    pub fn relay(&self) -> Result<Setup> {
        Setup::new(&self.connection()?)
    }

    /// A relay that sends to a catcher, in the clear.
    pub fn relay_to(&self, catcher: &Catcher) -> Result<Setup> {
        Ok(self
            .relay()?
            .smtp(catcher.address())
            .arg("--smtp-tls", "none"))
    }
}

pub async fn catcher() -> Result<Catcher> {
    Catcher::start(Options::default()).await
}

/// A relay's command line and environment, to be added to.
pub struct Setup {
    command: Command,
    log: PathBuf,
}

static RELAYS: AtomicU32 = AtomicU32::new(0);

impl Setup {
    pub fn new(connection: &str) -> Result<Self> {
        let mut command = Command::new(relay_program()?);
        command
            .env_clear()
            .args(["--database", connection, "--log", "debug"])
            .args([
                "--poll",
                NEVER,
                "--max-pause",
                "1",
                "--listen",
                "127.0.0.1:0",
            ])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let number = RELAYS.fetch_add(1, Ordering::Relaxed);
        let name = format!("relay-{}-{number}.log", std::process::id());
        let dir = &TestServer::get()?.dir;
        Ok(Self {
            command,
            log: dir.join(name),
        })
    }

    pub fn smtp(self, server: SocketAddr) -> Self {
        self.arg("--smtp-host", &server.ip().to_string())
            .arg("--smtp-port", &server.port().to_string())
    }

    pub fn arg(mut self, name: &str, value: &str) -> Self {
        self.command.args([name, value]);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs with `--once` to its end: exit status and what it printed.
    pub async fn once(mut self) -> Result<(Option<i32>, String)> {
        let child = self
            .command
            .arg("--once")
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&self.log)?)
            .spawn()?;
        let output = timeout(PATIENCE, child.wait_with_output()).await??;
        let said = String::from_utf8(output.stdout)?;
        let _log = Log(self.log);
        Ok((output.status.code(), said))
    }

    pub fn start(mut self) -> Result<Relay> {
        let child = self
            .command
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&self.log)?)
            .spawn()?;
        Ok(Relay {
            child,
            log: Log(self.log),
        })
    }
}

/// A log file, removed with the value.
struct Log(PathBuf);

impl Drop for Log {
    fn drop(&mut self) {
        let _removed_before = std::fs::remove_file(&self.0);
    }
}

/// A relay at work; killed with the value.
pub struct Relay {
    child: Child,
    log: Log,
}

impl Relay {
    /// kill -9
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().context("the relay has ended")?;
        kill(Pid::from_raw(pid.try_into()?), signal)?;
        Ok(())
    }

    /// SIGTERM, and how it ends.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        timeout(PATIENCE, self.child.wait())
            .await
            .context("the relay does not stop")?
            .map_err(Into::into)
    }

    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log.0)?)
    }

    pub async fn wait_for_log(&self, text: &str) -> Result<()> {
        eventually(&format!("the log says {text:?}"), async || {
            Ok(self.log()?.contains(text))
        })
        .await
    }

    async fn address(&self) -> Result<String> {
        self.wait_for_log("metrics address=").await?;
        let log = self.log()?;
        let (_, rest) = log.split_once("metrics address=").context("no address")?;
        let address = rest.split_whitespace().next().context("no address")?;
        Ok(address.to_owned())
    }

    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let url = format!("http://{}{path}", self.address().await?);
        let response = http::client().build()?.get(url).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// A metric's value, by its name and labels as they are shown.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let (_, page) = self.get("/metrics").await?;
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .with_context(|| format!("no metric {name} in\n{page}"))?;
        Ok(line.parse()?)
    }

    pub async fn wait_until_paused(&self) -> Result<()> {
        self.wait_for_log("the server cannot be worked with").await
    }
}

/// Looks again and again until it is so.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while !is_so().await? {
        if Instant::now() > until {
            bail!("waited in vain: {what}");
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

pub fn message_id(caught: &Caught) -> Result<String> {
    let message = MessageParser::default()
        .parse(&caught.data)
        .context("not a mail")?;
    let id = message.message_id().context("no Message-ID")?;
    Ok(id.to_owned())
}

/// The mails by recipient: their Message-IDs in order of arrival.
pub fn by_recipient(caught: &[Caught]) -> Result<BTreeMap<String, Vec<String>>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for mail in caught {
        let to = mail.to.join(",");
        all.entry(to).or_default().push(message_id(mail)?);
    }
    Ok(all)
}

pub fn member(number: u32) -> String {
    format!("member-{number}@example.com")
}

/// Members 1 to `last`, each of whom got just one mail, and nobody else did.
pub fn assert_each_got_one(caught: &[Caught], last: u32) -> Result<()> {
    let mails = by_recipient(caught)?;
    let several: Vec<_> = mails.iter().filter(|(_, ids)| ids.len() != 1).collect();
    assert!(several.is_empty(), "got several: {several:?}");
    let wanted: std::collections::BTreeSet<_> = (1..=last).map(member).collect();
    let got: std::collections::BTreeSet<_> = mails.into_keys().collect();
    assert_eq!(got, wanted);
    Ok(())
}

/// Nobody was forgotten; who got several got the same one, and there are at most so many.
pub fn assert_none_lost(caught: &[Caught], last: u32, most_again: usize) -> Result<()> {
    let mails = by_recipient(caught)?;
    assert_eq!(mails.len(), usize::try_from(last)?, "some were lost");
    for (to, ids) in &mails {
        assert!(
            ids.iter().all(|id| id == &ids[0]),
            "{to} got different mails: {ids:?}"
        );
    }
    let again = caught.len() - mails.len();
    assert!(
        again <= most_again,
        "{again} came again, {most_again} were on their way"
    );
    Ok(())
}
