//! Requests: a path and method of the page, arguments or filters, a body and headers, with
//! something odd about many of them.

use std::fmt;

use loyalty_testkit::http::percent;
use rand::Rng;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::Value;

use super::page::{Endpoint, Field, Page};
use super::value::{Pool, pick};

/// All of it is UTF-8, and CSV and forms are ASCII: PostgREST 12.0.2 itself answers 500, or closes the
/// connection, where a header or a query is not, and where CSV is not or an error that it tells
/// of it is cut within a character; no code of ours has run by then (docs/http.md, Errors).
pub struct Sent {
    pub method: Method,
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Option<Vec<u8>>,
    /// For the tally: the method and the path as the page has it.
    pub endpoint: String,
    /// A function called by POST and JSON, with nothing asked of PostgREST beside it.
    pub is_plain_call: bool,
    /// An answer's columns are the view's.
    pub shows_rows: bool,
}

pub fn cut(text: &str, most: usize) -> String {
    let length = text.chars().count();
    match length > most {
        true => format!(
            "{}… ({length} characters)",
            text.chars().take(most).collect::<String>()
        ),
        false => text.to_owned(),
    }
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.method, cut(&self.path, 1_000))?;
        for (name, value) in &self.headers {
            write!(f, " -H {name:?}: {:?}", cut(value, 200))?;
        }
        if let Some(body) = &self.body {
            write!(f, " -d {}", cut(&String::from_utf8_lossy(body), 2_000))?;
        }
        Ok(())
    }
}

/// Bytes of a body that is no JSON. PostgREST 12.0.2 looks for a function whose arguments are
/// named like those of a call that fits none, which takes minutes for names of some thousand
/// letters; calls with JSON always fit one of ours (docs/operations.md, In front of PostgREST).
const GUESSED: usize = 400;

fn ascii(body: &[u8]) -> Vec<u8> {
    body.iter().copied().filter(u8::is_ascii).collect()
}

/// A JSON value as a query has it: texts without quotes.
fn bare(json: &str) -> String {
    match serde_json::from_str(json) {
        Ok(Value::String(text)) => text,
        _ => json.to_owned(),
    }
}

impl Sent {
    pub fn make(random: &mut StdRng, page: &Page, pool: &mut Pool) -> Self {
        let endpoint = pick(random, &page.endpoints);
        let mut sent = match endpoint.is_function() {
            true => Self::call(random, endpoint, pool),
            false => Self::look(random, endpoint, pool),
        };
        if random.random_bool(0.3) {
            sent.add_headers(random);
        }
        if random.random_bool(0.02) {
            sent.is_plain_call = false;
            let garbage = ["?%00=1", "/..", "//", "?", "?&&=&", "?select=", "/%2e%2e"];
            sent.path.push_str(pick(random, &garbage));
        }
        sent
    }

    fn call(random: &mut StdRng, endpoint: &Endpoint, pool: &mut Pool) -> Self {
        let mut arguments: Vec<(String, String)> = Vec::new();
        for Field {
            name,
            format,
            is_required,
        } in &endpoint.fields
        {
            let left_out = if *is_required { 0.04 } else { 0.5 };
            if !random.random_bool(left_out) {
                arguments.push((name.clone(), pool.value(random, name, format)));
            }
        }
        let is_odd = random.random_bool(0.06);
        if is_odd && random.random_bool(0.5) {
            let name = *pick(
                random,
                &[
                    "nothing",
                    "",
                    "Points",
                    "points ",
                    "account_id",
                    "\u{1f600}",
                    "a.b",
                ],
            );
            arguments.push((name.to_owned(), pool.value(random, name, "text")));
        }
        let mut sent = Self {
            method: Method::POST,
            path: endpoint.path.clone(),
            headers: Vec::new(),
            body: None,
            endpoint: format!("POST {}", endpoint.path),
            is_plain_call: true,
            shows_rows: false,
        };
        if random.random_bool(0.06) {
            // refused where it would write; the arguments are read all the same
            sent.method = Method::GET;
            sent.endpoint = format!("GET {}", endpoint.path);
            sent.is_plain_call = false;
            let query: Vec<String> = arguments
                .iter()
                .map(|(name, value)| {
                    format!("{}={}", percent(name), percent(&cut(&bare(value), 2_000)))
                })
                .collect();
            sent.path = format!("{}?{}", sent.path, query.join("&"));
            return sent;
        }
        let body: Vec<String> = arguments
            .iter()
            .map(|(name, value)| format!("{}: {value}", Value::from(name.as_str())))
            .collect();
        let mut body = format!("{{{}}}", body.join(", ")).into_bytes();
        let mut content_type = "application/json";
        if is_odd {
            sent.is_plain_call = false;
            match random.random_range(0..7) {
                0 => body.truncate(random.random_range(0..=body.len())),
                1 => {
                    let place = random.random_range(0..body.len());
                    body[place] = random.random();
                }
                2 => body = [b"[", body.as_slice(), b",", body.as_slice(), b"]"].concat(),
                3 => {
                    body = pick(
                        random,
                        &["", "null", "1", "\"a\"", "[]", "\u{feff}{}", "{\"a\":}"],
                    )
                    .as_bytes()
                    .to_vec()
                }
                _ => {
                    content_type = pick(
                        random,
                        &[
                            "text/csv",
                            "text/plain",
                            "application/octet-stream; charset=Shift_JIS",
                            "application/x-www-form-urlencoded",
                            "multipart/form-data; boundary=x",
                            "application/json; charset=utf-16",
                            "application/vnd.pgrst.object+json",
                            "x",
                            "",
                        ],
                    );
                }
            }
        }
        if content_type != "application/json" {
            body = ascii(&body);
            // what it is decoded to must be UTF-8 as well
            if content_type == "application/x-www-form-urlencoded" {
                body.retain(|byte| *byte != b'%');
            }
            body.truncate(GUESSED);
        }
        sent.headers.push(("Content-Type", content_type.to_owned()));
        sent.body = Some(body);
        if random.random_bool(0.05) {
            sent.path = format!("{}?{}", sent.path, query(random, &endpoint.fields, pool));
            sent.is_plain_call = false;
        }
        if random.random_bool(0.15) {
            let key = bare(&pool.value(random, "idempotency_key", "text"));
            // a header holds no control characters
            let key: String = key.chars().filter(|c| !c.is_control()).take(400).collect();
            sent.headers
                .push(("Idempotency-Key", key.trim().to_owned()));
        }
        sent
    }

