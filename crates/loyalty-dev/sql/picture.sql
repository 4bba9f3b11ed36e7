begin;
set local timezone = 'Asia/Tokyo';
set local loyalty.clock = '2040-06-15 10:00+09';
\o /dev/null
select loyalty.create_program(code => 'picture', name => 'Sample Club', point_name => 'coin');
\o
select loyalty.open_account(program => 'picture', member_no => 'M-1') as account \gset
-- shown from here on
\set ECHO all
select kind, points, balance, lots
  from loyalty.grant(account_id => :account, points => 2000, reason => 'anniversary');
select kind, points, balance, lots
  from loyalty.grant(account_id => :account, points => 500, reason => 'campaign', expires_on => '2040-07-31');
select * from loyalty.explain_spend(account_id => :account, points => 800);
select kind, points, balance, lots
  from loyalty.spend_fifo(account_id => :account, points => 800, reason => 'lunch', idempotency_key => 'order-1');
select available, next_expiry_on, next_expiry_points from loyalty.balance(account_id => :account);
select * from loyalty.verify(program => 'picture');
