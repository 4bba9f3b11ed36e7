//! Single calls on accounts chosen at random: how long each takes, by one client and by several;
//! and bare statements on a plain table with a row for each, which tell what of the growth is
//! PostgreSQL's and the machine's.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::task::JoinSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::figures::{Figures, Group};
use super::shape::Platform;
use crate::bench::progress::Progress;
use crate::bench::report::median;
use crate::bench::scratch::Scratch;
use loyalty_testkit::plans::{self, Asker};

const CLIENTS: [usize; 2] = [1, 8];

/// Of what is asked of a cold machine: calls of each kind.
const COLD_CALLS: usize = 100;

/// Of the spends, the part that may find too few points.
const MOST_REFUSED: f64 = 0.01;

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Spend,
    Grant,
    Balance,
    Lots,
    /// A member's own page: what there is, over the API.
    Page,
    /// A member's newest lines, over the API.
    Statement,
    /// An administrator looks for a member by number, over the API.
    Find,
    /// One row of the plain table, changed.
    BareUpdate,
    /// One row of the plain table, read.
    BareSelect,
    /// Rows of the plain table that lie as far apart as an account's entries.
    BareScattered,
}

const LEDGER: [Call; 7] = [
    Call::Spend,
    Call::Grant,
    Call::Balance,
    Call::Lots,
    Call::Page,
    Call::Statement,
    Call::Find,
];

const BARE: [Call; 3] = [Call::BareUpdate, Call::BareSelect, Call::BareScattered];

/// Rows of a [`Call::BareScattered`]: entries that an account has on average.
const SCATTERED: usize = 14;

impl Call {
    fn name(self) -> &'static str {
        match self {
            Self::Spend => "spend_fifo with a key",
            Self::Grant => "grant with a key",
            Self::Balance => "balance",
            Self::Lots => "lots",
            Self::Page => "member: GET /balance",
            Self::Statement => "member: 50 newest of /statement",
            Self::Find => "admin: GET /balance?member_no=",
            Self::BareUpdate => "update of a row by its key",
            Self::BareSelect => "select of a row by its key",
            Self::BareScattered => "select of 14 rows by their keys",
        }
    }

    /// By SQL, or what PostgREST makes of the request.
    fn sql(self) -> String {
        match self {
            Self::Spend => "select loyalty.spend_fifo($1, 1, 'bench', $2)".to_owned(),
            Self::Grant => "select loyalty.grant($1, 1, 'bench', idempotency_key => $2)".to_owned(),
            Self::Balance => "select * from loyalty.balance($1)".to_owned(),
            Self::Lots => "select * from loyalty.lots($1)".to_owned(),
            Self::Page => plans::request("select * from loyalty_api.balance"),
            Self::Statement => {
                plans::request("select * from loyalty_api.statement order by entry desc limit 50")
            }
            Self::Find => {
                plans::request("select * from loyalty_api.balance where member_no = $1::text")
            }
            Self::BareUpdate => {
                "update bare set balance = balance + 1 where id = $1 returning balance".to_owned()
            }
            Self::BareSelect => "select balance from bare where id = $1".to_owned(),
            Self::BareScattered => "select * from bare where id = any($1)".to_owned(),
        }
    }
}

/// Whom is asked about, and where.
#[derive(Clone)]
pub struct Calls {
    pub config: tokio_postgres::Config,
    pub platform: std::sync::Arc<Platform>,
}

impl Calls {
    /// Each call by one client and by several, after a second that is not counted.
    pub async fn measure(&self, seconds: u32, figures: &mut Figures) -> Result<()> {
        let steps = (LEDGER.len() + BARE.len()) * CLIENTS.len();
        let progress = Progress::phase("single calls", steps as u64)?;
        let ledger = LEDGER.map(|call| (Group::Calls, call));
        for (group, call) in ledger
            .into_iter()
            .chain(BARE.map(|call| (Group::Bare, call)))
        {
            for clients in CLIENTS {
                progress.now(&format!("{call:?}, clients: {clients}"));
                let times = self
                    .times(call, clients, Duration::from_secs(seconds.into()))
                    .await?;
                let plural = if clients == 1 { "" } else { "s" };
                figures.call(
                    group,
                    &format!("{}, {clients} client{plural}", call.name()),
                    &times,
                );
                progress.advance(1);
            }
        }
        progress.end();
        Ok(())
    }

    async fn times(&self, call: Call, clients: usize, long: Duration) -> Result<Vec<f64>> {
        let warm_up = Duration::from_secs(1);
        let mut sessions = JoinSet::new();
        for _ in 0..clients {
            let calls = self.clone();
            sessions.spawn(async move {
                let session = Session::open(&calls, call).await?;
                session.until(Instant::now() + warm_up).await?;
                session.until(Instant::now() + long).await
            });
        }
        let mut times = Vec::new();
        while let Some(taken) = sessions.join_next().await {
            times.extend(taken??);
        }
        Ok(times)
    }

    /// Each call by one client whose session is warm, and nothing else is.
    pub async fn cold(&self, figures: &mut Figures) -> Result<()> {
        let progress = Progress::phase("calls from a cold start", LEDGER.len() as u64)?;
        for call in LEDGER {
            let session = Session::open(self, call).await?;
            let mut times = Vec::new();
            // The first of a session plans, and reads the catalog.
            while times.len() <= COLD_CALLS {
                times.extend(session.once().await?);
            }
            figures.call(Group::Cold, call.name(), &times[1..]);
            progress.advance(1);
        }
        progress.end();
        Ok(())
    }
}