    fn look(random: &mut StdRng, endpoint: &Endpoint, pool: &mut Pool) -> Self {
        let method = match random.random_range(0..20) {
            0 => pick(
                random,
                &[
                    Method::HEAD,
                    Method::OPTIONS,
                    Method::PATCH,
                    Method::DELETE,
                    Method::PUT,
                ],
            )
            .clone(),
            1..5 if endpoint.methods.iter().any(|method| method == "POST") => Method::POST,
            1 => Method::POST,
            _ => Method::GET,
        };
        let query = query(random, &endpoint.fields, pool);
        let mut sent = Self {
            path: match query.as_str() {
                "" => endpoint.path.clone(),
                query => format!("{}?{query}", endpoint.path),
            },
            headers: Vec::new(),
            body: None,
            endpoint: format!("{method} {}", endpoint.path),
            is_plain_call: false,
            shows_rows: !query.contains("select="),
            method,
        };
        if [Method::POST, Method::PATCH, Method::PUT].contains(&sent.method) {
            let rows: Vec<String> = (0..random.random_range(1..3))
                .map(|_| {
                    let mut cells = Vec::new();
                    for Field { name, format, .. } in &endpoint.fields {
                        if random.random_bool(0.5) {
                            cells.push(format!("\"{name}\": {}", pool.value(random, name, format)));
                        }
                    }
                    format!("{{{}}}", cells.join(", "))
                })
                .collect();
            if random.random_bool(0.3) {
                sent.headers.push(("Content-Type", "text/csv".to_owned()));
                let csv = bare(&pool.value(random, "csv", "text"));
                sent.body = Some(ascii(csv.as_bytes()));
            } else {
                sent.headers
                    .push(("Content-Type", "application/json".to_owned()));
                sent.body = Some(format!("[{}]", rows.join(", ")).into_bytes());
            }
        }
        sent
    }

