//! The periods of a rule, and when each pays.

use crate::calendar;
use crate::day;
use crate::error::{Code, Fault, Result};
use crate::pg::call::{Answer, Call, sql_function};
use crate::pg::spi::{Param, Plan, Spi};
use crate::rule::terms::terms_fault;
use chrono::{Datelike as _, Days, NaiveDate};
use loyalty_core::calendar::{Calendar, FIRST_YEAR, LAST_YEAR};
use loyalty_core::rule::{Rule, Timing, Version, terms};
use pgrx::pg_sys::Datum;

static VERSIONS: Plan = Plan::new(
    c"select r.version, r.valid_from, r.valid_to, r.kind, r.terms::text
        from loyalty.rule r where r.program_id = $1 and r.code = $2",
);
static CALENDAR: Plan =
    Plan::new(c"select p.calendar from loyalty.program p where p.program_id = $1");
static CODES: Plan = Plan::new(
    c"select pg_catalog.string_agg(distinct r.code, ', ' order by r.code)
        from loyalty.rule r where r.program_id = $1",
);

/// A rule with its versions, and where it is.
struct Known {
    rule: Rule,
    calendar: String,
    first_day: NaiveDate,
}

fn known(program_id: i32, code: &str) -> Result<Known> {
    let spi = Spi::connect();
    let mut versions = Vec::new();
    let params = [Param::i32(program_id), Param::text(code)];
    for row in VERSIONS.execute(&spi, &params).iter() {
        let kind = row.text(4).unwrap_or_default();
        let json = row.text(5).unwrap_or_default();
        let terms = terms::read(&kind, &json).map_err(|error| terms_fault(&kind, error))?;
        let (Some(number), Some(valid_from)) = (row.i32(1), row.i32(2)) else {
            continue;
        };
        versions.push(Version {
            number,
            valid_from: day::date(valid_from)?,
            valid_to: row.i32(3).map(day::date).transpose()?,
            timing: Timing::of(&terms),
        });
    }
    let Some(first_day) = versions.iter().map(|version| version.valid_from).min() else {
        let codes = CODES.execute(&spi, &[Param::i32(program_id)]);
        let codes = codes.first().and_then(|row| row.text(1));
        return Err(Fault::new(Code::NotFound, "no_such_rule", "no such rule")
            .field("code")
            .detail(format!("'{code}' given."))
            .hint(codes.map_or_else(
                || "The program has no rules; loyalty.create_rule creates one.".to_owned(),
                |codes| format!("The program has: {codes}."),
            )));
    };
    let calendar = CALENDAR.execute(&spi, &[Param::i32(program_id)]);
    Ok(Known {
        rule: Rule::new(versions),
        calendar: calendar
            .first()
            .and_then(|row| row.text(1))
            .unwrap_or_default(),
        first_day,
    })
}

/// The rule that the first two arguments name.
fn asked(call: &Call) -> Result<Known> {
    let program_id = call.need("program_id", call.i32(0))?;
    let code = call.need("code", call.text(1))?;
    known(program_id, &code)
}

impl Known {
    fn calendar(
        &self,
        from: NaiveDate,
        to: NaiveDate,
    ) -> Result<Calendar<impl Fn(NaiveDate) -> Option<bool> + use<>>> {
        calendar::between(&self.calendar, from, to)
    }
}

fn day_value(date: NaiveDate) -> Option<Datum> {
    Some(Datum::from(day::day(date)))
}

sql_function!(rule_periods);
/// `loyalty.rule_periods(program_id, code, after_period, up_to)`
fn rule_periods(call: &Call) -> Result<Answer> {
    let known = asked(call)?;
    let after = call.i32(2).map(day::date).transpose()?;
    let up_to = day::date(call.need("up_to", call.i32(3))?)?;
    let last_day = NaiveDate::from_ymd_opt(LAST_YEAR, 12, 31).unwrap_or(up_to);
    let up_to = up_to.min(last_day);
    let from = known.first_day.max(after.unwrap_or(known.first_day));
    let calendar = known.calendar(from, up_to.max(from))?;
    let periods = known
        .rule
        .periods(after, up_to, &calendar)
        .map_err(calendar::fault)?;
    let sink = call.rows();
    for period in periods {
        sink.put(&[day_value(period.nominal_on), day_value(period.pays_on)]);
    }
    Ok(Answer::Null)
}

sql_function!(rule_reach);
/// `loyalty_private.rule_reach(program_id, code, period)`
fn rule_reach(call: &Call) -> Result<Answer> {
    let known = asked(call)?;
    let nominal_on = day::date(call.need("period", call.i32(2))?)?;
    let calendar = known.calendar(nominal_on - Days::new(800), nominal_on)?;
    let found = known
        .rule
        .period(nominal_on, &calendar)
        .map_err(calendar::fault)?;
    Ok(match found {
        None => Answer::Null,
        Some((period, reach)) => Answer::Row(vec![
            Some(Datum::from(period.version)),
            day_value(period.pays_on),
            day_value(reach.from),
            day_value(reach.to),
            reach.previous_pays_on.and_then(day_value),
        ]),
    })
}

sql_function!(rule_pay_day);
/// `loyalty_private.rule_pay_day(program_id, code, occurred_on)`
fn rule_pay_day(call: &Call) -> Result<Answer> {
    let known = asked(call)?;
    let occurred_on = day::date(call.need("occurred_on", call.i32(2))?)?;
    if !(FIRST_YEAR..LAST_YEAR).contains(&occurred_on.year()) {
        return Err(
            Fault::invalid("date_out_of_range", "occurred_on is outside the calendars")
                .field("occurred_on")
                .detail(format!("{occurred_on} given."))
                .hint(format!("Days from {FIRST_YEAR} on can be paid for.")),
        );
    }
    let calendar = known.calendar(occurred_on - Days::new(800), occurred_on + Days::new(1_600))?;
    let found = known
        .rule
        .pay_day(occurred_on, &calendar)
        .map_err(calendar::fault)?;
    Ok(found.map_or(Answer::Null, |found| {
        Answer::Row(vec![
            Some(Datum::from(found.version)),
            day_value(found.pays_on),
            found.nominal_on.and_then(day_value),
        ])
    }))
}
