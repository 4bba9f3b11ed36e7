//! Single calls, small grants and bulk calls, in interleaved rounds, on one
//! database; and what its grants take on disk.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio_postgres::Client;

use super::driver::{Bulk, Ids, Pgbench, Script};
use super::load::{self, CALL_ITEMS, Item};
use super::progress::Progress;
use super::report::{Line, Report, Size, Target, Unit, grouped};
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

/// The order within a round: what is compared is measured close together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Measure {
    Update,
    Spend,
    Grant,
    Select,
    Balance,
    GrantMany,
    SpendMany,
    BareMany,
    GrantRow,
    SpendRow,
    LoneSpend,
    LoneGrant,
    LoneGrantMany,
    LoneSpendMany,
    AfterOneGrant { durable: bool },
    AfterSmallGrants { durable: bool },
}

use Measure::{
    AfterOneGrant, AfterSmallGrants, Balance, BareMany, Grant, GrantMany, GrantRow, LoneGrant,
    LoneGrantMany, LoneSpend, LoneSpendMany, Select, Spend, SpendMany, SpendRow, Update,
};

impl Measure {
    /// The function that takes a thousand items, if that is what it calls.
    fn of_many(self) -> Option<&'static str> {
        match self {
            GrantMany | GrantRow | LoneGrantMany => Some("loyalty.grant_many"),
            SpendMany | SpendRow | LoneSpendMany => Some("loyalty.spend_many"),
            BareMany => Some("bare_many"),
            _ => None,
        }
    }

    /// Whether a call's accounts follow each other, as those of a job that goes through all
    /// members; otherwise they are any.
    fn in_a_row(self) -> bool {
        matches!(self, GrantRow | SpendRow)
    }
}

const UPDATE: Script = Script {
    name: "update",
    statement: "update bare set balance = balance + 1 where id = :id",
};
pub const SPEND: Script = Script {
    name: "spend",
    statement: "select loyalty.spend_fifo(:id, 1, 'bench', :a || '-' || :b)",
};
const GRANT: Script = Script {
    name: "grant",
    statement: "select loyalty.grant(:id, 1, 'bench', idempotency_key => :a || '-' || :b)",
};
const SELECT: Script = Script {
    name: "select",
    statement: "select balance from bare where id = :id",
};
const BALANCE: Script = Script {
    name: "balance",
    statement: "select * from loyalty.balance(:id)",
};

pub async fn measure(scratch: &Scratch, plan: &Plan, report: &mut Report) -> Result<()> {
    let client = scratch.create_database(DATABASE).await?;
    let ids = load_members(scratch, &client, plan).await?;
    settle(&client).await?;
    if plan.wants(Topic::Size) {
        report.size = Some(size(&client, plan).await?);
    }
    let measures = measures(plan);
    if !measures.is_empty() {
        let mut rounds = Rounds {
            scratch,
            plan,
            ids,
            one_grant: ids,
            small_grants: ids,
            bulk_clients: HashMap::new(),
        };
        if plan.wants(Topic::SmallGrants) {
            load_small_grants(scratch, &client, plan, &mut rounds, report).await?;
        }
        load::bare_table(&client, "bare", ids).await?;
        if plan.wants(Topic::Bulk) {
            load::bare_many(&client).await?;
        }
        fill_log(&client, plan, report).await?;
        settle(&client).await?;
        let samples = rounds.run(&measures).await?;
        rounds.lines(&samples, report)?;
    }
    verify(&client, report).await?;
    drop(client);
    scratch.drop_database(DATABASE).await
}

