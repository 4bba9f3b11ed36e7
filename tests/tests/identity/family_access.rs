//! What family may (A8): see or spend a member's points, within a monthly limit, and nothing else.

use anyhow::Result;
use loyalty_tests::assert_sound;
use serde_json::json;

use crate::family::{BORN, KENJI, approve, family, invite, register, registration};
use crate::people::at_once;
use crate::world::{Member, PASSWORD, Session, World};

/// A8: the login of the family opens the program that invited, and no other.
#[tokio::test]
async fn a8_family_logs_in_to_the_inviting_program_only() -> Result<()> {
    let world = World::start("fam_login").await?;
    world.family_may("see", 0).await?;
    let (_, kenji) = family(&world).await?;
    let again = Session::of(world.log_in(KENJI, PASSWORD, "coin").await?.ok()?)?;
    assert_eq!(again.body["role"], "family");
    assert_eq!(again.body["account_id"], kenji.body["account_id"]);
    assert_eq!(world.rows(&again.access, "/balance").await?.len(), 1);
    let other = world.log_in(KENJI, PASSWORD, "mile").await?;
    other.refused(403, "LY010")?;
    Ok(())
}

fn spend(world: &World, token: &str, points: i64, key: &str) -> reqwest::RequestBuilder {
    let arguments = json!({ "points": points, "idempotency_key": key });
    world.post(token, "spend").json(&arguments)
}

/// A8: family sees or also spends, as the program lets them, at once when it changes its mind.
#[tokio::test]
async fn a8_the_program_decides_what_family_may() -> Result<()> {
    let world = World::start("fam_policy").await?;
    world.family_may("see", 0).await?;
    let (_, kenji) = family(&world).await?;
    assert_eq!(world.rows(&kenji.access, "/balance").await?.len(), 1);
    let asked = json!({ "points": 10 });
    let answer = world.rpc(&kenji.access, "spend", asked.clone()).await?;
    answer.refused(403, "LY010")?;
    world.family_may("spend", 100).await?;
    let receipt = world
        .rpc(&kenji.access, "spend", asked.clone())
        .await?
        .ok()?;
    assert_eq!(receipt["points"], 10);
    assert_eq!(receipt["account_id"], world.hanako.account_id);
    assert_eq!(world.available(&world.hanako).await?, 990);
    for settings in ["family_access => 'none'", "family_relations => '{child}'"] {
        world.family_may("spend", 100).await?;
        world.rows(&kenji.access, "/balance").await?;
        world.policy(settings).await?;
        let answer = world.get(&kenji.access, "/balance").await?;
        answer.refused(403, "LY010")?;
        let answer = world.rpc(&kenji.access, "spend", asked.clone()).await?;
        answer.refused(403, "LY010")?;
    }
    assert_eq!(world.available(&world.hanako).await?, 990);
    Ok(())
}

