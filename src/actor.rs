//! Who asked, as the journal and the audit name them.

use crate::error::Result;
use crate::pg::call::{Call, sql_function};
use crate::request;

/// Who asks: role and subject of the token in a PostgREST request, else the database user.
pub fn actor() -> String {
    let claims = request::claims();
    match (claims.str("role"), claims.str("sub")) {
        (Some(role), Some(subject)) => format!("{role}:{subject}"),
        (Some(role), None) => role.to_owned(),
        (None, _) => request::role().map_or_else(request::session_user, |role| role.to_string()),
    }
}

sql_function!(actor = sql_actor);
/// `loyalty_private.actor()`
fn sql_actor(_: &Call) -> Result<String> {
    Ok(actor())
}
