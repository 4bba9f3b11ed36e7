//! Expiry policies as a SQL type, stored as their canonical text.

use crate::call::{Answer, sql_function};
use crate::day;
use crate::error::{Fault, Result};
use crate::spi;
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

sql_function! {
    /// The type's input function.
    fn expiry_policy_in(call) -> Answer {
        let input = call.need("expiry policy", call.datum(0))?;
        // SAFETY: the argument of an input function is a C string.
        let text = unsafe { CStr::from_ptr(input.cast_mut_ptr::<c_char>()) };
        let policy = parse(&text.to_string_lossy())?;
        Ok(Answer::Value(spi::text(&policy.to_string())))
    }
}

sql_function! {
    /// `loyalty.expires_on(policy, granted_on)`
    fn expires_on(call) -> Option<i32> {
        let policy = parse(&call.need("policy", call.text(0))?)?;
        let granted_on = day::date(call.need("granted_on", call.i32(1))?)?;
        let expires_on = policy.expires_on(granted_on).map_err(|error| {
            Fault::invalid(error.reason(), error.to_string())
                .field("granted_on")
                .hint("Give another day, or another policy.")
        })?;
        Ok(expires_on.map(day::day))
    }
}
