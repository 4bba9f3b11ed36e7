//! Finding one row by its key without the executor, and the table and index that this goes to.

use crate::error::{Code, Fault, Result};
use crate::pg::datum;
use crate::pg::relation;
use crate::pg::relcache::{self, Known};
use crate::pg::snapshot::RegisteredSnapshot;
use crate::pg::sql_type::{Indexed, SqlType, TypeName};
use crate::pg::table::{self, Column, Table};
use crate::pg::tuple_desc;
use pgrx::pg_sys::{self, Datum};
use std::ffi::{CStr, c_int};
use std::marker::PhantomData;

/// A B-tree index of a table, with the `N` first of its columns.
pub struct Index<T, const N: usize> {
    name: &'static CStr,
    keys: [Key; N],
    /// Whether the catalog has it so, when that was last looked up.
    known: Known,
    of: PhantomData<fn() -> T>,
}

/// A column of an index.
pub struct Key {
    /// Number of the table's column, from 1; 0 of an expression.
    column: usize,
    type_name: TypeName,
    /// The function that compares two values.
    equals: u32,
}

impl Key {
    pub const fn column<T: Table, S: Indexed>(column: Column<T, S>) -> Self {
        Key {
            column: column.index + 1,
            ..Key::expression::<S>()
        }
    }

    pub const fn expression<S: Indexed>() -> Self {
        Key {
            column: 0,
            type_name: S::NAME,
            equals: S::EQUALS,
        }
    }
}

impl<T: Table, const N: usize> Index<T, N> {
    pub const fn new(name: &'static CStr, keys: [Key; N]) -> Self {
        Index {
            name,
            keys,
            known: Known::nothing(),
            of: PhantomData,
        }
    }

    /// Refuses an index under our name that is another.
    ///
    /// # Safety
    /// The relation is open, and locked.
    unsafe fn check(&self, index: pg_sys::Relation) -> Result<()> {
        // SAFETY: by the caller's word; of indexes, rd_index is set.
        unsafe {
            let oid = (*index).rd_id;
            if self.known.get(oid) == Some(true) {
                return Ok(());
            }
            let as_of = relcache::changes();
            let form = &*(*index).rd_index;
            let numbers = form.indkey.values.as_ptr();
            let columns = usize::try_from(form.indnkeyatts).unwrap_or(0);
            let is_ours = (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
                && form.indisvalid
                && form.indisunique
                && columns >= N
                && self.keys.iter().enumerate().all(|(place, key)| {
                    usize::try_from(*numbers.add(place)) == Ok(key.column)
                        && tuple_desc::type_of((*index).rd_att, place + 1) == key.type_name.oid()
                });
            if is_ours {
                self.known.set(oid, as_of, true);
                return Ok(());
            }
        }
        let index = format!("loyalty.{}", self.name.to_string_lossy());
        Err(Fault::new(
            Code::NotReady,
            "index_altered",
            "an index of pg_loyalty was altered",
        )
        .detail(format!(
            "{index} is not the valid unique B-tree index that the extension created."
        ))
        .hint("REINDEX it, or create it again as the extension's script does."))
    }
}

/// Look-ups by an index, open for several; it closes what it opened. Locks stay to the end of
/// the transaction, as after a statement.
pub struct IndexScan<T: Table, const N: usize> {
    pub heap: pg_sys::Relation,
    keys: &'static [Key; N],
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    of: PhantomData<T>,
}

/// The row that a scan found last.
pub struct ScannedRow<'a, T> {
    slot: *mut pg_sys::TupleTableSlot,
    of: PhantomData<&'a T>,
}

/// A constant of PostgreSQL's, which bindgen has as a wider type.
#[allow(clippy::cast_possible_truncation)]
const EQUAL: pg_sys::StrategyNumber = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;

