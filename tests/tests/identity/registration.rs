//! Registration as a person meets it: keys, login ID, code, name (A1–A4, C8, C10, C11).

use anyhow::{Context, Result, ensure};
use loyalty_testkit::http::Answer;
use serde_json::{Value, json};

use crate::world::{Member, PASSWORD, Session, World};

const EMAIL: &str = "hanako@example.com";

impl World {
    async fn verify(&self, registration: &str, code: &str) -> Result<Answer> {
        let arguments = json!({ "registration": registration, "code": code });
        self.rpc("", "verify_code", arguments).await
    }

    /// Up to the name that is to be confirmed.
    async fn reach_name(&self, member: &Member, login_id: &str) -> Result<String> {
        let registration = self.begin(member).await?;
        self.choose(&registration, login_id).await?.ok()?;
        let code = self.mail_to(login_id).await?.code()?;
        let verified = self.verify(&registration, &code).await?.ok()?;
        ensure!(verified["next"] == "confirm", "{verified}");
        Ok(registration)
    }
}

/// Another code than that one.
fn wrong(code: &str) -> String {
    let last = if code.ends_with('0') { "1" } else { "0" };
    format!("{}{last}", &code[..5])
}

#[tokio::test]
async fn a1_a2_a3_a4_a_person_registers_by_mail() -> Result<()> {
    let world = World::start("reg_mail").await?;
    // A1, with the keys as people type them
    let arguments =
        json!({ "organisation_id": " acme ", "key_1": "ｋｈ１", "key_2": " SECRET-h1" });
    let begun = world.rpc("", "begin_registration", arguments).await?.ok()?;
    assert_eq!(begun["program"], "coin");
    assert_eq!(begun["terms_version"], "2026-04");
    assert_eq!(begun["terms_url"], "https://coin.example.com/terms");
    assert_eq!(begun["asks_details"], false);
    assert_eq!(begun["expires_at"], "2026-06-15T04:00:00+00:00");
    let rule = json!({ "length": 8, "letters": 2, "digits": 3, "symbols": false });
    assert_eq!(begun["password"], rule);
    ensure!(!begun.to_string().contains("花子"), "{begun}");
    let registration = begun["registration"].as_str().context("registration")?;
    // A2
    let chosen = world
        .choose(registration, " Hanako@Example.com")
        .await?
        .ok()?;
    assert_eq!(chosen["next"], "verify_code");
    assert_eq!(chosen["sent_to"], EMAIL);
    let state = "select i.state, l.identity_id is not null from loyalty.identity i
                   left join loyalty.identity_link l using (identity_id)";
    assert_eq!(world.one(state).await?, "(provisional,f)");
    world
        .log_in(EMAIL, PASSWORD, "coin")
        .await?
        .refused(401, "LY009")?;
    // A3: the code alone is in the mail, not the name of who may not have that address
    let mail = world.mail_to(EMAIL).await?;
    ensure!(!mail.text.contains("花子"), "{mail:?}");
    let code = mail.code()?;
    let html = mail.html.context("also as HTML")?;
    ensure!(html.contains(&code) && !html.contains("花子"), "{html}");
    // A4
    let shown = world.verify(registration, &code).await?.ok()?;
    assert_eq!(
        shown,
        json!({
            "next": "confirm", "name": world.hanako.name, "member_no": world.hanako.member_no,
            "asks_details": false,
            "program": "coin", "program_name": "コインプログラム",
        })
    );
    let session = Session::of(world.confirm(registration, &world.hanako).await?.ok()?)?;
    assert_eq!(session.body["program"], "coin");
    assert_eq!(session.body["role"], "member");
    assert_eq!(session.body["account_id"], world.hanako.account_id);
    let balance = world.get(&session.access, "/balance").await?.ok()?;
    assert_eq!(balance[0]["available"], 1000);
    let link = "select i.state, i.login_id, l.relation, l.terms_version, m.email
                  from loyalty.identity i join loyalty.identity_link l using (identity_id)
                  join loyalty.member m using (account_id)";
    assert_eq!(
        world.one(link).await?,
        format!("(active,{EMAIL},self,2026-04,{EMAIL})")
    );
    world.log_in(EMAIL, PASSWORD, "coin").await?.ok()?;
    // and it is finished
    world
        .confirm(registration, &world.hanako)
        .await?
        .refused(401, "LY009")?;
    let arguments = json!({ "organisation_id": "ACME", "key_1": "KH1", "key_2": "secret-H1" });
    world
        .rpc("", "begin_registration", arguments)
        .await?
        .refused(403, "LY010")?;
    Ok(())
}

