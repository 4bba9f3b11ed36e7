//! TLS and login: nothing goes out that is not protected as told.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use loyalty_testkit::mail::{Catcher, Options, Tls};
use loyalty_testkit::os::Owner;
use loyalty_testkit::{FreshCluster, TestServer};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::world::{PATIENCE, Setup, World};

/// A certificate of `localhost` that nobody vouches for, and the file that says to trust it.
struct Identity {
    key: CertifiedKey<KeyPair>,
    ca_file: PathBuf,
}

impl Identity {
    fn new(label: &str) -> Result<Self> {
        let key = generate_simple_self_signed(["localhost".to_owned()])?;
        let ca_file = TestServer::get()?
            .dir
            .join(format!("{label}-{}.pem", std::process::id()));
        std::fs::write(&ca_file, key.cert.pem())?;
        Ok(Self { key, ca_file })
    }

    fn config(&self) -> Result<Arc<ServerConfig>> {
        let key = PrivateKeyDer::try_from(self.key.signing_key.serialize_der())
            .ok()
            .context("no key")?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![self.key.cert.der().clone()], key)?;
        Ok(Arc::new(config))
    }

    fn file(&self) -> String {
        self.ca_file.to_string_lossy().into_owned()
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let _removed_before = std::fs::remove_file(&self.ca_file);
    }
}

/// A mail server of that identity.
struct Secure {
    catcher: Catcher,
    identity: Identity,
}

impl Secure {
    async fn start(label: &str, is_implicit: bool, login: bool) -> Result<Self> {
        let identity = Identity::new(label)?;
        let catcher = Catcher::start(Options {
            tls: Some(Tls {
                config: identity.config()?,
                is_implicit,
            }),
            login: login.then(|| ("club".to_owned(), "correct horse".to_owned())),
            ..Options::default()
        })
        .await?;
        Ok(Self { catcher, identity })
    }

    fn port(&self) -> String {
        self.catcher.address().port().to_string()
    }
}

#[tokio::test]
async fn tls_and_login_in_both_ways() -> Result<()> {
    for (label, tls, is_implicit) in [
        ("relay_starttls", "starttls", false),
        ("relay_implicit", "implicit", true),
    ] {
        let world = World::new(label).await?;
        let server = Secure::start(label, is_implicit, true).await?;
        let password = server.identity.ca_file.with_extension("password");
        std::fs::write(&password, "correct horse\n")?;
        world.queue(3).await?;
        let once = world
            .relay()?
            .arg("--smtp-host", "localhost")
            .arg("--smtp-port", &server.port())
            .arg("--smtp-tls", tls)
            .arg("--smtp-user", "club")
            .arg("--ca-file", &server.identity.file())
            .env(
                "LOYALTY_RELAY_SMTP_PASSWORD_FILE",
                &password.to_string_lossy(),
            )
            .once()
            .await;
        std::fs::remove_file(&password)?;
        assert_eq!(once?.0, Some(0), "{tls}");
        let caught = server.catcher.wait_for(3, PATIENCE).await?;
        for mail in caught {
            assert!(mail.is_encrypted);
            assert_eq!(mail.user.as_deref(), Some("club"));
        }
    }
    Ok(())
}

/// A certificate that nobody vouches for, a server without TLS, a wrong password: nothing is
/// sent, and no attempt is counted.
#[tokio::test]
async fn what_is_not_safe_is_not_sent() -> Result<()> {
    let world = World::new("relay_unsafe").await?;
    let server = Secure::start("relay_unsafe", false, true).await?;
    world.queue(2).await?;
    let relay = |port: &str| -> Result<_> {
        Ok(world
            .relay()?
            .arg("--smtp-host", "localhost")
            .arg("--smtp-port", port)
            .arg("--smtp-user", "club"))
    };
    let untrusted = relay(&server.port())?.env("LOYALTY_RELAY_SMTP_PASSWORD", "correct horse");
    assert_eq!(untrusted.once().await?.0, Some(3), "certificate");

    let wrong = relay(&server.port())?
        .arg("--ca-file", &server.identity.file())
        .env("LOYALTY_RELAY_SMTP_PASSWORD", "battery staple");
    assert_eq!(wrong.once().await?.0, Some(3), "password");
    assert_eq!(server.catcher.caught().len(), 0);

    let plain = crate::world::catcher().await?;
    let port = plain.address().port().to_string();
    let stripped = relay(&port)?.env("LOYALTY_RELAY_SMTP_PASSWORD", "correct horse");
    assert_eq!(stripped.once().await?.0, Some(3), "no STARTTLS");
    assert_eq!(plain.caught().len(), 0);
    for (address, noted) in world.notices().await? {
        assert_eq!((noted.attempts, noted.is_leased), (0, false), "{address}");
    }
    Ok(())
}

