//! Moving points to another member's account.

use crate::error::{Fault, Result};
use crate::ledger::account::{Posted, changed_under_lock, no_such_account};
use crate::ledger::journal::stored_receipt;
use crate::ledger::load::load_many_locked;
use crate::ledger::operation::{Given, Needs, Request, check_request, positive, request_hash};
use crate::ledger::reader::Reader;
use crate::ledger::receipt::Receipt;
use crate::ledger::write::Writer;
use crate::pg::call::{Call, sql_function};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::Spi;
use loyalty_core::wallet::Entry;

sql_function!(transfer);
/// `loyalty.transfer(from_account, to_account, points, reason, idempotency_key)`
fn transfer(call: &Call) -> Result<Receipt> {
    let from = call.need("from_account", call.i64(0))?;
    let to = call.need("to_account", call.i64(1))?;
    let points = positive(call.need("points", call.i64(2))?)?;
    let (reason, key) = (call.text(3), call.text(4));
    if from == to {
        return Err(
            Fault::invalid("accounts_same", "from_account and to_account are the same")
                .field("to_account")
                .hint("A transfer is between two accounts."),
        );
    }
    let request = Request {
        reason: reason.as_deref(),
        key: key.as_deref(),
        hash: request_hash(&[&"transfer", &to, &points, &Given(reason.as_ref())]),
        ..Request::default()
    };
    check_request(&request)?;
    let spi = Spi::connect();
    let mut accounts = load_many_locked(&spi, &[from, to])?;
    if let Some(sender) = accounts.iter().find(|account| account.account_id == from) {
        // Under the lock the key is known, if it ever was.
        let mut reader = Reader::open(Snapshot::Transaction)?;
        let stored = stored_receipt(&spi, sender, &mut reader, &request)?;
        if let Some(receipt) = stored {
            return Ok(receipt);
        }
    }
    for id in [from, to] {
        if !accounts.iter().any(|account| account.account_id == id) {
            return Err(no_such_account(id));
        }
    }
    accounts.sort_by_key(|account| account.account_id != from);
    let [sender, receiver] = accounts.as_mut_slice() else {
        return Err(no_such_account(to));
    };
    if sender.program_id != receiver.program_id {
        return Err(Fault::invalid(
            "accounts_of_different_programs",
            "the accounts belong to different programs",
        )
        .field("to_account")
        .hint("Points stay within their program."));
    }
    sender.check_status(Needs::Open)?;
    receiver.check_status(Needs::NotClosed)?;
    let mut sent = sender.prepare(true)?;
    let own = sent.len();
    let mut received = receiver.prepare(true)?;
    let theirs = received.len();
    let entry: Entry = sender.wallet.send(points, sender.today, sender.now)?;
    received.push(receiver.wallet.receive(&entry)?);
    sent.push(entry);
    sender.wallet.tidy(sender.today);
    receiver.wallet.tidy(receiver.today);
    let mut sent: Vec<Posted> = sender.post(sent, own, &request)?;
    let told = Request {
        reason: request.reason,
        ..Request::default()
    };
    let mut received = receiver.post(received, theirs, &told)?;
    sent[own].other = Some((receiver.account_id, received[theirs].number));
    received[theirs].other = Some((sender.account_id, sent[own].number));
    let mut writer = Writer::open(&spi)?;
    for (account, posted) in [(&*sender, &sent), (&*receiver, &received)] {
        if !writer.put(account, posted)? {
            return Err(changed_under_lock());
        }
    }
    writer.finish()?;
    Ok(sender.receipt(&sent, own))
}
