-- The relay's side of the outbox: claim, send, report. An attempt is a lease: who dies with
-- it loses it when its time is over, and the same notice, with the same Message-ID, is taken
-- again.

create function loyalty_private.settle_failed_notice(
    notice_id bigint,
    error text,
    is_permanent boolean
) returns void
    language sql volatile set search_path = pg_catalog, pg_temp
begin atomic
    update loyalty.notice n
       set leased_at = null,
           -- servers like to repeat the address, and what they took offence at
           error = left(regexp_replace(
                       regexp_replace(
                           replace(settle_failed_notice.error, o.phone, case o.phone when '@' then '@' else '(phone)' end),
                           '[^[:space:]<>"'',;:()]+@[^[:space:]<>"'',;:()]+', '(address)', 'g'),
                       case when i.challenge_id is null then '^$'
                            else '[0-9a-f]{32}\.[A-Za-z0-9_-]+|\m[0-9]{6}\M' end, '(secret)', 'g'), 500),
           gave_up_at = case when o.is_over then clock_timestamp() end,
           -- twice as long each time, and never all at the same moment
           due_at = case when not o.is_over then clock_timestamp() + o.wait * (0.5 + random() / 2) end
      from loyalty.notice i
      left join loyalty.member m on m.account_id = i.account_id
      left join loyalty.notice_sender f on f.program_id = i.program_id
     cross join lateral (
            select least(coalesce(f.longest_retry, '2 hours'),
                         coalesce(f.first_retry, '1 minute') * power(2, least(i.attempts, 40) - 1)) as wait,
                   case when i.address is null then coalesce(nullif(m.phone, ''), '@')
                        when i.channel = 'sms' then i.address else '@' end as phone,
                   settle_failed_notice.is_permanent
                   or i.attempts >= coalesce(f.max_attempts, 10)
                   or i.send_by <= clock_timestamp() as is_over) o
     where i.notice_id = settle_failed_notice.notice_id
       and n.notice_id = i.notice_id
       and n.due_at is not null;
end;
comment on function loyalty_private.settle_failed_notice is
    'What becomes of a notice after a failed attempt: another one later, or, when the failure is for good, the attempts are used up or its time is over, none.';

create function loyalty_private.notice_context(notice loyalty.notice) returns jsonb
    language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select jsonb_build_object(
               'program', jsonb_build_object('name', p.name, 'point_name', p.point_name),
               'member', jsonb_build_object('name', m.name, 'member_no', a.member_no),
               'today', timezone(p.time_zone, notice_context.notice.queued_at)::date)
           || case notice_context.notice.kind
                  when 'points_received' then jsonb_build_object(
                      'points', notice_context.notice.points,
                      'expires_on', notice_context.notice.expires_on,
                      'reason', e.reason,
                      'granted_on', coalesce(e.granted_on, timezone(p.time_zone, notice_context.notice.queued_at)::date))
                  when 'balance' then jsonb_build_object(
                      'points', notice_context.notice.points,
                      'expires_on', notice_context.notice.expires_on,
                      'expiring_points', notice_context.notice.expiring_points)
                  when 'expiry' then jsonb_build_object(
                      'points', notice_context.notice.points,
                      'expires_on', notice_context.notice.expires_on,
                      'expiring_points', notice_context.notice.expiring_points,
                      'days_left', notice_context.notice.expires_on
                                   - timezone(p.time_zone, notice_context.notice.queued_at)::date,
                      'lots', (select jsonb_agg(jsonb_build_object('expires_on', l.day, 'points', l.points)
                                                order by l.day)
                                 from unnest(notice_context.notice.lot_expires_on,
                                             notice_context.notice.lot_points) l (day, points)))
                  when 'order_received' then jsonb_build_object('order', notice_context.notice.details)
                  else '{}'
              end
           -- nobody chooses whether to get those about a login
           || case when k.is_chosen
                   then jsonb_build_object('preferences_url', f.preferences_url)
                   else '{}' end
      from loyalty.program p
      left join loyalty_private.notice_kind k on k.kind = notice_context.notice.kind
      left join loyalty.account a on a.account_id = notice_context.notice.account_id
      left join loyalty.member m on m.account_id = a.account_id
      left join loyalty.notice_sender f on f.program_id = p.program_id
      left join loyalty.entry e
        on e.account_id = a.account_id
       and e.entry = case when notice_context.notice.kind = 'points_received'
                          then (notice_context.notice.occasion::bigint & 16777215)::integer end
     where p.program_id = notice_context.notice.program_id;
