//! What is fuzzed: each target is given any bytes, and panics where something does not hold.
//!
//! `./dev fuzz` looks for such bytes, guided by coverage; `tests/tests/fuzz/` replays those that are
//! kept in `fuzz/corpus/`, which are small and together reach what was reached before.

mod expiry_policy;
mod file;
mod key_set;
mod member_column;
mod password;
mod roster;
mod rule_terms;
mod template;
mod token;

pub type Target = fn(&[u8]);

pub const TARGETS: [(&str, Target); 9] = [
    ("expiry_policy", expiry_policy::run),
    ("file", file::run),
    ("key_set", key_set::run),
    ("member_column", member_column::run),
    ("password", password::run),
    ("roster", roster::run),
    ("rule_terms", rule_terms::run),
    ("template", template::run),
    ("token", token::run),
];

/// The text, where the bytes are one: what comes out of PostgreSQL always is, without zero bytes.
fn text_of(data: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(data).ok()?;
    (!text.contains('\0')).then_some(text)
}

/// The first bytes to choose by, and the text after them.
fn chosen_by<const N: usize>(data: &[u8]) -> Option<([u8; N], &str)> {
    let (choice, rest) = data.split_first_chunk::<N>()?;
    Some((*choice, text_of(rest)?))
}

/// The first line, and what is after it.
fn line_and_rest(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

/// A day of the years that PostgreSQL and chrono both know, by two bytes: early and late ones too.
fn day_of([high, low]: [u8; 2]) -> chrono::NaiveDate {
    let edges = [
        (-4713, 11, 24),
        (1, 1, 1),
        (1850, 1, 1),
        (1955, 1, 1),
        (9999, 12, 31),
    ];
    match high {
        0..5 => {
            let (year, month, day) = edges[usize::from(high)];
            let first = chrono::NaiveDate::from_ymd_opt(year, month, day).expect("a day");
            first + chrono::Days::new(u64::from(low))
        }
        _ => {
            let first = chrono::NaiveDate::from_ymd_opt(1940, 1, 1).expect("a day");
            first + chrono::Days::new(u64::from(u16::from_be_bytes([high, low])))
        }
    }
}
