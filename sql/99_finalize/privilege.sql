-- Who may do what, in one place. First nobody; then each role what its work needs.

revoke all on all tables in schema loyalty, loyalty_api from public;
revoke all on all functions in schema loyalty, loyalty_api from public;
revoke all on all procedures in schema loyalty, loyalty_api from public;

-- USAGE shows names and no more; PostgREST's pre_request is in schema loyalty.
grant usage on schema loyalty, loyalty_api
    to loyalty_anon, loyalty_member, loyalty_family, loyalty_granter, loyalty_admin, loyalty_operator;

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
    loyalty.program_replanned(),
    loyalty.check_rule_rests(integer, text, date),
    loyalty.install_log_settings(text)
    from loyalty_operator;
-- Nor are passwords, codes and keys for an operator: what makes or reads them is called by the
-- functions that need it only, and what is stored of them is read by nobody.
revoke all on loyalty.credential, loyalty.member_key, loyalty.challenge, loyalty.throttle from loyalty_operator;
revoke all on loyalty.registration from loyalty_operator;
revoke all on loyalty.session, loyalty.refresh_token, loyalty.device from loyalty_operator;
revoke execute on function
    loyalty.hash_password(text),
    loyalty.check_password(text, text),
    loyalty.keyed_hashes(text, text),
    loyalty.keyed_code(text, text, integer),
    loyalty.is_keyed_code(text, text, integer, text),
    loyalty.random_token(),
    loyalty.sign_token(text),
    loyalty.set_password(bigint, text),
    loyalty.audit(text, integer, bigint, bigint, jsonb, text),
    loyalty.guard_audit(),
    loyalty.refuse(text, text, text, text, text, text, interval),
    loyalty.refusal(text, text, text, text, text, text, bigint),
    loyalty.refuse_attempt(interval),
    loyalty.client_hashes(),
    loyalty.keep_failures(text, bytea[]),
    loyalty.end_family(text, loyalty.family),
    loyalty.client_scope(text),
    loyalty.pair_hashes(text, text),
    loyalty.wait_until(timestamptz),
    loyalty.lock_attempt(text, text),
    loyalty.client_blocked_until(text, text),
    loyalty.begin_attempt(text, text, boolean),
    loyalty.attempt_failed(text, text, boolean, integer),
    loyalty.attempt_succeeded(text, text, boolean),
    loyalty.count_for_client(text, text, integer),
    loyalty.forgive_client(text, text),
    loyalty.known_device(bigint, text),
    loyalty.lock_devices(bigint),
    loyalty.forget_devices(bigint),
    loyalty.remember_device(bigint, text),
    loyalty.device_failed(bytea, text),
    loyalty.next_refresh_tokens(text),
    loyalty.newest_refresh_token(uuid, text),
    loyalty.send_notice(integer, bigint, text, text, text, jsonb, interval, uuid),
    loyalty.new_challenge(text, integer, bigint, bigint, text, jsonb, interval),
    loyalty.challenge_code(uuid, text, integer),
    loyalty.challenge_token(uuid),
    loyalty.challenge_of_token(text, text[]),
    loyalty.try_code(uuid, text, text, integer),
    loyalty.use_challenge(uuid),
    loyalty.challenge_context(loyalty.notice),
    loyalty.write_keys(integer, jsonb),
    loyalty.random_key(integer),
    loyalty.registration_of(text),
    loyalty.registration_stage(loyalty.registration, text[]),
    loyalty.registration_name(loyalty.registration),
    loyalty.check_details(loyalty.registration, text, date),
    loyalty.link_member(loyalty.registration),
    loyalty.fill_contact(bigint, text),
    loyalty.send_code(loyalty.registration),
    loyalty.take_proof(loyalty.registration, text),
    loyalty.drop_provisional(bigint),
    loyalty.session_tokens(uuid, text),
    loyalty.session_life(integer, boolean),
    loyalty.start_session(bigint, integer, text, bigint, boolean, text),
    loyalty.end_sessions(bigint, integer, text, bigint, uuid),
    loyalty.pad(timestamptz),
    loyalty.provider_claims(jsonb),
    loyalty.login_subject(text, integer),
    loyalty.find_login(text, integer),
    loyalty.login_subjects(bigint),
    loyalty.is_locked(bigint),
    loyalty.release_login(bigint, boolean),
    loyalty.hold_attempts(text),
    loyalty.try_password(loyalty.identity, text, text, text, boolean),
    loyalty.prove_password(text, text, integer, text),
    loyalty.login_places(bigint, integer, text, bigint),
    loyalty.hold_place(bigint, integer, text, bigint),
    loyalty.reach(loyalty.identity, integer),
    loyalty.replace_password(bigint, integer, text, uuid),
    loyalty.check_passwords(text, text),
    loyalty.refuse_link(),
    loyalty.open_application(bigint, text[]),
    loyalty.find_person(text, integer),
    loyalty.opens_more(bigint, integer),
    loyalty.is_foreign_token(),
    loyalty.is_live_session(),
    loyalty.set_identity_state(text, bigint, integer, text[], text, text),
    loyalty.provider_of(text, text),
    loyalty.identity_changed(),
    loyalty.identity_link_changed()
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
    to loyalty_anon, loyalty_member, loyalty_family, loyalty_granter, loyalty_admin, loyalty_operator;
