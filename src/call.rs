//! The edge to SQL: how a function of ours reads its arguments and returns rows. The
//! functions themselves are declared in `sql/`, where callers read their names and comments.

use crate::error::{Code, Fault, Result};
use crate::spi;
use pgrx::pg_sys::{self, Datum, FunctionCallInfo, Oid};

/// Defines a C function for SQL: `$name` is the symbol that `sql/` names.
macro_rules! sql_function {
    ($(#[doc = $doc:literal])* fn $name:ident($call:ident) -> $result:ty $body:block) => {
        pub mod $name {
            #![allow(unused_imports)]
            use super::*;

            /// Tells PostgreSQL the calling convention.
            #[unsafe(export_name = concat!("pg_finfo_loyalty_", stringify!($name)))]
            pub extern "C-unwind" fn info() -> *const pgrx::pg_sys::Pg_finfo_record {
                static RECORD: pgrx::pg_sys::Pg_finfo_record =
                    pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                &RECORD
            }

            /// # Safety
            /// Only for PostgreSQL to call.
            #[pgrx::pg_guard]
            #[unsafe(export_name = concat!("loyalty_", stringify!($name)))]
            pub unsafe extern "C-unwind" fn entry(
                fcinfo: pgrx::pg_sys::FunctionCallInfo,
            ) -> pgrx::pg_sys::Datum {
                let call = $crate::call::Call::new(fcinfo);
                call.finish(body(&call))
            }

            $(#[doc = $doc])*
            fn body($call: &$crate::call::Call) -> $crate::error::Result<$result> $body
        }
    };
}
pub(crate) use sql_function;

/// A call under way.
pub struct Call {
    fcinfo: FunctionCallInfo,
}

/// What a function hands back.
pub enum Answer {
    Null,
    Value(Datum),
    /// One row of the composite type that the function returns.
    Row(Vec<Option<Datum>>),
}

/// Anything that can be the answer of a call.
pub trait IntoAnswer {
    fn into_answer(self, call: &Call) -> Answer;
}

impl IntoAnswer for Answer {
    fn into_answer(self, _: &Call) -> Answer {
        self
    }
}
impl IntoAnswer for () {
    fn into_answer(self, _: &Call) -> Answer {
        Answer::Value(Datum::from(0))
    }
}
impl IntoAnswer for bool {
    fn into_answer(self, _: &Call) -> Answer {
        Answer::Value(Datum::from(self))
    }
}
impl IntoAnswer for i64 {
    fn into_answer(self, _: &Call) -> Answer {
        Answer::Value(Datum::from(self))
    }
}
/// A day.
impl IntoAnswer for i32 {
    fn into_answer(self, _: &Call) -> Answer {
        Answer::Value(Datum::from(self))
    }
}
impl IntoAnswer for String {
    fn into_answer(self, _: &Call) -> Answer {
        Answer::Value(spi::text(&self))
    }
}
impl<T: IntoAnswer> IntoAnswer for Option<T> {
    fn into_answer(self, call: &Call) -> Answer {
        self.map_or(Answer::Null, |value| value.into_answer(call))
    }
}

impl Call {
    pub fn new(fcinfo: FunctionCallInfo) -> Self {
        Call { fcinfo }
    }

    /// Argument number `index`, from 0.
    pub fn datum(&self, index: usize) -> Option<Datum> {
        // SAFETY: PostgreSQL passes as many arguments as sql/ declares.
        unsafe {
            let argument = (*self.fcinfo).args.as_ptr().add(index);
            (!(*argument).isnull).then_some((*argument).value)
        }
    }
    pub fn i64(&self, index: usize) -> Option<i64> {
        self.datum(index).map(|datum| datum.value() as i64)
    }
    pub fn i32(&self, index: usize) -> Option<i32> {
        self.datum(index).map(|datum| datum.value() as i32)
    }
    pub fn text(&self, index: usize) -> Option<String> {
        // SAFETY: asked of text arguments only.
        self.datum(index)
            .map(|datum| unsafe { spi::read_text(datum) })
    }
    /// A jsonb argument as its text.
    pub fn jsonb(&self, index: usize) -> Option<String> {
        // SAFETY: asked of jsonb arguments only.
        self.datum(index)
            .map(|datum| unsafe { spi::read_jsonb(datum) })
    }
    pub fn i64s(&self, index: usize) -> Option<Vec<i64>> {
        // SAFETY: asked of bigint[] arguments only.
        self.datum(index)
            .map(|datum| unsafe { spi::read_array(datum) })
    }
    /// The elements of a text[] argument without nulls.
    pub fn texts(&self, index: usize) -> Option<Vec<String>> {
        // SAFETY: asked of text[] arguments only.
        self.datum(index)
            .map(|datum| unsafe { spi::read_texts(datum) })
    }
    pub fn i32s(&self, index: usize) -> Option<Vec<i32>> {
        // SAFETY: asked of date[] and integer[] arguments only.
        self.datum(index)
            .map(|datum| unsafe { spi::read_array(datum) })
    }
    pub fn i16s(&self, index: usize) -> Option<Vec<i16>> {
        // SAFETY: asked of smallint[] arguments only.
        self.datum(index)
            .map(|datum| unsafe { spi::read_array(datum) })
    }

    /// An argument that may not be null.
    pub fn need<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| {
            Fault::new(
                Code::NullValue,
                "value_missing",
                format!("{name} must not be null"),
            )
            .field(name.to_owned())
            .hint(format!("Pass {name} => … ."))
        })
    }

    /// What a trigger function is called with.
    pub fn trigger_data(&self) -> Result<&pg_sys::TriggerData> {
        // SAFETY: the context of a trigger call is TriggerData; that is checked first.
        unsafe {
            let context = (*self.fcinfo).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return Err(Fault::invalid("trigger_only", "this function is a trigger")
                    .hint("It is called by PostgreSQL when rows of its table change."));
            }
            Ok(&*context.cast())
        }
    }

    pub(crate) fn finish<T: IntoAnswer>(&self, result: Result<T>) -> Datum {
        let answer = match result {
            Ok(value) => value.into_answer(self),
            Err(fault) => fault.raise(),
        };
        match answer {
            Answer::Value(datum) => datum,
            Answer::Null => {
                // SAFETY: the flag is ours to set.
                unsafe { (*self.fcinfo).isnull = true };
                Datum::from(0)
            }
            // SAFETY: the row has the shape of the declared type.
            Answer::Row(values) => unsafe { form_row(self.result_shape(), &values) },
        }
    }

    /// The row type that the function is declared to return.
    pub fn result_shape(&self) -> pg_sys::TupleDesc {
        let mut shape = std::ptr::null_mut();
        // SAFETY: fills in the descriptor of the declared type.
        unsafe {
            pg_sys::get_call_result_type(self.fcinfo, std::ptr::null_mut(), &mut shape);
            pg_sys::BlessTupleDesc(shape)
        }
    }

    /// Starts the answer of a function that returns a set.
    pub fn rows(&self) -> RowSink {
        // SAFETY: sets up the tuplestore in the caller's result info.
        unsafe {
            pg_sys::InitMaterializedSRF(self.fcinfo, 0);
            let info: *mut pg_sys::ReturnSetInfo = (*self.fcinfo).resultinfo.cast();
            RowSink { info }
        }
    }
}

