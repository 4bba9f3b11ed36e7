//! Members over HTTP: who sees and writes whom, files in three content types, exports.

use crate::world::World;
use anyhow::{Context as _, Result};
use loyalty_testkit::http::Answer;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

const ROSTER: &str = "member_no,name,first_service_on,team\r\n\
    ann,\"Lee, \"\"Ann\"\"\",2024-06-20,Sales\r\n\
    new,山田 花子,2024-02-30,\r\n\
    cid,Cid,,\r\n";

fn file(
    world: &World,
    token: &str,
    content_type: &str,
    body: impl Into<reqwest::Body>,
) -> RequestBuilder {
    let request = world.post(token, "import_members");
    request
        .header("Content-Type", content_type)
        .body(body.into())
}

/// `outcome n`, and `row member_no column`.
fn told(answer: &Answer) -> Result<Vec<String>> {
    let rows = answer.ok()?;
    let rows = rows.as_array().context("not an array")?;
    Ok(rows
        .iter()
        .filter(|row| row["row_count"] != 0)
        .map(|row| match row["row_no"].as_i64() {
            Some(number) => format!(
                "{number} {} {}",
                row["member_no"].as_str().unwrap_or_default(),
                row["column_name"].as_str().unwrap_or_default()
            ),
            None => format!(
                "{} {}",
                row["outcome"].as_str().unwrap_or_default(),
                row["row_count"]
            ),
        })
        .collect())
}

const TOLD: [&str; 3] = ["inserted 2", "refused 1", "3 new first_service_on"];

async fn records(world: &World) -> Result<i64> {
    let count = world
        .sql
        .query_one("select count(*) from loyalty.member", &[]);
    Ok(count.await?.get(0))
}

#[tokio::test]
async fn members_see_their_own_record_and_administrators_their_programs() -> Result<()> {
    let world = World::start("member_see").await?;
    world
        .sql
        .batch_execute(
            "select loyalty.set_member('coin', 'ann', name => 'Ann', phone => '03-1234-5678');
             select loyalty.set_member('coin', 'bob', name => 'Bob');
             select loyalty.set_member('mile', 'zoe', name => 'Zoe')",
        )
        .await?;
    let names = async |token: &str| {
        let answer = world.get(token, "/member?order=account_id").await?;
        answer.column("name")
    };
    assert_eq!(names(&world.member(world.ann)?).await?, ["Ann"]);
    assert_eq!(names(&world.member(world.zoe)?).await?, ["Zoe"]);
    assert_eq!(names(&world.admin()?).await?, ["Ann", "Bob"]);
    assert_eq!(names(&world.admin_of("mile")?).await?, ["Zoe"]);
    assert_eq!(names(&world.operator()?).await?, ["Ann", "Bob", "Zoe"]);
    let crossed = json!({"role": "loyalty_member", "program": "mile", "account_id": world.ann, "exp": 4102444800u64});
    let answer = world.get(&world.claims(crossed)?, "/member").await?;
    answer.refused(403, "LY010")?;
    world
        .get(&world.granter()?, "/member")
        .await?
        .refused(403, "LY010")?;
    world.get("", "/member").await?.refused(401, "LY009")?;
    let row = world
        .get(
            &world.admin()?,
            "/member?member_no=eq.ann&select=member_no,program,phone,language,facts",
        )
        .await?
        .row()?;
    assert_eq!(
        row,
        json!({"member_no": "ann", "program": "coin", "phone": "+81312345678", "language": "ja", "facts": {}})
    );
    // nothing is written past the functions
    for method in [Method::POST, Method::PATCH, Method::DELETE] {
        let request = world.request(method, &world.admin()?, "/member?member_no=eq.ann");
        let answer = Answer::of(request.json(&json!({"name": "Eve"}))).await?;
        answer.refused(403, "LY010")?;
    }
    Ok(())
}

