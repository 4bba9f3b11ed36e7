//! From every older version to the next by `alter extension pg_loyalty update`: with data in it,
//! with sessions at work, to the very catalog of a fresh install.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use loyalty_testkit::http;
use loyalty_testkit::token::{Claims, Role};
use loyalty_testkit::upgrade::{self, Sources};
use loyalty_testkit::{TestDb, repository};
use loyalty_tests::answer::{answers, as_in, fill, go_on, same_rows, similar, stored};
use loyalty_tests::catalog::{Catalog, catalog, differences, differences_but_wording};
use loyalty_tests::older::{MADE, UNFINISHED, Upgrade, create_database, older, older_cluster};
use loyalty_tests::{RICH_LEDGER, assert_sound, rows};
use tokio_postgres::Client;

#[test]
fn upgrade_scripts_lead_from_each_version_to_the_next() -> Result<()> {
    upgrade::check(repository(), env!("CARGO_PKG_VERSION"))
}

/// What an old version is installed by is what `create extension` ran when it was new.
#[test]
fn upgrade_takes_the_install_script_as_it_is_installed() -> Result<()> {
    let installed = format!("pg_loyalty--{}.sql", env!("CARGO_PKG_VERSION"));
    let installed = std::fs::read_to_string(older()?.installation.extension_dir.join(installed))?;
    let taken = Sources::Tree(repository()).install_script()?;
    let (installed, taken) = (upgrade::statements(&installed), upgrade::statements(&taken));
    ensure!(installed.len() == taken.len());
    for (installed, taken) in installed.iter().zip(&taken) {
        ensure!(installed == taken, "{installed:?} and {taken:?}");
    }
    Ok(())
}

