//! When facts pay: C2, C3 and C5 with the examples of the documents, and against a plain model.

use chrono::{Days, NaiveDate};
use loyalty_core::calendar::{Calendar, CalendarError, Rules};
use loyalty_core::month::Month;
use loyalty_core::recurrence::{
    Anniversary, CutOff, Interval, MAX_INTERVAL_MONTHS, RecurrenceError, pays_in_month_after,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn day(text: &str) -> NaiveDate {
    text.parse().expect("test date")
}

fn month(text: &str) -> Month {
    Month::of(day(&format!("{text}-01")))
}

fn jp() -> Calendar<fn(NaiveDate) -> Option<bool>> {
    Calendar::without_overrides(Rules::JP)
}

fn yearly() -> Interval {
    Interval::years(1).expect("interval")
}

/// C2 with the cut-off of C3.
fn coins() -> Anniversary {
    let cut_off = CutOff {
        last_fact_on: day("2024-06-01"),
        first_month: month("2025-05"),
    };
    Anniversary::new(yearly(), 15, Some(cut_off)).expect("rule")
}

fn pay_days(rule: &Anniversary, fact_on: &str, from: &str, to: &str) -> Vec<String> {
    rule.payments_between(day(fact_on), day(from), day(to), &jp())
        .expect("payments")
        .iter()
        .map(|payment| payment.pays_on.to_string())
        .collect()
}

#[test]
fn c2_pays_yearly_on_the_rolled_15th_of_the_month_of_first_service() {
    let first = coins()
        .payment(day("2024-06-20"), 1, &jp())
        .expect("payment");
    assert_eq!(first.pays_on, day("2025-06-16"));
    assert_eq!((first.number, first.month), (1, month("2025-06")));
    assert_eq!(
        pay_days(&coins(), "2024-06-20", "2024-06-20", "2030-12-31"),
        [
            "2025-06-16",
            "2026-06-15",
            "2027-06-15",
            "2028-06-15",
            "2029-06-15",
            "2030-06-17"
        ],
    );
}

#[test]
fn c2_only_the_month_of_the_fact_counts() {
    let rule = Anniversary::new(yearly(), 15, None).expect("rule");
    for (fact_on, expected) in [
        ("2024-02-29", "2025-02-17"), // a leap day; the 15th is a Saturday
        ("2024-08-31", "2025-08-15"),
        ("2024-08-15", "2025-08-15"), // the 15th itself
        ("2024-08-01", "2025-08-15"),
        ("2024-06-30", "2025-06-16"),
        ("2024-07-01", "2025-07-15"),
    ] {
        let payment = rule.payment(day(fact_on), 1, &jp()).expect("payment");
        assert_eq!(payment.pays_on, day(expected), "{fact_on}");
    }
    let at_month_end = Anniversary::new(yearly(), 31, None).expect("rule");
    assert_eq!(
        pay_days(&at_month_end, "2024-02-29", "2025-01-01", "2028-12-31"),
        ["2025-02-28", "2026-03-02", "2027-03-01", "2028-02-29"], // 2026 and 2027: weekends
    );
}

#[test]
fn c3_facts_up_to_the_cut_off_pay_first_in_may_and_every_may_after() {
    let may = ["2025-05-15", "2026-05-15", "2027-05-17"];
    for fact_on in ["2024-06-01", "2024-05-31", "2019-11-03", "1948-01-01"] {
        assert_eq!(
            pay_days(&coins(), fact_on, "2024-01-01", "2027-12-31"),
            may,
            "{fact_on}"
        );
    }
    let june = ["2025-06-16", "2026-06-15", "2027-06-15"];
    assert_eq!(
        pay_days(&coins(), "2024-06-02", "2024-01-01", "2027-12-31"),
        june
    );
}

#[test]
fn c5_pays_in_the_month_after_the_month_of_the_event() {
    let one_month = Interval::months(1).expect("interval");
    for (signed_on, expected) in [
        ("2025-05-20", "2025-06-16"),
        ("2025-05-01", "2025-06-16"),
        ("2025-05-31", "2025-06-16"),
        ("2025-06-15", "2025-07-15"),
        ("2024-12-31", "2025-01-15"),
        ("2024-01-31", "2024-02-15"),
        ("2024-02-29", "2024-03-15"),
    ] {
        let paid = pays_in_month_after(day(signed_on), one_month, 15, &jp());
        assert_eq!(paid, Ok(day(expected)), "{signed_on}");
    }
}

#[test]
fn between_is_about_the_rolled_day_and_includes_both_ends() {
    let rolled = ["2025-06-16"];
    assert_eq!(
        pay_days(&coins(), "2024-06-20", "2025-06-16", "2025-06-16"),
        rolled
    );
    assert!(pay_days(&coins(), "2024-06-20", "2025-06-15", "2025-06-15").is_empty());
    assert!(pay_days(&coins(), "2024-06-20", "2025-06-17", "2026-06-14").is_empty());
    assert!(pay_days(&coins(), "2024-06-20", "2025-06-17", "2025-06-16").is_empty());
    // August's last day is a Sunday: it is found in September, though due the month before.
    let at_month_end = Anniversary::new(yearly(), 31, None).expect("rule");
    assert_eq!(
        pay_days(&at_month_end, "2024-08-20", "2025-09-01", "2025-09-30"),
        ["2025-09-01"]
    );
    let closed = Calendar::new(Rules::JP, |on| (on < day("2026-06-01")).then_some(false));
    let late = coins()
        .payments_between(
            day("2024-06-20"),
            day("2026-06-01"),
            day("2026-06-14"),
            &closed,
        )
        .expect("payments");
    assert_eq!(
        late.iter().map(|payment| payment.month).collect::<Vec<_>>(),
        [month("2025-06")]
    );
    let numbers: Vec<u32> = coins()
        .payments_between(
            day("2024-06-20"),
            day("2027-01-01"),
            day("2029-01-01"),
            &jp(),
        )
        .expect("payments")
        .iter()
        .map(|payment| payment.number)
        .collect();
    assert_eq!(numbers, [3, 4]);
}

#[test]
fn the_calendar_ends_but_old_facts_do_not() {
    let monthly = Interval::months(1).expect("interval");
    let rule = Anniversary::new(monthly, 31, None).expect("rule");
    let all = rule
        .payments_between(
            day("1890-01-31"),
            day("1955-01-01"),
            day("2099-12-31"),
            &jp(),
        )
        .expect("payments");
    assert_eq!(all.len(), 145 * 12);
    assert_eq!(all[0].month, month("1955-01"));

    // Closed from Christmas 2099 on: the last payment rolls out of the calendar, and is left out.
    let closed = Calendar::new(Rules::JP, |on| (on >= day("2099-12-25")).then_some(false));
    let last = rule
        .payments_between(
            day("2024-01-31"),
            day("2099-11-10"),
            day("2099-12-31"),
            &closed,
        )
        .expect("payments");
    assert_eq!(
        last.iter().map(|payment| payment.month).collect::<Vec<_>>(),
        [month("2099-11")]
    );
}

#[test]
fn what_makes_no_sense_is_an_error() {
    for months in [0, MAX_INTERVAL_MONTHS + 1] {
        assert_eq!(
            Interval::months(months),
            Err(RecurrenceError::BadInterval { months })
        );
    }
    assert!(Interval::years(100).is_ok());
    assert!(Interval::years(101).is_err() && Interval::years(u32::MAX).is_err());
    for day_of_month in [0, 32] {
        let error = CalendarError::BadDayOfMonth { day_of_month };
        assert_eq!(
            Anniversary::new(yearly(), day_of_month, None),
            Err(error.into())
        );
    }
    let cut_off = CutOff {
        last_fact_on: day("2025-05-16"),
        first_month: month("2025-05"),
    };
    assert!(Anniversary::new(yearly(), 16, Some(cut_off)).is_ok());
    assert!(matches!(
        Anniversary::new(yearly(), 15, Some(cut_off)),
        Err(RecurrenceError::FirstPaymentBeforeCutOff { .. })
    ));

    let rule = coins();
    let fact_on = day("2024-06-20");
    assert_eq!(
        rule.payment(fact_on, 0, &jp()),
        Err(RecurrenceError::BadNumber { number: 0 })
    );
    for number in [76, 400_000, u32::MAX] {
        let error = rule.payment(fact_on, number, &jp());
        let outside = CalendarError::OutOfRange {
            day: day("2000-01-01"),
        };
        let Err(RecurrenceError::Calendar(found)) = error else {
            panic!("payment {number} gave {error:?}");
        };
        assert_eq!(
            std::mem::discriminant(&found),
            std::mem::discriminant(&outside)
        );
    }
    let outside = rule.payments_between(fact_on, day("1954-12-31"), day("2025-01-01"), &jp());
    assert!(outside.is_err());
    let outside = rule.payments_between(fact_on, day("2025-01-01"), day("2100-01-01"), &jp());
    assert!(outside.is_err());
    let never = rule.payments_between(NaiveDate::MAX, day("2025-01-01"), day("2026-01-01"), &jp());
    assert_eq!(never, Ok(vec![]));
    let all_closed = Calendar::new(Rules::NONE, |_| Some(false));
    assert!(matches!(
        rule.payments_between(fact_on, day("2025-01-01"), day("2026-01-01"), &all_closed),
        Err(RecurrenceError::Calendar(
            CalendarError::NoBusinessDay { .. }
        ))
    ));
}

proptest! {
    #[test]
    fn between_agrees_with_a_plain_model(
        fact in 0u64..12_000,
        months in prop_oneof![1u32..=13, 1u32..=MAX_INTERVAL_MONTHS],
        day_of_month in 1u32..=31,
        has_cut_off: bool,
        from in 0u64..12_000,
        length in 0u64..2_000,
        closed in prop::collection::btree_set(0u64..14_000, 0..60),
        closed_from in 0u64..14_000,
        closed_length in 0u64..120,
    ) {
        let start = day("1990-01-01");
        let at = |offset: u64| start + Days::new(offset);
        let mut closed: BTreeSet<NaiveDate> = closed.into_iter().map(at).collect();
        closed.extend((closed_from..closed_from + closed_length).map(at));
        let calendar =
            Calendar::new(Rules::JP, |on| closed.contains(&on).then_some(false));
        let cut_off = CutOff { last_fact_on: day("2010-06-01"), first_month: month("2011-05") };
        let cut_off = has_cut_off.then_some(cut_off);
        let interval = Interval::months(months).expect("interval");
        let rule = Anniversary::new(interval, day_of_month, cut_off).expect("rule");
        let (fact_on, from, to) = (at(fact), at(from), at(from + length));

        // The model counts every payment from the first, whatever the range.
        let mut due = match cut_off {
            Some(cut_off) if fact_on <= cut_off.last_fact_on => cut_off.first_month,
            _ => Month::of(fact_on).plus_months(months).expect("month"),
        };
        let mut expected = Vec::new();
        let mut number = 0;
        while due.first_day() <= to {
            number += 1;
            let mut pays_on = due.day_clamped(day_of_month);
            while !calendar.is_business_day(pays_on).expect("day of the calendar") {
                pays_on = pays_on + Days::new(1);
            }
            if (from..=to).contains(&pays_on) {
                expected.push((number, due, pays_on));
            }
            due = due.plus_months(months).expect("month");
        }

        let found = rule.payments_between(fact_on, from, to, &calendar).expect("payments");
        for payment in &found {
            prop_assert_eq!(rule.payment(fact_on, payment.number, &calendar), Ok(*payment));
            let paid = calendar.months_paid_on(payment.pays_on, day_of_month).expect("months");
            prop_assert!(paid.contains(&payment.month), "a daily run would miss {:?}", payment);
        }
        let found: Vec<_> =
            found.iter().map(|payment| (payment.number, payment.month, payment.pays_on)).collect();
        prop_assert_eq!(found, expected);
    }
}
