-- Who the members are: records of people beside their accounts. Rules read the facts when
-- they run, so a corrected fact needs nothing else.

create table loyalty.member (
    account_id bigint primary key references loyalty.account,
    program_id integer not null references loyalty.program,
    name text
        constraint member_name_is_short check (char_length(name) between 1 and 200),
    kana text
        constraint member_kana_is_short check (char_length(kana) between 1 and 200),
    birth_date date
        constraint member_birth_date_is_sane check (birth_date >= '1850-01-01'),
    email text
        constraint member_email_is_short check (char_length(email) between 3 and 254),
    phone text
        constraint member_phone_is_e164 check (phone ~ '^\+[1-9][0-9]{5,14}$'),
    language text not null default 'ja'
        constraint member_language_is_a_tag check (language ~ '^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$'),
    facts jsonb not null default '{}'
        constraint member_facts_are_days check (
            jsonb_typeof(facts) = 'object'
            and not jsonb_path_exists(facts, '$.* ? (@.type() != "string" || !(@ like_regex "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))')),
    attributes jsonb not null default '{}'
        constraint member_attributes_are_an_object check (jsonb_typeof(attributes) = 'object'),
    updated_at timestamptz not null
);
create index member_by_program on loyalty.member (program_id, account_id);

comment on table loyalty.member is
    'A person''s record in a program, beside the account that has their points and member_no.';
comment on column loyalty.member.account_id is 'The member''s account.';
comment on column loyalty.member.program_id is 'Program of the account.';
comment on column loyalty.member.name is 'The name as the person writes it.';
comment on column loyalty.member.kana is 'The name''s reading, in full-width katakana.';
comment on column loyalty.member.birth_date is 'Day of birth.';
comment on column loyalty.member.email is 'Where mail goes.';
comment on column loyalty.member.phone is 'Telephone number in E.164, such as +81312345678.';
comment on column loyalty.member.language is 'Language of what the member is sent, as a BCP 47 tag.';
comment on column loyalty.member.facts is 'Days that rules go by, each as YYYY-MM-DD: {"first_service_on": "2024-06-20"}.';
comment on column loyalty.member.attributes is 'Whatever else the program knows, for its own use.';
comment on column loyalty.member.updated_at is 'When the record last changed.';

create function loyalty_private.clean_member(record json, today date) returns json
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'loyalty_clean_member';
comment on function loyalty_private.clean_member is
    'For set_member: a record as it is stored, or what is wrong with it as 22023.';

create function loyalty_private.merge_attributes(stored jsonb, given jsonb) returns jsonb
    language sql immutable parallel safe
begin atomic
    -- not jsonb_strip_nulls, which would go into what is nested
    select coalesce(jsonb_object_agg(e.key, e.value) filter (where e.value <> 'null'), '{}')
      from jsonb_each(stored || given) e;
end;
comment on function loyalty_private.merge_attributes is
    'Facts or attributes with others written over them; a null takes one away.';

create function loyalty_private.changed_members(program_id integer, records json, columns text[])
    returns table (
        account_id bigint,
        member_no text,
        is_new boolean,
        is_changed boolean,
        name text,
        kana text,
        birth_date date,
        email text,
        phone text,
        language text,
        facts jsonb,
        attributes jsonb
    )
    language sql stable
begin atomic
    select g.account_id, g.member_no, g.stored is null,
           g.stored is not null
           and (g.stored_name, g.stored_kana, g.stored_birth_date, g.stored_email, g.stored_phone,
                g.stored_language, g.stored_facts, g.stored_attributes)
               is distinct from
               (g.name, g.kana, g.birth_date, g.email, g.phone, g.language, g.facts, g.attributes),
           g.name, g.kana, g.birth_date, g.email, g.phone, g.language, g.facts, g.attributes
      from (select a.account_id, r.member_no, m.account_id as stored,
                   m.name as stored_name, m.kana as stored_kana, m.birth_date as stored_birth_date,
                   m.email as stored_email, m.phone as stored_phone, m.language as stored_language,
                   m.facts as stored_facts, m.attributes as stored_attributes,
                   case when 'name' = any (columns) then r.name else m.name end as name,
                   case when 'kana' = any (columns) then r.kana else m.kana end as kana,
                   case when 'birth_date' = any (columns) then r.birth_date else m.birth_date end as birth_date,
                   case when 'email' = any (columns) then r.email else m.email end as email,
                   case when 'phone' = any (columns) then r.phone else m.phone end as phone,
                   coalesce(case when 'language' = any (columns) then r.language else m.language end, 'ja')
                       as language,
                   case when 'facts' = any (columns)
                        then loyalty_private.merge_attributes(coalesce(m.facts, '{}'), r.facts)
                        else coalesce(m.facts, '{}') end as facts,
                   case when 'attributes' = any (columns)
                        then loyalty_private.merge_attributes(coalesce(m.attributes, '{}'), r.attributes)
                        else coalesce(m.attributes, '{}') end as attributes
              from json_to_recordset(records) as r (
                       member_no text, name text, kana text, birth_date date, email text, phone text,
                       language text, facts jsonb, attributes jsonb)
              -- limit 1 has each looked up by its key, whatever the statistics of a new table say
              left join lateral (
                       select a.account_id
                         from loyalty.account a
                        where a.program_id = changed_members.program_id and a.member_no = r.member_no
                        limit 1) a on true
              left join lateral (
                       select m.*
                         from loyalty.member m
                        where m.account_id = a.account_id
                        limit 1) m on true) g;
