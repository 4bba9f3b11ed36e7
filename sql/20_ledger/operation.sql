create function loyalty.open_account(program text, member_no text) returns bigint
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_open_account';
comment on function loyalty.open_account is
    'Opens a member''s account and returns its number; the same one when called again. LY002 for an unknown program.';

create function loyalty.open_accounts(program text, member_nos text[])
    returns table (member_no text, account_id bigint)
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_open_accounts';
comment on function loyalty.open_accounts is
    'Opens the accounts of many members in one call, and returns each with its number; those there already come back as they are.';

create function loyalty.grant(
    account_id bigint,
    points bigint,
    reason text default null,
    granted_on date default null,
    expires_on date default null,
    idempotency_key text default null,
    funding text default null,
    expiry loyalty.expiry_policy default null
) returns loyalty.receipt
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_grant';
comment on function loyalty.grant is
    'Gives points. granted_on is today in the program''s time zone unless given, and never in the future; they are spendable through expires_on, else as the policy expiry or the program''s says. Repays debt first. LY002, LY003, LY004; 22023 for points not above zero or a day that cannot be.';

create function loyalty.spend_fifo(
    account_id bigint,
    points bigint,
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_spend_fifo';
comment on function loyalty.spend_fifo is
    'Spends points: soonest expiry first, never-expiring last, then oldest. LY001 when not so many are available; LY002, LY003, LY004.';

create function loyalty_private.hold_for(bigint, bigint, bigint, text, text) returns loyalty.receipt
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_hold';
comment on function loyalty_private.hold_for is 'loyalty.hold, with the time in microseconds.';

create function loyalty.hold(
    account_id bigint,
    points bigint,
    expires_in interval default '15 minutes',
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty_private.hold_for(account_id, points,
        -- what is no bigint any more is too long, or too short, anyway
        case when abs(extract(epoch from expires_in)) < 100000000000
             then (extract(epoch from expires_in) * 1000000)::bigint
             when expires_in is not null then 0
        end, reason, idempotency_key);
comment on function loyalty.hold is
    'Sets points aside: their lots are pinned, also past their last day, until capture, release or the time is over. 22023 for no time or more than a year; LY001, LY002, LY003, LY004.';

create function loyalty.capture(
    account_id bigint,
    operation_id bigint,
    points bigint default null,
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_capture';
comment on function loyalty.capture is
    'Spends what a hold set aside, all of it or fewer points; the rest goes home. LY006 when the hold is over; 22023 for more than it has.';

create function loyalty.release(
    account_id bigint,
    operation_id bigint,
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_release';
comment on function loyalty.release is 'Ends a hold; its points go home. LY006 when it is over already.';

create function loyalty.refund(
    account_id bigint,
    operation_id bigint,
    points bigint default null,
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_refund';
comment on function loyalty.refund is
    'Gives points of a spend or capture back to the lots they came from, the last taken first; points null: all that is left of it. Where a lot''s day has passed, the program''s refund_grace_days decides. 22023 for more than was spent.';

create function loyalty.revoke(
    account_id bigint,
    operation_id bigint,
    points bigint default null,
    policy text default 'clamp',
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_revoke';
comment on function loyalty.revoke is
    'Takes a grant back from the lot it went to; points null: all that is left of it. Of points already spent, policy ''clamp'' leaves them, ''debt'' books a debt that later grants repay.';

create function loyalty.transfer(
    from_account bigint,
    to_account bigint,
    points bigint,
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_transfer';
comment on function loyalty.transfer is
    'Moves points to another account of the same program, soonest expiry first; the lots keep their last day. The receipt is the sender''s.';

create function loyalty.expire(
    program text,
    as_of date default null,
    batch_size bigint default null,
    out lots bigint,
    out points bigint
) returns record
    language c volatile security definer
    set search_path = pg_catalog, pg_temp
    -- it walks accounts in id order, row by row, whatever the statistics say
    set enable_hashjoin = off
    set enable_mergejoin = off
    set enable_seqscan = off
    set jit = off
    as 'MODULE_PATHNAME', 'loyalty_expire';
comment on function loyalty.expire is
    'Books breakage for lots whose last day lies before as_of (today, and never later, in the program''s time zone) in at most batch_size accounts. Returns what was booked; nothing that could be spent changes, whenever it runs.';

create function loyalty.expire(
    program text,
    as_of timestamptz,
    batch_size bigint default null,
    out lots bigint,
    out points bigint
) returns record
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select e.lots, e.points
      from loyalty.program p
     cross join loyalty.expire(p.code, pg_catalog.timezone(p.time_zone, expire.as_of)::date, expire.batch_size) e
     where p.program_id = loyalty.program_id(expire.program);
end;
comment on function loyalty.expire(text, timestamptz, bigint) is
    'The same, as of the day that the instant has in the program''s time zone.';

create function loyalty_private.expire_step(
    program_id integer,
    as_of date,
    from_account bigint,
    row_limit bigint,
    out last_account bigint,
    out accounts bigint,
    out lots bigint,
    out points bigint
) returns record
    language c volatile security definer
    set search_path = pg_catalog, pg_temp
    set enable_hashjoin = off
    set enable_mergejoin = off
    set enable_seqscan = off
    set jit = off
    as 'MODULE_PATHNAME', 'loyalty_expire_step';
comment on function loyalty_private.expire_step is
    'loyalty.expire for the program''s next row_limit accounts behind from_account (null: from the first), of which some are booked. last_account is where to go on, null when there are no more.';

create function loyalty_private.set_account_status(account_id bigint, status loyalty.account_status) returns void
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_set_account_status';
comment on function loyalty_private.set_account_status is
    'For suspend_account, resume_account and close_account.';

create function loyalty_private.forfeit(account_id bigint, reason text) returns loyalty.receipt
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_forfeit';
comment on function loyalty_private.forfeit is
    'Books all that an account holds as breakage, for close_account; null when it holds nothing.';

create function loyalty.suspend_account(account_id bigint) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty_private.set_account_status(account_id, 'suspended');
    perform loyalty_private.audit('suspend_account', loyalty_private.account_program_id(account_id), null, account_id);
end
$$;
comment on function loyalty.suspend_account is
    'Refuses spends, holds, captures and transfers from the account (LY004) until it is resumed. Its points still expire.';

create function loyalty.resume_account(account_id bigint) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty_private.set_account_status(account_id, 'open');
    perform loyalty_private.audit('resume_account', loyalty_private.account_program_id(account_id), null, account_id);
end
$$;
comment on function loyalty.resume_account is 'Ends a suspension. LY004 for a closed account.';

create function loyalty.close_account(account_id bigint, forfeit boolean default false, reason text default null)
    returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if forfeit then
        perform loyalty_private.forfeit(account_id, reason);
    end if;
    perform loyalty_private.set_account_status(account_id, 'closed');
    perform loyalty_private.audit('close_account', loyalty_private.account_program_id(account_id), null, account_id,
        jsonb_build_object('forfeit', forfeit));
end
$$;
comment on function loyalty.close_account is
    'Closes an account for good. It must be empty, unless forfeit says to book what it holds as breakage; open holds must be captured or released first.';

create function loyalty_private.spent_of_lot(account_id bigint, expires_on date, lot_class smallint) returns bigint
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    -- what left the lot by choice and did not come back, to it or as grace, less what is debt already
    select coalesce(sum(m.taken - least(greatest(m.refunded - m.taken_later, 0), m.taken)), 0)::bigint
         - coalesce(sum(m.debt) filter (where m.place = 1), 0)::bigint
      from (select e.debt, m.place, m.expires_on, coalesce(m.lot_class, 0) as lot_class,
                   case when e.kind in ('spend', 'capture', 'transfer') then greatest(-m.points, 0) else 0 end
                       as taken,
                   -- a refund starts with the lot taken last
                   coalesce(sum(-m.points) over (
                       partition by e.entry order by m.place desc
                       rows between unbounded preceding and 1 preceding), 0) as taken_later,
                   coalesce((select sum(r.points)
                               from loyalty.entry r
                              where r.account_id = e.account_id and r.refers_to = e.entry
                                and r.kind = 'refund'), 0) as refunded
              from loyalty.entry e
              -- a revoke may have found nothing to take: its debt is of the grant's lot
              join loyalty.entry l
                on l.account_id = e.account_id
               and l.entry = case when e.kind = 'revoke' then e.refers_to else e.entry end
             cross join lateral rows from (
                       unnest(coalesce(l.lot_expires_on, array[l.expires_on])),
                       unnest(coalesce(l.lot_points, array[l.points])),
                       unnest(l.lot_class)
                   ) with ordinality as m (expires_on, points, lot_class, place)
             where e.account_id = spent_of_lot.account_id
               and e.kind in ('spend', 'capture', 'transfer', 'revoke', 'repay')) m
     where m.lot_class = spent_of_lot.lot_class
       and (m.expires_on = spent_of_lot.expires_on or exists (
               select from loyalty.lot_class c
                 join loyalty.account a on a.program_id = c.program_id
                where a.account_id = spent_of_lot.account_id
                  and c.lot_class = spent_of_lot.lot_class
                  and c.inactivity_months is not null));
end;
comment on function loyalty_private.spent_of_lot is 'How many points spent from a lot a revoke may still book as debt.';
