//! Expiry policies: readable text in and out, and the day on which a grant expires.
//!
//! The day is the last one on which the points can be spent.

use crate::month::Month;
use chrono::{Datelike, Days, Months, NaiveDate};
use std::fmt;
use std::str::FromStr;

/// The forms a policy can take; the hint of every parse error.
pub const FORMS: &str = "Write one of: never; fixed YYYY-MM-DD; N days|weeks|months|years; \
    end of month after N days|weeks|months|years; end of year after N years; \
    after N months of inactivity.";

/// Dates that text with a four-digit year can hold.
const FIRST_YEAR: i32 = 1;
const LAST_YEAR: i32 = 9999;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    Days,
    Weeks,
    Months,
    Years,
}

impl Unit {
    /// About a hundred years, whatever the unit.
    pub const fn max_count(self) -> u32 {
        match self {
            Unit::Days => 36_500,
            Unit::Weeks => 5_214,
            Unit::Months => 1_200,
            Unit::Years => 100,
        }
    }

    const fn singular(self) -> &'static str {
        match self {
            Unit::Days => "day",
            Unit::Weeks => "week",
            Unit::Months => "month",
            Unit::Years => "year",
        }
    }

    fn parse(word: &str) -> Option<Unit> {
        [Unit::Days, Unit::Weeks, Unit::Months, Unit::Years]
            .into_iter()
            .find(|unit| is_noun(word, unit.singular()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Span {
    count: u32,
    unit: Unit,
}

impl Span {
    /// Months and years clamp to the month's end: a year after 29 February is 28 February.
    fn after(self, day: NaiveDate) -> Option<NaiveDate> {
        match self.unit {
            Unit::Days => day.checked_add_days(Days::new(u64::from(self.count))),
            Unit::Weeks => day.checked_add_days(Days::new(u64::from(self.count) * 7)),
            Unit::Months => day.checked_add_months(Months::new(self.count)),
            Unit::Years => day.checked_add_months(Months::new(self.count * 12)),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.count == 1 { "" } else { "s" };
        write!(f, "{} {}{plural}", self.count, self.unit.singular())
    }
}

/// When points expire. Made from text, so that only policies within the limits exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExpiryPolicy(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Never,
    Fixed(NaiveDate),
    After(Span),
    EndOfMonthAfter(Span),
    EndOfYearAfter(Span),
    Inactivity { months: u16 },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpiryError {
    /// A fixed expiry day that is already past when the points are granted.
    #[error("expiry day {fixed_on} is before the day of the grant, {granted_on}")]
    FixedBeforeGrant {
        fixed_on: NaiveDate,
        granted_on: NaiveDate,
    },
    /// The grant or its expiry lies outside the years 1 to 9999.
    #[error("expiry of a grant on {granted_on} is out of range")]
    OutOfRange { granted_on: NaiveDate },
}

impl ExpiryError {
    /// One word for programs.
    pub const fn reason(&self) -> &'static str {
        match self {
            ExpiryError::FixedBeforeGrant { .. } => "expires_before_grant",
            ExpiryError::OutOfRange { .. } => "date_out_of_range",
        }
    }
}

impl ExpiryPolicy {
    pub const NEVER: ExpiryPolicy = ExpiryPolicy(Kind::Never);

    /// The last day on which points granted on that day can be spent; `None` for never.
    ///
    /// Under an inactivity policy this counts from `granted_on`; call it with the day of a later
    /// activity to learn the new day.
    pub fn expires_on(&self, granted_on: NaiveDate) -> Result<Option<NaiveDate>, ExpiryError> {
        let out_of_range = ExpiryError::OutOfRange { granted_on };
        let in_range = |day: &NaiveDate| (FIRST_YEAR..=LAST_YEAR).contains(&day.year());
        if !in_range(&granted_on) {
            return Err(out_of_range);
        }
        let expires_on = match self.0 {
            Kind::Never => return Ok(None),
            Kind::Fixed(fixed_on) if fixed_on < granted_on => {
                return Err(ExpiryError::FixedBeforeGrant {
                    fixed_on,
                    granted_on,
                });
            }
            Kind::Fixed(fixed_on) => Some(fixed_on),
            Kind::After(span) => span.after(granted_on),
            Kind::EndOfMonthAfter(span) => {
                span.after(granted_on).map(|day| Month::of(day).last_day())
            }
            Kind::EndOfYearAfter(span) => span
                .after(granted_on)
                .and_then(|day| NaiveDate::from_ymd_opt(day.year(), 12, 31)),
            Kind::Inactivity { months } => {
                granted_on.checked_add_months(Months::new(u32::from(months)))
            }
        };
        match expires_on.filter(in_range) {
            Some(day) => Ok(Some(day)),
            None => Err(out_of_range),
        }
    }

    /// After how many months without activity points lapse, under such a policy (S10).
    pub fn inactivity_months(&self) -> Option<u16> {
        match self.0 {
            Kind::Inactivity { months } => Some(months),
            _ => None,
        }
    }
}

impl fmt::Display for ExpiryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Never => f.write_str("never"),
            Kind::Fixed(day) => write!(f, "fixed {}", day.format("%Y-%m-%d")),
            Kind::After(span) => write!(f, "{span}"),
            Kind::EndOfMonthAfter(span) => write!(f, "end of month after {span}"),
            Kind::EndOfYearAfter(span) => write!(f, "end of year after {span}"),
            Kind::Inactivity { months } => {
                let span = Span {
                    count: u32::from(months),
                    unit: Unit::Months,
                };
                write!(f, "after {span} of inactivity")
            }
        }
    }
}

