//! Clerks: clients that change the ledger all the time, with a key for each call, and keep a
//! book of what they asked for and what they were told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, SimpleQueryMessage, SimpleQueryRow};

use loyalty_testkit::cluster::connect;

/// What a clerk asks for. Of what it refers to it says the key: the number came with the answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Grant {
        account: i64,
        points: i64,
    },
    Spend {
        account: i64,
        points: i64,
    },
    Hold {
        account: i64,
        points: i64,
    },
    Capture {
        account: i64,
        of: String,
        points: i64,
    },
    Refund {
        account: i64,
        of: String,
        points: i64,
    },
    Transfer {
        from: i64,
        to: i64,
        points: i64,
    },
    /// Accounts and points; the key of each item is the call's with its number.
    GrantMany(Vec<(i64, i64)>),
}

/// An answer, in the words of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub key: String,
    pub operation_id: i64,
    pub account_id: i64,
    pub kind: String,
    pub points: i64,
    pub balance: i64,
    pub available: i64,
    pub occurred_at: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    Acknowledged(Vec<Receipt>),
    /// An SQLSTATE: nothing was booked.
    Refused(String),
    /// The answer never came.
    InDoubt,
}

#[derive(Clone, Debug)]
pub struct Record {
    pub key: String,
    pub request: Request,
    pub fate: Fate,
}

impl Record {
    /// The keys that its entries have.
    pub fn keys(&self) -> Vec<String> {
        match &self.request {
            Request::GrantMany(items) => (0..items.len()).map(|n| item_key(&self.key, n)).collect(),
            _ => vec![self.key.clone()],
        }
    }

    /// What it does to the balances of accounts when it is done.
    pub fn effects(&self) -> Vec<(i64, i64)> {
        match &self.request {
            Request::Grant { account, points }
            | Request::Refund {
                account, points, ..
            } => {
                vec![(*account, *points)]
            }
            Request::Spend { account, points }
            | Request::Capture {
                account, points, ..
            } => {
                vec![(*account, -points)]
            }
            Request::Hold { .. } => Vec::new(),
            Request::Transfer { from, to, points } => vec![(*from, -points), (*to, *points)],
            Request::GrantMany(items) => items.clone(),
        }
    }
}

fn item_key(key: &str, number: usize) -> String {
    format!("{key}/{number}")
}

/// Codes that an honest call may be refused with: the points were gone.
const LAWFUL: [&str; 1] = ["LY001"];

/// Items of a call of many.
const MANY: usize = 25;

/// One client. Its operations are random, the same for the same name.
pub struct Clerk {
    name: String,
    random: Rng,
    accounts: Vec<i64>,
    pub book: Vec<Record>,
    /// Numbers of its operations.
    known: HashMap<String, i64>,
    /// Accounts, keys and points of spends not wholly refunded, and of holds.
    spends: Vec<(i64, String, i64)>,
    holds: Vec<(i64, String, i64)>,
}

