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

create function loyalty_private.expiry_policy_in(cstring) returns loyalty.expiry_policy
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'loyalty_expiry_policy_in';

create function loyalty_private.expiry_policy_out(loyalty.expiry_policy) returns cstring
    language internal immutable strict parallel safe
    as 'textout';

create function loyalty_private.expiry_policy_send(loyalty.expiry_policy) returns bytea
    language internal immutable strict parallel safe
    as 'textsend';

comment on function loyalty_private.expiry_policy_in is 'Reads an expiry policy; 22023 for what is none.';
comment on function loyalty_private.expiry_policy_out is 'Writes an expiry policy, in the one way it is stored.';
comment on function loyalty_private.expiry_policy_send is 'Sends an expiry policy in the binary protocol: its text.';

create type loyalty.expiry_policy (
    input = loyalty_private.expiry_policy_in,
    output = loyalty_private.expiry_policy_out,
    send = loyalty_private.expiry_policy_send,
    like = text,
    category = 'S',
    collatable = true
);
comment on type loyalty.expiry_policy is
$$When granted points lapse, as text: 'never', 'fixed 2027-03-31', '180 days', 'end of month after 3 years', 'after 12 months of inactivity'.$$;

create cast (loyalty.expiry_policy as text) without function as implicit;
create cast (text as loyalty.expiry_policy) with inout as assignment;
