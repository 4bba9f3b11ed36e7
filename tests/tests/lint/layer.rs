//! A room of `sql/` stands on those below it: what a file refers to is defined in its own folder
//! or in one with a lower number.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// Where an object is defined, and the code that follows its name.
struct Source {
    folder: String,
    file: String,
    text: String,
}

/// The files that the install script is made of, by path.
fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for folder in fs::read_dir(root).with_context(|| root.display().to_string())? {
        let folder = folder?;
        let name = folder.file_name().to_string_lossy().into_owned();
        if !name.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        for file in fs::read_dir(folder.path())? {
            let path = file?.path();
            found.push(Source {
                folder: name.clone(),
                file: path.display().to_string(),
                text: code(&fs::read_to_string(&path)?),
            });
        }
    }
    Ok(found)
}

/// SQL without comments, without string literals and without `comment on`: what is left is run.
/// Bodies between dollars are code.
fn code(sql: &str) -> String {
    let mut left = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(next) = rest.chars().next() {
        if rest.starts_with("--") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if next == '\'' {
            let mut end = 1;
            while let Some(quote) = rest[end..].find('\'') {
                end += quote + 1;
                if !rest[end..].starts_with('\'') {
                    break;
                }
                end += 1;
            }
            left.push_str("''");
            rest = &rest[end..];
        } else if rest.starts_with("comment on ") && (left.is_empty() || left.ends_with('\n')) {
            rest = after_comment(rest);
        } else {
            left.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    left
}

/// What stands behind a `comment on … is 'text';` or `… is $$text$$;`.
fn after_comment(sql: &str) -> &str {
    let text = sql.find(['\'', '$']).unwrap_or(sql.len());
    let mut rest = &sql[text..];
    if let Some(inside) = rest.strip_prefix("$$") {
        rest = inside.find("$$").map_or("", |end| &inside[end + 2..]);
    } else {
        while let Some(inside) = rest.strip_prefix('\'') {
            rest = inside.find('\'').map_or("", |end| &inside[end + 1..]);
        }
    }
    rest.find(';').map_or("", |end| &rest[end + 1..])
}

const SCHEMAS: [&str; 3] = ["loyalty_private.", "loyalty_api.", "loyalty."];

/// Qualified names in code, as `loyalty.grant`.
fn names(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.match_indices("loyalty").filter_map(|(at, _)| {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.') {
            return None;
        }
        let schema = SCHEMAS.iter().find(|name| text[at..].starts_with(**name))?;
        let name = &text[at + schema.len()..];
        let length = name
            .find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
            .unwrap_or(name.len());
        (length > 0).then_some((at, &text[at..at + schema.len() + length]))
    })
}

/// The lowest folder that defines each name. A column of a table is the table's.
fn definitions(sources: &[Source]) -> BTreeMap<String, String> {
    let mut defined: BTreeMap<String, String> = BTreeMap::new();
    for source in sources {
        for (at, name) in names(&source.text) {
            let line = source.text[..at].rfind('\n').map_or(0, |end| end + 1);
            let statement = &source.text[line..at];
            let creates = statement.starts_with("create ")
                && [
                    "function ",
                    "procedure ",
                    "view ",
                    "table ",
                    "type ",
                    "domain ",
                ]
                .iter()
                .any(|kind| statement.ends_with(kind));
            if creates {
                let folder = defined
                    .entry(name.to_owned())
                    .or_insert_with(|| source.folder.clone());
                if source.folder < *folder {
                    folder.clone_from(&source.folder);
                }
            }
        }
    }
    defined
}

fn upward(sources: &[Source]) -> Vec<String> {
    let defined = definitions(sources);
    let mut found: Vec<String> = sources
        .iter()
        .flat_map(|source| {
            let defined = &defined;
            names(&source.text).filter_map(move |(_, name)| {
                let folder = defined.get(name)?;
                (*folder > source.folder)
                    .then(|| format!("{} refers to {name} of {folder}", source.file))
            })
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn rooms_refer_to_lower_ones_only() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sql");
    let sources = sources(&root)?;
    ensure!(
        sources.len() > 40,
        "only {} files in {}",
        sources.len(),
        root.display()
    );
    let found = upward(&sources);
    ensure!(found.is_empty(), "upward references: {found:#?}");
    Ok(())
}

#[test]
fn an_upward_reference_is_found() {
    let source = |folder: &str, text: &str| Source {
        folder: folder.to_owned(),
        file: format!("{folder}/a.sql"),
        text: code(text),
    };
    let low = "create function loyalty.low() returns void\n    language plpgsql\nas $$\nbegin\n    perform loyalty.high(1);\nend\n$$;\n";
    let high = "create function loyalty.high(a integer) returns void\n    language sql\n    return loyalty.low();\n";
    assert_eq!(
        upward(&[source("10_low", low), source("20_high", high)]),
        ["10_low/a.sql refers to loyalty.high of 20_high"]
    );
    // words about it are no reference
    let words = "-- loyalty.high\ncreate function loyalty.low() returns text\n    language sql\n    return 'it''s loyalty.high';\ncomment on function loyalty.low is\n$$See loyalty.high.$$;\ncomment on column loyalty.t.c is 'It''s for loyalty.high.';\n";
    assert!(upward(&[source("10_low", words), source("20_high", high)]).is_empty());
    // code behind them is
    let behind = format!("{words}create view loyalty.seen as select loyalty.high(2);\n");
    assert_eq!(
        upward(&[source("10_low", &behind), source("20_high", high)]).len(),
        1
    );
}
