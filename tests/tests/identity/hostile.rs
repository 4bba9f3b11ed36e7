//! Hostile text in every argument and filter, and rows written through PostgREST: never an error
//! of SQL or a 5xx, and nothing of anybody else changes.

use anyhow::{Result, ensure};
use loyalty_testkit::http::{Answer, percent};
use loyalty_tests::assert_sound;
use loyalty_tests::hostile;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::attack::{HANAKO, TARO, ensure_same, logged_in, state};
use crate::people::at_once;
use crate::world::{PASSWORD, World};

/// Long ones too, as no form sends them.
fn hostile() -> Vec<Value> {
    let mut values = hostile::values();
    values.push("あ'".repeat(3_000).into());
    values.push("((((".repeat(2_500).into());
    values
}

struct Function {
    name: String,
    is_open: bool,
    /// Names and types; needed ones first.
    arguments: Vec<(String, String)>,
    needed: usize,
}

async fn functions(world: &World) -> Result<Vec<Function>> {
    let rows = world
        .sql
        .query(
            "select p.proname::text, loyalty_private.is_open_call(p.proname),
                    array(select p.proargnames[n] from generate_series(1, p.pronargs) n),
                    array(select format_type(p.proargtypes[n - 1], null) from generate_series(1, p.pronargs) n),
                    (p.pronargs - p.pronargdefaults)::integer
               from pg_catalog.pg_proc p
              where p.pronamespace = 'loyalty_api'::regnamespace and p.proargnames is not null and p.pronargs > 0
              order by 1",
            &[],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let names: Vec<String> = row.get(2);
            let kinds: Vec<String> = row.get(3);
            Ok(Function {
                name: row.get(0),
                is_open: row.get(1),
                arguments: names.into_iter().zip(kinds).collect(),
                needed: usize::try_from(row.get::<_, i32>(4))?,
            })
        })
        .collect()
}

/// Something that gets a call as far as it can, next to the argument that is tried.
fn plausible(name: &str, kind: &str, registration: &str) -> Value {
    match name {
        "registration" => registration.into(),
        "organisation_id" => "ACME".into(),
        "key_1" => "KA1".into(),
        "key_2" => "secret-A1".into(),
        "login_id" | "login_id_again" => HANAKO.into(),
        "password" | "password_again" => PASSWORD.into(),
        "terms_version" => "2026-04".into(),
        "program" => "coin".into(),
        "points" => json!(1_000_000_000),
        "code" => "000000".into(),
        "screen_key" => "0000".into(),
        "relation" => "child".into(),
        "birth_date" => "2000-01-01".into(),
        "token" => format!("{}.{}", "0".repeat(32), "a".repeat(43)).into(),
        "kind" => "balance".into(),
        _ => match kind {
            "text" => "x".into(),
            "boolean" => json!(false),
            "jsonb" | "json" => json!([]),
            "uuid" => "00000000-0000-0000-0000-000000000000".into(),
            _ => json!(1),
        },
    }
}

/// What is wrong with an answer to hostile text, if anything: only the caller may be at fault.
fn complaint(answer: &Answer) -> Option<String> {
    let code = answer
        .json()
        .ok()
        .and_then(|body| body["code"].as_str().map(str::to_owned));
    let code = code.unwrap_or_default();
    // a syntax error or an unknown name would be made of what was sent
    let is_ours = code.starts_with("XX")
        || code.starts_with("42") && code != "42501"
        || code.starts_with("57")
        || code == "P0001";
    (answer.status >= 500 || is_ours).then(|| format!("{} {}", answer.status, answer.text))
}

