//! What templates are tried with: every variable that a kind of notice has, and every way in
//! which those that may be missing can be. The kinds themselves are rows of the database.

use serde_json::Value;

/// Groups of variables that may be missing; each more doubles the work of a check.
pub const MOST_OPTIONAL: usize = 8;

/// An example for the texts of one kind of notice.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    full: Value,
    optional: Vec<Vec<String>>,
}

impl Example {
    /// `optional`: groups of names with dots, such as `member.name`, that are missing together.
    /// Those after the first [`MOST_OPTIONAL`] are taken to be always there.
    #[must_use]
    pub fn new(full: Value, mut optional: Vec<Vec<String>>) -> Self {
        optional.truncate(MOST_OPTIONAL);
        Example { full, optional }
    }

    /// Nothing missing.
    #[must_use]
    pub fn full(&self) -> &Value {
        &self.full
    }

    /// The full example first, then each combination of missing variables.
    #[must_use]
    pub fn every(&self) -> Vec<Value> {
        (0..1usize << self.optional.len())
            .map(|missing| {
                let mut example = self.full.clone();
                for (place, together) in self.optional.iter().enumerate() {
                    if missing >> place & 1 == 1 {
                        together
                            .iter()
                            .for_each(|path| set_null(&mut example, path));
                    }
                }
                example
            })
            .collect()
    }
}

fn set_null(example: &mut Value, path: &str) {
    let pointer = format!("/{}", path.replace('.', "/"));
    if let Some(value) = example.pointer_mut(&pointer) {
        *value = Value::Null;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_group_is_there_or_missing_whole() {
        let group = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let example = Example::new(
            json!({ "member": { "name": "A" }, "day": 1, "points": 2 }),
            vec![
                group(&["member.name"]),
                group(&["day", "points"]),
                group(&["absent.name"]),
            ],
        );
        let every = example.every();
        assert_eq!(every.len(), 8);
        assert_eq!(&every[0], example.full());
        assert_eq!(
            every[1],
            json!({ "member": { "name": null }, "day": 1, "points": 2 })
        );
        assert_eq!(
            every[2],
            json!({ "member": { "name": "A" }, "day": null, "points": null })
        );
        assert_eq!(
            every[7],
            json!({ "member": { "name": null }, "day": null, "points": null })
        );
    }
}
