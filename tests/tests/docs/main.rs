//! The examples of README.md and docs/ are run, and what they print is what the page shows.
//!
//! - A `sql` block goes to psql, an `sh` block to bash: one session of each a page, in order.
//! - The `text` or `json` block after it is its output. JSON is laid out by [`json::tidy_json`],
//!   spaces at line ends are dropped, and nothing else is changed. A block that prints
//!   something must show it.
//! - `no-run` after `sql` or `sh` marks what cannot run in a test: installing, `./dev` itself.
//!
//! `LOYALTY_DOCS_WRITE=1 ./dev test docs` writes what the examples print into the pages; read
//! the difference before you keep it.

mod json;
mod page;
mod session;

use anyhow::{Context as _, Result, ensure};
use json::tidy_json;
use loyalty_testkit::TestDb;
use loyalty_tests::{PG_CRON, points_cluster};
use page::{anchors, blocks, links, output_of, pages, read, repository, trimmed};
use session::{Place, Stage};

/// Pages that are run, and how many examples each has at least.
const EXECUTED: [(&str, usize); 16] = [
    ("README.md", 5),
    ("docs/tour.md", 11),
    ("docs/design.md", 3),
    ("docs/ledger.md", 25),
    ("docs/member.md", 8),
    ("docs/rule.md", 8),
    ("docs/job.md", 9),
    ("docs/notice.md", 5),
    ("docs/http.md", 15),
    ("docs/identity.md", 10),
    ("docs/login.md", 10),
    ("docs/family.md", 8),
    ("docs/staff.md", 8),
    ("docs/errors.md", 1),
    ("docs/operations.md", 8),
    ("docs/relay.md", 4),
];
/// Where the functions of schema `loyalty` are, each with an example.
const SQL_PAGES: [&str; 10] = [
    "docs/ledger.md",
    "docs/member.md",
    "docs/rule.md",
    "docs/job.md",
    "docs/notice.md",
    "docs/identity.md",
    "docs/login.md",
    "docs/family.md",
    "docs/staff.md",
    "docs/operations.md",
];
/// Pages whose examples another command runs.
const NOT_EXECUTED: [&str; 4] = [
    "docs/benchmarks.md",
    "docs/contributing.md",
    "docs/packaging.md",
    "docs/reliability.md",
];

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
    let demo = include_str!("../../../crates/loyalty-dev/sql/demo.sql");
    let start = demo
        .find("-- A program that lives by the real clock")
        .context("the demo has no program on the real clock")?;
    Ok(demo[start..].trim_end().trim_end_matches("commit;"))
}

#[tokio::test]
async fn docs_readme_prints_what_it_shows() -> Result<()> {
    check_with_tour("docs_readme", "README.md").await
}

#[tokio::test]
async fn docs_tour_prints_what_it_shows() -> Result<()> {
    check_with_tour("docs_tour", "docs/tour.md").await
}

async fn check_with_tour(name: &str, page: &str) -> Result<()> {
    let db = TestDb::create(name).await?;
    db.connect().await?.batch_execute(tour()?).await?;
    let (program, member_no) = ("tour", "T001");
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
async fn docs_ledger_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/ledger.md").await
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
async fn docs_member_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/member.md").await
}

#[tokio::test]
async fn docs_rule_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/rule.md").await
}

#[tokio::test]
async fn docs_job_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/job.md").await
}

#[tokio::test]
async fn docs_notice_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/notice.md").await
}

#[tokio::test]
async fn docs_identity_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/identity.md").await
}

#[tokio::test]
async fn docs_login_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/login.md").await
}

#[tokio::test]
async fn docs_family_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/family.md").await
}

#[tokio::test]
async fn docs_errors_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/errors.md").await
}

#[tokio::test]
async fn docs_staff_prints_what_it_shows() -> Result<()> {
    check_in_database("docs/staff.md").await
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
    check_in_cluster("docs/operations.md", PG_CRON).await
}

/// It makes a login, which belongs to the cluster.
#[tokio::test]
async fn docs_relay_prints_what_it_shows() -> Result<()> {
    check_in_cluster("docs/relay.md", "").await
}

async fn check_in_cluster(page: &str, settings: &str) -> Result<()> {
    let cluster = points_cluster(page, settings).await?;
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
    let mut requests = read("docs/http.md")?;
    for page in SQL_PAGES {
        let page = read(page)?;
        let lines: Vec<&str> = page.lines().collect();
        for block in blocks(&lines)?.iter().filter(|block| block.runs()) {
            run += &(block.body(&lines) + "\n");
        }
        requests += &page;
    }
    for name in names("loyalty").await? {
        if !run.contains(&format!("loyalty.{name}(")) {
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
