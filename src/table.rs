//! Writing rows of a table and its indexes without a statement.

use crate::error::{Fault, Result};
use crate::ledger::changed_under_lock;
use crate::scan;
use pgrx::pg_sys::{self, Datum};
use std::ffi::CStr;
use std::ptr;

/// What referenced tables do when a key changes; ours never do.
const KEY_UPDATES: [u32; 5] = [
    pg_sys::F_RI_FKEY_NOACTION_UPD,
    pg_sys::F_RI_FKEY_RESTRICT_UPD,
    pg_sys::F_RI_FKEY_CASCADE_UPD,
    pg_sys::F_RI_FKEY_SETNULL_UPD,
    pg_sys::F_RI_FKEY_SETDEFAULT_UPD,
];

/// Empties a slot.
///
/// # Safety
/// It is one.
pub unsafe fn clear(slot: *mut pg_sys::TupleTableSlot) {
    // SAFETY: by the caller's word; every kind of slot knows how.
    unsafe {
        if let Some(clear) = (*(*slot).tts_ops).clear {
            clear(slot);
        }
    }
}

/// Sets the columns of a slot.
///
/// # Safety
/// The values are of the types of the slot's columns, as many as there are.
pub unsafe fn fill(slot: *mut pg_sys::TupleTableSlot, values: &[Option<Datum>]) {
    // SAFETY: by the caller's word.
    unsafe {
        clear(slot);
        for (index, value) in values.iter().enumerate() {
            *(*slot).tts_values.add(index) = value.unwrap_or(Datum::from(0));
            *(*slot).tts_isnull.add(index) = value.is_none();
        }
        pg_sys::ExecStoreVirtualTuple(slot);
    }
}

/// What has a say when rows of a table are written in one way, as sql/20_ledger/table.sql declares it.
pub struct Shipped {
    /// That of its triggers.
    pub event: u32,
    /// Name of its one constraint.
    pub check: &'static CStr,
    pub foreign_keys: usize,
    /// Columns that may not be null.
    pub not_null: &'static [usize],
}

/// A table open for writing.
pub struct Table {
    pub relation: pg_sys::Relation,
    columns: usize,
    /// For its indexes, once a row needs them.
    target: *mut pg_sys::ResultRelInfo,
}

impl Table {
    pub fn open(name: &CStr, columns: usize) -> Result<Self> {
        let oid = scan::relation(name)?;
        // SAFETY: opened under the lock that an INSERT or UPDATE takes.
        let relation =
            unsafe { pg_sys::table_open(oid, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE) };
        Ok(Table {
            relation,
            columns,
            target: ptr::null_mut(),
        })
    }

    /// Whether nothing but our own constraint and triggers has a say when rows are written. What
    /// those check (the guard, and that account and first entry exist) holds by the way that rows
    /// are written here.
    pub fn is_as(&self, shipped: &Shipped) -> bool {
        // SAFETY: the relation is open; its cache entry lives as long.
        unsafe {
            let relation = &*self.relation;
            let shape = &*relation.rd_att;
            let plain = relation.rd_rules.is_null()
                && (*relation.rd_rel).relkind == pg_sys::RELKIND_RELATION as std::ffi::c_char
                && shape.natts as usize == self.columns
                && !shape.constr.is_null()
                && (*shape.constr).num_check == 1
                && CStr::from_ptr((*(*shape.constr).check).ccname) == shipped.check
                && !(*shape.constr).has_generated_stored
                && (1..=self.columns).all(|number| {
                    let column = &*column(relation.rd_att, number);
                    !column.attisdropped && column.attnotnull == shipped.not_null.contains(&number)
                });
            if !plain || relation.trigdesc.is_null() {
                return plain;
            }
            let triggers = &*relation.trigdesc;
            let mut checked_keys = 0;
            let all_ours = (0..triggers.numtriggers as usize)
                .map(|index| &*triggers.triggers.add(index))
                .filter(|trigger| trigger.tgtype as u32 & shipped.event != 0)
                .all(|trigger| match trigger.tgisinternal {
                    false => CStr::from_ptr(trigger.tgname) == c"guard",
                    true if KEY_UPDATES.contains(&trigger.tgfoid.to_u32()) => true,
                    true => {
                        checked_keys += 1;
                        trigger.tgfoid.to_u32() == pg_sys::F_RI_FKEY_CHECK_UPD
                    }
                });
            all_ours && checked_keys <= shipped.foreign_keys
        }
    }

    pub fn slot(&self) -> *mut pg_sys::TupleTableSlot {
        // SAFETY: a slot that holds values, of the table's shape.
        unsafe {
            pg_sys::MakeSingleTupleTableSlot(
                (*self.relation).rd_att,
                &raw const pg_sys::TTSOpsVirtual,
            )
        }
    }

    /// A slot that outlives the batch.
    pub fn slot_in(&self, context: pg_sys::MemoryContext) -> *mut pg_sys::TupleTableSlot {
        // SAFETY: the context outlives the writer.
        unsafe {
            let batch = pg_sys::MemoryContextSwitchTo(context);
            let slot = self.slot();
            pg_sys::MemoryContextSwitchTo(batch);
            slot
        }
    }

