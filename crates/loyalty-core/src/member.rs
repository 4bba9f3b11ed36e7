//! A member's record: which columns it has, and what may stand in each.

use chrono::{Datelike, NaiveDate};
use email_address::{EmailAddress, Options};
use unicode_normalization::UnicodeNormalization;

/// The most characters that a value of a column has.
pub const MEMBER_NO_CHARS: usize = 100;
pub const NAME_CHARS: usize = 200;
pub const EMAIL_CHARS: usize = 254;
pub const ATTRIBUTE_CHARS: usize = 1_000;
/// The most characters that the name of a fact or attribute has.
pub const COLUMN_NAME_CHARS: usize = 63;
/// Years that a day may lie in.
const YEARS: std::ops::RangeInclusive<i32> = 1850..=2199;
/// Where phone numbers without a country code are at home.
const HOME: phonenumber::country::Id = phonenumber::country::JP;
/// What the views of members show beside these columns, and a file therefore cannot bring.
const NOT_LOADED: [&str; 6] = [
    "account_id",
    "program",
    "program_id",
    "facts",
    "attributes",
    "updated_at",
];

/// A column of a member's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    MemberNo,
    Name,
    Kana,
    BirthDate,
    Email,
    Phone,
    Language,
    /// A day that rules go by.
    Fact(String),
    /// Anything else.
    Attribute(String),
}

/// Why a value cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("is empty")]
    Missing,
    #[error("has {characters} characters; at most {limit} are allowed")]
    TooLong { characters: usize, limit: usize },
    #[error("has the control character U+{:04X}", u32::from(*.0))]
    Control(char),
    #[error("has U+FFFD, which is what is left of text read in a wrong encoding")]
    Undecoded,
    #[error("begins with {}, so a spreadsheet would run it as a formula", shown(*.0))]
    Formula(char),
    #[error("has {}, which is not katakana", shown(*.0))]
    Katakana(char),
    #[error("{0:?} is not a day; write 2024-06-20 or 2024/06/20")]
    Day(String),
    #[error("{0:?} is not in the years {first} to {last}", first = YEARS.start(), last = YEARS.end())]
    DayOutOfRange(String),
    #[error("is in the future")]
    BornInFuture,
    #[error("{0:?} is not an e-mail address")]
    Email(String),
    #[error("{0:?} is not a phone number; those outside Japan begin with + and the country code")]
    Phone(String),
    #[error("{0:?} is not a language tag such as ja, en or zh-TW")]
    Language(String),
}

fn shown(c: char) -> String {
    match c {
        '\t' => "a tab".to_owned(),
        '\r' => "a carriage return".to_owned(),
        '\n' => "a line feed".to_owned(),
        c => format!("{c:?}"),
    }
}

impl Column {
    /// The column that a heading names.
    ///
    /// # Errors
    /// Why the heading cannot be taken.
    pub fn of_heading(heading: &str) -> Result<Self, String> {
        let name = heading.trim();
        if name.is_empty() {
            return Err("has no name".to_owned());
        }
        let lower = name.to_lowercase();
        if NOT_LOADED.contains(&lower.as_str()) {
            return Err(format!(
                "{lower} cannot be loaded: give each fact and each attribute a column of its own"
            ));
        }
        let column = match lower.as_str() {
            "member_no" => Column::MemberNo,
            "name" => Column::Name,
            "kana" => Column::Kana,
            "birth_date" => Column::BirthDate,
            "email" => Column::Email,
            "phone" => Column::Phone,
            "language" => Column::Language,
            fact if fact.ends_with("_on") || fact.ends_with("_since") => {
                Column::Fact(lower.clone())
            }
            _ => Column::Attribute(name.to_owned()),
        };
        if let Column::Fact(name) | Column::Attribute(name) = &column {
            check_characters(name, COLUMN_NAME_CHARS).map_err(|flaw| flaw.to_string())?;
            check_formula(heading).map_err(|flaw| flaw.to_string())?;
        }
        Ok(column)
    }

