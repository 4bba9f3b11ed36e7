-- Registration over HTTP. What anybody may call without a token is named in
-- loyalty_private.is_open_call.

create view loyalty_api.access_policy with (security_invoker = true) as
select p.code as program, a.organisation_id, a.terms_version, a.terms_url, a.site_url, a.asks_details,
       a.allows_member_no, a.password_length, a.password_letters, a.password_digits, a.password_symbols,
       a.token_life, a.session_life, a.remembered_life, a.family_relations, a.family_degree, a.family_access,
       a.family_monthly_limit, a.approval_above
  from loyalty.access_policy a
  join loyalty.program p on p.program_id = a.program_id;
comment on view loyalty_api.access_policy is
$$Access policies

What the program asks of people who register and log in, and what it lets families and administrators do. Administrators only; changed with /rpc/set_access_policy.$$;
comment on column loyalty_api.access_policy.program is 'Code of the program.';
comment on column loyalty_api.access_policy.organisation_id is 'What members type to say which organisation they are of.';
comment on column loyalty_api.access_policy.terms_version is 'Version of the terms that a registration accepts.';
comment on column loyalty_api.access_policy.terms_url is 'Where the terms can be read.';
comment on column loyalty_api.access_policy.site_url is 'The site that mailed links lead to; null mails the token itself.';
comment on column loyalty_api.access_policy.asks_details is 'Whether registration asks for kana and birth date.';
comment on column loyalty_api.access_policy.allows_member_no is 'Whether a member may log in by member number.';
comment on column loyalty_api.access_policy.password_length is 'Characters that a password has at least.';
comment on column loyalty_api.access_policy.password_letters is 'ASCII letters that it has at least.';
comment on column loyalty_api.access_policy.password_digits is 'Digits that it has at least.';
comment on column loyalty_api.access_policy.password_symbols is 'Whether it may have more than ASCII letters and digits.';
comment on column loyalty_api.access_policy.token_life is 'How long an access token is good.';
comment on column loyalty_api.access_policy.session_life is 'How long a login lasts without being used.';
comment on column loyalty_api.access_policy.remembered_life is 'The same for remember-me.';
comment on column loyalty_api.access_policy.family_relations is 'Relations that may be invited: spouse, parent, child, …';
comment on column loyalty_api.access_policy.family_degree is 'The highest degree of kinship that may be invited.';
comment on column loyalty_api.access_policy.family_access is 'What family may do with the member''s points: none, see or spend.';
comment on column loyalty_api.access_policy.family_monthly_limit is 'Points that one of the family may spend in a month.';
comment on column loyalty_api.access_policy.approval_above is 'Grants of more points need two administrators.';

create function loyalty_api.set_access_policy(
    organisation_id text default null,
    terms_version text default null,
    terms_url text default null,
    site_url text default null,
    asks_details boolean default null,
    allows_member_no boolean default null,
    password_length integer default null,
    password_letters integer default null,
    password_digits integer default null,
    password_symbols boolean default null,
    token_life interval default null,
    session_life interval default null,
    remembered_life interval default null,
    family_relations text[] default null,
    family_degree integer default null,
    family_access text default null,
    family_monthly_limit bigint default null,
    approval_above bigint default null,
    clear text[] default '{}',
    program text default null
) returns setof loyalty_api.access_policy
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    code text := loyalty_private.api_admin_program(set_access_policy.program);
begin
    perform loyalty_private.check_limit_change(code, set_access_policy.approval_above, set_access_policy.clear);
    perform loyalty_private.check_site_change(code, set_access_policy.site_url, set_access_policy.clear);
    perform loyalty.set_access_policy(code, set_access_policy.organisation_id, set_access_policy.terms_version,
        set_access_policy.terms_url, set_access_policy.site_url, set_access_policy.asks_details,
        set_access_policy.allows_member_no, set_access_policy.password_length, set_access_policy.password_letters,
        set_access_policy.password_digits, set_access_policy.password_symbols, set_access_policy.token_life,
        set_access_policy.session_life, set_access_policy.remembered_life, set_access_policy.family_relations,
        set_access_policy.family_degree, set_access_policy.family_access, set_access_policy.family_monthly_limit,
        set_access_policy.approval_above, set_access_policy.clear);
    return query select v.* from loyalty_api.access_policy v where v.program = code;
