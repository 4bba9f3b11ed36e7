-- Texts of notices. A row without a program is supplied with the extension, and used where
-- a program has none of its own.

create table loyalty.notice_template (
    program_id integer references loyalty.program,
    kind text not null
        constraint notice_template_kind_is_known references loyalty_private.notice_kind,
    language text not null
        constraint notice_template_language_is_a_tag check (language ~ '^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$'),
    subject text not null
        constraint notice_template_subject_is_a_line check (subject !~ '[[:cntrl:]]'),
    text_body text not null,
    html_body text,
    sms_body text,
    changed_at timestamptz,
    constraint notice_template_is_unique unique nulls not distinct (program_id, kind, language)
);

-- Supplied rows are of no program, so that there is no primary key: replicas tell rows by all of it.
alter table loyalty.notice_template replica identity full;
comment on table loyalty.notice_template is
    'Texts of notices, a small part of Jinja. Those without a program are supplied; a program''s own, written by loyalty.set_template, go before them.';
comment on column loyalty.notice_template.program_id is 'The program; null when it is supplied for all.';
comment on column loyalty.notice_template.kind is 'The kind of notice.';
comment on column loyalty.notice_template.language is 'Its language, as a BCP 47 tag.';
comment on column loyalty.notice_template.subject is 'Subject of the mail, one line.';
comment on column loyalty.notice_template.text_body is 'The mail as plain text.';
comment on column loyalty.notice_template.html_body is 'The mail as HTML, in which values are escaped; null when it has none.';
comment on column loyalty.notice_template.sms_body is 'The short message; null when there is none.';
comment on column loyalty.notice_template.changed_at is 'When it was last written; null when supplied.';

create type loyalty.filled_template as (
    subject text,
    text_body text,
    html_body text,
    sms_body text,
    error text
);
comment on type loyalty.filled_template is 'Texts of a template with its variables filled in, or why they could not be.';
comment on column loyalty.filled_template.subject is 'The subject.';
comment on column loyalty.filled_template.text_body is 'The plain text.';
comment on column loyalty.filled_template.html_body is 'The HTML.';
comment on column loyalty.filled_template.sms_body is 'The short message.';
comment on column loyalty.filled_template.error is 'Part, line and what is wrong there; null when nothing is.';

create function loyalty_private.check_texts(
    example text,
    optional text,
    language text,
    subject text,
    text_body text,
    html_body text,
    sms_body text
) returns void
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_check_texts';
comment on function loyalty_private.check_texts is
    'Refuses texts (22023) with the part and line of what is wrong: syntax, size, a variable that the example does not have or that is optional, more than templates may do. They are filled in with the example as a part of that, with and without each optional group.';

create function loyalty_private.check_template(
    kind text,
    language text,
    subject text,
    text_body text,
    html_body text,
    sms_body text
) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    perform loyalty_private.check_notice_kind(kind, false);
    perform loyalty_private.check_texts(
        loyalty_private.notice_example(kind, language)::text, loyalty_private.notice_optional(kind)::text,
        language, subject, text_body, html_body, sms_body);
end
$$;
comment on function loyalty_private.check_template is
    'Refuses texts of a kind of notice (22023) with the part and line of what is wrong.';

create function loyalty_private.render_template(
    language text,
    subject text,
    text_body text,
    html_body text,
    sms_body text,
    context text
) returns loyalty.filled_template
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_render_template';
comment on function loyalty_private.render_template is
    'Fills in texts from a context, a JSON object; parts that are null stay null. What cannot be filled in comes back as error.';

create function loyalty_private.template_for(program_id integer, kind text, language text)
    returns loyalty.notice_template
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select t.*
      from loyalty.notice_template t
      left join loyalty.notice_sender f on f.program_id = template_for.program_id
     -- en-GB takes en; then what the program usually writes
     cross join lateral (
            select array[template_for.language, split_part(template_for.language, '-', 1),
                         coalesce(f.language, 'ja'), split_part(coalesce(f.language, 'ja'), '-', 1),
                         'ja'] as wanted) l
     where (t.program_id = template_for.program_id or t.program_id is null)
       and t.kind = template_for.kind
       and t.language = any (l.wanted)
     order by array_position(l.wanted, t.language), t.program_id nulls last
     limit 1;
