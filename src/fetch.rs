//! Reading one row by its key without the executor: what every operation and every balance
//! does first. It takes a quarter of the time of the same SELECT through SPI. Writing is
//! `write`'s.

use crate::call::sql_function;
use crate::clock;
use crate::error::{Code, Fault, Result};
use crate::spi::{Param, Plan, Spi, read_array, read_text, text};
use loyalty_core::wallet::{Day, EntryNo, Instant};
use pgrx::pg_sys::{self, Datum};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, c_int};
use std::rc::Rc;

/// Which committed state is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// What the calling statement sees: for stable functions.
    Statement,
    /// What is committed now: for operations, which wait for others and look again.
    Now,
    /// The same in every isolation level: for what is remembered beyond the transaction.
    Latest,
}

/// A wallet row.
pub struct WalletRow {
    pub balance: i64,
    pub debt: i64,
    pub program_id: i32,
    /// A value of the enum type.
    pub status: Datum,
    pub last_entry: EntryNo,
    pub lot_expires_on: Vec<Day>,
    pub lot_granted: Vec<i64>,
    pub lot_remaining: Vec<i64>,
    pub lot_class: Option<Vec<i16>>,
    pub hold_entry: Option<Vec<EntryNo>>,
    /// Where this version of the row is.
    pub place: pg_sys::ItemPointerData,
}

/// What operations need of a program row.
#[derive(Clone)]
pub struct ProgramRow {
    pub time_zone: Rc<str>,
    offset: Rc<Cell<Offset>>,
    pub expiry: Rc<str>,
    pub refund_grace_days: Option<i32>,
    /// Whether members are told of points they receive.
    pub announces_grants: bool,
}

impl ProgramRow {
    /// The date of an instant where the program is.
    pub fn day_of(&self, instant: Instant) -> Day {
        self.local(instant).div_euclid(MICROSECONDS_A_DAY) as Day
    }

    /// What clocks show then where the program is, in microseconds from midnight.
    pub fn time_of_day(&self, instant: Instant) -> i64 {
        self.local(instant).rem_euclid(MICROSECONDS_A_DAY)
    }

    fn local(&self, instant: Instant) -> i64 {
        let known = self.offset.get();
        if (known.from..known.until).contains(&instant) {
            return instant + known.microseconds;
        }
        // SAFETY: timezone(text, timestamptz) gives a timestamp, an i64 by value.
        let local = unsafe {
            pg_sys::OidFunctionCall2Coll(
                pg_sys::Oid::from(pg_sys::F_TIMEZONE_TEXT_TIMESTAMPTZ),
                pg_sys::InvalidOid,
                text(&self.time_zone),
                Datum::from(instant),
            )
        };
        let local = local.value() as i64;
        self.offset.set(Offset {
            from: instant,
            until: next_change(&self.time_zone, instant),
            microseconds: local - instant,
        });
        local
    }
}

/// How far clocks somewhere are ahead of UTC, from one instant until another.
#[derive(Clone, Copy, Default)]
struct Offset {
    from: Instant,
    until: Instant,
    microseconds: i64,
}

/// When clocks in a time zone are put forward or back next; the instant itself where that cannot
/// be told.
fn next_change(time_zone: &str, instant: Instant) -> Instant {
    let Ok(name) = std::ffi::CString::new(time_zone) else {
        return instant;
    };
    let second = instant.div_euclid(MICROSECONDS_A_SECOND) + UNIX_TO_POSTGRES_SECONDS;
    let (mut offset, mut is_summer, mut change) = (0, 0, 0);
    let (mut next_offset, mut is_next_summer) = (0, 0);
    // SAFETY: the zone stays in PostgreSQL's own cache; all else is ours.
    let found = unsafe {
        let zone = pg_sys::pg_tzset(name.as_ptr());
        if zone.is_null() {
            return instant;
        }
        pg_sys::pg_next_dst_boundary(
            &raw const second,
            &raw mut offset,
            &raw mut is_summer,
            &raw mut change,
            &raw mut next_offset,
            &raw mut is_next_summer,
            zone,
        )
    };
    match found {
        1 => (change - UNIX_TO_POSTGRES_SECONDS) * MICROSECONDS_A_SECOND,
        0 => Instant::MAX,
        _ => instant,
    }
}

