-- Who may do what here.
grant select on loyalty_api.schedule, loyalty_api.run, loyalty_api.run_failure
    to loyalty_admin, loyalty_operator;
grant select on loyalty.schedule, loyalty.run, loyalty.run_failure
    to loyalty_admin;
grant execute on function
    loyalty.preview,
    loyalty.pause_schedule,
    loyalty.resume_schedule,
    loyalty.install_schedules,
    loyalty.uninstall_schedules,
    loyalty.due_periods,
    loyalty.tick_step,
    loyalty.rerun
    to loyalty_operator;
grant execute on procedure
    loyalty.tick
    to loyalty_operator;
create policy own_program on loyalty.schedule for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.run for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.run_failure for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
