//! The examples of README.md and docs/ are run, and what they print is what the page shows.
//!
//! - A `sql` block goes to psql, an `sh` block to bash: one session of each a page, in order.
//! - The `text` or `json` block after it is its output. JSON is laid out by [`tidy_json`],
//!   spaces at line ends are dropped, and nothing else is changed. A block that prints
//!   something must show it.
//! - `no-run` after `sql` or `sh` marks what cannot run in a test: installing, `./dev` itself.
//!
//! `LOYALTY_DOCS_WRITE=1 ./dev test docs` writes what the examples print into the pages; read
//! the difference before you keep it.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use loyalty_dev::testkit::{Api, FreshCluster, TestDb, TestServer};
use loyalty_dev::token::{Claims, Role};

const PATIENCE: Duration = Duration::from_secs(120);
/// Pages that are run, and how many examples each has at least.
const EXECUTED: [(&str, usize); 10] = [
    ("README.md", 10),
    ("docs/design.md", 3),
    ("docs/sql.md", 25),
    ("docs/members.md", 8),
    ("docs/rules.md", 8),
    ("docs/schedules.md", 9),
    ("docs/notifications.md", 5),
    ("docs/http.md", 15),
    ("docs/operations.md", 8),
    ("docs/relay.md", 4),
];
/// Where the functions of schema `loyalty` are, each with an example or under [`STEPS`].
const SQL_PAGES: [&str; 5] = [
    "docs/sql.md",
    "docs/members.md",
    "docs/rules.md",
    "docs/schedules.md",
    "docs/notifications.md",
];
/// The section of functions that callers do not use: each a name in backquotes, or its
/// beginning and an ellipsis.
const STEPS: &str = "## Steps of other functions";
/// Pages whose examples another command runs.
const NOT_EXECUTED: [&str; 1] = ["docs/benchmarks.md"];

fn repository() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

fn read(page: &str) -> Result<String> {
    std::fs::read_to_string(repository().join(page)).with_context(|| page.to_owned())
}

/// The pages in docs/.
fn pages() -> Result<BTreeSet<String>> {
    let mut pages = BTreeSet::new();
    for entry in std::fs::read_dir(repository().join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            pages.insert(format!("docs/{name}"));
        }
    }
    Ok(pages)
}

// --- a page and its blocks -------------------------------------------------

/// A fenced block; lines are counted from 0.
#[derive(Debug)]
struct Block {
    info: String,
    opening: usize,
    closing: usize,
}

impl Block {
    fn language(&self) -> &str {
        self.info.split_whitespace().next().unwrap_or_default()
    }
    fn runs(&self) -> bool {
        matches!(self.info.as_str(), "sql" | "sh")
    }
    fn body(&self, lines: &[&str]) -> String {
        lines[self.opening + 1..self.closing].join("\n")
    }
}

fn blocks(lines: &[&str]) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in lines.iter().enumerate() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        open = match open {
            None => Some((index, info.trim().to_owned())),
            Some((opening, info)) => {
                blocks.push(Block {
                    info,
                    opening,
                    closing: index,
                });
                None
            }
        };
    }
    ensure!(open.is_none(), "a fence is not closed");
    Ok(blocks)
}

/// The block that shows the output of the one at `index`, where there is one.
fn output_of<'a>(blocks: &'a [Block], index: usize, lines: &[&str]) -> Option<&'a Block> {
    let next = blocks.get(index + 1)?;
    let between = &lines[blocks[index].closing + 1..next.opening];
    (matches!(next.language(), "text" | "json") && between.iter().all(|line| line.is_empty()))
        .then_some(next)
}

