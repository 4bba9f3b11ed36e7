-- Arguments that fit no function of loyalty_api are answered in our words instead of
-- PostgREST's, which takes the one with a lone nameless json where nothing else fits. (No
-- function has a jsonb as its only argument, since PostgREST would give it the whole body.)
-- Of functions of one name PostgREST's page shows the one with the most arguments, then with the
-- comment that sorts last: the parenthesis sorts before every letter. One without arguments
-- would lose in any case, so its comment is here too.
do $$
declare
    function_name text;
    shown text;
begin
    for function_name, shown in
        select p.proname, max(pg_catalog.obj_description(p.oid, 'pg_proc')) filter (where p.pronargs = 0)
          from pg_catalog.pg_proc p
         where p.pronamespace = 'loyalty_api'::regnamespace
         group by p.proname
         order by 1
    loop
        execute pg_catalog.format(
            'create function loyalty_api.%1$I(json) returns void
                 language sql stable security definer set search_path = pg_catalog, pg_temp
                 return loyalty_private.api_arguments(%1$L);
             comment on function loyalty_api.%1$I(json) is %2$L',
            function_name, coalesce(shown, '(Tells the arguments of ' || function_name || '.)'));
    end loop;
end
$$;
