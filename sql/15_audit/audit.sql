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

create function loyalty_private.client_address() returns text
    language sql stable set search_path = pg_catalog, pg_temp
    -- whoever else logs in may set the same setting. The last one is what our own proxy saw;
    -- those before it, anybody may have written
    return coalesce(
        case when pg_has_role(session_user, 'loyalty_authenticator', 'member')
             then nullif(left(btrim(regexp_replace(
                      coalesce(nullif(current_setting('request.headers', true), ''), '{}')::json ->> 'x-forwarded-for',
                      '^.*,', '')), 64), '') end,
        host(inet_client_addr()));
comment on function loyalty_private.client_address is
    'Address of the client: what the proxy in front of PostgREST added to X-Forwarded-For, for whoever logged in as a member of loyalty_authenticator or as a superuser; else the connection''s, null on a socket.';

create function loyalty_private.audit(
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
    values (loyalty.now(), audit.program_id, loyalty_private.actor(), loyalty_private.client_address(), audit.action, audit.outcome,
            audit.identity_id, audit.account_id, jsonb_strip_nulls(coalesce(audit.details, '{}')));
end;
comment on function loyalty_private.audit is 'Adds a line to the audit.';

create function loyalty_private.guard_audit() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty_private.raise('LY005', 'append_only', 'the audit is append-only',
        format('%s of loyalty.%s.', tg_op, tg_table_name), 'Lines are added by the calls they are about, and stay.');
    return null;
end
$$;
comment on function loyalty_private.guard_audit is 'Refuses changes of what was recorded.';
create trigger guard before update or delete or truncate on loyalty.audit
    for each statement execute function loyalty_private.guard_audit();
