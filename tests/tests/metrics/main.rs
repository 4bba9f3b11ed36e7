//! `loyalty.metrics`: its figures are those of the ledger, its text is what Prometheus reads,
//! and the files made for it ask for nothing that is not there.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use loyalty_testkit::{PATIENCE, TestDb};
use tokio_postgres::Client;

const DASHBOARD: &str = include_str!("../../../docs/examples/grafana-dashboard.json");
const ALERTS: &str = include_str!("../../../docs/examples/prometheus-alerts.yaml");
const EXPORTER: &str = include_str!("../../../docs/examples/query-exporter.yaml");

/// Value by `metric{labels}`, as in Prometheus' text.
async fn figures(client: &Client) -> Result<BTreeMap<String, f64>> {
    let text: String = client
        .query_one("select loyalty.metrics_text()", &[])
        .await?
        .get(0);
    let mut figures = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').context("no value")?;
        let known = figures.insert(name.to_owned(), value.parse()?);
        ensure!(known.is_none(), "{name} is there twice");
    }
    Ok(figures)
}

async fn clock(client: &Client, at: &str) -> Result<()> {
    Ok(client
        .batch_execute(&format!("set loyalty.clock = '{at}'"))
        .await?)
}

/// Sums over `loyalty.balance` of each account, which the figures must agree with.
async fn balances(client: &Client, program: &str) -> Result<[i64; 3]> {
    let row = client
        .query_one(
            "select coalesce(sum(b.balance), 0)::bigint, coalesce(sum(b.held), 0)::bigint,
                    coalesce(sum(b.available), 0)::bigint
               from loyalty.account a
               join loyalty.program p using (program_id)
              cross join lateral loyalty.balance(a.account_id) b
              where p.code = $1",
            &[&program],
        )
        .await?;
    Ok([row.get(0), row.get(1), row.get(2)])
}

