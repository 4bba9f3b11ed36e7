//! The versions of a rule, and the periods in which they pay.
//!
//! A period is known by its nominal day and pays on that day, or on the next business day. The
//! version in force on the day of payment decides. Each period answers for the facts and events
//! of some days, its reach: of a month, or of the day itself. Where a change moves the pay day,
//! the first period of the new version reaches back to where the one before it ended, so that
//! nobody is left out (C7); that nobody is paid twice is the ledger's to see (law 6).

pub mod terms;

use crate::calendar::{Calendar, CalendarError, FIRST_YEAR, LAST_YEAR, MAX_CLOSED_DAYS};
use crate::month::Month;
use chrono::{Datelike as _, Days, NaiveDate};
use terms::{OnClosedDay, Terms};

/// How far before a period the one before it is looked for.
const LOOK_BACK_DAYS: u64 = 800;
/// The longest way from an event to its pay day: months_after, a change of it, and a roll.
const LOOK_AHEAD_DAYS: u64 = 1_600;

/// When a version pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// Each month on that day, for what happened so many months before.
    Monthly {
        day_of_month: u32,
        months_after: u32,
        on_closed_day: OnClosedDay,
    },
    /// On every day.
    Daily { on_closed_day: OnClosedDay },
    Once {
        day: NaiveDate,
        on_closed_day: OnClosedDay,
    },
    /// When it happens.
    AtOnce,
}

/// One version of a rule, in force from a day to a day, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub number: i32,
    pub valid_from: NaiveDate,
    pub valid_to: Option<NaiveDate>,
    pub timing: Timing,
}

/// A period: its nominal day, the day it pays on, and the version that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    pub nominal_on: NaiveDate,
    pub pays_on: NaiveDate,
    pub version: i32,
}

/// The days whose facts and events a period pays for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    pub from: NaiveDate,
    pub to: NaiveDate,
    /// When the period before it paid.
    pub previous_pays_on: Option<NaiveDate>,
}

/// When an event pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayDay {
    pub version: i32,
    pub pays_on: NaiveDate,
    /// None when it is paid at once.
    pub nominal_on: Option<NaiveDate>,
}

impl Timing {
    #[must_use]
    pub fn of(terms: &Terms) -> Timing {
        let whole = |value: i64| u32::try_from(value).unwrap_or(0);
        let roll = |given: Option<OnClosedDay>| given.unwrap_or(OnClosedDay::NextBusinessDay);
        match terms {
            Terms::Anniversary(terms) => Timing::Monthly {
                day_of_month: whole(terms.day_of_month.0),
                months_after: 0,
                on_closed_day: roll(terms.on_closed_day),
            },
            Terms::Birthday(terms) => match terms.day_of_month {
                Some(day) => Timing::Monthly {
                    day_of_month: whole(day.0),
                    months_after: 0,
                    on_closed_day: roll(terms.on_closed_day),
                },
                // a birthday is on its day, whatever day that is
                None => Timing::Daily {
                    on_closed_day: terms.on_closed_day.unwrap_or(OnClosedDay::SameDay),
                },
            },
            Terms::Tenure(terms) => Timing::Once {
                day: terms.pays_on.0,
                // the day is somebody's decision, not arithmetic
                on_closed_day: terms.on_closed_day.unwrap_or(OnClosedDay::SameDay),
            },
            Terms::Event(terms::EventTerms {
                months_after,
                day_of_month,
                on_closed_day,
                ..
            })
            | Terms::Purchase(terms::PurchaseTerms {
                months_after,
                day_of_month,
                on_closed_day,
                ..
            }) => match (months_after, day_of_month) {
                (Some(months), Some(day)) => Timing::Monthly {
                    day_of_month: whole(day.0),
                    months_after: whole(months.0),
                    on_closed_day: roll(*on_closed_day),
                },
                _ => Timing::AtOnce,
            },
            Terms::Manual(_) => Timing::AtOnce,
        }
    }

    fn on_closed_day(self) -> OnClosedDay {
        match self {
            Timing::Monthly { on_closed_day, .. }
            | Timing::Daily { on_closed_day }
            | Timing::Once { on_closed_day, .. } => on_closed_day,
            Timing::AtOnce => OnClosedDay::SameDay,
        }
    }

