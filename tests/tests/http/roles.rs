//! Who asks: a session of every role, with the claims of a login where it has one, in a database
//! with rows of each owner; and every function there is to be called.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use loyalty_testkit::token::{headers, sign, with_end};
use loyalty_testkit::{TestDb, TestServer};
use loyalty_tests::{rows, sqlstate};
use serde_json::json;
use tokio_postgres::{Client, SimpleQueryMessage};

pub struct Subject {
    pub letter: char,
    pub role: &'static str,
    /// Claims and headers as PostgREST sets them.
    pub settings: [String; 2],
    pub client: Client,
}

/// How a session becomes a role as PostgREST does it: it logs in as the authenticator. The relay
/// logs in itself.
fn become_as_postgrest(role: &str) -> String {
    match role {
        "loyalty_relay" => format!("set session authorization {role}"),
        _ => format!("set session authorization loyalty_authenticator; set role {role}"),
    }
}

pub struct World {
    pub sql: Client,
    pub subjects: Vec<Subject>,
    /// SQL of a row's owner, by the columns that tell it.
    pub accounts: String,
    pub identities: String,
    pub programs: String,
    /// Ids of program 1, by the names of the arguments that take them.
    pub known: BTreeMap<&'static str, String>,
    pub db: TestDb,
}

pub async fn one(client: &Client, query: &str) -> Result<String> {
    let found = rows(client, query).await?;
    ensure!(found.len() == 1, "{query}: {found:?}");
    Ok(found[0].clone())
}

impl World {
    pub async fn start(label: &str) -> Result<Self> {
        let db = TestDb::create(label).await?;
        let sql = db.connect().await?;
        sql.batch_execute("set loyalty.clock = '2026-06-15 12:00+09'")
            .await?;
        sql.batch_execute(include_str!("matrix.sql")).await?;
        // names in full, whatever a caller's path
        sql.batch_execute("set search_path = pg_catalog").await?;
        let id = async |what: &str, of: &str| one(&sql, &format!("select {what} from {of}")).await;
        let account = async |no: &str| {
            let of = format!("loyalty.account where member_no = '{no}'");
            id("account_id", &of).await
        };
        let (ann, bob) = (account("ann").await?, account("bob").await?);
        // claims as the tokens of logins have them
        let identity = async |login_id: &str| {
            let of = format!("loyalty.identity where login_id = '{login_id}@example.com'");
            id("identity_id", &of).await
        };
        let sid = async |login_id: &str| {
            let of = format!(
                "loyalty_private.session where identity_id = {}",
                identity(login_id).await?
            );
            id("session_id", &of).await
        };
        let opens = async |account: &str, login_id: &str| {
            let (identity, sid) = (identity(login_id).await?, sid(login_id).await?);
            let account: i64 = account.parse()?;
            anyhow::Ok(
                json!({"program": "coin", "account_id": account, "sub": format!("identity:{identity}"), "sid": sid}),
            )
        };
        let staff = async |program: &str, duty: &str| {
            let login_id = format!("{duty}-of-{program}");
            let (identity, sid) = (identity(&login_id).await?, sid(&login_id).await?);
            anyhow::Ok(
                json!({"program": program, "sub": format!("identity:{identity}"), "sid": sid}),
            )
        };
        let mut subjects = Vec::new();
        let server = TestServer::get()?;
        for (letter, role, mut claims) in [
            ('N', "loyalty_anon", json!({})),
            ('A', "loyalty_member", opens(&ann, "ann").await?),
            ('B', "loyalty_member", opens(&bob, "bob").await?),
            ('F', "loyalty_family", opens(&ann, "child-of-ann").await?),
            ('G', "loyalty_granter", staff("coin", "granter").await?),
            ('1', "loyalty_admin", staff("coin", "admin").await?),
            ('2', "loyalty_admin", staff("mile", "admin").await?),
            ('O', "loyalty_operator", json!({})),
            ('R', "loyalty_relay", json!({})),
            ('T', "loyalty_authenticator", json!({})),
        ] {
            let client = db.connect().await?;
            let mut settings = ["{}".to_owned(), "{}".to_owned()];
            if !matches!(letter, 'N' | 'R' | 'T') {
                claims["role"] = json!(role);
                let claims = with_end(claims)?;
                let token = sign(&claims, &server.jwt_secret)?;
                settings = [claims.to_string(), headers(&token)];
            }
            let [claims, headers] = &settings;
            // the extension's settings are known once a function of it was called
            client
                .batch_execute(&format!(
                    "select loyalty.now(); set search_path = pg_catalog;
                     select set_config('request.jwt.claims', '{claims}', false),
                            set_config('request.headers', '{headers}', false);
                     {}",
                    become_as_postgrest(role)
                ))
                .await?;
            subjects.push(Subject {
                letter,
                role,
                settings,
                client,
            });
        }
        let owners = async |query: &str| anyhow::Ok(rows(&sql, query).await?.join(" "));
        let accounts = owners(
            "select format('when %s then %L', account_id, case member_no when 'ann' then 'a' when 'bob' then 'b' else '2' end)
               from loyalty.account",
        )
        .await?;
        let identities = owners(
            "select format('when %s then %L', identity_id, case
                        when login_id like 'ann@%' then 'a' when login_id like 'bob@%' then 'b'
                        when login_id like 'child-of-ann@%' then 'f' when login_id ~ 'zoe|mile' then '2'
                        else '1' end)
               from loyalty.identity",
        )
        .await?;
        let programs = owners(
            "select format('when %s then %L', program_id, case code when 'coin' then '1' else '2' end) from loyalty.program",
        )
        .await?;
        let mut known = BTreeMap::new();
        let of_ann = format!("where account_id = {ann}");
        for (name, column, of) in [
            (
                "account_id",
                "account_id",
                format!("loyalty.account {of_ann}"),
            ),
            (
                "from_account_id",
                "account_id",
                format!("loyalty.account {of_ann}"),
            ),
            ("run_id", "run_id", format!("loyalty.run_failure {of_ann}")),
            ("event_id", "event_id", format!("loyalty.event {of_ann}")),
            (
                "notice_id",
                "min(notice_id)",
                format!("loyalty.notice {of_ann}"),
            ),
            (
                "identity_id",
                "identity_id",
                format!("loyalty.identity_link {of_ann} and relation = 'self'"),
            ),
            (
                "session_id",
                "session_id",
                format!("loyalty_private.session {of_ann} and role = 'loyalty_member'"),
            ),
            ("family_id", "family_id", format!("loyalty.family {of_ann}")),
            (
                "application_id",
                "application_id",
                format!("loyalty.login_application {of_ann}"),
            ),
            (
                "proposal_id",
                "proposal_id",
                format!("loyalty.grant_proposal {of_ann}"),
            ),
            (
                "role_id",
                "max(role_id)",
                "loyalty.program_role where program_id = loyalty.program_id('coin')".to_owned(),
            ),
        ] {
            known.insert(name, id(column, &of).await?);
        }
        Ok(Self {
            sql,
            subjects,
            accounts,
            identities,
            programs,
            known,
            db,
        })
    }

    /// A yes or no of the catalog.
    pub async fn holds(&self, question: &str) -> Result<bool> {
        Ok(one(&self.sql, &format!("select {question}")).await? == "t")
    }
}

