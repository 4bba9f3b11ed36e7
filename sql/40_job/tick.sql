-- The tick: finds what is due, and has it done chunk by chunk.

create function loyalty.due_periods(program_id integer, job text) returns setof date
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    planned loyalty.schedule;
    kind loyalty_private.job_kind := loyalty_private.kind_of_job(due_periods.job);
    today date;
begin
    select s.* into planned
      from loyalty.schedule s
     where s.program_id = due_periods.program_id and s.job = due_periods.job
       and s.due_at <= loyalty.now() and not s.is_paused;
    select timezone(p.time_zone, loyalty.now())::date into today
      from loyalty.program p
     where p.program_id = due_periods.program_id;
    if planned.job is not null and kind.periods_function is not null then
        return query
        select p.period
          from loyalty_private.job_periods(planned.program_id, planned.job, planned.done_through, today) p
         where p.pays_on <= today;
    elsif planned.job is not null and kind.is_daily then
        return next today;
    elsif planned.job is not null then
        return next planned.next_period;
    end if;
    return query
    select r.period
      from loyalty.run r
     where r.program_id = due_periods.program_id and r.job = due_periods.job
       and r.reopened_at is not null and r.finished_at is null
       and not exists (
               select from loyalty.schedule s
                where s.program_id = r.program_id and s.job = r.job
                  and (s.is_paused or s.due_at <= loyalty.now() and s.next_period <= r.period));
end
$$;
comment on function loyalty.due_periods is 'The periods of a job that are due now, as loyalty.due_run lists them.';

create view loyalty.due_run with (security_invoker = true) as
select p.program_id, p.code, d.job, r.period
  from (select s.program_id, s.job
          from loyalty.schedule s
         where s.due_at <= loyalty.now() and not s.is_paused
         union
        select r.program_id, r.job
          from loyalty.run r
         where r.reopened_at is not null and r.finished_at is null) d
  join loyalty.program p on p.program_id = d.program_id
 cross join lateral loyalty.due_periods(d.program_id, d.job) r (period);
comment on view loyalty.due_run is 'What the next tick will do.';
comment on column loyalty.due_run.program_id is 'The program.';
comment on column loyalty.due_run.code is 'Its code.';
comment on column loyalty.due_run.job is 'What is due, as in loyalty.schedule.';
comment on column loyalty.due_run.period is
    'For which day; after downtime a rule has one row for each period missed.';

create function loyalty_private.lock_period(program_id integer, job text) returns date
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    planned loyalty.schedule;
    kind loyalty_private.job_kind := loyalty_private.kind_of_job(lock_period.job);
    today date;
    latest date;
begin
    select timezone(p.time_zone, loyalty.now())::date into today
      from loyalty.program p
     where p.program_id = lock_period.program_id;
    select s.* into planned
      from loyalty.schedule s
     where s.program_id = lock_period.program_id and s.job = lock_period.job;
    -- What was found before the lock may be done meanwhile. And before a period begins, its
    -- day is looked up once more: the calendar may have changed since it was planned.
    if planned.due_at <= loyalty.now() and not planned.is_paused and kind.missed <> 'together'
       and not exists (select from loyalty.run r
                        where r.program_id = planned.program_id and r.job = planned.job
                          and r.period = planned.next_period) then
        if kind.missed = 'skip' and kind.is_daily and planned.next_period < today then
            -- a day missed is not made up for: today's tells the same, and more
            update loyalty.schedule s
               set done_through = today - 1
             where s.program_id = planned.program_id and s.job = planned.job;
        end if;
        perform loyalty_private.plan_schedule(planned.program_id, planned.job);
        select s.* into planned
          from loyalty.schedule s
         where s.program_id = lock_period.program_id and s.job = lock_period.job;
    end if;
    if planned.due_at is null or planned.due_at > loyalty.now() or planned.is_paused then
        return null;
    end if;
    if kind.missed <> 'together' then
        return planned.next_period;
    end if;
    -- One run books for all days missed, but no later than the day of a payment that waits
    -- too: so entries come in the order that they would have had.
    select min(s.effective_on) into latest
      from loyalty.schedule s
     where s.program_id = planned.program_id and s.turn = planned.turn and s.job <> planned.job
       and s.due_at <= loyalty.now() and not s.is_paused
       and s.effective_on >= planned.next_period;
    return least(today, latest);
end
$$;
comment on function loyalty_private.lock_period is
    'The period of a job that the tick has to do now, under the lock; null when there is none any more.';

