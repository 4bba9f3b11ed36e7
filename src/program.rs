//! Programs, remembered from one call to the next, and what day it is in them.

use crate::call::sql_function;
use crate::clock;
use crate::error::{Code, Fault, Result};
use crate::expiry;
use crate::scan::{self, Moment, Scan, Sight};
use crate::spi::{Param, Plan, Spi, read_text, text};
use loyalty_core::expiry::ExpiryPolicy;
use loyalty_core::wallet::{Day, Instant};
use pgrx::pg_sys::{self, Datum};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// A program, as far as operations need it.
pub struct Program {
    code: String,
    pub time_zone: String,
    offset: Cell<Offset>,
    pub expiry: ExpiryPolicy,
    pub refund_grace_days: Option<i32>,
    /// Whether members are told of points they receive.
    pub announces_grants: bool,
}

impl Program {
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
        if instant == Instant::MIN || instant == Instant::MAX {
            // infinite in any zone: it tells no offset
            return local;
        }
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

/// Columns of the table, as sql/00_base/program.sql declares them; new ones only ever come behind.
mod column {
    pub const CODE: usize = 2;
    pub const TIME_ZONE: usize = 5;
    pub const EXPIRY: usize = 7;
    pub const REFUND_GRACE_DAYS: usize = 8;
    pub const ANNOUNCES_GRANTS: usize = 10;
}

thread_local! {
    /// Programs read, until any of them changes: the trigger on the table tells all sessions.
    static PROGRAMS: RefCell<HashMap<i32, Rc<Program>>> = RefCell::new(HashMap::new());
    /// Their numbers by code, as long.
    static PROGRAM_IDS: RefCell<HashMap<String, i32>> = RefCell::new(HashMap::new());
    /// The table that the known programs are of.
    static PROGRAM_TABLE: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
    /// How often any changed: what was read before the last time is not for remembering.
    static CHANGES: Cell<u64> = const { Cell::new(0) };
}

/// Called once in every backend.
pub fn init() {
    // SAFETY: registers a callback that only touches our own memory.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(forget_programs), Datum::from(0)) };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn forget_programs(_argument: Datum, table: pg_sys::Oid) {
    CHANGES.set(CHANGES.get().wrapping_add(1));
    if table == pg_sys::InvalidOid || table == PROGRAM_TABLE.get() {
        PROGRAMS.with_borrow_mut(HashMap::clear);
        PROGRAM_IDS.with_borrow_mut(HashMap::clear);
    }
}

sql_function! {
    /// Trigger on `loyalty.program`: has all sessions read programs anew once this
    /// transaction commits, and this one at once.
    fn program_changed(call) -> () {
        let data = call.trigger_data()?;
        // SAFETY: the table that the trigger is of is open.
        unsafe { pg_sys::CacheInvalidateRelcache(data.tg_relation) };
        Ok(())
    }
}

/// A program, as it is committed now: the same one until any changes.
pub fn get(program_id: i32) -> Result<Rc<Program>> {
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
    // Before the moment: who has to wait for somebody who changes the table is to see it changed.
    scan::lock(c"program")?;
    // What is taken in after it came too late for what is read.
    let changes = CHANGES.get();
    let moment = Moment::of(sight);
    let mut scan = Scan::open(c"program", c"program_pkey", 1, &moment)?;
    let missing = || Fault::invalid("a program row is missing");
    let row = scan
        .find(&[scan::four(1, program_id)])
        .ok_or_else(missing)?;
    // SAFETY: all three are texts.
    let read = unsafe {
        Rc::new(Program {
            code: read_text(row.get(column::CODE).ok_or_else(missing)?),
            time_zone: read_text(row.get(column::TIME_ZONE).ok_or_else(missing)?),
            offset: Cell::default(),
            expiry: expiry::parse(&read_text(row.get(column::EXPIRY).ok_or_else(missing)?))?,
            refund_grace_days: row
                .get(column::REFUND_GRACE_DAYS)
                .map(|days| days.value() as i32),
            announces_grants: row
                .get(column::ANNOUNCES_GRANTS)
                .is_some_and(|yes| yes.value() & 1 == 1),
        })
    };
    if sight == Sight::Statement || changes != CHANGES.get() {
        return Ok(read);
    }
    // SAFETY: the relation is open.
    PROGRAM_TABLE.set(unsafe { (*scan.heap).rd_id });
    PROGRAMS.with_borrow_mut(|known| known.insert(program_id, read.clone()));
    Ok(read)
}

static PROGRAM_ID: Plan =
    Plan::stable(c"select p.program_id from loyalty.program p where p.code = $1");

/// The number of the program with a code. Who is asked for must be allowed to read programs.
pub fn id(code: &str) -> Result<Option<i32>> {
    if let Some(known) = known_id(code) {
        return Ok(Some(known));
    }
    let spi = Spi::connect();
    let found = PROGRAM_ID.run(&spi, &[Param::text(code)]);
    let Some(program_id) = found.iter().next().and_then(|row| row.i32(1)) else {
        return Ok(None);
    };
    // A snapshot may be old, and name a program by a code that it has no more: only what is
    // committed, or will be gone from memory when it is not.
    if get(program_id).is_ok_and(|program| program.code == code)
        && PROGRAMS.with_borrow(|known| known.contains_key(&program_id))
    {
        PROGRAM_IDS.with_borrow_mut(|known| known.insert(code.to_owned(), program_id));
    }
    Ok(Some(program_id))
}

/// The number of the program with a code, and what day it is there.
pub fn today(code: &str) -> Result<(i32, Day)> {
    let program_id = id(code)?.ok_or_else(|| no_such(code))?;
    Ok((program_id, get(program_id)?.day_of(clock::now())))
}

pub fn no_such(code: &str) -> Fault {
    Fault::new(Code::NotFound, "no such program")
        .detail(format!("'{code}' given."))
        .hint("select code from loyalty.program lists them.")
}

/// The same where it was asked for before; it reads nothing.
pub fn known_id(code: &str) -> Option<i32> {
    // SAFETY: takes in what other sessions announced.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    PROGRAM_IDS.with_borrow(|known| known.get(code).copied())
}
