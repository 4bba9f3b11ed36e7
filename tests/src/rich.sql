-- A ledger in which everything has happened at least once. Account numbers are told by
-- member_no; the test clock is left at 2025-07-10.
do $$
declare
    a bigint; b bigint; op loyalty.receipt; op2 loyalty.receipt;
begin
    perform set_config('loyalty.clock', '2025-01-10 10:00+09', false);
    perform loyalty.create_program('coin', 'Coin club');
    perform loyalty.create_program('mile', 'Mile club', 'mile', 'America/New_York', 'none', '180 days', 30);
    perform loyalty.create_program('stay', 'Stay club', 'night', 'Europe/Berlin', 'none', 'after 6 months of inactivity');
    perform loyalty.create_calendar('office', 'JP', true);
    perform loyalty.set_calendar_day('office', '2025-08-13', false, 'summer closure');

    -- several lots of two funders; spends over more than one lot; refunds in parts
    a := loyalty.open_account('coin', 'spender');
    perform loyalty.grant(a, 100, 'first', expires_on => '2025-03-31', idempotency_key => 'g1');
    perform loyalty.grant(a, 50, 'first', expires_on => '2025-12-31');
    perform loyalty.grant(a, 70, 'shop', expires_on => '2025-12-31', funding => 'shop');
    perform loyalty.grant(a, 500, 'default');
    perform loyalty.grant(a, 30, 'for ever', expiry => 'never');
    op := loyalty.spend_fifo(a, 210, 'three lots', 's1');
    perform loyalty.refund(a, op.operation_id, 40, 'part');
    perform loyalty.refund(a, op.operation_id, 60, 'part');
    op := loyalty.spend_fifo(a, 20, 'one lot');
    perform loyalty.refund(a, op.operation_id);

    -- holds: captured in part, released, past its time, two open
    a := loyalty.open_account('coin', 'holder');
    perform loyalty.grant(a, 300, expires_on => '2025-02-28');
    perform loyalty.grant(a, 300, expires_on => '2025-09-30');
    op := loyalty.hold(a, 350, '1 day', 'captured');
    perform loyalty.capture(a, op.operation_id, 320);
    op := loyalty.hold(a, 10, '1 day', 'released');
    perform loyalty.release(a, op.operation_id);
    perform loyalty.hold(a, 15, '1 hour', 'past its time');
    perform set_config('loyalty.clock', '2025-01-12 10:00+09', false);
    perform loyalty.hold(a, 25, '300 days', 'open', 'h1');
    perform loyalty.hold(a, 200, '300 days', 'open');

    -- claw-back
    a := loyalty.open_account('coin', 'debtor');
    op := loyalty.grant(a, 100, 'to be revoked', expires_on => '2025-12-31');
    perform loyalty.spend_fifo(a, 80);
    perform loyalty.revoke(a, op.operation_id, policy => 'debt');
    op2 := loyalty.grant(a, 30, 'repays');
    a := loyalty.open_account('coin', 'clamped');
    op := loyalty.grant(a, 100, 'to be revoked', expires_on => '2025-12-31');
    perform loyalty.spend_fifo(a, 60);
    perform loyalty.revoke(a, op.operation_id, 70);
    perform loyalty.revoke(a, op.operation_id, 10);

    -- transfers both ways
    a := loyalty.open_account('coin', 'sender');
    b := loyalty.open_account('coin', 'receiver');
    perform loyalty.grant(a, 100, expires_on => '2025-08-31');
    perform loyalty.grant(a, 100, expires_on => '2026-08-31');
    perform loyalty.transfer(a, b, 150, 'present', 't1');
    perform loyalty.transfer(b, a, 20, 'back');
    perform loyalty.spend_fifo(b, 10);

    -- accounts in other states
    perform loyalty.open_account('coin', 'empty');
    a := loyalty.open_account('coin', 'closed');
    perform loyalty.grant(a, 100);
    perform loyalty.close_account(a, true, 'leaves');
    a := loyalty.open_account('coin', 'suspended');
    perform loyalty.grant(a, 100);
    perform loyalty.suspend_account(a);

    -- refunds after the day: forfeited in one program, with grace in the other
    a := loyalty.open_account('coin', 'late');
    perform loyalty.grant(a, 90, expires_on => '2025-01-31');
    perform loyalty.grant(a, 90, expires_on => '2025-11-30');
    op := loyalty.spend_fifo(a, 120, 'over two lots');
    b := loyalty.open_account('mile', 'late');
    perform loyalty.grant(b, 90);
    op2 := loyalty.spend_fifo(b, 40);
    perform set_config('loyalty.clock', '2025-02-10 10:00+09', false);
    perform loyalty.refund(a, op.operation_id);
    perform set_config('loyalty.clock', '2025-07-10 10:00+09', false);
    perform loyalty.refund(b, op2.operation_id, 25);

    -- breakage booked, and not yet
    a := loyalty.open_account('coin', 'lapsed');
    perform set_config('loyalty.clock', '2025-03-01 10:00+09', false);
    perform loyalty.grant(a, 11, expires_on => '2025-03-31');
    perform loyalty.grant(a, 12, expires_on => '2025-04-30');
    perform loyalty.grant(a, 13, expires_on => '2025-05-31');
    perform loyalty.grant(a, 14, expires_on => '2025-12-31');
    perform set_config('loyalty.clock', '2025-05-02 10:00+09', false);
    perform loyalty.expire('coin');
    perform set_config('loyalty.clock', '2025-06-02 10:00+09', false);
    perform loyalty.spend_fifo(a, 3);

    -- inactivity: extended, held, refunded, lapsed and begun anew
    perform set_config('loyalty.clock', '2025-01-10 10:00+09', false);
    a := loyalty.open_account('stay', 'guest');
    perform loyalty.grant(a, 100);
    perform set_config('loyalty.clock', '2025-02-10 10:00+09', false);
    op := loyalty.spend_fifo(a, 10);
    perform loyalty.hold(a, 20, '300 days');
    perform set_config('loyalty.clock', '2025-03-10 10:00+09', false);
    perform loyalty.grant(a, 5, expires_on => '2025-04-30');
    perform loyalty.refund(a, op.operation_id);
    b := loyalty.open_account('stay', 'returned');
    perform set_config('loyalty.clock', '2025-01-10 10:00+09', false);
    perform loyalty.grant(b, 100);
    perform set_config('loyalty.clock', '2025-07-20 10:00+09', false);
    perform loyalty.grant(b, 50);
    perform set_config('loyalty.clock', '2025-07-10 10:00+09', false);

    perform loyalty.grant_many(jsonb_agg(jsonb_build_object(
               'account_id', loyalty.open_account('coin', 'many ' || n),
               'points', n * 10, 'idempotency_key', 'bulk')))
       from generate_series(1, 20) n;
    perform loyalty.spend_many(jsonb_agg(jsonb_build_object(
               'account_id', loyalty.open_account('coin', 'many ' || n), 'points', n)))
       from generate_series(1, 20) n;

    -- notices: sent, given up, failed once, waiting, refused; an own text
    perform loyalty.set_notice_sender('mile', email => 'Mile club <mile@example.com>',
        preferences_url => 'https://example.com/me', max_attempts => 3);
    perform loyalty.enable_notices('mile');
    perform loyalty.set_notice('mile', 'balance', days_of_month => '{11,31}', at => '06:00');
    perform loyalty.set_template('mile', 'balance', 'en', 'Yours', 'You have {{ points | number }}.');
    perform loyalty.set_member('mile', 'late', name => 'Late Comer', email => 'late@example.com', language => 'en');
    b := loyalty.open_account('mile', 'late');
    perform loyalty.set_notice_preference(b, 'expiry', false);
    for n in 1..4 loop
        perform loyalty.announce_order(b, 'A-' || n, 'Night''s stay', n, 40);
    end loop;
    perform loyalty.notice_sent(c.notice_id, c.attempt) from loyalty.lease_notices(1) c;
    perform loyalty.notice_failed(c.notice_id, c.attempt, '550 no', true) from loyalty.lease_notices(1) c;
    perform loyalty.notice_failed(c.notice_id, c.attempt, '451 later', false) from loyalty.lease_notices(1) c;
    perform loyalty.grant(b, 7, 'announced');

    -- rules: changed, ended; events to be paid, canceled, paid at once
    perform loyalty.create_rule('coin', 'anniversary', 'anniversary', '{"fact": "first_service_on", "every_years": 1,
        "points": 2000, "day_of_month": 15, "cut_off": {"fact_until": "2024-06-01", "first_month": "2025-05"}}', 'Years');
    perform loyalty.change_rule('coin', 'anniversary', from_day => '2026-01-01', title => 'More years', expiry => '1 year');
    perform loyalty.create_rule('coin', 'referral', 'event',
        '{"event": "referral", "points": 5000, "months_after": 1, "day_of_month": 15}');
    perform loyalty.end_rule('coin', 'referral', '2026-12-31');
    perform loyalty.create_rule('coin', 'rate', 'purchase', '{"per_amount": 100, "points": 1, "rounding": "down"}');
    perform loyalty.set_member('coin', 'buyer', facts => '{"first_service_on": "2024-08-31"}');
    perform loyalty.set_member('coin', 'friend');
    perform loyalty.record_event('coin', 'referral', 'buyer', 'friend', reference => 'c1');
    perform loyalty.record_event('coin', 'referral', 'friend', reference => 'c2');
    -- more points than the next, so that its revoke is of no other grant
    perform loyalty.record_event('coin', 'purchase', 'buyer', amount => 1000, reference => 'o2');
    perform loyalty.record_event('coin', 'purchase', 'buyer', amount => 999.99, reference => 'o1');
    perform loyalty.cancel_event(e.event_id, 'sent back') from loyalty.event e where e.reference in ('c2', 'o2');
end
$$;

-- a roster, and hours in which HTTP is closed
do $$
begin
    perform from loyalty.import_members('coin',
        E'member_no,name,kana,email,phone,team\nspender,Sample,さんぷる,s@example.com,090-1234-5678,A\nnew,Nell,,,,\n');
    perform loyalty.set_service_hours('coin', '02:00', '05:00');
end
$$;
