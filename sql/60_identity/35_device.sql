-- Devices that a person logged in from before (B6). Whoever sends the token that the last login on a
-- device answered with is not held up by what others got wrong, at the same address or at the same
-- login ID; what is got wrong with it counts for the device only, and after five wrong passwords in a
-- row for the login ID and the address after all: a token gives nobody more guesses.

create table loyalty_private.device (
    device_hash bytea primary key,
    identity_id bigint not null references loyalty.identity on delete cascade,
    failures integer not null default 0,
    made_at timestamptz not null,
    used_at timestamptz not null
);
create index device_by_identity on loyalty_private.device (identity_id);
comment on table loyalty_private.device is
    'Devices that people logged in from, as keyed hashes of their tokens. Nobody but the owner reads it.';
comment on column loyalty_private.device.device_hash is 'The hash.';
comment on column loyalty_private.device.identity_id is 'Who logged in.';
comment on column loyalty_private.device.failures is 'Wrong passwords in a row from it; the fifth ends it.';
comment on column loyalty_private.device.made_at is 'When the first login was.';
comment on column loyalty_private.device.used_at is 'When the last login was.';

create function loyalty.device_life() returns interval
    language sql immutable parallel safe
    return interval '180 days';
comment on function loyalty.device_life is 'How long a device is known without a login from it.';

create function loyalty_private.known_device(identity_id bigint, device_token text) returns bytea
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    -- looked for also where the person or the token is none, so that it takes as long
    hashes bytea[] := loyalty_private.keyed_hashes('device', coalesce(device_token, ''));
    person bigint := coalesce(identity_id, 0);
    known bytea;
begin
    select d.device_hash into known
      from loyalty_private.device d
     where d.device_hash = any (hashes)
       and d.identity_id = person
       and d.used_at > loyalty.now() - loyalty.device_life()
       for update;
    return known;
end
$$;
comment on function loyalty_private.known_device is
    'The device that a token is of, held until the end of the transaction; null when the person did not log in from it.';

create function loyalty_private.lock_devices(identity_id bigint) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform from loyalty_private.device d
      where d.identity_id = lock_devices.identity_id
      order by d.device_hash
        for update;
end
$$;
comment on function loyalty_private.lock_devices is
    'Holds a person''s devices before the person is held, in the order in which a login holds them.';

create function loyalty_private.forget_devices(identity_id bigint) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    delete from loyalty_private.device d where d.identity_id = forget_devices.identity_id;
end
$$;
comment on function loyalty_private.forget_devices is 'From now on no device is known as a person''s.';

create function loyalty_private.remember_device(identity_id bigint, device_token text) returns text
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known bytea := loyalty_private.known_device(identity_id, device_token);
    token text := case when known is null then loyalty_private.random_token() else device_token end;
    hash bytea := (loyalty_private.keyed_hashes('device', token))[1];
begin
    if known is not null then
        update loyalty_private.device d
           set device_hash = hash, failures = 0, used_at = loyalty.now()
         where d.device_hash = known;
        return token;
    end if;
    insert into loyalty_private.device (device_hash, identity_id, made_at, used_at)
    values (hash, remember_device.identity_id, loyalty.now(), loyalty.now());
    delete from loyalty_private.device d
     where d.device_hash = any (array(select o.device_hash
                                        from loyalty_private.device o
                                       where o.identity_id = remember_device.identity_id and o.device_hash <> hash
                                       order by o.used_at desc, o.device_hash
                                      offset 19
                                         for update skip locked));
    return token;
end
$$;
comment on function loyalty_private.remember_device is
    'The token of the device that a person just logged in from: the one it sent, if it is known, else a new one. A person has 20 at most, those used last.';

create function loyalty_private.device_failed(device_hash bytea, subject text) returns timestamptz
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    wrong integer;
begin
    update loyalty_private.device d
       set failures = d.failures + 1
     where d.device_hash = device_failed.device_hash
    returning d.failures into wrong;
    if wrong < 5 then
        return null;
    end if;
    delete from loyalty_private.device d where d.device_hash = device_failed.device_hash;
    return loyalty_private.attempt_failed('password', subject, number => wrong);
end
$$;
comment on function loyalty_private.device_failed is
    'Counts a wrong password for the known device only; the fifth in a row makes it unknown, and all of them count as anybody''s. Until when the login ID is then blocked, as attempt_failed says it.';
