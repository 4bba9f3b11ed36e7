-- What people are sent to prove who they are: codes to type, and links. Neither is stored: it
-- is made of the challenge's number and a key outside of the database when the mail is
-- filled in, and once more when it comes back.

create table loyalty_private.challenge (
    challenge_id uuid primary key default gen_random_uuid(),
    purpose text not null,
    program_id integer not null references loyalty.program,
    identity_id bigint references loyalty.identity,
    account_id bigint references loyalty.account,
    address text,
    details jsonb not null default '{}',
    failures integer not null default 0,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    used_at timestamptz
);
create index challenge_by_identity on loyalty_private.challenge (identity_id);
create index challenge_by_expiry on loyalty_private.challenge (expires_at);
comment on table loyalty_private.challenge is
    'Codes and links that were sent, without what was in them. Nobody but the owner reads it.';
comment on column loyalty_private.challenge.challenge_id is 'Number of the challenge, a part of its link.';
comment on column loyalty_private.challenge.purpose is 'What it is for, which is also the kind of the notice that carries it.';
comment on column loyalty_private.challenge.program_id is 'The program in whose name it is sent.';
comment on column loyalty_private.challenge.identity_id is 'The person, where there is one already.';
comment on column loyalty_private.challenge.account_id is 'The member''s account, where it is about one.';
comment on column loyalty_private.challenge.address is 'E-mail address or phone it goes to; null when it was sent to nobody.';
comment on column loyalty_private.challenge.details is 'What else it is about.';
comment on column loyalty_private.challenge.failures is 'Wrong codes given; five end it.';
comment on column loyalty_private.challenge.created_at is 'When it was made.';
comment on column loyalty_private.challenge.expires_at is 'Until when it is good.';
comment on column loyalty_private.challenge.used_at is 'When it was used, or ended by a newer one.';

create function loyalty_private.send_notice(
    program_id integer, account_id bigint, kind text, occasion text, address text,
    details jsonb default '{}', lasts interval default '1 day', challenge_id uuid default null
) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    insert into loyalty.notice
           (program_id, account_id, kind, occasion, channel, address, challenge_id, details, is_urgent,
            queued_at, due_at, send_by)
    values (send_notice.program_id, send_notice.account_id, send_notice.kind, send_notice.occasion,
            case when strpos(send_notice.address, '@') > 0 then 'email' else 'sms' end, send_notice.address,
            send_notice.challenge_id, send_notice.details, true, loyalty.now(), clock_timestamp(),
            clock_timestamp() + send_notice.lasts);
    perform pg_notify('loyalty_notice', '');
end
$$;
comment on function loyalty_private.send_notice is
    'Queues a notice about somebody''s account to an address, by mail or short message; nobody can refuse those.';

create function loyalty_private.new_challenge(
    purpose text, program_id integer, identity_id bigint, account_id bigint, address text,
    details jsonb default '{}', lasts interval default '15 minutes'
) returns loyalty_private.challenge
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    made loyalty_private.challenge;
begin
    -- the newest one only is good
    update loyalty_private.challenge c
       set used_at = loyalty.now()
     where c.identity_id = new_challenge.identity_id and c.purpose = new_challenge.purpose and c.used_at is null;
    insert into loyalty_private.challenge
           (purpose, program_id, identity_id, account_id, address, details, created_at, expires_at)
    values (new_challenge.purpose, new_challenge.program_id, new_challenge.identity_id, new_challenge.account_id,
            new_challenge.address, new_challenge.details, loyalty.now(), loyalty.now() + new_challenge.lasts)
    returning * into made;
    if made.address is not null then
        perform loyalty_private.send_notice(made.program_id, made.account_id, made.purpose, made.challenge_id::text,
            made.address, made.details, new_challenge.lasts, made.challenge_id);
    end if;
    return made;
end
$$;
comment on function loyalty_private.new_challenge is
    'Makes a challenge and queues its notice, of the kind that the purpose names; with address null nothing is sent. It ends earlier ones of the person for the same purpose.';

