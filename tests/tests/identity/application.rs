//! Forgotten login IDs (A6, C13): the application, staff's answer, and the mail that follows.

use anyhow::{Context, Result, ensure};
use loyalty_testkit::http::Answer;
use serde_json::{Value, json};

use crate::recovery::NEW;
use crate::world::{Member, PASSWORD, World};

const HANAKO: &str = "hanako@example.com";

impl World {
    async fn apply(&self, member: &Member, login_id: &str) -> Result<Answer> {
        self.rpc("", "apply_for_login", form(member, login_id))
            .await
    }

    async fn decide(&self, token: &str, call: &str, application: &Value) -> Result<Answer> {
        let arguments = json!({ "application_id": application["application_id"] });
        self.rpc(token, call, arguments).await
    }
}

/// The guide's form for who forgot the login ID.
fn form(member: &Member, login_id: &str) -> Value {
    json!({
        "organisation_id": member.organisation_id, "name": member.name, "kana": member.kana,
        "birth_date": member.birth_date, "member_no": member.member_no,
        "login_id": login_id, "login_id_again": login_id, "phone": "03-1234-5678", "consent": true,
    })
}

/// A6, C13: application, suspension, approval, and the link that sets ID and password.
#[tokio::test]
async fn a6_c13_a_forgotten_login_id_is_replaced_once_staff_approve() -> Result<()> {
    let world = World::start("application").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let session = world.logged_in(HANAKO, "coin").await?;
    let application = world.apply(&world.hanako, "new@example.com").await?.ok()?;
    assert_eq!(application["state"], "waiting");
    // until then the login is suspended
    world
        .get(&session.access, "/balance")
        .await?
        .refused(401, "LY009")?;
    world
        .log_in(HANAKO, PASSWORD, "coin")
        .await?
        .refused(403, "LY010")?;
    world.forgot(HANAKO, "coin").await?.ok()?;
    world.no_mail_to(HANAKO).await?;
    // staff of that program see it
    let admin = world.admin("coin")?;
    let waiting = "/login_application?state=eq.waiting";
    let shown = world.get(&admin, waiting).await?.ok()?;
    assert_eq!(shown.as_array().map(Vec::len), Some(1));
    assert_eq!(shown[0]["login_id"], "new@example.com");
    assert_eq!(shown[0]["differs"], json!([]));
    assert_eq!(shown[0]["has_login"], true);
    let other = world.admin("mile")?;
    assert_eq!(world.get(&other, waiting).await?.ok()?, json!([]));
    for (token, status, code) in [
        (other, 404, "LY002"),
        (world.granter("coin")?, 403, "LY010"),
        (String::new(), 401, "LY009"),
    ] {
        for call in ["approve_application", "refuse_application"] {
            world
                .decide(&token, call, &application)
                .await?
                .refused(status, code)?;
        }
    }
    world.no_mail_to("new@example.com").await?;
    let approved = world
        .decide(&admin, "approve_application", &application)
        .await?
        .ok()?;
    assert_eq!(approved["state"], "approved");
    let token = world.mail_to("new@example.com").await?.token()?;
    world
        .log_in(HANAKO, PASSWORD, "coin")
        .await?
        .refused(403, "LY010")?;
    let weak = json!({ "token": token, "password": "abc", "password_again": "abc" });
    world
        .rpc("", "accept_login", weak)
        .await?
        .refused(400, "22023")?;
    world.accept(&token).await?.ok()?;
    world.accept(&token).await?.refused(401, "LY009")?;
    world.log_in("new@example.com", NEW, "coin").await?.ok()?;
    for password in [PASSWORD, NEW] {
        world
            .log_in(HANAKO, password, "coin")
            .await?
            .refused(401, "LY009")?;
    }
    // both addresses hear of it; the old one, that it is no login ID any more
    for (address, subject) in [
        ("new@example.com", "パスワードが変更されました"),
        (HANAKO, "ログインIDが変更されました"),
    ] {
        let mail = world.mail_to(address).await?;
        ensure!(
            mail.link().is_err() && mail.subject.ends_with(subject),
            "{mail:?}"
        );
        ensure!(!mail.text.contains("new@example.com"), "{mail:?}");
    }
    let settled = world
        .decide(&admin, "refuse_application", &application)
        .await?;
    settled.refused(400, "22023")?;
    let audited = "select string_agg(a.action, ' ' order by a.audit_id) from loyalty.audit a
                    where a.action like '%application%' or a.action ~ '(apply|accept)'";
    assert_eq!(
        world.one(audited).await?,
        "(\"apply_for_login approve_application accept_login\")"
    );
    Ok(())
}

