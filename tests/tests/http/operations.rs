//! Every operation, by every role that may and by those that may not.

use crate::world::{World, points_of};
use anyhow::{Context, Result};
use serde_json::{Value, json};

fn id_of(receipt: &Value) -> Result<i64> {
    receipt["operation_id"].as_i64().context("no operation_id")
}

#[tokio::test]
async fn a_receipt_tells_what_a_spend_did() -> Result<()> {
    let world = World::start("op_spend").await?;
    let token = world.member(world.ann)?;
    let receipt = world
        .rpc(&token, "spend", json!({"points": 300, "reason": "coffee"}))
        .await?
        .ok()?;
    let last = world
        .get(&token, "/statement?order=entry.desc&limit=1")
        .await?
        .row()?;
    assert_eq!(
        receipt,
        json!({
            "operation_id": last["operation_id"], "account_id": world.ann, "kind": "spend",
            "points": 300, "balance": 700, "available": 700,
            "occurred_at": "2026-06-15T03:00:00+00:00",
            "lots": [{"expires_on": "2029-06-30", "points": 300}]
        })
    );
    assert_eq!(
        (&last["points"], &last["reason"]),
        (&json!(-300), &json!("coffee"))
    );
    // a member may also name the own account
    let named = points_of(world.ann, 1);
    world.rpc(&token, "spend", named).await?.ok()?;
    world.assert_sound().await
}

#[tokio::test]
async fn explain_spend_by_get_and_post_spends_nothing() -> Result<()> {
    let world = World::start("op_explain").await?;
    let before = world.ledger().await?;
    let token = world.member(world.ann)?;
    let expected = json!([
        {"step": 1, "expires_on": "2029-06-30", "points": 400, "remaining": 600}
    ]);
    let by_get = world.get(&token, "/rpc/explain_spend?points=400").await?;
    assert_eq!(by_get.ok()?, expected);
    let by_post = world
        .rpc(&token, "explain_spend", json!({"points": 400}))
        .await?;
    assert_eq!(by_post.ok()?, expected);
    let asked = format!("/rpc/explain_spend?points=400&account_id={}", world.ann);
    assert_eq!(world.get(&world.admin()?, &asked).await?.ok()?, expected);
    world
        .get(&token, "/rpc/explain_spend?points=1001")
        .await?
        .refused(402, "LY001")?;
    world
        .get(&world.member(world.bob)?, &asked)
        .await?
        .refused(403, "LY010")?;
    world
        .get(&world.granter()?, &asked)
        .await?
        .refused(403, "LY010")?;
    world.get("", &asked).await?.refused(401, "LY009")?;
    assert_eq!(world.ledger().await?, before);
    Ok(())
}

#[tokio::test]
async fn hold_capture_release_refund() -> Result<()> {
    let world = World::start("op_hold").await?;
    let (token, admin) = (world.member(world.ann)?, world.admin()?);
    let hold = world
        .rpc(
            &token,
            "hold",
            json!({"points": 600, "expires_in": "1 hour"}),
        )
        .await?
        .ok()?;
    assert_eq!(
        (&hold["kind"], &hold["available"]),
        (&json!("hold"), &json!(400))
    );
    let balance = world.get(&token, "/balance").await?.row()?;
    assert_eq!(
        (&balance["balance"], &balance["held"], &balance["available"]),
        (&json!(1000), &json!(600), &json!(400))
    );
    let capture = json!({"operation_id": id_of(&hold)?, "points": 250});
    let captured = world.rpc(&token, "capture", capture.clone()).await?.ok()?;
    assert_eq!(
        (
            &captured["kind"],
            &captured["points"],
            &captured["available"]
        ),
        (&json!("capture"), &json!(250), &json!(750))
    );
    world
        .rpc(&token, "capture", capture)
        .await?
        .refused(409, "LY006")?;

    let hold = world
        .rpc(&token, "hold", json!({"points": 10}))
        .await?
        .ok()?;
    let release = json!({"operation_id": id_of(&hold)?});
    let released = world.rpc(&token, "release", release.clone()).await?.ok()?;
    assert_eq!(
        (&released["points"], &released["available"]),
        (&json!(10), &json!(750))
    );
    world
        .rpc(&token, "release", release)
        .await?
        .refused(409, "LY006")?;

    // law 7: a part, then the rest, and no more
    let refund = json!({"account_id": world.ann, "operation_id": id_of(&captured)?, "points": 50});
    world
        .rpc(&token, "refund", refund.clone())
        .await?
        .refused(403, "LY010")?;
    assert_eq!(
        world.rpc(&admin, "refund", refund).await?.ok()?["available"],
        800
    );
    let rest = json!({"account_id": world.ann, "operation_id": id_of(&captured)?});
    assert_eq!(
        world.rpc(&admin, "refund", rest.clone()).await?.ok()?["points"],
        200
    );
    world
        .rpc(&admin, "refund", rest)
        .await?
        .refused(400, "22023")?;
    world.assert_sound().await
}