/// Takes one request over TLS and answers 202; what it got.
async fn take_one(listener: TcpListener, config: Arc<ServerConfig>) -> Result<String> {
    let acceptor = TlsAcceptor::from(config);
    loop {
        let (stream, _) = listener.accept().await?;
        // Whoever does not trust us breaks off here.
        let Ok(mut stream) = acceptor.accept(stream).await else {
            continue;
        };
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            anyhow::ensure!(stream.read_buf(&mut request).await? > 0, "broken off");
        }
        let answer = "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        return Ok(String::from_utf8(request)?);
    }
}

#[tokio::test]
async fn the_webhook_is_asked_by_tls() -> Result<()> {
    let world = World::new("relay_https").await?;
    world
        .client
        .execute("select queue_sms()", &[])
        .await
        .context("queue_sms")?;
    let identity = Identity::new("relay_https")?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://localhost:{}/", listener.local_addr()?.port());
    let taking = tokio::spawn(take_one(listener, identity.config()?));
    let relay = || -> Result<_> {
        let setup = world.relay()?.arg("--sms-url", &url);
        Ok(setup.env("LOYALTY_RELAY_SMS_TOKEN", "secret token"))
    };
    assert_eq!(relay()?.once().await?.0, Some(3), "not trusted");
    let trusting = relay()?.arg("--ca-file", &identity.file());
    assert_eq!(trusting.once().await?.0, Some(0));
    assert!(taking.await??.contains("Bearer secret token"));
    Ok(())
}

/// A login with a password over TLS, as the documentation has it.
#[tokio::test]
async fn the_database_is_reached_by_tls_and_password() -> Result<()> {
    let identity = Identity::new("relay_postgres")?;
    let key_file = identity.ca_file.with_extension("key");
    let key = identity.key.signing_key.serialize_pem();
    Owner::current()?.private_file(&key_file, &key)?;
    let settings = format!(
        "listen_addresses = '127.0.0.1'\nssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n",
        identity.file(),
        key_file.display()
    );
    let fresh = FreshCluster::start("relay_postgres", &settings)?;
    std::fs::remove_file(&key_file)?;
    let client = fresh.connect("postgres").await?;
    client.batch_execute("create extension pg_loyalty").await?;
    client.batch_execute(include_str!("world.sql")).await?;
    client
        .batch_execute(
            "create role mail_relay login password 'correct horse' in role loyalty_relay;
             select queue_mail('[1,2]')",
        )
        .await?;
    let catcher = crate::world::catcher().await?;
    let relay = |port: u16, password: &str| -> Result<Setup> {
        Ok(Setup::new(&format!(
            "host=localhost port={port} dbname=postgres user=mail_relay sslmode=require"
        ))?
        .smtp(catcher.address())
        .arg("--smtp-tls", "none")
        .env("LOYALTY_RELAY_DATABASE_PASSWORD", password))
    };
    let port = fresh.cluster().port;
    let stranger = relay(port, "correct horse")?;
    assert_eq!(stranger.once().await?.0, Some(3), "not trusted");
    let wrong = relay(port, "battery staple")?.arg("--ca-file", &identity.file());
    assert_eq!(wrong.once().await?.0, Some(3), "wrong password");
    let right = relay(port, "correct horse")?.arg("--ca-file", &identity.file());
    assert_eq!(
        right.once().await?,
        (Some(0), "sent 2, refused 0, deferred 0\n".into())
    );
    Ok(())
}
