//! Bad input, by HTTP and by SQL: refused with a code, and nothing is written.

use crate::world::{World, points_of};
use anyhow::{Context, Result, bail};
use loyalty_testkit::http::Answer;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};
use std::io::{Read, Write};

/// Raw JSON, since serde's numbers end where a bigint does.
async fn send(
    world: &World,
    token: &str,
    function: &str,
    body: impl Into<Vec<u8>>,
) -> Result<Answer> {
    let request = world.post(token, function);
    let request = request.header(CONTENT_TYPE, "application/json");
    Answer::of(request.body(body.into())).await
}

#[tokio::test]
async fn amounts_by_http() -> Result<()> {
    let world = World::start("bad_amount").await?;
    let before = world.ledger().await?;
    let admin = world.admin()?;
    let ours = [
        ("0", "22023"),
        ("-1", "22023"),
        ("-9223372036854775807", "22023"),
        ("1.5", "22023"),
        ("0.000001", "22023"),
        ("\"2.5\"", "22023"),
        ("9223372036854775808", "22003"),
        ("-9223372036854775808", "22003"),
        ("1e30", "22003"),
        ("1e1000", "22003"),
        ("\"NaN\"", "22003"),
        ("\"Infinity\"", "22003"),
    ];
    // not even numbers: PostgreSQL refuses them before a function of ours is called
    let not_numbers = ["\"many\"", "true", "[1]", "{}", "\"\""];
    let fields = [
        ("spend", ""),
        ("hold", ""),
        ("explain_spend", ""),
        ("grant", ""),
        ("transfer", ", \"to_member_no\": \"bob\""),
        ("capture", ", \"operation_id\": 16777217"),
        ("refund", ", \"operation_id\": 16777217"),
        ("revoke", ", \"operation_id\": 16777217"),
    ];
    for (function, more) in fields {
        let body = |points: &str| {
            format!(
                "{{\"account_id\": {}, \"points\": {points}{more}}}",
                world.ann
            )
        };
        for (points, code) in ours {
            let answer = send(&world, &admin, function, body(points)).await?;
            answer.refused(400, code).with_context(|| body(points))?;
        }
        for points in not_numbers {
            let answer = send(&world, &admin, function, body(points)).await?;
            answer.error(400, "22P02").with_context(|| body(points))?;
        }
        // null is "all that is left" where there is such a thing
        if more.is_empty() || function == "transfer" {
            let answer = send(&world, &admin, function, body("null")).await?;
            answer.refused(400, "22004")?;
        }
    }
    for points in ["0", "-1", "null"] {
        let item = format!(
            "{{\"items\": [{{\"account_id\": {}, \"points\": {points}}}]}}",
            world.ann
        );
        for function in ["grant_many", "spend_many"] {
            let row = send(&world, &admin, function, item.as_str()).await?.row()?;
            assert_eq!(
                row["error_code"],
                if points == "null" { "22004" } else { "22023" }
            );
        }
    }
    for points in ["1.5", "1e30", "9223372036854775808", "\"5\"", "true"] {
        let item = format!(
            "{{\"items\": [{{\"account_id\": {}, \"points\": {points}}}]}}",
            world.ann
        );
        for function in ["grant_many", "spend_many"] {
            send(&world, &admin, function, item.as_str())
                .await?
                .refused(400, "22023")?;
        }
    }
    assert_eq!(world.ledger().await?, before);
    // the most there can be is fine, and one more is not
    let most = points_of(world.bob, i64::MAX);
    world.rpc(&admin, "grant", most).await?.ok()?;
    world
        .rpc(&admin, "grant", points_of(world.bob, 1))
        .await?
        .refused(400, "22003")?;
    world.assert_sound().await
}

