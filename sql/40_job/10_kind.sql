-- Kinds of jobs. A room that has the schedule do something registers a kind here, in its own
-- folder; the scheduler calls the functions that the row names and knows no kind by name. (Names
-- and not regproc, which pg_upgrade refuses in tables.)

create table loyalty_private.job_kind (
    kind text primary key
        constraint job_kind_is_a_name check (kind ~ '^[a-z][a-z_]*(:[a-z_]+)?$'),
    has_name boolean not null,
    writes_ledger boolean not null,
    is_daily boolean not null,
    missed text not null
        constraint job_kind_missed_is_known check (missed in ('each', 'together', 'skip')),
    plan_function text not null,
    chunk_function text not null,
    periods_function text,
    forecast_function text,
    constraint job_kind_functions_are_ours check (
        plan_function ~ '^loyalty(_private)?\.[a-z_]+$' and chunk_function ~ '^loyalty(_private)?\.[a-z_]+$'
        and periods_function ~ '^loyalty(_private)?\.[a-z_]+$' and forecast_function ~ '^loyalty(_private)?\.[a-z_]+$'),
    constraint job_kind_day_has_no_name check (not (has_name and strpos(kind, ':') > 0))
);
comment on table loyalty_private.job_kind is
    'Kinds of jobs that the scheduler runs. Rows come with the extension, each from the folder of its own room.';
comment on column loyalty_private.job_kind.kind is
    'The job as loyalty.schedule has it; where has_name, what stands before the colon.';
comment on column loyalty_private.job_kind.has_name is 'Whether a program has many of them, each as kind:NAME.';
comment on column loyalty_private.job_kind.writes_ledger is
    'Whether its runs book points: those of a program go one at a time, in the order that they are due. Others, such as mails, wait for those due before them.';
comment on column loyalty_private.job_kind.is_daily is
    'Whether each day is a period, of which the latest settles those before it.';
comment on column loyalty_private.job_kind.missed is
    'What becomes of periods missed: each has a run of its own, however late; together: one run does them all; skip: what is late is not done.';
comment on column loyalty_private.job_kind.plan_function is
    'When it is due next: (program_id integer, name text, done_through date, today date, zone text) returns loyalty_private.job_plan.';
comment on column loyalty_private.job_kind.chunk_function is
    'Does one chunk of a run: (run loyalty.run, chunk_size bigint) returns loyalty_private.job_chunk.';
comment on column loyalty_private.job_kind.periods_function is
    'Periods after one up to a day, with the business day of each: (program_id integer, name text, after_period date, up_to date) returns setof (period date, pays_on date). Null where the period itself is that day.';
comment on column loyalty_private.job_kind.forecast_function is
    'For preview: (program_id integer, today date, horizon date) returns setof (day date, job text, title text, period date, members bigint, points bigint). Null where there is nothing to foretell.';

create type loyalty_private.job_plan as (
    period date,
    effective_on date,
    due_at timestamptz,
    done_through date
);
comment on type loyalty_private.job_plan is
    'When a job is due next: the period, the day that counts for it, when; and through which day its periods are settled. Period null: nothing is to come.';

comment on column loyalty_private.job_plan.period is 'The period to be done next; null when none is to come.';
comment on column loyalty_private.job_plan.effective_on is 'The day that counts for it.';
comment on column loyalty_private.job_plan.due_at is 'When it is due.';
comment on column loyalty_private.job_plan.done_through is 'Periods through this day are settled.';

create type loyalty_private.job_chunk as (
    last_account bigint,
    members bigint,
    paid bigint,
    failed bigint,
    queued bigint,
    lots bigint,
    points bigint
);
comment on type loyalty_private.job_chunk is
    'What a chunk of a run did; last_account is where the next one goes on, null when it was the last.';

comment on column loyalty_private.job_chunk.last_account is 'Where the next chunk goes on; null when this was the last.';
comment on column loyalty_private.job_chunk.members is 'Members looked at.';
comment on column loyalty_private.job_chunk.paid is 'Payments granted.';
comment on column loyalty_private.job_chunk.failed is 'Payments refused.';
comment on column loyalty_private.job_chunk.queued is 'Notices queued.';
comment on column loyalty_private.job_chunk.lots is 'Lots booked as breakage.';
comment on column loyalty_private.job_chunk.points is 'Points granted, or booked as breakage.';

create function loyalty_private.kind_of_job(job text) returns loyalty_private.job_kind
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select k.*
      from loyalty_private.job_kind k
     where k.kind = kind_of_job.job and not k.has_name
        or k.has_name and k.kind = split_part(kind_of_job.job, ':', 1)
           and char_length(kind_of_job.job) > char_length(k.kind) + 1;
end;
comment on function loyalty_private.kind_of_job is 'The kind of a job; null when there is none.';

create function loyalty_private.name_of_job(job text) returns text
    language sql immutable parallel safe
    return substr(job, strpos(job, ':') + 1);
comment on function loyalty_private.name_of_job is 'What stands behind the first colon of a job: the code of the rule in rule:CODE.';

create function loyalty_private.refuse_job(job text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty_private.raise('22023', 'no_such_job', 'no such job', format('%L given.', left(job, 100)),
        (select 'There are ' || string_agg(k.kind || case when k.has_name then ':CODE' else '' end, ', ' order by k.kind) || '.'
           from loyalty_private.job_kind k), 'job');
end
$$;
comment on function loyalty_private.refuse_job is 'Refuses a job of no kind, and says which kinds there are.';

create function loyalty_private.job_periods(program_id integer, job text, after_period date, up_to date)
    returns table (period date, pays_on date)
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    kind loyalty_private.job_kind := loyalty_private.kind_of_job(job);
begin
    if kind.periods_function is not null then
        return query execute format('select p.period, p.pays_on from %s($1, $2, $3, $4) p', kind.periods_function)
          using program_id, loyalty_private.name_of_job(job), after_period, up_to;
    end if;
end
$$;
comment on function loyalty_private.job_periods is
    'Periods of a job after one up to a day, with the day on which each counts; none for kinds whose period is that day itself.';