end;
comment on function loyalty_private.notice_context is 'What a template is filled with.';

create type loyalty.leased_notice as (
    notice_id bigint,
    channel text,
    address text,
    sender text,
    subject text,
    text_body text,
    html_body text,
    message_id text,
    attempt integer,
    unsubscribe text
);
comment on type loyalty.leased_notice is 'A message ready to be sent, as lease_notices hands it to a relay.';
comment on column loyalty.leased_notice.notice_id is 'Number of the notice, for the report.';
comment on column loyalty.leased_notice.channel is 'email or sms.';
comment on column loyalty.leased_notice.address is 'The e-mail address or phone number it goes to.';
comment on column loyalty.leased_notice.sender is 'Whom it comes from.';
comment on column loyalty.leased_notice.subject is 'Subject of a mail, one line; null for a short message.';
comment on column loyalty.leased_notice.text_body is 'The text.';
comment on column loyalty.leased_notice.html_body is 'The text as HTML; null when there is none.';
comment on column loyalty.leased_notice.message_id is 'Message-ID without angle brackets, the same in every attempt.';
comment on column loyalty.leased_notice.attempt is 'Number of this attempt, for the report.';
comment on column loyalty.leased_notice.unsubscribe is 'Where the member can refuse notices of this kind; null when that cannot be.';

create function loyalty_private.fill_notice(
    notice loyalty.notice,
    out message loyalty.leased_notice,
    out error text,
    out is_over boolean
) returns record
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    via record;
    template loyalty.notice_template;
    filled loyalty.filled_template;
    kind loyalty_private.notice_kind;
    more jsonb := jsonb '{}';
begin
    is_over := false;
    select k.* into kind from loyalty_private.notice_kind k where k.kind = notice.kind;
    select m.email, m.phone, m.language, f.email as sender_email, f.sms as sender_sms, f.preferences_url,
           f.language as usual_language
      into via
      from loyalty.notice_sender f
      left join loyalty.member m on m.account_id = notice.account_id
     where f.program_id = notice.program_id;
    message.notice_id := notice.notice_id;
    message.channel := notice.channel;
    message.message_id := notice.message_id;
    message.attempt := notice.attempts;
    if notice.channel = 'email' then
        message.address := coalesce(notice.address, via.email);
        message.sender := via.sender_email;
    else
        message.address := coalesce(notice.address, via.phone);
        message.sender := via.sender_sms;
    end if;
    if message.sender is null then
        error := format('the program has no sender for %s', notice.channel);
        return;
    elsif message.address is null then
        error := format('the member has no address for %s', notice.channel);
        return;
    end if;
    if kind.can_be_refused then
        message.unsubscribe := via.preferences_url;
    end if;
    if kind.context_function is not null then
        begin
            execute format('select %s($1)', kind.context_function) into more using notice;
        -- keys that are missing or broken keep back what needs them, and nothing else
        exception when object_not_in_prerequisite_state then
            error := sqlerrm;
            return;
        end;
        if more is null then
            error := 'its code or link is no longer good';
            is_over := true;
            return;
        end if;
    elsif not kind.is_chosen then
        more := coalesce(notice.details, '{}');
    end if;
    template := loyalty_private.template_for(notice.program_id, notice.kind, via.language);
    if notice.channel = 'sms' and template.sms_body is null then
        error := format('the template of kind %s in %s has no sms_body', notice.kind, template.language);
        return;
    end if;
    filled := loyalty_private.render_template(
        template.language,
        case when notice.channel = 'email' then template.subject end,
        case when notice.channel = 'email' then template.text_body end,
        case when notice.channel = 'email' then template.html_body end,
        case when notice.channel = 'sms' then template.sms_body end,
        (loyalty_private.notice_context(notice) || more)::text);
    message.subject := filled.subject;
    message.text_body := coalesce(filled.text_body, filled.sms_body);
    message.html_body := filled.html_body;
    error := filled.error;
