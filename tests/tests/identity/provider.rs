//! Single sign-on with an outside identity provider (P15): tokens signed with its own key,
//! which PostgREST checks by a JWK set, and which are worth what the link table says.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use base64ct::{Base64UrlUnpadded, Encoding};
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use loyalty_testkit::TestServer;
use loyalty_testkit::http::Answer;
use loyalty_testkit::os::Owner;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use reqwest::Method;
use rsa::pkcs1::EncodeRsaPrivateKey;
use serde_json::{Value, json};

use crate::world::{PASSWORD, Session, World};

pub const ISSUER: &str = "https://id.example.com";
pub const AUDIENCE: &str = "coin-site";

const KEY_ID: &str = "company";

/// A company's identity provider, as far as tokens go.
pub struct Provider {
    algorithm: Algorithm,
    signing: EncodingKey,
}

impl Provider {
    /// With a new RSA key.
    pub fn rs256() -> Result<Self> {
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048)?;
        Ok(Self {
            algorithm: Algorithm::RS256,
            signing: EncodingKey::from_rsa_der(key.to_pkcs1_der()?.as_bytes()),
        })
    }

    /// With a new key on the curve P-256.
    pub fn es256() -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Self {
            algorithm: Algorithm::ES256,
            signing: EncodingKey::from_ec_der(&key.serialize_der()),
        })
    }

    /// What it publishes for those who check its tokens.
    pub fn public(&self) -> Result<Value> {
        let mut key = Jwk::from_encoding_key(&self.signing, self.algorithm)?;
        key.common.public_key_use = Some(PublicKeyUse::Signature);
        key.common.key_id = Some(KEY_ID.to_owned());
        Ok(serde_json::to_value(key)?)
    }

    pub fn sign(&self, claims: &Value) -> Result<String> {
        self.sign_as(claims, KEY_ID)
    }

    /// With another name of the key.
    pub fn sign_as(&self, claims: &Value, key_id: &str) -> Result<String> {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(key_id.to_owned());
        Ok(jsonwebtoken::encode(&header, claims, &self.signing)?)
    }
}

/// The same token with another bit at that byte of its signature.
fn tampered(token: &str, place: usize) -> Result<String> {
    let (signed, signature) = token.rsplit_once('.').context("no signature")?;
    let mut signature = Base64UrlUnpadded::decode_vec(signature)?;
    *signature.get_mut(place).context("a shorter signature")? ^= 1;
    let signature = Base64UrlUnpadded::encode_string(&signature);
    Ok(format!("{signed}.{signature}"))
}

/// What a provider's token says of a person.
pub fn id_token(subject: &str) -> Result<Value> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Ok(json!({
        "iss": ISSUER, "aud": [AUDIENCE, "intranet"], "sub": subject, "exp": now + 600,
        "iat": now, "name": "山田 花子",
    }))
}

/// A world whose PostgREST believes the provider's key beside our own.
async fn start(label: &str, provider: &Provider) -> Result<World> {
    let mut world = World::start(label).await?;
    let server = TestServer::get()?;
    let own = std::fs::read_to_string(server.secret_dir.join("jwt.json"))?;
    let mut set: Value = serde_json::from_str(&own)?;
    let keys = set["keys"].as_array_mut().context("no keys")?;
    keys.push(provider.public()?);
    let owner = Owner::current()?;
    let path = server.dir.join(format!("{}-jwt.json", world.db.name()));
    owner.private_file(&path, &set.to_string())?;
    world.api = world
        .db
        .api_with_secret(&format!("@{}", path.display()))
        .await?;
    let set = json!({ "program": "coin", "issuer": ISSUER, "audience": AUDIENCE });
    world
        .rpc(&world.operator()?, "set_identity_provider", set)
        .await?
        .ok()?;
    Ok(world)
}

impl World {
    async fn link(&self, subject: &str, member_no: &str) -> Result<Answer> {
        let arguments = json!({ "issuer": ISSUER, "subject": subject, "member_no": member_no });
        self.rpc(&self.admin("coin")?, "link_subject", arguments)
            .await
    }
}

