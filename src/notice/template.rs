//! Templates of notices: loyalty_core's, with texts and contexts as SQL has them.

use crate::error::{Fault, Result};
use crate::pg::call::{Answer, Call, sql_function};
use crate::pg::datum;
use loyalty_core::template::example::Example;
use loyalty_core::template::{Part, Problem, check, render};

/// What texts are tried with: arguments 0 and 1, the example and the groups that may be missing.
fn example(call: &Call) -> Result<Example> {
    let full = call.need("example", call.text(0))?;
    let optional = call.need("optional", call.text(1))?;
    let wrong = |error: serde_json::Error| {
        Fault::invalid("example_invalid", "the example of the kind is invalid")
            .detail(format!("{error}."))
    };
    let full = serde_json::from_str(&full).map_err(wrong)?;
    let optional = serde_json::from_str(&optional).map_err(wrong)?;
    Ok(Example::new(full, optional))
}

fn fault(problem: Problem) -> Fault {
    let field = problem.part.name();
    Fault::invalid("template_invalid", problem.to_string())
        .field(field)
        .hint(problem.hint)
}

sql_function!(check_texts);
/// `loyalty_private.check_texts(example, optional, language, subject, text_body, html_body, sms_body)`
fn check_texts(call: &Call) -> Result<()> {
    let example = example(call)?;
    let language = call.need("language", call.text(2))?;
    let subject = call.need("subject", call.text(3))?;
    let text = call.need("text_body", call.text(4))?;
    check(Part::Subject, &subject, &example, &language).map_err(fault)?;
    check(Part::Text, &text, &example, &language).map_err(fault)?;
    for (part, source) in [(Part::Html, call.text(5)), (Part::Sms, call.text(6))] {
        if let Some(source) = source {
            check(part, &source, &example, &language).map_err(fault)?;
        }
    }
    Ok(())
}

sql_function!(render_template);
/// `loyalty_private.render_template(language, subject, text_body, html_body, sms_body, context)`:
/// the texts filled in, and what kept it from that where something did. No error, since
/// one notice must not stop the others that are leased with it.
fn render_template(call: &Call) -> Result<Answer> {
    let language = call.need("language", call.text(0))?;
    let context = call.need("context", call.text(5))?;
    let mut texts = vec![None; 4];
    let mut problem = None;
    match serde_json::from_str(&context) {
        Ok(context) => {
            let parts = [Part::Subject, Part::Text, Part::Html, Part::Sms];
            for (index, part) in parts.into_iter().enumerate() {
                let Some(source) = call.text(index + 1) else {
                    continue;
                };
                match render(part, &source, &language, &context) {
                    Ok(text) => texts[index] = Some(datum::text(&text)),
                    Err(error) => problem = problem.or(Some(format!("template, {error}"))),
                }
            }
        }
        Err(error) => problem = Some(format!("context: {error}")),
    }
    if problem.is_some() {
        texts = vec![None; 4];
    }
    texts.push(problem.map(|text| datum::text(&text)));
    Ok(Answer::Row(texts))
}
