//! Notices: what their statements ask of wallets, and their templates.

mod lapse;
mod template;
