//! SPI with as little as possible between us and the executor: plans prepared once per
//! backend and kept, values passed as PostgreSQL stores them.

use crate::error::{Code, Fault};
use crate::pg::datum::{
    array_of_i32, array_of_i64, length, read_array, read_text, text, to_bool, to_i16, to_i32,
    to_i64,
};
use crate::pg::{relation, tuple_desc};
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A statement prepared at its first use and kept for the life of the backend. It always
/// runs with its generic plan: these are all look-ups by key, planning them again never pays.
pub struct Plan {
    sql: &'static CStr,
    read_only: bool,
    kept: AtomicPtr<Kept>,
}

/// A plan, and the parameter types it was prepared for. They differ from a call's only after
/// the extension was dropped and created again, with row types of new oids.
struct Kept {
    plan: pg_sys::SPIPlanPtr,
    types: Vec<Oid>,
}

impl Plan {
    /// Sees what was committed, and what its own transaction did, when it runs.
    pub const fn new(sql: &'static CStr) -> Self {
        Plan::of(sql, false)
    }

    /// For functions that are stable: sees what the calling statement sees.
    pub const fn stable(sql: &'static CStr) -> Self {
        Plan::of(sql, true)
    }

    const fn of(sql: &'static CStr, read_only: bool) -> Self {
        Plan {
            sql,
            read_only,
            kept: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Executes it. Each parameter brings its type along.
    pub fn execute(&'static self, spi: &Spi, params: &[Param]) -> Rows {
        spi.ensure();
        let plan = self.prepared(params);
        let mut values: Vec<Datum> = params.iter().map(|param| param.value).collect();
        let nulls: Vec<c_char> = params
            .iter()
            .map(|param| if param.null { b'n' } else { b' ' } as c_char)
            .collect();
        let read_only = self.read_only || spi.reads_only;
        let status = in_same_context(|| {
            // SAFETY: as many values and nulls as the plan has parameters; we are connected.
            unsafe {
                pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr(), read_only, 0)
            }
        });
        if status < 0 {
            pgrx::error!("pg_loyalty: SPI_execute_plan returned {status}");
        }
        // SAFETY: both are set by the call above.
        unsafe {
            Rows {
                count: usize::try_from(pg_sys::SPI_processed).unwrap_or(usize::MAX),
                table: pg_sys::SPI_tuptable,
            }
        }
    }

    fn prepared(&'static self, params: &[Param]) -> pg_sys::SPIPlanPtr {
        // SAFETY: null, or a box leaked below; a backend has one thread.
        if let Some(kept) = unsafe { self.kept.load(Ordering::Relaxed).as_ref() }
            && kept.types.iter().eq(params.iter().map(|param| &param.oid))
        {
            return kept.plan;
        }
        let mut types: Vec<Oid> = params.iter().map(|param| param.oid).collect();
        // SAFETY: we are connected, and the plan is kept before the connection ends.
        let plan = in_same_context(|| unsafe {
            let plan = pg_sys::SPI_prepare_cursor(
                self.sql.as_ptr(),
                length(types.len()),
                types.as_mut_ptr(),
                pg_sys::CURSOR_OPT_GENERIC_PLAN as c_int,
            );
            if plan.is_null() {
                let status = pg_sys::SPI_result;
                pgrx::error!("pg_loyalty: SPI_prepare returned {status}");
            }
            pg_sys::SPI_keepplan(plan);
            plan
        });
        let kept = Box::new(Kept { plan, types });
        self.kept.store(Box::into_raw(kept), Ordering::Relaxed);
        plan
    }
}

/// A connection to SPI, made when it is first needed; it ends with the value. What rows point
/// to goes with it. The current memory context stays the caller's throughout.
pub struct Spi {
    as_owner: bool,
    reads_only: bool,
    connected: Cell<bool>,
    before: Cell<Option<Before>>,
}

/// Who asked, before statements ran as the ledger's owner.
#[derive(Clone, Copy)]
struct Before {
    user: Oid,
    context: c_int,
    settings: c_int,
}

impl Spi {
    /// For statements with the rights and the search path that the function was called with.
    pub fn connect() -> Self {
        Spi::with(false)
    }

    /// For statements as the owner of the ledger, with a search path that nobody else puts names
    /// in: what SECURITY DEFINER with a SET clause does, where most calls need no statement and
    /// so need not pay for it.
    pub fn as_owner() -> Self {
        Spi::with(true)
    }

