//! Tokens that are expired, unsigned, wrongly signed, tampered with, or of the wrong role,
//! program or account.

use crate::world::{World, points_of};
use anyhow::{Context, Result};
use loyalty_testkit::http::Answer;
use loyalty_testkit::token::{self, Claims, Role};
use serde_json::{Value, json};

/// base64url of `{"alg":"none","typ":"JWT"}`
const UNSIGNED_HEADER: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";

/// Another token's claims under this token's signature.
fn tampered(token: &str, other: &str) -> Result<String> {
    let parts: Vec<&str> = token.split('.').collect();
    let claims = other.split('.').nth(1).context("no claims")?;
    Ok(format!("{}.{claims}.{}", parts[0], parts[2]))
}

/// Tries to read, to spend and to grant.
async fn attempts(world: &World, token: &str) -> Result<Vec<Answer>> {
    Ok(vec![
        world.get(token, "/balance").await?,
        world.get(token, "/statement").await?,
        world.rpc(token, "spend", points_of(world.ann, 1)).await?,
        world.rpc(token, "grant", points_of(world.ann, 1)).await?,
        world
            .rpc(
                token,
                "grant_many",
                json!({"items": [points_of(world.ann, 1)]}),
            )
            .await?,
    ])
}

/// PostgREST refuses these before it asks the database, so the hint is not ours to give.
#[tokio::test]
async fn tokens_that_prove_nothing() -> Result<()> {
    let world = World::start("token_proof").await?;
    let before = world.ledger().await?;
    let claims = Claims::new(Role::Member, 600)?
        .program("coin")
        .account_id(world.ann);
    let good = world.api.token(&claims)?;
    let payload = good.split('.').nth(1).context("no claims")?;
    let expired = Claims::new(Role::Member, -120)?
        .program("coin")
        .account_id(world.ann);
    let bad = [
        ("expired", world.api.token(&expired)?),
        ("unsigned", format!("{UNSIGNED_HEADER}.{payload}.")),
        (
            "wrongly signed",
            token::sign(&claims, "another secret of at least 32 bytes")?,
        ),
        ("role tampered with", tampered(&good, &world.admin()?)?),
        (
            "account tampered with",
            tampered(&good, &world.member(world.bob)?)?,
        ),
        (
            "signature cut off",
            good.rsplit_once('.').context("no parts")?.0.to_owned(),
        ),
        ("not a token", "x".to_owned()),
    ];
    for (what, token) in bad {
        for answer in attempts(&world, &token).await? {
            answer.error(401, "PGRST301").with_context(|| what)?;
            assert!(
                answer.header("WWW-Authenticate").starts_with("Bearer"),
                "{what}"
            );
        }
        // nor the OpenAPI page, which needs no token
        assert_eq!(world.get(&token, "/").await?.status, 401, "{what}");
    }
    assert_eq!(world.ledger().await?, before);
    Ok(())
}

/// Well signed, but with claims that name nobody.
#[tokio::test]
async fn tokens_without_what_they_need() -> Result<()> {
    let world = World::start("token_claims").await?;
    let before = world.ledger().await?;
    let (ann, zoe) = (world.ann, world.zoe);
    let anonymous: [Value; 3] = [
        json!({}),
        json!({"program": "coin", "account_id": ann}),
        json!({"role": "loyalty_anon", "program": "coin", "account_id": ann}),
    ];
    for claims in anonymous {
        for answer in attempts(&world, &world.claims(claims)?).await? {
            answer.refused(401, "LY009")?;
        }
    }
    let members: [Value; 8] = [
        json!({"role": "loyalty_member"}),
        json!({"role": "loyalty_member", "account_id": ann}),
        json!({"role": "loyalty_member", "program": "coin"}),
        json!({"role": "loyalty_member", "program": "mile", "account_id": ann}),
        json!({"role": "loyalty_member", "program": "coin", "account_id": zoe}),
        json!({"role": "loyalty_member", "program": "nowhere", "account_id": ann}),
        json!({"role": "loyalty_member", "program": "coin", "account_id": "1 or true"}),
        json!({"role": "loyalty_member", "program": ["coin"], "account_id": [ann]}),
    ];
    for claims in members {
        for answer in attempts(&world, &world.claims(claims)?).await? {
            answer.refused(403, "LY010")?;
        }
    }
    for role in ["loyalty_admin", "loyalty_granter"] {
        for program in [json!(null), json!("nowhere"), json!("coin' or true --")] {
            let token = world.claims(json!({"role": role, "program": program}))?;
            for answer in attempts(&world, &token).await? {
                answer.refused(403, "LY010")?;
            }
        }
    }
    assert_eq!(world.ledger().await?, before);
    Ok(())
}

/// Roles that are not for HTTP: PostgreSQL refuses the change of role, or all that follows.
#[tokio::test]
async fn tokens_of_a_role_that_is_not_for_http() -> Result<()> {
    let world = World::start("token_role").await?;
    let before = world.ledger().await?;
    let refused = [
        ("postgres", 403, "42501"),
        ("pg_write_all_data", 403, "42501"),
        ("loyalty_authenticator", 403, "42501"),
        ("nobody", 400, "22023"),
        (
            "loyalty_admin\"; drop table loyalty.entry; --",
            400,
            "22023",
        ),
    ];
    for (role, status, code) in refused {
        let claims = json!({"role": role, "program": "coin", "account_id": world.ann});
        for answer in attempts(&world, &world.claims(claims)?).await? {
            answer.error(status, code).with_context(|| role)?;
        }
    }
    assert_eq!(world.ledger().await?, before);
    Ok(())
}

/// The claims of one request are gone in the next on the same pooled connection.
#[tokio::test]
async fn claims_do_not_outlive_their_request() -> Result<()> {
    let world = World::start("token_reuse").await?;
    let without = world.claims(json!({"role": "loyalty_member"}))?;
    for _ in 0..30 {
        world
            .get(&world.member(world.ann)?, "/balance")
            .await?
            .row()?;
        world
            .get(&without, "/balance")
            .await?
            .refused(403, "LY010")?;
        world.get("", "/balance").await?.refused(401, "LY009")?;
    }
    Ok(())
}
