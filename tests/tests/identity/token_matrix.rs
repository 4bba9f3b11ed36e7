//! Whose rights a request has: who signed its token, what it claims, and what the server knows of
//! providers, in every combination, each asked of the real PostgREST. What must be answered is
//! said here by an oracle that knows who signed what, and nothing of how the server finds out.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use base64ct::{Base64UrlUnpadded, Encoding};
use futures_util::stream::{self, StreamExt as _};
use loyalty_secret::key::{self, Key};
use loyalty_testkit::http::{self, Answer};
use loyalty_testkit::os::Owner;
use loyalty_testkit::token::claims as claims_of;
use loyalty_testkit::{Api, TestServer};
use loyalty_tests::{request_state, rows};
use reqwest::Method;
use serde_json::{Value, json};

use crate::provider::{AUDIENCE, ISSUER, Provider, id_token};
use crate::world::{PASSWORD, Session, World};

const HANAKO: &str = "hanako@example.com";
const TARO: &str = "taro@example.com";
/// The staff member whom the provider knows, and who is Hanako here.
const SUBJECT: &str = "staff-17";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Signer {
    Ours,
    /// A key of ours that is not the one in use.
    OursBefore,
    /// The key that the provider's tokens are signed with.
    Provider,
    /// Another public key in PostgREST's set.
    Unknown,
    /// No key of the set.
    Stranger,
    Nobody,
}

const SIGNERS: [Signer; 6] = [
    Signer::Ours,
    Signer::OursBefore,
    Signer::Provider,
    Signer::Unknown,
    Signer::Stranger,
    Signer::Nobody,
];

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum State {
    NoProvider,
    Linked,
    Removed,
}

const STATES: [State; 3] = [State::NoProvider, State::Linked, State::Removed];

/// What connections without a past are asked with, a different one first each time.
const COLD: [&str; 6] = [
    "operator, as it is",
    "member, as it is",
    "the provider's, role Some(\"loyalty_operator\")",
    "operator by a service",
    "the provider's, role None",
    "member by a service",
];

/// A token's claims, and for whom it is good when a key of ours signed it.
struct Case {
    name: String,
    claims: Value,
    /// Whose rights it has under our key.
    ours: Rights,
    /// Under a key of the provider's: whether it is a token of the provider's for Hanako.
    is_hanakos: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rights {
    /// Of the account's holder.
    Member(i64),
    Granter,
    Admin,
    Operator,
    /// Signed well, but it is over, or says what is not so of a login: 401.
    Over,
    /// Signed well, and names nobody: 403.
    Misfit,
}

struct Site {
    world: World,
    /// PostgREST with all keys: connections are made and used again by every token.
    warm: Api,
    provider: Provider,
    unknown: Provider,
    stranger: Provider,
    before: Key,
    secret_dir: PathBuf,
}

/// All keys that PostgREST accepts.
const ALL: &str = "postgrest.json";

async fn postgrest(world: &World, secret_dir: &Path) -> Result<Api> {
    let keys = format!("@{}", secret_dir.join(ALL).display());
    world.db.api_with_secret(&keys).await
}

impl Drop for Site {
    fn drop(&mut self) {
        // a rest in the test server's directory harms nobody
        let _ = std::fs::remove_dir_all(&self.secret_dir);
    }
}

impl Site {
    async fn start(label: &str) -> Result<Self> {
        let mut world = World::start(label).await?;
        let (provider, unknown, stranger) =
            (Provider::es256()?, Provider::rs256()?, Provider::es256()?);
        let server = TestServer::get()?;
        let owner = Owner::current()?;
        // our keys, two of them, where the server looks
        let secret_dir = server.dir.join(format!("{}-keys", world.db.name()));
        owner.private_dir(&secret_dir)?;
        let own = std::fs::read_to_string(server.secret_dir.join("jwt.json"))?;
        let mut set: Value = serde_json::from_str(&own)?;
        let before: Value = serde_json::from_str(&key::generate("before")?)?;
        let keys = set["keys"].as_array_mut().context("no keys")?;
        keys.push(before["keys"][0].clone());
        owner.private_file(&secret_dir.join("jwt.json"), &set.to_string())?;
        let pepper = std::fs::read_to_string(server.secret_dir.join("pepper.json"))?;
        owner.private_file(&secret_dir.join("pepper.json"), &pepper)?;
        let dir = secret_dir.display();
        world
            .sql
            .batch_execute(&format!(
                "alter database {} set loyalty.secret_dir = '{dir}'; set loyalty.secret_dir = '{dir}'",
                world.db.name()
            ))
            .await?;
        // PostgREST accepts two keys more
        let keys = set["keys"].as_array_mut().context("no keys")?;
        keys.push(provider.public()?);
        let mut other = unknown.public()?;
        other["kid"] = json!("unknown");
        keys.push(other);
        owner.private_file(&secret_dir.join(ALL), &set.to_string())?;
        let warm = postgrest(&world, &secret_dir).await?;
        world.api = postgrest(&world, &secret_dir).await?;
        let before = key::read(&before.to_string())?;
        Ok(Self {
            world,
            warm,
            provider,
            unknown,
            stranger,
            before: before.into_iter().next().context("no key")?,
            secret_dir,
        })
    }

