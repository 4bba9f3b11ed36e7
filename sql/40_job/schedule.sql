-- What a program does by itself, and when next. The tick reads what is due by an index on
-- this table and nothing else; what it did is in loyalty.run.

create table loyalty.schedule (
    program_id integer not null references loyalty.program,
    job text not null
        constraint schedule_job_is_short check (char_length(job) <= 100),
    kind text not null
        constraint schedule_job_is_known references loyalty_private.job_kind,
    turn text not null
        constraint schedule_turn_is_short check (char_length(turn) <= 100),
    done_through date,
    next_period date,
    effective_on date,
    due_at timestamptz,
    is_paused boolean not null default false,
    primary key (program_id, job),
    constraint schedule_is_planned_whole
        check ((next_period is null) = (due_at is null) and (next_period is null) = (effective_on is null))
);
create index schedule_by_due_at on loyalty.schedule (due_at) where not is_paused;
-- for a clock that was ahead: see tick_step
create index schedule_of_days on loyalty.schedule (due_at) where job = 'expire';

comment on table loyalty.schedule is
    'The recurring jobs of each program, and when each is due next. The row of job expire is also what ledger work of a program is locked by.';
comment on column loyalty.schedule.program_id is 'The program.';
comment on column loyalty.schedule.job is
    'expire: books breakage after local midnight; rule:CODE: pays by that rule; notice:balance, notice:expiry: queue mails.';
comment on column loyalty.schedule.kind is 'What kind of job it is.';
comment on column loyalty.schedule.turn is
    'The job whose row is locked while this one is worked on: expire where it books points, else itself.';
comment on column loyalty.schedule.done_through is
    'Periods through this day are done, or lay before the schedule began.';
comment on column loyalty.schedule.next_period is 'The period to be done next, a nominal day; null when none is to come.';
comment on column loyalty.schedule.effective_on is
    'The day that counts for it, in the program''s time zone: of a rule, the nominal day rolled to a business day.';
comment on column loyalty.schedule.due_at is 'When it is due.';
comment on column loyalty.schedule.is_paused is 'Whether the tick leaves it alone, until resume_schedule.';

create function loyalty_private.plan_schedule(program_id integer, job text) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    zone text;
    today date;
    known loyalty.schedule;
    kind loyalty_private.job_kind := loyalty_private.kind_of_job(plan_schedule.job);
    plan loyalty_private.job_plan;
begin
    select p.time_zone, timezone(p.time_zone, loyalty.now())::date into zone, today
      from loyalty.program p
     where p.program_id = plan_schedule.program_id;
    if zone is null then
        perform loyalty_private.raise('LY002', 'no_such_program', 'no such program',
            format('Number %s given.', plan_schedule.program_id),
            'select program_id, code from loyalty.program lists them.');
    elsif kind.kind is null then
        perform loyalty_private.refuse_job(plan_schedule.job);
    end if;
    select * into known
      from loyalty.schedule s
     where s.program_id = plan_schedule.program_id and s.job = plan_schedule.job
       for update;
    execute format('select * from %s($1, $2, $3, $4, $5)', kind.plan_function)
       into plan
      using plan_schedule.program_id, loyalty_private.name_of_job(plan_schedule.job), known.done_through, today, zone;
    if plan.period is null and known.job is null then
        return; -- nothing to come, and nothing to change
    end if;
    insert into loyalty.schedule as s (program_id, job, kind, turn, done_through, next_period, effective_on, due_at)
    values (plan_schedule.program_id, plan_schedule.job, kind.kind,
            case when kind.writes_ledger then 'expire' else plan_schedule.job end,
            plan.done_through, plan.period, plan.effective_on, plan.due_at)
        on conflict (program_id, job) do update
       set done_through = excluded.done_through,
           next_period = excluded.next_period,
           effective_on = excluded.effective_on,
           due_at = excluded.due_at
     where (s.done_through, s.next_period, s.effective_on, s.due_at)
           is distinct from (excluded.done_through, excluded.next_period, excluded.effective_on, excluded.due_at);
