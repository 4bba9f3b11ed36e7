//! Granting points, and the terms that they are granted on (law 9).

use crate::day;
use crate::error::{Fault, Result};
use crate::expiry;
use crate::ledger::account::Account;
use crate::ledger::operate::operate;
use crate::ledger::operation::{Given, Needs, Request, positive, request_hash};
use crate::ledger::receipt::Receipt;
use crate::pg::call::{Call, sql_function};
use crate::pg::spi::{Param, Plan, Spi};
use loyalty_core::wallet::{Class, Day, NEVER};

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

static CLASS: Plan = Plan::new(c"select loyalty_private.lot_class_of($1, $2, $3)");

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
            .execute(
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

sql_function!(grant);
/// `loyalty.grant(account_id, points, reason, granted_on, expires_on, idempotency_key, funding, expiry)`
fn grant(call: &Call) -> Result<Receipt> {
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
        Ok(account
            .wallet
            .grant(points, terms.expires_on, terms.class)?)
    })
}
