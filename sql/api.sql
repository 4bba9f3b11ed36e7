-- What PostgREST exposes. The functions look at who asks, and leave the rest to the ledger's.

create function loyalty.claim(name text) returns text
    language sql stable parallel safe set search_path = pg_catalog, pg_temp
    -- claims are '' (not null) on a connection that had some before
    return nullif(current_setting('request.jwt.claims', true), '')::json ->> name;
comment on function loyalty.claim is 'A claim of the request''s token; null without one.';

create function loyalty.claim_account_id() returns bigint
    language sql stable parallel safe set search_path = pg_catalog, pg_temp
    return case when loyalty.claim('account_id') ~ '^[0-9]{1,18}$'
                then loyalty.claim('account_id')::bigint end;
comment on function loyalty.claim_account_id is 'The account of the member that the token is for.';

create function loyalty.claim_program_id() returns integer
    language sql stable parallel safe security definer set search_path = pg_catalog, pg_temp
    return (select p.program_id from loyalty.program p where p.code = loyalty.claim('program'));
comment on function loyalty.claim_program_id is 'The program that the token is for.';

create function loyalty.api_role() returns text
    language sql stable parallel safe set search_path = pg_catalog, pg_temp
    -- the role of the request; inside a definer's function current_user is the definer
    return coalesce(nullif(current_setting('role', true), 'none'), session_user::text);
comment on function loyalty.api_role is 'The database role that asks.';

