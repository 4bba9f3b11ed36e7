//! Members' records: written one by one, loaded from CSV in any encoding, by COPY; what is
//! refused, and that a refusal leaves nothing half-written.

#[path = "member/import.rs"]
mod import;
#[path = "member/malformed.rs"]
mod malformed;
#[path = "member/model.rs"]
mod model;
#[path = "member/record.rs"]
mod record;
#[path = "member/upload.rs"]
mod upload;

use anyhow::{Context as _, Result, bail};
use loyalty_dev::testkit::TestDb;
use tokio_postgres::{Client, SimpleQueryMessage};

/// A database of its own with a program `club`, at noon of 2026-06-15 in Tokyo.
pub struct Club {
    pub db: TestDb,
    pub client: Client,
}

/// An error as its reader gets it.
#[derive(Debug)]
pub struct Refusal {
    pub code: String,
    pub detail: String,
    pub hint: String,
}

impl Club {
    pub async fn open(name: &str) -> Result<Self> {
        let db = TestDb::create(name).await?;
        let client = db.connect().await?;
        client
            .batch_execute(
                "set datestyle = 'ISO';
                 set loyalty.clock = '2026-06-15 12:00+09';
                 select loyalty.create_program(code => 'club', name => 'Sample Club')",
            )
            .await?;
        Ok(Club { db, client })
    }

    /// What a query answers, as psql would show it unaligned.
    pub async fn show(&self, sql: &str) -> Result<String> {
        let mut lines = Vec::new();
        let messages = self.client.simple_query(sql).await;
        for message in messages.with_context(|| sql.to_owned())? {
            if let SimpleQueryMessage::Row(row) = message {
                let line: Vec<&str> = (0..row.len())
                    .map(|column| row.get(column).unwrap_or(""))
                    .collect();
                lines.push(line.join("|"));
            }
        }
        Ok(lines.join("\n"))
    }

    /// `member_no|name|kana|birth_date|email|phone|language|facts|attributes`, a line for each.
    pub async fn members(&self) -> Result<String> {
        self.show(
            "select a.member_no, m.name, m.kana, m.birth_date, m.email, m.phone, m.language,
                    m.facts, m.attributes
               from loyalty.member m
               join loyalty.account a using (account_id)
              order by a.member_no",
        )
        .await
    }

    /// The lines of `import_members`: `outcome n`, and `row member_no column: reason`.
    pub async fn import(&self, csv: &str, options: &str) -> Result<Vec<String>> {
        self.lines(&format!("'club', $1{options}"), &csv).await
    }

    pub async fn import_file(&self, file: &[u8], options: &str) -> Result<Vec<String>> {
        self.lines(&format!("'club', $1::bytea{options}"), &file)
            .await
    }

    async fn lines(
        &self,
        arguments: &str,
        csv: &(dyn tokio_postgres::types::ToSql + Sync),
    ) -> Result<Vec<String>> {
        let sql = format!(
            "select case when i.outcome = 'problem'
                         then concat_ws(' ', i.row_no, i.member_no, i.column_name) || ': ' || i.reason
                         else i.outcome || ' ' || i.row_count end
               from loyalty.import_members({arguments}) i
              where i.outcome = 'problem' or i.row_count > 0"
        );
        let rows = self.client.query(&sql, &[csv]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    pub async fn refused(&self, sql: &str) -> Result<Refusal> {
        match self.client.simple_query(sql).await {
            Ok(_) => bail!("not refused: {sql}"),
            Err(error) => refusal(&error).with_context(|| sql.to_owned()),
        }
    }

    /// A file that cannot be loaded at all, of which nothing must remain.
    pub async fn unreadable(&self, file: &[u8], options: &str) -> Result<Refusal> {
        let before = self.everything().await?;
        let refused = match self.import_file(file, options).await {
            Ok(lines) => bail!("it was read: {lines:?}"),
            Err(error) => refusal(&error.downcast::<tokio_postgres::Error>()?)?,
        };
        assert_eq!(self.everything().await?, before, "something was written");
        Ok(refused)
    }

    /// All that an import writes.
    pub async fn everything(&self) -> Result<String> {
        self.show(
            "select (select count(*) from loyalty.account), (select count(*) from loyalty.wallet),
                    (select md5(string_agg(m::text, ',' order by account_id)) from loyalty.member m),
                    (select count(*) from loyalty.member_upload)",
        )
        .await
    }
}

pub fn refusal(error: &tokio_postgres::Error) -> Result<Refusal> {
    let error = error.as_db_error().context("not the database's error")?;
    Ok(Refusal {
        code: error.code().code().to_owned(),
        detail: error.detail().unwrap_or_default().to_owned(),
        hint: error.hint().unwrap_or_default().to_owned(),
    })
}
