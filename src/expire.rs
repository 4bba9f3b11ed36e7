//! The expiry run: books breakage for lots past their day (law 4: it changes nothing that
//! anybody could spend).

use crate::call::{Answer, sql_function};
use crate::clock;
use crate::day;
use crate::error::{Code, Fault, Result};
use crate::fetch::Sight;
use crate::guard::Operating;
use crate::ledger::{self, Needs, Posted, Request, operate, sql};
use crate::receipt::{self, Receipt};
use crate::spi::{Param, Plan, Spi, array_of_days, array_of_i64};
use loyalty_core::wallet::{Day, NEVER};
use pgrx::pg_sys::Datum;

static PROGRAM: Plan = Plan::new(
    c"select program_id, (pg_catalog.timezone(time_zone, loyalty.now()))::date
        from loyalty.program where code = $1",
);
/// The accounts of a program in steps: the end of the next one, and whether the program has
/// most of the ids on the way.
static STEP: Plan = Plan::new(
    c"select max(s.account_id), 2 * count(*) > max(s.account_id) - min(s.account_id)
        from (select a.account_id from loyalty.account a
               where a.program_id = $1 and a.account_id > $2
               order by a.account_id limit $3) s",
);

/// Nearly all wallets: no holds, no lots of a class. One pass, each row found again by its
/// place; what another operation changed meanwhile no longer has the last entry that was
/// read, and is left to the whole arithmetic.
macro_rules! book {
    ($wallets:literal) => {
        Plan::new(sql!(
            "with due as materialized (
          select o.ctid as place, o.last_entry, o.balance, o.lot_expires_on, o.lot_remaining,
                 loyalty.lapsed_lots(o.lot_expires_on, $4) as lapsed
            from ",
            $wallets,
            "
             and o.next_expiry_on < $4 and o.hold_entry is null and o.lot_class is null
           order by o.account_id
           limit $5
      ), booked as (
          update loyalty.wallet w
             set balance = d.balance - loyalty.lapsed_points(d.lot_remaining, d.lapsed),
                 last_entry = d.last_entry + 1,
                 next_expiry_on = loyalty.due_after(d.lot_expires_on, d.lot_remaining, d.lapsed),
                 lot_expires_on = d.lot_expires_on[d.lapsed + 1:],
                 lot_granted = w.lot_granted[d.lapsed + 1:],
                 lot_remaining = d.lot_remaining[d.lapsed + 1:]
            from due d
           where w.ctid = d.place and w.last_entry = d.last_entry
       returning w.account_id, w.last_entry, w.balance, w.balance - d.balance as points,
                 case when d.lapsed = 1 then d.lot_expires_on[1] end as expires_on,
                 case when d.lapsed > 1
                      then loyalty.lapsed_days(d.lot_expires_on, d.lot_remaining, d.lapsed)
                 end as lot_expires_on,
                 case when d.lapsed > 1
                      then loyalty.lapsed_changes(d.lot_remaining, d.lapsed)
                 end as lot_points
      ), line as (
          insert into loyalty.entry
                 (account_id, points, balance, occurred_at, entry, kind, actor,
                  expires_on, lot_expires_on, lot_points)
          select b.account_id, b.points, b.balance, $6, b.last_entry, 'expire', $7,
                 b.expires_on, b.lot_expires_on, b.lot_points
            from booked b
      )
      select count(*), coalesce(sum(coalesce(cardinality(b.lot_points), 1)), 0)::bigint,
             coalesce(-sum(b.points), 0)::bigint
        from booked b"
        ))
    };
}
/// Where the program's accounts lie close together, one walk along the wallets' key.
static BOOK_DENSE: Plan = book!(
    "loyalty.wallet o
           where o.account_id > $2 and o.account_id <= $3 and o.program_id = $1"
);
static BOOK_SPARSE: Plan = book!(
    "loyalty.account a
            join loyalty.wallet o on o.account_id = a.account_id
           where a.program_id = $1 and a.account_id > $2 and a.account_id <= $3"
);
/// The others, which need the whole arithmetic.
static DUE: Plan = Plan::new(
    c"select w.account_id
        from loyalty.account a
        join loyalty.wallet w on w.account_id = a.account_id
       where a.program_id = $1 and a.account_id > $2 and a.account_id <= $3
         and w.next_expiry_on < $4
       order by a.account_id
       limit $5",
);

