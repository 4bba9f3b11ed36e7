//! Values, as JSON text: likely ones by name, right and wrong ones by type, hostile ones.

use std::collections::HashMap;

use anyhow::Result;
use loyalty_tests::hostile;
use rand::Rng;
use serde_json::Value;
use tokio_postgres::Client;
use uuid::Uuid;

/// How many values of a name are kept of the answers.
const KEPT: usize = 24;

/// What names are known to stand for: given at first, and learned from answers, so that one
/// call's `operation_id` becomes another's.
pub struct Pool {
    known: HashMap<String, Vec<String>>,
    /// Of any type where another is wanted.
    hostile: Vec<String>,
}

const LIKELY: &[(&str, &[&str])] = &[
    ("program", &["\"coin\"", "\"coin\"", "\"mile\"", "null"]),
    ("points", &["1", "10", "100", "5000", "0", "-1", "1.5"]),
    ("member_no", &["\"ann\"", "\"bob\"", "\"zoe\"", "\"new-1\""]),
    (
        "login_id",
        &[
            "\"ann@example.com\"",
            "\"090-1234-5678\"",
            "\"new@example.com\"",
        ],
    ),
    (
        "login_id_again",
        &["\"ann@example.com\"", "\"new@example.com\""],
    ),
    ("password", &["\"abcdef1234\"", "\"coin2026abc\""]),
    ("password_again", &["\"abcdef1234\"", "\"coin2026abc\""]),
    ("new_password", &["\"abcdef1234\"", "\"coin2026abc\""]),
    ("organisation_id", &["\"coin\"", "\"mile\""]),
    ("key_1", &["\"K1\""]),
    ("key_2", &["\"secret-1\""]),
    ("terms_version", &["\"2026-04\"", "\"1\""]),
    (
        "kind",
        &[
            "\"balance\"",
            "\"expiry\"",
            "\"points_received\"",
            "\"order_received\"",
            "\"event\"",
            "\"purchase\"",
            "\"birthday\"",
            "\"manual\"",
            "\"anniversary\"",
            "\"tenure\"",
            "\"referral\"",
        ],
    ),
    ("channel", &["\"email\"", "\"sms\""]),
    ("language", &["\"ja\"", "\"en\"", "\"zh-TW\""]),
    ("policy", &["\"clamp\"", "\"debt\""]),
    ("funding", &["\"program\"", "\"shop\""]),
    ("expires_in", &["\"15 minutes\"", "\"1 day\""]),
    ("expires_on", &["\"2026-06-30\"", "\"2030-12-31\""]),
    ("birth_date", &["\"1990-01-01\"", "\"2010-01-01\""]),
    ("relation", &["\"child\"", "\"spouse\"", "\"parent\""]),
    (
        "role",
        &[
            "\"granter\"",
            "\"admin\"",
            "\"operator\"",
            "\"member\"",
            "\"family\"",
        ],
    ),
    ("rule", &["\"manual\"", "\"referral\"", "\"birthday\""]),
    (
        "code",
        &["\"manual\"", "\"referral\"", "\"new-rule\"", "\"000000\""],
    ),
    (
        "job",
        &["\"expire\"", "\"rule referral\"", "\"notice balance\""],
    ),
    ("period", &["\"2026-06-14\"", "\"2026-07-15\""]),
    ("reference", &["\"r-1\"", "\"r-2\""]),
    ("occurred_on", &["\"2026-06-01\"", "\"2026-06-15\""]),
    (
        "terms",
        &[
            "{\"points\": 500, \"day_of_month\": 1}",
            "{\"points\": 100, \"max_points\": 1000}",
            "{\"event\": \"referral\", \"points\": {\"member\": 5000, \"other\": 5000}, \"months_after\": 1, \"day_of_month\": 15}",
            "{\"per_amount\": 100, \"points\": 1, \"rounding\": \"down\"}",
            "{\"fact\": \"first_service_on\", \"every_years\": 1, \"points\": 2000, \"day_of_month\": 15}",
            "{\"fact\": \"contract_since\", \"key_date\": \"2024-06-01\", \"pays_on\": \"2026-07-29\", \"table\": [{\"years\": 5, \"points\": 2500}]}",
        ],
    ),
    (
        "items",
        &[
            "[{\"account_id\": 1, \"points\": 5}]",
            "[{\"account_id\": 1, \"points\": 5, \"idempotency_key\": \"i\"}, {\"account_id\": 2, \"points\": -1}]",
            "[{\"account_id\": 99999999999, \"points\": 1}, {\"points\": 1}, {}]",
            "[{\"member_no\": \"ann\"}]",
            "[{\"account_id\": \"1\", \"points\": \"1\", \"reason\": null, \"expires_on\": \"infinity\"}]",
            "[]",
        ],
    ),
    (
        "csv",
        &[
            "\"member_no,name,first_service_on\\nann,Ann,2024-06-20\\n\"",
            "\"member_no,birth_date\\nbob,1990-02-30\\n\\\"open\"",
            "\"member_no\\nann\\nann\\n\"",
        ],
    ),
    (
        "facts",
        &[
            "{\"first_service_on\": \"2024-06-20\"}",
            "{\"a_on\": null}",
            "{\"\": 1}",
        ],
    ),
    (
        "attributes",
        &[
            "{\"shop\": \"Ginza\"}",
            "{\"a\": {\"b\": [1]}}",
            "{\"=1\": \"\"}",
        ],
    ),
    ("subject", &["\"Yours\"", "\"{{ program.name }}\""]),
    (
        "text_body",
        &[
            "\"{{ points | number }}\"",
            "\"{% for a in lots %}{{ a.points }}{% endfor %}\"",
        ],
    ),
    (
        "issuer",
        &[
            "\"https://id.example.com/coin\"",
            "\"https://id.example.com/new\"",
        ],
    ),
    ("months", &["1", "12", "24"]),
    ("site_url", &["\"https://points.example.com\""]),
    ("consent", &["true"]),
    ("accepted", &["true"]),
    ("select", &["\"*\""]),
];

