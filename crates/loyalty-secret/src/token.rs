//! Tokens: JWT (RFC 7519), signed with HMAC (RFC 7518, 3.2). Only the keys of this server sign
//! them, so no other algorithm is needed, and none is linked.

use crate::key::Key;
use base64ct::{Base64UrlUnpadded, Encoding};
use hmac::{EagerHash, Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use sha2::{Sha256, Sha384, Sha512};
use std::fmt;

/// Seconds that the clocks of two machines may differ; as many as PostgREST allows.
pub const LEEWAY: i64 = 30;

/// Why a token proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// None of the keys signed it.
    NotOurs,
    /// A key of ours did, but its claims are no JSON object, or name one twice.
    Malformed,
    /// Its times are no whole seconds, or it has no end.
    NoEnd,
    Expired,
    NotYet,
}

/// Signs claims with a key; the header names it.
#[must_use]
pub fn sign(key: &Key, claims: &Map<String, Value>) -> String {
    let mut header = Map::new();
    header.insert("typ".into(), "JWT".into());
    header.insert("alg".into(), "HS256".into());
    if let Some(id) = &key.id {
        header.insert("kid".into(), id.as_str().into());
    }
    let part = |part: &Map<String, Value>| {
        let text = serde_json::to_vec(part).expect("a map of JSON values is JSON");
        Base64UrlUnpadded::encode_string(&text)
    };
    let signed = format!("{}.{}", part(&header), part(claims));
    let mac = mac::<Sha256>(key, &signed).finalize().into_bytes();
    format!("{signed}.{}", Base64UrlUnpadded::encode_string(&mac))
}

fn mac<H: EagerHash>(key: &Key, signed: &str) -> Hmac<H> {
    let mut mac =
        <Hmac<H> as KeyInit>::new_from_slice(&key.bytes).expect("HMAC takes keys of any length");
    mac.update(signed.as_bytes());
    mac
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    /// Extensions that must be understood, and none is.
    crit: Option<Value>,
}

/// The claims of a token that one of the keys signed. Its times are not looked at.
pub fn verify(keys: &[Key], token: &str) -> Result<Map<String, Value>, Refusal> {
    let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::NotOurs)?;
    let (header, claims) = signed.split_once('.').ok_or(Refusal::NotOurs)?;
    let decoded = |part: &str| Base64UrlUnpadded::decode_vec(part).map_err(|_| Refusal::NotOurs);
    let header: Header = serde_json::from_slice(&decoded(header)?).map_err(|_| Refusal::NotOurs)?;
    let signature = decoded(signature)?;
    let fits = |key: &Key| match header.alg.as_str() {
        "HS256" => mac::<Sha256>(key, signed).verify_slice(&signature).is_ok(),
        "HS384" => mac::<Sha384>(key, signed).verify_slice(&signature).is_ok(),
        "HS512" => mac::<Sha512>(key, signed).verify_slice(&signature).is_ok(),
        _ => false,
    };
    if header.crit.is_some() || !keys.iter().any(fits) {
        return Err(Refusal::NotOurs);
    }
    let claims = Base64UrlUnpadded::decode_vec(claims).map_err(|_| Refusal::Malformed)?;
    parse(&claims).ok_or(Refusal::Malformed)
}

/// Whether a token is good at a time, in seconds since 1970. One without an end never is.
pub fn check_times(claims: &Map<String, Value>, now: i64) -> Result<(), Refusal> {
    let time = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(time) => time.as_i64().map(Some).ok_or(Refusal::NoEnd),
    };
    let end = time("exp")?.ok_or(Refusal::NoEnd)?;
    if now.saturating_sub(LEEWAY) > end {
        return Err(Refusal::Expired);
    }
    for begin in [time("nbf")?, time("iat")?].into_iter().flatten() {
        if begin > now.saturating_add(LEEWAY) {
            return Err(Refusal::NotYet);
        }
    }
    Ok(())
}

/// A JSON object that names nothing twice, at any depth: of two values for a name, readers differ
/// in which they take.
#[must_use]
pub fn parse(json: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice(json) {
        Ok(Strict(Value::Object(object))) => Some(object),
        _ => None,
    }
}

