//! JSON as people read it.

use anyhow::Result;

const JSON_WIDTH: usize = 100;

/// Lays JSON out anew, keys in their order: what fits in a line stays in one.
pub fn tidy_json(text: &str) -> String {
    let mut compact = String::new();
    let mut quoted = false;
    let mut escaped = false;
    for c in text.chars() {
        if quoted || !c.is_whitespace() {
            compact.push(c);
        }
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        if !quoted && matches!(c, ',' | ':') {
            compact.push(' ');
        }
        escaped = c == '\\' && !escaped;
    }
    let mut laid_out = String::new();
    lay_out(compact.trim(), 0, &mut laid_out);
    laid_out
}

fn lay_out(json: &str, indent: usize, out: &mut String) {
    let nested = json.starts_with(['{', '[']) && json.len() > 2;
    if !nested || indent + json.chars().count() <= JSON_WIDTH {
        out.push_str(json);
        return;
    }
    let (opening, rest) = json.split_at(1);
    let (inside, closing) = rest.split_at(rest.len() - 1);
    out.push_str(opening);
    for (index, part) in split_at_commas(inside).iter().enumerate() {
        out.push_str(if index == 0 { "\n" } else { ",\n" });
        out.push_str(&" ".repeat(indent + 2));
        // a member's key stays in front of its value
        let key = match part.find("\": ") {
            Some(end) if part.starts_with('"') => end + 3,
            _ => 0,
        };
        out.push_str(&part[..key]);
        lay_out(&part[key..], indent + 2, out);
    }
    out.push('\n');
    out.push_str(&" ".repeat(indent));
    out.push_str(closing);
}

fn split_at_commas(json: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (index, c) in json.char_indices() {
        match c {
            '"' if !escaped => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(json[start..index].trim());
                start = index + 1;
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(json[start..].trim());
    parts
}

#[test]
fn docs_json_is_laid_out_and_stays_what_it_is() -> Result<()> {
    assert_eq!(tidy_json("{\"a\":1,\n \"b\":[ ]}"), "{\"a\": 1, \"b\": []}");
    let long = format!(
        "[{{\"a, \\\"b\": \"{}\",\"c\":{{\"d\":1}}}}]",
        "x".repeat(90)
    );
    let laid_out = tidy_json(&long);
    assert_eq!(laid_out.lines().count(), 6);
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text);
    assert_eq!(value(&laid_out)?, value(&long)?);
    Ok(())
}