#[tokio::test]
async fn an_administrator_writes_a_member() -> Result<()> {
    let world = World::start("member_write").await?;
    let admin = world.admin()?;
    let arguments = json!({"member_no": "dee", "name": "Dee", "birth_date": "1990-04-01",
        "email": "Dee@Example.com", "facts": {"first_service_on": "2024/06/20"}});
    let row = world.rpc(&admin, "set_member", arguments).await?.row()?;
    assert_eq!(row["email"], "Dee@example.com");
    assert_eq!(row["facts"], json!({"first_service_on": "2024-06-20"}));
    let emptied =
        json!({"member_no": "dee", "birth_date": "", "facts": {"first_service_on": null}});
    let row = world.rpc(&admin, "set_member", emptied).await?.row()?;
    assert_eq!(
        (&row["name"], &row["birth_date"], &row["facts"]),
        (&json!("Dee"), &json!(null), &json!({}))
    );
    let before = records(&world).await?;
    for (arguments, code) in [
        (
            json!({"member_no": "dee", "birth_date": "1990-02-30"}),
            "22023",
        ),
        (json!({"member_no": "dee", "name": "=1+1"}), "22023"),
        (json!({"member_no": "eve", "phone": "1"}), "22023"),
        (json!({"member_no": null}), "22004"),
        (json!({"name": "Eve"}), "22023"),
        (json!({"member_no": "eve", "nickname": "E"}), "22023"),
    ] {
        let answer = world.rpc(&admin, "set_member", arguments).await?;
        answer.refused(400, code)?;
    }
    let arguments = json!({"member_no": "eve", "program": "mile"});
    let answer = world.rpc(&admin, "set_member", arguments.clone()).await?;
    answer.refused(403, "LY010")?;
    for token in [world.member(world.ann)?, world.granter()?] {
        let answer = world
            .rpc(&token, "set_member", json!({"member_no": "ann"}))
            .await?;
        answer.refused(403, "LY010")?;
    }
    world
        .rpc("", "set_member", json!({"member_no": "ann"}))
        .await?
        .refused(401, "LY009")?;
    assert_eq!(records(&world).await?, before);
    let operator = world.operator()?;
    world
        .rpc(&operator, "set_member", json!({"member_no": "eve"}))
        .await?
        .refused(400, "22004")?;
    let row = world.rpc(&operator, "set_member", arguments).await?.row()?;
    assert_eq!(row["program"], "mile");
    Ok(())
}

#[tokio::test]
async fn a_file_is_loaded_as_json_text_or_bytes() -> Result<()> {
    let world = World::start("member_file").await?;
    let admin = world.admin()?;
    let arguments = json!({"csv": ROSTER, "all_or_nothing": false, "dry_run": true});
    let answer = world.rpc(&admin, "import_members", arguments).await?;
    assert_eq!(told(&answer)?, TOLD);
    let request = file(&world, &admin, "text/plain", ROSTER).header("Dry-Run", "true");
    assert_eq!(told(&Answer::of(request).await?)?, TOLD);
    let request = file(&world, &admin, "text/plain", ROSTER).header("All-Or-Nothing", "true");
    let none = ["refused 1", "held back 2", "3 new first_service_on"];
    assert_eq!(told(&Answer::of(request).await?)?, none);
    assert_eq!(records(&world).await?, 0);

    let answer = Answer::of(file(&world, &admin, "text/plain; charset=utf-8", ROSTER)).await?;
    assert_eq!(told(&answer)?, TOLD);
    let again = ["unchanged 2", "refused 1", "3 new first_service_on"];
    let sjis: Vec<u8> = world
        .sql
        .query_one("select convert_to($1, 'SJIS')", &[&ROSTER])
        .await?
        .get(0);
    let octets = "application/octet-stream; charset=Shift_JIS";
    let answer = Answer::of(file(&world, &admin, octets, sjis.clone())).await?;
    assert_eq!(told(&answer)?, again);
    let answer = Answer::of(file(&world, &admin, "application/octet-stream", ROSTER)).await?;
    assert_eq!(told(&answer)?, again);
    let names = world.get(&admin, "/member?order=member_no").await?;
    assert_eq!(names.column("name")?, ["Lee, \"Ann\"", "Cid"]);

    // the problems as a file
    let request = file(&world, &admin, "text/plain", ROSTER).header("Accept", "text/csv");
    let answer = Answer::of(request).await?;
    assert!(
        answer.text.contains("problem,,3,new,first_service_on,"),
        "{}",
        answer.text
    );

    // bytes that are not what they are said to be: told where, and nothing written
    let request = file(&world, &admin, "application/octet-stream", sjis);
    let refused = Answer::of(request).await?.refused(400, "22023")?;
    assert!(
        refused["details"]
            .as_str()
            .is_some_and(|text| text.starts_with("line 3, character 5 ")),
        "{refused}"
    );
    let request = file(&world, &admin, "text/plain", "name\nAnn\n");
    let refused = Answer::of(request).await?.refused(400, "22023")?;
    assert!(
        refused["details"]
            .as_str()
            .is_some_and(|text| text.contains("member_no"))
    );
    let request = file(&world, &admin, "text/plain", ROSTER).header("Dry-Run", "perhaps");
    Answer::of(request).await?.refused(400, "22023")?;
    let answer = world
        .rpc(&admin, "import_members", json!({"file": ROSTER}))
        .await?;
    answer.refused(400, "22023")?;
    let huge = "member_no\n".to_owned() + &"M-1234567\n".repeat(6_800_000);
    let refused = Answer::of(file(&world, &admin, "text/plain", huge)).await?;
    refused.refused(400, "54000")?;
    assert_eq!(records(&world).await?, 2);
    Ok(())
}

