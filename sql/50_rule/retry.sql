-- Payments that failed are tried again.

create function loyalty.retry_failures(run_id bigint, out retried bigint, out paid bigint, out failed bigint)
    returns record
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    set jit = off
as $$
#variable_conflict use_column
declare
    retrying loyalty.run;
    points_paid bigint;
begin
    -- ledger jobs of a program go one at a time, and this is one: the tick's lock, and first
    perform
       from loyalty.run r
       join loyalty.schedule s on s.program_id = r.program_id and s.job = 'expire'
      where r.run_id = retry_failures.run_id
        for update of s;
    select r.* into retrying from loyalty.run r where r.run_id = retry_failures.run_id for update;
    if not found then
        perform loyalty_private.raise('LY002', 'no_such_run', 'no such run', format('%s given.', retry_failures.run_id),
            'select run_id from loyalty.run lists them.', 'run_id');
    end if;
    -- an event canceled since is not to be paid any more; as in rule_payments, cancel_event waits or is seen
    perform pg_advisory_xact_lock_shared(hashtext('loyalty.event'), retrying.program_id);
    select count(*) into retried from loyalty.run_failure f where f.run_id = retrying.run_id;
    delete from loyalty.run_failure f
     using loyalty.event e
     where f.run_id = retrying.run_id and e.program_id = retrying.program_id and e.canceled_at is not null
       and e.event_id = substring(f.idempotency_key from '/event-([0-9]{1,18})/')::bigint
       and f.idempotency_key like 'rule/' || substr(retrying.job, 6) || '/event-%';
    if retried = 0 then
        paid := 0;
        failed := 0;
        return;
    end if;
    with failure as materialized (
        -- where not even the payment could be worked out, it is worked out now
        select f.account_id, f.idempotency_key as listed_key,
               coalesce(p.idempotency_key, f.idempotency_key) as idempotency_key,
               coalesce(p.points, f.points) as points
          from loyalty.run_failure f
          left join lateral (
                   select i.points, i.idempotency_key
                     from loyalty_private.rule_payments(retrying.program_id, substr(retrying.job, 6), retrying.period,
                              f.account_id - 1, 1) s
                    cross join lateral unnest(s.account_ids, s.points, s.idempotency_keys)
                              i (account_id, points, idempotency_key)
                    where i.account_id = f.account_id) p on f.points is null
         where f.run_id = retrying.run_id
    ), terms as materialized (
        select t.reason, t.expires_on, t.expiry
          from loyalty_private.rule_payments(retrying.program_id, substr(retrying.job, 6), retrying.period, 0, 1) t
    ), payment as (
        select array_agg(f.account_id order by f.account_id, f.idempotency_key) as account_ids,
               array_agg(f.points order by f.account_id, f.idempotency_key) as points,
               array_agg(f.idempotency_key order by f.account_id, f.idempotency_key) as idempotency_keys
          from failure f
         where f.points is not null
    ), outcome as materialized (
        select g.place, g.account_id, g.granted, g.is_new, g.code, g.message, p.idempotency_keys[g.place] as key
          from payment p
         cross join terms t
         cross join lateral loyalty_private.grant_each(p.account_ids, p.points, t.reason, retrying.effective_on,
                        t.expires_on, p.idempotency_keys, t.expiry) g
         where p.account_ids is not null
    ), again as (
        update loyalty.run_failure f
           set code = o.code, message = o.message, failed_at = loyalty.now()
          from outcome o
         where f.run_id = retrying.run_id and f.account_id = o.account_id
           and f.idempotency_key in (o.key, '') and o.code is not null
    ), made as (
        delete from loyalty.run_failure f
         using failure d
          left join outcome o on o.account_id = d.account_id and o.key = d.idempotency_key
         where f.run_id = retrying.run_id and f.account_id = d.account_id
           and f.idempotency_key = d.listed_key
           -- paid, or found not to be due
           and o.code is null
    )
    select count(*) filter (where o.code is null and o.is_new),
           coalesce(sum(o.granted) filter (where o.code is null and o.is_new), 0)::bigint
      into paid, points_paid
      from outcome o;
    select count(*) into failed from loyalty.run_failure f where f.run_id = retrying.run_id;
    update loyalty.run r
       set paid = r.paid + retry_failures.paid,
           points = r.points + points_paid,
           failed = retry_failures.failed
     where r.run_id = retrying.run_id;
end
$$;
comment on function loyalty.retry_failures is
    'Tries the payments again that a run lists in run_failure, on the terms of the run''s own day. Returns how many were tried, how many of these were paid, and how many are left. LY002.';
