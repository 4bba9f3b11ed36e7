//! PostgREST in front of a standby: it reads, and says why it does not write.

use anyhow::{Context as _, Result};
use loyalty_testkit::http::{self, Answer};
use loyalty_testkit::token::{Claims, Role};
use loyalty_tests::points_cluster;
use reqwest::Method;
use serde_json::json;
use std::time::Duration;
use tokio_postgres::Client;

/// Until the standby has all that the primary wrote so far.
async fn catch_up(primary: &Client, standby: &Client) -> Result<()> {
    let written: String = primary
        .query_one("select pg_current_wal_insert_lsn()::text", &[])
        .await?
        .get(0);
    for _ in 0..1200 {
        let row = standby
            .query_one(
                "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn",
                &[&written],
            )
            .await?;
        if row.get::<_, Option<bool>>(0) == Some(true) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("the standby does not catch up")
}

#[tokio::test]
async fn a_standby_reads_and_answers_503_to_what_writes() -> Result<()> {
    let primary = points_cluster("standby_http", "").await?;
    let sql = primary.connect("points").await?;
    sql.batch_execute(
        "create extension pg_loyalty;
         alter role loyalty_authenticator login;
         alter role loyalty_authenticator set session_preload_libraries = 'pg_loyalty';
         select loyalty.create_program('coin', 'Coin')",
    )
    .await
    .context("set up")?;
    let ann: i64 = sql
        .query_one("select loyalty.open_account('coin', 'ann')", &[])
        .await?
        .get(0);
    sql.execute("select loyalty.grant($1, 1000)", &[&ann])
        .await?;
    let standby = primary.standby("standby_http")?;
    catch_up(&sql, &standby.connect("points").await?).await?;

    let api = standby.api("points").await?;
    let claims = Claims::new(Role::Member, 600)?
        .program("coin")
        .account_id(ann);
    let token = api.token(&claims)?;
    let client = http::client().build()?;
    let request = |method, path| http::request(&client, &api, method, &token, path);
    let spend = json!({"points": 1});
    // on each connection of PostgREST's, also on one that has done nothing before
    for _ in 0..3 {
        let answer = Answer::of(request(Method::POST, "/rpc/spend").json(&spend)).await?;
        answer.refused(503, "25006")?;
        assert_eq!(answer.header("loyalty-reason"), "standby");
        let row = Answer::of(request(Method::GET, "/balance")).await?.row()?;
        assert_eq!(row["available"], 1000);
        let answer = Answer::of(request(Method::POST, "/rpc/explain_spend").json(&spend)).await?;
        answer.ok()?;
    }
    // GET of what writes is the client's fault there too
    let answer = Answer::of(request(Method::GET, "/rpc/spend?points=1")).await?;
    answer.refused(405, "25006")?;
    assert_eq!(answer.header("loyalty-reason"), "get_not_allowed");

    // and writes again once it is promoted, without a new PostgREST
    drop(sql);
    primary.cluster().stop()?;
    standby.cluster().promote()?;
    let answer = Answer::of(request(Method::POST, "/rpc/spend").json(&spend)).await?;
    assert_eq!(answer.ok()?["available"], 999);
    Ok(())
}
