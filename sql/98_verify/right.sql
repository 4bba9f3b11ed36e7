-- Who may do what here.
grant execute on function
    loyalty.verify
    to loyalty_operator;
