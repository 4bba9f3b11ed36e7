-- Registration (A1–A5, C8, C11, S8). The keys that an organisation hands out tell which member
-- somebody is; a code proves the login ID; then the name is shown and confirmed. Until the end
-- the person is provisional, and whether a login ID is in use is only told to who reads its mail.

create table loyalty_private.registration (
    registration_id bigint generated always as identity primary key,
    token_hash bytea not null
        constraint registration_token_is_unique unique,
    program_id integer not null references loyalty.program,
    account_id bigint not null references loyalty.account,
    stage text not null default 'begun'
        constraint registration_stage_is_known check (stage in ('begun', 'chosen', 'proven', 'confirming', 'done')),
    identity_id bigint references loyalty.identity,
    challenge_id uuid,
    terms_version text,
    created_at timestamptz not null,
    expires_at timestamptz not null
);
create index registration_by_identity on loyalty_private.registration (identity_id);
create index registration_by_expiry on loyalty_private.registration (expires_at);
comment on table loyalty_private.registration is 'Registrations under way. Nobody but the owner reads it.';
comment on column loyalty_private.registration.registration_id is 'Number of the registration.';
comment on column loyalty_private.registration.token_hash is 'Keyed hash of the token by which its steps find it.';
comment on column loyalty_private.registration.program_id is 'The program.';
comment on column loyalty_private.registration.account_id is 'The member whose keys were given.';
comment on column loyalty_private.registration.stage is
    'begun with the keys; chosen: login ID and password are there and a code is sent; proven: it was right, but the login ID is somebody''s who has to log in; confirming: the name is shown; done.';
comment on column loyalty_private.registration.identity_id is 'The provisional person, or the one who logged in to be linked (A5).';
comment on column loyalty_private.registration.challenge_id is 'The code that was sent last.';
comment on column loyalty_private.registration.terms_version is 'The terms that were accepted.';
comment on column loyalty_private.registration.created_at is 'When the keys were given.';
comment on column loyalty_private.registration.expires_at is 'Until when it can be finished.';

create function loyalty_private.registration_of(token text) returns loyalty_private.registration
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    under_way loyalty_private.registration;
begin
    select r.* into under_way
      from loyalty_private.registration r
     where r.token_hash = any (loyalty_private.keyed_hashes('registration', coalesce(registration_of.token, '')))
       and r.stage <> 'done' and r.expires_at > loyalty.now()
       for no key update;
    if not found then
        perform loyalty_private.raise('LY009', 'no_such_registration', 'no such registration',
            'It is finished, or its hour is over.', 'Begin again with organisation ID and keys.');
    end if;
    perform loyalty_private.check_service_hours(under_way.program_id);
    return under_way;
end
$$;
comment on function loyalty_private.registration_of is
    'The registration that a token is for, held until the end of the transaction; LY009 when there is none, LY007 while the program is closed.';

create function loyalty_private.registration_stage(registration loyalty_private.registration, stages text[]) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if registration.stage <> all (stages) then
        perform loyalty_private.raise('22023', 'step_out_of_order', 'this is not the next step of the registration',
            format('It is %s.', registration.stage),
            case registration.stage when 'begun' then 'Go on with loyalty.choose_login or loyalty.log_in_to_link.'
                                    when 'chosen' then 'Go on with loyalty.verify_code.'
                                    when 'proven' then 'Go on with loyalty.log_in_to_link.'
                                    else 'Go on with loyalty.confirm_registration.' end);
    end if;
end
$$;
comment on function loyalty_private.registration_stage is 'Refuses a step of a registration out of turn, with 22023 and the right one.';

