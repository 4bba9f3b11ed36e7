//! Secrets stay where they belong: a conversation with everything logged that PostgreSQL can
//! log leaves none of them in its log, in pg_stat_statements, in a dump, in what errors say, or
//! in what the relay writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use loyalty_testkit::http::{self, Answer};
use loyalty_testkit::mail::{Catcher, Options};
use loyalty_testkit::os::{Owner, run};
use loyalty_testkit::postgrest::{Postgrest, Settings};
use loyalty_testkit::{FreshCluster, TestServer, authenticator_uri};
use mail_parser::MessageParser;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::world::{PATIENCE, START};

const DATABASE: &str = "points";

/// As much as there is to be had; what roles are told goes before it.
const LOG_EVERYTHING: &str =
    "shared_preload_libraries = 'pg_stat_statements, pgaudit, auto_explain'
pg_stat_statements.track = all
pgaudit.log = all
pgaudit.log_parameter = on
pgaudit.log_relation = on
auto_explain.log_min_duration = 0
auto_explain.log_nested_statements = on
auto_explain.log_verbose = on
log_statement = all
log_min_duration_statement = 0
log_min_error_statement = debug5
log_error_verbosity = verbose
log_parameter_max_length = -1
log_parameter_max_length_on_error = -1
log_duration = on
log_connections = on
";

/// For the sessions of DBAs, which this is not about.
const QUIET: &str =
    "set log_statement = none; set log_min_duration_statement = -1; set log_duration = off;
    set pgaudit.log = none; set auto_explain.log_min_duration = -1";

/// What docs/operations.md has a DBA call for the logins that bring secrets along.
const SET_UP: [&str; 2] = [
    "select loyalty.install_log_settings('loyalty_authenticator')",
    "select loyalty.install_log_settings('mail_relay')",
];

