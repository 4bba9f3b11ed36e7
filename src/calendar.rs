//! Business days: loyalty_core's calendars with the days that a DBA opened or closed.

use crate::day;
use crate::error::{Fault, Result};
use crate::pg::call::{Call, sql_function};
use crate::pg::spi::{Param, Plan, Spi};
use chrono::NaiveDate;
use loyalty_core::calendar::{Calendar, CalendarError, Rules};
use loyalty_core::month::Month;
use std::collections::HashMap;

static OWN: Plan =
    Plan::stable(c"select based_on, year_end_closed from loyalty.calendar where calendar = $1");
static NAMES: Plan = Plan::stable(
    c"select pg_catalog.string_agg(n, ', ' order by n)
        from (select calendar from loyalty.calendar union all values ('JP'), ('none')) c (n)",
);
/// A calendar's own days win over those of the built-in one it is based on.
static DAYS: Plan = Plan::stable(
    c"select day, is_business_day from loyalty.calendar_day
       where calendar in ($1, $2) and day between $3 and $4
       order by calendar = $1",
);

/// How far a roll may look: what loyalty_core searches, and the month it starts in.
const REACH_DAYS: i32 = 800;

fn calendar(name: &str, around: NaiveDate) -> Result<Calendar<impl Fn(NaiveDate) -> Option<bool>>> {
    between(name, around, around)
}

/// A calendar for days from one to another, and as far beyond as rolls go.
pub fn between(
    name: &str,
    from: NaiveDate,
    to: NaiveDate,
) -> Result<Calendar<impl Fn(NaiveDate) -> Option<bool> + use<>>> {
    let spi = Spi::connect();
    let (base, year_end_closed) = match name {
        "JP" | "none" => (name.to_owned(), false),
        _ => match OWN.execute(&spi, &[Param::text(name)]).first() {
            Some(row) => (
                row.text(1).unwrap_or_default(),
                row.bool(2).unwrap_or_default(),
            ),
            None => {
                let names = NAMES.execute(&spi, &[]).first().and_then(|row| row.text(1));
                return Err(Fault::invalid("no_such_calendar", "no such calendar")
                    .field("calendar")
                    .detail(format!("'{name}' given."))
                    .hint(format!("There are: {}.", names.unwrap_or_default())));
            }
        },
    };
    let rules = Rules {
        year_end_closed,
        ..if base == "JP" { Rules::JP } else { Rules::NONE }
    };
    let days: HashMap<i32, bool> = DAYS
        .execute(
            &spi,
            &[
                Param::text(name),
                Param::text(base.as_str()),
                Param::day(day::day(from).saturating_sub(REACH_DAYS)),
                Param::day(day::day(to).saturating_add(REACH_DAYS)),
            ],
        )
        .iter()
        .filter_map(|row| Some((row.i32(1)?, row.bool(2)?)))
        .collect();
    Ok(Calendar::new(rules, move |date| {
        days.get(&day::day(date)).copied()
    }))
}

pub fn fault(error: CalendarError) -> Fault {
    Fault::invalid(error.reason(), error.to_string()).hint(error.hint())
}

sql_function!(is_business_day);
/// `loyalty.is_business_day(day, calendar)`
fn is_business_day(call: &Call) -> Result<bool> {
    let date = day::date(call.need("day", call.i32(0))?)?;
    let name = call.need("calendar", call.text(1))?;
    calendar(&name, date)?.is_business_day(date).map_err(fault)
}

sql_function!(next_business_day);
/// `loyalty.next_business_day(day, calendar)`
fn next_business_day(call: &Call) -> Result<i32> {
    let date = day::date(call.need("day", call.i32(0))?)?;
    let name = call.need("calendar", call.text(1))?;
    calendar(&name, date)?
        .next_business_day(date)
        .map(day::day)
        .map_err(fault)
}

sql_function!(business_day_of_month);
/// `loyalty.business_day_of_month(month, day_of_month, calendar)`
fn business_day_of_month(call: &Call) -> Result<i32> {
    let date = day::date(call.need("month", call.i32(0))?)?;
    let wanted = call.need("day_of_month", call.i32(1))?;
    let name = call.need("calendar", call.text(2))?;
    calendar(&name, date)?
        .business_day_of_month(Month::of(date), u32::try_from(wanted).unwrap_or(0))
        .map(day::day)
        .map_err(fault)
}

sql_function!(next_business_15th);
/// `loyalty.next_business_15th(from_day, calendar)`
fn next_business_15th(call: &Call) -> Result<i32> {
    let date = day::date(call.need("from_day", call.i32(0))?)?;
    let name = call.need("calendar", call.text(1))?;
    calendar(&name, date)?
        .next_business_15th(date)
        .map(day::day)
        .map_err(fault)
}
