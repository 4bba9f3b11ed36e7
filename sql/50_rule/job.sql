-- Job rule:CODE: pays by a rule on its days.

create function loyalty_private.next_rule_period(
    program_id integer,
    code text,
    after_period date,
    from_day date,
    out period date,
    out pays_on date
) returns record
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    begins date := coalesce(after_period, from_day - 62);
    last_day constant date := date '2099-12-31'; -- of the calendars
    reach integer;
begin
    -- most rules pay every month or so: look far only when nothing is near
    foreach reach in array '{62,400,4000,36500}'::integer[] loop
        exit when begins >= last_day;
        select r.period, r.pays_on into next_rule_period.period, next_rule_period.pays_on
          from loyalty.rule_periods(program_id, code, begins,
                   least(greatest(begins, from_day) + reach, last_day)) r
         where after_period is not null or r.pays_on >= from_day
         order by r.period
         limit 1;
        exit when found;
    end loop;
end
$$;
comment on function loyalty_private.next_rule_period is
    'The first pay period of a rule after a period; after null, the first that pays on from_day or later. Nulls when there is none.';

create function loyalty_private.plan_rule(
    program_id integer, name text, done_through date, today date, zone text
) returns loyalty_private.job_plan
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    plan loyalty_private.job_plan;
begin
    select n.period, n.pays_on into plan.period, plan.effective_on
      from loyalty_private.next_rule_period(program_id, name, done_through, today) n;
    plan.due_at := loyalty_private.midnight(plan.effective_on, zone);
    -- A later version may begin sooner than what is planned now, but not before today.
    plan.done_through := coalesce(done_through, least(plan.period, today) - 1);
    return plan;
end
$$;
comment on function loyalty_private.plan_rule is 'When a rule pays next.';

create function loyalty_private.run_rule_step(
    run loyalty.run,
    row_limit bigint,
    out last_account bigint,
    out members bigint,
    out paid bigint,
    out failed bigint,
    out points bigint
) returns record
    language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    with step as materialized (
        select *
          from loyalty_private.rule_payments((run).program_id, substr((run).job, 6), (run).period,
                                     (run).last_account, row_limit)
    ), outcome as materialized (
        select g.*
          from step s
         cross join lateral loyalty_private.grant_each(
                   s.account_ids, s.points, s.reason, (run).effective_on, s.expires_on,
                   s.idempotency_keys, s.expiry) g
         where cardinality(s.account_ids) > 0
    ), failure as (
        insert into loyalty.run_failure
               (run_id, program_id, account_id, idempotency_key, points, code, message, failed_at)
        select (run).run_id, (run).program_id, o.account_id, s.idempotency_keys[o.place], s.points[o.place],
               o.code, o.message, loyalty.now()
          from outcome o
         cross join step s
         where o.code is not null
            on conflict (run_id, account_id, idempotency_key) do update
           set points = excluded.points, code = excluded.code,
               message = excluded.message, failed_at = excluded.failed_at
    )
    select s.last_account, s.looked_at, o.paid, o.failed, o.points
      from step s
     cross join (select count(*) filter (where o.code is null and o.is_new) as paid,
                        count(*) filter (where o.code is not null) as failed,
                        coalesce(sum(o.granted) filter (where o.code is null and o.is_new), 0)::bigint as points
                   from outcome o) o
$$;
comment on function loyalty_private.run_rule_step is
    'Pays the next members of a rule''s run in one statement, and lists those whom it could not.';

create function loyalty_private.run_rule_chunk(run loyalty.run, chunk_size bigint) returns loyalty_private.job_chunk
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    did loyalty_private.job_chunk;
    row_limit bigint := chunk_size;
    state text;
    problem text;
begin
    loop
        begin
            select s.last_account, s.members, s.paid, s.failed, s.points
              into did.last_account, did.members, did.paid, did.failed, did.points
              from loyalty_private.run_rule_step(run, row_limit) s;
            return did;
        exception when others then
            get stacked diagnostics state = returned_sqlstate, problem = message_text;
            -- A machine in trouble is no member's fault. Anything else is looked for in
            -- smaller and smaller steps, until it is one member who is listed and passed over.
            if left(state, 2) not in ('21', '22', '23', '54', 'LY', 'P0') then
                raise;
            end if;
        end;
        exit when row_limit = 1;
        row_limit := greatest(row_limit / 10, 1);
    end loop;
    -- One account, whatever its payments are; where not even these can be worked out, the
    -- next member.
    did.paid := 0;
    did.points := 0;
    begin
        select s.last_account, s.looked_at into did.last_account, did.members
          from loyalty_private.rule_payments((run).program_id, substr((run).job, 6), (run).period,
                                     (run).last_account, 1) s;
        insert into loyalty.run_failure as f
               (run_id, program_id, account_id, idempotency_key, points, code, message, failed_at)
        select (run).run_id, (run).program_id, i.account_id, i.key, i.points, state, problem, loyalty.now()
          from loyalty_private.rule_payments((run).program_id, substr((run).job, 6), (run).period,
                                     (run).last_account, 1) s
         cross join lateral unnest(s.account_ids, s.idempotency_keys, s.points) i (account_id, key, points)
            on conflict (run_id, account_id, idempotency_key) do update
           set points = excluded.points, code = excluded.code,
               message = excluded.message, failed_at = excluded.failed_at;
        get diagnostics did.failed = row_count;
    exception when others then
        select m.account_id into strict did.last_account
          from loyalty.member m
         where m.program_id = (run).program_id
           and m.account_id > coalesce((run).last_account, 0)
         order by m.account_id
         limit 1;
        insert into loyalty.run_failure (run_id, program_id, account_id, code, message, failed_at)
        values ((run).run_id, (run).program_id, did.last_account, state, problem, loyalty.now())
            on conflict (run_id, account_id, idempotency_key) do update
           set code = excluded.code, message = excluded.message, failed_at = excluded.failed_at;
        did.members := 1;
        did.failed := 1;
    end;
    return did;
end
$$;
comment on function loyalty_private.run_rule_chunk is
    'Does a chunk of a rule''s run.';

create function loyalty_private.forecast_rules(program_id integer, today date, horizon date)
    returns table (day date, job text, title text, period date, members bigint, points bigint)
    language plpgsql stable set search_path = pg_catalog, pg_temp
    -- the walk is by index, whatever the statistics say
    set enable_hashjoin = off
    set enable_mergejoin = off
    set enable_seqscan = off
    set enable_bitmapscan = off
    set jit = off
as $$
#variable_conflict use_column
begin
    return query
    select f.pays_on, 'rule:' || r.code, r.title, f.period, f.members, f.points
      from (select distinct on (r.code) r.code, r.title
              from loyalty.rule r
             where r.program_id = forecast_rules.program_id
             order by r.code, r.version desc) r
      left join loyalty.schedule s
        on s.program_id = forecast_rules.program_id and s.job = 'rule:' || r.code
     cross join lateral loyalty.rule_forecast(forecast_rules.program_id, r.code,
                    coalesce(s.done_through, today - 1), horizon) f
     where f.members > 0 and f.pays_on <= horizon;
end
$$;
comment on function loyalty_private.forecast_rules is 'What the rules of a program pay on the coming days, and in overdue periods.';

insert into loyalty_private.job_kind
       (kind, has_name, writes_ledger, is_daily, missed, plan_function, chunk_function, periods_function, forecast_function)
values ('rule', true, true, false, 'each', 'loyalty_private.plan_rule', 'loyalty_private.run_rule_chunk', 'loyalty.rule_periods',
        'loyalty_private.forecast_rules');
