-- Runs: what the schedule did. One row for each program, job and period, begun once; its
-- cursor moves in the transaction of the work that it tells of, so a crash loses a chunk of
-- both or of neither.

create table loyalty.run (
    run_id bigint generated always as identity primary key,
    program_id integer not null references loyalty.program,
    job text not null
        constraint run_job_is_short check (char_length(job) <= 100),
    kind text not null
        constraint run_job_is_known references loyalty_private.job_kind,
    period date not null,
    effective_on date not null,
    started_at timestamptz not null,
    reopened_at timestamptz,
    finished_at timestamptz,
    outcome text
        constraint run_outcome_is_known check (outcome in ('done', 'skipped')),
    last_account bigint,
    chunks integer not null default 0,
    members bigint not null default 0,
    paid bigint not null default 0,
    failed bigint not null default 0,
    queued bigint not null default 0,
    lots bigint not null default 0,
    points bigint not null default 0,
    error text,
    note text,
    constraint run_is_once unique (program_id, job, period),
    constraint run_has_an_outcome_when_finished check ((outcome is null) = (finished_at is null))
);
create index run_open on loyalty.run (program_id, job, period) where finished_at is null;
create index run_reopened on loyalty.run (reopened_at) where finished_at is null and reopened_at is not null;

comment on table loyalty.run is
    'What the schedule did: one row for each program, job and period, which is never done twice.';
comment on column loyalty.run.run_id is 'Number of the run.';
comment on column loyalty.run.program_id is 'The program.';
comment on column loyalty.run.job is 'What was done, as in loyalty.schedule.';
comment on column loyalty.run.kind is 'What kind of job it was.';
comment on column loyalty.run.period is
    'The day that the run is for, in the program''s time zone; of a rule, the nominal one.';
comment on column loyalty.run.effective_on is
    'The day that counts, however late the run comes: of a rule, granted_on of what it pays.';
comment on column loyalty.run.started_at is 'When it was first begun.';
comment on column loyalty.run.reopened_at is 'When loyalty.rerun last opened it again.';
comment on column loyalty.run.finished_at is
    'When it was done, by itself or by the run of a later period; null while it is not.';
comment on column loyalty.run.outcome is 'done, or skipped (note says why); null while it runs.';
comment on column loyalty.run.last_account is 'Where the next chunk goes on: the last account looked at.';
comment on column loyalty.run.chunks is 'Transactions it took so far.';
comment on column loyalty.run.members is 'Members looked at, since it was last opened.';
comment on column loyalty.run.paid is 'Payments granted so far.';
comment on column loyalty.run.failed is 'Payments refused, listed in loyalty.run_failure.';
comment on column loyalty.run.queued is 'Notices queued so far.';
comment on column loyalty.run.lots is 'Lots booked as breakage so far.';
comment on column loyalty.run.points is 'Points granted, or booked as breakage, so far.';
comment on column loyalty.run.error is 'What stopped it last; null when nothing did since.';
comment on column loyalty.run.note is 'Why it was skipped.';

create table loyalty.run_failure (
    run_id bigint not null references loyalty.run,
    program_id integer not null references loyalty.program,
    account_id bigint not null references loyalty.account,
    idempotency_key text not null default '',
    points bigint,
    code text not null,
    message text not null,
    failed_at timestamptz not null,
    primary key (run_id, account_id, idempotency_key)
);
comment on table loyalty.run_failure is
    'Payments that a run could not make; the others went on. They are tried again by retry_failures or rerun, and leave this list when they are made.';
comment on column loyalty.run_failure.run_id is 'The run.';
comment on column loyalty.run_failure.program_id is 'The program.';
comment on column loyalty.run_failure.account_id is 'Whose payment.';
comment on column loyalty.run_failure.idempotency_key is
    'Key of the payment; empty where it could not even be worked out.';
comment on column loyalty.run_failure.points is 'Points of the payment; null where they could not be worked out.';
comment on column loyalty.run_failure.code is 'SQLSTATE: LY004 for a closed account, 54000 for a full wallet, and so on.';
comment on column loyalty.run_failure.message is 'What was wrong, in words.';
comment on column loyalty.run_failure.failed_at is 'When it last failed.';

create function loyalty_private.accounts_between(program_id integer, after_account bigint, last_account bigint)
    returns bigint
    language sql stable set search_path = pg_catalog, pg_temp
    return (
        select count(*)
          from loyalty.account a
         where a.program_id = accounts_between.program_id
           and a.account_id > coalesce(after_account, 0)
           and a.account_id <= coalesce(last_account, 9223372036854775807)
    );
comment on function loyalty_private.accounts_between is
    'For runs: how many accounts of a program a chunk looked at; nulls are its ends.';

create function loyalty_private.advance_schedule(program_id integer, job text, period date) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    -- a period done again, by rerun, moves nothing
    update loyalty.schedule s
       set done_through = advance_schedule.period
     where s.program_id = advance_schedule.program_id
       and s.job = advance_schedule.job
       and s.next_period <= advance_schedule.period;
    perform loyalty_private.plan_schedule(s.program_id, s.job)
       from (select s.program_id, s.job
               from loyalty.schedule s
               join loyalty_private.job_kind k on k.kind = s.kind
              where s.program_id = advance_schedule.program_id
                and (s.job = advance_schedule.job
                     -- once a day, days that the calendar opened or closed meanwhile
                     or advance_schedule.job = 'expire' and k.periods_function is not null)
              order by s.job) s;
