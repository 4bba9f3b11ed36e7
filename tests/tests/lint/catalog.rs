//! What the catalog must not have. Pinned search paths, EXECUTE and comments: `http/catalog.rs`.

use anyhow::{Result, ensure};
use loyalty_testkit::TestDb;
use loyalty_tests::{RICH_LEDGER, sqlstate};

use crate::{Lint, found};

/// Without one, each row deleted or re-keyed is looked for by reading the referencing table.
/// Rows of these never are: `referenced_rows_stay` holds that true of the first three, and kinds come
/// with the extension.
#[tokio::test]
async fn foreign_keys_have_an_index() -> Result<()> {
    Lint {
        name: "lint_foreign_key",
        query: "
            select format('%s: %s', c.conrelid::regclass, c.conname)
              from pg_catalog.pg_constraint c
             where c.contype = 'f' and c.connamespace in SCHEMAS
               and c.confrelid::regclass::text <> all
                   ('{loyalty.account,loyalty.entry,loyalty.program,loyalty_private.job_kind,loyalty_private.notice_kind}')
               and not exists (
                       select from pg_catalog.pg_index i
                        where i.indrelid = c.conrelid and i.indisvalid
                          -- a slice of an int2vector counts from 0
                          and (i.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey
                          -- of the partial ones those that leave out nulls only
                          and (i.indpred is null
                               or pg_catalog.pg_get_expr(i.indpred, i.indrelid) in (
                                      select format('(%I IS NOT NULL)', a.attname)
                                        from pg_catalog.pg_attribute a
                                       where a.attrelid = c.conrelid and a.attnum = any (c.conkey))))
             order by 1",
        excused: &[],
        bad: "create table loyalty.bad (
                  identity_id bigint references loyalty.identity, given_at timestamptz,
                  state text, primary key (given_at, identity_id));
              create index on loyalty.bad (identity_id) where state = 'active'",
        named: "loyalty.bad: bad_identity_id_fkey",
    }
    .run()
    .await
}

/// What `foreign_keys_have_an_index` relies on: accounts and entries refuse to go or to change
/// their keys, and nothing that the extension has deletes a program.
#[tokio::test]
async fn referenced_rows_stay() -> Result<()> {
    let db = TestDb::create("lint_referenced").await?;
    let client = db.connect().await?;
    client.batch_execute(RICH_LEDGER).await?;
    for attempt in [
        "delete from loyalty.account",
        "delete from loyalty.entry",
        "truncate loyalty.account cascade",
        "truncate loyalty.entry cascade",
        "update loyalty.account set member_no = member_no || '-'",
        "update loyalty.entry set entry = entry + 1",
    ] {
        let refused = sqlstate(&client.execute(attempt, &[]).await);
        ensure!(refused == "LY005", "{attempt}: {refused}");
    }
    // numbers that the database gives are not changed to others
    for attempt in [
        "update loyalty.program set program_id = program_id + 1000",
        "update loyalty.account set account_id = account_id + 1000",
    ] {
        let refused = sqlstate(&client.execute(attempt, &[]).await);
        ensure!(refused == "428C9", "{attempt}: {refused}");
    }
    let deleting = "select p.oid::regprocedure::text from pg_catalog.pg_proc p
                     where p.pronamespace in SCHEMAS and p.prokind in ('f', 'p')
                       and pg_catalog.pg_get_functiondef(p.oid) ~* 'delete\\s+from\\s+(loyalty\\.)?program\\M'";
    let functions = found(&client, deleting).await?;
    ensure!(functions.is_empty(), "{functions:?} delete programs");
    let granted = "select a.grantee::regrole::text
                     from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
                    where c.oid = 'loyalty.program'::regclass and a.grantee <> c.relowner
                      and a.privilege_type in ('DELETE', 'TRUNCATE')";
    let roles = found(&client, granted).await?;
    ensure!(roles.is_empty(), "{roles:?} may delete programs");
    // a function that did would be seen
    client
        .batch_execute(
            "create function loyalty.bad() returns void language sql
             begin atomic delete from loyalty.program; end",
        )
        .await?;
    ensure!(found(&client, deleting).await? == ["loyalty.bad()"]);
    Ok(())
}