const SECONDS_A_DAY: i64 = pg_sys::SECS_PER_DAY as i64;
const MICROSECONDS_A_SECOND: i64 = 1_000_000;
/// From PostgreSQL's year 2000 back to Unix's 1970.
const UNIX_TO_POSTGRES_SECONDS: i64 =
    (pg_sys::POSTGRES_EPOCH_JDATE - pg_sys::UNIX_EPOCH_JDATE) as i64 * SECONDS_A_DAY;
const MICROSECONDS_A_DAY: i64 = SECONDS_A_DAY * MICROSECONDS_A_SECOND;

/// Columns of the tables, as sql/ declares them; new ones only ever come behind.
mod column {
    pub mod wallet {
        pub const BALANCE: usize = 2;
        pub const DEBT: usize = 3;
        pub const PROGRAM_ID: usize = 4;
        pub const STATUS: usize = 5;
        pub const LAST_ENTRY: usize = 7;
        pub const LOT_EXPIRES_ON: usize = 9;
        pub const LOT_GRANTED: usize = 10;
        pub const LOT_REMAINING: usize = 11;
        pub const LOT_CLASS: usize = 12;
        pub const HOLD_ENTRY: usize = 13;
    }
    pub mod program {
        pub const TIME_ZONE: usize = 5;
        pub const EXPIRY: usize = 7;
        pub const REFUND_GRACE_DAYS: usize = 8;
        pub const ANNOUNCES_GRANTS: usize = 10;
    }
    pub mod session {
        pub const ACCOUNT_ID: usize = 4;
        pub const ROLE: usize = 5;
        pub const EXPIRES_AT: usize = 11;
        pub const ENDED_AT: usize = 12;
    }
    pub mod service_hours {
        pub const CLOSED_FROM: usize = 2;
        pub const CLOSED_UNTIL: usize = 3;
    }
    pub mod entry {
        pub const ENTRY: usize = 5;
        pub const IDEMPOTENCY_KEY: usize = 18;
    }
}

/// Reads wallets and keys as one moment has them.
pub struct Reader {
    wallets: Scan,
    keys: Option<Scan>,
    moment: Moment,
}

impl Reader {
    pub fn open(sight: Sight) -> Result<Self> {
        let moment = Moment::of(sight);
        Ok(Reader {
            wallets: Scan::open(c"wallet", c"wallet_pkey", 1, &moment)?,
            keys: None,
            moment,
        })
    }

    /// The wallet of an account.
    pub fn wallet(&mut self, account_id: i64) -> Result<Option<WalletRow>> {
        let Some(row) = self.wallets.find(&[eight(1, account_id)]) else {
            return Ok(None);
        };
        use column::wallet as c;
        let missing = || Fault::invalid("a wallet row is incomplete");
        // SAFETY: each column is asked for as the type it is declared with.
        unsafe {
            let days = row.get(c::LOT_EXPIRES_ON).ok_or_else(missing)?;
            let granted = row.get(c::LOT_GRANTED).ok_or_else(missing)?;
            let remaining = row.get(c::LOT_REMAINING).ok_or_else(missing)?;
            Ok(Some(WalletRow {
                balance: row.get(c::BALANCE).ok_or_else(missing)?.value() as i64,
                debt: row.get(c::DEBT).map_or(0, |debt| debt.value() as i64),
                program_id: row.get(c::PROGRAM_ID).ok_or_else(missing)?.value() as i32,
                status: row.get(c::STATUS).ok_or_else(missing)?,
                last_entry: row.get(c::LAST_ENTRY).ok_or_else(missing)?.value() as i32,
                lot_expires_on: read_array(days),
                lot_granted: read_array(granted),
                lot_remaining: read_array(remaining),
                lot_class: row.get(c::LOT_CLASS).map(|array| read_array(array)),
                hold_entry: row.get(c::HOLD_ENTRY).map(|array| read_array(array)),
                place: (*row.slot).tts_tid,
            }))
        }
    }

