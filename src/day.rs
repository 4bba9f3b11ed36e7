//! PostgreSQL's days as chrono's, and back.

use crate::error::{Fault, Result};
use chrono::{Days, Months, NaiveDate};
use loyalty_core::wallet::{Day, NEVER};

const EPOCH: NaiveDate = NaiveDate::from_ymd_opt(2000, 1, 1).expect("a day of the calendar");

/// The date of a day; infinite and unimaginable ones are refused.
pub fn date(day: Day) -> Result<NaiveDate> {
    let offset = Days::new(u64::from(day.unsigned_abs()));
    let date = if day >= 0 {
        EPOCH.checked_add_days(offset)
    } else {
        EPOCH.checked_sub_days(offset)
    };
    date.filter(|_| day != NEVER && day != i32::MIN)
        .ok_or_else(|| {
            Fault::invalid("date_out_of_range", "a finite date is needed")
                .detail("The date given is infinite or too far away.")
                .hint("Give a date such as 2027-03-31.")
        })
}

/// The day of a date; of chrono's dates all are in range.
#[allow(clippy::cast_possible_truncation)]
pub fn day(date: NaiveDate) -> Day {
    date.signed_duration_since(EPOCH).num_days() as Day
}

/// The day so many months later: the month's last where it has no such day.
pub fn months_after(from: Day, months: u16) -> Day {
    date(from)
        .ok()
        .and_then(|date| date.checked_add_months(Months::new(u32::from(months))))
        .map_or(NEVER, day)
}
