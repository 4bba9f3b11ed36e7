-- People who log in (A1–A8, C8–C13): who they are, which members they are, and what a program
-- asks of them. What nobody may read, not even an operator, has tables of its own.

create table loyalty.access_policy (
    program_id integer primary key references loyalty.program,
    organisation_id text
        constraint access_policy_organisation_id_is_short check (char_length(organisation_id) between 1 and 50),
    terms_version text not null default '1'
        constraint access_policy_terms_version_is_short check (char_length(terms_version) between 1 and 50),
    terms_url text
        constraint access_policy_terms_url_is_a_url check (terms_url ~ '^https?://[^<>"[:space:][:cntrl:]]+$' and char_length(terms_url) <= 500),
    site_url text
        constraint access_policy_site_url_is_a_url check (site_url ~ '^https?://[^<>"[:space:][:cntrl:]]+[^/<>"[:space:][:cntrl:]]$' and char_length(site_url) <= 500),
    asks_details boolean not null default false,
    allows_member_no boolean not null default false,
    password_length integer not null default 8
        constraint access_policy_password_length_is_sane check (password_length between 6 and 64),
    password_letters integer not null default 2
        constraint access_policy_password_letters_is_sane check (password_letters between 0 and 32),
    password_digits integer not null default 3
        constraint access_policy_password_digits_is_sane check (password_digits between 0 and 32),
    password_symbols boolean not null default true,
    token_life interval not null default '10 minutes'
        constraint access_policy_token_life_is_sane check (token_life between interval '1 minute' and interval '1 hour'),
    session_life interval not null default '12 hours'
        constraint access_policy_session_life_is_sane check (session_life between interval '5 minutes' and interval '7 days'),
    remembered_life interval not null default '60 days'
        constraint access_policy_remembered_life_is_sane check (remembered_life between interval '1 day' and interval '400 days'),
    family_relations text[] not null default '{}',
    family_degree integer not null default 2
        constraint access_policy_family_degree_is_sane check (family_degree between 0 and 2),
    family_access text not null default 'none'
        constraint access_policy_family_access_is_known check (family_access in ('none', 'see', 'spend')),
    family_monthly_limit bigint
        constraint access_policy_family_monthly_limit_is_not_negative check (family_monthly_limit >= 0),
    approval_above bigint
        constraint access_policy_approval_above_is_not_negative check (approval_above >= 0)
);
create unique index access_policy_by_organisation on loyalty.access_policy (lower(organisation_id));

comment on table loyalty.access_policy is
    'What a program asks of people who register and log in, and what it lets families and administrators do; a program without a row has nobody who logs in. Written by loyalty.set_access_policy.';
comment on column loyalty.access_policy.program_id is 'The program.';
comment on column loyalty.access_policy.organisation_id is 'What members type to say which organisation they are of (A1); upper and lower case are the same.';
comment on column loyalty.access_policy.terms_version is 'Version of the terms that a registration accepts.';
comment on column loyalty.access_policy.terms_url is 'Where the terms can be read.';
comment on column loyalty.access_policy.site_url is 'The site that mailed links lead to, without a slash at its end; null mails the token itself.';
comment on column loyalty.access_policy.asks_details is 'Whether registration asks for kana and birth date, which must be those of the member record (C11).';
comment on column loyalty.access_policy.allows_member_no is 'Whether a member may log in by member number, without an e-mail address or phone (S8).';
comment on column loyalty.access_policy.password_length is 'Characters that a password has at least.';
comment on column loyalty.access_policy.password_letters is 'ASCII letters that it has at least (C12).';
comment on column loyalty.access_policy.password_digits is 'Digits that it has at least (C12).';
comment on column loyalty.access_policy.password_symbols is 'Whether it may have more than ASCII letters and digits.';
comment on column loyalty.access_policy.token_life is 'How long an access token is good.';
comment on column loyalty.access_policy.session_life is 'How long a login lasts without being used.';
comment on column loyalty.access_policy.remembered_life is 'The same for remember-me (C9).';
comment on column loyalty.access_policy.family_relations is 'Relations that may be invited (A8): spouse, parent, child, …; empty for none.';
comment on column loyalty.access_policy.family_degree is 'The highest degree of kinship that may be invited; a spouse has none.';
comment on column loyalty.access_policy.family_access is 'What family may do with the member''s points: nothing, see, or also spend them.';
comment on column loyalty.access_policy.family_monthly_limit is 'Points that one of the family may spend in a month of the program''s time zone; null for no limit.';
comment on column loyalty.access_policy.approval_above is 'Grants over HTTP of more points need two administrators; null for never.';

create table loyalty.identity (
    identity_id bigint generated always as identity primary key,
    login_id text
        constraint identity_login_id_is_clean check (login_id = loyalty_private.clean_login_id(login_id)),
    state text not null default 'provisional'
        constraint identity_state_is_known
            check (state in ('provisional', 'active', 'suspended', 'locked', 'closed')),
    created_at timestamptz not null,
    changed_at timestamptz not null
);
-- Who did not prove an address does not keep it from others; who left gives it free.
create unique index identity_by_login_id on loyalty.identity (login_id)
    where state in ('active', 'suspended', 'locked');

comment on table loyalty.identity is 'A person who logs in: one for all programs that they are a member of (A1).';
comment on column loyalty.identity.identity_id is 'Number of the person.';
comment on column loyalty.identity.login_id is 'E-mail address in lower case, or phone number as E.164; null for who logs in by member number only (S8).';
comment on column loyalty.identity.state is
    'provisional until the login ID is proven and the name confirmed; active; suspended while staff look at an application (C13); locked after too many wrong passwords; closed.';