end
$$;
comment on function loyalty_private.fill_notice is
    'The message of a notice, or why there is none and whether that is for good.';

create function loyalty.lease_notices(
    how_many integer,
    lease interval default '5 minutes',
    channels text[] default null
) returns setof loyalty.leased_notice
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    clock_now timestamptz;
    ids bigint[];
    told integer := 0;
    urgent boolean;
    via text;
    taken loyalty.notice;
    filled record;
begin
    if how_many is null or how_many not between 1 and 1000 then
        perform loyalty_private.raise('22023', 'out_of_range', 'how_many is out of range',
            format('%s given.', coalesce(how_many::text, 'null')), 'From 1 to 1000.', 'how_many');
    elsif lease is null or lease not between interval '1 second' and interval '1 day' then
        perform loyalty_private.raise('22023', 'out_of_range', 'lease is out of range',
            format('%s given.', coalesce(lease::text, 'null')),
            'From 1 second to 1 day, longer than sending that many takes.', 'lease');
    elsif not coalesce(channels, '{}') <@ '{email,sms}' then
        perform loyalty_private.raise('22023', 'channel_unknown', 'channels contains an unknown channel',
            format('%s given.', channels), 'Any of email and sms; null for both.', 'channels');
    end if;
    -- what turns out not to be sent leaves room for more
    for round in 1..20 loop
        clock_now := clock_timestamp();
        ids := '{}';
        foreach urgent in array '{true,false}'::boolean[] loop
            foreach via in array coalesce(channels, '{email,sms}') loop
                ids := ids || array(
                    select n.notice_id
                      from loyalty.notice n
                     where n.due_at is not null
                       and n.is_urgent = urgent
                       and n.channel = via
                       and n.due_at <= clock_now
                     order by n.due_at
                     limit greatest(how_many - told - cardinality(ids), 0)
                       for update skip locked);
            end loop;
        end loop;
        exit when cardinality(ids) = 0;
        for taken in
            with leased as (
                update loyalty.notice n
                   set attempts = n.attempts + 1,
                       leased_at = clock_now,
                       due_at = clock_now + lease,
                       message_id = coalesce(n.message_id, format('%s.%s@%s', n.notice_id,
                           (extract(epoch from n.queued_at) * 1000000)::bigint,
                           coalesce(substring(f.email from '@([A-Za-z0-9.-]+)>?$'), 'loyalty.invalid')))
                  from loyalty.notice i
                  left join loyalty.notice_sender f on f.program_id = i.program_id
                 where i.notice_id = any (ids) and n.notice_id = i.notice_id
                returning n.*)
            select c.*
              from leased c
             order by array_position(ids, c.notice_id)
        loop
            if taken.send_by <= clock_now then
                perform loyalty_private.settle_failed_notice(taken.notice_id,
                    coalesce('its time is over; last: ' || taken.error, 'its time is over'), true);
            elsif exists (
                    select from loyalty.notice_preference r
                      join loyalty_private.notice_kind k on k.kind = r.kind and k.can_be_refused
                     where r.account_id = taken.account_id and r.kind = taken.kind and not r.is_wanted) then
                perform loyalty_private.settle_failed_notice(taken.notice_id, 'the member refused it meanwhile', true);
            else
                filled := loyalty_private.fill_notice(taken);
                if filled.error is null then
                    told := told + 1;
                    return next filled.message;
                else
                    perform loyalty_private.settle_failed_notice(taken.notice_id, filled.error, filled.is_over);
                end if;
            end if;
        end loop;
        exit when told >= how_many;
    end loop;
