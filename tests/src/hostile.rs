//! What people send who mean no good.

use serde_json::{Value, json};

/// Texts that mean something to SQL, `like`, `format`, templates, headers, paths or types.
const TEXTS: &[&str] = &[
    "'; drop table loyalty.entry; --",
    "\"')) or 1=1; delete from loyalty.identity; --",
    "$$; select pg_sleep(600); $$",
    "hanako@example.com' or login_id like '%",
    "%",
    "_%\\_",
    "%s%n%I%L",
    "",
    " \t\r\nSet-Cookie: a=b\r\n\r\n",
    "\u{0}",
    "a\u{0}b@example.com",
    "\u{1}\u{7f}\u{9b}\u{202e}\u{feff}\u{10ffff}",
    "{{ program.name }}{% for a in b %}",
    "{\"role\": \"loyalty_operator\"}",
    "../../../../etc/passwd",
    "infinity",
    "-9223372036854775808",
    "+81901234567890123456789",
];

/// For any argument: [`TEXTS`], and JSON of types that nobody asked for.
pub fn values() -> Vec<Value> {
    let mut values: Vec<Value> = TEXTS.iter().copied().map(Value::from).collect();
    values.extend([
        json!(null),
        json!(true),
        json!(-1),
        json!(1e308),
        json!([["'"]]),
        json!({"a": {"b": ["; drop"]}}),
    ]);
    values
}
