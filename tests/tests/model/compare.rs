//! What the extension tells, against what the model tells.

use crate::reference::Balance;
use crate::world::World;
use anyhow::{Result, ensure};
use chrono::{Duration, NaiveDate};
use std::fmt::Debug;
use tokio_postgres::Row;

pub fn same<T: PartialEq + Debug>(what: &str, extension: &T, model: &T) -> Result<()> {
    ensure!(
        extension == model,
        "{what}\n  extension: {extension:?}\n  model:     {model:?}"
    );
    Ok(())
}

fn balance_of(row: &Row) -> Result<Balance> {
    let next: Option<NaiveDate> = row.try_get("next_expiry_on")?;
    let points: Option<i64> = row.try_get("next_expiry_points")?;
    Ok(Balance {
        balance: row.try_get("balance")?,
        held: row.try_get("held")?,
        available: row.try_get("available")?,
        next: next.map(|day| (day, points.unwrap_or(0))),
    })
}

impl World {
    pub(crate) async fn explain(&self, who: u16, points: i64) -> Result<()> {
        let place = self.who(who);
        let account = &self.model.accounts[place];
        let sql = format!(
            "select expires_on, points, remaining from loyalty.explain_spend({}, {points}) order by step",
            account.id
        );
        let told = match self.client.query(&sql, &[]).await {
            Ok(rows) => {
                let read = |row: &Row| -> Result<(Option<NaiveDate>, i64, i64)> {
                    Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
                };
                Ok(rows.iter().map(read).collect::<Result<Vec<_>>>()?)
            }
            Err(error) => Err(error
                .code()
                .map_or(String::new(), |code| code.code().to_owned())),
        };
        let expected = if account.suspended {
            Err("LY004".to_owned())
        } else {
            match account.allocate(points, self.model.now, self.model.today(place)) {
                Some(taken) => Ok(taken
                    .iter()
                    .map(|&(lot, points)| {
                        (
                            account.lots[lot].day,
                            points,
                            account.lots[lot].remaining - points,
                        )
                    })
                    .collect()),
                None => Err("LY001".to_owned()),
            }
        };
        same(&sql, &told, &expected)
    }

    pub(crate) async fn look_back(&self, which: u16, minutes: u16) -> Result<()> {
        if self.past.is_empty() {
            return Ok(());
        }
        let at = self.past[usize::from(which) % self.past.len()].0
            + Duration::minutes(i64::from(minutes));
        let at = at.min(self.model.now);
        let Some((_, accounts)) = self.past.iter().rev().find(|(then, _)| *then <= at) else {
            return Ok(());
        };
        for account in accounts {
            let day = self.day(account.program, at).await?;
            let sql = format!(
                "select * from loyalty.balance({}, '{}'::timestamptz)",
                account.id,
                at.to_rfc3339()
            );
            let told = balance_of(&self.client.query_one(&sql, &[]).await?)?;
            same(
                &format!("in the past, {sql}"),
                &told,
                &account.balance(at, day),
            )?;
        }
        Ok(())
    }

    pub(crate) async fn look_ahead(&self, minutes: u32) -> Result<()> {
        let at = self.model.now + Duration::minutes(i64::from(minutes));
        for account in &self.model.accounts {
            let day = self.day(account.program, at).await?;
            let today = self.model.programs[account.program].today;
            let sql = format!(
                "select * from loyalty.balance({}, '{}'::timestamptz)",
                account.id,
                at.to_rfc3339()
            );
            let told = balance_of(&self.client.query_one(&sql, &[]).await?)?;
            same(
                &format!("in the future, {sql}"),
                &told,
                &account.balance_to_come(at, day, today),
            )?;
        }
        Ok(())
    }

    pub(crate) fn ids(&self) -> String {
        let ids: Vec<String> = self
            .model
            .accounts
            .iter()
            .map(|account| account.id.to_string())
            .collect();
        format!(
            "unnest(array[{}]::bigint[]) with ordinality a (id, place)",
            ids.join(", ")
        )
    }

