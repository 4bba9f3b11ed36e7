-- Who may do what here.
grant select on loyalty_api.member
    to loyalty_member, loyalty_admin, loyalty_operator;
grant select on loyalty.member
    to loyalty_member, loyalty_admin;
grant insert on loyalty.member_upload, loyalty_api.member_upload
    to loyalty_admin, loyalty_operator;
grant execute on function
    loyalty.set_member,
    loyalty.import_members(text, text, boolean, boolean),
    loyalty.import_members(text, bytea, text, boolean, boolean),
    loyalty.set_service_hours,
    loyalty.opens_at
    to loyalty_operator;
create policy uploading on loyalty.member_upload for insert to loyalty_admin, loyalty_operator with check (true);
create policy own_record on loyalty.member for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.member for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
