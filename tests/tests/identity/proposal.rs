//! Grants that take two administrators (P12).

use anyhow::Result;
use loyalty_testkit::token;
use loyalty_tests::sqlstate;
use serde_json::{Value, json};

use crate::people::at_once;
use crate::staff::{granted, two_administrators};
use crate::world::World;

/// P12: above the limit nobody grants alone, by no function; a key that was used before keeps
/// its answer.
#[tokio::test]
async fn p12_grants_above_the_limit_take_two() -> Result<()> {
    let world = World::start("staff_limit").await?;
    let admin = world.admin("coin")?;
    let before = granted(&world, &admin, 5000, "before the limit")
        .await?
        .ok()?;
    world.policy("approval_above => 1000").await?;
    let kept = granted(&world, &admin, 5000, "before the limit")
        .await?
        .ok()?;
    assert_eq!(kept["operation_id"], before["operation_id"]);
    for token in [&admin, &world.operator()?, &world.granter("coin")?] {
        let answer = granted(&world, token, 1001, "above").await?;
        let told = answer.refused(403, "LY010")?;
        assert!(
            told["hint"]
                .as_str()
                .is_some_and(|hint| hint.contains("/rpc/propose_grant"))
        );
    }
    granted(&world, &admin, 1000, "at the limit").await?.ok()?;
    world
        .sql
        .batch_execute("select loyalty.create_rule('coin', 'mvp', 'manual', '{\"points\": 3000}')")
        .await?;
    let by_rule = json!({ "account_id": world.taro.account_id, "rule": "mvp" });
    let answer = world.rpc(&admin, "grant_by_rule", by_rule).await?;
    answer.refused(403, "LY010")?;
    let item = |key: &str, points: i64| json!({ "account_id": world.taro.account_id, "points": points, "idempotency_key": key });
    let items = json!({ "items": [item("small", 10), item("big", 1001)], "program": "coin" });
    for token in [&admin, &world.operator()?] {
        let answer = world.rpc(token, "grant_many", items.clone()).await?;
        answer.refused(403, "LY010")?;
    }
    let items =
        json!({ "items": [item("small", 10), item("before the limit", 5000)], "program": "coin" });
    let rows = world.rpc(&admin, "grant_many", items).await?.ok()?;
    assert_eq!(rows[1]["operation_id"], before["operation_id"]);
    assert_eq!(world.available(&world.taro).await?, 1000 + 5000 + 1000 + 10);
    // one administrator does not lift the limit of one
    for policy in [
        json!({ "approval_above": 1001 }),
        json!({ "clear": ["approval_above"] }),
    ] {
        let answer = world.rpc(&admin, "set_access_policy", policy).await?;
        answer.refused(403, "LY010")?;
    }
    let policy = json!({ "approval_above": 999 });
    world.rpc(&admin, "set_access_policy", policy).await?.ok()?;
    let policy = json!({ "clear": ["approval_above"], "program": "coin" });
    let operator = world.operator()?;
    world
        .rpc(&operator, "set_access_policy", policy)
        .await?
        .ok()?;
    granted(&world, &admin, 1001, "above").await?.ok()?;
    // another program asks for nothing of the kind
    let elsewhere = json!({ "account_id": world.zoe.account_id, "points": 9999 });
    world
        .rpc(&world.admin("mile")?, "grant", elsewhere)
        .await?
        .ok()?;
    Ok(())
}

