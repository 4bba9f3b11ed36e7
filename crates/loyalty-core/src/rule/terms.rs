//! What a rule says, read from JSON. What is not understood is refused, and the refusal tells
//! the field and what is allowed there.

use crate::month::Month;
use crate::recurrence::{Anniversary, CutOff, Interval, RecurrenceError};
use chrono::{Datelike as _, NaiveDate};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// The most points that one payment can have.
pub const MAX_POINTS: i64 = 1_000_000_000_000;

/// A whole number between two limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole<const MIN: i64, const MAX: i64>(pub i64);

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeVisitor::<MIN, MAX>)
    }
}

struct WholeVisitor<const MIN: i64, const MAX: i64>;

impl<const MIN: i64, const MAX: i64> Visitor<'_> for WholeVisitor<MIN, MAX> {
    type Value = Whole<MIN, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {MIN} to {MAX}")
    }
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        i64::try_from(value)
            .ok()
            .filter(|value| (MIN..=MAX).contains(value))
            .map(Whole)
            .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(value), &self))
    }
    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        if (MIN..=MAX).contains(&value) {
            Ok(Whole(value))
        } else {
            Err(E::invalid_value(Unexpected::Signed(value), &self))
        }
    }
}

pub type Points = Whole<1, MAX_POINTS>;
pub type DayOfMonth = Whole<1, 31>;

/// A day as `2024-06-01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day(pub NaiveDate);

/// A month as `2025-05`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MonthText(pub Month);

/// The day that a text like `2024-06-01` names; nothing else is a day.
#[must_use]
pub fn read_day(text: &str) -> Option<NaiveDate> {
    let shaped = text.len() == 10
        && text.bytes().enumerate().all(|(place, byte)| match place {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    let day = shaped.then(|| text.parse::<NaiveDate>().ok()).flatten();
    day.filter(|day| day.year() >= 1)
}

struct TextVisitor<T> {
    expecting: &'static str,
    read: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.read)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

macro_rules! from_text {
    ($name:ident, $expecting:literal, $read:expr) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(TextVisitor {
                    expecting: $expecting,
                    read: $read,
                })
            }
        }
    };
}

from_text!(Day, "a day as YYYY-MM-DD", |text| read_day(text).map(Day));
from_text!(MonthText, "a month as YYYY-MM", |text| {
    read_day(&format!("{text}-01")).map(|day| MonthText(Month::of(day)))
});

/// What facts and events are called: 1 to 63 letters, digits, `_`, `-`, `.`, a letter first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(pub String);

#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

from_text!(
    Name,
    "a name of 1 to 63 letters, digits, '_', '-' or '.', a letter first",
    |text| is_name(text).then(|| Name(text.to_owned()))
);

/// What becomes of a pay day that is no business day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnClosedDay {
    NextBusinessDay,
    SameDay,
}

/// `{fact, every_years | every_months, points, day_of_month, cut_off, on_closed_day}` (C2, C3)
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnniversaryTerms {
    pub fact: Name,
    pub every_years: Option<Whole<1, 100>>,
    pub every_months: Option<Whole<1, 1_200>>,
    pub points: Points,
    pub day_of_month: DayOfMonth,
    pub cut_off: Option<CutOffTerms>,
    pub on_closed_day: Option<OnClosedDay>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutOffTerms {
    pub fact_until: Day,
    pub first_month: MonthText,
}

/// `{event, points, months_after, day_of_month, on_closed_day}` (C5)
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventTerms {
    pub event: Name,
    pub points: PartyPoints,
    pub months_after: Option<Whole<1, 24>>,
    pub day_of_month: Option<DayOfMonth>,
    pub on_closed_day: Option<OnClosedDay>,
}

/// Points of an event: the same for each party it names, or by party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartyPoints {
    pub member: Option<Points>,
    pub other: Option<Points>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByParty {
    member: Option<Points>,
    other: Option<Points>,
}

impl<'de> Deserialize<'de> for PartyPoints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PartyVisitor;
        impl<'de> Visitor<'de> for PartyVisitor {
            type Value = PartyPoints;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(
                    f,
                    "a whole number from 1 to {MAX_POINTS}, or an object with member, other or both"
                )
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<PartyPoints, E> {
                let points = WholeVisitor::<1, MAX_POINTS>.visit_u64::<E>(value);
                let points =
                    points.map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))?;
                Ok(PartyPoints {
                    member: Some(points),
                    other: Some(points),
                })
            }
            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<PartyPoints, E> {
                Err(E::invalid_value(Unexpected::Signed(value), &self))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PartyPoints, A::Error> {
                let by_party = ByParty::deserialize(MapAccessDeserializer::new(map))?;
                if by_party.member.is_none() && by_party.other.is_none() {
                    return Err(A::Error::custom(format_args!(
                        "nobody is paid, expected {}",
                        &PartyVisitor as &dyn serde::de::Expected
                    )));
                }
                Ok(PartyPoints {
                    member: by_party.member,
                    other: by_party.other,
                })
            }
        }
        deserializer.deserialize_any(PartyVisitor)
    }
}

