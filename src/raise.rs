//! Raising errors from SQL.

use crate::error::{Code, Fault, Result};
use crate::pg::call::{Call, sql_function};

sql_function!(raise);
/// `loyalty.raise(code, message, detail, hint)`
fn raise(call: &Call) -> Result<()> {
    let wanted = call.need("code", call.text(0))?;
    let code = Code::ALL
        .into_iter()
        .find(|code| code.sqlstate().0 == wanted)
        .unwrap_or(Code::InvalidValue);
    Err(Fault {
        detail: call.text(2),
        hint: call.text(3),
        ..Fault::new(code, call.text(1).unwrap_or_default())
    })
}

sql_function!(raise_closed);
/// `loyalty.raise_closed(detail, retry_after_seconds)`
fn raise_closed(call: &Call) -> Result<()> {
    Err(Fault {
        detail: call.text(0),
        retry_after_seconds: call.i64(1),
        ..Fault::new(Code::Closed, "outside of the service hours")
            .hint("Come again when the program is open; the header Retry-After tells in how many seconds.")
    })
}
