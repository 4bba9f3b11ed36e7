create table loyalty.granter_grant (
    account_id bigint not null references loyalty.account,
    operation_id bigint not null,
    identity_id bigint not null references loyalty.identity,
    program_id integer not null references loyalty.program,
    month date not null,
    points bigint not null,
    primary key (account_id, operation_id)
);
create index granter_grant_by_month on loyalty.granter_grant (identity_id, program_id, month);
comment on table loyalty.granter_grant is 'What granters gave away over HTTP, each operation counted once.';
comment on column loyalty.granter_grant.account_id is 'Who got the points.';
comment on column loyalty.granter_grant.operation_id is 'The grant.';
comment on column loyalty.granter_grant.identity_id is 'The granter.';
comment on column loyalty.granter_grant.program_id is 'Program of the account.';
comment on column loyalty.granter_grant.month is 'First day of the grant''s month, in the program''s time zone.';
comment on column loyalty.granter_grant.points is 'How many points.';

create function loyalty.role_state(accepted_at timestamptz, taken_at timestamptz) returns text
    language sql immutable parallel safe
    return case when taken_at is not null then 'taken' when accepted_at is null then 'offered' else 'held' end;
comment on function loyalty.role_state is 'Whether a role is held, offered, or was taken.';

create function loyalty_private.role_answer(given loyalty.program_role) returns jsonb
    language sql stable set search_path = pg_catalog, pg_temp
    return jsonb_build_object('role_id', given.role_id,
        'program', (select p.code from loyalty.program p where p.program_id = given.program_id),
        'role', given.role, 'login_id', given.login_id, 'monthly_budget', given.monthly_budget,
        'state', loyalty.role_state(given.accepted_at, given.taken_at));
comment on function loyalty_private.role_answer is 'A role as give_role and take_role answer it.';

create function loyalty.give_role(program text, login_id text, role text, monthly_budget bigint default null)
    returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := case when give_role.role is distinct from 'operator' or give_role.program is not null
                           then loyalty.program_id(give_role.program) end;
    reached text := loyalty_private.clean_login_id(give_role.login_id);
    person bigint;
    given loyalty.program_role;
    asked loyalty_private.challenge;
begin
    if give_role.role is null or give_role.role not in ('granter', 'admin', 'operator') then
        perform loyalty_private.raise('22023', 'role_unknown', 'no such role', format('%L given.', left(give_role.role, 40)),
            'granter, admin or operator.', 'role');
    elsif give_role.role = 'operator' and within is not null then
        perform loyalty_private.raise('22023', 'operator_has_no_program', 'an operator belongs to no program', null,
            'Leave program out.', 'program');
    elsif reached is null then
        perform loyalty_private.raise('22023', 'not_email_or_phone', 'login_id is neither an e-mail address nor a phone number',
            null, 'Such as hanako@example.com or +81 90 1234 5678.', 'login_id');
    elsif give_role.monthly_budget is not null and give_role.role <> 'granter' then
        perform loyalty_private.raise('22023', 'budget_not_allowed', 'only granters have a budget',
            format('%s given.', give_role.role), 'Leave monthly_budget out.', 'monthly_budget');
    elsif give_role.monthly_budget < 0 then
        perform loyalty_private.raise('22023', 'out_of_range', 'monthly_budget is below zero',
            format('%s given.', give_role.monthly_budget), 'Points from 0, or null for no limit.', 'monthly_budget');
    end if;
    select i.identity_id into person
      from loyalty.identity i
     where i.login_id = reached and i.state in ('active', 'suspended', 'locked')
       -- an administrator does not learn who has a login elsewhere: such people accept by mail
       and (loyalty_private.api_role() <> 'loyalty_admin'
            or exists (select from loyalty.identity_link l
                        where l.identity_id = i.identity_id and l.program_id = within and l.ended_at is null)
            or exists (select from loyalty.program_role r
                        where r.identity_id = i.identity_id and r.program_id = within and r.taken_at is null));
    if person is null then
        if within is null then
            perform loyalty_private.raise('LY002', 'no_such_login', 'no such login', null,
                'An operator has a login before the role.', 'login_id');
        end if;
        perform loyalty_private.access_policy_of(within);
    end if;
    loop
        -- given again, the budget changes and nothing else
        update loyalty.program_role r
           set monthly_budget = give_role.monthly_budget
         where r.program_id is not distinct from within
           and r.role = give_role.role
           and r.taken_at is null
           and (r.identity_id = person or r.identity_id is null and r.login_id = reached and person is null)
        returning r.* into given;
        exit when found;
        insert into loyalty.program_role
               (program_id, role, identity_id, login_id, monthly_budget, given_at, given_by, accepted_at)
        values (within, give_role.role, person, reached, give_role.monthly_budget, loyalty.now(), loyalty_private.actor(),
                case when person is not null then loyalty.now() end)
            -- somebody gave it this moment: then this is again
            on conflict do nothing
        returning * into given;
        exit when found;
    end loop;
    if given.identity_id is null then
        if given.challenge_id is not null then
            perform loyalty_private.use_challenge(given.challenge_id);
        end if;
        asked := loyalty_private.new_challenge('staff_invitation', within, null, null, reached,
            jsonb_build_object('role', given.role), interval '7 days');
        update loyalty.program_role r set challenge_id = asked.challenge_id where r.role_id = given.role_id;
    end if;
    perform loyalty_private.audit('give_role', within, given.identity_id, null,
        jsonb_build_object('role_id', given.role_id, 'role', given.role, 'monthly_budget', given.monthly_budget));
    return loyalty_private.role_answer(given);
