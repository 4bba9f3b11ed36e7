//! Mail by SMTP: connections that are kept, and what each answer means.
//!
//! lettre speaks the protocol. Its ready-made transport hides which command was refused, and
//! that decides whose fault it is: the server's, the sender's or the recipient's.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail as MailCommand, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::message::{self, Mail};
use crate::notice::{Notice, Outcome, Progress, Sender, Why};
use crate::settings::{Smtp, SmtpTls};

/// Servers close connections that nobody uses; we do so before most of them.
const IDLE: Duration = Duration::from_secs(20);
/// Some servers refuse more; a new connection costs little against so many mails.
const MAILS_A_CONNECTION: u32 = 100;
/// A goodbye that is not answered is not waited for.
const GOODBYE: Duration = Duration::from_secs(2);

pub struct Mailer {
    settings: Smtp,
    hello: ClientId,
    tls: Option<TlsParameters>,
    idle: Mutex<Vec<Kept>>,
}

/// A connection that has sent mails and may send another.
struct Kept {
    connection: AsyncSmtpConnection,
    since: Instant,
    mails: u32,
}

struct Used {
    connection: AsyncSmtpConnection,
    mails: u32,
}

/// An answer or failure of one step of the conversation.
enum Trouble {
    /// The server said no, with this code.
    Answer(u16, Why),
    /// The connection broke, or what came over it was no SMTP.
    Broken(Why),
    /// The server cannot take this mail at all.
    Unfit(Why),
}

impl Mailer {
    pub fn new(settings: Smtp, authorities: &[Vec<u8>]) -> Result<Self> {
        let tls = match settings.tls {
            SmtpTls::None => None,
            SmtpTls::Starttls | SmtpTls::Implicit => {
                let mut builder = TlsParameters::builder(settings.host.clone());
                for der in authorities {
                    builder = builder.add_root_certificate(
                        Certificate::from_der(der.clone())
                            .context("a certificate authority cannot be used")?,
                    );
                }
                Some(builder.build_rustls().context("TLS cannot be set up")?)
            }
        };
        Ok(Self {
            hello: settings
                .hello
                .clone()
                .map_or_else(ClientId::default, ClientId::Domain),
            settings,
            tls,
            idle: Mutex::new(Vec::new()),
        })
    }

    fn take_idle(&self) -> Option<Kept> {
        let mut idle = self
            .idle
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        idle.pop()
    }

    fn keep(&self, used: Used) {
        let kept = Kept {
            connection: used.connection,
            since: Instant::now(),
            mails: used.mails,
        };
        let mut idle = self
            .idle
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        idle.push(kept);
    }

    /// Connected, protected and logged in, as told.
    async fn connect(&self) -> Result<AsyncSmtpConnection, Why> {
        let settings = &self.settings;
        let implicit = match settings.tls {
            SmtpTls::Implicit => self.tls.clone(),
            _ => None,
        };
        let server = (settings.host.as_str(), settings.port);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(server, None, &self.hello, implicit, None)
                .await
                .map_err(|error| why("connect", &error))?;
        if let (SmtpTls::Starttls, Some(tls)) = (settings.tls, &self.tls) {
            connection
                .starttls(tls.clone(), &self.hello)
                .await
                .map_err(|error| why("STARTTLS", &error))?;
        }
        if let Some((user, password)) = &settings.login {
            let credentials = Credentials::new(user.clone(), password.expose().to_owned());
            connection
                .auth(&[Mechanism::Plain, Mechanism::Login], &credentials)
                .await
                .map_err(|error| why("AUTH", &error))?;
        }
        Ok(connection)
    }

