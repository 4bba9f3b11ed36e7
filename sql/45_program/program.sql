-- A program begins with its first job planned, so it is created above the jobs.

create function loyalty.create_program(
    code text,
    name text,
    point_name text default 'point',
    time_zone text default 'Asia/Tokyo',
    calendar text default 'JP',
    expiry loyalty.expiry_policy default 'end of month after 3 years',
    refund_grace_days integer default null
) returns loyalty.program
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    created loyalty.program;
begin
    if code is null or name is null then
        perform loyalty_private.raise('22004', 'value_missing', 'code and name must not be null', null,
            'Pass code => …, name => … .');
    end if;
    perform loyalty_private.check_calendar(calendar);
    insert into loyalty.program
           (code, name, point_name, time_zone, calendar, expiry, refund_grace_days, created_at)
    values (create_program.code, create_program.name, create_program.point_name,
            create_program.time_zone, create_program.calendar, create_program.expiry,
            create_program.refund_grace_days, loyalty.now())
    returning * into created;
    perform loyalty_private.plan_schedule(created.program_id, 'expire');
    return created;
end
$$;
comment on function loyalty.create_program is
    'Creates a points program. expiry applies to grants without a day of their own; refund_grace_days null forfeits refunded points whose day has passed. 23505 when the code is taken, 23514 or 22023 for a bad value.';
