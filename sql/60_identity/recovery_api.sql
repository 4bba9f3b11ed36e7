-- Ways back in over HTTP, what staff do with logins, and outside identity providers.

create function loyalty_api.request_password_reset(login_id text, program text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.request_password_reset(login_id, program);
end
$$;
comment on function loyalty_api.request_password_reset(text, text) is
$$Forgot the password

Sends a link to the login ID, good for 15 minutes, and answers with `screen_key`, four digits to show on the screen, and `expires_at`; the same for a login ID that nobody has. Who is locked out gets a link to unlock instead. 429 LY008 when asked too often.

- `login_id`: the e-mail address or phone, or the member number where the program allows it.
- `program`: code of the program.$$;

create function loyalty_api.reset_password(token text, screen_key text, password text, password_again text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.reset_password(token, screen_key, password, password_again);
end
$$;
comment on function loyalty_api.reset_password(text, text, text, text) is
$$Set a new password

Ends what request_password_reset began; all logins end. Answers `{"changed": true}`; 401 LY009 for a link that is not good any more, and for a wrong key, of which the fifth ends the link; 400 when the password is not what the program asks for.

- `token`: what the mailed link has after the #.
- `screen_key`: the four digits that were on the screen.
- `password`: the new password.
- `password_again`: the same.$$;

create function loyalty_api.request_unlock(login_id text, program text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.request_unlock(login_id, program);
end
$$;
comment on function loyalty_api.request_unlock(text, text) is
$$Locked out

Sends a link to unlock, good for 15 minutes, to who was locked out by wrong passwords, and answers with `expires_at`; the same for anybody else. 429 LY008 when asked too often.

- `login_id`: the e-mail address or phone, or the member number where the program allows it.
- `program`: code of the program.$$;

create function loyalty_api.unlock(token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.unlock(token);
end
$$;
comment on function loyalty_api.unlock(text) is
$$Unlock by the mailed link

Answers `{"unlocked": true}`; 401 LY009 for a link that is not good any more.

- `token`: what the mailed link has after the #.$$;

create function loyalty_api.apply_for_login(
    organisation_id text,
    name text,
    kana text,
    birth_date text,
    member_no text,
    login_id text,
    login_id_again text,
    phone text,
    consent boolean
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.apply_for_login(organisation_id, name, kana, loyalty_private.api_day('birth_date', birth_date), member_no,
        login_id, login_id_again, phone, consent);
end
$$;
comment on function loyalty_api.apply_for_login(text, text, text, text, text, text, text, text, boolean) is
$$Forgot the login ID

An application that staff approve or refuse; answers with `application_id`, whether or not there is such a member. Until they decide, the login of who is described is suspended, if it opens no other program. Once approved, a link goes to the new login ID, for accept_login. 429 LY008 when asked too often.

- `organisation_id`: the organisation ID.
- `name`: the name as the organisation has it.
- `kana`: its reading in katakana.
- `birth_date`: the birth date, as YYYY-MM-DD.
- `member_no`: the member or staff number.
- `login_id`: the e-mail address or phone to log in with from now on.
- `login_id_again`: the same.
- `phone`: a phone number for questions.
- `consent`: true: the person agrees that staff use this for the application.$$;

create function loyalty_api.accept_login(token text, password text, password_again text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.accept_login(token, password, password_again);
end
$$;
comment on function loyalty_api.accept_login(text, text, text) is
$$Begin to use a new login ID

Ends an approved application. Answers `{"changed": true}`; 401 LY009 for a link that is not good any more, 400 when the password is not what the program asks for.

- `token`: what the mailed link has after the #.
- `password`: the new password.
- `password_again`: the same.$$;

create view loyalty_api.login_application with (security_invoker = true) as
select a.application_id, p.code as program, a.account_id, loyalty.csv_cell(a.member_no) as member_no,
       loyalty.csv_cell(a.name) as name, loyalty.csv_cell(a.kana) as kana, a.birth_date,
       loyalty.csv_cell(a.login_id) as login_id, loyalty.csv_cell(a.phone) as phone,
       a.identity_id is not null as has_login, a.differs, a.state, a.applied_at, a.address, a.decided_at,
       a.decided_by, loyalty.csv_cell(a.reason) as reason
  from loyalty.login_application a
  join loyalty.program p on p.program_id = a.program_id;
comment on view loyalty_api.login_application is
$$Applications for a login ID

For administrators: those that wait (?state=eq.waiting) are decided by /rpc/approve_application and /rpc/refuse_application.$$;
comment on column loyalty_api.login_application.application_id is 'Number of the application.';
comment on column loyalty_api.login_application.program is 'Code of the program.';
comment on column loyalty_api.login_application.account_id is 'Account of the member number given; null when there is none.';
comment on column loyalty_api.login_application.member_no is 'The member number given.';
comment on column loyalty_api.login_application.name is 'The name given.';
comment on column loyalty_api.login_application.kana is 'Its reading, as given.';
comment on column loyalty_api.login_application.birth_date is 'The birth date given.';
comment on column loyalty_api.login_application.login_id is 'The login ID wanted.';
comment on column loyalty_api.login_application.phone is 'The phone number given.';
comment on column loyalty_api.login_application.has_login is 'Whether somebody logs in as that member; only then it can be approved.';
comment on column loyalty_api.login_application.differs is 'What was given otherwise than the member record has it.';
comment on column loyalty_api.login_application.state is 'waiting, approved, refused or done.';
comment on column loyalty_api.login_application.applied_at is 'When it was made.';
comment on column loyalty_api.login_application.address is 'The address of the client that made it.';
comment on column loyalty_api.login_application.decided_at is 'When it was last decided.';
comment on column loyalty_api.login_application.decided_by is 'By whom.';
comment on column loyalty_api.login_application.reason is 'Why it was refused.';

create function loyalty_private.api_sole_program(identity_id bigint, program_id integer) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty_private.api_role() <> 'loyalty_operator' and loyalty_private.opens_more(identity_id, program_id) then
        perform loyalty_private.raise('LY010', 'login_of_other_programs', 'the login belongs to other programs too', null,
            'Ask an operator.');
    end if;
end
$$;
comment on function loyalty_private.api_sole_program is
    'Keeps administrators of one program from what reaches into others: LY010.';

create function loyalty_private.api_application(application_id bigint) returns loyalty.login_application
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    application loyalty.login_application;
    own_program integer;
begin
    if loyalty_private.api_role() <> all ('{loyalty_admin,loyalty_operator}') then
        perform loyalty_private.api_refuse('Ask as an administrator of the program.');
    end if;
    own_program := case when loyalty_private.api_role() <> 'loyalty_operator' then loyalty_private.api_program() end;
    select a.* into application
      from loyalty.login_application a
     where a.application_id = api_application.application_id
       and (a.program_id = own_program or own_program is null);
    if application.application_id is null then
        perform loyalty_private.raise('LY002', 'no_such_application', 'no such application', null,
            '/login_application has those of your program.', 'application_id');
    end if;
    return application;
end
$$;
comment on function loyalty_private.api_application is
    'An application that an administrator may decide: one of the own program. LY002, LY009, LY010.';

create function loyalty_api.approve_application(application_id bigint) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    application loyalty.login_application := loyalty_private.api_application(application_id);
begin
    perform loyalty_private.api_sole_program(application.identity_id, application.program_id);
    return loyalty.approve_application(application.application_id);
end
$$;
comment on function loyalty_api.approve_application(bigint) is
$$Approve an application for a login ID

A link goes to the new login ID, good for 15 minutes; approving again sends another. Look at `differs` first. 400 when it is settled, nobody logs in as that member, or the login ID is somebody else's; 403 LY010 when the login opens other programs too, which only an operator may change.

- `application_id`: which, from /login_application.$$;

create function loyalty_api.refuse_application(application_id bigint, reason text default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.refuse_application((loyalty_private.api_application(application_id)).application_id, reason);
end
$$;
comment on function loyalty_api.refuse_application(bigint, text) is
$$Refuse an application for a login ID

The login is good again as it was. 400 when it is settled.

- `application_id`: which, from /login_application.
- `reason`: why, up to 1,000 characters; staff see it.$$;

create function loyalty_api.unlock_identity(login_id text, program text default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    within integer := loyalty.program_id(loyalty_private.api_admin_program(program));
begin
    return loyalty.unlock_identity(loyalty_private.find_person(login_id, within), within);
end
$$;
comment on function loyalty_api.unlock_identity(text, text) is
$$Unlock somebody's login

For administrators: forgets the wrong passwords of who was locked out. 404 LY002 when nobody in the program logs in by that.

- `login_id`: the e-mail address, phone or member number.
- `program`: code of the program; operators give it, administrators leave it out.$$;

create function loyalty_api.suspend_identity(login_id text, reason text default null, program text default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    within integer := loyalty.program_id(loyalty_private.api_admin_program(program));
    person bigint := loyalty_private.find_person(login_id, within);
begin
    perform loyalty_private.api_sole_program(person, within);
    return loyalty.suspend_identity(person, within, reason);
end
$$;
comment on function loyalty_api.suspend_identity(text, text, text) is
$$Suspend somebody's login

For administrators: all its logins end, and it opens nothing until it is resumed. 404 LY002 when nobody in the program logs in by that; 403 LY010 when it opens other programs too, which only an operator may touch.

- `login_id`: the e-mail address, phone or member number.
- `reason`: why, for the audit.
- `program`: code of the program; operators give it, administrators leave it out.$$;

create function loyalty_api.resume_identity(login_id text, reason text default null, program text default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    within integer := loyalty.program_id(loyalty_private.api_admin_program(program));
    person bigint := loyalty_private.find_person(login_id, within);
begin
    perform loyalty_private.api_sole_program(person, within);
    return loyalty.resume_identity(person, within, reason);
end
$$;
comment on function loyalty_api.resume_identity(text, text, text) is
$$Resume a suspended login

For administrators. 404 LY002 and 403 LY010 as in suspend_identity; 400 when it is not suspended.

- `login_id`: the e-mail address, phone or member number.
- `reason`: why, for the audit.
- `program`: code of the program; operators give it, administrators leave it out.$$;

create function loyalty_api.close_identity(login_id text, reason text default null, program text default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    within integer := loyalty.program_id(loyalty_private.api_admin_program(program));
    person bigint := loyalty_private.find_person(login_id, within);
begin
    perform loyalty_private.api_sole_program(person, within);
    return loyalty.close_identity(person, within, reason);
end
$$;
comment on function loyalty_api.close_identity(text, text, text) is
$$Close somebody's login

For administrators, and for good: its links, logins and password are gone, and the login ID is free for a new registration. The member's points stay. 404 LY002 and 403 LY010 as in suspend_identity.

- `login_id`: the e-mail address, phone or member number.
- `reason`: why, for the audit.
- `program`: code of the program; operators give it, administrators leave it out.$$;

create function loyalty_private.api_operator() returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty_private.api_role() <> 'loyalty_operator' then
        perform loyalty_private.api_refuse('Ask as an operator.');
    end if;
end
$$;
comment on function loyalty_private.api_operator is 'Refuses everybody but operators: LY009, LY010.';

create function loyalty_api.set_identity_provider(program text, issuer text, audience text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty_private.api_operator();
    return loyalty.set_identity_provider(program, issuer, audience);
end
$$;
comment on function loyalty_api.set_identity_provider(text, text, text) is
$$Believe an outside identity provider

For operators. The provider's public key goes into the JWK set that PostgREST has; its people are linked by link_subject. 400 when the issuer is another program's.

- `program`: code of the program whose members it knows.
- `issuer`: what its tokens have as iss.
- `audience`: what its tokens for this service have in aud; others are not believed.$$;

create function loyalty_api.remove_identity_provider(issuer text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty_private.api_operator();
    return loyalty.remove_identity_provider(issuer);
end
$$;
comment on function loyalty_api.remove_identity_provider(text) is
$$Believe an identity provider no longer

For operators. From the next request on; its links are forgotten. Take its key out of the JWK set, too. 404 LY002 when there is no such provider.

- `issuer`: what its tokens have as iss.$$;

create function loyalty_api.link_subject(issuer text, subject text, member_no text, program text default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.link_subject(loyalty_private.api_admin_program(program), issuer, subject, member_no);
end
$$;
comment on function loyalty_api.link_subject(text, text, text, text) is
$$Link an identity provider's person

For administrators: says which member the provider's person is. Their tokens are then good here as the member's own. 404 LY002 when there is no such provider or member.

- `issuer`: the provider, as its tokens have it in iss.
- `subject`: the person, as its tokens have it in sub.
- `member_no`: the member's number.
- `program`: code of the program; operators give it, administrators leave it out.$$;

create function loyalty_api.unlink_subject(issuer text, subject text, program text default null) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.unlink_subject(loyalty_private.api_admin_program(program), issuer, subject);
end
$$;
comment on function loyalty_api.unlink_subject(text, text, text) is
$$Unlink an identity provider's person

For administrators: from the next request on. 404 LY002 when they are not linked.

- `issuer`: the provider, as its tokens have it in iss.
- `subject`: the person, as its tokens have it in sub.
- `program`: code of the program; operators give it, administrators leave it out.$$;
