//! Receipts: what an operation did, the same for ever (law 6).

use crate::call::{Answer, Call, IntoAnswer, element_shape, form_row, row_array};
use crate::error::{Code, Fault, Result};
use crate::ledger::{Account, Request, never};
use crate::request;
use crate::row::read_movements;
use crate::spi::{Param, Plan, Spi};
use loyalty_core::wallet::{Day, EntryNo, Instant, Kind, operation_id};
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::RefCell;
use std::ffi::CStr;

/// What `loyalty.receipt` holds.
#[derive(Debug, Clone)]
pub struct Receipt {
    pub operation_id: i64,
    pub account_id: i64,
    pub kind: Kind,
    pub points: i64,
    pub balance: i64,
    pub available: i64,
    pub occurred_at: Instant,
    /// Last day and points of each lot touched.
    pub lots: Vec<(Day, i64)>,
}

/// The value of an enum type.
pub fn enum_value(enum_type: Oid, label: &CStr) -> Datum {
    // SAFETY: enum_in takes a label and the type, and raises for what is not a label of it.
    unsafe {
        pg_sys::OidInputFunctionCall(
            Oid::from(pg_sys::F_ENUM_IN),
            label.as_ptr().cast_mut(),
            enum_type,
            -1,
        )
    }
}

/// Values of `loyalty.entry_kind`, each looked up once: calls of many need few of them often.
#[derive(Clone)]
pub struct Kinds {
    enum_type: Oid,
    known: RefCell<Vec<(Kind, Datum)>>,
}

impl Kinds {
    pub fn of(enum_type: Oid) -> Self {
        Kinds {
            enum_type,
            known: RefCell::default(),
        }
    }

    pub fn value(&self, kind: Kind) -> Datum {
        let mut known = self.known.borrow_mut();
        if let Some((_, value)) = known.iter().find(|(one, _)| *one == kind) {
            return *value;
        }
        let value = enum_value(self.enum_type, kind.label());
        known.push((kind, value));
        value
    }
}

/// The label of a value of an enum type; it lives as long as the current memory context.
///
/// # Safety
/// The datum is such a value.
pub unsafe fn enum_label<'a>(value: Datum) -> &'a CStr {
    // SAFETY: enum_out returns a C string.
    unsafe {
        CStr::from_ptr(pg_sys::OidOutputFunctionCall(
            Oid::from(pg_sys::F_ENUM_OUT),
            value,
        ))
    }
}

impl IntoAnswer for Receipt {
    fn into_answer(self, call: &Call) -> Answer {
        let shape = call.result_shape();
        // SAFETY: loyalty.receipt's last column is an array of loyalty.receipt_lot.
        let (kind, lots) = unsafe {
            let kind = enum_value(pg_sys::SPI_gettypeid(shape, 3), self.kind.label());
            let (lot_shape, lot_type) = element_shape(shape, 7);
            let rows = self
                .lots
                .iter()
                .map(|(day, points)| {
                    form_row(
                        lot_shape,
                        &[never(*day).map(Datum::from), Some(Datum::from(*points))],
                    )
                })
                .collect();
            (kind, row_array(rows, lot_type))
        };
        Answer::Row(vec![
            Some(Datum::from(self.operation_id)),
            Some(Datum::from(self.account_id)),
            Some(kind),
            Some(Datum::from(self.points)),
            Some(Datum::from(self.balance)),
            Some(Datum::from(self.available)),
            Some(Datum::from(self.occurred_at)),
            Some(lots),
        ])
    }
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
pub fn stored(spi: &Spi, account: &Account, entry: EntryNo, request: &Request) -> Result<Receipt> {
    let missing = || Fault::damaged("a journal row is incomplete");
    let row = STORED
        .run(spi, &[Param::i64(account.account_id), Param::i32(entry)])
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

/// The same key with another request (law 6).
pub fn key_reused(operation: i64) -> Fault {
    Fault::new(
        Code::KeyReused,
        "key_reused",
        "the idempotency key was used for another request",
    )
    .field("idempotency_key")
    .detail(format!("It made operation {operation}."))
    .hint("Repeat a call with the same arguments, or give a new call a new key.")
}

/// Who asks: role and subject of the token in a PostgREST request, else the database user.
pub fn actor() -> String {
    let claims = request::claims();
    match (claims.str("role"), claims.str("sub")) {
        (Some(role), Some(subject)) => format!("{role}:{subject}"),
        (Some(role), None) => role.to_owned(),
        (None, _) => request::session_user(),
    }
}
