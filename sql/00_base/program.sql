create function loyalty.is_time_zone(name text) returns boolean
    language plpgsql immutable strict parallel safe
as $$
begin
    perform pg_catalog.timezone(name, '2000-01-01 00:00+00'::pg_catalog.timestamptz);
    return true;
exception when invalid_parameter_value then
    return false;
end
$$;

comment on function loyalty.is_time_zone is 'Whether PostgreSQL knows a time zone of that name.';

-- The day's first instant where the program is: where clocks are set back over midnight (Azores,
-- Havana) that is the first of two midnights, where they skip it (Beirut) what they show instead.
create function loyalty_private.midnight(day date, time_zone text) returns timestamptz
    language sql stable parallel safe set search_path = pg_catalog, pg_temp
    return least(
        pg_catalog.timezone(midnight.time_zone, midnight.day::timestamp),
        pg_catalog.timezone(midnight.time_zone, midnight.day::timestamp - interval '1 microsecond') + interval '1 microsecond');
comment on function loyalty_private.midnight is 'When the day begins in a time zone.';

create table loyalty.program (
    program_id integer generated always as identity primary key,
    code text not null
        constraint program_code_is_unique unique
        constraint program_code_is_plain check (code ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
    name text not null
        constraint program_name_is_short check (char_length(name) between 1 and 200),
    point_name text not null default 'point'
        constraint program_point_name_is_short check (char_length(point_name) between 1 and 50),
    time_zone text not null default 'Asia/Tokyo'
        constraint program_time_zone_is_known check (loyalty.is_time_zone(time_zone)),
    calendar text not null default 'JP',
    expiry loyalty.expiry_policy not null default 'end of month after 3 years',
    refund_grace_days integer
        constraint program_refund_grace_is_sane check (refund_grace_days between 0 and 3660),
    created_at timestamptz not null,
    -- src/table/program.rs declares the columns in this order: new ones only come behind
    announces_grants boolean not null default false
);

create function loyalty_private.program_changed() returns trigger
    language c
    as 'MODULE_PATHNAME', 'loyalty_program_changed';
comment on function loyalty_private.program_changed is
    'Sessions remember the programs they read; this has them read again.';
-- For each row and always: so those see it too who are connected where rows arrive by logical
-- replication, which knows no triggers of statements.
create trigger changed after insert or update or delete on loyalty.program
    for each row execute function loyalty_private.program_changed();
create trigger emptied after truncate on loyalty.program
    for each statement execute function loyalty_private.program_changed();
alter table loyalty.program enable always trigger changed;
alter table loyalty.program enable always trigger emptied;

create table loyalty.lot_class (
    program_id integer not null references loyalty.program,
    lot_class smallint not null
        constraint lot_class_0_is_the_programs_own check (lot_class > 0),
    funding text not null
        constraint lot_class_funding_is_short check (char_length(funding) between 1 and 63),
    inactivity_months smallint
        constraint lot_class_inactivity_is_sane check (inactivity_months between 1 and 1200),
    primary key (program_id, lot_class),
    constraint lot_class_is_unique unique nulls not distinct (program_id, funding, inactivity_months)
);

create table loyalty.calendar (
    calendar text primary key
        constraint calendar_name_is_free check (calendar not in ('JP', 'none') and calendar <> ''),
    based_on text not null
        constraint calendar_base_is_built_in check (based_on in ('JP', 'none')),
    year_end_closed boolean not null default false
);

create table loyalty.calendar_day (
    calendar text not null,
    day date not null,
    is_business_day boolean not null,
    name text,
    primary key (calendar, day)
);

comment on table loyalty.program is
    'A points program of one organisation. Changing a row changes later operations only: points already granted keep their terms.';
comment on column loyalty.program.program_id is 'Number of the program within this database.';
comment on column loyalty.program.code is 'What calls and tokens name the program by.';
comment on column loyalty.program.name is 'What people call the program.';
comment on column loyalty.program.point_name is 'What the program calls its points: point, coin, mile.';
comment on column loyalty.program.time_zone is 'Where its days begin and end, as an IANA name.';
comment on column loyalty.program.calendar is 'Its business days: JP, none, or a row of loyalty.calendar.';
comment on column loyalty.program.expiry is 'When points granted without a day of their own lapse.';
comment on column loyalty.program.refund_grace_days is
    'Refunded points whose last day has passed: null forfeits them (booked as breakage), a number makes them spendable for so many days more.';
comment on column loyalty.program.created_at is 'When the program was created.';
comment on column loyalty.program.announces_grants is
    'Whether members are told of points they receive; set by loyalty.set_notice.';

comment on table loyalty.lot_class is
    'What lots of one class share: who funds them, and whether inactivity lets them lapse. Class 0, without a row, is the program''s own with a fixed last day.';
comment on column loyalty.lot_class.program_id is 'The program.';
comment on column loyalty.lot_class.lot_class is 'Number of the class within the program, from 1.';
comment on column loyalty.lot_class.funding is 'Who pays for these points.';
comment on column loyalty.lot_class.inactivity_months is
    'Months without activity after which the lot lapses; null when its last day is fixed.';

comment on table loyalty.calendar is
    'Business calendars of your own, on top of the built-in ones: JP (Japan''s public holidays) and none (weekends only).';
comment on column loyalty.calendar.calendar is 'Its name.';
comment on column loyalty.calendar.based_on is 'The built-in calendar whose holidays it has: JP or none.';
comment on column loyalty.calendar.year_end_closed is 'Whether 31 December to 3 January are closed, as banks are.';

comment on table loyalty.calendar_day is
    'Days that a calendar, built-in ones included, opens or closes against its rules: a new law, a closure of the company, another country''s holidays. A calendar also takes the days of the built-in one that it is based on.';
comment on column loyalty.calendar_day.calendar is 'The calendar, built-in or of loyalty.calendar.';
comment on column loyalty.calendar_day.day is 'The day.';
comment on column loyalty.calendar_day.is_business_day is 'Whether it is a business day.';
comment on column loyalty.calendar_day.name is 'Why: the name of the holiday or closure.';

create function loyalty_private.check_calendar(calendar text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    -- any day will do: an unknown calendar is refused with the list of those there are
    perform loyalty.is_business_day('2000-01-01', calendar);
end
$$;
comment on function loyalty_private.check_calendar is 'Refuses an unknown calendar.';

create function loyalty.program_id(code text) returns integer
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    found_id integer;
begin
    select p.program_id into found_id from loyalty.program p where p.code = program_id.code;
    if found_id is null then
        perform loyalty_private.raise('LY002', 'no_such_program', 'no such program', pg_catalog.format('%L given.', code),
            'select code from loyalty.program lists them.', 'program');
    end if;
    return found_id;
end
$$;
comment on function loyalty.program_id is 'Number of the program with that code; LY002 when there is none.';

create function loyalty.today(program text) returns date
    language sql stable security definer set search_path = pg_catalog, pg_temp
    return (
        select pg_catalog.timezone(p.time_zone, loyalty.now())::date
          from loyalty.program p
         where p.program_id = loyalty.program_id(program)
    );
comment on function loyalty.today is 'The date in the program''s time zone.';

create function loyalty.create_calendar(
    calendar text,
    based_on text default 'JP',
    year_end_closed boolean default false
) returns loyalty.calendar
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    insert into loyalty.calendar (calendar, based_on, year_end_closed)
    values (create_calendar.calendar, create_calendar.based_on, create_calendar.year_end_closed)
    returning *;
end;
comment on function loyalty.create_calendar is
    'Creates a business calendar on top of a built-in one (JP or none), with the banks'' year end closed if asked.';

create function loyalty.set_calendar_day(
    calendar text,
    day date,
    is_business_day boolean,
    name text default null
) returns loyalty.calendar_day
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    written loyalty.calendar_day;
begin
    perform loyalty_private.check_calendar(set_calendar_day.calendar);
    insert into loyalty.calendar_day as d (calendar, day, is_business_day, name)
    values (set_calendar_day.calendar, set_calendar_day.day,
            set_calendar_day.is_business_day, set_calendar_day.name)
        on conflict (calendar, day) do update
       set is_business_day = excluded.is_business_day, name = excluded.name
    returning d.* into written;
    return written;
end
$$;
comment on function loyalty.set_calendar_day is
    'Opens or closes a day of a calendar, built-in ones included: a new law, a closure of the company. Delete the row of loyalty.calendar_day to undo it.';

create function loyalty_private.lot_class_of(program_id integer, funding text, inactivity_months integer)
    returns smallint
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known smallint;
    wanted_funding text := coalesce(lot_class_of.funding, 'program');
begin
    if wanted_funding = 'program' and lot_class_of.inactivity_months is null then
        return 0::smallint;
    elsif char_length(wanted_funding) not between 1 and 63 then
        perform loyalty_private.raise('22023', 'funding_invalid', 'funding is too long, or empty',
            format('%s characters given.', char_length(wanted_funding)),
            'From 1 to 63 characters, or null for the program''s own.', 'funding');
    end if;
    loop
        select c.lot_class into known
          from loyalty.lot_class c
         where c.program_id = lot_class_of.program_id
           and c.funding = wanted_funding
           and c.inactivity_months is not distinct from lot_class_of.inactivity_months;
        if found then
            return known;
        end if;
        insert into loyalty.lot_class (program_id, lot_class, funding, inactivity_months)
        select lot_class_of.program_id, coalesce(pg_catalog.max(c.lot_class), 0) + 1,
               wanted_funding, lot_class_of.inactivity_months
          from loyalty.lot_class c
         where c.program_id = lot_class_of.program_id
            on conflict do nothing;
    end loop;
end
$$;
comment on function loyalty_private.lot_class_of is
    'Number of the lot class with that funding and inactivity, created at its first use; 0 is the program''s own.';
