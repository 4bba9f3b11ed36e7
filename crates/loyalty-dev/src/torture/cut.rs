//! Clients are cut off in the middle of a call: they go, or the network between resets the
//! connection, while they ask, while the server works, or when its answer is under way.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::{Client, Config};

use super::check::{Findings, balances, compare_books};
use super::load::{self, Fate, Receipt, Record, Request};
use super::{DURABLE, Effort, Outcome, Tally, http, until};
use loyalty_testkit::cluster::{SUPERUSER, connect};
use loyalty_testkit::os;
use loyalty_testkit::token::{Claims, Role};
use loyalty_testkit::{FreshCluster, TestDb};

const ACCOUNTS: i32 = 50;

/// Asked again with the same key, each call is there once, whether it was done when its client
/// was cut off or not (laws 1, 6 and 11). Over SQL, and over HTTP through PostgREST.
pub async fn trial(effort: &Effort) -> Result<Outcome> {
    let mut tally = Tally::begin();
    over_sql(effort, &mut tally).await?;
    tally.next_ledger();
    over_http(effort, &mut tally).await?;
    Ok(tally.outcome(
        "clients gone, and connections reset, in the middle of grant_many: while asking, while it works, at its answer",
    ))
}

/// Where a connection is reset.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// When so many bytes of the call have gone to the server.
    Asking(usize),
    /// So long after the call began.
    Working(Duration),
    /// When the answer comes: it is swallowed.
    Answering,
}

/// Half of the call; the call, and shorter or longer waits; the answer.
fn cuts(request: usize, effort: &Effort) -> Vec<Cut> {
    let mut cuts = vec![
        Cut::Asking(request / 2),
        Cut::Asking(request),
        Cut::Answering,
    ];
    let waits: &[u64] = if effort.all {
        &[0, 1, 2, 5, 10, 20, 30, 50, 80, 120, 200]
    } else {
        &[2, 20, 60]
    };
    cuts.extend(
        waits
            .iter()
            .map(|wait| Cut::Working(Duration::from_millis(*wait))),
    );
    cuts
}

fn call(number: usize, items: usize, accounts: &[i64]) -> Record {
    Record {
        key: format!("cut/{number}"),
        request: Request::GrantMany(
            (0..items)
                .map(|n| (accounts[n % accounts.len()], 1 + n as i64 % 7))
                .collect(),
        ),
        fate: Fate::InDoubt,
    }
}

async fn over_sql(effort: &Effort, tally: &mut Tally) -> Result<()> {
    let cluster =
        FreshCluster::start("cut", &format!("{DURABLE}listen_addresses = '127.0.0.1'\n"))?;
    let client = cluster.connect("postgres").await?;
    let password = os::random_hex(16)?;
    client
        .batch_execute(&format!("alter role {SUPERUSER} password '{password}'"))
        .await?;
    let accounts = load::open_accounts(&client, ACCOUNTS).await?;
    let start = balances(&client).await?;
    let server = SocketAddr::from(([127, 0, 0, 1], cluster.cluster().port));
    let proxy = Proxy::before(server).await?;
    let mut config = Config::new();
    config
        .host("127.0.0.1")
        .port(proxy.address.port())
        .user(SUPERUSER)
        .password(&password)
        .dbname("postgres");
    let mut book = Vec::new();
    let items = if effort.all { 2_000 } else { 500 };
    let length = load::sql(&call(0, items, &accounts), |_| Ok(0))?.len();
    for cut in cuts(length, effort) {
        // the network resets it, or the client goes by itself
        for leaves in [false, true] {
            let mut record = call(book.len(), items, &accounts);
            let sql = load::sql(&record, |_| Ok(0))?;
            let victim = connect(&config).await?;
            if let (true, Cut::Working(wait)) = (leaves, cut) {
                let asking = load::ask(&victim, &sql, &record);
                if let Ok(fate) = tokio::time::timeout(wait, asking).await {
                    record.fate = fate?;
                }
                // with its connection: nobody reads the answer
                proxy.drop_all();
            } else {
                proxy.arm(cut);
                record.fate = load::ask(&victim, &sql, &record).await?;
            }
            drop(victim);
            note(tally, &record);
            book.push(record);
        }
    }
    // one whose answer is short is done before the answer goes out
    for account in &accounts {
        let mut record = Record {
            key: format!("cut/{}", book.len()),
            request: Request::Spend {
                account: *account,
                points: 3,
            },
            fate: Fate::InDoubt,
        };
        let sql = load::sql(&record, |_| Ok(0))?;
        let cut = match account % 3 {
            0 => Cut::Answering,
            1 => Cut::Asking(sql.len()),
            _ => Cut::Working(Duration::from_micros(300)),
        };
        let victim = connect(&config).await?;
        proxy.arm(cut);
        record.fate = load::ask(&victim, &sql, &record).await?;
        note(tally, &record);
        book.push(record);
    }
    all_quiet(&client).await?;
    look(tally, "cut off over SQL", &client, &book, &start).await?;
    for record in &mut book {
        let sql = load::sql(record, |_| Ok(0))?;
        let fate = load::ask(&client, &sql, record).await?;
        settle(record, fate)?;
    }
    look(tally, "asked again over SQL", &client, &book, &start).await?;
    Ok(())
}

