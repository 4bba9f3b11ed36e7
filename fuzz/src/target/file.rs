//! Files of rosters: an encoding by its name on the first line, then the bytes.

use super::roster;
use loyalty_core::decode::{Unreadable, decode, encoding};

pub fn run(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n');
    let (name, file) = data.split_at(end.unwrap_or(data.len()));
    let Some(encoding) = std::str::from_utf8(name)
        .ok()
        .and_then(|name| encoding(name).ok())
    else {
        return;
    };
    let file = file.get(1..).unwrap_or_default();
    match decode(file, encoding) {
        Ok(text) => roster::read(&text),
        Err(error) => {
            let Unreadable::Undecodable {
                place, ref bytes, ..
            } = error
            else {
                assert!(!error.to_string().is_empty() && !error.hint().is_empty());
                return;
            };
            assert!(place.line >= 1 && place.character >= 1, "{place}");
            assert!(
                place.byte + bytes.len() <= file.len(),
                "{place} of {}",
                file.len()
            );
            assert_eq!(file[place.byte..][..bytes.len()], bytes[..], "{place}");
        }
    }
}
