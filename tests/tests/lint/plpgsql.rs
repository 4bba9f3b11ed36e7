//! Every function and trigger function through `plpgsql_check`, with all it can warn of.

use anyhow::{Context as _, Result, ensure};
use loyalty_testkit::{TestDb, TestServer};
use loyalty_tests::{RICH_LEDGER, assert_sound};
use tokio_postgres::Client;

use crate::{Excused, compare, found};

/// Trigger functions once for each table that they are on. Newer versions of plpgsql_check also
/// mind what a stable function does that is not: the one such thing that ours do is to refuse, by
/// functions that never return, and are volatile lest a planner tries them out.
const FINDINGS: &str = "
    with target as (
        select p.oid as function, 0::oid as relation, null::name as old_table, null::name as new_table
          from pg_catalog.pg_proc p
          join pg_catalog.pg_language l on l.oid = p.prolang
         where p.pronamespace in SCHEMAS and l.lanname = 'plpgsql'
           and p.prorettype <> 'trigger'::regtype
         union
        select p.oid, t.tgrelid, t.tgoldtable, t.tgnewtable
          from pg_catalog.pg_trigger t
          join pg_catalog.pg_proc p on p.oid = t.tgfoid
          join pg_catalog.pg_language l on l.oid = p.prolang
         where p.pronamespace in SCHEMAS and l.lanname = 'plpgsql' and not t.tgisinternal
    )
    select distinct format('%s%s: %s%s', t.function::regprocedure, ' on ' || nullif(t.relation, 0)::regclass,
                           c.message, ', ' || case when c.message !~ 'should be STABLE$' then c.detail end) collate \"C\"
      from target t
     cross join lateral plpgsql_check_function_tb(
               t.function, t.relation, oldtable => t.old_table, newtable => t.new_table,
               fatal_errors => false, all_warnings => true, incomment_options_usage_warning => true) c
     where not (c.message ~ 'is marked as .*, but expression is VOLATILE'
                and c.query ~ 'loyalty_private\\.(raise|raise_closed)\\(')
     order by 1";

/// What a kind of job or notice is registered with: names that a constraint holds to our schemas.
const REGISTERED: &str = "it calls the function that a kind is registered with";

const EXCUSED: Excused = &[
    (
        "loyalty.preview(text,integer): OUT variable \"day\" is maybe unmodified, \
         cannot to determine result of dynamic SQL",
        REGISTERED,
    ),
    (
        "loyalty.preview(text,integer): OUT variable \"job\" is maybe unmodified, \
         cannot to determine result of dynamic SQL",
        REGISTERED,
    ),
    (
        "loyalty.preview(text,integer): OUT variable \"members\" is maybe unmodified, \
         cannot to determine result of dynamic SQL",
        REGISTERED,
    ),
    (
        "loyalty.preview(text,integer): OUT variable \"period\" is maybe unmodified, \
         cannot to determine result of dynamic SQL",
        REGISTERED,
    ),
    (
        "loyalty.preview(text,integer): OUT variable \"points\" is maybe unmodified, \
         cannot to determine result of dynamic SQL",
        REGISTERED,
    ),
    (
        "loyalty.preview(text,integer): OUT variable \"title\" is maybe unmodified, \
         cannot to determine result of dynamic SQL",
        REGISTERED,
    ),
    (
        "loyalty.preview(text,integer): the expression is not SQL injection safe, \
         Cannot ensure so dynamic EXECUTE statement is SQL injection secure.",
        REGISTERED,
    ),
    (
        "loyalty_private.fill_notice(loyalty.notice): text type variable is not sanitized, \
         The EXECUTE expression is SQL injection vulnerable.",
        REGISTERED,
    ),
    (
        "loyalty_private.job_periods(integer,text,date,date): OUT variable \"pays_on\" is maybe unmodified, \
         cannot to determine result of dynamic SQL",
        REGISTERED,
    ),
    (
        "loyalty_private.job_periods(integer,text,date,date): OUT variable \"period\" is maybe unmodified, \
         cannot to determine result of dynamic SQL",
        REGISTERED,
    ),
    (
        "loyalty_private.job_periods(integer,text,date,date): text type variable is not sanitized, \
         The EXECUTE expression is SQL injection vulnerable.",
        REGISTERED,
    ),
    (
        "loyalty_private.newest_refresh_token(uuid,text): routine is marked as VOLATILE, should be STABLE",
        "it must see what was committed while its caller waited",
    ),
    (
        "loyalty_private.reached_account(text): text type variable is not sanitized, \
         The EXECUTE expression is SQL injection vulnerable.",
        REGISTERED,
    ),
    (
        "loyalty_private.plan_expire(integer,text,date,date,text): unused parameter \"name\"",
        "functions that plan have one signature",
    ),
    (
        "loyalty_private.plan_expire(integer,text,date,date,text): unused parameter \"program_id\"",
        "functions that plan have one signature",
    ),
    (
        "loyalty_private.plan_schedule(integer,text): cannot determinate a result of dynamic SQL, \
         There is a risk of related false alarms.",
        REGISTERED,
    ),
    (
        "loyalty_private.plan_schedule(integer,text): text type variable is not sanitized, \
         The EXECUTE expression is SQL injection vulnerable.",
        REGISTERED,
    ),
    (
        "loyalty_private.run_chunk(integer,text,date,bigint): cannot determinate a result of dynamic SQL, \
         There is a risk of related false alarms.",
        REGISTERED,
    ),
    (
        "loyalty_private.run_chunk(integer,text,date,bigint): text type variable is not sanitized, \
         The EXECUTE expression is SQL injection vulnerable.",
        REGISTERED,
    ),
    (
        "loyalty_private.fill_notice(loyalty.notice): composite OUT variable \"message\" is not single argument",
        "a message, its error and whether it is over come together",
    ),
    (
        "loyalty.install_log_settings(text): text type variable is not sanitized, \
         The EXECUTE expression is SQL injection vulnerable.",
        "names of settings are those of log_settings; logins are quoted",
    ),
    (
        "loyalty.install_schedules(text): routine is marked as VOLATILE, should be STABLE",
        "what it executes, cron.schedule, writes",
    ),
    (
        "loyalty.install_schedules(text): schema \"cron\" does not exist",
        "the function looks for pg_cron first, which is in one database of a cluster",
    ),
    (
        "loyalty_private.lot_class_of(integer,text,integer): control reached end of function without RETURN",
        "its loop is left by RETURN only",
    ),
    (
        "loyalty.set_access_policy(text,text,text,text,text,boolean,boolean,integer,integer,integer,boolean,\
         interval,interval,interval,text[],integer,text,bigint,bigint,text[]): \
         control reached end of function without RETURN",
        "its exception handlers end with loyalty_private.raise, which never returns",
    ),
    (
        "loyalty.uninstall_schedules(): relation \"cron.job\" does not exist",
        "as of install_schedules",
    ),
    (
        "loyalty.uninstall_schedules(): routine is marked as VOLATILE, should be STABLE",
        "what it executes, cron.unschedule, writes",
    ),
    (
        "loyalty.verify(text): target type is different type than source type, \
         cast \"bigint\" value to \"numeric\" type",
        "a lot's points, which may be summed beyond a bigint",
    ),
    (
        "loyalty.verify(text): target type is different type than source type, \
         cast \"integer\" value to \"smallint\" type",
        "a class that the journal leaves out, because it is 0",
    ),
    (
        "loyalty.verify(text): target type is different type than source type, \
         cast \"smallint[]\" value to \"integer[]\" type",
        "once for each program",
    ),
];

