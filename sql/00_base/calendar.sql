create function loyalty.is_business_day(day date, calendar text default 'JP') returns boolean
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_is_business_day';
comment on function loyalty.is_business_day is
    'Whether the day is a business day: no weekend, no public holiday, and what loyalty.calendar_day says. Days 1955 to 2099; 22023 for an unknown calendar. Holidays after next year are as the law stands; equinoxes are by astronomy until proclaimed.';

create function loyalty.next_business_day(day date, calendar text default 'JP') returns date
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_next_business_day';
comment on function loyalty.next_business_day is
    'The first business day on or after the day.';

create function loyalty.business_day_of_month(month date, day_of_month integer, calendar text default 'JP')
    returns date
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_business_day_of_month';
comment on function loyalty.business_day_of_month is
    'That day of the month that holds the date (its last day when it is shorter), rolled forward to a business day.';

create function loyalty.next_business_15th(from_day date, calendar text default 'JP') returns date
    language c stable parallel safe security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_next_business_15th';
comment on function loyalty.next_business_15th is
    'The first 15th, each rolled forward to a business day, on or after the day: for 2025-06-01 it is 2025-06-16.';

create function loyalty.expires_on(policy loyalty.expiry_policy, granted_on date) returns date
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_expires_on';
comment on function loyalty.expires_on is
    'The last day on which points granted that day can be spent; null for never. Under an inactivity policy, when nothing happens after the day.';