grant execute on function loyalty.pre_request(), loyalty.look_at_request(), loyalty.exchange_token(), loyalty.check_request()
    to loyalty_anon, loyalty_member, loyalty_family, loyalty_granter, loyalty_admin;
grant select on loyalty_api.balance, loyalty_api.lot, loyalty_api.statement, loyalty_api.member
    to loyalty_member, loyalty_admin, loyalty_operator;
grant select on loyalty.program, loyalty.account, loyalty.entry, loyalty.statement_line, loyalty.member
    to loyalty_member, loyalty_admin;
grant select on loyalty_api.schedule, loyalty_api.run, loyalty_api.run_failure
    to loyalty_admin, loyalty_operator;
grant select on loyalty_api.rule, loyalty_api.event to loyalty_admin, loyalty_operator;
grant select on loyalty_api.login_application to loyalty_admin, loyalty_operator;
grant select on loyalty.login_application to loyalty_admin;
grant select on loyalty.rule, loyalty.event to loyalty_admin;
grant select on loyalty.schedule, loyalty.run, loyalty.run_failure
    to loyalty_admin;
-- What is written there is checked by the trigger, and can be read by nobody.
grant insert on loyalty.member_upload, loyalty_api.member_upload to loyalty_admin, loyalty_operator;
grant select on loyalty_api.access_policy to loyalty_admin, loyalty_operator;
grant select on loyalty.access_policy to loyalty_admin;
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
-- What is claimed has codes and links in it: for nobody else.
revoke execute on function
    loyalty.claim_notices(integer, interval, text[]),
    loyalty.fill_notice(loyalty.notice),
    loyalty.settle_failed_notice(bigint, text, boolean)
    from loyalty_operator;

-- What is watched names programs and counts; no member is in it.
grant usage on schema loyalty to loyalty_monitor;
grant select on loyalty.metrics to loyalty_monitor;
grant execute on function
    loyalty.points_metrics(integer),
    loyalty.work_metrics(),
    loyalty.metric_help(text),
    loyalty.metrics_text(),
    loyalty.health()
    to loyalty_monitor;

-- Family sees a member's points and nothing of the member.
grant select on loyalty_api.balance, loyalty_api.lot, loyalty_api.statement to loyalty_family;
grant select on loyalty.program, loyalty.account, loyalty.entry, loyalty.statement_line to loyalty_family;
grant execute on function
    loyalty.own_balance(bigint),
    loyalty.own_lots(bigint),
    loyalty.csv_cell(text),
    loyalty.claim(text),
    loyalty.claim_account_id(),
    loyalty.claim_program_id(),
    loyalty.family_account_id()
    to loyalty_family;
grant select on loyalty_api.family, loyalty_api.family_spend to loyalty_member, loyalty_operator;
grant select on loyalty.family, loyalty.family_spend to loyalty_member;
grant execute on function
    loyalty.family_login_id(bigint),
    loyalty.family_state(timestamptz, timestamptz, timestamptz, timestamptz)
    to loyalty_member;

-- Who runs a program, and what they did.
grant select on loyalty_api.program_role, loyalty_api.grant_proposal, loyalty_api.audit
    to loyalty_admin, loyalty_operator;
grant select on loyalty.program_role, loyalty.grant_proposal, loyalty.audit to loyalty_admin;
grant execute on function
    loyalty.login_id_in_role(bigint),
    loyalty.role_state(timestamptz, timestamptz),
    loyalty.proposal_state(timestamptz, bigint)
    to loyalty_admin;
revoke execute on function
    loyalty.family_of_token(text, text),
    loyalty.prove_identity(loyalty.access_policy, text, text),
    loyalty.hold_budget(integer),
    loyalty.count_grants(integer, bigint[]),
    loyalty.audit_operation(text, loyalty.receipt),
    loyalty.end_grant(text, loyalty.receipt, boolean),
    loyalty.end_grants(integer, bigint[], bigint[], bigint),
    loyalty.open_proposal(bigint)
    from loyalty_operator;
revoke insert, update, delete, truncate on loyalty.audit from loyalty_operator;

alter table loyalty.program enable row level security;
alter table loyalty.account enable row level security;
alter table loyalty.wallet enable row level security;
alter table loyalty.entry enable row level security;
alter table loyalty.lot_class enable row level security;
alter table loyalty.calendar enable row level security;
alter table loyalty.calendar_day enable row level security;
alter table loyalty.member_upload enable row level security;
alter table loyalty.schedule enable row level security;
alter table loyalty.run enable row level security;
alter table loyalty.run_failure enable row level security;
alter table loyalty.member enable row level security;
alter table loyalty.rule enable row level security;
alter table loyalty.event enable row level security;
alter table loyalty.service_hours enable row level security;