/// A record that a cursor over dynamic SQL fills: with its type told, all that is done with it
/// is checked too.
struct Told {
    function: &'static str,
    declared: &'static str,
    /// A view of the cursor's columns.
    view: &'static str,
}

const JOURNAL: Told = Told {
    function: "loyalty.verify(text)",
    declared: "\n    e record;\n",
    view: "create view public.told as
           select a.account_id as owner, a.program_id, e.*, current_date as today
             from loyalty.account a
             left join loyalty.journal_entry e on e.account_id = a.account_id",
};

impl Told {
    /// Tells the type, in this database only.
    async fn tell(&self, client: &Client) -> Result<()> {
        client.batch_execute(self.view).await?;
        let definition: String = client
            .query_one(
                "select pg_catalog.pg_get_functiondef($1::text::regprocedure)",
                &[&self.function],
            )
            .await?
            .get(0);
        let told = self.declared.replace("record", "public.told");
        ensure!(
            definition.contains(self.declared),
            "{} has no {:?}",
            self.function,
            self.declared
        );
        client
            .batch_execute(&definition.replace(self.declared, &told))
            .await?;
        Ok(())
    }
}

/// A database with plpgsql_check in it; without the package there is nothing to be told.
async fn checked_database(label: &str) -> Result<(TestDb, Client)> {
    let db = TestDb::create(label).await?;
    let client = db.connect().await?;
    client
        .batch_execute("create extension plpgsql_check")
        .await
        .with_context(|| {
            let major = TestServer::get().map_or(0, |server| server.pg_major);
            format!("plpgsql_check is missing: apt install postgresql-{major}-plpgsql-check")
        })?;
    Ok((db, client))
}

#[tokio::test]
async fn plpgsql_check_finds_nothing() -> Result<()> {
    let (_db, client) = checked_database("lint_plpgsql").await?;
    client.batch_execute(RICH_LEDGER).await?;
    JOURNAL.tell(&client).await?;
    // the type is the cursor's: told another one, verify would find the journal wrong
    assert_sound(&client).await?;
    compare(&found(&client, FINDINGS).await?, EXCUSED)
}

#[tokio::test]
async fn plpgsql_check_is_heard() -> Result<()> {
    let (_db, client) = checked_database("lint_plpgsql_bad").await?;
    client
        .batch_execute(
            "create table loyalty.bad_table (a integer);
             create function loyalty.bad_read() returns bigint language plpgsql stable as $$
             declare unused integer;
             begin return (select nothing from loyalty.account limit 1); end $$;
             create function loyalty.bad_cast() returns smallint language plpgsql immutable as $$
             begin return 1; end $$;
             create function loyalty.bad_trigger() returns trigger language plpgsql as $$
             begin new.b := 1; return new; end $$;
             create trigger bad before insert on loyalty.bad_table
                for each row execute function loyalty.bad_trigger();
             create function loyalty.bad_sql(name text) returns void language plpgsql volatile as $$
             begin execute 'drop table ' || name; end $$",
        )
        .await?;
    let found = found(&client, FINDINGS).await?;
    for part in [
        "loyalty.bad_read(): column \"nothing\" does not exist",
        "loyalty.bad_read(): unused variable \"unused\"",
        "loyalty.bad_cast(): target type is different type than source type, cast \"integer\"",
        "loyalty.bad_trigger() on loyalty.bad_table: record \"new\" has no field \"b\"",
        "loyalty.bad_sql(text): text type variable is not sanitized",
    ] {
        ensure!(
            found.iter().any(|finding| finding.starts_with(part)),
            "not heard: {part} in {found:#?}"
        );
    }
    Ok(())
}