/// P12: one administrator proposes, another approves; once, recorded.
#[tokio::test]
async fn p12_one_proposes_and_another_approves() -> Result<()> {
    let world = World::start("staff_two").await?;
    let (one, two) = two_administrators(&world).await?;
    world.policy("approval_above => 1000").await?;
    let wanted = json!({
        "account_id": world.taro.account_id, "points": 30000, "reason": "MVP of the year",
        "expires_on": "2027-03-31",
    });
    let proposed = world
        .rpc(&one, "propose_grant", wanted.clone())
        .await?
        .ok()?;
    assert_eq!(proposed["state"], "open");
    let which = json!({ "proposal_id": proposed["proposal_id"] });
    // neither who proposed it, nor who cannot be told from them, nor strangers
    for token in [&one, &world.admin("coin")?] {
        let answer = world.rpc(token, "approve_grant", which.clone()).await?;
        answer.refused(403, "LY010")?;
    }
    let answer = world
        .rpc(&world.admin("coin")?, "propose_grant", wanted.clone())
        .await?;
    answer.refused(403, "LY010")?;
    let stranger = world.person("loyalty_admin", 99_999, "mile")?;
    let answer = world.rpc(&stranger, "approve_grant", which.clone()).await?;
    answer.refused(404, "LY002")?;
    for token in [&world.granter("coin")?, &stranger] {
        assert_ne!(
            world
                .rpc(token, "reject_grant", which.clone())
                .await?
                .status,
            200
        );
    }
    assert_eq!(world.available(&world.taro).await?, 1000);

    let receipt = world
        .rpc(&two, "approve_grant", which.clone())
        .await?
        .ok()?;
    assert_eq!(receipt["points"], 30000);
    assert_eq!(world.available(&world.taro).await?, 31000);
    for function in ["approve_grant", "reject_grant"] {
        let answer = world.rpc(&two, function, which.clone()).await?;
        answer.refused(409, "LY006")?;
    }
    assert_eq!(world.available(&world.taro).await?, 31000);
    let rows = world.rows(&one, "/grant_proposal").await?;
    assert_eq!(rows[0]["state"], "approved");
    assert_eq!(rows[0]["operation_id"], receipt["operation_id"]);
    assert_ne!(rows[0]["proposed_by"], rows[0]["decided_by"]);
    assert_eq!(
        world
            .rows(&world.admin("mile")?, "/grant_proposal")
            .await?
            .len(),
        0
    );
    let lines = world
        .rows(
            &one,
            "/audit?action=in.(propose_grant,approve_grant)&order=audit_id",
        )
        .await?;
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["details"]["proposed_by"], rows[0]["proposed_by"]);
    assert_eq!(
        lines[1]["actor"],
        format!(
            "loyalty_admin:{}",
            rows[0]["decided_by"].as_str().unwrap_or_default()
        )
    );
    let key = format!("proposal/{}", proposed["proposal_id"]);
    let entry =
        format!("loyalty.entry where idempotency_key = '{key}' and expires_on = '2027-03-31'");
    assert_eq!(world.count(&entry).await?, 1);

    // one's own can be withdrawn
    let proposed = world
        .rpc(&one, "propose_grant", wanted.clone())
        .await?
        .ok()?;
    let which = json!({ "proposal_id": proposed["proposal_id"], "reason": "A mistake" });
    let rejected = world.rpc(&one, "reject_grant", which).await?.ok()?;
    assert_eq!(rejected["state"], "rejected");
    assert_eq!(rejected["decision_reason"], "A mistake");
    for (argument, value, status, code) in [
        ("points", json!(0), 400, "22023"),
        ("points", json!(1.5), 400, "22023"),
        ("points", Value::Null, 400, "22004"),
        ("expires_on", json!("2026-06-14"), 400, "22023"),
        ("granted_on", json!("2026-06-16"), 400, "22023"),
        ("reason", json!("x".repeat(1001)), 400, "22023"),
        ("account_id", json!(world.zoe.account_id), 404, "LY002"),
    ] {
        let mut arguments = wanted.clone();
        arguments[argument] = value;
        let answer = world.rpc(&one, "propose_grant", arguments).await?;
        answer.refused(status, code)?;
    }
    Ok(())
}

