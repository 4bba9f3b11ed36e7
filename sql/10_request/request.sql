-- HTTP: who asks, and what the functions that PostgREST exposes begin with. They look at who asks,
-- and leave the rest to the functions of schema loyalty.

create function loyalty_private.actor() returns text
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_actor';
comment on function loyalty_private.actor is
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

create function loyalty_private.api_role() returns text
    language c stable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_api_role';
comment on function loyalty_private.api_role is
    'The database role that asks; loyalty_anon for a request whose token no key of this server signed, whatever its role.';

create function loyalty.is_operator() returns boolean
    language c stable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_is_operator';
comment on function loyalty.is_operator is
    'For policies: whether an operator asks, by SQL or with a token that a key of this server signed.';

create function loyalty_private.is_foreign_token() returns boolean
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_is_foreign_token';
comment on function loyalty_private.is_foreign_token is
    'For pre_request: whether no key of this server signed the request''s token; false without a token. LY009 for a token of this server that is over, has no end, or is not the one that PostgREST took; 55000 when there are no keys to verify it with.';

create function loyalty_private.is_live_session() returns boolean
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_is_live_session';
comment on function loyalty_private.is_live_session is
    'For pre_request: whether the session of the request''s token goes on, and is of the token''s person, role, program and account; true of a token without one. What a session stands on needs no look: when that ends, the session ends.';

create function loyalty_private.api_refuse(wanted text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty_private.api_role() = 'loyalty_anon' then
        perform loyalty_private.raise('LY009', 'not_signed_in', 'not signed in', null, 'Send a token: Authorization: Bearer … .');
    end if;
    perform loyalty_private.raise('LY010', 'role_not_allowed', 'not allowed', format('Role %s may not do this.', loyalty_private.api_role()),
        wanted);
end
$$;
comment on function loyalty_private.api_refuse is 'LY009 to who is not signed in, LY010 to who is.';

create function loyalty_private.api_program(program text default null) returns integer
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    claimed text := loyalty.claim('program');
begin
    if loyalty_private.api_role() = 'loyalty_operator' then
        program := coalesce(program, claimed);
        return case when program is not null then loyalty.program_id(program) end;
    end if;
    if loyalty.claim_program_id() is null then
        perform loyalty_private.raise('LY010', 'token_without_program', 'not allowed',
            'The token names no program of this database.', 'Ask for a token with the claim program.');
    end if;
    if program <> claimed then
        perform loyalty_private.raise('LY010', 'token_for_other_program', 'not allowed', 'The token is for another program.',
            'Leave program out.', 'program');
    end if;
    return loyalty.claim_program_id();
end
$$;
comment on function loyalty_private.api_program is
    'The program of a request; LY010 when the token has none. Null, which is all of them, for an operator who names none.';

create function loyalty_private.api_admin_program(program text default null) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    wanted integer;
begin
    if loyalty_private.api_role() <> all ('{loyalty_admin,loyalty_operator}') then
        perform loyalty_private.api_refuse('Ask as an administrator of the program.');
    end if;
    wanted := loyalty_private.api_program(program);
    if wanted is null then
        perform loyalty_private.raise('22004', 'value_missing', 'program must not be null', null, 'Say in which program.',
            'program');
    end if;
    return (select p.code from loyalty.program p where p.program_id = wanted);
end
$$;
comment on function loyalty_private.api_admin_program is
    'Code of the program that an administrator''s request is about; LY010 for who is none.';

create function loyalty_private.api_key(idempotency_key text) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    header text := nullif(current_setting('request.headers', true), '')::json ->> 'idempotency-key';
begin
    -- what was not UTF-8 arrives as U+FFFD, and different keys would become the same
    if strpos(header, U&'\FFFD') > 0 then
        perform loyalty_private.raise('22023', 'key_not_utf8', 'the idempotency key is not UTF-8', null,
            'Use a UUID, or your own order number.', 'idempotency_key');
    end if;
    if header <> idempotency_key then
        perform loyalty_private.raise('22023', 'two_keys', 'two idempotency keys were sent',
            'The header Idempotency-Key and the argument idempotency_key differ.', 'Send one of them.', 'idempotency_key');
    end if;
    perform loyalty_private.check_keys(array[coalesce(idempotency_key, header)]);
    return coalesce(idempotency_key, header);
end
$$;
comment on function loyalty_private.api_key is 'The idempotency key of a request: argument or header.';

create function loyalty_private.check_keys(idempotency_keys text[]) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    -- who has the key of a payment to come, or of its cancellation, keeps it from being booked for ever
    taken text := (select k from unnest(idempotency_keys) k where k ~ '^(rule|proposal)/' limit 1);
begin
    if taken is not null then
        perform loyalty_private.raise('22023', 'key_reserved', 'the idempotency key is reserved',
            format('%L given.', left(taken, 100)),
            'Keys that begin with rule/ or proposal/ are those of payments by rules and of proposals.', 'idempotency_key');
    end if;
end
$$;
comment on function loyalty_private.check_keys is 'Refuses idempotency keys over HTTP that payments by rules and proposals will have.';

create function loyalty_private.api_points(points numeric) returns bigint
    language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    if points > 9223372036854775807 or points < -9223372036854775807 then
        perform loyalty_private.raise('22003', 'points_too_many', 'too many points', format('%s given.', points),
            'Points are whole numbers from 1 to 9223372036854775807.', 'points');
    end if;
    if points <> trunc(points) then
        perform loyalty_private.raise('22023', 'points_not_whole', 'points must be whole', format('%s given.', points),
            'There are no parts of a point; round before you ask.', 'points');
    end if;
    return points::bigint;
end
$$;
comment on function loyalty_private.api_points is
    'Points of a request, which arrive as numeric so that fractions and what no bigint holds get an answer of ours.';

create function loyalty_private.api_day(name text, day text) returns date
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
        perform loyalty_private.raise('22023', 'not_a_date', format('%s is not a date', name), format('%L given.', left(day, 40)),
            'A day of the calendar, as YYYY-MM-DD.', name);
    end if;
    return null;
end
$$;
comment on function loyalty_private.api_day is
    'A day of a request, which arrives as text so that one that does not exist gets an answer of ours.';

create function loyalty.csv_cell(value text) returns text
    language sql stable parallel safe
    return case when value ~ E'^[=+@\t\r-]'
                 and nullif(current_setting('request.headers', true), '')::json ->> 'accept' ~ 'text/csv'
                then '''' || value else value end;
comment on function loyalty.csv_cell is
    'A text that others wrote, for a view: where CSV is asked for, with an apostrophe before what a spreadsheet would run as a formula.';

create function loyalty.claim_identity_id() returns bigint
    language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    return substring(loyalty.claim('sub') from '^identity:([0-9]{1,18})$')::bigint;
end
$$;
comment on function loyalty.claim_identity_id is 'The person that the request''s token is for; null when it is for none.';
