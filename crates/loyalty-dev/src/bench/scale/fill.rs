//! Fills an empty ledger by COPY, as a dump would: programs are created, then come accounts,
//! the journal in the order of time, the wallets, and the members' records.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio_postgres::Client;

use super::copy::Copy;
use super::history::{Booked, Histories, Holding};
use super::shape::{MONTHS, Platform, mix};
use crate::bench::progress::Progress;
use crate::bench::scratch::Scratch;

const DAY: i64 = 86_400_000_000;
const SECOND: i64 = 1_000_000;

/// How long it took to load, and what there is now.
pub struct Filled {
    pub took: Duration,
    pub entries: u64,
}

/// The first day of a month, when it begins where the programs are, and when its points lapse.
struct Month {
    day: i32,
    begins: i64,
    expires_on: i32,
}

/// What is loaded.
struct Load<'a> {
    platform: &'a Platform,
    /// Number of each program.
    ids: Vec<i32>,
    months: Vec<Month>,
    /// When all accounts were opened.
    opened_at: i64,
}

/// Makes the programs and loads everything; each account's number is its place plus one.
pub async fn fill(
    scratch: &Scratch,
    database: &str,
    client: &Client,
    platform: &Platform,
) -> Result<Filled> {
    let start = Instant::now();
    let ids = create_programs(client, platform).await?;
    let months = months(client).await?;
    let load = Load {
        platform,
        ids,
        opened_at: months.first().context("there are months")?.begins - 30 * DAY,
        months,
    };
    let members = platform.members;
    let halves = Halves {
        sessions: [
            scratch.cluster.connect(database).await?,
            scratch.cluster.connect(database).await?,
        ],
        accounts: [0..members / 2, members / 2..members],
    };
    let accounts = async |copy, _, accounts, progress: &Progress| {
        load.accounts(copy, accounts, progress).await
    };
    let accounts = halves.load("loyalty.account", ACCOUNT, 1, accounts).await?;
    let journal =
        async |copy, _, accounts, progress: &Progress| load.journal(copy, accounts, progress).await;
    let [(first, low), (second, high)] =
        halves.load("loyalty.entry", ENTRY, MONTHS, journal).await?;
    let histories = [low, high];
    let wallets = async |copy, half: usize, accounts, progress: &Progress| {
        load.wallets(copy, &histories[half], accounts, progress)
            .await
    };
    let wallets = halves.load("loyalty.wallet", WALLET, 1, wallets).await?;
    let records =
        async |copy, _, accounts, progress: &Progress| load.members(copy, accounts, progress).await;
    let records = halves.load("loyalty.member", MEMBER, 1, records).await?;
    for written in [accounts, wallets, records] {
        let written: u64 = written.iter().sum();
        ensure!(written == members as u64, "{written} of {members} rows");
    }
    client
        .execute(
            "select setval('loyalty.account_account_id_seq', $1::bigint)",
            &[&platform.members.try_into().unwrap_or(i64::MAX)],
        )
        .await?;
    Ok(Filled {
        took: start.elapsed(),
        entries: first + second,
    })
}

/// The accounts in two halves, each loaded by a session of its own.
struct Halves {
    sessions: [Client; 2],
    accounts: [Range<usize>; 2],
}

impl Halves {
    /// One statement for each half: the guard wants the table empty when a COPY begins.
    async fn load<T>(
        &self,
        table: &str,
        columns: &str,
        rounds: usize,
        work: impl AsyncFn(Copy, usize, Range<usize>, &Progress) -> Result<T>,
    ) -> Result<[T; 2]> {
        let steps = self.accounts[1].end * rounds;
        let progress = Progress::phase(&format!("loading {table}"), steps as u64)?;
        let [one, two] = &self.sessions;
        let first = Copy::begin(one, table, columns).await?;
        let second = Copy::begin(two, table, columns).await?;
        let [low, high] = self.accounts.clone();
        let loaded = tokio::try_join!(
            work(first, 0, low, &progress),
            work(second, 1, high, &progress),
        )?;
        progress.end();
        Ok(loaded.into())
    }
}

