//! Reading an account's wallet, and writing it back with what happened (laws 1, 3 and 6).
//!
//! A single operation reads without a lock, and its one writing statement succeeds only if
//! the wallet's last entry is still the one it read: any other operation would have added
//! one. Whoever comes too late takes the row lock and does it again, so that waiting is fair.

use crate::call::{element_type, form_row, row_array};
use crate::clock;
use crate::day;
use crate::error::{Code, Fault, Result};
use crate::fetch::{self, ProgramRow, Sight, WalletRow};
use crate::guard::Operating;
use crate::receipt::{self, Receipt};
use crate::spi::{
    Param, Plan, Row, Spi, array_of_days, array_of_i16, array_of_i32, array_of_i64,
    array_of_instants, text,
};
use loyalty_core::wallet::{
    Class, Day, ENTRIES_PER_ACCOUNT, Entry, EntryNo, Hold, Instant, Kind, Lot, Movement, NEVER,
    Wallet, operation_id,
};
use pgrx::pg_sys::{self, Datum, Oid};

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
    /// Number of its last entry; also the version that a write checks.
    pub last_entry: EntryNo,
    pub wallet: Wallet,
    pub today: Day,
    pub now: Instant,
    /// Its program's expiry policy, as text.
    pub expiry: std::rc::Rc<str>,
    pub refund_grace_days: Option<i32>,
    /// Of a grant under way, the day that counts for its terms.
    pub granted_on: Option<Day>,
    /// Number that the next entry gets.
    next_entry: EntryNo,
    /// Number that the entry of the operation under way gets.
    pub own_entry: EntryNo,
    /// The entry that the idempotency key made before.
    stored: Option<EntryNo>,
}

/// What one call asks for, beyond what each operation adds.
#[derive(Default)]
pub struct Request<'a> {
    pub reason: Option<&'a str>,
    pub key: Option<&'a str>,
    /// All that the caller gave, so that a key under another request is noticed (law 6).
    pub hash: i32,
    pub granted_on: Option<Day>,
    pub hold_until: Option<Instant>,
    /// Whether it keeps points from lapsing by inactivity (S10): what the member does or gets.
    pub activity: bool,
}

/// A C string literal made of string literals.
macro_rules! sql {
    ($($part:expr),+) => {
        match std::ffi::CStr::from_bytes_with_nul(concat!($($part,)+ "\0").as_bytes()) {
            Ok(sql) => sql,
            Err(_) => panic!("SQL with a zero byte"),
        }
    };
}
pub(crate) use sql;

static LOCK_MANY: Plan = Plan::new(
    c"select w.account_id, w.balance, w.debt, w.program_id, w.status = 'open', w.status = 'closed',
             w.last_entry, w.lot_expires_on, w.lot_granted, w.lot_remaining, w.lot_class,
             w.hold_entry
        from loyalty.wallet w where w.account_id = any($1)
       order by w.account_id for no key update of w",
);
static LOCK: Plan =
    Plan::new(c"select from loyalty.wallet where account_id = $1 for no key update");
static CLASSES: Plan =
    Plan::new(c"select lot_class, inactivity_months from loyalty.lot_class where program_id = $1");
static HOLDS: Plan = Plan::new(
    c"select entry, hold_until, expires_on, held, lot_expires_on, lot_points, lot_class
        from loyalty.entry where account_id = $1 and entry = any($2) order by entry",
);

/// Reads one account; `key` looks for what it stored.
pub fn load(spi: &Spi, account_id: i64, key: Option<&str>, sight: Sight) -> Result<Account> {
    // The key is read after the wallet: an operation between the two would be noticed by its
    // key here, or else by its entry when this one writes.
    let row = fetch::wallet(account_id, sight)?.ok_or_else(|| no_such_account(account_id))?;
    let stored = match key {
        Some(key) => fetch::entry_by_key(account_id, key, sight)?,
        None => None,
    };
    let program = fetch::program(row.program_id)?;
    let mut account = read_account(spi, account_id, row, &program);
    account.stored = stored;
    Ok(account)
}

