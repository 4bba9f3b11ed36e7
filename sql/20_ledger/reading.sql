create function loyalty.balance(
    account_id bigint,
    as_of timestamptz default null
) returns loyalty.account_balance
    language c stable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_balance';
comment on function loyalty.balance(bigint, timestamptz) is
    'Balance (as booked), points held, points available, the next day on which available ones lapse and how many. as_of: in the past, as it was; in the future, as it will be if nothing but time happens. LY002.';

create function loyalty.balance(
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
               loyalty_private.midnight(balance.as_of + 1, z.time_zone) - interval '1 microsecond') b;
end;
comment on function loyalty.balance(bigint, date) is
    'The same, at the end of that day in the program''s time zone.';

create function loyalty_private.lot_rows(account_id bigint)
    returns table (expires_on date, granted bigint, remaining bigint, held bigint, spendable boolean, lot_class smallint)
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_lot_rows';
comment on function loyalty_private.lot_rows is 'loyalty.lots without the names of who funds them.';

create function loyalty.lots(account_id bigint)
    returns table (expires_on date, granted bigint, remaining bigint, held bigint, spendable boolean, funding text)
    language sql stable parallel safe security definer set search_path = pg_catalog, pg_temp
begin atomic
    select l.expires_on, l.granted, l.remaining, l.held, l.spendable,
           coalesce(c.funding, 'program')
      from loyalty_private.lot_rows(lots.account_id) with ordinality
               as l (expires_on, granted, remaining, held, spendable, lot_class, place)
      left join loyalty.account a on a.account_id = lots.account_id
      left join loyalty.lot_class c on c.program_id = a.program_id and c.lot_class = l.lot_class
     order by l.place;
end;
comment on function loyalty.lots is
    'The lots of an account in the order they are spent: last day (null: never expires), points it got, points left, points of these held, whether it can still be spent, and who funds it.';

create function loyalty.explain_spend(account_id bigint, points bigint)
    returns table (step integer, expires_on date, points bigint, remaining bigint)
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_explain_spend';
comment on function loyalty.explain_spend is
    'Which lots a spend of so many points would take now, in order, and what would remain in each. Spends nothing; refuses what a spend would refuse.';

create view loyalty.statement_line with (security_invoker = true) as
select e.account_id,
       (e.account_id << 24) | e.entry as operation_id,
       e.entry,
       e.occurred_at,
       pg_catalog.timezone(p.time_zone, e.occurred_at)::date as day,
       e.kind,
       e.points,
       e.balance,
       e.held,
       e.debt,
       e.reason,
       e.granted_on,
       nullif(e.expires_on, 'infinity') as expires_on,
       (e.account_id << 24) | e.refers_to as refers_to,
       e.other_account_id,
       e.idempotency_key,
       e.actor
  from loyalty.entry e
  join loyalty.account a on a.account_id = e.account_id
  join loyalty.program p on p.program_id = a.program_id;
comment on view loyalty.statement_line is 'Journal lines as a member reads them.';
comment on column loyalty.statement_line.account_id is 'The account.';
comment on column loyalty.statement_line.operation_id is 'Number to refund, revoke, capture or release it by.';
comment on column loyalty.statement_line.entry is 'Number of the line within the account.';
comment on column loyalty.statement_line.occurred_at is 'When it was booked.';
comment on column loyalty.statement_line.day is 'The day of that, in the program''s time zone.';
comment on column loyalty.statement_line.kind is 'What it records.';
comment on column loyalty.statement_line.points is 'Change of the balance.';
comment on column loyalty.statement_line.balance is 'Balance after it.';
comment on column loyalty.statement_line.held is 'Change of the points held.';
comment on column loyalty.statement_line.debt is 'Change of the debt.';
comment on column loyalty.statement_line.reason is 'Why, in the caller''s words.';
comment on column loyalty.statement_line.granted_on is 'Of a grant, the day that counts for its terms.';
comment on column loyalty.statement_line.expires_on is 'Last day of the lot touched, where it was one that expires.';
comment on column loyalty.statement_line.refers_to is 'The operation that this one is about.';
comment on column loyalty.statement_line.other_account_id is 'Other account of a transfer.';
comment on column loyalty.statement_line.idempotency_key is 'Key of the call.';
comment on column loyalty.statement_line.actor is 'Who asked.';

