//! Requests as PostgREST makes them, straight to the database: to time their queries, and to see
//! what they read.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use tokio_postgres::{Client, Statement};

use crate::token;

/// The statement that PostgREST makes of a read: the rows as one JSON text, with their number.
pub fn request(query: &str) -> String {
    format!(
        "with pgrst_source as ({query})\n\
         select null::bigint as total_result_set,\n\
         pg_catalog.count(_postgrest_t) as page_total,\n\
         coalesce(json_agg(_postgrest_t), '[]')::text as body,\n\
         nullif(current_setting('response.headers', true), '') as response_headers,\n\
         nullif(current_setting('response.status', true), '') as response_status\n\
         from (select * from pgrst_source) _postgrest_t"
    )
}

/// Begins transactions as PostgREST does: with the role, the claims and the request set, and
/// looked at by `loyalty.pre_request()`. The client is a superuser's, who may sign tokens.
pub struct Asker {
    sign: Statement,
    settings: Statement,
    pre_request: Statement,
}

impl Asker {
    pub async fn new(client: &Client) -> Result<Self> {
        let settings = client
            .prepare(
                "select set_config('search_path', 'loyalty_api, public', true),\n\
                 set_config('role', $1, true), set_config('request.jwt.claims', $2, true),\n\
                 set_config('request.method', $3, true), set_config('request.path', $4, true),\n\
                 set_config('request.headers', $5, true),\n\
                 set_config('request.cookies', '{}', true)",
            )
            .await?;
        let pre_request = client.prepare("select loyalty.pre_request()").await?;
        let sign = client
            .prepare("select loyalty_private.sign_token($1)")
            .await?;
        Ok(Self {
            sign,
            settings,
            pre_request,
        })
    }

    pub async fn begin(
        &self,
        client: &Client,
        role: &str,
        claims: &str,
        method: &str,
        path: &str,
    ) -> Result<()> {
        let kind = if method == "GET" {
            "read only"
        } else {
            "read write"
        };
        client
            .batch_execute(&format!("begin isolation level read committed {kind}"))
            .await?;
        self.enter(client, role, claims, method, path).await
    }

    /// The same in a transaction that has begun.
    pub async fn enter(
        &self,
        client: &Client,
        role: &str,
        claims: &str,
        method: &str,
        path: &str,
    ) -> Result<()> {
        let mut claims: Value = token::with_end(serde_json::from_str(claims)?)?;
        claims["role"] = json!(role);
        let claims = claims.to_string();
        let token: String = client.query_one(&self.sign, &[&claims]).await?.get(0);
        let headers = token::headers(&token);
        client
            .query(&self.settings, &[&role, &claims, &method, &path, &headers])
            .await?;
        client.query(&self.pre_request, &[]).await?;
        Ok(())
    }
}

/// Tables that have a row or more for each program, and not for each member: the others must not
/// be read from end to end.
pub const SMALL: &str = "{access_policy,calendar,calendar_day,identity_provider,lot_class,member_upload,notice_sender,\
    notice_setting,notice_template,program,program_role,rule,run,schedule,service_hours}";

/// Tables that grow with the members and that `ask` reads from end to end, asked by `role` in the
/// transaction that the client is in.
pub async fn read_whole(
    client: &Client,
    role: &str,
    ask: impl AsyncFnOnce() -> Result<()>,
) -> Result<Vec<String>> {
    client.batch_execute("reset role").await?;
    let before = scanned(client).await?;
    client
        .batch_execute(&format!("set local role {role}"))
        .await?;
    ask().await?;
    client.batch_execute("reset role").await?;
    Ok(scanned(client)
        .await?
        .into_iter()
        .filter(|(table, scans)| *scans > before.get(table).copied().unwrap_or(0))
        .map(|(table, _)| table)
        .collect())
}

/// How often each of these was read from end to end in this transaction, but for empty ones.
async fn scanned(client: &Client) -> Result<BTreeMap<String, i64>> {
    let rows = client
        .query(
            &format!(
                "select relname::text, seq_scan from pg_catalog.pg_stat_xact_all_tables\n\
                 where schemaname = 'loyalty' and relname <> all ('{SMALL}')\n\
                 and pg_relation_size(relid) > 0"
            ),
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
