//! pg_loyalty: a points ledger inside PostgreSQL.
//!
//! `loyalty-core` has the rules and knows nothing of PostgreSQL; this crate is the thin shell
//! between them; `sql/` declares what callers see.

mod account;
mod bulk;
mod calendar;
mod call;
mod clock;
mod day;
mod error;
mod expire;
mod expiry;
mod fetch;
mod guard;
mod ledger;
mod operation;
mod reading;
mod receipt;
mod row;
mod spi;
mod write;

use pgrx::prelude::*;

pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/role.sql", name = "role", bootstrap);
extension_sql_file!("../sql/type.sql", name = "type", requires = ["role"]);
extension_sql_file!("../sql/clock.sql", name = "clock", requires = ["type"]);
extension_sql_file!(
    "../sql/calendar.sql",
    name = "calendar",
    requires = ["clock"]
);
extension_sql_file!(
    "../sql/program.sql",
    name = "program",
    requires = ["calendar"]
);
extension_sql_file!("../sql/ledger.sql", name = "ledger", requires = ["program"]);
extension_sql_file!(
    "../sql/operation.sql",
    name = "operation",
    requires = ["ledger"]
);
extension_sql_file!("../sql/bulk.sql", name = "bulk", requires = ["operation"]);
extension_sql_file!("../sql/reading.sql", name = "reading", requires = ["bulk"]);
extension_sql_file!("../sql/verify.sql", name = "verify", requires = ["reading"]);
extension_sql_file!(
    "../sql/schedule.sql",
    name = "schedule",
    requires = ["verify"]
);
extension_sql_file!("../sql/api.sql", name = "api", requires = ["schedule"]);
extension_sql_file!(
    "../sql/privilege.sql",
    name = "privilege",
    requires = ["api"],
    finalize
);

/// Called once in every backend that uses the extension.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    clock::init();
    fetch::init();
}
