//! The expiry run: books breakage for lots past their day (law 4: it changes nothing that
//! anybody could spend).

use crate::clock;
use crate::day;
use crate::error::{Fault, Result};
use crate::ledger::load::load;
use crate::ledger::operate::{Sweep, operate};
use crate::ledger::operation::{Needs, Request};
use crate::ledger::receipt::Receipt;
use crate::pg::call::{Answer, Call, sql_function};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{Param, Plan, Spi};
use crate::program;
use loyalty_core::wallet::Day;
use pgrx::pg_sys::Datum;

/// The accounts of a program in steps: the first and the last of the next one, and whether the
/// program has most of the ids between them.
static STEP: Plan = Plan::new(
    c"select min(s.account_id), max(s.account_id),
             2 * count(*) > max(s.account_id) - min(s.account_id)
        from (select a.account_id from loyalty.account a
               where a.program_id = $1 and a.account_id > $2
               order by a.account_id limit $3) s",
);

/// Accounts of a span with lots past a day. Where the program's accounts lie close together,
/// one walk along the wallets' key.
static DUE_DENSE: Plan = Plan::new(
    c"select w.account_id
        from loyalty.wallet w
       where w.account_id >= $2 and w.account_id <= $3 and w.program_id = $1
         and w.next_expiry_on < $4
       order by w.account_id
       limit $5",
);
static DUE_SPARSE: Plan = Plan::new(
    c"select w.account_id
        from loyalty.account a
        join loyalty.wallet w on w.account_id = a.account_id
       where a.program_id = $1 and a.account_id >= $2 and a.account_id <= $3
         and w.next_expiry_on < $4
       order by a.account_id
       limit $5",
);

/// Accounts looked at by one statement: enough to be quick, little enough for memory.
const CHUNK: i64 = 10_000;

sql_function!(expire);
/// `loyalty.expire(program, as_of, batch_size)`
fn expire(call: &Call) -> Result<Answer> {
    let program = call.need("program", call.text(0))?;
    let batch = call.i64(2).unwrap_or(i64::MAX);
    if batch <= 0 {
        return Err(
            Fault::invalid("out_of_range", "batch_size must be above zero")
                .field("batch_size")
                .hint("Leave it out to book all that is due."),
        );
    }
    let (program_id, today) = program::today(&program)?;
    let spi = Spi::connect();
    let as_of = past(call.i32(1).unwrap_or(today), today)?;
    let mut total = Booked::default();
    let mut from = Some(0);
    while let Some(start) = from.filter(|_| total.accounts < batch) {
        let room = batch - total.accounts;
        let (booked, next) = step(&spi, program_id, as_of, start, CHUNK, room)?;
        total.add(&booked);
        from = next;
    }
    Ok(Answer::Row(vec![
        Some(Datum::from(total.lots)),
        Some(Datum::from(total.points)),
    ]))
}

sql_function!(expire_step);
/// `loyalty_private.expire_step(program_id, as_of, from_account, row_limit)`
fn expire_step(call: &Call) -> Result<Answer> {
    let program_id = call.need("program_id", call.i32(0))?;
    let as_of = call.need("as_of", call.i32(1))?;
    let from = call.i64(2).unwrap_or(0);
    let limit = call.need("row_limit", call.i64(3))?;
    if limit <= 0 {
        return Err(
            Fault::invalid("out_of_range", "row_limit must be above zero").field("row_limit"),
        );
    }
    let spi = Spi::connect();
    let as_of = past(as_of, program::get(program_id)?.day_of(clock::now()))?;
    let (booked, next) = step(&spi, program_id, as_of, from, limit, i64::MAX)?;
    Ok(Answer::Row(vec![
        next.map(Datum::from),
        Some(Datum::from(booked.accounts)),
        Some(Datum::from(booked.lots)),
        Some(Datum::from(booked.points)),
    ]))
}

/// Breakage is booked for days past only.
fn past(as_of: Day, today: Day) -> Result<Day> {
    if as_of <= today {
        return Ok(as_of);
    }
    Err(Fault::invalid("day_in_future", "as_of is in the future")
        .field("as_of")
        .detail(format!(
            "Today is {} in the program's time zone.",
            day::date(today)?
        ))
        .hint("Points are spendable through their last day; leave as_of out for today."))
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

/// Looks at the program's next accounts behind `from`, at most `limit` of them, and books what
/// is due on at most `room`. With it comes the account to go on from; none when there are no
/// more.
fn step(
    spi: &Spi,
    program_id: i32,
    as_of: Day,
    from: i64,
    limit: i64,
    room: i64,
) -> Result<(Booked, Option<i64>)> {
    let span = [Param::i32(program_id), Param::i64(from), Param::i64(limit)];
    let Some((first, to, is_dense)) = STEP
        .execute(spi, &span)
        .first()
        .and_then(|row| Some((row.i64(1)?, row.i64(2)?, row.bool(3)?)))
    else {
        return Ok((Booked::default(), None));
    };
    let plan = if is_dense { &DUE_DENSE } else { &DUE_SPARSE };
    // Not from where the last step ended: other programs' accounts may lie between.
    let due = [
        Param::i32(program_id),
        Param::i64(first),
        Param::i64(to),
        Param::day(as_of),
        Param::i64(room),
    ];
    let due = plan.execute(spi, &due);
    let mut booked = Booked::default();
    let mut last = None;
    let mut sweep = Sweep::begin(spi)?;
    for account_id in due.iter().filter_map(|row| row.i64(1)) {
        let mut lots = None;
        sweep.change(account_id, |account, _| {
            lots = None;
            let mut entries = account.wallet.release_lapsed(account.now);
            // Holds past their time pin nothing; ending them in the journal waits for a booking.
            let Some(expired) = account.wallet.expire(as_of, account.now) else {
                return Ok(Vec::new());
            };
            let main = entries.len();
            lots = Some((expired.lots.len() as i64, expired.points));
            entries.push(expired);
            account.post(entries, main, &Request::default())
        })?;
        if let Some((lots, points)) = lots {
            booked.accounts += 1;
            booked.lots += lots;
            booked.points -= points;
        }
        last = Some(account_id);
    }
    sweep.finish()?;
    // Where the room cut the span short, go on behind the last one looked at.
    let cut = due.len() as i64 == room;
    Ok((booked, if cut { last } else { Some(to) }))
}

sql_function!(forfeit);
/// Forfeits all that an account holds, before it is closed:
/// `loyalty_private.forfeit(account_id, reason)`. Null when there was nothing.
fn forfeit(call: &Call) -> Result<Option<Receipt>> {
    let account_id = call.need("account_id", call.i64(0))?;
    let reason = call.text(1);
    let request = Request {
        reason: reason.as_deref(),
        ..Request::default()
    };
    let empty = {
        let spi = Spi::connect();
        load(&spi, account_id, Snapshot::Transaction)?
            .wallet
            .balance()
            == 0
    };
    if empty {
        return Ok(None);
    }
    let mut is_left = true;
    let forfeited = operate(account_id, &request, Needs::NotClosed, |_, account| {
        let entry = account.wallet.forfeit_all(account.now);
        is_left = entry.is_some();
        // Spent meanwhile, or all of it is held: closing the account tells.
        entry
            .map(|entry| vec![entry])
            .ok_or_else(|| Fault::invalid("nothing_left", "nothing is left to forfeit"))
    });
    match forfeited {
        Err(_) if !is_left => Ok(None),
        forfeited => forfeited.map(Some),
    }
}
