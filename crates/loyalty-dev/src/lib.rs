//! The developer's tool of pg_loyalty: a private PostgreSQL prefix with the
//! extension in it, the demo, the runner of the tests, benchmarks, faults.
//!
//! `./dev` in the repository's root installs what is missing and calls the
//! `loyalty-dev` program. Clusters, PostgREST and tokens are [`loyalty_testkit`].

pub mod bench;
pub mod chroot;
pub mod compose;
pub mod context;
pub mod demo;
pub mod fuzz;
pub mod image;
pub mod licences;
pub mod matrix;
pub mod package;
pub mod picture;
pub mod post;
pub mod prefix;
pub mod progress;
pub mod test;
pub mod torture;
pub mod up;
