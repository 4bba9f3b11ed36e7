//! B6: a company of hundreds behind one address can work, and guessing stays hard: days at one
//! address by the test clock, and how many of ten thousand guesses are looked at.

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;

use crate::world::{PASSWORD, World};

const COMPANY: &str = "203.0.113.7";
/// `PASSWORD` by Argon2id at its least cost, so that a day takes seconds.
const CHEAP: &str =
    "$argon2id$v=19$m=8,t=1,p=1$wFAkMahOWabXbvLx+X1ipw$HC6hQMAmN11h1qed2A7LqESduC9TKHVyt2KzhpJlmks";

impl World {
    /// So many more members of program `coin` who log in as `PREFIX1@example.com` and on.
    pub async fn enrol_many(&self, prefix: &str, number: i32) -> Result<()> {
        let enrol = "
            with person as (
                insert into loyalty.identity (login_id, state, created_at, changed_at)
                select $1::text || n || '@example.com', 'active', loyalty.now(), loyalty.now()
                  from generate_series(1, $2::integer) n
                returning identity_id, login_id
            ), credential as (
                insert into loyalty_private.credential (identity_id, password_hash, changed_at)
                select p.identity_id, $3, loyalty.now() from person p
            )
            insert into loyalty.identity_link (identity_id, account_id, program_id, linked_at)
            select p.identity_id, loyalty.open_account('coin', p.login_id), loyalty.program_id('coin'), loyalty.now()
              from person p";
        let enrolled = self.sql.execute(enrol, &[&prefix, &number, &CHEAP]).await?;
        ensure!(i64::try_from(enrolled)? == i64::from(number));
        Ok(())
    }

    async fn at_company(&self, login_id: &str, password: &str) -> Result<u16> {
        let arguments = json!({ "login_id": login_id, "password": password, "program": "coin" });
        let answer = self.rpc_from(COMPANY, "", "log_in", arguments).await?;
        Ok(answer.status)
    }

    /// What is counted of clients: `address` or `sender`.
    pub async fn counted(&self, scope: &str) -> Result<i64> {
        let query = "select coalesce(sum(failures), 0)::bigint from loyalty_private.throttle where scope = $1";
        Ok(self.sql.query_one(query, &[&scope]).await?.get(0))
    }
}

/// Sixty people mistype once and then do not: one after the other, and all before anybody is right.
#[tokio::test]
async fn b6_sixty_people_mistype_once_and_come_in() -> Result<()> {
    let world = World::start("company").await?;
    world.enrol_many("p", 60).await?;
    for number in 1..=60 {
        let login_id = format!("p{number}@example.com");
        assert_eq!(world.at_company(&login_id, "coin2026abd").await?, 401);
        assert_eq!(
            world.at_company(&login_id, PASSWORD).await?,
            200,
            "{number}"
        );
    }
    assert_eq!(world.counted("address").await?, 0);
    // the count is at its limit when the first one is right
    for number in 1..=60 {
        let wrong = world
            .at_company(&format!("p{number}@example.com"), "coin2026abd")
            .await?;
        assert_eq!(wrong, if number <= 50 { 401 } else { 429 }, "{number}");
    }
    for number in 1..=60 {
        let right = world
            .at_company(&format!("p{number}@example.com"), PASSWORD)
            .await?;
        assert_eq!(right, 200, "{number}");
    }
    assert_eq!(world.counted("address").await?, 0);
    Ok(())
}

