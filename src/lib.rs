//! pg_loyalty: a points ledger inside PostgreSQL.
//!
//! `loyalty-core` has the rules and knows nothing of PostgreSQL; this crate is the thin shell
//! between them; `sql/` declares what callers see.

#![warn(clippy::cast_possible_truncation)]

mod actor;
mod calendar;
mod clock;
mod day;
mod error;
mod expiry;
mod ledger;
mod member;
mod notice;
mod pg;
mod program;
mod raise;
mod request;
mod rest_call;
mod rule;
mod secret;
mod table;

use pgrx::prelude::*;

pgrx::pg_module_magic!(name, version);

/// The install script for cargo-pgrx; `./dev` and the packages have the same from loyalty-install.
// It is one long constant.
#[allow(long_running_const_eval)]
mod install {
    include!(concat!(env!("OUT_DIR"), "/install.rs"));
}

/// Called once in every backend that uses the extension.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::relcache::init();
    clock::init();
    secret::init();
    program::init();
    rest_call::install();
}
