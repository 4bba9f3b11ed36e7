-- Who may do what here.
grant execute on function loyalty.notice_kinds() to loyalty_member, loyalty_admin;
grant select on loyalty_api.notice_preference, loyalty_api.notice
    to loyalty_member, loyalty_admin, loyalty_operator;
grant select on loyalty.notice, loyalty.notice_preference, loyalty.notice_setting
    to loyalty_member, loyalty_admin;
grant select on loyalty_api.notice_problem, loyalty_api.notice_setting, loyalty_api.notice_template
    to loyalty_admin, loyalty_operator;
grant select on loyalty.notice_problem, loyalty.notice_template
    to loyalty_admin;
grant execute on function
    loyalty.notice_state(integer, timestamptz, timestamptz, timestamptz)
    to loyalty_member, loyalty_admin;
grant execute on function
    loyalty.lease_notices(integer, interval, text[]),
    loyalty.notice_sent(bigint, integer),
    loyalty.notice_failed(bigint, integer, text, boolean),
    loyalty.return_notices(bigint[], integer[]),
    loyalty.notice_backlog()
    to loyalty_relay;
grant execute on function
    loyalty.notice_kinds,
    loyalty.set_notice,
    loyalty.enable_notices,
    loyalty.set_notice_sender,
    loyalty.set_notice_preference,
    loyalty.next_notice,
    loyalty.announce_order,
    loyalty.explain_notices,
    loyalty.notice_sent,
    loyalty.notice_failed,
    loyalty.return_notices,
    loyalty.notice_backlog,
    loyalty.notice_state,
    loyalty.retry_notices,
    loyalty.purge_notices,
    loyalty.set_template,
    loyalty.delete_template,
    loyalty.preview_template
    to loyalty_operator;
create policy own_notice on loyalty.notice for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.notice for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.notice_setting for select to loyalty_member, loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.notice_template for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()) or program_id is null);
create policy own_account on loyalty.notice_preference for select to loyalty_member
    using (account_id = (select loyalty.claim_account_id())
           and (select true from loyalty.account a where a.account_id = notice_preference.account_id));
create policy own_program on loyalty.notice_preference for select to loyalty_admin
    using ((select true from loyalty.account a where a.account_id = notice_preference.account_id));