    /// The entry that an idempotency key made (law 6).
    pub fn entry_by_key(&mut self, account_id: i64, key: &str) -> Result<Option<EntryNo>> {
        // SAFETY: the function that the index is on, under the collation of the column.
        let hash = unsafe {
            pg_sys::OidFunctionCall2Coll(
                pg_sys::Oid::from(pg_sys::F_HASHTEXTEXTENDED),
                pg_sys::DEFAULT_COLLATION_OID,
                text(key),
                Datum::from(0i64),
            )
        };
        let keys = match &mut self.keys {
            Some(keys) => keys,
            none => none.insert(Scan::open(c"entry", c"entry_by_key", 2, &self.moment)?),
        };
        let Some(row) = keys.find(&[eight(1, account_id), eight(2, hash.value() as i64)]) else {
            return Ok(None);
        };
        use column::entry as c;
        // SAFETY: a text.
        let stored = row
            .get(c::IDEMPOTENCY_KEY)
            .map(|stored| unsafe { read_text(stored) });
        if stored.as_deref() == Some(key) {
            return Ok(row.get(c::ENTRY).map(|entry| entry.value() as EntryNo));
        }
        // Another key with the same hash: the index would refuse ours, and so do we.
        Err(
            Fault::new(Code::KeyReused, "the idempotency key cannot be used")
                .detail("Its hash is that of another key of the account.")
                .hint("Use another key."),
        )
    }
}

/// The wallet of an account.
pub fn wallet(account_id: i64, sight: Sight) -> Result<Option<WalletRow>> {
    Reader::open(sight)?.wallet(account_id)
}

thread_local! {
    /// Programs read, until any of them changes: the trigger on the table tells all sessions.
    static PROGRAMS: RefCell<HashMap<i32, ProgramRow>> = RefCell::new(HashMap::new());
    /// Their numbers by code, as long.
    static PROGRAM_IDS: RefCell<HashMap<String, i32>> = RefCell::new(HashMap::new());
    /// The table that the known programs are of.
    static PROGRAM_TABLE: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
}

/// Called once in every backend.
pub fn init() {
    // SAFETY: registers a callback that only touches our own memory.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(forget_programs), Datum::from(0)) };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn forget_programs(_argument: Datum, table: pg_sys::Oid) {
    if table == pg_sys::InvalidOid || table == PROGRAM_TABLE.get() {
        PROGRAMS.with_borrow_mut(HashMap::clear);
        PROGRAM_IDS.with_borrow_mut(HashMap::clear);
    }
}

sql_function! {
    /// Statement trigger on `loyalty.program`: has all sessions read programs anew once this
    /// transaction commits, and this one at once.
    fn program_changed(call) -> () {
        let data = call.trigger_data()?;
        // SAFETY: the table that the trigger is of is open.
        unsafe { pg_sys::CacheInvalidateRelcache(data.tg_relation) };
        Ok(())
    }
}

/// A program, as it is committed now.
pub fn program(program_id: i32) -> Result<ProgramRow> {
    // SAFETY: takes in what other sessions announced: a call that waited sees it too.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    if let Some(known) = PROGRAMS.with_borrow(|known| known.get(&program_id).cloned()) {
        return Ok(known);
    }
    // A parallel query may take no snapshot of its own; what it sees is not for remembering.
    // SAFETY: asks for the state of the transaction.
    let sight = match unsafe { pg_sys::IsInParallelMode() } {
        true => Sight::Statement,
        false => Sight::Latest,
    };
    let moment = Moment::of(sight);
    let mut scan = Scan::open(c"program", c"program_pkey", 1, &moment)?;
    let missing = || Fault::invalid("a program row is missing");
    let row = scan.find(&[four(1, program_id)]).ok_or_else(missing)?;
    use column::program as c;
    // SAFETY: both are texts.
    let read = unsafe {
        ProgramRow {
            time_zone: read_text(row.get(c::TIME_ZONE).ok_or_else(missing)?).into(),
            offset: Rc::default(),
            expiry: read_text(row.get(c::EXPIRY).ok_or_else(missing)?).into(),
            refund_grace_days: row
                .get(c::REFUND_GRACE_DAYS)
                .map(|days| days.value() as i32),
            announces_grants: row
                .get(c::ANNOUNCES_GRANTS)
                .is_some_and(|yes| yes.value() & 1 == 1),
        }
    };
    if sight == Sight::Statement {
        return Ok(read);
    }
    // SAFETY: the relation is open.
    PROGRAM_TABLE.set(unsafe { (*scan.heap).rd_id });
    PROGRAMS.with_borrow_mut(|known| known.insert(program_id, read.clone()));
    Ok(read)
}

static PROGRAM_ID: Plan =
    Plan::stable(c"select p.program_id from loyalty.program p where p.code = $1");