    pub(crate) async fn compare_accounts(&self) -> Result<()> {
        let ids = self.ids();
        let sql = format!(
            "select b.* from {ids} cross join lateral loyalty.balance(a.id) b order by a.place"
        );
        let rows = self.client.query(&sql, &[]).await?;
        for (place, row) in rows.iter().enumerate() {
            let account = &self.model.accounts[place];
            account.check();
            same(
                &format!("balance of account {}", account.id),
                &balance_of(row)?,
                &self.model.balance(place),
            )?;
        }
        same("balances read", &rows.len(), &self.model.accounts.len())?;

        // an emptied lot may be shown or not
        let sql = format!(
            "select a.place, l.expires_on, l.granted, l.remaining, l.held, l.spendable, l.funding \
             from {ids} cross join lateral loyalty.lots(a.id) with ordinality l where remaining > 0 \
             order by a.place, l.ordinality"
        );
        type Line = (i64, Option<NaiveDate>, i64, i64, i64, bool, String);
        let read = |row: &Row| -> Result<Line> {
            Ok((
                row.try_get(0)?,
                row.try_get(1)?,
                row.try_get(2)?,
                row.try_get(3)?,
                row.try_get(4)?,
                row.try_get(5)?,
                row.try_get(6)?,
            ))
        };
        let told = self
            .client
            .query(&sql, &[])
            .await?
            .iter()
            .map(read)
            .collect::<Result<Vec<_>>>()?;
        let mut expected: Vec<Line> = Vec::new();
        for (place, account) in self.model.accounts.iter().enumerate() {
            let today = self.model.today(place);
            for lot in account.spend_order() {
                let pinned = account.pinned(lot, self.model.now);
                let lot = &account.lots[lot];
                if lot.remaining > 0 {
                    let spendable = lot.day.is_none_or(|day| day >= today);
                    let line = (
                        place as i64 + 1,
                        lot.day,
                        lot.granted,
                        lot.remaining,
                        pinned,
                        spendable,
                        lot.funding.clone(),
                    );
                    expected.push(line);
                }
            }
        }
        same("lots", &told, &expected)
    }

    /// Laws 3 and 10, and verify().
    pub async fn compare_journal(&self) -> Result<()> {
        for account in &self.model.accounts {
            let sql = format!(
                "select entry, operation_id, occurred_at, day, kind::text, points, balance, coalesce(held, 0), \
                 coalesce(debt, 0), (refers_to & 16777215)::integer, other_account_id, idempotency_key \
                 from loyalty.statement({})",
                account.id
            );
            let rows = self.client.query(&sql, &[]).await?;
            let mut balance = 0;
            for (place, row) in rows.iter().enumerate() {
                let number = place as i32 + 1;
                same("law 3: numbered without gaps", &row.try_get(0)?, &number)?;
                same(
                    "operation_id",
                    &row.try_get(1)?,
                    &account.operation_id(number),
                )?;
                let kind: String = row.try_get(4)?;
                let Some(entry) = account.entries.get(place) else {
                    anyhow::bail!(
                        "entry {number} of account {}, {kind}, is not the model's",
                        account.id
                    );
                };
                balance += entry.points;
                same(
                    &format!("entry {number} of account {}: kind", account.id),
                    &kind.as_str(),
                    &entry.kind,
                )?;
                let what = format!("entry {number} of account {}", account.id);
                same(&what, &row.try_get(2)?, &entry.at)?;
                same(&what, &row.try_get(3)?, &entry.day)?;
                same(&format!("{what}: points"), &row.try_get(5)?, &entry.points)?;
                same(
                    &format!("{what}: law 3, the balance after it"),
                    &row.try_get(6)?,
                    &balance,
                )?;
                same(&format!("{what}: balance"), &balance, &entry.balance)?;
                same(&format!("{what}: held"), &row.try_get(7)?, &entry.held)?;
                same(&format!("{what}: debt"), &row.try_get(8)?, &entry.debt)?;
                same(
                    &format!("{what}: refers_to"),
                    &row.try_get(9)?,
                    &entry.refers_to,
                )?;
                same(
                    &format!("{what}: other account"),
                    &row.try_get(10)?,
                    &entry.other,
                )?;
                same(&format!("{what}: key"), &row.try_get(11)?, &entry.key)?;
            }
            same(
                &format!("entries of account {}", account.id),
                &rows.len(),
                &account.entries.len(),
            )?;
        }
        for program in &self.model.programs {
            let sql = format!(
                "select coalesce(sum(j.points), 0)::bigint, \
                        coalesce(sum(j.points) filter (where j.side = 'other member'), 0)::bigint, \
                        (select count(*) from (select from loyalty.journal o where o.program_id = p.program_id \
                          group by o.operation_id having sum(o.points) <> 0) o) \
                   from loyalty.program p left join loyalty.journal j on j.program_id = p.program_id \
                  where p.code = '{}' group by p.program_id",
                program.code
            );
            let row = self.client.query_one(&sql, &[]).await?;
            let sums: (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            same(
                "law 10: sum of all sides, of transfers, operations that don't sum to zero",
                &sums,
                &(0, 0, 0),
            )?;
            self.verify(&format!("'{}'", program.code)).await?;
        }
        Ok(())
    }

    pub(crate) async fn verify(&self, program: &str) -> Result<()> {
        let sql = format!("select v::text from loyalty.verify({program}) v");
        let found: Vec<String> = self
            .client
            .query(&sql, &[])
            .await?
            .iter()
            .map(|row| row.try_get(0))
            .collect::<Result<_, _>>()?;
        same("law 11: verify", &found, &Vec::new())
    }

    pub fn entries(&self) -> usize {
        self.model
            .accounts
            .iter()
            .map(|account| account.entries.len())
            .sum()
    }
}
