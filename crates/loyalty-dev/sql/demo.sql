-- An invented coin program, day by day from June 2024 through July 2028 by the
-- test clock. Everything is derived from the member's number, so that each run
-- tells the same story. One transaction: it is played wholly or not at all.
begin;

set local client_min_messages = warning;

select loyalty.create_program(
    code => 'coin',
    name => 'Sample Coin Club',
    point_name => 'coin',
    -- C6: to the last day of the month three years after the grant
    expiry => 'end of month after 3 years'
);

-- Members 1 to 400 were served before the program began, member 401 is the
-- guide's example (C2), the rest join until June 2028.
create temporary table demo_member on commit drop as
select n,
       'M' || to_char(n, 'FM0000') as member_no,
       case when n <= 400 then date '2010-04-01' + n * 12
            when n = 401 then date '2024-06-20'
            else date '2024-06-21' + (n - 401) * 1465 / 600
       end as first_service,
       -- every fifth newcomer was referred
       case when n > 400 and n % 5 = 0 then n % 400 + 1 end as referrer,
       null::bigint as account_id
  from generate_series(1, 1000) n;
create index on demo_member (first_service);
create index on demo_member (n);

create temporary table demo_criterion (kind text, valid_from date, coins bigint) on commit drop;
insert into demo_criterion values
    ('anniversary', '2024-06-01', 2000), -- C2
    ('referral', '2024-06-01', 5000),    -- C5
    ('referral', '2027-04-01', 6000);    -- C7: changed; what was granted keeps its terms

create temporary table demo_order (account_id bigint, operation_id bigint, day date, n integer)
    on commit drop;

do $$
declare
    first_day constant date := '2024-06-01';
    today date;
    anniversary_coins bigint;
    referral_coins bigint;
begin
    for today in select d::date from generate_series(first_day, date '2028-07-31', interval '1 day') d
    loop
        -- after midnight: book what lapsed with the month
        if extract(day from today) = 1 then
            perform set_config('loyalty.clock', today || ' 00:05 Asia/Tokyo', true);
            perform loyalty.expire(program => 'coin');
        end if;

        perform set_config('loyalty.clock', today || ' 09:00 Asia/Tokyo', true);

        update demo_member m
           set account_id = loyalty.open_account(program => 'coin', member_no => m.member_no)
         where m.account_id is null
           and (m.first_service = today or today = first_day and m.first_service < today);

        -- C4: five or more years at the start; an eighth year gives 4,000
        if today = first_day then
            perform loyalty.grant(
                account_id => m.account_id,
                points => 500 * years,
                reason => 'special: year ' || years,
                granted_on => date '2024-05-29',
                idempotency_key => 'special')
               from demo_member m
              cross join lateral (
                    select extract(year from age(first_day, m.first_service))::bigint as years) a
              where m.account_id is not null and years >= 5;
        end if;

        -- C2, C3, C5: on the 15th, or the next business day
        if today = loyalty.business_day_of_month(month => today, day_of_month => 15) then
            select coins into strict anniversary_coins
              from demo_criterion
             where kind = 'anniversary' and valid_from <= today
             order by valid_from desc limit 1;
            select coins into strict referral_coins
              from demo_criterion
             where kind = 'referral' and valid_from <= today
             order by valid_from desc limit 1;

            perform loyalty.grant(
                account_id => m.account_id,
                points => anniversary_coins,
                reason => 'anniversary',
                idempotency_key => 'anniversary/' || to_char(today, 'YYYY-MM'))
               from demo_member m
              cross join lateral (
                    select case when m.first_service <= first_day then date '2024-05-15'
                                else m.first_service end as counted_from) c
              where m.account_id is not null
                and extract(month from counted_from) = extract(month from today)
                and extract(year from counted_from) < extract(year from today);

            perform loyalty.grant(
                account_id => receiver.account_id,
                points => referral_coins,
                reason => 'referral of ' || friend.member_no,
                idempotency_key => 'referral/' || friend.member_no)
               from demo_member friend
               join demo_member receiver on receiver.n in (friend.n, friend.referrer)
              where friend.referrer is not null
                and date_trunc('month', friend.first_service)
                    = date_trunc('month', today) - interval '1 month';
        end if;

        -- orders, some of which come back
        if extract(day from today) = 20 then
            insert into demo_order
            select m.account_id, r.operation_id, today, m.n
              from demo_member m
             cross join lateral (
                    select (array[1200, 1800, 3500])[1 + m.n % 3]::bigint as price) p
             cross join lateral loyalty.balance(account_id => m.account_id) b
             cross join lateral loyalty.spend_fifo(
                    account_id => m.account_id,
                    points => price,
                    reason => 'order',
                    idempotency_key => 'order/' || today) r
             where m.account_id is not null
               and (m.n + extract(month from today)::integer) % 11 = 0
               and b.available >= price;
        elsif extract(day from today) = 25 then
            perform loyalty.refund(
                account_id => o.account_id,
                operation_id => o.operation_id,
                reason => 'returned',
                idempotency_key => 'return/' || o.day)
               from demo_order o
              where o.day = today - 5 and o.n % 10 = 3;
        end if;
    end loop;
    perform set_config('loyalty.clock', '', true);
end
$$;

-- A program that lives by the real clock, for the reader's own calls.
select loyalty.create_program(code => 'tour', name => 'Guided tour');
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

commit;