/// A8: the monthly limit holds for calls at the same time, and a key counts once.
#[tokio::test]
async fn a8_the_monthly_limit_holds() -> Result<()> {
    let mut world = World::start("fam_limit").await?;
    world.family_may("spend", 300).await?;
    let (hanako, kenji) = family(&world).await?;
    let again = async |world: &World| {
        let session = world.log_in(KENJI, PASSWORD, "coin").await?.ok()?;
        Session::of(session)
    };

    // eight at once: three fit
    let requests = (0..8)
        .map(|i| spend(&world, &kenji.access, 100, &format!("parallel-{i}")))
        .collect();
    let mut spent = 0;
    for answer in at_once(requests).await? {
        if answer.status == 200 {
            spent += 1;
        } else {
            answer.refused(403, "LY010")?;
        }
    }
    assert_eq!(spent, 3);
    assert_eq!(world.available(&world.hanako).await?, 700);

    // the limit is one of a month in the program's own zone
    world.set_clock("2026-06-30 23:59:59+09").await?;
    let kenji = again(&world).await?;
    let answer = world.rpc(&kenji.access, "spend", json!({ "points": 1 }));
    answer.await?.refused(403, "LY010")?;
    world.set_clock("2026-07-01 00:00+09").await?;
    let kenji = again(&world).await?;
    // the same key at once and again: one spend, counted once
    let requests = (0..5)
        .map(|_| spend(&world, &kenji.access, 200, "once"))
        .collect();
    let mut operations = Vec::new();
    for answer in at_once(requests).await? {
        operations.push(answer.ok()?["operation_id"].clone());
    }
    operations.dedup();
    assert_eq!(operations.len(), 1, "{operations:?}");
    let request = spend(&world, &kenji.access, 101, "too much");
    let answers = at_once(vec![request]).await?;
    let told = answers[0].refused(403, "LY010")?;
    assert_eq!(
        told["details"],
        "Limit 300, spent before 200, asked for 101."
    );
    let request = spend(&world, &kenji.access, 100, "the rest");
    at_once(vec![request]).await?[0].ok()?;
    // a key keeps its answer, also past the limit
    let request = spend(&world, &kenji.access, 200, "once");
    let kept = at_once(vec![request]).await?[0].ok()?;
    assert_eq!(kept["operation_id"], operations[0]);
    assert_eq!(world.available(&world.hanako).await?, 400);

    // the member's own spends do not count, and their keys are not the family's
    let own = spend(&world, &hanako, 50, "of the member");
    at_once(vec![own]).await?[0].ok()?;
    world.family_may("spend", 1000).await?;
    let same = spend(&world, &kenji.access, 50, "of the member");
    at_once(vec![same]).await?[0].refused(409, "LY003")?;

    // all of it is there for the member to see
    let rows = world.rows(&hanako, "/family").await?;
    assert_eq!(rows[0]["spent_this_month"], 300);
    assert_eq!(rows[0]["spent"], 600);
    let spends = world
        .rows(&hanako, "/family_spend?order=operation_id")
        .await?;
    let points: Vec<_> = spends.iter().map(|row| row["points"].clone()).collect();
    assert_eq!(points, [100, 100, 100, 200, 100]);
    assert!(spends.iter().all(|row| row["relation"] == "spouse"));
    assert_sound(&world.sql).await
}

/// A8: who has a login already keeps it; being family opens the inviting member's points beside
/// their own.
#[tokio::test]
async fn a8_a_member_may_be_family_of_another() -> Result<()> {
    let world = World::start("fam_member").await?;
    world.family_may("see", 0).await?;
    let hanako = world
        .registered(&world.hanako, "hanako@example.com")
        .await?;
    let zoe: &Member = &world.zoe;
    let own = world.registered(zoe, "zoe@example.com").await?;
    invite(&world, &hanako, "sibling", "zoe@example.com").await?;
    let token = approve(&world, "hanako@example.com", "zoe@example.com").await?;
    let session = register(&world, &token).await?;
    let seen = world.rows(&session.access, "/balance").await?;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0]["account_id"], world.hanako.account_id);
    let seen = world.rows(&own, "/balance").await?;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0]["account_id"], zoe.account_id);
    // a token that claims the rest of it
    let identity_id = world
        .sql
        .query_one(
            "select identity_id from loyalty.identity where login_id = 'zoe@example.com'",
            &[],
        )
        .await?
        .get::<_, i64>(0);
    for (program, account_id) in [
        ("coin", world.taro.account_id),
        ("mile", world.hanako.account_id),
        ("mile", zoe.account_id),
    ] {
        let token = world.claims(&json!({
            "role": "loyalty_family", "program": program, "account_id": account_id,
            "sub": format!("identity:{identity_id}"), "exp": 4_102_444_800_i64,
        }))?;
        let answer = world.get(&token, "/balance").await?;
        answer.refused(403, "LY010")?;
    }
    // nobody is their own family
    let other = json!({
        "relation": "spouse", "name": "x", "birth_date": BORN, "address": "h2@example.com",
    });
    world.rpc(&hanako, "invite_family", other).await?.ok()?;
    let token = approve(&world, "hanako@example.com", "h2@example.com").await?;
    world
        .sql
        .batch_execute(
            "update loyalty.identity set login_id = 'h2@example.com' where login_id = 'hanako@example.com'",
        )
        .await?;
    let arguments = registration(&token, BORN);
    let answer = world.rpc("", "register_family", arguments).await?;
    answer.refused(403, "LY010")?;
    Ok(())
}