    /// The whole conversation, and the connection where it is still good for something.
    async fn converse(
        &self,
        notice: &Notice,
        mail: &Mail,
        progress: &Progress,
    ) -> (Outcome, Option<Used>) {
        let mut used = loop {
            let kept = self.take_idle();
            let was_kept = kept.is_some();
            let mut used = match kept {
                Some(kept) => Used {
                    connection: kept.connection,
                    mails: kept.mails,
                },
                None => match self.connect().await {
                    Ok(connection) => Used {
                        connection,
                        mails: 0,
                    },
                    Err(why) => return (Outcome::Down(why), None),
                },
            };
            if !was_kept {
                progress.talking();
            }
            match begin(&mut used.connection, mail).await {
                Ok(()) => break used,
                // The server was tired of a connection that we had kept: nobody's fault.
                Err(Trouble::Broken(_) | Trouble::Answer(421, _)) if was_kept => {}
                Err(Trouble::Answer(421, why) | Trouble::Broken(why)) => {
                    return (Outcome::Faltered(why, None), None);
                }
                // It wants another login than it got.
                Err(Trouble::Answer(530, why)) => return (Outcome::Down(why), None),
                // It refuses the sender: a matter of settings, which someone may mend.
                Err(Trouble::Answer(_, why)) => return (Outcome::Deferred(why), Some(used)),
                Err(Trouble::Unfit(why)) => return (Outcome::Refused(why), Some(used)),
            }
        };
        progress.talking();
        used.mails += 1;
        let outcome = deliver(&mut used.connection, notice, mail, progress).await;
        let is_good = !matches!(outcome, Outcome::Faltered(..));
        (outcome, is_good.then_some(used))
    }

    /// Keeps a connection for the next mail, or says goodbye. The outcome is known by now
    /// and must not wait long for this.
    async fn go_on(&self, mut used: Used, was_sent: bool) {
        // A mail that was not finished stands in the way of the next.
        let is_clear = was_sent
            || matches!(
                timeout(GOODBYE, used.connection.command(Rset)).await,
                Ok(Ok(_))
            );
        if is_clear && used.mails < MAILS_A_CONNECTION {
            self.keep(used);
        } else {
            tokio::spawn(goodbye(used.connection));
        }
    }
}

