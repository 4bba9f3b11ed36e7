//! psql and bash, as somebody who reads a page uses them.

use crate::page::Block;
use anyhow::{Context as _, Result, bail};
use loyalty_testkit::PATIENCE;
use loyalty_testkit::token::{Claims, Role};
use loyalty_testkit::{Api, FreshCluster, TestDb, TestServer};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

/// psql or bash, fed block by block.
struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<String>,
}

const MARK: &str = "--- end of the example ---";

impl Session {
    fn start(mut command: Command) -> Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        command
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let input = child.stdin.take();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            input,
            output,
        })
    }

    /// Has `text` run, and returns what it printed up to the mark that it prints last.
    fn run(&mut self, text: &str) -> Result<String> {
        let input = self.input.as_mut().context("the session has ended")?;
        input.write_all(text.as_bytes())?;
        input.flush()?;
        let mut printed = String::new();
        loop {
            match self.output.recv_timeout(PATIENCE) {
                Ok(line) if line == MARK => return Ok(printed),
                Ok(line) => {
                    printed.push_str(&line);
                    printed.push('\n');
                }
                Err(RecvTimeoutError::Timeout) => bail!("no end after {PATIENCE:?}: {printed}"),
                Err(RecvTimeoutError::Disconnected) => bail!("the session ended: {printed}"),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.input.take());
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Where a page's examples run.
pub enum Place {
    /// A database; over HTTP the tokens are for this program and member.
    Db {
        db: TestDb,
        program: &'static str,
        member_no: &'static str,
    },
    /// A cluster, for what a DBA does to one. Its database is `points`.
    Cluster(FreshCluster),
}

impl Place {
    fn program(&self, name: &str) -> Command {
        match self {
            Place::Db { db, .. } => db.program(name),
            Place::Cluster(cluster) => cluster.program(name, "points"),
        }
    }
}

/// A page's sessions. bash and PostgREST are started by the first `sh` block, so that the
/// `sql` blocks before it can make what they find.
pub struct Stage {
    psql: Session,
    bash: Option<Session>,
    _api: Option<Api>,
    dir: PathBuf,
    place: Place,
}

impl Stage {
    pub fn new(place: Place, page: &str) -> Result<Self> {
        let name = page.replace(['/', '.'], "-");
        let dir = TestServer::get()?.dir.join(format!("page-{name}"));
        std::fs::create_dir_all(&dir)?;
        let mut psql = place.program("psql");
        psql.args(["--no-psqlrc", "--quiet"]);
        Ok(Self {
            psql: Session::start(psql)?,
            bash: None,
            _api: None,
            dir,
            place,
        })
    }

    pub async fn run(&mut self, block: &Block, text: &str) -> Result<String> {
        if block.language() == "sql" {
            return self.psql.run(&format!("{text}\n\\echo {MARK}\n"));
        }
        if self.bash.is_none() {
            self.start_bash().await?;
        }
        let file = self.dir.join("block.sh");
        std::fs::write(&file, text)?;
        let bash = self.bash.as_mut().context("bash was not started")?;
        // sourced, so that its variables stay; without stdin, which is the session's
        let run = format!(
            "source '{}' </dev/null; printf '\\n%s\\n' '{MARK}'\n",
            file.display()
        );
        bash.run(&run)
    }

    async fn start_bash(&mut self) -> Result<()> {
        let mut bash = Command::new("bash");
        let psql = self.place.program("psql");
        for (name, value) in psql.get_envs() {
            match value {
                Some(value) => bash.env(name, value),
                None => bash.env_remove(name),
            };
        }
        let mut path = TestServer::get()?.bin.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        bash.env("PATH", path).current_dir(&self.dir);
        if let Place::Db {
            db,
            program,
            member_no,
        } = &self.place
        {
            let api = db.api().await?;
            let account_id: i64 = db
                .connect()
                .await?
                .query_one("select loyalty.open_account($1, $2)", &[program, member_no])
                .await?
                .get(0);
            let claims = |role| Claims::new(role, 3600).map(|claims| claims.program(program));
            bash.env("API_URL", api.url())
                .env(
                    "TOKEN",
                    api.token(&claims(Role::Member)?.account_id(account_id))?,
                )
                .env("GRANTER_TOKEN", api.token(&claims(Role::Granter)?)?)
                .env("ADMIN_TOKEN", api.token(&claims(Role::Admin)?)?);
            self._api = Some(api);
        }
        self.bash = Some(Session::start(bash)?);
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _gone_with_the_run = std::fs::remove_dir_all(&self.dir);
    }
}
