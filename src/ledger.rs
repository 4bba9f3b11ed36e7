//! Reading an account's wallet, and writing it back with what happened (laws 1, 3 and 6).
//!
//! An operation reads without a lock, and its write succeeds only if the wallet's row is still
//! the one it read. Whoever comes too late takes the row lock and does it again, so that
//! waiting is fair.

use crate::announce::News;
use crate::clock;
use crate::day;
use crate::error::{Code, Fault, Result};
use crate::fetch::{Reader, WalletRow};
use crate::program::{self, Program};
use crate::receipt::{self, Receipt, enum_label};
use crate::row::{classes_of, read_holds};
use crate::scan::Sight;
use crate::spi::{Param, Plan, Row, Spi};
use crate::waiting;
use crate::write::Writer;
use loyalty_core::wallet::{
    Class, Day, ENTRIES_PER_ACCOUNT, Entry, EntryNo, Instant, Lot, NEVER, Wallet, operation_id,
};
use pgrx::pg_sys::{self, Datum};
use std::rc::Rc;

/// Whether an operation is the holder's to make, or must go through a suspension too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Refused by a suspended or closed account.
    Open,
    /// Refused by a closed account only.
    NotClosed,
}

/// An account read for an operation.
pub struct Account {
    pub account_id: i64,
    pub program_id: i32,
    pub is_open: bool,
    pub is_closed: bool,
    /// Its status as the row has it.
    pub status: Datum,
    /// Where its row was found; a row that was changed since is elsewhere.
    pub place: pg_sys::ItemPointerData,
    /// Number of its last entry; also the version that a write checks.
    pub last_entry: EntryNo,
    pub wallet: Wallet,
    pub today: Day,
    pub now: Instant,
    pub program: Rc<Program>,
    /// Of a grant under way, the day that counts for its terms.
    pub granted_on: Option<Day>,
    /// Number that the next entry gets.
    next_entry: EntryNo,
    /// Number that the entry of the operation under way gets.
    pub own_entry: EntryNo,
}

/// What one call asks for, beyond what each operation adds.
#[derive(Default)]
pub struct Request<'a> {
    pub reason: Option<&'a str>,
    pub key: Option<&'a str>,
    /// All that the caller gave, so that a key under another request is noticed (law 6).
    pub hash: i32,
    /// Whether the key names what is paid for, once and for all: its payment is that one's, also
    /// where the terms have changed since.
    pub is_occasion: bool,
    /// Of a hold, how long it lasts, in microseconds from when it is made.
    pub hold_for: Option<i64>,
    /// Whether it keeps points from lapsing by inactivity (S10): what the member does or gets.
    pub activity: bool,
}

static LOCK_MANY: Plan = Plan::new(
    c"select w.account_id, w.balance, w.debt, w.program_id, w.status, w.last_entry,
             w.lot_expires_on, w.lot_granted, w.lot_remaining, w.lot_class, w.hold_entry, w.ctid
        from loyalty.wallet w where w.account_id = any($1)
       order by w.account_id for no key update of w",
);
static LOCK: Plan =
    Plan::new(c"select from loyalty.wallet where account_id = $1 for no key update");

/// Reads one account.
pub fn load(spi: &Spi, account_id: i64, sight: Sight) -> Result<Account> {
    find(spi, &mut Reader::open(sight)?, account_id)?.ok_or_else(|| no_such_account(account_id))
}

fn find(spi: &Spi, reader: &mut Reader, account_id: i64) -> Result<Option<Account>> {
    let Some(row) = reader.wallet(account_id)? else {
        return Ok(None);
    };
    let program = program::get(row.program_id)?;
    Ok(Some(read_account(spi, account_id, row, program)))
}

/// Reads accounts with their rows locked, in id order, which keeps callers from deadlock.
/// Those that are not there are left out.
pub fn load_many_locked(spi: &Spi, account_ids: &[i64]) -> Result<Vec<Account>> {
    // The row that was waited for comes back as it is now: no need to read it again.
    waiting::lock(spi, account_ids, || {
        LOCK_MANY.run(spi, &[Param::i64s(account_ids)])
    })
    .iter()
    .map(|row| {
        let (account_id, wallet) =
            read_row(row).ok_or_else(|| Fault::damaged("a wallet row is incomplete"))?;
        let program = program::get(wallet.program_id)?;
        Ok(read_account(spi, account_id, wallet, program))
    })
    .collect()
}

/// The columns of `LOCK_MANY`.
fn read_row(row: Row) -> Option<(i64, WalletRow)> {
    Some((
        row.i64(1)?,
        WalletRow {
            balance: row.i64(2)?,
            debt: row.i64(3).unwrap_or(0),
            program_id: row.i32(4)?,
            status: row.datum(5)?,
            last_entry: row.i32(6)?,
            lot_expires_on: row.i32s(7)?,
            lot_granted: row.i64s(8)?,
            lot_remaining: row.i64s(9)?,
            lot_class: row.i16s(10),
            hold_entry: row.i32s(11),
            place: row.place(12)?,
        },
    ))
}