/// MAIL: whether the server listens, and knows the sender.
async fn begin(connection: &mut AsyncSmtpConnection, mail: &Mail) -> Result<(), Trouble> {
    let info = connection.server_info();
    let mut parameters = Vec::new();
    if [&mail.from, &mail.to]
        .iter()
        .any(|a| !a.to_string().is_ascii())
    {
        if !info.supports_feature(Extension::SmtpUtfEight) {
            let text = "the server takes no address beyond ASCII (SMTPUTF8)";
            return Err(Trouble::Unfit(Why::plain(text)));
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    command(
        connection,
        "MAIL",
        MailCommand::new(Some(mail.from.clone()), parameters),
    )
    .await
}

/// RCPT and DATA.
async fn deliver(
    connection: &mut AsyncSmtpConnection,
    notice: &Notice,
    mail: &Mail,
    progress: &Progress,
) -> Outcome {
    let recipient = Rcpt::new(mail.to.clone(), Vec::new());
    if let Err(trouble) = command(connection, "RCPT", recipient).await {
        return judge(trouble);
    }
    if Instant::now() > notice.hand_over_until {
        return Outcome::Late;
    }
    if let Err(trouble) = command(connection, "DATA", Data).await {
        return judge(trouble);
    }
    progress.handed();
    match connection.message(&mail.bytes).await {
        Ok(_) => Outcome::Sent,
        Err(error) => judge(trouble("message", &error)),
    }
}

/// What is asked of the recipient and the message: 5xx is for good, 4xx for now.
fn judge(trouble: Trouble) -> Outcome {
    match trouble {
        // The server is about to hang up, whatever it is for.
        Trouble::Answer(421, why) | Trouble::Broken(why) => Outcome::Faltered(why, None),
        Trouble::Answer(500.., why) | Trouble::Unfit(why) => Outcome::Refused(why),
        Trouble::Answer(_, why) => Outcome::Deferred(why),
    }
}

async fn command(
    connection: &mut AsyncSmtpConnection,
    step: &str,
    command: impl std::fmt::Display,
) -> Result<(), Trouble> {
    match connection.command(command).await {
        Ok(_) => Ok(()),
        Err(error) => Err(trouble(step, &error)),
    }
}

fn trouble(step: &str, error: &Error) -> Trouble {
    match error.status() {
        Some(code) => Trouble::Answer(code.into(), why(step, error)),
        None => Trouble::Broken(why(step, error)),
    }
}

/// Codes for the log; the server's own words, which may repeat an address, for the database.
fn why(step: &str, error: &Error) -> Why {
    let said = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
    match error.status() {
        Some(code) => {
            let enhanced = enhanced_code(&said).map_or_else(String::new, |code| format!(" {code}"));
            Why::new(
                format!("{step}: {code}{enhanced}"),
                format!("{step}: {code} {said}"),
            )
        }
        // It may quote what came instead of an answer.
        None if error.is_response() => Why::new(
            format!("{step}: connection broken, or no SMTP answer"),
            format!("{step}: {error}"),
        ),
        None => Why::plain(format!("{step}: {error}")),
    }
}

/// `5.1.1` of RFC 3463, when the answer begins with one.
fn enhanced_code(said: &str) -> Option<&str> {
    let word = said.split_whitespace().next()?;
    let mut parts = word.split('.');
    let is_number = |part: Option<&str>| {
        part.is_some_and(|p| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
    };
    let is_code = is_number(parts.next())
        && is_number(parts.next())
        && is_number(parts.next())
        && parts.next().is_none();
    is_code.then_some(word)
}

async fn goodbye(mut connection: AsyncSmtpConnection) {
    let _gone_either_way = timeout(GOODBYE, connection.quit()).await;
}

impl Sender for Mailer {
    const CHANNEL: &'static str = "email";

    async fn ready(&self) -> Result<(), Why> {
        match timeout(self.settings.timeout, self.connect()).await {
            Ok(Ok(connection)) => {
                self.keep(Used {
                    connection,
                    mails: 0,
                });
                Ok(())
            }
            Ok(Err(why)) => Err(why),
            Err(_) => Err(Why::plain("connect: no answer in time")),
        }
    }

    async fn send(&self, notice: &Notice, progress: &Progress) -> Outcome {
        let mail = match message::build(notice) {
            Ok(mail) => mail,
            Err(why) => return Outcome::Refused(why),
        };
        let conversation = self.converse(notice, &mail, progress);
        match timeout(self.settings.timeout, conversation).await {
            Ok((outcome, used)) => {
                if let Some(used) = used {
                    self.go_on(used, outcome == Outcome::Sent).await;
                }
                outcome
            }
            Err(_) if progress.is_connecting() => {
                Outcome::Down(Why::plain("connect: no answer in time"))
            }
            Err(_) => Outcome::Faltered(Why::plain("no answer in time"), None),
        }
    }

    async fn tidy(&self, all: bool) {
        let mut leaving = Vec::new();
        {
            let mut idle = self
                .idle
                .lock()
                .unwrap_or_else(|poison| poison.into_inner());
            let (old, young) = std::mem::take(&mut *idle)
                .into_iter()
                .partition(|kept| all || kept.since.elapsed() > IDLE);
            *idle = young;
            leaving.extend::<Vec<Kept>>(old);
        }
        let goodbyes = leaving.into_iter().map(|kept| goodbye(kept.connection));
        goodbyes.collect::<JoinSet<_>>().join_all().await;
    }
}

#[cfg(test)]
mod tests {
    use super::enhanced_code;

    #[test]
    fn only_a_code_is_taken_for_one() {
        assert_eq!(
            enhanced_code("5.1.1 <a@example.com> unknown"),
            Some("5.1.1")
        );
        for text in [
            "",
            "<a@example.com> unknown",
            "192.0.2.1.5 blocked",
            "1.2",
            "a.b.c",
            "5.1.",
        ] {
            assert_eq!(enhanced_code(text), None, "{text}");
        }
    }
}
