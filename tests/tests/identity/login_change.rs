//! Login by member number, and another login ID later (S8).

use anyhow::Result;
use loyalty_testkit::http::Answer;
use serde_json::{Value, json};

use crate::world::{Member, PASSWORD, Session, World};

const EMAIL: &str = "zoe@example.com";
const TOLD: &str = "loyalty.notice where kind = 'login_changed'";

impl World {
    /// Zoe registers without an e-mail address.
    async fn register_by_number(&self) -> Result<Session> {
        let registration = self.begin(&self.zoe).await?;
        let arguments =
            json!({ "registration": registration, "password": PASSWORD, "terms_version": "7" });
        let chosen = self.rpc("", "choose_login", arguments).await?.ok()?;
        assert_eq!(chosen["next"], "confirm");
        assert_eq!(chosen["name"], "Zoe Berg");
        assert_eq!(chosen["asks_details"], true);
        Session::of(self.confirm(&registration, &self.zoe).await?.ok()?)
    }

    async fn request_change(&self, token: &str, login_id: &str, password: &str) -> Result<Answer> {
        let arguments = json!({ "login_id": login_id, "password": password });
        self.rpc(token, "request_login_change", arguments).await
    }

    async fn confirm_change(&self, token: &str) -> Result<Answer> {
        self.rpc("", "confirm_login_change", json!({ "token": token }))
            .await
    }
}

#[tokio::test]
async fn s8_a_member_number_logs_in_and_an_address_is_registered_later() -> Result<()> {
    let world = World::start("change_s8").await?;
    let session = world.register_by_number().await?;
    let person = "select i.login_id, i.state, l.terms_version from loyalty.identity i
                    join loyalty.identity_link l using (identity_id)";
    assert_eq!(world.one(person).await?, "(,active,7)");
    world.log_in("Z-1", PASSWORD, "mile").await?.ok()?;
    // the other program does not do that
    world
        .log_in("A-1", PASSWORD, "coin")
        .await?
        .refused(401, "LY009")?;
    let arguments = json!({ "login_id": Value::Null, "password": PASSWORD });
    let nothing = world
        .rpc(&session.access, "request_login_change", arguments)
        .await?;
    nothing.refused(400, "22023")?;
    let sent = world.request_change(&session.access, " Zoe@Example.com", PASSWORD);
    assert_eq!(sent.await?.ok()?["sent_to"], EMAIL);
    // until the link is opened nothing changed
    assert_eq!(world.one(person).await?, "(,active,7)");
    let mail = world.mail_to(EMAIL).await?;
    let link = mail.link()?;
    assert!(
        link.starts_with("https://mile.example.com/app/login_change#"),
        "{link}"
    );
    let changed = world.confirm_change(&mail.token()?).await?.ok()?;
    assert_eq!(changed, json!({ "login_id": EMAIL }));
    world.log_in(EMAIL, PASSWORD, "mile").await?.ok()?;
    // the member number stays good
    world.log_in("Z-1", PASSWORD, "mile").await?.ok()?;
    let record = world.get(&session.access, "/member").await?.ok()?;
    assert_eq!(record[0]["email"], EMAIL);
    // once
    world
        .confirm_change(&mail.token()?)
        .await?
        .refused(401, "LY009")?;
    // no address lost the login: there is none to tell
    assert_eq!(world.count(TOLD).await?, 0);
    Ok(())
}

