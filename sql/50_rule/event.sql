-- Events that rules pay for, grants by hand, and what a member may expect.

create function loyalty_private.event_payments(event_id bigint)
    returns table (
        rule text, title text, expiry loyalty.expiry_policy, account_id bigint, party text, points bigint,
        pays_on date, idempotency_key text, operation_id bigint
    )
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select r.code, r.title, r.expiry, p.account_id, p.party, o.points, d.pays_on, k.key,
           (n.account_id << 24) | n.entry
      from loyalty.event e
     cross join lateral (
               select distinct x.code
                 from loyalty.rule x
                where x.program_id = e.program_id
                  and x.kind in ('event', 'purchase')
                  and coalesce(x.terms ->> 'event', 'purchase') = e.kind) c
     cross join lateral loyalty_private.rule_pay_day(e.program_id, c.code, e.occurred_on) d
      join loyalty.rule r on r.program_id = e.program_id and r.code = c.code and r.version = d.version
     cross join lateral (values (e.account_id, 'member'), (e.other_account_id, 'other')) as p (account_id, party)
     cross join lateral loyalty_private.event_points(r.terms, r.kind, p.party, e.amount) as o (points)
     cross join lateral (select format('rule/%s/event-%s/%s', r.code, e.event_id, p.party)) as k (key)
      left join loyalty.entry n
        on n.account_id = p.account_id
       and hashtextextended(n.idempotency_key, 0) = hashtextextended(k.key, 0)
       and n.idempotency_key = k.key
     where e.event_id = event_payments.event_id
       and p.account_id is not null
       and o.points > 0
     order by r.code, p.party;
end;
comment on function loyalty_private.event_payments is
    'What the rules pay for an event: to whom, how much, when, and the operation that did (null while it has not).';

create function loyalty_private.event_account(program_id integer, name text, member_no text) returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    found_id bigint;
begin
    select a.account_id into found_id
      from loyalty.account a
     where a.program_id = event_account.program_id and a.member_no = event_account.member_no;
    if found_id is null then
        perform loyalty_private.raise('LY002', 'no_such_member', 'no such member', format('%s is %L.', name, member_no),
            'Load the member, or open an account for the number, first.', name);
    end if;
    return found_id;
end
$$;
comment on function loyalty_private.event_account is 'The account of a party of an event; LY002 without one.';

create function loyalty.record_event(
    program text,
    kind text,
    member_no text,
    other_member_no text default null,
    occurred_on date default null,
    amount numeric default null,
    reference text default null,
    attributes jsonb default null,
    out event_id bigint,
    out is_new boolean,
    out payments jsonb
) returns record
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    owner integer := loyalty.program_id(record_event.program);
    today date := loyalty.today(record_event.program);
    happened date := coalesce(record_event.occurred_on, today);
    account bigint;
    other bigint;
    is_purchase boolean;
    kinds text;
    known loyalty.event;
    payment record;