/// Beside [`hostile::values`]: numbers, days and the like at the ends of their types, and JSON that
/// few parsers like.
const HOSTILE: &[&str] = &[
    "0",
    "-0.0",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    "2147483648",
    "1e400",
    "1e-400",
    "123456789012345678901234567890123456789012345678901234567890",
    "0.1",
    "\" \"",
    "\"NaN\"",
    "\"Infinity\"",
    "\"-infinity\"",
    "\"\\ud800\"",
    "\"\\u202e\\ufeff\\udbff\\udfff\"",
    "\"294277-01-01\"",
    "\"4714-11-23 BC\"",
    "\"2026-02-30\"",
    "\"24:00:01\"",
    "\"178956970 years\"",
    "\"-178956970 years -8 mons\"",
    "\"1e10 years\"",
    "\"{1,2\"",
    "\"{\\\"a\\\"}\"",
    "\"00000000-0000-0000-0000-000000000000\"",
    "\"00000000000000000000000000000000.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"",
    "[]",
    "{}",
    "[null]",
    "{\"\": null, \"\": 1}",
    "[1, \"a\", {}, [[]]]",
];

impl Pool {
    /// The accounts and numbers that the database begins with.
    pub async fn of(sql: &Client) -> Result<Self> {
        let hostile = hostile::values().into_iter().map(|value| value.to_string());
        let mut pool = Pool {
            hostile: hostile
                .chain(HOSTILE.iter().map(|&json| json.to_owned()))
                .collect(),
            known: LIKELY
                .iter()
                .map(|(name, values)| {
                    let values = values.iter().map(|value| (*value).to_owned());
                    ((*name).to_owned(), values.collect())
                })
                .collect(),
        };
        for (name, query) in [
            ("account_id", "select account_id::text from loyalty.account"),
            (
                "operation_id",
                "select (account_id * 16777216 + entry)::text from loyalty.entry",
            ),
            ("run_id", "select run_id::text from loyalty.run"),
            (
                "identity_id",
                "select identity_id::text from loyalty.identity",
            ),
            (
                "session_id",
                "select to_json(session_id)::text from loyalty_private.session",
            ),
            ("family_id", "select family_id::text from loyalty.family"),
            ("role_id", "select role_id::text from loyalty.program_role"),
            (
                "proposal_id",
                "select proposal_id::text from loyalty.grant_proposal",
            ),
            (
                "application_id",
                "select application_id::text from loyalty.login_application",
            ),
            ("event_id", "select event_id::text from loyalty.event"),
            ("notice_id", "select notice_id::text from loyalty.notice"),
        ] {
            for row in sql.query(query, &[]).await? {
                pool.keep(name, row.get(0));
            }
        }
        for (name, same) in [
            ("to_account", "account_id"),
            ("from_account", "account_id"),
            ("other_account_id", "account_id"),
            ("notice_ids", "notice_id"),
        ] {
            pool.known.insert(name.to_owned(), pool.known[same].clone());
        }
        Ok(pool)
    }

    fn keep(&mut self, name: &str, value: String) {
        let known = self.known.entry(name.to_owned()).or_default();
        if !known.contains(&value) {
            known.push(value);
        }
    }

