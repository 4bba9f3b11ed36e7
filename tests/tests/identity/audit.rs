//! The audit: who did what, when and from where; only ever added to.

use anyhow::{Context as _, Result};
use loyalty_testkit::http::Answer;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::world::World;

async fn state_of(client: &Client, statement: &str) -> Option<String> {
    let error = client.batch_execute(statement).await.err()?;
    Some(error.code()?.code().to_owned())
}

/// Lines stay as they were written, for the owner and for superusers too; others add none by
/// themselves.
#[tokio::test]
async fn audit_is_append_only() -> Result<()> {
    let world = World::start("audit_guard").await?;
    let member = json!({ "member_no": "N-1" });
    world
        .rpc(&world.admin("coin")?, "open_account", member)
        .await?
        .ok()?;
    let lines = "select md5(string_agg(a::text, ' ' order by a.audit_id)) from loyalty.audit a";
    let before = world.one(lines).await?;
    for statement in [
        "update loyalty.audit set actor = 'nobody'",
        "update loyalty.audit set actor = 'nobody' where false",
        "update loyalty_api.audit set actor = 'nobody'",
        "delete from loyalty.audit",
        "delete from loyalty_api.audit",
        "truncate loyalty.audit",
        "truncate loyalty.audit cascade",
        "merge into loyalty.audit a using (values (1)) v on true when matched then delete",
        "insert into loyalty.audit overriding system value
         select * from loyalty.audit on conflict (audit_id) do update set actor = 'nobody'",
    ] {
        let state = state_of(&world.sql, statement).await;
        assert!(
            // a view of a join is not written through
            matches!(state.as_deref(), Some("LY005"))
                || statement.contains("loyalty_api") && state.as_deref() == Some("55000"),
            "{statement}: {state:?}"
        );
    }
    for role in [
        "loyalty_anon",
        "loyalty_member",
        "loyalty_family",
        "loyalty_granter",
        "loyalty_admin",
        "loyalty_operator",
        "loyalty_relay",
    ] {
        let client = world.db.connect_as(role).await?;
        for statement in [
            "insert into loyalty.audit (at, actor, action, outcome) values (now(), 'x', 'grant', 'done')",
            "insert into loyalty_api.audit (actor) values ('x')",
            "update loyalty.audit set actor = 'nobody'",
            "delete from loyalty.audit",
            "truncate loyalty.audit",
            "select loyalty_private.audit('grant', 1)",
            "alter table loyalty.audit disable trigger all",
        ] {
            let state = state_of(&client, statement).await;
            let refused = matches!(state.as_deref(), Some("42501" | "55000"));
            assert!(refused, "{role}: {statement}: {state:?}");
        }
    }
    assert_eq!(world.one(lines).await?, before);
    Ok(())
}

/// Administrators read their program's lines, operators all, others none.
#[tokio::test]
async fn audit_is_read_by_administrators_of_the_program() -> Result<()> {
    let world = World::start("audit_read").await?;
    for program in ["coin", "mile"] {
        let member = json!({ "member_no": "N-1" });
        let admin = world.admin(program)?;
        world.rpc(&admin, "open_account", member).await?.ok()?;
    }
    for program in ["coin", "mile"] {
        let lines = world
            .rows(&world.admin(program)?, "/audit?action=eq.open_account")
            .await?;
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["program"], program);
        let all = world.rows(&world.admin(program)?, "/audit").await?;
        assert!(all.iter().all(|line| line["program"] == program), "{all:?}");
    }
    let all = world
        .rows(&world.operator()?, "/audit?action=eq.open_account")
        .await?;
    assert_eq!(all.len(), 2);
    let hanako = world
        .registered(&world.hanako, "hanako@example.com")
        .await?;
    for token in [hanako, world.granter("coin")?] {
        world.get(&token, "/audit").await?.refused(403, "LY010")?;
    }
    world.get("", "/audit").await?.refused(401, "LY009")?;
    for method in [
        reqwest::Method::POST,
        reqwest::Method::PATCH,
        reqwest::Method::DELETE,
    ] {
        let request = world.request(method, &world.admin("coin")?, "/audit?audit_id=gt.0");
        let answer = Answer::of(request.json(&json!({ "actor": "nobody" }))).await?;
        answer.refused(403, "LY010")?;
    }
    Ok(())
}

const CLIENT: &str = "203.0.113.7";

