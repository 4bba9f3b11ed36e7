//! Spending points, soonest expiry first (law 5).

use crate::error::Result;
use crate::ledger::operate::operate;
use crate::ledger::operation::{Given, Needs, Request, positive, request_hash};
use crate::ledger::receipt::Receipt;
use crate::pg::call::{Call, sql_function};

/// The request of a spend, alone or one of many.
pub fn spend_hash(points: i64, reason: Option<&str>) -> i32 {
    request_hash(&[&"spend", &points, &Given(reason)])
}

sql_function!(spend_fifo);
/// `loyalty.spend_fifo(account_id, points, reason, idempotency_key)`
fn spend_fifo(call: &Call) -> Result<Receipt> {
    let account_id = call.need("account_id", call.i64(0))?;
    let points = positive(call.need("points", call.i64(1))?)?;
    let (reason, key) = (call.text(2), call.text(3));
    let request = Request {
        reason: reason.as_deref(),
        key: key.as_deref(),
        hash: spend_hash(points, reason.as_deref()),
        activity: true,
        ..Request::default()
    };
    operate(account_id, &request, Needs::Open, |_, account| {
        Ok(vec![account.wallet.spend(
            points,
            account.today,
            account.now,
        )?])
    })
}