#[tokio::test]
async fn files_are_loaded_by_administrators_into_their_program_only() -> Result<()> {
    let world = World::start("member_who").await?;
    for token in [world.member(world.ann)?, world.granter()?] {
        for content_type in ["text/plain", "application/octet-stream"] {
            let answer = Answer::of(file(&world, &token, content_type, ROSTER)).await?;
            answer.refused(403, "LY010")?;
        }
        let answer = world
            .rpc(
                &token,
                "import_members",
                json!({"csv": ROSTER, "all_or_nothing": false}),
            )
            .await?;
        answer.refused(403, "LY010")?;
    }
    Answer::of(file(&world, "", "text/plain", ROSTER))
        .await?
        .refused(401, "LY009")?;
    let request = file(&world, &world.admin()?, "text/plain", ROSTER).header("Program", "mile");
    Answer::of(request).await?.refused(403, "LY010")?;
    let answer = Answer::of(file(&world, &world.operator()?, "text/plain", ROSTER)).await?;
    answer.refused(400, "22004")?;
    assert_eq!(records(&world).await?, 0);
    let request = file(&world, &world.operator()?, "text/plain", ROSTER).header("Program", "mile");
    assert_eq!(told(&Answer::of(request).await?)?, TOLD);
    let programs = world.get(&world.operator()?, "/member").await?;
    assert_eq!(programs.column("program")?, ["mile", "mile"]);
    Ok(())
}

#[tokio::test]
async fn text_csv_is_posted_to_member_upload() -> Result<()> {
    let world = World::start("member_csv").await?;
    let post = |token: &str, body: &str| {
        let request = world.request(Method::POST, token, "/member_upload");
        Answer::of(
            request
                .header("Content-Type", "text/csv")
                .body(body.to_owned()),
        )
    };
    let admin = world.admin()?;
    let csv = "member_no,name,first_service_on\nann,\"Lee, Ann\",2024/6/20\ncid,Cid,\n";
    for _ in 0..2 {
        let answer = post(&admin, csv).await?;
        assert_eq!((answer.status, answer.text.as_str()), (201, ""));
        assert_eq!(records(&world).await?, 2);
    }
    let row = world.get(&admin, "/member?member_no=eq.ann").await?.row()?;
    assert_eq!(
        (&row["name"], &row["facts"]),
        (
            &json!("Lee, Ann"),
            &json!({"first_service_on": "2024-06-20"})
        )
    );
    let refused = post(&admin, "member_no,name\nann,Ann\ndee,=1+1\n")
        .await?
        .refused(400, "22023")?;
    assert!(
        refused["details"]
            .as_str()
            .is_some_and(|text| text.starts_with("Row 3, name ")),
        "{refused}"
    );
    post(&admin, "program,member_no\nmile,dee\n")
        .await?
        .refused(403, "LY010")?;
    for token in [world.member(world.ann)?, world.granter()?] {
        post(&token, csv).await?.refused(403, "LY010")?;
    }
    post("", csv).await?.refused(401, "LY009")?;
    assert_eq!(records(&world).await?, 2);
    // it is only written to
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        let answer = Answer::of(
            world
                .request(method, &admin, "/member_upload")
                .json(&json!({"name": "x"})),
        )
        .await?;
        answer.refused(403, "LY010")?;
    }
    Ok(())
}

/// What members or applications wrote comes out of an export as text, not as a formula.
#[tokio::test]
async fn csv_exports_hold_no_formula() -> Result<()> {
    let world = World::start("member_export").await?;
    let admin = world.admin()?;
    world
        .sql
        .execute(
            "select loyalty.set_member('coin', 'ann', name => 'Ann', phone => '+81 3 1234 5678',
                      attributes => '{\"note\": \"=1+1\"}')",
            &[],
        )
        .await?;
    for reason in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "fine"] {
        world
            .sql
            .execute(
                "select loyalty.spend_fifo($1, 1, reason => $2)",
                &[&world.ann, &reason],
            )
            .await?;
    }
    for path in ["/member", "/balance", "/statement", "/lot"] {
        let request = world
            .request(Method::GET, &admin, path)
            .header("Accept", "text/csv");
        let answer = Answer::of(request).await?;
        assert_eq!(answer.status, 200, "{path}");
        let text = answer.text;
        assert!(text.lines().count() > 1, "{path}: {text}");
        for cell in text.lines().flat_map(|line| line.split(',')) {
            let cell = cell.trim_start_matches('"');
            let number = cell
                .trim_matches(['+', '-'])
                .chars()
                .all(|c| c.is_ascii_digit());
            assert!(
                number || !cell.starts_with(['=', '+', '-', '@', '\t', '\r']),
                "{path}: {cell:?} of {text}"
            );
        }
    }
    // as JSON they are what they were
    let answer = world
        .get(&admin, "/statement?kind=eq.spend&order=entry")
        .await?;
    assert_eq!(
        answer.column("reason")?,
        ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "fine"]
    );
    Ok(())
}
