//! Rules of the points ledger that need no PostgreSQL: plain values in, plain values out.

pub mod calendar;
pub mod entry;
pub mod expiry;
pub mod month;
pub mod recurrence;
pub mod wallet;
