//! Keys, read from a JWK set (RFC 7517): the same file that PostgREST's jwt-secret takes.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::Deserialize;

/// Bytes that a key has at least (RFC 7518, 3.2: as many as the hash).
pub const SHORTEST: usize = 32;

/// A symmetric key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    pub id: Option<String>,
    pub(crate) bytes: Vec<u8>,
}

/// Keys never show what they are.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({:?})", self.id)
    }
}

impl Key {
    #[must_use]
    pub fn new(id: Option<String>, bytes: Vec<u8>) -> Self {
        Key { id, bytes }
    }
}

/// Why a set cannot be used. Never says what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKeys {
    #[error("it is no JWK set: {{\"keys\": [{{\"kty\": \"oct\", \"k\": …}}]}}")]
    NotASet,
    #[error("it has no key of kty oct")]
    NoSymmetricKey,
    #[error("k of key {0} is not base64url")]
    NotBase64(usize),
    #[error("key {0} has less than {SHORTEST} bytes")]
    TooShort(usize),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    kty: String,
    kid: Option<String>,
    k: Option<String>,
}

/// The symmetric keys of a set, in its order: the first is the one in use, the others are
/// still believed. Keys of other kinds, those of an outside identity provider, are PostgREST's.
pub fn read(set: &str) -> Result<Vec<Key>, BadKeys> {
    let set: Set = serde_json::from_str(set).map_err(|_| BadKeys::NotASet)?;
    let mut keys = Vec::new();
    for (place, member) in set.keys.into_iter().enumerate() {
        let place = place + 1;
        if member.kty != "oct" {
            continue;
        }
        let encoded = member.k.unwrap_or_default();
        let bytes = Base64UrlUnpadded::decode_vec(encoded.trim_end_matches('='))
            .map_err(|_| BadKeys::NotBase64(place))?;
        if bytes.len() < SHORTEST {
            return Err(BadKeys::TooShort(place));
        }
        keys.push(Key {
            id: member.kid,
            bytes,
        });
    }
    match keys.is_empty() {
        true => Err(BadKeys::NoSymmetricKey),
        false => Ok(keys),
    }
}

/// A set of one new key, as text.
pub fn generate(id: &str) -> Result<String, getrandom::Error> {
    let mut bytes = [0; SHORTEST];
    getrandom::fill(&mut bytes)?;
    Ok(set_of(id, &bytes))
}

/// A set of one key, as text.
#[must_use]
pub fn set_of(id: &str, bytes: &[u8]) -> String {
    let k = Base64UrlUnpadded::encode_string(bytes);
    serde_json::json!({ "keys": [{ "kty": "oct", "use": "sig", "alg": "HS256", "kid": id, "k": k }] })
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_symmetric_key_comes_first() {
        let long = Base64UrlUnpadded::encode_string(&[7; 32]);
        let set = format!(
            r#"{{"keys": [{{"kty": "RSA", "n": "x", "e": "AQAB"}},
                {{"kty": "oct", "kid": "b", "k": "{long}"}}, {{"kty": "oct", "kid": "a", "k": "{long}="}}]}}"#
        );
        let keys = read(&set).expect("keys");
        let ids: Vec<_> = keys.iter().map(|key| key.id.as_deref()).collect();
        assert_eq!(ids, [Some("b"), Some("a")]);
        assert_eq!(keys[0].bytes, [7; 32]);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(read("secret"), Err(BadKeys::NotASet));
        assert_eq!(read(r#"{"keys": []}"#), Err(BadKeys::NoSymmetricKey));
        let short = r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#;
        assert_eq!(read(short), Err(BadKeys::TooShort(1)));
        let odd = r#"{"keys": [{"kty": "oct", "k": "?"}]}"#;
        assert_eq!(read(odd), Err(BadKeys::NotBase64(1)));
    }

    #[test]
    fn a_generated_set_can_be_read_and_is_new() {
        let (one, two) = (
            generate("1").expect("random"),
            generate("1").expect("random"),
        );
        assert_ne!(read(&one), read(&two));
        assert!(read(&one).is_ok());
    }

    #[test]
    fn a_key_does_not_show_itself() {
        assert_eq!(
            format!("{:?}", Key::new(Some("a".into()), vec![65; 32])),
            "Key(Some(\"a\"))"
        );
    }
}
