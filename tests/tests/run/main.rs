//! Runs (design §7): each period of each job once, whatever happens in between. Ledgers are
//! compared whole with that of a system that nothing disturbed.

mod world;

mod api;
mod crash;
mod exactly_once;
mod failure;
mod plan;
mod preview;
mod reading;