/// What is wrong with a policy's text. Positions count characters from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("expiry policy is empty")]
    Empty,
    /// `found` is `None` at the end of the text.
    #[error(
        "expiry policy: expected {expected} at position {position}, found {}",
        .found.as_ref().map_or("the end".to_owned(), |word| format!("\"{word}\""))
    )]
    Unexpected {
        position: usize,
        expected: &'static str,
        found: Option<String>,
    },
    #[error("expiry policy: the number at position {position} must be at least 1")]
    ZeroCount { position: usize },
    #[error(
        "expiry policy: the number at position {position} exceeds {} {}s",
        .unit.max_count(), .unit.singular()
    )]
    CountTooLarge { position: usize, unit: Unit },
    /// Well formed, but no such day.
    #[error("expiry policy: there is no day {found} (position {position})")]
    NoSuchDate { position: usize, found: String },
}

impl PolicyError {
    pub fn position(&self) -> usize {
        match self {
            PolicyError::Empty => 1,
            PolicyError::Unexpected { position, .. }
            | PolicyError::ZeroCount { position }
            | PolicyError::CountTooLarge { position, .. }
            | PolicyError::NoSuchDate { position, .. } => *position,
        }
    }

    /// The way out, in a sentence.
    pub fn hint(&self) -> &'static str {
        FORMS
    }
}

impl FromStr for ExpiryPolicy {
    type Err = PolicyError;

    /// Case, singular or plural, and the amount of white space do not matter.
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let mut words = Words::split(text);
        let kind = match words.peek() {
            None => return Err(PolicyError::Empty),
            Some(word) if word.eq_ignore_ascii_case("never") => {
                words.index += 1;
                Kind::Never
            }
            Some(word) if word.eq_ignore_ascii_case("fixed") => {
                words.index += 1;
                Kind::Fixed(words.date()?)
            }
            Some(word) if word.eq_ignore_ascii_case("after") => {
                words.index += 1;
                words.inactivity()?
            }
            Some(word) if word.eq_ignore_ascii_case("end") => {
                words.index += 1;
                words.keyword("of")?;
                words.end_of_period()?
            }
            Some(word) if is_number(word) => Kind::After(words.span(1)?),
            Some(_) => {
                return Err(
                    words.unexpected("\"never\", \"fixed\", \"end\", \"after\" or a whole number")
                );
            }
        };
        match words.peek() {
            None => Ok(ExpiryPolicy(kind)),
            Some(_) => Err(words.unexpected("the end")),
        }
    }
}

/// The words of a policy's text with their positions, and how far they are read.
struct Words<'a> {
    words: Vec<(usize, &'a str)>,
    index: usize,
    end_position: usize,
}

