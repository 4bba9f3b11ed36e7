-- Names, kana and the supplied texts are in Japanese; and here, before anything is made, it can be said.
do $$
begin
    if pg_catalog.current_setting('server_encoding') <> 'UTF8' then
        raise exception using errcode = 'feature_not_supported', constraint = 'database_not_utf8',
            message = 'pg_loyalty needs a database in UTF-8',
            detail = pg_catalog.format('The encoding of %I is %s.',
                pg_catalog.current_database(), pg_catalog.current_setting('server_encoding')),
            hint = 'Make one with: create database ... encoding ''UTF8'' template template0.';
    end if;
end
$$;

-- Roles belong to the cluster, not to the database: they may be there already, and
-- dropping the extension leaves them. None can log in until a DBA says so.
do $$
declare
    role_name text;
begin
    foreach role_name in array array[
        'loyalty_anon', 'loyalty_member', 'loyalty_family', 'loyalty_granter',
        'loyalty_admin', 'loyalty_operator', 'loyalty_authenticator', 'loyalty_relay',
        'loyalty_monitor'
    ] loop
        if not exists (select from pg_catalog.pg_roles where rolname = role_name) then
            begin
                execute pg_catalog.format('create role %I nologin noinherit', role_name);
            exception when duplicate_object or unique_violation then
                null; -- another database of the cluster was quicker
            end;
        end if;
    end loop;
end
$$;

-- PostgREST logs in as the authenticator and becomes what the token says. An operator
-- works from SQL with an operator's login, and only that way for all programs at once.
grant loyalty_anon, loyalty_member, loyalty_family, loyalty_granter, loyalty_admin, loyalty_operator
    to loyalty_authenticator;

create schema loyalty;
comment on schema loyalty is
    'Points ledger: types, tables and the functions that applications call.';

create schema loyalty_private;
comment on schema loyalty_private is
    'Internal functions and tables of the points ledger: nobody but the owner uses them, and they may change in any version.';

create schema loyalty_api;
comment on schema loyalty_api is
$$Points over HTTP

Balances, lots and statements of a points program, and the operations that change them. A token says who is asking: members reach their own account, family the points of who invited them, granters and administrators their program, operators everything.

Amounts are whole points. Every POST that changes the ledger takes an idempotency key, as the argument `idempotency_key` or the header `Idempotency-Key`: a repeated call with the same key gets the first answer again and changes nothing. Errors carry a code, a message, the figures in `details` and the way out in `hint`; the headers Loyalty-Reason and Loyalty-Field name the cause and the argument, one word each.$$;