    async fn postgrest(&self) -> Result<Api> {
        postgrest(&self.world, &self.secret_dir).await
    }

    fn sign(&self, signer: Signer, claims: &Value) -> Result<String> {
        let part = |value: &Value| Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
        Ok(match signer {
            Signer::Ours => self.warm.token(claims)?,
            Signer::OursBefore => {
                let claims = claims.as_object().context("claims")?;
                loyalty_secret::token::sign(&self.before, claims)
            }
            Signer::Provider => self.provider.sign(claims)?,
            Signer::Unknown => self.unknown.sign_as(claims, "unknown")?,
            Signer::Stranger => self.stranger.sign(claims)?,
            Signer::Nobody => format!(
                "{}.{}.",
                part(&json!({ "alg": "none", "typ": "JWT" })),
                part(claims)
            ),
        })
    }

    async fn set_state(&self, state: State) -> Result<()> {
        let operator = self.world.operator()?;
        let call = async |function: &str, arguments: Value| {
            self.world.rpc(&operator, function, arguments).await?.ok()
        };
        match state {
            State::NoProvider => {}
            State::Linked => {
                let provider = json!({ "program": "coin", "issuer": ISSUER, "audience": AUDIENCE });
                call("set_identity_provider", provider).await?;
                let link = json!({
                    "program": "coin", "issuer": ISSUER, "subject": SUBJECT, "member_no": "H-1",
                });
                call("link_subject", link).await?;
            }
            State::Removed => {
                call("remove_identity_provider", json!({ "issuer": ISSUER })).await?;
            }
        }
        Ok(())
    }
}

/// What an answer lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Done,
    Forbidden,
    NotSignedIn,
}

fn outcome(answer: &Answer) -> Option<Outcome> {
    match answer.status {
        200 => Some(Outcome::Done),
        401 => Some(Outcome::NotSignedIn),
        403 => Some(Outcome::Forbidden),
        _ => None,
    }
}

/// What is asked with every token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    Balance,
    Schedule,
    SpendOne,
    OwnSessions,
    GrantOne,
}

const QUESTIONS: [Question; 5] = [
    Question::Balance,
    Question::Schedule,
    Question::SpendOne,
    Question::OwnSessions,
    Question::GrantOne,
];

impl Question {
    fn books(self) -> bool {
        matches!(self, Question::SpendOne | Question::GrantOne)
    }
}

/// Whose rights a token has, if anybody's.
fn oracle(signer: Signer, state: State, case: &Case, hanako: i64) -> Option<Rights> {
    match signer {
        Signer::Ours | Signer::OursBefore => Some(case.ours),
        // for PostgREST one outside key is as good as another: docs/login.md says so
        Signer::Provider | Signer::Unknown => {
            (state == State::Linked && case.is_hanakos).then_some(Rights::Member(hanako))
        }
        Signer::Stranger | Signer::Nobody => None,
    }
}

/// What must be answered.
fn expected(rights: Option<Rights>, question: Question, has_person: bool) -> Outcome {
    use Outcome::{Done, Forbidden, NotSignedIn};
    match (rights, question) {
        (None | Some(Rights::Over), _) => NotSignedIn,
        (Some(_), Question::OwnSessions) if has_person => Done,
        (Some(Rights::Member(_)), Question::Balance | Question::SpendOne) => Done,
        (Some(Rights::Granter), Question::GrantOne) => Done,
        (
            Some(Rights::Admin | Rights::Operator),
            Question::Balance | Question::Schedule | Question::SpendOne | Question::GrantOne,
        ) => Done,
        _ => Forbidden,
    }
}

