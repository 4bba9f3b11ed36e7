//! Texts of notices: a small part of Jinja, checked when it is written and filled in when a
//! notice is sent (C18).
//!
//! A program's own administrators write templates, and they run inside the database. So a
//! template can only write values, test them and loop over lists: no calls, no assignments,
//! no arithmetic, nothing that makes strings grow. What is left is bounded by size, nesting,
//! instructions and output.

pub mod example;
mod filter;
mod walk;

use example::Example;
use filter::{Language, date, duration, no_value, number, weekday};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, escape_formatter};
use serde_json::Value;
use std::io;
use walk::{GRAMMAR, look_through};

/// One of the texts of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Subject,
    Text,
    Html,
    Sms,
}

impl Part {
    /// Its name in `loyalty.notice_template`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Part::Subject => "subject",
            Part::Text => "text_body",
            Part::Html => "html_body",
            Part::Sms => "sms_body",
        }
    }

    /// Bytes that its source may have.
    #[must_use]
    pub fn limit(self) -> usize {
        match self {
            Part::Subject => 500,
            Part::Text => 20_000,
            Part::Html => 60_000,
            Part::Sms => 2_000,
        }
    }
}

/// Bytes that a filled-in text may have.
const OUTPUT_LIMIT: usize = 256 * 1024;
/// Instructions that filling in one text may take.
const FUEL: u64 = 50_000;

/// What is wrong with a template, or why it cannot be filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {message}", .part.name(), .line.map_or(String::new(), |line| format!(" line {line}")))]
pub struct Problem {
    pub part: Part,
    /// From 1; `None` where it is the text as a whole.
    pub line: Option<usize>,
    pub message: String,
    pub hint: String,
}

/// Checks one text of a template against the example of its kind of notice: syntax, variables,
/// and that it can be filled in whatever a member's record leaves out.
pub fn check(part: Part, source: &str, example: &Example, language: &str) -> Result<(), Problem> {
    check_size(part, source)?;
    let every = example.every();
    let written = look_through(part, source, &every[0])?;
    for example in &every {
        render_checked(part, source, language, example).map_err(|mut problem| {
            let missing = written
                .iter()
                .find(|(line, path)| Some(*line) == problem.line && is_null(example, path));
            if let Some((_, path)) = missing {
                problem.message = format!("{path} is not there for every member");
                problem.hint =
                    format!("Write it between {{% if {path} %}} and {{% endif %}}, with {{% else %}} if wanted.");
            }
            problem
        })?;
    }
    Ok(())
}

/// Fills in one text. Only HTML is escaped.
pub fn render(
    part: Part,
    source: &str,
    language: &str,
    context: &Value,
) -> Result<String, Problem> {
    check_size(part, source)?;
    // what is stored was checked, but a dump or a superuser may bring anything
    look_through(part, source, context)?;
    render_checked(part, source, language, context)
}

fn syntax() -> SyntaxConfig {
    // without line statements building cannot fail; the default would do, less tidily
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .keep_trailing_newline(true)
        .build()
        .unwrap_or_default()
}

fn render_checked(
    part: Part,
    source: &str,
    language: &str,
    context: &Value,
) -> Result<String, Problem> {
    let mut environment = Environment::empty();
    environment.set_syntax(syntax());
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(50);
    environment.set_auto_escape_callback(|name| match name == Part::Html.name() {
        true => AutoEscape::Html,
        false => AutoEscape::None,
    });
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::None => Err(no_value()),
        _ => escape_formatter(out, state, value),
    });
    let tongue = Language::of(language);
    environment.add_filter("number", number);
    environment.add_filter("date", move |value: minijinja::Value| date(&value, tongue));
    environment.add_filter("weekday", move |value: minijinja::Value| {
        weekday(&value, tongue)
    });
    environment.add_filter("duration", move |value: minijinja::Value| {
        duration(&value, tongue)
    });
    let mut out = Bounded(Vec::new());
    environment
        .template_from_named_str(part.name(), source)
        .and_then(|template| {
            let context = minijinja::Value::from(Serde(context.clone()));
            template.render_captured_to(context, &mut out).map(|_| ())
        })
        .map_err(|error| problem_of(part, &error))?;
    let text = String::from_utf8_lossy(&out.0);
    Ok(match part {
        // one line, whatever a value holds: no header can be slipped in
        Part::Subject => text
            .split(char::is_control)
            .collect::<Vec<_>>()
            .join(" ")
            .trim()
            .to_owned(),
        _ => text
            .chars()
            .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
            .collect(),
    })
}

fn problem_of(part: Part, error: &Error) -> Problem {
    let (message, hint) = match error.kind() {
        ErrorKind::OutOfFuel => (
            "it takes too long to fill in".to_owned(),
            "Nest fewer loops.",
        ),
        ErrorKind::WriteFailure => (
            format!("filled in, it has more than {OUTPUT_LIMIT} bytes"),
            "Write less, or nest fewer loops.",
        ),
        kind => {
            let detail = error.detail().map(|detail| format!(": {detail}"));
            (format!("{kind}{}", detail.unwrap_or_default()), GRAMMAR)
        }
    };
    Problem {
        part,
        line: error.line(),
        message,
        hint: hint.to_owned(),
    }
}

