//! The business calendar: against an independent oracle, against the law's own examples, and the
//! searches against a plain model.

use chrono::{Datelike, Days, NaiveDate, Weekday};
use loyalty_core::calendar::{
    Calendar, CalendarError, Closure, FIRST_YEAR, LAST_YEAR, MAX_CLOSED_DAYS, National, Rules,
    jp_holiday_name, jp_holidays,
};
use loyalty_core::month::Month;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const ORACLE: &str = include_str!("data/jp_holidays_1955_2099.csv");

fn day(text: &str) -> NaiveDate {
    text.parse().expect("test date")
}

fn days(from: &str, to: &str) -> impl Iterator<Item = NaiveDate> {
    let to = day(to);
    day(from).iter_days().take_while(move |day| *day <= to)
}

fn holiday(on: NaiveDate) -> Option<&'static str> {
    jp_holiday_name(on).expect("day of the calendar")
}

fn jp() -> Calendar<fn(NaiveDate) -> Option<bool>> {
    Calendar::without_overrides(Rules::JP)
}

fn assert_agrees_with_oracle(from: &str, to: &str) {
    let oracle: BTreeSet<NaiveDate> = ORACLE.lines().map(day).collect();
    assert_eq!(oracle.len(), 2_354);
    let differing: Vec<_> = days(from, to)
        .filter(|day| holiday(*day).is_some() != oracle.contains(day))
        .collect();
    assert_eq!(differing, []);
}

#[test]
fn agrees_with_the_oracle_day_by_day_1955_2050() {
    assert_agrees_with_oracle("1955-01-01", "2050-12-31");
}

#[test]
fn agrees_with_the_oracle_day_by_day_2051_2099() {
    assert_agrees_with_oracle("2051-01-01", "2099-12-31");
}

#[test]
fn knows_the_days_that_came_once_and_the_days_that_moved() {
    for (text, name) in [
        ("1959-04-10", "皇太子・明仁親王の結婚の儀"),
        ("1989-02-24", "昭和天皇の大喪の礼"),
        ("1990-11-12", "即位の礼正殿の儀"),
        ("1993-06-09", "皇太子・皇太子徳仁親王の結婚の儀"),
        ("2019-04-30", "国民の休日"),
        ("2019-05-01", "天皇の即位の日"),
        ("2019-05-02", "国民の休日"),
        ("2019-10-22", "即位礼正殿の儀"),
        ("2020-07-23", "海の日"),
        ("2020-07-24", "スポーツの日"),
        ("2020-08-10", "山の日"),
        ("2021-07-22", "海の日"),
        ("2021-07-23", "スポーツの日"),
        ("2021-08-08", "山の日"),
        ("2021-08-09", "山の日 振替休日"),
        ("2026-09-22", "国民の休日"),
    ] {
        assert_eq!(holiday(day(text)), Some(name), "{text}");
    }
    for text in [
        "1973-02-12", // a substitute day only from 12 April 1973 on
        "1985-05-04", // a sandwiched day only from 27 December 1985 on
        "1986-05-04", // a Sunday is no sandwiched day
        "2019-12-23", // between two emperors there was no birthday
        "2019-02-23",
        "2020-07-20", // moved for the games
        "2020-08-11",
        "2020-10-12",
        "2021-07-19",
        "2021-08-11",
        "2021-10-11",
    ] {
        assert_eq!(holiday(day(text)), None, "{text}");
    }
}

#[test]
fn future_years_keep_the_law() {
    for year in 2051..=LAST_YEAR {
        let listed = jp_holidays(year).expect("year of the calendar");
        let is_derived = |name: &str| name.ends_with("振替休日") || name == "国民の休日";
        let named = listed.iter().filter(|(_, name)| !is_derived(name)).count();
        assert_eq!(named, 16, "{year}");

        let only = |name: &str| {
            let found: Vec<_> = listed.iter().filter(|(_, found)| found == name).collect();
            assert_eq!(found.len(), 1, "{name} {year}");
            found[0].0
        };
        let (spring, autumn) = (only("春分の日"), only("秋分の日"));
        assert_eq!(spring.month(), 3);
        assert_eq!(autumn.month(), 9);
        assert!((19..=24).contains(&spring.day()) && (19..=24).contains(&autumn.day()));

        for (on, name) in listed {
            let (eve, morrow) = (*on - Days::new(1), *on + Days::new(1));
            let sunday = on.weekday() == Weekday::Sun;
            if sunday {
                assert!(!is_derived(name), "{on} {name}");
                assert!(holiday(morrow).is_some(), "no day in lieu of {on}");
            }
            if name.ends_with("振替休日") {
                let mut earlier = eve;
                while earlier.weekday() != Weekday::Sun {
                    assert!(holiday(earlier).is_some(), "{on} {name}");
                    earlier = earlier - Days::new(1);
                }
                assert!(holiday(earlier).is_some(), "{on} {name}");
            }
            if name == "国民の休日" {
                assert!(holiday(eve).is_some() && holiday(morrow).is_some(), "{on}");
            }
            let after_next = *on + Days::new(2);
            if after_next.year() == year
                && holiday(after_next).is_some()
                && morrow.weekday() != Weekday::Sun
            {
                assert!(holiday(morrow).is_some(), "{morrow} is sandwiched");
            }
        }
    }
}

