//! Expiry policies: their text, their limits, and the days they give.

use chrono::{Datelike, Days, NaiveDate};
use loyalty_core::expiry::{ExpiryError, ExpiryPolicy, PolicyError, Unit};
use proptest::prelude::*;

fn day(text: &str) -> NaiveDate {
    text.parse().expect("test date")
}

fn policy(text: &str) -> ExpiryPolicy {
    text.parse().expect("test policy")
}

fn expires_on(text: &str, granted_on: &str) -> Option<NaiveDate> {
    policy(text).expires_on(day(granted_on)).expect("expiry")
}

#[test]
fn c6_last_day_of_the_month_three_years_after_the_grant() {
    let c6 = "end of month after 3 years";
    assert_eq!(expires_on(c6, "2025-06-15"), Some(day("2028-06-30")));
    assert_eq!(expires_on(c6, "2024-02-29"), Some(day("2027-02-28")));
    assert_eq!(expires_on(c6, "2025-02-28"), Some(day("2028-02-29")));
    assert_eq!(expires_on(c6, "2025-06-30"), Some(day("2028-06-30")));
    assert_eq!(expires_on(c6, "2025-07-01"), Some(day("2028-07-31")));
}

#[test]
fn every_form_gives_its_day() {
    for (text, granted_on, expected) in [
        ("fixed 2027-03-31", "2025-06-15", "2027-03-31"),
        ("fixed 2027-03-31", "2027-03-31", "2027-03-31"),
        ("1 day", "2024-12-31", "2025-01-01"),
        ("180 days", "2025-06-15", "2025-12-12"),
        ("2 weeks", "2025-06-15", "2025-06-29"),
        ("1 month", "2025-01-31", "2025-02-28"),
        ("1 month", "2024-01-31", "2024-02-29"),
        ("1 month", "2024-02-29", "2024-03-29"),
        ("1 year", "2024-02-29", "2025-02-28"),
        ("4 years", "2024-02-29", "2028-02-29"),
        ("end of month after 0 days", "2025-06-15", "2025-06-30"),
        ("end of month after 0 months", "2024-02-01", "2024-02-29"),
        ("end of month after 20 days", "2025-06-15", "2025-07-31"),
        ("end of month after 1 week", "2025-06-23", "2025-06-30"),
        ("end of month after 1 month", "2025-01-31", "2025-02-28"),
        ("end of year after 0 years", "2025-06-15", "2025-12-31"),
        ("end of year after 2 years", "2024-02-29", "2026-12-31"),
        ("after 12 months of inactivity", "2024-02-29", "2025-02-28"),
        ("100 years", "2025-06-15", "2125-06-15"),
    ] {
        assert_eq!(
            expires_on(text, granted_on),
            Some(day(expected)),
            "{text} {granted_on}"
        );
    }
    assert_eq!(expires_on("never", "2025-06-15"), None);
    assert_eq!(policy("never"), ExpiryPolicy::NEVER);
    assert_eq!(
        policy("after 18 months of inactivity").inactivity_months(),
        Some(18)
    );
    assert_eq!(policy("18 months").inactivity_months(), None);
}

#[test]
fn impossible_expiry_is_an_error() {
    let (fixed_on, granted_on) = (day("2027-03-31"), day("2027-04-01"));
    let error = ExpiryError::FixedBeforeGrant {
        fixed_on,
        granted_on,
    };
    assert_eq!(
        policy("fixed 2027-03-31").expires_on(granted_on),
        Err(error)
    );

    let late = day("9999-12-01");
    let out_of_range = Err(ExpiryError::OutOfRange { granted_on: late });
    assert_eq!(policy("31 days").expires_on(late), out_of_range);
    assert_eq!(
        policy("30 days").expires_on(late),
        Ok(Some(day("9999-12-31")))
    );
    assert_eq!(
        policy("end of month after 0 days").expires_on(late),
        Ok(Some(day("9999-12-31")))
    );
    assert_eq!(
        policy("end of month after 1 month").expires_on(late),
        out_of_range
    );
    assert_eq!(
        policy("after 1 month of inactivity").expires_on(late),
        out_of_range
    );
    for granted_on in [NaiveDate::MIN, NaiveDate::MAX] {
        for text in [
            "never",
            "fixed 2027-03-31",
            "100 years",
            "end of year after 100 years",
        ] {
            let error = ExpiryError::OutOfRange { granted_on };
            assert_eq!(policy(text).expires_on(granted_on), Err(error), "{text}");
        }
    }
}

#[test]
fn text_is_tolerant_going_in_and_canonical_coming_out() {
    for (text, canonical) in [
        (" NEVER ", "never"),
        ("Fixed\t2027-03-31", "fixed 2027-03-31"),
        ("1 days", "1 day"),
        ("180 Day", "180 days"),
        ("007 weeks", "7 weeks"),
        ("End  Of Months After 1 YEARS", "end of month after 1 year"),
        ("end of month after 0 day", "end of month after 0 days"),
        ("end of year after 3 year", "end of year after 3 years"),
        (
            "after 12 month of INACTIVITY\n",
            "after 12 months of inactivity",
        ),
        (
            "\u{3000}after 1 months of inactivity",
            "after 1 month of inactivity",
        ),
        ("36500 days", "36500 days"),
        ("5214 weeks", "5214 weeks"),
        ("1200 months", "1200 months"),
        ("100 years", "100 years"),
    ] {
        assert_eq!(policy(text).to_string(), canonical, "{text}");
        assert_eq!(policy(canonical), policy(text), "{text}");
    }
}

