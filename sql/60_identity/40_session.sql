-- Logins. An access token (JWT) is good for minutes and is not stored; what keeps a login going
-- is its refresh token, of which the hash is stored, and which is good once: who uses one that was
-- used a while ago, the person or a thief, ends the login. For some seconds it gives the same new one
-- again, since answers get lost and tabs ask at once: the next token is made of the one before and a
-- key outside of the database, so that it can be given again without being stored. An ended session ends its access tokens too, at
-- their next request (loyalty.pre_request).

create table loyalty_private.session (
    session_id uuid primary key default gen_random_uuid(),
    identity_id bigint not null references loyalty.identity,
    program_id integer references loyalty.program,
    account_id bigint references loyalty.account,
    role text not null
        constraint session_role_is_known check (
            role in ('loyalty_member', 'loyalty_family', 'loyalty_granter', 'loyalty_admin', 'loyalty_operator')),
    is_remembered boolean not null,
    address text,
    device text,
    started_at timestamptz not null,
    used_at timestamptz not null,
    expires_at timestamptz not null,
    ended_at timestamptz,
    constraint session_is_for_what_the_role_needs check (
        (program_id is not null or role = 'loyalty_operator')
        and (account_id is not null) = (role in ('loyalty_member', 'loyalty_family')))
);
create index session_by_identity on loyalty_private.session (identity_id);
create index session_by_expiry on loyalty_private.session (expires_at);

comment on table loyalty_private.session is 'Logins of people. Nobody but the owner reads it; a person sees their own by own_sessions.';
comment on column loyalty_private.session.session_id is 'Number of the session, the claim sid of its tokens.';
comment on column loyalty_private.session.identity_id is 'Who logged in.';
comment on column loyalty_private.session.program_id is 'The program it opens; null for an operator.';
comment on column loyalty_private.session.account_id is 'The member''s account that it opens; null for staff.';
comment on column loyalty_private.session.role is 'The database role of its tokens.';
comment on column loyalty_private.session.is_remembered is 'Whether it was asked to last longer (C9).';
comment on column loyalty_private.session.address is 'The client''s address when it was last refreshed.';
comment on column loyalty_private.session.device is 'What the client said it is (User-Agent) when it began.';
comment on column loyalty_private.session.started_at is 'When it began.';
comment on column loyalty_private.session.used_at is 'When it was last refreshed.';
comment on column loyalty_private.session.expires_at is 'When it ends unless it is refreshed before.';
comment on column loyalty_private.session.ended_at is 'When it was ended; null while it was not.';

create table loyalty_private.refresh_token (
    token_hash bytea primary key,
    session_id uuid not null references loyalty_private.session on delete cascade,
    made_at timestamptz not null,
    used_at timestamptz
);
create index refresh_token_by_session on loyalty_private.refresh_token (session_id);

comment on table loyalty_private.refresh_token is
    'Refresh tokens, as keyed hashes. Used ones are kept as long as their session, to be known again. Nobody but the owner reads it.';
comment on column loyalty_private.refresh_token.token_hash is 'The hash.';
comment on column loyalty_private.refresh_token.session_id is 'The session that it refreshes.';
comment on column loyalty_private.refresh_token.made_at is 'When it was made.';
comment on column loyalty_private.refresh_token.used_at is 'When it was used; null while it is good.';

create function loyalty.refresh_grace() returns interval
    language sql immutable parallel safe
    return interval '30 seconds';
comment on function loyalty.refresh_grace is
    'How long after its first use a refresh token gives the same new one again, for lost answers and for tabs that refresh at once. Later uses end the session.';

create function loyalty_private.next_refresh_tokens(refresh_token text) returns text[]
    language sql stable set search_path = pg_catalog, pg_temp
    return (
        select array_agg(translate(encode(k.hash, 'base64'), '+/=', '-_') order by k.number)
          from unnest(loyalty_private.keyed_hashes('next refresh token', next_refresh_tokens.refresh_token))
               with ordinality as k (hash, number));
comment on function loyalty_private.next_refresh_tokens is
    'What follows a refresh token: made with the key in use, then with those still believed.';

create function loyalty_private.newest_refresh_token(session_id uuid, refresh_token text) returns text
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    newest text := newest_refresh_token.refresh_token;
    used_at timestamptz;
begin
    loop
        select n.token, t.used_at into newest, used_at
          from unnest(loyalty_private.next_refresh_tokens(newest)) n (token)
          join loyalty_private.refresh_token t on t.token_hash = any (loyalty_private.keyed_hashes('refresh token', n.token))
         where t.session_id = newest_refresh_token.session_id;
        exit when not found or used_at is null;
    end loop;
    return newest;
end
$$;
comment on function loyalty_private.newest_refresh_token is
    'The token at the end of those that followed a used one; null when there is none.';

create function loyalty_private.session_tokens(session_id uuid, refresh_token text default null) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    of_session record;
    newest text := coalesce(refresh_token, loyalty_private.random_token());
    -- what PostgREST checks goes by the machine's clock
    issued bigint := extract(epoch from clock_timestamp())::bigint;
