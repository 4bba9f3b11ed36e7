//! `loyalty_private.session`: logins.

use crate::error::Result;
use crate::pg::index_scan::{Index, IndexScan, Key};
use crate::pg::snapshot::Snapshot;
use crate::pg::sql_type::{SqlType as _, Uuid};
use crate::pg::table::table;
use loyalty_core::wallet::Instant;

table! {
    /// As sql/60_identity/40_session.sql creates it.
    Session = c"session" in c"loyalty_private", SESSION {
        session_id: Uuid [not_null],
        identity_id: Int8 [not_null],
        program_id: Int4,
        account_id: Int8,
        role: Text [not_null],
        is_remembered: Bool [not_null],
        address: Text,
        device: Text,
        started_at: Timestamptz [not_null],
        used_at: Timestamptz [not_null],
        expires_at: Timestamptz [not_null],
        ended_at: Timestamptz,
    }
}

static BY_ID: Index<Session, 1> = Index::new(c"session_pkey", [Key::column(SESSION.session_id)]);

/// A login, as far as its requests stand on it.
pub struct SessionRow {
    pub identity_id: Option<i64>,
    /// None of an operator's.
    pub program_id: Option<i32>,
    pub account_id: Option<i64>,
    pub role: String,
    pub expires_at: Instant,
    pub is_ended: bool,
}

/// The session of a number.
pub fn session(id: [u8; 16]) -> Result<Option<SessionRow>> {
    let snapshot = Snapshot::Active.register();
    let mut scan = IndexScan::open(&BY_ID, &snapshot)?;
    Ok(scan.find([Uuid::datum(&id)]).map(|row| SessionRow {
        identity_id: row.get(SESSION.identity_id),
        program_id: row.get(SESSION.program_id),
        account_id: row.get(SESSION.account_id),
        role: row.get(SESSION.role).unwrap_or_default(),
        expires_at: row.get(SESSION.expires_at).unwrap_or(Instant::MIN),
        is_ended: row.get(SESSION.ended_at).is_some(),
    }))
}
