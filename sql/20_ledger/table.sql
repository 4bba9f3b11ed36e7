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
create function loyalty_private.entry_is_sound(
    entry integer,
    kind loyalty.entry_kind,
    points bigint,
    balance bigint
) returns boolean
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_entry_is_sound';
comment on function loyalty_private.entry_is_sound is
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
    constraint entry_sign_fits_kind check (loyalty_private.entry_is_sound(entry, kind, points, balance))
);
-- Eight bytes a key instead of the key; entry_by_key is probed with the key itself besides.
create unique index entry_by_key on loyalty.entry
    (account_id, hashtextextended(idempotency_key, 0)) where idempotency_key is not null;
create index entry_by_reference on loyalty.entry
    (account_id, refers_to) where refers_to is not null;

create function loyalty_private.wallet_is_sound(
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
comment on function loyalty_private.wallet_is_sound is
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
        loyalty_private.wallet_is_sound(
            balance, debt, lot_expires_on, lot_granted, lot_remaining, lot_class, next_expiry_on)),
    -- Set once, with the first entry. It makes a dump load the journal before the wallets,
    -- which is how the guard tells a restore from a forgery.
    constraint wallet_follows_journal foreign key (account_id, first_entry)
        references loyalty.entry (account_id, entry)
) with (fillfactor = 75);

create function loyalty_private.guard_ledger() returns trigger
    language c
    as 'MODULE_PATHNAME', 'loyalty_guard_ledger';
comment on function loyalty_private.guard_ledger is
    'Refuses what is not an operation''s doing with LY005, but for COPY into an empty ledger, which is how a dump is restored.';

create trigger guard before insert or update or delete or truncate on loyalty.account
    for each statement execute function loyalty_private.guard_ledger();
create trigger guard before insert or update or delete or truncate on loyalty.entry
    for each statement execute function loyalty_private.guard_ledger();
create trigger guard before insert or update or delete or truncate on loyalty.wallet
    for each statement execute function loyalty_private.guard_ledger();
-- what lots were granted on (law 9); a new class changes nothing that is there
create trigger guard before update or delete or truncate on loyalty.lot_class
    for each statement execute function loyalty_private.guard_ledger();

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
