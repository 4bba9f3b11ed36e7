//! Writing wallets and the entries that changed them (laws 1, 2 and 3).
//!
//! Where the two tables are as shipped, rows go straight to them and their indexes, each past
//! the very function that its constraint calls. That takes a fraction of a statement's time,
//! and many rows share a batch. A table that was given triggers, constraints or rules besides
//! is written by a statement, which minds them all.

use crate::call::{element_type, form_row, row_array};
use crate::error::{Fault, Result};
use crate::fetch;
use crate::guard::{self, Operating};
use crate::ledger::{Account, Posted, changed_under_lock};
use crate::receipt;
use crate::row::{ENTRY_COLUMNS, State, WALLET_COLUMNS, entry_row, wallet_row};
use crate::spi::{Param, Plan, Spi};
use crate::waiting;
use loyalty_core::wallet::EntryNo;
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::CStr;
use std::ptr;

/// Entries that wait to be added together: some pages' worth. Each has a slot of its own, and more
/// of them cost more to make and to go through than they save.
const BATCH: usize = 100;

/// Takes changed wallets with their new entries. Nothing is there for others, nor for
/// statements of the same transaction, before `finish`.
pub struct Writer<'a> {
    spi: &'a Spi,
    actor: String,
    path: Path,
}

enum Path {
    Direct(Box<Direct>),
    Statement(Waiting),
}

impl<'a> Writer<'a> {
    pub fn open(spi: &'a Spi) -> Result<Self> {
        // SAFETY: both look at the transaction's state only; a statement would do the same.
        unsafe {
            pg_sys::PreventCommandIfReadOnly(c"a points operation".as_ptr());
            pg_sys::PreventCommandIfParallelMode(c"a points operation".as_ptr());
        }
        let direct = Direct::open()?;
        let as_shipped = direct
            .wallet
            .is_as_shipped(pg_sys::TRIGGER_TYPE_UPDATE, WALLET_KEYS)
            && direct.entry.is_as_shipped(pg_sys::TRIGGER_TYPE_INSERT, 0);
        let path = if as_shipped {
            Path::Direct(Box::new(direct))
        } else {
            Path::Statement(Waiting::new(direct.kind_type))
        };
        Ok(Writer {
            spi,
            actor: receipt::actor(),
            path,
        })
    }

    /// Whether each account must be locked before it is read, since `put` cannot tell yet
    /// that another operation was quicker.
    pub fn wants_locks(&self) -> bool {
        matches!(self.path, Path::Statement(_))
    }

    /// Writes a wallet and its entries. False: another operation was quicker, and nothing
    /// was written. Accounts come in id order, or locked, which keeps callers from deadlock.
    pub fn put(&mut self, account: &Account, posted: &[Posted]) -> Result<bool> {
        self.put_or_wait(account, posted, true)
    }

    /// The same; also false when another operation is at it, and waiting for that is limited.
    pub fn put_if_free(&mut self, account: &Account, posted: &[Posted]) -> Result<bool> {
        self.put_or_wait(account, posted, !waiting::is_limited())
    }

    fn put_or_wait(&mut self, account: &Account, posted: &[Posted], wait: bool) -> Result<bool> {
        if posted.is_empty() {
            return Ok(true);
        }
        let state = State::of(account);
        check(account, &state, posted)?;
        match &mut self.path {
            Path::Direct(direct) => direct.put(account, &state, posted, &self.actor, wait),
            Path::Statement(waiting) => {
                waiting.put(account, &state, posted, &self.actor);
                Ok(true)
            }
        }
    }

    pub fn finish(self) -> Result<()> {
        match self.path {
            Path::Direct(mut direct) => {
                direct.finish();
                Ok(())
            }
            Path::Statement(waiting) => waiting.finish(self.spi),
        }
    }
}

