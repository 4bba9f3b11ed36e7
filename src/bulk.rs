//! Thousands of grants or spends in one call: accounts are locked once, in id order, and
//! written back in one statement (laws 3 and 6 hold for each item as for a single call).

use crate::call::sql_function;
use crate::error::{Code, Fault, Result};
use crate::ledger::{self, Account, Needs, Posted, Request};
use crate::operation::{Given, positive, request_hash, terms};
use crate::receipt::{self, Receipt};
use crate::spi::{Param, Plan, Spi, text};
use chrono::NaiveDate;
use loyalty_core::wallet::{Entry, EntryNo};
use pgrx::pg_sys::{self, Datum};
use serde::Deserialize;
use std::collections::HashMap;

/// Items one call may bring: what one transaction should lock and hold in memory.
const ITEMS_PER_CALL: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    account_id: Option<i64>,
    points: Option<i64>,
    reason: Option<String>,
    granted_on: Option<NaiveDate>,
    expires_on: Option<NaiveDate>,
    idempotency_key: Option<String>,
    funding: Option<String>,
}

/// An account that items of this call are booked on.
struct Ongoing {
    account: Account,
    posted: Vec<Posted>,
    /// Keys used in this call, with their item's place and hash.
    keys: HashMap<String, (Receipt, i32)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Grant,
    Spend,
}

sql_function! {
    /// `loyalty.grant_many(items, program)`
    fn grant_many(call) -> () {
        many(call, Verb::Grant)
    }
}

sql_function! {
    /// `loyalty.spend_many(items, program)`
    fn spend_many(call) -> () {
        many(call, Verb::Spend)
    }
}

fn many(call: &crate::call::Call, verb: Verb) -> Result<()> {
    let items = read_items(&call.need("items", call.text(0))?, verb)?;
    let outcomes = {
        let spi = Spi::connect();
        book(&spi, &items, verb, call.i32(1))?
    };
    let sink = call.rows();
    let kind_type = {
        let shape = sink.shape();
        // SAFETY: the fourth column of the set is the entry kind.
        unsafe { pg_sys::SPI_gettypeid(shape, 4) }
    };
    for (index, (item, outcome)) in items.iter().zip(outcomes).enumerate() {
        let place = Some(Datum::from(index as i32 + 1));
        match outcome {
            Ok(receipt) => sink.put(&[
                place,
                Some(Datum::from(receipt.operation_id)),
                Some(Datum::from(receipt.account_id)),
                Some(receipt::enum_value(kind_type, receipt.kind.label())),
                Some(Datum::from(receipt.points)),
                Some(Datum::from(receipt.balance)),
                Some(Datum::from(receipt.available)),
                Some(Datum::from(receipt.occurred_at)),
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
            ]),
        }
    }
    Ok(())
}