/// What somebody may change and the comparison has to notice, with the object it has to name.
const CHANGES: &[(&str, &str)] = &[
    (
        "comment on schema loyalty is 'other'",
        "schema loyalty: comment",
    ),
    (
        "grant usage on schema loyalty to public",
        "schema loyalty: granted",
    ),
    (
        "comment on table loyalty.entry is 'other'",
        "relation loyalty.entry: comment",
    ),
    (
        "comment on column loyalty.entry.points is null",
        "column loyalty.entry.points: comment",
    ),
    (
        "grant select on loyalty.entry to public",
        "relation loyalty.entry: granted",
    ),
    (
        "grant update (name) on loyalty.program to loyalty_admin",
        "column loyalty.program.name: granted",
    ),
    (
        "revoke select on loyalty.wallet from loyalty_operator",
        "relation loyalty.wallet: granted",
    ),
    (
        "alter table loyalty.wallet set (fillfactor = 90)",
        "relation loyalty.wallet: storage",
    ),
    (
        "alter table loyalty.event set unlogged",
        "relation loyalty.event: storage",
    ),
    (
        "alter table loyalty.wallet replica identity full",
        "relation loyalty.wallet: storage",
    ),
    (
        "alter table loyalty.wallet disable row level security",
        "relation loyalty.wallet: row security",
    ),
    (
        "alter table loyalty.wallet owner to loyalty_operator",
        "relation loyalty.wallet: owner",
    ),
    (
        "alter table loyalty.program add column more text",
        "column loyalty.program.more: definition",
    ),
    (
        "alter table loyalty_private.throttle drop column failures",
        "column loyalty_private.throttle.failures: definition: missing",
    ),
    (
        "alter table loyalty.program rename column point_name to other",
        "column loyalty.program.other: definition",
    ),
    (
        "alter table loyalty.program alter column point_name set default 'mile'",
        "column loyalty.program.point_name: definition",
    ),
    (
        "alter table loyalty.program alter column point_name drop not null",
        "column loyalty.program.point_name: definition",
    ),
    (
        "alter table loyalty.entry alter column reason set storage external",
        "column loyalty.entry.reason: definition",
    ),
    (
        "alter table loyalty.entry alter column reason set statistics 7",
        "column loyalty.entry.reason: definition",
    ),
    (
        "alter table loyalty_private.throttle alter column failures type bigint",
        "column loyalty_private.throttle.failures: definition",
    ),
    (
        "alter table loyalty.entry drop constraint entry_sign_fits_kind",
        "constraint entry_sign_fits_kind on loyalty.entry: definition: missing",
    ),
    (
        "alter table loyalty.account alter constraint account_program_id_fkey deferrable",
        "constraint account_program_id_fkey on loyalty.account: definition",
    ),
    (
        "alter table loyalty.account rename constraint account_pkey to other",
        "constraint other on loyalty.account: definition",
    ),
    (
        "create index other on loyalty.entry (kind)",
        "index other on loyalty.entry: definition",
    ),
    (
        "drop index loyalty.entry_by_reference",
        "index entry_by_reference on loyalty.entry: definition: missing",
    ),
    (
        "alter index loyalty.entry_by_reference set (fillfactor = 50)",
        "index entry_by_reference on loyalty.entry: definition",
    ),
    (
        "alter table loyalty.entry disable trigger guard",
        "trigger guard on loyalty.entry: definition",
    ),
    (
        "alter table loyalty.entry enable always trigger guard",
        "trigger guard on loyalty.entry: definition",
    ),
    (
        "alter table loyalty.account disable trigger all",
        "relation loyalty.account: foreign keys fire",
    ),
    (
        "drop trigger guard on loyalty.entry",
        "trigger guard on loyalty.entry: definition: missing",
    ),
    (
        "comment on trigger guard on loyalty.entry is 'other'",
        "trigger guard on loyalty.entry: comment",
    ),
    (
        "alter policy operator on loyalty.family using (false)",
        "policy operator on loyalty.family: definition",
    ),
    (
        "alter policy operator on loyalty.family to public",
        "policy operator on loyalty.family: definition",
    ),
    (
        "drop policy operator on loyalty.family",
        "policy operator on loyalty.family: definition: missing",
    ),
    (
        "comment on function loyalty_private.person() is 'other'",
        "routine loyalty_private.person(): comment",
    ),
    (
        "grant execute on function loyalty_private.hash_password(text) to loyalty_operator",
        "routine loyalty_private.hash_password(text): granted",
    ),
    (
        "alter function loyalty_private.hash_password(text) cost 7",
        "routine loyalty_private.hash_password(text): definition",
    ),
    (
        "alter function loyalty_private.person() security definer",
        "routine loyalty_private.person(): definition",
    ),
    (
        "alter function loyalty_private.person() set search_path = public",
        "routine loyalty_private.person(): definition",
    ),
    (
        "alter function loyalty_private.person() volatile",
        "routine loyalty_private.person(): definition",
    ),
    (
        "create or replace function loyalty_private.person() returns text language sql stable set search_path = pg_catalog, pg_temp as $$ select 'other' $$",
        "routine loyalty_private.person(): definition",
    ),
    (
        "alter extension pg_loyalty drop function loyalty_private.person()",
        "function loyalty_private.person(): is there: missing",
    ),
    (
        "create function loyalty.other() returns int language sql return 1; alter extension pg_loyalty add function loyalty.other()",
        "function loyalty.other(): is there: not expected",
    ),
    (
        "alter view loyalty_api.balance rename column balance to other",
        "relation loyalty_api.balance: query",
    ),
    (
        "alter view loyalty_api.balance set (security_invoker = false)",
        "relation loyalty_api.balance: storage",
    ),
    (
        "comment on view loyalty_api.balance is 'other'",
        "relation loyalty_api.balance: comment",
    ),
    (
        "alter sequence loyalty.event_event_id_seq increment 2",
        "relation loyalty.event_event_id_seq: sequence",
    ),
    (
        "grant usage on sequence loyalty.event_event_id_seq to public",
        "relation loyalty.event_event_id_seq: granted",
    ),
    (
        "alter type loyalty.entry_kind add value 'other'",
        "type loyalty.entry_kind: definition",
    ),
    (
        "comment on type loyalty.entry_kind is 'other'",
        "type loyalty.entry_kind: comment",
    ),
    (
        "revoke usage on type loyalty.entry_kind from public",
        "type loyalty.entry_kind: granted",
    ),
    (
        "alter type loyalty.receipt add attribute other int",
        "column loyalty.receipt.other: definition",
    ),
    (
        "update pg_extension set extcondition[1] = 'where false' where extname = 'pg_loyalty'",
        ": dumped",
    ),
    (
        "update pg_extension set extversion = '0.0.0' where extname = 'pg_loyalty'",
        "extension: version",
    ),
    (
        "alter default privileges in schema loyalty grant select on tables to public",
        "default privileges in schema loyalty",
    ),
    (
        "alter role loyalty_admin createdb",
        "role loyalty_admin: definition",
    ),
    (
        "grant loyalty_operator to loyalty_admin",
        "role loyalty_admin: member of loyalty_operator",
    ),
    (
        "grant set on parameter loyalty.clock to public",
        "parameter loyalty.clock: granted",
    ),
    (
        "delete from pg_init_privs where objoid = 'loyalty.entry'::regclass and objsubid = 0",
        "relation loyalty.entry: granted at first",
    ),
];

