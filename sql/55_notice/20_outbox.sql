-- The outbox: a notice is queued in the transaction of what it tells of, and handed to the
-- relay afterwards. What is due, leased or too late goes by the machine's clock, since mails
-- travel in the real world; what a notice says and is for goes by the ledger's.

create table loyalty.notice (
    notice_id bigint generated always as identity (cache 32) primary key,
    account_id bigint,
    due_at timestamptz,
    send_by timestamptz not null,
    queued_at timestamptz not null,
    points bigint,
    expiring_points bigint,
    program_id integer not null,
    expires_on date,
    attempts integer not null default 0,
    is_urgent boolean not null,
    -- compared byte by byte: these are no words of a language
    kind text collate "C" not null
        constraint notice_kind_is_a_name check (kind ~ '^[a-z][a-z_]{1,40}$'),
    channel text collate "C" not null
        constraint notice_channel_is_known check (channel in ('email', 'sms')),
    occasion text collate "C" not null
        constraint notice_occasion_is_short check (octet_length(occasion) between 1 and 200),
    lot_expires_on date[],
    lot_points bigint[],
    details jsonb,
    address text,
    challenge_id uuid,
    leased_at timestamptz,
    sent_at timestamptz,
    gave_up_at timestamptz,
    message_id text,
    error text,
    constraint notice_is_once unique (account_id, kind, occasion),
    constraint notice_is_due_until_settled
        check ((due_at is null) = (sent_at is not null or gave_up_at is not null))
);
-- A sent notice is in neither: both stay small however many there were.
create index notice_by_due on loyalty.notice (is_urgent, channel, due_at) where due_at is not null;
create index notice_given_up on loyalty.notice (program_id, gave_up_at) where gave_up_at is not null;

comment on table loyalty.notice is
    'The outbox: one row for each member and occasion that is told of, which is never told twice. Account and program are those of a member when it was queued; there is no foreign key, which would cost more than the row.';
comment on column loyalty.notice.notice_id is 'Number of the notice.';
comment on column loyalty.notice.account_id is 'Whom it is for; null for one to an administrator, who is no member.';
comment on column loyalty.notice.due_at is 'When it may be tried (again), by the machine''s clock; null once it is sent or given up.';
comment on column loyalty.notice.send_by is 'When it is given up if not sent by then, by the machine''s clock.';
comment on column loyalty.notice.queued_at is 'When it was queued, by the ledger''s clock; its figures are of then.';
comment on column loyalty.notice.points is 'points_received: points granted. balance: points available. expiry: points that lapse on all the days told.';
comment on column loyalty.notice.expiring_points is 'Of balance and expiry: points that lapse on expires_on.';
comment on column loyalty.notice.program_id is 'Program of the account.';
comment on column loyalty.notice.expires_on is 'Last day of the points that lapse next; null when none ever do.';
comment on column loyalty.notice.attempts is 'How often the relay took it.';
comment on column loyalty.notice.is_urgent is 'Whether it goes before the bulk: it tells of one thing that just happened.';
comment on column loyalty.notice.kind is 'The kind of notice, such as points_received; or one about the person''s login, which nobody can refuse.';
comment on column loyalty.notice.channel is 'email, or sms to members who have a phone only.';
comment on column loyalty.notice.occasion is 'What it tells of: the operation, the order, or the day.';
comment on column loyalty.notice.lot_expires_on is 'Of expiry: the last days told.';
comment on column loyalty.notice.lot_points is 'Of expiry: the points that lapse on each of them.';
comment on column loyalty.notice.details is 'Of order_received: the order. Of one about a login: what else it says.';
comment on column loyalty.notice.address is 'Of one about a login: the e-mail address or phone it goes to; null for the member''s own.';
comment on column loyalty.notice.challenge_id is 'Of one with a code or link: the challenge that these are made of when it is sent.';
comment on column loyalty.notice.leased_at is 'When the attempt under way began, by the machine''s clock; null when none is.';
comment on column loyalty.notice.sent_at is 'When the server took it, by the machine''s clock.';
comment on column loyalty.notice.gave_up_at is 'When it was given up, by the machine''s clock.';
comment on column loyalty.notice.message_id is 'The mail''s Message-ID, the same in every attempt.';
comment on column loyalty.notice.error is 'Why the last attempt failed, without addresses.';

create function loyalty_private.points_between(lot_expires_on date[], lot_remaining bigint[], from_day date, to_day date)
    returns bigint
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_points_between';
comment on function loyalty_private.points_between is
    'Of a wallet: what its lots hold whose last day is from one day to another (both in it).';