create function loyalty.statement(account_id bigint, from_date date default null, to_date date default null)
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
        perform loyalty_private.raise('LY002', 'no_such_account', 'no such account',
            pg_catalog.format('Account %s does not exist.', coalesce(account_id::text, 'null')),
            'loyalty.open_account(program, member_no) gives a member''s account.', 'account_id');
    end if;
    return query
    select l.*
      from loyalty.statement_line l
     where l.account_id = statement.account_id
       and l.occurred_at >= coalesce(loyalty_private.midnight(from_date, zone), '-infinity')
       and l.occurred_at < coalesce(loyalty_private.midnight(to_date + 1, zone), 'infinity')
     order by l.entry;
end
$$;
comment on function loyalty.statement is
    'The journal of an account, oldest first, from and to a day (both in it) in the program''s time zone.';

create view loyalty.journal with (security_invoker = true) as
select a.program_id, e.account_id, (e.account_id << 24) | e.entry as operation_id, e.occurred_at, e.kind,
       s.side, s.points
  from loyalty.entry e
  join loyalty.account a on a.account_id = e.account_id
 cross join lateral (
        values ('member', e.points),
               (case e.kind
                    when 'grant' then 'issued'
                    when 'revoke' then 'issued'
                    when 'repay' then 'issued'
                    when 'spend' then 'redeemed'
                    when 'capture' then 'redeemed'
                    when 'refund' then 'redeemed'
                    when 'expire' then 'breakage'
                    else 'other member'
                end, -e.points)
       ) s (side, points)
 where e.points <> 0;
comment on view loyalty.journal is
    'Both sides of every entry: the member''s and the one implied by its kind (issued, redeemed, breakage, other member). The two sum to zero, and transfers sum to zero over the program.';
comment on column loyalty.journal.program_id is 'The program.';
comment on column loyalty.journal.account_id is 'The member''s account.';
comment on column loyalty.journal.operation_id is 'The operation.';
comment on column loyalty.journal.occurred_at is 'When it was booked.';
comment on column loyalty.journal.kind is 'What it records.';
comment on column loyalty.journal.side is 'member, issued, redeemed, breakage or other member.';
comment on column loyalty.journal.points is 'Change of that side.';

-- Readings for the views. The ledger's own see every account, so HTTP roles may not call
-- them; these look at who asks first: the same rule as the policies on loyalty.account.
create function loyalty.own_balance(
    account_id bigint,
    out balance bigint,
    out held bigint,
    out available bigint,
    out next_expiry_on date,
    out next_expiry_points bigint
) returns record
    language sql stable parallel safe security definer set search_path = pg_catalog, pg_temp
begin atomic
    select b.balance, b.held, b.available, b.next_expiry_on, b.next_expiry_points
      from loyalty.balance(own_balance.account_id) b
     where loyalty_private.api_may_read(own_balance.account_id);
end;
comment on function loyalty.own_balance is
    'loyalty.balance of an account that the asking role may see; nulls of any other.';

create function loyalty.own_lots(account_id bigint)
    returns table (expires_on date, granted bigint, remaining bigint, held bigint, spendable boolean, funding text)
    language sql stable parallel safe security definer set search_path = pg_catalog, pg_temp
begin atomic
    select l.expires_on, l.granted, l.remaining, l.held, l.spendable, l.funding
      from loyalty.lots(own_lots.account_id) l
     where loyalty_private.api_may_read(own_lots.account_id);
end;
comment on function loyalty.own_lots is
    'loyalty.lots of an account that the asking role may see; none of any other.';