/// For an hour longer, since there is much to ask.
fn long(mut claims: Value) -> Result<Value> {
    let end = claims["exp"].as_i64().context("no end")?;
    claims["exp"] = json!(end + 3_600);
    Ok(claims)
}

/// The claims: each of ours, mixed, and missing.
async fn cases(site: &Site) -> Result<Vec<Case>> {
    let world = &site.world;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    world.enrol(&world.taro, Some(TARO)).await?;
    world.join(HANAKO, &world.hanako_mile).await?;
    let operator = world.operator()?;
    for (role, program) in [("granter", "coin"), ("admin", "coin"), ("operator", "coin")] {
        let mut role = json!({ "login_id": HANAKO, "role": role, "program": program });
        if role["role"] == "operator" {
            role.as_object_mut().context("a role")?.remove("program");
        }
        world.rpc(&operator, "give_role", role).await?.ok()?;
    }
    let log_in = async |login_id: &str, program: Option<&str>, role: Option<&str>| {
        let mut arguments = json!({ "login_id": login_id, "password": PASSWORD });
        if let Some(program) = program {
            arguments["program"] = json!(program);
        }
        if let Some(role) = role {
            arguments["role"] = json!(role);
        }
        let session = Session::of(world.rpc("", "log_in", arguments).await?.ok()?)?;
        long(claims_of(&session.access)?)
    };
    let (coin, mile) = (world.hanako.account_id, world.hanako_mile.account_id);
    let taro = world.taro.account_id;
    let member = log_in(HANAKO, Some("coin"), None).await?;
    let abroad = log_in(HANAKO, Some("mile"), None).await?;
    let another = log_in(TARO, Some("coin"), None).await?;
    let granter = log_in(HANAKO, Some("coin"), Some("granter")).await?;
    let admin = log_in(HANAKO, Some("coin"), Some("admin")).await?;
    let boss = log_in(HANAKO, None, Some("operator")).await?;
    let over = Session::of(world.log_in(HANAKO, PASSWORD, "coin").await?.ok()?)?;
    world.rpc(&over.access, "log_out", json!({})).await?.ok()?;
    let over = long(claims_of(&over.access)?)?;

    let mut cases = Vec::new();
    let mut add = |name: &str, claims: &Value, ours: Rights| {
        cases.push(Case {
            name: name.to_owned(),
            claims: claims.clone(),
            ours,
            is_hanakos: false,
        });
    };
    let with = |claims: &Value, changes: &[(&str, Value)]| {
        let mut claims = claims.clone();
        for (name, value) in changes {
            claims[*name] = value.clone();
        }
        claims
    };
    let without = |claims: &Value, names: &[&str]| {
        let mut claims = claims.clone();
        for name in names {
            claims.as_object_mut().map(|claims| claims.remove(*name));
        }
        claims
    };
    let sessions = [
        ("member", &member, Rights::Member(coin)),
        ("member of mile", &abroad, Rights::Member(mile)),
        ("granter", &granter, Rights::Granter),
        ("admin", &admin, Rights::Admin),
        ("operator", &boss, Rights::Operator),
    ];
    for (name, claims, rights) in &sessions {
        let case = |what: &str| format!("{name}, {what}");
        add(&case("as it is"), claims, *rights);
        add(&case("without iss"), &without(claims, &["iss"]), *rights);
        add(
            &case("the provider's iss"),
            &with(claims, &[("iss", json!(ISSUER))]),
            Rights::Over,
        );
        for end in [None, Some(json!(null)), Some(json!("4102444800"))] {
            let claims = match end {
                None => without(claims, &["exp"]),
                Some(end) => with(claims, &[("exp", end)]),
            };
            add(&case("without an end"), &claims, Rights::Over);
        }
        // of one session, each claim of another
        for (from, other, _) in &sessions {
            for claim in ["sid", "role", "program", "account_id"] {
                if claims[claim] == other[claim] {
                    continue;
                }
                let mixed = match other.get(claim) {
                    Some(value) => with(claims, &[(claim, value.clone())]),
                    None => without(claims, &[claim]),
                };
                add(&case(&format!("{claim} of {from}")), &mixed, Rights::Over);
            }
        }
        for claim in ["sid", "sub", "account_id"] {
            let theirs = &another[claim];
            add(
                &case(&format!("another's {claim}")),
                &with(claims, &[(claim, theirs.clone())]),
                Rights::Over,
            );
        }
        add(
            &case("a dead sid"),
            &with(claims, &[("sid", over["sid"].clone())]),
            Rights::Over,
        );
        for sid in [
            json!("00000000-0000-0000-0000-000000000000"),
            json!("x"),
            json!(1),
            json!(null),
            json!([member["sid"]]),
        ] {
            add(
                &case("no sid"),
                &with(claims, &[("sid", sid)]),
                Rights::Over,
            );
        }
        add(
            &case("without sub"),
            &without(claims, &["sub"]),
            Rights::Over,
        );
        add(
            &case("a number for sub"),
            &with(claims, &[("sub", json!(1))]),
            Rights::Over,
        );
        add(
            &case("nested claims"),
            &with(
                claims,
                &[
                    ("program", json!(["coin"])),
                    ("account_id", json!({"id": coin})),
                ],
            ),
            Rights::Over,
        );
        add(
            &case("family"),
            &with(claims, &[("role", json!("loyalty_family"))]),
            Rights::Over,
        );
    }
    add("a login that is over", &over, Rights::Over);
    // tokens that no login made, as a service of ours makes them
    let end = member["exp"].clone();
    let service = |claims: Value| with(&claims, &[("exp", end.clone())]);
    for (name, claims, rights) in [
        (
            "member by a service",
            json!({"role": "loyalty_member", "program": "coin", "account_id": coin}),
            Rights::Member(coin),
        ),
        (
            "granter by a service",
            json!({"role": "loyalty_granter", "program": "coin"}),
            Rights::Granter,
        ),
        (
            "admin by a service",
            json!({"role": "loyalty_admin", "program": "coin"}),
            Rights::Admin,
        ),
        (
            "operator by a service",
            json!({"role": "loyalty_operator"}),
            Rights::Operator,
        ),
        (
            "member of no program",
            json!({"role": "loyalty_member", "account_id": coin}),
            Rights::Misfit,
        ),
        (
            "member of another program",
            json!({"role": "loyalty_member", "program": "mile", "account_id": coin}),
            Rights::Misfit,
        ),
        (
            "family of nobody",
            json!({"role": "loyalty_family", "program": "coin", "account_id": coin}),
            Rights::Misfit,
        ),
        (
            "admin of no program",
            json!({"role": "loyalty_admin"}),
            Rights::Misfit,
        ),
    ] {
        add(name, &service(claims), rights);
    }
    // what a provider says
    let provider = long(id_token(SUBJECT)?)?;
    for role in [
        None,
        Some("loyalty_member"),
        Some("loyalty_admin"),
        Some("loyalty_operator"),
        Some("loyalty_family"),
        Some("loyalty_granter"),
    ] {
        let claims = match role {
            None => provider.clone(),
            Some(role) => with(
                &provider,
                &[
                    ("role", json!(role)),
                    ("program", json!("coin")),
                    ("account_id", json!(taro)),
                    ("sid", another["sid"].clone()),
                ],
            ),
        };
        cases.push(Case {
            name: format!("the provider's, role {role:?}"),
            claims,
            ours: Rights::Over,
            is_hanakos: true,
        });
    }
    for (name, changes) in [
        ("for another audience", vec![("aud", json!("intranet"))]),
        (
            "for an audience that is a name",
            vec![("aud", json!({AUDIENCE: 1}))],
        ),
        ("without an end", vec![("exp", json!(null))]),
        (
            "of another issuer",
            vec![("iss", json!("https://elsewhere.example.com"))],
        ),
        ("of us", vec![("iss", json!("loyalty"))]),
    ] {
        cases.push(Case {
            name: format!("the provider's {name}"),
            claims: with(&provider, &changes),
            ours: Rights::Over,
            is_hanakos: false,
        });
    }
    Ok(cases)
}

