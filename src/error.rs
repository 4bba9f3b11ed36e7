//! What callers are told when something cannot be: one enum, mapped once to SQLSTATE,
//! reason, field, message, DETAIL and HINT (design §5).

use loyalty_core::hint;
use loyalty_core::wallet::Refusal;
use pgrx::pg_sys;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::ffi::CString;
use std::os::raw::{c_char, c_int};

/// An error with everything its reader needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub code: Code,
    /// One word for programs, listed in docs/errors.md; it belongs to one code only.
    pub reason: Cow<'static, str>,
    /// The argument that it is about, where it is about one.
    pub field: Option<Cow<'static, str>>,
    pub message: Box<str>,
    pub detail: Option<Box<str>>,
    pub hint: Option<Box<str>>,
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
    /// Not a value of its type.
    Malformed,
    BadDateTime,
    DateTimeOverflow,
    /// There is one already.
    Duplicate,
    /// GET of what writes.
    ReadOnly,
    /// A write on a standby.
    Standby,
    /// The tables of the extension are not as it made them.
    Damaged,
    /// The server lacks what the call needs.
    NotReady,
    /// Another session has locked what is needed.
    Busy,
}

impl Code {
    const ALL: [Code; 24] = [
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
        Code::Malformed,
        Code::BadDateTime,
        Code::DateTimeOverflow,
        Code::Duplicate,
        Code::ReadOnly,
        Code::Standby,
        Code::Damaged,
        Code::NotReady,
        Code::Busy,
    ];

    /// The SQLSTATE and the HTTP status.
    #[must_use]
    pub const fn sqlstate(self) -> (&'static str, u16) {
        match self {
            Code::NotEnough => ("LY001", 402),
            Code::NotFound => ("LY002", 404),
            Code::KeyReused => ("LY003", 409),
            Code::AccountClosed => ("LY004", 403),
            Code::AppendOnly => ("LY005", 409),
            Code::HoldNotOpen => ("LY006", 409),
            Code::Closed => ("LY007", 503),
            Code::TooManyAttempts => ("LY008", 429),
            Code::NotSignedIn => ("LY009", 401),
            Code::NotAllowed => ("LY010", 403),
            Code::InvalidValue => ("22023", 400),
            Code::NullValue => ("22004", 400),
            Code::OutOfRange => ("22003", 400),
            Code::LimitExceeded => ("54000", 400),
            Code::CheckViolated => ("23514", 400),
            Code::Malformed => ("22P02", 400),
            Code::BadDateTime => ("22007", 400),
            Code::DateTimeOverflow => ("22008", 400),
            Code::Duplicate => ("23505", 409),
            Code::ReadOnly => ("25006", 405),
            Code::Standby => ("25006", 503),
            Code::Damaged => ("XX001", 500),
            Code::NotReady => ("55000", 500),
            Code::Busy => ("55P03", 503),
        }
    }

    pub fn of_sqlstate(sqlstate: &str) -> Option<Code> {
        let mut all = Code::ALL.into_iter();
        all.find(|code| code.sqlstate().0 == sqlstate)
    }
}

/// What a response with an error has besides its body, for programs: PostgREST's errors have four
/// keys, and others are dropped.
const REASON_HEADER: &str = "Loyalty-Reason";
const FIELD_HEADER: &str = "Loyalty-Field";
/// A browser shows a page of another origin only the headers that are named. PostgREST adds a
/// Retry-After of its own to each 503.
const EXPOSED: &str = "Loyalty-Reason, Loyalty-Field, Retry-After, WWW-Authenticate";

impl Fault {
    pub fn new(
        code: Code,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Fault {
            code,
            reason: reason.into(),
            field: None,
            message: message.into().into(),
            detail: None,
            hint: None,
            retry_after_seconds: None,
        }
    }

    #[must_use]
    pub fn field(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into().into());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into().into());
        self
    }

    pub fn invalid(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Fault::new(Code::InvalidValue, reason, message)
    }

    /// What only a fault of ours, or a hand in our tables, can bring about.
    pub fn damaged(message: impl Into<String>) -> Self {
        Fault::new(Code::Damaged, "data_damaged", message)
            .hint("loyalty.verify() tells what does not hold.")
    }

    /// The response headers of an error over HTTP.
    pub fn headers(&self) -> Map<String, Value> {
        let mut headers = Map::new();
        let mut put = |name: &str, value: &str| {
            headers.insert(name.to_owned(), json!(header_text(value)));
        };
        put(REASON_HEADER, &self.reason);
        if let Some(field) = &self.field {
            put(FIELD_HEADER, field);
        }
        if let Some(seconds) = self.retry_after_seconds {
            put("Retry-After", &seconds.to_string());
        }
        if self.code == Code::NotSignedIn {
            put("WWW-Authenticate", "Bearer");
        }
        // an error takes back what pre_request had set
        put("Cache-Control", "no-store");
        put("Access-Control-Expose-Headers", EXPOSED);
        headers
    }

    /// Raises it as a PostgreSQL error. In a PostgREST request it goes out with its HTTP status
    /// and headers, by PostgREST's own SQLSTATE for that.
    pub fn raise(self) -> ! {
        if in_http_request() {
            self.raise_over_http()
        }
        let hint = self.hint.as_deref();
        let (sqlstate, _) = self.code.sqlstate();
        self.report()
            .send(sqlstate, &self.message, self.detail.as_deref(), hint)
    }

    pub fn raise_over_http(self) -> ! {
        let (sqlstate, status) = self.code.sqlstate();
        let body = json!({
            "code": sqlstate,
            "message": self.message,
            "details": self.detail,
            "hint": self.hint.as_deref().map(hint::over_http),
        });
        let meta = json!({ "status": status, "headers": self.headers() });
        self.report()
            .send("PGRST", &body.to_string(), Some(&meta.to_string()), None)
    }

    fn report(&self) -> Report<'_> {
        Report {
            reason: &self.reason,
            field: self.field.as_deref(),
        }
    }
}