#[tokio::test]
async fn p15_a_companys_login_opens_the_members_account() -> Result<()> {
    let provider = Provider::rs256()?;
    let world = start("sso", &provider).await?;
    world
        .enrol(&world.hanako, Some("hanako@example.com"))
        .await?;
    let token = provider.sign(&id_token("staff-17")?)?;
    let subject = json!({ "issuer": ISSUER, "subject": "staff-17" });
    // not linked, linked, unlinked
    world.get(&token, "/balance").await?.refused(403, "LY010")?;
    world.link("staff-17", "H-1").await?.ok()?;
    let balance = world.get(&token, "/balance").await?.ok()?;
    assert_eq!(balance.as_array().map(Vec::len), Some(1));
    assert_eq!(balance[0]["account_id"], world.hanako.account_id);
    let spent = world
        .rpc(&token, "spend", json!({ "points": 10 }))
        .await?
        .ok()?;
    assert_eq!(spent["available"], 990);
    let actor = "select e.actor = 'loyalty_member:identity:' || l.identity_id
                   from loyalty.entry e join loyalty.identity_link l using (account_id)
                  where e.kind = 'spend'";
    assert_eq!(world.one(actor).await?, "(t)");
    // who it is when it manages the own logins
    let own = world.get(&token, "/rpc/own_sessions").await?.ok()?;
    assert_eq!(own, json!({ "sessions": [] }));
    world
        .rpc(&token, "log_out", json!({}))
        .await?
        .refused(403, "LY010")?;
    // our own tokens are as good as before
    let session = world.logged_in("hanako@example.com", "coin").await?;
    world.get(&session.access, "/balance").await?.ok()?;
    world.get(&world.admin("coin")?, "/balance").await?.ok()?;
    world
        .rpc(&world.admin("coin")?, "unlink_subject", subject.clone())
        .await?
        .ok()?;
    world.get(&token, "/balance").await?.refused(403, "LY010")?;
    world
        .rpc(&world.admin("coin")?, "unlink_subject", subject)
        .await?
        .refused(404, "LY002")?;
    Ok(())
}

/// Logging out everywhere ends the person's logins here, whatever program and role they are for. What
/// the provider signed is good until its end, or until the person is unlinked.
#[tokio::test]
async fn p15_logging_out_everywhere_ends_the_logins_here() -> Result<()> {
    let provider = Provider::rs256()?;
    let world = start("sso_out", &provider).await?;
    world
        .enrol(&world.hanako, Some("hanako@example.com"))
        .await?;
    let role = json!({ "login_id": "hanako@example.com", "role": "granter", "program": "mile" });
    let given = world.rpc(&world.operator()?, "give_role", role).await?;
    assert_eq!(given.ok()?["state"], "held");
    world.link("staff-17", "H-1").await?.ok()?;
    let token = provider.sign(&id_token("staff-17")?)?;
    let member = world.logged_in("hanako@example.com", "coin").await?;
    let granter = json!({
        "login_id": "hanako@example.com", "password": PASSWORD, "program": "mile", "role": "granter",
    });
    let granter = Session::of(world.rpc("", "log_in", granter).await?.ok()?)?;

    let out = world.rpc(&token, "log_out_everywhere", json!({})).await?;
    assert_eq!(out.ok()?, json!({ "ended": 2 }));
    for session in [&member, &granter] {
        world
            .get(&session.access, "/rpc/own_sessions")
            .await?
            .refused(401, "LY009")?;
        let refreshing = json!({ "refresh_token": session.refresh });
        world
            .rpc("", "refresh", refreshing)
            .await?
            .refused(401, "LY009")?;
    }
    world.get(&token, "/balance").await?.ok()?;
    let subject = json!({ "issuer": ISSUER, "subject": "staff-17" });
    world
        .rpc(&world.admin("coin")?, "unlink_subject", subject)
        .await?
        .ok()?;
    world.get(&token, "/balance").await?.refused(403, "LY010")?;
    Ok(())
}

/// A member who never registered here: only the provider opens the login.
#[tokio::test]
async fn p15_who_never_registered_needs_no_password() -> Result<()> {
    let provider = Provider::rs256()?;
    let world = start("sso_new", &provider).await?;
    world.link("staff-18", "T-1").await?.ok()?;
    let token = provider.sign(&id_token("staff-18")?)?;
    let balance = world.get(&token, "/balance").await?.ok()?;
    assert_eq!(balance[0]["account_id"], world.taro.account_id);
    world
        .rpc(
            &token,
            "change_password",
            json!({ "old_password": "", "new_password": "coin2026xyz" }),
        )
        .await?
        .refused(401, "LY009")?;
    // what closes the login, or the account, closes this way in
    let admin = world.admin("coin")?;
    let act = async |call: &str| world.rpc(&admin, call, json!({ "login_id": "T-1" })).await;
    act("suspend_identity").await?.ok()?;
    world.get(&token, "/balance").await?.refused(403, "LY010")?;
    act("resume_identity").await?.ok()?;
    world.get(&token, "/balance").await?.ok()?;
    let suspend = format!("select loyalty.suspend_account({})", world.taro.account_id);
    world.sql.batch_execute(&suspend).await?;
    world.get(&token, "/balance").await?.refused(403, "LY010")?;
    Ok(())
}