begin
    select bool_or(r.kind = 'purchase') into is_purchase
      from loyalty.rule r
     where r.program_id = owner
       and r.kind in ('event', 'purchase')
       and coalesce(r.terms ->> 'event', 'purchase') = record_event.kind;
    if is_purchase is null then
        select string_agg(distinct coalesce(r.terms ->> 'event', 'purchase'), ', ') into kinds
          from loyalty.rule r
         where r.program_id = owner and r.kind in ('event', 'purchase');
        perform loyalty_private.raise('22023', 'event_kind_unknown', 'no rule pays for events of this kind',
            format('kind is %L.', record_event.kind), coalesce('The program''s rules know: ' || kinds || '.',
                     'The program has no rule for events; loyalty.create_rule creates one.'), 'kind');
    end if;
    if is_purchase and amount is null then
        perform loyalty_private.raise('22004', 'value_missing', 'amount must not be null',
            format('Events of kind %L are paid by their amount.', record_event.kind), 'Pass amount => … .', 'amount');
    end if;
    if happened > today then
        perform loyalty_private.raise('22023', 'day_in_future', 'occurred_on is in the future',
            format('%s given; today is %s in the program''s time zone.', happened, today), 'Record what has happened.',
            'occurred_on');
    elsif happened < '1955-01-01' then
        perform loyalty_private.raise('22023', 'date_out_of_range', 'occurred_on is outside the calendars',
            format('%s given.', happened), 'A day from 1955 on; today when left out.', 'occurred_on');
    elsif record_event.amount not between 0 and 1000000000000 then
        perform loyalty_private.raise('22023', 'amount_invalid', 'amount is out of range', format('%s given.', record_event.amount),
            'From 0 to 1000000000000. What was taken back is canceled with loyalty.cancel_event.', 'amount');
    elsif char_length(record_event.reference) not between 1 and 150 then
        perform loyalty_private.raise('22023', 'reference_invalid', 'reference is empty or too long',
            format('%s characters given.', char_length(record_event.reference)),
            'From 1 to 150 characters, or null for none.', 'reference');
    elsif jsonb_typeof(record_event.attributes) <> 'object' then
        perform loyalty_private.raise('22023', 'attributes_invalid', 'attributes must be a JSON object',
            format('A value of type %s was given.', jsonb_typeof(record_event.attributes)), 'Such as {"shop": "Nagano"}.', 'attributes');
    end if;
    account := loyalty_private.event_account(owner, 'member_no', record_event.member_no);
    if other_member_no is not null then
        other := loyalty_private.event_account(owner, 'other_member_no', record_event.other_member_no);
    end if;
    if other = account then
        perform loyalty_private.raise('22023', 'parties_same', 'member_no and other_member_no are the same',
            format('%L given twice.', record_event.member_no), 'Give the other member, or leave other_member_no out.',
            'other_member_no');
    end if;

    insert into loyalty.event
           (program_id, kind, account_id, other_account_id, occurred_on, amount, reference, attributes,
            recorded_on, recorded_at, recorded_by)
    values (owner, record_event.kind, account, other, happened, record_event.amount, record_event.reference,
            coalesce(record_event.attributes, '{}'), today, loyalty.now(), loyalty_private.actor())
        on conflict on constraint event_reference_is_once do nothing
    returning event.event_id into event_id;
    is_new := found;
    if is_new then
        -- What pays at once, and what is recorded when its pay day is over: the run of that
        -- period may have been. Effective as of the day it should have been paid.
        for payment in
            select g.code, g.reason, g.message, p.rule
              from loyalty_private.event_payments(event_id) p
             cross join lateral loyalty_private.grant_each(
                       array[p.account_id], array[p.points], p.title, p.pays_on,
                       case when p.expiry::text !~ 'inactivity' then
                           coalesce(loyalty.expires_on(p.expiry, p.pays_on), 'infinity')
                       end,
                       array[p.idempotency_key], p.expiry) g
             where p.pays_on <= today
               -- a run passes over these too
               and (select w.status from loyalty.wallet w where w.account_id = p.account_id) <> 'closed'
        loop
            if payment.code is not null then
                perform loyalty_private.raise(payment.code, payment.reason, payment.message,
                    format('Rule %L pays for the event.', payment.rule), 'Nothing was recorded.');
            end if;
        end loop;
    else
        select e.* into strict known
          from loyalty.event e
         where e.program_id = owner and e.kind = record_event.kind and e.reference = record_event.reference;
        event_id := known.event_id;
        if (known.account_id, known.other_account_id, known.amount)
               is distinct from (account, other, record_event.amount)
           or known.occurred_on <> record_event.occurred_on then
            perform loyalty_private.raise('LY003', 'reference_reused', 'the reference was used for another event',
                format('It is event %s, of %s.', known.event_id, known.occurred_on),
                'Repeat a call with the same arguments, or give a new event a new reference.', 'reference');
        end if;
    end if;
    select coalesce(jsonb_agg(jsonb_build_object(
               'rule', p.rule, 'account_id', p.account_id, 'party', p.party, 'points', p.points,
               'pays_on', p.pays_on, 'operation_id', p.operation_id)), '[]') into payments
      from loyalty_private.event_payments(event_id) p;
end
$$;
comment on function loyalty.record_event is
    'Records what happened and says what the rules pay for it, when and to whom. Paid at once where the rule says so, or where the pay day is over. The same reference is recorded once (LY003 when it was another event). 22023 for a kind that no rule knows, a day to come and other values that cannot be; 22004 for a purchase without amount; LY002.';

create function loyalty.cancel_event(
    event_id bigint,
    reason text default null,
    policy text default 'clamp',
    out revoked bigint
) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    canceled loyalty.event;
    paid record;
    receipt loyalty.receipt;
    why text;
