//! SPI with as little as possible between us and the executor: plans prepared once per
//! backend and kept, values passed as PostgreSQL stores them.

use crate::scan;
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A statement prepared at its first use and kept for the life of the backend. It always
/// runs with its generic plan: these are all look-ups by key, planning them anew never pays.
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

    /// Runs it. Each parameter brings its type along.
    pub fn run(&'static self, spi: &Spi, params: &[Param]) -> Rows {
        spi.ensure();
        let plan = self.prepared(params);
        let mut values: Vec<Datum> = params.iter().map(|param| param.value).collect();
        let nulls: Vec<c_char> = params
            .iter()
            .map(|param| if param.null { b'n' } else { b' ' } as c_char)
            .collect();
        // SAFETY: as many values and nulls as the plan has parameters; we are connected.
        let read_only = self.read_only || spi.reads_only;
        let status = in_same_context(|| unsafe {
            pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr(), read_only, 0)
        });
        if status < 0 {
            pgrx::error!("pg_loyalty: SPI_execute_plan returned {status}");
        }
        // SAFETY: both are set by the call above.
        unsafe {
            Rows {
                count: pg_sys::SPI_processed as usize,
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
                types.len() as c_int,
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
    let owner = scan::owner().unwrap_or_else(|fault| fault.raise());
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

/// Runs what switches the memory context, and switches back.
fn in_same_context<T>(run: impl FnOnce() -> T) -> T {
    // SAFETY: the context was current, and outlives the SPI calls made in it.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let result = run();
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
    pub fn i64(&self, column: c_int) -> Option<i64> {
        self.datum(column).map(|datum| datum.value() as i64)
    }
    pub fn i32(&self, column: c_int) -> Option<i32> {
        self.datum(column).map(|datum| datum.value() as i32)
    }
    pub fn i16(&self, column: c_int) -> Option<i16> {
        self.datum(column).map(|datum| datum.value() as i16)
    }
    /// A `ctid`.
    pub fn place(&self, column: c_int) -> Option<pg_sys::ItemPointerData> {
        // SAFETY: asked of tid columns only, whose datum points to one.
        self.datum(column)
            .map(|datum| unsafe { *datum.cast_mut_ptr::<pg_sys::ItemPointerData>() })
    }
    pub fn bool(&self, column: c_int) -> Option<bool> {
        self.datum(column).map(|datum| datum.value() & 1 == 1)
    }
    pub fn text(&self, column: c_int) -> Option<String> {
        // SAFETY: asked of text columns only.
        self.datum(column).map(|datum| unsafe { read_text(datum) })
    }
    pub fn i64s(&self, column: c_int) -> Option<Vec<i64>> {
        // SAFETY: asked of arrays of eight-byte values only.
        self.datum(column).map(|datum| unsafe { read_array(datum) })
    }
    pub fn i32s(&self, column: c_int) -> Option<Vec<i32>> {
        // SAFETY: asked of arrays of four-byte values only.
        self.datum(column).map(|datum| unsafe { read_array(datum) })
    }
    pub fn i16s(&self, column: c_int) -> Option<Vec<i16>> {
        // SAFETY: asked of arrays of two-byte values only.
        self.datum(column).map(|datum| unsafe { read_array(datum) })
    }
}

/// A text value.
pub fn text(value: &str) -> Datum {
    // SAFETY: copies the bytes into the current memory context.
    unsafe {
        Datum::from(pg_sys::cstring_to_text_with_len(
            value.as_ptr().cast(),
            value.len() as c_int,
        ))
    }
}

/// The string of a text value.
///
/// # Safety
/// The datum is a text, not null.
pub unsafe fn read_text(datum: Datum) -> String {
    // SAFETY: text_to_cstring detoasts, and ends what it returns with a zero.
    unsafe {
        let copy = pg_sys::text_to_cstring(datum.cast_mut_ptr());
        let string = CStr::from_ptr(copy).to_string_lossy().into_owned();
        pg_sys::pfree(copy.cast());
        string
    }
}

/// The text of a jsonb value.
///
/// # Safety
/// The datum is a jsonb, not null.
pub unsafe fn read_jsonb(datum: Datum) -> String {
    // SAFETY: jsonb_out detoasts, and ends what it returns with a zero.
    unsafe {
        let text = pg_sys::OidOutputFunctionCall(Oid::from(pg_sys::F_JSONB_OUT), datum);
        let string = CStr::from_ptr(text).to_string_lossy().into_owned();
        pg_sys::pfree(text.cast());
        string
    }
}

/// The elements of an array without nulls.
///
/// # Safety
/// The datum is an array, not null, whose elements are fixed in length and of `T`'s size.
pub unsafe fn read_array<T: Copy>(datum: Datum) -> Vec<T> {
    // SAFETY: the layout is PostgreSQL's ArrayType, less the length word, which may be short and
    // leave the rest unaligned: dimensions, offset of the data, type, length and lower bound, then
    // (no null bitmap) the elements from the next eight-byte boundary of the whole.
    unsafe {
        let array = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
        let body = pgrx::vardata_any(array).cast::<u8>();
        let word = |index: usize| body.cast::<c_int>().add(index).read_unaligned();
        let (dimensions, data_offset) = (word(0), word(1));
        if dimensions == 0 {
            return Vec::new();
        }
        if dimensions != 1 || data_offset != 0 {
            pgrx::error!("pg_loyalty: an array has nulls or several dimensions");
        }
        let length = word(3) as usize;
        let header = size_of::<pg_sys::ArrayType>() + 2 * size_of::<c_int>();
        let data = body.add(header.next_multiple_of(8) - pg_sys::VARHDRSZ);
        let mut values = Vec::with_capacity(length);
        for index in 0..length {
            values.push(
                data.add(index * size_of::<T>())
                    .cast::<T>()
                    .read_unaligned(),
            );
        }
        values
    }
}

/// The strings of an array of texts without nulls.
///
/// # Safety
/// The datum is a text[], not null.
pub unsafe fn read_texts(datum: Datum) -> Vec<String> {
    // SAFETY: by the caller's word; without nulls the array of flags may be left out, but a
    // null raises.
    unsafe {
        let array: *mut pg_sys::ArrayType = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
        let (mut values, mut count) = (ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            pg_sys::TEXTOID,
            -1,
            false,
            b'i' as c_char,
            &mut values,
            ptr::null_mut(),
            &mut count,
        );
        (0..count as usize)
            .map(|index| read_text(*values.add(index)))
            .collect()
    }
}

/// An array of values that PostgreSQL stores as `T`.
fn array<T: Copy>(values: &[T], oid: Oid) -> Datum {
    let header = size_of::<pg_sys::ArrayType>() + 2 * size_of::<c_int>();
    // SAFETY: the layout of a one-dimensional array without nulls: header, length, lower
    // bound, then the elements; 24 bytes in, so aligned for any of them.
    unsafe {
        if values.is_empty() {
            return Datum::from(pg_sys::construct_empty_array(oid));
        }
        let size = header + size_of_val(values);
        let array: *mut pg_sys::ArrayType = pg_sys::palloc0(size).cast();
        pgrx::set_varsize_4b(array.cast(), size as i32);
        (*array).ndim = 1;
        (*array).elemtype = oid;
        let bounds = array.cast::<u8>().add(size_of::<pg_sys::ArrayType>());
        bounds.cast::<c_int>().write(values.len() as c_int);
        bounds.cast::<c_int>().add(1).write(1);
        let elements = array.cast::<u8>().add(header);
        ptr::copy_nonoverlapping(values.as_ptr().cast(), elements, size_of_val(values));
        Datum::from(array)
    }
}

pub fn array_of_bytes<const N: usize>(values: &[[u8; N]]) -> Datum {
    // SAFETY: each element is a copied bytea; construct_array copies them once more.
    unsafe {
        let mut elements: Vec<Datum> = values
            .iter()
            .map(|value| {
                let size = pg_sys::VARHDRSZ + N;
                let copy: *mut pg_sys::varlena = pg_sys::palloc(size).cast();
                pgrx::set_varsize_4b(copy, size as i32);
                ptr::copy_nonoverlapping(
                    value.as_ptr(),
                    copy.cast::<u8>().add(pg_sys::VARHDRSZ),
                    N,
                );
                Datum::from(copy)
            })
            .collect();
        Datum::from(pg_sys::construct_array(
            elements.as_mut_ptr(),
            elements.len() as c_int,
            pg_sys::BYTEAOID,
            -1,
            false,
            pg_sys::TYPALIGN_INT as std::os::raw::c_char,
        ))
    }
}
pub fn array_of_i64(values: &[i64]) -> Datum {
    array(values, pg_sys::INT8OID)
}
pub fn array_of_instants(values: &[i64]) -> Datum {
    array(values, pg_sys::TIMESTAMPTZOID)
}
pub fn array_of_days(values: &[i32]) -> Datum {
    array(values, pg_sys::DATEOID)
}
pub fn array_of_i32(values: &[i32]) -> Datum {
    array(values, pg_sys::INT4OID)
}
pub fn array_of_i16(values: &[i16]) -> Datum {
    array(values, pg_sys::INT2OID)
}
