create view loyalty_api.balance with (security_invoker = true) as
select a.account_id, a.member_no, p.code as program, p.point_name,
       b.balance, b.held, b.available, b.next_expiry_on, b.next_expiry_points
  from loyalty.account a
  join loyalty.program p on p.program_id = a.program_id
 cross join lateral loyalty.own_balance(a.account_id) b;
comment on view loyalty_api.balance is
$$Balances

What can be spent now, what is held, and what lapses next. A member sees one row, their own; administrators those of their program: filter with ?account_id=eq.… or ?member_no=eq.… .$$;
comment on column loyalty_api.balance.account_id is 'Number of the account.';
comment on column loyalty_api.balance.member_no is 'The member''s number in the program.';
comment on column loyalty_api.balance.program is 'Code of the program.';
comment on column loyalty_api.balance.point_name is 'What the program calls its points.';
comment on column loyalty_api.balance.balance is 'Points booked, held and not yet booked breakage included.';
comment on column loyalty_api.balance.held is 'Points set aside by open holds.';
comment on column loyalty_api.balance.available is 'Points that can be spent now.';
comment on column loyalty_api.balance.next_expiry_on is 'Last day of the available points that lapse next.';
comment on column loyalty_api.balance.next_expiry_points is 'How many lapse then.';

create view loyalty_api.lot with (security_invoker = true) as
select a.account_id, l.expires_on, l.granted, l.remaining, l.held, l.spendable, l.funding
  from loyalty.account a
 cross join lateral loyalty.own_lots(a.account_id) l;
comment on view loyalty_api.lot is
$$Lots

Points by the day they lapse, in the order they are spent.$$;
comment on column loyalty_api.lot.account_id is 'Number of the account.';
comment on column loyalty_api.lot.expires_on is 'Last day they can be spent; null when they never lapse.';
comment on column loyalty_api.lot.granted is 'Points that the lot got.';
comment on column loyalty_api.lot.remaining is 'Points left in it.';
comment on column loyalty_api.lot.held is 'Points of these set aside by open holds.';
comment on column loyalty_api.lot.spendable is 'Whether its last day has not passed.';
comment on column loyalty_api.lot.funding is 'Who pays for them.';

create view loyalty_api.statement with (security_invoker = true) as
select l.account_id, l.operation_id, l.entry, l.occurred_at, l.day, l.kind, l.points, l.balance,
       l.held, loyalty.csv_cell(l.reason) as reason, l.granted_on, l.expires_on, l.refers_to,
       l.other_account_id, loyalty.csv_cell(l.idempotency_key) as idempotency_key
  from loyalty.statement_line l;
comment on view loyalty_api.statement is
$$Statement

The journal: one line for every change. Filter (?kind=eq.spend, ?day=gte.2025-01-01), sort (?order=entry.desc), page (?limit=20&offset=40, or Range), or take it as CSV (Accept: text/csv).$$;
comment on column loyalty_api.statement.account_id is 'Number of the account.';
comment on column loyalty_api.statement.operation_id is 'Number to refund, capture or release it by.';
comment on column loyalty_api.statement.entry is 'Number of the line within the account, from 1.';
comment on column loyalty_api.statement.occurred_at is 'When it was booked.';
comment on column loyalty_api.statement.day is 'The day of that, in the program''s time zone.';
comment on column loyalty_api.statement.kind is 'What it records.';
comment on column loyalty_api.statement.points is 'Change of the balance.';
comment on column loyalty_api.statement.balance is 'Balance after it.';
comment on column loyalty_api.statement.held is 'Change of the points held.';
comment on column loyalty_api.statement.reason is 'Why, in the caller''s words.';
comment on column loyalty_api.statement.granted_on is 'Of a grant, the day that counts for its terms.';
comment on column loyalty_api.statement.expires_on is 'Last day of the lot touched, where it was one that lapses.';
comment on column loyalty_api.statement.refers_to is 'The operation that this one is about.';
comment on column loyalty_api.statement.other_account_id is 'Other account of a transfer.';
comment on column loyalty_api.statement.idempotency_key is 'Key of the call.';

create function loyalty_api.hold(
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
        loyalty_private.api_account(account_id, '{loyalty_member,loyalty_admin,loyalty_operator}'),
        loyalty_private.api_points(points), expires_in, reason, loyalty_private.api_key(idempotency_key));
begin
    -- whose key came first would release what the shop counts on
    if loyalty_private.api_role() <> 'loyalty_member'
       and loyalty_private.is_members_hold(placed.account_id, placed.operation_id) then
        perform loyalty_private.raise('LY003', 'key_reused', 'the idempotency key was used for another request',
            'The member''s own.', 'Use a new key.', 'idempotency_key');
    end if;
    return loyalty_private.audit_operation('hold', placed);
