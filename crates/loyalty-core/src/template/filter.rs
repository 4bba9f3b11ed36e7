//! How values are written: figures, and dates in the words of the language.

use chrono::{Datelike as _, NaiveDate};
use minijinja::{Error, ErrorKind, Value};

/// A language that the filters know.
#[derive(Clone, Copy)]
pub enum Language {
    Japanese,
    English,
    Other,
}

impl Language {
    pub fn of(tag: &str) -> Self {
        match tag.split('-').next() {
            Some("ja") => Language::Japanese,
            Some("en") => Language::English,
            _ => Language::Other,
        }
    }
}

/// `12345` as `12,345`.
pub fn number(value: &Value) -> Result<String, Error> {
    if value.is_none() {
        return Err(no_value());
    }
    let whole = i64::try_from(value.clone())
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, "number is for whole numbers"))?;
    let digits = whole.unsigned_abs().to_string();
    let mut grouped = String::from(if whole < 0 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    Ok(grouped)
}

fn day(value: &Value) -> Result<NaiveDate, Error> {
    if value.is_none() {
        return Err(no_value());
    }
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidOperation,
                "date and weekday are for dates",
            )
        })
}

/// `2028-06-30` as people write it.
pub fn date(value: &Value, language: Language) -> Result<String, Error> {
    let day = day(value)?;
    Ok(match language {
        Language::Japanese => format!("{}年{}月{}日", day.year(), day.month(), day.day()),
        Language::English => format!(
            "{} {} {}",
            day.day(),
            MONTHS[day.month0() as usize],
            day.year()
        ),
        Language::Other => day.to_string(),
    })
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// `2028-06-30` as its day of the week.
pub fn weekday(value: &Value, language: Language) -> Result<String, Error> {
    let index = day(value)?.weekday().num_days_from_monday() as usize;
    const ENGLISH: [&str; 7] = [
        "Monday",
        "Tuesday",
        "Wednesday",
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
    ];
    Ok(match language {
        Language::Japanese => ["月", "火", "水", "木", "金", "土", "日"][index],
        Language::English | Language::Other => ENGLISH[index],
    }
    .to_owned())
}

/// So many minutes as people say it: whole days and hours as such.
pub fn duration(value: &Value, language: Language) -> Result<String, Error> {
    if value.is_none() {
        return Err(no_value());
    }
    let minutes = u64::try_from(value.clone())
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, "duration is for minutes"))?;
    let (count, japanese, english) = match minutes {
        days if days > 24 * 60 && days % (24 * 60) == 0 => (days / (24 * 60), "日", "day"),
        hours if hours >= 60 && hours % 60 == 0 => (hours / 60, "時間", "hour"),
        minutes => (minutes, "分", "minute"),
    };
    Ok(match language {
        Language::Japanese => format!("{count}{japanese}"),
        Language::English | Language::Other if count == 1 => format!("{count} {english}"),
        Language::English | Language::Other => format!("{count} {english}s"),
    })
}

/// The error of a value that is missing, which would else be written as nothing.
pub fn no_value() -> Error {
    Error::new(
        ErrorKind::UndefinedError,
        "a value that is not there is written",
    )
}
