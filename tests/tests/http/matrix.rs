//! The permission matrix: every role on every table, view, sequence, function and setting, from
//! the catalog, and each cell tried. `matrix.txt` next to this file says what is expected; a
//! new object is not in it, and so fails here until somebody has thought about who may do what:
//!
//! `LOYALTY_MATRIX_WRITE=1 ./dev test matrix` writes it anew; read the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use loyalty_tests::rows;

use crate::roles::{Outcome, Subject, World, one};

const HEAD: &str = "\
# Who may do what. Written by: LOYALTY_MATRIX_WRITE=1 ./dev test matrix
#
#   N  nobody signed in (loyalty_anon)     1  administrator of program 1
#   A  member A of program 1               2  administrator of program 2
#   B  member B of program 1               O  operator
#   F  family of member A                  R  relay
#   G  granter of program 1                T  authenticator, before it becomes another
#
# Functions: x may be called, . may be called and refuses the role, - refused, ! refused by what it needs.
# Whose account or program a call may be about is another test of matrix.rs.
#
# Tables and views: whose rows are seen, then what may be written.
#   a, b: of members A and B   f: of A's family   1, 2: of programs 1 and 2   *: of no program
#   0: none   -: refused   !: refused by what it needs   +i, +u, +d: insert, update (maybe some columns only), delete
# Sequences and settings: u may be used or set, r read.
";

struct Relation {
    name: String,
    is_view: bool,
    /// Whose a row is.
    owner: String,
    /// Whether members or programs have rows of their own in it.
    has_owners: bool,
    /// A column that can be set to itself.
    settable: String,
}

