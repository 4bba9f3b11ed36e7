//! The balance of an account: now, as it was, and as it will be.

use crate::clock;
use crate::error::Result;
use crate::ledger::account::{Account, no_such_account};
use crate::ledger::journal::read_movements;
use crate::ledger::load::load;
use crate::ledger::receipt::never;
use crate::pg::call::{Answer, Call, sql_function};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{Param, Plan, Spi};
use crate::program;
use crate::table::wallet;
use loyalty_core::wallet::{Day, Hold, Instant, Kind, Wallet};
use pgrx::pg_sys::Datum;

static HISTORY: Plan = Plan::stable(
    c"select entry, kind::text, points, held, refers_to, hold_until,
             expires_on, null, lot_expires_on, lot_points, lot_class
        from loyalty.entry
       where account_id = $1 and occurred_at <= $2
       order by entry",
);

/// What `loyalty.balance` returns.
struct Balance {
    balance: i64,
    held: i64,
    available: i64,
    next: Option<(Day, i64)>,
}

sql_function!(balance);
/// `loyalty.balance(account_id, as_of)`
fn balance(call: &Call) -> Result<Answer> {
    let account_id = call.need("account_id", call.i64(0))?;
    let now = clock::now();
    let balance = match call.i64(1) {
        None => current(account_id, now)?,
        Some(as_of) if as_of >= now => projected(&Spi::as_owner().reading(), account_id, as_of)?,
        Some(as_of) => historic(&Spi::as_owner().reading(), account_id, as_of)?,
    };
    Ok(Answer::Row(vec![
        Some(Datum::from(balance.balance)),
        Some(Datum::from(balance.held)),
        Some(Datum::from(balance.available)),
        balance.next.map(|(day, _)| Datum::from(day)),
        balance.next.map(|(_, points)| Datum::from(points)),
    ]))
}

/// The answer of nearly every call, with no more work than it takes: no holds are open.
fn current(account_id: i64, now: Instant) -> Result<Balance> {
    let row =
        wallet::wallet(account_id, Snapshot::Active)?.ok_or_else(|| no_such_account(account_id))?;
    if row.hold_entry.is_some() {
        let account = load(&Spi::as_owner().reading(), account_id, Snapshot::Active)?;
        return Ok(of_wallet(&account.wallet, account.today, now));
    }
    let today = program::get(row.program_id)?.day_of(now);
    let live = || {
        row.lot_expires_on
            .iter()
            .zip(&row.lot_remaining)
            .filter(|(day, points)| **day >= today && **points > 0)
    };
    let first = live().next().and_then(|(day, _)| never(*day));
    let points_on = |wanted| {
        live()
            .filter(|(day, _)| **day == wanted)
            .map(|(_, points)| *points)
            .sum()
    };
    Ok(Balance {
        balance: row.balance,
        held: 0,
        available: live().map(|(_, points)| *points).sum(),
        next: first.map(|day| (day, points_on(day))),
    })
}

fn of_wallet(wallet: &Wallet, today: Day, now: Instant) -> Balance {
    Balance {
        balance: wallet.balance(),
        held: wallet.held(now),
        available: wallet.available(today, now),
        next: wallet.next_expiry(today, now),
    }
}

/// As it will be if nothing happens but time: holds lapse, and breakage is booked each night.
fn projected(spi: &Spi, account_id: i64, as_of: Instant) -> Result<Balance> {
    let mut account = load(spi, account_id, Snapshot::Active)?;
    let today = day_of(&account, as_of)?;
    if today > account.today {
        account.wallet.release_lapsed(as_of);
        account.wallet.expire(today, as_of);
    }
    Ok(of_wallet(&account.wallet, today, as_of))
}

/// As it was: the journal up to then, played again.
fn historic(spi: &Spi, account_id: i64, as_of: Instant) -> Result<Balance> {
    let account = load(spi, account_id, Snapshot::Active)?;
    let today = day_of(&account, as_of)?;
    let mut wallet = Wallet::default();
    let params = [Param::i64(account_id), Param::instant(as_of)];
    for row in HISTORY.execute(spi, &params).iter() {
        let Some(kind) = row.text(2).as_deref().and_then(Kind::of_text) else {
            continue;
        };
        let whole = match kind {
            Kind::Hold | Kind::Release => row.i64(4),
            _ => row.i64(3),
        };
        let lots = read_movements(spi, account.program_id, row, 7, whole.unwrap_or(0));
        match kind {
            Kind::Hold => wallet.holds.push(Hold {
                entry: row.i32(1).unwrap_or_default(),
                until: row.i64(6).unwrap_or_default(),
                pins: lots.clone(),
            }),
            Kind::Capture | Kind::Release => {
                let hold = row.i32(5);
                wallet.holds.retain(|open| Some(open.entry) != hold);
            }
            _ => {}
        }
        if kind.moves_points() {
            wallet.replay(&lots);
        }
    }
    Ok(of_wallet(&wallet, today, as_of))
}

fn day_of(account: &Account, instant: Instant) -> Result<Day> {
    Ok(program::get(account.program_id)?.day_of(instant))
}