begin
    select s.*, p.code as program,
           ceil(extract(epoch from coalesce(a.token_life, '10 minutes')))::bigint as token_seconds
      into strict of_session
      from loyalty_private.session s
      left join loyalty.program p on p.program_id = s.program_id
      left join loyalty.access_policy a on a.program_id = s.program_id
     where s.session_id = session_tokens.session_id;
    insert into loyalty_private.refresh_token (token_hash, session_id, made_at)
    values ((loyalty_private.keyed_hashes('refresh token', newest))[1], of_session.session_id, loyalty.now())
        on conflict (token_hash) do nothing;
    return jsonb_build_object(
        'access_token', loyalty_private.sign_token(jsonb_strip_nulls(jsonb_build_object(
            'iss', 'loyalty',
            'sub', 'identity:' || of_session.identity_id,
            'role', of_session.role,
            'program', of_session.program,
            'account_id', of_session.account_id,
            'sid', of_session.session_id,
            'iat', issued,
            'exp', issued + of_session.token_seconds))::text),
        'token_type', 'Bearer',
        'expires_in', of_session.token_seconds,
        'refresh_token', newest,
        'refresh_expires_at', of_session.expires_at,
        'session_id', of_session.session_id,
        'program', of_session.program,
        'account_id', of_session.account_id,
        'role', substr(of_session.role, 9));
end
$$;
comment on function loyalty_private.session_tokens is
    'A new access token of a session, with the refresh token given or a new one, as log_in answers.';

create function loyalty_private.session_life(program_id integer, is_remembered boolean) returns interval
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce(case when session_life.is_remembered then max(p.remembered_life) else max(p.session_life) end,
                    case when session_life.is_remembered then interval '60 days' else interval '12 hours' end)
      from loyalty.access_policy p
     where p.program_id = session_life.program_id;
end;
comment on function loyalty_private.session_life is
    'How long a session lasts without being refreshed: the program''s policy, else 12 hours, or 60 days remembered (C9).';

create function loyalty.start_session(
    identity_id bigint,
    program_id integer,
    role text,
    account_id bigint,
    remember boolean,
    device_token text default null
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    started uuid;
begin
    insert into loyalty_private.session
           (identity_id, program_id, account_id, role, is_remembered, address, device, started_at, used_at, expires_at)
    values (start_session.identity_id, start_session.program_id, start_session.account_id,
            'loyalty_' || regexp_replace(start_session.role, '^loyalty_', ''), coalesce(start_session.remember, false),
            loyalty_private.client_address(),
            left(nullif(current_setting('request.headers', true), '')::json ->> 'user-agent', 200),
            loyalty.now(), loyalty.now(),
            loyalty.now() + loyalty_private.session_life(start_session.program_id, coalesce(start_session.remember, false)))
    returning session_id into started;
    return loyalty_private.session_tokens(started)
        || jsonb_build_object('device_token', loyalty_private.remember_device(start_session.identity_id, start_session.device_token));
end
$$;
comment on function loyalty.start_session is
    'Logs a person in, who has proven who they are: {access_token, token_type, expires_in, refresh_token, refresh_expires_at, session_id, program, account_id, role, device_token}. role: member, family, granter, admin or operator. device_token: what the device was answered at its last login, if any. Checks nothing: that is the caller''s.';

create function loyalty.end_sessions(identity_id bigint, program_id integer default null, role text default null, account_id bigint default null, except_session uuid default null)
    returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    ended bigint;
begin
    update loyalty_private.session s
       set ended_at = loyalty.now()
     where s.identity_id = end_sessions.identity_id
       and s.ended_at is null
       and (s.program_id = end_sessions.program_id or end_sessions.program_id is null)
       and (s.role = 'loyalty_' || regexp_replace(end_sessions.role, '^loyalty_', '') or end_sessions.role is null)
       and (s.account_id = end_sessions.account_id or end_sessions.account_id is null)
       and s.session_id is distinct from end_sessions.except_session;
    get diagnostics ended = row_count;
    return ended;
end
$$;
comment on function loyalty.end_sessions is
    'Ends a person''s sessions, or only those of a program, role or account; all but one where except_session is given. How many.';

-- Whatever ends what a session stands on ends the session, whoever writes it. A locked person
-- stays where they are: else anybody could throw them out by wrong passwords.
create function loyalty_private.identity_changed() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty.end_sessions(new.identity_id);
    return null;
end
$$;
comment on function loyalty_private.identity_changed is 'Ends the sessions of a person who is suspended or leaves.';
create trigger ends_sessions after update of state on loyalty.identity
    for each row when (new.state not in ('active', 'locked')) execute function loyalty_private.identity_changed();

create function loyalty_private.identity_link_changed() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty.end_sessions(old.identity_id, account_id => old.account_id);
    return null;
end
$$;
comment on function loyalty_private.identity_link_changed is 'Ends the sessions that a link opened, when it ends.';
create trigger ends_sessions after update of ended_at on loyalty.identity_link
    for each row when (new.ended_at is not null) execute function loyalty_private.identity_link_changed();
create trigger ends_sessions_of_removed after delete on loyalty.identity_link
    for each row execute function loyalty_private.identity_link_changed();