    /// A fact of that name.
    ///
    /// # Errors
    /// Why there can be none of that name.
    pub fn fact(name: &str) -> Result<Self, Flaw> {
        if name.trim().is_empty() {
            return Err(Flaw::Missing);
        }
        check_formula(name)?;
        check_characters(name, COLUMN_NAME_CHARS)?;
        Ok(Column::Fact(name.to_owned()))
    }

    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Column::MemberNo => "member_no",
            Column::Name => "name",
            Column::Kana => "kana",
            Column::BirthDate => "birth_date",
            Column::Email => "email",
            Column::Phone => "phone",
            Column::Language => "language",
            Column::Fact(name) | Column::Attribute(name) => name,
        }
    }

    /// A value as it is stored; none when it is empty.
    ///
    /// # Errors
    /// Why it cannot be taken. `today` is the last day that somebody may be born on.
    pub fn clean(&self, given: &str, today: NaiveDate) -> Result<Option<String>, Flaw> {
        if given.contains('\u{FFFD}') {
            return Err(Flaw::Undecoded);
        }
        let value = given.trim();
        if value.is_empty() {
            return match self {
                Column::MemberNo => Err(Flaw::Missing),
                _ => Ok(None),
            };
        }
        match self {
            Column::MemberNo => clean_member_no(given),
            Column::Name => {
                check_formula(given)?;
                check_characters(value, NAME_CHARS)?;
                Ok(value.to_owned())
            }
            Column::Kana => clean_kana(given),
            Column::BirthDate => {
                let day = day(value)?;
                if day > today {
                    return Err(Flaw::BornInFuture);
                }
                Ok(day.to_string())
            }
            Column::Email => clean_email(given),
            Column::Phone => clean_phone(value),
            Column::Language => clean_language(value),
            Column::Fact(_) => day(value).map(|day| day.to_string()),
            Column::Attribute(_) => {
                // -5 and +3.2 are numbers, and harmless
                if !is_number(value) {
                    check_formula(given)?;
                }
                check_length(value, ATTRIBUTE_CHARS)?;
                match value
                    .chars()
                    .find(|c| c.is_control() && *c != '\n' && *c != '\r')
                {
                    Some(control) => Err(Flaw::Control(control)),
                    None => Ok(value.to_owned()),
                }
            }
        }
        .map(Some)
    }
}

/// A member's number. It is kept as given, without the spaces around it.
///
/// # Errors
/// Why it cannot be one.
pub fn clean_member_no(given: &str) -> Result<String, Flaw> {
    let value = given.trim();
    if value.is_empty() {
        return Err(Flaw::Missing);
    }
    check_formula(given)?;
    check_characters(value, MEMBER_NO_CHARS)?;
    Ok(value.to_owned())
}

/// Refuses a number that a spreadsheet would take for a formula.
///
/// # Errors
/// With what it begins.
pub fn check_member_no(given: &str) -> Result<(), Flaw> {
    check_formula(given)
}

/// A login ID (A2): an e-mail address, here all in lower case, since people do not keep upper
/// and lower case apart when they log in; or a phone number as E.164. None for neither.
#[must_use]
pub fn clean_login_id(given: &str) -> Option<String> {
    let email = clean_email(given).map(|address| address.to_lowercase());
    email.or_else(|_| clean_phone(given.trim())).ok()
}

fn check_length(value: &str, limit: usize) -> Result<(), Flaw> {
    let characters = value.chars().count();
    if characters > limit {
        return Err(Flaw::TooLong { characters, limit });
    }
    Ok(())
}

fn check_characters(value: &str, limit: usize) -> Result<(), Flaw> {
    check_length(value, limit)?;
    match value.chars().find(|c| c.is_control()) {
        Some(control) => Err(Flaw::Control(control)),
        None => Ok(()),
    }
}

/// What spreadsheets take for the beginning of a formula, in full width too. They strip
/// spaces, and some of them tabs and line breaks.
fn check_formula(given: &str) -> Result<(), Flaw> {
    let first = |text: &str| text.chars().next();
    if let Some(c @ ('\t' | '\r' | '\n')) = first(given) {
        return Err(Flaw::Formula(c));
    }
    match first(given.trim()) {
        Some(c @ ('=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠')) => Err(Flaw::Formula(c)),
        _ => Ok(()),
    }
}

fn is_number(value: &str) -> bool {
    value.parse::<f64>().is_ok() && value.bytes().all(|b| b"+-.0123456789".contains(&b))
}

