-- Who may do what here.
grant execute on function
    loyalty.csv_cell(text),
    loyalty.claim(text),
    loyalty.claim_account_id(),
    loyalty.claim_program_id()
    to loyalty_member, loyalty_admin, loyalty_family;
grant execute on function
    loyalty.claim,
    loyalty.claim_account_id,
    loyalty.claim_program_id,
    loyalty.is_operator,
    loyalty.csv_cell,
    loyalty.claim_identity_id
    to loyalty_operator;
create policy own_program on loyalty.program for select to loyalty_member, loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy members_program on loyalty.program for select to loyalty_family
    using (program_id = (select loyalty.claim_program_id()));