create function loyalty.api_refuse(wanted text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty.api_role() = 'loyalty_anon' then
        perform loyalty.raise('LY009', 'not signed in', null,
            'Send a token: Authorization: Bearer … .');
    end if;
    perform loyalty.raise('LY010', 'not allowed',
        format('Role %s may not do this.', loyalty.api_role()), wanted);
end
$$;
comment on function loyalty.api_refuse is 'LY009 to who is not signed in, LY010 to who is.';

create function loyalty.api_program(program text default null) returns integer
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    claimed text := loyalty.claim('program');
begin
    if loyalty.api_role() = 'loyalty_operator' then
        program := coalesce(program, claimed);
        return case when program is not null then loyalty.program_id(program) end;
    end if;
    if loyalty.claim_program_id() is null then
        perform loyalty.raise('LY010', 'not allowed', 'The token names no program of this database.',
            'Ask for a token with the claim program.');
    end if;
    if program <> claimed then
        perform loyalty.raise('LY010', 'not allowed', 'The token is for another program.', 'Leave program out.');
    end if;
    return loyalty.claim_program_id();
end
$$;
comment on function loyalty.api_program is
    'The program of a request; LY010 when the token has none. Null, which is all of them, for an operator who names none.';

create function loyalty.api_account(account_id bigint, roles text[]) returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    asking text := loyalty.api_role();
    program integer;
begin
    if asking <> all (roles) then
        perform loyalty.api_refuse(format('Ask as one of: %s.', array_to_string(roles, ', ')));
    end if;
    if asking = 'loyalty_member' then
        if loyalty.claim_account_id() is null then
            perform loyalty.raise('LY010', 'not allowed', 'The token names no account.',
                'Ask for a token with the claims program and account_id.');
        end if;
        if account_id <> loyalty.claim_account_id() then
            perform loyalty.raise('LY010', 'not allowed', 'A member''s token is for its own account.',
                'Leave account_id out.');
        end if;
        account_id := loyalty.claim_account_id();
        if not exists (
               select from loyalty.account a
                where a.account_id = api_account.account_id
                  and a.program_id = loyalty.claim_program_id()) then
            perform loyalty.raise('LY010', 'not allowed',
                'The token''s program has no account of the token''s number.', 'Ask for a new token.');
        end if;
        return account_id;
    elsif account_id is null then
        perform loyalty.raise('22004', 'account_id must not be null', null, 'Say whose points.');
    end if;
    program := case when asking <> 'loyalty_operator' then loyalty.api_program() end;
    if not exists (
           select from loyalty.account a
            where a.account_id = api_account.account_id
              and (program is null or a.program_id = program)) then
        perform loyalty.raise('LY002', 'no such account',
            format('The program has no account %s.', account_id),
            'The account_id of a member is in /balance.');
    end if;
    return account_id;
end
$$;
comment on function loyalty.api_account is
    'The account that a request is about, once it is sure that the asking role may.';

create function loyalty.api_key(idempotency_key text) returns text
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
    return coalesce(idempotency_key, header);
end
$$;
comment on function loyalty.api_key is 'The idempotency key of a request: argument or header.';

create function loyalty.api_own_hold(account_id bigint, operation_id bigint) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty.api_role() = 'loyalty_member' and exists (
           select from loyalty.entry e
            where e.account_id = api_own_hold.account_id
              and e.entry = (api_own_hold.operation_id & 16777215)
              and e.kind = 'hold'
              and e.actor !~ '^loyalty_member(:|$)') then
        perform loyalty.raise('LY010', 'not allowed', 'The hold was placed by somebody else.',
            'Only who placed it, or an administrator, captures or releases it.');
    end if;
end
$$;
comment on function loyalty.api_own_hold is 'Keeps members from ending holds that a shop placed.';

create function loyalty.api_points(points numeric) returns bigint
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
    return points;
end
$$;
comment on function loyalty.api_points is
    'Points of a request, which arrive as numeric so that fractions and what no bigint holds get an answer of ours.';

create function loyalty.api_day(name text, day text) returns date
    language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    -- no 'tomorrow' and the like: they would not go by the ledger's clock
    if day ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' then
        begin
            return day::date;
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
comment on function loyalty.api_day is
    'A day of a request, which arrives as text so that one that does not exist gets an answer of ours.';

create function loyalty.pre_request() returns void
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    asking text := loyalty.api_role();
    path text := current_setting('request.path', true);
    reads boolean := current_setting('request.method', true) in ('GET', 'HEAD');
begin
    -- the OpenAPI page is for everybody
    if path = '/' then
        return;
    end if;
    if asking = 'loyalty_anon' then
        perform loyalty.api_refuse(null);
    end if;
    -- an operator works also while a program is closed
    if asking <> 'loyalty_operator' then
        perform loyalty.check_service_hours(loyalty.claim_program_id());
    end if;
    if path like '/rpc/%' then
        -- a stored answer would be found without writing, and a GET must not depend on that
        if reads and exists (
               select from pg_catalog.pg_proc f
                where f.pronamespace = 'loyalty_api'::regnamespace
                  and f.proname = substr(path, 6)
                  and f.provolatile = 'v') then
            raise exception using errcode = 'read_only_sql_transaction',
                message = format('GET may not change anything, and %s does', substr(path, 6)),
                hint = 'Send it as POST, with the arguments as JSON.';
        end if;
    elsif path = '/member_upload' and current_setting('request.method', true) = 'POST' then
        perform loyalty.api_admin_program() where asking <> 'loyalty_operator';
    elsif not reads then
        perform loyalty.api_refuse('It can only be read, with GET. Points change by POST /rpc/… .');
    elsif not has_table_privilege(asking, to_regclass(format('loyalty_api.%I', substr(path, 2))), 'select') then
        perform loyalty.api_refuse('Ask as a member or administrator.');
    elsif asking = 'loyalty_member' then
        perform loyalty.api_account(null, '{loyalty_member}');
    elsif asking <> 'loyalty_operator' then
        perform loyalty.api_program();
    end if;
end
$$;
comment on function loyalty.pre_request is
    'For PostgREST''s db-pre-request: answers what may not be asked with LY009, LY010 or 405 and a hint, where PostgREST alone would give none.';

create function loyalty.api_arguments(function_name text) returns void
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
        format('It takes %s; needed: %s.', taken, needed), 'Send a JSON object of these and no others.');
end
$$;
comment on function loyalty.api_arguments is
    'Refuses arguments that are missing or unknown. PostgREST calls a function by the names that the request gives, and where none fits the one of that name with a lone JSON argument, which comes here.';