/// The other algorithm: a key on a curve proves as much as an RSA key, and no more.
#[tokio::test]
async fn p15_a_provider_may_sign_with_es256() -> Result<()> {
    let provider = Provider::es256()?;
    let world = start("sso_es256", &provider).await?;
    let claims = id_token("staff-17")?;
    let token = provider.sign(&claims)?;
    world.get(&token, "/balance").await?.refused(403, "LY010")?;
    world.link("staff-17", "H-1").await?.ok()?;
    let balance = world.get(&token, "/balance").await?.ok()?;
    assert_eq!(balance[0]["account_id"], world.hanako.account_id);
    world
        .rpc(&token, "spend", json!({ "points": 10 }))
        .await?
        .ok()?;
    // each of the signature's two numbers, 32 bytes long
    for place in [0, 31, 32, 63] {
        let answer = world.get(&tampered(&token, place)?, "/balance").await?;
        assert_eq!(answer.status, 401, "byte {place}");
    }
    for stranger in [Provider::es256()?, Provider::rs256()?] {
        let token = stranger.sign(&claims)?;
        assert_eq!(world.get(&token, "/balance").await?.status, 401);
    }
    Ok(())
}

/// A provider vouches for who somebody is, and for nothing else.
#[tokio::test]
async fn p15_what_a_provider_says_of_rights_is_not_believed() -> Result<()> {
    let provider = Provider::rs256()?;
    let world = start("sso_rights", &provider).await?;
    world
        .enrol(&world.hanako, Some("hanako@example.com"))
        .await?;
    world.link("staff-17", "H-1").await?.ok()?;
    let other = world.taro.account_id;
    let session = world.logged_in("hanako@example.com", "coin").await?;
    for (claim, value) in [
        ("role", json!("loyalty_operator")),
        ("role", json!("loyalty_admin")),
        ("role", json!("loyalty_granter")),
        ("account_id", json!(other)),
        ("program", json!("mile")),
        ("sid", session.body["session_id"].clone()),
    ] {
        let mut claims = id_token("staff-17")?;
        claims[claim] = value;
        let token = provider.sign(&claims)?;
        let seen = world.get(&token, "/balance").await?.ok()?;
        assert_eq!(seen[0]["account_id"], world.hanako.account_id, "{claim}");
        assert_eq!(seen.as_array().map(Vec::len), Some(1), "{claim}");
        let grant = json!({ "account_id": world.hanako.account_id, "points": 1 });
        world
            .rpc(&token, "grant", grant)
            .await?
            .refused(403, "LY010")?;
        world
            .rpc(&token, "spend", json!({ "account_id": other, "points": 1 }))
            .await?
            .refused(403, "LY010")?;
        assert_eq!(world.get(&token, "/schedule").await?.status, 403, "{claim}");
    }
    // a role that PostgREST may not become is refused by the database already
    let mut claims = id_token("staff-17")?;
    claims["role"] = json!("postgres");
    ensure!(
        [401, 403].contains(
            &world
                .get(&provider.sign(&claims)?, "/balance")
                .await?
                .status
        )
    );
    // signed by the provider, but pretending to be ours
    for issuer in [
        json!("loyalty"),
        Value::Null,
        json!("https://elsewhere.example.com"),
    ] {
        for role in ["loyalty_operator", "loyalty_member", "loyalty_admin"] {
            let mut claims = id_token("identity:1")?;
            claims["iss"] = issuer.clone();
            claims["role"] = json!(role);
            claims["program"] = json!("coin");
            claims["account_id"] = json!(world.hanako.account_id);
            let token = provider.sign(&claims)?;
            world.get(&token, "/balance").await?.refused(401, "LY009")?;
            world
                .rpc(&token, "spend", json!({ "points": 1 }))
                .await?
                .refused(401, "LY009")?;
            // nor with a token of ours beside it: PostgREST checks the first and shows the last
            let request = world.request(Method::GET, &token, "/balance");
            let two =
                Answer::of(request.header("Authorization", format!("Bearer {}", session.access)))
                    .await?;
            if role != "loyalty_member" {
                two.refused(401, "LY009")?;
            }
        }
    }
    Ok(())
}

