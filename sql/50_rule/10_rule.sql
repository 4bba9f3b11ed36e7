-- What earns points, as data. A rule is its versions, one after the other; a change adds one and
-- ends the one before, so that what was in force can always be looked up (C7, law 9).

create function loyalty_private.rule_is_sound(kind text, terms text) returns boolean
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_rule_is_sound';
comment on function loyalty_private.rule_is_sound is
    'True when the terms (JSON) are right for that kind of rule; else 22023 with the path of the field that is wrong, what is allowed there, and terms that are right.';

create table loyalty.rule (
    program_id integer not null references loyalty.program,
    code text not null
        constraint rule_code_is_plain check (code ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
    version integer not null
        constraint rule_versions_count_from_1 check (version >= 1),
    kind text not null,
    title text not null
        constraint rule_title_is_short check (char_length(title) between 1 and 200),
    terms jsonb not null,
    valid_from date not null,
    valid_to date,
    expiry loyalty.expiry_policy,
    created_at timestamptz not null,
    created_by text not null,
    primary key (program_id, code, version),
    constraint rule_terms_are_sound check (loyalty_private.rule_is_sound(kind, terms::text)),
    constraint rule_begins_in_the_calendar check (valid_from between '1955-01-01' and '2099-12-31'),
    -- the day before valid_from says that it never came into force
    constraint rule_range_is_forward check (valid_to >= valid_from - 1 and valid_to < 'infinity')
);

comment on table loyalty.rule is
    'What earns points in a program. A row is one version of a rule: its terms, and the days of payment on which they are in force. Written by create_rule, change_rule and end_rule; only valid_to ever changes.';
comment on column loyalty.rule.program_id is 'The program.';
comment on column loyalty.rule.code is 'What calls and idempotency keys name the rule by.';
comment on column loyalty.rule.version is 'Number of the version, from 1; a later one is in force later.';
comment on column loyalty.rule.kind is 'anniversary, event, tenure, birthday, purchase or manual.';
comment on column loyalty.rule.title is 'What members read as the reason of a payment.';
comment on column loyalty.rule.terms is 'Who is paid what, and when; the fields depend on the kind.';
comment on column loyalty.rule.valid_from is 'First day of payment on which the version decides.';
comment on column loyalty.rule.valid_to is 'Last such day; null while there is no end, the day before valid_from when it was replaced before it began.';
comment on column loyalty.rule.expiry is 'When the points lapse; null goes by the program''s policy.';
comment on column loyalty.rule.created_at is 'When the version was written.';
comment on column loyalty.rule.created_by is 'Who wrote it.';

create function loyalty_private.guard_rule() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'UPDATE' then
        if to_jsonb(new) - 'valid_to' = to_jsonb(old) - 'valid_to' then
            return new;
        end if;
    end if;
    perform loyalty_private.raise('LY005', 'rule_append_only', 'versions of a rule cannot be changed',
        format('%s of loyalty.rule was tried.', tg_op),
        'loyalty.change_rule adds a version, loyalty.end_rule ends the last one.');
    return null;
end
$$;
comment on function loyalty_private.guard_rule is
    'Refuses with LY005 what would change or remove a version of a rule.';
create trigger guard before update or delete on loyalty.rule
    for each row execute function loyalty_private.guard_rule();
create trigger guard_all before truncate on loyalty.rule
    for each statement execute function loyalty_private.guard_rule();

create table loyalty.event (
    event_id bigint generated always as identity primary key,
    program_id integer not null references loyalty.program,
    kind text not null,
    account_id bigint not null references loyalty.account,
    other_account_id bigint references loyalty.account
        constraint event_parties_differ check (other_account_id <> account_id),
    occurred_on date not null
        constraint event_day_is_in_the_calendar check (occurred_on between '1955-01-01' and '2099-12-31'),
    -- its month, by which the runs look for it
    month date not null generated always as
        (occurred_on - (extract(day from occurred_on)::integer - 1)) stored,
    amount numeric
        constraint event_amount_is_sane check (amount between 0 and 1000000000000),
    reference text
        constraint event_reference_is_short check (char_length(reference) between 1 and 150),
    attributes jsonb not null default '{}'
        constraint event_attributes_are_an_object check (jsonb_typeof(attributes) = 'object'),
    recorded_on date not null,
    recorded_at timestamptz not null,
    recorded_by text not null,
    canceled_at timestamptz,
    canceled_by text,
    cancel_reason text
        constraint event_cancel_reason_is_short check (char_length(cancel_reason) <= 1000),
    constraint event_reference_is_once unique (program_id, kind, reference)
);
create index event_by_member on loyalty.event (program_id, kind, month, account_id);
create index event_by_other_member on loyalty.event (program_id, kind, month, other_account_id)
    where other_account_id is not null;
create index event_of_account on loyalty.event (account_id);
create index event_of_other_account on loyalty.event (other_account_id)
    where other_account_id is not null;

comment on table loyalty.event is
    'What happened that rules pay for: a referral signed, a purchase. Recorded by loyalty.record_event.';
comment on column loyalty.event.event_id is 'Number of the event.';
comment on column loyalty.event.program_id is 'The program.';
comment on column loyalty.event.kind is 'What happened, as rules call it.';
comment on column loyalty.event.account_id is 'Who it is about: who referred, who bought.';
comment on column loyalty.event.other_account_id is 'The other party: the friend referred.';
comment on column loyalty.event.occurred_on is 'The day it happened.';
comment on column loyalty.event.month is 'First day of that month.';
comment on column loyalty.event.amount is 'Of a purchase, the amount spent, in the currency of the rule''s per_amount.';
comment on column loyalty.event.reference is 'The caller''s own number of it: the same reference is recorded once.';
comment on column loyalty.event.attributes is 'Whatever else is to be kept with it.';
comment on column loyalty.event.recorded_on is 'The day it was recorded, in the program''s time zone.';
comment on column loyalty.event.recorded_at is 'When it was recorded.';
comment on column loyalty.event.recorded_by is 'Who recorded it.';
comment on column loyalty.event.canceled_at is 'When it was canceled; null when it was not.';
comment on column loyalty.event.canceled_by is 'Who canceled it.';
comment on column loyalty.event.cancel_reason is 'Why it was canceled.';

create function loyalty.rule_periods(program_id integer, code text, after_period date, up_to date)
    returns table (period date, pays_on date)
    language c stable set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_rule_periods';
comment on function loyalty.rule_periods is
    'The periods of a rule after one (null: all of them) up to a day, in order: the nominal day, and the business day on which it pays. All versions taken together, each where it is in force on the day of payment. None for what is paid at once. LY002.';

create function loyalty_private.rule_reach(
    program_id integer, code text, period date,
    out version integer, out pays_on date, out from_day date, out to_day date, out previous_pays_on date
) returns record
    language c stable set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_rule_reach';
comment on function loyalty_private.rule_reach is
    'Which version pays a period, when, for the facts and events of which days, and when the period before it paid; nulls when the rule has no such period.';

create function loyalty_private.rule_pay_day(
    program_id integer, code text, occurred_on date,
    out version integer, out pays_on date, out period date
) returns record
    language c stable set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_rule_pay_day';
comment on function loyalty_private.rule_pay_day is
    'When a rule pays an event of that day, by which version and in which period (null: at once); nulls when it never does.';

create function loyalty_private.fact_day(fact text) returns date
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'loyalty_fact_day';
comment on function loyalty_private.fact_day is 'The day of a fact such as 2024-06-20; null for what is no day.';

create function loyalty_private.anniversary_occasion(
    fact_on date, month date, every_months integer, fact_until date, first_month date
) returns integer
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_anniversary_occasion';
comment on function loyalty_private.anniversary_occasion is
    'Which anniversary of a fact a month brings, as months since the fact''s own (C2); of facts up to the cut-off, since a year before their first month (C3). Null when it brings none.';

create function loyalty_private.birthday_between(birth_date date, from_day date, to_day date) returns integer
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_birthday_between';
comment on function loyalty_private.birthday_between is
    'The year whose birthday lies between two days, both included; null when none does. A birthday on 29 February is on the 28th in years without one.';

create function loyalty_private.full_years(fact_on date, key_date date) returns integer
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_full_years';
comment on function loyalty_private.full_years is
    'Full years from a fact to a key date, that day included (C4); null when the fact comes later.';

create function loyalty_private.event_points(terms jsonb, kind text, party text, amount numeric) returns bigint
    language sql immutable parallel safe
    -- no SET clause: it is made part of the statement that calls it
    return case
        when kind = 'event' and pg_catalog.jsonb_typeof(terms -> 'points') = 'number' then
            (terms ->> 'points')::bigint
        when kind = 'event' then
            (terms -> 'points' ->> party)::bigint
        when kind = 'purchase' and party = 'member'
             and amount >= coalesce((terms ->> 'minimum_amount')::numeric, 0) then
            least(
                -- div truncates exactly, where / would round to some number of digits
                case terms ->> 'rounding'
                    when 'down' then
                        pg_catalog.div(amount * (terms ->> 'points')::numeric, (terms ->> 'per_amount')::numeric)
                    when 'up' then
                        -pg_catalog.div(-amount * (terms ->> 'points')::numeric, (terms ->> 'per_amount')::numeric)
                        + (pg_catalog.mod(amount * (terms ->> 'points')::numeric, (terms ->> 'per_amount')::numeric) > 0)::integer
                    when 'half_up' then
                        pg_catalog.div(2 * amount * (terms ->> 'points')::numeric + (terms ->> 'per_amount')::numeric,
                                       2 * (terms ->> 'per_amount')::numeric)
                    when 'whole_units' then
                        pg_catalog.div(amount, (terms ->> 'per_amount')::numeric) * (terms ->> 'points')::numeric
                end,
                coalesce((terms ->> 'max_points')::numeric, 1000000000000))::bigint
    end;
comment on function loyalty_private.event_points is
    'What an event or purchase rule pays a party (member, other) of an event: null or 0 when nothing.';

create function loyalty_private.check_rule_frame(first_day text, begins date, valid_to date, title text) returns void
    language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
    if begins not between '1955-01-01' and '2099-12-31' then
        perform loyalty_private.raise('22023', 'date_out_of_range', format('%s is outside the calendars', first_day),
            format('%s given.', begins), 'A day from 1955 to 2099, or left out.', first_day);
    elsif valid_to < begins or valid_to = 'infinity' then
        perform loyalty_private.raise('22023', 'valid_to_invalid', 'valid_to is invalid',
            format('%s given; the rule begins on %s.', valid_to, begins),
            format('The last day, not before %s; leave it out for a rule without an end.', first_day), 'valid_to');
    elsif char_length(title) not between 1 and 200 then
        perform loyalty_private.raise('22023', 'title_invalid', 'title is empty or too long',
            format('%s characters given.', char_length(title)), 'From 1 to 200 characters.', 'title');
    end if;
end
$$;
comment on function loyalty_private.check_rule_frame is
    'Refuses days and a title of a rule that cannot be; first_day is what the caller calls begins.';

create function loyalty.create_rule(
    program text,
    code text,
    kind text,
    terms jsonb,
    title text default null,
    valid_from date default null,
    valid_to date default null,
    expiry loyalty.expiry_policy default null
) returns loyalty.rule
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    owner integer := loyalty.program_id(create_rule.program);
    begins date := coalesce(create_rule.valid_from, loyalty.today(create_rule.program));
    written loyalty.rule;
begin
    perform loyalty_private.rule_is_sound(create_rule.kind, create_rule.terms::text);
    if exists (select from loyalty.rule r where r.program_id = owner and r.code = create_rule.code) then
        perform loyalty_private.raise('23505', 'rule_exists', 'the program has a rule of that code',
            format('%L given.', create_rule.code),
            'loyalty.change_rule adds a version to it, also after its end; or take another code.', 'code');
    elsif create_rule.code !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$' then
        perform loyalty_private.raise('22023', 'code_invalid', 'code is invalid', format('%L given.', left(create_rule.code, 100)),
            'Up to 63 letters, digits, dots, dashes and underscores, the first a letter or digit.', 'code');
    end if;
    perform loyalty_private.check_rule_frame('valid_from', begins, create_rule.valid_to, create_rule.title);
    insert into loyalty.rule
           (program_id, code, version, kind, title, terms, valid_from, valid_to, expiry, created_at, created_by)
    values (owner, create_rule.code, 1, create_rule.kind, coalesce(create_rule.title, create_rule.code),
            create_rule.terms, begins, create_rule.valid_to, create_rule.expiry, loyalty.now(), loyalty_private.actor())
    returning * into written;
    perform loyalty_private.check_rule_pays(written);
    perform loyalty_private.plan_schedule(owner, 'rule:' || written.code);
    return written;
end
$$;
comment on function loyalty.create_rule is
    'Creates a rule. valid_from (today unless given) and valid_to are days of payment; expiry null goes by the program''s policy. It pays from its creation on; periods before that, also those since valid_from, only by loyalty.rerun. 22023 names the field of terms that is wrong, and a code, title and days that cannot be; 23505 when the code is taken; LY002.';

create function loyalty_private.check_rule_pays(rule loyalty.rule) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if rule.kind = 'tenure' and not exists (
           select from loyalty.rule_periods(rule.program_id, rule.code, null, '2099-12-31')) then
        perform loyalty_private.raise('22023', 'rule_never_pays', 'the rule would never pay',
            format('$.pays_on is %s; the rule is in force from %s%s.', rule.terms ->> 'pays_on', rule.valid_from,
                   coalesce(' to ' || rule.valid_to, '')), 'Give a valid_from and a valid_to around pays_on.', 'terms');
    end if;
end
$$;
comment on function loyalty_private.check_rule_pays is
    'Refuses a tenure rule whose one day of payment lies outside its range.';

create function loyalty_private.check_rule_rests(program_id integer, code text, from_day date) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    paying date;
begin
    -- the tick's lock: no chunk is paid between this look and the change
    perform from loyalty.schedule s where s.program_id = check_rule_rests.program_id and s.job = 'expire' for update;
    select min(r.period) into paying
      from loyalty.run r
     where r.program_id = check_rule_rests.program_id and r.job = 'rule:' || check_rule_rests.code
       and r.finished_at is null and r.chunks > 0 and r.effective_on >= check_rule_rests.from_day;
    if paying is not null then
        perform loyalty_private.raise('22023', 'rule_being_paid', 'the rule is being paid',
            format('Its run of %s is under way.', paying), 'Wait until the run is done, or give a later day.', 'from_day');
    end if;
end
$$;
comment on function loyalty_private.check_rule_rests is
    'Refuses to change or end a rule from a day on whose run is half done: some would be paid on other terms than the rest.';

create function loyalty.change_rule(
    program text,
    code text,
    terms jsonb default null,
    title text default null,
    from_day date default null,
    valid_to date default null,
    expiry loyalty.expiry_policy default null
) returns loyalty.rule
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    owner integer := loyalty.program_id(change_rule.program);
    today date := loyalty.today(change_rule.program);
    begins date := coalesce(change_rule.from_day, today + 1);
    last_day date;
    was loyalty.rule;
    written loyalty.rule;
begin
    if begins < today then
        perform loyalty_private.raise('22023', 'day_passed', 'a rule cannot be changed for past days',
            format('from_day is %s; today is %s in the program''s time zone.', begins, today),
            'Give a from_day from today on; tomorrow when left out.', 'from_day');
    end if;
    perform loyalty_private.check_rule_frame('from_day', begins, change_rule.valid_to, change_rule.title);
    perform from loyalty.rule r where r.program_id = owner and r.code = change_rule.code order by r.version for update;
    if not found then
        perform loyalty_private.raise('LY002', 'no_such_rule', 'no such rule', format('%L given.', change_rule.code),
            'loyalty.create_rule creates one.', 'code');
    end if;
    perform loyalty_private.check_rule_rests(owner, change_rule.code, begins);
    -- the version in force on the eve, else the one before, else the first to come
    select r.* into was
      from loyalty.rule r
     where r.program_id = owner and r.code = change_rule.code
     order by (r.valid_to < r.valid_from) is true, r.valid_from > begins, r.version desc
     limit 1;
    -- the end of the rule stays, unless it is over
    select case when bool_and(r.valid_to is not null) then max(r.valid_to) end into last_day
      from loyalty.rule r
     where r.program_id = owner and r.code = change_rule.code and (r.valid_to >= r.valid_from) is not false;
    last_day := coalesce(change_rule.valid_to, case when last_day >= begins then last_day end);

    written := was;
    written.version := (
        select max(r.version) + 1 from loyalty.rule r where r.program_id = owner and r.code = change_rule.code);
    written.title := coalesce(change_rule.title, was.title);
    written.terms := coalesce(change_rule.terms, was.terms);
    written.expiry := coalesce(change_rule.expiry, was.expiry);
    written.valid_from := begins;
    written.valid_to := last_day;
    written.created_at := loyalty.now();
    written.created_by := loyalty_private.actor();
    perform loyalty_private.rule_is_sound(written.kind, written.terms::text);
    if written.terms -> 'event' is distinct from was.terms -> 'event'
       or written.kind in ('event', 'purchase')
          and (written.terms -> 'day_of_month' is null) <> (was.terms -> 'day_of_month' is null) then
        perform loyalty_private.raise('22023', 'events_left_unpaid', 'a change would leave events unpaid',
            format('$.event and whether there is a $.day_of_month stay as they were: %s.', was.terms),
            'Create another rule, and end this one once its last events are paid.', 'terms');
    end if;
    update loyalty.rule r
       set valid_to = greatest(begins, r.valid_from) - 1
     where r.program_id = owner and r.code = change_rule.code
       and (r.valid_to is null or r.valid_to > greatest(begins, r.valid_from) - 1);
    insert into loyalty.rule select written.*;
    perform loyalty_private.check_rule_pays(written);
    perform loyalty_private.plan_schedule(owner, 'rule:' || written.code);
    return written;
end
$$;
comment on function loyalty.change_rule is
    'Adds a version that decides from a day of payment on, tomorrow unless given; what is not given stays as it was. The version before ends the day before, and versions planned for later days are dropped. What was paid keeps its terms (C7). 22023 for a day that is over or cannot be, such as a valid_to before from_day, and for wrong terms; LY002.';

create function loyalty.end_rule(program text, code text, last_day date default null) returns loyalty.rule
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    owner integer := loyalty.program_id(end_rule.program);
    today date := loyalty.today(end_rule.program);
    ends date := coalesce(end_rule.last_day, today);
    ended loyalty.rule;
begin
    if ends < today - 1 then
        perform loyalty_private.raise('22023', 'day_passed', 'a rule cannot be ended for past days',
            format('last_day is %s; today is %s in the program''s time zone.', ends, today),
            'Give a last_day from yesterday on; today when left out.', 'last_day');
    elsif ends > '2099-12-31' then
        perform loyalty_private.raise('22023', 'date_out_of_range', 'last_day is outside the calendars', format('%s given.', ends),
            'A day up to 2099; today when left out.', 'last_day');
    end if;
    perform from loyalty.rule r where r.program_id = owner and r.code = end_rule.code order by r.version for update;
    if not found then
        perform loyalty_private.raise('LY002', 'no_such_rule', 'no such rule', format('%L given.', end_rule.code),
            'loyalty.rule has them.', 'code');
    end if;
    perform loyalty_private.check_rule_rests(owner, end_rule.code, ends + 1);
    update loyalty.rule r
       set valid_to = greatest(ends, r.valid_from - 1)
     where r.program_id = owner and r.code = end_rule.code
       and (r.valid_to is null or r.valid_to > greatest(ends, r.valid_from - 1));
    if not found then
        perform loyalty_private.raise('22023', 'rule_ends_earlier', 'the rule already ends earlier', format('It ends on %s.', (
                select max(r.valid_to)
                  from loyalty.rule r
                 where r.program_id = owner and r.code = end_rule.code and r.valid_to >= r.valid_from)),
            'loyalty.change_rule brings it back from a day on.', 'last_day');
    end if;
    select r.* into ended
      from loyalty.rule r
     where r.program_id = owner and r.code = end_rule.code
     order by (r.valid_to < r.valid_from) is true, r.version desc
     limit 1;
    perform loyalty_private.plan_schedule(owner, 'rule:' || ended.code);
    return ended;
end
$$;
comment on function loyalty.end_rule is
    'Ends a rule: last_day (today unless given) is the last day of payment, and events that would be paid later stay unpaid. Returns its last version. 22023 when it ends earlier already, and for a day that is over or in no calendar; LY002.';
