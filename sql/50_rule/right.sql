-- Who may do what here.
grant select on loyalty_api.rule, loyalty_api.event
    to loyalty_admin, loyalty_operator;
grant select on loyalty.rule, loyalty.event
    to loyalty_admin;
grant execute on function
    loyalty.rule_periods,
    loyalty.create_rule,
    loyalty.change_rule,
    loyalty.end_rule,
    loyalty.record_event,
    loyalty.cancel_event,
    loyalty.grant_by_rule,
    loyalty.explain_rule,
    loyalty.rule_forecast,
    loyalty.retry_failures
    to loyalty_operator;
create policy own_program on loyalty.rule for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
create policy own_program on loyalty.event for select to loyalty_admin
    using (program_id = (select loyalty.claim_program_id()));
