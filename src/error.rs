//! What callers are told when something cannot be: one enum, mapped once to SQLSTATE,
//! message, DETAIL and HINT (design §5).

use loyalty_core::wallet::Refusal;
use pgrx::pg_sys;
use std::ffi::CString;
use std::os::raw::{c_char, c_int};

/// An error with everything its reader needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub code: Code,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Of LY007 and 55P03: when to come again.
    pub retry_after_seconds: Option<i64>,
}

pub type Result<T> = std::result::Result<T, Fault>;

/// The SQLSTATEs that this extension raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    NotEnough,
    NotFound,
    KeyReused,
    AccountClosed,
    AppendOnly,
    HoldNotOpen,
    Closed,
    TooManyAttempts,
    NotSignedIn,
    NotAllowed,
    InvalidValue,
    NullValue,
    OutOfRange,
    LimitExceeded,
    CheckViolated,
    /// The server lacks what the call needs.
    NotReady,
    /// Another session has locked what is needed.
    Busy,
}

impl Code {
    pub const ALL: [Code; 17] = [
        Code::NotEnough,
        Code::NotFound,
        Code::KeyReused,
        Code::AccountClosed,
        Code::AppendOnly,
        Code::HoldNotOpen,
        Code::Closed,
        Code::TooManyAttempts,
        Code::NotSignedIn,
        Code::NotAllowed,
        Code::InvalidValue,
        Code::NullValue,
        Code::OutOfRange,
        Code::LimitExceeded,
        Code::CheckViolated,
        Code::NotReady,
        Code::Busy,
    ];

    /// The SQLSTATE and, for codes of our own, the HTTP status.
    #[must_use]
    pub const fn sqlstate(self) -> (&'static str, Option<u16>) {
        match self {
            Code::NotEnough => ("LY001", Some(402)),
            Code::NotFound => ("LY002", Some(404)),
            Code::KeyReused => ("LY003", Some(409)),
            Code::AccountClosed => ("LY004", Some(403)),
            Code::AppendOnly => ("LY005", Some(409)),
            Code::HoldNotOpen => ("LY006", Some(409)),
            Code::Closed => ("LY007", Some(503)),
            Code::TooManyAttempts => ("LY008", Some(429)),
            Code::NotSignedIn => ("LY009", Some(401)),
            Code::NotAllowed => ("LY010", Some(403)),
            Code::InvalidValue => ("22023", None),
            Code::NullValue => ("22004", None),
            Code::OutOfRange => ("22003", None),
            Code::LimitExceeded => ("54000", Some(400)),
            Code::CheckViolated => ("23514", None),
            Code::NotReady => ("55000", None),
            Code::Busy => ("55P03", Some(503)),
        }
    }
}

