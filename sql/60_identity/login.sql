-- Logging in and out (A7, C9, S8), and what a person does with their own logins.

create function loyalty_private.login_subject(login_id text, program_id integer) returns text
    language sql stable set search_path = pg_catalog, pg_temp
    return coalesce(loyalty_private.clean_login_id(login_id),
                    coalesce(login_subject.program_id, 0) || ' ' || lower(btrim(login_subject.login_id)));
comment on function loyalty_private.login_subject is
    'What attempts at a login ID are counted under: the ID as it is stored, or a member number within its program.';

create function loyalty_private.find_login(login_id text, program_id integer) returns loyalty.identity
    language plpgsql stable set search_path = pg_catalog, pg_temp
    -- planned once: planning anew would take longer for who is looked for in more places
    set plan_cache_mode = force_generic_plan
as $$
declare
    by_login_id loyalty.identity;
    by_member_no loyalty.identity;
begin
    select i.* into by_login_id
      from loyalty.identity i
     where i.login_id = loyalty_private.clean_login_id(find_login.login_id)
       and i.state in ('active', 'suspended', 'locked');
    -- looked for in either case, so that it takes as long for an ID that there is
    select i.* into by_member_no
      from loyalty.access_policy p
      join loyalty.account a on a.program_id = p.program_id and a.member_no = btrim(find_login.login_id)
      join loyalty.identity_link l on l.account_id = a.account_id and l.relation = 'self' and l.ended_at is null
      join loyalty.identity i on i.identity_id = l.identity_id and i.state in ('active', 'suspended', 'locked')
     where p.program_id = find_login.program_id and p.allows_member_no;
    if by_login_id.identity_id is null then
        return by_member_no;
    end if;
    return by_login_id;
end
$$;
comment on function loyalty_private.find_login is
    'Who logs in by that e-mail address or phone, or by that member number of a program that allows it (S8); null for nobody.';

create function loyalty_private.login_subjects(identity_id bigint) returns setof text
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select i.login_id
      from loyalty.identity i
     where i.identity_id = login_subjects.identity_id and i.login_id is not null
     union
    select loyalty_private.login_subject(a.member_no, a.program_id)
      from loyalty.identity_link l
      join loyalty.account a on a.account_id = l.account_id
     where l.identity_id = login_subjects.identity_id and l.relation = 'self' and l.ended_at is null;
end;
comment on function loyalty_private.login_subjects is 'All that wrong passwords for a person may have been counted under.';

create function loyalty_private.is_locked(identity_id bigint) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select exists (select from loyalty.identity i
                    where i.identity_id = is_locked.identity_id and i.state = 'locked')
        or exists (select
                     from loyalty_private.login_subjects(is_locked.identity_id) s
                     join loyalty_private.throttle t
                       on t.scope = 'password' and t.subject_hash = any (loyalty_private.keyed_hashes('throttle password', s))
                    where t.blocked_until = 'infinity');
end;
comment on function loyalty_private.is_locked is 'Whether a person was locked out by wrong passwords and has to be unlocked.';

create function loyalty_private.forgive_login(identity_id bigint, by_client boolean default true) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform loyalty_private.attempt_succeeded('password', s, by_client), loyalty_private.attempt_succeeded('send', s, by_client)
       from loyalty_private.login_subjects(forgive_login.identity_id) s;
    update loyalty.identity i
       set state = 'active', changed_at = loyalty.now()
     where i.identity_id = forgive_login.identity_id and i.state = 'locked';
end
$$;
comment on function loyalty_private.forgive_login is
    'Forgets a person''s wrong passwords, and unlocks who was locked; by_client: the person did it, by a link, and what they got wrong at the address they are at is taken back from its count too.';

create function loyalty_private.lock_attempts(token text) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    if token ~ '^[0-9a-f]{32}\.[A-Za-z0-9_-]{43}$'
       and loyalty_private.is_keyed_code('link', (split_part(token, '.', 1)::uuid)::text, 0, split_part(token, '.', 2)) then
        perform
           from loyalty_private.challenge c
          cross join loyalty_private.login_subjects(c.identity_id) s (subject)
          cross join (values ('password'), ('send')) as a (scope)
           join loyalty_private.throttle t
             on t.scope = a.scope and t.subject_hash = any (loyalty_private.keyed_hashes('throttle ' || a.scope, s.subject))
          where c.challenge_id = split_part(token, '.', 1)::uuid
          order by t.scope, t.subject_hash
            for update of t;
        perform loyalty_private.lock_devices(c.identity_id)
           from loyalty_private.challenge c
          where c.challenge_id = split_part(token, '.', 1)::uuid;
        perform
           from loyalty_private.throttle t
          where t.scope in ('address', 'sender') and t.subject_hash = any (loyalty_private.client_hashes())
          order by t.scope, t.subject_hash
            for update;
    end if;
