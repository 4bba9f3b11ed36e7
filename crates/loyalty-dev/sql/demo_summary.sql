\echo
\echo 'Sample Coin Club, 2024-06 through 2028-07 by the test clock'
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
select count(*) as members,
       sum(b.balance) as balance,
       (select count(*) from loyalty.verify('coin')) as "verify() found"
  from loyalty.account a
  join loyalty.program p using (program_id)
 cross join lateral loyalty.balance(a.account_id) b
 where p.code = 'coin';
