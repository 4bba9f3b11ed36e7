-- Who may do what, in one place. First nobody; then each role what its work needs.

revoke all on all tables in schema loyalty, loyalty_api from public;
revoke all on all functions in schema loyalty, loyalty_api from public;
revoke all on all procedures in schema loyalty, loyalty_api from public;

-- USAGE shows names and no more; PostgREST's pre_request is in schema loyalty.
grant usage on schema loyalty, loyalty_api
    to loyalty_anon, loyalty_member, loyalty_granter, loyalty_admin, loyalty_operator;

-- An operator works from SQL, on every program.
grant select on all tables in schema loyalty to loyalty_operator;
grant execute on all functions in schema loyalty to loyalty_operator;
grant execute on all procedures in schema loyalty to loyalty_operator;
grant insert, update, delete on loyalty.calendar, loyalty.calendar_day to loyalty_operator;
grant update (name, point_name, time_zone, calendar, expiry, refund_grace_days) on loyalty.program
    to loyalty_operator;
grant set on parameter loyalty.clock to loyalty_operator;
-- These are steps of other functions, never asked for alone.
revoke execute on function
    loyalty.forfeit(bigint, text),
    loyalty.set_account_status(bigint, loyalty.account_status),
    loyalty.guard_ledger(),
    loyalty.change_schedule(text, text, boolean),
    loyalty.claim_period(integer, text),
    loyalty.advance_schedule(integer, text, date),
    loyalty.finish_run(bigint, text, text),
    loyalty.run_expire_chunk(loyalty.run, bigint),
    loyalty.run_rule_chunk(loyalty.run, bigint),
    loyalty.run_rule_step(loyalty.run, bigint),
    loyalty.run_notice_chunk(loyalty.run, bigint),
    loyalty.program_replanned()
    from loyalty_operator;

-- Plain rules that hold nothing: for everybody who has USAGE of the schema.
grant execute on function
    loyalty.now(),
    loyalty.is_business_day(date, text),
    loyalty.next_business_day(date, text),
    loyalty.business_day_of_month(date, integer, text),
    loyalty.next_business_15th(date, text),
    loyalty.expires_on(loyalty.expiry_policy, date),
    loyalty.is_time_zone(text),
    loyalty.expiry_policy_in(cstring),
    loyalty.expiry_policy_out(loyalty.expiry_policy),
    loyalty.expiry_policy_send(loyalty.expiry_policy)
    to public;

-- HTTP: what each role's views read, cut to its rows below. Roles without USAGE of the
-- exposed schema's functions are told why by the functions themselves (LY009, LY010).
grant execute on all functions in schema loyalty_api
    to loyalty_anon, loyalty_member, loyalty_granter, loyalty_admin, loyalty_operator;
grant execute on function loyalty.pre_request()
    to loyalty_anon, loyalty_member, loyalty_granter, loyalty_admin;
grant select on loyalty_api.balance, loyalty_api.lot, loyalty_api.statement, loyalty_api.member
    to loyalty_member, loyalty_admin, loyalty_operator;
grant select on loyalty.program, loyalty.account, loyalty.entry, loyalty.statement_line, loyalty.member
    to loyalty_member, loyalty_admin;
grant select on loyalty_api.schedule, loyalty_api.run, loyalty_api.run_failure
    to loyalty_admin, loyalty_operator;
grant select on loyalty_api.rule, loyalty_api.event to loyalty_admin, loyalty_operator;
grant select on loyalty.rule, loyalty.event to loyalty_admin;
grant select on loyalty.schedule, loyalty.run, loyalty.run_failure
    to loyalty_admin;
-- What is written there is checked by the trigger, and can be read by nobody.
grant insert on loyalty.member_upload, loyalty_api.member_upload to loyalty_admin, loyalty_operator;
-- The own_ readings look at who asks; loyalty.balance and the like, which see every
-- account, are for applications that a DBA trusts.
grant execute on function
    loyalty.own_balance(bigint),
    loyalty.own_lots(bigint),
    loyalty.csv_cell(text),
    loyalty.claim(text),
    loyalty.claim_account_id(),
    loyalty.claim_program_id()
    to loyalty_member, loyalty_admin;

-- Notices: a member's own and what they want, an administrator's program.
grant select on loyalty_api.notice_preference, loyalty_api.notice
    to loyalty_member, loyalty_admin, loyalty_operator;
grant select on loyalty_api.notice_problem, loyalty_api.notice_setting, loyalty_api.notice_template
    to loyalty_admin, loyalty_operator;
grant select on loyalty.notice, loyalty.notice_preference, loyalty.notice_setting
    to loyalty_member, loyalty_admin;
grant select on loyalty.notice_problem, loyalty.notice_template to loyalty_admin;
grant execute on function loyalty.notice_state(integer, timestamptz, timestamptz, timestamptz)
    to loyalty_member, loyalty_admin;
