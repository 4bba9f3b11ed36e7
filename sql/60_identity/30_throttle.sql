-- Wrong passwords, codes and keys, counted for what was guessed at and for the client's
-- address (of IPv6 its /64), with growing delays. An unknown login ID is counted like a known one.

create table loyalty.throttle (
    scope text not null
        constraint throttle_scope_is_known check (scope in ('password', 'key', 'code', 'send', 'address')),
    subject_hash bytea not null,
    failures integer not null,
    failed_at timestamptz not null,
    blocked_until timestamptz,
    primary key (scope, subject_hash)
) with (fillfactor = 70);
comment on table loyalty.throttle is 'Failed attempts that still count. Nobody but the owner reads it.';
comment on column loyalty.throttle.scope is
    'What was tried: password (of a login ID), key (of a member), code (of a registration), send (mails to an address), address (anything from one client, or one /64 of IPv6).';
comment on column loyalty.throttle.subject_hash is 'Keyed hash of the login ID, key 1, registration or address.';
comment on column loyalty.throttle.failures is 'Failures in a row; a day without one forgets them.';
comment on column loyalty.throttle.failed_at is 'When the last one was.';
comment on column loyalty.throttle.blocked_until is 'Until when no attempt is looked at; infinity until it is unlocked.';

create function loyalty.blocked_until(scope text, failures integer, failed_at timestamptz) returns timestamptz
    language sql immutable parallel safe
    return (
        select case when failures >= r.locks_at then 'infinity'::timestamptz
                    when failures >= r.free
                    then failed_at + least(r.longest, r.first * power(2, least(failures - r.free, 20))) end
          from (values ('password', 5, interval '30 seconds', interval '15 minutes', 10),
                       ('key', 5, interval '1 minute', interval '1 hour', null),
                       ('code', 5, interval '1 minute', interval '1 hour', null),
                       ('send', 3, interval '1 minute', interval '1 hour', null),
                       ('address', 50, interval '1 minute', interval '1 hour', null)
               ) as r (scope, free, first, longest, locks_at)
         where r.scope = blocked_until.scope);
comment on function loyalty.blocked_until is
    'Until when so many failures block: passwords 30 seconds from the 5th, doubling up to 15 minutes, locked from the 10th; keys and codes a minute from the 5th and mails from the 3rd, up to an hour; a client''s address a minute from the 50th failure of any kind.';

create function loyalty.client_network(address text) returns text
    language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    -- as proxies write it: [2001:db8::1]:443, 192.0.2.1:443, fe80::1%eth0
    bare text := coalesce(
        substring(address from '^\[([^]]*)\](?::[0-9]+)?$'),
        substring(address from '^([0-9.]+):[0-9]+$'),
        address);
    shown inet;
begin
    shown := regexp_replace(bare, '%.*$', '')::inet;
    return case
        when shown <<= '::ffff:0:0/96' then replace(host(shown), '::ffff:', '')
        when family(shown) = 6 then text(network(set_masklen(shown, 64)))
        else host(shown) end;
exception when invalid_text_representation then
    return address;
end
$$;
comment on function loyalty.client_network is
    'What a client''s address counts as: one of IPv6 as its /64, which a household or a server has to itself, without port or brackets; what is no address as it is.';

create function loyalty.client_hashes() returns bytea[]
    language sql stable set search_path = pg_catalog, pg_temp
    return loyalty.keyed_hashes(
        'throttle address', coalesce(loyalty.client_network(loyalty.client_address()), 'local'));
comment on function loyalty.client_hashes is 'The keyed hashes that failures of the client are counted under, whatever was tried.';

create function loyalty.keep_failures(scope text, hashes bytea[]) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if cardinality(hashes) > 1 then
        with counted as (
            delete from loyalty.throttle t
             where t.scope = keep_failures.scope and t.subject_hash = any (hashes[2:])
            returning t.failures, t.failed_at, t.blocked_until
        )
        insert into loyalty.throttle as t (scope, subject_hash, failures, failed_at, blocked_until)
        select keep_failures.scope, hashes[1], max(c.failures), max(c.failed_at), max(c.blocked_until)
          from counted c
        having count(*) > 0
            on conflict on constraint throttle_pkey do update
           set failures = greatest(t.failures, excluded.failures),
               failed_at = greatest(t.failed_at, excluded.failed_at),
               blocked_until = greatest(t.blocked_until, excluded.blocked_until);
    end if;
