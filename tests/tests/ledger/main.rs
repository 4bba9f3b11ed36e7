//! Where to look first: an example of each law of the ledger and of each function of the contract.

mod account;
mod addition;
mod altered;
mod calendar;
mod hold;
mod law;
mod meeting;
mod refund;
mod rights;

use anyhow::{Context as _, Result};
use loyalty_tests::{World, assert_sound};
use std::ops::Deref;

/// A database of its own, with a program `p` in Asia/Tokyo.
pub struct Ledger {
    world: World,
}

impl Deref for Ledger {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

/// What of a receipt the examples look at; lots as `2028-06-30: 100`.
#[derive(Debug)]
pub struct Receipt {
    pub id: i64,
    pub points: i64,
    pub balance: i64,
    pub available: i64,
    pub lots: String,
}

impl Ledger {
    /// On 2025-06-15, at 10:00 in Tokyo; `terms` are arguments of create_program.
    pub async fn open(name: &str, terms: &str) -> Result<Self> {
        let ledger = Ledger {
            world: World::open(name).await?,
        };
        ledger.at("2025-06-15 10:00+09").await?;
        let comma = if terms.is_empty() { "" } else { ", " };
        ledger
            .run(&format!(
                "select loyalty.create_program(code => 'p', name => 'Programme'{comma}{terms})"
            ))
            .await?;
        Ok(ledger)
    }

    pub async fn account(&self, member: &str) -> Result<i64> {
        let sql = format!("select loyalty.open_account(program => 'p', member_no => '{member}')");
        Ok(self.client.query_one(&sql, &[]).await?.try_get(0)?)
    }

    /// `select * from …` of an operation, as its receipt.
    pub async fn receipt(&self, call: &str) -> Result<Receipt> {
        let sql = format!(
            "select r.operation_id, r.points, r.balance, r.available, \
                    (select string_agg(coalesce(l.expires_on::text, 'never') || ': ' || l.points, ', ') \
                       from unnest(r.lots) l) \
               from loyalty.{call} r"
        );
        let row = self
            .client
            .query_one(&sql, &[])
            .await
            .with_context(|| call.to_owned())?;
        Ok(Receipt {
            id: row.try_get(0)?,
            points: row.try_get(1)?,
            balance: row.try_get(2)?,
            available: row.try_get(3)?,
            lots: row.try_get::<_, Option<String>>(4)?.unwrap_or_default(),
        })
    }

    /// `balance|held|available|next_expiry_on|next_expiry_points`
    pub async fn balance(&self, account: i64) -> Result<String> {
        self.show(&format!(
            "select * from loyalty.balance(account_id => {account})"
        ))
        .await
    }

    /// `expires_on|granted|remaining|held|spendable`, a line for each.
    pub async fn lots(&self, account: i64) -> Result<String> {
        let sql = format!(
            "select expires_on, granted, remaining, held, spendable from loyalty.lots({account})"
        );
        self.show(&sql).await
    }

    /// The SQLSTATE that an operation is refused with, of which nothing must remain.
    pub async fn refused_call(&self, call: &str) -> Result<String> {
        let all = "select count(*), sum(points), sum(balance) from loyalty.entry";
        let before = self.show(all).await?;
        let code = self
            .refused(&format!("select * from loyalty.{call}"))
            .await?;
        assert_eq!(
            self.show(all).await?,
            before,
            "{call} was refused but left something"
        );
        Ok(code)
    }

    /// Law 11: nothing that does not hold.
    pub async fn verify(&self) -> Result<()> {
        assert_sound(&self.client).await?;
        assert_eq!(self.show("select * from loyalty.verify('p')").await?, "");
        Ok(())
    }
}
