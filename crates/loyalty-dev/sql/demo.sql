-- An invented coin program that runs itself, from its founding on 30 April 2024 through
-- July 2028 by the test clock: here is what happens to it; what follows from that is the
-- doing of its rules and of loyalty.tick(). Everything derives from the member's number, so
-- that each run tells the same story.
--
-- For psql. The tick commits as it goes, and so does the story, day by day. Interrupted, it
-- goes on from the day it had reached when it is played again.
\set ON_ERROR_STOP on

set client_min_messages = warning;

select exists (select from loyalty.program where code = 'tour') as is_told,
       to_regclass('public.demo_story') is null as is_new \gset

\if :is_told
\echo 'The demo was played before.'
\quit
\endif

-- Members 1 to 400 were served before the program began, member 401 is the guide's example
-- (C2), the rest join until June 2028.
create temporary table demo_member as
select n,
       'M' || to_char(n, 'FM0000') as member_no,
       case when n <= 400 then date '2010-04-01' + n * 12
            when n = 401 then date '2024-06-20'
            else date '2024-06-21' + (n - 401) * 1465 / 600
       end as first_service,
       -- every fifth newcomer was referred
       case when n > 400 and n % 5 = 0 then 'M' || to_char(n % 400 + 1, 'FM0000') end as referrer,
       (array['佐藤', '鈴木', '高橋', '田中', '伊藤', '渡辺', '山本'])[1 + n % 7]
           || ' ' || (array['花子', '太郎', '美咲', '健', '葵'])[1 + n % 5] as name,
       (array['サトウ', 'スズキ', 'タカハシ', 'タナカ', 'イトウ', 'ワタナベ', 'ヤマモト'])[1 + n % 7]
           || ' ' || (array['ハナコ', 'タロウ', 'ミサキ', 'ケン', 'アオイ'])[1 + n % 5] as kana,
       date '1950-01-01' + n * 17 as birth_date,
       -- one in ten gave an address
       case when n % 10 = 1 then 'm' || to_char(n, 'FM0000') || '@example.com' end as email,
       case when n % 30 = 1 then 'en' else 'ja' end as language
  from generate_series(1, 1000) n;

\if :is_new
begin;

-- This cluster's own tick goes by the real clock, and would run ahead of the story.
select loyalty.uninstall_schedules() \g /dev/null

-- What a shop keeps of its own, and how far the story has come.
create table public.demo_order (
    member_no text not null,
    day date not null,
    operation_id bigint not null,
    primary key (member_no, day)
);
comment on table public.demo_order is 'Orders of the demo, until it is told.';
create table public.demo_story (played_through date not null);
comment on table public.demo_story is 'The last day of the demo that happened, until it is told.';
insert into public.demo_story values ('2024-04-30');

set local loyalty.clock = '2024-04-30 10:00 Asia/Tokyo';

do $$
begin
    perform loyalty.create_program(
        code => 'coin',
        name => 'Sample Coin Club',
        point_name => 'coin',
        -- C6: to the last day of the month three years after the grant
        expiry => 'end of month after 3 years');

    -- C2, C3
    perform loyalty.create_rule(
        program => 'coin', code => 'anniversary', kind => 'anniversary', title => 'Anniversary',
        terms => '{"fact": "first_service_on", "every_years": 1, "points": 2000, "day_of_month": 15,
                   "cut_off": {"fact_until": "2024-06-01", "first_month": "2025-05"}}');
    -- C4: 500 a year from five years on; an eighth year gives 4,000
    perform loyalty.create_rule(
        program => 'coin', code => 'special', kind => 'tenure', title => 'Years with us',
        terms => jsonb_build_object(
            'fact', 'contract_since', 'key_date', '2024-06-01', 'pays_on', '2024-05-29',
            'table', (select jsonb_agg(jsonb_build_object('years', years, 'points', 500 * years) order by years)
                        from generate_series(5, 20) years)));
    -- C5
    perform loyalty.create_rule(
        program => 'coin', code => 'referral', kind => 'event', title => 'Referral',
        terms => '{"event": "referral", "points": 5000, "months_after": 1, "day_of_month": 15}');

    -- C10
    perform loyalty.set_service_hours('coin', closed_from => '02:00', closed_until => '05:00');

    -- C18
    perform loyalty.set_notice_sender(
        'coin', email => 'Sample Coin Club <points@example.com>',
        preferences_url => 'https://coin.example.com/notices');
    perform loyalty.set_notice('coin', 'points_received', is_enabled => true);
    perform loyalty.set_notice('coin', 'balance', is_enabled => true, days_of_month => '{1,15}', at => '13:00');
    perform loyalty.set_notice('coin', 'expiry', is_enabled => true, days_before => 7, at => '08:45');
    perform loyalty.set_notice('coin', 'order_received', is_enabled => true);