/// S8: a stolen session and password do not move a login unnoticed: the address that loses it is
/// told, that it is lost and to whom to turn, and not what the new one is.
#[tokio::test]
async fn s8_the_address_that_loses_a_login_is_told() -> Result<()> {
    const OLD: &str = "hanako@example.com";
    const PHONE: &str = "+818012345678";
    let world = World::start("change_told").await?;
    let session = world.register(&world.hanako, OLD).await?;
    let change = async |login_id: &str| {
        let asked = world.request_change(&session.access, login_id, PASSWORD);
        asked.await?.ok()?;
        world.mail_to(login_id).await?.token()
    };
    let token = change(PHONE).await?;
    // so far nothing happened
    world.no_mail_to(OLD).await?;
    world.confirm_change(&token).await?.ok()?;
    let mail = world.mail_to(OLD).await?;
    assert_eq!(
        mail.subject,
        "【コインプログラム】ログインIDが変更されました"
    );
    assert!(mail.link().is_err(), "{mail:?}");
    for text in [&mail.text, &mail.html.unwrap_or_default()] {
        for words in [
            "2026年6月15日(月)に、ログインIDが変更されました",
            "このアドレスではログインできません",
            "お心当たりのない場合",
            "お問い合わせください",
            &world.hanako.name,
        ] {
            assert!(text.contains(words), "{words} is not in {text}");
        }
        assert!(!text.contains("12345678"), "{text}");
    }
    // the link again: not told again
    world.confirm_change(&token).await?.refused(401, "LY009")?;
    world.no_mail_to(OLD).await?;
    // a phone, by short message
    let token = change(EMAIL).await?;
    world.confirm_change(&token).await?.ok()?;
    let short = world.mail_to(PHONE).await?;
    assert!(
        short
            .text
            .contains("この番号ではログインできなくなりました")
            && !short.text.contains(EMAIL),
        "{short:?}"
    );
    // somebody else was quicker: it did not change
    let token = change("late@example.com").await?;
    world.enrol(&world.taro, Some("late@example.com")).await?;
    world.confirm_change(&token).await?.refused(403, "LY010")?;
    world.no_mail_to(EMAIL).await?;
    assert_eq!(world.count(TOLD).await?, 2);
    Ok(())
}

#[tokio::test]
async fn s8_only_where_the_program_allows_it() -> Result<()> {
    let world = World::start("change_no").await?;
    let registration = world.begin(&world.hanako).await?;
    let arguments =
        json!({ "registration": registration, "password": PASSWORD, "terms_version": "2026-04" });
    world
        .rpc("", "choose_login", arguments)
        .await?
        .refused(400, "22004")?;
    Ok(())
}

#[tokio::test]
async fn s8_links_that_are_late_replaced_or_made_up_are_refused() -> Result<()> {
    let mut world = World::start("change_link").await?;
    let session = world.register_by_number().await?;
    let ask = async |world: &World, login_id: &str| {
        world
            .request_change(&session.access, login_id, PASSWORD)
            .await?
            .ok()
    };
    ask(&world, EMAIL).await?;
    let first = world.mail_to(EMAIL).await?.token()?;
    ask(&world, "berg@example.com").await?;
    let second = world.mail_to("berg@example.com").await?.token()?;
    let (number, _) = second.split_once('.').unwrap_or_default();
    let (_, proof) = first.split_once('.').unwrap_or_default();
    for token in ["", "x", &first, &format!("{number}.{proof}")] {
        world.confirm_change(token).await?.refused(401, "LY009")?;
    }
    world.pass("16 minutes").await?;
    world.confirm_change(&second).await?.refused(401, "LY009")?;
    let states = "select count(*) from loyalty.identity where login_id is null";
    assert_eq!(world.one(states).await?, "(1)");
    Ok(())
}

#[tokio::test]
async fn a_login_id_in_use_gets_no_link_and_the_answer_does_not_tell() -> Result<()> {
    let world = World::start("change_taken").await?;
    world.enrol(&world.taro, Some("taro@example.com")).await?;
    let session = world.register_by_number().await?;
    let taken = world.request_change(&session.access, "taro@example.com", PASSWORD);
    let taken = taken.await?.ok()?;
    let free = world.request_change(&session.access, EMAIL, PASSWORD);
    let free = free.await?.ok()?;
    let shape = |body: &Value| body.to_string().replace("taro", "zoe");
    assert_eq!(shape(&taken), shape(&free));
    let token = world.mail_to(EMAIL).await?.token()?;
    world.no_mail_to("taro@example.com").await?;
    // somebody else registers with it before the link is opened
    world.enrol(&world.hanako, Some(EMAIL)).await?;
    world.confirm_change(&token).await?.refused(403, "LY010")?;
    Ok(())
}

