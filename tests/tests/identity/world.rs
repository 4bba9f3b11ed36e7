//! Two programs whose members register and log in over HTTP, and read what they are mailed.

use anyhow::{Context, Result, ensure};
use loyalty_testkit::http::{self, Answer};
use loyalty_testkit::token::{Claims, Role, with_end};
use loyalty_testkit::{Api, TestDb};
use loyalty_tests::set_database_clock;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::mailbox::{Mailbox, Message};

pub use loyalty_testkit::PATIENCE;
/// Noon of the day that the tests begin on, in Tokyo.
pub const START: &str = "2026-06-15 12:00+09";
/// A password that both programs take.
pub const PASSWORD: &str = "coin2026abc";

pub struct World {
    pub api: Api,
    /// A superuser's session.
    pub sql: Client,
    http: reqwest::Client,
    pub mailbox: Mailbox,
    /// Members of program `coin`.
    pub hanako: Member,
    pub taro: Member,
    /// Reads English.
    pub ann: Member,
    /// Hanako as a member of program `mile`.
    pub hanako_mile: Member,
    /// A member of program `mile`; reads English.
    pub zoe: Member,
    // dropped last: nothing is connected to it then
    pub db: TestDb,
}

/// A member's record and the keys that the organisation handed out. Each has 1,000 points.
#[derive(Clone, Debug)]
pub struct Member {
    pub program: String,
    pub organisation_id: String,
    pub member_no: String,
    pub account_id: i64,
    pub name: String,
    pub kana: String,
    pub birth_date: String,
    pub key_1: String,
    pub key_2: String,
}

/// A login: what `log_in` and the end of a registration answer.
#[derive(Clone, Debug)]
pub struct Session {
    pub access: String,
    pub refresh: String,
    pub body: Value,
}

impl Session {
    pub fn of(body: Value) -> Result<Self> {
        let text = |name: &str| {
            let text = body[name].as_str().with_context(|| format!("no {name}"))?;
            anyhow::Ok(text.to_owned())
        };
        Ok(Self {
            access: text("access_token")?,
            refresh: text("refresh_token")?,
            body,
        })
    }
}

impl World {
    pub async fn start(label: &str) -> Result<Self> {
        let db = TestDb::create(label).await?;
        set_database_clock(&db, START).await?;
        let sql = db.connect().await?;
        sql.batch_execute(include_str!("world.sql")).await?;
        Ok(Self {
            api: db.api().await?,
            http: http::client().build()?,
            mailbox: Mailbox::open(&db).await?,
            hanako: member(&sql, "H-1").await?,
            taro: member(&sql, "T-1").await?,
            ann: member(&sql, "A-1").await?,
            hanako_mile: member(&sql, "M-77").await?,
            zoe: member(&sql, "Z-1").await?,
            sql,
            db,
        })
    }

    /// Moves the test clock for HTTP and for `sql`.
    pub async fn set_clock(&mut self, instant: &str) -> Result<()> {
        set_database_clock(&self.db, instant).await?;
        // a pooled connection keeps the setting that it began with
        self.api = self.db.api().await?;
        self.sql
            .batch_execute(&format!("set loyalty.clock = '{instant}'"))
            .await?;
        Ok(())
    }

    /// So much later than it is by the test clock, such as `16 minutes`.
    pub async fn pass(&mut self, interval: &str) -> Result<()> {
        let row = self
            .sql
            .query_one(
                &format!("select (loyalty.now() + interval '{interval}')::text"),
                &[],
            )
            .await?;
        self.set_clock(row.get(0)).await
    }

    /// The next message to an e-mail address or telephone number that was not read yet.
    pub async fn mail_to(&self, address: &str) -> Result<Message> {
        self.mailbox.next_to(address).await
    }

    /// Makes sure that nothing was sent to an address but what was read, nor is on its way.
    pub async fn no_mail_to(&self, address: &str) -> Result<()> {
        let query = "select count(*) from loyalty.notice n where n.address = $1";
        let queued: i64 = self.sql.query_one(query, &[&address]).await?.get(0);
        let read = self.mailbox.read_so_far(address);
        ensure!(
            usize::try_from(queued)? == read,
            "{queued} messages to {address}, {read} read"
        );
        Ok(())
    }

    /// A request still to be sent; an empty token sends none.
    pub fn request(&self, method: Method, token: &str, path: &str) -> RequestBuilder {
        http::request(&self.http, &self.api, method, token, path)
    }
    pub async fn get(&self, token: &str, path: &str) -> Result<Answer> {
        Answer::of(self.request(Method::GET, token, path)).await
    }
    pub async fn rpc(&self, token: &str, function: &str, arguments: Value) -> Result<Answer> {
        Answer::of(self.post(token, function).json(&arguments)).await
    }
    /// A call of a function, its body still to come.
    pub fn post(&self, token: &str, function: &str) -> RequestBuilder {
        self.request(Method::POST, token, &format!("/rpc/{function}"))
    }
    /// The same through another PostgREST.
    pub fn post_at(&self, api: &Api, token: &str, function: &str) -> RequestBuilder {
        let path = format!("/rpc/{function}");
        http::request(&self.http, api, Method::POST, token, &path)
    }
    /// A call by a client of that address, as the proxy tells it.
    pub async fn rpc_from(
        &self,
        address: &str,
        token: &str,
        function: &str,
        arguments: Value,
    ) -> Result<Answer> {
        let request = self
            .post(token, function)
            .header("X-Forwarded-For", address);
        Answer::of(request.json(&arguments)).await
    }

