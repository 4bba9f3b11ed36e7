-- When a program's HTTP API is open (C10). SQL callers and schedules do not ask.

create table loyalty.service_hours (
    program_id integer primary key references loyalty.program,
    closed_from time not null,
    closed_until time not null,
    constraint service_hours_leave_it_open_at_times check (closed_from <> closed_until),
    constraint service_hours_are_whole_minutes_of_a_day check (
        closed_from < '24:00' and closed_until < '24:00'
        and extract(second from closed_from) = 0 and extract(second from closed_until) = 0)
);

comment on table loyalty.service_hours is
    'Hours of the day in which a program''s HTTP API is closed; a program without a row is always open.';
comment on column loyalty.service_hours.program_id is 'The program.';
comment on column loyalty.service_hours.closed_from is 'From when on it is closed, by the clocks of its time zone.';
comment on column loyalty.service_hours.closed_until is
    'When it opens again; before closed_from when that is on the next day.';

create function loyalty.set_service_hours(program text, closed_from time, closed_until time) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := loyalty.program_id(set_service_hours.program);
begin
    if (set_service_hours.closed_from is null) <> (set_service_hours.closed_until is null) then
        perform loyalty_private.raise('22004', 'value_missing', 'service hours need both times',
            format('closed_from is %s, closed_until is %s.', coalesce(set_service_hours.closed_from::text, 'null'),
                coalesce(set_service_hours.closed_until::text, 'null')),
            'Pass closed_from and closed_until, or null for both: always open.');
    end if;
    if set_service_hours.closed_from = set_service_hours.closed_until
       or greatest(set_service_hours.closed_from, set_service_hours.closed_until) = '24:00'
       or extract(second from set_service_hours.closed_from) + extract(second from set_service_hours.closed_until) > 0 then
        perform loyalty_private.raise('22023', 'service_hours_invalid',
            'service hours must be whole minutes and leave the program open at some time',
            format('Closed from %s until %s.', set_service_hours.closed_from, set_service_hours.closed_until),
            'Such as closed_from 02:00 and closed_until 05:00; midnight is 00:00.');
    end if;
    if set_service_hours.closed_from is null then
        delete from loyalty.service_hours h where h.program_id = within;
    else
        insert into loyalty.service_hours as h (program_id, closed_from, closed_until)
        values (within, set_service_hours.closed_from, set_service_hours.closed_until)
            on conflict (program_id) do update
           set closed_from = excluded.closed_from, closed_until = excluded.closed_until;
    end if;
    perform loyalty_private.audit('set_service_hours', within, details => jsonb_build_object(
        'closed_from', set_service_hours.closed_from, 'closed_until', set_service_hours.closed_until));
end
$$;
comment on function loyalty.set_service_hours is
    'Closes a program''s HTTP API from one time of its day until another, across midnight too; nulls keep it open always. LY002, 22004, 22023.';

create function loyalty_private.is_closed_at(shown time, closed_from time, closed_until time) returns boolean
    language sql immutable strict parallel safe
    return case when closed_from < closed_until then shown >= closed_from and shown < closed_until
                else shown >= closed_from or shown < closed_until end;
comment on function loyalty_private.is_closed_at is 'Whether a clock shows a time within the hours.';

create function loyalty.opens_at(program_id integer) returns timestamptz
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    -- What the clocks show decides, also where they skip an hour or show one twice: the next
    -- minute that is open is looked for. No program is closed for as long as 25 hours.
    select min(t.at)
      from loyalty.service_hours h
      join loyalty.program p on p.program_id = h.program_id
     cross join generate_series(date_trunc('minute', loyalty.now()),
                                date_trunc('minute', loyalty.now()) + interval '25 hours',
                                interval '1 minute') as t (at)
     where h.program_id = opens_at.program_id
       and loyalty_private.is_closed_at(timezone(p.time_zone, loyalty.now())::time, h.closed_from, h.closed_until)
       and not loyalty_private.is_closed_at(timezone(p.time_zone, t.at)::time, h.closed_from, h.closed_until);
end;
comment on function loyalty.opens_at is
    'When a program that is closed over HTTP now opens again; null when it is open.';

create function loyalty_private.raise_closed(detail text, retry_after_seconds bigint) returns void
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_raise_closed';
comment on function loyalty_private.raise_closed is
    'For check_service_hours: LY007, over HTTP 503 with the header Retry-After.';

create function loyalty_private.check_service_hours(program_id integer) returns void
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    opening timestamptz := loyalty.opens_at(program_id);
    seconds bigint := ceil(extract(epoch from opening - loyalty.now()))::bigint;
    zone text;
begin
    if opening is null then
        return;
    end if;
    select p.time_zone into zone from loyalty.program p where p.program_id = check_service_hours.program_id;
    perform loyalty_private.raise_closed(
        format('The program opens at %s (%s), in %s seconds.',
            to_char(timezone(zone, opening), 'YYYY-MM-DD HH24:MI'), zone, seconds), seconds);
end
$$;
comment on function loyalty_private.check_service_hours is
    'Refuses a request while the program is closed with LY007, and tells when to come again (guide C10).';