#[tokio::test]
async fn members_do_not_end_what_a_shop_holds() -> Result<()> {
    let world = World::start("op_shop_hold").await?;
    let (token, admin) = (world.member(world.ann)?, world.admin()?);
    let by_shop = world
        .rpc(&admin, "hold", points_of(world.ann, 100))
        .await?
        .ok()?;
    let about = json!({"operation_id": id_of(&by_shop)?});
    world
        .rpc(&token, "release", about.clone())
        .await?
        .refused(403, "LY010")?;
    world
        .rpc(&token, "capture", about)
        .await?
        .refused(403, "LY010")?;
    let by_member = world
        .rpc(&token, "hold", json!({"points": 5}))
        .await?
        .ok()?;
    // nor is the shop shown a hold of the member's as if it were its own
    let mut order = json!({"points": 7, "idempotency_key": "order-17"});
    let ahead = world.rpc(&token, "hold", order.clone()).await?.ok()?;
    order["account_id"] = json!(world.ann);
    world
        .rpc(&admin, "hold", order)
        .await?
        .refused(409, "LY003")?;
    for hold in [&by_shop, &by_member, &ahead] {
        let about = json!({"account_id": world.ann, "operation_id": id_of(hold)?});
        world.rpc(&admin, "release", about).await?.ok()?;
    }
    // law 8: a hold past its time counts as released
    let by_member = world
        .rpc(&token, "hold", json!({"points": 5}))
        .await?
        .ok()?;
    let mut world = world;
    world.set_clock("2026-06-15 12:16+09").await?;
    assert_eq!(world.available(world.ann).await?, 1000);
    let about = json!({"operation_id": id_of(&by_member)?});
    world
        .rpc(&token, "capture", about)
        .await?
        .refused(409, "LY006")?;
    Ok(())
}

#[tokio::test]
async fn transfer_by_account_or_member_number_within_the_program() -> Result<()> {
    let world = World::start("op_transfer").await?;
    let token = world.member(world.ann)?;
    let sent = world
        .rpc(
            &token,
            "transfer",
            json!({"points": 200, "to_account": world.bob}),
        )
        .await?
        .ok()?;
    assert_eq!(
        (&sent["account_id"], &sent["available"]),
        (&json!(world.ann), &json!(800))
    );
    let by_number = json!({"points": 100, "to_member_no": "bob", "reason": "thanks"});
    world.rpc(&token, "transfer", by_number).await?.ok()?;
    assert_eq!(world.available(world.bob).await?, 300);
    let lot = world.get(&world.member(world.bob)?, "/lot").await?.row()?;
    assert_eq!(lot["expires_on"], "2029-06-30");

    let before = world.ledger().await?;
    let refused = [
        (json!({"points": 1, "to_account": world.zoe}), 404, "LY002"),
        (json!({"points": 1, "to_member_no": "zoe"}), 404, "LY002"),
        (json!({"points": 1, "to_account": 999}), 404, "LY002"),
        (json!({"points": 1, "to_account": world.ann}), 400, "22023"),
        (json!({"points": 1}), 400, "22023"),
        (
            json!({"points": 1, "to_account": world.bob, "to_member_no": "bob"}),
            400,
            "22023",
        ),
        (
            json!({"points": 1, "to_account": world.ann, "account_id": world.bob}),
            403,
            "LY010",
        ),
        (
            json!({"points": 5000, "to_account": world.bob}),
            402,
            "LY001",
        ),
    ];
    for (arguments, status, code) in refused {
        world
            .rpc(&token, "transfer", arguments)
            .await?
            .refused(status, code)?;
    }
    let from_bob = json!({"points": 1, "to_account": world.ann, "account_id": world.bob});
    world
        .rpc(&world.granter()?, "transfer", from_bob.clone())
        .await?
        .refused(403, "LY010")?;
    assert_eq!(world.ledger().await?, before);
    world
        .rpc(&world.admin()?, "transfer", from_bob)
        .await?
        .ok()?;
    world.assert_sound().await
}

