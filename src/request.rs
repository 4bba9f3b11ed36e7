//! Who asks: the role and claims of a request of PostgREST. Both count only when the request
//! carries a token that a key of ours signed, which is verified here: PostgREST accepts any token
//! that any key of its set signed. Every row that a request reads asks this, so a token is
//! verified once for each transaction.

use crate::clock;
use crate::error::{Code, Fault, Result};
use crate::pg::call::{Call, sql_function};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{Plan, Spi};
use crate::program;
use crate::secret;
use crate::table::{service_hours, session, wallet};
use loyalty_secret::key::Key;
use loyalty_secret::token::{self, Refusal};
use pgrx::pg_sys;
use serde::Deserialize;
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

/// Who is not signed in.
const ANYBODY: &str = "loyalty_anon";

/// Who logged in, as far as requests go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Login {
    /// PostgREST.
    Gateway,
    /// Somebody who may do anything, and may be PostgREST.
    Superuser,
    /// An SQL user, with the rights of their roles.
    Other,
}

/// What the token of a request proves.
enum Proof {
    /// There is no token: anybody asks.
    Anonymous,
    /// A key of ours signed it, its time is not over, and PostgREST took its role and claims.
    Ours(Rc<Claims>),
    /// No key of ours signed it.
    Foreign,
    /// It is refused, or cannot be verified.
    Refused(Fault),
}

impl Proof {
    fn claims(&self) -> Rc<Claims> {
        match self {
            Proof::Ours(claims) => Rc::clone(claims),
            _ => Rc::default(),
        }
    }
}

/// What was found of a request, and what it was found from.
struct Seen {
    /// When the transaction began: the token is good for all of it, or not.
    began: pg_sys::TimestampTz,
    role: pg_sys::Oid,
    role_name: Rc<str>,
    claims: CString,
    headers: CString,
    keys: Option<Rc<Vec<Key>>>,
    proof: Rc<Proof>,
}

thread_local! {
    static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
    static LOGIN: Cell<Option<(pg_sys::Oid, Login)>> = const { Cell::new(None) };
}

/// Looked up once for each who logs in, so a right given or taken later counts from the next
/// connection.
fn login() -> Login {
    // SAFETY: looks roles up in the catalog; a missing one is no oid, which nobody is a member of.
    unsafe {
        let user = pg_sys::GetSessionUserId();
        match LOGIN.get() {
            Some((known, login)) if known == user => login,
            _ => {
                let gateway = pg_sys::get_role_oid(c"loyalty_authenticator".as_ptr(), true);
                let login = if pg_sys::superuser_arg(user) {
                    Login::Superuser
                } else if gateway != pg_sys::InvalidOid && pg_sys::is_member_of_role(user, gateway)
                {
                    Login::Gateway
                } else {
                    Login::Other
                };
                LOGIN.set(Some((user, login)));
                login
            }
        }
    }
}

