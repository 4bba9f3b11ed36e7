-- Who may do what here.
grant select on loyalty_api.family, loyalty_api.family_spend
    to loyalty_member, loyalty_operator;
grant select on loyalty.family, loyalty.family_spend
    to loyalty_member;
grant execute on function
    loyalty.family_account_id()
    to loyalty_family;
grant execute on function
    loyalty.family_login_id(bigint),
    loyalty.family_state(timestamptz, timestamptz, timestamptz, timestamptz)
    to loyalty_member;
grant execute on function
    loyalty.family_login_id,
    loyalty.family_state,
    loyalty.invite_family,
    loyalty.approve_family,
    loyalty.register_family,
    loyalty.remove_family,
    loyalty.leave_family,
    loyalty.family_account_id,
    loyalty.spend_as_family
    to loyalty_operator;
create policy own_account on loyalty.family for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and program_id = (select loyalty.claim_program_id()));
create policy own_account on loyalty.family_spend for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and (select true from loyalty.account a where a.account_id = family_spend.account_id));
create policy members_account on loyalty.account for select to loyalty_family
    using (account_id = (select loyalty.family_account_id()));
create policy members_account on loyalty.entry for select to loyalty_family
    using (account_id = (select loyalty.family_account_id()));