impl Clerk {
    pub fn new(name: &str, accounts: &[i64]) -> Self {
        let seed = name.bytes().fold(7_u64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        Self {
            name: name.to_owned(),
            random: Rng::with_seed(seed),
            accounts: accounts.to_vec(),
            book: Vec::new(),
            known: HashMap::new(),
            spends: Vec::new(),
            holds: Vec::new(),
        }
    }

    /// Makes the next call up.
    fn think(&mut self) -> Record {
        let account = self.accounts[self.random.usize(..self.accounts.len())];
        let points = self.random.i64(1..=40);
        let request = match self.random.u8(..100) {
            0..25 => Request::Grant {
                account,
                points: points * 10,
            },
            25..45 => Request::Spend { account, points },
            45..55 => Request::Hold { account, points },
            55..65 if !self.holds.is_empty() => {
                let place = self.random.usize(..self.holds.len());
                let (account, of, held) = self.holds.swap_remove(place);
                Request::Capture {
                    account,
                    of,
                    points: self.random.i64(1..=held),
                }
            }
            65..80 if !self.spends.is_empty() => {
                let place = self.random.usize(..self.spends.len());
                let (account, of, left) = self.spends[place].clone();
                let points = self.random.i64(1..=left);
                if points == left {
                    self.spends.swap_remove(place);
                } else {
                    self.spends[place].2 -= points;
                }
                Request::Refund {
                    account,
                    of,
                    points,
                }
            }
            80..92 => {
                let to = self.accounts[self.random.usize(..self.accounts.len())];
                if to == account {
                    Request::Spend { account, points }
                } else {
                    Request::Transfer {
                        from: account,
                        to,
                        points,
                    }
                }
            }
            92..95 => Request::GrantMany(
                (0..MANY)
                    .map(|_| {
                        (
                            self.accounts[self.random.usize(..self.accounts.len())],
                            self.random.i64(1..=40),
                        )
                    })
                    .collect(),
            ),
            _ => Request::Spend { account, points },
        };
        Record {
            key: format!("{}/{}", self.name, self.book.len()),
            request,
            fate: Fate::InDoubt,
        }
    }

    /// Calls until told to stop, or until the connection is lost.
    pub async fn work(&mut self, config: &Config, stop: &AtomicBool) -> Result<()> {
        let client = connect(config).await.context("a clerk cannot connect")?;
        while !stop.load(Ordering::Relaxed) {
            let mut record = self.think();
            record.fate = self.ask(&client, &record).await?;
            self.remember(&record);
            let lost = record.fate == Fate::InDoubt;
            self.book.push(record);
            if lost {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Makes a call; an answer of the server's that it should not give is an error.
    pub async fn ask(&self, client: &Client, record: &Record) -> Result<Fate> {
        let fate = ask(client, &self.sql(record)?, record).await?;
        if let Fate::Refused(code) = &fate {
            // 53: no room on disk. What was refused for it is asked for again.
            ensure!(
                LAWFUL.contains(&code.as_str()) || code.starts_with("53"),
                "{record:?} was refused with {code}"
            );
        }
        Ok(fate)
    }

    fn sql(&self, record: &Record) -> Result<String> {
        let number = |of: &String| {
            self.known
                .get(of)
                .copied()
                .with_context(|| format!("{of} has no answer yet"))
        };
        sql(record, number)
    }

    fn remember(&mut self, record: &Record) {
        let Fate::Acknowledged(receipts) = &record.fate else {
            return;
        };
        for receipt in receipts {
            self.known.insert(receipt.key.clone(), receipt.operation_id);
        }
        let key = record.key.clone();
        match &record.request {
            Request::Spend { account, points } => self.spends.push((*account, key, *points)),
            Request::Hold { account, points } => self.holds.push((*account, key, *points)),
            _ => {}
        }
    }

    /// Asks again for all that has no answer, and for what there was no room for: the same key,
    /// the same request.
    pub async fn settle(&mut self, client: &Client) -> Result<()> {
        for place in 0..self.book.len() {
            let open = match &self.book[place].fate {
                Fate::InDoubt => true,
                Fate::Refused(code) => code.starts_with("53"),
                Fate::Acknowledged(_) => false,
            };
            if open {
                self.ask_again(client, place).await?;
            }
        }
        Ok(())
    }

    /// What a server had lost that it was told of: as if no answer had come.
    pub fn forget(&mut self, lost: &[Receipt]) {
        let lost: HashSet<&String> = lost.iter().map(|receipt| &receipt.key).collect();
        for record in &mut self.book {
            if record.keys().iter().any(|key| lost.contains(key)) {
                record.fate = Fate::InDoubt;
            }
        }
        self.known.retain(|key, _| !lost.contains(key));
    }

    /// Asks once more for what is at a place of the book, and keeps the new answer.
    pub async fn ask_again(&mut self, client: &Client, place: usize) -> Result<()> {
        let mut record = self.book[place].clone();
        record.fate = self.ask(client, &record).await?;
        ensure!(
            record.fate != Fate::InDoubt,
            "{record:?}: no answer once more"
        );
        self.remember(&record);
        self.book[place] = record;
        Ok(())
    }

    /// Asks once more for all that was acknowledged: each stored answer is the first one (law 6).
    pub async fn ask_all_again(&self, client: &Client) -> Result<()> {
        self.ask_some_again(client, |_| true).await
    }

    /// The same for those of them that these keys are of.
    pub async fn ask_these_again(&self, client: &Client, keys: &HashSet<String>) -> Result<()> {
        self.ask_some_again(client, |record| {
            record.keys().iter().all(|key| keys.contains(key))
        })
        .await
    }

    async fn ask_some_again(
        &self,
        client: &Client,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<()> {
        for record in &self.book {
            if matches!(record.fate, Fate::Acknowledged(_)) && wanted(record) {
                let fate = self.ask(client, record).await?;
                ensure!(
                    fate == record.fate,
                    "{} was told {:?}, and asking again {fate:?}",
                    record.key,
                    record.fate
                );
            }
        }
        Ok(())
    }
}

/// The statement that asks for it, under its key.
pub fn sql(record: &Record, number: impl Fn(&String) -> Result<i64>) -> Result<String> {
    let key = &record.key;
    let call = match &record.request {
        Request::Grant { account, points } => {
            format!("grant(account_id => {account}, points => {points}, ")
        }
        Request::Spend { account, points } => {
            format!("spend_fifo(account_id => {account}, points => {points}, ")
        }
        Request::Hold { account, points } => {
            format!("hold(account_id => {account}, points => {points}, expires_in => '1 day', ")
        }
        Request::Capture {
            account,
            of,
            points,
        } => format!(
            "capture(account_id => {account}, operation_id => {}, points => {points}, ",
            number(of)?
        ),
        Request::Refund {
            account,
            of,
            points,
        } => format!(
            "refund(account_id => {account}, operation_id => {}, points => {points}, ",
            number(of)?
        ),
        Request::Transfer { from, to, points } => {
            format!("transfer(from_account => {from}, to_account => {to}, points => {points}, ")
        }
        Request::GrantMany(items) => {
            return Ok(format!(
                "select r.operation_id, r.account_id, r.kind, r.points, r.balance, r.available, \
                        r.occurred_at, r.error_code
                   from loyalty.grant_many('{}') r order by r.item",
                many(key, items)
            ));
        }
    };
    Ok(format!(
        "select r.operation_id, r.account_id, r.kind, r.points, r.balance, r.available, r.occurred_at
           from loyalty.{call}idempotency_key => '{key}') r"
    ))
}

/// The items of a call of many, as JSON.
pub fn many(key: &str, items: &[(i64, i64)]) -> serde_json::Value {
    items
        .iter()
        .enumerate()
        .map(|(n, (account, points))| {
            serde_json::json!({
                "account_id": account, "points": points, "idempotency_key": item_key(key, n)
            })
        })
        .collect()
}

/// Asks, and reads the answer.
pub async fn ask(client: &Client, sql: &str, record: &Record) -> Result<Fate> {
    let messages = match client.simple_query(sql).await {
        Ok(messages) => messages,
        Err(error) => {
            return Ok(match error.code().map(|code| code.code().to_owned()) {
                // 57P01 to 57P03: the server goes, or is not there yet
                Some(code) if !code.starts_with("57P") => Fate::Refused(code),
                _ => Fate::InDoubt,
            });
        }
    };
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let keys = record.keys();
    let receipts: Vec<Receipt> = rows
        .zip(&keys)
        .map(|(row, key)| receipt(row, key))
        .collect::<Result<_>>()?;
    ensure!(
        receipts.len() == keys.len(),
        "{record:?} was answered with {} rows",
        receipts.len()
    );
    Ok(Fate::Acknowledged(receipts))
}

fn receipt(row: &SimpleQueryRow, key: &str) -> Result<Receipt> {
    if let Some(code) = (row.len() > 7).then(|| row.get(7)).flatten() {
        bail!("item {key} was refused with {code}");
    }
    let text = |column: usize| {
        row.get(column)
            .with_context(|| format!("the answer to {key} has no column {column}"))
    };
    Ok(Receipt {
        key: key.to_owned(),
        operation_id: text(0)?.parse()?,
        account_id: text(1)?.parse()?,
        kind: text(2)?.to_owned(),
        points: text(3)?.parse()?,
        balance: text(4)?.parse()?,
        available: text(5)?.parse()?,
        occurred_at: text(6)?.to_owned(),
    })
}

/// A program, and accounts with points to start from.
pub async fn open_accounts(client: &Client, accounts: i32) -> Result<Vec<i64>> {
    client
        .batch_execute(
            "create extension if not exists pg_loyalty;
             select loyalty.create_program('torture', 'Torture')",
        )
        .await?;
    let rows = client
        .query(
            "select (loyalty.grant(o.account_id, 1000)).account_id
               from loyalty.open_accounts('torture', array(
                        select 'M-' || n from generate_series(1, $1::integer) n)) o
              order by 1",
            &[&accounts],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Clerks at work.
pub struct Shift {
    stop: Arc<AtomicBool>,
    working: Vec<JoinHandle<(Clerk, Result<()>)>>,
}

impl Shift {
    pub fn begin(clerks: Vec<Clerk>, config: &Config) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let working = clerks
            .into_iter()
            .map(|mut clerk| {
                let (stop, config) = (stop.clone(), config.clone());
                tokio::spawn(async move {
                    let outcome = clerk.work(&config, &stop).await;
                    (clerk, outcome)
                })
            })
            .collect();
        Self { stop, working }
    }

    /// Lets them finish the call they are in, or lose it.
    pub async fn end(self) -> Result<Vec<Clerk>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut clerks = Vec::new();
        for working in self.working {
            let (clerk, outcome) = tokio::time::timeout(Duration::from_secs(60), working)
                .await
                .context("a call was never answered")??;
            outcome?;
            clerks.push(clerk);
        }
        Ok(clerks)
    }
}

/// As many clerks as a busy machine of ours feeds.
pub fn clerks(number: usize, accounts: &[i64]) -> Vec<Clerk> {
    (0..number)
        .map(|n| Clerk::new(&format!("clerk-{n}"), accounts))
        .collect()
}

/// Asks again for all that is open.
pub async fn settle(clerks: &mut [Clerk], client: &Client) -> Result<()> {
    for clerk in clerks {
        clerk.settle(client).await?;
    }
    Ok(())
}
