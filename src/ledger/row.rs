//! A wallet and its entries as rows of their tables.

use crate::ledger::account::{Account, Posted};
use crate::pg::table::NewRow;
use crate::table::entry::{ENTRY, Entry as EntryTable, Kinds};
use crate::table::wallet::{WALLET, Wallet as WalletTable};
use loyalty_core::wallet::{Day, Entry, EntryNo, Instant, Kind, Movement};

/// A row of loyalty.wallet, as far as an operation may change it.
pub fn wallet_row(
    account: &Account,
    state: &State,
    first_entry: EntryNo,
    last_entry: EntryNo,
) -> NewRow<WalletTable> {
    let mut row = NewRow::new();
    row.set(WALLET.account_id, account.account_id);
    row.set(WALLET.balance, account.wallet.balance());
    row.set(WALLET.debt, state.debt);
    row.set(WALLET.first_entry, first_entry);
    row.set(WALLET.last_entry, last_entry);
    row.set(WALLET.next_expiry_on, state.due);
    row.set(WALLET.lot_expires_on, state.days.as_slice());
    row.set(WALLET.lot_granted, state.granted.as_slice());
    row.set(WALLET.lot_remaining, state.remaining.as_slice());
    row.set(WALLET.lot_class, state.classes.as_deref());
    row.set(WALLET.hold_entry, state.hold_entries.as_deref());
    row.set(WALLET.hold_until, state.hold_untils.as_deref());
    row
}

/// A row of loyalty.entry.
pub fn entry_row(
    account: &Account,
    one: &Posted,
    kinds: &Kinds,
    actor: &str,
) -> NewRow<EntryTable> {
    let lots = LotColumns::of(&one.entry);
    let mut row = NewRow::new();
    row.set(ENTRY.account_id, account.account_id);
    row.set(ENTRY.points, one.entry.points);
    row.set(ENTRY.balance, one.balance);
    row.set(ENTRY.occurred_at, account.now);
    row.set(ENTRY.entry, one.number);
    row.set(ENTRY.kind, kinds.value(one.entry.kind));
    row.set(ENTRY.expires_on, lots.one);
    row.set(ENTRY.granted_on, one.granted_on);
    row.set(ENTRY.request_hash, one.hash);
    row.set(ENTRY.refers_to, one.entry.refers_to);
    row.set(
        ENTRY.available,
        Some(one.available).filter(|available| *available != one.balance),
    );
    row.set(ENTRY.held, nonzero(one.entry.held));
    row.set(ENTRY.debt, nonzero(one.entry.debt));
    row.set(
        ENTRY.other_account_id,
        one.other.map(|(account_id, _)| account_id),
    );
    row.set(ENTRY.other_entry, one.other.map(|(_, entry)| entry));
    row.set(ENTRY.actor, actor);
    row.set(ENTRY.reason, one.reason.as_deref());
    row.set(ENTRY.idempotency_key, one.key.as_deref());
    row.set(ENTRY.lot_expires_on, lots.days().as_deref());
    row.set(ENTRY.lot_points, lots.points().as_deref());
    row.set(ENTRY.lot_class, lots.classes.as_deref());
    row.set(ENTRY.hold_until, one.hold_until);
    row
}

fn nonzero(value: i64) -> Option<i64> {
    (value != 0).then_some(value)
}

/// A wallet as its columns.
pub struct State {
    pub debt: Option<i64>,
    pub due: Option<Day>,
    pub days: Vec<Day>,
    pub granted: Vec<i64>,
    pub remaining: Vec<i64>,
    pub classes: Option<Vec<i16>>,
    pub hold_entries: Option<Vec<EntryNo>>,
    pub hold_untils: Option<Vec<Instant>>,
}

impl State {
    pub fn of(account: &Account) -> Self {
        let wallet = &account.wallet;
        let lots = &wallet.lots;
        let holds = Some(&wallet.holds).filter(|holds| !holds.is_empty());
        State {
            debt: nonzero(wallet.debt),
            due: wallet.due_after(),
            days: lots.iter().map(|lot| lot.expires_on).collect(),
            granted: lots.iter().map(|lot| lot.granted).collect(),
            remaining: lots.iter().map(|lot| lot.remaining).collect(),
            classes: classes(lots.iter().map(|lot| lot.class.id)),
            hold_entries: holds.map(|holds| holds.iter().map(|hold| hold.entry).collect()),
            hold_untils: holds.map(|holds| holds.iter().map(|hold| hold.until).collect()),
        }
    }
}

/// The lots of an entry as its columns: a lone lot of class 0 that explains all of the entry
/// needs its day only.
struct LotColumns<'a> {
    one: Option<Day>,
    lots: &'a [Movement],
    classes: Option<Vec<i16>>,
}

impl<'a> LotColumns<'a> {
    fn of(entry: &'a Entry) -> Self {
        let whole = match entry.kind {
            Kind::Hold | Kind::Release => entry.held,
            _ => entry.points,
        };
        match entry.lots.as_slice() {
            [lot] if lot.class.id == 0 && lot.points.abs() == whole.abs() => LotColumns {
                one: Some(lot.expires_on),
                lots: &[],
                classes: None,
            },
            lots => LotColumns {
                one: None,
                lots,
                classes: classes(lots.iter().map(|lot| lot.class.id)),
            },
        }
    }
    fn days(&self) -> Option<Vec<Day>> {
        let days: Vec<Day> = self.lots.iter().map(|lot| lot.expires_on).collect();
        Some(days).filter(|days| !days.is_empty())
    }
    fn points(&self) -> Option<Vec<i64>> {
        let points: Vec<i64> = self.lots.iter().map(|lot| lot.points).collect();
        Some(points).filter(|points| !points.is_empty())
    }
}

fn classes(ids: impl Iterator<Item = i16>) -> Option<Vec<i16>> {
    let ids: Vec<i16> = ids.collect();
    ids.iter().any(|id| *id != 0).then_some(ids)
}
