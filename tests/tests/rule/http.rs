//! Rules and events over HTTP: who may, what comes back, how errors look.

use crate::{ANNIVERSARY, Program};
use anyhow::{Context as _, Result};
use loyalty_testkit::Api;
use loyalty_testkit::http::{self, Answer};
use loyalty_testkit::token::{Claims, Role};
use loyalty_tests::set_database_clock;
use reqwest::Method;
use serde_json::{Value, json};

struct Site {
    api: Api,
    http: reqwest::Client,
    account: i64,
    // dropped last: nothing is connected to it then
    program: Program,
}

impl Site {
    async fn open(name: &str) -> Result<Self> {
        let program = Program::open(name).await?;
        set_database_clock(&program.db, "2024-05-01 10:00+09").await?;
        let account = program
            .member("m", "first_service_on", "2024-06-20")
            .await?;
        program.account("friend").await?;
        program
            .run(
                "select loyalty.create_program('other', 'Other');
                  select loyalty.create_rule('other', 'secret', 'manual', '{}')",
            )
            .await?;
        Ok(Site {
            api: program.db.api().await?,
            http: http::client().build()?,
            account,
            program,
        })
    }

    fn token(&self, role: Role, program: &str) -> Result<String> {
        self.api.token(&Claims::new(role, 600)?.program(program))
    }
    fn admin(&self) -> Result<String> {
        self.token(Role::Admin, "coin")
    }
    fn member(&self) -> Result<String> {
        let claims = Claims::new(Role::Member, 600)?.program("coin");
        self.api.token(&claims.account_id(self.account))
    }

    async fn call(&self, token: &str, function: &str, arguments: Value) -> Result<Answer> {
        let path = format!("/rpc/{function}");
        let request = http::request(&self.http, &self.api, Method::POST, token, &path);
        Answer::of(request.json(&arguments)).await
    }

    async fn get(&self, token: &str, path: &str) -> Result<(u16, Value)> {
        let request = http::request(&self.http, &self.api, Method::GET, token, path);
        let answer = Answer::of(request).await?;
        Ok((answer.status, answer.json()?))
    }

    async fn ok(&self, token: &str, function: &str, arguments: Value) -> Result<Value> {
        let answer = self.call(token, function, arguments).await?;
        answer.ok().with_context(|| function.to_owned())
    }

    async fn refused(
        &self,
        token: &str,
        function: &str,
        arguments: Value,
        status: u16,
        code: &str,
    ) -> Result<Value> {
        let answer = self.call(token, function, arguments).await?;
        answer
            .refused(status, code)
            .with_context(|| function.to_owned())
    }
}

fn anniversary() -> Value {
    serde_json::from_str(ANNIVERSARY).unwrap_or_default()
}

