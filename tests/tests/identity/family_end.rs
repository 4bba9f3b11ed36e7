//! How family ends (A8): removed, by leaving, and with the account or the login.

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::family::{BORN, KENJI, approve, family, invite, register, registration, states};
use crate::people::at_once;
use crate::world::{PASSWORD, Session, World};

/// A8: who is removed is out at the next request, and can be invited again.
#[tokio::test]
async fn a8_removal_takes_effect_at_the_next_request() -> Result<()> {
    let world = World::start("fam_remove").await?;
    world.family_may("spend", 300).await?;
    let (hanako, kenji) = family(&world).await?;
    let rows = world.rows(&hanako, "/family").await?;
    let which = json!({ "family_id": rows[0]["family_id"] });

    // nobody else's business
    let taro = world.registered(&world.taro, "taro@example.com").await?;
    assert_eq!(world.rows(&taro, "/family").await?.len(), 0);
    let answer = world.rpc(&taro, "remove_family", which.clone()).await?;
    answer.refused(404, "LY002")?;
    world.rows(&kenji.access, "/balance").await?;

    let removed = world
        .rpc(&hanako, "remove_family", which.clone())
        .await?
        .ok()?;
    assert_eq!(removed["state"], "removed");
    let answer = world.get(&kenji.access, "/balance").await?;
    answer.refused(401, "LY009")?;
    let answer = world
        .rpc(&kenji.access, "spend", json!({ "points": 1 }))
        .await?;
    answer.refused(401, "LY009")?;
    let refreshing = json!({ "refresh_token": kenji.refresh });
    let answer = world.rpc("", "refresh", refreshing).await?;
    answer.refused(401, "LY009")?;
    let answer = world.log_in(KENJI, PASSWORD, "coin").await?;
    answer.refused(403, "LY010")?;
    // again, it is the same
    let removed = world.rpc(&hanako, "remove_family", which).await?.ok()?;
    assert_eq!(removed["state"], "removed");

    // invited again, once they were told, the login is the one there is
    world.mail_to(KENJI).await?;
    invite(&world, &hanako, "spouse", KENJI).await?;
    let token = approve(&world, "hanako@example.com", KENJI).await?;
    let mut wrong = registration(&token, BORN);
    wrong["password"] = json!("other1234");
    let wrong = world.rpc("", "register_family", wrong).await?;
    wrong.refused(401, "LY009")?;
    let again = register(&world, &token).await?;
    assert_eq!(world.rows(&again.access, "/balance").await?.len(), 1);
    assert_eq!(states(&world, &hanako).await?, ["removed", "registered"]);
    let logins = format!("loyalty.identity where login_id = '{KENJI}'");
    assert_eq!(world.count(&logins).await?, 1);
    Ok(())
}

