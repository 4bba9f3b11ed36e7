-- Notices over HTTP: what a member wants and got; texts, times and troubles for administrators.

create function loyalty.explain_notices(account_id bigint)
    returns table (kind text, answer text, last_occasion text, last_state text, last_at timestamptz, error text)
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if not exists (select from loyalty.account a where a.account_id = explain_notices.account_id) then
        perform loyalty_private.raise('LY002', 'no_such_account', 'no such account',
            format('Account %s does not exist.', coalesce(explain_notices.account_id::text, 'null')),
            'loyalty.open_account(program, member_no) gives a member''s account.', 'account_id');
    end if;
    return query
    select k.kind,
           case
               when s.is_enabled is not true then 'the program does not send it'
               when k.can_be_refused and r.is_wanted is false then 'the member refused it'
               when m.account_id is null then 'there is no member record, and so no address'
               when loyalty_private.notice_channel(m.email, m.phone, f.email, f.sms) is null
                   then case when m.email is null and m.phone is null then 'the member has no address'
                             else 'the program has no sender for the member''s address' end
               when w.status = 'closed' and k.kind in ('balance', 'expiry') then 'the account is closed'
               when k.kind = 'expiry' and (w.next_expiry_on is null or w.next_expiry_on > t.today + s.days_before)
                   then format('no points lapse within %s days', s.days_before)
               else format('sent by %s', loyalty_private.notice_channel(m.email, m.phone, f.email, f.sms))
           end,
           l.occasion, l.state, l.at, l.error
      from loyalty.account a
      join loyalty.program p on p.program_id = a.program_id
      join loyalty.wallet w on w.account_id = a.account_id
     cross join lateral (select timezone(p.time_zone, loyalty.now())::date as today) t
      join loyalty_private.notice_kind k on k.is_chosen
      left join loyalty.member m on m.account_id = a.account_id
      left join loyalty.notice_sender f on f.program_id = a.program_id
      left join loyalty.notice_setting s on s.program_id = a.program_id and s.kind = k.kind
      left join loyalty.notice_preference r on r.account_id = a.account_id and r.kind = k.kind
      left join lateral (
             select n.occasion, loyalty.notice_state(n.attempts, n.leased_at, n.sent_at, n.gave_up_at) as state,
                    coalesce(n.sent_at, n.gave_up_at, n.queued_at) as at, n.error
               from loyalty.notice n
              where n.account_id = a.account_id and n.kind = k.kind
              order by n.queued_at desc, n.notice_id desc
              limit 1) l on true
     where a.account_id = explain_notices.account_id
     order by k.place;
end
$$;
comment on function loyalty.explain_notices is
    'Why a member gets each kind of notice, or why not, and what became of the last one. LY002.';

create view loyalty_api.notice_preference with (security_invoker = true) as
select a.account_id, k.kind, coalesce(r.is_wanted, true) as is_wanted, k.can_be_refused,
       coalesce(s.is_enabled, false) as is_sent, r.changed_at
  from loyalty.account a
 cross join loyalty.notice_kinds() k
  left join loyalty.notice_setting s on s.program_id = a.program_id and s.kind = k.kind
  left join loyalty.notice_preference r on r.account_id = a.account_id and r.kind = k.kind;
comment on view loyalty_api.notice_preference is
$$Notice preferences

Which kinds of notices a member wants: a row for each kind for a member; for administrators those of their program: filter with ?account_id=eq.… . Changed with /rpc/set_notice_preference.$$;
comment on column loyalty_api.notice_preference.account_id is 'Number of the account.';
comment on column loyalty_api.notice_preference.kind is 'The kind of notice, such as points_received or balance.';
comment on column loyalty_api.notice_preference.is_wanted is 'Whether the member wants it; true until they choose otherwise.';
comment on column loyalty_api.notice_preference.can_be_refused is 'Whether the member may refuse it.';
comment on column loyalty_api.notice_preference.is_sent is 'Whether the program sends it at all.';
comment on column loyalty_api.notice_preference.changed_at is 'When the member chose; null when they never did.';

