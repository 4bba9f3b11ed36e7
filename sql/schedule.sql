create table loyalty.run (
    run_id bigint generated always as identity primary key,
    program_id integer not null references loyalty.program,
    job text not null
        constraint run_job_is_known check (job in ('expire')),
    period date not null,
    started_at timestamptz not null,
    finished_at timestamptz,
    chunks integer not null default 0,
    lots bigint not null default 0,
    points bigint not null default 0,
    error text,
    constraint run_is_once unique (program_id, job, period)
);
comment on table loyalty.run is
    'What the schedule did: one row for each program, job and period, which is never done twice.';
comment on column loyalty.run.run_id is 'Number of the run.';
comment on column loyalty.run.program_id is 'The program.';
comment on column loyalty.run.job is 'expire: books breakage after midnight in the program''s time zone.';
comment on column loyalty.run.period is 'The day that the run is for, in the program''s time zone.';
comment on column loyalty.run.started_at is 'When it was first claimed.';
comment on column loyalty.run.finished_at is 'When it was done, by itself or by the run of a later period; null while it is not.';
comment on column loyalty.run.chunks is 'Transactions it took so far.';
comment on column loyalty.run.lots is 'Lots booked so far.';
comment on column loyalty.run.points is 'Points booked so far.';
comment on column loyalty.run.error is 'What stopped it last; null when nothing did since.';

-- Work that is due: no run of the job is done for today where the program is. A run that
-- downtime swallowed needs no row of its own, since booking is for all days past.
create view loyalty.due_run with (security_invoker = true) as
select p.program_id, p.code, 'expire'::text as job, t.today as period
  from loyalty.program p
 cross join lateral (select pg_catalog.timezone(p.time_zone, loyalty.now())::date as today) t
  left join loyalty.run r
    on r.program_id = p.program_id and r.job = 'expire' and r.period = t.today
 where r.finished_at is null;
comment on view loyalty.due_run is 'What the next tick will do.';
comment on column loyalty.due_run.program_id is 'The program.';
comment on column loyalty.due_run.code is 'Its code.';
comment on column loyalty.due_run.job is 'What is due.';
comment on column loyalty.due_run.period is 'For which day.';

create function loyalty.run_chunk(program_id integer, job text, period date, chunk_size bigint)
    returns boolean
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    claimed loyalty.run;
    booked record;
    problem text;
begin
    insert into loyalty.run (program_id, job, period, started_at)
    values (run_chunk.program_id, run_chunk.job, run_chunk.period, loyalty.now())
        on conflict on constraint run_is_once do nothing;
    -- a tick beside this one leaves the row to whoever has it
    select * into claimed
      from loyalty.run r
     where r.program_id = run_chunk.program_id
       and r.job = run_chunk.job
       and r.period = run_chunk.period
       and r.finished_at is null
       for update skip locked;
    if not found then
        return true;
    end if;
    begin
        select e.lots, e.points into booked
          from loyalty.program p
         cross join loyalty.expire(p.code, run_chunk.period, run_chunk.chunk_size) e
         where p.program_id = run_chunk.program_id;
    exception when others then
        get stacked diagnostics problem = message_text;
        update loyalty.run r set error = sqlstate || ' ' || problem where r.run_id = claimed.run_id;
        return true;
    end;
    update loyalty.run r
       set chunks = r.chunks + 1,
           lots = r.lots + booked.lots,
           points = r.points + booked.points,
           error = null,
           finished_at = case when booked.lots = 0 then loyalty.now() end
     where r.run_id = claimed.run_id;
    if booked.lots = 0 then
        -- Earlier periods that a crash or an error left open are done by this one. Whoever
        -- is at one of them now will find nothing left and close it.
        update loyalty.run
           set finished_at = loyalty.now()
         where run_id in (
                   select r.run_id
                     from loyalty.run r
                    where r.program_id = run_chunk.program_id
                      and r.job = run_chunk.job
                      and r.period < run_chunk.period
                      and r.finished_at is null
                      for update skip locked);
    end if;
    return booked.lots = 0;
end
$$;
comment on function loyalty.run_chunk is
    'Does one chunk of a run, in the caller''s transaction; true when there is no more of it to do now.';

create procedure loyalty.tick(chunk_size bigint default 10000)
    language plpgsql
as $$
declare
    due record;
begin
    -- no SET clause here: a procedure with one cannot commit
    if chunk_size <= 0 then
        perform loyalty.raise('22023', 'chunk_size must be above zero',
            pg_catalog.format('%s given.', chunk_size), 'Accounts that one transaction books.');
    end if;
    for due in
        select d.program_id, d.job, d.period from loyalty.due_run d order by d.program_id, d.job
    loop
        loop
            exit when loyalty.run_chunk(due.program_id, due.job, due.period, chunk_size);
            commit;
        end loop;
        commit;
    end loop;
end
$$;
comment on procedure loyalty.tick is
    'Does all that is due, in chunks that commit: safe to call at any time, from several sessions, again after a crash. pg_cron calls it each minute once install_schedules() was called.';

create function loyalty.install_schedules(schedule text default '* * * * *') returns bigint
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    job_id bigint;
begin
    if not exists (select from pg_extension where extname = 'pg_cron') then
        perform loyalty.raise('22023', 'pg_cron is not installed in this database',
            format('Database %s has no extension pg_cron.', current_database()),
            'Add pg_cron to shared_preload_libraries, set cron.database_name to this database, create extension pg_cron. Without it, call loyalty.tick() each minute by any other means.');
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
