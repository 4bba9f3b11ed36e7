-- HTTP: who asks, and what the functions that PostgREST exposes begin with. They look at who asks,
-- and leave the rest to the functions of schema loyalty.

create function loyalty.actor() returns text
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_actor';
comment on function loyalty.actor is
    'Who asks: role and subject of the token in a PostgREST request, else the database user.';

create function loyalty.claim(name text) returns text
    language c stable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_claim';
comment on function loyalty.claim is
    'A claim of the request''s token; null without a token that a key of this server signed, and for whoever logged in neither as a member of loyalty_authenticator nor as a superuser.';

create function loyalty.claim_account_id() returns bigint
    language c stable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_claim_account_id';
comment on function loyalty.claim_account_id is 'The account of the member that the token is for.';

create function loyalty.claim_program_id() returns integer
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_claim_program_id';
comment on function loyalty.claim_program_id is 'The program that the token is for.';

create function loyalty.api_role() returns text
    language c stable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_api_role';
comment on function loyalty.api_role is
    'The database role that asks; loyalty_anon for a request whose token no key of this server signed, whatever its role.';

create function loyalty.is_operator() returns boolean
    language c stable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_is_operator';
comment on function loyalty.is_operator is
    'For policies: whether an operator asks, by SQL or with a token that a key of this server signed.';

create function loyalty.is_foreign_token() returns boolean
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_is_foreign_token';
comment on function loyalty.is_foreign_token is
    'For pre_request: whether no key of this server signed the request''s token; false without a token. LY009 for a token of this server that is over, has no end, or is not the one that PostgREST took; 55000 when there are no keys to verify it with.';

create function loyalty.is_live_session() returns boolean
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_is_live_session';
comment on function loyalty.is_live_session is
    'For pre_request: whether the session of the request''s token goes on, and is of the token''s person, role, program and account; true of a token without one. What a session stands on needs no look: when that ends, the session ends.';