end
$$;
commit;
\endif

-- The tick, at a moment at which something may be due.
create procedure pg_temp.reach(moment timestamp) language plpgsql as $$
begin
    perform set_config('loyalty.clock', moment || ' Asia/Tokyo', false);
    if exists (select from loyalty.schedule s where s.due_at <= loyalty.now()) then
        call loyalty.tick();
    end if;
end
$$;

-- What the world does on a day, at nine in the morning.
create procedure pg_temp.live(today date) language plpgsql as $$
declare
    roster text;
    refused record;
    buyer record;
    order_id bigint;
begin
    perform set_config('loyalty.clock', today || ' 09:00 Asia/Tokyo', false);

    -- the members who begin this month; at first, all who began before
    if extract(day from today) = 1 then
        select string_agg(
                   format('%s,%s,%s,%s,%s,%s,%s,%s', m.member_no, m.name, m.kana, m.birth_date, m.email,
                          m.language, m.first_service, m.first_service), E'\n' order by m.n)
          into roster
          from demo_member m
         where m.first_service < today + interval '1 month'
           and (m.first_service >= today or today = '2024-05-01');
        if roster is not null then
            select i.* into refused
              from loyalty.import_members(
                       program => 'coin', all_or_nothing => true,
                       csv => E'member_no,name,kana,birth_date,email,language,first_service_on,contract_since\n'
                              || roster) i
             where i.outcome = 'problem';
            if found then
                raise exception 'the roster has a problem: %', refused;
            end if;
            -- every other one with an address wants no mails about the balance
            perform loyalty.set_notice_preference(a.account_id, 'balance', is_wanted => false)
               from demo_member m
               join loyalty.account a
                 on a.program_id = loyalty.program_id('coin') and a.member_no = m.member_no
              where m.n % 20 = 11
                and m.first_service < today + interval '1 month'
                and (m.first_service >= today or today = '2024-05-01');
        end if;
    end if;

    -- C5: referrals, on the day of signing
    perform loyalty.record_event(
                'coin', 'referral', member_no => m.referrer, other_member_no => m.member_no,
                occurred_on => today, reference => 'contract ' || m.member_no)
       from demo_member m
      where m.first_service = today and m.referrer is not null;

    -- C7: announced a month before; what was granted keeps its terms
    if today = '2027-03-01' then
        perform loyalty.change_rule(
            'coin', 'referral', from_day => '2027-04-01',
            terms => '{"event": "referral", "points": 6000, "months_after": 1, "day_of_month": 15}');
    end if;

    -- orders, some of which come back
    if extract(day from today) = 20 then
        for buyer in
            select m.n, m.member_no, a.account_id, i.price, i.item
              from demo_member m
              join loyalty.account a
                on a.program_id = loyalty.program_id('coin') and a.member_no = m.member_no
              join (values (0, 1200, '焼き菓子の詰め合わせ'), (1, 1800, 'お食事券'), (2, 3500, 'ハウスキーピング'))
                   as i (place, price, item)
                on i.place = m.n % 3
             where (m.n + extract(month from today)::integer) % 11 = 0
             order by m.n
        loop
            if (select b.available from loyalty.balance(buyer.account_id) b) >= buyer.price then
                select s.operation_id into order_id
                  from loyalty.spend_fifo(
                           account_id => buyer.account_id, points => buyer.price, reason => buyer.item,
                           idempotency_key => 'order/' || today) s;
                insert into public.demo_order values (buyer.member_no, today, order_id);
                perform loyalty.announce_order(
                    buyer.account_id, order_no => format('%s/%s', buyer.member_no, today), item => buyer.item,
                    quantity => 1, points => buyer.price);
            end if;
        end loop;
    elsif extract(day from today) = 25 then
        perform loyalty.refund(
                    account_id => a.account_id, operation_id => o.operation_id, reason => 'Returned',
                    idempotency_key => 'return/' || o.day)
           from public.demo_order o
           join demo_member m on m.member_no = o.member_no
           join loyalty.account a
             on a.program_id = loyalty.program_id('coin') and a.member_no = o.member_no
          where o.day = today - 5 and m.n % 10 in (1, 3);
    end if;