end
$$;
comment on function loyalty.keep_failures is
    'While an older pepper is still believed: what was counted under its hash goes on under that of the one in use, so that a new pepper gives nobody new tries.';

create function loyalty.begin_attempt(scope text, subject text) returns interval
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    hashes bytea[] := loyalty.keyed_hashes('throttle ' || scope, subject);
    addresses bytea[] := loyalty.client_hashes();
    wait timestamptz;
    from_address timestamptz;
begin
    perform loyalty.keep_failures(begin_attempt.scope, hashes);
    -- attempts at one thing come one after the other: none slips in before the other is counted
    insert into loyalty.throttle as t (scope, subject_hash, failures, failed_at)
    values (begin_attempt.scope, hashes[1], 0, loyalty.now())
        on conflict on constraint throttle_pkey do update
       set failures = case when t.blocked_until = 'infinity' or t.failed_at > loyalty.now() - interval '1 day'
                           then t.failures else 0 end
    returning t.blocked_until into wait;
    select max(t.blocked_until) into from_address
      from loyalty.throttle t
     where t.scope = 'address' and t.subject_hash = any (addresses);
    wait := greatest(wait, from_address);
    return case when wait = 'infinity' then interval '1 day'
                when wait > loyalty.now() then wait - loyalty.now() end;
end
$$;
comment on function loyalty.begin_attempt is
    'Before an attempt is looked at: how long it has to wait, null when not at all. Holds others back until this one is counted.';

create function loyalty.attempt_failed(scope text, subject text, counts_for_client boolean default true)
    returns timestamptz
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    hashes bytea[] := loyalty.keyed_hashes('throttle ' || scope, subject);
    addresses bytea[] := loyalty.client_hashes();
    blocked timestamptz;
begin
    update loyalty.throttle t
       set failures = t.failures + 1, failed_at = loyalty.now(),
           blocked_until = loyalty.blocked_until(t.scope, t.failures + 1, loyalty.now())
     where t.scope = attempt_failed.scope and t.subject_hash = hashes[1]
    returning t.blocked_until into blocked;
    if not counts_for_client then
        return blocked;
    end if;
    perform loyalty.keep_failures('address', addresses);
    insert into loyalty.throttle as t (scope, subject_hash, failures, failed_at)
    values ('address', addresses[1], 1, loyalty.now())
        on conflict on constraint throttle_pkey do update
       set failures = case when t.failed_at > loyalty.now() - interval '1 day' then t.failures + 1 else 1 end,
           failed_at = excluded.failed_at,
           blocked_until = loyalty.blocked_until('address', t.failures + 1, excluded.failed_at);
    return blocked;
end
$$;
comment on function loyalty.attempt_failed is
    'Counts a failure of the attempt begun, for the client''s address too unless it proved something before (a whole company registers from one address); until when the next one is blocked (infinity: locked), null when it is not.';

create function loyalty.attempt_succeeded(scope text, subject text) returns void
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    delete from loyalty.throttle t
     where t.scope = attempt_succeeded.scope
       and t.subject_hash = any (loyalty.keyed_hashes('throttle ' || attempt_succeeded.scope, attempt_succeeded.subject));
end;
comment on function loyalty.attempt_succeeded is 'Forgets the failures of what was just got right, or is unlocked.';

create function loyalty.refuse_attempt(wait interval) returns jsonb
    language sql volatile set search_path = pg_catalog, pg_temp
    return loyalty.refuse('LY008', 'too many attempts',
        format('Try again in %s seconds.', ceil(extract(epoch from wait))),
        'Wait, or reset the password or unlock the account by mail.', wait);
comment on function loyalty.refuse_attempt is 'The answer to an attempt that has to wait: LY008, 429 with Retry-After.';

create function loyalty.pad(began timestamptz) returns void
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    select pg_sleep(greatest(0, 0.05 - extract(epoch from clock_timestamp() - pad.began))::double precision);
end;
comment on function loyalty.pad is
    'Waits until 50 ms after a call began, so that the time of an answer does not tell whether a mail was queued.';
