-- Who may do what here.
grant select on loyalty_api.balance, loyalty_api.lot, loyalty_api.statement
    to loyalty_member, loyalty_admin, loyalty_operator, loyalty_family;
grant select on loyalty.account, loyalty.entry, loyalty.statement_line
    to loyalty_member, loyalty_admin, loyalty_family;
grant execute on function
    loyalty.own_balance(bigint),
    loyalty.own_lots(bigint)
    to loyalty_member, loyalty_admin, loyalty_family;
grant execute on function
    loyalty.own_balance,
    loyalty.own_lots,
    loyalty.grant_many,
    loyalty.spend_many,
    loyalty.open_account,
    loyalty.open_accounts,
    loyalty.grant,
    loyalty.spend_fifo,
    loyalty.hold,
    loyalty.capture,
    loyalty.release,
    loyalty.refund,
    loyalty.revoke,
    loyalty.transfer,
    loyalty.expire(text, date, bigint),
    loyalty.expire(text, timestamptz, bigint),
    loyalty.suspend_account,
    loyalty.resume_account,
    loyalty.close_account,
    loyalty.balance(bigint, timestamptz),
    loyalty.balance(bigint, date),
    loyalty.lots,
    loyalty.explain_spend,
    loyalty.statement,
    loyalty.lock_waits
    to loyalty_operator;
create policy own_account on loyalty.account for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.account for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
-- The journal names no program: the policy on account does the looking, by index for each
-- line read. With EXISTS the planner may hash all of a program's accounts for one of them.
create policy own_account on loyalty.entry for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and (select true from loyalty.account a where a.account_id = entry.account_id));
create policy own_program on loyalty.entry for select to loyalty_admin
    using ((select true from loyalty.account a where a.account_id = entry.account_id));
