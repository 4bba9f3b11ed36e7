//! A body or a query string by which PostgREST would do half of what the client means: all of it
//! is refused, for everything that changes something, and nothing is written.

use crate::world::{World, points_of};
use anyhow::{Context as _, Result, ensure};
use loyalty_testkit::http::Answer;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

impl World {
    async fn rpc_at(&self, token: &str, call: &str, body: &Value) -> Result<Answer> {
        let request = self.request(Method::POST, token, &format!("/rpc/{call}"));
        Answer::of(request.json(body)).await
    }
}

#[tokio::test]
async fn an_array_of_calls_is_refused() -> Result<()> {
    let world = World::start("half_array").await?;
    let (token, before) = (world.member(world.ann)?, world.ledger().await?);
    let two = json!([{"points": 1}, {"points": 2}]);
    let answer = world.rpc(&token, "spend", two).await?;
    answer.refused(400, "22023")?;
    assert_eq!(answer.header("loyalty-reason"), "one_call_only");
    // also where a number is none that a bigint or a double holds
    let request = world
        .post(&token, "spend")
        .header(CONTENT_TYPE, "application/json");
    let body = r#"[{"points": 1}, {"points": 1e999}]"#;
    Answer::of(request.body(body))
        .await?
        .refused(400, "22023")?;
    // CSV becomes an array
    let request = world.post(&token, "spend").header(CONTENT_TYPE, "text/csv");
    let answer = Answer::of(request.body("points\n1\n2\n")).await?;
    answer.refused(400, "22023")?;
    assert_eq!(answer.header("loyalty-reason"), "one_call_only");
    assert_eq!(world.ledger().await?, before);
    // one call is one call
    let one = world.rpc(&token, "spend", json!([{"points": 1}])).await?;
    assert_eq!(one.ok()?["points"], 1);
    assert_eq!(world.available(world.ann).await?, 999);
    Ok(())
}

#[tokio::test]
async fn what_would_hide_the_answer_is_refused() -> Result<()> {
    let world = World::start("half_answer").await?;
    let (token, admin) = (world.member(world.ann)?, world.admin()?);
    let before = world.ledger().await?;
    let spend = json!({"points": 1});
    for (query, reason) in [
        ("points=eq.5", "filter_not_allowed"),
        ("points=eq.1", "filter_not_allowed"),
        ("points=is.null", "filter_not_allowed"),
        ("kind=in.(grant)", "filter_not_allowed"),
        ("or=(points.eq.1,points.eq.5)", "filter_not_allowed"),
        ("limit=0", "limit_not_allowed"),
        ("limit=1&offset=1", "limit_not_allowed"),
        ("offset=1", "limit_not_allowed"),
    ] {
        // more often than PostgreSQL plans a statement for its parameters
        for _ in 0..7 {
            let answer = world
                .rpc_at(&token, &format!("spend?{query}"), &spend)
                .await?;
            answer.refused(400, "22023").context(query)?;
            assert_eq!(answer.header("loyalty-reason"), reason, "{query}");
        }
    }
    let ranged = world
        .post(&token, "spend")
        .header("Range", "1-2")
        .json(&spend);
    if Answer::of(ranged).await?.status == 200 {
        // PostgREST takes no Range of a POST: then nothing is hidden either
        assert_eq!(world.available(world.ann).await?, 999);
    } else {
        assert_eq!(world.ledger().await?, before);
    }
    let before = world.ledger().await?;
    let items = json!({"items": [points_of(world.ann, 1), points_of(world.bob, 1)]});
    for query in ["error_code=not.is.null", "limit=0", "offset=1"] {
        let answer = world
            .rpc_at(&admin, &format!("grant_many?{query}"), &items)
            .await?;
        answer.refused(400, "22023").context(query)?;
    }
    let answer = world
        .rpc_at(&admin, "open_account?limit=0", &json!({"member_no": "x"}))
        .await?;
    answer.refused(400, "22023")?;
    assert_eq!(world.ledger().await?, before);
    // what shortens or orders an answer, and what reads, is as it was
    for _ in 0..7 {
        let call = "spend?select=points&limit=1&offset=0";
        assert_eq!(
            world.rpc_at(&token, call, &spend).await?.ok()?,
            json!({"points": 1})
        );
    }
    let call = "grant_many?select=item&order=item.desc&limit=10";
    assert_eq!(
        world.rpc_at(&admin, call, &items).await?.column("item")?,
        [2, 1]
    );
    let call = "explain_spend?step=eq.2";
    assert_eq!(world.rpc_at(&token, call, &spend).await?.ok()?, json!([]));
    Ok(())
}

/// The refusal comes before the function is called: it is the same for all of them.
#[tokio::test]
async fn every_call_that_changes_something_refuses_it() -> Result<()> {
    let world = World::start("half_every").await?;
    let rows = world
        .sql
        .query(
            // import_members is there for JSON, text and bytes; for nulls PostgREST cannot choose
            "select f.proname::text, min(f.proargnames[:f.pronargs])
               from pg_catalog.pg_proc f
              where f.pronamespace = 'loyalty_api'::regnamespace and f.provolatile = 'v'
              group by 1
             having count(*) = 1
              order by 1",
            &[],
        )
        .await?;
    ensure!(rows.len() > 50, "{} functions", rows.len());
    let operator = world.operator()?;
    for row in rows {
        let (function, names): (String, Vec<String>) =
            (row.get(0), row.try_get(1).unwrap_or_default());
        let arguments: Value = names
            .iter()
            .map(|name| (name.clone(), Value::Null))
            .collect();
        let answer = world
            .rpc_at(&operator, &format!("{function}?limit=0"), &arguments)
            .await?;
        answer
            .refused(400, "22023")
            .with_context(|| function.clone())?;
        assert_eq!(
            answer.header("loyalty-reason"),
            "limit_not_allowed",
            "{function}"
        );
        if !names.is_empty() {
            let two = json!([arguments, arguments]);
            let answer = world.rpc_at(&operator, &function, &two).await?;
            answer
                .refused(400, "22023")
                .with_context(|| function.clone())?;
            assert_eq!(
                answer.header("loyalty-reason"),
                "one_call_only",
                "{function}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn columns_that_leave_arguments_out_are_refused() -> Result<()> {
    let world = World::start("half_columns").await?;
    let (token, before) = (world.member(world.ann)?, world.ledger().await?);
    let spend = json!({"points": 1, "idempotency_key": "k"});
    let answer = world.rpc_at(&token, "spend?columns=points", &spend).await?;
    answer.refused(400, "22023")?;
    assert_eq!(answer.header("loyalty-reason"), "argument_left_out");
    assert_eq!(answer.header("loyalty-field"), "idempotency_key");
    assert_eq!(world.ledger().await?, before);
    let call = "spend?columns=points,idempotency_key";
    world.rpc_at(&token, call, &spend).await?.ok()?;
    Ok(())
}