#[tokio::test]
async fn arguments_missing_or_unknown() -> Result<()> {
    let world = World::start("bad_arguments").await?;
    let before = world.ledger().await?;
    let admin = world.admin()?;
    let bodies = [
        json!({}),
        json!({"colour": "red"}),
        json!({"account_id": world.ann, "points": 1, "operation_id": 1, "colour": "red"}),
        json!([]),
        json!(5),
        json!("points"),
        json!(null),
    ];
    let functions = [
        ("spend", "points"),
        ("hold", "points"),
        ("capture", "operation_id"),
        ("release", "operation_id"),
        ("refund", "account_id, operation_id"),
        ("revoke", "account_id, operation_id"),
        ("transfer", "points"),
        ("grant", "account_id, points"),
        ("grant_many", "items"),
        ("spend_many", "items"),
        ("explain_spend", "points"),
        ("open_account", "member_no"),
    ];
    for (function, needed) in functions {
        for body in &bodies {
            let answer = world.rpc(&admin, function, body.clone()).await?;
            let refused = answer
                .refused(400, "22023")
                .with_context(|| format!("{function} {body}"))?;
            let details = refused["details"].as_str().unwrap_or_default();
            assert!(
                details.ends_with(&format!("; needed: {needed}.")),
                "{refused}"
            );
        }
    }
    // what takes none, or needs none
    let none = "It takes none.";
    for (function, details) in [
        ("log_out", none),
        ("own_sessions", none),
        (
            "explain_notices",
            "It takes account_id, only_kind; needed: none.",
        ),
    ] {
        let colour = json!({"colour": "red"});
        let answer = world.rpc(&admin, function, colour).await?;
        let refused = answer.refused(400, "22023").context(function)?;
        assert_eq!(refused["details"], details, "{function}");
    }
    // a field too many spoils what would be a good call
    let item = json!([points_of(world.ann, 1)]);
    for (function, mut body) in [
        ("spend", points_of(world.ann, 1)),
        ("grant", points_of(world.ann, 1)),
        ("grant_many", json!({"items": item})),
        ("spend_many", json!({"items": item})),
        ("open_account", json!({"member_no": "cid"})),
    ] {
        body["colour"] = json!("red");
        world
            .rpc(&admin, function, body)
            .await?
            .refused(400, "22023")?;
    }
    world
        .get(&admin, "/rpc/explain_spend?colour=red")
        .await?
        .error(404, "PGRST202")?;
    world
        .rpc(&admin, "give", json!({"points": 1}))
        .await?
        .error(404, "PGRST202")?;
    world.get(&admin, "/wallet").await?.error(404, "42P01")?;
    // nor is what is not in loyalty_api to be had
    world
        .rpc(&admin, "close_account", points_of(world.ann, 1))
        .await?
        .error(404, "PGRST202")?;
    assert_eq!(world.ledger().await?, before);
    Ok(())
}

#[tokio::test]
async fn items_that_are_not_as_they_should_be() -> Result<()> {
    let world = World::start("bad_items").await?;
    let before = world.ledger().await?;
    let admin = world.admin()?;
    let good = points_of(world.ann, 1);
    let mut unknown = good.clone();
    unknown["colour"] = json!("red");
    let mut impossible = good.clone();
    impossible["expires_on"] = json!("2026-02-30");
    let mut nested = good.clone();
    nested["reason"] = json!({"a": 1});
    let bad = [
        json!({}),
        json!(5),
        json!("x"),
        json!([5]),
        json!([good, unknown]),
        json!([good, impossible]),
        json!([good, nested]),
        json!([good, null]),
        json!([good, {"account_id": "1", "points": 1}]),
    ];
    for function in ["grant_many", "spend_many"] {
        for items in &bad {
            let answer = world.rpc(&admin, function, json!({"items": items})).await?;
            // one that cannot be read spoils the call, and nothing of it is booked
            answer
                .refused(400, "22023")
                .with_context(|| items.to_string())?;
        }
        let too_many = vec![good.clone(); 10_001];
        let answer = world
            .rpc(&admin, function, json!({"items": too_many}))
            .await?;
        answer.refused(400, "54000")?;
        world
            .rpc(&admin, function, json!({"items": null}))
            .await?
            .refused(400, "22004")?;
        assert_eq!(
            world
                .rpc(&admin, function, json!({"items": []}))
                .await?
                .ok()?,
            json!([])
        );
    }
    let dated = json!([{"account_id": world.ann, "points": 1, "granted_on": "2026-06-01"}]);
    world
        .rpc(&admin, "spend_many", json!({"items": dated}))
        .await?
        .refused(400, "22023")?;
    assert_eq!(world.ledger().await?, before);
    Ok(())
}

