create function loyalty_private.grant_items(items text, program_id integer)
    returns table (
        item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
        points bigint, balance bigint, available bigint, occurred_at timestamptz,
        error_code text, error text, error_detail text, error_reason text, error_field text
    )
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_grant_many';
comment on function loyalty_private.grant_items is
    'loyalty.grant_many for the accounts of one program (all when null); others are told not to exist.';

create function loyalty_private.spend_items(items text, program_id integer)
    returns table (
        item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
        points bigint, balance bigint, available bigint, occurred_at timestamptz,
        error_code text, error text, error_detail text, error_reason text, error_field text
    )
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_spend_many';
comment on function loyalty_private.spend_items is
    'loyalty.spend_many for the accounts of one program (all when null); others are told not to exist.';

create function loyalty.grant_many(items jsonb)
    returns table (
        item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
        points bigint, balance bigint, available bigint, occurred_at timestamptz,
        error_code text, error text, error_detail text, error_reason text, error_field text
    )
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_grant_jsonb';
comment on function loyalty.grant_many is
    'Up to 10,000 grants in one call. items: array of objects with account_id, points and, if wanted, reason, granted_on, expires_on, idempotency_key, funding. Each has its own outcome, in order: a receipt, or error_code, error, error_reason and error_field; the good ones are booked whatever the others do.';

create function loyalty.spend_many(items jsonb)
    returns table (
        item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
        points bigint, balance bigint, available bigint, occurred_at timestamptz,
        error_code text, error text, error_detail text, error_reason text, error_field text
    )
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_spend_jsonb';
comment on function loyalty.spend_many is
    'Up to 10,000 spends in one call. items: array of objects with account_id, points and, if wanted, reason, idempotency_key. Each has its own outcome, as in grant_many.';

create function loyalty_private.grant_each(
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
        is_new boolean, code text, message text, reason text
    )
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_grant_each';
comment on function loyalty_private.grant_each is
    'One grant for each place of the arrays, any number of them: the payments of a rule. is_new is false where the key had been used; code is null where all is well, else the SQLSTATE of what that one was refused for. A grant whose last day has passed is booked all the same, and lapses: a payment that downtime delayed.';
