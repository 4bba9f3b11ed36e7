-- A schema in which everything is named as it is elsewhere, and raises HACK1 when it is used:
-- functions and operators of pg_catalog, types, and the relations of both of our schemas.
create schema evil;
create function evil.caught() returns boolean language plpgsql as
    $$ begin raise exception using errcode = 'HACK1', message = 'hijacked'; end $$;
do $$
declare
    each record;
begin
    for each in
        select p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid) as arguments,
               pg_catalog.pg_get_function_result(p.oid) as result
          from pg_catalog.pg_proc p
         where p.pronamespace in ('pg_catalog'::regnamespace, 'loyalty'::regnamespace, 'loyalty_private'::regnamespace)
           and p.prokind = 'f' and p.provariadic = 0 and p.proargmodes is null
           and not exists (
                   select from pg_catalog.pg_type t
                    where t.typtype = 'p'
                      and (t.oid = any (p.proargtypes::oid[]) or t.oid = p.prorettype and t.typname <> 'void'))
    loop
        execute pg_catalog.format(
            'create or replace function evil.%I(%s) returns %s language plpgsql as
                 $f$ begin raise exception using errcode = %L, message = %L; end $f$',
            each.proname, each.arguments, each.result, 'HACK1', each.proname);
    end loop;
    for each in
        select o.oprname, o.oprleft::regtype as l, o.oprright::regtype as r, p.proname
          from pg_catalog.pg_operator o
          join pg_catalog.pg_proc p on p.oid = o.oprcode
         where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprleft <> 0
           and pg_catalog.to_regprocedure(pg_catalog.format('evil.%I(%s,%s)', p.proname, o.oprleft::regtype, o.oprright::regtype))
               is not null
    loop
        execute pg_catalog.format('create operator evil.%s (leftarg = %s, rightarg = %s, function = evil.%I)',
            each.oprname, each.l, each.r, each.proname);
    end loop;
    for each in
        select distinct c.relname from pg_catalog.pg_class c
         where c.relnamespace in ('loyalty'::regnamespace, 'loyalty_api'::regnamespace, 'loyalty_private'::regnamespace) and c.relkind in ('r', 'v')
    loop
        execute pg_catalog.format('create view evil.%I as select evil.caught()', each.relname);
    end loop;
    foreach each.relname in array '{text,jsonb,json,uuid,date,timestamptz,bytea,int8,int4,bool,regclass,record_of}'::pg_catalog.text[] loop
        execute pg_catalog.format('create domain evil.%I as pg_catalog.inet', each.relname);
    end loop;
    for each in select r.rolname from pg_catalog.pg_roles r where r.rolname like 'loyalty\_%' loop
        execute pg_catalog.format('grant usage on schema evil to %I', each.rolname);
    end loop;
end
$$;
grant select on all tables in schema evil to public;
