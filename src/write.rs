//! Writing wallets and the entries that changed them (laws 1, 2 and 3).
//!
//! Where the two tables are as shipped, rows go straight to them and their indexes, each past
//! the very function that its constraint calls. That takes a fraction of a statement's time,
//! and many rows share a batch. A table that was given triggers, constraints or rules besides
//! is written by a statement, which minds them all.

use crate::call::{element_type, form_row, row_array};
use crate::error::{Fault, Result};
use crate::guard::{self, Operating};
use crate::ledger::{Account, Posted, changed_under_lock};
use crate::receipt::{self, Kinds};
use crate::row::{ENTRY_COLUMNS, State, WALLET_COLUMNS, entry_row, wallet_row};
use crate::spi::{Param, Plan, Spi};
use crate::table::{Shipped, Table, clear, fill};
use loyalty_core::wallet::EntryNo;
use pgrx::pg_sys::{self, Datum, Oid};

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
        let as_shipped = direct.wallet.is_as(&WALLET) && direct.entry.is_as(&ENTRY);
        let path = if as_shipped {
            Path::Direct(Box::new(direct))
        } else {
            Path::Statement(Waiting::new(direct.kinds.clone()))
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

    /// The same; also false when another transaction is at it, whatever becomes of that: who
    /// waited has to ask the clock again (law 4), and may have to say for whom.
    pub fn put_if_free(&mut self, account: &Account, posted: &[Posted]) -> Result<bool> {
        self.put_or_wait(account, posted, false)
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
    // The last entry's balance is the wallet's (law 1): nothing that was refused is left in it.
    let agree = posted.last().map(|one| one.balance) == Some(account.wallet.balance());
    if wallet_is_sound && entries_are_sound && agree {
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

const WALLET: Shipped = Shipped {
    event: pg_sys::TRIGGER_TYPE_UPDATE,
    check: c"wallet_lots_are_the_balance",
    foreign_keys: 2,
    not_null: &[1, 2, 4, 5, 7, 9, 10, 11],
};
const ENTRY: Shipped = Shipped {
    event: pg_sys::TRIGGER_TYPE_INSERT,
    check: c"entry_sign_fits_kind",
    foreign_keys: 0,
    not_null: &[1, 2, 3, 4, 5, 6, 16],
};

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
    kinds: Kinds,
}

impl Direct {
    fn open() -> Result<Self> {
        let wallet = Table::open(c"wallet", WALLET_COLUMNS)?;
        let entry = Table::open(c"entry", ENTRY_COLUMNS)?;
        // SAFETY: all of it is freed by close, or with the transaction that an error ends.
        unsafe {
            let state = pg_sys::CreateExecutorState();
            let batch = (*pg_sys::MakePerTupleExprContext(state)).ecxt_per_tuple_memory;
            let kinds = Kinds::of(pg_sys::SPI_gettypeid((*entry.relation).rd_att, 6));
            Ok(Direct {
                changed: wallet.slot(),
                wallet,
                entry,
                state,
                batch,
                lines: Vec::new(),
                waiting: 0,
                kinds,
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
                .update(account.place, self.changed, self.state, wait)?
        };
        if changed {
            for one in posted {
                if self.lines.len() == self.waiting {
                    self.lines.push(self.entry.slot_in(context));
                }
                let row = entry_row(account, one, &self.kinds, actor);
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
            (account_id, points, balance, occurred_at, entry, kind, expires_on, granted_on,
             request_hash, refers_to, available, held, debt, other_account_id, other_entry,
             actor, reason, idempotency_key, lot_expires_on, lot_points, lot_class,
             hold_until)
      select e.account_id, e.points, e.balance, e.occurred_at, e.entry, e.kind, e.expires_on,
             e.granted_on, e.request_hash, e.refers_to, e.available, e.held, e.debt,
             e.other_account_id, e.other_entry, e.actor, e.reason, e.idempotency_key,
             e.lot_expires_on, e.lot_points, e.lot_class, e.hold_until
        from unnest($2) e where (select count(*) from w) = $3",
);

/// Rows for one statement that writes them all.
struct Waiting {
    kinds: Kinds,
    wallets: Vec<Vec<Option<Datum>>>,
    entries: Vec<Vec<Option<Datum>>>,
}

impl Waiting {
    fn new(kinds: Kinds) -> Self {
        Waiting {
            kinds,
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
            .map(|one| entry_row(account, one, &self.kinds, actor));
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
        // order of sql/20_ledger/table.sql.
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
