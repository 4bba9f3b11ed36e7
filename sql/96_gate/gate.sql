-- What is looked at before each request over HTTP.

create function loyalty.pre_request() returns void
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_pre_request';
comment on function loyalty.pre_request is
    'For PostgREST''s db-pre-request: verifies the token, takes those of outside identity providers for the member they are linked to, keeps answers out of caches, and refuses what may not be asked, with LY009, LY010 or 405 and a hint, where PostgREST alone would give none.';

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

create function loyalty.check_request() returns void
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    asking text := loyalty_private.api_role();
    path text := current_setting('request.path', true);
    reads boolean := current_setting('request.method', true) in ('GET', 'HEAD');
    is_open boolean := path like '/rpc/%' and loyalty_private.is_open_call(substr(path, 6));
begin
    -- the OpenAPI page is for everybody
    if path = '/' then
        return;
    end if;
    if is_open then
        -- an attempt that is rolled back would not count
        if nullif(current_setting('request.headers', true), '')::json ->> 'prefer' ~* 'tx\s*=\s*rollback' then
            perform loyalty_private.raise('22023', 'rollback_not_allowed', 'this call cannot be rolled back', null,
                'Leave Prefer: tx=rollback out.');
        end if;
    elsif asking = 'loyalty_anon' then
        perform loyalty_private.api_refuse(null);
    else
        if not loyalty_private.is_live_session() then
            perform loyalty_private.raise('LY009', 'session_over', 'the session is over', null, 'Log in again.');
        end if;
        -- an operator works also while a program is closed
        if asking <> 'loyalty_operator' then
            perform loyalty_private.check_service_hours(loyalty.claim_program_id());
        end if;
    end if;
    if path like '/rpc/%' then
        -- a stored answer would be found without writing, and a GET must not depend on that
        if reads and exists (
               select from pg_catalog.pg_proc f
                where f.pronamespace = 'loyalty_api'::regnamespace
                  and f.proname = substr(path, 6)
                  and f.provolatile = 'v') then
            perform loyalty_private.raise('25006', 'get_not_allowed',
                format('GET may not change anything, and %s does', substr(path, 6)), null,
                'Send it as POST, with the arguments as JSON.');
        end if;
    elsif path = '/member_upload' and current_setting('request.method', true) = 'POST' then
        perform loyalty_private.api_admin_program() where asking <> 'loyalty_operator';
    elsif not reads then
        perform loyalty_private.api_refuse('It can only be read, with GET. Points change by POST /rpc/… .');
    elsif not has_table_privilege(asking, to_regclass(format('loyalty_api.%I', substr(path, 2))), 'select') then
        perform loyalty_private.api_refuse('Ask as a member or administrator.');
    elsif asking in ('loyalty_member', 'loyalty_family') then
        perform loyalty_private.api_account(null, array[asking]);
    elsif asking <> 'loyalty_operator' then
        perform loyalty_private.api_program();
    end if;
end
$$;
comment on function loyalty.check_request is
    'For pre_request: refuses what may not be asked, with LY009, LY010 or 405 and a hint, where PostgREST alone would give none.';

create function loyalty.exchange_token() returns jsonb
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    claims jsonb;
begin
    if not loyalty_private.is_foreign_token() then
        return null;
    end if;
    claims := loyalty_private.provider_claims(nullif(current_setting('request.jwt.claims', true), '')::jsonb);
    return jsonb_build_object('claims', claims, 'token', loyalty_private.sign_token(claims::text));
end
$$;
comment on function loyalty.exchange_token is
    'For pre_request: the token of this server, and its claims, that an outside provider''s token is exchanged for; null for a token of our own, or none. LY009, LY010.';

create function loyalty_private.is_open_call(function_name text) returns boolean
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
comment on function loyalty_private.is_open_call is
    'Whether anybody may call a function of loyalty_api, also without a token. Such a function looks at service hours itself.';

create function loyalty_private.api_arguments(function_name text) returns void
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
    perform loyalty_private.raise('22023', 'arguments_wrong', format('not the arguments of %s', function_name),
        case when taken is null then 'It takes none.'
             else format('It takes %s; needed: %s.', taken, coalesce(needed, 'none')) end,
        case when taken is null then 'Send an empty JSON object.'
             else 'Send a JSON object of these and no others.' end);
end
$$;
comment on function loyalty_private.api_arguments is
    'Refuses arguments that are missing or unknown. PostgREST calls a function by the names that the request gives, and where none fits the one of that name with a lone JSON argument, which comes here.';