/// Reads accounts with their rows locked, in id order, which keeps callers from deadlock.
/// Those that are not there are left out.
pub fn load_many_locked(spi: &Spi, account_ids: &[i64]) -> Result<Vec<Account>> {
    // The row that was waited for comes back as it is now: no need to read it again.
    let locked = LOCK_MANY.run(spi, &[Param::i64s(account_ids)]);
    let mut accounts = Vec::with_capacity(locked.len());
    let mut program: Option<(i32, ProgramRow)> = None;
    for locked in locked.iter() {
        let (account_id, row) =
            read_locked(locked).ok_or_else(|| Fault::invalid("a wallet row is incomplete"))?;
        let known = match &mut program {
            Some((id, known)) if *id == row.program_id => known,
            other => {
                let read = fetch::program(row.program_id)?;
                &mut other.insert((row.program_id, read)).1
            }
        };
        accounts.push(read_account(spi, account_id, row, known));
    }
    Ok(accounts)
}

fn read_locked(row: Row) -> Option<(i64, WalletRow)> {
    Some((
        row.i64(1)?,
        WalletRow {
            balance: row.i64(2)?,
            debt: row.i64(3).unwrap_or(0),
            program_id: row.i32(4)?,
            is_open: row.bool(5)?,
            is_closed: row.bool(6)?,
            last_entry: row.i32(7)?,
            lot_expires_on: row.i32s(8)?,
            lot_granted: row.i64s(9)?,
            lot_remaining: row.i64s(10)?,
            lot_class: row.i16s(11),
            hold_entry: row.i32s(12),
        },
    ))
}

pub fn no_such_account(account_id: i64) -> Fault {
    Fault::new(Code::NotFound, "no such account")
        .detail(format!("Account {account_id} does not exist."))
        .hint("loyalty.open_account(program, member_no) gives a member's account.")
}

fn read_account(spi: &Spi, account_id: i64, row: WalletRow, program: &ProgramRow) -> Account {
    let now = clock::now();
    let program_id = row.program_id;
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
    Account {
        account_id,
        program_id,
        is_open: row.is_open,
        is_closed: row.is_closed,
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
        expiry: program.expiry.clone(),
        refund_grace_days: program.refund_grace_days,
        stored: None,
    }
}

/// What the lots of these classes share.
pub fn classes_of(spi: &Spi, program_id: i32, ids: &[i16]) -> Vec<Class> {
    let known: Vec<(i16, Option<i16>)> = if ids.iter().all(|id| *id == 0) {
        Vec::new()
    } else {
        CLASSES
            .run(spi, &[Param::i32(program_id)])
            .iter()
            .filter_map(|row| Some((row.i16(1)?, row.i16(2))))
            .collect()
    };
    ids.iter()
        .map(|id| Class {
            id: *id,
            inactivity_months: known
                .iter()
                .find(|(known, _)| known == id)
                .and_then(|(_, months)| months.map(|months| months.unsigned_abs())),
        })
        .collect()
}

fn read_holds(spi: &Spi, account_id: i64, program_id: i32, entries: &[EntryNo]) -> Vec<Hold> {
    HOLDS
        .run(spi, &[Param::i64(account_id), Param::i32s(Some(entries))])
        .iter()
        .filter_map(|row| {
            Some(Hold {
                entry: row.i32(1)?,
                until: row.i64(2)?,
                pins: read_movements(spi, program_id, row, 3, row.i64(4)?),
            })
        })
        .collect()
}

