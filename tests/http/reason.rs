//! Reason and field of refusals: in headers over HTTP, in the fields of an error by SQL.

use crate::world::{World, points_of};
use anyhow::{Context as _, Result};
use loyalty_tests::http::Answer;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

/// Status, code, reason, field.
type Told<'a> = (u16, &'a str, &'a str, &'a str);

fn assert_told(answer: &Answer, told: Told) -> Result<Value> {
    let (status, code, reason, field) = told;
    let body = answer.error(status, code)?;
    assert_eq!(answer.header("loyalty-reason"), reason, "{body}");
    assert_eq!(answer.header("loyalty-field"), field, "{body}");
    let exposed = answer
        .headers
        .get_all("access-control-expose-headers")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect::<Vec<_>>()
        .join(", ");
    for name in [
        "loyalty-reason",
        "loyalty-field",
        "retry-after",
        "www-authenticate",
    ] {
        let is_sent = answer.headers.contains_key(name);
        let is_exposed = exposed.to_lowercase().contains(name);
        assert!(!is_sent || is_exposed, "{name} is not exposed: {exposed}");
    }
    Ok(body)
}

#[tokio::test]
async fn reasons_and_fields_are_in_headers() -> Result<()> {
    let world = World::start("reason_headers").await?;
    let (ann, admin) = (world.member(world.ann)?, world.admin()?);
    let cases: [(&str, &str, Value, Told); 10] = [
        (
            &ann,
            "spend",
            json!({"points": 1001}),
            (402, "LY001", "not_enough_points", "points"),
        ),
        (
            &ann,
            "spend",
            json!({"points": 0}),
            (400, "22023", "points_not_positive", "points"),
        ),
        (
            &ann,
            "spend",
            json!({"points": 1.5}),
            (400, "22023", "points_not_whole", "points"),
        ),
        (
            &ann,
            "spend",
            json!({"points": null}),
            (400, "22004", "value_missing", "points"),
        ),
        (
            &ann,
            "spend",
            json!({"colour": 1}),
            (400, "22023", "arguments_wrong", ""),
        ),
        (
            &ann,
            "spend",
            points_of(world.bob, 1),
            (403, "LY010", "token_for_other_account", "account_id"),
        ),
        (
            &ann,
            "grant",
            points_of(world.ann, 1),
            (403, "LY010", "role_not_allowed", ""),
        ),
        (
            "",
            "spend",
            json!({"points": 1}),
            (401, "LY009", "not_signed_in", ""),
        ),
        (
            &admin,
            "spend",
            points_of(999, 1),
            (404, "LY002", "no_such_account", "account_id"),
        ),
        (
            &admin,
            "revoke",
            json!({"account_id": world.ann, "operation_id": world.ann << 24 | 1, "policy": "x"}),
            (400, "22023", "policy_unknown", "policy"),
        ),
    ];
    for (token, function, arguments, told) in cases {
        let answer = world.rpc(token, function, arguments).await?;
        let body = assert_told(&answer, told)?;
        // the four keys of PostgREST's errors and no others
        assert_eq!(
            body.as_object().map(serde_json::Map::len),
            Some(4),
            "{body}"
        );
        let hint = body["hint"].as_str().unwrap_or_default();
        assert!(!hint.contains("loyalty."), "{hint}");
    }
    let answer = world.get(&ann, "/rpc/spend?points=1").await?;
    assert_told(&answer, (405, "25006", "get_not_allowed", ""))?;
    // a page of another origin
    let request = world
        .post(&ann, "spend")
        .header("Origin", "https://shop.example");
    let answer = Answer::of(request.json(&json!({"points": 1001}))).await?;
    assert_told(&answer, (402, "LY001", "not_enough_points", "points"))?;
    Ok(())
}