    fn add_headers(&mut self, random: &mut StdRng) {
        let some: &[(&str, &[&str])] = &[
            (
                "Prefer",
                &[
                    "params=single-object",
                    "return=representation",
                    "return=minimal",
                    "return=headers-only",
                    "count=exact",
                    "count=planned",
                    "count=estimated",
                    "resolution=merge-duplicates",
                    "resolution=ignore-duplicates",
                    "missing=default",
                    "handling=strict, nonsense=1",
                    "tx=rollback",
                    "handling=strict, max-affected=1",
                    "timezone=Asia/Tokyo",
                    "handling=strict, timezone=Nowhere/Else",
                    "あ",
                ],
            ),
            (
                "Accept",
                &[
                    "application/json",
                    "text/csv",
                    "application/vnd.pgrst.object+json",
                    "application/vnd.pgrst.object+json;nulls=stripped",
                    "application/vnd.pgrst.array+json;nulls=stripped",
                    "application/vnd.pgrst.plan+json",
                    "application/geo+json",
                    "application/octet-stream",
                    "application/openapi+json",
                    "text/xml",
                    "text/plain",
                    "*/*",
                    "x/y",
                    ";;;",
                    "application/json;q=2",
                ],
            ),
            (
                "Range",
                &[
                    "0-",
                    "0-0",
                    "5-2",
                    "-1",
                    "0-99999999999999999999",
                    "items=0-1",
                    "a-b",
                ],
            ),
            ("Range-Unit", &["items", "bytes"]),
            (
                "Accept-Profile",
                &["loyalty", "pg_catalog", "loyalty_api", "'"],
            ),
            ("Content-Profile", &["loyalty", "public", "loyalty_api"]),
            (
                "X-Forwarded-For",
                &["203.0.113.9", "a, b, ' or 1=1", ",", "あ"],
            ),
            (
                "User-Agent",
                &["", "あ\u{1f600}", "'; drop table loyalty.entry; --"],
            ),
            ("All-Or-Nothing", &["true", "false", "maybe"]),
            ("Dry-Run", &["true", "1", "あ"]),
            ("Program", &["coin", "mile", "'"]),
            ("Content-Encoding", &["gzip", "identity"]),
            ("X-HTTP-Method-Override", &["DELETE"]),
        ];
        for _ in 0..random.random_range(1..4) {
            let (name, values) = pick(random, some);
            if self.headers.iter().all(|(given, _)| given != name) {
                self.headers
                    .push((name, (*pick(random, values)).to_owned()));
            }
        }
        // the first two change what PostgREST asks of the database
        if self
            .headers
            .iter()
            .any(|(name, _)| ["Prefer", "Accept", "Content-Profile"].contains(name))
        {
            self.is_plain_call = false;
        }
    }
}

/// Filters, order, columns, page: what PostgREST reads of a query.
fn query(random: &mut StdRng, fields: &[Field], pool: &mut Pool) -> String {
    let operators = [
        "eq",
        "neq",
        "gt",
        "gte",
        "lt",
        "lte",
        "like",
        "ilike",
        "match",
        "imatch",
        "in",
        "is",
        "isdistinct",
        "fts",
        "plfts",
        "cs",
        "cd",
        "ov",
        "sl",
        "sr",
        "nxr",
        "adj",
        "not.eq",
        "not.in",
        "eq(any)",
        "like(all)",
        "nonsense",
    ];
    let none = [Field {
        name: "nothing".to_owned(),
        format: "text".to_owned(),
        is_required: false,
    }];
    let fields = if fields.is_empty() { &none[..] } else { fields };
    let mut parts = Vec::new();
    for _ in 0..*pick(random, &[0, 0, 1, 1, 2, 3]) {
        let field = pick(random, fields);
        let name = percent(&field.name);
        let value = cut(
            &bare(&pool.value(random, &field.name, &field.format)),
            1_500,
        );
        let part = match random.random_range(0..12) {
            0..5 => {
                let operator = *pick(random, &operators);
                let value = match operator {
                    "in" | "not.in" => format!("({value},{value})"),
                    "eq(any)" | "like(all)" | "cs" | "ov" => format!("{{{value}}}"),
                    "is" => (*pick(random, &["null", "true", "unknown", "x"])).to_owned(),
                    _ => value,
                };
                format!("{name}={operator}.{}", percent(&value))
            }
            5 => {
                let direction = *pick(
                    random,
                    &["", ".asc", ".desc", ".desc.nullslast", ".sideways"],
                );
                format!("order={name}{direction}")
            }
            6 => format!("limit={}", percent(&value)),
            7 => format!(
                "limit={}&offset={}",
                random.random_range(0..5),
                random.random_range(0..50)
            ),
            8 => {
                let shape = *pick(
                    random,
                    &[
                        "COLUMN",
                        "*,COLUMN::text",
                        "COLUMN->>a",
                        "x:COLUMN",
                        "count()",
                        "COLUMN.sum()",
                        "*,account(*)",
                        "*,loyalty.identity(*)",
                        "...program(code)",
                        "COLUMN::bigint",
                        "COLUMN::nothing",
                        "*,*",
                        "(",
                        "\"COLUMN\"",
                    ],
                );
                format!("select={}", percent(&shape.replace("COLUMN", &field.name)))
            }
            9 => {
                let word = *pick(random, &["or", "and", "not.or", "not.and"]);
                let inner = format!("({}.eq.{value},{}.is.null)", field.name, field.name);
                format!("{word}={}", percent(&inner))
            }
            10 => format!("columns={name}&on_conflict={name}"),
            _ => format!(
                "{}={}",
                percent(&cut(&bare(&pool.value(random, "", "text")), 100)),
                percent(&value)
            ),
        };
        parts.push(part);
    }
    parts.join("&")
}
