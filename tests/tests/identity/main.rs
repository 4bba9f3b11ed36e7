//! People: how they register, log in, and get back in; through the real PostgREST and the
//! mails of a real relay.

mod mailbox;
mod people;
mod world;

mod application;
mod attack;
mod audit;
mod company;
mod device;
mod family;
mod family_access;
mod family_end;
mod hostile;
mod key;
mod link;
mod login;
mod login_change;
mod proposal;
mod provider;
mod recovery;
mod registration;
mod secret;
mod session;
mod signing_key;
mod staff;
mod staff_meet;
mod throttle;
mod token_matrix;
