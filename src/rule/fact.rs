//! What rules ask of members' facts: called for each member looked at, no more than arithmetic.

use crate::day;
use crate::error::{Fault, Result};
use crate::pg::call::{Call, sql_function};
use loyalty_core::month::Month;
use loyalty_core::recurrence::{Anniversary, CutOff, Interval};
use loyalty_core::rule::{self, terms};

sql_function!(fact_day);
/// `loyalty_private.fact_day(fact)`
fn fact_day(call: &Call) -> Result<Option<i32>> {
    let text = call.text(0);
    Ok(text.and_then(|text| terms::read_day(&text)).map(day::day))
}

sql_function!(anniversary_occasion);
/// `loyalty_private.anniversary_occasion(fact_on, month, every_months, fact_until, first_month)`
fn anniversary_occasion(call: &Call) -> Result<Option<i32>> {
    let (Some(fact_on), Some(month), Some(every_months)) = (call.i32(0), call.i32(1), call.i32(2))
    else {
        return Ok(None);
    };
    let cut_off = match (call.i32(3), call.i32(4)) {
        (Some(fact_until), Some(first_month)) => Some(CutOff {
            last_fact_on: day::date(fact_until)?,
            first_month: Month::of(day::date(first_month)?),
        }),
        _ => None,
    };
    let wrong = || {
        Fault::invalid(
            "interval_invalid",
            "an anniversary is every 1 to 1200 months",
        )
        .field("every_months")
    };
    let interval =
        Interval::months(u32::try_from(every_months).unwrap_or(0)).map_err(|_| wrong())?;
    let anniversary = Anniversary::repeating(interval, cut_off);
    let occasion = anniversary.occasion(day::date(fact_on)?, Month::of(day::date(month)?));
    Ok(occasion.and_then(|months| i32::try_from(months).ok()))
}

sql_function!(birthday_between);
/// `loyalty_private.birthday_between(birth_date, from_day, to_day)`
fn birthday_between(call: &Call) -> Result<Option<i32>> {
    let (Some(birth_on), Some(from), Some(to)) = (call.i32(0), call.i32(1), call.i32(2)) else {
        return Ok(None);
    };
    Ok(rule::birthday_between(
        day::date(birth_on)?,
        day::date(from)?,
        day::date(to)?,
    ))
}

sql_function!(full_years);
/// `loyalty_private.full_years(fact_on, key_date)`
fn full_years(call: &Call) -> Result<Option<i32>> {
    let (Some(fact_on), Some(key_date)) = (call.i32(0), call.i32(1)) else {
        return Ok(None);
    };
    let years = rule::full_years(day::date(fact_on)?, day::date(key_date)?);
    Ok(years.and_then(|years| i32::try_from(years).ok()))
}
