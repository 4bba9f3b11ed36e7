//! What it costs to know who asks: a login, and the token and row rights of a request.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::Plan;
use super::load::{self, milliseconds, value};
use super::progress::Progress;
use super::report::{Report, Target, Unit, median};
use super::scratch::Scratch;
use loyalty_testkit::authenticator_uri;
use loyalty_testkit::postgrest::{Postgrest, Settings, pre_request};
use loyalty_testkit::token::{self, Claims, Role};
use loyalty_testkit::{http, os};

const DATABASE: &str = "bench_access";
const PROGRAM: &str = "coin";
const MEMBERS: i64 = 10_000;
const PASSWORD: &str = "abcde12345";
/// Calls of each kind a round, one of each in turn.
const LOGINS: usize = 40;
const REQUESTS: usize = 1_000;
const REQUESTS_QUICK: usize = 50;

/// Sees all rows, as if there were no row security, and is not asked before its requests.
const PLAIN_ROLE: &str = "bench_plain";

const LOG_IN: &str = "select loyalty.log_in($1, $2, 'coin')::text";
const BARE: &str = "select loyalty_private.check_password($1, $2)::text";

pub async fn measure(scratch: &Scratch, plan: &Plan, report: &mut Report) -> Result<()> {
    let client = scratch.create_database(DATABASE).await?;
    let first = load(&client).await?;
    logins(&client, plan, report).await?;
    requests(scratch, &client, first, plan, report).await?;
    drop(client);
    scratch.drop_database(DATABASE).await
}

/// A program with members; the first of them logs in.
async fn load(client: &Client) -> Result<i64> {
    let ids = load::program(client, PROGRAM, MEMBERS).await?;
    client
        .execute(
            "select loyalty.set_access_policy($1, organisation_id => 'BENCH')",
            &[&PROGRAM],
        )
        .await?;
    client
        .batch_execute(&format!(
            "with person as (
                 insert into loyalty.identity (login_id, state, created_at, changed_at)
                 values ('member@example.com', 'active', loyalty.now(), loyalty.now())
                 returning identity_id),
             known as (
                 insert into loyalty_private.credential (identity_id, password_hash, changed_at)
                 select identity_id, loyalty_private.hash_password('{PASSWORD}'), loyalty.now() from person)
             insert into loyalty.identity_link (identity_id, account_id, program_id, linked_at)
             select identity_id, {}, loyalty.program_id('{PROGRAM}'), loyalty.now() from person",
            ids.first
        ))
        .await?;
    client.batch_execute("vacuum analyze").await?;
    Ok(ids.first)
}

async fn timed(client: &Client, sql: &str, arguments: [&str; 2]) -> Result<(f64, String)> {
    let start = Instant::now();
    let row = client
        .query_one(sql, &[&arguments[0], &arguments[1]])
        .await?;
    Ok((milliseconds(start), row.get(0)))
}

/// A login against the password's hash alone, and a known login ID against an unknown one.
async fn logins(client: &Client, plan: &Plan, report: &mut Report) -> Result<()> {
    let hash = "select password_hash from loyalty_private.credential";
    let hash: String = value(client, hash, &[]).await?;
    let progress = Progress::phase("logging in", u64::from(plan.rounds))?;
    let [mut login, mut bare, mut known, mut unknown] = [const { Vec::new() }; 4];
    for _ in 0..plan.rounds {
        let mut times = [const { Vec::new() }; 4];
        for turn in 0..LOGINS {
            // wrong ones would be blocked after a few
            client
                .execute("delete from loyalty_private.throttle", &[])
                .await?;
            let (time, answer) = timed(client, LOG_IN, ["member@example.com", PASSWORD]).await?;
            if !answer.contains("access_token") {
                bail!("the login failed: {answer}");
            }
            times[0].push(time);
            times[1].push(timed(client, BARE, [PASSWORD, &hash]).await?.0);
            // in either order: the first of them writes what the second finds
            let mut answers = [String::new(), String::new()];
            for place in [turn % 2, 1 - turn % 2] {
                let login_id = ["member@example.com", "nobody@example.com"][place];
                let (time, answer) = timed(client, LOG_IN, [login_id, "zyxwv98765"]).await?;
                times[2 + place].push(time);
                answers[place] = answer;
            }
            let [wrong, nobody] = answers;
            if wrong != nobody || !wrong.contains("LY009") {
                bail!("different answers: {wrong} and {nobody}");
            }
        }
        for (medians, times) in [&mut login, &mut bare, &mut known, &mut unknown]
            .into_iter()
            .zip(&times)
        {
            medians.push(median(times));
        }
        progress.advance(1);
    }
    progress.end();
    for (name, compared_with, measured, base) in [
        ("login", "Argon2id alone", login, bare),
        ("wrong password", "unknown login ID", known, unknown),
    ] {
        report.line(
            name,
            compared_with,
            Unit::Milliseconds,
            measured,
            base,
            None,
        );
    }
    Ok(())
}

