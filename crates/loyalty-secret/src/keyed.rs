//! Keyed hashes (HMAC-SHA256). What people are sent, and what they send back, is never
//! stored: a code or token is made of a number and the key when it is needed, and a value to
//! be found again is kept as its hash. A dump without the key tells nothing.

use crate::key::Key;
use base64ct::{Base64UrlUnpadded, Encoding};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

/// The hash of a value, apart for each use.
#[must_use]
pub fn hash(key: &Key, usage: &str, value: &str) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&key.bytes)
        .expect("HMAC takes keys of any length");
    mac.update(&(usage.len() as u64).to_be_bytes());
    mac.update(usage.as_bytes());
    mac.update(value.as_bytes());
    mac.finalize().into_bytes().into()
}

/// A number of so many digits, for people to type.
#[must_use]
pub fn code(key: &Key, usage: &str, value: &str, digits: u32) -> String {
    let hash = hash(key, usage, value);
    let (head, _) = hash.split_at(16);
    let number = head
        .iter()
        .fold(0u128, |sum, byte| sum << 8 | u128::from(*byte));
    // 128 bits over at most 10^18: no digit is likelier than another by a measurable bit
    let digits = digits.clamp(1, 18);
    format!(
        "{:0width$}",
        number % 10u128.pow(digits),
        width = digits as usize
    )
}

/// A token for links: as hard to guess as the key.
#[must_use]
pub fn token(key: &Key, usage: &str, value: &str) -> String {
    Base64UrlUnpadded::encode_string(&hash(key, usage, value))
}

/// Whether what was given is what one of the keys makes; each is compared, in constant time.
#[must_use]
pub fn matches(keys: &[Key], given: &str, made: impl Fn(&Key) -> String) -> bool {
    keys.iter()
        .fold(Choice::from(0), |found, key| {
            found | made(key).as_bytes().ct_eq(given.as_bytes())
        })
        .into()
}

/// 256 random bits, for links and refresh tokens.
pub fn random() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(Base64UrlUnpadded::encode_string(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(byte: u8) -> Key {
        Key::new(None, vec![byte; 32])
    }

    /// Computed with another library: HMAC-SHA256 of `\0\0\0\0\0\0\0\x01av`.
    #[test]
    fn it_is_hmac_sha256_of_the_use_and_the_value() {
        let hex: String = hash(&key(1), "a", "v")
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(
            hex,
            "e33563ff8254a1bed365a2f935415960a0818d1c94dfe13658f71d5d7e88f707"
        );
    }

    #[test]
    fn another_use_key_or_value_is_another_hash() {
        let all = [
            hash(&key(1), "a", "bc"),
            hash(&key(1), "ab", "c"),
            hash(&key(2), "a", "bc"),
            hash(&key(1), "a", "bd"),
        ];
        for (place, one) in all.iter().enumerate() {
            assert!(all.iter().skip(place + 1).all(|other| other != one));
        }
    }

    proptest! {
        #[test]
        fn codes_have_their_digits(value in ".*", digits in 4u32..=8) {
            let code = code(&key(3), "code", &value, digits);
            prop_assert_eq!(code.len(), digits as usize);
            prop_assert!(code.bytes().all(|b| b.is_ascii_digit()));
        }

        #[test]
        fn a_code_of_an_older_key_is_still_right(value in "[a-f0-9-]{36}") {
            let keys = [key(2), key(1)];
            let old = code(&keys[1], "code", &value, 6);
            let made = |key: &Key| code(key, "code", &value, 6);
            prop_assert!(matches(&keys, &old, made));
            prop_assert!(!matches(&keys, "12345", made));
            prop_assert!(!matches(&keys, "", made));
        }
    }

    #[test]
    fn random_ones_differ() {
        let one = random().expect("random");
        assert_ne!(one, random().expect("random"));
        assert_eq!(one.len(), 43);
    }
}
