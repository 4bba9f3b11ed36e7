//! One conversation. smtp-proto reads the commands; here is what follows from them.

use anyhow::{Context as _, Result, bail};
use mail_parser::decoders::base64::base64_decode;
use smtp_proto::request::receiver::{DataReceiver, RequestReceiver};
use smtp_proto::{
    AUTH_PLAIN, EXT_8BIT_MIME, EXT_AUTH, EXT_ENHANCED_STATUS_CODES, EXT_PIPELINING, EXT_SMTP_UTF8,
    EXT_START_TLS, EhloResponse, Error, Request,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::catcher::{Act, Shared, Step};
use super::store::Caught;

const NAME: &str = "catcher.example.com";

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(super) async fn serve(stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut session = Session {
        stream: Some(Box::new(stream)),
        shared,
        is_encrypted: false,
        user: None,
        envelope: None,
    };
    if shared
        .options
        .tls
        .as_ref()
        .is_some_and(|tls| tls.is_implicit)
    {
        session.encrypt().await?;
    }
    if session
        .obey(&Step::Connect, "220 catcher.example.com ESMTP")
        .await?
    {
        session.converse().await?;
    }
    Ok(())
}

struct Session<'a> {
    /// Away only while it is being encrypted.
    stream: Option<Box<dyn Stream>>,
    shared: &'a Shared,
    is_encrypted: bool,
    user: Option<String>,
    envelope: Option<Envelope>,
}

#[derive(Default)]
struct Envelope {
    from: String,
    to: Vec<String>,
}

