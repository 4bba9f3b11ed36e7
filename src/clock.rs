//! The time: the machine's, or what the test clock says.

use crate::error::{Fault, Result};
use crate::pg::call::{Call, sql_function};
use crate::pg::datum::to_i64;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::ffi::{CStr, CString};

static CLOCK: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

thread_local! {
    /// The setting's text last read, in which time zone, and what it means.
    static READ: RefCell<Option<(CString, usize, i64)>> = const { RefCell::new(None) };
}

pub fn init() {
    GucRegistry::define_string_guc(
        c"loyalty.clock",
        c"Test clock: the time that the ledger takes for now.",
        c"Empty for the real time. Superusers and loyalty_operator may set it.",
        &CLOCK,
        GucContext::Suset,
        GucFlags::default(),
    );
}

/// Now, in microseconds from 2000-01-01 00:00 UTC: the test clock where it is set, else the
/// machine's clock at this very moment, not the start of the transaction: a call that waited
/// past midnight must not spend what lapsed (law 4).
pub fn now() -> i64 {
    match CLOCK.get() {
        Some(text) if !text.is_empty() => read(&text),
        // SAFETY: reads the clock.
        _ => unsafe { pg_sys::GetCurrentTimestamp() },
    }
}

/// The second day of the year 1, UTC: no place is before Christ then.
const EARLIEST: i64 =
    (1_721_427 - pg_sys::POSTGRES_EPOCH_JDATE as i64) * pg_sys::SECS_PER_DAY as i64 * 1_000_000;

fn refuse(message: &str) -> ! {
    Fault::invalid("clock_invalid", message)
        .field("loyalty.clock")
        .hint("Set it to a time such as '2025-06-15 12:00+09'.")
        .raise()
}

fn read(text: &CStr) -> i64 {
    // SAFETY: a pointer, only compared: a text without an offset is of the session's zone.
    let zone = unsafe { pg_sys::session_timezone } as usize;
    let known = READ.with_borrow(|read| match read {
        Some((known, of, instant)) if known.as_c_str() == text && *of == zone => Some(*instant),
        _ => None,
    });
    known.unwrap_or_else(|| {
        // SAFETY: timestamptz_in takes a C string, an oid that it ignores, and a typmod.
        let instant = to_i64(unsafe {
            pg_sys::OidInputFunctionCall(
                pg_sys::Oid::from(pg_sys::F_TIMESTAMPTZ_IN),
                text.as_ptr().cast_mut(),
                pg_sys::InvalidOid,
                -1,
            )
        });
        if instant == i64::MAX || instant == i64::MIN {
            refuse("loyalty.clock is infinite");
        }
        if instant < EARLIEST {
            refuse("loyalty.clock lies before Christ");
        }
        READ.set(Some((text.to_owned(), zone, instant)));
        instant
    })
}

sql_function!(now = sql_now);
/// `loyalty.now()`
fn sql_now(_: &Call) -> Result<i64> {
    Ok(now())
}