/// They would show the owner's rows to whoever may read the view.
#[tokio::test]
async fn views_ask_as_their_reader() -> Result<()> {
    Lint {
        name: "lint_view",
        query: "
            select c.oid::regclass::text
              from pg_catalog.pg_class c
             where c.relnamespace in SCHEMAS
               and (c.relkind = 'm'
                    or c.relkind = 'v'
                       and not coalesce(c.reloptions @> '{security_invoker=true}', false))
             order by 1",
        excused: &[],
        bad: "create view loyalty_api.bad as select * from loyalty.member;
              create view loyalty_api.good with (security_invoker = true) as select * from loyalty.member",
        named: "loyalty_api.bad",
    }
    .run()
    .await
}

#[tokio::test]
async fn tables_have_row_security() -> Result<()> {
    Lint {
        name: "lint_row_security",
        query: "
            select c.oid::regclass::text
              from pg_catalog.pg_class c
             where c.relnamespace in SCHEMAS and c.relkind in ('r', 'p', 'f') and not c.relrowsecurity
             order by 1",
        excused: &[],
        bad: "create table loyalty.bad (a integer primary key)",
        named: "loyalty.bad",
    }
    .run()
    .await
}

/// Permissive policies add up: the wider of two makes the other one an error or a lie.
#[tokio::test]
async fn no_two_permissive_policies_for_a_role() -> Result<()> {
    Lint {
        name: "lint_policy",
        query: "
            select format('%s: %s, %s', a.polrelid::regclass, a.polname, b.polname)
              from pg_catalog.pg_policy a
              join pg_catalog.pg_policy b on b.polrelid = a.polrelid and b.polname > a.polname
              join pg_catalog.pg_class c on c.oid = a.polrelid
             where c.relnamespace in SCHEMAS
               and a.polpermissive and b.polpermissive
               and (a.polcmd = b.polcmd or '*' in (a.polcmd, b.polcmd))
               and (a.polroles && b.polroles or 0 = any (a.polroles || b.polroles))
             order by 1",
        excused: &[],
        bad: "create policy bad on loyalty.entry for select to loyalty_granter, loyalty_member using (true)",
        named: "loyalty.entry: bad, own_account",
    }
    .run()
    .await
}

/// What is planned as if it changed nothing: views, policies, constraints, defaults and indexes
/// with a VOLATILE function, and functions that promise more than one they call. Bodies in
/// plpgsql are plpgsql_check's.
#[tokio::test]
async fn volatility_is_what_callers_rely_on() -> Result<()> {
    Lint {
        name: "lint_volatility",
        query: "
            select distinct format('%s calls %s', pg_catalog.pg_describe_object(d.classid, d.objid, 0),
                                   p.oid::regprocedure)
              from pg_catalog.pg_depend d
              join pg_catalog.pg_proc p on p.oid = d.refobjid
              left join pg_catalog.pg_proc q on d.classid = 'pg_proc'::regclass and q.oid = d.objid
             where d.refclassid = 'pg_proc'::regclass
               and p.pronamespace in SCHEMAS
               and (d.classid in ('pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_constraint'::regclass,
                                  'pg_attrdef'::regclass, 'pg_class'::regclass)
                    and p.provolatile = 'v'
                    or q.pronamespace in SCHEMAS
                       and (p.provolatile = 'v' and q.provolatile <> 'v'
                            or p.provolatile = 's' and q.provolatile = 'i'))
             order by 1",
        excused: &[(
            "rule _RETURN on view loyalty.metrics calls loyalty.work_metrics()",
            "who waits for a lock is looked at anew by each call; the view calls it once, in FROM",
        )],
        bad: "create function loyalty.bad() returns integer language sql volatile return 1;
              create view loyalty.bad_view as select loyalty.bad() as a",
        named: "rule _RETURN on view loyalty.bad_view calls loyalty.bad()",
    }
    .run()
    .await
}

