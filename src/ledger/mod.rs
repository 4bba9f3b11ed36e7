//! The ledger: the operations on accounts, a file each, and how they read and write (laws 1 to 9).

mod account;
mod announce;
mod balance;
mod bulk;
mod earlier;
mod expire;
mod grant;
mod guard;
mod hold;
mod journal;
mod load;
mod lots;
mod open_account;
mod operate;
mod operation;
mod reader;
mod receipt;
mod refund;
mod revoke;
mod row;
mod spend;
mod transfer;
mod waiting;
mod write;