fn read_items(json: &str, verb: Verb) -> Result<Vec<Item>> {
    let items: Vec<Item> = serde_json::from_str(json).map_err(|error| {
        Fault::invalid("items are not as they should be")
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
        return Err(
            Fault::invalid("a spend has no granted_on, expires_on or funding")
                .hint("Leave them out; lots are taken soonest expiry first."),
        );
    }
    if items.len() > ITEMS_PER_CALL {
        return Err(Fault::new(Code::LimitExceeded, "too many items")
            .detail(format!(
                "{} given, {ITEMS_PER_CALL} are taken.",
                items.len()
            ))
            .hint("Make several calls; keys let you repeat any of them."));
    }
    Ok(items)
}

static STORED: Plan = Plan::new(
    c"select k.place, e.entry
        from unnest($1, $2) with ordinality as k (account_id, key, place)
        join loyalty.entry e on e.account_id = k.account_id and e.idempotency_key = k.key
         and pg_catalog.hashtextextended(e.idempotency_key, 0)
           = pg_catalog.hashtextextended(k.key, 0)",
);

fn book(
    spi: &Spi,
    items: &[Item],
    verb: Verb,
    program_id: Option<i32>,
) -> Result<Vec<Result<Receipt>>> {
    let mut ids: Vec<i64> = items.iter().filter_map(|item| item.account_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut ongoing: HashMap<i64, Ongoing> = ledger::load_many_locked(spi, &ids)?
        .into_iter()
        .filter(|account| program_id.is_none_or(|program| program == account.program_id))
        .map(|account| {
            let (id, posted, keys) = (account.account_id, Vec::new(), HashMap::new());
            (
                id,
                Ongoing {
                    account,
                    posted,
                    keys,
                },
            )
        })
        .collect();
    let stored = stored_entries(spi, items);
    let outcomes = items
        .iter()
        .enumerate()
        .map(|(place, item)| one(spi, &mut ongoing, item, verb, stored.get(&place).copied()))
        .collect();
    let mut changes: Vec<(&Account, &[Posted])> = ongoing
        .values()
        .filter(|state| !state.posted.is_empty())
        .map(|state| (&state.account, state.posted.as_slice()))
        .collect();
    changes.sort_by_key(|(account, _)| account.account_id);
    if !changes.is_empty() && !ledger::save_many(spi, &changes) {
        return Err(Fault::invalid("an account changed under its own lock"));
    }
    Ok(outcomes)
}

/// Which items were booked by an earlier call, and by which entry.
fn stored_entries(spi: &Spi, items: &[Item]) -> HashMap<usize, EntryNo> {
    let keyed: Vec<(usize, i64, &str)> = items
        .iter()
        .enumerate()
        .filter_map(|(place, item)| {
            Some((place, item.account_id?, item.idempotency_key.as_deref()?))
        })
        .collect();
    if keyed.is_empty() {
        return HashMap::new();
    }
    let ids: Vec<i64> = keyed.iter().map(|(_, id, _)| *id).collect();
    let keys: Vec<&str> = keyed.iter().map(|(_, _, key)| *key).collect();
    STORED
        .run(spi, &[Param::i64s(&ids), Param::texts(&keys)])
        .iter()
        .filter_map(|row| {
            let place = usize::try_from(row.i64(1)? - 1).ok()?;
            Some((keyed.get(place)?.0, row.i32(2)?))
        })
        .collect()
}

fn one(
    spi: &Spi,
    ongoing: &mut HashMap<i64, Ongoing>,
    item: &Item,
    verb: Verb,
    stored: Option<EntryNo>,
) -> Result<Receipt> {
    let null = |name: &str| {
        Fault::new(Code::NullValue, format!("{name} must not be null"))
            .hint("Give it in each item.")
    };
    let account_id = item.account_id.ok_or_else(|| null("account_id"))?;
    let points = positive(item.points.ok_or_else(|| null("points"))?)?;
    let (granted_on, expires_on) = (
        item.granted_on.map(crate::day::day),
        item.expires_on.map(crate::day::day),
    );
    let (reason, key) = (item.reason.as_deref(), item.idempotency_key.as_deref());
    let hash = match verb {
        Verb::Grant => request_hash(&[
            &"grant",
            &points,
            &Given(reason),
            &Given(granted_on),
            &Given(expires_on),
            &Given(item.funding.as_deref()),
            &Given(None::<&str>),
        ]),
        Verb::Spend => request_hash(&[&"spend", &points, &Given(reason)]),
    };
    let request = Request {
        reason,
        key,
        hash,
        granted_on,
        hold_until: None,
        activity: true,
    };
    ledger::check_request(&request)?;
    let state = ongoing
        .get_mut(&account_id)
        .ok_or_else(|| ledger::no_such_account(account_id))?;
    if let Some(entry) = stored {
        return receipt::stored(spi, &state.account, entry, hash);
    }
    if let Some((receipt, first)) = key.and_then(|key| state.keys.get(key)) {
        return if *first == hash {
            Ok(receipt.clone())
        } else {
            Err(receipt::key_reused(receipt.operation_id))
        };
    }
    let account = &mut state.account;
    let before = account.wallet.clone();
    let booked = change(
        spi,
        account,
        verb,
        points,
        expires_on,
        item.funding.as_deref(),
        &request,
    );
    let (entries, main) = match booked {
        Ok(booked) => booked,
        Err(fault) => {
            account.wallet = before;
            return Err(fault);
        }
    };
    let posted = account.post(entries, main, &request)?;
    let receipt = account.receipt(&posted, main);
    if let Some(key) = key {
        state.keys.insert(key.to_owned(), (receipt.clone(), hash));
    }
    state.posted.extend(posted);
    Ok(receipt)
}

fn change(
    spi: &Spi,
    account: &mut Account,
    verb: Verb,
    points: i64,
    expires_on: Option<i32>,
    funding: Option<&str>,
    request: &Request,
) -> Result<(Vec<Entry>, usize)> {
    let mut entries = account.prepare(true)?;
    let main = entries.len();
    match verb {
        Verb::Grant => {
            account.check_status(Needs::NotClosed)?;
            let terms = terms(spi, account, request.granted_on, expires_on, None, funding)?;
            account.granted_on = Some(terms.granted_on);
            entries.extend(
                account
                    .wallet
                    .grant(points, terms.expires_on, terms.class)?,
            );
        }
        Verb::Spend => {
            account.check_status(Needs::Open)?;
            entries.push(account.wallet.spend(points, account.today, account.now)?);
        }
    }
    account.wallet.tidy(account.today);
    Ok((entries, main))
}