create function loyalty_private.challenge_code(challenge_id uuid, usage text default 'code', digits integer default 6)
    returns text
    language sql stable set search_path = pg_catalog, pg_temp
    return loyalty_private.keyed_code(usage, challenge_id::text, digits);
comment on function loyalty_private.challenge_code is 'The code of a challenge, for the notice or the screen.';

create function loyalty_private.challenge_token(challenge_id uuid) returns text
    language sql stable set search_path = pg_catalog, pg_temp
    return replace(challenge_id::text, '-', '') || '.' || loyalty_private.keyed_code('link', challenge_id::text, 0);
comment on function loyalty_private.challenge_token is 'The token in the link of a challenge.';

create function loyalty_private.challenge_of_token(token text, purposes text[]) returns loyalty_private.challenge
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    found_one loyalty_private.challenge;
begin
    if token ~ '^[0-9a-f]{32}\.[A-Za-z0-9_-]{43}$' then
        select c.* into found_one
          from loyalty_private.challenge c
         where c.challenge_id = split_part(token, '.', 1)::uuid
           and c.purpose = any (purposes)
           for update;
        if found_one.challenge_id is not null
           and loyalty_private.is_keyed_code('link', found_one.challenge_id::text, 0, split_part(token, '.', 2))
           and found_one.used_at is null and found_one.expires_at > loyalty.now() and found_one.failures < 5 then
            return found_one;
        end if;
    end if;
    return null;
end
$$;
comment on function loyalty_private.challenge_of_token is
    'The challenge that a link''s token opens, held until the end of the transaction; null when it is none, was used, or its time is over.';

create function loyalty_private.try_code(challenge_id uuid, given text, usage text default 'code', digits integer default 6)
    returns boolean
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform from loyalty_private.challenge c
      where c.challenge_id = try_code.challenge_id and c.used_at is null
        and c.expires_at > loyalty.now() and c.failures < 5
        for update;
    if not found then
        return false;
    end if;
    if loyalty_private.is_keyed_code(try_code.usage, try_code.challenge_id::text, try_code.digits, coalesce(try_code.given, '')) then
        return true;
    end if;
    update loyalty_private.challenge c set failures = c.failures + 1 where c.challenge_id = try_code.challenge_id;
    return false;
end
$$;
comment on function loyalty_private.try_code is
    'Whether that is the code of a challenge that is still good; a wrong one counts, and the fifth ends it.';

create function loyalty_private.use_challenge(challenge_id uuid) returns void
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    update loyalty_private.challenge c set used_at = loyalty.now() where c.challenge_id = use_challenge.challenge_id;
end;
comment on function loyalty_private.use_challenge is 'Ends a challenge: it was used.';

create function loyalty_private.challenge_context(notice loyalty.notice) returns jsonb
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    sent loyalty_private.challenge;
    site text;
begin
    if notice.challenge_id is null then
        return coalesce(notice.details, '{}');
    end if;
    select * into sent from loyalty_private.challenge c where c.challenge_id = notice.challenge_id;
    if sent.challenge_id is null or sent.used_at is not null then
        return null;
    end if;
    select p.site_url into site from loyalty.access_policy p where p.program_id = notice.program_id;
    return coalesce(notice.details, '{}') || jsonb_build_object(
        'minutes', ceil(extract(epoch from sent.expires_at - sent.created_at) / 60)::integer)
        || case when sent.purpose in ('verification_code', 'login_in_use')
                then jsonb_build_object('code', loyalty_private.challenge_code(sent.challenge_id))
                -- after the #, which browsers do not send: no server's log has it
                else jsonb_build_object('link', coalesce(site || '/' || sent.purpose || '#', '')
                                                || loyalty_private.challenge_token(sent.challenge_id)) end;
end
$$;
comment on function loyalty_private.challenge_context is
    'What the notice of a challenge is filled with: code or link, minutes, and its details; null when it was used, replaced or purged.';
