//! Tokens (JWT, HS256) for the roles that PostgREST switches to.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64ct::{Base64UrlUnpadded, Encoding};
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    Member,
    Granter,
    Admin,
    Operator,
}

impl Role {
    /// The database role behind it.
    pub fn database_role(self) -> &'static str {
        match self {
            Self::Member => "loyalty_member",
            Self::Granter => "loyalty_granter",
            Self::Admin => "loyalty_admin",
            Self::Operator => "loyalty_operator",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claims {
    pub role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_id: Option<i64>,
    /// Seconds since 1970 by the real clock: PostgREST knows no other.
    pub exp: i64,
}

impl Claims {
    /// Claims that end `expires_in_seconds` from now; negative: ended already.
    pub fn new(role: Role, expires_in_seconds: i64) -> Result<Self> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the machine's clock is before 1970")?;
        Ok(Self {
            role: role.database_role().to_owned(),
            program: None,
            account_id: None,
            exp: i64::try_from(now.as_secs())? + expires_in_seconds,
        })
    }

    pub fn program(mut self, code: &str) -> Self {
        self.program = Some(code.to_owned());
        self
    }

    pub fn account_id(mut self, account_id: i64) -> Self {
        self.account_id = Some(account_id);
        self
    }
}

/// Any claims, with an end in ten minutes where they say none: a token without one is refused.
pub fn with_end(mut claims: Value) -> Result<Value> {
    if claims.is_object() && claims.get("exp").is_none() {
        claims["exp"] = json!(Claims::new(Role::Member, 600)?.exp);
    }
    Ok(claims)
}

/// The claims of a token, as PostgREST shows them where they name a role.
pub fn claims(token: &str) -> Result<Value> {
    let claims = token.split('.').nth(1).context("no claims")?;
    let claims = Base64UrlUnpadded::decode_vec(claims).map_err(anyhow::Error::msg)?;
    Ok(serde_json::from_slice(&claims)?)
}

/// The setting `request.headers` of a request that carries a token.
pub fn headers(token: &str) -> String {
    json!({ "authorization": format!("Bearer {token}") }).to_string()
}

/// Signs any claims; tests also sign wrong ones.
pub fn sign<T: Serialize>(claims: &T, secret: &str) -> Result<String> {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::default(), claims, &key).context("the token cannot be signed")
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode};
    use serde_json::Value;

    use super::{Claims, Role, sign};

    const SECRET: &str = "a secret of at least thirty-two bytes";

    #[test]
    fn a_token_carries_what_row_security_reads() -> anyhow::Result<()> {
        let claims = Claims::new(Role::Member, 60)?.program("coin").account_id(7);
        let key = DecodingKey::from_secret(SECRET.as_bytes());
        let token = sign(&claims, SECRET)?;
        let read: Value = decode(&token, &key, &Validation::default())?.claims;
        assert_eq!(read["role"], "loyalty_member");
        assert_eq!(read["program"], "coin");
        assert_eq!(read["account_id"], 7);
        let other = DecodingKey::from_secret(b"another secret of thirty-two bytes");
        assert!(decode::<Value>(&token, &other, &Validation::default()).is_err());
        Ok(())
    }
}
