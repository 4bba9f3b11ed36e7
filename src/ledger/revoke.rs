//! Revoking a grant: points are taken back from its lot.

use crate::error::{Fault, Result};
use crate::ledger::earlier::{earlier, last_day_of, wrong_kind};
use crate::ledger::operate::operate;
use crate::ledger::operation::{Given, Needs, Request, entry_of, positive, request_hash};
use crate::ledger::receipt::Receipt;
use crate::pg::call::{Call, sql_function};
use crate::pg::spi::{Param, Plan};
use loyalty_core::wallet::{Kind, Movement, Shortfall};

static SPENT_OF_LOT: Plan = Plan::new(c"select loyalty_private.spent_of_lot($1, $2, $3)");

sql_function!(revoke);
/// `loyalty.revoke(account_id, operation_id, points, policy, reason, idempotency_key)`
fn revoke(call: &Call) -> Result<Receipt> {
    let account_id = call.need("account_id", call.i64(0))?;
    let operation = call.need("operation_id", call.i64(1))?;
    let points = call.i64(2).map(positive).transpose()?;
    let policy = call.need("policy", call.text(3))?;
    let (reason, key) = (call.text(4), call.text(5));
    let grant = entry_of(account_id, operation)?;
    if policy != "clamp" && policy != "debt" {
        return Err(Fault::invalid("policy_unknown", "unknown policy for points already spent")
.field("policy")
            .detail(format!("'{policy}' given."))
            .hint("'clamp' takes what the lot still holds; 'debt' books the rest, for later grants to repay."));
    }
    let request = Request {
        reason: reason.as_deref(),
        key: key.as_deref(),
        hash: request_hash(&[
            &"revoke",
            &grant,
            &Given(points),
            &policy,
            &Given(reason.as_ref()),
        ]),
        ..Request::default()
    };
    operate(account_id, &request, Needs::NotClosed, |spi, account| {
        let earlier = earlier(spi, account, grant)?;
        let (Kind::Grant, [lot]) = (earlier.kind, earlier.lots.as_slice()) else {
            return Err(wrong_kind(earlier.kind, "grant"));
        };
        let shortfall = if policy == "clamp" {
            Shortfall::Clamp
        } else {
            let spent = SPENT_OF_LOT
                .execute(
                    spi,
                    &[
                        Param::i64(account_id),
                        Param::day(lot.expires_on),
                        Param::i16(lot.class.id),
                    ],
                )
                .first()
                .and_then(|row| row.i64(1));
            Shortfall::Debt(spent.unwrap_or(0).max(0))
        };
        let left = earlier.points - earlier.undone;
        let lot = &Movement {
            expires_on: last_day_of(spi, account, grant, lot),
            ..*lot
        };
        let now = account.now;
        Ok(vec![
            account
                .wallet
                .revoke(grant, points, left, lot, shortfall, now)?,
        ])
    })
}