create function loyalty_private.check_terms(policy loyalty.access_policy, terms_version text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if terms_version is distinct from policy.terms_version then
        perform loyalty_private.raise('22023', 'terms_not_accepted', 'the terms in force were not accepted',
            format('The terms are of version %L, %s was accepted.', policy.terms_version,
                coalesce(quote_literal(left(terms_version, 50)), 'none')),
            'Show these terms, and pass their version as terms_version.', 'terms_version');
    end if;
end
$$;
comment on function loyalty_private.check_terms is 'Refuses another version of the terms than the program has now (A2).';

create function loyalty_private.check_active_member(account_id bigint) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from loyalty.wallet w where w.account_id = check_active_member.account_id and w.status = 'open') then
        perform loyalty_private.raise('LY010', 'not_active_member', 'not an active member of the program',
            'The member''s account is closed or suspended.', 'Ask your organisation.');
    end if;
end
$$;
comment on function loyalty_private.check_active_member is 'Refuses a member whose account is closed or suspended with LY010 (A7).';

create function loyalty.begin_registration(organisation_id text, key_1 text, key_2 text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    policy loyalty.access_policy;
    given_1 text := coalesce(loyalty_private.clean_key(begin_registration.key_1), '');
    given_2 text := coalesce(loyalty_private.clean_key(begin_registration.key_2), '');
    asked_for text := lower(btrim(coalesce(begin_registration.organisation_id, '')));
    wait interval;
    holder bigint;
    proof bytea;
    token text := loyalty_private.random_token();
    finish_by timestamptz := loyalty.now() + interval '1 hour';
begin
    select p.* into policy from loyalty.access_policy p where lower(p.organisation_id) = asked_for;
    perform loyalty_private.check_service_hours(policy.program_id);
    wait := loyalty_private.begin_attempt('key', asked_for || E'\n' || given_1);
    if wait is not null then
        return loyalty_private.refuse_attempt(wait);
    end if;
    select k.account_id, k.key_2_hash into holder, proof
      from loyalty_private.member_key k
     where k.program_id = policy.program_id
       and k.key_1_hash = any (loyalty_private.keyed_hashes('key 1 ' || coalesce(policy.program_id, 0), given_1));
    if (proof = any (loyalty_private.keyed_hashes('key 2 ' || coalesce(holder, 0), given_2))) is not true then
        perform loyalty_private.attempt_failed('key', asked_for || E'\n' || given_1);
        perform loyalty_private.audit('begin_registration', policy.program_id, account_id => holder, outcome => 'refused');
        return loyalty_private.refuse('LY009', 'wrong_keys', 'wrong organisation ID or keys', null,
            'Type them as your organisation wrote them; an administrator issues new keys for lost ones.');
    end if;
    perform loyalty_private.attempt_succeeded('key', asked_for || E'\n' || given_1);
    perform loyalty_private.check_active_member(holder);
    perform loyalty_private.check_unregistered(holder);
    insert into loyalty_private.registration (token_hash, program_id, account_id, created_at, expires_at)
    values ((loyalty_private.keyed_hashes('registration', token))[1], policy.program_id, holder, loyalty.now(), finish_by);
    perform loyalty_private.audit('begin_registration', policy.program_id, account_id => holder);
    return (select jsonb_build_object(
                'registration', token, 'expires_at', finish_by,
                'program', p.code, 'program_name', p.name,
                'terms_version', policy.terms_version, 'terms_url', policy.terms_url,
                'asks_details', policy.asks_details, 'allows_member_no', policy.allows_member_no,
                'password', jsonb_build_object(
                    'length', policy.password_length, 'letters', policy.password_letters,
                    'digits', policy.password_digits, 'symbols', policy.password_symbols))
              from loyalty.program p
             where p.program_id = policy.program_id);
end
$$;
comment on function loyalty.begin_registration is
    'Begins a registration with the organisation ID and the member''s keys (A1): {registration, expires_at, program, program_name, terms_version, terms_url, asks_details, allows_member_no, password}. registration is the token of the next steps, good for an hour. Wrong keys are refused with LY009 and counted (LY008); a member who is registered already, or not active, with LY010.';

create function loyalty_private.check_unregistered(account_id bigint) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from loyalty.identity_link l
                where l.account_id = check_unregistered.account_id and l.relation = 'self' and l.ended_at is null) then
        perform loyalty_private.raise('LY010', 'already_registered', 'the member is already registered', null,
            'Log in; who forgot the password or the login ID finds the way back in there.');
    end if;
