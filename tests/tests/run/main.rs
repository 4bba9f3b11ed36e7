//! Runs (design §7): each period of each job once, whatever happens in between. Ledgers are
//! compared whole with that of a system that nothing disturbed.

#[path = "run/world.rs"]
mod world;

#[path = "run/api.rs"]
mod api;
#[path = "run/crash.rs"]
mod crash;
#[path = "run/exactly_once.rs"]
mod exactly_once;
#[path = "run/failure.rs"]
mod failure;
#[path = "run/plan.rs"]
mod plan;
#[path = "run/preview.rs"]
mod preview;
#[path = "run/reading.rs"]
mod reading;
