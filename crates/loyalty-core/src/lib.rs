//! Rules of the points ledger that need no PostgreSQL: plain values in, plain values out.

pub mod calendar;
pub mod decode;
pub mod entry;
pub mod expiry;
pub mod hint;
pub mod member;
pub mod month;
pub mod recurrence;
pub mod roster;
pub mod rule;
pub mod template;
pub mod wallet;
