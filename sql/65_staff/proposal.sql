-- Grants that take two administrators (P12): one proposes, another approves.

create table loyalty.grant_proposal (
    proposal_id bigint generated always as identity primary key,
    account_id bigint not null references loyalty.account,
    program_id integer not null references loyalty.program,
    points bigint not null
        constraint grant_proposal_points_are_positive check (points > 0),
    reason text
        constraint grant_proposal_reason_is_short check (char_length(reason) <= 1000),
    granted_on date,
    expires_on date,
    proposed_at timestamptz not null,
    proposed_by text not null,
    decided_at timestamptz,
    decided_by text,
    operation_id bigint,
    decision_reason text
        constraint grant_proposal_decision_reason_is_short check (char_length(decision_reason) <= 1000),
    constraint grant_proposal_is_decided_by_somebody check ((decided_at is null) = (decided_by is null)),
    constraint grant_proposal_grants_once_decided check (operation_id is null or decided_at is not null),
    constraint grant_proposal_takes_two check (operation_id is null or decided_by <> proposed_by)
);
create index grant_proposal_by_program on loyalty.grant_proposal (program_id, proposal_id);
comment on table loyalty.grant_proposal is 'Grants that one administrator proposed and another approves.';
comment on column loyalty.grant_proposal.proposal_id is 'Number of the proposal; its grant has the idempotency key proposal/<number>.';
comment on column loyalty.grant_proposal.account_id is 'Who is to get the points.';
comment on column loyalty.grant_proposal.program_id is 'Program of the account.';
comment on column loyalty.grant_proposal.points is 'How many points.';
comment on column loyalty.grant_proposal.reason is 'Why, in the proposer''s words: the grant''s reason.';
comment on column loyalty.grant_proposal.granted_on is 'The day that counts for their terms; null for the day of the approval.';
comment on column loyalty.grant_proposal.expires_on is 'Last day they can be spent; null goes by the program''s policy.';
comment on column loyalty.grant_proposal.proposed_at is 'When it was proposed.';
comment on column loyalty.grant_proposal.proposed_by is 'Who proposed it: the subject of the token, or the database user.';
comment on column loyalty.grant_proposal.decided_at is 'When it was approved or rejected; null while it is open.';
comment on column loyalty.grant_proposal.decided_by is 'Who did, written as proposed_by.';
comment on column loyalty.grant_proposal.operation_id is 'The grant; null when it was rejected or is open.';
comment on column loyalty.grant_proposal.decision_reason is 'Why it was rejected.';

create function loyalty_private.person() returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    person text := coalesce(loyalty.claim('sub'), case when loyalty.claim('role') is null then 'database:' || session_user end);
begin
    if person is null then
        perform loyalty_private.raise('LY010', 'token_without_person', 'the token names no person', 'It has no claim sub.',
            'Log in, and ask again.');
    end if;
    return person;
end
$$;
comment on function loyalty_private.person is
    'Who asks, whatever the role: the subject of the token, else the database user; LY010 for a token without one.';

create function loyalty.proposal_state(decided_at timestamptz, operation_id bigint) returns text
    language sql immutable parallel safe
    return case when decided_at is null then 'open' when operation_id is null then 'rejected' else 'approved' end;
comment on function loyalty.proposal_state is 'Whether a proposal is open, approved or rejected.';

create function loyalty.propose_grant(
    account_id bigint,
    points bigint,
    reason text default null,
    granted_on date default null,
    expires_on date default null
) returns loyalty.grant_proposal
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within record;
    made loyalty.grant_proposal;
begin
    select a.program_id, loyalty.today(p.code) as today into within
      from loyalty.account a
      join loyalty.program p on p.program_id = a.program_id
     where a.account_id = propose_grant.account_id;
    if not found then
        perform loyalty_private.raise('LY002', 'no_such_account', 'no such account',
            format('Account %s does not exist.', coalesce(propose_grant.account_id::text, 'null')),
            'loyalty.open_account(program, member_no) gives a member''s account.', 'account_id');
    elsif propose_grant.points is null then
        perform loyalty_private.raise('22004', 'value_missing', 'points must not be null', null, 'Say how many.', 'points');
    elsif propose_grant.points < 1 then
        perform loyalty_private.raise('22023', 'points_not_positive', 'points must be above zero',
            format('%s given.', propose_grant.points), 'A whole number from 1.', 'points');
    elsif propose_grant.granted_on > within.today then
        perform loyalty_private.raise('22023', 'granted_on_in_future', 'granted_on is in the future',
            format('%s given; today is %s.', propose_grant.granted_on, within.today),
            'Leave it out for the day of the approval.', 'granted_on');
    elsif propose_grant.expires_on < within.today then
        perform loyalty_private.raise('22023', 'expires_on_passed', 'expires_on has passed',
            format('%s given; today is %s.', propose_grant.expires_on, within.today), 'A day from today on.', 'expires_on');
    elsif char_length(propose_grant.reason) > 1000 then
        perform loyalty_private.raise('22023', 'reason_too_long', 'reason is too long',
            format('%s characters.', char_length(propose_grant.reason)), 'Up to 1,000 characters.', 'reason');
    end if;
    insert into loyalty.grant_proposal
           (account_id, program_id, points, reason, granted_on, expires_on, proposed_at, proposed_by)
    values (propose_grant.account_id, within.program_id, propose_grant.points, propose_grant.reason,
            propose_grant.granted_on, propose_grant.expires_on, loyalty.now(), loyalty_private.person())
    returning * into made;
    perform loyalty_private.audit('propose_grant', made.program_id, null, made.account_id,
        jsonb_build_object('proposal_id', made.proposal_id, 'points', made.points));
    return made;