/// Without spaces at line ends, and without empty lines around.
fn trimmed(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

// --- JSON as people read it ------------------------------------------------

const JSON_WIDTH: usize = 100;

/// Lays JSON out anew, keys in their order: what fits in a line stays in one.
fn tidy_json(text: &str) -> String {
    let mut compact = String::new();
    let mut quoted = false;
    let mut escaped = false;
    for c in text.chars() {
        if quoted || !c.is_whitespace() {
            compact.push(c);
        }
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        if !quoted && matches!(c, ',' | ':') {
            compact.push(' ');
        }
        escaped = c == '\\' && !escaped;
    }
    let mut laid_out = String::new();
    lay_out(compact.trim(), 0, &mut laid_out);
    laid_out
}

fn lay_out(json: &str, indent: usize, out: &mut String) {
    let nested = json.starts_with(['{', '[']) && json.len() > 2;
    if !nested || indent + json.chars().count() <= JSON_WIDTH {
        out.push_str(json);
        return;
    }
    let (opening, rest) = json.split_at(1);
    let (inside, closing) = rest.split_at(rest.len() - 1);
    out.push_str(opening);
    for (index, part) in split_at_commas(inside).iter().enumerate() {
        out.push_str(if index == 0 { "\n" } else { ",\n" });
        out.push_str(&" ".repeat(indent + 2));
        // a member's key stays in front of its value
        let key = match part.find("\": ") {
            Some(end) if part.starts_with('"') => end + 3,
            _ => 0,
        };
        out.push_str(&part[..key]);
        lay_out(&part[key..], indent + 2, out);
    }
    out.push('\n');
    out.push_str(&" ".repeat(indent));
    out.push_str(closing);
}

fn split_at_commas(json: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (index, c) in json.char_indices() {
        match c {
            '"' if !escaped => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(json[start..index].trim());
                start = index + 1;
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(json[start..].trim());
    parts
}

// --- sessions --------------------------------------------------------------

/// psql or bash, fed block by block.
struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<String>,
}

const MARK: &str = "--- end of the example ---";

impl Session {
    fn start(mut command: Command) -> Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        command
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let input = child.stdin.take();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            input,
            output,
        })
    }

    /// Has `text` run, and returns what it printed up to the mark that it prints last.
    fn run(&mut self, text: &str) -> Result<String> {
        let input = self.input.as_mut().context("the session has ended")?;
        input.write_all(text.as_bytes())?;
        input.flush()?;
        let mut printed = String::new();
        loop {
            match self.output.recv_timeout(PATIENCE) {
                Ok(line) if line == MARK => return Ok(printed),
                Ok(line) => {
                    printed.push_str(&line);
                    printed.push('\n');
                }
                Err(RecvTimeoutError::Timeout) => bail!("no end after {PATIENCE:?}: {printed}"),
                Err(RecvTimeoutError::Disconnected) => bail!("the session ended: {printed}"),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.input.take());
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Where a page's examples run.
enum Place {
    /// A database; over HTTP the tokens are for this program and member.
    Db {
        db: TestDb,
        program: &'static str,
        member_no: &'static str,
    },
    /// A cluster, for what a DBA does to one. Its database is `points`.
    Cluster(FreshCluster),
}

impl Place {
    fn program(&self, name: &str) -> Command {
        match self {
            Place::Db { db, .. } => db.program(name),
            Place::Cluster(cluster) => cluster.program(name, "points"),
        }
    }
}

/// A page's sessions. bash and PostgREST are started by the first `sh` block, so that the
/// `sql` blocks before it can make what they find.
struct Stage {
    psql: Session,
    bash: Option<Session>,
    _api: Option<Api>,
    dir: PathBuf,
    place: Place,
}

impl Stage {
    fn new(place: Place, page: &str) -> Result<Self> {
        let name = page.replace(['/', '.'], "-");
        let dir = TestServer::get()?.dir.join(format!("page-{name}"));
        std::fs::create_dir_all(&dir)?;
        let mut psql = place.program("psql");
        psql.args(["--no-psqlrc", "--quiet"]);
        Ok(Self {
            psql: Session::start(psql)?,
            bash: None,
            _api: None,
            dir,
            place,
        })
    }

    async fn run(&mut self, block: &Block, text: &str) -> Result<String> {
        if block.language() == "sql" {
            return self.psql.run(&format!("{text}\n\\echo {MARK}\n"));
        }
        if self.bash.is_none() {
            self.start_bash().await?;
        }
        let file = self.dir.join("block.sh");
        std::fs::write(&file, text)?;
        let bash = self.bash.as_mut().context("bash was not started")?;
        // sourced, so that its variables stay; without stdin, which is the session's
        let run = format!(
            "source '{}' </dev/null; printf '\\n%s\\n' '{MARK}'\n",
            file.display()
        );
        bash.run(&run)
    }

    async fn start_bash(&mut self) -> Result<()> {
        let mut bash = Command::new("bash");
        let psql = self.place.program("psql");
        for (name, value) in psql.get_envs() {
            match value {
                Some(value) => bash.env(name, value),
                None => bash.env_remove(name),
            };
        }
        let mut path = TestServer::get()?.bin.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        bash.env("PATH", path).current_dir(&self.dir);
        if let Place::Db {
            db,
            program,
            member_no,
        } = &self.place
        {
            let api = db.api().await?;
            let account_id: i64 = db
                .connect()
                .await?
                .query_one("select loyalty.open_account($1, $2)", &[program, member_no])
                .await?
                .get(0);
            let claims = |role| Claims::new(role, 3600).map(|claims| claims.program(program));
            bash.env("API_URL", api.url())
                .env(
                    "TOKEN",
                    api.token(&claims(Role::Member)?.account_id(account_id))?,
                )
                .env("GRANTER_TOKEN", api.token(&claims(Role::Granter)?)?)
                .env("ADMIN_TOKEN", api.token(&claims(Role::Admin)?)?);
            self._api = Some(api);
        }
        self.bash = Some(Session::start(bash)?);
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _gone_with_the_run = std::fs::remove_dir_all(&self.dir);
    }
}

// --- the tests -------------------------------------------------------------

/// Runs a page's examples; the output shown must be the output.
async fn check(page: &str, place: Place) -> Result<()> {
    let text = read(page)?;
    let lines: Vec<&str> = text.lines().collect();
    let blocks = blocks(&lines).context(page.to_owned())?;
    let mut stage = Stage::new(place, page)?;
    let write = std::env::var_os("LOYALTY_DOCS_WRITE").is_some();
    let mut rewritten: Vec<String> = Vec::new();
    let mut copied = 0;
    let mut wrong = Vec::new();
    let mut examples = 0;
    for (index, block) in blocks.iter().enumerate() {
        if !block.runs() {
            let known = matches!(block.language(), "text" | "json" | "ini");
            let skipped = block.info.ends_with(" no-run");
            ensure!(known || skipped, "{page}: a block of {:?}", block.info);
            continue;
        }
        examples += 1;
        let place = format!("{page}:{}", block.opening + 1);
        let printed = stage
            .run(block, &block.body(&lines))
            .await
            .context(place.clone())?;
        let shown = output_of(&blocks, index, &lines);
        let printed = trimmed(&printed);
        let is_json = shown.map_or(
            block.language() == "sh" && printed.starts_with(['{', '[']),
            |shown| shown.language() == "json",
        );
        let printed = if is_json {
            tidy_json(&printed)
        } else {
            printed
        };
        let expected = shown.map(|shown| trimmed(&shown.body(&lines)));
        if write {
            // a page takes what is new, but no failure where it had none
            let new_failure = fails(&printed)
                && expected
                    .as_deref()
                    .is_some_and(|expected| !expected.is_empty() && !fails(expected));
            ensure!(
                !new_failure,
                "{place} fails now, nothing is written:\n{printed}"
            );
        } else if expected.as_deref().unwrap_or_default() != printed {
            wrong.push(format!(
                "{place} prints\n{printed}\nand the page shows\n{}",
                expected.as_deref().unwrap_or("nothing")
            ));
        }
        let kept = shown.map_or(block.closing + 1, |shown| shown.opening);
        rewritten.extend(lines[copied..kept].iter().map(|line| (*line).to_owned()));
        if !printed.is_empty() {
            let language = if is_json { "json" } else { "text" };
            if shown.is_none() {
                rewritten.push(String::new());
            }
            rewritten.push(format!("```{language}\n{printed}\n```"));
        }
        copied = shown.map_or(kept, |shown| shown.closing + 1);
    }
    rewritten.extend(lines[copied..].iter().map(|line| (*line).to_owned()));
    let least = EXECUTED
        .iter()
        .find(|(name, _)| *name == page)
        .map_or(1, |(_, least)| *least);
    ensure!(
        examples >= least,
        "{page} has {examples} examples; {least} are expected"
    );
    if write {
        std::fs::write(repository().join(page), rewritten.join("\n") + "\n")?;
        return Ok(());
    }
    ensure!(
        wrong.is_empty(),
        "{}\n\nTo take what is printed: LOYALTY_DOCS_WRITE=1 ./dev test docs",
        wrong.join("\n\n")
    );
    Ok(())
}

/// Whether an output shows an error, of psql or of PostgREST.
fn fails(output: &str) -> bool {
    output.contains("ERROR:") || output.contains("\"code\":")
}

/// The demo's own program on the real clock, as `./dev up` makes it.
fn tour() -> Result<&'static str> {
    let demo = include_str!("../crates/loyalty-dev/sql/demo.sql");
    let start = demo
        .find("-- A program that lives by the real clock")
        .context("the demo has no program on the real clock")?;
    Ok(demo[start..].trim_end().trim_end_matches("commit;"))
}

#[tokio::test]
async fn docs_readme_prints_what_it_shows() -> Result<()> {
    let db = TestDb::create("docs_readme").await?;
    db.connect().await?.batch_execute(tour()?).await?;
    let (program, member_no) = ("tour", "T001");
    check(
        "README.md",
        Place::Db {
            db,
            program,
            member_no,
        },
    )
    .await
}

#[tokio::test]
async fn docs_sql_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/sql.md").await
}

