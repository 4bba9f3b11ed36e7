-- Wrong passwords, codes and keys, counted for what was guessed at and for the client's address
-- (of IPv6 its /64), with growing delays. An unknown login ID is counted like a known one.
--
-- A company behind one address can work (B6): what each login added to the address's count is
-- counted by pair of both, and a right password takes it back; mails asked for have a count of
-- their own; and a device that the person used before is not held up (device.sql).

create table loyalty_private.throttle (
    scope text not null
        constraint throttle_scope_is_known
            check (scope in ('password', 'key', 'code', 'send', 'address', 'sender', 'pair')),
    subject_hash bytea not null,
    failures integer not null,
    failed_at timestamptz not null,
    blocked_until timestamptz,
    counted_since timestamptz,
    primary key (scope, subject_hash)
) with (fillfactor = 70);
comment on table loyalty_private.throttle is 'Failed attempts that still count. Nobody but the owner reads it.';
comment on column loyalty_private.throttle.scope is
    'What was tried: password (of a login ID), key (of a member), code (of a registration), send (mails to an address). Of one client, or one /64 of IPv6: address (everything that was wrong), sender (mails asked for), pair (what one login ID, member or registration added to either).';
comment on column loyalty_private.throttle.subject_hash is 'Keyed hash of the login ID, key 1, registration, address, or pair.';
comment on column loyalty_private.throttle.failures is 'Failures in a row; a day without one forgets them.';
comment on column loyalty_private.throttle.failed_at is 'When the last one was.';
comment on column loyalty_private.throttle.blocked_until is 'Until when no attempt is looked at; infinity until it is unlocked.';
comment on column loyalty_private.throttle.counted_since is
    'Of an address or sender: when its count began. Of a pair: the same of the count that its failures are part of.';

create function loyalty_private.blocked_until(scope text, failures integer, failed_at timestamptz) returns timestamptz
    language sql immutable parallel safe
    return (
        select case when failures >= r.locks_at then 'infinity'::timestamptz
                    when failures >= r.free
                    then failed_at + least(r.longest, r.first * power(2, least(failures - r.free, 20))) end
          from (values ('password', 5, interval '30 seconds', interval '15 minutes', 10),
                       ('key', 5, interval '1 minute', interval '1 hour', null),
                       ('code', 5, interval '1 minute', interval '1 hour', null),
                       ('send', 3, interval '1 minute', interval '1 hour', null),
                       ('address', 50, interval '1 minute', interval '1 hour', null),
                       ('sender', 100, interval '1 minute', interval '1 hour', null)
               ) as r (scope, free, first, longest, locks_at)
         where r.scope = blocked_until.scope);
comment on function loyalty_private.blocked_until is
    'Until when so many failures block: passwords 30 seconds from the 5th, doubling up to 15 minutes, locked from the 10th; keys and codes a minute from the 5th and mails from the 3rd, up to an hour; a client''s address a minute from the 50th failure of any kind, and from the 100th mail asked for.';

create function loyalty_private.client_network(address text) returns text
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
comment on function loyalty_private.client_network is
    'What a client''s address counts as: one of IPv6 as its /64, which a household or a server has to itself, without port or brackets; what is no address as it is.';

create function loyalty_private.client_hashes() returns bytea[]
    language sql stable set search_path = pg_catalog, pg_temp
    return loyalty_private.keyed_hashes(
        'throttle address', coalesce(loyalty_private.client_network(loyalty_private.client_address()), 'local'));
comment on function loyalty_private.client_hashes is 'The keyed hashes that failures of the client are counted under, whatever was tried.';

create function loyalty_private.client_scope(scope text) returns text
    language sql immutable parallel safe
    -- asking for mails is no guess, and does not keep others from logging in
    return case client_scope.scope when 'send' then 'sender' else 'address' end;
comment on function loyalty_private.client_scope is 'Which of a client''s counts attempts of a scope are part of: address, or sender.';

create function loyalty_private.pair_hashes(scope text, subject text) returns bytea[]
    language sql stable set search_path = pg_catalog, pg_temp
    return loyalty_private.keyed_hashes(
        'throttle pair',
        format(E'%s\n%s\n%s', coalesce(loyalty_private.client_network(loyalty_private.client_address()), 'local'),
            pair_hashes.scope, pair_hashes.subject));
comment on function loyalty_private.pair_hashes is
    'The keyed hashes that a subject''s failures from the client''s address are counted under.';