comment on column loyalty.identity.created_at is 'When it was registered.';
comment on column loyalty.identity.changed_at is 'When the state or login ID last changed.';

create table loyalty_private.credential (
    identity_id bigint primary key references loyalty.identity,
    password_hash text not null,
    changed_at timestamptz not null
);
comment on table loyalty_private.credential is 'Passwords, as Argon2id hashes. Nobody but the owner reads it.';
comment on column loyalty_private.credential.identity_id is 'Whose.';
comment on column loyalty_private.credential.password_hash is 'The hash, as a PHC string.';
comment on column loyalty_private.credential.changed_at is 'When it was set.';

create table loyalty.identity_link (
    identity_id bigint not null references loyalty.identity,
    account_id bigint not null references loyalty.account,
    program_id integer not null references loyalty.program,
    relation text not null default 'self'
        constraint identity_link_relation_is_short check (char_length(relation) between 1 and 30),
    terms_version text,
    linked_at timestamptz not null,
    ended_at timestamptz,
    primary key (identity_id, account_id)
);
create unique index identity_link_of_member on loyalty.identity_link (account_id)
    where relation = 'self' and ended_at is null;
create index identity_link_by_account on loyalty.identity_link (account_id);

comment on table loyalty.identity_link is
    'Which members a person is (relation self), and whose family (any other relation): what a login opens.';
comment on column loyalty.identity_link.identity_id is 'The person.';
comment on column loyalty.identity_link.account_id is 'The member''s account.';
comment on column loyalty.identity_link.program_id is 'Program of the account.';
comment on column loyalty.identity_link.relation is 'self, or what the person is to the member.';
comment on column loyalty.identity_link.terms_version is 'The terms accepted then.';
comment on column loyalty.identity_link.linked_at is 'Since when.';
comment on column loyalty.identity_link.ended_at is 'Until when; null while it holds.';

create table loyalty_private.member_key (
    account_id bigint primary key references loyalty.account,
    program_id integer not null references loyalty.program,
    key_1_hash bytea not null,
    key_2_hash bytea not null,
    issued_at timestamptz not null
);
create unique index member_key_by_key_1 on loyalty_private.member_key (program_id, key_1_hash);
comment on table loyalty_private.member_key is
    'Authentication keys 1 and 2 of members (A1), as keyed hashes. Nobody but the owner reads it.';
comment on column loyalty_private.member_key.account_id is 'The member''s account.';
comment on column loyalty_private.member_key.program_id is 'Program of the account.';
comment on column loyalty_private.member_key.key_1_hash is 'Hash of key 1, which tells whose keys they are.';
comment on column loyalty_private.member_key.key_2_hash is 'Hash of key 2, which proves it.';
comment on column loyalty_private.member_key.issued_at is 'When they were issued.';

create function loyalty_private.refuse(
    code text, reason text, message text, details text default null, hint text default null, field text default null,
    retry_after interval default null
) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    answer jsonb := loyalty_private.refusal(code, reason, message, details, hint, field, ceil(extract(epoch from
        case when code = 'LY008' then coalesce(retry_after, '1 day') end))::bigint)::jsonb;
    -- pre_request has set this one already
    headers jsonb := jsonb_path_query_array(coalesce(nullif(current_setting('response.headers', true), ''), '[]')::jsonb,
                                            '$[*] ? (!exists (@."Cache-Control"))');
begin
    perform set_config('response.status', answer ->> 'status', true),
            set_config('response.headers', (headers || (answer -> 'headers'))::text, true);
    return answer -> 'body';
end
$$;
comment on function loyalty_private.refuse is
    'The body of an error that must not undo what the call wrote, such as the count of wrong passwords: over HTTP it is answered with the code''s status, like any other.';

create function loyalty_private.access_policy_of(program_id integer) returns loyalty.access_policy
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    policy loyalty.access_policy;
begin
    select p.* into policy from loyalty.access_policy p where p.program_id = access_policy_of.program_id;
    if not found then
        perform loyalty_private.raise('LY010', 'program_without_logins', 'the program has no accounts of people', null,
            'loyalty.set_access_policy opens it to registration.', 'program');
    end if;
    return policy;
end
$$;
comment on function loyalty_private.access_policy_of is 'A program''s access policy; LY010 when it has none.';

create function loyalty_private.check_new_password(policy loyalty.access_policy, password text, login_id text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if password is null then
        perform loyalty_private.raise('22004', 'value_missing', 'password must not be null', null, 'Choose a password.', 'password');
    end if;
    perform loyalty_private.check_password_policy(password, login_id, policy.password_length, policy.password_letters,
        policy.password_digits, policy.password_symbols);
end
$$;
comment on function loyalty_private.check_new_password is 'Refuses a password that the program''s policy does not take (C12): 22023 says why.';

create function loyalty_private.set_password(identity_id bigint, password text) returns void
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    insert into loyalty_private.credential as c (identity_id, password_hash, changed_at)
    values (set_password.identity_id, loyalty_private.hash_password(set_password.password), loyalty.now())
        on conflict (identity_id) do update
       set password_hash = excluded.password_hash, changed_at = excluded.changed_at;
end;
comment on function loyalty_private.set_password is 'Stores the hash of a password that was checked before.';