create view loyalty_api.notice with (security_invoker = true) as
select n.notice_id, n.account_id, a.member_no, n.kind, n.occasion, n.channel,
       loyalty.notice_state(n.attempts, n.leased_at, n.sent_at, n.gave_up_at) as state,
       n.queued_at, n.sent_at, n.attempts, n.points, n.expires_on, n.expiring_points
  from loyalty.notice n
  join loyalty.account a on a.account_id = n.account_id;
comment on view loyalty_api.notice is
$$Notices

What a member was told, or is about to be. A member sees their own; administrators those of their program: filter with ?account_id=eq.… . Latest first: ?order=notice_id.desc, which an index has; by queued_at all of them are sorted.$$;
comment on column loyalty_api.notice.notice_id is 'Number of the notice.';
comment on column loyalty_api.notice.account_id is 'Number of the account.';
comment on column loyalty_api.notice.member_no is 'The member''s number in the program.';
comment on column loyalty_api.notice.kind is 'points_received, balance, expiry, order_received, or one about a login such as password_reset.';
comment on column loyalty_api.notice.occasion is 'What it tells of: number of the operation or order, or the day.';
comment on column loyalty_api.notice.channel is 'email or sms.';
comment on column loyalty_api.notice.state is 'waiting, sending, retrying after a failure, sent, or given up.';
comment on column loyalty_api.notice.queued_at is 'When it was queued.';
comment on column loyalty_api.notice.sent_at is 'When the mail server took it; null while it has not.';
comment on column loyalty_api.notice.attempts is 'How often sending it was tried.';
comment on column loyalty_api.notice.points is 'Points it tells of: received, available, lapsing, or used for an order.';
comment on column loyalty_api.notice.expires_on is 'Last day of the points that lapse next.';
comment on column loyalty_api.notice.expiring_points is 'How many lapse then.';

create view loyalty_api.notice_problem with (security_invoker = true) as
select p.notice_id, p.account_id, p.member_no, p.kind, p.occasion, p.channel, p.queued_at, p.attempts,
       p.due_at, p.gave_up_at, p.error
  from loyalty.notice_problem p;
comment on view loyalty_api.notice_problem is
$$Notices in trouble

Those that were given up, and those that failed and will be tried again. Administrators only.$$;
comment on column loyalty_api.notice_problem.notice_id is 'Number of the notice.';
comment on column loyalty_api.notice_problem.account_id is 'Number of the account.';
comment on column loyalty_api.notice_problem.member_no is 'The member''s number in the program.';
comment on column loyalty_api.notice_problem.kind is 'points_received, balance, expiry, order_received, or one about a login such as password_reset.';
comment on column loyalty_api.notice_problem.occasion is 'What it tells of: number of the operation or order, or the day.';
comment on column loyalty_api.notice_problem.channel is 'email or sms.';
comment on column loyalty_api.notice_problem.queued_at is 'When it was queued.';
comment on column loyalty_api.notice_problem.attempts is 'How often sending it was tried.';
comment on column loyalty_api.notice_problem.due_at is 'When it is tried again; null when it was given up.';
comment on column loyalty_api.notice_problem.gave_up_at is 'When it was given up; null when it is tried again.';
comment on column loyalty_api.notice_problem.error is 'Why the last attempt failed, without addresses.';

create view loyalty_api.notice_setting with (security_invoker = true) as
select p.code as program, s.kind, s.is_enabled, s.days_of_month, s.at, s.days_before, s.send_within
  from loyalty.notice_setting s
  join loyalty.program p on p.program_id = s.program_id;
comment on view loyalty_api.notice_setting is
$$Notice settings

Which notices the program sends, and when, in its time zone. Administrators only; changed with /rpc/set_notice.$$;
comment on column loyalty_api.notice_setting.program is 'Code of the program.';
comment on column loyalty_api.notice_setting.kind is 'points_received, balance, expiry or order_received.';
comment on column loyalty_api.notice_setting.is_enabled is 'Whether it is sent.';
comment on column loyalty_api.notice_setting.days_of_month is 'Of balance: the days of the month.';
comment on column loyalty_api.notice_setting.at is 'Of balance and expiry: the time of day.';
comment on column loyalty_api.notice_setting.days_before is 'Of expiry: how many days before the last day they begin.';
comment on column loyalty_api.notice_setting.send_within is 'How long a notice may wait to be sent.';