end
$$;
comment on function loyalty_private.lock_attempts is
    'Before a mailed link that forgets failures is looked at: holds what is counted of the person it is for, their devices, and what is counted of the client. Attempts hold those first, in that order, and the challenge or the person then, so nobody waits in a circle.';

create function loyalty_private.try_password(
    person loyalty.identity, subject text, password text, device_token text default null, is_signed_in boolean default false
) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    blocked timestamptz := loyalty_private.lock_attempt('password', subject);
    device bytea := loyalty_private.known_device(person.identity_id, try_password.device_token);
    wait interval;
    stored text;
    is_right boolean;
begin
    if is_signed_in then
        -- it is about their own password; the address is no matter
        perform loyalty_private.lock_devices(person.identity_id);
    elsif device is null then
        blocked := greatest(blocked, loyalty_private.client_blocked_until('password', subject));
    elsif blocked < 'infinity' then
        -- what others got wrong holds no known device up, but a lock has to be opened first (C12)
        blocked := null;
    end if;
    wait := loyalty_private.wait_until(blocked);
    if wait is not null then
        return loyalty_private.refuse_attempt(wait);
    end if;
    select c.password_hash into stored from loyalty_private.credential c where c.identity_id = person.identity_id;
    is_right := loyalty_private.check_password(try_password.password, stored);
    if is_right then
        -- whoever replaces it now has done so before what this one opens, or ends that too
        perform from loyalty.identity i where i.identity_id = person.identity_id for share;
        is_right := exists (select from loyalty_private.credential c
                             where c.identity_id = person.identity_id and c.password_hash = stored);
    end if;
    if not is_right then
        if device is not null then
            blocked := loyalty_private.device_failed(device, subject);
        else
            blocked := loyalty_private.attempt_failed('password', subject, not is_signed_in);
        end if;
        if blocked = 'infinity' then
            update loyalty.identity i
               set state = 'locked', changed_at = loyalty.now()
             where i.identity_id = person.identity_id and i.state = 'active';
        end if;
        -- one answer for an unknown ID and a wrong password (A7)
        return loyalty_private.refuse('LY009', 'wrong_credentials', 'wrong login ID or password', null,
            'Try again, or reset the password.');
    elsif person.state = 'locked' then
        return loyalty_private.refuse_attempt(interval '1 day');
    end if;
    -- what others got wrong at the address is not explained by who was known anyway
    perform loyalty_private.attempt_succeeded('password', subject, device is null and not is_signed_in);
    return null;
end
$$;
comment on function loyalty_private.try_password is
    'Null when it is the person''s password, else the refusal to answer with, which is counted under the subject, or for a device that the person used before: LY009 wrong, or nobody; LY008 too often, or locked. The tenth wrong one in a row locks. is_signed_in: the person gives it again, and the client''s address does not count.';

create function loyalty_private.prove_password(
    login_id text, password text, program_id integer default null, device_token text default null,
    out identity_id bigint, out refusal jsonb
) returns record
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    person loyalty.identity := loyalty_private.find_login(prove_password.login_id, prove_password.program_id);
begin
    identity_id := person.identity_id;
    refusal := loyalty_private.try_password(
        person, loyalty_private.login_subject(prove_password.login_id, prove_password.program_id), prove_password.password,
        prove_password.device_token);
    if refusal is null and person.state = 'suspended' then
        refusal := loyalty_private.refuse('LY010', 'login_suspended', 'the login is suspended', null,
            'Ask the program''s administrators.');
    end if;
end
$$;
comment on function loyalty_private.prove_password is
    'Who logs in by that ID and password: with refusal null the person, else only who it was about. program_id also takes a member number where the program allows it (S8). Refusals: LY009, LY008, LY010 suspended.';