    /// For functions that are stable: every plan sees what the calling statement sees, and none
    /// begins a command of its own, which a parallel plan's leader may not.
    pub fn reading(mut self) -> Self {
        self.reads_only = true;
        self
    }

    fn with(as_owner: bool) -> Self {
        Spi {
            as_owner,
            reads_only: false,
            connected: Cell::new(false),
            before: Cell::new(None),
        }
    }

    fn ensure(&self) {
        if self.connected.replace(true) {
            return;
        }
        self.before.set(self.as_owner.then(become_owner));
        // SAFETY: balanced by the drop; after an error PostgreSQL itself cleans up.
        in_same_context(|| unsafe { pg_sys::SPI_connect() });
    }
}

impl Drop for Spi {
    fn drop(&mut self) {
        // While an error unwinds, PostgreSQL's own abort ends the connection, and gives back user
        // and settings.
        if !self.connected.get() || std::thread::panicking() {
            return;
        }
        // SAFETY: what ensure did is undone in reverse order.
        unsafe {
            in_same_context(|| pg_sys::SPI_finish());
            if let Some(before) = self.before.get() {
                pg_sys::AtEOXact_GUC(true, before.settings);
                pg_sys::SetUserIdAndSecContext(before.user, before.context);
            }
        }
    }
}

/// As PostgreSQL does for a function that is SECURITY DEFINER and has a SET clause.
fn become_owner() -> Before {
    let owner = relation::owner().unwrap_or_else(|fault| fault.raise());
    // SAFETY: both last until the drop of the connection, or until an error's abort.
    unsafe {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context);
        pg_sys::SetUserIdAndSecContext(
            owner,
            context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as c_int,
        );
        let settings = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            c"search_path".as_ptr(),
            c"pg_catalog, pg_temp".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        Before {
            user,
            context,
            settings,
        }
    }
}

/// Does what switches the memory context, and switches back.
fn in_same_context<T>(switching: impl FnOnce() -> T) -> T {
    // SAFETY: the context was current, and outlives the SPI calls made in it.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let result = switching();
        pg_sys::CurrentMemoryContext = context;
        result
    }
}

/// A parameter of a plan.
#[derive(Clone, Copy)]
pub struct Param {
    oid: Oid,
    value: Datum,
    null: bool,
}

impl Param {
    pub fn of(oid: Oid, value: Option<Datum>) -> Self {
        Param {
            oid,
            value: value.unwrap_or(Datum::from(0)),
            null: value.is_none(),
        }
    }
    pub fn i64(value: impl Into<Option<i64>>) -> Self {
        Param::of(pg_sys::INT8OID, value.into().map(Datum::from))
    }
    pub fn i32(value: impl Into<Option<i32>>) -> Self {
        Param::of(pg_sys::INT4OID, value.into().map(Datum::from))
    }
    pub fn oid(value: i32) -> Self {
        Param::of(pg_sys::OIDOID, Some(Datum::from(value)))
    }
    pub fn i16(value: impl Into<Option<i16>>) -> Self {
        Param::of(pg_sys::INT2OID, value.into().map(Datum::from))
    }
    pub fn day(value: impl Into<Option<i32>>) -> Self {
        Param::of(pg_sys::DATEOID, value.into().map(Datum::from))
    }
    pub fn instant(value: impl Into<Option<i64>>) -> Self {
        Param::of(pg_sys::TIMESTAMPTZOID, value.into().map(Datum::from))
    }
    pub fn text<'a>(value: impl Into<Option<&'a str>>) -> Self {
        Param::of(pg_sys::TEXTOID, value.into().map(text))
    }
    pub fn i64s(values: &[i64]) -> Self {
        Param::of(pg_sys::INT8ARRAYOID, Some(array_of_i64(values)))
    }
    pub fn i32s(values: Option<&[i32]>) -> Self {
        Param::of(pg_sys::INT4ARRAYOID, values.map(array_of_i32))
    }
}

/// What a statement returned.
pub struct Rows {
    count: usize,
    table: *mut pg_sys::SPITupleTable,
}

impl Rows {
    /// Rows returned, or changed by a statement that returns none.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Gives back what was read, before the connection ends: for what a call asks for each of
    /// its accounts. What rows point to goes with it.
    pub fn free(self) {
        // SAFETY: null, or of the connection that is open; no row of it is used any more.
        unsafe { pg_sys::SPI_freetuptable(self.table) };
    }

