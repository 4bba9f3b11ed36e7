//! Finding one row by its key without the executor, and the tables that this goes to.

use crate::error::{Fault, Result};
use pgrx::pg_sys::{self, Datum};
use std::ffi::{CStr, c_int};

/// Which committed state is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// What the calling statement sees: for stable functions.
    Statement,
    /// What is committed now: for operations, which wait for others and look again.
    Now,
    /// The same in every isolation level: for what is remembered beyond the transaction.
    Latest,
}

/// A table or index of the extension.
pub fn relation(name: &CStr) -> Result<pg_sys::Oid> {
    // SAFETY: looks a name up in the catalog.
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(c"loyalty".as_ptr(), false);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    if oid != pg_sys::InvalidOid {
        return Ok(oid);
    }
    Err(Fault::damaged("the extension's tables are incomplete")
        .detail(format!("loyalty.{} is missing.", name.to_string_lossy()))
        .hint("Restore the table or index under its own name."))
}

/// Locks a table for reading, to the end of the transaction.
pub fn lock(table: &CStr) -> Result<()> {
    let table = relation(table)?;
    // SAFETY: takes a lock, and in what others announced until then.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
    Ok(())
}

/// Who owns the ledger.
pub fn owner() -> Result<pg_sys::Oid> {
    let wallet = relation(c"wallet")?;
    // SAFETY: opened under lock, which stays to the end of the transaction.
    unsafe {
        let wallet = pg_sys::table_open(wallet, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let owner = (*(*wallet).rd_rel).relowner;
        pg_sys::table_close(wallet, pg_sys::NoLock as pg_sys::LOCKMODE);
        Ok(owner)
    }
}

/// A column of an index, and what it is to equal.
pub struct Key {
    pub column: i16,
    /// The function that tells.
    pub procedure: u32,
    pub value: Datum,
}

pub fn eight(column: i16, value: i64) -> Key {
    Key {
        column,
        procedure: pg_sys::F_INT8EQ,
        value: Datum::from(value),
    }
}

pub fn four(column: i16, value: i32) -> Key {
    Key {
        column,
        procedure: pg_sys::F_INT4EQ,
        value: Datum::from(value),
    }
}

/// A snapshot, held as long as something is read by it.
pub struct Moment {
    snapshot: pg_sys::Snapshot,
    registered: bool,
}

impl Moment {
    pub fn of(sight: Sight) -> Self {
        // SAFETY: we run inside a statement, which has a snapshot.
        unsafe {
            let fresh = match sight {
                Sight::Statement => None,
                Sight::Now => Some(pg_sys::GetTransactionSnapshot()),
                Sight::Latest => Some(pg_sys::GetLatestSnapshot()),
            };
            Moment {
                snapshot: fresh.map_or_else(
                    || pg_sys::GetActiveSnapshot(),
                    |snapshot| pg_sys::RegisterSnapshot(snapshot),
                ),
                registered: fresh.is_some(),
            }
        }
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        // While an error unwinds, PostgreSQL's abort lets go of it.
        if self.registered && !std::thread::panicking() {
            // SAFETY: registered above, once.
            unsafe { pg_sys::UnregisterSnapshot(self.snapshot) };
        }
    }
}

/// Look-ups by an index, open for several; it closes what it opened. Locks stay to the end of
/// the transaction, as after a statement.
pub struct Scan {
    pub heap: pg_sys::Relation,
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
}

/// The row that a scan stands on.
pub struct ScannedRow {
    slot: *mut pg_sys::TupleTableSlot,
}

impl Scan {
    pub fn open(table: &CStr, index: &CStr, keys: c_int, moment: &Moment) -> Result<Self> {
        let heap_oid = relation(table)?;
        // SAFETY: relations are opened under lock, and live as long as the scan; so does the
        // moment's snapshot.
        unsafe {
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let heap = pg_sys::table_open(heap_oid, lock);
            // Under the table's lock only: REINDEX CONCURRENTLY puts another index under the
            // name, and the old one is gone as soon as nobody holds the table.
            let index = pg_sys::index_open(relation(index)?, lock);
            #[cfg(not(feature = "pg18"))]
            let scan = pg_sys::index_beginscan(heap, index, moment.snapshot, keys, 0);
            #[cfg(feature = "pg18")]
            let scan = pg_sys::index_beginscan(
                heap,
                index,
                moment.snapshot,
                std::ptr::null_mut(),
                keys,
                0,
            );
            let slot = pg_sys::table_slot_create(heap, std::ptr::null_mut());
            Ok(Scan {
                heap,
                index,
                scan,
                slot,
            })
        }
    }

    /// The row with these keys, as many as the scan was opened for.
    pub fn find(&mut self, keys: &[Key]) -> Option<ScannedRow> {
        // SAFETY: the scan is open; the keys are of the index's column types, the slot is of
        // the table's shape.
        unsafe {
            let mut scan_keys: [pg_sys::ScanKeyData; 2] = Default::default();
            for (scan_key, key) in scan_keys.iter_mut().zip(keys) {
                pg_sys::ScanKeyInit(
                    scan_key,
                    key.column,
                    pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                    pg_sys::Oid::from(key.procedure),
                    key.value,
                );
            }
            pg_sys::index_rescan(
                self.scan,
                scan_keys.as_mut_ptr(),
                keys.len() as c_int,
                std::ptr::null_mut(),
                0,
            );
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            if !pg_sys::index_getnext_slot(self.scan, forward, self.slot) {
                return None;
            }
            let columns = (*(*self.slot).tts_tupleDescriptor).natts;
            pg_sys::slot_getsomeattrs_int(self.slot, columns);
            Some(ScannedRow { slot: self.slot })
        }
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        // While an error unwinds, PostgreSQL's abort closes everything.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: opened in open, in this order.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::index_endscan(self.scan);
            pg_sys::index_close(self.index, pg_sys::NoLock as pg_sys::LOCKMODE);
            pg_sys::table_close(self.heap, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
    }
}

impl ScannedRow {
    /// Where this version of the row is.
    pub fn place(&self) -> pg_sys::ItemPointerData {
        // SAFETY: the slot holds the row.
        unsafe { (*self.slot).tts_tid }
    }

    /// Transactions that lock or change this version of the row, or did; the strongest lock first.
    pub fn lockers(&self) -> Vec<pg_sys::TransactionId> {
        // SAFETY: rows of a heap table's scan are in its buffer, whose pin the slot has. Under the
        // buffer's lock the number and what it means belong together.
        unsafe {
            let slot = self.slot.cast::<pg_sys::BufferHeapTupleTableSlot>();
            let buffer = (*slot).buffer;
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as c_int);
            let header = (*(*slot).base.tuple).t_data;
            let marks = u32::from((*header).t_infomask);
            let number = (*header).t_choice.t_heap.t_xmax;
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_UNLOCK as c_int);
            if marks & pg_sys::HEAP_XMAX_INVALID != 0 {
                return Vec::new();
            }
            if marks & pg_sys::HEAP_XMAX_IS_MULTI == 0 {
                return vec![number];
            }
            let mut list = std::ptr::null_mut();
            let only_locked = marks & pg_sys::HEAP_XMAX_LOCK_ONLY != 0;
            let multi = pg_sys::MultiXactId::from(number.into_inner());
            let count = pg_sys::GetMultiXactIdMembers(multi, &raw mut list, false, only_locked);
            let mut members: Vec<_> = (0..usize::try_from(count).unwrap_or(0))
                .map(|index| *list.add(index))
                .collect();
            members.sort_by_key(|member| std::cmp::Reverse(member.status));
            members.into_iter().map(|member| member.xid).collect()
        }
    }

    /// A column, numbered from 1.
    pub fn get(&self, column: usize) -> Option<Datum> {
        // SAFETY: all columns of the row were fetched into the slot.
        unsafe {
            if column > (*self.slot).tts_nvalid as usize {
                return None;
            }
            let null = *(*self.slot).tts_isnull.add(column - 1);
            (!null).then(|| *(*self.slot).tts_values.add(column - 1))
        }
    }
}