#[tokio::test]
async fn docs_design_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/design.md").await
}

#[tokio::test]
async fn docs_http_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/http.md").await
}

#[tokio::test]
async fn docs_members_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/members.md").await
}

#[tokio::test]
async fn docs_rules_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/rules.md").await
}

#[tokio::test]
async fn docs_schedules_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/schedules.md").await
}

#[tokio::test]
async fn docs_notifications_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/notifications.md").await
}

async fn check_in_database(page: &str) -> Result<()> {
    let db = TestDb::create(page).await?;
    let (program, member_no) = ("club", "M-1");
    check(
        page,
        Place::Db {
            db,
            program,
            member_no,
        },
    )
    .await
}

#[tokio::test]
async fn docs_operations_prints_what_it_shows() -> Result<()> {
    let settings = "shared_preload_libraries = 'pg_cron'\n\
                    cron.database_name = 'points'\n\
                    cron.use_background_workers = on\n";
    check_in_cluster("docs/operations.md", settings).await
}

/// It makes a login, which belongs to the cluster.
#[tokio::test]
async fn docs_relay_prints_what_it_shows() -> Result<()> {
    check_in_cluster("docs/relay.md", "").await
}

async fn check_in_cluster(page: &str, settings: &str) -> Result<()> {
    let cluster = FreshCluster::start(page, settings)?;
    cluster
        .connect("postgres")
        .await?
        .batch_execute("create database points template template0")
        .await?;
    check(page, Place::Cluster(cluster)).await
}

