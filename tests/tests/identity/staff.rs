//! Roles (P12): given, taken and recorded; granters and their budget; two administrators.

use anyhow::{Context as _, Result};
use loyalty_testkit::http::Answer;
use loyalty_tests::{as_request, assert_sound, until_one_waits};
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::people::at_once;
use crate::world::{PASSWORD, Session, World};

const BOSS: &str = "boss@example.com";
pub const GRANTER: &str = "granter@example.com";

/// Gives a role to who has no login yet, who accepts it by the mail; their session.
async fn hire(world: &World, by: &str, login_id: &str, mut role: Value) -> Result<(i64, Session)> {
    role["login_id"] = json!(login_id);
    let given = world.rpc(by, "give_role", role).await?.ok()?;
    assert_eq!(given["state"], "offered");
    let token = world.mail_to(login_id).await?.token()?;
    let arguments = json!({ "token": token, "password": PASSWORD });
    let session = world.rpc("", "accept_invitation", arguments).await?.ok()?;
    let role_id = given["role_id"].as_i64().context("no role_id")?;
    Ok((role_id, Session::of(session)?))
}

pub async fn granter(world: &World, budget: Value) -> Result<(i64, Session)> {
    let role = json!({ "role": "granter", "monthly_budget": budget });
    hire(world, &world.admin("coin")?, GRANTER, role).await
}

fn grant(world: &World, token: &str, points: i64, key: &str) -> RequestBuilder {
    let arguments = json!({
        "account_id": world.taro.account_id, "points": points, "idempotency_key": key,
    });
    world.post(token, "grant").json(&arguments)
}

pub async fn granted(world: &World, token: &str, points: i64, key: &str) -> Result<Answer> {
    let mut answers = at_once(vec![grant(world, token, points, key)]).await?;
    answers.pop().context("no answer")
}

/// P12: somebody stays who can give the role, whoever takes it, and counts as somebody only with a
/// login that opens.
#[tokio::test]
async fn p12_two_administrators_do_not_take_each_others_role() -> Result<()> {
    let world = World::start("staff_last").await?;
    let operator = world.operator()?;
    let role = json!({ "role": "admin", "program": "coin" });
    let (boss_role, boss) = hire(&world, &operator, BOSS, role).await?;
    let role = json!({ "role": "admin" });
    let (deputy_role, deputy) = hire(&world, &boss.access, "deputy@example.com", role).await?;
    let identity =
        "select identity_id::text from loyalty.identity where login_id = 'boss@example.com'";
    let boss_id = world.one(identity).await?;
    let boss_id = boss_id.trim_matches(['(', ')']);
    // both take the other's at once
    let taking = world.db.connect().await?;
    taking
        .batch_execute(&format!(
            "begin; {}; select loyalty_api.take_role({deputy_role})",
            as_request(
                "loyalty_admin",
                json!({ "program": "coin", "sub": format!("identity:{boss_id}") })
            )?
        ))
        .await?;
    let which = json!({ "role_id": boss_role });
    let (answer, committed) = tokio::join!(
        world.rpc(&deputy.access, "take_role", which.clone()),
        async {
            until_one_waits(&world.sql).await?;
            anyhow::Ok(taking.batch_execute("commit").await?)
        }
    );
    committed?;
    answer?.refused(403, "LY010")?;
    let left =
        "select string_agg(role_id::text, ' ') from loyalty.program_role where taken_at is null";
    assert_eq!(world.one(left).await?, format!("({boss_role})"));
    // a login that was closed keeps its role, and gives none to anybody
    let role = json!({ "role": "admin" });
    hire(&world, &boss.access, "other@example.com", role).await?;
    world
        .sql
        .batch_execute(
            "select loyalty.close_identity(i.identity_id) from loyalty.identity i
              where i.login_id = 'other@example.com'",
        )
        .await?;
    let answer = world.rpc(&boss.access, "take_role", which).await?;
    answer.refused(403, "LY010")?;
    Ok(())
}