end
$$;
comment on function loyalty_private.plan_schedule is
    'Works out again when a job of a program is due next. Whoever writes what a job goes by calls it, such as a rule or a notice setting; a rule''s first plan begins with what pays today or later. LY002, 22023.';

create function loyalty_private.program_replanned() returns trigger
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty_private.plan_schedule(s.program_id, s.job)
       from (select s.program_id, s.job
               from loyalty.schedule s
              where s.program_id = new.program_id
              order by s.job) s;
    return null;
end
$$;
comment on function loyalty_private.program_replanned is 'Another time zone or calendar moves what is planned.';
-- Not on INSERT: create_program plans, and a dump brings the schedule as it was.
create trigger replanned after update of time_zone, calendar on loyalty.program
    for each row when ((old.time_zone, old.calendar) is distinct from (new.time_zone, new.calendar))
    execute function loyalty_private.program_replanned();

create function loyalty_private.change_schedule(program text, job text, is_paused boolean)
    returns setof loyalty.schedule
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    program_number integer := loyalty.program_id(program);
begin
    if change_schedule.job is not null and not exists (
           select from loyalty.schedule s
            where s.program_id = program_number and s.job = change_schedule.job) then
        perform loyalty_private.raise('22023', 'no_such_job', 'no such job',
            format('Program %L has no job %L.', program, change_schedule.job),
            (select 'It has ' || string_agg(s.job, ', ' order by s.job) || '.'
               from loyalty.schedule s
              where s.program_id = program_number), 'job');
    end if;
    update loyalty.schedule s
       set is_paused = change_schedule.is_paused
     where s.program_id = program_number
       and (change_schedule.job is null or s.job = change_schedule.job)
       and s.is_paused <> change_schedule.is_paused;
    return query
    select s.*
      from loyalty.schedule s
     where s.program_id = program_number
       and (change_schedule.job is null or s.job = change_schedule.job)
     order by s.job;
end
$$;
comment on function loyalty_private.change_schedule is 'For pause_schedule and resume_schedule.';

create function loyalty.pause_schedule(program text, job text default null) returns setof loyalty.schedule
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select s.* from loyalty_private.change_schedule(pause_schedule.program, pause_schedule.job, true) s;
end;
comment on function loyalty.pause_schedule is
    'Has the tick leave a job of a program alone (all of its jobs when null) from the next chunk on, also one in the middle of a run. Returns the rows. LY002, 22023.';

create function loyalty.resume_schedule(program text, job text default null) returns setof loyalty.schedule
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select s.* from loyalty_private.change_schedule(resume_schedule.program, resume_schedule.job, false) s;
end;
comment on function loyalty.resume_schedule is
    'Ends a pause. What was missed meanwhile is caught up as after downtime, each rule period with its own day. LY002, 22023.';

create function loyalty.install_schedules(schedule text default '* * * * *') returns bigint
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    job_id bigint;
begin
    if not exists (select from pg_extension where extname = 'pg_cron') then
        -- whoever calls has no right to what raises errors elsewhere
        raise exception using errcode = '22023', constraint = 'pg_cron_missing', message = 'pg_cron is not installed in this database',
            detail = format('Database %s has no extension pg_cron.', current_database()),
            hint = 'Add pg_cron to shared_preload_libraries, set cron.database_name to this database, create extension pg_cron. Without it, call loyalty.tick() each minute by any other means.';
    end if;
    -- by name it replaces what an earlier call installed
    execute 'select cron.schedule($1, $2, $3)' into job_id
      using 'pg_loyalty tick', install_schedules.schedule, 'call loyalty.tick()';
    return job_id;
end
$$;
comment on function loyalty.install_schedules is
    'Has pg_cron call loyalty.tick() each minute, as the calling user. Safe to call again.';

create function loyalty.uninstall_schedules() returns boolean
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    removed boolean := false;
begin
    if exists (select from pg_extension where extname = 'pg_cron') then
        execute 'select coalesce(bool_or(cron.unschedule(jobid)), false) from cron.job where jobname = $1 and database = $2'
           into removed
          using 'pg_loyalty tick', current_database();
    end if;
    return removed;
end
$$;
comment on function loyalty.uninstall_schedules is
    'Takes back install_schedules(); whether there was anything to take back.';