/// Takes the rows of a set.
pub struct RowSink {
    info: *mut pg_sys::ReturnSetInfo,
}

impl RowSink {
    pub fn shape(&self) -> pg_sys::TupleDesc {
        // SAFETY: set up by Call::rows.
        unsafe { (*self.info).setDesc }
    }

    pub fn put(&self, values: &[Option<Datum>]) {
        let shape = self.shape();
        // SAFETY: the values fit the set's columns, as many as it has.
        unsafe {
            let (mut datums, mut nulls) = split(shape, values);
            pg_sys::tuplestore_putvalues(
                (*self.info).setResult,
                shape,
                datums.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
        }
    }
}

/// Values as PostgreSQL takes them, for all columns of a shape.
///
/// # Safety
/// The shape is one.
unsafe fn split(shape: pg_sys::TupleDesc, values: &[Option<Datum>]) -> (Vec<Datum>, Vec<bool>) {
    let (mut datums, mut nulls): (Vec<_>, Vec<_>) = values
        .iter()
        .map(|value| (value.unwrap_or(Datum::from(0)), value.is_none()))
        .unzip();
    // SAFETY: by the caller's word.
    let columns = unsafe { (*shape).natts as usize };
    // columns that were added behind ours are null
    datums.resize(columns, Datum::from(0));
    nulls.resize(columns, true);
    (datums, nulls)
}

/// A value of a composite type.
///
/// # Safety
/// The values fit the shape.
pub unsafe fn form_row(shape: pg_sys::TupleDesc, values: &[Option<Datum>]) -> Datum {
    // SAFETY: by the caller's word.
    unsafe {
        let (mut datums, mut nulls) = split(shape, values);
        let tuple = pg_sys::heap_form_tuple(shape, datums.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
    }
}

/// The row type behind an array column of a row type, and its oid.
///
/// # Safety
/// The column, from 0, is an array of a composite type.
pub unsafe fn element_shape(shape: pg_sys::TupleDesc, column: usize) -> (pg_sys::TupleDesc, Oid) {
    // SAFETY: by the caller's word. The descriptor is of the type cache, pinned until dropped.
    unsafe { element_type(pg_sys::SPI_gettypeid(shape, column as i32 + 1)) }
}

/// The row type of the elements of an array type, and its oid.
///
/// # Safety
/// The oid is of an array of a composite type.
pub unsafe fn element_type(array: Oid) -> (pg_sys::TupleDesc, Oid) {
    // SAFETY: by the caller's word.
    unsafe {
        let element = pg_sys::get_element_type(array);
        (pg_sys::lookup_rowtype_tupdesc_copy(element, -1), element)
    }
}

/// An array of a composite type.
///
/// # Safety
/// The rows are of the element type.
pub unsafe fn row_array(mut rows: Vec<Datum>, element: Oid) -> Datum {
    // SAFETY: composite values are varlenas, aligned to eight bytes.
    unsafe {
        Datum::from(pg_sys::construct_array(
            rows.as_mut_ptr(),
            rows.len() as i32,
            element,
            -1,
            false,
            b'd' as std::ffi::c_char,
        ))
    }
}
