//! The tables that are read or written without a statement, a file each: their columns, and what
//! is read of them.

pub mod entry;
pub mod program;
pub mod service_hours;
pub mod session;
pub mod wallet;