/// What the constraints of both tables check, by the functions that they call.
fn check(account: &Account, state: &State, posted: &[Posted]) -> Result<()> {
    let wallet_is_sound = guard::is_sound_wallet(
        account.wallet.balance(),
        state.debt,
        &state.days,
        &state.granted,
        &state.remaining,
        state.classes.as_deref(),
        state.due,
    );
    let entries_are_sound = posted.iter().all(|one| {
        guard::is_sound_entry(one.number, one.entry.kind, one.entry.points, one.balance)
    });
    if wallet_is_sound && entries_are_sound {
        return Ok(());
    }
    Err(Fault::new(
        crate::error::Code::CheckViolated,
        "an operation would have broken a law of the ledger",
    )
    .detail(format!(
        "Account {}; nothing was written.",
        account.account_id
    ))
    .hint("This is a fault of pg_loyalty: please report it with the call that made it."))
}

/// Foreign keys of the wallet.
const WALLET_KEYS: usize = 2;

/// What referenced tables do when a key changes; ours never do.
const KEY_UPDATES: [u32; 5] = [
    pg_sys::F_RI_FKEY_NOACTION_UPD,
    pg_sys::F_RI_FKEY_RESTRICT_UPD,
    pg_sys::F_RI_FKEY_CASCADE_UPD,
    pg_sys::F_RI_FKEY_SETNULL_UPD,
    pg_sys::F_RI_FKEY_SETDEFAULT_UPD,
];

/// Both tables, opened for writing rows without a statement.
struct Direct {
    wallet: Table,
    entry: Table,
    state: *mut pg_sys::EState,
    /// Memory of the rows that wait; emptied with each batch.
    batch: pg_sys::MemoryContext,
    changed: *mut pg_sys::TupleTableSlot,
    /// Rows of the journal, of which the first `waiting` wait.
    lines: Vec<*mut pg_sys::TupleTableSlot>,
    waiting: usize,
    kind_type: Oid,
}

impl Direct {
    fn open() -> Result<Self> {
        let wallet = Table::open(c"wallet", WALLET_COLUMNS)?;
        let entry = Table::open(c"entry", ENTRY_COLUMNS)?;
        // SAFETY: all of it is freed by close, or with the transaction that an error ends.
        unsafe {
            let state = pg_sys::CreateExecutorState();
            let batch = (*pg_sys::MakePerTupleExprContext(state)).ecxt_per_tuple_memory;
            let kind_type = pg_sys::SPI_gettypeid((*entry.relation).rd_att, 6);
            Ok(Direct {
                changed: wallet.slot(),
                wallet,
                entry,
                state,
                batch,
                lines: Vec::new(),
                waiting: 0,
                kind_type,
            })
        }
    }

    fn put(
        &mut self,
        account: &Account,
        state: &State,
        posted: &[Posted],
        actor: &str,
        wait: bool,
    ) -> Result<bool> {
        // SAFETY: the table is open.
        if !wait && !unsafe { waiting::lock_if_free(self.wallet.relation, account.place) }? {
            return Ok(false);
        }
        // SAFETY: what rows point to lives in the batch's memory until the batch is written.
        let context = unsafe { pg_sys::MemoryContextSwitchTo(self.batch) };
        let values = wallet_row(
            account,
            state,
            Some(Datum::from(account.program_id)),
            Some(account.status),
            1,
            account.last_entry + posted.len() as EntryNo,
        );
        // SAFETY: the slot is of the wallet's shape, and filled as it declares its columns.
        let changed = unsafe {
            fill(self.changed, &values);
            self.wallet
                .update(account.place, self.changed, self.state)?
        };
        if changed {
            for one in posted {
                if self.lines.len() == self.waiting {
                    self.lines.push(self.entry.slot_in(context));
                }
                let row = entry_row(account, one, self.kind_type, actor);
                // SAFETY: as above, of the journal's shape.
                unsafe { fill(self.lines[self.waiting], &row) };
                self.waiting += 1;
            }
        }
        // SAFETY: back to where we came from.
        unsafe { pg_sys::MemoryContextSwitchTo(context) };
        if self.waiting >= BATCH {
            self.flush();
        }
        Ok(changed)
    }