#[tokio::test]
async fn stable_functions_call_no_volatile_ones() -> Result<()> {
    Lint {
        name: "lint_promise",
        query: "
            select distinct format('%s calls %s', q.oid::regprocedure, p.oid::regprocedure)
              from pg_catalog.pg_depend d
              join pg_catalog.pg_proc p on p.oid = d.refobjid
              join pg_catalog.pg_proc q on q.oid = d.objid
             where d.classid = 'pg_proc'::regclass and d.refclassid = 'pg_proc'::regclass
               and q.pronamespace in SCHEMAS
               and array_position('{i,s,v}', p.provolatile::text)
                   > array_position('{i,s,v}', q.provolatile::text)
             order by 1",
        excused: &[],
        bad: "create function loyalty.bad() returns timestamptz language sql immutable return loyalty.now()",
        named: "loyalty.bad() calls loyalty.now()",
    }
    .run()
    .await
}

/// An index that another one begins with is written for nothing.
#[tokio::test]
async fn no_index_repeats_another() -> Result<()> {
    Lint {
        name: "lint_index",
        query: "
            select format('%s is the beginning of %s', a.indexrelid::regclass, b.indexrelid::regclass)
              from pg_catalog.pg_index a
              join pg_catalog.pg_index b on b.indrelid = a.indrelid and b.indexrelid <> a.indexrelid
              join pg_catalog.pg_class c on c.oid = a.indrelid
              join pg_catalog.pg_class i on i.oid = a.indexrelid
              join pg_catalog.pg_class j on j.oid = b.indexrelid and j.relam = i.relam
             where c.relnamespace in SCHEMAS
               and (b.indkey::int2[])[0:a.indnkeyatts - 1] = (a.indkey::int2[])[0:a.indnkeyatts - 1]
               and (b.indclass::oid[])[0:a.indnkeyatts - 1] = (a.indclass::oid[])[0:a.indnkeyatts - 1]
               and (b.indcollation::oid[])[0:a.indnkeyatts - 1] = (a.indcollation::oid[])[0:a.indnkeyatts - 1]
               and a.indexprs::text is not distinct from b.indexprs::text
               and pg_catalog.pg_get_expr(a.indpred, a.indrelid)
                   is not distinct from pg_catalog.pg_get_expr(b.indpred, b.indrelid)
               -- a unique one keeps a law, and of two that are the same one is named
               and (not a.indisunique
                    or b.indisunique and a.indnkeyatts = b.indnkeyatts and a.indexrelid > b.indexrelid)
             order by 1",
        excused: &[],
        bad: "create index bad on loyalty.audit (account_id);
              create index good on loyalty.audit (account_id, actor);
              create index other on loyalty.audit (account_id) where identity_id is null;
              drop index if exists loyalty.audit_by_account",
        named: "loyalty.bad is the beginning of loyalty.good",
    }
    .run()
    .await
}

const SAMPLE: &str = "samples of Prometheus are doubles; the ledger reckons nothing from them";

/// Instants without a zone, padded text, and figures that are not exact.
#[tokio::test]
async fn no_type_that_means_something_else() -> Result<()> {
    Lint {
        name: "lint_type",
        query: "
            with used as (
                select format('%s.%s', a.attrelid::regclass, a.attname) as name, a.atttypid as type
                  from pg_catalog.pg_attribute a
                  join pg_catalog.pg_class c on c.oid = a.attrelid
                 where c.relnamespace in SCHEMAS and c.relkind <> 'i' and a.attnum > 0 and not a.attisdropped
                 union all
                select p.oid::regprocedure::text, t.type
                  from pg_catalog.pg_proc p
                 cross join lateral unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]) || p.prorettype) t (type)
                 where p.pronamespace in SCHEMAS
            )
            select distinct format('%s: %s', u.name, u.type::regtype)
              from used u
              join pg_catalog.pg_type t on t.oid = u.type
             where 'timestamp'::regtype in (u.type, t.typelem) or 'timetz'::regtype in (u.type, t.typelem)
                or 'bpchar'::regtype in (u.type, t.typelem) or 'varchar'::regtype in (u.type, t.typelem)
                or 'money'::regtype in (u.type, t.typelem)
                or 'float4'::regtype in (u.type, t.typelem) or 'float8'::regtype in (u.type, t.typelem)
             order by 1",
        excused: &[
            ("loyalty.metrics.value: double precision", SAMPLE),
            ("loyalty.points_metrics(integer): double precision", SAMPLE),
            ("loyalty.work_metrics(): double precision", SAMPLE),
        ],
        bad: "create function loyalty.bad(a timestamp[]) returns integer language sql return 1",
        named: "loyalty.bad(timestamp without time zone[]): timestamp without time zone[]",
    }
    .run()
    .await
}

