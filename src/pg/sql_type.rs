//! The types of columns, by PostgreSQL's names, with what their values are in Rust.

use crate::pg::datum::{
    array_of_days, array_of_i16, array_of_i32, array_of_i64, array_of_instants, read_array,
    read_text, text, to_bool, to_i32, to_i64,
};
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::CStr;

/// How the catalog knows a type.
#[derive(Clone, Copy)]
pub enum TypeName {
    BuiltIn(Oid),
    /// One of schema `loyalty`.
    Own(&'static CStr),
}

/// A constant of PostgreSQL's, which bindgen has as a wider type.
#[allow(clippy::cast_possible_truncation)]
const OID_COLUMN: pg_sys::AttrNumber = pg_sys::Anum_pg_type_oid as pg_sys::AttrNumber;

impl TypeName {
    /// The type's oid; no type's where there is none of that name.
    pub fn oid(self) -> Oid {
        let name = match self {
            TypeName::BuiltIn(oid) => return oid,
            TypeName::Own(name) => name,
        };
        // SAFETY: looks a name up in the catalog.
        unsafe {
            let schema = pg_sys::get_namespace_oid(c"loyalty".as_ptr(), false);
            pg_sys::GetSysCacheOid(
                pg_sys::SysCacheIdentifier::TYPENAMENSP as _,
                OID_COLUMN,
                Datum::from(name.as_ptr()),
                Datum::from(schema),
                Datum::from(0),
                Datum::from(0),
            )
        }
    }
}

/// A type of columns that are read or written without a statement.
pub trait SqlType {
    const NAME: TypeName;
    type Given<'a>;
    type Read;

    fn datum(value: Self::Given<'_>) -> Datum;

    /// # Safety
    /// The datum is of the type, and not null.
    unsafe fn read(datum: Datum) -> Self::Read;
}

/// A type that is looked up in an index.
pub trait Indexed: SqlType {
    /// The function that compares two of its values.
    const EQUALS: u32;
}

macro_rules! sql_type {
    ($($name:ident = $type:expr, $given:ty => $datum:expr, $read:ty => $from:expr;)*) => {$(
        pub struct $name;

        impl SqlType for $name {
            const NAME: TypeName = $type;
            type Given<'a> = $given;
            type Read = $read;

            fn datum(value: Self::Given<'_>) -> Datum {
                $datum(value)
            }
            unsafe fn read(datum: Datum) -> Self::Read {
                // SAFETY: by the caller's word.
                #[allow(unused_unsafe)]
                unsafe { $from(datum) }
            }
        }
    )*};
}

sql_type! {
    Bool = TypeName::BuiltIn(pg_sys::BOOLOID), bool => Datum::from, bool => to_bool;
    Int4 = TypeName::BuiltIn(pg_sys::INT4OID), i32 => Datum::from, i32 => to_i32;
    Int8 = TypeName::BuiltIn(pg_sys::INT8OID), i64 => Datum::from, i64 => to_i64;
    Date = TypeName::BuiltIn(pg_sys::DATEOID), i32 => Datum::from, i32 => to_i32;
    Time = TypeName::BuiltIn(pg_sys::TIMEOID), i64 => Datum::from, i64 => to_i64;
    Timestamptz = TypeName::BuiltIn(pg_sys::TIMESTAMPTZOID), i64 => Datum::from, i64 => to_i64;
    Text = TypeName::BuiltIn(pg_sys::TEXTOID), &'a str => text, String => read_text;
    Uuid = TypeName::BuiltIn(pg_sys::UUIDOID), &'a [u8; 16] => by_reference, [u8; 16] => read_uuid;
    Int2Array = TypeName::BuiltIn(pg_sys::INT2ARRAYOID), &'a [i16] => array_of_i16, Vec<i16> => read_array;
    Int4Array = TypeName::BuiltIn(pg_sys::INT4ARRAYOID), &'a [i32] => array_of_i32, Vec<i32> => read_array;
    Int8Array = TypeName::BuiltIn(pg_sys::INT8ARRAYOID), &'a [i64] => array_of_i64, Vec<i64> => read_array;
    DateArray = TypeName::BuiltIn(pg_sys::DATEARRAYOID), &'a [i32] => array_of_days, Vec<i32> => read_array;
    TimestamptzArray = TypeName::BuiltIn(pg_sys::TIMESTAMPTZARRAYOID), &'a [i64] => array_of_instants, Vec<i64> => read_array;
    EntryKind = TypeName::Own(c"entry_kind"), Datum => itself, Datum => itself;
    AccountStatus = TypeName::Own(c"account_status"), Datum => itself, Datum => itself;
    // stored as its text
    ExpiryPolicy = TypeName::Own(c"expiry_policy"), &'a str => text, String => read_text;
}

impl Indexed for Int4 {
    const EQUALS: u32 = pg_sys::F_INT4EQ;
}
impl Indexed for Int8 {
    const EQUALS: u32 = pg_sys::F_INT8EQ;
}
impl Indexed for Uuid {
    const EQUALS: u32 = pg_sys::F_UUID_EQ;
}

fn itself(datum: Datum) -> Datum {
    datum
}

fn by_reference(bytes: &[u8; 16]) -> Datum {
    Datum::from(bytes.as_ptr())
}

/// # Safety
/// The datum is a uuid.
unsafe fn read_uuid(datum: Datum) -> [u8; 16] {
    // SAFETY: by the caller's word.
    unsafe { *datum.cast_mut_ptr::<[u8; 16]>() }
}
