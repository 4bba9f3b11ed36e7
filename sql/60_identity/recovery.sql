-- Ways back in (A6, C12): a password by mail and a key on the screen, and an unlock by mail. Who
-- asks is nobody yet: an unknown login ID gets the same answer, after the same work and time.

create function loyalty_private.reach(person loyalty.identity, program_id integer, out is_in boolean, out account_id bigint, out address text)
    returns record
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    select true, case l.relation when 'self' then l.account_id end,
           coalesce(person.login_id, case l.relation when 'self' then coalesce(m.email, m.phone) end)
      into is_in, account_id, address
      from loyalty.identity_link l
      left join loyalty.member m on m.account_id = l.account_id
     where l.identity_id = person.identity_id and l.program_id = reach.program_id and l.ended_at is null
     order by l.relation <> 'self', l.account_id
     limit 1;
    if not found then
        is_in := coalesce(
            loyalty.role_of(person.identity_id, reach.program_id, 'granter')
            or loyalty.role_of(person.identity_id, reach.program_id, 'admin')
            or loyalty.role_of(person.identity_id, null, 'operator'), false);
        address := case when is_in then person.login_id end;
    end if;
end
$$;
comment on function loyalty_private.reach is
    'Whether a person is a program''s (a member, family or staff), with which account of their own, and where mail to them goes: to the login ID, or without one to the member record''s address (S8).';

create function loyalty_private.replace_password(
    identity_id bigint, program_id integer, password text, except_session uuid default null
) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    person loyalty.identity;
    place record;
begin
    -- a login under way with the old one (try_password) is over before its sessions are ended, or finds this one
    perform from loyalty.identity i where i.identity_id = replace_password.identity_id for update;
    perform loyalty_private.set_password(replace_password.identity_id, replace_password.password);
    perform loyalty.end_sessions(replace_password.identity_id, except_session => replace_password.except_session);
    perform loyalty_private.forget_devices(replace_password.identity_id);
    -- links that are still on their way would set another one
    update loyalty_private.challenge c
       set used_at = loyalty.now()
     where c.identity_id = replace_password.identity_id and c.purpose in ('password_reset', 'login_approved')
       and c.used_at is null;
    select i.* into person from loyalty.identity i where i.identity_id = replace_password.identity_id;
    place := loyalty_private.reach(person, replace_password.program_id);
    if place.address is not null then
        perform loyalty_private.send_notice(replace_password.program_id, place.account_id, 'password_changed',
            gen_random_uuid()::text, place.address);
    end if;
end
$$;
comment on function loyalty_private.replace_password is
    'Stores a checked password, ends the person''s sessions but one and their links for other passwords, forgets their devices, and tells them by mail.';

