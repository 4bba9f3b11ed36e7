-- Who may do what here.
grant execute on function
    loyalty.create_program
    to loyalty_operator;