#[test]
fn weekends_year_end_and_overrides() {
    let closure = |rules, text| {
        Calendar::without_overrides(rules)
            .closure(day(text))
            .expect("day of the calendar")
    };
    let bank = Rules {
        year_end_closed: true,
        ..Rules::JP
    };
    assert_eq!(Rules::JP.national, Some(National::Japan));
    assert_eq!(closure(Rules::JP, "2025-06-14"), Some(Closure::Weekend));
    assert_eq!(closure(Rules::JP, "2025-06-16"), None);
    assert_eq!(
        closure(Rules::JP, "2025-07-21"),
        Some(Closure::Holiday("海の日"))
    );
    assert_eq!(closure(Rules::NONE, "2025-07-21"), None);
    for text in ["2024-12-31", "2025-01-02", "2025-01-03"] {
        assert_eq!(closure(Rules::JP, text), None, "{text}");
        assert_eq!(closure(bank, text), Some(Closure::YearEnd), "{text}");
    }
    assert_eq!(closure(bank, "2024-12-30"), None);
    assert_eq!(closure(bank, "2025-01-06"), None);

    let overridden = Calendar::new(bank, |on| match on.day() {
        1 => Some(true),
        16 => Some(false),
        _ => None,
    });
    let is_open = |text| overridden.is_business_day(day(text));
    assert_eq!(is_open("2025-01-01"), Ok(true), "a holiday forced open");
    assert_eq!(is_open("2025-06-01"), Ok(true), "a Sunday forced open");
    assert_eq!(is_open("2025-06-16"), Ok(false), "a Monday forced closed");
    assert_eq!(
        overridden.closure(day("2025-06-16")),
        Ok(Some(Closure::Override))
    );
    assert_eq!(
        overridden.next_business_15th(day("2025-06-01")),
        Ok(day("2025-06-17"))
    );
}

#[test]
fn c2_the_15th_rolls_to_the_next_business_day() {
    for (from, expected) in [
        ("2025-06-01", "2025-06-16"),
        ("2025-06-15", "2025-06-16"),
        ("2025-06-16", "2025-06-16"), // the rolled day itself is not yet past
        ("2025-06-17", "2025-07-15"),
        ("2025-07-15", "2025-07-15"),
        ("2024-09-01", "2024-09-17"), // Sunday, then the day for the aged
        ("2024-12-16", "2024-12-16"),
        ("2024-12-17", "2025-01-15"),
        ("1955-01-01", "1955-01-17"), // no month before to look at
        ("2099-12-15", "2099-12-15"),
    ] {
        assert_eq!(
            jp().next_business_15th(day(from)),
            Ok(day(expected)),
            "{from}"
        );
    }
}

#[test]
fn a_day_the_month_lacks_is_its_last_day() {
    let rolled =
        |month: &str, day_of_month| jp().business_day_of_month(Month::of(day(month)), day_of_month);
    assert_eq!(rolled("2024-02-10", 31), Ok(day("2024-02-29")));
    assert_eq!(rolled("2025-02-10", 29), Ok(day("2025-02-28")));
    assert_eq!(
        rolled("2025-08-01", 31),
        Ok(day("2025-09-01")),
        "into the next month"
    );
    for day_of_month in [0, 32] {
        let error = Err(CalendarError::BadDayOfMonth { day_of_month });
        assert_eq!(rolled("2025-08-01", day_of_month), error);
        assert_eq!(
            jp().next_business_day_of_month(day("2025-08-01"), day_of_month),
            error
        );
        assert!(
            jp().months_paid_on(day("2025-08-01"), day_of_month)
                .is_err()
        );
    }
}