-- Readings for the views. The ledger's own see every account, so HTTP roles may not call
-- them; these look at who asks first: the same rule as the policies on loyalty.account.
create function loyalty.api_may_read(account_id bigint) returns boolean
    language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
declare
    asking text := loyalty.api_role();
begin
    if asking not in ('loyalty_member', 'loyalty_admin') then
        return pg_has_role(asking, 'loyalty_operator', 'member');
    end if;
    return (asking = 'loyalty_admin' or account_id = loyalty.claim_account_id())
       and exists (
               select from loyalty.account a
                where a.account_id = api_may_read.account_id
                  and a.program_id = loyalty.claim_program_id());
end
$$;
comment on function loyalty.api_may_read is 'Whether the account is one that the asking role may see.';

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
     where loyalty.api_may_read(own_balance.account_id);
end;
comment on function loyalty.own_balance is
    'loyalty.balance of an account that the asking role may see; nulls of any other.';

create function loyalty.own_lots(account_id bigint)
    returns table (expires_on date, granted bigint, remaining bigint, held bigint, spendable boolean, funding text)
    language sql stable parallel safe security definer set search_path = pg_catalog, pg_temp
begin atomic
    select l.expires_on, l.granted, l.remaining, l.held, l.spendable, l.funding
      from loyalty.lots(own_lots.account_id) l
     where loyalty.api_may_read(own_lots.account_id);
end;
comment on function loyalty.own_lots is
    'loyalty.lots of an account that the asking role may see; none of any other.';