/// The lots of a journal row, from columns `expires_on`, (any), `lot_expires_on`, `lot_points`,
/// `lot_class`, the first of which is `column`. A lone lot of class 0 stands in `expires_on`,
/// with all of the entry's points.
pub fn read_movements(
    spi: &Spi,
    program_id: i32,
    row: Row,
    column: i32,
    points: i64,
) -> Vec<Movement> {
    if let Some(expires_on) = row.i32(column) {
        return vec![Movement {
            expires_on,
            class: Class::default(),
            points,
        }];
    }
    let (Some(days), Some(parts)) = (row.i32s(column + 2), row.i64s(column + 3)) else {
        return Vec::new();
    };
    let classes = row
        .i16s(column + 4)
        .map(|ids| classes_of(spi, program_id, &ids));
    days.into_iter()
        .zip(parts)
        .enumerate()
        .map(|(index, (expires_on, points))| Movement {
            expires_on,
            class: classes
                .as_ref()
                .map_or(Class::default(), |classes| classes[index]),
            points,
        })
        .collect()
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
    let spi = Spi::connect();
    let mut locked = false;
    loop {
        let mut account = load(&spi, account_id, request.key, Sight::Now)?;
        if let Some(entry) = account.stored {
            return receipt::stored(&spi, &account, entry, request.hash);
        }
        account.check_status(needs)?;
        let mut entries = account.prepare(request.activity)?;
        let before = entries.len();
        account.own_entry = account.next_entry + before as EntryNo;
        entries.extend(change(&spi, &mut account)?);
        account.wallet.tidy(account.today);
        let posted = account.post(entries, before, request)?;
        if save(&spi, &account, &posted) {
            return Ok(account.receipt(&posted, before));
        }
        if locked {
            // Under REPEATABLE READ PostgreSQL itself raises 40001 before this.
            return Err(Fault::invalid("the account changed under its own lock"));
        }
        LOCK.run(&spi, &[Param::i64(account_id)]);
        locked = true;
    }
}

/// What every operation asks of its key and reason.
pub fn check_request(request: &Request) -> Result<()> {
    check_key(request.key)?;
    check_reason(request.reason)
}

/// The receipt that the request's key made before, if it did.
pub fn stored_receipt(spi: &Spi, account_id: i64, request: &Request) -> Result<Option<Receipt>> {
    if request.key.is_none() {
        return Ok(None);
    }
    let account = load(spi, account_id, request.key, Sight::Now)?;
    account
        .stored
        .map(|entry| receipt::stored(spi, &account, entry, request.hash))
        .transpose()
}

fn check_key(key: Option<&str>) -> Result<()> {
    match key {
        Some(key) if key.is_empty() || key.chars().count() > 255 => {
            Err(Fault::invalid("an idempotency key has 1 to 255 characters")
                .detail(format!("This one has {}.", key.chars().count()))
                .hint("Use a UUID, or your own order number."))
        }
        _ => Ok(()),
    }
}