/// A8: who is family leaves by themselves: all their logins to it end at once, the member sees it,
/// what was spent stays spent, and the member may invite again.
#[tokio::test]
async fn a8_family_leaves_by_themselves() -> Result<()> {
    let world = World::start("fam_leave").await?;
    world.family_may("spend", 300).await?;
    let (hanako, kenji) = family(&world).await?;
    let phone = Session::of(world.log_in(KENJI, PASSWORD, "coin").await?.ok()?)?;
    let paid = world.rpc(&kenji.access, "spend", json!({ "points": 100 }));
    paid.await?.ok()?;

    // whoever is no family
    let leave = async |token: &str| world.rpc(token, "leave_family", json!({})).await;
    leave("").await?.refused(401, "LY009")?;
    for token in [
        hanako.clone(),
        world.granter("coin")?,
        world.admin("coin")?,
        world.operator()?,
    ] {
        leave(&token).await?.refused(403, "LY010")?;
    }
    // nobody is made to leave: whose link it is tells the token alone
    let of_another = json!({ "account_id": world.hanako.account_id });
    let answer = world.rpc(&kenji.access, "leave_family", of_another).await?;
    answer.refused(400, "22023")?;
    assert_eq!(states(&world, &hanako).await?, ["registered"]);
    world.rows(&phone.access, "/balance").await?;

    let left = leave(&kenji.access).await?.ok()?;
    let rows = world.rows(&hanako, "/family").await?;
    assert_eq!(
        left,
        json!({
            "family_id": rows[0]["family_id"], "relation": "spouse", "name": "山田 健二", "state": "removed",
        })
    );
    for session in [&kenji, &phone] {
        let answer = world.get(&session.access, "/balance").await?;
        answer.refused(401, "LY009")?;
        leave(&session.access).await?.refused(401, "LY009")?;
        let refreshing = json!({ "refresh_token": session.refresh });
        let answer = world.rpc("", "refresh", refreshing).await?;
        answer.refused(401, "LY009")?;
    }
    let answer = world.log_in(KENJI, PASSWORD, "coin").await?;
    answer.refused(403, "LY010")?;

    assert_eq!(rows[0]["state"], "removed");
    assert!(rows[0]["ended_at"].is_string(), "{rows:?}");
    assert_eq!(rows[0]["spent"], 100);
    assert_eq!(world.available(&world.hanako).await?, 900);
    let admin = world.admin("coin")?;
    let audited = world
        .rows(&admin, "/audit?action=eq.leave_family&outcome=eq.done")
        .await?;
    assert_eq!(audited.len(), 1);
    assert_eq!(audited[0]["account_id"], world.hanako.account_id);
    assert_eq!(
        audited[0]["details"],
        json!({ "family_id": left["family_id"] })
    );
    // the member's removal of who has left changes nothing
    let which = json!({ "family_id": left["family_id"] });
    let removed = world.rpc(&hanako, "remove_family", which).await?.ok()?;
    assert_eq!(removed, left);
    let removals = "loyalty.audit where action = 'remove_family'";
    assert_eq!(world.count(removals).await?, 0);

    world.mail_to("hanako@example.com").await?;
    invite(&world, &hanako, "spouse", KENJI).await?;
    let token = approve(&world, "hanako@example.com", KENJI).await?;
    let again = register(&world, &token).await?;
    assert_eq!(world.rows(&again.access, "/balance").await?.len(), 1);
    assert_eq!(states(&world, &hanako).await?, ["removed", "registered"]);
    leave(&again.access).await?.ok()?;
    assert_eq!(states(&world, &hanako).await?, ["removed", "removed"]);
    Ok(())
}

/// A8: leaving one member leaves the person's own membership and other families alone.
#[tokio::test]
async fn a8_leaving_one_family_leaves_the_other() -> Result<()> {
    let world = World::start("fam_leave_one").await?;
    world.family_may("see", 0).await?;
    let own = world.registered(&world.zoe, "zoe@example.com").await?;
    let mut sessions = Vec::new();
    for (member, login_id) in [
        (&world.hanako, "hanako@example.com"),
        (&world.taro, "taro@example.com"),
    ] {
        let token = world.registered(member, login_id).await?;
        invite(&world, &token, "sibling", "zoe@example.com").await?;
        let mailed = approve(&world, login_id, "zoe@example.com").await?;
        sessions.push(register(&world, &mailed).await?.access);
    }
    let left = world.rpc(&sessions[0], "leave_family", json!({})).await?;
    left.ok()?;
    let answer = world.get(&sessions[0], "/balance").await?;
    answer.refused(401, "LY009")?;
    for (token, member) in [(&sessions[1], &world.taro), (&own, &world.zoe)] {
        let rows = world.rows(token, "/balance").await?;
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0]["account_id"], member.account_id);
    }
    Ok(())
}