    /// Tokens that no login made, as a service of the organisation has.
    pub fn claims(&self, claims: &Value) -> Result<String> {
        self.api.token(&with_end(claims.clone())?)
    }
    pub fn admin(&self, program: &str) -> Result<String> {
        self.api
            .token(&Claims::new(Role::Admin, 600)?.program(program))
    }
    pub fn granter(&self, program: &str) -> Result<String> {
        self.api
            .token(&Claims::new(Role::Granter, 600)?.program(program))
    }
    pub fn operator(&self) -> Result<String> {
        self.api.token(&Claims::new(Role::Operator, 600)?)
    }

    /// A person as registration leaves them, without going through it; their identity_id.
    pub async fn enrol(&self, member: &Member, login_id: Option<&str>) -> Result<i64> {
        let query = "select enrol($1, $2, $3)";
        let row = self
            .sql
            .query_one(query, &[&member.account_id, &login_id, &PASSWORD])
            .await?;
        Ok(row.get(0))
    }

    pub async fn log_in(&self, login_id: &str, password: &str, program: &str) -> Result<Answer> {
        let arguments = json!({ "login_id": login_id, "password": password, "program": program });
        self.rpc("", "log_in", arguments).await
    }

    /// Registers as a person does (A1–A4), reading the code in the mail.
    pub async fn register(&self, member: &Member, login_id: &str) -> Result<Session> {
        let registration = self.begin(member).await?;
        self.choose(&registration, login_id).await?.ok()?;
        let code = self.mail_to(login_id).await?.code()?;
        let arguments = json!({ "registration": registration, "code": code });
        let verified = self.rpc("", "verify_code", arguments).await?.ok()?;
        ensure!(verified["next"] == "confirm", "{verified}");
        Session::of(self.confirm(&registration, member).await?.ok()?)
    }

    /// A registration that the keys opened (A1).
    pub async fn begin(&self, member: &Member) -> Result<String> {
        let arguments = json!({
            "organisation_id": member.organisation_id, "key_1": member.key_1, "key_2": member.key_2,
        });
        let begun = self.rpc("", "begin_registration", arguments).await?.ok()?;
        let token = begun["registration"].as_str();
        Ok(token.context("no registration")?.to_owned())
    }

    /// The login ID and password (A2), with the terms that the program has.
    pub async fn choose(&self, registration: &str, login_id: &str) -> Result<Answer> {
        let query = "select p.terms_version from loyalty.access_policy p
                       join loyalty_private.registration r on r.program_id = p.program_id
                      where r.token_hash = any (loyalty_private.keyed_hashes('registration', $1))";
        let row = self.sql.query_one(query, &[&registration]).await?;
        let arguments = json!({
            "registration": registration, "login_id": login_id, "password": PASSWORD,
            "terms_version": row.get::<_, String>(0),
        });
        self.rpc("", "choose_login", arguments).await
    }

    /// The end of a registration (A4), with the details of the member's record (C11).
    pub async fn confirm(&self, registration: &str, member: &Member) -> Result<Answer> {
        let arguments = json!({
            "registration": registration, "is_right_name": true,
            "kana": member.kana, "birth_date": member.birth_date,
        });
        self.rpc("", "confirm_registration", arguments).await
    }

    /// Who has the login becomes somebody of another program too.
    pub async fn join(&self, login_id: &str, member: &Member) -> Result<()> {
        let link =
            "insert into loyalty.identity_link (identity_id, account_id, program_id, linked_at)
                    select i.identity_id, a.account_id, a.program_id, loyalty.now()
                      from loyalty.identity i, loyalty.account a
                     where i.login_id = $1 and a.account_id = $2";
        let linked = self
            .sql
            .execute(link, &[&login_id, &member.account_id])
            .await?;
        ensure!(linked == 1, "{login_id} is nobody");
        Ok(())
    }

    /// What was counted keeps nobody from the next attempt.
    pub async fn forgive(&self) -> Result<()> {
        let forgive = "delete from loyalty_private.throttle";
        Ok(self.sql.batch_execute(forgive).await?)
    }

    /// The first column of the first row, as text.
    pub async fn one(&self, query: &str) -> Result<String> {
        let query = format!("select (q.*)::text from ({query}) q");
        Ok(self.sql.query_one(&query, &[]).await?.get(0))
    }
}

async fn member(sql: &Client, member_no: &str) -> Result<Member> {
    let query = "select program, organisation_id, member_no, account_id, name, kana,
                        birth_date::text, key_1, key_2
                   from someone where member_no = $1";
    let row = sql.query_one(query, &[&member_no]).await?;
    Ok(Member {
        program: row.get(0),
        organisation_id: row.get(1),
        member_no: row.get(2),
        account_id: row.get(3),
        name: row.get(4),
        kana: row.get(5),
        birth_date: row.get(6),
        key_1: row.get(7),
        key_2: row.get(8),
    })
}