impl<T: Table, const N: usize> IndexScan<T, N> {
    /// The snapshot outlives the scan.
    pub fn open(index: &'static Index<T, N>, snapshot: &RegisteredSnapshot) -> Result<Self> {
        let heap_oid = relation::oid_of(T::SCHEMA, T::NAME)?;
        // SAFETY: relations are opened under lock, and live as long as the scan; so does the
        // snapshot.
        unsafe {
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let heap = pg_sys::table_open(heap_oid, lock);
            if let Err(fault) = table::check::<T>(heap) {
                pg_sys::table_close(heap, pg_sys::NoLock as pg_sys::LOCKMODE);
                return Err(fault);
            }
            // Under the table's lock only: REINDEX CONCURRENTLY puts another index under the
            // name, and the old one is gone as soon as nobody locks the table.
            let opened = relation::oid_of(T::SCHEMA, index.name)
                .map(|oid| pg_sys::index_open(oid, lock))
                .and_then(|opened| {
                    let checked = index.check(opened);
                    if checked.is_err() {
                        pg_sys::index_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
                    }
                    checked.map(|()| opened)
                });
            let opened = match opened {
                Ok(opened) => opened,
                Err(fault) => {
                    pg_sys::table_close(heap, pg_sys::NoLock as pg_sys::LOCKMODE);
                    return Err(fault);
                }
            };
            #[cfg(not(feature = "pg18"))]
            let scan =
                pg_sys::index_beginscan(heap, opened, snapshot.as_ptr(), datum::length(N), 0);
            #[cfg(feature = "pg18")]
            let scan = pg_sys::index_beginscan(
                heap,
                opened,
                snapshot.as_ptr(),
                std::ptr::null_mut(),
                datum::length(N),
                0,
            );
            let slot = pg_sys::table_slot_create(heap, std::ptr::null_mut());
            Ok(IndexScan {
                heap,
                keys: &index.keys,
                index: opened,
                scan,
                slot,
                of: PhantomData,
            })
        }
    }

    /// The row whose keys have these values.
    pub fn find(&mut self, values: [Datum; N]) -> Option<ScannedRow<'_, T>> {
        // SAFETY: the scan is open; the values are of the types of the index's columns, the slot
        // is the table's.
        unsafe {
            let mut scan_keys: [pg_sys::ScanKeyData; N] =
                std::array::from_fn(|_| pg_sys::ScanKeyData::default());
            let columns = scan_keys.iter_mut().zip(self.keys.iter().zip(values));
            for (number, (scan_key, (key, value))) in (1..).zip(columns) {
                pg_sys::ScanKeyInit(
                    scan_key,
                    number,
                    EQUAL,
                    pg_sys::Oid::from(key.equals),
                    value,
                );
            }
            pg_sys::index_rescan(
                self.scan,
                scan_keys.as_mut_ptr(),
                datum::length(N),
                std::ptr::null_mut(),
                0,
            );
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            if !pg_sys::index_getnext_slot(self.scan, forward, self.slot) {
                return None;
            }
            // Its own columns are there: the table was checked.
            pg_sys::slot_getsomeattrs_int(self.slot, datum::length(T::COLUMNS.len()));
            Some(ScannedRow {
                slot: self.slot,
                of: PhantomData,
            })
        }
    }
}

impl<T: Table, const N: usize> Drop for IndexScan<T, N> {
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

impl<T: Table> ScannedRow<'_, T> {
    /// The tid of this version of the row.
    pub fn tid(&self) -> pg_sys::ItemPointerData {
        // SAFETY: the row is in the slot.
        unsafe { (*self.slot).tts_tid }
    }

    /// Transactions that lock or change this version of the row, or did; the strongest lock first.
    pub fn lockers(&self) -> Vec<pg_sys::TransactionId> {
        // SAFETY: a heap table's rows are in a buffer, whose pin the slot has; other access methods
        // have slots of another kind. Under the buffer's lock the number and what it means belong
        // together.
        unsafe {
            if !std::ptr::eq(
                (*self.slot).tts_ops,
                &raw const pg_sys::TTSOpsBufferHeapTuple,
            ) {
                return Vec::new();
            }
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

    pub fn get<S: SqlType>(&self, column: Column<T, S>) -> Option<S::Read> {
        // SAFETY: the declared columns were fetched into the slot, and the table has them of the
        // declared types.
        unsafe {
            let null = *(*self.slot).tts_isnull.add(column.index);
            (!null).then(|| S::read(*(*self.slot).tts_values.add(column.index)))
        }
    }
}