    /// The first nominal day on or after a day.
    fn next_nominal(self, from: NaiveDate) -> Option<NaiveDate> {
        match self {
            Timing::Monthly { day_of_month, .. } => {
                let month = Month::of(from);
                let day = month.day_clamped(day_of_month);
                if day >= from {
                    return Some(day);
                }
                Some(month.plus_months(1)?.day_clamped(day_of_month))
            }
            Timing::Daily { .. } => Some(from),
            Timing::Once { day, .. } => (day >= from).then_some(day),
            Timing::AtOnce => None,
        }
    }

    /// The days that a nominal day answers for by itself.
    fn own_reach(self, nominal_on: NaiveDate) -> (NaiveDate, NaiveDate) {
        match self {
            Timing::Monthly { months_after, .. } => {
                let month = Month::of(nominal_on);
                let month = month.minus_months(months_after).unwrap_or(month);
                (month.first_day(), month.last_day())
            }
            _ => (nominal_on, nominal_on),
        }
    }
}

impl Version {
    /// A version that was replaced before it came into force is of no day.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.valid_to
            .is_some_and(|valid_to| valid_to < self.valid_from)
    }

    fn is_in_force(&self, day: NaiveDate) -> bool {
        day >= self.valid_from && self.valid_to.is_none_or(|valid_to| day <= valid_to)
    }
}

/// A rule with its versions in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    versions: Vec<Version>,
}

impl Rule {
    #[must_use]
    pub fn new(mut versions: Vec<Version>) -> Rule {
        versions.retain(|version| !version.is_empty());
        versions.sort_by_key(|version| version.valid_from);
        Rule { versions }
    }