create policy operator on loyalty.program to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.account to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.wallet to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.entry to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.lot_class to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.calendar to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.calendar_day to loyalty_operator using ((select loyalty.is_operator()));
create policy uploading on loyalty.member_upload for insert to loyalty_admin, loyalty_operator with check (true);
create policy operator on loyalty.schedule to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.run to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.run_failure to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.member to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.rule to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.event to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.service_hours to loyalty_operator using ((select loyalty.is_operator()));

alter table loyalty.notice enable row level security;
alter table loyalty.notice_setting enable row level security;
alter table loyalty.notice_sender enable row level security;
alter table loyalty.notice_preference enable row level security;
alter table loyalty.notice_template enable row level security;
create policy operator on loyalty.notice to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.notice_setting to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.notice_sender to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.notice_preference to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.notice_template to loyalty_operator using ((select loyalty.is_operator()));
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

-- Accounts of people. Tables without a policy are read by their owner only.
alter table loyalty.access_policy enable row level security;
alter table loyalty.identity enable row level security;
alter table loyalty.identity_link enable row level security;
alter table loyalty.credential enable row level security;
alter table loyalty.registration enable row level security;
alter table loyalty.member_key enable row level security;
alter table loyalty.throttle enable row level security;
alter table loyalty.challenge enable row level security;
alter table loyalty.session enable row level security;
alter table loyalty.refresh_token enable row level security;
alter table loyalty.device enable row level security;
alter table loyalty.login_application enable row level security;
alter table loyalty.identity_provider enable row level security;
alter table loyalty.identity_provider_link enable row level security;
create policy operator on loyalty.login_application to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.identity_provider to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.identity_provider_link to loyalty_operator using ((select loyalty.is_operator()));
create policy own_program on loyalty.login_application for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
alter table loyalty.audit enable row level security;
create policy operator on loyalty.access_policy to loyalty_operator using ((select loyalty.is_operator()));
create policy own_program on loyalty.access_policy for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy operator on loyalty.identity to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.identity_link to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.audit to loyalty_operator using ((select loyalty.is_operator()));

-- Families and staff
alter table loyalty.family enable row level security;
alter table loyalty.family_spend enable row level security;
alter table loyalty.program_role enable row level security;
alter table loyalty.granter_grant enable row level security;
alter table loyalty.grant_proposal enable row level security;
create policy operator on loyalty.family to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.family_spend to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.program_role to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.granter_grant to loyalty_operator using ((select loyalty.is_operator()));
create policy operator on loyalty.grant_proposal to loyalty_operator using ((select loyalty.is_operator()));
create policy own_account on loyalty.family for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and program_id = (select loyalty.claim_program_id()));
create policy own_account on loyalty.family_spend for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and (select true from loyalty.account a where a.account_id = family_spend.account_id));
create policy members_program on loyalty.program for select to loyalty_family
    using (program_id = (select loyalty.claim_program_id()));
create policy members_account on loyalty.account for select to loyalty_family
    using (account_id = (select loyalty.family_account_id()));
create policy members_account on loyalty.entry for select to loyalty_family
    using (account_id = (select loyalty.family_account_id()));
create policy own_program on loyalty.program_role for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.grant_proposal for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.audit for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));

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
select pg_catalog.pg_extension_config_dump('loyalty.access_policy', '');
select pg_catalog.pg_extension_config_dump('loyalty.identity', '');
select pg_catalog.pg_extension_config_dump('loyalty.identity_identity_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.credential', '');
select pg_catalog.pg_extension_config_dump('loyalty.identity_link', '');
select pg_catalog.pg_extension_config_dump('loyalty.member_key', '');
select pg_catalog.pg_extension_config_dump('loyalty.registration', '');
select pg_catalog.pg_extension_config_dump('loyalty.registration_registration_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.throttle', '');
select pg_catalog.pg_extension_config_dump('loyalty.challenge', '');
select pg_catalog.pg_extension_config_dump('loyalty.session', '');
select pg_catalog.pg_extension_config_dump('loyalty.refresh_token', '');
select pg_catalog.pg_extension_config_dump('loyalty.device', '');
select pg_catalog.pg_extension_config_dump('loyalty.login_application', '');
select pg_catalog.pg_extension_config_dump('loyalty.login_application_application_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.identity_provider', '');
select pg_catalog.pg_extension_config_dump('loyalty.identity_provider_link', '');
select pg_catalog.pg_extension_config_dump('loyalty.audit', '');
select pg_catalog.pg_extension_config_dump('loyalty.audit_audit_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.family', '');
select pg_catalog.pg_extension_config_dump('loyalty.family_family_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.family_spend', '');
select pg_catalog.pg_extension_config_dump('loyalty.program_role', '');
select pg_catalog.pg_extension_config_dump('loyalty.program_role_role_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.granter_grant', '');
select pg_catalog.pg_extension_config_dump('loyalty.grant_proposal', '');
select pg_catalog.pg_extension_config_dump('loyalty.grant_proposal_proposal_id_seq', '');