/// Full-width katakana: half-width ones and hiragana become that, other characters do not.
fn clean_kana(given: &str) -> Result<String, Flaw> {
    check_formula(given)?;
    let wide: String = given
        .nfkc()
        .map(|c| match c {
            // hiragana and its iteration marks lie 0x60 below katakana
            'ぁ'..='ゖ' | 'ゝ' | 'ゞ' => char::from_u32(u32::from(c) + 0x60).unwrap_or(c),
            c => c,
        })
        .collect();
    let words: Vec<&str> = wide.split_whitespace().collect();
    let value = words.join(" ");
    let is_kana = |c: &char| matches!(c, 'ァ'..='ヺ' | '・' | 'ー' | 'ヽ' | 'ヾ' | ' ');
    if let Some(other) = value.chars().find(|c| !is_kana(c)) {
        return Err(Flaw::Katakana(other));
    }
    check_length(&value, NAME_CHARS)?;
    Ok(value)
}

fn day(given: &str) -> Result<NaiveDate, Flaw> {
    let value: String = given.nfkc().collect();
    let none = || Flaw::Day(cut(given));
    let separator = if value.contains('/') { '/' } else { '-' };
    let parts: Vec<&str> = value.split(separator).collect();
    let [year, month, day] = parts[..] else {
        return Err(none());
    };
    let number = |text: &str, digits: std::ops::RangeInclusive<usize>| {
        let plain = digits.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse::<u32>().ok()).flatten()
    };
    let day = number(year, 4..=4)
        .zip(number(month, 1..=2))
        .zip(number(day, 1..=2))
        .and_then(|((year, month), day)| NaiveDate::from_ymd_opt(year as i32, month, day))
        .ok_or_else(none)?;
    if !YEARS.contains(&day.year()) {
        return Err(Flaw::DayOutOfRange(cut(given)));
    }
    Ok(day)
}

/// The address, its domain in lower case. Addresses that need quotes, a bracketed host or a
/// mail server that takes UTF-8 are not for a mailing.
fn clean_email(given: &str) -> Result<String, Flaw> {
    check_formula(given)?;
    let value = given.trim();
    check_length(value, EMAIL_CHARS)?;
    let options = Options::default()
        .with_required_tld()
        .without_display_text()
        .without_domain_literal();
    match EmailAddress::parse_with_options(value, options) {
        Ok(address) if value.is_ascii() && !value.contains('"') => Ok(format!(
            "{}@{}",
            address.local_part(),
            address.domain().to_lowercase()
        )),
        _ => Err(Flaw::Email(cut(value))),
    }
}

/// E.164: + and digits.
fn clean_phone(given: &str) -> Result<String, Flaw> {
    let value: String = given.nfkc().collect();
    let none = || Flaw::Phone(cut(given));
    // what nobody writes is not looked at: the library tries to find a number in any text
    let usual = |c: char| c.is_ascii_digit() || "+-() ./‐‑–—−ー".contains(c);
    if value.chars().count() > 40 || !value.chars().all(usual) {
        return Err(none());
    }
    let number = phonenumber::parse(Some(HOME), &value).map_err(|_| none())?;
    if number.extension().is_some() || !phonenumber::is_valid(&number) {
        return Err(none());
    }
    Ok(number.format().mode(phonenumber::Mode::E164).to_string())
}