    pub fn first(&self) -> Option<Row> {
        self.iter().next()
    }

    pub fn iter(&self) -> impl Iterator<Item = Row> + use<> {
        let table = self.table;
        let count = if table.is_null() { 0 } else { self.count };
        (0..count).map(move |row| Row { table, row })
    }
}

/// One of these rows. Columns are numbered from 1.
#[derive(Clone, Copy)]
pub struct Row {
    table: *mut pg_sys::SPITupleTable,
    row: usize,
}

impl Row {
    pub fn datum(&self, column: c_int) -> Option<Datum> {
        let mut null = false;
        // SAFETY: the row is one of the table's.
        let value = unsafe {
            let tuple = *(*self.table).vals.add(self.row);
            pg_sys::SPI_getbinval(tuple, (*self.table).tupdesc, column, &mut null)
        };
        (!null).then_some(value)
    }

    /// A value that is of one of these types: a column of a table may be given another.
    fn of_type(&self, column: c_int, types: &[Oid]) -> Option<Datum> {
        let value = self.datum(column)?;
        // SAFETY: the descriptor is of the rows that were returned.
        let found = unsafe {
            let number = usize::try_from(column).unwrap_or(0);
            tuple_desc::type_of((*self.table).tupdesc, number)
        };
        if !types.contains(&found) {
            Fault::new(
                Code::NotReady,
                "table_altered",
                "a table of pg_loyalty has another type of column",
            )
            .detail(format!(
                "Column {column} of a statement's result is a {}.",
                type_name(found)
            ))
            .hint("Give the tables' columns the types back that the extension created them with.")
            .raise();
        }
        Some(value)
    }

    pub fn i64(&self, column: c_int) -> Option<i64> {
        const TYPES: &[Oid] = &[pg_sys::INT8OID, pg_sys::TIMESTAMPTZOID, pg_sys::TIMEOID];
        self.of_type(column, TYPES).map(to_i64)
    }
    pub fn i32(&self, column: c_int) -> Option<i32> {
        self.of_type(column, &[pg_sys::INT4OID, pg_sys::DATEOID])
            .map(to_i32)
    }
    pub fn i16(&self, column: c_int) -> Option<i16> {
        self.of_type(column, &[pg_sys::INT2OID]).map(to_i16)
    }
    pub fn oid(&self, column: c_int) -> Option<Oid> {
        self.of_type(column, &[pg_sys::OIDOID])
            .map(|datum| Oid::from(to_i32(datum).cast_unsigned()))
    }
    /// A `ctid`.
    pub fn tid(&self, column: c_int) -> Option<pg_sys::ItemPointerData> {
        // SAFETY: the datum of a tid points to one.
        self.of_type(column, &[pg_sys::TIDOID])
            .map(|datum| unsafe { *datum.cast_mut_ptr::<pg_sys::ItemPointerData>() })
    }
    pub fn bool(&self, column: c_int) -> Option<bool> {
        self.of_type(column, &[pg_sys::BOOLOID]).map(to_bool)
    }
    pub fn text(&self, column: c_int) -> Option<String> {
        // SAFETY: a text.
        self.of_type(column, &[pg_sys::TEXTOID])
            .map(|datum| unsafe { read_text(datum) })
    }
    pub fn i64s(&self, column: c_int) -> Option<Vec<i64>> {
        // SAFETY: an array.
        self.of_type(column, &[pg_sys::INT8ARRAYOID, pg_sys::TIMESTAMPTZARRAYOID])
            .map(|datum| unsafe { read_array(datum) })
    }
    pub fn i32s(&self, column: c_int) -> Option<Vec<i32>> {
        // SAFETY: an array.
        self.of_type(column, &[pg_sys::INT4ARRAYOID, pg_sys::DATEARRAYOID])
            .map(|datum| unsafe { read_array(datum) })
    }
    pub fn i16s(&self, column: c_int) -> Option<Vec<i16>> {
        // SAFETY: an array.
        self.of_type(column, &[pg_sys::INT2ARRAYOID])
            .map(|datum| unsafe { read_array(datum) })
    }
}

/// A type as SQL names it.
pub fn type_name(oid: Oid) -> String {
    // SAFETY: names any oid, and ends what it returns with a zero.
    unsafe { CStr::from_ptr(pg_sys::format_type_be(oid)) }
        .to_string_lossy()
        .into_owned()
}