end;
comment on function loyalty_private.template_for is
    'The template for a member of that language: the program''s own, else the supplied one; else in the program''s usual language.';

create function loyalty.set_template(
    program text,
    kind text,
    language text,
    subject text,
    text_body text,
    html_body text default null,
    sms_body text default null
) returns loyalty.notice_template
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    written loyalty.notice_template;
    owner integer := loyalty.program_id(set_template.program);
begin
    if set_template.language is null
       or set_template.language !~ '^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$' then
        perform loyalty_private.raise('22023', 'language_invalid', 'language is not a language tag',
            format('language: %L given.', left(set_template.language, 100)), 'A BCP 47 tag such as ja or en.', 'language');
    end if;
    perform loyalty_private.check_template(set_template.kind, set_template.language, set_template.subject,
        set_template.text_body, set_template.html_body, set_template.sms_body);
    insert into loyalty.notice_template as t
           (program_id, kind, language, subject, text_body, html_body, sms_body, changed_at)
    values (owner, set_template.kind, set_template.language, set_template.subject, set_template.text_body,
            set_template.html_body, set_template.sms_body, loyalty.now())
        on conflict on constraint notice_template_is_unique do update
       set subject = excluded.subject, text_body = excluded.text_body, html_body = excluded.html_body,
           sms_body = excluded.sms_body, changed_at = excluded.changed_at
    returning t.* into written;
    return written;
end
$$;
comment on function loyalty.set_template is
    'Writes a program''s own template for a kind and language, checked as a whole: 22023 names the part and line. html_body null sends plain text only; sms_body null sends no short messages. Notices not yet sent take it.';

create function loyalty.delete_template(program text, kind text, language text) returns boolean
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    delete from loyalty.notice_template t
     where t.program_id = loyalty.program_id(delete_template.program)
       and t.kind = delete_template.kind
       and t.language = delete_template.language;
    return found;
end
$$;
comment on function loyalty.delete_template is
    'Takes a program''s own template away, so that the supplied one is used again; whether there was one.';

create function loyalty_private.carries_proof(kind text) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select exists (select from loyalty_private.notice_kind k where k.kind = carries_proof.kind and k.proof is not null);
end;
comment on function loyalty_private.carries_proof is 'Whether notices of a kind have a code or link in them, which opens a login.';

create function loyalty_private.check_template_change(kind text) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    -- whose login it is may be an operator's: the program's administrators would choose what they are led to
    if loyalty_private.api_role() = 'loyalty_admin' and loyalty_private.carries_proof(check_template_change.kind) then
        perform loyalty_private.raise('LY010', 'operator_only', 'an administrator cannot change texts that carry a code or link',
            format('kind: %s given.', check_template_change.kind),
            'An operator writes texts of that kind; administrators those of the others.', 'kind');
    end if;
end
$$;
comment on function loyalty_private.check_template_change is
    'Keeps an administrator from changing over HTTP the texts around codes and links, which open logins of other programs too.';

create function loyalty.preview_template(
    program text,
    kind text,
    language text default 'ja',
    subject text default null,
    text_body text default null,
    html_body text default null,
    sms_body text default null
) returns loyalty.filled_template
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    shown loyalty.notice_template;
    named loyalty.program;
    context jsonb;
begin
    select * into strict named from loyalty.program p where p.program_id = loyalty.program_id(program);
    perform loyalty_private.check_notice_kind(kind, false);
    shown := loyalty_private.template_for(named.program_id, kind, language);
    if coalesce(subject, text_body, html_body, sms_body) is not null then
        shown.language := language;
        shown.subject := coalesce(preview_template.subject, shown.subject);
        shown.text_body := coalesce(preview_template.text_body, shown.text_body);
        shown.html_body := preview_template.html_body;
        shown.sms_body := preview_template.sms_body;
        perform loyalty_private.check_template(
            kind, language, shown.subject, shown.text_body, shown.html_body, shown.sms_body);
    end if;
    context := loyalty_private.notice_example(kind, shown.language)
        || jsonb_build_object('program', jsonb_build_object('name', named.name, 'point_name', named.point_name));
    return loyalty_private.render_template(
        shown.language, shown.subject, shown.text_body, shown.html_body, shown.sms_body, context::text);
end
$$;
comment on function loyalty.preview_template is
    'A program''s template filled in with an example: the one that members of the language get, or one not written yet when texts are given, checked as set_template does.';
