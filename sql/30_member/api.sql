-- Members over HTTP: read, written one by one, loaded as files.

create view loyalty_api.member with (security_invoker = true) as
select m.account_id, a.member_no, p.code as program, m.name, m.kana, m.birth_date, m.email, m.phone,
       m.language, m.facts, m.attributes, m.updated_at
  from loyalty.member m
  join loyalty.account a on a.account_id = m.account_id
  join loyalty.program p on p.program_id = m.program_id;
comment on view loyalty_api.member is
$$Members

Who the members are. A member sees one row, their own; administrators those of their program. Filter (?member_no=eq.…, ?facts->>first_service_on=lt.2020-01-01), page, or take it as CSV (Accept: text/csv). Written by /rpc/set_member and /rpc/import_members.$$;
comment on column loyalty_api.member.account_id is 'The member''s account.';
comment on column loyalty_api.member.member_no is 'The member''s number in the program.';
comment on column loyalty_api.member.program is 'Code of the program.';
comment on column loyalty_api.member.name is 'The name as the person writes it.';
comment on column loyalty_api.member.kana is 'Its reading, in full-width katakana.';
comment on column loyalty_api.member.birth_date is 'Day of birth.';
comment on column loyalty_api.member.email is 'Where mail goes.';
comment on column loyalty_api.member.phone is 'Telephone number in E.164.';
comment on column loyalty_api.member.language is 'Language of what the member is sent.';
comment on column loyalty_api.member.facts is 'Days that rules go by, as an object of name and YYYY-MM-DD.';
comment on column loyalty_api.member.attributes is 'Whatever else the program knows.';
comment on column loyalty_api.member.updated_at is 'When the record last changed.';

create function loyalty_api.set_member(
    member_no text,
    name text default null,
    kana text default null,
    birth_date text default null,
    email text default null,
    phone text default null,
    language text default null,
    facts jsonb default null,
    attributes jsonb default null,
    program text default null
) returns setof loyalty_api.member
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    written loyalty.member;
begin
    written := loyalty.set_member(
        loyalty_private.api_admin_program(set_member.program), set_member.member_no, set_member.name, set_member.kana,
        loyalty_private.api_day('birth_date', nullif(set_member.birth_date, '')), set_member.email, set_member.phone,
        set_member.language, set_member.facts, set_member.attributes,
        case when set_member.birth_date = '' then '{birth_date}' else '{}' end::text[]);
    perform loyalty_private.audit('set_member', written.program_id, null, written.account_id);
    return query select m.* from loyalty_api.member m where m.account_id = written.account_id;
end
$$;
comment on function loyalty_api.set_member(text, text, text, text, text, text, text, jsonb, jsonb, text) is
$$Write a member

Writes a member's record, opens the account with it if there is none, and answers with the record. What is left out stays as it is; an empty text empties it. 400 22023 names the value that cannot be. Administrators only.

- `member_no`: the member's number in the program, up to 100 characters.
- `name`: up to 200 characters, as the person writes it.
- `kana`: its reading; hiragana and half-width katakana become full-width katakana.
- `birth_date`: as YYYY-MM-DD.
- `email`: an e-mail address.
- `phone`: with the country code, or as dialled in Japan; stored in E.164.
- `language`: a tag such as ja or en.
- `facts`: an object of days that rules go by, such as {"first_service_on": "2024-06-20"}; merged into those there are, null takes one away.
- `attributes`: an object of anything else, merged the same way.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

-- Two arguments without default: a call with the body alone must fit one function only.
create function loyalty_api.import_members(
    csv text,
    all_or_nothing boolean,
    dry_run boolean default false,
    program text default null
) returns table (
    outcome text,
    row_count bigint,
    row_no integer,
    member_no text,
    column_name text,
    reason text
)
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty_private.audit('import_members', loyalty.program_id(loyalty_private.api_admin_program($4)),
        details => jsonb_build_object('dry_run', $3));
    select i.outcome, i.row_count, i.row_no, loyalty.csv_cell(i.member_no),
           loyalty.csv_cell(i.column_name), i.reason
      from loyalty.import_members(loyalty_private.api_admin_program($4), $1, $2, $3) i;
end;
comment on function loyalty_api.import_members(text, boolean, boolean, text) is
$$Load members from CSV

The first row names the columns: member_no, and any of name, kana, birth_date, email, phone, language; a name that ends with _on or _since is a day that rules go by, any other an attribute. Loads the rows that have no problem, and tells each problem by row, member and column. Loading a file again changes nothing. Administrators only.

