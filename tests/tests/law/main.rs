//! Breaking the ledger's laws on purpose: what the guards refuse, as the tables' owner and as
//! each role (laws 1 and 3); and, in `law/verify.rs`, what is forced in past them.

mod verify;

use anyhow::{Result, ensure};
use loyalty_testkit::TestDb;
use loyalty_tests::{RICH_LEDGER, as_request, sqlstate};
use serde_json::json;
use tokio_postgres::Client;

/// The tables of the ledger, as the catalog knows them by their guard against any write.
async fn ledger_tables(client: &Client) -> Result<Vec<String>> {
    let rows = client
        .query(
            "select t.tgrelid::regclass::text
               from pg_trigger t
              where t.tgfoid = 'loyalty_private.guard_ledger'::regproc and pg_get_triggerdef(t.oid) ~ ' INSERT '
              order by 1",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn columns(client: &Client, table: &str) -> Result<Vec<String>> {
    let rows = client
        .query(
            "select attname::text from pg_attribute
              where attrelid = $1::text::regclass and attnum > 0 and not attisdropped
              order by attnum",
            &[&table],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// All of the ledger in one value.
async fn fingerprint(client: &Client) -> Result<String> {
    let row = client
        .query_one(
            "select md5((select string_agg(a::text, E'\\n' order by account_id) from loyalty.account a)
                     || (select string_agg(e::text, E'\\n' order by account_id, entry) from loyalty.entry e)
                     || (select string_agg(w::text, E'\\n' order by account_id) from loyalty.wallet w))",
            &[],
        )
        .await?;
    Ok(row.get(0))
}

/// Every way to write a table directly.
fn forgeries(table: &str, columns: &[String]) -> Vec<String> {
    let first = &columns[0];
    let mut tried: Vec<String> = columns
        .iter()
        .filter(|column| !(table == "loyalty.account" && *column == "account_id"))
        .map(|column| format!("update {table} set {column} = {column}"))
        .collect();
    tried.extend(
        [
            "update {t} set {c} = {c} where false",
            "insert into {t} overriding system value select * from {t} limit 1",
            "insert into {t} overriding system value select * from {t} where false",
            "insert into {t} overriding system value select * from {t} on conflict do nothing",
            "insert into {t} overriding system value select * from {t} on conflict ({k}) do update set {c} = excluded.{c}",
            "delete from {t}",
            "delete from {t} where false",
            "delete from only {t} using loyalty.program p",
            "truncate {t} cascade",
            "truncate loyalty.account, loyalty.entry, loyalty.wallet cascade",
            "merge into {t} t using {t} s on t.account_id = s.account_id when matched then delete",
            "merge into {t} t using {t} s on t.account_id = s.account_id when matched then update set {c} = s.{c}",
            "with gone as (delete from {t} returning *) select count(*) from gone",
            "with changed as (update {t} set {c} = {c} returning *) select count(*) from changed",
            "do $$ begin delete from {t}; end $$",
            "copy {t} from '/dev/null'",
        ]
        .map(|sql| {
            let key = if table == "loyalty.entry" { "account_id, entry" } else { "account_id" };
            // an identity column cannot be set; any other will do
            let column = if table == "loyalty.account" { &columns[1] } else { first };
            sql.replace("{t}", table).replace("{c}", column).replace("{k}", key)
        }),
    );
    tried
}

/// Runs one statement and takes it back; its SQLSTATE.
async fn try_out(client: &Client, setup: &str, sql: &str) -> Result<String> {
    client.batch_execute(&format!("begin; {setup}")).await?;
    let state = sqlstate(&client.batch_execute(sql).await);
    client.batch_execute("rollback; reset role").await?;
    Ok(state)
}

/// Laws 1 and 3: the tables' owner, superuser or not, cannot write them past the operations.
#[tokio::test]
async fn owner_is_refused() -> Result<()> {
    let db = TestDb::create("law_owner").await?;
    let client = db.connect().await?;

    // a direct INSERT is refused in an empty ledger, too: a restore is COPY
    let state = sqlstate(
        &client
            .batch_execute(
                "insert into loyalty.entry (account_id, entry, kind, points, balance, occurred_at, actor)
                 values (1, 1, 'grant', 1, 1, now(), 'forger')",
            )
            .await,
    );
    ensure!(state == "LY005", "INSERT into an empty journal: {state}");

    client.batch_execute(RICH_LEDGER).await?;
    let before = fingerprint(&client).await?;
    let tables = ledger_tables(&client).await?;
    assert_eq!(
        tables,
        ["loyalty.account", "loyalty.entry", "loyalty.wallet"]
    );

    // roles are the cluster's, so this one lives in its transaction only
    let owner = format!("owner_{}", db.name());
    let plain_owner = format!(
        "create role {owner};
         grant usage on schema loyalty to {owner};
         grant pg_read_server_files to {owner};
         do $$ declare it regclass; begin
             for it in select oid from pg_class where relnamespace in ('loyalty'::regnamespace, 'loyalty_private'::regnamespace) and relkind = 'r' loop
                 execute format('alter table %s owner to {owner}', it);
             end loop;
         end $$;
         set local role {owner};"
    );
    for table in &tables {
        let columns = columns(&client, table).await?;
        for sql in forgeries(table, &columns) {
            for (who, setup) in [("superuser", ""), ("owner", plain_owner.as_str())] {
                let state = try_out(&client, setup, &sql).await?;
                ensure!(state == "LY005", "as {who}: {sql}: {state}");
            }
        }
        for view in [
            format!("create temp view v as select * from {table}; delete from v"),
            format!(
                "create temp view v as select * from {table}; update v set account_id = account_id"
            ),
        ] {
            let state = try_out(&client, "", &view).await?;
            let identity = table == "loyalty.account" && state == "428C9";
            ensure!(state == "LY005" || identity, "{view}: {state}");
        }
    }
    // what hangs on the ledger does not take it along
    let state = try_out(&client, "", "truncate loyalty.program cascade").await?;
    ensure!(state == "LY005", "truncate of the programs: {state}");
    let state = try_out(&client, "", "delete from loyalty.program").await?;
    ensure!(state == "23503", "delete of the programs: {state}");
    ensure!(
        fingerprint(&client).await? == before,
        "the ledger has changed"
    );
    Ok(())
}

/// Law 9: what lots were granted on stays; a class more is no harm.
#[tokio::test]
async fn lot_classes_are_kept() -> Result<()> {
    let db = TestDb::create("law_class").await?;
    let client = db.connect().await?;
    client.batch_execute(RICH_LEDGER).await?;
    for sql in [
        "update loyalty.lot_class set funding = 'somebody else'",
        "update loyalty.lot_class set inactivity_months = 1 where false",
        "delete from loyalty.lot_class",
        "delete from loyalty.lot_class where inactivity_months is null",
        "truncate loyalty.lot_class",
    ] {
        let state = try_out(&client, "", sql).await?;
        ensure!(state == "LY005", "{sql}: {state}");
    }
    client
        .batch_execute(
            "select loyalty.grant(1, 5, funding => 'another shop'); select loyalty.spend_fifo(1, 1)",
        )
        .await?;
    Ok(())
}

/// Law 1: an operation that fails halfway leaves no door open behind it.
#[tokio::test]
async fn failed_operation_leaves_the_guard_up() -> Result<()> {
    let db = TestDb::create("law_failed").await?;
    let (client, other) = (db.connect().await?, db.connect().await?);
    client
        .batch_execute(
            "select loyalty.create_program('p', 'P'); select loyalty.open_account('p', 'a');
             select loyalty.grant(1, 100)",
        )
        .await?;
    other
        .batch_execute("begin; select from loyalty.wallet for update")
        .await?;
    client.batch_execute("set lock_timeout = '100ms'").await?;
    for call in [
        "select loyalty.spend_fifo(1, 1)",
        "select loyalty.grant_many('[{\"account_id\": 1, \"points\": 1}]')",
    ] {
        let state = sqlstate(&client.batch_execute(call).await);
        ensure!(state == "55P03", "{call}: {state}");
        let state = sqlstate(
            &client
                .batch_execute("update loyalty.wallet set balance = 0 where false")
                .await,
        );
        ensure!(state == "LY005", "after {call}: {state}");
    }
    Ok(())
}

/// Laws 1 and 3: no role can write the ledger, whatever its token says, nor lift the guard.
#[tokio::test]
async fn roles_are_refused() -> Result<()> {
    let db = TestDb::create("law_roles").await?;
    let client = db.connect().await?;
    client.batch_execute(RICH_LEDGER).await?;
    let before = fingerprint(&client).await?;
    let plain = format!("plain_{}", db.name());
    let roles = [
        "loyalty_anon",
        "loyalty_member",
        "loyalty_family",
        "loyalty_granter",
        "loyalty_admin",
        "loyalty_operator",
        "loyalty_authenticator",
        &plain,
    ];
    for role in roles {
        let setup = format!(
            "create role {plain} login;
             {};",
            as_request(role, json!({"program": "coin", "account_id": 1}))?
        );
        for table in ledger_tables(&client).await? {
            let mut tried = forgeries(&table, &columns(&client, &table).await?);
            tried.extend(
                [
                    "alter table {t} disable trigger guard",
                    "alter table {t} disable trigger all",
                    "drop trigger guard on {t}",
                    "alter table {t} drop constraint wallet_lots_are_the_balance",
                    "drop table {t}",
                    "create trigger mine before update on {t} for each row execute function suppress_redundant_updates_trigger()",
                    "lock table {t} in exclusive mode",
                    "set session_replication_role = replica",
                    "create or replace function loyalty_private.guard_ledger() returns trigger language plpgsql as 'begin return null; end'",
                    "drop extension pg_loyalty cascade",
                ]
                .map(|sql| sql.replace("{t}", &table)),
            );
            for sql in tried {
                let state = try_out(&client, &setup, &sql).await?;
                ensure!(state == "42501", "as {role}: {sql}: {state}");
            }
        }
    }
    ensure!(
        fingerprint(&client).await? == before,
        "the ledger has changed"
    );
    Ok(())
}