    /// Puts a row in the place of another. False: that one is no longer the newest, or somebody
    /// is at it and `wait` is not.
    ///
    /// # Safety
    /// The slot holds a row of the table.
    pub unsafe fn update(
        &mut self,
        mut place: pg_sys::ItemPointerData,
        slot: *mut pg_sys::TupleTableSlot,
        state: *mut pg_sys::EState,
        wait: bool,
    ) -> Result<bool> {
        let relation = self.relation;
        let mut failure = pg_sys::TM_FailureData::default();
        let mut lock = 0;
        let mut indexes = Default::default();
        // SAFETY: the access method's own entry; what it raises is carried over by the guard.
        let result = unsafe {
            pg_sys::CheckCmdReplicaIdentity(relation, pg_sys::CmdType::CMD_UPDATE);
            let update = (*(*relation).rd_tableam)
                .tuple_update
                .ok_or_else(|| Fault::invalid("the table cannot be updated"))?;
            let command = pg_sys::GetCurrentCommandId(true);
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                update(
                    relation,
                    &raw mut place,
                    slot,
                    command,
                    pg_sys::GetActiveSnapshot(),
                    ptr::null_mut(),
                    wait,
                    &raw mut failure,
                    &raw mut lock,
                    &raw mut indexes,
                )
            })
        };
        match result {
            pg_sys::TM_Result::TM_Ok => {
                if let Some(summarizing) = index_work(indexes) {
                    // SAFETY: the row is in the table, and its place in the slot.
                    unsafe { self.index(slot, state, true, summarizing) };
                }
                Ok(true)
            }
            pg_sys::TM_Result::TM_Updated
            | pg_sys::TM_Result::TM_Deleted
            | pg_sys::TM_Result::TM_BeingModified => Ok(false),
            _ => Err(changed_under_lock()),
        }
    }

    /// Adds rows.
    ///
    /// # Safety
    /// The slots hold rows of the table.
    pub unsafe fn append(
        &mut self,
        slots: &mut [*mut pg_sys::TupleTableSlot],
        state: *mut pg_sys::EState,
    ) {
        if slots.is_empty() {
            return;
        }
        let relation = self.relation;
        // SAFETY: as in update.
        unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            let methods = &*(*relation).rd_tableam;
            let count = slots.len() as std::ffi::c_int;
            match (&mut *slots, methods.tuple_insert, methods.multi_insert) {
                ([slot], Some(insert), _) => pg_sys::ffi::pg_guard_ffi_boundary(|| {
                    insert(relation, *slot, command, 0, ptr::null_mut());
                }),
                (slots, _, Some(insert)) => pg_sys::ffi::pg_guard_ffi_boundary(|| {
                    insert(
                        relation,
                        slots.as_mut_ptr(),
                        count,
                        command,
                        0,
                        ptr::null_mut(),
                    );
                }),
                _ => pgrx::error!("pg_loyalty: the table takes no rows"),
            }
            for slot in slots.iter() {
                self.index(*slot, state, false, false);
            }
        }
    }

    unsafe fn index(
        &mut self,
        slot: *mut pg_sys::TupleTableSlot,
        state: *mut pg_sys::EState,
        update: bool,
        only_summarizing: bool,
    ) {
        // SAFETY: the target lives in the executor's state, and is closed with the table.
        unsafe {
            if self.target.is_null() {
                let context = pg_sys::MemoryContextSwitchTo((*state).es_query_cxt);
                let size = size_of::<pg_sys::ResultRelInfo>();
                self.target = pg_sys::palloc0(size).cast();
                pg_sys::InitResultRelInfo(self.target, self.relation, 0, ptr::null_mut(), 0);
                pg_sys::ExecOpenIndices(self.target, false);
                pg_sys::MemoryContextSwitchTo(context);
            }
            #[cfg(feature = "pg15")]
            {
                let _ = only_summarizing;
                pg_sys::ExecInsertIndexTuples(
                    self.target,
                    slot,
                    state,
                    update,
                    false,
                    ptr::null_mut(),
                    ptr::null_mut(),
                );
            }
            #[cfg(not(feature = "pg15"))]
            pg_sys::ExecInsertIndexTuples(
                self.target,
                slot,
                state,
                update,
                false,
                ptr::null_mut(),
                ptr::null_mut(),
                only_summarizing,
            );
        }
    }

    /// # Safety
    /// Once, while the executor's state still is.
    pub unsafe fn close(&mut self) {
        // SAFETY: by the caller's word; the lock stays to the end of the transaction.
        unsafe {
            if !self.target.is_null() {
                pg_sys::ExecCloseIndices(self.target);
            }
            pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
    }
}

/// A column of a shape, numbered from 1.
///
/// # Safety
/// The shape has so many.
unsafe fn column(shape: pg_sys::TupleDesc, number: usize) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: by the caller's word.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return (*shape).attrs.as_ptr().add(number - 1);
        // behind the short form of all of them
        #[cfg(feature = "pg18")]
        return (*shape)
            .compact_attrs
            .as_ptr()
            .add((*shape).natts as usize)
            .cast::<pg_sys::FormData_pg_attribute>()
            .add(number - 1);
    }
}

/// Whether an update needs entries in indexes, and then only in summarizing ones (BRIN).
#[cfg(feature = "pg15")]
fn index_work(indexes: bool) -> Option<bool> {
    indexes.then_some(false)
}
#[cfg(not(feature = "pg15"))]
fn index_work(indexes: pg_sys::TU_UpdateIndexes::Type) -> Option<bool> {
    match indexes {
        pg_sys::TU_UpdateIndexes::TU_None => None,
        work => Some(work == pg_sys::TU_UpdateIndexes::TU_Summarizing),
    }
}
