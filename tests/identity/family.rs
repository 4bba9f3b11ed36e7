//! Families (A8): invited by a member, approved and registered from mails, and what they may.

use anyhow::{Context as _, Result};
use loyalty_tests::assert_sound;
use serde_json::{Value, json};

use crate::people::at_once;
use crate::world::{Member, PASSWORD, Session, World};

const KENJI: &str = "kenji@example.com";
const BORN: &str = "1983-02-03";

async fn invite(world: &World, member: &str, relation: &str, address: &str) -> Result<Value> {
    let arguments = json!({
        "relation": relation, "name": "山田 健二", "birth_date": BORN, "address": address,
    });
    world.rpc(member, "invite_family", arguments).await?.ok()
}

/// The token in the mail to the person invited, once the member has approved by theirs.
async fn approve(world: &World, login_id: &str, address: &str) -> Result<String> {
    let token = world.mail_to(login_id).await?.token()?;
    let arguments = json!({ "token": token });
    let approved = world.rpc("", "approve_family", arguments).await?.ok()?;
    assert_eq!(approved["state"], "approved");
    world.mail_to(address).await?.token()
}

fn registration(token: &str, birth_date: &str) -> Value {
    json!({
        "token": token, "birth_date": birth_date, "password": PASSWORD, "terms_version": "2026-04",
    })
}

async fn register(world: &World, token: &str) -> Result<Session> {
    let arguments = registration(token, BORN);
    Session::of(world.rpc("", "register_family", arguments).await?.ok()?)
}

/// Hanako's token, and the session of her husband, who is registered.
async fn family(world: &World) -> Result<(String, Session)> {
    let hanako = world
        .registered(&world.hanako, "hanako@example.com")
        .await?;
    invite(world, &hanako, "spouse", KENJI).await?;
    let token = approve(world, "hanako@example.com", KENJI).await?;
    Ok((hanako, register(world, &token).await?))
}

/// The states that a member sees of their family, in the order of the invitations.
async fn states(world: &World, member: &str) -> Result<Vec<Value>> {
    let rows = world.rows(member, "/family?order=family_id").await?;
    Ok(rows.iter().map(|row| row["state"].clone()).collect())
}

/// A8, as two people do it: invitation, the member's approval from the mail, the link, a wrong
/// and then the right birth date, and a login that opens the inviting program only.
#[tokio::test]
async fn a8_family_is_invited_approved_and_registers_by_mail() -> Result<()> {
    let world = World::start("fam_whole").await?;
    world.family_may("spend", 500).await?;
    let hanako = world
        .registered(&world.hanako, "hanako@example.com")
        .await?;

    let invited = invite(&world, &hanako, "spouse", " Kenji@Example.COM ").await?;
    assert_eq!(invited["state"], "invited");
    assert_eq!(states(&world, &hanako).await?, ["invited"]);
    let mail = world.mail_to("hanako@example.com").await?;
    assert!(mail.text.contains("山田 健二"), "{mail:?}");
    world.no_mail_to(KENJI).await?;

    let by_mail = json!({ "token": mail.token()? });
    world
        .rpc("", "approve_family", by_mail.clone())
        .await?
        .ok()?;
    assert_eq!(states(&world, &hanako).await?, ["approved"]);
    // a link is good once
    let again = world.rpc("", "approve_family", by_mail).await?;
    again.refused(401, "LY009")?;

    let token = world.mail_to(KENJI).await?.token()?;
    let wrong = registration(&token, "1983-03-02");
    let wrong = world.rpc("", "register_family", wrong).await?;
    let told = wrong.refused(401, "LY009")?;
    assert_eq!(told["details"], "Tries left: 4.");
    assert!(!wrong.text.contains("1983"), "{}", wrong.text);
    assert_eq!(states(&world, &hanako).await?, ["approved"]);
    let kenji = register(&world, &token).await?;
    assert_eq!(kenji.body["role"], "family");
    assert_eq!(kenji.body["program"], "coin");
    let again = registration(&token, BORN);
    let again = world.rpc("", "register_family", again).await?;
    again.refused(401, "LY009")?;

    // the member sees who it is, by which ID they log in, and what they spent
    let rows = world.rows(&hanako, "/family").await?;
    assert_eq!(rows.len(), 1);
    for (column, value) in [
        ("relation", json!("spouse")),
        ("name", json!("山田 健二")),
        ("birth_date", json!(BORN)),
        ("login_id", json!(KENJI)),
        ("state", json!("registered")),
        ("spent", json!(0)),
    ] {
        assert_eq!(rows[0][column], value, "{column}");
    }

    // points, and nothing else of the member
    for path in ["/balance", "/lot", "/statement"] {
        let rows = world.rows(&kenji.access, path).await?;
        assert_eq!(rows.len(), 1, "{path}");
        assert_eq!(rows[0]["account_id"], world.hanako.account_id, "{path}");
    }
    for path in [
        "/member",
        "/notice",
        "/notice_preference",
        "/family",
        "/family_spend",
        "/program_role",
        "/audit",
        "/rule",
    ] {
        let answer = world.get(&kenji.access, path).await?;
        answer.refused(403, "LY010")?;
    }
    let to = world.taro.account_id;
    for (function, arguments) in [
        ("hold", json!({ "points": 1 })),
        ("transfer", json!({ "points": 1, "to_account": to })),
        ("grant", json!({ "account_id": to, "points": 1 })),
        ("explain_spend", json!({ "points": 1 })),
        (
            "invite_family",
            json!({ "relation": "child", "name": "x", "birth_date": BORN, "address": "x@example.com" }),
        ),
        ("spend", json!({ "points": 1, "account_id": to })),
    ] {
        let answer = world.rpc(&kenji.access, function, arguments).await?;
        answer.refused(403, "LY010")?;
    }
    Ok(())
}

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