#[test]
fn a_parse_error_says_where_and_what() {
    let unexpected = |position, expected, found: Option<&str>| PolicyError::Unexpected {
        position,
        expected,
        found: found.map(str::to_owned),
    };
    let start = "\"never\", \"fixed\", \"end\", \"after\" or a whole number";
    let unit = "days, weeks, months or years";
    let date = "a date like 2027-03-31";
    let too_large = |position, unit| PolicyError::CountTooLarge { position, unit };
    let no_date = |found: &str| PolicyError::NoSuchDate {
        position: 7,
        found: found.to_owned(),
    };
    for (text, error) in [
        ("", PolicyError::Empty),
        (" \t ", PolicyError::Empty),
        ("someday", unexpected(1, start, Some("someday"))),
        ("-1 days", unexpected(1, start, Some("-1"))),
        ("１０ days", unexpected(1, start, Some("１０"))),
        ("never ever", unexpected(7, "the end", Some("ever"))),
        ("180", unexpected(4, unit, None)),
        ("180days", unexpected(1, start, Some("180days"))),
        ("180  fortnights", unexpected(6, unit, Some("fortnights"))),
        ("3 yearss", unexpected(3, unit, Some("yearss"))),
        ("end of month", unexpected(13, "after", None)),
        (
            "end of week after 1 week",
            unexpected(8, "month or year", Some("week")),
        ),
        ("end month", unexpected(5, "of", Some("month"))),
        (
            "end of month after years",
            unexpected(20, "a whole number", Some("years")),
        ),
        (
            "end of year after 6 months",
            unexpected(21, "years", Some("months")),
        ),
        ("after 12 months", unexpected(16, "of", None)),
        (
            "after 2 years of inactivity",
            unexpected(9, "months", Some("years")),
        ),
        (
            "after 12 months of rest",
            unexpected(20, "inactivity", Some("rest")),
        ),
        ("fixed", unexpected(6, date, None)),
        ("fixed 31.3.2027", unexpected(7, date, Some("31.3.2027"))),
        ("fixed 2027-3-31", unexpected(7, date, Some("2027-3-31"))),
        ("fixed 2027-02-29", no_date("2027-02-29")),
        ("fixed 0000-01-01", no_date("0000-01-01")),
        ("0 days", PolicyError::ZeroCount { position: 1 }),
        (
            "after 0 months of inactivity",
            PolicyError::ZeroCount { position: 7 },
        ),
        ("36501 days", too_large(1, Unit::Days)),
        ("5215 weeks", too_large(1, Unit::Weeks)),
        ("1201 months", too_large(1, Unit::Months)),
        ("101 years", too_large(1, Unit::Years)),
        ("99999999999999999999 years", too_large(1, Unit::Years)),
        (
            "end of month after 1201 months",
            too_large(20, Unit::Months),
        ),
        ("end of year after 101 years", too_large(19, Unit::Years)),
        (
            "after 1201 months of inactivity",
            too_large(7, Unit::Months),
        ),
    ] {
        let found = text.parse::<ExpiryPolicy>().expect_err(text);
        assert_eq!(found, error, "{text}");
        assert!(found.hint().contains("end of month after N"));
    }
    let huge = "界".repeat(10_000);
    let message = huge
        .parse::<ExpiryPolicy>()
        .expect_err("nonsense")
        .to_string();
    assert!(message.chars().count() < 200, "{message}");
}

/// Canonical text of every form, made apart from the parser.
fn canonical() -> impl Strategy<Value = String> {
    let count = |n: u32, unit: &str| format!("{n} {unit}{}", if n == 1 { "" } else { "s" });
    let unit = prop_oneof![
        Just(("day", 36_500u32)),
        Just(("week", 5_214)),
        Just(("month", 1_200)),
        Just(("year", 100)),
    ];
    let span = move |min: u32| {
        unit.clone()
            .prop_flat_map(move |(unit, max)| (min..=max).prop_map(move |n| count(n, unit)))
    };
    prop_oneof![
        Just("never".to_owned()),
        (0u64..3_000_000).prop_map(|n| format!("fixed {}", day("0001-01-01") + Days::new(n))),
        span(1),
        span(0).prop_map(|span| format!("end of month after {span}")),
        (0u32..=100).prop_map(move |n| format!("end of year after {}", count(n, "year"))),
        (1u32..=1_200).prop_map(move |n| format!("after {} of inactivity", count(n, "month"))),
    ]
}

proptest! {
    #[test]
    fn text_survives_the_round_trip(text in canonical()) {
        prop_assert_eq!(policy(&text).to_string(), text.clone());
        let shouted = format!("  {}\n", text.to_uppercase().replace(' ', " \t"));
        prop_assert_eq!(policy(&shouted), policy(&text));
    }

    #[test]
    fn any_text_parses_or_points_into_itself(text in "\\PC*|([a-z0-9 ]{0,9}(of|after|month|end) ?){0,6}") {
        match text.parse::<ExpiryPolicy>() {
            Ok(parsed) => prop_assert_eq!(policy(&parsed.to_string()), parsed),
            Err(error) => {
                prop_assert!((1..=text.chars().count() + 1).contains(&error.position()));
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn points_never_expire_before_their_grant(text in canonical(), offset in 0u64..3_000_000) {
        let granted_on = day("0001-01-01") + Days::new(offset);
        if let Ok(Some(expires_on)) = policy(&text).expires_on(granted_on) {
            prop_assert!(expires_on >= granted_on);
            if text.starts_with("end of month") {
                prop_assert_ne!((expires_on + Days::new(1)).month(), expires_on.month());
            }
            // A later grant never expires sooner.
            if let Ok(Some(next)) = policy(&text).expires_on(granted_on + Days::new(1)) {
                prop_assert!(next >= expires_on);
            }
        }
    }
}