struct Session<'a> {
    calls: &'a Calls,
    call: Call,
    client: Client,
    statement: Statement,
    asker: Option<Asker>,
}

impl<'a> Session<'a> {
    async fn open(calls: &'a Calls, call: Call) -> Result<Self> {
        let client = loyalty_testkit::cluster::connect(&calls.config).await?;
        let statement = client.prepare(&call.sql()).await?;
        let asker = match call {
            Call::Page | Call::Statement | Call::Find => Some(Asker::new(&client).await?),
            _ => None,
        };
        Ok(Self {
            calls,
            call,
            client,
            statement,
            asker,
        })
    }

    async fn until(&self, end: Instant) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        let mut refused = 0_usize;
        while Instant::now() < end {
            match self.once().await? {
                Some(time) => times.push(time),
                None => refused += 1,
            }
        }
        if refused as f64 > 2.0 + times.len() as f64 * MOST_REFUSED {
            bail!("{refused} spends found too few points, {} did", times.len());
        }
        Ok(times)
    }

    /// Milliseconds of one call; none when a spend found too few points.
    async fn once(&self) -> Result<Option<f64>> {
        let account = self.calls.platform.any_account();
        match &self.asker {
            Some(asker) => self.over_the_api(asker, account).await.map(Some),
            None => self.by_sql(account as i64 + 1).await,
        }
    }

    async fn by_sql(&self, account_id: i64) -> Result<Option<f64>> {
        let key = format!("{:032x}", fastrand::u128(..));
        let mut scattered = Vec::new();
        let values: &[&(dyn ToSql + Sync)] = match self.call {
            Call::Spend | Call::Grant => &[&account_id, &key],
            Call::BareScattered => {
                scattered.resize_with(SCATTERED, || self.calls.platform.any_account() as i64 + 1);
                &[&scattered]
            }
            _ => &[&account_id],
        };
        let start = Instant::now();
        let outcome = self.client.query(&self.statement, values).await;
        let took = milliseconds(start);
        match outcome {
            Ok(rows) if rows.is_empty() => bail!("{:?} of {account_id} is empty", self.call),
            Ok(_) => Ok(Some(took)),
            Err(error) if too_few(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The time of the query alone, without what sets the request up and ends it.
    async fn over_the_api(&self, asker: &Asker, account: usize) -> Result<f64> {
        let program = program_code(self.calls.platform.program_of(account));
        let account_id = account + 1;
        let by_admin = self.call == Call::Find;
        let (role, claims) = if by_admin {
            let claims = format!(r#"{{"role": "loyalty_admin", "program": "{program}"}}"#);
            ("loyalty_admin", claims)
        } else {
            let claims = format!(
                r#"{{"role": "loyalty_member", "program": "{program}", "account_id": {account_id}}}"#
            );
            ("loyalty_member", claims)
        };
        let path = match self.call {
            Call::Statement => "/statement",
            _ => "/balance",
        };
        asker
            .begin(&self.client, role, &claims, "GET", path)
            .await?;
        let member_no = super::fill::member_no(account);
        let values: &[&(dyn ToSql + Sync)] = if by_admin { &[&member_no] } else { &[] };
        let start = Instant::now();
        let row = self.client.query_one(&self.statement, values).await?;
        let took = milliseconds(start);
        let found: i64 = row.get("page_total");
        self.client.batch_execute("commit").await?;
        if found == 0 {
            bail!("{:?} found nothing for account {account_id}", self.call);
        }
        Ok(took)
    }
}

/// The plain table, with the room in its pages that the wallet's have.
pub async fn make_bare(client: &Client, rows: usize) -> Result<()> {
    for statement in [
        "create table bare (id bigint primary key, balance bigint not null, \
         filler char(84) not null default '') with (fillfactor = 75)",
        &format!("insert into bare (id, balance) select id, 0 from generate_series(1, {rows}) id"),
        "vacuum analyze bare",
        "checkpoint",
    ] {
        client.batch_execute(statement).await?;
    }
    Ok(())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1_000.0
}

fn too_few(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code() == "LY001")
}

/// Code of a program, counted from 0.
pub fn program_code(program: usize) -> String {
    format!("p{:03}", program + 1)
}

/// Ticks with nothing due, by one session, after a second that is not counted.
pub async fn ticks(session: &Client, seconds: u32, figures: &mut Figures) -> Result<()> {
    let mut times = Vec::new();
    for (seconds, counted) in [(1, false), (seconds, true)] {
        let end = Instant::now() + Duration::from_secs(seconds.into());
        while Instant::now() < end {
            let start = Instant::now();
            session.batch_execute("call loyalty.tick()").await?;
            if counted {
                times.push(milliseconds(start));
            }
        }
    }
    figures.call(Group::Calls, "tick, nothing due", &times);
    Ok(())
}

/// The time that so many of a hundred stay under.
pub fn percentile(times: &[f64], percent: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted
        .get(place.saturating_sub(1))
        .copied()
        .unwrap_or_else(|| median(times))
}

/// Puts nothing but the disk between the clients and the data.
pub async fn cool(scratch: &Scratch) -> Result<()> {
    scratch.cluster.stop()?;
    super::disk::forget(&scratch.cluster.data)?;
    scratch.cluster.start()
}
