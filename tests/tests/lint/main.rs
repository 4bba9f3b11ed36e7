//! What can be told of functions and catalog without running anything: each lint names the
//! object that it complains of, each exception has its reason, and each lint is shown something
//! bad to see that it notices.

mod catalog;
mod layer;
mod module;
mod plpgsql;
mod reason;

use anyhow::{Context as _, Result, ensure};
use loyalty_testkit::TestDb;
use tokio_postgres::Client;

/// What a query names and may, and why.
type Excused<'a> = &'a [(&'a str, &'a str)];

/// The first column of a query, in which `SCHEMAS` stands for our two.
async fn found(client: &Client, query: &str) -> Result<Vec<String>> {
    let query = query.replace(
        "SCHEMAS",
        "(select oid from pg_catalog.pg_namespace where nspname in ('loyalty', 'loyalty_api', 'loyalty_private'))",
    );
    let rows = client.query(&query, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Nothing is named but what is excused, and all of that.
fn compare(found: &[String], excused: Excused) -> Result<()> {
    let unexpected: Vec<&String> = found
        .iter()
        .filter(|name| !excused.iter().any(|(known, _)| known == name))
        .collect();
    ensure!(
        unexpected.is_empty(),
        "found, and not excused: {unexpected:#?}"
    );
    for (name, reason) in excused {
        ensure!(
            found.iter().any(|found| found == name),
            "{name} is no longer found: take it from the list ({reason})"
        );
    }
    Ok(())
}

struct Lint<'a> {
    /// Of a test database too.
    name: &'a str,
    query: &'a str,
    excused: Excused<'a>,
    /// SQL that makes something bad, and what it must be named by then.
    bad: &'a str,
    named: &'a str,
}

impl Lint<'_> {
    async fn run(&self) -> Result<()> {
        let db = TestDb::create(self.name).await?;
        let client = db.connect().await?;
        compare(&found(&client, self.query).await?, self.excused)?;
        client
            .batch_execute(self.bad)
            .await
            .context(self.bad.to_owned())?;
        let found = found(&client, self.query).await?;
        let unexpected: Vec<&str> = found
            .iter()
            .map(String::as_str)
            .filter(|name| !self.excused.iter().any(|(known, _)| known == name))
            .collect();
        ensure!(
            unexpected == [self.named],
            "of what is bad it names {unexpected:?}, not {:?}",
            self.named
        );
        Ok(())
    }
}