#[tokio::test]
async fn bodies_that_are_no_json() -> Result<()> {
    let world = World::start("bad_json").await?;
    let before = world.ledger().await?;
    let token = world.member(world.ann)?;
    for body in [
        "{\"points\": ",
        "points=1",
        "{'points': 1}",
        "{\"points\": 1}}",
        "{\"points\": 01}",
    ] {
        send(&world, &token, "spend", body)
            .await?
            .error(400, "PGRST102")
            .context(body)?;
    }
    let not_utf8 = b"{\"points\": 1, \"idempotency_key\": \"k\xff\xfe\"}".to_vec();
    send(&world, &token, "spend", not_utf8)
        .await?
        .error(400, "PGRST102")?;
    send(&world, &token, "spend", "")
        .await?
        .error(400, "22P02")?;
    let zero = "{\"points\": 1, \"reason\": \"a\\u0000b\"}";
    send(&world, &token, "spend", zero)
        .await?
        .error(400, "22P05")?;
    let half = "{\"points\": 1, \"reason\": \"\\ud800\"}";
    let answer = send(&world, &token, "spend", half).await?;
    assert!((400..500).contains(&answer.status), "{answer:?}");
    let xml = world
        .post(&token, "spend")
        .header(CONTENT_TYPE, "application/xml")
        .body("<points/>");
    let answer = Answer::of(xml).await?;
    assert!((400..500).contains(&answer.status), "{answer:?}");
    assert_eq!(world.ledger().await?, before);
    Ok(())
}

