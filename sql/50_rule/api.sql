-- Rules and events over HTTP, for administrators of the program; what a member may expect, for members.

create view loyalty_api.rule with (security_invoker = true) as
select p.code as program, r.code, r.version, r.kind, r.title, r.terms, r.valid_from, r.valid_to,
       r.expiry::text as expiry, r.created_at, r.created_by
  from loyalty.rule r
  join loyalty.program p on p.program_id = r.program_id;
comment on view loyalty_api.rule is
$$Rules

What earns points in the program: a row for each version of a rule. The versions in force on a day of payment: ?valid_from=lte.2025-06-16&or=(valid_to.is.null,valid_to.gte.2025-06-16). Administrators only.$$;
comment on column loyalty_api.rule.program is 'Code of the program.';
comment on column loyalty_api.rule.code is 'What calls name the rule by.';
comment on column loyalty_api.rule.version is 'Number of the version, from 1.';
comment on column loyalty_api.rule.kind is 'anniversary, event, tenure, birthday, purchase or manual.';
comment on column loyalty_api.rule.title is 'What members read as the reason of a payment.';
comment on column loyalty_api.rule.terms is 'Who is paid what, and when; the fields depend on the kind.';
comment on column loyalty_api.rule.valid_from is 'First day of payment on which the version decides.';
comment on column loyalty_api.rule.valid_to is
    'Last such day; null while there is no end, the day before valid_from when it was replaced before it began.';
comment on column loyalty_api.rule.expiry is 'When the points lapse; null goes by the program''s policy.';
comment on column loyalty_api.rule.created_at is 'When the version was written.';
comment on column loyalty_api.rule.created_by is 'Who wrote it.';

create view loyalty_api.event with (security_invoker = true) as
select e.event_id, p.code as program, e.kind, e.account_id, a.member_no, e.other_account_id,
       o.member_no as other_member_no, e.occurred_on, e.amount, e.reference, e.attributes,
       e.recorded_at, e.recorded_by, e.canceled_at, e.cancel_reason
  from loyalty.event e
  join loyalty.program p on p.program_id = e.program_id
  join loyalty.account a on a.account_id = e.account_id
  left join loyalty.account o on o.account_id = e.other_account_id;
comment on view loyalty_api.event is
$$Events

What happened that rules pay for, such as referrals and purchases. Of one member: ?member_no=eq.… . Administrators only.$$;
comment on column loyalty_api.event.event_id is 'Number of the event.';
comment on column loyalty_api.event.program is 'Code of the program.';
comment on column loyalty_api.event.kind is 'What happened, as rules call it.';
comment on column loyalty_api.event.account_id is 'Account of the member that it is about.';
comment on column loyalty_api.event.member_no is 'Number of that member.';
comment on column loyalty_api.event.other_account_id is 'Account of the other party.';
comment on column loyalty_api.event.other_member_no is 'Number of the other party.';
comment on column loyalty_api.event.occurred_on is 'The day it happened.';
comment on column loyalty_api.event.amount is 'Of a purchase, the amount spent.';
comment on column loyalty_api.event.reference is 'Your own number of it.';
comment on column loyalty_api.event.attributes is 'Whatever else was kept with it.';
comment on column loyalty_api.event.recorded_at is 'When it was recorded.';
comment on column loyalty_api.event.recorded_by is 'Who recorded it.';
comment on column loyalty_api.event.canceled_at is 'When it was canceled; null when it was not.';
comment on column loyalty_api.event.cancel_reason is 'Why it was canceled.';

create function loyalty_private.api_rule(program text, written loyalty.rule) returns loyalty_api.rule
    language sql stable set search_path = pg_catalog, pg_temp
    return row(program, written.code, written.version, written.kind, written.title, written.terms,
               written.valid_from, written.valid_to, written.expiry::text, written.created_at,
               written.created_by)::loyalty_api.rule;
comment on function loyalty_private.api_rule is 'A rule as the view loyalty_api.rule shows it.';

create function loyalty_api.create_rule(
    code text,
    kind text,
    terms jsonb,
    title text default null,
    valid_from text default null,
    valid_to text default null,
    expiry text default null,
    program text default null
) returns loyalty_api.rule
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    owner text := loyalty_private.api_admin_program(program);
    written loyalty.rule;