pub fn no_such_account(account_id: i64) -> Fault {
    Fault::new(Code::NotFound, "no_such_account", "no such account")
        .field("account_id")
        .detail(format!("Account {account_id} does not exist."))
        .hint("loyalty.open_account(program, member_no) gives a member's account.")
}

fn read_account(spi: &Spi, account_id: i64, row: WalletRow, program: Rc<Program>) -> Account {
    let program_id = row.program_id;
    // SAFETY: a value of the enum type.
    let status = unsafe { enum_label(row.status) };
    let classes = row.lot_class.map(|ids| classes_of(spi, program_id, &ids));
    let lots = row
        .lot_expires_on
        .into_iter()
        .zip(row.lot_granted)
        .zip(row.lot_remaining)
        .enumerate()
        .map(|(index, ((expires_on, granted), remaining))| Lot {
            expires_on,
            class: classes
                .as_ref()
                .map_or(Class::default(), |classes| classes[index]),
            granted,
            remaining,
        })
        .collect();
    let holds = match row.hold_entry {
        Some(entries) if !entries.is_empty() => read_holds(spi, account_id, program_id, &entries),
        _ => Vec::new(),
    };
    // Last: all of the above may have waited for a table.
    let now = clock::now();
    Account {
        account_id,
        program_id,
        is_open: status == c"open",
        is_closed: status == c"closed",
        status: row.status,
        place: row.place,
        granted_on: None,
        next_entry: row.last_entry + 1,
        own_entry: 0,
        last_entry: row.last_entry,
        wallet: Wallet {
            lots,
            holds,
            debt: row.debt,
        },
        today: program.day_of(now),
        now,
        program,
    }
}

/// Changes accounts one after the other. They come in id order, each once, which keeps callers
/// from deadlock; nothing is to be seen of it before `finish`.
pub struct Sweep<'a> {
    spi: &'a Spi,
    reader: Reader,
    writer: Writer<'a>,
}

impl<'a> Sweep<'a> {
    pub fn begin(spi: &'a Spi) -> Result<Self> {
        Ok(Sweep {
            spi,
            reader: Reader::open(Sight::Now)?,
            writer: Writer::open(spi)?,
        })
    }

    /// Has `work` make entries of one account, and writes them. It may be asked twice: if
    /// another operation came between reading and writing, once more under the row's lock.
    /// None when there is no such account.
    pub fn change(
        &mut self,
        account_id: i64,
        mut work: impl FnMut(&mut Account, &mut Reader) -> Result<Vec<Posted>>,
    ) -> Result<Option<Account>> {
        if self.writer.wants_locks() {
            return self.change_locked(account_id, work);
        }
        let Some((account, posted)) = self.read(account_id, &mut work)? else {
            return Ok(None);
        };
        if self.writer.put_if_free(&account, &posted)? {
            return Ok(Some(account));
        }
        self.change_locked(account_id, work)
    }