-- Inlined where it is used, so that a condition on its columns reaches the indexes; each half is in the
-- order of an index, so that what is due first is found without going through all that is.
create function loyalty_private.due_work(passed_over text[])
    returns table (program_id integer, job text, period date, due_at timestamptz, key text, turn text)
    language sql stable
begin atomic
    select w.program_id, w.job, w.period, w.due_at, w.key, w.turn
      from ((select s.program_id, s.job, null::date as period, s.due_at, s.turn,
                    format('%s %s', s.program_id, s.job) as key
               from loyalty.schedule s
              where s.due_at <= loyalty.now() and not s.is_paused
              order by s.due_at)
             union all
            (select r.program_id, r.job, r.period, r.reopened_at,
                    (select t.turn from loyalty.schedule t where t.program_id = r.program_id and t.job = r.job),
                    format('%s %s %s', r.program_id, r.job, r.period)
               from loyalty.run r
              where r.reopened_at is not null and r.finished_at is null
                and not exists (
                        select from loyalty.schedule s
                         where s.program_id = r.program_id and s.job = r.job and s.is_paused)
              order by r.reopened_at)) w
     where w.key <> all (due_work.passed_over)
       -- mails tell of payments that were due before them
       and not (w.turn <> 'expire' and exists (
               select from loyalty.schedule b
                where b.program_id = w.program_id and b.turn = 'expire'
                  and b.due_at <= w.due_at and not b.is_paused
                  and format('%s %s', b.program_id, b.job) <> all (due_work.passed_over)));
end;
comment on function loyalty_private.due_work is
    'For tick_step: what is due and may be begun; turn is the job whose row of loyalty.schedule is the lock that it goes under.';

create function loyalty.tick_step(
    chunk_size bigint default 10000,
    inout passed_over text[] default null,
    out worked_on text,
    out outcome text
) returns record
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    turn record;
    found_work record;
    wanted date;
    state text;
    problem text;
begin
    if chunk_size <= 0 then
        perform loyalty_private.raise('22023', 'out_of_range', 'chunk_size must be above zero',
            pg_catalog.format('%s given.', chunk_size), 'Accounts that one transaction books.', 'chunk_size');
    end if;
    if passed_over is null then
        passed_over := '{}';
        -- Once a tick: days are planned one ahead, so a row far ahead is of a test clock that
        -- went back.
        if (select max(s.due_at) from loyalty.schedule s where s.job = 'expire') > loyalty.now() + interval '3 days' then
            perform loyalty_private.plan_schedule(s.program_id, s.job)
               from (select j.program_id, j.job
                       from loyalty.schedule e
                       join loyalty.schedule j on j.program_id = e.program_id
                       join loyalty_private.job_kind k on k.kind = j.kind
                      where e.job = 'expire' and e.due_at > loyalty.now() + interval '3 days'
                        and k.periods_function is null
                      order by j.program_id, j.job) s;
        end if;
        -- Mostly there is nothing, and two looks into indexes tell; min and max go by them even where the
        -- statistics are of a time before the last run.
        if coalesce((select min(s.due_at) from loyalty.schedule s where not s.is_paused) > loyalty.now(), true)
           and not exists (select from loyalty.run r where r.reopened_at is not null and r.finished_at is null) then
            return;
        end if;
    end if;
    -- Ledger jobs of a program go one at a time, in the order they are due: else the entries
    -- of a member whom two of them reach would come in any order. Programs go side by side.
    loop
        select w.program_id, w.turn into turn
          from (select d.program_id, d.turn from loyalty_private.due_work(passed_over) d order by d.due_at offset 0) w
         cross join lateral (
                   select
                     from loyalty.schedule l
                    where l.program_id = w.program_id and l.job = w.turn
                      for update skip locked) l
         limit 1;
        if not found then
            return;
        end if;
        -- What comes first is seen only now, under the lock: another session may have let go of
        -- it after this one had passed over the first job, or have finished that one before.
        select w.* into found_work
          from loyalty_private.due_work(passed_over) w
         where w.program_id = turn.program_id and w.turn = turn.turn
         order by w.due_at, w.job, w.period
         limit 1;
        exit when found;
    end loop;
    worked_on := found_work.key;
    begin
        wanted := coalesce(found_work.period, loyalty_private.lock_period(found_work.program_id, found_work.job));
        outcome := case when wanted is null then 'done'
                        else loyalty_private.run_chunk(found_work.program_id, found_work.job, wanted, chunk_size) end;
    exception when others then
        -- what cannot even be begun must not keep the others waiting
        get stacked diagnostics state = returned_sqlstate, problem = message_text;
        insert into loyalty.run as r (program_id, job, kind, period, effective_on, started_at, error)
        select s.program_id, s.job, s.kind, s.next_period, s.effective_on, loyalty.now(), state || ' ' || problem
          from loyalty.schedule s
         where s.program_id = found_work.program_id and s.job = found_work.job
           and s.next_period is not null
            on conflict on constraint run_is_once do update set error = excluded.error;
        outcome := 'failed';
    end;
    if outcome in ('failed', 'busy') then
        passed_over := passed_over || worked_on;
    end if;
