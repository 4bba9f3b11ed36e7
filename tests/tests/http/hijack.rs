//! Tricks with the search path: whoever calls a function of ours with a schema of their own, or
//! temporary objects, before ours finds that nothing of theirs is used. Each call that a role may
//! make ends as it does with an honest path.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use loyalty_tests::{rows, sqlstate};
use tokio_postgres::Client;

use crate::roles::{Function, Subject, World};

/// What may be there before ours; `pg_temp` has a table of each name as well.
const HOSTILE: &str = "evil, pg_temp, pg_catalog, loyalty, loyalty_api";

/// A value of a type, and the type by its full name, which no path changes.
fn sample(kind: &str, by_name: &BTreeMap<String, String>) -> Result<String> {
    let value = match kind {
        "bigint" | "integer" | "smallint" | "numeric" => "1",
        "text" => "x",
        "boolean" => "true",
        "date" => "2026-06-15",
        "timestamp with time zone" => "2026-06-15 12:00+09",
        "time without time zone" => "10:00",
        "interval" => "1 day",
        "jsonb" | "json" => "[]",
        "uuid" => "00000000-0000-0000-0000-000000000000",
        kind if kind.ends_with("[]") => "{}",
        _ => "",
    };
    let name = by_name.get(kind).with_context(|| kind.to_owned())?;
    Ok(match value {
        "" => format!("null::{name}"),
        value => format!("'{value}'::{name}"),
    })
}

fn call(
    function: &Function,
    with_values: bool,
    by_name: &BTreeMap<String, String>,
) -> Result<String> {
    let mut values = Vec::new();
    for (_, kind) in &function.arguments {
        values.push(match with_values {
            true => sample(kind, by_name)?,
            false => format!("null::{}", by_name.get(kind).with_context(|| kind.clone())?),
        });
    }
    let verb = if function.is_procedure {
        "call"
    } else {
        "select"
    };
    Ok(format!("{verb} {}({})", function.name, values.join(", ")))
}

/// The session says what PostgREST would.
async fn ask_as(client: &Client, subject: &Subject) -> Result<()> {
    let set = "select pg_catalog.set_config('request.jwt.claims', $1, false),
                      pg_catalog.set_config('request.headers', $2, false)";
    let [claims, headers] = &subject.settings;
    client.execute(set, &[claims, headers]).await?;
    Ok(())
}

async fn outcome(client: &Client, statement: &str) -> Result<String> {
    client.batch_execute("begin").await?;
    let answer = client.simple_query(statement).await;
    client.batch_execute("rollback").await?;
    Ok(sqlstate(&answer))
}

#[tokio::test]
async fn no_path_leads_a_function_astray() -> Result<()> {
    let world = World::start("hijack").await?;
    world.sql.batch_execute(include_str!("hijack.sql")).await?;
    // it is a trap: who walks into it is caught
    world
        .sql
        .batch_execute(&format!("set search_path = {HOSTILE}"))
        .await?;
    for honest in [
        "select 1 = 1",
        "select lower('A')",
        "select * from account",
        "select 'x'::text",
    ] {
        let code = outcome(&world.sql, honest).await?;
        ensure!(
            matches!(code.as_str(), "HACK1" | "22P02"),
            "{honest}: {code}"
        );
    }
    world
        .sql
        .batch_execute("set search_path = pg_catalog")
        .await?;
    let names = rows(
        &world.sql,
        "select format_type(t.oid, null), format('%I.%I', n.nspname, t.typname)
           from pg_type t join pg_namespace n on n.oid = t.typnamespace
          where n.nspname in ('pg_catalog', 'loyalty', 'loyalty_api', 'loyalty_private')",
    )
    .await?;
    let by_name: BTreeMap<String, String> = names
        .iter()
        .filter_map(|row| row.split_once('|'))
        .map(|(kind, name)| (kind.to_owned(), name.to_owned()))
        .collect();
    let tables = rows(
        &world.sql,
        "select distinct quote_ident(relname) from pg_class
          where relnamespace in ('loyalty'::regnamespace, 'loyalty_api'::regnamespace, 'loyalty_private'::regnamespace) and relkind in ('r', 'v')",
    )
    .await?;
    let mut astray = Vec::new();
    let mut compared = 0;
    let mut went_well = 0;
    for subject in &world.subjects {
        let role = subject.role;
        let mut sessions = Vec::new();
        for path in [HOSTILE, "pg_catalog"] {
            let client = subject.connect(&world.db).await?;
            ask_as(&client, subject).await?;
            if path == HOSTILE {
                for table in &tables {
                    client
                        .batch_execute(&format!(
                            "create temporary table {table} (x pg_catalog.int4)"
                        ))
                        .await?;
                }
            }
            client
                .batch_execute(&format!("set search_path = {path}"))
                .await?;
            sessions.push(client);
        }
        for function in world.functions().await? {
            // with no rights but the caller's there is nothing to be gained
            if function.is_the_callers && !function.is_api {
                continue;
            }
            for with_values in [true, false] {
                let statement = call(&function, with_values, &by_name)?;
                let hostile = outcome(&sessions[0], &statement).await?;
                let honest = outcome(&sessions[1], &statement).await?;
                if hostile != honest {
                    astray.push(format!("{role}: {statement}: {hostile}, else {honest}"));
                }
                compared += 1;
                went_well += i32::from(honest == "00000");
            }
        }
    }
    ensure!(
        compared > 5_000 && went_well > 300,
        "{compared} calls, {went_well} of them went well"
    );
    ensure!(astray.is_empty(), "{}", astray.join("\n"));
    // the views, their row rights and what they call
    for subject in &world.subjects {
        let client = subject.connect(&world.db).await?;
        ask_as(&client, subject).await?;
        client
            .batch_execute(&format!("set search_path = {HOSTILE}"))
            .await?;
        for table in &tables {
            for schema in ["loyalty", "loyalty_api"] {
                let code = outcome(&client, &format!("select * from {schema}.{table}")).await?;
                ensure!(code != "HACK1", "{}: {schema}.{table}", subject.role);
            }
        }
    }
    Ok(())
}

/// A setting of ours that somebody sets before the extension is loaded is theirs to set only if it
/// is afterwards: nobody but an operator moves the clock.
#[tokio::test]
async fn the_clock_is_not_set_beforehand() -> Result<()> {
    let world = World::start("hijack_clock").await?;
    for subject in &world.subjects {
        let may = subject.letter == 'O';
        let client = world.db.connect_as(subject.role).await?;
        client
            .batch_execute(
                "set loyalty.clock = '1999-12-31 12:00+00'; set loyalty.secret_dir = '/tmp'",
            )
            .await?;
        let asked = client
            .query("select extract(year from loyalty.now())::integer", &[])
            .await;
        match asked {
            Ok(rows) => {
                let year: i32 = rows[0].get(0);
                ensure!((year == 1999) == may, "{}: {year}", subject.role);
            }
            // the authenticator may not even do that
            Err(_) => ensure!(
                sqlstate(&asked) == "42501" && subject.letter == 'T',
                "{}",
                sqlstate(&asked)
            ),
        }
    }
    Ok(())
}