    /// Changes many, each known to `work` by its place. All are read before the first of them is
    /// written, and with that locked: callers whose accounts overlap wait for each other's
    /// writing only, and nobody who holds an account waits for a new lot class.
    pub fn change_all(
        &mut self,
        account_ids: &[i64],
        mut work: impl FnMut(usize, &mut Account, &mut Reader) -> Result<Vec<Posted>>,
    ) -> Result<()> {
        if self.writer.wants_locks() {
            for (place, account_id) in account_ids.iter().enumerate() {
                self.change_locked(*account_id, |account, reader| work(place, account, reader))?;
            }
            return Ok(());
        }
        let mut read = Vec::with_capacity(account_ids.len());
        for (place, account_id) in account_ids.iter().enumerate() {
            let found = self.read(*account_id, |account, reader| work(place, account, reader))?;
            read.extend(found.map(|(account, posted)| (place, account, posted)));
        }
        let mut waited = false;
        for (place, account, posted) in read {
            let account_id = account.account_id;
            let again = |account: &mut Account, reader: &mut Reader| work(place, account, reader);
            if waited && !account.is_current()? {
                self.change(account_id, again)?;
            } else if !self.writer.put_if_free(&account, &posted)? {
                self.change_locked(account_id, again)?;
                waited = true;
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        account_id: i64,
        mut work: impl FnMut(&mut Account, &mut Reader) -> Result<Vec<Posted>>,
    ) -> Result<Option<(Account, Vec<Posted>)>> {
        pgrx::check_for_interrupts!();
        let Some(mut account) = find(self.spi, &mut self.reader, account_id)? else {
            return Ok(None);
        };
        let posted = work(&mut account, &mut self.reader)?;
        Ok(Some((account, posted)))
    }

    /// For whoever was too late: does it again, after waiting in the fair queue of the row's lock.
    fn change_locked(
        &mut self,
        account_id: i64,
        work: impl FnMut(&mut Account, &mut Reader) -> Result<Vec<Posted>>,
    ) -> Result<Option<Account>> {
        waiting::lock(self.spi, &[account_id], || {
            LOCK.run(self.spi, &[Param::i64(account_id)]);
        });
        self.reader = Reader::open(Sight::Now)?;
        let Some((account, posted)) = self.read(account_id, work)? else {
            return Ok(None);
        };
        if self.writer.put(&account, &posted)? {
            Ok(Some(account))
        } else {
            Err(changed_under_lock())
        }
    }

    pub fn finish(self) -> Result<()> {
        self.writer.finish()
    }
}

/// Makes one operation on one account: loads it, lets `change` work out the entries, and
/// writes both. The same key again gives the stored receipt (law 6).
pub fn operate(
    account_id: i64,
    request: &Request,
    needs: Needs,
    mut change: impl FnMut(&Spi, &mut Account) -> Result<Vec<Entry>>,
) -> Result<Receipt> {
    check_request(request)?;
    let spi = Spi::as_owner();
    let mut sweep = Sweep::begin(&spi)?;
    let mut outcome = None;
    let account = sweep
        .change(account_id, |account, reader| {
            if let Some(stored) = stored_receipt(&spi, account, reader, request)? {
                outcome = Some((stored, false));
                return Ok(Vec::new());
            }
            account.check_status(needs)?;
            let mut entries = account.prepare(request.activity)?;
            let before = entries.len();
            account.own_entry = account.next_entry + before as EntryNo;
            match change(&spi, account) {
                Ok(own) => entries.extend(own),
                // What it asked of the journal may be later than the wallet read: the same call
                // may have been made meanwhile, and that is why nothing is left for this one.
                Err(fault) => {
                    let mut later = Reader::open(Sight::Now)?;
                    let stored = stored_receipt(&spi, account, &mut later, request)?;
                    outcome = Some((stored.ok_or(fault)?, false));
                    return Ok(Vec::new());
                }
            }
            account.wallet.tidy(account.today);
            let posted = account.post(entries, before, request)?;
            outcome = Some((account.receipt(&posted, before), true));
            Ok(posted)
        })?
        .ok_or_else(|| no_such_account(account_id))?;
    sweep.finish()?;
    let (receipt, is_new) =
        outcome.ok_or_else(|| Fault::damaged("an operation without a receipt"))?;
    if is_new && account.program.announces_grants {
        let mut news = News::default();
        news.add(&receipt);
        news.announce(&spi);
    }
    Ok(receipt)
}

/// Cannot be: under REPEATABLE READ PostgreSQL itself raises 40001 when the lock is taken.
pub fn changed_under_lock() -> Fault {
    Fault::damaged("the account changed under its own lock")
}

/// What every operation asks of its key and reason.
pub fn check_request(request: &Request) -> Result<()> {
    check_key(request.key)?;
    check_reason(request.reason)
}

/// The receipt that the request's key made before, if it did.
pub fn stored_receipt(
    spi: &Spi,
    account: &Account,
    reader: &mut Reader,
    request: &Request,
) -> Result<Option<Receipt>> {
    let Some(key) = request.key else {
        return Ok(None);
    };
    reader
        .entry_by_key(account.account_id, key)?
        .map(|entry| receipt::stored(spi, account, entry, request))
        .transpose()
}

fn check_key(key: Option<&str>) -> Result<()> {
    match key {
        Some(key) if key.is_empty() || key.chars().count() > 255 => Err(Fault::invalid(
            "key_invalid",
            "an idempotency key has 1 to 255 characters",
        )
        .field("idempotency_key")
        .detail(format!("This one has {}.", key.chars().count()))
        .hint("Use a UUID, or your own order number.")),
        _ => Ok(()),
    }
}

fn check_reason(reason: Option<&str>) -> Result<()> {
    match reason.map(|reason| reason.chars().count()) {
        Some(length) if length > 1000 => {
            Err(Fault::invalid("reason_too_long", "reason is too long")
                .field("reason")
                .detail(format!("This one has {length}."))
                .hint("Keep long texts elsewhere, and name them here."))
        }
        _ => Ok(()),
    }
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
    fn is_current(&self) -> Result<bool> {
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
        let count = entries.len() as EntryNo;
        let first = self.next_entry;
        if first > ENTRIES_PER_ACCOUNT - count {
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
        Ok(entries
            .into_iter()
            .enumerate()
            .map(|(index, entry)| {
                balance += entry.points;
                let is_main = index == main;
                let mut entry = entry;
                let number = first + index as EntryNo;
                if index > main && entry.refers_to.is_none() {
                    entry.refers_to = Some(first + main as EntryNo);
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

/// Whether that is the last day of a lot that never expires.
pub fn never(day: Day) -> Option<Day> {
    (day != NEVER).then_some(day)
}
