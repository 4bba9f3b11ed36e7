//! Reading the journal: what entries did to lots, and the receipts of operations made before.

use crate::error::{Fault, Result};
use crate::ledger::account::Account;
use crate::ledger::operation::Request;
use crate::ledger::reader::Reader;
use crate::ledger::receipt::{Receipt, key_reused};
use crate::pg::spi::{Param, Plan, Row, Spi};
use loyalty_core::wallet::{Class, EntryNo, Hold, Kind, Movement, operation_id};

static CLASSES: Plan =
    Plan::new(c"select lot_class, inactivity_months from loyalty.lot_class where program_id = $1");
static HOLDS: Plan = Plan::new(
    c"select entry, hold_until, expires_on, held, lot_expires_on, lot_points, lot_class
        from loyalty.entry where account_id = $1 and entry = any($2) order by entry",
);

/// What the lots of these classes share.
pub fn classes_of(spi: &Spi, program_id: i32, ids: &[i16]) -> Vec<Class> {
    let known: Vec<(i16, Option<i16>)> = if ids.iter().all(|id| *id == 0) {
        Vec::new()
    } else {
        let rows = CLASSES.execute(spi, &[Param::i32(program_id)]);
        let known = rows
            .iter()
            .filter_map(|row| Some((row.i16(1)?, row.i16(2))))
            .collect();
        rows.free();
        known
    };
    ids.iter()
        .map(|id| Class {
            id: *id,
            inactivity_months: known
                .iter()
                .find(|(known, _)| known == id)
                .and_then(|(_, months)| months.map(|months| months.unsigned_abs())),
        })
        .collect()
}

pub fn read_holds(spi: &Spi, account_id: i64, program_id: i32, entries: &[EntryNo]) -> Vec<Hold> {
    let rows = HOLDS.execute(spi, &[Param::i64(account_id), Param::i32s(Some(entries))]);
    let holds = rows
        .iter()
        .filter_map(|row| {
            Some(Hold {
                entry: row.i32(1)?,
                until: row.i64(2)?,
                pins: read_movements(spi, program_id, row, 3, row.i64(4)?),
            })
        })
        .collect();
    rows.free();
    holds
}

/// The lots of a journal row, from columns `expires_on`, (any), `lot_expires_on`, `lot_points`,
/// `lot_class`, the first of which is `column`. A lone lot of class 0 stands in `expires_on`,
/// with all of the entry's points.
pub fn read_movements(
    spi: &Spi,
    program_id: i32,
    row: Row,
    column: i32,
    points: i64,
) -> Vec<Movement> {
    if let Some(expires_on) = row.i32(column) {
        return vec![Movement {
            expires_on,
            class: Class::default(),
            points,
        }];
    }
    let (Some(days), Some(parts)) = (row.i32s(column + 2), row.i64s(column + 3)) else {
        return Vec::new();
    };
    let classes = row
        .i16s(column + 4)
        .map(|ids| classes_of(spi, program_id, &ids));
    days.into_iter()
        .zip(parts)
        .enumerate()
        .map(|(index, (expires_on, points))| Movement {
            expires_on,
            class: classes
                .as_ref()
                .map_or(Class::default(), |classes| classes[index]),
            points,
        })
        .collect()
}

static STORED: Plan = Plan::new(
    c"select e.kind::text, e.points, e.held, e.balance, e.available, e.occurred_at, e.request_hash,
             e.expires_on, null, e.lot_expires_on, e.lot_points, e.lot_class,
             (select t.balance from loyalty.entry t
               where t.account_id = e.account_id and t.entry = e.entry + 1
                 and t.refers_to = e.entry and t.kind in ('repay', 'expire'))
        from loyalty.entry e where e.account_id = $1 and e.entry = $2",
);

/// The receipt of an operation made before, for the same request under the same key.
fn stored(spi: &Spi, account: &Account, entry: EntryNo, request: &Request) -> Result<Receipt> {
    let missing = || Fault::damaged("a journal row is incomplete");
    let row = STORED
        .execute(spi, &[Param::i64(account.account_id), Param::i32(entry)])
        .first()
        .ok_or_else(missing)?;
    if row.i32(7) != Some(request.hash) && !request.is_occasion {
        return Err(key_reused(operation_id(account.account_id, entry)));
    }
    let kind = row
        .text(1)
        .as_deref()
        .and_then(Kind::of_text)
        .ok_or_else(missing)?;
    let points = match kind {
        Kind::Hold | Kind::Release => row.i64(3).unwrap_or(0),
        _ => row.i64(2).ok_or_else(missing)?,
    }
    .abs();
    let balance = row.i64(4).ok_or_else(missing)?;
    Ok(Receipt {
        operation_id: operation_id(account.account_id, entry),
        account_id: account.account_id,
        kind,
        points,
        balance: row.i64(13).unwrap_or(balance),
        available: row.i64(5).unwrap_or(balance),
        occurred_at: row.i64(6).ok_or_else(missing)?,
        lots: read_movements(spi, account.program_id, row, 8, points)
            .into_iter()
            .map(|lot| (lot.expires_on, lot.points.abs()))
            .collect(),
    })
}

/// The receipt that the request's key made before, if it did.
pub fn stored_receipt(
    spi: &Spi,
    account: &Account,
    reader: &mut Reader,
    request: &Request,
) -> Result<Option<Receipt>> {
    let Some(key) = request.key else {
        return Ok(None);
    };
    reader
        .entry_by_key(account.account_id, key)?
        .map(|entry| stored(spi, account, entry, request))
        .transpose()
}
