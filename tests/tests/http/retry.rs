//! Idempotency (law 6): the key by header or argument, the stored answer for ever.

use crate::world::{World, points_of};
use anyhow::{Result, bail};
use loyalty_testkit::http::Answer;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn header_and_argument_are_the_same_key() -> Result<()> {
    let world = World::start("key_both").await?;
    let token = world.member(world.ann)?;
    let by_header = world
        .rpc_with_key(&token, "spend", "k-1", json!({"points": 10}))
        .await?;
    let argument = json!({"points": 10, "idempotency_key": "k-1"});
    let by_argument = world.rpc(&token, "spend", argument.clone()).await?;
    let by_both = world
        .rpc_with_key(&token, "spend", "k-1", argument.clone())
        .await?;
    by_header.ok()?;
    assert_eq!(by_header.text, by_argument.text);
    assert_eq!(by_header.text, by_both.text);
    let differing = world.rpc_with_key(&token, "spend", "k-2", argument).await?;
    differing.refused(400, "22023")?;
    assert_eq!(world.available(world.ann).await?, 990);
    Ok(())
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again() -> Result<()> {
    let world = World::start("key_lost").await?;
    let token = world.member(world.ann)?;
    let body = json!({"points": 10}).to_string();
    let address = world.api.url().trim_start_matches("http://").to_owned();
    let mut connection = TcpStream::connect(&address).await?;
    let request = format!(
        "POST /rpc/spend HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nIdempotency-Key: lost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).await?;
    let mut waits = 0;
    while world.available(world.ann).await? == 1000 {
        waits += 1;
        if waits > 500 {
            bail!("the call was never carried out");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // booked, and nobody read the answer
    drop(connection);
    let before = world.ledger().await?;
    let again = world
        .rpc_with_key(&token, "spend", "lost", json!({"points": 10}))
        .await?;
    assert_eq!(again.ok()?["balance"], 990);
    assert_eq!(world.ledger().await?, before);
    Ok(())
}

/// Every operation with a key: name, token, arguments.
async fn keyed_calls(world: &World) -> Result<Vec<(&'static str, String, Value)>> {
    let (member, admin) = (world.member(world.ann)?, world.admin()?);
    let mut ids = Vec::new();
    for (function, points) in [("spend", 40), ("hold", 30), ("hold", 20)] {
        let receipt = world
            .rpc(&member, function, json!({"points": points}))
            .await?
            .ok()?;
        ids.push(receipt["operation_id"].clone());
    }
    let grant = world
        .rpc(&admin, "grant", points_of(world.ann, 60))
        .await?
        .ok()?;
    Ok(vec![
        (
            "spend",
            member.clone(),
            json!({"points": 10, "reason": "coffee"}),
        ),
        (
            "hold",
            member.clone(),
            json!({"points": 10, "expires_in": "2 hours"}),
        ),
        (
            "capture",
            member.clone(),
            json!({"operation_id": ids[1], "points": 7}),
        ),
        ("release", member.clone(), json!({"operation_id": ids[2]})),
        (
            "transfer",
            member,
            json!({"points": 10, "to_member_no": "bob"}),
        ),
        (
            "refund",
            admin.clone(),
            json!({"account_id": world.ann, "operation_id": ids[0]}),
        ),
        (
            "revoke",
            admin.clone(),
            json!({"account_id": world.ann, "operation_id": grant["operation_id"], "policy": "debt"}),
        ),
        (
            "grant",
            admin,
            json!({"account_id": world.ann, "points": 10, "expires_on": "2026-06-30"}),
        ),
    ])
}

/// law 6: byte for byte, also when what it took has since expired.
#[tokio::test]
async fn every_operation_answers_the_same_across_an_expiry() -> Result<()> {
    let mut world = World::start("key_expiry").await?;
    let expiring = "select loyalty.grant($1, 500, expires_on => '2026-06-30')";
    world.sql.execute(expiring, &[&world.ann]).await?;
    let mut answers = Vec::new();
    for (function, token, arguments) in keyed_calls(&world).await? {
        let answer = world
            .rpc_with_key(&token, function, function, arguments.clone())
            .await?;
        answer.ok()?;
        answers.push((function, token, arguments, answer));
    }
    let before = world.ledger().await?;
    repeat(&world, &answers).await?;
    assert_eq!(world.ledger().await?, before, "a repeated call wrote");

    // the holds' time is over and the lots' day is past, first unbooked, then booked
    world.set_clock("2026-07-01 00:00+09").await?;
    repeat(&world, &answers).await?;
    assert_eq!(world.ledger().await?, before, "a repeated call wrote");
    let booked = world
        .sql
        .query_one("select lots from loyalty.expire('coin')", &[])
        .await?;
    assert!(booked.get::<_, i64>(0) > 0);
    repeat(&world, &answers).await?;

    // the same key for another request
    for (function, token, arguments, _) in &answers {
        let mut other = arguments.clone();
        other["reason"] = json!("something else");
        let answer = world.rpc_with_key(token, function, function, other).await?;
        answer.refused(409, "LY003")?;
    }
    let other = json!({"points": 11, "reason": "coffee"});
    let token = world.member(world.ann)?;
    world
        .rpc_with_key(&token, "spend", "spend", other)
        .await?
        .refused(409, "LY003")?;
    world.assert_sound().await
}

async fn repeat(world: &World, answers: &[(&str, String, Value, Answer)]) -> Result<()> {
    for (function, token, arguments, first) in answers {
        let again = world
            .rpc_with_key(token, function, function, arguments.clone())
            .await?;
        assert_eq!(again.text, first.text, "{function}");
        assert_eq!(again.status, 200);
    }
    Ok(())
}

#[tokio::test]
async fn a_key_is_the_accounts_own() -> Result<()> {
    let world = World::start("key_account").await?;
    let admin = world.admin()?;
    for (account, balance) in [(world.ann, 1010), (world.bob, 10)] {
        let answer = world
            .rpc_with_key(&admin, "grant", "same", points_of(account, 10))
            .await?;
        assert_eq!(answer.ok()?["balance"], balance);
    }
    Ok(())
}
