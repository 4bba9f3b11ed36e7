//! Upgrades between released versions. `sql/upgrade/` holds one script per version, which leads
//! to it from the one before, and the list `released`, which names the commit of each version;
//! an old version's install script is taken from its commit. `./dev upgrade-script` writes the
//! part of an upgrade script that repeats changed functions, views and comments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};

use crate::os::{plain_command, run};

/// Upgrade scripts and the list of released versions, relative to the repository.
pub const DIR: &str = "sql/upgrade";

const RELEASED: &str = "sql/upgrade/released";

/// A line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub version: String,
    pub commit: String,
}

/// The released versions, oldest first.
pub fn releases(repo: &Path) -> Result<Vec<Release>> {
    let path = repo.join(RELEASED);
    let list =
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    list.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(
            |line| match line.split_whitespace().collect::<Vec<_>>()[..] {
                [version, commit] => Ok(Release {
                    version: version.to_owned(),
                    commit: commit.to_owned(),
                }),
                _ => bail!("{RELEASED} has {line:?}; a line is a version and its commit"),
            },
        )
        .collect()
}

/// The file that leads from one version to the next.
pub fn script_name(from: &str, to: &str) -> String {
    format!("pg_loyalty--{from}--{to}.sql")
}

/// The upgrade scripts, as paths.
pub fn scripts(repo: &Path) -> Result<Vec<PathBuf>> {
    let mut scripts = Vec::new();
    for entry in fs::read_dir(repo.join(DIR))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            scripts.push(path);
        }
    }
    scripts.sort();
    Ok(scripts)
}

/// Whether each version has a script that leads to it from the one before, and those of released
/// versions are as they were. `current`: the version in work.
pub fn check(repo: &Path, current: &str) -> Result<()> {
    let releases = releases(repo)?;
    let mut versions: Vec<&str> = releases.iter().map(|one| one.version.as_str()).collect();
    if versions.last() != Some(&current) {
        versions.push(current);
    }
    let expected: BTreeSet<String> = versions
        .windows(2)
        .map(|pair| script_name(pair[0], pair[1]))
        .collect();
    let found: BTreeSet<String> = scripts(repo)?
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    if found != expected {
        bail!("{DIR} has {found:?}, not {expected:?}");
    }
    for (pair, release) in versions.windows(2).zip(releases.iter().skip(1)) {
        let path = format!("{DIR}/{}", script_name(pair[0], pair[1]));
        let released = Sources::Commit(repo, &release.commit).read(&path)?;
        if Sources::Tree(repo).read(&path)? != released {
            bail!("{path} is released and must not change");
        }
    }
    Ok(())
}

/// Where sources are read from.
#[derive(Clone, Copy, Debug)]
pub enum Sources<'a> {
    /// A working tree.
    Tree(&'a Path),
    /// A commit of a repository.
    Commit(&'a Path, &'a str),
}

impl Sources<'_> {
    /// A file, by its path in the repository.
    pub fn read(&self, path: &str) -> Result<String> {
        match self {
            Self::Tree(root) => fs::read_to_string(root.join(path))
                .with_context(|| format!("{path} cannot be read")),
            Self::Commit(repo, commit) => run(plain_command("git")
                .arg("-C")
                .arg(repo)
                .args(["show", &format!("{commit}:{path}")]))
            .with_context(|| not_at_hand(commit, path)),
        }
    }

    /// What `create extension` runs.
    pub fn install_script(&self) -> Result<String> {
        match self {
            Self::Tree(root) => Ok(loyalty_install::install_script(&root.join("sql"))?),
            Self::Commit(repo, commit) => {
                let tree = ScratchDir::new()?;
                let archive = tree.0.join("sql.tar");
                run(plain_command("git")
                    .arg("-C")
                    .arg(repo)
                    .args(["archive", "--format=tar", "--output"])
                    .arg(&archive)
                    .args([commit, "sql"]))
                .with_context(|| not_at_hand(commit, "sql"))?;
                run(plain_command("tar")
                    .arg("--extract")
                    .arg("--file")
                    .arg(&archive)
                    .arg("--directory")
                    .arg(&tree.0))?;
                Sources::Tree(&tree.0).install_script()
            }
        }
    }
}

