//! The operations on one account, as SQL calls them. The arithmetic is `loyalty_core`'s, the
//! reading and writing `ledger`'s; here arguments are checked and terms are looked up.

use crate::call::sql_function;
use crate::day;
use crate::error::{Code, Fault, Result};
use crate::expiry;
use crate::fetch::Reader;
use crate::ledger::{self, Account, Needs, Posted, Request, operate};
use crate::receipt::Receipt;
use crate::row::read_movements;
use crate::scan::Sight;
use crate::spi::{Param, Plan, Spi};
use crate::write::Writer;
use loyalty_core::wallet::{
    Class, Day, Entry, EntryNo, Kind, LapsedRefund, Movement, NEVER, Shortfall, Spent,
    operation_id, operation_parts,
};
use std::fmt::Write as _;

/// Hash of all that a caller gave: the same key with another of these is another request.
fn request_hash(parts: &[&dyn std::fmt::Display]) -> i32 {
    let mut text = String::with_capacity(64);
    for part in parts {
        // Writing into a String cannot fail.
        let _ = write!(text, "{part}\u{1f}");
    }
    // A stored value: xxh3 is fixed by its specification.
    xxhash_rust::xxh3::xxh3_64(text.as_bytes()) as i32
}

/// An optional part of a request.
struct Given<T>(Option<T>);

impl<T: std::fmt::Display> std::fmt::Display for Given<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(value) => write!(f, "={value}"),
            None => Ok(()),
        }
    }
}

/// The request of a grant, alone or one of many: the same key may come either way (law 6).
pub fn grant_hash(points: i64, reason: Option<&str>, wanted: &Wanted) -> i32 {
    request_hash(&[
        &"grant",
        &points,
        &Given(reason),
        &Given(wanted.granted_on),
        &Given(wanted.expires_on),
        &Given(wanted.funding),
        &Given(wanted.policy),
    ])
}

/// The request of a spend, likewise.
pub fn spend_hash(points: i64, reason: Option<&str>) -> i32 {
    request_hash(&[&"spend", &points, &Given(reason)])
}

/// Points must be above zero.
pub fn positive(points: i64) -> Result<i64> {
    if points > 0 {
        return Ok(points);
    }
    Err(
        Fault::invalid("points_not_positive", "points must be above zero")
            .field("points")
            .detail(format!("{points} given."))
            .hint("Whole points from 1; each kind of operation knows its own direction."),
    )
}

/// The entry number of an operation of that account.
fn entry_of(account_id: i64, operation_id: i64) -> Result<EntryNo> {
    match operation_parts(operation_id) {
        (account, entry) if account == account_id && entry > 0 => Ok(entry),
        _ => Err(no_such_operation(account_id, operation_id)),
    }
}

fn no_such_operation(account_id: i64, operation_id: i64) -> Fault {
    Fault::new(Code::NotFound, "no_such_operation", "no such operation")
        .field("operation_id")
        .detail(format!(
            "Account {account_id} has no operation {operation_id}."
        ))
        .hint("The operation_id is in the receipt, and in loyalty.statement(account_id).")
}

/// What a grant asks of its lot; what is left open the program decides.
#[derive(Default)]
pub struct Wanted<'a> {
    pub granted_on: Option<Day>,
    pub expires_on: Option<Day>,
    pub policy: Option<&'a str>,
    pub funding: Option<&'a str>,
    /// Whether the last day may have passed: a payment that downtime delayed is booked, and
    /// lapses, as it would have been in time.
    pub late: bool,
}

/// What a grant's lot will be.
pub struct Terms {
    pub granted_on: Day,
    pub expires_on: Day,
    pub class: Class,
}

static CLASS: Plan = Plan::new(c"select loyalty.lot_class_of($1, $2, $3)");

/// The terms of a grant, frozen with it (law 9).
pub fn terms(spi: &Spi, account: &Account, wanted: &Wanted) -> Result<Terms> {
    let granted_on = wanted.granted_on.unwrap_or(account.today);
    let granted_date = day::date(granted_on)?;
    if granted_on > account.today {
        return Err(
            Fault::invalid("granted_on_in_future", "granted_on is in the future")
                .field("granted_on")
                .detail(format!(
                    "{granted_date} given; today is {} in the program's time zone.",
                    day::date(account.today)?
                ))
                .hint("Grant on the day itself, by a rule or a schedule."),
        );
    }
    let mut inactivity = None;
    let expires_on = match wanted.expires_on {
        Some(day) => day,
        None => {
            let policy = match wanted.policy {
                Some(policy) => expiry::parse(policy)?,
                None => account.program.expiry,
            };
            inactivity = policy.inactivity_months();
            policy
                .expires_on(granted_date)
                .map_err(|error| {
                    Fault::invalid(error.reason(), error.to_string())
                        .field("expires_on")
                        .hint("Give expires_on, or change the program's expiry policy.")
                })?
                .map_or(NEVER, day::day)
        }
    };
    if expires_on != NEVER {
        let expires_date = day::date(expires_on)?;
        if expires_on < granted_on {
            return Err(Fault::invalid("expires_before_grant", "expires_on is before granted_on")
                .field("expires_on")
                .detail(format!(
                    "Granted on {granted_date}, to expire on {expires_date}."
                ))
                .hint(
                    "Points are spendable through expires_on, so it is granted_on at the earliest.",
                ));
        }
        if expires_on < account.today && !wanted.late {
            return Err(Fault::invalid("expires_on_passed", "expires_on has passed")
                .field("expires_on")
                .detail(format!(
                    "To expire on {expires_date}; today is {} in the program's time zone.",
                    day::date(account.today)?
                ))
                .hint("Give an expires_on from today on."));
        }
    }
    let class = if wanted.funding.is_none() && inactivity.is_none() {
        Class::default()
    } else {
        let id = CLASS
            .run(
                spi,
                &[
                    Param::i32(account.program_id),
                    Param::text(wanted.funding),
                    Param::i32(inactivity.map(i32::from)),
                ],
            )
            .first()
            .and_then(|row| row.i16(1))
            .unwrap_or(0);
        Class {
            id,
            inactivity_months: inactivity,
        }
    };
    Ok(Terms {
        granted_on,
        expires_on,
        class,
    })
}

