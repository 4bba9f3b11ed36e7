//! Reading accounts for an operation, with or without their rows locked.

use crate::clock;
use crate::error::{Fault, Result};
use crate::ledger::account::{Account, no_such_account};
use crate::ledger::journal::{classes_of, read_holds};
use crate::ledger::reader::Reader;
use crate::ledger::waiting;
use crate::pg::datum::enum_label;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{Param, Plan, Row, Spi};
use crate::program::{self, Program};
use crate::table::wallet::WalletRow;
use loyalty_core::wallet::{Class, Lot, Wallet};
use std::rc::Rc;

static LOCK_MANY: Plan = Plan::new(
    c"select w.account_id, w.balance, w.debt, w.program_id, w.status, w.last_entry,
             w.lot_expires_on, w.lot_granted, w.lot_remaining, w.lot_class, w.hold_entry, w.ctid
        from loyalty.wallet w where w.account_id = any($1)
       order by w.account_id for no key update of w",
);
/// Reads one account.
pub fn load(spi: &Spi, account_id: i64, snapshot: Snapshot) -> Result<Account> {
    find(spi, &mut Reader::open(snapshot)?, account_id)?.ok_or_else(|| no_such_account(account_id))
}

/// An account by a reader that is open.
pub fn find(spi: &Spi, reader: &mut Reader, account_id: i64) -> Result<Option<Account>> {
    let Some(row) = reader.wallet(account_id)? else {
        return Ok(None);
    };
    let program = program::get(row.program_id)?;
    Ok(Some(read_account(spi, account_id, row, program)))
}

/// Reads accounts with their rows locked, in id order, which keeps callers from deadlock.
/// Those that are not there are left out.
pub fn load_many_locked(spi: &Spi, account_ids: &[i64]) -> Result<Vec<Account>> {
    // The row that was waited for comes back as it is now: no need to read it again.
    waiting::lock_accounts(spi, account_ids, || {
        LOCK_MANY.execute(spi, &[Param::i64s(account_ids)])
    })
    .iter()
    .map(|row| {
        let (account_id, wallet) =
            read_row(row).ok_or_else(|| Fault::damaged("a wallet row is incomplete"))?;
        let program = program::get(wallet.program_id)?;
        Ok(read_account(spi, account_id, wallet, program))
    })
    .collect()
}

/// The columns of `LOCK_MANY`.
fn read_row(row: Row) -> Option<(i64, WalletRow)> {
    Some((
        row.i64(1)?,
        WalletRow {
            balance: row.i64(2)?,
            debt: row.i64(3).unwrap_or(0),
            program_id: row.i32(4)?,
            status: row.datum(5)?,
            last_entry: row.i32(6)?,
            lot_expires_on: row.i32s(7)?,
            lot_granted: row.i64s(8)?,
            lot_remaining: row.i64s(9)?,
            lot_class: row.i16s(10),
            hold_entry: row.i32s(11),
            tid: row.tid(12)?,
        },
    ))
}

fn read_account(spi: &Spi, account_id: i64, row: WalletRow, program: Rc<Program>) -> Account {
    let program_id = row.program_id;
    // SAFETY: a value of the enum type.
    let status = unsafe { enum_label(row.status) };
    let classes = row.lot_class.map(|ids| classes_of(spi, program_id, &ids));
    let lots = row
        .lot_expires_on
        .into_iter()
        .zip(row.lot_granted)
        .zip(row.lot_remaining)
        .enumerate()
        .map(|(index, ((expires_on, granted), remaining))| Lot {
            expires_on,
            class: classes
                .as_ref()
                .map_or(Class::default(), |classes| classes[index]),
            granted,
            remaining,
        })
        .collect();
    let holds = match row.hold_entry {
        Some(entries) if !entries.is_empty() => read_holds(spi, account_id, program_id, &entries),
        _ => Vec::new(),
    };
    // Last: all of the above may have waited for a table.
    let now = clock::now();
    Account {
        account_id,
        program_id,
        is_open: status == c"open",
        is_closed: status == c"closed",
        status: row.status,
        tid: row.tid,
        granted_on: None,
        next_entry: row.last_entry + 1,
        own_entry: 0,
        last_entry: row.last_entry,
        wallet: Wallet {
            lots,
            holds,
            debt: row.debt,
        },
        today: program.day_of(now),
        now,
        program,
    }
}
