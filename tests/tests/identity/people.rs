//! Tokens of people, a program that has something for families, and calls at the same time.

use anyhow::{Context as _, Result};
use loyalty_testkit::http::Answer;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::world::{Member, World};

/// Far in the future of the machine's clock.
const NO_END: i64 = 4_102_444_800;

impl World {
    /// A token of a person without a session, as an identity provider of the organisation's own
    /// would have it.
    pub fn person(&self, role: &str, identity_id: i64, program: &str) -> Result<String> {
        self.claims(&json!({
            "role": role, "program": program, "sub": format!("identity:{identity_id}"), "exp": NO_END,
        }))
    }

    /// A member who has registered, and their token.
    pub async fn registered(&self, member: &Member, login_id: &str) -> Result<String> {
        let identity_id = self.enrol(member, Some(login_id)).await?;
        self.claims(&json!({
            "role": "loyalty_member", "program": member.program, "account_id": member.account_id,
            "sub": format!("identity:{identity_id}"), "exp": NO_END,
        }))
    }

    /// What of the access policy of `coin` is set anew.
    pub async fn policy(&self, settings: &str) -> Result<()> {
        let call = format!("select loyalty.set_access_policy(program => 'coin', {settings})");
        self.sql.batch_execute(&call).await?;
        Ok(())
    }

    /// Family of all relations may do so much.
    pub async fn family_may(&self, access: &str, monthly_limit: i64) -> Result<()> {
        self.policy(&format!(
            "family_relations => '{{spouse,parent,child,sibling,parent_in_law}}', family_degree => 2,
             family_access => '{access}', family_monthly_limit => {monthly_limit}"
        ))
        .await
    }

    pub async fn available(&self, member: &Member) -> Result<i64> {
        let query = "select available from loyalty.balance($1)";
        Ok(self
            .sql
            .query_one(query, &[&member.account_id])
            .await?
            .get(0))
    }

    /// How many rows a query has.
    pub async fn count(&self, from: &str) -> Result<i64> {
        let query = format!("select count(*) from {from}");
        Ok(self.sql.query_one(&query, &[]).await?.get(0))
    }

    /// The rows of a view.
    pub async fn rows(&self, token: &str, path: &str) -> Result<Vec<Value>> {
        let rows = self.get(token, path).await?.ok()?;
        Ok(rows.as_array().context("not an array")?.clone())
    }
}

/// The requests, all at the same time.
pub async fn at_once(requests: Vec<RequestBuilder>) -> Result<Vec<Answer>> {
    let running: Vec<_> = requests
        .into_iter()
        .map(|request| tokio::spawn(Answer::of(request)))
        .collect();
    let mut answers = Vec::new();
    for one in running {
        answers.push(one.await??);
    }
    Ok(answers)
}
