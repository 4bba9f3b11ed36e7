//! What the API is asked, at this size and with these statistics: no request reads a table that
//! grows with the members from end to end.

use anyhow::{Context as _, Result};
use tokio_postgres::Client;

use super::calls::program_code;
use super::figures::Figures;
use super::fill::member_no;
use super::shape::Platform;
use crate::bench::progress::Progress;
use loyalty_testkit::plans::{Asker, read_whole, request};

/// Who asks and for what; {account} and {member} are of a program that the asker is of.
#[rustfmt::skip]
const REQUESTS: [(&str, &str); 23] = [
    ("loyalty_member", "select * from loyalty_api.balance"),
    ("loyalty_member", "select * from loyalty_api.lot"),
    ("loyalty_member", "select * from loyalty_api.statement order by entry desc limit 50"),
    ("loyalty_member", "select * from loyalty_api.statement order by occurred_at desc limit 50"),
    ("loyalty_member", "select * from loyalty_api.statement where kind = 'spend'"),
    ("loyalty_member", "select * from loyalty_api.statement where idempotency_key = 'none'"),
    ("loyalty_member", "select * from loyalty_api.member"),
    ("loyalty_member", "select * from loyalty_api.notice_preference"),
    ("loyalty_member", "select * from loyalty_api.explain_spend(points => 1)"),
    ("loyalty_member", "select loyalty_api.spend(points => 1, idempotency_key => 'plan')"),
    ("loyalty_member", "select loyalty_api.hold(points => 1)"),
    ("loyalty_admin", "select * from loyalty_api.balance where member_no = '{member}'"),
    ("loyalty_admin", "select * from loyalty_api.balance where account_id = {account}"),
    ("loyalty_admin", "select * from loyalty_api.balance order by account_id limit 50"),
    ("loyalty_admin", "select * from loyalty_api.balance order by member_no limit 50"),
    ("loyalty_admin", "select * from loyalty_api.lot where account_id = {account}"),
    ("loyalty_admin", "select * from loyalty_api.statement where account_id = {account} order by entry desc limit 50"),
    ("loyalty_admin", "select * from loyalty_api.member where member_no = '{member}'"),
    ("loyalty_admin", "select * from loyalty_api.member order by account_id limit 50"),
    ("loyalty_admin", "select loyalty_api.grant(account_id => {account}, points => 1)"),
    ("loyalty_admin", "select * from loyalty_api.preview(months => 12)"),
    ("loyalty_operator", "select * from loyalty_api.balance where account_id = {account}"),
    ("loyalty_operator", "select * from loyalty_api.statement where account_id = {account} order by entry desc limit 50"),
];

/// Each request for an account of the largest program and one of the smallest, by plans for the
/// values given and by plans for any.
pub async fn look(client: &Client, platform: &Platform, figures: &mut Figures) -> Result<()> {
    let of = |program: usize| {
        (0..platform.members)
            .find(|&account| {
                platform.program_of(account) == program && platform.has_points(account)
            })
            .with_context(|| format!("nobody in program {program} has points"))
    };
    let accounts = [of(0)?, of(platform.sizes.len() - 1)?];
    let progress = Progress::phase("plans", 4 * REQUESTS.len() as u64)?;
    let asker = Asker::new(client).await?;
    let before = figures.findings.len();
    for account in accounts {
        let program = program_code(platform.program_of(account));
        for mode in ["force_custom_plan", "force_generic_plan"] {
            client
                .batch_execute(&format!("set plan_cache_mode = {mode}"))
                .await?;
            for (role, query) in REQUESTS {
                let query = query
                    .replace("{account}", &(account + 1).to_string())
                    .replace("{member}", &member_no(account));
                let claims = match role {
                    "loyalty_member" => format!(
                        r#"{{"role": "{role}", "program": "{program}", "account_id": {}}}"#,
                        account + 1
                    ),
                    "loyalty_admin" => format!(r#"{{"role": "{role}", "program": "{program}"}}"#),
                    _ => format!(r#"{{"role": "{role}"}}"#),
                };
                client.batch_execute("begin").await?;
                let path = "/rpc/spend";
                asker.enter(client, role, &claims, "POST", path).await?;
                let whole = read_whole(client, role, async || {
                    client
                        .query(&request(&query), &[])
                        .await
                        .with_context(|| query.clone())?;
                    Ok(())
                });
                for table in whole.await? {
                    figures.findings.push(format!(
                        "{mode}, program {program}: {role} reads all of loyalty.{table}: {query}"
                    ));
                }
                client.batch_execute("rollback").await?;
                progress.advance(1);
            }
        }
    }
    client.batch_execute("reset plan_cache_mode").await?;
    progress.end();
    figures.notes.push(format!(
        "{} members: {} requests, for the largest program and the smallest: {} read a table that grows with the members from end to end.",
        crate::bench::report::grouped(platform.members as f64),
        REQUESTS.len(),
        match figures.findings.len() - before {
            0 => "none".to_owned(),
            some => some.to_string(),
        },
    ));
    Ok(())
}
