-- Forgotten login IDs (C13): an application that staff look at. Until they decide, the login is
-- suspended, but only where the application says what the member record says: else anybody
-- could suspend anybody. Nor where it opens other programs too, whose administrators did not
-- write that record.

create table loyalty.login_application (
    application_id bigint generated always as identity primary key,
    program_id integer not null references loyalty.program,
    account_id bigint references loyalty.account,
    identity_id bigint references loyalty.identity,
    member_no text not null,
    name text not null,
    kana text not null,
    birth_date date not null,
    login_id text not null
        constraint login_application_login_id_is_clean check (login_id = loyalty_private.clean_login_id(login_id)),
    phone text not null,
    differs text[] not null,
    has_suspended boolean not null default false,
    state text not null default 'waiting'
        constraint login_application_state_is_known check (state in ('waiting', 'approved', 'refused', 'done')),
    applied_at timestamptz not null,
    address text,
    decided_at timestamptz,
    decided_by text,
    reason text
        constraint login_application_reason_is_short check (char_length(reason) <= 1000)
);
create index login_application_by_program on loyalty.login_application (program_id, application_id);
create index login_application_by_identity on loyalty.login_application (identity_id) where identity_id is not null;

comment on table loyalty.login_application is
    'Applications of people who forgot their login ID (C13), for staff to approve or refuse.';
comment on column loyalty.login_application.application_id is 'Number of the application.';
comment on column loyalty.login_application.program_id is 'The program.';
comment on column loyalty.login_application.account_id is 'The account of the member number given; null when there is none.';
comment on column loyalty.login_application.identity_id is 'Who logs in as that member; null when nobody does.';
comment on column loyalty.login_application.member_no is 'The member number given.';
comment on column loyalty.login_application.name is 'The name given.';
comment on column loyalty.login_application.kana is 'Its reading, as given.';
comment on column loyalty.login_application.birth_date is 'The birth date given.';
comment on column loyalty.login_application.login_id is 'The login ID wanted.';
comment on column loyalty.login_application.phone is 'The phone number given.';
comment on column loyalty.login_application.differs is 'What was given otherwise than the member record has it: member_no, name, kana, birth_date; empty when all fits.';
comment on column loyalty.login_application.has_suspended is 'Whether the login is suspended because of this application.';
comment on column loyalty.login_application.state is 'waiting; approved (a link is on its way); refused; done (the link was used).';
comment on column loyalty.login_application.applied_at is 'When it was made.';
comment on column loyalty.login_application.address is 'The client''s address.';
comment on column loyalty.login_application.decided_at is 'When it was last approved, refused or done.';
comment on column loyalty.login_application.decided_by is 'Who approved or refused it.';
comment on column loyalty.login_application.reason is 'Why it was refused.';

create function loyalty_private.same_name(one text, other text) returns boolean
    language sql immutable parallel safe
    -- a space or dot more or less is no other name
    return regexp_replace(normalize(one, nfkc), '[[:space:]・]', '', 'g')
         = regexp_replace(normalize(other, nfkc), '[[:space:]・]', '', 'g');
comment on function loyalty_private.same_name is 'Whether two names or readings are the same but for spaces, dots and widths.';