create function loyalty_private.keep_failures(scope text, hashes bytea[]) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if cardinality(hashes) > 1 then
        with counted as (
            delete from loyalty_private.throttle t
             where t.scope = keep_failures.scope and t.subject_hash = any (hashes[2:])
            returning t.failures, t.failed_at, t.blocked_until, t.counted_since
        )
        insert into loyalty_private.throttle as t (scope, subject_hash, failures, failed_at, blocked_until, counted_since)
        select keep_failures.scope, hashes[1], max(c.failures), max(c.failed_at), max(c.blocked_until),
               max(c.counted_since)
          from counted c
        having count(*) > 0
            on conflict on constraint throttle_pkey do update
           set failures = greatest(t.failures, excluded.failures),
               failed_at = greatest(t.failed_at, excluded.failed_at),
               blocked_until = greatest(t.blocked_until, excluded.blocked_until),
               counted_since = greatest(t.counted_since, excluded.counted_since);
    end if;
end
$$;
comment on function loyalty_private.keep_failures is
    'While an older pepper is still believed: what was counted under its hash goes on under that of the one in use, so that a new pepper gives nobody new tries.';

create function loyalty_private.lock_attempt(scope text, subject text) returns timestamptz
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    hashes bytea[] := loyalty_private.keyed_hashes('throttle ' || scope, subject);
    blocked timestamptz;
begin
    perform loyalty_private.keep_failures(lock_attempt.scope, hashes);
    -- attempts at one thing come one after the other: none slips in before the other is counted
    insert into loyalty_private.throttle as t (scope, subject_hash, failures, failed_at)
    values (lock_attempt.scope, hashes[1], 0, loyalty.now())
        on conflict on constraint throttle_pkey do update
       set failures = case when t.blocked_until = 'infinity' or t.failed_at > loyalty.now() - interval '1 day'
                           then t.failures else 0 end
    returning t.blocked_until into blocked;
    return blocked;
end
$$;
comment on function loyalty_private.lock_attempt is
    'Begins an attempt at a subject: until when it is blocked; infinity when it is locked. Holds others back until this one is counted.';

create function loyalty_private.client_blocked_until(scope text, subject text) returns timestamptz
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    of_client text := loyalty_private.client_scope(client_blocked_until.scope);
    addresses bytea[] := loyalty_private.client_hashes();
    counted loyalty_private.throttle;
begin
    select t.* into counted
      from loyalty_private.throttle t
     where t.scope = of_client and t.subject_hash = any (addresses)
     order by t.blocked_until desc nulls last, t.failures desc
     limit 1;
    -- near its limit guesses at passwords come one after the other, from wherever in the network
    if client_blocked_until.scope = 'password' and counted.failures >= 25
       and counted.failed_at > loyalty.now() - interval '1 day' then
        select t.* into counted
          from loyalty_private.throttle t
         where t.scope = of_client and t.subject_hash = counted.subject_hash
           for update;
    end if;
    -- Many mistyped and nobody was right yet: in the first minute of a block who mistyped may try once
    -- more, and being right ends it. Being wrong ends that: the next block is twice as long.
    if of_client = 'address' and counted.blocked_until > loyalty.now()
       and loyalty_private.blocked_until(of_client, counted.failures - 1, counted.failed_at) is null
       and exists (select from loyalty_private.throttle p
                    where p.scope = 'pair'
                      and p.subject_hash = any (loyalty_private.pair_hashes(client_blocked_until.scope, client_blocked_until.subject))
                      and p.failures > 0 and p.counted_since = counted.counted_since) then
        return null;
    end if;
    return counted.blocked_until;
end
$$;
comment on function loyalty_private.client_blocked_until is
    'Until when attempts at a subject from the client''s address are blocked by what was counted of that address.';

create function loyalty_private.wait_until(blocked_until timestamptz) returns interval
    language sql stable set search_path = pg_catalog, pg_temp
    return case when wait_until.blocked_until = 'infinity' then interval '1 day'
                when wait_until.blocked_until > loyalty.now() then wait_until.blocked_until - loyalty.now() end;
comment on function loyalty_private.wait_until is 'How long there is to wait until then: null when it is over, a day when it does not end by itself.';

create function loyalty_private.begin_attempt(scope text, subject text, counts_for_client boolean default true) returns interval
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    blocked timestamptz := loyalty_private.lock_attempt(scope, subject);
begin
    if counts_for_client then
        blocked := greatest(blocked, loyalty_private.client_blocked_until(scope, subject));
    end if;
    return loyalty_private.wait_until(blocked);
end
$$;
comment on function loyalty_private.begin_attempt is
    'Before an attempt is looked at: how long it has to wait, null when not at all. Holds others back until this one is counted. counts_for_client: as attempt_failed will be told.';

create function loyalty_private.count_for_client(scope text, subject text, number integer) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    of_client text := loyalty_private.client_scope(count_for_client.scope);
    addresses bytea[] := loyalty_private.client_hashes();
    pairs bytea[] := loyalty_private.pair_hashes(scope, subject);
    since timestamptz;
