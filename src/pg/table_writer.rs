//! Writing rows of a table and its indexes without a statement.

use crate::error::{Fault, Result};
use crate::pg::datum;
use crate::pg::relation;
use crate::pg::relcache::{self, Known};
use crate::pg::table::{self, NewRow, Table};
use crate::pg::tuple_desc;
use pgrx::pg_sys;
use std::ffi::CStr;
use std::marker::PhantomData;
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

/// What has a say when rows of a table are written in one way, as sql/20_ledger/table.sql declares it.
pub struct Shipped {
    /// That of its triggers.
    pub event: u32,
    /// Name of its one constraint.
    pub check: &'static CStr,
    pub foreign_keys: usize,
    /// Whether it is so, when that was last looked up.
    pub known: Known,
}

/// What became of an update.
#[derive(PartialEq, Eq)]
pub enum Update {
    Done,
    /// The row is no longer the newest, or somebody is at it and we were not to wait.
    NotNewest,
    /// Neither of that: it cannot be.
    Impossible,
}

/// A table open for writing.
pub struct TableWriter<T> {
    relation: pg_sys::Relation,
    /// For its indexes, once a row needs them.
    target: *mut pg_sys::ResultRelInfo,
    of: PhantomData<fn() -> T>,
}

impl<T: Table> TableWriter<T> {
    pub fn open() -> Result<Self> {
        let oid = relation::oid_of(T::SCHEMA, T::NAME)?;
        // SAFETY: opened under the lock that an INSERT or UPDATE takes.
        unsafe {
            let relation = pg_sys::table_open(oid, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE);
            if let Err(fault) = table::check::<T>(relation) {
                pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
                return Err(fault);
            }
            Ok(TableWriter {
                relation,
                target: ptr::null_mut(),
                of: PhantomData,
            })
        }
    }

    pub fn desc(&self) -> pg_sys::TupleDesc {
        // SAFETY: the relation is open.
        unsafe { (*self.relation).rd_att }
    }

    /// Whether nothing but our own constraint and triggers has a say when rows are written. What
    /// those check (the guard, and that account and first entry exist) is so by the way that rows
    /// are written here.
    pub fn is_as(&self, shipped: &Shipped) -> bool {
        // SAFETY: the relation is open.
        let oid = unsafe { (*self.relation).rd_id };
        shipped.known.get(oid).unwrap_or_else(|| {
            let as_of = relcache::changes();
            let answer = self.find_out(shipped);
            shipped.known.set(oid, as_of, answer);
            answer
        })
    }

    fn find_out(&self, shipped: &Shipped) -> bool {
        // SAFETY: the relation is open; its cache entry lives as long.
        unsafe {
            let relation = &*self.relation;
            let desc = &*relation.rd_att;
            let plain = relation.rd_rules.is_null()
                && tuple_desc::length(relation.rd_att) == T::COLUMNS.len()
                && !desc.constr.is_null()
                && (*desc.constr).num_check == 1
                && CStr::from_ptr((*(*desc.constr).check).ccname) == shipped.check
                && T::COLUMNS.iter().enumerate().all(|(index, declared)| {
                    tuple_desc::attribute(relation.rd_att, index + 1).is_some_and(|attribute| {
                        attribute.attnotnull == declared.not_null && attribute.attidentity == 0
                    })
                });
            if !plain || relation.trigdesc.is_null() {
                return plain;
            }
            let triggers = &*relation.trigdesc;
            let mut checked_keys = 0;
            let all_ours = (0..usize::try_from(triggers.numtriggers).unwrap_or(0))
                .map(|index| &*triggers.triggers.add(index))
                .filter(|trigger| u32::from(trigger.tgtype.cast_unsigned()) & shipped.event != 0)
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

    /// Puts a row into a slot.
    ///
    /// # Safety
    /// The slot is of this table.
    pub unsafe fn fill(&self, slot: *mut pg_sys::TupleTableSlot, row: &NewRow<T>) {
        // SAFETY: by the caller's word; that there are as many columns as values is checked, and
        // their types were when the table was opened.
        unsafe {
            let columns = tuple_desc::length((*slot).tts_tupleDescriptor);
            if columns != row.values().len() {
                pgrx::error!("pg_loyalty: a table has {columns} columns");
            }
            clear(slot);
            for (index, value) in row.values().iter().enumerate() {
                *(*slot).tts_values.add(index) = value.unwrap_or(pg_sys::Datum::from(0));
                *(*slot).tts_isnull.add(index) = value.is_none();
            }
            pg_sys::ExecStoreVirtualTuple(slot);
        }
    }

    pub fn slot(&self) -> *mut pg_sys::TupleTableSlot {
        // SAFETY: a slot for values, by the table's descriptor.
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

    /// Puts a row in the place of another.
    ///
    /// # Safety
    /// A row of the table is in the slot.
    pub unsafe fn update(
        &mut self,
        mut tid: pg_sys::ItemPointerData,
        slot: *mut pg_sys::TupleTableSlot,
        state: *mut pg_sys::EState,
        wait: bool,
    ) -> Result<Update> {
        let relation = self.relation;
        let mut failure = pg_sys::TM_FailureData::default();
        let mut lock = 0;
        let mut indexes = Default::default();
        // SAFETY: the access method's own entry; what it raises is carried over by the guard.
        let result = unsafe {
            pg_sys::CheckCmdReplicaIdentity(relation, pg_sys::CmdType::CMD_UPDATE);
            let update = (*(*relation).rd_tableam)
                .tuple_update
                .ok_or_else(|| Fault::damaged("the table cannot be updated"))?;
            let command = pg_sys::GetCurrentCommandId(true);
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                update(
                    relation,
                    &raw mut tid,
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
                    // SAFETY: the row is in the table, and its tid in the slot.
                    unsafe { self.index(slot, state, true, summarizing) };
                }
                Ok(Update::Done)
            }
            pg_sys::TM_Result::TM_Updated
            | pg_sys::TM_Result::TM_Deleted
            | pg_sys::TM_Result::TM_BeingModified => Ok(Update::NotNewest),
            _ => Ok(Update::Impossible),
        }
    }

    /// Adds rows.
    ///
    /// # Safety
    /// Rows of the table are in the slots.
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
            let count = datum::length(slots.len());
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
