-- What members are told, when and by whom (C18): settings of a program, and what each member
-- wants. A program tells nothing until set_notice says so.

create table loyalty.notice_setting (
    program_id integer not null references loyalty.program,
    kind text not null
        constraint notice_setting_kind_is_known references loyalty_private.notice_kind,
    is_enabled boolean not null,
    days_of_month integer[]
        constraint notice_setting_days_are_of_a_month
            check (cardinality(days_of_month) > 0
                   and 1 <= all (days_of_month) and 31 >= all (days_of_month)),
    at time
        constraint notice_setting_at_is_before_midnight check (at < '24:00'),
    days_before integer
        constraint notice_setting_days_before_is_sane check (days_before between 0 and 60),
    send_within interval not null
        constraint notice_setting_send_within_is_sane
            check (send_within between interval '1 minute' and interval '30 days'),
    primary key (program_id, kind)
);

comment on table loyalty.notice_setting is
    'Which notices a program sends, and when; a kind without a row is not sent. Written by loyalty.set_notice.';
comment on column loyalty.notice_setting.program_id is 'The program.';
comment on column loyalty.notice_setting.kind is 'The kind of notice, such as points_received, balance, expiry or order_received.';
comment on column loyalty.notice_setting.is_enabled is 'Whether it is sent.';
comment on column loyalty.notice_setting.days_of_month is
    'Of balance: the days of the month; one that a month does not have is its last.';
comment on column loyalty.notice_setting.at is 'Of balance and expiry: the time of day in the program''s time zone.';
comment on column loyalty.notice_setting.days_before is
    'Of expiry: how many days before the last day the daily notices begin; the last one comes on that day.';
comment on column loyalty.notice_setting.send_within is
    'How long a notice may wait to be sent; later it is given up. One of expiry never outlasts its day.';

create table loyalty.notice_sender (
    program_id integer primary key references loyalty.program,
    email text
        constraint notice_sender_email_is_a_mailbox
            check (char_length(email) <= 300
                   and email ~ '^([^][<>()@,;:\\"[:cntrl:]]+ <[^][<>()@,;:\\"[:cntrl:][:space:]]+@[A-Za-z0-9.-]+>|[^][<>()@,;:\\"[:cntrl:][:space:]]+@[A-Za-z0-9.-]+)$'),
    sms text
        constraint notice_sender_sms_is_short check (sms ~ '^[+A-Za-z0-9][A-Za-z0-9 ._-]{1,19}$'),
    language text not null default 'ja'
        constraint notice_sender_language_is_a_tag check (language ~ '^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$'),
    preferences_url text
        constraint notice_sender_preferences_url_is_a_url
            check (char_length(preferences_url) <= 500
                   and preferences_url ~ '^(https?://|mailto:)[^<>"[:space:][:cntrl:]]+$'),
    max_attempts integer not null default 10
        constraint notice_sender_max_attempts_is_sane check (max_attempts between 1 and 100),
    first_retry interval not null default '1 minute'
        constraint notice_sender_first_retry_is_sane
            check (first_retry between interval '1 second' and interval '1 day'),
    longest_retry interval not null default '2 hours'
        constraint notice_sender_longest_retry_is_sane
            check (longest_retry between first_retry and interval '7 days')
);

comment on table loyalty.notice_sender is
    'Who a program''s notices come from, and how long sending them is tried. Written by loyalty.set_notice_sender.';
comment on column loyalty.notice_sender.program_id is 'The program.';
comment on column loyalty.notice_sender.email is 'Sender of mails, as points@example.com or Sample Club <points@example.com>; null sends none.';
comment on column loyalty.notice_sender.sms is 'Sender of short messages to members who have no e-mail address; null sends none.';
comment on column loyalty.notice_sender.language is 'Language of notices to members for whose own language there is no template.';
comment on column loyalty.notice_sender.preferences_url is 'Where members choose what they are sent; also the mail''s List-Unsubscribe.';
comment on column loyalty.notice_sender.max_attempts is 'After so many failed attempts a notice is given up.';
comment on column loyalty.notice_sender.first_retry is 'Wait after the first failed attempt; each further one doubles it.';
comment on column loyalty.notice_sender.longest_retry is 'The longest wait between two attempts.';

create table loyalty.notice_preference (
    account_id bigint not null references loyalty.account,
    kind text not null
        constraint notice_preference_kind_is_known references loyalty_private.notice_kind,
    is_wanted boolean not null,
    changed_at timestamptz not null,
    primary key (account_id, kind)
);