end
$$;

-- The relay of the story. Only what is left of its last two weeks travels in the real world.
create procedure pg_temp.post(today date) language plpgsql as $$
begin
    while today < '2028-07-18' and exists (select from loyalty.notice n where n.due_at is not null) loop
        perform loyalty.notice_sent(c.notice_id, c.attempt) from loyalty.lease_notices(how_many => 1000) c;
    end loop;
end
$$;

do $$
declare
    today date := (select s.played_through from public.demo_story s);
begin
    loop
        call pg_temp.reach(today + time '13:00');
        call pg_temp.post(today);
        exit when today = '2028-07-31';
        today := today + 1;
        call pg_temp.reach(today + time '00:05');
        call pg_temp.reach(today + time '08:45');
        call pg_temp.live(today);
        update public.demo_story set played_through = today;
        commit;
    end loop;
end
$$;

begin;
reset loyalty.clock;
-- The story ends in a future that the real clock is yet to reach.
do $$ begin perform loyalty.pause_schedule('coin'); end $$;
drop table public.demo_story, public.demo_order;

-- A program that lives by the real clock, for the reader's own calls.
select loyalty.create_program(code => 'tour', name => 'Guided tour');
-- Who is given points gets a mail, or a short message without an address for mail.
select loyalty.set_notice_sender(
           program => 'tour',
           email => 'Guided tour <points@example.com>',
           sms => 'TOUR',
           language => 'en',
           preferences_url => 'https://points.example.com/notices');
select loyalty.enable_notices(program => 'tour');
select loyalty.set_member(
           program => 'tour', member_no => 'T001', name => 'Hanako Yamada',
           email => 'hanako@example.com', language => 'en');
select loyalty.set_member(
           program => 'tour', member_no => 'T002', name => '山田 太郎',
           phone => '+819012345678', language => 'ja');
select loyalty.grant(
           account_id => loyalty.open_account(program => 'tour', member_no => 'T001'),
           points => 1200,
           reason => 'campaign',
           expires_on => loyalty.today('tour') + 30,
           idempotency_key => 'campaign');
select loyalty.grant(
           account_id => loyalty.open_account(program => 'tour', member_no => 'T001'),
           points => 3000,
           reason => 'welcome',
           idempotency_key => 'welcome');
select loyalty.grant(
           account_id => loyalty.open_account(program => 'tour', member_no => 'T002'),
           points => 500,
           reason => 'welcome',
           idempotency_key => 'welcome');

-- People log in (docs/identity.md). The first member has registered by member number, as the
-- program allows; the second can, with an e-mail address or phone that gets a code.
select loyalty.set_access_policy(
           program => 'tour',
           organisation_id => 'TOUR',
           site_url => 'https://points.example.com',
           allows_member_no => true,
           family_relations => '{spouse,parent,child}',
           family_access => 'spend',
           family_monthly_limit => 1000);
select loyalty.issue_keys(program => 'tour', member_no => 'T001', key_1 => 'T001', key_2 => 'blue-river-42');
select loyalty.issue_keys(program => 'tour', member_no => 'T002', key_1 => 'T002', key_2 => 'green-hill-77');
do $$
declare
    registration text := loyalty.begin_registration('TOUR', 'T001', 'blue-river-42') ->> 'registration';
begin
    perform loyalty.choose_login(registration, null, 'tour-12345', '1');
    perform loyalty.confirm_registration(registration, is_right_name => true);
end
$$;

commit;