/// P12: an operator makes an administrator, who makes a granter; each accepts by mail, does what
/// the role is for and no more, and is out at the next request once it is taken.
#[tokio::test]
async fn p12_roles_are_given_taken_and_recorded() -> Result<()> {
    let world = World::start("staff_role").await?;
    let operator = world.operator()?;
    let role = json!({ "role": "admin", "program": "coin" });
    let (boss_role, boss) = hire(&world, &operator, BOSS, role).await?;
    assert_eq!(boss.body["role"], "admin");
    assert_eq!(boss.body["program"], "coin");

    let role = json!({ "role": "granter" });
    let (granter_role, granter) = hire(&world, &boss.access, GRANTER, role).await?;
    assert_eq!(granter.body["role"], "granter");
    granted(&world, &granter.access, 10, "a").await?.ok()?;
    // grant only
    for (function, arguments) in [
        (
            "spend",
            json!({ "account_id": world.taro.account_id, "points": 1 }),
        ),
        (
            "revoke",
            json!({ "account_id": world.taro.account_id, "operation_id": 1 }),
        ),
        ("open_account", json!({ "member_no": "N-1" })),
        (
            "give_role",
            json!({ "login_id": "x@example.com", "role": "granter" }),
        ),
        ("take_role", json!({ "role_id": granter_role })),
        (
            "propose_grant",
            json!({ "account_id": world.taro.account_id, "points": 1 }),
        ),
        ("approve_grant", json!({ "proposal_id": 1 })),
    ] {
        let answer = world.rpc(&granter.access, function, arguments).await?;
        answer.refused(403, "LY010")?;
    }
    for path in [
        "/balance",
        "/member",
        "/program_role",
        "/grant_proposal",
        "/audit",
    ] {
        let answer = world.get(&granter.access, path).await?;
        answer.refused(403, "LY010")?;
    }
    // nor in another program
    let elsewhere = json!({ "account_id": world.zoe.account_id, "points": 1 });
    let answer = world.rpc(&granter.access, "grant", elsewhere).await?;
    answer.refused(404, "LY002")?;

    // an administrator sees who has what, of the program only
    let rows = world
        .rows(&boss.access, "/program_role?order=role_id")
        .await?;
    let seen: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row["login_id"].as_str(),
                row["role"].as_str(),
                row["state"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (Some(BOSS), Some("admin"), Some("held")),
            (Some(GRANTER), Some("granter"), Some("held"))
        ]
    );
    let other = world.admin("mile")?;
    assert_eq!(world.rows(&other, "/program_role").await?.len(), 0);
    let which = json!({ "role_id": granter_role });
    let answer = world.rpc(&other, "take_role", which.clone()).await?;
    answer.refused(404, "LY002")?;
    let answer = world
        .rpc(
            &boss.access,
            "give_role",
            json!({ "login_id": BOSS, "role": "admin", "program": "mile" }),
        )
        .await?;
    answer.refused(403, "LY010")?;
    let operators = json!({ "login_id": BOSS, "role": "operator" });
    let answer = world.rpc(&boss.access, "give_role", operators).await?;
    answer.refused(403, "LY010")?;
    // the last administrator does not go by mistake
    let own = json!({ "role_id": boss_role });
    let answer = world.rpc(&boss.access, "take_role", own.clone()).await?;
    answer.refused(403, "LY010")?;

    let taken = world
        .rpc(&boss.access, "take_role", which.clone())
        .await?
        .ok()?;
    assert_eq!(taken["state"], "taken");
    let answer = granted(&world, &granter.access, 10, "b").await?;
    answer.refused(401, "LY009")?;
    let refreshing = json!({ "refresh_token": granter.refresh });
    let answer = world.rpc("", "refresh", refreshing).await?;
    answer.refused(401, "LY009")?;
    // again, it is the same
    let taken = world.rpc(&boss.access, "take_role", which).await?.ok()?;
    assert_eq!(taken["state"], "taken");
    assert_eq!(world.available(&world.taro).await?, 1010);

    let identity = |session: &Session| {
        let query =
            "select s.identity_id from loyalty_private.session s where s.session_id::text = $1";
        let id = session.body["session_id"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let sql = &world.sql;
        async move { Ok::<i64, anyhow::Error>(sql.query_one(query, &[&id]).await?.get(0)) }
    };
    let (boss_id, granter_id) = (identity(&boss).await?, identity(&granter).await?);
    let lines = world
        .rows(
            &boss.access,
            "/audit?action=in.(give_role,accept_invitation,take_role)&order=audit_id",
        )
        .await?;
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            (
                text("action"),
                text("actor"),
                line["details"]["role_id"].as_i64(),
            )
        })
        .collect();
    let line =
        |action: &str, actor: &str, role_id| (action.to_owned(), actor.to_owned(), Some(role_id));
    let boss_actor = format!("loyalty_admin:identity:{boss_id}");
    assert_eq!(
        told,
        [
            line("give_role", "loyalty_operator", boss_role),
            line("accept_invitation", "loyalty_anon", boss_role),
            line("give_role", &boss_actor, granter_role),
            line("accept_invitation", "loyalty_anon", granter_role),
            line("take_role", &boss_actor, granter_role),
        ]
    );
    assert_eq!(lines[4]["identity_id"], granter_id);
    Ok(())
}