impl Site {
    async fn ask(
        &self,
        http: &reqwest::Client,
        api: &Api,
        token: &str,
        question: Question,
        account: i64,
    ) -> Result<Answer> {
        let get = |path: &str| http::request(http, api, Method::GET, token, path);
        let post = |function: &str, arguments: Value| {
            http::request(http, api, Method::POST, token, &format!("/rpc/{function}"))
                .json(&arguments)
        };
        Answer::of(match question {
            Question::Balance => get("/balance?select=account_id"),
            Question::Schedule => get("/schedule?select=program"),
            Question::SpendOne => post("spend", json!({ "account_id": account, "points": 1 })),
            Question::OwnSessions => post("own_sessions", json!({})),
            Question::GrantOne => post("grant", json!({ "account_id": account, "points": 1 })),
        })
        .await
    }
}

/// A token and what came of it.
struct Cell<'a> {
    signer: Signer,
    state: State,
    case: &'a Case,
    is_cold: bool,
}

/// How many of a cell's questions were answered, how many of them booked something, and what was
/// not as it must be.
#[derive(Default)]
struct Found {
    refused: usize,
    done: usize,
    booked: usize,
    wrong: Vec<String>,
}

impl Site {
    async fn try_cell(&self, http: &reqwest::Client, api: &Api, cell: Cell<'_>) -> Result<Found> {
        let Cell {
            signer,
            state,
            case,
            is_cold,
        } = cell;
        let hanako = self.world.hanako.account_id;
        let token = self.sign(signer, &case.claims)?;
        let rights = oracle(signer, state, case, hanako);
        let account = match rights {
            Some(Rights::Member(account)) => account,
            _ => hanako,
        };
        let is_mapped = matches!(signer, Signer::Provider | Signer::Unknown);
        let subject = case.claims["sub"].as_str().unwrap_or_default();
        let has_person = is_mapped || subject.starts_with("identity:");
        let mut found = Found::default();
        for question in QUESTIONS {
            let answer = self.ask(http, api, &token, question, account).await?;
            let must = expected(rights, question, has_person);
            let mut is_right = outcome(&answer) == Some(must);
            if must == Outcome::Done {
                found.done += 1;
                found.booked += usize::from(question.books());
                if let (Question::Balance, Some(Rights::Member(account))) = (question, rights) {
                    is_right &= answer.column("account_id")? == [json!(account)];
                }
            } else {
                found.refused += 1;
            }
            if !is_right {
                found.wrong.push(format!(
                    "{state:?}, signed by {signer:?}, {}, {question:?}, cold {is_cold}: must be {must:?}, got {} {}",
                    case.name, answer.status, answer.text
                ));
            }
        }
        Ok(found)
    }

