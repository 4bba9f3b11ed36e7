//! Receipts: what an operation did, the same for ever (law 6).

use crate::error::{Code, Fault};
use crate::pg::call::{Answer, Call, IntoAnswer};
use crate::pg::datum::{enum_value, row_array};
use crate::pg::tuple_desc::{element_type, form_row, type_of};
use loyalty_core::wallet::{Day, Instant, Kind, NEVER};
use pgrx::pg_sys::Datum;

/// A row of `loyalty.receipt`.
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

/// Whether that is the last day of a lot that never expires.
pub fn never(day: Day) -> Option<Day> {
    (day != NEVER).then_some(day)
}

impl IntoAnswer for Receipt {
    fn into_answer(self, call: &Call) -> Answer {
        let desc = call.result_desc();
        // SAFETY: loyalty.receipt's last column is an array of loyalty.receipt_lot.
        let (kind, lots) = unsafe {
            let kind = enum_value(type_of(desc, 3), self.kind.label());
            let (lot_desc, lot_type) = element_type(type_of(desc, 8));
            let rows = self
                .lots
                .iter()
                .map(|(day, points)| {
                    form_row(
                        lot_desc,
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