create function loyalty_private.next_lapse(lot_expires_on date[], lot_remaining bigint[], from_day date) returns date
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_next_lapse';
comment on function loyalty_private.next_lapse is
    'Of a wallet: the first day from a given one on which points lapse; null when none do.';
create function loyalty_private.days_between(lot_expires_on date[], lot_remaining bigint[], from_day date, to_day date)
    returns date[]
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_days_between';
comment on function loyalty_private.days_between is
    'Of a wallet: the days from one to another (both in it) on which points lapse; null when there are none.';
create function loyalty_private.points_of_days(lot_expires_on date[], lot_remaining bigint[], from_day date, to_day date)
    returns bigint[]
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_points_of_days';
comment on function loyalty_private.points_of_days is
    'Of a wallet: how many points lapse on each of days_between.';

create function loyalty_private.lapsing_lots(
    account_id bigint,
    from_day date,
    to_day date,
    out days date[],
    out points bigint[]
) returns record
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select array_agg(l.expires_on order by l.expires_on), array_agg(l.points order by l.expires_on)
      from (select f.expires_on, sum(f.remaining - f.held)::bigint as points
              from loyalty.lots(lapsing_lots.account_id) f
             where f.expires_on between lapsing_lots.from_day and lapsing_lots.to_day
             group by f.expires_on
            having sum(f.remaining - f.held) > 0) l;
end;
comment on function loyalty_private.lapsing_lots is
    'days_between and points_of_days of an account with holds, whose points do not lapse while they are open.';

create function loyalty_private.notice_channel(member_email text, member_phone text, sender_email text, sender_sms text)
    returns text
    language sql immutable parallel safe
    return case when member_email is not null and sender_email is not null then 'email'
                when member_phone is not null and sender_sms is not null then 'sms' end;
comment on function loyalty_private.notice_channel is
    'How a member is reached: by mail, else by short message, else (null) not at all.';

create function loyalty_private.announce_grants(
    account_ids bigint[],
    operation_ids bigint[],
    points bigint[],
    expires_on date[]
) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    ledger_now timestamptz := loyalty.now();
    clock_now timestamptz := clock_timestamp();
    queued bigint;
begin
    insert into loyalty.notice
           (program_id, account_id, kind, occasion, channel, is_urgent, points, expires_on, queued_at, due_at, send_by)
    select m.program_id, m.account_id, 'points_received', g.operation_id::text, c.channel,
           cardinality(account_ids) <= 100, g.points, nullif(g.expires_on, 'infinity'),
           ledger_now, clock_now, clock_now + s.send_within
      from unnest(account_ids, operation_ids, points, expires_on)
               as g (account_id, operation_id, points, expires_on)
      join loyalty.member m on m.account_id = g.account_id
      join loyalty.notice_setting s
        on s.program_id = m.program_id and s.kind = 'points_received' and s.is_enabled
      join loyalty.notice_sender f on f.program_id = m.program_id
     cross join lateral (select loyalty_private.notice_channel(m.email, m.phone, f.email, f.sms) as channel) c
     where c.channel is not null
       and not exists (
               select from loyalty.notice_preference r
                where r.account_id = m.account_id and r.kind = 'points_received' and not r.is_wanted)
        on conflict on constraint notice_is_once do nothing;
    get diagnostics queued = row_count;
    if queued > 0 then
        perform pg_notify('loyalty_notice', '');
    end if;
    return queued;
end
$$;
comment on function loyalty_private.announce_grants is
    'Queues points_received for grants just booked, in their transaction, to members who can be reached and want it; once for each operation. Arrays of the same length; expires_on null or infinity: never. How many were queued.';

create function loyalty.announce_order(
    account_id bigint,
    order_no text,
    item text,
    quantity integer,
    points bigint
) returns boolean
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    wrong text := case
        when announce_order.order_no is null or char_length(announce_order.order_no) not between 1 and 50
            then 'order_no'
        when announce_order.item is null or char_length(announce_order.item) not between 1 and 200 then 'item'
        when announce_order.quantity is null or announce_order.quantity < 1 then 'quantity'
        when announce_order.points is null or announce_order.points < 0 then 'points'
    end;
    queued boolean;
