//! Whether the ledger is what the clerks' books say.

use std::collections::HashMap;

use anyhow::Result;
use tokio_postgres::Client;

use super::load::{Clerk, Fate, Receipt, Record};

/// What was found when books and ledger were compared. Each list holds what does not hold.
#[derive(Debug, Default)]
pub struct Findings {
    /// Operations that clients were told of, and how many of these the journal has.
    pub acknowledged: usize,
    pub found: usize,
    /// Those asked for that nobody was told of: booked, and not booked.
    pub unanswered: usize,
    pub undone: usize,
    pub missing: Vec<Receipt>,
    pub twice: Vec<String>,
    pub different: Vec<String>,
    pub unasked: Vec<String>,
    pub balances: Vec<String>,
    pub verify: Vec<String>,
}

impl Findings {
    /// What verify() finds, and nothing else was looked at.
    pub async fn of_verify(client: &Client) -> Result<Self> {
        Ok(Self {
            verify: verify(client).await?,
            ..Self::default()
        })
    }

    pub fn problems(&self) -> Vec<String> {
        let named = |what: &str, list: &[String]| -> Vec<String> {
            let mut lines: Vec<String> = list
                .iter()
                .take(5)
                .map(|line| format!("{what}: {line}"))
                .collect();
            if list.len() > 5 {
                lines.push(format!("{what}: {} in all", list.len()));
            }
            lines
        };
        let missing: Vec<String> = self
            .missing
            .iter()
            .map(|receipt| format!("{receipt:?}"))
            .collect();
        [
            ("acknowledged and not there", &missing),
            ("there twice", &self.twice),
            ("not as acknowledged", &self.different),
            ("never asked for, or refused", &self.unasked),
            ("balance", &self.balances),
            ("verify()", &self.verify),
        ]
        .iter()
        .flat_map(|(what, list)| named(what, list))
        .collect()
    }
}

/// Balances, which the books go on from.
pub type Balances = HashMap<i64, i64>;

pub async fn balances(client: &Client) -> Result<Balances> {
    let rows = client
        .query("select account_id, balance from loyalty.wallet", &[])
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Compares the books with the journal by operation and key, and has verify() look.
/// `start`: balances when the books were begun; only told when nothing is in doubt.
pub async fn compare(client: &Client, clerks: &[Clerk], start: &Balances) -> Result<Findings> {
    let books: Vec<&Record> = clerks.iter().flat_map(|clerk| &clerk.book).collect();
    compare_books(client, &books, start).await
}

pub async fn compare_books(
    client: &Client,
    books: &[&Record],
    start: &Balances,
) -> Result<Findings> {
    let mut findings = Findings::default();
    let mut journal: HashMap<String, Vec<Receipt>> = HashMap::new();
    for receipt in read_journal(client).await? {
        journal
            .entry(receipt.key.clone())
            .or_default()
            .push(receipt);
    }
    for (key, entries) in &journal {
        if entries.len() > 1 {
            findings.twice.push(format!("{key}: {entries:?}"));
        }
    }
    let mut expected = start.clone();
    let mut in_doubt = false;
    for record in books {
        match &record.fate {
            Fate::Acknowledged(receipts) => {
                for receipt in receipts {
                    findings.acknowledged += 1;
                    match journal.remove(&receipt.key).as_deref() {
                        None => findings.missing.push(receipt.clone()),
                        Some(entries) if entries.contains(receipt) => findings.found += 1,
                        Some(entries) => findings
                            .different
                            .push(format!("{receipt:?} is {entries:?}")),
                    }
                }
                for (account, points) in record.effects() {
                    *expected.entry(account).or_default() += points;
                }
            }
            Fate::InDoubt => {
                in_doubt = true;
                let done = record
                    .keys()
                    .iter()
                    .filter(|key| journal.remove(*key).is_some())
                    .count();
                findings.unanswered += done;
                findings.undone += record.keys().len() - done;
                // a call is done wholly or not at all
                if done != 0 && done != record.keys().len() {
                    findings.different.push(format!("half of {record:?}"));
                }
            }
            // what was refused stays in the journal's list
            Fate::Refused(_) => {}
        }
    }
    findings.unasked = journal
        .into_values()
        .map(|entries| format!("{entries:?}"))
        .collect();
    if !in_doubt {
        for (account, balance) in balances(client).await? {
            let told = expected.remove(&account).unwrap_or_default();
            if balance != told {
                findings.balances.push(format!(
                    "account {account} has {balance}, the books say {told}"
                ));
            }
        }
    }
    findings.verify = verify(client).await?;
    Ok(findings)
}

async fn verify(client: &Client) -> Result<Vec<String>> {
    let rows = client
        .query("select v::text from loyalty.verify() v", &[])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The journal's entries that have keys, as receipts would tell of them.
pub async fn read_journal(client: &Client) -> Result<Vec<Receipt>> {
    let rows = client
        .query(
            "select e.idempotency_key, e.account_id << 24 | e.entry, e.account_id, e.kind::text,
                    case when e.kind = 'hold' then e.held else abs(e.points) end,
                    coalesce(f.balance, e.balance), coalesce(e.available, e.balance), e.occurred_at::text
               from loyalty.entry e
               -- points refunded too late lapse at once, in the same operation
               left join loyalty.entry f
                 on f.account_id = e.account_id and f.entry = e.entry + 1
                and f.kind = 'expire' and f.refers_to = e.entry
              where e.idempotency_key is not null",
            &[],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Receipt {
            key: row.get(0),
            operation_id: row.get(1),
            account_id: row.get(2),
            kind: row.get(3),
            points: row.get(4),
            balance: row.get(5),
            available: row.get(6),
            occurred_at: row.get(7),
        })
        .collect())
}
