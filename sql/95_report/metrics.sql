-- What to watch, as figures that Prometheus understands. points_metrics reads every wallet once
-- (its cost grows with the accounts), work_metrics what is due and stuck (it hardly costs anything).

create function loyalty.points_metrics(expiring_days integer default 30)
    returns table (metric text, labels jsonb, value double precision)
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    with program as (
        select p.program_id, p.code, timezone(p.time_zone, loyalty.now())::date as today
          from loyalty.program p
    ), outstanding as (
        select w.program_id,
               w.status,
               count(*) as accounts,
               sum(w.balance) as booked,
               -- as a rule nothing is held and nothing lapsed: then it is all available
               sum(case when w.hold_entry is not null
                            then (select b.available from loyalty.balance(w.account_id) b)
                        when w.next_expiry_on < p.today
                            then loyalty_private.points_between(w.lot_expires_on, w.lot_remaining, p.today, 'infinity')
                        else w.balance
                   end) as available,
               sum(case when w.hold_entry is not null
                            then (select b.held from loyalty.balance(w.account_id) b)
                        else 0
                   end) as held,
               sum(coalesce(w.debt, 0)) as debt,
               sum(case when w.next_expiry_on <= p.today + expiring_days
                            then loyalty_private.points_between(
                                     w.lot_expires_on, w.lot_remaining, p.today, p.today + expiring_days)
                        else 0
                   end) as expiring
          from loyalty.wallet w
          join program p on p.program_id = w.program_id
         group by w.program_id, w.status
    ), total as (
        select p.code,
               coalesce(sum(o.booked), 0) as booked,
               coalesce(sum(o.available), 0) as available,
               coalesce(sum(o.held), 0) as held,
               coalesce(sum(o.debt), 0) as debt,
               coalesce(sum(o.expiring), 0) as expiring
          from program p
          left join outstanding o on o.program_id = p.program_id
         group by p.code
    )
    select m.metric, jsonb_build_object('program', t.code) || m.labels, m.value::double precision
      from total t
     cross join lateral (
            values ('loyalty_liability_points', '{}'::jsonb, t.available + t.held),
                   ('loyalty_available_points', '{}', t.available),
                   ('loyalty_held_points', '{}', t.held),
                   ('loyalty_lapsed_points', '{}', t.booked - t.available - t.held),
                   ('loyalty_debt_points', '{}', t.debt),
                   ('loyalty_expiring_points', jsonb_build_object('days', expiring_days), t.expiring)
           ) m (metric, labels, value)
     union all
    select 'loyalty_accounts', jsonb_build_object('program', p.code, 'status', o.status), o.accounts
      from outstanding o
      join program p on p.program_id = o.program_id
     union all
    select 'loyalty_breakage_points',
           jsonb_build_object('program', p.code, 'month', to_char(m.month, 'YYYY-MM')),
           coalesce(sum(r.points), 0)
      from program p
     cross join generate_series(0, 12) as back (months)
     cross join lateral (
            select (date_trunc('month', p.today::timestamp) - make_interval(months => back.months))::date
           ) m (month)
      left join loyalty.run r
             on r.program_id = p.program_id and r.job = 'expire'
            and r.period >= m.month and r.period < (m.month + interval '1 month')::date
     group by p.code, m.month;
end;
comment on function loyalty.points_metrics is
    'For loyalty.metrics: points of each program, outstanding and booked as breakage by the runs of this month and the twelve before. Reads every wallet once. expiring_days: how far loyalty_expiring_points looks, today included.';

create function loyalty.work_metrics()
    returns table (metric text, labels jsonb, value double precision)
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    with work as (
        select p.code, s.late, s.late_since, s.paused,
               (select count(*) from loyalty.run r
                 where r.program_id = p.program_id and r.finished_at is null and r.error is not null) as stopped,
               (select count(*) from loyalty.run_failure f
                  join loyalty.run r on r.run_id = f.run_id
                 where r.program_id = p.program_id) as failures
          from loyalty.program p
         cross join lateral (
                select count(*) filter (where s.is_late) as late,
                       min(s.due_at) filter (where s.is_late) as late_since,
                       count(*) filter (where s.is_paused) as paused
                  from (select j.due_at, j.is_paused, not j.is_paused and j.due_at <= loyalty.now() as is_late
                          from loyalty.schedule j
                         where j.program_id = p.program_id) s
               ) s
    )
    select m.metric, jsonb_build_object('program', w.code), m.value::double precision
      from work w
     cross join lateral (
            values ('loyalty_runs_late', w.late::numeric),
                   ('loyalty_run_lateness_seconds', coalesce(extract(epoch from loyalty.now() - w.late_since), 0)),
                   ('loyalty_runs_stopped', w.stopped),
                   ('loyalty_run_failures', w.failures),
                   ('loyalty_jobs_paused', w.paused)
           ) m (metric, value)
     union all
    select m.metric, jsonb_build_object('channel', b.channel), m.value::double precision
      from loyalty.notice_backlog() b
     cross join lateral (
            values ('loyalty_outbox_waiting', b.waiting::numeric),
                   ('loyalty_outbox_due', b.due),
                   ('loyalty_outbox_given_up', b.given_up),
                   ('loyalty_outbox_age_seconds',
                    coalesce(extract(epoch from clock_timestamp() - b.oldest_due_at), 0))
           ) m (metric, value)
     union all
    select m.metric, '{}', m.value::double precision
      from (select count(distinct l.waiting_pid) as waiting,
                   coalesce(max(extract(epoch from clock_timestamp() - l.waiting_since)), 0) as longest
              from loyalty.lock_waits() l) l
     cross join lateral (
            values ('loyalty_lock_waits', l.waiting::numeric),
                   ('loyalty_lock_wait_seconds', l.longest)
           ) m (metric, value);