/// Accounts looked at by one statement: enough to be quick, little enough for memory.
const CHUNK: i64 = 10_000;

sql_function! {
    /// `loyalty.expire(program, as_of, batch_size)`
    fn expire(call) -> Answer {
        let program = call.need("program", call.text(0))?;
        let batch = call.i64(2).unwrap_or(i64::MAX);
        if batch <= 0 {
            return Err(Fault::invalid("batch_size must be above zero")
                .hint("Leave it out to book all that is due."));
        }
        let spi = Spi::connect();
        let row = PROGRAM.run(&spi, &[Param::text(program.as_str())]).first();
        let (Some(program_id), Some(today)) = (
            row.and_then(|row| row.i32(1)),
            row.and_then(|row| row.i32(2)),
        ) else {
            return Err(no_such_program(&program));
        };
        let as_of = call.i32(1).unwrap_or(today);
        if as_of > today {
            return Err(Fault::invalid("as_of lies in the future")
                .detail(format!("Today is {} in the program's time zone.", day::date(today)?))
                .hint("Points are spendable through their last day; leave as_of out for today."));
        }
        let mut total = Booked::default();
        let mut from = 0i64;
        while total.accounts < batch {
            let step = [Param::i32(program_id), Param::i64(from), Param::i64(CHUNK)];
            let step = STEP.run(&spi, &step).first();
            let Some(to) = step.and_then(|row| row.i64(1)) else {
                break;
            };
            let plan = match step.and_then(|row| row.bool(2)) {
                Some(true) => &BOOK_DENSE,
                _ => &BOOK_SPARSE,
            };
            let span = [
                Param::i32(program_id),
                Param::i64(from),
                Param::i64(to),
                Param::day(as_of),
            ];
            // What lies between as_of and today stays, and the quick way knows of none.
            if as_of == today {
                total.add(&book_plain(&spi, plan, &span, batch - total.accounts));
            }
            let room = batch - total.accounts;
            from = to;
            if room > 0 {
                let mut due = span.to_vec();
                due.push(Param::i64(room));
                let due: Vec<i64> = DUE
                    .run(&spi, &due)
                    .iter()
                    .filter_map(|row| row.i64(1))
                    .collect();
                if let Some(last) = due.last() {
                    total.add(&book(&spi, &due, as_of)?);
                    if due.len() as i64 == room && total.accounts < batch {
                        // The limit cut the span short: go on behind the last one looked at.
                        from = *last;
                    }
                }
            }
        }
        let (lots, points) = (total.lots, total.points);
        drop(spi);
        Ok(Answer::Row(vec![Some(Datum::from(lots)), Some(Datum::from(points))]))
    }
}

pub fn no_such_program(code: &str) -> Fault {
    Fault::new(Code::NotFound, "no such program")
        .detail(format!("'{code}' given."))
        .hint("select code from loyalty.program lists them.")
}

/// What was booked.
#[derive(Default)]
struct Booked {
    accounts: i64,
    lots: i64,
    points: i64,
}

impl Booked {
    fn add(&mut self, other: &Booked) {
        self.accounts += other.accounts;
        self.lots += other.lots;
        self.points += other.points;
    }
}

/// Books what is due of a span of accounts, in one statement.
fn book_plain(spi: &Spi, plan: &'static Plan, span: &[Param], limit: i64) -> Booked {
    let mut params = span.to_vec();
    let actor = receipt::actor();
    params.extend([
        Param::i64(limit),
        Param::instant(clock::now()),
        Param::text(actor.as_str()),
    ]);
    let _operating = Operating::begin();
    let row = plan.run(spi, &params).first();
    let count = |column| row.and_then(|row| row.i64(column)).unwrap_or(0);
    Booked {
        accounts: count(1),
        lots: count(2),
        points: count(3),
    }
}

