-- Who may do what here.
grant insert, update, delete on loyalty.calendar, loyalty.calendar_day
    to loyalty_operator;
grant update (name, point_name, time_zone, calendar, expiry, refund_grace_days) on loyalty.program
    to loyalty_operator;
grant select on loyalty.program
    to loyalty_member, loyalty_admin, loyalty_family;
grant execute on function
    loyalty.is_business_day,
    loyalty.next_business_day,
    loyalty.business_day_of_month,
    loyalty.next_business_15th,
    loyalty.expires_on,
    loyalty.now,
    loyalty.program_id,
    loyalty.today,
    loyalty.create_calendar,
    loyalty.set_calendar_day
    to loyalty_operator;