/// A8: who may do nothing any more, since the program changed its mind, may leave; and a token
/// that no login made, which outlives that, gets the same answer again.
#[tokio::test]
async fn a8_leaving_needs_nothing_but_to_be_family() -> Result<()> {
    let world = World::start("fam_leave_any").await?;
    world.family_may("see", 0).await?;
    let (hanako, _) = family(&world).await?;
    let person: i64 = world
        .sql
        .query_one("select identity_id from loyalty.family", &[])
        .await?
        .get(0);
    let token = |program: &str, account_id: i64| {
        world.claims(&json!({
            "role": "loyalty_family", "program": program, "account_id": account_id,
            "sub": format!("identity:{person}"), "exp": 4_102_444_800_i64,
        }))
    };
    let own = token("coin", world.hanako.account_id)?;
    world.policy("family_access => 'none'").await?;
    let answer = world.get(&own, "/balance").await?;
    answer.refused(403, "LY010")?;
    // a token that claims another's family, or of another program
    for (program, account_id) in [
        ("coin", world.taro.account_id),
        ("mile", world.hanako.account_id),
        ("mile", world.zoe.account_id),
    ] {
        let token = token(program, account_id)?;
        let answer = world.rpc(&token, "leave_family", json!({})).await?;
        answer.refused(403, "LY010")?;
    }
    assert_eq!(states(&world, &hanako).await?, ["registered"]);
    // all at once: it is done once
    let requests = (0..4)
        .map(|_| world.post(&own, "leave_family").json(&json!({})))
        .collect();
    for answer in at_once(requests).await? {
        assert_eq!(answer.ok()?["state"], "removed");
    }
    let done = "loyalty.audit where action = 'leave_family'";
    assert_eq!(world.count(done).await?, 1);
    assert_eq!(states(&world, &hanako).await?, ["removed"]);
    // nobody's family
    let nobody = format!(
        "select loyalty.leave_family({person}, {})",
        world.taro.account_id
    );
    let refused = world.sql.batch_execute(&nobody).await;
    let refused = refused.err().context("not refused")?;
    assert_eq!(
        refused.code().map(tokio_postgres::error::SqlState::code),
        Some("LY002")
    );
    Ok(())
}

/// A8: with the member's account ends what family has of it.
#[tokio::test]
async fn a8_a_closed_account_has_no_family() -> Result<()> {
    let world = World::start("fam_closed").await?;
    world.family_may("see", 0).await?;
    let (hanako, kenji) = family(&world).await?;
    invite(&world, &hanako, "child", "c@example.com").await?;
    let token = world.mail_to("hanako@example.com").await?.token()?;
    world
        .sql
        .execute(
            "select loyalty.close_account($1, forfeit => true)",
            &[&world.hanako.account_id],
        )
        .await?;
    let answer = world.get(&kenji.access, "/balance").await?;
    answer.refused(403, "LY010")?;
    let answer = world
        .rpc("", "approve_family", json!({ "token": token }))
        .await?;
    answer.refused(403, "LY004")?;
    let child = json!({
        "relation": "child", "name": "x", "birth_date": BORN, "address": "d@example.com",
    });
    let answer = world.rpc(&hanako, "invite_family", child).await?;
    answer.refused(403, "LY004")?;
    Ok(())
}

/// A8: whose login is closed is family no more, and may be invited anew.
#[tokio::test]
async fn a8_who_closes_the_login_is_removed() -> Result<()> {
    let world = World::start("family_closed_login").await?;
    world.family_may("spend", 500).await?;
    let (hanako, kenji) = family(&world).await?;
    let close = json!({ "login_id": KENJI, "program": "coin" });
    let operator = world.operator()?;
    world.rpc(&operator, "close_identity", close).await?.ok()?;
    world
        .get(&kenji.access, "/balance")
        .await?
        .refused(401, "LY009")?;
    assert_eq!(states(&world, &hanako).await?, ["removed"]);
    invite(&world, &hanako, "spouse", KENJI).await?;
    let token = approve(&world, "hanako@example.com", KENJI).await?;
    register(&world, &token).await?;
    assert_eq!(states(&world, &hanako).await?, ["removed", "registered"]);
    Ok(())
}

