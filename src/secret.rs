//! Passwords, codes and tokens: loyalty_secret's, with the keys of this server. The keys lie
//! in files outside of the database, so that no dump and no query has them.

use crate::error::{Code, Fault, Result};
use crate::pg::call::{Answer, Call, sql_function};
use crate::pg::datum;
use loyalty_secret::key::{self, Key};
use loyalty_secret::{keyed, password, token};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

static SECRET_DIR: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Signs tokens and verifies them; PostgREST reads the same file.
const JWT: &str = "jwt.json";
/// Hashes what is looked up, and makes codes.
const PEPPER: &str = "pepper.json";

pub fn init() {
    GucRegistry::define_string_guc(
        c"loyalty.secret_dir",
        c"Directory with the keys: jwt.json and pepper.json, each a JWK set.",
        c"Readable by the server only. Without it nobody can register or log in.",
        &SECRET_DIR,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
}

fn not_ready(detail: String) -> Fault {
    Fault::new(Code::NotReady, "keys_missing", "this server has no keys")
        .detail(detail)
        .hint("See \"Keys\" in docs/operations.md: loyalty.secret_dir names the directory of jwt.json and pepper.json.")
}

/// A file of keys as it was read.
struct Known {
    stamp: [i64; 7],
    /// Whether a later change of the file is sure to change the stamp: clocks of file systems tick
    /// every few milliseconds only.
    is_settled: bool,
    keys: Rc<Vec<Key>>,
}

thread_local! {
    static KNOWN: RefCell<HashMap<PathBuf, Known>> = RefCell::default();
}

/// The keys of a file, the one in use first. Read again when the file has changed, so a rotation
/// needs no restart; the same `Rc` as long as it has not.
fn keys(file: &str) -> Result<Rc<Vec<Key>>> {
    let dir = SECRET_DIR.get().unwrap_or_default();
    let dir = dir.to_str().unwrap_or_default();
    if dir.is_empty() {
        return Err(not_ready("loyalty.secret_dir is not set.".to_owned()));
    }
    let path = Path::new(dir).join(file);
    let unreadable =
        |error: std::io::Error| not_ready(format!("{file} cannot be read: {}.", error.kind()));
    let now = SystemTime::now();
    let about = std::fs::metadata(&path).map_err(unreadable)?;
    let stamp = [
        about.dev().cast_signed(),
        about.ino().cast_signed(),
        about.size().cast_signed(),
        about.mtime(),
        about.mtime_nsec(),
        about.ctime(),
        about.ctime_nsec(),
    ];
    let known = KNOWN.with_borrow(|known| {
        let known = known.get(&path)?;
        (known.is_settled && known.stamp == stamp).then(|| Rc::clone(&known.keys))
    });
    if let Some(keys) = known {
        return Ok(keys);
    }
    let set = std::fs::read_to_string(&path).map_err(unreadable)?;
    let read = key::read(&set).map_err(|error| not_ready(format!("{file}: {error}.")))?;
    let changed =
        SystemTime::UNIX_EPOCH + Duration::from_secs(about.ctime().max(0).cast_unsigned());
    let is_settled = now
        .duration_since(changed)
        .is_ok_and(|age| age > Duration::from_secs(2));
    Ok(KNOWN.with_borrow_mut(|known| {
        let keys = match known.remove(&path) {
            Some(before) if *before.keys == read => before.keys,
            _ => Rc::new(read),
        };
        let now_known = Known {
            stamp,
            is_settled,
            keys: Rc::clone(&keys),
        };
        known.insert(path, now_known);
        keys
    }))
}

/// The keys that tokens of ours are signed with.
pub fn token_keys() -> Result<Rc<Vec<Key>>> {
    keys(JWT)
}

fn current(file: &str) -> Result<Key> {
    let first = keys(file)?.first().cloned();
    first.ok_or_else(|| not_ready(format!("{file} has no key.")))
}

fn no_random(error: &dyn std::fmt::Display) -> Fault {
    not_ready(format!("The system gives no random numbers: {error}."))
}

sql_function!(hash_password);
/// `loyalty_private.hash_password(password)`
fn hash_password(call: &Call) -> Result<String> {
    let password = call.need("password", call.text(0))?;
    password::hash(&password).map_err(|error| no_random(&error))
}

sql_function!(check_password);
/// `loyalty_private.check_password(password, password_hash)`
fn check_password(call: &Call) -> Result<bool> {
    let given = call.text(0).unwrap_or_default();
    Ok(password::verify(&given, call.text(1).as_deref()))
}

sql_function!(check_password_policy);
/// `loyalty_private.check_password_policy(password, login_id, length, letters, digits, symbols)`
fn check_password_policy(call: &Call) -> Result<()> {
    let password = call.need("password", call.text(0))?;
    let least = |index| usize::try_from(call.i32(index).unwrap_or(0)).unwrap_or(0);
    let policy = password::Policy {
        length: least(2),
        letters: least(3),
        digits: least(4),
        symbols: call.datum(5).is_some_and(|datum| datum.value() & 0xff != 0),
    };
    let login_id = call.text(1).unwrap_or_default();
    policy.check(&password, &login_id).map_err(|flaw| {
        let others = if policy.symbols {
            "; ASCII only"
        } else {
            " and nothing else"
        };
        Fault::invalid(flaw.reason(), flaw.to_string())
            .field("password")
            .hint(format!(
                "At least {} characters, with {} letters and {} digits{others}.",
                policy.length, policy.letters, policy.digits
            ))
    })
}

sql_function!(keyed_hashes);
/// `loyalty_private.keyed_hashes(usage, value)`
fn keyed_hashes(call: &Call) -> Result<Answer> {
    let usage = call.need("usage", call.text(0))?;
    let value = call.need("value", call.text(1))?;
    let hashes: Vec<_> = keys(PEPPER)?
        .iter()
        .map(|key| keyed::hash(key, &usage, &value))
        .collect();
    Ok(Answer::Value(datum::array_of_bytes(&hashes)))
}

/// What a code is made of: its use, the value it is for, and its digits; none makes a token.
struct Recipe {
    usage: String,
    value: String,
    digits: u32,
}

impl Recipe {
    fn of(call: &Call) -> Result<Self> {
        Ok(Recipe {
            usage: call.need("usage", call.text(0))?,
            value: call.need("value", call.text(1))?,
            digits: call
                .i32(2)
                .and_then(|digits| u32::try_from(digits).ok())
                .unwrap_or(0),
        })
    }

    fn make(&self, key: &Key) -> String {
        match self.digits {
            0 => keyed::token(key, &self.usage, &self.value),
            digits => keyed::code(key, &self.usage, &self.value, digits),
        }
    }
}

sql_function!(keyed_code);
/// `loyalty_private.keyed_code(usage, value, digits)`
fn keyed_code(call: &Call) -> Result<String> {
    Ok(Recipe::of(call)?.make(&current(PEPPER)?))
}

sql_function!(is_keyed_code);
/// `loyalty_private.is_keyed_code(usage, value, digits, given)`
fn is_keyed_code(call: &Call) -> Result<bool> {
    let given = call.text(3).unwrap_or_default();
    let recipe = Recipe::of(call)?;
    Ok(keyed::matches(&keys(PEPPER)?, &given, |key| {
        recipe.make(key)
    }))
}

sql_function!(random_token);
/// `loyalty_private.random_token()`
fn random_token(_: &Call) -> Result<String> {
    keyed::random().map_err(|error| no_random(&error))
}

sql_function!(sign_token);
/// `loyalty_private.sign_token(claims)`
fn sign_token(call: &Call) -> Result<String> {
    let claims = call.need("claims", call.text(0))?;
    let claims: Map<String, Value> = serde_json::from_str(&claims).map_err(|_| {
        Fault::invalid("claims_invalid", "claims must be a JSON object").field("claims")
    })?;
    Ok(token::sign(&current(JWT)?, &claims))
}