/// The number of the program with a code.
pub fn program_id(code: &str) -> Result<Option<i32>> {
    if let Some(known) = known_program_id(code) {
        return Ok(Some(known));
    }
    let spi = Spi::as_owner();
    let found = PROGRAM_ID.run(&spi, &[Param::text(code)]);
    let Some(program_id) = found.iter().next().and_then(|row| row.i32(1)) else {
        return Ok(None);
    };
    // only what is committed, or will be gone from memory when it is not
    PROGRAM_TABLE.set(relation(c"program")?);
    PROGRAM_IDS.with_borrow_mut(|known| known.insert(code.to_owned(), program_id));
    Ok(Some(program_id))
}

/// The number of the program with a code, and what day it is there.
pub fn program_today(code: &str) -> Result<(i32, Day)> {
    let program_id = program_id(code)?.ok_or_else(|| no_such_program(code))?;
    Ok((program_id, program(program_id)?.day_of(clock::now())))
}

pub fn no_such_program(code: &str) -> Fault {
    Fault::new(Code::NotFound, "no such program")
        .detail(format!("'{code}' given."))
        .hint("select code from loyalty.program lists them.")
}

/// The same where it was asked for before; it reads nothing.
pub fn known_program_id(code: &str) -> Option<i32> {
    // SAFETY: takes in what other sessions announced.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    PROGRAM_IDS.with_borrow(|known| known.get(code).copied())
}

/// A login, as far as its requests stand on it.
pub struct SessionRow {
    pub account_id: Option<i64>,
    pub role: String,
    pub expires_at: Instant,
    pub is_ended: bool,
}

/// The session of a number.
pub fn session(id: [u8; 16]) -> Result<Option<SessionRow>> {
    let mut scan = Scan::open(
        c"session",
        c"session_pkey",
        1,
        &Moment::of(Sight::Statement),
    )?;
    let key = Key {
        column: 1,
        procedure: pg_sys::F_UUID_EQ,
        value: Datum::from(id.as_ptr()),
    };
    use column::session as c;
    Ok(scan.find(&[key]).map(|row| SessionRow {
        account_id: row.get(c::ACCOUNT_ID).map(|id| id.value() as i64),
        // SAFETY: a text.
        role: row
            .get(c::ROLE)
            .map(|role| unsafe { read_text(role) })
            .unwrap_or_default(),
        expires_at: row
            .get(c::EXPIRES_AT)
            .map_or(Instant::MIN, |at| at.value() as i64),
        is_ended: row.get(c::ENDED_AT).is_some(),
    }))
}

/// From when to when a program is closed over HTTP, in microseconds from midnight; none when
/// it never is.
pub fn closed_hours(program_id: i32) -> Result<Option<(i64, i64)>> {
    let moment = Moment::of(Sight::Statement);
    let mut scan = Scan::open(c"service_hours", c"service_hours_pkey", 1, &moment)?;
    use column::service_hours as c;
    Ok(scan.find(&[four(1, program_id)]).and_then(|row| {
        let time = |column| row.get(column).map(|time| time.value() as i64);
        Some((time(c::CLOSED_FROM)?, time(c::CLOSED_UNTIL)?))
    }))
}

/// Whether any outside identity provider is registered.
pub fn has_identity_provider() -> Result<bool> {
    let moment = Moment::of(Sight::Statement);
    let mut scan = Scan::open(c"identity_provider", c"identity_provider_pkey", 0, &moment)?;
    Ok(scan.find(&[]).is_some())
}

/// A table or index of the extension.
pub fn relation(name: &CStr) -> Result<pg_sys::Oid> {
    // SAFETY: looks a name up in the catalog.
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(c"loyalty".as_ptr(), false);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    if oid != pg_sys::InvalidOid {
        return Ok(oid);
    }
    Err(Fault::invalid("the extension's tables are incomplete")
        .detail(format!("loyalty.{} is missing.", name.to_string_lossy()))
        .hint("Restore the table or index under its own name."))
}

