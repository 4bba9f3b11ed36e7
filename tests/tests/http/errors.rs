//! Status and body for each code of design §5 that can be met today.

use crate::world::{World, points_of};
use anyhow::Result;
use loyalty_testkit::http::Answer;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn ly001_not_enough_points() -> Result<()> {
    let world = World::start("ly001").await?;
    let token = world.member(world.ann)?;
    for function in ["spend", "hold", "explain_spend"] {
        let body = world
            .rpc(&token, function, json!({"points": 1001}))
            .await?
            .refused(402, "LY001")?;
        // DETAIL has the figures
        let details = body["details"].as_str().unwrap_or_default();
        assert!(
            details.contains("1001") && details.contains("1000"),
            "{body}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn ly002_no_such_account_or_operation() -> Result<()> {
    let world = World::start("ly002").await?;
    let admin = world.admin()?;
    for token in [admin.clone(), world.operator()?] {
        for account in [0, -1, 999, i64::MAX] {
            world
                .rpc(&token, "spend", points_of(account, 1))
                .await?
                .refused(404, "LY002")?;
        }
    }
    let known = world.ann << 24;
    for operation in [known | 77, known, 0, -1, i64::MAX, world.zoe << 24 | 1] {
        for function in ["capture", "release", "refund", "revoke"] {
            let about = json!({"account_id": world.ann, "operation_id": operation});
            world
                .rpc(&admin, function, about)
                .await?
                .refused(404, "LY002")?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn ly003_key_of_another_request() -> Result<()> {
    let world = World::start("ly003").await?;
    let token = world.member(world.ann)?;
    world
        .rpc_with_key(&token, "spend", "k", json!({"points": 1}))
        .await?
        .ok()?;
    let before = world.ledger().await?;
    for (function, points) in [("spend", 2), ("hold", 1)] {
        let other = world
            .rpc_with_key(&token, function, "k", json!({"points": points}))
            .await?;
        other.refused(409, "LY003")?;
    }
    assert_eq!(world.ledger().await?, before);
    Ok(())
}

#[tokio::test]
async fn ly004_suspended_or_closed() -> Result<()> {
    let world = World::start("ly004").await?;
    let (token, admin) = (world.member(world.ann)?, world.admin()?);
    let hold = world
        .rpc(&token, "hold", json!({"points": 5}))
        .await?
        .ok()?;
    let about = json!({"operation_id": hold["operation_id"]});
    world
        .sql
        .execute("select loyalty.suspend_account($1)", &[&world.ann])
        .await?;
    let before = world.ledger().await?;
    for function in ["spend", "hold", "explain_spend"] {
        world
            .rpc(&token, function, json!({"points": 1}))
            .await?
            .refused(403, "LY004")?;
    }
    world
        .rpc(&token, "capture", about)
        .await?
        .refused(403, "LY004")?;
    let to_bob = json!({"points": 1, "to_account": world.bob});
    world
        .rpc(&token, "transfer", to_bob)
        .await?
        .refused(403, "LY004")?;
    assert_eq!(world.ledger().await?, before);
    // it can still be read, and still gets points
    world.get(&token, "/balance").await?.row()?;
    world
        .rpc(&admin, "grant", points_of(world.ann, 1))
        .await?
        .ok()?;

    world
        .sql
        .execute("select loyalty.close_account($1)", &[&world.bob])
        .await?;
    world
        .sql
        .execute("select loyalty.resume_account($1)", &[&world.ann])
        .await?;
    let before = world.ledger().await?;
    world
        .rpc(&admin, "grant", points_of(world.bob, 1))
        .await?
        .refused(403, "LY004")?;
    world
        .rpc(&admin, "spend", points_of(world.bob, 1))
        .await?
        .refused(403, "LY004")?;
    let to_closed = json!({"points": 1, "to_account": world.bob});
    world
        .rpc(&token, "transfer", to_closed)
        .await?
        .refused(403, "LY004")?;
    assert_eq!(world.ledger().await?, before);
    Ok(())
}

/// LY005 is what the tables answer; over HTTP nothing gets as far (see `what_is_read_…`).
#[tokio::test]
async fn ly005_is_for_sql() -> Result<()> {
    let world = World::start("ly005").await?;
    let refused = world.sql.execute("delete from loyalty.entry", &[]).await;
    let code = refused
        .err()
        .and_then(|error| error.code().map(|code| code.code().to_owned()));
    assert_eq!(code.as_deref(), Some("LY005"));
    let request = world.request(Method::DELETE, &world.operator()?, "/statement?entry=gt.0");
    Answer::of(request).await?.refused(403, "LY010")?;
    Ok(())
}

#[tokio::test]
async fn ly006_hold_no_longer_open() -> Result<()> {
    let world = World::start("ly006").await?;
    let token = world.member(world.ann)?;
    let hold = world
        .rpc(&token, "hold", json!({"points": 5}))
        .await?
        .ok()?;
    let about = json!({"operation_id": hold["operation_id"]});
    world.rpc(&token, "release", about.clone()).await?.ok()?;
    let before = world.ledger().await?;
    for function in ["capture", "release"] {
        world
            .rpc(&token, function, about.clone())
            .await?
            .refused(409, "LY006")?;
    }
    // a spend is no hold, whatever became of it
    let spend = world
        .rpc(&token, "spend", json!({"points": 5}))
        .await?
        .ok()?;
    let about = json!({"operation_id": spend["operation_id"]});
    world
        .rpc(&token, "capture", about)
        .await?
        .refused(400, "22023")?;
    assert_ne!(world.ledger().await?, before);
    Ok(())
}

#[tokio::test]
async fn ly009_not_signed_in() -> Result<()> {
    let world = World::start("ly009").await?;
    let before = world.ledger().await?;
    for path in [
        "/balance",
        "/lot",
        "/statement",
        "/rpc/explain_spend?points=1",
        "/rpc/spend?points=1",
    ] {
        world.get("", path).await?.refused(401, "LY009")?;
    }
    let about = json!({"account_id": world.ann, "operation_id": 1});
    for function in ["capture", "release", "refund", "revoke"] {
        world
            .rpc("", function, about.clone())
            .await?
            .refused(401, "LY009")?;
    }
    for function in ["spend", "hold", "grant", "explain_spend"] {
        world
            .rpc("", function, points_of(world.ann, 1))
            .await?
            .refused(401, "LY009")?;
    }
    let to_bob = json!({"points": 1, "to_account": world.bob});
    world
        .rpc("", "transfer", to_bob)
        .await?
        .refused(401, "LY009")?;
    for function in ["grant_many", "spend_many"] {
        world
            .rpc("", function, json!({"items": []}))
            .await?
            .refused(401, "LY009")?;
    }
    world
        .rpc("", "open_account", json!({"member_no": "x"}))
        .await?
        .refused(401, "LY009")?;
    // also where there is no such thing: strangers learn nothing by it
    world
        .rpc("", "spend", json!({"colour": "red"}))
        .await?
        .refused(401, "LY009")?;
    assert_eq!(world.ledger().await?, before);
    Ok(())
}

#[tokio::test]
async fn ly010_a_member_naming_another_account() -> Result<()> {
    let world = World::start("ly010").await?;
    let token = world.member(world.ann)?;
    let before = world.ledger().await?;
    for other in [world.bob, world.zoe, 999] {
        for function in ["spend", "hold", "explain_spend"] {
            world
                .rpc(&token, function, points_of(other, 1))
                .await?
                .refused(403, "LY010")?;
        }
        let about = json!({"account_id": other, "operation_id": other << 24 | 1});
        for function in ["capture", "release", "refund", "revoke"] {
            world
                .rpc(&token, function, about.clone())
                .await?
                .refused(403, "LY010")?;
        }
    }
    assert_eq!(world.ledger().await?, before);
    Ok(())
}

/// What writes is not to be had by GET, not even a stored answer.
#[tokio::test]
async fn get_on_what_writes_is_405() -> Result<()> {
    let world = World::start("get_405").await?;
    let (token, admin) = (world.member(world.ann)?, world.admin()?);
    let stored = json!({"points": 1, "idempotency_key": "k"});
    world.rpc(&token, "spend", stored).await?.ok()?;
    let before = world.ledger().await?;
    let (ann, operation) = (world.ann, world.ann << 24 | 1);
    let by_admin = [
        format!("grant?account_id={ann}&points=1"),
        format!("refund?account_id={ann}&operation_id={operation}"),
        format!("revoke?account_id={ann}&operation_id={operation}"),
        "grant_many?items=[]".to_owned(),
        "spend_many?items=[]".to_owned(),
        "open_account?member_no=x".to_owned(),
    ];
    let by_member = [
        "spend?points=1".to_owned(),
        "spend?points=1&idempotency_key=k".to_owned(),
        "hold?points=1".to_owned(),
        format!("capture?operation_id={operation}"),
        format!("release?operation_id={operation}"),
        format!("transfer?points=1&to_account={}", world.bob),
    ];
    for (calls, token) in [(&by_admin, &admin), (&by_member, &token)] {
        for call in calls {
            let answer = world.get(token, &format!("/rpc/{call}")).await?;
            answer.refused(405, "25006")?;
        }
    }
    assert_eq!(world.ledger().await?, before);
    Ok(())
}