/// `{fact, key_date, pays_on, table, on_closed_day}` (C4)
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenureTerms {
    pub fact: Name,
    pub key_date: Day,
    pub pays_on: Day,
    pub table: Vec<TenureRow>,
    pub on_closed_day: Option<OnClosedDay>,
}

/// From so many full years on, so many points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenureRow {
    pub years: Whole<0, 200>,
    pub points: Points,
}

/// `{points, day_of_month, on_closed_day}`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BirthdayTerms {
    pub points: Points,
    pub day_of_month: Option<DayOfMonth>,
    pub on_closed_day: Option<OnClosedDay>,
}

/// `{per_amount, points, rounding, minimum_amount, max_points, event, months_after, day_of_month, on_closed_day}`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurchaseTerms {
    pub per_amount: Whole<1, 1_000_000_000>,
    pub points: Whole<1, 1_000_000>,
    pub rounding: Rounding,
    pub minimum_amount: Option<Whole<1, MAX_POINTS>>,
    pub max_points: Option<Points>,
    pub event: Option<Name>,
    pub months_after: Option<Whole<1, 24>>,
    pub day_of_month: Option<DayOfMonth>,
    pub on_closed_day: Option<OnClosedDay>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    Down,
    Up,
    HalfUp,
    /// Only each full `per_amount` counts.
    WholeUnits,
}

/// `{points, max_points}`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManualTerms {
    pub points: Option<Points>,
    pub max_points: Option<Points>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Terms {
    Anniversary(AnniversaryTerms),
    Event(EventTerms),
    Tenure(TenureTerms),
    Birthday(BirthdayTerms),
    Purchase(PurchaseTerms),
    Manual(ManualTerms),
}

/// A kind of rule, with terms that are right.
pub const EXAMPLES: [(&str, &str); 6] = [
    (
        "anniversary",
        r#"{"fact": "first_service_on", "every_years": 1, "points": 2000, "day_of_month": 15, "cut_off": {"fact_until": "2024-06-01", "first_month": "2025-05"}}"#,
    ),
    (
        "event",
        r#"{"event": "referral", "points": {"member": 5000, "other": 5000}, "months_after": 1, "day_of_month": 15}"#,
    ),
    (
        "tenure",
        r#"{"fact": "contract_since", "key_date": "2024-06-01", "pays_on": "2024-05-29", "table": [{"years": 5, "points": 2500}, {"years": 8, "points": 4000}]}"#,
    ),
    ("birthday", r#"{"points": 500, "day_of_month": 1}"#),
    (
        "purchase",
        r#"{"per_amount": 100, "points": 1, "rounding": "down", "months_after": 1, "day_of_month": 15}"#,
    ),
    ("manual", r#"{"points": 100, "max_points": 1000}"#),
];

/// What is wrong with terms, and where: a JSON path such as `$.table[1].years`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    #[error("there is no such kind of rule")]
    NoSuchKind { kind: String },
    #[error("terms of a rule are wrong at {path}")]
    Wrong { path: String, problem: String },
}

impl TermsError {
    /// One word for programs.
    pub const fn reason(&self) -> &'static str {
        match self {
            TermsError::NoSuchKind { .. } => "rule_kind_unknown",
            TermsError::Wrong { .. } => "terms_invalid",
        }
    }

    fn wrong(path: &str, problem: impl Into<String>) -> TermsError {
        TermsError::Wrong {
            path: format!("$.{path}"),
            problem: problem.into(),
        }
    }
}

