-- Job expire: books breakage of each day after its midnight.

create function loyalty_private.plan_expire(
    program_id integer, name text, done_through date, today date, zone text
) returns loyalty_private.job_plan
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    period date := coalesce(done_through + 1, today);
begin
    -- farther than a change of time zone goes: a test clock was ahead
    if period > today + 2 then
        period := today;
    end if;
    return row(period, period, loyalty_private.midnight(period, zone), done_through)::loyalty_private.job_plan;
end
$$;
comment on function loyalty_private.plan_expire is 'When expiry is due next: after the midnight that ends a day, of the first day not done.';

create function loyalty_private.run_expire_chunk(run loyalty.run, chunk_size bigint) returns loyalty_private.job_chunk
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    did loyalty_private.job_chunk;
begin
    select e.last_account, e.lots, e.points
      into did.last_account, did.lots, did.points
      from loyalty_private.expire_step((run).program_id, (run).period, (run).last_account, chunk_size) e;
    did.members := loyalty_private.accounts_between((run).program_id, (run).last_account, did.last_account);
    return did;
end
$$;
comment on function loyalty_private.run_expire_chunk is 'Does a chunk of an expiry run.';

create function loyalty_private.forecast_expire(program_id integer, today date, horizon date)
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
    -- A lot is booked on the day after its last, and by the next run where that has passed.
    select greatest(l.expires_on + 1, today), 'expire', 'expiry', greatest(l.expires_on + 1, today),
           -- only lots of a class share an account's day
           count(*) filter (where w.lot_class is null)
           + count(distinct case when w.lot_class is not null then w.account_id end),
           sum(l.points)::bigint
      from loyalty.account a
      join loyalty.wallet w on w.account_id = a.account_id
     cross join lateral unnest(w.lot_expires_on, w.lot_remaining) l (expires_on, points)
     where a.program_id = forecast_expire.program_id
       and l.points > 0
       and l.expires_on < horizon
     group by 1;
end
$$;
comment on function loyalty_private.forecast_expire is 'Points that members hold now and that lapse unless spent, on the days that they are booked.';

insert into loyalty_private.job_kind
       (kind, has_name, writes_ledger, is_daily, missed, plan_function, chunk_function, forecast_function)
values ('expire', false, true, true, 'together', 'loyalty_private.plan_expire', 'loyalty_private.run_expire_chunk',
        'loyalty_private.forecast_expire');