    async fn entries(&self) -> Result<usize> {
        let count = "select count(*) from loyalty.entry";
        let row = self.world.sql.query_one(count, &[]).await?;
        Ok(usize::try_from(row.get::<_, i64>(0))?)
    }
}

#[tokio::test]
async fn rights_come_from_tokens_of_ours_only() -> Result<()> {
    let site = Site::start("token_matrix").await?;
    let cases = cases(&site).await?;
    let http = http::client().build()?;
    let mut wrong = Vec::new();
    for state in STATES {
        site.set_state(state).await?;
        for signer in SIGNERS {
            let before = site.entries().await?;
            let mut all = Found::default();
            let cell = |case, is_cold| Cell {
                signer,
                state,
                case,
                is_cold,
            };
            // a PostgREST whose connections nobody has asked by yet
            if signer <= Signer::Unknown {
                let cold = site.postgrest().await?;
                let first = (signer as usize + 2 * state as usize) % COLD.len();
                for name in COLD.iter().cycle().skip(first).take(COLD.len()) {
                    let case = cases.iter().find(|case| case.name == *name);
                    let case = case.with_context(|| name.to_string())?;
                    all.add(site.try_cell(&http, &cold, cell(case, true)).await?);
                }
            }
            let cells = cases
                .iter()
                .map(|case| site.try_cell(&http, &site.warm, cell(case, false)));
            let mut cells = stream::iter(cells).buffer_unordered(6);
            while let Some(found) = cells.next().await {
                all.add(found?);
            }
            let booked = site.entries().await? - before;
            if booked != all.booked {
                let must = all.booked;
                wrong.push(format!(
                    "{state:?} {signer:?}: {booked} entries, must be {must}"
                ));
            }
            let has_rights = match signer {
                Signer::Ours | Signer::OursBefore => true,
                Signer::Provider | Signer::Unknown => state == State::Linked,
                Signer::Stranger | Signer::Nobody => false,
            };
            ensure!(
                all.refused > 300 && (all.done > 0) == has_rights,
                "{state:?} {signer:?}: {} were to be refused, {} answered",
                all.refused,
                all.done
            );
            wrong.append(&mut all.wrong);
        }
    }
    let count = wrong.len();
    ensure!(count == 0, "{count} of them:\n{}", wrong.join("\n"));
    Ok(())
}

impl Found {
    fn add(&mut self, other: Self) {
        self.refused += other.refused;
        self.done += other.done;
        self.booked += other.booked;
        self.wrong.extend(other.wrong);
    }
}

