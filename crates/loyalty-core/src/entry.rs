//! The words of the journal: days, kinds, movements of lots, entries, and refusals.

use crate::wallet::{HOLDS_PER_ACCOUNT, LOTS_PER_ACCOUNT};
use std::ffi::CStr;

/// A day, counted from 2000-01-01.
pub type Day = i32;
/// Microseconds from 2000-01-01 00:00 UTC.
pub type Instant = i64;
/// The number of an entry within its account, from 1.
pub type EntryNo = i32;
/// The last day of a lot that never expires (PostgreSQL's `infinity`): sorts last.
pub const NEVER: Day = i32::MAX;
/// Entries one account may have: what [`operation_id`] leaves room for.
pub const ENTRIES_PER_ACCOUNT: EntryNo = (1 << ENTRY_BITS) - 1;

const ENTRY_BITS: u32 = 24;

/// Names an operation: unique over all accounts, and tells which account it is of, so
/// that an operation of another account is never mistaken for one of this.
#[must_use]
pub const fn operation_id(account_id: i64, entry: EntryNo) -> i64 {
    (account_id << ENTRY_BITS) | entry as i64
}

/// The account and entry number of an operation id.
#[must_use]
pub const fn operation_parts(operation_id: i64) -> (i64, EntryNo) {
    (
        operation_id >> ENTRY_BITS,
        (operation_id & ENTRIES_PER_ACCOUNT as i64) as EntryNo,
    )
}

/// What an entry of the journal records. The order is the one of the SQL type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Grant,
    Spend,
    Hold,
    Capture,
    Release,
    Refund,
    Revoke,
    Repay,
    Transfer,
    Expire,
    /// Lots that lapse by inactivity got a later day.
    Extend,
}

impl Kind {
    /// All kinds, in the order of the SQL type.
    pub const ALL: [Kind; 11] = [
        Kind::Grant,
        Kind::Spend,
        Kind::Hold,
        Kind::Capture,
        Kind::Release,
        Kind::Refund,
        Kind::Revoke,
        Kind::Repay,
        Kind::Transfer,
        Kind::Expire,
        Kind::Extend,
    ];

    /// Its name in SQL.
    #[must_use]
    pub const fn label(self) -> &'static CStr {
        match self {
            Kind::Grant => c"grant",
            Kind::Spend => c"spend",
            Kind::Hold => c"hold",
            Kind::Capture => c"capture",
            Kind::Release => c"release",
            Kind::Refund => c"refund",
            Kind::Revoke => c"revoke",
            Kind::Repay => c"repay",
            Kind::Transfer => c"transfer",
            Kind::Expire => c"expire",
            Kind::Extend => c"extend",
        }
    }

    /// The kind of that label.
    #[must_use]
    pub fn parse(label: &CStr) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.label() == label)
    }

    /// The kind of that label, as a string.
    #[must_use]
    pub fn of_text(label: &str) -> Option<Kind> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.label().to_bytes() == label.as_bytes())
    }

    /// Whether the lots of such an entry changed; a hold only pins them.
    #[must_use]
    pub const fn moves_points(self) -> bool {
        !matches!(self, Kind::Hold | Kind::Release)
    }

    /// Whether such an entry may change the balance by so much.
    #[must_use]
    pub const fn allows(self, points: i64) -> bool {
        match self {
            Kind::Grant | Kind::Refund => points > 0,
            Kind::Spend | Kind::Capture | Kind::Expire | Kind::Repay => points < 0,
            Kind::Revoke => points <= 0,
            Kind::Transfer => points != 0,
            Kind::Hold | Kind::Release | Kind::Extend => points == 0,
        }
    }

    /// Whether points spent in such an operation can be refunded.
    #[must_use]
    pub const fn is_spend(self) -> bool {
        matches!(self, Kind::Spend | Kind::Capture)
    }
}

/// What lots of one class share. Class 0 is the program's own, with a fixed last day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Class {
    /// The number within the program.
    pub id: i16,
    /// Months without activity after which the lot lapses; its last day then moves with
    /// every activity.
    pub inactivity_months: Option<u16>,
}

/// A change of one lot, or what a hold pins of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Movement {
    pub expires_on: Day,
    pub class: Class,
    pub points: i64,
}

/// A line of the journal before it has its number and balance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    /// The change of the balance.
    pub points: i64,
    /// The change of what is held.
    pub held: i64,
    /// The change of the debt.
    pub debt: i64,
    /// The entry of the same account that this one is about.
    pub refers_to: Option<EntryNo>,
    /// The lots changed (or pinned, or unpinned), in the order they were taken.
    pub lots: Vec<Movement>,
}

impl Entry {
    pub(crate) fn new(kind: Kind, points: i64, lots: Vec<Movement>) -> Self {
        Entry {
            kind,
            points,
            held: 0,
            debt: 0,
            refers_to: None,
            lots,
        }
    }

    /// What a receipt calls the points of the operation: never negative.
    #[must_use]
    pub const fn amount(&self) -> i64 {
        match self.kind {
            Kind::Hold | Kind::Release => self.held.abs(),
            _ => self.points.abs(),
        }
    }
}

/// Why an operation cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{wanted} points wanted, {available} available")]
    NotEnough { wanted: i64, available: i64 },
    /// More points than the balance can count.
    #[error("the balance would pass the largest bigint")]
    Overflow,
    #[error("more than {LOTS_PER_ACCOUNT} lots")]
    TooManyLots,
    #[error("more than {HOLDS_PER_ACCOUNT} open holds")]
    TooManyHolds,
    #[error("the hold is no longer open")]
    HoldNotOpen,
    #[error("{wanted} points wanted, {held} held")]
    CaptureOverHold { wanted: i64, held: i64 },
    /// More than is left of the operation.
    #[error("{wanted} points wanted, {left} left of the operation")]
    OverLimit { wanted: i64, left: i64 },
    /// All of the operation was given or taken back before.
    #[error("nothing is left of the operation")]
    NothingLeft,
}
