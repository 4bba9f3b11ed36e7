//! Single calls, small grants and bulk calls, in interleaved rounds, on one
//! database; and what its grants take on disk.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use tokio_postgres::Client;

use super::driver::{Bulk, Ids, Pgbench, Script};
use super::load::{self, CALL_ITEMS, Item, settle, value};
use super::progress::Progress;
use super::report::{Report, Size, Target, Unit, grouped};
use super::scratch::Scratch;
use super::{Plan, Topic};

const DATABASE: &str = "bench_ledger";
const PROGRAM: &str = "bench";
const LOTS: i32 = 3;

/// No account runs dry: every spend succeeds.
const PLENTY: i64 = 1_000_000;
const SMALL_GRANT: i64 = 1_000;

const CLIENTS: u32 = 8;

/// Bulk calls for each second that other measurements take.
const CALLS_PER_SECOND: usize = 20;

/// Bulk calls to find out how many clients are best.
const TRIAL_CALLS: usize = 40;

/// One of what is measured in turn, in each round.
struct Case {
    name: &'static str,
    /// It is wanted for any of these.
    topics: &'static [Topic],
    call: Call,
}

#[derive(Clone, Copy)]
enum Call {
    /// A statement of pgbench.
    Single {
        script: &'static Script,
        clients: u32,
        of: Of,
        durable: bool,
    },
    /// A function that takes a thousand items.
    Many {
        function: &'static str,
        order: Order,
        /// As many as do the most, unless told.
        clients: Option<usize>,
    },
}

/// Whose accounts.
#[derive(Clone, Copy)]
enum Of {
    Members,
    OneGrant,
    SmallGrants,
}

/// Accounts of a call: any, or those that follow the call before, as a job has them that goes
/// through all members.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Any,
    InARow,
}

const fn single(script: &'static Script, clients: u32, of: Of, durable: bool) -> Call {
    Call::Single {
        script,
        clients,
        of,
        durable,
    }
}

const fn many(function: &'static str, order: Order, clients: Option<usize>) -> Call {
    Call::Many {
        function,
        order,
        clients,
    }
}

/// The order within a round: what is compared is measured close together.
#[rustfmt::skip]
const CASES: [Case; 18] = [
    Case { name: "update", topics: &[Topic::Spend, Topic::Grant], call: single(&UPDATE, CLIENTS, Of::Members, true) },
    Case { name: "spend", topics: &[Topic::Spend, Topic::Bulk], call: single(&SPEND, CLIENTS, Of::Members, true) },
    Case { name: "grant", topics: &[Topic::Grant, Topic::Bulk], call: single(&GRANT, CLIENTS, Of::Members, true) },
    Case { name: "select", topics: &[Topic::Balance], call: single(&SELECT, CLIENTS, Of::Members, true) },
    Case { name: "balance", topics: &[Topic::Balance], call: single(&BALANCE, CLIENTS, Of::Members, true) },
    Case { name: "grant_many", topics: &[Topic::Bulk], call: many("loyalty.grant_many", Order::Any, None) },
    Case { name: "spend_many", topics: &[Topic::Bulk], call: many("loyalty.spend_many", Order::Any, None) },
    Case { name: "bare_many", topics: &[Topic::Bulk], call: many("bare_many", Order::Any, None) },
    Case { name: "grant_row", topics: &[Topic::Bulk], call: many("loyalty.grant_many", Order::InARow, None) },
    Case { name: "spend_row", topics: &[Topic::Bulk], call: many("loyalty.spend_many", Order::InARow, None) },
    Case { name: "lone_spend", topics: &[Topic::Bulk], call: single(&SPEND, 1, Of::Members, true) },
    Case { name: "lone_grant", topics: &[Topic::Bulk], call: single(&GRANT, 1, Of::Members, true) },
    Case { name: "lone_grant_many", topics: &[Topic::Bulk], call: many("loyalty.grant_many", Order::Any, Some(1)) },
    Case { name: "lone_spend_many", topics: &[Topic::Bulk], call: many("loyalty.spend_many", Order::Any, Some(1)) },
    Case { name: "one_grant", topics: &[Topic::SmallGrants], call: single(&SPEND, 1, Of::OneGrant, true) },
    Case { name: "small_grants", topics: &[Topic::SmallGrants], call: single(&SPEND, 1, Of::SmallGrants, true) },
    Case { name: "one_grant_fast", topics: &[Topic::SmallGrants], call: single(&SPEND, 1, Of::OneGrant, false) },
    Case { name: "small_grants_fast", topics: &[Topic::SmallGrants], call: single(&SPEND, 1, Of::SmallGrants, false) },
];