/// A8: a spouse and relatives within the second degree; the organisation may narrow it, by
/// relation and by degree.
#[tokio::test]
async fn a8_the_organisation_narrows_relations_and_degree() -> Result<()> {
    let world = World::start("fam_relation").await?;
    let hanako = world
        .registered(&world.hanako, "hanako@example.com")
        .await?;
    let asked = async |relation: &str, address: &str| {
        let arguments = json!({
            "relation": relation, "name": relation, "birth_date": BORN, "address": address,
        });
        world.rpc(&hanako, "invite_family", arguments).await
    };
    // a program that has nothing for families
    asked("spouse", KENJI).await?.refused(403, "LY010")?;
    // no relation at all
    let policy = json!({ "family_relations": ["spouse", "uncle"] });
    let answer = world
        .rpc(&world.admin("coin")?, "set_access_policy", policy)
        .await?;
    answer.refused(400, "22023")?;
    world
        .policy(
            "family_relations => '{spouse,parent,sibling}', family_degree => 1, family_access => 'see'",
        )
        .await?;
    asked("uncle", KENJI).await?.refused(400, "22023")?;
    // not among the relations; of too high a degree
    asked("child", KENJI).await?.refused(403, "LY010")?;
    let told = asked("sibling", KENJI).await?.refused(403, "LY010")?;
    assert_eq!(told["hint"], "It admits: spouse, parent.");
    asked("spouse", KENJI).await?.ok()?;
    asked("parent", "p@example.com").await?.ok()?;
    world.policy("family_degree => 0").await?;
    asked("parent", "q@example.com")
        .await?
        .refused(403, "LY010")?;
    // what was narrowed meanwhile is not approved any more
    let mut mails = Vec::new();
    for _ in 0..2 {
        mails.push(world.mail_to("hanako@example.com").await?);
    }
    let about = |name: &str| {
        let mut of_it = mails.iter().filter(|mail| mail.text.contains(name));
        of_it.next().context("no mail")?.token()
    };
    let (spouse, parent) = (about("spouse")?, about("parent")?);
    let parent = world
        .rpc("", "approve_family", json!({ "token": parent }))
        .await?;
    parent.refused(403, "LY010")?;
    world
        .rpc("", "approve_family", json!({ "token": spouse }))
        .await?
        .ok()?;
    // the degrees, the spouse's relatives included
    let degrees = world
        .one(
            "select string_agg(r || ' ' || coalesce(loyalty.degree_of_kinship(r)::text, '-'), ', ')
               from unnest('{spouse,parent,child,sibling,grandparent,grandchild,parent_in_law,stepchild,
                             sibling_in_law,grandparent_in_law,step_grandchild,cousin,self}'::text[]) r",
        )
        .await?;
    assert_eq!(
        degrees,
        "(\"spouse 0, parent 1, child 1, sibling 2, grandparent 2, grandchild 2, parent_in_law 1, \
         stepchild 1, sibling_in_law 2, grandparent_in_law 2, step_grandchild 2, cousin -, self -\")"
    );
    Ok(())
}

#[tokio::test]
async fn a8_values_that_cannot_be_are_named() -> Result<()> {
    let world = World::start("fam_value").await?;
    world.family_may("see", 0).await?;
    let hanako = world
        .registered(&world.hanako, "hanako@example.com")
        .await?;
    let good = json!({
        "relation": "spouse", "name": "x", "birth_date": BORN, "address": KENJI,
    });
    for (argument, value, code) in [
        ("relation", Value::Null, "22004"),
        ("name", json!(""), "22023"),
        ("name", json!("a\nb"), "22023"),
        ("name", json!("x".repeat(201)), "22023"),
        ("birth_date", Value::Null, "22023"),
        ("birth_date", json!("2026-06-16"), "22023"),
        ("birth_date", json!("1983-02-30"), "22023"),
        ("address", json!("kenji"), "22023"),
        // one's own
        ("address", json!("HANAKO@example.com"), "22023"),
    ] {
        let mut arguments = good.clone();
        arguments[argument] = value;
        let answer = world.rpc(&hanako, "invite_family", arguments).await?;
        answer.refused(400, code)?;
    }
    assert_eq!(world.count("loyalty.family").await?, 0);
    // a member without a login ID has nothing to approve from
    let nobody = world.claims(&json!({
        "role": "loyalty_member", "program": "coin", "account_id": world.taro.account_id,
        "exp": 4_102_444_800_i64,
    }))?;
    let answer = world.rpc(&nobody, "invite_family", good.clone()).await?;
    answer.refused(403, "LY010")?;
    // the same address twice, until the first invitation is taken back
    let first = world
        .rpc(&hanako, "invite_family", good.clone())
        .await?
        .ok()?;
    let twice = world.rpc(&hanako, "invite_family", good.clone()).await?;
    twice.refused(400, "23514")?;
    let token = world.mail_to("hanako@example.com").await?.token()?;
    let arguments = json!({ "family_id": first["family_id"] });
    let removed = world.rpc(&hanako, "remove_family", arguments).await?.ok()?;
    assert_eq!(removed["state"], "canceled");
    // and its mail approves nothing
    let late = world
        .rpc("", "approve_family", json!({ "token": token }))
        .await?;
    late.refused(401, "LY009")?;
    world.rpc(&hanako, "invite_family", good).await?.ok()?;
    Ok(())
}

