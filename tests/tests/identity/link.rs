//! One login for several services (A1, A5), and registrations that meet each other.

use anyhow::{Context, Result};
use loyalty_testkit::http::Answer;
use loyalty_tests::until_one_waits;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::world::{Member, PASSWORD, Session, World};

const EMAIL: &str = "hanako@example.com";

impl World {
    async fn log_in_to_link(
        &self,
        registration: &str,
        password: &str,
        terms: Option<&str>,
    ) -> Result<Answer> {
        let arguments = json!({
            "registration": registration, "login_id": EMAIL, "password": password,
            "terms_version": terms,
        });
        self.rpc("", "log_in_to_link", arguments).await
    }

    /// Up to the answer to the right code.
    async fn verified(&self, member: &Member, login_id: &str) -> Result<(String, Value)> {
        let registration = self.begin(member).await?;
        self.choose(&registration, login_id).await?.ok()?;
        let code = self.mail_to(login_id).await?.code()?;
        let arguments = json!({ "registration": registration, "code": code });
        let verified = self.rpc("", "verify_code", arguments).await?.ok()?;
        Ok((registration, verified))
    }

    /// Begins a transaction that confirms a registration, and leaves it open.
    async fn confirm_slowly(&self, registration: &str) -> Result<(Client, Value)> {
        let client = self.db.connect().await?;
        client.batch_execute("begin").await?;
        let query = "select loyalty.confirm_registration($1, true, $2, $3::text::date)::text";
        let details = (&self.zoe.kana, &self.zoe.birth_date);
        let row = client
            .query_one(query, &[&registration, &details.0, &details.1])
            .await?;
        Ok((client, serde_json::from_str(row.get(0))?))
    }

    /// A confirmation that meets the open transaction, which then commits.
    async fn confirm_behind(
        &self,
        client: &Client,
        registration: &str,
        member: &Member,
    ) -> Result<Answer> {
        self.behind(client, self.confirm(registration, member))
            .await
    }

    /// What a request answers that meets an open transaction, which then commits.
    pub async fn behind(
        &self,
        client: &Client,
        request: impl Future<Output = Result<Answer>>,
    ) -> Result<Answer> {
        let (answer, committed) = tokio::join!(request, async {
            until_one_waits(&self.sql).await?;
            anyhow::Ok(client.batch_execute("commit").await?)
        });
        committed?;
        answer
    }
}

#[tokio::test]
async fn a1_a5_a_login_is_linked_from_the_start() -> Result<()> {
    let world = World::start("link_start").await?;
    let first = world.register(&world.hanako, EMAIL).await?;
    let registration = world.begin(&world.hanako_mile).await?;
    // the other program's terms are to be accepted too
    world
        .log_in_to_link(&registration, PASSWORD, None)
        .await?
        .refused(400, "22023")?;
    world
        .log_in_to_link(&registration, PASSWORD, Some("2026-04"))
        .await?
        .refused(400, "22023")?;
    let shown = world
        .log_in_to_link(&registration, PASSWORD, Some("7"))
        .await?
        .ok()?;
    assert_eq!(shown["next"], "confirm");
    assert_eq!(shown["name"], "山田 花子");
    assert_eq!(shown["asks_details"], true);
    let confirmed = world.confirm(&registration, &world.hanako_mile).await?;
    let second = Session::of(confirmed.ok()?)?;
    assert_eq!(second.body["program"], "mile");
    assert_eq!(second.body["account_id"], world.hanako_mile.account_id);
    let links = "select count(distinct l.identity_id), string_agg(l.terms_version, ' ' order by l.terms_version)
                   from loyalty.identity_link l";
    assert_eq!(world.one(links).await?, "(1,\"2026-04 7\")");
    // no code was needed, and each token opens its own program only
    world.no_mail_to(EMAIL).await?;
    for (session, account_id) in [
        (&first, world.hanako.account_id),
        (&second, world.hanako_mile.account_id),
    ] {
        let balances = world.get(&session.access, "/balance").await?.ok()?;
        assert_eq!(balances.as_array().map(Vec::len), Some(1));
        assert_eq!(balances[0]["account_id"], account_id);
    }
    for program in ["coin", "mile"] {
        let session = world.log_in(EMAIL, PASSWORD, program).await?.ok()?;
        assert_eq!(session["program"], program);
    }
    Ok(())
}

#[tokio::test]
async fn a5_a_login_id_in_use_turns_into_a_link() -> Result<()> {
    let world = World::start("link_taken").await?;
    let owner = world.enrol(&world.hanako, Some(EMAIL)).await?;
    let (registration, verified) = world.verified(&world.hanako_mile, EMAIL).await?;
    assert_eq!(verified, json!({ "next": "log_in", "login_id": EMAIL }));
    // the mailbox alone is not enough
    let confirmed = world.confirm(&registration, &world.hanako_mile).await?;
    confirmed.refused(400, "22023")?;
    world
        .log_in_to_link(&registration, "wrong2026", None)
        .await?
        .refused(401, "LY009")?;
    // the terms were accepted with the login ID
    let shown = world.log_in_to_link(&registration, PASSWORD, None).await?;
    assert_eq!(shown.ok()?["name"], "山田 花子");
    Session::of(
        world
            .confirm(&registration, &world.hanako_mile)
            .await?
            .ok()?,
    )?;
    let links =
        "select count(*), min(l.identity_id), max(l.identity_id) from loyalty.identity_link l";
    assert_eq!(world.one(links).await?, format!("(2,{owner},{owner})"));
    // the provisional one is gone, with the password that was chosen
    let left = "select (select count(*) from loyalty.identity), (select count(*) from loyalty_private.credential)";
    assert_eq!(world.one(left).await?, "(1,1)");
    Ok(())
}

