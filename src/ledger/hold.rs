//! Holding points, and capturing or releasing what is held (law 8).

use crate::error::{Fault, Result};
use crate::ledger::account::Account;
use crate::ledger::earlier::{earlier, wrong_kind};
use crate::ledger::operate::operate;
use crate::ledger::operation::{Given, Needs, Request, entry_of, positive, request_hash};
use crate::ledger::receipt::Receipt;
use crate::pg::call::{Call, sql_function};
use crate::pg::spi::Spi;
use loyalty_core::wallet::{EntryNo, Kind};

/// A hold lasts at most so long, in microseconds: a year.
const LONGEST_HOLD: i64 = 366 * 24 * 3600 * 1_000_000;

sql_function!(hold);
/// `loyalty.hold(account_id, points, expires_in microseconds, reason, idempotency_key)`
fn hold(call: &Call) -> Result<Receipt> {
    let account_id = call.need("account_id", call.i64(0))?;
    let points = positive(call.need("points", call.i64(1))?)?;
    let expires_in = call.need("expires_in", call.i64(2))?;
    let (reason, key) = (call.text(3), call.text(4));
    if !(1..=LONGEST_HOLD).contains(&expires_in) {
        return Err(Fault::invalid(
            "expires_in_invalid",
            "expires_in must be above zero, and at most a year",
        )
        .field("expires_in")
        .hint("An interval such as '15 minutes'."));
    }
    let request = Request {
        reason: reason.as_deref(),
        key: key.as_deref(),
        hash: request_hash(&[&"hold", &points, &expires_in, &Given(reason.as_ref())]),
        activity: true,
        hold_for: Some(expires_in),
        ..Request::default()
    };
    operate(account_id, &request, Needs::Open, |_, account| {
        let (own, today, now) = (account.own_entry, account.today, account.now);
        let until = now.saturating_add(expires_in);
        Ok(vec![account.wallet.hold(points, until, own, today, now)?])
    })
}

sql_function!(capture);
/// `loyalty.capture(account_id, operation_id, points, reason, idempotency_key)`
fn capture(call: &Call) -> Result<Receipt> {
    let account_id = call.need("account_id", call.i64(0))?;
    let operation = call.need("operation_id", call.i64(1))?;
    let points = call.i64(2).map(positive).transpose()?;
    let (reason, key) = (call.text(3), call.text(4));
    let hold = entry_of(account_id, operation)?;
    let request = Request {
        reason: reason.as_deref(),
        key: key.as_deref(),
        hash: request_hash(&[&"capture", &hold, &Given(points), &Given(reason.as_ref())]),
        activity: true,
        ..Request::default()
    };
    operate(account_id, &request, Needs::Open, |spi, account| {
        known_hold(spi, account, hold)?;
        Ok(vec![account.wallet.capture(hold, points, account.now)?])
    })
}

sql_function!(release);
/// `loyalty.release(account_id, operation_id, reason, idempotency_key)`
fn release(call: &Call) -> Result<Receipt> {
    let account_id = call.need("account_id", call.i64(0))?;
    let operation = call.need("operation_id", call.i64(1))?;
    let (reason, key) = (call.text(2), call.text(3));
    let hold = entry_of(account_id, operation)?;
    let request = Request {
        reason: reason.as_deref(),
        key: key.as_deref(),
        hash: request_hash(&[&"release", &hold, &Given(reason.as_ref())]),
        ..Request::default()
    };
    operate(account_id, &request, Needs::NotClosed, |spi, account| {
        known_hold(spi, account, hold)?;
        Ok(vec![account.wallet.release(hold, account.now)?])
    })
}

/// Tells an operation that is no hold, or none at all, from a hold that is over.
fn known_hold(spi: &Spi, account: &Account, entry: EntryNo) -> Result<()> {
    if account.wallet.holds.iter().any(|hold| hold.entry == entry) {
        return Ok(());
    }
    match earlier(spi, account, entry)?.kind {
        Kind::Hold => Ok(()),
        kind => Err(wrong_kind(kind, "hold")),
    }
}