create function loyalty.request_password_reset(login_id text, program text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    began timestamptz := clock_timestamp();
    within integer;
    subject text;
    wait interval;
    person loyalty.identity;
    place record;
    made loyalty_private.challenge;
    locked boolean;
begin
    if request_password_reset.login_id is null or request_password_reset.program is null then
        perform loyalty_private.raise('22004', 'value_missing', 'login_id and program must not be null', null, 'Send both.');
    end if;
    within := loyalty.program_id(request_password_reset.program);
    perform loyalty_private.access_policy_of(within);
    perform loyalty_private.check_service_hours(within);
    subject := loyalty_private.login_subject(request_password_reset.login_id, within);
    wait := loyalty_private.begin_attempt('send', subject);
    if wait is not null then
        return loyalty_private.refuse_attempt(wait);
    end if;
    perform loyalty_private.attempt_failed('send', subject);
    person := loyalty_private.find_login(request_password_reset.login_id, within);
    place := loyalty_private.reach(person, within);
    locked := loyalty_private.is_locked(person.identity_id);
    -- guide C12: a locked account is unlocked first; the mail says how
    made := loyalty_private.new_challenge(
        case when locked and place.is_in then 'unlock' else 'password_reset' end, within,
        case when place.is_in then person.identity_id end, place.account_id,
        case when person.state in ('active', 'locked') then place.address end);
    perform loyalty_private.audit('request_password_reset', within, made.identity_id, made.account_id);
    perform loyalty_private.pad(began);
    return jsonb_build_object(
        'screen_key', loyalty_private.challenge_code(made.challenge_id, 'screen', 4),
        'expires_at', made.expires_at);
end
$$;
comment on function loyalty.request_password_reset is
    'Begins a password reset (C12): {screen_key, expires_at}, four digits to show on the screen, and a link by mail or short message to the login ID, good for 15 minutes. Who is locked out gets a link to unlock instead. The same answer for an unknown ID; asked too often: LY008. Raises LY002, LY007, LY010, 22004.';

create function loyalty_private.check_passwords(password text, password_again text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if password is null or password is distinct from password_again then
        perform loyalty_private.raise('22023', 'passwords_differ', 'the two passwords differ', null, 'Send the new password twice.',
            'password_again');
    end if;
end
$$;
comment on function loyalty_private.check_passwords is 'Refuses a password that was not typed twice the same (22023).';

create function loyalty_private.refuse_link() returns jsonb
    language sql volatile set search_path = pg_catalog, pg_temp
    return loyalty_private.refuse('LY009', 'link_invalid', 'the link is not valid', null, 'Ask for a new one.', 'token');
comment on function loyalty_private.refuse_link is 'The answer to a token from a mail that opens nothing: LY009.';

create function loyalty.reset_password(token text, screen_key text, password text, password_again text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    by_mail loyalty_private.challenge;
    person loyalty.identity;
begin
    perform loyalty_private.check_passwords(password, password_again);
    perform loyalty_private.lock_attempts(token);
    by_mail := loyalty_private.challenge_of_token(token, '{password_reset}');
    if by_mail.identity_id is null then
        return loyalty_private.refuse_link();
    end if;
    perform loyalty_private.check_service_hours(by_mail.program_id);
    select i.* into person from loyalty.identity i where i.identity_id = by_mail.identity_id for update;
    perform loyalty_private.check_new_password(loyalty_private.access_policy_of(by_mail.program_id), password, person.login_id);
    if not loyalty_private.try_code(by_mail.challenge_id, screen_key, 'screen', 4) then
        perform loyalty_private.audit('reset_password', by_mail.program_id, by_mail.identity_id, by_mail.account_id,
            outcome => 'refused');
        return loyalty_private.refuse('LY009', 'key_wrong', 'wrong key', null,
            'Type the four digits that were on the screen; the fifth wrong ones end the link.', 'screen_key');
    elsif person.state <> 'active' or loyalty_private.is_locked(person.identity_id) then
        perform loyalty_private.audit('reset_password', by_mail.program_id, by_mail.identity_id, by_mail.account_id,
            outcome => 'refused');
        return loyalty_private.refuse('LY010', 'login_locked_or_suspended', 'the login is locked or suspended', null,
            'Unlock it by mail first, or ask the program''s administrators.');
    end if;
    perform loyalty_private.use_challenge(by_mail.challenge_id);
    perform loyalty_private.replace_password(person.identity_id, by_mail.program_id, password);
    perform loyalty_private.forgive_login(person.identity_id);
    perform loyalty_private.audit('reset_password', by_mail.program_id, by_mail.identity_id, by_mail.account_id);
    return jsonb_build_object('changed', true);
end
$$;
comment on function loyalty.reset_password is
    'Ends a password reset (C12): the token of the mailed link, the four digits of the screen and the new password twice: {changed: true}; all sessions end. Wrong key, or a link that is not good: the answer is LY009; LY010 for who was locked or suspended meanwhile. Raises LY007, 22023.';

create function loyalty.request_unlock(login_id text, program text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    began timestamptz := clock_timestamp();
    within integer;
    subject text;
    wait interval;
    person loyalty.identity;
    place record;
    made loyalty_private.challenge;
begin
    if request_unlock.login_id is null or request_unlock.program is null then
        perform loyalty_private.raise('22004', 'value_missing', 'login_id and program must not be null', null, 'Send both.');
    end if;
    within := loyalty.program_id(request_unlock.program);
    perform loyalty_private.access_policy_of(within);
    perform loyalty_private.check_service_hours(within);
    subject := loyalty_private.login_subject(request_unlock.login_id, within);
    wait := loyalty_private.begin_attempt('send', subject);
    if wait is not null then
        return loyalty_private.refuse_attempt(wait);
    end if;
    perform loyalty_private.attempt_failed('send', subject);
    person := loyalty_private.find_login(request_unlock.login_id, within);
    place := loyalty_private.reach(person, within);
    made := loyalty_private.new_challenge('unlock', within, case when place.is_in then person.identity_id end, place.account_id,
        case when person.state in ('active', 'locked') and loyalty_private.is_locked(person.identity_id) then place.address end);
    perform loyalty_private.audit('request_unlock', within, made.identity_id, made.account_id);
    perform loyalty_private.pad(began);
    return jsonb_build_object('expires_at', made.expires_at);
end
$$;
comment on function loyalty.request_unlock is
    'Sends who is locked out a link to unlock, good for 15 minutes: {expires_at}. The same answer for anybody else; asked too often: LY008. Raises LY002, LY007, LY010, 22004.';

create function loyalty.unlock(token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    by_mail loyalty_private.challenge;
begin
    perform loyalty_private.lock_attempts(token);
    by_mail := loyalty_private.challenge_of_token(token, '{unlock}');
    if by_mail.identity_id is null then
        return loyalty_private.refuse_link();
    end if;
    perform loyalty_private.check_service_hours(by_mail.program_id);
    perform loyalty_private.use_challenge(by_mail.challenge_id);
    perform loyalty_private.forgive_login(by_mail.identity_id);
    perform loyalty_private.audit('unlock', by_mail.program_id, by_mail.identity_id, by_mail.account_id);
    return jsonb_build_object('unlocked', true);
end
$$;
comment on function loyalty.unlock is
    'Unlocks by the token of a mailed link: {unlocked: true}. A link that is not good: the answer is LY009. Raises LY007.';