impl World {
    async fn relations(&self) -> Result<Vec<Relation>> {
        let found = self
            .sql
            .query(
                "select c.oid::regclass::text, c.relkind::text,
                        (select array_agg(a.attname::text order by a.attnum) from pg_attribute a
                          where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
                        (select quote_ident(a.attname) from pg_attribute a
                          where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                            and a.attidentity = '' and a.attgenerated = '' order by a.attnum limit 1)
                   from pg_class c
                  where c.relnamespace in ('loyalty'::regnamespace, 'loyalty_api'::regnamespace, 'loyalty_private'::regnamespace)
                    and c.relkind in ('r', 'p', 'v', 'm', 'f')
                  order by c.oid::regclass::text collate \"C\"",
                &[],
            )
            .await?;
        Ok(found
            .iter()
            .map(|row| {
                let kind: String = row.get(1);
                let columns: Vec<String> = row.get(2);
                let has = |name: &str| columns.iter().any(|column| column == name);
                let mut owners = Vec::new();
                if has("account_id") {
                    owners.push(format!("case account_id {} end", self.accounts));
                }
                if has("identity_id") {
                    owners.push(format!("case identity_id {} end", self.identities));
                }
                if has("program_id") {
                    owners.push(format!("case program_id {} end", self.programs));
                }
                if has("program") {
                    owners.push(
                        "case program when 'coin' then '1' when 'mile' then '2' end".to_owned(),
                    );
                }
                let has_owners = !owners.is_empty();
                owners.push("'*'".to_owned());
                Relation {
                    name: row.get(0),
                    is_view: kind == "v",
                    owner: format!("coalesce({})", owners.join(", ")),
                    has_owners,
                    settable: row.get(3),
                }
            })
            .collect())
    }

    /// What a subject sees of a relation and may write to it.
    async fn cell(&self, relation: &Relation, subject: &Subject) -> Result<String> {
        let Relation { name, .. } = relation;
        let may = async |privilege: &str, column: bool| {
            let test = if column {
                "has_any_column_privilege"
            } else {
                "has_table_privilege"
            };
            self.holds(&format!(
                "{test}('{role}', '{name}', '{privilege}') and has_schema_privilege('{role}', split_part('{name}', '.', 1), 'usage')",
                role = subject.role
            ))
            .await
        };
        let letters = format!(
            "select coalesce(string_agg(distinct q.letter, '' order by q.letter), '0')
               from (select {} as letter from {name}) q",
            relation.owner
        );
        let Outcome { code, seen, .. } = subject.asks(&letters).await?;
        let mut cell = match (may("select", false).await?, code.as_str()) {
            (true, "00000") => seen,
            (true, "42501") => "!".to_owned(),
            (false, "42501") => "-".to_owned(),
            (may, code) => anyhow::bail!("{} reads {name}: may {may}, got {code}", subject.role),
        };
        let mut writes = String::new();
        for (letter, privilege, column, statement) in [
            (
                'i',
                "insert",
                true,
                format!("insert into {name} default values"),
            ),
            (
                'u',
                "update",
                true,
                format!("update {name} set {0} = {0} where false", relation.settable),
            ),
            (
                'd',
                "delete",
                false,
                format!("delete from {name} where false"),
            ),
            ('t', "truncate", false, format!("truncate {name}")),
        ] {
            let allowed = may(privilege, column).await?;
            let code = subject.tries(&statement).await?;
            let as_said = match (allowed, code.as_str()) {
                (true, code) => code != "42501" || letter == 'u',
                (false, "42501") => true,
                // a view that cannot be written at all is found out before rights are
                (false, "55000" | "42809" | "0A000") => relation.is_view,
                (false, _) => false,
            };
            ensure!(
                as_said,
                "{}: {statement}: may {allowed}, got {code}",
                subject.role
            );
            if allowed {
                writes.push(letter);
            }
        }
        for privilege in ["references", "trigger"] {
            ensure!(
                !may(privilege, false).await?,
                "{} has {privilege} on {name}",
                subject.role
            );
        }
        if !writes.is_empty() {
            write!(cell, "+{writes}")?;
        }
        Ok(cell)
    }

    async fn relation_lines(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for relation in self.relations().await? {
            let there = one(
                &self.sql,
                &format!(
                    "select coalesce(string_agg(distinct q.letter, '' order by q.letter), '0')
                       from (select {} as letter from {}) q",
                    relation.owner, relation.name
                ),
            )
            .await?;
            let mut cells = Vec::new();
            for subject in &self.subjects {
                let cell = self.cell(&relation, subject).await?;
                // the test shows nothing where there is nothing to be hidden
                let reads = !cell.starts_with(['-', '!']) && !"ORT".contains(subject.letter);
                ensure!(
                    !reads
                        || !relation.has_owners
                        || there.contains('2') && there.contains(['1', 'a']),
                    "matrix.sql: {} needs rows of both programs, there are {there}",
                    relation.name
                );
                ensure!(
                    !reads || !there.contains('a') || there.contains('b'),
                    "matrix.sql: {} needs rows of A and B, there are {there}",
                    relation.name
                );
                cells.push(cell);
            }
            lines.push(line(&cells, &relation.name));
        }
        Ok(lines)
    }

    async fn sequence_lines(&self) -> Result<Vec<String>> {
        let names = rows(
            &self.sql,
            "select c.oid::regclass from pg_class c
              where c.relnamespace in ('loyalty'::regnamespace, 'loyalty_api'::regnamespace, 'loyalty_private'::regnamespace) and c.relkind = 'S' order by c.oid::regclass::text collate \"C\"",
        )
        .await?;
        let mut lines = Vec::new();
        for name in names {
            let mut cells = Vec::new();
            for subject in &self.subjects {
                let role = subject.role;
                let mut cell = String::new();
                for (letter, privilege, statement) in [
                    ('u', "usage", format!("select nextval('{name}')")),
                    ('u', "update", format!("select setval('{name}', 1)")),
                    ('r', "select", format!("select last_value from {name}")),
                ] {
                    let question = format!(
                        "has_sequence_privilege('{role}', '{name}', '{privilege}') and has_schema_privilege('{role}', split_part('{name}', '.', 1), 'usage')"
                    );
                    let allowed = self.holds(&question).await?;
                    let code = subject.tries(&statement).await?;
                    ensure!(
                        allowed == (code != "42501"),
                        "{role}: {statement}: may {allowed}, got {code}"
                    );
                    if allowed {
                        cell.push(letter);
                    }
                }
                cells.push(if cell.is_empty() {
                    "-".to_owned()
                } else {
                    cell
                });
            }
            lines.push(line(&cells, &name));
        }
        Ok(lines)
    }

    async fn setting_lines(&self) -> Result<Vec<String>> {
        let names = rows(
            &self.sql,
            "select name from pg_settings where name like 'loyalty.%' order by 1",
        )
        .await?;
        ensure!(!names.is_empty());
        let mut lines = Vec::new();
        for name in names {
            let mut cells = Vec::new();
            for subject in &self.subjects {
                let allowed = subject
                    .tries(&format!("set local {name} to default"))
                    .await?
                    != "42501";
                let readable = subject.tries(&format!("show {name}")).await? != "42501";
                cells.push(match (allowed, readable) {
                    (true, true) => "ur".to_owned(),
                    (true, false) => "u".to_owned(),
                    (false, true) => "r".to_owned(),
                    (false, false) => "-".to_owned(),
                });
            }
            lines.push(line(&cells, &name));
        }
        Ok(lines)
    }
}

impl World {
    async fn function_lines(&self) -> Result<Vec<String>> {
        let functions = self.functions().await?;
        let mut lines = Vec::new();
        let mut about_names = BTreeSet::new();
        for function in &functions {
            let mut cells = String::new();
            for subject in &self.subjects {
                cells.push(self.may_call(function, subject).await?);
            }
            let name = function.signature(false);
            if function.is_about_names() {
                about_names.insert(cells);
            } else {
                let same = functions
                    .iter()
                    .filter(|other| other.signature(false) == name);
                lines.push(format!("{cells}  {}", function.signature(same.count() > 1)));
            }
        }
        for cells in about_names {
            lines.push(format!(
                "{cells}  loyalty_api.*(json), which answer wrong names of arguments"
            ));
        }
        Ok(lines)
    }
}

/// Cells of a subject each, in columns, and what they are about.
fn line(cells: &[String], name: &str) -> String {
    let mut line = String::new();
    for cell in cells {
        let _infallible = write!(line, "{cell:<9}");
    }
    line + name
}

async fn matrix(world: &World) -> Result<String> {
    let letters: Vec<String> = world
        .subjects
        .iter()
        .map(|subject| subject.letter.to_string())
        .collect();
    let mut text = HEAD.to_owned();
    let mut section = |title: &str, columns: String, lines: Vec<String>| {
        text.push_str(&format!("\n## {title}\n# {}\n", columns.trim_end()));
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
    };
    let wide = line(&letters, "")[2..].to_owned();
    let wide = format!("{}{wide}", &letters[0]);
    section(
        "tables and views",
        wide.clone(),
        world.relation_lines().await?,
    );
    section("sequences", wide.clone(), world.sequence_lines().await?);
    section("settings", wide, world.setting_lines().await?);
    section("functions", letters.concat(), world.function_lines().await?);
    Ok(text)
}

fn entries(text: &str) -> BTreeMap<&str, &str> {
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let at = line.find("loyalty").unwrap_or(0);
            (line[at..].trim(), line[..at].trim())
        })
        .collect()
}