/// Who owns the ledger.
pub fn owner() -> Result<pg_sys::Oid> {
    let wallet = relation(c"wallet")?;
    // SAFETY: opened under lock, which stays to the end of the transaction.
    unsafe {
        let wallet = pg_sys::table_open(wallet, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let owner = (*(*wallet).rd_rel).relowner;
        pg_sys::table_close(wallet, pg_sys::NoLock as pg_sys::LOCKMODE);
        Ok(owner)
    }
}

struct Key {
    column: i16,
    procedure: u32,
    value: Datum,
}

fn eight(column: i16, value: i64) -> Key {
    Key {
        column,
        procedure: pg_sys::F_INT8EQ,
        value: Datum::from(value),
    }
}

fn four(column: i16, value: i32) -> Key {
    Key {
        column,
        procedure: pg_sys::F_INT4EQ,
        value: Datum::from(value),
    }
}

/// A snapshot, held as long as something is read by it.
struct Moment {
    snapshot: pg_sys::Snapshot,
    registered: bool,
}

impl Moment {
    fn of(sight: Sight) -> Self {
        // SAFETY: we run inside a statement, which has a snapshot.
        unsafe {
            let fresh = match sight {
                Sight::Statement => None,
                Sight::Now => Some(pg_sys::GetTransactionSnapshot()),
                Sight::Latest => Some(pg_sys::GetLatestSnapshot()),
            };
            Moment {
                snapshot: fresh.map_or_else(
                    || pg_sys::GetActiveSnapshot(),
                    |snapshot| pg_sys::RegisterSnapshot(snapshot),
                ),
                registered: fresh.is_some(),
            }
        }
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        // While an error unwinds, PostgreSQL's abort lets go of it.
        if self.registered && !std::thread::panicking() {
            // SAFETY: registered above, once.
            unsafe { pg_sys::UnregisterSnapshot(self.snapshot) };
        }
    }
}

/// Look-ups by an index, open for several; it closes what it opened. Locks stay to the end of
/// the transaction, as after a statement.
struct Scan {
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
}

/// The row that a scan stands on.
struct ScannedRow {
    slot: *mut pg_sys::TupleTableSlot,
}

impl Scan {
    fn open(table: &CStr, index: &CStr, keys: c_int, moment: &Moment) -> Result<Self> {
        let (heap_oid, index_oid) = (relation(table)?, relation(index)?);
        // SAFETY: relations are opened under lock, and live as long as the scan; so does the
        // moment's snapshot.
        unsafe {
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let heap = pg_sys::table_open(heap_oid, lock);
            let index = pg_sys::index_open(index_oid, lock);
            #[cfg(not(feature = "pg18"))]
            let scan = pg_sys::index_beginscan(heap, index, moment.snapshot, keys, 0);
            #[cfg(feature = "pg18")]
            let scan = pg_sys::index_beginscan(
                heap,
                index,
                moment.snapshot,
                std::ptr::null_mut(),
                keys,
                0,
            );
            let slot = pg_sys::table_slot_create(heap, std::ptr::null_mut());
            Ok(Scan {
                heap,
                index,
                scan,
                slot,
            })
        }
    }

    /// The row with these keys, as many as the scan was opened for.
    fn find(&mut self, keys: &[Key]) -> Option<ScannedRow> {
        // SAFETY: the scan is open; the keys are of the index's column types, the slot is of
        // the table's shape.
        unsafe {
            let mut scan_keys: [pg_sys::ScanKeyData; 2] = Default::default();
            for (scan_key, key) in scan_keys.iter_mut().zip(keys) {
                pg_sys::ScanKeyInit(
                    scan_key,
                    key.column,
                    pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                    pg_sys::Oid::from(key.procedure),
                    key.value,
                );
            }
            pg_sys::index_rescan(
                self.scan,
                scan_keys.as_mut_ptr(),
                keys.len() as c_int,
                std::ptr::null_mut(),
                0,
            );
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            if !pg_sys::index_getnext_slot(self.scan, forward, self.slot) {
                return None;
            }
            let columns = (*(*self.slot).tts_tupleDescriptor).natts;
            pg_sys::slot_getsomeattrs_int(self.slot, columns);
            Some(ScannedRow { slot: self.slot })
        }
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        // While an error unwinds, PostgreSQL's abort closes everything.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: opened in open, in this order.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::index_endscan(self.scan);
            pg_sys::index_close(self.index, pg_sys::NoLock as pg_sys::LOCKMODE);
            pg_sys::table_close(self.heap, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
    }
}

impl ScannedRow {
    /// A column, numbered from 1.
    fn get(&self, column: usize) -> Option<Datum> {
        // SAFETY: all columns of the row were fetched into the slot.
        unsafe {
            let null = *(*self.slot).tts_isnull.add(column - 1);
            (!null).then(|| *(*self.slot).tts_values.add(column - 1))
        }
    }
}
