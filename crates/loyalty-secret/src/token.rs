//! The tokens that PostgREST believes: JWT, HS256.

use crate::key::Key;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Map, Value};

/// Signs claims with a key; the header names it.
pub fn sign(key: &Key, claims: &Map<String, Value>) -> jsonwebtoken::errors::Result<String> {
    let header = Header {
        kid: key.id.clone(),
        ..Header::default()
    };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(&key.bytes))
}

/// The claims of a token that one of the keys signed; none of any other. Whether its time is
/// over is PostgREST's to say.
#[must_use]
pub fn read(keys: &[Key], token: &str) -> Option<Map<String, Value>> {
    let mut rules = Validation::new(Algorithm::HS256);
    rules.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
    rules.required_spec_claims.clear();
    rules.validate_exp = false;
    rules.validate_aud = false;
    keys.iter().find_map(|key| {
        let key = DecodingKey::from_secret(&key.bytes);
        let read = jsonwebtoken::decode::<Map<String, Value>>(token, &key, &rules);
        read.ok().map(|token| token.claims)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{decode, decode_header};

    #[test]
    fn only_its_own_key_verifies_it() {
        let key = Key::new(Some("2026".into()), vec![1; 32]);
        let mut claims = Map::new();
        claims.insert("exp".into(), Value::from(4_000_000_000u64));
        let token = sign(&key, &claims).expect("a token");
        let header = decode_header(&token).expect("a header");
        assert_eq!(
            (header.alg, header.kid.as_deref()),
            (Algorithm::HS256, Some("2026"))
        );
        let read = |secret: &[u8]| {
            decode::<Map<String, Value>>(
                &token,
                &DecodingKey::from_secret(secret),
                &Validation::default(),
            )
        };
        assert_eq!(read(&[1; 32]).expect("verified").claims, claims);
        assert!(read(&[2; 32]).is_err());
    }

    #[test]
    fn tokens_of_any_key_are_read_and_of_others_not() {
        let keys = [1, 2].map(|byte| Key::new(None, vec![byte; 32]));
        let mut claims = Map::new();
        claims.insert("exp".into(), Value::from(1));
        claims.insert("aud".into(), Value::from("somebody"));
        for key in &keys {
            let token = sign(key, &claims).expect("a token");
            assert_eq!(read(&keys, &token).as_ref(), Some(&claims));
        }
        let other = sign(&Key::new(None, vec![3; 32]), &claims).expect("a token");
        let unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJleHAiOjF9.";
        for token in [other.as_str(), unsigned, "", "a.b.c"] {
            assert_eq!(read(&keys, token), None);
        }
    }
}
