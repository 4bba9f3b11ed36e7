//! What the API is asked is answered from indexes, however many members there are (P16).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use loyalty_testkit::TestDb;
use loyalty_testkit::plans::{Asker, SMALL, read_whole, request};
use loyalty_tests::{as_request, rows};
use serde_json::{Value, json};
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
    let claims = serde_json::from_str(claims)?;
    transaction
        .batch_execute(&as_request(role, claims)?)
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

/// A row or more in each table, and the statistics of a platform of four million members.
async fn platform() -> Result<(TestDb, BTreeMap<&'static str, String>)> {
    let db = TestDb::create("plans").await?;
    let client = db.connect().await?;
    client
        .batch_execute(&format!(
            "alter database {} set loyalty.clock = '2026-06-15 12:00+09'",
            db.name()
        ))
        .await?;
    let client_of_that_day = db.connect().await?;
    drop(client);
    let client = client_of_that_day;
    client.batch_execute(include_str!("matrix.sql")).await?;
    client.batch_execute(MORE).await?;
    // The planner takes as many pages as a table has, and as many rows a page as it had.
    client
        .batch_execute(&format!(
            "update pg_class set relpages = 1, reltuples = 4000000
              where relnamespace in ('loyalty'::regnamespace, 'loyalty_private'::regnamespace) and relkind = 'r' and relname <> all ('{SMALL}');
             update pg_class set relpages = 1, reltuples = 600
              where relnamespace in ('loyalty'::regnamespace, 'loyalty_private'::regnamespace) and relkind = 'r' and relname = any ('{SMALL}')"
        ))
        .await?;
    let empty = rows(
        &client,
        &format!(
            "select relname from pg_class
              where relnamespace in ('loyalty'::regnamespace, 'loyalty_private'::regnamespace) and relkind = 'r' and relname <> all ('{SMALL}')
                and pg_relation_size(oid) = 0"
        ),
    )
    .await?;
    ensure!(empty.is_empty(), "no row, so no plan as in life: {empty:?}");
    let mut names = BTreeMap::new();
    for (name, query) in [
        (
            "ann",
            "select account_id from loyalty.account where member_no = 'ann'",
        ),
        (
            "bob",
            "select account_id from loyalty.account where member_no = 'bob'",
        ),
        (
            "coin",
            "select program_id from loyalty.program where code = 'coin'",
        ),
        (
            "ann_person",
            "select identity_id from loyalty.identity where login_id = 'ann@example.com'",
        ),
        (
            "kin",
            "select identity_id from loyalty.identity where login_id = 'child-of-ann@example.com'",
        ),
        (
            "granter",
            "select identity_id from loyalty.identity where login_id = 'granter-of-coin@example.com'",
        ),
        (
            "admin",
            "select identity_id from loyalty.identity where login_id = 'admin-of-coin@example.com'",
        ),
    ] {
        names.insert(
            name,
            client
                .query_one(&format!("select ({query})::text"), &[])
                .await?
                .get(0),
        );
    }
    Ok((db, names))
}

/// What matrix.sql leaves out.
const MORE: &str = "
    do $$
    declare
        ann bigint := (select account_id from loyalty.account where member_no = 'ann');
    begin
        perform loyalty.set_access_policy('coin', terms_version => '1');
        perform loyalty.create_rule('coin', 'yearly', 'anniversary',
            '{\"fact\": \"first_service_on\", \"every_years\": 1, \"points\": 2000, \"day_of_month\": 15}');
        perform loyalty.create_rule('coin', 'gift', 'manual', '{\"points\": 10}');
        insert into loyalty.run (program_id, job, kind, period, effective_on, started_at, finished_at, outcome)
        select program_id, 'rule:yearly', 'rule', '2026-05-15', '2026-05-15', loyalty.now(), loyalty.now(), 'done'
          from loyalty.program where code = 'coin';
        insert into loyalty.run_failure (run_id, program_id, account_id, idempotency_key, points, code, message, failed_at)
        select r.run_id, r.program_id, ann, 'rule/yearly/12', 2000, 'LY004', 'closed', loyalty.now()
          from loyalty.run r where r.job = 'rule:yearly';
        perform loyalty.set_member('coin', 'nina', name => 'Nina', birth_date => '1990-01-01');
        perform loyalty.issue_keys('coin', 'nina', 'K9', 'secret-9');
        perform loyalty.begin_registration('coin', 'K9', 'wrong');
        perform loyalty.begin_registration('coin', 'K9', 'secret-9');
        perform loyalty.log_in('ann@example.com', 'abcdef1234', 'coin');
    end
    $$";

struct Case {
    role: char,
    query: String,
    /// What the superuser does before it, one after the other.
    before: Vec<String>,
}

