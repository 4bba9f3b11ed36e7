//! `loyalty.program`: programs.

use crate::error::Result;
use crate::pg::index_scan::{Index, IndexScan, Key};
use crate::pg::snapshot::RegisteredSnapshot;
use crate::pg::table::table;

table! {
    /// As sql/00_base/program.sql creates it.
    Program = c"program", PROGRAM {
        program_id: Int4 [not_null],
        code: Text [not_null],
        name: Text [not_null],
        point_name: Text [not_null],
        time_zone: Text [not_null],
        calendar: Text [not_null],
        expiry: ExpiryPolicy [not_null],
        refund_grace_days: Int4,
        created_at: Timestamptz [not_null],
        announces_grants: Bool [not_null],
    }
}

static BY_ID: Index<Program, 1> = Index::new(c"program_pkey", [Key::column(PROGRAM.program_id)]);

/// Opens programs for reading by their numbers; the snapshot outlives the scan.
pub fn scan(snapshot: &RegisteredSnapshot) -> Result<IndexScan<Program, 1>> {
    IndexScan::open(&BY_ID, snapshot)
}
