//! Who asks: the role and claims of a request of PostgREST. Every row that a request reads
//! asks this, so the claims are read once for as long as they stay the same.

use crate::call::sql_function;
use crate::clock;
use crate::error::Result;
use crate::fetch;
use crate::program;
use crate::scan::Sight;
use crate::spi::{Plan, Spi};
use pgrx::pg_sys;
use serde_json::{Map, Value};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};
use std::rc::Rc;

/// What a token says.
#[derive(Default)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// A claim as `->>` has it.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            Value::Null => None,
            Value::String(_) => self.str(name).map(str::to_owned),
            other => Some(other.to_string()),
        }
    }
    /// A claim that is a string; none where no text of PostgreSQL's can be it.
    pub fn str(&self, name: &str) -> Option<&str> {
        let text = self.0.get(name).and_then(Value::as_str);
        text.filter(|text| !text.contains('\0'))
    }
    /// A claim that numbers something of ours.
    pub fn id(&self, name: &str) -> Option<i64> {
        let text = self.text(name)?;
        let plain = (1..=18).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| plain)
    }
}

thread_local! {
    static READ: RefCell<Option<(CString, Rc<Claims>)>> = const { RefCell::new(None) };
    static BELIEVED: Cell<Option<(pg_sys::Oid, bool)>> = const { Cell::new(None) };
}

/// Whether what the session says of a request is so: whoever logged in is PostgREST, or could be
/// anybody anyway. Others may set the same settings to what they like. Asked once for each who
/// logs in, so a right given or taken later counts from the next connection.
fn is_believed() -> bool {
    // SAFETY: looks roles up in the catalog; a missing one is no oid, which only superusers are of.
    unsafe {
        let user = pg_sys::GetSessionUserId();
        match BELIEVED.get() {
            Some((known, is)) if known == user => is,
            _ => {
                let gateway = pg_sys::get_role_oid(c"loyalty_authenticator".as_ptr(), true);
                let is = pg_sys::is_member_of_role(user, gateway);
                BELIEVED.set(Some((user, is)));
                is
            }
        }
    }
}

/// Whether PostgREST logged in: a member of loyalty_authenticator that is no superuser.
pub fn is_gateway() -> bool {
    // SAFETY: reads the session's own user.
    is_believed() && !unsafe { pg_sys::superuser_arg(pg_sys::GetSessionUserId()) }
}

/// A setting; none when it is missing or empty.
pub fn setting(name: &CStr) -> Option<&CStr> {
    // SAFETY: a missing setting is a null pointer, any other a C string, which is read before
    // anything could change it.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null() && *value != 0).then(|| CStr::from_ptr(value))
    }
}

/// The claims of the request's token; none of it without one, or where nobody could have
/// checked one.
pub fn claims() -> Rc<Claims> {
    // '' on a connection that had some before
    let Some(text) = setting(c"request.jwt.claims").filter(|_| is_believed()) else {
        return Rc::default();
    };
    let known = READ.with_borrow(|read| {
        let (known, claims) = read.as_ref()?;
        (known.as_c_str() == text).then(|| Rc::clone(claims))
    });
    known.unwrap_or_else(|| {
        let claims = serde_json::from_slice(text.to_bytes()).unwrap_or_default();
        let claims = Rc::new(Claims(claims));
        READ.set(Some((text.to_owned(), Rc::clone(&claims))));
        claims
    })
}

/// The database role that asks: inside a definer's function the current user is the definer.
pub fn role() -> String {
    let role = setting(c"role").filter(|role| *role != c"none");
    role.map_or_else(session_user, |role| role.to_string_lossy().into_owned())
}

/// Who logged in.
pub fn session_user() -> String {
    // SAFETY: the session has a user; a missing name is a null pointer.
    unsafe {
        let name = pg_sys::GetUserNameFromId(pg_sys::GetSessionUserId(), true);
        match name.is_null() {
            true => "unknown".to_owned(),
            false => CStr::from_ptr(name).to_string_lossy().into_owned(),
        }
    }
}

fn program_id() -> Result<Option<i32>> {
    claims().str("program").map_or(Ok(None), program::id)
}

fn may_operate(role: &str) -> bool {
    let Ok(name) = CString::new(role) else {
        return false;
    };
    // SAFETY: looks roles up in the catalog; a missing one is no oid.
    unsafe {
        let asking = pg_sys::get_role_oid(name.as_ptr(), true);
        let operator = pg_sys::get_role_oid(c"loyalty_operator".as_ptr(), true);
        asking != pg_sys::InvalidOid
            && operator != pg_sys::InvalidOid
            && pg_sys::is_member_of_role(asking, operator)
    }
}