begin
    written := loyalty.create_rule(
        owner, code, kind, terms, title, loyalty_private.api_day('valid_from', valid_from),
        loyalty_private.api_day('valid_to', valid_to), expiry::loyalty.expiry_policy);
    perform loyalty_private.audit('create_rule', written.program_id,
        details => jsonb_build_object('rule', written.code, 'version', written.version));
    return loyalty_private.api_rule(owner, written);
end
$$;
comment on function loyalty_api.create_rule(text, text, jsonb, text, text, text, text, text) is
$$Create a rule

Answers with the rule. It pays from now on, never for periods that are over. 400 22023 names the field of terms that is wrong, in details, and shows terms that are right, in hint; 409 23505 when the code is taken. Administrators only.

- `code`: what calls name the rule by, up to 63 letters, digits, "_", "." and "-".
- `kind`: anniversary, event, tenure, birthday, purchase or manual.
- `terms`: who is paid what, and when; the fields depend on the kind.
- `title`: what members read as the reason of a payment; the code when left out.
- `valid_from`: first day of payment on which it decides, YYYY-MM-DD; today when left out.
- `valid_to`: last such day, YYYY-MM-DD; without end when left out.
- `expiry`: when its points lapse, such as "end of month after 3 years"; by the program's policy when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.change_rule(
    code text,
    terms jsonb default null,
    title text default null,
    from_day text default null,
    valid_to text default null,
    expiry text default null,
    program text default null
) returns loyalty_api.rule
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    owner text := loyalty_private.api_admin_program(program);
    written loyalty.rule;
begin
    written := loyalty.change_rule(
        owner, code, terms, title, loyalty_private.api_day('from_day', from_day),
        loyalty_private.api_day('valid_to', valid_to), expiry::loyalty.expiry_policy);
    perform loyalty_private.audit('change_rule', written.program_id,
        details => jsonb_build_object('rule', written.code, 'version', written.version));
    return loyalty_private.api_rule(owner, written);
end
$$;
comment on function loyalty_api.change_rule(text, jsonb, text, text, text, text, text) is
$$Change a rule

Adds a version that decides from a day of payment on, and answers with it; what is left out stays as it was. Points paid before keep their terms. 400 22023 for terms and days that cannot be, a day that is over, and while a run that it would change is under way; 404 LY002 when there is no such rule. Administrators only.

- `code`: the rule.
- `terms`: the new terms, whole.
- `title`: the new title.
- `from_day`: first day of payment on which the change decides, YYYY-MM-DD, from today on; tomorrow when left out.
- `valid_to`: last such day, YYYY-MM-DD.
- `expiry`: when its points lapse.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.end_rule(code text, last_day text default null, program text default null)
    returns loyalty_api.rule
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    owner text := loyalty_private.api_admin_program(program);
    written loyalty.rule;
begin
    written := loyalty.end_rule(owner, code, loyalty_private.api_day('last_day', last_day));
    perform loyalty_private.audit('end_rule', written.program_id,
        details => jsonb_build_object('rule', written.code, 'version', written.version));
    return loyalty_private.api_rule(owner, written);
end
$$;
comment on function loyalty_api.end_rule(text, text, text) is
$$End a rule

Answers with its last version. What would be paid later stays unpaid. 400 22023 when it ends earlier already, for a day that cannot be, and while a run that it would cut is under way; 404 LY002 when there is no such rule. Administrators only.

- `code`: the rule.
- `last_day`: last day of payment, YYYY-MM-DD; today when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.record_event(
    kind text,
    member_no text,
    other_member_no text default null,
    occurred_on text default null,
    amount numeric default null,
    reference text default null,
    attributes jsonb default null,
    program text default null,
    out event_id bigint,
    out is_new boolean,
    out payments jsonb
) returns record
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty_private.api_role() <> 'loyalty_granter' then
        program := loyalty_private.api_admin_program(program);
    else
        select p.code into program from loyalty.program p where p.program_id = loyalty_private.api_program(program);
    end if;
    select r.event_id, r.is_new, r.payments into event_id, is_new, payments
      from loyalty.record_event(
               program, kind, member_no, other_member_no, loyalty_private.api_day('occurred_on', occurred_on),
               amount, loyalty_private.api_key(reference), attributes) r;
    perform loyalty_private.audit('record_event', loyalty.program_id(program), null,
        (select e.account_id from loyalty.event e where e.event_id = record_event.event_id),
        jsonb_build_object('event_id', event_id, 'kind', kind, 'is_new', is_new));
