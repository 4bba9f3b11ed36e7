//! Thousands of grants or spends in one call: account after account, in id order, each read,
//! changed by all of its items, and written (laws 3 and 6 hold for each item as for a single
//! call).

use crate::error::{Code, Fault, Result};
use crate::ledger::account::{Account, Posted, no_such_account};
use crate::ledger::announce::News;
use crate::ledger::grant::{Wanted, grant_hash, terms};
use crate::ledger::journal::stored_receipt;
use crate::ledger::operate::Sweep;
use crate::ledger::operation::{Needs, Request, check_request, positive};
use crate::ledger::reader::Reader;
use crate::ledger::receipt::{Receipt, key_reused};
use crate::ledger::spend::spend_hash;
use crate::pg::call::{Call, sql_function};
use crate::pg::datum::text;
use crate::pg::spi::Spi;
use crate::pg::tuple_desc::type_of;
use crate::table::entry::Kinds;
use chrono::NaiveDate;
use loyalty_core::wallet::{Day, Entry};
use pgrx::pg_sys::Datum;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashMap;

/// Items one call may bring: what one transaction should lock and have in memory.
const ITEMS_PER_CALL: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item<'a> {
    account_id: Option<i64>,
    points: Option<i64>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    granted_on: Option<NaiveDate>,
    expires_on: Option<NaiveDate>,
    #[serde(borrow)]
    idempotency_key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    funding: Option<Cow<'a, str>>,
}

/// One thing to book on an account.
struct Booking<'a> {
    points: i64,
    verb: Verb,
    wanted: Wanted<'a>,
    request: Request<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Grant,
    Spend,
}

sql_function!(grant_many);
/// `loyalty_private.grant_items(items, program_id)`
fn grant_many(call: &Call) -> Result<()> {
    many(
        call,
        &call.need("items", call.text(0))?,
        call.i32(1),
        Verb::Grant,
    )
}

sql_function!(spend_many);
/// `loyalty_private.spend_items(items, program_id)`
fn spend_many(call: &Call) -> Result<()> {
    many(
        call,
        &call.need("items", call.text(0))?,
        call.i32(1),
        Verb::Spend,
    )
}

sql_function!(grant_jsonb);
/// `loyalty.grant_many(items)`
fn grant_jsonb(call: &Call) -> Result<()> {
    many(call, &call.need("items", call.jsonb(0))?, None, Verb::Grant)
}

sql_function!(spend_jsonb);
/// `loyalty.spend_many(items)`
fn spend_jsonb(call: &Call) -> Result<()> {
    many(call, &call.need("items", call.jsonb(0))?, None, Verb::Spend)
}

fn many(call: &Call, json: &str, program_id: Option<i32>, verb: Verb) -> Result<()> {
    let items = read_items(json, verb)?;
    let bookings: Vec<_> = items
        .iter()
        .map(|item| {
            Ok((
                item.account_id.ok_or_else(|| null("account_id"))?,
                booking(item, verb)?,
            ))
        })
        .collect();
    let outcomes = book(&bookings, program_id)?;
    let sink = call.rows();
    // SAFETY: the fourth column of the set is the entry kind.
    let kinds = Kinds::of(unsafe { type_of(sink.desc(), 4) });
    for (number, (item, outcome)) in (1i32..).zip(items.iter().zip(outcomes)) {
        let place = Some(Datum::from(number));
        match outcome {
            Ok((receipt, _)) => sink.put(&[
                place,
                Some(Datum::from(receipt.operation_id)),
                Some(Datum::from(receipt.account_id)),
                Some(kinds.value(receipt.kind)),
                Some(Datum::from(receipt.points)),
                Some(Datum::from(receipt.balance)),
                Some(Datum::from(receipt.available)),
                Some(Datum::from(receipt.occurred_at)),
                None,
                None,
                None,
                None,
                None,
            ]),
            Err(fault) => sink.put(&[
                place,
                None,
                item.account_id.map(Datum::from),
                None,
                item.points.map(Datum::from),
                None,
                None,
                None,
                Some(text(fault.code.sqlstate().0)),
                Some(text(&fault.message)),
                fault.detail.as_deref().map(text),
                Some(text(&fault.reason)),
                fault.field.as_deref().map(text),
            ]),
        }
    }
    Ok(())
}