create function loyalty_private.login_places(identity_id bigint, within integer, wanted text, only_account bigint)
    returns table (program_id integer, program text, account_id bigint, role text)
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if wanted in ('member', 'family') then
        return query
        select p.program_id, p.code, l.account_id,
               case l.relation when 'self' then 'loyalty_member' else 'loyalty_family' end
          from loyalty.identity_link l
          join loyalty.program p on p.program_id = l.program_id
          join loyalty.wallet w on w.account_id = l.account_id and w.status = 'open'
         where l.identity_id = login_places.identity_id
           and l.ended_at is null
           and (l.program_id = within or within is null)
           and (l.account_id = only_account or only_account is null)
           and (l.relation = 'self') = (wanted = 'member')
         order by p.code, l.account_id;
    elsif wanted = 'operator' then
        return query
        select null::integer, null::text, null::bigint, 'loyalty_operator'
         where loyalty.role_of(login_places.identity_id, null, 'operator');
    else
        return query
        select p.program_id, p.code, null::bigint, 'loyalty_' || wanted
          from loyalty.program p
         where (p.program_id = within or within is null)
           and loyalty.role_of(login_places.identity_id, p.program_id, wanted)
         order by p.code;
    end if;
end
$$;
comment on function loyalty_private.login_places is
    'What a person may log in to in a wanted role, in one program or all, for one account or all: as a member or family where the account is open, as staff where they have the role.';

create function loyalty_private.lock_place(identity_id bigint, program_id integer, role text, account_id bigint) returns boolean
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if lock_place.role in ('loyalty_member', 'loyalty_family') then
        perform
           from loyalty.identity_link l
          where l.identity_id = lock_place.identity_id and l.account_id = lock_place.account_id
            and (l.relation = 'self') = (lock_place.role = 'loyalty_member') and l.ended_at is null
            for share;
    else
        perform
           from loyalty.program_role r
          where r.identity_id = lock_place.identity_id and r.program_id is not distinct from lock_place.program_id
            and 'loyalty_' || r.role = lock_place.role and r.taken_at is null
            for share;
    end if;
    return found;
end
$$;
comment on function loyalty_private.lock_place is
    'Whether what a session is to stand on, one of login_places, is there still; who ends it from now on waits for the session, and ends that too.';

