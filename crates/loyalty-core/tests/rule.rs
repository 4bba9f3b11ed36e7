//! Versions and periods of rules: the documents' examples, and all against a plain model that
//! looks at one day after the other.

use chrono::{Datelike, Days, NaiveDate, Weekday};
use loyalty_core::calendar::{Calendar, Rules};
use loyalty_core::month::Month;
use loyalty_core::recurrence::{Anniversary, CutOff, Interval};
use loyalty_core::rule::terms::{self, EXAMPLES, OnClosedDay, Terms, TermsError};
use loyalty_core::rule::{Rule, Timing, Version, birthday_between, full_years};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn day(text: &str) -> NaiveDate {
    text.parse().expect("test date")
}

fn jp() -> Calendar<fn(NaiveDate) -> Option<bool>> {
    Calendar::without_overrides(Rules::JP)
}

fn monthly(day_of_month: u32, months_after: u32) -> Timing {
    Timing::Monthly {
        day_of_month,
        months_after,
        on_closed_day: OnClosedDay::NextBusinessDay,
    }
}

fn version(number: i32, from: &str, to: Option<&str>, timing: Timing) -> Version {
    Version {
        number,
        valid_from: day(from),
        valid_to: to.map(day),
        timing,
    }
}

/// `nominal>pays_on/version`, a word for each.
fn shown(rule: &Rule, after: Option<&str>, up_to: &str) -> String {
    let periods = rule
        .periods(after.map(day), day(up_to), &jp())
        .expect("periods");
    let words: Vec<String> = periods
        .iter()
        .map(|p| format!("{}>{}/{}", p.nominal_on, p.pays_on, p.version))
        .collect();
    words.join(" ")
}

/// `from..to` of the period of a day.
fn reach(rule: &Rule, nominal_on: &str) -> Option<String> {
    let found = rule.period(day(nominal_on), &jp()).expect("period");
    found.map(|(_, reach)| format!("{}..{}", reach.from, reach.to))
}

#[test]
fn c2_periods_are_months_that_pay_on_the_rolled_15th() {
    let rule = Rule::new(vec![version(
        1,
        "2025-05-15",
        Some("2025-08-15"),
        monthly(15, 0),
    )]);
    assert_eq!(
        shown(&rule, None, "2030-01-01"),
        "2025-05-15>2025-05-15/1 2025-06-15>2025-06-16/1 2025-07-15>2025-07-15/1 2025-08-15>2025-08-15/1"
    );
    assert_eq!(
        shown(&rule, Some("2025-05-15"), "2025-06-15"),
        "2025-06-15>2025-06-16/1"
    );
    assert_eq!(
        reach(&rule, "2025-06-15").as_deref(),
        Some("2025-06-01..2025-06-30")
    );
    assert_eq!(reach(&rule, "2025-06-16"), None);
    // the day of payment decides: the 15th itself is before this range, what it rolls to is not
    let rule = Rule::new(vec![version(
        1,
        "2025-06-16",
        Some("2025-06-30"),
        monthly(15, 0),
    )]);
    assert_eq!(shown(&rule, None, "2030-01-01"), "2025-06-15>2025-06-16/1");
    let rule = Rule::new(vec![version(
        1,
        "2025-06-01",
        Some("2025-06-15"),
        monthly(15, 0),
    )]);
    assert_eq!(shown(&rule, None, "2030-01-01"), "");
}

#[test]
fn c5_an_event_pays_in_the_month_after() {
    let rule = Rule::new(vec![version(1, "2025-01-01", None, monthly(15, 1))]);
    let pays = rule
        .pay_day(day("2025-05-20"), &jp())
        .expect("day")
        .expect("period");
    assert_eq!(
        (pays.pays_on, pays.nominal_on),
        (day("2025-06-16"), Some(day("2025-06-15")))
    );
    assert_eq!(
        reach(&rule, "2025-06-15").as_deref(),
        Some("2025-05-01..2025-05-31")
    );
    let pays = rule.pay_day(day("2024-10-31"), &jp()).expect("day");
    assert_eq!(pays, None, "its day was before the rule");
    let rule = Rule::new(vec![version(
        1,
        "2025-01-01",
        Some("2025-03-31"),
        Timing::AtOnce,
    )]);
    let pays = rule
        .pay_day(day("2025-03-31"), &jp())
        .expect("day")
        .expect("at once");
    assert_eq!((pays.pays_on, pays.nominal_on), (day("2025-03-31"), None));
    assert_eq!(rule.pay_day(day("2025-04-01"), &jp()), Ok(None));
    assert_eq!(shown(&rule, None, "2030-01-01"), "");
}

