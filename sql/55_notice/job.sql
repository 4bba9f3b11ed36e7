-- Jobs notice:balance and notice:expiry: queue the mails of a day.

create function loyalty_private.plan_notice(
    program_id integer, name text, done_through date, today date, zone text
) returns loyalty_private.job_plan
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    plan loyalty_private.job_plan;
begin
    select n.period, n.period, n.due_at into plan.period, plan.effective_on, plan.due_at
      from loyalty.next_notice(
               program_id, name,
               case when done_through <= today then loyalty_private.midnight(done_through + 1, zone) - interval '1 microsecond'
                    else loyalty.now()
               end) n;
    plan.done_through := coalesce(done_through, least(plan.period - 1, today));
    return plan;
end
$$;
comment on function loyalty_private.plan_notice is 'When a program sends its balance or expiry notices next.';

create function loyalty_private.run_balance_chunk(run loyalty.run, chunk_size bigint) returns loyalty_private.job_chunk
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    did loyalty_private.job_chunk;
begin
    select n.last_account, n.queued into did.last_account, did.queued
      from loyalty_private.queue_balance_notices((run).program_id, (run).period, (run).last_account, chunk_size) n;
    did.members := loyalty_private.accounts_between((run).program_id, (run).last_account, did.last_account);
    return did;
end
$$;
comment on function loyalty_private.run_balance_chunk is 'Does a chunk of a run that queues balance notices.';

create function loyalty_private.run_expiry_chunk(run loyalty.run, chunk_size bigint) returns loyalty_private.job_chunk
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    did loyalty_private.job_chunk;
begin
    select n.last_account, n.queued into did.last_account, did.queued
      from loyalty_private.queue_expiry_notices((run).program_id, (run).period, (run).last_account, chunk_size) n;
    did.members := loyalty_private.accounts_between((run).program_id, (run).last_account, did.last_account);
    return did;
end
$$;
comment on function loyalty_private.run_expiry_chunk is 'Does a chunk of a run that queues expiry notices.';

-- Of expiry notices a missed day is not made up for: today's tells the same, and more.
insert into loyalty_private.job_kind
       (kind, has_name, writes_ledger, is_daily, missed, plan_function, chunk_function)
values ('notice:balance', false, false, false, 'skip', 'loyalty_private.plan_notice', 'loyalty_private.run_balance_chunk'),
       ('notice:expiry', false, false, true, 'skip', 'loyalty_private.plan_notice', 'loyalty_private.run_expiry_chunk');
