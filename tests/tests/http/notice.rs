//! Notices over HTTP (C18): what members choose and see, what administrators set and look after.

use crate::world::World;
use anyhow::Result;
use serde_json::{Value, json};

const TOLD: &str = "/notice?select=account_id,kind,state,points&order=notice_id";

/// Program `coin` tells Ann and Bob of everything, `mile` tells Zoe.
async fn world(label: &str) -> Result<World> {
    let world = World::start(label).await?;
    for (program, members) in [("coin", vec!["ann", "bob"]), ("mile", vec!["zoe"])] {
        world
            .sql
            .batch_execute(&format!(
                "select loyalty.set_notice_sender('{program}', email => 'points@example.com');
                 select loyalty.enable_notices('{program}')"
            ))
            .await?;
        for member in members {
            world
                .sql
                .batch_execute(&format!(
                    "select loyalty.set_member('{program}', '{member}', email => '{member}@example.com')"
                ))
                .await?;
        }
    }
    Ok(world)
}

#[tokio::test]
async fn c18_members_choose_what_they_are_sent() -> Result<()> {
    let world = world("http_preference").await?;
    let ann = world.member(world.ann)?;
    let mine = world.get(&ann, "/notice_preference?order=kind").await?;
    assert_eq!(
        mine.column("kind")?,
        ["balance", "expiry", "order_received", "points_received"]
    );
    assert_eq!(mine.column("is_wanted")?, [true; 4]);
    assert_eq!(mine.column("is_sent")?, [true; 4]);
    assert_eq!(mine.column("can_be_refused")?, [true, true, false, true]);

    let choose = |kind: &str| json!({ "kind": kind, "is_wanted": false });
    let changed = world
        .rpc(&ann, "set_notice_preference", choose("balance"))
        .await?
        .row()?;
    assert_eq!(
        (&changed["account_id"], &changed["is_wanted"]),
        (&json!(world.ann), &json!(false))
    );
    world
        .rpc(&ann, "set_notice_preference", choose("order_received"))
        .await?
        .refused(400, "22023")?;
    world
        .rpc(&ann, "set_notice_preference", choose("nonsense"))
        .await?
        .refused(400, "22023")?;
    // not for others; administrators only for their program's
    let for_bob = json!({ "kind": "balance", "is_wanted": false, "account_id": world.bob });
    world
        .rpc(&ann, "set_notice_preference", for_bob.clone())
        .await?
        .refused(403, "LY010")?;
    world
        .rpc(
            &world.admin_of("mile")?,
            "set_notice_preference",
            for_bob.clone(),
        )
        .await?
        .refused(404, "LY002")?;
    world
        .rpc(&world.granter()?, "set_notice_preference", for_bob.clone())
        .await?
        .refused(403, "LY010")?;
    world
        .rpc("", "set_notice_preference", for_bob.clone())
        .await?
        .refused(401, "LY009")?;
    world
        .rpc(&world.admin()?, "set_notice_preference", for_bob)
        .await?
        .row()?;
    let refused = world
        .get(
            &world.admin()?,
            "/notice_preference?is_wanted=is.false&select=account_id,kind&order=account_id",
        )
        .await?
        .ok()?;
    assert_eq!(
        refused,
        json!([
            { "account_id": world.ann, "kind": "balance" },
            { "account_id": world.bob, "kind": "balance" }
        ])
    );
    Ok(())
}

#[tokio::test]
async fn members_see_their_own_notices_and_administrators_their_programs() -> Result<()> {
    let world = world("http_notice").await?;
    for (account, points) in [(world.ann, 3), (world.bob, 4), (world.zoe, 5)] {
        world
            .sql
            .execute(
                "select loyalty.grant($1, $2)",
                &[&account, &i64::from(points)],
            )
            .await?;
    }
    let told = |account: i64, points: i32| json!({ "account_id": account, "kind": "points_received", "state": "waiting", "points": points });
    let (of_ann, of_bob, of_zoe) = (told(world.ann, 3), told(world.bob, 4), told(world.zoe, 5));
    for (token, expected) in [
        (world.member(world.ann)?, vec![&of_ann]),
        (world.member(world.zoe)?, vec![&of_zoe]),
        (world.admin()?, vec![&of_ann, &of_bob]),
        (world.operator()?, vec![&of_ann, &of_bob, &of_zoe]),
    ] {
        assert_eq!(world.get(&token, TOLD).await?.ok()?, json!(expected));
    }
    world
        .get(&world.granter()?, TOLD)
        .await?
        .refused(403, "LY010")?;
    world.get("", TOLD).await?.refused(401, "LY009")?;

    // one that failed: for administrators with the reason, for the member as being tried again
    world
        .sql
        .batch_execute(
            "select loyalty.notice_failed(notice_id, attempt, '550 no <x@example.com>', account_id is null)
               from loyalty.lease_notices(1) join loyalty.notice using (notice_id)",
        )
        .await?;
    let problem = world
        .get(
            &world.admin()?,
            "/notice_problem?select=member_no,error,gave_up_at",
        )
        .await?
        .row()?;
    assert_eq!(
        problem,
        json!({ "member_no": "ann", "error": "550 no <(address)>", "gave_up_at": null })
    );
    let other = world
        .get(&world.admin_of("mile")?, "/notice_problem")
        .await?;
    assert_eq!(other.ok()?, json!([]));
    let ann = world.member(world.ann)?;
    world
        .get(&ann, "/notice_problem")
        .await?
        .refused(403, "LY010")?;
    let why = json!({ "only_kind": "points_received" });
    let mine = world.rpc(&ann, "explain_notices", why).await?.row()?;
    assert_eq!(
        (&mine["answer"], &mine["last_state"], &mine["error"]),
        (&json!("sent by email"), &json!("retrying"), &Value::Null)
    );
    let why = json!({ "account_id": world.ann, "only_kind": "points_received" });
    let theirs = world
        .rpc(&world.admin()?, "explain_notices", why.clone())
        .await?
        .row()?;
    assert_eq!(theirs["error"], "550 no <(address)>");
    world
        .rpc(&world.member(world.bob)?, "explain_notices", why)
        .await?
        .refused(403, "LY010")?;
    Ok(())
}