/// A member's balance over HTTP, against the same without row security and without looking
/// at the session.
async fn requests(
    scratch: &Scratch,
    client: &Client,
    account_id: i64,
    plan: &Plan,
    report: &mut Report,
) -> Result<()> {
    client
        .batch_execute(&format!(
            "create role {PLAIN_ROLE} bypassrls;
             grant loyalty_member, loyalty_operator to {PLAIN_ROLE};
             grant {PLAIN_ROLE} to loyalty_authenticator;
             alter role loyalty_authenticator login"
        ))
        .await?;
    let secret = scratch.jwt_secret.as_str();
    let session = "select loyalty.start_session(l.identity_id, l.program_id, 'loyalty_member',
                          l.account_id, false) ->> 'access_token'
                     from loyalty.identity_link l";
    let session: String = value(client, session, &[]).await?;
    let ends = Claims::new(Role::Member, 3_600)?.exp;
    // as long as the other token: its signature is checked as well
    let mut claims: Value = json!({"role": PLAIN_ROLE, "program": PROGRAM, "account_id": account_id, "exp": ends,
                                   "iss": "loyalty", "sub": "identity:1", "sid": 1});
    claims["iat"] = json!(ends - 3_600);
    let plain = token::sign(&claims, secret)?;
    let guarded_api = Api::start(scratch, "guarded", pre_request(client).await?)?;
    let plain_api = Api::start(scratch, "plain", None)?;
    let path = format!("/balance?account_id=eq.{account_id}");
    let count = if plan.quick { REQUESTS_QUICK } else { REQUESTS };
    let progress = Progress::phase("asking for a balance over HTTP", u64::from(plan.rounds))?;
    let (mut measured, mut base) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..count {
            without.push(plain_api.get(&path, &plain).await?);
            with.push(guarded_api.get(&path, &session).await?);
        }
        measured.push(median(&with));
        base.push(median(&without));
        progress.advance(1);
    }
    progress.end();
    let (name, that) = ("balance over HTTP", "no row security");
    let target = Some(Target::AtMost(1.15));
    report.line(name, that, Unit::Milliseconds, measured, base, target);
    report.notes.push(
        "Balance over HTTP: through PostgREST with a session's token, the session and the rows checked; \
         against a role that sees all rows, with no check before the request."
            .to_owned(),
    );
    Ok(())
}

/// PostgREST, ended with the value.
struct Api {
    postgrest: Postgrest,
    client: reqwest::Client,
    url: String,
}

impl Api {
    fn start(scratch: &Scratch, name: &str, pre_request: Option<String>) -> Result<Self> {
        let cluster = &scratch.cluster;
        let settings = Settings {
            db_uri: authenticator_uri(&cluster.socket_dir, cluster.port, DATABASE, None),
            jwt_secret: scratch.jwt_secret.clone(),
            port: os::any_free_port()?,
            admin_port: os::any_free_port()?,
            pool: 1,
            pre_request,
            log_level: "error",
        };
        let postgrest = Postgrest::at(&scratch.postgrest, &scratch.dir, name, &scratch.owner);
        let api = Self {
            postgrest,
            client: http::client().timeout(Duration::from_secs(10)).build()?,
            url: format!("http://127.0.0.1:{}", settings.port),
        };
        api.postgrest.start(&settings)?;
        Ok(api)
    }

    /// Milliseconds that an answer with one row took.
    async fn get(&self, path: &str, token: &str) -> Result<f64> {
        let start = Instant::now();
        let body = self
            .client
            .get(format!("{}{path}", self.url))
            .bearer_auth(token)
            .send()
            .await?
            .error_for_status()
            .with_context(|| format!("GET {path} failed"))?
            .text()
            .await?;
        let time = milliseconds(start);
        if body.matches("\"available\"").count() != 1 {
            bail!("GET {path} answered {body}");
        }
        Ok(time)
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        if let Err(error) = self.postgrest.stop() {
            eprintln!("dev: PostgREST is not stopped: {error:#}");
        }
    }
}