impl<'a> Words<'a> {
    fn split(text: &'a str) -> Self {
        let mut words = Vec::new();
        let mut start = None;
        let mut position = 1;
        for (offset, character) in text.char_indices() {
            match (character.is_whitespace(), start) {
                (false, None) => start = Some((position, offset)),
                (true, Some((at, from))) => {
                    words.push((at, &text[from..offset]));
                    start = None;
                }
                _ => {}
            }
            position += 1;
        }
        if let Some((at, from)) = start {
            words.push((at, &text[from..]));
        }
        Words {
            words,
            index: 0,
            end_position: position,
        }
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.index).map(|(_, word)| *word)
    }

    fn position(&self) -> usize {
        self.words
            .get(self.index)
            .map_or(self.end_position, |(position, _)| *position)
    }

    fn unexpected(&self, expected: &'static str) -> PolicyError {
        PolicyError::Unexpected {
            position: self.position(),
            expected,
            found: self.peek().map(shorten),
        }
    }

    /// The next word if `parse` takes it.
    fn take<T>(
        &mut self,
        expected: &'static str,
        parse: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, PolicyError> {
        match self.peek().and_then(parse) {
            Some(value) => {
                self.index += 1;
                Ok(value)
            }
            None => Err(self.unexpected(expected)),
        }
    }

    fn keyword(&mut self, word: &'static str) -> Result<(), PolicyError> {
        self.take(word, |found| found.eq_ignore_ascii_case(word).then_some(()))
    }

    fn count(&mut self) -> Result<(usize, &'a str), PolicyError> {
        let position = self.position();
        let digits = self.take("a whole number", |word| is_number(word).then_some(word))?;
        Ok((position, digits))
    }

    fn span(&mut self, min: u32) -> Result<Span, PolicyError> {
        let (position, digits) = self.count()?;
        let unit = self.take("days, weeks, months or years", Unit::parse)?;
        Span::check(position, digits, unit, min)
    }

    /// What follows "end of".
    fn end_of_period(&mut self) -> Result<Kind, PolicyError> {
        let period = self.take("month or year", |word| match Unit::parse(word) {
            Some(unit @ (Unit::Months | Unit::Years)) => Some(unit),
            _ => None,
        })?;
        self.keyword("after")?;
        // None at all is sensible here: the end of the month or year of the grant.
        if period == Unit::Months {
            return Ok(Kind::EndOfMonthAfter(self.span(0)?));
        }
        let (position, digits) = self.count()?;
        let years = self.take("years", |word| is_noun(word, "year").then_some(Unit::Years))?;
        Ok(Kind::EndOfYearAfter(Span::check(
            position, digits, years, 0,
        )?))
    }

    /// What follows "after".
    fn inactivity(&mut self) -> Result<Kind, PolicyError> {
        let (position, digits) = self.count()?;
        let unit = self.take("months", |word| {
            is_noun(word, "month").then_some(Unit::Months)
        })?;
        self.keyword("of")?;
        self.keyword("inactivity")?;
        let span = Span::check(position, digits, unit, 1)?;
        let months =
            u16::try_from(span.count).map_err(|_| PolicyError::CountTooLarge { position, unit })?;
        Ok(Kind::Inactivity { months })
    }

    fn date(&mut self) -> Result<NaiveDate, PolicyError> {
        let position = self.position();
        let word = self.take("a date like 2027-03-31", |word| {
            let shaped = word.len() == 10
                && word.bytes().enumerate().all(|(index, byte)| match index {
                    4 | 7 => byte == b'-',
                    _ => byte.is_ascii_digit(),
                });
            shaped.then_some(word)
        })?;
        word.parse::<NaiveDate>()
            .ok()
            .filter(|day| day.year() >= FIRST_YEAR)
            .ok_or_else(|| PolicyError::NoSuchDate {
                position,
                found: word.to_owned(),
            })
    }
}

impl Span {
    fn check(position: usize, digits: &str, unit: Unit, min: u32) -> Result<Span, PolicyError> {
        match digits.parse::<u32>() {
            Ok(count) if count < min => Err(PolicyError::ZeroCount { position }),
            Ok(count) if count <= unit.max_count() => Ok(Span { count, unit }),
            _ => Err(PolicyError::CountTooLarge { position, unit }),
        }
    }
}

fn is_number(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_noun(word: &str, singular: &str) -> bool {
    let stem = word.strip_suffix(['s', 'S']).unwrap_or(word);
    stem.eq_ignore_ascii_case(singular)
}

/// Enough of a word to recognise it: whoever sends ten kilobytes does not get them back.
fn shorten(word: &str) -> String {
    const MAX_CHARACTERS: usize = 40;
    match word.char_indices().nth(MAX_CHARACTERS) {
        Some((offset, _)) => format!("{}…", &word[..offset]),
        None => word.to_owned(),
    }
}