create view loyalty_api.notice_template with (security_invoker = true) as
select p.code as program, t.kind, t.language, t.subject, t.text_body, t.html_body, t.sms_body, t.changed_at
  from loyalty.notice_template t
  left join loyalty.program p on p.program_id = t.program_id;
comment on view loyalty_api.notice_template is
$$Notice templates

Texts of notices. Those of no program are supplied, and used where the program has none of its own. Administrators only; changed with /rpc/set_template.$$;
comment on column loyalty_api.notice_template.program is 'Code of the program; null when supplied.';
comment on column loyalty_api.notice_template.kind is 'points_received, balance, expiry, order_received, or one about a login such as password_reset.';
comment on column loyalty_api.notice_template.language is 'Its language, such as ja.';
comment on column loyalty_api.notice_template.subject is 'Subject of the mail.';
comment on column loyalty_api.notice_template.text_body is 'The mail as plain text.';
comment on column loyalty_api.notice_template.html_body is 'The mail as HTML; null when it has none.';
comment on column loyalty_api.notice_template.sms_body is 'The short message; null when there is none.';
comment on column loyalty_api.notice_template.changed_at is 'When it was last written; null when supplied.';

create function loyalty_api.set_notice_preference(kind text, is_wanted boolean, account_id bigint default null)
    returns setof loyalty_api.notice_preference
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    about bigint := loyalty_private.api_account(set_notice_preference.account_id, '{loyalty_member,loyalty_admin,loyalty_operator}');
begin
    perform loyalty.set_notice_preference(about, set_notice_preference.kind, set_notice_preference.is_wanted);
    if loyalty_private.api_role() <> 'loyalty_member' then
        perform loyalty_private.audit('set_notice_preference', loyalty_private.account_program_id(about), null, about,
            jsonb_build_object('kind', set_notice_preference.kind, 'is_wanted', set_notice_preference.is_wanted));
    end if;
    return query
    select v.* from loyalty_api.notice_preference v
     where v.account_id = about and v.kind = set_notice_preference.kind;
end
$$;
comment on function loyalty_api.set_notice_preference(text, boolean, bigint) is
$$Choose a notice

Says whether a member wants a kind of notice, and answers with the row of /notice_preference. 400 22023 when order_received is refused.

- `kind`: points_received, balance, expiry or order_received.
- `is_wanted`: whether the member wants it.
- `account_id`: whose notices. Members leave it out; administrators must give it.$$;

-- SQL, not plpgsql, which refuses an argument and a column of the same name
create function loyalty_api.explain_notices(account_id bigint default null, only_kind text default null)
    returns table (kind text, answer text, last_occasion text, last_state text, last_at timestamptz, error text)
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select e.kind, e.answer, e.last_occasion, e.last_state, e.last_at,
           case when loyalty_private.api_role() <> 'loyalty_member' then e.error end
      from loyalty.explain_notices(loyalty_private.api_account($1, '{loyalty_member,loyalty_admin,loyalty_operator}')) e
     where e.kind = $2 or $2 is null;
end;
comment on function loyalty_api.explain_notices(bigint, text) is
$$Explain notices

Why a member gets each kind of notice, or why not, and what became of the last one. What servers answered is for administrators only. 404 LY002 when there is no such account.

- `account_id`: whose notices. Members leave it out; administrators must give it.
- `only_kind`: one kind; all four when left out.$$;

create function loyalty_api.set_notice(
    kind text,
    is_enabled boolean default null,
    days_of_month integer[] default null,
    at time default null,
    days_before integer default null,
    send_within interval default null,
    program text default null
) returns loyalty.notice_setting
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty_private.audit('set_notice', loyalty.program_id(loyalty_private.api_admin_program(set_notice.program)),
        details => jsonb_build_object('kind', kind));
    select w.* from loyalty.set_notice(loyalty_private.api_admin_program(program), kind, is_enabled, days_of_month, at,
        days_before, send_within) w;
end;
comment on function loyalty_api.set_notice(text, boolean, integer[], time, integer, interval, text) is
$$Set a notice

Switches a kind of notice on or off and sets when it is sent; what is left out stays as it is. 400 22023 names the wrong field. Administrators only.