#[tokio::test]
async fn the_password_is_asked_for_and_guesses_count() -> Result<()> {
    let mut world = World::start("change_guess").await?;
    let session = world.register(&world.hanako, "hanako@example.com").await?;
    for _ in 0..5 {
        world
            .request_change(&session.access, EMAIL, "wrong2026")
            .await?
            .refused(401, "LY009")?;
    }
    let blocked = world
        .request_change(&session.access, EMAIL, PASSWORD)
        .await?;
    assert_eq!(blocked.throttled()?, 60);
    world.pass("61 seconds").await?;
    // the one there is
    world
        .request_change(&session.access, "hanako@example.com", PASSWORD)
        .await?
        .refused(400, "22023")?;
    // to a mobile number
    world
        .request_change(&session.access, "080-1234-5678", PASSWORD)
        .await?
        .ok()?;
    let token = world.mail_to("+818012345678").await?.token()?;
    world.confirm_change(&token).await?.ok()?;
    world
        .log_in("hanako@example.com", PASSWORD, "coin")
        .await?
        .refused(401, "LY009")?;
    world.log_in("08012345678", PASSWORD, "coin").await?.ok()?;
    // not without a login
    world
        .request_change("", EMAIL, PASSWORD)
        .await?
        .refused(401, "LY009")?;
    let machine = world.admin("coin")?;
    world
        .request_change(&machine, EMAIL, PASSWORD)
        .await?
        .refused(403, "LY010")?;
    Ok(())
}

/// S8: a link to a new password that went to the old address is over with it.
#[tokio::test]
async fn s8_links_that_went_to_the_old_address_are_over() -> Result<()> {
    const OLD: &str = "hanako@example.com";
    let world = World::start("change_over").await?;
    let session = world.register(&world.hanako, OLD).await?;
    let reset = async |login_id: &str| {
        let asked = json!({ "login_id": login_id, "program": "coin" });
        let asked = world.rpc("", "request_password_reset", asked).await?.ok()?;
        let token = world.mail_to(login_id).await?.token()?;
        anyhow::Ok(json!({
            "token": token, "screen_key": asked["screen_key"],
            "password": "coin2027abc", "password_again": "coin2027abc",
        }))
    };
    let before = reset(OLD).await?;
    let asked = world.request_change(&session.access, EMAIL, PASSWORD);
    asked.await?.ok()?;
    let token = world.mail_to(EMAIL).await?.token()?;
    world.confirm_change(&token).await?.ok()?;
    world
        .rpc("", "reset_password", before)
        .await?
        .refused(401, "LY009")?;
    world.log_in(EMAIL, PASSWORD, "coin").await?.ok()?;
    let after = reset(EMAIL).await?;
    world.rpc("", "reset_password", after).await?.ok()?;
    Ok(())
}

/// A session of somebody who is family of a member.
async fn family_of(world: &World, member: &Member, login_id: &str) -> Result<Session> {
    let person = world.enrol(member, Some(login_id)).await?;
    let link = "update loyalty.identity_link set relation = 'spouse' where identity_id = $1";
    world.sql.execute(link, &[&person]).await?;
    let start =
        "select loyalty.start_session($1, a.program_id, 'family', a.account_id, false)::text
                   from loyalty.account a where a.account_id = $2";
    let row = world
        .sql
        .query_one(start, &[&person, &member.account_id])
        .await?;
    Session::of(serde_json::from_str(row.get(0))?)
}

#[tokio::test]
async fn a8_a_family_members_new_address_stays_out_of_the_members_record() -> Result<()> {
    let world = World::start("change_family").await?;
    let session = family_of(&world, &world.hanako, "ken@example.com").await?;
    let asked = world.request_change(&session.access, "ken@example.org", PASSWORD);
    asked.await?.ok()?;
    let token = world.mail_to("ken@example.org").await?.token()?;
    world.confirm_change(&token).await?.ok()?;
    let record = "select m.email from loyalty.member m join loyalty.account a using (account_id)
                   where a.member_no = 'H-1'";
    assert_eq!(world.one(record).await?, "()");
    // nor has the mail to the old one the member's name
    let told = world.mail_to("ken@example.com").await?;
    assert!(told.subject.contains("ログインIDが変更"), "{told:?}");
    assert!(!told.text.contains(&world.hanako.name), "{told:?}");
    Ok(())
}
