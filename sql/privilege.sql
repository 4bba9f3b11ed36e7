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
grant insert, update on loyalty.run to loyalty_operator;
grant update (name, point_name, time_zone, calendar, expiry, refund_grace_days) on loyalty.program
    to loyalty_operator;
grant set on parameter loyalty.clock to loyalty_operator;
-- These are steps of other functions, never asked for alone.
revoke execute on function
    loyalty.forfeit(bigint, text),
    loyalty.set_account_status(bigint, loyalty.account_status),
    loyalty.guard_ledger()
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
grant select on loyalty_api.balance, loyalty_api.lot, loyalty_api.statement
    to loyalty_member, loyalty_admin, loyalty_operator;
grant select on loyalty.program, loyalty.account, loyalty.entry, loyalty.statement_line
    to loyalty_member, loyalty_admin;
-- The own_ readings look at who asks; loyalty.balance and the like, which see every
-- account, are for applications that a DBA trusts.
grant execute on function
    loyalty.own_balance(bigint),
    loyalty.own_lots(bigint),
    loyalty.claim(text),
    loyalty.claim_account_id(),
    loyalty.claim_program_id()
    to loyalty_member, loyalty_admin;

alter table loyalty.program enable row level security;
alter table loyalty.account enable row level security;
alter table loyalty.wallet enable row level security;
alter table loyalty.entry enable row level security;
alter table loyalty.lot_class enable row level security;
alter table loyalty.run enable row level security;

create policy operator on loyalty.program to loyalty_operator using (true);
create policy operator on loyalty.account to loyalty_operator using (true);
create policy operator on loyalty.wallet to loyalty_operator using (true);
create policy operator on loyalty.entry to loyalty_operator using (true);
create policy operator on loyalty.lot_class to loyalty_operator using (true);
create policy operator on loyalty.run to loyalty_operator using (true);

create policy own_program on loyalty.program for select to loyalty_member, loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_account on loyalty.account for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.account for select to loyalty_admin
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
select pg_catalog.pg_extension_config_dump('loyalty.run', '');
select pg_catalog.pg_extension_config_dump('loyalty.run_run_id_seq', '');
