//! Values as PostgreSQL stores them, from Rust's and back.

use crate::error::{Code, Fault};
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::{CStr, c_char, c_int};
use std::ptr;

/// An `int4` or `date`, which is in the low bytes of its datum.
#[allow(clippy::cast_possible_truncation)]
pub fn to_i32(datum: Datum) -> i32 {
    datum.value() as i32
}

/// An `int2`, likewise.
#[allow(clippy::cast_possible_truncation)]
pub fn to_i16(datum: Datum) -> i16 {
    datum.value() as i16
}

/// An `int8`, `timestamptz` or `time`.
pub fn to_i64(datum: Datum) -> i64 {
    datum.value() as i64
}

/// A `boolean`, which is in the low byte.
pub fn to_bool(datum: Datum) -> bool {
    datum.value() & 0xff != 0
}

/// A length or count as PostgreSQL takes it.
pub fn length(length: usize) -> c_int {
    c_int::try_from(length).unwrap_or_else(|_| {
        Fault::new(Code::LimitExceeded, "value_too_long", "a value is too long")
            .detail(format!("{length} bytes or elements."))
            .hint("A value of PostgreSQL's is less than a gigabyte.")
            .raise()
    })
}

/// A text value.
pub fn text(value: &str) -> Datum {
    // SAFETY: copies the bytes into the current memory context.
    unsafe {
        Datum::from(pg_sys::cstring_to_text_with_len(
            value.as_ptr().cast(),
            length(value.len()),
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

/// What is an element of an array, fixed in length.
pub trait Element: Copy {
    /// The types that PostgreSQL stores so.
    const TYPES: &'static [Oid];
}
impl Element for i64 {
    const TYPES: &'static [Oid] = &[pg_sys::INT8OID, pg_sys::TIMESTAMPTZOID];
}
impl Element for i32 {
    const TYPES: &'static [Oid] = &[pg_sys::INT4OID, pg_sys::DATEOID];
}
impl Element for i16 {
    const TYPES: &'static [Oid] = &[pg_sys::INT2OID];
}

/// The elements of an array without nulls.
///
/// # Safety
/// The datum is an array, not null.
pub unsafe fn read_array<T: Element>(datum: Datum) -> Vec<T> {
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
        let element = Oid::from(word(2).cast_unsigned());
        if !T::TYPES.contains(&element) {
            pgrx::error!("pg_loyalty: an array is of another type");
        }
        let length = usize::try_from(word(3)).unwrap_or(0);
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
            pg_sys::TYPALIGN_INT as c_char,
            &mut values,
            ptr::null_mut(),
            &mut count,
        );
        (0..usize::try_from(count).unwrap_or(0))
            .map(|index| read_text(*values.add(index)))
            .collect()
    }
}

/// An array of values that PostgreSQL stores as `T`.
fn array<T: Element>(values: &[T], oid: Oid) -> Datum {
    let header = size_of::<pg_sys::ArrayType>() + 2 * size_of::<c_int>();
    // SAFETY: the layout of a one-dimensional array without nulls: header, length, lower
    // bound, then the elements; 24 bytes in, so aligned for any of them.
    unsafe {
        if values.is_empty() {
            return Datum::from(pg_sys::construct_empty_array(oid));
        }
        let size = header + size_of_val(values);
        let array: *mut pg_sys::ArrayType = pg_sys::palloc0(size).cast();
        pgrx::set_varsize_4b(array.cast(), length(size));
        (*array).ndim = 1;
        (*array).elemtype = oid;
        let bounds = array.cast::<u8>().add(size_of::<pg_sys::ArrayType>());
        bounds.cast::<c_int>().write(length(values.len()));
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
                pgrx::set_varsize_4b(copy, length(size));
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
            length(elements.len()),
            pg_sys::BYTEAOID,
            -1,
            false,
            pg_sys::TYPALIGN_INT as c_char,
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

/// An array of a composite type.
///
/// # Safety
/// The rows are of the element type.
pub unsafe fn row_array(mut rows: Vec<Datum>, element: Oid) -> Datum {
    // SAFETY: composite values are varlenas, aligned to eight bytes.
    unsafe {
        Datum::from(pg_sys::construct_array(
            rows.as_mut_ptr(),
            length(rows.len()),
            element,
            -1,
            false,
            pg_sys::TYPALIGN_DOUBLE as c_char,
        ))
    }
}

/// The value of an enum type.
pub fn enum_value(enum_type: Oid, label: &CStr) -> Datum {
    // SAFETY: enum_in takes a label and the type, and raises for what is not a label of it.
    unsafe {
        pg_sys::OidInputFunctionCall(
            Oid::from(pg_sys::F_ENUM_IN),
            label.as_ptr().cast_mut(),
            enum_type,
            -1,
        )
    }
}

/// The label of a value of an enum type; it lives as long as the current memory context.
///
/// # Safety
/// The datum is such a value.
pub unsafe fn enum_label<'a>(value: Datum) -> &'a CStr {
    // SAFETY: enum_out returns a C string.
    unsafe {
        CStr::from_ptr(pg_sys::OidOutputFunctionCall(
            Oid::from(pg_sys::F_ENUM_OUT),
            value,
        ))
    }
}
