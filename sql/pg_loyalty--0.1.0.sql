-- pg_loyalty 0.1.0 as released. Released scripts are never edited: sql/released.sha256.
-- Roles belong to the cluster, not to the database: they may be there already, and
-- dropping the extension leaves them. None can log in until a DBA says so.
do $$
declare
    role_name text;
begin
    foreach role_name in array array[
        'loyalty_anon', 'loyalty_member', 'loyalty_family', 'loyalty_granter',
        'loyalty_admin', 'loyalty_operator', 'loyalty_authenticator', 'loyalty_relay'
    ] loop
        if not exists (select from pg_catalog.pg_roles where rolname = role_name) then
            begin
                execute pg_catalog.format('create role %I nologin noinherit', role_name);
            exception when duplicate_object or unique_violation then
                null; -- another database of the cluster was quicker
            end;
        end if;
    end loop;
end
$$;

-- PostgREST logs in as the authenticator and becomes what the token says. An operator
-- works from SQL with an operator's login, and only that way for all programs at once.
grant loyalty_anon, loyalty_member, loyalty_family, loyalty_granter, loyalty_admin, loyalty_operator
    to loyalty_authenticator;

create schema loyalty;
comment on schema loyalty is
    'Points ledger: types, tables and the functions that applications call.';

create schema loyalty_api;
comment on schema loyalty_api is
$$Points over HTTP

Balances, lots and statements of a points program, and the operations that change them. A token says who is asking: members reach their own account, family the points of who invited them, granters and administrators their program, operators everything.

Amounts are whole points. Every POST that changes the ledger takes an idempotency key, as the argument `idempotency_key` or the header `Idempotency-Key`: a repeated call with the same key gets the first answer again and changes nothing. Errors carry a code, a message, the figures in `details` and the way out in `hint`.$$;
create type loyalty.entry_kind as enum (
    'grant', 'spend', 'hold', 'capture', 'release',
    'refund', 'revoke', 'repay', 'transfer', 'expire', 'extend'
);
comment on type loyalty.entry_kind is 'What an entry of the journal records.';

create type loyalty.account_status as enum ('open', 'suspended', 'closed');
comment on type loyalty.account_status is
    'open; suspended (refuses what its holder asks for until resumed); closed for good.';

create type loyalty.receipt_lot as (
    expires_on date,
    points bigint
);
comment on type loyalty.receipt_lot is
    'Points of one lot that an operation touched; expires_on is the last day they can be spent, null when they never expire.';
comment on column loyalty.receipt_lot.expires_on is 'Last day they can be spent; null when they never expire.';
comment on column loyalty.receipt_lot.points is 'Points of the lot, never negative.';

create type loyalty.receipt as (
    operation_id bigint,
    account_id bigint,
    kind loyalty.entry_kind,
    points bigint,
    balance bigint,
    available bigint,
    occurred_at timestamptz,
    lots loyalty.receipt_lot[]
);
comment on type loyalty.receipt is
    'What an operation did: points it was about (never negative), balance and available points after it, lots touched. The same key always gets the same receipt.';
comment on column loyalty.receipt.operation_id is 'Number to refund, revoke, capture or release it by.';
comment on column loyalty.receipt.account_id is 'The account; of a transfer, the sender.';
comment on column loyalty.receipt.kind is 'What was done.';
comment on column loyalty.receipt.points is 'How many points it was about, never negative.';
comment on column loyalty.receipt.balance is 'Balance after it.';
comment on column loyalty.receipt.available is 'Points that could be spent after it.';
comment on column loyalty.receipt.occurred_at is 'When it was booked.';
comment on column loyalty.receipt.lots is 'The lots it touched, with the points of each.';

-- A named type, since a function's OUT parameters are described anew in every call.
create type loyalty.account_balance as (
    balance bigint,
    held bigint,
    available bigint,
    next_expiry_on date,
    next_expiry_points bigint
);
comment on type loyalty.account_balance is
    'What an account has: balance as booked, points held, points available, the next day on which available ones lapse, and how many.';
comment on column loyalty.account_balance.balance is 'Points booked.';
comment on column loyalty.account_balance.held is 'Points set aside by open holds.';
comment on column loyalty.account_balance.available is 'Points that can be spent.';
comment on column loyalty.account_balance.next_expiry_on is 'Last day of the available points that lapse next.';
comment on column loyalty.account_balance.next_expiry_points is 'How many lapse then.';

-- Stored as its canonical text, so it reads the same in every client and dump.
create type loyalty.expiry_policy;

create function loyalty.expiry_policy_in(cstring) returns loyalty.expiry_policy
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'loyalty_expiry_policy_in';

create function loyalty.expiry_policy_out(loyalty.expiry_policy) returns cstring
    language internal immutable strict parallel safe
    as 'textout';

create function loyalty.expiry_policy_send(loyalty.expiry_policy) returns bytea
    language internal immutable strict parallel safe
    as 'textsend';

comment on function loyalty.expiry_policy_in is 'Reads an expiry policy; 22023 for what is none.';
comment on function loyalty.expiry_policy_out is 'Writes an expiry policy, in the one way it is stored.';
comment on function loyalty.expiry_policy_send is 'Sends an expiry policy in the binary protocol: its text.';

create type loyalty.expiry_policy (
    input = loyalty.expiry_policy_in,
    output = loyalty.expiry_policy_out,
    send = loyalty.expiry_policy_send,
    like = text,
    category = 'S',
    collatable = true
);
comment on type loyalty.expiry_policy is
$$When granted points lapse, as text: 'never', 'fixed 2027-03-31', '180 days', 'end of month after 3 years', 'after 12 months of inactivity'.$$;

create cast (loyalty.expiry_policy as text) without function as implicit;
create cast (text as loyalty.expiry_policy) with inout as assignment;
create function loyalty.now() returns timestamptz
    language c stable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_now';
comment on function loyalty.now() is
    'The time that the ledger goes by: the real one, or the test clock where the setting loyalty.clock is set.';

-- For what plpgsql refuses, with the HTTP status where PostgREST asks.
create function loyalty.raise(code text, message text, detail text default null, hint text default null)
    returns void
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_raise';
comment on function loyalty.raise is
    'Raises an error of the ledger''s own: code, message, the figures, the way out. In a PostgREST request it carries its HTTP status.';
create function loyalty.is_business_day(day date, calendar text default 'JP') returns boolean
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_is_business_day';
comment on function loyalty.is_business_day is
    'Whether the day is a business day: no weekend, no public holiday, and what loyalty.calendar_day says. Days 1955 to 2099; 22023 for an unknown calendar. Holidays after next year are as the law stands; equinoxes are by astronomy until proclaimed.';

create function loyalty.next_business_day(day date, calendar text default 'JP') returns date
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_next_business_day';
comment on function loyalty.next_business_day is
    'The first business day on or after the day.';

create function loyalty.business_day_of_month(month date, day_of_month integer, calendar text default 'JP')
    returns date
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_business_day_of_month';
comment on function loyalty.business_day_of_month is
    'That day of the month that holds the date (its last day when it is shorter), rolled forward to a business day.';

create function loyalty.next_business_15th(from_day date, calendar text default 'JP') returns date
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_next_business_15th';
comment on function loyalty.next_business_15th is
    'The first 15th, each rolled forward to a business day, on or after the day: for 2025-06-01 it is 2025-06-16.';

create function loyalty.expires_on(policy loyalty.expiry_policy, granted_on date) returns date
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_expires_on';
comment on function loyalty.expires_on is
    'The last day on which points granted that day can be spent; null for never. Under an inactivity policy, when nothing happens after the day.';
create function loyalty.is_time_zone(name text) returns boolean
    language plpgsql immutable strict parallel safe
as $$
begin
    perform pg_catalog.timezone(name, '2000-01-01 00:00+00'::pg_catalog.timestamptz);
    return true;
exception when invalid_parameter_value then
    return false;
end
$$;

comment on function loyalty.is_time_zone is 'Whether PostgreSQL knows a time zone of that name.';

create table loyalty.program (
    program_id integer generated always as identity primary key,
    code text not null
        constraint program_code_is_unique unique
        constraint program_code_is_plain check (code ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
    name text not null
        constraint program_name_is_short check (char_length(name) between 1 and 200),
    point_name text not null default 'point'
        constraint program_point_name_is_short check (char_length(point_name) between 1 and 50),
    time_zone text not null default 'Asia/Tokyo'
        constraint program_time_zone_is_known check (loyalty.is_time_zone(time_zone)),
    calendar text not null default 'JP',
    expiry loyalty.expiry_policy not null default 'end of month after 3 years',
    refund_grace_days integer
        constraint program_refund_grace_is_sane check (refund_grace_days between 0 and 3660),
    created_at timestamptz not null,
    -- src/fetch.rs reads columns by number: new ones only come behind
    announces_grants boolean not null default false
);

create function loyalty.program_changed() returns trigger
    language c
    as 'MODULE_PATHNAME', 'loyalty_program_changed';
comment on function loyalty.program_changed is
    'Sessions remember the programs they read; this has them read again.';
create trigger changed after insert or update or delete or truncate on loyalty.program
    for each statement execute function loyalty.program_changed();

create table loyalty.lot_class (
    program_id integer not null references loyalty.program,
    lot_class smallint not null
        constraint lot_class_0_is_the_programs_own check (lot_class > 0),
    funding text not null
        constraint lot_class_funding_is_short check (char_length(funding) between 1 and 63),
    inactivity_months smallint
        constraint lot_class_inactivity_is_sane check (inactivity_months between 1 and 1200),
    primary key (program_id, lot_class),
    constraint lot_class_is_unique unique nulls not distinct (program_id, funding, inactivity_months)
);

create table loyalty.calendar (
    calendar text primary key
        constraint calendar_name_is_free check (calendar not in ('JP', 'none') and calendar <> ''),
    based_on text not null
        constraint calendar_base_is_built_in check (based_on in ('JP', 'none')),
    year_end_closed boolean not null default false
);

create table loyalty.calendar_day (
    calendar text not null,
    day date not null,
    is_business_day boolean not null,
    name text,
    primary key (calendar, day)
);

comment on table loyalty.program is
    'A points program of one organisation. Changing a row changes later operations only: points already granted keep their terms.';
comment on column loyalty.program.program_id is 'Number of the program within this database.';
comment on column loyalty.program.code is 'What calls and tokens name the program by.';
comment on column loyalty.program.name is 'What people call the program.';
comment on column loyalty.program.point_name is 'What the program calls its points: point, coin, mile.';
comment on column loyalty.program.time_zone is 'Where its days begin and end, as an IANA name.';
comment on column loyalty.program.calendar is 'Its business days: JP, none, or a row of loyalty.calendar.';
comment on column loyalty.program.expiry is 'When points granted without a day of their own lapse.';
comment on column loyalty.program.refund_grace_days is
    'Refunded points whose last day has passed: null forfeits them (booked as breakage), a number makes them spendable for so many days more.';
comment on column loyalty.program.created_at is 'When the program was created.';
comment on column loyalty.program.announces_grants is
    'Whether members are told of points they receive; set by loyalty.set_notice.';

comment on table loyalty.lot_class is
    'What lots of one class share: who funds them, and whether inactivity lets them lapse. Class 0, without a row, is the program''s own with a fixed last day.';
comment on column loyalty.lot_class.program_id is 'The program.';
comment on column loyalty.lot_class.lot_class is 'Number of the class within the program, from 1.';
comment on column loyalty.lot_class.funding is 'Who pays for these points.';
comment on column loyalty.lot_class.inactivity_months is
    'Months without activity after which the lot lapses; null when its last day is fixed.';

comment on table loyalty.calendar is
    'Business calendars of your own, on top of the built-in ones: JP (Japan''s public holidays) and none (weekends only).';
comment on column loyalty.calendar.calendar is 'Its name.';
comment on column loyalty.calendar.based_on is 'The built-in calendar whose holidays it has: JP or none.';
comment on column loyalty.calendar.year_end_closed is 'Whether 31 December to 3 January are closed, as banks are.';

comment on table loyalty.calendar_day is
    'Days that a calendar, built-in ones included, opens or closes against its rules: a new law, a closure of the company, another country''s holidays. A calendar also takes the days of the built-in one that it is based on.';
comment on column loyalty.calendar_day.calendar is 'The calendar, built-in or of loyalty.calendar.';
comment on column loyalty.calendar_day.day is 'The day.';
comment on column loyalty.calendar_day.is_business_day is 'Whether it is a business day.';
comment on column loyalty.calendar_day.name is 'Why: the name of the holiday or closure.';

create function loyalty.check_calendar(calendar text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    -- any day will do: an unknown calendar is refused with the list of those there are
    perform loyalty.is_business_day('2000-01-01', calendar);
end
$$;
comment on function loyalty.check_calendar is 'Refuses an unknown calendar.';

create function loyalty.create_program(
    code text,
    name text,
    point_name text default 'point',
    time_zone text default 'Asia/Tokyo',
    calendar text default 'JP',
    expiry loyalty.expiry_policy default 'end of month after 3 years',
    refund_grace_days integer default null
) returns loyalty.program
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    created loyalty.program;
begin
    if code is null or name is null then
        perform loyalty.raise('22004', 'code and name must not be null', null,
            'Pass code => …, name => … .');
    end if;
    perform loyalty.check_calendar(calendar);
    insert into loyalty.program
           (code, name, point_name, time_zone, calendar, expiry, refund_grace_days, created_at)
    values (create_program.code, create_program.name, create_program.point_name,
            create_program.time_zone, create_program.calendar, create_program.expiry,
            create_program.refund_grace_days, loyalty.now())
    returning * into created;
    perform loyalty.plan_schedule(created.program_id, 'expire');
    return created;
end
$$;
comment on function loyalty.create_program is
    'Creates a points program. expiry applies to grants without a day of their own; refund_grace_days null forfeits refunded points whose day has passed. 23505 when the code is taken, 23514 or 22023 for a bad value.';

create function loyalty.program_id(code text) returns integer
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    found_id integer;
begin
    select p.program_id into found_id from loyalty.program p where p.code = program_id.code;
    if found_id is null then
        perform loyalty.raise('LY002', 'no such program', pg_catalog.format('%L given.', code),
            'select code from loyalty.program lists them.');
    end if;
    return found_id;
end
$$;
comment on function loyalty.program_id is 'Number of the program with that code; LY002 when there is none.';

create function loyalty.today(program text) returns date
    language sql stable security definer set search_path = pg_catalog, pg_temp
    return (
        select pg_catalog.timezone(p.time_zone, loyalty.now())::date
          from loyalty.program p
         where p.program_id = loyalty.program_id(program)
    );
comment on function loyalty.today is 'The date in the program''s time zone.';

create function loyalty.create_calendar(
    calendar text,
    based_on text default 'JP',
    year_end_closed boolean default false
) returns loyalty.calendar
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    insert into loyalty.calendar (calendar, based_on, year_end_closed)
    values (create_calendar.calendar, create_calendar.based_on, create_calendar.year_end_closed)
    returning *;
end;
comment on function loyalty.create_calendar is
    'Creates a business calendar on top of a built-in one (JP or none), with the banks'' year end closed if asked.';

create function loyalty.set_calendar_day(
    calendar text,
    day date,
    is_business_day boolean,
    name text default null
) returns loyalty.calendar_day
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    written loyalty.calendar_day;
begin
    perform loyalty.check_calendar(set_calendar_day.calendar);
    insert into loyalty.calendar_day as d (calendar, day, is_business_day, name)
    values (set_calendar_day.calendar, set_calendar_day.day,
            set_calendar_day.is_business_day, set_calendar_day.name)
        on conflict (calendar, day) do update
       set is_business_day = excluded.is_business_day, name = excluded.name
    returning d.* into written;
    return written;
end
$$;
comment on function loyalty.set_calendar_day is
    'Opens or closes a day of a calendar, built-in ones included: a new law, a closure of the company. Delete the row of loyalty.calendar_day to undo it.';

create function loyalty.lot_class_of(program_id integer, funding text, inactivity_months integer)
    returns smallint
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known smallint;
    wanted_funding text := coalesce(lot_class_of.funding, 'program');
begin
    if wanted_funding = 'program' and lot_class_of.inactivity_months is null then
        return 0;
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
comment on function loyalty.lot_class_of is
    'Number of the lot class with that funding and inactivity, created at its first use; 0 is the program''s own.';
-- The ledger is three tables. An account says who; its wallet is the state, one row that
-- every operation locks, reads and rewrites in place (HOT: nothing an operation changes is
-- indexed); the journal says what happened, and is only ever added to.

create table loyalty.account (
    account_id bigint generated always as identity primary key,
    program_id integer not null references loyalty.program,
    member_no text not null
        constraint account_member_no_is_short check (char_length(member_no) between 1 and 100),
    opened_at timestamptz not null,
    constraint account_member_no_is_unique unique (program_id, member_no),
    -- operation ids carry the account in their upper bits
    constraint account_id_fits_operation_id check (account_id between 1 and 549755813887)
);
create index account_by_program on loyalty.account (program_id, account_id);

-- PostgreSQL reads a constraint's expression anew in every statement, and each wants to be
-- short: what a row must keep is one function a table.
create function loyalty.entry_is_sound(
    entry integer,
    kind loyalty.entry_kind,
    points bigint,
    balance bigint
) returns boolean
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_entry_is_sound';
comment on function loyalty.entry_is_sound is
    'Whether an entry is numbered from 1, leaves a balance that is not negative, and moves points the way its kind does.';

create table loyalty.entry (
    account_id bigint not null,
    points bigint not null,
    balance bigint not null,
    occurred_at timestamptz not null,
    entry integer not null,
    kind loyalty.entry_kind not null,
    expires_on date,
    granted_on date,
    request_hash integer,
    refers_to integer,
    available bigint,
    held bigint,
    debt bigint,
    other_account_id bigint,
    other_entry integer,
    actor text not null,
    reason text,
    idempotency_key text,
    lot_expires_on date[],
    lot_points bigint[],
    lot_class smallint[],
    hold_until timestamptz,
    primary key (account_id, entry),
    constraint entry_sign_fits_kind check (loyalty.entry_is_sound(entry, kind, points, balance))
);
-- Eight bytes a key instead of the key; entry_by_key is probed with the key itself besides.
create unique index entry_by_key on loyalty.entry
    (account_id, hashtextextended(idempotency_key, 0)) where idempotency_key is not null;
create index entry_by_reference on loyalty.entry
    (account_id, refers_to) where refers_to is not null;

create function loyalty.wallet_is_sound(
    balance bigint,
    debt bigint,
    lot_expires_on date[],
    lot_granted bigint[],
    lot_remaining bigint[],
    lot_class smallint[],
    next_expiry_on date
) returns boolean
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_wallet_is_sound';
comment on function loyalty.wallet_is_sound is
    'Whether the lots of a wallet are in spend order, none holds less than nothing or more than it got, and together they are the balance (laws 1 and 2).';

create table loyalty.wallet (
    account_id bigint primary key references loyalty.account,
    balance bigint not null default 0,
    debt bigint,
    program_id integer not null,
    status loyalty.account_status not null default 'open',
    first_entry integer,
    last_entry integer not null default 0,
    next_expiry_on date,
    lot_expires_on date[] not null default '{}',
    lot_granted bigint[] not null default '{}',
    lot_remaining bigint[] not null default '{}',
    lot_class smallint[],
    hold_entry integer[],
    hold_until timestamptz[],
    constraint wallet_lots_are_the_balance check (
        loyalty.wallet_is_sound(
            balance, debt, lot_expires_on, lot_granted, lot_remaining, lot_class, next_expiry_on)),
    -- Set once, with the first entry. It makes a dump load the journal before the wallets,
    -- which is how the guard tells a restore from a forgery.
    constraint wallet_follows_journal foreign key (account_id, first_entry)
        references loyalty.entry (account_id, entry)
) with (fillfactor = 75);

create function loyalty.guard_ledger() returns trigger
    language c
    as 'MODULE_PATHNAME', 'loyalty_guard_ledger';
comment on function loyalty.guard_ledger is
    'Refuses what is not an operation''s doing with LY005, but for COPY into an empty ledger, which is how a dump is restored.';

create trigger guard before insert or update or delete or truncate on loyalty.account
    for each statement execute function loyalty.guard_ledger();
create trigger guard before insert or update or delete or truncate on loyalty.entry
    for each statement execute function loyalty.guard_ledger();
create trigger guard before insert or update or delete or truncate on loyalty.wallet
    for each statement execute function loyalty.guard_ledger();

comment on table loyalty.account is 'Whose points: a member''s place in a program.';
comment on column loyalty.account.account_id is 'Number of the account, over all programs.';
comment on column loyalty.account.program_id is 'Its program.';
comment on column loyalty.account.member_no is 'The member''s number in the program.';
comment on column loyalty.account.opened_at is 'When it was opened.';

comment on table loyalty.entry is
    'The journal: one line for every change of an account, numbered without gaps, only ever added to. loyalty.statement reads better; loyalty.journal shows both sides.';
comment on column loyalty.entry.account_id is 'The account.';
comment on column loyalty.entry.points is 'Change of the balance: above zero in, below zero out, zero where only a hold or a debt changed.';
comment on column loyalty.entry.balance is 'Balance of the account after the entry.';
comment on column loyalty.entry.occurred_at is 'When it was booked.';
comment on column loyalty.entry.entry is 'Number of the entry within its account, from 1 without gaps.';
comment on column loyalty.entry.kind is 'What it records.';
comment on column loyalty.entry.expires_on is 'Last day of the one lot touched; null where lot_expires_on tells, or no lot was touched.';
comment on column loyalty.entry.granted_on is 'Of a grant, the day that counts for its terms.';
comment on column loyalty.entry.request_hash is 'Tells another request under the same idempotency key.';
comment on column loyalty.entry.refers_to is 'Entry of the same account that this one is about: the spend refunded, the grant revoked, the hold captured or released.';
comment on column loyalty.entry.available is 'Points that could be spent after the operation; null when all of the balance.';
comment on column loyalty.entry.held is 'Change of the points held.';
comment on column loyalty.entry.debt is 'Change of the debt.';
comment on column loyalty.entry.other_account_id is 'Other account of a transfer.';
comment on column loyalty.entry.other_entry is 'Entry of the other account that is its counterpart.';
comment on column loyalty.entry.actor is 'Who asked: the database user, or role and subject of the token.';
comment on column loyalty.entry.reason is 'Why, in the caller''s words.';
comment on column loyalty.entry.idempotency_key is 'Key under which the call may be repeated without effect.';
comment on column loyalty.entry.lot_expires_on is 'Last days of the lots touched, where not exactly one of the program''s own; infinity when they never expire.';
comment on column loyalty.entry.lot_points is 'Change of each of these lots; of a hold or release, the points pinned or freed.';
comment on column loyalty.entry.lot_class is 'Class of each of these lots; null when all are class 0.';
comment on column loyalty.entry.hold_until is 'Of a hold, when it counts as released.';

comment on table loyalty.wallet is
    'What an account holds now: one row that each operation rewrites. Its lots are parallel arrays in spend order; loyalty.lots(account_id) shows them as rows.';
comment on column loyalty.wallet.account_id is 'The account.';
comment on column loyalty.wallet.balance is 'Sum of its entries and of what its lots hold.';
comment on column loyalty.wallet.debt is 'Points revoked after they were spent, to be repaid by later grants.';
comment on column loyalty.wallet.program_id is 'Program of the account.';
comment on column loyalty.wallet.status is 'Whether it is open, suspended or closed.';
comment on column loyalty.wallet.first_entry is '1 as soon as there is an entry.';
comment on column loyalty.wallet.last_entry is 'Number of its last entry.';
comment on column loyalty.wallet.next_expiry_on is 'Last day of the first lot that holds anything and can lapse: the expiry run visits the wallet after it.';
comment on column loyalty.wallet.lot_expires_on is 'Last day of each lot; infinity when it never expires.';
comment on column loyalty.wallet.lot_granted is 'What each lot got.';
comment on column loyalty.wallet.lot_remaining is 'What each lot still holds.';
comment on column loyalty.wallet.lot_class is 'Class of each lot; null when all are class 0.';
comment on column loyalty.wallet.hold_entry is 'Entries that opened the holds not yet captured or released.';
comment on column loyalty.wallet.hold_until is 'When each of these holds counts as released.';
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
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_grant';
comment on function loyalty.grant is
    'Gives points. granted_on is today in the program''s time zone unless given, and never in the future; they are spendable through expires_on, else as the policy expiry or the program''s says. Repays debt first. LY002, LY003, LY004; 22023 for points not above zero or a day that cannot be.';

create function loyalty.spend_fifo(
    account_id bigint,
    points bigint,
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_spend_fifo';
comment on function loyalty.spend_fifo is
    'Spends points: soonest expiry first, never-expiring last, then oldest. LY001 when not so many are available; LY002, LY003, LY004.';

create function loyalty.hold_for(bigint, bigint, bigint, text, text) returns loyalty.receipt
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_hold';
comment on function loyalty.hold_for is 'loyalty.hold, with the time in microseconds.';

create function loyalty.hold(
    account_id bigint,
    points bigint,
    expires_in interval default '15 minutes',
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.hold_for(account_id, points,
        (extract(epoch from expires_in) * 1000000)::bigint, reason, idempotency_key);
comment on function loyalty.hold is
    'Sets points aside: their lots are pinned, also past their last day, until capture, release or the time is over. LY001, LY002, LY003, LY004.';

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

create function loyalty.expire_step(
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
comment on function loyalty.expire_step is
    'loyalty.expire for the program''s next row_limit accounts behind from_account (null: from the first), of which some are booked. last_account is where to go on, null when there are no more.';

create function loyalty.set_account_status(account_id bigint, status loyalty.account_status) returns void
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_set_account_status';
comment on function loyalty.set_account_status is
    'For suspend_account, resume_account and close_account.';

create function loyalty.forfeit(account_id bigint, reason text) returns loyalty.receipt
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_forfeit';
comment on function loyalty.forfeit is
    'Books all that an account holds as breakage, for close_account; null when it holds nothing.';

create function loyalty.suspend_account(account_id bigint) returns void
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.set_account_status(account_id, 'suspended');
comment on function loyalty.suspend_account is
    'Refuses spends, holds, captures and transfers from the account (LY004) until it is resumed. Its points still expire.';

create function loyalty.resume_account(account_id bigint) returns void
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.set_account_status(account_id, 'open');
comment on function loyalty.resume_account is 'Ends a suspension. LY004 for a closed account.';

create function loyalty.close_account(account_id bigint, forfeit boolean default false, reason text default null)
    returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if forfeit then
        perform loyalty.forfeit(account_id, reason);
    end if;
    perform loyalty.set_account_status(account_id, 'closed');
end
$$;
comment on function loyalty.close_account is
    'Closes an account for good. It must be empty, unless forfeit says to book what it holds as breakage; open holds must be captured or released first.';

create function loyalty.spent_of_lot(account_id bigint, expires_on date, lot_class smallint) returns bigint
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
comment on function loyalty.spent_of_lot is 'How many points spent from a lot a revoke may still book as debt.';
create function loyalty.grant_items(items text, program_id integer)
    returns table (
        item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
        points bigint, balance bigint, available bigint, occurred_at timestamptz,
        error_code text, error text, error_detail text
    )
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_grant_many';
comment on function loyalty.grant_items is
    'loyalty.grant_many for the accounts of one program (all when null); others are told not to exist.';

create function loyalty.spend_items(items text, program_id integer)
    returns table (
        item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
        points bigint, balance bigint, available bigint, occurred_at timestamptz,
        error_code text, error text, error_detail text
    )
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_spend_many';
comment on function loyalty.spend_items is
    'loyalty.spend_many for the accounts of one program (all when null); others are told not to exist.';

create function loyalty.grant_many(items jsonb)
    returns table (
        item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
        points bigint, balance bigint, available bigint, occurred_at timestamptz,
        error_code text, error text, error_detail text
    )
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select * from loyalty.grant_items(items::text, null);
end;
comment on function loyalty.grant_many is
    'Up to 10,000 grants in one call. items: array of objects with account_id, points and, if wanted, reason, granted_on, expires_on, idempotency_key, funding. Each has its own outcome, in order: a receipt, or error_code and error; the good ones are booked whatever the others do.';

create function loyalty.spend_many(items jsonb)
    returns table (
        item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
        points bigint, balance bigint, available bigint, occurred_at timestamptz,
        error_code text, error text, error_detail text
    )
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select * from loyalty.spend_items(items::text, null);
end;
comment on function loyalty.spend_many is
    'Up to 10,000 spends in one call. items: array of objects with account_id, points and, if wanted, reason, idempotency_key. Each has its own outcome, as in grant_many.';

create function loyalty.grant_each(
    account_ids bigint[],
    points bigint[],
    reason text,
    granted_on date,
    expires_on date,
    idempotency_keys text[],
    expiry loyalty.expiry_policy default null
)
    returns table (
        place integer, operation_id bigint, account_id bigint, granted bigint,
        is_new boolean, code text, message text
    )
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_grant_each';
comment on function loyalty.grant_each is
    'One grant for each place of the arrays, any number of them: the payments of a rule. is_new is false where the key had been used; code is null where all is well, else the SQLSTATE of what that one was refused for. A grant whose last day has passed is booked all the same, and lapses: a payment that downtime delayed.';
create function loyalty.balance(
    account_id bigint,
    as_of timestamptz default null
) returns loyalty.account_balance
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
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
               pg_catalog.timezone(z.time_zone, (balance.as_of + 1)::timestamp)
               - interval '1 microsecond') b;
end;
comment on function loyalty.balance(bigint, date) is
    'The same, at the end of that day in the program''s time zone.';

create function loyalty.lot_rows(account_id bigint)
    returns table (expires_on date, granted bigint, remaining bigint, held bigint, spendable boolean, lot_class smallint)
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_lot_rows';
comment on function loyalty.lot_rows is 'loyalty.lots without the names of who funds them.';

create function loyalty.lots(account_id bigint)
    returns table (expires_on date, granted bigint, remaining bigint, held bigint, spendable boolean, funding text)
    language sql stable parallel safe security definer set search_path = pg_catalog, pg_temp
begin atomic
    select l.expires_on, l.granted, l.remaining, l.held, l.spendable,
           coalesce(c.funding, 'program')
      from loyalty.lot_rows(lots.account_id) with ordinality
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
        perform loyalty.raise('LY002', 'no such account',
            pg_catalog.format('Account %s does not exist.', coalesce(account_id::text, 'null')),
            'loyalty.open_account(program, member_no) gives a member''s account.');
    end if;
    return query
    select l.*
      from loyalty.statement_line l
     where l.account_id = statement.account_id
       and l.occurred_at >= coalesce(pg_catalog.timezone(zone, from_date::timestamp), '-infinity')
       and l.occurred_at < coalesce(pg_catalog.timezone(zone, (to_date + 1)::timestamp), 'infinity')
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
           and coalesce(e.granted_on <= timezone('Pacific/Kiritimati', e.occurred_at)::date, true)
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
           and (e.idempotency_key is null) = (e.request_hash is null)
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
           false) as is_whole
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
            select coalesce(array_agg(c.lot_class), '{}'), array_agg(c.inactivity_months)
              into sliding, sliding_months
              from loyalty.lot_class c
             where c.program_id = class_program and c.inactivity_months is not null;
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
            last_day := e.today;
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
                    -- a payment so late that the wallet may have dropped the lot, and begun anew
                    if e.kind = 'grant' and day < e.today and lot_left[place] = 0 then
                        revived := revived || day;
                    end if;
                    lot_left[place] := lot_left[place] + part;
                    free := free + part;
                    if part > 0 and (e.kind <> 'refund' or not coalesce(restored[i], false)) then
                        lot_got[place] := lot_got[place] + part;
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
-- Who the members are: records of people beside their accounts. Rules read the facts when
-- they run, so a corrected fact needs nothing else.

create table loyalty.member (
    account_id bigint primary key references loyalty.account,
    program_id integer not null references loyalty.program,
    name text
        constraint member_name_is_short check (char_length(name) between 1 and 200),
    kana text
        constraint member_kana_is_short check (char_length(kana) between 1 and 200),
    birth_date date
        constraint member_birth_date_is_sane check (birth_date >= '1850-01-01'),
    email text
        constraint member_email_is_short check (char_length(email) between 3 and 254),
    phone text
        constraint member_phone_is_e164 check (phone ~ '^\+[1-9][0-9]{5,14}$'),
    language text not null default 'ja'
        constraint member_language_is_a_tag check (language ~ '^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$'),
    facts jsonb not null default '{}'
        constraint member_facts_are_days check (
            jsonb_typeof(facts) = 'object'
            and not jsonb_path_exists(facts, '$.* ? (@.type() != "string" || !(@ like_regex "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))')),
    attributes jsonb not null default '{}'
        constraint member_attributes_are_an_object check (jsonb_typeof(attributes) = 'object'),
    updated_at timestamptz not null
);
create index member_by_program on loyalty.member (program_id, account_id);

comment on table loyalty.member is
    'A person''s record in a program, beside the account that has their points and member_no.';
comment on column loyalty.member.account_id is 'The member''s account.';
comment on column loyalty.member.program_id is 'Program of the account.';
comment on column loyalty.member.name is 'The name as the person writes it.';
comment on column loyalty.member.kana is 'The name''s reading, in full-width katakana.';
comment on column loyalty.member.birth_date is 'Day of birth.';
comment on column loyalty.member.email is 'Where mail goes.';
comment on column loyalty.member.phone is 'Telephone number in E.164, such as +81312345678.';
comment on column loyalty.member.language is 'Language of what the member is sent, as a BCP 47 tag.';
comment on column loyalty.member.facts is 'Days that rules go by, each as YYYY-MM-DD: {"first_service_on": "2024-06-20"}.';
comment on column loyalty.member.attributes is 'Whatever else the program knows, for its own use.';
comment on column loyalty.member.updated_at is 'When the record last changed.';

create function loyalty.clean_member(record json, today date) returns json
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'loyalty_clean_member';
comment on function loyalty.clean_member is
    'For set_member: a record as it is stored, or what is wrong with it as 22023.';

create function loyalty.merge_attributes(stored jsonb, given jsonb) returns jsonb
    language sql immutable parallel safe
begin atomic
    -- not jsonb_strip_nulls, which would go into what is nested
    select coalesce(jsonb_object_agg(e.key, e.value) filter (where e.value <> 'null'), '{}')
      from jsonb_each(stored || given) e;
end;
comment on function loyalty.merge_attributes is
    'Facts or attributes with others written over them; a null takes one away.';

create function loyalty.changed_members(program_id integer, records json, columns text[])
    returns table (
        account_id bigint,
        member_no text,
        is_new boolean,
        is_changed boolean,
        name text,
        kana text,
        birth_date date,
        email text,
        phone text,
        language text,
        facts jsonb,
        attributes jsonb
    )
    language sql stable
begin atomic
    select g.account_id, g.member_no, g.stored is null,
           g.stored is not null
           and (g.stored_name, g.stored_kana, g.stored_birth_date, g.stored_email, g.stored_phone,
                g.stored_language, g.stored_facts, g.stored_attributes)
               is distinct from
               (g.name, g.kana, g.birth_date, g.email, g.phone, g.language, g.facts, g.attributes),
           g.name, g.kana, g.birth_date, g.email, g.phone, g.language, g.facts, g.attributes
      from (select a.account_id, r.member_no, m.account_id as stored,
                   m.name as stored_name, m.kana as stored_kana, m.birth_date as stored_birth_date,
                   m.email as stored_email, m.phone as stored_phone, m.language as stored_language,
                   m.facts as stored_facts, m.attributes as stored_attributes,
                   case when 'name' = any (columns) then r.name else m.name end as name,
                   case when 'kana' = any (columns) then r.kana else m.kana end as kana,
                   case when 'birth_date' = any (columns) then r.birth_date else m.birth_date end as birth_date,
                   case when 'email' = any (columns) then r.email else m.email end as email,
                   case when 'phone' = any (columns) then r.phone else m.phone end as phone,
                   coalesce(case when 'language' = any (columns) then r.language else m.language end, 'ja')
                       as language,
                   case when 'facts' = any (columns)
                        then loyalty.merge_attributes(coalesce(m.facts, '{}'), r.facts)
                        else coalesce(m.facts, '{}') end as facts,
                   case when 'attributes' = any (columns)
                        then loyalty.merge_attributes(coalesce(m.attributes, '{}'), r.attributes)
                        else coalesce(m.attributes, '{}') end as attributes
              from json_to_recordset(records) as r (
                       member_no text, name text, kana text, birth_date date, email text, phone text,
                       language text, facts jsonb, attributes jsonb)
              -- limit 1 has each looked up by its key, whatever the statistics of a new table say
              left join lateral (
                       select a.account_id
                         from loyalty.account a
                        where a.program_id = changed_members.program_id and a.member_no = r.member_no
                        limit 1) a on true
              left join lateral (
                       select m.*
                         from loyalty.member m
                        where m.account_id = a.account_id
                        limit 1) m on true) g;
end;
comment on function loyalty.changed_members is
    'Records as they would be once these were written over them: an array of objects with member_no and the columns named.';

create function loyalty.write_members(
    program_id integer,
    records json,
    columns text[],
    is_dry_run boolean,
    out inserted bigint,
    out updated bigint
) returns record
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off
    set enable_bitmapscan = off
    set jit = off
as $$
begin
    if is_dry_run then
        select count(*) filter (where c.is_new), count(*) filter (where c.is_changed)
          into inserted, updated
          from loyalty.changed_members(write_members.program_id, records, columns) c;
        return;
    end if;
    perform loyalty.open_accounts(
        (select p.code from loyalty.program p where p.program_id = write_members.program_id),
        array(select r ->> 'member_no' from json_array_elements(records) r));
    -- Writers of the same member come one after the other, and what they merge into is what
    -- the other left; in the order of the accounts they never wait for each other in a circle.
    perform (select true from loyalty.account a where a.account_id = g.account_id for no key update)
       from (select c.account_id
               from loyalty.changed_members(write_members.program_id, records, columns) c
              where c.is_new or c.is_changed
              order by c.account_id
             offset 0) g;
    with written as (
        insert into loyalty.member as m
               (account_id, program_id, name, kana, birth_date, email, phone, language, facts, attributes,
                updated_at)
        select c.account_id, write_members.program_id, c.name, c.kana, c.birth_date, c.email, c.phone,
               c.language, c.facts, c.attributes, loyalty.now()
          from loyalty.changed_members(write_members.program_id, records, columns) c
         where c.is_new or c.is_changed
         order by c.account_id
            on conflict (account_id) do update
           set name = excluded.name, kana = excluded.kana, birth_date = excluded.birth_date,
               email = excluded.email, phone = excluded.phone, language = excluded.language,
               facts = excluded.facts, attributes = excluded.attributes, updated_at = excluded.updated_at
        returning m.xmax = 0 as is_new
    )
    select count(*) filter (where w.is_new), count(*) filter (where not w.is_new)
      into inserted, updated
      from written w;
end
$$;
comment on function loyalty.write_members is
    'For set_member and import_members: opens the accounts of checked records and writes them; how many were new, and how many changed.';

create function loyalty.set_member(
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
    record := loyalty.clean_member(record::json, loyalty.today(set_member.program));
    perform loyalty.write_members(
        within, json_build_array(record), array(select jsonb_object_keys(record)), false);
    select m.* into strict written
      from loyalty.member m
      join loyalty.account a on a.account_id = m.account_id
     where a.program_id = within and a.member_no = record ->> 'member_no';
    return written;
end
$$;
comment on function loyalty.set_member is
    'Writes a member''s record, and opens the account with it. What is null stays as it is; an empty text or a name in clear empties it; facts and attributes are merged, and a null in them takes one away. LY002 for an unknown program, 22023 for a value that cannot be.';

create function loyalty.import_members(
    program text,
    csv text,
    all_or_nothing boolean default false,
    dry_run boolean default false
) returns table (
    outcome text,
    row_count bigint,
    row_no integer,
    member_no text,
    column_name text,
    reason text
)
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_import_members';
comment on function loyalty.import_members(text, text, boolean, boolean) is
    'Loads members from CSV: the rows without a problem or, if all_or_nothing, none unless all are. Tells how many rows were inserted, updated, unchanged, refused or held back, then each problem with row, member and column. dry_run tells it and writes nothing. 22023 or 54000 for a file that cannot be read.';

create function loyalty.import_members(
    program text,
    csv bytea,
    encoding text default 'UTF-8',
    all_or_nothing boolean default false,
    dry_run boolean default false
) returns table (
    outcome text,
    row_count bigint,
    row_no integer,
    member_no text,
    column_name text,
    reason text
)
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_import_member_file';
comment on function loyalty.import_members(text, bytea, text, boolean, boolean) is
    'The same from the bytes of a file, in an encoding such as Shift_JIS.';

-- For COPY, and for PostgREST's text/csv: what is written here is loaded at the end of the
-- statement, and never stays.
create unlogged table loyalty.member_upload (
    program text,
    member_no text,
    name text,
    kana text,
    birth_date text,
    email text,
    phone text,
    language text,
    first_service_on text,
    contract_since text
);
comment on table loyalty.member_upload is
    'COPY members into this: all rows are loaded, or none and the error names the rows. Always empty.';
comment on column loyalty.member_upload.program is
    'Code of the program; may be left out where there is only one. One upload is for one program.';
comment on column loyalty.member_upload.member_no is 'The member''s number in the program.';
comment on column loyalty.member_upload.name is 'The name as the person writes it.';
comment on column loyalty.member_upload.kana is 'Its reading, in any kana.';
comment on column loyalty.member_upload.birth_date is 'Day of birth.';
comment on column loyalty.member_upload.email is 'Where mail goes.';
comment on column loyalty.member_upload.phone is 'Telephone number.';
comment on column loyalty.member_upload.language is 'Language of what the member is sent.';
comment on column loyalty.member_upload.first_service_on is 'The fact of that name.';
comment on column loyalty.member_upload.contract_since is 'The fact of that name.';

create function loyalty.take_upload() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    codes text[] := array(select distinct u.program from uploaded u);
    code text := codes[1];
    given text[];
    csv text;
    problems text;
begin
    if not exists (select from uploaded) then
        return null;
    end if;
    if cardinality(codes) > 1 then
        perform loyalty.raise('22023', 'members of several programs in one upload',
            format('program is one of %s.', array_to_string(codes, ', ', '(empty)')), 'Load one program at a time.');
    end if;
    if loyalty.api_role() = 'loyalty_admin' then
        code := loyalty.api_admin_program(code);
    elsif code is null then
        select min(p.code) into code from loyalty.program p having count(*) = 1;
        if code is null then
            perform loyalty.raise('22004', 'program must not be null', null,
                'Give each row the code of its program, in the column program.');
        end if;
    end if;
    -- a column that is null in every row was not given
    given := array(
        select c.name
          from unnest('{member_no,name,kana,birth_date,email,phone,language,first_service_on,contract_since}'::text[])
               with ordinality c (name, place)
         where exists (select from uploaded u where to_jsonb(u) ->> c.name is not null)
         order by c.place);
    select array_to_string(given, ',') || E'\n' || string_agg(r.line, E'\n' order by r.place)
      into csv
      from (select u.place,
                   (select string_agg(format('"%s"', replace(coalesce(u.cells ->> c.name, ''), '"', '""')), ','
                                      order by c.place)
                      from unnest(given) with ordinality c (name, place)) as line
              from (select row_number() over () as place, to_jsonb(n) as cells from uploaded n) u) r;
    select string_agg(format('Row %s, %s %s.', p.row_no, coalesce(p.column_name, 'it'), p.reason), ' '
                      order by p.row_no) || case when count(*) > 20 then ' …' else '' end
      into problems
      from (select i.row_no, i.column_name, i.reason, i.outcome
              from loyalty.import_members(code, csv, all_or_nothing => true) i
             where i.outcome = 'problem'
             limit 21) p;
    if problems is not null then
        perform loyalty.raise('22023', 'nothing was loaded: there are rows that cannot be', problems,
            'Correct them, the header being row 1; loyalty.import_members loads the others, and lists all problems.');
    end if;
    delete from loyalty.member_upload;
    perform loyalty.audit('member_upload', loyalty.program_id(code),
        details => jsonb_build_object('items', (select count(*) from uploaded)));
    return null;
end
$$;
comment on function loyalty.take_upload is 'Loads what was written into loyalty.member_upload, and empties it.';
create trigger take after insert on loyalty.member_upload
    referencing new table as uploaded
    for each statement execute function loyalty.take_upload();
-- When a program's HTTP API is open (C10). SQL callers and schedules do not ask.

create table loyalty.service_hours (
    program_id integer primary key references loyalty.program,
    closed_from time not null,
    closed_until time not null,
    constraint service_hours_leave_it_open_at_times check (closed_from <> closed_until),
    constraint service_hours_are_whole_minutes_of_a_day check (
        closed_from < '24:00' and closed_until < '24:00'
        and extract(second from closed_from) = 0 and extract(second from closed_until) = 0)
);

comment on table loyalty.service_hours is
    'Hours of the day in which a program''s HTTP API is closed; a program without a row is always open.';
comment on column loyalty.service_hours.program_id is 'The program.';
comment on column loyalty.service_hours.closed_from is 'From when on it is closed, by the clocks of its time zone.';
comment on column loyalty.service_hours.closed_until is
    'When it opens again; before closed_from when that is on the next day.';

create function loyalty.set_service_hours(program text, closed_from time, closed_until time) returns void
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
        return;
    end if;
    insert into loyalty.service_hours as h (program_id, closed_from, closed_until)
    values (within, set_service_hours.closed_from, set_service_hours.closed_until)
        on conflict (program_id) do update
       set closed_from = excluded.closed_from, closed_until = excluded.closed_until;
end
$$;
comment on function loyalty.set_service_hours is
    'Closes a program''s HTTP API from one time of its day until another, across midnight too; nulls keep it open always. LY002, 22004, 22023.';

create function loyalty.is_closed_at(shown time, closed_from time, closed_until time) returns boolean
    language sql immutable strict parallel safe
    return case when closed_from < closed_until then shown >= closed_from and shown < closed_until
                else shown >= closed_from or shown < closed_until end;
comment on function loyalty.is_closed_at is 'Whether a clock shows a time within the hours.';

create function loyalty.opens_at(program_id integer) returns timestamptz
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    -- What the clocks show decides, also where they skip an hour or show one twice: the next
    -- minute that is open is looked for. No program is closed for as long as 25 hours.
    select min(t.at)
      from loyalty.service_hours h
      join loyalty.program p on p.program_id = h.program_id
     cross join generate_series(date_trunc('minute', loyalty.now()),
                                date_trunc('minute', loyalty.now()) + interval '25 hours',
                                interval '1 minute') as t (at)
     where h.program_id = opens_at.program_id
       and loyalty.is_closed_at(timezone(p.time_zone, loyalty.now())::time, h.closed_from, h.closed_until)
       and not loyalty.is_closed_at(timezone(p.time_zone, t.at)::time, h.closed_from, h.closed_until);
end;
comment on function loyalty.opens_at is
    'When a program that is closed over HTTP now opens again; null when it is open.';

create function loyalty.raise_closed(detail text, retry_after_seconds bigint) returns void
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_raise_closed';
comment on function loyalty.raise_closed is
    'For check_service_hours: LY007, over HTTP 503 with the header Retry-After.';

create function loyalty.check_service_hours(program_id integer) returns void
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    opening timestamptz := loyalty.opens_at(program_id);
    seconds bigint := ceil(extract(epoch from opening - loyalty.now()));
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
comment on function loyalty.check_service_hours is
    'Refuses a request while the program is closed with LY007, and tells when to come again (guide C10).';
-- What earns points, as data. A rule is its versions, one after the other; a change adds one and
-- ends the one before, so that what was in force can always be looked up (C7, law 9).

create function loyalty.actor() returns text
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_actor';
comment on function loyalty.actor is
    'Who asks: role and subject of the token in a PostgREST request, else the database user.';

create function loyalty.rule_is_sound(kind text, terms text) returns boolean
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_rule_is_sound';
comment on function loyalty.rule_is_sound is
    'True when the terms (JSON) are right for that kind of rule; else 22023 with the path of the field that is wrong, what is allowed there, and terms that are right.';

create table loyalty.rule (
    program_id integer not null references loyalty.program,
    code text not null
        constraint rule_code_is_plain check (code ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
    version integer not null
        constraint rule_versions_count_from_1 check (version >= 1),
    kind text not null,
    title text not null
        constraint rule_title_is_short check (char_length(title) between 1 and 200),
    terms jsonb not null,
    valid_from date not null,
    valid_to date,
    expiry loyalty.expiry_policy,
    created_at timestamptz not null,
    created_by text not null,
    primary key (program_id, code, version),
    constraint rule_terms_are_sound check (loyalty.rule_is_sound(kind, terms::text)),
    constraint rule_begins_in_the_calendar check (valid_from between '1955-01-01' and '2099-12-31'),
    -- the day before valid_from says that it never came into force
    constraint rule_range_is_forward check (valid_to >= valid_from - 1 and valid_to < 'infinity')
);

comment on table loyalty.rule is
    'What earns points in a program. A row is one version of a rule: its terms, and the days of payment on which they are in force. Written by create_rule, change_rule and end_rule; only valid_to ever changes.';
comment on column loyalty.rule.program_id is 'The program.';
comment on column loyalty.rule.code is 'What calls and idempotency keys name the rule by.';
comment on column loyalty.rule.version is 'Number of the version, from 1; a later one is in force later.';
comment on column loyalty.rule.kind is 'anniversary, event, tenure, birthday, purchase or manual.';
comment on column loyalty.rule.title is 'What members read as the reason of a payment.';
comment on column loyalty.rule.terms is 'Who is paid what, and when; the fields depend on the kind.';
comment on column loyalty.rule.valid_from is 'First day of payment on which the version decides.';
comment on column loyalty.rule.valid_to is 'Last such day; null while there is no end, the day before valid_from when it was replaced before it began.';
comment on column loyalty.rule.expiry is 'When the points lapse; null goes by the program''s policy.';
comment on column loyalty.rule.created_at is 'When the version was written.';
comment on column loyalty.rule.created_by is 'Who wrote it.';

create function loyalty.guard_rule() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'UPDATE' then
        if to_jsonb(new) - 'valid_to' = to_jsonb(old) - 'valid_to' then
            return new;
        end if;
    end if;
    perform loyalty.raise('LY005', 'a rule keeps its versions',
        format('%s of loyalty.rule was tried.', tg_op),
        'loyalty.change_rule adds a version, loyalty.end_rule ends the last one.');
    return null;
end
$$;
comment on function loyalty.guard_rule is
    'Refuses with LY005 what would change or remove a version of a rule.';
create trigger guard before update or delete on loyalty.rule
    for each row execute function loyalty.guard_rule();
create trigger guard_all before truncate on loyalty.rule
    for each statement execute function loyalty.guard_rule();

create table loyalty.event (
    event_id bigint generated always as identity primary key,
    program_id integer not null references loyalty.program,
    kind text not null,
    account_id bigint not null references loyalty.account,
    other_account_id bigint references loyalty.account
        constraint event_parties_differ check (other_account_id <> account_id),
    occurred_on date not null
        constraint event_day_is_in_the_calendar check (occurred_on between '1955-01-01' and '2099-12-31'),
    -- its month, by which the runs look for it
    month date not null generated always as
        (occurred_on - (extract(day from occurred_on)::integer - 1)) stored,
    amount numeric
        constraint event_amount_is_sane check (amount between 0 and 1000000000000),
    reference text
        constraint event_reference_is_short check (char_length(reference) between 1 and 150),
    attributes jsonb not null default '{}'
        constraint event_attributes_are_an_object check (jsonb_typeof(attributes) = 'object'),
    recorded_on date not null,
    recorded_at timestamptz not null,
    recorded_by text not null,
    canceled_at timestamptz,
    canceled_by text,
    cancel_reason text
        constraint event_cancel_reason_is_short check (char_length(cancel_reason) <= 1000),
    constraint event_reference_is_once unique (program_id, kind, reference)
);
create index event_by_member on loyalty.event (program_id, kind, month, account_id);
create index event_by_other_member on loyalty.event (program_id, kind, month, other_account_id)
    where other_account_id is not null;
create index event_of_account on loyalty.event (account_id);
create index event_of_other_account on loyalty.event (other_account_id)
    where other_account_id is not null;

comment on table loyalty.event is
    'What happened that rules pay for: a referral signed, a purchase. Recorded by loyalty.record_event.';
comment on column loyalty.event.event_id is 'Number of the event.';
comment on column loyalty.event.program_id is 'The program.';
comment on column loyalty.event.kind is 'What happened, as rules call it.';
comment on column loyalty.event.account_id is 'Who it is about: who referred, who bought.';
comment on column loyalty.event.other_account_id is 'The other party: the friend referred.';
comment on column loyalty.event.occurred_on is 'The day it happened.';
comment on column loyalty.event.month is 'First day of that month.';
comment on column loyalty.event.amount is 'Of a purchase, the amount spent, in the currency of the rule''s per_amount.';
comment on column loyalty.event.reference is 'The caller''s own number of it: the same reference is recorded once.';
comment on column loyalty.event.attributes is 'Whatever else is to be kept with it.';
comment on column loyalty.event.recorded_on is 'The day it was recorded, in the program''s time zone.';
comment on column loyalty.event.recorded_at is 'When it was recorded.';
comment on column loyalty.event.recorded_by is 'Who recorded it.';
comment on column loyalty.event.canceled_at is 'When it was canceled; null when it was not.';
comment on column loyalty.event.canceled_by is 'Who canceled it.';
comment on column loyalty.event.cancel_reason is 'Why it was canceled.';

create function loyalty.rule_periods(program_id integer, code text, after_period date, up_to date)
    returns table (period date, pays_on date)
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_rule_periods';
comment on function loyalty.rule_periods is
    'The periods of a rule after one (null: all of them) up to a day, in order: the nominal day, and the business day on which it pays. All versions taken together, each where it is in force on the day of payment. None for what is paid at once. LY002.';

create function loyalty.rule_reach(
    program_id integer, code text, period date,
    out version integer, out pays_on date, out from_day date, out to_day date, out previous_pays_on date
) returns record
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_rule_reach';
comment on function loyalty.rule_reach is
    'Which version pays a period, when, for the facts and events of which days, and when the period before it paid; nulls when the rule has no such period.';

create function loyalty.rule_pay_day(
    program_id integer, code text, occurred_on date,
    out version integer, out pays_on date, out period date
) returns record
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_rule_pay_day';
comment on function loyalty.rule_pay_day is
    'When a rule pays an event of that day, by which version and in which period (null: at once); nulls when it never does.';

create function loyalty.fact_day(fact text) returns date
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'loyalty_fact_day';
comment on function loyalty.fact_day is 'The day of a fact such as 2024-06-20; null for what is no day.';

create function loyalty.anniversary_occasion(
    fact_on date, month date, every_months integer, fact_until date, first_month date
) returns integer
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_anniversary_occasion';
comment on function loyalty.anniversary_occasion is
    'Which anniversary of a fact a month brings, as months since the fact''s own (C2); of facts up to the cut-off, since a year before their first month (C3). Null when it brings none.';

create function loyalty.birthday_between(birth_date date, from_day date, to_day date) returns integer
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_birthday_between';
comment on function loyalty.birthday_between is
    'The year whose birthday lies between two days, both included; null when none does. A birthday on 29 February is on the 28th in years without one.';

create function loyalty.full_years(fact_on date, key_date date) returns integer
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_full_years';
comment on function loyalty.full_years is
    'Full years from a fact to a key date, that day included (C4); null when the fact comes later.';

create function loyalty.event_points(terms jsonb, kind text, party text, amount numeric) returns bigint
    language sql immutable parallel safe
    -- no SET clause: it is made part of the statement that calls it
    return case
        when kind = 'event' and pg_catalog.jsonb_typeof(terms -> 'points') = 'number' then
            (terms ->> 'points')::bigint
        when kind = 'event' then
            (terms -> 'points' ->> party)::bigint
        when kind = 'purchase' and party = 'member'
             and amount >= coalesce((terms ->> 'minimum_amount')::numeric, 0) then
            least(
                -- div truncates exactly, where / would round to some number of digits
                case terms ->> 'rounding'
                    when 'down' then
                        pg_catalog.div(amount * (terms ->> 'points')::numeric, (terms ->> 'per_amount')::numeric)
                    when 'up' then
                        -pg_catalog.div(-amount * (terms ->> 'points')::numeric, (terms ->> 'per_amount')::numeric)
                        + (pg_catalog.mod(amount * (terms ->> 'points')::numeric, (terms ->> 'per_amount')::numeric) > 0)::integer
                    when 'half_up' then
                        pg_catalog.div(2 * amount * (terms ->> 'points')::numeric + (terms ->> 'per_amount')::numeric,
                                       2 * (terms ->> 'per_amount')::numeric)
                    when 'whole_units' then
                        pg_catalog.div(amount, (terms ->> 'per_amount')::numeric) * (terms ->> 'points')::numeric
                end,
                coalesce((terms ->> 'max_points')::numeric, 1000000000000))::bigint
    end;
comment on function loyalty.event_points is
    'What an event or purchase rule pays a party (member, other) of an event: null or 0 when nothing.';

create function loyalty.create_rule(
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
    written loyalty.rule;
begin
    perform loyalty.rule_is_sound(create_rule.kind, create_rule.terms::text);
    if exists (select from loyalty.rule r where r.program_id = owner and r.code = create_rule.code) then
        raise exception using errcode = 'unique_violation',
            message = 'the program has a rule of that code',
            detail = format('%L given.', create_rule.code),
            hint = 'loyalty.change_rule adds a version to it, also after its end; or take another code.';
    end if;
    insert into loyalty.rule
           (program_id, code, version, kind, title, terms, valid_from, valid_to, expiry, created_at, created_by)
    values (owner, create_rule.code, 1, create_rule.kind, coalesce(create_rule.title, create_rule.code),
            create_rule.terms, coalesce(create_rule.valid_from, loyalty.today(create_rule.program)),
            create_rule.valid_to, create_rule.expiry, loyalty.now(), loyalty.actor())
    returning * into written;
    perform loyalty.check_rule_pays(written);
    perform loyalty.plan_schedule(owner, 'rule:' || written.code);
    return written;
end
$$;
comment on function loyalty.create_rule is
    'Creates a rule. valid_from (today unless given) and valid_to are days of payment; expiry null goes by the program''s policy. It pays from its creation on; periods before that, also those since valid_from, only by loyalty.rerun. 22023 names the field of terms that is wrong; 23505 when the code is taken; LY002.';

create function loyalty.check_rule_pays(rule loyalty.rule) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if rule.kind = 'tenure' and not exists (
           select from loyalty.rule_periods(rule.program_id, rule.code, null, '2099-12-31')) then
        perform loyalty.raise('22023', 'the rule would never pay',
            format('$.pays_on is %s; the rule is in force from %s%s.', rule.terms ->> 'pays_on', rule.valid_from,
                   coalesce(' to ' || rule.valid_to, '')),
            'Give a valid_from and a valid_to around pays_on.');
    end if;
end
$$;
comment on function loyalty.check_rule_pays is
    'Refuses a tenure rule whose one day of payment lies outside its range.';

create function loyalty.change_rule(
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
    perform from loyalty.rule r where r.program_id = owner and r.code = change_rule.code order by r.version for update;
    if not found then
        perform loyalty.raise('LY002', 'no such rule', format('%L given.', change_rule.code),
            'loyalty.create_rule creates one.');
    end if;
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
    'Adds a version that decides from a day of payment on, tomorrow unless given; what is not given stays as it was. The version before ends the day before, and versions planned for later days are dropped. What was paid keeps its terms (C7). 22023 for a day that is over, or for wrong terms; LY002.';

create function loyalty.end_rule(program text, code text, last_day date default null) returns loyalty.rule
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
    end if;
    perform from loyalty.rule r where r.program_id = owner and r.code = end_rule.code order by r.version for update;
    if not found then
        perform loyalty.raise('LY002', 'no such rule', format('%L given.', end_rule.code), 'loyalty.rule has them.');
    end if;
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
    'Ends a rule: last_day (today unless given) is the last day of payment, and events that would be paid later stay unpaid. Returns its last version. 22023 when it ends earlier already; LY002.';
-- Whom a period pays. ("offset 0" has a value worked out once a member, below the condition on
-- it.) Each step is one statement over so many members in account order; the
-- journal is not asked, since a key that was used before grants nothing (law 6).

create function loyalty.anniversary_step(
    program_id integer, key text, fact text, points bigint, months date[], every_months integer,
    fact_until date, first_month date, from_account bigint, row_limit bigint
) returns table (
    account_ids bigint[], points_of_each bigint[], keys text[], last_account bigint, looked_at bigint
)
    language sql stable
begin atomic
    with step as materialized (
        select m.account_id, loyalty.fact_day(m.facts ->> anniversary_step.fact) as fact_on
          from loyalty.member m
         where m.program_id = anniversary_step.program_id
           and m.account_id > anniversary_step.from_account
         order by m.account_id
         limit anniversary_step.row_limit),
    due as materialized (
        select s.account_id, s.occasion
          from (select step.account_id,
                       loyalty.anniversary_occasion(
                           step.fact_on, month, anniversary_step.every_months,
                           anniversary_step.fact_until, anniversary_step.first_month) as occasion
                  from step
                 cross join unnest(anniversary_step.months) as month
                offset 0) s
         where s.occasion is not null
           and (select w.status from loyalty.wallet w where w.account_id = s.account_id) is distinct from 'closed'
         order by s.account_id, s.occasion)
    select coalesce(p.ids, '{}'), coalesce(p.points, '{}'), coalesce(p.keys, '{}'),
           case when s.looked_at >= anniversary_step.row_limit then s.last_account end, s.looked_at
      from (select array_agg(d.account_id) as ids,
                   array_agg(anniversary_step.points) as points,
                   array_agg(anniversary_step.key || d.occasion::text) as keys
              from due d) p
     cross join (select count(*) as looked_at, max(account_id) as last_account from step) s;
end;
comment on function loyalty.anniversary_step is 'A step of loyalty.rule_payments for an anniversary rule (C2, C3).';

create function loyalty.birthday_step(
    program_id integer, key text, points bigint, from_day date, to_day date,
    from_account bigint, row_limit bigint
) returns table (
    account_ids bigint[], points_of_each bigint[], keys text[], last_account bigint, looked_at bigint
)
    language sql stable
begin atomic
    with step as materialized (
        select m.account_id, m.birth_date
          from loyalty.member m
         where m.program_id = birthday_step.program_id
           and m.account_id > birthday_step.from_account
         order by m.account_id
         limit birthday_step.row_limit),
    due as materialized (
        select s.account_id, s.year
          from (select step.account_id,
                       loyalty.birthday_between(
                           step.birth_date, birthday_step.from_day, birthday_step.to_day) as year
                  from step
                offset 0) s
         where s.year is not null
           and (select w.status from loyalty.wallet w where w.account_id = s.account_id) is distinct from 'closed'
         order by s.account_id)
    select coalesce(p.ids, '{}'), coalesce(p.points, '{}'), coalesce(p.keys, '{}'),
           case when s.looked_at >= birthday_step.row_limit then s.last_account end, s.looked_at
      from (select array_agg(d.account_id) as ids,
                   array_agg(birthday_step.points) as points,
                   array_agg(birthday_step.key || d.year::text) as keys
              from due d) p
     cross join (select count(*) as looked_at, max(account_id) as last_account from step) s;
end;
comment on function loyalty.birthday_step is 'A step of loyalty.rule_payments for a birthday rule.';

create function loyalty.tenure_step(
    program_id integer, key text, fact text, key_date date, years integer[], points bigint[],
    from_account bigint, row_limit bigint
) returns table (
    account_ids bigint[], points_of_each bigint[], keys text[], last_account bigint, looked_at bigint
)
    language sql stable
begin atomic
    with step as materialized (
        select m.account_id, loyalty.fact_day(m.facts ->> tenure_step.fact) as fact_on
          from loyalty.member m
         where m.program_id = tenure_step.program_id
           and m.account_id > tenure_step.from_account
         order by m.account_id
         limit tenure_step.row_limit),
    due as materialized (
        select s.account_id, tenure_step.points[s.place] as points
          from (select step.account_id,
                       -- the last row of the table that is reached; 0 below the first
                       width_bucket(
                           loyalty.full_years(step.fact_on, tenure_step.key_date), tenure_step.years) as place
                  from step
                offset 0) s
         where s.place > 0
           and (select w.status from loyalty.wallet w where w.account_id = s.account_id) is distinct from 'closed'
         order by s.account_id)
    select coalesce(p.ids, '{}'), coalesce(p.points, '{}'), coalesce(p.keys, '{}'),
           case when s.looked_at >= tenure_step.row_limit then s.last_account end, s.looked_at
      from (select array_agg(d.account_id) as ids,
                   array_agg(d.points) as points,
                   array_agg(tenure_step.key || 'once') as keys
              from due d) p
     cross join (select count(*) as looked_at, max(account_id) as last_account from step) s;
end;
comment on function loyalty.tenure_step is 'A step of loyalty.rule_payments for a tenure rule (C4).';

create function loyalty.event_step(
    program_id integer, key text, rule_kind text, event text, terms jsonb, months date[],
    swept_on date, from_account bigint, row_limit bigint
) returns table (
    account_ids bigint[], points_of_each bigint[], keys text[], last_account bigint, looked_at bigint
)
    language sql stable
begin atomic
    with step as materialized (
        select w.account_id, w.event_id, w.party, w.amount
          from unnest(event_step.months) as source (month)
         cross join lateral (
                   (select e.account_id, e.event_id, 'member' as party, e.amount
                      from loyalty.event e
                     where e.program_id = event_step.program_id and e.kind = event_step.event
                       and e.month = source.month and e.account_id > event_step.from_account
                       and e.canceled_at is null
                     order by e.account_id
                     fetch first (event_step.row_limit) rows with ties)
                   union all
                   (select e.other_account_id, e.event_id, 'other', e.amount
                      from loyalty.event e
                     where e.program_id = event_step.program_id and e.kind = event_step.event
                       and e.month = source.month and e.other_account_id > event_step.from_account
                       and e.canceled_at is null
                     order by e.other_account_id
                     fetch first (event_step.row_limit) rows with ties)) w
         order by w.account_id
         fetch first (event_step.row_limit) rows with ties),
    -- Of the month before, what was recorded on the eve of its pay day: the recording may
    -- have been committed only after the run had looked. Mostly none, or paid already.
    swept as (
        select p.account_id, e.event_id, p.party, e.amount
          from loyalty.event e
         cross join lateral (values (e.account_id, 'member'), (e.other_account_id, 'other')) as p (account_id, party)
         where event_step.from_account = 0
           and e.program_id = event_step.program_id and e.kind = event_step.event
           and e.month = (event_step.months[1] - interval '1 month')::date
           and e.recorded_on = event_step.swept_on
           and e.canceled_at is null
           and p.account_id is not null),
    due as materialized (
        select s.account_id, s.event_id, s.party, o.points
          from (select * from step union all select * from swept) s
         cross join lateral loyalty.event_points(event_step.terms, event_step.rule_kind, s.party, s.amount) as o (points)
         where o.points > 0
           and (select w.status from loyalty.wallet w where w.account_id = s.account_id) is distinct from 'closed'
         order by s.account_id, s.event_id)
    select coalesce(p.ids, '{}'), coalesce(p.points, '{}'), coalesce(p.keys, '{}'),
           case when s.looked_at >= event_step.row_limit then s.last_account end, s.looked_at
      from (select array_agg(d.account_id) as ids,
                   array_agg(d.points) as points,
                   array_agg(event_step.key || 'event-' || d.event_id::text || '/' || d.party) as keys
              from due d) p
     cross join (select count(*) as looked_at, max(account_id) as last_account from step) s;
end;
comment on function loyalty.event_step is 'A step of loyalty.rule_payments for an event or purchase rule (C5).';

create function loyalty.rule_payments(
    program_id integer,
    code text,
    period date,
    from_account bigint,
    row_limit bigint,
    out account_ids bigint[],
    out points bigint[],
    out idempotency_keys text[],
    out reason text,
    out granted_on date,
    out expires_on date,
    out expiry loyalty.expiry_policy,
    out last_account bigint,
    out looked_at bigint
) returns record
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    -- the walk is by index, whatever the statistics say
    set enable_hashjoin = off
    set enable_mergejoin = off
    set enable_seqscan = off
    set enable_bitmapscan = off
    set jit = off
as $$
#variable_conflict use_column
declare
    reach record;
    rule loyalty.rule;
    months date[];
    key text;
begin
    account_ids := '{}';
    points := '{}';
    idempotency_keys := '{}';
    looked_at := 0;
    if coalesce(row_limit, 0) < 1 then
        perform loyalty.raise('22023', 'row_limit must be above zero', format('%s given.', row_limit),
            'Members that one step looks at.');
    end if;
    select r.* into reach
      from loyalty.rule_reach(rule_payments.program_id, rule_payments.code, rule_payments.period) r;
    if reach.version is null then
        return;
    end if;
    select r.* into strict rule
      from loyalty.rule r
     where r.program_id = rule_payments.program_id
       and r.code = rule_payments.code
       and r.version = reach.version;
    reason := rule.title;
    granted_on := reach.pays_on;
    expiry := rule.expiry;
    if expiry::text !~ 'inactivity' then
        expires_on := coalesce(loyalty.expires_on(expiry, granted_on), 'infinity');
    end if;
    key := format('rule/%s/', rule.code);
    months := array(
        select m::date
          from generate_series(date_trunc('month', reach.from_day::timestamp), reach.to_day, interval '1 month') m);

    if rule.kind = 'anniversary' then
        select p.* into account_ids, points, idempotency_keys, last_account, looked_at
          from loyalty.anniversary_step(
                   rule.program_id, key, rule.terms ->> 'fact', (rule.terms ->> 'points')::bigint, months,
                   coalesce((rule.terms ->> 'every_years')::integer * 12, (rule.terms ->> 'every_months')::integer),
                   (rule.terms #>> '{cut_off,fact_until}')::date,
                   ((rule.terms #>> '{cut_off,first_month}') || '-01')::date,
                   coalesce(from_account, 0), row_limit) p;
    elsif rule.kind = 'birthday' then
        select p.* into account_ids, points, idempotency_keys, last_account, looked_at
          from loyalty.birthday_step(
                   rule.program_id, key, (rule.terms ->> 'points')::bigint, reach.from_day, reach.to_day,
                   coalesce(from_account, 0), row_limit) p;
    elsif rule.kind = 'tenure' then
        select p.* into account_ids, points, idempotency_keys, last_account, looked_at
          from loyalty.tenure_step(
                   rule.program_id, key, rule.terms ->> 'fact', (rule.terms ->> 'key_date')::date,
                   array(select (t ->> 'years')::integer from jsonb_array_elements(rule.terms -> 'table') t order by 1),
                   array(select (t ->> 'points')::bigint from jsonb_array_elements(rule.terms -> 'table') t
                          order by (t ->> 'years')::integer),
                   coalesce(from_account, 0), row_limit) p;
    elsif rule.kind in ('event', 'purchase') then
        -- until the end of the transaction, so that cancel_event finds either nothing or a grant
        perform pg_advisory_xact_lock_shared(hashtext('loyalty.event'), rule.program_id);
        select p.* into account_ids, points, idempotency_keys, last_account, looked_at
          from loyalty.event_step(
                   rule.program_id, key, rule.kind, coalesce(rule.terms ->> 'event', 'purchase'), rule.terms, months,
                   reach.previous_pays_on - 1, coalesce(from_account, 0), row_limit) p;
    end if;
end
$$;
comment on function loyalty.rule_payments is
    'Whom a rule pays in a period, one step of a walk in account order: accounts after from_account (null: from the first), row_limit of them looked at; last_account goes into the next call, null when there is no more. The arrays go into loyalty.grant_each. Whether a payment was made before is not looked at: its idempotency key tells.';


create function loyalty.rule_forecast(program_id integer, code text, after_period date, up_to date)
    returns table (period date, pays_on date, members bigint, points bigint)
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
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
            select coalesce(sum(d.members), 0), coalesce(sum(d.members), 0) * (rule.terms ->> 'points')::bigint
              into members, points
              from unnest(days, counts) as d (day, members)
             cross join generate_series(date_trunc('month', reach.from_day::timestamp), reach.to_day, interval '1 month') m
             where loyalty.anniversary_occasion(
                       d.day, m::date,
                       coalesce((rule.terms ->> 'every_years')::integer * 12, (rule.terms ->> 'every_months')::integer),
                       (rule.terms #>> '{cut_off,fact_until}')::date,
                       ((rule.terms #>> '{cut_off,first_month}') || '-01')::date) is not null;
        elsif rule.kind = 'birthday' then
            select coalesce(sum(d.members), 0), coalesce(sum(d.members), 0) * (rule.terms ->> 'points')::bigint
              into members, points
              from unnest(days, counts) as d (day, members)
             where loyalty.birthday_between(d.day, reach.from_day, reach.to_day) is not null;
        elsif rule.kind = 'tenure' then
            select coalesce(sum(d.members), 0), coalesce(sum(d.members * t.points), 0) into members, points
              from unnest(days, counts) as d (day, members)
             cross join lateral (
                       select (t ->> 'points')::bigint
                         from jsonb_array_elements(rule.terms -> 'table') t
                        where (t ->> 'years')::integer <= loyalty.full_years(d.day, (rule.terms ->> 'key_date')::date)
                        order by (t ->> 'years')::integer desc
                        limit 1) as t (points);
        else
            select count(*), coalesce(sum(o.points), 0) into members, points
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
comment on function loyalty.rule_forecast is
    'What a rule would pay in the periods after one (null: from its first) up to a day, by the members, facts and events of now: payments, and their points. It does not look at what was paid.';
-- Events that rules pay for, grants by hand, and what a member may expect.

create function loyalty.event_payments(event_id bigint)
    returns table (
        rule text, title text, expiry loyalty.expiry_policy, account_id bigint, party text, points bigint,
        pays_on date, idempotency_key text, operation_id bigint
    )
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select r.code, r.title, r.expiry, p.account_id, p.party, o.points, d.pays_on, k.key,
           (n.account_id << 24) | n.entry
      from loyalty.event e
     cross join lateral (
               select distinct x.code
                 from loyalty.rule x
                where x.program_id = e.program_id
                  and x.kind in ('event', 'purchase')
                  and coalesce(x.terms ->> 'event', 'purchase') = e.kind) c
     cross join lateral loyalty.rule_pay_day(e.program_id, c.code, e.occurred_on) d
      join loyalty.rule r on r.program_id = e.program_id and r.code = c.code and r.version = d.version
     cross join lateral (values (e.account_id, 'member'), (e.other_account_id, 'other')) as p (account_id, party)
     cross join lateral loyalty.event_points(r.terms, r.kind, p.party, e.amount) as o (points)
     cross join lateral (select format('rule/%s/event-%s/%s', r.code, e.event_id, p.party)) as k (key)
      left join loyalty.entry n
        on n.account_id = p.account_id
       and hashtextextended(n.idempotency_key, 0) = hashtextextended(k.key, 0)
       and n.idempotency_key = k.key
     where e.event_id = event_payments.event_id
       and p.account_id is not null
       and o.points > 0
     order by r.code, p.party;
end;
comment on function loyalty.event_payments is
    'What the rules pay for an event: to whom, how much, when, and the operation that did (null while it has not).';

create function loyalty.event_account(program_id integer, name text, member_no text) returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    found_id bigint;
begin
    select a.account_id into found_id
      from loyalty.account a
     where a.program_id = event_account.program_id and a.member_no = event_account.member_no;
    if found_id is null then
        perform loyalty.raise('LY002', 'no such member', format('%s is %L.', name, member_no),
            'Load the member, or open an account for the number, first.');
    end if;
    return found_id;
end
$$;
comment on function loyalty.event_account is 'The account of a party of an event; LY002 without one.';

create function loyalty.record_event(
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
    end if;
    account := loyalty.event_account(owner, 'member_no', record_event.member_no);
    if other_member_no is not null then
        other := loyalty.event_account(owner, 'other_member_no', record_event.other_member_no);
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
            select p.* from loyalty.event_payments(event_id) p where p.pays_on <= today
        loop
            perform loyalty.grant(
                account_id => payment.account_id, points => payment.points, reason => payment.title,
                granted_on => payment.pays_on, idempotency_key => payment.idempotency_key, expiry => payment.expiry);
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
    'Records what happened and says what the rules pay for it, when and to whom. Paid at once where the rule says so, or where the pay day is over. The same reference is recorded once (LY003 when it was another event). 22023 for a kind that no rule knows or a day to come; 22004 for a purchase without amount; LY002.';

create function loyalty.cancel_event(
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
    'Cancels an event, such as a purchase that was refunded: what was not paid yet will not be; what was is revoked, points already spent by the policy of loyalty.revoke (clamp or debt). Returns the points taken back; 0 when it was canceled before. LY002.';

create function loyalty.grant_by_rule(
    account_id bigint,
    rule text,
    points bigint default null,
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    program record;
    known loyalty.rule;
    wanted bigint;
begin
    select p.program_id, p.code, loyalty.today(p.code) as today into program
      from loyalty.account a
      join loyalty.program p on p.program_id = a.program_id
     where a.account_id = grant_by_rule.account_id;
    if not found then
        perform loyalty.raise('LY002', 'no such account', format('%s given.', grant_by_rule.account_id),
            'loyalty.open_account returned its number.');
    end if;
    select r.* into known
      from loyalty.rule r
     where r.program_id = program.program_id and r.code = grant_by_rule.rule
     order by (program.today between r.valid_from and coalesce(r.valid_to, 'infinity')) desc, r.version desc
     limit 1;
    if not found then
        perform loyalty.raise('LY002', 'no such rule', format('%L given.', grant_by_rule.rule),
            'loyalty.rule has them.');
    end if;
    if known.kind <> 'manual' then
        perform loyalty.raise('22023', 'the rule is not of kind manual',
            format('Rule %L is of kind %s.', known.code, known.kind), 'It pays by itself; loyalty.explain_rule says when.');
    end if;
    if program.today not between known.valid_from and coalesce(known.valid_to, 'infinity') then
        perform loyalty.raise('22023', 'the rule is not in force',
            format('It is from %s to %s.', known.valid_from, coalesce(known.valid_to::text, 'no end')),
            'loyalty.change_rule brings it back from a day on.');
    end if;
    wanted := coalesce(grant_by_rule.points, (known.terms ->> 'points')::bigint);
    if wanted is null then
        perform loyalty.raise('22004', 'points must not be null', 'The rule''s terms name none.', 'Pass points => … .');
    end if;
    if wanted > (known.terms ->> 'max_points')::bigint then
        perform loyalty.raise('22023', 'more points than the rule allows',
            format('%s given; $.max_points is %s.', wanted, known.terms ->> 'max_points'), 'Grant no more than that.');
    end if;
    return loyalty.grant(
        account_id => grant_by_rule.account_id, points => wanted,
        reason => coalesce(grant_by_rule.reason, known.title),
        idempotency_key => format('rule/%s/%s', known.code,
                                  coalesce(grant_by_rule.idempotency_key, 'manual-' || gen_random_uuid())),
        expiry => known.expiry);
end
$$;
comment on function loyalty.grant_by_rule is
    'Grants by a rule of kind manual: as many points as its terms say unless given, up to its max_points. The grant''s idempotency key is rule/<code>/<key>, so that it counts as that rule''s. 22023, 22004, LY002, LY003, LY004.';

create function loyalty.explain_rule(
    account_id bigint,
    rule text,
    out kind text,
    out version integer,
    out last_paid_on date,
    out last_points bigint,
    out period date,
    out pays_on date,
    out points bigint,
    out explanation text
) returns record
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    program record;
    member loyalty.member;
    known loyalty.rule;
    next record;
    paid record;
    today date;
    ends date;
    up_to date;
    wanted text;
    fact date;
    years integer;
begin
    select p.program_id, p.code, a.member_no, w.status into program
      from loyalty.account a
      join loyalty.program p on p.program_id = a.program_id
      left join loyalty.wallet w on w.account_id = a.account_id
     where a.account_id = explain_rule.account_id;
    if not found then
        perform loyalty.raise('LY002', 'no such account', format('%s given.', explain_rule.account_id),
            'loyalty.open_account returned its number.');
    end if;
    today := loyalty.today(program.code);
    -- the version of today, else the next, else the last
    select r.* into known
      from loyalty.rule r
     where r.program_id = program.program_id and r.code = explain_rule.rule
     order by (r.valid_to < r.valid_from) is true,
              (r.valid_to < today) is true,
              case when (r.valid_to < today) is true then -r.version else r.version end
     limit 1;
    if not found then
        perform loyalty.raise('LY002', 'no such rule', format('%L given.', explain_rule.rule),
            'loyalty.rule has them.');
    end if;
    kind := known.kind;
    version := known.version;
    select case when bool_and(r.valid_to is not null) then max(r.valid_to) end into ends
      from loyalty.rule r
     where r.program_id = program.program_id and r.code = known.code and (r.valid_to >= r.valid_from) is not false;
    select e.granted_on, e.points into last_paid_on, last_points
      from loyalty.entry e
     where e.account_id = explain_rule.account_id
       and e.kind = 'grant'
       and starts_with(e.idempotency_key, format('rule/%s/', known.code))
     order by e.entry desc
     limit 1;

    if program.status = 'closed' then
        explanation := 'None: the account is closed.';
        return;
    end if;
    if known.kind = 'manual' then
        explanation := case when today between known.valid_from and coalesce(known.valid_to, 'infinity')
            then 'Paid when somebody grants it by hand.'
            else format('None: the rule is in force from %s to %s.', known.valid_from,
                        coalesce(known.valid_to::text, 'no end')) end;
        return;
    end if;
    if known.kind in ('event', 'purchase') then
        wanted := coalesce(known.terms ->> 'event', 'purchase');
        select p.pays_on, p.points, e.event_id, e.occurred_on, p.party into next
          from loyalty.event e
         cross join lateral loyalty.event_payments(e.event_id) p
         where (e.account_id = explain_rule.account_id or e.other_account_id = explain_rule.account_id)
           and e.canceled_at is null
           and e.kind = wanted
           -- no rule pays later than two years and some rolling after
           and e.occurred_on > today - 800
           and p.account_id = explain_rule.account_id
           and p.rule = known.code
           and p.operation_id is null
           and p.pays_on >= today
         order by p.pays_on, e.event_id
         limit 1;
        if found then
            pays_on := next.pays_on;
            points := next.points;
            version := (loyalty.rule_pay_day(program.program_id, known.code, next.occurred_on)).version;
            period := (loyalty.rule_pay_day(program.program_id, known.code, next.occurred_on)).period;
            explanation := format('%s on %s for event %s (%s) of %s, as its %s.', points, pays_on, next.event_id,
                                  wanted, next.occurred_on,
                                  case next.party when 'other' then 'other member' else 'member' end);
        elsif ends < today then
            explanation := format('None: the rule ended on %s.', ends);
        else
            explanation := format('None: no event %L that is still to be paid.', wanted);
        end if;
        return;
    end if;

    -- what is left goes by the member's record
    select m.* into member from loyalty.member m where m.account_id = explain_rule.account_id;
    wanted := coalesce(known.terms ->> 'fact', 'birth_date');
    fact := case when known.kind = 'birthday' then member.birth_date
                 else loyalty.fact_day(member.facts ->> wanted) end;
    up_to := case known.kind
        when 'tenure' then '2099-12-31'
        when 'birthday' then today + 800
        else least('2099-12-31', today + 800 + 31 * coalesce(
            (known.terms ->> 'every_years')::integer * 12, (known.terms ->> 'every_months')::integer)) end;
    up_to := greatest(up_to, ((known.terms #>> '{cut_off,first_month}') || '-28')::date + 400, known.valid_from + 800);
    if fact is not null then
        for next in
            select p.period, p.pays_on
              from loyalty.rule_periods(program.program_id, known.code, today - 400, up_to) p
             where p.pays_on >= today
               -- a birthday rule may have a period each day
               and (known.kind <> 'birthday' or known.terms ? 'day_of_month'
                    or loyalty.birthday_between(fact, p.period - 62, p.period) is not null)
        loop
            paid := loyalty.rule_payments(
                program.program_id, known.code, next.period, explain_rule.account_id - 1, 1);
            for place in 1 .. cardinality(paid.account_ids) loop
                if paid.account_ids[place] = explain_rule.account_id and not exists (
                       select from loyalty.entry e
                        where e.account_id = explain_rule.account_id
                          and hashtextextended(e.idempotency_key, 0)
                              = hashtextextended(paid.idempotency_keys[place], 0)
                          and e.idempotency_key = paid.idempotency_keys[place]) then
                    period := next.period;
                    pays_on := next.pays_on;
                    points := paid.points[place];
                    version := (loyalty.rule_reach(program.program_id, known.code, period)).version;
                    explanation := format('%s on %s', points, pays_on)
                        || case when pays_on <> period then format(', the first business day from %s on', period) else '' end
                        || case known.kind
                               when 'birthday' then format(', for the birthday of %s.', fact)
                               when 'tenure' then format(', for %s full years from %s %s to %s.',
                                   loyalty.full_years(fact, (known.terms ->> 'key_date')::date), wanted, fact,
                                   known.terms ->> 'key_date')
                               when 'anniversary' then
                                   case when fact <= (known.terms #>> '{cut_off,fact_until}')::date
                                        then format(', since %s %s is up to %s, which pays from %s on.', wanted, fact,
                                                    known.terms #>> '{cut_off,fact_until}',
                                                    known.terms #>> '{cut_off,first_month}')
                                        else format(', %s months after the month of %s %s.',
                                                    split_part(paid.idempotency_keys[place], '/', 3), wanted, fact)
                                   end
                           end;
                    return;
                end if;
            end loop;
        end loop;
    end if;

    years := loyalty.full_years(fact, (known.terms ->> 'key_date')::date);
    explanation := case
        when member.account_id is null then format('None: the member %L has no record.', program.member_no)
        when known.kind = 'birthday' and fact is null then 'None: the member''s record has no birth_date.'
        when fact is null then format('None: the member''s record has no fact %L.', wanted)
        when known.kind = 'tenure' and last_paid_on is not null then
            format('None: paid once, on %s.', last_paid_on)
        when known.kind = 'tenure' and coalesce(years, -1) < (
                 select min((t ->> 'years')::integer) from jsonb_array_elements(known.terms -> 'table') t) then
            format('None: %s is %s, that is %s full years to %s, and the table begins at %s.', wanted, fact,
                   coalesce(years::text, 'no'), known.terms ->> 'key_date',
                   (select min((t ->> 'years')::integer) from jsonb_array_elements(known.terms -> 'table') t))
        when ends < today then format('None: the rule ended on %s.', ends)
        when known.kind = 'tenure' then format('None: its day of payment, %s, is over.', known.terms ->> 'pays_on')
        when ends is not null then
            format('None: no payment falls due before the rule ends on %s.', ends)
        else format('None: no payment falls due up to %s.', up_to)
    end;
end
$$;
comment on function loyalty.explain_rule is
    'When a member is paid next by a rule, how much and why, or why nothing is to come; and what was paid last. By the facts and events of now. LY002.';
-- What members are told, when and by whom (C18): settings of a program, and what each member
-- wants. A program tells nothing until set_notice says so.

create table loyalty.notice_setting (
    program_id integer not null references loyalty.program,
    kind text not null
        constraint notice_setting_kind_is_known
            check (kind in ('points_received', 'balance', 'expiry', 'order_received')),
    is_enabled boolean not null,
    days_of_month integer[]
        constraint notice_setting_days_are_of_a_month
            check (cardinality(days_of_month) > 0
                   and 1 <= all (days_of_month) and 31 >= all (days_of_month)),
    at time
        constraint notice_setting_at_is_before_midnight check (at < '24:00'),
    days_before integer
        constraint notice_setting_days_before_is_sane check (days_before between 0 and 60),
    send_within interval not null
        constraint notice_setting_send_within_is_sane
            check (send_within between interval '1 minute' and interval '30 days'),
    primary key (program_id, kind),
    constraint notice_setting_fits_kind check (
        (days_of_month is not null) = (kind = 'balance')
        and (days_before is not null) = (kind = 'expiry')
        and (at is not null) = (kind in ('balance', 'expiry')))
);

comment on table loyalty.notice_setting is
    'Which notices a program sends, and when; a kind without a row is not sent. Written by loyalty.set_notice.';
comment on column loyalty.notice_setting.program_id is 'The program.';
comment on column loyalty.notice_setting.kind is 'points_received, balance, expiry or order_received.';
comment on column loyalty.notice_setting.is_enabled is 'Whether it is sent.';
comment on column loyalty.notice_setting.days_of_month is
    'Of balance: the days of the month; one that a month does not have is its last.';
comment on column loyalty.notice_setting.at is 'Of balance and expiry: the time of day in the program''s time zone.';
comment on column loyalty.notice_setting.days_before is
    'Of expiry: how many days before the last day the daily notices begin; the last one comes on that day.';
comment on column loyalty.notice_setting.send_within is
    'How long a notice may wait to be sent; later it is given up. One of expiry never outlasts its day.';

create table loyalty.notice_sender (
    program_id integer primary key references loyalty.program,
    email text
        constraint notice_sender_email_is_a_mailbox
            check (char_length(email) <= 300
                   and email ~ '^([^][<>()@,;:\\"[:cntrl:]]+ <[^][<>()@,;:\\"[:cntrl:][:space:]]+@[A-Za-z0-9.-]+>|[^][<>()@,;:\\"[:cntrl:][:space:]]+@[A-Za-z0-9.-]+)$'),
    sms text
        constraint notice_sender_sms_is_short check (sms ~ '^[+A-Za-z0-9][A-Za-z0-9 ._-]{1,19}$'),
    language text not null default 'ja'
        constraint notice_sender_language_is_a_tag check (language ~ '^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$'),
    preferences_url text
        constraint notice_sender_preferences_url_is_a_url
            check (char_length(preferences_url) <= 500
                   and preferences_url ~ '^(https?://|mailto:)[^<>"[:space:][:cntrl:]]+$'),
    max_attempts integer not null default 10
        constraint notice_sender_max_attempts_is_sane check (max_attempts between 1 and 100),
    first_retry interval not null default '1 minute'
        constraint notice_sender_first_retry_is_sane
            check (first_retry between interval '1 second' and interval '1 day'),
    longest_retry interval not null default '2 hours'
        constraint notice_sender_longest_retry_is_sane
            check (longest_retry between first_retry and interval '7 days')
);

comment on table loyalty.notice_sender is
    'Who a program''s notices come from, and how long sending them is tried. Written by loyalty.set_notice_sender.';
comment on column loyalty.notice_sender.program_id is 'The program.';
comment on column loyalty.notice_sender.email is 'Sender of mails, as points@example.com or Sample Club <points@example.com>; null sends none.';
comment on column loyalty.notice_sender.sms is 'Sender of short messages to members who have no e-mail address; null sends none.';
comment on column loyalty.notice_sender.language is 'Language of notices to members for whose own language there is no template.';
comment on column loyalty.notice_sender.preferences_url is 'Where members choose what they are sent; also the mail''s List-Unsubscribe.';
comment on column loyalty.notice_sender.max_attempts is 'After so many failed attempts a notice is given up.';
comment on column loyalty.notice_sender.first_retry is 'Wait after the first failed attempt; each further one doubles it.';
comment on column loyalty.notice_sender.longest_retry is 'The longest wait between two attempts.';

create table loyalty.notice_preference (
    account_id bigint not null references loyalty.account,
    kind text not null
        constraint notice_preference_kind_is_known
            check (kind in ('points_received', 'balance', 'expiry', 'order_received')),
    is_wanted boolean not null,
    changed_at timestamptz not null,
    primary key (account_id, kind),
    constraint notice_preference_order_received_stays check (is_wanted or kind <> 'order_received')
);

comment on table loyalty.notice_preference is
    'What members chose; without a row a notice is wanted. Order received cannot be refused (C18).';
comment on column loyalty.notice_preference.account_id is 'The member''s account.';
comment on column loyalty.notice_preference.kind is 'The kind of notice.';
comment on column loyalty.notice_preference.is_wanted is 'Whether the member wants it.';
comment on column loyalty.notice_preference.changed_at is 'When that was chosen.';

create function loyalty.check_notice_kind(kind text) returns void
    language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
    if kind is null or kind not in ('points_received', 'balance', 'expiry', 'order_received') then
        perform loyalty.raise('22023', 'kind is unknown', format('kind: %L given.', left(kind, 100)),
            'There are points_received, balance, expiry and order_received.');
    end if;
end
$$;
comment on function loyalty.check_notice_kind is 'Refuses an unknown kind of notice.';

create function loyalty.check_notice_setting(setting loyalty.notice_setting) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    wrong text;
    given text;
    hint text;
begin
    if (setting.days_of_month is not null) <> (setting.kind = 'balance') then
        wrong := 'days_of_month does not apply to this kind';
        given := setting.days_of_month;
        hint := 'Only balance is sent on days of the month.';
    elsif cardinality(setting.days_of_month) = 0 or array_position(setting.days_of_month, null) is not null
          or 1 > any (setting.days_of_month) or 31 < any (setting.days_of_month) then
        wrong := 'days_of_month has what is no day of a month';
        given := setting.days_of_month;
        hint := 'Days from 1 to 31, at least one; a day that a month does not have is its last.';
    elsif (setting.at is not null) <> (setting.kind in ('balance', 'expiry')) then
        wrong := 'at does not apply to this kind';
        given := setting.at;
        hint := 'Only balance and expiry are sent at a time of day.';
    elsif setting.at >= '24:00' then
        wrong := 'at must be before midnight';
        given := setting.at;
        hint := 'A time from 00:00 to 23:59.';
    elsif (setting.days_before is not null) <> (setting.kind = 'expiry') then
        wrong := 'days_before does not apply to this kind';
        given := setting.days_before;
        hint := 'Only expiry begins so many days before.';
    elsif setting.days_before not between 0 and 60 then
        wrong := 'days_before is out of range';
        given := setting.days_before;
        hint := 'From 0 (on the last day only) to 60.';
    elsif setting.send_within not between interval '1 minute' and interval '30 days' then
        wrong := 'send_within is out of range';
        given := setting.send_within;
        hint := 'From 1 minute to 30 days.';
    end if;
    if wrong is not null then
        perform loyalty.raise('22023', wrong, format('kind %s, %s: %L given.',
            setting.kind, split_part(wrong, ' ', 1), given), hint);
    end if;
end
$$;
comment on function loyalty.check_notice_setting is 'Refuses a setting that cannot be, with the name of the wrong field.';

create function loyalty.set_notice(
    program text,
    kind text,
    is_enabled boolean default null,
    days_of_month integer[] default null,
    at time default null,
    days_before integer default null,
    send_within interval default null
) returns loyalty.notice_setting
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    wanted loyalty.notice_setting;
begin
    perform loyalty.check_notice_kind(set_notice.kind);
    -- one at a time in a program: two callers must not overwrite what the other one set
    perform 1 from loyalty.program p
      where p.program_id = loyalty.program_id(set_notice.program) for no key update;
    select * into wanted
      from loyalty.notice_setting s
     where s.program_id = loyalty.program_id(set_notice.program) and s.kind = set_notice.kind;
    if not found then
        wanted.program_id := loyalty.program_id(set_notice.program);
        wanted.kind := set_notice.kind;
        wanted.is_enabled := false;
        wanted.days_of_month := case set_notice.kind when 'balance' then '{1,15}'::integer[] end;
        wanted.at := case set_notice.kind when 'balance' then time '13:00' when 'expiry' then '08:45' end;
        wanted.days_before := case set_notice.kind when 'expiry' then 7 end;
        wanted.send_within := case when set_notice.kind in ('balance', 'expiry')
                                   then interval '1 day' else '3 days' end;
    end if;
    wanted.is_enabled := coalesce(set_notice.is_enabled, wanted.is_enabled);
    wanted.days_of_month := coalesce(set_notice.days_of_month, wanted.days_of_month);
    wanted.at := coalesce(set_notice.at, wanted.at);
    wanted.days_before := coalesce(set_notice.days_before, wanted.days_before);
    wanted.send_within := coalesce(set_notice.send_within, wanted.send_within);
    perform loyalty.check_notice_setting(wanted);
    wanted.days_of_month := (select array_agg(distinct d order by d) from unnest(wanted.days_of_month) d);
    if wanted.is_enabled and not exists (
           select from loyalty.notice_sender f
            where f.program_id = wanted.program_id and (f.email is not null or f.sms is not null)) then
        perform loyalty.raise('22023', 'is_enabled needs a sender',
            format('Program %L has neither an e-mail nor an SMS sender.', set_notice.program),
            'loyalty.set_notice_sender(program => …, email => …) says who the notices come from.');
    end if;
    insert into loyalty.notice_setting as s
    values (wanted.*)
        on conflict (program_id, kind) do update
       set is_enabled = excluded.is_enabled, days_of_month = excluded.days_of_month, at = excluded.at,
           days_before = excluded.days_before, send_within = excluded.send_within;
    if wanted.kind = 'points_received' then
        update loyalty.program p
           set announces_grants = wanted.is_enabled
         where p.program_id = wanted.program_id and p.announces_grants <> wanted.is_enabled;
    elsif wanted.kind in ('balance', 'expiry') then
        perform loyalty.plan_schedule(wanted.program_id, 'notice:' || wanted.kind);
    end if;
    return wanted;
end
$$;
comment on function loyalty.set_notice is
    'Switches a kind of notice on or off and sets when it is sent; what is null stays as it is. At first: off, balance on the 1st and 15th at 13:00, expiry daily at 08:45 from 7 days before the last day. 22023 names the wrong field.';

create function loyalty.enable_notices(program text) returns setof loyalty.notice_setting
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    each_kind text;
begin
    foreach each_kind in array array['points_received', 'balance', 'expiry', 'order_received'] loop
        return next loyalty.set_notice(program, each_kind, true);
    end loop;
end
$$;
comment on function loyalty.enable_notices is
    'Switches all four kinds of notices on, each as it is set. 22023 when the program has no sender yet.';

create function loyalty.set_notice_sender(
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
comment on function loyalty.set_notice_sender is
    'Who a program''s notices come from, the language where a member''s own has no template, where members choose what they want, and how often sending is tried. What is null stays as it is, an empty string empties it. 22023 names the wrong field.';

create function loyalty.set_notice_preference(account_id bigint, kind text, is_wanted boolean)
    returns loyalty.notice_preference
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    written loyalty.notice_preference;
begin
    perform loyalty.check_notice_kind(set_notice_preference.kind);
    if set_notice_preference.is_wanted is null then
        perform loyalty.raise('22004', 'is_wanted must not be null', null, 'true or false.');
    elsif set_notice_preference.kind = 'order_received' and not set_notice_preference.is_wanted then
        perform loyalty.raise('22023', 'order_received cannot be refused', null,
            'It tells of an order that the member placed; the other kinds can be refused.');
    elsif not exists (
           select from loyalty.account a where a.account_id = set_notice_preference.account_id) then
        perform loyalty.raise('LY002', 'no such account',
            format('Account %s does not exist.', coalesce(set_notice_preference.account_id::text, 'null')),
            'loyalty.open_account(program, member_no) gives a member''s account.');
    end if;
    insert into loyalty.notice_preference as p (account_id, kind, is_wanted, changed_at)
    values (set_notice_preference.account_id, set_notice_preference.kind,
            set_notice_preference.is_wanted, loyalty.now())
        on conflict (account_id, kind) do update
       set is_wanted = excluded.is_wanted, changed_at = excluded.changed_at
    returning p.* into written;
    return written;
end
$$;
comment on function loyalty.set_notice_preference is
    'Writes whether a member wants a kind of notice. 22023 for an unknown kind, and for order_received, which cannot be refused (C18); LY002.';

create function loyalty.next_notice(program_id integer, kind text, after timestamptz)
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
     order by d.due_at
     limit 1;
end;
comment on function loyalty.next_notice is
    'The first occasion after an instant on which a program sends its balance or expiry notices: the day it is for, and when; no row when it sends none.';
-- Texts of notices. A row without a program is supplied with the extension, and used where
-- a program has none of its own.

create table loyalty.notice_template (
    program_id integer references loyalty.program,
    kind text not null
        constraint notice_template_kind_is_known
            check (kind in ('points_received', 'balance', 'expiry', 'order_received',
                            'verification_code', 'login_in_use', 'password_reset', 'unlock', 'login_change',
                            'login_approved', 'family_approval', 'family_invitation', 'staff_invitation',
                            'password_changed')),
    language text not null
        constraint notice_template_language_is_a_tag check (language ~ '^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$'),
    subject text not null
        constraint notice_template_subject_is_a_line check (subject !~ '[[:cntrl:]]'),
    text_body text not null,
    html_body text,
    sms_body text,
    changed_at timestamptz,
    constraint notice_template_is_unique unique nulls not distinct (program_id, kind, language)
);

comment on table loyalty.notice_template is
    'Texts of notices, a small part of Jinja. Those without a program are supplied; a program''s own, written by loyalty.set_template, go before them.';
comment on column loyalty.notice_template.program_id is 'The program; null when it is supplied for all.';
comment on column loyalty.notice_template.kind is 'The kind of notice.';
comment on column loyalty.notice_template.language is 'Its language, as a BCP 47 tag.';
comment on column loyalty.notice_template.subject is 'Subject of the mail, one line.';
comment on column loyalty.notice_template.text_body is 'The mail as plain text.';
comment on column loyalty.notice_template.html_body is 'The mail as HTML, in which values are escaped; null when it has none.';
comment on column loyalty.notice_template.sms_body is 'The short message; null when there is none.';
comment on column loyalty.notice_template.changed_at is 'When it was last written; null when supplied.';

create type loyalty.filled_template as (
    subject text,
    text_body text,
    html_body text,
    sms_body text,
    error text
);
comment on type loyalty.filled_template is 'Texts of a template with its variables filled in, or why they could not be.';
comment on column loyalty.filled_template.subject is 'The subject.';
comment on column loyalty.filled_template.text_body is 'The plain text.';
comment on column loyalty.filled_template.html_body is 'The HTML.';
comment on column loyalty.filled_template.sms_body is 'The short message.';
comment on column loyalty.filled_template.error is 'Part, line and what is wrong there; null when nothing is.';

create function loyalty.check_template(
    kind text,
    language text,
    subject text,
    text_body text,
    html_body text,
    sms_body text
) returns void
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_check_template';
comment on function loyalty.check_template is
    'Refuses a template (22023) with the part and line of what is wrong: syntax, size, a variable that the kind does not have or that may be missing, more than templates may do. It is filled in with examples as a part of that.';

create function loyalty.render_template(
    language text,
    subject text,
    text_body text,
    html_body text,
    sms_body text,
    context text
) returns loyalty.filled_template
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_render_template';
comment on function loyalty.render_template is
    'Fills in texts from a context, a JSON object; parts that are null stay null. What cannot be filled in comes back as error.';

create function loyalty.template_example(kind text, language text) returns text
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_template_example';
comment on function loyalty.template_example is
    'Every variable that templates of a kind have, with an example, as a JSON object.';

create function loyalty.template_for(program_id integer, kind text, language text)
    returns loyalty.notice_template
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select t.*
      from loyalty.notice_template t
      left join loyalty.notice_sender f on f.program_id = template_for.program_id
     -- en-GB takes en; then what the program usually writes
     cross join lateral (
            select array[template_for.language, split_part(template_for.language, '-', 1),
                         coalesce(f.language, 'ja'), split_part(coalesce(f.language, 'ja'), '-', 1),
                         'ja'] as wanted) l
     where (t.program_id = template_for.program_id or t.program_id is null)
       and t.kind = template_for.kind
       and t.language = any (l.wanted)
     order by array_position(l.wanted, t.language), t.program_id nulls last
     limit 1;
end;
comment on function loyalty.template_for is
    'The template for a member of that language: the program''s own, else the supplied one; else in the program''s usual language.';

create function loyalty.set_template(
    program text,
    kind text,
    language text,
    subject text,
    text_body text,
    html_body text default null,
    sms_body text default null
) returns loyalty.notice_template
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    written loyalty.notice_template;
    owner integer := loyalty.program_id(set_template.program);
begin
    if set_template.language is null
       or set_template.language !~ '^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$' then
        perform loyalty.raise('22023', 'language is no language tag',
            format('language: %L given.', left(set_template.language, 100)), 'A BCP 47 tag such as ja or en.');
    end if;
    perform loyalty.check_template(set_template.kind, set_template.language, set_template.subject,
        set_template.text_body, set_template.html_body, set_template.sms_body);
    insert into loyalty.notice_template as t
           (program_id, kind, language, subject, text_body, html_body, sms_body, changed_at)
    values (owner, set_template.kind, set_template.language, set_template.subject, set_template.text_body,
            set_template.html_body, set_template.sms_body, loyalty.now())
        on conflict on constraint notice_template_is_unique do update
       set subject = excluded.subject, text_body = excluded.text_body, html_body = excluded.html_body,
           sms_body = excluded.sms_body, changed_at = excluded.changed_at
    returning t.* into written;
    return written;
end
$$;
comment on function loyalty.set_template is
    'Writes a program''s own template for a kind and language, checked as a whole: 22023 names the part and line. html_body null sends plain text only; sms_body null sends no short messages. Notices not yet sent take it.';

create function loyalty.delete_template(program text, kind text, language text) returns boolean
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    delete from loyalty.notice_template t
     where t.program_id = loyalty.program_id(delete_template.program)
       and t.kind = delete_template.kind
       and t.language = delete_template.language;
    return found;
end
$$;
comment on function loyalty.delete_template is
    'Takes a program''s own template away, so that the supplied one is used again; whether there was one.';

create function loyalty.preview_template(
    program text,
    kind text,
    language text default 'ja',
    subject text default null,
    text_body text default null,
    html_body text default null,
    sms_body text default null
) returns loyalty.filled_template
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    shown loyalty.notice_template;
    named loyalty.program;
    context jsonb;
begin
    select * into strict named from loyalty.program p where p.program_id = loyalty.program_id(program);
    shown := loyalty.template_for(named.program_id, kind, language);
    if coalesce(subject, text_body, html_body, sms_body) is not null then
        shown.language := language;
        shown.subject := coalesce(preview_template.subject, shown.subject);
        shown.text_body := coalesce(preview_template.text_body, shown.text_body);
        shown.html_body := preview_template.html_body;
        shown.sms_body := preview_template.sms_body;
        perform loyalty.check_template(
            kind, language, shown.subject, shown.text_body, shown.html_body, shown.sms_body);
    end if;
    context := loyalty.template_example(kind, shown.language)::jsonb
        || jsonb_build_object('program', jsonb_build_object('name', named.name, 'point_name', named.point_name));
    return loyalty.render_template(
        shown.language, shown.subject, shown.text_body, shown.html_body, shown.sms_body, context::text);
end
$$;
comment on function loyalty.preview_template is
    'A program''s template filled in with an example: the one that members of the language get, or one not written yet when texts are given, checked as set_template does.';
-- The supplied texts, in Japanese and English. Each is its own part between a greeting and a
-- closing that all of its language share.
with frame (language, text_head, text_foot, html_head, html_foot) as (
    values ('ja',
$${% if member.name %}
{{ member.name }} 様
{% else %}
会員番号 {{ member.member_no }} 様
{% endif %}

いつも{{ program.name }}をご利用いただき、誠にありがとうございます。
$$,
$$
──────────────────────────────
{{ program.name }}
このメールは送信専用のアドレスからお送りしています。ご返信いただいてもお答えできませんので、ご了承ください。
{% if preferences_url %}
お知らせメールの受信設定は、次のページで変更いただけます。
{{ preferences_url }}
{% endif %}
$$,
$$<!DOCTYPE html>
<html lang="ja">
<head><meta charset="utf-8"><title>{{ program.name }}</title></head>
<body style="margin:0;padding:24px;color:#222;font-family:sans-serif;line-height:1.7">
<div style="max-width:560px;margin:0 auto">
<p>
{% if member.name %}
{{ member.name }} 様
{% else %}
会員番号 {{ member.member_no }} 様
{% endif %}
</p>
<p>いつも{{ program.name }}をご利用いただき、誠にありがとうございます。</p>
$$,
$$<hr style="border:0;border-top:1px solid #ccc">
<p style="color:#666;font-size:12px">{{ program.name }}<br>
このメールは送信専用のアドレスからお送りしています。ご返信いただいてもお答えできませんので、ご了承ください。
{% if preferences_url %}
<br><a href="{{ preferences_url }}" style="color:#666">お知らせメールの受信設定を変更する</a>
{% endif %}
</p>
</div>
</body>
</html>
$$),
    ('en',
$${% if member.name %}
Dear {{ member.name }},
{% else %}
Dear member {{ member.member_no }},
{% endif %}

Thank you for being a member of {{ program.name }}.
$$,
$$
--------------------------------------------------
{{ program.name }}
This address only sends mail; replies to it are not read.
{% if preferences_url %}
Choose which mails you receive:
{{ preferences_url }}
{% endif %}
$$,
$$<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{{ program.name }}</title></head>
<body style="margin:0;padding:24px;color:#222;font-family:sans-serif;line-height:1.6">
<div style="max-width:560px;margin:0 auto">
<p>
{% if member.name %}
Dear {{ member.name }},
{% else %}
Dear member {{ member.member_no }},
{% endif %}
</p>
<p>Thank you for being a member of {{ program.name }}.</p>
$$,
$$<hr style="border:0;border-top:1px solid #ccc">
<p style="color:#666;font-size:12px">{{ program.name }}<br>
This address only sends mail; replies to it are not read.
{% if preferences_url %}
<br><a href="{{ preferences_url }}" style="color:#666">Choose which mails you receive</a>
{% endif %}
</p>
</div>
</body>
</html>
$$)
), own (kind, language, subject, text_body, html_body, sms_body) as (
    values
('points_received', 'ja',
$$【{{ program.name }}】{{ points | number }}{{ program.point_name }}を付与いたしました$$,
$$下記のとおり{{ program.point_name }}を付与いたしましたので、お知らせいたします。

{% if reason %}
■ 付与内容: {{ reason }}
{% endif %}
■ 付与数  : {{ points | number }}{{ program.point_name }}
■ 付与日  : {{ granted_on | date }}({{ granted_on | weekday }})
{% if expires_on %}
■ 有効期限: {{ expires_on | date }}({{ expires_on | weekday }})まで
{% else %}
■ 有効期限: なし
{% endif %}
$$,
$$<p>下記のとおり{{ program.point_name }}を付与いたしましたので、お知らせいたします。</p>
<table cellpadding="6" style="border-collapse:collapse">
{% if reason %}
<tr><th align="left">付与内容</th><td>{{ reason }}</td></tr>
{% endif %}
<tr><th align="left">付与数</th><td><strong>{{ points | number }}</strong>{{ program.point_name }}</td></tr>
<tr><th align="left">付与日</th><td>{{ granted_on | date }}({{ granted_on | weekday }})</td></tr>
<tr><th align="left">有効期限</th><td>
{% if expires_on %}
{{ expires_on | date }}({{ expires_on | weekday }})まで
{% else %}
なし
{% endif %}
</td></tr>
</table>
$$,
$$【{{ program.name }}】{{ points | number }}{{ program.point_name }}を付与いたしました。{% if expires_on %}有効期限は{{ expires_on | date }}です。{% endif %}$$),
('points_received', 'en',
$${{ program.name }}: {{ points | number }} {{ program.point_name }} received$$,
$$We are pleased to tell you of what has been added to your account.

{% if reason %}
For:         {{ reason }}
{% endif %}
Received:    {{ points | number }} {{ program.point_name }}
On:          {{ granted_on | date }}
{% if expires_on %}
Valid until: {{ expires_on | date }}
{% else %}
Valid until: no limit
{% endif %}
$$,
$$<p>We are pleased to tell you of what has been added to your account.</p>
<table cellpadding="6" style="border-collapse:collapse">
{% if reason %}
<tr><th align="left">For</th><td>{{ reason }}</td></tr>
{% endif %}
<tr><th align="left">Received</th><td><strong>{{ points | number }}</strong> {{ program.point_name }}</td></tr>
<tr><th align="left">On</th><td>{{ granted_on | date }}</td></tr>
<tr><th align="left">Valid until</th><td>
{% if expires_on %}
{{ expires_on | date }}
{% else %}
no limit
{% endif %}
</td></tr>
</table>
$$,
$${{ program.name }}: {{ points | number }} {{ program.point_name }} received.{% if expires_on %} Valid until {{ expires_on | date }}.{% endif %}$$),
('balance', 'ja',
$$【{{ program.name }}】{{ program.point_name }}残高のお知らせ$$,
$${{ today | date }}({{ today | weekday }})現在の{{ program.point_name }}残高をお知らせいたします。

■ 残高    : {{ points | number }}{{ program.point_name }}
{% if expires_on %}
■ 有効期限: うち{{ expiring_points | number }}{{ program.point_name }}は{{ expires_on | date }}({{ expires_on | weekday }})まで
{% endif %}
$$,
$$<p>{{ today | date }}({{ today | weekday }})現在の{{ program.point_name }}残高をお知らせいたします。</p>
<table cellpadding="6" style="border-collapse:collapse">
<tr><th align="left">残高</th><td><strong>{{ points | number }}</strong>{{ program.point_name }}</td></tr>
{% if expires_on %}
<tr><th align="left">有効期限</th><td>うち{{ expiring_points | number }}{{ program.point_name }}は{{ expires_on | date }}({{ expires_on | weekday }})まで</td></tr>
{% endif %}
</table>
$$,
$$【{{ program.name }}】{{ today | date }}現在の残高は{{ points | number }}{{ program.point_name }}です。{% if expires_on %}うち{{ expiring_points | number }}{{ program.point_name }}は{{ expires_on | date }}まで有効です。{% endif %}$$),
('balance', 'en',
$${{ program.name }}: your {{ program.point_name }} balance$$,
$$This is your balance as of {{ today | date }}.

Balance:     {{ points | number }} {{ program.point_name }}
{% if expires_on %}
Of these:    {{ expiring_points | number }} {{ program.point_name }} valid until {{ expires_on | date }}
{% endif %}
$$,
$$<p>This is your balance as of {{ today | date }}.</p>
<table cellpadding="6" style="border-collapse:collapse">
<tr><th align="left">Balance</th><td><strong>{{ points | number }}</strong> {{ program.point_name }}</td></tr>
{% if expires_on %}
<tr><th align="left">Of these</th><td>{{ expiring_points | number }} {{ program.point_name }} valid until {{ expires_on | date }}</td></tr>
{% endif %}
</table>
$$,
$${{ program.name }}: {{ points | number }} {{ program.point_name }} as of {{ today | date }}.{% if expires_on %} {{ expiring_points | number }} of these valid until {{ expires_on | date }}.{% endif %}$$),
('expiry', 'ja',
$$【{{ program.name }}】{% if days_left == 0 %}本日{% else %}{{ expires_on | date }}に{% endif %}有効期限を迎える{{ program.point_name }}がございます$$,
$${% if days_left == 0 %}
お持ちの{{ program.point_name }}のうち、本日が有効期限のものがございます。
{% else %}
お持ちの{{ program.point_name }}のうち、あと{{ days_left }}日で有効期限を迎えるものがございます。
{% endif %}
期限を過ぎますとご利用いただけなくなりますので、どうぞお早めにご利用ください。

{% for lot in lots %}
■ {{ lot.expires_on | date }}({{ lot.expires_on | weekday }})まで: {{ lot.points | number }}{{ program.point_name }}
{% endfor %}

※{{ today | date }}現在の数です。行き違いでご利用済みの場合は、ご容赦ください。
$$,
$$<p>
{% if days_left == 0 %}
お持ちの{{ program.point_name }}のうち、本日が有効期限のものがございます。
{% else %}
お持ちの{{ program.point_name }}のうち、あと{{ days_left }}日で有効期限を迎えるものがございます。
{% endif %}
期限を過ぎますとご利用いただけなくなりますので、どうぞお早めにご利用ください。</p>
<table cellpadding="6" style="border-collapse:collapse">
{% for lot in lots %}
<tr><th align="left">{{ lot.expires_on | date }}({{ lot.expires_on | weekday }})まで</th><td><strong>{{ lot.points | number }}</strong>{{ program.point_name }}</td></tr>
{% endfor %}
</table>
<p style="font-size:12px">※{{ today | date }}現在の数です。行き違いでご利用済みの場合は、ご容赦ください。</p>
$$,
$$【{{ program.name }}】{{ expiring_points | number }}{{ program.point_name }}の有効期限は{{ expires_on | date }}です。お早めにご利用ください。$$),
('expiry', 'en',
$${{ program.name }}: {{ program.point_name }} {% if days_left == 0 %}expiring today{% else %}expiring on {{ expires_on | date }}{% endif %}$$,
$${% if days_left == 0 %}
Some of what you have expires today.
{% elif days_left == 1 %}
Some of what you have expires tomorrow.
{% else %}
Some of what you have expires in {{ days_left }} days.
{% endif %}
After its last day it can no longer be used.

{% for lot in lots %}
Valid until {{ lot.expires_on | date }}: {{ lot.points | number }} {{ program.point_name }}
{% endfor %}

As of {{ today | date }}; if you have used it meanwhile, please disregard this mail.
$$,
$$<p>
{% if days_left == 0 %}
Some of what you have expires today.
{% elif days_left == 1 %}
Some of what you have expires tomorrow.
{% else %}
Some of what you have expires in {{ days_left }} days.
{% endif %}
After its last day it can no longer be used.</p>
<table cellpadding="6" style="border-collapse:collapse">
{% for lot in lots %}
<tr><th align="left">Valid until {{ lot.expires_on | date }}</th><td><strong>{{ lot.points | number }}</strong> {{ program.point_name }}</td></tr>
{% endfor %}
</table>
<p style="font-size:12px">As of {{ today | date }}; if you have used it meanwhile, please disregard this mail.</p>
$$,
$${{ program.name }}: {{ expiring_points | number }} {{ program.point_name }} valid until {{ expires_on | date }}. Please use them in time.$$),
('order_received', 'ja',
$$【{{ program.name }}】お申し込みを受け付けました(申込番号: {{ order.number }})$$,
$$このたびはお申し込みいただき、ありがとうございます。下記の内容で承りました。

■ 申込番号: {{ order.number }}
■ 商品    : {{ order.item }}
■ 数量    : {{ order.quantity | number }}
■ ご利用数: {{ order.points | number }}{{ program.point_name }}
■ 受付日  : {{ today | date }}({{ today | weekday }})

お心当たりのない場合は、お手数ですがお問い合わせください。
$$,
$$<p>このたびはお申し込みいただき、ありがとうございます。下記の内容で承りました。</p>
<table cellpadding="6" style="border-collapse:collapse">
<tr><th align="left">申込番号</th><td>{{ order.number }}</td></tr>
<tr><th align="left">商品</th><td>{{ order.item }}</td></tr>
<tr><th align="left">数量</th><td>{{ order.quantity | number }}</td></tr>
<tr><th align="left">ご利用数</th><td>{{ order.points | number }}{{ program.point_name }}</td></tr>
<tr><th align="left">受付日</th><td>{{ today | date }}({{ today | weekday }})</td></tr>
</table>
<p>お心当たりのない場合は、お手数ですがお問い合わせください。</p>
$$,
$$【{{ program.name }}】お申し込み(申込番号: {{ order.number }})を受け付けました。$$),
('order_received', 'en',
$${{ program.name }}: order {{ order.number }} received$$,
$$Thank you for your order. We have received it as follows.

Order:       {{ order.number }}
Item:        {{ order.item }}
Quantity:    {{ order.quantity | number }}
Used:        {{ order.points | number }} {{ program.point_name }}
Received on: {{ today | date }}

If you did not place it, please contact us.
$$,
$$<p>Thank you for your order. We have received it as follows.</p>
<table cellpadding="6" style="border-collapse:collapse">
<tr><th align="left">Order</th><td>{{ order.number }}</td></tr>
<tr><th align="left">Item</th><td>{{ order.item }}</td></tr>
<tr><th align="left">Quantity</th><td>{{ order.quantity | number }}</td></tr>
<tr><th align="left">Used</th><td>{{ order.points | number }} {{ program.point_name }}</td></tr>
<tr><th align="left">Received on</th><td>{{ today | date }}</td></tr>
</table>
<p>If you did not place it, please contact us.</p>
$$,
$${{ program.name }}: your order {{ order.number }} has been received.$$)
)
insert into loyalty.notice_template (program_id, kind, language, subject, text_body, html_body, sms_body)
select null, o.kind, o.language, o.subject, f.text_head || o.text_body || f.text_foot,
       f.html_head || o.html_body || f.html_foot, o.sms_body
  from own o
  join frame f on f.language = o.language;
-- The supplied texts of notices about logins: what came, what to do with it, and what to do
-- if it was somebody else. Who is not known to be the one in the member record, as in a mail
-- to an address that nobody has proven yet, is not told a name.
with frame (language, text_foot, html_head, html_foot) as (
    values ('ja',
$$
──────────────────────────────
{{ program.name }}
このメールは送信専用のアドレスからお送りしています。ご返信いただいてもお答えできませんので、ご了承ください。
$$,
$$<!DOCTYPE html>
<html lang="ja">
<head><meta charset="utf-8"><title>{{ program.name }}</title></head>
<body style="margin:0;padding:24px;color:#222;font-family:sans-serif;line-height:1.7">
<div style="max-width:560px;margin:0 auto">
$$,
$$<hr style="border:0;border-top:1px solid #ccc">
<p style="color:#666;font-size:12px">{{ program.name }}<br>
このメールは送信専用のアドレスからお送りしています。ご返信いただいてもお答えできませんので、ご了承ください。</p>
</div>
</body>
</html>
$$),
    ('en',
$$
--------------------------------------------------
{{ program.name }}
This address only sends mail; replies to it are not read.
$$,
$$<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{{ program.name }}</title></head>
<body style="margin:0;padding:24px;color:#222;font-family:sans-serif;line-height:1.6">
<div style="max-width:560px;margin:0 auto">
$$,
$$<hr style="border:0;border-top:1px solid #ccc">
<p style="color:#666;font-size:12px">{{ program.name }}<br>
This address only sends mail; replies to it are not read.</p>
</div>
</body>
</html>
$$)
), greeting (language, whom, salutation) as (
    -- a line break after a block is left out of what it is filled in to
    values
('ja', 'somebody', $${{ program.name }}からのお知らせです。$$),
('en', 'somebody', $$Hello,$$),
('ja', 'member', $${% if member.name %}{{ member.name }} 様{% else %}{{ program.name }}からのお知らせです。{% endif %}
$$),
('en', 'member', $${% if member.name %}Dear {{ member.name }},{% else %}Hello,{% endif %}
$$),
('ja', 'invited', $${{ name }} 様$$),
('en', 'invited', $$Dear {{ name }},$$)
), proof (kind, text_body, html_body) as (
    -- what the mail is about stands on a line of its own
    values
('code',
$$
  {{ code }}

$$,
$$<p style="font-size:28px;letter-spacing:4px"><strong>{{ code }}</strong></p>
$$),
('link',
$$
{{ link }}

$$,
$$<p style="word-break:break-all"><a href="{{ link }}">{{ link }}</a></p>
$$),
('none', $$
$$, '')
), own (kind, language, whom, proof, subject, text_before, text_after, sms_body) as (
    values
('verification_code', 'ja', 'somebody', 'code',
$$【{{ program.name }}】認証コードのお知らせ$$,
$$次の認証コードを、登録画面に入力してください。
$$,
$$発行から{{ minutes | duration }}以内にご入力ください。コードは誰にも教えないでください。当方からお尋ねすることもありません。

お心当たりのない場合は、このメールを破棄してください。登録は行われません。
$$,
$$【{{ program.name }}】認証コード: {{ code }} {{ minutes | duration }}以内にご入力ください。誰にも教えないでください。$$),
('verification_code', 'en', 'somebody', 'code',
$${{ program.name }}: your verification code$$,
$$Please enter this code where you are registering.
$$,
$$It is good for {{ minutes | duration }}. Do not give it to anybody; we never ask for it.

If you are not registering, please ignore this mail; nothing will be registered.
$$,
$${{ program.name }}: your verification code is {{ code }}. Good for {{ minutes | duration }}. Do not give it to anybody.$$),
('login_in_use', 'ja', 'somebody', 'code',
$$【{{ program.name }}】ご登録済みのログインIDについて$$,
$$このアドレスをログインIDとする登録のお申し込みがありましたが、すでにご登録がございます。
ご本人の場合は、次の認証コードを登録画面に入力し、これまでのパスワードでログインしてください。今回の会員情報を、お使いのログインIDに追加できます。
$$,
$$発行から{{ minutes | duration }}以内にご入力ください。コードは誰にも教えないでください。当方からお尋ねすることもありません。

お心当たりのない場合は、このメールを破棄してください。これまでのご登録は変わりません。
$$,
$$【{{ program.name }}】この番号は登録済みです。追加登録の認証コード: {{ code }} {{ minutes | duration }}以内にご入力ください。心当たりがなければ破棄してください。$$),
('login_in_use', 'en', 'somebody', 'code',
$${{ program.name }}: this login ID is registered already$$,
$$Somebody asked to register with this address as login ID, which has been registered before.
If it was you, please enter this code where you are registering, and log in with the password you have. That adds the membership to your login ID.
$$,
$$It is good for {{ minutes | duration }}. Do not give it to anybody; we never ask for it.

If it was not you, please ignore this mail; what you have registered stays as it is.
$$,
$${{ program.name }}: this number is registered already. Code to add a membership: {{ code }}. Good for {{ minutes | duration }}. If it was not you, ignore this.$$),
('password_reset', 'ja', 'member', 'link',
$$【{{ program.name }}】パスワード再設定のご案内$$,
$$パスワード再設定のお申し込みを承りました。
次のURLを開き、お申し込みの画面に表示された4桁の認証キーと、新しいパスワードを入力してください。
$$,
$$お申し込みから{{ minutes | duration }}以内に、一度だけご利用いただけます。

お心当たりのない場合は、このメールを破棄してください。パスワードは変わりません。
$$,
$$【{{ program.name }}】パスワード再設定({{ minutes | duration }}以内): {{ link }} 心当たりがなければ破棄してください。$$),
('password_reset', 'en', 'member', 'link',
$${{ program.name }}: reset your password$$,
$$You asked to reset your password.
Please open this link and enter the key of 4 digits that was shown on the screen, and a new password.
$$,
$$It is good once, within {{ minutes | duration }} of asking.

If you did not ask for it, please ignore this mail; your password stays as it is.
$$,
$${{ program.name }}: reset your password within {{ minutes | duration }}: {{ link }} If it was not you, ignore this.$$),
('unlock', 'ja', 'member', 'link',
$$【{{ program.name }}】ロック解除のご案内$$,
$$誤ったパスワードが続けて入力されたため、ログインを停止しています。
ご本人の場合は、次のURLを開いて停止を解除し、あらためてログインしてください。
$$,
$$お申し込みから{{ minutes | duration }}以内に、一度だけご利用いただけます。

お心当たりのない場合は、URLを開かずにこのメールを破棄してください。ログインは停止したままで、どなたも入れません。
$$,
$$【{{ program.name }}】ロック解除({{ minutes | duration }}以内): {{ link }} 心当たりがなければ破棄してください。$$),
('unlock', 'en', 'member', 'link',
$${{ program.name }}: unlock your login$$,
$$Your login was locked after too many wrong passwords.
If it was you, please open this link to unlock it, and log in again.
$$,
$$It is good once, within {{ minutes | duration }} of asking.

If it was not you, please do not open it and ignore this mail; your login stays locked, and nobody gets in.
$$,
$${{ program.name }}: unlock your login within {{ minutes | duration }}: {{ link }} If it was not you, ignore this.$$),
('login_change', 'ja', 'somebody', 'link',
$$【{{ program.name }}】ログインID変更のご確認$$,
$$このアドレスを新しいログインIDとするお申し込みを承りました。
次のURLを開くと、変更が完了します。
$$,
$$お申し込みから{{ minutes | duration }}以内に、一度だけご利用いただけます。

お心当たりのない場合は、URLを開かずにこのメールを破棄してください。ログインIDは変わりません。
$$,
$$【{{ program.name }}】この番号を新しいログインIDにする({{ minutes | duration }}以内): {{ link }} 心当たりがなければ開かないでください。$$),
('login_change', 'en', 'somebody', 'link',
$${{ program.name }}: confirm your new login ID$$,
$$You asked to log in with this address from now on.
Please open this link to confirm it.
$$,
$$It is good once, within {{ minutes | duration }} of asking.

If you did not ask for it, please do not open the link and ignore this mail; nothing changes.
$$,
$${{ program.name }}: log in with this number from now on, to be confirmed within {{ minutes | duration }}: {{ link }} If it was not you, do not open it.$$),
('login_approved', 'ja', 'member', 'link',
$$【{{ program.name }}】ログインIDのお申し込みを承認いたしました$$,
$$ログインIDのお申し込みを承認いたしました。
次のURLを開き、新しいパスワードを設定してください。このアドレスが新しいログインIDになります。
$$,
$$送信から{{ minutes | duration }}以内に、一度だけご利用いただけます。

お心当たりのない場合は、URLを開かずに、すぐにお問い合わせください。
$$,
$$【{{ program.name }}】ログインIDのお申し込みを承認しました。パスワード設定({{ minutes | duration }}以内): {{ link }} 心当たりがなければお問い合わせください。$$),
('login_approved', 'en', 'member', 'link',
$${{ program.name }}: your application was approved$$,
$$Your application for a login ID was approved.
Please open this link and set a new password. This address is your new login ID then.
$$,
$$It is good once, within {{ minutes | duration }} from now.

If you did not apply, please do not open it and contact us at once.
$$,
$${{ program.name }}: your application was approved. Set a password within {{ minutes | duration }}: {{ link }} If it was not you, contact us at once.$$),
('family_approval', 'ja', 'member', 'link',
$$【{{ program.name }}】ご家族のご招待のご確認$$,
$${{ name }}様をご家族として招待するお申し込みを承りました。
次のURLを開いて承認いただくと、{{ name }}様にご案内をお送りします。
$$,
$$お申し込みから{{ minutes | duration }}以内に、一度だけご利用いただけます。

お心当たりのない場合は、URLを開かずに、すぐにパスワードを変更してください。承認されるまで、ご案内は送られません。
$$,
$$【{{ program.name }}】ご家族のご招待の承認({{ minutes | duration }}以内): {{ link }} 心当たりがなければ開かず、パスワードを変更してください。$$),
('family_approval', 'en', 'member', 'link',
$${{ program.name }}: approve an invitation of your family$$,
$$You asked to invite {{ name }} as one of your family.
Please open this link to approve it; the invitation is sent then.
$$,
$$It is good once, within {{ minutes | duration }} of asking.

If you did not ask for it, please do not open the link and change your password at once; nobody is invited before you approve.
$$,
$${{ program.name }}: approve the invitation of your family within {{ minutes | duration }}: {{ link }} If it was not you, do not open it and change your password.$$),
('family_invitation', 'ja', 'invited', 'link',
$$【{{ program.name }}】ご家族からのご招待$$,
$$ご家族の{% if member.name %}{{ member.name }}様{% else %}会員様{% endif %}から、{{ program.name }}へのご招待です。
次のURLを開き、生年月日とパスワードを入力してご登録ください。
$$,
$${{ minutes | duration }}以内に、一度だけご利用いただけます。

お心当たりのない場合は、このメールを破棄してください。登録は行われません。
$$,
$$【{{ program.name }}】ご家族からのご招待です。ご登録({{ minutes | duration }}以内): {{ link }} 心当たりがなければ破棄してください。$$),
('family_invitation', 'en', 'invited', 'link',
$${{ program.name }}: an invitation from your family$$,
$${% if member.name %}{{ member.name }}, who is of your family, invites{% else %}One of your family invites{% endif %} you to {{ program.name }}.
Please open this link and register with your birth date and a password.
$$,
$$It is good once, within {{ minutes | duration }}.

If this means nothing to you, please ignore this mail; nothing will be registered.
$$,
$${{ program.name }}: your family invites you. Register within {{ minutes | duration }}: {{ link }} If this means nothing to you, ignore it.$$),
('staff_invitation', 'ja', 'somebody', 'link',
$$【{{ program.name }}】担当者アカウントのご案内$$,
$${{ program.name }}の担当者として登録されました。
次のURLを開き、パスワードを設定してください。このアドレスがログインIDになります。
$$,
$${{ minutes | duration }}以内に、一度だけご利用いただけます。

お心当たりのない場合は、URLを開かずにこのメールを破棄してください。
$$,
$$【{{ program.name }}】担当者として登録されました。パスワード設定({{ minutes | duration }}以内): {{ link }} 心当たりがなければ破棄してください。$$),
('staff_invitation', 'en', 'somebody', 'link',
$${{ program.name }}: your staff account$$,
$$You have been made one of the staff of {{ program.name }}.
Please open this link and set a password. This address is your login ID then.
$$,
$$It is good once, within {{ minutes | duration }}.

If this means nothing to you, please do not open the link and ignore this mail.
$$,
$${{ program.name }}: you are one of the staff. Set a password within {{ minutes | duration }}: {{ link }} If this means nothing to you, ignore it.$$),
('password_changed', 'ja', 'member', 'none',
$$【{{ program.name }}】パスワードが変更されました$$,
$${{ today | date }}({{ today | weekday }})に、パスワードが変更されました。ご自身で変更された場合、お手続きは必要ありません。
$$,
$$お心当たりのない場合は、どなたかがログインした恐れがあります。すぐにパスワードを再設定し、お問い合わせください。
$$,
$$【{{ program.name }}】パスワードが変更されました。心当たりがなければ、すぐに再設定し、お問い合わせください。$$),
('password_changed', 'en', 'member', 'none',
$${{ program.name }}: your password was changed$$,
$$Your password was changed on {{ today | date }}. If you did that, there is nothing more to do.
$$,
$$If it was not you, somebody else may have logged in. Please reset your password at once and contact us.
$$,
$${{ program.name }}: your password was changed. If it was not you, reset it at once and contact us.$$)
)
insert into loyalty.notice_template (program_id, kind, language, subject, text_body, html_body, sms_body)
select null, o.kind, o.language, o.subject,
       g.salutation || e'\n\n' || o.text_before || p.text_body || o.text_after || f.text_foot,
       f.html_head || '<p>' || g.salutation || e'</p>\n' || b.paragraphs || p.html_body || a.paragraphs || f.html_foot,
       o.sms_body
  from own o
  join frame f on f.language = o.language
  join greeting g on g.language = o.language and g.whom = o.whom
  join proof p on p.kind = o.proof
 -- a line of the text is a paragraph of the HTML
 cross join lateral (
        select string_agg('<p>' || l.line || e'</p>\n', '' order by l.place) as paragraphs
          from string_to_table(o.text_before, e'\n') with ordinality l (line, place)
         where l.line <> '') b
 cross join lateral (
        select string_agg('<p>' || l.line || e'</p>\n', '' order by l.place) as paragraphs
          from string_to_table(o.text_after, e'\n') with ordinality l (line, place)
         where l.line <> '') a;
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
        constraint notice_kind_is_known
            check (kind in ('points_received', 'balance', 'expiry', 'order_received',
                            'verification_code', 'login_in_use', 'password_reset', 'unlock', 'login_change',
                            'login_approved', 'family_approval', 'family_invitation', 'staff_invitation',
                            'password_changed')),
    channel text collate "C" not null
        constraint notice_channel_is_known check (channel in ('email', 'sms')),
    occasion text collate "C" not null
        constraint notice_occasion_is_short check (octet_length(occasion) between 1 and 200),
    lot_expires_on date[],
    lot_points bigint[],
    details jsonb,
    address text,
    challenge_id uuid,
    claimed_at timestamptz,
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
comment on column loyalty.notice.kind is 'points_received, balance, expiry or order_received; or one about the person''s login, which nobody can refuse.';
comment on column loyalty.notice.channel is 'email, or sms to members who have a phone only.';
comment on column loyalty.notice.occasion is 'What it tells of: the operation, the order, or the day.';
comment on column loyalty.notice.lot_expires_on is 'Of expiry: the last days told.';
comment on column loyalty.notice.lot_points is 'Of expiry: the points that lapse on each of them.';
comment on column loyalty.notice.details is 'Of order_received: the order. Of one about a login: what else it says.';
comment on column loyalty.notice.address is 'Of one about a login: the e-mail address or phone it goes to; null for the member''s own.';
comment on column loyalty.notice.challenge_id is 'Of one with a code or link: the challenge that these are made of when it is sent.';
comment on column loyalty.notice.claimed_at is 'When the attempt under way began, by the machine''s clock; null when none is.';
comment on column loyalty.notice.sent_at is 'When the server took it, by the machine''s clock.';
comment on column loyalty.notice.gave_up_at is 'When it was given up, by the machine''s clock.';
comment on column loyalty.notice.message_id is 'The mail''s Message-ID, the same in every attempt.';
comment on column loyalty.notice.error is 'Why the last attempt failed, without addresses.';

create function loyalty.points_between(lot_expires_on date[], lot_remaining bigint[], from_day date, to_day date)
    returns bigint
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_points_between';
comment on function loyalty.points_between is
    'Of a wallet: what its lots hold whose last day is from one day to another (both in it).';
create function loyalty.next_lapse(lot_expires_on date[], lot_remaining bigint[], from_day date) returns date
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_next_lapse';
comment on function loyalty.next_lapse is
    'Of a wallet: the first day from a given one on which points lapse; null when none do.';
create function loyalty.days_between(lot_expires_on date[], lot_remaining bigint[], from_day date, to_day date)
    returns date[]
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_days_between';
comment on function loyalty.days_between is
    'Of a wallet: the days from one to another (both in it) on which points lapse; null when there are none.';
create function loyalty.points_of_days(lot_expires_on date[], lot_remaining bigint[], from_day date, to_day date)
    returns bigint[]
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_points_of_days';
comment on function loyalty.points_of_days is
    'Of a wallet: how many points lapse on each of days_between.';

create function loyalty.lapsing_lots(
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
comment on function loyalty.lapsing_lots is
    'days_between and points_of_days of an account with holds, whose points do not lapse while they are open.';

create function loyalty.notice_channel(member_email text, member_phone text, sender_email text, sender_sms text)
    returns text
    language sql immutable parallel safe
    return case when member_email is not null and sender_email is not null then 'email'
                when member_phone is not null and sender_sms is not null then 'sms' end;
comment on function loyalty.notice_channel is
    'How a member is reached: by mail, else by short message, else (null) not at all.';

create function loyalty.announce_grants(
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
     cross join lateral (select loyalty.notice_channel(m.email, m.phone, f.email, f.sms) as channel) c
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
comment on function loyalty.announce_grants is
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
        perform loyalty.raise('22023', format('%s cannot be', wrong),
            format('order_no %L, item %L, quantity %s, points %s given.', left(announce_order.order_no, 60),
                left(announce_order.item, 60), announce_order.quantity, announce_order.points),
            'order_no up to 50 characters, item up to 200, quantity from 1, points from 0.');
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
     cross join lateral (select loyalty.notice_channel(m.email, m.phone, f.email, f.sms) as channel) c
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

create function loyalty.notice_step(
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
comment on function loyalty.notice_step is
    'For queue_balance_notices and queue_expiry_notices: how a program sends notices of that kind today, and the last of the next row_limit members after from_account, null when there are no more. Nulls when it does not send them, or period is another day.';

create function loyalty.queue_balance_notices(
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
      from loyalty.notice_step(queue_balance_notices.program_id, 'balance', queue_balance_notices.period,
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
                then loyalty.points_between(b.lot_expires_on, b.lot_remaining, b.expires_on, b.expires_on)
                else (select a.next_expiry_points from loyalty.balance(b.account_id) a) end,
           ledger_now, clock_now, clock_now + told.send_within
      from (select m.account_id, w.lot_expires_on, w.lot_remaining, w.hold_entry is null as is_plain,
                   loyalty.notice_channel(m.email, m.phone, told.email, told.sms) as channel,
                   -- what a hold pins is not available: only the ledger itself knows that
                   case when w.hold_entry is null
                        then loyalty.points_between(w.lot_expires_on, w.lot_remaining, told.today, 'infinity')
                        else (select a.available from loyalty.balance(w.account_id) a) end as points,
                   case when w.hold_entry is null
                        then loyalty.next_lapse(w.lot_expires_on, w.lot_remaining, told.today)
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
comment on function loyalty.queue_balance_notices is
    'For run: queues the balance notices of a day, which must be today, for the next row_limit members after from_account; the last account looked at, null when there are no more, and how many were queued.';

create function loyalty.queue_expiry_notices(
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
      from loyalty.notice_step(queue_expiry_notices.program_id, 'expiry', queue_expiry_notices.period,
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
                   loyalty.notice_channel(m.email, m.phone, told.email, told.sms) as channel,
                   -- what a hold pins does not lapse while it is open
                   case when w.hold_entry is null
                        then loyalty.days_between(w.lot_expires_on, w.lot_remaining, told.today, told.horizon)
                        else (select l.days
                                from loyalty.lapsing_lots(w.account_id, told.today, told.horizon) l)
                   end as days,
                   case when w.hold_entry is null
                        then loyalty.points_of_days(w.lot_expires_on, w.lot_remaining, told.today, told.horizon)
                        else (select l.points
                                from loyalty.lapsing_lots(w.account_id, told.today, told.horizon) l)
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
comment on function loyalty.queue_expiry_notices is
    'For run: queues the expiry notices of a day, which must be today, for the next row_limit members after from_account: one to each member with points that lapse from today to days_before days later. The last account looked at, null when there are no more, and how many were queued.';
-- The relay's side of the outbox: claim, send, report. An attempt is a lease: who dies with
-- it loses it when its time is over, and the same notice, with the same Message-ID, is taken
-- again.

create function loyalty.settle_failed_notice(
    notice_id bigint,
    error text,
    is_permanent boolean
) returns void
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    update loyalty.notice n
       set claimed_at = null,
           -- servers like to repeat the address, and what they took offence at
           error = left(regexp_replace(
                       regexp_replace(
                           replace(settle_failed_notice.error, o.phone, case o.phone when '@' then '@' else '(phone)' end),
                           '[^[:space:]<>"'',;:()]+@[^[:space:]<>"'',;:()]+', '(address)', 'g'),
                       case when i.challenge_id is null then '^$'
                            else '[0-9a-f]{32}\.[A-Za-z0-9_-]+|\m[0-9]{6}\M' end, '(secret)', 'g'), 500),
           gave_up_at = case when o.is_over then clock_timestamp() end,
           -- twice as long each time, and never all at the same moment
           due_at = case when not o.is_over then clock_timestamp() + o.wait * (0.5 + random() / 2) end
      from loyalty.notice i
      left join loyalty.member m on m.account_id = i.account_id
      left join loyalty.notice_sender f on f.program_id = i.program_id
     cross join lateral (
            select least(coalesce(f.longest_retry, '2 hours'),
                         coalesce(f.first_retry, '1 minute') * power(2, least(i.attempts, 40) - 1)) as wait,
                   case when i.address is null then coalesce(nullif(m.phone, ''), '@')
                        when i.channel = 'sms' then i.address else '@' end as phone,
                   settle_failed_notice.is_permanent
                   or i.attempts >= coalesce(f.max_attempts, 10)
                   or i.send_by <= clock_timestamp() as is_over) o
     where i.notice_id = settle_failed_notice.notice_id
       and n.notice_id = i.notice_id
       and n.due_at is not null;
end;
comment on function loyalty.settle_failed_notice is
    'What becomes of a notice after a failed attempt: another one later, or, when the failure is for good, the attempts are used up or its time is over, none.';

create function loyalty.notice_context(notice loyalty.notice) returns jsonb
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select jsonb_build_object(
               'program', jsonb_build_object('name', p.name, 'point_name', p.point_name),
               'member', jsonb_build_object('name', m.name, 'member_no', a.member_no),
               'today', timezone(p.time_zone, notice_context.notice.queued_at)::date)
           || case notice_context.notice.kind
                  when 'points_received' then jsonb_build_object(
                      'points', notice_context.notice.points,
                      'expires_on', notice_context.notice.expires_on,
                      'reason', e.reason,
                      'granted_on', coalesce(e.granted_on, timezone(p.time_zone, notice_context.notice.queued_at)::date))
                  when 'balance' then jsonb_build_object(
                      'points', notice_context.notice.points,
                      'expires_on', notice_context.notice.expires_on,
                      'expiring_points', notice_context.notice.expiring_points)
                  when 'expiry' then jsonb_build_object(
                      'points', notice_context.notice.points,
                      'expires_on', notice_context.notice.expires_on,
                      'expiring_points', notice_context.notice.expiring_points,
                      'days_left', notice_context.notice.expires_on
                                   - timezone(p.time_zone, notice_context.notice.queued_at)::date,
                      'lots', (select jsonb_agg(jsonb_build_object('expires_on', l.day, 'points', l.points)
                                                order by l.day)
                                 from unnest(notice_context.notice.lot_expires_on,
                                             notice_context.notice.lot_points) l (day, points)))
                  when 'order_received' then jsonb_build_object('order', notice_context.notice.details)
                  else '{}'
              end
           -- nobody chooses whether to get those about a login
           || case when notice_context.notice.kind in ('points_received', 'balance', 'expiry', 'order_received')
                   then jsonb_build_object('preferences_url', f.preferences_url)
                   else '{}' end
      from loyalty.program p
      left join loyalty.account a on a.account_id = notice_context.notice.account_id
      left join loyalty.member m on m.account_id = a.account_id
      left join loyalty.notice_sender f on f.program_id = p.program_id
      left join loyalty.entry e
        on e.account_id = a.account_id
       and e.entry = case when notice_context.notice.kind = 'points_received'
                          then (notice_context.notice.occasion::bigint & 16777215)::integer end
     where p.program_id = notice_context.notice.program_id;
end;
comment on function loyalty.notice_context is 'What a template is filled with.';

create type loyalty.claimed_notice as (
    notice_id bigint,
    channel text,
    address text,
    sender text,
    subject text,
    text_body text,
    html_body text,
    message_id text,
    attempt integer,
    unsubscribe text
);
comment on type loyalty.claimed_notice is 'A message ready to be sent, as claim_notices hands it to a relay.';
comment on column loyalty.claimed_notice.notice_id is 'Number of the notice, for the report.';
comment on column loyalty.claimed_notice.channel is 'email or sms.';
comment on column loyalty.claimed_notice.address is 'The e-mail address or phone number it goes to.';
comment on column loyalty.claimed_notice.sender is 'Whom it comes from.';
comment on column loyalty.claimed_notice.subject is 'Subject of a mail, one line; null for a short message.';
comment on column loyalty.claimed_notice.text_body is 'The text.';
comment on column loyalty.claimed_notice.html_body is 'The text as HTML; null when there is none.';
comment on column loyalty.claimed_notice.message_id is 'Message-ID without angle brackets, the same in every attempt.';
comment on column loyalty.claimed_notice.attempt is 'Number of this attempt, for the report.';
comment on column loyalty.claimed_notice.unsubscribe is 'Where the member can refuse notices of this kind; null when that cannot be.';

create function loyalty.fill_notice(
    notice loyalty.notice,
    out message loyalty.claimed_notice,
    out error text,
    out is_over boolean
) returns record
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    via record;
    template loyalty.notice_template;
    filled loyalty.filled_template;
    of_challenge jsonb := jsonb '{}';
begin
    is_over := false;
    select m.email, m.phone, m.language, f.email as sender_email, f.sms as sender_sms, f.preferences_url,
           f.language as usual_language
      into via
      from loyalty.notice_sender f
      left join loyalty.member m on m.account_id = notice.account_id
     where f.program_id = notice.program_id;
    message.notice_id := notice.notice_id;
    message.channel := notice.channel;
    message.message_id := notice.message_id;
    message.attempt := notice.attempts;
    if notice.channel = 'email' then
        message.address := coalesce(notice.address, via.email);
        message.sender := via.sender_email;
    else
        message.address := coalesce(notice.address, via.phone);
        message.sender := via.sender_sms;
    end if;
    if message.sender is null then
        error := format('the program has no sender for %s', notice.channel);
        return;
    elsif message.address is null then
        error := format('the member has no address for %s', notice.channel);
        return;
    end if;
    if notice.kind in ('points_received', 'balance', 'expiry') then
        message.unsubscribe := via.preferences_url;
    elsif notice.kind <> 'order_received' then
        begin
            of_challenge := loyalty.challenge_context(notice);
        -- keys that are missing or broken keep back what needs them, and nothing else
        exception when object_not_in_prerequisite_state then
            error := sqlerrm;
            return;
        end;
        if of_challenge is null then
            error := 'its code or link is no longer good';
            is_over := true;
            return;
        end if;
    end if;
    template := loyalty.template_for(notice.program_id, notice.kind, via.language);
    if notice.channel = 'sms' and template.sms_body is null then
        error := format('the template of kind %s in %s has no sms_body', notice.kind, template.language);
        return;
    end if;
    filled := loyalty.render_template(
        template.language,
        case when notice.channel = 'email' then template.subject end,
        case when notice.channel = 'email' then template.text_body end,
        case when notice.channel = 'email' then template.html_body end,
        case when notice.channel = 'sms' then template.sms_body end,
        (loyalty.notice_context(notice) || of_challenge)::text);
    message.subject := filled.subject;
    message.text_body := coalesce(filled.text_body, filled.sms_body);
    message.html_body := filled.html_body;
    error := filled.error;
end
$$;
comment on function loyalty.fill_notice is
    'The message of a notice, or why there is none and whether that is for good.';

create function loyalty.claim_notices(
    how_many integer,
    lease interval default '5 minutes',
    channels text[] default null
) returns setof loyalty.claimed_notice
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    clock_now timestamptz;
    ids bigint[];
    told integer := 0;
    urgent boolean;
    via text;
    taken loyalty.notice;
    filled record;
begin
    if how_many is null or how_many not between 1 and 1000 then
        perform loyalty.raise('22023', 'how_many is out of range', format('%s given.', coalesce(how_many::text, 'null')),
            'From 1 to 1000.');
    elsif lease is null or lease not between interval '1 second' and interval '1 day' then
        perform loyalty.raise('22023', 'lease is out of range', format('%s given.', coalesce(lease::text, 'null')),
            'From 1 second to 1 day, longer than sending that many takes.');
    elsif not coalesce(channels, '{}') <@ '{email,sms}' then
        perform loyalty.raise('22023', 'channels has what is no channel', format('%s given.', channels),
            'Any of email and sms; null for both.');
    end if;
    -- what turns out not to be sent leaves room for more
    for round in 1..20 loop
        clock_now := clock_timestamp();
        ids := '{}';
        foreach urgent in array '{true,false}'::boolean[] loop
            foreach via in array coalesce(channels, '{email,sms}') loop
                ids := ids || array(
                    select n.notice_id
                      from loyalty.notice n
                     where n.due_at is not null
                       and n.is_urgent = urgent
                       and n.channel = via
                       and n.due_at <= clock_now
                     order by n.due_at
                     limit greatest(how_many - told - cardinality(ids), 0)
                       for update skip locked);
            end loop;
        end loop;
        exit when cardinality(ids) = 0;
        for taken in
            with claimed as (
                update loyalty.notice n
                   set attempts = n.attempts + 1,
                       claimed_at = clock_now,
                       due_at = clock_now + lease,
                       message_id = coalesce(n.message_id, format('%s.%s@%s', n.notice_id,
                           (extract(epoch from n.queued_at) * 1000000)::bigint,
                           coalesce(substring(f.email from '@([A-Za-z0-9.-]+)>?$'), 'loyalty.invalid')))
                  from loyalty.notice i
                  left join loyalty.notice_sender f on f.program_id = i.program_id
                 where i.notice_id = any (ids) and n.notice_id = i.notice_id
                returning n.*)
            select c.*
              from claimed c
             order by array_position(ids, c.notice_id)
        loop
            if taken.send_by <= clock_now then
                perform loyalty.settle_failed_notice(taken.notice_id,
                    coalesce('its time is over; last: ' || taken.error, 'its time is over'), true);
            elsif taken.kind in ('points_received', 'balance', 'expiry') and exists (
                    select from loyalty.notice_preference r
                     where r.account_id = taken.account_id and r.kind = taken.kind and not r.is_wanted) then
                perform loyalty.settle_failed_notice(taken.notice_id, 'the member refused it meanwhile', true);
            else
                filled := loyalty.fill_notice(taken);
                if filled.error is null then
                    told := told + 1;
                    return next filled.message;
                else
                    perform loyalty.settle_failed_notice(taken.notice_id, filled.error, filled.is_over);
                end if;
            end if;
        end loop;
        exit when told >= how_many;
    end loop;
end
$$;
comment on function loyalty.claim_notices is
    'For relays: takes up to how_many notices that are due, urgent ones first, then those due longest, leases them and returns them filled in. Others skip what one has taken; what is not reported before the lease ends is due again. channels null: all. What cannot be filled in counts as failed and stops nothing. 22023.';

create function loyalty.notice_sent(notice_id bigint, attempt integer) returns boolean
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    -- also of an attempt whose lease was over, or that was given up: the server has it
    update loyalty.notice n
       set sent_at = clock_timestamp(), due_at = null, claimed_at = null, gave_up_at = null, error = null
     where n.notice_id = notice_sent.notice_id
       and n.attempts >= notice_sent.attempt
       and n.sent_at is null;
    return found;
end
$$;
comment on function loyalty.notice_sent is
    'For relays: the server took the message of that attempt. False when it was sent before.';

create function loyalty.notice_failed(notice_id bigint, attempt integer, error text, is_permanent boolean)
    returns boolean
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform 1
       from loyalty.notice n
      where n.notice_id = notice_failed.notice_id
        and n.attempts = notice_failed.attempt
        and n.claimed_at is not null
        for update;
    if not found then
        return false;
    end if;
    perform loyalty.settle_failed_notice(
        notice_failed.notice_id, coalesce(notice_failed.error, 'unknown'), coalesce(notice_failed.is_permanent, false));
    return true;
end
$$;
comment on function loyalty.notice_failed is
    'For relays: the attempt failed. The notice is due again after a wait that doubles, or given up when is_permanent, when max_attempts are used up or its time is over. False, and nothing changes, when another attempt has begun or it is settled.';

create function loyalty.release_notices(notice_ids bigint[], attempts integer[]) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    released bigint;
begin
    update loyalty.notice n
       set due_at = clock_timestamp(), claimed_at = null, attempts = n.attempts - 1
      from unnest(notice_ids, release_notices.attempts) as g (notice_id, attempt)
     where n.notice_id = g.notice_id
       and n.attempts = g.attempt
       and n.claimed_at is not null;
    get diagnostics released = row_count;
    return released;
end
$$;
comment on function loyalty.release_notices is
    'For relays: gives leases back without counting the attempt; due again at once. How many.';

create function loyalty.notice_backlog()
    returns table (
        channel text, waiting bigint, due bigint, leased bigint, given_up bigint,
        oldest_due_at timestamptz, next_due_at timestamptz
    )
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select c.channel, coalesce(o.waiting, 0), coalesce(o.due, 0), coalesce(o.leased, 0),
           (select count(*) from loyalty.notice g where g.gave_up_at is not null and g.channel = c.channel),
           o.oldest_due_at, o.next_due_at
      from (values ('email'), ('sms')) c (channel)
      left join (
           select n.channel,
                  count(*) as waiting,
                  count(*) filter (where n.due_at <= clock_timestamp()) as due,
                  count(*) filter (where n.due_at > clock_timestamp() and n.claimed_at is not null) as leased,
                  min(n.due_at) filter (where n.due_at <= clock_timestamp()) as oldest_due_at,
                  min(n.due_at) filter (where n.due_at > clock_timestamp()) as next_due_at
             from loyalty.notice n
            where n.due_at is not null
            group by n.channel) o on o.channel = c.channel
     order by c.channel;
end;
comment on function loyalty.notice_backlog is
    'For metrics: of each channel the notices not sent yet, those of them that are due or leased, those given up, since when the oldest is due, and when the next will be. It costs what the backlog has, not what was sent.';

create function loyalty.notice_state(
    attempts integer,
    claimed_at timestamptz,
    sent_at timestamptz,
    gave_up_at timestamptz
) returns text
    language sql immutable parallel safe
    return case when sent_at is not null then 'sent'
                when gave_up_at is not null then 'given up'
                when claimed_at is not null then 'sending'
                when attempts > 0 then 'retrying'
                else 'waiting' end;
comment on function loyalty.notice_state is
    'How far a notice is: waiting, sending, retrying after a failure, sent, or given up.';

create view loyalty.notice_problem with (security_invoker = true) as
select n.notice_id, n.program_id, a.member_no, n.account_id, n.kind, n.occasion, n.channel, n.queued_at,
       n.attempts, n.due_at, n.gave_up_at, n.error
  from loyalty.notice n
  join loyalty.account a on a.account_id = n.account_id
 where n.gave_up_at is not null
    or n.due_at is not null and n.error is not null;
comment on view loyalty.notice_problem is
    'Notices that were given up, or failed and will be tried again; loyalty.retry_notices has another go at the former.';
comment on column loyalty.notice_problem.notice_id is 'Number of the notice.';
comment on column loyalty.notice_problem.program_id is 'The program.';
comment on column loyalty.notice_problem.member_no is 'The member''s number in the program.';
comment on column loyalty.notice_problem.account_id is 'The member''s account.';
comment on column loyalty.notice_problem.kind is 'The kind of notice.';
comment on column loyalty.notice_problem.occasion is 'What it tells of: the operation, the order, or the day.';
comment on column loyalty.notice_problem.channel is 'email or sms.';
comment on column loyalty.notice_problem.queued_at is 'When it was queued.';
comment on column loyalty.notice_problem.attempts is 'How often the relay took it.';
comment on column loyalty.notice_problem.due_at is 'When it is tried again; null when it was given up.';
comment on column loyalty.notice_problem.gave_up_at is 'When it was given up; null when it is tried again.';
comment on column loyalty.notice_problem.error is 'Why the last attempt failed, without addresses.';

create function loyalty.retry_notices(program text, given_up_since timestamptz, kind text default null)
    returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    retried bigint;
begin
    if retry_notices.kind is not null then
        perform loyalty.check_notice_kind(retry_notices.kind);
    end if;
    if retry_notices.given_up_since is null then
        perform loyalty.raise('22004', 'given_up_since must not be null', null,
            'Those given up earlier stay so.');
    end if;
    update loyalty.notice n
       set gave_up_at = null, error = null, attempts = 0, due_at = clock_timestamp(),
           send_by = clock_timestamp() + s.send_within
      from loyalty.program p
      join loyalty.notice_setting s on s.program_id = p.program_id
     where p.program_id = loyalty.program_id(retry_notices.program)
       and n.program_id = p.program_id
       and s.kind = n.kind
       and n.gave_up_at >= retry_notices.given_up_since
       and (n.kind = retry_notices.kind or retry_notices.kind is null)
       -- what was true on another day only is past mending
       and (n.kind <> 'expiry' or n.occasion = timezone(p.time_zone, loyalty.now())::date::text);
    get diagnostics retried = row_count;
    if retried > 0 then
        perform pg_notify('loyalty_notice', '');
    end if;
    return retried;
end
$$;
comment on function loyalty.retry_notices is
    'Has another go at notices that were given up since then, of one kind or all, once what was wrong is mended; expiry notices of earlier days stay as they are. How many.';

create function loyalty.purge_notices(older_than interval default '90 days') returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    purged bigint;
begin
    -- a row is also the memory of what was told already: of today and, by any zone's date, yesterday
    if older_than is null or older_than < interval '3 days' then
        perform loyalty.raise('22023', 'older_than is too short', format('%s given.', coalesce(older_than::text, 'null')),
            'From 3 days on.');
    end if;
    delete from loyalty.notice n
     where n.due_at is null
       and n.queued_at < loyalty.now() - older_than;
    get diagnostics purged = row_count;
    return purged;
end
$$;
comment on function loyalty.purge_notices is
    'Deletes notices that were sent or given up and queued longer ago than that, 3 days at least. How many.';
-- What a program does by itself, and when next. The tick reads what is due by an index on
-- this table and nothing else; what it did is in loyalty.run.

create table loyalty.schedule (
    program_id integer not null references loyalty.program,
    job text not null
        constraint schedule_job_is_known
            check (job in ('expire', 'notice:balance', 'notice:expiry') or job ~ '^rule:.'),
    done_through date,
    next_period date,
    effective_on date,
    due_at timestamptz,
    is_paused boolean not null default false,
    primary key (program_id, job),
    constraint schedule_is_planned_whole
        check ((next_period is null) = (due_at is null) and (next_period is null) = (effective_on is null))
);
create index schedule_by_due_at on loyalty.schedule (due_at) where not is_paused;
-- for a clock that was ahead: see tick_step
create index schedule_of_days on loyalty.schedule (due_at) where job = 'expire';

comment on table loyalty.schedule is
    'The recurring jobs of each program, and when each is due next. The row of job expire is also what ledger work of a program is locked by.';
comment on column loyalty.schedule.program_id is 'The program.';
comment on column loyalty.schedule.job is
    'expire: books breakage after local midnight; rule:CODE: pays by that rule; notice:balance, notice:expiry: queue mails.';
comment on column loyalty.schedule.done_through is
    'Periods through this day are done, or lay before the schedule began.';
comment on column loyalty.schedule.next_period is 'The period to be done next, a nominal day; null when none is to come.';
comment on column loyalty.schedule.effective_on is
    'The day that counts for it, in the program''s time zone: of a rule, the nominal day rolled to a business day.';
comment on column loyalty.schedule.due_at is 'When it is due.';
comment on column loyalty.schedule.is_paused is 'Whether the tick leaves it alone, until resume_schedule.';

-- The day's first instant where the program is: an hour that daylight saving skips or has
-- twice makes it no other day.
create function loyalty.midnight(day date, time_zone text) returns timestamptz
    language sql stable parallel safe set search_path = pg_catalog, pg_temp
    return pg_catalog.timezone(midnight.time_zone, midnight.day::timestamp);
comment on function loyalty.midnight is 'When the day begins in a time zone.';

create function loyalty.next_rule_period(
    program_id integer,
    code text,
    after_period date,
    from_day date,
    out period date,
    out pays_on date
) returns record
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    begins date := coalesce(after_period, from_day - 62);
    last_day constant date := date '2099-12-31'; -- of the calendars
    reach integer;
begin
    -- most rules pay every month or so: look far only when nothing is near
    foreach reach in array '{62,400,4000,36500}'::integer[] loop
        exit when begins >= last_day;
        select r.period, r.pays_on into next_rule_period.period, next_rule_period.pays_on
          from loyalty.rule_periods(program_id, code, begins,
                   least(greatest(begins, from_day) + reach, last_day)) r
         where after_period is not null or r.pays_on >= from_day
         order by r.period
         limit 1;
        exit when found;
    end loop;
end
$$;
comment on function loyalty.next_rule_period is
    'The first pay period of a rule after a period; after null, the first that pays on from_day or later. Nulls when there is none.';

create function loyalty.plan_schedule(program_id integer, job text) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    zone text;
    today date;
    known loyalty.schedule;
    done date;
    period date;
    effective date;
    due timestamptz;
begin
    select p.time_zone, timezone(p.time_zone, loyalty.now())::date into zone, today
      from loyalty.program p
     where p.program_id = plan_schedule.program_id;
    if zone is null then
        perform loyalty.raise('LY002', 'no such program', format('Number %s given.', plan_schedule.program_id),
            'select program_id, code from loyalty.program lists them.');
    end if;
    select * into known
      from loyalty.schedule s
     where s.program_id = plan_schedule.program_id and s.job = plan_schedule.job
       for update;
    done := known.done_through;
    case
    when plan_schedule.job = 'expire' then
        period := coalesce(done + 1, today);
        -- farther than a change of time zone goes: a test clock was ahead
        if period > today + 2 then
            period := today;
        end if;
        effective := period;
        due := loyalty.midnight(period, zone);
    when plan_schedule.job like 'rule:_%' then
        select n.period, n.pays_on into period, effective
          from loyalty.next_rule_period(plan_schedule.program_id, substr(plan_schedule.job, 6), done, today) n;
        due := loyalty.midnight(effective, zone);
        -- A later version may begin sooner than what is planned now, but not before today.
        done := coalesce(done, least(period, today) - 1);
    when plan_schedule.job in ('notice:balance', 'notice:expiry') then
        select n.period, n.due_at into period, due
          from loyalty.next_notice(
                   plan_schedule.program_id, substr(plan_schedule.job, 8),
                   case when done <= today then loyalty.midnight(done + 1, zone) - interval '1 microsecond'
                        else loyalty.now()
                   end) n;
        effective := period;
        done := coalesce(done, least(period - 1, today));
    else
        perform loyalty.raise('22023', 'no such job', format('%L given.', plan_schedule.job),
            'There are expire, rule:CODE, notice:balance and notice:expiry.');
    end case;
    if period is null and known.job is null then
        return; -- nothing to come, and nothing to change
    end if;
    insert into loyalty.schedule as s (program_id, job, done_through, next_period, effective_on, due_at)
    values (plan_schedule.program_id, plan_schedule.job, done, period, effective, due)
        on conflict (program_id, job) do update
       set done_through = excluded.done_through,
           next_period = excluded.next_period,
           effective_on = excluded.effective_on,
           due_at = excluded.due_at
     where (s.done_through, s.next_period, s.effective_on, s.due_at)
           is distinct from (excluded.done_through, excluded.next_period, excluded.effective_on, excluded.due_at);
end
$$;
comment on function loyalty.plan_schedule is
    'Works out anew when a job of a program is due next. Whoever writes a rule or a notice setting calls it; a rule''s first plan begins with what pays today or later. LY002, 22023.';

create function loyalty.program_replanned() returns trigger
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty.plan_schedule(s.program_id, s.job)
       from (select s.program_id, s.job
               from loyalty.schedule s
              where s.program_id = new.program_id
              order by s.job) s;
    return null;
end
$$;
comment on function loyalty.program_replanned is 'Another time zone or calendar moves what is planned.';
-- Not on INSERT: create_program plans, and a dump brings the schedule as it was.
create trigger replanned after update of time_zone, calendar on loyalty.program
    for each row when ((old.time_zone, old.calendar) is distinct from (new.time_zone, new.calendar))
    execute function loyalty.program_replanned();

create function loyalty.change_schedule(program text, job text, is_paused boolean)
    returns setof loyalty.schedule
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    program_number integer := loyalty.program_id(program);
begin
    if change_schedule.job is not null and not exists (
           select from loyalty.schedule s
            where s.program_id = program_number and s.job = change_schedule.job) then
        perform loyalty.raise('22023', 'no such job',
            format('Program %L has no job %L.', program, change_schedule.job),
            (select 'It has ' || string_agg(s.job, ', ' order by s.job) || '.'
               from loyalty.schedule s
              where s.program_id = program_number));
    end if;
    update loyalty.schedule s
       set is_paused = change_schedule.is_paused
     where s.program_id = program_number
       and (change_schedule.job is null or s.job = change_schedule.job)
       and s.is_paused <> change_schedule.is_paused;
    return query
    select s.*
      from loyalty.schedule s
     where s.program_id = program_number
       and (change_schedule.job is null or s.job = change_schedule.job)
     order by s.job;
end
$$;
comment on function loyalty.change_schedule is 'For pause_schedule and resume_schedule.';

create function loyalty.pause_schedule(program text, job text default null) returns setof loyalty.schedule
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select s.* from loyalty.change_schedule(pause_schedule.program, pause_schedule.job, true) s;
end;
comment on function loyalty.pause_schedule is
    'Has the tick leave a job of a program alone (all of its jobs when null) from the next chunk on, also one in the middle of a run. Returns the rows. LY002, 22023.';

create function loyalty.resume_schedule(program text, job text default null) returns setof loyalty.schedule
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select s.* from loyalty.change_schedule(resume_schedule.program, resume_schedule.job, false) s;
end;
comment on function loyalty.resume_schedule is
    'Ends a pause. What was missed meanwhile is caught up as after downtime, each rule period with its own day. LY002, 22023.';

create function loyalty.install_schedules(schedule text default '* * * * *') returns bigint
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    job_id bigint;
begin
    if not exists (select from pg_extension where extname = 'pg_cron') then
        perform loyalty.raise('22023', 'pg_cron is not installed in this database',
            format('Database %s has no extension pg_cron.', current_database()),
            'Add pg_cron to shared_preload_libraries, set cron.database_name to this database, create extension pg_cron. Without it, call loyalty.tick() each minute by any other means.');
    end if;
    -- by name it replaces what an earlier call installed
    execute 'select cron.schedule($1, $2, $3)' into job_id
      using 'pg_loyalty tick', install_schedules.schedule, 'call loyalty.tick()';
    return job_id;
end
$$;
comment on function loyalty.install_schedules is
    'Has pg_cron call loyalty.tick() each minute, as the calling user. Safe to call again.';

create function loyalty.uninstall_schedules() returns boolean
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    removed boolean := false;
begin
    if exists (select from pg_extension where extname = 'pg_cron') then
        execute 'select coalesce(bool_or(cron.unschedule(jobid)), false) from cron.job where jobname = $1 and database = $2'
           into removed
          using 'pg_loyalty tick', current_database();
    end if;
    return removed;
end
$$;
comment on function loyalty.uninstall_schedules is
    'Takes back install_schedules(); whether there was anything to take back.';
-- Runs: what the schedule did. One row for each program, job and period, claimed once; its
-- cursor moves in the transaction of the work that it tells of, so a crash loses a chunk of
-- both or of neither.

create table loyalty.run (
    run_id bigint generated always as identity primary key,
    program_id integer not null references loyalty.program,
    job text not null
        constraint run_job_is_known
            check (job in ('expire', 'notice:balance', 'notice:expiry') or job ~ '^rule:.'),
    period date not null,
    effective_on date not null,
    started_at timestamptz not null,
    reopened_at timestamptz,
    finished_at timestamptz,
    outcome text
        constraint run_outcome_is_known check (outcome in ('done', 'skipped')),
    last_account bigint,
    chunks integer not null default 0,
    members bigint not null default 0,
    paid bigint not null default 0,
    failed bigint not null default 0,
    queued bigint not null default 0,
    lots bigint not null default 0,
    points bigint not null default 0,
    error text,
    note text,
    constraint run_is_once unique (program_id, job, period),
    constraint run_has_an_outcome_when_finished check ((outcome is null) = (finished_at is null))
);
create index run_open on loyalty.run (program_id, job, period) where finished_at is null;
create index run_reopened on loyalty.run (reopened_at) where finished_at is null and reopened_at is not null;

comment on table loyalty.run is
    'What the schedule did: one row for each program, job and period, which is never done twice.';
comment on column loyalty.run.run_id is 'Number of the run.';
comment on column loyalty.run.program_id is 'The program.';
comment on column loyalty.run.job is 'What was done, as in loyalty.schedule.';
comment on column loyalty.run.period is
    'The day that the run is for, in the program''s time zone; of a rule, the nominal one.';
comment on column loyalty.run.effective_on is
    'The day that counts, however late the run comes: of a rule, granted_on of what it pays.';
comment on column loyalty.run.started_at is 'When it was first claimed.';
comment on column loyalty.run.reopened_at is 'When loyalty.rerun last opened it again.';
comment on column loyalty.run.finished_at is
    'When it was done, by itself or by the run of a later period; null while it is not.';
comment on column loyalty.run.outcome is 'done, or skipped (note says why); null while it runs.';
comment on column loyalty.run.last_account is 'Where the next chunk goes on: the last account looked at.';
comment on column loyalty.run.chunks is 'Transactions it took so far.';
comment on column loyalty.run.members is 'Members looked at, since it was last opened.';
comment on column loyalty.run.paid is 'Payments granted so far.';
comment on column loyalty.run.failed is 'Payments refused, listed in loyalty.run_failure.';
comment on column loyalty.run.queued is 'Notices queued so far.';
comment on column loyalty.run.lots is 'Lots booked as breakage so far.';
comment on column loyalty.run.points is 'Points granted, or booked as breakage, so far.';
comment on column loyalty.run.error is 'What stopped it last; null when nothing did since.';
comment on column loyalty.run.note is 'Why it was skipped.';

create table loyalty.run_failure (
    run_id bigint not null references loyalty.run,
    program_id integer not null references loyalty.program,
    account_id bigint not null references loyalty.account,
    idempotency_key text not null default '',
    points bigint,
    code text not null,
    message text not null,
    failed_at timestamptz not null,
    primary key (run_id, account_id, idempotency_key)
);
comment on table loyalty.run_failure is
    'Payments that a run could not make; the others went on. They are tried again by retry_failures or rerun, and leave this list when they are made.';
comment on column loyalty.run_failure.run_id is 'The run.';
comment on column loyalty.run_failure.program_id is 'The program.';
comment on column loyalty.run_failure.account_id is 'Whose payment.';
comment on column loyalty.run_failure.idempotency_key is
    'Key of the payment; empty where it could not even be worked out.';
comment on column loyalty.run_failure.points is 'Points of the payment; null where they could not be worked out.';
comment on column loyalty.run_failure.code is 'SQLSTATE: LY004 for a closed account, 54000 for a full wallet, and so on.';
comment on column loyalty.run_failure.message is 'What was wrong, in words.';
comment on column loyalty.run_failure.failed_at is 'When it last failed.';

create function loyalty.accounts_between(program_id integer, after_account bigint, last_account bigint)
    returns bigint
    language sql stable set search_path = pg_catalog, pg_temp
    return (
        select count(*)
          from loyalty.account a
         where a.program_id = accounts_between.program_id
           and a.account_id > coalesce(after_account, 0)
           and a.account_id <= coalesce(last_account, 9223372036854775807)
    );
comment on function loyalty.accounts_between is
    'For runs: how many accounts of a program a chunk looked at; nulls are its ends.';

create function loyalty.run_expire_chunk(
    run loyalty.run,
    chunk_size bigint,
    out last_account bigint,
    out members bigint,
    out lots bigint,
    out points bigint
) returns record
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    select e.last_account, e.lots, e.points
      into run_expire_chunk.last_account, run_expire_chunk.lots, run_expire_chunk.points
      from loyalty.expire_step((run).program_id, (run).period, (run).last_account, chunk_size) e;
    members := loyalty.accounts_between((run).program_id, (run).last_account, last_account);
end
$$;
comment on function loyalty.run_expire_chunk is
    'Does a chunk of an expiry run; last_account null when it was the last.';

create function loyalty.run_rule_step(
    run loyalty.run,
    row_limit bigint,
    out last_account bigint,
    out members bigint,
    out paid bigint,
    out failed bigint,
    out points bigint
) returns record
    language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    with step as materialized (
        select *
          from loyalty.rule_payments((run).program_id, substr((run).job, 6), (run).period,
                                     (run).last_account, row_limit)
    ), outcome as materialized (
        select g.*
          from step s
         cross join lateral loyalty.grant_each(
                   s.account_ids, s.points, s.reason, (run).effective_on, s.expires_on,
                   s.idempotency_keys, s.expiry) g
         where cardinality(s.account_ids) > 0
    ), failure as (
        insert into loyalty.run_failure
               (run_id, program_id, account_id, idempotency_key, points, code, message, failed_at)
        select (run).run_id, (run).program_id, o.account_id, s.idempotency_keys[o.place], s.points[o.place],
               o.code, o.message, loyalty.now()
          from outcome o
         cross join step s
         where o.code is not null
            on conflict (run_id, account_id, idempotency_key) do update
           set points = excluded.points, code = excluded.code,
               message = excluded.message, failed_at = excluded.failed_at
    )
    select s.last_account, s.looked_at, o.paid, o.failed, o.points
      from step s
     cross join (select count(*) filter (where o.code is null and o.is_new) as paid,
                        count(*) filter (where o.code is not null) as failed,
                        coalesce(sum(o.granted) filter (where o.code is null and o.is_new), 0)::bigint as points
                   from outcome o) o
$$;
comment on function loyalty.run_rule_step is
    'Pays the next members of a rule''s run in one statement, and lists those whom it could not.';

create function loyalty.run_rule_chunk(
    run loyalty.run,
    chunk_size bigint,
    out last_account bigint,
    out members bigint,
    out paid bigint,
    out failed bigint,
    out points bigint
) returns record
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    done record;
    row_limit bigint := chunk_size;
    state text;
    problem text;
begin
    loop
        begin
            select * into done from loyalty.run_rule_step(run, row_limit);
            last_account := done.last_account;
            members := done.members;
            paid := done.paid;
            failed := done.failed;
            points := done.points;
            return;
        exception when others then
            get stacked diagnostics state = returned_sqlstate, problem = message_text;
            -- A machine in trouble is no member's fault. Anything else is looked for in
            -- smaller and smaller steps, until it is one member who is listed and passed over.
            if left(state, 2) not in ('21', '22', '23', '54', 'LY', 'P0') then
                raise;
            end if;
        end;
        exit when row_limit = 1;
        row_limit := greatest(row_limit / 10, 1);
    end loop;
    -- One account, whatever its payments are; where not even these can be worked out, the
    -- next member.
    paid := 0;
    points := 0;
    begin
        select s.last_account, s.looked_at into last_account, members
          from loyalty.rule_payments((run).program_id, substr((run).job, 6), (run).period,
                                     (run).last_account, 1) s;
        insert into loyalty.run_failure as f
               (run_id, program_id, account_id, idempotency_key, points, code, message, failed_at)
        select (run).run_id, (run).program_id, i.account_id, i.key, i.points, state, problem, loyalty.now()
          from loyalty.rule_payments((run).program_id, substr((run).job, 6), (run).period,
                                     (run).last_account, 1) s
         cross join lateral unnest(s.account_ids, s.idempotency_keys, s.points) i (account_id, key, points)
            on conflict (run_id, account_id, idempotency_key) do update
           set points = excluded.points, code = excluded.code,
               message = excluded.message, failed_at = excluded.failed_at;
        get diagnostics failed = row_count;
    exception when others then
        select m.account_id into strict last_account
          from loyalty.member m
         where m.program_id = (run).program_id
           and m.account_id > coalesce((run).last_account, 0)
         order by m.account_id
         limit 1;
        insert into loyalty.run_failure (run_id, program_id, account_id, code, message, failed_at)
        values ((run).run_id, (run).program_id, last_account, state, problem, loyalty.now())
            on conflict (run_id, account_id, idempotency_key) do update
           set code = excluded.code, message = excluded.message, failed_at = excluded.failed_at;
        members := 1;
        failed := 1;
    end;
end
$$;
comment on function loyalty.run_rule_chunk is
    'Does a chunk of a rule''s run; last_account null when it was the last.';

create function loyalty.run_notice_chunk(
    run loyalty.run,
    chunk_size bigint,
    out last_account bigint,
    out members bigint,
    out queued bigint
) returns record
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if (run).job = 'notice:balance' then
        select n.last_account, n.queued into run_notice_chunk.last_account, run_notice_chunk.queued
          from loyalty.queue_balance_notices((run).program_id, (run).period, (run).last_account, chunk_size) n;
    else
        select n.last_account, n.queued into run_notice_chunk.last_account, run_notice_chunk.queued
          from loyalty.queue_expiry_notices((run).program_id, (run).period, (run).last_account, chunk_size) n;
    end if;
    members := loyalty.accounts_between((run).program_id, (run).last_account, last_account);
end
$$;
comment on function loyalty.run_notice_chunk is
    'Does a chunk of a run that queues notices; last_account null when it was the last.';

create function loyalty.advance_schedule(program_id integer, job text, period date) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    -- a period done again, by rerun, moves nothing
    update loyalty.schedule s
       set done_through = advance_schedule.period
     where s.program_id = advance_schedule.program_id
       and s.job = advance_schedule.job
       and s.next_period <= advance_schedule.period;
    perform loyalty.plan_schedule(s.program_id, s.job)
       from (select s.program_id, s.job
               from loyalty.schedule s
              where s.program_id = advance_schedule.program_id
                and (s.job = advance_schedule.job
                     -- once a day, days that the calendar opened or closed meanwhile
                     or advance_schedule.job = 'expire' and s.job like 'rule:%')
              order by s.job) s;
end
$$;
comment on function loyalty.advance_schedule is 'Plans what comes after a period that is done.';

create function loyalty.finish_run(run_id bigint, outcome text, note text default null) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    finished loyalty.run;
begin
    update loyalty.run r
       set finished_at = loyalty.now(), outcome = finish_run.outcome, note = finish_run.note
     where r.run_id = finish_run.run_id
    returning r.* into finished;
    -- These do all that is due by their day: so are periods before it that a crash or an
    -- error left open. Whoever is at one of them now closes it alone.
    if finished.job in ('expire', 'notice:expiry') then
        update loyalty.run
           set finished_at = loyalty.now(),
               outcome = case when job = 'expire' then 'done' else 'skipped' end,
               note = case when job <> 'expire' then 'Its day was over before it was done.' end
         where run_id in (
                   select r.run_id
                     from loyalty.run r
                    where r.program_id = finished.program_id
                      and r.job = finished.job
                      and r.period < finished.period
                      and r.finished_at is null
                      for update skip locked);
    end if;
    perform loyalty.advance_schedule(finished.program_id, finished.job, finished.period);
end
$$;
comment on function loyalty.finish_run is 'Closes a run, and plans what comes after it.';

create function loyalty.run_chunk(program_id integer, job text, period date, chunk_size bigint)
    returns text
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    -- functions that return sets look dear to the planner, and are not
    set jit = off
as $$
#variable_conflict use_column
declare
    claimed loyalty.run;
    at_account bigint;
    did_members bigint;
    did_paid bigint;
    did_failed bigint;
    did_queued bigint;
    did_lots bigint;
    did_points bigint;
    state text;
    problem text;
begin
    if chunk_size <= 0 then
        perform loyalty.raise('22023', 'chunk_size must be above zero',
            format('%s given.', chunk_size), 'Accounts that one transaction books.');
    end if;
    insert into loyalty.run (program_id, job, period, effective_on, started_at)
    select run_chunk.program_id, run_chunk.job, run_chunk.period,
           case when run_chunk.job like 'rule:%' then (
               select r.pays_on
                 from loyalty.rule_periods(run_chunk.program_id, substr(run_chunk.job, 6),
                          run_chunk.period - 1, run_chunk.period) r
                where r.period = run_chunk.period)
           else run_chunk.period
           end,
           loyalty.now()
     where not exists (
               select from loyalty.run r
                where r.program_id = run_chunk.program_id
                  and r.job = run_chunk.job
                  and r.period = run_chunk.period)
        on conflict on constraint run_is_once do nothing;
    -- a tick beside this one leaves the row to whoever has it
    select * into claimed
      from loyalty.run r
     where r.program_id = run_chunk.program_id
       and r.job = run_chunk.job
       and r.period = run_chunk.period
       for update skip locked;
    if not found then
        return 'busy';
    end if;
    if claimed.finished_at is not null then
        -- the clock went back, or the row was restored without its schedule
        perform loyalty.advance_schedule(claimed.program_id, claimed.job, claimed.period);
        return 'done';
    end if;
    if claimed.job like 'notice:%' and claimed.period < (
           select timezone(p.time_zone, loyalty.now())::date
             from loyalty.program p
            where p.program_id = claimed.program_id) then
        perform loyalty.finish_run(claimed.run_id, 'skipped', case when claimed.chunks = 0
            then 'Its day was over before it began.' else 'Its day was over before it was done.' end);
        return 'done';
    end if;
    begin
        if claimed.job = 'expire' then
            select c.last_account, c.members, c.lots, c.points
              into at_account, did_members, did_lots, did_points
              from loyalty.run_expire_chunk(claimed, chunk_size) c;
        elsif claimed.job like 'rule:%' then
            select c.last_account, c.members, c.paid, c.failed, c.points
              into at_account, did_members, did_paid, did_failed, did_points
              from loyalty.run_rule_chunk(claimed, chunk_size) c;
        else
            select c.last_account, c.members, c.queued
              into at_account, did_members, did_queued
              from loyalty.run_notice_chunk(claimed, chunk_size) c;
        end if;
        update loyalty.run r
           set last_account = coalesce(at_account, r.last_account),
               chunks = r.chunks + 1,
               members = r.members + coalesce(did_members, 0),
               paid = r.paid + coalesce(did_paid, 0),
               failed = r.failed + coalesce(did_failed, 0),
               queued = r.queued + coalesce(did_queued, 0),
               lots = r.lots + coalesce(did_lots, 0),
               points = r.points + coalesce(did_points, 0),
               error = null
         where r.run_id = claimed.run_id;
        if at_account is null then
            perform loyalty.finish_run(claimed.run_id, 'done');
            return 'done';
        end if;
    exception when others then
        get stacked diagnostics state = returned_sqlstate, problem = message_text;
        update loyalty.run r set error = state || ' ' || problem where r.run_id = claimed.run_id;
        return 'failed';
    end;
    return 'more';
end
$$;
comment on function loyalty.run_chunk is
    'Does one chunk of a run, in the caller''s transaction: more, done, failed (the run says why), or busy in another session.';
-- The tick: finds what is due, and has it done chunk by chunk.

create function loyalty.due_periods(program_id integer, job text) returns setof date
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    planned loyalty.schedule;
    today date;
begin
    select s.* into planned
      from loyalty.schedule s
     where s.program_id = due_periods.program_id and s.job = due_periods.job
       and s.due_at <= loyalty.now() and not s.is_paused;
    select timezone(p.time_zone, loyalty.now())::date into today
      from loyalty.program p
     where p.program_id = due_periods.program_id;
    if planned.job like 'rule:%' then
        return query
        select r.period
          from loyalty.rule_periods(planned.program_id, substr(planned.job, 6), planned.done_through, today) r
         where r.pays_on <= today;
    elsif planned.job in ('expire', 'notice:expiry') then
        return next today;
    elsif planned.job is not null then
        return next planned.next_period;
    end if;
    return query
    select r.period
      from loyalty.run r
     where r.program_id = due_periods.program_id and r.job = due_periods.job
       and r.reopened_at is not null and r.finished_at is null
       and not exists (
               select from loyalty.schedule s
                where s.program_id = r.program_id and s.job = r.job
                  and (s.is_paused or s.due_at <= loyalty.now() and s.next_period <= r.period));
end
$$;
comment on function loyalty.due_periods is 'For due_run: the periods of a job that are due now.';

create view loyalty.due_run with (security_invoker = true) as
select p.program_id, p.code, d.job, r.period
  from (select s.program_id, s.job
          from loyalty.schedule s
         where s.due_at <= loyalty.now() and not s.is_paused
         union
        select r.program_id, r.job
          from loyalty.run r
         where r.reopened_at is not null and r.finished_at is null) d
  join loyalty.program p on p.program_id = d.program_id
 cross join lateral loyalty.due_periods(d.program_id, d.job) r (period);
comment on view loyalty.due_run is 'What the next tick will do.';
comment on column loyalty.due_run.program_id is 'The program.';
comment on column loyalty.due_run.code is 'Its code.';
comment on column loyalty.due_run.job is 'What is due, as in loyalty.schedule.';
comment on column loyalty.due_run.period is
    'For which day; after downtime a rule has one row for each period missed.';

create function loyalty.claim_period(program_id integer, job text) returns date
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    planned loyalty.schedule;
    today date;
    latest date;
begin
    select timezone(p.time_zone, loyalty.now())::date into today
      from loyalty.program p
     where p.program_id = claim_period.program_id;
    select s.* into planned
      from loyalty.schedule s
     where s.program_id = claim_period.program_id and s.job = claim_period.job;
    -- What was found before the lock may be done meanwhile. And before a period begins, its
    -- day is looked up once more: the calendar may have changed since it was planned.
    if planned.due_at <= loyalty.now() and not planned.is_paused and planned.job <> 'expire'
       and not exists (select from loyalty.run r
                        where r.program_id = planned.program_id and r.job = planned.job
                          and r.period = planned.next_period) then
        if planned.job = 'notice:expiry' and planned.next_period < today then
            -- a day missed is not made up for: today's tells the same, and more
            update loyalty.schedule s
               set done_through = today - 1
             where s.program_id = planned.program_id and s.job = planned.job;
        end if;
        perform loyalty.plan_schedule(planned.program_id, planned.job);
        select s.* into planned
          from loyalty.schedule s
         where s.program_id = claim_period.program_id and s.job = claim_period.job;
    end if;
    if planned.due_at is null or planned.due_at > loyalty.now() or planned.is_paused then
        return null;
    end if;
    if planned.job <> 'expire' then
        return planned.next_period;
    end if;
    -- One run books for all days missed, but no later than the day of a payment that waits
    -- too: so entries come in the order that they would have had.
    select min(s.effective_on) into latest
      from loyalty.schedule s
     where s.program_id = planned.program_id and s.job like 'rule:%'
       and s.due_at <= loyalty.now() and not s.is_paused
       and s.effective_on >= planned.next_period;
    return least(today, latest);
end
$$;
comment on function loyalty.claim_period is
    'The period of a job that the tick has to do now, under the lock; null when there is none any more.';

-- Inlined where it is used, so that a condition on its columns reaches the indexes.
create function loyalty.due_work(passed_over text[])
    returns table (program_id integer, job text, period date, due_at timestamptz, key text, turn text)
    language sql stable
begin atomic
    select w.program_id, w.job, w.period, w.due_at, w.key,
           case when w.job like 'notice:%' then w.job else 'expire' end
      from (select s.program_id, s.job, null::date as period, s.due_at,
                   format('%s %s', s.program_id, s.job) as key
              from loyalty.schedule s
             where s.due_at <= loyalty.now() and not s.is_paused
             union all
            select r.program_id, r.job, r.period, r.reopened_at,
                   format('%s %s %s', r.program_id, r.job, r.period)
              from loyalty.run r
             where r.reopened_at is not null and r.finished_at is null
               and not exists (
                       select from loyalty.schedule s
                        where s.program_id = r.program_id and s.job = r.job and s.is_paused)) w
     where w.key <> all (due_work.passed_over)
       -- mails tell of payments that were due before them
       and not (w.job like 'notice:%' and exists (
               select from loyalty.schedule b
                where b.program_id = w.program_id and b.job not like 'notice:%'
                  and b.due_at <= w.due_at and not b.is_paused
                  and format('%s %s', b.program_id, b.job) <> all (due_work.passed_over)));
end;
comment on function loyalty.due_work is
    'For tick_step: what is due and may be begun; turn is the job whose row of loyalty.schedule is the lock that it goes under.';

create function loyalty.tick_step(
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
        if exists (select from loyalty.schedule s
                    where s.job = 'expire' and s.due_at > loyalty.now() + interval '3 days') then
            perform loyalty.plan_schedule(s.program_id, s.job)
               from (select j.program_id, j.job
                       from loyalty.schedule e
                       join loyalty.schedule j on j.program_id = e.program_id
                      where e.job = 'expire' and e.due_at > loyalty.now() + interval '3 days'
                        and j.job not like 'rule:%'
                      order by j.program_id, j.job) s;
        end if;
    end if;
    -- mostly there is nothing, and two looks into indexes tell
    if not exists (select from loyalty.schedule s where s.due_at <= loyalty.now() and not s.is_paused)
       and not exists (select from loyalty.run r where r.reopened_at is not null and r.finished_at is null) then
        return;
    end if;
    -- Ledger jobs of a program go one at a time, in the order they are due: else the entries
    -- of a member whom two of them reach would come in any order. Programs go side by side.
    loop
        select w.program_id, w.turn into turn
          from loyalty.due_work(passed_over) w
          join loyalty.schedule l on l.program_id = w.program_id and l.job = w.turn
         order by w.due_at, w.program_id, w.job, w.period
         limit 1
           for update of l skip locked;
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
comment on function loyalty.tick_step is
    'One chunk of what is due first and nobody is at, in the caller''s transaction: what it worked on and what run_chunk said; nulls when there is nothing. passed_over: what failed in this tick; null at its start.';

create procedure loyalty.tick(chunk_size bigint default 10000)
    language plpgsql
as $$
-- No SET clause: a procedure with one cannot commit. So it names everything in full, and
-- leaves all that needs operators to functions.
declare
    passed_over text[];
    step record;
begin
    loop
        select s.worked_on, s.outcome into step from loyalty.tick_step(chunk_size, passed_over) s;
        commit;
        exit when step.worked_on is null;
        passed_over := loyalty.pass_over(passed_over, step.worked_on, step.outcome);
    end loop;
end
$$;
comment on procedure loyalty.tick is
    'Does all that is due, in chunks that commit: safe to call at any time, from several sessions, again after a crash. pg_cron calls it each minute once install_schedules() was called.';

create function loyalty.pass_over(passed_over text[], worked_on text, outcome text) returns text[]
    language sql immutable parallel safe set search_path = pg_catalog, pg_temp
    return coalesce(passed_over, '{}')
        || case when outcome in ('failed', 'busy') then array[worked_on] else '{}' end;
comment on function loyalty.pass_over is 'For tick: what it will not try again this time.';

create function loyalty.rerun(program text, job text, period date) returns loyalty.run
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    program_number integer := loyalty.program_id(program);
    today date := loyalty.today(program);
    pays_on date := rerun.period;
    planned loyalty.schedule;
    opened loyalty.run;
begin
    if rerun.job is null or rerun.period is null then
        perform loyalty.raise('22004', 'job and period must not be null', null,
            'loyalty.run lists the runs there were.');
    end if;
    select s.* into planned
      from loyalty.schedule s
     where s.program_id = program_number and s.job = rerun.job;
    if not found then
        perform loyalty.raise('22023', 'no such job', format('Program %L has no job %L.', program, rerun.job),
            (select 'It has ' || string_agg(s.job, ', ' order by s.job) || '.'
               from loyalty.schedule s
              where s.program_id = program_number));
    end if;
    if planned.is_paused then
        perform loyalty.raise('22023', 'the job is paused', format('%s of program %s.', rerun.job, program),
            'Call loyalty.resume_schedule first.');
    end if;
    if rerun.job like 'rule:%' then
        select r.pays_on into pays_on
          from loyalty.rule_periods(program_number, substr(rerun.job, 6), rerun.period - 1, rerun.period) r
         where r.period = rerun.period;
        if not found then
            perform loyalty.raise('22023', 'the rule has no such period', format('%s given.', rerun.period),
                'A period is the nominal day of a payment; loyalty.run lists those there were.');
        end if;
    end if;
    if pays_on > today then
        perform loyalty.raise('22023', 'the period is still to come',
            format('It is due on %s; today is %s in the program''s time zone.', pays_on, today),
            'Wait for its day: the tick does it then.');
    end if;
    if rerun.job like 'notice:%' and pays_on < today then
        perform loyalty.raise('22023', 'the day of these notices is over',
            format('It was %s; today is %s in the program''s time zone.', pays_on, today),
            'A notice that comes days late misleads; the next ones tell the same.');
    end if;
    insert into loyalty.run as r (program_id, job, period, effective_on, started_at, reopened_at)
    values (program_number, rerun.job, rerun.period, pays_on, loyalty.now(), loyalty.now())
        on conflict on constraint run_is_once do update
       set reopened_at = excluded.reopened_at, finished_at = null, outcome = null, note = null,
           last_account = null, members = 0, failed = 0
    returning r.* into opened;
    delete from loyalty.run_failure f where f.run_id = opened.run_id;
    return opened;
end
$$;
comment on function loyalty.rerun is
    'Opens a run again, or one that never was, for the next tick: pays who came later or failed, on the terms of its own day. Whoever was paid is not paid twice. LY002, 22004, 22023.';

create function loyalty.retry_failures(run_id bigint, out retried bigint, out paid bigint, out failed bigint)
    returns record
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    set jit = off
as $$
#variable_conflict use_column
declare
    retrying loyalty.run;
    points_paid bigint;
begin
    select r.* into retrying from loyalty.run r where r.run_id = retry_failures.run_id for update;
    if not found then
        perform loyalty.raise('LY002', 'no such run', format('%s given.', retry_failures.run_id),
            'select run_id from loyalty.run lists them.');
    end if;
    select count(*) into retried from loyalty.run_failure f where f.run_id = retrying.run_id;
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
           coalesce(sum(o.granted) filter (where o.code is null and o.is_new), 0)
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
comment on function loyalty.retry_failures is
    'Tries the payments again that a run lists in run_failure, on the terms of the run''s own day. Returns how many were tried, how many of these were paid, and how many are left. LY002.';
create function loyalty.preview(program text, months integer default 24)
    returns table (day date, job text, title text, period date, members bigint, points bigint)
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
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
              from loyalty.wallet w
             cross join lateral unnest(w.lot_expires_on, w.lot_remaining) l (expires_on, points)
             where w.program_id = program_number
               and l.points > 0
               and l.expires_on < horizon
             group by 1
           ) p
     order by 1, 2, 4;
end
$$;
comment on function loyalty.preview is
    'What the coming months bring, without doing it: for each day and job how many members are paid how many points in all, by the members, facts and rules of today; and how many points that members hold now lapse unless spent (job expire, the day they are booked). Overdue periods come first. LY002; 22023 for months not from 1 to 120.';
-- Who did what, when and from where: each administrative call and each call about who
-- somebody is. Append-only, like the journal.

create table loyalty.audit (
    audit_id bigint generated always as identity primary key,
    at timestamptz not null,
    program_id integer references loyalty.program,
    actor text not null,
    address text,
    action text not null
        constraint audit_action_is_a_name check (action ~ '^[a-z][a-z0-9_]{1,62}$'),
    outcome text not null
        constraint audit_outcome_is_known check (outcome in ('done', 'refused')),
    identity_id bigint,
    account_id bigint,
    details jsonb not null default '{}'
        constraint audit_details_are_an_object check (jsonb_typeof(details) = 'object')
);
create index audit_by_program on loyalty.audit (program_id, audit_id);
create index audit_by_identity on loyalty.audit (identity_id, audit_id) where identity_id is not null;

comment on table loyalty.audit is
    'Administrative calls and calls about identities: who, what, when, from where. Only ever added to.';
comment on column loyalty.audit.audit_id is 'Number of the line.';
comment on column loyalty.audit.at is 'When, by the ledger''s clock.';
comment on column loyalty.audit.program_id is 'The program it was about; null when none.';
comment on column loyalty.audit.actor is 'Who asked: the database user, or role and subject of the token.';
comment on column loyalty.audit.address is 'The client''s address, as the proxy tells it; null for SQL over a socket.';
comment on column loyalty.audit.action is 'What was asked: the name of the function.';
comment on column loyalty.audit.outcome is 'done, or refused where the call counted although it was in vain.';
comment on column loyalty.audit.identity_id is 'The person it was about.';
comment on column loyalty.audit.account_id is 'The member''s account it was about.';
comment on column loyalty.audit.details is 'What else matters of the call; never a secret.';

create function loyalty.client_address() returns text
    language sql stable set search_path = pg_catalog, pg_temp
    -- the last one is what our own proxy saw; those before it, anybody may have written
    return coalesce(
        nullif(left(btrim(regexp_replace(
            coalesce(nullif(current_setting('request.headers', true), ''), '{}')::json ->> 'x-forwarded-for',
            '^.*,', '')), 64), ''),
        host(inet_client_addr()));
comment on function loyalty.client_address is
    'Address of the client: what the proxy in front of PostgREST added to X-Forwarded-For, else the connection''s; null on a socket.';

create function loyalty.audit(
    action text,
    program_id integer,
    identity_id bigint default null,
    account_id bigint default null,
    details jsonb default '{}',
    outcome text default 'done'
) returns void
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    insert into loyalty.audit (at, program_id, actor, address, action, outcome, identity_id, account_id, details)
    values (loyalty.now(), audit.program_id, loyalty.actor(), loyalty.client_address(), audit.action, audit.outcome,
            audit.identity_id, audit.account_id, jsonb_strip_nulls(coalesce(audit.details, '{}')));
end;
comment on function loyalty.audit is 'Adds a line to the audit.';

create function loyalty.guard_audit() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty.raise('LY005', 'the audit is append-only', format('%s of loyalty.%s.', tg_op, tg_table_name),
        'Lines are added by the calls they are about, and stay.');
    return null;
end
$$;
comment on function loyalty.guard_audit is 'Refuses changes of what was recorded.';
create trigger guard before update or delete or truncate on loyalty.audit
    for each statement execute function loyalty.guard_audit();
-- Secrets. The keys behind them lie in files outside of the database (loyalty.secret_dir);
-- none of these functions is for anybody but the functions of this schema.

create function loyalty.hash_password(password text) returns text
    language c volatile strict
    as 'MODULE_PATHNAME', 'loyalty_hash_password';
comment on function loyalty.hash_password is
    'The Argon2id hash of a password to be stored: 19 MiB, two passes, one lane, its own salt.';

create function loyalty.check_password(password text, password_hash text) returns boolean
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_check_password';
comment on function loyalty.check_password is
    'Whether it is the password of the hash. Without a hash it is not, after as much work.';

create function loyalty.password_flaw(
    password text, login_id text, length integer, letters integer, digits integer, symbols boolean
) returns text
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_password_flaw';
comment on function loyalty.password_flaw is
    'What a policy has against a password (guide C12); null when nothing.';

create function loyalty.keyed_hashes(usage text, value text) returns bytea[]
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_keyed_hashes';
comment on function loyalty.keyed_hashes is
    'Hashes (HMAC-SHA256) by which a secret value is stored and found again: the first with the key in use, then with those still believed.';

create function loyalty.keyed_code(usage text, value text, digits integer) returns text
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_keyed_code';
comment on function loyalty.keyed_code is
    'The code of so many digits, or with 0 the token, that the key in use makes of a value.';

create function loyalty.is_keyed_code(usage text, value text, digits integer, given text) returns boolean
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_is_keyed_code';
comment on function loyalty.is_keyed_code is
    'Whether what was given is the code of a value, by any key still believed; compared in constant time.';

create function loyalty.random_token() returns text
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_random_token';
comment on function loyalty.random_token is '256 random bits, as base64url.';

create function loyalty.sign_token(claims text) returns text
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_sign_token';
comment on function loyalty.sign_token is
    'A token (JWT, HS256) of a JSON object of claims, signed with the key that PostgREST believes.';

create function loyalty.own_claims(token text) returns json
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_own_claims';
comment on function loyalty.own_claims is
    'The claims of a token that a key of ours signed, whether or not its time is over; null of any other.';

create function loyalty.clean_login_id(login_id text) returns text
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'loyalty_clean_login_id';
comment on function loyalty.clean_login_id is
    'A login ID as it is stored: an e-mail address in lower case, or a telephone number as E.164; null for what is neither.';
-- People who log in (A1–A8, C8–C13): who they are, which members they are, and what a program
-- asks of them. What nobody may read, not even an operator, has tables of its own.

create table loyalty.access_policy (
    program_id integer primary key references loyalty.program,
    organisation_id text
        constraint access_policy_organisation_id_is_short check (char_length(organisation_id) between 1 and 50),
    terms_version text not null default '1'
        constraint access_policy_terms_version_is_short check (char_length(terms_version) between 1 and 50),
    terms_url text
        constraint access_policy_terms_url_is_a_url check (terms_url ~ '^https?://[^<>"[:space:][:cntrl:]]+$' and char_length(terms_url) <= 500),
    site_url text
        constraint access_policy_site_url_is_a_url check (site_url ~ '^https?://[^<>"[:space:][:cntrl:]]+[^/<>"[:space:][:cntrl:]]$' and char_length(site_url) <= 500),
    asks_details boolean not null default false,
    allows_member_no boolean not null default false,
    password_length integer not null default 8
        constraint access_policy_password_length_is_sane check (password_length between 6 and 64),
    password_letters integer not null default 2
        constraint access_policy_password_letters_is_sane check (password_letters between 0 and 32),
    password_digits integer not null default 3
        constraint access_policy_password_digits_is_sane check (password_digits between 0 and 32),
    password_symbols boolean not null default true,
    token_life interval not null default '10 minutes'
        constraint access_policy_token_life_is_sane check (token_life between interval '1 minute' and interval '1 hour'),
    session_life interval not null default '12 hours'
        constraint access_policy_session_life_is_sane check (session_life between interval '5 minutes' and interval '7 days'),
    remembered_life interval not null default '60 days'
        constraint access_policy_remembered_life_is_sane check (remembered_life between interval '1 day' and interval '400 days'),
    family_relations text[] not null default '{}',
    family_degree integer not null default 2
        constraint access_policy_family_degree_is_sane check (family_degree between 0 and 2),
    family_access text not null default 'none'
        constraint access_policy_family_access_is_known check (family_access in ('none', 'see', 'spend')),
    family_monthly_limit bigint
        constraint access_policy_family_monthly_limit_is_not_negative check (family_monthly_limit >= 0),
    approval_above bigint
        constraint access_policy_approval_above_is_not_negative check (approval_above >= 0)
);
create unique index access_policy_by_organisation on loyalty.access_policy (lower(organisation_id));

comment on table loyalty.access_policy is
    'What a program asks of people who register and log in, and what it lets families and administrators do; a program without a row has nobody who logs in. Written by loyalty.set_access_policy.';
comment on column loyalty.access_policy.program_id is 'The program.';
comment on column loyalty.access_policy.organisation_id is 'What members type to say which organisation they are of (A1); upper and lower case are the same.';
comment on column loyalty.access_policy.terms_version is 'Version of the terms that a registration accepts.';
comment on column loyalty.access_policy.terms_url is 'Where the terms can be read.';
comment on column loyalty.access_policy.site_url is 'The site that mailed links lead to, without a slash at its end; null mails the token itself.';
comment on column loyalty.access_policy.asks_details is 'Whether registration asks for kana and birth date, which must be those of the member record (C11).';
comment on column loyalty.access_policy.allows_member_no is 'Whether a member may log in by member number, without an e-mail address or phone (S8).';
comment on column loyalty.access_policy.password_length is 'Characters that a password has at least.';
comment on column loyalty.access_policy.password_letters is 'ASCII letters that it has at least (C12).';
comment on column loyalty.access_policy.password_digits is 'Digits that it has at least (C12).';
comment on column loyalty.access_policy.password_symbols is 'Whether it may have more than ASCII letters and digits.';
comment on column loyalty.access_policy.token_life is 'How long an access token is good.';
comment on column loyalty.access_policy.session_life is 'How long a login lasts without being used.';
comment on column loyalty.access_policy.remembered_life is 'The same for remember-me (C9).';
comment on column loyalty.access_policy.family_relations is 'Relations that may be invited (A8): spouse, parent, child, …; empty for none.';
comment on column loyalty.access_policy.family_degree is 'The highest degree of kinship that may be invited; a spouse has none.';
comment on column loyalty.access_policy.family_access is 'What family may do with the member''s points: nothing, see, or also spend them.';
comment on column loyalty.access_policy.family_monthly_limit is 'Points that one of the family may spend in a month of the program''s time zone; null for no limit.';
comment on column loyalty.access_policy.approval_above is 'Grants over HTTP of more points need two administrators; null for never.';

create table loyalty.identity (
    identity_id bigint generated always as identity primary key,
    login_id text
        constraint identity_login_id_is_clean check (login_id = loyalty.clean_login_id(login_id)),
    state text not null default 'provisional'
        constraint identity_state_is_known
            check (state in ('provisional', 'active', 'suspended', 'locked', 'closed')),
    created_at timestamptz not null,
    changed_at timestamptz not null
);
-- Who did not prove an address does not keep it from others; who left gives it free.
create unique index identity_by_login_id on loyalty.identity (login_id)
    where state in ('active', 'suspended', 'locked');

comment on table loyalty.identity is 'A person who logs in: one for all programs that they are a member of (A1).';
comment on column loyalty.identity.identity_id is 'Number of the person.';
comment on column loyalty.identity.login_id is 'E-mail address in lower case, or mobile number as E.164; null for who logs in by member number only (S8).';
comment on column loyalty.identity.state is
    'provisional until the login ID is proven and the name confirmed; active; suspended while staff look at an application (C13); locked after too many wrong passwords; closed.';
comment on column loyalty.identity.created_at is 'When it was registered.';
comment on column loyalty.identity.changed_at is 'When the state or login ID last changed.';

create table loyalty.credential (
    identity_id bigint primary key references loyalty.identity,
    password_hash text not null,
    changed_at timestamptz not null
);
comment on table loyalty.credential is 'Passwords, as Argon2id hashes. Nobody but the owner reads it.';
comment on column loyalty.credential.identity_id is 'Whose.';
comment on column loyalty.credential.password_hash is 'The hash, as a PHC string.';
comment on column loyalty.credential.changed_at is 'When it was set.';

create table loyalty.identity_link (
    identity_id bigint not null references loyalty.identity,
    account_id bigint not null references loyalty.account,
    program_id integer not null references loyalty.program,
    relation text not null default 'self'
        constraint identity_link_relation_is_short check (char_length(relation) between 1 and 30),
    terms_version text,
    linked_at timestamptz not null,
    ended_at timestamptz,
    primary key (identity_id, account_id)
);
create unique index identity_link_of_member on loyalty.identity_link (account_id)
    where relation = 'self' and ended_at is null;
create index identity_link_by_account on loyalty.identity_link (account_id);

comment on table loyalty.identity_link is
    'Which members a person is (relation self), and whose family (any other relation): what a login opens.';
comment on column loyalty.identity_link.identity_id is 'The person.';
comment on column loyalty.identity_link.account_id is 'The member''s account.';
comment on column loyalty.identity_link.program_id is 'Program of the account.';
comment on column loyalty.identity_link.relation is 'self, or what the person is to the member.';
comment on column loyalty.identity_link.terms_version is 'The terms accepted then.';
comment on column loyalty.identity_link.linked_at is 'Since when.';
comment on column loyalty.identity_link.ended_at is 'Until when; null while it holds.';

create table loyalty.member_key (
    account_id bigint primary key references loyalty.account,
    program_id integer not null references loyalty.program,
    key_1_hash bytea not null,
    key_2_hash bytea not null,
    issued_at timestamptz not null
);
create unique index member_key_by_key_1 on loyalty.member_key (program_id, key_1_hash);
comment on table loyalty.member_key is
    'Authentication keys 1 and 2 of members (A1), as keyed hashes. Nobody but the owner reads it.';
comment on column loyalty.member_key.account_id is 'The member''s account.';
comment on column loyalty.member_key.program_id is 'Program of the account.';
comment on column loyalty.member_key.key_1_hash is 'Hash of key 1, which tells whose keys they are.';
comment on column loyalty.member_key.key_2_hash is 'Hash of key 2, which proves it.';
comment on column loyalty.member_key.issued_at is 'When they were issued.';

create function loyalty.refuse(
    code text, message text, details text default null, hint text default null, retry_after interval default null
) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('response.status', case code
        when 'LY002' then '404' when 'LY004' then '403' when 'LY008' then '429' when 'LY009' then '401'
        when 'LY010' then '403' else '400' end, true);
    if code = 'LY008' then
        perform set_config('response.headers',
            format('[{"Retry-After": "%s"}]', ceil(extract(epoch from coalesce(retry_after, '1 day')))), true);
    elsif code = 'LY009' then
        perform set_config('response.headers', '[{"WWW-Authenticate": "Bearer"}]', true);
    end if;
    return jsonb_build_object('code', code, 'message', message, 'details', details, 'hint', hint);
end
$$;
comment on function loyalty.refuse is
    'The body of an error that must not undo what the call wrote, such as the count of wrong passwords: over HTTP it is answered with the code''s status, like any other.';

create function loyalty.access_policy_of(program_id integer) returns loyalty.access_policy
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    policy loyalty.access_policy;
begin
    select p.* into policy from loyalty.access_policy p where p.program_id = access_policy_of.program_id;
    if not found then
        perform loyalty.raise('LY010', 'the program has no accounts of people', null,
            'loyalty.set_access_policy opens it to registration.');
    end if;
    return policy;
end
$$;
comment on function loyalty.access_policy_of is 'A program''s access policy; LY010 when it has none.';

create function loyalty.check_new_password(policy loyalty.access_policy, password text, login_id text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    flaw text;
begin
    if password is null then
        perform loyalty.raise('22004', 'password must not be null', null, 'Choose a password.');
    end if;
    flaw := loyalty.password_flaw(password, login_id, policy.password_length, policy.password_letters,
        policy.password_digits, policy.password_symbols);
    if flaw is not null then
        perform loyalty.raise('22023', flaw, null, format(
            'At least %s characters, with %s letters and %s digits%s.', policy.password_length,
            policy.password_letters, policy.password_digits,
            case when policy.password_symbols then '; ASCII only' else ' and nothing else' end));
    end if;
end
$$;
comment on function loyalty.check_new_password is 'Refuses a password that the program''s policy does not take (C12): 22023 says why.';

create function loyalty.set_password(identity_id bigint, password text) returns void
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    insert into loyalty.credential as c (identity_id, password_hash, changed_at)
    values (set_password.identity_id, loyalty.hash_password(set_password.password), loyalty.now())
        on conflict (identity_id) do update
       set password_hash = excluded.password_hash, changed_at = excluded.changed_at;
end;
comment on function loyalty.set_password is 'Stores the hash of a password that was checked before.';
-- Wrong passwords, codes and keys, counted for what was guessed at and for the client's
-- address, with growing delays. An unknown login ID is counted like a known one.

create table loyalty.throttle (
    scope text not null
        constraint throttle_scope_is_known check (scope in ('password', 'key', 'code', 'send', 'address')),
    subject_hash bytea not null,
    failures integer not null,
    failed_at timestamptz not null,
    blocked_until timestamptz,
    primary key (scope, subject_hash)
) with (fillfactor = 70);
comment on table loyalty.throttle is 'Failed attempts that still count. Nobody but the owner reads it.';
comment on column loyalty.throttle.scope is
    'What was tried: password (of a login ID), key (of a member), code (of a registration), send (mails to an address), address (anything from one client).';
comment on column loyalty.throttle.subject_hash is 'Keyed hash of the login ID, key 1, registration or address.';
comment on column loyalty.throttle.failures is 'Failures in a row; a day without one forgets them.';
comment on column loyalty.throttle.failed_at is 'When the last one was.';
comment on column loyalty.throttle.blocked_until is 'Until when no attempt is looked at; infinity until it is unlocked.';

create function loyalty.blocked_until(scope text, failures integer, failed_at timestamptz) returns timestamptz
    language sql immutable parallel safe
    return (
        select case when failures >= r.locks_at then 'infinity'::timestamptz
                    when failures >= r.free
                    then failed_at + least(r.longest, r.first * power(2, least(failures - r.free, 20))) end
          from (values ('password', 5, interval '30 seconds', interval '15 minutes', 10),
                       ('key', 5, interval '1 minute', interval '1 hour', null),
                       ('code', 5, interval '1 minute', interval '1 hour', null),
                       ('send', 3, interval '1 minute', interval '1 hour', null),
                       ('address', 50, interval '1 minute', interval '1 hour', null)
               ) as r (scope, free, first, longest, locks_at)
         where r.scope = blocked_until.scope);
comment on function loyalty.blocked_until is
    'Until when so many failures block: passwords 30 seconds from the 5th, doubling up to 15 minutes, locked from the 10th; keys and codes a minute from the 5th and mails from the 3rd, up to an hour; a client''s address a minute from the 50th failure of any kind.';

create function loyalty.begin_attempt(scope text, subject text) returns interval
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    hashes bytea[] := loyalty.keyed_hashes('throttle ' || scope, subject);
    addresses bytea[] := loyalty.keyed_hashes('throttle address', coalesce(loyalty.client_address(), 'local'));
    wait timestamptz;
    from_address timestamptz;
begin
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
comment on function loyalty.begin_attempt is
    'Before an attempt is looked at: how long it has to wait, null when not at all. Holds others back until this one is counted.';

create function loyalty.attempt_failed(scope text, subject text, counts_for_client boolean default true)
    returns timestamptz
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    hashes bytea[] := loyalty.keyed_hashes('throttle ' || scope, subject);
    addresses bytea[] := loyalty.keyed_hashes('throttle address', coalesce(loyalty.client_address(), 'local'));
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
    insert into loyalty.throttle as t (scope, subject_hash, failures, failed_at)
    values ('address', addresses[1], 1, loyalty.now())
        on conflict on constraint throttle_pkey do update
       set failures = case when t.failed_at > loyalty.now() - interval '1 day' then t.failures + 1 else 1 end,
           failed_at = excluded.failed_at,
           blocked_until = loyalty.blocked_until('address', t.failures + 1, excluded.failed_at);
    return blocked;
end
$$;
comment on function loyalty.attempt_failed is
    'Counts a failure of the attempt begun, for the client''s address too unless it proved something before (a whole company registers from one address); until when the next one is blocked (infinity: locked), null when it is not.';

create function loyalty.attempt_succeeded(scope text, subject text) returns void
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    delete from loyalty.throttle t
     where t.scope = attempt_succeeded.scope
       and t.subject_hash = any (loyalty.keyed_hashes('throttle ' || attempt_succeeded.scope, attempt_succeeded.subject));
end;
comment on function loyalty.attempt_succeeded is 'Forgets the failures of what was just got right, or is unlocked.';

create function loyalty.refuse_attempt(wait interval) returns jsonb
    language sql volatile set search_path = pg_catalog, pg_temp
    return loyalty.refuse('LY008', 'too many attempts',
        format('Try again in %s seconds.', ceil(extract(epoch from wait))),
        'Wait, or reset the password or unlock the account by mail.', wait);
comment on function loyalty.refuse_attempt is 'The answer to an attempt that has to wait: LY008, 429 with Retry-After.';

create function loyalty.pad(began timestamptz) returns void
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    select pg_sleep(greatest(0, 0.05 - extract(epoch from clock_timestamp() - pad.began))::double precision);
end;
comment on function loyalty.pad is
    'Waits until 50 ms after a call began, so that the time of an answer does not tell whether a mail was queued.';
-- What people are sent to prove who they are: codes to type, and links. Neither is stored: it
-- is made of the challenge's number and a key outside of the database when the mail is
-- filled in, and once more when it comes back.

create table loyalty.challenge (
    challenge_id uuid primary key default gen_random_uuid(),
    purpose text not null,
    program_id integer not null references loyalty.program,
    identity_id bigint references loyalty.identity,
    account_id bigint references loyalty.account,
    address text,
    details jsonb not null default '{}',
    failures integer not null default 0,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    used_at timestamptz
);
create index challenge_by_identity on loyalty.challenge (identity_id) where used_at is null;
create index challenge_by_expiry on loyalty.challenge (expires_at);
comment on table loyalty.challenge is
    'Codes and links that were sent, without what was in them. Nobody but the owner reads it.';
comment on column loyalty.challenge.challenge_id is 'Number of the challenge, a part of its link.';
comment on column loyalty.challenge.purpose is 'What it is for, which is also the kind of the notice that carries it.';
comment on column loyalty.challenge.program_id is 'The program in whose name it is sent.';
comment on column loyalty.challenge.identity_id is 'The person, where there is one already.';
comment on column loyalty.challenge.account_id is 'The member''s account, where it is about one.';
comment on column loyalty.challenge.address is 'E-mail address or phone it goes to; null when it was sent to nobody.';
comment on column loyalty.challenge.details is 'What else it is about.';
comment on column loyalty.challenge.failures is 'Wrong codes given; five end it.';
comment on column loyalty.challenge.created_at is 'When it was made.';
comment on column loyalty.challenge.expires_at is 'Until when it is good.';
comment on column loyalty.challenge.used_at is 'When it was used, or ended by a newer one.';

create function loyalty.send_notice(
    program_id integer, account_id bigint, kind text, occasion text, address text,
    details jsonb default '{}', lasts interval default '1 day', challenge_id uuid default null
) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    insert into loyalty.notice
           (program_id, account_id, kind, occasion, channel, address, challenge_id, details, is_urgent,
            queued_at, due_at, send_by)
    values (send_notice.program_id, send_notice.account_id, send_notice.kind, send_notice.occasion,
            case when strpos(send_notice.address, '@') > 0 then 'email' else 'sms' end, send_notice.address,
            send_notice.challenge_id, send_notice.details, true, loyalty.now(), clock_timestamp(),
            clock_timestamp() + send_notice.lasts);
    perform pg_notify('loyalty_notice', '');
end
$$;
comment on function loyalty.send_notice is
    'Queues a notice about somebody''s account to an address, by mail or short message; nobody can refuse those.';

create function loyalty.new_challenge(
    purpose text, program_id integer, identity_id bigint, account_id bigint, address text,
    details jsonb default '{}', lasts interval default '15 minutes'
) returns loyalty.challenge
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    made loyalty.challenge;
begin
    -- the newest one only is good
    update loyalty.challenge c
       set used_at = loyalty.now()
     where c.identity_id = new_challenge.identity_id and c.purpose = new_challenge.purpose and c.used_at is null;
    insert into loyalty.challenge
           (purpose, program_id, identity_id, account_id, address, details, created_at, expires_at)
    values (new_challenge.purpose, new_challenge.program_id, new_challenge.identity_id, new_challenge.account_id,
            new_challenge.address, new_challenge.details, loyalty.now(), loyalty.now() + new_challenge.lasts)
    returning * into made;
    if made.address is not null then
        perform loyalty.send_notice(made.program_id, made.account_id, made.purpose, made.challenge_id::text,
            made.address, made.details, new_challenge.lasts, made.challenge_id);
    end if;
    return made;
end
$$;
comment on function loyalty.new_challenge is
    'Makes a challenge and queues its notice, of the kind that the purpose names; with address null nothing is sent. It ends earlier ones of the person for the same purpose.';

create function loyalty.challenge_code(challenge_id uuid, usage text default 'code', digits integer default 6)
    returns text
    language sql stable set search_path = pg_catalog, pg_temp
    return loyalty.keyed_code(usage, challenge_id::text, digits);
comment on function loyalty.challenge_code is 'The code of a challenge, for the notice or the screen.';

create function loyalty.challenge_token(challenge_id uuid) returns text
    language sql stable set search_path = pg_catalog, pg_temp
    return replace(challenge_id::text, '-', '') || '.' || loyalty.keyed_code('link', challenge_id::text, 0);
comment on function loyalty.challenge_token is 'The token in the link of a challenge.';

create function loyalty.challenge_of_token(token text, purposes text[]) returns loyalty.challenge
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    found_one loyalty.challenge;
begin
    if token ~ '^[0-9a-f]{32}\.[A-Za-z0-9_-]{43}$' then
        select c.* into found_one
          from loyalty.challenge c
         where c.challenge_id = split_part(token, '.', 1)::uuid
           and c.purpose = any (purposes)
           for update;
        if found_one.challenge_id is not null
           and loyalty.is_keyed_code('link', found_one.challenge_id::text, 0, split_part(token, '.', 2))
           and found_one.used_at is null and found_one.expires_at > loyalty.now() and found_one.failures < 5 then
            return found_one;
        end if;
    end if;
    return null;
end
$$;
comment on function loyalty.challenge_of_token is
    'The challenge that a link''s token opens, held until the end of the transaction; null when it is none, was used, or its time is over.';

create function loyalty.try_code(challenge_id uuid, given text, usage text default 'code', digits integer default 6)
    returns boolean
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform from loyalty.challenge c
      where c.challenge_id = try_code.challenge_id and c.used_at is null
        and c.expires_at > loyalty.now() and c.failures < 5
        for update;
    if not found then
        return false;
    end if;
    if loyalty.is_keyed_code(try_code.usage, try_code.challenge_id::text, try_code.digits, coalesce(try_code.given, '')) then
        return true;
    end if;
    update loyalty.challenge c set failures = c.failures + 1 where c.challenge_id = try_code.challenge_id;
    return false;
end
$$;
comment on function loyalty.try_code is
    'Whether that is the code of a challenge that is still good; a wrong one counts, and the fifth ends it.';

create function loyalty.use_challenge(challenge_id uuid) returns void
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    update loyalty.challenge c set used_at = loyalty.now() where c.challenge_id = use_challenge.challenge_id;
end;
comment on function loyalty.use_challenge is 'Ends a challenge: it was used.';

create function loyalty.challenge_context(notice loyalty.notice) returns jsonb
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    sent loyalty.challenge;
    site text;
begin
    if notice.challenge_id is null then
        return coalesce(notice.details, '{}');
    end if;
    select * into sent from loyalty.challenge c where c.challenge_id = notice.challenge_id;
    if sent.challenge_id is null or sent.used_at is not null then
        return null;
    end if;
    select p.site_url into site from loyalty.access_policy p where p.program_id = notice.program_id;
    return coalesce(notice.details, '{}') || jsonb_build_object(
        'minutes', ceil(extract(epoch from sent.expires_at - sent.created_at) / 60)::integer)
        || case when sent.purpose in ('verification_code', 'login_in_use')
                then jsonb_build_object('code', loyalty.challenge_code(sent.challenge_id))
                -- after the #, which browsers do not send: no server's log has it
                else jsonb_build_object('link', coalesce(site || '/' || sent.purpose || '#', '')
                                                || loyalty.challenge_token(sent.challenge_id)) end;
end
$$;
comment on function loyalty.challenge_context is
    'What the notice of a challenge is filled with: code or link, minutes, and its details; null when it was used, replaced or purged.';
-- What a program asks of people who log in (loyalty.access_policy), and the authentication keys
-- by which members prove who they are the first time (A1).

create function loyalty.set_access_policy(
    program text,
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
    clear text[] default '{}'
) returns loyalty.access_policy
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := loyalty.program_id(set_access_policy.program);
    emptied text[] := coalesce(set_access_policy.clear, '{}');
    written loyalty.access_policy;
    broken text;
    hint text;
begin
    if not emptied <@ '{organisation_id,terms_url,site_url,family_monthly_limit,approval_above}' then
        perform loyalty.raise('22023', 'clear names what cannot be empty', format('clear: %s given.', left(emptied::text, 100)),
            'organisation_id, terms_url, site_url, family_monthly_limit and approval_above can.');
    end if;
    if exists (select from unnest(set_access_policy.family_relations) r where loyalty.degree_of_kinship(r) is null) then
        perform loyalty.raise('22023', 'family_relations has what is no relation',
            format('family_relations: %s given.', left(set_access_policy.family_relations::text, 100)),
            'Names such as spouse, parent or child: docs/families.md lists them.');
    end if;
    insert into loyalty.access_policy as p (program_id) values (within) on conflict (program_id) do nothing;
    update loyalty.access_policy p
       set organisation_id = case when 'organisation_id' <> all (emptied)
                                  then coalesce(btrim(set_access_policy.organisation_id), p.organisation_id) end,
           terms_version = coalesce(set_access_policy.terms_version, p.terms_version),
           terms_url = case when 'terms_url' <> all (emptied) then coalesce(set_access_policy.terms_url, p.terms_url) end,
           site_url = case when 'site_url' <> all (emptied) then coalesce(set_access_policy.site_url, p.site_url) end,
           asks_details = coalesce(set_access_policy.asks_details, p.asks_details),
           allows_member_no = coalesce(set_access_policy.allows_member_no, p.allows_member_no),
           password_length = coalesce(set_access_policy.password_length, p.password_length),
           password_letters = coalesce(set_access_policy.password_letters, p.password_letters),
           password_digits = coalesce(set_access_policy.password_digits, p.password_digits),
           password_symbols = coalesce(set_access_policy.password_symbols, p.password_symbols),
           token_life = coalesce(set_access_policy.token_life, p.token_life),
           session_life = coalesce(set_access_policy.session_life, p.session_life),
           remembered_life = coalesce(set_access_policy.remembered_life, p.remembered_life),
           family_relations = coalesce(set_access_policy.family_relations, p.family_relations),
           family_degree = coalesce(set_access_policy.family_degree, p.family_degree),
           family_access = coalesce(set_access_policy.family_access, p.family_access),
           family_monthly_limit = case when 'family_monthly_limit' <> all (emptied)
                                       then coalesce(set_access_policy.family_monthly_limit, p.family_monthly_limit) end,
           approval_above = case when 'approval_above' <> all (emptied)
                                 then coalesce(set_access_policy.approval_above, p.approval_above) end
     where p.program_id = within
    returning * into written;
    perform loyalty.audit('set_access_policy', within, details => to_jsonb(written) - 'program_id');
    return written;
exception
    when check_violation then
        get stacked diagnostics broken = constraint_name;
        broken := substring(broken from '^access_policy_(.*)_is_[a-z_]+$');
        if broken is null then
            raise;
        end if;
        hint := case broken
            when 'terms_url' then 'A URL that begins with https:// or http:// and has no spaces, up to 500 characters.'
            when 'site_url' then 'A URL that begins with https:// or http://, without a slash at its end, up to 500 characters.'
            when 'password_length' then 'From 6 to 64.'
            when 'token_life' then 'From 1 minute to 1 hour.'
            when 'session_life' then 'From 5 minutes to 7 days.'
            when 'remembered_life' then 'From 1 day to 400 days.'
            when 'family_degree' then '0, 1 or 2.'
            when 'family_access' then 'none, see or spend.'
            else case when broken in ('organisation_id', 'terms_version') then 'From 1 to 50 characters.'
                      when broken in ('password_letters', 'password_digits') then 'From 0 to 32.'
                      else '0 or more points.' end end;
        perform loyalty.raise('22023', broken || ' is out of range', null, hint);
    when unique_violation then
        perform loyalty.raise('22023', 'organisation_id is taken', 'Another program has it.', 'Choose another one.');
end
$$;
comment on function loyalty.set_access_policy is
    'Opens a program to people who register and log in, and sets what it asks of them; what is null stays as it is, what clear names becomes empty. LY002 for an unknown program, 22023 names the wrong field.';

create function loyalty.clean_key(key text) returns text
    language sql immutable parallel safe set search_path = pg_catalog, pg_temp
    -- full-width digits and small letters are the same to who types them
    return nullif(btrim(upper(normalize(key, nfkc)), E' \t\r\n'), '');
comment on function loyalty.clean_key is 'An authentication key as it is hashed: NFKC, in capitals, without spaces around it; null when empty.';

create function loyalty.random_key(length integer) returns text
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    -- two bytes for each character, so that none is likelier than another by a measurable bit
    select string_agg(substr('ACDEFHJKMNPQRTUVWXY3479', 1 + (get_byte(r.bytes, 2 * i) * 256 + get_byte(r.bytes, 2 * i + 1)) % 23, 1),
                      '' order by i)
      from (select sha256(convert_to(loyalty.random_token(), 'UTF8')) as bytes) r
     cross join generate_series(0, least(random_key.length, 16) - 1) i;
end;
comment on function loyalty.random_key is
    'A key for people to type, of up to 16 letters and digits that nobody takes for others.';

create function loyalty.write_keys(program_id integer, items jsonb)
    returns table (item_no bigint, member_no text, account_id bigint, key_1 text, key_2 text, reason text)
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    -- two lists at once would each not see the other's keys
    perform pg_advisory_xact_lock(hashtextextended('loyalty keys', write_keys.program_id));
    return query
    with given as (
        select i.item_no, i.item ->> 'member_no' as member_no, a.account_id,
               coalesce(loyalty.clean_key(i.item ->> 'key_1'), loyalty.random_key(8)) as key_1,
               coalesce(loyalty.clean_key(i.item ->> 'key_2'), loyalty.random_key(10)) as key_2
          from jsonb_array_elements(write_keys.items) with ordinality i (item, item_no)
          left join loyalty.account a
            on a.program_id = write_keys.program_id and a.member_no = btrim(i.item ->> 'member_no')
    ), hashed as materialized (
        select g.*, loyalty.keyed_hashes('key 1 ' || write_keys.program_id, g.key_1) as hashes_1,
               (loyalty.keyed_hashes('key 2 ' || coalesce(g.account_id, 0), g.key_2))[1] as hash_2
          from given g
    ), judged as materialized (
        select h.*,
               case when h.account_id is null then 'no such member'
                    when char_length(h.key_1) > 64 then 'key_1 has more than 64 characters'
                    when char_length(h.key_2) not between 4 and 64 then 'key_2 has not from 4 to 64 characters'
                    when count(*) over (partition by h.account_id) > 1 then 'the member is given twice'
                    when count(*) over (partition by h.key_1) > 1
                         or exists (select from loyalty.member_key k
                                     where k.program_id = write_keys.program_id
                                       and k.key_1_hash = any (h.hashes_1) and k.account_id <> h.account_id)
                        then 'key_1 is another member''s' end as reason
          from hashed h
    ), written as (
        insert into loyalty.member_key as k (account_id, program_id, key_1_hash, key_2_hash, issued_at)
        select j.account_id, write_keys.program_id, j.hashes_1[1], j.hash_2, loyalty.now()
          from judged j
         where j.reason is null
            on conflict (account_id) do update
           set key_1_hash = excluded.key_1_hash, key_2_hash = excluded.key_2_hash, issued_at = excluded.issued_at
    )
    select j.item_no, j.member_no, j.account_id, case when j.reason is null then j.key_1 end,
           case when j.reason is null then j.key_2 end, j.reason
      from judged j
     order by j.item_no;
end
$$;
comment on function loyalty.write_keys is
    'For issue_keys and issue_many_keys: stores keys, makes those that are left out, and tells what each member has now or why not.';

create function loyalty.issue_many_keys(program text, items jsonb)
    returns table (item_no bigint, member_no text, outcome text, key_1 text, key_2 text, reason text)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := loyalty.program_id(issue_many_keys.program);
begin
    if jsonb_typeof(issue_many_keys.items) is distinct from 'array'
       or jsonb_path_exists(issue_many_keys.items, '$[*] ? (@.type() != "object")') then
        perform loyalty.raise('22023', 'items must be an array of objects', null,
            'Such as [{"member_no": "A-1"}] or [{"member_no": "A-1", "key_1": "…", "key_2": "…"}].');
    elsif jsonb_array_length(issue_many_keys.items) > 10000 then
        perform loyalty.raise('54000', 'too many items',
            format('%s given.', jsonb_array_length(issue_many_keys.items)), 'Up to 10000 in one call.');
    end if;
    perform loyalty.audit('issue_many_keys', within,
        details => jsonb_build_object('items', jsonb_array_length(issue_many_keys.items)));
    return query
    select w.item_no, w.member_no, case when w.reason is null then 'issued' else 'refused' end,
           w.key_1, w.key_2, w.reason
      from loyalty.write_keys(within, issue_many_keys.items) w
     order by w.item_no;
end
$$;
comment on function loyalty.issue_many_keys is
    'Issues authentication keys (A1) to many members: items is an array of objects with member_no and, where the organisation brings its own, key_1 and key_2. Answers each with what was issued or why it was refused; keys are told here only, once, and those that a member had before are good no longer. LY002, 22023, 54000 above 10000 items.';

create function loyalty.issue_keys(
    program text,
    member_no text,
    inout key_1 text default null,
    inout key_2 text default null
) returns record
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    within integer := loyalty.program_id(issue_keys.program);
    issued record;
begin
    if issue_keys.member_no is null then
        perform loyalty.raise('22004', 'member_no must not be null', null, 'Pass member_no => … .');
    end if;
    select w.* into strict issued
      from loyalty.write_keys(within,
               jsonb_build_array(jsonb_build_object(
                   'member_no', issue_keys.member_no, 'key_1', issue_keys.key_1, 'key_2', issue_keys.key_2))) w;
    if issued.account_id is null then
        perform loyalty.raise('LY002', 'no such member', format('%L given.', left(issue_keys.member_no, 100)),
            'loyalty.set_member writes members.');
    elsif issued.reason is not null then
        perform loyalty.raise('22023', issued.reason, null, 'Leave the keys out to have some made.');
    end if;
    perform loyalty.audit('issue_keys', within, account_id => issued.account_id);
    issue_keys.key_1 := issued.key_1;
    issue_keys.key_2 := issued.key_2;
end
$$;
comment on function loyalty.issue_keys is
    'Issues a member''s authentication keys (A1), or new ones for lost ones: those given, or random ones that people read without mistake. They are told here only, once; the ones before are good no longer. LY002 for an unknown member, 22023 for keys that cannot be.';
-- Logins. An access token (JWT) is good for minutes and is not stored; what keeps a login going
-- is its refresh token, of which the hash is stored, and which is good once: who uses an old
-- one, the person or a thief, ends the login. An ended session ends its access tokens too, at
-- their next request (loyalty.pre_request).

create table loyalty.session (
    session_id uuid primary key default gen_random_uuid(),
    identity_id bigint not null references loyalty.identity,
    program_id integer references loyalty.program,
    account_id bigint references loyalty.account,
    role text not null
        constraint session_role_is_known check (
            role in ('loyalty_member', 'loyalty_family', 'loyalty_granter', 'loyalty_admin', 'loyalty_operator')),
    is_remembered boolean not null,
    address text,
    device text,
    started_at timestamptz not null,
    used_at timestamptz not null,
    expires_at timestamptz not null,
    ended_at timestamptz,
    constraint session_is_for_what_the_role_needs check (
        (program_id is not null or role = 'loyalty_operator')
        and (account_id is not null) = (role in ('loyalty_member', 'loyalty_family')))
);
create index session_by_identity on loyalty.session (identity_id) where ended_at is null;
create index session_by_expiry on loyalty.session (expires_at);

comment on table loyalty.session is 'Logins of people. Nobody but the owner reads it; a person sees their own by own_sessions.';
comment on column loyalty.session.session_id is 'Number of the session, the claim sid of its tokens.';
comment on column loyalty.session.identity_id is 'Who logged in.';
comment on column loyalty.session.program_id is 'The program it opens; null for an operator.';
comment on column loyalty.session.account_id is 'The member''s account that it opens; null for staff.';
comment on column loyalty.session.role is 'The database role of its tokens.';
comment on column loyalty.session.is_remembered is 'Whether it was asked to last longer (C9).';
comment on column loyalty.session.address is 'The client''s address when it was last refreshed.';
comment on column loyalty.session.device is 'What the client said it is (User-Agent) when it began.';
comment on column loyalty.session.started_at is 'When it began.';
comment on column loyalty.session.used_at is 'When it was last refreshed.';
comment on column loyalty.session.expires_at is 'When it ends unless it is refreshed before.';
comment on column loyalty.session.ended_at is 'When it was ended; null while it was not.';

create table loyalty.refresh_token (
    token_hash bytea primary key,
    session_id uuid not null references loyalty.session on delete cascade,
    made_at timestamptz not null,
    used_at timestamptz
);
create index refresh_token_by_session on loyalty.refresh_token (session_id);

comment on table loyalty.refresh_token is
    'Refresh tokens, as keyed hashes. Used ones are kept as long as their session, to be known again. Nobody but the owner reads it.';
comment on column loyalty.refresh_token.token_hash is 'The hash.';
comment on column loyalty.refresh_token.session_id is 'The session that it refreshes.';
comment on column loyalty.refresh_token.made_at is 'When it was made.';
comment on column loyalty.refresh_token.used_at is 'When it was used; null while it is good.';

create function loyalty.claim_identity_id() returns bigint
    language sql stable parallel safe set search_path = pg_catalog, pg_temp
    return substring(nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub'
                     from '^identity:([0-9]{1,18})$')::bigint;
comment on function loyalty.claim_identity_id is 'The person that the request''s token is for; null when it is for none.';

create function loyalty.session_tokens(session_id uuid) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    of_session record;
    refresh_token text := loyalty.random_token();
    -- what PostgREST checks goes by the machine's clock
    issued bigint := extract(epoch from clock_timestamp());
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
comment on function loyalty.session_tokens is 'An access token and a new refresh token of a session, as log_in answers.';

create function loyalty.session_life(program_id integer, is_remembered boolean) returns interval
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select coalesce(case when session_life.is_remembered then max(p.remembered_life) else max(p.session_life) end,
                    case when session_life.is_remembered then interval '60 days' else interval '12 hours' end)
      from loyalty.access_policy p
     where p.program_id = session_life.program_id;
end;
comment on function loyalty.session_life is
    'How long a session lasts without being refreshed: the program''s policy, else 12 hours, or 60 days remembered (C9).';

create function loyalty.start_session(
    identity_id bigint,
    program_id integer,
    role text,
    account_id bigint,
    remember boolean
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    started uuid;
begin
    insert into loyalty.session
           (identity_id, program_id, account_id, role, is_remembered, address, device, started_at, used_at, expires_at)
    values (start_session.identity_id, start_session.program_id, start_session.account_id,
            'loyalty_' || regexp_replace(start_session.role, '^loyalty_', ''), coalesce(start_session.remember, false),
            loyalty.client_address(),
            left(nullif(current_setting('request.headers', true), '')::json ->> 'user-agent', 200),
            loyalty.now(), loyalty.now(),
            loyalty.now() + loyalty.session_life(start_session.program_id, coalesce(start_session.remember, false)))
    returning session_id into started;
    return loyalty.session_tokens(started);
end
$$;
comment on function loyalty.start_session is
    'Logs a person in, who has proven who they are: {access_token, token_type, expires_in, refresh_token, refresh_expires_at, session_id, program, account_id, role}. role: member, family, granter, admin or operator. Checks nothing: that is the caller''s.';

create function loyalty.end_sessions(identity_id bigint, program_id integer default null, role text default null, account_id bigint default null, except_session uuid default null)
    returns bigint
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    ended bigint;
begin
    update loyalty.session s
       set ended_at = loyalty.now()
     where s.identity_id = end_sessions.identity_id
       and s.ended_at is null
       and (s.program_id = end_sessions.program_id or end_sessions.program_id is null)
       and (s.role = 'loyalty_' || regexp_replace(end_sessions.role, '^loyalty_', '') or end_sessions.role is null)
       and (s.account_id = end_sessions.account_id or end_sessions.account_id is null)
       and s.session_id is distinct from end_sessions.except_session;
    get diagnostics ended = row_count;
    return ended;
end
$$;
comment on function loyalty.end_sessions is
    'Ends a person''s sessions, or only those of a program, role or account; all but one where except_session is given. How many.';

-- Whatever ends what a session stands on ends the session, whoever writes it. A locked person
-- stays where they are: else anybody could throw them out by wrong passwords.
create function loyalty.identity_changed() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty.end_sessions(new.identity_id);
    return null;
end
$$;
comment on function loyalty.identity_changed is 'Ends the sessions of a person who is suspended or leaves.';
create trigger ends_sessions after update of state on loyalty.identity
    for each row when (new.state not in ('active', 'locked')) execute function loyalty.identity_changed();

create function loyalty.identity_link_changed() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty.end_sessions(old.identity_id, account_id => old.account_id);
    return null;
end
$$;
comment on function loyalty.identity_link_changed is 'Ends the sessions that a link opened, when it ends.';
create trigger ends_sessions after update of ended_at on loyalty.identity_link
    for each row when (new.ended_at is not null) execute function loyalty.identity_link_changed();
create trigger ends_sessions_of_removed after delete on loyalty.identity_link
    for each row execute function loyalty.identity_link_changed();

create function loyalty.is_live_session(session_id text, role text) returns boolean
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return is_live_session.session_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
       and exists (
               select from loyalty.session s
                where s.session_id = is_live_session.session_id::uuid
                  and s.role = is_live_session.role
                  and s.ended_at is null
                  and s.expires_at > loyalty.now());
end
$$;
comment on function loyalty.is_live_session is
    'Whether the session of a token (sid) goes on. What it stands on needs no look: when that ends, the session ends.';
-- Logging in and out (A7, C9, S8), and what a person does with their own logins.

create function loyalty.login_subject(login_id text, program_id integer) returns text
    language sql stable set search_path = pg_catalog, pg_temp
    return coalesce(loyalty.clean_login_id(login_id),
                    coalesce(login_subject.program_id, 0) || ' ' || lower(btrim(login_subject.login_id)));
comment on function loyalty.login_subject is
    'What attempts at a login ID are counted under: the ID as it is stored, or a member number within its program.';

create function loyalty.find_login(login_id text, program_id integer) returns loyalty.identity
    language plpgsql stable set search_path = pg_catalog, pg_temp
    -- planned once: planning anew would take longer for who is looked for in more places
    set plan_cache_mode = force_generic_plan
as $$
declare
    by_login_id loyalty.identity;
    by_member_no loyalty.identity;
begin
    select i.* into by_login_id
      from loyalty.identity i
     where i.login_id = loyalty.clean_login_id(find_login.login_id)
       and i.state in ('active', 'suspended', 'locked');
    -- looked for in either case, so that it takes as long for an ID that there is
    select i.* into by_member_no
      from loyalty.access_policy p
      join loyalty.account a on a.program_id = p.program_id and a.member_no = btrim(find_login.login_id)
      join loyalty.identity_link l on l.account_id = a.account_id and l.relation = 'self' and l.ended_at is null
      join loyalty.identity i on i.identity_id = l.identity_id and i.state in ('active', 'suspended', 'locked')
     where p.program_id = find_login.program_id and p.allows_member_no;
    if by_login_id.identity_id is null then
        return by_member_no;
    end if;
    return by_login_id;
end
$$;
comment on function loyalty.find_login is
    'Who logs in by that e-mail address or phone, or by that member number of a program that allows it (S8); null for nobody.';

create function loyalty.login_subjects(identity_id bigint) returns setof text
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select i.login_id
      from loyalty.identity i
     where i.identity_id = login_subjects.identity_id and i.login_id is not null
     union
    select loyalty.login_subject(a.member_no, a.program_id)
      from loyalty.identity_link l
      join loyalty.account a on a.account_id = l.account_id
     where l.identity_id = login_subjects.identity_id and l.relation = 'self' and l.ended_at is null;
end;
comment on function loyalty.login_subjects is 'All that wrong passwords for a person may have been counted under.';

create function loyalty.is_locked(identity_id bigint) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select exists (select from loyalty.identity i
                    where i.identity_id = is_locked.identity_id and i.state = 'locked')
        or exists (select
                     from loyalty.login_subjects(is_locked.identity_id) s
                     join loyalty.throttle t
                       on t.scope = 'password' and t.subject_hash = any (loyalty.keyed_hashes('throttle password', s))
                    where t.blocked_until = 'infinity');
end;
comment on function loyalty.is_locked is 'Whether a person was locked out by wrong passwords and has to be unlocked.';

create function loyalty.release_login(identity_id bigint) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform loyalty.attempt_succeeded('password', s), loyalty.attempt_succeeded('send', s)
       from loyalty.login_subjects(release_login.identity_id) s;
    update loyalty.identity i
       set state = 'active', changed_at = loyalty.now()
     where i.identity_id = release_login.identity_id and i.state = 'locked';
end
$$;
comment on function loyalty.release_login is 'Forgets a person''s wrong passwords, and unlocks who was locked.';

create function loyalty.try_password(person loyalty.identity, subject text, password text) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    wait interval := loyalty.begin_attempt('password', subject);
begin
    if wait is not null then
        return loyalty.refuse_attempt(wait);
    end if;
    if not loyalty.check_password(try_password.password,
               (select c.password_hash from loyalty.credential c where c.identity_id = person.identity_id)) then
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
comment on function loyalty.try_password is
    'Null when it is the person''s password, else the refusal to answer with, which is counted under the subject: LY009 wrong, or nobody; LY008 too often, or locked. The tenth wrong one in a row locks.';

create function loyalty.prove_password(
    login_id text, password text, program_id integer default null, out identity_id bigint, out refusal jsonb
) returns record
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    person loyalty.identity := loyalty.find_login(prove_password.login_id, prove_password.program_id);
begin
    identity_id := person.identity_id;
    refusal := loyalty.try_password(
        person, loyalty.login_subject(prove_password.login_id, prove_password.program_id), prove_password.password);
    if refusal is null and person.state = 'suspended' then
        refusal := loyalty.refuse('LY010', 'the login is suspended', null, 'Ask the program''s administrators.');
    end if;
end
$$;
comment on function loyalty.prove_password is
    'Who logs in by that ID and password: with refusal null the person, else only who it was about. program_id also takes a member number where the program allows it (S8). Refusals: LY009, LY008, LY010 suspended.';

create function loyalty.login_places(identity_id bigint, within integer, wanted text, only_account bigint)
    returns table (program_id integer, program text, account_id bigint, role text)
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if wanted in ('member', 'family') then
        return query
        select p.program_id, p.code, l.account_id,
               case l.relation when 'self' then 'loyalty_member' else 'loyalty_family' end
          from loyalty.identity_link l
          join loyalty.program p on p.program_id = l.program_id
          join loyalty.wallet w on w.account_id = l.account_id and w.status = 'open'
         where l.identity_id = login_places.identity_id
           and l.ended_at is null
           and (l.program_id = within or within is null)
           and (l.account_id = only_account or only_account is null)
           and (l.relation = 'self') = (wanted = 'member')
         order by p.code, l.account_id;
    elsif wanted = 'operator' then
        return query
        select null::integer, null::text, null::bigint, 'loyalty_operator'
         where loyalty.role_of(login_places.identity_id, null, 'operator');
    else
        return query
        select p.program_id, p.code, null::bigint, 'loyalty_' || wanted
          from loyalty.program p
         where (p.program_id = within or within is null)
           and loyalty.role_of(login_places.identity_id, p.program_id, wanted)
         order by p.code;
    end if;
end
$$;
comment on function loyalty.login_places is
    'What a person may log in to in a wanted role, in one program or all, for one account or all: as a member or family where the account is open, as staff where they have the role.';

create function loyalty.log_in(
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
    answer := loyalty.start_session(proof.identity_id, places.program_id, places.role, places.account_id, log_in.remember);
    perform loyalty.audit('log_in', places.program_id, proof.identity_id, places.account_id,
        jsonb_build_object('role', places.role, 'session_id', answer ->> 'session_id'));
    return answer;
end
$$;
comment on function loyalty.log_in is
    'Logs a person in by e-mail address, phone, or member number where the program allows it, and password: what start_session answers. Refusals that count are answers: LY009 wrong (the same for an unknown ID), LY008 too often, LY010 no active member; 22023 when program is needed. Raises LY002, LY007, 22004, 22023.';

create function loyalty.refresh(refresh_token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    given loyalty.refresh_token;
    of_session loyalty.session;
    why text;
begin
    if refresh.refresh_token is null then
        perform loyalty.raise('22004', 'refresh_token must not be null', null, 'Send the last one that you got.');
    end if;
    select t.* into given
      from loyalty.refresh_token t
     where t.token_hash = any (loyalty.keyed_hashes('refresh token', refresh.refresh_token))
       for update;
    select s.* into of_session from loyalty.session s where s.session_id = given.session_id for update;
    if of_session.ended_at is null and of_session.expires_at > loyalty.now() then
        if given.used_at is not null then
            why := 'a refresh token came twice';
        elsif not exists (
                select from loyalty.login_places(of_session.identity_id, of_session.program_id,
                                                 substr(of_session.role, 9), of_session.account_id)) then
            why := 'what it opens is closed';
        else
            if of_session.role <> 'loyalty_operator' then
                perform loyalty.check_service_hours(of_session.program_id);
            end if;
            update loyalty.refresh_token t set used_at = loyalty.now() where t.token_hash = given.token_hash;
            update loyalty.session s
               set used_at = loyalty.now(), address = loyalty.client_address(),
                   expires_at = loyalty.now() + loyalty.session_life(s.program_id, s.is_remembered)
             where s.session_id = of_session.session_id;
            return loyalty.session_tokens(of_session.session_id);
        end if;
        update loyalty.session s set ended_at = loyalty.now() where s.session_id = of_session.session_id;
        perform loyalty.audit('refresh', of_session.program_id, of_session.identity_id, of_session.account_id,
            jsonb_build_object('session_id', of_session.session_id, 'why', why), 'refused');
    end if;
    return loyalty.refuse('LY009', 'the login is over', null, 'Log in again.');
end
$$;
comment on function loyalty.refresh is
    'New tokens for a refresh token, which is good once: one that comes a second time ends the session, since either the person or somebody else holds a stolen one. Not good, not any more, or twice: the answer is LY009. Raises LY007, 22004.';

create function loyalty.own_sessions(identity_id bigint, session_id uuid default null) returns jsonb
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select jsonb_build_object('sessions', coalesce(jsonb_agg(jsonb_build_object(
               'session_id', s.session_id,
               'program', p.code,
               'role', substr(s.role, 9),
               'account_id', s.account_id,
               'device', s.device,
               'address', s.address,
               'is_remembered', s.is_remembered,
               'started_at', s.started_at,
               'used_at', s.used_at,
               'expires_at', s.expires_at,
               'is_this', s.session_id is not distinct from own_sessions.session_id)
               order by s.used_at desc, s.session_id), '[]'))
      from loyalty.session s
      left join loyalty.program p on p.program_id = s.program_id
     where s.identity_id = own_sessions.identity_id
       and s.ended_at is null
       and s.expires_at > loyalty.now();
end;
comment on function loyalty.own_sessions is
    'The logins of a person that still go on, the last used first: {sessions: […]}; session_id says which is_this.';

create function loyalty.end_session(identity_id bigint, session_id uuid, action text default 'end_session')
    returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    ended loyalty.session;
begin
    update loyalty.session s
       set ended_at = loyalty.now()
     where s.session_id = end_session.session_id
       and s.identity_id = end_session.identity_id
       and s.ended_at is null
    returning * into ended;
    if ended.session_id is null then
        perform loyalty.raise('LY002', 'no such session', null, 'own_sessions has those that there are.');
    end if;
    perform loyalty.audit(end_session.action, ended.program_id, ended.identity_id, ended.account_id,
        jsonb_build_object('session_id', ended.session_id));
    return jsonb_build_object('ended', 1);
end
$$;
comment on function loyalty.end_session is
    'Ends one login of a person: {ended: 1}; action is what the audit calls it. LY002 when there is none.';

create function loyalty.log_out_everywhere(identity_id bigint, program_id integer default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    ended bigint := loyalty.end_sessions(log_out_everywhere.identity_id);
begin
    perform loyalty.audit('log_out_everywhere', log_out_everywhere.program_id, log_out_everywhere.identity_id,
        details => jsonb_build_object('ended', ended));
    return jsonb_build_object('ended', ended);
end
$$;
comment on function loyalty.log_out_everywhere is
    'Ends all logins of a person, in every program: {ended}. program_id is for the audit.';

create function loyalty.change_password(
    identity_id bigint,
    program_id integer,
    old_password text,
    new_password text,
    session_id uuid default null
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    person loyalty.identity;
    subject text;
    refusal jsonb;
begin
    select i.* into person from loyalty.identity i where i.identity_id = change_password.identity_id;
    subject := (select s from loyalty.login_subjects(person.identity_id) s
                 order by s is distinct from person.login_id, s limit 1);
    if subject is null then
        perform loyalty.raise('LY010', 'there is no password to change', null,
            'The login is an identity provider''s.');
    end if;
    perform loyalty.check_new_password(
        loyalty.access_policy_of(change_password.program_id), change_password.new_password, person.login_id);
    refusal := loyalty.try_password(person, subject, change_password.old_password);
    if refusal is not null then
        if refusal ->> 'code' <> 'LY008' then
            perform loyalty.audit('change_password', change_password.program_id, person.identity_id, outcome => 'refused');
        end if;
        return refusal;
    end if;
    perform loyalty.replace_password(person.identity_id, change_password.program_id, change_password.new_password,
        change_password.session_id);
    perform loyalty.audit('change_password', change_password.program_id, person.identity_id);
    return jsonb_build_object('changed', true);
end
$$;
comment on function loyalty.change_password is
    'Changes a person''s password, who gives the old one, by a program''s policy; ends their other sessions and tells them by mail: {changed: true}. Wrong: the answer is LY009, too often LY008. Raises LY010, 22004, 22023.';

create function loyalty.purge_logins(older_than interval default '90 days') returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    purged bigint;
begin
    if older_than is null or older_than < interval '1 day' then
        perform loyalty.raise('22023', 'older_than is too short', format('%s given.', coalesce(older_than::text, 'null')),
            'From 1 day on.');
    end if;
    delete from loyalty.session s
     where s.expires_at < loyalty.now() - older_than
        or s.ended_at < loyalty.now() - older_than;
    get diagnostics purged = row_count;
    delete from loyalty.login_application a
     where a.state in ('done', 'refused') and a.decided_at < loyalty.now() - older_than;
    return purged;
end
$$;
comment on function loyalty.purge_logins is
    'Deletes sessions that ended, and applications for a login that were settled, longer ago than that, a day at least. How many sessions.';
-- Ways back in (A6, C12): a password by mail and a key on the screen, and an unlock by mail. Who
-- asks is nobody yet: an unknown login ID gets the same answer, after the same work and time.

create function loyalty.reach(person loyalty.identity, program_id integer, out is_in boolean, out account_id bigint, out address text)
    returns record
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    select true, case l.relation when 'self' then l.account_id end,
           coalesce(person.login_id, case l.relation when 'self' then coalesce(m.email, m.phone) end)
      into is_in, account_id, address
      from loyalty.identity_link l
      left join loyalty.member m on m.account_id = l.account_id
     where l.identity_id = person.identity_id and l.program_id = reach.program_id and l.ended_at is null
     order by l.relation <> 'self', l.account_id
     limit 1;
    if not found then
        is_in := coalesce(
            loyalty.role_of(person.identity_id, reach.program_id, 'granter')
            or loyalty.role_of(person.identity_id, reach.program_id, 'admin')
            or loyalty.role_of(person.identity_id, null, 'operator'), false);
        address := case when is_in then person.login_id end;
    end if;
end
$$;
comment on function loyalty.reach is
    'Whether a person is a program''s (a member, family or staff), with which account of their own, and where mail to them goes: to the login ID, or without one to the member record''s address (S8).';

create function loyalty.replace_password(
    identity_id bigint, program_id integer, password text, except_session uuid default null
) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    person loyalty.identity;
    place record;
begin
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
comment on function loyalty.replace_password is
    'Stores a checked password, ends the person''s sessions but one and their links for other passwords, and tells them by mail.';

create function loyalty.request_password_reset(login_id text, program text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    began timestamptz := clock_timestamp();
    within integer;
    subject text;
    wait interval;
    person loyalty.identity;
    place record;
    made loyalty.challenge;
    locked boolean;
begin
    if request_password_reset.login_id is null or request_password_reset.program is null then
        perform loyalty.raise('22004', 'login_id and program must not be null', null, 'Send both.');
    end if;
    within := loyalty.program_id(request_password_reset.program);
    perform loyalty.access_policy_of(within);
    perform loyalty.check_service_hours(within);
    subject := loyalty.login_subject(request_password_reset.login_id, within);
    wait := loyalty.begin_attempt('send', subject);
    if wait is not null then
        return loyalty.refuse_attempt(wait);
    end if;
    perform loyalty.attempt_failed('send', subject);
    person := loyalty.find_login(request_password_reset.login_id, within);
    place := loyalty.reach(person, within);
    locked := loyalty.is_locked(person.identity_id);
    -- guide C12: a locked account is unlocked first; the mail says how
    made := loyalty.new_challenge(
        case when locked and place.is_in then 'unlock' else 'password_reset' end, within,
        case when place.is_in then person.identity_id end, place.account_id,
        case when person.state in ('active', 'locked') then place.address end);
    perform loyalty.audit('request_password_reset', within, made.identity_id, made.account_id);
    perform loyalty.pad(began);
    return jsonb_build_object(
        'screen_key', loyalty.challenge_code(made.challenge_id, 'screen', 4),
        'expires_at', made.expires_at);
end
$$;
comment on function loyalty.request_password_reset is
    'Begins a password reset (C12): {screen_key, expires_at}, four digits to show on the screen, and a link by mail or short message to the login ID, good for 15 minutes. Who is locked out gets a link to unlock instead. The same answer for an unknown ID; asked too often: LY008. Raises LY002, LY007, LY010, 22004.';

create function loyalty.check_passwords(password text, password_again text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if password is null or password is distinct from password_again then
        perform loyalty.raise('22023', 'the two passwords differ', null, 'Send the new password twice.');
    end if;
end
$$;
comment on function loyalty.check_passwords is 'Refuses a password that was not typed twice the same (22023).';

create function loyalty.refuse_link() returns jsonb
    language sql volatile set search_path = pg_catalog, pg_temp
    return loyalty.refuse('LY009', 'the link is not good, or not any more', null, 'Ask for a new one.');
comment on function loyalty.refuse_link is 'The answer to a token from a mail that opens nothing: LY009.';

create function loyalty.reset_password(token text, screen_key text, password text, password_again text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    by_mail loyalty.challenge;
    person loyalty.identity;
begin
    perform loyalty.check_passwords(password, password_again);
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
comment on function loyalty.reset_password is
    'Ends a password reset (C12): the token of the mailed link, the four digits of the screen and the new password twice: {changed: true}; all sessions end. Wrong key, or a link that is not good: the answer is LY009; LY010 for who was locked or suspended meanwhile. Raises LY007, 22023.';

create function loyalty.request_unlock(login_id text, program text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    began timestamptz := clock_timestamp();
    within integer;
    subject text;
    wait interval;
    person loyalty.identity;
    place record;
    made loyalty.challenge;
begin
    if request_unlock.login_id is null or request_unlock.program is null then
        perform loyalty.raise('22004', 'login_id and program must not be null', null, 'Send both.');
    end if;
    within := loyalty.program_id(request_unlock.program);
    perform loyalty.access_policy_of(within);
    perform loyalty.check_service_hours(within);
    subject := loyalty.login_subject(request_unlock.login_id, within);
    wait := loyalty.begin_attempt('send', subject);
    if wait is not null then
        return loyalty.refuse_attempt(wait);
    end if;
    perform loyalty.attempt_failed('send', subject);
    person := loyalty.find_login(request_unlock.login_id, within);
    place := loyalty.reach(person, within);
    made := loyalty.new_challenge('unlock', within, case when place.is_in then person.identity_id end, place.account_id,
        case when person.state in ('active', 'locked') and loyalty.is_locked(person.identity_id) then place.address end);
    perform loyalty.audit('request_unlock', within, made.identity_id, made.account_id);
    perform loyalty.pad(began);
    return jsonb_build_object('expires_at', made.expires_at);
end
$$;
comment on function loyalty.request_unlock is
    'Sends who is locked out a link to unlock, good for 15 minutes: {expires_at}. The same answer for anybody else; asked too often: LY008. Raises LY002, LY007, LY010, 22004.';

create function loyalty.unlock(token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    by_mail loyalty.challenge := loyalty.challenge_of_token(token, '{unlock}');
begin
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
comment on function loyalty.unlock is
    'Unlocks by the token of a mailed link: {unlocked: true}. A link that is not good: the answer is LY009. Raises LY007.';
-- Forgotten login IDs (C13): an application that staff look at. Until they decide, the login is
-- suspended, but only where the application says what the member record says: else anybody
-- could suspend anybody.

create table loyalty.login_application (
    application_id bigint generated always as identity primary key,
    program_id integer not null references loyalty.program,
    account_id bigint references loyalty.account,
    identity_id bigint references loyalty.identity,
    member_no text not null,
    name text not null,
    kana text not null,
    birth_date date not null,
    login_id text not null
        constraint login_application_login_id_is_clean check (login_id = loyalty.clean_login_id(login_id)),
    phone text not null,
    differs text[] not null,
    has_suspended boolean not null default false,
    state text not null default 'waiting'
        constraint login_application_state_is_known check (state in ('waiting', 'approved', 'refused', 'done')),
    applied_at timestamptz not null,
    address text,
    decided_at timestamptz,
    decided_by text,
    reason text
        constraint login_application_reason_is_short check (char_length(reason) <= 1000)
);
create index login_application_by_program on loyalty.login_application (program_id, application_id);
create index login_application_by_identity on loyalty.login_application (identity_id) where identity_id is not null;

comment on table loyalty.login_application is
    'Applications of people who forgot their login ID (C13), for staff to approve or refuse.';
comment on column loyalty.login_application.application_id is 'Number of the application.';
comment on column loyalty.login_application.program_id is 'The program.';
comment on column loyalty.login_application.account_id is 'The account of the member number given; null when there is none.';
comment on column loyalty.login_application.identity_id is 'Who logs in as that member; null when nobody does.';
comment on column loyalty.login_application.member_no is 'The member number given.';
comment on column loyalty.login_application.name is 'The name given.';
comment on column loyalty.login_application.kana is 'Its reading, as given.';
comment on column loyalty.login_application.birth_date is 'The birth date given.';
comment on column loyalty.login_application.login_id is 'The login ID wanted.';
comment on column loyalty.login_application.phone is 'The telephone number given.';
comment on column loyalty.login_application.differs is 'What was given otherwise than the member record has it: member_no, name, kana, birth_date; empty when all fits.';
comment on column loyalty.login_application.has_suspended is 'Whether the login is suspended because of this application.';
comment on column loyalty.login_application.state is 'waiting; approved (a link is on its way); refused; done (the link was used).';
comment on column loyalty.login_application.applied_at is 'When it was made.';
comment on column loyalty.login_application.address is 'The client''s address.';
comment on column loyalty.login_application.decided_at is 'When it was last approved, refused or done.';
comment on column loyalty.login_application.decided_by is 'Who approved or refused it.';
comment on column loyalty.login_application.reason is 'Why it was refused.';

create function loyalty.same_name(one text, other text) returns boolean
    language sql immutable parallel safe
    -- a space or dot more or less is no other name
    return regexp_replace(normalize(one, nfkc), '[[:space:]・]', '', 'g')
         = regexp_replace(normalize(other, nfkc), '[[:space:]・]', '', 'g');
comment on function loyalty.same_name is 'Whether two names or readings are the same but for spaces, dots and widths.';

create function loyalty.apply_for_login(
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
     where i.identity_id = known.identity_id and differs = '{}' and i.state in ('active', 'locked');
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
    'Applies for another login ID (C13): {application_id, state}, whether or not there is such a member. Where all fits the member record, the login is suspended until staff decide. Asked too often: LY008. Raises LY002, LY007, 22004, 22023.';

create function loyalty.open_application(application_id bigint, states text[]) returns loyalty.login_application
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    application loyalty.login_application;
begin
    select a.* into application
      from loyalty.login_application a
     where a.application_id = open_application.application_id
       for update;
    if application.application_id is null then
        perform loyalty.raise('LY002', 'no such application', null, 'login_application has those that there are.');
    elsif application.state <> all (states) then
        perform loyalty.raise('22023', 'the application is settled', format('It is %s.', application.state),
            'Only one that waits, or whose link was not used yet, can be decided.');
    end if;
    return application;
end
$$;
comment on function loyalty.open_application is 'An application that can still be decided, held until the end of the transaction. LY002, 22023.';

create function loyalty.approve_application(application_id bigint) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    application loyalty.login_application := loyalty.open_application(approve_application.application_id, '{waiting,approved}');
    made loyalty.challenge;
begin
    if application.identity_id is null then
        perform loyalty.raise('22023', 'nobody logs in as that member', null,
            'Refuse it, and let the member register with authentication keys.');
    elsif exists (select from loyalty.identity i
                   where i.login_id = application.login_id and i.identity_id <> application.identity_id
                     and i.state in ('active', 'suspended', 'locked')) then
        perform loyalty.raise('22023', 'the login ID belongs to somebody else', null,
            'Refuse it, and let the person apply with another one.');
    end if;
    update loyalty.identity i
       set state = 'suspended', changed_at = loyalty.now()
     where i.identity_id = application.identity_id and i.state in ('active', 'locked');
    -- one at a time: the others that wait for the same login are settled by this one
    update loyalty.login_application a
       set state = 'refused', decided_at = loyalty.now(), decided_by = loyalty.actor(),
           reason = format('application %s was approved', application.application_id), has_suspended = false
     where a.identity_id = application.identity_id and a.application_id <> application.application_id
       and a.state in ('waiting', 'approved');
    update loyalty.login_application a
       set state = 'approved', decided_at = loyalty.now(), decided_by = loyalty.actor(), reason = null,
           has_suspended = true
     where a.application_id = application.application_id;
    made := loyalty.new_challenge('login_approved', application.program_id, application.identity_id, application.account_id,
        application.login_id);
    update loyalty.challenge c
       set details = jsonb_build_object('application_id', application.application_id)
     where c.challenge_id = made.challenge_id;
    perform loyalty.audit('approve_application', application.program_id, application.identity_id, application.account_id,
        jsonb_build_object('application_id', application.application_id));
    return jsonb_build_object('application_id', application.application_id, 'state', 'approved',
        'expires_at', made.expires_at);
end
$$;
comment on function loyalty.approve_application is
    'Approves an application: a link goes to the new login ID, good for 15 minutes, and the login stays suspended until it is used; approving again sends another: {application_id, state, expires_at}. LY002; 22023 when it is settled, nobody logs in as the member, or the login ID is taken.';

create function loyalty.refuse_application(application_id bigint, reason text) returns jsonb
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
                                      and o.state in ('waiting', 'approved'));
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
comment on function loyalty.refuse_application is
    'Refuses an application; the login is good again as it was: {application_id, state}. LY002; 22023 when it is settled.';

create function loyalty.accept_login(token text, password text, password_again text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    by_mail loyalty.challenge;
    application loyalty.login_application;
    person loyalty.identity;
begin
    perform loyalty.check_passwords(accept_login.password, accept_login.password_again);
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
        perform loyalty.send_notice(by_mail.program_id, by_mail.account_id, 'password_changed',
            gen_random_uuid()::text, person.login_id);
    end if;
    perform loyalty.audit('accept_login', by_mail.program_id, by_mail.identity_id, by_mail.account_id,
        jsonb_build_object('application_id', application.application_id));
    return jsonb_build_object('changed', true);
end
$$;
comment on function loyalty.accept_login is
    'Ends an approved application by the token of the mailed link: the new login ID and password are set, and the login is good again: {changed: true}. The old and the new address are told. A link that is not good: the answer is LY009. Raises LY007, 22023.';
-- Outside identity providers (P15, single sign-on). PostgREST checks their tokens' signatures;
-- here they are mapped to members, and nothing else that they say of rights is believed.

create table loyalty.identity_provider (
    issuer text primary key
        constraint identity_provider_issuer_is_short check (char_length(issuer) between 1 and 500)
        constraint identity_provider_issuer_is_not_us check (issuer <> 'loyalty'),
    audience text not null
        constraint identity_provider_audience_is_short check (char_length(audience) between 1 and 500),
    program_id integer not null references loyalty.program,
    created_at timestamptz not null
);
comment on table loyalty.identity_provider is
    'Identity providers whose tokens are believed, beside the key that PostgREST has of them.';
comment on column loyalty.identity_provider.issuer is 'What its tokens have as iss.';
comment on column loyalty.identity_provider.audience is 'What its tokens for us have in aud; those for others are not believed.';
comment on column loyalty.identity_provider.program_id is 'The program that its people are members of.';
comment on column loyalty.identity_provider.created_at is 'Since when.';

create table loyalty.identity_provider_link (
    issuer text not null references loyalty.identity_provider,
    subject text not null
        constraint identity_provider_link_subject_is_short check (char_length(subject) between 1 and 255),
    identity_id bigint not null references loyalty.identity,
    linked_at timestamptz not null,
    primary key (issuer, subject)
);
create index identity_provider_link_by_identity on loyalty.identity_provider_link (identity_id);
comment on table loyalty.identity_provider_link is 'Who the people of identity providers are here.';
comment on column loyalty.identity_provider_link.issuer is 'The provider.';
comment on column loyalty.identity_provider_link.subject is 'What the provider knows the person by: sub.';
comment on column loyalty.identity_provider_link.identity_id is 'The person.';
comment on column loyalty.identity_provider_link.linked_at is 'Since when.';

create function loyalty.provider_claims(claims jsonb) returns jsonb
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    provider loyalty.identity_provider;
    mapped jsonb;
begin
    select p.* into provider
      from loyalty.identity_provider p
     where p.issuer = claims ->> 'iss' and claims -> 'aud' ? p.audience;
    -- a token without an end would be good for ever
    if provider.issuer is null or claims -> 'exp' is null then
        perform loyalty.raise('LY009', 'the token is no provider''s that is known here', null, 'Log in again.');
    end if;
    select jsonb_build_object('iss', 'loyalty', 'sub', 'identity:' || i.identity_id, 'role', 'loyalty_member',
                              'program', p.code, 'account_id', l.account_id, 'provider', provider.issuer)
      into mapped
      from loyalty.identity_provider_link k
      join loyalty.identity i on i.identity_id = k.identity_id and i.state in ('active', 'locked')
      join loyalty.identity_link l
        on l.identity_id = i.identity_id and l.program_id = provider.program_id and l.relation = 'self' and l.ended_at is null
      join loyalty.wallet w on w.account_id = l.account_id and w.status = 'open'
      join loyalty.program p on p.program_id = provider.program_id
     where k.issuer = provider.issuer and k.subject = claims ->> 'sub'
     order by l.account_id
     limit 1;
    if mapped is null then
        perform loyalty.raise('LY010', 'not an active member of the program', null,
            'Ask the program''s administrators to link the login.');
    end if;
    return mapped;
end
$$;
comment on function loyalty.provider_claims is
    'The claims that a provider''s token stands for here: those of the member it is linked to. LY009 when the provider, the audience or the token''s end is missing or wrong, LY010 when the person is not linked, or no active member.';

create function loyalty.set_identity_provider(program text, issuer text, audience text) returns jsonb
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
comment on function loyalty.set_identity_provider is
    'Believes an identity provider''s tokens for a program''s members, those of the audience only; its key goes into PostgREST''s JWK set: {issuer, audience, program}. LY002, 22004, 22023.';

create function loyalty.remove_identity_provider(issuer text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    removed loyalty.identity_provider;
begin
    delete from loyalty.identity_provider_link k where k.issuer = remove_identity_provider.issuer;
    delete from loyalty.identity_provider p where p.issuer = remove_identity_provider.issuer returning * into removed;
    if removed.issuer is null then
        perform loyalty.raise('LY002', 'no such provider', null, 'See loyalty.identity_provider.');
    end if;
    perform loyalty.audit('remove_identity_provider', removed.program_id,
        details => jsonb_build_object('issuer', removed.issuer));
    return jsonb_build_object('issuer', removed.issuer);
end
$$;
comment on function loyalty.remove_identity_provider is 'Believes a provider no longer, and forgets its links: {issuer}. LY002.';

create function loyalty.provider_of(program text, issuer text) returns integer
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    within integer := loyalty.program_id(provider_of.program);
begin
    if not exists (select from loyalty.identity_provider p
                    where p.issuer = provider_of.issuer and p.program_id = within) then
        perform loyalty.raise('LY002', 'the program has no such provider', null, 'An operator sets it: set_identity_provider.');
    end if;
    return within;
end
$$;
comment on function loyalty.provider_of is 'The program, once it is sure that the provider is its. LY002.';

create function loyalty.link_subject(program text, issuer text, subject text, member_no text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := loyalty.provider_of(link_subject.program, link_subject.issuer);
    account bigint;
    person bigint;
begin
    if link_subject.subject is null or char_length(link_subject.subject) not between 1 and 255 then
        perform loyalty.raise('22023', 'subject cannot be', null, 'What the provider''s tokens have as sub, up to 255 characters.');
    end if;
    select a.account_id, l.identity_id
      into account, person
      from loyalty.account a
      left join loyalty.identity_link l on l.account_id = a.account_id and l.relation = 'self' and l.ended_at is null
     where a.program_id = within and a.member_no = btrim(link_subject.member_no)
       for update of a;
    if account is null then
        perform loyalty.raise('LY002', 'no such member', null, 'member_no is in /member.');
    end if;
    if person is null then
        -- who logs in by the provider only needs neither login ID nor password here
        insert into loyalty.identity (state, created_at, changed_at)
        values ('active', loyalty.now(), loyalty.now())
        returning identity_id into person;
        insert into loyalty.identity_link (identity_id, account_id, program_id, linked_at)
        values (person, account, within, loyalty.now());
    end if;
    insert into loyalty.identity_provider_link as k (issuer, subject, identity_id, linked_at)
    values (link_subject.issuer, link_subject.subject, person, loyalty.now())
        on conflict (issuer, subject) do update set identity_id = excluded.identity_id, linked_at = excluded.linked_at;
    perform loyalty.audit('link_subject', within, person, account,
        jsonb_build_object('issuer', link_subject.issuer, 'subject', link_subject.subject));
    return jsonb_build_object('issuer', link_subject.issuer, 'subject', link_subject.subject, 'account_id', account);
end
$$;
comment on function loyalty.link_subject is
    'Says which member a provider''s person is; one who has no login here yet gets one that only the provider opens: {issuer, subject, account_id}. LY002, 22023.';

create function loyalty.unlink_subject(program text, issuer text, subject text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := loyalty.provider_of(unlink_subject.program, unlink_subject.issuer);
    person bigint;
begin
    delete from loyalty.identity_provider_link k
     where k.issuer = unlink_subject.issuer and k.subject = unlink_subject.subject
    returning k.identity_id into person;
    if person is null then
        perform loyalty.raise('LY002', 'not linked', null, 'issuer and subject are compared letter by letter.');
    end if;
    perform loyalty.audit('unlink_subject', within, person,
        details => jsonb_build_object('issuer', unlink_subject.issuer, 'subject', unlink_subject.subject));
    return jsonb_build_object('issuer', unlink_subject.issuer, 'subject', unlink_subject.subject);
end
$$;
comment on function loyalty.unlink_subject is 'A provider''s person is no member any more, from the next request on: {issuer, subject}. LY002.';
-- What staff do with people's logins. A login may open other programs too: who administers one
-- program unlocks, but suspends or closes only logins that open nothing else.

create function loyalty.find_person(login_id text, program_id integer) returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    person bigint;
begin
    select i.identity_id into person
      from loyalty.identity i
     where i.login_id = loyalty.clean_login_id(find_person.login_id)
       and i.state in ('active', 'suspended', 'locked')
       and (find_person.program_id is null
            or exists (select from loyalty.identity_link l
                        where l.identity_id = i.identity_id and l.program_id = find_person.program_id and l.ended_at is null)
            or loyalty.role_of(i.identity_id, find_person.program_id, 'granter')
            or loyalty.role_of(i.identity_id, find_person.program_id, 'admin'));
    if person is null then
        select l.identity_id into person
          from loyalty.account a
          join loyalty.identity_link l on l.account_id = a.account_id and l.relation = 'self' and l.ended_at is null
         where a.program_id = find_person.program_id and a.member_no = btrim(find_person.login_id);
    end if;
    if person is null then
        perform loyalty.raise('LY002', 'nobody logs in by that', null,
            'A login ID or member number of the program.');
    end if;
    return person;
end
$$;
comment on function loyalty.find_person is
    'The person of a login ID, or of a member number where a program is given; of that program''s people only. LY002.';

create function loyalty.opens_more(identity_id bigint, program_id integer) returns boolean
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return exists (select from loyalty.identity_link l
                    where l.identity_id = opens_more.identity_id and l.ended_at is null
                      and l.program_id <> opens_more.program_id)
        or loyalty.role_of(opens_more.identity_id, null, 'operator')
        or exists (select from loyalty.program p
                    where p.program_id <> opens_more.program_id
                      and (loyalty.role_of(opens_more.identity_id, p.program_id, 'granter')
                           or loyalty.role_of(opens_more.identity_id, p.program_id, 'admin')));
end
$$;
comment on function loyalty.opens_more is 'Whether a login opens more than one program.';

create function loyalty.unlock_identity(identity_id bigint, program_id integer default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    was_locked boolean := loyalty.is_locked(unlock_identity.identity_id);
begin
    perform loyalty.release_login(unlock_identity.identity_id);
    perform loyalty.audit('unlock_identity', unlock_identity.program_id, unlock_identity.identity_id,
        details => jsonb_build_object('was_locked', was_locked));
    return jsonb_build_object('identity_id', unlock_identity.identity_id, 'was_locked', was_locked);
end
$$;
comment on function loyalty.unlock_identity is
    'Unlocks a person''s login and forgets their wrong passwords: {identity_id, was_locked}.';

create function loyalty.set_identity_state(
    action text, identity_id bigint, program_id integer, from_states text[], to_state text, reason text
) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    update loyalty.identity i
       set state = set_identity_state.to_state, changed_at = loyalty.now()
     where i.identity_id = set_identity_state.identity_id and i.state = any (set_identity_state.from_states);
    if not found then
        perform loyalty.raise('22023', 'the login is in no state for that',
            format('It is %s.', (select i.state from loyalty.identity i where i.identity_id = set_identity_state.identity_id)),
            format('It must be %s.', array_to_string(set_identity_state.from_states, ' or ')));
    end if;
    -- what an application suspended is staff's decision now
    update loyalty.login_application a
       set has_suspended = false
     where a.identity_id = set_identity_state.identity_id and a.has_suspended;
    perform loyalty.audit(set_identity_state.action, set_identity_state.program_id, set_identity_state.identity_id,
        details => jsonb_build_object('reason', set_identity_state.reason));
    return jsonb_build_object('identity_id', set_identity_state.identity_id, 'state', set_identity_state.to_state);
end
$$;
comment on function loyalty.set_identity_state is 'For suspend_identity, resume_identity and close_identity. 22023.';

create function loyalty.suspend_identity(identity_id bigint, program_id integer default null, reason text default null)
    returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.set_identity_state('suspend_identity', suspend_identity.identity_id, suspend_identity.program_id,
        '{active,locked,suspended}', 'suspended', suspend_identity.reason);
comment on function loyalty.suspend_identity is
    'Suspends a login: sessions end, and it opens nothing until it is resumed: {identity_id, state}. 22023 when it was never confirmed or is closed.';

create function loyalty.resume_identity(identity_id bigint, program_id integer default null, reason text default null)
    returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.set_identity_state('resume_identity', resume_identity.identity_id, resume_identity.program_id,
        '{suspended}', 'active', resume_identity.reason);
comment on function loyalty.resume_identity is 'Ends a suspension: {identity_id, state}. 22023 when it is not suspended.';

create function loyalty.close_identity(identity_id bigint, program_id integer default null, reason text default null)
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
comment on function loyalty.close_identity is
    'Closes a login for good: its links, sessions and password are gone, and its login ID is free. Points and accounts stay: {identity_id, state}. 22023 when it is closed.';
-- Registration (A1–A5, C8, C11, S8). The keys that an organisation hands out tell which member
-- somebody is; a code proves the login ID; then the name is shown and confirmed. Until the end
-- the person is provisional, and whether a login ID is in use is only told to who reads its mail.

create table loyalty.registration (
    registration_id bigint generated always as identity primary key,
    token_hash bytea not null
        constraint registration_token_is_unique unique,
    program_id integer not null references loyalty.program,
    account_id bigint not null references loyalty.account,
    stage text not null default 'begun'
        constraint registration_stage_is_known check (stage in ('begun', 'chosen', 'proven', 'confirming', 'done')),
    identity_id bigint references loyalty.identity,
    challenge_id uuid,
    terms_version text,
    created_at timestamptz not null,
    expires_at timestamptz not null
);
create index registration_by_identity on loyalty.registration (identity_id);
create index registration_by_expiry on loyalty.registration (expires_at);
comment on table loyalty.registration is 'Registrations under way. Nobody but the owner reads it.';
comment on column loyalty.registration.registration_id is 'Number of the registration.';
comment on column loyalty.registration.token_hash is 'Keyed hash of the token by which its steps find it.';
comment on column loyalty.registration.program_id is 'The program.';
comment on column loyalty.registration.account_id is 'The member whose keys were given.';
comment on column loyalty.registration.stage is
    'begun with the keys; chosen: login ID and password are there and a code is sent; proven: it was right, but the login ID is somebody''s who has to log in; confirming: the name is shown; done.';
comment on column loyalty.registration.identity_id is 'The provisional person, or the one who logged in to be linked (A5).';
comment on column loyalty.registration.challenge_id is 'The code that was sent last.';
comment on column loyalty.registration.terms_version is 'The terms that were accepted.';
comment on column loyalty.registration.created_at is 'When the keys were given.';
comment on column loyalty.registration.expires_at is 'Until when it can be finished.';

create function loyalty.registration_of(token text) returns loyalty.registration
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    under_way loyalty.registration;
begin
    select r.* into under_way
      from loyalty.registration r
     where r.token_hash = any (loyalty.keyed_hashes('registration', coalesce(registration_of.token, '')))
       and r.stage <> 'done' and r.expires_at > loyalty.now()
       for no key update;
    if not found then
        perform loyalty.raise('LY009', 'no such registration', 'It is finished, or its hour is over.',
            'Begin again with organisation ID and keys.');
    end if;
    perform loyalty.check_service_hours(under_way.program_id);
    return under_way;
end
$$;
comment on function loyalty.registration_of is
    'The registration that a token is for, held until the end of the transaction; LY009 when there is none, LY007 while the program is closed.';

create function loyalty.registration_stage(registration loyalty.registration, stages text[]) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if registration.stage <> all (stages) then
        perform loyalty.raise('22023', 'not the next step of the registration',
            format('It is %s.', registration.stage),
            case registration.stage when 'begun' then 'Go on with choose_login or log_in_to_link.'
                                    when 'chosen' then 'Go on with verify_code.'
                                    when 'proven' then 'Go on with log_in_to_link.'
                                    else 'Go on with confirm_registration.' end);
    end if;
end
$$;
comment on function loyalty.registration_stage is 'Refuses a step of a registration out of turn, with 22023 and the right one.';

create function loyalty.check_terms(policy loyalty.access_policy, terms_version text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if terms_version is distinct from policy.terms_version then
        perform loyalty.raise('22023', 'the terms are not accepted',
            format('The terms are of version %L, %s was accepted.', policy.terms_version,
                coalesce(quote_literal(left(terms_version, 50)), 'none')),
            'Show these terms, and pass their version as terms_version.');
    end if;
end
$$;
comment on function loyalty.check_terms is 'Refuses another version of the terms than the program has now (A2).';

create function loyalty.check_active_member(account_id bigint) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from loyalty.wallet w where w.account_id = check_active_member.account_id and w.status = 'open') then
        perform loyalty.raise('LY010', 'not an active member of the program',
            'The member''s account is closed or suspended.', 'Ask your organisation.');
    end if;
end
$$;
comment on function loyalty.check_active_member is 'Refuses a member whose account is closed or suspended with LY010 (A7).';

create function loyalty.begin_registration(organisation_id text, key_1 text, key_2 text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    policy loyalty.access_policy;
    given_1 text := coalesce(loyalty.clean_key(begin_registration.key_1), '');
    given_2 text := coalesce(loyalty.clean_key(begin_registration.key_2), '');
    asked_for text := lower(btrim(coalesce(begin_registration.organisation_id, '')));
    wait interval;
    holder bigint;
    proof bytea;
    token text := loyalty.random_token();
    finish_by timestamptz := loyalty.now() + interval '1 hour';
begin
    select p.* into policy from loyalty.access_policy p where lower(p.organisation_id) = asked_for;
    perform loyalty.check_service_hours(policy.program_id);
    wait := loyalty.begin_attempt('key', asked_for || E'\n' || given_1);
    if wait is not null then
        return loyalty.refuse_attempt(wait);
    end if;
    select k.account_id, k.key_2_hash into holder, proof
      from loyalty.member_key k
     where k.program_id = policy.program_id
       and k.key_1_hash = any (loyalty.keyed_hashes('key 1 ' || coalesce(policy.program_id, 0), given_1));
    if (proof = any (loyalty.keyed_hashes('key 2 ' || coalesce(holder, 0), given_2))) is not true then
        perform loyalty.attempt_failed('key', asked_for || E'\n' || given_1);
        perform loyalty.audit('begin_registration', policy.program_id, account_id => holder, outcome => 'refused');
        return loyalty.refuse('LY009', 'wrong organisation ID or keys', null,
            'Type them as your organisation wrote them; an administrator issues new keys for lost ones.');
    end if;
    perform loyalty.attempt_succeeded('key', asked_for || E'\n' || given_1);
    perform loyalty.check_active_member(holder);
    perform loyalty.check_unregistered(holder);
    insert into loyalty.registration (token_hash, program_id, account_id, created_at, expires_at)
    values ((loyalty.keyed_hashes('registration', token))[1], policy.program_id, holder, loyalty.now(), finish_by);
    perform loyalty.audit('begin_registration', policy.program_id, account_id => holder);
    return (select jsonb_build_object(
                'registration', token, 'expires_at', finish_by,
                'program', p.code, 'program_name', p.name,
                'terms_version', policy.terms_version, 'terms_url', policy.terms_url,
                'asks_details', policy.asks_details, 'allows_member_no', policy.allows_member_no,
                'password', jsonb_build_object(
                    'length', policy.password_length, 'letters', policy.password_letters,
                    'digits', policy.password_digits, 'symbols', policy.password_symbols))
              from loyalty.program p
             where p.program_id = policy.program_id);
end
$$;
comment on function loyalty.begin_registration is
    'Begins a registration with the organisation ID and the member''s keys (A1): {registration, expires_at, program, program_name, terms_version, terms_url, asks_details, allows_member_no, password}. registration is the token of the next steps, good for an hour. Wrong keys are refused with LY009 and counted (LY008); a member who is registered already, or not active, with LY010.';

create function loyalty.check_unregistered(account_id bigint) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from loyalty.identity_link l
                where l.account_id = check_unregistered.account_id and l.relation = 'self' and l.ended_at is null) then
        perform loyalty.raise('LY010', 'the member is registered already', null,
            'Log in; who forgot the password or the login ID finds the way back in there.');
    end if;
end
$$;
comment on function loyalty.check_unregistered is 'Refuses a member whom somebody logs in as already with LY010.';

create function loyalty.send_code(registration loyalty.registration) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    address text;
    is_taken boolean;
    sent loyalty.challenge;
begin
    select i.login_id into strict address from loyalty.identity i where i.identity_id = registration.identity_id;
    is_taken := exists (select from loyalty.identity i
                         where i.login_id = address and i.state in ('active', 'suspended', 'locked'));
    update loyalty.challenge c set used_at = loyalty.now()
     where c.challenge_id = registration.challenge_id and c.used_at is null;
    sent := loyalty.new_challenge(case when is_taken then 'login_in_use' else 'verification_code' end,
        registration.program_id, registration.identity_id, registration.account_id, address);
    update loyalty.registration r
       set stage = 'chosen', challenge_id = sent.challenge_id
     where r.registration_id = registration.registration_id;
    return jsonb_build_object('next', 'verify_code', 'sent_to', address, 'code_expires_at', sent.expires_at);
end
$$;
comment on function loyalty.send_code is
    'Sends the code of a registration (A3): to a login ID in use with another text, but the same answer.';

create function loyalty.choose_login(registration text, login_id text, password text, terms_version text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    under_way loyalty.registration := loyalty.registration_of(choose_login.registration);
    policy loyalty.access_policy := loyalty.access_policy_of(under_way.program_id);
    address text := loyalty.clean_login_id(nullif(btrim(choose_login.login_id), ''));
    wait interval;
begin
    perform loyalty.registration_stage(under_way, '{begun,chosen}');
    if nullif(btrim(choose_login.login_id), '') is null and not policy.allows_member_no then
        perform loyalty.raise('22004', 'login_id must not be null', null, 'An e-mail address or a mobile number.');
    elsif address is null and nullif(btrim(choose_login.login_id), '') is not null then
        perform loyalty.raise('22023', 'login_id is neither an e-mail address nor a telephone number', null,
            'Such as hanako@example.com, 090-1234-5678 or +44 20 7946 0018.');
    end if;
    perform loyalty.check_terms(policy, choose_login.terms_version);
    perform loyalty.check_new_password(policy, choose_login.password, address);
    if address is not null then
        wait := loyalty.begin_attempt('send', address);
        if wait is not null then
            return loyalty.refuse_attempt(wait);
        end if;
        perform loyalty.attempt_failed('send', address, false);
    end if;
    -- who chooses again mistyped the address: the provisional person stays the same
    if under_way.identity_id is null then
        insert into loyalty.identity (login_id, created_at, changed_at)
        values (address, loyalty.now(), loyalty.now())
        returning identity_id into under_way.identity_id;
    else
        update loyalty.identity i
           set login_id = address, changed_at = loyalty.now()
         where i.identity_id = under_way.identity_id;
    end if;
    perform loyalty.set_password(under_way.identity_id, choose_login.password);
    update loyalty.registration r
       set identity_id = under_way.identity_id, terms_version = choose_login.terms_version,
           stage = case when address is null then 'confirming' else 'chosen' end
     where r.registration_id = under_way.registration_id;
    perform loyalty.audit('choose_login', under_way.program_id, under_way.identity_id, under_way.account_id,
        jsonb_build_object('terms_version', choose_login.terms_version));
    if address is null then
        return loyalty.registration_name(under_way);
    end if;
    return loyalty.send_code(under_way);
end
$$;
comment on function loyalty.choose_login is
    'Takes login ID, password and the version of the terms that was accepted (A2), and sends a code to the login ID (A3): {next: verify_code, sent_to, code_expires_at}, whether or not somebody has that login ID. Where the program lets members in by member number, login_id may be left out (S8): {next: confirm, …} at once. 22023 or 22004 for what the program does not take, LY008 after too many codes to one address.';

create function loyalty.registration_name(registration loyalty.registration) returns jsonb
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select jsonb_build_object('next', 'confirm', 'name', m.name, 'member_no', a.member_no,
               'program', p.code, 'program_name', p.name, 'asks_details', coalesce(o.asks_details, false))
      from loyalty.account a
      join loyalty.program p on p.program_id = a.program_id
      left join loyalty.access_policy o on o.program_id = a.program_id
      left join loyalty.member m on m.account_id = a.account_id
     where a.account_id = registration.account_id;
end;
comment on function loyalty.registration_name is 'The name that is shown to be confirmed (A4), and what else the last step asks for.';

create function loyalty.resend_code(registration text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    under_way loyalty.registration := loyalty.registration_of(resend_code.registration);
    address text;
    wait interval;
begin
    perform loyalty.registration_stage(under_way, '{chosen}');
    select i.login_id into strict address from loyalty.identity i where i.identity_id = under_way.identity_id;
    wait := loyalty.begin_attempt('send', address);
    if wait is not null then
        return loyalty.refuse_attempt(wait);
    end if;
    perform loyalty.attempt_failed('send', address, false);
    perform loyalty.audit('resend_code', under_way.program_id, under_way.identity_id, under_way.account_id);
    return loyalty.send_code(under_way);
end
$$;
comment on function loyalty.resend_code is
    'Sends a new code, and makes the one before no longer good; answers as choose_login does. LY008 after too many to one address.';

create function loyalty.verify_code(registration text, code text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    under_way loyalty.registration := loyalty.registration_of(verify_code.registration);
    subject text := 'registration ' || under_way.account_id;
    address text;
    wait interval;
begin
    perform loyalty.registration_stage(under_way, '{chosen}');
    wait := loyalty.begin_attempt('code', subject);
    if wait is not null then
        return loyalty.refuse_attempt(wait);
    end if;
    if not loyalty.try_code(under_way.challenge_id,
            regexp_replace(normalize(verify_code.code, nfkc), '[^0-9]', '', 'g')) then
        perform loyalty.attempt_failed('code', subject);
        perform loyalty.audit('verify_code', under_way.program_id, under_way.identity_id, under_way.account_id,
            outcome => 'refused');
        return loyalty.refuse('LY009', 'wrong code', 'It may be mistyped, used, replaced by a newer one, or its time is over.',
            'Type the code of the last message, or ask for a new one with resend_code.');
    end if;
    select i.login_id into strict address from loyalty.identity i where i.identity_id = under_way.identity_id;
    perform loyalty.attempt_succeeded('code', subject);
    perform loyalty.attempt_succeeded('send', address);
    perform loyalty.use_challenge(under_way.challenge_id);
    perform loyalty.audit('verify_code', under_way.program_id, under_way.identity_id, under_way.account_id);
    return loyalty.take_proof(under_way, address);
end
$$;
comment on function loyalty.verify_code is
    'Takes the code that was sent (A3): {next: confirm, name, …} shows the name to be confirmed (A4), {next: log_in} says that the login ID is somebody''s already, who logs in to be linked (A5). A wrong code is refused with LY009 and counted (LY008); five end it.';

create function loyalty.take_proof(registration loyalty.registration, login_id text) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    is_taken boolean := exists (select from loyalty.identity i
                                 where i.login_id = take_proof.login_id and i.state in ('active', 'suspended', 'locked'));
begin
    update loyalty.registration r
       set stage = case when is_taken then 'proven' else 'confirming' end
     where r.registration_id = take_proof.registration.registration_id;
    return case when is_taken then jsonb_build_object('next', 'log_in', 'login_id', take_proof.login_id)
                else loyalty.registration_name(take_proof.registration) end;
end
$$;
comment on function loyalty.take_proof is
    'Goes on with a registration whose login ID is proven: to the name, or to log in where somebody has that login ID.';

create function loyalty.log_in_to_link(registration text, login_id text, password text, terms_version text default null)
    returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    under_way loyalty.registration := loyalty.registration_of(log_in_to_link.registration);
    accepted text := coalesce(log_in_to_link.terms_version, under_way.terms_version);
    proof record;
begin
    perform loyalty.check_terms(loyalty.access_policy_of(under_way.program_id), accepted);
    select * into strict proof from loyalty.prove_password(log_in_to_link.login_id, log_in_to_link.password);
    if proof.refusal is not null then
        perform loyalty.audit('log_in_to_link', under_way.program_id, account_id => under_way.account_id, outcome => 'refused');
        return proof.refusal;
    end if;
    update loyalty.challenge c set used_at = loyalty.now()
     where c.challenge_id = under_way.challenge_id and c.used_at is null;
    update loyalty.registration r
       set identity_id = proof.identity_id, challenge_id = null, terms_version = accepted, stage = 'confirming'
     where r.registration_id = under_way.registration_id;
    perform loyalty.drop_provisional(under_way.identity_id);
    perform loyalty.audit('log_in_to_link', under_way.program_id, proof.identity_id, under_way.account_id,
        jsonb_build_object('terms_version', accepted));
    return loyalty.registration_name(under_way);
end
$$;
comment on function loyalty.log_in_to_link is
    'Links the member to a login that the person has already (A5), at the beginning of a registration or when verify_code said log_in: {next: confirm, name, …}. terms_version: the program''s terms, unless choose_login took them. Wrong credentials are LY009, and counted as those of log_in are.';

create function loyalty.drop_provisional(identity_id bigint) returns void
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    update loyalty.challenge c set used_at = coalesce(c.used_at, loyalty.now()), identity_id = null
     where c.identity_id = drop_provisional.identity_id
       and exists (select from loyalty.identity i
                    where i.identity_id = drop_provisional.identity_id and i.state = 'provisional');
    delete from loyalty.credential c
     using loyalty.identity i
     where c.identity_id = drop_provisional.identity_id and i.identity_id = c.identity_id and i.state = 'provisional';
    delete from loyalty.identity i
     where i.identity_id = drop_provisional.identity_id and i.state = 'provisional';
end;
comment on function loyalty.drop_provisional is 'Forgets a person who never finished registering, with the password.';

create function loyalty.check_details(registration loyalty.registration, kana text, birth_date date) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    subject text := 'details ' || registration.account_id;
    on_record record;
    given text;
    wait interval;
begin
    if check_details.kana is null or check_details.birth_date is null then
        perform loyalty.raise('22004', 'kana and birth_date must not be null', null,
            'The program asks for the reading of the name, in katakana, and for the birth date.');
    end if;
    select p.code, m.kana, m.birth_date into strict on_record
      from loyalty.program p
      left join loyalty.member m on m.account_id = registration.account_id
     where p.program_id = registration.program_id;
    if on_record.kana is null or on_record.birth_date is null then
        perform loyalty.raise('LY010', 'the member record has nothing to compare with', null,
            'Ask your organisation to enter kana and birth date.');
    end if;
    given := loyalty.clean_member(json_build_object('kana', check_details.kana), loyalty.today(on_record.code)) ->> 'kana';
    wait := loyalty.begin_attempt('key', subject);
    if wait is not null then
        return loyalty.refuse_attempt(wait);
    end if;
    -- where a name has spaces or dots, people do not agree
    if regexp_replace(given, '[[:space:]・]', '', 'g') = regexp_replace(on_record.kana, '[[:space:]・]', '', 'g')
       and check_details.birth_date = on_record.birth_date then
        perform loyalty.attempt_succeeded('key', subject);
        return null;
    end if;
    perform loyalty.attempt_failed('key', subject);
    perform loyalty.audit('confirm_registration', registration.program_id, registration.identity_id,
        registration.account_id, outcome => 'refused');
    return loyalty.refuse('LY009', 'these are not the details of the member record', null,
        'Type the reading of your name and your birth date as your organisation has them.');
end
$$;
comment on function loyalty.check_details is
    'Compares kana and birth date with the member record (C11): null when they are right, else what refuses the attempt, which is counted.';

create function loyalty.link_member(registration loyalty.registration) returns text
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    person loyalty.identity;
begin
    select i.* into strict person
      from loyalty.identity i
     where i.identity_id = registration.identity_id
       for no key update;
    if person.state = 'provisional' then
        begin
            update loyalty.identity i
               set state = 'active', changed_at = loyalty.now()
             where i.identity_id = person.identity_id;
        exception when unique_violation then
            -- somebody finished with the same login ID first
            return person.login_id;
        end;
    elsif person.state <> 'active' then
        perform loyalty.raise('LY010', 'the login is suspended', null, 'Ask your organisation.');
    elsif exists (select from loyalty.identity_link l
                   where l.identity_id = person.identity_id and l.program_id = registration.program_id
                     and l.account_id <> registration.account_id and l.relation = 'self' and l.ended_at is null) then
        perform loyalty.raise('LY010', 'the login is another member''s of the program', null,
            'Register with a login ID of its own.');
    end if;
    begin
        insert into loyalty.identity_link as l
               (identity_id, account_id, program_id, relation, terms_version, linked_at)
        values (person.identity_id, registration.account_id, registration.program_id, 'self',
                registration.terms_version, loyalty.now())
            on conflict (identity_id, account_id) do update
           set relation = 'self', terms_version = excluded.terms_version, linked_at = excluded.linked_at,
               ended_at = null;
    exception when unique_violation then
        perform loyalty.raise('LY010', 'the member is registered already', null,
            'Log in; who forgot the password or the login ID finds the way back in there.');
    end;
    perform loyalty.fill_contact(registration.account_id, person.login_id);
    return null;
end
$$;
comment on function loyalty.link_member is
    'Makes the person of a registration the member, for good. Answers with the login ID when that turns out to be another person''s by now, else null; LY010 when the member or the person cannot be linked any more.';

create function loyalty.fill_contact(account_id bigint, login_id text) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    missing record;
begin
    select p.code, a.member_no, m.email is null as email, m.phone is null as phone into strict missing
      from loyalty.account a
      join loyalty.program p on p.program_id = a.program_id
      left join loyalty.member m on m.account_id = a.account_id
     where a.account_id = fill_contact.account_id;
    if strpos(fill_contact.login_id, '@') > 0 and missing.email then
        perform loyalty.set_member(missing.code, missing.member_no, email => fill_contact.login_id);
    elsif strpos(fill_contact.login_id, '@') = 0 and missing.phone then
        perform loyalty.set_member(missing.code, missing.member_no, phone => fill_contact.login_id);
    end if;
end
$$;
comment on function loyalty.fill_contact is
    'Writes a proven login ID into the member''s record as e-mail address or phone, where the record has none.';

create function loyalty.confirm_registration(
    registration text,
    is_right_name boolean,
    kana text default null,
    birth_date date default null
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    under_way loyalty.registration := loyalty.registration_of(confirm_registration.registration);
    policy loyalty.access_policy := loyalty.access_policy_of(under_way.program_id);
    refusal jsonb;
    taken_login_id text;
begin
    perform loyalty.registration_stage(under_way, '{confirming}');
    if confirm_registration.is_right_name is null then
        perform loyalty.raise('22004', 'is_right_name must not be null', null,
            'true when the name that is shown is the person''s own, else false.');
    elsif not confirm_registration.is_right_name then
        update loyalty.registration r
           set stage = 'done', identity_id = null, challenge_id = null
         where r.registration_id = under_way.registration_id;
        perform loyalty.drop_provisional(under_way.identity_id);
        perform loyalty.audit('confirm_registration', under_way.program_id, account_id => under_way.account_id,
            outcome => 'refused');
        return loyalty.refuse('LY010', 'the registration is given up', 'The name was not confirmed.',
            'Ask your organisation whose keys they are.');
    end if;
    if policy.asks_details then
        refusal := loyalty.check_details(under_way, confirm_registration.kana, confirm_registration.birth_date);
        if refusal is not null then
            return refusal;
        end if;
    end if;
    perform loyalty.check_active_member(under_way.account_id);
    taken_login_id := loyalty.link_member(under_way);
    if taken_login_id is not null then
        return loyalty.take_proof(under_way, taken_login_id);
    end if;
    update loyalty.registration r set stage = 'done' where r.registration_id = under_way.registration_id;
    perform loyalty.audit('confirm_registration', under_way.program_id, under_way.identity_id, under_way.account_id,
        jsonb_build_object('terms_version', under_way.terms_version));
    return loyalty.start_session(under_way.identity_id, under_way.program_id, 'member', under_way.account_id, false);
end
$$;
comment on function loyalty.confirm_registration is
    'Ends a registration: the name that was shown is the person''s own (A4), and kana and birth date are those of the member record where the program asks for them (C11). Answers with a session, as log_in does; {next: log_in} when somebody else finished with the same login ID meanwhile. A wrong name gives the registration up (LY010), wrong details are LY009 and counted (LY008).';
-- Another login ID: whoever changes address, or registers one later (S8). The new address is
-- proven by a link, before the old one goes.

create function loyalty.request_login_change(
    identity_id bigint, program_id integer, account_id bigint, login_id text, password text
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    started timestamptz := clock_timestamp();
    address text := loyalty.clean_login_id(request_login_change.login_id);
    subject text := 'login change ' || request_login_change.identity_id;
    person record;
    wait interval;
    sent loyalty.challenge;
begin
    if address is null then
        perform loyalty.raise('22023', 'login_id is neither an e-mail address nor a telephone number', null,
            'Such as hanako@example.com, 090-1234-5678 or +44 20 7946 0018.');
    end if;
    wait := loyalty.begin_attempt('code', subject);
    if wait is not null then
        return loyalty.refuse_attempt(wait);
    end if;
    select i.login_id, c.password_hash into person
      from loyalty.identity i
      left join loyalty.credential c on c.identity_id = i.identity_id
     where i.identity_id = request_login_change.identity_id and i.state = 'active';
    if not loyalty.check_password(request_login_change.password, person.password_hash) then
        perform loyalty.attempt_failed('code', subject);
        perform loyalty.audit('request_login_change', request_login_change.program_id,
            request_login_change.identity_id, request_login_change.account_id, outcome => 'refused');
        return loyalty.refuse('LY009', 'wrong password', null, 'Give the password of your login as it is now.');
    end if;
    perform loyalty.attempt_succeeded('code', subject);
    if person.login_id = address then
        perform loyalty.raise('22023', 'login_id is the one you have', null, 'Give another one.');
    end if;
    wait := loyalty.begin_attempt('send', address);
    if wait is not null then
        return loyalty.refuse_attempt(wait);
    end if;
    perform loyalty.attempt_failed('send', address, false);
    -- nothing goes to who has that login ID already, and the answer does not tell
    sent := loyalty.new_challenge('login_change', request_login_change.program_id, request_login_change.identity_id,
        request_login_change.account_id,
        case when not exists (select from loyalty.identity i
                               where i.login_id = address and i.state in ('active', 'suspended', 'locked'))
             then address end);
    perform loyalty.audit('request_login_change', request_login_change.program_id,
        request_login_change.identity_id, request_login_change.account_id);
    perform loyalty.pad(started);
    return jsonb_build_object('sent_to', address, 'expires_at', sent.expires_at);
end
$$;
comment on function loyalty.request_login_change is
    'Mails a link to a new login ID of somebody who is signed in, once the password was right (S8): {sent_to, expires_at}. The answer does not tell whether somebody has that login ID; then no mail goes out. LY009 for a wrong password, LY008 after too many, 22023 for what is no login ID.';

create function loyalty.confirm_login_change(token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    sent loyalty.challenge := loyalty.challenge_of_token(confirm_login_change.token, '{login_change}');
begin
    perform loyalty.check_service_hours(sent.program_id);
    if sent.address is null then
        perform loyalty.raise('LY009', 'the link is no longer good', 'It was used, replaced by a newer one, or its time is over.',
            'Ask for a new one.');
    end if;
    perform loyalty.use_challenge(sent.challenge_id);
    begin
        update loyalty.identity i
           set login_id = sent.address, changed_at = loyalty.now()
         where i.identity_id = sent.identity_id and i.state = 'active';
        if not found then
            perform loyalty.raise('LY010', 'the login is suspended', null, 'Ask your organisation.');
        end if;
    exception when unique_violation then
        perform loyalty.raise('LY010', 'the login ID is taken by now', null, 'Choose another one.');
    end;
    -- the record is the member's own: family has none
    perform loyalty.fill_contact(l.account_id, sent.address)
       from loyalty.identity_link l
      where l.identity_id = sent.identity_id and l.account_id = sent.account_id
        and l.relation = 'self' and l.ended_at is null;
    perform loyalty.audit('confirm_login_change', sent.program_id, sent.identity_id, sent.account_id);
    return jsonb_build_object('login_id', sent.address);
end
$$;
comment on function loyalty.confirm_login_change is
    'Takes the link that request_login_change mailed (S8): from then on the new login ID is the person''s, with the same password: {login_id}. LY009 for a link that is no longer good.';

-- What is left of people who came and went.
create function loyalty.purge_access(older_than interval default '30 days')
    returns table (what text, purged bigint)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    before timestamptz := loyalty.now() - older_than;
begin
    if older_than is null or older_than < interval '1 day' then
        perform loyalty.raise('22023', 'older_than is too short', format('%s given.', coalesce(older_than::text, 'null')),
            'A day or more: failures of the last day still count.');
    end if;
    delete from loyalty.registration r where r.expires_at < before;
    get diagnostics purged = row_count;
    what := 'registration';
    return next;
    delete from loyalty.challenge c where c.expires_at < before;
    get diagnostics purged = row_count;
    what := 'challenge';
    return next;
    delete from loyalty.throttle t where t.failed_at < before and t.blocked_until is distinct from 'infinity';
    get diagnostics purged = row_count;
    what := 'throttle';
    return next;
    delete from loyalty.credential c
     using loyalty.identity i
     where i.identity_id = c.identity_id and i.state = 'provisional' and i.changed_at < before
       and not exists (select from loyalty.registration r where r.identity_id = i.identity_id);
    delete from loyalty.identity i
     where i.state = 'provisional' and i.changed_at < before
       and not exists (select from loyalty.registration r where r.identity_id = i.identity_id)
       and not exists (select from loyalty.challenge c where c.identity_id = i.identity_id);
    get diagnostics purged = row_count;
    what := 'identity';
    return next;
    purged := loyalty.purge_logins(older_than);
    what := 'session';
    return next;
end
$$;
comment on function loyalty.purge_access is
    'Deletes what people left behind and nobody needs: registrations and challenges whose time is long over, failures that no longer count, provisional persons, ended sessions. What, and how many of it; older_than a day or more. Locked logins and the audit stay.';
-- Families (A8): whom a member may invite, how the invited register, and what they may then see
-- and spend of the member's points.

create function loyalty.degree_of_kinship(relation text) returns integer
    language sql immutable parallel safe
    return (
        select r.degree
          from (values ('spouse', 0),
                       ('parent', 1), ('child', 1), ('parent_in_law', 1), ('stepchild', 1),
                       ('sibling', 2), ('grandparent', 2), ('grandchild', 2),
                       ('sibling_in_law', 2), ('grandparent_in_law', 2), ('step_grandchild', 2)
               ) as r (relation, degree)
         where r.relation = degree_of_kinship.relation);
comment on function loyalty.degree_of_kinship is
    'Degree of kinship of what somebody is to a member: 0 for a spouse, 1 and 2 for relatives of the member or, by the names with in_law and step, of the spouse (A8); null for anything else.';

create table loyalty.family (
    family_id bigint generated always as identity primary key,
    account_id bigint not null references loyalty.account,
    program_id integer not null references loyalty.program,
    relation text not null
        constraint family_relation_is_known check (loyalty.degree_of_kinship(relation) is not null),
    name text not null
        constraint family_name_is_short check (char_length(name) between 1 and 200),
    birth_date date not null
        constraint family_birth_date_is_sane check (birth_date >= '1850-01-01'),
    address text not null
        constraint family_address_is_clean check (address = loyalty.clean_login_id(address)),
    challenge_id uuid,
    invited_at timestamptz not null,
    expires_at timestamptz not null,
    approved_at timestamptz,
    registered_at timestamptz,
    ended_at timestamptz,
    identity_id bigint references loyalty.identity,
    constraint family_registers_once_approved
        check ((identity_id is null) = (registered_at is null) and (registered_at is null or approved_at is not null))
);
create unique index family_is_invited_once on loyalty.family (account_id, address) where ended_at is null;
create unique index family_by_challenge on loyalty.family (challenge_id);
create index family_by_account on loyalty.family (account_id, invited_at);

comment on table loyalty.family is
    'Who was invited as whose family, and what became of it. What a registered one may do is told by identity_link and access_policy.';
comment on column loyalty.family.family_id is 'Number of the invitation.';
comment on column loyalty.family.account_id is 'Account of the member who invited.';
comment on column loyalty.family.program_id is 'Program of the account, the only one that the invitation opens.';
comment on column loyalty.family.relation is 'What the person is to the member: spouse, child, parent_in_law, … .';
comment on column loyalty.family.name is 'The person''s name, in the member''s words.';
comment on column loyalty.family.birth_date is 'Day of birth, which the person must give to register.';
comment on column loyalty.family.address is 'E-mail address or phone that the invitation goes to, which becomes the login ID.';
comment on column loyalty.family.challenge_id is 'The challenge that is waited for: the member''s approval, then the registration.';
comment on column loyalty.family.invited_at is 'When the member invited.';
comment on column loyalty.family.expires_at is 'Until when what is waited for can be done.';
comment on column loyalty.family.approved_at is 'When the member approved, from the mail.';
comment on column loyalty.family.registered_at is 'When the person registered.';
comment on column loyalty.family.ended_at is 'When it was canceled, given up after too many wrong birth dates, or the person removed.';
comment on column loyalty.family.identity_id is 'The person''s login.';

create table loyalty.family_spend (
    account_id bigint not null references loyalty.account,
    operation_id bigint not null,
    identity_id bigint not null references loyalty.identity,
    month date not null,
    points bigint not null,
    primary key (account_id, operation_id)
);
create index family_spend_by_month on loyalty.family_spend (account_id, identity_id, month);
comment on table loyalty.family_spend is 'What family spent of a member''s points, each operation counted once.';
comment on column loyalty.family_spend.account_id is 'The member''s account.';
comment on column loyalty.family_spend.operation_id is 'The spend.';
comment on column loyalty.family_spend.identity_id is 'Who of the family asked for it.';
comment on column loyalty.family_spend.month is 'First day of its month, in the program''s time zone.';
comment on column loyalty.family_spend.points is 'How many points.';

create function loyalty.family_state(
    expires_at timestamptz, approved_at timestamptz, registered_at timestamptz, ended_at timestamptz
) returns text
    language sql stable parallel safe
    return case when ended_at is not null and registered_at is not null then 'removed'
                when ended_at is not null then 'canceled'
                when registered_at is not null then 'registered'
                when expires_at <= loyalty.now() then 'expired'
                when approved_at is not null then 'approved'
                else 'invited' end;
comment on function loyalty.family_state is
    'Where an invitation is: invited (the member is to approve), approved (the person is to register), registered, removed, canceled or expired.';

create function loyalty.admits_family(policy loyalty.access_policy, relation text) returns boolean
    language sql immutable parallel safe
    return coalesce(policy.family_access <> 'none'
        and relation = any (policy.family_relations)
        and loyalty.degree_of_kinship(relation) <= policy.family_degree, false);
comment on function loyalty.admits_family is
    'Whether a program lets family of that relation in: by its relations, its highest degree, and whether it has anything for families at all.';

create function loyalty.check_family_relation(policy loyalty.access_policy, relation text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    admitted text := (
        select string_agg(r.name, ', ' order by loyalty.degree_of_kinship(r.name), r.name)
          from unnest(policy.family_relations) r (name)
         where loyalty.admits_family(policy, r.name));
begin
    if relation is null then
        perform loyalty.raise('22004', 'relation must not be null', null, 'Say what the person is to the member.');
    elsif loyalty.degree_of_kinship(relation) is null then
        perform loyalty.raise('22023', 'no such relation', format('%L given.', left(relation, 40)),
            'A spouse, or a relative within the second degree: docs/families.md lists them.');
    elsif not loyalty.admits_family(policy, relation) then
        perform loyalty.raise('LY010', 'the program does not admit family of this relation',
            format('%s, degree %s.', relation, loyalty.degree_of_kinship(relation)),
            coalesce('It admits: ' || admitted || '.', 'It admits no family.'));
    end if;
end
$$;
comment on function loyalty.check_family_relation is
    'Refuses a relation that is none (22023) or that the program does not admit (LY010).';

create function loyalty.invite_family(account_id bigint, relation text, name text, birth_date date, address text)
    returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    member record;
    policy loyalty.access_policy;
    called text := btrim(invite_family.name);
    reached text := loyalty.clean_login_id(invite_family.address);
    made loyalty.family;
    asked loyalty.challenge;
    recent record;
begin
    select a.account_id, a.program_id, w.status, p.time_zone, i.identity_id, i.login_id into member
      from loyalty.account a
      join loyalty.program p on p.program_id = a.program_id
      left join loyalty.wallet w on w.account_id = a.account_id
      left join loyalty.identity_link l
        on l.account_id = a.account_id and l.relation = 'self' and l.ended_at is null
      left join loyalty.identity i on i.identity_id = l.identity_id and i.state = 'active'
     where a.account_id = invite_family.account_id
       -- one invitation of a member after the other: what is counted below stays so
       for no key update of a;
    if not found then
        perform loyalty.raise('LY002', 'no such account',
            format('Account %s does not exist.', coalesce(invite_family.account_id::text, 'null')),
            'loyalty.open_account(program, member_no) gives a member''s account.');
    elsif member.status <> 'open' then
        perform loyalty.raise('LY004', format('the account is %s', member.status), null,
            'Only members with an open account invite.');
    end if;
    policy := loyalty.access_policy_of(member.program_id);
    perform loyalty.check_family_relation(policy, invite_family.relation);
    if member.login_id is null then
        perform loyalty.raise('LY010', 'the member has no address to approve from', null,
            'Register an e-mail address or phone as login ID first.');
    elsif called is null or char_length(called) not between 1 and 200 or called ~ '[[:cntrl:]]' then
        perform loyalty.raise('22023', 'name cannot be', format('%L given.', left(called, 40)),
            'Up to 200 characters in one line.');
    elsif invite_family.birth_date is null
          or invite_family.birth_date not between '1850-01-01' and timezone(member.time_zone, loyalty.now())::date then
        perform loyalty.raise('22023', 'birth_date cannot be',
            format('%s given.', coalesce(invite_family.birth_date::text, 'null')), 'A day that has been.');
    elsif reached is null then
        perform loyalty.raise('22023', 'address is neither an e-mail address nor a mobile number', null,
            'Such as hanako@example.com or +81 90 1234 5678.');
    elsif reached = member.login_id then
        perform loyalty.raise('22023', 'address is the member''s own', null, 'Give the address of the person invited.');
    end if;
    -- mails to others' addresses are no toy
    select count(*) as invitations, min(f.invited_at) as since into recent
      from loyalty.family f
     where f.account_id = member.account_id and f.invited_at > loyalty.now() - interval '1 day';
    if recent.invitations >= 20 then
        return loyalty.refuse_attempt(recent.since + interval '1 day' - loyalty.now());
    end if;
    update loyalty.family f
       set ended_at = loyalty.now()
     where f.account_id = member.account_id and f.address = reached and f.ended_at is null
       and f.registered_at is null and f.expires_at <= loyalty.now();
    if exists (select from loyalty.family f
                where f.account_id = member.account_id and f.address = reached and f.ended_at is null) then
        perform loyalty.raise('23514', 'the address is invited already', null,
            'Remove that invitation first; /family lists them.');
    end if;
    insert into loyalty.family (account_id, program_id, relation, name, birth_date, address, invited_at, expires_at)
    values (member.account_id, member.program_id, invite_family.relation, called, invite_family.birth_date, reached,
            loyalty.now(), loyalty.now() + interval '1 day')
    returning * into made;
    -- of no identity: an invitation does not end that of somebody else
    asked := loyalty.new_challenge('family_approval', made.program_id, null, made.account_id, member.login_id,
        jsonb_build_object('name', made.name, 'relation', made.relation), interval '1 day');
    update loyalty.family f set challenge_id = asked.challenge_id where f.family_id = made.family_id;
    perform loyalty.audit('invite_family', made.program_id, member.identity_id, made.account_id,
        jsonb_build_object('family_id', made.family_id, 'relation', made.relation));
    return jsonb_build_object('family_id', made.family_id, 'relation', made.relation, 'name', made.name,
        'state', 'invited', 'expires_at', made.expires_at);
end
$$;
comment on function loyalty.invite_family is
    'A member invites family (A8): the member is mailed a link to approve it by, within a day. {family_id, relation, name, state, expires_at}; 22023 and 22004 for a value that cannot be, LY010 for a relation that the program does not admit, LY008 from the 20th invitation within a day.';

create function loyalty.family_of_token(token text, purpose text) returns loyalty.family
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    held loyalty.family;
begin
    if token ~ '^[0-9a-f]{32}\.' then
        -- always the invitation before its challenge: nobody waits in a circle
        select f.* into held
          from loyalty.family f
         where f.challenge_id = split_part(token, '.', 1)::uuid and f.ended_at is null and f.registered_at is null
           for update;
        if found and (loyalty.challenge_of_token(token, array[purpose])).challenge_id = held.challenge_id then
            perform loyalty.check_service_hours(held.program_id);
            if not exists (
                   select from loyalty.wallet w where w.account_id = held.account_id and w.status = 'open') then
                perform loyalty.raise('LY004', 'the member''s account is not open', null, 'Ask the member.');
            end if;
            return held;
        end if;
    end if;
    perform loyalty.raise('LY009', 'the link is not good', null,
        'It was used, its time is over, or the invitation was taken back: ask the member to invite again.');
    return null;
end
$$;
comment on function loyalty.family_of_token is
    'The invitation that a mailed link opens, held until the end of the transaction; LY009 when it opens none, LY007 outside of service hours, LY004 when the member''s account is not open.';

create function loyalty.approve_family(token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.family := loyalty.family_of_token(approve_family.token, 'family_approval');
    asked loyalty.challenge;
begin
    perform loyalty.check_family_relation(loyalty.access_policy_of(held.program_id), held.relation);
    perform loyalty.use_challenge(held.challenge_id);
    asked := loyalty.new_challenge('family_invitation', held.program_id, null, held.account_id, held.address,
        jsonb_build_object('name', held.name, 'relation', held.relation), interval '7 days');
    update loyalty.family f
       set approved_at = loyalty.now(), challenge_id = asked.challenge_id, expires_at = asked.expires_at
     where f.family_id = held.family_id;
    perform loyalty.audit('approve_family', held.program_id,
        (select l.identity_id from loyalty.identity_link l
          where l.account_id = held.account_id and l.relation = 'self' and l.ended_at is null),
        held.account_id, jsonb_build_object('family_id', held.family_id));
    return jsonb_build_object('family_id', held.family_id, 'relation', held.relation, 'name', held.name,
        'state', 'approved', 'expires_at', asked.expires_at);
end
$$;
comment on function loyalty.approve_family is
    'The member approves an invitation by the mailed link (A8); the person invited is mailed a link to register by, within 7 days. LY009 when the link is not good.';

create function loyalty.prove_identity(
    policy loyalty.access_policy, login_id text, password text, out identity_id bigint, out refusal jsonb
) returns record
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    proof record;
begin
    insert into loyalty.identity (login_id, state, created_at, changed_at)
    values (prove_identity.login_id, 'active', loyalty.now(), loyalty.now())
        on conflict (login_id) where state in ('active', 'suspended', 'locked') do nothing
    returning identity_id into prove_identity.identity_id;
    if found then
        perform loyalty.check_new_password(policy, prove_identity.password, prove_identity.login_id);
        perform loyalty.set_password(prove_identity.identity_id, prove_identity.password);
        return;
    end if;
    proof := loyalty.prove_password(prove_identity.login_id, coalesce(prove_identity.password, ''));
    if proof.refusal is null then
        prove_identity.identity_id := proof.identity_id;
    elsif proof.refusal ->> 'code' = 'LY009' then
        -- only who holds the address learns that it is a login ID already
        refusal := proof.refusal || jsonb_build_object(
            'details', 'The address is the ID of a login that there is already.',
            'hint', 'Give the password of that login, or reset it first.');
    else
        refusal := proof.refusal;
    end if;
end
$$;
comment on function loyalty.prove_identity is
    'The login of who holds an address: the one there is, by its password, else a new one with that password. Either identity_id or refusal, the body of an answer.';

create function loyalty.register_family(token text, birth_date date, password text, terms_version text)
    returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.family := loyalty.family_of_token(register_family.token, 'family_invitation');
    policy loyalty.access_policy := loyalty.access_policy_of(held.program_id);
    wait interval;
    wrong integer;
    proven record;
begin
    perform loyalty.check_family_relation(policy, held.relation);
    if register_family.birth_date is null or register_family.password is null then
        perform loyalty.raise('22004', 'birth_date and password must not be null', null, 'Give both.');
    elsif register_family.terms_version is distinct from policy.terms_version then
        perform loyalty.raise('22023', 'these are not the terms in force',
            format('Version %L is.', policy.terms_version), 'Accept the terms in force: pass terms_version.');
    end if;
    wait := loyalty.begin_attempt('code', held.challenge_id::text);
    if wait is not null then
        return loyalty.refuse_attempt(wait);
    end if;
    if register_family.birth_date <> held.birth_date then
        update loyalty.challenge c
           set failures = c.failures + 1
         where c.challenge_id = held.challenge_id
        returning c.failures into wrong;
        perform loyalty.attempt_failed('code', held.challenge_id::text);
        if wrong >= 5 then
            update loyalty.family f set ended_at = loyalty.now() where f.family_id = held.family_id;
        end if;
        perform loyalty.audit('register_family', held.program_id, null, held.account_id,
            jsonb_build_object('family_id', held.family_id, 'why', 'birth date'), 'refused');
        return loyalty.refuse('LY009', 'the birth date is not that of the invitation',
            format('Tries left: %s.', 5 - wrong), 'Ask the member who invited which day the invitation holds.');
    end if;
    proven := loyalty.prove_identity(policy, held.address, register_family.password);
    if proven.refusal is not null then
        perform loyalty.audit('register_family', held.program_id, null, held.account_id,
            jsonb_build_object('family_id', held.family_id, 'why', 'password'), 'refused');
        return proven.refusal;
    end if;
    perform loyalty.attempt_succeeded('code', held.challenge_id::text);
    insert into loyalty.identity_link as l (identity_id, account_id, program_id, relation, terms_version, linked_at)
    values (proven.identity_id, held.account_id, held.program_id, held.relation, policy.terms_version, loyalty.now())
        on conflict (identity_id, account_id) do update
       set relation = excluded.relation, terms_version = excluded.terms_version, linked_at = excluded.linked_at,
           ended_at = null
     where l.ended_at is not null;
    if not found then
        perform loyalty.raise('LY010', 'the login is linked to the member already', null,
            'A member is not their own family; a person is not family twice.');
    end if;
    perform loyalty.use_challenge(held.challenge_id);
    update loyalty.family f
       set registered_at = loyalty.now(), identity_id = proven.identity_id
     where f.family_id = held.family_id;
    perform loyalty.audit('register_family', held.program_id, proven.identity_id, held.account_id,
        jsonb_build_object('family_id', held.family_id, 'relation', held.relation));
    return loyalty.start_session(proven.identity_id, held.program_id, 'loyalty_family', held.account_id, false);
end
$$;
comment on function loyalty.register_family is
    'The person invited registers by the mailed link (A8), and is signed in: the address becomes the login ID; where it is one already, its password is asked for. LY009 for a wrong birth date, five of which end the invitation, and for a link that is not good; 22023 for a password or terms that cannot be.';

create function loyalty.remove_family(account_id bigint, family_id bigint) returns jsonb
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
        perform loyalty.audit('remove_family', held.program_id, held.identity_id, held.account_id,
            jsonb_build_object('family_id', held.family_id));
    end if;
    return jsonb_build_object('family_id', held.family_id, 'relation', held.relation, 'name', held.name,
        'state', loyalty.family_state(held.expires_at, held.approved_at, held.registered_at, held.ended_at));
end
$$;
comment on function loyalty.remove_family is
    'Takes an invitation back, or removes who registered by it: their sessions end at once. Again, it answers the same and changes nothing. LY002.';

create function loyalty.family_account_id() returns bigint
    language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select l.account_id
          from loyalty.identity_link l
          join loyalty.identity i on i.identity_id = l.identity_id and i.state = 'active'
          join loyalty.wallet w on w.account_id = l.account_id and w.status <> 'closed'
          join loyalty.access_policy p on p.program_id = l.program_id
         where l.identity_id = loyalty.claim_identity_id()
           and l.account_id = loyalty.claim_account_id()
           and l.program_id = loyalty.claim_program_id()
           and l.relation <> 'self'
           and l.ended_at is null
           and loyalty.admits_family(p, l.relation));
end
$$;
comment on function loyalty.family_account_id is
    'The account of the member whose family the token''s person is, for as long as that holds and the program lets family in; else null.';

create function loyalty.is_key_used(account_id bigint, idempotency_key text) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select exists (
        select from loyalty.entry e
         where e.account_id = is_key_used.account_id
           and hashtextextended(e.idempotency_key, 0) = hashtextextended(is_key_used.idempotency_key, 0)
           and e.idempotency_key = is_key_used.idempotency_key);
end;
comment on function loyalty.is_key_used is
    'Whether an idempotency key of the account has its operation already, so that a call with it books nothing new.';

create function loyalty.spend_as_family(
    identity_id bigint,
    account_id bigint,
    points bigint,
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    policy loyalty.access_policy;
    kin record;
    was_used boolean;
    receipt loyalty.receipt;
    spent numeric;
begin
    -- spends of one person come one after the other: what is counted is what there is
    select l.program_id, l.relation, date_trunc('month', timezone(p.time_zone, loyalty.now()))::date as month into kin
      from loyalty.identity_link l
      join loyalty.program p on p.program_id = l.program_id
     where l.identity_id = spend_as_family.identity_id and l.account_id = spend_as_family.account_id
       and l.relation <> 'self' and l.ended_at is null
       for no key update of l;
    if found then
        policy := loyalty.access_policy_of(kin.program_id);
    end if;
    if not coalesce(loyalty.admits_family(policy, kin.relation) and policy.family_access = 'spend', false) then
        perform loyalty.raise('LY010', 'family may not spend these points', null,
            'The program decides whether family sees or also spends a member''s points.');
    end if;
    was_used := loyalty.is_key_used(spend_as_family.account_id, spend_as_family.idempotency_key);
    receipt := loyalty.spend_fifo(
        spend_as_family.account_id, spend_as_family.points, spend_as_family.reason, spend_as_family.idempotency_key);
    if was_used then
        if not exists (
               select from loyalty.family_spend s
                where s.account_id = receipt.account_id and s.operation_id = receipt.operation_id
                  and s.identity_id = spend_as_family.identity_id) then
            perform loyalty.raise('LY003', 'the idempotency key was used for another request',
                'Somebody else''s.', 'Use a new key.');
        end if;
        return receipt;
    end if;
    insert into loyalty.family_spend (account_id, operation_id, identity_id, month, points)
    values (receipt.account_id, receipt.operation_id, spend_as_family.identity_id, kin.month, receipt.points)
        on conflict do nothing;
    select sum(s.points) into spent
      from loyalty.family_spend s
     where s.account_id = receipt.account_id and s.identity_id = spend_as_family.identity_id
       and s.month = kin.month;
    if spent > policy.family_monthly_limit then
        perform loyalty.raise('LY010', 'over the monthly limit for family',
            format('Limit %s, spent before %s, asked for %s.', policy.family_monthly_limit, spent - receipt.points,
                receipt.points),
            'Spend less, or wait for the next month.');
    end if;
    return receipt;
end
$$;
comment on function loyalty.spend_as_family is
    'Spends a member''s points for one of the family, up to the program''s limit in a month of its time zone; a repeated key counts once. LY010 when it may not or the limit is passed; else as loyalty.spend_fifo.';
-- People who run a program (P12): who may grant, who administers, and what a granter may give away
-- in a month.

create table loyalty.program_role (
    role_id bigint generated always as identity primary key,
    program_id integer references loyalty.program,
    role text not null
        constraint program_role_is_known check (role in ('granter', 'admin', 'operator')),
    identity_id bigint references loyalty.identity,
    login_id text not null
        constraint program_role_login_id_is_clean check (login_id = loyalty.clean_login_id(login_id)),
    monthly_budget bigint
        constraint program_role_budget_is_not_negative check (monthly_budget >= 0),
    challenge_id uuid,
    given_at timestamptz not null,
    given_by text not null,
    accepted_at timestamptz,
    taken_at timestamptz,
    taken_by text,
    constraint program_role_operator_is_of_no_program check ((role = 'operator') = (program_id is null)),
    constraint program_role_budget_is_a_granters check (monthly_budget is null or role = 'granter'),
    constraint program_role_is_accepted_by_somebody check ((identity_id is null) = (accepted_at is null)),
    constraint program_role_is_taken_by_somebody check ((taken_at is null) = (taken_by is null))
);
create unique index program_role_is_had_once on loyalty.program_role (identity_id, program_id, role)
    nulls not distinct where identity_id is not null and taken_at is null;
create unique index program_role_is_offered_once on loyalty.program_role (program_id, role, login_id)
    where identity_id is null and taken_at is null;
create unique index program_role_by_challenge on loyalty.program_role (challenge_id);
create index program_role_by_program on loyalty.program_role (program_id, role) where taken_at is null;

comment on table loyalty.program_role is
    'Who grants, administers or operates: given, offered to who has no login yet, and taken; rows stay.';
comment on column loyalty.program_role.role_id is 'Number of the giving.';
comment on column loyalty.program_role.program_id is 'The program; null for an operator, who has all.';
comment on column loyalty.program_role.role is 'granter, admin or operator.';
comment on column loyalty.program_role.identity_id is 'Who has it; null while it is an offer.';
comment on column loyalty.program_role.login_id is 'The login ID that it was given to.';
comment on column loyalty.program_role.monthly_budget is
    'Points that a granter may grant in a month of the program''s time zone; null for no limit.';
comment on column loyalty.program_role.challenge_id is 'The challenge in the mail of the offer.';
comment on column loyalty.program_role.given_at is 'When it was given or offered.';
comment on column loyalty.program_role.given_by is 'Who gave it.';
comment on column loyalty.program_role.accepted_at is 'Since when the person has it; null while it is an offer.';
comment on column loyalty.program_role.taken_at is 'When it was taken away; null while it holds.';
comment on column loyalty.program_role.taken_by is 'Who took it.';

create table loyalty.granter_grant (
    account_id bigint not null references loyalty.account,
    operation_id bigint not null,
    identity_id bigint not null references loyalty.identity,
    program_id integer not null references loyalty.program,
    month date not null,
    points bigint not null,
    primary key (account_id, operation_id)
);
create index granter_grant_by_month on loyalty.granter_grant (identity_id, program_id, month);
comment on table loyalty.granter_grant is 'What granters gave away over HTTP, each operation counted once.';
comment on column loyalty.granter_grant.account_id is 'Who got the points.';
comment on column loyalty.granter_grant.operation_id is 'The grant.';
comment on column loyalty.granter_grant.identity_id is 'The granter.';
comment on column loyalty.granter_grant.program_id is 'Program of the account.';
comment on column loyalty.granter_grant.month is 'First day of the grant''s month, in the program''s time zone.';
comment on column loyalty.granter_grant.points is 'How many points.';

-- Roles

create function loyalty.role_of(identity_id bigint, program_id integer, role text) returns boolean
    language sql stable security definer set search_path = pg_catalog, pg_temp
    return exists (
        select from loyalty.program_role r
         where r.identity_id = role_of.identity_id
           and r.role = role_of.role
           and (r.role = 'operator' or r.program_id = role_of.program_id)
           and r.taken_at is null);
comment on function loyalty.role_of is
    'Whether a person is granter or admin of a program, or operator (of all, program_id does not matter).';

create function loyalty.role_state(accepted_at timestamptz, taken_at timestamptz) returns text
    language sql immutable parallel safe
    return case when taken_at is not null then 'taken' when accepted_at is null then 'offered' else 'held' end;
comment on function loyalty.role_state is 'Whether a role is held, offered, or was taken.';

create function loyalty.role_answer(given loyalty.program_role) returns jsonb
    language sql stable set search_path = pg_catalog, pg_temp
    return jsonb_build_object('role_id', given.role_id,
        'program', (select p.code from loyalty.program p where p.program_id = given.program_id),
        'role', given.role, 'login_id', given.login_id, 'monthly_budget', given.monthly_budget,
        'state', loyalty.role_state(given.accepted_at, given.taken_at));
comment on function loyalty.role_answer is 'A role as give_role and take_role answer it.';

create function loyalty.give_role(program text, login_id text, role text, monthly_budget bigint default null)
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
    -- given again, the budget changes and nothing else
    update loyalty.program_role r
       set monthly_budget = give_role.monthly_budget
     where r.program_id is not distinct from within
       and r.role = give_role.role
       and r.taken_at is null
       and (r.identity_id = person or r.identity_id is null and r.login_id = reached and person is null)
    returning r.* into given;
    if given.role_id is null and person is not null then
        insert into loyalty.program_role
               (program_id, role, identity_id, login_id, monthly_budget, given_at, given_by, accepted_at)
        values (within, give_role.role, person, reached, give_role.monthly_budget, loyalty.now(), loyalty.actor(),
                loyalty.now())
        returning * into given;
    elsif given.role_id is null then
        if within is null then
            perform loyalty.raise('LY002', 'no such login', null, 'An operator has a login before the role.');
        end if;
        perform loyalty.access_policy_of(within);
        insert into loyalty.program_role (program_id, role, login_id, monthly_budget, given_at, given_by)
        values (within, give_role.role, reached, give_role.monthly_budget, loyalty.now(), loyalty.actor())
        returning * into given;
    end if;
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
comment on function loyalty.give_role is
    'Makes a person granter or admin of a program, or operator. Who has no login in the program yet is mailed an offer, good for 7 days. Given again it changes a granter''s budget and sends an open offer anew. {role_id, program, role, login_id, monthly_budget, state}; 22023, LY002.';

create function loyalty.accept_invitation(token text, password text) returns jsonb
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
    if loyalty.role_of(proven.identity_id, offered.program_id, offered.role) then
        perform loyalty.raise('LY010', 'the login has this role already', null, 'Log in.');
    end if;
    perform loyalty.use_challenge(offered.challenge_id);
    update loyalty.program_role r
       set identity_id = proven.identity_id, accepted_at = loyalty.now()
     where r.role_id = offered.role_id;
    perform loyalty.audit('accept_invitation', offered.program_id, proven.identity_id, null,
        jsonb_build_object('role_id', offered.role_id, 'role', offered.role));
    return loyalty.start_session(proven.identity_id, offered.program_id, 'loyalty_' || offered.role, null, false);
end
$$;
comment on function loyalty.accept_invitation is
    'Accepts a role by the mailed link, and signs the person in: the address becomes the login ID with that password; where it is one already, its password is asked for. LY009 for a link that is not good or a wrong password, 22023 for a password that cannot be.';

create function loyalty.take_role(role_id bigint) returns jsonb
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
        if held.role <> 'granter' and held.identity_id = loyalty.claim_identity_id() and not exists (
               select from loyalty.program_role r
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
comment on function loyalty.take_role is
    'Takes a role, or the offer of one, away: the sessions in it end at once. Again, it answers the same and changes nothing. LY002; LY010 for who is the last administrator or operator and would take their own.';

create function loyalty.login_id_in_role(role_id bigint) returns text
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(i.login_id, r.login_id)
          from loyalty.program_role r
          left join loyalty.identity i on i.identity_id = r.identity_id
         where r.role_id = login_id_in_role.role_id
           and (pg_has_role(loyalty.api_role(), 'loyalty_operator', 'member')
                or loyalty.api_role() = 'loyalty_admin' and r.program_id = loyalty.claim_program_id()));
end
$$;
comment on function loyalty.login_id_in_role is
    'The login ID of who has a role, as it is now, for an administrator of the program; null for others.';

-- Granting over HTTP: budgets and what takes two

create function loyalty.hold_budget(program_id integer) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    person bigint := loyalty.claim_identity_id();
    budget bigint;
begin
    if loyalty.api_role() <> 'loyalty_granter' or person is null then
        return;
    end if;
    select r.monthly_budget into budget
      from loyalty.program_role r
     where r.identity_id = person and r.program_id = hold_budget.program_id
       and r.role = 'granter' and r.taken_at is null;
    if not found then
        perform loyalty.raise('LY010', 'no longer a granter of the program', null, 'Ask an administrator for the role.');
    elsif budget is not null then
        perform 1
           from loyalty.program_role r
          where r.identity_id = person and r.program_id = hold_budget.program_id
            and r.role = 'granter' and r.taken_at is null
            for no key update;
    end if;
end
$$;
comment on function loyalty.hold_budget is
    'Before a granter''s grants: whether the person still is one; has calls of one with a budget come one after the other.';

create function loyalty.count_grants(program_id integer, operation_ids bigint[]) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    person bigint := loyalty.claim_identity_id();
    this_month date;
    budget bigint;
    granted numeric;
    newly numeric;
begin
    if loyalty.api_role() <> 'loyalty_granter' or person is null then
        return;
    end if;
    select date_trunc('month', timezone(p.time_zone, loyalty.now()))::date into this_month
      from loyalty.program p
     where p.program_id = count_grants.program_id;
    -- a key may have found somebody else's grant
    with counted as (
        insert into loyalty.granter_grant (account_id, operation_id, identity_id, program_id, month, points)
        select e.account_id, o.operation_id, person, p.program_id,
               date_trunc('month', timezone(p.time_zone, e.occurred_at))::date, e.points
          from unnest(operation_ids) o (operation_id)
          join loyalty.entry e
            on e.account_id = o.operation_id >> 24 and e.entry = (o.operation_id & 16777215)::integer
           and e.actor = loyalty.actor()
          join loyalty.program p on p.program_id = count_grants.program_id
            on conflict do nothing
        returning points)
    select sum(c.points) into newly from counted c;
    select r.monthly_budget into budget
      from loyalty.program_role r
     where r.identity_id = person and r.program_id = count_grants.program_id
       and r.role = 'granter' and r.taken_at is null;
    if newly is null or budget is null then
        return;
    end if;
    select sum(g.points) into granted
      from loyalty.granter_grant g
     where g.identity_id = person and g.program_id = count_grants.program_id and g.month = this_month;
    if granted > budget then
        perform loyalty.raise('LY010', 'over the monthly budget',
            format('Budget %s, granted before %s, asked for %s.', budget, granted - newly, newly),
            'Grant less, wait for the next month, or ask an administrator.');
    end if;
end
$$;
comment on function loyalty.count_grants is
    'After a granter''s grants: counts those not counted before to their month, and refuses what passes the budget with LY010, which undoes them.';

create function loyalty.check_approval(program_id integer, points bigint) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    above bigint := (select p.approval_above from loyalty.access_policy p where p.program_id = check_approval.program_id);
begin
    if check_approval.points > above then
        perform loyalty.raise('LY010', 'so many points take two administrators',
            format('%s asked for; one may grant up to %s.', check_approval.points, above),
            'One administrator proposes it with /rpc/propose_grant, another approves it with /rpc/approve_grant.');
    end if;
end
$$;
comment on function loyalty.check_approval is 'Refuses a grant of more points than one person may give in the program with LY010.';

create function loyalty.check_limit_change(program text, approval_above bigint, clear text[]) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if loyalty.api_role() = 'loyalty_admin' and exists (
           select from loyalty.access_policy p
            where p.program_id = loyalty.program_id(check_limit_change.program)
              and (p.approval_above < check_limit_change.approval_above
                   or p.approval_above is not null and 'approval_above' = any (check_limit_change.clear))) then
        perform loyalty.raise('LY010', 'one administrator does not lift the limit of one', null,
            'An operator raises or clears approval_above; administrators lower it.');
    end if;
end
$$;
comment on function loyalty.check_limit_change is
    'Keeps an administrator from raising or clearing approval_above over HTTP, which would make two of one.';

create function loyalty.audit_operation(action text, receipt loyalty.receipt) returns loyalty.receipt
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    -- what members and their family do, the journal tells
    if loyalty.api_role() not in ('loyalty_member', 'loyalty_family') then
        perform loyalty.audit(audit_operation.action,
            (select a.program_id from loyalty.account a where a.account_id = receipt.account_id), null,
            receipt.account_id, jsonb_build_object('operation_id', receipt.operation_id, 'points', receipt.points));
    end if;
    return receipt;
end
$$;
comment on function loyalty.audit_operation is 'A receipt, once the audit has that a granter or administrator asked for it.';

create function loyalty.account_program_id(account_id bigint) returns integer
    language sql stable set search_path = pg_catalog, pg_temp
    return (select a.program_id from loyalty.account a where a.account_id = account_program_id.account_id);
comment on function loyalty.account_program_id is 'Program of an account.';

create function loyalty.end_grant(action text, receipt loyalty.receipt, was_used boolean) returns loyalty.receipt
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    program integer := loyalty.account_program_id(receipt.account_id);
begin
    if not was_used then
        perform loyalty.check_approval(program, receipt.points);
    end if;
    perform loyalty.count_grants(program, array[receipt.operation_id]);
    return loyalty.audit_operation(action, receipt);
end
$$;
comment on function loyalty.end_grant is
    'After a grant over HTTP: whether one person may give so much (asked of new ones only: a key keeps its answer), the granter''s budget, the audit.';

create function loyalty.items_used(program_id integer, items jsonb) returns bigint[]
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if not exists (
           select from loyalty.access_policy p
            where p.approval_above is not null
              and (p.program_id = items_used.program_id or items_used.program_id is null)) then
        return '{}'::bigint[];
    end if;
    return array(
        select (e.account_id << 24) | e.entry
          from jsonb_array_elements(case jsonb_typeof(items) when 'array' then items else '[]' end) i (item)
          join loyalty.entry e
            on e.account_id = case when i.item ->> 'account_id' ~ '^[0-9]{1,18}$' then (i.item ->> 'account_id')::bigint end
           and hashtextextended(e.idempotency_key, 0) = hashtextextended(i.item ->> 'idempotency_key', 0)
           and e.idempotency_key = i.item ->> 'idempotency_key');
end
$$;
comment on function loyalty.items_used is
    'Of items for grant_many, the operations that their keys have already; none where no program asks for two administrators.';

create function loyalty.end_grants(program_id integer, operation_ids bigint[], used bigint[], items bigint)
    returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    booked record;
begin
    select sum(e.points) as points,
           (array_agg(a.program_id) filter (where e.points > p.approval_above
               and not o.operation_id = any (end_grants.used)))[1] as above_in,
           max(e.points) filter (where e.points > p.approval_above
               and not o.operation_id = any (end_grants.used)) as above
      into booked
      from unnest(operation_ids) o (operation_id)
      join loyalty.entry e
        on e.account_id = o.operation_id >> 24 and e.entry = (o.operation_id & 16777215)::integer
      join loyalty.account a on a.account_id = e.account_id
      left join loyalty.access_policy p on p.program_id = a.program_id;
    if booked.above is not null then
        perform loyalty.check_approval(booked.above_in, booked.above);
    end if;
    perform loyalty.count_grants(end_grants.program_id, operation_ids);
    perform loyalty.audit('grant_many', end_grants.program_id, details => jsonb_build_object('items', items,
        'granted', coalesce(cardinality(operation_ids), 0), 'points', booked.points));
end
$$;
comment on function loyalty.end_grants is 'end_grant for what grant_many booked.';
-- Grants that take two administrators (P12): one proposes, another approves.

create table loyalty.grant_proposal (
    proposal_id bigint generated always as identity primary key,
    account_id bigint not null references loyalty.account,
    program_id integer not null references loyalty.program,
    points bigint not null
        constraint grant_proposal_points_are_positive check (points > 0),
    reason text
        constraint grant_proposal_reason_is_short check (char_length(reason) <= 1000),
    granted_on date,
    expires_on date,
    proposed_at timestamptz not null,
    proposed_by text not null,
    decided_at timestamptz,
    decided_by text,
    operation_id bigint,
    decision_reason text
        constraint grant_proposal_decision_reason_is_short check (char_length(decision_reason) <= 1000),
    constraint grant_proposal_is_decided_by_somebody check ((decided_at is null) = (decided_by is null)),
    constraint grant_proposal_grants_once_decided check (operation_id is null or decided_at is not null),
    constraint grant_proposal_takes_two check (operation_id is null or decided_by <> proposed_by)
);
create index grant_proposal_by_program on loyalty.grant_proposal (program_id, proposal_id);
comment on table loyalty.grant_proposal is 'Grants that one administrator proposed and another approves.';
comment on column loyalty.grant_proposal.proposal_id is 'Number of the proposal; its grant has the idempotency key proposal/<number>.';
comment on column loyalty.grant_proposal.account_id is 'Who is to get the points.';
comment on column loyalty.grant_proposal.program_id is 'Program of the account.';
comment on column loyalty.grant_proposal.points is 'How many points.';
comment on column loyalty.grant_proposal.reason is 'Why, in the proposer''s words: the grant''s reason.';
comment on column loyalty.grant_proposal.granted_on is 'The day that counts for their terms; null for the day of the approval.';
comment on column loyalty.grant_proposal.expires_on is 'Last day they can be spent; null goes by the program''s policy.';
comment on column loyalty.grant_proposal.proposed_at is 'When it was proposed.';
comment on column loyalty.grant_proposal.proposed_by is 'Who proposed it: the subject of the token, or the database user.';
comment on column loyalty.grant_proposal.decided_at is 'When it was approved or rejected; null while it is open.';
comment on column loyalty.grant_proposal.decided_by is 'Who did, written as proposed_by.';
comment on column loyalty.grant_proposal.operation_id is 'The grant; null when it was rejected or is open.';
comment on column loyalty.grant_proposal.decision_reason is 'Why it was rejected.';

create function loyalty.person() returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    person text := coalesce(loyalty.claim('sub'), case when loyalty.claim('role') is null then 'database:' || session_user end);
begin
    if person is null then
        perform loyalty.raise('LY010', 'the token names no person', 'It has no claim sub.', 'Log in, and ask again.');
    end if;
    return person;
end
$$;
comment on function loyalty.person is
    'Who asks, whatever the role: the subject of the token, else the database user; LY010 for a token without one.';

create function loyalty.proposal_state(decided_at timestamptz, operation_id bigint) returns text
    language sql immutable parallel safe
    return case when decided_at is null then 'open' when operation_id is null then 'rejected' else 'approved' end;
comment on function loyalty.proposal_state is 'Whether a proposal is open, approved or rejected.';

create function loyalty.propose_grant(
    account_id bigint,
    points bigint,
    reason text default null,
    granted_on date default null,
    expires_on date default null
) returns loyalty.grant_proposal
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within record;
    made loyalty.grant_proposal;
begin
    select a.program_id, loyalty.today(p.code) as today into within
      from loyalty.account a
      join loyalty.program p on p.program_id = a.program_id
     where a.account_id = propose_grant.account_id;
    if not found then
        perform loyalty.raise('LY002', 'no such account',
            format('Account %s does not exist.', coalesce(propose_grant.account_id::text, 'null')),
            'loyalty.open_account(program, member_no) gives a member''s account.');
    elsif propose_grant.points is null then
        perform loyalty.raise('22004', 'points must not be null', null, 'Say how many.');
    elsif propose_grant.points < 1 then
        perform loyalty.raise('22023', 'points must be above zero', format('%s given.', propose_grant.points),
            'A whole number from 1.');
    elsif propose_grant.granted_on > within.today then
        perform loyalty.raise('22023', 'granted_on is in the future',
            format('%s given; today is %s.', propose_grant.granted_on, within.today), 'Leave it out for the day of the approval.');
    elsif propose_grant.expires_on < within.today then
        perform loyalty.raise('22023', 'expires_on has passed',
            format('%s given; today is %s.', propose_grant.expires_on, within.today), 'A day from today on.');
    elsif char_length(propose_grant.reason) > 1000 then
        perform loyalty.raise('22023', 'the reason is too long', format('%s characters.', char_length(propose_grant.reason)),
            'Up to 1,000 characters.');
    end if;
    insert into loyalty.grant_proposal
           (account_id, program_id, points, reason, granted_on, expires_on, proposed_at, proposed_by)
    values (propose_grant.account_id, within.program_id, propose_grant.points, propose_grant.reason,
            propose_grant.granted_on, propose_grant.expires_on, loyalty.now(), loyalty.person())
    returning * into made;
    perform loyalty.audit('propose_grant', made.program_id, null, made.account_id,
        jsonb_build_object('proposal_id', made.proposal_id, 'points', made.points));
    return made;
end
$$;
comment on function loyalty.propose_grant is
    'Proposes a grant, for another administrator to approve; grants nothing yet. LY002, 22004, 22023; LY010 for a token without subject.';

create function loyalty.open_proposal(proposal_id bigint) returns loyalty.grant_proposal
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.grant_proposal;
begin
    select p.* into held
      from loyalty.grant_proposal p
     where p.proposal_id = open_proposal.proposal_id
       for update;
    if not found then
        perform loyalty.raise('LY002', 'no such proposal',
            format('%s given.', coalesce(open_proposal.proposal_id::text, 'null')), '/grant_proposal lists them.');
    elsif held.decided_at is not null then
        perform loyalty.raise('LY006', 'the proposal is no longer open',
            format('It was %s.', loyalty.proposal_state(held.decided_at, held.operation_id)), 'Propose it anew.');
    end if;
    return held;
end
$$;
comment on function loyalty.open_proposal is
    'A proposal, held until the end of the transaction; LY002 when there is none, LY006 once it was decided.';

create function loyalty.approve_grant(proposal_id bigint) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.grant_proposal := loyalty.open_proposal(approve_grant.proposal_id);
    approver text := loyalty.person();
    receipt loyalty.receipt;
begin
    if approver = held.proposed_by then
        perform loyalty.raise('LY010', 'who proposes a grant does not approve it', null,
            'Another administrator approves or rejects it.');
    end if;
    receipt := loyalty.grant(
        account_id => held.account_id, points => held.points, reason => held.reason,
        granted_on => held.granted_on, expires_on => held.expires_on,
        idempotency_key => 'proposal/' || held.proposal_id);
    update loyalty.grant_proposal p
       set decided_at = loyalty.now(), decided_by = approver, operation_id = receipt.operation_id
     where p.proposal_id = held.proposal_id;
    perform loyalty.audit('approve_grant', held.program_id, null, held.account_id,
        jsonb_build_object('proposal_id', held.proposal_id, 'operation_id', receipt.operation_id,
            'points', receipt.points, 'proposed_by', held.proposed_by));
    return receipt;
end
$$;
comment on function loyalty.approve_grant is
    'Approves a proposal and grants, once: by another person than who proposed it, else LY010. The grant''s idempotency key is proposal/<number>. LY002; LY006 once it was decided; else as loyalty.grant.';

create function loyalty.reject_grant(proposal_id bigint, reason text default null) returns loyalty.grant_proposal
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.grant_proposal := loyalty.open_proposal(reject_grant.proposal_id);
begin
    if char_length(reject_grant.reason) > 1000 then
        perform loyalty.raise('22023', 'the reason is too long', format('%s characters.', char_length(reject_grant.reason)),
            'Up to 1,000 characters.');
    end if;
    update loyalty.grant_proposal p
       set decided_at = loyalty.now(), decided_by = loyalty.person(), decision_reason = reject_grant.reason
     where p.proposal_id = held.proposal_id
    returning p.* into held;
    perform loyalty.audit('reject_grant', held.program_id, null, held.account_id,
        jsonb_build_object('proposal_id', held.proposal_id));
    return held;
end
$$;
comment on function loyalty.reject_grant is
    'Rejects a proposal, also one''s own; nothing is granted. LY002; LY006 once it was decided.';
-- HTTP: who asks, and what the functions that PostgREST exposes begin with. They look at who asks,
-- and leave the rest to the functions of schema loyalty.

create function loyalty.claim(name text) returns text
    language c stable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_claim';
comment on function loyalty.claim is 'A claim of the request''s token; null without one.';

create function loyalty.claim_account_id() returns bigint
    language c stable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_claim_account_id';
comment on function loyalty.claim_account_id is 'The account of the member that the token is for.';

create function loyalty.claim_program_id() returns integer
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_claim_program_id';
comment on function loyalty.claim_program_id is 'The program that the token is for.';

create function loyalty.api_role() returns text
    language c stable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_api_role';
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

create function loyalty.api_admin_program(program text default null) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp
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
    return (select p.code from loyalty.program p where p.program_id = wanted);
end
$$;
comment on function loyalty.api_admin_program is
    'Code of the program that an administrator''s request is about; LY010 for who is none.';

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
    elsif asking = 'loyalty_family' then
        -- it may have ended, or the program have changed its mind, since the token was made
        if loyalty.family_account_id() is null then
            perform loyalty.raise('LY010', 'not allowed', 'The token is for no family of a member.',
                'Ask the member, or the program.');
        elsif account_id <> loyalty.family_account_id() then
            perform loyalty.raise('LY010', 'not allowed', 'The token is for another member''s family.',
                'Leave account_id out.');
        end if;
        return loyalty.family_account_id();
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

create function loyalty.is_open_call(function_name text) returns boolean
    language sql immutable parallel safe
    return function_name = any (array[
        -- login and recovery
        'log_in', 'refresh', 'request_password_reset', 'reset_password', 'request_unlock', 'unlock',
        'apply_for_login', 'accept_login',
        -- registration
        'begin_registration', 'choose_login', 'resend_code', 'verify_code', 'log_in_to_link', 'confirm_registration',
        'confirm_login_change',
        -- families and staff
        'approve_family', 'register_family', 'accept_invitation']);
comment on function loyalty.is_open_call is
    'Whether anybody may call a function of loyalty_api, also without a token. Such a function looks at service hours itself.';

create function loyalty.believed_claims() returns jsonb
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    claims jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
    ours json;
begin
    if claims is null or not exists (select from loyalty.identity_provider) then
        return null;
    elsif loyalty.api_role() = 'loyalty_anon' and claims -> 'iss' is null then
        return null;
    end if;
    -- PostgREST believes each key of its set for each claim. Only a token signed with a key of
    -- ours may claim rights; it is read again since the one checked need not be the one shown.
    ours := loyalty.own_claims(split_part(
        nullif(current_setting('request.headers', true), '')::json ->> 'authorization', ' ', 2));
    if (ours ->> 'role', ours ->> 'program', ours ->> 'account_id', ours ->> 'sub', ours ->> 'sid')
       is not distinct from
       (claims ->> 'role', claims ->> 'program', claims ->> 'account_id', claims ->> 'sub', claims ->> 'sid') then
        return null;
    end if;
    return loyalty.provider_claims(claims);
end
$$;
comment on function loyalty.believed_claims is
    'For pre_request: the claims that an outside provider''s token stands for; null for a token of our own, or none. LY009, LY010.';

create function loyalty.check_request() returns void
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    asking text := loyalty.api_role();
    path text := current_setting('request.path', true);
    reads boolean := current_setting('request.method', true) in ('GET', 'HEAD');
    is_open boolean := path like '/rpc/%' and loyalty.is_open_call(substr(path, 6));
begin
    -- the OpenAPI page is for everybody
    if path = '/' then
        return;
    end if;
    if is_open then
        -- an attempt that is rolled back would not count
        if nullif(current_setting('request.headers', true), '')::json ->> 'prefer' ~* 'tx\s*=\s*rollback' then
            perform loyalty.raise('22023', 'this call cannot be rolled back', null, 'Leave Prefer: tx=rollback out.');
        end if;
    elsif asking = 'loyalty_anon' then
        perform loyalty.api_refuse(null);
    else
        if loyalty.claim('sid') is not null and not loyalty.is_live_session(loyalty.claim('sid'), asking) then
            perform loyalty.raise('LY009', 'the login is over', null, 'Log in again.');
        end if;
        -- an operator works also while a program is closed
        if asking <> 'loyalty_operator' then
            perform loyalty.check_service_hours(loyalty.claim_program_id());
        end if;
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
    elsif asking in ('loyalty_member', 'loyalty_family') then
        perform loyalty.api_account(null, array[asking]);
    elsif asking <> 'loyalty_operator' then
        perform loyalty.api_program();
    end if;
end
$$;
comment on function loyalty.check_request is
    'For pre_request: refuses what may not be asked, with LY009, LY010 or 405 and a hint, where PostgREST alone would give none.';

-- As who calls: a definer's function may not become another role.
create function loyalty.look_at_request() returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    believed jsonb := loyalty.believed_claims();
begin
    if believed is not null then
        -- whatever role the provider's token claims, it is this one
        perform set_config('request.jwt.claims', believed::text, true),
                set_config('role', believed ->> 'role', true);
    end if;
    perform loyalty.check_request();
end
$$;
comment on function loyalty.look_at_request is
    'For pre_request: looks at a request that is not the usual one of a member, whose session, program and account it has found to be well.';

create function loyalty.pre_request() returns void
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_pre_request';
comment on function loyalty.pre_request is
    'For PostgREST''s db-pre-request: takes tokens of outside identity providers for the member they are linked to, and refuses what may not be asked, with LY009, LY010 or 405 and a hint, where PostgREST alone would give none.';

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
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_api_may_read';
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
-- The ledger over HTTP: what each role sees of it, and the operations.

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
    account_id := loyalty.api_account(account_id, '{loyalty_member,loyalty_family,loyalty_admin,loyalty_operator}');
    if loyalty.api_role() = 'loyalty_family' then
        return loyalty.spend_as_family(loyalty.claim_identity_id(), account_id, loyalty.api_points(points), reason,
            loyalty.api_key(idempotency_key));
    end if;
    return loyalty.audit_operation('spend', loyalty.spend_fifo(
        account_id, loyalty.api_points(points), reason, loyalty.api_key(idempotency_key)));
end
$$;
comment on function loyalty_api.spend(numeric, text, text, bigint) is
$$Spend points

Takes points, soonest expiry first, and answers with a receipt. 402 LY001 when not so many are available. Family spends a member's points where the program lets them, up to a limit in a month: 403 LY010 beyond it.

- `points`: how many, a whole number from 1.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.
- `account_id`: whose points. Members and family leave it out; administrators must give it.$$;

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
    return loyalty.audit_operation('hold', loyalty.hold(
        loyalty.api_account(account_id, '{loyalty_member,loyalty_admin,loyalty_operator}'),
        loyalty.api_points(points), expires_in, reason, loyalty.api_key(idempotency_key)));
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
    return loyalty.audit_operation('capture', loyalty.capture(
        account_id, operation_id, loyalty.api_points(points), reason, loyalty.api_key(idempotency_key)));
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
    return loyalty.audit_operation('release', loyalty.release(
        account_id, operation_id, reason, loyalty.api_key(idempotency_key)));
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
    return loyalty.audit_operation('refund', loyalty.refund(
        loyalty.api_account(account_id, '{loyalty_admin,loyalty_operator}'),
        operation_id, loyalty.api_points(points), reason, loyalty.api_key(idempotency_key)));
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
    return loyalty.audit_operation('revoke', loyalty.revoke(
        loyalty.api_account(account_id, '{loyalty_admin,loyalty_operator}'),
        operation_id, loyalty.api_points(points), policy, reason, loyalty.api_key(idempotency_key)));
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
    return loyalty.audit_operation('transfer', loyalty.transfer(
        account_id, to_account, loyalty.api_points(points), reason, loyalty.api_key(idempotency_key)));
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
declare
    key text;
    was_used boolean;
begin
    account_id := loyalty.api_account(account_id, '{loyalty_granter,loyalty_admin,loyalty_operator}');
    key := loyalty.api_key(idempotency_key);
    perform loyalty.hold_budget(loyalty.account_program_id(account_id));
    was_used := loyalty.is_key_used(account_id, key);
    return loyalty.end_grant('grant', loyalty.grant(
        account_id, loyalty.api_points(points), reason, loyalty.api_day('granted_on', granted_on),
        loyalty.api_day('expires_on', expires_on), key), was_used);
end
$$;
comment on function loyalty_api.grant(bigint, numeric, text, text, text, text) is
$$Grant points

Gives points to a member and answers with a receipt. 403 LY010 beyond a granter's monthly budget, and for more points than one person may grant in the program: /rpc/propose_grant. Granters and administrators only.

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
#variable_conflict use_column
declare
    within integer;
    used bigint[];
begin
    if loyalty.api_role() <> all ('{loyalty_granter,loyalty_admin,loyalty_operator}') then
        perform loyalty.api_refuse('Ask as a granter or administrator.');
    end if;
    within := loyalty.api_program(grant_many.program);
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
comment on function loyalty_api.grant_many(jsonb, text) is
$$Grant points to many

Up to 10,000 grants in one call. Each item has its own outcome, in order: the fields of a receipt, or error_code and error; the good ones are booked whatever the others do. But 403 LY010, and nothing is booked, when together they pass a granter's monthly budget, or one of them has more points than one person may grant in the program. Granters and administrators only.

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
    within integer;
begin
    if loyalty.api_role() <> all ('{loyalty_admin,loyalty_operator}') then
        perform loyalty.api_refuse('Ask as an administrator.');
    end if;
    within := loyalty.api_program(program);
    perform loyalty.audit('spend_many', within, details => jsonb_build_object('items',
        case jsonb_typeof(items) when 'array' then jsonb_array_length(items) end));
    return query
    select o.*
      from loyalty.spend_items(items::text, within) o;
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
    opened bigint := loyalty.open_account(loyalty.api_admin_program(program), member_no);
begin
    perform loyalty.audit('open_account', loyalty.account_program_id(opened), null, opened);
    return opened;
end
$$;
comment on function loyalty_api.open_account(text, text) is
$$Open an account

Opens a member's account and answers with its account_id; the same one when called again. Administrators only.

- `member_no`: the member's number in the program, up to 100 characters.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
-- Members over HTTP: read, written one by one, loaded as files.

create view loyalty_api.member with (security_invoker = true) as
select m.account_id, a.member_no, p.code as program, m.name, m.kana, m.birth_date, m.email, m.phone,
       m.language, m.facts, m.attributes, m.updated_at
  from loyalty.member m
  join loyalty.account a on a.account_id = m.account_id
  join loyalty.program p on p.program_id = m.program_id;
comment on view loyalty_api.member is
$$Members

Who the members are. A member sees one row, their own; administrators those of their program. Filter (?member_no=eq.…, ?facts->>first_service_on=lt.2020-01-01), page, or take it as CSV (Accept: text/csv). Written by /rpc/set_member and /rpc/import_members.$$;
comment on column loyalty_api.member.account_id is 'The member''s account.';
comment on column loyalty_api.member.member_no is 'The member''s number in the program.';
comment on column loyalty_api.member.program is 'Code of the program.';
comment on column loyalty_api.member.name is 'The name as the person writes it.';
comment on column loyalty_api.member.kana is 'Its reading, in full-width katakana.';
comment on column loyalty_api.member.birth_date is 'Day of birth.';
comment on column loyalty_api.member.email is 'Where mail goes.';
comment on column loyalty_api.member.phone is 'Telephone number in E.164.';
comment on column loyalty_api.member.language is 'Language of what the member is sent.';
comment on column loyalty_api.member.facts is 'Days that rules go by, as an object of name and YYYY-MM-DD.';
comment on column loyalty_api.member.attributes is 'Whatever else the program knows.';
comment on column loyalty_api.member.updated_at is 'When the record last changed.';

create function loyalty_api.set_member(
    member_no text,
    name text default null,
    kana text default null,
    birth_date text default null,
    email text default null,
    phone text default null,
    language text default null,
    facts jsonb default null,
    attributes jsonb default null,
    program text default null
) returns setof loyalty_api.member
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    written loyalty.member;
begin
    written := loyalty.set_member(
        loyalty.api_admin_program(set_member.program), set_member.member_no, set_member.name, set_member.kana,
        loyalty.api_day('birth_date', nullif(set_member.birth_date, '')), set_member.email, set_member.phone,
        set_member.language, set_member.facts, set_member.attributes,
        case when set_member.birth_date = '' then '{birth_date}' else '{}' end::text[]);
    perform loyalty.audit('set_member', written.program_id, null, written.account_id);
    return query select m.* from loyalty_api.member m where m.account_id = written.account_id;
end
$$;
comment on function loyalty_api.set_member(text, text, text, text, text, text, text, jsonb, jsonb, text) is
$$Write a member

Writes a member's record, opens the account with it if there is none, and answers with the record. What is left out stays as it is; an empty text empties it. Administrators only.

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

-- Two arguments without default: a call with the body alone must fit one function only.
create function loyalty_api.import_members(
    csv text,
    all_or_nothing boolean,
    dry_run boolean default false,
    program text default null
) returns table (
    outcome text,
    row_count bigint,
    row_no integer,
    member_no text,
    column_name text,
    reason text
)
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty.audit('import_members', loyalty.program_id(loyalty.api_admin_program($4)),
        details => jsonb_build_object('dry_run', $3));
    select i.outcome, i.row_count, i.row_no, loyalty.csv_cell(i.member_no),
           loyalty.csv_cell(i.column_name), i.reason
      from loyalty.import_members(loyalty.api_admin_program($4), $1, $2, $3) i;
end;
comment on function loyalty_api.import_members(text, boolean, boolean, text) is
$$Load members from CSV

The first row names the columns: member_no, and any of name, kana, birth_date, email, phone, language; a name that ends with _on or _since is a day that rules go by, any other an attribute. Loads the rows that have no problem, and tells each problem by row, member and column. Loading a file again changes nothing. Administrators only.

A file can be the body itself: Content-Type text/plain for UTF-8, application/octet-stream; charset=Shift_JIS for another encoding. Then headers say the rest: All-Or-Nothing: true, Dry-Run: true.

- `csv`: the file's text, up to 64 MB.
- `all_or_nothing`: true to load nothing unless all rows can be, false to load the good rows.
- `dry_run`: true to tell what would happen, and write nothing.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty.api_header(name text) returns text
    language sql stable set search_path = pg_catalog, pg_temp
    return nullif(current_setting('request.headers', true), '')::json ->> lower(name);
comment on function loyalty.api_header is 'A header of the request; null without one.';

create function loyalty.api_flag(name text) returns boolean
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    given text := lower(coalesce(loyalty.api_header(name), 'false'));
begin
    if given not in ('true', 'false') then
        perform loyalty.raise('22023', format('header %s is neither true nor false', name),
            format('%L given.', left(given, 40)), 'Leave it out for false.');
    end if;
    return given = 'true';
end
$$;
comment on function loyalty.api_flag is 'Whether a header of the request is true; false without one.';

create function loyalty_api.import_members(text)
    returns table (
        outcome text,
        row_count bigint,
        row_no integer,
        member_no text,
        column_name text,
        reason text
    )
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty.audit('import_members', loyalty.program_id(loyalty.api_admin_program(loyalty.api_header('Program'))),
        details => jsonb_build_object('dry_run', loyalty.api_flag('Dry-Run')));
    select i.*
      from loyalty_api.import_members(
               $1, loyalty.api_flag('All-Or-Nothing'), loyalty.api_flag('Dry-Run'),
               loyalty.api_header('Program')) i;
end;
comment on function loyalty_api.import_members(text) is
    'The same with the file as the body, in UTF-8 (Content-Type: text/plain).';

create function loyalty_api.import_members(bytea)
    returns table (
        outcome text,
        row_count bigint,
        row_no integer,
        member_no text,
        column_name text,
        reason text
    )
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty.audit('import_members', loyalty.program_id(loyalty.api_admin_program(loyalty.api_header('Program'))),
        details => jsonb_build_object('dry_run', loyalty.api_flag('Dry-Run')));
    select i.outcome, i.row_count, i.row_no, loyalty.csv_cell(i.member_no),
           loyalty.csv_cell(i.column_name), i.reason
      from loyalty.import_members(
               loyalty.api_admin_program(loyalty.api_header('Program')), $1,
               coalesce(substring(loyalty.api_header('Content-Type') from '(?i)charset="?([^;" ]+)'), 'UTF-8'),
               loyalty.api_flag('All-Or-Nothing'), loyalty.api_flag('Dry-Run')) i;
end;
comment on function loyalty_api.import_members(bytea) is
    'The same with the file as the body, in the encoding named (Content-Type: application/octet-stream; charset=Shift_JIS).';

create view loyalty_api.member_upload with (security_invoker = true) as
select u.program, u.member_no, u.name, u.kana, u.birth_date, u.email, u.phone, u.language,
       u.first_service_on, u.contract_since
  from loyalty.member_upload u;
comment on view loyalty_api.member_upload is
$$Members as CSV

For POST with Content-Type: text/csv and the usual columns: all rows are loaded, or none and the error names the rows. /rpc/import_members takes any column and loads the good rows. Holds nothing to read. Administrators only.$$;
comment on column loyalty_api.member_upload.program is 'Code of the program; left out, the token''s.';
comment on column loyalty_api.member_upload.member_no is 'The member''s number in the program.';
comment on column loyalty_api.member_upload.name is 'The name as the person writes it.';
comment on column loyalty_api.member_upload.kana is 'Its reading, in any kana.';
comment on column loyalty_api.member_upload.birth_date is 'Day of birth.';
comment on column loyalty_api.member_upload.email is 'Where mail goes.';
comment on column loyalty_api.member_upload.phone is 'Telephone number.';
comment on column loyalty_api.member_upload.language is 'Language of what the member is sent.';
comment on column loyalty_api.member_upload.first_service_on is 'The fact of that name.';
comment on column loyalty_api.member_upload.contract_since is 'The fact of that name.';
-- Schedules and runs over HTTP, for administrators of the program.

create view loyalty_api.schedule with (security_invoker = true) as
select p.code as program, s.job, s.done_through, s.next_period, s.effective_on, s.due_at, s.is_paused
  from loyalty.schedule s
  join loyalty.program p on p.program_id = s.program_id;
comment on view loyalty_api.schedule is
$$Schedules

The recurring jobs of the program and when each is due next. Administrators only.$$;
comment on column loyalty_api.schedule.program is 'Code of the program.';
comment on column loyalty_api.schedule.job is
    'expire: books points that lapsed; rule:CODE: pays by that rule; notice:balance, notice:expiry: queue mails.';
comment on column loyalty_api.schedule.done_through is 'Periods through this day are done.';
comment on column loyalty_api.schedule.next_period is 'The period to be done next, a nominal day; null when none is to come.';
comment on column loyalty_api.schedule.effective_on is 'The day that counts for it: of a rule, rolled to a business day.';
comment on column loyalty_api.schedule.due_at is 'When it is due.';
comment on column loyalty_api.schedule.is_paused is 'Whether it waits for /rpc/resume_schedule.';

create view loyalty_api.run with (security_invoker = true) as
select r.run_id, p.code as program, r.job, r.period, r.effective_on, r.started_at, r.reopened_at, r.finished_at,
       r.outcome, r.chunks, r.members, r.paid, r.failed, r.queued, r.lots, r.points, r.error, r.note
  from loyalty.run r
  join loyalty.program p on p.program_id = r.program_id;
comment on view loyalty_api.run is
$$Runs

What the schedule did, one row for each job and period. Latest first: ?order=started_at.desc. Those not done yet: ?finished_at=is.null. Administrators only.$$;
comment on column loyalty_api.run.run_id is 'Number of the run.';
comment on column loyalty_api.run.program is 'Code of the program.';
comment on column loyalty_api.run.job is 'What was done, as in /schedule.';
comment on column loyalty_api.run.period is 'The day that it is for; of a rule, the nominal one.';
comment on column loyalty_api.run.effective_on is 'The day that counts, however late the run came.';
comment on column loyalty_api.run.started_at is 'When it began.';
comment on column loyalty_api.run.reopened_at is 'When /rpc/rerun last opened it again.';
comment on column loyalty_api.run.finished_at is 'When it was done; null while it is not.';
comment on column loyalty_api.run.outcome is 'done, or skipped (note says why); null while it runs.';
comment on column loyalty_api.run.chunks is 'Transactions it took.';
comment on column loyalty_api.run.members is 'Members looked at.';
comment on column loyalty_api.run.paid is 'Payments granted.';
comment on column loyalty_api.run.failed is 'Payments refused: see /run_failure.';
comment on column loyalty_api.run.queued is 'Notices queued.';
comment on column loyalty_api.run.lots is 'Lots that lapsed.';
comment on column loyalty_api.run.points is 'Points granted, or lapsed.';
comment on column loyalty_api.run.error is 'What stopped it last; it is tried again each minute.';
comment on column loyalty_api.run.note is 'Why it was skipped.';

create view loyalty_api.run_failure with (security_invoker = true) as
select f.run_id, f.account_id, a.member_no, f.points, f.code, f.message, f.failed_at
  from loyalty.run_failure f
  join loyalty.account a on a.account_id = f.account_id;
comment on view loyalty_api.run_failure is
$$Failed payments

Payments that a run could not make, and why; the others went on. Tried again by /rpc/retry_failures. Administrators only.$$;
comment on column loyalty_api.run_failure.run_id is 'The run.';
comment on column loyalty_api.run_failure.account_id is 'Whose payment.';
comment on column loyalty_api.run_failure.member_no is 'The member''s number in the program.';
comment on column loyalty_api.run_failure.points is 'Points of the payment; null where they could not be worked out.';
comment on column loyalty_api.run_failure.code is 'Code of the error, such as LY004 for a closed account.';
comment on column loyalty_api.run_failure.message is 'What was wrong, in words.';
comment on column loyalty_api.run_failure.failed_at is 'When it last failed.';

-- SQL, not plpgsql, which refuses an argument and a column of the same name
create function loyalty_api.preview(months integer default 24, program text default null)
    returns table (day date, job text, title text, period date, members bigint, points bigint)
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select p.*
      from loyalty.preview(loyalty.api_admin_program($2), $1) p;
end;
comment on function loyalty_api.preview(integer, text) is
$$Preview payments

What the coming months bring, without doing it: for each day and job, how many members are paid how many points in all, by the rules and members of today; and under job expire what lapses unless spent. Administrators only.

- `months`: how far to look, from 1 to 120; 24 when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.rerun(job text, period text, program text default null) returns setof loyalty_api.run
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty.audit('rerun', loyalty.program_id(loyalty.api_admin_program($3)),
        details => jsonb_build_object('job', $1, 'period', $2));
    select r.run_id, p.code, r.job, r.period, r.effective_on, r.started_at, r.reopened_at, r.finished_at,
           r.outcome, r.chunks, r.members, r.paid, r.failed, r.queued, r.lots, r.points, r.error, r.note
      from loyalty.rerun(loyalty.api_admin_program($3), $1, loyalty.api_day('period', $2)) r
      join loyalty.program p on p.program_id = r.program_id;
end;
comment on function loyalty_api.rerun(text, text, text) is
$$Run again

Opens a run again for the next tick, within a minute: pays members who came later or failed, on the terms of the run's own day. Nobody is paid twice. Answers with the run. Administrators only.

- `job`: the job, as in /schedule, such as "rule:anniversary".
- `period`: the nominal day, YYYY-MM-DD, as in /run.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.retry_failures(run_id bigint, program text default null)
    returns table (retried bigint, paid bigint, failed bigint)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    code text := loyalty.api_admin_program(program);
begin
    if not exists (
           select from loyalty.run r
            where r.run_id = retry_failures.run_id and r.program_id = loyalty.program_id(code)) then
        perform loyalty.raise('LY002', 'no such run', format('The program has no run %s.', coalesce(run_id::text, 'null')),
            'The run_id of a run is in /run.');
    end if;
    perform loyalty.audit('retry_failures', loyalty.program_id(code), details => jsonb_build_object('run_id', run_id));
    return query select f.* from loyalty.retry_failures(run_id) f;
end
$$;
comment on function loyalty_api.retry_failures(bigint, text) is
$$Retry failed payments

Tries the payments of /run_failure again, and answers with how many were tried, paid, and are left. Administrators only.

- `run_id`: number of the run.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.pause_schedule(job text default null, program text default null)
    returns setof loyalty_api.schedule
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty.audit('pause_schedule', loyalty.program_id(loyalty.api_admin_program($2)),
        details => jsonb_build_object('job', $1));
    select p.code, s.job, s.done_through, s.next_period, s.effective_on, s.due_at, s.is_paused
      from loyalty.pause_schedule(loyalty.api_admin_program($2), $1) s
      join loyalty.program p on p.program_id = s.program_id
     order by s.job;
end;
comment on function loyalty_api.pause_schedule(text, text) is
$$Pause a job

Nothing of it is done until it is resumed, also when it is in the middle of a run. Answers with the schedule. Administrators only.

- `job`: the job, as in /schedule; all of them when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.resume_schedule(job text default null, program text default null)
    returns setof loyalty_api.schedule
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty.audit('resume_schedule', loyalty.program_id(loyalty.api_admin_program($2)),
        details => jsonb_build_object('job', $1));
    select p.code, s.job, s.done_through, s.next_period, s.effective_on, s.due_at, s.is_paused
      from loyalty.resume_schedule(loyalty.api_admin_program($2), $1) s
      join loyalty.program p on p.program_id = s.program_id
     order by s.job;
end;
comment on function loyalty_api.resume_schedule(text, text) is
$$Resume a job

Ends a pause. What was missed is caught up within minutes, each payment with its own day. Answers with the schedule. Administrators only.

- `job`: the job, as in /schedule; all of them when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
-- Rules and events over HTTP, for administrators of the program; what a member may expect, for members.

create view loyalty_api.rule with (security_invoker = true) as
select p.code as program, r.code, r.version, r.kind, r.title, r.terms, r.valid_from, r.valid_to,
       r.expiry::text as expiry, r.created_at, r.created_by
  from loyalty.rule r
  join loyalty.program p on p.program_id = r.program_id;
comment on view loyalty_api.rule is
$$Rules

What earns points in the program: a row for each version of a rule. The versions in force on a day of payment: ?valid_from=lte.2025-06-16&or=(valid_to.is.null,valid_to.gte.2025-06-16). Administrators only.$$;
comment on column loyalty_api.rule.program is 'Code of the program.';
comment on column loyalty_api.rule.code is 'What calls name the rule by.';
comment on column loyalty_api.rule.version is 'Number of the version, from 1.';
comment on column loyalty_api.rule.kind is 'anniversary, event, tenure, birthday, purchase or manual.';
comment on column loyalty_api.rule.title is 'What members read as the reason of a payment.';
comment on column loyalty_api.rule.terms is 'Who is paid what, and when; the fields depend on the kind.';
comment on column loyalty_api.rule.valid_from is 'First day of payment on which the version decides.';
comment on column loyalty_api.rule.valid_to is
    'Last such day; null while there is no end, the day before valid_from when it was replaced before it began.';
comment on column loyalty_api.rule.expiry is 'When the points lapse; null goes by the program''s policy.';
comment on column loyalty_api.rule.created_at is 'When the version was written.';
comment on column loyalty_api.rule.created_by is 'Who wrote it.';

create view loyalty_api.event with (security_invoker = true) as
select e.event_id, p.code as program, e.kind, e.account_id, a.member_no, e.other_account_id,
       o.member_no as other_member_no, e.occurred_on, e.amount, e.reference, e.attributes,
       e.recorded_at, e.recorded_by, e.canceled_at, e.cancel_reason
  from loyalty.event e
  join loyalty.program p on p.program_id = e.program_id
  join loyalty.account a on a.account_id = e.account_id
  left join loyalty.account o on o.account_id = e.other_account_id;
comment on view loyalty_api.event is
$$Events

What happened that rules pay for, such as referrals and purchases. Of one member: ?member_no=eq.… . Administrators only.$$;
comment on column loyalty_api.event.event_id is 'Number of the event.';
comment on column loyalty_api.event.program is 'Code of the program.';
comment on column loyalty_api.event.kind is 'What happened, as rules call it.';
comment on column loyalty_api.event.account_id is 'Account of the member that it is about.';
comment on column loyalty_api.event.member_no is 'Number of that member.';
comment on column loyalty_api.event.other_account_id is 'Account of the other party.';
comment on column loyalty_api.event.other_member_no is 'Number of the other party.';
comment on column loyalty_api.event.occurred_on is 'The day it happened.';
comment on column loyalty_api.event.amount is 'Of a purchase, the amount spent.';
comment on column loyalty_api.event.reference is 'Your own number of it.';
comment on column loyalty_api.event.attributes is 'Whatever else was kept with it.';
comment on column loyalty_api.event.recorded_at is 'When it was recorded.';
comment on column loyalty_api.event.recorded_by is 'Who recorded it.';
comment on column loyalty_api.event.canceled_at is 'When it was canceled; null when it was not.';
comment on column loyalty_api.event.cancel_reason is 'Why it was canceled.';

create function loyalty.api_rule(program text, written loyalty.rule) returns loyalty_api.rule
    language sql stable set search_path = pg_catalog, pg_temp
    return row(program, written.code, written.version, written.kind, written.title, written.terms,
               written.valid_from, written.valid_to, written.expiry::text, written.created_at,
               written.created_by)::loyalty_api.rule;
comment on function loyalty.api_rule is 'A rule as the view loyalty_api.rule shows it.';

create function loyalty_api.create_rule(
    code text,
    kind text,
    terms jsonb,
    title text default null,
    valid_from text default null,
    valid_to text default null,
    expiry text default null,
    program text default null
) returns loyalty_api.rule
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    owner text := loyalty.api_admin_program(program);
    written loyalty.rule;
begin
    written := loyalty.create_rule(
        owner, code, kind, terms, title, loyalty.api_day('valid_from', valid_from),
        loyalty.api_day('valid_to', valid_to), expiry::loyalty.expiry_policy);
    perform loyalty.audit('create_rule', written.program_id,
        details => jsonb_build_object('rule', written.code, 'version', written.version));
    return loyalty.api_rule(owner, written);
end
$$;
comment on function loyalty_api.create_rule(text, text, jsonb, text, text, text, text, text) is
$$Create a rule

Answers with the rule. It pays from now on, never for periods that are over. 400 22023 names the field of terms that is wrong, in details, and shows terms that are right, in hint; 409 23505 when the code is taken. Administrators only.

- `code`: what calls name the rule by, up to 63 letters, digits, "_", "." and "-".
- `kind`: anniversary, event, tenure, birthday, purchase or manual.
- `terms`: who is paid what, and when; the fields depend on the kind.
- `title`: what members read as the reason of a payment; the code when left out.
- `valid_from`: first day of payment on which it decides, YYYY-MM-DD; today when left out.
- `valid_to`: last such day, YYYY-MM-DD; without end when left out.
- `expiry`: when its points lapse, such as "end of month after 3 years"; by the program's policy when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.change_rule(
    code text,
    terms jsonb default null,
    title text default null,
    from_day text default null,
    valid_to text default null,
    expiry text default null,
    program text default null
) returns loyalty_api.rule
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    owner text := loyalty.api_admin_program(program);
    written loyalty.rule;
begin
    written := loyalty.change_rule(
        owner, code, terms, title, loyalty.api_day('from_day', from_day),
        loyalty.api_day('valid_to', valid_to), expiry::loyalty.expiry_policy);
    perform loyalty.audit('change_rule', written.program_id,
        details => jsonb_build_object('rule', written.code, 'version', written.version));
    return loyalty.api_rule(owner, written);
end
$$;
comment on function loyalty_api.change_rule(text, jsonb, text, text, text, text, text) is
$$Change a rule

Adds a version that decides from a day of payment on, and answers with it; what is left out stays as it was. Points paid before keep their terms. Administrators only.

- `code`: the rule.
- `terms`: the new terms, whole.
- `title`: the new title.
- `from_day`: first day of payment on which the change decides, YYYY-MM-DD, from today on; tomorrow when left out.
- `valid_to`: last such day, YYYY-MM-DD.
- `expiry`: when its points lapse.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.end_rule(code text, last_day text default null, program text default null)
    returns loyalty_api.rule
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    owner text := loyalty.api_admin_program(program);
    written loyalty.rule;
begin
    written := loyalty.end_rule(owner, code, loyalty.api_day('last_day', last_day));
    perform loyalty.audit('end_rule', written.program_id,
        details => jsonb_build_object('rule', written.code, 'version', written.version));
    return loyalty.api_rule(owner, written);
end
$$;
comment on function loyalty_api.end_rule(text, text, text) is
$$End a rule

Answers with its last version. What would be paid later stays unpaid. Administrators only.

- `code`: the rule.
- `last_day`: last day of payment, YYYY-MM-DD; today when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.record_event(
    kind text,
    member_no text,
    other_member_no text default null,
    occurred_on text default null,
    amount numeric default null,
    reference text default null,
    attributes jsonb default null,
    program text default null,
    out event_id bigint,
    out is_new boolean,
    out payments jsonb
) returns record
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty.api_role() <> 'loyalty_granter' then
        program := loyalty.api_admin_program(program);
    else
        select p.code into program from loyalty.program p where p.program_id = loyalty.api_program(program);
    end if;
    select r.event_id, r.is_new, r.payments into event_id, is_new, payments
      from loyalty.record_event(
               program, kind, member_no, other_member_no, loyalty.api_day('occurred_on', occurred_on),
               amount, loyalty.api_key(reference), attributes) r;
    perform loyalty.audit('record_event', loyalty.program_id(program), null,
        (select e.account_id from loyalty.event e where e.event_id = record_event.event_id),
        jsonb_build_object('event_id', event_id, 'kind', kind, 'is_new', is_new));
end
$$;
comment on function loyalty_api.record_event(text, text, text, text, numeric, text, jsonb, text) is
$$Record an event

Records what happened, and answers with its number, whether it is new, and what the rules pay for it: to whom, how much, when (pays_on), and the operation that did (operation_id, null while it is still to come). Granters and administrators only.

- `kind`: what happened, as rules call it, such as "referral" or "purchase".
- `member_no`: who it is about: who referred, who bought.
- `other_member_no`: the other party: the friend referred.
- `occurred_on`: the day it happened, YYYY-MM-DD; today in the program's time zone when left out.
- `amount`: of a purchase, the amount spent.
- `reference`: your own number of it, up to 150 characters; repeat the call with the same one and it is recorded once. The header Idempotency-Key may carry it instead.
- `attributes`: an object of whatever else is to be kept with it.
- `program`: code of the program. Needed by operators; others have it in the token.$$;

create function loyalty_api.cancel_event(
    event_id bigint,
    reason text default null,
    policy text default 'clamp',
    program text default null,
    out revoked bigint
) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    owner integer := loyalty.program_id(loyalty.api_admin_program(program));
begin
    if not exists (
           select from loyalty.event e where e.event_id = cancel_event.event_id and e.program_id = owner) then
        perform loyalty.raise('LY002', 'no such event', format('The program has no event %s.', coalesce(event_id::text, 'null')),
            'The event_id of an event is in /event.');
    end if;
    revoked := loyalty.cancel_event(event_id, reason, policy);
    perform loyalty.audit('cancel_event', owner, null,
        (select e.account_id from loyalty.event e where e.event_id = cancel_event.event_id),
        jsonb_build_object('event_id', event_id, 'points', revoked));
end
$$;
comment on function loyalty_api.cancel_event(bigint, text, text, text) is
$$Cancel an event

For a purchase that was refunded, or an event recorded by mistake: what was not paid yet will not be, what was is revoked. Answers with the points taken back. Administrators only.

- `event_id`: number of the event.
- `reason`: why, in your words, up to 1,000 characters.
- `policy`: what becomes of points already spent: "clamp" (when left out) leaves them, "debt" books a debt that later grants repay.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.grant_by_rule(
    account_id bigint,
    rule text,
    points numeric default null,
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    key text;
    was_used boolean;
begin
    account_id := loyalty.api_account(account_id, '{loyalty_granter,loyalty_admin,loyalty_operator}');
    key := loyalty.api_key(idempotency_key);
    perform loyalty.hold_budget(loyalty.account_program_id(account_id));
    was_used := loyalty.is_key_used(account_id, format('rule/%s/%s', rule, key)) and key is not null;
    return loyalty.end_grant('grant_by_rule', loyalty.grant_by_rule(
        account_id, rule, loyalty.api_points(points), reason, key), was_used);
end
$$;
comment on function loyalty_api.grant_by_rule(bigint, text, numeric, text, text) is
$$Grant points by a rule

Gives points to a member by a rule of kind manual, within its limits, and answers with a receipt. 403 LY010 as for /rpc/grant. Granters and administrators only.

- `account_id`: who gets them.
- `rule`: code of the rule.
- `points`: how many, a whole number from 1; as the rule says when left out.
- `reason`: why, in your words; the rule's title when left out.
- `idempotency_key`: up to 150 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.$$;

create function loyalty_api.explain_rule(
    rule text,
    account_id bigint default null,
    out kind text,
    out version integer,
    out last_paid_on date,
    out last_points bigint,
    out period date,
    out pays_on date,
    out points bigint,
    out explanation text
) returns record
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select e.kind, e.version, e.last_paid_on, e.last_points, e.period, e.pays_on, e.points, e.explanation
      from loyalty.explain_rule(
               loyalty.api_account($2, '{loyalty_member,loyalty_admin,loyalty_operator}'), $1) e;
end;
comment on function loyalty_api.explain_rule(text, bigint) is
$$Explain a rule

When a member is paid next by a rule (pays_on), how many points and why, or in explanation why nothing is to come; and what was paid last.

- `rule`: code of the rule.
- `account_id`: whose. Members leave it out; administrators must give it.$$;
-- Notices over HTTP: what a member wants and got; texts, times and troubles for administrators.

create function loyalty.explain_notices(account_id bigint)
    returns table (kind text, answer text, last_occasion text, last_state text, last_at timestamptz, error text)
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if not exists (select from loyalty.account a where a.account_id = explain_notices.account_id) then
        perform loyalty.raise('LY002', 'no such account',
            format('Account %s does not exist.', coalesce(explain_notices.account_id::text, 'null')),
            'loyalty.open_account(program, member_no) gives a member''s account.');
    end if;
    return query
    select k.kind,
           case
               when s.is_enabled is not true then 'the program does not send it'
               when k.kind <> 'order_received' and r.is_wanted is false then 'the member refused it'
               when m.account_id is null then 'there is no member record, and so no address'
               when loyalty.notice_channel(m.email, m.phone, f.email, f.sms) is null
                   then case when m.email is null and m.phone is null then 'the member has no address'
                             else 'the program has no sender for the member''s address' end
               when w.status = 'closed' and k.kind in ('balance', 'expiry') then 'the account is closed'
               when k.kind = 'expiry' and (w.next_expiry_on is null or w.next_expiry_on > t.today + s.days_before)
                   then format('no points lapse within %s days', s.days_before)
               else format('sent by %s', loyalty.notice_channel(m.email, m.phone, f.email, f.sms))
           end,
           l.occasion, l.state, l.at, l.error
      from loyalty.account a
      join loyalty.program p on p.program_id = a.program_id
      join loyalty.wallet w on w.account_id = a.account_id
     cross join lateral (select timezone(p.time_zone, loyalty.now())::date as today) t
     cross join (values (1, 'points_received'), (2, 'balance'), (3, 'expiry'), (4, 'order_received'))
                as k (place, kind)
      left join loyalty.member m on m.account_id = a.account_id
      left join loyalty.notice_sender f on f.program_id = a.program_id
      left join loyalty.notice_setting s on s.program_id = a.program_id and s.kind = k.kind
      left join loyalty.notice_preference r on r.account_id = a.account_id and r.kind = k.kind
      left join lateral (
             select n.occasion, loyalty.notice_state(n.attempts, n.claimed_at, n.sent_at, n.gave_up_at) as state,
                    coalesce(n.sent_at, n.gave_up_at, n.queued_at) as at, n.error
               from loyalty.notice n
              where n.account_id = a.account_id and n.kind = k.kind
              order by n.queued_at desc, n.notice_id desc
              limit 1) l on true
     where a.account_id = explain_notices.account_id
     order by k.place;
end
$$;
comment on function loyalty.explain_notices is
    'Why a member gets each kind of notice, or why not, and what became of the last one. LY002.';

create view loyalty_api.notice_preference with (security_invoker = true) as
select a.account_id, k.kind, coalesce(r.is_wanted, true) as is_wanted, k.kind <> 'order_received' as can_be_refused,
       coalesce(s.is_enabled, false) as is_sent, r.changed_at
  from loyalty.account a
 cross join (values ('points_received'), ('balance'), ('expiry'), ('order_received')) as k (kind)
  left join loyalty.notice_setting s on s.program_id = a.program_id and s.kind = k.kind
  left join loyalty.notice_preference r on r.account_id = a.account_id and r.kind = k.kind;
comment on view loyalty_api.notice_preference is
$$Notice preferences

Which kinds of notices a member wants: four rows of their own for a member; for administrators those of their program: filter with ?account_id=eq.… . Changed with /rpc/set_notice_preference.$$;
comment on column loyalty_api.notice_preference.account_id is 'Number of the account.';
comment on column loyalty_api.notice_preference.kind is 'points_received, balance, expiry or order_received.';
comment on column loyalty_api.notice_preference.is_wanted is 'Whether the member wants it; true until they choose otherwise.';
comment on column loyalty_api.notice_preference.can_be_refused is 'Whether the member may refuse it.';
comment on column loyalty_api.notice_preference.is_sent is 'Whether the program sends it at all.';
comment on column loyalty_api.notice_preference.changed_at is 'When the member chose; null when they never did.';

create view loyalty_api.notice with (security_invoker = true) as
select n.notice_id, n.account_id, a.member_no, n.kind, n.occasion, n.channel,
       loyalty.notice_state(n.attempts, n.claimed_at, n.sent_at, n.gave_up_at) as state,
       n.queued_at, n.sent_at, n.attempts, n.points, n.expires_on, n.expiring_points
  from loyalty.notice n
  join loyalty.account a on a.account_id = n.account_id;
comment on view loyalty_api.notice is
$$Notices

What a member was told, or is about to be. A member sees their own; administrators those of their program: filter with ?account_id=eq.… . Latest first: ?order=queued_at.desc .$$;
comment on column loyalty_api.notice.notice_id is 'Number of the notice.';
comment on column loyalty_api.notice.account_id is 'Number of the account.';
comment on column loyalty_api.notice.member_no is 'The member''s number in the program.';
comment on column loyalty_api.notice.kind is 'points_received, balance, expiry, order_received, or one about a login such as password_reset.';
comment on column loyalty_api.notice.occasion is 'What it tells of: number of the operation or order, or the day.';
comment on column loyalty_api.notice.channel is 'email or sms.';
comment on column loyalty_api.notice.state is 'waiting, sending, retrying after a failure, sent, or given up.';
comment on column loyalty_api.notice.queued_at is 'When it was queued.';
comment on column loyalty_api.notice.sent_at is 'When the mail server took it; null while it has not.';
comment on column loyalty_api.notice.attempts is 'How often sending it was tried.';
comment on column loyalty_api.notice.points is 'Points it tells of: received, available, lapsing, or used for an order.';
comment on column loyalty_api.notice.expires_on is 'Last day of the points that lapse next.';
comment on column loyalty_api.notice.expiring_points is 'How many lapse then.';

create view loyalty_api.notice_problem with (security_invoker = true) as
select p.notice_id, p.account_id, p.member_no, p.kind, p.occasion, p.channel, p.queued_at, p.attempts,
       p.due_at, p.gave_up_at, p.error
  from loyalty.notice_problem p;
comment on view loyalty_api.notice_problem is
$$Notices in trouble

Those that were given up, and those that failed and will be tried again. Administrators only.$$;
comment on column loyalty_api.notice_problem.notice_id is 'Number of the notice.';
comment on column loyalty_api.notice_problem.account_id is 'Number of the account.';
comment on column loyalty_api.notice_problem.member_no is 'The member''s number in the program.';
comment on column loyalty_api.notice_problem.kind is 'points_received, balance, expiry, order_received, or one about a login such as password_reset.';
comment on column loyalty_api.notice_problem.occasion is 'What it tells of: number of the operation or order, or the day.';
comment on column loyalty_api.notice_problem.channel is 'email or sms.';
comment on column loyalty_api.notice_problem.queued_at is 'When it was queued.';
comment on column loyalty_api.notice_problem.attempts is 'How often sending it was tried.';
comment on column loyalty_api.notice_problem.due_at is 'When it is tried again; null when it was given up.';
comment on column loyalty_api.notice_problem.gave_up_at is 'When it was given up; null when it is tried again.';
comment on column loyalty_api.notice_problem.error is 'Why the last attempt failed, without addresses.';

create view loyalty_api.notice_setting with (security_invoker = true) as
select p.code as program, s.kind, s.is_enabled, s.days_of_month, s.at, s.days_before, s.send_within
  from loyalty.notice_setting s
  join loyalty.program p on p.program_id = s.program_id;
comment on view loyalty_api.notice_setting is
$$Notice settings

Which notices the program sends, and when, in its time zone. Administrators only; changed with /rpc/set_notice.$$;
comment on column loyalty_api.notice_setting.program is 'Code of the program.';
comment on column loyalty_api.notice_setting.kind is 'points_received, balance, expiry or order_received.';
comment on column loyalty_api.notice_setting.is_enabled is 'Whether it is sent.';
comment on column loyalty_api.notice_setting.days_of_month is 'Of balance: the days of the month.';
comment on column loyalty_api.notice_setting.at is 'Of balance and expiry: the time of day.';
comment on column loyalty_api.notice_setting.days_before is 'Of expiry: how many days before the last day they begin.';
comment on column loyalty_api.notice_setting.send_within is 'How long a notice may wait to be sent.';

create view loyalty_api.notice_template with (security_invoker = true) as
select p.code as program, t.kind, t.language, t.subject, t.text_body, t.html_body, t.sms_body, t.changed_at
  from loyalty.notice_template t
  left join loyalty.program p on p.program_id = t.program_id;
comment on view loyalty_api.notice_template is
$$Notice templates

Texts of notices. Those of no program are supplied, and used where the program has none of its own. Administrators only; changed with /rpc/set_template.$$;
comment on column loyalty_api.notice_template.program is 'Code of the program; null when supplied.';
comment on column loyalty_api.notice_template.kind is 'points_received, balance, expiry, order_received, or one about a login such as password_reset.';
comment on column loyalty_api.notice_template.language is 'Its language, such as ja.';
comment on column loyalty_api.notice_template.subject is 'Subject of the mail.';
comment on column loyalty_api.notice_template.text_body is 'The mail as plain text.';
comment on column loyalty_api.notice_template.html_body is 'The mail as HTML; null when it has none.';
comment on column loyalty_api.notice_template.sms_body is 'The short message; null when there is none.';
comment on column loyalty_api.notice_template.changed_at is 'When it was last written; null when supplied.';

create function loyalty_api.set_notice_preference(kind text, is_wanted boolean, account_id bigint default null)
    returns setof loyalty_api.notice_preference
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    about bigint := loyalty.api_account(set_notice_preference.account_id, '{loyalty_member,loyalty_admin,loyalty_operator}');
begin
    perform loyalty.set_notice_preference(about, set_notice_preference.kind, set_notice_preference.is_wanted);
    if loyalty.api_role() <> 'loyalty_member' then
        perform loyalty.audit('set_notice_preference', loyalty.account_program_id(about), null, about,
            jsonb_build_object('kind', set_notice_preference.kind, 'is_wanted', set_notice_preference.is_wanted));
    end if;
    return query
    select v.* from loyalty_api.notice_preference v
     where v.account_id = about and v.kind = set_notice_preference.kind;
end
$$;
comment on function loyalty_api.set_notice_preference(text, boolean, bigint) is
$$Choose a notice

Says whether a member wants a kind of notice, and answers with the row of /notice_preference. 400 22023 when order_received is refused.

- `kind`: points_received, balance, expiry or order_received.
- `is_wanted`: whether the member wants it.
- `account_id`: whose notices. Members leave it out; administrators must give it.$$;

-- SQL, not plpgsql, which refuses an argument and a column of the same name
create function loyalty_api.explain_notices(account_id bigint default null, only_kind text default null)
    returns table (kind text, answer text, last_occasion text, last_state text, last_at timestamptz, error text)
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select e.kind, e.answer, e.last_occasion, e.last_state, e.last_at,
           case when loyalty.api_role() <> 'loyalty_member' then e.error end
      from loyalty.explain_notices(loyalty.api_account($1, '{loyalty_member,loyalty_admin,loyalty_operator}')) e
     where e.kind = $2 or $2 is null;
end;
comment on function loyalty_api.explain_notices(bigint, text) is
$$Explain notices

Why a member gets each kind of notice, or why not, and what became of the last one. What servers answered is for administrators only.

- `account_id`: whose notices. Members leave it out; administrators must give it.
- `only_kind`: one kind; all four when left out.$$;

create function loyalty_api.set_notice(
    kind text,
    is_enabled boolean default null,
    days_of_month integer[] default null,
    at time default null,
    days_before integer default null,
    send_within interval default null,
    program text default null
) returns loyalty.notice_setting
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty.audit('set_notice', loyalty.program_id(loyalty.api_admin_program(set_notice.program)),
        details => jsonb_build_object('kind', kind));
    select w.* from loyalty.set_notice(loyalty.api_admin_program(program), kind, is_enabled, days_of_month, at,
        days_before, send_within) w;
end;
comment on function loyalty_api.set_notice(text, boolean, integer[], time, integer, interval, text) is
$$Set a notice

Switches a kind of notice on or off and sets when it is sent; what is left out stays as it is. 400 22023 names the wrong field. Administrators only.

- `kind`: points_received, balance, expiry or order_received.
- `is_enabled`: whether it is sent.
- `days_of_month`: of balance, the days of the month, such as [1, 15]; a day that a month does not have is its last.
- `at`: of balance and expiry, the time of day in the program's time zone, such as "13:00".
- `days_before`: of expiry, how many days before the last day the daily notices begin.
- `send_within`: how long a notice may wait to be sent, such as "1 day".
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.set_template(
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
    select loyalty.audit('set_template', loyalty.program_id(loyalty.api_admin_program(set_template.program)),
        details => jsonb_build_object('kind', kind, 'language', language));
    select w.* from loyalty.set_template(loyalty.api_admin_program(program), kind, language, subject, text_body,
        html_body, sms_body) w;
end;
comment on function loyalty_api.set_template(text, text, text, text, text, text, text) is
$$Write a template

Writes the program's own texts for a kind of notice and a language. 400 22023 tells part, line and what is wrong there. Administrators only.

- `kind`: points_received, balance, expiry, order_received, or one about logins such as password_reset.
- `language`: such as ja or en.
- `subject`: subject of the mail, one line.
- `text_body`: the mail as plain text.
- `html_body`: the mail as HTML, if wanted; values are escaped in it.
- `sms_body`: the short message to members without an e-mail address, if wanted.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.preview_template(
    kind text,
    language text default 'ja',
    subject text default null,
    text_body text default null,
    html_body text default null,
    sms_body text default null,
    program text default null
) returns loyalty.filled_template
    language sql stable security definer set search_path = pg_catalog, pg_temp
    return loyalty.preview_template(loyalty.api_admin_program(program), kind, language, subject, text_body,
        html_body, sms_body);
comment on function loyalty_api.preview_template(text, text, text, text, text, text, text) is
$$Preview a template

Fills a template in with an example and changes nothing: the one in use, or one not written yet when texts are given, checked as /rpc/set_template does. Administrators only.

- `kind`: points_received, balance, expiry, order_received, or one about logins such as password_reset.
- `language`: such as ja or en.
- `subject`: a subject to try.
- `text_body`: a plain text to try.
- `html_body`: an HTML text to try.
- `sms_body`: a short message to try.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.delete_template(kind text, language text, program text default null) returns boolean
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty.audit('delete_template', loyalty.program_id(loyalty.api_admin_program(delete_template.program)),
        details => jsonb_build_object('kind', kind, 'language', language));
    select loyalty.delete_template(loyalty.api_admin_program(program), kind, language);
end;
comment on function loyalty_api.delete_template(text, text, text) is
$$Delete a template

Takes the program's own texts away, so that the supplied ones are used again; whether there were any. Administrators only.

- `kind`: points_received, balance, expiry, order_received, or one about logins such as password_reset.
- `language`: such as ja or en.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.retry_notices(given_up_since timestamptz, kind text default null, program text default null)
    returns bigint
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty.audit('retry_notices', loyalty.program_id(loyalty.api_admin_program(retry_notices.program)),
        details => jsonb_build_object('kind', kind, 'given_up_since', given_up_since));
    select loyalty.retry_notices(loyalty.api_admin_program(program), given_up_since, kind);
end;
comment on function loyalty_api.retry_notices(timestamptz, text, text) is
$$Retry notices

Has another go at notices that were given up, once what was wrong is mended. Answers with how many. Administrators only.

- `given_up_since`: only those given up since then.
- `kind`: one kind; all when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
-- Logins over HTTP. What anybody may call without a token is named in loyalty.is_open_call.

create function loyalty.api_identity() returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty.api_role() = 'loyalty_anon' then
        perform loyalty.api_refuse(null);
    elsif loyalty.claim_identity_id() is null then
        perform loyalty.raise('LY010', 'not allowed', 'The token is for no person.', 'Log in with log_in.');
    end if;
    return loyalty.claim_identity_id();
end
$$;
comment on function loyalty.api_identity is 'The person that asks; LY009 for nobody, LY010 for a token without one.';

create function loyalty_api.log_in(
    login_id text,
    password text,
    program text default null,
    remember boolean default false,
    role text default 'member',
    account_id bigint default null
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.log_in(login_id, password, program, remember, role, account_id);
end
$$;
comment on function loyalty_api.log_in(text, text, text, boolean, text, bigint) is
$$Log in

Answers with `access_token`, to be sent as `Authorization: Bearer …` for `expires_in` seconds, and `refresh_token`, for the next ones. 401 LY009 for a wrong password and for an unknown login ID alike; 403 LY010 when the password is right and the person is no active member of the program; 429 LY008 after too many wrong ones, with Retry-After.

- `login_id`: the e-mail address or phone, or the member number where the program allows it (then with program).
- `password`: the password.
- `program`: code of the program; may be left out by who is in one only.
- `remember`: true for a login that lasts longer on this device.
- `role`: member (when left out), family, granter, admin or operator.
- `account_id`: which member's family, for who is of more than one.$$;

create function loyalty_api.refresh(refresh_token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.refresh(refresh_token);
end
$$;
comment on function loyalty_api.refresh(text) is
$$Get new tokens

Answers like log_in. A refresh token is good once: keep the new one. One that comes twice ends the login, and 401 LY009 asks for another.

- `refresh_token`: the last one that log_in or refresh answered with.$$;

create function loyalty_api.log_out() returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty.claim('sid') is null then
        perform loyalty.api_identity();
        perform loyalty.raise('LY010', 'not allowed', 'The token is of no login here.', 'Log out where it was made.');
    end if;
    return loyalty.end_session(loyalty.api_identity(), loyalty.claim('sid')::uuid, 'log_out');
end
$$;
comment on function loyalty_api.log_out() is
$$Log out

Ends the login that the token is of, from the next request on. Answers `{"ended": 1}`.$$;

create function loyalty_api.log_out_everywhere() returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.log_out_everywhere(loyalty.api_identity(), loyalty.claim_program_id());
end
$$;
comment on function loyalty_api.log_out_everywhere() is
$$Log out everywhere

Ends all of one's logins, this one too, in every program. Answers with how many: `{"ended": 3}`.$$;

create function loyalty_api.own_sessions() returns jsonb
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    this text := loyalty.claim('sid');
begin
    -- who came by a program's identity provider sees what is of that program
    return (select jsonb_build_object('sessions', coalesce(jsonb_agg(s), '[]'))
              from jsonb_array_elements(loyalty.own_sessions(loyalty.api_identity(), this::uuid) -> 'sessions') s
             where this is not null or s ->> 'program' = loyalty.claim('program'));
end
$$;
comment on function loyalty_api.own_sessions() is
$$List one's logins

`{"sessions": […]}`: those that go on, the last used first, each with session_id, program, role, device, address, since when, until when, and is_this for the one that asks.$$;

create function loyalty_api.end_session(session_id uuid) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.end_session(loyalty.api_identity(), session_id);
end
$$;
comment on function loyalty_api.end_session(uuid) is
$$End one of one's logins

Such as the one on a lost phone. Answers `{"ended": 1}`; 404 LY002 when there is none.

- `session_id`: which, from own_sessions.$$;

create function loyalty_api.change_password(old_password text, new_password text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    person bigint := loyalty.api_identity();
    within integer := loyalty.claim_program_id();
begin
    if within is null then
        -- an operator's token names none: the rules of a program that the person is in
        within := (select p.program_id from loyalty.access_policy p
                    where (loyalty.reach((select i from loyalty.identity i where i.identity_id = person), p.program_id)).is_in
                    order by p.password_length desc, p.program_id limit 1);
    end if;
    return loyalty.change_password(person, within, old_password, new_password, loyalty.claim('sid')::uuid);
end
$$;
comment on function loyalty_api.change_password(text, text) is
$$Change one's password

All other logins end, and a mail tells of it. Answers `{"changed": true}`; 401 LY009 when the old one is wrong, 429 LY008 after too many wrong ones, 400 when the new one is not what the program asks for.

- `old_password`: the password so far.
- `new_password`: the one to be.$$;
-- Ways back in over HTTP, what staff do with logins, and outside identity providers.

create function loyalty_api.request_password_reset(login_id text, program text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.request_password_reset(login_id, program);
end
$$;
comment on function loyalty_api.request_password_reset(text, text) is
$$Forgot the password

Sends a link to the login ID, good for 15 minutes, and answers with `screen_key`, four digits to show on the screen, and `expires_at`; the same for a login ID that nobody has. Who is locked out gets a link to unlock instead. 429 LY008 when asked too often.

- `login_id`: the e-mail address or phone, or the member number where the program allows it.
- `program`: code of the program.$$;

create function loyalty_api.reset_password(token text, screen_key text, password text, password_again text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.reset_password(token, screen_key, password, password_again);
end
$$;
comment on function loyalty_api.reset_password(text, text, text, text) is
$$Set a new password

Ends what request_password_reset began; all logins end. Answers `{"changed": true}`; 401 LY009 for a link that is not good any more, and for a wrong key, of which the fifth ends the link; 400 when the password is not what the program asks for.

- `token`: what the mailed link has after the #.
- `screen_key`: the four digits that were on the screen.
- `password`: the new password.
- `password_again`: the same.$$;

create function loyalty_api.request_unlock(login_id text, program text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.request_unlock(login_id, program);
end
$$;
comment on function loyalty_api.request_unlock(text, text) is
$$Locked out

Sends a link to unlock, good for 15 minutes, to who was locked out by wrong passwords, and answers with `expires_at`; the same for anybody else. 429 LY008 when asked too often.

- `login_id`: the e-mail address or phone, or the member number where the program allows it.
- `program`: code of the program.$$;

create function loyalty_api.unlock(token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.unlock(token);
end
$$;
comment on function loyalty_api.unlock(text) is
$$Unlock by the mailed link

Answers `{"unlocked": true}`; 401 LY009 for a link that is not good any more.

- `token`: what the mailed link has after the #.$$;

create function loyalty_api.apply_for_login(
    organisation_id text,
    name text,
    kana text,
    birth_date text,
    member_no text,
    login_id text,
    login_id_again text,
    phone text,
    consent boolean
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.apply_for_login(organisation_id, name, kana, loyalty.api_day('birth_date', birth_date), member_no,
        login_id, login_id_again, phone, consent);
end
$$;
comment on function loyalty_api.apply_for_login(text, text, text, text, text, text, text, text, boolean) is
$$Forgot the login ID

An application that staff approve or refuse; answers with `application_id`, whether or not there is such a member. Until they decide, the login of who is described is suspended. Once approved, a link goes to the new login ID, for accept_login. 429 LY008 when asked too often.

- `organisation_id`: the organisation ID.
- `name`: the name as the organisation has it.
- `kana`: its reading in katakana.
- `birth_date`: the birth date, as YYYY-MM-DD.
- `member_no`: the member or staff number.
- `login_id`: the e-mail address or phone to log in with from now on.
- `login_id_again`: the same.
- `phone`: a telephone number for questions.
- `consent`: true: the person agrees that staff use this for the application.$$;

create function loyalty_api.accept_login(token text, password text, password_again text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.accept_login(token, password, password_again);
end
$$;
comment on function loyalty_api.accept_login(text, text, text) is
$$Begin to use a new login ID

Ends an approved application. Answers `{"changed": true}`; 401 LY009 for a link that is not good any more, 400 when the password is not what the program asks for.

- `token`: what the mailed link has after the #.
- `password`: the new password.
- `password_again`: the same.$$;

create view loyalty_api.login_application with (security_invoker = true) as
select a.application_id, p.code as program, a.account_id, loyalty.csv_cell(a.member_no) as member_no,
       loyalty.csv_cell(a.name) as name, loyalty.csv_cell(a.kana) as kana, a.birth_date,
       loyalty.csv_cell(a.login_id) as login_id, loyalty.csv_cell(a.phone) as phone,
       a.identity_id is not null as has_login, a.differs, a.state, a.applied_at, a.address, a.decided_at,
       a.decided_by, loyalty.csv_cell(a.reason) as reason
  from loyalty.login_application a
  join loyalty.program p on p.program_id = a.program_id;
comment on view loyalty_api.login_application is
$$Applications for a login ID

For administrators: those that wait (?state=eq.waiting) are decided by /rpc/approve_application and /rpc/refuse_application.$$;
comment on column loyalty_api.login_application.application_id is 'Number of the application.';
comment on column loyalty_api.login_application.program is 'Code of the program.';
comment on column loyalty_api.login_application.account_id is 'Account of the member number given; null when there is none.';
comment on column loyalty_api.login_application.member_no is 'The member number given.';
comment on column loyalty_api.login_application.name is 'The name given.';
comment on column loyalty_api.login_application.kana is 'Its reading, as given.';
comment on column loyalty_api.login_application.birth_date is 'The birth date given.';
comment on column loyalty_api.login_application.login_id is 'The login ID wanted.';
comment on column loyalty_api.login_application.phone is 'The telephone number given.';
comment on column loyalty_api.login_application.has_login is 'Whether somebody logs in as that member; only then it can be approved.';
comment on column loyalty_api.login_application.differs is 'What was given otherwise than the member record has it.';
comment on column loyalty_api.login_application.state is 'waiting, approved, refused or done.';
comment on column loyalty_api.login_application.applied_at is 'When it was made.';
comment on column loyalty_api.login_application.address is 'The address of the client that made it.';
comment on column loyalty_api.login_application.decided_at is 'When it was last decided.';
comment on column loyalty_api.login_application.decided_by is 'By whom.';
comment on column loyalty_api.login_application.reason is 'Why it was refused.';

create function loyalty.api_sole_program(identity_id bigint, program_id integer) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty.api_role() <> 'loyalty_operator' and loyalty.opens_more(identity_id, program_id) then
        perform loyalty.raise('LY010', 'the login opens more than this program', null, 'Ask an operator.');
    end if;
end
$$;
comment on function loyalty.api_sole_program is
    'Keeps administrators of one program from what reaches into others: LY010.';

create function loyalty.api_application(application_id bigint) returns loyalty.login_application
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    application loyalty.login_application;
    own_program integer;
begin
    if loyalty.api_role() <> all ('{loyalty_admin,loyalty_operator}') then
        perform loyalty.api_refuse('Ask as an administrator of the program.');
    end if;
    own_program := case when loyalty.api_role() <> 'loyalty_operator' then loyalty.api_program() end;
    select a.* into application
      from loyalty.login_application a
     where a.application_id = api_application.application_id
       and (a.program_id = own_program or own_program is null);
    if application.application_id is null then
        perform loyalty.raise('LY002', 'no such application', null, '/login_application has those of your program.');
    end if;
    return application;
end
$$;
comment on function loyalty.api_application is
    'An application that an administrator may decide: one of the own program. LY002, LY009, LY010.';

create function loyalty_api.approve_application(application_id bigint) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    application loyalty.login_application := loyalty.api_application(application_id);
begin
    perform loyalty.api_sole_program(application.identity_id, application.program_id);
    return loyalty.approve_application(application.application_id);
end
$$;
comment on function loyalty_api.approve_application(bigint) is
$$Approve an application for a login ID

A link goes to the new login ID, good for 15 minutes; approving again sends another. Look at `differs` first. 400 when it is settled, nobody logs in as that member, or the login ID is somebody else's; 403 LY010 when the login opens other programs too, which only an operator may change.

- `application_id`: which, from /login_application.$$;

create function loyalty_api.refuse_application(application_id bigint, reason text default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.refuse_application((loyalty.api_application(application_id)).application_id, reason);
end
$$;
comment on function loyalty_api.refuse_application(bigint, text) is
$$Refuse an application for a login ID

The login is good again as it was. 400 when it is settled.

- `application_id`: which, from /login_application.
- `reason`: why, up to 1,000 characters; staff see it.$$;

create function loyalty_api.unlock_identity(login_id text, program text default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    within integer := loyalty.program_id(loyalty.api_admin_program(program));
begin
    return loyalty.unlock_identity(loyalty.find_person(login_id, within), within);
end
$$;
comment on function loyalty_api.unlock_identity(text, text) is
$$Unlock somebody's login

For administrators: forgets the wrong passwords of who was locked out. 404 LY002 when nobody in the program logs in by that.

- `login_id`: the e-mail address, phone or member number.
- `program`: code of the program; operators give it, administrators leave it out.$$;

create function loyalty_api.suspend_identity(login_id text, reason text default null, program text default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    within integer := loyalty.program_id(loyalty.api_admin_program(program));
    person bigint := loyalty.find_person(login_id, within);
begin
    perform loyalty.api_sole_program(person, within);
    return loyalty.suspend_identity(person, within, reason);
end
$$;
comment on function loyalty_api.suspend_identity(text, text, text) is
$$Suspend somebody's login

For administrators: all its logins end, and it opens nothing until it is resumed. 404 LY002 when nobody in the program logs in by that; 403 LY010 when it opens other programs too, which only an operator may touch.

- `login_id`: the e-mail address, phone or member number.
- `reason`: why, for the audit.
- `program`: code of the program; operators give it, administrators leave it out.$$;

create function loyalty_api.resume_identity(login_id text, reason text default null, program text default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    within integer := loyalty.program_id(loyalty.api_admin_program(program));
    person bigint := loyalty.find_person(login_id, within);
begin
    perform loyalty.api_sole_program(person, within);
    return loyalty.resume_identity(person, within, reason);
end
$$;
comment on function loyalty_api.resume_identity(text, text, text) is
$$Resume a suspended login

For administrators. 404 LY002 and 403 LY010 as in suspend_identity; 400 when it is not suspended.

- `login_id`: the e-mail address, phone or member number.
- `reason`: why, for the audit.
- `program`: code of the program; operators give it, administrators leave it out.$$;

create function loyalty_api.close_identity(login_id text, reason text default null, program text default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    within integer := loyalty.program_id(loyalty.api_admin_program(program));
    person bigint := loyalty.find_person(login_id, within);
begin
    perform loyalty.api_sole_program(person, within);
    return loyalty.close_identity(person, within, reason);
end
$$;
comment on function loyalty_api.close_identity(text, text, text) is
$$Close somebody's login

For administrators, and for good: its links, logins and password are gone, and the login ID is free for a new registration. The member's points stay. 404 LY002 and 403 LY010 as in suspend_identity.

- `login_id`: the e-mail address, phone or member number.
- `reason`: why, for the audit.
- `program`: code of the program; operators give it, administrators leave it out.$$;

create function loyalty.api_operator() returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty.api_role() <> 'loyalty_operator' then
        perform loyalty.api_refuse('Ask as an operator.');
    end if;
end
$$;
comment on function loyalty.api_operator is 'Refuses everybody but operators: LY009, LY010.';

create function loyalty_api.set_identity_provider(program text, issuer text, audience text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty.api_operator();
    return loyalty.set_identity_provider(program, issuer, audience);
end
$$;
comment on function loyalty_api.set_identity_provider(text, text, text) is
$$Believe an outside identity provider

For operators. The provider's public key goes into the JWK set that PostgREST has; its people are linked by link_subject. 400 when the issuer is another program's.

- `program`: code of the program whose members it knows.
- `issuer`: what its tokens have as iss.
- `audience`: what its tokens for this service have in aud; others are not believed.$$;

create function loyalty_api.remove_identity_provider(issuer text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty.api_operator();
    return loyalty.remove_identity_provider(issuer);
end
$$;
comment on function loyalty_api.remove_identity_provider(text) is
$$Believe an identity provider no longer

For operators. From the next request on; its links are forgotten. Take its key out of the JWK set, too.

- `issuer`: what its tokens have as iss.$$;

create function loyalty_api.link_subject(issuer text, subject text, member_no text, program text default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.link_subject(loyalty.api_admin_program(program), issuer, subject, member_no);
end
$$;
comment on function loyalty_api.link_subject(text, text, text, text) is
$$Link an identity provider's person

For administrators: says which member the provider's person is. Their tokens are then good here as the member's own. 404 LY002 when there is no such provider or member.

- `issuer`: the provider, as its tokens have it in iss.
- `subject`: the person, as its tokens have it in sub.
- `member_no`: the member's number.
- `program`: code of the program; operators give it, administrators leave it out.$$;

create function loyalty_api.unlink_subject(issuer text, subject text, program text default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.unlink_subject(loyalty.api_admin_program(program), issuer, subject);
end
$$;
comment on function loyalty_api.unlink_subject(text, text, text) is
$$Unlink an identity provider's person

For administrators: from the next request on. 404 LY002 when they are not linked.

- `issuer`: the provider, as its tokens have it in iss.
- `subject`: the person, as its tokens have it in sub.
- `program`: code of the program; operators give it, administrators leave it out.$$;
-- Registration over HTTP. What anybody may call without a token is named in
-- loyalty.is_open_call.

create view loyalty_api.access_policy with (security_invoker = true) as
select p.code as program, a.organisation_id, a.terms_version, a.terms_url, a.site_url, a.asks_details,
       a.allows_member_no, a.password_length, a.password_letters, a.password_digits, a.password_symbols,
       a.token_life, a.session_life, a.remembered_life, a.family_relations, a.family_degree, a.family_access,
       a.family_monthly_limit, a.approval_above
  from loyalty.access_policy a
  join loyalty.program p on p.program_id = a.program_id;
comment on view loyalty_api.access_policy is
$$Access policies

What the program asks of people who register and log in, and what it lets families and administrators do. Administrators only; changed with /rpc/set_access_policy.$$;
comment on column loyalty_api.access_policy.program is 'Code of the program.';
comment on column loyalty_api.access_policy.organisation_id is 'What members type to say which organisation they are of.';
comment on column loyalty_api.access_policy.terms_version is 'Version of the terms that a registration accepts.';
comment on column loyalty_api.access_policy.terms_url is 'Where the terms can be read.';
comment on column loyalty_api.access_policy.site_url is 'The site that mailed links lead to; null mails the token itself.';
comment on column loyalty_api.access_policy.asks_details is 'Whether registration asks for kana and birth date.';
comment on column loyalty_api.access_policy.allows_member_no is 'Whether a member may log in by member number.';
comment on column loyalty_api.access_policy.password_length is 'Characters that a password has at least.';
comment on column loyalty_api.access_policy.password_letters is 'ASCII letters that it has at least.';
comment on column loyalty_api.access_policy.password_digits is 'Digits that it has at least.';
comment on column loyalty_api.access_policy.password_symbols is 'Whether it may have more than ASCII letters and digits.';
comment on column loyalty_api.access_policy.token_life is 'How long an access token is good.';
comment on column loyalty_api.access_policy.session_life is 'How long a login lasts without being used.';
comment on column loyalty_api.access_policy.remembered_life is 'The same for remember-me.';
comment on column loyalty_api.access_policy.family_relations is 'Relations that may be invited: spouse, parent, child, …';
comment on column loyalty_api.access_policy.family_degree is 'The highest degree of kinship that may be invited.';
comment on column loyalty_api.access_policy.family_access is 'What family may do with the member''s points: none, see or spend.';
comment on column loyalty_api.access_policy.family_monthly_limit is 'Points that one of the family may spend in a month.';
comment on column loyalty_api.access_policy.approval_above is 'Grants of more points need two administrators.';

create function loyalty_api.set_access_policy(
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

Opens the program to people who register and log in, and sets what it asks of them; what is left out stays as it is. Answers with the row of /access_policy. 400 22023 names the wrong field. Only an operator raises or clears approval_above: 403 LY010. Administrators only.

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

create function loyalty_api.issue_keys(
    member_no text,
    key_1 text default null,
    key_2 text default null,
    program text default null
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    code text := loyalty.api_admin_program(issue_keys.program);
    issued record;
begin
    issued := loyalty.issue_keys(code, issue_keys.member_no, issue_keys.key_1, issue_keys.key_2);
    return jsonb_build_object('member_no', issue_keys.member_no, 'key_1', issued.key_1, 'key_2', issued.key_2);
end
$$;
comment on function loyalty_api.issue_keys(text, text, text, text) is
$$Issue authentication keys

Issues the keys 1 and 2 by which a member registers, or new ones for lost ones, and answers with them: {member_no, key_1, key_2}. They are told once; those before are good no longer. Administrators only.

- `member_no`: the member's number in the program.
- `key_1`: a key 1 of your own; random when left out.
- `key_2`: a key 2 of your own, of 4 characters or more; random when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.issue_many_keys(items jsonb, program text default null)
    returns table (item_no bigint, member_no text, outcome text, key_1 text, key_2 text, reason text)
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select i.item_no, i.member_no, i.outcome, i.key_1, i.key_2, i.reason
      from loyalty.issue_many_keys(loyalty.api_admin_program($2), $1) i
     order by i.item_no;
end;
comment on function loyalty_api.issue_many_keys(jsonb, text) is
$$Issue many keys

Issues the keys 1 and 2 of many members, and answers each with its keys or why it was refused. They are told once; those before are good no longer. Administrators only.

- `items`: an array of up to 10000 objects with member_no and, where the organisation brings its own, key_1 and key_2.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.begin_registration(organisation_id text, key_1 text, key_2 text) returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.begin_registration(organisation_id, key_1, key_2);
comment on function loyalty_api.begin_registration(text, text, text) is
$$Begin a registration

Answers {registration, expires_at, program, program_name, terms_version, terms_url, asks_details, allows_member_no, password}: registration is the token of the next steps, good for an hour; password is what the program asks of one. Next is /rpc/choose_login, or /rpc/log_in_to_link for who has a login already. 401 LY009 for wrong keys, which count (429 LY008); 403 LY010 for a member who is registered already or not active. No token needed.

- `organisation_id`: of which organisation.
- `key_1`: the member's authentication key 1.
- `key_2`: the member's authentication key 2.$$;

create function loyalty_api.choose_login(
    registration text, password text, terms_version text, login_id text default null
) returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.choose_login(registration, login_id, password, terms_version);
comment on function loyalty_api.choose_login(text, text, text, text) is
$$Choose login ID and password

Sends a code to the login ID and answers {next: "verify_code", sent_to, code_expires_at}, whether or not somebody has that login ID. Without a login ID, where the program allows it: {next: "confirm", name, …}. 400 22023 says what the program has against the password. 429 LY008 after too many codes to one address. No token needed.

- `registration`: the token of /rpc/begin_registration.
- `password`: the password.
- `terms_version`: version of the terms that the person accepted.
- `login_id`: e-mail address or mobile number.$$;

create function loyalty_api.resend_code(registration text) returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.resend_code(registration);
comment on function loyalty_api.resend_code(text) is
$$Send a new code

Answers as /rpc/choose_login; the code before is no longer good. 429 LY008 after too many to one address. No token needed.

- `registration`: the token of /rpc/begin_registration.$$;

create function loyalty_api.verify_code(registration text, code text) returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.verify_code(registration, code);
comment on function loyalty_api.verify_code(text, text) is
$$Verify the code

Answers {next: "confirm", name, member_no, program, program_name, asks_details}: show the name to be confirmed; or {next: "log_in", login_id}: somebody has that login ID already, and logs in with /rpc/log_in_to_link. 401 LY009 for a wrong code, which counts (429 LY008). No token needed.

- `registration`: the token of /rpc/begin_registration.
- `code`: the six digits that came by mail or short message.$$;

create function loyalty_api.log_in_to_link(
    registration text, login_id text, password text, terms_version text default null
) returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.log_in_to_link(registration, login_id, password, terms_version);
comment on function loyalty_api.log_in_to_link(text, text, text, text) is
$$Link to a login one has

Answers {next: "confirm", name, …} as /rpc/verify_code. 401 LY009 for wrong credentials, which count as those of /rpc/log_in do. No token needed.

- `registration`: the token of /rpc/begin_registration.
- `login_id`: of the login that is there already.
- `password`: its password.
- `terms_version`: version of the terms that the person accepted; not needed after /rpc/choose_login.$$;

create function loyalty_api.confirm_registration(
    registration text, is_right_name boolean, kana text default null, birth_date text default null
) returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.confirm_registration(registration, is_right_name, nullif(btrim(kana), ''),
        loyalty.api_day('birth_date', nullif(btrim(birth_date), '')));
comment on function loyalty_api.confirm_registration(text, boolean, text, text) is
$$Confirm the name

Ends the registration and answers with a session, as /rpc/log_in does; {next: "log_in"} when somebody finished with the same login ID meanwhile. 401 LY009 for details that are not the member record's, which count (429 LY008); 403 LY010 when the name is not confirmed: the registration is given up. No token needed.

- `registration`: the token of /rpc/begin_registration.
- `is_right_name`: whether the name shown is the person's own.
- `kana`: the name's reading, where the program asks for details.
- `birth_date`: as YYYY-MM-DD, where the program asks for details.$$;

create function loyalty_api.request_login_change(login_id text, password text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    person bigint := loyalty.claim_identity_id();
begin
    if loyalty.api_role() = 'loyalty_anon' then
        perform loyalty.api_refuse(null);
    elsif person is null or loyalty.claim_program_id() is null then
        perform loyalty.raise('LY010', 'not allowed', 'The token is of no person''s login to a program.',
            'Log in to a program with /rpc/log_in.');
    end if;
    return loyalty.request_login_change(person, loyalty.claim_program_id(), loyalty.claim_account_id(),
        request_login_change.login_id, request_login_change.password);
end
$$;
comment on function loyalty_api.request_login_change(text, text) is
$$Change one's login ID

Mails a link to the new e-mail address or phone: /rpc/confirm_login_change takes its token. Answers {sent_to, expires_at}, also where somebody else has that login ID; then nothing is mailed. Who logs in by member number registers an address that way. 401 LY009 for a wrong password, which counts (429 LY008). For who is signed in.

- `login_id`: the new e-mail address or mobile number.
- `password`: the password as it is now.$$;

create function loyalty_api.confirm_login_change(token text) returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.confirm_login_change(token);
comment on function loyalty_api.confirm_login_change(text) is
$$Confirm a new login ID

Answers {login_id}: from then on that is how the person logs in. 401 LY009 for a link that was used, replaced, or is too old. No token needed.

- `token`: what follows # in the link that was mailed.$$;
-- Families over HTTP (A8): inviting, approving and registering by mailed links, and what a member
-- sees of their family.

create function loyalty.family_login_id(family_id bigint) returns text
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(i.login_id, f.address)
          from loyalty.family f
          left join loyalty.identity i on i.identity_id = f.identity_id
         where f.family_id = family_login_id.family_id
           and (pg_has_role(loyalty.api_role(), 'loyalty_operator', 'member')
                or loyalty.api_role() = 'loyalty_member' and f.account_id = loyalty.claim_account_id()
                   and f.program_id = loyalty.claim_program_id()));
end
$$;
comment on function loyalty.family_login_id is
    'The login ID of one of the family as it is now, or the address invited, for the member who invited; null for others.';

create view loyalty_api.family with (security_invoker = true) as
select f.family_id, f.account_id, f.relation, loyalty.csv_cell(f.name) as name, f.birth_date,
       loyalty.family_login_id(f.family_id) as login_id,
       loyalty.family_state(f.expires_at, f.approved_at, f.registered_at, f.ended_at) as state,
       f.invited_at, f.expires_at, f.approved_at, f.registered_at, f.ended_at,
       coalesce(s.this_month, 0)::bigint as spent_this_month, coalesce(s.points, 0)::bigint as spent
  from loyalty.family f
  join loyalty.program p on p.program_id = f.program_id
 cross join lateral (
        select sum(s.points) as points,
               sum(s.points) filter (
                   where s.month = date_trunc('month', timezone(p.time_zone, loyalty.now()))::date) as this_month
          from loyalty.family_spend s
         where s.account_id = f.account_id and s.identity_id = f.identity_id) s;
comment on view loyalty_api.family is
$$Family

Whom a member invited, where that is, by which login ID they log in, and what they spent. Members only, each their own family; changed with /rpc/invite_family and /rpc/remove_family.$$;
comment on column loyalty_api.family.family_id is 'Number of the invitation, for /rpc/remove_family.';
comment on column loyalty_api.family.account_id is 'The member''s account.';
comment on column loyalty_api.family.relation is 'What the person is to the member.';
comment on column loyalty_api.family.name is 'The person''s name, in the member''s words.';
comment on column loyalty_api.family.birth_date is 'The birth date that the person must give to register.';
comment on column loyalty_api.family.login_id is 'E-mail address or phone that the person logs in by, or was invited at.';
comment on column loyalty_api.family.state is
    'invited (the member is to approve by mail), approved (the person is to register), registered, removed, canceled or expired.';
comment on column loyalty_api.family.invited_at is 'When the member invited.';
comment on column loyalty_api.family.expires_at is 'Until when the next step can be done.';
comment on column loyalty_api.family.approved_at is 'When the member approved.';
comment on column loyalty_api.family.registered_at is 'When the person registered.';
comment on column loyalty_api.family.ended_at is 'When it was canceled, or the person removed.';
comment on column loyalty_api.family.spent_this_month is 'Points that the person spent this month, in the program''s time zone.';
comment on column loyalty_api.family.spent is 'Points that the person spent in all.';

create view loyalty_api.family_spend with (security_invoker = true) as
select s.operation_id, s.account_id, k.family_id, k.relation, loyalty.csv_cell(k.name) as name, s.points,
       e.occurred_at, loyalty.csv_cell(e.reason) as reason
  from loyalty.family_spend s
  join loyalty.entry e on e.account_id = s.account_id and e.entry = (s.operation_id & 16777215)::integer
 cross join lateral (
        select f.family_id, f.relation, f.name
          from loyalty.family f
         where f.account_id = s.account_id and f.identity_id = s.identity_id
         order by f.family_id desc
         limit 1) k;
comment on view loyalty_api.family_spend is
$$Family spends

Which spends of /statement family asked for, and who. Members only, each of their own points.$$;
comment on column loyalty_api.family_spend.operation_id is 'The spend, as in /statement.';
comment on column loyalty_api.family_spend.account_id is 'The member''s account.';
comment on column loyalty_api.family_spend.family_id is 'Who asked for it, as in /family.';
comment on column loyalty_api.family_spend.relation is 'What the person is to the member.';
comment on column loyalty_api.family_spend.name is 'The person''s name.';
comment on column loyalty_api.family_spend.points is 'Points spent.';
comment on column loyalty_api.family_spend.occurred_at is 'When.';
comment on column loyalty_api.family_spend.reason is 'Why, in the person''s words.';

create function loyalty_api.invite_family(relation text, name text, birth_date text, address text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.invite_family(
        loyalty.api_account(null, '{loyalty_member}'), relation, name, loyalty.api_day('birth_date', birth_date), address);
end
$$;
comment on function loyalty_api.invite_family(text, text, text, text) is
$$Invite family

A member invites one of the family, and is mailed a link to approve it by, within a day. Answers with family_id, relation, name, state and expires_at. 403 LY010 when the program does not admit the relation. Members only.

- `relation`: what the person is to the member: spouse; parent, child, parent_in_law, stepchild; sibling, grandparent, grandchild, sibling_in_law, grandparent_in_law, step_grandchild.
- `name`: the person's name, up to 200 characters.
- `birth_date`: YYYY-MM-DD; the person must give the same to register.
- `address`: e-mail address or mobile number of the person, which becomes the login ID.$$;

create function loyalty_api.approve_family(token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.approve_family(token);
end
$$;
comment on function loyalty_api.approve_family(text) is
$$Approve an invitation

The member approves an invitation from the mail; the person invited is mailed a link to register by, within 7 days. Answers as /rpc/invite_family. 401 LY009 when the link is not good. For everybody with the link.

- `token`: what follows the # in the mailed link.$$;

create function loyalty_api.register_family(token text, birth_date text, password text, terms_version text)
    returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.register_family(token, loyalty.api_day('birth_date', birth_date), password, terms_version);
end
$$;
comment on function loyalty_api.register_family(text, text, text, text) is
$$Register as family

The person invited registers by the mailed link and is signed in: answers with a session, as /rpc/log_in. The address that the mail came to is the login ID from then on; where it is one already, that login is linked. 401 LY009 for a wrong birth date, five of which end the invitation, and for a link that is not good. For everybody with the link.

- `token`: what follows the # in the mailed link.
- `birth_date`: the person's birth date, YYYY-MM-DD.
- `password`: the password for the login; of a login that there is already, its password.
- `terms_version`: version of the terms that the person accepts.$$;

create function loyalty_api.remove_family(family_id bigint) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.remove_family(loyalty.api_account(null, '{loyalty_member}'), family_id);
end
$$;
comment on function loyalty_api.remove_family(bigint) is
$$Remove family

Takes an invitation back, or removes who registered by it, whose access ends at once. Answers with family_id, relation, name and state. Members only.

- `family_id`: number of the invitation, as in /family.$$;
-- Roles, proposals and the audit over HTTP, for administrators of the program.

create view loyalty_api.program_role with (security_invoker = true) as
select r.role_id, p.code as program, r.role, r.identity_id,
       loyalty.login_id_in_role(r.role_id) as login_id, r.monthly_budget,
       loyalty.role_state(r.accepted_at, r.taken_at) as state,
       r.given_at, r.given_by, r.accepted_at, r.taken_at, r.taken_by
  from loyalty.program_role r
  left join loyalty.program p on p.program_id = r.program_id;
comment on view loyalty_api.program_role is
$$Roles

Who may grant and administer, and who could: a row for each time that a role was given. Those that hold: ?state=eq.held. Administrators only; changed with /rpc/give_role and /rpc/take_role.$$;
comment on column loyalty_api.program_role.role_id is 'Number of the giving, for /rpc/take_role.';
comment on column loyalty_api.program_role.program is 'Code of the program; null of an operator.';
comment on column loyalty_api.program_role.role is 'granter, admin or operator.';
comment on column loyalty_api.program_role.identity_id is 'The person, as in /audit; null while it is an offer.';
comment on column loyalty_api.program_role.login_id is 'The person''s login ID.';
comment on column loyalty_api.program_role.monthly_budget is 'Points that a granter may grant in a month; null for no limit.';
comment on column loyalty_api.program_role.state is 'held, offered (by mail, not accepted yet) or taken.';
comment on column loyalty_api.program_role.given_at is 'When it was given or offered.';
comment on column loyalty_api.program_role.given_by is 'Who gave it.';
comment on column loyalty_api.program_role.accepted_at is 'Since when the person has it.';
comment on column loyalty_api.program_role.taken_at is 'When it was taken away.';
comment on column loyalty_api.program_role.taken_by is 'Who took it.';

create view loyalty_api.grant_proposal with (security_invoker = true) as
select g.proposal_id, p.code as program, g.account_id, a.member_no, g.points, loyalty.csv_cell(g.reason) as reason,
       g.granted_on, g.expires_on, loyalty.proposal_state(g.decided_at, g.operation_id) as state,
       g.proposed_at, g.proposed_by, g.decided_at, g.decided_by, g.operation_id,
       loyalty.csv_cell(g.decision_reason) as decision_reason
  from loyalty.grant_proposal g
  join loyalty.program p on p.program_id = g.program_id
  join loyalty.account a on a.account_id = g.account_id;
comment on view loyalty_api.grant_proposal is
$$Proposed grants

Grants that one administrator proposed and another decides. Open ones: ?state=eq.open. Administrators only.$$;
comment on column loyalty_api.grant_proposal.proposal_id is 'Number of the proposal.';
comment on column loyalty_api.grant_proposal.program is 'Code of the program.';
comment on column loyalty_api.grant_proposal.account_id is 'Who is to get the points.';
comment on column loyalty_api.grant_proposal.member_no is 'The member''s number in the program.';
comment on column loyalty_api.grant_proposal.points is 'How many points.';
comment on column loyalty_api.grant_proposal.reason is 'Why, in the proposer''s words.';
comment on column loyalty_api.grant_proposal.granted_on is 'The day that counts for their terms; null for the day of the approval.';
comment on column loyalty_api.grant_proposal.expires_on is 'Last day they can be spent; null goes by the program''s policy.';
comment on column loyalty_api.grant_proposal.state is 'open, approved or rejected.';
comment on column loyalty_api.grant_proposal.proposed_at is 'When it was proposed.';
comment on column loyalty_api.grant_proposal.proposed_by is 'Who proposed it.';
comment on column loyalty_api.grant_proposal.decided_at is 'When it was decided.';
comment on column loyalty_api.grant_proposal.decided_by is 'Who decided it.';
comment on column loyalty_api.grant_proposal.operation_id is 'The grant, as in /statement.';
comment on column loyalty_api.grant_proposal.decision_reason is 'Why it was rejected.';

create view loyalty_api.audit with (security_invoker = true) as
select u.audit_id, u.at, p.code as program, u.actor, u.address, u.action, u.outcome, u.identity_id, u.account_id,
       u.details
  from loyalty.audit u
  left join loyalty.program p on p.program_id = u.program_id;
comment on view loyalty_api.audit is
$$Audit

Who did what, when and from where: each administrative call, and each call about somebody's login. Lines are never changed. Latest first: ?order=audit_id.desc; of one person: ?identity_id=eq.… . Administrators only.$$;
comment on column loyalty_api.audit.audit_id is 'Number of the line.';
comment on column loyalty_api.audit.at is 'When.';
comment on column loyalty_api.audit.program is 'Code of the program.';
comment on column loyalty_api.audit.actor is 'Who: role and subject of the token, or the database user.';
comment on column loyalty_api.audit.address is 'Address of the client.';
comment on column loyalty_api.audit.action is 'What: the name of the function.';
comment on column loyalty_api.audit.outcome is 'done, or refused where a call counted although it was in vain.';
comment on column loyalty_api.audit.identity_id is 'The person it was about.';
comment on column loyalty_api.audit.account_id is 'The member''s account it was about.';
comment on column loyalty_api.audit.details is 'What else matters, as an object.';

create function loyalty.api_administers(program_id integer) returns boolean
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty.api_role() <> all ('{loyalty_admin,loyalty_operator}') then
        perform loyalty.api_refuse('Ask as an administrator of the program.');
    end if;
    return loyalty.api_role() = 'loyalty_operator' or program_id is not distinct from loyalty.api_program();
end
$$;
comment on function loyalty.api_administers is
    'Whether a request comes from an administrator of that program, or an operator; LY010 from anybody else.';

create function loyalty_api.give_role(
    login_id text,
    role text,
    monthly_budget numeric default null,
    program text default null
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if role is distinct from 'operator' then
        program := loyalty.api_admin_program(program);
    elsif loyalty.api_role() <> 'loyalty_operator' then
        perform loyalty.api_refuse('Only operators make operators.');
    end if;
    return loyalty.give_role(program, login_id, role, loyalty.api_points(monthly_budget));
end
$$;
comment on function loyalty_api.give_role(text, text, numeric, text) is
$$Give a role

Makes somebody granter or administrator of the program. Who has no login in the program yet is mailed an offer, good for 7 days. Given again it changes a granter's budget and sends an open offer anew. Answers with role_id, program, role, login_id, monthly_budget and state. Administrators only; operators are made by operators.

- `login_id`: e-mail address or mobile number that the person logs in by, or is to.
- `role`: granter, admin or operator.
- `monthly_budget`: points that a granter may grant in a month of the program's time zone; no limit when left out.
- `program`: code of the program. Needed by operators, but not for role operator; an administrator's is in the token.$$;

create function loyalty_api.accept_invitation(token text, password text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.accept_invitation(token, password);
end
$$;
comment on function loyalty_api.accept_invitation(text, text) is
$$Accept a role

Accepts a role by the mailed link, and signs the person in: answers with a session, as /rpc/log_in. 401 LY009 when the link is not good. For everybody with the link.

- `token`: what follows the # in the mailed link.
- `password`: the password for the login; of a login that there is already, its password.$$;

create function loyalty_api.take_role(role_id bigint) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if not loyalty.api_administers(
           (select r.program_id from loyalty.program_role r where r.role_id = take_role.role_id)) then
        perform loyalty.raise('LY002', 'no such role', format('The program has no role %s.', coalesce(take_role.role_id::text, 'null')),
            'The role_id is in /program_role.');
    end if;
    return loyalty.take_role(take_role.role_id);
end
$$;
comment on function loyalty_api.take_role(bigint) is
$$Take a role away

Takes a role, or the offer of one, away; the person's sessions in it end at once. Answers as /rpc/give_role. 403 LY010 when the last administrator would take their own. Administrators only.

- `role_id`: number of the giving, as in /program_role.$$;

create function loyalty_api.propose_grant(
    account_id bigint,
    points numeric,
    reason text default null,
    granted_on text default null,
    expires_on text default null
) returns loyalty_api.grant_proposal
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    made loyalty.grant_proposal := loyalty.propose_grant(
        loyalty.api_account(propose_grant.account_id, '{loyalty_admin,loyalty_operator}'),
        loyalty.api_points(propose_grant.points), propose_grant.reason,
        loyalty.api_day('granted_on', propose_grant.granted_on), loyalty.api_day('expires_on', propose_grant.expires_on));
    answer loyalty_api.grant_proposal;
begin
    select v.* into answer from loyalty_api.grant_proposal v where v.proposal_id = made.proposal_id;
    return answer;
end
$$;
comment on function loyalty_api.propose_grant(bigint, numeric, text, text, text) is
$$Propose a grant

Proposes a grant of more points than one administrator may give, for another one to approve, and answers with the proposal. Administrators only.

- `account_id`: who is to get them.
- `points`: how many, a whole number from 1.
- `reason`: why, in your words, up to 1,000 characters.
- `granted_on`: the day that counts for their terms, YYYY-MM-DD; the day of the approval when left out.
- `expires_on`: the last day they can be spent, YYYY-MM-DD; by the program's expiry policy when left out.$$;

create function loyalty.api_proposal(proposal_id bigint) returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if not loyalty.api_administers(
           (select p.program_id from loyalty.grant_proposal p where p.proposal_id = api_proposal.proposal_id)) then
        perform loyalty.raise('LY002', 'no such proposal',
            format('The program has no proposal %s.', coalesce(proposal_id::text, 'null')), '/grant_proposal lists them.');
    end if;
    return proposal_id;
end
$$;
comment on function loyalty.api_proposal is
    'The proposal that a request is about, once it is sure that an administrator of its program asks.';

create function loyalty_api.approve_grant(proposal_id bigint) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.approve_grant(loyalty.api_proposal(proposal_id));
end
$$;
comment on function loyalty_api.approve_grant(bigint) is
$$Approve a grant

Grants what another administrator proposed, and answers with a receipt. 403 LY010 for the proposer, 409 LY006 once it was decided. Administrators only.

- `proposal_id`: number of the proposal, as in /grant_proposal.$$;

create function loyalty_api.reject_grant(proposal_id bigint, reason text default null)
    returns loyalty_api.grant_proposal
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.grant_proposal := loyalty.reject_grant(
        loyalty.api_proposal(reject_grant.proposal_id), reject_grant.reason);
    answer loyalty_api.grant_proposal;
begin
    select v.* into answer from loyalty_api.grant_proposal v where v.proposal_id = held.proposal_id;
    return answer;
end
$$;
comment on function loyalty_api.reject_grant(bigint, text) is
$$Reject a grant

Closes a proposal without granting, one's own too, and answers with it. 409 LY006 once it was decided. Administrators only.

- `proposal_id`: number of the proposal, as in /grant_proposal.
- `reason`: why, in your words, up to 1,000 characters.$$;
-- Arguments that fit no function of loyalty_api are answered in our words instead of
-- PostgREST's, which takes the one with a lone nameless json where nothing else fits. (No
-- function has a jsonb as its only argument, since PostgREST would give it the whole body.)
-- Of functions of one name PostgREST's page shows the one with the most arguments, then with the
-- comment that sorts last: the parenthesis sorts before every letter. One without arguments
-- would lose in any case, so its comment is here too.
do $$
declare
    function_name text;
    shown text;
begin
    for function_name, shown in
        select p.proname, max(pg_catalog.obj_description(p.oid, 'pg_proc')) filter (where p.pronargs = 0)
          from pg_catalog.pg_proc p
         where p.pronamespace = 'loyalty_api'::regnamespace
         group by p.proname
         order by 1
    loop
        execute pg_catalog.format(
            'create function loyalty_api.%1$I(json) returns void
                 language sql stable security definer set search_path = pg_catalog, pg_temp
                 return loyalty.api_arguments(%1$L);
             comment on function loyalty_api.%1$I(json) is %2$L',
            function_name, coalesce(shown, '(Tells the arguments of ' || function_name || '.)'));
    end loop;
end
$$;
-- Who may do what, in one place. First nobody; then each role what its work needs.

revoke all on all tables in schema loyalty, loyalty_api from public;
revoke all on all functions in schema loyalty, loyalty_api from public;
revoke all on all procedures in schema loyalty, loyalty_api from public;

-- USAGE shows names and no more; PostgREST's pre_request is in schema loyalty.
grant usage on schema loyalty, loyalty_api
    to loyalty_anon, loyalty_member, loyalty_family, loyalty_granter, loyalty_admin, loyalty_operator;

-- An operator works from SQL, on every program.
grant select on all tables in schema loyalty to loyalty_operator;
grant execute on all functions in schema loyalty to loyalty_operator;
grant execute on all procedures in schema loyalty to loyalty_operator;
grant insert, update, delete on loyalty.calendar, loyalty.calendar_day to loyalty_operator;
grant update (name, point_name, time_zone, calendar, expiry, refund_grace_days) on loyalty.program
    to loyalty_operator;
grant set on parameter loyalty.clock to loyalty_operator;
-- These are steps of other functions, never asked for alone.
revoke execute on function
    loyalty.forfeit(bigint, text),
    loyalty.set_account_status(bigint, loyalty.account_status),
    loyalty.guard_ledger(),
    loyalty.change_schedule(text, text, boolean),
    loyalty.claim_period(integer, text),
    loyalty.advance_schedule(integer, text, date),
    loyalty.finish_run(bigint, text, text),
    loyalty.run_expire_chunk(loyalty.run, bigint),
    loyalty.run_rule_chunk(loyalty.run, bigint),
    loyalty.run_rule_step(loyalty.run, bigint),
    loyalty.run_notice_chunk(loyalty.run, bigint),
    loyalty.program_replanned()
    from loyalty_operator;
-- Nor are passwords, codes and keys for an operator: what makes or reads them is called by the
-- functions that need it only, and what is stored of them is read by nobody.
revoke all on loyalty.credential, loyalty.member_key, loyalty.challenge, loyalty.throttle from loyalty_operator;
revoke all on loyalty.registration from loyalty_operator;
revoke all on loyalty.session, loyalty.refresh_token from loyalty_operator;
revoke execute on function
    loyalty.hash_password(text),
    loyalty.check_password(text, text),
    loyalty.keyed_hashes(text, text),
    loyalty.keyed_code(text, text, integer),
    loyalty.is_keyed_code(text, text, integer, text),
    loyalty.random_token(),
    loyalty.sign_token(text),
    loyalty.own_claims(text),
    loyalty.set_password(bigint, text),
    loyalty.audit(text, integer, bigint, bigint, jsonb, text),
    loyalty.guard_audit(),
    loyalty.refuse(text, text, text, text, interval),
    loyalty.refuse_attempt(interval),
    loyalty.begin_attempt(text, text),
    loyalty.attempt_failed(text, text, boolean),
    loyalty.attempt_succeeded(text, text),
    loyalty.send_notice(integer, bigint, text, text, text, jsonb, interval, uuid),
    loyalty.new_challenge(text, integer, bigint, bigint, text, jsonb, interval),
    loyalty.challenge_code(uuid, text, integer),
    loyalty.challenge_token(uuid),
    loyalty.challenge_of_token(text, text[]),
    loyalty.try_code(uuid, text, text, integer),
    loyalty.use_challenge(uuid),
    loyalty.challenge_context(loyalty.notice),
    loyalty.write_keys(integer, jsonb),
    loyalty.random_key(integer),
    loyalty.registration_of(text),
    loyalty.registration_stage(loyalty.registration, text[]),
    loyalty.registration_name(loyalty.registration),
    loyalty.check_details(loyalty.registration, text, date),
    loyalty.link_member(loyalty.registration),
    loyalty.fill_contact(bigint, text),
    loyalty.send_code(loyalty.registration),
    loyalty.take_proof(loyalty.registration, text),
    loyalty.drop_provisional(bigint),
    loyalty.session_tokens(uuid),
    loyalty.session_life(integer, boolean),
    loyalty.start_session(bigint, integer, text, bigint, boolean),
    loyalty.end_sessions(bigint, integer, text, bigint, uuid),
    loyalty.pad(timestamptz),
    loyalty.is_live_session(text, text),
    loyalty.provider_claims(jsonb),
    loyalty.login_subject(text, integer),
    loyalty.find_login(text, integer),
    loyalty.login_subjects(bigint),
    loyalty.is_locked(bigint),
    loyalty.release_login(bigint),
    loyalty.try_password(loyalty.identity, text, text),
    loyalty.prove_password(text, text, integer),
    loyalty.login_places(bigint, integer, text, bigint),
    loyalty.reach(loyalty.identity, integer),
    loyalty.replace_password(bigint, integer, text, uuid),
    loyalty.check_passwords(text, text),
    loyalty.refuse_link(),
    loyalty.open_application(bigint, text[]),
    loyalty.find_person(text, integer),
    loyalty.opens_more(bigint, integer),
    loyalty.set_identity_state(text, bigint, integer, text[], text, text),
    loyalty.provider_of(text, text),
    loyalty.identity_changed(),
    loyalty.identity_link_changed()
    from loyalty_operator;

-- Plain rules that hold nothing: for everybody who has USAGE of the schema.
grant execute on function
    loyalty.now(),
    loyalty.is_business_day(date, text),
    loyalty.next_business_day(date, text),
    loyalty.business_day_of_month(date, integer, text),
    loyalty.next_business_15th(date, text),
    loyalty.expires_on(loyalty.expiry_policy, date),
    loyalty.is_time_zone(text),
    loyalty.expiry_policy_in(cstring),
    loyalty.expiry_policy_out(loyalty.expiry_policy),
    loyalty.expiry_policy_send(loyalty.expiry_policy)
    to public;

-- HTTP: what each role's views read, cut to its rows below. Roles without USAGE of the
-- exposed schema's functions are told why by the functions themselves (LY009, LY010).
grant execute on all functions in schema loyalty_api
    to loyalty_anon, loyalty_member, loyalty_family, loyalty_granter, loyalty_admin, loyalty_operator;
grant execute on function loyalty.pre_request(), loyalty.look_at_request(), loyalty.believed_claims(), loyalty.check_request()
    to loyalty_anon, loyalty_member, loyalty_family, loyalty_granter, loyalty_admin;
grant select on loyalty_api.balance, loyalty_api.lot, loyalty_api.statement, loyalty_api.member
    to loyalty_member, loyalty_admin, loyalty_operator;
grant select on loyalty.program, loyalty.account, loyalty.entry, loyalty.statement_line, loyalty.member
    to loyalty_member, loyalty_admin;
grant select on loyalty_api.schedule, loyalty_api.run, loyalty_api.run_failure
    to loyalty_admin, loyalty_operator;
grant select on loyalty_api.rule, loyalty_api.event to loyalty_admin, loyalty_operator;
grant select on loyalty_api.login_application to loyalty_admin, loyalty_operator;
grant select on loyalty.login_application to loyalty_admin;
grant select on loyalty.rule, loyalty.event to loyalty_admin;
grant select on loyalty.schedule, loyalty.run, loyalty.run_failure
    to loyalty_admin;
-- What is written there is checked by the trigger, and can be read by nobody.
grant insert on loyalty.member_upload, loyalty_api.member_upload to loyalty_admin, loyalty_operator;
grant select on loyalty_api.access_policy to loyalty_admin, loyalty_operator;
grant select on loyalty.access_policy to loyalty_admin;
-- The own_ readings look at who asks; loyalty.balance and the like, which see every
-- account, are for applications that a DBA trusts.
grant execute on function
    loyalty.own_balance(bigint),
    loyalty.own_lots(bigint),
    loyalty.csv_cell(text),
    loyalty.claim(text),
    loyalty.claim_account_id(),
    loyalty.claim_program_id()
    to loyalty_member, loyalty_admin;

-- Notices: a member's own and what they want, an administrator's program.
grant select on loyalty_api.notice_preference, loyalty_api.notice
    to loyalty_member, loyalty_admin, loyalty_operator;
grant select on loyalty_api.notice_problem, loyalty_api.notice_setting, loyalty_api.notice_template
    to loyalty_admin, loyalty_operator;
grant select on loyalty.notice, loyalty.notice_preference, loyalty.notice_setting
    to loyalty_member, loyalty_admin;
grant select on loyalty.notice_problem, loyalty.notice_template to loyalty_admin;
grant execute on function loyalty.notice_state(integer, timestamptz, timestamptz, timestamptz)
    to loyalty_member, loyalty_admin;
-- The relay takes and reports by these, and reads no table.
grant usage on schema loyalty to loyalty_relay;
grant execute on function
    loyalty.claim_notices(integer, interval, text[]),
    loyalty.notice_sent(bigint, integer),
    loyalty.notice_failed(bigint, integer, text, boolean),
    loyalty.release_notices(bigint[], integer[]),
    loyalty.notice_backlog()
    to loyalty_relay;
-- What is claimed has codes and links in it: for nobody else.
revoke execute on function
    loyalty.claim_notices(integer, interval, text[]),
    loyalty.fill_notice(loyalty.notice),
    loyalty.settle_failed_notice(bigint, text, boolean)
    from loyalty_operator;

-- Family sees a member's points and nothing of the member.
grant select on loyalty_api.balance, loyalty_api.lot, loyalty_api.statement to loyalty_family;
grant select on loyalty.program, loyalty.account, loyalty.entry, loyalty.statement_line to loyalty_family;
grant execute on function
    loyalty.own_balance(bigint),
    loyalty.own_lots(bigint),
    loyalty.csv_cell(text),
    loyalty.claim(text),
    loyalty.claim_account_id(),
    loyalty.claim_program_id(),
    loyalty.family_account_id()
    to loyalty_family;
grant select on loyalty_api.family, loyalty_api.family_spend to loyalty_member, loyalty_operator;
grant select on loyalty.family, loyalty.family_spend to loyalty_member;
grant execute on function
    loyalty.family_login_id(bigint),
    loyalty.family_state(timestamptz, timestamptz, timestamptz, timestamptz)
    to loyalty_member;

-- Who runs a program, and what they did.
grant select on loyalty_api.program_role, loyalty_api.grant_proposal, loyalty_api.audit
    to loyalty_admin, loyalty_operator;
grant select on loyalty.program_role, loyalty.grant_proposal, loyalty.audit to loyalty_admin;
grant execute on function
    loyalty.login_id_in_role(bigint),
    loyalty.role_state(timestamptz, timestamptz),
    loyalty.proposal_state(timestamptz, bigint)
    to loyalty_admin;
revoke execute on function
    loyalty.family_of_token(text, text),
    loyalty.prove_identity(loyalty.access_policy, text, text),
    loyalty.hold_budget(integer),
    loyalty.count_grants(integer, bigint[]),
    loyalty.audit_operation(text, loyalty.receipt),
    loyalty.end_grant(text, loyalty.receipt, boolean),
    loyalty.end_grants(integer, bigint[], bigint[], bigint),
    loyalty.open_proposal(bigint)
    from loyalty_operator;
revoke insert, update, delete, truncate on loyalty.audit from loyalty_operator;

alter table loyalty.program enable row level security;
alter table loyalty.account enable row level security;
alter table loyalty.wallet enable row level security;
alter table loyalty.entry enable row level security;
alter table loyalty.lot_class enable row level security;
alter table loyalty.schedule enable row level security;
alter table loyalty.run enable row level security;
alter table loyalty.run_failure enable row level security;
alter table loyalty.member enable row level security;
alter table loyalty.rule enable row level security;
alter table loyalty.event enable row level security;
alter table loyalty.service_hours enable row level security;

create policy operator on loyalty.program to loyalty_operator using (true);
create policy operator on loyalty.account to loyalty_operator using (true);
create policy operator on loyalty.wallet to loyalty_operator using (true);
create policy operator on loyalty.entry to loyalty_operator using (true);
create policy operator on loyalty.lot_class to loyalty_operator using (true);
create policy operator on loyalty.schedule to loyalty_operator using (true);
create policy operator on loyalty.run to loyalty_operator using (true);
create policy operator on loyalty.run_failure to loyalty_operator using (true);
create policy operator on loyalty.member to loyalty_operator using (true);
create policy operator on loyalty.rule to loyalty_operator using (true);
create policy operator on loyalty.event to loyalty_operator using (true);
create policy operator on loyalty.service_hours to loyalty_operator using (true);

alter table loyalty.notice enable row level security;
alter table loyalty.notice_setting enable row level security;
alter table loyalty.notice_sender enable row level security;
alter table loyalty.notice_preference enable row level security;
alter table loyalty.notice_template enable row level security;
create policy operator on loyalty.notice to loyalty_operator using (true);
create policy operator on loyalty.notice_setting to loyalty_operator using (true);
create policy operator on loyalty.notice_sender to loyalty_operator using (true);
create policy operator on loyalty.notice_preference to loyalty_operator using (true);
create policy operator on loyalty.notice_template to loyalty_operator using (true);
create policy own_notice on loyalty.notice for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.notice for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.notice_setting for select to loyalty_member, loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.notice_template for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()) or program_id is null);
create policy own_account on loyalty.notice_preference for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and (select true from loyalty.account a where a.account_id = notice_preference.account_id));
create policy own_program on loyalty.notice_preference for select to loyalty_admin
    using ((select true from loyalty.account a where a.account_id = notice_preference.account_id));

create policy own_program on loyalty.program for select to loyalty_member, loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_account on loyalty.account for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.account for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_record on loyalty.member for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.member for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.rule for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.event for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.schedule for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.run for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.run_failure for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
-- The journal names no program: the policy on account does the looking, by index for each
-- line read. With EXISTS the planner may hash all of a program's accounts for one of them.
create policy own_account on loyalty.entry for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and (select true from loyalty.account a where a.account_id = entry.account_id));
create policy own_program on loyalty.entry for select to loyalty_admin
    using ((select true from loyalty.account a where a.account_id = entry.account_id));

-- Accounts of people. Tables without a policy are read by their owner only.
alter table loyalty.access_policy enable row level security;
alter table loyalty.identity enable row level security;
alter table loyalty.identity_link enable row level security;
alter table loyalty.credential enable row level security;
alter table loyalty.registration enable row level security;
alter table loyalty.member_key enable row level security;
alter table loyalty.throttle enable row level security;
alter table loyalty.challenge enable row level security;
alter table loyalty.session enable row level security;
alter table loyalty.refresh_token enable row level security;
alter table loyalty.login_application enable row level security;
alter table loyalty.identity_provider enable row level security;
alter table loyalty.identity_provider_link enable row level security;
create policy operator on loyalty.login_application to loyalty_operator using (true);
create policy operator on loyalty.identity_provider to loyalty_operator using (true);
create policy operator on loyalty.identity_provider_link to loyalty_operator using (true);
create policy own_program on loyalty.login_application for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
alter table loyalty.audit enable row level security;
create policy operator on loyalty.access_policy to loyalty_operator using (true);
create policy own_program on loyalty.access_policy for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy operator on loyalty.identity to loyalty_operator using (true);
create policy operator on loyalty.identity_link to loyalty_operator using (true);
create policy operator on loyalty.audit to loyalty_operator using (true);

-- Families and staff
alter table loyalty.family enable row level security;
alter table loyalty.family_spend enable row level security;
alter table loyalty.program_role enable row level security;
alter table loyalty.granter_grant enable row level security;
alter table loyalty.grant_proposal enable row level security;
create policy operator on loyalty.family to loyalty_operator using (true);
create policy operator on loyalty.family_spend to loyalty_operator using (true);
create policy operator on loyalty.program_role to loyalty_operator using (true);
create policy operator on loyalty.granter_grant to loyalty_operator using (true);
create policy operator on loyalty.grant_proposal to loyalty_operator using (true);
create policy own_account on loyalty.family for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and program_id = (select loyalty.claim_program_id()));
create policy own_account on loyalty.family_spend for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and (select true from loyalty.account a where a.account_id = family_spend.account_id));
create policy members_program on loyalty.program for select to loyalty_family
    using (program_id = (select loyalty.claim_program_id()));
create policy members_account on loyalty.account for select to loyalty_family
    using (account_id = (select loyalty.family_account_id()));
create policy members_account on loyalty.entry for select to loyalty_family
    using (account_id = (select loyalty.family_account_id()));
create policy own_program on loyalty.program_role for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.grant_proposal for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.audit for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));

-- A dump carries what users own; the rest comes with CREATE EXTENSION.
select pg_catalog.pg_extension_config_dump('loyalty.program', '');
select pg_catalog.pg_extension_config_dump('loyalty.program_program_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.lot_class', '');
select pg_catalog.pg_extension_config_dump('loyalty.calendar', '');
select pg_catalog.pg_extension_config_dump('loyalty.calendar_day', '');
select pg_catalog.pg_extension_config_dump('loyalty.account', '');
select pg_catalog.pg_extension_config_dump('loyalty.account_account_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.entry', '');
select pg_catalog.pg_extension_config_dump('loyalty.wallet', '');
select pg_catalog.pg_extension_config_dump('loyalty.member', '');
select pg_catalog.pg_extension_config_dump('loyalty.rule', '');
select pg_catalog.pg_extension_config_dump('loyalty.event', '');
select pg_catalog.pg_extension_config_dump('loyalty.event_event_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.service_hours', '');
select pg_catalog.pg_extension_config_dump('loyalty.schedule', '');
select pg_catalog.pg_extension_config_dump('loyalty.run', '');
select pg_catalog.pg_extension_config_dump('loyalty.run_failure', '');
select pg_catalog.pg_extension_config_dump('loyalty.run_run_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.notice_setting', '');
select pg_catalog.pg_extension_config_dump('loyalty.notice_sender', '');
select pg_catalog.pg_extension_config_dump('loyalty.notice_preference', '');
-- the supplied ones come with the extension
select pg_catalog.pg_extension_config_dump('loyalty.notice_template', 'where program_id is not null');
select pg_catalog.pg_extension_config_dump('loyalty.notice', '');
select pg_catalog.pg_extension_config_dump('loyalty.notice_notice_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.access_policy', '');
select pg_catalog.pg_extension_config_dump('loyalty.identity', '');
select pg_catalog.pg_extension_config_dump('loyalty.identity_identity_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.credential', '');
select pg_catalog.pg_extension_config_dump('loyalty.identity_link', '');
select pg_catalog.pg_extension_config_dump('loyalty.member_key', '');
select pg_catalog.pg_extension_config_dump('loyalty.registration', '');
select pg_catalog.pg_extension_config_dump('loyalty.registration_registration_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.throttle', '');
select pg_catalog.pg_extension_config_dump('loyalty.challenge', '');
select pg_catalog.pg_extension_config_dump('loyalty.session', '');
select pg_catalog.pg_extension_config_dump('loyalty.refresh_token', '');
select pg_catalog.pg_extension_config_dump('loyalty.login_application', '');
select pg_catalog.pg_extension_config_dump('loyalty.login_application_application_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.identity_provider', '');
select pg_catalog.pg_extension_config_dump('loyalty.identity_provider_link', '');
select pg_catalog.pg_extension_config_dump('loyalty.audit', '');
select pg_catalog.pg_extension_config_dump('loyalty.audit_audit_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.family', '');
select pg_catalog.pg_extension_config_dump('loyalty.family_family_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.family_spend', '');
select pg_catalog.pg_extension_config_dump('loyalty.program_role', '');
select pg_catalog.pg_extension_config_dump('loyalty.program_role_role_id_seq', '');
select pg_catalog.pg_extension_config_dump('loyalty.granter_grant', '');
select pg_catalog.pg_extension_config_dump('loyalty.grant_proposal', '');
select pg_catalog.pg_extension_config_dump('loyalty.grant_proposal_proposal_id_seq', '');
