-- Rights that follow from where an object stands. What a room grants besides is in its own
-- right.sql; every exception is named here.

-- Nobody may do anything that was not granted by a room.
revoke all on all tables in schema loyalty, loyalty_api, loyalty_private from public;
revoke all on all functions in schema loyalty, loyalty_api, loyalty_private from public;
revoke all on all procedures in schema loyalty, loyalty_api, loyalty_private from public;

-- USAGE shows names and no more. Of loyalty_private nobody has it.
grant usage on schema loyalty, loyalty_api
    to loyalty_anon, loyalty_member, loyalty_family, loyalty_granter, loyalty_admin, loyalty_operator;
grant usage on schema loyalty to loyalty_relay, loyalty_monitor;

-- Plain rules that hold nothing: for everybody who has USAGE of the schema.
grant execute on function
    loyalty.now(),
    loyalty.is_business_day(date, text),
    loyalty.next_business_day(date, text),
    loyalty.business_day_of_month(date, integer, text),
    loyalty.next_business_15th(date, text),
    loyalty.expires_on(loyalty.expiry_policy, date),
    loyalty.is_time_zone(text)
    to public;

-- An operator reads every program. What is nobody's to read is in loyalty_private.
grant select on all tables in schema loyalty to loyalty_operator;
grant set on parameter loyalty.clock to loyalty_operator;

-- Whoever may not call a function is told why by the function itself (LY009, LY010).
grant execute on all functions in schema loyalty_api
    to loyalty_anon, loyalty_member, loyalty_family, loyalty_granter, loyalty_admin, loyalty_operator;

-- Every table has row security; those of schema loyalty open all rows to operators. A dump
-- carries what users own; the rest comes with CREATE EXTENSION.
do $$
declare
    -- written through a view by whoever may upload, read by nobody
    not_read constant text[] := '{member_upload}';
    -- rows that come with the extension
    supplied constant text[] := '{job_kind,notice_kind,account_role}';
    object record;
begin
    for object in
        select c.oid, c.oid::regclass::text as name, c.relname, c.relkind, n.nspname
          from pg_catalog.pg_class c
          join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where n.nspname in ('loyalty', 'loyalty_private')
           and c.relkind in ('r', 'S')
         order by c.oid
    loop
        if object.relkind = 'r' then
            execute pg_catalog.format('alter table %s enable row level security', object.name);
            if object.nspname = 'loyalty' and object.relname <> all (not_read) then
                execute pg_catalog.format(
                    'create policy operator on %s to loyalty_operator using ((select loyalty.is_operator()))', object.name);
            end if;
        end if;
        if object.relname <> all (not_read) and object.relname <> all (supplied) then
            perform pg_catalog.pg_extension_config_dump(object.oid::regclass,
                -- the supplied texts come with the extension
                case object.relname when 'notice_template' then 'where program_id is not null' else '' end);
        end if;
    end loop;
end
$$;
