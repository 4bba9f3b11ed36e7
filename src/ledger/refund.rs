//! Refunding a spend: points go back to the lots they came from (law 7).

use crate::error::Result;
use crate::ledger::account::Account;
use crate::ledger::earlier::{Earlier, earlier, last_day_of, wrong_kind};
use crate::ledger::operate::operate;
use crate::ledger::operation::{Given, Needs, Request, entry_of, positive, request_hash};
use crate::ledger::receipt::Receipt;
use crate::pg::call::{Call, sql_function};
use crate::pg::spi::{Param, Plan, Spi};
use loyalty_core::wallet::{Class, LapsedRefund, Movement, Spent};

static GRACE_CLASS: Plan = Plan::new(
    c"select loyalty_private.lot_class_of(c.program_id, c.funding, null)
        from loyalty.lot_class c where c.program_id = $1 and c.lot_class = $2",
);

sql_function!(refund);
/// `loyalty.refund(account_id, operation_id, points, reason, idempotency_key)`
fn refund(call: &Call) -> Result<Receipt> {
    let account_id = call.need("account_id", call.i64(0))?;
    let operation = call.need("operation_id", call.i64(1))?;
    let points = call.i64(2).map(positive).transpose()?;
    let (reason, key) = (call.text(3), call.text(4));
    let spend = entry_of(account_id, operation)?;
    let request = Request {
        reason: reason.as_deref(),
        key: key.as_deref(),
        hash: request_hash(&[&"refund", &spend, &Given(points), &Given(reason.as_ref())]),
        ..Request::default()
    };
    operate(account_id, &request, Needs::NotClosed, |spi, account| {
        let earlier = earlier(spi, account, spend)?;
        if !earlier.kind.is_spend() {
            return Err(wrong_kind(earlier.kind, "spend or capture"));
        }
        let spent = left_of(&earlier)
            .into_iter()
            .map(|part| Spent {
                last_day: last_day_of(spi, account, spend, &part),
                grace_class: grace_class(spi, account, part.class),
                part,
            })
            .collect::<Vec<_>>();
        let lapsed = match account.program.refund_grace_days {
            None => LapsedRefund::Forfeit,
            Some(days) => LapsedRefund::GraceUntil(account.today + days),
        };
        let today = account.today;
        Ok(account
            .wallet
            .refund(spend, points, &spent, lapsed, today)?)
    })
}

/// The class with the same funding and a fixed day.
fn grace_class(spi: &Spi, account: &Account, class: Class) -> Class {
    if class.inactivity_months.is_none() {
        return class;
    }
    let params = [Param::i32(account.program_id), Param::i16(class.id)];
    Class {
        id: GRACE_CLASS
            .execute(spi, &params)
            .first()
            .and_then(|row| row.i16(1))
            .unwrap_or(0),
        inactivity_months: None,
    }
}

/// What a spend took, less what refunds gave back: these go from the last taken backwards.
fn left_of(spend: &Earlier) -> Vec<Movement> {
    let mut left = spend.points - spend.undone;
    let mut lots = Vec::with_capacity(spend.lots.len());
    for lot in &spend.lots {
        let points = left.min(lot.points.abs());
        if points > 0 {
            lots.push(Movement { points, ..*lot });
            left -= points;
        }
    }
    lots
}