async fn over_http(effort: &Effort, tally: &mut Tally) -> Result<()> {
    let db = TestDb::create("cut").await?;
    let client = db.connect().await?;
    let accounts = load::open_accounts(&client, ACCOUNTS).await?;
    let start = balances(&client).await?;
    let api = db.api().await?;
    let server = http::address(api.url())?;
    let proxy = Proxy::before(server).await?;
    let token = api.token(&Claims::new(Role::Operator, 600)?)?;
    let mut book = Vec::new();
    let items = if effort.all { 1_000 } else { 500 };
    let length = request(&call(0, items, &accounts), &token).len();
    for cut in cuts(length, effort) {
        let mut record = call(book.len(), items, &accounts);
        proxy.arm(cut);
        record.fate = ask_http(proxy.address, &record, &token).await?;
        note(tally, &record);
        book.push(record);
    }
    all_quiet(&client).await?;
    look(tally, "cut off over HTTP", &client, &book, &start).await?;
    for record in &mut book {
        let fate = ask_http(server, record, &token).await?;
        ensure!(
            matches!(fate, Fate::Acknowledged(_)),
            "{} over HTTP: {fate:?}",
            record.key
        );
        settle(record, fate)?;
    }
    look(tally, "asked again over HTTP", &client, &book, &start).await?;
    Ok(())
}

fn note(tally: &mut Tally, record: &Record) {
    match record.fate {
        Fate::InDoubt => tally.note("calls cut off", 1),
        _ => tally.note("calls that were quicker than the cut", 1),
    }
}

async fn look(
    tally: &mut Tally,
    when: &'static str,
    client: &Client,
    book: &[Record],
    start: &super::check::Balances,
) -> Result<()> {
    let records: Vec<&Record> = book.iter().collect();
    let findings: Findings = compare_books(client, &records, start).await?;
    if findings.unanswered + findings.undone > 0 {
        tally.note("items cut off, and booked", findings.unanswered);
        tally.note("items cut off, and not booked", findings.undone);
    }
    tally.look(when, &findings);
    Ok(())
}

/// Waits until no call that nobody waits for is under way any more.
async fn all_quiet(client: &Client) -> Result<()> {
    let idle = "select not exists (
                    select from pg_stat_activity
                     where datname = current_database() and pid <> pg_backend_pid()
                       and backend_type = 'client backend' and state <> 'idle')";
    until(client, Duration::from_secs(60), idle)
        .await
        .context("calls of clients that were cut off do not end")
}

/// What was asked again is answered as at first, where there was an answer.
fn settle(record: &mut Record, fate: Fate) -> Result<()> {
    ensure!(
        record.fate == Fate::InDoubt || record.fate == fate,
        "{}: another answer than the first",
        record.key
    );
    record.fate = fate;
    Ok(())
}

