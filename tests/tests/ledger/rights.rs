//! Whose rights statements have: callers need none but EXECUTE, and are who they were afterwards.

use super::Ledger;
use anyhow::Result;
use loyalty_tests::{rows, sqlstate};
use tokio_postgres::Client;

/// What a session is: its user, and where it looks for names.
async fn who(client: &Client) -> Result<String> {
    let found = rows(
        client,
        "select current_user || '|' || pg_catalog.current_setting('search_path')",
    )
    .await?;
    Ok(found.concat())
}

/// Who calls with tables of their own before ours, without a right to any of ours.
async fn caller(ledger: &Ledger) -> Result<Client> {
    let client = ledger.db.connect().await?;
    client
        .batch_execute(
            "set loyalty.clock = '2025-07-01 10:00+09';
             set session authorization loyalty_operator;
             create temporary table wallet (x integer);
             create temporary table entry (x integer);
             set search_path = pg_temp, pg_catalog, loyalty",
        )
        .await?;
    Ok(client)
}

#[tokio::test]
async fn statements_have_the_owners_rights_and_callers_keep_theirs() -> Result<()> {
    let ledger = Ledger::open("rights", "expiry => 'after 12 months of inactivity'").await?;
    let a = ledger.account("a").await?;
    ledger.receipt(&format!("grant({a}, 100)")).await?;
    ledger
        .receipt(&format!("hold({a}, 30, '300 days')"))
        .await?;
    ledger
        .run(
            "revoke all on all tables in schema loyalty from loyalty_operator;
             select loyalty.set_notice_sender('p', email => 'points@example.com');
             select loyalty.set_notice('p', 'points_received', true)",
        )
        .await?;
    let caller = caller(&ledger).await?;
    let before = who(&caller).await?;
    assert_eq!(before, "loyalty_operator|pg_temp, pg_catalog, loyalty");
    let answer = async |call: &str| -> Result<String> {
        let found = rows(&caller, &format!("select * from loyalty.{call}")).await?;
        assert_eq!(who(&caller).await?, before, "{call}");
        Ok(found.concat())
    };
    // the hold, what was before it, the class of a lot, the receipt of a key: a statement each
    assert_eq!(
        answer(&format!("balance({a})")).await?,
        "100|30|70|2026-06-15|70"
    );
    let early = format!("balance({a}, as_of => '2025-06-15 09:00+09'::timestamptz)");
    assert_eq!(answer(&early).await?, "0|0|0||");
    for call in [
        format!("grant({a}, 5, idempotency_key => 'g')"),
        format!("spend_fifo({a}, 7, idempotency_key => 's')"),
    ] {
        let first = answer(&call).await?;
        assert_eq!(answer(&call).await?, first, "{call}");
    }
    // refused in a statement, before it and after it; whoever catches that is who they were
    let holder = ledger.db.connect().await?;
    holder
        .batch_execute(&format!(
            "begin; select from loyalty.wallet where account_id = {a} for update"
        ))
        .await?;
    caller.batch_execute("set lock_timeout = '100ms'").await?;
    for (call, code) in [
        (format!("spend_fifo({a}, 1)"), "55P03"),
        (format!("spend_fifo({a}, 1000)"), "LY001"),
        (format!("grant({a}, 1, expiry => 'never ever')"), "22023"),
        ("balance(0)".to_owned(), "LY002"),
    ] {
        caller.batch_execute("begin; savepoint s").await?;
        let refused = caller.simple_query(&format!("select loyalty.{call}")).await;
        assert_eq!(sqlstate(&refused), code, "{call}");
        caller.batch_execute("rollback to s").await?;
        assert_eq!(who(&caller).await?, before, "{call}");
        caller.batch_execute("rollback").await?;
        let caught = format!(
            "do $$ begin
                 perform loyalty.{call};
             exception when others then
                 if sqlstate <> '{code}' or '{before}' <> current_user || '|' || current_setting('search_path') then
                     raise;
                 end if;
             end $$"
        );
        caller.batch_execute(&caught).await?;
    }
    holder.batch_execute("rollback").await?;
    // the tables stay shut, and theirs were not looked at
    let shut = caller.simple_query("select from loyalty.wallet").await;
    assert_eq!(sqlstate(&shut), "42501");
    assert_eq!(
        answer(&format!("balance({a})")).await?,
        "98|30|68|2026-07-01|68"
    );
    ledger.verify().await
}

