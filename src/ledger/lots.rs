//! The lots of an account, and which of them a spend would take.

use crate::error::Result;
use crate::ledger::load::load;
use crate::ledger::operation::{Needs, positive};
use crate::ledger::receipt::never;
use crate::pg::call::{Call, sql_function};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::Spi;
use pgrx::pg_sys::Datum;

sql_function!(explain_spend);
/// `loyalty.explain_spend(account_id, points)`
fn explain_spend(call: &Call) -> Result<()> {
    let account_id = call.need("account_id", call.i64(0))?;
    let points = positive(call.need("points", call.i64(1))?)?;
    let (taken, lots) = {
        let spi = Spi::connect().reading();
        let account = load(&spi, account_id, Snapshot::Active)?;
        account.check_status(Needs::Open)?;
        let taken = account
            .wallet
            .allocate(points, account.today, account.now)?;
        (taken, account.wallet.lots)
    };
    let sink = call.rows();
    for (number, part) in (1i32..).zip(&taken) {
        let lot = lots
            .iter()
            .find(|lot| lot.expires_on == part.expires_on && lot.class == part.class);
        sink.put(&[
            Some(Datum::from(number)),
            never(part.expires_on).map(Datum::from),
            Some(Datum::from(part.points)),
            lot.map(|lot| Datum::from(lot.remaining - part.points)),
        ]);
    }
    Ok(())
}

sql_function!(lot_rows);
/// `loyalty_private.lot_rows(account_id)`
fn lot_rows(call: &Call) -> Result<()> {
    let account_id = call.need("account_id", call.i64(0))?;
    let account = {
        let spi = Spi::connect().reading();
        load(&spi, account_id, Snapshot::Active)?
    };
    let sink = call.rows();
    for lot in &account.wallet.lots {
        let held = account.wallet.pinned(lot, account.now);
        sink.put(&[
            never(lot.expires_on).map(Datum::from),
            Some(Datum::from(lot.granted)),
            Some(Datum::from(lot.remaining)),
            Some(Datum::from(held)),
            Some(Datum::from(lot.expires_on >= account.today)),
            Some(Datum::from(lot.class.id)),
        ]);
    }
    Ok(())
}
