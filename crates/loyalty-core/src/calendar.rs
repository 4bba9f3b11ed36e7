//! Business days: weekends, Japan's public holidays, the banks' year end, and what a DBA overrides.
//!
//! The holidays come from the crate `jpholiday`. It agrees, on every day from 1955 to 2099, with
//! the independently maintained list in `tests/data` (see `tests/calendar.rs`), so there is
//! no table of corrections here. Equinox days are proclaimed each February for the next year; what
//! lies further ahead is astronomy. The tightest case is autumn 2074, 3.6 minutes after midnight.

use crate::month::Month;
use chrono::{Datelike, Days, NaiveDate, Weekday};
use std::sync::OnceLock;

pub const FIRST_YEAR: i32 = 1955;
pub const LAST_YEAR: i32 = 2099;

/// A search for a business day gives up after so many closed days in a row.
pub const MAX_CLOSED_DAYS: u64 = 366;

/// The countries whose public holidays are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum National {
    Japan,
}

/// What closes a day, overrides apart. Saturday and Sunday always do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rules {
    pub national: Option<National>,
    /// The banks' year end: 31 December to 3 January.
    pub year_end_closed: bool,
}

impl Rules {
    /// Calendar `'JP'`.
    pub const JP: Rules = Rules {
        national: Some(National::Japan),
        year_end_closed: false,
    };
    /// Calendar `'none'`: weekends only.
    pub const NONE: Rules = Rules {
        national: None,
        year_end_closed: false,
    };
}

/// Why a day is no business day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Closure {
    Override,
    Weekend,
    Holiday(&'static str),
    YearEnd,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// The day lies outside `FIRST_YEAR..=LAST_YEAR`, or a search ran out of it.
    #[error("day {day} is outside the business calendar")]
    OutOfRange { day: NaiveDate },
    /// Not in 1–31.
    #[error("there is no day {day_of_month} in a month")]
    BadDayOfMonth { day_of_month: u32 },
    /// `MAX_CLOSED_DAYS` closed days in a row, beginning with `from`.
    #[error("no business day found on or after {from}")]
    NoBusinessDay { from: NaiveDate },
}

impl CalendarError {
    /// One word for programs.
    pub const fn reason(&self) -> &'static str {
        match self {
            CalendarError::OutOfRange { .. } => "date_out_of_range",
            CalendarError::BadDayOfMonth { .. } => "day_of_month_invalid",
            CalendarError::NoBusinessDay { .. } => "no_business_day",
        }
    }

    /// The way out, in a sentence.
    pub fn hint(&self) -> String {
        match self {
            CalendarError::OutOfRange { .. } => {
                format!("Calendars cover {FIRST_YEAR}-01-01 to {LAST_YEAR}-12-31.")
            }
            CalendarError::BadDayOfMonth { .. } => {
                "Give 1 to 31; 29 to 31 mean the last day in shorter months.".to_owned()
            }
            CalendarError::NoBusinessDay { .. } => format!(
                "The calendar's overrides close {MAX_CLOSED_DAYS} days in a row; reopen some."
            ),
        }
    }
}

/// Japan's public holidays of a year, in order: the day and its Japanese name. `None` outside
/// `FIRST_YEAR..=LAST_YEAR`.
///
/// A substitute day is named after the holiday it stands for, a sandwiched day `国民の休日`.
pub fn jp_holidays(year: i32) -> Option<&'static [(NaiveDate, String)]> {
    // Working out a year takes about a millisecond, so it is done once, when first asked for.
    const YEAR_COUNT: usize = (LAST_YEAR - FIRST_YEAR + 1) as usize;
    static YEARS: [OnceLock<Vec<(NaiveDate, String)>>; YEAR_COUNT] =
        [const { OnceLock::new() }; YEAR_COUNT];

    let index = usize::try_from(year.checked_sub(FIRST_YEAR)?).ok()?;
    Some(YEARS.get(index)?.get_or_init(|| work_out_year(year)))
}

fn work_out_year(year: i32) -> Vec<(NaiveDate, String)> {
    // An own instance: the crate's global functions share a registry that others may change.
    let mut holidays: Vec<_> = jpholiday::JPHoliday::new()
        .year_holidays(year)
        .into_iter()
        .filter_map(|holiday| {
            let date = holiday.date;
            let day = NaiveDate::from_ymd_opt(date.year(), date.month(), date.day())?;
            Some((day, holiday.name))
        })
        .collect();
    holidays.sort_by_key(|(day, _)| *day);
    holidays.dedup_by_key(|(day, _)| *day);
    holidays
}

/// The name of Japan's public holiday on that day, if it is one.
pub fn jp_holiday_name(day: NaiveDate) -> Result<Option<&'static str>, CalendarError> {
    let holidays = jp_holidays(day.year()).ok_or(CalendarError::OutOfRange { day })?;
    let found = holidays.binary_search_by_key(&day, |(holiday, _)| *holiday);
    Ok(found.ok().map(|index| holidays[index].1.as_str()))
}

/// The rules of a calendar with its overrides.
///
/// The override function answers `Some(true)` for a day forced open, `Some(false)` for a day forced
/// closed, and `None` to leave the day to the rules.
#[derive(Debug, Clone)]
pub struct Calendar<F> {
    rules: Rules,
    override_of: F,
}