/// A call of an administrator and what the audit has of it.
async fn recorded(
    world: &World,
    token: &str,
    function: &str,
    arguments: Value,
) -> Result<(Value, Value)> {
    let from = format!("198.51.100.1, {CLIENT}");
    let answer = world.rpc_from(&from, token, function, arguments).await?;
    let body = answer.ok().context(function.to_owned())?;
    let line = newest(world).await?;
    assert_eq!(line["action"], function, "{line}");
    assert_eq!(line["outcome"], "done", "{function}");
    assert_eq!(line["program"], "coin", "{function}");
    assert_eq!(line["actor"], "loyalty_admin:identity:4711", "{function}");
    assert_eq!(line["address"], CLIENT, "{function}");
    assert_eq!(line["at"], "2026-06-16T03:00:00+00:00", "{function}");
    Ok((body, line))
}

async fn newest(world: &World) -> Result<Value> {
    let path = "/audit?order=audit_id.desc&limit=1";
    let mut lines = world.rows(&world.operator()?, path).await?;
    lines.pop().context("no line")
}

/// Each administrative call leaves a line, with who, what, when and from where.
#[tokio::test]
async fn audit_has_every_administrative_call() -> Result<()> {
    let mut world = World::start("audit_calls").await?;
    world
        .sql
        .batch_execute(
            "set loyalty.clock = '2026-06-15 12:00+09';
             select loyalty.create_rule('coin', 'yearly', 'anniversary',
                 '{\"fact\": \"first_service_on\", \"every_years\": 1, \"points\": 1, \"day_of_month\": 16}')",
        )
        .await?;
    world.set_clock("2026-06-16 12:00+09").await?;
    world.sql.batch_execute("call loyalty.tick()").await?;
    let run = world
        .sql
        .query_one(
            "select r.run_id, r.job, r.period::text from loyalty.run r
              where r.program_id = loyalty.program_id('coin') and r.job = 'rule:yearly'
              order by r.run_id limit 1",
            &[],
        )
        .await?;
    let (run_id, job, period) = (
        run.get::<_, i64>(0),
        run.get::<_, String>(1),
        run.get::<_, String>(2),
    );
    let admin = world.person("loyalty_admin", 4711, "coin")?;
    let (taro, hanako) = (world.taro.account_id, world.hanako.account_id);
    let call = async |function: &str, arguments: Value| {
        recorded(&world, &admin, function, arguments).await
    };

    // the ledger
    let (opened, line) = call("open_account", json!({ "member_no": "N-1" })).await?;
    assert_eq!(line["account_id"], opened);
    let of_taro = |points: i64| json!({ "account_id": taro, "points": points });
    let (granted, line) = call("grant", of_taro(100)).await?;
    assert_eq!(
        line["details"],
        json!({ "operation_id": granted["operation_id"], "points": 100 })
    );
    assert_eq!(line["account_id"], taro);
    let items = json!({ "items": [of_taro(5), of_taro(0)], "program": "coin" });
    let (_, line) = call("grant_many", items).await?;
    assert_eq!(
        line["details"],
        json!({ "items": 2, "granted": 1, "points": 5 })
    );
    let items = json!({ "items": [of_taro(5)], "program": "coin" });
    call("spend_many", items).await?;
    let (held, _) = call("hold", of_taro(10)).await?;
    let about = |operation: &Value| json!({ "account_id": taro, "operation_id": operation["operation_id"] });
    call("capture", about(&held)).await?;
    let (held, _) = call("hold", of_taro(10)).await?;
    call("release", about(&held)).await?;
    let (spent, _) = call("spend", of_taro(10)).await?;
    call("refund", about(&spent)).await?;
    call("revoke", about(&granted)).await?;
    let moved = json!({ "account_id": taro, "points": 1, "to_account": hanako });
    call("transfer", moved).await?;

    // members
    let member = json!({ "member_no": "N-1", "name": "Nobody" });
    call("set_member", member).await?;
    let csv = json!({ "csv": "member_no\nN-2\n", "all_or_nothing": true });
    call("import_members", csv).await?;
    // one line each, however the file comes
    for content_type in ["text/plain", "application/octet-stream"] {
        let before = world.count("loyalty.audit").await?;
        let body = world
            .post(&admin, "import_members")
            .header("Content-Type", content_type)
            .header("Dry-Run", "true")
            .body("member_no\nN-4\n");
        Answer::of(body).await?.ok()?;
        assert_eq!(world.count("loyalty.audit").await?, before + 1);
        let line = newest(&world).await?;
        assert_eq!(line["action"], "import_members");
        assert_eq!(line["details"], json!({ "dry_run": true }));
    }
    let upload = world
        .request(reqwest::Method::POST, &admin, "/member_upload")
        .header("Content-Type", "text/csv")
        .body("member_no,name\nN-3,Somebody\n");
    assert_eq!(Answer::of(upload).await?.status, 201);
    let line = newest(&world).await?;
    assert_eq!(line["action"], "member_upload");
    assert_eq!(line["details"], json!({ "items": 1 }));

    // rules and events
    let rule = json!({ "code": "thanks", "kind": "manual", "terms": { "points": 40 } });
    call("create_rule", rule).await?;
    let by_rule = json!({ "account_id": taro, "rule": "thanks" });
    call("grant_by_rule", by_rule).await?;
    let changed = json!({ "code": "thanks", "terms": { "points": 50 } });
    let (_, line) = call("change_rule", changed).await?;
    assert_eq!(line["details"], json!({ "rule": "thanks", "version": 2 }));
    call("end_rule", json!({ "code": "thanks" })).await?;
    let rule = json!({
        "code": "visit", "kind": "event", "terms": { "event": "visit", "points": 5 },
    });
    call("create_rule", rule).await?;
    let event = json!({ "kind": "visit", "member_no": "T-1" });
    let (event, line) = call("record_event", event).await?;
    assert_eq!(line["account_id"], taro);
    let event = json!({ "event_id": event["event_id"] });
    call("cancel_event", event).await?;

    // schedules and notices
    call("rerun", json!({ "job": job, "period": period })).await?;
    call("retry_failures", json!({ "run_id": run_id })).await?;
    call("pause_schedule", json!({ "job": job })).await?;
    call("resume_schedule", json!({ "job": job })).await?;
    let notice = json!({ "kind": "balance", "is_enabled": true });
    call("set_notice", notice).await?;
    let wanted = json!({ "kind": "balance", "is_wanted": false, "account_id": taro });
    call("set_notice_preference", wanted).await?;
    let template = json!({
        "kind": "balance", "language": "en", "subject": "Points", "text_body": "Points",
    });
    call("set_template", template).await?;
    let template = json!({ "kind": "balance", "language": "en" });
    call("delete_template", template).await?;
    let since = json!({ "given_up_since": "2026-01-01T00:00:00Z" });
    call("retry_notices", since).await?;

    // access
    let policy = json!({ "approval_above": 500 });
    call("set_access_policy", policy).await?;
    let role = json!({ "login_id": "granter@example.com", "role": "granter" });
    let (given, _) = call("give_role", role).await?;
    let role = json!({ "role_id": given["role_id"] });
    call("take_role", role).await?;
    let (proposed, _) = call("propose_grant", of_taro(600)).await?;
    let proposal = json!({ "proposal_id": proposed["proposal_id"] });
    call("reject_grant", proposal).await?;
    Ok(())
}

