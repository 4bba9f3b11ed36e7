//! pg_loyalty: a points ledger inside PostgreSQL.
//!
//! `loyalty-core` has the rules and knows nothing of PostgreSQL; this crate is the thin shell
//! between them; `sql/` declares what callers see.

mod account;
mod announce;
mod bulk;
mod calendar;
mod call;
mod clock;
mod day;
mod error;
mod expire;
mod expiry;
mod fetch;
mod guard;
mod ledger;
mod member;
mod notice;
mod operation;
mod program;
mod reading;
mod receipt;
mod request;
mod row;
mod rule;
mod scan;
mod secret;
mod spi;
mod table;
mod template;
mod waiting;
mod write;

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
    clock::init();
    secret::init();
    program::init();
}
