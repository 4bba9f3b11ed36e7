//! An account as an operation has it: read, changed, and its entries numbered (laws 1 and 3).

use crate::clock;
use crate::day;
use crate::error::{Code, Fault, Result};
use crate::ledger::operation::{Needs, Request};
use crate::ledger::receipt::Receipt;
use crate::program::{self, Program};
use loyalty_core::wallet::{
    Day, ENTRIES_PER_ACCOUNT, Entry, EntryNo, Instant, Lot, Wallet, operation_id,
};
use pgrx::pg_sys::{self, Datum};
use std::rc::Rc;

/// An account read for an operation.
pub struct Account {
    pub account_id: i64,
    pub program_id: i32,
    pub is_open: bool,
    pub is_closed: bool,
    /// Its status as the row has it.
    pub status: Datum,
    /// The tid of its row; a row that was changed since is elsewhere.
    pub tid: pg_sys::ItemPointerData,
    /// Number of its last entry; also the version that a write checks.
    pub last_entry: EntryNo,
    pub wallet: Wallet,
    pub today: Day,
    pub now: Instant,
    pub program: Rc<Program>,
    /// Of a grant under way, the day that counts for its terms.
    pub granted_on: Option<Day>,
    /// Number that the next entry gets.
    pub next_entry: EntryNo,
    /// Number that the entry of the operation under way gets.
    pub own_entry: EntryNo,
}

/// An entry with its number and what it left behind.
pub struct Posted {
    pub entry: Entry,
    pub number: EntryNo,
    pub balance: i64,
    pub available: i64,
    pub key: Option<String>,
    pub hash: Option<i32>,
    pub reason: Option<String>,
    pub granted_on: Option<Day>,
    pub hold_until: Option<Instant>,
    pub other: Option<(i64, EntryNo)>,
}

pub fn no_such_account(account_id: i64) -> Fault {
    Fault::new(Code::NotFound, "no_such_account", "no such account")
        .field("account_id")
        .detail(format!("Account {account_id} does not exist."))
        .hint("loyalty.open_account(program, member_no) gives a member's account.")
}

/// Cannot be: under REPEATABLE READ PostgreSQL itself raises 40001 when the lock is taken.
pub fn changed_under_lock() -> Fault {
    Fault::damaged("the account changed under its own lock")
}

impl Account {
    pub fn check_status(&self, needs: Needs) -> Result<()> {
        let refused = match needs {
            Needs::Open => !self.is_open,
            Needs::NotClosed => self.is_closed,
        };
        if !refused {
            return Ok(());
        }
        let (state, reason, hint) = if self.is_closed {
            (
                "closed",
                "account_closed",
                "A closed account stays closed; open another one under a new member number.",
            )
        } else {
            (
                "suspended",
                "account_suspended",
                "loyalty.resume_account(account_id) lifts the suspension.",
            )
        };
        Err(Fault::new(
            Code::AccountClosed,
            reason,
            format!("the account is {state}"),
        )
        .field("account_id")
        .detail(format!("Account {} is {state}.", self.account_id))
        .hint(hint))
    }

    /// What an operation brings along: holds past their time end, and activity extends lots
    /// that lapse without it.
    pub fn prepare(&mut self, activity: bool) -> Result<Vec<Entry>> {
        let mut entries = self.wallet.release_lapsed(self.now);
        let slides = |lot: &Lot| lot.class.inactivity_months.is_some();
        if activity && self.wallet.lots.iter().any(slides) {
            let today = self.today;
            let last_day = |months| day::months_after(today, months);
            entries.extend(self.wallet.extend(self.today, self.now, last_day)?);
        }
        Ok(entries)
    }

    pub fn available(&self) -> i64 {
        self.wallet.available(self.today, self.now)
    }

    /// Whether what was worked out for it would be the same by now, if its row is: no day has
    /// ended (law 4), no hold can have (law 8), and its program is as it was.
    pub fn is_current(&self) -> Result<bool> {
        Ok(self.wallet.holds.is_empty()
            && self.today == self.program.day_of(clock::now())
            && Rc::ptr_eq(&self.program, &program::get(self.program_id)?))
    }

    /// Numbers entries and works out the balance after each. The key goes to the entry at
    /// `main`, the operation's own; the others (a lapsed hold, a debt repaid, breakage) are
    /// what it brought along.
    pub fn post(
        &mut self,
        entries: Vec<Entry>,
        main: usize,
        request: &Request,
    ) -> Result<Vec<Posted>> {
        let count = EntryNo::try_from(entries.len()).unwrap_or(EntryNo::MAX);
        let first = self.next_entry;
        if first > ENTRIES_PER_ACCOUNT.saturating_sub(count) {
            return Err(Fault::new(
                Code::LimitExceeded,
                "journal_full",
                "the account's journal is full",
            )
            .field("account_id")
            .detail(format!("It has {} entries.", first - 1))
            .hint("Open another account for the member."));
        }
        let change: i64 = entries.iter().map(|entry| entry.points).sum();
        let available = self.available();
        let mut balance = self.wallet.balance() - change;
        self.next_entry += count;
        let mut main_number = None;
        Ok((first..)
            .zip(entries)
            .enumerate()
            .map(|(index, (number, mut entry))| {
                balance += entry.points;
                let is_main = index == main;
                if is_main {
                    main_number = Some(number);
                } else if entry.refers_to.is_none() {
                    // what follows is about it, what goes before is not
                    entry.refers_to = main_number;
                }
                Posted {
                    number,
                    balance,
                    available,
                    key: request.key.filter(|_| is_main).map(str::to_owned),
                    hash: request.key.filter(|_| is_main).map(|_| request.hash),
                    reason: request.reason.filter(|_| is_main).map(str::to_owned),
                    granted_on: self.granted_on.filter(|_| is_main),
                    hold_until: request
                        .hold_for
                        .filter(|_| is_main)
                        .map(|time| self.now.saturating_add(time)),
                    other: None,
                    entry,
                }
            })
            .collect())
    }

    /// The receipt of the operation whose own entry is at `main`.
    pub fn receipt(&self, posted: &[Posted], main: usize) -> Receipt {
        let own = &posted[main];
        Receipt {
            operation_id: operation_id(self.account_id, own.number),
            account_id: self.account_id,
            kind: own.entry.kind,
            points: own.entry.amount(),
            balance: self.wallet.balance(),
            available: own.available,
            occurred_at: self.now,
            lots: own
                .entry
                .lots
                .iter()
                .map(|lot| (lot.expires_on, lot.points.abs()))
                .collect(),
        }
    }
}