#[tokio::test]
async fn a2_a3_a_mobile_number_gets_the_code_by_short_message() -> Result<()> {
    let world = World::start("reg_sms").await?;
    let registration = world.begin(&world.taro).await?;
    let chosen = world.choose(&registration, "090-1234-5678").await?.ok()?;
    assert_eq!(chosen["sent_to"], "+819012345678");
    let code = world.mail_to("+819012345678").await?.code()?;
    // in full-width digits, as a Japanese keyboard types them
    let wide: String = code
        .chars()
        .filter_map(|c| char::from_u32(u32::from(c) + 0xFEE0))
        .collect();
    world.verify(&registration, &wide).await?.ok()?;
    Session::of(world.confirm(&registration, &world.taro).await?.ok()?)?;
    let phone = "select m.phone from loyalty.member m join loyalty.account a using (account_id)
                  where a.member_no = 'T-1'";
    assert_eq!(world.one(phone).await?, "(+819012345678)");
    world.log_in("09012345678", PASSWORD, "coin").await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn a2_terms_password_and_login_id_are_checked_before_anything_is_kept() -> Result<()> {
    let world = World::start("reg_choose").await?;
    let registration = world.begin(&world.hanako).await?;
    let choose = async |change: Value| {
        let mut arguments = json!({
            "registration": registration, "login_id": EMAIL, "password": PASSWORD,
            "terms_version": "2026-04",
        });
        let (Some(all), Some(change)) = (arguments.as_object_mut(), change.as_object()) else {
            anyhow::bail!("objects")
        };
        all.extend(change.clone());
        world.rpc("", "choose_login", arguments).await
    };
    for (change, code) in [
        (json!({ "terms_version": "2025-04" }), "22023"),
        (json!({ "terms_version": null }), "22023"),
        (json!({ "login_id": "hanako" }), "22023"),
        (json!({ "login_id": "119" }), "22023"),
        (json!({ "login_id": null }), "22004"),
        (json!({ "login_id": " " }), "22004"),
        // C12's rule: letters and digits only, three digits and two letters at least
        (json!({ "password": "abcdef12" }), "22023"),
        (json!({ "password": "1234567a" }), "22023"),
        (json!({ "password": "abc-1234" }), "22023"),
        (json!({ "password": "ab123" }), "22023"),
        (json!({ "password": "xhanako123" }), "22023"),
        (json!({ "password": null }), "22004"),
    ] {
        let answer = choose(change.clone()).await?;
        answer
            .refused(400, code)
            .with_context(|| change.to_string())?;
    }
    let kept =
        "select (select count(*) from loyalty.identity), (select count(*) from loyalty_private.challenge),
                       (select stage from loyalty_private.registration)";
    assert_eq!(world.one(kept).await?, "(0,0,begun)");
    // out of turn
    world
        .verify(&registration, "123456")
        .await?
        .refused(400, "22023")?;
    world
        .confirm(&registration, &world.hanako)
        .await?
        .refused(400, "22023")?;
    world
        .verify("no such token", "123456")
        .await?
        .refused(401, "LY009")?;
    // a slip in the address is mended by choosing again, and one person stays
    choose(json!({ "login_id": "hanka@example.com" }))
        .await?
        .ok()?;
    let slipped = world.mail_to("hanka@example.com").await?.code()?;
    choose(json!({})).await?.ok()?;
    world
        .verify(&registration, &slipped)
        .await?
        .refused(401, "LY009")?;
    let code = world.mail_to(EMAIL).await?.code()?;
    world.verify(&registration, &code).await?.ok()?;
    let kept = "select count(*), min(login_id) from loyalty.identity";
    assert_eq!(world.one(kept).await?, format!("(1,{EMAIL})"));
    Ok(())
}

#[tokio::test]
async fn a3_wrong_replaced_late_and_used_codes_are_refused() -> Result<()> {
    let mut world = World::start("reg_code").await?;
    let registration = world.begin(&world.hanako).await?;
    let arguments = json!({ "registration": registration });
    world.choose(&registration, EMAIL).await?.ok()?;
    let first = world.mail_to(EMAIL).await?.code()?;
    // replaced by a newer one
    let resent = world
        .rpc("", "resend_code", arguments.clone())
        .await?
        .ok()?;
    assert_eq!(resent["sent_to"], EMAIL);
    let second = world.mail_to(EMAIL).await?.code()?;
    if first != second {
        world
            .verify(&registration, &first)
            .await?
            .refused(401, "LY009")?;
    }
    // late
    world.pass("16 minutes").await?;
    world
        .verify(&registration, &second)
        .await?
        .refused(401, "LY009")?;
    world
        .rpc("", "resend_code", arguments.clone())
        .await?
        .ok()?;
    let third = world.mail_to(EMAIL).await?.code()?;
    // another registration's, and what is no code
    let other = world.begin(&world.taro).await?;
    world.choose(&other, "taro@example.com").await?.ok()?;
    let others = world.mail_to("taro@example.com").await?.code()?;
    if others != third {
        world
            .verify(&registration, &others)
            .await?
            .refused(401, "LY009")?;
    }
    world
        .verify(&registration, "")
        .await?
        .refused(401, "LY009")?;
    world.verify(&registration, &third).await?.ok()?;
    // used
    world
        .verify(&registration, &third)
        .await?
        .refused(400, "22023")?;
    world
        .rpc("", "resend_code", arguments)
        .await?
        .refused(400, "22023")?;
    // the hour is over
    world.pass("61 minutes").await?;
    world
        .confirm(&registration, &world.hanako)
        .await?
        .refused(401, "LY009")?;
    world.verify(&other, &others).await?.refused(401, "LY009")?;
    Ok(())
}

#[tokio::test]
async fn a3_guessing_codes_ends_after_five_and_waits_grow() -> Result<()> {
    let mut world = World::start("reg_guess").await?;
    let registration = world.begin(&world.hanako).await?;
    world.choose(&registration, EMAIL).await?.ok()?;
    let code = world.mail_to(EMAIL).await?.code()?;
    for _ in 0..5 {
        world
            .verify(&registration, &wrong(&code))
            .await?
            .refused(401, "LY009")?;
    }
    // also the right one, and from anywhere
    assert_eq!(world.verify(&registration, &code).await?.throttled()?, 60);
    let arguments = json!({ "registration": registration, "code": code });
    let elsewhere = world
        .rpc_from("192.0.2.7", "", "verify_code", arguments)
        .await?;
    assert_eq!(elsewhere.throttled()?, 60);
    world.pass("61 seconds").await?;
    // five wrong ones have ended it
    world
        .verify(&registration, &code)
        .await?
        .refused(401, "LY009")?;
    assert_eq!(world.verify(&registration, &code).await?.throttled()?, 120);
    world.pass("121 seconds").await?;
    let arguments = json!({ "registration": registration });
    world.rpc("", "resend_code", arguments).await?.ok()?;
    let code = world.mail_to(EMAIL).await?.code()?;
    world.verify(&registration, &code).await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn nobody_is_flooded_with_codes() -> Result<()> {
    let mut world = World::start("reg_flood").await?;
    let registration = world.begin(&world.hanako).await?;
    let arguments = json!({ "registration": registration });
    world.choose(&registration, EMAIL).await?.ok()?;
    world.mail_to(EMAIL).await?;
    for _ in 0..2 {
        world
            .rpc("", "resend_code", arguments.clone())
            .await?
            .ok()?;
        world.mail_to(EMAIL).await?;
    }
    let refused = world.rpc("", "resend_code", arguments.clone()).await?;
    assert_eq!(refused.throttled()?, 60);
    // nor by another registration
    let other = world.begin(&world.taro).await?;
    assert_eq!(world.choose(&other, EMAIL).await?.throttled()?, 60);
    world.no_mail_to(EMAIL).await?;
    world.pass("61 seconds").await?;
    world.rpc("", "resend_code", arguments).await?.ok()?;
    world.mail_to(EMAIL).await?;
    Ok(())
}

#[tokio::test]
async fn a1_wrong_keys_are_one_answer_and_throttled() -> Result<()> {
    let mut world = World::start("reg_keys").await?;
    let begin = async |world: &World, organisation: &str, key_1: &str, key_2: &str| {
        let arguments = json!({ "organisation_id": organisation, "key_1": key_1, "key_2": key_2 });
        world.rpc("", "begin_registration", arguments).await
    };
    let mut answers = Vec::new();
    for (organisation, key_1, key_2) in [
        ("ACME", "KH1", "secret-T1"),
        ("ACME", "nobody's", "secret-H1"),
        ("MILE", "KH1", "secret-H1"),
        ("no such", "KH1", "secret-H1"),
        ("", "", ""),
    ] {
        let answer = begin(&world, organisation, key_1, key_2).await?;
        answer.refused(401, "LY009")?;
        answers.push(answer.text);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    for _ in 0..4 {
        begin(&world, "ACME", "KH1", "guess")
            .await?
            .refused(401, "LY009")?;
    }
    // also with the right key, in another spelling
    let blocked = begin(&world, "acme", " kh1", "secret-H1").await?;
    assert_eq!(blocked.throttled()?, 60);
    // other members are not held up
    world.begin(&world.taro).await?;
    world.pass("61 seconds").await?;
    begin(&world, "ACME", "KH1", "guess")
        .await?
        .refused(401, "LY009")?;
    let blocked = begin(&world, "ACME", "KH1", "secret-H1").await?;
    assert_eq!(blocked.throttled()?, 120);
    world.pass("121 seconds").await?;
    world.begin(&world.hanako).await?;
    Ok(())
}

#[tokio::test]
async fn one_client_cannot_try_many_keys() -> Result<()> {
    let mut world = World::start("reg_client").await?;
    let begin = async |world: &World, address: &str, key_1: &str| {
        let arguments = json!({ "organisation_id": "ACME", "key_1": key_1, "key_2": "secret-H1" });
        world
            .rpc_from(address, "", "begin_registration", arguments)
            .await
    };
    for n in 0..50 {
        // whatever it claims to be: the last address is what the proxy saw
        let address = format!("198.51.100.{n}, 192.0.2.7");
        begin(&world, &address, &format!("K{n}"))
            .await?
            .refused(401, "LY009")?;
    }
    let blocked = begin(&world, "192.0.2.7", "KH1").await?;
    assert_eq!(blocked.throttled()?, 60);
    begin(&world, "192.0.2.8", "KH1").await?.ok()?;
    world.pass("61 seconds").await?;
    begin(&world, "192.0.2.7", "KH1").await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn a2_the_answer_is_the_same_for_known_and_unknown_login_ids() -> Result<()> {
    let world = World::start("reg_same").await?;
    world.enrol(&world.hanako_mile, Some(EMAIL)).await?;
    let writes = "select (select count(*) from loyalty.identity), (select count(*) from loyalty_private.credential),
                         (select count(*) from loyalty_private.challenge), (select count(*) from loyalty.notice n
                                                                     where n.address is not null),
                         (select count(*) from loyalty_private.throttle), (select count(*) from loyalty.audit
                                                                     where action <> 'begin_registration')";
    let mut seen = Vec::new();
    for (member, login_id) in [(&world.hanako, EMAIL), (&world.taro, "tarooo@example.com")] {
        let registration = world.begin(member).await?;
        let before = world.one(writes).await?;
        let answer = world.choose(&registration, login_id).await?;
        let mut names: Vec<String> = answer.headers.keys().map(ToString::to_string).collect();
        names.sort();
        let text = answer.text.replace(login_id, "…");
        let after = world.one(writes).await?;
        let difference: Vec<i64> = counts(&after)?
            .iter()
            .zip(counts(&before)?)
            .map(|(after, before)| after - before)
            .collect();
        seen.push((answer.status, names, text, difference));
    }
    assert_eq!(seen[0].0, 200);
    assert_eq!(seen[0], seen[1]);
    // only who reads the mail learns it
    let known = world.mail_to(EMAIL).await?;
    let unknown = world.mail_to("tarooo@example.com").await?;
    assert_ne!(known.subject, unknown.subject);
    Ok(())
}

fn counts(row: &str) -> Result<Vec<i64>> {
    let numbers = row.trim_matches(['(', ')']).split(',');
    numbers.map(|n| n.parse().map_err(Into::into)).collect()
}

#[tokio::test]
async fn a4_another_persons_name_gives_the_registration_up() -> Result<()> {
    let world = World::start("reg_name").await?;
    let registration = world.reach_name(&world.taro, EMAIL).await?;
    let arguments = json!({ "registration": registration, "is_right_name": null });
    world
        .rpc("", "confirm_registration", arguments)
        .await?
        .refused(400, "22004")?;
    let arguments = json!({ "registration": registration, "is_right_name": false });
    world
        .rpc("", "confirm_registration", arguments)
        .await?
        .refused(403, "LY010")?;
    let left =
        "select (select count(*) from loyalty.identity), (select count(*) from loyalty_private.credential),
                       (select count(*) from loyalty.identity_link)";
    assert_eq!(world.one(left).await?, "(0,0,0)");
    world
        .confirm(&registration, &world.taro)
        .await?
        .refused(401, "LY009")?;
    // with the right keys it goes on
    world.register(&world.hanako, EMAIL).await?;
    Ok(())
}

/// C11: at first login the details are compared with the member record, a foreign name in katakana.
#[tokio::test]
async fn c11_details_must_be_those_of_the_member_record() -> Result<()> {
    let mut world = World::start("reg_details").await?;
    let confirm = async |world: &World, registration: &str, kana: Value, birth_date: Value| {
        let arguments = json!({
            "registration": registration, "is_right_name": true, "kana": kana, "birth_date": birth_date,
        });
        world.rpc("", "confirm_registration", arguments).await
    };
    let registration = world.reach_name(&world.zoe, "zoe@example.com").await?;
    // what cannot be right is told, and does not count
    for (kana, birth_date, code) in [
        (Value::Null, json!("1978-07-07"), "22004"),
        (json!(" "), json!("1978-07-07"), "22004"),
        (json!("ゾーイ・バーグ"), Value::Null, "22004"),
        (json!("Zoe Berg"), json!("1978-07-07"), "22023"),
        (json!("ゾーイ・バーグ"), json!("7 July 1978"), "22023"),
        (json!("ゾーイ・バーグ"), json!("1978-02-30"), "22023"),
    ] {
        confirm(&world, &registration, kana, birth_date)
            .await?
            .refused(400, code)?;
    }
    let mut answers = Vec::new();
    for (kana, birth_date) in [
        ("ゾーイ・バーグ", "1978-07-08"),
        ("ゾーイ・ベルグ", "1978-07-07"),
        ("ヤマダ ハナコ", "1985-04-12"),
        ("ゾーイ", "1978-07-07"),
        ("バーグ ゾーイ", "1978-07-07"),
    ] {
        let answer = confirm(&world, &registration, json!(kana), json!(birth_date)).await?;
        answer.refused(401, "LY009")?;
        answers.push(answer.text);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "which of them was wrong is not told");
    let right = (json!("ｿﾞｰｲ ﾊﾞｰｸﾞ"), json!("1978-07-07"));
    let blocked = confirm(&world, &registration, right.0.clone(), right.1.clone()).await?;
    assert_eq!(blocked.throttled()?, 60);
    // a new registration is no way around it
    let again = world.reach_name(&world.zoe, "zoe2@example.com").await?;
    let blocked = confirm(&world, &again, right.0.clone(), right.1.clone()).await?;
    assert_eq!(blocked.throttled()?, 60);
    world.pass("61 seconds").await?;
    // a foreign name in katakana; half-width, and with a space for the dot
    Session::of(
        confirm(&world, &registration, right.0, right.1)
            .await?
            .ok()?,
    )?;
    Ok(())
}

/// C11: no details are right where the record has none.
#[tokio::test]
async fn c11_a_record_without_details_cannot_be_compared_with() -> Result<()> {
    let world = World::start("reg_empty").await?;
    world
        .sql
        .batch_execute("select loyalty.set_member('mile', 'Z-1', clear => '{birth_date}')")
        .await?;
    let registration = world.reach_name(&world.zoe, "zoe@example.com").await?;
    world
        .confirm(&registration, &world.zoe)
        .await?
        .refused(403, "LY010")?;
    Ok(())
}

#[tokio::test]
async fn a7_only_active_members_register() -> Result<()> {
    let world = World::start("reg_active").await?;
    let keys = json!({ "organisation_id": "ACME", "key_1": "KH1", "key_2": "secret-H1" });
    let suspend = format!(
        "select loyalty.suspend_account({})",
        world.hanako.account_id
    );
    let reopen = format!("select loyalty.resume_account({})", world.hanako.account_id);
    world.sql.batch_execute(&suspend).await?;
    world
        .rpc("", "begin_registration", keys.clone())
        .await?
        .refused(403, "LY010")?;
    let wrong = json!({ "organisation_id": "ACME", "key_1": "KH1", "key_2": "wrong" });
    world
        .rpc("", "begin_registration", wrong)
        .await?
        .refused(401, "LY009")?;
    world.sql.batch_execute(&reopen).await?;
    let registration = world.reach_name(&world.hanako, EMAIL).await?;
    // suspended while the person looks at the name
    world.sql.batch_execute(&suspend).await?;
    world
        .confirm(&registration, &world.hanako)
        .await?
        .refused(403, "LY010")?;
    world.sql.batch_execute(&reopen).await?;
    world.confirm(&registration, &world.hanako).await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn c10_registration_keeps_service_hours() -> Result<()> {
    let mut world = World::start("reg_hours").await?;
    let registration = world.begin(&world.hanako).await?;
    world
        .sql
        .batch_execute("select loyalty.set_service_hours('coin', '02:00', '05:00')")
        .await?;
    world.choose(&registration, EMAIL).await?.ok()?;
    world.set_clock("2026-06-16 02:00+09").await?;
    let keys = json!({ "organisation_id": "ACME", "key_1": "KH1", "key_2": "secret-H1" });
    let closed = world.rpc("", "begin_registration", keys).await?;
    closed.refused(503, "LY007")?;
    // the other program is open
    world.begin(&world.zoe).await?;
    world.set_clock("2026-06-15 12:30+09").await?;
    world
        .sql
        .batch_execute("select loyalty.set_service_hours('coin', '12:30', '12:40')")
        .await?;
    let code = world.mail_to(EMAIL).await?.code()?;
    world
        .verify(&registration, &code)
        .await?
        .refused(503, "LY007")?;
    world.set_clock("2026-06-15 12:40+09").await?;
    world
        .rpc("", "resend_code", json!({ "registration": registration }))
        .await?
        .ok()?;
    let code = world.mail_to(EMAIL).await?.code()?;
    world.verify(&registration, &code).await?.ok()?;
    Ok(())
}
