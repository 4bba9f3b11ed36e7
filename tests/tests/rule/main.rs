//! Rules and events: the guide's examples day by day, what is refused, what a change may do,
//! purchases and their refunds, and all of it over HTTP.

mod change;
mod event;
mod explain;
mod guide;
mod http;
mod step;
mod terms;

use anyhow::{Context as _, Result};
use loyalty_tests::{Refusal, World, assert_sound};
use std::ops::Deref;

/// The anniversary coins of C2 with the cut-off of C3.
pub const ANNIVERSARY: &str = r#"{"fact": "first_service_on", "every_years": 1, "points": 2000, "day_of_month": 15,
    "cut_off": {"fact_until": "2024-06-01", "first_month": "2025-05"}}"#;
/// The referral coins of C5.
pub const REFERRAL: &str =
    r#"{"event": "referral", "points": 5000, "months_after": 1, "day_of_month": 15}"#;

/// A database of its own, with a program `coin` in Asia/Tokyo, created on 2024-05-01.
pub struct Program {
    world: World,
}

impl Deref for Program {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Program {
    pub async fn open(name: &str) -> Result<Self> {
        let program = Program {
            world: World::open(name).await?,
        };
        program.at("2024-05-01 10:00+09").await?;
        program
            .run("select loyalty.create_program(code => 'coin', name => 'Coins', point_name => 'coin')")
            .await?;
        Ok(program)
    }

    /// Noon of a day in Tokyo, and all that is due by then.
    pub async fn live_until(&self, day: &str) -> Result<()> {
        self.at(&format!("{day} 12:00+09")).await?;
        self.run("call loyalty.tick()").await?;
        let errors = self
            .show("select job, period, error from loyalty.run where error is not null")
            .await?;
        assert_eq!(errors, "");
        Ok(())
    }

    /// `more` are further arguments of create_rule.
    pub async fn rule(&self, code: &str, kind: &str, terms: &str, more: &str) -> Result<()> {
        let comma = if more.is_empty() { "" } else { ", " };
        self.run(&format!(
            "select loyalty.create_rule(program => 'coin', code => '{code}', kind => '{kind}', terms => '{terms}'{comma}{more})"
        ))
        .await
    }

    /// A member with one fact.
    pub async fn member(&self, member_no: &str, fact: &str, on: &str) -> Result<i64> {
        let sql = format!(
            "select account_id from loyalty.set_member('coin', '{member_no}', facts => '{{\"{fact}\": \"{on}\"}}')"
        );
        Ok(self
            .client
            .query_one(&sql, &[])
            .await
            .context(sql)?
            .try_get(0)?)
    }

    pub async fn account(&self, member_no: &str) -> Result<i64> {
        let sql = format!("select loyalty.open_account('coin', '{member_no}')");
        Ok(self.client.query_one(&sql, &[]).await?.try_get(0)?)
    }

    /// The grants of an account: `granted_on points expires_on`, a line for each.
    pub async fn grants(&self, account: i64) -> Result<Vec<String>> {
        let text = self
            .show(&format!(
                "select granted_on || ' ' || points || ' ' || expires_on from loyalty.entry
                  where account_id = {account} and kind = 'grant' order by entry"
            ))
            .await?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The days on which an account was paid so many points.
    pub async fn paid(&self, account: i64, points: i64) -> Result<String> {
        self.show(&format!(
            "select string_agg(granted_on::text, ' ' order by entry) from loyalty.entry
              where account_id = {account} and kind = 'grant' and points = {points}"
        ))
        .await
    }

    /// Nothing of rules, events or the ledger must come of what is refused.
    pub async fn refused(&self, sql: &str) -> Result<Refusal> {
        let all = "select (select count(*) from loyalty.entry), (select count(*) from loyalty.event),
                          (select count(*) from loyalty.schedule), (select md5(string_agg(r::text, ',' order by code, version)) from loyalty.rule r)";
        let before = self.show(all).await?;
        let refusal = self.refusal(sql).await?;
        assert_eq!(
            self.show(all).await?,
            before,
            "refused, but something is left: {sql}"
        );
        Ok(refusal)
    }

    /// Law 11.
    pub async fn verify(&self) -> Result<()> {
        assert_sound(&self.client).await
    }
}