/// A PostgREST without `db-pre-request` gives forged tokens no more: no view shows a row, and no
/// function does anything.
#[tokio::test]
async fn forged_tokens_open_nothing_without_pre_request() -> Result<()> {
    let site = Site::start("token_unguarded").await?;
    let cases = cases(&site).await?;
    site.set_state(State::Linked).await?;
    let keys = format!("@{}", site.secret_dir.join(ALL).display());
    let api = site.world.db.api_without_pre_request(&keys).await?;
    let http = http::client().build()?;
    let views = "select c.relname::text from pg_catalog.pg_class c
                  where c.relnamespace = 'loyalty_api'::regnamespace and c.relkind = 'v'
                    and has_table_privilege('loyalty_operator', c.oid, 'select')";
    let views = site.world.sql.query(views, &[]).await?;
    let before = site.entries().await?;
    let mut shown = 0;
    for case in cases.iter().filter(|case| !case.name.contains("nested")) {
        for signer in [Signer::Ours, Signer::Provider, Signer::Unknown] {
            let is_service = case.name.ends_with("by a service");
            if signer == Signer::Ours && !is_service {
                continue;
            }
            let token = site.sign(signer, &case.claims)?;
            let is_operator = case.claims["role"] == "loyalty_operator";
            for view in views.iter().filter(|_| is_operator) {
                let path = format!("/{}", view.get::<_, String>(0));
                let answer = http::request(&http, &api, Method::GET, &token, &path);
                let answer = Answer::of(answer).await?;
                let rows = answer.json()?.as_array().map_or(0, Vec::len);
                if signer == Signer::Ours {
                    answer.ok().context(path)?;
                    shown += rows;
                } else {
                    ensure!(
                        rows == 0,
                        "{signer:?} {} {path}: {}",
                        case.name,
                        answer.text
                    );
                }
            }
            if signer == Signer::Ours {
                continue;
            }
            for question in QUESTIONS {
                let account = site.world.hanako.account_id;
                let answer = site.ask(&http, &api, &token, question, account).await?;
                let is_nothing = answer.status != 200 || answer.text == "[]";
                ensure!(
                    is_nothing,
                    "{signer:?} {} {question:?}: {}",
                    case.name,
                    answer.text
                );
            }
        }
    }
    ensure!(
        site.entries().await? == before && shown > 20,
        "{shown} rows shown"
    );
    Ok(())
}

