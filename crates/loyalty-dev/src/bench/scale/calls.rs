//! Single calls on accounts chosen at random: how long each takes, by one client and by several;
//! and bare statements on a plain table with a row for each, which tell what of the growth is
//! PostgreSQL's and the machine's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use loyalty_testkit::cluster::connect;
use loyalty_testkit::plans::{Asker, request};
use tokio::task::JoinSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Statement};

use super::figures::{Figures, Group};
use super::shape::Platform;
use crate::bench::load::milliseconds;
use crate::bench::progress::Progress;
use crate::bench::scratch::Scratch;

const CLIENTS: [usize; 2] = [1, 8];

/// Of what is asked of a cold machine: calls of each kind.
const COLD_CALLS: usize = 100;

/// Of the spends, the part that may find too few points.
const MOST_REFUSED: f64 = 0.01;

/// Rows of [`About::Scattered`]: entries that an account has on average.
const SCATTERED: usize = 14;

/// What is called, by SQL or as PostgREST makes it of a request.
#[derive(Clone, Copy)]
struct Call {
    group: Group,
    name: &'static str,
    about: About,
    sql: &'static str,
}

/// Whom it is about, and who asks.
#[derive(Clone, Copy)]
enum About {
    /// An account, with a new key.
    Keyed,
    Account,
    /// Accounts that lie as far apart as an account's entries.
    Scattered,
    /// A member asks for this page over the API.
    Member(&'static str),
    /// An administrator looks for a member by number, over the API.
    Admin(&'static str),
}

#[rustfmt::skip]
const CALLS: [Call; 10] = [
    Call { group: Group::Calls, name: "spend_fifo with a key", about: About::Keyed,
           sql: "select loyalty.spend_fifo($1, 1, 'bench', $2)" },
    Call { group: Group::Calls, name: "grant with a key", about: About::Keyed,
           sql: "select loyalty.grant($1, 1, 'bench', idempotency_key => $2)" },
    Call { group: Group::Calls, name: "balance", about: About::Account,
           sql: "select * from loyalty.balance($1)" },
    Call { group: Group::Calls, name: "lots", about: About::Account,
           sql: "select * from loyalty.lots($1)" },
    Call { group: Group::Calls, name: "member: GET /balance", about: About::Member("/balance"),
           sql: "select * from loyalty_api.balance" },
    Call { group: Group::Calls, name: "member: 50 newest of /statement", about: About::Member("/statement"),
           sql: "select * from loyalty_api.statement order by entry desc limit 50" },
    Call { group: Group::Calls, name: "admin: GET /balance?member_no=", about: About::Admin("/balance"),
           sql: "select * from loyalty_api.balance where member_no = $1::text" },
    Call { group: Group::Bare, name: "update of a row by its key", about: About::Account,
           sql: "update bare set balance = balance + 1 where id = $1 returning balance" },
    Call { group: Group::Bare, name: "select of a row by its key", about: About::Account,
           sql: "select balance from bare where id = $1" },
    Call { group: Group::Bare, name: "select of 14 rows by their keys", about: About::Scattered,
           sql: "select * from bare where id = any($1)" },
];

/// Whom is asked about, and where.
#[derive(Clone)]
pub struct Calls {
    pub config: Config,
    pub platform: Arc<Platform>,
}

impl Calls {
    /// Each call by one client and by several, after a second that is not counted.
    pub async fn measure(&self, seconds: u32, figures: &mut Figures) -> Result<()> {
        let progress = Progress::phase("single calls", (CALLS.len() * CLIENTS.len()) as u64)?;
        for call in CALLS {
            for clients in CLIENTS {
                let plural = if clients == 1 { "" } else { "s" };
                let name = format!("{}, {clients} client{plural}", call.name);
                progress.now(&name);
                let long = Duration::from_secs(seconds.into());
                let times = self.times(call, clients, long).await?;
                figures.call(call.group, &name, &times)?;
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
        let calls = CALLS.iter().filter(|call| call.group == Group::Calls);
        let progress = Progress::phase("calls from a cold start", calls.clone().count() as u64)?;
        for call in calls {
            let session = Session::open(self, *call).await?;
            let mut times = Vec::new();
            // The first of a session plans, and reads the catalog.
            while times.len() <= COLD_CALLS {
                times.extend(session.once().await?);
            }
            figures.call(Group::Cold, call.name, &times[1..])?;
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
        let client = connect(&calls.config).await?;
        let (sql, asker) = match call.about {
            About::Member(_) | About::Admin(_) => {
                (request(call.sql), Some(Asker::new(&client).await?))
            }
            _ => (call.sql.to_owned(), None),
        };
        Ok(Self {
            calls,
            call,
            statement: client.prepare(&sql).await?,
            client,
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

    /// Milliseconds of one call, without what sets a request up and ends it; none when a spend
    /// found too few points.
    async fn once(&self) -> Result<Option<f64>> {
        let platform = &self.calls.platform;
        let any = || platform.any_account() as i64 + 1;
        let account = platform.any_account();
        let account_id = account as i64 + 1;
        let key = format!("{:032x}", fastrand::u128(..));
        let mut scattered = Vec::new();
        let member_no = super::fill::member_no(account);
        let values: &[&(dyn ToSql + Sync)] = match self.call.about {
            About::Keyed => &[&account_id, &key],
            About::Account => &[&account_id],
            About::Scattered => {
                scattered.resize_with(SCATTERED, any);
                &[&scattered]
            }
            About::Member(_) => &[],
            About::Admin(_) => &[&member_no],
        };
        self.begin(account).await?;
        let start = Instant::now();
        let outcome = self.client.query(&self.statement, values).await;
        let took = milliseconds(start);
        let rows = match outcome {
            Err(error) if error.code().is_some_and(|code| code.code() == "LY001") => {
                return Ok(None);
            }
            outcome => outcome?,
        };
        let found = match &self.asker {
            Some(_) => rows.iter().map(|row| row.get::<_, i64>("page_total")).sum(),
            None => rows.len() as i64,
        };
        if found == 0 {
            bail!("{} found nothing for account {account_id}", self.call.name);
        }
        if self.asker.is_some() {
            self.client.batch_execute("commit").await?;
        }
        Ok(Some(took))
    }

    /// A request over the API begins with who asks.
    async fn begin(&self, account: usize) -> Result<()> {
        let program = program_code(self.calls.platform.program_of(account));
        let (role, path, whom) = match self.call.about {
            About::Member(path) => {
                let whom = format!(r#", "account_id": {}"#, account + 1);
                ("loyalty_member", path, whom)
            }
            About::Admin(path) => ("loyalty_admin", path, String::new()),
            _ => return Ok(()),
        };
        let claims = format!(r#"{{"role": "{role}", "program": "{program}"{whom}}}"#);
        if let Some(asker) = &self.asker {
            asker
                .begin(&self.client, role, &claims, "GET", path)
                .await?;
        }
        Ok(())
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
    figures.call(Group::Calls, "tick, nothing due", &times)
}

/// Puts nothing but the disk between the clients and the data.
pub async fn cool(scratch: &Scratch) -> Result<()> {
    scratch.cluster.stop()?;
    super::disk::forget(&scratch.cluster.data)?;
    scratch.cluster.start()
}
