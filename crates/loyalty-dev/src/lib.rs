//! The developer's tool of pg_loyalty and what its tests share with it: a
//! private PostgreSQL prefix with the extension in it, private clusters,
//! PostgREST, tokens.
//!
//! `./dev` in the repository's root installs what is missing and calls the
//! `loyalty-dev` program; tests use [`testkit`].

pub mod bench;
pub mod chroot;
pub mod cluster;
pub mod compose;
pub mod context;
pub mod demo;
pub mod fuzz;
pub mod image;
pub mod keys;
pub mod mail;
pub mod matrix;
pub mod os;
pub mod package;
pub mod plans;
pub mod post;
pub mod postgrest;
pub mod prefix;
pub mod progress;
pub mod service;
pub mod test;
pub mod testkit;
pub mod token;
pub mod torture;
pub mod up;