/// C13: refused, the login is good again as it was.
#[tokio::test]
async fn c13_a_refused_application_leaves_the_login_as_it_was() -> Result<()> {
    let world = World::start("application_refused").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let admin = world.admin("coin")?;
    let one = world.apply(&world.hanako, "new@example.com").await?.ok()?;
    let two = world
        .apply(&world.hanako, "newer@example.com")
        .await?
        .ok()?;
    let refuse = async |application: &Value| {
        let arguments =
            json!({ "application_id": application["application_id"], "reason": "not she" });
        world.rpc(&admin, "refuse_application", arguments).await
    };
    refuse(&one).await?.ok()?;
    // the other one still waits
    world
        .log_in(HANAKO, PASSWORD, "coin")
        .await?
        .refused(403, "LY010")?;
    refuse(&two).await?.ok()?;
    world.logged_in(HANAKO, "coin").await?;
    refuse(&two).await?.refused(400, "22023")?;
    // what an administrator suspended, no refusal resumes
    let three = world
        .apply(&world.hanako, "newest@example.com")
        .await?
        .ok()?;
    world
        .rpc(&admin, "suspend_identity", json!({ "login_id": HANAKO }))
        .await?
        .ok()?;
    refuse(&three).await?.ok()?;
    world
        .log_in(HANAKO, PASSWORD, "coin")
        .await?
        .refused(403, "LY010")?;
    Ok(())
}

/// C13: who cannot say what the member record says suspends nobody.
#[tokio::test]
async fn c13_what_does_not_match_suspends_nobody() -> Result<()> {
    let world = World::start("application_differs").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let session = world.logged_in(HANAKO, "coin").await?;
    let admin = world.admin("coin")?;
    let mut shapes = Vec::new();
    for (field, value) in [
        ("name", "山本 花子"),
        ("kana", "ヤマモト ハナコ"),
        ("birth_date", "1985-04-13"),
        ("member_no", "H-2"),
    ] {
        // as if each came from somebody else: how often one may ask is another test's
        world.forgive().await?;
        let mut form = form(&world.hanako, "evil@example.com");
        form[field] = json!(value);
        let made = world.rpc("", "apply_for_login", form).await?.ok()?;
        shapes.push(
            made.as_object()
                .map(|body| body.keys().cloned().collect::<Vec<_>>()),
        );
        world.get(&session.access, "/balance").await?.ok()?;
        let path = format!(
            "/login_application?application_id=eq.{}",
            made["application_id"]
        );
        let shown = world.get(&admin, &path).await?.ok()?;
        let differs = shown[0]["differs"].as_array().context("differs")?;
        ensure!(differs.contains(&json!(field)), "{field}: {differs:?}");
        let approved = world.decide(&admin, "approve_application", &made).await?;
        if field == "member_no" {
            approved.refused(400, "22023")?;
        } else {
            // staff may know better: then it is suspended like any other
            approved.ok()?;
            world
                .get(&session.access, "/balance")
                .await?
                .refused(401, "LY009")?;
            world
                .decide(&admin, "refuse_application", &made)
                .await?
                .ok()?;
            break;
        }
    }
    world.forgive().await?;
    let matching = world.apply(&world.taro, "taro@example.com").await?.ok()?;
    shapes.push(
        matching
            .as_object()
            .map(|body| body.keys().cloned().collect()),
    );
    ensure!(shapes.iter().all(|shape| shape == &shapes[0]), "{shapes:?}");
    // spaces and widths do not make another name
    let mut loose = form(&world.hanako, "new@example.com");
    loose["name"] = json!(" 山田花子");
    loose["kana"] = json!("ﾔﾏﾀﾞﾊﾅｺ");
    world.rpc("", "apply_for_login", loose).await?.ok()?;
    world
        .log_in(HANAKO, PASSWORD, "coin")
        .await?
        .refused(403, "LY010")?;
    Ok(())
}