sql_function! {
    /// How many lots at the head of a wallet lie before a day: `loyalty.lapsed_lots`.
    fn lapsed_lots(call) -> i32 {
        let (Some(days), Some(day)) = (call.i32s(0), call.i32(1)) else {
            return Ok(0);
        };
        Ok(days.partition_point(|lot| *lot < day) as i32)
    }
}

sql_function! {
    /// What the first so many lots hold: `loyalty.lapsed_points`.
    fn lapsed_points(call) -> i64 {
        let (Some(remaining), Some(count)) = (call.i64s(0), call.i32(1)) else {
            return Ok(0);
        };
        Ok(remaining.iter().take(count as usize).sum())
    }
}

sql_function! {
    /// The `next_expiry_on` of a wallet without its first so many lots: `loyalty.due_after`.
    fn due_after(call) -> Option<i32> {
        let (Some(days), Some(remaining), Some(count)) =
            (call.i32s(0), call.i64s(1), call.i32(2))
        else {
            return Ok(None);
        };
        Ok(days
            .iter()
            .zip(&remaining)
            .skip(count as usize)
            .find(|(_, points)| **points > 0)
            .map(|(day, _)| *day)
            .filter(|day| *day != NEVER))
    }
}

sql_function! {
    /// The days of those of the first so many lots that hold anything: `loyalty.lapsed_days`.
    fn lapsed_days(call) -> Answer {
        let (Some(days), Some(remaining), Some(count)) =
            (call.i32s(0), call.i64s(1), call.i32(2))
        else {
            return Ok(Answer::Null);
        };
        let days: Vec<Day> = days
            .into_iter()
            .zip(&remaining)
            .take(count as usize)
            .filter_map(|(day, points)| (*points > 0).then_some(day))
            .collect();
        Ok(Answer::Value(array_of_days(&days)))
    }
}

sql_function! {
    /// What booking takes from each of these lots: `loyalty.lapsed_changes`.
    fn lapsed_changes(call) -> Answer {
        let (Some(remaining), Some(count)) = (call.i64s(0), call.i32(1)) else {
            return Ok(Answer::Null);
        };
        let changes: Vec<i64> = remaining
            .iter()
            .take(count as usize)
            .filter_map(|points| (*points > 0).then_some(-points))
            .collect();
        Ok(Answer::Value(array_of_i64(&changes)))
    }
}

/// Books what is due of these accounts.
fn book(spi: &Spi, account_ids: &[i64], as_of: Day) -> Result<Booked> {
    let request = Request::default();
    let mut booked = Booked::default();
    let mut changed: Vec<(ledger::Account, Vec<Posted>)> = Vec::new();
    for mut account in ledger::load_many_locked(spi, account_ids)? {
        let mut entries = account.wallet.release_lapsed(account.now);
        // Holds past their time pin nothing; ending them in the journal waits for a booking.
        let Some(expired) = account.wallet.expire(as_of, account.now) else {
            continue;
        };
        let main = entries.len();
        booked.accounts += 1;
        booked.lots += expired.lots.len() as i64;
        booked.points -= expired.points;
        entries.push(expired);
        let posted = account.post(entries, main, &request)?;
        changed.push((account, posted));
    }
    let changes: Vec<_> = changed
        .iter()
        .map(|(account, posted)| (account, posted.as_slice()))
        .collect();
    if !changes.is_empty() && !ledger::save_many(spi, &changes) {
        return Err(Fault::invalid("an account changed under its own lock"));
    }
    Ok(booked)
}

sql_function! {
    /// Forfeits all that an account holds, before it is closed:
    /// `loyalty.forfeit(account_id, reason)`. Null when there was nothing.
    fn forfeit(call) -> Option<Receipt> {
        let account_id = call.need("account_id", call.i64(0))?;
        let reason = call.text(1);
        let request = Request { reason: reason.as_deref(), ..Request::default() };
        let empty = {
            let spi = Spi::connect();
            ledger::load(&spi, account_id, None, Sight::Now)?.wallet.balance() == 0
        };
        if empty {
            return Ok(None);
        }
        operate(account_id, &request, Needs::NotClosed, |_, account| {
            Ok(account.wallet.forfeit_all(account.now).into_iter().collect())
        })
        .map(Some)
    }
}
