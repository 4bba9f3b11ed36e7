//! A session spends, and hangs with its transaction open: who waits for it, what they are told,
//! and how it ends.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio_postgres::{Client, Config};

use super::check::{balances, compare};
use super::load::{Shift, clerks, open_accounts};
use super::{DURABLE, Effort, Outcome, Tally, http};
use loyalty_testkit::cluster::connect;
use loyalty_testkit::token::{Claims, Role};
use loyalty_testkit::{FreshCluster, TestDb};

const TILL: &str = "till 7";

/// Whoever waits longer than lock_timeout gets 55P03 with the holder's name, and nothing is
/// booked (law 1); `loyalty.lock_waits()` names it while they wait; clients that would rather
/// wait go on as soon as idle_in_transaction_session_timeout ends it.
pub async fn trial(effort: &Effort) -> Result<Outcome> {
    let mut tally = Tally::begin();
    let cluster = FreshCluster::start("hang", DURABLE)?;
    let client = cluster.connect("postgres").await?;
    let accounts = open_accounts(&client, 4).await?;
    let start = balances(&client).await?;
    let config = cluster.cluster().config("postgres");
    let account = accounts[0];

    let till = hanging(&config, account).await?;
    let holder = pid(&till).await?;
    // each kind of call on it, with a limit
    let hurried = cluster.connect("postgres").await?;
    hurried.batch_execute("set lock_timeout = '200ms'").await?;
    let other = accounts[1];
    for call in [
        format!("loyalty.spend_fifo({account}, 1)"),
        format!("loyalty.grant({account}, 1)"),
        format!("loyalty.hold({account}, 1)"),
        format!("loyalty.transfer({other}, {account}, 1)"),
        format!("loyalty.suspend_account({account})"),
        format!(
            "loyalty.grant_many('[{{\"account_id\": {other}, \"points\": 1}}, \
                                  {{\"account_id\": {account}, \"points\": 1}}]')"
        ),
    ] {
        let told = refusal(&hurried, &format!("select {call}")).await?;
        tally.hold(
            &format!("{call} was to say with 55P03 who holds the account: {told:?}"),
            told.0 == "55P03"
                && told.1.contains(&format!("process {holder},"))
                && told.1.contains(TILL)
                && told.1.contains("idle in transaction"),
        );
        tally.note("calls refused with 55P03 that name the holder", 1);
    }
    // others are in nobody's way
    hurried
        .batch_execute(&format!(
            "select loyalty.balance({account}), loyalty.verify()"
        ))
        .await
        .context("reading was not to wait")?;

    // without a limit they wait, and it can be seen for whom
    let clerks = clerks(3, &accounts);
    let shift = Shift::begin(clerks, &config);
    let waiting = waits(&client, 3).await?;
    for (application, state, waits, of) in &waiting {
        let is_till = application == TILL && state == "idle in transaction" && !waits;
        tally.hold(
            &format!("lock_waits() says {application}, {state}, of account {of:?}"),
            (is_till || *waits) && of.is_some(),
        );
    }
    tally.hold(
        "lock_waits() was to name the till",
        waiting
            .iter()
            .any(|one| one.0 == TILL && one.3 == Some(account)),
    );
    tally.note("waits that lock_waits() showed", waiting.len());
    // it ends the hanging session after its time
    till.batch_execute("set idle_in_transaction_session_timeout = '50ms'")
        .await?;
    tokio::time::sleep(effort.some_load()).await;
    let clerks = shift.end().await?;
    ensure!(till.is_closed(), "the hanging session was to be ended");
    tally.hold(
        "nobody was to wait any more",
        waits(&client, 0).await?.is_empty(),
    );
    let findings = compare(&client, &clerks, &start).await?;
    tally.hold("clients were to go on", findings.acknowledged > 10);
    tally.look("at the end", &findings);
    over_http(&mut tally).await?;
    Ok(tally.outcome(
        "a session left idle in a transaction after a spend; calls with lock_timeout and without",
    ))
}

/// PostgREST's login with a limit: its clients get 503 and when to come again, and are told of
/// no session.
async fn over_http(tally: &mut Tally) -> Result<()> {
    let db = TestDb::create("hang").await?;
    let client = db.connect().await?;
    let accounts = open_accounts(&client, 1).await?;
    client
        .batch_execute(&format!(
            "alter role loyalty_authenticator in database {} set lock_timeout = '200ms'",
            db.name()
        ))
        .await?;
    let till = hanging(&db.config(), accounts[0]).await?;
    let api = db.api().await?;
    let token = api.token(
        &Claims::new(Role::Member, 600)?
            .program("torture")
            .account_id(accounts[0]),
    )?;
    let spend = http::request(
        "spend",
        &token,
        &serde_json::json!({ "points": 5, "idempotency_key": "one" }),
    );
    let address = http::address(api.url())?;
    let answer = http::send(address, &spend)
        .await?
        .context("PostgREST does not answer")?;
    let told = format!("{}\n{}", answer.head, answer.body);
    tally.hold(
        &format!("over HTTP a call was to end with 503, 55P03, Retry-After: {told}"),
        answer.has_status(503)
            && answer.head.lines().any(|line| line == "Retry-After: 1")
            && answer.body.contains("\"55P03\"")
            && !told.contains(TILL),
    );
    tally.note("HTTP calls refused with 503", 1);
    // later, with the same key
    till.batch_execute("rollback").await?;
    for _ in 0..2 {
        let answer = http::send(address, &spend)
            .await?
            .context("PostgREST does not answer")?;
        tally.hold(
            &format!("then it was to be done: {}", answer.body),
            answer.has_status(200),
        );
    }
    let left = balances(&client).await?;
    tally.hold(
        &format!("it was to be done once: {left:?}"),
        left.get(&accounts[0]) == Some(&995),
    );
    Ok(())
}

/// A session that spends and says no more.
async fn hanging(config: &Config, account: i64) -> Result<Client> {
    let mut config = config.clone();
    config.application_name(TILL);
    let till = connect(&config).await?;
    till.batch_execute(&format!("begin; select loyalty.spend_fifo({account}, 1)"))
        .await?;
    Ok(till)
}

async fn pid(client: &Client) -> Result<i32> {
    Ok(client
        .query_one("select pg_backend_pid()", &[])
        .await?
        .get(0))
}

/// The SQLSTATE and DETAIL that a call is refused with.
async fn refusal(client: &Client, sql: &str) -> Result<(String, String)> {
    match client.simple_query(sql).await {
        Ok(_) => bail!("{sql} was not refused"),
        Err(error) => {
            let error = error.as_db_error().context("no error of the server's")?;
            Ok((
                error.code().code().to_owned(),
                error.detail().unwrap_or_default().to_owned(),
            ))
        }
    }
}

type Wait = (String, String, bool, Option<i64>);

/// Whom sessions wait for, once so many do: application, state, whether it waits itself, and
/// the account.
async fn waits(client: &Client, number: usize) -> Result<Vec<Wait>> {
    let mut seen = Vec::new();
    for _ in 0..600 {
        seen = client
            .query(
                "select holder_application, holder_state, holder_waits, account_id
                   from loyalty.lock_waits()",
                &[],
            )
            .await?
            .iter()
            .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
            .collect();
        if seen.len() >= number {
            return Ok(seen);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("{number} sessions were to wait: {seen:?}")
}
