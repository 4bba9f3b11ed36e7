-- verify() replays the journal, apart from the Rust that wrote it: one pass in order, one
-- account in memory at a time, so that its cost grows with the journal and nothing else.

create view loyalty.journal_entry with (security_invoker = true) as
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
comment on view loyalty.journal_entry is
    'The journal with all that its rows leave out because it goes without saying.';
comment on column loyalty.journal_entry.account_id is 'The account.';
comment on column loyalty.journal_entry.entry is 'Number of the entry within its account.';
comment on column loyalty.journal_entry.kind is 'What it records.';
comment on column loyalty.journal_entry.points is 'Change of the balance.';
comment on column loyalty.journal_entry.balance is 'Balance after it.';
comment on column loyalty.journal_entry.occurred_at is 'When it was booked.';
comment on column loyalty.journal_entry.refers_to is 'The entry that it is about.';
comment on column loyalty.journal_entry.available is 'Points that could be spent after the operation.';
comment on column loyalty.journal_entry.held is 'Change of the points held.';
comment on column loyalty.journal_entry.debt is 'Change of the debt.';
comment on column loyalty.journal_entry.other_account_id is 'Other account of a transfer.';
comment on column loyalty.journal_entry.other_entry is 'Its counterpart there.';
comment on column loyalty.journal_entry.hold_until is 'Of a hold, when it counts as released.';
comment on column loyalty.journal_entry.lot_expires_on is 'Last days of the lots touched.';
comment on column loyalty.journal_entry.lot_points is 'Change of each of these lots; of a hold or release, the points pinned or freed.';
comment on column loyalty.journal_entry.lot_class is 'Class of each of these lots; null when all are class 0.';
comment on column loyalty.journal_entry.is_whole is 'Whether it has all that an entry of its kind has, and nothing else.';
comment on column loyalty.journal_entry.key_is_whole is
    'Whether it has both an idempotency key and the hash of its request, or neither.';

create function loyalty.verify(program text default null)
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
        if not loyalty_private.wallet_is_sound(wallet.balance, wallet.debt, wallet.lot_expires_on, wallet.lot_granted,
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
comment on function loyalty.verify is
    'Replays the journal and returns what does not hold: the law, the account, the entry, the problem. No rows: all is well. Sees one moment of the ledger, and locks nobody out.';
