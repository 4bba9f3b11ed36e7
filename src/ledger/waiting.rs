//! Waiting for a wallet's row: whoever waits longer than `lock_timeout` is told who locked it.

use crate::error::{Code, Fault};
use crate::ledger::reader::Reader;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{Param, Plan, Spi};
use pgrx::pg_sys::{self, TransactionId};
use pgrx::{PgSqlErrorCode, PgTryBuilder};
use std::panic::AssertUnwindSafe;

static SESSION: Plan = Plan::new(
    c"select pg_catalog.format('process %s, user %s, application \"%s\", %s, in a transaction since %s',
                 pid, usename, application_name, state, xact_start)
        from pg_catalog.pg_stat_activity where backend_xid = $1::text::xid",
);

/// Who has locked an account.
struct Locker {
    account_id: i64,
    transaction: TransactionId,
    session: Option<String>,
}

/// Whether a wait may end in 55P03, and has to be made ready for.
fn is_limited() -> bool {
    // SAFETY: a backend has one thread.
    unsafe { pg_sys::LockTimeout > 0 }
}

/// Takes the locks of accounts' rows, and says who locked them if that takes too long.
pub fn lock_accounts<T>(spi: &Spi, account_ids: &[i64], take: impl FnOnce() -> T) -> T {
    if !is_limited() {
        return take();
    }
    // Now, since a failed transaction asks nothing.
    let lockers = lockers(spi, account_ids);
    PgTryBuilder::new(AssertUnwindSafe(take))
        .catch_when(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, |_| {
            too_long(account_ids, &lockers)
        })
        .execute()
}

fn lockers(spi: &Spi, account_ids: &[i64]) -> Vec<Locker> {
    let Ok(mut reader) = Reader::open(Snapshot::Transaction) else {
        return Vec::new();
    };
    let mut account_ids = account_ids.to_vec();
    account_ids.sort_unstable();
    account_ids
        .into_iter()
        .filter_map(|account_id| {
            // A transaction that changes a row is named in the version that others still see.
            let transactions = reader.lockers(account_id);
            let transaction = transactions.into_iter().find(|one| is_running(*one))?;
            // SAFETY: the transaction runs, so its parents are known.
            let top = unsafe { pg_sys::SubTransGetTopmostTransaction(transaction) };
            let top = top.into_inner().to_string();
            let session = SESSION
                .execute(spi, &[Param::text(top.as_str())])
                .first()
                .and_then(|row| row.text(1));
            Some(Locker {
                account_id,
                transaction,
                session,
            })
        })
        .collect()
}

/// Whether a transaction of another session is under way.
fn is_running(transaction: TransactionId) -> bool {
    // SAFETY: these look at shared memory only, also after an error.
    unsafe {
        transaction != pg_sys::InvalidTransactionId
            && pg_sys::TransactionIdIsInProgress(transaction)
            && !pg_sys::TransactionIdIsCurrentTransactionId(transaction)
    }
}

/// Raises 55P03 again. A client over HTTP is not told of sessions: the server's log is.
fn too_long(account_ids: &[i64], lockers: &[Locker]) -> ! {
    // Whoever has ended since handed it on to another in the queue.
    let locker = lockers.iter().find(|one| is_running(one.transaction));
    let account_id = locker.map_or(account_ids[0], |locker| locker.account_id);
    let told = match locker.map(|locker| locker.session.as_deref()) {
        Some(Some(session)) => format!("It was locked by {session}."),
        Some(None) => "It was locked by a transaction without a session.".to_owned(),
        None => "Other sessions were before this one in its queue.".to_owned(),
    };
    let fault = Fault {
        retry_after_seconds: Some(1),
        ..Fault::new(
            Code::Busy,
            "account_busy",
            format!("account {account_id} was not free in time"),
        )
        .field("account_id")
        .hint("Nothing was booked: ask again, with the same idempotency key.")
    };
    if crate::error::in_http_request() {
        pgrx::log!("account {account_id} was not free in time: {told}");
        fault.raise()
    }
    fault.detail(told).raise()
}