#[tokio::test]
async fn days_by_http() -> Result<()> {
    let world = World::start("bad_day").await?;
    let before = world.ledger().await?;
    let granter = world.granter()?;
    let bad = [
        json!({"expires_on": "2025-02-30"}),
        json!({"granted_on": "2025-02-30"}),
        json!({"expires_on": "2026-13-01"}),
        json!({"expires_on": "0000-00-00"}),
        json!({"expires_on": "tomorrow"}),
        json!({"granted_on": "now"}),
        json!({"expires_on": "infinity"}),
        json!({"expires_on": "2027-03-31T00:00:00Z"}),
        json!({"expires_on": "31.3.2027"}),
        json!({"expires_on": ""}),
        json!({"expires_on": 20270331}),
        // the day before today in the program's time zone
        json!({"expires_on": "2026-06-14"}),
        json!({"granted_on": "2026-06-16"}),
        json!({"granted_on": "2026-06-10", "expires_on": "2026-06-09"}),
        json!({"granted_on": "2020-01-01", "expires_on": "2020-12-31"}),
        // by the program's policy the points would have lapsed
        json!({"granted_on": "2020-01-01"}),
    ];
    for days in bad {
        let mut grant = points_of(world.bob, 5);
        for (name, day) in days.as_object().context("an object")? {
            grant[name] = day.clone();
        }
        let answer = world.rpc(&granter, "grant", grant).await?;
        answer
            .refused(400, "22023")
            .with_context(|| days.to_string())?;
    }
    assert_eq!(world.ledger().await?, before);
    let today = json!({"account_id": world.bob, "points": 5, "expires_on": "2026-06-15"});
    world.rpc(&granter, "grant", today).await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn keys_and_texts_by_http() -> Result<()> {
    let world = World::start("bad_key").await?;
    let before = world.ledger().await?;
    let token = world.member(world.ann)?;
    let (long, longest) = ("k".repeat(10_240), "k".repeat(256));
    for key in ["", &long, &longest] {
        let argument = json!({"points": 1, "idempotency_key": key});
        world
            .rpc(&token, "spend", argument)
            .await?
            .refused(400, "22023")?;
        let by_header = world
            .rpc_with_key(&token, "spend", key, json!({"points": 1}))
            .await?;
        by_header.refused(400, "22023")?;
    }
    // a header that says U+FFFD may have been any bytes
    let replaced = HeaderValue::from_bytes("k\u{fffd}".as_bytes())?;
    let request = world
        .post(&token, "spend")
        .header("Idempotency-Key", replaced);
    Answer::of(request.json(&json!({"points": 1})))
        .await?
        .refused(400, "22023")?;
    let reason = json!({"points": 1, "reason": "r".repeat(1001)});
    world
        .rpc(&token, "spend", reason)
        .await?
        .refused(400, "22023")?;
    for expires_in in ["-1 day", "0", "2 years", "178000000 years"] {
        let hold = json!({"points": 1, "expires_in": expires_in});
        world
            .rpc(&token, "hold", hold)
            .await?
            .refused(400, "22023")?;
    }
    world
        .rpc(&token, "hold", json!({"points": 1, "expires_in": null}))
        .await?
        .refused(400, "22004")?;
    let hold = json!({"points": 1, "expires_in": "soon"});
    world.rpc(&token, "hold", hold).await?.error(400, "22007")?;
    assert_eq!(world.ledger().await?, before);
    // 255 characters, however many bytes, are a key
    let key = "鍵".repeat(255);
    let header = HeaderValue::from_bytes(key.as_bytes())?;
    let request = world
        .post(&token, "spend")
        .header("Idempotency-Key", header);
    let by_header = Answer::of(request.json(&json!({"points": 1}))).await?;
    by_header.ok()?;
    let argument = json!({"points": 1, "idempotency_key": key});
    assert_eq!(
        world.rpc(&token, "spend", argument).await?.text,
        by_header.text
    );
    Ok(())
}

/// Law 6: whoever takes the key of a payment to come keeps it from being booked for ever.
#[tokio::test]
async fn keys_of_the_ledger_itself() -> Result<()> {
    let world = World::start("bad_own_key").await?;
    let before = world.ledger().await?;
    let (member, admin) = (world.member(world.ann)?, world.admin()?);
    for key in [
        "rule/year/12",
        "rule/shop/event-1/member/canceled",
        "proposal/1",
    ] {
        let own = json!({"points": 1, "idempotency_key": key});
        for function in ["spend", "hold"] {
            let answer = world.rpc(&member, function, own.clone()).await?;
            answer.refused(400, "22023").context(function)?;
        }
        let mut item = points_of(world.ann, 1);
        item["idempotency_key"] = json!(key);
        let answer = world.rpc(&admin, "grant", item.clone()).await?;
        answer.refused(400, "22023")?;
        for function in ["grant_many", "spend_many"] {
            let items = json!({"items": [points_of(world.ann, 1), item]});
            let answer = world.rpc(&admin, function, items).await?;
            answer.refused(400, "22023").context(function)?;
        }
        let request = world.post(&member, "spend").header("Idempotency-Key", key);
        let by_header = Answer::of(request.json(&json!({"points": 1}))).await?;
        by_header.refused(400, "22023")?;
    }
    assert_eq!(world.ledger().await?, before);
    // theirs with a word that begins like it are
    let key = json!({"points": 1, "idempotency_key": "rules"});
    world.rpc(&member, "spend", key).await?.ok()?;
    Ok(())
}

/// PostgREST 12 itself fails on a header that is not UTF-8 (500, without a code): all that
/// is ours to promise is that nothing is written and that the next call is served.
#[tokio::test]
async fn a_key_header_that_is_not_utf8_books_nothing() -> Result<()> {
    let world = World::start("bad_header").await?;
    let before = world.ledger().await?;
    let token = world.member(world.ann)?;
    let bytes = HeaderValue::from_bytes(b"k\xff\xfe")?;
    let request = world.post(&token, "spend").header("Idempotency-Key", bytes);
    let answer = Answer::of(request.json(&json!({"points": 1}))).await?;
    assert!(answer.status >= 400, "{answer:?}");
    assert_eq!(world.ledger().await?, before);
    world
        .rpc(&token, "spend", json!({"points": 1}))
        .await?
        .ok()?;
    Ok(())
}

#[tokio::test]
async fn accounts_and_operations_by_http() -> Result<()> {
    let world = World::start("bad_account").await?;
    let before = world.ledger().await?;
    let admin = world.admin()?;
    world
        .rpc(&admin, "spend", json!({"points": 1}))
        .await?
        .refused(400, "22004")?;
    let missing = json!({"points": 1, "account_id": null});
    world
        .rpc(&admin, "grant", missing)
        .await?
        .refused(400, "22004")?;
    let no_operation = json!({"account_id": world.ann, "operation_id": null});
    for function in ["capture", "release", "refund", "revoke"] {
        world
            .rpc(&admin, function, no_operation.clone())
            .await?
            .refused(400, "22004")?;
    }
    // what is no bigint
    let odd: [(Value, &str); 3] = [
        (json!("ann"), "22P02"),
        (json!(1.5), "22P02"),
        (json!(1e25), "22003"),
    ];
    for (account, code) in odd {
        let spend = json!({"points": 1, "account_id": account});
        world
            .rpc(&admin, "spend", spend)
            .await?
            .refused(400, code)?;
    }
    let beyond = "{\"points\": 1, \"account_id\": 9223372036854775808}";
    send(&world, &admin, "spend", beyond)
        .await?
        .refused(400, "22003")?;
    assert_eq!(world.ledger().await?, before);
    Ok(())
}

/// The same by SQL. `$1` is Ann's account; codes that are ours come with a hint.
#[tokio::test]
async fn by_sql() -> Result<()> {
    let world = World::start("bad_sql").await?;
    world
        .sql
        .execute("select loyalty.suspend_account($1)", &[&world.bob])
        .await?;
    world
        .sql
        .execute(
            "select loyalty.close_account($1, forfeit => true)",
            &[&world.zoe],
        )
        .await?;
    let before = world.ledger().await?;
    let long = format!(
        "select loyalty.spend_fifo($1, 1, idempotency_key => '{}')",
        "k".repeat(10_240)
    );
    let (bob, zoe) = (world.bob, world.zoe);
    let on_bob = format!("select loyalty.spend_fifo({bob} + 0 * $1, 1)");
    let on_zoe = format!("select loyalty.spend_fifo({zoe} + 0 * $1, 1)");
    let to_zoe = format!("select loyalty.grant({zoe} + 0 * $1, 1)");
    let ours = [
        ("select loyalty.spend_fifo($1, 0)", "22023"),
        ("select loyalty.spend_fifo($1, -1)", "22023"),
        ("select loyalty.spend_fifo($1, null)", "22004"),
        ("select loyalty.spend_fifo($1 * null, 1)", "22004"),
        ("select loyalty.spend_fifo($1 + 900, 1)", "LY002"),
        (
            "select loyalty.spend_fifo($1, 9223372036854775807)",
            "LY001",
        ),
        ("select loyalty.grant($1, 0)", "22023"),
        ("select loyalty.grant($1, null)", "22004"),
        ("select loyalty.grant($1, 9223372036854775807)", "22003"),
        (
            "select loyalty.grant($1, 1, granted_on => '2026-06-16')",
            "22023",
        ),
        (
            "select loyalty.grant($1, 1, expires_on => '2026-06-14')",
            "22023",
        ),
        (
            "select loyalty.grant($1, 1, granted_on => '2026-06-10', expires_on => '2026-06-09')",
            "22023",
        ),
        ("select loyalty.grant($1, 1, expiry => 'whenever')", "22023"),
        (
            "select loyalty.spend_fifo($1, 1, idempotency_key => '')",
            "22023",
        ),
        (&long, "22023"),
        (&on_bob, "LY004"),
        (&on_zoe, "LY004"),
        (&to_zoe, "LY004"),
        ("select loyalty.hold($1, 1, expires_in => '0')", "22023"),
        (
            "select loyalty.hold($1, 1, expires_in => '367 days')",
            "22023",
        ),
        (
            "select loyalty.hold($1, 1, expires_in => '178000000 years')",
            "22023",
        ),
        (
            "select loyalty.hold($1, 1, expires_in => '-178000000 years')",
            "22023",
        ),
        ("select loyalty.hold($1, 1, expires_in => null)", "22004"),
        ("select loyalty.capture($1, ($1 << 24) | 1)", "22023"),
        ("select loyalty.capture($1, ($1 << 24) | 99)", "LY002"),
        ("select loyalty.refund($1, ($1 << 24) | 1)", "22023"),
        ("select loyalty.revoke($1, ($1 << 24) | 1, 1001)", "22023"),
        ("select loyalty.transfer($1, $1, 1)", "22023"),
        ("select loyalty.transfer($1, 900, 1)", "LY002"),
        ("select loyalty.transfer($1, null, 1)", "22004"),
        ("select loyalty.balance(900 + 0 * $1)", "LY002"),
        ("select loyalty.explain_spend($1, 0)", "22023"),
        (
            "select loyalty.open_account('nowhere', 'x' || 0 * $1)",
            "LY002",
        ),
        (
            "select loyalty.open_account('coin', left('x', (0 * $1)::int))",
            "22023",
        ),
        (
            "select * from loyalty.grant_many(jsonb_build_array($1))",
            "22023",
        ),
    ];
    for (statement, code) in ours {
        let (found, hint) = refused(&world, statement).await?;
        assert_eq!(found, code, "{statement}");
        assert!(hint.is_some(), "no hint: {statement}");
    }
    let postgresqls = [
        ("select loyalty.grant($1, 9223372036854775808)", "42883"),
        ("select loyalty.grant($1, 1.5)", "42883"),
        ("select loyalty.grant($1, 1e30::bigint)", "22003"),
        ("select loyalty.grant($1, 'many')", "22P02"),
        ("select loyalty.grant($1)", "42883"),
        ("select loyalty.grant($1, 1, colour => 'red')", "42883"),
        (
            "select loyalty.grant($1, 1, expires_on => '2025-02-30')",
            "22008",
        ),
        (
            "select loyalty.spend_fifo($1, 1, idempotency_key => E'k\\xff\\xfe')",
            "22021",
        ),
    ];
    for (statement, code) in postgresqls {
        assert_eq!(refused(&world, statement).await?.0, code, "{statement}");
    }
    assert_eq!(world.ledger().await?, before);
    world.assert_sound().await
}

async fn refused(world: &World, statement: &str) -> Result<(String, Option<String>)> {
    // no error may leave the session unfit for the next call
    match world
        .sql
        .query(
            &statement.replace("$1", &format!("{}::bigint", world.ann)),
            &[],
        )
        .await
    {
        Ok(rows) => bail!("{statement} gave {} rows", rows.len()),
        Err(error) => {
            let error = error
                .as_db_error()
                .context("not refused by the database")?
                .clone();
            Ok((
                error.code().code().to_owned(),
                error.hint().map(str::to_owned),
            ))
        }
    }
}

/// A request that never says how long it is, or ends early, books nothing.
#[tokio::test]
async fn half_a_request_books_nothing() -> Result<()> {
    let world = World::start("bad_half").await?;
    let before = world.ledger().await?;
    let address = world.api.url().trim_start_matches("http://").to_owned();
    let head = format!(
        "POST /rpc/spend HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 400\r\n\r\n{{\"points\": 1}}",
        world.member(world.ann)?
    );
    tokio::task::spawn_blocking(move || -> Result<()> {
        let mut connection = std::net::TcpStream::connect(address)?;
        connection.write_all(head.as_bytes())?;
        connection.shutdown(std::net::Shutdown::Write)?;
        let mut answer = Vec::new();
        // closed by the other side, with an answer or without
        let _closed = connection.read_to_end(&mut answer);
        assert!(
            !answer.starts_with(b"HTTP/1.1 2"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        Ok(())
    })
    .await??;
    assert_eq!(world.ledger().await?, before);
    Ok(())
}
