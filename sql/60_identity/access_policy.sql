-- What a program asks of people who log in (loyalty.access_policy), and the authentication keys
-- by which members prove who they are the first time (A1).

create function loyalty.set_access_policy(
    program text,
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
    clear text[] default '{}'
) returns loyalty.access_policy
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := loyalty.program_id(set_access_policy.program);
    emptied text[] := coalesce(set_access_policy.clear, '{}');
    written loyalty.access_policy;
    broken text;
    hint text;
begin
    if not emptied <@ '{organisation_id,terms_url,site_url,family_monthly_limit,approval_above}' then
        perform loyalty_private.raise('22023', 'not_clearable', 'clear names a field that cannot be emptied',
            format('clear: %s given.', left(emptied::text, 100)),
            'organisation_id, terms_url, site_url, family_monthly_limit and approval_above can.', 'clear');
    end if;
    if exists (select from unnest(set_access_policy.family_relations) r where loyalty.degree_of_kinship(r) is null) then
        perform loyalty_private.raise('22023', 'relation_unknown', 'family_relations contains an unknown relation',
            format('family_relations: %s given.', left(set_access_policy.family_relations::text, 100)),
            'Names such as spouse, parent or child: docs/family.md lists them.', 'family_relations');
    end if;
    insert into loyalty.access_policy as p (program_id) values (within) on conflict (program_id) do nothing;
    update loyalty.access_policy p
       set organisation_id = case when 'organisation_id' <> all (emptied)
                                  then coalesce(btrim(set_access_policy.organisation_id), p.organisation_id) end,
           terms_version = coalesce(set_access_policy.terms_version, p.terms_version),
           terms_url = case when 'terms_url' <> all (emptied) then coalesce(set_access_policy.terms_url, p.terms_url) end,
           site_url = case when 'site_url' <> all (emptied) then coalesce(set_access_policy.site_url, p.site_url) end,
           asks_details = coalesce(set_access_policy.asks_details, p.asks_details),
           allows_member_no = coalesce(set_access_policy.allows_member_no, p.allows_member_no),
           password_length = coalesce(set_access_policy.password_length, p.password_length),
           password_letters = coalesce(set_access_policy.password_letters, p.password_letters),
           password_digits = coalesce(set_access_policy.password_digits, p.password_digits),
           password_symbols = coalesce(set_access_policy.password_symbols, p.password_symbols),
           token_life = coalesce(set_access_policy.token_life, p.token_life),
           session_life = coalesce(set_access_policy.session_life, p.session_life),
           remembered_life = coalesce(set_access_policy.remembered_life, p.remembered_life),
           family_relations = coalesce(set_access_policy.family_relations, p.family_relations),
           family_degree = coalesce(set_access_policy.family_degree, p.family_degree),
           family_access = coalesce(set_access_policy.family_access, p.family_access),
           family_monthly_limit = case when 'family_monthly_limit' <> all (emptied)
                                       then coalesce(set_access_policy.family_monthly_limit, p.family_monthly_limit) end,
           approval_above = case when 'approval_above' <> all (emptied)
                                 then coalesce(set_access_policy.approval_above, p.approval_above) end
     where p.program_id = within
    returning * into written;
    perform loyalty_private.audit('set_access_policy', within, details => to_jsonb(written) - 'program_id');
    return written;
exception
    when check_violation then
        get stacked diagnostics broken = constraint_name;
        broken := substring(broken from '^access_policy_(.*)_is_[a-z_]+$');
        if broken is null then
            raise;
        end if;
        hint := case broken
            when 'terms_url' then 'A URL that begins with https:// or http:// and has no spaces, up to 500 characters.'
            when 'site_url' then 'A URL that begins with https:// or http://, without a slash at its end, up to 500 characters.'
            when 'password_length' then 'From 6 to 64.'
            when 'token_life' then 'From 1 minute to 1 hour.'
            when 'session_life' then 'From 5 minutes to 7 days.'
            when 'remembered_life' then 'From 1 day to 400 days.'
            when 'family_degree' then '0, 1 or 2.'
            when 'family_access' then 'none, see or spend.'
            else case when broken in ('organisation_id', 'terms_version') then 'From 1 to 50 characters.'
                      when broken in ('password_letters', 'password_digits') then 'From 0 to 32.'
                      else '0 or more points.' end end;
        perform loyalty_private.raise('22023', 'out_of_range', broken || ' is out of range', null, hint, broken);
    when unique_violation then
        perform loyalty_private.raise('22023', 'organisation_id_taken', 'organisation_id is taken', 'Another program has it.',
            'Choose another one.', 'organisation_id');