begin
    revoked := 0;
    select e.* into canceled from loyalty.event e where e.event_id = cancel_event.event_id;
    if not found then
        perform loyalty_private.raise('LY002', 'no_such_event', 'no such event', format('%s given.', cancel_event.event_id),
            'loyalty.record_event returned its event_id.', 'event_id');
    end if;
    if policy is null or policy not in ('clamp', 'debt') then
        perform loyalty_private.raise('22023', 'policy_unknown', 'no such policy', format('%L given.', policy),
            'clamp leaves points already spent; debt books a debt that later grants repay.', 'policy');
    elsif char_length(cancel_event.reason) > 1000 then
        perform loyalty_private.raise('22023', 'reason_too_long', 'reason is too long',
            format('%s characters given.', char_length(cancel_event.reason)), 'Up to 1000 characters.', 'reason');
    end if;
    -- a run that pays events at this moment ends its chunk first, and its grants are seen then
    perform pg_advisory_xact_lock(hashtext('loyalty.event'), canceled.program_id);
    update loyalty.event e
       set canceled_at = loyalty.now(), canceled_by = loyalty_private.actor(), cancel_reason = cancel_event.reason
     where e.event_id = cancel_event.event_id and e.canceled_at is null;
    if not found then
        return;
    end if;
    for paid in
        -- by key, whatever became of the rule since
        select n.account_id, (n.account_id << 24) | n.entry as operation_id, k.key
          from (select distinct r.code from loyalty.rule r where r.program_id = canceled.program_id) c
         cross join lateral (
                   values (canceled.account_id, 'member'), (canceled.other_account_id, 'other')) p (account_id, party)
         cross join lateral (select format('rule/%s/event-%s/%s', c.code, canceled.event_id, p.party)) k (key)
          join loyalty.entry n
            on n.account_id = p.account_id
           and hashtextextended(n.idempotency_key, 0) = hashtextextended(k.key, 0)
           and n.idempotency_key = k.key
          join loyalty.wallet w on w.account_id = n.account_id and w.status <> 'closed'
         order by n.account_id
    loop
        begin
            receipt := loyalty.revoke(
                account_id => paid.account_id, operation_id => paid.operation_id,
                policy => cancel_event.policy, reason => cancel_event.reason,
                idempotency_key => paid.key || '/canceled');
            revoked := revoked + receipt.points;
        exception when others then
            get stacked diagnostics why = constraint_name;
            if why is distinct from 'nothing_left' then
                raise;
            end if;
            -- somebody revoked all of it before
        end;
    end loop;
end
$$;
comment on function loyalty.cancel_event is
    'Cancels an event, such as a purchase that was refunded: what was not paid yet will not be; what was is revoked, points already spent by the policy of loyalty.revoke (clamp or debt). Returns the points taken back; 0 when it was canceled before. 22023 for a policy or reason that cannot be; LY002.';

