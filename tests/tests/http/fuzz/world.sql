-- More for the API's fuzzer to reach, on top of matrix.sql: members who can register, rules that
-- pay, a proposal, open service hours (the clock stands at noon).
update loyalty.access_policy p
   set organisation_id = g.code, terms_version = '2026-04', site_url = 'https://points.example.com',
       family_access = 'spend', approval_above = 1000
  from loyalty.program g
 where g.program_id = p.program_id;
select loyalty.issue_keys(g.code, a.member_no, 'K1-' || a.member_no, 'secret-1')
  from loyalty.account a
  join loyalty.program g on g.program_id = a.program_id;
select loyalty.create_rule('coin', 'manual', 'manual', '{"points": 100, "max_points": 1000}');
select loyalty.create_rule('coin', 'birthday', 'birthday', '{"points": 500, "day_of_month": 1}');
select loyalty.create_rule('coin', 'shop', 'purchase', '{"per_amount": 100, "points": 1, "rounding": "down"}');
select loyalty.set_member('coin', 'new-1', name => 'Newcomer', kana => 'ニューカマー', birth_date => '1990-01-01');
select loyalty.issue_keys('coin', 'new-1', 'K1', 'secret-1');
