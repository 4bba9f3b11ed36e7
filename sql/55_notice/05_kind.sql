-- Kinds of notices. A room that tells members of something registers its kinds here, in its own
-- folder, with what a text of that kind can say; nothing else knows kinds by name.

create table loyalty_private.notice_kind (
    kind text primary key
        constraint notice_kind_is_a_name check (kind ~ '^[a-z][a-z_]{1,40}$'),
    place integer not null unique,
    is_chosen boolean not null,
    can_be_refused boolean not null,
    days_of_month integer[],
    at time,
    days_before integer,
    send_within interval,
    proof text
        constraint notice_kind_proof_is_known check (proof in ('code', 'link')),
    context_function text
        constraint notice_kind_function_is_ours check (context_function ~ '^loyalty(_private)?\.[a-z_]+$'),
    example jsonb not null,
    optional jsonb not null,
    constraint notice_kind_is_refused_where_chosen check (is_chosen or not can_be_refused),
    constraint notice_kind_waits_where_chosen check (is_chosen = (send_within is not null))
);
comment on table loyalty_private.notice_kind is
    'Kinds of notices. Rows come with the extension, each from the folder of its own room.';
comment on column loyalty_private.notice_kind.kind is 'The kind, as templates and notices have it.';
comment on column loyalty_private.notice_kind.place is 'Where it stands in lists.';
comment on column loyalty_private.notice_kind.is_chosen is
    'Whether a program chooses to send it (loyalty.set_notice); others, about a login, are always sent.';
comment on column loyalty_private.notice_kind.can_be_refused is 'Whether a member may refuse it (C18).';
comment on column loyalty_private.notice_kind.days_of_month is 'Of kinds sent on days of the month: those at first; else null, and then it has none.';
comment on column loyalty_private.notice_kind.at is 'Of kinds sent at a time of day: that at first; else null, and then it has none.';
comment on column loyalty_private.notice_kind.days_before is 'Of kinds that begin days before something: how many at first; else null, and then it has none.';
comment on column loyalty_private.notice_kind.send_within is 'How long one may wait, at first.';
comment on column loyalty_private.notice_kind.proof is 'Whether it carries a code or a link that opens a login.';
comment on column loyalty_private.notice_kind.context_function is
    'What else its text is filled in with: a function (notice loyalty.notice) returns jsonb, null where the notice is no longer good; null for the details of the notice.';
comment on column loyalty_private.notice_kind.example is
    'What its texts are tried with, by language: {"en": {...}, "ja": {...}}, beside what every kind has (loyalty_private.notice_example).';
comment on column loyalty_private.notice_kind.optional is
    'Which of that may be missing: groups of names that are missing together, as [["expires_on", "expiring_points"]].';

create function loyalty_private.notice_example(kind text, language text) returns jsonb
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select case l.language
               when 'ja' then jsonb_build_object(
                   'program', jsonb_build_object('name', 'サンプルクラブ', 'point_name', 'ポイント'),
                   'member', jsonb_build_object('name', '山田 花子', 'member_no', 'A-1001'))
               else jsonb_build_object(
                   'program', jsonb_build_object('name', 'Sample Club', 'point_name', 'points'),
                   'member', jsonb_build_object('name', 'Hanako Yamada', 'member_no', 'A-1001'))
           end
           || jsonb_build_object('today', '2028-06-23')
           || coalesce(k.example -> l.language, k.example -> 'en')
           || case k.proof
                  when 'code' then jsonb_build_object('code', '482913', 'minutes', 15)
                  when 'link' then jsonb_build_object(
                      'link', 'https://example.com/' || k.kind || '#4f1d0c7e.Zm9yIGV4YW1wbGU', 'minutes', 15)
                  else '{}' end
           || case when k.is_chosen then jsonb_build_object('preferences_url', 'https://example.com/preferences')
                   else '{}' end
      from loyalty_private.notice_kind k
     cross join lateral (
            select case when split_part(notice_example.language, '-', 1) = 'ja' then 'ja' else 'en' end) l (language)
     where k.kind = notice_example.kind;
end;
comment on function loyalty_private.notice_example is
    'Every variable that texts of a kind have, with an example in Japanese or English; null for an unknown kind.';

create function loyalty_private.notice_optional(kind text) returns jsonb
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    -- an administrator, who also forgets passwords, is no member
    select case when k.is_chosen then jsonb '[["member.name"], ["preferences_url"]]'
                else '[["member.name"], ["member.member_no"]]' end || k.optional
      from loyalty_private.notice_kind k
     where k.kind = notice_optional.kind;
end;
comment on function loyalty_private.notice_optional is 'Variables of a kind that may be missing, in groups that are missing together.';

create function loyalty_private.check_notice_kind(kind text, is_chosen boolean default true) returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from loyalty_private.notice_kind k
                    where k.kind = check_notice_kind.kind and (k.is_chosen or not check_notice_kind.is_chosen)) then
        perform loyalty_private.raise('22023', 'kind_unknown', 'kind is unknown', format('kind: %L given.', left(kind, 100)),
            (select 'There are ' || string_agg(k.kind, ', ' order by k.place) || '.'
               from loyalty_private.notice_kind k
              where k.is_chosen or not check_notice_kind.is_chosen), 'kind');
    end if;
end
$$;
comment on function loyalty_private.check_notice_kind is
    'Refuses an unknown kind of notice; with is_chosen, also one that a program has no choice about.';

create function loyalty.notice_kinds() returns table (kind text, can_be_refused boolean)
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select k.kind, k.can_be_refused
      from loyalty_private.notice_kind k
     where k.is_chosen
     order by k.place;
end;
comment on function loyalty.notice_kinds is
    'The kinds of notices that a program chooses to send, and whether a member can refuse them (C18).';

insert into loyalty_private.notice_kind
       (kind, place, is_chosen, can_be_refused, days_of_month, at, days_before, send_within, example, optional)
values ('points_received', 1, true, true, null, null, null, '3 days',
        '{"en": {"points": 2000, "reason": "Anniversary", "granted_on": "2028-06-15", "expires_on": "2031-06-30"},
          "ja": {"points": 2000, "reason": "周年記念", "granted_on": "2028-06-15", "expires_on": "2031-06-30"}}',
        '[["expires_on"], ["reason"]]'),
       ('balance', 2, true, true, '{1,15}', '13:00', null, '1 day',
        '{"en": {"points": 12345, "expires_on": "2028-06-30", "expiring_points": 1500}}',
        '[["expires_on", "expiring_points"]]'),
       ('expiry', 3, true, true, null, '08:45', 7, '1 day',
        '{"en": {"points": 2000, "expires_on": "2028-06-28", "expiring_points": 1500, "days_left": 5,
                 "lots": [{"expires_on": "2028-06-28", "points": 1500}, {"expires_on": "2028-06-30", "points": 500}]}}',
        '[]'),
       -- it tells of an order that the member placed
       ('order_received', 4, true, false, null, null, null, '3 days',
        '{"en": {"order": {"number": "20280623-0001", "item": "Meal voucher", "quantity": 2, "points": 3000}},
          "ja": {"order": {"number": "20280623-0001", "item": "お食事券", "quantity": 2, "points": 3000}}}',
        '[]');
