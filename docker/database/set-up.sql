-- What a new database needs; done again after a first start that was cut short.
-- The passwords are read from files, which no list of processes shows.

\set ON_ERROR_STOP on
\set QUIET on
set client_min_messages = warning;
-- A password that is written to the log is none.
set log_statement = 'none';
set log_min_error_statement = 'panic';

create extension if not exists pg_cron;
create extension if not exists pg_loyalty;
select loyalty.install_schedules() \g /dev/null

select exists (select from pg_roles where rolname = 'mail_relay') as has_relay \gset
\if :has_relay
\else
create role mail_relay connection limit 10 in role loyalty_relay;
\endif

\if :has_passwords
\set authenticator `cat "$LOYALTY_SECRET_DIR/authenticator-password"`
\set relay `cat "$LOYALTY_SECRET_DIR/relay-password"`
alter role loyalty_authenticator login password :'authenticator';
alter role mail_relay login password :'relay';
\endif
-- Their calls carry passwords, codes and links: none of them into the log.
select loyalty.install_log_settings(login)
  from (values ('loyalty_authenticator'), ('mail_relay')) l (login) \g /dev/null