/// What PostgREST would refuse first is refused here as well: as it would set them, claims and
/// headers of tokens that are over, not good yet, of other claims, or shown under another role.
#[tokio::test]
async fn tokens_are_verified_here_too() -> Result<()> {
    let world = World::start("token_here").await?;
    let account = world.hanako.account_id;
    let now: i64 = world
        .sql
        .query_one("select extract(epoch from clock_timestamp())::bigint", &[])
        .await?
        .get(0);
    let good = json!({
        "role": "loyalty_member", "program": "coin", "account_id": account, "exp": now + 600,
    });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let role = "loyalty_member";
    let bearer = |token: &str| json!({ "authorization": format!("Bearer {token}") }).to_string();
    let sign = |claims: &Value| world.api.token(claims);
    let token = sign(&good)?;
    let other = sign(&with("account_id", json!(world.taro.account_id)))?;
    let stranger = loyalty_testkit::token::sign(&good, "another secret of thirty-two bytes!")?;
    let text = good.to_string();
    // the role, the claims and the headers as PostgREST sets them; the code of pre_request, and the
    // accounts that are shown, also where nobody calls that
    type Try = (&'static str, String, String, String, &'static str, usize);
    let mut tries: Vec<Try> = Vec::new();
    let mut attempt = |what, role: &str, claims: &str, headers: &str, code, shown| {
        tries.push((
            what,
            role.to_owned(),
            claims.to_owned(),
            headers.to_owned(),
            code,
            shown,
        ));
    };
    attempt("good", role, &text, &bearer(&token), "00000", 1);
    for scheme in ["bearer", "BEARER", "Bearer  "] {
        let headers = json!({ "authorization": format!("{scheme} {token}") }).to_string();
        attempt(
            "another writing of Bearer",
            role,
            &text,
            &headers,
            "00000",
            1,
        );
    }
    for (what, claims) in [
        ("over", with("exp", json!(now - 60))),
        ("not good yet", with("nbf", json!(now + 300))),
        ("made in the future", with("iat", json!(now + 300))),
        (
            "an end that is no number",
            with("exp", json!((now + 600).to_string())),
        ),
        (
            "an end with a fraction",
            with("exp", json!(now as f64 + 600.5)),
        ),
        ("no end", with("exp", Value::Null)),
        (
            "another issuer",
            with("iss", json!("https://id.example.com")),
        ),
        ("a number for an issuer", with("iss", json!(1))),
        ("a list for a role", with("role", json!([role]))),
    ] {
        let headers = bearer(&sign(&claims)?);
        attempt(what, role, &claims.to_string(), &headers, "LY009", 0);
    }
    // within what clocks may differ
    let late = with("exp", json!(now - 10));
    attempt(
        "just over",
        role,
        &late.to_string(),
        &bearer(&sign(&late)?),
        "00000",
        1,
    );
    attempt("another's token", role, &text, &bearer(&other), "LY009", 0);
    attempt(
        "a stranger's token",
        role,
        &text,
        &bearer(&stranger),
        "LY009",
        0,
    );
    attempt("no token", role, &text, "{}", "LY009", 0);
    attempt("no headers", role, &text, "", "LY009", 0);
    attempt("headers that are none", role, &text, "x", "LY009", 0);
    attempt(
        "another scheme",
        role,
        &text,
        &json!({"authorization": format!("Basic {token}")}).to_string(),
        "LY009",
        0,
    );
    attempt(
        "no scheme",
        role,
        &text,
        &json!({"authorization": token}).to_string(),
        "LY009",
        0,
    );
    let twice =
        format!(r#"{{"authorization": "Bearer {stranger}", "authorization": "Bearer {token}"}}"#);
    attempt("two tokens", role, &text, &twice, "LY009", 0);
    let with_more = with("sub", json!("identity:1")).to_string();
    attempt(
        "more claims than the token's",
        role,
        &with_more,
        &bearer(&token),
        "LY009",
        0,
    );
    let repeated = text.replacen('{', r#"{"program": "mile", "#, 1);
    attempt(
        "a claim twice",
        role,
        &repeated,
        &bearer(&token),
        "LY009",
        0,
    );
    attempt("no claims", role, "", &bearer(&token), "LY009", 0);
    attempt(
        "claims that are none",
        role,
        "[]",
        &bearer(&token),
        "LY009",
        0,
    );
    for role in ["loyalty_admin", "loyalty_operator"] {
        attempt("another role", role, &text, &bearer(&token), "LY009", 0);
    }
    // one connection for all: what was found of one token is not held of the next
    let warm = world.db.connect_as("loyalty_authenticator").await?;
    for round in 0..2 {
        for (what, role, claims, headers, code, shown) in &tries {
            let cold;
            let client = match round {
                0 => {
                    cold = world.db.connect_as("loyalty_authenticator").await?;
                    &cold
                }
                _ => &warm,
            };
            for calls_first in [true, false] {
                client.batch_execute("begin").await?;
                let set = "select set_config('role', $1, true), set_config('request.jwt.claims', $2, true),
                                  set_config('request.headers', $3, true), set_config('request.method', 'GET', true),
                                  set_config('request.path', '/balance', true)";
                client.execute(set, &[role, claims, headers]).await?;
                if calls_first {
                    let asked = client.batch_execute("select loyalty.pre_request()").await;
                    let answered = request_state(&asked);
                    ensure!(answered == *code, "{what}: {answered}");
                } else {
                    let rows = client
                        .query("select * from loyalty_api.balance", &[])
                        .await?;
                    ensure!(rows.len() == *shown, "{what}: {} rows", rows.len());
                }
                client.batch_execute("rollback").await?;
            }
        }
    }
    Ok(())
}

/// Parallel workers know who asks as well, also with a provider's token.
#[tokio::test]
async fn workers_know_who_asks() -> Result<()> {
    let site = Site::start("token_worker").await?;
    site.world.enrol(&site.world.hanako, Some(HANAKO)).await?;
    site.set_state(State::Linked).await?;
    let world = &site.world;
    let setting = match TestServer::get()?.pg_major {
        15 => "force_parallel_mode",
        _ => "debug_parallel_query",
    };
    let client = world.db.connect_as("loyalty_authenticator").await?;
    client
        .batch_execute(&format!(
            "set {setting} = on; set parallel_setup_cost = 0; set parallel_tuple_cost = 0"
        ))
        .await?;
    let account = world.hanako.account_id;
    let ours = loyalty_testkit::token::with_end(json!({
        "role": "loyalty_member", "program": "coin", "account_id": account,
    }))?;
    let mut theirs = id_token(SUBJECT)?;
    theirs["role"] = json!("loyalty_anon");
    for (signer, claims) in [(Signer::Ours, ours), (Signer::Provider, theirs)] {
        let token = site.sign(signer, &claims)?;
        client.batch_execute("begin").await?;
        let set = "select set_config('role', $1, true), set_config('request.jwt.claims', $2, true),
                          set_config('request.headers', $3, true), set_config('request.method', 'GET', true),
                          set_config('request.path', '/balance', true)";
        let role = claims["role"].as_str().context("no role")?;
        let headers = loyalty_testkit::token::headers(&token);
        client
            .execute(set, &[&role, &claims.to_string(), &headers])
            .await?;
        client.batch_execute("select loyalty.pre_request()").await?;
        let plan = rows(
            &client,
            "explain select loyalty.claim('role'), loyalty.claim_account_id()",
        )
        .await?;
        ensure!(plan.iter().any(|line| line.contains("Gather")), "{plan:?}");
        let seen = rows(
            &client,
            "select loyalty.claim('role'), loyalty.claim_account_id()",
        )
        .await?;
        ensure!(
            seen == [format!("loyalty_member|{account}")],
            "{signer:?}: {seen:?}"
        );
        client.batch_execute("rollback").await?;
    }
    Ok(())
}

/// Without keys nothing can be verified: who sends a token learns that the server is not ready, and
/// not that the token is bad; who sends none is asked for one as ever.
#[tokio::test]
async fn without_keys_no_token_counts() -> Result<()> {
    let mut world = World::start("token_no_keys").await?;
    let operator = world.operator()?;
    let balance = world.get(&operator, "/balance").await?.ok()?;
    ensure!(balance.as_array().is_some_and(|rows| rows.len() == 5));
    for dir in ["", "/nowhere/to/be/found"] {
        let set = format!(
            "alter database {} set loyalty.secret_dir = '{dir}'",
            world.db.name()
        );
        world.sql.batch_execute(&set).await?;
        world.api = world.db.api().await?;
        for answer in [
            world.get(&operator, "/balance").await?,
            world.get(&operator, "/").await?,
            world
                .rpc(&operator, "spend", json!({ "points": 1 }))
                .await?,
        ] {
            answer.refused(500, "55000")?;
            ensure!(!answer.text.contains("nowhere"), "{}", answer.text);
        }
        world.get("", "/balance").await?.refused(401, "LY009")?;
        ensure!(world.get("", "/").await?.status == 200);
    }
    Ok(())
}

/// What is answered is nobody else's to keep: tokens and codes least of all, and neither are
/// refusals that count.
#[tokio::test]
async fn answers_are_kept_out_of_caches() -> Result<()> {
    let world = World::start("token_cache").await?;
    world.enrol(&world.hanako, Some(HANAKO)).await?;
    let session = world.logged_in(HANAKO, "coin").await?;
    let login = json!({ "login_id": HANAKO, "password": PASSWORD, "program": "coin" });
    let wrong = json!({ "login_id": HANAKO, "password": "wrong2026abc", "program": "coin" });
    let keys = json!({ "organisation_id": "ACME", "key_1": "KT1", "key_2": "secret-T1" });
    let refresh = json!({ "refresh_token": session.refresh });
    let reset = json!({ "login_id": HANAKO, "program": "coin" });
    for answer in [
        world.rpc("", "log_in", login).await?,
        world.rpc("", "begin_registration", keys).await?,
        world.rpc("", "refresh", refresh).await?,
        world.rpc("", "request_password_reset", reset).await?,
        world.get(&session.access, "/balance").await?,
        world.get(&session.access, "/rpc/own_sessions").await?,
        world
            .rpc(&session.access, "spend", json!({ "points": 1 }))
            .await?,
        world
            .rpc(
                &world.admin("coin")?,
                "issue_keys",
                json!({ "member_no": "A-1" }),
            )
            .await?,
    ] {
        answer.ok()?;
        assert_eq!(
            answer.header("Cache-Control"),
            "no-store",
            "{}",
            answer.text
        );
    }
    for _ in 0..6 {
        let answer = world.rpc("", "log_in", wrong.clone()).await?;
        ensure!([401, 429].contains(&answer.status), "{}", answer.text);
        assert_eq!(answer.header("Cache-Control"), "no-store");
    }
    Ok(())
}
