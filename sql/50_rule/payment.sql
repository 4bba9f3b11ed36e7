-- Whom a period pays. ("offset 0" has a value worked out once a member, below the condition on
-- it.) Each step is one statement over so many members in account order; the
-- journal is not asked, since a key that was used before grants nothing (law 6).

create function loyalty_private.anniversary_step(
    program_id integer, key text, fact text, points bigint, months date[], every_months integer,
    fact_until date, first_month date, from_account bigint, row_limit bigint
) returns table (
    account_ids bigint[], points_of_each bigint[], keys text[], last_account bigint, looked_at bigint
)
    language sql stable
begin atomic
    with step as materialized (
        select m.account_id, loyalty_private.fact_day(m.facts ->> anniversary_step.fact) as fact_on
          from loyalty.member m
         where m.program_id = anniversary_step.program_id
           and m.account_id > anniversary_step.from_account
         order by m.account_id
         limit anniversary_step.row_limit),
    due as materialized (
        select s.account_id, s.occasion
          from (select step.account_id,
                       loyalty_private.anniversary_occasion(
                           step.fact_on, month, anniversary_step.every_months,
                           anniversary_step.fact_until, anniversary_step.first_month) as occasion
                  from step
                 cross join unnest(anniversary_step.months) as month
                offset 0) s
         where s.occasion is not null
           and (select w.status from loyalty.wallet w where w.account_id = s.account_id) is distinct from 'closed'
         order by s.account_id, s.occasion)
    select coalesce(p.ids, '{}'), coalesce(p.points, '{}'), coalesce(p.keys, '{}'),
           case when s.looked_at >= anniversary_step.row_limit then s.last_account end, s.looked_at
      from (select array_agg(d.account_id) as ids,
                   array_agg(anniversary_step.points) as points,
                   array_agg(anniversary_step.key || d.occasion::text) as keys
              from due d) p
     cross join (select count(*) as looked_at, max(account_id) as last_account from step) s;
end;
comment on function loyalty_private.anniversary_step is 'A step of loyalty_private.rule_payments for an anniversary rule (C2, C3).';

create function loyalty_private.birthday_step(
    program_id integer, key text, points bigint, from_day date, to_day date,
    from_account bigint, row_limit bigint
) returns table (
    account_ids bigint[], points_of_each bigint[], keys text[], last_account bigint, looked_at bigint
)
    language sql stable
begin atomic
    with step as materialized (
        select m.account_id, m.birth_date
          from loyalty.member m
         where m.program_id = birthday_step.program_id
           and m.account_id > birthday_step.from_account
         order by m.account_id
         limit birthday_step.row_limit),
    due as materialized (
        select s.account_id, s.year
          from (select step.account_id,
                       loyalty_private.birthday_between(
                           step.birth_date, birthday_step.from_day, birthday_step.to_day) as year
                  from step
                offset 0) s
         where s.year is not null
           and (select w.status from loyalty.wallet w where w.account_id = s.account_id) is distinct from 'closed'
         order by s.account_id)
    select coalesce(p.ids, '{}'), coalesce(p.points, '{}'), coalesce(p.keys, '{}'),
           case when s.looked_at >= birthday_step.row_limit then s.last_account end, s.looked_at
      from (select array_agg(d.account_id) as ids,
                   array_agg(birthday_step.points) as points,
                   array_agg(birthday_step.key || d.year::text) as keys
              from due d) p
     cross join (select count(*) as looked_at, max(account_id) as last_account from step) s;
end;
comment on function loyalty_private.birthday_step is 'A step of loyalty_private.rule_payments for a birthday rule.';

create function loyalty_private.tenure_step(
    program_id integer, key text, fact text, key_date date, years integer[], points bigint[],
    from_account bigint, row_limit bigint
) returns table (
    account_ids bigint[], points_of_each bigint[], keys text[], last_account bigint, looked_at bigint
)
    language sql stable