/// A8: a birth date can be tried five times; then the invitation is over.
#[tokio::test]
async fn a8_five_wrong_birth_dates_end_the_invitation() -> Result<()> {
    let world = World::start("fam_birth").await?;
    world.family_may("see", 0).await?;
    let hanako = world
        .registered(&world.hanako, "hanako@example.com")
        .await?;
    invite(&world, &hanako, "child", KENJI).await?;
    let token = approve(&world, "hanako@example.com", KENJI).await?;
    // what is refused before the birth date is looked at counts nothing
    for (argument, value, code) in [
        ("terms_version", json!("2025-01"), "22023"),
        ("terms_version", Value::Null, "22023"),
        ("password", json!("short1"), "22023"),
        ("password", Value::Null, "22004"),
        ("birth_date", Value::Null, "22004"),
    ] {
        let mut arguments = registration(&token, BORN);
        arguments[argument] = value;
        let answer = world.rpc("", "register_family", arguments).await?;
        answer.refused(400, code)?;
    }
    for left in (0..5).rev() {
        let arguments = registration(&token, "1983-02-04");
        let answer = world.rpc("", "register_family", arguments).await?;
        let told = answer.refused(401, "LY009")?;
        assert_eq!(told["details"], format!("Tries left: {left}."));
    }
    let arguments = registration(&token, BORN);
    let answer = world.rpc("", "register_family", arguments).await?;
    answer.refused(401, "LY009")?;
    assert_eq!(states(&world, &hanako).await?, ["canceled"]);
    assert_eq!(world.count("loyalty.identity_link").await?, 1);
    let refused = "loyalty.audit a where a.action = 'register_family' and a.outcome = 'refused'";
    assert_eq!(world.count(refused).await?, 5);
    Ok(())
}

/// A8: the member has a day to approve, the person a week to register.
#[tokio::test]
async fn a8_invitations_lapse() -> Result<()> {
    let mut world = World::start("fam_late").await?;
    world.family_may("see", 0).await?;
    let hanako = world
        .registered(&world.hanako, "hanako@example.com")
        .await?;
    invite(&world, &hanako, "child", KENJI).await?;
    let token = world.mail_to("hanako@example.com").await?.token()?;
    world.pass("25 hours").await?;
    assert_eq!(states(&world, &hanako).await?, ["expired"]);
    let late = world
        .rpc("", "approve_family", json!({ "token": token }))
        .await?;
    late.refused(401, "LY009")?;
    // the address can be invited again
    invite(&world, &hanako, "child", KENJI).await?;
    let token = approve(&world, "hanako@example.com", KENJI).await?;
    world.pass("7 days").await?;
    let arguments = registration(&token, BORN);
    let late = world.rpc("", "register_family", arguments).await?;
    late.refused(401, "LY009")?;
    assert_eq!(states(&world, &hanako).await?, ["canceled", "expired"]);
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

    // invited again, the login is the one there is
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

/// Mails to others' addresses are no toy: twenty invitations in a day, and no more.
#[tokio::test]
async fn a8_invitations_are_limited() -> Result<()> {
    let mut world = World::start("fam_many").await?;
    world.family_may("see", 0).await?;
    let hanako = world
        .registered(&world.hanako, "hanako@example.com")
        .await?;
    for i in 0..20 {
        invite(&world, &hanako, "child", &format!("c{i}@example.com")).await?;
    }
    let arguments = json!({
        "relation": "child", "name": "x", "birth_date": BORN, "address": "c20@example.com",
    });
    let answer = world
        .rpc(&hanako, "invite_family", arguments.clone())
        .await?;
    let seconds = answer.throttled().context("the 21st")?;
    assert_eq!(seconds, 24 * 60 * 60);
    world.pass("24 hours").await?;
    world.rpc(&hanako, "invite_family", arguments).await?.ok()?;
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
    let live = "loyalty.session where role = 'loyalty_family' and ended_at is null";
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
