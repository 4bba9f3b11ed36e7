//! What the catalog says of both schemas: pinned search paths, who may call what, comments.

use anyhow::Result;
use loyalty_testkit::TestDb;
use tokio_postgres::Client;

const SCHEMAS: &str = "(select oid from pg_catalog.pg_namespace where nspname in ('loyalty', 'loyalty_api', 'loyalty_private'))";

async fn names(client: &Client, query: &str) -> Result<Vec<String>> {
    let rows = client
        .query(&query.replace("SCHEMAS", SCHEMAS), &[])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[tokio::test]
async fn definers_pin_their_search_path() -> Result<()> {
    let db = TestDb::create("cat_definer").await?;
    let client = db.connect().await?;
    let query = "select p.oid::regprocedure::text from pg_catalog.pg_proc p
                  where p.pronamespace in SCHEMAS and p.prosecdef
                    and not coalesce(p.proconfig @> '{\"search_path=pg_catalog, pg_temp\"}', false)";
    assert_eq!(names(&client, query).await?, [""; 0]);
    // so do those with a plain-text body that run as who calls
    let query = "select p.proname::text from pg_catalog.pg_proc p
                   join pg_catalog.pg_language l on l.oid = p.prolang
                  where p.pronamespace in SCHEMAS and l.lanname in ('plpgsql', 'sql')
                    and p.prosqlbody is null
                    and not coalesce(p.proconfig @> '{\"search_path=pg_catalog, pg_temp\"}', false)
                  order by 1";
    // a procedure with a SET clause cannot commit; is_time_zone names everything in full
    assert_eq!(names(&client, query).await?, ["is_time_zone", "tick"]);
    Ok(())
}

#[tokio::test]
async fn who_may_call_what() -> Result<()> {
    let db = TestDb::create("cat_execute").await?;
    let client = db.connect().await?;
    let granted_to = async |grantee: &str| {
        let query = format!(
            "select p.oid::regprocedure::text collate \"C\" from pg_catalog.pg_proc p,
                    pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
              where p.pronamespace in ('loyalty'::regnamespace, 'loyalty_private'::regnamespace)
                and a.grantee <> p.proowner and a.privilege_type = 'EXECUTE'
                and a.grantee = {grantee}
              order by 1"
        );
        names(&client, &query).await
    };
    // plain rules that read no ledger
    assert_eq!(
        granted_to("0").await?,
        [
            "loyalty.business_day_of_month(date,integer,text)",
            "loyalty.expires_on(loyalty.expiry_policy,date)",
            "loyalty.is_business_day(date,text)",
            "loyalty.is_time_zone(text)",
            "loyalty.next_business_15th(date,text)",
            "loyalty.next_business_day(date,text)",
            "loyalty.now()",
        ]
    );
    // what a request begins with
    let asking = [
        "loyalty.check_request()",
        "loyalty.exchange_token()",
        "loyalty.look_at_request()",
        "loyalty.pre_request()",
    ];
    // the points of one account, by who asks
    let points = [
        "loyalty.claim(text)",
        "loyalty.claim_account_id()",
        "loyalty.claim_program_id()",
        "loyalty.csv_cell(text)",
        "loyalty.own_balance(bigint)",
        "loyalty.own_lots(bigint)",
    ];
    let notice = "loyalty.notice_state(integer,timestamp with time zone,timestamp with time zone,timestamp with time zone)";
    let of_member = [
        "loyalty.family_login_id(bigint)",
        "loyalty.family_state(timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone)",
        "loyalty.notice_kinds()",
        notice,
    ];
    let of_admin = [
        "loyalty.login_id_in_role(bigint)",
        "loyalty.notice_kinds()",
        notice,
        "loyalty.proposal_state(timestamp with time zone,bigint)",
        "loyalty.role_state(timestamp with time zone,timestamp with time zone)",
    ];
    for (role, more) in [
        ("loyalty_anon", vec![]),
        ("loyalty_granter", vec![]),
        (
            "loyalty_family",
            [&points[..], &["loyalty.family_account_id()"]].concat(),
        ),
        ("loyalty_member", [&points[..], &of_member].concat()),
        ("loyalty_admin", [&points[..], &of_admin].concat()),
    ] {
        let mut expected = [&asking[..], &more].concat();
        expected.sort_unstable();
        let granted = granted_to(&format!("'{role}'::regrole")).await?;
        assert_eq!(granted, expected, "{role}");
    }
    assert_eq!(
        granted_to("'loyalty_relay'::regrole").await?,
        [
            "loyalty.lease_notices(integer,interval,text[])",
            "loyalty.notice_backlog()",
            "loyalty.notice_failed(bigint,integer,text,boolean)",
            "loyalty.notice_sent(bigint,integer)",
            "loyalty.return_notices(bigint[],integer[])",
        ]
    );
    assert_eq!(
        granted_to("'loyalty_monitor'::regrole").await?,
        [
            "loyalty.health()",
            "loyalty.metric_help(text)",
            "loyalty.metrics_text()",
            "loyalty.points_metrics(integer)",
            "loyalty.work_metrics()",
        ]
    );
    assert_eq!(
        granted_to("'loyalty_authenticator'::regrole").await?,
        [""; 0]
    );
    let query = "select p.oid::regprocedure::text from pg_catalog.pg_proc p
                  where p.pronamespace = 'loyalty_api'::regnamespace
                    and has_function_privilege('public', p.oid, 'execute')";
    assert_eq!(names(&client, query).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn requests_only_read_tables() -> Result<()> {
    let db = TestDb::create("cat_table").await?;
    let client = db.connect().await?;
    let query = "select format('%s: %s on %s', a.grantee::regrole, a.privilege_type, c.oid::regclass)
                   from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
                  where c.relnamespace in SCHEMAS
                    and a.grantee <> c.relowner
                    -- figures only: tests/tests/metrics/
                    and not (a.grantee = 'loyalty_monitor'::regrole and a.privilege_type = 'SELECT'
                             and c.relname = 'metrics')
                    and (a.grantee not in ('loyalty_member'::regrole, 'loyalty_family'::regrole,
                                           'loyalty_admin'::regrole, 'loyalty_operator'::regrole)
                         or a.privilege_type <> 'SELECT' and a.grantee <> 'loyalty_operator'::regrole
                            and not (a.privilege_type = 'INSERT' and c.relname = 'member_upload'
                                     and a.grantee = 'loyalty_admin'::regrole)
                         or a.privilege_type <> 'SELECT' and c.relname not in ('calendar', 'calendar_day', 'member_upload'))";
    assert_eq!(names(&client, query).await?, [""; 0]);
    // every table that a member or administrator may read cuts its rows, and views hide nothing from that
    let query = "select c.oid::regclass::text from pg_catalog.pg_class c
                  where c.relnamespace in SCHEMAS
                    and (c.relkind = 'r' and not c.relrowsecurity
                         and (has_table_privilege('loyalty_member', c.oid, 'select')
                              or has_table_privilege('loyalty_family', c.oid, 'select')
                              or has_table_privilege('loyalty_admin', c.oid, 'select'))
                         or c.relkind = 'v'
                         and not coalesce(c.reloptions @> '{security_invoker=true}', false))";
    assert_eq!(names(&client, query).await?, [""; 0]);
    let query =
        "select format('%s has %s on %s', coalesce(nullif(a.grantee, 0)::regrole::text, 'public'),
                               a.privilege_type, n.nspname)
                   from pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
                  where n.oid in SCHEMAS and a.grantee <> n.nspowner
                    and (a.grantee = 0 or a.privilege_type <> 'USAGE')";
    assert_eq!(names(&client, query).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn roles_are_without_login_or_powers() -> Result<()> {
    let db = TestDb::create("cat_role").await?;
    let client = db.connect().await?;
    let query = "select rolname::text from pg_catalog.pg_roles
                  where rolname like 'loyalty\\_%' and rolname <> 'loyalty_authenticator'
                    and not (rolcanlogin or rolsuper or rolinherit or rolcreaterole
                             or rolcreatedb or rolreplication or rolbypassrls)
                  order by 1";
    assert_eq!(
        names(&client, query).await?,
        [
            "loyalty_admin",
            "loyalty_anon",
            "loyalty_family",
            "loyalty_granter",
            "loyalty_member",
            "loyalty_monitor",
            "loyalty_operator",
            "loyalty_relay"
        ]
    );
    let query = "select m.roleid::regrole::text from pg_catalog.pg_auth_members m
                  where m.member = 'loyalty_authenticator'::regrole
                    and (m.admin_option or m.roleid::regrole::text not in (
                         'loyalty_anon', 'loyalty_member', 'loyalty_family', 'loyalty_granter', 'loyalty_admin',
                         'loyalty_operator'))";
    assert_eq!(names(&client, query).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn everything_has_a_comment() -> Result<()> {
    let db = TestDb::create("cat_comment").await?;
    let client = db.connect().await?;
    let query = "select what from (
            select n.nspname::text as what, obj_description(n.oid, 'pg_namespace') as comment
              from pg_catalog.pg_namespace n where n.oid in SCHEMAS
             union all
            select p.oid::regprocedure::text, obj_description(p.oid, 'pg_proc')
              from pg_catalog.pg_proc p where p.pronamespace in SCHEMAS
             union all
            select c.oid::regclass::text, obj_description(c.oid, 'pg_class')
              from pg_catalog.pg_class c where c.relnamespace in SCHEMAS and c.relkind in ('r', 'p', 'v', 'm')
             union all
            select t.oid::regtype::text, obj_description(t.oid, 'pg_type')
              from pg_catalog.pg_type t
              left join pg_catalog.pg_class c on c.oid = t.typrelid
             where t.typnamespace in SCHEMAS and t.typelem = 0
               and (c.oid is null or c.relkind = 'c')
             union all
            select format('%s.%s', c.oid::regclass, a.attname), col_description(c.oid, a.attnum)
              from pg_catalog.pg_class c
              join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
             where c.relnamespace in SCHEMAS and c.relkind in ('r', 'p', 'v', 'm', 'c')
        ) o
        where coalesce(length(comment), 0) < 5
        order by 1";
    assert_eq!(names(&client, query).await?, [""; 0]);
    Ok(())
}

/// The page of PostgREST shows no more of arguments than types; the comment explains them.
#[tokio::test]
async fn comments_of_the_api_name_every_argument() -> Result<()> {
    let db = TestDb::create("cat_argument").await?;
    let client = db.connect().await?;
    let query = "select format('%s: %s', p.oid::regprocedure, a.name)
                   from pg_catalog.pg_proc p
                  cross join lateral unnest(p.proargnames[:p.pronargs]) a (name)
                  where p.pronamespace = 'loyalty_api'::regnamespace
                    -- nameless: a file as the whole body
                    and a.name <> ''
                    and strpos(obj_description(p.oid, 'pg_proc'), format(E'\\n- `%s`: ', a.name)) = 0";
    assert_eq!(names(&client, query).await?, [""; 0]);
    Ok(())
}