end
$$;
comment on function loyalty.give_role is
    'Makes a person granter or admin of a program, or operator. Who has no login in the program yet is mailed an offer, good for 7 days. Given again it sets a granter''s budget, to no limit where monthly_budget is left out, and sends an open offer anew. {role_id, program, role, login_id, monthly_budget, state}; 22023, LY002; LY010 for an offer in a program without an access policy.';

create function loyalty.accept_invitation(token text, password text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    offered loyalty.program_role;
    proven record;
begin
    if accept_invitation.token ~ '^[0-9a-f]{32}\.' then
        select r.* into offered
          from loyalty.program_role r
         where r.challenge_id = split_part(accept_invitation.token, '.', 1)::uuid
           and r.identity_id is null and r.taken_at is null
           for update;
    end if;
    if offered.role_id is null
       or (loyalty_private.challenge_of_token(accept_invitation.token, '{staff_invitation}')).challenge_id is null then
        perform loyalty_private.raise('LY009', 'link_invalid', 'the link is not valid', null,
            'It was used, its time is over, or the offer was taken back: ask an administrator for another.', 'token');
    end if;
    perform loyalty_private.check_service_hours(offered.program_id);
    proven := loyalty_private.prove_identity(
        loyalty_private.access_policy_of(offered.program_id), offered.login_id, accept_invitation.password);
    if proven.refusal is not null then
        perform loyalty_private.audit('accept_invitation', offered.program_id, null, null,
            jsonb_build_object('role_id', offered.role_id), 'refused');
        return proven.refusal;
    end if;
    perform loyalty_private.use_challenge(offered.challenge_id);
    begin
        update loyalty.program_role r
           set identity_id = proven.identity_id, accepted_at = loyalty.now()
         where r.role_id = offered.role_id;
    exception when unique_violation then
        -- maybe given this moment
        perform loyalty_private.raise('LY010', 'role_already_held', 'the login already has this role', null, 'Log in.');
    end;
    perform loyalty_private.audit('accept_invitation', offered.program_id, proven.identity_id, null,
        jsonb_build_object('role_id', offered.role_id, 'role', offered.role));
    return loyalty.start_session(proven.identity_id, offered.program_id, 'loyalty_' || offered.role, null, false);
end
$$;
comment on function loyalty.accept_invitation is
    'Accepts a role by the mailed link, and signs the person in: the address becomes the login ID with that password; where it is one already, its password is asked for. LY009 for a link that is not good or a wrong password, LY008 after too many, 22004 and 22023 for a password that cannot be, LY010 for a login that is suspended or has the role already, LY007 outside of service hours.';

create function loyalty.take_role(role_id bigint) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.program_role;
begin
    select r.* into held from loyalty.program_role r where r.role_id = take_role.role_id;
    if not found then
        perform loyalty_private.raise('LY002', 'no_such_role', 'no such role',
            format('%s given.', coalesce(take_role.role_id::text, 'null')), 'The role_id is in loyalty.program_role.', 'role_id');
    end if;
    -- all who have the same, in one order: of two who go at the same time one stays
    perform r.role_id
       from loyalty.program_role r
      where r.program_id is not distinct from held.program_id and r.role = held.role and r.taken_at is null
      order by r.role_id
        for update;
    select r.* into held from loyalty.program_role r where r.role_id = take_role.role_id;
    if held.taken_at is null then
        -- whoever takes it: of two who take each other's at once, one stays
        if held.role <> 'granter' and held.identity_id is not null and loyalty.claim_identity_id() is not null
           and (held.role = 'operator' or loyalty_private.api_role() = 'loyalty_admin') and not exists (
               select from loyalty.program_role r
                 join loyalty.identity i on i.identity_id = r.identity_id and i.state in ('active', 'locked')
                where r.program_id is not distinct from held.program_id and r.role = held.role
                  and r.taken_at is null and r.identity_id <> held.identity_id) then
            perform loyalty_private.raise('LY010', 'last_of_role', format('you are the last %s', held.role),
                'Nobody could give the role any more.', 'Give it to somebody else first.', 'role_id');
        end if;
        update loyalty.program_role r
           set taken_at = loyalty.now(), taken_by = loyalty_private.actor()
         where r.role_id = held.role_id
        returning r.* into held;
        if held.challenge_id is not null then
            perform loyalty_private.use_challenge(held.challenge_id);
        end if;
        if held.identity_id is not null then
            perform loyalty.end_sessions(identity_id => held.identity_id, program_id => held.program_id,
                role => 'loyalty_' || held.role);
        end if;
        perform loyalty_private.audit('take_role', held.program_id, held.identity_id, null,
            jsonb_build_object('role_id', held.role_id, 'role', held.role));
    end if;
    return loyalty_private.role_answer(held);
end
$$;
comment on function loyalty.take_role is
    'Takes a role, or the offer of one, away: the sessions in it end at once. Again, it answers the same and changes nothing. LY002; LY010 for who is the last administrator or operator and would take their own.';

create function loyalty.login_id_in_role(role_id bigint) returns text
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(i.login_id, r.login_id)
          from loyalty.program_role r
          left join loyalty.identity i on i.identity_id = r.identity_id
         where r.role_id = login_id_in_role.role_id
           and (pg_has_role(loyalty_private.api_role(), 'loyalty_operator', 'member')
                or loyalty_private.api_role() = 'loyalty_admin' and r.program_id = loyalty.claim_program_id()));