sql_function! {
    /// `loyalty.grant(account_id, points, reason, granted_on, expires_on, idempotency_key, funding, expiry)`
    fn grant(call) -> Receipt {
        let account_id = call.need("account_id", call.i64(0))?;
        let points = positive(call.need("points", call.i64(1))?)?;
        let (reason, key) = (call.text(2), call.text(5));
        let (granted_on, expires_on) = (call.i32(3), call.i32(4));
        let (funding, policy) = (call.text(6), call.text(7));
        let wanted = Wanted {
            granted_on,
            expires_on,
            policy: policy.as_deref(),
            funding: funding.as_deref(),
            late: false,
        };
        let request = Request {
            reason: reason.as_deref(),
            key: key.as_deref(),
            hash: grant_hash(points, reason.as_deref(), &wanted),
            activity: true,
            ..Request::default()
        };
        operate(account_id, &request, Needs::NotClosed, |spi, account| {
            let terms = terms(spi, account, &wanted)?;
            account.granted_on = Some(terms.granted_on);
            Ok(account.wallet.grant(points, terms.expires_on, terms.class)?)
        })
    }
}

sql_function! {
    /// `loyalty.spend_fifo(account_id, points, reason, idempotency_key)`
    fn spend_fifo(call) -> Receipt {
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
            Ok(vec![account.wallet.spend(points, account.today, account.now)?])
        })
    }
}

/// A hold lasts at most so long, in microseconds: a year.
const LONGEST_HOLD: i64 = 366 * 24 * 3600 * 1_000_000;