end
$$;
comment on function loyalty.set_access_policy is
    'Opens a program to people who register and log in, and sets what it asks of them; what is null stays as it is, what clear names becomes empty. LY002 for an unknown program, 22023 names the wrong field.';

create function loyalty_private.clean_key(key text) returns text
    language sql immutable parallel safe set search_path = pg_catalog, pg_temp
    -- full-width digits and small letters are the same to who types them
    return nullif(btrim(upper(normalize(key, nfkc)), E' \t\r\n'), '');
comment on function loyalty_private.clean_key is 'An authentication key as it is hashed: NFKC, in capitals, without spaces around it; null when empty.';

create function loyalty_private.random_key(length integer) returns text
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    -- two bytes for each character, so that none is likelier than another by a measurable bit
    select string_agg(substr('ACDEFHJKMNPQRTUVWXY3479', 1 + (get_byte(r.bytes, 2 * i) * 256 + get_byte(r.bytes, 2 * i + 1)) % 23, 1),
                      '' order by i)
      from (select sha256(convert_to(loyalty_private.random_token(), 'UTF8')) as bytes) r
     cross join generate_series(0, least(random_key.length, 16) - 1) i;
end;
comment on function loyalty_private.random_key is
    'A key for people to type, of up to 16 letters and digits that nobody takes for others.';

create function loyalty_private.write_keys(program_id integer, items jsonb)
    returns table (item_no bigint, member_no text, account_id bigint, key_1 text, key_2 text, reason text)
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    -- two lists at once would each not see the other's keys
    perform pg_advisory_xact_lock(hashtextextended('loyalty keys', write_keys.program_id));
    return query
    with given as (
        select i.item_no, i.item ->> 'member_no' as member_no, a.account_id,
               coalesce(loyalty_private.clean_key(i.item ->> 'key_1'), loyalty_private.random_key(8)) as key_1,
               coalesce(loyalty_private.clean_key(i.item ->> 'key_2'), loyalty_private.random_key(10)) as key_2
          from jsonb_array_elements(write_keys.items) with ordinality i (item, item_no)
          left join loyalty.account a
            on a.program_id = write_keys.program_id and a.member_no = btrim(i.item ->> 'member_no')
    ), hashed as materialized (
        select g.*, loyalty_private.keyed_hashes('key 1 ' || write_keys.program_id, g.key_1) as hashes_1,
               (loyalty_private.keyed_hashes('key 2 ' || coalesce(g.account_id, 0), g.key_2))[1] as hash_2
          from given g
    ), judged as materialized (
        select h.*,
               case when h.account_id is null then 'no such member'
                    when char_length(h.key_1) > 64 then 'key_1 has more than 64 characters'
                    when char_length(h.key_2) not between 4 and 64 then 'key_2 has not from 4 to 64 characters'
                    when count(*) over (partition by h.account_id) > 1 then 'the member is given twice'
                    when count(*) over (partition by h.key_1) > 1
                         or exists (select from loyalty_private.member_key k
                                     where k.program_id = write_keys.program_id
                                       and k.key_1_hash = any (h.hashes_1) and k.account_id <> h.account_id)
                        then 'key_1 is another member''s' end as reason
          from hashed h
    ), written as (
        insert into loyalty_private.member_key as k (account_id, program_id, key_1_hash, key_2_hash, issued_at)
        select j.account_id, write_keys.program_id, j.hashes_1[1], j.hash_2, loyalty.now()
          from judged j
         where j.reason is null
            on conflict (account_id) do update
           set key_1_hash = excluded.key_1_hash, key_2_hash = excluded.key_2_hash, issued_at = excluded.issued_at
    )
    select j.item_no, j.member_no, j.account_id, case when j.reason is null then j.key_1 end,
           case when j.reason is null then j.key_2 end, j.reason
      from judged j
     order by j.item_no;
end
$$;
comment on function loyalty_private.write_keys is
    'For issue_keys and issue_many_keys: stores keys, makes those that are left out, and tells what each member has now or why not.';

create function loyalty.issue_many_keys(program text, items jsonb)
    returns table (item_no bigint, member_no text, outcome text, key_1 text, key_2 text, reason text)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := loyalty.program_id(issue_many_keys.program);