/// A header's value: what is not printable ASCII could not be sent.
fn header_text(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            ' '..='~' => c,
            _ => '?',
        })
        .collect()
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let figures = match refusal {
            Refusal::NotEnough { .. }
            | Refusal::CaptureOverHold { .. }
            | Refusal::OverLimit { .. } => Some(format!("{refusal}.")),
            _ => None,
        };
        let (code, reason, message, hint) = match refusal {
            Refusal::NotEnough { .. } => (
                Code::NotEnough,
                "not_enough_points",
                "not enough points",
                "Ask for no more than the available points; loyalty.balance(account_id) tells them.",
            ),
            Refusal::Overflow => (
                Code::OutOfRange,
                "points_too_many",
                "too many points",
                "A balance is a bigint.",
            ),
            Refusal::TooManyLots => (
                Code::LimitExceeded,
                "too_many_lots",
                "the account has too many lots",
                "Use an expiry policy that ends with the month, so that grants share lots.",
            ),
            Refusal::TooManyHolds => (
                Code::LimitExceeded,
                "too_many_holds",
                "the account has too many open holds",
                "Capture or release some.",
            ),
            Refusal::HoldNotOpen => (
                Code::HoldNotOpen,
                "hold_not_open",
                "the hold is no longer open",
                "It was captured or released, or its time is over; place a new one.",
            ),
            Refusal::CaptureOverHold { .. } => (
                Code::InvalidValue,
                "points_over_hold",
                "more points than the hold has",
                "Capture no more than was held; spend the rest.",
            ),
            Refusal::OverLimit { .. } => (
                Code::InvalidValue,
                "points_over_rest",
                "more points than are left of the operation",
                "Leave points out (null) for all that is left.",
            ),
            Refusal::NothingLeft => (
                Code::InvalidValue,
                "nothing_left",
                "nothing is left of the operation",
                "All of it was refunded or revoked before.",
            ),
        };
        let field = match refusal {
            Refusal::NotEnough { .. }
            | Refusal::Overflow
            | Refusal::CaptureOverHold { .. }
            | Refusal::OverLimit { .. } => "points",
            Refusal::TooManyLots | Refusal::TooManyHolds => "account_id",
            Refusal::HoldNotOpen | Refusal::NothingLeft => "operation_id",
        };
        Fault {
            detail: figures.map(String::into_boxed_str),
            ..Fault::new(code, reason, message).field(field).hint(hint)
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
    fn err_generic_string(field: c_int, text: *const c_char) -> c_int;
    fn errstart(elevel: c_int, domain: *const c_char) -> bool;
    fn errfinish(filename: *const c_char, lineno: c_int, funcname: *const c_char);
}

/// `ereport(ERROR)` with any SQLSTATE: pgrx's own takes PostgreSQL's codes only. Reason and field go
/// into the fields of an error that every driver shows.
struct Report<'a> {
    /// As the constraint's name.
    reason: &'a str,
    /// As the column's name.
    field: Option<&'a str>,
}

impl Report<'_> {
    fn send(&self, sqlstate: &str, message: &str, detail: Option<&str>, hint: Option<&str>) -> ! {
        let number = sqlstate.bytes().enumerate().fold(0, |sum, (place, byte)| {
            sum | ((c_int::from(byte) - c_int::from(b'0')) & 0x3f) << (6 * place)
        });
        let c_string = |text: &str| CString::new(text.replace('\0', "")).unwrap_or_default();
        let (message, detail, hint) = (c_string(message), detail.map(c_string), hint.map(c_string));
        let (reason, field) = (c_string(self.reason), self.field.map(c_string));
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
                    err_generic_string(pg_sys::PG_DIAG_CONSTRAINT_NAME as c_int, reason.as_ptr());
                    if let Some(field) = &field {
                        err_generic_string(pg_sys::PG_DIAG_COLUMN_NAME as c_int, field.as_ptr());
                    }
                    errfinish(c"".as_ptr(), 0, c"".as_ptr());
                }
            });
        }
        unreachable!("ereport(ERROR) does not return")
    }
}
