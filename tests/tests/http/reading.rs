//! GET /balance, /lot and /statement: rows by role, filters, order, pages, CSV (C16).

use crate::world::World;
use anyhow::Result;
use loyalty_testkit::http::Answer;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn balance_is_one_row_for_a_member_and_the_program_for_an_admin() -> Result<()> {
    let world = World::start("read_balance").await?;
    let ann = world
        .get(&world.member(world.ann)?, "/balance")
        .await?
        .row()?;
    assert_eq!(
        ann,
        json!({
            "account_id": world.ann, "member_no": "ann", "program": "coin", "point_name": "coin",
            "balance": 1000, "held": 0, "available": 1000,
            "next_expiry_on": "2029-06-30", "next_expiry_points": 1000
        })
    );
    let admin = world.admin()?;
    let all = world.get(&admin, "/balance?order=account_id").await?;
    assert_eq!(all.column("member_no")?, ["ann", "bob"]);
    let bob = world
        .get(&admin, "/balance?member_no=eq.bob")
        .await?
        .row()?;
    assert_eq!(bob["next_expiry_on"], json!(null));
    let others = world.get(&world.admin_of("mile")?, "/balance").await?;
    assert_eq!(others.column("member_no")?, ["zoe"]);
    let everybody = world
        .get(&world.operator()?, "/balance?order=account_id")
        .await?;
    assert_eq!(everybody.column("member_no")?, ["ann", "bob", "zoe"]);
    Ok(())
}

#[tokio::test]
async fn a_members_filter_reaches_no_other_account() -> Result<()> {
    let world = World::start("read_own").await?;
    let token = world.member(world.bob)?;
    for view in ["balance", "lot", "statement"] {
        for other in [world.ann, world.zoe] {
            let path = format!("/{view}?account_id=eq.{other}");
            assert_eq!(world.get(&token, &path).await?.ok()?, json!([]), "{path}");
        }
        let path = format!("/{view}?or=(account_id.gt.0,account_id.is.null)");
        let seen = world.get(&token, &path).await?.column("account_id")?;
        assert!(seen.iter().all(|id| *id == world.bob), "{path}: {seen:?}");
    }
    // nor does an administrator's filter reach another program
    let admin = world.admin_of("mile")?;
    for view in ["balance", "lot", "statement"] {
        let seen = world
            .get(&admin, &format!("/{view}"))
            .await?
            .column("account_id")?;
        assert_eq!(seen, [world.zoe], "{view}");
    }
    Ok(())
}

#[tokio::test]
async fn reading_is_refused_to_granters_and_strangers() -> Result<()> {
    let world = World::start("read_refused").await?;
    for view in ["/balance", "/lot", "/statement"] {
        world
            .get(&world.granter()?, view)
            .await?
            .refused(403, "LY010")?;
        world.get("", view).await?.refused(401, "LY009")?;
    }
    Ok(())
}

#[tokio::test]
async fn lots_come_in_the_order_they_are_spent() -> Result<()> {
    let world = World::start("read_lot").await?;
    let grant = "select loyalty.grant($1, 30, expires_on => '2026-07-31', funding => 'shop a'),
                        loyalty.grant($1, 20, expires_on => '2026-06-30'),
                        loyalty.grant($1, 10, expiry => 'never')";
    world.sql.execute(grant, &[&world.ann]).await?;
    let token = world.member(world.ann)?;
    world
        .rpc(&token, "hold", json!({"points": 25}))
        .await?
        .ok()?;
    let lots = world.get(&token, "/lot").await?.ok()?;
    let of = |expires_on: serde_json::Value, granted: i64, held: i64, funding: &str| {
        json!({ "account_id": world.ann, "expires_on": expires_on, "granted": granted,
                "remaining": granted, "held": held, "spendable": true, "funding": funding })
    };
    assert_eq!(
        lots,
        json!([
            of(json!("2026-06-30"), 20, 20, "program"),
            of(json!("2026-07-31"), 30, 5, "shop a"),
            of(json!("2029-06-30"), 1000, 0, "program"),
            of(json!(null), 10, 0, "program"),
        ])
    );
    Ok(())
}

/// Bob's journal: four entries on three days.
async fn with_statement(label: &str) -> Result<World> {
    let world = World::start(label).await?;
    let id = world.bob;
    world
        .sql
        .batch_execute(&format!(
            "set loyalty.clock = '2026-06-01 00:30+09';
             select loyalty.grant({id}, 500, 'welcome, \"friend\"');
             set loyalty.clock = '2026-06-02 23:59+09';
             select loyalty.spend_fifo({id}, 100, 'coffee', 'order-1');
             select loyalty.spend_fifo({id}, 50);
             set loyalty.clock = '2026-06-03 00:00+09';
             select loyalty.grant({id}, 7)"
        ))
        .await?;
    Ok(world)
}

