//! An operation of before, for one that is about it.

use crate::day;
use crate::error::{Fault, Result};
use crate::ledger::account::Account;
use crate::ledger::journal::read_movements;
use crate::ledger::operation::no_such_operation;
use crate::pg::spi::{Param, Plan, Spi};
use loyalty_core::wallet::{Day, EntryNo, Kind, Movement, operation_id};

static ENTRY: Plan = Plan::new(
    c"select kind::text, points, expires_on, null, lot_expires_on, lot_points, lot_class
        from loyalty.entry where account_id = $1 and entry = $2",
);
/// What later entries gave back of a spend, or took back of a grant.
static REFERRING: Plan = Plan::new(
    c"select points, debt from loyalty.entry
       where account_id = $1 and refers_to = $2 and kind in ('refund', 'revoke')",
);

/// An entry read for an operation that is about it.
pub struct Earlier {
    pub kind: Kind,
    pub points: i64,
    pub lots: Vec<Movement>,
    /// What refunds and revokes already gave or took back, debts included.
    pub undone: i64,
}

pub fn earlier(spi: &Spi, account: &Account, entry: EntryNo) -> Result<Earlier> {
    let missing = || no_such_operation(account.account_id, operation_id(account.account_id, entry));
    let key = [Param::i64(account.account_id), Param::i32(entry)];
    let row = ENTRY.execute(spi, &key).first().ok_or_else(missing)?;
    let points = row.i64(2).ok_or_else(missing)?;
    let undone = REFERRING
        .execute(spi, &key)
        .iter()
        .map(|row| row.i64(1).unwrap_or(0).abs() + row.i64(2).unwrap_or(0))
        .sum();
    Ok(Earlier {
        kind: row
            .text(1)
            .as_deref()
            .and_then(Kind::of_text)
            .ok_or_else(missing)?,
        points: points.abs(),
        lots: read_movements(spi, account.program_id, row, 3, points),
        undone,
    })
}

pub fn wrong_kind(kind: Kind, wanted: &str) -> Fault {
    Fault::invalid(
        "operation_of_other_kind",
        format!("the operation is not a {wanted}"),
    )
    .field("operation_id")
    .detail(format!("It is a {}.", kind.label().to_string_lossy()))
    .hint(format!("Give the operation_id of a {wanted}."))
}

/// Days on which the account was active after an entry, oldest first, and what was booked as
/// extended by it.
static ACTIVITY: Plan = Plan::new(
    c"select case when e.kind <> 'extend' then (pg_catalog.timezone(p.time_zone, e.occurred_at))::date end,
             e.lot_expires_on, e.lot_class
        from loyalty.entry e
        join loyalty.program p on p.program_id = $3
       where e.account_id = $1 and e.entry > $2
         and e.kind in ('grant', 'spend', 'hold', 'capture', 'transfer', 'extend')
       order by e.entry",
);
/// The last day by now of the lot that an entry touched: each activity before it lapsed
/// extended it (S10). What was extended while the lot was empty is not in the journal, and so
/// computed from the days of activity; where those are others by now, since the program's time
/// zone is, the lot is where the journal took it.
pub fn last_day_of(spi: &Spi, account: &Account, entry: EntryNo, part: &Movement) -> Day {
    let Some(months) = part.class.inactivity_months else {
        return part.expires_on;
    };
    let params = [
        Param::i64(account.account_id),
        Param::i32(entry),
        Param::i32(account.program_id),
    ];
    let (mut computed, mut booked) = (part.expires_on, part.expires_on);
    for row in ACTIVITY.execute(spi, &params).iter() {
        if let Some(active) = row.i32(1) {
            if active <= computed {
                computed = computed.max(day::months_after(active, months));
            }
        } else if let (Some(days), Some(classes)) = (row.i32s(2), row.i16s(3)) {
            // pairs of what left one day and went to another
            for (days, classes) in days.chunks_exact(2).zip(classes.chunks_exact(2)) {
                if days[0] == booked && classes[0] == part.class.id {
                    booked = days[1];
                    break;
                }
            }
        }
    }
    let is_there = |day| {
        let mut lots = account.wallet.lots.iter();
        lots.any(|lot| lot.expires_on == day && lot.class.id == part.class.id)
    };
    if !is_there(computed) && is_there(booked) {
        booked
    } else {
        computed
    }
}