/// P12: staff log in to their role, for as long as they have it.
#[tokio::test]
async fn p12_staff_log_in_to_their_role() -> Result<()> {
    let world = World::start("staff_login").await?;
    let (role_id, _) = granter(&world, Value::Null).await?;
    let ask = async |role: &str| {
        let arguments = json!({
            "login_id": GRANTER, "password": PASSWORD, "program": "coin", "role": role,
        });
        world.rpc("", "log_in", arguments).await
    };
    let session = Session::of(ask("granter").await?.ok()?)?;
    granted(&world, &session.access, 10, "a").await?.ok()?;
    for role in ["admin", "operator", "member"] {
        ask(role).await?.refused(403, "LY010")?;
    }
    let taking = json!({ "role_id": role_id });
    world
        .rpc(&world.admin("coin")?, "take_role", taking)
        .await?
        .ok()?;
    ask("granter").await?.refused(403, "LY010")?;
    Ok(())
}

#[tokio::test]
async fn p12_values_that_cannot_be_are_named() -> Result<()> {
    let world = World::start("staff_value").await?;
    let admin = world.admin("coin")?;
    for role in [
        json!({ "login_id": "boss", "role": "admin" }),
        json!({ "login_id": BOSS, "role": "owner" }),
        json!({ "login_id": BOSS, "role": null }),
        json!({ "login_id": BOSS, "role": "admin", "monthly_budget": 5 }),
        json!({ "login_id": BOSS, "role": "granter", "monthly_budget": -1 }),
        json!({ "login_id": BOSS, "role": "granter", "monthly_budget": 1.5 }),
    ] {
        world
            .rpc(&admin, "give_role", role)
            .await?
            .refused(400, "22023")?;
    }
    let nobody = json!({ "login_id": BOSS, "role": "operator" });
    let answer = world.rpc(&world.operator()?, "give_role", nobody).await?;
    answer.refused(404, "LY002")?;
    assert_eq!(world.count("loyalty.program_role").await?, 0);
    // an offer taken back, and one accepted twice
    let offer = json!({ "login_id": BOSS, "role": "admin" });
    let offered = world.rpc(&admin, "give_role", offer.clone()).await?.ok()?;
    let token = world.mail_to(BOSS).await?.token()?;
    let taking = json!({ "role_id": offered["role_id"] });
    world.rpc(&admin, "take_role", taking).await?.ok()?;
    let accepting = |token: &str| json!({ "token": token, "password": PASSWORD });
    let late = world
        .rpc("", "accept_invitation", accepting(&token))
        .await?;
    late.refused(401, "LY009")?;
    world.rpc(&admin, "give_role", offer).await?.ok()?;
    let token = world.mail_to(BOSS).await?.token()?;
    let mut weak = accepting(&token);
    weak["password"] = json!("abcdefgh");
    let weak = world.rpc("", "accept_invitation", weak).await?;
    weak.refused(400, "22023")?;
    world
        .rpc("", "accept_invitation", accepting(&token))
        .await?
        .ok()?;
    let again = world
        .rpc("", "accept_invitation", accepting(&token))
        .await?;
    again.refused(401, "LY009")?;
    Ok(())
}

