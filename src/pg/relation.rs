//! The extension's tables and indexes by their names.

use crate::error::{Fault, Result};
use pgrx::pg_sys;
use std::ffi::CStr;

/// The schema of what callers see.
pub const PUBLIC: &CStr = c"loyalty";

/// A table or index of the extension.
pub fn oid_of(schema: &CStr, name: &CStr) -> Result<pg_sys::Oid> {
    // SAFETY: looks a name up in the catalog.
    let oid = unsafe {
        let namespace = pg_sys::get_namespace_oid(schema.as_ptr(), false);
        pg_sys::get_relname_relid(name.as_ptr(), namespace)
    };
    if oid != pg_sys::InvalidOid {
        return Ok(oid);
    }
    Err(Fault::damaged("the extension's tables are incomplete")
        .detail(format!(
            "{}.{} is missing.",
            schema.to_string_lossy(),
            name.to_string_lossy()
        ))
        .hint("Restore the table or index under its own name."))
}

/// Locks a table for reading, to the end of the transaction.
pub fn lock_table(table: &CStr) -> Result<()> {
    let table = oid_of(PUBLIC, table)?;
    // SAFETY: takes a lock, and in what others announced until then.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
    Ok(())
}

/// Who owns the ledger.
pub fn owner() -> Result<pg_sys::Oid> {
    let wallet = oid_of(PUBLIC, c"wallet")?;
    // SAFETY: opened under lock, which stays to the end of the transaction.
    unsafe {
        let wallet = pg_sys::table_open(wallet, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let owner = (*(*wallet).rd_rel).relowner;
        pg_sys::table_close(wallet, pg_sys::NoLock as pg_sys::LOCKMODE);
        Ok(owner)
    }
}
