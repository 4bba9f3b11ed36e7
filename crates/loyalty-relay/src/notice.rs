//! A notice as the database hands it out, and what became of it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A rendered message that this relay may send until its lease runs out.
#[derive(Debug)]
pub struct Notice {
    pub notice_id: i64,
    /// Which attempt this is; the database knows an outcome's attempt by it.
    pub attempt: i32,
    pub address: String,
    pub sender: Option<String>,
    pub subject: Option<String>,
    pub text_body: String,
    pub html_body: Option<String>,
    pub message_id: String,
    /// Where notices of this kind can be refused.
    pub unsubscribe: Option<String>,
    /// From here on another relay may come by: no message is handed over later than this.
    pub hand_over_until: Instant,
}

/// What went wrong, in two forms: `code` holds nothing of the message and goes to the log,
/// `text` may quote a server, which may quote an address, and goes to the database only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    pub code: String,
    pub text: String,
}

impl Why {
    pub fn new(code: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            text: text.into(),
        }
    }

    /// Of our own making: nothing in it to hide.
    pub fn plain(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            code: text.clone(),
            text,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server has taken it over.
    Sent,
    /// No later attempt will do better.
    Refused(Why),
    /// A later attempt may do better.
    Deferred(Why),
    /// The same, and the server, not this message, seems to be the reason. It may have said
    /// how long to leave it alone.
    Faltered(Why, Option<Duration>),
    /// Not begun: the server cannot be worked with. No attempt is counted.
    Down(Why),
    /// Not begun: this relay was held up until the lease was nearly over.
    Late,
}

/// How far a message has come; seen from outside when it has to be broken off.
#[derive(Debug, Default)]
pub struct Progress(AtomicU8);

const TALKING: u8 = 1;
const HANDED: u8 = 2;

impl Progress {
    /// A connection is there; from here on a failure is one of this message's attempts.
    pub fn talking(&self) {
        self.0.store(TALKING, Ordering::Release);
    }

    /// From here on the server may have the message, whatever we hear of it.
    pub fn handed(&self) {
        self.0.store(HANDED, Ordering::Release);
    }

    pub fn is_connecting(&self) -> bool {
        self.0.load(Ordering::Acquire) < TALKING
    }

    pub fn may_have_arrived(&self) -> bool {
        self.0.load(Ordering::Acquire) == HANDED
    }
}

/// One way to send: by mail, by short message.
pub trait Sender: Send + Sync + 'static {
    /// The channel's name in the database.
    const CHANNEL: &'static str;

    /// Whether it can be worked with, before a notice is taken from the queue for it.
    fn ready(&self) -> impl Future<Output = Result<(), Why>> + Send;

    fn send(&self, notice: &Notice, progress: &Progress) -> impl Future<Output = Outcome> + Send;

    /// Lets go of connections that nobody used for a while, or of all.
    fn tidy(&self, all: bool) -> impl Future<Output = ()> + Send;
}
