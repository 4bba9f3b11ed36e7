-- Who may do what here.
grant execute on function
    loyalty.pre_request(),
    loyalty.look_at_request(),
    loyalty.exchange_token(),
    loyalty.check_request()
    to loyalty_anon, loyalty_member, loyalty_family, loyalty_granter, loyalty_admin;
grant execute on function
    loyalty.pre_request,
    loyalty.look_at_request,
    loyalty.check_request,
    loyalty.exchange_token
    to loyalty_operator;