sql_function! {
    /// `loyalty.hold(account_id, points, expires_in microseconds, reason, idempotency_key)`
    fn hold(call) -> Receipt {
        let account_id = call.need("account_id", call.i64(0))?;
        let points = positive(call.need("points", call.i64(1))?)?;
        let expires_in = call.need("expires_in", call.i64(2))?;
        let (reason, key) = (call.text(3), call.text(4));
        if !(1..=LONGEST_HOLD).contains(&expires_in) {
            return Err(Fault::invalid("expires_in_invalid", "expires_in must be above zero, and at most a year")
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
}

sql_function! {
    /// `loyalty.capture(account_id, operation_id, points, reason, idempotency_key)`
    fn capture(call) -> Receipt {
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
}

sql_function! {
    /// `loyalty.release(account_id, operation_id, reason, idempotency_key)`
    fn release(call) -> Receipt {
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
}

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
struct Earlier {
    kind: Kind,
    points: i64,
    lots: Vec<Movement>,
    /// What refunds and revokes already gave or took back, debts included.
    undone: i64,
}

fn earlier(spi: &Spi, account: &Account, entry: EntryNo) -> Result<Earlier> {
    let missing = || no_such_operation(account.account_id, operation_id(account.account_id, entry));
    let key = [Param::i64(account.account_id), Param::i32(entry)];
    let row = ENTRY.run(spi, &key).first().ok_or_else(missing)?;
    let points = row.i64(2).ok_or_else(missing)?;
    let undone = REFERRING
        .run(spi, &key)
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

fn wrong_kind(kind: Kind, wanted: &str) -> Fault {
    Fault::invalid(
        "operation_of_other_kind",
        format!("the operation is not a {wanted}"),
    )
    .field("operation_id")
    .detail(format!("It is a {}.", kind.label().to_string_lossy()))
    .hint(format!("Give the operation_id of a {wanted}."))
}

sql_function! {
    /// `loyalty.refund(account_id, operation_id, points, reason, idempotency_key)`
    fn refund(call) -> Receipt {
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
            Ok(account.wallet.refund(spend, points, &spent, lapsed, today)?)
        })
    }
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
static GRACE_CLASS: Plan = Plan::new(
    c"select loyalty.lot_class_of(c.program_id, c.funding, null)
        from loyalty.lot_class c where c.program_id = $1 and c.lot_class = $2",
);

/// The last day by now of the lot that an entry touched: each activity before it lapsed
/// extended it (S10). What was extended while the lot was empty is not in the journal, and so
/// reckoned from the days of activity; where those are others by now, since the program's time
/// zone is, the lot is where the journal took it.
fn last_day_of(spi: &Spi, account: &Account, entry: EntryNo, part: &Movement) -> Day {
    let Some(months) = part.class.inactivity_months else {
        return part.expires_on;
    };
    let params = [
        Param::i64(account.account_id),
        Param::i32(entry),
        Param::i32(account.program_id),
    ];
    let (mut reckoned, mut booked) = (part.expires_on, part.expires_on);
    for row in ACTIVITY.run(spi, &params).iter() {
        if let Some(active) = row.i32(1) {
            if active <= reckoned {
                reckoned = reckoned.max(day::months_after(active, months));
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
    if !is_there(reckoned) && is_there(booked) {
        booked
    } else {
        reckoned
    }
}

/// The class with the same funding and a fixed day.
fn grace_class(spi: &Spi, account: &Account, class: Class) -> Class {
    if class.inactivity_months.is_none() {
        return class;
    }
    let params = [Param::i32(account.program_id), Param::i16(class.id)];
    Class {
        id: GRACE_CLASS
            .run(spi, &params)
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

static SPENT_OF_LOT: Plan = Plan::new(c"select loyalty.spent_of_lot($1, $2, $3)");

sql_function! {
    /// `loyalty.revoke(account_id, operation_id, points, policy, reason, idempotency_key)`
    fn revoke(call) -> Receipt {
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
                &"revoke", &grant, &Given(points), &policy, &Given(reason.as_ref()),
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
                    .run(spi, &[
                        Param::i64(account_id),
                        Param::day(lot.expires_on),
                        Param::i16(lot.class.id),
                    ])
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
            Ok(vec![account.wallet.revoke(grant, points, left, lot, shortfall, now)?])
        })
    }
}

sql_function! {
    /// `loyalty.transfer(from_account, to_account, points, reason, idempotency_key)`
    fn transfer(call) -> Receipt {
        let from = call.need("from_account", call.i64(0))?;
        let to = call.need("to_account", call.i64(1))?;
        let points = positive(call.need("points", call.i64(2))?)?;
        let (reason, key) = (call.text(3), call.text(4));
        if from == to {
            return Err(Fault::invalid("accounts_same", "from_account and to_account are the same")
                .field("to_account")
                .hint("A transfer is between two accounts."));
        }
        let request = Request {
            reason: reason.as_deref(),
            key: key.as_deref(),
            hash: request_hash(&[&"transfer", &to, &points, &Given(reason.as_ref())]),
            ..Request::default()
        };
        ledger::check_request(&request)?;
        let spi = Spi::connect();
        let mut accounts = ledger::load_many_locked(&spi, &[from, to])?;
        if let Some(sender) = accounts.iter().find(|account| account.account_id == from) {
            // Under the lock the key is known, if it ever was.
            let mut reader = Reader::open(Sight::Now)?;
            let stored = ledger::stored_receipt(&spi, sender, &mut reader, &request)?;
            if let Some(receipt) = stored {
                return Ok(receipt);
            }
        }
        for id in [from, to] {
            if !accounts.iter().any(|account| account.account_id == id) {
                return Err(ledger::no_such_account(id));
            }
        }
        accounts.sort_by_key(|account| account.account_id != from);
        let [sender, receiver] = accounts.as_mut_slice() else {
            return Err(ledger::no_such_account(to));
        };
        if sender.program_id != receiver.program_id {
            return Err(Fault::invalid("accounts_of_different_programs", "the accounts belong to different programs")
                .field("to_account")
                .hint("Points stay within their program."));
        }
        sender.check_status(Needs::Open)?;
        receiver.check_status(Needs::NotClosed)?;
        let mut sent = sender.prepare(true)?;
        let own = sent.len();
        let mut received = receiver.prepare(true)?;
        let theirs = received.len();
        let entry: Entry = sender.wallet.send(points, sender.today, sender.now)?;
        received.push(receiver.wallet.receive(&entry)?);
        sent.push(entry);
        sender.wallet.tidy(sender.today);
        receiver.wallet.tidy(receiver.today);
        let mut sent: Vec<Posted> = sender.post(sent, own, &request)?;
        let told = Request { reason: request.reason, ..Request::default() };
        let mut received = receiver.post(received, theirs, &told)?;
        sent[own].other = Some((receiver.account_id, received[theirs].number));
        received[theirs].other = Some((sender.account_id, sent[own].number));
        let mut writer = Writer::open(&spi)?;
        for (account, posted) in [(&*sender, &sent), (&*receiver, &received)] {
            if !writer.put(account, posted)? {
                return Err(ledger::changed_under_lock());
            }
        }
        writer.finish()?;
        Ok(sender.receipt(&sent, own))
    }
}