#[test]
fn docs_are_all_run() -> Result<()> {
    for page in pages()? {
        let known = EXECUTED.iter().map(|(name, _)| *name).chain(NOT_EXECUTED);
        ensure!(
            known.into_iter().any(|name| name == page),
            "{page} is not run by a test"
        );
    }
    Ok(())
}

/// Each function of the two schemas is on a page, and those that callers use have an example.
#[tokio::test]
async fn docs_show_every_function() -> Result<()> {
    let client = TestDb::create("docs_functions").await?;
    let client = (client.connect().await?, client);
    let names = |schema: &'static str| {
        let client = &client.0;
        async move {
            let sql = "select distinct proname::text from pg_catalog.pg_proc
                        where pronamespace = $1::text::regnamespace";
            let rows = client.query(sql, &[&schema]).await?;
            Ok::<Vec<String>, anyhow::Error>(rows.iter().map(|row| row.get(0)).collect())
        }
    };
    let mut missing = Vec::new();
    let mut run = String::new();
    let mut steps = BTreeSet::new();
    let mut requests = read("docs/http.md")?;
    for page in SQL_PAGES {
        let page = read(page)?;
        let lines: Vec<&str> = page.lines().collect();
        for block in blocks(&lines)?.iter().filter(|block| block.runs()) {
            run += &(block.body(&lines) + "\n");
        }
        steps.extend(steps_of(&page));
        requests += &page;
    }
    ensure!(!steps.is_empty(), "no page has a section of steps");
    for name in names("loyalty").await? {
        let is_step = steps.iter().any(|step| match step.strip_suffix('…') {
            Some(beginning) => name.starts_with(beginning),
            None => *step == name,
        });
        let is_shown = run.contains(&format!("loyalty.{name}("));
        if !is_step && !is_shown {
            missing.push(format!("loyalty.{name}"));
        }
    }
    for name in names("loyalty_api").await? {
        if !requests.contains(&format!("/rpc/{name}")) {
            missing.push(format!("/rpc/{name}"));
        }
    }
    ensure!(
        missing.is_empty(),
        "on none of docs/http.md, {}: {}",
        SQL_PAGES.join(", "),
        missing.join(", ")
    );
    Ok(())
}

