//! Roles (P12) given, accepted and taken at once, and logins that meet that.

use anyhow::Result;
use serde_json::{Value, json};

use crate::people::at_once;
use crate::staff::{GRANTER, granter, two_administrators};
use crate::world::{PASSWORD, World};

/// P12: of two administrators who go at the same time, one stays.
#[tokio::test]
async fn p12_the_last_administrator_stays() -> Result<()> {
    let world = World::start("staff_last").await?;
    let (one, two) = two_administrators(&world).await?;
    let rows = world.rows(&one, "/program_role?order=role_id").await?;
    let requests = [&one, &two]
        .iter()
        .zip(&rows)
        .map(|(token, row)| {
            world
                .post(token, "take_role")
                .json(&json!({ "role_id": row["role_id"] }))
        })
        .collect();
    let answers = at_once(requests).await?;
    let gone = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(gone, 1, "{answers:?}");
    assert_eq!(
        world
            .count("loyalty.program_role where role = 'admin' and taken_at is null")
            .await?,
        1
    );
    Ok(())
}

/// P12: a role given twice at once is given once, and an offer too; the later budget holds.
#[tokio::test]
async fn p12_a_role_given_twice_at_once_is_given_once() -> Result<()> {
    let world = World::start("staff_twice").await?;
    world
        .enrol(&world.hanako, Some("hanako@example.com"))
        .await?;
    let client = world.db.connect().await?;
    let operator = world.operator()?;
    for (login_id, state) in [("hanako@example.com", "held"), (GRANTER, "offered")] {
        let first =
            format!("begin; select loyalty.give_role('coin', '{login_id}', 'granter', 100)");
        client.batch_execute(&first).await?;
        let role = json!({
            "login_id": login_id, "role": "granter", "monthly_budget": 200, "program": "coin",
        });
        let second = world.rpc(&operator, "give_role", role);
        let given = world.behind(&client, second).await?.ok()?;
        assert_eq!(given["state"], state);
        let rows = format!("/program_role?role_id=eq.{}", given["role_id"]);
        let rows = world.rows(&operator, &rows).await?;
        assert_eq!(
            (&rows[0]["state"], &rows[0]["monthly_budget"]),
            (&json!(state), &json!(200))
        );
        let of_them = format!("loyalty.program_role where login_id = '{login_id}'");
        assert_eq!(world.count(&of_them).await?, 1);
    }
    // the offer that went out last is good, as when given again later; its mail may overtake the first
    let offer = "select loyalty_private.challenge_token(r.challenge_id) from loyalty.program_role r
                  where r.login_id = 'granter@example.com'";
    let token: String = world.sql.query_one(offer, &[]).await?.get(0);
    let arguments = json!({ "token": token, "password": PASSWORD });
    let session = world.rpc("", "accept_invitation", arguments).await?.ok()?;
    assert_eq!(session["role"], "granter");
    Ok(())
}

/// P12: no session in a role outlives it, whichever of login and taking comes first.
#[tokio::test]
async fn p12_a_login_that_meets_the_end_of_its_role_ends_with_it() -> Result<()> {
    let world = World::start("staff_meet").await?;
    let live = "loyalty_private.session where role = 'loyalty_granter' and ended_at is null";
    let (role_id, _) = granter(&world, Value::Null).await?;
    let client = world.db.connect().await?;
    let taking = format!("begin; select loyalty.take_role({role_id})");
    client.batch_execute(&taking).await?;
    let arguments = json!({
        "login_id": GRANTER, "password": PASSWORD, "program": "coin", "role": "granter",
    });
    let login = world.rpc("", "log_in", arguments);
    let answer = world.behind(&client, login).await?;
    answer.refused(403, "LY010")?;
    assert_eq!(world.count(live).await?, 0);

    let role = json!({ "login_id": GRANTER, "role": "granter", "program": "coin" });
    let operator = world.operator()?;
    let given = world.rpc(&operator, "give_role", role).await?.ok()?;
    assert_eq!(given["state"], "held");
    let login = format!(
        "begin; select loyalty.log_in('{GRANTER}', '{PASSWORD}', 'coin', role => 'granter')"
    );
    client.batch_execute(&login).await?;
    let which = json!({ "role_id": given["role_id"] });
    let taking = world.rpc(&operator, "take_role", which);
    world.behind(&client, taking).await?.ok()?;
    assert_eq!(world.count(live).await?, 0);
    let begun = "loyalty_private.session where role = 'loyalty_granter'";
    assert_eq!(world.count(begun).await?, 2);
    Ok(())
}

/// P12: who accepts an offer while somebody gives them the role has it once, and is told so.
#[tokio::test]
async fn p12_an_offer_accepted_while_the_role_is_given() -> Result<()> {
    let world = World::start("staff_accept").await?;
    // a login elsewhere, which coin's administrator does not see, and an operator does
    world.enrol(&world.zoe, Some("zoe@example.com")).await?;
    let offer = json!({ "login_id": "zoe@example.com", "role": "granter" });
    let admin = world.admin("coin")?;
    let offered = world.rpc(&admin, "give_role", offer).await?.ok()?;
    assert_eq!(offered["state"], "offered");
    let token = world.mail_to("zoe@example.com").await?.token()?;
    let client = world.db.connect().await?;
    client
        .batch_execute("begin; select loyalty.give_role('coin', 'zoe@example.com', 'granter')")
        .await?;
    let arguments = json!({ "token": token, "password": PASSWORD });
    let accepting = world.rpc("", "accept_invitation", arguments.clone());
    let answer = world.behind(&client, accepting).await?;
    answer.refused(403, "LY010")?;
    // and later, too
    let answer = world.rpc("", "accept_invitation", arguments).await?;
    answer.refused(403, "LY010")?;
    let held = "loyalty.program_role where identity_id is not null and taken_at is null";
    assert_eq!(world.count(held).await?, 1);
    Ok(())
}