end
$$;
comment on function loyalty.propose_grant is
    'Proposes a grant, for another administrator to approve; grants nothing yet. LY002, 22004, 22023; LY010 for a token without subject.';

create function loyalty_private.open_proposal(proposal_id bigint) returns loyalty.grant_proposal
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.grant_proposal;
begin
    select p.* into held
      from loyalty.grant_proposal p
     where p.proposal_id = open_proposal.proposal_id
       for update;
    if not found then
        perform loyalty_private.raise('LY002', 'no_such_proposal', 'no such proposal',
            format('%s given.', coalesce(open_proposal.proposal_id::text, 'null')), 'loyalty.grant_proposal lists them.',
            'proposal_id');
    elsif held.decided_at is not null then
        perform loyalty_private.raise('LY006', 'proposal_not_open', 'the proposal is no longer open',
            format('It was %s.', loyalty.proposal_state(held.decided_at, held.operation_id)), 'Propose it again.',
            'proposal_id');
    end if;
    return held;
end
$$;
comment on function loyalty_private.open_proposal is
    'A proposal, held until the end of the transaction; LY002 when there is none, LY006 once it was decided.';

create function loyalty.approve_grant(proposal_id bigint) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.grant_proposal := loyalty_private.open_proposal(approve_grant.proposal_id);
    approver text := loyalty_private.person();
    receipt loyalty.receipt;
begin
    if approver = held.proposed_by then
        perform loyalty_private.raise('LY010', 'own_proposal', 'whoever proposes a grant does not approve it', null,
            'Another administrator approves or rejects it.', 'proposal_id');
    end if;
    receipt := loyalty.grant(
        account_id => held.account_id, points => held.points, reason => held.reason,
        granted_on => held.granted_on, expires_on => held.expires_on,
        idempotency_key => 'proposal/' || held.proposal_id);
    update loyalty.grant_proposal p
       set decided_at = loyalty.now(), decided_by = approver, operation_id = receipt.operation_id
     where p.proposal_id = held.proposal_id;
    perform loyalty_private.audit('approve_grant', held.program_id, null, held.account_id,
        jsonb_build_object('proposal_id', held.proposal_id, 'operation_id', receipt.operation_id,
            'points', receipt.points, 'proposed_by', held.proposed_by));
    return receipt;
end
$$;
comment on function loyalty.approve_grant is
    'Approves a proposal and grants, once: by another person than who proposed it, else LY010. The grant''s idempotency key is proposal/<number>. LY002; LY006 once it was decided; else as loyalty.grant.';

create function loyalty.reject_grant(proposal_id bigint, reason text default null) returns loyalty.grant_proposal
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held loyalty.grant_proposal := loyalty_private.open_proposal(reject_grant.proposal_id);
begin
    if char_length(reject_grant.reason) > 1000 then
        perform loyalty_private.raise('22023', 'reason_too_long', 'reason is too long',
            format('%s characters.', char_length(reject_grant.reason)), 'Up to 1,000 characters.', 'reason');
    end if;
    update loyalty.grant_proposal p
       set decided_at = loyalty.now(), decided_by = loyalty_private.person(), decision_reason = reject_grant.reason
     where p.proposal_id = held.proposal_id
    returning p.* into held;
    perform loyalty_private.audit('reject_grant', held.program_id, null, held.account_id,
        jsonb_build_object('proposal_id', held.proposal_id));
    return held;
end
$$;
comment on function loyalty.reject_grant is
    'Rejects a proposal, also one''s own; nothing is granted. LY002; LY006 once it was decided.';
