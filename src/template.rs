//! Templates of notices: loyalty_core's, with texts and contexts as SQL has them.

use crate::call::{Answer, Call, sql_function};
use crate::error::{Fault, Result};
use crate::spi;
use loyalty_core::template::example::{Kind, full};
use loyalty_core::template::{Part, Problem, check, render};

fn kind(call: &Call, index: usize) -> Result<Kind> {
    let name = call.need("kind", call.text(index))?;
    Kind::of_name(&name).ok_or_else(|| {
        let known = Kind::ALL.map(Kind::name).join(", ");
        Fault::invalid("kind_unknown", "kind is unknown")
            .field("kind")
            .detail(format!("kind: '{name}' given."))
            .hint(format!("There are {known}."))
    })
}

fn fault(problem: Problem) -> Fault {
    let field = problem.part.name();
    Fault::invalid("template_invalid", problem.to_string())
        .field(field)
        .hint(problem.hint)
}

sql_function! {
    /// `loyalty.check_template(kind, language, subject, text_body, html_body, sms_body)`
    fn check_template(call) -> () {
        let kind = kind(call, 0)?;
        let language = call.need("language", call.text(1))?;
        let subject = call.need("subject", call.text(2))?;
        let text = call.need("text_body", call.text(3))?;
        check(Part::Subject, &subject, kind, &language).map_err(fault)?;
        check(Part::Text, &text, kind, &language).map_err(fault)?;
        for (part, source) in [(Part::Html, call.text(4)), (Part::Sms, call.text(5))] {
            if let Some(source) = source {
                check(part, &source, kind, &language).map_err(fault)?;
            }
        }
        Ok(())
    }
}

sql_function! {
    /// `loyalty.render_template(language, subject, text_body, html_body, sms_body, context)`:
    /// the texts filled in, and what kept it from that where something did. No error, since
    /// one notice must not stop the others that are claimed with it.
    fn render_template(call) -> Answer {
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
                        Ok(text) => texts[index] = Some(spi::text(&text)),
                        Err(error) => problem = problem.or(Some(format!("template, {error}"))),
                    }
                }
            }
            Err(error) => problem = Some(format!("context: {error}")),
        }
        if problem.is_some() {
            texts = vec![None; 4];
        }
        texts.push(problem.map(|text| spi::text(&text)));
        Ok(Answer::Row(texts))
    }
}

sql_function! {
    /// `loyalty.template_example(kind, language)`, as the text of a JSON object
    fn template_example(call) -> String {
        let kind = kind(call, 0)?;
        let language = call.need("language", call.text(1))?;
        Ok(full(kind, &language).to_string())
    }
}