#[tokio::test]
async fn administrators_write_the_programs_texts_and_times() -> Result<()> {
    let world = world("http_template").await?;
    let admin = world.admin()?;
    let text = json!({ "kind": "balance", "language": "en", "subject": "Yours", "text_body": "{{ points | number }} left" });
    let wrong = json!({ "kind": "balance", "language": "en", "subject": "Yours", "text_body": "One\n{{ pionts }}" });
    for function in ["set_template", "preview_template"] {
        let refused = world
            .rpc(&admin, function, wrong.clone())
            .await?
            .refused(400, "22023")?;
        assert_eq!(
            refused["message"],
            "text_body line 2: unknown variable pionts"
        );
    }
    let preview = world
        .rpc(&admin, "preview_template", text.clone())
        .await?
        .ok()?;
    assert_eq!(preview["text_body"], "12,345 left");
    let own = "/notice_template?program=not.is.null&select=program,kind,subject";
    assert_eq!(world.get(&admin, own).await?.ok()?, json!([]));
    world
        .rpc(&admin, "set_template", text.clone())
        .await?
        .ok()?;
    let stored = json!([{ "program": "coin", "kind": "balance", "subject": "Yours" }]);
    assert_eq!(world.get(&admin, own).await?.ok()?, stored);
    // supplied ones are for all to see, another program's are not
    let mile = world.admin_of("mile")?;
    assert_eq!(world.get(&mile, own).await?.ok()?, json!([]));
    assert_eq!(
        world
            .get(&mile, "/notice_template")
            .await?
            .column("kind")?
            .len(),
        32
    );
    let key = json!({ "kind": "balance", "language": "en" });
    assert_eq!(
        world
            .rpc(&mile, "delete_template", key.clone())
            .await?
            .ok()?,
        json!(false)
    );
    assert_eq!(
        world.rpc(&admin, "delete_template", key).await?.ok()?,
        json!(true)
    );

    let times = json!({ "kind": "balance", "days_of_month": [5, 20], "at": "09:30" });
    let set = world.rpc(&admin, "set_notice", times.clone()).await?.ok()?;
    assert_eq!(
        (&set["days_of_month"], &set["at"]),
        (&json!([5, 20]), &json!("09:30:00"))
    );
    let wrong = json!({ "kind": "balance", "days_of_month": [32] });
    let refused = world
        .rpc(&admin, "set_notice", wrong)
        .await?
        .refused(400, "22023")?;
    assert_eq!(
        refused["message"],
        "days_of_month contains an invalid day of month"
    );
    let shown = "/notice_setting?kind=eq.balance&select=program,days_of_month";
    assert_eq!(
        world.get(&admin, shown).await?.ok()?,
        json!([{ "program": "coin", "days_of_month": [5, 20] }])
    );
    assert_eq!(
        world.get(&mile, shown).await?.ok()?,
        json!([{ "program": "mile", "days_of_month": [1, 15] }])
    );
    world
        .sql
        .batch_execute("update loyalty.notice set gave_up_at = now(), due_at = null")
        .await?;
    let retry = json!({ "given_up_since": "2020-01-01", "kind": "balance" });
    assert_eq!(
        world
            .rpc(&admin, "retry_notices", retry.clone())
            .await?
            .ok()?,
        json!(0)
    );

    // not for members and granters; an operator says of which program
    let member = world.member(world.ann)?;
    for (function, arguments) in [
        ("set_template", text.clone()),
        ("preview_template", text),
        (
            "delete_template",
            json!({ "kind": "balance", "language": "en" }),
        ),
        ("set_notice", times.clone()),
        ("retry_notices", retry),
    ] {
        for token in [&member, &world.granter()?] {
            world
                .rpc(token, function, arguments.clone())
                .await?
                .refused(403, "LY010")?;
        }
        world
            .rpc("", function, arguments.clone())
            .await?
            .refused(401, "LY009")?;
        world
            .rpc(&world.operator()?, function, arguments)
            .await?
            .refused(400, "22004")?;
    }
    for view in ["notice_template", "notice_setting", "notice_problem"] {
        world
            .get(&member, &format!("/{view}"))
            .await?
            .refused(403, "LY010")?;
    }
    let mut of_mile = times;
    of_mile["program"] = json!("mile");
    world
        .rpc(&world.operator()?, "set_notice", of_mile.clone())
        .await?
        .ok()?;
    world
        .rpc(&admin, "set_notice", of_mile)
        .await?
        .refused(403, "LY010")?;
    Ok(())
}