/// The catalog of an updated extension is that of a fresh install, object by object: in clusters
/// of their own, since roles are a cluster's. And the comparison names whatever is not.
#[tokio::test]
async fn upgrade_leads_to_the_catalog_of_a_fresh_install() -> Result<()> {
    for upgrade in &older()?.upgrades {
        let (old, new) = (
            older_cluster("upgrade_old").await?,
            older_cluster("upgrade_new").await?,
        );
        let (updated, fresh) = (old.connect("points").await?, new.connect("points").await?);
        fresh.batch_execute(&upgrade.install_new()).await?;
        updated.batch_execute(&upgrade.install()).await?;
        let expected = catalog(&fresh).await?;
        let first = catalog(&updated).await?;
        updated.batch_execute(&upgrade.update()).await?;
        let found = differences(&expected, &catalog(&updated).await?);
        ensure!(found.is_empty(), "{upgrade:?}: {}", found.join("\n"));
        // so are the rows that come with the extension
        same_rows(&stored(&fresh).await?, &stored(&updated).await?)?;
        let found = differences(&first, &expected);
        ensure!(found.len() > 1, "{upgrade:?} changes nothing");
        if upgrade.from == MADE {
            // kinds of changes that are generated
            for kind in [": comment", ": definition", ": query", ": is there"] {
                ensure!(
                    found.iter().any(|line| line.contains(kind)),
                    "no {kind} in {found:?}"
                );
            }
            notices_each_change(&updated, &expected).await?;
        }
    }
    Ok(())
}

/// What is written by hand in an upgrade script, and was forgotten, is named.
#[tokio::test]
async fn upgrade_that_forgets_a_right_is_noticed() -> Result<()> {
    let upgrades = &older()?.upgrades;
    let whole = upgrades.iter().find(|one| one.from == MADE);
    let whole = whole.context("no version was made")?;
    let unfinished = Upgrade {
        to: UNFINISHED.to_owned(),
        ..whole.clone()
    };
    let cluster = older_cluster("upgrade_unfinished").await?;
    create_database(&cluster, "fresh", "template0").await?;
    let (updated, fresh) = (
        cluster.connect("points").await?,
        cluster.connect("fresh").await?,
    );
    fresh.batch_execute(&whole.install_new()).await?;
    updated.batch_execute(&unfinished.install()).await?;
    updated.batch_execute(&unfinished.update()).await?;
    let mut found = differences(&catalog(&fresh).await?, &catalog(&updated).await?);
    found.retain(|line| !line.starts_with("extension: version"));
    ensure!(!found.is_empty(), "the forgotten right was not noticed");
    for line in &found {
        ensure!(
            line.starts_with("routine loyalty.upgrade_trial(integer): granted"),
            "{line}"
        );
    }
    Ok(())
}

/// `updated` has the expected catalog; each of [`CHANGES`] is named.
async fn notices_each_change(updated: &Client, expected: &Catalog) -> Result<()> {
    for (change, named) in CHANGES {
        updated.batch_execute("begin").await?;
        updated
            .batch_execute(change)
            .await
            .with_context(|| (*change).to_owned())?;
        let found = differences(expected, &catalog(updated).await?);
        updated.batch_execute("rollback").await?;
        ensure!(
            found.iter().any(|line| line.contains(named)),
            "{change}: {named} is not in {found:?}"
        );
    }
    // kinds of objects that the comparison knows nothing of are a difference, too
    updated
        .batch_execute(
            "create operator loyalty.=== (leftarg = int, rightarg = int, function = int4eq);
                        alter extension pg_loyalty add operator loyalty.===(int, int)",
        )
        .await?;
    let found = differences(expected, &catalog(updated).await?);
    ensure!(
        found.iter().any(|line| line.contains("kinds of objects")),
        "{found:?}"
    );
    Ok(())
}

