//! Row-level security and privileges as SQL sees them, with the claims that PostgREST sets.

use crate::world::World;
use anyhow::{Context, Result, bail};
use loyalty_testkit::token;
use serde_json::{Value, json};
use tokio_postgres::Client;

/// A session like a pooled connection of PostgREST's.
struct Session<'a> {
    client: Client,
    world: &'a World,
}

async fn session(world: &World) -> Result<Session<'_>> {
    let client = world.db.connect_as("loyalty_authenticator").await?;
    Ok(Session { client, world })
}

/// One request: a transaction with role and claims, rolled back.
async fn ask(
    session: &Session<'_>,
    role: &str,
    claims: Option<&Value>,
    query: &str,
) -> Result<Vec<i64>> {
    session.client.batch_execute("begin").await?;
    let answer = asked(session, role, claims, query).await;
    session.client.batch_execute("rollback").await?;
    answer
}

/// Claims that are an object come with a token of them, for the role unless they name another.
async fn asked(
    Session { client, world }: &Session<'_>,
    role: &str,
    claims: Option<&Value>,
    query: &str,
) -> Result<Vec<i64>> {
    client
        .execute("select set_config('role', $1, true)", &[&role])
        .await?;
    if let Some(claims) = claims {
        let mut headers = String::new();
        let text = match claims {
            Value::String(text) => text.clone(),
            Value::Object(_) => {
                let mut claims = token::with_end(claims.clone())?;
                if claims.get("role").is_none() {
                    claims["role"] = json!(role);
                }
                headers = token::headers(&world.api.token(&claims)?);
                claims.to_string()
            }
            claims => claims.to_string(),
        };
        client
            .execute(
                "select set_config('request.jwt.claims', $1, true), set_config('request.headers', $2, true)",
                &[&text, &headers],
            )
            .await?;
    }
    let rows = client.query(query, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn refused(session: &Session<'_>, role: &str, claims: &Value, query: &str) -> Result<String> {
    match ask(session, role, Some(claims), query).await {
        Ok(rows) => bail!("{role} got {rows:?} by {query}"),
        Err(error) => {
            let error = error.downcast::<tokio_postgres::Error>()?;
            let code = error.code().context("not refused by the database")?;
            Ok(code.code().to_owned())
        }
    }
}

const TABLES: [&str; 6] = [
    "loyalty_api.balance",
    "loyalty_api.lot",
    "loyalty_api.statement",
    "loyalty.account",
    "loyalty.entry",
    "loyalty.statement_line",
];

#[tokio::test]
async fn rows_are_cut_to_the_claims() -> Result<()> {
    let world = World::start("rls").await?;
    world
        .sql
        .execute("select loyalty.grant($1, 5)", &[&world.bob])
        .await?;
    let client = session(&world).await?;
    let (ann, bob, zoe) = (world.ann, world.bob, world.zoe);
    let member = json!({"program": "coin", "account_id": ann});
    let admin = json!({"program": "coin"});
    for table in TABLES {
        let query = format!("select account_id from {table} order by 1");
        let seen =
            async |role: &str, claims: &Value| ask(&client, role, Some(claims), &query).await;
        assert_eq!(seen("loyalty_member", &member).await?, [ann], "{table}");
        assert_eq!(seen("loyalty_admin", &admin).await?, [ann, bob], "{table}");
        assert_eq!(
            seen("loyalty_operator", &json!({})).await?,
            [ann, bob, zoe],
            "{table}"
        );
        // a token's account and program must belong together
        let crossed = json!({"program": "mile", "account_id": ann});
        assert!(
            seen("loyalty_member", &crossed).await?.is_empty(),
            "{table}"
        );
        assert!(
            seen("loyalty_admin", &json!({"account_id": ann}))
                .await?
                .is_empty(),
            "{table}"
        );
        for role in ["loyalty_anon", "loyalty_granter"] {
            assert_eq!(
                refused(&client, role, &admin, &query).await?,
                "42501",
                "{table}"
            );
        }
    }
    Ok(())
}

/// On a connection that had claims before, the setting is '' and not null.
#[tokio::test]
async fn no_claims_are_no_rows() -> Result<()> {
    let world = World::start("rls_none").await?;
    let client = session(&world).await?;
    let query = "select account_id from loyalty_api.balance";
    for role in ["loyalty_member", "loyalty_admin"] {
        // never set, emptied, reset after use
        assert!(ask(&client, role, None, query).await?.is_empty(), "{role}");
        assert!(
            ask(&client, role, Some(&json!("")), query)
                .await?
                .is_empty(),
            "{role}"
        );
        let claims = json!({"program": "coin", "account_id": world.ann});
        assert!(
            !ask(&client, role, Some(&claims), query).await?.is_empty(),
            "{role}"
        );
        let left = client
            .client
            .query_one("select current_setting('request.jwt.claims', true)", &[])
            .await?;
        assert_eq!(left.get::<_, Option<&str>>(0), Some(""));
        assert!(ask(&client, role, None, query).await?.is_empty(), "{role}");
        for claims in [
            json!({}),
            json!({"program": null, "account_id": null}),
            json!([]),
        ] {
            assert!(
                ask(&client, role, Some(&claims), query).await?.is_empty(),
                "{role} {claims}"
            );
        }
    }
    Ok(())
}

/// The ledger's own functions see every account, so members cannot call them; those that the
/// views call answer for the accounts of the token only.
#[tokio::test]
async fn no_function_shows_another_account() -> Result<()> {
    let world = World::start("rls_function").await?;
    let client = session(&world).await?;
    let (ann, bob, zoe) = (world.ann, world.bob, world.zoe);
    let roles = [
        (
            "loyalty_member",
            json!({"program": "coin", "account_id": bob}),
            vec![ann, zoe, 999],
        ),
        ("loyalty_admin", json!({"program": "coin"}), vec![zoe, 999]),
    ];
    for (role, claims, hidden) in roles {
        for id in hidden {
            let closed = [
                format!("select (loyalty.balance({id})).balance"),
                format!("select (loyalty.balance({id}, date '2026-06-15')).balance"),
                format!("select granted from loyalty.lots({id})"),
                format!("select granted from loyalty_private.lot_rows({id})"),
                format!("select account_id from loyalty.statement({id})"),
                format!("select points from loyalty.explain_spend({id}, 1)"),
                format!("select (loyalty.spend_fifo({id}, 1)).account_id"),
                format!("select (loyalty.grant({id}, 1)).account_id"),
                "select account_id from loyalty.verify()".to_owned(),
                "select account_id from loyalty.journal".to_owned(),
            ];
            for query in closed {
                assert_eq!(
                    refused(&client, role, &claims, &query).await?,
                    "42501",
                    "{query}"
                );
            }
            let empty = [
                format!(
                    "select b.balance from loyalty.own_balance({id}) b where b.balance is not null"
                ),
                format!("select granted from loyalty.own_lots({id})"),
            ];
            for query in empty {
                let seen = ask(&client, role, Some(&claims), &query).await?;
                assert!(seen.is_empty(), "{role}: {query}: {seen:?}");
            }
        }
        let own = format!("select (loyalty.own_balance({bob})).balance");
        assert_eq!(ask(&client, role, Some(&claims), &own).await?, [0]);
    }
    Ok(())
}

/// One backend serves many roles, and its kept plans must not remember whose rows they showed.
#[tokio::test]
async fn kept_plans_forget_who_asked() -> Result<()> {
    let world = World::start("rls_plan").await?;
    world
        .sql
        .execute("select loyalty.grant($1, 5)", &[&world.bob])
        .await?;
    let client = session(&world).await?;
    let query = "select available from loyalty_api.balance order by account_id";
    let of = |account_id: i64| json!({"program": "coin", "account_id": account_id});
    for _ in 0..8 {
        assert_eq!(
            ask(&client, "loyalty_member", Some(&of(world.ann)), query).await?,
            [1000]
        );
        assert_eq!(
            ask(&client, "loyalty_operator", Some(&json!({})), query).await?,
            [1000, 5, 1000]
        );
        assert_eq!(
            ask(&client, "loyalty_member", Some(&of(world.bob)), query).await?,
            [5]
        );
        let admin = json!({"program": "mile"});
        assert_eq!(
            ask(&client, "loyalty_admin", Some(&admin), query).await?,
            [1000]
        );
    }
    Ok(())
}

#[tokio::test]
async fn roles_of_requests_write_no_table() -> Result<()> {
    let world = World::start("rls_write").await?;
    let before = world.ledger().await?;
    let client = session(&world).await?;
    let claims = json!({"program": "coin", "account_id": world.ann});
    let roles = [
        "loyalty_anon",
        "loyalty_member",
        "loyalty_granter",
        "loyalty_admin",
        "loyalty_operator",
    ];
    for role in roles {
        for table in ["account", "wallet", "entry", "lot_class"] {
            for statement in [
                format!("delete from loyalty.{table} returning 1::bigint"),
                format!("truncate loyalty.{table} cascade"),
                format!("insert into loyalty.{table} default values returning 1::bigint"),
                format!("update loyalty.{table} set program_id = 1 returning 1::bigint"),
                format!("lock table loyalty.{table} in access exclusive mode"),
            ] {
                let code = refused(&client, role, &claims, &statement).await?;
                // entry has no such column, which is found out before rights are
                let expected: &[&str] = if statement.contains("set") {
                    &["42501", "42703"]
                } else {
                    &["42501"]
                };
                assert!(
                    expected.contains(&code.as_str()),
                    "{role}: {statement}: {code}"
                );
            }
        }
    }
    assert_eq!(world.ledger().await?, before);
    Ok(())
}

/// PostgREST's login can do nothing but become one of the others.
#[tokio::test]
async fn the_authenticator_alone_reaches_nothing() -> Result<()> {
    let world = World::start("rls_login").await?;
    let client = session(&world).await?;
    for query in [
        "select account_id from loyalty_api.balance",
        "select loyalty.claim_account_id()",
    ] {
        assert_eq!(
            refused(&client, "none", &json!({}), query).await?,
            "42501",
            "{query}"
        );
    }
    let query = "select 1::bigint";
    assert_eq!(
        refused(&client, "postgres", &json!({}), query).await?,
        "42501"
    );
    Ok(())
}

/// Only superusers and operators move the ledger's clock; others do not even where the
/// library is not loaded yet, and PostgreSQL takes any name with a dot for a setting.
#[tokio::test]
async fn requests_do_not_move_the_clock() -> Result<()> {
    let world = World::start("rls_clock").await?;
    let set = "select length(set_config('loyalty.clock', '2040-01-01', true))::bigint";
    let year = "select extract(year from loyalty.now())::bigint
                  from set_config('loyalty.clock', '2040-01-01', true)";
    for role in [
        "loyalty_anon",
        "loyalty_member",
        "loyalty_granter",
        "loyalty_admin",
    ] {
        let client = session(&world).await?;
        let early = ask(&client, role, None, year).await;
        if let Ok(years) = early {
            assert_eq!(years, [2026], "{role}");
        }
        // by now it is loaded
        assert_eq!(
            refused(&client, role, &json!({}), set).await?,
            "42501",
            "{role}"
        );
    }
    let client = session(&world).await?;
    assert_eq!(ask(&client, "loyalty_operator", None, year).await?, [2040]);
    Ok(())
}

/// A token for one role is none for another, whatever role PostgREST became.
#[tokio::test]
async fn claims_do_not_make_an_administrator() -> Result<()> {
    let world = World::start("rls_claims").await?;
    let client = session(&world).await?;
    let claims = json!({"role": "loyalty_admin", "program": "coin", "account_id": world.ann});
    let id = world.bob;
    let spend = format!("select (loyalty_api.spend(1, account_id => {id})).account_id");
    assert_eq!(
        refused(&client, "loyalty_member", &claims, &spend).await?,
        "LY009"
    );
    assert_eq!(
        refused(&client, "loyalty_anon", &claims, &spend).await?,
        "LY009"
    );
    let grant = format!("select (loyalty_api.grant({id}, 1)).account_id");
    assert_eq!(
        refused(&client, "loyalty_member", &claims, &grant).await?,
        "LY009"
    );
    Ok(())
}