impl Subject {
    /// Another session of the role, without claims.
    pub async fn connect(&self, db: &TestDb) -> Result<Client> {
        let client = db.connect().await?;
        let become_role = become_as_postgrest(self.role);
        client.batch_execute(&become_role).await?;
        Ok(client)
    }
    /// The SQLSTATE that a statement ends with; nothing stays of it.
    pub async fn tries(&self, statement: &str) -> Result<String> {
        Ok(self.asks(statement).await?.code)
    }

    pub async fn asks(&self, statement: &str) -> Result<Outcome> {
        self.client.batch_execute("begin").await?;
        let answer = self.client.simple_query(statement).await;
        self.client.batch_execute("rollback").await?;
        let code = sqlstate(&answer);
        // neither a crash nor a bug of ours
        let is_sane = code.len() == 5 && !code.starts_with("XX") && !code.starts_with("57");
        ensure!(is_sane, "{}: {statement}: {code}", self.role);
        let (seen, message) = match answer {
            Ok(messages) => (first(&messages), String::new()),
            Err(error) => {
                let message = error.as_db_error().map(|error| error.message().to_owned());
                (String::new(), message.unwrap_or_default())
            }
        };
        Ok(Outcome {
            code,
            seen,
            message,
        })
    }
}

pub struct Outcome {
    pub code: String,
    /// The first column of the first row.
    pub seen: String,
    pub message: String,
}

fn first(messages: &[SimpleQueryMessage]) -> String {
    let mut found = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("").to_owned()),
        _ => None,
    });
    found.next().unwrap_or_default()
}

pub struct Function {
    /// As SQL calls it.
    pub name: String,
    pub is_api: bool,
    pub is_procedure: bool,
    /// Whether it runs as who calls it and by their search path.
    pub is_the_callers: bool,
    /// Names, where they have one, and types.
    pub arguments: Vec<(String, String)>,
}

