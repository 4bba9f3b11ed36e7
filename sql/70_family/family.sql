create table loyalty.family (
    family_id bigint generated always as identity primary key,
    account_id bigint not null references loyalty.account,
    program_id integer not null references loyalty.program,
    relation text not null
        constraint family_relation_is_known check (loyalty.degree_of_kinship(relation) is not null),
    name text not null
        constraint family_name_is_short check (char_length(name) between 1 and 200),
    birth_date date not null
        constraint family_birth_date_is_sane check (birth_date >= '1850-01-01'),
    address text not null
        constraint family_address_is_clean check (address = loyalty_private.clean_login_id(address)),
    challenge_id uuid,
    invited_at timestamptz not null,
    expires_at timestamptz not null,
    approved_at timestamptz,
    registered_at timestamptz,
    ended_at timestamptz,
    identity_id bigint references loyalty.identity,
    constraint family_registers_once_approved
        check ((identity_id is null) = (registered_at is null) and (registered_at is null or approved_at is not null))
);
create unique index family_is_invited_once on loyalty.family (account_id, address) where ended_at is null;
create unique index family_by_challenge on loyalty.family (challenge_id);
create index family_by_account on loyalty.family (account_id, invited_at);
create index family_by_identity on loyalty.family (identity_id) where identity_id is not null;

comment on table loyalty.family is
    'Who was invited as whose family, and what became of it. What a registered one may do is told by identity_link and access_policy.';
comment on column loyalty.family.family_id is 'Number of the invitation.';
comment on column loyalty.family.account_id is 'Account of the member who invited.';
comment on column loyalty.family.program_id is 'Program of the account, the only one that the invitation opens.';
comment on column loyalty.family.relation is 'What the person is to the member: spouse, child, parent_in_law, … .';
comment on column loyalty.family.name is 'The person''s name, in the member''s words.';
comment on column loyalty.family.birth_date is 'Day of birth, which the person must give to register.';
comment on column loyalty.family.address is 'E-mail address or phone that the invitation goes to, which becomes the login ID.';
comment on column loyalty.family.challenge_id is 'The challenge that is waited for: the member''s approval, then the registration.';
comment on column loyalty.family.invited_at is 'When the member invited.';
comment on column loyalty.family.expires_at is 'Until when what is waited for can be done.';
comment on column loyalty.family.approved_at is 'When the member approved, from the mail.';
comment on column loyalty.family.registered_at is 'When the person registered.';
comment on column loyalty.family.ended_at is 'When it was canceled, given up after too many wrong birth dates, or the person removed or left.';
comment on column loyalty.family.identity_id is 'The person''s login.';

create table loyalty.family_spend (
    account_id bigint not null references loyalty.account,
    operation_id bigint not null,
    identity_id bigint not null references loyalty.identity,
    month date not null,
    points bigint not null,
    primary key (account_id, operation_id)
);
create index family_spend_by_month on loyalty.family_spend (identity_id, account_id, month);
comment on table loyalty.family_spend is 'What family spent of a member''s points, each operation counted once.';
comment on column loyalty.family_spend.account_id is 'The member''s account.';
comment on column loyalty.family_spend.operation_id is 'The spend.';
comment on column loyalty.family_spend.identity_id is 'Who of the family asked for it.';
comment on column loyalty.family_spend.month is 'First day of its month, in the program''s time zone.';
comment on column loyalty.family_spend.points is 'How many points.';

create function loyalty.family_state(
    expires_at timestamptz, approved_at timestamptz, registered_at timestamptz, ended_at timestamptz
) returns text
    language sql stable parallel safe
    return case when ended_at is not null and registered_at is not null then 'removed'
                when ended_at is not null then 'canceled'
                when registered_at is not null then 'registered'
                when expires_at <= loyalty.now() then 'expired'
                when approved_at is not null then 'approved'
                else 'invited' end;
comment on function loyalty.family_state is
    'Where an invitation is: invited (the member is to approve), approved (the person is to register), registered, removed (also by leaving), canceled or expired.';