    /// The periods whose nominal day is after `after` (all, without it) and no later than
    /// `up_to`, in order.
    pub fn periods<F: Fn(NaiveDate) -> Option<bool>>(
        &self,
        after: Option<NaiveDate>,
        up_to: NaiveDate,
        calendar: &Calendar<F>,
    ) -> Result<Vec<Period>, CalendarError> {
        let first_day = NaiveDate::from_ymd_opt(FIRST_YEAR, 1, 1).unwrap_or(NaiveDate::MIN);
        let mut periods: Vec<Period> = Vec::new();
        for version in &self.versions {
            let timing = version.timing;
            let mut from = version.valid_from;
            if timing.on_closed_day() == OnClosedDay::NextBusinessDay {
                from = from - Days::new(MAX_CLOSED_DAYS);
            }
            let after_that = after.and_then(|after| after.checked_add_days(Days::new(1)));
            from = from.max(after_that.unwrap_or(from)).max(first_day);
            let first_of_version = periods.len();
            while let Some(nominal_on) = timing.next_nominal(from) {
                let last = version
                    .valid_to
                    .map_or(up_to, |valid_to| valid_to.min(up_to));
                if nominal_on > last || nominal_on.year() > LAST_YEAR {
                    break;
                }
                let pays_on = match timing.on_closed_day() {
                    OnClosedDay::SameDay => nominal_on,
                    OnClosedDay::NextBusinessDay => match calendar.next_business_day(nominal_on) {
                        Ok(day) => day,
                        Err(CalendarError::OutOfRange { .. }) => break,
                        Err(error) => return Err(error),
                    },
                };
                // the day was a period of the version before, when it paid on another day
                let is_new =
                    first_of_version == 0 || periods[first_of_version - 1].nominal_on < nominal_on;
                if version.is_in_force(pays_on) && is_new {
                    periods.push(Period {
                        nominal_on,
                        pays_on,
                        version: version.number,
                    });
                }
                match nominal_on.succ_opt() {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        Ok(periods)
    }

    /// The period of a nominal day, and its reach.
    pub fn period<F: Fn(NaiveDate) -> Option<bool>>(
        &self,
        nominal_on: NaiveDate,
        calendar: &Calendar<F>,
    ) -> Result<Option<(Period, Reach)>, CalendarError> {
        let after = nominal_on.checked_sub_days(Days::new(LOOK_BACK_DAYS));
        let periods = self.periods(after, nominal_on, calendar)?;
        let Some((period, before)) = periods.split_last() else {
            return Ok(None);
        };
        if period.nominal_on != nominal_on {
            return Ok(None);
        }
        Ok(Some((*period, self.reach(period, before.last()))))
    }

    fn reach(&self, period: &Period, previous: Option<&Period>) -> Reach {
        let (from, to) = self.own_reach(period);
        let mut reach = Reach {
            from,
            to,
            previous_pays_on: previous.map(|previous| previous.pays_on),
        };
        if let Some(previous) = previous
            && previous.version != period.version
            && self.is_continuous(previous.version, period.version)
            && let Some(next) = self.own_reach(previous).1.succ_opt()
        {
            reach.from = reach.from.min(next);
        }
        reach
    }

    fn own_reach(&self, period: &Period) -> (NaiveDate, NaiveDate) {
        self.versions
            .iter()
            .find(|version| version.number == period.version)
            .map_or((period.nominal_on, period.nominal_on), |version| {
                version.timing.own_reach(period.nominal_on)
            })
    }

    /// Whether the rule was in force on each day from one version to the other.
    fn is_continuous(&self, first: i32, last: i32) -> bool {
        let place = |number| {
            self.versions
                .iter()
                .position(|version| version.number == number)
        };
        match (place(first), place(last)) {
            (Some(first), Some(last)) if first < last => {
                self.versions[first..=last].windows(2).all(|pair| {
                    pair[0].valid_to.and_then(|day| day.succ_opt()) == Some(pair[1].valid_from)
                })
            }
            _ => false,
        }
    }

    /// When an event of a day pays; `None` when no version does.
    pub fn pay_day<F: Fn(NaiveDate) -> Option<bool>>(
        &self,
        event_on: NaiveDate,
        calendar: &Calendar<F>,
    ) -> Result<Option<PayDay>, CalendarError> {
        let in_force = self
            .versions
            .iter()
            .find(|version| version.is_in_force(event_on));
        if let Some(version) = in_force
            && version.timing == Timing::AtOnce
        {
            return Ok(Some(PayDay {
                version: version.number,
                pays_on: event_on,
                nominal_on: None,
            }));
        }
        let after = event_on.checked_sub_days(Days::new(LOOK_BACK_DAYS));
        let up_to = event_on
            .checked_add_days(Days::new(LOOK_AHEAD_DAYS))
            .unwrap_or(NaiveDate::MAX);
        let periods = self.periods(after, up_to, calendar)?;
        let found = periods.iter().enumerate().find(|(place, period)| {
            let previous = place.checked_sub(1).and_then(|before| periods.get(before));
            let reach = self.reach(period, previous);
            (reach.from..=reach.to).contains(&event_on)
        });
        Ok(found.map(|(_, period)| PayDay {
            version: period.version,
            pays_on: period.pays_on,
            nominal_on: Some(period.nominal_on),
        }))
    }
}

/// The year whose birthday lies in a span of days; of a birthday on 29 February it is the 28th
/// in years without one. `None` when the span holds none.
#[must_use]
pub fn birthday_between(birth_on: NaiveDate, from: NaiveDate, to: NaiveDate) -> Option<i32> {
    (from.year()..=to.year()).find(|year| {
        *year > birth_on.year()
            && NaiveDate::from_ymd_opt(*year, birth_on.month(), 1).is_some_and(|first| {
                let birthday = Month::of(first).day_clamped(birth_on.day());
                (from..=to).contains(&birthday)
            })
    })
}

/// Full years from a fact to a key date, that day included: a year after 29 February is
/// complete on the 28th (C4).
#[must_use]
pub fn full_years(fact_on: NaiveDate, key_date: NaiveDate) -> Option<u32> {
    let years = key_date.year() - fact_on.year();
    let reached = Month::of(fact_on)
        .plus_months(u32::try_from(years).ok()? * 12)?
        .day_clamped(fact_on.day());
    u32::try_from(if reached <= key_date {
        years
    } else {
        years - 1
    })
    .ok()
}