/// A workday of 541 logins, one a minute, of which every third is mistyped first.
#[tokio::test]
async fn b6_a_workday_with_an_error_every_three_minutes_refuses_no_right_password() -> Result<()> {
    let world = World::start("workday").await?;
    world.enrol_many("w", 200).await?;
    let day = "
        select count(*) filter (where outcome = 'right'), count(*) filter (where outcome = 'wrong'),
               count(*) filter (where outcome = 'refused')
          from workday() w (outcome)";
    let workday = "
        create function workday() returns setof text
            language plpgsql set loyalty.clock = '2026-06-16 09:00+09'
            set request.headers = '{\"x-forwarded-for\": \"203.0.113.7\"}'
        as $$
        declare
            login_id text;
            proof record;
        begin
            for minute in 0 .. 540 loop
                perform set_config('loyalty.clock', (timestamptz '2026-06-16 09:00+09' + minute * interval '1 minute')::text, true);
                login_id := format('w%s@example.com', minute % 200 + 1);
                if minute % 3 = 0 then
                    proof := loyalty_private.prove_password(login_id, 'coin2026abd');
                    return next case proof.refusal ->> 'code' when 'LY009' then 'wrong' else 'refused' end;
                end if;
                proof := loyalty_private.prove_password(login_id, 'coin2026abc');
                return next case when proof.refusal is null then 'right' else 'refused' end;
            end loop;
        end
        $$";
    world.sql.batch_execute(workday).await?;
    let row = world.sql.query_one(day, &[]).await?;
    let counts: [i64; 3] = [row.get(0), row.get(1), row.get(2)];
    assert_eq!(counts, [541, 181, 0]);
    Ok(())
}

/// Guesses that are looked at, of ten thousand in a day, are as many as without what lets a company
/// work: `(addresses, logins)` one and one, a thousand and one, one and ten thousand, a thousand
/// and ten thousand, one and sixty that are tried again and again.
#[tokio::test]
async fn b6_ten_thousand_guesses_get_no_further() -> Result<()> {
    let world = World::start("company_guess").await?;
    let guess = "
        create procedure guess(addresses integer, logins integer, guesses integer, inout looked_at integer)
            language plpgsql
        as $$
        declare
            login_id text;
        begin
            perform set_config('search_path', 'pg_catalog', false);
            looked_at := 0;
            for number in 0 .. guesses - 1 loop
                perform set_config('loyalty.clock',
                    (timestamptz '2026-06-16 00:00+09' + number * (interval '1 day' / guesses))::text, false);
                perform set_config('request.headers',
                    format('{\"x-forwarded-for\": \"10.0.%s.%s\"}', number % addresses / 250, number % addresses % 250), false);
                login_id := format('g%s@example.com', number % logins);
                if loyalty_private.begin_attempt('password', login_id) is null then
                    looked_at := looked_at + 1;
                    perform loyalty_private.attempt_failed('password', login_id);
                end if;
                if number % 100 = 0 then
                    commit;
                end if;
            end loop;
        end
        $$";
    world.sql.batch_execute(guess).await?;
    let mut looked_at = Vec::new();
    for (addresses, logins) in [(1, 1), (1000, 1), (1, 10_000), (1000, 10_000), (1, 60)] {
        world.forgive().await?;
        let call = format!("call public.guess({addresses}, {logins}, 10000, null)");
        let answer = world.sql.simple_query(&call).await?;
        let row = answer.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let number: u32 = row.context("no answer")?.parse()?;
        looked_at.push(number);
    }
    // a login ID is locked by the tenth; an address comes to one an hour; of a thousand each makes ten
    assert_eq!(looked_at, BEFORE);
    Ok(())
}

/// What they were when each failure counted for the address for ever.
const BEFORE: [u32; 5] = [10, 10, 78, 10_000, 78];

/// Guesses at once from one address are counted one after the other before the limit is reached.
#[tokio::test]
async fn b6_guesses_at_once_from_one_address_slip_past_no_limit() -> Result<()> {
    let world = World::start("company_race").await?;
    let statuses = try_join_all((0..80).map(async |number| {
        world
            .at_company(&format!("guess{number}@example.com"), "coin2026abd")
            .await
    }))
    .await?;
    let looked_at = statuses.iter().filter(|status| **status == 401).count();
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert_eq!((looked_at, refused), (50, 30));
    Ok(())
}

