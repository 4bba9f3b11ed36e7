//! `loyalty.service_hours`: when programs are closed over HTTP.

use crate::error::Result;
use crate::pg::index_scan::{Index, IndexScan, Key};
use crate::pg::snapshot::Snapshot;
use crate::pg::sql_type::{Int4, SqlType as _};
use crate::pg::table::table;

table! {
    /// As sql/10_request/service_hours.sql creates it.
    ServiceHours = c"service_hours", SERVICE_HOURS {
        program_id: Int4 [not_null],
        closed_from: Time [not_null],
        closed_until: Time [not_null],
    }
}

static BY_PROGRAM: Index<ServiceHours, 1> = Index::new(
    c"service_hours_pkey",
    [Key::column(SERVICE_HOURS.program_id)],
);

/// From when to when a program is closed over HTTP, in microseconds from midnight; none when
/// it never is.
pub fn closed_hours(program_id: i32) -> Result<Option<(i64, i64)>> {
    let snapshot = Snapshot::Active.register();
    let mut scan = IndexScan::open(&BY_PROGRAM, &snapshot)?;
    Ok(scan.find([Int4::datum(program_id)]).and_then(|row| {
        let (from, until) = (SERVICE_HOURS.closed_from, SERVICE_HOURS.closed_until);
        Some((row.get(from)?, row.get(until)?))
    }))
}
