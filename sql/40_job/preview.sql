create function loyalty.preview(program text, months integer default 24)
    returns table (day date, job text, title text, period date, members bigint, points bigint)
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
    set jit = off
as $$
#variable_conflict use_column
declare
    program_number integer := loyalty.program_id(program);
    today date := loyalty.today(program);
    horizon date;
begin
    if months is null or months not between 1 and 120 then
        perform loyalty_private.raise('22023', 'out_of_range', 'months must be from 1 to 120',
            format('%s given.', coalesce(months::text, 'null')), 'Leave it out for 24.', 'months');
    end if;
    horizon := (today + make_interval(months => months))::date;
    -- each kind of job foretells its own
    return query execute (
        select string_agg(format('select f.* from %s($1, $2, $3) f', k.forecast_function), ' union all ')
               || ' order by 1, 2, 4'
          from loyalty_private.job_kind k
         where k.forecast_function is not null)
      using program_number, today, horizon;
end
$$;
comment on function loyalty.preview is
    'What the coming months bring, without doing it: for each day and job how many members are paid how many points in all, by the members, facts and rules of today; and how many points that members hold now lapse unless spent (job expire, the day they are booked). Overdue periods come first. LY002; 22023 for months not from 1 to 120.';