end
$$;
comment on function loyalty.login_id_in_role is
    'The login ID of who has a role, as it is now, for an administrator of the program; null for others.';

-- Granting over HTTP: budgets and what takes two

create function loyalty_private.lock_budget(program_id integer) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    person bigint := loyalty.claim_identity_id();
    budget bigint;
begin
    if loyalty_private.api_role() <> 'loyalty_granter' or person is null then
        return;
    end if;
    select r.monthly_budget into budget
      from loyalty.program_role r
     where r.identity_id = person and r.program_id = lock_budget.program_id
       and r.role = 'granter' and r.taken_at is null;
    if not found then
        perform loyalty_private.raise('LY010', 'not_in_role', 'not a granter of the program any more', null,
            'Ask an administrator for the role.');
    elsif budget is not null then
        perform 1
           from loyalty.program_role r
          where r.identity_id = person and r.program_id = lock_budget.program_id
            and r.role = 'granter' and r.taken_at is null
            for no key update;
    end if;
end
$$;
comment on function loyalty_private.lock_budget is
    'Before a granter''s grants: whether the person still is one; has calls of one with a budget come one after the other.';

create function loyalty_private.count_grants(program_id integer, operation_ids bigint[]) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    person bigint := loyalty.claim_identity_id();
    this_month date;
    budget bigint;
    granted numeric;
    newly numeric;
begin
    if loyalty_private.api_role() <> 'loyalty_granter' or person is null then
        return;
    end if;
    select date_trunc('month', timezone(p.time_zone, loyalty.now()))::date into this_month
      from loyalty.program p
     where p.program_id = count_grants.program_id;
    -- a key may have found somebody else's grant
    with counted as (
        insert into loyalty.granter_grant (account_id, operation_id, identity_id, program_id, month, points)
        select e.account_id, o.operation_id, person, p.program_id,
               date_trunc('month', timezone(p.time_zone, e.occurred_at))::date, e.points
          from unnest(operation_ids) o (operation_id)
          join loyalty.entry e
            on e.account_id = o.operation_id >> 24 and e.entry = (o.operation_id & 16777215)::integer
           and e.actor = loyalty_private.actor()
          join loyalty.program p on p.program_id = count_grants.program_id
            on conflict do nothing
        returning points)
    select sum(c.points) into newly from counted c;
    select r.monthly_budget into budget
      from loyalty.program_role r
     where r.identity_id = person and r.program_id = count_grants.program_id
       and r.role = 'granter' and r.taken_at is null;
    if newly is null or budget is null then
        return;
    end if;
    select sum(g.points) into granted
      from loyalty.granter_grant g
     where g.identity_id = person and g.program_id = count_grants.program_id and g.month = this_month;
    if granted > budget then
        perform loyalty_private.raise('LY010', 'budget_exceeded', 'over the monthly budget',
            format('Budget %s, granted before %s, asked for %s.', budget, granted - newly, newly),
            'Grant less, wait for the next month, or ask an administrator.', 'points');
    end if;