#[test]
fn c7_a_change_of_the_pay_day_leaves_nobody_out() {
    // from the 25th to the 15th on 20 March: the 25th does not come, the 15th is over
    let rule = Rule::new(vec![
        version(1, "2025-01-01", Some("2025-03-19"), monthly(25, 0)),
        version(2, "2025-03-20", None, monthly(15, 0)),
    ]);
    assert_eq!(
        shown(&rule, None, "2025-04-30"),
        "2025-01-25>2025-01-27/1 2025-02-25>2025-02-25/1 2025-04-15>2025-04-15/2"
    );
    assert_eq!(
        reach(&rule, "2025-04-15").as_deref(),
        Some("2025-03-01..2025-04-30")
    );
    assert_eq!(
        reach(&rule, "2025-05-15").as_deref(),
        Some("2025-05-01..2025-05-31")
    );
    // two months after, then one: events of April were to come in June
    let rule = Rule::new(vec![
        version(1, "2025-01-01", Some("2025-05-31"), monthly(15, 2)),
        version(2, "2025-06-01", None, monthly(15, 1)),
    ]);
    assert_eq!(
        reach(&rule, "2025-06-15").as_deref(),
        Some("2025-04-01..2025-05-31")
    );
    let pays = rule
        .pay_day(day("2025-04-10"), &jp())
        .expect("day")
        .expect("period");
    assert_eq!((pays.version, pays.pays_on), (2, day("2025-06-16")));
    // a rule that was off in between owes nothing for then
    let rule = Rule::new(vec![
        version(1, "2025-01-01", Some("2025-02-28"), monthly(15, 0)),
        version(2, "2025-06-01", None, monthly(15, 0)),
    ]);
    assert_eq!(
        reach(&rule, "2025-06-15").as_deref(),
        Some("2025-06-01..2025-06-30")
    );
    // a version replaced before it began is none
    let rule = Rule::new(vec![
        version(1, "2025-01-01", Some("2025-02-28"), monthly(15, 0)),
        version(2, "2025-03-01", Some("2025-02-28"), monthly(1, 0)),
        version(3, "2025-03-01", Some("2025-03-31"), monthly(15, 0)),
    ]);
    assert_eq!(
        shown(&rule, Some("2025-02-01"), "2030-01-01"),
        "2025-02-15>2025-02-17/1 2025-03-15>2025-03-17/3"
    );
}

#[test]
fn c4_full_years_include_the_key_date() {
    let years = |from: &str| full_years(day(from), day("2024-06-01"));
    assert_eq!(years("2019-06-01"), Some(5));
    assert_eq!(years("2019-06-02"), Some(4));
    assert_eq!(years("2016-05-30"), Some(8));
    assert_eq!(years("2024-06-01"), Some(0));
    assert_eq!(years("2024-06-02"), None);
    assert_eq!(full_years(day("2020-02-29"), day("2025-02-28")), Some(5));
    assert_eq!(full_years(day("2020-02-29"), day("2025-02-27")), Some(4));
    assert_eq!(full_years(day("2020-02-29"), day("2024-02-28")), Some(3));
}

#[test]
fn a_birthday_on_29_february_is_on_the_28th_in_other_years() {
    let born = day("2000-02-29");
    let on = |text: &str| birthday_between(born, day(text), day(text));
    assert_eq!(on("2025-02-28"), Some(2025));
    assert_eq!(on("2025-03-01"), None);
    assert_eq!(on("2024-02-28"), None);
    assert_eq!(on("2024-02-29"), Some(2024));
    assert_eq!(on("2000-02-29"), None, "the day of birth itself");
    assert_eq!(
        birthday_between(born, day("2025-12-01"), day("2026-03-01")),
        Some(2026)
    );
}

