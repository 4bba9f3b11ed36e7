//! The server: who is let in, what is answered, what was caught.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::ServerConfig;

use super::session;
use super::store::{Caught, Store};

/// A point of the conversation at which the server may do something else than usual.
#[derive(Debug)]
pub enum Step<'a> {
    Connect,
    Mail(&'a str),
    Rcpt(&'a str),
    Data,
    /// A part of the message has come, not all of it.
    Content {
        to: &'a [String],
    },
    /// All of it has come, the answer has not gone out.
    Message {
        to: &'a [String],
        data: &'a [u8],
    },
}

/// What the server does at a step.
#[derive(Clone, Debug)]
pub enum Act {
    /// What a server does that has nothing against it.
    Accept,
    /// This line, such as `550 5.1.1 no such user`.
    Answer(&'static str),
    /// The same as `Accept`, later.
    AcceptAfter(Duration),
    /// Nothing, for ever.
    Hang,
    /// Hangs up without a word.
    Drop,
    /// At `Message`: keeps it, and hangs up without saying so.
    KeepAndDrop,
}

type Script = dyn Fn(&Step) -> Act + Send + Sync;

#[derive(Clone)]
pub struct Tls {
    pub config: Arc<ServerConfig>,
    /// From the first byte; else after STARTTLS, and nothing before it.
    pub is_implicit: bool,
}

/// How to set the server up; by default on any port of this machine, open to all.
#[derive(Clone, Default)]
pub struct Options {
    pub listen: Option<SocketAddr>,
    pub tls: Option<Tls>,
    /// The one user and password that are let in.
    pub login: Option<(String, String)>,
    /// Keeps the messages in files too.
    pub store: Option<Arc<Store>>,
}

/// Runs until dropped.
pub struct Catcher {
    address: SocketAddr,
    pub(super) shared: Arc<Shared>,
    listening: Mutex<Listening>,
}

enum Listening {
    Up(JoinHandle<()>),
    /// The port stays ours, so that connections are refused and nobody else takes it.
    Down(Option<TcpSocket>),
}

pub(super) struct Shared {
    pub options: Options,
    script: Mutex<Arc<Script>>,
    caught: Mutex<Vec<Caught>>,
    count: watch::Sender<usize>,
    connections: AtomicU64,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

impl Catcher {
    pub async fn start(options: Options) -> Result<Self> {
        let wanted = options
            .listen
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = TcpListener::bind(wanted)
            .await
            .with_context(|| format!("the mail catcher cannot listen on {wanted}"))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            options,
            script: Mutex::new(Arc::new(|_: &Step| Act::Accept)),
            caught: Mutex::new(Vec::new()),
            count: watch::Sender::new(0),
            connections: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            listening: Mutex::new(Listening::Up(accepting)),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on each step is put to `script`.
    pub fn set_script(&self, script: impl Fn(&Step) -> Act + Send + Sync + 'static) {
        *lock(&self.shared.script) = Arc::new(script);
    }

    /// Refuses connections from now on; those that are open end.
    pub async fn go_down(&self) -> Result<()> {
        let before = std::mem::replace(&mut *lock(&self.listening), Listening::Down(None));
        if let Listening::Up(accepting) = before {
            accepting.abort();
            // The listener and all conversations go with the task.
            let _aborted = accepting.await;
        }
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket
            .bind(self.address)
            .context("the mail catcher's port was taken meanwhile")?;
        *lock(&self.listening) = Listening::Down(Some(socket));
        Ok(())
    }

    pub fn come_up(&self) -> Result<()> {
        let mut listening = lock(&self.listening);
        let Listening::Down(socket) = &mut *listening else {
            bail!("the mail catcher is up");
        };
        let socket = socket.take().context("the mail catcher has no port")?;
        let listener = socket.listen(1024)?;
        *listening = Listening::Up(tokio::spawn(accept(listener, Arc::clone(&self.shared))));
        Ok(())
    }

    /// All that was caught so far, in order.
    pub fn caught(&self) -> Vec<Caught> {
        lock(&self.shared.caught).clone()
    }

    /// Returns when so many were caught, or fails saying how many there are.
    pub async fn wait_for(&self, wanted: usize, patience: Duration) -> Result<Vec<Caught>> {
        let mut count = self.shared.count.subscribe();
        let until = Instant::now() + patience;
        let there = timeout_at(until, count.wait_for(|count| *count >= wanted)).await;
        if there.is_err() {
            bail!("{wanted} mails wanted, {} caught", self.caught().len());
        }
        Ok(self.caught())
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many were open at once, at most.
    pub fn most_open(&self) -> usize {
        self.shared.most_open.load(Ordering::Relaxed)
    }
}

impl Drop for Catcher {
    fn drop(&mut self) {
        if let Listening::Up(accepting) = &*lock(&self.listening) {
            accepting.abort();
        }
    }
}

impl Shared {
    pub fn act(&self, step: &Step) -> Act {
        let script = Arc::clone(&lock(&self.script));
        script(step)
    }

    /// Keeps a message; in the store first, so that whoever waits finds it there.
    pub fn keep(&self, caught: Caught) -> Result<()> {
        if let Some(store) = &self.options.store {
            store.add(&caught)?;
        }
        let mut all = lock(&self.caught);
        all.push(caught);
        self.count.send_replace(all.len());
        Ok(())
    }
}

/// Counts a connection while it is open.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let open = shared.open.fetch_add(1, Ordering::Relaxed) + 1;
        shared.most_open.fetch_max(open, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut sessions = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let shared = Arc::clone(&shared);
                sessions.spawn(async move {
                    let _open = Open::new(&shared);
                    // A client that breaks off is its own affair.
                    let _ended = session::serve(stream, &shared).await;
                });
            }
            Some(_) = sessions.join_next() => {}
        }
    }
}

/// A script that panicked has failed its test; others may go on.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