/// What PostgreSQL itself would refuse without the argument's name.
#[tokio::test]
async fn values_of_another_type_name_the_argument() -> Result<()> {
    let world = World::start("reason_types").await?;
    let (admin, before) = (world.admin()?, world.ledger().await?);
    let cases = [
        (
            "spend",
            r#"{"account_id": "abc", "points": 1}"#,
            "22P02",
            "value_malformed",
            "account_id",
        ),
        (
            "spend",
            r#"{"account_id": 1.5, "points": 1}"#,
            "22P02",
            "value_malformed",
            "account_id",
        ),
        (
            "spend",
            r#"{"account_id": [1], "points": 1}"#,
            "22P02",
            "value_malformed",
            "account_id",
        ),
        (
            "spend",
            r#"{"account_id": true, "points": 1}"#,
            "22P02",
            "value_malformed",
            "account_id",
        ),
        (
            "spend",
            r#"{"account_id": 1e30, "points": 1}"#,
            "22003",
            "number_out_of_range",
            "account_id",
        ),
        (
            "spend",
            r#"{"account_id": "99999999999999999999", "points": 1}"#,
            "22003",
            "number_out_of_range",
            "account_id",
        ),
        (
            "spend",
            r#"{"points": "many"}"#,
            "22P02",
            "value_malformed",
            "points",
        ),
        (
            "spend",
            r#"{"points": {}}"#,
            "22P02",
            "value_malformed",
            "points",
        ),
        (
            "hold",
            r#"{"points": 1, "expires_in": "soon"}"#,
            "22007",
            "datetime_malformed",
            "expires_in",
        ),
        (
            "grant",
            r#"{"account_id": 1, "points": 1, "expires_on": "soon"}"#,
            "22023",
            "not_a_date",
            "expires_on",
        ),
        (
            "end_session",
            r#"{"session_id": "x"}"#,
            "22P02",
            "value_malformed",
            "session_id",
        ),
        (
            "explain_spend",
            r#"{"points": "many"}"#,
            "22P02",
            "value_malformed",
            "points",
        ),
    ];
    for (function, body, code, reason, field) in cases {
        // as an object, and as the only one of an array
        for body in [body.to_owned(), format!("[{body}]")] {
            let request = world
                .post(&admin, function)
                .header(CONTENT_TYPE, "application/json");
            let answer = Answer::of(request.body(body.clone())).await?;
            assert_told(&answer, (400, code, reason, field)).context(body)?;
        }
    }
    assert_eq!(world.ledger().await?, before);
    // what PostgreSQL takes is taken
    let spend = format!(r#"{{"account_id": "{}", "points": "1"}}"#, world.ann);
    let request = world
        .post(&admin, "spend")
        .header(CONTENT_TYPE, "application/json");
    Answer::of(request.body(spend)).await?.ok()?;
    Ok(())
}

/// PostgreSQL's own refusals of a view's filter have no reason: this is as documented.
#[tokio::test]
async fn filters_of_views_are_postgresqls_own() -> Result<()> {
    let world = World::start("reason_filter").await?;
    let answer = world
        .get(&world.admin()?, "/balance?account_id=eq.abc")
        .await?;
    answer.error(400, "22P02")?;
    assert_eq!(answer.header("loyalty-reason"), "");
    Ok(())
}

#[tokio::test]
async fn refusals_that_are_answers_have_a_reason_too() -> Result<()> {
    let world = World::start("reason_answer").await?;
    world
        .sql
        .batch_execute("select loyalty.set_access_policy('coin', organisation_id => 'org')")
        .await?;
    let wrong =
        json!({"login_id": "nobody@example.com", "password": "wrong-12345", "program": "coin"});
    let answer = world.rpc("", "log_in", wrong).await?;
    let body = assert_told(&answer, (401, "LY009", "wrong_credentials", ""))?;
    assert_eq!(body["reason"], "wrong_credentials");
    assert_eq!(answer.header("www-authenticate"), "Bearer");
    Ok(())
}

#[tokio::test]
async fn items_of_bulk_calls_have_reasons() -> Result<()> {
    let world = World::start("reason_items").await?;
    let items =
        json!({"items": [points_of(world.ann, 1), points_of(world.bob, 5000), points_of(999, 1)]});
    let answer = world.rpc(&world.admin()?, "spend_many", items).await?;
    assert_eq!(
        answer.column("error_reason")?,
        [
            Value::Null,
            json!("not_enough_points"),
            json!("no_such_account")
        ]
    );
    assert_eq!(
        answer.column("error_field")?,
        [Value::Null, json!("points"), json!("account_id")]
    );
    Ok(())
}

/// Any driver has them.
#[tokio::test]
async fn by_sql_they_are_constraint_and_column() -> Result<()> {
    let world = World::start("reason_sql").await?;
    for (call, code, reason, field) in [
        (
            "loyalty.spend_fifo(1, 5000)",
            "LY001",
            "not_enough_points",
            Some("points"),
        ),
        (
            "loyalty.spend_fifo(1, 0)",
            "22023",
            "points_not_positive",
            Some("points"),
        ),
        (
            "loyalty.balance(999)",
            "LY002",
            "no_such_account",
            Some("account_id"),
        ),
        (
            "loyalty.create_program(null, null)",
            "22004",
            "value_missing",
            None,
        ),
    ] {
        let refused = world.sql.execute(&format!("select {call}"), &[]).await;
        let refused = refused.err().context(call)?;
        let refused = refused.as_db_error().context(call)?;
        assert_eq!(refused.code().code(), code, "{call}");
        assert_eq!(refused.constraint(), Some(reason), "{call}");
        assert_eq!(refused.column(), field, "{call}");
    }
    Ok(())
}

/// The server names headers by itself; a preflight lets a page send ours.
#[tokio::test]
async fn browsers_may_send_our_headers() -> Result<()> {
    let world = World::start("reason_preflight").await?;
    let request = world
        .request(Method::OPTIONS, "", "/rpc/spend")
        .header("Origin", "https://shop.example")
        .header("Access-Control-Request-Method", "POST")
        .header(
            "Access-Control-Request-Headers",
            "authorization, content-type, idempotency-key",
        );
    let answer = Answer::of(request).await?;
    let allowed = answer.header("access-control-allow-headers").to_lowercase();
    assert!(allowed.contains("idempotency-key"), "{allowed}");
    Ok(())
}
