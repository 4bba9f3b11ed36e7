-- Whether what is around the extension is set up as it has to be. Passwords, codes and tokens
-- reach the server as parameters of statements, so the settings that a login's sessions have
-- decide whether they come into the server's log.

create function loyalty.log_settings()
    returns table (setting text, safe_value text, default_value text)
    language sql immutable set search_path = pg_catalog, pg_temp
begin atomic
    select s.setting, s.safe_value, s.default_value
      from (values
            -- log_statement, log_min_duration_statement and the like
            ('log_parameter_max_length', '0', '-1'),
            ('log_parameter_max_length_on_error', '0', '0'),
            -- the context of an error repeats the beginning of a body that is no JSON
            ('log_error_verbosity', 'terse', 'default'),
            -- plans have parameters in them as constants
            ('debug_print_plan', 'off', 'off'),
            ('auto_explain.log_min_duration', '-1', '-1'),
            -- also those of statements within functions
            ('pgaudit.log_parameter', 'off', 'off')
           ) s (setting, safe_value, default_value);
end;
comment on function loyalty.log_settings is
    'The settings that keep passwords, codes and tokens out of the server''s log, each with the value that does and the one it has by default.';

create function loyalty.install_log_settings(login text default 'loyalty_authenticator') returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    wanted record;
begin
    for wanted in
        select s.setting, s.safe_value,
               exists (select
                         from pg_catalog.pg_db_role_setting d
                         join pg_catalog.pg_database b on b.oid = d.setdatabase
                        where d.setrole = pg_catalog.to_regrole(pg_catalog.quote_ident(login))
                          and b.datname = pg_catalog.current_database()
                          and exists (select from unnest(d.setconfig) c (line)
                                       where pg_catalog.split_part(c.line, '=', 1) = s.setting)) as is_here
          from loyalty.log_settings() s
         order by s.setting
    loop
        execute pg_catalog.format('alter role %I set %s = %L', login, wanted.setting, wanted.safe_value);
        -- one for this database only would go before it
        if wanted.is_here then
            execute pg_catalog.format('alter role %I in database %I reset %s',
                login, pg_catalog.current_database(), wanted.setting);
        end if;
    end loop;
end
$$;
comment on function loyalty.install_log_settings is
    'Sets for a login what keeps passwords, codes and tokens of its calls out of the server''s log: for the login of PostgREST, of the relay, and of who calls log_in and the like from SQL. For superusers; safe to call again. Sessions have it from their next login on.';

create function loyalty.health()
    returns table (check_name text, is_ok boolean, detail text, hint text)
    language sql stable security definer set search_path = pg_catalog, pg_temp
begin atomic
    with login as (
        select r.oid, r.rolname
          from pg_roles r
         where r.rolname = 'loyalty_authenticator'
            or r.rolcanlogin and not r.rolsuper
               and (pg_has_role(r.oid, 'loyalty_authenticator', 'member')
                    or pg_has_role(r.oid, 'loyalty_relay', 'member'))
            -- whatever it logged in as
            or r.oid in (select a.usesysid
                           from pg_stat_activity a
                          where a.datname = current_database() and a.application_name like 'PostgREST %')
    ), told as (
        -- what sessions get when they log in, by role (0: all) and database (0: all)
        select d.setrole, d.setdatabase, lower(split_part(c.line, '=', 1)) as setting,
               substr(c.line, strpos(c.line, '=') + 1) as value
          from pg_db_role_setting d
          left join pg_database b on b.oid = d.setdatabase
         cross join unnest(d.setconfig) c (line)
         where d.setdatabase = 0 or b.datname = current_database()
    ), served as (
        -- what the server has for all; this session may have another
        select s.setting, s.safe_value,
               coalesce((select g.reset_val
                           from pg_settings g
                          where g.name = s.setting
                            and g.source in ('default', 'environment variable', 'configuration file',
                                             'command line', 'override')),
                        (select f.setting
                           from pg_file_settings f
                          where lower(f.name) = s.setting and f.error is null
                          order by f.seqno desc
                          limit 1),
                        s.default_value) as value
          from loyalty.log_settings() s
    ), in_force as (
        select l.rolname, s.setting, s.safe_value,
               coalesce((select t.value
                           from told t
                          where t.setting = s.setting and t.setrole in (0, l.oid)
                          order by t.setrole = 0, t.setdatabase = 0
                          limit 1),
                        s.value) as value
          from login l
         cross join served s
        union all
        -- PostgREST sets what is told to the role that a request becomes
        select r.rolname, s.setting, s.safe_value, t.value
          from told t
          join pg_roles r on r.oid = t.setrole and r.rolname like 'loyalty\_%'
          join served s on s.setting = t.setting
         where r.oid not in (select l.oid from login l)
    ), judged as (
        select f.rolname, f.setting, f.value,
               case f.safe_value
                   when 'off' then lower(f.value) in ('off', 'of', 'false', 'fals', 'fal', 'fa', 'f', 'no', 'n', '0')
                   else lower(f.value) = f.safe_value
               end as is_safe
          from in_force f
    )
    select 'secrets of ' || j.rolname || ' in the log',
           bool_and(j.is_safe),
           case when bool_and(j.is_safe) then 'Its parameters are not logged.'
                else 'Its parameters may be logged: '
                     || string_agg(format('%s is %s', j.setting, j.value), ', ' order by j.setting)
                            filter (where not j.is_safe) || '.'
           end,
           case when not bool_and(j.is_safe)
                then format('As a superuser: select loyalty.install_log_settings(%L). Then start its sessions again, as PostgREST, since they read settings when they log in.', j.rolname)
           end
      from judged j
     group by j.rolname
     order by j.rolname;
end;
comment on function loyalty.health is
    'Whether the set-up around the extension is as it has to be: a row for each check, which fails where is_ok is false. So far: whether the server''s log may see passwords, codes and tokens in the calls of PostgREST and the relay, by the settings in force for their logins.';

-- A new role is told at once; one that a DBA has told anything is the DBA's.
do $$
begin
    if exists (select from pg_catalog.pg_db_role_setting where setrole = 'loyalty_authenticator'::regrole) then
        return;
    end if;
    -- another database of the cluster may be at it
    lock table pg_catalog.pg_db_role_setting in share row exclusive mode;
    if not exists (select from pg_catalog.pg_db_role_setting where setrole = 'loyalty_authenticator'::regrole) then
        perform loyalty.install_log_settings();
    end if;
end
$$;
