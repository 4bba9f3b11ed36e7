//! Two programs, three members, PostgREST in front, and the test clock over all of it.

use anyhow::Result;
use loyalty_testkit::http::{self, Answer};
use loyalty_testkit::token::{Claims, Role, with_end};
use loyalty_testkit::{Api, TestDb};
use loyalty_tests::{assert_sound, set_database_clock};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio_postgres::Client;

/// Noon of the day that the tests begin on, in Tokyo.
pub const START: &str = "2026-06-15 12:00+09";

pub struct World {
    pub api: Api,
    /// A superuser's session.
    pub sql: Client,
    http: reqwest::Client,
    /// Members of program `coin`.
    pub ann: i64,
    pub bob: i64,
    /// A member of program `mile`.
    pub zoe: i64,
    // dropped last: nothing is connected to it then
    pub db: TestDb,
}

impl World {
    /// Ann and Zoe have 1,000 points each, which lapse after 2029-06-30.
    pub async fn start(label: &str) -> Result<Self> {
        let db = TestDb::create(label).await?;
        set_database_clock(&db, START).await?;
        let sql = db.connect().await?;
        sql.batch_execute(
            "select loyalty.create_program('coin', 'Coin', point_name => 'coin');
             select loyalty.create_program('mile', 'Mile')",
        )
        .await?;
        let mut ids = Vec::new();
        for (program, member_no) in [("coin", "ann"), ("coin", "bob"), ("mile", "zoe")] {
            let row = sql
                .query_one(
                    "select loyalty.open_account($1, $2)",
                    &[&program, &member_no],
                )
                .await?;
            ids.push(row.get::<_, i64>(0));
        }
        for id in [ids[0], ids[2]] {
            sql.execute("select loyalty.grant($1, 1000)", &[&id])
                .await?;
        }
        let api = db.api().await?;
        Ok(Self {
            api,
            sql,
            http: http::client().build()?,
            ann: ids[0],
            bob: ids[1],
            zoe: ids[2],
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

    pub fn claims(&self, claims: Value) -> Result<String> {
        self.api.token(&with_end(claims)?)
    }
    fn token(&self, role: Role, program: &str) -> Result<String> {
        self.api.token(&Claims::new(role, 600)?.program(program))
    }
    pub fn member(&self, account_id: i64) -> Result<String> {
        let program = if account_id == self.zoe {
            "mile"
        } else {
            "coin"
        };
        let claims = Claims::new(Role::Member, 600)?.program(program);
        self.api.token(&claims.account_id(account_id))
    }
    pub fn granter(&self) -> Result<String> {
        self.token(Role::Granter, "coin")
    }
    pub fn admin(&self) -> Result<String> {
        self.token(Role::Admin, "coin")
    }
    pub fn admin_of(&self, program: &str) -> Result<String> {
        self.token(Role::Admin, program)
    }
    pub fn operator(&self) -> Result<String> {
        self.api.token(&Claims::new(Role::Operator, 600)?)
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
    pub async fn rpc_with_key(
        &self,
        token: &str,
        function: &str,
        key: &str,
        arguments: Value,
    ) -> Result<Answer> {
        let request = self.post(token, function).header("Idempotency-Key", key);
        Answer::of(request.json(&arguments)).await
    }

    /// All that a refused call must leave as it was.
    pub async fn ledger(&self) -> Result<String> {
        let row = self
            .sql
            .query_one(
                "select pg_catalog.format('%s entries, %s accounts, %s classes, wallets %s',
                            (select count(*) from loyalty.entry),
                            (select count(*) from loyalty.account),
                            (select count(*) from loyalty.lot_class),
                            (select md5(string_agg(w::text, ',' order by account_id))
                               from loyalty.wallet w))",
                &[],
            )
            .await?;
        Ok(row.get(0))
    }
    /// What is wrong with the ledger; nothing, it is hoped.
    pub async fn assert_sound(&self) -> Result<()> {
        assert_sound(&self.sql).await
    }
    pub async fn available(&self, account_id: i64) -> Result<i64> {
        let row = self
            .sql
            .query_one("select available from loyalty.balance($1)", &[&account_id])
            .await?;
        Ok(row.get(0))
    }
}

/// `{"account_id": …, "points": …}`
pub fn points_of(account_id: i64, points: i64) -> Value {
    json!({ "account_id": account_id, "points": points })
}
