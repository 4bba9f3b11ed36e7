//! Expiry policies: text → policy → text is stable, and no day comes before the grant.

use super::{chosen_by, day_of};
use loyalty_core::expiry::ExpiryPolicy;

pub fn run(data: &[u8]) {
    let Some((granted_on, text)) = chosen_by::<2>(data) else {
        return;
    };
    let policy = match text.parse::<ExpiryPolicy>() {
        Ok(policy) => policy,
        Err(error) => {
            let characters = text.chars().count();
            assert!(
                (1..=characters + 1).contains(&error.position()),
                "{error} is not in a text of {characters} characters"
            );
            assert!(error.to_string().len() < 2 * text.len() + 200, "{error}");
            return;
        }
    };
    let printed = policy.to_string();
    let again: ExpiryPolicy = printed.parse().expect("what is printed can be read");
    assert_eq!(again, policy);
    assert_eq!(again.to_string(), printed);

    let granted_on = day_of(granted_on);
    match policy.expires_on(granted_on) {
        Ok(Some(day)) => assert!(day >= granted_on, "{printed}: {granted_on} expires {day}"),
        Ok(None) => assert_eq!(policy, ExpiryPolicy::NEVER),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