#[tokio::test]
async fn statement_filters_sorts_and_pages() -> Result<()> {
    let world = with_statement("statement").await?;
    let token = world.member(world.bob)?;
    let entries = async |query: &str| -> Result<Vec<serde_json::Value>> {
        world
            .get(&token, &format!("/statement{query}"))
            .await?
            .column("entry")
    };
    assert_eq!(entries("?order=entry.desc").await?, [4, 3, 2, 1]);
    assert_eq!(entries("?kind=eq.spend&order=entry").await?, [2, 3]);
    assert_eq!(
        entries("?kind=in.(grant,refund)&order=entry").await?,
        [1, 4]
    );
    // the program's days: the first entry was booked on 31 May in UTC
    assert_eq!(
        entries("?day=gte.2026-06-01&day=lte.2026-06-02&order=entry").await?,
        [1, 2, 3]
    );
    assert_eq!(entries("?day=eq.2026-06-03").await?, [4]);
    assert_eq!(entries("?order=points.asc,entry.asc").await?, [2, 3, 4, 1]);
    assert_eq!(entries("?order=entry&limit=2&offset=1").await?, [2, 3]);
    assert_eq!(entries("?idempotency_key=eq.order-1").await?, [2]);
    let lines = world.get(&token, "/statement?order=entry").await?;
    assert_eq!(lines.column("balance")?, [500, 400, 350, 357]);
    assert_eq!(lines.column("points")?, [500, -100, -50, 7]);
    // a filter that makes no sense is the caller's mistake
    world
        .get(&token, "/statement?kind=eq.gift")
        .await?
        .error(400, "22P02")?;
    world
        .get(&token, "/statement?day=eq.2026-02-30")
        .await?
        .error(400, "22008")?;
    world
        .get(&token, "/statement?colour=eq.red")
        .await?
        .error(400, "42703")?;
    Ok(())
}

#[tokio::test]
async fn statement_pages_by_range() -> Result<()> {
    let world = with_statement("range").await?;
    let token = world.member(world.bob)?;
    let page = async |range: &str, count: &str| {
        let request = world
            .request(Method::GET, &token, "/statement?order=entry")
            .header("Range-Unit", "items")
            .header("Range", range)
            .header("Prefer", count);
        Answer::of(request).await
    };
    let first = page("0-1", "count=exact").await?;
    assert_eq!(
        (first.status, first.header("Content-Range")),
        (206, "0-1/4")
    );
    let uncounted = page("2-9", "count=none").await?;
    assert_eq!(
        (uncounted.status, uncounted.header("Content-Range")),
        (200, "2-3/*")
    );
    assert_eq!(uncounted.column("entry")?, [3, 4]);
    let beyond = page("10-19", "count=exact").await?;
    assert_eq!(beyond.status, 416, "{}", beyond.text);
    Ok(())
}

#[tokio::test]
async fn statement_as_csv() -> Result<()> {
    let world = with_statement("csv").await?;
    let columns = "entry,day,kind,points,balance,reason";
    let request = world
        .request(
            Method::GET,
            &world.member(world.bob)?,
            &format!("/statement?select={columns}&order=entry&limit=2"),
        )
        .header("Accept", "text/csv");
    let answer = Answer::of(request).await?;
    assert_eq!(answer.status, 200);
    assert!(answer.header("Content-Type").starts_with("text/csv"));
    let expected = format!(
        "{columns}\n1,2026-06-01,grant,500,500,\"welcome, \"\"friend\"\"\"\n2,2026-06-02,spend,-100,400,coffee"
    );
    assert_eq!(answer.text.trim_end(), expected);
    Ok(())
}

#[tokio::test]
async fn what_is_read_cannot_be_written() -> Result<()> {
    let world = World::start("read_only").await?;
    let before = world.ledger().await?;
    let tokens = [
        world.member(world.ann)?,
        world.granter()?,
        world.admin()?,
        world.operator()?,
    ];
    for view in ["/balance", "/lot", "/statement"] {
        for method in [Method::POST, Method::PATCH, Method::PUT, Method::DELETE] {
            for token in &tokens {
                let path = format!("{view}?account_id=eq.{}", world.ann);
                let request = world.request(method.clone(), token, &path);
                let answer = Answer::of(request.json(&json!({"account_id": 5}))).await?;
                // PostgREST itself refuses a PUT that it could not carry out
                assert!(
                    (400..500).contains(&answer.status),
                    "{method} {view}: {answer:?}"
                );
                if method != Method::PUT {
                    answer.refused(403, "LY010")?;
                }
            }
        }
    }
    assert_eq!(world.ledger().await?, before);
    Ok(())
}