begin
    perform loyalty_private.keep_failures('pair', pairs);
    perform loyalty_private.keep_failures(of_client, addresses);
    insert into loyalty_private.throttle as t (scope, subject_hash, failures, failed_at, blocked_until, counted_since)
    values (of_client, addresses[1], number, loyalty.now(), loyalty_private.blocked_until(of_client, number, loyalty.now()), loyalty.now())
        on conflict on constraint throttle_pkey do update
       set (failures, failed_at, blocked_until, counted_since) = (
               select g.failures, excluded.failed_at,
                      loyalty_private.blocked_until(t.scope, g.failures, excluded.failed_at),
                      case when g.goes_on then t.counted_since else excluded.counted_since end
                 from (select o.goes_on,
                              case when o.goes_on then t.failures else 0 end + excluded.failures as failures
                         from (select t.failed_at > excluded.failed_at - interval '1 day' as goes_on) o) g)
    returning t.counted_since into since;
    insert into loyalty_private.throttle as t (scope, subject_hash, failures, failed_at, counted_since)
    values ('pair', pairs[1], number, loyalty.now(), since)
        on conflict on constraint throttle_pkey do update
       set failures = case when t.counted_since = excluded.counted_since then t.failures else 0 end + excluded.failures,
           failed_at = excluded.failed_at, counted_since = excluded.counted_since;
end
$$;
comment on function loyalty_private.count_for_client is
    'Counts failures at a subject for the client''s address, and what of that count is the subject''s.';

create function loyalty_private.attempt_failed(
    scope text, subject text, counts_for_client boolean default true, number integer default 1
) returns timestamptz
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    hashes bytea[] := loyalty_private.keyed_hashes('throttle ' || scope, subject);
    blocked timestamptz;
begin
    update loyalty_private.throttle t
       set failures = t.failures + number, failed_at = loyalty.now(),
           blocked_until = loyalty_private.blocked_until(t.scope, t.failures + number, loyalty.now())
     where t.scope = attempt_failed.scope and t.subject_hash = hashes[1]
    returning t.blocked_until into blocked;
    if counts_for_client then
        perform loyalty_private.count_for_client(scope, subject, number);
    end if;
    return blocked;
end
$$;
comment on function loyalty_private.attempt_failed is
    'Counts a failure of the attempt begun, for the client''s address too unless it proved something before (a whole company registers from one address); until when the next one is blocked (infinity: locked), null when it is not. number: how many failures it stands for.';

create function loyalty_private.forgive_client(scope text, subject text) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    of_client text := loyalty_private.client_scope(forgive_client.scope);
    pairs bytea[] := loyalty_private.pair_hashes(scope, subject);
    addresses bytea[];
    explained integer;
    since timestamptz;
begin
    perform loyalty_private.keep_failures('pair', pairs);
    delete from loyalty_private.throttle p
     where p.scope = 'pair' and p.subject_hash = pairs[1]
    returning p.failures, p.counted_since into explained, since;
    if explained is null then
        return;
    end if;
    addresses := loyalty_private.client_hashes();
    perform loyalty_private.keep_failures(of_client, addresses);
    update loyalty_private.throttle t
       set failures = greatest(t.failures - explained, 0),
           blocked_until = loyalty_private.blocked_until(t.scope, greatest(t.failures - explained, 0), t.failed_at)
     where t.scope = of_client and t.subject_hash = addresses[1] and t.counted_since = since;
end
$$;
comment on function loyalty_private.forgive_client is
    'Takes back from the count of the client''s address what a subject added to it, now that it was right there.';

create function loyalty_private.attempt_succeeded(scope text, subject text, counts_for_client boolean default true) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    delete from loyalty_private.throttle t
     where t.scope = attempt_succeeded.scope
       and t.subject_hash = any (loyalty_private.keyed_hashes('throttle ' || attempt_succeeded.scope, attempt_succeeded.subject));
    if counts_for_client then
        perform loyalty_private.forgive_client(scope, subject);
    end if;
end
$$;
comment on function loyalty_private.attempt_succeeded is
    'Forgets the failures of what was just got right, or is unlocked; of the client''s address those that it added there, unless it was not the client who got it right.';

create function loyalty_private.refuse_attempt(wait interval) returns jsonb
    language sql volatile set search_path = pg_catalog, pg_temp
    return loyalty_private.refuse('LY008', 'too_many_attempts', 'too many attempts',
        format('Try again in %s seconds.', ceil(extract(epoch from wait))),
        'Wait, or reset the password or unlock the account by mail.', null, wait);
comment on function loyalty_private.refuse_attempt is 'The answer to an attempt that has to wait: LY008, 429 with Retry-After.';

create function loyalty_private.pad(began timestamptz) returns void
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    select pg_sleep(greatest(0, 0.05 - extract(epoch from clock_timestamp() - pad.began))::double precision);
end;
comment on function loyalty_private.pad is
    'Waits until 50 ms after a call began, so that the time of an answer does not tell whether a mail was queued.';