end
$$;
comment on function loyalty_api.record_event(text, text, text, text, numeric, text, jsonb, text) is
$$Record an event

Records what happened, and answers with its number, whether it is new, and what the rules pay for it: to whom, how much, when (pays_on), and the operation that did (operation_id, null while it is still to come). 400 22023 for a kind that no rule knows and values that cannot be, 400 22004 for a purchase without amount; 404 LY002 when there is no such member; 409 LY003 when the reference is another event's. Granters and administrators only.

- `kind`: what happened, as rules call it, such as "referral" or "purchase".
- `member_no`: who it is about: who referred, who bought.
- `other_member_no`: the other party: the friend referred.
- `occurred_on`: the day it happened, YYYY-MM-DD; today in the program's time zone when left out.
- `amount`: of a purchase, the amount spent.
- `reference`: your own number of it, up to 150 characters; repeat the call with the same one and it is recorded once. The header Idempotency-Key may carry it instead.
- `attributes`: an object of whatever else is to be kept with it.
- `program`: code of the program. Needed by operators; others have it in the token.$$;

create function loyalty_api.cancel_event(
    event_id bigint,
    reason text default null,
    policy text default 'clamp',
    program text default null,
    out revoked bigint
) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    owner integer := loyalty.program_id(loyalty_private.api_admin_program(program));
begin
    if not exists (
           select from loyalty.event e where e.event_id = cancel_event.event_id and e.program_id = owner) then
        perform loyalty_private.raise('LY002', 'no_such_event', 'no such event',
            format('The program has no event %s.', coalesce(event_id::text, 'null')),
            'The event_id of an event is in /event.', 'event_id');
    end if;
    revoked := loyalty.cancel_event(event_id, reason, policy);
    perform loyalty_private.audit('cancel_event', owner, null,
        (select e.account_id from loyalty.event e where e.event_id = cancel_event.event_id),
        jsonb_build_object('event_id', event_id, 'points', revoked));
end
$$;
comment on function loyalty_api.cancel_event(bigint, text, text, text) is
$$Cancel an event

For a purchase that was refunded, or an event recorded by mistake: what was not paid yet will not be, what was is revoked. Answers with the points taken back. 404 LY002 when the program has no such event; 400 22023 for a policy or reason that cannot be. Administrators only.

- `event_id`: number of the event.
- `reason`: why, in your words, up to 1,000 characters.
- `policy`: what becomes of points already spent: "clamp" (when left out) leaves them, "debt" books a debt that later grants repay.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.explain_rule(
    rule text,
    account_id bigint default null,
    out kind text,
    out version integer,
    out last_paid_on date,
    out last_points bigint,
    out period date,
    out pays_on date,
    out points bigint,
    out explanation text
) returns record
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select e.kind, e.version, e.last_paid_on, e.last_points, e.period, e.pays_on, e.points, e.explanation
      from loyalty.explain_rule(
               loyalty_private.api_account($2, '{loyalty_member,loyalty_admin,loyalty_operator}'), $1) e;
end;
comment on function loyalty_api.explain_rule(text, bigint) is
$$Explain a rule

When a member is paid next by a rule (pays_on), how many points and why, or in explanation why nothing is to come; and what was paid last. 404 LY002 when there is no such rule or account.

- `rule`: code of the rule.
- `account_id`: whose. Members leave it out; administrators must give it.$$;

create function loyalty_api.retry_failures(run_id bigint, program text default null)
    returns table (retried bigint, paid bigint, failed bigint)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    code text := loyalty_private.api_admin_program(program);
begin
    if not exists (
           select from loyalty.run r
            where r.run_id = retry_failures.run_id and r.program_id = loyalty.program_id(code)) then
        perform loyalty_private.raise('LY002', 'no_such_run', 'no such run',
            format('The program has no run %s.', coalesce(run_id::text, 'null')), 'The run_id of a run is in /run.',
            'run_id');
    end if;
    perform loyalty_private.audit('retry_failures', loyalty.program_id(code), details => jsonb_build_object('run_id', run_id));
    return query select f.* from loyalty.retry_failures(run_id) f;
end
$$;
comment on function loyalty_api.retry_failures(bigint, text) is
$$Retry failed payments

Tries the payments of /run_failure again, and answers with how many were tried, paid, and are left. 404 LY002 when there is no such run. Administrators only.

- `run_id`: number of the run.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
