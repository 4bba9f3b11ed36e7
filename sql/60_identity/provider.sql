-- Outside identity providers (P15, single sign-on). PostgREST checks their tokens' signatures;
-- here they are mapped to members, and nothing else that they say of rights counts.

create table loyalty.identity_provider (
    issuer text primary key
        constraint identity_provider_issuer_is_short check (char_length(issuer) between 1 and 500)
        constraint identity_provider_issuer_is_not_us check (issuer <> 'loyalty'),
    audience text not null
        constraint identity_provider_audience_is_short check (char_length(audience) between 1 and 500),
    program_id integer not null references loyalty.program,
    created_at timestamptz not null
);
comment on table loyalty.identity_provider is
    'Identity providers whose tokens are believed, beside the key that PostgREST has of them.';
comment on column loyalty.identity_provider.issuer is 'What its tokens have as iss.';
comment on column loyalty.identity_provider.audience is 'What its tokens for us have in aud; those for others are not believed.';
comment on column loyalty.identity_provider.program_id is 'The program that its people are members of.';
comment on column loyalty.identity_provider.created_at is 'Since when.';

create table loyalty.identity_provider_link (
    issuer text not null references loyalty.identity_provider,
    subject text not null
        constraint identity_provider_link_subject_is_short check (char_length(subject) between 1 and 255),
    identity_id bigint not null references loyalty.identity,
    linked_at timestamptz not null,
    primary key (issuer, subject)
);
create index identity_provider_link_by_identity on loyalty.identity_provider_link (identity_id);
comment on table loyalty.identity_provider_link is 'Who the people of identity providers are here.';
comment on column loyalty.identity_provider_link.issuer is 'The provider.';
comment on column loyalty.identity_provider_link.subject is 'What the provider knows the person by: sub.';
comment on column loyalty.identity_provider_link.identity_id is 'The person.';
comment on column loyalty.identity_provider_link.linked_at is 'Since when.';

create function loyalty_private.provider_claims(claims jsonb) returns jsonb
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    provider loyalty.identity_provider;
    mapped jsonb;
begin
    select p.* into provider
      from loyalty.identity_provider p
     where claims -> 'iss' = to_jsonb(p.issuer)
       and (claims -> 'aud' = to_jsonb(p.audience)
            or jsonb_typeof(claims -> 'aud') = 'array' and claims -> 'aud' ? p.audience)
       -- a token without an end would be good for ever
       and jsonb_typeof(claims -> 'exp') = 'number'
       and (claims ->> 'exp')::numeric between extract(epoch from clock_timestamp()) - 30 and 9e15;
    if provider.issuer is null then
        perform loyalty_private.raise('LY009', 'provider_unknown', 'the token is neither this server''s nor a known provider''s', null,
            'Log in again. For whoever makes tokens: "Keys" in docs/operations.md says which key signs them.');
    end if;
    select jsonb_build_object('iss', 'loyalty', 'sub', 'identity:' || i.identity_id, 'role', 'loyalty_member',
                              'program', p.code, 'account_id', l.account_id, 'provider', provider.issuer,
                              'exp', floor((claims ->> 'exp')::numeric)::bigint)
      into mapped
      from loyalty.identity_provider_link k
      join loyalty.identity i on i.identity_id = k.identity_id and i.state in ('active', 'locked')
      join loyalty.identity_link l
        on l.identity_id = i.identity_id and l.program_id = provider.program_id and l.relation = 'self' and l.ended_at is null
      join loyalty.wallet w on w.account_id = l.account_id and w.status = 'open'
      join loyalty.program p on p.program_id = provider.program_id
     where k.issuer = provider.issuer and to_jsonb(k.subject) = claims -> 'sub'
     order by l.account_id
     limit 1;
    if mapped is null then
        perform loyalty_private.raise('LY010', 'not_active_member', 'not an active member of the program', null,
            'Ask the program''s administrators to link the login.');
    end if;
    return mapped;
end
$$;
comment on function loyalty_private.provider_claims is
    'The claims that a provider''s token stands for here: those of the member it is linked to. LY009 when the provider, the audience or the token''s end is missing or wrong, LY010 when the person is not linked, or no active member.';