#[tokio::test]
async fn administrators_write_rules() -> Result<()> {
    let site = Site::open("http_rule").await?;
    let admin = site.admin()?;
    let rule = json!({"code": "a", "kind": "anniversary", "terms": anniversary(), "title": "Years", "expiry": "2 years"});
    let written = site.ok(&admin, "create_rule", rule.clone()).await?;
    assert_eq!(
        (
            &written["program"],
            &written["code"],
            &written["version"],
            &written["valid_from"],
            &written["expiry"]
        ),
        (
            &json!("coin"),
            &json!("a"),
            &json!(1),
            &json!("2024-05-01"),
            &json!("2 years")
        )
    );
    assert_eq!(written["terms"]["points"], 2000);
    assert!(
        written["created_by"]
            .as_str()
            .is_some_and(|by| by.starts_with("loyalty_admin"))
    );
    site.refused(&admin, "create_rule", rule, 409, "23505")
        .await?;

    let mut terms = anniversary();
    terms["points"] = json!(3000);
    let changed = json!({"code": "a", "terms": terms, "from_day": "2025-01-01"});
    assert_eq!(site.ok(&admin, "change_rule", changed).await?["version"], 2);
    let ended = site
        .ok(
            &admin,
            "end_rule",
            json!({"code": "a", "last_day": "2026-12-31"}),
        )
        .await?;
    assert_eq!(
        (&ended["version"], &ended["valid_to"]),
        (&json!(2), &json!("2026-12-31"))
    );

    let (status, rows) = site.get(&admin, "/rule?order=version").await?;
    assert_eq!(status, 200);
    assert_eq!(
        rows.as_array().map(Vec::len),
        Some(2),
        "those of the own program: {rows}"
    );
    assert_eq!(rows[0]["valid_to"], "2024-12-31");
    assert_eq!(rows[1]["terms"]["points"], 3000);

    // the field that is wrong, and terms that are right
    let body = site
        .refused(
            &admin,
            "create_rule",
            json!({"code": "b", "kind": "birthday", "terms": {"points": 0}}),
            400,
            "22023",
        )
        .await?;
    assert!(
        body["details"]
            .as_str()
            .is_some_and(|text| text.starts_with("$.points: ")),
        "{body}"
    );
    assert!(
        body["hint"]
            .as_str()
            .is_some_and(|text| text.contains("\"day_of_month\"")),
        "{body}"
    );
    let bad_day =
        json!({"code": "b", "kind": "birthday", "terms": {"points": 1}, "valid_from": "tomorrow"});
    site.refused(&admin, "create_rule", bad_day, 400, "22023")
        .await?;
    site.refused(&admin, "create_rule", json!({"code": "b"}), 400, "22023")
        .await?;
    site.refused(
        &admin,
        "change_rule",
        json!({"code": "secret", "title": "x"}),
        404,
        "LY002",
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn others_may_not() -> Result<()> {
    let site = Site::open("http_rule_roles").await?;
    let (member, granter) = (site.member()?, site.token(Role::Granter, "coin")?);
    let admin = site.admin()?;
    let create = json!({"code": "r", "kind": "manual", "terms": {"points": 5}});
    for token in [&member, &granter] {
        site.refused(token, "create_rule", create.clone(), 403, "LY010")
            .await?;
        site.refused(token, "change_rule", json!({"code": "r"}), 403, "LY010")
            .await?;
        site.refused(token, "end_rule", json!({"code": "r"}), 403, "LY010")
            .await?;
        site.refused(token, "cancel_event", json!({"event_id": 1}), 403, "LY010")
            .await?;
        for view in ["/rule", "/event"] {
            assert_eq!(site.get(token, view).await?.0, 403, "{view}");
        }
    }
    site.refused("", "create_rule", create.clone(), 401, "LY009")
        .await?;
    site.refused(
        "",
        "record_event",
        json!({"kind": "e", "member_no": "m"}),
        401,
        "LY009",
    )
    .await?;
    let elsewhere = json!({"code": "r", "kind": "manual", "terms": {}, "program": "other"});
    site.refused(&admin, "create_rule", elsewhere, 403, "LY010")
        .await?;
    let operator = site.api.token(&Claims::new(Role::Operator, 600)?)?;
    site.refused(&operator, "create_rule", create.clone(), 400, "22004")
        .await?;

    site.ok(&admin, "create_rule", create).await?;
    // a member of another program, and one's own points by hand
    let theirs = json!({"account_id": site.account, "rule": "r"});
    site.refused(&member, "grant_by_rule", theirs.clone(), 403, "LY010")
        .await?;
    let elsewhere = site.token(Role::Admin, "other")?;
    site.refused(&elsewhere, "grant_by_rule", theirs.clone(), 404, "LY002")
        .await?;
    site.refused(&elsewhere, "explain_rule", theirs.clone(), 404, "LY002")
        .await?;
    site.refused(
        &member,
        "record_event",
        json!({"kind": "e", "member_no": "m"}),
        403,
        "LY010",
    )
    .await?;
    assert_eq!(
        site.ok(&granter, "grant_by_rule", theirs).await?["points"],
        5
    );
    site.program.verify().await
}

#[tokio::test]
async fn c5_events_over_http() -> Result<()> {
    let site = Site::open("http_event").await?;
    let (admin, granter) = (site.admin()?, site.token(Role::Granter, "coin")?);
    let referral =
        json!({"event": "referral", "points": 5000, "months_after": 1, "day_of_month": 15});
    let rate = json!({"per_amount": 100, "points": 1, "rounding": "half_up"});
    site.ok(
        &admin,
        "create_rule",
        json!({"code": "referral", "kind": "event", "terms": referral}),
    )
    .await?;
    site.ok(
        &admin,
        "create_rule",
        json!({"code": "rate", "kind": "purchase", "terms": rate}),
    )
    .await?;

    let signed = json!({"kind": "referral", "member_no": "m", "other_member_no": "friend", "occurred_on": "2024-04-30", "reference": "c-1"});
    let first = site.ok(&granter, "record_event", signed.clone()).await?;
    assert_eq!(first["is_new"], true);
    let pays: Vec<&Value> = (0..2)
        .map(|place| &first["payments"][place]["pays_on"])
        .collect();
    assert_eq!(pays, [&json!("2024-05-15"), &json!("2024-05-15")]);
    let again = site.ok(&admin, "record_event", signed).await?;
    assert_eq!(
        (&again["is_new"], &again["event_id"]),
        (&json!(false), &first["event_id"])
    );
    let other = json!({"kind": "referral", "member_no": "friend", "reference": "c-1"});
    site.refused(&admin, "record_event", other, 409, "LY003")
        .await?;

    // by header, and with a part of a yen
    let url = format!("{}/rpc/record_event", site.api.url());
    let bought = site
        .http
        .post(url)
        .bearer_auth(&granter)
        .header("Idempotency-Key", "order 7")
        .json(&json!({"kind": "purchase", "member_no": "m", "amount": 2549.5}))
        .send()
        .await?
        .json::<Value>()
        .await?;
    assert_eq!(bought["payments"][0]["points"], 25);
    let (_, rows) = site
        .get(
            &admin,
            "/event?order=event_id&select=kind,member_no,other_member_no,reference,amount",
        )
        .await?;
    assert_eq!(
        rows,
        json!([
            {"kind": "referral", "member_no": "m", "other_member_no": "friend", "reference": "c-1", "amount": null},
            {"kind": "purchase", "member_no": "m", "other_member_no": null, "reference": "order 7", "amount": 2549.5}
        ])
    );
    let unknown = site
        .refused(
            &admin,
            "record_event",
            json!({"kind": "visit", "member_no": "m"}),
            400,
            "22023",
        )
        .await?;
    assert!(
        unknown["hint"]
            .as_str()
            .is_some_and(|hint| hint.contains("purchase, referral")),
        "{unknown}"
    );
    let elsewhere = site.token(Role::Admin, "other")?;
    let cancel = json!({"event_id": bought["event_id"], "reason": "sent back"});
    site.refused(&elsewhere, "cancel_event", cancel.clone(), 404, "LY002")
        .await?;
    assert_eq!(site.get(&elsewhere, "/event").await?.1, json!([]));
    assert_eq!(
        site.ok(&admin, "cancel_event", cancel.clone()).await?,
        json!({"revoked": 25})
    );
    assert_eq!(
        site.ok(&admin, "cancel_event", cancel).await?,
        json!({"revoked": 0})
    );
    site.program.verify().await
}

#[tokio::test]
async fn c2_members_see_what_is_to_come() -> Result<()> {
    let site = Site::open("http_explain").await?;
    let (admin, member) = (site.admin()?, site.member()?);
    site.ok(
        &admin,
        "create_rule",
        json!({"code": "a", "kind": "anniversary", "terms": anniversary()}),
    )
    .await?;
    let by_member = site.get(&member, "/rpc/explain_rule?rule=a").await?;
    assert_eq!(by_member.0, 200, "{}", by_member.1);
    assert_eq!(
        (&by_member.1["pays_on"], &by_member.1["points"]),
        (&json!("2025-06-16"), &json!(2000))
    );
    let by_admin = site
        .ok(
            &admin,
            "explain_rule",
            json!({"rule": "a", "account_id": site.account}),
        )
        .await?;
    assert_eq!(by_admin, by_member.1);
    site.refused(&admin, "explain_rule", json!({"rule": "a"}), 400, "22004")
        .await?;
    site.refused(
        &member,
        "explain_rule",
        json!({"rule": "a", "account_id": site.account + 1}),
        403,
        "LY010",
    )
    .await?;
    site.refused(
        &member,
        "explain_rule",
        json!({"rule": "secret"}),
        404,
        "LY002",
    )
    .await?;
    Ok(())
}
