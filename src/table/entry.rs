//! `loyalty.entry`: the journal.

use crate::error::{Code, Fault, Result};
use crate::pg::datum::{enum_value, text};
use crate::pg::index_scan::{Index, IndexScan, Key};
use crate::pg::snapshot::RegisteredSnapshot;
use crate::pg::sql_type::{Int8, SqlType as _};
use crate::pg::table::table;
use loyalty_core::wallet::{EntryNo, Kind};
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::RefCell;

table! {
    /// As sql/20_ledger/table.sql creates it.
    Entry = c"entry", ENTRY {
        account_id: Int8 [not_null],
        points: Int8 [not_null],
        balance: Int8 [not_null],
        occurred_at: Timestamptz [not_null],
        entry: Int4 [not_null],
        kind: EntryKind [not_null],
        expires_on: Date,
        granted_on: Date,
        request_hash: Int4,
        refers_to: Int4,
        available: Int8,
        held: Int8,
        debt: Int8,
        other_account_id: Int8,
        other_entry: Int4,
        actor: Text [not_null],
        reason: Text,
        idempotency_key: Text [default_collation],
        lot_expires_on: DateArray,
        lot_points: Int8Array,
        lot_class: Int2Array,
        hold_until: Timestamptz,
    }
}

/// With the hash of the key.
static BY_KEY: Index<Entry, 2> = Index::new(
    c"entry_by_key",
    [Key::column(ENTRY.account_id), Key::expression::<Int8>()],
);

/// Finds entries by their idempotency keys.
pub struct KeyScan(IndexScan<Entry, 2>);

impl KeyScan {
    /// The snapshot outlives the scan.
    pub fn open(snapshot: &RegisteredSnapshot) -> Result<Self> {
        Ok(KeyScan(IndexScan::open(&BY_KEY, snapshot)?))
    }

    /// The entry that an idempotency key made (law 6).
    pub fn find(&mut self, account_id: i64, key: &str) -> Result<Option<EntryNo>> {
        // SAFETY: the function that the index is on, under the collation of the column.
        let hash = unsafe {
            pg_sys::OidFunctionCall2Coll(
                pg_sys::Oid::from(pg_sys::F_HASHTEXTEXTENDED),
                pg_sys::DEFAULT_COLLATION_OID,
                text(key),
                Datum::from(0i64),
            )
        };
        let Some(row) = self.0.find([Int8::datum(account_id), hash]) else {
            return Ok(None);
        };
        if row.get(ENTRY.idempotency_key).as_deref() == Some(key) {
            return Ok(row.get(ENTRY.entry));
        }
        // Another key with the same hash: the index would refuse ours, and so do we.
        Err(Fault::new(
            Code::KeyReused,
            "key_unusable",
            "the idempotency key cannot be used",
        )
        .field("idempotency_key")
        .detail("Its hash is that of another key of the account.")
        .hint("Use another key."))
    }
}

/// Values of `loyalty.entry_kind`, each looked up once: bulk calls need few of them often.
#[derive(Clone)]
pub struct Kinds {
    enum_type: Oid,
    known: RefCell<Vec<(Kind, Datum)>>,
}

impl Kinds {
    pub fn of(enum_type: Oid) -> Self {
        Kinds {
            enum_type,
            known: RefCell::default(),
        }
    }

    pub fn value(&self, kind: Kind) -> Datum {
        let mut known = self.known.borrow_mut();
        if let Some((_, value)) = known.iter().find(|(one, _)| *one == kind) {
            return *value;
        }
        let value = enum_value(self.enum_type, kind.label());
        known.push((kind, value));
        value
    }
}