create function loyalty.log_in(
    login_id text,
    password text,
    program text default null,
    remember boolean default false,
    role text default 'member',
    account_id bigint default null,
    device_token text default null
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := case when log_in.program is not null then loyalty.program_id(log_in.program) end;
    proof record;
    places record;
    answer jsonb;
begin
    if log_in.login_id is null or log_in.password is null or log_in.role is null then
        perform loyalty_private.raise('22004', 'value_missing', 'login_id, password and role must not be null', null,
            'Send all three; role may be left out for a member.');
    elsif log_in.role not in ('member', 'family', 'granter', 'admin', 'operator') then
        perform loyalty_private.raise('22023', 'role_unknown', 'no such role', format('%L given.', left(log_in.role, 40)),
            'member, family, granter, admin or operator.', 'role');
    end if;
    if within is not null and log_in.role <> 'operator' then
        perform loyalty_private.check_service_hours(within);
    end if;
    proof := loyalty_private.prove_password(log_in.login_id, log_in.password, within, log_in.device_token);
    if proof.refusal is not null then
        -- one that had to wait was not looked at, and does not count
        if proof.refusal ->> 'code' <> 'LY008' then
            perform loyalty_private.audit('log_in', within, proof.identity_id,
                details => jsonb_build_object('role', log_in.role), outcome => 'refused');
        end if;
        return proof.refusal;
    end if;
    select min(l.program_id) as program_id, min(l.program) as program, min(l.account_id) as account_id,
           min(l.role) as role, count(*) as number,
           string_agg(coalesce(l.program || coalesce(' (account ' || l.account_id || ')', ''), 'all'), ', ') as all_of_them
      into places
      from loyalty_private.login_places(proof.identity_id, within, log_in.role, log_in.account_id) l;
    if places.number = 0 and log_in.role = 'member' then
        select min(l.program_id) as program_id, min(l.program) as program, min(l.account_id) as account_id,
               min(l.role) as role, count(*) as number,
               string_agg(l.program || ' (account ' || l.account_id || ')', ', ') as all_of_them
          into places
          from loyalty_private.login_places(proof.identity_id, within, 'family', log_in.account_id) l;
    end if;
    if places.number = 0 then
        perform loyalty_private.audit('log_in', within, proof.identity_id,
            details => jsonb_build_object('role', log_in.role), outcome => 'refused');
        return loyalty_private.refuse('LY010',
            case when log_in.role in ('member', 'family') then 'not_active_member' else 'not_in_role' end,
            case when log_in.role in ('member', 'family') then 'not an active member of the program'
                 else 'not in that role' end, null, 'Ask the program''s administrators.');
    elsif places.number > 1 then
        return loyalty_private.refuse('22023', 'program_ambiguous', 'say which of your programs', places.all_of_them || '.',
            'Send program, and account_id where a program is there twice.', 'program');
    end if;
    if log_in.role <> 'operator' then
        perform loyalty_private.check_service_hours(places.program_id);
    end if;
    -- who is suspended this moment gets no session that the suspension would not end
    perform from loyalty.identity i where i.identity_id = proof.identity_id and i.state = 'active' for share;
    if not found then
        return loyalty_private.refuse('LY010', 'login_suspended', 'the login is suspended', null,
            'Ask the program''s administrators.');
    end if;
    -- nor who loses the role or the link this moment
    if not loyalty_private.lock_place(proof.identity_id, places.program_id, places.role, places.account_id) then
        perform loyalty_private.audit('log_in', places.program_id, proof.identity_id, places.account_id,
            jsonb_build_object('role', log_in.role), 'refused');
        return loyalty_private.refuse('LY010', 'not_in_role', 'not in that role', null, 'Ask the program''s administrators.');
    end if;
    answer := loyalty.start_session(proof.identity_id, places.program_id, places.role, places.account_id, log_in.remember,
        log_in.device_token);
    perform loyalty_private.audit('log_in', places.program_id, proof.identity_id, places.account_id,
        jsonb_build_object('role', places.role, 'session_id', answer ->> 'session_id'));
    return answer;
end
$$;
comment on function loyalty.log_in is
    'Logs a person in by e-mail address, phone, or member number where the program allows it, and password: what start_session answers. device_token: what the last login on this device answered, so that others'' wrong passwords do not hold it up. Refusals that count are answers: LY009 wrong (the same for an unknown ID), LY008 too often, LY010 no active member; 22023 when program is needed. Raises LY002, LY007, 22004, 22023.';

create function loyalty.refresh(refresh_token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    given loyalty_private.refresh_token;
    of_session loyalty_private.session;
    successor text;
    why text;
begin
    if refresh.refresh_token is null then
        perform loyalty_private.raise('22004', 'value_missing', 'refresh_token must not be null', null,
            'Send the last one that you got.', 'refresh_token');
    end if;
    select t.* into given
      from loyalty_private.refresh_token t
     where t.token_hash = any (loyalty_private.keyed_hashes('refresh token', refresh.refresh_token))
       for update;
    select s.* into of_session from loyalty_private.session s where s.session_id = given.session_id for update;
    if of_session.ended_at is null and of_session.expires_at > loyalty.now() then
        if given.used_at > loyalty.now() - loyalty.refresh_grace() then
            -- an answer was lost, or two asked at once: the same again, or what followed it since
            successor := loyalty_private.newest_refresh_token(of_session.session_id, refresh.refresh_token);
        elsif given.used_at is null then
            successor := (loyalty_private.next_refresh_tokens(refresh.refresh_token))[1];
        end if;
        if successor is null then
            why := 'a refresh token came twice';
        elsif not exists (
                select from loyalty_private.login_places(of_session.identity_id, of_session.program_id,
                                                 substr(of_session.role, 9), of_session.account_id)) then
            why := 'what it opens is closed';
        else
            if of_session.role <> 'loyalty_operator' then
                perform loyalty_private.check_service_hours(of_session.program_id);
            end if;
            if given.used_at is null then
                update loyalty_private.refresh_token t set used_at = loyalty.now() where t.token_hash = given.token_hash;
                update loyalty_private.session s
                   set used_at = loyalty.now(), address = loyalty_private.client_address(),
                       expires_at = loyalty.now() + loyalty_private.session_life(s.program_id, s.is_remembered)
                 where s.session_id = of_session.session_id;
            end if;
            return loyalty_private.session_tokens(of_session.session_id, successor);
        end if;
        update loyalty_private.session s set ended_at = loyalty.now() where s.session_id = of_session.session_id;
        perform loyalty_private.audit('refresh', of_session.program_id, of_session.identity_id, of_session.account_id,
            jsonb_build_object('session_id', of_session.session_id, 'why', why), 'refused');
    end if;
    return loyalty_private.refuse('LY009', 'session_over', 'the session is over', null, 'Log in again.');
end
$$;
comment on function loyalty.refresh is
    'New tokens for a refresh token, which is good once: for refresh_grace() after its first use it gives the same new one, for lost answers and for tabs that ask at once; one that comes later ends the session, since either the person or somebody else holds a stolen one. Not good, not any more, or too late: the answer is LY009. Raises LY007, 22004.';

create function loyalty_private.own_sessions(identity_id bigint, session_id uuid default null) returns jsonb
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select jsonb_build_object('sessions', coalesce(jsonb_agg(jsonb_build_object(
               'session_id', s.session_id,
               'program', p.code,
               'role', substr(s.role, 9),
               'account_id', s.account_id,
               'device', s.device,
               'address', s.address,
               'is_remembered', s.is_remembered,
               'started_at', s.started_at,
               'used_at', s.used_at,
               'expires_at', s.expires_at,
               'is_this', s.session_id is not distinct from own_sessions.session_id)
               order by s.used_at desc, s.session_id), '[]'))
      from loyalty_private.session s
      left join loyalty.program p on p.program_id = s.program_id
     where s.identity_id = own_sessions.identity_id
       and s.ended_at is null
       and s.expires_at > loyalty.now();
end;
comment on function loyalty_private.own_sessions is
    'The logins of a person that still go on, the last used first: {sessions: […]}; session_id says which is_this.';

create function loyalty.end_session(identity_id bigint, session_id uuid, action text default 'end_session')
    returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    ended loyalty_private.session;
begin
    update loyalty_private.session s
       set ended_at = loyalty.now()
     where s.session_id = end_session.session_id
       and s.identity_id = end_session.identity_id
       and s.ended_at is null
    returning * into ended;
    if ended.session_id is null then
        perform loyalty_private.raise('LY002', 'no_such_session', 'no such session', null, 'loyalty_private.own_sessions lists them.',
            'session_id');
    end if;
    perform loyalty_private.audit(end_session.action, ended.program_id, ended.identity_id, ended.account_id,
        jsonb_build_object('session_id', ended.session_id));
    return jsonb_build_object('ended', 1);
end
$$;
comment on function loyalty.end_session is
    'Ends one login of a person: {ended: 1}; action is what the audit calls it. LY002 when there is none.';

create function loyalty.log_out_everywhere(identity_id bigint, program_id integer default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    ended bigint := loyalty.end_sessions(log_out_everywhere.identity_id);
begin
    perform loyalty_private.forget_devices(log_out_everywhere.identity_id);
    perform loyalty_private.audit('log_out_everywhere', log_out_everywhere.program_id, log_out_everywhere.identity_id,
        details => jsonb_build_object('ended', ended));
    return jsonb_build_object('ended', ended);
end
$$;
comment on function loyalty.log_out_everywhere is
    'Ends all logins of a person, in every program, and forgets their devices: {ended}. program_id is for the audit.';

create function loyalty.change_password(
    identity_id bigint,
    program_id integer,
    old_password text,
    new_password text,
    session_id uuid default null
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    person loyalty.identity;
    subject text;
    refusal jsonb;
begin
    select i.* into person from loyalty.identity i where i.identity_id = change_password.identity_id;
    subject := (select s from loyalty_private.login_subjects(person.identity_id) s
                 order by s is distinct from person.login_id, s limit 1);
    if subject is null then
        perform loyalty_private.raise('LY010', 'no_password', 'there is no password to change', null,
            'The login is an identity provider''s.');
    end if;
    perform loyalty_private.check_new_password(
        loyalty_private.access_policy_of(change_password.program_id), change_password.new_password, person.login_id);
    refusal := loyalty_private.try_password(person, subject, change_password.old_password, is_signed_in => true);
    if refusal is not null then
        if refusal ->> 'code' <> 'LY008' then
            perform loyalty_private.audit('change_password', change_password.program_id, person.identity_id, outcome => 'refused');
        end if;
        return refusal;
    end if;
    perform loyalty_private.replace_password(person.identity_id, change_password.program_id, change_password.new_password,
        change_password.session_id);
    perform loyalty_private.audit('change_password', change_password.program_id, person.identity_id);
    return jsonb_build_object('changed', true);
end
$$;
comment on function loyalty.change_password is
    'Changes a person''s password, who gives the old one, by a program''s policy; ends their other sessions and tells them by mail: {changed: true}. Wrong: the answer is LY009, too often LY008. Raises LY010, 22004, 22023.';

create function loyalty.purge_logins(older_than interval default '90 days') returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    purged bigint;
begin
    if older_than is null or older_than < interval '1 day' then
        perform loyalty_private.raise('22023', 'out_of_range', 'older_than is too short',
            format('%s given.', coalesce(older_than::text, 'null')), 'From 1 day on.', 'older_than');
    end if;
    delete from loyalty_private.session s
     where s.expires_at < loyalty.now() - older_than
        or s.ended_at < loyalty.now() - older_than;
    get diagnostics purged = row_count;
    delete from loyalty.login_application a
     where a.state in ('done', 'refused') and a.decided_at < loyalty.now() - older_than;
    return purged;
end
$$;
comment on function loyalty.purge_logins is
    'Deletes sessions that ended, and applications for a login that were settled, longer ago than that, a day at least. How many sessions.';