#[test]
fn outside_the_calendar_is_an_error() {
    for text in ["1954-12-31", "2100-01-01"] {
        let (on, error) = (day(text), CalendarError::OutOfRange { day: day(text) });
        assert_eq!(jp().is_business_day(on), Err(error.clone()));
        assert_eq!(jp().next_business_day(on), Err(error.clone()));
        assert_eq!(jp().next_business_15th(on), Err(error.clone()));
        assert_eq!(jp().months_paid_on(on, 15), Err(error.clone()));
        assert_eq!(
            jp().business_day_of_month(Month::of(on), on.day()),
            Err(error.clone())
        );
        assert_eq!(jp_holiday_name(on), Err(error.clone()));
        assert!(error.to_string().contains(text) && error.hint().contains("2099-12-31"));
    }
    for year in [i32::MIN, FIRST_YEAR - 1, LAST_YEAR + 1, i32::MAX] {
        assert_eq!(jp_holidays(year), None);
    }
    for on in [NaiveDate::MIN, NaiveDate::MAX] {
        assert!(jp().next_business_15th(on).is_err());
        assert!(jp().business_day_of_month(Month::of(on), 31).is_err());
    }
    assert!(jp().next_business_15th(day("2099-12-16")).is_err());
    let all_closed = Calendar::new(Rules::NONE, |_| Some(false));
    let past_the_end = CalendarError::OutOfRange {
        day: day("2100-01-01"),
    };
    assert_eq!(
        all_closed.next_business_day(day("2099-12-01")),
        Err(past_the_end)
    );
}

#[test]
fn a_calendar_with_everything_closed_gives_up() {
    let from = day("2025-06-01");
    let all_closed = Calendar::new(Rules::JP, |_| Some(false));
    let error = Err(CalendarError::NoBusinessDay { from });
    assert_eq!(all_closed.next_business_day(from), error);
    assert!(all_closed.next_business_15th(from).is_err());
    assert_eq!(all_closed.months_paid_on(from, 15), Ok(vec![]));

    let reopens = |closed_days| {
        let reopened = from + Days::new(closed_days);
        let calendar = Calendar::new(Rules::NONE, move |on| Some(on == reopened));
        calendar.next_business_day(from).map(|on| on == reopened)
    };
    assert_eq!(reopens(MAX_CLOSED_DAYS - 1), Ok(true));
    assert_eq!(
        reopens(MAX_CLOSED_DAYS),
        Err(CalendarError::NoBusinessDay { from })
    );
}

/// Random overrides: single days, and stretches long enough to swallow whole months.
fn overrides() -> impl Strategy<Value = BTreeMap<NaiveDate, bool>> {
    let stretch = (
        0u64..900,
        prop_oneof![4 => 1u64..5, 1 => 30u64..100],
        any::<bool>(),
    );
    prop::collection::vec(stretch, 0..12).prop_map(|stretches| {
        let start = day("2023-06-01");
        let mut overrides = BTreeMap::new();
        for (offset, length, open) in stretches {
            for index in offset..offset + length {
                overrides.insert(start + Days::new(index), open);
            }
        }
        overrides
    })
}

proptest! {
    #[test]
    fn searches_agree_with_a_plain_model(
        overrides in overrides(),
        offset in 0u64..365,
        day_of_month in 1u32..=31,
        year_end_closed: bool,
    ) {
        let rules = Rules { year_end_closed, ..Rules::JP };
        let calendar = Calendar::new(rules, |on| overrides.get(&on).copied());
        let from = day("2024-06-01") + Days::new(offset);

        // The model walks every day and every month, from far before to far after.
        let open: Vec<NaiveDate> = days("2022-01-01", "2028-12-31")
            .filter(|on| calendar.is_business_day(*on).expect("day of the calendar"))
            .collect();
        let roll = |on: NaiveDate| *open.iter().find(|open| **open >= on).expect("an open day");
        let first = Month::of(day("2022-01-01"));
        let paid: Vec<(Month, NaiveDate)> = (0..72)
            .filter_map(|index| first.plus_months(index))
            .map(|month| (month, roll(month.day_clamped(day_of_month))))
            .collect();

        prop_assert_eq!(calendar.next_business_day(from), Ok(roll(from)));
        let expected = paid.iter().map(|(_, on)| *on).find(|on| *on >= from);
        prop_assert_eq!(calendar.next_business_day_of_month(from, day_of_month).ok(), expected);

        for probe in [from, roll(from), expected.expect("a pay day")] {
            let mut months: Vec<_> =
                paid.iter().filter(|(_, on)| *on == probe).map(|(month, _)| *month).collect();
            months.reverse();
            prop_assert_eq!(calendar.months_paid_on(probe, day_of_month), Ok(months));
        }
    }
}