/// A line of the table: its topic and name, what it is held against, and the two cases.
type Compared = (
    Topic,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    Option<Target>,
);

#[rustfmt::skip]
const LINES: [Compared; 13] = [
    (Topic::Spend, "spend_fifo with a key", "bare update", "spend", "update", Some(Target::AtLeast(0.6))),
    (Topic::Grant, "grant with a key", "bare update", "grant", "update", Some(Target::AtLeast(0.6))),
    (Topic::Balance, "balance", "bare select", "balance", "select", Some(Target::AtLeast(0.7))),
    (Topic::Bulk, "grant_many, items", "grant", "grant_many", "grant", Some(Target::AtLeast(10.0))),
    (Topic::Bulk, "  the same", "bare statements", "grant_many", "bare_many", None),
    (Topic::Bulk, "  accounts in a row", "grant", "grant_row", "grant", Some(Target::AtLeast(10.0))),
    (Topic::Bulk, "  by one client", "grant by one", "lone_grant_many", "lone_grant", Some(Target::AtLeast(10.0))),
    (Topic::Bulk, "spend_many, items", "spend_fifo", "spend_many", "spend", Some(Target::AtLeast(10.0))),
    (Topic::Bulk, "  the same", "bare statements", "spend_many", "bare_many", None),
    (Topic::Bulk, "  accounts in a row", "spend_fifo", "spend_row", "spend", Some(Target::AtLeast(10.0))),
    (Topic::Bulk, "  by one client", "spend_fifo by one", "lone_spend_many", "lone_spend", Some(Target::AtLeast(10.0))),
    (Topic::SmallGrants, "spend after small grants", "after one grant", "small_grants", "one_grant", Some(Target::AtMost(1.5))),
    (Topic::SmallGrants, "  synchronous_commit off", "after one grant", "small_grants_fast", "one_grant_fast", None),
];

const fn script(name: &'static str, statement: &'static str) -> Script {
    Script { name, statement }
}

const UPDATE: Script = script(
    "update",
    "update bare set balance = balance + 1 where id = :id",
);
pub const SPEND: Script = script(
    "spend",
    "select loyalty.spend_fifo(:id, 1, 'bench', :a || '-' || :b)",
);
const GRANT: Script = script(
    "grant",
    "select loyalty.grant(:id, 1, 'bench', idempotency_key => :a || '-' || :b)",
);
const SELECT: Script = script("select", "select balance from bare where id = :id");
const BALANCE: Script = script("balance", "select * from loyalty.balance(:id)");

pub async fn measure(scratch: &Scratch, plan: &Plan, report: &mut Report) -> Result<()> {
    let client = scratch.create_database(DATABASE).await?;
    let ids = load_members(scratch, &client, plan).await?;
    settle(&client, "vacuum analyze").await?;
    if plan.wants(Topic::Size) {
        report.size = Some(size(&client, plan).await?);
    }
    let is_wanted = |case: &&Case| case.topics.iter().any(|topic| plan.wants(*topic));
    let cases: Vec<&Case> = CASES.iter().filter(is_wanted).collect();
    if !cases.is_empty() {
        let mut rounds = Rounds {
            scratch,
            plan,
            accounts: [ids; 3],
            best: HashMap::new(),
        };
        if plan.wants(Topic::SmallGrants) {
            let (one, many) = load_small_grants(scratch, &client, plan, report).await?;
            rounds.accounts = [ids, one, many];
        }
        load::bare_table(&client, "bare", ids).await?;
        if plan.wants(Topic::Bulk) {
            load::bare_many(&client).await?;
        }
        fill_log(&client, plan, report).await?;
        settle(&client, "vacuum analyze").await?;
        let samples = rounds.run(&cases).await?;
        rounds.lines(&samples, report)?;
    }
    load::verify(&client, report).await?;
    drop(client);
    scratch.drop_database(DATABASE).await
}

/// The members of the program: one grant in each of three months, as in life
/// not one account after the other.
async fn load_members(scratch: &Scratch, client: &Client, plan: &Plan) -> Result<Ids> {
    let ids = load::program(client, PROGRAM, plan.accounts).await?;
    let mut passes = Vec::new();
    for months_ago in (0..LOTS).rev() {
        let day = "select (loyalty.today($1) - make_interval(months => $2))::date::text";
        let day: String = value(client, day, &[&PROGRAM, &months_ago]).await?;
        let mut accounts: Vec<i64> = ids.all().collect();
        fastrand::shuffle(&mut accounts);
        passes.push((accounts, day));
    }
    let items = passes.into_iter().flat_map(|(accounts, day)| {
        accounts
            .into_iter()
            .map(move |id| Item::new(id, PLENTY, Some(("granted_on", day.clone()))))
    });
    let count = ids.count() * i64::from(LOTS);
    load::grant(scratch, DATABASE, "granting 3 lots each", count, items).await?;
    Ok(ids)
}

