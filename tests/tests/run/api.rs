//! Schedules and runs over HTTP: administrators of the program, and nobody else.

use super::world::{program, tick_at};
use anyhow::{Context as _, Result, ensure};
use loyalty_testkit::http::{self, Answer};
use loyalty_testkit::token::{Claims, Role};
use loyalty_testkit::{Api, TestDb};
use reqwest::Method;
use serde_json::{Value, json};

struct Http {
    api: Api,
    client: reqwest::Client,
}

impl Http {
    async fn ask(
        &self,
        method: Method,
        token: &str,
        path: &str,
        body: Value,
    ) -> Result<(u16, Value)> {
        let mut request = http::request(&self.client, &self.api, method.clone(), token, path);
        if method == Method::POST {
            request = request.json(&body);
        }
        let answer = Answer::of(request).await?;
        Ok((answer.status, answer.json()?))
    }
    async fn get(&self, token: &str, path: &str) -> Result<(u16, Value)> {
        self.ask(Method::GET, token, path, Value::Null).await
    }
    async fn rpc(&self, token: &str, name: &str, body: Value) -> Result<(u16, Value)> {
        self.ask(Method::POST, token, &format!("/rpc/{name}"), body)
            .await
    }
}

#[tokio::test]
async fn administrators_see_and_steer_their_program() -> Result<()> {
    let db = TestDb::create("run_api").await?;
    let sql = db.connect().await?;
    program(&sql, "coin", "Asia/Tokyo", 40).await?;
    program(&sql, "mile", "Asia/Tokyo", 40).await?;
    sql.batch_execute(
        "create function poison() returns trigger language plpgsql as
         $$ begin
             if new.account_id in (select account_id from loyalty.account where member_no = 'M-2') then
                 raise exception 'no good';
             end if;
             return new;
         end $$;
         create trigger poison before update on loyalty.wallet for each row execute function poison()",
    )
    .await?;
    tick_at(&sql, "2025-01-15 09:00+09", 1000).await?;
    sql.batch_execute(&format!(
        "drop trigger poison on loyalty.wallet;
         alter database {} set loyalty.clock = '2025-01-15 09:00+09'",
        db.name()
    ))
    .await?;
    let http = Http {
        api: db.api().await?,
        client: http::client().build()?,
    };
    let token =
        |role| -> Result<String> { http.api.token(&Claims::new(role, 600)?.program("coin")) };
    let admin = token(Role::Admin)?;

    let (status, schedule) = http.get(&admin, "/schedule?order=job").await?;
    ensure!(status == 200, "{schedule}");
    let jobs: Vec<&Value> = schedule
        .as_array()
        .context("rows")?
        .iter()
        .map(|row| &row["job"])
        .collect();
    ensure!(
        jobs == ["expire", "rule:anniversary", "rule:bonus"],
        "{schedule}"
    );
    ensure!(
        schedule[1]["next_period"] == "2025-02-15" && schedule[1]["effective_on"] == "2025-02-17"
    );
    let (_, runs) = http.get(&admin, "/run?job=eq.rule:anniversary").await?;
    ensure!(
        runs.as_array().is_some_and(|rows| rows.len() == 1),
        "{runs}"
    );
    ensure!(
        runs[0]["program"] == "coin" && runs[0]["failed"] == 1 && runs[0]["outcome"] == "done",
        "{runs}"
    );
    let (_, failures) = http.get(&admin, "/run_failure").await?;
    ensure!(
        failures.as_array().is_some_and(|rows| rows.len() == 2),
        "{failures}"
    );
    ensure!(
        failures[0]["member_no"] == "M-2" && failures[0]["code"] == "P0001",
        "{failures}"
    );

    let (status, preview) = http.get(&admin, "/rpc/preview?months=3").await?;
    ensure!(
        status == 200 && preview.as_array().is_some_and(|rows| rows.len() > 4),
        "{preview}"
    );
    let (status, answer) = http.rpc(&admin, "preview", json!({"months": 0})).await?;
    ensure!(status == 400 && answer["code"] == "22023", "{answer}");

    let run_id = runs[0]["run_id"].clone();
    let (status, answer) = http
        .rpc(&admin, "retry_failures", json!({"run_id": run_id}))
        .await?;
    ensure!(
        status == 200 && answer == json!([{"retried": 1, "paid": 1, "failed": 0}]),
        "{answer}"
    );
    let (status, answer) = http
        .rpc(
            &admin,
            "rerun",
            json!({"job": "rule:bonus", "period": "2025-01-15"}),
        )
        .await?;
    ensure!(
        status == 200 && answer[0]["outcome"].is_null() && answer[0]["program"] == "coin",
        "{answer}"
    );
    sql.batch_execute("call loyalty.tick()").await?;
    let (_, answer) = http.get(&admin, "/run?job=eq.rule:bonus").await?;
    ensure!(
        answer[0]["outcome"] == "done" && answer[0]["failed"] == 0,
        "{answer}"
    );
    let (status, answer) = http
        .rpc(
            &admin,
            "rerun",
            json!({"job": "rule:bonus", "period": "15 January"}),
        )
        .await?;
    ensure!(status == 400 && answer["code"] == "22023", "{answer}");

    let (status, answer) = http
        .rpc(&admin, "pause_schedule", json!({"job": "rule:bonus"}))
        .await?;
    ensure!(status == 200 && answer[0]["is_paused"] == true, "{answer}");
    let (status, answer) = http.rpc(&admin, "resume_schedule", json!({})).await?;
    ensure!(
        status == 200 && answer.as_array().is_some_and(|rows| rows.len() == 3),
        "{answer}"
    );
    let (status, answer) = http
        .rpc(&admin, "pause_schedule", json!({"jobs": 1}))
        .await?;
    ensure!(status == 400 && answer["code"] == "22023", "{answer}");

    // another program's, and other roles
    let other: i64 = sql
        .query_one(
            "select run_id from loyalty.run where program_id = loyalty.program_id('mile') limit 1",
            &[],
        )
        .await?
        .get(0);
    let (status, answer) = http
        .rpc(&admin, "retry_failures", json!({"run_id": other}))
        .await?;
    ensure!(status == 404 && answer["code"] == "LY002", "{answer}");
    let (status, answer) = http
        .rpc(&admin, "preview", json!({"program": "mile"}))
        .await?;
    ensure!(status == 403 && answer["code"] == "LY010", "{answer}");
    let member = http.api.token(
        &Claims::new(Role::Member, 600)?
            .program("coin")
            .account_id(1),
    )?;
    for refused in [&member, &token(Role::Granter)?] {
        for path in ["/schedule", "/run", "/run_failure", "/rpc/preview"] {
            let (status, answer) = http.get(refused, path).await?;
            ensure!(
                status == 403 && answer["code"] == "LY010",
                "{path}: {answer}"
            );
        }
        for name in ["pause_schedule", "resume_schedule"] {
            let (status, answer) = http.rpc(refused, name, json!({})).await?;
            ensure!(
                status == 403 && answer["code"] == "LY010",
                "{name}: {answer}"
            );
        }
        let (status, answer) = http
            .rpc(
                refused,
                "rerun",
                json!({"job": "expire", "period": "2025-01-15"}),
            )
            .await?;
        ensure!(status == 403 && answer["code"] == "LY010", "{answer}");
        let (status, answer) = http
            .rpc(refused, "retry_failures", json!({"run_id": 1}))
            .await?;
        ensure!(status == 403 && answer["code"] == "LY010", "{answer}");
    }
    // an operator says of which program
    let operator = http.api.token(&Claims::new(Role::Operator, 600)?)?;
    let (status, answer) = http.rpc(&operator, "pause_schedule", json!({})).await?;
    ensure!(status == 400 && answer["code"] == "22004", "{answer}");
    let (status, answer) = http.get(&operator, "/rpc/preview?program=mile").await?;
    ensure!(
        status == 200 && answer.as_array().is_some_and(|rows| !rows.is_empty()),
        "{answer}"
    );
    Ok(())
}