/// What a crash empties must not be missed.
#[tokio::test]
async fn nothing_is_unlogged_but_what_is_empty() -> Result<()> {
    Lint {
        name: "lint_unlogged",
        query: "
            select c.oid::regclass::text
              from pg_catalog.pg_class c
             where c.relnamespace in SCHEMAS and c.relpersistence <> 'p'
             order by 1",
        excused: &[(
            "loyalty.member_upload",
            "its trigger empties it in the statement that writes it",
        )],
        bad: "create unlogged table loyalty.bad (a integer)",
        named: "loyalty.bad",
    }
    .run()
    .await
}

/// What pg_dump would leave out: rows of tables and states of sequences (law 12).
#[tokio::test]
async fn dumps_have_every_table_and_sequence() -> Result<()> {
    Lint {
        name: "lint_dump",
        query: "
            select c.oid::regclass::text
              from pg_catalog.pg_class c
             where c.relnamespace in SCHEMAS and c.relkind in ('r', 'p', 'S')
               and c.oid <> all (select unnest(e.extconfig) from pg_catalog.pg_extension e
                                  where e.extname = 'pg_loyalty')
             order by 1",
        excused: &[
            ("loyalty.member_upload", "it is always empty"),
            ("loyalty_private.account_role", SUPPLIED),
            ("loyalty_private.job_kind", SUPPLIED),
            ("loyalty_private.notice_kind", SUPPLIED),
        ],
        bad: "create sequence loyalty.bad",
        named: "loyalty.bad",
    }
    .run()
    .await
}

#[tokio::test]
async fn tables_have_a_primary_key() -> Result<()> {
    Lint {
        name: "lint_primary_key",
        query: "
            select c.oid::regclass::text
              from pg_catalog.pg_class c
             where c.relnamespace in SCHEMAS and c.relkind in ('r', 'p')
               and not exists (select from pg_catalog.pg_constraint k
                                where k.conrelid = c.oid and k.contype = 'p')
             order by 1",
        excused: &[
            ("loyalty.member_upload", "it is always empty"),
            (
                "loyalty.notice_template",
                "those supplied are of no program: unique nulls not distinct is its key",
            ),
        ],
        bad: "create table loyalty.bad (a integer unique)",
        named: "loyalty.bad",
    }
    .run()
    .await
}

#[tokio::test]
async fn constraints_hold_for_every_row() -> Result<()> {
    Lint {
        name: "lint_validated",
        query: "
            select format('%s: %s', c.conrelid::regclass, c.conname)
              from pg_catalog.pg_constraint c
             where c.connamespace in SCHEMAS and not c.convalidated
             order by 1",
        excused: &[],
        bad: "alter table loyalty.member add constraint bad check (name <> '') not valid",
        named: "loyalty.member: bad",
    }
    .run()
    .await
}

const OURS: &str = "written by the functions, from what they know themselves";
const ACTOR: &str = "role and sub of a token that was signed, or the session's role";
const CLEANED: &str =
    "cleaned by loyalty_private.clean_member or clean_login_id, which have limits";
const OPERATION: &str = "every operation checks it, and only they write here (law 1)";
const OPERATOR: &str = "written by operators in SQL only";
const RENDERED: &str = "loyalty_private.check_template has a limit for each";
const SUPPLIED: &str = "its rows come with the extension";
/// One that is registered, by foreign key.
const KIND: &str = "a kind that is registered, whose name is short";
const KNOWN: &str = "one of those there are; the function looks it up";
const CUT: &str = "loyalty_private.client_address cuts it";

