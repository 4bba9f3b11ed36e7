//! pg_loyalty: a points ledger inside PostgreSQL.
//!
//! `loyalty-core` has the rules and knows nothing of PostgreSQL; this crate is the thin shell
//! between them; `sql/` declares what callers see.

#![warn(clippy::cast_possible_truncation)]

mod actor;
mod calendar;
mod clock;
mod day;
mod error;
mod expiry;
mod former;
mod ledger;
mod member;
mod notice;
mod pg;
mod program;
mod raise;
#[allow(clippy::cast_possible_truncation)]
mod request;
mod rest_call;
mod rule;
mod secret;
mod table;

use former::{call, fetch, scan, spi};
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
    "../sql/waiting.sql",
    name = "waiting",
    requires = ["verify"]
);
extension_sql_file!("../sql/member.sql", name = "member", requires = ["waiting"]);
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
    "../sql/login_text.sql",
    name = "login_text",
    requires = ["template_text"]
);
extension_sql_file!(
    "../sql/outbox.sql",
    name = "outbox",
    requires = ["login_text"]
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
extension_sql_file!(
    "../sql/metrics.sql",
    name = "metrics",
    requires = ["preview"]
);
extension_sql_file!("../sql/health.sql", name = "health", requires = ["metrics"]);
extension_sql_file!("../sql/audit.sql", name = "audit", requires = ["health"]);
extension_sql_file!("../sql/secret.sql", name = "secret", requires = ["audit"]);
extension_sql_file!(
    "../sql/identity.sql",
    name = "identity",
    requires = ["secret"]
);
extension_sql_file!(
    "../sql/throttle.sql",
    name = "throttle",
    requires = ["identity"]
);
extension_sql_file!(
    "../sql/device.sql",
    name = "device",
    requires = ["throttle"]
);
extension_sql_file!(
    "../sql/challenge.sql",
    name = "challenge",
    requires = ["device"]
);
extension_sql_file!(
    "../sql/access_policy.sql",
    name = "access_policy",
    requires = ["challenge"]
);
extension_sql_file!(
    "../sql/session.sql",
    name = "session",
    requires = ["access_policy"]
);
extension_sql_file!("../sql/login.sql", name = "login", requires = ["session"]);
extension_sql_file!(
    "../sql/recovery.sql",
    name = "recovery",
    requires = ["login"]
);
extension_sql_file!(
    "../sql/application.sql",
    name = "application",
    requires = ["recovery"]
);
extension_sql_file!(
    "../sql/provider.sql",
    name = "provider",
    requires = ["application"]
);
extension_sql_file!(
    "../sql/identity_admin.sql",
    name = "identity_admin",
    requires = ["provider"]
);
extension_sql_file!(
    "../sql/registration.sql",
    name = "registration",
    requires = ["identity_admin"]
);
extension_sql_file!(
    "../sql/login_change.sql",
    name = "login_change",
    requires = ["registration"]
);
extension_sql_file!(
    "../sql/family.sql",
    name = "family",
    requires = ["login_change"]
);
extension_sql_file!("../sql/staff.sql", name = "staff", requires = ["family"]);
extension_sql_file!(
    "../sql/proposal.sql",
    name = "proposal",
    requires = ["staff"]
);
extension_sql_file!("../sql/api.sql", name = "api", requires = ["proposal"]);
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
    "../sql/session_api.sql",
    name = "session_api",
    requires = ["notice_api"]
);
extension_sql_file!(
    "../sql/recovery_api.sql",
    name = "recovery_api",
    requires = ["session_api"]
);
extension_sql_file!(
    "../sql/registration_api.sql",
    name = "registration_api",
    requires = ["recovery_api"]
);
extension_sql_file!(
    "../sql/family_api.sql",
    name = "family_api",
    requires = ["registration_api"]
);
extension_sql_file!(
    "../sql/staff_api.sql",
    name = "staff_api",
    requires = ["family_api"]
);
extension_sql_file!(
    "../sql/api_overload.sql",
    name = "api_overload",
    requires = ["staff_api"]
);
extension_sql_file!(
    "../sql/privilege.sql",
    name = "privilege",
    requires = ["api_overload"],
    finalize
);

/// Called once in every backend that uses the extension.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::relcache::init();
    clock::init();
    secret::init();
    program::init();
    rest_call::install();
}