create function loyalty.apply_for_login(
    organisation_id text, name text, kana text, birth_date date, member_no text,
    login_id text, login_id_again text, phone text, consent boolean
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    began timestamptz := clock_timestamp();
    policy loyalty.access_policy;
    wanted text := loyalty_private.clean_login_id(apply_for_login.login_id);
    record json;
    subject text;
    wait interval;
    known record;
    differs text[];
    suspends boolean;
    made bigint;
begin
    if apply_for_login.consent is distinct from true then
        perform loyalty_private.raise('22023', 'consent_missing', 'consent is needed', null,
            'An application is worked on with the person''s consent only.', 'consent');
    elsif wanted is null then
        perform loyalty_private.raise('22023', 'not_email_or_phone', 'login_id is neither an e-mail address nor a phone number',
            null, 'Send one of them.', 'login_id');
    elsif wanted is distinct from loyalty_private.clean_login_id(apply_for_login.login_id_again) then
        perform loyalty_private.raise('22023', 'login_ids_differ', 'the two login IDs differ', null,
            'Send login_id and login_id_again the same.', 'login_id_again');
    elsif coalesce(btrim(apply_for_login.member_no), '') = '' or coalesce(btrim(apply_for_login.name), '') = ''
          or coalesce(btrim(apply_for_login.kana), '') = '' or coalesce(btrim(apply_for_login.phone), '') = ''
          or apply_for_login.birth_date is null then
        perform loyalty_private.raise('22004', 'value_missing', 'name, kana, birth_date, member_no and phone must not be empty',
            null, 'Send all of them.');
    end if;
    select p.* into policy
      from loyalty.access_policy p
     where lower(p.organisation_id) = lower(btrim(apply_for_login.organisation_id));
    if policy.program_id is null then
        perform loyalty_private.raise('LY002', 'no_such_organisation', 'no such organisation', null, 'Check organisation_id.',
            'organisation_id');
    end if;
    perform loyalty_private.check_service_hours(policy.program_id);
    record := loyalty_private.clean_member(
        json_build_object('member_no', apply_for_login.member_no, 'name', apply_for_login.name,
                          'kana', apply_for_login.kana, 'birth_date', apply_for_login.birth_date,
                          'phone', apply_for_login.phone),
        timezone((select p.time_zone from loyalty.program p where p.program_id = policy.program_id), loyalty.now())::date);
    subject := format('application %s %s', policy.program_id, lower(record ->> 'member_no'));
    wait := loyalty_private.begin_attempt('send', subject);
    if wait is not null then
        return loyalty_private.refuse_attempt(wait);
    end if;
    perform loyalty_private.attempt_failed('send', subject);
    select a.account_id, m.name, m.kana, m.birth_date, l.identity_id
      into known
      from loyalty.account a
      left join loyalty.member m on m.account_id = a.account_id
      left join loyalty.identity_link l on l.account_id = a.account_id and l.relation = 'self' and l.ended_at is null
     where a.program_id = policy.program_id and a.member_no = record ->> 'member_no';
    differs := array_remove(array[
        case when known.account_id is null then 'member_no' end,
        case when not coalesce(loyalty_private.same_name(known.name, record ->> 'name'), false) then 'name' end,
        case when not coalesce(loyalty_private.same_name(known.kana, record ->> 'kana'), false) then 'kana' end,
        case when known.birth_date is distinct from apply_for_login.birth_date then 'birth_date' end], null);
    update loyalty.identity i
       set state = 'suspended', changed_at = loyalty.now()
     where i.identity_id = known.identity_id and differs = '{}' and i.state in ('active', 'locked')
       and not loyalty_private.opens_more(known.identity_id, policy.program_id);
    suspends := found;
    insert into loyalty.login_application
           (program_id, account_id, identity_id, member_no, name, kana, birth_date, login_id, phone, differs,
            has_suspended, applied_at, address)
    values (policy.program_id, known.account_id, known.identity_id, record ->> 'member_no', record ->> 'name',
            record ->> 'kana', apply_for_login.birth_date, wanted, record ->> 'phone', differs, suspends,
            loyalty.now(), loyalty_private.client_address())
    returning application_id into made;
    perform loyalty_private.audit('apply_for_login', policy.program_id, known.identity_id, known.account_id,
        jsonb_build_object('application_id', made, 'differs', differs));
    perform loyalty_private.pad(began);
    return jsonb_build_object('application_id', made, 'state', 'waiting');
end
$$;
comment on function loyalty.apply_for_login is
    'Applies for another login ID (C13): {application_id, state}, whether or not there is such a member. Where all fits the member record and the login opens no other program, it is suspended until staff decide. Asked too often: LY008. Raises LY002, LY007, 22004, 22023.';

create function loyalty_private.open_application(application_id bigint, states text[]) returns loyalty.login_application
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    application loyalty.login_application;
begin
    select a.* into application
      from loyalty.login_application a
     where a.application_id = open_application.application_id
       for update;
    if application.application_id is null then
        perform loyalty_private.raise('LY002', 'no_such_application', 'no such application', null,
            'loyalty.login_application lists them.', 'application_id');
    elsif application.state <> all (states) then
        perform loyalty_private.raise('22023', 'application_settled', 'the application is no longer open',
            format('It is %s.', application.state), 'Only one that waits, or whose link was not used yet, can be decided.');
    end if;
    return application;
end
$$;
comment on function loyalty_private.open_application is 'An application that can still be decided, held until the end of the transaction. LY002, 22023.';

create function loyalty.approve_application(application_id bigint) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    application loyalty.login_application := loyalty_private.open_application(approve_application.application_id, '{waiting,approved}');
    made loyalty_private.challenge;
begin
    if application.identity_id is null then
        perform loyalty_private.raise('22023', 'no_login_of_member', 'nobody logs in as that member', null,
            'Refuse it, and let the member register with authentication keys.');
    elsif exists (select from loyalty.identity i
                   where i.login_id = application.login_id and i.identity_id <> application.identity_id
                     and i.state in ('active', 'suspended', 'locked')) then
        perform loyalty_private.raise('22023', 'login_id_taken', 'the login ID belongs to somebody else', null,
            'Refuse it, and let the person apply with another one.', 'login_id');
    end if;
    update loyalty.identity i
       set state = 'suspended', changed_at = loyalty.now()
     where i.identity_id = application.identity_id and i.state in ('active', 'locked');
    -- one at a time: the others that wait for the same login are settled by this one
    update loyalty.login_application a
       set state = 'refused', decided_at = loyalty.now(), decided_by = loyalty_private.actor(),
           reason = format('application %s was approved', application.application_id), has_suspended = false
     where a.identity_id = application.identity_id and a.application_id <> application.application_id
       and a.state in ('waiting', 'approved');
    update loyalty.login_application a
       set state = 'approved', decided_at = loyalty.now(), decided_by = loyalty_private.actor(), reason = null,
           has_suspended = true
     where a.application_id = application.application_id;
    made := loyalty_private.new_challenge('login_approved', application.program_id, application.identity_id, application.account_id,
        application.login_id);
    update loyalty_private.challenge c
       set details = jsonb_build_object('application_id', application.application_id)
     where c.challenge_id = made.challenge_id;
    perform loyalty_private.audit('approve_application', application.program_id, application.identity_id, application.account_id,
        jsonb_build_object('application_id', application.application_id));
    return jsonb_build_object('application_id', application.application_id, 'state', 'approved',
        'expires_at', made.expires_at);
end
$$;
comment on function loyalty.approve_application is
    'Approves an application: a link goes to the new login ID, good for 15 minutes, and the login stays suspended until it is used; approving again sends another: {application_id, state, expires_at}. LY002; 22023 when it is settled, nobody logs in as the member, or the login ID is taken.';

create function loyalty.refuse_application(application_id bigint, reason text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    application loyalty.login_application := loyalty_private.open_application(refuse_application.application_id, '{waiting,approved}');
begin
    update loyalty.login_application a
       set state = 'refused', decided_at = loyalty.now(), decided_by = loyalty_private.actor(), reason = refuse_application.reason,
           has_suspended = false
     where a.application_id = application.application_id;
    update loyalty_private.challenge c
       set used_at = loyalty.now()
     where c.identity_id = application.identity_id and c.purpose = 'login_approved' and c.used_at is null
       and c.details ->> 'application_id' = application.application_id::text;
    if application.has_suspended then
        -- another one that waits keeps it suspended
        update loyalty.login_application a
           set has_suspended = true
         where a.application_id = (select min(o.application_id) from loyalty.login_application o
                                    where o.identity_id = application.identity_id and o.differs = '{}'
                                      and o.state in ('waiting', 'approved')
                                      and not loyalty_private.opens_more(o.identity_id, o.program_id));
        if not found then
            update loyalty.identity i
               set state = 'active', changed_at = loyalty.now()
             where i.identity_id = application.identity_id and i.state = 'suspended';
        end if;
    end if;
    perform loyalty_private.audit('refuse_application', application.program_id, application.identity_id, application.account_id,
        jsonb_build_object('application_id', application.application_id, 'reason', refuse_application.reason));
    return jsonb_build_object('application_id', application.application_id, 'state', 'refused');
end
$$;
comment on function loyalty.refuse_application is
    'Refuses an application; the login is good again as it was: {application_id, state}. LY002; 22023 when it is settled.';

create function loyalty.accept_login(token text, password text, password_again text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    by_mail loyalty_private.challenge;
    application loyalty.login_application;
    person loyalty.identity;
begin
    perform loyalty_private.check_passwords(accept_login.password, accept_login.password_again);
    perform loyalty_private.lock_attempts(accept_login.token);
    by_mail := loyalty_private.challenge_of_token(accept_login.token, '{login_approved}');
    if by_mail.identity_id is null then
        return loyalty_private.refuse_link();
    end if;
    perform loyalty_private.check_service_hours(by_mail.program_id);
    select a.* into application
      from loyalty.login_application a
     where a.application_id = (by_mail.details ->> 'application_id')::bigint and a.state = 'approved'
       for update;
    select i.* into person from loyalty.identity i where i.identity_id = by_mail.identity_id for update;
    if application.application_id is null or person.state <> 'suspended' or not application.has_suspended then
        return loyalty_private.refuse_link();
    end if;
    perform loyalty_private.check_new_password(loyalty_private.access_policy_of(by_mail.program_id), accept_login.password, application.login_id);
    perform loyalty_private.use_challenge(by_mail.challenge_id);
    perform loyalty_private.forgive_login(person.identity_id);
    begin
        update loyalty.identity i
           set login_id = application.login_id, state = 'active', changed_at = loyalty.now()
         where i.identity_id = person.identity_id;
    exception when unique_violation then
        return loyalty_private.refuse_link();
    end;
    update loyalty.login_application a
       set state = 'done', decided_at = loyalty.now(), has_suspended = false
     where a.application_id = application.application_id;
    perform loyalty_private.replace_password(person.identity_id, by_mail.program_id, accept_login.password);
    perform loyalty_private.forgive_login(person.identity_id);
    if person.login_id <> application.login_id then
        -- who did not apply has to hear of it
        perform loyalty_private.send_notice(by_mail.program_id, by_mail.account_id, 'login_changed',
            gen_random_uuid()::text, person.login_id);
    end if;
    perform loyalty_private.audit('accept_login', by_mail.program_id, by_mail.identity_id, by_mail.account_id,
        jsonb_build_object('application_id', application.application_id));
    return jsonb_build_object('changed', true);
end
$$;
comment on function loyalty.accept_login is
    'Ends an approved application by the token of the mailed link: the new login ID and password are set, and the login is good again: {changed: true}. The old and the new address are told. A link that is not good: the answer is LY009. Raises LY007, 22023.';