struct World {
    http: reqwest::Client,
    url: String,
    jwt_secret: String,
    catcher: Catcher,
    read: usize,
    relay: Child,
    postgrest: Postgrest,
    relay_log: std::path::PathBuf,
    postgrest_log: std::path::PathBuf,
    /// What must be nowhere, by what it is.
    secrets: BTreeMap<String, String>,
    /// Bodies of refusals.
    refusals: String,
    fresh: FreshCluster,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ended = self.relay.kill();
        let _reaped = self.relay.wait();
        let _stopped = self.postgrest.stop();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl World {
    async fn start() -> Result<Self> {
        let server = TestServer::get()?;
        let fresh = FreshCluster::start("secret", LOG_EVERYTHING)?;
        let admin = fresh.connect("postgres").await?;
        admin
            .batch_execute(&format!("create database {DATABASE} template template0"))
            .await?;
        let sql = fresh.connect(DATABASE).await?;
        // what a DBA types is not what this is about
        sql.batch_execute(QUIET).await?;
        sql.batch_execute(
            "create extension pg_loyalty; create extension pg_stat_statements; create extension pgaudit",
        )
        .await?;
        sql.batch_execute(&format!(
            "alter database {DATABASE} set loyalty.clock = '{START}'; set loyalty.clock = '{START}'"
        ))
        .await?;
        sql.batch_execute(
            "alter role loyalty_authenticator login; create role mail_relay login in role loyalty_relay",
        )
        .await?;
        for setting in SET_UP {
            sql.batch_execute(setting).await?;
        }
        sql.batch_execute(include_str!("world.sql")).await?;
        // its keys are given out anew below
        sql.batch_execute(
            "drop function enrol; drop table someone; select pg_stat_statements_reset()",
        )
        .await?;
        let catcher = Catcher::start(Options::default()).await?;
        let owner = Owner::current()?;
        let dir = fresh.cluster().socket_dir.clone();
        let (postgrest, url) = postgrest(&fresh, &server.jwt_secret, "api")?;
        let relay_log = dir.join("relay.log");
        let smtp = catcher.address();
        let connection = format!(
            "host='{}' port={} user=mail_relay dbname={DATABASE}",
            fresh.cluster().socket_dir.display(),
            fresh.cluster().port,
        );
        let relay = Command::new(loyalty_testkit::relay_program()?)
            .env_clear()
            .env("RUST_LOG", "trace")
            .args([
                "--database",
                &connection,
                "--poll",
                "3600",
                "--max-pause",
                "1",
            ])
            .args(["--smtp-host", &smtp.ip().to_string(), "--smtp-tls", "none"])
            .args(["--smtp-port", &smtp.port().to_string()])
            .stdin(Stdio::null())
            .stdout(File::create(&relay_log)?)
            .stderr(File::options().append(true).open(&relay_log)?)
            .spawn()
            .context("the relay cannot be started")?;
        let _ = owner;
        Ok(Self {
            http: http::client().build()?,
            url,
            postgrest_log: postgrest.log(),
            jwt_secret: server.jwt_secret.clone(),
            catcher,
            read: 0,
            relay,
            postgrest,
            relay_log,
            secrets: BTreeMap::new(),
            refusals: String::new(),
            fresh,
        })
    }

    /// Something that must be found nowhere.
    fn secret(&mut self, what: &str, value: &str) -> String {
        self.secrets
            .insert(format!("{what} {value}"), value.to_owned());
        value.to_owned()
    }

    async fn rpc(&mut self, token: &str, function: &str, arguments: Value) -> Result<Answer> {
        self.send(token, function, arguments.to_string()).await
    }

    async fn send(&mut self, token: &str, function: &str, body: String) -> Result<Answer> {
        let url = format!("{}/rpc/{function}", self.url);
        let mut request = self
            .http
            .post(url)
            .header("Content-Type", "application/json")
            .body(body);
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        let answer = Answer::of(request).await?;
        if answer.status >= 400 {
            self.refusals.push_str(&answer.text);
            self.refusals.push('\n');
        }
        Ok(answer)
    }

    /// The text of the next mail.
    async fn mail(&mut self) -> Result<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(mail) = self.catcher.caught().get(self.read) {
                self.read += 1;
                let message = MessageParser::default()
                    .parse(&mail.data)
                    .context("no mail")?;
                return Ok(message.body_text(0).context("no text")?.into_owned());
            }
            ensure!(Instant::now() < until, "no mail came");
            sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Tokens of an answer, noted as secrets.
    fn tokens(&mut self, body: &Value) -> Result<(String, String)> {
        let access = body["access_token"].as_str().context("no access token")?;
        let refresh = body["refresh_token"].as_str().context("no refresh token")?;
        // header and claims are no secret; what proves them is
        let proof = access.rsplit('.').next().context("no signature")?;
        self.secret("access token", proof);
        self.secret("refresh token", refresh);
        Ok((access.to_owned(), refresh.to_owned()))
    }
}

fn postgrest(fresh: &FreshCluster, jwt_secret: &str, name: &str) -> Result<(Postgrest, String)> {
    let server = TestServer::get()?;
    let owner = Owner::current()?;
    let cluster = fresh.cluster();
    let postgrest = Postgrest::at(&server.postgrest, &cluster.socket_dir, name, &owner);
    let mut attempts = 0;
    loop {
        let settings = Settings {
            db_uri: authenticator_uri(&cluster.socket_dir, cluster.port, DATABASE, None),
            jwt_secret: jwt_secret.to_owned(),
            port: free_port()?,
            admin_port: free_port()?,
            pool: 4,
            pre_request: Some("loyalty.pre_request".to_owned()),
            log_level: "info",
        };
        attempts += 1;
        match postgrest.start(&settings) {
            Ok(()) => return Ok((postgrest, format!("http://127.0.0.1:{}", settings.port))),
            // somebody may have taken the port in between
            Err(_) if attempts < 3 => {}
            Err(error) => return Err(error),
        }
    }
}

fn code_in(text: &str) -> Result<String> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Ok(numbers
        .find(|word| word.len() == 6)
        .context("no code")?
        .to_owned())
}

fn token_in(text: &str) -> Result<String> {
    let link = text
        .split_whitespace()
        .find(|word| word.starts_with("http") && word.contains('#'));
    Ok(link
        .and_then(|link| link.split_once('#'))
        .context("no link")?
        .1
        .to_owned())
}