end
$$;
comment on function loyalty.lease_notices is
    'For relays: takes up to how_many notices that are due, urgent ones first, then those due longest, leases them and returns them filled in. Others skip what one has taken; what is not reported before the lease ends is due again. channels null: all. What cannot be filled in counts as failed and stops nothing. 22023.';

create function loyalty.notice_sent(notice_id bigint, attempt integer) returns boolean
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    -- also of an attempt whose lease was over, or that was given up: the server has it
    update loyalty.notice n
       set sent_at = clock_timestamp(), due_at = null, leased_at = null, gave_up_at = null, error = null
     where n.notice_id = notice_sent.notice_id
       and n.attempts >= notice_sent.attempt
       and n.sent_at is null;
    return found;
end
$$;
comment on function loyalty.notice_sent is
    'For relays: the server took the message of that attempt. False when it was sent before.';

create function loyalty.notice_failed(notice_id bigint, attempt integer, error text, is_permanent boolean)
    returns boolean
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform 1
       from loyalty.notice n
      where n.notice_id = notice_failed.notice_id
        and n.attempts = notice_failed.attempt
        and n.leased_at is not null
        for update;
    if not found then
        return false;
    end if;
    perform loyalty_private.settle_failed_notice(
        notice_failed.notice_id, coalesce(notice_failed.error, 'unknown'), coalesce(notice_failed.is_permanent, false));
    return true;
end
$$;
comment on function loyalty.notice_failed is
    'For relays: the attempt failed. The notice is due again after a wait that doubles, or given up when is_permanent, when max_attempts are used up or its time is over. False, and nothing changes, when another attempt has begun or it is settled.';

create function loyalty.return_notices(notice_ids bigint[], attempts integer[]) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    released bigint;
begin
    update loyalty.notice n
       set due_at = clock_timestamp(), leased_at = null, attempts = n.attempts - 1
      from unnest(notice_ids, return_notices.attempts) as g (notice_id, attempt)
     where n.notice_id = g.notice_id
       and n.attempts = g.attempt
       and n.leased_at is not null;
    get diagnostics released = row_count;
    return released;
end
$$;
comment on function loyalty.return_notices is
    'For relays: gives leases back without counting the attempt; due again at once. How many.';

create function loyalty.notice_backlog()
    returns table (
        channel text, waiting bigint, due bigint, leased bigint, given_up bigint,
        oldest_due_at timestamptz, next_due_at timestamptz
    )
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    select c.channel, coalesce(o.waiting, 0), coalesce(o.due, 0), coalesce(o.leased, 0),
           (select count(*) from loyalty.notice g where g.gave_up_at is not null and g.channel = c.channel),
           o.oldest_due_at, o.next_due_at
      from (values ('email'), ('sms')) c (channel)
      left join (
           select n.channel,
                  count(*) as waiting,
                  count(*) filter (where n.due_at <= clock_timestamp()) as due,
                  count(*) filter (where n.due_at > clock_timestamp() and n.leased_at is not null) as leased,
                  min(n.due_at) filter (where n.due_at <= clock_timestamp()) as oldest_due_at,
                  min(n.due_at) filter (where n.due_at > clock_timestamp()) as next_due_at
             from loyalty.notice n
            where n.due_at is not null
            group by n.channel) o on o.channel = c.channel
     order by c.channel;
end;
comment on function loyalty.notice_backlog is
    'For metrics: of each channel the notices not sent yet, those of them that are due or leased, those given up, since when the oldest is due, and when the next will be. It costs what the backlog has, not what was sent.';

create function loyalty.notice_state(
    attempts integer,
    leased_at timestamptz,
    sent_at timestamptz,
    gave_up_at timestamptz
) returns text
    language sql immutable parallel safe
    return case when sent_at is not null then 'sent'
                when gave_up_at is not null then 'given up'
                when leased_at is not null then 'sending'
                when attempts > 0 then 'retrying'
                else 'waiting' end;
