-- Roles, proposals and the audit over HTTP, for administrators of the program.

create view loyalty_api.program_role with (security_invoker = true) as
select r.role_id, p.code as program, r.role, r.identity_id,
       loyalty.login_id_in_role(r.role_id) as login_id, r.monthly_budget,
       loyalty.role_state(r.accepted_at, r.taken_at) as state,
       r.given_at, r.given_by, r.accepted_at, r.taken_at, r.taken_by
  from loyalty.program_role r
  left join loyalty.program p on p.program_id = r.program_id;
comment on view loyalty_api.program_role is
$$Roles

Who may grant and administer, and who could: a row for each time that a role was given. Those that hold: ?state=eq.held. Administrators only; changed with /rpc/give_role and /rpc/take_role.$$;
comment on column loyalty_api.program_role.role_id is 'Number of the giving, for /rpc/take_role.';
comment on column loyalty_api.program_role.program is 'Code of the program; null of an operator.';
comment on column loyalty_api.program_role.role is 'granter, admin or operator.';
comment on column loyalty_api.program_role.identity_id is 'The person, as in /audit; null while it is an offer.';
comment on column loyalty_api.program_role.login_id is 'The person''s login ID.';
comment on column loyalty_api.program_role.monthly_budget is 'Points that a granter may grant in a month; null for no limit.';
comment on column loyalty_api.program_role.state is 'held, offered (by mail, not accepted yet) or taken.';
comment on column loyalty_api.program_role.given_at is 'When it was given or offered.';
comment on column loyalty_api.program_role.given_by is 'Who gave it.';
comment on column loyalty_api.program_role.accepted_at is 'Since when the person has it.';
comment on column loyalty_api.program_role.taken_at is 'When it was taken away.';
comment on column loyalty_api.program_role.taken_by is 'Who took it.';

create view loyalty_api.grant_proposal with (security_invoker = true) as
select g.proposal_id, p.code as program, g.account_id, a.member_no, g.points, loyalty.csv_cell(g.reason) as reason,
       g.granted_on, g.expires_on, loyalty.proposal_state(g.decided_at, g.operation_id) as state,
       g.proposed_at, g.proposed_by, g.decided_at, g.decided_by, g.operation_id,
       loyalty.csv_cell(g.decision_reason) as decision_reason
  from loyalty.grant_proposal g
  join loyalty.program p on p.program_id = g.program_id
  join loyalty.account a on a.account_id = g.account_id;
comment on view loyalty_api.grant_proposal is
$$Proposed grants

Grants that one administrator proposed and another decides. Open ones: ?state=eq.open. Administrators only.$$;
comment on column loyalty_api.grant_proposal.proposal_id is 'Number of the proposal.';
comment on column loyalty_api.grant_proposal.program is 'Code of the program.';
comment on column loyalty_api.grant_proposal.account_id is 'Who is to get the points.';
comment on column loyalty_api.grant_proposal.member_no is 'The member''s number in the program.';
comment on column loyalty_api.grant_proposal.points is 'How many points.';
comment on column loyalty_api.grant_proposal.reason is 'Why, in the proposer''s words.';
comment on column loyalty_api.grant_proposal.granted_on is 'The day that counts for their terms; null for the day of the approval.';
comment on column loyalty_api.grant_proposal.expires_on is 'Last day they can be spent; null goes by the program''s policy.';
comment on column loyalty_api.grant_proposal.state is 'open, approved or rejected.';
comment on column loyalty_api.grant_proposal.proposed_at is 'When it was proposed.';
comment on column loyalty_api.grant_proposal.proposed_by is 'Who proposed it.';
comment on column loyalty_api.grant_proposal.decided_at is 'When it was decided.';
comment on column loyalty_api.grant_proposal.decided_by is 'Who decided it.';
comment on column loyalty_api.grant_proposal.operation_id is 'The grant, as in /statement.';
comment on column loyalty_api.grant_proposal.decision_reason is 'Why it was rejected.';

create view loyalty_api.audit with (security_invoker = true) as
select u.audit_id, u.at, p.code as program, u.actor, u.address, u.action, u.outcome, u.identity_id, u.account_id,
       u.details
  from loyalty.audit u
  left join loyalty.program p on p.program_id = u.program_id;
