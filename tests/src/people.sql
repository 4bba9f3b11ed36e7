-- People around the ledger of rich.sql, to be run after it and a tick: whatever table that leaves
-- empty gets a row. Accounts are told by member_no.
do $$
declare
    spender bigint; guest bigint; person bigint; relative bigint; made jsonb; proposal loyalty.grant_proposal;
    somebody text;
begin
    perform loyalty.set_access_policy(program => 'coin', organisation_id => 'ACME', terms_version => '2026-04',
        site_url => 'https://coin.example.com', password_length => 10, family_relations => '{spouse,child}',
        family_access => 'spend', family_monthly_limit => 500, approval_above => 1000);
    perform loyalty.set_access_policy(program => 'mile', organisation_id => 'MILE', terms_version => '7',
        site_url => 'https://mile.example.com/app', allows_member_no => true);
    select a.account_id into spender
      from loyalty.account a join loyalty.program p using (program_id)
     where p.code = 'coin' and a.member_no = 'spender';
    select a.account_id into guest
      from loyalty.account a join loyalty.program p using (program_id)
     where p.code = 'coin' and a.member_no = 'receiver';
    perform loyalty.set_member('coin', 'spender', name => 'Sample', kana => 'さんぷる', birth_date => '1985-04-12');
    perform loyalty.issue_keys('coin', 'spender', 'K1', 'secret-1');
    perform loyalty.issue_keys('coin', 'receiver', 'K2', 'secret-2');
    -- one key tried in vain; a registration that goes on as far as the code
    perform loyalty.begin_registration('ACME', 'K2', 'wrong');
    made := loyalty.begin_registration('ACME', 'K2', 'secret-2');
    perform loyalty.choose_login(made ->> 'registration', 'receiver@example.com', 'coin2026abc', '2026-04');

    -- somebody who is registered and logged in; a wrong password
    insert into loyalty.identity (login_id, state, created_at, changed_at)
    values ('spender@example.com', 'active', loyalty.now(), loyalty.now())
    returning identity_id into person;
    perform loyalty_private.set_password(person, 'coin2026abc');
    insert into loyalty.identity_link (identity_id, account_id, program_id, terms_version, linked_at)
    select person, a.account_id, a.program_id, '2026-04', loyalty.now()
      from loyalty.account a
     where a.account_id = spender;
    perform loyalty.log_in('spender@example.com', 'coin2026abc', 'coin');
    perform loyalty.log_in('spender@example.com', 'wrong', 'coin');
    perform loyalty.apply_for_login('ACME', 'Nell', 'ネル', '1990-01-01', 'new', 'nell@example.com', 'nell@example.com',
        '090-1234-5679', true);

    -- family: invited, and one who has spent
    perform loyalty.invite_family(spender, 'spouse', 'Robin', '1986-01-01', 'robin@example.com');
    insert into loyalty.identity (login_id, state, created_at, changed_at)
    values ('kim@example.com', 'active', loyalty.now(), loyalty.now())
    returning identity_id into relative;
    perform loyalty_private.set_password(relative, 'coin2026abc');
    insert into loyalty.identity_link (identity_id, account_id, program_id, relation, terms_version, linked_at)
    select relative, a.account_id, a.program_id, 'child', '2026-04', loyalty.now()
      from loyalty.account a
     where a.account_id = spender;
    perform loyalty.spend_as_family(relative, spender, 7, 'an ice cream', 'f1');

    -- roles: given, offered; grants proposed, one of them approved by somebody else
    perform loyalty.give_role('coin', 'spender@example.com', 'granter', 5000);
    perform loyalty.give_role('coin', 'clerk@example.com', 'admin');
    perform loyalty.propose_grant(guest, 3000, 'for a book');
    proposal := loyalty.propose_grant(guest, 1500, 'for two');
    somebody := format('{"role": "loyalty_admin", "sub": "somebody else", "program": "coin", "exp": %s}',
        extract(epoch from clock_timestamp() + interval '1 hour')::bigint);
    perform set_config('request.jwt.claims', somebody, true),
            set_config('request.headers',
                json_build_object('authorization', 'Bearer ' || loyalty_private.sign_token(somebody))::text, true);
    set local role loyalty_admin;
    perform loyalty_api.approve_grant(proposal.proposal_id);
    reset role;
    perform set_config('request.jwt.claims', '', true), set_config('request.headers', '', true);
    insert into loyalty.granter_grant (account_id, operation_id, identity_id, program_id, month, points)
    select g.account_id, g.operation_id, person, a.program_id, '2025-07-01', g.points
      from loyalty.grant(guest, 12, 'by a granter') g
      join loyalty.account a using (account_id);
    -- a run that somebody still has to look at
    insert into loyalty.run_failure (run_id, program_id, account_id, code, message, failed_at)
    select r.run_id, r.program_id, spender, 'LY004', 'the account was suspended', loyalty.now()
      from loyalty.run r
      join loyalty.program p using (program_id)
     where p.code = 'coin'
     limit 1;

    perform loyalty.set_identity_provider('coin', 'https://id.example.com', 'points');
    perform loyalty.link_subject('coin', 'https://id.example.com', 'subject-1', 'spender');
end
$$;
