//! The edge to SQL: how a function of ours reads its arguments and returns rows. The
//! functions themselves are declared in `sql/`, where callers read their names and comments.

use crate::error::{Code, Fault, Result};
use crate::pg::datum::{self, to_i32, to_i64};
use crate::pg::tuple_desc::{form_row, split};
use pgrx::pg_sys::{self, Datum, FunctionCallInfo};

/// Makes a function callable from SQL, as the symbol `loyalty_NAME` that `sql/` names:
/// `sql_function!(grant)`, or `sql_function!(now = sql_now)` where the name is taken.
macro_rules! sql_function {
    ($name:ident) => {
        $crate::pg::call::sql_function!($name = $name);
    };
    ($name:ident = $function:path) => {
        const _: () = {
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
                let call = $crate::pg::call::Call::new(fcinfo);
                call.finish($function(&call))
            }
        };
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
        Answer::Value(datum::text(&self))
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
        // SAFETY: there are so many arguments.
        unsafe {
            let count = usize::try_from((*self.fcinfo).nargs).unwrap_or(0);
            if index >= count {
                pgrx::error!("pg_loyalty: a function was declared with {count} arguments only");
            }
            let argument = (*self.fcinfo).args.as_ptr().add(index);
            (!(*argument).isnull).then_some((*argument).value)
        }
    }
    pub fn i64(&self, index: usize) -> Option<i64> {
        self.datum(index).map(to_i64)
    }
    pub fn i32(&self, index: usize) -> Option<i32> {
        self.datum(index).map(to_i32)
    }
    pub fn text(&self, index: usize) -> Option<String> {
        // SAFETY: asked of text arguments only.
        self.datum(index)
            .map(|datum| unsafe { datum::read_text(datum) })
    }
    /// A jsonb argument as its text.
    pub fn jsonb(&self, index: usize) -> Option<String> {
        // SAFETY: asked of jsonb arguments only.
        self.datum(index)
            .map(|datum| unsafe { datum::read_jsonb(datum) })
    }
    pub fn i64s(&self, index: usize) -> Option<Vec<i64>> {
        // SAFETY: asked of bigint[] arguments only.
        self.datum(index)
            .map(|datum| unsafe { datum::read_array(datum) })
    }
    /// The elements of a text[] argument without nulls.
    pub fn texts(&self, index: usize) -> Option<Vec<String>> {
        // SAFETY: asked of text[] arguments only.
        self.datum(index)
            .map(|datum| unsafe { datum::read_texts(datum) })
    }
    pub fn i32s(&self, index: usize) -> Option<Vec<i32>> {
        // SAFETY: asked of date[] and integer[] arguments only.
        self.datum(index)
            .map(|datum| unsafe { datum::read_array(datum) })
    }
    pub fn i16s(&self, index: usize) -> Option<Vec<i16>> {
        // SAFETY: asked of smallint[] arguments only.
        self.datum(index)
            .map(|datum| unsafe { datum::read_array(datum) })
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
            // SAFETY: the row is of the declared type.
            Answer::Row(values) => unsafe { form_row(self.result_desc(), &values) },
        }
    }

    /// The row type that the function is declared to return.
    pub fn result_desc(&self) -> pg_sys::TupleDesc {
        let mut desc = std::ptr::null_mut();
        // SAFETY: fills in the descriptor of the declared type.
        unsafe {
            pg_sys::get_call_result_type(self.fcinfo, std::ptr::null_mut(), &mut desc);
            pg_sys::BlessTupleDesc(desc)
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
    pub fn desc(&self) -> pg_sys::TupleDesc {
        // SAFETY: set up by Call::rows.
        unsafe { (*self.info).setDesc }
    }

    pub fn put(&self, values: &[Option<Datum>]) {
        let desc = self.desc();
        // SAFETY: the values are of the types of the set's columns.
        unsafe {
            let (mut datums, mut nulls) = split(desc, values);
            pg_sys::tuplestore_putvalues(
                (*self.info).setResult,
                desc,
                datums.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
        }
    }
}