/// Accounts with one grant each, and accounts with thousands on random days of
/// the past three years, in order of time.
async fn load_small_grants(
    scratch: &Scratch,
    client: &Client,
    plan: &Plan,
    report: &mut Report,
) -> Result<(Ids, Ids)> {
    let one = load::accounts_of(client, PROGRAM, "one", plan.small_accounts).await?;
    let many = load::accounts_of(client, PROGRAM, "many", plan.small_accounts).await?;
    let all_at_once = SMALL_GRANT * plan.small_grants;
    let single = one.all().map(move |id| Item::new(id, all_at_once, None));
    let days = client
        .query(
            "select (loyalty.today($1) - (floor(random() * 1095))::integer)::text\n\
             from generate_series(1, $2::bigint)\n\
             order by 1",
            &[&PROGRAM, &plan.small_grants],
        )
        .await?;
    let items = single.chain(days.into_iter().flat_map(move |row| {
        let day: String = row.get(0);
        many.all()
            .map(move |id| Item::new(id, SMALL_GRANT, Some(("granted_on", day.clone()))))
    }));
    let count = one.count() + many.count() * plan.small_grants;
    load::grant(scratch, DATABASE, "granting little by little", count, items).await?;
    let lots = "select count(*) from loyalty.lots($1)";
    let lots: i64 = value(client, lots, &[&many.first]).await?;
    report.notes.push(format!(
        "Small grants: {} accounts of each kind; {} grants of an account are {lots} lots.",
        plan.small_accounts,
        grouped(plan.small_grants as f64),
    ));
    Ok((one, many))
}

/// What the measurements write of the log for each second of a round, at the most.
const LOG_MIB_A_SECOND: u64 = 160;

/// Makes files of the write-ahead log to write over, as a server has them that has been in use for
/// a while. Else each file is made again by whoever needs it, which is mostly a bulk call.
async fn fill_log(client: &Client, plan: &Plan, report: &mut Report) -> Result<()> {
    let mib = LOG_MIB_A_SECOND * u64::from(plan.seconds * (plan.rounds + 1));
    let progress = Progress::phase("filling files of the log", 0)?;
    client
        .execute(&format!("alter system set min_wal_size = '{mib}MB'"), &[])
        .await?;
    client
        .batch_execute(&format!(
            "select pg_reload_conf();\n\
             do $$ begin for mib in 1 .. {mib} loop\n\
                 perform pg_logical_emit_message(false, 'bench', repeat('x', 1048576));\n\
             end loop; end $$"
        ))
        .await?;
    progress.end();
    report.notes.push(format!(
        "Write-ahead log: {} MiB of files to write over before the first round.",
        grouped(mib as f64)
    ));
    Ok(())
}

async fn size(client: &Client, plan: &Plan) -> Result<Size> {
    let grants = (plan.accounts * i64::from(LOTS)) as f64;
    let rows = client
        .query(
            "select t.relname || ' (table)' as part, pg_table_size(t.oid) as bytes, t.relname, 0\n\
             from pg_class t\n\
             where t.oid in ('loyalty.entry'::regclass, 'loyalty.wallet'::regclass)\n\
             union all\n\
             select i.relname || ' (index)', pg_relation_size(i.oid), t.relname, 1\n\
             from pg_index x\n\
             join pg_class t on t.oid = x.indrelid\n\
             join pg_class i on i.oid = x.indexrelid\n\
             where t.oid in ('loyalty.entry'::regclass, 'loyalty.wallet'::regclass)\n\
             order by 3, 4, 1",
            &[],
        )
        .await?;
    let parts = rows
        .iter()
        .map(|row| (row.get(0), row.get::<_, i64>(1) as f64 / grants))
        .collect();
    Ok(Size {
        parts,
        target: Target::AtMost(350.0),
    })
}

/// A rate of each case a round.
type Samples = HashMap<&'static str, Vec<f64>>;

struct Rounds<'a> {
    scratch: &'a Scratch,
    plan: &'a Plan,
    /// Of each kind of [`Of`].
    accounts: [Ids; 3],
    /// How many clients make the most of bulk calls.
    best: HashMap<&'static str, usize>,
}

