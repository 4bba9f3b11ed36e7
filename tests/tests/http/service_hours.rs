//! C10: a program's HTTP API is closed for hours of its day, and tells when it opens.

use crate::world::World;
use anyhow::{Result, ensure};
use loyalty_testkit::http::Answer;
use reqwest::Method;
use serde_json::json;

async fn hours(
    world: &World,
    program: &str,
    from: Option<&str>,
    until: Option<&str>,
) -> Result<()> {
    world
        .sql
        .execute(
            "select loyalty.set_service_hours($1, $2::text::time, $3::text::time)",
            &[&program, &from, &until],
        )
        .await?;
    Ok(())
}

async fn closed_for(world: &World, token: &str) -> Result<String> {
    let answer = world.get(token, "/balance").await?;
    answer.refused(503, "LY007")?;
    seconds_told(&answer)
}

/// What the program says. PostgREST 12 puts a 0 of its own before it in every 503: it is
/// there again at once.
fn seconds_told(answer: &Answer) -> Result<String> {
    let values = answer.headers.get_all("Retry-After").iter();
    let values: Vec<&str> = values
        .map(|value| value.to_str())
        .collect::<Result<_, _>>()?;
    let own = values.iter().copied().filter(|value| *value != "0");
    let own: Vec<&str> = own.collect();
    ensure!(own.len() == 1, "Retry-After: {values:?}");
    let details = &answer.error(503, "LY007")?["details"];
    let told = format!("in {} seconds.", own[0]);
    ensure!(
        details.as_str().is_some_and(|text| text.ends_with(&told)),
        "{details}"
    );
    Ok(own[0].to_owned())
}

