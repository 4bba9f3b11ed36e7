-- A program that tells its members of points received. A retry comes after a day at the
-- soonest: in tests, when make_due says so.
select loyalty.create_program(code => 'club', name => 'ポイントクラブ', point_name => 'ポイント');
select loyalty.set_notice_sender(
    program => 'club', email => 'ポイントクラブ <club@example.com>', sms => 'CLUB',
    preferences_url => 'https://club.example.com/notices',
    max_attempts => 100, first_retry => '1 day', longest_retry => '1 day');
select loyalty.set_notice(program => 'club', kind => 'points_received', is_enabled => true);

create function grant_points(account_ids bigint[]) returns bigint
    language sql
as $$
    select count(*)
      from loyalty_private.grant_each(
               account_ids => grant_points.account_ids,
               points => array_fill(500::bigint, array[cardinality(grant_points.account_ids)]),
               reason => 'welcome', granted_on => null, expires_on => null,
               idempotency_keys => array(select 'welcome/' || a from unnest(grant_points.account_ids) a));
$$;

-- Grants points to new members with these numbers, in one transaction.
create function queue_mail(members int4range) returns bigint
    language sql
as $$
    select grant_points(array_agg(m.account_id))
      from generate_series(lower(members), upper(members) - 1) i
     cross join lateral loyalty.set_member(
               program => 'club', member_no => 'M-' || i, name => '会員 ' || i,
               email => format('member-%s@example.com', i)) m;
$$;

-- The same to one new member who has a telephone only.
create function queue_sms() returns bigint
    language sql
as $$
    select grant_points(array[m.account_id])
      from (select count(*) as n from loyalty.account) c
     cross join lateral loyalty.set_member(
               program => 'club', member_no => 'P-' || c.n, name => '会員',
               phone => '+81901234' || lpad(c.n::text, 4, '0')) m;
$$;

-- The wait after a failure is over.
create function make_due() returns void
    language sql
as $$
    update loyalty.notice
       set due_at = clock_timestamp()
     where due_at > clock_timestamp() and leased_at is null;
    notify loyalty_notice;
$$;

create view noted as
select coalesce(m.email, m.phone) as address,
       case loyalty.notice_state(n.attempts, n.leased_at, n.sent_at, n.gave_up_at)
            when 'sent' then 'sent' when 'given up' then 'failed' else 'waiting' end as state,
       n.attempts, n.leased_at is not null as is_leased, n.error
  from loyalty.notice n
  join loyalty.member m using (account_id);

create view rendered as
select (f.message).*
  from loyalty.notice n
 cross join lateral loyalty_private.fill_notice(n) f;
