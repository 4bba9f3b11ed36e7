//! No module of the extension's sources uses one that uses it, by any number of steps; nor does a
//! room, which is a folder or file right below src/.

use anyhow::{Context as _, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Of each module its source; `""` is the root.
type Sources = BTreeMap<String, String>;
/// Of each module those it uses.
type Uses = BTreeMap<String, BTreeSet<String>>;

fn read_sources(dir: &Path, module: &str, sources: &mut Sources) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .context("a file without a name")?;
        let below = match (module, name) {
            (_, "lib" | "mod") => module.to_owned(),
            ("", name) => name.to_owned(),
            (module, name) => format!("{module}::{name}"),
        };
        if path.is_dir() {
            read_sources(&path, &below, sources)?;
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            sources.insert(below, fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// Names, and of the signs those that paths are made of, without comments and literals.
fn tokens(source: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r#\"") {
            rest.find("\"#").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|sign| {
                let is_end = sign == '"' && !escaped;
                escaped = sign == '\\' && !escaped;
                is_end
            });
            end.map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest[1..].find('\'').map_or(rest.len(), |end| end + 2)
        } else if first.is_alphabetic() || first == '_' {
            let end = rest.find(|sign: char| !sign.is_alphanumeric() && sign != '_');
            let end = end.unwrap_or(rest.len());
            tokens.push(rest[..end].to_owned());
            end
        } else {
            let sign = if rest.starts_with("::") {
                "::"
            } else {
                &rest[..first.len_utf8()]
            };
            if !sign.trim().is_empty() {
                tokens.push(sign.to_owned());
            }
            sign.len()
        };
        rest = &rest[length..];
    }
    tokens
}

/// The paths of a tree such as `a::{b, c::{d, e as f}}` that begins at `at`, each with the name
/// that it gets; and where the tree ends.
fn paths(
    tokens: &[String],
    mut at: usize,
    prefix: &[String],
) -> (Vec<(Vec<String>, String)>, usize) {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                let mut found = Vec::new();
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    let (below, end) = paths(tokens, at, &path);
                    found.extend(below);
                    // what is no path, such as the sign of a macro, is passed over
                    at = end.max(at + usize::from(end == at));
                    if tokens.get(at).is_some_and(|token| token == ",") {
                        at += 1;
                    }
                }
                return (found, at + 1);
            }
            Some(name) if name.starts_with(|sign: char| sign.is_alphabetic() || sign == '_') => {
                path.push(name.to_owned());
                at += 1;
            }
            Some("*") if !path.is_empty() => at += 1,
            _ => break,
        }
        match tokens.get(at).map(String::as_str) {
            Some("::") => at += 1,
            Some("as") => {
                let name = tokens.get(at + 1).cloned().unwrap_or_default();
                return (vec![(path, name)], at + 2);
            }
            _ => break,
        }
    }
    let name = path.last().cloned().unwrap_or_default();
    (vec![(path, name)], at)
}

/// The module that a path leads into: as much of it as there is.
fn module_of(path: &[String], sources: &Sources) -> Option<String> {
    (1..=path.len())
        .rev()
        .map(|length| path[..length].join("::"))
        .find(|module| sources.contains_key(module))
}

/// What a module's paths stand for, from the root on: those of `crate`, `self` and `super`, and
/// in a `use` those that begin with a module below it.
fn absolute(module: &str, path: &[String], is_use: bool, sources: &Sources) -> Option<Vec<String>> {
    let own: Vec<String> = match module {
        "" => Vec::new(),
        module => module.split("::").map(str::to_owned).collect(),
    };
    let (first, rest) = path.split_first()?;
    let mut base = match first.as_str() {
        "crate" => Vec::new(),
        "self" => own,
        "super" => own[..own.len().saturating_sub(1)].to_vec(),
        name if is_use => {
            let below = [own, vec![name.to_owned()]].concat();
            return sources
                .contains_key(&below.join("::"))
                .then(|| [below, rest.to_vec()].concat());
        }
        _ => return None,
    };
    base.extend(rest.iter().cloned());
    Some(base)
}