/// The members of the program: one grant in each of three months, as in life
/// not one account after the other.
async fn load_members(scratch: &Scratch, client: &Client, plan: &Plan) -> Result<Ids> {
    let ids = load::program(client, PROGRAM, plan.accounts).await?;
    let mut passes = Vec::new();
    for months_ago in (0..LOTS).rev() {
        let day: String = client
            .query_one(
                "select (loyalty.today($1) - make_interval(months => $2))::date::text",
                &[&PROGRAM, &months_ago],
            )
            .await?
            .get(0);
        let mut accounts: Vec<i64> = ids.all().collect();
        fastrand::shuffle(&mut accounts);
        passes.push((accounts, day));
    }
    let items = passes.into_iter().flat_map(|(accounts, day)| {
        accounts.into_iter().map(move |account_id| Item {
            account_id,
            points: PLENTY,
            day: Some(("granted_on", day.clone())),
        })
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
    rounds: &mut Rounds<'_>,
    report: &mut Report,
) -> Result<()> {
    let one = load::accounts_of(client, PROGRAM, "one", plan.small_accounts).await?;
    let many = load::accounts_of(client, PROGRAM, "many", plan.small_accounts).await?;
    let small_grants = plan.small_grants;
    let single = one.all().map(move |account_id| Item {
        account_id,
        points: SMALL_GRANT * small_grants,
        day: None,
    });
    let days: Vec<String> = client
        .query(
            "select (loyalty.today($1) - (floor(random() * 1095))::integer)::text\n\
             from generate_series(1, $2::bigint)\n\
             order by 1",
            &[&PROGRAM, &plan.small_grants],
        )
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let items = single.chain(days.into_iter().flat_map(move |day| {
        many.all().map(move |account_id| Item {
            account_id,
            points: SMALL_GRANT,
            day: Some(("granted_on", day.clone())),
        })
    }));
    let count = one.count() + many.count() * plan.small_grants;
    load::grant(scratch, DATABASE, "granting little by little", count, items).await?;
    let lots: i64 = client
        .query_one("select count(*) from loyalty.lots($1)", &[&many.first])
        .await?
        .get(0);
    report.notes.push(format!(
        "Small grants: {} accounts of each kind; {} grants of an account are {lots} lots.",
        plan.small_accounts,
        grouped(plan.small_grants as f64),
    ));
    rounds.one_grant = one;
    rounds.small_grants = many;
    Ok(())
}

/// What the measurements write of the log for each second of a round, at the most.
const LOG_MIB_A_SECOND: u64 = 160;

/// Leaves nothing of the loading for the measurements to pay.
async fn settle(client: &Client) -> Result<()> {
    let progress = Progress::phase("vacuum, analyze, checkpoint", 0)?;
    client.batch_execute("vacuum analyze").await?;
    client.batch_execute("checkpoint").await?;
    progress.end();
    Ok(())
}

/// Makes files of the write-ahead log to write over, as a server has them that has been in use for
/// a while. Else each file is made anew by whoever needs it, which is mostly a call of many.
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

fn measures(plan: &Plan) -> Vec<Measure> {
    let bulk = plan.wants(Topic::Bulk);
    let spend = plan.wants(Topic::Spend);
    let grant = plan.wants(Topic::Grant);
    let balance = plan.wants(Topic::Balance);
    let small = plan.wants(Topic::SmallGrants);
    [
        (Update, spend || grant),
        (Spend, spend || bulk),
        (Grant, grant || bulk),
        (Select, balance),
        (Balance, balance),
        (GrantMany, bulk),
        (SpendMany, bulk),
        (BareMany, bulk),
        (GrantRow, bulk),
        (SpendRow, bulk),
        (LoneSpend, bulk),
        (LoneGrant, bulk),
        (LoneGrantMany, bulk),
        (LoneSpendMany, bulk),
        (AfterOneGrant { durable: true }, small),
        (AfterSmallGrants { durable: true }, small),
        (AfterOneGrant { durable: false }, small),
        (AfterSmallGrants { durable: false }, small),
    ]
    .into_iter()
    .filter_map(|(measure, wanted)| wanted.then_some(measure))
    .collect()
}

/// A rate of each measure a round.
type Samples = HashMap<Measure, Vec<f64>>;

struct Rounds<'a> {
    scratch: &'a Scratch,
    plan: &'a Plan,
    ids: Ids,
    one_grant: Ids,
    small_grants: Ids,
    /// How many clients make the most of bulk calls.
    bulk_clients: HashMap<Measure, usize>,
}

impl Rounds<'_> {
    async fn run(&mut self, measures: &[Measure]) -> Result<Samples> {
        let steps = measures.len() * (self.plan.rounds as usize + 1);
        let progress = Progress::phase("measuring", steps as u64)?;
        // First calls and first touches of pages are not what is compared.
        progress.now("warming up");
        for &measure in measures {
            if let Some(function) = measure.of_many() {
                let clients = match measure {
                    LoneGrantMany | LoneSpendMany => 1,
                    _ => self.best_clients(function, measure).await?,
                };
                self.bulk_clients.insert(measure, clients);
            } else {
                self.rate(measure, 1).await?;
            }
            progress.advance(1);
        }
        let mut samples = Samples::new();
        for round in 1..=self.plan.rounds {
            for &measure in measures {
                progress.now(&format!("round {round}: {measure:?}"));
                let rate = self.rate(measure, self.plan.seconds).await?;
                samples.entry(measure).or_default().push(rate);
                progress.advance(1);
            }
        }
        progress.end();
        Ok(samples)
    }

    /// Transactions, or items of bulk calls, a second.
    async fn rate(&self, measure: Measure, seconds: u32) -> Result<f64> {
        if let Some(function) = measure.of_many() {
            let clients = self.bulk_clients.get(&measure).copied();
            let calls = CALLS_PER_SECOND * seconds as usize;
            let clients = clients.context("bulk calls are warmed up first")?;
            return self.bulk_rate(function, measure, clients, calls).await;
        }
        let (script, clients, ids, durable) = match measure {
            Update => (&UPDATE, CLIENTS, self.ids, true),
            Spend => (&SPEND, CLIENTS, self.ids, true),
            Grant => (&GRANT, CLIENTS, self.ids, true),
            Select => (&SELECT, CLIENTS, self.ids, true),
            Balance => (&BALANCE, CLIENTS, self.ids, true),
            AfterOneGrant { durable } => (&SPEND, 1, self.one_grant, durable),
            AfterSmallGrants { durable } => (&SPEND, 1, self.small_grants, durable),
            LoneSpend => (&SPEND, 1, self.ids, true),
            LoneGrant => (&GRANT, 1, self.ids, true),
            _ => bail!("{measure:?} is no call of pgbench"),
        };
        Pgbench {
            database: DATABASE,
            script,
            clients,
            seconds,
            ids,
            synchronous_commit: durable,
        }
        .rate(self.scratch)
        .await
    }

    /// Calls of a thousand items are work for the cores more than waits for
    /// the disk: on few cores fewer clients can do more.
    async fn best_clients(&self, function: &'static str, measure: Measure) -> Result<usize> {
        let mut best = (0.0, 0);
        for clients in [2, 4, CLIENTS as usize] {
            let rate = self
                .bulk_rate(function, measure, clients, TRIAL_CALLS)
                .await?;
            if rate > best.0 {
                best = (rate, clients);
            }
        }
        Ok(best.1)
    }

    async fn bulk_rate(
        &self,
        function: &'static str,
        measure: Measure,
        clients: usize,
        calls: usize,
    ) -> Result<f64> {
        let accounts: Vec<i64> = self.ids.all().collect();
        // All texts are made before the clock starts.
        let texts: Vec<String> = (0..calls)
            .map(|call| {
                let chosen: Vec<i64> = if measure.in_a_row() {
                    let all = accounts.iter().cycle();
                    let from = call * CALL_ITEMS % accounts.len();
                    all.skip(from).take(CALL_ITEMS).copied().collect()
                } else {
                    fastrand::choose_multiple(accounts.iter().copied(), CALL_ITEMS)
                };
                let items: Vec<Item> = chosen
                    .into_iter()
                    .map(|account_id| Item {
                        account_id,
                        points: 1,
                        day: None,
                    })
                    .collect();
                load::call(&items)
            })
            .collect();
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
        let taken = |measure: Measure| -> Result<Vec<f64>> {
            let rates = samples.get(&measure);
            rates
                .cloned()
                .with_context(|| format!("{measure:?} was not measured"))
        };
        let mut line = |name: &str, against: &str, measured, base, target: Option<f64>| {
            report.lines.push(Line {
                name: name.to_owned(),
                compared_with: against.to_owned(),
                unit: Unit::PerSecond,
                measured: taken(measured)?,
                base: taken(base)?,
                target: target.map(Target::AtLeast),
            });
            anyhow::Ok(())
        };
        let plan = self.plan;
        if plan.wants(Topic::Spend) {
            let name = "spend_fifo with a key";
            line(name, "bare update", Spend, Update, Some(0.6))?;
        }
        if plan.wants(Topic::Grant) {
            line("grant with a key", "bare update", Grant, Update, Some(0.6))?;
        }
        if plan.wants(Topic::Balance) {
            line("balance", "bare select", Balance, Select, Some(0.7))?;
        }
        if plan.wants(Topic::Bulk) {
            for (name, single, many, row, lone, lone_many) in [
                (
                    "grant",
                    Grant,
                    GrantMany,
                    GrantRow,
                    LoneGrant,
                    LoneGrantMany,
                ),
                (
                    "spend",
                    Spend,
                    SpendMany,
                    SpendRow,
                    LoneSpend,
                    LoneSpendMany,
                ),
            ] {
                let against = if name == "spend" { "spend_fifo" } else { name };
                line(
                    &format!("{name}_many, items"),
                    against,
                    many,
                    single,
                    Some(10.0),
                )?;
                line("  the same", "bare statements", many, BareMany, None)?;
                line("  accounts in a row", against, row, single, Some(10.0))?;
                let by_one = format!("{against} by one");
                line("  by one client", &by_one, lone_many, lone, Some(10.0))?;
            }
            let clients = |measure| self.bulk_clients.get(&measure).copied().unwrap_or(0);
            report.notes.push(format!(
                "Bulk calls of 1,000 items: grant_many by {} clients, spend_many by {}, \
                 bare statements by {}, in a row {} and {}, the best of 2, 4 and {CLIENTS}; \
                 all else by {CLIENTS} clients of pgbench where it does not say one.",
                clients(GrantMany),
                clients(SpendMany),
                clients(BareMany),
                clients(GrantRow),
                clients(SpendRow),
            ));
        }
        if plan.wants(Topic::SmallGrants) {
            for (durable, name, target) in [
                (true, "spend after small grants", Some(Target::AtMost(1.5))),
                (false, "  synchronous_commit off", None),
            ] {
                let times = |measure| -> Result<Vec<f64>> {
                    Ok(taken(measure)?.iter().map(|rate| 1_000.0 / rate).collect())
                };
                report.lines.push(Line {
                    name: name.to_owned(),
                    compared_with: "after one grant".to_owned(),
                    unit: Unit::Milliseconds,
                    measured: times(AfterSmallGrants { durable })?,
                    base: times(AfterOneGrant { durable })?,
                    target,
                });
            }
        }
        Ok(())
    }
}

/// Whether the ledger still holds together after all that.
pub async fn verify(client: &Client, report: &mut Report) -> Result<()> {
    let progress = Progress::phase("verify()", 0)?;
    let entries: i64 = client
        .query_one("select count(*) from loyalty.entry", &[])
        .await?
        .get(0);
    let start = Instant::now();
    let found = client
        .query("select v::text from loyalty.verify() v limit 20", &[])
        .await?;
    let took = start.elapsed();
    progress.end();
    report.notes.push(format!(
        "verify() over the {} entries of this: {} in {:.0} s.",
        grouped(entries as f64),
        if found.is_empty() {
            "nothing found"
        } else {
            "LAWS BROKEN"
        },
        took.max(Duration::from_secs(1)).as_secs_f64(),
    ));
    report
        .findings
        .extend(found.iter().map(|row| row.get::<_, String>(0)));
    Ok(())
}
