//! Passwords as a program asks for them; hashing them is argon2's, and too slow for this.

use super::{chosen_by, line_and_rest};
use loyalty_secret::password::Policy;

pub fn run(data: &[u8]) {
    let Some(([length, letters, digits, symbols], text)) = chosen_by::<4>(data) else {
        return;
    };
    let (login_id, password) = line_and_rest(text);
    let policy = Policy {
        length: usize::from(length),
        letters: usize::from(letters),
        digits: usize::from(digits),
        symbols: symbols & 1 == 1,
    };
    match policy.check(password, login_id) {
        Ok(()) => {
            assert!(password.is_ascii() && !password.contains(|c: char| c.is_ascii_control()));
            assert!(password.len() >= policy.length.max(1));
            let counted = |wanted: fn(&char) -> bool| password.chars().filter(wanted).count();
            assert!(counted(char::is_ascii_alphabetic) >= policy.letters);
            assert!(counted(char::is_ascii_digit) >= policy.digits);
            assert!(policy.symbols || password.chars().all(|c| c.is_ascii_alphanumeric()));
            assert!(login_id.len() < 4 || password != login_id);
        }
        Err(flaw) => assert!(!flaw.to_string().is_empty()),
    }
}