end
$$;
comment on function loyalty_api.set_access_policy(text, text, text, text, boolean, boolean, integer, integer, integer, boolean, interval, interval, interval, text[], integer, text, bigint, bigint, text[], text) is
$$Set the access policy

Opens the program to people who register and log in, and sets what it asks of them; what is left out stays as it is. Answers with the row of /access_policy. 400 22023 names the wrong field. Only an operator raises or clears approval_above, or changes site_url: 403 LY010. Administrators only.

- `organisation_id`: what members type to say which organisation they are of.
- `terms_version`: version of the terms that a registration accepts.
- `terms_url`: where the terms can be read.
- `site_url`: the site that mailed links lead to, without a slash at its end.
- `asks_details`: whether registration asks for kana and birth date.
- `allows_member_no`: whether a member may log in by member number.
- `password_length`: characters that a password has at least, 6 to 64.
- `password_letters`: ASCII letters that it has at least.
- `password_digits`: digits that it has at least.
- `password_symbols`: whether it may have more than ASCII letters and digits.
- `token_life`: how long an access token is good, such as "10 minutes".
- `session_life`: how long a login lasts without being used, such as "12 hours".
- `remembered_life`: the same for remember-me, such as "60 days".
- `family_relations`: relations that may be invited, such as ["spouse", "child"].
- `family_degree`: the highest degree of kinship that may be invited: 0, 1 or 2.
- `family_access`: what family may do with the member's points: none, see or spend.
- `family_monthly_limit`: points that one of the family may spend in a month.
- `approval_above`: grants of more points need two administrators.
- `clear`: names of fields to empty: organisation_id, terms_url, site_url, family_monthly_limit, approval_above.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.issue_keys(
    member_no text,
    key_1 text default null,
    key_2 text default null,
    program text default null
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    code text := loyalty_private.api_admin_program(issue_keys.program);
    issued record;
begin
    issued := loyalty.issue_keys(code, issue_keys.member_no, issue_keys.key_1, issue_keys.key_2);
    return jsonb_build_object('member_no', issue_keys.member_no, 'key_1', issued.key_1, 'key_2', issued.key_2);
end
$$;
comment on function loyalty_api.issue_keys(text, text, text, text) is
$$Issue authentication keys

Issues the keys 1 and 2 by which a member registers, or new ones for lost ones, and answers with them: {member_no, key_1, key_2}. They are told once; those before are good no longer. 400 22023 for keys that are taken, too short or too long; 404 LY002 when there is no such member. Administrators only.

- `member_no`: the member's number in the program.
- `key_1`: a key 1 of your own; random when left out.
- `key_2`: a key 2 of your own, of 4 characters or more; random when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.issue_many_keys(items jsonb, program text default null)
    returns table (item_no bigint, member_no text, outcome text, key_1 text, key_2 text, reason text)
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select i.item_no, i.member_no, i.outcome, i.key_1, i.key_2, i.reason
      from loyalty.issue_many_keys(loyalty_private.api_admin_program($2), $1) i
     order by i.item_no;
end;
comment on function loyalty_api.issue_many_keys(jsonb, text) is
$$Issue many keys

Issues the keys 1 and 2 of many members, and answers each with its keys or why it was refused. They are told once; those before are good no longer. 400 22023 when items is no such array. Administrators only.

- `items`: an array of up to 10000 objects with member_no and, where the organisation brings its own, key_1 and key_2.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.begin_registration(organisation_id text, key_1 text, key_2 text) returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.begin_registration(organisation_id, key_1, key_2);
comment on function loyalty_api.begin_registration(text, text, text) is
$$Begin a registration

Answers {registration, expires_at, program, program_name, terms_version, terms_url, asks_details, allows_member_no, password}: registration is the token of the next steps, good for an hour; password is what the program asks of one. Next is /rpc/choose_login, or /rpc/log_in_to_link for who has a login already. 401 LY009 for wrong keys, which count (429 LY008); 403 LY010 for a member who is registered already or not active. No token needed.

- `organisation_id`: of which organisation.
- `key_1`: the member's authentication key 1.
- `key_2`: the member's authentication key 2.$$;

create function loyalty_api.choose_login(
    registration text, password text, terms_version text, login_id text default null
) returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.choose_login(registration, login_id, password, terms_version);
comment on function loyalty_api.choose_login(text, text, text, text) is
$$Choose login ID and password

Sends a code to the login ID and answers {next: "verify_code", sent_to, code_expires_at}, whether or not somebody has that login ID. Without a login ID, where the program allows it: {next: "confirm", name, …}. 400 22023 says what the program has against the password. 429 LY008 after too many codes to one address. No token needed.

- `registration`: the token of /rpc/begin_registration.
- `password`: the password.
- `terms_version`: version of the terms that the person accepted.
- `login_id`: e-mail address or phone number.$$;

create function loyalty_api.resend_code(registration text) returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.resend_code(registration);
comment on function loyalty_api.resend_code(text) is
$$Send a new code

Answers as /rpc/choose_login; the code before is no longer good. 429 LY008 after too many to one address. No token needed.

- `registration`: the token of /rpc/begin_registration.$$;

create function loyalty_api.verify_code(registration text, code text) returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.verify_code(registration, code);
comment on function loyalty_api.verify_code(text, text) is
$$Verify the code

Answers {next: "confirm", name, member_no, program, program_name, asks_details}: show the name to be confirmed; or {next: "log_in", login_id}: somebody has that login ID already, and logs in with /rpc/log_in_to_link. 401 LY009 for a wrong code, which counts (429 LY008). No token needed.

- `registration`: the token of /rpc/begin_registration.
- `code`: the six digits that came by mail or short message.$$;

create function loyalty_api.log_in_to_link(
    registration text, login_id text, password text, terms_version text default null
) returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.log_in_to_link(registration, login_id, password, terms_version);
comment on function loyalty_api.log_in_to_link(text, text, text, text) is
$$Link to a login one has

Answers {next: "confirm", name, …} as /rpc/verify_code. 401 LY009 for wrong credentials, which count as those of /rpc/log_in do. No token needed.

- `registration`: the token of /rpc/begin_registration.
- `login_id`: of the login that is there already.
- `password`: its password.
- `terms_version`: version of the terms that the person accepted; not needed after /rpc/choose_login.$$;

create function loyalty_api.confirm_registration(
    registration text, is_right_name boolean, kana text default null, birth_date text default null
) returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.confirm_registration(registration, is_right_name, nullif(btrim(kana), ''),
        loyalty_private.api_day('birth_date', nullif(btrim(birth_date), '')));
comment on function loyalty_api.confirm_registration(text, boolean, text, text) is
$$Confirm the name

Ends the registration and answers with a session, as /rpc/log_in does; {next: "log_in"} when somebody finished with the same login ID meanwhile. 401 LY009 for details that are not the member record's, which count (429 LY008); 403 LY010 when the name is not confirmed: the registration is given up. No token needed.

- `registration`: the token of /rpc/begin_registration.
- `is_right_name`: whether the name shown is the person's own.
- `kana`: the name's reading, where the program asks for details.
- `birth_date`: as YYYY-MM-DD, where the program asks for details.$$;

create function loyalty_api.request_login_change(login_id text, password text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    person bigint := loyalty.claim_identity_id();
begin
    if loyalty_private.api_role() = 'loyalty_anon' then
        perform loyalty_private.api_refuse(null);
    elsif person is null or loyalty.claim_program_id() is null then
        perform loyalty_private.raise('LY010', 'token_without_login', 'not allowed',
            'The token is of no person''s login to a program.', 'Log in to a program with /rpc/log_in.');
    end if;
    return loyalty.request_login_change(person, loyalty.claim_program_id(), loyalty.claim_account_id(),
        request_login_change.login_id, request_login_change.password);
end
$$;
comment on function loyalty_api.request_login_change(text, text) is
$$Change one's login ID

Mails a link to the new e-mail address or phone: /rpc/confirm_login_change takes its token. Answers {sent_to, expires_at}, also where somebody else has that login ID; then nothing is mailed. Who logs in by member number registers an address that way. 401 LY009 for a wrong password, which counts (429 LY008). For who is signed in.

- `login_id`: the new e-mail address or phone number.
- `password`: the password as it is now.$$;

create function loyalty_api.confirm_login_change(token text) returns jsonb
    language sql volatile security definer set search_path = pg_catalog, pg_temp
    return loyalty.confirm_login_change(token);
comment on function loyalty_api.confirm_login_change(text) is
$$Confirm a new login ID

Answers {login_id}: from then on that is how the person logs in. 401 LY009 for a link that was used, replaced, or is too old. No token needed.

- `token`: what follows # in the link that was mailed.$$;
