//! Expiry policies as a SQL type, stored as their canonical text.

use crate::day;
use crate::error::{Fault, Result};
use crate::pg::call::{Answer, Call, sql_function};
use crate::pg::datum;
use loyalty_core::expiry::{ExpiryPolicy, PolicyError};
use std::ffi::{CStr, c_char};

/// A policy from its text, or what is wrong with that, and where.
pub fn parse(text: &str) -> Result<ExpiryPolicy> {
    text.parse().map_err(|error: PolicyError| {
        Fault::invalid("expiry_policy_invalid", error.to_string())
            .field("expiry")
            .hint(error.hint())
    })
}

sql_function!(expiry_policy_in);
/// The type's input function.
fn expiry_policy_in(call: &Call) -> Result<Answer> {
    let input = call.need("expiry policy", call.datum(0))?;
    // SAFETY: the argument of an input function is a C string.
    let text = unsafe { CStr::from_ptr(input.cast_mut_ptr::<c_char>()) };
    let policy = parse(&text.to_string_lossy())?;
    Ok(Answer::Value(datum::text(&policy.to_string())))
}

sql_function!(expires_on);
/// `loyalty.expires_on(policy, granted_on)`
fn expires_on(call: &Call) -> Result<Option<i32>> {
    let policy = parse(&call.need("policy", call.text(0))?)?;
    let granted_on = day::date(call.need("granted_on", call.i32(1))?)?;
    let expires_on = policy.expires_on(granted_on).map_err(|error| {
        Fault::invalid(error.reason(), error.to_string())
            .field("granted_on")
            .hint("Give another day, or another policy.")
    })?;
    Ok(expires_on.map(day::day))
}
