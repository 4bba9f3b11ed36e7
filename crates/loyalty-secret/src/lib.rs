//! Secrets, without PostgreSQL: passwords, the codes and tokens that people are sent, the
//! tokens that PostgREST believes, and the keys behind them, which no dump has.

pub mod key;
pub mod keyed;
pub mod password;
pub mod token;