/// Tokens for somebody else, without an end, over, or signed by nobody known.
#[tokio::test]
async fn p15_tokens_that_prove_nothing_here() -> Result<()> {
    let provider = Provider::rs256()?;
    let world = start("sso_proof", &provider).await?;
    world.link("staff-17", "H-1").await?.ok()?;
    for (claim, value) in [
        ("aud", json!("intranet")),
        ("aud", json!(["intranet"])),
        ("aud", Value::Null),
        ("iss", json!("https://id.example.com/")),
        ("exp", Value::Null),
    ] {
        let mut claims = id_token("staff-17")?;
        claims[claim] = value;
        if claims[claim].is_null() {
            claims.as_object_mut().context("claims")?.remove(claim);
        }
        let token = provider.sign(&claims)?;
        let answer = world.get(&token, "/balance").await?;
        answer
            .refused(401, "LY009")
            .with_context(|| format!("{claim}: {claims}"))?;
    }
    for subject in ["staff-1", "STAFF-17", "staff-17 ", "' or true --"] {
        let token = provider.sign(&id_token(subject)?)?;
        world.get(&token, "/balance").await?.refused(403, "LY010")?;
    }
    let mut over = id_token("staff-17")?;
    over["exp"] = json!(1_700_000_000);
    assert_eq!(
        world.get(&provider.sign(&over)?, "/balance").await?.status,
        401
    );
    let stranger = Provider::rs256()?;
    let token = stranger.sign(&id_token("staff-17")?)?;
    assert_eq!(world.get(&token, "/balance").await?.status, 401);
    let token = tampered(&provider.sign(&id_token("staff-17")?)?, 0)?;
    assert_eq!(world.get(&token, "/balance").await?.status, 401);
    // the audience alone, as a text
    let mut plain = id_token("staff-17")?;
    plain["aud"] = json!(AUDIENCE);
    world.get(&provider.sign(&plain)?, "/balance").await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn p15_providers_are_the_operators_and_links_the_administrators() -> Result<()> {
    let provider = Provider::rs256()?;
    let world = start("sso_admin", &provider).await?;
    let admin = world.admin("coin")?;
    let set = json!({ "program": "coin", "issuer": "https://other.example.com", "audience": "x" });
    world
        .rpc(&admin, "set_identity_provider", set.clone())
        .await?
        .refused(403, "LY010")?;
    world
        .rpc(&world.operator()?, "set_identity_provider", set)
        .await?
        .ok()?;
    let taken = json!({ "program": "mile", "issuer": ISSUER, "audience": "x" });
    world
        .rpc(&world.operator()?, "set_identity_provider", taken)
        .await?
        .refused(400, "22023")?;
    let long = "x".repeat(501);
    for (issuer, audience) in [("", "x"), ("loyalty", "x"), (ISSUER, ""), (ISSUER, &long)] {
        let set = json!({ "program": "coin", "issuer": issuer, "audience": audience });
        world
            .rpc(&world.operator()?, "set_identity_provider", set)
            .await?
            .refused(400, "22023")?;
    }
    let link = json!({ "issuer": ISSUER, "subject": "staff-1", "member_no": "H-1" });
    world
        .rpc(&world.granter("coin")?, "link_subject", link.clone())
        .await?
        .refused(403, "LY010")?;
    world
        .rpc(&world.admin("mile")?, "link_subject", link.clone())
        .await?
        .refused(404, "LY002")?;
    world.link("staff-1", "none").await?.refused(404, "LY002")?;
    world.rpc(&admin, "link_subject", link).await?.ok()?;
    let remove = json!({ "issuer": ISSUER });
    world
        .rpc(&admin, "remove_identity_provider", remove.clone())
        .await?
        .refused(403, "LY010")?;
    world
        .rpc(&world.operator()?, "remove_identity_provider", remove)
        .await?
        .ok()?;
    let token = provider.sign(&id_token("staff-1")?)?;
    world.get(&token, "/balance").await?.refused(401, "LY009")?;
    let audited = "select count(*) from loyalty.audit a
                    where a.action in ('set_identity_provider', 'link_subject', 'remove_identity_provider')";
    assert_eq!(world.one(audited).await?, "(4)");
    Ok(())
}