create function loyalty.set_identity_provider(program text, issuer text, audience text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer;
begin
    if set_identity_provider.program is null or set_identity_provider.issuer is null
       or set_identity_provider.audience is null then
        perform loyalty_private.raise('22004', 'value_missing', 'program, issuer and audience must not be null', null,
            'issuer is what the provider''s tokens have as iss, audience what they have in aud.');
    elsif char_length(set_identity_provider.issuer) not between 1 and 500
          or char_length(set_identity_provider.audience) not between 1 and 500
          or set_identity_provider.issuer = 'loyalty' then
        perform loyalty_private.raise('22023', 'provider_invalid', 'issuer or audience is invalid',
            format('issuer %L, audience %L.', left(set_identity_provider.issuer, 100), left(set_identity_provider.audience, 100)),
            'From 1 to 500 characters each; loyalty is the issuer of the tokens made here.');
    end if;
    within := loyalty.program_id(set_identity_provider.program);
    if exists (select from loyalty.identity_provider p
                where p.issuer = set_identity_provider.issuer and p.program_id <> within) then
        perform loyalty_private.raise('22023', 'issuer_taken', 'the issuer belongs to another program', null,
            'An issuer is one program''s; remove it there first.', 'issuer');
    end if;
    insert into loyalty.identity_provider as p (issuer, audience, program_id, created_at)
    values (set_identity_provider.issuer, set_identity_provider.audience, within, loyalty.now())
        on conflict (issuer) do update set audience = excluded.audience;
    perform loyalty_private.audit('set_identity_provider', within,
        details => jsonb_build_object('issuer', set_identity_provider.issuer, 'audience', set_identity_provider.audience));
    return jsonb_build_object('issuer', set_identity_provider.issuer, 'audience', set_identity_provider.audience,
        'program', set_identity_provider.program);
end
$$;
comment on function loyalty.set_identity_provider is
    'Believes an identity provider''s tokens for a program''s members, those of the audience only; its key goes into PostgREST''s JWK set: {issuer, audience, program}. LY002, 22004, 22023.';

create function loyalty.remove_identity_provider(issuer text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    removed loyalty.identity_provider;
begin
    delete from loyalty.identity_provider_link k where k.issuer = remove_identity_provider.issuer;
    delete from loyalty.identity_provider p where p.issuer = remove_identity_provider.issuer returning * into removed;
    if removed.issuer is null then
        perform loyalty_private.raise('LY002', 'no_such_provider', 'no such provider', null, 'See loyalty.identity_provider.',
            'issuer');
    end if;
    perform loyalty_private.audit('remove_identity_provider', removed.program_id,
        details => jsonb_build_object('issuer', removed.issuer));
    return jsonb_build_object('issuer', removed.issuer);
end
$$;
comment on function loyalty.remove_identity_provider is 'Believes a provider no longer, and forgets its links: {issuer}. LY002.';

create function loyalty_private.provider_of(program text, issuer text) returns integer
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    within integer := loyalty.program_id(provider_of.program);
begin
    if not exists (select from loyalty.identity_provider p
                    where p.issuer = provider_of.issuer and p.program_id = within) then
        perform loyalty_private.raise('LY002', 'no_such_provider', 'the program has no such provider', null,
            'An operator sets it: loyalty.set_identity_provider.', 'issuer');
    end if;
    return within;
end
$$;
comment on function loyalty_private.provider_of is 'The program, once it is sure that the provider is its. LY002.';

create function loyalty.link_subject(program text, issuer text, subject text, member_no text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := loyalty_private.provider_of(link_subject.program, link_subject.issuer);
    account bigint;
    person bigint;
begin
    if link_subject.subject is null or char_length(link_subject.subject) not between 1 and 255 then
        perform loyalty_private.raise('22023', 'subject_invalid', 'subject is invalid', null,
            'What the provider''s tokens have as sub, up to 255 characters.', 'subject');
    end if;
    select a.account_id, l.identity_id
      into account, person
      from loyalty.account a
      left join loyalty.identity_link l on l.account_id = a.account_id and l.relation = 'self' and l.ended_at is null
     where a.program_id = within and a.member_no = btrim(link_subject.member_no)
       for update of a;
    if account is null then
        perform loyalty_private.raise('LY002', 'no_such_member', 'no such member', null, 'member_no is in loyalty.member.', 'member_no');
    end if;
    if person is null then
        -- who logs in by the provider only needs neither login ID nor password here
        insert into loyalty.identity (state, created_at, changed_at)
        values ('active', loyalty.now(), loyalty.now())
        returning identity_id into person;
        insert into loyalty.identity_link (identity_id, account_id, program_id, linked_at)
        values (person, account, within, loyalty.now());
    end if;
    insert into loyalty.identity_provider_link as k (issuer, subject, identity_id, linked_at)
    values (link_subject.issuer, link_subject.subject, person, loyalty.now())
        on conflict (issuer, subject) do update set identity_id = excluded.identity_id, linked_at = excluded.linked_at;
    perform loyalty_private.audit('link_subject', within, person, account,
        jsonb_build_object('issuer', link_subject.issuer, 'subject', link_subject.subject));
    return jsonb_build_object('issuer', link_subject.issuer, 'subject', link_subject.subject, 'account_id', account);
end
$$;
comment on function loyalty.link_subject is
    'Says which member a provider''s person is; one who has no login here yet gets one that only the provider opens: {issuer, subject, account_id}. LY002, 22023.';

create function loyalty.unlink_subject(program text, issuer text, subject text) returns jsonb
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    within integer := loyalty_private.provider_of(unlink_subject.program, unlink_subject.issuer);
    person bigint;
begin
    delete from loyalty.identity_provider_link k
     where k.issuer = unlink_subject.issuer and k.subject = unlink_subject.subject
    returning k.identity_id into person;
    if person is null then
        perform loyalty_private.raise('LY002', 'not_linked', 'the subject is not linked', null,
            'issuer and subject are compared letter by letter.', 'subject');
    end if;
    perform loyalty_private.audit('unlink_subject', within, person,
        details => jsonb_build_object('issuer', unlink_subject.issuer, 'subject', unlink_subject.subject));
    return jsonb_build_object('issuer', unlink_subject.issuer, 'subject', unlink_subject.subject);
end
$$;
comment on function loyalty.unlink_subject is 'A provider''s person is no member any more, from the next request on: {issuer, subject}. LY002.';
