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
mod program;
mod reading;
mod receipt;
mod request;
mod row;
mod rule;
mod scan;
mod secret;
mod spi;
mod table;
mod template;
mod waiting;
mod write;

use pgrx::prelude::*;

pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/00_base/10_role.sql", name = "role", bootstrap);
extension_sql_file!(
    "../sql/00_base/type.sql",
    name = "type",
    requires = ["role"]
);
extension_sql_file!(
    "../sql/00_base/clock.sql",
    name = "clock",
    requires = ["type"]
);
extension_sql_file!(
    "../sql/00_base/calendar.sql",
    name = "calendar",
    requires = ["clock"]
);
extension_sql_file!(
    "../sql/00_base/program.sql",
    name = "program",
    requires = ["calendar"]
);
extension_sql_file!(
    "../sql/20_ledger/table.sql",
    name = "ledger",
    requires = ["program"]
);
extension_sql_file!(
    "../sql/20_ledger/operation.sql",
    name = "operation",
    requires = ["ledger"]
);
extension_sql_file!(
    "../sql/20_ledger/bulk.sql",
    name = "bulk",
    requires = ["operation"]
);
extension_sql_file!(
    "../sql/20_ledger/reading.sql",
    name = "reading",
    requires = ["bulk"]
);
extension_sql_file!(
    "../sql/98_verify/verify.sql",
    name = "verify",
    requires = ["reading"]
);
extension_sql_file!(
    "../sql/20_ledger/waiting.sql",
    name = "waiting",
    requires = ["verify"]
);
extension_sql_file!(
    "../sql/30_member/member.sql",
    name = "member",
    requires = ["waiting"]
);
extension_sql_file!(
    "../sql/10_request/service_hours.sql",
    name = "service",
    requires = ["member"]
);
extension_sql_file!(
    "../sql/50_rule/10_rule.sql",
    name = "rule",
    requires = ["service"]
);
extension_sql_file!(
    "../sql/50_rule/payment.sql",
    name = "rule_payment",
    requires = ["rule"]
);
extension_sql_file!(
    "../sql/50_rule/event.sql",
    name = "rule_event",
    requires = ["rule_payment"]
);
extension_sql_file!(
    "../sql/55_notice/10_notice.sql",
    name = "notice",
    requires = ["rule_event"]
);
extension_sql_file!(
    "../sql/55_notice/template.sql",
    name = "template",
    requires = ["notice"]
);
extension_sql_file!(
    "../sql/55_notice/text.sql",
    name = "template_text",
    requires = ["template"]
);
extension_sql_file!(
    "../sql/60_identity/text.sql",
    name = "login_text",
    requires = ["template_text"]
);
extension_sql_file!(
    "../sql/55_notice/20_outbox.sql",
    name = "outbox",
    requires = ["login_text"]
);
extension_sql_file!(
    "../sql/55_notice/delivery.sql",
    name = "delivery",
    requires = ["outbox"]
);
extension_sql_file!(
    "../sql/40_job/schedule.sql",
    name = "schedule",
    requires = ["delivery"]
);
extension_sql_file!(
    "../sql/40_job/run.sql",
    name = "run",
    requires = ["schedule"]
);
extension_sql_file!("../sql/40_job/tick.sql", name = "tick", requires = ["run"]);
extension_sql_file!(
    "../sql/40_job/preview.sql",
    name = "preview",
    requires = ["tick"]
);
extension_sql_file!(
    "../sql/95_report/metrics.sql",
    name = "metrics",
    requires = ["preview"]
);
extension_sql_file!(
    "../sql/15_audit/audit.sql",
    name = "audit",
    requires = ["metrics"]
);
extension_sql_file!(
    "../sql/60_identity/10_secret.sql",
    name = "secret",
    requires = ["audit"]
);
extension_sql_file!(
    "../sql/60_identity/20_identity.sql",
    name = "identity",
    requires = ["secret"]
);
extension_sql_file!(
    "../sql/60_identity/30_throttle.sql",
    name = "throttle",
    requires = ["identity"]
);
extension_sql_file!(
    "../sql/60_identity/challenge.sql",
    name = "challenge",
    requires = ["throttle"]
);
extension_sql_file!(
    "../sql/60_identity/access_policy.sql",
    name = "access_policy",
    requires = ["challenge"]
);
extension_sql_file!(
    "../sql/60_identity/40_session.sql",
    name = "session",
    requires = ["access_policy"]
);
extension_sql_file!(
    "../sql/60_identity/login.sql",
    name = "login",
    requires = ["session"]
);
extension_sql_file!(
    "../sql/60_identity/recovery.sql",
    name = "recovery",
    requires = ["login"]
);
extension_sql_file!(
    "../sql/60_identity/application.sql",
    name = "application",
    requires = ["recovery"]
);
extension_sql_file!(
    "../sql/60_identity/provider.sql",
    name = "provider",
    requires = ["application"]
);
extension_sql_file!(
    "../sql/60_identity/admin.sql",
    name = "identity_admin",
    requires = ["provider"]
);
extension_sql_file!(
    "../sql/60_identity/registration.sql",
    name = "registration",
    requires = ["identity_admin"]
);
extension_sql_file!(
    "../sql/60_identity/login_change.sql",
    name = "login_change",
    requires = ["registration"]
);
extension_sql_file!(
    "../sql/70_family/family.sql",
    name = "family",
    requires = ["login_change"]
);
extension_sql_file!(
    "../sql/65_staff/staff.sql",
    name = "staff",
    requires = ["family"]
);
extension_sql_file!(
    "../sql/65_staff/proposal.sql",
    name = "proposal",
    requires = ["staff"]
);
extension_sql_file!(
    "../sql/10_request/request.sql",
    name = "api",
    requires = ["proposal"]
);
extension_sql_file!(
    "../sql/20_ledger/api.sql",
    name = "ledger_api",
    requires = ["api"]
);
extension_sql_file!(
    "../sql/30_member/api.sql",
    name = "member_api",
    requires = ["ledger_api"]
);
extension_sql_file!(
    "../sql/40_job/api.sql",
    name = "schedule_api",
    requires = ["member_api"]
);
extension_sql_file!(
    "../sql/50_rule/api.sql",
    name = "rule_api",
    requires = ["schedule_api"]
);
extension_sql_file!(
    "../sql/55_notice/api.sql",
    name = "notice_api",
    requires = ["rule_api"]
);
extension_sql_file!(
    "../sql/60_identity/session_api.sql",
    name = "session_api",
    requires = ["notice_api"]
);
extension_sql_file!(
    "../sql/60_identity/recovery_api.sql",
    name = "recovery_api",
    requires = ["session_api"]
);
extension_sql_file!(
    "../sql/60_identity/registration_api.sql",
    name = "registration_api",
    requires = ["recovery_api"]
);
extension_sql_file!(
    "../sql/70_family/api.sql",
    name = "family_api",
    requires = ["registration_api"]
);
extension_sql_file!(
    "../sql/65_staff/api.sql",
    name = "staff_api",
    requires = ["family_api"]
);
extension_sql_file!(
    "../sql/99_finalize/api_overload.sql",
    name = "api_overload",
    requires = ["staff_api"]
);
extension_sql_file!(
    "../sql/99_finalize/privilege.sql",
    name = "privilege",
    requires = ["api_overload"],
    finalize
);

/// Called once in every backend that uses the extension.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    clock::init();
    secret::init();
    program::init();
}