fn uses(sources: &Sources) -> Uses {
    // names of the root that are others' by a `use` there
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut found: Uses = BTreeMap::new();
    for (module, source) in sources {
        let tokens = tokens(source);
        let mut used = BTreeSet::new();
        for at in 0..tokens.len() {
            let is_use = at > 0 && tokens[at - 1] == "use";
            let is_path = matches!(tokens[at].as_str(), "crate" | "self" | "super")
                && tokens.get(at + 1).is_some_and(|token| token == "::");
            if !is_use && !is_path {
                continue;
            }
            for (path, name) in paths(&tokens, at, &[]).0 {
                if let Some(path) = absolute(module, &path, is_use, sources) {
                    if module.is_empty() && is_use {
                        names.insert(name, path.clone());
                    }
                    used.insert(path);
                }
            }
        }
        let used = used.into_iter().filter_map(|path| {
            let renamed = path.first().and_then(|first| names.get(first));
            let path = match renamed {
                Some(others) if !module.is_empty() => [others.clone(), path[1..].to_vec()].concat(),
                _ => path,
            };
            module_of(&path, sources).filter(|used| used != module)
        });
        found.insert(module.clone(), used.collect());
    }
    found
}

/// The same between rooms.
fn uses_of_rooms(uses: &Uses) -> Uses {
    let room = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    let mut rooms = Uses::new();
    for (module, used) in uses {
        let own = room(module);
        let others = used
            .iter()
            .map(|used| room(used))
            .filter(|used| *used != own);
        rooms.entry(own.clone()).or_default().extend(others);
    }
    rooms
}

/// A way from a module back to it, if there is one.
fn cycle(uses: &Uses) -> Option<Vec<String>> {
    fn walk<'a>(
        module: &'a str,
        uses: &'a Uses,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> bool {
        if let Some(start) = way.iter().position(|passed| *passed == module) {
            way.drain(..start);
            way.push(module);
            return true;
        }
        if !done.insert(module) {
            return false;
        }
        way.push(module);
        if uses
            .get(module)
            .is_some_and(|used| used.iter().any(|used| walk(used, uses, way, done)))
        {
            return true;
        }
        way.pop();
        false
    }
    let mut done = BTreeSet::new();
    uses.keys().find_map(|module| {
        let mut way = Vec::new();
        walk(module, uses, &mut way, &mut done)
            .then(|| way.into_iter().map(str::to_owned).collect())
    })
}

fn extension() -> Result<Sources> {
    let mut sources = Sources::new();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    read_sources(&dir, "", &mut sources)?;
    Ok(sources)
}

#[test]
fn no_module_uses_one_that_uses_it() -> Result<()> {
    let uses = uses(&extension()?);
    // that the files were found, and read
    for (module, used) in [("ledger::grant", "ledger::operate"), ("program", "pg::spi")] {
        ensure!(
            uses.get(module).is_some_and(|of| of.contains(used)),
            "{module} does not use {used}: {uses:#?}"
        );
    }
    ensure!(cycle(&uses).is_none(), "{:?}", cycle(&uses));
    let rooms = uses_of_rooms(&uses);
    ensure!(cycle(&rooms).is_none(), "rooms: {:?}", cycle(&rooms));
    Ok(())
}

fn planted(sources: &[(&str, &str)]) -> Uses {
    let sources = sources
        .iter()
        .map(|(module, source)| ((*module).to_owned(), (*source).to_owned()))
        .collect();
    uses(&sources)
}

#[test]
fn a_planted_cycle_is_found() {
    for (name, back) in [
        ("a use", "use crate::a::Thing;"),
        ("one of a tree", "use crate::{b, a::{self, Thing}};"),
        ("a path within", "fn f() { crate::a::thing() }"),
        ("from above", "use super::a;"),
        ("with another name", "pub(crate) use crate::a as other;"),
        ("a name of the root", "use crate::alias::Thing;"),
    ] {
        let uses = planted(&[
            ("", "mod a; mod b; mod c; use a as alias;"),
            ("a", "use crate::b::Thing;\nuse std::fmt;"),
            ("b", "use crate::c;"),
            ("c", back),
        ]);
        let found = cycle(&uses).unwrap_or_default();
        assert_eq!(found.len(), 4, "{name}: {uses:?}");
    }
    // and none where there is none
    let uses = planted(&[
        ("", "mod a; mod b; use a::Thing;"),
        (
            "a",
            "// use crate::b;\nconst B: &str = \"use crate::b::Thing;\";",
        ),
        ("b", "use crate::a::{self, Thing as Other};"),
    ]);
    assert_eq!(cycle(&uses), None, "{uses:?}");
}

#[test]
fn a_planted_cycle_of_rooms_is_found() {
    let uses = planted(&[
        ("", "mod a; mod b;"),
        ("a", "mod low; mod high;"),
        ("a::low", ""),
        ("a::high", "use crate::b;"),
        ("b", "use crate::a::low;"),
    ]);
    assert_eq!(cycle(&uses), None);
    assert!(cycle(&uses_of_rooms(&uses)).is_some());
}
