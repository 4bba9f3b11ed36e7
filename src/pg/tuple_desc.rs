//! Tuple descriptors, and values of composite types that are made by them.

use crate::error::{Code, Fault};
use pgrx::pg_sys::{self, Datum, Oid};

/// An attribute, numbered from 1; none where the descriptor has no such.
///
/// # Safety
/// It is a tuple descriptor, which outlives what is returned.
pub unsafe fn attribute<'a>(
    desc: pg_sys::TupleDesc,
    number: usize,
) -> Option<&'a pg_sys::FormData_pg_attribute> {
    // SAFETY: by the caller's word; the number is checked.
    unsafe {
        if number == 0 || number > length(desc) {
            return None;
        }
        #[cfg(not(feature = "pg18"))]
        let attributes = (*desc).attrs.as_ptr();
        // behind the short form of all of them
        #[cfg(feature = "pg18")]
        let attributes = (*desc)
            .compact_attrs
            .as_ptr()
            .add(length(desc))
            .cast::<pg_sys::FormData_pg_attribute>();
        Some(&*attributes.add(number - 1))
    }
}

/// How many attributes it has, those included that were dropped.
///
/// # Safety
/// It is a tuple descriptor.
pub unsafe fn length(desc: pg_sys::TupleDesc) -> usize {
    // SAFETY: by the caller's word.
    usize::try_from(unsafe { (*desc).natts }).unwrap_or(0)
}

/// Values as PostgreSQL takes them, for all attributes.
///
/// # Safety
/// It is a tuple descriptor.
pub unsafe fn split(desc: pg_sys::TupleDesc, values: &[Option<Datum>]) -> (Vec<Datum>, Vec<bool>) {
    // SAFETY: by the caller's word.
    let length = unsafe { length(desc) };
    if values.len() > length {
        Fault::new(Code::NotReady, "versions_differ", "a row type of pg_loyalty has too few columns")
            .detail(format!("It has {length}, for {} values.", values.len()))
            .hint("The library and the extension in the database are of different versions: alter extension pg_loyalty update.")
            .raise();
    }
    let (mut datums, mut nulls): (Vec<_>, Vec<_>) = values
        .iter()
        .map(|value| (value.unwrap_or(Datum::from(0)), value.is_none()))
        .unzip();
    // columns that were added behind ours are null
    datums.resize(length, Datum::from(0));
    nulls.resize(length, true);
    (datums, nulls)
}

/// A value of a composite type.
///
/// # Safety
/// The values are of the types of the descriptor's attributes.
pub unsafe fn form_row(desc: pg_sys::TupleDesc, values: &[Option<Datum>]) -> Datum {
    // SAFETY: by the caller's word.
    unsafe {
        let (mut datums, mut nulls) = split(desc, values);
        let tuple = pg_sys::heap_form_tuple(desc, datums.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
    }
}

/// The type of an attribute, numbered from 1; no type's oid where there is no such.
///
/// # Safety
/// It is a tuple descriptor.
pub unsafe fn type_of(desc: pg_sys::TupleDesc, number: usize) -> Oid {
    // SAFETY: by the caller's word.
    let attribute = unsafe { attribute(desc, number) };
    attribute.map_or(pg_sys::InvalidOid, |attribute| attribute.atttypid)
}

/// The row type of the elements of an array type, and its oid.
///
/// # Safety
/// The oid is of an array of a composite type.
pub unsafe fn element_type(array: Oid) -> (pg_sys::TupleDesc, Oid) {
    // SAFETY: by the caller's word; what is no such type raises.
    unsafe {
        let element = pg_sys::get_element_type(array);
        (pg_sys::lookup_rowtype_tupdesc_copy(element, -1), element)
    }
}