/// Whether PostgREST logged in: a member of loyalty_authenticator that is no superuser.
pub fn is_gateway() -> bool {
    login() == Login::Gateway
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

/// The role in force, and what the token of the request proves; none where there is no request of
/// PostgREST's.
fn proof() -> Option<(Rc<str>, Rc<Proof>)> {
    let login = login();
    if login == Login::Other {
        return None;
    }
    // '' on a connection that had some before
    let claims = setting(c"request.jwt.claims").unwrap_or_default();
    if login == Login::Superuser && claims.is_empty() {
        return None;
    }
    // SAFETY: both only read what the backend knows of its transaction and user.
    let (began, role) = unsafe {
        (
            pg_sys::GetCurrentTransactionStartTimestamp(),
            pg_sys::GetCurrentRoleId(),
        )
    };
    let known = SEEN.with_borrow(|seen| {
        let seen = seen.as_ref()?;
        let is_same = seen.role == role && seen.claims.as_c_str() == claims;
        // once verified it is so for the transaction; what was not may get its headers later
        let is_verified = seen.began == began && matches!(*seen.proof, Proof::Ours(_));
        (is_same && is_verified).then(|| (Rc::clone(&seen.role_name), Rc::clone(&seen.proof)))
    });
    known.or_else(|| Some(look(claims, began, role)))
}

/// The same for a transaction or a token that is new.
fn look(claims: &CStr, began: pg_sys::TimestampTz, role: pg_sys::Oid) -> (Rc<str>, Rc<Proof>) {
    let headers = setting(c"request.headers").unwrap_or_default();
    let now = began.div_euclid(1_000_000) + SECONDS_BEFORE_2000;
    let keys = secret::token_keys();
    // the same token, verified by the same keys: only time has passed
    let known = SEEN.with_borrow_mut(|seen| {
        let seen = seen.as_mut()?;
        let is_same = seen.role == role
            && seen.claims.as_c_str() == claims
            && seen.headers.as_c_str() == headers;
        let (Proof::Ours(verified), Some(then), Ok(keys)) = (&*seen.proof, &seen.keys, &keys)
        else {
            return None;
        };
        let is_good = token::check_times(&verified.0, now).is_ok();
        if !is_same || !Rc::ptr_eq(then, keys) || !is_good {
            return None;
        }
        seen.began = began;
        Some((Rc::clone(&seen.role_name), Rc::clone(&seen.proof)))
    });
    if let Some(known) = known {
        return known;
    }
    let role_name: Rc<str> = role_in_force().into();
    let proof = match &keys {
        Ok(keys) => prove(&role_name, claims, headers, keys, now),
        Err(fault) => match bearer(headers) {
            Some(_) => Proof::Refused(fault.clone()),
            None => without_token(&role_name, claims),
        },
    };
    let proof = Rc::new(proof);
    SEEN.set(Some(Seen {
        began,
        role,
        role_name: Rc::clone(&role_name),
        claims: claims.to_owned(),
        headers: headers.to_owned(),
        keys: keys.ok(),
        proof: Rc::clone(&proof),
    }));
    (role_name, proof)
}

/// From 1970, where tokens count from, to 2000, where PostgreSQL does.
const SECONDS_BEFORE_2000: i64 = 946_684_800;

/// The token of a request, as PostgREST takes it from the header. Of two headers PostgREST reads
/// the first and shows the last, so what it read is compared as well.
fn bearer(headers: &CStr) -> Option<String> {
    #[derive(Deserialize)]
    struct Headers {
        authorization: Option<String>,
    }
    let headers: Headers = serde_json::from_slice(headers.to_bytes()).ok()?;
    let value = headers.authorization?;
    let (scheme, token) = value.split_once(|c: char| c.is_ascii_whitespace())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

/// Without a token there are no claims but the role that PostgREST has for anybody.
fn without_token(role: &str, claims: &CStr) -> Proof {
    let nothing = claims.is_empty()
        || token::parse(claims.to_bytes())
            .is_some_and(|claims| claims.keys().all(|name| name == "role"));
    match nothing && role == ANYBODY {
        true => Proof::Anonymous,
        false => Proof::Foreign,
    }
}

fn prove(role: &str, claims: &CStr, headers: &CStr, keys: &[Key], now: i64) -> Proof {
    let Some(given) = bearer(headers) else {
        return without_token(role, claims);
    };
    match verify(role, &given, claims, keys, now) {
        Ok(claims) => Proof::Ours(Rc::new(Claims(claims))),
        Err(Refusal::NotOurs) => Proof::Foreign,
        Err(refusal) => Proof::Refused(refused(refusal)),
    }
}

/// The claims of a token of ours that PostgREST accepted for the role in force.
fn verify(
    role: &str,
    given: &str,
    shown: &CStr,
    keys: &[Key],
    now: i64,
) -> std::result::Result<Map<String, Value>, Refusal> {
    let claims = token::verify(keys, given)?;
    token::check_times(&claims, now)?;
    let shown = token::parse(shown.to_bytes()).ok_or(Refusal::Malformed)?;
    let issuer_is_us = claims
        .get("iss")
        .is_none_or(|issuer| issuer.as_str() == Some("loyalty"));
    let of_role = claims.get("role").map_or(Some(ANYBODY), Value::as_str);
    match token::agrees(&claims, &shown) && issuer_is_us && of_role == Some(role) {
        true => Ok(claims),
        false => Err(Refusal::Malformed),
    }
}

fn refused(refusal: Refusal) -> Fault {
    let detail = match refusal {
        Refusal::NotOurs => "No key of this server signed it.",
        Refusal::Malformed => "Its claims are not those of the request, or its issuer is another.",
        Refusal::NoEnd => "It has no end: exp must be a time in whole seconds since 1970.",
        Refusal::Expired => "Its time is over.",
        Refusal::NotYet => "Its time has not come.",
    };
    Fault::new(Code::NotSignedIn, "token_invalid", "the token is not valid")
        .detail(detail)
        .hint("Log in again, or ask for a new token.")
}

/// The claims of the request's token; none without one, and none that was not verified.
pub fn claims() -> Rc<Claims> {
    match proof() {
        Some((_, proof)) => proof.claims(),
        None => Rc::default(),
    }
}

/// The role of a request of PostgREST's; none where there is none.
pub fn role() -> Option<Rc<str>> {
    proof().map(|_| asking().0)
}

/// The database role that asks, and the claims of its token. A request whose token proves nothing
/// has the rights of anybody, whatever role PostgREST took from it.
fn asking() -> (Rc<str>, Rc<Claims>) {
    match proof() {
        Some((role, proof)) if matches!(*proof, Proof::Ours(_)) => (role, proof.claims()),
        Some(_) => (ANYBODY.into(), Rc::default()),
        None => (role_in_force().into(), Rc::default()),
    }
}

/// The database role that was set. Inside a definer's function the current user is the definer,
/// and in a parallel worker the setting `role` is not there.
fn role_in_force() -> String {
    // SAFETY: only reads what the backend knows.
    let role = unsafe { pg_sys::GetCurrentRoleId() };
    match role == pg_sys::InvalidOid {
        true => session_user(),
        false => name_of(role),
    }
}

/// Who logged in.
pub fn session_user() -> String {
    // SAFETY: the session has a user.
    name_of(unsafe { pg_sys::GetSessionUserId() })
}

fn name_of(role: pg_sys::Oid) -> String {
    // SAFETY: a missing name is a null pointer, any other a C string.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        match name.is_null() {
            true => "unknown".to_owned(),
            false => CStr::from_ptr(name).to_string_lossy().into_owned(),
        }
    }
}