comment on table loyalty.notice_preference is
    'What members chose; without a row a notice is wanted. Order received cannot be refused (C18).';
comment on column loyalty.notice_preference.account_id is 'The member''s account.';
comment on column loyalty.notice_preference.kind is 'The kind of notice.';
comment on column loyalty.notice_preference.is_wanted is 'Whether the member wants it.';
comment on column loyalty.notice_preference.changed_at is 'When that was chosen.';

create function loyalty_private.guard_notice_preference() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if not new.is_wanted and not exists (
           select from loyalty_private.notice_kind k where k.kind = new.kind and k.can_be_refused) then
        perform loyalty_private.raise('23514', 'refusal_not_allowed', format('%s cannot be refused', new.kind), null,
            'Most other kinds can be refused.', 'kind');
    end if;
    return new;
end
$$;
comment on function loyalty_private.guard_notice_preference is 'Keeps rows out that refuse what cannot be refused (C18).';
create trigger guard before insert or update on loyalty.notice_preference
    for each row execute function loyalty_private.guard_notice_preference();

create function loyalty_private.check_notice_setting(setting loyalty.notice_setting) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    kind loyalty_private.notice_kind;
    wrong text;
    given text;
    hint text;
begin
    select k.* into kind from loyalty_private.notice_kind k where k.kind = setting.kind;
    if (setting.days_of_month is not null) <> (kind.days_of_month is not null) then
        wrong := 'days_of_month does not apply to this kind';
        given := setting.days_of_month::text;
        hint := 'Only kinds sent on days of the month have them, such as balance.';
    elsif cardinality(setting.days_of_month) = 0 or array_ndims(setting.days_of_month) > 1
          or array_position(setting.days_of_month, null) is not null
          or 1 > any (setting.days_of_month) or 31 < any (setting.days_of_month) then
        wrong := 'days_of_month contains an invalid day of month';
        given := setting.days_of_month::text;
        hint := 'Days from 1 to 31, at least one; a day that a month does not have is its last.';
    elsif (setting.at is not null) <> (kind.at is not null) then
        wrong := 'at does not apply to this kind';
        given := setting.at::text;
        hint := 'Only kinds sent at a time of day have one, such as balance and expiry.';
    elsif setting.at >= '24:00' then
        wrong := 'at must be before midnight';
        given := setting.at::text;
        hint := 'A time from 00:00 to 23:59.';
    elsif (setting.days_before is not null) <> (kind.days_before is not null) then
        wrong := 'days_before does not apply to this kind';
        given := setting.days_before::text;
        hint := 'Only kinds that begin days before something have them, such as expiry.';
    elsif setting.days_before not between 0 and 60 then
        wrong := 'days_before is out of range';
        given := setting.days_before::text;
        hint := 'From 0 (on the last day only) to 60.';
    elsif setting.send_within not between interval '1 minute' and interval '30 days' then
        wrong := 'send_within is out of range';
        given := setting.send_within::text;
        hint := 'From 1 minute to 30 days.';
    end if;
    if wrong is not null then
        perform loyalty_private.raise('22023', 'notice_setting_invalid', wrong, format('kind %s, %s: %L given.',
            setting.kind, split_part(wrong, ' ', 1), given), hint, split_part(wrong, ' ', 1));
    end if;
end
$$;
comment on function loyalty_private.check_notice_setting is 'Refuses an invalid setting, with the name of the wrong field.';