/// A right password takes back what that login added, there and since the count began: nothing of
/// what others did, nor of other places, nor of what was forgotten anyway.
#[tokio::test]
async fn b6_a_success_explains_its_own_failures_only() -> Result<()> {
    let mut world = World::start("company_explain").await?;
    world.enrol_many("p", 2).await?;
    let log_in = async |world: &World, from: &str, login_id: &str, password: &str| {
        let arguments = json!({ "login_id": login_id, "password": password, "program": "coin" });
        Ok::<_, anyhow::Error>(world.rpc_from(from, "", "log_in", arguments).await?.status)
    };
    let (one, two) = ("p1@example.com", "p2@example.com");
    for login_id in [one, two, "nobody@example.com", one] {
        assert_eq!(log_in(&world, COMPANY, login_id, "coin2026abd").await?, 401);
    }
    // at another place it explains nothing
    assert_eq!(log_in(&world, "198.51.100.1", one, PASSWORD).await?, 200);
    assert_eq!(world.counted("address").await?, 4);
    assert_eq!(log_in(&world, COMPANY, one, PASSWORD).await?, 200);
    assert_eq!(world.counted("address").await?, 2);
    // once
    assert_eq!(log_in(&world, COMPANY, one, PASSWORD).await?, 200);
    assert_eq!(world.counted("address").await?, 2);
    // a day later the count begins again, and what came before is no longer in it
    world.pass("25 hours").await?;
    for login_id in ["nobody@example.com", "nobody2@example.com"] {
        assert_eq!(log_in(&world, COMPANY, login_id, "coin2026abd").await?, 401);
    }
    assert_eq!(world.counted("address").await?, 2);
    assert_eq!(log_in(&world, COMPANY, two, PASSWORD).await?, 200);
    assert_eq!(world.counted("address").await?, 2);
    Ok(())
}

/// Keys, codes and details are explained alike.
#[tokio::test]
async fn b6_right_keys_explain_wrong_ones() -> Result<()> {
    let world = World::start("company_keys").await?;
    let keys = async |key_2: &str| {
        let arguments = json!({ "organisation_id": "ACME", "key_1": "KH1", "key_2": key_2 });
        world
            .rpc_from(COMPANY, "", "begin_registration", arguments)
            .await
    };
    for _ in 0..2 {
        keys("guess").await?.refused(401, "LY009")?;
    }
    assert_eq!(world.counted("address").await?, 2);
    keys("secret-H1").await?.ok()?;
    assert_eq!(world.counted("address").await?, 0);
    Ok(())
}

/// Asking for mails is counted apart: a hundred people who forgot their passwords keep nobody from
/// logging in, and a block for guesses keeps nobody from the way back in.
#[tokio::test]
async fn b6_password_resets_do_not_fill_the_count() -> Result<()> {
    let world = World::start("company_reset").await?;
    world.enrol_many("p", 3).await?;
    let forgot = async |login_id: String| {
        let arguments = json!({ "login_id": login_id, "program": "coin" });
        world
            .rpc_from(COMPANY, "", "request_password_reset", arguments)
            .await
    };
    let answers =
        try_join_all((0..100).map(|number| forgot(format!("forgot{number}@example.com")))).await?;
    for answer in &answers {
        answer.ok()?;
    }
    assert_eq!(world.counted("address").await?, 0);
    assert_eq!(world.at_company("p1@example.com", PASSWORD).await?, 200);
    ensure!(forgot("p1@example.com".to_owned()).await?.throttled()? <= 60);
    world.forgive().await?;
    for number in 0..50 {
        let nobody = format!("guess{number}@example.com");
        assert_eq!(world.at_company(&nobody, "coin2026abd").await?, 401);
    }
    assert_eq!(world.at_company("p2@example.com", PASSWORD).await?, 429);
    forgot("p2@example.com".to_owned()).await?.ok()?;
    Ok(())
}
