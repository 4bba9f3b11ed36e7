-- Logins over HTTP. What anybody may call without a token is named in loyalty_private.is_open_call.

create function loyalty_private.api_identity() returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty_private.api_role() = 'loyalty_anon' then
        perform loyalty_private.api_refuse(null);
    elsif loyalty.claim_identity_id() is null then
        perform loyalty_private.raise('LY010', 'token_without_person', 'not allowed', 'The token is for no person.',
            'Log in with /rpc/log_in.');
    end if;
    return loyalty.claim_identity_id();
end
$$;
comment on function loyalty_private.api_identity is 'The person that asks; LY009 for nobody, LY010 for a token without one.';

create function loyalty_api.log_in(
    login_id text,
    password text,
    program text default null,
    remember boolean default false,
    role text default 'member',
    account_id bigint default null,
    device_token text default null
) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.log_in(login_id, password, program, remember, role, account_id, device_token);
end
$$;
comment on function loyalty_api.log_in(text, text, text, boolean, text, bigint, text) is
$$Log in

Answers with `access_token`, to be sent as `Authorization: Bearer …` for `expires_in` seconds, and `refresh_token`, for the next ones; `device_token` is to be kept on the device and sent with the next login from it, also after logging out. 401 LY009 for a wrong password and for an unknown login ID alike; 403 LY010 when the password is right and the person is no active member of the program; 429 LY008 after too many wrong ones, with Retry-After.

- `login_id`: the e-mail address or phone, or the member number where the program allows it (then with program).
- `password`: the password.
- `program`: code of the program; may be left out by who is in one only.
- `remember`: true for a login that lasts longer on this device.
- `role`: member (when left out), family, granter, admin or operator.
- `account_id`: which member's family, for who is of more than one.
- `device_token`: what the person's last login on this device answered with; wrong passwords of others do not hold it up then.$$;

create function loyalty_api.refresh(refresh_token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.refresh(refresh_token);
end
$$;
comment on function loyalty_api.refresh(text) is
$$Get new tokens

Answers like log_in. A refresh token is good once: keep the new one. Sent again within 30 seconds, because the answer was lost or two tabs asked at once, it answers with the same new one; later it ends the login, and 401 LY009 asks for another.

- `refresh_token`: the last one that log_in or refresh answered with.$$;

create function loyalty_api.log_out() returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty.claim('sid') is null then
        perform loyalty_private.api_identity();
        perform loyalty_private.raise('LY010', 'token_without_login', 'not allowed', 'The token is of no login here.',
            'Log out where it was made.');
    end if;
    return loyalty.end_session(loyalty_private.api_identity(), loyalty.claim('sid')::uuid, 'log_out');
end
$$;
comment on function loyalty_api.log_out() is
$$Log out

Ends the login that the token is of, from the next request on. Answers `{"ended": 1}`. 403 LY010 for a token that no login made.$$;

create function loyalty_api.log_out_everywhere() returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.log_out_everywhere(loyalty_private.api_identity(), loyalty.claim_program_id());
end
$$;
comment on function loyalty_api.log_out_everywhere() is
$$Log out everywhere

Ends all of one's logins, this one too, in every program; device tokens are good no longer. Answers with how many: `{"ended": 3}`. Tokens of an outside identity provider are no login here: they are good until their end. 403 LY010 for a token that names no person.$$;

create function loyalty_api.own_sessions() returns jsonb
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    this text := loyalty.claim('sid');
begin
    -- who came by a program's identity provider sees what is of that program
    return (select jsonb_build_object('sessions', coalesce(jsonb_agg(s), '[]'))
              from jsonb_array_elements(loyalty_private.own_sessions(loyalty_private.api_identity(), this::uuid) -> 'sessions') s
             where this is not null or s ->> 'program' = loyalty.claim('program'));
end
$$;
comment on function loyalty_api.own_sessions() is
$$List one's logins

`{"sessions": […]}`: those that go on, the last used first, each with session_id, program, role, device, address, since when, until when, and is_this for the one that asks. 403 LY010 for a token that names no person.$$;

create function loyalty_api.end_session(session_id uuid) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.end_session(loyalty_private.api_identity(), session_id);
end
$$;
comment on function loyalty_api.end_session(uuid) is
$$End one of one's logins

Such as the one on a lost phone. Answers `{"ended": 1}`; 404 LY002 when there is none.

- `session_id`: which, from own_sessions.$$;

create function loyalty_api.change_password(old_password text, new_password text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    person bigint := loyalty_private.api_identity();
    within integer := loyalty.claim_program_id();
begin
    if within is null then
        -- an operator's token names none: the rules of a program that the person is in
        within := (select p.program_id from loyalty.access_policy p
                    where (loyalty_private.reach((select i from loyalty.identity i where i.identity_id = person), p.program_id)).is_in
                    order by p.password_length desc, p.program_id limit 1);
    end if;
    return loyalty.change_password(person, within, old_password, new_password, loyalty.claim('sid')::uuid);
end
$$;
comment on function loyalty_api.change_password(text, text) is
$$Change one's password

All other logins end, and a mail tells of it. Answers `{"changed": true}`; 401 LY009 when the old one is wrong, 429 LY008 after too many wrong ones, 400 when the new one is not what the program asks for.

- `old_password`: the password so far.
- `new_password`: the one to be.$$;