end
$$;
comment on function loyalty.tick_step is
    'For callers that cannot call a procedure which commits: does one chunk of what is due first and nobody is at, in the caller''s transaction. worked_on: which job and period, null when nothing is due; outcome: more, done, failed or busy. passed_over goes from call to call, null at first: what failed is not tried again before the next round. 22023.';

create procedure loyalty.tick(chunk_size bigint default 10000)
    language plpgsql
as $$
-- No SET clause: a procedure with one cannot commit. So it names everything in full, and
-- leaves all that needs operators to functions.
declare
    passed_over text[];
    worked_on text;
begin
    loop
        select s.passed_over, s.worked_on into passed_over, worked_on from loyalty.tick_step(chunk_size, passed_over) s;
        commit;
        exit when worked_on is null;
    end loop;
end
$$;
comment on procedure loyalty.tick is
    'Does all that is due, in chunks that commit: safe to call at any time, from several sessions, again after a crash. pg_cron calls it each minute once install_schedules() was called.';

create function loyalty.rerun(program text, job text, period date) returns loyalty.run
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    program_number integer := loyalty.program_id(program);
    today date := loyalty.today(program);
    pays_on date := rerun.period;
    kind loyalty_private.job_kind := loyalty_private.kind_of_job(rerun.job);
    planned loyalty.schedule;
    opened loyalty.run;
begin
    if rerun.job is null or rerun.period is null then
        perform loyalty_private.raise('22004', 'value_missing', 'job and period must not be null', null,
            'loyalty.run lists the runs there were.');
    end if;
    select s.* into planned
      from loyalty.schedule s
     where s.program_id = program_number and s.job = rerun.job;
    if not found then
        perform loyalty_private.raise('22023', 'no_such_job', 'no such job', format('Program %L has no job %L.', program, rerun.job),
            (select 'It has ' || string_agg(s.job, ', ' order by s.job) || '.'
               from loyalty.schedule s
              where s.program_id = program_number), 'job');
    end if;
    if planned.is_paused then
        perform loyalty_private.raise('22023', 'job_paused', 'the job is paused', format('%s of program %s.', rerun.job, program),
            'Call loyalty.resume_schedule first.', 'job');
    end if;
    if kind.periods_function is not null then
        select p.pays_on into pays_on
          from loyalty_private.job_periods(program_number, rerun.job, rerun.period - 1, rerun.period) p
         where p.period = rerun.period;
        if not found then
            perform loyalty_private.raise('22023', 'no_such_period', 'the job has no such period',
                format('%s given.', rerun.period),
                'A period is the nominal day of a payment; loyalty.run lists those there were.', 'period');
        end if;
    end if;
    if pays_on > today then
        perform loyalty_private.raise('22023', 'period_not_due', 'the period has not come yet',
            format('It is due on %s; today is %s in the program''s time zone.', pays_on, today),
            'Wait for its day: the tick does it then.', 'period');
    end if;
    if kind.missed = 'skip' and pays_on < today then
        perform loyalty_private.raise('22023', 'notices_too_late', 'the day of these notices has passed',
            format('It was %s; today is %s in the program''s time zone.', pays_on, today),
            'A notice that comes days late misleads; the next ones tell the same.', 'period');
    end if;
    insert into loyalty.run as r (program_id, job, kind, period, effective_on, started_at, reopened_at)
    values (program_number, rerun.job, kind.kind, rerun.period, pays_on, loyalty.now(), loyalty.now())
        on conflict on constraint run_is_once do update
       set reopened_at = excluded.reopened_at, finished_at = null, outcome = null, note = null,
           last_account = null, members = 0, failed = 0
    returning r.* into opened;
    delete from loyalty.run_failure f where f.run_id = opened.run_id;
    return opened;
end
$$;
comment on function loyalty.rerun is
    'Opens a run again, or one that never was, for the next tick: pays who came later or failed, on the terms of its own day. Whoever was paid is not paid twice. LY002, 22004, 22023.';