fn clean_language(given: &str) -> Result<String, Flaw> {
    let value = given.replace('_', "-");
    let mut parts = value.split('-');
    let primary = parts.next().unwrap_or_default().to_lowercase();
    let rest: Vec<&str> = parts.collect();
    let fits = |part: &&str| {
        (2..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let is_tag = (2..=3).contains(&primary.len())
        && primary.bytes().all(|b| b.is_ascii_lowercase())
        && rest.len() <= 3
        && rest.iter().all(fits);
    if !is_tag {
        return Err(Flaw::Language(cut(given)));
    }
    Ok(std::iter::once(primary.as_str())
        .chain(rest)
        .collect::<Vec<_>>()
        .join("-"))
}

/// The beginning of a value, for a message.
fn cut(value: &str) -> String {
    const SHOWN: usize = 60;
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn today() -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 6, 15).expect("a day")
    }
    fn stored(column: &Column, given: &str) -> Result<Option<String>, Flaw> {
        column.clean(given, today())
    }
    fn kept(column: &Column, given: &str) -> String {
        stored(column, given)
            .unwrap_or_else(|flaw| panic!("{given:?} {flaw}"))
            .unwrap_or_default()
    }
    fn fact() -> Column {
        Column::Fact("first_service_on".to_owned())
    }
    fn attribute() -> Column {
        Column::Attribute("department".to_owned())
    }

    #[test]
    fn a2_a_login_id_is_an_address_or_a_number() {
        let clean = |given| clean_login_id(given);
        assert_eq!(
            clean(" Hanako.Y@Example.COM "),
            Some("hanako.y@example.com".into())
        );
        assert_eq!(clean("090-1234-5678"), Some("+819012345678".into()));
        assert_eq!(clean("+819012345678"), Some("+819012345678".into()));
        assert_eq!(clean("A-1001"), None);
        assert_eq!(clean(""), None);
        assert_eq!(clean("a@b"), None);
    }

    #[test]
    fn headings_are_columns_facts_or_attributes() {
        assert_eq!(Column::of_heading(" Member_No "), Ok(Column::MemberNo));
        assert_eq!(Column::of_heading("first_service_on"), Ok(fact()));
        assert_eq!(
            Column::of_heading("CONTRACT_SINCE"),
            Ok(Column::Fact("contract_since".to_owned()))
        );
        assert_eq!(
            Column::of_heading("所属"),
            Ok(Column::Attribute("所属".to_owned()))
        );
        for heading in ["", "  ", "facts", "Account_ID", "=1+1", "a\tb"] {
            assert!(Column::of_heading(heading).is_err(), "{heading:?}");
        }
        assert!(Column::of_heading(&"x".repeat(64)).is_err());
    }

    #[test]
    fn names_are_kept_as_written_and_formulas_refused() {
        assert_eq!(kept(&Column::Name, "　山﨑 神子　"), "山﨑 神子");
        assert_eq!(kept(&Column::Name, "O'Brien-Smith"), "O'Brien-Smith");
        for given in [
            "=1+1", "+1", "-2", "@SUM(A1)", "\tx", "\rx", " =1", "＝1", "－1",
        ] {
            for column in [Column::Name, Column::Kana, Column::MemberNo, Column::Email] {
                assert!(
                    matches!(stored(&column, given), Err(Flaw::Formula(_))),
                    "{column:?} {given:?}"
                );
            }
        }
        assert_eq!(
            stored(&Column::Name, "a\u{7}b"),
            Err(Flaw::Control('\u{7}'))
        );
        assert_eq!(stored(&Column::Name, "a\u{FFFD}"), Err(Flaw::Undecoded));
        assert!(matches!(
            stored(&Column::Name, &"名".repeat(201)),
            Err(Flaw::TooLong {
                characters: 201,
                limit: 200
            })
        ));
        assert_eq!(stored(&Column::Name, "  "), Ok(None));
        assert_eq!(stored(&Column::MemberNo, " "), Err(Flaw::Missing));
    }

    #[test]
    fn kana_becomes_full_width_katakana() {
        assert_eq!(kept(&Column::Kana, "ﾔﾏﾀﾞ ﾀﾛｳ"), "ヤマダ タロウ");
        assert_eq!(kept(&Column::Kana, "やまだ　はなこ"), "ヤマダ ハナコ");
        // a foreign name (C11)
        assert_eq!(
            kept(&Column::Kana, "スミス・ｼﾞｮｰﾝﾞ".trim_end_matches('ﾞ')),
            "スミス・ジョーン"
        );
        assert_eq!(kept(&Column::Kana, "か\u{3099}"), "ガ");
        assert_eq!(stored(&Column::Kana, "Smith"), Err(Flaw::Katakana('S')));
        assert_eq!(stored(&Column::Kana, "山田"), Err(Flaw::Katakana('山')));
    }

    #[test]
    fn days_are_iso_or_with_slashes() {
        for given in [
            "2024-06-20",
            "2024/06/20",
            "2024/6/20",
            "２０２４／０６／２０",
            " 2024-6-20 ",
        ] {
            assert_eq!(kept(&fact(), given), "2024-06-20", "{given}");
        }
        assert_eq!(kept(&fact(), "2024-02-29"), "2024-02-29");
        for given in [
            "2023-02-29",
            "2024-06",
            "20.6.2024",
            "2024/06-20",
            "24-06-20",
            "2024-06-20 10:00",
            "x",
        ] {
            assert!(
                matches!(stored(&fact(), given), Err(Flaw::Day(_))),
                "{given}"
            );
        }
        assert!(matches!(
            stored(&fact(), "0024-06-20"),
            Err(Flaw::DayOutOfRange(_))
        ));
        assert_eq!(
            stored(&Column::BirthDate, "2026-06-16"),
            Err(Flaw::BornInFuture)
        );
        assert_eq!(kept(&Column::BirthDate, "2026-06-15"), "2026-06-15");
        // a contract may begin later
        assert_eq!(kept(&fact(), "2030-01-01"), "2030-01-01");
    }

    #[test]
    fn addresses_are_checked_and_their_domain_is_lower_case() {
        assert_eq!(
            kept(&Column::Email, " Ann.Lee@Example.COM "),
            "Ann.Lee@example.com"
        );
        for given in [
            "ann",
            "ann@",
            "@example.com",
            "ann@example",
            "ann lee@example.com",
            "Ann <ann@example.com>",
            "ann@[192.0.2.1]",
            "\"a b\"@example.com",
            "ann@例え.example",
            "a..b@example.com",
        ] {
            assert!(stored(&Column::Email, given).is_err(), "{given}");
        }
    }

    #[test]
    fn numbers_are_e164_and_at_home_in_japan() {
        for given in [
            "03-1234-5678",
            "+81 3 1234 5678",
            "０３－１２３４－５６７８",
            "(03)1234-5678",
        ] {
            assert_eq!(kept(&Column::Phone, given), "+81312345678", "{given}");
        }
        assert_eq!(kept(&Column::Phone, "090-1234-5678"), "+819012345678");
        assert_eq!(kept(&Column::Phone, "+44 20 7946 0018"), "+442079460018");
        for given in [
            "123",
            "=1+1",
            "call me",
            "03-1234-5678 ext. 5",
            "+999 1234567",
            "03-1234-56789012345",
        ] {
            assert!(
                matches!(stored(&Column::Phone, given), Err(Flaw::Phone(_))),
                "{given}"
            );
        }
    }

    #[test]
    fn languages_are_tags() {
        assert_eq!(kept(&Column::Language, "JA"), "ja");
        assert_eq!(kept(&Column::Language, "zh_TW"), "zh-TW");
        for given in ["Japanese", "j", "en-", "=a", "日本語"] {
            assert!(stored(&Column::Language, given).is_err(), "{given}");
        }
    }

    #[test]
    fn attributes_are_free_but_for_formulas() {
        assert_eq!(kept(&attribute(), " 営業部\n第二課 "), "営業部\n第二課");
        assert_eq!(kept(&attribute(), "-5"), "-5");
        assert_eq!(
            stored(&attribute(), "=cmd|' /C calc'!A0"),
            Err(Flaw::Formula('='))
        );
        assert_eq!(stored(&attribute(), "-2+3"), Err(Flaw::Formula('-')));
        assert!(matches!(
            stored(&attribute(), &"x".repeat(1_001)),
            Err(Flaw::TooLong { .. })
        ));
    }

    fn any_column() -> impl Strategy<Value = Column> {
        prop_oneof![
            Just(Column::MemberNo),
            Just(Column::Name),
            Just(Column::Kana),
            Just(Column::BirthDate),
            Just(Column::Email),
            Just(Column::Phone),
            Just(Column::Language),
            Just(fact()),
            Just(attribute()),
        ]
    }
    fn any_value() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[ =+@-]?[ァ-ヺぁ-ゖ･-ﾟ ]{1,8}",
            "[0-9０-９]{1,4}[-/／][0-9]{1,2}[-/][0-9]{1,2}",
            "[+]?[0-9() -]{5,14}",
            "[a-z.]{1,6}@[a-zA-Z]{1,6}[.](com|JP)",
            "[a-z]{2,3}([-_][A-Z]{2})?",
        ]
    }

    proptest! {
        // A re-load changes nothing, and what a spreadsheet opens runs nothing.
        #[test]
        fn what_is_stored_stays_as_it_is_when_loaded_again(column in any_column(), given in any_value()) {
            if let Ok(Some(value)) = column.clean(&given, today()) {
                prop_assert_eq!(column.clean(&value, today()), Ok(Some(value.clone())));
                let number = is_number(&value);
                prop_assert!(number || column == Column::Phone || !value.starts_with(['=', '+', '-', '@', '\t', '\r']));
            }
        }
    }
}
