//! When facts pay: anniversaries of a first service (C2, C3), the month after an event (C5).
//!
//! Only the month of a fact counts, never its day, so that a fact on 29 February or on the 31st
//! needs no rule of its own: the pay day is a day of the month, rolled to a business day.

use crate::calendar::{Calendar, CalendarError, FIRST_YEAR, LAST_YEAR, MAX_CLOSED_DAYS};
use crate::month::Month;
use chrono::{Datelike, NaiveDate};

pub const MAX_INTERVAL_MONTHS: u32 = 1_200;

/// A rolled pay day can lie so many months after its own.
const MAX_ROLL_MONTHS: i32 = (MAX_CLOSED_DAYS / 28) as i32;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecurrenceError {
    /// Not in 1–`MAX_INTERVAL_MONTHS`.
    #[error("interval of {months} months is not between 1 and {MAX_INTERVAL_MONTHS}")]
    BadInterval { months: u32 },
    /// A payment is numbered from 1.
    #[error("there is no payment number {number}")]
    BadNumber { number: u32 },
    /// The first pay day would come before the last fact it is for.
    #[error("first payment on {nominal_on} is before the cut-off, {last_fact_on}")]
    FirstPaymentBeforeCutOff {
        nominal_on: NaiveDate,
        last_fact_on: NaiveDate,
    },
    #[error(transparent)]
    Calendar(#[from] CalendarError),
}

/// A whole number of months, from one to a hundred years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interval {
    months: u32,
}

impl Interval {
    pub fn months(months: u32) -> Result<Self, RecurrenceError> {
        match months {
            1..=MAX_INTERVAL_MONTHS => Ok(Interval { months }),
            _ => Err(RecurrenceError::BadInterval { months }),
        }
    }

    pub fn years(years: u32) -> Result<Self, RecurrenceError> {
        Interval::months(years.saturating_mul(12))
    }
}

/// Facts up to and on a day all pay first in one month, whatever their own (C3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CutOff {
    pub last_fact_on: NaiveDate,
    pub first_month: Month,
}

/// Pays every interval after the month of a fact, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Anniversary {
    interval: Interval,
    day_of_month: u32,
    cut_off: Option<CutOff>,
}

/// One payment: the `number`-th, due in `month`, paid on `pays_on` once rolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Payment {
    pub number: u32,
    pub month: Month,
    pub pays_on: NaiveDate,
}

impl Anniversary {
    pub fn new(
        interval: Interval,
        day_of_month: u32,
        cut_off: Option<CutOff>,
    ) -> Result<Self, RecurrenceError> {
        if !(1..=31).contains(&day_of_month) {
            return Err(CalendarError::BadDayOfMonth { day_of_month }.into());
        }
        if let Some(cut_off) = cut_off {
            let nominal_on = cut_off.first_month.day_clamped(day_of_month);
            if nominal_on < cut_off.last_fact_on {
                return Err(RecurrenceError::FirstPaymentBeforeCutOff {
                    nominal_on,
                    last_fact_on: cut_off.last_fact_on,
                });
            }
        }
        Ok(Anniversary {
            interval,
            day_of_month,
            cut_off,
        })
    }

    /// For [`Anniversary::occasion`], which asks for no day.
    pub fn repeating(interval: Interval, cut_off: Option<CutOff>) -> Self {
        Anniversary {
            interval,
            day_of_month: 1,
            cut_off,
        }
    }

    /// The month of the first payment for a fact; `None` beyond what a date can hold.
    pub fn first_month(&self, fact_on: NaiveDate) -> Option<Month> {
        match self.cut_off {
            Some(cut_off) if fact_on <= cut_off.last_fact_on => Some(cut_off.first_month),
            _ => Month::of(fact_on).plus_months(self.interval.months),
        }
    }

