-- Steps that several rooms take with an account.

create function loyalty_private.account_program_id(account_id bigint) returns integer
    language sql stable set search_path = pg_catalog, pg_temp
    return (select a.program_id from loyalty.account a where a.account_id = account_program_id.account_id);
comment on function loyalty_private.account_program_id is 'Program of an account.';

create function loyalty_private.is_key_used(account_id bigint, idempotency_key text) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select exists (
        select from loyalty.entry e
         where e.account_id = is_key_used.account_id
           and hashtextextended(e.idempotency_key, 0) = hashtextextended(is_key_used.idempotency_key, 0)
           and e.idempotency_key = is_key_used.idempotency_key);
end;
comment on function loyalty_private.is_key_used is
    'Whether an idempotency key of the account has its operation already, so that a call with it books nothing new.';

create function loyalty_private.audit_operation(action text, receipt loyalty.receipt) returns loyalty.receipt
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    -- what members and their family do, the journal tells
    if loyalty_private.api_role() not in ('loyalty_member', 'loyalty_family') then
        perform loyalty_private.audit(audit_operation.action,
            (select a.program_id from loyalty.account a where a.account_id = receipt.account_id), null,
            receipt.account_id, jsonb_build_object('operation_id', receipt.operation_id, 'points', receipt.points));
    end if;
    return receipt;
end
$$;
comment on function loyalty_private.audit_operation is 'A receipt, once the audit has that a granter or administrator asked for it.';
