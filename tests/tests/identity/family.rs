//! Families (A8): invited by a member, approved and registered from mails.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::world::{PASSWORD, Session, World};

pub const KENJI: &str = "kenji@example.com";
pub const BORN: &str = "1983-02-03";

pub async fn invite(world: &World, member: &str, relation: &str, address: &str) -> Result<Value> {
    let arguments = json!({
        "relation": relation, "name": "山田 健二", "birth_date": BORN, "address": address,
    });
    world.rpc(member, "invite_family", arguments).await?.ok()
}

/// The token in the mail to the person invited, once the member has approved by theirs.
pub async fn approve(world: &World, login_id: &str, address: &str) -> Result<String> {
    let token = world.mail_to(login_id).await?.token()?;
    let arguments = json!({ "token": token });
    let approved = world.rpc("", "approve_family", arguments).await?.ok()?;
    assert_eq!(approved["state"], "approved");
    world.mail_to(address).await?.token()
}

pub fn registration(token: &str, birth_date: &str) -> Value {
    json!({
        "token": token, "birth_date": birth_date, "password": PASSWORD, "terms_version": "2026-04",
    })
}

pub async fn register(world: &World, token: &str) -> Result<Session> {
    let arguments = registration(token, BORN);
    Session::of(world.rpc("", "register_family", arguments).await?.ok()?)
}

/// Hanako's token, and the session of her husband, who is registered.
pub async fn family(world: &World) -> Result<(String, Session)> {
    let hanako = world
        .registered(&world.hanako, "hanako@example.com")
        .await?;
    invite(world, &hanako, "spouse", KENJI).await?;
    let token = approve(world, "hanako@example.com", KENJI).await?;
    Ok((hanako, register(world, &token).await?))
}

/// The states that a member sees of their family, in the order of the invitations.
pub async fn states(world: &World, member: &str) -> Result<Vec<Value>> {
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