#[tokio::test]
async fn grant_and_revoke_by_who_may() -> Result<()> {
    let world = World::start("op_grant").await?;
    let grant = json!({
        "account_id": world.bob, "points": 70, "reason": "referral",
        "granted_on": "2026-06-01", "expires_on": "2026-08-31"
    });
    for token in [world.granter()?, world.admin()?, world.operator()?] {
        let receipt = world.rpc(&token, "grant", grant.clone()).await?.ok()?;
        assert_eq!(
            receipt["lots"],
            json!([{"expires_on": "2026-08-31", "points": 70}])
        );
    }
    let by_policy = world
        .rpc(&world.granter()?, "grant", points_of(world.bob, 5))
        .await?
        .ok()?;
    assert_eq!(by_policy["lots"][0]["expires_on"], "2029-06-30");
    let before = world.ledger().await?;
    world
        .rpc(&world.member(world.bob)?, "grant", grant.clone())
        .await?
        .refused(403, "LY010")?;
    world.rpc("", "grant", grant).await?.refused(401, "LY009")?;

    let revoke = json!({"account_id": world.bob, "operation_id": id_of(&by_policy)?});
    for token in [world.granter()?, world.member(world.bob)?] {
        world
            .rpc(&token, "revoke", revoke.clone())
            .await?
            .refused(403, "LY010")?;
    }
    let odd =
        json!({"account_id": world.bob, "operation_id": id_of(&by_policy)?, "policy": "mercy"});
    world
        .rpc(&world.admin()?, "revoke", odd)
        .await?
        .refused(400, "22023")?;
    assert_eq!(world.ledger().await?, before);
    let revoked = world.rpc(&world.admin()?, "revoke", revoke).await?.ok()?;
    assert_eq!(
        (&revoked["kind"], &revoked["points"]),
        (&json!("revoke"), &json!(5))
    );
    world.assert_sound().await
}

#[tokio::test]
async fn granters_only_grant() -> Result<()> {
    let world = World::start("op_granter").await?;
    let before = world.ledger().await?;
    let token = world.granter()?;
    let operation = json!({"account_id": world.ann, "operation_id": world.ann << 24 | 1});
    for function in ["capture", "release", "refund", "revoke"] {
        world
            .rpc(&token, function, operation.clone())
            .await?
            .refused(403, "LY010")?;
    }
    for function in ["spend", "hold", "explain_spend"] {
        world
            .rpc(&token, function, points_of(world.ann, 1))
            .await?
            .refused(403, "LY010")?;
    }
    let items = json!({"items": [points_of(world.ann, 1)]});
    world
        .rpc(&token, "spend_many", items)
        .await?
        .refused(403, "LY010")?;
    let member = json!({"member_no": "cid"});
    world
        .rpc(&token, "open_account", member)
        .await?
        .refused(403, "LY010")?;
    assert_eq!(world.ledger().await?, before);
    Ok(())
}

