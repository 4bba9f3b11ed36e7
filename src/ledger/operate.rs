//! Reading an account's wallet, and writing it back with what happened (laws 1, 3 and 6).
//!
//! An operation reads without a lock, and its write succeeds only if the wallet's row is still
//! the one it read. Whoever comes too late takes the row lock and does it again, so that
//! waiting is fair.

use crate::error::{Fault, Result};
use crate::ledger::account::{Account, Posted, changed_under_lock, no_such_account};
use crate::ledger::announce::News;
use crate::ledger::journal::stored_receipt;
use crate::ledger::load::find;
use crate::ledger::operation::{Needs, Request, check_request};
use crate::ledger::reader::Reader;
use crate::ledger::receipt::Receipt;
use crate::ledger::waiting;
use crate::ledger::write::Writer;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{Param, Plan, Spi};
use loyalty_core::wallet::{Entry, EntryNo};

static LOCK: Plan =
    Plan::new(c"select from loyalty.wallet where account_id = $1 for no key update");

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
            reader: Reader::open(Snapshot::Transaction)?,
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
    /// writing only, and nobody who has locked an account waits for a new lot class.
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
        waiting::lock_accounts(self.spi, &[account_id], || {
            LOCK.execute(self.spi, &[Param::i64(account_id)]);
        });
        self.reader = Reader::open(Snapshot::Transaction)?;
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
            account.own_entry =
                account.next_entry + EntryNo::try_from(before).unwrap_or(EntryNo::MAX);
            match change(&spi, account) {
                Ok(own) => entries.extend(own),
                // What it asked of the journal may be later than the wallet read: the same call
                // may have been made meanwhile, and that is why nothing is left for this one.
                Err(fault) => {
                    let mut later = Reader::open(Snapshot::Transaction)?;
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