fn check_reason(reason: Option<&str>) -> Result<()> {
    match reason.map(|reason| reason.chars().count()) {
        Some(length) if length > 1000 => Err(Fault::invalid("a reason has up to 1000 characters")
            .detail(format!("This one has {length}."))
            .hint("Keep long texts elsewhere, and name them here.")),
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
        let (state, hint) = if self.is_closed {
            (
                "closed",
                "A closed account stays closed; open another one under a new member number.",
            )
        } else {
            (
                "suspended",
                "loyalty.resume_account(account_id) lifts the suspension.",
            )
        };
        Err(
            Fault::new(Code::AccountClosed, format!("the account is {state}"))
                .detail(format!("Account {} is {state}.", self.account_id))
                .hint(hint),
        )
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
            return Err(
                Fault::new(Code::LimitExceeded, "the account's journal is full")
                    .detail(format!("It has {} entries.", first - 1))
                    .hint("Open another account for the member."),
            );
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
                    hold_until: request.hold_until.filter(|_| is_main),
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

static SAVE_ONE: Plan = Plan::new(
    c"with w as (
          update loyalty.wallet
             set balance = $3, debt = $4, first_entry = 1, last_entry = $5, next_expiry_on = $6,
                 lot_expires_on = $7, lot_granted = $8, lot_remaining = $9, lot_class = $10,
                 hold_entry = $11, hold_until = $12
           where account_id = $1 and last_entry = $2
       returning account_id)
      insert into loyalty.entry
             (account_id, points, balance, occurred_at, entry, kind, expires_on, granted_on,
              request_hash, refers_to, available, held, debt, actor, reason, idempotency_key,
              lot_expires_on, lot_points, lot_class, hold_until)
      select account_id, $13, $3, $14, $5, $15::loyalty.entry_kind, $16, $17,
             $18, $19, $20, $21, $22, $23, $24, $25,
             $26, $27, $28, $29
        from w",
);

/// Writes a wallet with its new entries. False: another operation was quicker.
fn save(spi: &Spi, account: &Account, posted: &[Posted]) -> bool {
    let [one] = posted else {
        return save_many(spi, &[(account, posted)]);
    };
    let state = State::of(account);
    let lots = LotColumns::of(&one.entry);
    let _operating = Operating::begin();
    let saved = SAVE_ONE.run(
        spi,
        &[
            Param::i64(account.account_id),
            Param::i32(account.last_entry),
            Param::i64(one.balance),
            Param::i64(state.debt),
            Param::i32(one.number),
            Param::day(state.due),
            Param::days(&state.days),
            Param::i64s(&state.granted),
            Param::i64s(&state.remaining),
            Param::i16s(state.classes.as_deref()),
            Param::i32s(state.hold_entries.as_deref()),
            Param::instants(state.hold_untils.as_deref()),
            Param::i64(one.entry.points),
            Param::instant(account.now),
            Param::text(one.entry.kind.label().to_str().unwrap_or_default()),
            Param::day(lots.one),
            Param::day(one.granted_on),
            Param::i32(one.hash),
            Param::i32(one.entry.refers_to),
            Param::i64((one.available != one.balance).then_some(one.available)),
            Param::i64(nonzero(one.entry.held)),
            Param::i64(nonzero(one.entry.debt)),
            Param::text(receipt::actor().as_str()),
            Param::text(one.reason.as_deref()),
            Param::text(one.key.as_deref()),
            Param::of(pg_sys::DATEARRAYOID, lots.days()),
            Param::of(pg_sys::INT8ARRAYOID, lots.points()),
            Param::i16s(lots.classes.as_deref()),
            Param::instant(one.hold_until),
        ],
    );
    saved.len() == 1
}

static ARRAY_TYPES: Plan = Plan::new(
    c"select pg_catalog.to_regtype('loyalty.wallet[]')::pg_catalog.oid,
             pg_catalog.to_regtype('loyalty.entry[]')::pg_catalog.oid",
);
/// Adds the entries only if each wallet was still as it was read.
static SAVE_MANY: Plan = Plan::new(
    c"with w as (
          update loyalty.wallet w
             set balance = c.balance, debt = c.debt, first_entry = 1, last_entry = c.last_entry,
                 next_expiry_on = c.next_expiry_on, lot_expires_on = c.lot_expires_on,
                 lot_granted = c.lot_granted, lot_remaining = c.lot_remaining,
                 lot_class = c.lot_class, hold_entry = c.hold_entry, hold_until = c.hold_until
            from unnest($1) c
           where w.account_id = c.account_id and w.last_entry = c.first_entry
       returning 1)
      insert into loyalty.entry
      select e.* from unnest($2) e where (select count(*) from w) = $3",
);

/// Writes many wallets and their entries, in one statement each. False: some wallet was
/// changed meanwhile, and the caller must not go on.
pub fn save_many(spi: &Spi, changes: &[(&Account, &[Posted])]) -> bool {
    let Some(types) = ARRAY_TYPES.run(spi, &[]).first() else {
        return false;
    };
    let oid = |column| Oid::from(types.i32(column).unwrap_or(0) as u32);
    let actor = receipt::actor();
    let (wallet_type, entry_type) = (oid(1), oid(2));
    // SAFETY: the arrays are of the tables' own row types, whose columns come in the order of
    // sql/ledger.sql.
    let (wallets, entries) = unsafe {
        let (wallet_shape, wallet_element) = element_type(wallet_type);
        let (entry_shape, entry_element) = element_type(entry_type);
        let kind_type = pg_sys::SPI_gettypeid(entry_shape, 6);
        let wallets = changes
            .iter()
            .map(|(account, posted)| form_row(wallet_shape, &wallet_row(account, posted)))
            .collect();
        let entries = changes
            .iter()
            .flat_map(|(account, posted)| posted.iter().map(move |one| (account, one)))
            .map(|(account, one)| {
                form_row(entry_shape, &entry_row(account, one, kind_type, &actor))
            })
            .collect();
        (
            row_array(wallets, wallet_element),
            row_array(entries, entry_element),
        )
    };
    let _operating = Operating::begin();
    let expected: usize = changes.iter().map(|(_, posted)| posted.len()).sum();
    let saved = SAVE_MANY.run(
        spi,
        &[
            Param::of(wallet_type, Some(wallets)),
            Param::of(entry_type, Some(entries)),
            Param::i64(changes.len() as i64),
        ],
    );
    saved.len() == expected
}

