//! pg_loyalty: a points ledger inside PostgreSQL.
//!
//! `loyalty-core` has the rules and knows nothing of PostgreSQL; this crate is the thin shell
//! between them; `sql/` declares what callers see.

mod account;
mod announce;
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
mod member;
mod notice;
mod operation;
mod reading;
mod receipt;
mod row;
mod rule;
mod spi;
mod template;
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
extension_sql_file!("../sql/member.sql", name = "member", requires = ["verify"]);
extension_sql_file!(
    "../sql/service.sql",
    name = "service",
    requires = ["member"]
);
extension_sql_file!("../sql/rule.sql", name = "rule", requires = ["service"]);
extension_sql_file!(
    "../sql/rule_payment.sql",
    name = "rule_payment",
    requires = ["rule"]
);
extension_sql_file!(
    "../sql/rule_event.sql",
    name = "rule_event",
    requires = ["rule_payment"]
);
extension_sql_file!(
    "../sql/notice.sql",
    name = "notice",
    requires = ["rule_event"]
);
extension_sql_file!(
    "../sql/template.sql",
    name = "template",
    requires = ["notice"]
);
extension_sql_file!(
    "../sql/template_text.sql",
    name = "template_text",
    requires = ["template"]
);
extension_sql_file!(
    "../sql/outbox.sql",
    name = "outbox",
    requires = ["template_text"]
);
extension_sql_file!(
    "../sql/delivery.sql",
    name = "delivery",
    requires = ["outbox"]
);
extension_sql_file!(
    "../sql/schedule.sql",
    name = "schedule",
    requires = ["delivery"]
);
extension_sql_file!("../sql/run.sql", name = "run", requires = ["schedule"]);
extension_sql_file!("../sql/tick.sql", name = "tick", requires = ["run"]);
extension_sql_file!("../sql/preview.sql", name = "preview", requires = ["tick"]);
extension_sql_file!("../sql/api.sql", name = "api", requires = ["preview"]);
extension_sql_file!(
    "../sql/ledger_api.sql",
    name = "ledger_api",
    requires = ["api"]
);
extension_sql_file!(
    "../sql/member_api.sql",
    name = "member_api",
    requires = ["ledger_api"]
);
extension_sql_file!(
    "../sql/schedule_api.sql",
    name = "schedule_api",
    requires = ["member_api"]
);
extension_sql_file!(
    "../sql/rule_api.sql",
    name = "rule_api",
    requires = ["schedule_api"]
);
extension_sql_file!(
    "../sql/notice_api.sql",
    name = "notice_api",
    requires = ["rule_api"]
);
extension_sql_file!(
    "../sql/privilege.sql",
    name = "privilege",
    requires = ["notice_api"],
    finalize
);

/// Called once in every backend that uses the extension.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    clock::init();
    fetch::init();
}