#[tokio::test]
async fn c13_forms_that_cannot_be_and_ids_that_are_taken() -> Result<()> {
    let world = World::start("application_form").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    world.enrol(&world.taro, Some("taro@example.com")).await?;
    for (field, value, code) in [
        ("consent", json!(false), "22023"),
        ("login_id_again", json!("other@example.com"), "22023"),
        ("login_id", json!("neither"), "22023"),
        ("birth_date", json!("1985-02-30"), "22023"),
        ("kana", json!("漢字"), "22023"),
        ("phone", json!("12"), "22023"),
        ("name", json!(null), "22004"),
    ] {
        let mut form = form(&world.hanako, "new@example.com");
        form[field] = value;
        let answer = world.rpc("", "apply_for_login", form).await?;
        answer
            .refused(400, code)
            .with_context(|| field.to_owned())?;
    }
    let mut nowhere = form(&world.hanako, "new@example.com");
    nowhere["organisation_id"] = json!("NONE");
    world
        .rpc("", "apply_for_login", nowhere)
        .await?
        .refused(404, "LY002")?;
    world.logged_in(HANAKO, "coin").await?;
    // somebody else's ID, and a member whom nobody logs in as
    let admin = world.admin("coin")?;
    let taken = world.apply(&world.hanako, "Taro@example.com").await?.ok()?;
    world
        .decide(&admin, "approve_application", &taken)
        .await?
        .refused(400, "22023")?;
    let nobody = world.apply(&world.ann, "ann@example.com").await?.ok()?;
    world
        .decide(&admin, "approve_application", &nobody)
        .await?
        .refused(400, "22023")?;
    world.no_mail_to("taro@example.com").await?;
    // not as often as somebody likes
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(world.apply(&world.ann, "ann@example.com").await?.status);
    }
    ensure!(answers.ends_with(&[429]), "{answers:?}");
    Ok(())
}

/// C13: the link is good for 15 minutes; staff can send another.
#[tokio::test]
async fn c13_an_approval_is_good_for_fifteen_minutes() -> Result<()> {
    let mut world = World::start("application_late").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let application = world.apply(&world.hanako, "new@example.com").await?.ok()?;
    let admin = world.admin("coin")?;
    world
        .decide(&admin, "approve_application", &application)
        .await?
        .ok()?;
    let late = world.mail_to("new@example.com").await?.token()?;
    world.pass("15 minutes 1 second").await?;
    world.accept(&late).await?.refused(401, "LY009")?;
    world
        .decide(&admin, "approve_application", &application)
        .await?
        .ok()?;
    let token = world.mail_to("new@example.com").await?.token()?;
    world.accept(&late).await?.refused(401, "LY009")?;
    world.accept(&token).await?.ok()?;
    world.log_in("new@example.com", NEW, "coin").await?.ok()?;
    Ok(())
}

/// A login of several programs is not one administrator's to give away.
#[tokio::test]
async fn c13_a_login_of_several_programs_is_the_operators() -> Result<()> {
    let world = World::start("application_several").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    world.join(HANAKO, &world.hanako_mile).await?;
    let session = world.logged_in(HANAKO, "coin").await?;
    let application = world.apply(&world.hanako, "new@example.com").await?.ok()?;
    // who writes the member record of one program suspends nobody in another
    world.get(&session.access, "/balance").await?.ok()?;
    world.logged_in(HANAKO, "mile").await?;
    let approve = "approve_application";
    world
        .decide(&world.admin("coin")?, approve, &application)
        .await?
        .refused(403, "LY010")?;
    world
        .decide(&world.operator()?, approve, &application)
        .await?
        .ok()?;
    let token = world.mail_to("new@example.com").await?.token()?;
    world.accept(&token).await?.ok()?;
    for program in ["coin", "mile"] {
        world.log_in("new@example.com", NEW, program).await?.ok()?;
    }
    Ok(())
}

/// C13: nor do staff who may write a member's record suspend an operator by it; refusing what
/// was approved leaves no login suspended for another application that could not suspend it.
#[tokio::test]
async fn c13_an_application_suspends_no_operator() -> Result<()> {
    let world = World::start("application_operator").await?;
    let person = world.enrol(&world.hanako, Some(HANAKO)).await?;
    world
        .sql
        .batch_execute(&format!(
            "select loyalty.give_role(null, '{HANAKO}', 'operator')"
        ))
        .await?;
    let operator = json!({ "login_id": HANAKO, "password": PASSWORD, "role": "operator" });
    let session = world.rpc("", "log_in", operator.clone()).await?.ok()?;
    let own = world.apply(&world.hanako, "new@example.com").await?.ok()?;
    let state = format!("select state from loyalty.identity where identity_id = {person}");
    assert_eq!(world.one(&state).await?, "(active)");
    let refresh = json!({ "refresh_token": session["refresh_token"] });
    world.rpc("", "refresh", refresh).await?.ok()?;
    let by = world.operator()?;
    world.decide(&by, "approve_application", &own).await?.ok()?;
    assert_eq!(world.one(&state).await?, "(suspended)");
    let other = world.apply(&world.hanako, "evil@example.com").await?.ok()?;
    world.decide(&by, "refuse_application", &own).await?.ok()?;
    assert_eq!(world.one(&state).await?, "(active)");
    world.rpc("", "log_in", operator).await?.ok()?;
    world
        .decide(&by, "refuse_application", &other)
        .await?
        .ok()?;
    assert_eq!(world.one(&state).await?, "(active)");
    Ok(())
}
