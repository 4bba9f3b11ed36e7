//! Templates: one that is accepted can be filled in whatever a record leaves out, within its
//! limits; and no context, however odd, makes filling in do more than refuse.

use super::chosen_by;
use loyalty_core::template::example::Example;
use loyalty_core::template::{Part, check, render};
use serde_json::{Value, json};

const PARTS: [Part; 4] = [Part::Subject, Part::Text, Part::Html, Part::Sms];
const LANGUAGES: [&str; 4] = ["ja", "en", "fr", "en-GB"];
/// What a filled-in text may have, as docs/notice.md says.
const OUTPUT_LIMIT: usize = 256 * 1024;
/// Between the source and a context of one's own.
const CONTEXT: &str = "\n====\n";

pub fn run(data: &[u8]) {
    let Some(([kind, part, language], text)) = chosen_by::<3>(data) else {
        return;
    };
    let example = &examples()[usize::from(kind) % 3];
    let part = PARTS[usize::from(part) % PARTS.len()];
    let language = LANGUAGES[usize::from(language) % LANGUAGES.len()];
    let (source, context) = text.split_once(CONTEXT).unwrap_or((text, ""));

    match check(part, source, example, language) {
        Ok(()) => {
            for example in example.every() {
                let filled = render(part, source, language, &example);
                within_limits(part, &filled.expect("what was checked can be filled in"));
            }
        }
        Err(problem) => {
            let lines = source.matches('\n').count() + 1;
            assert!(
                problem.line.is_none_or(|line| (1..=lines).contains(&line)),
                "{problem:?}"
            );
            assert!(!problem.message.is_empty() && !problem.hint.is_empty());
        }
    }
    if let Ok(context) = serde_json::from_str::<Value>(context)
        && let Ok(filled) = render(part, source, language, &context)
    {
        within_limits(part, &filled);
    }
}

/// Of the shapes that kinds of notices have: figures, a list, a proof.
fn examples() -> [Example; 3] {
    let people = json!({ "name": "Hanako Yamada", "member_no": "A-1001" });
    let program = json!({ "name": "Sample Club", "point_name": "points" });
    let group = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    [
        Example::new(
            json!({
                "program": program, "member": people, "today": "2028-06-23", "points": 12_345,
                "expires_on": "2028-06-30", "expiring_points": 1500,
                "preferences_url": "https://example.com/preferences",
            }),
            vec![
                group(&["member.name"]),
                group(&["preferences_url"]),
                group(&["expires_on", "expiring_points"]),
            ],
        ),
        Example::new(
            json!({
                "program": program, "member": people, "today": "2028-06-23", "points": 2000,
                "lots": [
                    { "expires_on": "2028-06-28", "points": 1500 },
                    { "expires_on": "2028-06-30", "points": 500 },
                ],
            }),
            vec![group(&["member.name"])],
        ),
        Example::new(
            json!({
                "program": program, "member": people, "today": "2028-06-23",
                "link": "https://example.com/unlock#4f1d0c7e.Zm9yIGV4YW1wbGU", "minutes": 15,
            }),
            vec![group(&["member.name"]), group(&["member.member_no"])],
        ),
    ]
}

fn within_limits(part: Part, filled: &str) {
    assert!(filled.len() <= OUTPUT_LIMIT);
    let control = |c: char| c.is_control() && (part == Part::Subject || !"\n\t".contains(c));
    assert!(!filled.contains(control), "{filled:?}");
}