-- The relay takes and reports by these, and reads no table.
grant usage on schema loyalty to loyalty_relay;
grant execute on function
    loyalty.claim_notices(integer, interval, text[]),
    loyalty.notice_sent(bigint, integer),
    loyalty.notice_failed(bigint, integer, text, boolean),
    loyalty.release_notices(bigint[], integer[]),
    loyalty.notice_backlog()
    to loyalty_relay;
revoke execute on function loyalty.settle_failed_notice(bigint, text, boolean) from loyalty_operator;

alter table loyalty.program enable row level security;
alter table loyalty.account enable row level security;
alter table loyalty.wallet enable row level security;
alter table loyalty.entry enable row level security;
alter table loyalty.lot_class enable row level security;
alter table loyalty.schedule enable row level security;
alter table loyalty.run enable row level security;
alter table loyalty.run_failure enable row level security;
alter table loyalty.member enable row level security;
alter table loyalty.rule enable row level security;
alter table loyalty.event enable row level security;
alter table loyalty.service_hours enable row level security;

create policy operator on loyalty.program to loyalty_operator using (true);
create policy operator on loyalty.account to loyalty_operator using (true);
create policy operator on loyalty.wallet to loyalty_operator using (true);
create policy operator on loyalty.entry to loyalty_operator using (true);
create policy operator on loyalty.lot_class to loyalty_operator using (true);
create policy operator on loyalty.schedule to loyalty_operator using (true);
create policy operator on loyalty.run to loyalty_operator using (true);
create policy operator on loyalty.run_failure to loyalty_operator using (true);
create policy operator on loyalty.member to loyalty_operator using (true);
create policy operator on loyalty.rule to loyalty_operator using (true);
create policy operator on loyalty.event to loyalty_operator using (true);
create policy operator on loyalty.service_hours to loyalty_operator using (true);

alter table loyalty.notice enable row level security;
alter table loyalty.notice_setting enable row level security;
alter table loyalty.notice_sender enable row level security;
alter table loyalty.notice_preference enable row level security;
alter table loyalty.notice_template enable row level security;
create policy operator on loyalty.notice to loyalty_operator using (true);
create policy operator on loyalty.notice_setting to loyalty_operator using (true);
create policy operator on loyalty.notice_sender to loyalty_operator using (true);
create policy operator on loyalty.notice_preference to loyalty_operator using (true);
create policy operator on loyalty.notice_template to loyalty_operator using (true);
create policy own_notice on loyalty.notice for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.notice for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.notice_setting for select to loyalty_member, loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.notice_template for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()) or program_id is null);
create policy own_account on loyalty.notice_preference for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and (select true from loyalty.account a where a.account_id = notice_preference.account_id));
create policy own_program on loyalty.notice_preference for select to loyalty_admin
    using ((select true from loyalty.account a where a.account_id = notice_preference.account_id));

create policy own_program on loyalty.program for select to loyalty_member, loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_account on loyalty.account for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.account for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_record on loyalty.member for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.member for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.rule for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.event for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.schedule for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.run for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.run_failure for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
-- The journal names no program: the policy on account does the looking, by index for each
-- line read. With EXISTS the planner may hash all of a program's accounts for one of them.
create policy own_account on loyalty.entry for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and (select true from loyalty.account a where a.account_id = entry.account_id));
create policy own_program on loyalty.entry for select to loyalty_admin
    using ((select true from loyalty.account a where a.account_id = entry.account_id));

-- A dump carries what users own; the rest comes with CREATE EXTENSION.
select pg_catalog.pg_extension_config_dump('loyalty.program', '');
select pg_catalog.pg_extension_config_dump('loyalty.program_program_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.lot_class', '');
select pg_catalog.pg_extension_config_dump('loyalty.calendar', '');
select pg_catalog.pg_extension_config_dump('loyalty.calendar_day', '');
select pg_catalog.pg_extension_config_dump('loyalty.account', '');
select pg_catalog.pg_extension_config_dump('loyalty.account_account_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.entry', '');
select pg_catalog.pg_extension_config_dump('loyalty.wallet', '');
select pg_catalog.pg_extension_config_dump('loyalty.member', '');
select pg_catalog.pg_extension_config_dump('loyalty.rule', '');
select pg_catalog.pg_extension_config_dump('loyalty.event', '');
select pg_catalog.pg_extension_config_dump('loyalty.event_event_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.service_hours', '');
select pg_catalog.pg_extension_config_dump('loyalty.schedule', '');
select pg_catalog.pg_extension_config_dump('loyalty.run', '');
select pg_catalog.pg_extension_config_dump('loyalty.run_failure', '');
select pg_catalog.pg_extension_config_dump('loyalty.run_run_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.notice_setting', '');
select pg_catalog.pg_extension_config_dump('loyalty.notice_sender', '');
select pg_catalog.pg_extension_config_dump('loyalty.notice_preference', '');
-- the supplied ones come with the extension
select pg_catalog.pg_extension_config_dump('loyalty.notice_template', 'where program_id is not null');
select pg_catalog.pg_extension_config_dump('loyalty.notice', '');
select pg_catalog.pg_extension_config_dump('loyalty.notice_notice_id_seq', '');
