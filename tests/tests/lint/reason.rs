//! Each refusal has a reason word of its own code, and docs/errors.md lists them: all of them, and
//! no others. The sources are read, since many refusals take a fault of the server to see.

use anyhow::{Context as _, Result, ensure};
use loyalty_core::hint::over_http;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Reason to codes with their HTTP status.
type Reasons = BTreeMap<String, BTreeSet<(String, String)>>;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files below a directory whose names end so.
fn files(dir: &str, end: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut dirs = vec![repository().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).context(dir.display().to_string())? {
            let path = entry?.path();
            let name = path.display().to_string();
            if path.is_dir() {
                dirs.push(path);
            } else if name.ends_with(end) && !name.contains("--") {
                found.push((name, std::fs::read_to_string(path)?));
            }
        }
    }
    found.sort();
    ensure!(!found.is_empty(), "no {end} in {dir}");
    Ok(found)
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The arguments of a call in SQL whose parenthesis was just opened.
fn arguments(sql: &str) -> Vec<String> {
    let (mut depth, mut quoted, mut arguments) = (0, false, vec![String::new()]);
    for c in sql.chars() {
        match c {
            '\'' => quoted = !quoted,
            '(' | '[' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => break,
            ')' | ']' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = arguments.last_mut() {
            last.push(c);
        }
    }
    arguments.iter().map(|one| one.trim().to_owned()).collect()
}

/// The literals of an expression in SQL.
fn literals(sql: &str) -> Vec<String> {
    let text = sql.replace("''", "\u{1}");
    let parts = text.split('\'').skip(1).step_by(2);
    parts.map(|part| part.replace('\u{1}', "'")).collect()
}

/// Calls of a function in SQL: where, and the arguments.
fn calls<'a>(name: &'a str, sql: &'a str) -> impl Iterator<Item = (usize, Vec<String>)> + 'a {
    sql.match_indices(name).filter_map(|(at, _)| {
        let is_defined = sql[..at].ends_with("create function ");
        let line = 1 + sql[..at].matches('\n').count();
        let arguments = arguments(&sql[at + name.len()..]);
        let is_signature = arguments.iter().any(|one| one == "text");
        (!is_defined && !is_signature).then_some((line, arguments))
    })
}

/// What follows a pattern in Rust up to the end of the first string literal.
fn string_after(text: &str) -> Option<&str> {
    text.trim_start().strip_prefix('"')?.split('"').next()
}

/// `Code::X => ("LY001", 402)`: the SQLSTATE and status of each code of the shell.
fn codes() -> Result<BTreeMap<String, (String, String)>> {
    let mut codes = BTreeMap::new();
    for (_, text) in files("src", ".rs")? {
        for part in text.split("Code::").skip(1) {
            let Some((name, rest)) = part.split_once(" => (\"") else {
                continue;
            };
            if name.chars().all(char::is_alphanumeric)
                && let Some((state, rest)) = rest.split_once("\", ")
                && let Some((status, _)) = rest.split_once(')')
            {
                codes.insert(name.to_owned(), (state.to_owned(), status.to_owned()));
            }
        }
    }
    ensure!(codes.len() > 15, "codes are written in another way now");
    Ok(codes)
}

/// All reasons that the sources give, and what is wrong with them.
fn reasons() -> Result<(Reasons, Vec<String>)> {
    let codes = codes()?;
    let status: BTreeMap<&String, &String> = codes
        .values()
        .map(|(state, status)| (state, status))
        .rev()
        .collect();
    let (mut reasons, mut wrong) = (Reasons::new(), Vec::new());
    let mut note = |reason: &str, state: &str, status: &str| {
        let known = reasons.entry(reason.to_owned()).or_default();
        known.insert((state.to_owned(), status.to_owned()));
    };
    for (file, text) in files("sql", ".sql")? {
        for name in ["loyalty_private.raise(", "loyalty_private.refuse("] {
            for (line, arguments) in calls(name, &text) {
                let place = format!("{file}:{line}");
                let state = literals(&arguments[0]);
                if state.is_empty() {
                    continue; // passes on what was refused elsewhere
                }
                let given = arguments.get(1).map_or("", String::as_str);
                let words: Vec<String> = match given.strip_prefix("case") {
                    Some(cases) => cases
                        .split("then ")
                        .skip(1)
                        .chain(cases.split("else ").skip(1))
                        .filter_map(|case| literals(case).into_iter().next())
                        .collect(),
                    None => literals(given),
                };
                if words.is_empty() || !words.iter().all(|word| is_word(word)) {
                    wrong.push(format!("{place}: the reason is {given}"));
                }
                let Some(status) = status.get(&state[0]) else {
                    wrong.push(format!("{place}: {} is no code", state[0]));
                    continue;
                };
                for word in words {
                    note(&word, &state[0], status);
                }
            }
        }
        // before loyalty_private.raise is there
        for part in text.split("raise exception").skip(1) {
            let statement = part.split(';').next().unwrap_or_default();
            match statement.split_once("constraint = ") {
                // over HTTP nobody gets there
                Some((_, rest)) if statement.contains("22023") => {
                    note(&literals(rest)[0], "22023", "400");
                }
                Some((_, rest)) => note(&literals(rest)[0], "0A000", ""),
                None => wrong.push(format!("{file}: raise exception{statement}")),
            }
        }
    }
    for (_, text) in files("src", ".rs")? {
        for part in text.split("Code::").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_alphanumeric()).collect();
            let rest = part[name.len()..].strip_prefix(',').unwrap_or_default();
            if let (Some(reason), Some((state, status))) = (string_after(rest), codes.get(&name))
                && is_word(reason)
            {
                note(reason, state, status);
            }
        }
        for part in text.split("Fault::invalid(").skip(1) {
            if let Some(reason) = string_after(part) {
                note(reason, "22023", "400");
            }
        }
    }
    for (_, text) in files("crates", ".rs")? {
        for part in text.split("fn reason(").skip(1) {
            let body = part.split("\n    }").next().unwrap_or_default();
            for case in body.split("=> ").skip(1) {
                note(string_after(case).context("no reason")?, "22023", "400");
            }
        }
    }
    for (reason, codes) in &reasons {
        if !is_word(reason) {
            wrong.push(format!("{reason:?} is no word"));
        }
        if codes.len() > 1 {
            wrong.push(format!("{reason} stands for {codes:?}"));
        }
    }
    Ok((reasons, wrong))
}

