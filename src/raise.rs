//! Raising errors from SQL.

use crate::error::{Code, Fault, Result, in_http_request};
use crate::pg::call::{Call, sql_function};
use loyalty_core::hint;
use serde_json::{Value, json};
use std::borrow::Cow;

sql_function!(raise);
/// `loyalty_private.raise(code, reason, message, detail, hint, field)`
fn raise(call: &Call) -> Result<()> {
    let wanted = call.need("code", call.text(0))?;
    let code = Code::of_sqlstate(&wanted).unwrap_or(Code::InvalidValue);
    let reason = call.need("reason", call.text(1))?;
    Err(Fault {
        detail: call.text(3).map(String::into_boxed_str),
        hint: call.text(4).map(String::into_boxed_str),
        field: call.text(5).map(Cow::from),
        ..Fault::new(code, reason, call.text(2).unwrap_or_default())
    })
}

sql_function!(raise_closed);
/// `loyalty_private.raise_closed(detail, retry_after_seconds)`
fn raise_closed(call: &Call) -> Result<()> {
    Err(Fault {
        detail: call.text(0).map(String::into_boxed_str),
        retry_after_seconds: call.i64(1),
        ..Fault::new(Code::Closed, "program_closed", "outside of the service hours")
            .hint("Come again when the program is open; the header Retry-After tells in how many seconds.")
    })
}

sql_function!(refusal);
/// `loyalty_private.refusal(code, reason, message, detail, hint, field, retry_after_seconds)`: what an
/// error that must not be raised answers with, as the text of a JSON object with `status`,
/// `headers` and `body`.
fn refusal(call: &Call) -> Result<String> {
    let wanted = call.need("code", call.text(0))?;
    let code = Code::of_sqlstate(&wanted).unwrap_or(Code::InvalidValue);
    let reason = call.need("reason", call.text(1))?;
    let fault = Fault {
        field: call.text(5).map(Cow::from),
        retry_after_seconds: call.i64(6),
        ..Fault::new(code, reason, call.text(2).unwrap_or_default())
    };
    let (sqlstate, status) = code.sqlstate();
    let hint = call.text(4);
    let hint = match in_http_request() {
        true => hint.map(|hint| hint::over_http(&hint).into_owned()),
        false => hint,
    };
    let headers = fault.headers().into_iter();
    let headers: Vec<Value> = headers
        .map(|(name, value)| json!({ name: value }))
        .collect();
    let answer = json!({
        "status": status.to_string(),
        "headers": headers,
        "body": {
            "code": sqlstate,
            "reason": fault.reason,
            "field": fault.field,
            "message": fault.message,
            "details": call.text(3),
            "hint": hint,
        },
    });
    Ok(answer.to_string())
}
