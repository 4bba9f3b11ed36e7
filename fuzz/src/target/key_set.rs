//! Key files (JWK sets): every symmetric key is taken or the set refused, and none shows itself.

use super::text_of;
use loyalty_secret::key::read;
use serde_json::Value;

pub fn run(data: &[u8]) {
    let Some(text) = text_of(data) else { return };
    match read(text) {
        Ok(keys) => {
            // members that are of no use here may be what is no JSON value
            let Ok(set) = serde_json::from_str::<Value>(text) else {
                return;
            };
            let symmetric = set["keys"].as_array().map_or(0, |keys| {
                keys.iter().filter(|key| key["kty"] == "oct").count()
            });
            assert_eq!(keys.len(), symmetric);
            for key in &keys {
                assert_eq!(format!("{key:?}"), format!("Key({:?})", key.id));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
