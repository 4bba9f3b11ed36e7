//! Rules for SQL: loyalty_core reads terms and knows the periods; sql/50_rule/10_rule.sql finds the members.

use crate::call::{Answer, Call, sql_function};
use crate::day;
use crate::error::{Code, Fault, Result};
use crate::spi::{Param, Plan, Spi};
use crate::{calendar, receipt};
use chrono::{Datelike as _, Days, NaiveDate};
use loyalty_core::calendar::{Calendar, FIRST_YEAR, LAST_YEAR};
use loyalty_core::month::Month;
use loyalty_core::recurrence::{Anniversary, CutOff, Interval};
use loyalty_core::rule::terms::{self, EXAMPLES, TermsError};
use loyalty_core::rule::{Rule, Timing, Version, birthday_between, full_years};
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

fn terms_fault(kind: &str, error: TermsError) -> Fault {
    let fault = Fault::invalid(error.to_string());
    match error {
        TermsError::NoSuchKind { kind } => {
            let kinds: Vec<&str> = EXAMPLES.iter().map(|(kind, _)| *kind).collect();
            fault
                .detail(format!("kind '{kind}' given."))
                .hint(format!("There are: {}.", kinds.join(", ")))
        }
        TermsError::Wrong { path, problem } => {
            let example = EXAMPLES.iter().find(|(known, _)| *known == kind);
            fault.detail(format!("{path}: {problem}.")).hint(format!(
                "These are right: {}",
                example.map_or("", |(_, example)| example)
            ))
        }
    }
}

sql_function! {
    /// `loyalty.rule_is_sound(kind, terms)`: true, or an error that says what is wrong and where.
    fn rule_is_sound(call) -> bool {
        let kind = call.need("kind", call.text(0))?;
        let json = call.need("terms", call.text(1))?;
        terms::read(&kind, &json).map_err(|error| terms_fault(&kind, error))?;
        Ok(true)
    }
}

sql_function! {
    /// `loyalty.actor()`
    fn actor(_call) -> String {
        Ok(receipt::actor())
    }
}

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
    for row in VERSIONS.run(&spi, &params).iter() {
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
        let codes = CODES.run(&spi, &[Param::i32(program_id)]);
        let codes = codes.first().and_then(|row| row.text(1));
        return Err(Fault::new(Code::NotFound, "no such rule")
            .detail(format!("'{code}' given."))
            .hint(codes.map_or_else(
                || "The program has no rules; loyalty.create_rule creates one.".to_owned(),
                |codes| format!("The program has: {codes}."),
            )));
    };
    let calendar = CALENDAR.run(&spi, &[Param::i32(program_id)]);
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

sql_function! {
    /// `loyalty.rule_periods(program_id, code, after_period, up_to)`
    fn rule_periods(call) -> Answer {
        let known = asked(call)?;
        let after = call.i32(2).map(day::date).transpose()?;
        let up_to = day::date(call.need("up_to", call.i32(3))?)?;
        let last_day = NaiveDate::from_ymd_opt(LAST_YEAR, 12, 31).unwrap_or(up_to);
        let up_to = up_to.min(last_day);
        let from = known.first_day.max(after.unwrap_or(known.first_day));
        let calendar = known.calendar(from, up_to.max(from))?;
        let periods = known.rule.periods(after, up_to, &calendar).map_err(calendar::fault)?;
        let sink = call.rows();
        for period in periods {
            sink.put(&[day_value(period.nominal_on), day_value(period.pays_on)]);
        }
        Ok(Answer::Null)
    }
}

sql_function! {
    /// `loyalty.rule_reach(program_id, code, period)`
    fn rule_reach(call) -> Answer {
        let known = asked(call)?;
        let nominal_on = day::date(call.need("period", call.i32(2))?)?;
        let calendar = known.calendar(nominal_on - Days::new(800), nominal_on)?;
        let found = known.rule.period(nominal_on, &calendar).map_err(calendar::fault)?;
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
}

sql_function! {
    /// `loyalty.rule_pay_day(program_id, code, occurred_on)`
    fn rule_pay_day(call) -> Answer {
        let known = asked(call)?;
        let occurred_on = day::date(call.need("occurred_on", call.i32(2))?)?;
        if !(FIRST_YEAR..LAST_YEAR).contains(&occurred_on.year()) {
            return Err(Fault::invalid("occurred_on is out of range")
                .detail(format!("{occurred_on} given."))
                .hint(format!("Days from {FIRST_YEAR} on can be paid for.")));
        }
        let calendar = known.calendar(occurred_on - Days::new(800), occurred_on + Days::new(1_600))?;
        let found = known.rule.pay_day(occurred_on, &calendar).map_err(calendar::fault)?;
        Ok(found.map_or(Answer::Null, |found| {
            Answer::Row(vec![
                Some(Datum::from(found.version)),
                day_value(found.pays_on),
                found.nominal_on.and_then(day_value),
            ])
        }))
    }
}

// What follows is called for each member looked at, and does no more than arithmetic.

sql_function! {
    /// `loyalty.fact_day(fact)`
    fn fact_day(call) -> Option<i32> {
        let text = call.text(0);
        Ok(text.and_then(|text| terms::read_day(&text)).map(day::day))
    }
}

sql_function! {
    /// `loyalty.anniversary_occasion(fact_on, month, every_months, fact_until, first_month)`
    fn anniversary_occasion(call) -> Option<i32> {
        let (Some(fact_on), Some(month), Some(every_months)) =
            (call.i32(0), call.i32(1), call.i32(2))
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
        let wrong = || Fault::invalid("an anniversary is every 1 to 1200 months");
        let interval = Interval::months(u32::try_from(every_months).unwrap_or(0)).map_err(|_| wrong())?;
        let anniversary = Anniversary::repeating(interval, cut_off);
        let occasion = anniversary.occasion(day::date(fact_on)?, Month::of(day::date(month)?));
        Ok(occasion.and_then(|months| i32::try_from(months).ok()))
    }
}

sql_function! {
    /// `loyalty.birthday_between(birth_date, from_day, to_day)`
    fn birthday_between(call) -> Option<i32> {
        let (Some(birth_on), Some(from), Some(to)) = (call.i32(0), call.i32(1), call.i32(2)) else {
            return Ok(None);
        };
        Ok(super::birthday_between(day::date(birth_on)?, day::date(from)?, day::date(to)?))
    }
}

sql_function! {
    /// `loyalty.full_years(fact_on, key_date)`
    fn full_years(call) -> Option<i32> {
        let (Some(fact_on), Some(key_date)) = (call.i32(0), call.i32(1)) else {
            return Ok(None);
        };
        let years = super::full_years(day::date(fact_on)?, day::date(key_date)?);
        Ok(years.and_then(|years| i32::try_from(years).ok()))
    }
}