begin atomic
    with step as materialized (
        select m.account_id, loyalty_private.fact_day(m.facts ->> tenure_step.fact) as fact_on
          from loyalty.member m
         where m.program_id = tenure_step.program_id
           and m.account_id > tenure_step.from_account
         order by m.account_id
         limit tenure_step.row_limit),
    due as materialized (
        select s.account_id, tenure_step.points[s.place] as points
          from (select step.account_id,
                       -- the last row of the table that is reached; 0 below the first
                       width_bucket(
                           loyalty_private.full_years(step.fact_on, tenure_step.key_date), tenure_step.years) as place
                  from step
                offset 0) s
         where s.place > 0
           and (select w.status from loyalty.wallet w where w.account_id = s.account_id) is distinct from 'closed'
         order by s.account_id)
    select coalesce(p.ids, '{}'), coalesce(p.points, '{}'), coalesce(p.keys, '{}'),
           case when s.looked_at >= tenure_step.row_limit then s.last_account end, s.looked_at
      from (select array_agg(d.account_id) as ids,
                   array_agg(d.points) as points,
                   array_agg(tenure_step.key || 'once') as keys
              from due d) p
     cross join (select count(*) as looked_at, max(account_id) as last_account from step) s;
end;
comment on function loyalty_private.tenure_step is 'A step of loyalty_private.rule_payments for a tenure rule (C4).';

create function loyalty_private.event_step(
    program_id integer, key text, rule_kind text, event text, terms jsonb, months date[],
    swept_on date, from_account bigint, row_limit bigint
) returns table (
    account_ids bigint[], points_of_each bigint[], keys text[], last_account bigint, looked_at bigint
)
    language sql stable
begin atomic
    with step as materialized (
        select w.account_id, w.event_id, w.party, w.amount
          from unnest(event_step.months) as source (month)
         cross join lateral (
                   (select e.account_id, e.event_id, 'member' as party, e.amount
                      from loyalty.event e
                     where e.program_id = event_step.program_id and e.kind = event_step.event
                       and e.month = source.month and e.account_id > event_step.from_account
                       and e.canceled_at is null
                     order by e.account_id
                     fetch first (event_step.row_limit) rows with ties)
                   union all
                   (select e.other_account_id, e.event_id, 'other', e.amount
                      from loyalty.event e
                     where e.program_id = event_step.program_id and e.kind = event_step.event
                       and e.month = source.month and e.other_account_id > event_step.from_account
                       and e.canceled_at is null
                     order by e.other_account_id
                     fetch first (event_step.row_limit) rows with ties)) w
         order by w.account_id
         fetch first (event_step.row_limit) rows with ties),
    -- Of the month before, what was recorded on the eve of its pay day: the recording may
    -- have been committed only after the run had looked. Mostly none, or paid already.
    swept as (
        select p.account_id, e.event_id, p.party, e.amount
          from loyalty.event e
         cross join lateral (values (e.account_id, 'member'), (e.other_account_id, 'other')) as p (account_id, party)
         where event_step.from_account = 0
           and e.program_id = event_step.program_id and e.kind = event_step.event
           and e.month = (event_step.months[1] - interval '1 month')::date
           and e.recorded_on = event_step.swept_on
           and e.canceled_at is null
           and p.account_id is not null),
    due as materialized (
        select s.account_id, s.event_id, s.party, o.points
          from (select * from step union all select * from swept) s
         cross join lateral loyalty_private.event_points(event_step.terms, event_step.rule_kind, s.party, s.amount) as o (points)
         where o.points > 0
           and (select w.status from loyalty.wallet w where w.account_id = s.account_id) is distinct from 'closed'
         order by s.account_id, s.event_id)
    select coalesce(p.ids, '{}'), coalesce(p.points, '{}'), coalesce(p.keys, '{}'),
           case when s.looked_at >= event_step.row_limit then s.last_account end, s.looked_at
      from (select array_agg(d.account_id) as ids,
                   array_agg(d.points) as points,
                   array_agg(event_step.key || 'event-' || d.event_id::text || '/' || d.party) as keys
              from due d) p
     cross join (select count(*) as looked_at, max(account_id) as last_account from step) s;
end;
comment on function loyalty_private.event_step is 'A step of loyalty_private.rule_payments for an event or purchase rule (C5).';

