//! What one call asks of the ledger: its key and reason, the hash of all that it gave, and the
//! operation of before that it is about.

use crate::error::{Code, Fault, Result};
use loyalty_core::wallet::{EntryNo, operation_parts};
use std::fmt::Write as _;

/// Whether an operation is the holder's to make, or must go through a suspension too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Refused by a suspended or closed account.
    Open,
    /// Refused by a closed account only.
    NotClosed,
}

/// What one call asks for, beyond what each operation adds.
#[derive(Default)]
pub struct Request<'a> {
    pub reason: Option<&'a str>,
    pub key: Option<&'a str>,
    /// All that the caller gave, so that a key under another request is noticed (law 6).
    pub hash: i32,
    /// Whether the key names what is paid for, once and for all: its payment is that one's, also
    /// where the terms have changed since.
    pub is_occasion: bool,
    /// Of a hold, how long it lasts, in microseconds from when it is made.
    pub hold_for: Option<i64>,
    /// Whether it keeps points from lapsing by inactivity (S10): what the member does or gets.
    pub activity: bool,
}

/// What every operation asks of its key and reason.
pub fn check_request(request: &Request) -> Result<()> {
    check_key(request.key)?;
    check_reason(request.reason)
}

fn check_key(key: Option<&str>) -> Result<()> {
    match key {
        Some(key) if key.is_empty() || key.chars().count() > 255 => Err(Fault::invalid(
            "key_invalid",
            "an idempotency key has 1 to 255 characters",
        )
        .field("idempotency_key")
        .detail(format!("This one has {}.", key.chars().count()))
        .hint("Use a UUID, or your own order number.")),
        _ => Ok(()),
    }
}

fn check_reason(reason: Option<&str>) -> Result<()> {
    match reason.map(|reason| reason.chars().count()) {
        Some(length) if length > 1000 => {
            Err(Fault::invalid("reason_too_long", "reason is too long")
                .field("reason")
                .detail(format!("This one has {length}."))
                .hint("Keep long texts elsewhere, and name them here."))
        }
        _ => Ok(()),
    }
}

/// Hash of all that a caller gave: the same key with another of these is another request. Half of
/// its bits are stored.
#[allow(clippy::cast_possible_truncation)]
pub fn request_hash(parts: &[&dyn std::fmt::Display]) -> i32 {
    let mut text = String::with_capacity(64);
    for part in parts {
        // Writing into a String cannot fail.
        let _ = write!(text, "{part}\u{1f}");
    }
    // A stored value: xxh3 is fixed by its specification.
    xxhash_rust::xxh3::xxh3_64(text.as_bytes()) as i32
}

/// An optional part of a request.
pub struct Given<T>(pub Option<T>);

impl<T: std::fmt::Display> std::fmt::Display for Given<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(value) => write!(f, "={value}"),
            None => Ok(()),
        }
    }
}

/// Points must be above zero.
pub fn positive(points: i64) -> Result<i64> {
    if points > 0 {
        return Ok(points);
    }
    Err(
        Fault::invalid("points_not_positive", "points must be above zero")
            .field("points")
            .detail(format!("{points} given."))
            .hint("Whole points from 1; each kind of operation knows its own direction."),
    )
}

/// The entry number of an operation of that account.
pub fn entry_of(account_id: i64, operation_id: i64) -> Result<EntryNo> {
    match operation_parts(operation_id) {
        (account, entry) if account == account_id && entry > 0 => Ok(entry),
        _ => Err(no_such_operation(account_id, operation_id)),
    }
}

pub fn no_such_operation(account_id: i64, operation_id: i64) -> Fault {
    Fault::new(Code::NotFound, "no_such_operation", "no such operation")
        .field("operation_id")
        .detail(format!(
            "Account {account_id} has no operation {operation_id}."
        ))
        .hint("The operation_id is in the receipt, and in loyalty.statement(account_id).")
}