fn program_id(claims: &Claims) -> Result<Option<i32>> {
    claims.str("program").map_or(Ok(None), program::id)
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

sql_function!(claim);
/// `loyalty.claim(name)`
fn claim(call: &Call) -> Result<Option<String>> {
    Ok(call.text(0).and_then(|name| claims().text(&name)))
}

sql_function!(claim_account_id);
/// `loyalty.claim_account_id()`
fn claim_account_id(_: &Call) -> Result<Option<i64>> {
    Ok(claims().id("account_id"))
}

sql_function!(claim_program_id);
/// `loyalty.claim_program_id()`
fn claim_program_id(_: &Call) -> Result<Option<i32>> {
    program_id(&claims())
}

sql_function!(api_role);
/// `loyalty_private.api_role()`
fn api_role(_: &Call) -> Result<String> {
    Ok(asking().0.to_string())
}

sql_function!(api_may_read);
/// `loyalty_private.api_may_read(account_id)`
fn api_may_read(call: &Call) -> Result<bool> {
    let Some(account_id) = call.i64(0) else {
        return Ok(false);
    };
    let (role, claims) = asking();
    let is_own = match &*role {
        "loyalty_member" | "loyalty_family" => claims.id("account_id") == Some(account_id),
        "loyalty_admin" => true,
        _ => return Ok(may_operate(&role)),
    };
    if !is_own {
        return Ok(false);
    }
    let Some(program_id) = program_id(&claims)? else {
        return Ok(false);
    };
    let wallet = wallet::wallet(account_id, Snapshot::Active)?;
    Ok(wallet.is_some_and(|wallet| wallet.program_id == program_id))
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
    let (role, claims) = asking();
    // what family may depends on more: api_account looks
    if &*role != "loyalty_member" {
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
    // one never seen in this session is looked up on the longer way
    let program_id = claims.str("program").and_then(program::known_id);
    let (Some(account_id), Some(program_id)) = (claims.id("account_id"), program_id) else {
        return Ok(false);
    };
    if !fits {
        return Ok(false);
    }
    let wallet = wallet::wallet(account_id, Snapshot::Active)?;
    Ok(wallet.is_some_and(|wallet| wallet.program_id == program_id)
        && is_open(program_id)?
        && goes_on(&claims, &role)?)
}

fn is_open(program_id: i32) -> Result<bool> {
    let Some((from, until)) = service_hours::closed_hours(program_id)? else {
        return Ok(true);
    };
    let shown = program::get(program_id)?.time_of_day(clock::now());
    let is_closed = match from < until {
        true => (from..until).contains(&shown),
        false => shown >= from || shown < until,
    };
    Ok(!is_closed)
}

/// Whether the session of a token goes on, and all that the token says is of that session. A tool
/// that has our key makes tokens without one.
fn goes_on(claims: &Claims, role: &str) -> Result<bool> {
    if !claims.0.contains_key("sid") {
        return Ok(true);
    }
    let id = claims.str("sid").and_then(uuid);
    let Some(session) = id.map(session::session).transpose()?.flatten() else {
        return Ok(false);
    };
    let program_id = match claims.0.get("program") {
        None => None,
        // a program that is not there is not one that an operator leaves out
        Some(_) => Some(program_id(claims)?),
    };
    let account_id = claims.0.get("account_id").map(|_| claims.id("account_id"));
    let identity = session.identity_id.map(|id| format!("identity:{id}"));
    Ok(session.role == role
        && claims.str("sub") == identity.as_deref()
        && session.account_id.map(Some) == account_id
        && session.program_id.map(Some) == program_id
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
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(bytes)
}

sql_function!(is_live_session);
/// `loyalty_private.is_live_session()`
fn is_live_session(_: &Call) -> Result<bool> {
    let (role, claims) = asking();
    goes_on(&claims, &role)
}

sql_function!(is_foreign_token);
/// `loyalty_private.is_foreign_token()`
fn is_foreign_token(_: &Call) -> Result<bool> {
    let Some((_, proof)) = proof() else {
        return Ok(false);
    };
    match &*proof {
        Proof::Anonymous | Proof::Ours(_) => Ok(false),
        Proof::Foreign => Ok(true),
        Proof::Refused(fault) => Err(fault.clone()),
    }
}

sql_function!(is_operator);
/// `loyalty.is_operator()`
fn is_operator(_: &Call) -> Result<bool> {
    Ok(may_operate(&asking().0))
}

/// What goes out with every answer: none of them is anybody else's to keep.
const PRIVATE: &CStr = c"[{\"Cache-Control\": \"no-store\"}]";

fn keep_out_of_caches() {
    // SAFETY: a setting of this transaction that anybody may set; PostgREST reads it.
    unsafe {
        pg_sys::set_config_option(
            c"response.headers".as_ptr(),
            PRIVATE.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}

/// Refuses a request that may not be: before it, as PostgREST's pre-request.
pub fn check() -> Result<()> {
    keep_out_of_caches();
    if !is_usual()? {
        LOOK_CLOSER.execute(&Spi::connect(), &[]);
    }
    Ok(())
}
