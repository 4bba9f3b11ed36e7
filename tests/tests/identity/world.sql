-- Two programs whose members can register: coin asks what guide C12 asks of passwords; mile
-- asks for details (C11) and lets members in by member number (S8).
select loyalty.create_program(code => 'coin', name => 'コインプログラム', point_name => 'コイン');
select loyalty.create_program(code => 'mile', name => 'マイルクラブ', point_name => 'マイル');
select loyalty.set_notice_sender(program => 'coin', email => 'コイン事務局 <coin@example.com>', sms => 'COIN');
select loyalty.set_notice_sender(program => 'mile', email => 'mile@example.com', sms => 'MILE');
select loyalty.set_access_policy(program => 'coin', organisation_id => 'ACME', terms_version => '2026-04',
    terms_url => 'https://coin.example.com/terms', site_url => 'https://coin.example.com',
    password_length => 8, password_letters => 2, password_digits => 3, password_symbols => false);
select loyalty.set_access_policy(program => 'mile', organisation_id => 'MILE', terms_version => '7',
    site_url => 'https://mile.example.com/app', asks_details => true, allows_member_no => true);

-- hanako is a member of both
create table someone as
select g.*, (loyalty.set_member(g.program, g.member_no, g.name, g.kana, g.birth_date, language => g.language)).account_id
  from (values ('coin', 'ACME', 'H-1', '山田 花子', 'ヤマダ ハナコ', date '1985-04-12', 'ja', 'KH1', 'secret-H1'),
               ('coin', 'ACME', 'T-1', '鈴木 太郎', 'スズキ タロウ', '1990-11-03', 'ja', 'KT1', 'secret-T1'),
               ('coin', 'ACME', 'A-1', 'Ann Lee', 'アン リー', '1992-02-29', 'en', 'KA1', 'secret-A1'),
               ('mile', 'MILE', 'M-77', '山田 花子', 'ヤマダ ハナコ', '1985-04-12', 'ja', 'KM77', 'secret-M77'),
               ('mile', 'MILE', 'Z-1', 'Zoe Berg', 'ゾーイ・バーグ', '1978-07-07', 'en', 'KZ1', 'secret-Z1')
       ) as g (program, organisation_id, member_no, name, kana, birth_date, language, key_1, key_2);
select loyalty.issue_keys(s.program, s.member_no, s.key_1, s.key_2) from someone s;
select loyalty.grant(s.account_id, 1000) from someone s;

-- A person as registration leaves them, without going through it.
create function enrol(account_id bigint, login_id text, password text) returns bigint
    language plpgsql
as $$
declare
    made bigint;
begin
    insert into loyalty.identity (login_id, state, created_at, changed_at)
    values (loyalty_private.clean_login_id(enrol.login_id), 'active', loyalty.now(), loyalty.now())
    returning identity_id into made;
    perform loyalty_private.set_password(made, enrol.password);
    insert into loyalty.identity_link (identity_id, account_id, program_id, terms_version, linked_at)
    select made, a.account_id, a.program_id, '1', loyalty.now()
      from loyalty.account a
     where a.account_id = enrol.account_id;
    return made;
end
$$;