#[tokio::test]
async fn points_are_those_of_all_accounts() -> Result<()> {
    let db = TestDb::create("metrics_points").await?;
    let client = db.connect().await?;
    clock(&client, "2026-03-10 09:00+09").await?;
    client
        .batch_execute(
            "select loyalty.create_program('one', 'One');
             select loyalty.create_program('two', 'Two', time_zone => 'America/New_York');
             select loyalty.create_program('none', 'No members');
             select loyalty.open_account('one', 'M' || g) from generate_series(1, 8) g;
             select loyalty.open_account('two', 'M' || g) from generate_series(1, 3) g;
             select loyalty.grant(g, 100 * g, expires_on => '2026-03-20') from generate_series(1, 11) g;
             select loyalty.grant(g, 7, expires_on => '2026-04-09') from generate_series(1, 11) g;
             select loyalty.grant(g, 1000) from generate_series(1, 11) g;
             select loyalty.spend_fifo(2, 150);
             select loyalty.hold(3, 30, '1 hour');
             select loyalty.hold(4, 500, '90 days');
             select loyalty.hold(9, 1, '90 days');
             select loyalty.revoke(5, (select operation_id from loyalty.statement(5) where points = 500));
             select loyalty.spend_fifo(6, 1600);
             select loyalty.revoke(6, (select operation_id from loyalty.statement(6) where points = 600), policy => 'debt');
             select loyalty.close_account(7, forfeit => true);
             select loyalty.suspend_account(8)",
        )
        .await?;
    let of = |figures: &BTreeMap<String, f64>, name: &str, labels: &str| -> Result<i64> {
        let name = format!("loyalty_{name}{{{labels}}}");
        let value = figures
            .get(&name)
            .with_context(|| format!("{name} is missing"))?;
        Ok(*value as i64)
    };
    // with all lots alive, with some past their day, and with those booked
    for (at, tick) in [
        ("2026-03-10 09:30+09", false),
        ("2026-03-10 20:00+09", false),
        ("2026-03-21 09:00+09", false),
        ("2026-03-21 20:00+09", true),
        ("2026-04-10 09:00+09", false),
        ("2026-07-01 09:00+09", true),
    ] {
        clock(&client, at).await?;
        if tick {
            client.batch_execute("call loyalty.tick()").await?;
        }
        let figures = figures(&client).await?;
        for program in ["one", "two", "none"] {
            let [balance, held, available] = balances(&client, program).await?;
            let label = format!("program=\"{program}\"");
            let of = |name| of(&figures, name, &label);
            assert_eq!(of("held_points")?, held, "{program} {at}");
            assert_eq!(of("available_points")?, available, "{program} {at}");
            assert_eq!(of("liability_points")?, held + available, "{program} {at}");
            assert_eq!(
                of("lapsed_points")?,
                balance - held - available,
                "{program} {at}"
            );
        }
    }
    let figures = figures(&client).await?;
    let accounts = |status: &str| {
        of(
            &figures,
            "accounts",
            &format!("program=\"one\",status=\"{status}\""),
        )
    };
    assert_eq!(
        (
            accounts("open")?,
            accounts("suspended")?,
            accounts("closed")?
        ),
        (6, 1, 1)
    );
    let debt: i64 = client
        .query_one(
            "select coalesce(sum(debt), 0)::bigint from loyalty.wallet where account_id <= 8",
            &[],
        )
        .await?
        .get(0);
    ensure!(debt > 0);
    assert_eq!(of(&figures, "debt_points", "program=\"one\"")?, debt);
    // what the runs booked, by month: it is all there is in the journal but what closing forfeited
    let booked = client
        .query(
            "select to_char(timezone('Asia/Tokyo', occurred_at), 'YYYY-MM'), sum(points)::bigint
               from loyalty.journal j
              where side = 'breakage' and program_id = 1 and account_id <> 7
              group by 1",
            &[],
        )
        .await?;
    ensure!(booked.len() == 2);
    for row in booked {
        let label = format!("month=\"{}\",program=\"one\"", row.get::<_, &str>(0));
        assert_eq!(
            of(&figures, "breakage_points", &label)?,
            row.get::<_, i64>(1),
            "{label}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn points_expire_within_so_many_days() -> Result<()> {
    let db = TestDb::create("metrics_expiring").await?;
    let client = db.connect().await?;
    clock(&client, "2026-03-10 09:00+09").await?;
    client
        .batch_execute(
            "select loyalty.create_program('one', 'One');
             select loyalty.open_account('one', 'M1');
             select loyalty.grant(1, 1, expires_on => '2026-03-10');
             select loyalty.grant(1, 10, expires_on => '2026-04-09');
             select loyalty.grant(1, 100, expires_on => '2026-04-10')",
        )
        .await?;
    let expiring = async |arguments: &str| -> Result<f64> {
        let query = format!(
            "select value from loyalty.points_metrics({arguments}) where metric = 'loyalty_expiring_points'"
        );
        Ok(client.query_one(&query, &[]).await?.get(0))
    };
    assert_eq!(expiring("").await?, 11.0);
    assert_eq!(expiring("expiring_days => 0").await?, 1.0);
    assert_eq!(expiring("expiring_days => 31").await?, 111.0);
    clock(&client, "2026-03-11 00:00+09").await?;
    assert_eq!(expiring("").await?, 110.0);
    Ok(())
}

#[tokio::test]
async fn late_stopped_and_paused_work_is_seen() -> Result<()> {
    let db = TestDb::create("metrics_work").await?;
    let client = db.connect().await?;
    clock(&client, "2026-03-10 09:00+09").await?;
    client
        .batch_execute("select loyalty.create_program('one', 'One')")
        .await?;
    client.batch_execute("call loyalty.tick()").await?;
    let one = |name: &str| format!("loyalty_{name}{{program=\"one\"}}");
    let well = figures(&client).await?;
    for name in [
        "runs_late",
        "run_lateness_seconds",
        "runs_stopped",
        "jobs_paused",
    ] {
        assert_eq!(well.get(&one(name)), Some(&0.0), "{name}");
    }
    clock(&client, "2026-03-11 02:00+09").await?;
    let late = figures(&client).await?;
    assert_eq!(late.get(&one("runs_late")), Some(&1.0));
    assert_eq!(late.get(&one("run_lateness_seconds")), Some(&7200.0));
    client
        .batch_execute("select loyalty.pause_schedule('one', 'expire')")
        .await?;
    let paused = figures(&client).await?;
    assert_eq!(paused.get(&one("runs_late")), Some(&0.0));
    assert_eq!(paused.get(&one("jobs_paused")), Some(&1.0));
    // a run that an error stopped, as finish_run leaves it
    client
        .batch_execute(
            "select loyalty.resume_schedule('one', 'expire');
             insert into loyalty.run (program_id, job, kind, period, effective_on, started_at, error)
             values (1, 'expire', 'expire', '2026-03-11', '2026-03-11', loyalty.now(), 'no room')",
        )
        .await?;
    let stopped = figures(&client).await?;
    assert_eq!(stopped.get(&one("runs_stopped")), Some(&1.0));
    Ok(())
}

#[tokio::test]
async fn whoever_waits_for_a_lock_is_counted() -> Result<()> {
    let db = TestDb::create("metrics_lock").await?;
    let client = db.connect().await?;
    client
        .batch_execute(
            "select loyalty.create_program('one', 'One');
             select loyalty.open_account('one', 'M1');
             select loyalty.grant(1, 10)",
        )
        .await?;
    assert_eq!(
        figures(&client).await?.get("loyalty_lock_waits"),
        Some(&0.0)
    );
    let holder = db.connect().await?;
    holder
        .batch_execute("begin; select loyalty.spend_fifo(1, 1)")
        .await?;
    let waiter = db.connect().await?;
    let waiting = tokio::spawn(async move {
        waiter
            .batch_execute("select loyalty.spend_fifo(1, 1)")
            .await
    });
    let seen = tokio::time::timeout(PATIENCE, async {
        loop {
            let figures = figures(&client).await?;
            if figures.get("loyalty_lock_waits") == Some(&1.0)
                && figures.get("loyalty_lock_wait_seconds") > Some(&0.0)
            {
                return anyhow::Ok(());
            }
        }
    });
    seen.await??;
    holder.batch_execute("commit").await?;
    waiting.await??;
    assert_eq!(
        figures(&client).await?.get("loyalty_lock_waits"),
        Some(&0.0)
    );
    Ok(())
}

#[tokio::test]
async fn a_monitor_sees_figures_and_nothing_else() -> Result<()> {
    let db = TestDb::create("metrics_role").await?;
    let client = db.connect_as("loyalty_monitor").await?;
    client.execute("select * from loyalty.metrics", &[]).await?;
    client.execute("select loyalty.metrics_text()", &[]).await?;
    let tables = client
        .query(
            "select c.oid::regclass::text from pg_catalog.pg_class c
              where c.relnamespace in ('loyalty'::regnamespace, 'loyalty_api'::regnamespace, 'loyalty_private'::regnamespace)
                and c.relkind in ('r', 'v')
                and (has_table_privilege(c.oid, 'select') or has_table_privilege(c.oid, 'insert')
                     or has_table_privilege(c.oid, 'update') or has_table_privilege(c.oid, 'delete'))",
            &[],
        )
        .await?;
    let tables: Vec<String> = tables.iter().map(|row| row.get(0)).collect();
    assert_eq!(tables, ["loyalty.metrics"]);
    let refused = client
        .execute("select loyalty.grant(1, 1)", &[])
        .await
        .err()
        .context("a monitor may grant")?;
    assert_eq!(
        refused.code().map(|code| code.code().to_owned()).as_deref(),
        Some("42501")
    );
    Ok(())
}

/// Names that look like metrics of ours.
fn named(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("loyalty_"))
        .collect()
}

#[tokio::test]
async fn dashboard_alerts_and_exporter_name_what_there_is() -> Result<()> {
    let db = TestDb::create("metrics_files").await?;
    let client = db.connect().await?;
    client
        .batch_execute(
            "select loyalty.create_program('one', 'One');
             select loyalty.open_account('one', 'M1')",
        )
        .await?;
    let rows = client
        .query("select distinct metric, help from loyalty.metrics", &[])
        .await?;
    let metrics: BTreeSet<&str> = rows.iter().map(|row| row.get(0)).collect();
    for row in &rows {
        ensure!(
            row.get::<_, Option<&str>>(1).is_some(),
            "{} has no help",
            row.get::<_, &str>(0)
        );
    }
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD)?;
    ensure!(
        dashboard["panels"]
            .as_array()
            .is_some_and(|panels| panels.len() > 5)
    );
    for (file, text) in [("dashboard", DASHBOARD), ("alerts", ALERTS)] {
        let named = named(text);
        ensure!(named.len() > 5, "{file} names nothing");
        let unknown: Vec<_> = named.difference(&metrics).collect();
        assert_eq!(unknown, [&""; 0], "{file}");
    }
    // the exporter has them all
    assert_eq!(named(EXPORTER), metrics);
    // and its queries run, each with the columns it promises
    let queries: Vec<&str> = EXPORTER
        .split("    sql: |\n")
        .skip(1)
        .map(|rest| {
            let end = rest
                .lines()
                .take_while(|line| line.is_empty() || line.starts_with("      "))
                .map(|line| line.len() + 1)
                .sum::<usize>();
            &rest[..end.min(rest.len())]
        })
        .collect();
    assert_eq!(queries.len(), 6);
    let monitor = db.connect_as("loyalty_monitor").await?;
    let mut columns = BTreeSet::new();
    for query in queries {
        let rows = monitor
            .query(query, &[])
            .await
            .with_context(|| query.to_owned())?;
        let row = rows.first().with_context(|| format!("no row: {query}"))?;
        columns.extend(
            row.columns()
                .iter()
                .map(|column| column.name().to_owned())
                .filter(|name| name.starts_with("loyalty_")),
        );
    }
    assert_eq!(
        columns.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        metrics
    );
    Ok(())
}
