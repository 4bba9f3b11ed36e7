//! Passwords: what a program asks of them, and how they are kept (Argon2id, RFC 9106).

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};

/// 19 MiB, two passes, one lane: OWASP's recommendation for Argon2id. Stored with each hash,
/// so that a later change leaves older passwords good.
pub const MEMORY_KIB: u32 = 19 * 1024;
pub const PASSES: u32 = 2;
pub const LANES: u32 = 1;
/// Longer ones would cost more to hash than to send.
pub const LONGEST: usize = 128;

/// A hash of the same cost, of a password that nobody has.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$kzVz9Mfb2sQNVNvReaH9ZA$uNn6iIk6qjv6qZtTCfpP05U8v2/2doMMNhn/8tzzdHA";

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Gives freed memory back to the system. A hash takes 19 MiB: a session must not keep them, and
/// a hash that finds them still there would be quicker than one that does not, which would tell
/// apart who logged in before it.
fn settle_memory() {
    // SAFETY: may be called at any time.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The hash to store, with its salt and cost, as a PHC string.
pub fn hash(password: &str) -> Result<String, argon2::password_hash::Error> {
    let hash = argon2().hash_password(password.as_bytes())?.to_string();
    settle_memory();
    Ok(hash)
}

/// Whether it is the password of the hash. Without a hash it is not, after as much work:
/// an unknown login ID takes as long as a wrong password.
#[must_use]
pub fn verify(password: &str, stored: Option<&str>) -> bool {
    let password = match password.len() {
        0..=LONGEST => password,
        _ => "",
    };
    settle_memory();
    let verified = PasswordHash::new(stored.unwrap_or(NOBODY))
        .is_ok_and(|hash| argon2().verify_password(password.as_bytes(), &hash).is_ok());
    settle_memory();
    verified && stored.is_some() && !password.is_empty()
}

/// What a program asks of passwords (guide C12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub length: usize,
    pub letters: usize,
    pub digits: usize,
    /// Whether ASCII punctuation may be in it.
    pub symbols: bool,
}

/// Why a password cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("the password may have ASCII letters, digits and punctuation only")]
    NotAscii,
    #[error("the password may have ASCII letters and digits only")]
    Symbols,
    #[error("the password needs at least {0} characters")]
    TooShort(usize),
    #[error("the password may have at most {LONGEST} characters")]
    TooLong,
    #[error("the password needs at least {0} letters")]
    FewLetters(usize),
    #[error("the password needs at least {0} digits")]
    FewDigits(usize),
    #[error("the password must not contain the login ID")]
    IsLoginId,
}

impl Flaw {
    /// One word for programs.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Flaw::NotAscii => "password_not_ascii",
            Flaw::Symbols => "password_has_symbols",
            Flaw::TooShort(_) => "password_too_short",
            Flaw::TooLong => "password_too_long",
            Flaw::FewLetters(_) => "password_few_letters",
            Flaw::FewDigits(_) => "password_few_digits",
            Flaw::IsLoginId => "password_contains_login_id",
        }
    }
}

impl Policy {
    /// The first thing that is wrong with a password for a login ID.
    pub fn check(&self, password: &str, login_id: &str) -> Result<(), Flaw> {
        let count = |wanted: fn(&u8) -> bool| password.bytes().filter(wanted).count();
        let login_name = login_id.split('@').next().unwrap_or_default();
        if password.bytes().any(|b| !(b' '..=b'~').contains(&b)) {
            Err(Flaw::NotAscii)
        } else if !self.symbols && password.bytes().any(|b| !b.is_ascii_alphanumeric()) {
            Err(Flaw::Symbols)
        } else if password.len() < self.length.max(1) {
            Err(Flaw::TooShort(self.length.max(1)))
        } else if password.len() > LONGEST {
            Err(Flaw::TooLong)
        } else if count(u8::is_ascii_alphabetic) < self.letters {
            Err(Flaw::FewLetters(self.letters))
        } else if count(u8::is_ascii_digit) < self.digits {
            Err(Flaw::FewDigits(self.digits))
        } else if login_name.len() >= 4
            && password
                .to_ascii_lowercase()
                .contains(&login_name.to_ascii_lowercase())
        {
            Err(Flaw::IsLoginId)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Guide C12: ASCII letters and digits only, three digits and two letters at least.
    const GUIDE: Policy = Policy {
        length: 8,
        letters: 2,
        digits: 3,
        symbols: false,
    };

    #[test]
    fn c12_letters_and_digits_with_minimum_counts() {
        let flaw = |password| GUIDE.check(password, "hanako@example.com").err();
        assert_eq!(flaw("abcde123"), None);
        assert_eq!(flaw("abc123"), Some(Flaw::TooShort(8)));
        assert_eq!(flaw("abcdef12"), Some(Flaw::FewDigits(3)));
        assert_eq!(flaw("a1234567"), Some(Flaw::FewLetters(2)));
        assert_eq!(flaw("abcde-123"), Some(Flaw::Symbols));
        assert_eq!(flaw("あいうえおab123"), Some(Flaw::NotAscii));
        assert_eq!(flaw("xHANAKO123"), Some(Flaw::IsLoginId));
        assert_eq!(flaw(&"a1b2c3d4".repeat(17)), Some(Flaw::TooLong));
        let loose = Policy {
            symbols: true,
            ..GUIDE
        };
        assert_eq!(loose.check("abcde-123", ""), Ok(()));
    }

    #[test]
    fn a_hash_states_its_cost_and_is_salted() {
        let (one, two) = (
            hash("abcde123").expect("hash"),
            hash("abcde123").expect("hash"),
        );
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_ne!(one, two);
        assert!(verify("abcde123", Some(&one)) && verify("abcde123", Some(&two)));
        assert!(!verify("abcde124", Some(&one)) && !verify("abcde123", None) && !verify("", None));
        assert!(!verify("abcde123", Some("no hash")));
        let cost = |phc: &str| phc.rsplitn(3, '$').last().map(str::to_owned);
        assert_eq!(cost(NOBODY), cost(&one));
    }

    proptest! {
        #[test]
        fn what_passes_keeps_every_rule(password in "[ -~]{0,20}") {
            if GUIDE.check(&password, "").is_ok() {
                prop_assert!(password.len() >= 8);
                prop_assert!(password.bytes().all(|b| b.is_ascii_alphanumeric()));
                prop_assert!(password.bytes().filter(u8::is_ascii_digit).count() >= 3);
            }
        }
    }
}
