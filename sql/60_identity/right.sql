-- Who may do what here.
grant select on loyalty_api.login_application, loyalty_api.access_policy
    to loyalty_admin, loyalty_operator;
grant select on loyalty.login_application, loyalty.access_policy, loyalty.program_role
    to loyalty_admin;
grant execute on function
    loyalty.degree_of_kinship,
    loyalty.device_life,
    loyalty.refresh_grace,
    loyalty.role_of,
    loyalty.set_access_policy,
    loyalty.issue_many_keys,
    loyalty.issue_keys,
    loyalty.unlock_identity,
    loyalty.suspend_identity,
    loyalty.resume_identity,
    loyalty.close_identity,
    loyalty.apply_for_login,
    loyalty.approve_application,
    loyalty.refuse_application,
    loyalty.accept_login,
    loyalty.log_in,
    loyalty.refresh,
    loyalty.end_session,
    loyalty.log_out_everywhere,
    loyalty.change_password,
    loyalty.purge_logins,
    loyalty.request_login_change,
    loyalty.confirm_login_change,
    loyalty.purge_access,
    loyalty.set_identity_provider,
    loyalty.remove_identity_provider,
    loyalty.link_subject,
    loyalty.unlink_subject,
    loyalty.request_password_reset,
    loyalty.reset_password,
    loyalty.request_unlock,
    loyalty.unlock,
    loyalty.begin_registration,
    loyalty.choose_login,
    loyalty.resend_code,
    loyalty.verify_code,
    loyalty.log_in_to_link,
    loyalty.confirm_registration
    to loyalty_operator;
create policy own_program on loyalty.login_application for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.access_policy for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.program_role for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