create function loyalty.set_notice(
    program text,
    kind text,
    is_enabled boolean default null,
    days_of_month integer[] default null,
    at time default null,
    days_before integer default null,
    send_within interval default null
) returns loyalty.notice_setting
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    wanted loyalty.notice_setting;
begin
    perform loyalty_private.check_notice_kind(set_notice.kind);
    -- one at a time in a program: two callers must not overwrite what the other one set
    perform 1 from loyalty.program p
      where p.program_id = loyalty.program_id(set_notice.program) for no key update;
    select * into wanted
      from loyalty.notice_setting s
     where s.program_id = loyalty.program_id(set_notice.program) and s.kind = set_notice.kind;
    if not found then
        select loyalty.program_id(set_notice.program), k.kind, false, k.days_of_month, k.at, k.days_before, k.send_within
          into wanted.program_id, wanted.kind, wanted.is_enabled, wanted.days_of_month, wanted.at, wanted.days_before,
               wanted.send_within
          from loyalty_private.notice_kind k
         where k.kind = set_notice.kind;
    end if;
    wanted.is_enabled := coalesce(set_notice.is_enabled, wanted.is_enabled);
    wanted.days_of_month := coalesce(set_notice.days_of_month, wanted.days_of_month);
    wanted.at := coalesce(set_notice.at, wanted.at);
    wanted.days_before := coalesce(set_notice.days_before, wanted.days_before);
    wanted.send_within := coalesce(set_notice.send_within, wanted.send_within);
    perform loyalty_private.check_notice_setting(wanted);
    wanted.days_of_month := (select array_agg(distinct d order by d) from unnest(wanted.days_of_month) d);
    if wanted.is_enabled and not exists (
           select from loyalty.notice_sender f
            where f.program_id = wanted.program_id and (f.email is not null or f.sms is not null)) then
        perform loyalty_private.raise('22023', 'sender_missing', 'is_enabled needs a sender',
            format('Program %L has neither an e-mail nor an SMS sender.', set_notice.program),
            'loyalty.set_notice_sender(program => …, email => …) says who the notices come from.', 'is_enabled');
    end if;
    insert into loyalty.notice_setting as s
    values (wanted.*)
        on conflict (program_id, kind) do update
       set is_enabled = excluded.is_enabled, days_of_month = excluded.days_of_month, at = excluded.at,
           days_before = excluded.days_before, send_within = excluded.send_within;
    if wanted.kind = 'points_received' then
        update loyalty.program p
           set announces_grants = wanted.is_enabled
         where p.program_id = wanted.program_id and p.announces_grants <> wanted.is_enabled;
    elsif (loyalty_private.kind_of_job('notice:' || wanted.kind)).kind is not null then
        perform loyalty_private.plan_schedule(wanted.program_id, 'notice:' || wanted.kind);
    end if;
    return wanted;
end
$$;
comment on function loyalty.set_notice is
    'Switches a kind of notice on or off and sets when it is sent; what is null stays as it is. At first: off, balance on the 1st and 15th at 13:00, expiry daily at 08:45 from 7 days before the last day. 22023 names the wrong field.';

create function loyalty.enable_notices(program text) returns setof loyalty.notice_setting
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    each_kind text;
begin
    for each_kind in select k.kind from loyalty_private.notice_kind k where k.is_chosen order by k.place loop
        return next loyalty.set_notice(program, each_kind, true);
    end loop;
end
$$;
comment on function loyalty.enable_notices is
    'Switches all kinds of notices on that a program chooses to send, each as it is set. 22023 when the program has no sender yet.';

create function loyalty.set_notice_sender(
    program text,
    email text default null,
    sms text default null,
    language text default null,
    preferences_url text default null,
    max_attempts integer default null,
    first_retry interval default null,
    longest_retry interval default null
) returns loyalty.notice_sender
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    written loyalty.notice_sender;
    broken text;
begin
    insert into loyalty.notice_sender as f (program_id) values (loyalty.program_id(set_notice_sender.program))
        on conflict (program_id) do nothing;
    update loyalty.notice_sender f
       set email = nullif(coalesce(set_notice_sender.email, f.email), ''),
           sms = nullif(coalesce(set_notice_sender.sms, f.sms), ''),
           language = coalesce(set_notice_sender.language, f.language),
           preferences_url = nullif(coalesce(set_notice_sender.preferences_url, f.preferences_url), ''),
           max_attempts = coalesce(set_notice_sender.max_attempts, f.max_attempts),
           first_retry = coalesce(set_notice_sender.first_retry, f.first_retry),
           longest_retry = coalesce(set_notice_sender.longest_retry, f.longest_retry)
     where f.program_id = loyalty.program_id(set_notice_sender.program)
    returning * into written;
    perform loyalty_private.audit('set_notice_sender', written.program_id, details => to_jsonb(written) - 'program_id');
    return written;