/// Text without a CHECK grows as long as a request may be. Where the limit is elsewhere, the
/// list says where.
#[tokio::test]
async fn texts_have_a_limit() -> Result<()> {
    Lint {
        name: "lint_text",
        query: "
            select format('%s.%s', a.attrelid::regclass, a.attname)
              from pg_catalog.pg_attribute a
              join pg_catalog.pg_class c on c.oid = a.attrelid
             where c.relnamespace in SCHEMAS and c.relkind in ('r', 'p')
               and a.attnum > 0 and not a.attisdropped
               and a.atttypid in ('text'::regtype, 'text[]'::regtype, 'jsonb'::regtype)
               and not exists (select from pg_catalog.pg_constraint k
                                where k.conrelid = c.oid and k.contype = 'c' and a.attnum = any (k.conkey))
             order by 1",
        excused: &[
            ("loyalty.access_policy.family_relations", KNOWN),
            ("loyalty.audit.actor", ACTOR),
            ("loyalty.audit.address", CUT),
            ("loyalty.calendar_day.calendar", OPERATOR),
            ("loyalty.calendar_day.name", OPERATOR),
            ("loyalty_private.challenge.address", CLEANED),
            ("loyalty_private.challenge.details", OURS),
            ("loyalty_private.challenge.purpose", OURS),
            ("loyalty_private.credential.password_hash", OURS),
            ("loyalty.entry.actor", ACTOR),
            ("loyalty.entry.idempotency_key", OPERATION),
            ("loyalty.entry.reason", OPERATION),
            ("loyalty.event.canceled_by", ACTOR),
            ("loyalty.event.kind", KNOWN),
            ("loyalty.event.recorded_by", ACTOR),
            ("loyalty.identity_link.terms_version", KNOWN),
            ("loyalty.identity_provider_link.issuer", KNOWN),
            ("loyalty.login_application.address", CUT),
            ("loyalty.login_application.decided_by", ACTOR),
            ("loyalty.login_application.differs", OURS),
            ("loyalty.login_application.kana", CLEANED),
            ("loyalty.login_application.member_no", CLEANED),
            ("loyalty.login_application.name", CLEANED),
            ("loyalty.login_application.phone", CLEANED),
            ("loyalty.member_upload.birth_date", CLEANED),
            ("loyalty.member_upload.contract_since", CLEANED),
            ("loyalty.member_upload.email", CLEANED),
            ("loyalty.member_upload.first_service_on", CLEANED),
            ("loyalty.member_upload.kana", CLEANED),
            ("loyalty.member_upload.language", CLEANED),
            ("loyalty.member_upload.member_no", CLEANED),
            ("loyalty.member_upload.name", CLEANED),
            ("loyalty.member_upload.phone", CLEANED),
            ("loyalty.member_upload.program", KNOWN),
            ("loyalty.notice.address", CLEANED),
            ("loyalty.notice.details", OURS),
            ("loyalty.notice.error", "cut by loyalty.notice_failed"),
            ("loyalty.notice.message_id", OURS),
            ("loyalty.notice_template.html_body", RENDERED),
            ("loyalty.notice_template.sms_body", RENDERED),
            ("loyalty.notice_template.text_body", RENDERED),
            ("loyalty.program.calendar", KNOWN),
            ("loyalty.program_role.given_by", ACTOR),
            ("loyalty_private.registration.terms_version", KNOWN),
            ("loyalty.rule.created_by", ACTOR),
            ("loyalty.notice_preference.kind", KIND),
            ("loyalty.notice_setting.kind", KIND),
            ("loyalty.notice_template.kind", KIND),
            ("loyalty.run.error", OURS),
            ("loyalty.run.kind", KIND),
            ("loyalty.schedule.kind", KIND),
            ("loyalty_private.notice_kind.example", OURS),
            ("loyalty_private.notice_kind.optional", OURS),
            ("loyalty.run.note", OURS),
            ("loyalty.run_failure.code", OURS),
            ("loyalty.run_failure.idempotency_key", OURS),
            ("loyalty.run_failure.message", OURS),
            ("loyalty_private.session.address", CUT),
            ("loyalty_private.session.device", "cut by loyalty.start_session"),
        ],
        bad: "alter table loyalty.member add bad text",
        named: "loyalty.member.bad",
    }
    .run()
    .await
}