    fn flush(&mut self) {
        // SAFETY: the first `waiting` slots hold rows whose memory is the batch's.
        unsafe {
            let context = pg_sys::MemoryContextSwitchTo(self.batch);
            self.entry
                .append(&mut self.lines[..self.waiting], self.state);
            for slot in &self.lines[..self.waiting] {
                clear(*slot);
            }
            clear(self.changed);
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::MemoryContextReset(self.batch);
        }
        self.waiting = 0;
    }

    fn finish(&mut self) {
        self.flush();
        // SAFETY: what was written becomes visible to what follows, as after a statement.
        unsafe { pg_sys::CommandCounterIncrement() };
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        // While an error unwinds, PostgreSQL's abort closes everything.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: opened in open, closed once.
        unsafe {
            for slot in self.lines.drain(..) {
                pg_sys::ExecDropSingleTupleTableSlot(slot);
            }
            pg_sys::ExecDropSingleTupleTableSlot(self.changed);
            self.wallet.close();
            self.entry.close();
            pg_sys::FreeExecutorState(self.state);
        }
    }
}

/// Empties a slot.
///
/// # Safety
/// It is one.
unsafe fn clear(slot: *mut pg_sys::TupleTableSlot) {
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
unsafe fn fill(slot: *mut pg_sys::TupleTableSlot, values: &[Option<Datum>]) {
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

/// A table open for writing.
struct Table {
    relation: pg_sys::Relation,
    columns: usize,
    /// For its indexes, once a row needs them.
    target: *mut pg_sys::ResultRelInfo,
}

impl Table {
    fn open(name: &CStr, columns: usize) -> Result<Self> {
        let oid = fetch::relation(name)?;
        // SAFETY: opened under the lock that an INSERT or UPDATE takes.
        let relation =
            unsafe { pg_sys::table_open(oid, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE) };
        Ok(Table {
            relation,
            columns,
            target: ptr::null_mut(),
        })
    }

    /// Whether nothing but our own constraint and triggers has a say when rows are written by
    /// this event. What those check (the guard, and that account and first entry exist) holds
    /// by the way that rows are written here.
    fn is_as_shipped(&self, event: u32, foreign_keys: usize) -> bool {
        // SAFETY: the relation is open; its cache entry lives as long.
        unsafe {
            let relation = &*self.relation;
            let shape = &*relation.rd_att;
            let plain = relation.rd_rules.is_null()
                && (*relation.rd_rel).relkind == pg_sys::RELKIND_RELATION as std::ffi::c_char
                && shape.natts as usize == self.columns
                && !shape.constr.is_null()
                && (*shape.constr).num_check == 1
                && !(*shape.constr).has_generated_stored;
            if !plain || relation.trigdesc.is_null() {
                return plain;
            }
            let triggers = &*relation.trigdesc;
            let mut checked_keys = 0;
            let all_ours = (0..triggers.numtriggers as usize)
                .map(|index| &*triggers.triggers.add(index))
                .filter(|trigger| trigger.tgtype as u32 & event != 0)
                .all(|trigger| match trigger.tgisinternal {
                    false => CStr::from_ptr(trigger.tgname) == c"guard",
                    true if KEY_UPDATES.contains(&trigger.tgfoid.to_u32()) => true,
                    true => {
                        checked_keys += 1;
                        trigger.tgfoid.to_u32() == pg_sys::F_RI_FKEY_CHECK_UPD
                    }
                });
            all_ours && checked_keys <= foreign_keys
        }
    }

    fn slot(&self) -> *mut pg_sys::TupleTableSlot {
        // SAFETY: a slot that holds values, of the table's shape.
        unsafe {
            pg_sys::MakeSingleTupleTableSlot(
                (*self.relation).rd_att,
                &raw const pg_sys::TTSOpsVirtual,
            )
        }
    }

    /// A slot that outlives the batch.
    fn slot_in(&self, context: pg_sys::MemoryContext) -> *mut pg_sys::TupleTableSlot {
        // SAFETY: the context outlives the writer.
        unsafe {
            let batch = pg_sys::MemoryContextSwitchTo(context);
            let slot = self.slot();
            pg_sys::MemoryContextSwitchTo(batch);
            slot
        }
    }

    /// Puts a row in the place of another. False: that one is no longer the newest.
    ///
    /// # Safety
    /// The slot holds a row of the table.
    unsafe fn update(
        &mut self,
        mut place: pg_sys::ItemPointerData,
        slot: *mut pg_sys::TupleTableSlot,
        state: *mut pg_sys::EState,
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
                    true,
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
            pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted => Ok(false),
            _ => Err(changed_under_lock()),
        }
    }

    /// Adds rows.
    ///
    /// # Safety
    /// The slots hold rows of the table.
    unsafe fn append(
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
    unsafe fn close(&mut self) {
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

static ARRAY_TYPES: Plan = Plan::new(
    c"select pg_catalog.to_regtype('loyalty.wallet[]')::pg_catalog.oid,
             pg_catalog.to_regtype('loyalty.entry[]')::pg_catalog.oid",
);
/// Adds the entries only if each wallet was still as it was read.
static SAVE: Plan = Plan::new(
    c"with w as (
          update loyalty.wallet w
             set balance = c.balance, debt = c.debt, first_entry = 1, last_entry = c.last_entry,
                 next_expiry_on = c.next_expiry_on, lot_expires_on = c.lot_expires_on,
                 lot_granted = c.lot_granted, lot_remaining = c.lot_remaining,
                 lot_class = c.lot_class, hold_entry = c.hold_entry, hold_until = c.hold_until
            from unnest($1) c
           where w.account_id = c.account_id and w.last_entry = c.first_entry
       returning 1)
      insert into loyalty.entry
      select e.* from unnest($2) e where (select count(*) from w) = $3",
);

/// Rows for one statement that writes them all.
struct Waiting {
    kind_type: Oid,
    wallets: Vec<Vec<Option<Datum>>>,
    entries: Vec<Vec<Option<Datum>>>,
}

impl Waiting {
    fn new(kind_type: Oid) -> Self {
        Waiting {
            kind_type,
            wallets: Vec::new(),
            entries: Vec::new(),
        }
    }

    fn put(&mut self, account: &Account, state: &State, posted: &[Posted], actor: &str) {
        let last_entry = account.last_entry + posted.len() as EntryNo;
        // first_entry carries the version that the statement checks
        self.wallets.push(wallet_row(
            account,
            state,
            None,
            None,
            account.last_entry,
            last_entry,
        ));
        let rows = posted
            .iter()
            .map(|one| entry_row(account, one, self.kind_type, actor));
        self.entries.extend(rows);
    }

    fn finish(self, spi: &Spi) -> Result<()> {
        if self.wallets.is_empty() {
            return Ok(());
        }
        let types = ARRAY_TYPES.run(spi, &[]).first();
        let oid = |column| types.and_then(|row| row.i32(column)).unwrap_or(0) as u32;
        let (wallet_type, entry_type) = (Oid::from(oid(1)), Oid::from(oid(2)));
        let count = self.wallets.len() as i64;
        let expected = self.entries.len();
        // SAFETY: the arrays are of the tables' own row types, whose columns come in the
        // order of sql/ledger.sql.
        let (wallets, entries) = unsafe {
            let (wallet_shape, wallet_element) = element_type(wallet_type);
            let (entry_shape, entry_element) = element_type(entry_type);
            let wallets = self.wallets.iter().map(|row| form_row(wallet_shape, row));
            let wallets = wallets.collect();
            let entries = self.entries.iter().map(|row| form_row(entry_shape, row));
            let entries = entries.collect();
            (
                row_array(wallets, wallet_element),
                row_array(entries, entry_element),
            )
        };
        let _operating = Operating::begin();
        let saved = SAVE.run(
            spi,
            &[
                Param::of(wallet_type, Some(wallets)),
                Param::of(entry_type, Some(entries)),
                Param::i64(count),
            ],
        );
        if saved.len() == expected {
            Ok(())
        } else {
            Err(changed_under_lock())
        }
    }
}