fn check_size(part: Part, source: &str) -> Result<(), Problem> {
    let problem = |message: String, hint: &str| Problem {
        part,
        line: None,
        message,
        hint: hint.to_owned(),
    };
    if source.trim().is_empty() {
        return Err(problem(
            "it is empty".to_owned(),
            "Write what members shall read.",
        ));
    }
    if source.len() > part.limit() {
        return Err(problem(
            format!("it has {} bytes, more than {}", source.len(), part.limit()),
            "Write less; put pictures and styles elsewhere.",
        ));
    }
    if part == Part::Subject && source.contains(char::is_control) {
        return Err(problem(
            "it has a line break or another control character".to_owned(),
            "A subject is one line.",
        ));
    }
    if let Some(place) = source.find(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(Problem {
            line: Some(source[..place].matches('\n').count() + 1),
            ..problem("it has a control character".to_owned(), "Leave it out.")
        });
    }
    Ok(())
}

fn is_null(context: &Value, path: &str) -> bool {
    let mut value = context;
    for name in path.split('.') {
        match value.get(name) {
            Some(member) => value = member,
            None => return false,
        }
    }
    value.is_null()
}

/// Writes no more than a message may have.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_LIMIT {
            return Err(io::Error::other("too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    fn example() -> Example {
        Example::new(
            json!({
                "member": { "name": "Hanako Yamada" },
                "program": { "name": "Sample Club" },
                "today": "2028-06-23",
                "points": 12_345,
                "expires_on": "2028-06-30",
                "lots": [{ "points": 1500 }, { "points": 500 }],
                "order": { "item": "Meal voucher" },
            }),
            vec![vec!["expires_on".to_owned()]],
        )
    }

    fn filled(part: Part, source: &str, language: &str) -> String {
        check(part, source, &example(), language).map_or_else(
            |problem| problem.to_string(),
            |()| match render(part, source, language, example().full()) {
                Ok(text) => text,
                Err(problem) => problem.to_string(),
            },
        )
    }

    #[test]
    fn values_are_written_for_the_language() {
        let source = "{{ points | number }} {{ expires_on | date if expires_on else '-' }} {{ today | weekday }}";
        let balance = |language| filled(Part::Text, source, language);
        assert_eq!(balance("ja"), "12,345 2028年6月30日 金");
        assert_eq!(balance("en-GB"), "12,345 30 June 2028 Friday");
        assert_eq!(balance("fr"), "12,345 2028-06-30 Friday");
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (whole, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (-1_234_567, "-1,234,567"),
            (i64::MAX, "9,223,372,036,854,775,807"),
            (i64::MIN, "-9,223,372,036,854,775,808"),
        ] {
            assert_eq!(
                number(&minijinja::Value::from(whole)).ok().as_deref(),
                Some(text)
            );
        }
    }

    #[test]
    fn minutes_are_said_as_people_do() {
        for (minutes, japanese, english) in [
            (0, "0分", "0 minutes"),
            (1, "1分", "1 minute"),
            (15, "15分", "15 minutes"),
            (60, "1時間", "1 hour"),
            (90, "90分", "90 minutes"),
            (1440, "24時間", "24 hours"),
            (10_080, "7日", "7 days"),
        ] {
            for (language, text) in [
                (Language::Japanese, japanese),
                (Language::English, english),
                (Language::Other, english),
            ] {
                let said = duration(&minijinja::Value::from(minutes), language);
                assert_eq!(said.ok().as_deref(), Some(text));
            }
        }
        for wrong in [(-1).into(), "soon".into(), ().into()] {
            assert!(duration(&wrong, Language::English).is_err());
        }
    }

    #[test]
    fn lines_of_conditions_leave_no_empty_lines() {
        let source = "a\n{% if points %}\n  b\n{% endif %}\n{% for lot in lots %}\n{{ lot.points }}\n{% endfor %}\nc\n";
        assert_eq!(filled(Part::Text, source, "ja"), "a\n  b\n1500\n500\nc\n");
    }

    /// Whatever a template does, the stack, the memory and the time that it may take are
    /// bounded: each of these ends quickly, well or not.
    #[test]
    fn nothing_runs_away() {
        let wide = |text: &str, times| text.repeat(times);
        for source in [
            wide("{% if points %}", 4000),
            wide("{% if points %}", 299),
            format!(
                "{{% if points %}}{}{{% endif %}}",
                wide("{% elif points %}x", 280)
            ),
            format!("{{{{ {}points }}}}", wide("not ", 10_000)),
            format!("{{{{ {}points{} }}}}", wide("(", 20_000), wide(")", 20_000)),
            format!("{{{{ points{} }}}}", wide(" or points", 5_000)),
            format!("{{{{ program{} }}}}", wide(".name", 10_000)),
            format!(
                "{}x{}",
                wide("{% for a in lots %}", 100),
                wide("{% endfor %}", 100)
            ),
            format!("{{{{ '{}' }}}}", wide("x", 50_000)),
            wide("{{", 25_000),
            wide("{#", 25_000),
            wide("\n", 59_999) + "x",
        ] {
            let answer = check(Part::Html, &source, &example(), "ja");
            if let Err(problem) = answer {
                assert!(!problem.message.is_empty());
            }
        }
    }

    #[test]
    fn a_subject_stays_one_line() {
        let mut context = example().full().clone();
        context["order"]["item"] = "a\r\nBcc: b@example.com".into();
        let subject = render(Part::Subject, "Got {{ order.item }}", "en", &context);
        assert_eq!(subject.as_deref(), Ok("Got a  Bcc: b@example.com"));
    }

    #[test]
    fn only_html_is_escaped() {
        let mut context = example().full().clone();
        context["order"]["item"] = "<&\">".into();
        for (part, expected) in [
            (Part::Html, "&lt;&amp;&quot;&gt;"),
            (Part::Text, "<&\">"),
            (Part::Sms, "<&\">"),
            (Part::Subject, "<&\">"),
        ] {
            assert_eq!(
                render(part, "{{ order.item }}", "en", &context).as_deref(),
                Ok(expected)
            );
        }
    }
}