/// Every argument of every function, as nobody and as a member: 4xx or what it is for, never a
/// 5xx, never an error of SQL, and nobody else's rows change.
#[tokio::test]
async fn hostile_text_in_every_argument() -> Result<()> {
    let world = World::start("attack_text").await?;
    let session = logged_in(&world).await?;
    world.enrol(&world.taro, Some(TARO)).await?;
    let registration = world.begin(&world.ann).await?;
    let before = state(&world).await?;
    let mut tried = 0;
    for function in functions(&world).await? {
        let tokens: &[&str] = match function.is_open {
            true => &[""],
            false => &[&session.access],
        };
        for (place, (name, _)) in function.arguments.iter().enumerate() {
            let mut requests = Vec::new();
            let mut sent = Vec::new();
            for value in hostile() {
                let mut arguments = Map::new();
                for (other, kind) in &function.arguments[..function.needed] {
                    arguments.insert(other.clone(), plausible(other, kind, &registration));
                }
                arguments.insert(name.clone(), value.clone());
                for token in tokens {
                    // from another client each time, so that none is slowed down
                    let from = format!("10.{}.{}.{}", place, tried / 200, tried % 200);
                    requests.push(
                        world
                            .post(token, &function.name)
                            .header("X-Forwarded-For", from)
                            .json(&arguments),
                    );
                    sent.push(value.clone());
                    tried += 1;
                }
            }
            // what was counted must not keep the next from getting through
            world.forgive().await?;
            let mut answers = Vec::new();
            for some in in_parts(requests, 4) {
                answers.extend(at_once(some).await?);
            }
            for (answer, value) in answers.iter().zip(&sent) {
                if let Some(complaint) = complaint(answer) {
                    let shown: String = value.to_string().chars().take(80).collect();
                    anyhow::bail!("{} {name} = {shown}: {complaint}", function.name);
                }
            }
        }
    }
    ensure!(tried > 1_000, "{tried}");
    // what one may do with one's own account is no attack; everything else is as it was
    let theirs = |state: Vec<String>| -> Vec<String> {
        let own = [
            "member ",
            "notice_preference ",
            "family ",
            "credential ",
            "identity ",
            "entry ",
            "wallet ",
            "lot_class ",
        ];
        state
            .into_iter()
            .filter(|line| !own.iter().any(|own| line.starts_with(own)))
            .collect()
    };
    ensure_same(&theirs(before), &theirs(state(&world).await?))?;
    let untouched = world
        .one(&format!(
            "select count(*) from loyalty.entry e where e.account_id <> {} having count(*) = 4",
            world.hanako.account_id
        ))
        .await?;
    ensure!(untouched == "(4)", "{untouched}");
    // and both still log in by what they had
    world.forgive().await?;
    for login_id in [HANAKO, TARO] {
        world.log_in(login_id, PASSWORD, "coin").await?.ok()?;
    }
    assert_sound(&world.sql).await
}

fn in_parts<T>(all: Vec<T>, size: usize) -> Vec<Vec<T>> {
    let mut parts = Vec::new();
    let mut all = all.into_iter().peekable();
    while all.peek().is_some() {
        parts.push(all.by_ref().take(size).collect());
    }
    parts
}