create function loyalty_private.admits_family(policy loyalty.access_policy, relation text) returns boolean
    language sql immutable parallel safe
    return coalesce(policy.family_access <> 'none'
        and relation = any (policy.family_relations)
        and loyalty.degree_of_kinship(relation) <= policy.family_degree, false);
comment on function loyalty_private.admits_family is
    'Whether a program lets family of that relation in: by its relations, its highest degree, and whether it has anything for families at all.';

create function loyalty_private.check_family_relation(policy loyalty.access_policy, relation text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    admitted text := (
        select string_agg(r.name, ', ' order by loyalty.degree_of_kinship(r.name), r.name)
          from unnest(policy.family_relations) r (name)
         where loyalty_private.admits_family(policy, r.name));
begin
    if relation is null then
        perform loyalty_private.raise('22004', 'value_missing', 'relation must not be null', null,
            'Say what the person is to the member.', 'relation');
    elsif loyalty.degree_of_kinship(relation) is null then
        perform loyalty_private.raise('22023', 'relation_unknown', 'no such relation', format('%L given.', left(relation, 40)),
            'A spouse, or a relative within the second degree: docs/family.md lists them.', 'relation');
    elsif not loyalty_private.admits_family(policy, relation) then
        perform loyalty_private.raise('LY010', 'relation_not_admitted', 'the program does not admit family of this relation',
            format('%s, degree %s.', relation, loyalty.degree_of_kinship(relation)),
            coalesce('It admits: ' || admitted || '.', 'It admits no family.'), 'relation');
    end if;
end
$$;
comment on function loyalty_private.check_family_relation is
    'Refuses a relation that is none (22023) or that the program does not admit (LY010).';

create function loyalty.invite_family(account_id bigint, relation text, name text, birth_date date, address text)
    returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    member record;
    policy loyalty.access_policy;
    called text := btrim(invite_family.name);
    reached text := loyalty_private.clean_login_id(invite_family.address);
    made loyalty.family;
    asked loyalty_private.challenge;
    recent record;
begin
    select a.account_id, a.program_id, w.status, p.time_zone, i.identity_id, i.login_id into member
      from loyalty.account a
      join loyalty.program p on p.program_id = a.program_id
      left join loyalty.wallet w on w.account_id = a.account_id
      left join loyalty.identity_link l
        on l.account_id = a.account_id and l.relation = 'self' and l.ended_at is null
      left join loyalty.identity i on i.identity_id = l.identity_id and i.state = 'active'
     where a.account_id = invite_family.account_id
       -- one invitation of a member after the other: what is counted below stays so
       for no key update of a;
    if not found then
        perform loyalty_private.raise('LY002', 'no_such_account', 'no such account',
            format('Account %s does not exist.', coalesce(invite_family.account_id::text, 'null')),
            'loyalty.open_account(program, member_no) gives a member''s account.', 'account_id');
    elsif member.status <> 'open' then
        perform loyalty_private.raise('LY004',
            case member.status when 'suspended' then 'account_suspended' else 'account_closed' end,
            format('the account is %s', member.status), null, 'Only members with an open account invite.', 'account_id');
    end if;
    policy := loyalty_private.access_policy_of(member.program_id);
    perform loyalty_private.check_family_relation(policy, invite_family.relation);
    if member.login_id is null then
        perform loyalty_private.raise('LY010', 'member_without_address', 'the member has no address to approve from', null,
            'Register an e-mail address or phone as login ID first.');
    elsif called is null or char_length(called) not between 1 and 200 or called ~ '[[:cntrl:]]' then
        perform loyalty_private.raise('22023', 'name_invalid', 'name is invalid', format('%L given.', left(called, 40)),
            'Up to 200 characters in one line.', 'name');
    elsif invite_family.birth_date is null
          or invite_family.birth_date not between '1850-01-01' and timezone(member.time_zone, loyalty.now())::date then
        perform loyalty_private.raise('22023', 'birth_date_invalid', 'birth_date is invalid',
            format('%s given.', coalesce(invite_family.birth_date::text, 'null')), 'A day that has been.', 'birth_date');
    elsif reached is null then
        perform loyalty_private.raise('22023', 'not_email_or_phone', 'address is neither an e-mail address nor a phone number',
            null, 'Such as hanako@example.com or +81 90 1234 5678.', 'address');
    elsif reached = member.login_id then
        perform loyalty_private.raise('22023', 'address_is_members', 'address is the member''s own', null,
            'Give the address of the person invited.', 'address');
    end if;
    -- mails to others' addresses are no toy
    select count(*) as invitations, min(f.invited_at) as since into recent
      from loyalty.family f
     where f.account_id = member.account_id and f.invited_at > loyalty.now() - interval '1 day';
    if recent.invitations >= 20 then
        return loyalty_private.refuse_attempt(recent.since + interval '1 day' - loyalty.now());
    end if;
    update loyalty.family f
       set ended_at = loyalty.now()
     where f.account_id = member.account_id and f.address = reached and f.ended_at is null
       and f.registered_at is null and f.expires_at <= loyalty.now();
    if exists (select from loyalty.family f
                where f.account_id = member.account_id and f.address = reached and f.ended_at is null) then
        perform loyalty_private.raise('23514', 'already_invited', 'the address is already invited', null,
            'Remove that invitation first; loyalty.family lists them.', 'address');
    end if;
    insert into loyalty.family (account_id, program_id, relation, name, birth_date, address, invited_at, expires_at)
    values (member.account_id, member.program_id, invite_family.relation, called, invite_family.birth_date, reached,
            loyalty.now(), loyalty.now() + interval '1 day')
    returning * into made;
    -- of no identity: an invitation does not end that of somebody else
    asked := loyalty_private.new_challenge('family_approval', made.program_id, null, made.account_id, member.login_id,
        jsonb_build_object('name', made.name, 'relation', made.relation), interval '1 day');
    update loyalty.family f set challenge_id = asked.challenge_id where f.family_id = made.family_id;
    perform loyalty_private.audit('invite_family', made.program_id, member.identity_id, made.account_id,
        jsonb_build_object('family_id', made.family_id, 'relation', made.relation));
    return jsonb_build_object('family_id', made.family_id, 'relation', made.relation, 'name', made.name,
        'state', 'invited', 'expires_at', made.expires_at);
end
$$;
comment on function loyalty.invite_family is
    'A member invites family (A8): the member is mailed a link to approve it by, within a day. {family_id, relation, name, state, expires_at}; 22023 and 22004 for a value that cannot be, 23514 for an address that is invited already, LY010 for a relation that the program does not admit and a member without a login ID, LY002, LY004 for an account that is not open, LY008 from the 20th invitation within a day.';

create function loyalty_private.family_of_token(token text, purpose text) returns loyalty.family
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    held loyalty.family;
begin
    if token ~ '^[0-9a-f]{32}\.' then
        -- always the invitation before its challenge: nobody waits in a circle
        select f.* into held
          from loyalty.family f
         where f.challenge_id = split_part(token, '.', 1)::uuid and f.ended_at is null and f.registered_at is null
           for update;
        if found and (loyalty_private.challenge_of_token(token, array[purpose])).challenge_id = held.challenge_id then
            perform loyalty_private.check_service_hours(held.program_id);
            if not exists (
                   select from loyalty.wallet w where w.account_id = held.account_id and w.status = 'open') then
                perform loyalty_private.raise('LY004', 'account_not_open', 'the member''s account is not open', null,
                    'Ask the member.');
            end if;
            return held;
        end if;
    end if;
    perform loyalty_private.raise('LY009', 'link_invalid', 'the link is not valid', null,
        'It was used, its time is over, or the invitation was taken back: ask the member to invite again.', 'token');
    return null;
end
$$;
comment on function loyalty_private.family_of_token is
    'The invitation that a mailed link opens, held until the end of the transaction; LY009 when it opens none, LY007 outside of service hours, LY004 when the member''s account is not open.';

create function loyalty.approve_family(token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.family := loyalty_private.family_of_token(approve_family.token, 'family_approval');
    asked loyalty_private.challenge;
begin
    perform loyalty_private.check_family_relation(loyalty_private.access_policy_of(held.program_id), held.relation);
    perform loyalty_private.use_challenge(held.challenge_id);
    asked := loyalty_private.new_challenge('family_invitation', held.program_id, null, held.account_id, held.address,
        jsonb_build_object('name', held.name, 'relation', held.relation), interval '7 days');
    update loyalty.family f
       set approved_at = loyalty.now(), challenge_id = asked.challenge_id, expires_at = asked.expires_at
     where f.family_id = held.family_id;
    perform loyalty_private.audit('approve_family', held.program_id,
        (select l.identity_id from loyalty.identity_link l
          where l.account_id = held.account_id and l.relation = 'self' and l.ended_at is null),
        held.account_id, jsonb_build_object('family_id', held.family_id));
    return jsonb_build_object('family_id', held.family_id, 'relation', held.relation, 'name', held.name,
        'state', 'approved', 'expires_at', asked.expires_at);
end
$$;
comment on function loyalty.approve_family is
    'The member approves an invitation by the mailed link (A8); the person invited is mailed a link to register by, within 7 days. LY009 when the link is not good.';

create function loyalty.register_family(token text, birth_date date, password text, terms_version text)
    returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.family := loyalty_private.family_of_token(register_family.token, 'family_invitation');
    policy loyalty.access_policy := loyalty_private.access_policy_of(held.program_id);
    wait interval;
    wrong integer;
    proven record;
begin
    perform loyalty_private.check_family_relation(policy, held.relation);
    if register_family.birth_date is null or register_family.password is null then
        perform loyalty_private.raise('22004', 'value_missing', 'birth_date and password must not be null', null, 'Give both.');
    elsif register_family.terms_version is distinct from policy.terms_version then
        perform loyalty_private.raise('22023', 'terms_not_accepted', 'the terms in force were not accepted',
            format('Version %L is.', policy.terms_version), 'Accept the terms in force: pass terms_version.',
            'terms_version');
    end if;
    wait := loyalty_private.begin_attempt('code', held.challenge_id::text);
    if wait is not null then
        return loyalty_private.refuse_attempt(wait);
    end if;
    if register_family.birth_date <> held.birth_date then
        update loyalty_private.challenge c
           set failures = c.failures + 1
         where c.challenge_id = held.challenge_id
        returning c.failures into wrong;
        perform loyalty_private.attempt_failed('code', held.challenge_id::text);
        if wrong >= 5 then
            update loyalty.family f set ended_at = loyalty.now() where f.family_id = held.family_id;
        end if;
        perform loyalty_private.audit('register_family', held.program_id, null, held.account_id,
            jsonb_build_object('family_id', held.family_id, 'why', 'birth date'), 'refused');
        return loyalty_private.refuse('LY009', 'birth_date_wrong', 'the birth date is not the one of the invitation',
            format('Tries left: %s.', 5 - wrong), 'Ask the member who invited which day the invitation holds.',
            'birth_date');
    end if;
    proven := loyalty_private.prove_identity(policy, held.address, register_family.password);
    if proven.refusal is not null then
        perform loyalty_private.audit('register_family', held.program_id, null, held.account_id,
            jsonb_build_object('family_id', held.family_id, 'why', 'password'), 'refused');
        return proven.refusal;
    end if;
    perform loyalty_private.attempt_succeeded('code', held.challenge_id::text);
    insert into loyalty.identity_link as l (identity_id, account_id, program_id, relation, terms_version, linked_at)
    values (proven.identity_id, held.account_id, held.program_id, held.relation, policy.terms_version, loyalty.now())
        on conflict (identity_id, account_id) do update
       set relation = excluded.relation, terms_version = excluded.terms_version, linked_at = excluded.linked_at,
           ended_at = null
     where l.ended_at is not null;
    if not found then
        perform loyalty_private.raise('LY010', 'already_linked', 'the login is already linked to the member', null,
            'A member is not their own family; a person is not family twice.');
    end if;
    perform loyalty_private.use_challenge(held.challenge_id);
    update loyalty.family f
       set registered_at = loyalty.now(), identity_id = proven.identity_id
     where f.family_id = held.family_id;
    perform loyalty_private.audit('register_family', held.program_id, proven.identity_id, held.account_id,
        jsonb_build_object('family_id', held.family_id, 'relation', held.relation));
    return loyalty.start_session(proven.identity_id, held.program_id, 'loyalty_family', held.account_id, false);
end
$$;
comment on function loyalty.register_family is
    'The person invited registers by the mailed link (A8), and is signed in: the address becomes the login ID; where it is one already, its password is asked for. LY009 for a wrong birth date, five of which end the invitation, for a wrong password and for a link that is not good, LY008 after too many; 22004 and 22023 for a password or terms that cannot be; LY010 for a relation that the program admits no more and a login that is suspended or linked already; LY004 when the member''s account is not open, LY007 outside of service hours.';

create function loyalty_private.end_family(action text, held loyalty.family) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    is_leaving boolean := end_family.action = 'leave_family';
begin
    if held.ended_at is null then
        update loyalty.family f
           set ended_at = loyalty.now()
         where f.family_id = held.family_id
        returning f.* into held;
        perform loyalty_private.use_challenge(held.challenge_id);
        -- the sessions that it opened end with it
        update loyalty.identity_link l
           set ended_at = loyalty.now()
         where l.identity_id = held.identity_id and l.account_id = held.account_id
           and l.relation <> 'self' and l.ended_at is null;
        -- whose doing it was not hears of it
        perform loyalty_private.send_notice(held.program_id, case when is_leaving then held.account_id end, 'family_ended',
            gen_random_uuid()::text, i.login_id, jsonb_build_object('name', held.name, 'relation', held.relation))
           from loyalty.identity i
          where i.login_id is not null
            and i.identity_id = case when is_leaving then (
                    select l.identity_id
                      from loyalty.identity_link l
                     where l.account_id = held.account_id and l.relation = 'self' and l.ended_at is null)
                else held.identity_id end;
        perform loyalty_private.audit(end_family.action, held.program_id, held.identity_id, held.account_id,
            jsonb_build_object('family_id', held.family_id));
    end if;
    return jsonb_build_object('family_id', held.family_id, 'relation', held.relation, 'name', held.name,
        'state', loyalty.family_state(held.expires_at, held.approved_at, held.registered_at, held.ended_at));
end
$$;
comment on function loyalty_private.end_family is
    'For remove_family and leave_family, which hold the row: ends an invitation that has not ended yet, and what was opened by it, and tells the other side.';

create function loyalty.remove_family(account_id bigint, family_id bigint) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.family;
begin
    select f.* into held
      from loyalty.family f
     where f.family_id = remove_family.family_id and f.account_id = remove_family.account_id
       for update;
    if not found then
        perform loyalty_private.raise('LY002', 'no_such_family', 'no such family',
            format('%s given.', coalesce(remove_family.family_id::text, 'null')),
            'The family_id of an invitation is in loyalty.family.', 'family_id');
    end if;
    return loyalty_private.end_family('remove_family', held);
end
$$;
comment on function loyalty.remove_family is
    'Takes an invitation back, or removes who registered by it: their sessions end at once, and they are told by mail. Again, it answers the same and changes nothing. LY002.';

create function loyalty.leave_family(identity_id bigint, account_id bigint) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.family;
begin
    -- whoever was removed and invited again has a row for each time
    select f.* into held
      from loyalty.family f
     where f.identity_id = leave_family.identity_id and f.account_id = leave_family.account_id
     order by f.family_id desc
     limit 1
       for update;
    if not found then
        perform loyalty_private.raise('LY002', 'no_such_family', 'no such family',
            format('Person %s is no family of account %s.', coalesce(leave_family.identity_id::text, 'null'),
                coalesce(leave_family.account_id::text, 'null')), 'Who is whose family is in loyalty.family.', 'account_id');
    end if;
    return loyalty_private.end_family('leave_family', held);
end
$$;
comment on function loyalty.leave_family is
    'One of the family gives up the access to a member''s points, also where the program lets no family in any more: their sessions for it end at once, the invitation is removed, and the member is told by mail. Again, it answers the same and changes nothing. LY002.';

create function loyalty.family_account_id() returns bigint
    language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select l.account_id
          from loyalty.identity_link l
          join loyalty.identity i on i.identity_id = l.identity_id and i.state = 'active'
          join loyalty.wallet w on w.account_id = l.account_id and w.status <> 'closed'
          join loyalty.access_policy p on p.program_id = l.program_id
         where l.identity_id = loyalty.claim_identity_id()
           and l.account_id = loyalty.claim_account_id()
           and l.program_id = loyalty.claim_program_id()
           and l.relation <> 'self'
           and l.ended_at is null
           and loyalty_private.admits_family(p, l.relation));
end
$$;
comment on function loyalty.family_account_id is
    'The account of the member whose family the token''s person is, for as long as that holds and the program lets family in; else null.';

create function loyalty.spend_as_family(
    identity_id bigint,
    account_id bigint,
    points bigint,
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    policy loyalty.access_policy;
    kin record;
    was_used boolean;
    receipt loyalty.receipt;
    spent numeric;
begin
    -- spends of one person come one after the other: what is counted is what there is
    select l.program_id, l.relation, date_trunc('month', timezone(p.time_zone, loyalty.now()))::date as month into kin
      from loyalty.identity_link l
      join loyalty.program p on p.program_id = l.program_id
     where l.identity_id = spend_as_family.identity_id and l.account_id = spend_as_family.account_id
       and l.relation <> 'self' and l.ended_at is null
       for no key update of l;
    if found then
        policy := loyalty_private.access_policy_of(kin.program_id);
    end if;
    if not coalesce(loyalty_private.admits_family(policy, kin.relation) and policy.family_access = 'spend', false) then
        perform loyalty_private.raise('LY010', 'family_may_not_spend', 'family may not spend these points', null,
            'The program decides whether family sees or also spends a member''s points.');
    end if;
    was_used := loyalty_private.is_key_used(spend_as_family.account_id, spend_as_family.idempotency_key);
    receipt := loyalty.spend_fifo(
        spend_as_family.account_id, spend_as_family.points, spend_as_family.reason, spend_as_family.idempotency_key);
    if was_used then
        if not exists (
               select from loyalty.family_spend s
                where s.account_id = receipt.account_id and s.operation_id = receipt.operation_id
                  and s.identity_id = spend_as_family.identity_id) then
            perform loyalty_private.raise('LY003', 'key_reused', 'the idempotency key was used for another request',
                'Somebody else''s.', 'Use a new key.', 'idempotency_key');
        end if;
        return receipt;
    end if;
    insert into loyalty.family_spend (account_id, operation_id, identity_id, month, points)
    values (receipt.account_id, receipt.operation_id, spend_as_family.identity_id, kin.month, receipt.points)
        on conflict do nothing;
    select sum(s.points) into spent
      from loyalty.family_spend s
     where s.account_id = receipt.account_id and s.identity_id = spend_as_family.identity_id
       and s.month = kin.month;
    if spent > policy.family_monthly_limit then
        perform loyalty_private.raise('LY010', 'family_limit_exceeded', 'over the monthly limit for family',
            format('Limit %s, spent before %s, asked for %s.', policy.family_monthly_limit, spent - receipt.points,
                receipt.points), 'Spend less, or wait for the next month.', 'points');
    end if;
    return receipt;
end
$$;
comment on function loyalty.spend_as_family is
    'Spends a member''s points for one of the family, up to the program''s limit in a month of its time zone; a repeated key counts once. LY010 when it may not or the limit is passed; else as loyalty.spend_fifo.';

create function loyalty_private.identity_closed() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    update loyalty.family f
       set ended_at = loyalty.now()
     where f.identity_id = new.identity_id and f.ended_at is null;
    return null;
end
$$;
comment on function loyalty_private.identity_closed is 'Ends what a person was as family, when the person leaves.';
create trigger ends_family after update of state on loyalty.identity
    for each row when (new.state = 'closed' and old.state <> 'closed') execute function loyalty_private.identity_closed();

insert into loyalty_private.account_role (role, account_function)
values ('loyalty_family', 'loyalty.family_account_id');
