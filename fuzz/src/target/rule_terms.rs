//! Terms of rules: JSON → terms → the days they pay on, none outside the days asked for.

use super::{chosen_by, day_of};
use chrono::{Days, NaiveDate};
use loyalty_core::calendar::{Calendar, Rules};
use loyalty_core::recurrence::Payment;
use loyalty_core::rule::terms::{EXAMPLES, Terms, TermsError, read};
use loyalty_core::rule::{Rule, Timing, Version, birthday_between, full_years};

pub fn run(data: &[u8]) {
    let Some(([kind, from_high, from_low, span], json)) = chosen_by::<4>(data) else {
        return;
    };
    let kind = EXAMPLES[usize::from(kind) % EXAMPLES.len()].0;
    let terms = match read(kind, json) {
        Ok(terms) => terms,
        Err(TermsError::Wrong { path, problem }) => {
            assert!(
                path.starts_with('$') && !problem.is_empty(),
                "{path}: {problem}"
            );
            return;
        }
        Err(TermsError::NoSuchKind { kind }) => panic!("{kind} is one of the examples"),
    };
    let calendar = Calendar::without_overrides(match span & 1 {
        0 => Rules::JP,
        _ => Rules::NONE,
    });
    let from = day_of([from_high, from_low]);
    let to = from + Days::new(4 * u64::from(span));
    pays_in_order(&terms, from, to, &calendar);
    if let Terms::Anniversary(terms) = &terms {
        let recurrence = terms.recurrence().expect("read has checked it");
        let fact_on = from - Days::new(100 * u64::from(span));
        if let Ok(payments) = recurrence.payments_between(fact_on, from, to, &calendar) {
            let days: Vec<NaiveDate> = payments.iter().map(|payment| payment.pays_on).collect();
            assert!(days.is_sorted() && days.iter().all(|day| (from..=to).contains(day)));
            let occasion = |payment: &Payment| recurrence.occasion(fact_on, payment.month);
            assert!(payments.iter().all(|payment| occasion(payment).is_some()));
            assert!(payments.is_sorted_by(|one, next| occasion(one) < occasion(next)));
        }
    }
    let _year = birthday_between(from, from, to);
    assert_eq!(full_years(to, from).is_some(), to <= from);
}

/// Periods come in order and pay while their version is in force, and an event of a period's
/// reach is paid then.
fn pays_in_order(
    terms: &Terms,
    from: NaiveDate,
    to: NaiveDate,
    calendar: &Calendar<fn(NaiveDate) -> Option<bool>>,
) {
    let timing = Timing::of(terms);
    let rule = Rule::new(vec![Version {
        number: 1,
        valid_from: from,
        valid_to: Some(to),
        timing,
    }]);
    let Ok(periods) = rule.periods(None, to, calendar) else {
        return;
    };
    assert!(periods.is_sorted_by(|one, next| one.nominal_on < next.nominal_on));
    for period in &periods {
        assert!(period.pays_on >= period.nominal_on);
        assert!(
            (from..=to).contains(&period.pays_on),
            "{period:?} of {from} to {to}"
        );
    }
    // a few: each looks at years of days
    for period in periods.iter().rev().take(3) {
        let found = rule
            .period(period.nominal_on, calendar)
            .expect("it was found before");
        let (again, reach) = found.expect("the same period");
        assert_eq!(again, *period);
        assert!(reach.from <= reach.to);
    }
    if let Ok(Some(day)) = rule.pay_day(from, calendar) {
        assert_eq!(day.nominal_on.is_none(), timing == Timing::AtOnce);
        assert!(
            day.pays_on >= from,
            "an event of {from} is paid {}",
            day.pays_on
        );
    }
}