/// What there is no call for over HTTP is recorded as well, unless it is refused.
#[tokio::test]
async fn audit_has_what_sql_alone_may() -> Result<()> {
    let world = World::start("audit_sql").await?;
    let operator = world.db.connect_as("loyalty_operator").await?;
    let (taro, zoe) = (world.taro.account_id, world.zoe.account_id);
    for (statement, program, account_id, details) in [
        (
            format!("suspend_account({taro})"),
            "coin",
            json!(taro),
            json!({}),
        ),
        (
            format!("resume_account({taro})"),
            "coin",
            json!(taro),
            json!({}),
        ),
        (
            format!("close_account({zoe}, forfeit => true, reason => 'left')"),
            "mile",
            json!(zoe),
            json!({ "forfeit": true }),
        ),
        (
            "set_service_hours('coin', '02:00', '05:00')".into(),
            "coin",
            Value::Null,
            json!({ "closed_from": "02:00:00", "closed_until": "05:00:00" }),
        ),
        (
            "set_service_hours('coin', null, null)".into(),
            "coin",
            Value::Null,
            json!({}),
        ),
        (
            "set_notice_sender('mile', sms => '')".into(),
            "mile",
            Value::Null,
            json!({
                "email": "mile@example.com", "language": "ja", "max_attempts": 10,
                "first_retry": "00:01:00", "longest_retry": "02:00:00",
            }),
        ),
    ] {
        let before = world.count("loyalty.audit").await?;
        operator
            .batch_execute(&format!("select loyalty.{statement}"))
            .await?;
        assert_eq!(world.count("loyalty.audit").await?, before + 1);
        let line = newest(&world).await?;
        let action = statement.split('(').next();
        assert_eq!(line["action"].as_str(), action, "{line}");
        assert_eq!(
            (&line["program"], &line["account_id"], &line["details"]),
            (&json!(program), &account_id, &details),
            "{line}"
        );
        assert_eq!(line["actor"], "loyalty_operator", "{line}");
    }
    let before = world.count("loyalty.audit").await?;
    for (statement, code) in [
        (format!("suspend_account({zoe})"), "LY004"),
        ("suspend_account(9999)".into(), "LY002"),
        ("set_service_hours('coin', '02:00', null)".into(), "22004"),
        ("set_notice_sender('mile', email => 'x')".into(), "22023"),
    ] {
        let state = state_of(&operator, &format!("select loyalty.{statement}")).await;
        assert_eq!(state.as_deref(), Some(code), "{statement}");
    }
    assert_eq!(world.count("loyalty.audit").await?, before);
    Ok(())
}