/// What pg_upgrade does with every function and view: PostgreSQL writes them out, and reads that.
#[tokio::test]
async fn upgrade_definitions_can_be_read_again() -> Result<()> {
    let db = TestDb::create("definitions").await?;
    let client = db.connect().await?;
    let before = catalog(&client).await?;
    client
        .batch_execute(
            "set search_path = ''; set quote_all_identifiers = on;
             do $$
             declare
                 routine regprocedure;
                 view record;
             begin
                 for routine in
                     select d.objid from pg_catalog.pg_depend d
                      where d.classid = 'pg_catalog.pg_proc'::regclass and d.deptype = 'e'
                        and d.refobjid in (select oid from pg_catalog.pg_extension where extname = 'pg_loyalty')
                 loop
                     begin
                         execute pg_catalog.pg_get_functiondef(routine);
                     exception when syntax_error or undefined_object or undefined_column then
                         raise exception '%: %', routine, sqlerrm using errcode = sqlstate;
                     end;
                 end loop;
                 for view in
                     select oid::regclass as name, reloptions, pg_catalog.pg_get_viewdef(oid) as query
                       from pg_catalog.pg_class
                      where relkind = 'v' and relnamespace::regnamespace::text like '%loyalty%'
                 loop
                     execute pg_catalog.format('create or replace view %s with (%s) as %s', view.name,
                                     pg_catalog.array_to_string(view.reloptions, ', '), view.query);
                 end loop;
             end
             $$",
        )
        .await?;
    let found = differences_but_wording(&before, &catalog(&client).await?);
    ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

async fn version(client: &Client) -> Result<String> {
    let version = "select extversion from pg_extension where extname = 'pg_loyalty'";
    Ok(rows(client, version).await?.concat())
}

/// A ledger of an older version with something of every kind in it: what is stored and what it
/// answers stay as they were, and the next operations are answered as they would have been before,
/// with the new library under the old SQL, and in a database that never had another version.
#[tokio::test]
async fn upgrade_keeps_the_ledger_and_its_answers() -> Result<()> {
    for upgrade in &older()?.upgrades {
        keeps_the_ledger(upgrade)
            .await
            .with_context(|| format!("{upgrade:?}"))?;
    }
    Ok(())
}

async fn keeps_the_ledger(upgrade: &Upgrade) -> Result<()> {
    let cluster = older_cluster("upgraded").await?;
    let client = cluster.connect("points").await?;
    client.batch_execute(&upgrade.install()).await?;
    fill(&client).await?;
    let (rows_before, before) = (stored(&client).await?, answers(&client).await?);
    for (table, rows) in &rows_before {
        ensure!(!rows.is_empty(), "{table} is empty: nothing to be kept");
    }
    drop(client);
    create_database(&cluster, "behind", "points").await?;

    let client = cluster.connect("points").await?;
    client.batch_execute(&upgrade.update()).await?;
    ensure!(version(&client).await? == upgrade.to);
    same_rows(&rows_before, &as_in(&rows_before, &stored(&client).await?))?;
    similar(&before, &answers(&client).await?)?;
    let next = go_on(&client).await?;
    let after = answers(&client).await?;

    // between the package's upgrade and that of the extension
    let behind = cluster.connect("behind").await?;
    ensure!(version(&behind).await? == upgrade.from);
    similar(&before, &answers(&behind).await?).context("the old SQL")?;
    similar(&next, &go_on(&behind).await?).context("the old SQL")?;
    similar(&after, &answers(&behind).await?).context("the old SQL")?;

    // a database that was on the later version all along; what is random of logins stays out of it
    create_database(&cluster, "always", "template0").await?;
    create_database(&cluster, "once", "template0").await?;
    let always = cluster.connect("always").await?;
    let once = cluster.connect("once").await?;
    always.batch_execute(&upgrade.install_new()).await?;
    once.batch_execute(&upgrade.install()).await?;
    for client in [&always, &once] {
        client.batch_execute(RICH_LEDGER).await?;
        client.batch_execute("call loyalty.tick(3)").await?;
        // the times that go by the machine's clock
        client
            .batch_execute(
                "update loyalty.notice
                    set due_at = queued_at + (due_at - due_at), send_by = queued_at + (send_by - send_by),
                        leased_at = queued_at + (leased_at - leased_at), sent_at = queued_at + (sent_at - sent_at),
                        gave_up_at = queued_at + (gave_up_at - gave_up_at)",
            )
            .await?;
    }
    once.batch_execute(&upgrade.update()).await?;
    similar(&answers(&always).await?, &answers(&once).await?)?;
    similar(&go_on(&always).await?, &go_on(&once).await?)?;
    similar(&answers(&always).await?, &answers(&once).await?)?;

    let fresh = catalog(&always).await?;
    for client in [&client, &once] {
        let found = differences(&fresh, &catalog(client).await?);
        ensure!(found.is_empty(), "{}", found.join("\n"));
    }
    Ok(())
}

/// Sessions that go on through the update, with statements and plans that they made before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn upgrade_under_load_refuses_nobody() -> Result<()> {
    for upgrade in &older()?.upgrades {
        refuses_nobody(upgrade)
            .await
            .with_context(|| format!("{upgrade:?}"))?;
    }
    Ok(())
}