    /// Which payment a month brings for a fact: the months since the fact's own, which stay the
    /// same whatever the interval becomes. Facts up to the cut-off count as of a year before
    /// their first month. `None` when the month brings none.
    pub fn occasion(&self, fact_on: NaiveDate, month: Month) -> Option<u32> {
        let first_month = self.first_month(fact_on)?;
        let since_first = u32::try_from(first_month.months_until(month)).ok()?;
        let before_first = match self.cut_off {
            Some(cut_off) if fact_on <= cut_off.last_fact_on => 12,
            _ => self.interval.months,
        };
        (since_first % self.interval.months == 0).then_some(since_first + before_first)
    }

    /// The month of a fact's payment; `None` beyond what a date can hold.
    fn month_of(&self, fact_on: NaiveDate, number: u32) -> Option<Month> {
        let months = number.checked_sub(1)?.checked_mul(self.interval.months)?;
        self.first_month(fact_on)?.plus_months(months)
    }

    /// The `number`-th payment for a fact, from 1.
    pub fn payment<F: Fn(NaiveDate) -> Option<bool>>(
        &self,
        fact_on: NaiveDate,
        number: u32,
        calendar: &Calendar<F>,
    ) -> Result<Payment, RecurrenceError> {
        if number == 0 {
            return Err(RecurrenceError::BadNumber { number });
        }
        let month = self
            .month_of(fact_on, number)
            .ok_or(CalendarError::OutOfRange {
                day: NaiveDate::MAX,
            })?;
        let pays_on = calendar.business_day_of_month(month, self.day_of_month)?;
        Ok(Payment {
            number,
            month,
            pays_on,
        })
    }

    /// The payments for a fact whose rolled day lies in `from..=to`, in order.
    ///
    /// Both days must lie in the calendar; the fact may be older.
    pub fn payments_between<F: Fn(NaiveDate) -> Option<bool>>(
        &self,
        fact_on: NaiveDate,
        from: NaiveDate,
        to: NaiveDate,
        calendar: &Calendar<F>,
    ) -> Result<Vec<Payment>, RecurrenceError> {
        for day in [from, to] {
            if !(FIRST_YEAR..=LAST_YEAR).contains(&day.year()) {
                return Err(CalendarError::OutOfRange { day }.into());
            }
        }
        let mut payments = Vec::new();
        let Some(first_month) = self.first_month(fact_on) else {
            return Ok(payments);
        };
        // Begin with a month early enough to roll to `from`, yet inside the calendar.
        let reach = MAX_ROLL_MONTHS.min((from.year() - FIRST_YEAR) * 12 + from.month0() as i32);
        let months_before = first_month.months_until(Month::of(from)) - reach;
        let skipped = u32::try_from(months_before)
            .unwrap_or(0)
            .div_ceil(self.interval.months);

        for number in skipped + 1.. {
            let Some(month) = self.month_of(fact_on, number) else {
                break;
            };
            if month.day_clamped(self.day_of_month) > to {
                break;
            }
            let pays_on = match calendar.business_day_of_month(month, self.day_of_month) {
                Ok(day) => day,
                // The nominal day is no later than `to`, so it rolled past the calendar's end.
                Err(CalendarError::OutOfRange { .. }) => break,
                Err(error) => return Err(error.into()),
            };
            if pays_on > to {
                break;
            }
            if pays_on >= from {
                payments.push(Payment {
                    number,
                    month,
                    pays_on,
                });
            }
        }
        Ok(payments)
    }
}

/// The day on which an event pays: `day_of_month` of the month `months` after the event's, rolled.
/// A referral signed in May pays on the 15th of June: one month, day 15 (C5).
pub fn pays_in_month_after<F: Fn(NaiveDate) -> Option<bool>>(
    event_on: NaiveDate,
    interval: Interval,
    day_of_month: u32,
    calendar: &Calendar<F>,
) -> Result<NaiveDate, RecurrenceError> {
    let rule = Anniversary::new(interval, day_of_month, None)?;
    Ok(rule.payment(event_on, 1, calendar)?.pays_on)
}