fn wallet_row(account: &Account, posted: &[Posted]) -> Vec<Option<Datum>> {
    let state = State::of(account);
    vec![
        Some(Datum::from(account.account_id)),
        Some(Datum::from(account.wallet.balance())),
        state.debt.map(Datum::from),
        None, // program_id
        None, // status
        // first_entry carries the version that the write checks
        Some(Datum::from(account.last_entry)),
        Some(Datum::from(account.last_entry + posted.len() as EntryNo)),
        state.due.map(Datum::from),
        Some(array_of_days(&state.days)),
        Some(array_of_i64(&state.granted)),
        Some(array_of_i64(&state.remaining)),
        state.classes.as_deref().map(array_of_i16),
        state.hold_entries.as_deref().map(array_of_i32),
        state.hold_untils.as_deref().map(array_of_instants),
    ]
}

fn entry_row(account: &Account, one: &Posted, kind_type: Oid, actor: &str) -> Vec<Option<Datum>> {
    let lots = LotColumns::of(&one.entry);
    vec![
        Some(Datum::from(account.account_id)),
        Some(Datum::from(one.entry.points)),
        Some(Datum::from(one.balance)),
        Some(Datum::from(account.now)),
        Some(Datum::from(one.number)),
        Some(receipt::enum_value(kind_type, one.entry.kind.label())),
        lots.one.map(Datum::from),
        one.granted_on.map(Datum::from),
        one.hash.map(Datum::from),
        one.entry.refers_to.map(Datum::from),
        (one.available != one.balance).then(|| Datum::from(one.available)),
        nonzero(one.entry.held).map(Datum::from),
        nonzero(one.entry.debt).map(Datum::from),
        one.other.map(|(account_id, _)| Datum::from(account_id)),
        one.other.map(|(_, entry)| Datum::from(entry)),
        Some(text(actor)),
        one.reason.as_deref().map(text),
        one.key.as_deref().map(text),
        lots.days(),
        lots.points(),
        lots.classes.as_deref().map(array_of_i16),
        one.hold_until.map(Datum::from),
    ]
}

fn nonzero(value: i64) -> Option<i64> {
    (value != 0).then_some(value)
}

/// A wallet as its columns.
struct State {
    debt: Option<i64>,
    due: Option<Day>,
    days: Vec<Day>,
    granted: Vec<i64>,
    remaining: Vec<i64>,
    classes: Option<Vec<i16>>,
    hold_entries: Option<Vec<EntryNo>>,
    hold_untils: Option<Vec<Instant>>,
}

impl State {
    fn of(account: &Account) -> Self {
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
    fn days(&self) -> Option<Datum> {
        let days: Vec<Day> = self.lots.iter().map(|lot| lot.expires_on).collect();
        (!days.is_empty()).then(|| array_of_days(&days))
    }
    fn points(&self) -> Option<Datum> {
        let points: Vec<i64> = self.lots.iter().map(|lot| lot.points).collect();
        (!points.is_empty()).then(|| array_of_i64(&points))
    }
}

fn classes(ids: impl Iterator<Item = i16>) -> Option<Vec<i16>> {
    let ids: Vec<i16> = ids.collect();
    ids.iter().any(|id| *id != 0).then_some(ids)
}

/// Whether that is the last day of a lot that never expires.
pub fn never(day: Day) -> Option<Day> {
    (day != NEVER).then_some(day)
}