#[tokio::test]
async fn a5_wrong_passwords_count_as_those_of_a_login() -> Result<()> {
    let world = World::start("link_guess").await?;
    world.enrol(&world.hanako, Some(EMAIL)).await?;
    let registration = world.begin(&world.hanako_mile).await?;
    for _ in 0..3 {
        world
            .log_in_to_link(&registration, "wrong2026", Some("7"))
            .await?
            .refused(401, "LY009")?;
    }
    for _ in 0..2 {
        world
            .log_in(EMAIL, "wrong2026", "coin")
            .await?
            .refused(401, "LY009")?;
    }
    let blocked = world
        .log_in_to_link(&registration, PASSWORD, Some("7"))
        .await?;
    assert_eq!(blocked.throttled()?, 30);
    world.log_in(EMAIL, PASSWORD, "coin").await?.throttled()?;
    Ok(())
}

#[tokio::test]
async fn a5_a_login_is_one_member_of_a_program() -> Result<()> {
    let world = World::start("link_two").await?;
    world.enrol(&world.hanako, Some(EMAIL)).await?;
    let registration = world.begin(&world.taro).await?;
    world
        .log_in_to_link(&registration, PASSWORD, Some("2026-04"))
        .await?
        .ok()?;
    world
        .confirm(&registration, &world.taro)
        .await?
        .refused(403, "LY010")?;
    assert_eq!(
        world
            .one("select count(*) from loyalty.identity_link")
            .await?,
        "(1)"
    );
    Ok(())
}

#[tokio::test]
async fn a5_a_suspended_login_is_not_linked() -> Result<()> {
    let world = World::start("link_suspended").await?;
    let owner = world.enrol(&world.hanako, Some(EMAIL)).await?;
    let registration = world.begin(&world.hanako_mile).await?;
    world
        .log_in_to_link(&registration, PASSWORD, Some("7"))
        .await?
        .ok()?;
    let suspend = "update loyalty.identity set state = 'suspended' where identity_id = $1";
    world.sql.execute(suspend, &[&owner]).await?;
    let confirmed = world.confirm(&registration, &world.hanako_mile).await?;
    confirmed.refused(403, "LY010")?;
    // nor does it get that far again
    let again = world.begin(&world.hanako_mile).await?;
    let linked = world.log_in_to_link(&again, PASSWORD, Some("7")).await?;
    linked.refused(403, "LY010")?;
    Ok(())
}

#[tokio::test]
async fn c8_an_account_elsewhere_opens_nothing_here() -> Result<()> {
    let world = World::start("link_c8").await?;
    let coin = world.register(&world.hanako, EMAIL).await?;
    world
        .log_in(EMAIL, PASSWORD, "mile")
        .await?
        .refused(403, "LY010")?;
    // another account, with a login ID of its own
    let mile = world
        .register(&world.hanako_mile, "hanako@example.org")
        .await?;
    assert_ne!(coin.body["account_id"], mile.body["account_id"]);
    assert_eq!(
        world
            .one("select count(*) from loyalty.identity where state = 'active'")
            .await?,
        "(2)"
    );
    world
        .log_in("hanako@example.org", PASSWORD, "coin")
        .await?
        .refused(403, "LY010")?;
    Ok(())
}

#[tokio::test]
async fn of_two_registrations_of_a_member_one_is_finished() -> Result<()> {
    let world = World::start("link_race_member").await?;
    let (first, _) = world.verified(&world.zoe, "zoe@example.com").await?;
    let (second, _) = world.verified(&world.zoe, "other@example.com").await?;
    let (client, session) = world.confirm_slowly(&first).await?;
    Session::of(session)?;
    let answer = world.confirm_behind(&client, &second, &world.zoe).await?;
    answer.refused(403, "LY010")?;
    let links = "select count(*), min(i.login_id) from loyalty.identity_link join loyalty.identity i using (identity_id)";
    assert_eq!(world.one(links).await?, "(1,zoe@example.com)");
    world
        .log_in("other@example.com", PASSWORD, "mile")
        .await?
        .refused(401, "LY009")?;
    Ok(())
}

#[tokio::test]
async fn of_two_registrations_of_a_login_id_the_second_is_linked() -> Result<()> {
    let world = World::start("link_race_login").await?;
    let (first, verified) = world.verified(&world.zoe, EMAIL).await?;
    assert_eq!(verified["next"], "confirm");
    let (second, verified) = world.verified(&world.taro, EMAIL).await?;
    assert_eq!(verified["next"], "confirm");
    let (client, session) = world.confirm_slowly(&first).await?;
    Session::of(session)?;
    let answer = world.confirm_behind(&client, &second, &world.taro).await?;
    assert_eq!(answer.ok()?, json!({ "next": "log_in", "login_id": EMAIL }));
    world.log_in_to_link(&second, PASSWORD, None).await?.ok()?;
    Session::of(world.confirm(&second, &world.taro).await?.ok()?)?;
    let people = "select count(distinct identity_id), count(*) from loyalty.identity_link";
    assert_eq!(world.one(people).await?, "(1,2)");
    Ok(())
}

#[tokio::test]
async fn four_clients_at_once_finish_one_registration_once() -> Result<()> {
    let world = World::start("link_race_four").await?;
    let (registration, _) = world.verified(&world.hanako, EMAIL).await?;
    let confirm = || world.confirm(&registration, &world.hanako);
    let (a, b, c, d) = tokio::join!(confirm(), confirm(), confirm(), confirm());
    let mut statuses = [a?.status, b?.status, c?.status, d?.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401, 401, 401]);
    let made = "select (select count(*) from loyalty_private.session), (select count(*) from loyalty.identity_link)";
    assert_eq!(world.one(made).await?, "(1,1)");
    world.one("select 1").await.context("still there").map(drop)
}
