-- Rows of each owner in every table that anybody may read: Ann and Bob of program coin, Zoe of
-- program mile, and what belongs to the programs themselves.
select loyalty.create_program(code, initcap(code)) from unnest('{coin,mile}'::text[]) code;
select loyalty.set_member(program, member_no, name => initcap(member_no), email => member_no || '@example.com')
  from (values ('coin', 'ann'), ('coin', 'bob'), ('mile', 'zoe')) as g (program, member_no);
do $$
declare
    own record;
    within loyalty.program;
    made bigint;
    spent bigint;
    kin bigint;
    staff bigint;
    duty text;
begin
    for within in select * from loyalty.program loop
        perform loyalty.set_notice_sender(within.code, email => within.code || '@example.com');
        perform loyalty.enable_notices(within.code);
        perform loyalty.set_template(within.code, 'balance', 'en', 'Yours', 'You have {{ points }}.');
        perform loyalty.set_service_hours(within.code, '02:00', '05:00');
        perform loyalty.create_rule(within.code, 'referral', 'event',
            '{"event": "referral", "points": 50, "months_after": 1, "day_of_month": 15}');
        insert into loyalty.run (program_id, job, kind, period, effective_on, started_at)
        values (within.program_id, 'expire', 'expire', '2026-06-14', '2026-06-14', loyalty.now())
        returning run_id into made;
        insert into loyalty.run_failure (run_id, program_id, account_id, code, message, failed_at)
        select made, a.program_id, a.account_id, 'LY004', 'closed', loyalty.now()
          from loyalty.account a where a.program_id = within.program_id;
        insert into loyalty.identity_provider (issuer, audience, program_id, created_at)
        values ('https://id.example.com/' || within.code, 'points', within.program_id, loyalty.now());
        insert into loyalty.access_policy (program_id, organisation_id, family_relations, family_access)
        values (within.program_id, within.code, '{child,spouse}', 'spend');
    end loop;
    for own in
        select a.*, p.code from loyalty.account a join loyalty.program p on p.program_id = a.program_id
         order by a.account_id
    loop
        perform loyalty.grant(own.account_id, 1000);
        perform loyalty.grant(own.account_id, 1000, expires_on => '2026-06-30', funding => 'shop');
        spent := (loyalty.spend_fifo(own.account_id, 10)).operation_id;
        perform loyalty.hold(own.account_id, 10);
        perform loyalty.record_event(own.code, 'referral', own.member_no, reference => own.member_no);
        perform loyalty.set_notice_preference(own.account_id, 'expiry', false);
        perform loyalty.announce_order(own.account_id, 'A-1', 'Voucher', 1, 5);
        insert into loyalty.identity (login_id, state, created_at, changed_at)
        values (own.member_no || '@example.com', 'active', loyalty.now(), loyalty.now())
        returning identity_id into made;
        insert into loyalty.identity_link (identity_id, account_id, program_id, linked_at)
        values (made, own.account_id, own.program_id, loyalty.now());
        perform loyalty_private.set_password(made, 'abcdef1234');
        perform loyalty.start_session(made, own.program_id, 'member', own.account_id, false);
        perform loyalty_private.new_challenge('password_reset', own.program_id, made, own.account_id, 'x@example.com');
        perform loyalty_private.audit('log_in', own.program_id, made, own.account_id);
        insert into loyalty.login_application (program_id, account_id, identity_id, member_no, name, kana, birth_date,
                                               login_id, phone, differs, applied_at)
        values (own.program_id, own.account_id, made, own.member_no, 'A', 'A', '1990-01-01', 'new@example.com', '1', '{}',
                loyalty.now());
        insert into loyalty.identity_provider_link (issuer, subject, identity_id, linked_at)
        values ('https://id.example.com/' || own.code, own.member_no, made, loyalty.now());
        -- a child, who spent what the member did above
        insert into loyalty.identity (login_id, state, created_at, changed_at)
        values ('child-of-' || own.member_no || '@example.com', 'active', loyalty.now(), loyalty.now())
        returning identity_id into kin;
        insert into loyalty.identity_link (identity_id, account_id, program_id, relation, linked_at)
        values (kin, own.account_id, own.program_id, 'child', loyalty.now());
        insert into loyalty.family (account_id, program_id, relation, name, birth_date, address, invited_at, expires_at,
                                    approved_at, registered_at, identity_id)
        values (own.account_id, own.program_id, 'child', 'Kim', '2010-01-01', 'child-of-' || own.member_no || '@example.com',
                loyalty.now(), loyalty.now() + interval '1 day', loyalty.now(), loyalty.now(), kin);
        perform loyalty.start_session(kin, own.program_id, 'family', own.account_id, false);
        insert into loyalty.family_spend (account_id, operation_id, identity_id, month, points)
        values (own.account_id, spent, kin, '2026-06-01', 10);
    end loop;
    foreach duty in array '{granter,admin}'::text[] loop
        for within in select * from loyalty.program loop
            insert into loyalty.identity (login_id, state, created_at, changed_at)
            values (format('%s-of-%s@example.com', duty, within.code), 'active', loyalty.now(), loyalty.now())
            returning identity_id into staff;
            insert into loyalty.program_role (program_id, role, identity_id, login_id, given_at, given_by, accepted_at)
            values (within.program_id, duty, staff, format('%s-of-%s@example.com', duty, within.code), loyalty.now(),
                    'postgres', loyalty.now());
            perform loyalty.start_session(staff, within.program_id, duty, null, false);
            insert into loyalty.granter_grant (account_id, operation_id, identity_id, program_id, month, points)
            select e.account_id, e.account_id << 24 | e.entry, staff, within.program_id, '2026-06-01', e.points
              from loyalty.entry e
              join loyalty.account a on a.account_id = e.account_id and a.program_id = within.program_id
             where e.kind = 'grant' and duty = 'granter';
            insert into loyalty.grant_proposal (account_id, program_id, points, proposed_at, proposed_by)
            select a.account_id, a.program_id, 5, loyalty.now(), 'loyalty_admin:identity:' || staff
              from loyalty.account a where a.program_id = within.program_id and duty = 'admin';
        end loop;
    end loop;
    perform loyalty.notice_failed(c.notice_id, c.attempt, '550 no', true) from loyalty.lease_notices(100) c;
end
$$;
