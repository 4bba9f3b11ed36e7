//! Members' records: written one by one, loaded from CSV in any encoding, by COPY; what is
//! refused, and that a refusal leaves nothing half-written.

mod import;
mod malformed;
mod model;
mod record;
mod upload;

use anyhow::{Result, bail};
use loyalty_tests::{Refusal, World};
use std::ops::Deref;

/// A database of its own with a program `club`, at noon of 2026-06-15 in Tokyo.
pub struct Club {
    world: World,
}

impl Deref for Club {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Club {
    pub async fn open(name: &str) -> Result<Self> {
        let world = World::open(name).await?;
        world.at("2026-06-15 12:00+09").await?;
        world
            .run("select loyalty.create_program(code => 'club', name => 'Sample Club')")
            .await?;
        Ok(Club { world })
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

    /// A file that cannot be loaded at all, of which nothing must remain.
    pub async fn unreadable(&self, file: &[u8], options: &str) -> Result<Refusal> {
        let before = self.everything().await?;
        let refused = match self.import_file(file, options).await {
            Ok(lines) => bail!("it was read: {lines:?}"),
            Err(error) => Refusal::of(&error.downcast::<tokio_postgres::Error>()?)?,
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