fn wrong(kind: &str, json: &str) -> (String, String) {
    match terms::read(kind, json) {
        Err(TermsError::Wrong { path, problem }) => (path, problem),
        other => panic!("{kind} {json}: {other:?}"),
    }
}

#[test]
fn the_examples_in_hints_are_right() {
    for (kind, example) in EXAMPLES {
        assert!(terms::read(kind, example).is_ok(), "{kind}");
    }
    assert!(matches!(
        terms::read("lottery", "{}"),
        Err(TermsError::NoSuchKind { .. })
    ));
}

#[test]
fn wrong_terms_are_told_by_path() {
    let anniversary = |cut_off: &str, more: &str| {
        format!(
            r#"{{"fact": "f", "every_years": 1, "points": 5, "day_of_month": 15, "cut_off": {cut_off}{more}}}"#
        )
    };
    for (kind, json, path, problem) in [
        ("anniversary", "[]".to_owned(), "$", "expected struct"),
        ("anniversary", "{}".to_owned(), "$", "missing field `fact`"),
        ("anniversary", anniversary("null", r#", "colour": 1"#), "$.colour", "unknown field `colour`, expected one of `fact`"),
        ("anniversary", anniversary(r#"{"fact_until": "2024-06-31", "first_month": "2025-05"}"#, ""), "$.cut_off.fact_until", "expected a day as YYYY-MM-DD"),
        ("anniversary", anniversary(r#"{"fact_until": "2024-06-01", "first_month": "2025-13"}"#, ""), "$.cut_off.first_month", "expected a month as YYYY-MM"),
        ("anniversary", anniversary(r#"{"fact_until": "2024-06-01", "first_month": "2024-05"}"#, ""), "$.cut_off.first_month", "before the cut-off"),
        ("anniversary", anniversary(r#"{"fact_until": "2024-06-01"}"#, ""), "$.cut_off", "missing field `first_month`"),
        ("anniversary", anniversary("null", r#", "every_months": 6"#), "$.every_months", "one of every_years and every_months"),
        ("anniversary", r#"{"fact": "f", "points": 5, "day_of_month": 15}"#.to_owned(), "$.every_years", "one of every_years and every_months"),
        ("anniversary", r#"{"fact": "", "every_years": 1, "points": 5, "day_of_month": 15}"#.to_owned(), "$.fact", "a name of 1 to 63"),
        ("event", r#"{"event": "e", "points": 0}"#.to_owned(), "$.points", "a whole number from 1"),
        ("event", r#"{"event": "e", "points": -1}"#.to_owned(), "$.points", "a whole number from 1"),
        ("event", r#"{"event": "e", "points": 1.5}"#.to_owned(), "$.points", "a whole number from 1"),
        ("event", r#"{"event": "e", "points": {}}"#.to_owned(), "$.points", "nobody is paid"),
        ("event", r#"{"event": "e", "points": {"member": 0}}"#.to_owned(), "$.points.member", "a whole number from 1"),
        ("event", r#"{"event": "e", "points": {"friend": 1}}"#.to_owned(), "$.points.friend", "unknown field `friend`"),
        ("event", r#"{"event": "e", "points": 1, "months_after": 1}"#.to_owned(), "$.day_of_month", "together"),
        ("event", r#"{"event": "e", "points": 1, "day_of_month": 1}"#.to_owned(), "$.months_after", "together"),
        ("event", r#"{"event": "e", "points": 1, "on_closed_day": "same_day"}"#.to_owned(), "$.on_closed_day", "at once"),
        ("event", r#"{"event": "e", "points": 1, "months_after": 1, "day_of_month": 32}"#.to_owned(), "$.day_of_month", "from 1 to 31"),
        ("tenure", r#"{"fact": "f", "key_date": "2024-06-01", "pays_on": "2024-05-29", "table": []}"#.to_owned(), "$.table", "one row or more"),
        ("tenure", r#"{"fact": "f", "key_date": "2024-06-01", "pays_on": "2024-05-29", "table": [{"years": 5, "points": 1}, {"years": "8", "points": 1}]}"#.to_owned(), "$.table[1].years", "a whole number from 0 to 200"),
        ("tenure", r#"{"fact": "f", "key_date": "2024-06-01", "pays_on": "2024-05-29", "table": [{"years": 5, "points": 1}, {"years": 5, "points": 2}]}"#.to_owned(), "$.table[1].years", "5 years are in a row before"),
        ("tenure", r#"{"fact": "f", "key_date": "1 June", "pays_on": "2024-05-29", "table": []}"#.to_owned(), "$.key_date", "a day as YYYY-MM-DD"),
        ("birthday", r#"{"points": 5, "on_closed_day": "sunday"}"#.to_owned(), "$.on_closed_day", "unknown variant `sunday`, expected `next_business_day` or `same_day`"),
        ("birthday", r#"{"points": null}"#.to_owned(), "$.points", "a whole number from 1"),
        ("purchase", r#"{"per_amount": 100, "points": 1}"#.to_owned(), "$", "missing field `rounding`"),
        ("purchase", r#"{"per_amount": 100, "points": 1, "rounding": "bankers"}"#.to_owned(), "$.rounding", "unknown variant `bankers`, expected one of `down`, `up`, `half_up`, `whole_units`"),
        ("purchase", r#"{"per_amount": 0, "points": 1, "rounding": "down"}"#.to_owned(), "$.per_amount", "a whole number from 1"),
        ("manual", r#"{"points": 10, "max_points": 9}"#.to_owned(), "$.points", "10 are more than max_points, 9"),
    ] {
        let told = wrong(kind, &json);
        assert_eq!(told.0, path, "{kind} {json}: {}", told.1);
        assert!(told.1.contains(problem), "{kind} {json}: {}", told.1);
        assert!(!told.1.contains("line 1"), "{}", told.1);
    }
}

#[test]
fn a_number_of_points_is_for_each_party() {
    let Ok(Terms::Event(event)) = terms::read("event", r#"{"event": "e", "points": 7}"#) else {
        panic!("not read");
    };
    assert_eq!(event.points.member.map(|p| p.0), Some(7));
    assert_eq!(event.points.other.map(|p| p.0), Some(7));
}

// --- the plain model -------------------------------------------------------

/// The next open day, one day after the other.
fn rolled(mut on: NaiveDate, closed: &BTreeSet<NaiveDate>) -> NaiveDate {
    while matches!(on.weekday(), Weekday::Sat | Weekday::Sun) || closed.contains(&on) {
        on = on.succ_opt().expect("a day");
    }
    on
}

fn is_nominal(on: NaiveDate, timing: Timing) -> bool {
    match timing {
        Timing::Monthly { day_of_month, .. } => {
            let is_last = on.succ_opt().is_some_and(|next| next.month() != on.month());
            on.day() == day_of_month || is_last && day_of_month > on.day()
        }
        Timing::Daily { .. } => true,
        Timing::Once { day, .. } => on == day,
        Timing::AtOnce => false,
    }
}

fn rolls(timing: Timing) -> bool {
    match timing {
        Timing::Monthly { on_closed_day, .. }
        | Timing::Daily { on_closed_day }
        | Timing::Once { on_closed_day, .. } => on_closed_day == OnClosedDay::NextBusinessDay,
        Timing::AtOnce => false,
    }
}

const FIRST: &str = "2020-01-01";

fn nth(offset: u64) -> NaiveDate {
    day(FIRST) + Days::new(offset)
}

fn timing() -> impl Strategy<Value = Timing> {
    let on_closed_day = prop_oneof![
        Just(OnClosedDay::NextBusinessDay),
        Just(OnClosedDay::SameDay)
    ];
    prop_oneof![
        4 => (1..=31_u32, 0..=3_u32, on_closed_day.clone()).prop_map(|(day_of_month, months_after, on_closed_day)| {
            Timing::Monthly { day_of_month, months_after, on_closed_day }
        }),
        1 => on_closed_day.clone().prop_map(|on_closed_day| Timing::Daily { on_closed_day }),
        1 => (0..1_200_u64, on_closed_day).prop_map(|(offset, on_closed_day)| Timing::Once { day: nth(offset), on_closed_day }),
    ]
}

/// Versions one after the other, with a gap here and there, the last one without end or not.
fn versions() -> impl Strategy<Value = Vec<Version>> {
    let one = (
        0..400_u64,
        prop_oneof![3 => Just(0_u64), 1 => 1..90_u64],
        timing(),
    );
    (proptest::collection::vec(one, 1..5), any::<bool>()).prop_map(|(parts, endless)| {
        let mut from = day(FIRST);
        let count = parts.len();
        let mut versions = Vec::new();
        for (place, (length, gap, timing)) in parts.into_iter().enumerate() {
            let last = from + Days::new(length);
            versions.push(Version {
                number: place as i32 + 1,
                valid_from: from,
                valid_to: (place + 1 < count || !endless).then_some(last),
                timing,
            });
            from = last + Days::new(1 + gap);
        }
        versions
    })
}

fn closures() -> impl Strategy<Value = BTreeSet<NaiveDate>> {
    proptest::collection::btree_set((0..2_000_u64).prop_map(nth), 0..200)
}

fn own_calendar(
    closed: &BTreeSet<NaiveDate>,
) -> Calendar<impl Fn(NaiveDate) -> Option<bool> + use<>> {
    let closed = closed.clone();
    Calendar::new(Rules::NONE, move |on| closed.contains(&on).then_some(false))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Periods are those that looking at each day of each version finds, in order, none twice.
    #[test]
    fn periods_are_those_of_the_plain_model(
        versions in versions(), closed in closures(), after in proptest::option::of(0..1_500_u64), length in 0..1_800_u64,
    ) {
        let calendar = own_calendar(&closed);
        let up_to = nth(length);
        let mut expected: BTreeMap<NaiveDate, (NaiveDate, i32)> = BTreeMap::new();
        for version in &versions {
            let mut on = day(FIRST) - Days::new(400);
            let latest = expected.keys().next_back().copied();
            while on <= up_to {
                let pays_on = if rolls(version.timing) { rolled(on, &closed) } else { on };
                let in_force = pays_on >= version.valid_from && version.valid_to.is_none_or(|to| pays_on <= to);
                if is_nominal(on, version.timing) && in_force && latest.is_none_or(|latest| on > latest) {
                    expected.insert(on, (pays_on, version.number));
                }
                on = on.succ_opt().expect("a day");
            }
        }
        let after = after.map(nth);
        expected.retain(|on, _| after.is_none_or(|after| *on > after));
        let found = Rule::new(versions).periods(after, up_to, &calendar).expect("periods");
        let found: Vec<_> = found.iter().map(|p| (p.nominal_on, (p.pays_on, p.version))).collect();
        prop_assert_eq!(&found, &expected.into_iter().collect::<Vec<_>>());
        for pair in found.windows(2) {
            prop_assert!(pair[0].1.0 <= pair[1].1.0, "days of payment do not go back");
        }
    }

    /// While a monthly rule is in force without a gap, each month from its first is within the
    /// reach of a period, and where nothing changes of just one (C7: nobody is left out).
    #[test]
    fn no_month_is_left_out(
        parts in proptest::collection::vec((31..300_u64, 1..=31_u32, 0..=3_u32), 1..5), closed in closures(),
    ) {
        let calendar = own_calendar(&closed);
        let mut from = day(FIRST);
        let mut versions = Vec::new();
        let count = parts.len();
        for (place, (length, day_of_month, months_after)) in parts.into_iter().enumerate() {
            let last = from + Days::new(length);
            versions.push(Version {
                number: place as i32 + 1,
                valid_from: from,
                valid_to: (place + 1 < count).then_some(last),
                timing: monthly(day_of_month, months_after),
            });
            from = last + Days::new(1);
        }
        let rule = Rule::new(versions);
        let periods = rule.periods(None, nth(1_900), &calendar).expect("periods");
        let mut times: BTreeMap<NaiveDate, u32> = BTreeMap::new();
        for period in &periods {
            let (_, reach) = rule.period(period.nominal_on, &calendar).expect("period").expect("known");
            prop_assert!(reach.from <= reach.to);
            let mut month = Month::of(reach.from);
            prop_assert_eq!(month.first_day(), reach.from);
            while month.first_day() <= reach.to {
                *times.entry(month.first_day()).or_default() += 1;
                month = month.plus_months(1).expect("a month");
            }
        }
        let months: Vec<NaiveDate> = times.keys().copied().collect();
        for pair in months.windows(2) {
            prop_assert_eq!(Month::of(pair[0]).months_until(Month::of(pair[1])), 1, "a month was left out");
        }
        if count == 1 {
            prop_assert!(times.values().all(|times| *times == 1));
        }
        // each event has a day, that of the first period that reaches it
        for first in months {
            let event_on = first + Days::new(9);
            let pays = rule.pay_day(event_on, &calendar).expect("day").expect("it is within a reach");
            let expected = periods.iter().find(|period| {
                let found = rule.period(period.nominal_on, &calendar).expect("period").expect("known");
                (found.1.from..=found.1.to).contains(&event_on)
            });
            prop_assert_eq!(Some(pays.pays_on), expected.map(|period| period.pays_on));
        }
    }

    /// Anniversaries come at the interval and not else, each with an occasion of its own; and an
    /// occasion is the same months after the fact whatever the interval is.
    #[test]
    fn occasions_are_unique(
        fact in 0..3_000_u64, every in 1..40_u32, cut in proptest::option::of((0..3_000_u64, 0..30_u32)),
    ) {
        let fact_on = nth(fact);
        let cut_off = cut.map(|(until, later)| CutOff {
            last_fact_on: nth(until),
            first_month: Month::of(nth(until)).plus_months(later + 1).expect("a month"),
        });
        let rule = Anniversary::repeating(Interval::months(every).expect("interval"), cut_off);
        let is_cut = cut_off.is_some_and(|cut_off| fact_on <= cut_off.last_fact_on);
        let mut seen = BTreeSet::new();
        let mut until_next: Option<u32> = None;
        let mut month = Month::of(nth(0));
        for _ in 0..300 {
            let begins = match cut_off {
                Some(cut_off) if is_cut => month == cut_off.first_month,
                _ => Month::of(fact_on).months_until(month) == every as i32,
            };
            if begins {
                until_next = Some(0);
            }
            let occasion = rule.occasion(fact_on, month);
            prop_assert_eq!(occasion.is_some(), until_next == Some(0), "{}", month);
            if let Some(occasion) = occasion {
                prop_assert!(seen.insert(occasion));
                if !is_cut {
                    prop_assert_eq!(occasion as i32, Month::of(fact_on).months_until(month));
                }
            }
            until_next = until_next.map(|left| if left == 0 { every - 1 } else { left - 1 });
            month = month.plus_months(1).expect("a month");
        }
    }

    /// A person has one birthday a year, on the day or on the last of a shorter February.
    #[test]
    fn birthdays_are_once_a_year(born in 0..3_000_u64) {
        let born = nth(born);
        let mut seen = BTreeSet::new();
        let mut on = born;
        for _ in 0..1_500 {
            on = on.succ_opt().expect("a day");
            let same_day = (on.month(), on.day()) == (born.month(), born.day());
            let clamped = (born.month(), born.day()) == (2, 29) && (on.month(), on.day()) == (2, 28) && !on.leap_year();
            let year = birthday_between(born, on, on);
            prop_assert_eq!(year, (same_day || clamped).then_some(on.year()));
            if let Some(year) = year {
                prop_assert!(seen.insert(year));
            }
            // full years change on the birthday and on no other day
            let grew = full_years(born, on) != full_years(born, on.pred_opt().expect("a day"));
            prop_assert_eq!(grew, year.is_some());
        }
    }
}
