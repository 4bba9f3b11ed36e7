//! Members: what files and forms say of them, read and checked.

mod import;
mod record;
