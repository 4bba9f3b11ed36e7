//! Plays steps on the extension and on the plain model, and compares after each.

use crate::compare::same;
use crate::operation::Model;
use crate::reference::{Account, Call, Program, Receipt, Request};
use crate::request::{literal, number};
use crate::step::{Bulk, Clock, Step, Terms, World as Shape};
use anyhow::{Context as _, Result};
use chrono::{DateTime, Days, Duration, Months, NaiveDate, Utc};
use tokio_postgres::{Client, Row};

const RECEIPT: &str = "select r.operation_id, r.account_id, r.kind::text as kind, r.points, r.balance, \
     r.available, r.occurred_at, \
     array(select nullif(l.expires_on, 'infinity') from unnest(r.lots) l) as days, \
     array(select l.points from unnest(r.lots) l) as lot_points, r::text as whole from ";

pub struct World {
    pub(crate) client: Client,
    pub(crate) model: Model,
    /// The accounts as they stood after the last step of each instant.
    pub(crate) past: Vec<(DateTime<Utc>, Vec<Account>)>,
    /// Calls that made an entry under a key, and the receipt's text.
    kept: Vec<(Request, String)>,
    pub(crate) keys: usize,
}

impl World {
    pub async fn open(client: Client, shape: &Shape) -> Result<Self> {
        let now: DateTime<Utc> = "2024-01-10T15:30:00Z".parse()?;
        let mut model = Model {
            now,
            programs: Vec::new(),
            accounts: Vec::new(),
        };
        client
            .batch_execute(&format!(
                "set loyalty.clock = '{now}'; set timezone = 'Europe/Paris'"
            ))
            .await?;
        // a name of its own, for cases share a database
        let first: i64 = client
            .query_one("select count(*) from loyalty.program", &[])
            .await?
            .try_get(0)?;
        for (place, terms) in shape.programs.iter().enumerate() {
            let code = format!("p{}", first + place as i64);
            client
                .execute(
                    &format!(
                        "select loyalty.create_program(code => '{code}', name => 'Model', time_zone => '{}', \
                         expiry => '{}', refund_grace_days => {})",
                        terms.zone,
                        terms.policy.text(),
                        number(terms.grace.map(|days| days as i64)),
                    ),
                    &[],
                )
                .await?;
            let today = now.date_naive();
            model.programs.push(Program {
                code: code.clone(),
                zone: terms.zone,
                policy: terms.policy,
                grace: terms.grace,
                today,
            });
            for member in 0..shape.members {
                let open = format!(
                    "select loyalty.open_account(program => '{code}', member_no => 'm{member}')"
                );
                let id: i64 = client.query_one(&open, &[]).await?.try_get(0)?;
                let again: i64 = client.query_one(&open, &[]).await?.try_get(0)?;
                same("open_account again", &again, &id)?;
                model.accounts.push(Account {
                    id,
                    program: place,
                    suspended: false,
                    debt: 0,
                    lots: Vec::new(),
                    holds: Vec::new(),
                    entries: Vec::new(),
                    keys: Default::default(),
                });
            }
        }
        let mut world = World {
            client,
            model,
            past: Vec::new(),
            kept: Vec::new(),
            keys: 0,
        };
        world.set_clock(now).await?;
        Ok(world)
    }

    /// PostgreSQL's own time zones tell the day.
    pub(crate) async fn day(&self, program: usize, at: DateTime<Utc>) -> Result<NaiveDate> {
        let zone = self.model.programs[program].zone;
        let row = self
            .client
            .query_one(
                &format!(
                    "select timezone('{zone}', '{}'::timestamptz)::date",
                    at.to_rfc3339()
                ),
                &[],
            )
            .await?;
        Ok(row.try_get(0)?)
    }

    async fn set_clock(&mut self, now: DateTime<Utc>) -> Result<()> {
        self.model.now = now;
        self.client
            .batch_execute(&format!("set loyalty.clock = '{}'", now.to_rfc3339()))
            .await?;
        for program in 0..self.model.programs.len() {
            let today = self.day(program, now).await?;
            let code = &self.model.programs[program].code;
            let told: NaiveDate = self
                .client
                .query_one(&format!("select loyalty.today('{code}')"), &[])
                .await?
                .try_get(0)?;
            same("today", &told, &today)?;
            self.model.programs[program].today = today;
        }
        Ok(())
    }

