//! Templates: one that is accepted can be filled in whatever a record leaves out, within its
//! limits; and no context, however odd, makes filling in do more than refuse.

use super::chosen_by;
use loyalty_core::template::example::{Kind, examples};
use loyalty_core::template::{Part, check, render};
use serde_json::Value;

const PARTS: [Part; 4] = [Part::Subject, Part::Text, Part::Html, Part::Sms];
const LANGUAGES: [&str; 4] = ["ja", "en", "fr", "en-GB"];
/// What a filled-in text may have, as docs/notifications.md says.
const OUTPUT_LIMIT: usize = 256 * 1024;
/// Between the source and a context of one's own.
const CONTEXT: &str = "\n====\n";

pub fn run(data: &[u8]) {
    let Some(([kind, part, language], text)) = chosen_by::<3>(data) else {
        return;
    };
    let kind = Kind::ALL[usize::from(kind) % Kind::ALL.len()];
    let part = PARTS[usize::from(part) % PARTS.len()];
    let language = LANGUAGES[usize::from(language) % LANGUAGES.len()];
    let (source, context) = text.split_once(CONTEXT).unwrap_or((text, ""));

    match check(part, source, kind, language) {
        Ok(()) => {
            for example in examples(kind, language) {
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

fn within_limits(part: Part, filled: &str) {
    assert!(filled.len() <= OUTPUT_LIMIT);
    let control = |c: char| c.is_control() && (part == Part::Subject || !"\n\t".contains(c));
    assert!(!filled.contains(control), "{filled:?}");
}