fn read_items(json: &str, verb: Verb) -> Result<Vec<Item<'_>>> {
    let items: Vec<Item> = serde_json::from_str(json).map_err(|error| {
        Fault::invalid("items_invalid", "items is invalid")
.field("items")
            .detail(error.to_string())
            .hint(match verb {
                Verb::Grant => "An array of {\"account_id\", \"points\", \"reason\", \"granted_on\", \"expires_on\", \"idempotency_key\", \"funding\"}.",
                Verb::Spend => "An array of {\"account_id\", \"points\", \"reason\", \"idempotency_key\"}.",
            })
    })?;
    let granting = |item: &Item| {
        item.granted_on.is_some() || item.expires_on.is_some() || item.funding.is_some()
    };
    if verb == Verb::Spend && items.iter().any(granting) {
        return Err(Fault::invalid(
            "items_invalid",
            "a spend has no granted_on, expires_on or funding",
        )
        .field("items")
        .hint("Leave them out; lots are taken soonest expiry first."));
    }
    if items.len() > ITEMS_PER_CALL {
        return Err(
            Fault::new(Code::LimitExceeded, "too_many_items", "too many items")
                .field("items")
                .detail(format!(
                    "{} given, at most {ITEMS_PER_CALL} are allowed.",
                    items.len()
                ))
                .hint("Make several calls; keys let you repeat any of them."),
        );
    }
    Ok(items)
}

fn null(name: &'static str) -> Fault {
    Fault::new(
        Code::NullValue,
        "value_missing",
        format!("{name} must not be null"),
    )
    .field(name)
    .hint("Give it in each item.")
}

/// What an item asks for; refused where it cannot be meant.
fn booking<'a>(item: &'a Item, verb: Verb) -> Result<Booking<'a>> {
    let points = positive(item.points.ok_or_else(|| null("points"))?)?;
    let (reason, key) = (item.reason.as_deref(), item.idempotency_key.as_deref());
    // jsonb refuses it, text that is JSON does not
    let mut texts = [reason, key, item.funding.as_deref()].into_iter().flatten();
    if texts.any(|text| text.contains('\0')) {
        return Err(
            Fault::invalid("zero_character", "a text contains a zero character")
                .hint("No text of PostgreSQL's can hold it."),
        );
    }
    let wanted = Wanted {
        granted_on: item.granted_on.map(crate::day::day),
        expires_on: item.expires_on.map(crate::day::day),
        policy: None,
        funding: item.funding.as_deref(),
        late: false,
    };
    let hash = match (verb, key) {
        (_, None) => 0,
        (Verb::Grant, _) => grant_hash(points, reason, &wanted),
        (Verb::Spend, _) => spend_hash(points, reason),
    };
    let request = Request {
        reason,
        key,
        hash,
        activity: true,
        ..Request::default()
    };
    check_request(&request)?;
    Ok(Booking {
        points,
        verb,
        wanted,
        request,
    })
}

/// A receipt, and whether it is of this call.
type Outcome = Result<(Receipt, bool)>;

/// Books what can be booked, on accounts of the program if one is given; each booking has its
/// own outcome, in their order.
fn book(bookings: &[Result<(i64, Booking)>], program_id: Option<i32>) -> Result<Vec<Outcome>> {
    let spi = Spi::connect();
    let mut outcomes: Vec<Option<Outcome>> = bookings.iter().map(|_| None).collect();
    let account_of = |(place, booking): (usize, &Result<(i64, Booking)>)| {
        booking
            .as_ref()
            .ok()
            .map(|(account_id, _)| (*account_id, place))
    };
    let mut places: Vec<(i64, usize)> =
        bookings.iter().enumerate().filter_map(account_of).collect();
    places.sort_unstable();
    let mut sweep = Sweep::begin(&spi)?;
    let groups: Vec<_> = places.chunk_by(|one, other| one.0 == other.0).collect();
    let account_ids: Vec<_> = groups.iter().map(|group| group[0].0).collect();
    let mut announces = vec![false; groups.len()];
    sweep.change_all(&account_ids, |index, account, reader| {
        if program_id.is_some_and(|program| program != account.program_id) {
            return Ok(Vec::new());
        }
        announces[index] = account.program.announces_grants;
        let mut posted = Vec::new();
        let mut keys = (groups[index].len() > 1).then(Keys::new);
        for (_, place) in groups[index] {
            if let Ok((_, booking)) = &bookings[*place] {
                let outcome = one(&spi, account, reader, booking, &mut keys, &mut posted);
                outcomes[*place] = Some(outcome);
            }
        }
        Ok(posted)
    })?;
    sweep.finish()?;
    let mut news = News::default();
    for (group, _) in groups.iter().zip(announces).filter(|(_, yes)| *yes) {
        for (_, place) in *group {
            if let Some(Ok((receipt, true))) = &outcomes[*place] {
                news.add(receipt);
            }
        }
    }
    news.announce(&spi);
    let settle = |(outcome, booking): (Option<Outcome>, &Result<(i64, Booking)>)| match booking {
        Ok((account_id, _)) => outcome.unwrap_or_else(|| Err(no_such_account(*account_id))),
        Err(fault) => Err(fault.clone()),
    };
    Ok(outcomes.into_iter().zip(bookings).map(settle).collect())
}