/// A person registers, logs in, refreshes, forgets the password, sets another and changes it;
/// with every kind of mistake on the way.
async fn converse(world: &mut World) -> Result<()> {
    let login_id = "hanako@example.com";
    let admin = json!({"role": "loyalty_admin", "program": "coin", "exp": 4_102_444_800_i64});
    let admin = loyalty_testkit::token::sign(&admin, &world.jwt_secret)?;
    let proof = admin.rsplit('.').next().context("no signature")?.to_owned();
    world.secret("administrator's token", &proof);
    let key_1 = world.secret("key 1", "KEYONE7Q");
    let key_2 = world.secret("key 2", "keytwo-5w1Zx");
    let wrong_key = world.secret("wrong key", "wrong-key-8812");
    let first = world.secret("password", "first2026abcQ");
    let second = world.secret("second password", "second2026abcW");
    let third = world.secret("third password", "third2026abcE");
    let wrong = world.secret("wrong password", "wrongly2026abcR");
    let short = world.secret("password that is too short", "zq41x");
    let plain = world.secret("password without digits", "nodigitsatallhere");

    let keys = json!({"member_no": "H-1", "key_1": key_1, "key_2": key_2});
    world.rpc(&admin, "issue_keys", keys).await?.ok()?;
    // and once by lot
    let issued = world
        .rpc(&admin, "issue_keys", json!({"member_no": "T-1"}))
        .await?
        .ok()?;
    for name in ["key_1", "key_2"] {
        let issued = issued.get(0).unwrap_or(&issued);
        let key = issued[name]
            .as_str()
            .with_context(|| format!("no {name} in {issued}"))?
            .to_owned();
        world.secret("key made for a member", &key);
    }
    let begin = |key_2: &str| json!({"organisation_id": "ACME", "key_1": key_1, "key_2": key_2});
    world
        .rpc("", "begin_registration", begin(&wrong_key))
        .await?
        .refused(401, "LY009")?;
    let begun = world
        .rpc("", "begin_registration", begin(&key_2))
        .await?
        .ok()?;
    let registration = begun["registration"]
        .as_str()
        .context("no registration")?
        .to_owned();
    world.secret("registration", &registration);
    let choose = |password: &str| json!({"registration": registration, "login_id": login_id, "password": password, "terms_version": "2026-04"});
    world
        .rpc("", "choose_login", choose(&short))
        .await?
        .refused(400, "22023")?;
    world
        .rpc("", "choose_login", choose(&plain))
        .await?
        .refused(400, "22023")?;
    world.rpc("", "choose_login", choose(&first)).await?.ok()?;
    let code = code_in(&world.mail().await?)?;
    world.secret("code", &code);
    let verify = |code: &str| json!({"registration": registration, "code": code});
    let other = if code == "123457" { "765431" } else { "123457" };
    world
        .rpc("", "verify_code", verify(other))
        .await?
        .refused(401, "LY009")?;
    world.rpc("", "verify_code", verify(&code)).await?.ok()?;
    let confirm = json!({"registration": registration, "is_right_name": true});
    let body = world.rpc("", "confirm_registration", confirm).await?.ok()?;
    world.tokens(&body)?;

    let log_in =
        |password: &str| json!({"login_id": login_id, "password": password, "program": "coin"});
    world
        .rpc("", "log_in", log_in(&wrong))
        .await?
        .refused(401, "LY009")?;
    let body = world.rpc("", "log_in", log_in(&first)).await?.ok()?;
    let (access, refresh) = world.tokens(&body)?;
    // what PostgreSQL itself refuses repeats the beginning of what it read
    for (password, rest) in [
        (&first, "\"program\": \"\\u0000\""),
        (&wrong, "\"remember\": \"perhaps\""),
    ] {
        let body =
            format!("{{\"login_id\": \"{login_id}\", \"password\": \"{password}\", {rest}}}");
        ensure!(world.send("", "log_in", body).await?.status == 400);
    }
    let body = format!("{{\"password\": \"{first}\", \"login_id\": ");
    ensure!(world.send("", "log_in", body).await?.status == 400);
    let body = world
        .rpc("", "refresh", json!({"refresh_token": refresh}))
        .await?
        .ok()?;
    let (access, _) = (world.tokens(&body)?.0, access);

    let ask = json!({"login_id": login_id, "program": "coin"});
    let asked = world.rpc("", "request_password_reset", ask).await?.ok()?;
    let screen_key = asked["screen_key"].as_str().context("no key")?.to_owned();
    let link = token_in(&world.mail().await?)?;
    world.secret("link", &link);
    let reset = |key: &str, password: &str| json!({"token": link, "screen_key": key, "password": password, "password_again": password});
    let other = if screen_key == "0000" { "0001" } else { "0000" };
    world
        .rpc("", "reset_password", reset(other, &second))
        .await?
        .refused(401, "LY009")?;
    world
        .rpc("", "reset_password", reset(&screen_key, &plain))
        .await?
        .refused(400, "22023")?;
    world
        .rpc("", "reset_password", reset(&screen_key, &second))
        .await?
        .ok()?;
    // all were logged out by that
    let change = |old: &str, new: &str| json!({"old_password": old, "new_password": new});
    world
        .rpc(&access, "change_password", change(&second, &third))
        .await?
        .refused(401, "LY009")?;
    let body = world.rpc("", "log_in", log_in(&second)).await?.ok()?;
    let (access, _) = world.tokens(&body)?;
    ensure!(
        world
            .rpc(&access, "change_password", change(&wrong, &third))
            .await?
            .status
            == 401
    );
    world
        .rpc(&access, "change_password", change(&second, &third))
        .await?
        .ok()?;
    let body = world.rpc("", "log_in", log_in(&third)).await?.ok()?;
    let (access, _) = world.tokens(&body)?;
    // a new login ID, by a link
    let arguments = json!({"login_id": "hanako.new@example.com", "password": third});
    world
        .rpc(&access, "request_login_change", arguments)
        .await?
        .ok()?;
    for _ in 0..3 {
        // the notices that the password was changed come among it
        let text = world.mail().await?;
        if let Ok(token) = token_in(&text) {
            world.secret("link of the new login ID", &token);
            let answer = world
                .rpc("", "confirm_login_change", json!({"token": token}))
                .await?;
            answer.ok()?;
            return Ok(());
        }
    }
    anyhow::bail!("no link came")
}