/// The programs, the largest first, with their numbers.
async fn create_programs(client: &Client, platform: &Platform) -> Result<Vec<i32>> {
    let rows = client
        .query(
            "select (loyalty.create_program(code, 'Program ' || code)).program_id\n\
             from (select 'p' || lpad(n::text, 3, '0') as code\n\
             from generate_series(1, $1::bigint) n) p",
            &[&(platform.sizes.len() as i64)],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The months through this one, as the programs' policy has them.
async fn months(client: &Client) -> Result<Vec<Month>> {
    let rows = client
        .query(
            "select m::date - date '2000-01-01',\n\
             (extract(epoch from timezone('Asia/Tokyo', m) - timestamptz '2000-01-01 00:00+00')\n\
             * 1000000)::bigint,\n\
             loyalty.expires_on('end of month after 3 years', m::date) - date '2000-01-01'\n\
             from generate_series(\n\
             date_trunc('month', timezone('Asia/Tokyo', now())) - make_interval(months => $1 - 1),\n\
             timezone('Asia/Tokyo', now()), interval '1 month') m\n\
             order by m",
            &[&(MONTHS as i32)],
        )
        .await?;
    ensure!(rows.len() == MONTHS, "{} months", rows.len());
    Ok(rows
        .iter()
        .map(|row| Month {
            day: row.get(0),
            begins: row.get(1),
            expires_on: row.get(2),
        })
        .collect())
}

const ACCOUNT: &str = "account_id, program_id, member_no, opened_at";
const ENTRY: &str = "account_id, points, balance, occurred_at, entry, kind, expires_on, granted_on, \
    request_hash, actor, reason, idempotency_key, lot_expires_on, lot_points";
const WALLET: &str = "account_id, balance, program_id, first_entry, last_entry, next_expiry_on, \
    lot_expires_on, lot_granted, lot_remaining";
const MEMBER: &str =
    "account_id, program_id, name, kana, birth_date, email, phone, facts, updated_at";

impl<'a> Load<'a> {
    fn program_id(&self, account: usize) -> i32 {
        self.ids[self.platform.program_of(account)]
    }

    async fn accounts(
        &self,
        mut copy: Copy,
        accounts: Range<usize>,
        progress: &Progress,
    ) -> Result<u64> {
        for account in accounts {
            copy.row(4)
                .i64(account as i64 + 1)
                .i32(self.program_id(account))
                .text(&member_no(account))
                .i64(self.opened_at);
            advance(progress, account);
            copy.flush().await?;
        }
        copy.end().await
    }

    /// Month by month: first what is granted, by a run in the order of accounts, then what is
    /// spent, by anybody at any time.
    async fn journal(
        &self,
        mut copy: Copy,
        accounts: Range<usize>,
        progress: &Progress,
    ) -> Result<(u64, Histories<'a>)> {
        let first = accounts.start;
        let count = accounts.len();
        let mut histories = Histories::new(self.platform.months(), accounts);
        // Coprime to any count, so that steps of it come by every place once.
        let stride = 1_000_003;
        for month in 0..MONTHS {
            for place in 0..count {
                if let Some(booked) = histories.grant(place, month) {
                    self.entry(&mut copy, first + place, month, &booked);
                    copy.flush().await?;
                }
                advance(progress, place);
            }
            // This month's spending is still to come.
            for step in 0..count * usize::from(month + 1 < MONTHS) {
                let place = (step * stride) % count;
                if let Some(booked) = histories.spend(place, month) {
                    self.entry(&mut copy, first + place, month, &booked);
                    copy.flush().await?;
                }
            }
        }
        Ok((copy.end().await?, histories))
    }

    fn entry(&self, copy: &mut Copy, account: usize, month: usize, booked: &Booked<'_>) {
        let dice = mix(account as u64, 3_000 + month as u64);
        let spends = booked.points < 0;
        let month_of = &self.months[month];
        // Spends are of the rest of the month, at any second of it.
        let later = DAY + (dice % 27) as i64 * DAY + (dice >> 32) as i64 % 86_400 * SECOND;
        let row = copy
            .row(14)
            .i64(account as i64 + 1)
            .i64(booked.points)
            .i64(booked.balance)
            .i64(month_of.begins + if spends { later } else { 0 })
            .i32(booked.entry)
            .text(if spends { "spend" } else { "grant" });
        let lone = match booked.lots {
            [(lot, _)] => Some(self.months[*lot].expires_on),
            _ => None,
        };
        let row = row.maybe_i32(lone);
        let row = row.maybe_i32((!spends).then_some(month_of.day));
        let row = row.i32(dice as i32);
        let row = if spends {
            row.text(&format!("loyalty_member:{}", account + 1))
                .text("Order")
                .text(&uuid(account, month))
        } else {
            row.text("postgres")
                .text("For another month")
                .text(&format!("rule/history/{month}"))
        };
        if lone.is_some() {
            row.null().null();
        } else {
            let days: Vec<i32> = self.days(booked.lots.iter().map(|lot| lot.0));
            let points: Vec<i64> = booked.lots.iter().map(|lot| lot.1).collect();
            row.dates(&days).i64s(&points);
        }
    }

    fn days(&self, months: impl Iterator<Item = usize>) -> Vec<i32> {
        months.map(|month| self.months[month].expires_on).collect()
    }

    async fn wallets(
        &self,
        mut copy: Copy,
        histories: &Histories<'a>,
        accounts: Range<usize>,
        progress: &Progress,
    ) -> Result<u64> {
        let mut holding = Holding::default();
        for (place, account) in accounts.enumerate() {
            histories.holding(place, &mut holding);
            let days = self.days(holding.months.iter().copied());
            let next = holding.remaining.iter().position(|&left| left > 0);
            copy.row(9)
                .i64(account as i64 + 1)
                .i64(holding.balance)
                .i32(self.program_id(account))
                .maybe_i32((holding.last_entry > 0).then_some(1))
                .i32(holding.last_entry)
                .maybe_i32(next.map(|place| days[place]))
                .dates(&days)
                .i64s(&holding.granted)
                .i64s(&holding.remaining);
            advance(progress, account);
            copy.flush().await?;
        }
        copy.end().await
    }

    async fn members(
        &self,
        mut copy: Copy,
        accounts: Range<usize>,
        progress: &Progress,
    ) -> Result<u64> {
        for account in accounts {
            let dice = mix(account as u64, 4_000);
            // Served for up to eight years before the first month, from any day.
            let facts = format!(
                r#"{{"first_service_on": "{}-{:02}-{:02}"}}"#,
                2015 + dice % 8,
                1 + (dice >> 16) % 12,
                1 + (dice >> 32) % 28
            );
            copy.row(9)
                .i64(account as i64 + 1)
                .i32(self.program_id(account))
                .text(&format!("Member {}", account + 1))
                .text("メンバー")
                .i32(-18_262 + (dice >> 8) as i32 % 10_000)
                .text(&format!("member-{}@example.com", account + 1))
                .text(&format!("+8190{:08}", (account + 1) % 100_000_000))
                .jsonb(&facts)
                .i64(self.opened_at);
            advance(progress, account);
            copy.flush().await?;
        }
        copy.end().await
    }
}

/// The number of a member whose account is known by its place.
pub fn member_no(account: usize) -> String {
    format!("M-{:07}", account + 1)
}

/// A key as shops make them.
fn uuid(account: usize, month: usize) -> String {
    let one = mix(account as u64, 5_000 + month as u64);
    let two = mix(account as u64, 6_000 + month as u64);
    let random = u128::from(one) << 64 | u128::from(two);
    let uuid = uuid::Builder::from_random_bytes(random.to_be_bytes());
    uuid.into_uuid().to_string()
}

/// Not each one by itself: a bar costs more than a row.
fn advance(progress: &Progress, place: usize) {
    if place.is_multiple_of(1_000) {
        progress.advance(1_000);
    }
}
