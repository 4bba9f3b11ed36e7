-- Who may do what here.
grant select on loyalty.audit
    to loyalty_admin;
create policy own_program on loyalty.audit for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