comment on view loyalty_api.audit is
$$Audit

Who did what, when and from where: each administrative call, and each call about somebody's login. Lines are never changed. Latest first: ?order=audit_id.desc; of one person: ?identity_id=eq.… . Administrators only.$$;
comment on column loyalty_api.audit.audit_id is 'Number of the line.';
comment on column loyalty_api.audit.at is 'When.';
comment on column loyalty_api.audit.program is 'Code of the program.';
comment on column loyalty_api.audit.actor is 'Who: role and subject of the token, or the database user.';
comment on column loyalty_api.audit.address is 'Address of the client.';
comment on column loyalty_api.audit.action is 'What: the name of the function.';
comment on column loyalty_api.audit.outcome is 'done, or refused where a call counted although it was in vain.';
comment on column loyalty_api.audit.identity_id is 'The person it was about.';
comment on column loyalty_api.audit.account_id is 'The member''s account it was about.';
comment on column loyalty_api.audit.details is 'What else matters, as an object.';

create function loyalty_private.api_administers(program_id integer) returns boolean
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty_private.api_role() <> all ('{loyalty_admin,loyalty_operator}') then
        perform loyalty_private.api_refuse('Ask as an administrator of the program.');
    end if;
    return loyalty_private.api_role() = 'loyalty_operator' or program_id is not distinct from loyalty_private.api_program();
end
$$;
comment on function loyalty_private.api_administers is
    'Whether a request comes from an administrator of that program, or an operator; LY010 from anybody else.';

