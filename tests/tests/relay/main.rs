//! The relay from outside: the real binary, a real cluster, real SMTP and HTTP conversations.

#[path = "relay/crash.rs"]
mod crash;
#[path = "relay/delivery.rs"]
mod delivery;
#[path = "relay/once.rs"]
mod once;
#[path = "relay/secure.rs"]
mod secure;
#[path = "relay/sms.rs"]
mod sms;
#[path = "relay/trouble.rs"]
mod trouble;
#[path = "relay/watch.rs"]
mod watch;
#[path = "relay/world.rs"]
mod world;