create function loyalty.grant_by_rule(
    account_id bigint,
    rule text,
    points bigint default null,
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    program record;
    known loyalty.rule;
    wanted bigint;
begin
    select p.program_id, p.code, loyalty.today(p.code) as today into program
      from loyalty.account a
      join loyalty.program p on p.program_id = a.program_id
     where a.account_id = grant_by_rule.account_id;
    if not found then
        perform loyalty_private.raise('LY002', 'no_such_account', 'no such account', format('%s given.', grant_by_rule.account_id),
            'loyalty.open_account returned its number.', 'account_id');
    end if;
    select r.* into known
      from loyalty.rule r
     where r.program_id = program.program_id and r.code = grant_by_rule.rule
     order by (program.today between r.valid_from and coalesce(r.valid_to, 'infinity')) desc, r.version desc
     limit 1;
    if not found then
        perform loyalty_private.raise('LY002', 'no_such_rule', 'no such rule', format('%L given.', grant_by_rule.rule),
            'loyalty.rule has them.', 'rule');
    end if;
    if known.kind <> 'manual' then
        perform loyalty_private.raise('22023', 'rule_not_manual', 'the rule is not of kind manual',
            format('Rule %L is of kind %s.', known.code, known.kind), 'It pays by itself; loyalty.explain_rule says when.',
            'rule');
    end if;
    if program.today not between known.valid_from and coalesce(known.valid_to, 'infinity') then
        perform loyalty_private.raise('22023', 'rule_not_in_force', 'the rule is not in force',
            format('It is from %s to %s.', known.valid_from, coalesce(known.valid_to::text, 'no end')),
            'loyalty.change_rule brings it back from a day on.', 'rule');
    end if;
    wanted := coalesce(grant_by_rule.points, (known.terms ->> 'points')::bigint);
    if wanted is null then
        perform loyalty_private.raise('22004', 'value_missing', 'points must not be null', 'The rule''s terms name none.',
            'Pass points => … .', 'points');
    end if;
    if wanted > (known.terms ->> 'max_points')::bigint then
        perform loyalty_private.raise('22023', 'points_over_rule', 'more points than the rule allows',
            format('%s given; $.max_points is %s.', wanted, known.terms ->> 'max_points'), 'Grant no more than that.',
            'points');
    end if;
    return loyalty.grant(
        account_id => grant_by_rule.account_id, points => wanted,
        reason => coalesce(grant_by_rule.reason, known.title),
        idempotency_key => format('rule/%s/%s', known.code,
                                  coalesce(grant_by_rule.idempotency_key, 'manual-' || gen_random_uuid())),
        expiry => known.expiry);
end
$$;
comment on function loyalty.grant_by_rule is
    'Grants by a rule of kind manual: as many points as its terms say unless given, up to its max_points. The grant''s idempotency key is rule/<code>/<key>, so that it counts as that rule''s. 22023, 22004, LY002, LY003, LY004.';

create function loyalty.explain_rule(
    account_id bigint,
    rule text,
    out kind text,
    out version integer,
    out last_paid_on date,
    out last_points bigint,
    out period date,
    out pays_on date,
    out points bigint,
    out explanation text
) returns record
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    program record;
    member loyalty.member;
    known loyalty.rule;
    next record;
    paid record;
    today date;
    ends date;
    up_to date;
    wanted text;
    fact date;
    years integer;
begin
    select p.program_id, p.code, a.member_no, w.status into program
      from loyalty.account a
      join loyalty.program p on p.program_id = a.program_id
      left join loyalty.wallet w on w.account_id = a.account_id
     where a.account_id = explain_rule.account_id;
    if not found then
        perform loyalty_private.raise('LY002', 'no_such_account', 'no such account', format('%s given.', explain_rule.account_id),
            'loyalty.open_account returned its number.', 'account_id');
    end if;
    today := loyalty.today(program.code);
    -- the version of today, else the next, else the last
    select r.* into known
      from loyalty.rule r
     where r.program_id = program.program_id and r.code = explain_rule.rule
     order by (r.valid_to < r.valid_from) is true,
              (r.valid_to < today) is true,
              case when (r.valid_to < today) is true then -r.version else r.version end
     limit 1;
    if not found then
        perform loyalty_private.raise('LY002', 'no_such_rule', 'no such rule', format('%L given.', explain_rule.rule),
            'loyalty.rule has them.', 'rule');
    end if;
    kind := known.kind;
    version := known.version;
    select case when bool_and(r.valid_to is not null) then max(r.valid_to) end into ends
      from loyalty.rule r
     where r.program_id = program.program_id and r.code = known.code and (r.valid_to >= r.valid_from) is not false;
    select e.granted_on, e.points into last_paid_on, last_points
      from loyalty.entry e
     where e.account_id = explain_rule.account_id
       and e.kind = 'grant'
       and starts_with(e.idempotency_key, format('rule/%s/', known.code))
     order by e.entry desc
     limit 1;

    if program.status = 'closed' then
        explanation := 'None: the account is closed.';
        return;
    end if;
    if known.kind = 'manual' then
        explanation := case when today between known.valid_from and coalesce(known.valid_to, 'infinity')
            then 'Paid when somebody grants it by hand.'
            else format('None: the rule is in force from %s to %s.', known.valid_from,
                        coalesce(known.valid_to::text, 'no end')) end;
        return;
    end if;
    if known.kind in ('event', 'purchase') then
        wanted := coalesce(known.terms ->> 'event', 'purchase');
        select p.pays_on, p.points, e.event_id, e.occurred_on, p.party into next
          from loyalty.event e
         cross join lateral loyalty_private.event_payments(e.event_id) p
         where (e.account_id = explain_rule.account_id or e.other_account_id = explain_rule.account_id)
           and e.canceled_at is null
           and e.kind = wanted
           -- no rule pays later than two years and some rolling after
           and e.occurred_on > today - 800
           and p.account_id = explain_rule.account_id
           and p.rule = known.code
           and p.operation_id is null
           and p.pays_on >= today
         order by p.pays_on, e.event_id
         limit 1;
        if found then
            pays_on := next.pays_on;
            points := next.points;
            version := (loyalty_private.rule_pay_day(program.program_id, known.code, next.occurred_on)).version;
            period := (loyalty_private.rule_pay_day(program.program_id, known.code, next.occurred_on)).period;
            explanation := format('%s on %s for event %s (%s) of %s, as its %s.', points, pays_on, next.event_id,
                                  wanted, next.occurred_on,
                                  case next.party when 'other' then 'other member' else 'member' end);
        elsif ends < today then
            explanation := format('None: the rule ended on %s.', ends);
        else
            explanation := format('None: no event %L that is still to be paid.', wanted);
        end if;
        return;
    end if;

    -- what is left goes by the member's record
    select m.* into member from loyalty.member m where m.account_id = explain_rule.account_id;
    wanted := coalesce(known.terms ->> 'fact', 'birth_date');
    fact := case when known.kind = 'birthday' then member.birth_date
                 else loyalty_private.fact_day(member.facts ->> wanted) end;
    up_to := case known.kind
        when 'tenure' then '2099-12-31'
        when 'birthday' then today + 800
        else least('2099-12-31', today + 800 + 31 * coalesce(
            (known.terms ->> 'every_years')::integer * 12, (known.terms ->> 'every_months')::integer)) end;
    up_to := greatest(up_to, ((known.terms #>> '{cut_off,first_month}') || '-28')::date + 400, known.valid_from + 800);
    if fact is not null then
        for next in
            select p.period, p.pays_on
              from loyalty.rule_periods(program.program_id, known.code, today - 400, up_to) p
             where p.pays_on >= today
               -- a birthday rule may have a period each day
               and (known.kind <> 'birthday' or known.terms ? 'day_of_month'
                    or loyalty_private.birthday_between(fact, p.period - 62, p.period) is not null)
        loop
            paid := loyalty_private.rule_payments(
                program.program_id, known.code, next.period, explain_rule.account_id - 1, 1);
            for place in 1 .. cardinality(paid.account_ids) loop
                if paid.account_ids[place] = explain_rule.account_id and not exists (
                       select from loyalty.entry e
                        where e.account_id = explain_rule.account_id
                          and hashtextextended(e.idempotency_key, 0)
                              = hashtextextended(paid.idempotency_keys[place], 0)
                          and e.idempotency_key = paid.idempotency_keys[place]) then
                    period := next.period;
                    pays_on := next.pays_on;
                    points := paid.points[place];
                    version := (loyalty_private.rule_reach(program.program_id, known.code, period)).version;
                    explanation := format('%s on %s', points, pays_on)
                        || case when pays_on <> period then format(', the first business day from %s on', period) else '' end
                        || case known.kind
                               when 'birthday' then format(', for the birthday of %s.', fact)
                               when 'tenure' then format(', for %s full years from %s %s to %s.',
                                   loyalty_private.full_years(fact, (known.terms ->> 'key_date')::date), wanted, fact,
                                   known.terms ->> 'key_date')
                               when 'anniversary' then
                                   case when fact <= (known.terms #>> '{cut_off,fact_until}')::date
                                        then format(', since %s %s is up to %s, which pays from %s on.', wanted, fact,
                                                    known.terms #>> '{cut_off,fact_until}',
                                                    known.terms #>> '{cut_off,first_month}')
                                        else format(', %s months after the month of %s %s.',
                                                    split_part(paid.idempotency_keys[place], '/', 3), wanted, fact)
                                   end
                           end;
                    return;
                end if;
            end loop;
        end loop;
    end if;

    years := loyalty_private.full_years(fact, (known.terms ->> 'key_date')::date);
    explanation := case
        when member.account_id is null then format('None: the member %L has no record.', program.member_no)
        when known.kind = 'birthday' and fact is null then 'None: the member''s record has no birth_date.'
        when fact is null then format('None: the member''s record has no fact %L.', wanted)
        when known.kind = 'tenure' and last_paid_on is not null then
            format('None: paid once, on %s.', last_paid_on)
        when known.kind = 'tenure' and coalesce(years, -1) < (
                 select min((t ->> 'years')::integer) from jsonb_array_elements(known.terms -> 'table') t) then
            format('None: %s is %s, that is %s full years to %s, and the table begins at %s.', wanted, fact,
                   coalesce(years::text, 'no'), known.terms ->> 'key_date',
                   (select min((t ->> 'years')::integer) from jsonb_array_elements(known.terms -> 'table') t))
        when ends < today then format('None: the rule ended on %s.', ends)
        when known.kind = 'tenure' then format('None: its day of payment, %s, is over.', known.terms ->> 'pays_on')
        when ends is not null then
            format('None: no payment falls due before the rule ends on %s.', ends)
        else format('None: no payment falls due up to %s.', up_to)
    end;
end
$$;
comment on function loyalty.explain_rule is
    'When a member is paid next by a rule, how much and why, or why nothing is to come; and what was paid last. By the facts and events of now. LY002.';