/// Codes are short: among the digits of times they would be found by chance.
fn holds(text: &str, secret: &str) -> bool {
    let is_code = secret.len() <= 6 && secret.bytes().all(|byte| byte.is_ascii_digit());
    text.match_indices(secret).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + secret.len()..].chars().next();
        let joins =
            |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit() || matches!(c, '.' | '+' | ':'));
        !is_code || !joins(before) && !joins(after)
    })
}

impl World {
    fn ensure_silent(&self, place: &str, text: &str) -> Result<()> {
        for (what, secret) in &self.secrets {
            if holds(text, secret) {
                let at = text.find(secret.as_str()).unwrap_or(0);
                let line = text[..at].matches('\n').count();
                anyhow::bail!(
                    "{what} in {place}: {}",
                    text.lines().nth(line).unwrap_or_default()
                );
            }
        }
        Ok(())
    }

    fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.fresh.cluster().log)?).into_owned())
    }
}

#[tokio::test]
async fn secrets_are_left_nowhere() -> Result<()> {
    let mut world = World::start().await?;
    // what signs and hashes is known to the server's files only
    for file in ["jwt.json", "pepper.json"] {
        let dir = TestServer::get()?.secret_dir.clone();
        let set: Value = serde_json::from_slice(&std::fs::read(dir.join(file))?)?;
        let key = set["keys"][0]["k"].as_str().context("no key")?.to_owned();
        world.secret(file, &key);
    }
    let jwt_secret = world.jwt_secret.clone();
    world.secret("key of tokens", &jwt_secret);
    converse(&mut world).await?;

    let sql = world.fresh.connect(DATABASE).await?;
    sql.batch_execute(QUIET).await?;
    let unhealthy = "select check_name from loyalty.health() where not is_ok order by 1";
    ensure!(loyalty_tests::rows(&sql, unhealthy).await?.is_empty());
    let rows = sql
        .query("select query from pg_stat_statements", &[])
        .await?;
    let statements: Vec<String> = rows.iter().filter_map(|row| row.get(0)).collect();
    let statements = statements.join("\n");
    ensure!(
        statements.contains("pgrst_source") && statements.contains("check_password"),
        "nothing was tracked"
    );
    world.ensure_silent("pg_stat_statements", &statements)?;

    let dump = run(&mut world.fresh.program("pg_dump", DATABASE))?;
    ensure!(
        dump.contains("hanako.new@example.com") && dump.contains("$argon2id$"),
        "nothing was dumped"
    );
    world.ensure_silent("the dump", &dump)?;

    ensure!(world.refusals.lines().count() > 8, "{}", world.refusals);
    world.ensure_silent("what errors say", &world.refusals)?;
    let relay = std::fs::read_to_string(&world.relay_log)?;
    ensure!(!relay.is_empty(), "the relay wrote nothing");
    world.ensure_silent("the relay's log", &relay)?;
    let requests = std::fs::read_to_string(&world.postgrest_log)?;
    ensure!(
        requests.contains("POST /rpc/log_in"),
        "PostgREST wrote nothing"
    );
    world.ensure_silent("PostgREST's log", &requests)?;

    let log = world.log()?;
    for part in ["log_in", "ERROR", "AUDIT: SESSION", "lease_notices"] {
        ensure!(log.contains(part), "{part} was not logged");
    }
    world.ensure_silent("the log", &log)?;

    // without what the roles are told it would be there
    let safe = "select setting, safe_value from loyalty.log_settings()";
    for row in sql.query(safe, &[]).await? {
        let (setting, safe): (String, String) = (row.get(0), row.get(1));
        let unsafe_value = match setting.as_str() {
            // of every statement here it would be too much
            "debug_print_plan" => "set debug_print_plan = on".to_owned(),
            _ => format!("reset {setting}"),
        };
        sql.batch_execute(&format!("alter role loyalty_authenticator {unsafe_value}"))
            .await?;
        let found = loyalty_tests::rows(&sql, unhealthy).await?;
        ensure!(
            found == ["secrets of loyalty_authenticator in the log"],
            "{setting}: {found:?}"
        );
        let said = world.careless(&setting).await?;
        // parameters and plans are told in details and contexts, which terse messages leave out as well
        let is_second =
            setting.starts_with("log_parameter_max_length") || setting == "debug_print_plan";
        ensure!(said != is_second, "{setting} made the difference {said}");
        sql.batch_execute(&format!(
            "alter role loyalty_authenticator set {setting} = '{safe}'"
        ))
        .await?;
        let found = loyalty_tests::rows(&sql, unhealthy).await?;
        ensure!(found.is_empty(), "{found:?}");
    }
    ensure!(!world.careless("nothing").await?, "there is one more");
    Ok(())
}

