//! A mail server that delivers nothing and keeps everything: for tests, which tell it how to
//! misbehave, and for `./dev up`, where people look at what was sent.

pub mod catcher;
pub mod page;
mod session;
pub mod store;

pub use catcher::{Act, Catcher, Options, Step, Tls};
pub use store::{Caught, Store};