create function loyalty_private.rule_payments(
    program_id integer,
    code text,
    period date,
    from_account bigint,
    row_limit bigint,
    out account_ids bigint[],
    out points bigint[],
    out idempotency_keys text[],
    out reason text,
    out granted_on date,
    out expires_on date,
    out expiry loyalty.expiry_policy,
    out last_account bigint,
    out looked_at bigint
) returns record
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    -- the walk is by index, whatever the statistics say
    set enable_hashjoin = off
    set enable_mergejoin = off
    set enable_seqscan = off
    set enable_bitmapscan = off
    set jit = off
as $$
#variable_conflict use_column
declare
    reach record;
    rule loyalty.rule;
    months date[];
    key text;
begin
    account_ids := '{}';
    points := '{}';
    idempotency_keys := '{}';
    looked_at := 0;
    if coalesce(row_limit, 0) < 1 then
        perform loyalty_private.raise('22023', 'out_of_range', 'row_limit must be above zero', format('%s given.', row_limit),
            'Members that one step looks at.', 'row_limit');
    end if;
    select r.* into reach
      from loyalty_private.rule_reach(rule_payments.program_id, rule_payments.code, rule_payments.period) r;
    if reach.version is null then
        return;
    end if;
    select r.* into strict rule
      from loyalty.rule r
     where r.program_id = rule_payments.program_id
       and r.code = rule_payments.code
       and r.version = reach.version;
    reason := rule.title;
    granted_on := reach.pays_on;
    expiry := rule.expiry;
    if expiry::text !~ 'inactivity' then
        expires_on := coalesce(loyalty.expires_on(expiry, granted_on), 'infinity');
    end if;
    key := format('rule/%s/', rule.code);
    months := array(
        select m::date
          from generate_series(date_trunc('month', reach.from_day::timestamp), reach.to_day, interval '1 month') m);

    if rule.kind = 'anniversary' then
        select p.* into account_ids, points, idempotency_keys, last_account, looked_at
          from loyalty_private.anniversary_step(
                   rule.program_id, key, rule.terms ->> 'fact', (rule.terms ->> 'points')::bigint, months,
                   coalesce((rule.terms ->> 'every_years')::integer * 12, (rule.terms ->> 'every_months')::integer),
                   (rule.terms #>> '{cut_off,fact_until}')::date,
                   ((rule.terms #>> '{cut_off,first_month}') || '-01')::date,
                   coalesce(from_account, 0), row_limit) p;
    elsif rule.kind = 'birthday' then
        select p.* into account_ids, points, idempotency_keys, last_account, looked_at
          from loyalty_private.birthday_step(
                   rule.program_id, key, (rule.terms ->> 'points')::bigint, reach.from_day, reach.to_day,
                   coalesce(from_account, 0), row_limit) p;
    elsif rule.kind = 'tenure' then
        select p.* into account_ids, points, idempotency_keys, last_account, looked_at
          from loyalty_private.tenure_step(
                   rule.program_id, key, rule.terms ->> 'fact', (rule.terms ->> 'key_date')::date,
                   array(select (t ->> 'years')::integer from jsonb_array_elements(rule.terms -> 'table') t order by 1),
                   array(select (t ->> 'points')::bigint from jsonb_array_elements(rule.terms -> 'table') t
                          order by (t ->> 'years')::integer),
                   coalesce(from_account, 0), row_limit) p;
    elsif rule.kind in ('event', 'purchase') then
        -- until the end of the transaction, so that cancel_event finds either nothing or a grant
        perform pg_advisory_xact_lock_shared(hashtext('loyalty.event'), rule.program_id);
        select p.* into account_ids, points, idempotency_keys, last_account, looked_at
          from loyalty_private.event_step(
                   rule.program_id, key, rule.kind, coalesce(rule.terms ->> 'event', 'purchase'), rule.terms, months,
                   reach.previous_pays_on - 1, coalesce(from_account, 0), row_limit) p;
    end if;
end
$$;
comment on function loyalty_private.rule_payments is
    'Whom a rule pays in a period, one step of a walk in account order: accounts after from_account (null: from the first), row_limit of them looked at; last_account goes into the next call, null when there is no more. The arrays go into loyalty_private.grant_each. Whether a payment was made before is not looked at: its idempotency key tells.';


create function loyalty.rule_forecast(program_id integer, code text, after_period date, up_to date)
    returns table (period date, pays_on date, members bigint, points bigint)
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
    -- the walk is by index, whatever the statistics say
    set enable_hashjoin = off
    set enable_mergejoin = off
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    rule loyalty.rule;
    reach record;
    wanted text;
    counted text;
    days date[];
    counts bigint[];
begin
    for period, pays_on in
        select p.period, p.pays_on
          from loyalty.rule_periods(
                   rule_forecast.program_id, rule_forecast.code, rule_forecast.after_period, rule_forecast.up_to) p
    loop
        reach := loyalty_private.rule_reach(rule_forecast.program_id, rule_forecast.code, period);
        if rule.version is distinct from reach.version then
            select r.* into strict rule
              from loyalty.rule r
             where r.program_id = rule_forecast.program_id
               and r.code = rule_forecast.code
               and r.version = reach.version;
            -- one pass over the members, however many periods there are
            wanted := case when rule.kind = 'birthday' then 'birthday' else 'fact ' || (rule.terms ->> 'fact') end;
            if wanted is distinct from counted then
                counted := wanted;
                select array_agg(d.day), array_agg(d.members) into days, counts
                  from (select case when rule.kind = 'birthday'
                                    -- any leap year: who is to be born does not matter
                                    then make_date(1904, extract(month from m.birth_date)::integer,
                                                   extract(day from m.birth_date)::integer)
                                    else loyalty_private.fact_day(m.facts ->> (rule.terms ->> 'fact')) end as day,
                               count(*) as members
                          from loyalty.member m
                          left join loyalty.wallet w on w.account_id = m.account_id
                         where m.program_id = rule_forecast.program_id
                           and w.status is distinct from 'closed'
                         group by 1) d
                 where d.day is not null;
            end if;
        end if;
        if rule.kind = 'anniversary' then
            select coalesce(sum(d.members), 0)::bigint,
                   (coalesce(sum(d.members), 0) * (rule.terms ->> 'points')::bigint)::bigint
              into members, points
              from unnest(days, counts) as d (day, members)
             cross join generate_series(date_trunc('month', reach.from_day::timestamp), reach.to_day, interval '1 month') m
             where loyalty_private.anniversary_occasion(
                       d.day, m::date,
                       coalesce((rule.terms ->> 'every_years')::integer * 12, (rule.terms ->> 'every_months')::integer),
                       (rule.terms #>> '{cut_off,fact_until}')::date,
                       ((rule.terms #>> '{cut_off,first_month}') || '-01')::date) is not null;
        elsif rule.kind = 'birthday' then
            select coalesce(sum(d.members), 0)::bigint,
                   (coalesce(sum(d.members), 0) * (rule.terms ->> 'points')::bigint)::bigint
              into members, points
              from unnest(days, counts) as d (day, members)
             where loyalty_private.birthday_between(d.day, reach.from_day, reach.to_day) is not null;
        elsif rule.kind = 'tenure' then
            select coalesce(sum(d.members), 0)::bigint, coalesce(sum(d.members * t.points), 0)::bigint
              into members, points
              from unnest(days, counts) as d (day, members)
             cross join lateral (
                       select (t ->> 'points')::bigint
                         from jsonb_array_elements(rule.terms -> 'table') t
                        where (t ->> 'years')::integer <= loyalty_private.full_years(d.day, (rule.terms ->> 'key_date')::date)
                        order by (t ->> 'years')::integer desc
                        limit 1) as t (points);
        else
            select count(*), coalesce(sum(o.points), 0)::bigint into members, points
              from loyalty.event e
             cross join lateral (values (e.account_id, 'member'), (e.other_account_id, 'other')) as p (account_id, party)
             cross join lateral loyalty_private.event_points(rule.terms, rule.kind, p.party, e.amount) as o (points)
              left join loyalty.wallet w on w.account_id = p.account_id
             where e.program_id = rule_forecast.program_id
               and e.kind = coalesce(rule.terms ->> 'event', 'purchase')
               and e.month between date_trunc('month', reach.from_day::timestamp)::date and reach.to_day
               and e.canceled_at is null
               and p.account_id is not null
               and o.points > 0
               and w.status is distinct from 'closed';
        end if;
        return next;
    end loop;
end
$$;
comment on function loyalty.rule_forecast is
    'What a rule would pay in the periods after one (null: from its first) up to a day, by the members, facts and events of now: payments, and their points. It does not look at what was paid.';