- `kind`: points_received, balance, expiry or order_received.
- `is_enabled`: whether it is sent.
- `days_of_month`: of balance, the days of the month, such as [1, 15]; a day that a month does not have is its last.
- `at`: of balance and expiry, the time of day in the program's time zone, such as "13:00".
- `days_before`: of expiry, how many days before the last day the daily notices begin.
- `send_within`: how long a notice may wait to be sent, such as "1 day".
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.set_template(
    kind text,
    language text,
    subject text,
    text_body text,
    html_body text default null,
    sms_body text default null,
    program text default null
) returns loyalty.notice_template
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty_private.check_template_change(kind);
    select loyalty_private.audit('set_template', loyalty.program_id(loyalty_private.api_admin_program(set_template.program)),
        details => jsonb_build_object('kind', kind, 'language', language));
    select w.* from loyalty.set_template(loyalty_private.api_admin_program(program), kind, language, subject, text_body,
        html_body, sms_body) w;
end;
comment on function loyalty_api.set_template(text, text, text, text, text, text, text) is
$$Write a template

Writes the program's own texts for a kind of notice and a language. 400 22023 tells part, line and what is wrong there. Administrators only; kinds that carry a code or link, such as password_reset, operators only: 403 LY010.

- `kind`: points_received, balance, expiry, order_received, or one about logins such as password_changed.
- `language`: such as ja or en.
- `subject`: subject of the mail, one line.
- `text_body`: the mail as plain text.
- `html_body`: the mail as HTML, if wanted; values are escaped in it.
- `sms_body`: the short message to members without an e-mail address, if wanted.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.preview_template(
    kind text,
    language text default 'ja',
    subject text default null,
    text_body text default null,
    html_body text default null,
    sms_body text default null,
    program text default null
) returns loyalty.filled_template
    language sql stable security definer set search_path = pg_catalog, pg_temp
    return loyalty.preview_template(loyalty_private.api_admin_program(program), kind, language, subject, text_body,
        html_body, sms_body);
comment on function loyalty_api.preview_template(text, text, text, text, text, text, text) is
$$Preview a template

Fills a template in with an example and changes nothing: the one in use, or one not written yet when texts are given, checked as /rpc/set_template does. 400 22023 tells part, line and what is wrong there. Administrators only.

- `kind`: points_received, balance, expiry, order_received, or one about logins such as password_reset.
- `language`: such as ja or en.
- `subject`: a subject to try.
- `text_body`: a plain text to try.
- `html_body`: an HTML text to try.
- `sms_body`: a short message to try.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.delete_template(kind text, language text, program text default null) returns boolean
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty_private.check_template_change(kind);
    select loyalty_private.audit('delete_template', loyalty.program_id(loyalty_private.api_admin_program(delete_template.program)),
        details => jsonb_build_object('kind', kind, 'language', language));
    select loyalty.delete_template(loyalty_private.api_admin_program(program), kind, language);
end;
comment on function loyalty_api.delete_template(text, text, text) is
$$Delete a template

Takes the program's own texts away, so that the supplied ones are used again; whether there were any. Administrators only; kinds that carry a code or link, such as password_reset, operators only: 403 LY010.

- `kind`: points_received, balance, expiry, order_received, or one about logins such as password_reset.
- `language`: such as ja or en.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;

create function loyalty_api.retry_notices(given_up_since timestamptz, kind text default null, program text default null)
    returns bigint
    language sql volatile security definer set search_path = pg_catalog, pg_temp
begin atomic
    select loyalty_private.audit('retry_notices', loyalty.program_id(loyalty_private.api_admin_program(retry_notices.program)),
        details => jsonb_build_object('kind', kind, 'given_up_since', given_up_since));
    select loyalty.retry_notices(loyalty_private.api_admin_program(program), given_up_since, kind);
end;
comment on function loyalty_api.retry_notices(timestamptz, text, text) is
$$Retry notices

Has another go at notices that were given up, once what was wrong is mended. Answers with how many. 400 22023 when there is no such kind. Administrators only.

- `given_up_since`: only those given up since then.
- `kind`: one kind; all when left out.
- `program`: code of the program. Needed by operators; an administrator's is in the token.$$;