create function loyalty.csv_cell(value text) returns text
    language sql stable parallel safe
    return case when value ~ E'^[=+@\t\r-]'
                 and nullif(current_setting('request.headers', true), '')::json ->> 'accept' ~ 'text/csv'
                then '''' || value else value end;
comment on function loyalty.csv_cell is
    'A text that others wrote, for a view: where CSV is asked for, with an apostrophe before what a spreadsheet would run as a formula.';

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

create function loyalty_api.spend(
    points numeric,
    reason text default null,
    idempotency_key text default null,
    account_id bigint default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.spend_fifo(
        loyalty.api_account(account_id, '{loyalty_member,loyalty_admin,loyalty_operator}'),
        loyalty.api_points(points), reason, loyalty.api_key(idempotency_key));
end
$$;
comment on function loyalty_api.spend(numeric, text, text, bigint) is
$$Spend points

Takes points, soonest expiry first, and answers with a receipt. 402 LY001 when not so many are available.

- `points`: how many, a whole number from 1.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.
- `account_id`: whose points. Members leave it out; administrators must give it.$$;

create function loyalty_api.hold(
    points numeric,
    expires_in interval default '15 minutes',
    reason text default null,
    idempotency_key text default null,
    account_id bigint default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.hold(
        loyalty.api_account(account_id, '{loyalty_member,loyalty_admin,loyalty_operator}'),
        loyalty.api_points(points), expires_in, reason, loyalty.api_key(idempotency_key));
end
$$;
comment on function loyalty_api.hold(numeric, interval, text, text, bigint) is
$$Hold points

Sets points aside, to be captured or released by the receipt's operation_id; after expires_in they are free again. 402 LY001 when not so many are available.

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
    account_id := loyalty.api_account(account_id, '{loyalty_member,loyalty_admin,loyalty_operator}');
    perform loyalty.api_own_hold(account_id, operation_id);
    return loyalty.capture(
        account_id, operation_id, loyalty.api_points(points), reason, loyalty.api_key(idempotency_key));
end
$$;
comment on function loyalty_api.capture(bigint, numeric, text, text, bigint) is
$$Capture a hold

Spends what the hold set aside, all of it or fewer points; the rest can be spent again. Answers with a receipt. 409 LY006 when the hold is over. Members capture only holds that they placed.

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
    account_id := loyalty.api_account(account_id, '{loyalty_member,loyalty_admin,loyalty_operator}');
    perform loyalty.api_own_hold(account_id, operation_id);
    return loyalty.release(account_id, operation_id, reason, loyalty.api_key(idempotency_key));
end
$$;
comment on function loyalty_api.release(bigint, text, text, bigint) is
$$Release a hold

Its points can be spent again. Answers with a receipt. 409 LY006 when the hold is over already. Members release only holds that they placed.

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
    return loyalty.refund(
        loyalty.api_account(account_id, '{loyalty_admin,loyalty_operator}'),
        operation_id, loyalty.api_points(points), reason, loyalty.api_key(idempotency_key));
end
$$;
comment on function loyalty_api.refund(bigint, bigint, numeric, text, text) is
$$Refund a spend

Gives points of a spend or capture back to the lots they came from, with the day they lapse, and answers with a receipt. Administrators only.

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
    return loyalty.revoke(
        loyalty.api_account(account_id, '{loyalty_admin,loyalty_operator}'),
        operation_id, loyalty.api_points(points), policy, reason, loyalty.api_key(idempotency_key));
end
$$;
comment on function loyalty_api.revoke(bigint, bigint, numeric, text, text, text) is
$$Revoke a grant

Takes a grant back and answers with a receipt. Administrators only.

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
    account_id := loyalty.api_account(account_id, '{loyalty_member,loyalty_admin,loyalty_operator}');
    if (to_account is null) = (to_member_no is null) then
        perform loyalty.raise('22023', 'one of to_account and to_member_no is needed', null,
            'Name the receiver by account or by member number.');
    end if;
    -- the receiver is looked for in the sender's program only
    select a.account_id into to_account
      from loyalty.account s
      join loyalty.account a on a.program_id = s.program_id
     where s.account_id = transfer.account_id
       and (a.account_id = transfer.to_account or a.member_no = transfer.to_member_no);
    if to_account is null then
        perform loyalty.raise('LY002', 'no such account', 'The program has no such receiver.',
            'Check to_account or to_member_no.');
    end if;
    return loyalty.transfer(
        account_id, to_account, loyalty.api_points(points), reason, loyalty.api_key(idempotency_key));
end
$$;
comment on function loyalty_api.transfer(numeric, bigint, text, text, text, bigint) is
$$Transfer points

Moves points to another member of the program, soonest expiry first; they keep the day they lapse. Answers with the sender's receipt. 402 LY001 when not so many are available.

- `points`: how many, a whole number from 1.
- `to_account`: the receiver, by account number.
- `to_member_no`: or the receiver, by member number.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.
- `account_id`: the sender. Members leave it out; administrators must give it.$$;

create function loyalty_api.grant(
    account_id bigint,
    points numeric,
    reason text default null,
    granted_on text default null,
    expires_on text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.grant(
        loyalty.api_account(account_id, '{loyalty_granter,loyalty_admin,loyalty_operator}'),
        loyalty.api_points(points), reason,
        loyalty.api_day('granted_on', granted_on), loyalty.api_day('expires_on', expires_on),
        loyalty.api_key(idempotency_key));
end
$$;
comment on function loyalty_api.grant(bigint, numeric, text, text, text, text) is
$$Grant points

Gives points to a member and answers with a receipt. Granters and administrators only.

- `account_id`: who gets them.
- `points`: how many, a whole number from 1.
- `reason`: why, in your words, up to 1,000 characters.
- `granted_on`: the day that counts for their terms, YYYY-MM-DD; today in the program's time zone when left out, and never later.
- `expires_on`: the last day they can be spent, YYYY-MM-DD; by the program's expiry policy when left out.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.$$;

create function loyalty_api.grant_many(items jsonb, program text default null) returns table (
    item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
    points bigint, balance bigint, available bigint, occurred_at timestamptz,
    error_code text, error text, error_detail text
)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    asking text := loyalty.api_role();
begin
    if asking <> all ('{loyalty_granter,loyalty_admin,loyalty_operator}') then
        perform loyalty.api_refuse('Ask as a granter or administrator.');
    end if;
    return query
    select o.*
      from loyalty.grant_items(items::text, loyalty.api_program(program)) o;
end
$$;
comment on function loyalty_api.grant_many(jsonb, text) is
$$Grant points to many

Up to 10,000 grants in one call. Each item has its own outcome, in order: the fields of a receipt, or error_code and error; the good ones are booked whatever the others do. Granters and administrators only.

- `items`: an array of objects with account_id, points and, if wanted, reason, granted_on, expires_on, idempotency_key, funding. Give each item an idempotency_key, and the whole call can be repeated.
- `program`: code of the program that the accounts are of. Only an operator's token leaves it open.$$;

create function loyalty_api.spend_many(items jsonb, program text default null) returns table (
    item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
    points bigint, balance bigint, available bigint, occurred_at timestamptz,
    error_code text, error text, error_detail text
)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    asking text := loyalty.api_role();
begin
    if asking <> all ('{loyalty_admin,loyalty_operator}') then
        perform loyalty.api_refuse('Ask as an administrator.');
    end if;
    return query
    select o.*
      from loyalty.spend_items(items::text, loyalty.api_program(program)) o;
end
$$;
comment on function loyalty_api.spend_many(jsonb, text) is
$$Spend points of many

Up to 10,000 spends in one call. Each item has its own outcome, in order: the fields of a receipt, or error_code and error; the good ones are booked whatever the others do. Administrators only.

- `items`: an array of objects with account_id, points and, if wanted, reason, idempotency_key. Give each item an idempotency_key, and the whole call can be repeated.
- `program`: code of the program that the accounts are of. Only an operator's token leaves it open.$$;

-- SQL, not plpgsql, which refuses an argument and a column of the same name
create function loyalty_api.explain_spend(points numeric, account_id bigint default null)
    returns table (step integer, expires_on date, points bigint, remaining bigint)
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select e.*
      from loyalty.explain_spend(
               loyalty.api_account($2, '{loyalty_member,loyalty_admin,loyalty_operator}'),
               loyalty.api_points($1)) e;
end;
comment on function loyalty_api.explain_spend(numeric, bigint) is
$$Explain a spend

Which lots a spend of so many points would take now, in order, and what would remain in each. Spends nothing; refuses what a spend would refuse.

- `points`: how many, a whole number from 1.
- `account_id`: whose points. Members leave it out; administrators must give it.$$;

create function loyalty_api.open_account(member_no text, program text default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    wanted integer;
begin
    if loyalty.api_role() <> all ('{loyalty_admin,loyalty_operator}') then
        perform loyalty.api_refuse('Ask as an administrator of the program.');
    end if;
    wanted := loyalty.api_program(program);
    if wanted is null then
        perform loyalty.raise('22004', 'program must not be null', null, 'Say in which program.');
    end if;
    return loyalty.open_account(
        (select p.code from loyalty.program p where p.program_id = wanted), member_no);
end
$$;
comment on function loyalty_api.open_account(text, text) is
$$Open an account

Opens a member's account and answers with its account_id; the same one when called again. Administrators only.

- `member_no`: the member's number in the program, up to 100 characters.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

-- Whatever fits no function above: answered in our words instead of PostgREST's. (Each has
-- two arguments at least, since PostgREST also takes a lone jsonb for the whole body.)
do $$
declare
    function_name text;
begin
    foreach function_name in array array[
        'spend', 'hold', 'capture', 'release', 'refund', 'revoke', 'transfer', 'grant',
        'grant_many', 'spend_many', 'explain_spend', 'open_account'
    ] loop
        execute pg_catalog.format(
            'create function loyalty_api.%1$I(json) returns void
                 language sql stable security definer set search_path = pg_catalog, pg_temp
                 return loyalty.api_arguments(%1$L);
             comment on function loyalty_api.%1$I(json) is %2$L',
            function_name, 'Tells the arguments of ' || function_name || '.');
    end loop;
end
$$;