begin
    if jsonb_typeof(issue_many_keys.items) is distinct from 'array'
       or jsonb_path_exists(issue_many_keys.items, '$[*] ? (@.type() != "object")') then
        perform loyalty_private.raise('22023', 'items_invalid', 'items must be an array of objects', null,
            'Such as [{"member_no": "A-1"}] or [{"member_no": "A-1", "key_1": "…", "key_2": "…"}].', 'items');
    elsif jsonb_array_length(issue_many_keys.items) > 10000 then
        perform loyalty_private.raise('54000', 'too_many_items', 'too many items',
            format('%s given.', jsonb_array_length(issue_many_keys.items)), 'Up to 10000 in one call.', 'items');
    end if;
    perform loyalty_private.audit('issue_many_keys', within,
        details => jsonb_build_object('items', jsonb_array_length(issue_many_keys.items)));
    return query
    select w.item_no, w.member_no, case when w.reason is null then 'issued' else 'refused' end,
           w.key_1, w.key_2, w.reason
      from loyalty_private.write_keys(within, issue_many_keys.items) w
     order by w.item_no;
end
$$;
comment on function loyalty.issue_many_keys is
    'Issues authentication keys (A1) to many members: items is an array of objects with member_no and, where the organisation brings its own, key_1 and key_2. Answers each with what was issued or why it was refused; keys are told here only, once, and those that a member had before are good no longer. LY002, 22023, 54000 above 10000 items.';

create function loyalty.issue_keys(
    program text,
    member_no text,
    inout key_1 text default null,
    inout key_2 text default null
) returns record
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    within integer := loyalty.program_id(issue_keys.program);
    issued record;
begin
    if issue_keys.member_no is null then
        perform loyalty_private.raise('22004', 'value_missing', 'member_no must not be null', null, 'Pass member_no => … .',
            'member_no');
    end if;
    select w.* into strict issued
      from loyalty_private.write_keys(within,
               jsonb_build_array(jsonb_build_object(
                   'member_no', issue_keys.member_no, 'key_1', issue_keys.key_1, 'key_2', issue_keys.key_2))) w;
    if issued.account_id is null then
        perform loyalty_private.raise('LY002', 'no_such_member', 'no such member',
            format('%L given.', left(issue_keys.member_no, 100)), 'loyalty.set_member writes members.', 'member_no');
    elsif issued.reason is not null then
        perform loyalty_private.raise('22023', 'keys_invalid', issued.reason, null, 'Leave the keys out to have some made.',
            case when issued.reason ~ '^key_[12] ' then left(issued.reason, 5) end);
    end if;
    perform loyalty_private.audit('issue_keys', within, account_id => issued.account_id);
    issue_keys.key_1 := issued.key_1;
    issue_keys.key_2 := issued.key_2;
end
$$;
comment on function loyalty.issue_keys is
    'Issues a member''s authentication keys (A1), or new ones for lost ones: those given, or random ones that people read without mistake. They are told here only, once; the ones before are good no longer. LY002 for an unknown member, 22023 for keys that cannot be.';

create function loyalty_private.check_limit_change(program text, approval_above bigint, clear text[]) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if loyalty_private.api_role() = 'loyalty_admin' and exists (
           select from loyalty.access_policy p
            where p.program_id = loyalty.program_id(check_limit_change.program)
              and (p.approval_above < check_limit_change.approval_above
                   or p.approval_above is not null and 'approval_above' = any (check_limit_change.clear))) then
        perform loyalty_private.raise('LY010', 'operator_only', 'an administrator cannot raise or clear approval_above', null,
            'An operator raises or clears approval_above; administrators lower it.', 'approval_above');
    end if;
end
$$;
comment on function loyalty_private.check_limit_change is
    'Keeps an administrator from raising or clearing approval_above over HTTP, which would make two of one.';

create function loyalty_private.check_site_change(program text, site_url text, clear text[]) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known text := (select p.site_url from loyalty.access_policy p
                    where p.program_id = loyalty.program_id(check_site_change.program));
begin
    if loyalty_private.api_role() = 'loyalty_admin'
       and (known is distinct from coalesce(check_site_change.site_url, known)
            or known is not null and 'site_url' = any (check_site_change.clear)) then
        perform loyalty_private.raise('LY010', 'operator_only', 'an administrator cannot set site_url', null,
            'An operator sets or clears site_url.', 'site_url');
    end if;
end
$$;
comment on function loyalty_private.check_site_change is
    'Keeps an administrator from changing site_url over HTTP: the links sent there open logins of other programs too.';
