//! What a points page shows (C16), from what a member may read: the total, what was granted and
//! what expired, the total per criterion, each grant with its day and amount.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::world::World;

fn points(line: &Value) -> Result<i64> {
    line["points"].as_i64().context("no points")
}

/// C16: all figures of the page come from the member's own rows, and agree.
#[tokio::test]
async fn c16_the_figures_of_a_points_page_agree() -> Result<()> {
    let world = World::start("points_page").await?;
    let bob = world.bob;
    world
        .sql
        .batch_execute(&format!(
            "set loyalty.clock = '2026-04-01 10:00+09';
             select loyalty.create_rule('coin', 'mvp', 'manual', '{{\"points\": 300}}', title => 'Of the month'),
                    loyalty.create_rule('coin', 'idea', 'manual', '{{\"points\": 50}}', title => 'Idea');
             select loyalty.grant_by_rule({bob}, 'mvp');
             set loyalty.clock = '2026-04-20 10:00+09';
             select loyalty.grant_by_rule({bob}, 'idea', idempotency_key => 'first idea'),
                    loyalty.grant_by_rule({bob}, 'idea', idempotency_key => 'second idea');
             select loyalty.grant({bob}, 40, 'Welcome', granted_on => '2026-04-05', expires_on => '2026-05-31');
             select loyalty.spend_fifo({bob}, 15, 'coffee');
             set loyalty.clock = '2026-06-01 00:10+09';
             select loyalty.expire('coin')"
        ))
        .await?;
    let token = world.member(bob)?;
    let lines = async |query: &str| -> Result<Vec<Value>> {
        let path = format!("/statement?{query}");
        let answer = world.get(&token, &path).await?.ok()?;
        Ok(answer.as_array().context("no rows")?.clone())
    };

    // each grant with its day and amount, the latest first
    let grants = lines("kind=eq.grant&order=granted_on.desc,entry&select=granted_on,points,reason");
    let grants = grants.await?;
    let of = |day: &str, points: i64, reason: &str| json!({ "granted_on": day, "points": points, "reason": reason });
    assert_eq!(
        grants,
        [
            of("2026-04-20", 50, "Idea"),
            of("2026-04-20", 50, "Idea"),
            of("2026-04-05", 40, "Welcome"),
            of("2026-04-01", 300, "Of the month"),
        ]
    );
    // the total per criterion
    let mut totals = BTreeMap::new();
    for grant in &grants {
        let criterion = grant["reason"].as_str().context("no reason")?;
        *totals.entry(criterion).or_insert(0) += points(grant)?;
    }
    assert_eq!(
        totals,
        BTreeMap::from([("Idea", 100), ("Of the month", 300), ("Welcome", 40)])
    );
    // filtered by criterion and by day, sorted by amount
    assert_eq!(lines("reason=eq.Idea").await?.len(), 2);
    let april = lines("kind=eq.grant&granted_on=lt.2026-04-20&order=points").await?;
    let april: Result<Vec<i64>> = april.iter().map(points).collect();
    assert_eq!(april?, [40, 300]);
    // what expired, and which day was its last
    let expired = lines("kind=eq.expire&select=points,day,expires_on").await?;
    assert_eq!(
        expired,
        [json!({ "points": -25, "day": "2026-06-01", "expires_on": "2026-05-31" })]
    );

    // granted, less what was spent and expired, is the total
    let all: Result<Vec<i64>> = lines("order=entry").await?.iter().map(points).collect();
    let balance = world.get(&token, "/balance").await?.row()?;
    assert_eq!(balance["balance"], all?.iter().sum::<i64>());
    assert_eq!(balance["balance"], 440 - 15 - 25);
    assert_eq!(balance["available"], 400);
    let left = world.get(&token, "/lot?remaining=gt.0").await?;
    let left = left.column("remaining")?;
    assert_eq!(left.iter().filter_map(Value::as_i64).sum::<i64>(), 400);
    Ok(())
}
