-- Schedules and runs over HTTP, for administrators of the program.

create view loyalty_api.schedule with (security_invoker = true) as
select p.code as program, s.job, s.done_through, s.next_period, s.effective_on, s.due_at, s.is_paused
  from loyalty.schedule s
  join loyalty.program p on p.program_id = s.program_id;
comment on view loyalty_api.schedule is
$$Schedules

The recurring jobs of the program and when each is due next. Administrators only.$$;
comment on column loyalty_api.schedule.program is 'Code of the program.';
comment on column loyalty_api.schedule.job is
    'expire: books points that lapsed; rule:CODE: pays by that rule; notice:balance, notice:expiry: queue mails.';
comment on column loyalty_api.schedule.done_through is 'Periods through this day are done.';
comment on column loyalty_api.schedule.next_period is 'The period to be done next, a nominal day; null when none is to come.';
comment on column loyalty_api.schedule.effective_on is 'The day that counts for it: of a rule, rolled to a business day.';
comment on column loyalty_api.schedule.due_at is 'When it is due.';
comment on column loyalty_api.schedule.is_paused is 'Whether it waits for /rpc/resume_schedule.';

create view loyalty_api.run with (security_invoker = true) as
select r.run_id, p.code as program, r.job, r.period, r.effective_on, r.started_at, r.reopened_at, r.finished_at,
       r.outcome, r.chunks, r.members, r.paid, r.failed, r.queued, r.lots, r.points, r.error, r.note
  from loyalty.run r
  join loyalty.program p on p.program_id = r.program_id;
comment on view loyalty_api.run is
$$Runs

What the schedule did, one row for each job and period. Latest first: ?order=started_at.desc. Those not done yet: ?finished_at=is.null. Administrators only.$$;
comment on column loyalty_api.run.run_id is 'Number of the run.';
comment on column loyalty_api.run.program is 'Code of the program.';
comment on column loyalty_api.run.job is 'What was done, as in /schedule.';
comment on column loyalty_api.run.period is 'The day that it is for; of a rule, the nominal one.';
comment on column loyalty_api.run.effective_on is 'The day that counts, however late the run came.';
comment on column loyalty_api.run.started_at is 'When it began.';
comment on column loyalty_api.run.reopened_at is 'When /rpc/rerun last opened it again.';
comment on column loyalty_api.run.finished_at is 'When it was done; null while it is not.';
comment on column loyalty_api.run.outcome is 'done, or skipped (note says why); null while it runs.';
comment on column loyalty_api.run.chunks is 'Transactions it took.';
comment on column loyalty_api.run.members is 'Members looked at.';
comment on column loyalty_api.run.paid is 'Payments granted.';
comment on column loyalty_api.run.failed is 'Payments refused: see /run_failure.';
comment on column loyalty_api.run.queued is 'Notices queued.';
comment on column loyalty_api.run.lots is 'Lots that lapsed.';
comment on column loyalty_api.run.points is 'Points granted, or lapsed.';
comment on column loyalty_api.run.error is 'What stopped it last; it is tried again each minute.';
comment on column loyalty_api.run.note is 'Why it was skipped.';

create view loyalty_api.run_failure with (security_invoker = true) as
select f.run_id, f.account_id, a.member_no, f.points, f.code, f.message, f.failed_at
  from loyalty.run_failure f
  join loyalty.account a on a.account_id = f.account_id;
comment on view loyalty_api.run_failure is
$$Failed payments

Payments that a run could not make, and why; the others went on. Tried again by /rpc/retry_failures. Administrators only.$$;
comment on column loyalty_api.run_failure.run_id is 'The run.';
comment on column loyalty_api.run_failure.account_id is 'Whose payment.';
comment on column loyalty_api.run_failure.member_no is 'The member''s number in the program.';
comment on column loyalty_api.run_failure.points is 'Points of the payment; null where they could not be worked out.';
comment on column loyalty_api.run_failure.code is 'Code of the error, such as LY004 for a closed account.';
comment on column loyalty_api.run_failure.message is 'What was wrong, in words.';
comment on column loyalty_api.run_failure.failed_at is 'When it last failed.';

-- SQL, not plpgsql, which refuses an argument and a column of the same name
create function loyalty_api.preview(months integer default 24, program text default null)
    returns table (day date, job text, title text, period date, members bigint, points bigint)
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select p.*
      from loyalty.preview(loyalty_private.api_admin_program($2), $1) p;
end;
comment on function loyalty_api.preview(integer, text) is
$$Preview payments

What the coming months bring, without doing it: for each day and job, how many members are paid how many points in all, by the rules and members of today; and under job expire what lapses unless spent. 400 22023 for fewer or more months. Administrators only.

- `months`: how far to look, from 1 to 120; 24 when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.rerun(job text, period text, program text default null) returns setof loyalty_api.run
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty_private.audit('rerun', loyalty.program_id(loyalty_private.api_admin_program($3)),
        details => jsonb_build_object('job', $1, 'period', $2));
    select r.run_id, p.code, r.job, r.period, r.effective_on, r.started_at, r.reopened_at, r.finished_at,
           r.outcome, r.chunks, r.members, r.paid, r.failed, r.queued, r.lots, r.points, r.error, r.note
      from loyalty.rerun(loyalty_private.api_admin_program($3), $1, loyalty_private.api_day('period', $2)) r
      join loyalty.program p on p.program_id = r.program_id;
end;
comment on function loyalty_api.rerun(text, text, text) is
$$Run again

Opens a run again for the next tick, within a minute: pays members who came later or failed, on the terms of the run's own day. Nobody is paid twice. Answers with the run. 400 22023 when there is no such job, or the period is still to come. Administrators only.

- `job`: the job, as in /schedule, such as "rule:anniversary".
- `period`: the nominal day, YYYY-MM-DD, as in /run.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.pause_schedule(job text default null, program text default null)
    returns setof loyalty_api.schedule
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty_private.audit('pause_schedule', loyalty.program_id(loyalty_private.api_admin_program($2)),
        details => jsonb_build_object('job', $1));
    select p.code, s.job, s.done_through, s.next_period, s.effective_on, s.due_at, s.is_paused
      from loyalty.pause_schedule(loyalty_private.api_admin_program($2), $1) s
      join loyalty.program p on p.program_id = s.program_id
     order by s.job;
end;
comment on function loyalty_api.pause_schedule(text, text) is
$$Pause a job

Nothing of it is done until it is resumed, also when it is in the middle of a run. Answers with the schedule. 400 22023 when there is no such job. Administrators only.

- `job`: the job, as in /schedule; all of them when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.resume_schedule(job text default null, program text default null)
    returns setof loyalty_api.schedule
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty_private.audit('resume_schedule', loyalty.program_id(loyalty_private.api_admin_program($2)),
        details => jsonb_build_object('job', $1));
    select p.code, s.job, s.done_through, s.next_period, s.effective_on, s.due_at, s.is_paused
      from loyalty.resume_schedule(loyalty_private.api_admin_program($2), $1) s
      join loyalty.program p on p.program_id = s.program_id
     order by s.job;
end;
comment on function loyalty_api.resume_schedule(text, text) is
$$Resume a job

Ends a pause. What was missed is caught up within minutes, each payment with its own day. Answers with the schedule. 400 22023 when there is no such job. Administrators only.

- `job`: the job, as in /schedule; all of them when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