impl Function {
    /// A call with nulls, but for some of the arguments. They come as columns: of a strict
    /// function with a null written out the planner would ask nobody's leave.
    pub fn call(&self, given: &[(&str, &str)]) -> String {
        let value = |(name, kind): &(String, String)| {
            let found = given.iter().find(|(wanted, _)| wanted == name);
            let value = found.map_or("null".to_owned(), |(_, value)| format!("'{value}'"));
            format!("{value}::{kind}")
        };
        let values: Vec<String> = self.arguments.iter().map(value).collect();
        if self.is_procedure {
            return format!("call {}({})", self.name, values.join(", "));
        }
        if values.is_empty() {
            return format!("select {}()", self.name);
        }
        let named: Vec<String> = (1..=values.len()).map(|n| format!("g.a{n}")).collect();
        let columns: Vec<String> = values
            .iter()
            .zip(1..)
            .map(|(value, n)| format!("{value} as a{n}"))
            .collect();
        format!(
            "select {}({}) from (select {} offset 0) g",
            self.name,
            named.join(", "),
            columns.join(", ")
        )
    }

    pub fn kinds(&self) -> String {
        let kinds: Vec<&str> = self
            .arguments
            .iter()
            .map(|(_, kind)| kind.as_str())
            .collect();
        kinds.join(", ")
    }

    /// Name and arguments; types as well where another has the same names.
    pub fn signature(&self, with_kinds: bool) -> String {
        let written = |(name, kind): &(String, String)| match (name.as_str(), with_kinds) {
            ("", _) => kind.clone(),
            (name, true) => format!("{name} {kind}"),
            (name, false) => name.to_owned(),
        };
        let arguments: Vec<String> = self.arguments.iter().map(written).collect();
        format!("{}({})", self.name.replace('"', ""), arguments.join(", "))
    }

    /// The one that answers wrong argument names, whoever asks.
    pub fn is_about_names(&self) -> bool {
        matches!(self.arguments.as_slice(), [(name, kind)] if name.is_empty() && kind == "json")
    }
}

impl World {
    pub async fn functions(&self) -> Result<Vec<Function>> {
        let found = self
            .sql
            .query(
                "select format('%s.%s', p.pronamespace::regnamespace, quote_ident(p.proname)),
                        p.pronamespace = 'loyalty_api'::regnamespace, p.prokind = 'p',
                        array(select coalesce(p.proargnames[n], '') from generate_series(1, p.pronargs) n),
                        array(select format_type(p.proargtypes[n - 1], null) from generate_series(1, p.pronargs) n),
                        not p.prosecdef and p.proconfig is null and p.prosqlbody is null
                            and p.prolang <> (select oid from pg_language where lanname = 'c')
                   from pg_proc p
                  where p.pronamespace in ('loyalty'::regnamespace, 'loyalty_api'::regnamespace, 'loyalty_private'::regnamespace)",
                &[],
            )
            .await?;
        let function = |row: &tokio_postgres::Row| {
            let names: Vec<String> = row.get(3);
            let kinds: Vec<String> = row.get(4);
            Function {
                name: row.get(0),
                is_api: row.get(1),
                is_procedure: row.get(2),
                is_the_callers: row.get(5),
                arguments: names.into_iter().zip(kinds).collect(),
            }
        };
        let mut functions: Vec<Function> = found.iter().map(function).collect();
        functions.sort_by_key(|function| (function.signature(false), function.kinds()));
        Ok(functions)
    }

    pub async fn may_call(&self, function: &Function, subject: &Subject) -> Result<char> {
        let (role, name, kinds) = (subject.role, &function.name, function.kinds());
        let question = format!(
            "has_function_privilege('{role}', '{name}({kinds})', 'execute')
             and has_schema_privilege('{role}', split_part('{name}', '.', 1), 'usage')"
        );
        let allowed = self.holds(&question).await?;
        let Outcome { code, message, .. } = subject.asks(&function.call(&[])).await?;
        // what loyalty_private.api_refuse says; a wrong token or password has the same code
        let is_refused = matches!(
            (code.as_str(), message.as_str()),
            ("LY009", "not signed in") | ("LY010", "not allowed")
        );
        Ok(match (allowed, code.as_str()) {
            (false, "42501") => '-',
            (true, "42501") => '!',
            (true, _) if is_refused => '.',
            (true, _) => 'x',
            (false, code) => {
                anyhow::bail!("{role}: {name}({kinds}) is closed by the catalog, got {code}")
            }
        })
    }
}