/// What a page lists under [`STEPS`], up to the next heading.
fn steps_of(page: &str) -> Vec<String> {
    let section = page
        .split_once(&format!("\n{STEPS}\n"))
        .map_or("", |(_, rest)| rest);
    let section = section.split("\n## ").next().unwrap_or_default();
    let names = section.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

#[test]
fn docs_links_resolve() -> Result<()> {
    let mut broken = Vec::new();
    let mut pages = pages()?;
    pages.extend(["README.md", "CHANGELOG.md"].map(str::to_owned));
    for page in pages {
        let dir = repository().join(&page);
        let dir = dir.parent().context("a page is in a directory")?;
        for target in links(&read(&page)?) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() {
                repository().join(&page)
            } else {
                dir.join(file)
            };
            let found = path.exists()
                && (anchor.is_empty()
                    || anchors(&std::fs::read_to_string(&path)?).contains(anchor));
            if !found {
                broken.push(format!("{page}: {target}"));
            }
        }
    }
    ensure!(broken.is_empty(), "links to nothing: {}", broken.join(", "));
    Ok(())
}

/// Lines outside of blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    })
}

/// The targets of a page's links.
fn links(text: &str) -> Vec<String> {
    prose(text)
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect()
}

/// What a page's headings can be linked by.
fn anchors(text: &str) -> BTreeSet<String> {
    prose(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

#[test]
fn docs_json_is_laid_out_and_stays_what_it_is() -> Result<()> {
    assert_eq!(tidy_json("{\"a\":1,\n \"b\":[ ]}"), "{\"a\": 1, \"b\": []}");
    let long = format!(
        "[{{\"a, \\\"b\": \"{}\",\"c\":{{\"d\":1}}}}]",
        "x".repeat(90)
    );
    let laid_out = tidy_json(&long);
    assert_eq!(laid_out.lines().count(), 6);
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text);
    assert_eq!(value(&laid_out)?, value(&long)?);
    Ok(())
}