/// A8: no session of the family outlives the link, whichever of login and removal comes first.
#[tokio::test]
async fn a8_a_login_that_meets_its_removal_ends_with_it() -> Result<()> {
    let world = World::start("family_meet").await?;
    world.family_may("spend", 500).await?;
    let live = "loyalty_private.session where role = 'loyalty_family' and ended_at is null";
    let (hanako, _) = family(&world).await?;
    let rows = world
        .rows(&hanako, "/family?select=family_id,account_id")
        .await?;
    let client = world.db.connect().await?;
    let removal = format!(
        "begin; select loyalty.remove_family({}, {})",
        world.hanako.account_id, rows[0]["family_id"]
    );
    client.batch_execute(&removal).await?;
    let login = world.log_in(KENJI, PASSWORD, "coin");
    let answer = world.behind(&client, login).await?;
    answer.refused(403, "LY010")?;
    assert_eq!(world.count(live).await?, 0);

    world.mail_to(KENJI).await?;
    let invited = invite(&world, &hanako, "spouse", KENJI).await?;
    let token = approve(&world, "hanako@example.com", KENJI).await?;
    register(&world, &token).await?;
    let login =
        format!("begin; select loyalty.log_in('{KENJI}', '{PASSWORD}', 'coin', role => 'family')");
    client.batch_execute(&login).await?;
    let which = json!({ "family_id": invited["family_id"] });
    let removal = world.rpc(&hanako, "remove_family", which);
    world.behind(&client, removal).await?.ok()?;
    assert_eq!(world.count(live).await?, 0);
    Ok(())
}

/// A8: whose doing it was not is told by mail that the access has ended, once, and without a word of
/// the member's to who is family.
#[tokio::test]
async fn a8_the_other_side_is_told_of_the_end() -> Result<()> {
    const HANAKO: &str = "hanako@example.com";
    const ENDED: &str = "ご家族としてのご利用が終了しました";
    let world = World::start("family_told").await?;
    world.family_may("see", 0).await?;
    let (hanako, kenji) = family(&world).await?;
    let told = async |address: &str| -> Result<String> {
        let mail = world.mail_to(address).await?;
        assert!(mail.subject.ends_with(ENDED), "{mail:?}");
        assert!(mail.link().is_err(), "{mail:?}");
        assert!(mail.text.contains("山田 健二"), "{mail:?}");
        Ok(mail.text)
    };

    let left = world.rpc(&kenji.access, "leave_family", json!({})).await?;
    let left = left.ok()?;
    let text = told(HANAKO).await?;
    assert!(text.contains(&world.hanako.name), "{text}");
    world.no_mail_to(KENJI).await?;
    // again, it changes nothing and nobody is told
    let which = json!({ "family_id": left["family_id"] });
    world.rpc(&hanako, "remove_family", which).await?.ok()?;

    let invited = invite(&world, &hanako, "spouse", KENJI).await?;
    let token = approve(&world, HANAKO, KENJI).await?;
    register(&world, &token).await?;
    let which = json!({ "family_id": invited["family_id"] });
    world.rpc(&hanako, "remove_family", which).await?.ok()?;
    let text = told(KENJI).await?;
    assert!(!text.contains(&world.hanako.name), "{text}");
    world.no_mail_to(HANAKO).await?;

    // an invitation that nobody took yet ends without a word
    let invited = invite(&world, &hanako, "spouse", KENJI).await?;
    approve(&world, HANAKO, KENJI).await?;
    let which = json!({ "family_id": invited["family_id"] });
    world.rpc(&hanako, "remove_family", which).await?.ok()?;
    let notices = "loyalty.notice where kind = 'family_ended'";
    assert_eq!(world.count(notices).await?, 2);
    Ok(())
}
