//! Notices (C18): what is queued for whom and when, what becomes of it, and the texts.

mod delivery;
mod login;
mod occasion;
mod preference;
mod setting;
mod template;

use anyhow::{Context as _, Result, ensure};
use loyalty_tests::{World, rows};
use std::ops::Deref;
use tokio_postgres::Client;

/// A database of its own with the program `club` in Tokyo, which sends all four kinds, and
/// member `ann`.
pub struct Club {
    world: World,
    pub ann: i64,
}

impl Deref for Club {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Club {
    /// On 2025-06-10 at 10:00 in Tokyo.
    pub async fn open(name: &str) -> Result<Self> {
        let world = World::open(name).await?;
        world.at("2025-06-10 10:00+09").await?;
        world
            .run(
                "select loyalty.create_program('club', 'Sample Club', point_name => 'coin');
                 select loyalty.set_notice_sender('club', email => 'Sample Club <points@example.com>');
                 select loyalty.enable_notices('club');
                 select loyalty.set_member('club', 'ann', name => '山田 花子', email => 'ann@example.com')",
            )
            .await?;
        let mut club = Club { world, ann: 0 };
        club.ann = club
            .number("select loyalty.open_account('club', 'ann')")
            .await?;
        Ok(club)
    }

    /// The only row of a query.
    pub async fn row(&self, sql: &str) -> Result<String> {
        let rows = self.rows(sql).await?;
        ensure!(rows.len() == 1, "{sql}: {rows:?}");
        Ok(rows[0].clone())
    }

    pub async fn number(&self, sql: &str) -> Result<i64> {
        Ok(self.row(sql).await?.parse()?)
    }

    /// A grant of so many points to an account, which lapse after that day (never when empty).
    pub async fn grant(&self, account_id: i64, points: i64, expires_on: &str) -> Result<()> {
        let day = match expires_on {
            "" => "infinity",
            day => day,
        };
        self.run(&format!(
            "select loyalty.grant({account_id}, {points}, expires_on => '{day}')"
        ))
        .await
    }

    /// Queues the notices of a kind for the day that it is in the program, in steps of two
    /// members, as the schedule does; how many.
    pub async fn queue(&self, kind: &str) -> Result<i64> {
        queue(&self.client, "club", kind).await
    }

    /// What there is of a kind for an account, oldest first: occasion, points, day.
    pub async fn told(&self, account_id: i64, kind: &str) -> Result<Vec<String>> {
        self.rows(&format!(
            "select occasion, points, expires_on, expiring_points from loyalty.notice
              where account_id = {account_id} and kind = '{kind}' order by notice_id"
        ))
        .await
    }

    /// Claims, and reports each as sent: address and subject of each, in order.
    pub async fn deliver(&self) -> Result<Vec<String>> {
        let sent = self
            .rows(
                "select c.address, c.subject, loyalty.notice_sent(c.notice_id, c.attempt)
                   from loyalty.lease_notices(1000) with ordinality c order by c.ordinality",
            )
            .await?;
        Ok(sent)
    }
}

pub async fn queue(client: &Client, program: &str, kind: &str) -> Result<i64> {
    let mut queued = 0;
    let mut last = String::from("null");
    loop {
        let step = rows(
            client,
            &format!(
                "select q.last_account, q.queued
                   from loyalty.program p
                  cross join loyalty_private.queue_{kind}_notices(p.program_id, loyalty.today(p.code), {last}, 2) q
                  where p.code = '{program}'"
            ),
        )
        .await?;
        ensure!(step.len() == 1, "{step:?}");
        let (account, count) = step[0].split_once('|').context("two columns")?;
        queued += count.parse::<i64>()?;
        if account.is_empty() {
            return Ok(queued);
        }
        last = account.to_owned();
    }
}