end;
comment on function loyalty_private.changed_members is
    'Records as they would be once these were written over them: an array of objects with member_no and the columns named.';

create function loyalty_private.write_members(
    program_id integer,
    records json,
    columns text[],
    is_dry_run boolean,
    out inserted bigint,
    out updated bigint
) returns record
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off
    set enable_bitmapscan = off
    set jit = off
as $$
begin
    if is_dry_run then
        select count(*) filter (where c.is_new), count(*) filter (where c.is_changed)
          into inserted, updated
          from loyalty_private.changed_members(write_members.program_id, records, columns) c;
        return;
    end if;
    perform loyalty.open_accounts(
        (select p.code from loyalty.program p where p.program_id = write_members.program_id),
        array(select r ->> 'member_no' from json_array_elements(records) r));
    -- Writers of the same member come one after the other, and what they merge into is what
    -- the other left; in the order of the accounts they never wait for each other in a circle.
    perform (select true from loyalty.account a where a.account_id = g.account_id for no key update)
       from (select c.account_id
               from loyalty_private.changed_members(write_members.program_id, records, columns) c
              where c.is_new or c.is_changed
              order by c.account_id
             offset 0) g;
    with written as (
        insert into loyalty.member as m
               (account_id, program_id, name, kana, birth_date, email, phone, language, facts, attributes,
                updated_at)
        select c.account_id, write_members.program_id, c.name, c.kana, c.birth_date, c.email, c.phone,
               c.language, c.facts, c.attributes, loyalty.now()
          from loyalty_private.changed_members(write_members.program_id, records, columns) c
         where c.is_new or c.is_changed
         order by c.account_id
            on conflict (account_id) do update
           set name = excluded.name, kana = excluded.kana, birth_date = excluded.birth_date,
               email = excluded.email, phone = excluded.phone, language = excluded.language,
               facts = excluded.facts, attributes = excluded.attributes, updated_at = excluded.updated_at
        returning m.xmax = 0 as is_new
    )
    select count(*) filter (where w.is_new), count(*) filter (where not w.is_new)
      into inserted, updated
      from written w;
end
$$;
comment on function loyalty_private.write_members is
    'For set_member and import_members: opens the accounts of checked records and writes them; how many were new, and how many changed.';

create function loyalty.set_member(
    program text,
    member_no text,
    name text default null,
    kana text default null,
    birth_date date default null,
    email text default null,
    phone text default null,
    language text default null,
    facts jsonb default null,
    attributes jsonb default null,
    clear text[] default '{}'
) returns loyalty.member
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := loyalty.program_id(set_member.program);
    record jsonb;
    written loyalty.member;
begin
    if set_member.member_no is null then
        perform loyalty_private.raise('22004', 'value_missing', 'member_no must not be null', null, 'Pass member_no => … .',
            'member_no');
    end if;
    if not set_member.clear <@ '{name,kana,birth_date,email,phone,language}' then
        perform loyalty_private.raise('22023', 'not_clearable', 'clear names a field that cannot be emptied',
            format('clear is %L.', set_member.clear::text),
            'name, kana, birth_date, email, phone and language can; a fact or attribute by a null in it.', 'clear');
    end if;
    record := jsonb_strip_nulls(jsonb_build_object(
            'member_no', set_member.member_no, 'name', set_member.name, 'kana', set_member.kana,
            'birth_date', set_member.birth_date, 'email', set_member.email, 'phone', set_member.phone,
            'language', set_member.language))
        || coalesce((select jsonb_object_agg(c, '') from unnest(set_member.clear) c), '{}')
        || case when set_member.facts is null then '{}'
                else jsonb_build_object('facts', set_member.facts) end
        || case when set_member.attributes is null then '{}'
                else jsonb_build_object('attributes', set_member.attributes) end;
    record := loyalty_private.clean_member(record::json, loyalty.today(set_member.program))::jsonb;
    perform loyalty_private.write_members(
        within, json_build_array(record), array(select jsonb_object_keys(record)), false);
    select m.* into strict written
      from loyalty.member m
      join loyalty.account a on a.account_id = m.account_id
     where a.program_id = within and a.member_no = record ->> 'member_no';
    return written;
end
$$;
comment on function loyalty.set_member is
    'Writes a member''s record, and opens the account with it. What is null stays as it is; an empty text or a name in clear empties it; facts and attributes are merged, and a null in them takes one away. LY002 for an unknown program, 22023 for a value that cannot be.';

