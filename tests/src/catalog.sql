-- What the extension pg_loyalty has put into the catalog: a line for each property of each object.
-- Nothing in it depends on object numbers, on the order of grants, or on how it came about.
with member as (
    select d.classid, d.objid
      from pg_catalog.pg_depend d
      join pg_catalog.pg_extension e on d.refclassid = 'pg_catalog.pg_extension'::regclass and d.refobjid = e.oid
     where e.extname = 'pg_loyalty' and d.deptype = 'e'
), relation as (
    select c.*, c.oid::regclass::text as name
      from member m
      join pg_catalog.pg_class c on m.classid = 'pg_catalog.pg_class'::regclass and c.oid = m.objid
), index_of as (
    select i.*, c.relname, c.reloptions, c.oid, format('index %I on %s', c.relname, r.name) as name
      from relation r
      join pg_catalog.pg_index i on i.indrelid = r.oid
      join pg_catalog.pg_class c on c.oid = i.indexrelid
), routine as (
    select p.*, format('routine %s', p.oid::regprocedure) as name
      from member m
      join pg_catalog.pg_proc p on m.classid = 'pg_catalog.pg_proc'::regclass and p.oid = m.objid
), type as (
    select t.*, format('type %s', t.oid::regtype) as name
      from member m
      join pg_catalog.pg_type t on m.classid = 'pg_catalog.pg_type'::regclass and t.oid = m.objid
), room as (
    select n.*, format('schema %I', n.nspname) as name
      from member m
      join pg_catalog.pg_namespace n on m.classid = 'pg_catalog.pg_namespace'::regclass and n.oid = m.objid
), column_of as (
    select r.oid, r.name as relation, a.*, format('column %s.%I', r.name, a.attname) as name,
           row_number() over (partition by r.oid order by a.attnum) as place
      from (select oid, name from relation where relkind <> 'S'
            union all select t.typrelid, t.oid::regtype::text from type t where t.typtype = 'c') r (oid, name)
      join pg_catalog.pg_attribute a on a.attrelid = r.oid
     where a.attnum > 0 and not a.attisdropped
), owned (classid, objid, objsubid, name, kind, owner, acl) as (
    select 'pg_catalog.pg_class'::regclass, oid, 0, 'relation ' || name,
           case when relkind = 'S' then 's' else 'r' end::"char", relowner, relacl from relation
    union all select 'pg_catalog.pg_proc'::regclass, oid, 0, name, 'f', proowner, proacl from routine
    union all select 'pg_catalog.pg_type'::regclass, oid, 0, name, 'T', typowner, typacl from type
    union all select 'pg_catalog.pg_namespace'::regclass, oid, 0, name, 'n', nspowner, nspacl from room
), commented (classid, objid, objsubid, name) as (
    select classid, objid, objsubid, name from owned
    union all select 'pg_catalog.pg_class'::regclass, oid, attnum, name from column_of
    union all select 'pg_catalog.pg_class'::regclass, oid, 0, name from index_of
    union all select 'pg_catalog.pg_constraint'::regclass, c.oid, 0, format('constraint %I on %s', c.conname, r.name)
      from relation r join pg_catalog.pg_constraint c on c.conrelid = r.oid
    union all select 'pg_catalog.pg_trigger'::regclass, t.oid, 0, format('trigger %I on %s', t.tgname, r.name)
      from relation r join pg_catalog.pg_trigger t on t.tgrelid = r.oid where not t.tgisinternal
    union all select 'pg_catalog.pg_policy'::regclass, p.oid, 0, format('policy %I on %s', p.polname, r.name)
      from relation r join pg_catalog.pg_policy p on p.polrelid = r.oid
), granted (name, aspect, kind, owner, acl) as (
    select name, 'granted', kind, owner, acl from owned
    union all
    -- what pg_dump compares with, to dump only what users granted
    select o.name, 'granted at first', o.kind, o.owner, i.initprivs
      from owned o
      left join pg_catalog.pg_init_privs i
        on (i.objoid, i.classoid, i.objsubid, i.privtype) = (o.objid, o.classid, 0, 'e')
    union all
    select c.name, 'granted', null, null, c.attacl from column_of c where c.attacl is not null
    union all
    select c.name, 'granted at first', null, null, i.initprivs
      from column_of c
      join pg_catalog.pg_init_privs i
        on (i.objoid, i.classoid, i.objsubid, i.privtype)
           = (c.oid, 'pg_catalog.pg_class'::regclass, c.attnum, 'e')
), line (object, aspect, value) as (
    select (pg_catalog.pg_identify_object(classid, objid, 0)).type || ' '
           || (pg_catalog.pg_identify_object(classid, objid, 0)).identity, 'is there', 'yes'
      from member
    union all
    select name, 'owner', owner::regrole::text from owned
    union all
    select name, 'comment', coalesce(pg_catalog.col_description(objid, nullif(objsubid, 0)),
                                     pg_catalog.obj_description(objid, classid::regclass::name))
      from commented
    union all
    select g.name, g.aspect,
           (select string_agg(format('%s to %s by %s%s', x.privilege_type,
                       case x.grantee when 0 then 'public' else x.grantee::regrole::text end,
                       x.grantor::regrole, case when x.is_grantable then ' with grant option' end),
                       e'\n' order by x.privilege_type, x.grantee::regrole::text, x.grantor::regrole::text)
              from pg_catalog.aclexplode(
                       coalesce(g.acl, case when g.kind is not null then pg_catalog.acldefault(g.kind, g.owner) end)) x)
      from granted g

    union all
    select 'relation ' || r.name, 'storage',
           format('kind %s, persistence %s, method %s, tablespace %s, identity %s, options %s, toast %s',
                  r.relkind, r.relpersistence, (select amname from pg_catalog.pg_am where oid = r.relam),
                  r.reltablespace, r.relreplident,
                  (select array_agg(o order by o) from unnest(r.reloptions) o),
                  (select array_agg(o order by o) from pg_catalog.pg_class t, unnest(t.reloptions) o
                    where t.oid = r.reltoastrelid))
      from relation r
    union all
    select 'relation ' || r.name, 'row security',
           format('%s, forced %s', r.relrowsecurity, r.relforcerowsecurity)
      from relation r where r.relkind in ('r', 'p')
    union all
    select 'relation ' || r.name, 'inherits', i.inhparent::regclass::text
      from relation r join pg_catalog.pg_inherits i on i.inhrelid = r.oid
    union all
    select 'relation ' || r.name, 'query', pg_catalog.pg_get_viewdef(r.oid)
      from relation r where r.relkind in ('v', 'm')
    union all
    select format('rule %I on %s', u.rulename, r.name), 'definition',
           pg_catalog.pg_get_ruledef(u.oid) || u.ev_enabled::text
      from relation r join pg_catalog.pg_rewrite u on u.ev_class = r.oid where r.relkind in ('r', 'p')
    union all
    select 'relation ' || r.name, 'sequence',
           (select to_jsonb(s) - 'seqrelid' || jsonb_build_object('type', s.seqtypid::regtype)
              from pg_catalog.pg_sequence s where s.seqrelid = r.oid)::text
           || coalesce((select format(' of %s, %s', pg_catalog.pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid), d.deptype)
                          from pg_catalog.pg_depend d
                         where (d.classid, d.objid) = ('pg_catalog.pg_class'::regclass, r.oid)
                           and d.deptype in ('a', 'i')), '')
      from relation r where r.relkind = 'S'

    union all
    select c.name, 'definition',
           format('place %s, %s collate %s, not null %s, default %s, identity "%s", generated "%s", storage %s, compression "%s", statistics %s, options %s',
                  c.place, pg_catalog.format_type(c.atttypid, c.atttypmod), c.attcollation::regcollation,
                  c.attnotnull, pg_catalog.pg_get_expr(d.adbin, d.adrelid), c.attidentity, c.attgenerated,
                  c.attstorage, c.attcompression, nullif(c.attstattarget, -1),
                  -- some builds of PostgreSQL number the versions of a column there
                  (select array_agg(o order by o) from unnest(c.attoptions) o where o not like 'pg\_attver=%'))
      from column_of c
      left join pg_catalog.pg_attrdef d on (d.adrelid, d.adnum) = (c.oid, c.attnum)
    union all
    select format('constraint %I on %s', c.conname, r.name), 'definition',
           format('%s %s, validated %s, index %s', c.contype, pg_catalog.pg_get_constraintdef(c.oid),
                  c.convalidated, c.conindid::regclass)
      from relation r join pg_catalog.pg_constraint c on c.conrelid = r.oid
    union all
    select i.name, 'definition',
           format('%s, valid %s, clustered %s, identity %s, options %s', pg_catalog.pg_get_indexdef(i.oid),
                  i.indisvalid, i.indisclustered, i.indisreplident, i.reloptions)
      from index_of i
    union all
    select format('trigger %I on %s', t.tgname, r.name), 'definition',
           pg_catalog.pg_get_triggerdef(t.oid) || ', enabled ' || t.tgenabled::text
      from relation r join pg_catalog.pg_trigger t on t.tgrelid = r.oid where not t.tgisinternal
    union all
    -- the triggers of foreign keys have numbers for names
    select 'relation ' || r.name, 'foreign keys fire',
           string_agg(format('%s %s', c.conname, t.tgenabled), ', ' order by c.conname, t.tgtype, t.tgenabled)
      from relation r
      join pg_catalog.pg_trigger t on t.tgrelid = r.oid
      join pg_catalog.pg_constraint c on c.oid = t.tgconstraint
     where t.tgisinternal
     group by r.name
    union all
    select format('policy %I on %s', p.polname, r.name), 'definition',
           format('%s, permissive %s, to %s using %s check %s', p.polcmd, p.polpermissive,
                  (select array_agg(case role when 0 then 'public' else role::regrole::text end order by role::regrole::text)
                     from unnest(p.polroles) role),
                  pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
      from relation r join pg_catalog.pg_policy p on p.polrelid = r.oid
    union all
    select format('statistics %s on %s', s.stxname, r.name), 'definition', pg_catalog.pg_get_statisticsobjdef(s.oid)
      from relation r join pg_catalog.pg_statistic_ext s on s.stxrelid = r.oid
    union all
    select format('publication %I', p.pubname), 'tables', r.name
      from relation r
      join pg_catalog.pg_publication_rel l on l.prrelid = r.oid
      join pg_catalog.pg_publication p on p.oid = l.prpubid

    union all
    select r.name, 'definition',
           case r.prokind when 'a' then r.proargtypes::regtype[]::text else pg_catalog.pg_get_functiondef(r.oid) end
      from routine r
    union all
    select t.name, 'definition',
           format('%s, %s, not null %s, default %s, base %s, in %s, out %s, receive %s, send %s, length %s, passed by value %s, alignment %s, storage %s, collation %s, category %s, labels %s',
                  t.typtype, t.typname, t.typnotnull, t.typdefault, t.typbasetype::regtype, t.typinput, t.typoutput,
                  t.typreceive, t.typsend, t.typlen, t.typbyval, t.typalign, t.typstorage, t.typcollation, t.typcategory,
                  (select array_agg(e.enumlabel order by e.enumsortorder) from pg_catalog.pg_enum e where e.enumtypid = t.oid))
      from type t
    union all
    select format('constraint %I on %s', c.conname, t.name), 'definition', pg_catalog.pg_get_constraintdef(c.oid)
      from type t join pg_catalog.pg_constraint c on c.contypid = t.oid
    union all
    select format('cast (%s as %s)', c.castsource::regtype, c.casttarget::regtype), 'definition',
           format('%s, %s, %s', c.castfunc::regprocedure, c.castcontext, c.castmethod)
      from member m
      join pg_catalog.pg_cast c on m.classid = 'pg_catalog.pg_cast'::regclass and c.oid = m.objid
    union all
    -- which kinds of objects the lines above know
    select 'kinds of objects', m.classid::regclass::text, 'described'
      from member m
     where m.classid not in ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_proc'::regclass,
                             'pg_catalog.pg_type'::regclass, 'pg_catalog.pg_cast'::regclass,
                             'pg_catalog.pg_namespace'::regclass)
    union all
    select format('default privileges in %s', r.name), d.defaclobjtype::text, d.defaclacl::text
      from room r join pg_catalog.pg_default_acl d on d.defaclnamespace = r.oid

    union all
    select 'extension', 'version', e.extversion || ' in ' || n.nspname || ', relocatable ' || e.extrelocatable
      from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
     where e.extname = 'pg_loyalty'
    union all
    select 'relation ' || t.relation::regclass, 'dumped', '(' || t.condition || ')'
      from pg_catalog.pg_extension e,
           unnest(e.extconfig, e.extcondition) t (relation, condition)
     where e.extname = 'pg_loyalty'

    -- the roles are the cluster's, and the extension's doing
    union all
    select 'role ' || rolname, 'definition',
           (to_jsonb(r) - '{oid,rolpassword,rolconfig,rolcanlogin}'::text[])::text
      from pg_catalog.pg_roles r where rolname like 'loyalty\_%'
    union all
    select 'role ' || m.member::regrole, 'member of ' || m.roleid::regrole,
           (to_jsonb(m) - '{oid,roleid,member,grantor}'::text[])::text
      from pg_catalog.pg_auth_members m where m.member::regrole::text like 'loyalty\_%'
    union all
    select 'parameter ' || p.parname, 'granted',
           string_agg(x.privilege_type || ' to ' || x.grantee::regrole, e'\n' order by x.privilege_type, x.grantee::regrole::text)
      from pg_catalog.pg_parameter_acl p, pg_catalog.aclexplode(p.paracl) x
     where p.parname like 'loyalty.%'
     group by p.parname
)
select object, aspect, value from line
