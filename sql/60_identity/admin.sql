-- What staff do with people's logins. A login may open other programs too: who administers one
-- program unlocks, but suspends or closes only logins that open nothing else.

create function loyalty_private.find_person(login_id text, program_id integer) returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    person bigint;
begin
    select i.identity_id into person
      from loyalty.identity i
     where i.login_id = loyalty_private.clean_login_id(find_person.login_id)
       and i.state in ('active', 'suspended', 'locked')
       and (find_person.program_id is null
            or exists (select from loyalty.identity_link l
                        where l.identity_id = i.identity_id and l.program_id = find_person.program_id and l.ended_at is null)
            or loyalty.role_of(i.identity_id, find_person.program_id, 'granter')
            or loyalty.role_of(i.identity_id, find_person.program_id, 'admin'));
    if person is null then
        select l.identity_id into person
          from loyalty.account a
          join loyalty.identity_link l on l.account_id = a.account_id and l.relation = 'self' and l.ended_at is null
         where a.program_id = find_person.program_id and a.member_no = btrim(find_person.login_id);
    end if;
    if person is null then
        perform loyalty_private.raise('LY002', 'no_such_login', 'nobody logs in by that', null,
            'A login ID or member number of the program.', 'login_id');
    end if;
    return person;
end
$$;
comment on function loyalty_private.find_person is
    'The person of a login ID, or of a member number where a program is given; of that program''s people only. LY002.';

create function loyalty_private.opens_more(identity_id bigint, program_id integer) returns boolean
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return exists (select from loyalty.identity_link l
                    where l.identity_id = opens_more.identity_id and l.ended_at is null
                      and l.program_id <> opens_more.program_id)
        or loyalty.role_of(opens_more.identity_id, null, 'operator')
        or exists (select from loyalty.program p
                    where p.program_id <> opens_more.program_id
                      and (loyalty.role_of(opens_more.identity_id, p.program_id, 'granter')
                           or loyalty.role_of(opens_more.identity_id, p.program_id, 'admin')));
end
$$;
comment on function loyalty_private.opens_more is 'Whether a login opens more than one program.';

create function loyalty.unlock_identity(identity_id bigint, program_id integer default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    was_locked boolean := loyalty_private.is_locked(unlock_identity.identity_id);
begin
    perform loyalty_private.forgive_login(unlock_identity.identity_id, by_client => false);
    perform loyalty_private.audit('unlock_identity', unlock_identity.program_id, unlock_identity.identity_id,
        details => jsonb_build_object('was_locked', was_locked));
    return jsonb_build_object('identity_id', unlock_identity.identity_id, 'was_locked', was_locked);
end
$$;
comment on function loyalty.unlock_identity is
    'Unlocks a person''s login and forgets their wrong passwords: {identity_id, was_locked}.';

create function loyalty_private.set_identity_state(
    action text, identity_id bigint, program_id integer, from_states text[], to_state text, reason text
) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    update loyalty.identity i
       set state = set_identity_state.to_state, changed_at = loyalty.now()
     where i.identity_id = set_identity_state.identity_id and i.state = any (set_identity_state.from_states);
    if not found then
        perform loyalty_private.raise('22023', 'login_state_wrong', 'the login is in the wrong state',
            format('It is %s.', (select i.state from loyalty.identity i where i.identity_id = set_identity_state.identity_id)),
            format('It must be %s.', array_to_string(set_identity_state.from_states, ' or ')));
    end if;
    -- what an application suspended is staff's decision now
    update loyalty.login_application a
       set has_suspended = false
     where a.identity_id = set_identity_state.identity_id and a.has_suspended;
    perform loyalty_private.audit(set_identity_state.action, set_identity_state.program_id, set_identity_state.identity_id,
        details => jsonb_build_object('reason', set_identity_state.reason));
    return jsonb_build_object('identity_id', set_identity_state.identity_id, 'state', set_identity_state.to_state);
end
$$;
comment on function loyalty_private.set_identity_state is 'For suspend_identity, resume_identity and close_identity. 22023.';

create function loyalty.suspend_identity(identity_id bigint, program_id integer default null, reason text default null)
    returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty_private.set_identity_state('suspend_identity', suspend_identity.identity_id, suspend_identity.program_id,
        '{active,locked,suspended}', 'suspended', suspend_identity.reason);
comment on function loyalty.suspend_identity is
    'Suspends a login: sessions end, and it opens nothing until it is resumed: {identity_id, state}. 22023 when it was never confirmed or is closed.';

create function loyalty.resume_identity(identity_id bigint, program_id integer default null, reason text default null)
    returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty_private.set_identity_state('resume_identity', resume_identity.identity_id, resume_identity.program_id,
        '{suspended}', 'active', resume_identity.reason);
comment on function loyalty.resume_identity is 'Ends a suspension: {identity_id, state}. 22023 when it is not suspended.';

create function loyalty.close_identity(identity_id bigint, program_id integer default null, reason text default null)
    returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    answer jsonb;
begin
    perform loyalty_private.forgive_login(close_identity.identity_id, by_client => false);
    perform loyalty_private.forget_devices(close_identity.identity_id);
    answer := loyalty_private.set_identity_state('close_identity', close_identity.identity_id, close_identity.program_id,
        '{provisional,active,locked,suspended}', 'closed', close_identity.reason);
    update loyalty.identity_link l
       set ended_at = loyalty.now()
     where l.identity_id = close_identity.identity_id and l.ended_at is null;
    update loyalty_private.challenge c
       set used_at = loyalty.now()
     where c.identity_id = close_identity.identity_id and c.used_at is null;
    delete from loyalty.identity_provider_link k where k.identity_id = close_identity.identity_id;
    delete from loyalty_private.credential c where c.identity_id = close_identity.identity_id;
    return answer;
end
$$;
comment on function loyalty.close_identity is
    'Closes a login for good: its links, sessions and password are gone, and its login ID is free. Points and accounts stay: {identity_id, state}. 22023 when it is closed.';