impl Rounds<'_> {
    async fn run(&mut self, cases: &[&Case]) -> Result<Samples> {
        let steps = cases.len() * (self.plan.rounds as usize + 1);
        let progress = Progress::phase("measuring", steps as u64)?;
        // First calls and first touches of pages are not what is compared.
        progress.now("warming up");
        for case in cases {
            match case.call {
                Call::Many { clients: None, .. } => {
                    let best = self.best_clients(case).await?;
                    self.best.insert(case.name, best);
                }
                Call::Many { .. } => {}
                Call::Single { .. } => drop(self.rate(case, 1).await?),
            }
            progress.advance(1);
        }
        let mut samples = Samples::new();
        for round in 1..=self.plan.rounds {
            for case in cases {
                progress.now(&format!("round {round}: {}", case.name));
                let rate = self.rate(case, self.plan.seconds).await?;
                samples.entry(case.name).or_default().push(rate);
                progress.advance(1);
            }
        }
        progress.end();
        Ok(samples)
    }

    /// Transactions, or items of bulk calls, a second.
    async fn rate(&self, case: &Case, seconds: u32) -> Result<f64> {
        let (script, clients, of, durable) = match case.call {
            Call::Many { clients, .. } => {
                let clients = clients.or_else(|| self.best.get(case.name).copied());
                let clients = clients.context("bulk calls are warmed up first")?;
                let calls = CALLS_PER_SECOND * seconds as usize;
                return self.bulk_rate(case, clients, calls).await;
            }
            Call::Single {
                script,
                clients,
                of,
                durable,
            } => (script, clients, of, durable),
        };
        Pgbench {
            database: DATABASE,
            script,
            clients,
            seconds,
            ids: self.accounts[of as usize],
            synchronous_commit: durable,
        }
        .rate(self.scratch)
        .await
    }

    /// Calls of a thousand items are work for the cores more than waits for
    /// the disk: on few cores fewer clients can do more.
    async fn best_clients(&self, case: &Case) -> Result<usize> {
        let mut best = (0.0, 0);
        for clients in [2, 4, CLIENTS as usize] {
            let rate = self.bulk_rate(case, clients, TRIAL_CALLS).await?;
            if rate > best.0 {
                best = (rate, clients);
            }
        }
        Ok(best.1)
    }

    async fn bulk_rate(&self, case: &Case, clients: usize, calls: usize) -> Result<f64> {
        let Call::Many {
            function, order, ..
        } = case.call
        else {
            bail!("{} is no bulk call", case.name);
        };
        let ids = self.accounts[Of::Members as usize];
        // All texts are made before the clock starts.
        let text = |call: usize| {
            let chosen: Vec<i64> = match order {
                Order::InARow => {
                    let from = call * CALL_ITEMS % ids.count().unsigned_abs() as usize;
                    ids.all().cycle().skip(from).take(CALL_ITEMS).collect()
                }
                Order::Any => fastrand::choose_multiple(ids.all(), CALL_ITEMS),
            };
            let items: Vec<Item> = chosen.iter().map(|&id| Item::new(id, 1, None)).collect();
            load::call(&items)
        };
        let texts: Vec<String> = (0..calls).map(text).collect();
        let took = Bulk {
            cluster: &self.scratch.cluster,
            database: DATABASE,
            function,
            clients,
            synchronous_commit: true,
        }
        .call_all(texts.into_iter(), None)
        .await?;
        Ok((calls * CALL_ITEMS) as f64 / took.as_secs_f64())
    }

    fn lines(&self, samples: &Samples, report: &mut Report) -> Result<()> {
        for (topic, name, against, measured, base, target) in LINES {
            if !self.plan.wants(topic) {
                continue;
            }
            // Of those with small grants it is the time that is told.
            let is_time = topic == Topic::SmallGrants;
            let taken = |case: &str| -> Result<Vec<f64>> {
                let rates = samples.get(case).with_context(|| format!("no {case}"))?;
                let shown = |rate: &f64| if is_time { 1_000.0 / rate } else { *rate };
                Ok(rates.iter().map(shown).collect())
            };
            let unit = if is_time {
                Unit::Milliseconds
            } else {
                Unit::PerSecond
            };
            report.line(name, against, unit, taken(measured)?, taken(base)?, target);
        }
        if self.plan.wants(Topic::Bulk) {
            let best = |case| self.best.get(case).copied().unwrap_or(0);
            report.notes.push(format!(
                "Bulk calls of 1,000 items: grant_many by {} clients, spend_many by {}, \
                 bare statements by {}, in a row {} and {}, the best of 2, 4 and {CLIENTS}; \
                 all else by {CLIENTS} clients of pgbench where it does not say one.",
                best("grant_many"),
                best("spend_many"),
                best("bare_many"),
                best("grant_row"),
                best("spend_row"),
            ));
        }
        Ok(())
    }
}