create function loyalty_api.give_role(
    login_id text,
    role text,
    monthly_budget numeric default null,
    program text default null
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if role is distinct from 'operator' then
        program := loyalty_private.api_admin_program(program);
    elsif loyalty_private.api_role() <> 'loyalty_operator' then
        perform loyalty_private.api_refuse('Only operators make operators.');
    end if;
    return loyalty.give_role(program, login_id, role, loyalty_private.api_points(monthly_budget));
end
$$;
comment on function loyalty_api.give_role(text, text, numeric, text) is
$$Give a role

Makes somebody granter or administrator of the program. Who has no login in the program yet is mailed an offer, good for 7 days. Given again it sets a granter's budget to what is given now, also to no limit, and sends an open offer anew. Answers with role_id, program, role, login_id, monthly_budget and state. 400 22023 for a role, login ID or budget that cannot be; 403 LY010 for an offer in a program that nobody can log in to yet; 404 LY002 for an operator without a login. Administrators only; operators are made by operators.

- `login_id`: e-mail address or phone number that the person logs in by, or is to.
- `role`: granter, admin or operator.
- `monthly_budget`: points that a granter may grant in a month of the program's time zone, a whole number from 0; no limit when left out, also for who had one.
- `program`: code of the program. Needed by operators, but not for role operator; an administrator's is in the token.$$;

create function loyalty_api.accept_invitation(token text, password text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.accept_invitation(token, password);
end
$$;
comment on function loyalty_api.accept_invitation(text, text) is
$$Accept a role

Accepts a role by the mailed link, and signs the person in: answers with a session, as /rpc/log_in. 401 LY009 when the link is not good. For everybody with the link.

- `token`: what follows the # in the mailed link.
- `password`: the password for the login; of a login that there is already, its password.$$;

create function loyalty_api.take_role(role_id bigint) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if not loyalty_private.api_administers(
           (select r.program_id from loyalty.program_role r where r.role_id = take_role.role_id)) then
        perform loyalty_private.raise('LY002', 'no_such_role', 'no such role',
            format('The program has no role %s.', coalesce(take_role.role_id::text, 'null')),
            'The role_id is in /program_role.', 'role_id');
    end if;
    return loyalty.take_role(take_role.role_id);
end
$$;
comment on function loyalty_api.take_role(bigint) is
$$Take a role away

Takes a role, or the offer of one, away; the person's sessions in it end at once. Answers as /rpc/give_role. 403 LY010 when the last administrator would take their own; 404 LY002 when there is no such role. Administrators only.

- `role_id`: number of the giving, as in /program_role.$$;

create function loyalty_api.propose_grant(
    account_id bigint,
    points numeric,
    reason text default null,
    granted_on text default null,
    expires_on text default null
) returns loyalty_api.grant_proposal
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    made loyalty.grant_proposal := loyalty.propose_grant(
        loyalty_private.api_account(propose_grant.account_id, '{loyalty_admin,loyalty_operator}'),
        loyalty_private.api_points(propose_grant.points), propose_grant.reason,
        loyalty_private.api_day('granted_on', propose_grant.granted_on), loyalty_private.api_day('expires_on', propose_grant.expires_on));
    answer loyalty_api.grant_proposal;
begin
    select v.* into answer from loyalty_api.grant_proposal v where v.proposal_id = made.proposal_id;
    return answer;
end
$$;
comment on function loyalty_api.propose_grant(bigint, numeric, text, text, text) is
$$Propose a grant

Proposes a grant of more points than one administrator may give, for another one to approve, and answers with the proposal. 400 22023 for points or days that cannot be; 403 LY010 for a token that names no person; 404 LY002 when there is no such account. Administrators only.

- `account_id`: who is to get them.
- `points`: how many, a whole number from 1.
- `reason`: why, in your words, up to 1,000 characters.
- `granted_on`: the day that counts for their terms, YYYY-MM-DD; the day of the approval when left out.
- `expires_on`: the last day they can be spent, YYYY-MM-DD; by the program's expiry policy when left out.$$;

create function loyalty_private.api_proposal(proposal_id bigint) returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if not loyalty_private.api_administers(
           (select p.program_id from loyalty.grant_proposal p where p.proposal_id = api_proposal.proposal_id)) then
        perform loyalty_private.raise('LY002', 'no_such_proposal', 'no such proposal',
            format('The program has no proposal %s.', coalesce(proposal_id::text, 'null')), '/grant_proposal lists them.',
            'proposal_id');
    end if;
    return proposal_id;
end
$$;
comment on function loyalty_private.api_proposal is
    'The proposal that a request is about, once it is sure that an administrator of its program asks.';

create function loyalty_api.approve_grant(proposal_id bigint) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.approve_grant(loyalty_private.api_proposal(proposal_id));
end
$$;
comment on function loyalty_api.approve_grant(bigint) is
$$Approve a grant

Grants what another administrator proposed, and answers with a receipt. 403 LY010 for the proposer, 409 LY006 once it was decided. Administrators only.

- `proposal_id`: number of the proposal, as in /grant_proposal.$$;

create function loyalty_api.reject_grant(proposal_id bigint, reason text default null)
    returns loyalty_api.grant_proposal
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.grant_proposal := loyalty.reject_grant(
        loyalty_private.api_proposal(reject_grant.proposal_id), reject_grant.reason);
    answer loyalty_api.grant_proposal;
begin
    select v.* into answer from loyalty_api.grant_proposal v where v.proposal_id = held.proposal_id;
    return answer;
end
$$;
comment on function loyalty_api.reject_grant(bigint, text) is
$$Reject a grant

Closes a proposal without granting, one's own too, and answers with it. 409 LY006 once it was decided. Administrators only.

- `proposal_id`: number of the proposal, as in /grant_proposal.
- `reason`: why, in your words, up to 1,000 characters.$$;

create function loyalty_api.grant(
    account_id bigint,
    points numeric,
    reason text default null,
    granted_on text default null,
    expires_on text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    key text;
    was_used boolean;
begin
    account_id := loyalty_private.api_account(account_id, '{loyalty_granter,loyalty_admin,loyalty_operator}');
    key := loyalty_private.api_key(idempotency_key);
    perform loyalty_private.lock_budget(loyalty_private.account_program_id(account_id));
    was_used := loyalty_private.is_key_used(account_id, key);
    return loyalty_private.end_grant('grant', loyalty.grant(
        account_id, loyalty_private.api_points(points), reason, loyalty_private.api_day('granted_on', granted_on),
        loyalty_private.api_day('expires_on', expires_on), key), was_used);
end
$$;
comment on function loyalty_api.grant(bigint, numeric, text, text, text, text) is
$$Grant points

Gives points to a member and answers with a receipt. 403 LY010 beyond a granter's monthly budget, and for more points than one person may grant in the program: /rpc/propose_grant. 403 LY004 when the account is not open; 404 LY002 when there is none; 400 22023 for points and days that cannot be; 409 LY003 when the key was used for something else. Granters and administrators only.

- `account_id`: who gets them.
- `points`: how many, a whole number from 1.
- `reason`: why, in your words, up to 1,000 characters.
- `granted_on`: the day that counts for their terms, YYYY-MM-DD; today in the program's time zone when left out, and never later.
- `expires_on`: the last day they can be spent, YYYY-MM-DD; by the program's expiry policy when left out.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.$$;

create function loyalty_api.grant_many(items jsonb, program text default null) returns table (
    item integer, operation_id bigint, account_id bigint, kind loyalty.entry_kind,
    points bigint, balance bigint, available bigint, occurred_at timestamptz,
    error_code text, error text, error_detail text, error_reason text, error_field text
)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer;
    used bigint[];
begin
    if loyalty_private.api_role() <> all ('{loyalty_granter,loyalty_admin,loyalty_operator}') then
        perform loyalty_private.api_refuse('Ask as a granter or administrator.');
    end if;
    within := loyalty_private.api_program(grant_many.program);
    perform loyalty_private.check_keys(array(
        select i ->> 'idempotency_key'
          from jsonb_array_elements(case jsonb_typeof(grant_many.items) when 'array' then grant_many.items else '[]' end) i));
    perform loyalty_private.lock_budget(within);
    used := loyalty_private.items_used(within, grant_many.items);
    return query
    with booked as materialized (
        select o.* from loyalty_private.grant_items(grant_many.items::text, within) o
    ), ended as materialized (
        select loyalty_private.end_grants(within, array_agg(b.operation_id) filter (where b.operation_id is not null), used, count(*))
          from booked b
    )
    select b.* from booked b cross join ended;
end
$$;
comment on function loyalty_api.grant_many(jsonb, text) is
$$Grant points to many

Up to 10,000 grants in one call. Each item has its own outcome, in order: the fields of a receipt, or error_code and error; the good ones are booked whatever the others do. But 403 LY010, and nothing is booked, when together they pass a granter's monthly budget, or one of them has more points than one person may grant in the program. Granters and administrators only.

- `items`: an array of objects with account_id, points and, if wanted, reason, granted_on, expires_on, idempotency_key, funding. Give each item an idempotency_key, and the whole call can be repeated.
- `program`: code of the program that the accounts are of. Only an operator's token leaves it open.$$;

create function loyalty_api.grant_by_rule(
    account_id bigint,
    rule text,
    points numeric default null,
    reason text default null,
    idempotency_key text default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    key text;
    was_used boolean;
begin
    account_id := loyalty_private.api_account(account_id, '{loyalty_granter,loyalty_admin,loyalty_operator}');
    key := loyalty_private.api_key(idempotency_key);
    perform loyalty_private.lock_budget(loyalty_private.account_program_id(account_id));
    was_used := loyalty_private.is_key_used(account_id, format('rule/%s/%s', rule, key)) and key is not null;
    return loyalty_private.end_grant('grant_by_rule', loyalty.grant_by_rule(
        account_id, rule, loyalty_private.api_points(points), reason, key), was_used);
end
$$;
comment on function loyalty_api.grant_by_rule(bigint, text, numeric, text, text) is
$$Grant points by a rule

Gives points to a member by a rule of kind manual, within its limits, and answers with a receipt. 403 LY010 as for /rpc/grant. 404 LY002 when there is no such rule or account; 400 22023 when the rule is of another kind, or does not grant so many. Granters and administrators only.

- `account_id`: who gets them.
- `rule`: code of the rule.
- `points`: how many, a whole number from 1; as the rule says when left out.
- `reason`: why, in your words; the rule's title when left out.
- `idempotency_key`: up to 150 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.$$;
