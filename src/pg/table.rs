//! Tables of the extension as they are declared here, once each, and whether the catalog has them
//! so. What is read and written without a statement must be of the very types: PostgreSQL would
//! convert, or refuse, and nobody does here.

use crate::error::{Code, Fault, Result};
use crate::pg::relcache::{self, Known};
use crate::pg::spi::type_name;
use crate::pg::sql_type::{SqlType, TypeName};
use crate::pg::tuple_desc;
use pgrx::pg_sys::{self, Datum};
use std::ffi::{CStr, c_char};
use std::marker::PhantomData;

/// A table with its columns.
pub trait Table: 'static {
    const SCHEMA: &'static CStr = crate::pg::relation::PUBLIC;
    const NAME: &'static CStr;
    /// In their order; a DBA's own columns come behind.
    const COLUMNS: &'static [Declared];

    /// Whether the catalog has it so, when that was last looked up.
    fn known() -> &'static Known;
}

/// A column as it is declared.
pub struct Declared {
    pub name: &'static CStr,
    pub type_name: TypeName,
    pub not_null: bool,
    /// Of a text that is compared or hashed in an index, which the collation decides about.
    pub default_collation: bool,
}

/// Declares a table, of schema `loyalty` unless it says another, and its columns: names and types, in the order of the table; which are not null, and
/// of which the collation matters.
macro_rules! table {
    ($(#[doc = $doc:literal])* $table:ident = $name:literal $(in $schema:literal)?, $all:ident {
        $($column:ident: $type:ident $([$($word:ident)*])?),* $(,)?
    }) => {
        $(#[doc = $doc])*
        #[allow(dead_code, reason = "a table is declared whole")]
        pub struct $table {
            $(pub $column: $crate::pg::table::Column<$table, $crate::pg::sql_type::$type>,)*
        }

        #[allow(dead_code, reason = "a table may be read for its rows alone")]
        pub const $all: $table = {
            #[allow(non_camel_case_types)]
            enum Index { $($column),* }
            $table {
                $($column: $crate::pg::table::Column::at(Index::$column as usize),)*
            }
        };

        impl $crate::pg::table::Table for $table {
            $(const SCHEMA: &'static std::ffi::CStr = $schema;)?
            const NAME: &'static std::ffi::CStr = $name;
            const COLUMNS: &'static [$crate::pg::table::Declared] = &[
                $($crate::pg::table::Declared {
                    name: match std::ffi::CStr::from_bytes_with_nul(
                        concat!(stringify!($column), "\0").as_bytes(),
                    ) {
                        Ok(name) => name,
                        Err(_) => panic!("a name with a zero"),
                    },
                    type_name: <$crate::pg::sql_type::$type as $crate::pg::sql_type::SqlType>::NAME,
                    $($($word: true,)*)?
                    ..$crate::pg::table::Declared::PLAIN
                },)*
            ];

            fn known() -> &'static $crate::pg::relcache::Known {
                static KNOWN: $crate::pg::relcache::Known = $crate::pg::relcache::Known::nothing();
                &KNOWN
            }
        }
    };
}
pub(crate) use table;

impl Declared {
    pub const PLAIN: Declared = Declared {
        name: c"",
        type_name: TypeName::BuiltIn(pg_sys::InvalidOid),
        not_null: false,
        default_collation: false,
    };
}

/// A column of a table, and of which type.
pub struct Column<T, S> {
    /// From 0.
    pub index: usize,
    of: PhantomData<fn() -> (T, S)>,
}

impl<T, S> Clone for Column<T, S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T, S> Copy for Column<T, S> {}

impl<T: Table, S: SqlType> Column<T, S> {
    pub const fn at(index: usize) -> Self {
        Column {
            index,
            of: PhantomData,
        }
    }
}

/// A row that is to be written; null where nothing is set.
pub struct NewRow<T> {
    values: Vec<Option<Datum>>,
    of: PhantomData<fn() -> T>,
}

impl<T: Table> NewRow<T> {
    pub fn new() -> Self {
        NewRow {
            values: vec![None; T::COLUMNS.len()],
            of: PhantomData,
        }
    }

    pub fn set<'a, S: SqlType>(
        &mut self,
        column: Column<T, S>,
        value: impl Into<Option<S::Given<'a>>>,
    ) {
        self.values[column.index] = value.into().map(S::datum);
    }

    pub fn values(&self) -> &[Option<Datum>] {
        &self.values
    }
}

/// Refuses a table that was altered so that its rows cannot be read and written as declared.
///
/// # Safety
/// The relation is open, and locked.
pub unsafe fn check<T: Table>(relation: pg_sys::Relation) -> Result<()> {
    // SAFETY: by the caller's word.
    let oid = unsafe { (*relation).rd_id };
    if T::known().get(oid) == Some(true) {
        return Ok(());
    }
    let as_of = relcache::changes();
    // SAFETY: by the caller's word.
    unsafe { find_difference::<T>(relation) }
        .map_or(Ok(()), |difference| Err(altered(T::NAME, &difference)))?;
    T::known().set(oid, as_of, true);
    Ok(())
}

fn altered(name: &CStr, difference: &str) -> Fault {
    Fault::new(Code::NotReady, "table_altered", "a table of pg_loyalty was altered")
        .detail(format!("loyalty.{}: {difference}.", name.to_string_lossy()))
        .hint("Columns of the extension keep their order, names and types: alter it back. Columns of your own can be added behind them, and values restricted by CHECK constraints.")
}

/// The first thing that the catalog has otherwise.
///
/// # Safety
/// The relation is open, and locked.
unsafe fn find_difference<T: Table>(relation: pg_sys::Relation) -> Option<String> {
    // SAFETY: by the caller's word; the catalog's strings end with a zero.
    unsafe {
        let form = &*(*relation).rd_rel;
        if form.relkind != pg_sys::RELKIND_RELATION as c_char {
            return Some("it is not an ordinary table".to_owned());
        }
        for (index, declared) in T::COLUMNS.iter().enumerate() {
            let name = declared.name.to_string_lossy();
            let Some(attribute) = tuple_desc::attribute((*relation).rd_att, index + 1) else {
                return Some(format!("column {name} is missing"));
            };
            if attribute.attisdropped {
                return Some(format!("column {name} was dropped"));
            }
            let found = CStr::from_ptr(attribute.attname.data.as_ptr());
            if found != declared.name {
                let found = found.to_string_lossy();
                return Some(format!("column {} is {found}, not {name}", index + 1));
            }
            let declared_type = declared.type_name.oid();
            if attribute.atttypid != declared_type || attribute.atttypmod != -1 {
                let found = CStr::from_ptr(pg_sys::format_type_with_typemod(
                    attribute.atttypid,
                    attribute.atttypmod,
                ));
                return Some(format!(
                    "column {name} is of type {}, not {}",
                    found.to_string_lossy(),
                    type_name(declared_type)
                ));
            }
            if declared.default_collation && attribute.attcollation != pg_sys::DEFAULT_COLLATION_OID
            {
                return Some(format!("column {name} has another collation"));
            }
            if attribute.attgenerated != 0 {
                return Some(format!("column {name} is generated"));
            }
        }
        None
    }
}