comment on function loyalty.notice_state is
    'How far a notice is: waiting, sending, retrying after a failure, sent, or given up.';

create view loyalty.notice_problem with (security_invoker = true) as
select n.notice_id, n.program_id, a.member_no, n.account_id, n.kind, n.occasion, n.channel, n.queued_at,
       n.attempts, n.due_at, n.gave_up_at, n.error
  from loyalty.notice n
  join loyalty.account a on a.account_id = n.account_id
 where n.gave_up_at is not null
    or n.due_at is not null and n.error is not null;
comment on view loyalty.notice_problem is
    'Notices that were given up, or failed and will be tried again; loyalty.retry_notices has another go at the former.';
comment on column loyalty.notice_problem.notice_id is 'Number of the notice.';
comment on column loyalty.notice_problem.program_id is 'The program.';
comment on column loyalty.notice_problem.member_no is 'The member''s number in the program.';
comment on column loyalty.notice_problem.account_id is 'The member''s account.';
comment on column loyalty.notice_problem.kind is 'The kind of notice.';
comment on column loyalty.notice_problem.occasion is 'What it tells of: the operation, the order, or the day.';
comment on column loyalty.notice_problem.channel is 'email or sms.';
comment on column loyalty.notice_problem.queued_at is 'When it was queued.';
comment on column loyalty.notice_problem.attempts is 'How often the relay took it.';
comment on column loyalty.notice_problem.due_at is 'When it is tried again; null when it was given up.';
comment on column loyalty.notice_problem.gave_up_at is 'When it was given up; null when it is tried again.';
comment on column loyalty.notice_problem.error is 'Why the last attempt failed, without addresses.';

create function loyalty.retry_notices(program text, given_up_since timestamptz, kind text default null)
    returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    retried bigint;
begin
    if retry_notices.kind is not null then
        perform loyalty_private.check_notice_kind(retry_notices.kind);
    end if;
    if retry_notices.given_up_since is null then
        perform loyalty_private.raise('22004', 'value_missing', 'given_up_since must not be null', null,
            'Those given up earlier stay so.', 'given_up_since');
    end if;
    update loyalty.notice n
       set gave_up_at = null, error = null, attempts = 0, due_at = clock_timestamp(),
           send_by = clock_timestamp() + s.send_within
      from loyalty.program p
      join loyalty.notice_setting s on s.program_id = p.program_id
     where p.program_id = loyalty.program_id(retry_notices.program)
       and n.program_id = p.program_id
       and s.kind = n.kind
       and n.gave_up_at >= retry_notices.given_up_since
       and (n.kind = retry_notices.kind or retry_notices.kind is null)
       -- what was true on another day only is past mending
       and (n.kind <> 'expiry' or n.occasion = timezone(p.time_zone, loyalty.now())::date::text);
    get diagnostics retried = row_count;
    if retried > 0 then
        perform pg_notify('loyalty_notice', '');
    end if;
    return retried;
end
$$;
comment on function loyalty.retry_notices is
    'Has another go at notices that were given up since then, of one kind or all, once what was wrong is mended; expiry notices of earlier days stay as they are. How many.';

create function loyalty.purge_notices(older_than interval default '90 days') returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    purged bigint;
begin
    -- a row is also the memory of what was told already: of today and, by any zone's date, yesterday
    if older_than is null or older_than < interval '3 days' then
        perform loyalty_private.raise('22023', 'out_of_range', 'older_than is too short',
            format('%s given.', coalesce(older_than::text, 'null')), 'From 3 days on.', 'older_than');
    end if;
    delete from loyalty.notice n
     where n.due_at is null
       and n.queued_at < loyalty.now() - older_than;
    get diagnostics purged = row_count;
    return purged;
end
$$;
comment on function loyalty.purge_notices is
    'Deletes notices that were sent or given up and queued longer ago than that, 3 days at least. How many.';
