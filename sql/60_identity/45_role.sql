-- Roles that people have in programs: what a login may open beside a member's account.

-- People who run a program (P12): who may grant, who administers, and what a granter may give away
-- in a month.

create table loyalty.program_role (
    role_id bigint generated always as identity primary key,
    program_id integer references loyalty.program,
    role text not null
        constraint program_role_is_known check (role in ('granter', 'admin', 'operator')),
    identity_id bigint references loyalty.identity,
    login_id text not null
        constraint program_role_login_id_is_clean check (login_id = loyalty_private.clean_login_id(login_id)),
    monthly_budget bigint
        constraint program_role_budget_is_not_negative check (monthly_budget >= 0),
    challenge_id uuid,
    given_at timestamptz not null,
    given_by text not null,
    accepted_at timestamptz,
    taken_at timestamptz,
    taken_by text,
    constraint program_role_operator_is_of_no_program check ((role = 'operator') = (program_id is null)),
    constraint program_role_budget_is_a_granters check (monthly_budget is null or role = 'granter'),
    constraint program_role_is_accepted_by_somebody check ((identity_id is null) = (accepted_at is null)),
    constraint program_role_is_taken_by_somebody check ((taken_at is null) = (taken_by is null))
);
create unique index program_role_is_had_once on loyalty.program_role (identity_id, program_id, role)
    nulls not distinct where identity_id is not null and taken_at is null;
create unique index program_role_is_offered_once on loyalty.program_role (program_id, role, login_id)
    where identity_id is null and taken_at is null;
create unique index program_role_by_challenge on loyalty.program_role (challenge_id);
create index program_role_by_identity on loyalty.program_role (identity_id) where identity_id is not null;
create index program_role_by_program on loyalty.program_role (program_id, role) where taken_at is null;
comment on table loyalty.program_role is
    'Who grants, administers or operates: given, offered to who has no login yet, and taken; rows stay.';
comment on column loyalty.program_role.role_id is 'Number of the giving.';
comment on column loyalty.program_role.program_id is 'The program; null for an operator, who has all.';
comment on column loyalty.program_role.role is 'granter, admin or operator.';
comment on column loyalty.program_role.identity_id is 'Who has it; null while it is an offer.';
comment on column loyalty.program_role.login_id is 'The login ID that it was given to.';
comment on column loyalty.program_role.monthly_budget is
    'Points that a granter may grant in a month of the program''s time zone; null for no limit.';
comment on column loyalty.program_role.challenge_id is 'The challenge in the mail of the offer.';
comment on column loyalty.program_role.given_at is 'When it was given or offered.';
comment on column loyalty.program_role.given_by is 'Who gave it.';
comment on column loyalty.program_role.accepted_at is 'Since when the person has it; null while it is an offer.';
comment on column loyalty.program_role.taken_at is 'When it was taken away; null while it holds.';
comment on column loyalty.program_role.taken_by is 'Who took it.';

-- Roles

create function loyalty.role_of(identity_id bigint, program_id integer, role text) returns boolean
    language sql stable security definer set search_path = pg_catalog, pg_temp
    return exists (
        select from loyalty.program_role r
         where r.identity_id = role_of.identity_id
           and r.role = role_of.role
           and (r.role = 'operator' or r.program_id = role_of.program_id)
           and r.taken_at is null);
comment on function loyalty.role_of is
    'Whether a person is granter or admin of a program, or operator (of all, program_id does not matter).';