#[test]
fn lint_every_refusal_has_a_reason_of_its_own_code() -> Result<()> {
    let (reasons, wrong) = reasons()?;
    ensure!(wrong.is_empty(), "{wrong:#?}");
    ensure!(
        reasons.len() > 150,
        "only {} reasons were found",
        reasons.len()
    );
    Ok(())
}

#[test]
fn lint_the_page_of_errors_lists_all_reasons() -> Result<()> {
    let (reasons, _) = reasons()?;
    let page = std::fs::read_to_string(repository().join("docs/errors.md"))?;
    let mut listed = Reasons::new();
    for line in page.lines() {
        let cells: Vec<&str> = line.split(" | ").collect();
        if let [code, status, reason, _field, meaning, way_out] = cells[..] {
            let plain = |cell: &str| cell.trim_matches(['|', ' ', '`']).to_owned();
            if !code.starts_with("| `") {
                continue;
            }
            ensure!(
                !plain(meaning).is_empty() && !plain(way_out).is_empty(),
                "{line}"
            );
            let twice = listed.insert(plain(reason), [(plain(code), plain(status))].into());
            ensure!(twice.is_none(), "{reason} is listed twice");
        }
    }
    for (reason, codes) in &reasons {
        ensure!(
            listed.get(reason) == Some(codes),
            "{reason} {codes:?} is listed as {:?}",
            listed.get(reason)
        );
    }
    for reason in listed.keys() {
        ensure!(reasons.contains_key(reason), "{reason} is in no source");
    }
    Ok(())
}

/// Endpoints of the API, by the files that make them.
fn endpoints() -> Result<BTreeSet<String>> {
    let mut endpoints = BTreeSet::new();
    for (_, text) in files("sql", ".sql")? {
        for (start, prefix) in [
            ("create view loyalty_api.", "/"),
            ("create function loyalty_api.", "/rpc/"),
        ] {
            for part in text.split(start).skip(1) {
                let name: String = part
                    .chars()
                    .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                    .collect();
                endpoints.insert(format!("{prefix}{name}"));
            }
        }
    }
    Ok(endpoints)
}

/// Hints as the sources have them; those of the shell too.
fn hints() -> Result<Vec<String>> {
    let mut hints = Vec::new();
    for (_, text) in files("sql", ".sql")? {
        for name in ["loyalty_private.raise(", "loyalty_private.refuse("] {
            for (_, arguments) in calls(name, &text) {
                hints.extend(
                    arguments
                        .get(4)
                        .map(|hint| literals(hint))
                        .into_iter()
                        .flatten(),
                );
            }
        }
    }
    for (_, text) in files("src", ".rs")? {
        for part in text.split(".hint(").skip(1) {
            let rest = part.trim_start().trim_start_matches("format!(");
            hints.extend(string_after(rest).map(str::to_owned));
        }
        // in tuples, of refusals of the wallet and states of accounts
        hints.extend(
            text.lines()
                .filter(|line| line.contains("loyalty.") && line.trim_start().starts_with('"'))
                .filter_map(|line| string_after(line).map(str::to_owned)),
        );
    }
    Ok(hints)
}

#[test]
fn lint_hints_over_http_name_endpoints() -> Result<()> {
    let endpoints = endpoints()?;
    let hints = hints()?;
    let named = hints
        .iter()
        .filter(|hint| hint.contains("loyalty."))
        .count();
    ensure!(named > 25, "only {named} hints name functions");
    for hint in hints {
        let told = over_http(&hint).into_owned();
        ensure!(
            !["loyalty.", "select ", " => "]
                .iter()
                .any(|sql| told.contains(sql)),
            "{told}"
        );
        for word in told.split([' ', ',', ';', ':', '(', ')']) {
            let word = word.trim_end_matches('.');
            let is_path = word.starts_with('/') && word.len() > 1 && !word.starts_with("//");
            ensure!(
                !is_path || endpoints.contains(word) || word == "/rpc/…",
                "there is no {word}: {told}"
            );
        }
    }
    Ok(())
}
