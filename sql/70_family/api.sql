-- Families over HTTP (A8): inviting, approving and registering by mailed links, and what a member
-- sees of their family.

create function loyalty.family_login_id(family_id bigint) returns text
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(i.login_id, f.address)
          from loyalty.family f
          left join loyalty.identity i on i.identity_id = f.identity_id
         where f.family_id = family_login_id.family_id
           and (pg_has_role(loyalty_private.api_role(), 'loyalty_operator', 'member')
                or loyalty_private.api_role() = 'loyalty_member' and f.account_id = loyalty.claim_account_id()
                   and f.program_id = loyalty.claim_program_id()));
end
$$;
comment on function loyalty.family_login_id is
    'The login ID of one of the family as it is now, or the address invited, for the member who invited; null for others.';

create view loyalty_api.family with (security_invoker = true) as
select f.family_id, f.account_id, f.relation, loyalty.csv_cell(f.name) as name, f.birth_date,
       loyalty.family_login_id(f.family_id) as login_id,
       loyalty.family_state(f.expires_at, f.approved_at, f.registered_at, f.ended_at) as state,
       f.invited_at, f.expires_at, f.approved_at, f.registered_at, f.ended_at,
       coalesce(s.this_month, 0)::bigint as spent_this_month, coalesce(s.points, 0)::bigint as spent
  from loyalty.family f
  join loyalty.program p on p.program_id = f.program_id
 cross join lateral (
        select sum(s.points) as points,
               sum(s.points) filter (
                   where s.month = date_trunc('month', timezone(p.time_zone, loyalty.now()))::date) as this_month
          from loyalty.family_spend s
         where s.account_id = f.account_id and s.identity_id = f.identity_id) s;
comment on view loyalty_api.family is
$$Family

Whom a member invited, where that is, by which login ID they log in, and what they spent. Members only, each their own family; changed with /rpc/invite_family and /rpc/remove_family.$$;
comment on column loyalty_api.family.family_id is 'Number of the invitation, for /rpc/remove_family.';
comment on column loyalty_api.family.account_id is 'The member''s account.';
comment on column loyalty_api.family.relation is 'What the person is to the member.';
comment on column loyalty_api.family.name is 'The person''s name, in the member''s words.';
comment on column loyalty_api.family.birth_date is 'The birth date that the person must give to register.';
comment on column loyalty_api.family.login_id is 'E-mail address or phone that the person logs in by, or was invited at.';
comment on column loyalty_api.family.state is
    'invited (the member is to approve by mail), approved (the person is to register), registered, removed (also who left by themselves), canceled or expired.';
comment on column loyalty_api.family.invited_at is 'When the member invited.';
comment on column loyalty_api.family.expires_at is 'Until when the next step can be done.';
comment on column loyalty_api.family.approved_at is 'When the member approved.';
comment on column loyalty_api.family.registered_at is 'When the person registered.';
comment on column loyalty_api.family.ended_at is 'When it was canceled, or the person removed or left.';
comment on column loyalty_api.family.spent_this_month is 'Points that the person spent this month, in the program''s time zone.';
comment on column loyalty_api.family.spent is 'Points that the person spent in all.';

create view loyalty_api.family_spend with (security_invoker = true) as
select s.operation_id, s.account_id, k.family_id, k.relation, loyalty.csv_cell(k.name) as name, s.points,
       e.occurred_at, loyalty.csv_cell(e.reason) as reason
  from loyalty.family_spend s
  join loyalty.entry e on e.account_id = s.account_id and e.entry = (s.operation_id & 16777215)::integer
 cross join lateral (
        select f.family_id, f.relation, f.name
          from loyalty.family f
         where f.account_id = s.account_id and f.identity_id = s.identity_id
         order by f.family_id desc
         limit 1) k;
comment on view loyalty_api.family_spend is
$$Family spends

Which spends of /statement family asked for, and who. Members only, each of their own points.$$;
comment on column loyalty_api.family_spend.operation_id is 'The spend, as in /statement.';
comment on column loyalty_api.family_spend.account_id is 'The member''s account.';
comment on column loyalty_api.family_spend.family_id is 'Who asked for it, as in /family.';
comment on column loyalty_api.family_spend.relation is 'What the person is to the member.';
comment on column loyalty_api.family_spend.name is 'The person''s name.';
comment on column loyalty_api.family_spend.points is 'Points spent.';
comment on column loyalty_api.family_spend.occurred_at is 'When.';
comment on column loyalty_api.family_spend.reason is 'Why, in the person''s words.';