#[tokio::test]
async fn parallel_workers_have_them_too() -> Result<()> {
    let ledger = Ledger::open(
        "rights_parallel",
        "expiry => 'after 12 months of inactivity'",
    )
    .await?;
    // an open hold and a class want a statement
    ledger
        .run(
            "select loyalty.open_account('p', 'm' || i) from generate_series(1, 300) i;
             select loyalty.grant(account_id, account_id) from loyalty.account;
             select loyalty.hold(account_id, 1, '300 days') from loyalty.account;
             revoke all on all tables in schema loyalty from loyalty_operator;
             grant select on loyalty.account to loyalty_operator",
        )
        .await?;
    let expected = ledger
        .show("select sum(account_id), sum(account_id - 1) from loyalty.account")
        .await?;
    let caller = caller(&ledger).await?;
    caller
        .batch_execute(
            "set parallel_setup_cost = 0; set parallel_tuple_cost = 0;
             set min_parallel_table_scan_size = 0; set max_parallel_workers_per_gather = 2;
             set parallel_leader_participation = off",
        )
        .await?;
    let query = "select sum((loyalty.balance(account_id)).balance),
                        sum((loyalty.balance(account_id)).available) from loyalty.account";
    let plan = rows(&caller, &format!("explain {query}")).await?.join("\n");
    assert!(plan.contains("Gather"), "{plan}");
    assert_eq!(rows(&caller, query).await?.concat(), expected);
    // The leader works too, in a command that writes what it reads.
    caller
        .batch_execute(
            "reset parallel_leader_participation;
             create temporary table taken as
             select (loyalty.balance(account_id)).balance, (loyalty.balance(account_id)).available from loyalty.account",
        )
        .await?;
    let taken = "select sum(balance), sum(available) from taken";
    assert_eq!(rows(&caller, taken).await?.concat(), expected);
    Ok(())
}

/// No text of PostgreSQL's has a zero character: a claim with one names nobody, in the journal
/// as elsewhere.
#[tokio::test]
async fn a_claim_with_a_zero_character_is_none() -> Result<()> {
    let ledger = Ledger::open("rights_zero", "").await?;
    let a = ledger.account("a").await?;
    // a token for who is logged in, a superuser
    let claims = r#"{"role": "%s", "sub": "a\u0000b", "program": "p\u0000", "account_id": "1\u0000", "x": "y", "exp": 4102444800}"#;
    ledger
        .run(&format!(
            "select set_config('request.jwt.claims', c.claims, false),
                    set_config('request.headers',
                        json_build_object('authorization', 'Bearer ' || loyalty_private.sign_token(c.claims))::text, false)
               from (select format('{claims}', session_user)) as c (claims)"
        ))
        .await?;
    assert_eq!(ledger.show("select loyalty.claim('x')").await?, "y");
    let all = "select loyalty.claim('sub') is null, loyalty.claim('program') is null,
                      loyalty.claim_program_id() is null, loyalty.claim_account_id() is null";
    assert_eq!(ledger.show(all).await?, "t|t|t|t");
    ledger.receipt(&format!("grant({a}, 5)")).await?;
    let actor = "select actor, octet_length(actor) = length(actor) from loyalty.entry";
    let user = ledger.show("select session_user").await?;
    assert_eq!(ledger.show(actor).await?, format!("{user}|t"));
    ledger.verify().await
}