async fn refuses_nobody(upgrade: &Upgrade) -> Result<()> {
    let cluster = older_cluster("upgrade_load").await?;
    let client = cluster.connect("points").await?;
    client.batch_execute(&upgrade.install()).await?;
    client
        .batch_execute("alter role loyalty_authenticator login")
        .await?;
    client
        .batch_execute(
            "select loyalty.create_program('p', 'P');
             select loyalty.open_account('p', 'm' || n) from generate_series(1, 4) n;
             select loyalty.grant(n, 1000000) from generate_series(1, 4) n",
        )
        .await?;
    let api = Arc::new(cluster.api("points").await?);
    let over = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for number in 0..4_usize {
        let (session, api, over) = (cluster.connect("points").await?, api.clone(), over.clone());
        let done = Arc::new(AtomicUsize::new(0));
        let count = done.clone();
        // two of each kind, so that some accounts are fought for
        let account = i64::try_from(number % 2 + 1)?;
        workers.push((
            done,
            tokio::spawn(async move {
                if number < 2 {
                    by_sql(&session, account, number, &over, &count).await
                } else {
                    by_http(&api, account, number, &over, &count).await
                }
            }),
        ));
    }
    let each_did = async |more: usize| {
        let goals: Vec<usize> = workers
            .iter()
            .map(|(done, _)| done.load(Ordering::SeqCst) + more)
            .collect();
        while workers.iter().zip(&goals).any(|((done, worker), goal)| {
            !worker.is_finished() && done.load(Ordering::SeqCst) < *goal
        }) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    each_did(20).await;
    client.batch_execute(&upgrade.update()).await?;
    each_did(40).await;
    over.store(true, Ordering::SeqCst);
    let mut acknowledged = 0;
    for (done, worker) in workers {
        worker.await??;
        acknowledged += done.load(Ordering::SeqCst);
    }
    let found = rows(&client, "select count(*), count(distinct idempotency_key) from loyalty.entry where idempotency_key is not null").await?;
    ensure!(
        found == [format!("{acknowledged}|{acknowledged}")],
        "{found:?}, acknowledged {acknowledged}"
    );
    assert_sound(&client).await?;
    ensure!(version(&client).await? == upgrade.to);
    Ok(())
}

/// An application's session: prepared statements, kept through the update.
async fn by_sql(
    session: &Client,
    account: i64,
    number: usize,
    over: &AtomicBool,
    done: &AtomicUsize,
) -> Result<()> {
    let spend = session
        .prepare("select (loyalty.spend_fifo(account_id => $1, points => $2, idempotency_key => $3)).operation_id")
        .await?;
    let read = session.prepare("select * from loyalty.balance($1)").await?;
    let list = session
        .prepare("select * from loyalty.statement($1, current_date)")
        .await?;
    while !over.load(Ordering::SeqCst) {
        let key = format!("sql {number} {}", done.load(Ordering::SeqCst));
        session.query_one(&spend, &[&account, &1_i64, &key]).await?;
        done.fetch_add(1, Ordering::SeqCst);
        session.query_one(&read, &[&account]).await?;
        session.query(&list, &[&account]).await?;
    }
    Ok(())
}

/// A member's requests, through connections that PostgREST keeps.
async fn by_http(
    api: &loyalty_testkit::Api,
    account: i64,
    number: usize,
    over: &AtomicBool,
    done: &AtomicUsize,
) -> Result<()> {
    let token = api.token(
        &Claims::new(Role::Member, 600)?
            .program("p")
            .account_id(account),
    )?;
    let http = http::client().build()?;
    while !over.load(Ordering::SeqCst) {
        let key = format!("http {number} {}", done.load(Ordering::SeqCst));
        let spend = http
            .post(format!("{}/rpc/spend", api.url()))
            .bearer_auth(&token)
            .header("Idempotency-Key", &key)
            .json(&serde_json::json!({ "points": 1 }));
        let read = http
            .get(format!("{}/balance", api.url()))
            .bearer_auth(&token);
        for request in [spend, read] {
            let answer = request.send().await?;
            let (status, body) = (answer.status(), answer.text().await?);
            ensure!(status.is_success(), "{status}: {body}");
        }
        done.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}