    pub async fn play(&mut self, place: usize, step: &Step) -> Result<()> {
        self.take(step)
            .await
            .with_context(|| format!("step {place}, {step:?}, at {}", self.model.now))?;
        self.compare_accounts()
            .await
            .with_context(|| format!("after step {place}, {step:?}, at {}", self.model.now))?;
        if place % 16 == 15 {
            self.compare_journal()
                .await
                .with_context(|| format!("after step {place}"))?;
        }
        if self
            .past
            .last()
            .is_some_and(|(at, _)| *at == self.model.now)
        {
            self.past.pop();
        }
        self.past
            .push((self.model.now, self.model.accounts.clone()));
        Ok(())
    }

    async fn take(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Clock(clock) => self.move_clock(clock).await,
            Step::Suspend { who, suspended } => self.suspend(*who, *suspended).await,
            Step::Expire {
                program,
                back,
                batch,
            } => self.expire(*program, *back, *batch).await,
            Step::Repeat { which, changed } => self.repeat(*which, *changed).await,
            Step::Bulk { spend, items } => self.bulk(*spend, items).await,
            Step::Explain { who, points } => self.explain(*who, *points).await,
            Step::LookBack { which, minutes } => self.look_back(*which, *minutes).await,
            Step::LookAhead { minutes } => self.look_ahead(*minutes).await,
            _ => {
                let Some(request) = self.request(step) else {
                    return Ok(());
                };
                self.call(&request).await
            }
        }
    }

    /// The receipt and its text, or the code of the refusal.
    async fn ask(&self, sql: &str) -> Result<Result<(Receipt, String), String>> {
        let row = match self.client.query_one(&format!("{RECEIPT}{sql}"), &[]).await {
            Ok(row) => row,
            Err(error) => {
                let code = error.code().map(|code| code.code().to_owned());
                return Ok(Err(code.with_context(|| format!("{sql}: {error}"))?));
            }
        };
        let days: Vec<Option<NaiveDate>> = row.try_get("days")?;
        let points: Vec<i64> = row.try_get("lot_points")?;
        let receipt = Receipt {
            lots: days.into_iter().zip(points).collect(),
            ..receipt(&row)?
        };
        Ok(Ok((receipt, row.try_get("whole")?)))
    }

    async fn call(&mut self, request: &Request) -> Result<()> {
        let sql = self.sql(request);
        let told = self.ask(&sql).await?;
        let whole = told.as_ref().ok().map(|(_, whole)| whole.clone());
        let expected = self.model.call(request).map_err(str::to_owned);
        same(&sql, &told.map(|(receipt, _)| receipt), &expected)?;
        if let (Some(whole), Some(_)) = (whole, &request.key) {
            match self.kept.iter().find(|(kept, _)| kept == request) {
                Some((_, first)) => same("law 6: the first receipt again", &whole, first)?,
                None => self.kept.push((request.clone(), whole)),
            }
        }
        Ok(())
    }

    async fn repeat(&mut self, which: u16, changed: bool) -> Result<()> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let mut request = self.kept[usize::from(which) % self.kept.len()].0.clone();
        if changed {
            match &mut request.call {
                Call::Grant { points, .. }
                | Call::Spend { points }
                | Call::Hold { points, .. }
                | Call::Transfer { points, .. } => *points += 1,
                Call::Capture { points, .. }
                | Call::Refund { points, .. }
                | Call::Revoke { points, .. } => {
                    *points = Some(points.unwrap_or(0) + 1);
                }
                Call::Release { entry } => *entry += 1,
            }
        }
        self.call(&request).await
    }

    async fn bulk(&mut self, spend: bool, items: &[Bulk]) -> Result<()> {
        let mut requests = Vec::new();
        let mut texts = Vec::new();
        for item in items {
            let account = self.who(item.who);
            let key = self.key(item.key);
            let id = self.model.accounts[account].id;
            let call = if spend {
                Call::Spend {
                    points: item.terms.points,
                }
            } else {
                self.terms(
                    account,
                    &Terms {
                        expiry: None,
                        ..item.terms.clone()
                    },
                )
            };
            let mut text = format!(r#"{{"account_id": {id}, "points": {}"#, item.terms.points);
            let mut add = |name: &str, value: Option<String>| {
                if let Some(value) = value {
                    text += &format!(r#", "{name}": "{value}""#);
                }
            };
            add("idempotency_key", key.clone());
            if let Call::Grant {
                granted_on,
                expires_on,
                funding,
                ..
            } = &call
            {
                add("granted_on", granted_on.map(|day| day.to_string()));
                add("expires_on", expires_on.map(|day| day.to_string()));
                add("funding", funding.clone());
            }
            texts.push(text + "}");
            requests.push(Request { account, key, call });
        }
        let function = if spend { "spend_many" } else { "grant_many" };
        let sql = format!(
            "select item, operation_id, account_id, kind::text, points, balance, available, occurred_at, error_code \
             from loyalty.{function}('[{}]') order by item",
            texts.join(", ")
        );
        let rows = self.client.query(&sql, &[]).await?;
        same("items answered", &rows.len(), &requests.len())?;
        for (row, request) in rows.iter().zip(&requests) {
            let code: Option<String> = row.try_get("error_code")?;
            let told = match code {
                Some(code) => Err(code),
                None => Ok(receipt(row)?),
            };
            let expected = self.model.call(request).map_err(str::to_owned);
            let expected = expected.map(|receipt| Receipt {
                lots: Vec::new(),
                ..receipt
            });
            same(&format!("item {request:?} of {sql}"), &told, &expected)?;
        }
        Ok(())
    }

    async fn expire(&mut self, program: u16, back: Option<u8>, batch: bool) -> Result<()> {
        let program = usize::from(program) % self.model.programs.len();
        let as_of =
            back.map(|days| self.model.programs[program].today - Days::new(u64::from(days)));
        let sql = format!(
            "select lots, points from loyalty.expire(program => '{}', as_of => {}::date, batch_size => {})",
            self.model.programs[program].code,
            literal(as_of),
            if batch { "1" } else { "null" },
        );
        let mut told = (0, 0);
        loop {
            let row = self.client.query_one(&sql, &[]).await?;
            let (lots, points): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            told = (told.0 + lots, told.1 + points);
            if lots == 0 || !batch {
                break;
            }
        }
        let expected = self
            .model
            .expire(program, as_of)
            .map_err(|code| anyhow::anyhow!(code))?;
        same(&sql, &told, &expected)
    }

    async fn suspend(&mut self, who: u16, suspended: bool) -> Result<()> {
        let account = self.who(who);
        let function = if suspended {
            "suspend_account"
        } else {
            "resume_account"
        };
        let id = self.model.accounts[account].id;
        self.client
            .execute(&format!("select loyalty.{function}({id})"), &[])
            .await?;
        self.model.accounts[account].suspended = suspended;
        Ok(())
    }

    async fn move_clock(&mut self, clock: &Clock) -> Result<()> {
        let now = self.model.now;
        let next = match clock {
            Clock::Minutes(minutes) => now + Duration::minutes(i64::from(*minutes)),
            Clock::Days(days) => now + Duration::days(i64::from(*days)),
            Clock::Months(months) => now + Months::new(u32::from(*months)),
            Clock::Midnight { program, late } => {
                let program =
                    &self.model.programs[usize::from(*program) % self.model.programs.len()];
                let sql = format!(
                    "select timezone('{}', (date '{}' + 1)::timestamp) {} interval '1 microsecond'",
                    program.zone,
                    program.today,
                    if *late { "+" } else { "-" },
                );
                self.client.query_one(&sql, &[]).await?.try_get(0)?
            }
        };
        self.set_clock(next.max(now)).await
    }
}

/// What single calls and items of many have in common: all but the lots.
fn receipt(row: &Row) -> Result<Receipt> {
    Ok(Receipt {
        operation_id: row.try_get("operation_id")?,
        account_id: row.try_get("account_id")?,
        kind: row.try_get("kind")?,
        points: row.try_get("points")?,
        balance: row.try_get("balance")?,
        available: row.try_get("available")?,
        at: row.try_get("occurred_at")?,
        lots: Vec::new(),
    })
}