fn cases(names: &BTreeMap<&str, String>) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut before = Vec::new();
    for line in include_str!("plans.txt").lines() {
        let Some((role, query)) = line.split_once(' ') else {
            ensure!(line.is_empty() || line == "#", "{line} is no case");
            continue;
        };
        let query = names.iter().fold(query.to_owned(), |query, (name, value)| {
            query.replace(&format!("{{{name}}}"), value)
        });
        match role {
            "#" => {}
            "=" => before.push(query),
            _ => cases.push(Case {
                role: role.chars().next().context("a role has a letter")?,
                query,
                before: std::mem::take(&mut before),
            }),
        }
    }
    Ok(cases)
}

impl Case {
    /// Role and claims of who asks.
    fn asker(&self, names: &BTreeMap<&str, String>, x: &str) -> Result<(&'static str, Value)> {
        let (role, person) = match self.role {
            'N' => ("loyalty_anon", None),
            'A' | 'S' => ("loyalty_member", Some("ann_person")),
            'F' => ("loyalty_family", Some("kin")),
            'G' => ("loyalty_granter", Some("granter")),
            '1' => ("loyalty_admin", Some("admin")),
            'O' => ("loyalty_operator", None),
            other => anyhow::bail!("{other} is nobody"),
        };
        let mut claims = json!({"role": role});
        if let Some(person) = person {
            claims["program"] = json!("coin");
            claims["sub"] = json!(format!("identity:{}", names[person]));
        }
        if matches!(role, "loyalty_member" | "loyalty_family") {
            claims["account_id"] = json!(names["ann"].parse::<i64>()?);
        }
        if self.role == 'S' {
            claims["sid"] = json!(x);
        }
        Ok((role, claims))
    }

    /// What it is about: a view or function of the API.
    fn about(&self) -> Option<&str> {
        let rest = self.query.split_once("loyalty_api.")?.1;
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        Some(&rest[..end])
    }

    /// As PostgREST asks it, in a transaction that is rolled back: large tables that were read
    /// from end to end.
    async fn scans(
        &self,
        client: &Client,
        asker: &Asker,
        names: &BTreeMap<&str, String>,
    ) -> Result<Vec<String>> {
        let about = self.about().with_context(|| self.query.clone())?;
        let is_call = self.query.contains(&format!("loyalty_api.{about}("));
        let (method, path) = match is_call {
            true => ("POST", format!("/rpc/{about}")),
            false if self.query.starts_with("insert") => ("POST", format!("/{about}")),
            false => ("GET", format!("/{about}")),
        };
        client.batch_execute("begin").await?;
        let mut x = String::new();
        for before in &self.before {
            let before = before.replace("{x}", &x);
            let rows = client
                .query(&format!("select ({before})::text"), &[])
                .await
                .with_context(|| before.clone())?;
            x = rows[0].try_get(0).with_context(|| before.clone())?;
        }
        let (role, claims) = self.asker(names, &x)?;
        asker
            .enter(client, role, &claims.to_string(), method, &path)
            .await?;
        let query = self.query.replace("{x}", &x);
        let whole = read_whole(client, role, async || {
            if query.starts_with("insert") {
                client.batch_execute(&query).await?;
            } else {
                client.query(&request(&query), &[]).await?;
            }
            Ok(())
        })
        .await?;
        client.batch_execute("rollback").await?;
        Ok(whole)
    }
}

/// P16: whatever view or function, filter, order and page: no table that grows with the members is
/// read from end to end; neither by plans made for the values given nor by those kept for any.
#[tokio::test]
async fn every_request_reads_by_index() -> Result<()> {
    let (db, names) = platform().await?;
    let cases = cases(&names)?;
    let client = db.connect().await?;
    let there: BTreeSet<String> = rows(
        &client,
        "select c.relname from pg_class c
          where c.relnamespace = 'loyalty_api'::regnamespace and c.relkind in ('v', 'm', 'r')
          union
         select p.proname from pg_proc p where p.pronamespace = 'loyalty_api'::regnamespace",
    )
    .await?
    .into_iter()
    .collect();
    let looked_at: BTreeSet<String> = cases
        .iter()
        .filter_map(Case::about)
        .map(str::to_owned)
        .collect();
    assert_eq!(
        looked_at, there,
        "plans.txt has each view and function of loyalty_api"
    );

    let mut wrong = Vec::new();
    for mode in ["force_custom_plan", "force_generic_plan"] {
        let client = db.connect().await?;
        client
            .batch_execute(&format!("set plan_cache_mode = {mode}"))
            .await?;
        let asker = Asker::new(&client).await?;
        for case in &cases {
            match case.scans(&client, &asker, &names).await {
                Ok(scans) if scans.is_empty() => {}
                Ok(scans) => wrong.push(format!(
                    "{mode}: {} {} reads all of {}",
                    case.role,
                    case.query,
                    scans.join(", ")
                )),
                Err(error) => {
                    wrong.push(format!("{} {}: {error:#}", case.role, case.query));
                    client.batch_execute("rollback").await?;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
