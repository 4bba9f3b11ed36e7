//! What the extension has put into a database's catalog, and how two databases differ in it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use tokio_postgres::Client;

/// Properties of the extension's objects: by object, then by property, what it is.
pub type Catalog = BTreeMap<(String, String), Vec<String>>;

/// The catalog of the extension as it is in a database, objects with all their properties and
/// the rows that come with the extension not among them: see [`crate::stored`].
pub async fn catalog(client: &Client) -> Result<Catalog> {
    // every name is told with its schema
    client
        .batch_execute(
            "set search_path = ''; set quote_all_identifiers = off; set datestyle = 'ISO'",
        )
        .await?;
    let mut catalog = Catalog::new();
    for row in client.query(include_str!("catalog.sql"), &[]).await? {
        let value: Option<String> = row.get(2);
        let values: &mut Vec<String> = catalog.entry((row.get(0), row.get(1))).or_default();
        values.push(value.unwrap_or_else(|| "nothing".to_owned()));
        values.sort();
    }
    client.batch_execute("reset search_path").await?;
    ensure!(!catalog.is_empty(), "the extension is not there");
    Ok(catalog)
}

/// What one has and the other has not, or has otherwise; a line each.
pub fn differences(expected: &Catalog, found: &Catalog) -> Vec<String> {
    let mut differences = Vec::new();
    for ((object, property), value) in expected {
        match found.get(&(object.clone(), property.clone())) {
            Some(other) if other == value => {}
            Some(other) => differences.push(format!(
                "{object}: {property}: expected {value:?}, found {other:?}"
            )),
            None => differences.push(format!("{object}: {property}: missing: {value:?}")),
        }
    }
    for ((object, property), value) in found {
        if !expected.contains_key(&(object.clone(), property.clone())) {
            differences.push(format!("{object}: {property}: not expected: {value:?}"));
        }
    }
    differences
}

/// The same without those in how a parsed query is written: PostgreSQL adds a parenthesis or a cast
/// when it reads what it wrote.
pub fn differences_but_wording(expected: &Catalog, found: &Catalog) -> Vec<String> {
    let is_parsed = |line: &str| {
        line.contains(": query: expected")
            || line.contains(": definition: expected") && line.matches("BEGIN ATOMIC").count() == 2
    };
    let mut differences = differences(expected, found);
    differences.retain(|line| !is_parsed(line));
    differences
}