impl Fault {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Fault {
            code,
            message: message.into(),
            detail: None,
            hint: None,
            retry_after_seconds: None,
        }
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Fault::new(Code::InvalidValue, message)
    }

    /// Raises it as a PostgreSQL error. In a PostgREST request a code of our own goes out
    /// with its HTTP status, by PostgREST's own SQLSTATE for that.
    pub fn raise(self) -> ! {
        let (sqlstate, status) = self.code.sqlstate();
        match status {
            Some(status) if in_http_request() => {
                let body = serde_json::json!({
                    "code": sqlstate,
                    "message": self.message,
                    "details": self.detail,
                    "hint": self.hint,
                });
                let headers = match (status, self.retry_after_seconds) {
                    (401, _) => serde_json::json!({ "WWW-Authenticate": "Bearer" }),
                    (_, Some(seconds)) => {
                        serde_json::json!({ "Retry-After": seconds.to_string() })
                    }
                    _ => serde_json::json!({}),
                };
                let meta = serde_json::json!({ "status": status, "headers": headers });
                report("PGRST", &body.to_string(), Some(&meta.to_string()), None)
            }
            _ => report(
                sqlstate,
                &self.message,
                self.detail.as_deref(),
                self.hint.as_deref(),
            ),
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let figures = match refusal {
            Refusal::NotEnough { .. }
            | Refusal::CaptureOverHold { .. }
            | Refusal::OverLimit { .. } => Some(format!("{refusal}.")),
            _ => None,
        };
        let (code, message, hint) = match refusal {
            Refusal::NotEnough { .. } => (
                Code::NotEnough,
                "not enough points",
                "Ask for no more than the available points; loyalty.balance(account_id) tells them.",
            ),
            Refusal::Overflow => (
                Code::OutOfRange,
                "too many points",
                "A balance is a bigint.",
            ),
            Refusal::TooManyLots => (
                Code::LimitExceeded,
                "the account has too many lots",
                "Use an expiry policy that ends with the month, so that grants share lots.",
            ),
            Refusal::TooManyHolds => (
                Code::LimitExceeded,
                "the account has too many open holds",
                "Capture or release some.",
            ),
            Refusal::HoldNotOpen => (
                Code::HoldNotOpen,
                "the hold is no longer open",
                "It was captured or released, or its time is over; place a new one.",
            ),
            Refusal::CaptureOverHold { .. } => (
                Code::InvalidValue,
                "more points than the hold has",
                "Capture no more than was held; spend the rest.",
            ),
            Refusal::OverLimit { .. } => (
                Code::InvalidValue,
                "more points than are left of the operation",
                "Leave points out (null) for all that is left.",
            ),
            Refusal::NothingLeft => (
                Code::InvalidValue,
                "nothing is left to give or take back",
                "All of it was refunded or revoked before.",
            ),
        };
        Fault {
            detail: figures,
            ..Fault::new(code, message).hint(hint)
        }
    }
}

/// PostgREST names the method of the request it is serving in a setting of the transaction.
pub fn in_http_request() -> bool {
    // SAFETY: the name is a C string; a missing setting is a null pointer.
    let method = unsafe { pg_sys::GetConfigOption(c"request.method".as_ptr(), true, false) };
    // SAFETY: PostgreSQL hands out a C string.
    !method.is_null() && unsafe { *method } != 0
}

unsafe extern "C-unwind" {
    fn errcode(sqlerrcode: c_int) -> c_int;
    fn errmsg(fmt: *const c_char, ...) -> c_int;
    fn errdetail(fmt: *const c_char, ...) -> c_int;
    fn errhint(fmt: *const c_char, ...) -> c_int;
    fn errstart(elevel: c_int, domain: *const c_char) -> bool;
    fn errfinish(filename: *const c_char, lineno: c_int, funcname: *const c_char);
}

/// `ereport(ERROR)` with any SQLSTATE: pgrx's own takes PostgreSQL's codes only.
fn report(sqlstate: &str, message: &str, detail: Option<&str>, hint: Option<&str>) -> ! {
    let number = sqlstate.bytes().enumerate().fold(0, |sum, (place, byte)| {
        sum | ((c_int::from(byte) - c_int::from(b'0')) & 0x3f) << (6 * place)
    });
    let c_string = |text: &str| CString::new(text.replace('\0', "")).unwrap_or_default();
    let (message, detail, hint) = (c_string(message), detail.map(c_string), hint.map(c_string));
    // SAFETY: errfinish jumps out of the block; the boundary turns the jump into a panic that
    // runs our destructors and goes on as the same PostgreSQL error at the next boundary.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            if errstart(pgrx::PgLogLevel::ERROR as c_int, std::ptr::null()) {
                errcode(number);
                errmsg(c"%s".as_ptr(), message.as_ptr());
                if let Some(detail) = &detail {
                    errdetail(c"%s".as_ptr(), detail.as_ptr());
                }
                if let Some(hint) = &hint {
                    errhint(c"%s".as_ptr(), hint.as_ptr());
                }
                errfinish(c"".as_ptr(), 0, c"".as_ptr());
            }
        });
    }
    unreachable!("ereport(ERROR) does not return")
}