fn not_at_hand(commit: &str, path: &str) -> String {
    format!(
        "commit {commit} is not at hand or has no {path}; \
         a shallow clone gets it by: git fetch --unshallow"
    )
}

/// A new directory, removed with this value.
struct ScratchDir(PathBuf);

impl ScratchDir {
    fn new() -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("pg_loyalty-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let _gone_already = fs::remove_dir_all(&self.0);
    }
}

/// What `./dev upgrade-script` prints. `version`: of the newest release, unless given.
pub fn print(repo: &Path, version: Option<&str>) -> Result<()> {
    let releases = releases(repo)?;
    let release = match version {
        Some(version) => releases.iter().find(|release| release.version == version),
        None => releases.last(),
    };
    let Some(release) = release else {
        let known: Vec<&str> = releases.iter().map(|one| one.version.as_str()).collect();
        bail!(
            "{RELEASED} has no such version; it lists: {}",
            known.join(", ")
        );
    };
    let old = Sources::Commit(repo, &release.commit).install_script()?;
    let new = Sources::Tree(repo).install_script()?;
    print!("{}", delta(&old, &new));
    Ok(())
}

/// A statement of a script, without the comments before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// As it is written, up to and with its semicolon.
    pub text: String,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Routine(Routine),
    /// The view of this name.
    View(String),
    /// The comment on this: `function`, `loyalty.balance`, `(`, …
    Comment(Vec<String>),
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routine {
    /// `function` or `procedure`.
    pub kind: String,
    pub name: String,
    arguments: Vec<String>,
    /// From `returns` on, up to its first property.
    result: Vec<String>,
}

impl Routine {
    fn key(&self) -> (String, Vec<String>) {
        (self.name.clone(), self.arguments.clone())
    }

    /// What tells it from others of its name. When it was installed its name alone did, as long
    /// as the others were not there yet.
    fn signature(&self) -> String {
        let (mut signature, mut open, mut is_default) = (self.name.clone(), 0_usize, false);
        for word in &self.arguments {
            match word.as_str() {
                "(" => open += 1,
                ")" => open -= 1,
                _ => {}
            }
            let ends = word == "," && open == 1 || word == ")" && open == 0;
            is_default = !ends && (is_default || word == "default" || word == "=");
            if !is_default {
                let joins = matches!(word.as_str(), "(" | ")" | "[" | "]" | "." | ",");
                if !joins && !signature.ends_with(['(', '.']) {
                    signature.push(' ');
                }
                signature += word;
            }
        }
        signature
    }
}