A file can be the body itself: Content-Type text/plain for UTF-8, application/octet-stream; charset=Shift_JIS for another encoding. Then headers say the rest: All-Or-Nothing: true, Dry-Run: true.

- `csv`: the file's text, up to 64 MB.
- `all_or_nothing`: true to load nothing unless all rows can be, false to load the good rows.
- `dry_run`: true to tell what would happen, and write nothing.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_private.api_header(name text) returns text
    language sql stable set search_path = pg_catalog, pg_temp
    return nullif(current_setting('request.headers', true), '')::json ->> lower(name);
comment on function loyalty_private.api_header is 'A header of the request; null without one.';

create function loyalty_private.api_flag(name text) returns boolean
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    given text := lower(coalesce(loyalty_private.api_header(name), 'false'));
begin
    if given not in ('true', 'false') then
        perform loyalty_private.raise('22023', 'header_invalid', format('header %s is neither true nor false', name),
            format('%L given.', left(given, 40)), 'Leave it out for false.', name);
    end if;
    return given = 'true';
end
$$;
comment on function loyalty_private.api_flag is 'Whether a header of the request is true; false without one.';

-- Their bodies are text: PostgreSQL cannot write one out that it has parsed where it reads an
-- argument without a name, and pg_upgrade has it write out every function.
create function loyalty_api.import_members(text)
    returns table (
        outcome text,
        row_count bigint,
        row_no integer,
        member_no text,
        column_name text,
        reason text
    )
    language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    select loyalty_private.audit('import_members', loyalty.program_id(loyalty_private.api_admin_program(loyalty_private.api_header('Program'))),
        details => jsonb_build_object('dry_run', loyalty_private.api_flag('Dry-Run')));
    select i.outcome, i.row_count, i.row_no, loyalty.csv_cell(i.member_no), loyalty.csv_cell(i.column_name), i.reason
      from loyalty.import_members(
               loyalty_private.api_admin_program(loyalty_private.api_header('Program')), $1,
               loyalty_private.api_flag('All-Or-Nothing'), loyalty_private.api_flag('Dry-Run')) i;
$$;
comment on function loyalty_api.import_members(text) is
    'The same with the file as the body, in UTF-8 (Content-Type: text/plain).';

create function loyalty_api.import_members(bytea)
    returns table (
        outcome text,
        row_count bigint,
        row_no integer,
        member_no text,
        column_name text,
        reason text
    )
    language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    select loyalty_private.audit('import_members', loyalty.program_id(loyalty_private.api_admin_program(loyalty_private.api_header('Program'))),
        details => jsonb_build_object('dry_run', loyalty_private.api_flag('Dry-Run')));
    select i.outcome, i.row_count, i.row_no, loyalty.csv_cell(i.member_no),
           loyalty.csv_cell(i.column_name), i.reason
      from loyalty.import_members(
               loyalty_private.api_admin_program(loyalty_private.api_header('Program')), $1,
               coalesce(substring(loyalty_private.api_header('Content-Type') from '(?i)charset="?([^;" ]+)'), 'UTF-8'),
               loyalty_private.api_flag('All-Or-Nothing'), loyalty_private.api_flag('Dry-Run')) i;
$$;
comment on function loyalty_api.import_members(bytea) is
    'The same with the file as the body, in the encoding named (Content-Type: application/octet-stream; charset=Shift_JIS).';

create view loyalty_api.member_upload with (security_invoker = true) as
select u.program, u.member_no, u.name, u.kana, u.birth_date, u.email, u.phone, u.language,
       u.first_service_on, u.contract_since
  from loyalty.member_upload u;
comment on view loyalty_api.member_upload is
$$Members as CSV

For POST with Content-Type: text/csv and the usual columns: all rows are loaded, or none and the error names the rows. /rpc/import_members takes any column and loads the good rows. Holds nothing to read. Administrators only.$$;
comment on column loyalty_api.member_upload.program is 'Code of the program; left out, the token''s.';
comment on column loyalty_api.member_upload.member_no is 'The member''s number in the program.';
comment on column loyalty_api.member_upload.name is 'The name as the person writes it.';
comment on column loyalty_api.member_upload.kana is 'Its reading, in any kana.';
comment on column loyalty_api.member_upload.birth_date is 'Day of birth.';
comment on column loyalty_api.member_upload.email is 'Where mail goes.';
comment on column loyalty_api.member_upload.phone is 'Telephone number.';
comment on column loyalty_api.member_upload.language is 'Language of what the member is sent.';
comment on column loyalty_api.member_upload.first_service_on is 'The fact of that name.';
comment on column loyalty_api.member_upload.contract_since is 'The fact of that name.';