/// The terms of a kind of rule, from JSON.
pub fn read(kind: &str, json: &str) -> Result<Terms, TermsError> {
    let terms = match kind {
        "anniversary" => Terms::Anniversary(from_json(json)?),
        "event" => Terms::Event(from_json(json)?),
        "tenure" => Terms::Tenure(from_json(json)?),
        "birthday" => Terms::Birthday(from_json(json)?),
        "purchase" => Terms::Purchase(from_json(json)?),
        "manual" => Terms::Manual(from_json(json)?),
        _ => {
            return Err(TermsError::NoSuchKind {
                kind: kind.to_owned(),
            });
        }
    };
    terms.check()?;
    Ok(terms)
}

fn from_json<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, TermsError> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = match error.path().to_string() {
            root if root == "." => "$".to_owned(),
            path => format!("$.{path}"),
        };
        // without serde_json's line and column, which are of a text that nobody wrote
        let mut problem = error.inner().to_string();
        if let Some(place) = problem.rfind(" at line ") {
            problem.truncate(place);
        }
        TermsError::Wrong { path, problem }
    })
}

impl Terms {
    /// What no single field can tell.
    fn check(&self) -> Result<(), TermsError> {
        match self {
            Terms::Anniversary(terms) => {
                if terms.every_years.is_some() == terms.every_months.is_some() {
                    let path = match terms.every_years {
                        Some(_) => "every_months",
                        None => "every_years",
                    };
                    return Err(TermsError::wrong(
                        path,
                        "expected one of every_years and every_months",
                    ));
                }
                terms.recurrence().map(|_| ()).map_err(|error| {
                    let path = match error {
                        RecurrenceError::FirstPaymentBeforeCutOff { .. } => "cut_off.first_month",
                        _ => "day_of_month",
                    };
                    TermsError::wrong(path, error.to_string())
                })
            }
            Terms::Event(EventTerms {
                months_after,
                day_of_month,
                on_closed_day,
                ..
            })
            | Terms::Purchase(PurchaseTerms {
                months_after,
                day_of_month,
                on_closed_day,
                ..
            }) => {
                let problem =
                    "expected months_after and day_of_month together, or neither to pay at once";
                match (months_after, day_of_month) {
                    (Some(_), None) => Err(TermsError::wrong("day_of_month", problem)),
                    (None, Some(_)) => Err(TermsError::wrong("months_after", problem)),
                    (None, None) if on_closed_day.is_some() => Err(TermsError::wrong(
                        "on_closed_day",
                        "what is paid at once is paid on any day; expected it with months_after and day_of_month only",
                    )),
                    _ => Ok(()),
                }
            }
            Terms::Tenure(terms) => {
                if terms.table.is_empty() {
                    return Err(TermsError::wrong("table", "expected one row or more"));
                }
                for (place, row) in terms.table.iter().enumerate() {
                    if terms.table[..place]
                        .iter()
                        .any(|other| other.years == row.years)
                    {
                        return Err(TermsError::wrong(
                            &format!("table[{place}].years"),
                            format!("{} years are in a row before", row.years.0),
                        ));
                    }
                }
                Ok(())
            }
            Terms::Manual(ManualTerms {
                points: Some(points),
                max_points: Some(max_points),
            }) if points.0 > max_points.0 => Err(TermsError::wrong(
                "points",
                format!("{} are more than max_points, {}", points.0, max_points.0),
            )),
            Terms::Birthday(_) | Terms::Manual(_) => Ok(()),
        }
    }
}

impl AnniversaryTerms {
    #[must_use]
    pub fn every_months(&self) -> u32 {
        let months = match (self.every_years, self.every_months) {
            (Some(years), _) => years.0 * 12,
            (None, Some(months)) => months.0,
            (None, None) => 0,
        };
        u32::try_from(months).unwrap_or(0)
    }

    pub fn recurrence(&self) -> Result<Anniversary, RecurrenceError> {
        let cut_off = self.cut_off.as_ref().map(|cut_off| CutOff {
            last_fact_on: cut_off.fact_until.0,
            first_month: cut_off.first_month.0,
        });
        Anniversary::new(
            Interval::months(self.every_months())?,
            u32::try_from(self.day_of_month.0).unwrap_or(0),
            cut_off,
        )
    }
}