    /// Remembers what an answer tells by name.
    pub fn learn(&mut self, random: &mut impl Rng, body: &Value) {
        match body {
            Value::Array(items) => {
                for item in items.iter().take(5) {
                    self.learn(random, item);
                }
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    if value.is_array() || value.is_object() {
                        self.learn(random, value);
                        continue;
                    }
                    let text = value.to_string();
                    if value.is_null() || text.len() > 300 {
                        continue;
                    }
                    let names = match name.as_str() {
                        "account_id" => vec!["account_id", "to_account"],
                        "access_token" | "refresh_token" => vec!["token", "refresh_token"],
                        name => vec![name],
                    };
                    for name in names {
                        let known = self.known.entry(name.to_owned()).or_default();
                        if known.len() < KEPT {
                            known.push(text.clone());
                        } else {
                            let place = random.random_range(0..known.len());
                            known[place].clone_from(&text);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// A value for an argument or filter of that name and type.
    pub fn value(&self, random: &mut impl Rng, name: &str, format: &str) -> String {
        match random.random_range(0..100) {
            0..60 => match self.known.get(name) {
                Some(known) if !known.is_empty() => pick(random, known).clone(),
                _ => of_type(random, format),
            },
            60..80 => of_type(random, format),
            80..97 => self.hostile(random),
            // what belongs to another name
            _ => {
                let all: Vec<&Vec<String>> =
                    self.known.values().filter(|of| !of.is_empty()).collect();
                let place = random.random_range(0..all.len());
                pick(random, all[place]).clone()
            }
        }
    }

    fn hostile(&self, random: &mut impl Rng) -> String {
        match random.random_range(0..40) {
            0 => format!("\"{}\"", "あ'".repeat(30_000)),
            1 => format!("\"{}\"", "9".repeat(70_000)),
            2 => {
                let depth = *pick(random, &[60, 1_000, 6_000]);
                format!("{}{}", "[".repeat(depth), "]".repeat(depth))
            }
            3 => {
                let depth = *pick(random, &[60, 1_000]);
                format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth))
            }
            4 => format!("[{}0]", "0,".repeat(20_000)),
            5 => {
                let unit = text(random);
                Value::from(unit).to_string()
            }
            _ => pick(random, &self.hostile).clone(),
        }
    }
}

pub fn pick<'a, T>(random: &mut impl Rng, from: &'a [T]) -> &'a T {
    &from[random.random_range(0..from.len())]
}

/// One that the type has.
fn of_type(random: &mut impl Rng, format: &str) -> String {
    let quoted = |text: String| Value::from(text).to_string();
    if let Some(element) = format.strip_suffix("[]") {
        let items: Vec<String> = (0..random.random_range(0..4))
            .map(|_| of_type(random, element))
            .collect();
        return format!("[{}]", items.join(","));
    }
    match format {
        "bigint" | "integer" | "smallint" => match random.random_range(0..3) {
            0 => random.random_range(0..20).to_string(),
            1 => random.random::<i32>().to_string(),
            _ => random.random::<i64>().to_string(),
        },
        "numeric" => match random.random_range(0..3) {
            0 => random.random_range(1..1_000).to_string(),
            1 => format!(
                "{}.{:03}",
                random.random::<i16>(),
                random.random_range(0..1_000)
            ),
            _ => format!(
                "{}e{}",
                random.random::<i32>(),
                random.random_range(-200..200)
            ),
        },
        "boolean" => random.random_bool(0.5).to_string(),
        "date" => quoted(date(random)),
        "timestamp with time zone" => quoted(format!(
            "{}T{:02}:00:00Z",
            date(random),
            random.random_range(0..24)
        )),
        "time without time zone" => quoted(format!("{:02}:30", random.random_range(0..25))),
        "interval" => {
            let unit = *pick(random, &["minutes", "days", "months", "years"]);
            quoted(format!("{} {unit}", random.random_range(-3..100)))
        }
        "uuid" => {
            let [high, low] = [random.random::<u64>(), random.random::<u64>()];
            quoted(Uuid::from_u64_pair(high, low).to_string())
        }
        "json" | "jsonb" => {
            let inner = text(random);
            let inner = Value::from(inner);
            pick(
                random,
                &[
                    format!("{{\"a\": {inner}}}"),
                    format!("[{inner}]"),
                    inner.to_string(),
                ],
            )
            .clone()
        }
        _ => quoted(text(random)),
    }
}

fn date(random: &mut impl Rng) -> String {
    let year = *pick(random, &[1, 1955, 2024, 2026, 2026, 2027, 2099, 9999]);
    format!(
        "{year:04}-{:02}-{:02}",
        random.random_range(1..13),
        random.random_range(1..32)
    )
}

fn text(random: &mut impl Rng) -> String {
    let length = *pick(random, &[1, 3, 8, 8, 40, 101, 300, 1_001]);
    let alphabet: Vec<char> = match random.random_range(0..4) {
        0 => "abcdefghijklmnopqrstuvwxyz0123456789-_.@ "
            .chars()
            .collect(),
        1 => "あア漢字ｱ０１😀é\u{301}\u{200b}\u{202e}".chars().collect(),
        2 => "'\"\\;-*/%(){}[]<>&|$:,\t\n\u{1}\u{7f}\u{9b}"
            .chars()
            .collect(),
        _ => (1..0x250).filter_map(char::from_u32).collect(),
    };
    (0..length).map(|_| *pick(random, &alphabet)).collect()
}
