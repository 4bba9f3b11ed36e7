-- Another login ID: whoever changes address, or registers one later (S8). The new address is
-- proven by a link, before the old one goes.

create function loyalty.request_login_change(
    identity_id bigint, program_id integer, account_id bigint, login_id text, password text
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    started timestamptz := clock_timestamp();
    address text := loyalty_private.clean_login_id(request_login_change.login_id);
    subject text := 'login change ' || request_login_change.identity_id;
    person record;
    wait interval;
    sent loyalty_private.challenge;
begin
    if address is null then
        perform loyalty_private.raise('22023', 'not_email_or_phone', 'login_id is neither an e-mail address nor a phone number',
            null, 'Such as hanako@example.com, 090-1234-5678 or +44 20 7946 0018.', 'login_id');
    end if;
    wait := loyalty_private.begin_attempt('code', subject, false);
    if wait is not null then
        return loyalty_private.refuse_attempt(wait);
    end if;
    select i.login_id, c.password_hash into person
      from loyalty.identity i
      left join loyalty_private.credential c on c.identity_id = i.identity_id
     where i.identity_id = request_login_change.identity_id and i.state = 'active';
    if not loyalty_private.check_password(request_login_change.password, person.password_hash) then
        perform loyalty_private.attempt_failed('code', subject, false);
        perform loyalty_private.audit('request_login_change', request_login_change.program_id,
            request_login_change.identity_id, request_login_change.account_id, outcome => 'refused');
        return loyalty_private.refuse('LY009', 'wrong_password', 'wrong password', null,
            'Give the password of your login as it is now.', 'password');
    end if;
    perform loyalty_private.attempt_succeeded('code', subject, false);
    if person.login_id = address then
        perform loyalty_private.raise('22023', 'login_id_unchanged', 'login_id is the one you have', null, 'Give another one.',
            'login_id');
    end if;
    wait := loyalty_private.begin_attempt('send', address, false);
    if wait is not null then
        return loyalty_private.refuse_attempt(wait);
    end if;
    perform loyalty_private.attempt_failed('send', address, false);
    -- nothing goes to who has that login ID already, and the answer does not tell
    sent := loyalty_private.new_challenge('login_change', request_login_change.program_id, request_login_change.identity_id,
        request_login_change.account_id,
        case when not exists (select from loyalty.identity i
                               where i.login_id = address and i.state in ('active', 'suspended', 'locked'))
             then address end);
    perform loyalty_private.audit('request_login_change', request_login_change.program_id,
        request_login_change.identity_id, request_login_change.account_id);
    perform loyalty_private.pad(started);
    return jsonb_build_object('sent_to', address, 'expires_at', sent.expires_at);
end
$$;
comment on function loyalty.request_login_change is
    'Mails a link to a new login ID of somebody who is signed in, once the password was right (S8): {sent_to, expires_at}. The answer does not tell whether somebody has that login ID; then no mail goes out. LY009 for a wrong password, LY008 after too many, 22023 for what is no login ID.';

create function loyalty.confirm_login_change(token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    sent loyalty_private.challenge := loyalty_private.challenge_of_token(confirm_login_change.token, '{login_change}');
    person loyalty.identity;
begin
    perform loyalty_private.check_service_hours(sent.program_id);
    if sent.address is null then
        perform loyalty_private.raise('LY009', 'link_invalid', 'the link is not valid',
            'It was used, replaced by a newer one, or its time is over.', 'Ask for a new one.', 'token');
    end if;
    perform loyalty_private.use_challenge(sent.challenge_id);
    select i.* into person
      from loyalty.identity i
     where i.identity_id = sent.identity_id and i.state = 'active'
       for update;
    if not found then
        perform loyalty_private.raise('LY010', 'login_suspended', 'the login is suspended', null, 'Ask your organisation.');
    end if;
    begin
        update loyalty.identity i
           set login_id = sent.address, changed_at = loyalty.now()
         where i.identity_id = person.identity_id;
    exception when unique_violation then
        perform loyalty_private.raise('LY010', 'login_id_taken_meanwhile', 'the login ID has been taken meanwhile', null, 'Choose another one.');
    end;
    -- the record is the member's own: family has none
    perform loyalty_private.fill_contact(l.account_id, sent.address)
       from loyalty.identity_link l
      where l.identity_id = sent.identity_id and l.account_id = sent.account_id
        and l.relation = 'self' and l.ended_at is null;
    if person.login_id <> sent.address then
        -- who did not ask for it has to hear of it, where they still read
        perform loyalty_private.send_notice(sent.program_id, (loyalty_private.reach(person, sent.program_id)).account_id,
            'login_changed', gen_random_uuid()::text, person.login_id);
        -- links that went there open the login no more
        update loyalty_private.challenge c
           set used_at = loyalty.now()
         where c.identity_id = person.identity_id and c.purpose in ('password_reset', 'unlock')
           and c.address = person.login_id and c.used_at is null;
    end if;
    perform loyalty_private.audit('confirm_login_change', sent.program_id, sent.identity_id, sent.account_id);
    return jsonb_build_object('login_id', sent.address);
end
$$;
comment on function loyalty.confirm_login_change is
    'Takes the link that request_login_change mailed (S8): from then on the new login ID is the person''s, with the same password: {login_id}. The old one, if there was one, is told, and links that went there to reset the password or unlock are over. LY009 for a link that is no longer good, LY010 for a login that is suspended or an ID that is taken by now, LY007 outside of service hours.';

-- What is left of people who came and went.
create function loyalty.purge_access(older_than interval default '30 days')
    returns table (what text, purged bigint)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    before timestamptz := loyalty.now() - older_than;
begin
    if older_than is null or older_than < interval '1 day' then
        perform loyalty_private.raise('22023', 'out_of_range', 'older_than is too short',
            format('%s given.', coalesce(older_than::text, 'null')), 'A day or more: failures of the last day still count.',
            'older_than');
    end if;
    delete from loyalty_private.registration r where r.expires_at < before;
    get diagnostics purged = row_count;
    what := 'registration';
    return next;
    delete from loyalty_private.challenge c where c.expires_at < before;
    get diagnostics purged = row_count;
    what := 'challenge';
    return next;
    delete from loyalty_private.throttle t where t.failed_at < before and t.blocked_until is distinct from 'infinity';
    get diagnostics purged = row_count;
    what := 'throttle';
    return next;
    delete from loyalty_private.device d where d.used_at < loyalty.now() - greatest(purge_access.older_than, loyalty.device_life());
    get diagnostics purged = row_count;
    what := 'device';
    return next;
    delete from loyalty_private.credential c
     using loyalty.identity i
     where i.identity_id = c.identity_id and i.state = 'provisional' and i.changed_at < before
       and not exists (select from loyalty_private.registration r where r.identity_id = i.identity_id);
    delete from loyalty.identity i
     where i.state = 'provisional' and i.changed_at < before
       and not exists (select from loyalty_private.registration r where r.identity_id = i.identity_id)
       and not exists (select from loyalty_private.challenge c where c.identity_id = i.identity_id);
    get diagnostics purged = row_count;
    what := 'identity';
    return next;
    purged := loyalty.purge_logins(older_than);
    what := 'session';
    return next;
end
$$;
comment on function loyalty.purge_access is
    'Deletes what people left behind and nobody needs: registrations and challenges whose time is long over, failures that no longer count, provisional persons, ended sessions. What, and how many of it; older_than a day or more. Locked logins and the audit stay.';
