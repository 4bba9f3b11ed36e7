-- Who waits for whom: what a DBA asks when calls hang or end with 55P03.

create function loyalty.lock_waits()
    returns table (
        waiting_pid integer, waiting_user text, waiting_application text, waiting_since timestamptz,
        account_id bigint, lock text,
        holder_pid integer, holder_user text, holder_application text, holder_address inet,
        holder_state text, holder_state_since timestamptz, holder_transaction_since timestamptz,
        holder_waits boolean
    )
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    waiting record;
begin
    -- pg_blocking_pids holds up everybody's locks for a moment: only those who wait are asked about
    for waiting in
        select l.pid, l.locktype, l.relation, l.mode, l.waitstart
          from pg_locks l
          join pg_stat_activity a using (pid)
         where not l.granted and a.datname = current_database()
    loop
        return query
        select distinct waiting.pid, w.usename::text, w.application_name, coalesce(waiting.waitstart, w.query_start),
               -- whoever waits for a row has, or wants, the lock of its place
               (select o.account_id
                  from pg_locks p
                  join loyalty.wallet o on o.ctid = format('(%s,%s)', p.page, p.tuple)::tid
                 where p.pid = waiting.pid and p.locktype = 'tuple'
                   and p.relation = 'loyalty.wallet'::regclass
                 limit 1),
               case waiting.locktype
                   when 'transactionid' then 'row'
                   when 'tuple' then 'row'
                   when 'relation' then format('%s on %s', waiting.mode, waiting.relation::regclass)
                   else waiting.locktype
               end,
               nullif(b.pid, 0), h.usename::text, h.application_name, h.client_addr,
               -- it has no session
               case when b.pid = 0 then 'prepared transaction' else h.state end, h.state_change, h.xact_start, h.wait_event_type is not distinct from 'Lock'
          from unnest(pg_blocking_pids(waiting.pid)) as b (pid)
          join pg_stat_activity w on w.pid = waiting.pid
          left join pg_stat_activity h on h.pid = b.pid;
    end loop;
end
$$;
comment on function loyalty.lock_waits is
    'Sessions of this database that wait for a lock, each with the sessions that keep it waiting: since when, for which account''s points where it is a wallet''s row, what the holder is and does (''idle in transaction'': nothing), and whether it waits itself. The statements are left out: they may hold secrets.';