/// What members do with their own points is in the journal; what was refused and undone is
/// nowhere.
#[tokio::test]
async fn audit_has_nothing_else() -> Result<()> {
    let world = World::start("audit_else").await?;
    let hanako = world
        .registered(&world.hanako, "hanako@example.com")
        .await?;
    let admin = world.admin("coin")?;
    let before = world.count("loyalty.audit").await?;
    let points = json!({ "points": 1 });
    world.rpc(&hanako, "spend", points.clone()).await?.ok()?;
    let held = world.rpc(&hanako, "hold", points).await?.ok()?;
    let which = json!({ "operation_id": held["operation_id"] });
    world.rpc(&hanako, "release", which).await?.ok()?;
    let refused = json!({ "account_id": world.taro.account_id, "points": 9_999_999 });
    world
        .rpc(&admin, "spend", refused)
        .await?
        .refused(402, "LY001")?;
    assert_eq!(world.count("loyalty.audit").await?, before);
    Ok(())
}

/// Finds a function of the API that changes something and leaves no line: each calls
/// loyalty.audit, itself or through the functions that it calls.
#[tokio::test]
async fn audit_is_called_by_every_function_that_changes_anything() -> Result<()> {
    let world = World::start("audit_catalog").await?;
    let query = "
        with recursive f as (
            select p.oid, n.nspname as schema, p.proname::text as name, p.provolatile,
                   pg_get_functiondef(p.oid) as body
              from pg_catalog.pg_proc p
              join pg_catalog.pg_namespace n on n.oid = p.pronamespace
             where n.nspname in ('loyalty', 'loyalty_api', 'loyalty_private') and p.prokind = 'f'
        ), call as (
            select distinct f.oid, c.name
              from f
             cross join lateral (
                    select m[1] as name from regexp_matches(f.body, '\\mloyalty(?:_private)?\\.([a-z0-9_]+)\\(', 'g') m) c
        ), reached as (
            select c.oid, c.name from call c
             union
            select r.oid, c.name
              from reached r
              join f on f.schema in ('loyalty', 'loyalty_private') and f.name = r.name
              join call c on c.oid = f.oid
        )
        select f.name, f.provolatile = 'v',
               exists (select from reached r where r.oid = f.oid and r.name = 'audit')
          from f
         where f.schema = 'loyalty_api'";
    let rows = world.sql.query(query, &[]).await?;
    let changing: Vec<(String, bool)> = rows
        .iter()
        .filter(|row| row.get(1))
        .map(|row| (row.get(0), row.get(2)))
        .collect();
    assert!(changing.len() > 40, "{changing:?}");
    let silent: Vec<_> = changing
        .iter()
        .filter(|(_, records)| !records)
        .map(|(name, _)| name)
        .collect();
    assert!(silent.is_empty(), "these leave no line: {silent:?}");
    // what only reads is not found to record, or the above would say nothing
    let reading = rows.iter().filter(|row| !row.get::<_, bool>(1));
    let recording: Vec<String> = reading
        .filter(|row| row.get(2))
        .map(|row| row.get(0))
        .collect();
    assert!(recording.is_empty(), "{recording:?}");
    Ok(())
}