begin
    if wrong is not null then
        perform loyalty_private.raise('22023', 'order_invalid', format('%s is invalid', wrong),
            format('order_no %L, item %L, quantity %s, points %s given.', left(announce_order.order_no, 60),
                left(announce_order.item, 60), announce_order.quantity, announce_order.points),
            'order_no up to 50 characters, item up to 200, quantity from 1, points from 0.', wrong);
    end if;
    -- what members chose does not matter here (C18)
    insert into loyalty.notice
           (program_id, account_id, kind, occasion, channel, is_urgent, points, details, queued_at, due_at, send_by)
    select m.program_id, m.account_id, 'order_received', announce_order.order_no, c.channel, true,
           announce_order.points,
           jsonb_build_object('number', announce_order.order_no, 'item', announce_order.item,
                              'quantity', announce_order.quantity, 'points', announce_order.points),
           loyalty.now(), clock_timestamp(), clock_timestamp() + s.send_within
      from loyalty.member m
      join loyalty.notice_setting s
        on s.program_id = m.program_id and s.kind = 'order_received' and s.is_enabled
      join loyalty.notice_sender f on f.program_id = m.program_id
     cross join lateral (select loyalty_private.notice_channel(m.email, m.phone, f.email, f.sms) as channel) c
     where m.account_id = announce_order.account_id and c.channel is not null
        on conflict on constraint notice_is_once do nothing;
    queued := found;
    if queued then
        perform pg_notify('loyalty_notice', '');
    end if;
    return queued;
end
$$;
comment on function loyalty.announce_order is
    'Queues order_received in the transaction of the order, once for each order_no of the account; members cannot refuse it. False when the program does not send it, the member cannot be reached, or it was announced before. 22023 names the wrong argument.';

create function loyalty_private.notice_step(
    program_id integer,
    kind text,
    period date,
    from_account bigint,
    row_limit bigint,
    out today date,
    out horizon date,
    out email text,
    out sms text,
    out send_within interval,
    out last_account bigint
) returns record
    language sql stable
begin atomic
    select t.today, t.today + s.days_before, f.email, f.sms,
           -- tomorrow's says it better, and after the last day it would not be true
           least(s.send_within, case when s.kind = 'expiry'
                                     then timezone(p.time_zone, (t.today + 1)::timestamp) - loyalty.now() end),
           (select m.account_id
              from loyalty.member m
             where m.program_id = notice_step.program_id
               and m.account_id > coalesce(notice_step.from_account, 0)
             order by m.account_id
            offset greatest(notice_step.row_limit, 1) - 1
             limit 1)
      from loyalty.notice_setting s
      join loyalty.notice_sender f on f.program_id = s.program_id
      join loyalty.program p on p.program_id = s.program_id
     cross join lateral (select timezone(p.time_zone, loyalty.now())::date as today) t
     where s.program_id = notice_step.program_id and s.kind = notice_step.kind and s.is_enabled
       and t.today = notice_step.period;
end;
comment on function loyalty_private.notice_step is
    'For queue_balance_notices and queue_expiry_notices: how a program sends notices of that kind today, and the last of the next row_limit members after from_account, null when there are no more. Nulls when it does not send them, or period is another day.';

create function loyalty_private.queue_balance_notices(
    program_id integer,
    period date,
    from_account bigint,
    row_limit bigint,
    out last_account bigint,
    out queued bigint
) returns record
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    -- walked in account order by index, whatever the statistics say
    set enable_hashjoin = off
    set enable_mergejoin = off
    set enable_seqscan = off
    set jit = off
as $$
#variable_conflict use_column
declare
    told record;
    after_account bigint := coalesce(queue_balance_notices.from_account, 0);
    ledger_now timestamptz := loyalty.now();
    clock_now timestamptz := clock_timestamp();
