//! The guard on the ledger's tables (laws 1 and 3): rows change through operations only.

use crate::error::{Code, Fault, Result};
use crate::pg::call::{Answer, Call, sql_function};
use crate::pg::datum::{enum_label, to_i32};
use crate::pg::spi::{Param, Plan, Spi};
use loyalty_core::wallet::{Day, EntryNo, Kind, NEVER};
use pgrx::pg_sys::{self, Datum};
use std::cell::Cell;
use std::ffi::CStr;

thread_local! {
    /// How many triggers an operation's statement runs in; none while none runs.
    static OPERATING: Cell<Option<i32>> = const { Cell::new(None) };
}

/// How many triggers are under way, one in the other.
fn depth() -> i32 {
    // SAFETY: a function without arguments, which looks at a number of the backend's.
    let depth = unsafe {
        pg_sys::OidFunctionCall0Coll(
            pg_sys::Oid::from(pg_sys::F_PG_TRIGGER_DEPTH),
            pg_sys::InvalidOid,
        )
    };
    to_i32(depth)
}

/// While it lives, the statements that run are an operation's own; those of triggers that a DBA
/// added to its tables are not.
pub struct Operating(Option<i32>);

impl Operating {
    pub fn begin() -> Self {
        Operating(OPERATING.replace(Some(depth())))
    }
}

impl Drop for Operating {
    fn drop(&mut self) {
        OPERATING.set(self.0);
    }
}

static IS_EMPTY: Plan = Plan::new(
    c"select not exists (select from loyalty.wallet)
         and case $1
                when 'account' then not exists (select from loyalty.account)
                when 'entry' then not exists (select from loyalty.entry)
                else true
             end",
);

sql_function!(guard_ledger);
/// Statement trigger on account, entry and wallet. A restore arrives as COPY, the journal
/// before the wallets (see `wallet_follows_journal`), so into an empty ledger.
fn guard_ledger(call: &Call) -> Result<Answer> {
    if OPERATING
        .get()
        .is_some_and(|operation| depth() == operation + 1)
    {
        return Ok(Answer::Value(Datum::from(0)));
    }
    let data = call.trigger_data()?;
    let event = data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK;
    // SAFETY: the table that the trigger is of is open, and has a name.
    let table = unsafe { CStr::from_ptr(pg_sys::get_rel_name((*data.tg_relation).rd_id)) };
    let table = table.to_string_lossy().into_owned();
    if event == pg_sys::TRIGGER_EVENT_INSERT && copying() {
        let spi = Spi::connect();
        let empty = IS_EMPTY
            .execute(&spi, &[Param::text(table.as_str())])
            .first()
            .and_then(|row| row.bool(1));
        if empty == Some(true) {
            return Ok(Answer::Value(Datum::from(0)));
        }
    }
    let verb = match event {
        pg_sys::TRIGGER_EVENT_INSERT => "INSERT into",
        pg_sys::TRIGGER_EVENT_DELETE => "DELETE from",
        pg_sys::TRIGGER_EVENT_UPDATE => "UPDATE of",
        _ => "TRUNCATE of",
    };
    Err(Fault::new(
        Code::AppendOnly,
        "append_only",
        format!("the ledger changes through operations only: {verb} loyalty.{table} refused"),
    )
    .detail("Journal, wallets and accounts follow from each other; a row changed alone would break them.")
    .hint("Call loyalty.grant, spend_fifo, refund, revoke, … To correct a mistake, book its opposite. A dump is restored with COPY into a database without accounts."))
}

/// Whether the client's statement is COPY.
fn copying() -> bool {
    // SAFETY: the portal that runs is valid while it runs.
    unsafe {
        let portal = pg_sys::ActivePortal;
        !portal.is_null() && (*portal).commandTag == pg_sys::CommandTag::CMDTAG_COPY
    }
}

sql_function!(wallet_is_sound);
/// Laws 1 and 2 as a constraint of the row: arguments as `sql/20_ledger/table.sql` declares them.
fn wallet_is_sound(call: &Call) -> Result<bool> {
    let (Some(balance), Some(days), Some(granted), Some(remaining)) =
        (call.i64(0), call.i32s(2), call.i64s(3), call.i64s(4))
    else {
        return Ok(false);
    };
    let (debt, classes, due) = (call.i64(1), call.i16s(5), call.i32(6));
    let classes = classes.as_deref();
    Ok(is_sound_wallet(
        balance, debt, &days, &granted, &remaining, classes, due,
    ))
}

/// Whether the lots of a wallet are in spend order, none holds less than nothing or more than
/// it got, and together they are the balance (laws 1 and 2).
pub fn is_sound_wallet(
    balance: i64,
    debt: Option<i64>,
    days: &[Day],
    granted: &[i64],
    remaining: &[i64],
    classes: Option<&[i16]>,
    due: Option<Day>,
) -> bool {
    let shaped = granted.len() == days.len()
        && remaining.len() == days.len()
        && classes.is_none_or(|classes| classes.len() == days.len());
    let sum = remaining
        .iter()
        .try_fold(0i64, |sum, points| sum.checked_add(*points));
    let first_due = days
        .iter()
        .zip(remaining)
        .find(|(_, remaining)| **remaining > 0)
        .map(|(day, _)| *day)
        .filter(|day| *day != NEVER);
    shaped
        && sum == Some(balance)
        && debt.is_none_or(|debt| debt > 0)
        && days.is_sorted()
        && remaining.iter().all(|points| *points >= 0)
        && remaining.iter().zip(granted).all(|(left, got)| left <= got)
        && due == first_due
}

sql_function!(entry_is_sound);
/// Laws 2 and 3 as a constraint of the row: arguments as `sql/20_ledger/table.sql` declares them.
fn entry_is_sound(call: &Call) -> Result<bool> {
    let (Some(entry), Some(kind), Some(points), Some(balance)) =
        (call.i32(0), call.datum(1), call.i64(2), call.i64(3))
    else {
        return Ok(false);
    };
    // SAFETY: the argument is a value of the enum type.
    let kind = Kind::parse(unsafe { enum_label(kind) });
    Ok(kind.is_some_and(|kind| is_sound_entry(entry, kind, points, balance)))
}

/// Whether an entry is numbered from 1, leaves a balance that is not negative, and moves
/// points the way its kind does (laws 2 and 3).
pub fn is_sound_entry(entry: EntryNo, kind: Kind, points: i64, balance: i64) -> bool {
    entry > 0 && balance >= 0 && kind.allows(points)
}