#[tokio::test]
async fn p12_who_may_do_what() -> Result<()> {
    let world = World::start("matrix").await?;
    let path = loyalty_testkit::repository().join("tests/tests/http/matrix.txt");
    let found = matrix(&world).await?;
    if std::env::var_os("LOYALTY_MATRIX_WRITE").is_some() {
        std::fs::write(&path, &found)?;
    }
    let expected = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (now, said) = (entries(&found), entries(&expected));
    let mut wrong = Vec::new();
    for name in now.keys().chain(said.keys()).collect::<BTreeSet<_>>() {
        match (said.get(name), now.get(name)) {
            (None, Some(cells)) => wrong.push(format!("new:     {cells}  {name}")),
            (Some(_), None) => wrong.push(format!("gone:    {name}")),
            (Some(said), Some(now)) if said != now => {
                wrong.push(format!("said:    {said}  {name}\n  found:   {now}"));
            }
            _ => {}
        }
    }
    ensure!(
        wrong.is_empty(),
        "tests/tests/http/matrix.txt (LOYALTY_MATRIX_WRITE=1 writes it anew; read the difference):\n  {}",
        wrong.join("\n  ")
    );
    ensure!(
        found == expected,
        "tests/tests/http/matrix.txt is written in another way"
    );
    Ok(())
}

/// What belongs to member A of program 1 is refused to member B and to the administrator of
/// program 2 before anything else about the call is looked at.
#[tokio::test]
async fn p12_ids_of_others_are_refused() -> Result<()> {
    let world = World::start("matrix_ids").await?;
    let mut tried = 0;
    for function in world.functions().await? {
        // what anybody may ask for says nothing about whose it is
        let question = format!(
            "loyalty_private.is_open_call('{}')",
            function
                .name
                .trim_start_matches("loyalty_api.")
                .replace('"', "")
        );
        if !function.is_api || world.holds(&question).await? {
            continue;
        }
        for (name, _) in &function.arguments {
            // anybody's may be given to; the organisation's is no number; an operation is looked
            // for in the account only
            let is_other = matches!(
                name.as_str(),
                "to_account_id" | "organisation_id" | "operation_id" | "login_id"
            );
            if is_other || !name.ends_with("_id") && name != "program" {
                continue;
            }
            for subject in &world.subjects {
                let is_other = match name.as_str() {
                    "program" => subject.letter == '2',
                    _ => "B2".contains(subject.letter),
                };
                if !is_other {
                    continue;
                }
                let value = match name.as_str() {
                    "program" => "coin",
                    name => world.known.get(name).with_context(|| {
                        format!(
                            "{}: say in World::start what {name} of program 1 is",
                            function.signature(false)
                        )
                    })?,
                };
                let code = subject.tries(&function.call(&[(name, value)])).await?;
                ensure!(
                    matches!(code.as_str(), "LY002" | "LY009" | "LY010" | "42501"),
                    "{} {} with {name} = {value}: {code}",
                    subject.letter,
                    function.signature(false)
                );
                tried += 1;
            }
        }
    }
    ensure!(tried > 40, "{tried} calls");
    Ok(())
}

/// What takes anybody is what requests without a token are let through to, and no more.
#[tokio::test]
async fn p12_open_calls_are_known() -> Result<()> {
    let world = World::start("matrix_open").await?;
    let nobody = world.subjects.iter().find(|subject| subject.letter == 'N');
    let nobody = nobody.context("nobody")?;
    let mut taken = BTreeSet::new();
    let mut named = BTreeSet::new();
    for function in world.functions().await? {
        if !function.is_api || function.is_about_names() {
            continue;
        }
        let name = function
            .name
            .trim_start_matches("loyalty_api.")
            .replace('"', "");
        if world.may_call(&function, nobody).await? == 'x' {
            taken.insert(name.clone());
        }
        if world
            .holds(&format!("loyalty_private.is_open_call('{name}')"))
            .await?
        {
            named.insert(name);
        }
    }
    ensure!(
        taken == named && taken.contains("log_in"),
        "taken {taken:?}, named {named:?}"
    );
    Ok(())
}