/// As debug_print_plan writes a text.
fn byte_by_byte(text: &str) -> String {
    let bytes: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
    bytes.join(" ")
}

impl World {
    /// Whether the log tells a password of what comes through a PostgREST that begins now.
    async fn careless(&mut self, label: &str) -> Result<bool> {
        let label: String = label.chars().filter(char::is_ascii_alphabetic).collect();
        let password = format!("told2026{label}");
        let before = self.log()?.len();
        let (careless, url) = postgrest(&self.fresh, &self.jwt_secret, &label)?;
        let careful = std::mem::replace(&mut self.url, url);
        // another login each time, so that none is slowed down
        let login_id = format!("{label}@example.com");
        let arguments = json!({"login_id": login_id, "password": password, "program": "coin"});
        let answer = self.rpc("", "log_in", arguments).await;
        let broken = self
            .send(
                "",
                "log_in",
                format!("{{\"password\": \"{password}\", \"login_id\": "),
            )
            .await;
        // refused by PostgreSQL after it was bound
        let refused = format!(
            "{{\"login_id\": \"a\", \"password\": \"{password}\", \"program\": \"\\u0000\"}}"
        );
        let refused = self.send("", "log_in", refused).await;
        careless.stop()?;
        self.url = careful;
        answer?.refused(401, "LY009")?;
        ensure!(broken?.status == 400 && refused?.status == 400);
        let log = self.log()?;
        let log = &log[before..];
        let numbers: Vec<&str> = log.split_whitespace().collect();
        Ok(log.contains(&password) || numbers.join(" ").contains(&byte_by_byte(&password)))
    }
}