exception when check_violation then
    get stacked diagnostics broken = constraint_name;
    perform case broken
        when 'notice_sender_email_is_a_mailbox' then
            loyalty_private.raise('22023', 'sender_invalid', 'email is not a sender address',
                format('email: %L given.', left(email, 100)),
                'points@example.com, or Sample Club <points@example.com>; the name without any of ( ) < > @ , ; : \ " [ ].',
                'email')
        when 'notice_sender_sms_is_short' then
            loyalty_private.raise('22023', 'sender_invalid', 'sms is not a sender of short messages',
                format('sms: %L given.', left(sms, 100)),
                'A number such as +81312345678, or 2 to 20 ASCII letters and digits.', 'sms')
        when 'notice_sender_language_is_a_tag' then
            loyalty_private.raise('22023', 'language_invalid', 'language is not a language tag',
                format('language: %L given.', left(language, 100)), 'A BCP 47 tag such as ja or en.', 'language')
        when 'notice_sender_preferences_url_is_a_url' then
            loyalty_private.raise('22023', 'url_invalid', 'preferences_url is not a URL',
                format('preferences_url: %L given.', left(preferences_url, 100)),
                'A URL that begins with https://, http:// or mailto: and has no spaces, up to 500 characters.',
                'preferences_url')
        when 'notice_sender_max_attempts_is_sane' then
            loyalty_private.raise('22023', 'out_of_range', 'max_attempts is out of range',
                format('max_attempts: %s given.', max_attempts), 'From 1 to 100.', 'max_attempts')
        when 'notice_sender_first_retry_is_sane' then
            loyalty_private.raise('22023', 'out_of_range', 'first_retry is out of range',
                format('first_retry: %s given.', first_retry), 'From 1 second to 1 day.', 'first_retry')
        when 'notice_sender_longest_retry_is_sane' then
            loyalty_private.raise('22023', 'out_of_range', 'longest_retry is out of range',
                format('longest_retry: %s given.', longest_retry), 'From first_retry to 7 days.', 'longest_retry')
        end;
    raise;
end
$$;
comment on function loyalty.set_notice_sender is
    'Who a program''s notices come from, the language where a member''s own has no template, where members choose what they want, and how often sending is tried. What is null stays as it is, an empty string empties it. 22023 names the wrong field.';

create function loyalty.set_notice_preference(account_id bigint, kind text, is_wanted boolean)
    returns loyalty.notice_preference
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    written loyalty.notice_preference;
begin
    perform loyalty_private.check_notice_kind(set_notice_preference.kind);
    if set_notice_preference.is_wanted is null then
        perform loyalty_private.raise('22004', 'value_missing', 'is_wanted must not be null', null, 'true or false.', 'is_wanted');
    elsif not set_notice_preference.is_wanted and not exists (
           select from loyalty_private.notice_kind k where k.kind = set_notice_preference.kind and k.can_be_refused) then
        perform loyalty_private.raise('22023', 'kind_always_sent', format('%s cannot be refused', set_notice_preference.kind), null,
            'It is sent to every member whom it concerns; most other kinds can be refused.', 'kind');
    elsif not exists (
           select from loyalty.account a where a.account_id = set_notice_preference.account_id) then
        perform loyalty_private.raise('LY002', 'no_such_account', 'no such account',
            format('Account %s does not exist.', coalesce(set_notice_preference.account_id::text, 'null')),
            'loyalty.open_account(program, member_no) gives a member''s account.', 'account_id');
    end if;
    insert into loyalty.notice_preference as p (account_id, kind, is_wanted, changed_at)
    values (set_notice_preference.account_id, set_notice_preference.kind,
            set_notice_preference.is_wanted, loyalty.now())
        on conflict (account_id, kind) do update
       set is_wanted = excluded.is_wanted, changed_at = excluded.changed_at
    returning p.* into written;
    return written;
end
$$;
comment on function loyalty.set_notice_preference is
    'Writes whether a member wants a kind of notice. 22023 for an unknown kind, and for one that cannot be refused, such as order_received (C18); LY002.';

create function loyalty.next_notice(program_id integer, kind text, after timestamptz)
    returns table (period date, due_at timestamptz)
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select d.day, d.due_at
      from loyalty.notice_setting s
      join loyalty.program p on p.program_id = s.program_id
     cross join lateral (
            select g.day::date as day, pg_catalog.timezone(p.time_zone, g.day::date + s.at) as due_at
              from pg_catalog.generate_series(0, 62) n
             cross join lateral (
                    select pg_catalog.timezone(p.time_zone, next_notice.after)::date - 1 + n as day) g
             where s.kind = 'expiry'
                -- a day that the month does not have is its last
                or extract(day from g.day) = any (s.days_of_month)
                or extract(day from g.day + 1) = 1
                   and extract(day from g.day) < any (s.days_of_month)
             ) d
     where s.program_id = next_notice.program_id
       and s.kind = next_notice.kind
       and s.kind in ('balance', 'expiry')
       and s.is_enabled
       and d.due_at > next_notice.after
       -- not of a day that the zone skips (Apia, 2011-12-30): it is over before it begins
       and pg_catalog.timezone(p.time_zone, d.due_at)::date = d.day
     order by d.due_at
     limit 1;
end;
comment on function loyalty.next_notice is
    'The first occasion after an instant on which a program sends its balance or expiry notices: the day it is for, and when; no row when it sends none.';