fn request(record: &Record, token: &str) -> String {
    let items = match &record.request {
        Request::GrantMany(items) => load::many(&record.key, items),
        _ => serde_json::Value::Null,
    };
    http::request("grant_many", token, &serde_json::json!({ "items": items }))
}

async fn ask_http(address: SocketAddr, record: &Record, token: &str) -> Result<Fate> {
    let Some(answer) = http::send(address, &request(record, token)).await? else {
        return Ok(Fate::InDoubt);
    };
    ensure!(
        answer.has_status(200),
        "{}: {}\n{}",
        record.key,
        answer.head,
        answer.body
    );
    let rows: Vec<serde_json::Value> = serde_json::from_str(&answer.body)?;
    let receipts = rows
        .iter()
        .zip(record.keys())
        .map(|(row, key)| {
            ensure!(row["error_code"].is_null(), "{key}: {row}");
            let number = |name: &str| row[name].as_i64().context("a number");
            let text = |name: &str| row[name].as_str().context("a text");
            Ok(Receipt {
                operation_id: number("operation_id")?,
                account_id: number("account_id")?,
                kind: text("kind")?.to_owned(),
                points: number("points")?,
                balance: number("balance")?,
                available: number("available")?,
                // as PostgreSQL writes it outside of JSON
                occurred_at: text("occurred_at")?
                    .replace('T', " ")
                    .replace("+00:00", "+00"),
                key,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    ensure!(receipts.len() == record.keys().len(), "{}", record.key);
    Ok(Fate::Acknowledged(receipts))
}

/// Stands between client and server, and resets connections to both when told.
struct Proxy {
    address: SocketAddr,
    plan: Arc<Mutex<Option<Cut>>>,
    drop_all: tokio::sync::broadcast::Sender<()>,
}

impl Proxy {
    async fn before(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let plan = Arc::new(Mutex::new(None));
        let (drop_all, _) = tokio::sync::broadcast::channel(1);
        let (its_plan, its_drop) = (plan.clone(), drop_all.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (plan, mut dropped) = (its_plan.clone(), its_drop.subscribe());
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else {
                        return;
                    };
                    // dropped, both are closed: by a reset
                    for stream in [&client, &server] {
                        let _closed = SockRef::from(stream).set_linger(Some(Duration::ZERO));
                    }
                    tokio::select! {
                        _ = pass_on(client, server, &plan) => {}
                        _ = dropped.recv() => {}
                    }
                });
            }
        });
        Ok(Self {
            address,
            plan,
            drop_all,
        })
    }

    /// The next call is cut off.
    fn arm(&self, cut: Cut) {
        if let Ok(mut plan) = self.plan.lock() {
            *plan = Some(cut);
        }
    }

    fn drop_all(&self) {
        let _nobody = self.drop_all.send(());
    }
}

/// Passes bytes on until the plan says to cut.
async fn pass_on(
    mut client: TcpStream,
    mut server: TcpStream,
    plan: &Mutex<Option<Cut>>,
) -> std::io::Result<()> {
    let (mut asked, mut answered) = (vec![0; 16_384], vec![0; 16_384]);
    let mut cut = None;
    let mut passed = 0;
    let mut deadline = None;
    loop {
        let pause = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = client.read(&mut asked) => {
                let mut length = read?;
                if length == 0 {
                    return Ok(());
                }
                if cut.is_none() {
                    cut = plan.lock().ok().and_then(|mut plan| plan.take());
                    if let Some(Cut::Working(wait)) = cut {
                        deadline = Some(tokio::time::Instant::now() + wait);
                    }
                }
                let last = match cut {
                    Some(Cut::Asking(bytes)) if passed + length >= bytes => {
                        length = bytes - passed;
                        true
                    }
                    _ => false,
                };
                server.write_all(&asked[..length]).await?;
                if cut.is_some() {
                    passed += length;
                }
                if last {
                    return Ok(());
                }
            }
            read = server.read(&mut answered) => {
                let length = read?;
                if length == 0 || matches!(cut, Some(Cut::Answering)) {
                    return Ok(());
                }
                client.write_all(&answered[..length]).await?;
            }
            () = pause => return Ok(()),
        }
    }
}