#[tokio::test]
async fn the_site_is_closed_from_two_to_five() -> Result<()> {
    let mut world = World::start("hours").await?;
    hours(&world, "coin", Some("02:00"), Some("05:00")).await?;
    for (clock, retry_after) in [
        ("2026-06-16 01:59:59+09", None),
        ("2026-06-16 02:00:00+09", Some("10800")),
        ("2026-06-16 03:30:30+09", Some("5370")),
        ("2026-06-16 04:59:59+09", Some("1")),
        ("2026-06-16 05:00:00+09", None),
    ] {
        world.set_clock(clock).await?;
        let tokens = [world.member(world.ann)?, world.admin()?];
        for token in &tokens {
            match retry_after {
                Some(seconds) => assert_eq!(closed_for(&world, token).await?, seconds, "{clock}"),
                None => {
                    world.get(token, "/balance").await?.ok()?;
                }
            }
        }
        // functions as well as views, for every role of the program
        let spend = json!({"points": 1, "account_id": world.ann});
        let grant = json!({"points": 1, "account_id": world.ann});
        for (token, function, arguments) in [
            (world.admin()?, "spend", spend),
            (world.granter()?, "grant", grant),
        ] {
            let answer = world.rpc(&token, function, arguments).await?;
            match retry_after {
                Some(seconds) => {
                    answer.refused(503, "LY007")?;
                    assert_eq!(seconds_told(&answer)?, seconds);
                }
                None => assert_eq!(answer.status, 200, "{clock} {}", answer.text),
            }
        }
        // another program, an operator, the page about the API and SQL go on
        world
            .get(&world.admin_of("mile")?, "/balance")
            .await?
            .ok()?;
        world.get(&world.operator()?, "/balance").await?.ok()?;
        let page = Answer::of(world.request(Method::GET, "", "/")).await?;
        assert_eq!(page.status, 200);
        world.get("", "/balance").await?.refused(401, "LY009")?;
        world
            .sql
            .execute("select loyalty.grant($1, 1)", &[&world.ann])
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn hours_go_across_midnight_and_can_be_taken_back() -> Result<()> {
    let mut world = World::start("hours_midnight").await?;
    hours(&world, "coin", Some("23:30"), Some("00:15")).await?;
    let token = world.admin()?;
    for (clock, retry_after) in [
        ("2026-06-16 23:29:59+09", None),
        ("2026-06-16 23:30:00+09", Some("2700")),
        ("2026-06-17 00:00:00+09", Some("900")),
        ("2026-06-17 00:15:00+09", None),
    ] {
        world.set_clock(clock).await?;
        match retry_after {
            Some(seconds) => assert_eq!(closed_for(&world, &token).await?, seconds, "{clock}"),
            None => {
                world.get(&token, "/balance").await?.ok()?;
            }
        }
    }
    world.set_clock("2026-06-16 23:30:00+09").await?;
    closed_for(&world, &token).await?;
    hours(&world, "coin", None, None).await?;
    world.get(&token, "/balance").await?.ok()?;
    Ok(())
}

/// Where the clocks skip or repeat an hour, what they show decides.
#[tokio::test]
async fn hours_follow_the_clocks_of_the_zone() -> Result<()> {
    let mut world = World::start("hours_dst").await?;
    world
        .sql
        .execute(
            "update loyalty.program set time_zone = 'America/New_York' where code = 'coin'",
            &[],
        )
        .await?;
    let token = world.admin()?;
    // (from, until, instant, seconds till it opens): on 2027-03-14 02:00 EST is 03:00 EDT, on
    // 2026-11-01 02:00 EDT is 01:00 EST
    for (from, until, clock, retry_after) in [
        ("02:00", "05:00", "2027-03-14 06:59:59+00", None),
        ("02:00", "05:00", "2027-03-14 07:00:00+00", Some("7200")),
        ("02:00", "05:00", "2027-03-14 08:59:59+00", Some("1")),
        ("02:00", "05:00", "2027-03-14 09:00:00+00", None),
        // opens within the hour that is skipped: when the clocks show three
        ("01:00", "02:30", "2027-03-14 06:30:00+00", Some("1800")),
        ("01:00", "02:30", "2027-03-14 07:00:00+00", None),
        // closes within it
        ("02:30", "04:00", "2027-03-14 06:59:59+00", None),
        ("02:30", "04:00", "2027-03-14 07:00:00+00", Some("3600")),
        // an hour shown twice is closed twice
        ("01:00", "02:00", "2026-11-01 05:00:00+00", Some("7200")),
        ("01:00", "02:00", "2026-11-01 06:59:59+00", Some("1")),
        ("01:00", "02:00", "2026-11-01 07:00:00+00", None),
        ("01:30", "02:00", "2026-11-01 05:45:00+00", Some("900")),
        ("01:30", "02:00", "2026-11-01 06:00:00+00", None),
        ("01:30", "02:00", "2026-11-01 06:30:00+00", Some("1800")),
        ("02:00", "05:00", "2026-11-01 06:59:59+00", None),
        ("02:00", "05:00", "2026-11-01 07:00:00+00", Some("10800")),
    ] {
        hours(&world, "coin", Some(from), Some(until)).await?;
        world.set_clock(clock).await?;
        match retry_after {
            Some(seconds) => {
                assert_eq!(closed_for(&world, &token).await?, seconds, "{from} {clock}");
            }
            None => {
                let answer = world.get(&token, "/balance").await?;
                assert_eq!(answer.status, 200, "{from} {clock} {}", answer.text);
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn hours_that_cannot_be_are_refused() -> Result<()> {
    let world = World::start("hours_refused").await?;
    for (program, from, until, code) in [
        ("none", Some("02:00"), Some("05:00"), "LY002"),
        ("coin", Some("02:00"), None, "22004"),
        ("coin", None, Some("05:00"), "22004"),
        ("coin", Some("02:00"), Some("02:00"), "22023"),
        ("coin", Some("02:00"), Some("24:00"), "22023"),
        ("coin", Some("02:00:30"), Some("05:00"), "22023"),
    ] {
        let error = hours(&world, program, from, until)
            .await
            .err()
            .and_then(|error| error.downcast::<tokio_postgres::Error>().ok())
            .and_then(|error| error.code().map(|code| code.code().to_owned()));
        assert_eq!(error.as_deref(), Some(code), "{from:?} {until:?}");
    }
    let left: i64 = world
        .sql
        .query_one("select count(*) from loyalty.service_hours", &[])
        .await?
        .get(0);
    assert_eq!(left, 0);
    Ok(())
}
