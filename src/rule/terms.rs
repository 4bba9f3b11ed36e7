//! The terms of a rule, checked.

use crate::error::{Fault, Result};
use crate::pg::call::{Call, sql_function};
use loyalty_core::rule::terms::{self, EXAMPLES, TermsError};

pub fn terms_fault(kind: &str, error: TermsError) -> Fault {
    let fault = Fault::invalid(error.reason(), error.to_string());
    match error {
        TermsError::NoSuchKind { kind } => {
            let kinds: Vec<&str> = EXAMPLES.iter().map(|(kind, _)| *kind).collect();
            fault
                .field("kind")
                .detail(format!("kind '{kind}' given."))
                .hint(format!("There are: {}.", kinds.join(", ")))
        }
        TermsError::Wrong { path, problem } => {
            let example = EXAMPLES.iter().find(|(known, _)| *known == kind);
            fault
                .field("terms")
                .detail(format!("{path}: {problem}."))
                .hint(format!(
                    "These are right: {}",
                    example.map_or("", |(_, example)| example)
                ))
        }
    }
}

sql_function!(rule_is_sound);
/// `loyalty_private.rule_is_sound(kind, terms)`: true, or an error that says what is wrong and where.
fn rule_is_sound(call: &Call) -> Result<bool> {
    let kind = call.need("kind", call.text(0))?;
    let json = call.need("terms", call.text(1))?;
    terms::read(&kind, &json).map_err(|error| terms_fault(&kind, error))?;
    Ok(true)
}