impl Session<'_> {
    fn stream(&mut self) -> Result<&mut Box<dyn Stream>> {
        self.stream.as_mut().context("the connection is gone")
    }

    async fn encrypt(&mut self) -> Result<()> {
        let tls = self
            .shared
            .options
            .tls
            .as_ref()
            .context("there is no TLS")?;
        let plain = self.stream.take().context("the connection is gone")?;
        let acceptor = TlsAcceptor::from(tls.config.clone());
        self.stream = Some(Box::new(acceptor.accept(plain).await?));
        self.is_encrypted = true;
        Ok(())
    }

    async fn say(&mut self, line: &str) -> Result<()> {
        let line = format!("{line}\r\n");
        let stream = self.stream()?;
        stream.write_all(line.as_bytes()).await?;
        stream.flush().await?;
        Ok(())
    }

    /// Does what the script wants at a step; true when it was accepted, with `usual`.
    async fn obey(&mut self, step: &Step<'_>, usual: &str) -> Result<bool> {
        match self.shared.act(step) {
            Act::Accept => {}
            Act::AcceptAfter(pause) => tokio::time::sleep(pause).await,
            Act::Answer(line) => {
                self.say(line).await?;
                return Ok(false);
            }
            Act::Hang => std::future::pending().await,
            Act::Drop | Act::KeepAndDrop => bail!("hung up"),
        }
        if !usual.is_empty() {
            self.say(usual).await?;
        }
        Ok(true)
    }

    async fn converse(&mut self) -> Result<()> {
        let mut receiver = RequestReceiver::default();
        let mut buffer = vec![0; 8192];
        loop {
            let length = self.stream()?.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            let received = buffer[..length].to_vec();
            let mut bytes = received.iter();
            loop {
                let request = match receiver.ingest(&mut bytes) {
                    Ok(request) => request.into_owned(),
                    Err(Error::NeedsMoreData { .. }) => break,
                    Err(_) => {
                        self.say("500 5.5.2 that is no command").await?;
                        continue;
                    }
                };
                if request == Request::Data {
                    // What came along behind the command is the message's beginning.
                    if self.may_send().await? {
                        self.receive(bytes.as_slice().to_vec()).await?;
                    }
                    break;
                }
                if !self.answer(request).await? {
                    return Ok(());
                }
            }
        }
    }

    /// False after QUIT.
    async fn answer(&mut self, request: Request<String>) -> Result<bool> {
        match request {
            Request::Ehlo { .. } | Request::Helo { .. } => self.greet().await?,
            Request::StartTls => self.start_tls().await?,
            Request::Auth {
                mechanism,
                initial_response,
            } => self.log_in(mechanism, &initial_response).await?,
            Request::Mail { from } if self.is_let_in().await? => {
                if self
                    .obey(&Step::Mail(&from.address), "250 2.1.0 ok")
                    .await?
                {
                    self.envelope = Some(Envelope {
                        from: from.address,
                        to: Vec::new(),
                    });
                }
            }
            Request::Mail { .. } => {}
            Request::Rcpt { to } => match &mut self.envelope {
                None => self.say("503 5.5.1 MAIL first").await?,
                Some(_) => {
                    if self.obey(&Step::Rcpt(&to.address), "250 2.1.5 ok").await?
                        && let Some(envelope) = &mut self.envelope
                    {
                        envelope.to.push(to.address);
                    }
                }
            },
            Request::Rset => {
                self.envelope = None;
                self.say("250 2.0.0 ok").await?;
            }
            Request::Noop { .. } => self.say("250 2.0.0 ok").await?,
            Request::Quit => {
                self.say("221 2.0.0 goodbye").await?;
                return Ok(false);
            }
            _ => self.say("502 5.5.1 not here").await?,
        }
        Ok(true)
    }

    async fn greet(&mut self) -> Result<()> {
        let mut response = EhloResponse::new(NAME);
        response.capabilities =
            EXT_8BIT_MIME | EXT_SMTP_UTF8 | EXT_PIPELINING | EXT_ENHANCED_STATUS_CODES;
        let wants_tls = self.shared.options.tls.is_some() && !self.is_encrypted;
        if wants_tls {
            response.capabilities |= EXT_START_TLS;
        } else if self.shared.options.login.is_some() {
            response.capabilities |= EXT_AUTH;
            response.auth_mechanisms = AUTH_PLAIN;
        }
        let mut text = Vec::new();
        response.write(&mut text)?;
        let stream = self.stream()?;
        stream.write_all(&text).await?;
        stream.flush().await?;
        Ok(())
    }

    async fn start_tls(&mut self) -> Result<()> {
        if self.shared.options.tls.is_none() || self.is_encrypted {
            return self.say("502 5.5.1 no TLS here").await;
        }
        self.say("220 2.0.0 go ahead").await?;
        self.encrypt().await
    }

    async fn log_in(&mut self, mechanism: u64, initial_response: &str) -> Result<()> {
        let Some((user, password)) = &self.shared.options.login else {
            return self.say("502 5.5.1 no login here").await;
        };
        // RFC 4616: authorization identity, user, password, each ended by a zero byte.
        let expected = format!("\0{user}\0{password}");
        let given = base64_decode(initial_response.as_bytes()).unwrap_or_default();
        if mechanism == AUTH_PLAIN && given == expected.as_bytes() {
            self.user = Some(user.clone());
            self.say("235 2.7.0 welcome").await
        } else {
            self.say("535 5.7.8 wrong user or password").await
        }
    }

    /// Encrypted and logged in where that is wanted; says what is missing.
    async fn is_let_in(&mut self) -> Result<bool> {
        let options = &self.shared.options;
        if options.tls.is_some() && !self.is_encrypted {
            self.say("530 5.7.0 STARTTLS first").await?;
            return Ok(false);
        }
        if options.login.is_some() && self.user.is_none() {
            self.say("530 5.7.0 log in first").await?;
            return Ok(false);
        }
        Ok(true)
    }

    async fn may_send(&mut self) -> Result<bool> {
        if self.envelope.as_ref().is_none_or(|e| e.to.is_empty()) {
            self.say("503 5.5.1 RCPT first").await?;
            return Ok(false);
        }
        self.obey(&Step::Data, "354 end with a dot").await
    }

    async fn receive(&mut self, mut received: Vec<u8>) -> Result<()> {
        let envelope = self.envelope.take().unwrap_or_default();
        let mut receiver = DataReceiver::new();
        let mut data = Vec::new();
        let mut buffer = vec![0; 65536];
        loop {
            if receiver.ingest(&mut received.iter(), &mut data) {
                break;
            }
            if !data.is_empty() {
                let step = Step::Content { to: &envelope.to };
                if !self.obey(&step, "").await? {
                    return Ok(());
                }
            }
            let length = self.stream()?.read(&mut buffer).await?;
            if length == 0 {
                bail!("the client broke off in the middle of a message");
            }
            received = buffer[..length].to_vec();
        }
        let step = Step::Message {
            to: &envelope.to,
            data: &data,
        };
        let act = self.shared.act(&step);
        let caught = Caught {
            from: envelope.from,
            to: envelope.to,
            data,
            user: self.user.clone(),
            is_encrypted: self.is_encrypted,
        };
        match act {
            Act::Accept => {}
            Act::AcceptAfter(pause) => tokio::time::sleep(pause).await,
            Act::Answer(line) => return self.say(line).await,
            Act::Hang => std::future::pending().await,
            Act::Drop => bail!("hung up"),
            Act::KeepAndDrop => {
                self.shared.keep(caught)?;
                bail!("hung up");
            }
        }
        self.shared.keep(caught)?;
        self.say("250 2.0.0 kept").await
    }
}