/// What settings are in force for a login, wherever they were made.
#[tokio::test]
async fn health_tells_where_secrets_may_be_logged() -> Result<()> {
    let fresh = FreshCluster::start("health", "")?;
    let admin = fresh.connect("postgres").await?;
    admin
        .batch_execute(&format!("create database {DATABASE} template template0"))
        .await?;
    let sql = fresh.connect(DATABASE).await?;
    sql.batch_execute("create extension pg_loyalty").await?;
    let unhealthy = "select check_name from loyalty.health() where not is_ok order by 1";
    let bad = "secrets of loyalty_authenticator in the log";
    // a role that the extension made is told at once
    ensure!(loyalty_tests::rows(&sql, unhealthy).await?.is_empty());
    let role = "alter role loyalty_authenticator";
    let here = format!("{role} in database {DATABASE}");
    for (broken, mended) in [
        (
            format!("{role} reset log_error_verbosity"),
            format!("{role} set log_error_verbosity = terse"),
        ),
        (
            format!("{role} set pgaudit.log_parameter = on"),
            format!("{role} set pgaudit.log_parameter = 'no'"),
        ),
        (
            format!("{here} set auto_explain.log_min_duration = 0"),
            format!("{here} reset auto_explain.log_min_duration"),
        ),
        (
            format!(
                "{role} reset debug_print_plan; alter database {DATABASE} set debug_print_plan = on"
            ),
            format!("alter database {DATABASE} reset debug_print_plan"),
        ),
        (
            "alter role all set debug_print_plan = on".to_owned(),
            format!("{role} set debug_print_plan = off"),
        ),
    ] {
        sql.batch_execute(&broken).await?;
        let found = loyalty_tests::rows(&sql, unhealthy).await?;
        ensure!(found == [bad], "{broken}: {found:?}");
        sql.batch_execute(&mended).await?;
        let found = loyalty_tests::rows(&sql, unhealthy).await?;
        ensure!(found.is_empty(), "{mended}: {found:?}");
    }
    sql.batch_execute("alter role all reset all").await?;
    // what is mended in one call, wherever it was broken
    sql.batch_execute(&format!(
        "{role} reset all; {here} set pgaudit.log_parameter = on;
         create role front login in role loyalty_authenticator; create role post login in role loyalty_relay"
    ))
    .await?;
    let found = loyalty_tests::rows(&sql, unhealthy).await?;
    let expected = ["front", "loyalty_authenticator", "post"]
        .map(|login| format!("secrets of {login} in the log"));
    ensure!(found == expected, "{found:?}");
    for login in ["front", "loyalty_authenticator", "post"] {
        let install = format!("select loyalty.install_log_settings('{login}')");
        sql.batch_execute(&format!("{install}; {install}")).await?;
    }
    let found = loyalty_tests::rows(&sql, unhealthy).await?;
    ensure!(found.is_empty(), "{found:?}");
    // what PostgREST would set for the role of a request
    sql.batch_execute("alter role loyalty_anon set debug_print_plan = on")
        .await?;
    let found = loyalty_tests::rows(&sql, unhealthy).await?;
    ensure!(found == ["secrets of loyalty_anon in the log"], "{found:?}");
    sql.batch_execute("alter role loyalty_anon reset all")
        .await?;
    // the server's own, also where this session has another
    sql.batch_execute(&format!("{role} reset debug_print_plan"))
        .await?;
    sql.batch_execute("alter system set debug_print_plan = on; ")
        .await?;
    sql.batch_execute("select pg_reload_conf(); set debug_print_plan = off")
        .await?;
    let found = loyalty_tests::rows(&sql, unhealthy).await?;
    ensure!(found == [bad], "{found:?}");
    // those who watch may ask, and nobody else
    for (asker, code) in [
        ("loyalty_monitor", "00000"),
        ("loyalty_operator", "00000"),
        ("loyalty_admin", "42501"),
        ("loyalty_anon", "42501"),
    ] {
        sql.batch_execute(&format!("set role {asker}")).await?;
        let answer = sql.query(unhealthy, &[]).await;
        sql.batch_execute("reset role").await?;
        let found = loyalty_tests::sqlstate(&answer);
        ensure!(found == code, "{asker}: {found}");
    }
    // settings of logins are for superusers
    sql.batch_execute("create role keeper login in role loyalty_operator; set role keeper")
        .await?;
    let answer = sql
        .batch_execute("select loyalty.install_log_settings()")
        .await;
    ensure!(loyalty_tests::sqlstate(&answer) == "42501");
    Ok(())
}

/// The settings that the test above goes by are those that a DBA is told to make.
#[test]
fn the_documented_settings_are_these() -> Result<()> {
    let page = loyalty_testkit::repository().join("docs/operations.md");
    let page = std::fs::read_to_string(page)?;
    for setting in SET_UP {
        ensure!(
            page.contains(setting),
            "docs/operations.md lacks: {setting}"
        );
    }
    Ok(())
}
