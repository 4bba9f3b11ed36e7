\echo
\echo 'Sample Coin Club, 2024-05 through 2028-07 by the test clock'
select coalesce(extract(year from timezone(p.time_zone, j.occurred_at))::text, 'all') as year,
       count(*) as entries,
       coalesce(sum(points) filter (where kind = 'grant'), 0) as granted,
       coalesce(-sum(points) filter (where kind = 'spend'), 0) as spent,
       coalesce(sum(points) filter (where kind = 'refund'), 0) as refunded,
       coalesce(-sum(points) filter (where kind = 'expire'), 0) as expired,
       sum(points) as change
  from loyalty.journal j
  join loyalty.program p using (program_id)
 where p.code = 'coin' and j.side = 'member'
 group by rollup (extract(year from timezone(p.time_zone, j.occurred_at)))
 order by 1;

\echo 'What the schedule did by itself'
select r.job,
       count(*) as runs,
       min(r.effective_on) as first,
       max(r.effective_on) as last,
       sum(r.paid) as paid,
       sum(r.failed) as failed,
       sum(r.points) as points,
       sum(r.queued) as mails,
       count(*) filter (where r.outcome is distinct from 'done') as "not done"
  from loyalty.run r
  join loyalty.program p using (program_id)
 where p.code = 'coin'
 group by r.job
 order by r.job;

\echo 'Mails: what is not sent of the last days waits for the relay'
select n.kind,
       count(*) as mails,
       count(*) filter (where n.sent_at is not null) as sent,
       count(*) filter (where n.due_at is not null) as waiting,
       count(*) filter (where n.gave_up_at is not null) as "given up"
  from loyalty.notice n
  join loyalty.program p using (program_id)
 where p.code = 'coin'
 group by n.kind
 order by n.kind;

select count(*) as members,
       sum(b.balance) as balance,
       (select count(*) from loyalty.verify('coin')) as "verify() found"
  from loyalty.account a
  join loyalty.program p using (program_id)
 cross join lateral loyalty.balance(a.account_id) b
 where p.code = 'coin';