create function loyalty_api.invite_family(relation text, name text, birth_date text, address text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.invite_family(
        loyalty_private.api_account(null, '{loyalty_member}'), relation, name, loyalty_private.api_day('birth_date', birth_date), address);
end
$$;
comment on function loyalty_api.invite_family(text, text, text, text) is
$$Invite family

A member invites one of the family, and is mailed a link to approve it by, within a day. Answers with family_id, relation, name, state and expires_at. 403 LY010 when the program does not admit the relation. Members only.

- `relation`: what the person is to the member: spouse; parent, child, parent_in_law, stepchild; sibling, grandparent, grandchild, sibling_in_law, grandparent_in_law, step_grandchild.
- `name`: the person's name, up to 200 characters.
- `birth_date`: YYYY-MM-DD; the person must give the same to register.
- `address`: e-mail address or phone number of the person, which becomes the login ID.$$;

create function loyalty_api.approve_family(token text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.approve_family(token);
end
$$;
comment on function loyalty_api.approve_family(text) is
$$Approve an invitation

The member approves an invitation from the mail; the person invited is mailed a link to register by, within 7 days. Answers as /rpc/invite_family. 401 LY009 when the link is not good. For everybody with the link.

- `token`: what follows the # in the mailed link.$$;

create function loyalty_api.register_family(token text, birth_date text, password text, terms_version text)
    returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.register_family(token, loyalty_private.api_day('birth_date', birth_date), password, terms_version);
end
$$;
comment on function loyalty_api.register_family(text, text, text, text) is
$$Register as family

The person invited registers by the mailed link and is signed in: answers with a session, as /rpc/log_in. The address that the mail came to is the login ID from then on; where it is one already, that login is linked. 401 LY009 for a wrong birth date, five of which end the invitation, and for a link that is not good. For everybody with the link.

- `token`: what follows the # in the mailed link.
- `birth_date`: the person's birth date, YYYY-MM-DD.
- `password`: the password for the login; of a login that there is already, its password.
- `terms_version`: version of the terms that the person accepts.$$;

create function loyalty_api.remove_family(family_id bigint) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return loyalty.remove_family(loyalty_private.api_account(null, '{loyalty_member}'), family_id);
end
$$;
comment on function loyalty_api.remove_family(bigint) is
$$Remove family

Takes an invitation back, or removes who registered by it, whose access ends at once, and who is told by mail. Answers with family_id, relation, name and state. 404 LY002 when the member has no such invitation. Members only.

- `family_id`: number of the invitation, as in /family.$$;

create function loyalty_api.leave_family() returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if loyalty_private.api_role() <> 'loyalty_family' then
        perform loyalty_private.api_refuse('Ask as one of: loyalty_family.');
    end if;
    -- not family_account_id: who may do nothing any more may leave
    if not exists (
           select from loyalty.identity_link l
             join loyalty.identity i on i.identity_id = l.identity_id and i.state = 'active'
            where l.identity_id = loyalty.claim_identity_id()
              and l.account_id = loyalty.claim_account_id()
              and l.program_id = loyalty.claim_program_id()
              and l.relation <> 'self') then
        perform loyalty_private.raise('LY010', 'not_family', 'not allowed', 'The token is for no family of a member.',
            'Log in as family of the member whom you want to leave.');
    end if;
    return loyalty.leave_family(loyalty.claim_identity_id(), loyalty.claim_account_id());
end
$$;
comment on function loyalty_api.leave_family() is
$$Leave a family

Who is family of a member gives up the access to that member's points, which ends at once; what was spent stays spent. The member is told by mail, sees it as removed, and may invite again. Answers with family_id, relation, name and state. 403 LY010 for a token that is no family's. Family only; one's other logins stay.$$;

create function loyalty_api.spend(
    points numeric,
    reason text default null,
    idempotency_key text default null,
    account_id bigint default null
) returns loyalty.receipt
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    account_id := loyalty_private.api_account(account_id, '{loyalty_member,loyalty_family,loyalty_admin,loyalty_operator}');
    if loyalty_private.api_role() = 'loyalty_family' then
        return loyalty.spend_as_family(loyalty.claim_identity_id(), account_id, loyalty_private.api_points(points), reason,
            loyalty_private.api_key(idempotency_key));
    end if;
    return loyalty_private.audit_operation('spend', loyalty.spend_fifo(
        account_id, loyalty_private.api_points(points), reason, loyalty_private.api_key(idempotency_key)));
end
$$;
comment on function loyalty_api.spend(numeric, text, text, bigint) is
$$Spend points

Takes points, soonest expiry first, and answers with a receipt. 402 LY001 when not so many are available. 403 LY004 when the account is not open; 409 LY003 when the key was used for something else. Family spends a member's points where the program lets them, up to a limit in a month: 403 LY010 beyond it.

- `points`: how many, a whole number from 1.
- `reason`: why, in your words, up to 1,000 characters.
- `idempotency_key`: up to 255 characters of your own choice; repeat the call with the same one and it is done once. The header Idempotency-Key may carry it instead.
- `account_id`: whose points. Members and family leave it out; administrators must give it.$$;