end
$$;
comment on function loyalty_private.check_unregistered is 'Refuses a member whom somebody logs in as already with LY010.';

create function loyalty_private.send_code(registration loyalty_private.registration) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    address text;
    is_taken boolean;
    sent loyalty_private.challenge;
begin
    select i.login_id into strict address from loyalty.identity i where i.identity_id = registration.identity_id;
    is_taken := exists (select from loyalty.identity i
                         where i.login_id = address and i.state in ('active', 'suspended', 'locked'));
    update loyalty_private.challenge c set used_at = loyalty.now()
     where c.challenge_id = registration.challenge_id and c.used_at is null;
    sent := loyalty_private.new_challenge(case when is_taken then 'login_in_use' else 'verification_code' end,
        registration.program_id, registration.identity_id, registration.account_id, address);
    update loyalty_private.registration r
       set stage = 'chosen', challenge_id = sent.challenge_id
     where r.registration_id = registration.registration_id;
    return jsonb_build_object('next', 'verify_code', 'sent_to', address, 'code_expires_at', sent.expires_at);
end
$$;
comment on function loyalty_private.send_code is
    'Sends the code of a registration (A3): to a login ID in use with another text, but the same answer.';

create function loyalty.choose_login(registration text, login_id text, password text, terms_version text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    under_way loyalty_private.registration := loyalty_private.registration_of(choose_login.registration);
    policy loyalty.access_policy := loyalty_private.access_policy_of(under_way.program_id);
    address text := loyalty_private.clean_login_id(nullif(btrim(choose_login.login_id), ''));
    wait interval;
begin
    perform loyalty_private.registration_stage(under_way, '{begun,chosen}');
    if nullif(btrim(choose_login.login_id), '') is null and not policy.allows_member_no then
        perform loyalty_private.raise('22004', 'value_missing', 'login_id must not be null', null,
            'An e-mail address or a phone number.', 'login_id');
    elsif address is null and nullif(btrim(choose_login.login_id), '') is not null then
        perform loyalty_private.raise('22023', 'not_email_or_phone', 'login_id is neither an e-mail address nor a phone number',
            null, 'Such as hanako@example.com, 090-1234-5678 or +44 20 7946 0018.', 'login_id');
    end if;
    perform loyalty_private.check_terms(policy, choose_login.terms_version);
    perform loyalty_private.check_new_password(policy, choose_login.password, address);
    if address is not null then
        wait := loyalty_private.begin_attempt('send', address, false);
        if wait is not null then
            return loyalty_private.refuse_attempt(wait);
        end if;
        perform loyalty_private.attempt_failed('send', address, false);
    end if;
    -- who chooses again mistyped the address: the provisional person stays the same
    if under_way.identity_id is null then
        insert into loyalty.identity (login_id, created_at, changed_at)
        values (address, loyalty.now(), loyalty.now())
        returning identity_id into under_way.identity_id;
    else
        update loyalty.identity i
           set login_id = address, changed_at = loyalty.now()
         where i.identity_id = under_way.identity_id;
    end if;
    perform loyalty_private.set_password(under_way.identity_id, choose_login.password);
    update loyalty_private.registration r
       set identity_id = under_way.identity_id, terms_version = choose_login.terms_version,
           stage = case when address is null then 'confirming' else 'chosen' end
     where r.registration_id = under_way.registration_id;
    perform loyalty_private.audit('choose_login', under_way.program_id, under_way.identity_id, under_way.account_id,
        jsonb_build_object('terms_version', choose_login.terms_version));
    if address is null then
        return loyalty_private.registration_name(under_way);
    end if;
    return loyalty_private.send_code(under_way);
end
$$;
comment on function loyalty.choose_login is
    'Takes login ID, password and the version of the terms that was accepted (A2), and sends a code to the login ID (A3): {next: verify_code, sent_to, code_expires_at}, whether or not somebody has that login ID. Where the program lets members in by member number, login_id may be left out (S8): {next: confirm, …} at once. 22023 or 22004 for what the program does not take, LY008 after too many codes to one address.';

create function loyalty_private.registration_name(registration loyalty_private.registration) returns jsonb
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select jsonb_build_object('next', 'confirm', 'name', m.name, 'member_no', a.member_no,
               'program', p.code, 'program_name', p.name, 'asks_details', coalesce(o.asks_details, false))
      from loyalty.account a
      join loyalty.program p on p.program_id = a.program_id
      left join loyalty.access_policy o on o.program_id = a.program_id
      left join loyalty.member m on m.account_id = a.account_id
     where a.account_id = registration.account_id;
end;
comment on function loyalty_private.registration_name is 'The name that is shown to be confirmed (A4), and what else the last step asks for.';

create function loyalty.resend_code(registration text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    under_way loyalty_private.registration := loyalty_private.registration_of(resend_code.registration);
    address text;
    wait interval;
begin
    perform loyalty_private.registration_stage(under_way, '{chosen}');
    select i.login_id into strict address from loyalty.identity i where i.identity_id = under_way.identity_id;
    wait := loyalty_private.begin_attempt('send', address, false);
    if wait is not null then
        return loyalty_private.refuse_attempt(wait);
    end if;
    perform loyalty_private.attempt_failed('send', address, false);
    perform loyalty_private.audit('resend_code', under_way.program_id, under_way.identity_id, under_way.account_id);
    return loyalty_private.send_code(under_way);
end
$$;
comment on function loyalty.resend_code is
    'Sends a new code, and makes the one before no longer good; answers as choose_login does. LY008 after too many to one address.';

create function loyalty.verify_code(registration text, code text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    under_way loyalty_private.registration := loyalty_private.registration_of(verify_code.registration);
    subject text := 'registration ' || under_way.account_id;
    address text;
    wait interval;
begin
    perform loyalty_private.registration_stage(under_way, '{chosen}');
    wait := loyalty_private.begin_attempt('code', subject);
    if wait is not null then
        return loyalty_private.refuse_attempt(wait);
    end if;
    if not loyalty_private.try_code(under_way.challenge_id,
            regexp_replace(normalize(verify_code.code, nfkc), '[^0-9]', '', 'g')) then
        perform loyalty_private.attempt_failed('code', subject);
        perform loyalty_private.audit('verify_code', under_way.program_id, under_way.identity_id, under_way.account_id,
            outcome => 'refused');
        return loyalty_private.refuse('LY009', 'wrong_code', 'wrong code',
            'It may be mistyped, used, replaced by a newer one, or its time is over.',
            'Type the code of the last message, or ask for a new one with loyalty.resend_code.', 'code');
    end if;
    select i.login_id into strict address from loyalty.identity i where i.identity_id = under_way.identity_id;
    perform loyalty_private.attempt_succeeded('code', subject);
    perform loyalty_private.attempt_succeeded('send', address, false);
    perform loyalty_private.use_challenge(under_way.challenge_id);
    perform loyalty_private.audit('verify_code', under_way.program_id, under_way.identity_id, under_way.account_id);
    return loyalty_private.take_proof(under_way, address);
end
$$;
comment on function loyalty.verify_code is
    'Takes the code that was sent (A3): {next: confirm, name, …} shows the name to be confirmed (A4), {next: log_in} says that the login ID is somebody''s already, who logs in to be linked (A5). A wrong code is refused with LY009 and counted (LY008); five end it.';

create function loyalty_private.take_proof(registration loyalty_private.registration, login_id text) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    is_taken boolean := exists (select from loyalty.identity i
                                 where i.login_id = take_proof.login_id and i.state in ('active', 'suspended', 'locked'));
begin
    update loyalty_private.registration r
       set stage = case when is_taken then 'proven' else 'confirming' end
     where r.registration_id = take_proof.registration.registration_id;
    return case when is_taken then jsonb_build_object('next', 'log_in', 'login_id', take_proof.login_id)
                else loyalty_private.registration_name(take_proof.registration) end;
end
$$;
comment on function loyalty_private.take_proof is
    'Goes on with a registration whose login ID is proven: to the name, or to log in where somebody has that login ID.';

create function loyalty.log_in_to_link(registration text, login_id text, password text, terms_version text default null)
    returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    under_way loyalty_private.registration := loyalty_private.registration_of(log_in_to_link.registration);
    accepted text := coalesce(log_in_to_link.terms_version, under_way.terms_version);
    proof record;
begin
    perform loyalty_private.check_terms(loyalty_private.access_policy_of(under_way.program_id), accepted);
    select * into strict proof from loyalty_private.prove_password(log_in_to_link.login_id, log_in_to_link.password);
    if proof.refusal is not null then
        perform loyalty_private.audit('log_in_to_link', under_way.program_id, account_id => under_way.account_id, outcome => 'refused');
        return proof.refusal;
    end if;
    update loyalty_private.challenge c set used_at = loyalty.now()
     where c.challenge_id = under_way.challenge_id and c.used_at is null;
    update loyalty_private.registration r
       set identity_id = proof.identity_id, challenge_id = null, terms_version = accepted, stage = 'confirming'
     where r.registration_id = under_way.registration_id;
    perform loyalty_private.drop_provisional(under_way.identity_id);
    perform loyalty_private.audit('log_in_to_link', under_way.program_id, proof.identity_id, under_way.account_id,
        jsonb_build_object('terms_version', accepted));
    return loyalty_private.registration_name(under_way);
end
$$;
comment on function loyalty.log_in_to_link is
    'Links the member to a login that the person has already (A5), at the beginning of a registration or when verify_code said log_in: {next: confirm, name, …}. terms_version: the program''s terms, unless choose_login took them. Wrong credentials are LY009, and counted as those of log_in are.';

create function loyalty_private.drop_provisional(identity_id bigint) returns void
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    update loyalty_private.challenge c set used_at = coalesce(c.used_at, loyalty.now()), identity_id = null
     where c.identity_id = drop_provisional.identity_id
       and exists (select from loyalty.identity i
                    where i.identity_id = drop_provisional.identity_id and i.state = 'provisional');
    delete from loyalty_private.credential c
     using loyalty.identity i
     where c.identity_id = drop_provisional.identity_id and i.identity_id = c.identity_id and i.state = 'provisional';
    delete from loyalty.identity i
     where i.identity_id = drop_provisional.identity_id and i.state = 'provisional';
end;
comment on function loyalty_private.drop_provisional is 'Forgets a person who never finished registering, with the password.';

create function loyalty_private.check_details(registration loyalty_private.registration, kana text, birth_date date) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    subject text := 'details ' || registration.account_id;
    on_record record;
    given text;
    wait interval;
begin
    if check_details.kana is null or check_details.birth_date is null then
        perform loyalty_private.raise('22004', 'value_missing', 'kana and birth_date must not be null', null,
            'The program asks for the reading of the name, in katakana, and for the birth date.');
    end if;
    select p.code, m.kana, m.birth_date into strict on_record
      from loyalty.program p
      left join loyalty.member m on m.account_id = registration.account_id
     where p.program_id = registration.program_id;
    if on_record.kana is null or on_record.birth_date is null then
        perform loyalty_private.raise('LY010', 'record_incomplete', 'the member record has nothing to compare with', null,
            'Ask your organisation to enter kana and birth date.');
    end if;
    given := loyalty_private.clean_member(json_build_object('kana', check_details.kana), loyalty.today(on_record.code)) ->> 'kana';
    wait := loyalty_private.begin_attempt('key', subject);
    if wait is not null then
        return loyalty_private.refuse_attempt(wait);
    end if;
    -- where a name has spaces or dots, people do not agree
    if regexp_replace(given, '[[:space:]・]', '', 'g') = regexp_replace(on_record.kana, '[[:space:]・]', '', 'g')
       and check_details.birth_date = on_record.birth_date then
        perform loyalty_private.attempt_succeeded('key', subject);
        return null;
    end if;
    perform loyalty_private.attempt_failed('key', subject);
    perform loyalty_private.audit('confirm_registration', registration.program_id, registration.identity_id,
        registration.account_id, outcome => 'refused');
    return loyalty_private.refuse('LY009', 'details_wrong', 'these are not the details of the member record', null,
        'Type the reading of your name and your birth date as your organisation has them.');
end
$$;
comment on function loyalty_private.check_details is
    'Compares kana and birth date with the member record (C11): null when they are right, else what refuses the attempt, which is counted.';

create function loyalty_private.link_member(registration loyalty_private.registration) returns text
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    person loyalty.identity;
begin
    select i.* into strict person
      from loyalty.identity i
     where i.identity_id = registration.identity_id
       for no key update;
    if person.state = 'provisional' then
        begin
            update loyalty.identity i
               set state = 'active', changed_at = loyalty.now()
             where i.identity_id = person.identity_id;
        exception when unique_violation then
            -- somebody finished with the same login ID first
            return person.login_id;
        end;
    elsif person.state <> 'active' then
        perform loyalty_private.raise('LY010', 'login_suspended', 'the login is suspended', null, 'Ask your organisation.');
    elsif exists (select from loyalty.identity_link l
                   where l.identity_id = person.identity_id and l.program_id = registration.program_id
                     and l.account_id <> registration.account_id and l.relation = 'self' and l.ended_at is null) then
        perform loyalty_private.raise('LY010', 'login_of_other_member', 'the login belongs to another member of the program', null,
            'Register with a login ID of its own.');
    end if;
    begin
        insert into loyalty.identity_link as l
               (identity_id, account_id, program_id, relation, terms_version, linked_at)
        values (person.identity_id, registration.account_id, registration.program_id, 'self',
                registration.terms_version, loyalty.now())
            on conflict (identity_id, account_id) do update
           set relation = 'self', terms_version = excluded.terms_version, linked_at = excluded.linked_at,
               ended_at = null;
    exception when unique_violation then
        perform loyalty_private.raise('LY010', 'already_registered', 'the member is already registered', null,
            'Log in; who forgot the password or the login ID finds the way back in there.');
    end;
    perform loyalty_private.fill_contact(registration.account_id, person.login_id);
    return null;
end
$$;
comment on function loyalty_private.link_member is
    'Makes the person of a registration the member, for good. Answers with the login ID when that turns out to be another person''s by now, else null; LY010 when the member or the person cannot be linked any more.';

create function loyalty_private.fill_contact(account_id bigint, login_id text) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    missing record;
begin
    select p.code, a.member_no, m.email is null as email, m.phone is null as phone into strict missing
      from loyalty.account a
      join loyalty.program p on p.program_id = a.program_id
      left join loyalty.member m on m.account_id = a.account_id
     where a.account_id = fill_contact.account_id;
    if strpos(fill_contact.login_id, '@') > 0 and missing.email then
        perform loyalty.set_member(missing.code, missing.member_no, email => fill_contact.login_id);
    elsif strpos(fill_contact.login_id, '@') = 0 and missing.phone then
        perform loyalty.set_member(missing.code, missing.member_no, phone => fill_contact.login_id);
    end if;
end
$$;
comment on function loyalty_private.fill_contact is
    'Writes a proven login ID into the member''s record as e-mail address or phone, where the record has none.';

create function loyalty.confirm_registration(
    registration text,
    is_right_name boolean,
    kana text default null,
    birth_date date default null
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    under_way loyalty_private.registration := loyalty_private.registration_of(confirm_registration.registration);
    policy loyalty.access_policy := loyalty_private.access_policy_of(under_way.program_id);
    refusal jsonb;
    taken_login_id text;
begin
    perform loyalty_private.registration_stage(under_way, '{confirming}');
    if confirm_registration.is_right_name is null then
        perform loyalty_private.raise('22004', 'value_missing', 'is_right_name must not be null', null,
            'true when the name that is shown is the person''s own, else false.', 'is_right_name');
    elsif not confirm_registration.is_right_name then
        update loyalty_private.registration r
           set stage = 'done', identity_id = null, challenge_id = null
         where r.registration_id = under_way.registration_id;
        perform loyalty_private.drop_provisional(under_way.identity_id);
        perform loyalty_private.audit('confirm_registration', under_way.program_id, account_id => under_way.account_id,
            outcome => 'refused');
        return loyalty_private.refuse('LY010', 'name_not_confirmed', 'the registration has ended', 'The name was not confirmed.',
            'Ask your organisation whose keys they are.', 'is_right_name');
    end if;
    if policy.asks_details then
        refusal := loyalty_private.check_details(under_way, confirm_registration.kana, confirm_registration.birth_date);
        if refusal is not null then
            return refusal;
        end if;
    end if;
    perform loyalty_private.check_active_member(under_way.account_id);
    taken_login_id := loyalty_private.link_member(under_way);
    if taken_login_id is not null then
        return loyalty_private.take_proof(under_way, taken_login_id);
    end if;
    update loyalty_private.registration r set stage = 'done' where r.registration_id = under_way.registration_id;
    perform loyalty_private.audit('confirm_registration', under_way.program_id, under_way.identity_id, under_way.account_id,
        jsonb_build_object('terms_version', under_way.terms_version));
    return loyalty.start_session(under_way.identity_id, under_way.program_id, 'member', under_way.account_id, false);
end
$$;
comment on function loyalty.confirm_registration is
    'Ends a registration: the name that was shown is the person''s own (A4), and kana and birth date are those of the member record where the program asks for them (C11). Answers with a session, as log_in does; {next: log_in} when somebody else finished with the same login ID meanwhile. A wrong name gives the registration up (LY010), wrong details are LY009 and counted (LY008).';

create function loyalty_private.prove_identity(
    policy loyalty.access_policy, login_id text, password text, out identity_id bigint, out refusal jsonb
) returns record
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    proof record;
begin
    insert into loyalty.identity (login_id, state, created_at, changed_at)
    values (prove_identity.login_id, 'active', loyalty.now(), loyalty.now())
        on conflict (login_id) where state in ('active', 'suspended', 'locked') do nothing
    returning identity_id into prove_identity.identity_id;
    if found then
        perform loyalty_private.check_new_password(policy, prove_identity.password, prove_identity.login_id);
        perform loyalty_private.set_password(prove_identity.identity_id, prove_identity.password);
        return;
    end if;
    proof := loyalty_private.prove_password(prove_identity.login_id, coalesce(prove_identity.password, ''));
    if proof.refusal is null then
        prove_identity.identity_id := proof.identity_id;
    elsif proof.refusal ->> 'code' = 'LY009' then
        -- only who holds the address learns that it is a login ID already
        refusal := proof.refusal || jsonb_build_object(
            'details', 'The address is the ID of a login that there is already.',
            'hint', 'Give the password of that login, or reset it first.');
    else
        refusal := proof.refusal;
    end if;
end
$$;
comment on function loyalty_private.prove_identity is
    'The login of who holds an address: the one there is, by its password, else a new one with that password. Either identity_id or refusal, the body of an answer.';
