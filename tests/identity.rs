//! People: how they register, log in, and get back in; through the real PostgREST and the
//! mails of a real relay.

#[path = "identity/mailbox.rs"]
mod mailbox;
#[path = "identity/people.rs"]
mod people;
#[path = "identity/world.rs"]
mod world;

#[path = "identity/application.rs"]
mod application;
#[path = "identity/attack.rs"]
mod attack;
#[path = "identity/audit.rs"]
mod audit;
#[path = "identity/family.rs"]
mod family;
#[path = "identity/family_access.rs"]
mod family_access;
#[path = "identity/family_end.rs"]
mod family_end;
#[path = "identity/hostile.rs"]
mod hostile;
#[path = "identity/key.rs"]
mod key;
#[path = "identity/link.rs"]
mod link;
#[path = "identity/login.rs"]
mod login;
#[path = "identity/login_change.rs"]
mod login_change;
#[path = "identity/proposal.rs"]
mod proposal;
#[path = "identity/provider.rs"]
mod provider;
#[path = "identity/recovery.rs"]
mod recovery;
#[path = "identity/registration.rs"]
mod registration;
#[path = "identity/secret.rs"]
mod secret;
#[path = "identity/session.rs"]
mod session;
#[path = "identity/signing_key.rs"]
mod signing_key;
#[path = "identity/staff.rs"]
mod staff;
#[path = "identity/staff_meet.rs"]
mod staff_meet;
#[path = "identity/throttle.rs"]
mod throttle;
#[path = "identity/token_matrix.rs"]
mod token_matrix;