/// P12: whoever has a login in another program is offered a role like who has none, so that an
/// administrator learns nothing; they accept with their own password.
#[tokio::test]
async fn p12_an_offer_does_not_tell_who_has_a_login() -> Result<()> {
    let world = World::start("staff_quiet").await?;
    world.enrol(&world.zoe, Some("zoe@example.com")).await?;
    world
        .enrol(&world.hanako, Some("hanako@example.com"))
        .await?;
    let admin = world.admin("coin")?;
    let mut answers = Vec::new();
    for login_id in ["zoe@example.com", "nobody@example.com"] {
        let offer = json!({ "login_id": login_id, "role": "granter" });
        let mut given = world.rpc(&admin, "give_role", offer).await?.ok()?;
        given["role_id"] = Value::Null;
        given["login_id"] = Value::Null;
        answers.push(given);
    }
    assert_eq!(answers[0], answers[1]);
    let token = world.mail_to("zoe@example.com").await?.token()?;
    let wrong = json!({ "token": token, "password": "other1234" });
    let wrong = world.rpc("", "accept_invitation", wrong).await?;
    wrong.refused(401, "LY009")?;
    let right = json!({ "token": token, "password": PASSWORD });
    world.rpc("", "accept_invitation", right).await?.ok()?;
    // who is known to the program has the role at once
    let offer = json!({ "login_id": "hanako@example.com", "role": "granter" });
    let given = world.rpc(&admin, "give_role", offer).await?.ok()?;
    assert_eq!(given["state"], "held");
    world.no_mail_to("hanako@example.com").await?;
    Ok(())
}

/// P12: what a granter may give away is as the role was given last, and no limit where that says none.
#[tokio::test]
async fn p12_a_role_given_again_sets_the_budget() -> Result<()> {
    let world = World::start("staff_again").await?;
    let (role_id, granter) = granter(&world, json!(500)).await?;
    let admin = world.admin("coin")?;
    for (given, points, refused) in [
        (json!({ "monthly_budget": 100 }), 101, true),
        (json!({}), 1000, false),
        (json!({ "monthly_budget": 100 }), 1, true),
        (json!({ "monthly_budget": null }), 1, false),
    ] {
        let mut role = json!({ "login_id": GRANTER, "role": "granter" });
        if let Some(budget) = given.get("monthly_budget") {
            role["monthly_budget"] = budget.clone();
        }
        let answer = world.rpc(&admin, "give_role", role).await?.ok()?;
        assert_eq!(answer["role_id"], role_id, "{given}");
        assert_eq!(answer["monthly_budget"], given["monthly_budget"], "{given}");
        let answer = granted(&world, &granter.access, points, &given.to_string()).await?;
        if refused {
            answer.refused(403, "LY010")?;
        } else {
            answer.ok()?;
        }
    }
    Ok(())
}