/// Whether the claims that PostgREST read are those of the token. It writes down the role that it
/// took from the token, and its role for anybody where the token has none.
#[must_use]
pub fn agrees(token: &Map<String, Value>, shown: &Map<String, Value>) -> bool {
    let added = usize::from(!token.contains_key("role") && shown.contains_key("role"));
    token.len() + added == shown.len()
        && token
            .iter()
            .all(|(name, value)| shown.get(name).is_some_and(|shown| same(value, shown)))
}

fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || same_float(one, other),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(name, one)| other.get(name).is_some_and(|other| same(one, other)))
        }
        (one, other) => one == other,
    }
}

/// Fractions and powers of ten are written in more than one way, and read to the last bit in more
/// than one. Nothing of ours is named by one.
fn same_float(one: &Number, other: &Number) -> bool {
    let (Some(x), Some(y)) = (one.as_f64(), other.as_f64()) else {
        return false;
    };
    (one.is_f64() || other.is_f64()) && (x - y).abs() <= x.abs() * 1e-12
}

/// A JSON value without repeated names.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON in which no object has a name twice")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, _>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name is there twice"));
            }
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation, decode, encode};
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: i64 = 1_800_000_000;

    fn key(byte: u8) -> Key {
        Key::new(Some(byte.to_string()), vec![byte; 32])
    }
    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }
    fn token(header: &str, claims: &str, key: &Key) -> String {
        let part = |part: &str| Base64UrlUnpadded::encode_string(part.as_bytes());
        let signed = format!("{}.{}", part(header), part(claims));
        let mac = mac::<Sha256>(key, &signed).finalize().into_bytes();
        format!("{signed}.{}", Base64UrlUnpadded::encode_string(&mac))
    }

    /// What we sign another library verifies, and the other way around.
    #[test]
    fn another_library_agrees() {
        let claims = object(json!({"exp": 4_000_000_000u64, "sub": "山田", "n": [1, null]}));
        let signed = sign(&key(1), &claims);
        let header = jsonwebtoken::decode_header(&signed).expect("a header");
        assert_eq!(
            (header.alg, header.kid.as_deref()),
            (Algorithm::HS256, Some("1"))
        );
        let read = |secret: &[u8]| {
            let key = DecodingKey::from_secret(secret);
            decode::<Map<String, Value>>(&signed, &key, &Validation::default())
        };
        assert_eq!(read(&[1; 32]).expect("verified").claims, claims);
        assert!(read(&[2; 32]).is_err());
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let header = jsonwebtoken::Header::new(algorithm);
            let signed =
                encode(&header, &claims, &EncodingKey::from_secret(&[2; 32])).expect("a token");
            assert_eq!(verify(&[key(1), key(2)], &signed), Ok(claims.clone()));
            assert_eq!(verify(&[key(1)], &signed), Err(Refusal::NotOurs));
        }
    }

    #[test]
    fn what_no_key_of_ours_signed_is_not_ours() {
        let claims = object(json!({"exp": 1}));
        let good = sign(&key(1), &claims);
        let (signed, signature) = good.rsplit_once('.').expect("parts");
        let (header, payload) = signed.split_once('.').expect("parts");
        let none = Base64UrlUnpadded::encode_string(br#"{"alg":"none"}"#);
        let public = Base64UrlUnpadded::encode_string(br#"{"alg":"RS256"}"#);
        let bad = [
            sign(&key(2), &claims),
            format!("{none}.{payload}."),
            format!("{none}.{payload}.{signature}"),
            format!("{public}.{payload}.{signature}"),
            format!("{signed}."),
            format!("{signed}.{}", &signature[1..]),
            format!("{good}="),
            format!("{good}.x"),
            format!("{header}.{header}.{signature}"),
            token(r#"{"alg":"HS256","crit":["x"],"x":1}"#, "{}", &key(1)),
            token(r#"{"alg":"HS256","alg":"HS256"}"#, "{}", &key(1)),
            token(r#"{"alg":"hs256"}"#, "{}", &key(1)),
            String::new(),
            "..".to_owned(),
            "a.b.c".to_owned(),
        ];
        for token in bad {
            assert_eq!(verify(&[key(1)], &token), Err(Refusal::NotOurs), "{token}");
        }
        assert_eq!(verify(&[], &good), Err(Refusal::NotOurs));
    }

    #[test]
    fn claims_are_read_strictly() {
        let header = r#"{"alg":"HS256"}"#;
        for claims in [
            "",
            "[]",
            "1",
            r#"{"role":"a","role":"b"}"#,
            r#"{"role":"a","rol\u0065":"b"}"#,
            r#"{"x":[{"a":1,"a":1}]}"#,
            r#"{} {}"#,
        ] {
            let signed = token(header, claims, &key(1));
            assert_eq!(
                verify(&[key(1)], &signed),
                Err(Refusal::Malformed),
                "{claims}"
            );
        }
    }

    #[test]
    fn a_token_has_a_time() {
        let check = |claims: Value| check_times(&object(claims), NOW);
        assert_eq!(
            check(json!({"exp": NOW + 1, "nbf": NOW, "iat": NOW})),
            Ok(())
        );
        // clocks differ
        assert_eq!(
            check(json!({"exp": NOW - LEEWAY, "nbf": NOW + LEEWAY})),
            Ok(())
        );
        assert_eq!(
            check(json!({"exp": NOW - LEEWAY - 1})),
            Err(Refusal::Expired)
        );
        for name in ["nbf", "iat"] {
            let claims = json!({"exp": NOW + 99, name: NOW + LEEWAY + 1});
            assert_eq!(check(claims), Err(Refusal::NotYet));
        }
        for end in [
            json!(null),
            json!("4000000000"),
            json!(4e9),
            json!(u64::MAX),
            json!([NOW]),
        ] {
            assert_eq!(check(json!({"exp": end})), Err(Refusal::NoEnd), "{end}");
        }
        assert_eq!(check(json!({})), Err(Refusal::NoEnd));
        assert_eq!(check(json!({"exp": i64::MIN})), Err(Refusal::Expired));
    }

    #[test]
    fn only_the_role_is_added() {
        let token = object(json!({"exp": 1, "n": 1.5e9, "x": {"a": [1]}}));
        let shown = |value| agrees(&token, &object(value));
        assert!(shown(
            json!({"x": {"a": [1]}, "n": 1_500_000_000, "exp": 1})
        ));
        assert!(shown(
            json!({"exp": 1, "n": 1.5e9, "x": {"a": [1]}, "role": "loyalty_anon"})
        ));
        assert!(!shown(
            json!({"exp": 1, "n": 1.5e9, "x": {"a": [1]}, "sub": "a"})
        ));
        assert!(!shown(json!({"exp": 2, "n": 1.5e9, "x": {"a": [1]}})));
        assert!(!shown(json!({"exp": "1", "n": 1.5e9, "x": {"a": [1]}})));
        assert!(!shown(json!({"exp": 1, "n": 1.5e9, "x": {"a": [2]}})));
        assert!(!shown(json!({"exp": 1, "n": 1.5e9})));
        let role = object(json!({"role": "loyalty_member"}));
        assert!(!agrees(&role, &object(json!({"role": "loyalty_admin"}))));
        assert!(!agrees(&role, &object(json!({}))));
        assert!(!agrees(
            &object(json!({"id": 9_007_199_254_740_993u64})),
            &object(json!({"id": 9_007_199_254_740_992u64}))
        ));
    }

    proptest! {
        #[test]
        fn nothing_panics(token in "[A-Za-z0-9_.=-]{0,80}", json in ".{0,40}") {
            prop_assert_eq!(verify(&[key(1)], &token), Err(Refusal::NotOurs));
            let _ = parse(json.as_bytes());
        }

        /// One character changed anywhere is another token.
        #[test]
        fn a_changed_token_is_not_ours(place in 0usize..100, by in "[A-Za-z0-9_.-]") {
            let good = sign(&key(1), &object(json!({"exp": NOW, "role": "loyalty_member"})));
            let place = place % good.len();
            let changed = format!("{}{by}{}", &good[..place], &good[place + 1..]);
            prop_assume!(changed != good);
            prop_assert!(verify(&[key(1)], &changed).is_err());
        }
    }
}