create function loyalty.api_refuse(wanted text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty.api_role() = 'loyalty_anon' then
        perform loyalty.raise('LY009', 'not_signed_in', 'not signed in', null, 'Send a token: Authorization: Bearer … .');
    end if;
    perform loyalty.raise('LY010', 'role_not_allowed', 'not allowed', format('Role %s may not do this.', loyalty.api_role()),
        wanted);
end
$$;
comment on function loyalty.api_refuse is 'LY009 to who is not signed in, LY010 to who is.';

create function loyalty.api_program(program text default null) returns integer
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    claimed text := loyalty.claim('program');
begin
    if loyalty.api_role() = 'loyalty_operator' then
        program := coalesce(program, claimed);
        return case when program is not null then loyalty.program_id(program) end;
    end if;
    if loyalty.claim_program_id() is null then
        perform loyalty.raise('LY010', 'token_without_program', 'not allowed',
            'The token names no program of this database.', 'Ask for a token with the claim program.');
    end if;
    if program <> claimed then
        perform loyalty.raise('LY010', 'token_for_other_program', 'not allowed', 'The token is for another program.',
            'Leave program out.', 'program');
    end if;
    return loyalty.claim_program_id();
end
$$;
comment on function loyalty.api_program is
    'The program of a request; LY010 when the token has none. Null, which is all of them, for an operator who names none.';

create function loyalty.api_admin_program(program text default null) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    wanted integer;
begin
    if loyalty.api_role() <> all ('{loyalty_admin,loyalty_operator}') then
        perform loyalty.api_refuse('Ask as an administrator of the program.');
    end if;
    wanted := loyalty.api_program(program);
    if wanted is null then
        perform loyalty.raise('22004', 'value_missing', 'program must not be null', null, 'Say in which program.',
            'program');
    end if;
    return (select p.code from loyalty.program p where p.program_id = wanted);
end
$$;
comment on function loyalty.api_admin_program is
    'Code of the program that an administrator''s request is about; LY010 for who is none.';

create function loyalty.api_account(account_id bigint, roles text[]) returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    asking text := loyalty.api_role();
    program integer;
begin
    if asking <> all (roles) then
        perform loyalty.api_refuse(format('Ask as one of: %s.', array_to_string(roles, ', ')));
    end if;
    if asking = 'loyalty_member' then
        if loyalty.claim_account_id() is null then
            perform loyalty.raise('LY010', 'token_without_account', 'not allowed', 'The token names no account.',
                'Ask for a token with the claims program and account_id.');
        end if;
        if account_id <> loyalty.claim_account_id() then
            perform loyalty.raise('LY010', 'token_for_other_account', 'not allowed',
                'A member''s token is for its own account.', 'Leave account_id out.', 'account_id');
        end if;
        account_id := loyalty.claim_account_id();
        if not exists (
               select from loyalty.account a
                where a.account_id = api_account.account_id
                  and a.program_id = loyalty.claim_program_id()) then
            perform loyalty.raise('LY010', 'token_without_account', 'not allowed',
                'The token''s program has no account of the token''s number.', 'Ask for a new token.');
        end if;
        return account_id;
    elsif asking = 'loyalty_family' then
        -- it may have ended, or the program have changed its mind, since the token was made
        if loyalty.family_account_id() is null then
            perform loyalty.raise('LY010', 'family_ended', 'not allowed', 'The token is for no family of a member.',
                'Ask the member, or the program.');
        elsif account_id <> loyalty.family_account_id() then
            perform loyalty.raise('LY010', 'token_for_other_account', 'not allowed',
                'The token is for another member''s family.', 'Leave account_id out.', 'account_id');
        end if;
        return loyalty.family_account_id();
    elsif account_id is null then
        perform loyalty.raise('22004', 'value_missing', 'account_id must not be null', null, 'Say whose points.',
            'account_id');
    end if;
    program := case when asking <> 'loyalty_operator' then loyalty.api_program() end;
    if not exists (
           select from loyalty.account a
            where a.account_id = api_account.account_id
              and (program is null or a.program_id = program)) then
        perform loyalty.raise('LY002', 'no_such_account', 'no such account',
            format('The program has no account %s.', account_id), 'The account_id of a member is in /balance.',
            'account_id');
    end if;
    return account_id;
end
$$;
comment on function loyalty.api_account is
    'The account that a request is about, once it is sure that the asking role may.';

create function loyalty.api_key(idempotency_key text) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    header text := nullif(current_setting('request.headers', true), '')::json ->> 'idempotency-key';
begin
    -- what was not UTF-8 arrives as U+FFFD, and different keys would become the same
    if strpos(header, U&'\FFFD') > 0 then
        perform loyalty.raise('22023', 'key_not_utf8', 'the idempotency key is not UTF-8', null,
            'Use a UUID, or your own order number.', 'idempotency_key');
    end if;
    if header <> idempotency_key then
        perform loyalty.raise('22023', 'two_keys', 'two idempotency keys were sent',
            'The header Idempotency-Key and the argument idempotency_key differ.', 'Send one of them.', 'idempotency_key');
    end if;
    perform loyalty.check_keys(array[coalesce(idempotency_key, header)]);
    return coalesce(idempotency_key, header);
end
$$;
comment on function loyalty.api_key is 'The idempotency key of a request: argument or header.';

create function loyalty.check_keys(idempotency_keys text[]) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    -- who has the key of a payment to come, or of its cancellation, keeps it from being booked for ever
    taken text := (select k from unnest(idempotency_keys) k where k ~ '^(rule|proposal)/' limit 1);
begin
    if taken is not null then
        perform loyalty.raise('22023', 'key_reserved', 'the idempotency key is reserved',
            format('%L given.', left(taken, 100)),
            'Keys that begin with rule/ or proposal/ are those of payments by rules and of proposals.', 'idempotency_key');
    end if;
end
$$;
comment on function loyalty.check_keys is 'Refuses idempotency keys over HTTP that payments by rules and proposals will have.';

create function loyalty.api_points(points numeric) returns bigint
    language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    if points > 9223372036854775807 or points < -9223372036854775807 then
        perform loyalty.raise('22003', 'points_too_many', 'too many points', format('%s given.', points),
            'Points are whole numbers from 1 to 9223372036854775807.', 'points');
    end if;
    if points <> trunc(points) then
        perform loyalty.raise('22023', 'points_not_whole', 'points must be whole', format('%s given.', points),
            'There are no parts of a point; round before you ask.', 'points');
    end if;
    return points::bigint;
end
$$;
comment on function loyalty.api_points is
    'Points of a request, which arrive as numeric so that fractions and what no bigint holds get an answer of ours.';

create function loyalty.api_day(name text, day text) returns date
    language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    -- no 'tomorrow' and the like: they would not go by the ledger's clock
    if day ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' then
        begin
            return make_date(left(day, 4)::integer, substr(day, 6, 2)::integer, right(day, 2)::integer);
        exception when datetime_field_overflow then
            null;
        end;
    end if;
    if day is not null then
        perform loyalty.raise('22023', 'not_a_date', format('%s is not a date', name), format('%L given.', left(day, 40)),
            'A day of the calendar, as YYYY-MM-DD.', name);
    end if;
    return null;
end
$$;
comment on function loyalty.api_day is
    'A day of a request, which arrives as text so that one that does not exist gets an answer of ours.';

create function loyalty.is_open_call(function_name text) returns boolean
    language sql immutable parallel safe
    return function_name = any (array[
        -- login and recovery
        'log_in', 'refresh', 'request_password_reset', 'reset_password', 'request_unlock', 'unlock',
        'apply_for_login', 'accept_login',
        -- registration
        'begin_registration', 'choose_login', 'resend_code', 'verify_code', 'log_in_to_link', 'confirm_registration',
        'confirm_login_change',
        -- families and staff
        'approve_family', 'register_family', 'accept_invitation']);
comment on function loyalty.is_open_call is
    'Whether anybody may call a function of loyalty_api, also without a token. Such a function looks at service hours itself.';

create function loyalty.exchange_token() returns jsonb
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    claims jsonb;
begin
    if not loyalty.is_foreign_token() then
        return null;
    end if;
    claims := loyalty.provider_claims(nullif(current_setting('request.jwt.claims', true), '')::jsonb);
    return jsonb_build_object('claims', claims, 'token', loyalty.sign_token(claims::text));
end
$$;
comment on function loyalty.exchange_token is
    'For pre_request: the token of this server, and its claims, that an outside provider''s token is exchanged for; null for a token of our own, or none. LY009, LY010.';

create function loyalty.check_request() returns void
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    asking text := loyalty.api_role();
    path text := current_setting('request.path', true);
    reads boolean := current_setting('request.method', true) in ('GET', 'HEAD');
    is_open boolean := path like '/rpc/%' and loyalty.is_open_call(substr(path, 6));
begin
    -- the OpenAPI page is for everybody
    if path = '/' then
        return;
    end if;
    if is_open then
        -- an attempt that is rolled back would not count
        if nullif(current_setting('request.headers', true), '')::json ->> 'prefer' ~* 'tx\s*=\s*rollback' then
            perform loyalty.raise('22023', 'rollback_not_allowed', 'this call cannot be rolled back', null,
                'Leave Prefer: tx=rollback out.');
        end if;
    elsif asking = 'loyalty_anon' then
        perform loyalty.api_refuse(null);
    else
        if not loyalty.is_live_session() then
            perform loyalty.raise('LY009', 'session_over', 'the session is over', null, 'Log in again.');
        end if;
        -- an operator works also while a program is closed
        if asking <> 'loyalty_operator' then
            perform loyalty.check_service_hours(loyalty.claim_program_id());
        end if;
    end if;
    if path like '/rpc/%' then
        -- a stored answer would be found without writing, and a GET must not depend on that
        if reads and exists (
               select from pg_catalog.pg_proc f
                where f.pronamespace = 'loyalty_api'::regnamespace
                  and f.proname = substr(path, 6)
                  and f.provolatile = 'v') then
            perform loyalty.raise('25006', 'get_not_allowed',
                format('GET may not change anything, and %s does', substr(path, 6)), null,
                'Send it as POST, with the arguments as JSON.');
        end if;
    elsif path = '/member_upload' and current_setting('request.method', true) = 'POST' then
        perform loyalty.api_admin_program() where asking <> 'loyalty_operator';
    elsif not reads then
        perform loyalty.api_refuse('It can only be read, with GET. Points change by POST /rpc/… .');
    elsif not has_table_privilege(asking, to_regclass(format('loyalty_api.%I', substr(path, 2))), 'select') then
        perform loyalty.api_refuse('Ask as a member or administrator.');
    elsif asking in ('loyalty_member', 'loyalty_family') then
        perform loyalty.api_account(null, array[asking]);
    elsif asking <> 'loyalty_operator' then
        perform loyalty.api_program();
    end if;
end
$$;
comment on function loyalty.check_request is
    'For pre_request: refuses what may not be asked, with LY009, LY010 or 405 and a hint, where PostgREST alone would give none.';

-- As who calls: a definer's function may not become another role.
create function loyalty.look_at_request() returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    exchanged jsonb := loyalty.exchange_token();
begin
    if exchanged is not null then
        -- whatever the provider's token claims, the rest of the request sees this one only
        perform set_config('request.jwt.claims', (exchanged -> 'claims')::text, true),
                set_config('request.headers',
                    (coalesce(nullif(current_setting('request.headers', true), ''), '{}')::jsonb
                     || jsonb_build_object('authorization', 'Bearer ' || (exchanged ->> 'token')))::text, true),
                set_config('role', 'loyalty_member', true);
    end if;
    perform loyalty.check_request();
end
$$;
comment on function loyalty.look_at_request is
    'For pre_request: looks at a request that is not the usual one of a member, whose session, program and account it has found to be well.';

create function loyalty.pre_request() returns void
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_pre_request';
comment on function loyalty.pre_request is
    'For PostgREST''s db-pre-request: verifies the token, takes those of outside identity providers for the member they are linked to, keeps answers out of caches, and refuses what may not be asked, with LY009, LY010 or 405 and a hint, where PostgREST alone would give none.';

create function loyalty.api_arguments(function_name text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    needed text;
    taken text;
begin
    select string_agg(a.name, ', ' order by a.place)
               filter (where a.place <= f.pronargs - f.pronargdefaults),
           string_agg(a.name, ', ' order by a.place)
      into needed, taken
      from pg_catalog.pg_proc f
     cross join lateral unnest(f.proargnames[:f.pronargs]) with ordinality as a (name, place)
     where f.pronamespace = 'loyalty_api'::regnamespace
       and f.proname = function_name
     group by f.oid;
    perform loyalty.raise('22023', 'arguments_wrong', format('not the arguments of %s', function_name),
        case when taken is null then 'It takes none.'
             else format('It takes %s; needed: %s.', taken, coalesce(needed, 'none')) end,
        case when taken is null then 'Send an empty JSON object.'
             else 'Send a JSON object of these and no others.' end);
end
$$;
comment on function loyalty.api_arguments is
    'Refuses arguments that are missing or unknown. PostgREST calls a function by the names that the request gives, and where none fits the one of that name with a lone JSON argument, which comes here.';

create function loyalty.api_may_read(account_id bigint) returns boolean
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_api_may_read';
comment on function loyalty.api_may_read is 'Whether the account is one that the asking role may see.';

create function loyalty.csv_cell(value text) returns text
    language sql stable parallel safe
    return case when value ~ E'^[=+@\t\r-]'
                 and nullif(current_setting('request.headers', true), '')::json ->> 'accept' ~ 'text/csv'
                then '''' || value else value end;
comment on function loyalty.csv_cell is
    'A text that others wrote, for a view: where CSV is asked for, with an apostrophe before what a spreadsheet would run as a formula.';
