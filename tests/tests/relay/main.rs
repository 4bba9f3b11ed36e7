//! The relay from outside: the real binary, a real cluster, real SMTP and HTTP conversations.

mod crash;
mod delivery;
mod once;
mod secure;
mod sms;
mod trouble;
mod watch;
mod world;