end
$$;
comment on function loyalty_api.hold(numeric, interval, text, text, bigint) is
$$Hold points

Sets points aside, to be captured or released by the receipt's operation_id; after expires_in they are free again. 402 LY001 when not so many are available. 403 LY004 when the account is not open; 400 22023 for a time that cannot be; 409 LY003 when the key was used for something else.

- `points`: how many, a whole number from 1.
- `expires_in`: for how long, such as "15 minutes" (which it is when left out) or "3 days"; up to a year.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.
- `account_id`: whose points. Members leave it out; administrators must give it.$$;

create function loyalty_api.capture(
    operation_id bigint,
    points numeric default null,
    reason text default null,
    idempotency_key text default null,
    account_id bigint default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    account_id := loyalty_private.api_account(account_id, '{loyalty_member,loyalty_admin,loyalty_operator}');
    perform loyalty_private.api_own_hold(account_id, operation_id);
    return loyalty_private.audit_operation('capture', loyalty.capture(
        account_id, operation_id, loyalty_private.api_points(points), reason, loyalty_private.api_key(idempotency_key)));
end
$$;
comment on function loyalty_api.capture(bigint, numeric, text, text, bigint) is
$$Capture a hold

Spends what the hold set aside, all of it or fewer points; the rest can be spent again. Answers with a receipt. 409 LY006 when the hold is over. 400 22023 when it is no hold, or was of fewer points; 404 LY002 when there is no such operation. Members capture only holds that they placed.

- `operation_id`: number of the hold, from its receipt.
- `points`: how many of the points held; all when left out.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.
- `account_id`: whose points. Members leave it out; administrators must give it.$$;

create function loyalty_api.release(
    operation_id bigint,
    reason text default null,
    idempotency_key text default null,
    account_id bigint default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    account_id := loyalty_private.api_account(account_id, '{loyalty_member,loyalty_admin,loyalty_operator}');
    perform loyalty_private.api_own_hold(account_id, operation_id);
    return loyalty_private.audit_operation('release', loyalty.release(
        account_id, operation_id, reason, loyalty_private.api_key(idempotency_key)));
end
$$;
comment on function loyalty_api.release(bigint, text, text, bigint) is
$$Release a hold

Its points can be spent again. Answers with a receipt. 409 LY006 when the hold is over already. 400 22023 when it is no hold; 404 LY002 when there is no such operation. Members release only holds that they placed.

- `operation_id`: number of the hold, from its receipt.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.
- `account_id`: whose points. Members leave it out; administrators must give it.$$;

create function loyalty_api.refund(
    account_id bigint,
    operation_id bigint,
    points numeric default null,
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty_private.audit_operation('refund', loyalty.refund(
        loyalty_private.api_account(account_id, '{loyalty_admin,loyalty_operator}'),
        operation_id, loyalty_private.api_points(points), reason, loyalty_private.api_key(idempotency_key)));
end
$$;
comment on function loyalty_api.refund(bigint, bigint, numeric, text, text) is
$$Refund a spend

Gives points of a spend or capture back to the lots they came from, with the day they lapse, and answers with a receipt. 400 22023 when it is no spend or capture, or has not so many left; 404 LY002 when there is no such operation; 409 LY003 when the key was used for something else. Administrators only.

- `account_id`: whose points.
- `operation_id`: number of the spend or capture, from its receipt or the statement.
- `points`: how many; all that is left of it when left out.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.$$;

create function loyalty_api.revoke(
    account_id bigint,
    operation_id bigint,
    points numeric default null,
    policy text default 'clamp',
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty_private.audit_operation('revoke', loyalty.revoke(
        loyalty_private.api_account(account_id, '{loyalty_admin,loyalty_operator}'),
        operation_id, loyalty_private.api_points(points), policy, reason, loyalty_private.api_key(idempotency_key)));
end
$$;
comment on function loyalty_api.revoke(bigint, bigint, numeric, text, text, text) is
$$Revoke a grant

Takes a grant back and answers with a receipt. What was spent of it the policy decides. 400 22023 when it is no grant, or has not so many left; 404 LY002 when there is no such operation; 409 LY003 when the key was used for something else. Administrators only.

- `account_id`: whose points.
- `operation_id`: number of the grant, from its receipt or the statement.
- `points`: how many; all that is left of it when left out.
- `policy`: what becomes of points already spent: "clamp" (when left out) leaves them, "debt" books a debt that later grants repay.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.$$;

create function loyalty_api.transfer(
    points numeric,
    to_account bigint default null,
    to_member_no text default null,
    reason text default null,
    idempotency_key text default null,
    account_id bigint default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    account_id := loyalty_private.api_account(account_id, '{loyalty_member,loyalty_admin,loyalty_operator}');
    if (to_account is null) = (to_member_no is null) then
        perform loyalty_private.raise('22023', 'receiver_missing', 'one of to_account and to_member_no is needed', null,
            'Name the receiver by account or by member number.', 'to_account');
    end if;
    -- the receiver is looked for in the sender's program only
    select a.account_id into to_account
      from loyalty.account s
      join loyalty.account a on a.program_id = s.program_id
     where s.account_id = transfer.account_id
       and (a.account_id = transfer.to_account or a.member_no = transfer.to_member_no);
    if to_account is null then
        perform loyalty_private.raise('LY002', 'no_such_receiver', 'no such account', 'The program has no such receiver.',
            'Check to_account or to_member_no.', 'to_account');
    end if;
    return loyalty_private.audit_operation('transfer', loyalty.transfer(
        account_id, to_account, loyalty_private.api_points(points), reason, loyalty_private.api_key(idempotency_key)));
end
$$;
comment on function loyalty_api.transfer(numeric, bigint, text, text, text, bigint) is
$$Transfer points

Moves points to another member of the program, soonest expiry first; they keep the day they lapse. Answers with the sender's receipt. 402 LY001 when not so many are available. 403 LY004 when an account is not open; 404 LY002 when there is no such receiver; 400 22023 without one, or to oneself; 409 LY003 when the key was used for something else.

- `points`: how many, a whole number from 1.
- `to_account`: the receiver, by account number.
- `to_member_no`: or the receiver, by member number.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.
- `account_id`: the sender. Members leave it out; administrators must give it.$$;

create function loyalty_api.spend_many(items jsonb, program text default null) returns table (
    item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
    points bigint, balance bigint, available bigint, occurred_at timestamptz,
    error_code text, error text, error_detail text, error_reason text, error_field text
)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    within integer;
begin
    if loyalty_private.api_role() <> all ('{loyalty_admin,loyalty_operator}') then
        perform loyalty_private.api_refuse('Ask as an administrator.');
    end if;
    within := loyalty_private.api_program(program);
    perform loyalty_private.check_keys(array(
        select i ->> 'idempotency_key'
          from jsonb_array_elements(case jsonb_typeof(spend_many.items) when 'array' then spend_many.items else '[]' end) i));
    perform loyalty_private.audit('spend_many', within, details => jsonb_build_object('items',
        case jsonb_typeof(items) when 'array' then jsonb_array_length(items) end));
    return query
    select o.*
      from loyalty_private.spend_items(items::text, within) o;
end
$$;
comment on function loyalty_api.spend_many(jsonb, text) is
$$Spend points of many

Up to 10,000 spends in one call. Each item has its own outcome, in order: the fields of a receipt, or error_code and error; the good ones are booked whatever the others do. 400 22023 when items is no such array. Administrators only.

- `items`: an array of objects with account_id, points and, if wanted, reason, idempotency_key. Give each item an idempotency_key, and the whole call can be repeated.
- `program`: code of the program that the accounts are of. Only an operator's token leaves it open.$$;

-- SQL, not plpgsql, which refuses an argument and a column of the same name
create function loyalty_api.explain_spend(points numeric, account_id bigint default null)
    returns table (step integer, expires_on date, points bigint, remaining bigint)
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select e.*
      from loyalty.explain_spend(
               loyalty_private.api_account($2, '{loyalty_member,loyalty_admin,loyalty_operator}'),
               loyalty_private.api_points($1)) e;
end;
comment on function loyalty_api.explain_spend(numeric, bigint) is
$$Explain a spend

Which lots a spend of so many points would take now, in order, and what would remain in each. Spends nothing; refuses what a spend would refuse: 402 LY001 when not so many are available, 403 LY004 when the account is not open, 400 22023 for points that cannot be.

- `points`: how many, a whole number from 1.
- `account_id`: whose points. Members leave it out; administrators must give it.$$;

create function loyalty_api.open_account(member_no text, program text default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    opened bigint := loyalty.open_account(loyalty_private.api_admin_program(program), member_no);
begin
    perform loyalty_private.audit('open_account', loyalty_private.account_program_id(opened), null, opened);
    return opened;
end
$$;
comment on function loyalty_api.open_account(text, text) is
$$Open an account

Opens a member's account and answers with its account_id; the same one when called again. 400 22023 for a number that is empty or too long. Administrators only.

- `member_no`: the member's number in the program, up to 100 characters.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
