-- Who may do what here.
grant select on loyalty_api.program_role, loyalty_api.grant_proposal, loyalty_api.audit
    to loyalty_admin, loyalty_operator;
grant select on loyalty.grant_proposal
    to loyalty_admin;
grant execute on function
    loyalty.login_id_in_role(bigint),
    loyalty.role_state(timestamptz, timestamptz),
    loyalty.proposal_state(timestamptz, bigint)
    to loyalty_admin;
grant execute on function
    loyalty.proposal_state,
    loyalty.propose_grant,
    loyalty.approve_grant,
    loyalty.reject_grant,
    loyalty.role_state,
    loyalty.give_role,
    loyalty.accept_invitation,
    loyalty.take_role,
    loyalty.login_id_in_role
    to loyalty_operator;
create policy own_program on loyalty.grant_proposal for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