end
$$;
comment on function loyalty_private.advance_schedule is 'Plans what comes after a period that is done.';

create function loyalty_private.finish_run(run_id bigint, outcome text, note text default null) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    finished loyalty.run;
    kind loyalty_private.job_kind;
begin
    update loyalty.run r
       set finished_at = loyalty.now(), outcome = finish_run.outcome, note = finish_run.note
     where r.run_id = finish_run.run_id
    returning r.* into finished;
    select k.* into kind from loyalty_private.job_kind k where k.kind = finished.kind;
    -- A daily run does all that is due by its day: so are periods before it that a crash or an
    -- error left open. Whoever is at one of them now closes it alone.
    if kind.is_daily then
        update loyalty.run
           set finished_at = loyalty.now(),
               outcome = case when kind.missed = 'together' then 'done' else 'skipped' end,
               note = case when kind.missed <> 'together' then 'Its day was over before it was done.' end
         where run_id in (
                   select r.run_id
                     from loyalty.run r
                    where r.program_id = finished.program_id
                      and r.job = finished.job
                      and r.period < finished.period
                      and r.finished_at is null
                      for update skip locked);
    end if;
    perform loyalty_private.advance_schedule(finished.program_id, finished.job, finished.period);
end
$$;
comment on function loyalty_private.finish_run is 'Closes a run, and plans what comes after it.';

create function loyalty_private.run_chunk(program_id integer, job text, period date, chunk_size bigint)
    returns text
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    -- functions that return sets look dear to the planner, and are not
    set jit = off
as $$
#variable_conflict use_column
declare
    kind loyalty_private.job_kind := loyalty_private.kind_of_job(run_chunk.job);
    working loyalty.run;
    did loyalty_private.job_chunk;
    state text;
    problem text;
begin
    if chunk_size <= 0 then
        perform loyalty_private.raise('22023', 'out_of_range', 'chunk_size must be above zero', format('%s given.', chunk_size),
            'Accounts that one transaction books.', 'chunk_size');
    elsif kind.kind is null then
        perform loyalty_private.refuse_job(run_chunk.job);
    end if;
    insert into loyalty.run (program_id, job, kind, period, effective_on, started_at)
    select run_chunk.program_id, run_chunk.job, kind.kind, run_chunk.period,
           case when kind.periods_function is null then run_chunk.period else (
               select p.pays_on
                 from loyalty_private.job_periods(run_chunk.program_id, run_chunk.job,
                          run_chunk.period - 1, run_chunk.period) p
                where p.period = run_chunk.period)
           end,
           loyalty.now()
     where not exists (
               select from loyalty.run r
                where r.program_id = run_chunk.program_id
                  and r.job = run_chunk.job
                  and r.period = run_chunk.period)
        on conflict on constraint run_is_once do nothing;
    -- a tick beside this one leaves the row to whoever has it
    select * into working
      from loyalty.run r
     where r.program_id = run_chunk.program_id
       and r.job = run_chunk.job
       and r.period = run_chunk.period
       for update skip locked;
    if not found then
        return 'busy';
    end if;
    if working.finished_at is not null then
        -- the clock went back, or the row was restored without its schedule
        perform loyalty_private.advance_schedule(working.program_id, working.job, working.period);
        return 'done';
    end if;
    if kind.missed = 'skip' and working.period < (
           select timezone(p.time_zone, loyalty.now())::date
             from loyalty.program p
            where p.program_id = working.program_id) then
        perform loyalty_private.finish_run(working.run_id, 'skipped', case when working.chunks = 0
            then 'Its day was over before it began.' else 'Its day was over before it was done.' end);
        return 'done';
    end if;
    begin
        execute format('select c.* from %s($1, $2) c', kind.chunk_function)
           into did
          using working, chunk_size;
        update loyalty.run r
           set last_account = coalesce(did.last_account, r.last_account),
               chunks = r.chunks + 1,
               members = r.members + coalesce(did.members, 0),
               paid = r.paid + coalesce(did.paid, 0),
               failed = r.failed + coalesce(did.failed, 0),
               queued = r.queued + coalesce(did.queued, 0),
               lots = r.lots + coalesce(did.lots, 0),
               points = r.points + coalesce(did.points, 0),
               error = null
         where r.run_id = working.run_id;
        if did.last_account is null then
            perform loyalty_private.finish_run(working.run_id, 'done');
            return 'done';
        end if;
    exception when others then
        get stacked diagnostics state = returned_sqlstate, problem = message_text;
        update loyalty.run r set error = state || ' ' || problem where r.run_id = working.run_id;
        return 'failed';
    end;
    return 'more';
end
$$;
comment on function loyalty_private.run_chunk is
    'Does one chunk of a run, in the caller''s transaction: more, done, failed (the run says why), or busy in another session.';