impl Calendar<fn(NaiveDate) -> Option<bool>> {
    pub fn without_overrides(rules: Rules) -> Self {
        Calendar::new(rules, |_| None)
    }
}

impl<F: Fn(NaiveDate) -> Option<bool>> Calendar<F> {
    pub fn new(rules: Rules, override_of: F) -> Self {
        Calendar { rules, override_of }
    }

    /// Why the day is closed; `None` for a business day.
    pub fn closure(&self, day: NaiveDate) -> Result<Option<Closure>, CalendarError> {
        if !(FIRST_YEAR..=LAST_YEAR).contains(&day.year()) {
            return Err(CalendarError::OutOfRange { day });
        }
        match (self.override_of)(day) {
            Some(true) => return Ok(None),
            Some(false) => return Ok(Some(Closure::Override)),
            None => {}
        }
        if matches!(day.weekday(), Weekday::Sat | Weekday::Sun) {
            return Ok(Some(Closure::Weekend));
        }
        if let Some(National::Japan) = self.rules.national
            && let Some(name) = jp_holiday_name(day)?
        {
            return Ok(Some(Closure::Holiday(name)));
        }
        if self.rules.year_end_closed && matches!((day.month(), day.day()), (12, 31) | (1, 1..=3)) {
            return Ok(Some(Closure::YearEnd));
        }
        Ok(None)
    }

    pub fn is_business_day(&self, day: NaiveDate) -> Result<bool, CalendarError> {
        Ok(self.closure(day)?.is_none())
    }

    /// The first business day on or after `day`.
    pub fn next_business_day(&self, day: NaiveDate) -> Result<NaiveDate, CalendarError> {
        for offset in 0..MAX_CLOSED_DAYS {
            let candidate = day
                .checked_add_days(Days::new(offset))
                .ok_or(CalendarError::OutOfRange { day })?;
            if self.is_business_day(candidate)? {
                return Ok(candidate);
            }
        }
        Err(CalendarError::NoBusinessDay { from: day })
    }

    /// That day of that month (its last day when shorter), rolled forward to a business day.
    pub fn business_day_of_month(
        &self,
        month: Month,
        day_of_month: u32,
    ) -> Result<NaiveDate, CalendarError> {
        check_day_of_month(day_of_month)?;
        self.next_business_day(month.day_clamped(day_of_month))
    }

    /// The first rolled `day_of_month` on or after `from`.
    pub fn next_business_day_of_month(
        &self,
        from: NaiveDate,
        day_of_month: u32,
    ) -> Result<NaiveDate, CalendarError> {
        check_day_of_month(day_of_month)?;
        // The last nominal day up to `from` may still roll to `from` or past it: the 15th of June
        // 2025 is a Sunday, so on the 16th it is yet to come.
        let nominal = last_nominal_month(from, day_of_month)?.day_clamped(day_of_month);
        if nominal.year() >= FIRST_YEAR {
            let rolled = self.next_business_day(nominal)?;
            if rolled >= from {
                return Ok(rolled);
            }
        }
        let next = Month::of(nominal)
            .plus_months(1)
            .ok_or(CalendarError::OutOfRange { day: from })?;
        self.business_day_of_month(next, day_of_month)
    }

    /// The first rolled 15th on or after `from` (C2, C5).
    pub fn next_business_15th(&self, from: NaiveDate) -> Result<NaiveDate, CalendarError> {
        self.next_business_day_of_month(from, 15)
    }

    /// The months whose rolled `day_of_month` is `day`, latest first: none or one, and more only
    /// where overrides close a month and longer. Tells a daily run whom it is to pay.
    pub fn months_paid_on(
        &self,
        day: NaiveDate,
        day_of_month: u32,
    ) -> Result<Vec<Month>, CalendarError> {
        check_day_of_month(day_of_month)?;
        let mut months = Vec::new();
        if !self.is_business_day(day)? {
            return Ok(months);
        }
        let mut month = last_nominal_month(day, day_of_month)?;
        while month.first_day().year() >= FIRST_YEAR
            && self.business_day_of_month(month, day_of_month)? == day
        {
            months.push(month);
            match month.minus_months(1) {
                Some(previous) => month = previous,
                None => break,
            }
        }
        Ok(months)
    }
}

fn check_day_of_month(day_of_month: u32) -> Result<(), CalendarError> {
    match day_of_month {
        1..=31 => Ok(()),
        _ => Err(CalendarError::BadDayOfMonth { day_of_month }),
    }
}

/// The month of the last (unrolled) `day_of_month` on or before `day`.
fn last_nominal_month(day: NaiveDate, day_of_month: u32) -> Result<Month, CalendarError> {
    if !(FIRST_YEAR..=LAST_YEAR).contains(&day.year()) {
        return Err(CalendarError::OutOfRange { day });
    }
    let month = Month::of(day);
    if month.day_clamped(day_of_month) <= day {
        return Ok(month);
    }
    month
        .minus_months(1)
        .ok_or(CalendarError::OutOfRange { day })
}