/// The views that the API shows, with their columns.
async fn views(world: &World) -> Result<Vec<(String, Vec<String>)>> {
    let rows = world
        .sql
        .query(
            "select c.relname::text, array_agg(a.attname::text order by a.attnum)
               from pg_catalog.pg_class c
               join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
              where c.relnamespace = 'loyalty_api'::regnamespace and c.relkind = 'v'
              group by 1 order by 1",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// In filters, orders, limits and headers of every view.
#[tokio::test]
async fn hostile_text_in_every_filter() -> Result<()> {
    let world = World::start("attack_filter").await?;
    let session = logged_in(&world).await?;
    let own = json!(world.hanako.account_id);
    let before = state(&world).await?;
    for (view, columns) in views(&world).await? {
        let ask = |name: &str, value: &str| {
            let path = format!("/{view}?{name}={}", percent(value));
            world.request(Method::GET, &session.access, &path)
        };
        let mut requests = Vec::new();
        let mut sent = Vec::new();
        for text in [
            "'; drop table loyalty.entry; --",
            "\") or true --",
            "%_\\",
            "(1,2",
            "\u{1}",
            "null",
        ] {
            for column in &columns {
                for operator in ["eq", "like", "in"] {
                    let filter = format!("{operator}.{text}");
                    requests.push(ask(column, &filter));
                    sent.push(format!("{view}?{column}={filter}"));
                }
            }
            for parameter in [
                "select",
                "order",
                "limit",
                "offset",
                "or",
                "and",
                "columns",
                "on_conflict",
            ] {
                requests.push(ask(parameter, text));
                sent.push(format!("{view}?{parameter}={text}"));
            }
        }
        // to rows of others by what they are joined with
        for select in [
            "*,account(*)",
            "*,loyalty.identity(*)",
            "*,notice(*)",
            "count()",
            "account_id::text",
        ] {
            requests.push(ask("select", select));
            sent.push(format!("{view}?select={select}"));
        }
        for schema in ["loyalty", "pg_catalog", "public"] {
            let request = world.request(Method::GET, &session.access, &format!("/{view}"));
            requests.push(request.header("Accept-Profile", schema));
            sent.push(format!("{view} of {schema}"));
        }
        let mut answers = Vec::new();
        for some in in_parts(requests, 8) {
            answers.extend(at_once(some).await?);
        }
        for (answer, what) in answers.iter().zip(&sent) {
            // PostgREST answers a column or cast that there is none of by 42703 and the like
            ensure!(
                answer.status < 500,
                "{what}: {} {}",
                answer.status,
                answer.text
            );
            if what.contains(" of ") {
                ensure!(answer.status >= 400, "{what}: {}", answer.text);
            }
            let Ok(Value::Array(rows)) = answer.json() else {
                continue;
            };
            for row in rows {
                let of = row.get("account_id").filter(|id| id.is_number());
                ensure!(of.is_none_or(|id| *id == own), "{what}: {row}");
            }
        }
    }
    ensure_same(&before, &state(&world).await?)
}

/// POST, PATCH, PUT and DELETE on every view, as everybody: what can be written is an upload of
/// members by their administrator, and no more of it than it says.
#[tokio::test]
async fn nothing_is_written_through_views() -> Result<()> {
    let world = World::start("attack_upsert").await?;
    let session = logged_in(&world).await?;
    let before = state(&world).await?;
    let tokens = [
        ("nobody", String::new()),
        ("member", session.access.clone()),
        ("granter", world.granter("coin")?),
        ("administrator", world.admin("coin")?),
        ("operator", world.operator()?),
    ];
    for (view, columns) in views(&world).await? {
        let row: Map<String, Value> = columns
            .iter()
            .map(|column| (column.clone(), json!(1)))
            .collect();
        for (who, token) in &tokens {
            for method in [Method::POST, Method::PATCH, Method::PUT, Method::DELETE] {
                for prefer in [
                    "resolution=merge-duplicates",
                    "resolution=ignore-duplicates, return=representation",
                ] {
                    let filter = match method {
                        Method::POST => format!("?on_conflict={}", columns[0]),
                        _ => format!("?{}=eq.1", columns[0]),
                    };
                    let request = world
                        .request(method.clone(), token, &format!("/{view}{filter}"))
                        .header("Prefer", prefer)
                        .json(&row);
                    let answer = Answer::of(request).await?;
                    ensure!(
                        (400..500).contains(&answer.status),
                        "{who} {method} /{view} {prefer}: {} {}",
                        answer.status,
                        answer.text
                    );
                }
            }
        }
    }
    ensure_same(&before, &state(&world).await?)
}

/// Arguments that no function has, such as those of an insert: refused, not ignored.
#[tokio::test]
async fn no_function_takes_more_than_it_says() -> Result<()> {
    let world = World::start("attack_more").await?;
    let session = logged_in(&world).await?;
    let registration = world.begin(&world.ann).await?;
    let before = state(&world).await?;
    for function in functions(&world).await? {
        for (name, value) in [
            ("state", "active"),
            ("identity_id", "1"),
            ("is_admin", "true"),
            ("role", "loyalty_admin"),
        ] {
            if function.arguments.iter().any(|(known, _)| known == name) {
                continue;
            }
            let mut arguments = Map::new();
            for (other, kind) in &function.arguments[..function.needed] {
                arguments.insert(other.clone(), plausible(other, kind, &registration));
            }
            arguments.insert(name.to_owned(), value.into());
            let token = if function.is_open {
                ""
            } else {
                &session.access
            };
            let answer = world
                .rpc(token, &function.name, Value::Object(arguments))
                .await?;
            ensure!(
                (400..500).contains(&answer.status),
                "{} with {name}: {} {}",
                function.name,
                answer.status,
                answer.text
            );
        }
    }
    ensure_same(&before, &state(&world).await?)
}
