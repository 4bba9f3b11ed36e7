//! Tokens and codes: whatever is accepted was signed with one of our keys, as a computation of
//! its own says.

use super::chosen_by;
use hmac::Hmac;
use loyalty_secret::key::{self, Key};
use loyalty_secret::{keyed, token};
use serde_json::{Map, Value};
use sha2::{Sha256, Sha384, Sha512};
use std::sync::LazyLock;

const SECRETS: [[u8; 32]; 2] = [[1; 32], [2; 32]];
static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let keys = SECRETS
        .iter()
        .flat_map(|secret| key::read(&key::set_of("k", secret)));
    keys.flatten().collect()
});

pub fn run(data: &[u8]) {
    let Some(([how, which, place, byte], text)) = chosen_by::<4>(data) else {
        return;
    };
    let keys = KEYS.as_slice();
    let key = &keys[usize::from(which) % keys.len()];
    let given = match how % 4 {
        0 => text.to_owned(),
        // a token of ours, with one byte put in another's place
        1 => {
            let Ok(claims) = serde_json::from_str::<Map<String, Value>>(text) else {
                return;
            };
            let signed = token::sign(key, &claims);
            assert!(token::verify(keys, &signed).is_ok());
            let mut bytes = signed.into_bytes();
            let place = usize::from(place) * bytes.len() / 256;
            bytes[place] = byte;
            match String::from_utf8(bytes) {
                Ok(changed) => changed,
                Err(_) => return,
            }
        }
        // a token with a header and claims of anybody's making, signed by us or not
        2 => signed_by_hand(text, &SECRETS[usize::from(which) % 2], place),
        _ => return codes(key, text, place),
    };
    if token::verify(keys, &given).is_ok() {
        assert!(is_ours(&given), "{given} was accepted");
    }
}

fn encode(bytes: &[u8]) -> String {
    let set = key::set_of("", bytes);
    let set: Value = serde_json::from_str(&set).expect("a set");
    set["keys"][0]["k"].as_str().expect("a key").to_owned()
}

fn signed_by_hand(text: &str, secret: &[u8], place: u8) -> String {
    let (header, claims) = text.split_once('\n').unwrap_or((text, "{}"));
    let message = format!(
        "{}.{}",
        encode(header.as_bytes()),
        encode(claims.as_bytes())
    );
    let signature = match place % 4 {
        0 => mac::<Hmac<Sha256>>(secret, &message),
        1 => mac::<Hmac<Sha384>>(secret, &message),
        2 => mac::<Hmac<Sha512>>(secret, &message),
        _ => Vec::new(),
    };
    format!("{message}.{}", encode(&signature))
}

fn mac<M: hmac::Mac + hmac::KeyInit>(secret: &[u8], message: &str) -> Vec<u8> {
    let mut mac = <M as hmac::KeyInit>::new_from_slice(secret).expect("a key of any length");
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn is_ours(token: &str) -> bool {
    let Some((message, signature)) = token.rsplit_once('.') else {
        return false;
    };
    SECRETS.iter().any(|secret| {
        [
            mac::<Hmac<Sha256>>(secret, message),
            mac::<Hmac<Sha384>>(secret, message),
            mac::<Hmac<Sha512>>(secret, message),
        ]
        .iter()
        .any(|made| encode(made) == signature)
    })
}

/// A code is right when it is the one made, and only then.
fn codes(key: &Key, text: &str, digits: u8) {
    let (value, given) = text.split_once('\n').unwrap_or((text, ""));
    let digits = u32::from(digits);
    let code = keyed::code(key, "code", value, digits);
    assert_eq!(code.len(), digits.clamp(1, 18) as usize);
    let made = |key: &Key| keyed::code(key, "code", value, digits);
    assert!(keyed::matches(&KEYS, &code, made));
    let ours = KEYS.iter().any(|key| made(key) == given);
    assert_eq!(keyed::matches(&KEYS, given, made), ours);
}