sql_function! {
    /// `loyalty.claim(name)`
    fn claim(call) -> Option<String> {
        Ok(call.text(0).and_then(|name| claims().text(&name)))
    }
}

sql_function! {
    /// `loyalty.claim_account_id()`
    fn claim_account_id(_call) -> Option<i64> {
        Ok(claims().id("account_id"))
    }
}

sql_function! {
    /// `loyalty.claim_program_id()`
    fn claim_program_id(_call) -> Option<i32> {
        program_id()
    }
}

sql_function! {
    /// `loyalty.api_role()`
    fn api_role(_call) -> String {
        Ok(role())
    }
}

sql_function! {
    /// `loyalty.api_may_read(account_id)`
    fn api_may_read(call) -> bool {
        let Some(account_id) = call.i64(0) else {
            return Ok(false);
        };
        let role = role();
        let is_own = match role.as_str() {
            "loyalty_member" | "loyalty_family" => claims().id("account_id") == Some(account_id),
            "loyalty_admin" => true,
            _ => return Ok(may_operate(&role)),
        };
        if !is_own {
            return Ok(false);
        }
        let Some(program_id) = program_id()? else {
            return Ok(false);
        };
        let wallet = fetch::wallet(account_id, Sight::Statement)?;
        Ok(wallet.is_some_and(|wallet| wallet.program_id == program_id))
    }
}

/// Views that members read, beside the functions they call.
const OF_MEMBERS: [&str; 6] = [
    "/balance",
    "/lot",
    "/statement",
    "/member",
    "/notice",
    "/notice_preference",
];

/// Finds the words for a refusal, and looks at all that is not usual.
static LOOK_CLOSER: Plan = Plan::new(c"select loyalty.look_at_request()");

/// Whether a member asks for what they may, in an open program and a session that goes on. It
/// runs before nearly every request, and so reads by index, without the executor.
fn is_usual() -> Result<bool> {
    let role = role();
    // what family may depends on more: api_account looks
    if role != "loyalty_member" {
        return Ok(false);
    }
    let text = |name| {
        setting(name)
            .and_then(|text| text.to_str().ok())
            .unwrap_or("")
    };
    let path = text(c"request.path");
    let fits = match text(c"request.method") {
        "GET" | "HEAD" => OF_MEMBERS.contains(&path),
        // what is to be rolled back must not be an attempt that counts
        "POST" => path.starts_with("/rpc/") && !text(c"request.headers").contains("rollback"),
        _ => false,
    };
    let claims = claims();
    let is_ours = claims.0.get("iss").is_none_or(|issuer| issuer == "loyalty");
    // one never seen in this session is looked up on the longer way
    let program_id = claims.str("program").and_then(program::known_id);
    let (Some(account_id), Some(program_id)) = (claims.id("account_id"), program_id) else {
        return Ok(false);
    };
    if !fits || !is_ours {
        return Ok(false);
    }
    let wallet = fetch::wallet(account_id, Sight::Statement)?;
    Ok(wallet.is_some_and(|wallet| wallet.program_id == program_id)
        && is_open(program_id)?
        && goes_on(&claims, account_id, &role)?)
}

fn is_open(program_id: i32) -> Result<bool> {
    let Some((from, until)) = fetch::closed_hours(program_id)? else {
        return Ok(true);
    };
    let shown = program::get(program_id)?.time_of_day(clock::now());
    let is_closed = match from < until {
        true => (from..until).contains(&shown),
        false => shown >= from || shown < until,
    };
    Ok(!is_closed)
}

/// Of a token without a session, an outside provider's key may be the signer.
fn goes_on(claims: &Claims, account_id: i64, role: &str) -> Result<bool> {
    let Some(session) = claims.text("sid") else {
        return Ok(!fetch::has_identity_provider()?);
    };
    let Some(session) = uuid(&session).map(fetch::session).transpose()?.flatten() else {
        return Ok(false);
    };
    Ok(session.account_id == Some(account_id)
        && session.role == role
        && !session.is_ended
        && session.expires_at > clock::now())
}

/// A uuid as tokens of ours have it.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let hex: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    if text.len() != 36 || hex.len() != 32 {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks(2)) {
        let digit = |at: usize| (pair[at] as char).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(bytes)
}

/// Refuses a request that may not be: before it, as PostgREST's pre-request.
pub fn check() -> Result<()> {
    if !is_usual()? {
        LOOK_CLOSER.run(&Spi::connect(), &[]);
    }
    Ok(())
}