/// Keys of one account that this call has booked under, with what that made and the hash of its request.
type Keys<'a> = HashMap<&'a str, (Receipt, i32)>;

/// Books one thing; `keys` where more than one comes on the account.
fn one<'a>(
    spi: &Spi,
    account: &mut Account,
    reader: &mut Reader,
    booking: &Booking<'a>,
    keys: &mut Option<Keys<'a>>,
    posted: &mut Vec<Posted>,
) -> Outcome {
    let request = &booking.request;
    if let Some(receipt) = stored_receipt(spi, account, reader, request)? {
        return Ok((receipt, false));
    }
    let earlier = keys.as_ref().zip(request.key);
    if let Some((receipt, first)) = earlier.and_then(|(keys, key)| keys.get(key)) {
        return if *first == request.hash || request.is_occasion {
            Ok((receipt.clone(), false))
        } else {
            Err(key_reused(receipt.operation_id))
        };
    }
    let before = account.wallet.clone();
    let booked = change(spi, account, booking)
        .and_then(|(entries, main)| Ok((account.post(entries, main, request)?, main)));
    let (new, main) = booked.inspect_err(|_| account.wallet = before)?;
    let receipt = account.receipt(&new, main);
    if let (Some(keys), Some(key)) = (keys, request.key) {
        keys.insert(key, (receipt.clone(), request.hash));
    }
    posted.extend(new);
    Ok((receipt, true))
}

fn change(spi: &Spi, account: &mut Account, booking: &Booking) -> Result<(Vec<Entry>, usize)> {
    let mut entries = account.prepare(true)?;
    let main = entries.len();
    match booking.verb {
        Verb::Grant => {
            account.check_status(Needs::NotClosed)?;
            let terms = terms(spi, account, &booking.wanted)?;
            account.granted_on = Some(terms.granted_on);
            entries.extend(
                account
                    .wallet
                    .grant(booking.points, terms.expires_on, terms.class)?,
            );
        }
        Verb::Spend => {
            account.check_status(Needs::Open)?;
            let (today, now) = (account.today, account.now);
            entries.push(account.wallet.spend(booking.points, today, now)?);
        }
    }
    account.wallet.tidy(account.today);
    Ok((entries, main))
}

sql_function!(grant_each);
/// `loyalty_private.grant_each(account_ids, points, reason, granted_on, expires_on, idempotency_keys, expiry)`
fn grant_each(call: &Call) -> Result<()> {
    let account_ids = call.need("account_ids", call.i64s(0))?;
    let points = call.need("points", call.i64s(1))?;
    let reason = call.text(2);
    let granted_on = call.i32(3);
    let expires_on: Option<Day> = call.i32(4);
    let keys = call.need("idempotency_keys", call.texts(5))?;
    let policy = call.text(6);
    if points.len() != account_ids.len() || keys.len() != account_ids.len() {
        return Err(Fault::invalid(
            "lengths_differ",
            "account_ids, points and idempotency_keys differ in length",
        )
        .detail(format!(
            "{}, {} and {}.",
            account_ids.len(),
            points.len(),
            keys.len()
        ))
        .hint("One of each for every grant."));
    }
    let bookings: Vec<_> = account_ids
        .iter()
        .zip(&points)
        .zip(&keys)
        .map(|((account_id, points), key)| {
            let points = positive(*points)?;
            let wanted = Wanted {
                granted_on,
                expires_on,
                policy: policy.as_deref(),
                funding: None,
                late: true,
            };
            let request = Request {
                reason: reason.as_deref(),
                key: Some(key),
                hash: grant_hash(points, reason.as_deref(), &wanted),
                activity: true,
                is_occasion: true,
                ..Request::default()
            };
            check_request(&request)?;
            Ok((
                *account_id,
                Booking {
                    points,
                    verb: Verb::Grant,
                    wanted,
                    request,
                },
            ))
        })
        .collect();
    let outcomes = book(&bookings, None)?;
    let sink = call.rows();
    let asked = account_ids.iter().zip(&points);
    for (number, (outcome, (account_id, points))) in (1i32..).zip(outcomes.into_iter().zip(asked)) {
        let place = Some(Datum::from(number));
        let (account_id, points) = (*account_id, *points);
        match outcome {
            Ok((receipt, is_new)) => sink.put(&[
                place,
                Some(Datum::from(receipt.operation_id)),
                Some(Datum::from(account_id)),
                Some(Datum::from(points)),
                Some(Datum::from(is_new)),
                None,
                None,
                None,
            ]),
            Err(fault) => sink.put(&[
                place,
                None,
                Some(Datum::from(account_id)),
                Some(Datum::from(points)),
                Some(Datum::from(false)),
                Some(text(fault.code.sqlstate().0)),
                Some(text(&fault.message)),
                Some(text(&fault.reason)),
            ]),
        }
    }
    Ok(())
}
