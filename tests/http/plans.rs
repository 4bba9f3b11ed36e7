//! What a member's page asks is answered from indexes, however many members there are.

use anyhow::Result;
use loyalty_dev::testkit::TestDb;
use tokio_postgres::Client;

/// 20,000 accounts with a grant each, and one with a journal of 1,000 entries.
async fn crowd(label: &str) -> Result<(TestDb, Client, i64)> {
    let db = TestDb::create(label).await?;
    let client = db.connect().await?;
    client
        .batch_execute(
            "set loyalty.clock = '2026-06-15 12:00+09';
             select loyalty.create_program('coin', 'Coin');
             select loyalty.open_account('coin', 'm' || i) from generate_series(1, 20000) i;
             select count(*) from loyalty.account a
              cross join generate_series(0, 1) half
              cross join lateral (
                    select jsonb_agg(jsonb_build_object('account_id', b.account_id, 'points', 10)) as items
                      from loyalty.account b
                     where a.account_id = (select min(account_id) from loyalty.account)
                       and b.account_id % 2 = half) c
              cross join lateral loyalty.grant_many(c.items) g
              where c.items is not null",
        )
        .await?;
    let account_id: i64 = client
        .query_one(
            "select account_id from loyalty.account where member_no = 'm10000'",
            &[],
        )
        .await?
        .get(0);
    client
        .execute(
            "select loyalty.grant_many(jsonb_agg(jsonb_build_object('account_id', $1::bigint, 'points', 1)))
               from generate_series(1, 1000)",
            &[&account_id],
        )
        .await?;
    client
        .batch_execute("analyze loyalty.account, loyalty.wallet, loyalty.entry")
        .await?;
    Ok((db, client, account_id))
}

/// How often the query, asked in that role, read one of the ledger's tables from end to end, and
/// how many rows it took from them.
async fn cost(
    client: &mut Client,
    role: &str,
    claims: &str,
    query: &str,
) -> Result<(i64, i64, usize)> {
    let transaction = client.transaction().await?;
    let counts = "select coalesce(sum(seq_scan), 0)::bigint,
                         coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::bigint
                    from pg_catalog.pg_stat_xact_all_tables
                   where schemaname = 'loyalty' and relname in ('account', 'wallet', 'entry')";
    let before = transaction.query_one(counts, &[]).await?;
    transaction
        .batch_execute(&format!(
            "set local role {role}; set local request.jwt.claims = '{claims}'"
        ))
        .await?;
    let rows = transaction.query(query, &[]).await?.len();
    transaction.batch_execute("reset role").await?;
    let after = transaction.query_one(counts, &[]).await?;
    transaction.rollback().await?;
    let more = |column: usize| after.get::<_, i64>(column) - before.get::<_, i64>(column);
    Ok((more(0), more(1), rows))
}

#[tokio::test]
async fn a_member_reads_by_index() -> Result<()> {
    let (_db, mut client, account_id) = crowd("plan_member").await?;
    let claims = format!("{{\"program\": \"coin\", \"account_id\": {account_id}}}");
    let queries = [
        ("select * from loyalty_api.balance", 1, 10),
        ("select * from loyalty_api.lot", 1, 10),
        (
            "select * from loyalty_api.statement order by entry desc limit 20",
            20,
            100,
        ),
        (
            "select * from loyalty_api.statement where kind = 'spend'",
            0,
            3000,
        ),
        (
            "select * from loyalty_api.statement order by entry limit 20 offset 40",
            20,
            200,
        ),
    ];
    for (query, expected, most) in queries {
        // twice: the kept plans of the second time must be as good
        for _ in 0..2 {
            let (scans, read, rows) = cost(&mut client, "loyalty_member", &claims, query).await?;
            assert_eq!(scans, 0, "{query}");
            assert_eq!(rows, expected, "{query}");
            assert!(read <= most, "{query} took {read} rows");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_administrator_finds_one_member_by_index() -> Result<()> {
    let (_db, mut client, account_id) = crowd("plan_admin").await?;
    let claims = "{\"program\": \"coin\"}";
    let queries = [
        (
            "select * from loyalty_api.balance where member_no = 'm10000'".to_owned(),
            1,
        ),
        (
            format!("select * from loyalty_api.balance where account_id = {account_id}"),
            1,
        ),
        (
            format!("select * from loyalty_api.lot where account_id = {account_id}"),
            1,
        ),
        (
            format!(
                "select * from loyalty_api.statement where account_id = {account_id}
                  order by entry desc limit 20"
            ),
            20,
        ),
    ];
    for (query, expected) in queries {
        let (scans, read, rows) = cost(&mut client, "loyalty_admin", claims, &query).await?;
        assert_eq!((scans, rows), (0, expected), "{query}");
        assert!(read <= 3000, "{query} took {read} rows");
    }
    Ok(())
}
