-- From 0.1.0 to 0.2.0: leads to the very catalog that the room files (sql/*.sql, in the order
-- of src/lib.rs) make at once. tests/upgrade.rs compares the two, object by object. What changes
-- there changes here too: `create or replace`, `alter`, `comment on`, `grant` and `revoke`. A new
-- function is everybody's to execute until it is revoked from public.
-- Where the same function or view stands in a room file, its text is the same, word by word.

-- PostgREST learns of what is new as soon as it is there.
notify pgrst, 'reload schema';

-- Supplied rows are of no program, so that there is no primary key: replicas tell rows by all of it.
alter table loyalty.notice_template replica identity full;

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
revoke all on function loyalty.lock_waits() from public;
grant execute on function loyalty.lock_waits() to loyalty_operator;

-- Casts that were made without saying so, as tests/lint.rs found them; what these do is as it was.

create or replace function loyalty.lot_class_of(program_id integer, funding text, inactivity_months integer)
    returns smallint
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known smallint;
    wanted_funding text := coalesce(lot_class_of.funding, 'program');
begin
    if wanted_funding = 'program' and lot_class_of.inactivity_months is null then
        return 0::smallint;
    elsif char_length(wanted_funding) not between 1 and 63 then
        perform loyalty.raise('22023', 'funding is too long, or empty',
            format('%s characters given.', char_length(wanted_funding)),
            'From 1 to 63 characters, or null for the program''s own.');
    end if;
    loop
        select c.lot_class into known
          from loyalty.lot_class c
         where c.program_id = lot_class_of.program_id
           and c.funding = wanted_funding
           and c.inactivity_months is not distinct from lot_class_of.inactivity_months;
        if found then
            return known;
        end if;
        insert into loyalty.lot_class (program_id, lot_class, funding, inactivity_months)
        select lot_class_of.program_id, coalesce(pg_catalog.max(c.lot_class), 0) + 1,
               wanted_funding, lot_class_of.inactivity_months
          from loyalty.lot_class c
         where c.program_id = lot_class_of.program_id
            on conflict do nothing;
    end loop;
end
$$;

create or replace function loyalty.set_member(
    program text,
    member_no text,
    name text default null,
    kana text default null,
    birth_date date default null,
    email text default null,
    phone text default null,
    language text default null,
    facts jsonb default null,
    attributes jsonb default null,
    clear text[] default '{}'
) returns loyalty.member
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := loyalty.program_id(set_member.program);
    record jsonb;
    written loyalty.member;
begin
    if set_member.member_no is null then
        perform loyalty.raise('22004', 'member_no must not be null', null, 'Pass member_no => … .');
    end if;
    if not set_member.clear <@ '{name,kana,birth_date,email,phone,language}' then
        perform loyalty.raise('22023', 'not a column that can be emptied',
            format('clear is %L.', set_member.clear::text),
            'name, kana, birth_date, email, phone and language can; a fact or attribute by a null in it.');
    end if;
    record := jsonb_strip_nulls(jsonb_build_object(
            'member_no', set_member.member_no, 'name', set_member.name, 'kana', set_member.kana,
            'birth_date', set_member.birth_date, 'email', set_member.email, 'phone', set_member.phone,
            'language', set_member.language))
        || coalesce((select jsonb_object_agg(c, '') from unnest(set_member.clear) c), '{}')
        || case when set_member.facts is null then '{}'
                else jsonb_build_object('facts', set_member.facts) end
        || case when set_member.attributes is null then '{}'
                else jsonb_build_object('attributes', set_member.attributes) end;
    record := loyalty.clean_member(record::json, loyalty.today(set_member.program))::jsonb;
    perform loyalty.write_members(
        within, json_build_array(record), array(select jsonb_object_keys(record)), false);
    select m.* into strict written
      from loyalty.member m
      join loyalty.account a on a.account_id = m.account_id
     where a.program_id = within and a.member_no = record ->> 'member_no';
    return written;
end
$$;

create or replace function loyalty.api_day(name text, day text) returns date
    language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    -- no 'tomorrow' and the like: they would not go by the ledger's clock
    if day ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' then
        begin
            return make_date(left(day, 4)::integer, substr(day, 6, 2)::integer, right(day, 2)::integer);
        exception when datetime_field_overflow then
            null;
        end;
    end if;
    if day is not null then
        perform loyalty.raise('22023', format('%s is no date', name), format('%L given.', left(day, 40)),
            'A day of the calendar, as YYYY-MM-DD.');
    end if;
    return null;
end
$$;

create or replace function loyalty.check_service_hours(program_id integer) returns void
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    opening timestamptz := loyalty.opens_at(program_id);
    seconds bigint := ceil(extract(epoch from opening - loyalty.now()))::bigint;
    zone text;
begin
    if opening is null then
        return;
    end if;
    select p.time_zone into zone from loyalty.program p where p.program_id = check_service_hours.program_id;
    perform loyalty.raise_closed(
        format('The program opens at %s (%s), in %s seconds.',
            to_char(timezone(zone, opening), 'YYYY-MM-DD HH24:MI'), zone, seconds), seconds);
end
$$;

create or replace function loyalty.rule_forecast(program_id integer, code text, after_period date, up_to date)
    returns table (period date, pays_on date, members bigint, points bigint)
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
    -- the walk is by index, whatever the statistics say
    set enable_hashjoin = off
    set enable_mergejoin = off
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    rule loyalty.rule;
    reach record;
    wanted text;
    counted text;
    days date[];
    counts bigint[];
begin
    for period, pays_on in
        select p.period, p.pays_on
          from loyalty.rule_periods(
                   rule_forecast.program_id, rule_forecast.code, rule_forecast.after_period, rule_forecast.up_to) p
    loop
        reach := loyalty.rule_reach(rule_forecast.program_id, rule_forecast.code, period);
        if rule.version is distinct from reach.version then
            select r.* into strict rule
              from loyalty.rule r
             where r.program_id = rule_forecast.program_id
               and r.code = rule_forecast.code
               and r.version = reach.version;
            -- one pass over the members, however many periods there are
            wanted := case when rule.kind = 'birthday' then 'birthday' else 'fact ' || (rule.terms ->> 'fact') end;
            if wanted is distinct from counted then
                counted := wanted;
                select array_agg(d.day), array_agg(d.members) into days, counts
                  from (select case when rule.kind = 'birthday'
                                    -- any leap year: who is to be born does not matter
                                    then make_date(1904, extract(month from m.birth_date)::integer,
                                                   extract(day from m.birth_date)::integer)
                                    else loyalty.fact_day(m.facts ->> (rule.terms ->> 'fact')) end as day,
                               count(*) as members
                          from loyalty.member m
                          left join loyalty.wallet w on w.account_id = m.account_id
                         where m.program_id = rule_forecast.program_id
                           and w.status is distinct from 'closed'
                         group by 1) d
                 where d.day is not null;
            end if;
        end if;
        if rule.kind = 'anniversary' then
            select coalesce(sum(d.members), 0)::bigint,
                   (coalesce(sum(d.members), 0) * (rule.terms ->> 'points')::bigint)::bigint
              into members, points
              from unnest(days, counts) as d (day, members)
             cross join generate_series(date_trunc('month', reach.from_day::timestamp), reach.to_day, interval '1 month') m
             where loyalty.anniversary_occasion(
                       d.day, m::date,
                       coalesce((rule.terms ->> 'every_years')::integer * 12, (rule.terms ->> 'every_months')::integer),
                       (rule.terms #>> '{cut_off,fact_until}')::date,
                       ((rule.terms #>> '{cut_off,first_month}') || '-01')::date) is not null;
        elsif rule.kind = 'birthday' then
            select coalesce(sum(d.members), 0)::bigint,
                   (coalesce(sum(d.members), 0) * (rule.terms ->> 'points')::bigint)::bigint
              into members, points
              from unnest(days, counts) as d (day, members)
             where loyalty.birthday_between(d.day, reach.from_day, reach.to_day) is not null;
        elsif rule.kind = 'tenure' then
            select coalesce(sum(d.members), 0)::bigint, coalesce(sum(d.members * t.points), 0)::bigint
              into members, points
              from unnest(days, counts) as d (day, members)
             cross join lateral (
                       select (t ->> 'points')::bigint
                         from jsonb_array_elements(rule.terms -> 'table') t
                        where (t ->> 'years')::integer <= loyalty.full_years(d.day, (rule.terms ->> 'key_date')::date)
                        order by (t ->> 'years')::integer desc
                        limit 1) as t (points);
        else
            select count(*), coalesce(sum(o.points), 0)::bigint into members, points
              from loyalty.event e
             cross join lateral (values (e.account_id, 'member'), (e.other_account_id, 'other')) as p (account_id, party)
             cross join lateral loyalty.event_points(rule.terms, rule.kind, p.party, e.amount) as o (points)
              left join loyalty.wallet w on w.account_id = p.account_id
             where e.program_id = rule_forecast.program_id
               and e.kind = coalesce(rule.terms ->> 'event', 'purchase')
               and e.month between date_trunc('month', reach.from_day::timestamp)::date and reach.to_day
               and e.canceled_at is null
               and p.account_id is not null
               and o.points > 0
               and w.status is distinct from 'closed';
        end if;
        return next;
    end loop;
end
$$;

create or replace function loyalty.check_notice_setting(setting loyalty.notice_setting) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    wrong text;
    given text;
    hint text;
begin
    if (setting.days_of_month is not null) <> (setting.kind = 'balance') then
        wrong := 'days_of_month does not apply to this kind';
        given := setting.days_of_month::text;
        hint := 'Only balance is sent on days of the month.';
    elsif cardinality(setting.days_of_month) = 0 or array_ndims(setting.days_of_month) > 1
          or array_position(setting.days_of_month, null) is not null
          or 1 > any (setting.days_of_month) or 31 < any (setting.days_of_month) then
        wrong := 'days_of_month has what is no day of a month';
        given := setting.days_of_month::text;
        hint := 'Days from 1 to 31, at least one; a day that a month does not have is its last.';
    elsif (setting.at is not null) <> (setting.kind in ('balance', 'expiry')) then
        wrong := 'at does not apply to this kind';
        given := setting.at::text;
        hint := 'Only balance and expiry are sent at a time of day.';
    elsif setting.at >= '24:00' then
        wrong := 'at must be before midnight';
        given := setting.at::text;
        hint := 'A time from 00:00 to 23:59.';
    elsif (setting.days_before is not null) <> (setting.kind = 'expiry') then
        wrong := 'days_before does not apply to this kind';
        given := setting.days_before::text;
        hint := 'Only expiry begins so many days before.';
    elsif setting.days_before not between 0 and 60 then
        wrong := 'days_before is out of range';
        given := setting.days_before::text;
        hint := 'From 0 (on the last day only) to 60.';
    elsif setting.send_within not between interval '1 minute' and interval '30 days' then
        wrong := 'send_within is out of range';
        given := setting.send_within::text;
        hint := 'From 1 minute to 30 days.';
    end if;
    if wrong is not null then
        perform loyalty.raise('22023', wrong, format('kind %s, %s: %L given.',
            setting.kind, split_part(wrong, ' ', 1), given), hint);
    end if;
end
$$;

create or replace function loyalty.retry_failures(run_id bigint, out retried bigint, out paid bigint, out failed bigint)
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
        perform loyalty.raise('LY002', 'no such run', format('%s given.', retry_failures.run_id),
            'select run_id from loyalty.run lists them.');
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
                     from loyalty.rule_payments(retrying.program_id, substr(retrying.job, 6), retrying.period,
                              f.account_id - 1, 1) s
                    cross join lateral unnest(s.account_ids, s.points, s.idempotency_keys)
                              i (account_id, points, idempotency_key)
                    where i.account_id = f.account_id) p on f.points is null
         where f.run_id = retrying.run_id
    ), terms as materialized (
        select t.reason, t.expires_on, t.expiry
          from loyalty.rule_payments(retrying.program_id, substr(retrying.job, 6), retrying.period, 0, 1) t
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
         cross join lateral loyalty.grant_each(p.account_ids, p.points, t.reason, retrying.effective_on,
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

create or replace function loyalty.session_tokens(session_id uuid) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    of_session record;
    refresh_token text := loyalty.random_token();
    -- what PostgREST checks goes by the machine's clock
    issued bigint := extract(epoch from clock_timestamp())::bigint;
begin
    select s.*, p.code as program,
           ceil(extract(epoch from coalesce(a.token_life, '10 minutes')))::bigint as token_seconds
      into strict of_session
      from loyalty.session s
      left join loyalty.program p on p.program_id = s.program_id
      left join loyalty.access_policy a on a.program_id = s.program_id
     where s.session_id = session_tokens.session_id;
    insert into loyalty.refresh_token (token_hash, session_id, made_at)
    values ((loyalty.keyed_hashes('refresh token', refresh_token))[1], of_session.session_id, loyalty.now());
    return jsonb_build_object(
        'access_token', loyalty.sign_token(jsonb_strip_nulls(jsonb_build_object(
            'iss', 'loyalty',
            'sub', 'identity:' || of_session.identity_id,
            'role', of_session.role,
            'program', of_session.program,
            'account_id', of_session.account_id,
            'sid', of_session.session_id,
            'iat', issued,
            'exp', issued + of_session.token_seconds))::text),
        'token_type', 'Bearer',
        'expires_in', of_session.token_seconds,
        'refresh_token', refresh_token,
        'refresh_expires_at', of_session.expires_at,
        'session_id', of_session.session_id,
        'program', of_session.program,
        'account_id', of_session.account_id,
        'role', substr(of_session.role, 9));
end
$$;

create or replace function loyalty.api_points(points numeric) returns bigint
    language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    if points > 9223372036854775807 or points < -9223372036854775807 then
        perform loyalty.raise('22003', 'too many points', format('%s given.', points),
            'Points are whole numbers from 1 to 9223372036854775807.');
    end if;
    if points <> trunc(points) then
        perform loyalty.raise('22023', 'points must be whole', format('%s given.', points),
            'There are no parts of a point; round before you ask.');
    end if;
    return points::bigint;
end
$$;

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'loyalty_monitor') then
        create role loyalty_monitor nologin noinherit;
    end if;
exception when duplicate_object or unique_violation then
    null; -- another database of the cluster was quicker
end
$$;

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
                            then loyalty.points_between(w.lot_expires_on, w.lot_remaining, p.today, 'infinity')
                        else w.balance
                   end) as available,
               sum(case when w.hold_entry is not null
                            then (select b.held from loyalty.balance(w.account_id) b)
                        else 0
                   end) as held,
               sum(coalesce(w.debt, 0)) as debt,
               sum(case when w.next_expiry_on <= p.today + expiring_days
                            then loyalty.points_between(
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

revoke all on function
    loyalty.points_metrics(integer),
    loyalty.work_metrics(),
    loyalty.metric_help(text),
    loyalty.metrics_text()
    from public;
grant execute on function
    loyalty.points_metrics(integer),
    loyalty.work_metrics(),
    loyalty.metric_help(text),
    loyalty.metrics_text()
    to loyalty_operator;
grant select on loyalty.metrics to loyalty_operator;
-- What is watched names programs and counts; no member is in it.
grant usage on schema loyalty to loyalty_monitor;
grant select on loyalty.metrics to loyalty_monitor;
grant execute on function
    loyalty.points_metrics(integer),
    loyalty.work_metrics(),
    loyalty.metric_help(text),
    loyalty.metrics_text()
    to loyalty_monitor;

-- Persons who never finished registering are deleted: each look for rows of theirs has an index.
drop index loyalty.session_by_identity;
create index session_by_identity on loyalty.session (identity_id);
drop index loyalty.challenge_by_identity;
create index challenge_by_identity on loyalty.challenge (identity_id);
drop index loyalty.family_spend_by_month;
create index family_spend_by_month on loyalty.family_spend (identity_id, account_id, month);
create index family_by_identity on loyalty.family (identity_id) where identity_id is not null;
create index program_role_by_identity on loyalty.program_role (identity_id) where identity_id is not null;

-- Row security on each table, also where only operators had any right.
alter table loyalty.calendar enable row level security;
alter table loyalty.calendar_day enable row level security;
alter table loyalty.member_upload enable row level security;
create policy operator on loyalty.calendar to loyalty_operator using (true);
create policy operator on loyalty.calendar_day to loyalty_operator using (true);
create policy uploading on loyalty.member_upload for insert to loyalty_admin, loyalty_operator with check (true);

-- a clock set back past a lot's last day: the wallet may have dropped the lot, and begun it anew
create or replace function loyalty.verify(program text default null)
    returns table (law integer, account_id bigint, entry integer, problem text)
    language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp
    set jit = off
    -- the journal is read to its end: sorting beats an index that jumps about
    set cursor_tuple_fraction = 1
as $$
#variable_conflict use_column
declare
    only_program integer := case when verify.program is not null then loyalty.program_id(verify.program) end;
    journal refcursor;
    e record;
    r loyalty.journal_entry;
    wallet loyalty.wallet;
    class_program integer;
    classes smallint[];
    sliding smallint[];
    sliding_months integer[];
    -- the wallet as the journal makes it; numeric, since forged figures may be of any size
    last_entry integer;
    last_day date;
    total numeric;
    balance numeric;
    debt numeric;
    free numeric;
    lot_day date[];
    lot_class smallint[];
    lot_got numeric[];
    lot_left numeric[];
    lot_pinned numeric[];
    revived date[];
    hold_entry integer[];
    hold_until timestamptz[];
    undone_of integer[];
    undone numeric[];
    -- what an entry says was available is true once its operation is complete
    told_entry integer;
    told numeric;
    told_today date;
    told_ahead boolean;
    follows boolean;
    low numeric;
    high numeric;
    -- steps
    day date;
    class smallint;
    months integer;
    part numeric;
    place integer;
    top integer;
    explained numeric;
    forfeited boolean;
    restored boolean[];
    wanted numeric;
begin
    return query
    select 3, a.account_id, null::integer, 'the account has no wallet, or the wallet is of another program'
      from loyalty.account a
      left join loyalty.wallet w on w.account_id = a.account_id
     where (only_program is null or a.program_id = only_program)
       and w.program_id is distinct from a.program_id;
    return query
    select 3, w.account_id, null::integer, 'the wallet has no account'
      from loyalty.wallet w
     where (only_program is null or w.program_id = only_program)
       and not exists (select from loyalty.account a where a.account_id = w.account_id);
    return query
    select 3, m.account_id, null::integer, 'the member has no account, or is of another program'
      from loyalty.member m
      left join loyalty.account a on a.account_id = m.account_id
     where m.program_id is distinct from a.program_id
       and (only_program is null or only_program in (m.program_id, a.program_id));
    if only_program is null then
        return query
        select distinct 3, e.account_id, null::integer, 'the journal has entries of an account that does not exist'
          from loyalty.entry e
         where not exists (select from loyalty.account a where a.account_id = e.account_id);
    end if;

    open journal no scroll for execute $q$
        select a.account_id as owner, a.program_id, e.*,
               timezone(p.time_zone, e.occurred_at)::date as today
          from loyalty.account a
          join loyalty.program p on p.program_id = a.program_id
          left join loyalty.journal_entry e on e.account_id = a.account_id
         where $1 is null or a.program_id = $1
         order by a.account_id, e.entry
        $q$ using only_program;
    fetch journal into e;
    while e.owner is not null loop
        account_id := e.owner;
        if class_program is distinct from e.program_id then
            class_program := e.program_id;
            select array_agg(c.lot_class) || 0::smallint,
                   coalesce(array_agg(c.lot_class) filter (where c.inactivity_months is not null), '{}'),
                   array_agg(c.inactivity_months) filter (where c.inactivity_months is not null)
              into classes, sliding, sliding_months
              from loyalty.lot_class c
             where c.program_id = class_program;
        end if;
        last_entry := 0; last_day := null; total := 0; balance := 0; debt := 0; free := 0;
        lot_day := '{}'; lot_class := '{}';
        lot_got := '{}'; lot_left := '{}'; lot_pinned := '{}'; revived := '{}';
        hold_entry := '{}'; hold_until := '{}'; undone_of := '{}'; undone := '{}';
        told_entry := null;
        select * into wallet from loyalty.wallet w where w.account_id = e.owner;

        -- every turn but the last takes one entry; the last has none left
        loop
            follows := e.owner is not distinct from account_id
                and (e.kind = 'repay' or e.kind = 'expire' and e.refers_to is not null);
            if told_entry is not null and not follows then
                -- law 4: available is what is free in lots whose day is not over. Where the
                -- program's time zone was changed, a day to and fro is in doubt.
                low := free;
                high := free;
                for i in 1 .. cardinality(lot_day) loop
                    exit when lot_day[i] > told_today;
                    low := low - (lot_left[i] - lot_pinned[i]);
                    if lot_day[i] < told_today - 1 then
                        high := high - (lot_left[i] - lot_pinned[i]);
                    end if;
                end loop;
                if (told_ahead and (e.owner is distinct from account_id or e.available <> told))
                   or (not told_ahead and told not between low and high) then
                    law := 4; entry := told_entry;
                    problem := format('says %s were available, the journal says %s', told,
                                      (case when told_ahead then e.available else high end));
                    return next;
                end if;
                told_entry := null;
            end if;
            exit when e.owner is distinct from account_id or e.entry is null;

            entry := e.entry;
            if e.entry <> last_entry + 1 then
                law := 3; problem := format('entry number is %s, %s expected', e.entry, last_entry + 1);
                return next;
            end if;
            if e.balance <> balance + e.points then
                law := 3; problem := format('balance after it is %s, %s expected', e.balance, balance + e.points);
                return next;
            end if;
            if follows and e.available is distinct from told then
                law := 4; problem := format('says %s were available, the entry before it %s', e.available, told);
                return next;
            end if;
            last_entry := e.entry;
            -- a clock that was set back brings no lot back that was dropped
            last_day := greatest(last_day, e.today);
            balance := e.balance;
            total := total + e.points;
            debt := debt + e.debt;
            if debt < 0 then
                law := 1; problem := format('repays %s more than the debt was', -debt);
                return next;
                debt := 0;
            end if;
            if not e.is_whole then
                law := 10; problem := format('a %s lacks what belongs to it, or has what does not', e.kind);
                return next;
            end if;

            if not e.key_is_whole then
                law := 6; problem := 'an idempotency key without the hash of its request, or the other way round';
                return next;
            end if;

            -- the entry that it is about
            forfeited := false;
            if e.kind in ('capture', 'release', 'refund', 'revoke', 'repay')
               or e.kind = 'expire' and e.refers_to is not null then
                select * into r from loyalty.journal_entry o
                 where o.account_id = e.owner and o.entry = e.refers_to and o.entry < e.entry;
                problem := null;
                if not found then
                    law := 10; problem := 'refers to an entry that is not there';
                elsif e.kind in ('capture', 'release') then
                    law := 8;
                    place := array_position(hold_entry, e.refers_to);
                    if place is null then
                        problem := 'ends a hold that was not open';
                    else
                        hold_entry := hold_entry[:place - 1] || hold_entry[place + 1:];
                        hold_until := hold_until[:place - 1] || hold_until[place + 1:];
                        for i in 1 .. coalesce(cardinality(r.lot_points), 0) loop
                            top := array_position(lot_day, r.lot_expires_on[i]);
                            class := coalesce(r.lot_class[i], 0);
                            while lot_class[top] <> class loop
                                top := array_position(lot_day, r.lot_expires_on[i], top + 1);
                            end loop;
                            if top is not null then
                                lot_pinned[top] := lot_pinned[top] - r.lot_points[i];
                                free := free + r.lot_points[i];
                            end if;
                        end loop;
                    end if;
                    if problem is not null then
                        null;
                    elsif e.held <> -r.held then
                        problem := format('hold of %s ended with %s', r.held, -e.held);
                    elsif e.kind = 'capture' and r.hold_until <= e.occurred_at then
                        problem := 'captured after the hold''s time';
                    elsif e.kind = 'release'
                          and (e.lot_expires_on is distinct from r.lot_expires_on
                               or e.lot_points is distinct from r.lot_points
                               or e.lot_class is distinct from r.lot_class) then
                        problem := 'frees other lots than the hold pinned';
                    elsif e.kind = 'capture' then
                        -- soonest first, each all of it but the last
                        for i in 1 .. coalesce(cardinality(e.lot_points), 0) loop
                            if e.lot_expires_on[i] is distinct from r.lot_expires_on[i]
                               or coalesce(e.lot_class[i], 0) <> coalesce(r.lot_class[i], 0)
                               or -e.lot_points[i] > r.lot_points[i]
                               or -e.lot_points[i] < r.lot_points[i] and i < cardinality(e.lot_points) then
                                problem := 'takes other lots than the hold pinned';
                            end if;
                        end loop;
                    end if;
                elsif e.kind in ('refund', 'revoke') then
                    law := 7;
                    place := array_position(undone_of, e.refers_to);
                    if place is null then
                        undone_of := undone_of || e.refers_to;
                        undone := undone || 0::numeric;
                        place := cardinality(undone_of);
                    end if;
                    wanted := undone[place] + abs(e.points) + e.debt;
                    if e.kind = 'refund' and r.kind not in ('spend', 'capture')
                       or e.kind = 'revoke' and r.kind <> 'grant' then
                        problem := format('%s of a %s', e.kind, r.kind);
                    elsif wanted > abs(r.points) then
                        problem := format('%s of %s points, %s given or taken back', r.kind, abs(r.points), wanted);
                    elsif e.kind = 'revoke' then
                        -- of a lot that lapses by inactivity, from what extension made of it
                        if e.lot_points is not null
                           and (coalesce(e.lot_class, '{0}') <> coalesce(r.lot_class, '{0}')
                                or e.lot_expires_on is distinct from r.lot_expires_on
                                   and coalesce(r.lot_class[1] <> all (sliding), true)) then
                            problem := 'takes from another lot than the grant gave to';
                        end if;
                    else
                        -- to the lots they came from, the last taken first: of all that was
                        -- taken, counted from its end, the part from what was given back
                        -- before to what is now
                        top := 1;
                        high := 0;
                        restored := '{}';
                        for i in reverse coalesce(cardinality(r.lot_points), 0) .. 1 loop
                            low := high;
                            high := low - r.lot_points[i];
                            part := least(high, wanted) - greatest(low, undone[place]);
                            if part > 0 then
                                restored[top] := e.lot_expires_on[top] = r.lot_expires_on[i]
                                    and coalesce(e.lot_class[top], 0) = coalesce(r.lot_class[i], 0);
                                -- or to what extension made of the lot, or for days of grace
                                if e.lot_points[top] is distinct from part
                                   or not restored[top]
                                      and not (e.lot_expires_on[top] >= e.today - 1
                                               and (r.lot_expires_on[i] <= e.today
                                                    or r.lot_class[i] = any (sliding)
                                                       and e.lot_class[top] = r.lot_class[i])) then
                                    problem := 'gives back to other lots than the points came from';
                                end if;
                                top := top + 1;
                            end if;
                        end loop;
                    end if;
                    undone[place] := wanted;
                elsif e.kind = 'repay' then
                    if r.kind <> 'grant' or e.lot_expires_on is distinct from r.lot_expires_on
                       or coalesce(e.lot_class, '{0}') <> coalesce(r.lot_class, '{0}') then
                        law := 10; problem := 'repays a debt from another lot than the grant gave to';
                    end if;
                else
                    -- refunded points whose day is over, forfeited at once
                    forfeited := true;
                    if r.kind <> 'refund' or exists (
                           select from unnest(e.lot_expires_on, e.lot_points, e.lot_class) as f (day, points, class)
                            where not exists (
                                      select from unnest(r.lot_expires_on, r.lot_points, r.lot_class)
                                               as b (day, points, class)
                                       where b.day = f.day and b.points = -f.points
                                         and coalesce(b.class, 0) = coalesce(f.class, 0))) then
                        law := 7; problem := 'forfeits what the refund before it did not give back';
                    end if;
                end if;
                if problem is not null then
                    return next;
                end if;
            end if;

            -- law 10: what one sent, the other received
            if e.kind = 'transfer' then
                select * into r from loyalty.journal_entry o
                 where o.account_id = e.other_account_id and o.entry = e.other_entry;
                if not found or r.kind <> 'transfer' or r.points <> -e.points
                   or r.other_account_id is distinct from e.owner or r.other_entry is distinct from e.entry
                   or r.lot_expires_on is distinct from e.lot_expires_on
                   or coalesce(r.lot_class, '{}') <> coalesce(e.lot_class, '{}')
                   or (select array_agg(-m.points) from unnest(r.lot_points) as m (points))
                      is distinct from e.lot_points then
                    law := 10; problem := 'the other side of the transfer is missing or differs';
                    return next;
                elsif not exists (
                          select from loyalty.account a
                           where a.account_id = e.other_account_id and a.program_id = e.program_id) then
                    law := 10; problem := 'the other side of the transfer is in another program';
                    return next;
                end if;
            elsif e.kind = 'refund' then
                -- what it forfeits at once never reaches a lot
                select * into r from loyalty.journal_entry o
                 where o.account_id = e.owner and o.entry = e.entry + 1
                   and o.kind = 'expire' and o.refers_to = e.entry;
            end if;

            explained := 0;
            top := 0;
            for i in 1 .. coalesce(cardinality(e.lot_points), 0) loop
                day := e.lot_expires_on[i];
                part := e.lot_points[i];
                class := coalesce(e.lot_class[i], 0);
                explained := explained + part;
                if part is null or day is null or class is null then
                    continue;
                end if;
                if class <> all (classes) then
                    law := 9; problem := format('the program has no lot class %s', class);
                    return next;
                end if;
                -- not a grant: a payment that downtime delayed may come when its lot is over
                if e.kind in ('spend', 'hold', 'extend') or e.kind = 'transfer' and part < 0 then
                    if day < e.today - 1 then
                        law := 4; problem := format('the lot''s last day, %s, was over', day);
                        return next;
                    end if;
                elsif e.kind = 'expire' and day > e.today and wallet.status <> 'closed' then
                    law := 4; problem := format('the lot''s last day, %s, was not over', day);
                    return next;
                end if;
                if e.kind = 'extend' and (i % 2 = 0) then
                    months := sliding_months[array_position(sliding, class)];
                    if abs((e.today + make_interval(months => months))::date - day) > 1
                       or part <> -e.lot_points[i - 1] or day <= e.lot_expires_on[i - 1]
                       or class is distinct from e.lot_class[i - 1] or months is null then
                        law := 9; problem := 'extends what does not lapse by inactivity, or to another day';
                        return next;
                    end if;
                end if;
                if forfeited or e.kind = 'release' then
                    continue;
                end if;
                if e.kind = 'refund' and r.account_id is not null and exists (
                       select from unnest(r.lot_expires_on, r.lot_points, r.lot_class) as f (day, points, class)
                        where f.day = e.lot_expires_on[i] and f.points = -e.lot_points[i]
                          and coalesce(f.class, 0) = coalesce(e.lot_class[i], 0)) then
                    continue;
                end if;
                if e.kind = 'refund' and day < e.today - 1 then
                    law := 7; problem := format('the lot''s last day, %s, was over', day);
                    return next;
                end if;
                place := array_position(lot_day, day);
                while lot_class[place] <> class loop
                    place := array_position(lot_day, day, place + 1);
                end loop;
                if place is null then
                    if part < 0 or e.kind = 'hold' then
                        law := 2; problem := format('lot of %s, class %s is not there', day, class);
                        return next;
                        continue;
                    end if;
                    place := cardinality(lot_day) + 1;
                    while place > 1 and lot_day[place - 1] > day loop
                        place := place - 1;
                    end loop;
                    if place <= cardinality(lot_day) then
                        lot_day := lot_day[:place - 1] || day || lot_day[place:];
                        lot_class := lot_class[:place - 1] || class || lot_class[place:];
                        lot_got := lot_got[:place - 1] || 0::numeric || lot_got[place:];
                        lot_left := lot_left[:place - 1] || 0::numeric || lot_left[place:];
                        lot_pinned := lot_pinned[:place - 1] || 0::numeric || lot_pinned[place:];
                    else
                        lot_day[place] := day; lot_class[place] := class;
                        lot_got[place] := 0; lot_left[place] := 0; lot_pinned[place] := 0;
                    end if;
                end if;
                if e.kind = 'hold' then
                    lot_pinned[place] := lot_pinned[place] + part;
                    free := free - part;
                else
                    -- so late, or the clock set back, that the wallet may have dropped the lot, and begun anew
                    if part > 0 and day < last_day and lot_left[place] = 0 then
                        revived := revived || day;
                    end if;
                    lot_left[place] := lot_left[place] + part;
                    free := free + part;
                    if part > 0 and (e.kind <> 'refund' or not coalesce(restored[i], false)) then
                        lot_got[place] := lot_got[place] + part;
                    elsif day = any (revived) then
                        lot_got[place] := greatest(lot_got[place], lot_left[place]);
                    end if;
                end if;
                if lot_left[place] < lot_pinned[place] then
                    law := case when lot_left[place] < 0 then 2 else 8 end;
                    problem := format('lot of %s, class %s gives more than it has, by %s', day, class,
                                      lot_pinned[place] - lot_left[place]);
                    return next;
                end if;
                if e.kind in ('spend', 'hold') or e.kind = 'transfer' and part < 0 then
                    if place < top and (lot_day[place] < lot_day[top] or class <> all (sliding)) then
                        law := 5; problem := 'takes its lots out of order';
                        return next;
                    end if;
                    top := place;
                end if;
            end loop;
            if explained <> (case when e.kind in ('hold', 'release') then abs(e.held) else e.points end) then
                law := 10; problem := format('entry is about %s points, its lots about %s',
                    case when e.kind in ('hold', 'release') then abs(e.held) else e.points end, explained);
                return next;
            end if;
            for i in 1 .. top - 1 loop
                if lot_left[i] > lot_pinned[i] and lot_day[i] > e.today
                   and (lot_day[i] < lot_day[top] or lot_class[i] <> all (sliding)) then
                    law := 5; problem := format('passes over the lot of %s, class %s', lot_day[i], lot_class[i]);
                    return next;
                end if;
            end loop;

            if e.kind = 'hold' then
                hold_entry := hold_entry || e.entry;
                hold_until := hold_until || e.hold_until;
            end if;
            if follows then
                null;
            else
                told_entry := e.entry;
                told := e.available;
                told_today := e.today;
                -- what an operation books before its own entry tells of the operation, too
                told_ahead := e.kind = 'extend' or e.kind = 'release' and r.hold_until <= e.occurred_at;
            end if;
            if e.kind not in ('expire', 'release', 'repay', 'extend') then
                -- nothing comes back to a lot that is empty and over
                while lot_day[1] < e.today - 1 and lot_left[1] = 0 and lot_pinned[1] = 0 loop
                    lot_day := lot_day[2:]; lot_class := lot_class[2:];
                    lot_got := lot_got[2:]; lot_left := lot_left[2:]; lot_pinned := lot_pinned[2:];
                end loop;
            end if;
            fetch journal into e;
        end loop;
        if e.owner is not distinct from account_id then
            fetch journal into e; -- an account without entries
        end if;

        -- the wallet must be what the journal made
        entry := null;
        if wallet.account_id is null then
            continue; -- told above
        end if;
        if wallet.balance <> total then
            law := 1; problem := format('balance is %s, the entries sum to %s', wallet.balance, total);
            return next;
        end if;
        if coalesce(wallet.debt, 0) <> debt then
            law := 1; problem := format('debt is %s, the journal says %s', coalesce(wallet.debt, 0), debt);
            return next;
        end if;
        if wallet.last_entry <> last_entry
           or wallet.first_entry is distinct from (case when last_entry > 0 then 1 end) then
            law := 3; problem := format('first and last entry are %s and %s, the journal ends at %s',
                                        wallet.first_entry, wallet.last_entry, last_entry);
            return next;
        end if;
        if coalesce(wallet.hold_entry, '{}') <> hold_entry or coalesce(wallet.hold_until, '{}') <> hold_until then
            law := 8; problem := format('open holds are %s until %s, the journal says %s until %s',
                                        wallet.hold_entry, wallet.hold_until, hold_entry, hold_until);
            return next;
        end if;
        if wallet.status = 'closed' and (wallet.balance <> 0 or hold_entry <> '{}') then
            law := 1; problem := 'the account is closed, but holds points';
            return next;
        end if;
        if not loyalty.wallet_is_sound(wallet.balance, wallet.debt, wallet.lot_expires_on, wallet.lot_granted,
                                       wallet.lot_remaining, wallet.lot_class, wallet.next_expiry_on) then
            law := 2; problem := 'the lots of the wallet are out of order, overdrawn or not its balance';
            return next;
        end if;
        top := 0;
        for i in 1 .. coalesce(cardinality(wallet.lot_expires_on), 0) loop
            day := wallet.lot_expires_on[i];
            class := coalesce(wallet.lot_class[i], 0);
            part := wallet.lot_remaining[i];
            if class <> all (classes) then
                law := 9; problem := format('the wallet has a lot of class %s, the program none', class);
                return next;
            end if;
            place := array_position(lot_day, day);
            while lot_class[place] <> class loop
                place := array_position(lot_day, day, place + 1);
            end loop;
            if class = any (sliding) then
                -- extension leaves no trace of an empty lot, here or in the wallet
                if wallet.lot_granted[i] > coalesce(lot_got[place], 0) then
                    law := 2; problem := format('lot of %s, class %s says it got %s, the journal says %s',
                                                day, class, wallet.lot_granted[i], coalesce(lot_got[place], 0));
                    return next;
                elsif part = 0 and place is null then
                    continue;
                end if;
            elsif place < top then
                law := 5; problem := format('lot of %s, class %s is out of order', day, class);
                return next;
            elsif lot_got[place] is distinct from wallet.lot_granted[i]
                  and not (day = any (revived) and wallet.lot_granted[i] between lot_left[place] and lot_got[place]) then
                law := 2; problem := format('lot of %s, class %s says it got %s, the journal says %s',
                                            day, class, wallet.lot_granted[i], coalesce(lot_got[place], 0));
                return next;
            else
                top := place;
            end if;
            if lot_left[place] is distinct from part then
                law := 1; problem := format('lot of %s, class %s holds %s, the journal says %s',
                                            day, class, part, coalesce(lot_left[place], 0));
                return next;
            end if;
            if place is not null then
                lot_day[place] := null; -- seen
            end if;
        end loop;
        for i in 1 .. cardinality(lot_day) loop
            -- empty ones are kept through their last day
            if lot_left[i] <> 0 and lot_day[i] is not null
               or lot_day[i] > last_day and lot_class[i] <> all (sliding) and wallet.status <> 'closed' then
                law := 1; problem := format('lot of %s, class %s is not in the wallet, the journal says it holds %s',
                                            lot_day[i], lot_class[i], lot_left[i]);
                return next;
            end if;
        end loop;
    end loop;
    close journal;
end
$$;

-- A forecast read all wallets of all programs: now it goes from the program's accounts to theirs.

create or replace function loyalty.preview(program text, months integer default 24)
    returns table (day date, job text, title text, period date, members bigint, points bigint)
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
    -- the walk is by index, whatever the statistics say
    set enable_hashjoin = off
    set enable_mergejoin = off
    set enable_seqscan = off
    set enable_bitmapscan = off
    set jit = off
as $$
#variable_conflict use_column
declare
    program_number integer := loyalty.program_id(program);
    today date := loyalty.today(program);
    horizon date;
begin
    if months is null or months not between 1 and 120 then
        perform loyalty.raise('22023', 'months must be from 1 to 120', format('%s given.', coalesce(months::text, 'null')),
            'Leave it out for 24.');
    end if;
    horizon := (today + make_interval(months => months))::date;
    return query
    select *
      from (
            select f.pays_on, 'rule:' || r.code, r.title, f.period, f.members, f.points
              from (select distinct on (r.code) r.code, r.title
                      from loyalty.rule r
                     where r.program_id = program_number
                     order by r.code, r.version desc) r
              left join loyalty.schedule s
                on s.program_id = program_number and s.job = 'rule:' || r.code
             cross join lateral loyalty.rule_forecast(program_number, r.code,
                            coalesce(s.done_through, today - 1), horizon) f
             where f.members > 0 and f.pays_on <= horizon
             union all
            -- A lot is booked on the day after its last, and by the next run where that has passed.
            select greatest(l.expires_on + 1, today), 'expire', 'expiry', greatest(l.expires_on + 1, today),
                   -- only lots of a class share an account's day
                   count(*) filter (where w.lot_class is null)
                   + count(distinct case when w.lot_class is not null then w.account_id end),
                   sum(l.points)::bigint
              from loyalty.account a
              join loyalty.wallet w on w.account_id = a.account_id
             cross join lateral unnest(w.lot_expires_on, w.lot_remaining) l (expires_on, points)
             where a.program_id = program_number
               and l.points > 0
               and l.expires_on < horizon
             group by 1
           ) p
     order by 1, 2, 4;
end
$$;

-- Their bodies are text: PostgreSQL cannot write one out that it has parsed where it reads an
-- argument without a name, and pg_upgrade has it write out every function.
create or replace function loyalty_api.import_members(text)
    returns table (
        outcome text,
        row_count bigint,
        row_no integer,
        member_no text,
        column_name text,
        reason text
    )
    language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    select loyalty.audit('import_members', loyalty.program_id(loyalty.api_admin_program(loyalty.api_header('Program'))),
        details => jsonb_build_object('dry_run', loyalty.api_flag('Dry-Run')));
    select i.outcome, i.row_count, i.row_no, loyalty.csv_cell(i.member_no), loyalty.csv_cell(i.column_name), i.reason
      from loyalty.import_members(
               loyalty.api_admin_program(loyalty.api_header('Program')), $1,
               loyalty.api_flag('All-Or-Nothing'), loyalty.api_flag('Dry-Run')) i;
$$;

create or replace function loyalty_api.import_members(bytea)
    returns table (
        outcome text,
        row_count bigint,
        row_no integer,
        member_no text,
        column_name text,
        reason text
    )
    language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    select loyalty.audit('import_members', loyalty.program_id(loyalty.api_admin_program(loyalty.api_header('Program'))),
        details => jsonb_build_object('dry_run', loyalty.api_flag('Dry-Run')));
    select i.outcome, i.row_count, i.row_no, loyalty.csv_cell(i.member_no),
           loyalty.csv_cell(i.column_name), i.reason
      from loyalty.import_members(
               loyalty.api_admin_program(loyalty.api_header('Program')), $1,
               coalesce(substring(loyalty.api_header('Content-Type') from '(?i)charset="?([^;" ]+)'), 'UTF-8'),
               loyalty.api_flag('All-Or-Nothing'), loyalty.api_flag('Dry-Run')) i;
$$;

-- They take the owner's rights by themselves, and only for a statement: most calls need none.
alter function loyalty.grant(bigint, bigint, text, date, date, text, text, loyalty.expiry_policy) security invoker reset all;
alter function loyalty.spend_fifo(bigint, bigint, text, text) security invoker reset all;
alter function loyalty.balance(bigint, timestamptz) security invoker reset all;

-- What these look up is the same whatever the caller's path.
alter function loyalty.rule_periods(integer, text, date, date) set search_path = pg_catalog, pg_temp;
alter function loyalty.rule_reach(integer, text, date) set search_path = pg_catalog, pg_temp;
alter function loyalty.rule_pay_day(integer, text, date) set search_path = pg_catalog, pg_temp;

-- Latest first goes by the number.
comment on view loyalty_api.notice is
$$Notices

What a member was told, or is about to be. A member sees their own; administrators those of their program: filter with ?account_id=eq.… . Latest first: ?order=notice_id.desc, which an index has; by queued_at all of them are sorted.$$;

-- The address that loses a login is told.
alter table loyalty.notice
    drop constraint notice_kind_is_known,
    add constraint notice_kind_is_known
        check (kind in ('points_received', 'balance', 'expiry', 'order_received',
                        'verification_code', 'login_in_use', 'password_reset', 'unlock', 'login_change',
                        'login_approved', 'family_approval', 'family_invitation', 'staff_invitation',
                        'password_changed', 'login_changed', 'family_ended'));
alter table loyalty.notice_template
    drop constraint notice_template_kind_is_known,
    add constraint notice_template_kind_is_known
        check (kind in ('points_received', 'balance', 'expiry', 'order_received',
                        'verification_code', 'login_in_use', 'password_reset', 'unlock', 'login_change',
                        'login_approved', 'family_approval', 'family_invitation', 'staff_invitation',
                        'password_changed', 'login_changed', 'family_ended'));
insert into loyalty.notice_template (program_id, kind, language, subject, text_body, html_body, sms_body) values
(null, 'login_changed', 'ja', '【{{ program.name }}】ログインIDが変更されました',
$${% if member.name %}{{ member.name }} 様{% else %}{{ program.name }}からのお知らせです。{% endif %}


{{ today | date }}({{ today | weekday }})に、ログインIDが変更されました。今後、このアドレスではログインできません。ご自身で変更された場合、お手続きは必要ありません。

お心当たりのない場合は、どなたかがログインした恐れがあります。すぐにお問い合わせください。

──────────────────────────────
{{ program.name }}
このメールは送信専用のアドレスからお送りしています。ご返信いただいてもお答えできませんので、ご了承ください。
$$,
$$<!DOCTYPE html>
<html lang="ja">
<head><meta charset="utf-8"><title>{{ program.name }}</title></head>
<body style="margin:0;padding:24px;color:#222;font-family:sans-serif;line-height:1.7">
<div style="max-width:560px;margin:0 auto">
<p>{% if member.name %}{{ member.name }} 様{% else %}{{ program.name }}からのお知らせです。{% endif %}
</p>
<p>{{ today | date }}({{ today | weekday }})に、ログインIDが変更されました。今後、このアドレスではログインできません。ご自身で変更された場合、お手続きは必要ありません。</p>
<p>お心当たりのない場合は、どなたかがログインした恐れがあります。すぐにお問い合わせください。</p>
<hr style="border:0;border-top:1px solid #ccc">
<p style="color:#666;font-size:12px">{{ program.name }}<br>
このメールは送信専用のアドレスからお送りしています。ご返信いただいてもお答えできませんので、ご了承ください。</p>
</div>
</body>
</html>
$$,
$$【{{ program.name }}】ログインIDが変更され、この番号ではログインできなくなりました。心当たりがなければ、すぐにお問い合わせください。$$),
(null, 'login_changed', 'en', '{{ program.name }}: your login ID was changed',
$${% if member.name %}Dear {{ member.name }},{% else %}Hello,{% endif %}


Your login ID was changed on {{ today | date }}, and you can no longer log in with this address. If you did that, there is nothing more to do.

If it was not you, somebody else may have logged in. Please contact us at once.

--------------------------------------------------
{{ program.name }}
This address only sends mail; replies to it are not read.
$$,
$$<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{{ program.name }}</title></head>
<body style="margin:0;padding:24px;color:#222;font-family:sans-serif;line-height:1.6">
<div style="max-width:560px;margin:0 auto">
<p>{% if member.name %}Dear {{ member.name }},{% else %}Hello,{% endif %}
</p>
<p>Your login ID was changed on {{ today | date }}, and you can no longer log in with this address. If you did that, there is nothing more to do.</p>
<p>If it was not you, somebody else may have logged in. Please contact us at once.</p>
<hr style="border:0;border-top:1px solid #ccc">
<p style="color:#666;font-size:12px">{{ program.name }}<br>
This address only sends mail; replies to it are not read.</p>
</div>
</body>
</html>
$$,
$${{ program.name }}: your login ID was changed, and you can no longer log in with this number. If it was not you, contact us at once.$$),
(null, 'family_ended', 'ja', '【{{ program.name }}】ご家族としてのご利用が終了しました',
$${% if member.name %}{{ member.name }} 様{% else %}{{ program.name }}からのお知らせです。{% endif %}


{{ today | date }}({{ today | weekday }})に、{{ name }}様のご家族としてのご利用が終了しました。今後、{{ name }}様がご家族として会員様のポイントを見ること、使うことはできません。

お心当たりのない場合は、お問い合わせください。

──────────────────────────────
{{ program.name }}
このメールは送信専用のアドレスからお送りしています。ご返信いただいてもお答えできませんので、ご了承ください。
$$,
$$<!DOCTYPE html>
<html lang="ja">
<head><meta charset="utf-8"><title>{{ program.name }}</title></head>
<body style="margin:0;padding:24px;color:#222;font-family:sans-serif;line-height:1.7">
<div style="max-width:560px;margin:0 auto">
<p>{% if member.name %}{{ member.name }} 様{% else %}{{ program.name }}からのお知らせです。{% endif %}
</p>
<p>{{ today | date }}({{ today | weekday }})に、{{ name }}様のご家族としてのご利用が終了しました。今後、{{ name }}様がご家族として会員様のポイントを見ること、使うことはできません。</p>
<p>お心当たりのない場合は、お問い合わせください。</p>
<hr style="border:0;border-top:1px solid #ccc">
<p style="color:#666;font-size:12px">{{ program.name }}<br>
このメールは送信専用のアドレスからお送りしています。ご返信いただいてもお答えできませんので、ご了承ください。</p>
</div>
</body>
</html>
$$,
$$【{{ program.name }}】ご家族としてのご利用が終了しました。心当たりがなければ、お問い合わせください。$$),
(null, 'family_ended', 'en', '{{ program.name }}: access as family has ended',
$${% if member.name %}Dear {{ member.name }},{% else %}Hello,{% endif %}


On {{ today | date }} the access of {{ name }} as family ended: the member's points can no longer be seen or spent by {{ name }}.

If you did not expect this, please contact us.

--------------------------------------------------
{{ program.name }}
This address only sends mail; replies to it are not read.
$$,
$$<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{{ program.name }}</title></head>
<body style="margin:0;padding:24px;color:#222;font-family:sans-serif;line-height:1.6">
<div style="max-width:560px;margin:0 auto">
<p>{% if member.name %}Dear {{ member.name }},{% else %}Hello,{% endif %}
</p>
<p>On {{ today | date }} the access of {{ name }} as family ended: the member's points can no longer be seen or spent by {{ name }}.</p>
<p>If you did not expect this, please contact us.</p>
<hr style="border:0;border-top:1px solid #ccc">
<p style="color:#666;font-size:12px">{{ program.name }}<br>
This address only sends mail; replies to it are not read.</p>
</div>
</body>
</html>
$$,
$${{ program.name }}: an access as family has ended. If you did not expect this, contact us.$$);

create or replace function loyalty.confirm_login_change(token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    sent loyalty.challenge := loyalty.challenge_of_token(confirm_login_change.token, '{login_change}');
    person loyalty.identity;
begin
    perform loyalty.check_service_hours(sent.program_id);
    if sent.address is null then
        perform loyalty.raise('LY009', 'the link is no longer good', 'It was used, replaced by a newer one, or its time is over.',
            'Ask for a new one.');
    end if;
    perform loyalty.use_challenge(sent.challenge_id);
    select i.* into person
      from loyalty.identity i
     where i.identity_id = sent.identity_id and i.state = 'active'
       for update;
    if not found then
        perform loyalty.raise('LY010', 'the login is suspended', null, 'Ask your organisation.');
    end if;
    begin
        update loyalty.identity i
           set login_id = sent.address, changed_at = loyalty.now()
         where i.identity_id = person.identity_id;
    exception when unique_violation then
        perform loyalty.raise('LY010', 'the login ID is taken by now', null, 'Choose another one.');
    end;
    -- the record is the member's own: family has none
    perform loyalty.fill_contact(l.account_id, sent.address)
       from loyalty.identity_link l
      where l.identity_id = sent.identity_id and l.account_id = sent.account_id
        and l.relation = 'self' and l.ended_at is null;
    if person.login_id <> sent.address then
        -- who did not ask for it has to hear of it, where they still read
        perform loyalty.send_notice(sent.program_id, (loyalty.reach(person, sent.program_id)).account_id,
            'login_changed', gen_random_uuid()::text, person.login_id);
        -- links that went there open the login no more
        update loyalty.challenge c
           set used_at = loyalty.now()
         where c.identity_id = person.identity_id and c.purpose in ('password_reset', 'unlock')
           and c.address = person.login_id and c.used_at is null;
    end if;
    perform loyalty.audit('confirm_login_change', sent.program_id, sent.identity_id, sent.account_id);
    return jsonb_build_object('login_id', sent.address);
end
$$;
comment on function loyalty.confirm_login_change is
    'Takes the link that request_login_change mailed (S8): from then on the new login ID is the person''s, with the same password: {login_id}. The old one, if there was one, is told, and links that went there to reset the password or unlock are over. LY009 for a link that is no longer good, LY010 for a login that is suspended or an ID that is taken by now, LY007 outside of service hours.';

-- What takes no argument, or needs none, says so.
create or replace function loyalty.api_arguments(function_name text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    needed text;
    taken text;
begin
    select string_agg(a.name, ', ' order by a.place)
               filter (where a.place <= f.pronargs - f.pronargdefaults),
           string_agg(a.name, ', ' order by a.place)
      into needed, taken
      from pg_catalog.pg_proc f
     cross join lateral unnest(f.proargnames[:f.pronargs]) with ordinality as a (name, place)
     where f.pronamespace = 'loyalty_api'::regnamespace
       and f.proname = function_name
     group by f.oid;
    perform loyalty.raise('22023', format('not the arguments of %s', function_name),
        case when taken is null then 'It takes none.'
             else format('It takes %s; needed: %s.', taken, coalesce(needed, 'none')) end,
        case when taken is null then 'Send an empty JSON object.'
             else 'Send a JSON object of these and no others.' end);
end
$$;

-- Who is family of a member leaves by themselves.
create function loyalty.end_family(action text, held loyalty.family) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    is_leaving boolean := end_family.action = 'leave_family';
begin
    if held.ended_at is null then
        update loyalty.family f
           set ended_at = loyalty.now()
         where f.family_id = held.family_id
        returning f.* into held;
        perform loyalty.use_challenge(held.challenge_id);
        -- the sessions that it opened end with it
        update loyalty.identity_link l
           set ended_at = loyalty.now()
         where l.identity_id = held.identity_id and l.account_id = held.account_id
           and l.relation <> 'self' and l.ended_at is null;
        -- whose doing it was not hears of it
        perform loyalty.send_notice(held.program_id, case when is_leaving then held.account_id end, 'family_ended',
            gen_random_uuid()::text, i.login_id, jsonb_build_object('name', held.name, 'relation', held.relation))
           from loyalty.identity i
          where i.login_id is not null
            and i.identity_id = case when is_leaving then (
                    select l.identity_id
                      from loyalty.identity_link l
                     where l.account_id = held.account_id and l.relation = 'self' and l.ended_at is null)
                else held.identity_id end;
        perform loyalty.audit(end_family.action, held.program_id, held.identity_id, held.account_id,
            jsonb_build_object('family_id', held.family_id));
    end if;
    return jsonb_build_object('family_id', held.family_id, 'relation', held.relation, 'name', held.name,
        'state', loyalty.family_state(held.expires_at, held.approved_at, held.registered_at, held.ended_at));
end
$$;
comment on function loyalty.end_family is
    'For remove_family and leave_family, which hold the row: ends an invitation that has not ended yet, and what was opened by it, and tells the other side.';
revoke all on function loyalty.end_family(text, loyalty.family) from public;

create or replace function loyalty.remove_family(account_id bigint, family_id bigint) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.family;
begin
    select f.* into held
      from loyalty.family f
     where f.family_id = remove_family.family_id and f.account_id = remove_family.account_id
       for update;
    if not found then
        perform loyalty.raise('LY002', 'no such family', format('%s given.', coalesce(remove_family.family_id::text, 'null')),
            'The family_id of an invitation is in /family.');
    end if;
    return loyalty.end_family('remove_family', held);
end
$$;
comment on function loyalty.remove_family is
    'Takes an invitation back, or removes who registered by it: their sessions end at once, and they are told by mail. Again, it answers the same and changes nothing. LY002.';

create function loyalty.leave_family(identity_id bigint, account_id bigint) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.family;
begin
    -- whoever was removed and invited again has a row for each time
    select f.* into held
      from loyalty.family f
     where f.identity_id = leave_family.identity_id and f.account_id = leave_family.account_id
     order by f.family_id desc
     limit 1
       for update;
    if not found then
        perform loyalty.raise('LY002', 'no such family',
            format('Person %s is no family of account %s.', coalesce(leave_family.identity_id::text, 'null'),
                coalesce(leave_family.account_id::text, 'null')),
            'Who is whose family is in loyalty.family.');
    end if;
    return loyalty.end_family('leave_family', held);
end
$$;
comment on function loyalty.leave_family is
    'One of the family gives up the access to a member''s points, also where the program lets no family in any more: their sessions for it end at once, the invitation is removed, and the member is told by mail. Again, it answers the same and changes nothing. LY002.';

create function loyalty_api.leave_family() returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty.api_role() <> 'loyalty_family' then
        perform loyalty.api_refuse('Ask as one of: loyalty_family.');
    end if;
    -- not family_account_id: who may do nothing any more may leave
    if not exists (
           select from loyalty.identity_link l
             join loyalty.identity i on i.identity_id = l.identity_id and i.state = 'active'
            where l.identity_id = loyalty.claim_identity_id()
              and l.account_id = loyalty.claim_account_id()
              and l.program_id = loyalty.claim_program_id()
              and l.relation <> 'self') then
        perform loyalty.raise('LY010', 'not allowed', 'The token is for no family of a member.',
            'Log in as family of the member whom you want to leave.');
    end if;
    return loyalty.leave_family(loyalty.claim_identity_id(), loyalty.claim_account_id());
end
$$;
comment on function loyalty_api.leave_family() is
$$Leave a family

Who is family of a member gives up the access to that member's points, which ends at once; what was spent stays spent. The member is told by mail, sees it as removed, and may invite again. Answers with family_id, relation, name and state. 403 LY010 for a token that is no family's. Family only; one's other logins stay.$$;
create function loyalty_api.leave_family(json) returns void
    language sql stable security definer set search_path = pg_catalog, pg_temp
    return loyalty.api_arguments('leave_family');
revoke all on function
    loyalty.leave_family(bigint, bigint),
    loyalty_api.leave_family(),
    loyalty_api.leave_family(json)
    from public;
grant execute on function loyalty.leave_family(bigint, bigint) to loyalty_operator;
grant execute on function loyalty_api.leave_family(), loyalty_api.leave_family(json)
    to loyalty_anon, loyalty_member, loyalty_family, loyalty_granter, loyalty_admin, loyalty_operator;
comment on function loyalty.family_state is
    'Where an invitation is: invited (the member is to approve), approved (the person is to register), registered, removed (also by leaving), canceled or expired.';
comment on column loyalty.family.ended_at is 'When it was canceled, given up after too many wrong birth dates, or the person removed or left.';
comment on column loyalty_api.family.state is
    'invited (the member is to approve by mail), approved (the person is to register), registered, removed (also who left by themselves), canceled or expired.';
comment on column loyalty_api.family.ended_at is 'When it was canceled, or the person removed or left.';

-- A day begins at the first of two midnights, where clocks are set back over it.
create or replace function loyalty.midnight(day date, time_zone text) returns timestamptz
    language sql stable parallel safe set search_path = pg_catalog, pg_temp
    return least(
        pg_catalog.timezone(midnight.time_zone, midnight.day::timestamp),
        pg_catalog.timezone(midnight.time_zone, midnight.day::timestamp - interval '1 microsecond') + interval '1 microsecond');

create or replace function loyalty.balance(
    account_id bigint,
    as_of date
) returns loyalty.account_balance
    language sql stable parallel safe security definer set search_path = pg_catalog, pg_temp
begin atomic
    -- the last instant of that day where the program is
    select b.balance, b.held, b.available, b.next_expiry_on, b.next_expiry_points
      from (select p.time_zone
              from loyalty.wallet w
              join loyalty.program p on p.program_id = w.program_id
             where w.account_id = balance.account_id
             union all
            select 'UTC'
             limit 1) z
     cross join loyalty.balance(
               balance.account_id,
               loyalty.midnight(balance.as_of + 1, z.time_zone) - interval '1 microsecond') b;
end;

create or replace function loyalty.statement(account_id bigint, from_date date default null, to_date date default null)
    returns setof loyalty.statement_line
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    zone text;
begin
    select p.time_zone into zone
      from loyalty.account a
      join loyalty.program p on p.program_id = a.program_id
     where a.account_id = statement.account_id;
    if zone is null then
        perform loyalty.raise('LY002', 'no such account',
            pg_catalog.format('Account %s does not exist.', coalesce(account_id::text, 'null')),
            'loyalty.open_account(program, member_no) gives a member''s account.');
    end if;
    return query
    select l.*
      from loyalty.statement_line l
     where l.account_id = statement.account_id
       and l.occurred_at >= coalesce(loyalty.midnight(from_date, zone), '-infinity')
       and l.occurred_at < coalesce(loyalty.midnight(to_date + 1, zone), 'infinity')
     order by l.entry;
end
$$;


-- Keys of payments to come are nobody's to take; nor is the hold that a shop counts on.
create function loyalty.check_keys(idempotency_keys text[]) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    -- who has the key of a payment to come, or of its cancellation, keeps it from being booked for ever
    taken text := (select k from unnest(idempotency_keys) k where k ~ '^(rule|proposal)/' limit 1);
begin
    if taken is not null then
        perform loyalty.raise('22023', 'the idempotency key is the ledger''s own', format('%L given.', left(taken, 100)),
            'Keys that begin with rule/ or proposal/ are those of payments by rules and of proposals.');
    end if;
end
$$;

comment on function loyalty.check_keys is 'Refuses idempotency keys over HTTP that payments by rules and proposals will have.';

revoke all on function loyalty.check_keys(text[]) from public;
grant execute on function loyalty.check_keys(text[]) to loyalty_operator;

create or replace function loyalty.api_key(idempotency_key text) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    header text := nullif(current_setting('request.headers', true), '')::json ->> 'idempotency-key';
begin
    -- what was not UTF-8 arrives as U+FFFD, and different keys would become the same
    if strpos(header, U&'\FFFD') > 0 then
        perform loyalty.raise('22023', 'the idempotency key is not UTF-8', null,
            'Use a UUID, or your own order number.');
    end if;
    if header <> idempotency_key then
        perform loyalty.raise('22023', 'two idempotency keys',
            'The header Idempotency-Key and the argument idempotency_key differ.', 'Send one of them.');
    end if;
    perform loyalty.check_keys(array[coalesce(idempotency_key, header)]);
    return coalesce(idempotency_key, header);
end
$$;

create function loyalty.is_members_hold(account_id bigint, operation_id bigint) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp
    return (
        select e.actor ~ '^loyalty_member(:|$)'
          from loyalty.entry e
         where e.account_id = is_members_hold.account_id
           and e.entry = (is_members_hold.operation_id & 16777215)
           and e.kind = 'hold');
comment on function loyalty.is_members_hold is 'Whether a member placed the hold over HTTP; null when there is no such hold.';
revoke all on function loyalty.is_members_hold(bigint, bigint) from public;
grant execute on function loyalty.is_members_hold(bigint, bigint) to loyalty_operator;

create or replace function loyalty.api_own_hold(account_id bigint, operation_id bigint) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty.api_role() = 'loyalty_member'
       and not loyalty.is_members_hold(api_own_hold.account_id, api_own_hold.operation_id) then
        perform loyalty.raise('LY010', 'not allowed', 'The hold was placed by somebody else.',
            'Only who placed it, or an administrator, captures or releases it.');
    end if;
end
$$;

create or replace function loyalty_api.hold(
    points numeric,
    expires_in interval default '15 minutes',
    reason text default null,
    idempotency_key text default null,
    account_id bigint default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    placed loyalty.receipt := loyalty.hold(
        loyalty.api_account(account_id, '{loyalty_member,loyalty_admin,loyalty_operator}'),
        loyalty.api_points(points), expires_in, reason, loyalty.api_key(idempotency_key));
begin
    -- whose key came first would release what the shop counts on
    if loyalty.api_role() <> 'loyalty_member'
       and loyalty.is_members_hold(placed.account_id, placed.operation_id) then
        perform loyalty.raise('LY003', 'the idempotency key was used for another request', 'The member''s own.', 'Use a new key.');
    end if;
    return loyalty.audit_operation('hold', placed);
end
$$;

create or replace function loyalty_api.grant_many(items jsonb, program text default null) returns table (
    item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
    points bigint, balance bigint, available bigint, occurred_at timestamptz,
    error_code text, error text, error_detail text
)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer;
    used bigint[];
begin
    if loyalty.api_role() <> all ('{loyalty_granter,loyalty_admin,loyalty_operator}') then
        perform loyalty.api_refuse('Ask as a granter or administrator.');
    end if;
    within := loyalty.api_program(grant_many.program);
    perform loyalty.check_keys(array(
        select i ->> 'idempotency_key'
          from jsonb_array_elements(case jsonb_typeof(grant_many.items) when 'array' then grant_many.items else '[]' end) i));
    perform loyalty.hold_budget(within);
    used := loyalty.items_used(within, grant_many.items);
    return query
    with booked as materialized (
        select o.* from loyalty.grant_items(grant_many.items::text, within) o
    ), ended as materialized (
        select loyalty.end_grants(within, array_agg(b.operation_id) filter (where b.operation_id is not null), used, count(*))
          from booked b
    )
    select b.* from booked b cross join ended;
end
$$;

create or replace function loyalty_api.spend_many(items jsonb, program text default null) returns table (
    item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
    points bigint, balance bigint, available bigint, occurred_at timestamptz,
    error_code text, error text, error_detail text
)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    within integer;
begin
    if loyalty.api_role() <> all ('{loyalty_admin,loyalty_operator}') then
        perform loyalty.api_refuse('Ask as an administrator.');
    end if;
    within := loyalty.api_program(program);
    perform loyalty.check_keys(array(
        select i ->> 'idempotency_key'
          from jsonb_array_elements(case jsonb_typeof(spend_many.items) when 'array' then spend_many.items else '[]' end) i));
    perform loyalty.audit('spend_many', within, details => jsonb_build_object('items',
        case jsonb_typeof(items) when 'array' then jsonb_array_length(items) end));
    return query
    select o.*
      from loyalty.spend_items(items::text, within) o;
end
$$;


-- A login that is under way while the password is replaced does not outlive it.
create or replace function loyalty.try_password(person loyalty.identity, subject text, password text) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    wait interval := loyalty.begin_attempt('password', subject);
    stored text;
    is_right boolean;
begin
    if wait is not null then
        return loyalty.refuse_attempt(wait);
    end if;
    select c.password_hash into stored from loyalty.credential c where c.identity_id = person.identity_id;
    is_right := loyalty.check_password(try_password.password, stored);
    if is_right then
        -- whoever replaces it now has done so before what this one opens, or ends that too
        perform from loyalty.identity i where i.identity_id = person.identity_id for share;
        is_right := exists (select from loyalty.credential c
                             where c.identity_id = person.identity_id and c.password_hash = stored);
    end if;
    if not is_right then
        if loyalty.attempt_failed('password', subject) = 'infinity' then
            update loyalty.identity i
               set state = 'locked', changed_at = loyalty.now()
             where i.identity_id = person.identity_id and i.state = 'active';
        end if;
        -- one answer for an unknown ID and a wrong password (A7)
        return loyalty.refuse('LY009', 'wrong login ID or password', null, 'Try again, or reset the password.');
    elsif person.state = 'locked' then
        return loyalty.refuse_attempt(interval '1 day');
    end if;
    perform loyalty.attempt_succeeded('password', subject);
    return null;
end
$$;

create or replace function loyalty.replace_password(
    identity_id bigint, program_id integer, password text, except_session uuid default null
) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    person loyalty.identity;
    place record;
begin
    -- a login under way with the old one (try_password) is over before its sessions are ended, or finds this one
    perform from loyalty.identity i where i.identity_id = replace_password.identity_id for update;
    perform loyalty.set_password(replace_password.identity_id, replace_password.password);
    perform loyalty.end_sessions(replace_password.identity_id, except_session => replace_password.except_session);
    -- links that are still on their way would set another one
    update loyalty.challenge c
       set used_at = loyalty.now()
     where c.identity_id = replace_password.identity_id and c.purpose in ('password_reset', 'login_approved')
       and c.used_at is null;
    select i.* into person from loyalty.identity i where i.identity_id = replace_password.identity_id;
    place := loyalty.reach(person, replace_password.program_id);
    if place.address is not null then
        perform loyalty.send_notice(replace_password.program_id, place.account_id, 'password_changed',
            gen_random_uuid()::text, place.address);
    end if;
end
$$;


-- A rule is not changed in the middle of its run.
create function loyalty.check_rule_rests(program_id integer, code text, from_day date) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    paying date;
begin
    -- the tick's lock: no chunk is paid between this look and the change
    perform from loyalty.schedule s where s.program_id = check_rule_rests.program_id and s.job = 'expire' for update;
    select min(r.period) into paying
      from loyalty.run r
     where r.program_id = check_rule_rests.program_id and r.job = 'rule:' || check_rule_rests.code
       and r.finished_at is null and r.chunks > 0 and r.effective_on >= check_rule_rests.from_day;
    if paying is not null then
        perform loyalty.raise('22023', 'the rule is being paid', format('Its run of %s is under way.', paying),
            'Wait until the run is done, or give a later day.');
    end if;
end
$$;

comment on function loyalty.check_rule_rests is
    'Refuses to change or end a rule from a day on whose run is half done: some would be paid on other terms than the rest.';

revoke all on function loyalty.check_rule_rests(integer, text, date) from public;

create function loyalty.check_rule_frame(first_day text, begins date, valid_to date, title text) returns void
    language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
    if begins not between '1955-01-01' and '2099-12-31' then
        perform loyalty.raise('22023', format('%s is in no calendar', first_day), format('%s given.', begins),
            'A day from 1955 to 2099, or left out.');
    elsif valid_to < begins or valid_to = 'infinity' then
        perform loyalty.raise('22023', 'valid_to cannot be',
            format('%s given; the rule begins on %s.', valid_to, begins),
            format('The last day, not before %s; leave it out for a rule without an end.', first_day));
    elsif char_length(title) not between 1 and 200 then
        perform loyalty.raise('22023', 'title is too long, or empty', format('%s characters given.', char_length(title)),
            'From 1 to 200 characters.');
    end if;
end
$$;
comment on function loyalty.check_rule_frame is
    'Refuses days and a title of a rule that cannot be; first_day is what the caller calls begins.';
revoke all on function loyalty.check_rule_frame(text, date, date, text) from public;
grant execute on function loyalty.check_rule_frame(text, date, date, text) to loyalty_operator;

create or replace function loyalty.change_rule(
    program text,
    code text,
    terms jsonb default null,
    title text default null,
    from_day date default null,
    valid_to date default null,
    expiry loyalty.expiry_policy default null
) returns loyalty.rule
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    owner integer := loyalty.program_id(change_rule.program);
    today date := loyalty.today(change_rule.program);
    begins date := coalesce(change_rule.from_day, today + 1);
    last_day date;
    was loyalty.rule;
    written loyalty.rule;
begin
    if begins < today then
        perform loyalty.raise('22023', 'a rule cannot be changed for days that are over',
            format('from_day is %s; today is %s in the program''s time zone.', begins, today),
            'Give a from_day from today on; tomorrow when left out.');
    end if;
    perform loyalty.check_rule_frame('from_day', begins, change_rule.valid_to, change_rule.title);
    perform from loyalty.rule r where r.program_id = owner and r.code = change_rule.code order by r.version for update;
    if not found then
        perform loyalty.raise('LY002', 'no such rule', format('%L given.', change_rule.code),
            'loyalty.create_rule creates one.');
    end if;
    perform loyalty.check_rule_rests(owner, change_rule.code, begins);
    -- the version in force on the eve, else the one before, else the first to come
    select r.* into was
      from loyalty.rule r
     where r.program_id = owner and r.code = change_rule.code
     order by (r.valid_to < r.valid_from) is true, r.valid_from > begins, r.version desc
     limit 1;
    -- the end of the rule stays, unless it is over
    select case when bool_and(r.valid_to is not null) then max(r.valid_to) end into last_day
      from loyalty.rule r
     where r.program_id = owner and r.code = change_rule.code and (r.valid_to >= r.valid_from) is not false;
    last_day := coalesce(change_rule.valid_to, case when last_day >= begins then last_day end);

    written := was;
    written.version := (
        select max(r.version) + 1 from loyalty.rule r where r.program_id = owner and r.code = change_rule.code);
    written.title := coalesce(change_rule.title, was.title);
    written.terms := coalesce(change_rule.terms, was.terms);
    written.expiry := coalesce(change_rule.expiry, was.expiry);
    written.valid_from := begins;
    written.valid_to := last_day;
    written.created_at := loyalty.now();
    written.created_by := loyalty.actor();
    perform loyalty.rule_is_sound(written.kind, written.terms::text);
    if written.terms -> 'event' is distinct from was.terms -> 'event'
       or written.kind in ('event', 'purchase')
          and (written.terms -> 'day_of_month' is null) <> (was.terms -> 'day_of_month' is null) then
        perform loyalty.raise('22023', 'a change would leave events unpaid',
            format('$.event and whether there is a $.day_of_month stay as they were: %s.', was.terms),
            'Create another rule, and end this one once its last events are paid.');
    end if;
    update loyalty.rule r
       set valid_to = greatest(begins, r.valid_from) - 1
     where r.program_id = owner and r.code = change_rule.code
       and (r.valid_to is null or r.valid_to > greatest(begins, r.valid_from) - 1);
    insert into loyalty.rule select written.*;
    perform loyalty.check_rule_pays(written);
    perform loyalty.plan_schedule(owner, 'rule:' || written.code);
    return written;
end
$$;
comment on function loyalty.change_rule is
    'Adds a version that decides from a day of payment on, tomorrow unless given; what is not given stays as it was. The version before ends the day before, and versions planned for later days are dropped. What was paid keeps its terms (C7). 22023 for a day that is over or cannot be, such as a valid_to before from_day, and for wrong terms; LY002.';

create or replace function loyalty.end_rule(program text, code text, last_day date default null) returns loyalty.rule
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    owner integer := loyalty.program_id(end_rule.program);
    today date := loyalty.today(end_rule.program);
    ends date := coalesce(end_rule.last_day, today);
    ended loyalty.rule;
begin
    if ends < today - 1 then
        perform loyalty.raise('22023', 'a rule cannot be ended for days that are over',
            format('last_day is %s; today is %s in the program''s time zone.', ends, today),
            'Give a last_day from yesterday on; today when left out.');
    elsif ends > '2099-12-31' then
        perform loyalty.raise('22023', 'last_day is in no calendar', format('%s given.', ends),
            'A day up to 2099; today when left out.');
    end if;
    perform from loyalty.rule r where r.program_id = owner and r.code = end_rule.code order by r.version for update;
    if not found then
        perform loyalty.raise('LY002', 'no such rule', format('%L given.', end_rule.code), 'loyalty.rule has them.');
    end if;
    perform loyalty.check_rule_rests(owner, end_rule.code, ends + 1);
    update loyalty.rule r
       set valid_to = greatest(ends, r.valid_from - 1)
     where r.program_id = owner and r.code = end_rule.code
       and (r.valid_to is null or r.valid_to > greatest(ends, r.valid_from - 1));
    if not found then
        perform loyalty.raise('22023', 'the rule ends earlier already',
            format('It ends on %s.', (
                select max(r.valid_to)
                  from loyalty.rule r
                 where r.program_id = owner and r.code = end_rule.code and r.valid_to >= r.valid_from)),
            'loyalty.change_rule brings it back from a day on.');
    end if;
    select r.* into ended
      from loyalty.rule r
     where r.program_id = owner and r.code = end_rule.code
     order by (r.valid_to < r.valid_from) is true, r.version desc
     limit 1;
    perform loyalty.plan_schedule(owner, 'rule:' || ended.code);
    return ended;
end
$$;
comment on function loyalty.end_rule is
    'Ends a rule: last_day (today unless given) is the last day of payment, and events that would be paid later stay unpaid. Returns its last version. 22023 when it ends earlier already, and for a day that is over or in no calendar; LY002.';


-- Of two administrators who take each other's role at once, one stays.
create or replace function loyalty.take_role(role_id bigint) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.program_role;
begin
    select r.* into held from loyalty.program_role r where r.role_id = take_role.role_id;
    if not found then
        perform loyalty.raise('LY002', 'no such role', format('%s given.', coalesce(take_role.role_id::text, 'null')),
            'The role_id is in /program_role.');
    end if;
    -- all who have the same, in one order: of two who go at the same time one stays
    perform r.role_id
       from loyalty.program_role r
      where r.program_id is not distinct from held.program_id and r.role = held.role and r.taken_at is null
      order by r.role_id
        for update;
    select r.* into held from loyalty.program_role r where r.role_id = take_role.role_id;
    if held.taken_at is null then
        -- whoever takes it: of two who take each other's at once, one stays
        if held.role <> 'granter' and held.identity_id is not null and loyalty.claim_identity_id() is not null
           and (held.role = 'operator' or loyalty.api_role() = 'loyalty_admin') and not exists (
               select from loyalty.program_role r
                 join loyalty.identity i on i.identity_id = r.identity_id and i.state in ('active', 'locked')
                where r.program_id is not distinct from held.program_id and r.role = held.role
                  and r.taken_at is null and r.identity_id <> held.identity_id) then
            perform loyalty.raise('LY010', format('you are the last %s', held.role),
                'Nobody could give the role any more.', 'Give it to somebody else first.');
        end if;
        update loyalty.program_role r
           set taken_at = loyalty.now(), taken_by = loyalty.actor()
         where r.role_id = held.role_id
        returning r.* into held;
        if held.challenge_id is not null then
            perform loyalty.use_challenge(held.challenge_id);
        end if;
        if held.identity_id is not null then
            perform loyalty.end_sessions(identity_id => held.identity_id, program_id => held.program_id,
                role => 'loyalty_' || held.role);
        end if;
        perform loyalty.audit('take_role', held.program_id, held.identity_id, null,
            jsonb_build_object('role_id', held.role_id, 'role', held.role));
    end if;
    return loyalty.role_answer(held);
end
$$;

-- Over HTTP only operators say where links of logins lead, and what is written around them.
create function loyalty.carries_proof(kind text) returns boolean
    language sql immutable parallel safe
    return coalesce(carries_proof.kind in (
        'verification_code', 'login_in_use', 'password_reset', 'unlock', 'login_change', 'login_approved',
        'family_approval', 'family_invitation', 'staff_invitation'), false);
comment on function loyalty.carries_proof is 'Whether notices of a kind have a code or link in them, which opens a login.';
create function loyalty.check_template_change(kind text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    -- whose login it is may be an operator's: the program's administrators would choose what they are led to
    if loyalty.api_role() = 'loyalty_admin' and loyalty.carries_proof(check_template_change.kind) then
        perform loyalty.raise('LY010', 'an administrator does not write what carries a code or link',
            format('kind: %s given.', check_template_change.kind),
            'An operator writes texts of that kind; administrators those of the others.');
    end if;
end
$$;
comment on function loyalty.check_template_change is
    'Keeps an administrator from changing over HTTP the texts around codes and links, which open logins of other programs too.';
create or replace function loyalty_api.set_template(
    kind text,
    language text,
    subject text,
    text_body text,
    html_body text default null,
    sms_body text default null,
    program text default null
) returns loyalty.notice_template
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty.check_template_change(kind);
    select loyalty.audit('set_template', loyalty.program_id(loyalty.api_admin_program(set_template.program)),
        details => jsonb_build_object('kind', kind, 'language', language));
    select w.* from loyalty.set_template(loyalty.api_admin_program(program), kind, language, subject, text_body,
        html_body, sms_body) w;
end;
comment on function loyalty_api.set_template(text, text, text, text, text, text, text) is
$$Write a template

Writes the program's own texts for a kind of notice and a language. 400 22023 tells part, line and what is wrong there. Administrators only; kinds that carry a code or link, such as password_reset, operators only: 403 LY010.

- `kind`: points_received, balance, expiry, order_received, or one about logins such as password_changed.
- `language`: such as ja or en.
- `subject`: subject of the mail, one line.
- `text_body`: the mail as plain text.
- `html_body`: the mail as HTML, if wanted; values are escaped in it.
- `sms_body`: the short message to members without an e-mail address, if wanted.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
create or replace function loyalty_api.delete_template(kind text, language text, program text default null) returns boolean
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty.check_template_change(kind);
    select loyalty.audit('delete_template', loyalty.program_id(loyalty.api_admin_program(delete_template.program)),
        details => jsonb_build_object('kind', kind, 'language', language));
    select loyalty.delete_template(loyalty.api_admin_program(program), kind, language);
end;
comment on function loyalty_api.delete_template(text, text, text) is
$$Delete a template

Takes the program's own texts away, so that the supplied ones are used again; whether there were any. Administrators only; kinds that carry a code or link, such as password_reset, operators only: 403 LY010.

- `kind`: points_received, balance, expiry, order_received, or one about logins such as password_reset.
- `language`: such as ja or en.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
create function loyalty.check_site_change(program text, site_url text, clear text[]) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known text := (select p.site_url from loyalty.access_policy p
                    where p.program_id = loyalty.program_id(check_site_change.program));
begin
    if loyalty.api_role() = 'loyalty_admin'
       and (known is distinct from coalesce(check_site_change.site_url, known)
            or known is not null and 'site_url' = any (check_site_change.clear)) then
        perform loyalty.raise('LY010', 'an administrator does not say where mailed links lead', null,
            'An operator sets or clears site_url.');
    end if;
end
$$;
comment on function loyalty.check_site_change is
    'Keeps an administrator from changing site_url over HTTP: the links sent there open logins of other programs too.';
create or replace function loyalty_api.set_access_policy(
    organisation_id text default null,
    terms_version text default null,
    terms_url text default null,
    site_url text default null,
    asks_details boolean default null,
    allows_member_no boolean default null,
    password_length integer default null,
    password_letters integer default null,
    password_digits integer default null,
    password_symbols boolean default null,
    token_life interval default null,
    session_life interval default null,
    remembered_life interval default null,
    family_relations text[] default null,
    family_degree integer default null,
    family_access text default null,
    family_monthly_limit bigint default null,
    approval_above bigint default null,
    clear text[] default '{}',
    program text default null
) returns setof loyalty_api.access_policy
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    code text := loyalty.api_admin_program(set_access_policy.program);
begin
    perform loyalty.check_limit_change(code, set_access_policy.approval_above, set_access_policy.clear);
    perform loyalty.check_site_change(code, set_access_policy.site_url, set_access_policy.clear);
    perform loyalty.set_access_policy(code, set_access_policy.organisation_id, set_access_policy.terms_version,
        set_access_policy.terms_url, set_access_policy.site_url, set_access_policy.asks_details,
        set_access_policy.allows_member_no, set_access_policy.password_length, set_access_policy.password_letters,
        set_access_policy.password_digits, set_access_policy.password_symbols, set_access_policy.token_life,
        set_access_policy.session_life, set_access_policy.remembered_life, set_access_policy.family_relations,
        set_access_policy.family_degree, set_access_policy.family_access, set_access_policy.family_monthly_limit,
        set_access_policy.approval_above, set_access_policy.clear);
    return query select v.* from loyalty_api.access_policy v where v.program = code;
end
$$;
comment on function loyalty_api.set_access_policy(text, text, text, text, boolean, boolean, integer, integer, integer, boolean, interval, interval, interval, text[], integer, text, bigint, bigint, text[], text) is
$$Set the access policy

Opens the program to people who register and log in, and sets what it asks of them; what is left out stays as it is. Answers with the row of /access_policy. 400 22023 names the wrong field. Only an operator raises or clears approval_above, or changes site_url: 403 LY010. Administrators only.

- `organisation_id`: what members type to say which organisation they are of.
- `terms_version`: version of the terms that a registration accepts.
- `terms_url`: where the terms can be read.
- `site_url`: the site that mailed links lead to, without a slash at its end.
- `asks_details`: whether registration asks for kana and birth date.
- `allows_member_no`: whether a member may log in by member number.
- `password_length`: characters that a password has at least, 6 to 64.
- `password_letters`: ASCII letters that it has at least.
- `password_digits`: digits that it has at least.
- `password_symbols`: whether it may have more than ASCII letters and digits.
- `token_life`: how long an access token is good, such as "10 minutes".
- `session_life`: how long a login lasts without being used, such as "12 hours".
- `remembered_life`: the same for remember-me, such as "60 days".
- `family_relations`: relations that may be invited, such as ["spouse", "child"].
- `family_degree`: the highest degree of kinship that may be invited: 0, 1 or 2.
- `family_access`: what family may do with the member's points: none, see or spend.
- `family_monthly_limit`: points that one of the family may spend in a month.
- `approval_above`: grants of more points need two administrators.
- `clear`: names of fields to empty: organisation_id, terms_url, site_url, family_monthly_limit, approval_above.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
revoke all on function
    loyalty.carries_proof(text),
    loyalty.check_template_change(text),
    loyalty.check_site_change(text, text, text[])
    from public;
grant execute on function
    loyalty.carries_proof(text),
    loyalty.check_template_change(text),
    loyalty.check_site_change(text, text, text[])
    to loyalty_operator;

-- An application for a login suspends at once only what opens no other program.
create or replace function loyalty.apply_for_login(
    organisation_id text, name text, kana text, birth_date date, member_no text,
    login_id text, login_id_again text, phone text, consent boolean
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    began timestamptz := clock_timestamp();
    policy loyalty.access_policy;
    wanted text := loyalty.clean_login_id(apply_for_login.login_id);
    record json;
    subject text;
    wait interval;
    known record;
    differs text[];
    suspends boolean;
    made bigint;
begin
    if apply_for_login.consent is distinct from true then
        perform loyalty.raise('22023', 'consent is needed', null, 'An application is worked on with the person''s consent only.');
    elsif wanted is null then
        perform loyalty.raise('22023', 'login_id is neither an e-mail address nor a phone number', null, 'Send one of them.');
    elsif wanted is distinct from loyalty.clean_login_id(apply_for_login.login_id_again) then
        perform loyalty.raise('22023', 'the two login IDs differ', null, 'Send login_id and login_id_again the same.');
    elsif coalesce(btrim(apply_for_login.member_no), '') = '' or coalesce(btrim(apply_for_login.name), '') = ''
          or coalesce(btrim(apply_for_login.kana), '') = '' or coalesce(btrim(apply_for_login.phone), '') = ''
          or apply_for_login.birth_date is null then
        perform loyalty.raise('22004', 'name, kana, birth_date, member_no and phone must not be empty', null, 'Send all of them.');
    end if;
    select p.* into policy
      from loyalty.access_policy p
     where lower(p.organisation_id) = lower(btrim(apply_for_login.organisation_id));
    if policy.program_id is null then
        perform loyalty.raise('LY002', 'no such organisation', null, 'Check organisation_id.');
    end if;
    perform loyalty.check_service_hours(policy.program_id);
    record := loyalty.clean_member(
        json_build_object('member_no', apply_for_login.member_no, 'name', apply_for_login.name,
                          'kana', apply_for_login.kana, 'birth_date', apply_for_login.birth_date,
                          'phone', apply_for_login.phone),
        timezone((select p.time_zone from loyalty.program p where p.program_id = policy.program_id), loyalty.now())::date);
    subject := format('application %s %s', policy.program_id, lower(record ->> 'member_no'));
    wait := loyalty.begin_attempt('send', subject);
    if wait is not null then
        return loyalty.refuse_attempt(wait);
    end if;
    perform loyalty.attempt_failed('send', subject);
    select a.account_id, m.name, m.kana, m.birth_date, l.identity_id
      into known
      from loyalty.account a
      left join loyalty.member m on m.account_id = a.account_id
      left join loyalty.identity_link l on l.account_id = a.account_id and l.relation = 'self' and l.ended_at is null
     where a.program_id = policy.program_id and a.member_no = record ->> 'member_no';
    differs := array_remove(array[
        case when known.account_id is null then 'member_no' end,
        case when not coalesce(loyalty.same_name(known.name, record ->> 'name'), false) then 'name' end,
        case when not coalesce(loyalty.same_name(known.kana, record ->> 'kana'), false) then 'kana' end,
        case when known.birth_date is distinct from apply_for_login.birth_date then 'birth_date' end], null);
    update loyalty.identity i
       set state = 'suspended', changed_at = loyalty.now()
     where i.identity_id = known.identity_id and differs = '{}' and i.state in ('active', 'locked')
       and not loyalty.opens_more(known.identity_id, policy.program_id);
    suspends := found;
    insert into loyalty.login_application
           (program_id, account_id, identity_id, member_no, name, kana, birth_date, login_id, phone, differs,
            has_suspended, applied_at, address)
    values (policy.program_id, known.account_id, known.identity_id, record ->> 'member_no', record ->> 'name',
            record ->> 'kana', apply_for_login.birth_date, wanted, record ->> 'phone', differs, suspends,
            loyalty.now(), loyalty.client_address())
    returning application_id into made;
    perform loyalty.audit('apply_for_login', policy.program_id, known.identity_id, known.account_id,
        jsonb_build_object('application_id', made, 'differs', differs));
    perform loyalty.pad(began);
    return jsonb_build_object('application_id', made, 'state', 'waiting');
end
$$;
comment on function loyalty.apply_for_login is
    'Applies for another login ID (C13): {application_id, state}, whether or not there is such a member. Where all fits the member record and the login opens no other program, it is suspended until staff decide. Asked too often: LY008. Raises LY002, LY007, 22004, 22023.';
create or replace function loyalty.refuse_application(application_id bigint, reason text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    application loyalty.login_application := loyalty.open_application(refuse_application.application_id, '{waiting,approved}');
begin
    update loyalty.login_application a
       set state = 'refused', decided_at = loyalty.now(), decided_by = loyalty.actor(), reason = refuse_application.reason,
           has_suspended = false
     where a.application_id = application.application_id;
    update loyalty.challenge c
       set used_at = loyalty.now()
     where c.identity_id = application.identity_id and c.purpose = 'login_approved' and c.used_at is null
       and c.details ->> 'application_id' = application.application_id::text;
    if application.has_suspended then
        -- another one that waits keeps it suspended
        update loyalty.login_application a
           set has_suspended = true
         where a.application_id = (select min(o.application_id) from loyalty.login_application o
                                    where o.identity_id = application.identity_id and o.differs = '{}'
                                      and o.state in ('waiting', 'approved')
                                      and not loyalty.opens_more(o.identity_id, o.program_id));
        if not found then
            update loyalty.identity i
               set state = 'active', changed_at = loyalty.now()
             where i.identity_id = application.identity_id and i.state = 'suspended';
        end if;
    end if;
    perform loyalty.audit('refuse_application', application.program_id, application.identity_id, application.account_id,
        jsonb_build_object('application_id', application.application_id, 'reason', refuse_application.reason));
    return jsonb_build_object('application_id', application.application_id, 'state', 'refused');
end
$$;
comment on function loyalty_api.apply_for_login(text, text, text, text, text, text, text, text, boolean) is
$$Forgot the login ID

An application that staff approve or refuse; answers with `application_id`, whether or not there is such a member. Until they decide, the login of who is described is suspended, if it opens no other program. Once approved, a link goes to the new login ID, for accept_login. 429 LY008 when asked too often.

- `organisation_id`: the organisation ID.
- `name`: the name as the organisation has it.
- `kana`: its reading in katakana.
- `birth_date`: the birth date, as YYYY-MM-DD.
- `member_no`: the member or staff number.
- `login_id`: the e-mail address or phone to log in with from now on.
- `login_id_again`: the same.
- `phone`: a telephone number for questions.
- `consent`: true: the person agrees that staff use this for the application.$$;

-- Calls that SQL alone has are in the audit.
create or replace function loyalty.suspend_account(account_id bigint) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty.set_account_status(account_id, 'suspended');
    perform loyalty.audit('suspend_account', loyalty.account_program_id(account_id), null, account_id);
end
$$;
create or replace function loyalty.resume_account(account_id bigint) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty.set_account_status(account_id, 'open');
    perform loyalty.audit('resume_account', loyalty.account_program_id(account_id), null, account_id);
end
$$;
create or replace function loyalty.close_account(account_id bigint, forfeit boolean default false, reason text default null)
    returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if forfeit then
        perform loyalty.forfeit(account_id, reason);
    end if;
    perform loyalty.set_account_status(account_id, 'closed');
    perform loyalty.audit('close_account', loyalty.account_program_id(account_id), null, account_id,
        jsonb_build_object('forfeit', forfeit));
end
$$;
create or replace function loyalty.set_service_hours(program text, closed_from time, closed_until time) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := loyalty.program_id(set_service_hours.program);
begin
    if (set_service_hours.closed_from is null) <> (set_service_hours.closed_until is null) then
        perform loyalty.raise('22004', 'service hours need both times',
            format('closed_from is %s, closed_until is %s.', coalesce(set_service_hours.closed_from::text, 'null'),
                coalesce(set_service_hours.closed_until::text, 'null')),
            'Pass closed_from and closed_until, or null for both: always open.');
    end if;
    if set_service_hours.closed_from = set_service_hours.closed_until
       or greatest(set_service_hours.closed_from, set_service_hours.closed_until) = '24:00'
       or extract(second from set_service_hours.closed_from) + extract(second from set_service_hours.closed_until) > 0 then
        perform loyalty.raise('22023', 'service hours are whole minutes and leave the program open at times',
            format('Closed from %s until %s.', set_service_hours.closed_from, set_service_hours.closed_until),
            'Such as closed_from => ''02:00'', closed_until => ''05:00''; midnight is 00:00.');
    end if;
    if set_service_hours.closed_from is null then
        delete from loyalty.service_hours h where h.program_id = within;
    else
        insert into loyalty.service_hours as h (program_id, closed_from, closed_until)
        values (within, set_service_hours.closed_from, set_service_hours.closed_until)
            on conflict (program_id) do update
           set closed_from = excluded.closed_from, closed_until = excluded.closed_until;
    end if;
    perform loyalty.audit('set_service_hours', within, details => jsonb_build_object(
        'closed_from', set_service_hours.closed_from, 'closed_until', set_service_hours.closed_until));
end
$$;
create or replace function loyalty.set_notice_sender(
    program text,
    email text default null,
    sms text default null,
    language text default null,
    preferences_url text default null,
    max_attempts integer default null,
    first_retry interval default null,
    longest_retry interval default null
) returns loyalty.notice_sender
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    written loyalty.notice_sender;
    broken text;
begin
    insert into loyalty.notice_sender as f (program_id) values (loyalty.program_id(set_notice_sender.program))
        on conflict (program_id) do nothing;
    update loyalty.notice_sender f
       set email = nullif(coalesce(set_notice_sender.email, f.email), ''),
           sms = nullif(coalesce(set_notice_sender.sms, f.sms), ''),
           language = coalesce(set_notice_sender.language, f.language),
           preferences_url = nullif(coalesce(set_notice_sender.preferences_url, f.preferences_url), ''),
           max_attempts = coalesce(set_notice_sender.max_attempts, f.max_attempts),
           first_retry = coalesce(set_notice_sender.first_retry, f.first_retry),
           longest_retry = coalesce(set_notice_sender.longest_retry, f.longest_retry)
     where f.program_id = loyalty.program_id(set_notice_sender.program)
    returning * into written;
    perform loyalty.audit('set_notice_sender', written.program_id, details => to_jsonb(written) - 'program_id');
    return written;
exception when check_violation then
    get stacked diagnostics broken = constraint_name;
    perform case broken
        when 'notice_sender_email_is_a_mailbox' then
            loyalty.raise('22023', 'email is no sender of mails', format('email: %L given.', left(email, 100)),
                'points@example.com, or Sample Club <points@example.com>; the name without any of ( ) < > @ , ; : \ " [ ].')
        when 'notice_sender_sms_is_short' then
            loyalty.raise('22023', 'sms is no sender of short messages', format('sms: %L given.', left(sms, 100)),
                'A number such as +81312345678, or 2 to 20 ASCII letters and digits.')
        when 'notice_sender_language_is_a_tag' then
            loyalty.raise('22023', 'language is no language tag', format('language: %L given.', left(language, 100)),
                'A BCP 47 tag such as ja or en.')
        when 'notice_sender_preferences_url_is_a_url' then
            loyalty.raise('22023', 'preferences_url is no URL', format('preferences_url: %L given.', left(preferences_url, 100)),
                'A URL that begins with https://, http:// or mailto: and has no spaces, up to 500 characters.')
        when 'notice_sender_max_attempts_is_sane' then
            loyalty.raise('22023', 'max_attempts is out of range', format('max_attempts: %s given.', max_attempts),
                'From 1 to 100.')
        when 'notice_sender_first_retry_is_sane' then
            loyalty.raise('22023', 'first_retry is out of range', format('first_retry: %s given.', first_retry),
                'From 1 second to 1 day.')
        when 'notice_sender_longest_retry_is_sane' then
            loyalty.raise('22023', 'longest_retry is out of range', format('longest_retry: %s given.', longest_retry),
                'From first_retry to 7 days.')
        end;
    raise;
end
$$;

-- A client of IPv6 is its /64 to the throttle.
create function loyalty.client_network(address text) returns text
    language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    -- as proxies write it: [2001:db8::1]:443, 192.0.2.1:443, fe80::1%eth0
    bare text := coalesce(
        substring(address from '^\[([^]]*)\](?::[0-9]+)?$'),
        substring(address from '^([0-9.]+):[0-9]+$'),
        address);
    shown inet;
begin
    shown := regexp_replace(bare, '%.*$', '')::inet;
    return case
        when shown <<= '::ffff:0:0/96' then replace(host(shown), '::ffff:', '')
        when family(shown) = 6 then text(network(set_masklen(shown, 64)))
        else host(shown) end;
exception when invalid_text_representation then
    return address;
end
$$;
comment on function loyalty.client_network is
    'What a client''s address counts as: one of IPv6 as its /64, which a household or a server has to itself, without port or brackets; what is no address as it is.';

create function loyalty.client_hashes() returns bytea[]
    language sql stable set search_path = pg_catalog, pg_temp
    return loyalty.keyed_hashes(
        'throttle address', coalesce(loyalty.client_network(loyalty.client_address()), 'local'));
comment on function loyalty.client_hashes is 'The keyed hashes that failures of the client are counted under, whatever was tried.';
revoke all on function loyalty.client_hashes() from public;

create function loyalty.keep_failures(scope text, hashes bytea[]) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if cardinality(hashes) > 1 then
        with counted as (
            delete from loyalty.throttle t
             where t.scope = keep_failures.scope and t.subject_hash = any (hashes[2:])
            returning t.failures, t.failed_at, t.blocked_until
        )
        insert into loyalty.throttle as t (scope, subject_hash, failures, failed_at, blocked_until)
        select keep_failures.scope, hashes[1], max(c.failures), max(c.failed_at), max(c.blocked_until)
          from counted c
        having count(*) > 0
            on conflict on constraint throttle_pkey do update
           set failures = greatest(t.failures, excluded.failures),
               failed_at = greatest(t.failed_at, excluded.failed_at),
               blocked_until = greatest(t.blocked_until, excluded.blocked_until);
    end if;
end
$$;
comment on function loyalty.keep_failures is
    'While an older pepper is still believed: what was counted under its hash goes on under that of the one in use, so that a new pepper gives nobody new tries.';
revoke all on function loyalty.keep_failures(text, bytea[]) from public;

create or replace function loyalty.begin_attempt(scope text, subject text) returns interval
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    hashes bytea[] := loyalty.keyed_hashes('throttle ' || scope, subject);
    addresses bytea[] := loyalty.client_hashes();
    wait timestamptz;
    from_address timestamptz;
begin
    perform loyalty.keep_failures(begin_attempt.scope, hashes);
    -- attempts at one thing come one after the other: none slips in before the other is counted
    insert into loyalty.throttle as t (scope, subject_hash, failures, failed_at)
    values (begin_attempt.scope, hashes[1], 0, loyalty.now())
        on conflict on constraint throttle_pkey do update
       set failures = case when t.blocked_until = 'infinity' or t.failed_at > loyalty.now() - interval '1 day'
                           then t.failures else 0 end
    returning t.blocked_until into wait;
    select max(t.blocked_until) into from_address
      from loyalty.throttle t
     where t.scope = 'address' and t.subject_hash = any (addresses);
    wait := greatest(wait, from_address);
    return case when wait = 'infinity' then interval '1 day'
                when wait > loyalty.now() then wait - loyalty.now() end;
end
$$;
create or replace function loyalty.attempt_failed(scope text, subject text, counts_for_client boolean default true)
    returns timestamptz
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    hashes bytea[] := loyalty.keyed_hashes('throttle ' || scope, subject);
    addresses bytea[] := loyalty.client_hashes();
    blocked timestamptz;
begin
    update loyalty.throttle t
       set failures = t.failures + 1, failed_at = loyalty.now(),
           blocked_until = loyalty.blocked_until(t.scope, t.failures + 1, loyalty.now())
     where t.scope = attempt_failed.scope and t.subject_hash = hashes[1]
    returning t.blocked_until into blocked;
    if not counts_for_client then
        return blocked;
    end if;
    perform loyalty.keep_failures('address', addresses);
    insert into loyalty.throttle as t (scope, subject_hash, failures, failed_at)
    values ('address', addresses[1], 1, loyalty.now())
        on conflict on constraint throttle_pkey do update
       set failures = case when t.failed_at > loyalty.now() - interval '1 day' then t.failures + 1 else 1 end,
           failed_at = excluded.failed_at,
           blocked_until = loyalty.blocked_until('address', t.failures + 1, excluded.failed_at);
    return blocked;
end
$$;
comment on column loyalty.throttle.scope is
    'What was tried: password (of a login ID), key (of a member), code (of a registration), send (mails to an address), address (anything from one client, or one /64 of IPv6).';
revoke all on function loyalty.client_network(text) from public;
grant execute on function loyalty.client_network(text) to loyalty_operator;

-- No session outlives the role or link that it stands on.
create function loyalty.hold_place(identity_id bigint, program_id integer, role text, account_id bigint) returns boolean
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if hold_place.role in ('loyalty_member', 'loyalty_family') then
        perform
           from loyalty.identity_link l
          where l.identity_id = hold_place.identity_id and l.account_id = hold_place.account_id
            and (l.relation = 'self') = (hold_place.role = 'loyalty_member') and l.ended_at is null
            for share;
    else
        perform
           from loyalty.program_role r
          where r.identity_id = hold_place.identity_id and r.program_id is not distinct from hold_place.program_id
            and 'loyalty_' || r.role = hold_place.role and r.taken_at is null
            for share;
    end if;
    return found;
end
$$;
comment on function loyalty.hold_place is
    'Whether what a session is to stand on, one of login_places, is there still; who ends it from now on waits for the session, and ends that too.';
create or replace function loyalty.log_in(
    login_id text,
    password text,
    program text default null,
    remember boolean default false,
    role text default 'member',
    account_id bigint default null
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := case when log_in.program is not null then loyalty.program_id(log_in.program) end;
    proof record;
    places record;
    answer jsonb;
begin
    if log_in.login_id is null or log_in.password is null or log_in.role is null then
        perform loyalty.raise('22004', 'login_id, password and role must not be null', null,
            'Send all three; role may be left out for a member.');
    elsif log_in.role not in ('member', 'family', 'granter', 'admin', 'operator') then
        perform loyalty.raise('22023', 'no such role', format('%L given.', left(log_in.role, 40)),
            'member, family, granter, admin or operator.');
    end if;
    if within is not null and log_in.role <> 'operator' then
        perform loyalty.check_service_hours(within);
    end if;
    proof := loyalty.prove_password(log_in.login_id, log_in.password, within);
    if proof.refusal is not null then
        -- one that had to wait was not looked at, and does not count
        if proof.refusal ->> 'code' <> 'LY008' then
            perform loyalty.audit('log_in', within, proof.identity_id,
                details => jsonb_build_object('role', log_in.role), outcome => 'refused');
        end if;
        return proof.refusal;
    end if;
    select min(l.program_id) as program_id, min(l.program) as program, min(l.account_id) as account_id,
           min(l.role) as role, count(*) as number,
           string_agg(coalesce(l.program || coalesce(' (account ' || l.account_id || ')', ''), 'all'), ', ') as all_of_them
      into places
      from loyalty.login_places(proof.identity_id, within, log_in.role, log_in.account_id) l;
    if places.number = 0 and log_in.role = 'member' then
        select min(l.program_id) as program_id, min(l.program) as program, min(l.account_id) as account_id,
               min(l.role) as role, count(*) as number,
               string_agg(l.program || ' (account ' || l.account_id || ')', ', ') as all_of_them
          into places
          from loyalty.login_places(proof.identity_id, within, 'family', log_in.account_id) l;
    end if;
    if places.number = 0 then
        perform loyalty.audit('log_in', within, proof.identity_id,
            details => jsonb_build_object('role', log_in.role), outcome => 'refused');
        return loyalty.refuse('LY010',
            case when log_in.role in ('member', 'family') then 'not an active member of the program'
                 else 'not in that role' end,
            null, 'Ask the program''s administrators.');
    elsif places.number > 1 then
        return loyalty.refuse('22023', 'say which of your programs', places.all_of_them || '.',
            'Send program, and account_id where a program is there twice.');
    end if;
    if log_in.role <> 'operator' then
        perform loyalty.check_service_hours(places.program_id);
    end if;
    -- who is suspended this moment gets no session that the suspension would not end
    perform from loyalty.identity i where i.identity_id = proof.identity_id and i.state = 'active' for share;
    if not found then
        return loyalty.refuse('LY010', 'the login is suspended', null, 'Ask the program''s administrators.');
    end if;
    -- nor who loses the role or the link this moment
    if not loyalty.hold_place(proof.identity_id, places.program_id, places.role, places.account_id) then
        perform loyalty.audit('log_in', places.program_id, proof.identity_id, places.account_id,
            jsonb_build_object('role', log_in.role), 'refused');
        return loyalty.refuse('LY010', 'not in that role', null, 'Ask the program''s administrators.');
    end if;
    answer := loyalty.start_session(proof.identity_id, places.program_id, places.role, places.account_id, log_in.remember);
    perform loyalty.audit('log_in', places.program_id, proof.identity_id, places.account_id,
        jsonb_build_object('role', places.role, 'session_id', answer ->> 'session_id'));
    return answer;
end
$$;
revoke all on function loyalty.hold_place(bigint, integer, text, bigint) from public;

-- A day that a time zone skips has no notices.
create or replace function loyalty.next_notice(program_id integer, kind text, after timestamptz)
    returns table (period date, due_at timestamptz)
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select d.day, d.due_at
      from loyalty.notice_setting s
      join loyalty.program p on p.program_id = s.program_id
     cross join lateral (
            select g.day::date as day, pg_catalog.timezone(p.time_zone, g.day::date + s.at) as due_at
              from pg_catalog.generate_series(0, 62) n
             cross join lateral (
                    select pg_catalog.timezone(p.time_zone, next_notice.after)::date - 1 + n as day) g
             where s.kind = 'expiry'
                -- a day that the month does not have is its last
                or extract(day from g.day) = any (s.days_of_month)
                or extract(day from g.day + 1) = 1
                   and extract(day from g.day) < any (s.days_of_month)
             ) d
     where s.program_id = next_notice.program_id
       and s.kind = next_notice.kind
       and s.kind in ('balance', 'expiry')
       and s.is_enabled
       and d.due_at > next_notice.after
       -- not of a day that the zone skips (Apia, 2011-12-30): it is over before it begins
       and pg_catalog.timezone(p.time_zone, d.due_at)::date = d.day
     order by d.due_at
     limit 1;
end;

-- Whose login is closed is family no more.
create or replace function loyalty.close_identity(identity_id bigint, program_id integer default null, reason text default null)
    returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    answer jsonb;
begin
    perform loyalty.release_login(close_identity.identity_id);
    answer := loyalty.set_identity_state('close_identity', close_identity.identity_id, close_identity.program_id,
        '{provisional,active,locked,suspended}', 'closed', close_identity.reason);
    update loyalty.family f
       set ended_at = loyalty.now()
     where f.identity_id = close_identity.identity_id and f.ended_at is null;
    update loyalty.identity_link l
       set ended_at = loyalty.now()
     where l.identity_id = close_identity.identity_id and l.ended_at is null;
    update loyalty.challenge c
       set used_at = loyalty.now()
     where c.identity_id = close_identity.identity_id and c.used_at is null;
    delete from loyalty.identity_provider_link k where k.identity_id = close_identity.identity_id;
    delete from loyalty.credential c where c.identity_id = close_identity.identity_id;
    return answer;
end
$$;
update loyalty.family f
   set ended_at = i.changed_at
  from loyalty.identity i
 where i.identity_id = f.identity_id and i.state = 'closed' and f.ended_at is null;

-- A role given twice at once is given once.
create or replace function loyalty.give_role(program text, login_id text, role text, monthly_budget bigint default null)
    returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := case when give_role.role is distinct from 'operator' or give_role.program is not null
                           then loyalty.program_id(give_role.program) end;
    reached text := loyalty.clean_login_id(give_role.login_id);
    person bigint;
    given loyalty.program_role;
    asked loyalty.challenge;
begin
    if give_role.role is null or give_role.role not in ('granter', 'admin', 'operator') then
        perform loyalty.raise('22023', 'no such role', format('%L given.', left(give_role.role, 40)),
            'granter, admin or operator.');
    elsif give_role.role = 'operator' and within is not null then
        perform loyalty.raise('22023', 'an operator is of no program', null, 'Leave program out.');
    elsif reached is null then
        perform loyalty.raise('22023', 'login_id is neither an e-mail address nor a mobile number', null,
            'Such as hanako@example.com or +81 90 1234 5678.');
    elsif give_role.monthly_budget is not null and give_role.role <> 'granter' then
        perform loyalty.raise('22023', 'only granters have a budget', format('%s given.', give_role.role),
            'Leave monthly_budget out.');
    elsif give_role.monthly_budget < 0 then
        perform loyalty.raise('22023', 'monthly_budget is below zero', format('%s given.', give_role.monthly_budget),
            'Points from 0, or null for no limit.');
    end if;
    select i.identity_id into person
      from loyalty.identity i
     where i.login_id = reached and i.state in ('active', 'suspended', 'locked')
       -- an administrator does not learn who has a login elsewhere: such people accept by mail
       and (loyalty.api_role() <> 'loyalty_admin'
            or exists (select from loyalty.identity_link l
                        where l.identity_id = i.identity_id and l.program_id = within and l.ended_at is null)
            or exists (select from loyalty.program_role r
                        where r.identity_id = i.identity_id and r.program_id = within and r.taken_at is null));
    if person is null then
        if within is null then
            perform loyalty.raise('LY002', 'no such login', null, 'An operator has a login before the role.');
        end if;
        perform loyalty.access_policy_of(within);
    end if;
    loop
        -- given again, the budget changes and nothing else
        update loyalty.program_role r
           set monthly_budget = give_role.monthly_budget
         where r.program_id is not distinct from within
           and r.role = give_role.role
           and r.taken_at is null
           and (r.identity_id = person or r.identity_id is null and r.login_id = reached and person is null)
        returning r.* into given;
        exit when found;
        insert into loyalty.program_role
               (program_id, role, identity_id, login_id, monthly_budget, given_at, given_by, accepted_at)
        values (within, give_role.role, person, reached, give_role.monthly_budget, loyalty.now(), loyalty.actor(),
                case when person is not null then loyalty.now() end)
            -- somebody gave it this moment: then this is again
            on conflict do nothing
        returning * into given;
        exit when found;
    end loop;
    if given.identity_id is null then
        if given.challenge_id is not null then
            perform loyalty.use_challenge(given.challenge_id);
        end if;
        asked := loyalty.new_challenge('staff_invitation', within, null, null, reached,
            jsonb_build_object('role', given.role), interval '7 days');
        update loyalty.program_role r set challenge_id = asked.challenge_id where r.role_id = given.role_id;
    end if;
    perform loyalty.audit('give_role', within, given.identity_id, null,
        jsonb_build_object('role_id', given.role_id, 'role', given.role, 'monthly_budget', given.monthly_budget));
    return loyalty.role_answer(given);
end
$$;

-- verify() tells which law an idempotency key without a hash breaks.
create or replace view loyalty.journal_entry with (security_invoker = true) as
select e.account_id, e.entry, e.kind, e.points, e.balance, e.occurred_at, e.refers_to,
       coalesce(e.available, e.balance) as available,
       coalesce(e.held, 0) as held,
       coalesce(e.debt, 0) as debt,
       e.other_account_id, e.other_entry, e.hold_until,
       l.lot_expires_on, l.lot_points, e.lot_class,
       coalesce(
           (e.granted_on is not null) = (e.kind = 'grant')
           and coalesce(e.granted_on <= l.lot_expires_on[1], true)
           -- no place was ever further ahead
           and coalesce(e.granted_on <= (timezone('UTC', e.occurred_at) + interval '16 hours')::date, true)
           and (e.hold_until is not null) = (e.kind = 'hold')
           and coalesce(e.hold_until > e.occurred_at, true)
           and coalesce(sign(e.held), 0) = case
                   when e.kind = 'hold' then 1
                   when e.kind in ('capture', 'release') then -1
                   else 0
               end
           and (e.other_account_id is not null) = (e.kind = 'transfer')
           and (e.other_entry is not null) = (e.kind = 'transfer')
           and case
                   when e.kind in ('capture', 'release', 'refund', 'revoke')
                       then e.refers_to between 1 and e.entry - 1
                   when e.kind = 'repay'
                       then e.refers_to = e.entry - 1
                   when e.kind = 'expire'
                       then e.refers_to is null or e.refers_to = e.entry - 1
                   else e.refers_to is null
               end
           and case
                   when e.kind = 'repay' then e.debt = e.points
                   when e.kind = 'revoke' then e.debt is null or e.debt > 0
                   else e.debt is null
               end
           -- its lots: told once, as many of each, none of zero, all in its own direction
           and (e.expires_on is null or e.lot_expires_on is null)
           and (e.lot_points is null) = (e.lot_expires_on is null)
           and (l.lot_expires_on is null) = (e.kind = 'revoke' and e.points = 0)
           and coalesce(cardinality(l.lot_points) = cardinality(l.lot_expires_on), true)
           and (e.lot_class is null or cardinality(e.lot_class) = cardinality(e.lot_expires_on))
           and (e.kind <> 'grant' or cardinality(l.lot_points) = 1)
           and coalesce(0 < all (case when e.points >= 0 and e.kind <> 'extend' then l.lot_points end), true)
           and coalesce(0 > all (case when e.points < 0 then l.lot_points end), true)
           and array_position(l.lot_points, null) is null
           and array_position(l.lot_expires_on, null) is null
           and array_position(e.lot_class, null) is null,
           false) as is_whole,
       (e.idempotency_key is null) = (e.request_hash is null) as key_is_whole
  from loyalty.entry e
 cross join lateral (
        select case when e.expires_on is null then e.lot_expires_on
                    else array[e.expires_on] end as lot_expires_on,
               case when e.expires_on is null then e.lot_points
                    when e.kind in ('hold', 'release') then array[abs(e.held)]
                    else array[e.points] end as lot_points
       ) l;
comment on column loyalty.journal_entry.key_is_whole is
    'Whether it has both an idempotency key and the hash of its request, or neither.';

-- Lot classes keep what lots were granted on.
create trigger guard before update or delete or truncate on loyalty.lot_class
    for each statement execute function loyalty.guard_ledger();

-- Claims and headers are believed where PostgREST logged in, or a superuser.
create or replace function loyalty.client_address() returns text
    language sql stable set search_path = pg_catalog, pg_temp
    -- whoever else logs in may set the same setting. The last one is what our own proxy saw;
    -- those before it, anybody may have written
    return coalesce(
        case when pg_has_role(session_user, 'loyalty_authenticator', 'member')
             then nullif(left(btrim(regexp_replace(
                      coalesce(nullif(current_setting('request.headers', true), ''), '{}')::json ->> 'x-forwarded-for',
                      '^.*,', '')), 64), '') end,
        host(inet_client_addr()));
comment on function loyalty.client_address is
    'Address of the client: what the proxy in front of PostgREST added to X-Forwarded-For, for whoever logged in as a member of loyalty_authenticator or as a superuser; else the connection''s, null on a socket.';
create or replace function loyalty.claim_identity_id() returns bigint
    language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    return substring(loyalty.claim('sub') from '^identity:([0-9]{1,18})$')::bigint;
end
$$;
comment on function loyalty.claim is
    'A claim of the request''s token; null without one, and for whoever logged in neither as a member of loyalty_authenticator nor as a superuser.';

-- Values that cannot be are told as such, not by the constraint that they break.
create or replace function loyalty.hold(
    account_id bigint,
    points bigint,
    expires_in interval default '15 minutes',
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.hold_for(account_id, points,
        -- what is no bigint any more is too long, or too short, anyway
        case when abs(extract(epoch from expires_in)) < 100000000000
             then (extract(epoch from expires_in) * 1000000)::bigint
             when expires_in is not null then 0
        end, reason, idempotency_key);
comment on function loyalty.hold is
    'Sets points aside: their lots are pinned, also past their last day, until capture, release or the time is over. 22023 for no time or more than a year; LY001, LY002, LY003, LY004.';
create or replace function loyalty.create_rule(
    program text,
    code text,
    kind text,
    terms jsonb,
    title text default null,
    valid_from date default null,
    valid_to date default null,
    expiry loyalty.expiry_policy default null
) returns loyalty.rule
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    owner integer := loyalty.program_id(create_rule.program);
    begins date := coalesce(create_rule.valid_from, loyalty.today(create_rule.program));
    written loyalty.rule;
begin
    perform loyalty.rule_is_sound(create_rule.kind, create_rule.terms::text);
    if exists (select from loyalty.rule r where r.program_id = owner and r.code = create_rule.code) then
        raise exception using errcode = 'unique_violation',
            message = 'the program has a rule of that code',
            detail = format('%L given.', create_rule.code),
            hint = 'loyalty.change_rule adds a version to it, also after its end; or take another code.';
    elsif create_rule.code !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$' then
        perform loyalty.raise('22023', 'code cannot be', format('%L given.', left(create_rule.code, 100)),
            'Up to 63 letters, digits, dots, dashes and underscores, the first a letter or digit.');
    end if;
    perform loyalty.check_rule_frame('valid_from', begins, create_rule.valid_to, create_rule.title);
    insert into loyalty.rule
           (program_id, code, version, kind, title, terms, valid_from, valid_to, expiry, created_at, created_by)
    values (owner, create_rule.code, 1, create_rule.kind, coalesce(create_rule.title, create_rule.code),
            create_rule.terms, begins, create_rule.valid_to, create_rule.expiry, loyalty.now(), loyalty.actor())
    returning * into written;
    perform loyalty.check_rule_pays(written);
    perform loyalty.plan_schedule(owner, 'rule:' || written.code);
    return written;
end
$$;
comment on function loyalty.create_rule is
    'Creates a rule. valid_from (today unless given) and valid_to are days of payment; expiry null goes by the program''s policy. It pays from its creation on; periods before that, also those since valid_from, only by loyalty.rerun. 22023 names the field of terms that is wrong, and a code, title and days that cannot be; 23505 when the code is taken; LY002.';
create or replace function loyalty.record_event(
    program text,
    kind text,
    member_no text,
    other_member_no text default null,
    occurred_on date default null,
    amount numeric default null,
    reference text default null,
    attributes jsonb default null,
    out event_id bigint,
    out is_new boolean,
    out payments jsonb
) returns record
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    owner integer := loyalty.program_id(record_event.program);
    today date := loyalty.today(record_event.program);
    happened date := coalesce(record_event.occurred_on, today);
    account bigint;
    other bigint;
    is_purchase boolean;
    kinds text;
    known loyalty.event;
    payment record;
begin
    select bool_or(r.kind = 'purchase') into is_purchase
      from loyalty.rule r
     where r.program_id = owner
       and r.kind in ('event', 'purchase')
       and coalesce(r.terms ->> 'event', 'purchase') = record_event.kind;
    if is_purchase is null then
        select string_agg(distinct coalesce(r.terms ->> 'event', 'purchase'), ', ') into kinds
          from loyalty.rule r
         where r.program_id = owner and r.kind in ('event', 'purchase');
        perform loyalty.raise('22023', 'no rule knows such events', format('kind is %L.', record_event.kind),
            coalesce('The program''s rules know: ' || kinds || '.',
                     'The program has no rule for events; loyalty.create_rule creates one.'));
    end if;
    if is_purchase and amount is null then
        perform loyalty.raise('22004', 'amount must not be null',
            format('Events of kind %L are paid by their amount.', record_event.kind), 'Pass amount => … .');
    end if;
    if happened > today then
        perform loyalty.raise('22023', 'occurred_on lies in the future',
            format('%s given; today is %s in the program''s time zone.', happened, today),
            'Record what has happened.');
    elsif happened < '1955-01-01' then
        perform loyalty.raise('22023', 'occurred_on is in no calendar', format('%s given.', happened),
            'A day from 1955 on; today when left out.');
    elsif record_event.amount not between 0 and 1000000000000 then
        perform loyalty.raise('22023', 'amount cannot be', format('%s given.', record_event.amount),
            'From 0 to 1000000000000. What was taken back is canceled with loyalty.cancel_event.');
    elsif char_length(record_event.reference) not between 1 and 150 then
        perform loyalty.raise('22023', 'reference is too long, or empty',
            format('%s characters given.', char_length(record_event.reference)),
            'From 1 to 150 characters, or null for none.');
    elsif jsonb_typeof(record_event.attributes) <> 'object' then
        perform loyalty.raise('22023', 'attributes are not an object',
            format('An %s given.', jsonb_typeof(record_event.attributes)), 'Such as {"shop": "Nagano"}.');
    end if;
    account := loyalty.event_account(owner, 'member_no', record_event.member_no);
    if other_member_no is not null then
        other := loyalty.event_account(owner, 'other_member_no', record_event.other_member_no);
    end if;
    if other = account then
        perform loyalty.raise('22023', 'the parties are one and the same', format('%L given twice.', record_event.member_no),
            'Give the other member, or leave other_member_no out.');
    end if;

    insert into loyalty.event
           (program_id, kind, account_id, other_account_id, occurred_on, amount, reference, attributes,
            recorded_on, recorded_at, recorded_by)
    values (owner, record_event.kind, account, other, happened, record_event.amount, record_event.reference,
            coalesce(record_event.attributes, '{}'), today, loyalty.now(), loyalty.actor())
        on conflict on constraint event_reference_is_once do nothing
    returning event.event_id into event_id;
    is_new := found;
    if is_new then
        -- What pays at once, and what is recorded when its pay day is over: the run of that
        -- period may have been. Effective as of the day it should have been paid.
        for payment in
            select g.code, g.message, p.rule
              from loyalty.event_payments(event_id) p
             cross join lateral loyalty.grant_each(
                       array[p.account_id], array[p.points], p.title, p.pays_on,
                       case when p.expiry::text !~ 'inactivity' then
                           coalesce(loyalty.expires_on(p.expiry, p.pays_on), 'infinity')
                       end,
                       array[p.idempotency_key], p.expiry) g
             where p.pays_on <= today
               -- a run passes over these too
               and (select w.status from loyalty.wallet w where w.account_id = p.account_id) <> 'closed'
        loop
            if payment.code is not null then
                perform loyalty.raise(payment.code, payment.message, format('Rule %L pays for the event.', payment.rule),
                    'Nothing was recorded.');
            end if;
        end loop;
    else
        select e.* into strict known
          from loyalty.event e
         where e.program_id = owner and e.kind = record_event.kind and e.reference = record_event.reference;
        event_id := known.event_id;
        if (known.account_id, known.other_account_id, known.amount)
               is distinct from (account, other, record_event.amount)
           or known.occurred_on <> record_event.occurred_on then
            perform loyalty.raise('LY003', 'the reference was used for another event',
                format('It is event %s, of %s.', known.event_id, known.occurred_on),
                'Repeat a call with the same arguments, or give a new event a new reference.');
        end if;
    end if;
    select coalesce(jsonb_agg(jsonb_build_object(
               'rule', p.rule, 'account_id', p.account_id, 'party', p.party, 'points', p.points,
               'pays_on', p.pays_on, 'operation_id', p.operation_id)), '[]') into payments
      from loyalty.event_payments(event_id) p;
end
$$;
comment on function loyalty.record_event is
    'Records what happened and says what the rules pay for it, when and to whom. Paid at once where the rule says so, or where the pay day is over. The same reference is recorded once (LY003 when it was another event). 22023 for a kind that no rule knows, a day to come and other values that cannot be; 22004 for a purchase without amount; LY002.';

-- Errors that functions raise, and did not tell of.
comment on function loyalty.give_role is
    'Makes a person granter or admin of a program, or operator. Who has no login in the program yet is mailed an offer, good for 7 days. Given again it sets a granter''s budget, to no limit where monthly_budget is left out, and sends an open offer anew. {role_id, program, role, login_id, monthly_budget, state}; 22023, LY002; LY010 for an offer in a program without an access policy.';
comment on function loyalty.accept_invitation is
    'Accepts a role by the mailed link, and signs the person in: the address becomes the login ID with that password; where it is one already, its password is asked for. LY009 for a link that is not good or a wrong password, LY008 after too many, 22004 and 22023 for a password that cannot be, LY010 for a login that is suspended or has the role already, LY007 outside of service hours.';
comment on function loyalty.invite_family is
    'A member invites family (A8): the member is mailed a link to approve it by, within a day. {family_id, relation, name, state, expires_at}; 22023 and 22004 for a value that cannot be, 23514 for an address that is invited already, LY010 for a relation that the program does not admit and a member without a login ID, LY002, LY004 for an account that is not open, LY008 from the 20th invitation within a day.';
comment on function loyalty.register_family is
    'The person invited registers by the mailed link (A8), and is signed in: the address becomes the login ID; where it is one already, its password is asked for. LY009 for a wrong birth date, five of which end the invitation, for a wrong password and for a link that is not good, LY008 after too many; 22004 and 22023 for a password or terms that cannot be; LY010 for a relation that the program admits no more and a login that is suspended or linked already; LY004 when the member''s account is not open, LY007 outside of service hours.';

-- Mailed links that forget failures hold what is counted first, as attempts do.
create function loyalty.hold_attempts(token text) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    if token ~ '^[0-9a-f]{32}\.[A-Za-z0-9_-]{43}$'
       and loyalty.is_keyed_code('link', (split_part(token, '.', 1)::uuid)::text, 0, split_part(token, '.', 2)) then
        perform
           from loyalty.challenge c
          cross join loyalty.login_subjects(c.identity_id) s (subject)
          cross join (values ('password'), ('send')) as a (scope)
           join loyalty.throttle t
             on t.scope = a.scope and t.subject_hash = any (loyalty.keyed_hashes('throttle ' || a.scope, s.subject))
          where c.challenge_id = split_part(token, '.', 1)::uuid
          order by t.scope, t.subject_hash
            for update of t;
    end if;
end
$$;
comment on function loyalty.hold_attempts is
    'Before a mailed link that forgets failures is looked at: holds what is counted of the person it is for. Attempts hold that first and the challenge or the person then, so nobody waits in a circle.';
revoke all on function loyalty.hold_attempts(text) from public;
create or replace function loyalty.reset_password(token text, screen_key text, password text, password_again text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    by_mail loyalty.challenge;
    person loyalty.identity;
begin
    perform loyalty.check_passwords(password, password_again);
    perform loyalty.hold_attempts(token);
    by_mail := loyalty.challenge_of_token(token, '{password_reset}');
    if by_mail.identity_id is null then
        return loyalty.refuse_link();
    end if;
    perform loyalty.check_service_hours(by_mail.program_id);
    select i.* into person from loyalty.identity i where i.identity_id = by_mail.identity_id for update;
    perform loyalty.check_new_password(loyalty.access_policy_of(by_mail.program_id), password, person.login_id);
    if not loyalty.try_code(by_mail.challenge_id, screen_key, 'screen', 4) then
        perform loyalty.audit('reset_password', by_mail.program_id, by_mail.identity_id, by_mail.account_id,
            outcome => 'refused');
        return loyalty.refuse('LY009', 'wrong key', null,
            'Type the four digits that were on the screen; the fifth wrong ones end the link.');
    elsif person.state <> 'active' or loyalty.is_locked(person.identity_id) then
        perform loyalty.audit('reset_password', by_mail.program_id, by_mail.identity_id, by_mail.account_id,
            outcome => 'refused');
        return loyalty.refuse('LY010', 'the login is locked or suspended', null,
            'Unlock it by mail first, or ask the program''s administrators.');
    end if;
    perform loyalty.use_challenge(by_mail.challenge_id);
    perform loyalty.replace_password(person.identity_id, by_mail.program_id, password);
    perform loyalty.release_login(person.identity_id);
    perform loyalty.audit('reset_password', by_mail.program_id, by_mail.identity_id, by_mail.account_id);
    return jsonb_build_object('changed', true);
end
$$;
create or replace function loyalty.unlock(token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    by_mail loyalty.challenge;
begin
    perform loyalty.hold_attempts(token);
    by_mail := loyalty.challenge_of_token(token, '{unlock}');
    if by_mail.identity_id is null then
        return loyalty.refuse_link();
    end if;
    perform loyalty.check_service_hours(by_mail.program_id);
    perform loyalty.use_challenge(by_mail.challenge_id);
    perform loyalty.release_login(by_mail.identity_id);
    perform loyalty.audit('unlock', by_mail.program_id, by_mail.identity_id, by_mail.account_id);
    return jsonb_build_object('unlocked', true);
end
$$;
create or replace function loyalty.accept_login(token text, password text, password_again text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    by_mail loyalty.challenge;
    application loyalty.login_application;
    person loyalty.identity;
begin
    perform loyalty.check_passwords(accept_login.password, accept_login.password_again);
    perform loyalty.hold_attempts(accept_login.token);
    by_mail := loyalty.challenge_of_token(accept_login.token, '{login_approved}');
    if by_mail.identity_id is null then
        return loyalty.refuse_link();
    end if;
    perform loyalty.check_service_hours(by_mail.program_id);
    select a.* into application
      from loyalty.login_application a
     where a.application_id = (by_mail.details ->> 'application_id')::bigint and a.state = 'approved'
       for update;
    select i.* into person from loyalty.identity i where i.identity_id = by_mail.identity_id for update;
    if application.application_id is null or person.state <> 'suspended' or not application.has_suspended then
        return loyalty.refuse_link();
    end if;
    perform loyalty.check_new_password(loyalty.access_policy_of(by_mail.program_id), accept_login.password, application.login_id);
    perform loyalty.use_challenge(by_mail.challenge_id);
    perform loyalty.release_login(person.identity_id);
    begin
        update loyalty.identity i
           set login_id = application.login_id, state = 'active', changed_at = loyalty.now()
         where i.identity_id = person.identity_id;
    exception when unique_violation then
        return loyalty.refuse_link();
    end;
    update loyalty.login_application a
       set state = 'done', decided_at = loyalty.now(), has_suspended = false
     where a.application_id = application.application_id;
    perform loyalty.replace_password(person.identity_id, by_mail.program_id, accept_login.password);
    perform loyalty.release_login(person.identity_id);
    if person.login_id <> application.login_id then
        -- who did not apply has to hear of it
        perform loyalty.send_notice(by_mail.program_id, by_mail.account_id, 'login_changed',
            gen_random_uuid()::text, person.login_id);
    end if;
    perform loyalty.audit('accept_login', by_mail.program_id, by_mail.identity_id, by_mail.account_id,
        jsonb_build_object('application_id', application.application_id));
    return jsonb_build_object('changed', true);
end
$$;

create or replace function loyalty.cancel_event(
    event_id bigint,
    reason text default null,
    policy text default 'clamp',
    out revoked bigint
) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    canceled loyalty.event;
    paid record;
    receipt loyalty.receipt;
begin
    revoked := 0;
    select e.* into canceled from loyalty.event e where e.event_id = cancel_event.event_id;
    if not found then
        perform loyalty.raise('LY002', 'no such event', format('%s given.', cancel_event.event_id),
            'loyalty.record_event returned its event_id.');
    end if;
    if policy is null or policy not in ('clamp', 'debt') then
        perform loyalty.raise('22023', 'no such policy', format('%L given.', policy),
            'clamp leaves points already spent; debt books a debt that later grants repay.');
    elsif char_length(cancel_event.reason) > 1000 then
        perform loyalty.raise('22023', 'reason is too long', format('%s characters given.', char_length(cancel_event.reason)),
            'Up to 1000 characters.');
    end if;
    -- a run that pays events at this moment ends its chunk first, and its grants are seen then
    perform pg_advisory_xact_lock(hashtext('loyalty.event'), canceled.program_id);
    update loyalty.event e
       set canceled_at = loyalty.now(), canceled_by = loyalty.actor(), cancel_reason = cancel_event.reason
     where e.event_id = cancel_event.event_id and e.canceled_at is null;
    if not found then
        return;
    end if;
    for paid in
        -- by key, whatever became of the rule since
        select n.account_id, (n.account_id << 24) | n.entry as operation_id, k.key
          from (select distinct r.code from loyalty.rule r where r.program_id = canceled.program_id) c
         cross join lateral (
                   values (canceled.account_id, 'member'), (canceled.other_account_id, 'other')) p (account_id, party)
         cross join lateral (select format('rule/%s/event-%s/%s', c.code, canceled.event_id, p.party)) k (key)
          join loyalty.entry n
            on n.account_id = p.account_id
           and hashtextextended(n.idempotency_key, 0) = hashtextextended(k.key, 0)
           and n.idempotency_key = k.key
          join loyalty.wallet w on w.account_id = n.account_id and w.status <> 'closed'
         order by n.account_id
    loop
        begin
            receipt := loyalty.revoke(
                account_id => paid.account_id, operation_id => paid.operation_id,
                policy => cancel_event.policy, reason => cancel_event.reason,
                idempotency_key => paid.key || '/canceled');
            revoked := revoked + receipt.points;
        exception when invalid_parameter_value then
            null; -- somebody revoked all of it before
        end;
    end loop;
end
$$;
comment on function loyalty.cancel_event is
    'Cancels an event, such as a purchase that was refunded: what was not paid yet will not be; what was is revoked, points already spent by the policy of loyalty.revoke (clamp or debt). Returns the points taken back; 0 when it was canceled before. 22023 for a policy or reason that cannot be; LY002.';

create or replace function loyalty.set_identity_provider(program text, issuer text, audience text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer;
begin
    if set_identity_provider.program is null or set_identity_provider.issuer is null
       or set_identity_provider.audience is null then
        perform loyalty.raise('22004', 'program, issuer and audience must not be null', null,
            'issuer is what the provider''s tokens have as iss, audience what they have in aud.');
    elsif char_length(set_identity_provider.issuer) not between 1 and 500
          or char_length(set_identity_provider.audience) not between 1 and 500
          or set_identity_provider.issuer = 'loyalty' then
        perform loyalty.raise('22023', 'issuer or audience cannot be',
            format('issuer %L, audience %L.', left(set_identity_provider.issuer, 100), left(set_identity_provider.audience, 100)),
            'From 1 to 500 characters each; loyalty is the issuer of the tokens made here.');
    end if;
    within := loyalty.program_id(set_identity_provider.program);
    if exists (select from loyalty.identity_provider p
                where p.issuer = set_identity_provider.issuer and p.program_id <> within) then
        perform loyalty.raise('22023', 'the provider is another program''s', null, 'An issuer is one program''s; remove it there first.');
    end if;
    insert into loyalty.identity_provider as p (issuer, audience, program_id, created_at)
    values (set_identity_provider.issuer, set_identity_provider.audience, within, loyalty.now())
        on conflict (issuer) do update set audience = excluded.audience;
    perform loyalty.audit('set_identity_provider', within,
        details => jsonb_build_object('issuer', set_identity_provider.issuer, 'audience', set_identity_provider.audience));
    return jsonb_build_object('issuer', set_identity_provider.issuer, 'audience', set_identity_provider.audience,
        'program', set_identity_provider.program);
end
$$;

create or replace function loyalty.accept_invitation(token text, password text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    offered loyalty.program_role;
    proven record;
begin
    if accept_invitation.token ~ '^[0-9a-f]{32}\.' then
        select r.* into offered
          from loyalty.program_role r
         where r.challenge_id = split_part(accept_invitation.token, '.', 1)::uuid
           and r.identity_id is null and r.taken_at is null
           for update;
    end if;
    if offered.role_id is null
       or (loyalty.challenge_of_token(accept_invitation.token, '{staff_invitation}')).challenge_id is null then
        perform loyalty.raise('LY009', 'the link is not good', null,
            'It was used, its time is over, or the offer was taken back: ask an administrator for another.');
    end if;
    perform loyalty.check_service_hours(offered.program_id);
    proven := loyalty.prove_identity(
        loyalty.access_policy_of(offered.program_id), offered.login_id, accept_invitation.password);
    if proven.refusal is not null then
        perform loyalty.audit('accept_invitation', offered.program_id, null, null,
            jsonb_build_object('role_id', offered.role_id), 'refused');
        return proven.refusal;
    end if;
    perform loyalty.use_challenge(offered.challenge_id);
    begin
        update loyalty.program_role r
           set identity_id = proven.identity_id, accepted_at = loyalty.now()
         where r.role_id = offered.role_id;
    exception when unique_violation then
        -- maybe given this moment
        perform loyalty.raise('LY010', 'the login has this role already', null, 'Log in.');
    end;
    perform loyalty.audit('accept_invitation', offered.program_id, proven.identity_id, null,
        jsonb_build_object('role_id', offered.role_id, 'role', offered.role));
    return loyalty.start_session(proven.identity_id, offered.program_id, 'loyalty_' || offered.role, null, false);
end
$$;

-- What functions over HTTP refuse, told by each.
comment on function loyalty_api.remove_family(bigint) is
$$Remove family

Takes an invitation back, or removes who registered by it, whose access ends at once, and who is told by mail. Answers with family_id, relation, name and state. 404 LY002 when the member has no such invitation. Members only.

- `family_id`: number of the invitation, as in /family.$$;
comment on function loyalty_api.spend(numeric, text, text, bigint) is
$$Spend points

Takes points, soonest expiry first, and answers with a receipt. 402 LY001 when not so many are available. 403 LY004 when the account is not open; 409 LY003 when the key was used for something else. Family spends a member's points where the program lets them, up to a limit in a month: 403 LY010 beyond it.

- `points`: how many, a whole number from 1.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.
- `account_id`: whose points. Members and family leave it out; administrators must give it.$$;
comment on function loyalty_api.hold(numeric, interval, text, text, bigint) is
$$Hold points

Sets points aside, to be captured or released by the receipt's operation_id; after expires_in they are free again. 402 LY001 when not so many are available. 403 LY004 when the account is not open; 400 22023 for a time that cannot be; 409 LY003 when the key was used for something else.

- `points`: how many, a whole number from 1.
- `expires_in`: for how long, such as "15 minutes" (which it is when left out) or "3 days"; up to a year.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.
- `account_id`: whose points. Members leave it out; administrators must give it.$$;
comment on function loyalty_api.capture(bigint, numeric, text, text, bigint) is
$$Capture a hold

Spends what the hold set aside, all of it or fewer points; the rest can be spent again. Answers with a receipt. 409 LY006 when the hold is over. 400 22023 when it is no hold, or was of fewer points; 404 LY002 when there is no such operation. Members capture only holds that they placed.

- `operation_id`: number of the hold, from its receipt.
- `points`: how many of the points held; all when left out.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.
- `account_id`: whose points. Members leave it out; administrators must give it.$$;
comment on function loyalty_api.release(bigint, text, text, bigint) is
$$Release a hold

Its points can be spent again. Answers with a receipt. 409 LY006 when the hold is over already. 400 22023 when it is no hold; 404 LY002 when there is no such operation. Members release only holds that they placed.

- `operation_id`: number of the hold, from its receipt.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.
- `account_id`: whose points. Members leave it out; administrators must give it.$$;
comment on function loyalty_api.refund(bigint, bigint, numeric, text, text) is
$$Refund a spend

Gives points of a spend or capture back to the lots they came from, with the day they lapse, and answers with a receipt. 400 22023 when it is no spend or capture, or has not so many left; 404 LY002 when there is no such operation; 409 LY003 when the key was used for something else. Administrators only.

- `account_id`: whose points.
- `operation_id`: number of the spend or capture, from its receipt or the statement.
- `points`: how many; all that is left of it when left out.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.$$;
comment on function loyalty_api.revoke(bigint, bigint, numeric, text, text, text) is
$$Revoke a grant

Takes a grant back and answers with a receipt. What was spent of it the policy decides. 400 22023 when it is no grant, or has not so many left; 404 LY002 when there is no such operation; 409 LY003 when the key was used for something else. Administrators only.

- `account_id`: whose points.
- `operation_id`: number of the grant, from its receipt or the statement.
- `points`: how many; all that is left of it when left out.
- `policy`: what becomes of points already spent: "clamp" (when left out) leaves them, "debt" books a debt that later grants repay.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.$$;
comment on function loyalty_api.transfer(numeric, bigint, text, text, text, bigint) is
$$Transfer points

Moves points to another member of the program, soonest expiry first; they keep the day they lapse. Answers with the sender's receipt. 402 LY001 when not so many are available. 403 LY004 when an account is not open; 404 LY002 when there is no such receiver; 400 22023 without one, or to oneself; 409 LY003 when the key was used for something else.

- `points`: how many, a whole number from 1.
- `to_account`: the receiver, by account number.
- `to_member_no`: or the receiver, by member number.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.
- `account_id`: the sender. Members leave it out; administrators must give it.$$;
comment on function loyalty_api.grant(bigint, numeric, text, text, text, text) is
$$Grant points

Gives points to a member and answers with a receipt. 403 LY010 beyond a granter's monthly budget, and for more points than one person may grant in the program: /rpc/propose_grant. 403 LY004 when the account is not open; 404 LY002 when there is none; 400 22023 for points and days that cannot be; 409 LY003 when the key was used for something else. Granters and administrators only.

- `account_id`: who gets them.
- `points`: how many, a whole number from 1.
- `reason`: why, in your words, up to 1,000 characters.
- `granted_on`: the day that counts for their terms, YYYY-MM-DD; today in the program's time zone when left out, and never later.
- `expires_on`: the last day they can be spent, YYYY-MM-DD; by the program's expiry policy when left out.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.$$;
comment on function loyalty_api.spend_many(jsonb, text) is
$$Spend points of many

Up to 10,000 spends in one call. Each item has its own outcome, in order: the fields of a receipt, or error_code and error; the good ones are booked whatever the others do. 400 22023 when items is no such array. Administrators only.

- `items`: an array of objects with account_id, points and, if wanted, reason, idempotency_key. Give each item an idempotency_key, and the whole call can be repeated.
- `program`: code of the program that the accounts are of. Only an operator's token leaves it open.$$;
comment on function loyalty_api.explain_spend(numeric, bigint) is
$$Explain a spend

Which lots a spend of so many points would take now, in order, and what would remain in each. Spends nothing; refuses what a spend would refuse: 402 LY001 when not so many are available, 403 LY004 when the account is not open, 400 22023 for points that cannot be.

- `points`: how many, a whole number from 1.
- `account_id`: whose points. Members leave it out; administrators must give it.$$;
comment on function loyalty_api.open_account(text, text) is
$$Open an account

Opens a member's account and answers with its account_id; the same one when called again. 400 22023 for a number that is empty or too long. Administrators only.

- `member_no`: the member's number in the program, up to 100 characters.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
comment on function loyalty_api.set_member(text, text, text, text, text, text, text, jsonb, jsonb, text) is
$$Write a member

Writes a member's record, opens the account with it if there is none, and answers with the record. What is left out stays as it is; an empty text empties it. 400 22023 names the value that cannot be. Administrators only.

- `member_no`: the member's number in the program, up to 100 characters.
- `name`: up to 200 characters, as the person writes it.
- `kana`: its reading; hiragana and half-width katakana become full-width katakana.
- `birth_date`: as YYYY-MM-DD.
- `email`: an e-mail address.
- `phone`: with the country code, or as dialled in Japan; stored in E.164.
- `language`: a tag such as ja or en.
- `facts`: an object of days that rules go by, such as {"first_service_on": "2024-06-20"}; merged into those there are, null takes one away.
- `attributes`: an object of anything else, merged the same way.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
comment on function loyalty_api.explain_notices(bigint, text) is
$$Explain notices

Why a member gets each kind of notice, or why not, and what became of the last one. What servers answered is for administrators only. 404 LY002 when there is no such account.

- `account_id`: whose notices. Members leave it out; administrators must give it.
- `only_kind`: one kind; all four when left out.$$;
comment on function loyalty_api.preview_template(text, text, text, text, text, text, text) is
$$Preview a template

Fills a template in with an example and changes nothing: the one in use, or one not written yet when texts are given, checked as /rpc/set_template does. 400 22023 tells part, line and what is wrong there. Administrators only.

- `kind`: points_received, balance, expiry, order_received, or one about logins such as password_reset.
- `language`: such as ja or en.
- `subject`: a subject to try.
- `text_body`: a plain text to try.
- `html_body`: an HTML text to try.
- `sms_body`: a short message to try.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
comment on function loyalty_api.retry_notices(timestamptz, text, text) is
$$Retry notices

Has another go at notices that were given up, once what was wrong is mended. Answers with how many. 400 22023 when there is no such kind. Administrators only.

- `given_up_since`: only those given up since then.
- `kind`: one kind; all when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
comment on function loyalty_api.remove_identity_provider(text) is
$$Believe an identity provider no longer

For operators. From the next request on; its links are forgotten. Take its key out of the JWK set, too. 404 LY002 when there is no such provider.

- `issuer`: what its tokens have as iss.$$;
comment on function loyalty_api.issue_keys(text, text, text, text) is
$$Issue authentication keys

Issues the keys 1 and 2 by which a member registers, or new ones for lost ones, and answers with them: {member_no, key_1, key_2}. They are told once; those before are good no longer. 400 22023 for keys that are taken, too short or too long; 404 LY002 when there is no such member. Administrators only.

- `member_no`: the member's number in the program.
- `key_1`: a key 1 of your own; random when left out.
- `key_2`: a key 2 of your own, of 4 characters or more; random when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
comment on function loyalty_api.issue_many_keys(jsonb, text) is
$$Issue many keys

Issues the keys 1 and 2 of many members, and answers each with its keys or why it was refused. They are told once; those before are good no longer. 400 22023 when items is no such array. Administrators only.

- `items`: an array of up to 10000 objects with member_no and, where the organisation brings its own, key_1 and key_2.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
comment on function loyalty_api.change_rule(text, jsonb, text, text, text, text, text) is
$$Change a rule

Adds a version that decides from a day of payment on, and answers with it; what is left out stays as it was. Points paid before keep their terms. 400 22023 for terms and days that cannot be, a day that is over, and while a run that it would change is under way; 404 LY002 when there is no such rule. Administrators only.

- `code`: the rule.
- `terms`: the new terms, whole.
- `title`: the new title.
- `from_day`: first day of payment on which the change decides, YYYY-MM-DD, from today on; tomorrow when left out.
- `valid_to`: last such day, YYYY-MM-DD.
- `expiry`: when its points lapse.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
comment on function loyalty_api.end_rule(text, text, text) is
$$End a rule

Answers with its last version. What would be paid later stays unpaid. 400 22023 when it ends earlier already, for a day that cannot be, and while a run that it would cut is under way; 404 LY002 when there is no such rule. Administrators only.

- `code`: the rule.
- `last_day`: last day of payment, YYYY-MM-DD; today when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
comment on function loyalty_api.record_event(text, text, text, text, numeric, text, jsonb, text) is
$$Record an event

Records what happened, and answers with its number, whether it is new, and what the rules pay for it: to whom, how much, when (pays_on), and the operation that did (operation_id, null while it is still to come). 400 22023 for a kind that no rule knows and values that cannot be, 400 22004 for a purchase without amount; 404 LY002 when there is no such member; 409 LY003 when the reference is another event's. Granters and administrators only.

- `kind`: what happened, as rules call it, such as "referral" or "purchase".
- `member_no`: who it is about: who referred, who bought.
- `other_member_no`: the other party: the friend referred.
- `occurred_on`: the day it happened, YYYY-MM-DD; today in the program's time zone when left out.
- `amount`: of a purchase, the amount spent.
- `reference`: your own number of it, up to 150 characters; repeat the call with the same one and it is recorded once. The header Idempotency-Key may carry it instead.
- `attributes`: an object of whatever else is to be kept with it.
- `program`: code of the program. Needed by operators; others have it in the token.$$;
comment on function loyalty_api.cancel_event(bigint, text, text, text) is
$$Cancel an event

For a purchase that was refunded, or an event recorded by mistake: what was not paid yet will not be, what was is revoked. Answers with the points taken back. 404 LY002 when the program has no such event; 400 22023 for a policy or reason that cannot be. Administrators only.

- `event_id`: number of the event.
- `reason`: why, in your words, up to 1,000 characters.
- `policy`: what becomes of points already spent: "clamp" (when left out) leaves them, "debt" books a debt that later grants repay.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
comment on function loyalty_api.grant_by_rule(bigint, text, numeric, text, text) is
$$Grant points by a rule

Gives points to a member by a rule of kind manual, within its limits, and answers with a receipt. 403 LY010 as for /rpc/grant. 404 LY002 when there is no such rule or account; 400 22023 when the rule is of another kind, or does not grant so many. Granters and administrators only.

- `account_id`: who gets them.
- `rule`: code of the rule.
- `points`: how many, a whole number from 1; as the rule says when left out.
- `reason`: why, in your words; the rule's title when left out.
- `idempotency_key`: up to 150 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.$$;
comment on function loyalty_api.explain_rule(text, bigint) is
$$Explain a rule

When a member is paid next by a rule (pays_on), how many points and why, or in explanation why nothing is to come; and what was paid last. 404 LY002 when there is no such rule or account.

- `rule`: code of the rule.
- `account_id`: whose. Members leave it out; administrators must give it.$$;
comment on function loyalty_api.preview(integer, text) is
$$Preview payments

What the coming months bring, without doing it: for each day and job, how many members are paid how many points in all, by the rules and members of today; and under job expire what lapses unless spent. 400 22023 for fewer or more months. Administrators only.

- `months`: how far to look, from 1 to 120; 24 when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
comment on function loyalty_api.rerun(text, text, text) is
$$Run again

Opens a run again for the next tick, within a minute: pays members who came later or failed, on the terms of the run's own day. Nobody is paid twice. Answers with the run. 400 22023 when there is no such job, or the period is still to come. Administrators only.

- `job`: the job, as in /schedule, such as "rule:anniversary".
- `period`: the nominal day, YYYY-MM-DD, as in /run.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
comment on function loyalty_api.retry_failures(bigint, text) is
$$Retry failed payments

Tries the payments of /run_failure again, and answers with how many were tried, paid, and are left. 404 LY002 when there is no such run. Administrators only.

- `run_id`: number of the run.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
comment on function loyalty_api.pause_schedule(text, text) is
$$Pause a job

Nothing of it is done until it is resumed, also when it is in the middle of a run. Answers with the schedule. 400 22023 when there is no such job. Administrators only.

- `job`: the job, as in /schedule; all of them when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
comment on function loyalty_api.resume_schedule(text, text) is
$$Resume a job

Ends a pause. What was missed is caught up within minutes, each payment with its own day. Answers with the schedule. 400 22023 when there is no such job. Administrators only.

- `job`: the job, as in /schedule; all of them when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
comment on function loyalty_api.log_out() is
$$Log out

Ends the login that the token is of, from the next request on. Answers `{"ended": 1}`. 403 LY010 for a token that no login made.$$;
comment on function loyalty_api.log_out_everywhere() is
$$Log out everywhere

Ends all of one's logins, this one too, in every program. Answers with how many: `{"ended": 3}`. Tokens of an outside identity provider are no login here: they are good until their end. 403 LY010 for a token that names no person.$$;
comment on function loyalty_api.own_sessions() is
$$List one's logins

`{"sessions": […]}`: those that go on, the last used first, each with session_id, program, role, device, address, since when, until when, and is_this for the one that asks. 403 LY010 for a token that names no person.$$;
comment on function loyalty_api.give_role(text, text, numeric, text) is
$$Give a role

Makes somebody granter or administrator of the program. Who has no login in the program yet is mailed an offer, good for 7 days. Given again it sets a granter's budget to what is given now, also to no limit, and sends an open offer anew. Answers with role_id, program, role, login_id, monthly_budget and state. 400 22023 for a role, login ID or budget that cannot be; 403 LY010 for an offer in a program that nobody can log in to yet; 404 LY002 for an operator without a login. Administrators only; operators are made by operators.

- `login_id`: e-mail address or mobile number that the person logs in by, or is to.
- `role`: granter, admin or operator.
- `monthly_budget`: points that a granter may grant in a month of the program's time zone, a whole number from 0; no limit when left out, also for who had one.
- `program`: code of the program. Needed by operators, but not for role operator; an administrator's is in the token.$$;
comment on function loyalty_api.take_role(bigint) is
$$Take a role away

Takes a role, or the offer of one, away; the person's sessions in it end at once. Answers as /rpc/give_role. 403 LY010 when the last administrator would take their own; 404 LY002 when there is no such role. Administrators only.

- `role_id`: number of the giving, as in /program_role.$$;
comment on function loyalty_api.propose_grant(bigint, numeric, text, text, text) is
$$Propose a grant

Proposes a grant of more points than one administrator may give, for another one to approve, and answers with the proposal. 400 22023 for points or days that cannot be; 403 LY010 for a token that names no person; 404 LY002 when there is no such account. Administrators only.

- `account_id`: who is to get them.
- `points`: how many, a whole number from 1.
- `reason`: why, in your words, up to 1,000 characters.
- `granted_on`: the day that counts for their terms, YYYY-MM-DD; the day of the approval when left out.
- `expires_on`: the last day they can be spent, YYYY-MM-DD; by the program's expiry policy when left out.$$;

-- Functions without arguments have it at the one with a lone json too, which is the one that is shown.
do $$
declare
    function_name text;
    shown text;
begin
    for function_name, shown in
        select p.proname, pg_catalog.obj_description(p.oid, 'pg_proc')
          from pg_catalog.pg_proc p
         where p.pronamespace = 'loyalty_api'::regnamespace and p.pronargs = 0
         order by 1
    loop
        execute pg_catalog.format('comment on function loyalty_api.%I(json) is %L', function_name, shown);
    end loop;
end
$$;

-- Whoever is connected sees a program that changes by logical replication too.
drop trigger changed on loyalty.program;
create trigger changed after insert or update or delete on loyalty.program
    for each row execute function loyalty.program_changed();
create trigger emptied after truncate on loyalty.program
    for each statement execute function loyalty.program_changed();
alter table loyalty.program enable always trigger changed;
alter table loyalty.program enable always trigger emptied;

-- a step finds what is due first without going through all that is
-- Inlined where it is used, so that a condition on its columns reaches the indexes; each half is in the
-- order of an index, so that what is due first is found without going through all that is.
create or replace function loyalty.due_work(passed_over text[])
    returns table (program_id integer, job text, period date, due_at timestamptz, key text, turn text)
    language sql stable
begin atomic
    select w.program_id, w.job, w.period, w.due_at, w.key,
           case when w.job like 'notice:%' then w.job else 'expire' end
      from ((select s.program_id, s.job, null::date as period, s.due_at,
                    format('%s %s', s.program_id, s.job) as key
               from loyalty.schedule s
              where s.due_at <= loyalty.now() and not s.is_paused
              order by s.due_at)
             union all
            (select r.program_id, r.job, r.period, r.reopened_at,
                    format('%s %s %s', r.program_id, r.job, r.period)
               from loyalty.run r
              where r.reopened_at is not null and r.finished_at is null
                and not exists (
                        select from loyalty.schedule s
                         where s.program_id = r.program_id and s.job = r.job and s.is_paused)
              order by r.reopened_at)) w
     where w.key <> all (due_work.passed_over)
       -- mails tell of payments that were due before them
       and not (w.job like 'notice:%' and exists (
               select from loyalty.schedule b
                where b.program_id = w.program_id and b.job not like 'notice:%'
                  and b.due_at <= w.due_at and not b.is_paused
                  and format('%s %s', b.program_id, b.job) <> all (due_work.passed_over)));
end;
create or replace function loyalty.tick_step(
    chunk_size bigint,
    passed_over text[],
    out worked_on text,
    out outcome text
) returns record
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    turn record;
    found_work record;
    wanted date;
    state text;
    problem text;
begin
    if chunk_size <= 0 then
        perform loyalty.raise('22023', 'chunk_size must be above zero',
            pg_catalog.format('%s given.', chunk_size), 'Accounts that one transaction books.');
    end if;
    if passed_over is null then
        passed_over := '{}';
        -- Once a tick: days are planned one ahead, so a row far ahead is of a test clock that
        -- went back.
        if (select max(s.due_at) from loyalty.schedule s where s.job = 'expire') > loyalty.now() + interval '3 days' then
            perform loyalty.plan_schedule(s.program_id, s.job)
               from (select j.program_id, j.job
                       from loyalty.schedule e
                       join loyalty.schedule j on j.program_id = e.program_id
                      where e.job = 'expire' and e.due_at > loyalty.now() + interval '3 days'
                        and j.job not like 'rule:%'
                      order by j.program_id, j.job) s;
        end if;
        -- Mostly there is nothing, and two looks into indexes tell; min and max go by them even where the
        -- statistics are of a time before the last run.
        if coalesce((select min(s.due_at) from loyalty.schedule s where not s.is_paused) > loyalty.now(), true)
           and not exists (select from loyalty.run r where r.reopened_at is not null and r.finished_at is null) then
            return;
        end if;
    end if;
    -- Ledger jobs of a program go one at a time, in the order they are due: else the entries
    -- of a member whom two of them reach would come in any order. Programs go side by side.
    loop
        select w.program_id, w.turn into turn
          from (select d.program_id, d.turn from loyalty.due_work(passed_over) d order by d.due_at offset 0) w
         cross join lateral (
                   select
                     from loyalty.schedule l
                    where l.program_id = w.program_id and l.job = w.turn
                      for update skip locked) l
         limit 1;
        if not found then
            return;
        end if;
        -- What comes first is seen only now, under the lock: another session may have let go of
        -- it after this one had passed over the first job, or have finished that one before.
        select w.* into found_work
          from loyalty.due_work(passed_over) w
         where w.program_id = turn.program_id and w.turn = turn.turn
         order by w.due_at, w.job, w.period
         limit 1;
        exit when found;
    end loop;
    worked_on := found_work.key;
    begin
        wanted := coalesce(found_work.period, loyalty.claim_period(found_work.program_id, found_work.job));
        outcome := case when wanted is null then 'done'
                        else loyalty.run_chunk(found_work.program_id, found_work.job, wanted, chunk_size) end;
    exception when others then
        -- what cannot even be begun must not keep the others waiting
        get stacked diagnostics state = returned_sqlstate, problem = message_text;
        insert into loyalty.run as r (program_id, job, period, effective_on, started_at, error)
        select s.program_id, s.job, s.next_period, s.effective_on, loyalty.now(), state || ' ' || problem
          from loyalty.schedule s
         where s.program_id = found_work.program_id and s.job = found_work.job
           and s.next_period is not null
            on conflict on constraint run_is_once do update set error = excluded.error;
        outcome := 'failed';
    end;
end
$$;

-- What takes jsonb reads it itself, without a function of SQL around it.

create or replace function loyalty.grant_many(items jsonb)
    returns table (
        item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
        points bigint, balance bigint, available bigint, occurred_at timestamptz,
        error_code text, error text, error_detail text
    )
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_grant_jsonb';

create or replace function loyalty.spend_many(items jsonb)
    returns table (
        item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
        points bigint, balance bigint, available bigint, occurred_at timestamptz,
        error_code text, error text, error_detail text
    )
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_spend_jsonb';
