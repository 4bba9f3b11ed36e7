create function loyalty.preview(program text, months integer default 24)
    returns table (day date, job text, title text, period date, members bigint, points bigint)
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
    -- the walk is by index, whatever the statistics say
    set enable_hashjoin = off
    set enable_mergejoin = off
    set enable_seqscan = off
    set enable_bitmapscan = off
    set jit = off
as $$
#variable_conflict use_column
declare
    program_number integer := loyalty.program_id(program);
    today date := loyalty.today(program);
    horizon date;
begin
    if months is null or months not between 1 and 120 then
        perform loyalty.raise('22023', 'out_of_range', 'months must be from 1 to 120',
            format('%s given.', coalesce(months::text, 'null')), 'Leave it out for 24.', 'months');
    end if;
    horizon := (today + make_interval(months => months))::date;
    return query
    select *
      from (
            select f.pays_on, 'rule:' || r.code, r.title, f.period, f.members, f.points
              from (select distinct on (r.code) r.code, r.title
                      from loyalty.rule r
                     where r.program_id = program_number
                     order by r.code, r.version desc) r
              left join loyalty.schedule s
                on s.program_id = program_number and s.job = 'rule:' || r.code
             cross join lateral loyalty.rule_forecast(program_number, r.code,
                            coalesce(s.done_through, today - 1), horizon) f
             where f.members > 0 and f.pays_on <= horizon
             union all
            -- A lot is booked on the day after its last, and by the next run where that has passed.
            select greatest(l.expires_on + 1, today), 'expire', 'expiry', greatest(l.expires_on + 1, today),
                   -- only lots of a class share an account's day
                   count(*) filter (where w.lot_class is null)
                   + count(distinct case when w.lot_class is not null then w.account_id end),
                   sum(l.points)::bigint
              from loyalty.account a
              join loyalty.wallet w on w.account_id = a.account_id
             cross join lateral unnest(w.lot_expires_on, w.lot_remaining) l (expires_on, points)
             where a.program_id = program_number
               and l.points > 0
               and l.expires_on < horizon
             group by 1
           ) p
     order by 1, 2, 4;
end
$$;
comment on function loyalty.preview is
    'What the coming months bring, without doing it: for each day and job how many members are paid how many points in all, by the members, facts and rules of today; and how many points that members hold now lapse unless spent (job expire, the day they are booked). Overdue periods come first. LY002; 22023 for months not from 1 to 120.';