/// The upgrade script from one install script to another as far as it repeats what the second
/// says: functions, procedures, views and comments that are new or changed, in the order of the
/// second. Everything else that differs is told in comments, to be written by hand.
pub fn delta(old: &str, new: &str) -> String {
    let (old, new) = (statements(old), statements(new));
    let known: BTreeSet<&str> = old.iter().map(|one| one.text.as_str()).collect();
    let wanted: BTreeSet<&str> = new.iter().map(|one| one.text.as_str()).collect();
    let routines: BTreeMap<_, _> = old
        .iter()
        .filter_map(|one| match &one.kind {
            Kind::Routine(routine) => Some((routine.key(), routine)),
            _ => None,
        })
        .collect();
    let views: BTreeSet<&str> = old
        .iter()
        .filter_map(|one| match &one.kind {
            Kind::View(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    let mut script = String::new();
    let mut made = BTreeSet::new();
    let mut latest = BTreeMap::new();
    for statement in &new {
        let text = &statement.text;
        let is_known = known.contains(text.as_str());
        if let Kind::Routine(routine) = &statement.kind {
            latest.insert(routine.name.as_str(), routine);
        }
        match &statement.kind {
            // what is made again has lost its comment
            Kind::Comment(object) if !is_known || object.iter().any(|word| made.contains(word)) => {
                let text = match object.as_slice() {
                    [_, name] if latest.contains_key(name.as_str()) => {
                        text.replacen(name.as_str(), &latest[name.as_str()].signature(), 1)
                    }
                    _ => text.clone(),
                };
                script += &format!("{text}\n\n");
            }
            _ if is_known => {}
            Kind::Routine(routine) => match routines.get(&routine.key()) {
                Some(other) if other.result == routine.result => {
                    script += &format!("{}\n\n", replacing(text));
                }
                other => {
                    if other.is_some() {
                        script += &by_hand("drop it, its result changed", text);
                    }
                    script += &format!("{text}\n");
                    script += &by_hand("its rights", text);
                    script.push('\n');
                    made.insert(routine.name.clone());
                }
            },
            Kind::View(name) if views.contains(name.as_str()) => {
                script += &format!("{}\n\n", replacing(text));
            }
            Kind::View(name) => {
                script += &format!("{text}\n");
                script += &by_hand("its rights", text);
                script.push('\n');
                made.insert(name.clone());
            }
            Kind::Comment(_) => {}
            Kind::Other => script += &by_hand("new or changed", text),
        }
    }
    let kept: BTreeSet<_> = new.iter().filter_map(|one| one.object()).collect();
    for statement in old.iter().filter(|one| !wanted.contains(one.text.as_str())) {
        if statement
            .object()
            .is_none_or(|object| !kept.contains(&object))
        {
            script += &by_hand("gone", &statement.text);
        }
    }
    script
}

impl Statement {
    /// What a later statement about the same replaces.
    fn object(&self) -> Option<Vec<String>> {
        match &self.kind {
            Kind::Routine(routine) => {
                Some([vec![routine.name.clone()], routine.arguments.clone()].concat())
            }
            Kind::View(name) => Some(vec![name.clone()]),
            Kind::Comment(object) => Some([vec!["comment".to_owned()], object.clone()].concat()),
            Kind::Other => None,
        }
    }
}

fn by_hand(why: &str, statement: &str) -> String {
    let first = statement.lines().next().unwrap_or_default();
    format!("-- by hand, {why}: {first}\n")
}

fn replacing(create: &str) -> String {
    let rest = create.trim_start_matches("create").trim_start();
    if rest.starts_with("or replace") {
        return create.to_owned();
    }
    format!("create or replace {rest}")
}

/// The statements of a script.
pub fn statements(script: &str) -> Vec<Statement> {
    let mut statements = Vec::new();
    let (mut start, mut words, mut depth) = (None, Vec::new(), 0_usize);
    let mut reader = Reader { script, at: 0 };
    while let Some((from, token)) = reader.next() {
        let begin = *start.get_or_insert(from);
        let word = token.to_lowercase();
        // bodies of SQL have semicolons of their own
        match word.as_str() {
            "atomic" if words.last().is_some_and(|last| last == "begin") => depth = 1,
            "case" if depth > 0 => depth += 1,
            "end" if depth > 0 => depth -= 1,
            ";" if depth == 0 => {
                statements.push(Statement {
                    text: script[begin..reader.at].to_owned(),
                    kind: kind(&words),
                });
                (start, words) = (None, Vec::new());
                continue;
            }
            _ => {}
        }
        words.push(word);
    }
    statements
}

fn kind(words: &[String]) -> Kind {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match words[..] {
        ["create", "or", "replace", what, ref rest @ ..] | ["create", what, ref rest @ ..] => {
            let (name, rest) = name(rest);
            match what {
                "view" => Kind::View(name),
                "function" | "procedure" => {
                    let close = closing(rest);
                    let (arguments, result) = rest.split_at(close);
                    let is_property = |word: &&str| PROPERTIES.contains(word);
                    let end = result.iter().position(is_property).unwrap_or(result.len());
                    Kind::Routine(Routine {
                        kind: what.to_owned(),
                        name,
                        arguments: own(arguments),
                        result: own(&result[..end]),
                    })
                }
                _ => Kind::Other,
            }
        }
        ["comment", "on", ref object @ ..] => {
            let end = object.iter().position(|word| *word == "is");
            let (what, rest) = (&object[..1], &object[1..end.unwrap_or(object.len())]);
            let (name, rest) = name(rest);
            Kind::Comment([own(what), vec![name], own(rest)].concat())
        }
        _ => Kind::Other,
    }
}

/// What may follow a routine's result.
const PROPERTIES: [&str; 14] = [
    "language",
    "begin",
    "return",
    "as",
    "set",
    "cost",
    "rows",
    "support",
    "immutable",
    "stable",
    "volatile",
    "strict",
    "security",
    "parallel",
];

/// A name with its schema, and what follows.
fn name<'a>(words: &'a [&'a str]) -> (String, &'a [&'a str]) {
    let mut length = 1;
    while words.get(length) == Some(&".") {
        length += 2;
    }
    let length = length.min(words.len());
    (words[..length].concat(), &words[length..])
}

/// The length of what stands in parentheses at the beginning.
fn closing(words: &[&str]) -> usize {
    let mut open = 0_usize;
    for (place, word) in words.iter().enumerate() {
        match *word {
            "(" => open += 1,
            ")" => open = open.saturating_sub(1),
            _ => {}
        }
        if open == 0 {
            return (place + 1).min(words.len());
        }
    }
    words.len()
}

/// Reads SQL token by token: words, quoted texts, single signs.
struct Reader<'a> {
    script: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<(usize, &'a str)> {
        let script = self.script;
        loop {
            let rest = &script[self.at..];
            let first = rest.chars().next()?;
            if first.is_whitespace() {
                self.at += first.len_utf8();
            } else if rest.starts_with("--") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                self.at += rest.find("*/").map_or(rest.len(), |end| end + 2);
            } else {
                break;
            }
        }
        let (from, rest) = (self.at, &script[self.at..]);
        let first = rest.chars().next()?;
        let is_letter = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            'e' | 'E' if rest[1..].starts_with('\'') => 1 + quoted(&rest[1..], true),
            '\'' | '"' => quoted(rest, false),
            '$' => dollar_quoted(rest),
            c if is_letter(c) => rest.find(|c| !is_letter(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        self.at += length;
        Some((from, &rest[..length]))
    }
}

/// The length of a quoted text; a quote in it is doubled, or follows a backslash.
fn quoted(text: &str, with_backslashes: bool) -> usize {
    let quote = text.as_bytes()[0];
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        if with_backslashes && bytes[at] == b'\\' {
            at += 2;
        } else if bytes[at] != quote {
            at += 1;
        } else if bytes.get(at + 1) == Some(&quote) {
            at += 2;
        } else {
            return at + 1;
        }
    }
    bytes.len()
}

/// The length of a text between `$tag$` and `$tag$`; 1 where there is none, as in `$1`.
fn dollar_quoted(text: &str) -> usize {
    let Some(tag) = text[1..].find('$').map(|end| &text[..end + 2]) else {
        return 1;
    };
    let name = &tag[1..tag.len() - 1];
    let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if !is_name {
        return 1;
    }
    let body = &text[tag.len()..];
    body.find(tag)
        .map_or(text.len(), |end| tag.len() + end + tag.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(script: &str) -> Vec<String> {
        statements(script).into_iter().map(|one| one.text).collect()
    }

    #[test]
    fn statements_end_where_postgresql_ends_them() {
        let script = "-- a; comment\nselect ';', $$;$$, $x$ $$; $x$, e'\\';', \"a;b\", 'it''s;';\n\
            create function f() returns int begin atomic select case when true then 1 end; end;\n\
            /* ; */ do $$ begin perform 1; end $$;\nselect $1;";
        let found = texts(script);
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found[1].ends_with("end; end;"), "{found:#?}");
        assert_eq!(found[3], "select $1;");
    }

    #[test]
    fn only_what_changed_is_repeated() {
        let old = "create function s.same() returns int return 1;
            create function s.f(a int) returns int return 1;
            comment on function s.f(int) is 'one';
            create view s.v as select 1;
            create table s.t (a int);";
        let new = "create function s.same() returns int return 1;
            create function s.f(a int) returns int return 2;
            comment on function s.f(int) is 'two';
            create function s.same(a numeric(3, 1) default (1 + 2), b s.t[] = '{,}') returns int return 1;
            comment on function s.same is 'another';
            create view s.v as select 2;
            create table s.t (a int, b int);";
        let old = format!(
            "{old} create function s.same(a numeric(3, 1) default (1 + 2), b s.t[] = '{{,}}') returns int return 1;"
        );
        let expected = "create or replace function s.f(a int) returns int return 2;\n\n\
            comment on function s.f(int) is 'two';\n\n\
            comment on function s.same(a numeric(3, 1), b s.t[]) is 'another';\n\n\
            create or replace view s.v as select 2;\n\n\
            -- by hand, new or changed: create table s.t (a int, b int);\n\
            -- by hand, gone: create table s.t (a int);\n";
        assert_eq!(delta(&old, new), expected);
        assert_eq!(delta(new, new), "");
    }

    #[test]
    fn released_scripts_stay_as_they_are() -> Result<()> {
        let repo = std::env::temp_dir().join(format!("pg_loyalty-upgrade-{}", std::process::id()));
        let git = |arguments: &[&str]| {
            run(plain_command("git")
                .arg("-C")
                .arg(&repo)
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .args(["-c", "user.name=Test", "-c", "user.email=test@example.com"])
                .args(arguments))
        };
        let write = |name: &str, text: &str| fs::write(repo.join(DIR).join(name), text);
        fs::create_dir_all(repo.join(DIR))?;
        git(&["init", "--quiet"])?;
        write("released", "")?;
        check(&repo, "1.0.0")?;
        write("pg_loyalty--1.0.0--1.1.0.sql", "select 1;\n")?;
        git(&["add", "--all"])?;
        git(&["commit", "--quiet", "--message", "1.1.0"])?;
        let commit = git(&["rev-parse", "HEAD"])?;
        write("released", &format!("# two\n1.0.0 {commit}1.1.0 {commit}"))?;
        assert_eq!(releases(&repo)?.len(), 2);
        check(&repo, "1.1.0")?;
        assert!(check(&repo, "1.2.0").is_err(), "no script to 1.2.0");
        write("pg_loyalty--1.1.0--1.2.0.sql", "")?;
        check(&repo, "1.2.0")?;
        assert!(check(&repo, "1.1.0").is_err(), "a script too many");
        write("pg_loyalty--1.0.0--1.1.0.sql", "select 1; \n")?;
        assert!(check(&repo, "1.2.0").is_err(), "one letter more");
        fs::remove_dir_all(&repo)?;
        Ok(())
    }

    #[test]
    fn what_is_made_again_gets_its_comment_again() {
        let old = "create function s.f(a int) returns int language sql return 1;
            comment on function s.f(int) is 'one';
            create function s.gone() returns int return 1;";
        let new = "create function s.f(a int) returns text language sql return '1';
            comment on function s.f(int) is 'one';
            create view s.v as select 1;";
        let expected = "\
            -- by hand, drop it, its result changed: create function s.f(a int) returns text language sql return '1';\n\
            create function s.f(a int) returns text language sql return '1';\n\
            -- by hand, its rights: create function s.f(a int) returns text language sql return '1';\n\n\
            comment on function s.f(int) is 'one';\n\n\
            create view s.v as select 1;\n\
            -- by hand, its rights: create view s.v as select 1;\n\n\
            -- by hand, gone: create function s.gone() returns int return 1;\n";
        assert_eq!(delta(old, new), expected);
    }
}