create function loyalty.import_members(
    program text,
    csv text,
    all_or_nothing boolean default false,
    dry_run boolean default false
) returns table (
    outcome text,
    row_count bigint,
    row_no integer,
    member_no text,
    column_name text,
    reason text
)
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_import_members';
comment on function loyalty.import_members(text, text, boolean, boolean) is
    'Loads members from CSV: the rows without a problem or, if all_or_nothing, none unless all are. Tells how many rows were inserted, updated, unchanged, refused or held back, then each problem with row, member and column. dry_run tells it and writes nothing. 22023 or 54000 for a file that cannot be read.';

create function loyalty.import_members(
    program text,
    csv bytea,
    encoding text default 'UTF-8',
    all_or_nothing boolean default false,
    dry_run boolean default false
) returns table (
    outcome text,
    row_count bigint,
    row_no integer,
    member_no text,
    column_name text,
    reason text
)
    language c volatile security definer set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'loyalty_import_member_file';
comment on function loyalty.import_members(text, bytea, text, boolean, boolean) is
    'The same from the bytes of a file, in an encoding such as Shift_JIS.';

-- For COPY, and for PostgREST's text/csv: what is written here is loaded at the end of the
-- statement, and never stays.
create unlogged table loyalty.member_upload (
    program text,
    member_no text,
    name text,
    kana text,
    birth_date text,
    email text,
    phone text,
    language text,
    first_service_on text,
    contract_since text
);
comment on table loyalty.member_upload is
    'COPY members into this: all rows are loaded, or none and the error names the rows. Always empty.';
comment on column loyalty.member_upload.program is
    'Code of the program; may be left out where there is only one. One upload is for one program.';
comment on column loyalty.member_upload.member_no is 'The member''s number in the program.';
comment on column loyalty.member_upload.name is 'The name as the person writes it.';
comment on column loyalty.member_upload.kana is 'Its reading, in any kana.';
comment on column loyalty.member_upload.birth_date is 'Day of birth.';
comment on column loyalty.member_upload.email is 'Where mail goes.';
comment on column loyalty.member_upload.phone is 'Telephone number.';
comment on column loyalty.member_upload.language is 'Language of what the member is sent.';
comment on column loyalty.member_upload.first_service_on is 'The fact of that name.';
comment on column loyalty.member_upload.contract_since is 'The fact of that name.';

create function loyalty_private.take_upload() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    codes text[] := array(select distinct u.program from uploaded u);
    code text := codes[1];
    given text[];
    csv text;
    problems text;
begin
    if not exists (select from uploaded) then
        return null;
    end if;
    if cardinality(codes) > 1 then
        perform loyalty_private.raise('22023', 'several_programs', 'members of several programs in one upload',
            format('program is one of %s.', array_to_string(codes, ', ', '(empty)')), 'Load one program at a time.',
            'program');
    end if;
    if loyalty_private.api_role() = 'loyalty_admin' then
        code := loyalty_private.api_admin_program(code);
    elsif code is null then
        select min(p.code) into code from loyalty.program p having count(*) = 1;
        if code is null then
            perform loyalty_private.raise('22004', 'value_missing', 'program must not be null', null,
                'Give each row the code of its program, in the column program.', 'program');
        end if;
    end if;
    -- a column that is null in every row was not given
    given := array(
        select c.name
          from unnest('{member_no,name,kana,birth_date,email,phone,language,first_service_on,contract_since}'::text[])
               with ordinality c (name, place)
         where exists (select from uploaded u where to_jsonb(u) ->> c.name is not null)
         order by c.place);
    select array_to_string(given, ',') || E'\n' || string_agg(r.line, E'\n' order by r.place)
      into csv
      from (select u.place,
                   (select string_agg(format('"%s"', replace(coalesce(u.cells ->> c.name, ''), '"', '""')), ','
                                      order by c.place)
                      from unnest(given) with ordinality c (name, place)) as line
              from (select row_number() over () as place, to_jsonb(n) as cells from uploaded n) u) r;
    select string_agg(format('Row %s, %s %s.', p.row_no, coalesce(p.column_name, 'it'), p.reason), ' '
                      order by p.row_no) || case when count(*) > 20 then ' …' else '' end
      into problems
      from (select i.row_no, i.column_name, i.reason, i.outcome
              from loyalty.import_members(code, csv, all_or_nothing => true) i
             where i.outcome = 'problem'
             limit 21) p;
    if problems is not null then
        perform loyalty_private.raise('22023', 'rows_invalid', 'nothing was loaded: some rows are invalid', problems,
            'Correct them, the header being row 1; loyalty.import_members loads the others, and lists all problems.');
    end if;
    delete from loyalty.member_upload;
    perform loyalty_private.audit('member_upload', loyalty.program_id(code),
        details => jsonb_build_object('items', (select count(*) from uploaded)));
    return null;
end
$$;
comment on function loyalty_private.take_upload is 'Loads what was written into loyalty.member_upload, and empties it.';
create trigger take after insert on loyalty.member_upload
    referencing new table as uploaded
    for each statement execute function loyalty_private.take_upload();
