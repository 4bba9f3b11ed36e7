//! The guard on the ledger's tables (laws 1 and 3): rows change through operations only.

use crate::call::{Answer, sql_function};
use crate::error::{Code, Fault, Result};
use crate::receipt::enum_label;
use crate::spi::{Plan, Spi};
use loyalty_core::wallet::{Kind, NEVER};
use pgrx::pg_sys::{self, Datum};
use std::cell::Cell;
use std::ffi::CStr;

thread_local! {
    static OPERATING: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, the statements that run are an operation's own.
pub struct Operating(bool);

impl Operating {
    pub fn begin() -> Self {
        Operating(OPERATING.replace(true))
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

sql_function! {
    /// Statement trigger on account, entry and wallet. A restore arrives as COPY, the journal
    /// before the wallets (see `wallet_follows_journal`), so into an empty ledger.
    fn guard_ledger(call) -> Answer {
        if OPERATING.get() {
            return Ok(Answer::Value(Datum::from(0)));
        }
        let (event, table) = trigger(call.fcinfo())?;
        if event == pg_sys::TRIGGER_EVENT_INSERT && copying() {
            let spi = Spi::connect();
            let empty = IS_EMPTY
                .run(&spi, &[crate::spi::Param::text(table.as_str())])
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
            format!("the ledger changes through operations only: {verb} loyalty.{table} refused"),
        )
        .detail("Journal, wallets and accounts follow from each other; a row changed alone would break them.")
        .hint("Call loyalty.grant, spend_fifo, refund, revoke, … To correct a mistake, book its opposite. A dump is restored with COPY into a database without accounts."))
    }
}

/// The event and the table of a trigger call.
fn trigger(fcinfo: pg_sys::FunctionCallInfo) -> Result<(u32, String)> {
    // SAFETY: the context of a trigger call is TriggerData; that is checked first.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            return Err(Fault::invalid("guard_ledger is a trigger"));
        }
        let data: *const pg_sys::TriggerData = context.cast();
        let event = (*data).tg_event & pg_sys::TRIGGER_EVENT_OPMASK;
        let name = pg_sys::get_rel_name((*(*data).tg_relation).rd_id);
        let table = CStr::from_ptr(name).to_string_lossy().into_owned();
        Ok((event, table))
    }
}

/// Whether the client's statement is COPY.
fn copying() -> bool {
    // SAFETY: the portal that runs is valid while it runs.
    unsafe {
        let portal = pg_sys::ActivePortal;
        !portal.is_null() && (*portal).commandTag == pg_sys::CommandTag::CMDTAG_COPY
    }
}

sql_function! {
    /// Laws 1 and 2 as a constraint of the row: arguments as `sql/ledger.sql` declares them.
    fn wallet_is_sound(call) -> bool {
        let (Some(balance), Some(days), Some(granted), Some(remaining)) =
            (call.i64(0), call.i32s(2), call.i64s(3), call.i64s(4))
        else {
            return Ok(false);
        };
        let classes = call.i16s(5);
        let shaped = granted.len() == days.len()
            && remaining.len() == days.len()
            && classes.is_none_or(|classes| classes.len() == days.len());
        let sum = remaining
            .iter()
            .try_fold(0i64, |sum, points| sum.checked_add(*points));
        let due = days
            .iter()
            .zip(&remaining)
            .find(|(_, remaining)| **remaining > 0)
            .map(|(day, _)| *day)
            .filter(|day| *day != NEVER);
        Ok(shaped
            && sum == Some(balance)
            && call.i64(1).is_none_or(|debt| debt > 0)
            && days.is_sorted()
            && remaining.iter().all(|points| *points >= 0)
            && remaining.iter().zip(&granted).all(|(left, got)| left <= got)
            && call.i32(6) == due)
    }
}

sql_function! {
    /// Laws 2 and 3 as a constraint of the row: arguments as `sql/ledger.sql` declares them.
    fn entry_is_sound(call) -> bool {
        let (Some(entry), Some(kind), Some(points), Some(balance)) =
            (call.i32(0), call.datum(1), call.i64(2), call.i64(3))
        else {
            return Ok(false);
        };
        // SAFETY: the argument is a value of the enum type.
        let Some(kind) = Kind::parse(unsafe { enum_label(kind) }) else {
            return Ok(false);
        };
        Ok(entry > 0 && balance >= 0 && kind.allows(points))
    }
}
