-- Who may reach which account over HTTP.

-- A role whose tokens are for another's account registers what tells which, in its own room.
create table loyalty_private.account_role (
    role text primary key
        constraint account_role_is_ours check (role ~ '^loyalty_[a-z]+$'),
    account_function text not null
        constraint account_role_function_is_ours check (account_function ~ '^loyalty(_private)?\.[a-z_]+$')
);
comment on table loyalty_private.account_role is
    'Roles that reach an account that is not theirs, as family does. Rows come with the extension, each from the folder of its own room.';
comment on column loyalty_private.account_role.role is 'The database role.';
comment on column loyalty_private.account_role.account_function is
    'The account that the request''s token reaches: () returns bigint, null for none any more.';

create function loyalty_private.reached_account(role text) returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    told text := (select r.account_function from loyalty_private.account_role r where r.role = reached_account.role);
    reached bigint;
begin
    if told is not null then
        execute format('select %s()', told) into reached;
    end if;
    return reached;
end
$$;
comment on function loyalty_private.reached_account is 'The account that a role registered in account_role reaches by the request''s token.';

create function loyalty_private.api_account(account_id bigint, roles text[]) returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    asking text := loyalty_private.api_role();
    reached bigint;
    program integer;
begin
    if asking <> all (roles) then
        perform loyalty_private.api_refuse(format('Ask as one of: %s.', array_to_string(roles, ', ')));
    end if;
    if asking = 'loyalty_member' then
        if loyalty.claim_account_id() is null then
            perform loyalty_private.raise('LY010', 'token_without_account', 'not allowed', 'The token names no account.',
                'Ask for a token with the claims program and account_id.');
        end if;
        if account_id <> loyalty.claim_account_id() then
            perform loyalty_private.raise('LY010', 'token_for_other_account', 'not allowed',
                'A member''s token is for its own account.', 'Leave account_id out.', 'account_id');
        end if;
        account_id := loyalty.claim_account_id();
        if not exists (
               select from loyalty.account a
                where a.account_id = api_account.account_id
                  and a.program_id = loyalty.claim_program_id()) then
            perform loyalty_private.raise('LY010', 'token_without_account', 'not allowed',
                'The token''s program has no account of the token''s number.', 'Ask for a new token.');
        end if;
        return account_id;
    elsif asking = 'loyalty_family' then
        -- it may have ended, or the program have changed its mind, since the token was made
        reached := loyalty_private.reached_account(asking);
        if reached is null then
            perform loyalty_private.raise('LY010', 'family_ended', 'not allowed', 'The token is for no family of a member.',
                'Ask the member, or the program.');
        elsif account_id <> reached then
            perform loyalty_private.raise('LY010', 'token_for_other_account', 'not allowed',
                'The token is for another member''s family.', 'Leave account_id out.', 'account_id');
        end if;
        return reached;
    elsif account_id is null then
        perform loyalty_private.raise('22004', 'value_missing', 'account_id must not be null', null, 'Say whose points.',
            'account_id');
    end if;
    program := case when asking <> 'loyalty_operator' then loyalty_private.api_program() end;
    if not exists (
           select from loyalty.account a
            where a.account_id = api_account.account_id
              and (program is null or a.program_id = program)) then
        perform loyalty_private.raise('LY002', 'no_such_account', 'no such account',
            format('The program has no account %s.', account_id), 'The account_id of a member is in /balance.',
            'account_id');
    end if;
    return account_id;
end
$$;
comment on function loyalty_private.api_account is
    'The account that a request is about, once it is sure that the asking role may.';

-- The ledger over HTTP: what each role sees of it, and the operations.

create function loyalty_private.is_members_hold(account_id bigint, operation_id bigint) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp
    return (
        select e.actor ~ '^loyalty_member(:|$)'
          from loyalty.entry e
         where e.account_id = is_members_hold.account_id
           and e.entry = (is_members_hold.operation_id & 16777215)
           and e.kind = 'hold');
comment on function loyalty_private.is_members_hold is 'Whether a member placed the hold over HTTP; null when there is no such hold.';

create function loyalty_private.api_own_hold(account_id bigint, operation_id bigint) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty_private.api_role() = 'loyalty_member'
       and not loyalty_private.is_members_hold(api_own_hold.account_id, api_own_hold.operation_id) then
        perform loyalty_private.raise('LY010', 'hold_of_other', 'not allowed', 'The hold was placed by somebody else.',
            'Only who placed it, or an administrator, captures or releases it.', 'operation_id');
    end if;
end
$$;
comment on function loyalty_private.api_own_hold is 'Keeps members from ending holds that a shop placed.';

create function loyalty_private.api_may_read(account_id bigint) returns boolean
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_api_may_read';
comment on function loyalty_private.api_may_read is 'Whether the account is one that the asking role may see.';