end
$$;
comment on function loyalty_private.count_grants is
    'After a granter''s grants: counts those not counted before to their month, and refuses what passes the budget with LY010, which undoes them.';

create function loyalty_private.check_approval(program_id integer, points bigint) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    above bigint := (select p.approval_above from loyalty.access_policy p where p.program_id = check_approval.program_id);
begin
    if check_approval.points > above then
        perform loyalty_private.raise('LY010', 'approval_needed', 'so many points need two administrators',
            format('%s asked for; one may grant up to %s.', check_approval.points, above),
            'One administrator proposes it with loyalty.propose_grant, another approves it with loyalty.approve_grant.', 'points');
    end if;
end
$$;
comment on function loyalty_private.check_approval is 'Refuses a grant of more points than one person may give in the program with LY010.';

create function loyalty_private.end_grant(action text, receipt loyalty.receipt, was_used boolean) returns loyalty.receipt
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    program integer := loyalty_private.account_program_id(receipt.account_id);
begin
    if not was_used then
        perform loyalty_private.check_approval(program, receipt.points);
    end if;
    perform loyalty_private.count_grants(program, array[receipt.operation_id]);
    return loyalty_private.audit_operation(action, receipt);
end
$$;
comment on function loyalty_private.end_grant is
    'After a grant over HTTP: whether one person may give so much (asked of new ones only: a key keeps its answer), the granter''s budget, the audit.';

create function loyalty_private.items_used(program_id integer, items jsonb) returns bigint[]
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if not exists (
           select from loyalty.access_policy p
            where p.approval_above is not null
              and (p.program_id = items_used.program_id or items_used.program_id is null)) then
        return '{}'::bigint[];
    end if;
    return array(
        select (e.account_id << 24) | e.entry
          from jsonb_array_elements(case jsonb_typeof(items) when 'array' then items else '[]' end) i (item)
          join loyalty.entry e
            on e.account_id = case when i.item ->> 'account_id' ~ '^[0-9]{1,18}$' then (i.item ->> 'account_id')::bigint end
           and hashtextextended(e.idempotency_key, 0) = hashtextextended(i.item ->> 'idempotency_key', 0)
           and e.idempotency_key = i.item ->> 'idempotency_key');
end
$$;
comment on function loyalty_private.items_used is
    'Of items for grant_many, the operations that their keys have already; none where no program asks for two administrators.';

create function loyalty_private.end_grants(program_id integer, operation_ids bigint[], used bigint[], items bigint)
    returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    booked record;
begin
    select sum(e.points) as points,
           (array_agg(a.program_id) filter (where e.points > p.approval_above
               and not o.operation_id = any (end_grants.used)))[1] as above_in,
           max(e.points) filter (where e.points > p.approval_above
               and not o.operation_id = any (end_grants.used)) as above
      into booked
      from unnest(operation_ids) o (operation_id)
      join loyalty.entry e
        on e.account_id = o.operation_id >> 24 and e.entry = (o.operation_id & 16777215)::integer
      join loyalty.account a on a.account_id = e.account_id
      left join loyalty.access_policy p on p.program_id = a.program_id;
    if booked.above is not null then
        perform loyalty_private.check_approval(booked.above_in, booked.above);
    end if;
    perform loyalty_private.count_grants(end_grants.program_id, operation_ids);
    perform loyalty_private.audit('grant_many', end_grants.program_id, details => jsonb_build_object('items', items,
        'granted', coalesce(cardinality(operation_ids), 0), 'points', booked.points));
end
$$;
comment on function loyalty_private.end_grants is 'end_grant for what grant_many booked.';