/// P12: a granter's budget holds for calls at the same time; keys count once; it is of a month
/// in the program's zone.
#[tokio::test]
async fn p12_a_granters_budget_holds() -> Result<()> {
    let mut world = World::start("staff_budget").await?;
    let (_, granter) = granter(&world, json!(500)).await?;
    let requests = (0..8)
        .map(|i| grant(&world, &granter.access, 100, &format!("parallel-{i}")))
        .collect();
    let mut booked = 0;
    for answer in at_once(requests).await? {
        if answer.status == 200 {
            booked += 1;
        } else {
            answer.refused(403, "LY010")?;
        }
    }
    assert_eq!(booked, 5);
    assert_eq!(world.available(&world.taro).await?, 1500);
    let answer = granted(&world, &granter.access, 1, "more").await?;
    let told = answer.refused(403, "LY010")?;
    assert_eq!(
        told["details"],
        "Budget 500, granted before 500, asked for 1."
    );

    world.set_clock("2026-06-30 23:59:59+09").await?;
    let granter = log_in(&world).await?;
    let answer = granted(&world, &granter.access, 1, "more").await?;
    answer.refused(403, "LY010")?;
    world.set_clock("2026-07-01 00:00+09").await?;
    let granter = log_in(&world).await?;
    let requests = (0..5)
        .map(|_| grant(&world, &granter.access, 400, "once"))
        .collect();
    for answer in at_once(requests).await? {
        answer.ok()?;
    }
    assert_eq!(world.available(&world.taro).await?, 1900);

    // many in one call: all of it or nothing
    let items = |points: i64| {
        let item = |key: &str| json!({ "account_id": world.hanako.account_id, "points": points, "idempotency_key": key });
        json!({ "items": [item("m1"), item("m2")], "program": null })
    };
    let answer = world.rpc(&granter.access, "grant_many", items(51)).await?;
    answer.refused(403, "LY010")?;
    assert_eq!(world.available(&world.hanako).await?, 1000);
    let rows = world
        .rpc(&granter.access, "grant_many", items(30))
        .await?
        .ok()?;
    assert_eq!(rows.as_array().map(Vec::len), Some(2));
    let again = world
        .rpc(&granter.access, "grant_many", items(30))
        .await?
        .ok()?;
    assert_eq!(again[0]["operation_id"], rows[0]["operation_id"]);
    assert_eq!(world.available(&world.hanako).await?, 1060);

    // and by a rule
    world
        .sql
        .batch_execute("select loyalty.create_rule('coin', 'thanks', 'manual', '{\"points\": 40}')")
        .await?;
    let by_rule = |key: &str| json!({ "account_id": world.ann.account_id, "rule": "thanks", "idempotency_key": key });
    for _ in 0..2 {
        world
            .rpc(&granter.access, "grant_by_rule", by_rule("t1"))
            .await?
            .ok()?;
    }
    let answer = world
        .rpc(&granter.access, "grant_by_rule", by_rule("t2"))
        .await?;
    answer.refused(403, "LY010")?;
    assert_eq!(world.available(&world.ann).await?, 1040);

    // a key that found an administrator's grant is not the granter's
    granted(&world, &world.admin("coin")?, 77, "of the admin")
        .await?
        .ok()?;
    granted(&world, &granter.access, 77, "of the admin")
        .await?
        .ok()?;
    assert_eq!(world.available(&world.taro).await?, 1977);

    // given again, the budget changes
    let role = json!({ "login_id": GRANTER, "role": "granter", "monthly_budget": 600 });
    let given = world
        .rpc(&world.admin("coin")?, "give_role", role)
        .await?
        .ok()?;
    assert_eq!(
        (&given["state"], &given["monthly_budget"]),
        (&json!("held"), &json!(600))
    );
    granted(&world, &granter.access, 100, "after").await?.ok()?;
    let answer = granted(&world, &granter.access, 1, "beyond").await?;
    answer.refused(403, "LY010")?;
    assert_sound(&world.sql).await
}

async fn log_in(world: &World) -> Result<Session> {
    let arguments = json!({
        "login_id": GRANTER, "password": PASSWORD, "program": "coin", "role": "granter",
    });
    Session::of(world.rpc("", "log_in", arguments).await?.ok()?)
}

/// Two administrators of coin, by tokens that name them.
pub async fn two_administrators(world: &World) -> Result<(String, String)> {
    let mut tokens = Vec::new();
    for login_id in ["one@example.com", "two@example.com"] {
        let role = json!({ "role": "admin" });
        let (_, session) = hire(world, &world.admin("coin")?, login_id, role).await?;
        tokens.push(session.access);
    }
    let two = tokens.pop().context("no token")?;
    Ok((tokens.pop().context("no token")?, two))
}