end;
comment on function loyalty.work_metrics is
    'For loyalty.metrics: runs that are late, stopped or failed, notices that wait, and sessions that wait for locks. Cheap.';

create function loyalty.metric_help(metric text) returns text
    language sql immutable parallel safe
    return case metric
        when 'loyalty_liability_points' then 'Points members could still spend: available and held'
        when 'loyalty_available_points' then 'Points that can be spent now'
        when 'loyalty_held_points' then 'Points pinned by open holds'
        when 'loyalty_lapsed_points' then 'Points past their last day, not yet booked as breakage'
        when 'loyalty_debt_points' then 'Points revoked after they were spent, to be repaid by later grants'
        when 'loyalty_expiring_points' then 'Points whose last day is today or within the next days, held ones included'
        when 'loyalty_accounts' then 'Accounts'
        when 'loyalty_breakage_points' then 'Points that the expiry runs of the month booked as breakage'
        when 'loyalty_runs_late' then 'Jobs that are due and not done'
        when 'loyalty_run_lateness_seconds' then 'Since when the oldest of them is due; 0 when none is'
        when 'loyalty_runs_stopped' then 'Runs that an error stopped; the tick tries them again'
        when 'loyalty_run_failures' then 'Payments of rules that were refused and wait for retry_failures'
        when 'loyalty_jobs_paused' then 'Jobs that pause_schedule stopped'
        when 'loyalty_outbox_waiting' then 'Notices not sent yet'
        when 'loyalty_outbox_due' then 'Notices to be sent now'
        when 'loyalty_outbox_given_up' then 'Notices given up after the last attempt'
        when 'loyalty_outbox_age_seconds' then 'Since when the oldest notice is due; 0 when none is'
        when 'loyalty_lock_waits' then 'Sessions of this database that wait for a lock'
        when 'loyalty_lock_wait_seconds' then 'How long the longest of them has waited'
    end;
comment on function loyalty.metric_help is 'What a metric of loyalty.metrics tells.';

create view loyalty.metrics with (security_invoker = true) as
select m.metric, m.labels, m.value, loyalty.metric_help(m.metric) as help
  from (select p.metric, p.labels, p.value
          from loyalty.points_metrics() p
         union all
        select w.metric, w.labels, w.value
          from loyalty.work_metrics() w) m;
comment on view loyalty.metrics is
    'What to watch, all of it gauges: one row for each metric and set of labels. Reads every wallet once: have an exporter ask for it every few minutes, and loyalty.work_metrics() as often as you like.';
comment on column loyalty.metrics.metric is 'Name, with the unit at its end.';
comment on column loyalty.metrics.labels is 'What it is of: program, month, status, days or channel.';
comment on column loyalty.metrics.value is 'Its value now.';
comment on column loyalty.metrics.help is 'What it tells.';

create function loyalty.metrics_text() returns text
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce(string_agg(e'# HELP ' || t.metric || ' ' || t.help || e'\n# TYPE ' || t.metric || e' gauge\n'
                               || t.lines, '' order by t.metric), '')
      from (select m.metric, m.help,
                   string_agg(m.metric
                              || coalesce('{' || (
                                     select string_agg(
                                                l.key || '="' || replace(replace(replace(
                                                    l.value, e'\\', e'\\\\'), '"', e'\\"'), e'\n', e'\\n') || '"',
                                                ',' order by l.key)
                                       from jsonb_each_text(m.labels) l) || '}', '')
                              || ' ' || m.value || e'\n', '' order by m.labels) as lines
              from loyalty.metrics m
             group by m.metric, m.help) t;
end;
comment on function loyalty.metrics_text is
    'loyalty.metrics in Prometheus'' text format, for a textfile collector or any page that Prometheus scrapes.';