#[tokio::test]
async fn accounts_of_another_program_do_not_exist() -> Result<()> {
    let world = World::start("op_program").await?;
    let before = world.ledger().await?;
    let zoes = points_of(world.zoe, 1);
    let operation = json!({"account_id": world.zoe, "operation_id": world.zoe << 24 | 1});
    for token in [world.admin()?, world.granter()?] {
        world
            .rpc(&token, "grant", zoes.clone())
            .await?
            .refused(404, "LY002")?;
        let outcome = world
            .rpc(&token, "grant_many", json!({"items": [zoes]}))
            .await?
            .row()?;
        assert_eq!(outcome["error_code"], "LY002");
    }
    let admin = world.admin()?;
    for function in ["spend", "hold", "explain_spend"] {
        world
            .rpc(&admin, function, zoes.clone())
            .await?
            .refused(404, "LY002")?;
    }
    for function in ["capture", "release", "refund", "revoke"] {
        world
            .rpc(&admin, function, operation.clone())
            .await?
            .refused(404, "LY002")?;
    }
    let outcome = world
        .rpc(&admin, "spend_many", json!({"items": [zoes]}))
        .await?
        .row()?;
    assert_eq!(outcome["error_code"], "LY002");
    assert_eq!(world.ledger().await?, before);
    // an operator works on every program
    world.rpc(&world.operator()?, "spend", zoes).await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn many_items_each_have_their_outcome() -> Result<()> {
    let world = World::start("op_many").await?;
    let items = json!({"items": [
        {"account_id": world.ann, "points": 10, "idempotency_key": "g-1"},
        {"account_id": world.bob, "points": 20, "reason": "bonus", "expires_on": "2026-07-31"},
        {"account_id": world.bob, "points": 0},
        {"account_id": 999, "points": 5},
        {"account_id": null, "points": 5},
    ]});
    let answer = world.rpc(&world.granter()?, "grant_many", items).await?;
    assert_eq!(answer.column("item")?, [1, 2, 3, 4, 5]);
    let codes = answer.column("error_code")?;
    assert_eq!(json!(codes), json!([null, null, "22023", "LY002", "22004"]));
    assert_eq!(world.available(world.ann).await?, 1010);
    assert_eq!(world.available(world.bob).await?, 20);

    let items = json!({"items": [
        {"account_id": world.bob, "points": 15, "idempotency_key": "s-1"},
        {"account_id": world.bob, "points": 15},
        {"account_id": world.bob, "points": 15, "idempotency_key": "s-1"},
        {"account_id": world.bob, "points": 14, "idempotency_key": "s-1"},
    ]});
    let answer = world
        .rpc(&world.admin()?, "spend_many", items.clone())
        .await?;
    let codes = answer.column("error_code")?;
    assert_eq!(json!(codes), json!([null, "LY001", null, "LY003"]));
    assert_eq!(world.available(world.bob).await?, 5);
    // the whole call again changes nothing
    let again = world
        .rpc(&world.admin()?, "spend_many", items.clone())
        .await?;
    assert_eq!(again.ok()?, answer.ok()?);
    for token in [world.member(world.bob)?, world.granter()?] {
        world
            .rpc(&token, "spend_many", items.clone())
            .await?
            .refused(403, "LY010")?;
    }
    world
        .rpc("", "grant_many", items)
        .await?
        .refused(401, "LY009")?;
    world.assert_sound().await
}

#[tokio::test]
async fn open_account_is_the_same_one_when_called_again() -> Result<()> {
    let world = World::start("op_open").await?;
    let admin = world.admin()?;
    let opened = world
        .rpc(&admin, "open_account", json!({"member_no": "cid"}))
        .await?
        .ok()?;
    let again = world
        .rpc(&admin, "open_account", json!({"member_no": "cid"}))
        .await?
        .ok()?;
    assert_eq!(opened, again);
    // the same number in another program is another account
    let elsewhere = world
        .rpc(
            &world.admin_of("mile")?,
            "open_account",
            json!({"member_no": "cid"}),
        )
        .await?
        .ok()?;
    assert_ne!(opened, elsewhere);
    let balance = world
        .get(&admin, "/balance?member_no=eq.cid")
        .await?
        .row()?;
    assert_eq!(balance["account_id"], opened);
    let before = world.ledger().await?;
    for member_no in [json!(""), json!("x".repeat(101)), json!(null)] {
        let arguments = json!({"member_no": member_no});
        let code = if member_no.is_null() {
            "22004"
        } else {
            "22023"
        };
        world
            .rpc(&admin, "open_account", arguments)
            .await?
            .refused(400, code)?;
    }
    let dan = json!({"member_no": "dan"});
    world
        .rpc(&world.member(world.ann)?, "open_account", dan.clone())
        .await?
        .refused(403, "LY010")?;
    // an operator must say for which program
    let operator = world.operator()?;
    world
        .rpc(&operator, "open_account", dan.clone())
        .await?
        .refused(400, "22004")?;
    let of = |program: &str| json!({"member_no": "dan", "program": program});
    world
        .rpc(&operator, "open_account", of("nowhere"))
        .await?
        .refused(404, "LY002")?;
    world
        .rpc(&admin, "open_account", of("mile"))
        .await?
        .refused(403, "LY010")?;
    assert_eq!(world.ledger().await?, before);
    let opened = world
        .rpc(&operator, "open_account", of("coin"))
        .await?
        .ok()?;
    assert_eq!(
        world.rpc(&admin, "open_account", of("coin")).await?.ok()?,
        opened
    );
    let claimed = world.claims(json!({"role": "loyalty_operator", "program": "coin"}))?;
    assert_eq!(
        world.rpc(&claimed, "open_account", dan).await?.ok()?,
        opened
    );
    Ok(())
}

#[tokio::test]
async fn an_operators_call_for_many_may_be_kept_to_one_program() -> Result<()> {
    let world = World::start("op_many_program").await?;
    let operator = world.operator()?;
    let items = json!([points_of(world.ann, 1), points_of(world.zoe, 1)]);
    for function in ["grant_many", "spend_many"] {
        let of = |program: &str| json!({"items": items, "program": program});
        let all = world
            .rpc(&operator, function, json!({"items": items}))
            .await?;
        assert_eq!(json!(all.column("error_code")?), json!([null, null]));
        let one = world.rpc(&operator, function, of("mile")).await?;
        assert_eq!(json!(one.column("error_code")?), json!(["LY002", null]));
        let admin = world.admin()?;
        world
            .rpc(&admin, function, of("mile"))
            .await?
            .refused(403, "LY010")?;
        let own = world.rpc(&admin, function, of("coin")).await?;
        assert_eq!(json!(own.column("error_code")?), json!([null, "LY002"]));
    }
    world.assert_sound().await
}
