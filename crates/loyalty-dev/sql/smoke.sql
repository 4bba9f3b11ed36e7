-- Whether an installed pg_loyalty works: a grant and a spend, a password, the books. Prints the version.
\set ON_ERROR_STOP on
\set QUIET on
set client_min_messages = warning;
create extension if not exists pg_loyalty;
do $$
declare
    account bigint;
    left_over bigint;
begin
    perform loyalty.create_program(code => 'smoke', name => 'Smoke Test', expiry => '30 days');
    perform loyalty.set_notice_sender(program => 'smoke', email => 'Smoke Test <points@example.com>');
    perform loyalty.enable_notices(program => 'smoke');
    perform loyalty.set_member(program => 'smoke', member_no => 'S-1', name => 'Aoki Yui', email => 'yui@example.com');
    select w.account_id into strict account from loyalty.account as w where w.member_no = 'S-1';
    perform loyalty.grant(account_id => account, points => 500, reason => 'smoke');
    perform loyalty.spend_fifo(account_id => account, points => 200, reason => 'smoke');
    select b.balance into strict left_over from loyalty.balance(account_id => account) as b;
    if left_over is distinct from 300 then
        raise exception 'the balance is %, not 300', left_over;
    end if;
    if exists (select from loyalty.verify()) then
        raise exception 'verify() complains';
    end if;
    if not loyalty_private.check_password('Blue-heron-7', loyalty_private.hash_password('Blue-heron-7')) then
        raise exception 'a password is not believed';
    end if;
end
$$;
select extversion from pg_extension where extname = 'pg_loyalty';