/// P12: approvals at the same time grant once.
#[tokio::test]
async fn p12_approvals_at_once_grant_once() -> Result<()> {
    let world = World::start("staff_once").await?;
    let (one, two) = two_administrators(&world).await?;
    let wanted = json!({ "account_id": world.taro.account_id, "points": 30000 });
    let proposed = world.rpc(&one, "propose_grant", wanted).await?.ok()?;
    let which = json!({ "proposal_id": proposed["proposal_id"] });
    let requests = (0..6)
        .map(|_| world.post(&two, "approve_grant").json(&which))
        .collect();
    let mut approved = 0;
    for answer in at_once(requests).await? {
        if answer.status == 200 {
            approved += 1;
        } else {
            answer.refused(409, "LY006")?;
        }
    }
    assert_eq!(approved, 1);
    assert_eq!(world.available(&world.taro).await?, 31000);
    Ok(())
}

/// P12: who logs in to the database as an operator is one person, whatever the session says of
/// tokens and proxies; what PostgREST says counts, with a token of ours.
#[tokio::test]
async fn p12_claims_of_an_sql_login_are_not_believed() -> Result<()> {
    let world = World::start("staff_forged").await?;
    let client = world.db.connect().await?;
    let keeper = format!("keeper_{}", world.db.name());
    let account_id = world.taro.account_id;
    let claims = |person: i64| {
        let claims = json!({
            "role": "loyalty_operator", "sub": format!("identity:{person}"), "program": "coin",
        });
        let token = world.claims(&claims)?;
        let claims = token::claims(&token)?;
        let headers = json!({
            "authorization": format!("Bearer {token}"), "x-forwarded-for": "198.51.100.20",
        });
        anyhow::Ok(format!(
            "set local request.jwt.claims = '{claims}'; set local request.headers = '{headers}'"
        ))
    };
    // a role is the cluster's: this one lives in its transaction only
    client
        .batch_execute(&format!(
            r#"begin;
            create role {keeper} login in role loyalty_operator;
            set session authorization {keeper};
            {}"#,
            claims(1)?
        ))
        .await?;
    let one = async |query: &str| -> Result<String> {
        let row = client
            .query_one(&format!("select ({query})::text"), &[])
            .await?;
        Ok(row.try_get::<_, Option<String>>(0)?.unwrap_or_default())
    };
    let proposer = format!("select (loyalty.propose_grant({account_id}, 777)).proposed_by");
    assert_eq!(one(&proposer).await?, format!("database:{keeper}"));
    client
        .batch_execute(&format!("{}; savepoint before_approval", claims(2)?))
        .await?;
    let approved = client
        .batch_execute(
            "select loyalty.approve_grant((select max(proposal_id) from loyalty.grant_proposal))",
        )
        .await;
    assert_eq!(sqlstate(&approved), "LY010");
    client
        .batch_execute(&format!(
            "rollback to before_approval; select loyalty.grant({account_id}, 1, 'by hand')"
        ))
        .await?;
    for (query, expected) in [
        (
            "select actor from loyalty.entry where reason = 'by hand'",
            keeper.as_str(),
        ),
        (
            "select actor from loyalty.audit where action = 'propose_grant'",
            &keeper,
        ),
        (
            "select address from loyalty.audit where action = 'propose_grant'",
            "",
        ),
        ("loyalty.claim_identity_id()", ""),
        ("loyalty.claim_program_id()", ""),
    ] {
        assert_eq!(one(query).await?, expected, "{query}");
    }
    // the same from PostgREST
    client
        .batch_execute(
            "reset role; reset session authorization;
             grant usage on schema loyalty_private to loyalty_operator;
             grant execute on function loyalty_private.actor(), loyalty_private.client_address() to loyalty_operator;
             set session authorization loyalty_authenticator; set local role loyalty_operator",
        )
        .await?;
    for (query, expected) in [
        ("loyalty_private.actor()", "loyalty_operator:identity:2"),
        ("loyalty.claim_identity_id()", "2"),
        ("loyalty_private.client_address()", "198.51.100.20"),
    ] {
        assert_eq!(one(query).await?, expected, "{query}");
    }
    client.batch_execute("rollback").await?;
    Ok(())
}