begin
    queued := 0;
    select s.* into told
      from loyalty_private.notice_step(queue_balance_notices.program_id, 'balance', queue_balance_notices.period,
                               after_account, queue_balance_notices.row_limit) s;
    if told.today is null then
        return;
    end if;
    last_account := told.last_account;
    insert into loyalty.notice
           (program_id, account_id, kind, occasion, channel, is_urgent, points, expires_on, expiring_points,
            queued_at, due_at, send_by)
    select queue_balance_notices.program_id, b.account_id, 'balance', queue_balance_notices.period::text,
           b.channel, false, b.points, b.expires_on,
           case when b.expires_on is null then null
                when b.is_plain
                then loyalty_private.points_between(b.lot_expires_on, b.lot_remaining, b.expires_on, b.expires_on)
                else (select a.next_expiry_points from loyalty.balance(b.account_id) a) end,
           ledger_now, clock_now, clock_now + told.send_within
      from (select m.account_id, w.lot_expires_on, w.lot_remaining, w.hold_entry is null as is_plain,
                   loyalty_private.notice_channel(m.email, m.phone, told.email, told.sms) as channel,
                   -- what a hold pins is not available: only the ledger itself knows that
                   case when w.hold_entry is null
                        then loyalty_private.points_between(w.lot_expires_on, w.lot_remaining, told.today, 'infinity')
                        else (select a.available from loyalty.balance(w.account_id) a) end as points,
                   case when w.hold_entry is null
                        then loyalty_private.next_lapse(w.lot_expires_on, w.lot_remaining, told.today)
                        else (select a.next_expiry_on from loyalty.balance(w.account_id) a) end as expires_on
              from loyalty.member m
              join loyalty.wallet w on w.account_id = m.account_id
             where m.program_id = queue_balance_notices.program_id
               and m.account_id > after_account
               and m.account_id <= coalesce(last_account, 9223372036854775807)
               and w.status <> 'closed'
               and not exists (
                       select from loyalty.notice_preference r
                        where r.account_id = m.account_id and r.kind = 'balance' and not r.is_wanted)
            offset 0) b
     where b.channel is not null
        on conflict on constraint notice_is_once do nothing;
    get diagnostics queued = row_count;
    if queued > 0 then
        perform pg_notify('loyalty_notice', '');
    end if;
end
$$;
comment on function loyalty_private.queue_balance_notices is
    'For run: queues the balance notices of a day, which must be today, for the next row_limit members after from_account; the last account looked at, null when there are no more, and how many were queued.';

create function loyalty_private.queue_expiry_notices(
    program_id integer,
    period date,
    from_account bigint,
    row_limit bigint,
    out last_account bigint,
    out queued bigint
) returns record
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set enable_hashjoin = off
    set enable_mergejoin = off
    set enable_seqscan = off
    set jit = off
as $$
#variable_conflict use_column
declare
    told record;
    after_account bigint := coalesce(queue_expiry_notices.from_account, 0);
    ledger_now timestamptz := loyalty.now();
    clock_now timestamptz := clock_timestamp();
begin
    queued := 0;
    select s.* into told
      from loyalty_private.notice_step(queue_expiry_notices.program_id, 'expiry', queue_expiry_notices.period,
                               after_account, queue_expiry_notices.row_limit) s;
    if told.today is null then
        return;
    end if;
    last_account := told.last_account;
    insert into loyalty.notice
           (program_id, account_id, kind, occasion, channel, is_urgent, points, expires_on, expiring_points,
            lot_expires_on, lot_points, queued_at, due_at, send_by)
    select queue_expiry_notices.program_id, e.account_id, 'expiry', queue_expiry_notices.period::text,
           e.channel, false, (select sum(p) from unnest(e.lot_points) p), e.days[1], e.lot_points[1],
           e.days, e.lot_points, ledger_now, clock_now, clock_now + told.send_within
      from (select m.account_id,
                   loyalty_private.notice_channel(m.email, m.phone, told.email, told.sms) as channel,
                   -- what a hold pins does not lapse while it is open
                   case when w.hold_entry is null
                        then loyalty_private.days_between(w.lot_expires_on, w.lot_remaining, told.today, told.horizon)
                        else (select l.days
                                from loyalty_private.lapsing_lots(w.account_id, told.today, told.horizon) l)
                   end as days,
                   case when w.hold_entry is null
                        then loyalty_private.points_of_days(w.lot_expires_on, w.lot_remaining, told.today, told.horizon)
                        else (select l.points
                                from loyalty_private.lapsing_lots(w.account_id, told.today, told.horizon) l)
                   end as lot_points
              from loyalty.member m
              join loyalty.wallet w on w.account_id = m.account_id
             where m.program_id = queue_expiry_notices.program_id
               and m.account_id > after_account
               and m.account_id <= coalesce(last_account, 9223372036854775807)
               and w.next_expiry_on <= told.horizon
               and w.status <> 'closed'
               and not exists (
                       select from loyalty.notice_preference r
                        where r.account_id = m.account_id and r.kind = 'expiry' and not r.is_wanted)
            offset 0) e
     where e.channel is not null and e.days is not null
        on conflict on constraint notice_is_once do nothing;
    get diagnostics queued = row_count;
    if queued > 0 then
        perform pg_notify('loyalty_notice', '');
    end if;
end
$$;
comment on function loyalty_private.queue_expiry_notices is
    'For run: queues the expiry notices of a day, which must be today, for the next row_limit members after from_account: one to each member with points that lapse from today to days_before days later. The last account looked at, null when there are no more, and how many were queued.';
