//! A calendar month, the unit in which anniversaries and pay days are counted.

use chrono::{Datelike, Days, Months, NaiveDate};
use std::fmt;

/// One month of one year. Ordered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    first_day: NaiveDate,
}

impl Month {
    /// The month that holds `day`.
    pub fn of(day: NaiveDate) -> Month {
        Month {
            first_day: day - Days::new(u64::from(day.day0())),
        }
    }

    pub fn first_day(self) -> NaiveDate {
        self.first_day
    }

    pub fn last_day(self) -> NaiveDate {
        self.day_clamped(31)
    }

    /// Day `day_of_month` of this month, or its last day when it has no such day.
    pub fn day_clamped(self, day_of_month: u32) -> NaiveDate {
        let length = u32::from(self.first_day.num_days_in_month());
        self.first_day + Days::new(u64::from(day_of_month.clamp(1, length) - 1))
    }

    /// `None` when the month lies beyond what a date can hold.
    pub fn plus_months(self, months: u32) -> Option<Month> {
        let first_day = self.first_day.checked_add_months(Months::new(months))?;
        Some(Month { first_day })
    }

    /// `None` when the month lies before what a date can hold.
    pub fn minus_months(self, months: u32) -> Option<Month> {
        let first_day = self.first_day.checked_sub_months(Months::new(months))?;
        Some(Month { first_day })
    }

    /// Months from this one to `later`; negative when `later` comes first.
    pub fn months_until(self, later: Month) -> i32 {
        (later.first_day.year() - self.first_day.year()) * 12 + later.first_day.month0() as i32
            - self.first_day.month0() as i32
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04}-{:02}",
            self.first_day.year(),
            self.first_day.month()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().expect("test date")
    }

    #[test]
    fn days_are_clamped_to_the_month() {
        let leap = Month::of(day("2024-02-29"));
        assert_eq!(leap.day_clamped(31), day("2024-02-29"));
        assert_eq!(
            leap.plus_months(12).map(Month::last_day),
            Some(day("2025-02-28"))
        );
        assert_eq!(leap.day_clamped(0), day("2024-02-01"));
        assert_eq!(leap.to_string(), "2024-02");
    }

    #[test]
    fn months_are_counted_both_ways() {
        let (june, next) = (Month::of(day("2024-06-20")), Month::of(day("2025-01-31")));
        assert_eq!(june.months_until(next), 7);
        assert_eq!(next.months_until(june), -7);
        assert_eq!(june.plus_months(7), Some(next));
        assert_eq!(next.minus_months(7), Some(june));
    }

    #[test]
    fn the_ends_of_time_are_no_panic() {
        let (first, last) = (Month::of(NaiveDate::MIN), Month::of(NaiveDate::MAX));
        assert_eq!(first.first_day(), NaiveDate::MIN);
        assert_eq!(last.last_day(), NaiveDate::MAX);
        assert_eq!(last.plus_months(1), None);
        assert_eq!(first.minus_months(1), None);
        assert_eq!(first.plus_months(u32::MAX), None);
    }
}
