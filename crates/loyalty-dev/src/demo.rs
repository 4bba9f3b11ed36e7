//! The demo: a coin program driven by the test clock from May 2024 through
//! July 2028, and a small program on the real clock for the reader's own calls.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use tokio_postgres::Client;

use crate::context::DATABASE;
use crate::progress::Step;
use crate::up::shell_word;
use loyalty_testkit::client_program;
use loyalty_testkit::cluster::Cluster;

/// The program that lives by the real clock. The coin program's story ends in
/// a future where today's calls would be out of time.
pub const TOUR_PROGRAM: &str = "tour";

/// Plays the demo unless it was played before; one that was interrupted goes on.
pub async fn ensure(client: &Client, cluster: &Cluster) -> Result<()> {
    let played = "select from loyalty.program where code = $1";
    if client.query_opt(played, &[&TOUR_PROGRAM]).await?.is_some() {
        return Ok(());
    }
    let step = Step::begin(7, "playing the demo, May 2024 through July 2028");
    play(&mut psql_to(cluster))?;
    step.end();
    Ok(())
}

/// Plays the demo with psql. Its story commits day by day, so it is no one statement.
pub fn play(psql: &mut Command) -> Result<()> {
    if !start(psql)?.wait()?.success() {
        bail!("the demo failed; psql's own words are above");
    }
    Ok(())
}

/// Has psql begin to play the demo.
pub fn start(psql: &mut Command) -> Result<Child> {
    let quiet = psql.arg("--quiet").stdout(Stdio::null());
    feed(quiet, include_bytes!("../sql/demo.sql"))
}

/// Starts psql with a script on its standard input.
fn feed(psql: &mut Command, script: &'static [u8]) -> Result<Child> {
    let mut child = psql
        .args(["--no-psqlrc", "--set=ON_ERROR_STOP=1", "--file=-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("psql cannot be started")?;
    if let Some(mut input) = child.stdin.take() {
        // psql reads on as the story is played
        std::thread::spawn(move || input.write_all(script));
    }
    Ok(child)
}

fn psql_to(cluster: &Cluster) -> Command {
    client_program(
        &cluster.bin,
        "psql",
        &cluster.socket_dir,
        cluster.port,
        DATABASE,
    )
}

/// The account that a program opened first.
pub async fn first_account(client: &Client, program: &str) -> Result<i64> {
    let row = client
        .query_opt(
            "select a.account_id\n\
             from loyalty.account a\n\
             join loyalty.program p using (program_id)\n\
             where p.code = $1\n\
             order by a.account_id\n\
             limit 1",
            &[&program],
        )
        .await?
        .with_context(|| format!("there is no account in a program {program:?}"))?;
    Ok(row.get(0))
}

/// What was granted, spent and expired, as psql prints it.
pub fn print_summary(cluster: &Cluster) -> Result<()> {
    let mut psql = psql_to(cluster);
    psql.args(["--quiet", "--pset=footer=off"]);
    if !feed(&mut psql, include_bytes!("../sql/demo_summary.sql"))?
        .wait()?
        .success()
    {
        bail!("the summary failed; psql's own words are above");
    }
    Ok(())
}

/// What `./dev up` ends with: lines to paste.
pub fn lines(repo: &Path, api_url: &str, account_id: i64) -> String {
    let dev = shell_word(&repo.join("dev").to_string_lossy());
    let bearer = format!("-H \"Authorization: Bearer $({dev} token member)\"");
    format!(
        r#"The program "{TOUR_PROGRAM}" lives by the real clock; paste what you like:

# the lots of its first member, in the order they will be spent
{dev} psql -c 'select * from loyalty.lots({account_id})'

# what the guide's example member was given, spent and lost
{dev} psql -c "select s.day, s.kind, s.points, s.expires_on from loyalty.account a, loyalty.statement(a.account_id) s where a.member_no = 'M0401'"

# what the coin program's rules paid by themselves, on which days
{dev} psql -c "select job, period, effective_on, paid, points from loyalty.run where job like 'rule:%' and paid > 0 order by period desc limit 10"

# the first member's balance over HTTP
curl -sS {bearer} {api_url}/balance

# spend 100 points; the same key spends them once however often it is sent
curl -sS {bearer} -H 'Idempotency-Key: tea-1' -H 'Content-Type: application/json' -d '{{"points": 100, "reason": "tea"}}' {api_url}/rpc/spend

# log in as the first member does: a short token, and one to refresh it by
curl -sS -H 'Content-Type: application/json' -d '{{"login_id": "T001", "password": "tour-12345", "program": "tour"}}' {api_url}/rpc/log_in

# begin to register as the second member; docs/identity.md has the steps that follow
curl -sS -H 'Content-Type: application/json' -d '{{"organisation_id": "TOUR", "key_1": "T002", "key_2": "green-hill-77"}}' {api_url}/rpc/begin_registration

# the OpenAPI page
curl -sS {bearer} {api_url}/

# the variables that other programs want
eval "$({dev} env | sed 's/^/export /')"
"#
    )
}
