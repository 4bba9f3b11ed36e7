//! The images at work together, as docker/compose.yaml has them: the same order, secrets,
//! settings and health checks. Two things differ for want of a registry and a network of
//! containers: PostgREST is this machine's, and all listen on this machine's ports.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, chown};

use super::buildah::{Buildah, Container, Running};
use super::name;
use crate::compose::Compose;
use crate::context::Context;
use crate::package::{SMOKE, VERSION};
use loyalty_testkit::http::get;
use loyalty_testkit::os::{
    self, any_free_port, create_dir, log_tail, path_variable, plain_command, wait_until,
};
use loyalty_testkit::service::answers;

const PATIENCE: Duration = Duration::from_secs(180);

/// Users of the images, whom volumes belong to.
const POSTGRES: u32 = 999;
const POSTGREST: u32 = 1000;
const RELAY: u32 = 10001;

/// The secrets: volume, file, reader.
const SECRETS: [(&str, &str, u32); 7] = [
    ("server", "jwt.json", POSTGRES),
    ("server", "pepper.json", POSTGRES),
    ("server", "authenticator-password", POSTGRES),
    ("server", "relay-password", POSTGRES),
    ("api", "jwt.json", POSTGREST),
    ("api", "db-uri", POSTGREST),
    ("relay", "database-password", RELAY),
];

struct Trial<'a> {
    dir: PathBuf,
    compose: Compose,
    buildah: &'a Buildah,
    port: u16,
}

pub fn run(context: &Context, buildah: &Buildah) -> Result<()> {
    eprintln!("dev: trying the images");
    let trial = Trial {
        dir: context.state.join("image/trial"),
        compose: Compose::read(&context.repo)?,
        buildah,
        port: any_free_port()?,
    };
    if trial.dir.exists() {
        fs::remove_dir_all(&trial.dir)?;
    }
    for volume in ["server", "api", "relay", "data"] {
        create_dir(&trial.dir.join(volume))?;
    }
    chown(
        &trial.dir.join("data"),
        Some(POSTGRES.into()),
        Some(POSTGRES.into()),
    )?;
    let outcome = trial.run();
    let removed = fs::remove_dir_all(&trial.dir);
    // what went wrong first is the one to hear of
    outcome.and(removed.context("the trial's files cannot be removed"))
}

impl Trial<'_> {
    fn run(&self) -> Result<()> {
        let container = self.buildah.container(&name("database"))?;
        ensure!(
            container.user == "postgres",
            "the database's user is {}",
            container.user
        );
        self.make_secrets(&container)?;

        let database = self.start_database(&container)?;
        let version = self.psql(&container, SMOKE)?;
        ensure!(version == VERSION, "version {version} is installed");
        eprintln!("dev: database: healthy, a grant and a spend made");

        self.try_api(&container)?;
        eprintln!("dev: API: OpenAPI served, a token of the database's believed");

        self.try_mail()?;
        eprintln!("dev: relay and mail: healthy, a mail arrived");

        self.stop_database(database)?;
        let database = self.start_database(&container)?;
        let balance = "select balance from loyalty.wallet";
        let balance = self.psql(&container, balance)?;
        ensure!(
            balance == "300",
            "after a new start the balance is {balance}"
        );
        self.stop_database(database)?;
        eprintln!("dev: database: stopped and started again, all there");
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// Options of a container: its volumes, and the database's port.
    fn options(&self, volumes: &[(&str, &str)]) -> Vec<String> {
        let mut options = vec![format!("--env=PGPORT={}", self.port)];
        for (volume, place) in volumes {
            let volume = self.dir.join(volume);
            options.push(format!("--volume={}:{place}", volume.display()));
        }
        options
    }

    fn server_options(&self) -> Vec<String> {
        self.options(&[
            ("data", "/var/lib/postgresql/data"),
            ("server", "/run/loyalty:ro"),
        ])
    }

    /// What the service `secrets` does; done twice, it changes nothing.
    fn make_secrets(&self, container: &Container) -> Result<()> {
        let mut options = self.options(&[
            ("server", "/run/loyalty"),
            ("api", "/run/loyalty-api"),
            ("relay", "/run/loyalty-relay"),
        ]);
        options.extend([
            "--user=0:0".to_owned(),
            "--env=LOYALTY_DATABASE_HOST=127.0.0.1".to_owned(),
        ]);
        let entrypoint = &self.compose.service("secrets")?.entrypoint;
        let mut before = Vec::new();
        for _ in 0..2 {
            os::run(&mut container.command(&options, entrypoint))?;
            let mut texts = Vec::new();
            for (volume, file, reader) in SECRETS {
                let path = self.dir.join(volume).join(file);
                let meta = fs::metadata(&path).with_context(|| path.display().to_string())?;
                ensure!(
                    meta.uid() == reader && meta.mode() & 0o777 == 0o400,
                    "{volume}/{file} is not its reader's alone"
                );
                texts.push(fs::read_to_string(&path)?);
            }
            ensure!(
                before.is_empty() || before == texts,
                "secrets were made anew"
            );
            before = texts;
        }
        Ok(())
    }

    fn start_database(&self, container: &Container) -> Result<Running> {
        let options = self.server_options();
        let mut running = container.start(&options, &container.arguments, &self.log("database"))?;
        healthy("database", &mut running, || container.is_healthy(&options))?;
        Ok(running)
    }

    fn stop_database(&self, database: Running) -> Result<()> {
        let file = fs::read_to_string(self.dir.join("data/postmaster.pid"))
            .with_context(|| format!("the database is gone:\n{}", log_tail(&database.log, 8)))?;
        let pid = file.lines().next().context("no process")?.parse()?;
        kill(Pid::from_raw(pid), Signal::SIGINT)?;
        database.ended().context("the database does not stop well")
    }

    /// psql in the database's container; what it prints.
    fn psql(&self, container: &Container, sql: &str) -> Result<String> {
        let words = ["psql", "-XqAt", "-d", "loyalty"];
        let mut command = container.command(&self.server_options(), &words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut input = child.stdin.take().context("no input")?;
        input.write_all(sql.as_bytes())?;
        drop(input);
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "psql ended with {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// PostgREST with the service's settings and secrets.
    fn try_api(&self, container: &Container) -> Result<()> {
        let port = any_free_port()?;
        let secrets = self.dir.join("api").display().to_string();
        let mut command = plain_command(path_variable("LOYALTY_POSTGREST")?);
        for (name, value) in self.compose.service("api")?.variables() {
            command.env(name, value.replace("/run/loyalty-api", &secrets));
        }
        command
            .env("PGRST_SERVER_HOST", "127.0.0.1")
            .env("PGRST_SERVER_PORT", port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.log("api"))?);
        let _api = Process(command.spawn()?);
        let url = format!("http://127.0.0.1:{port}");
        if !wait_until(PATIENCE, || answers(&url)) {
            bail!(
                "the API does not answer:\n{}",
                log_tail(&self.log("api"), 8)
            );
        }
        let page = get(&url, "", PATIENCE)?;
        ensure!(
            page.contains("\"/balance\""),
            "the OpenAPI page has no balance"
        );
        let token = self.psql(
            container,
            "select loyalty_private.sign_token(json_build_object('role', 'loyalty_operator', \
             'exp', extract(epoch from now())::bigint + 60)::text)",
        )?;
        let answer = get(&format!("{url}/balance?select=balance"), &token, PATIENCE)?;
        ensure!(answer == "[{\"balance\":300}]", "the API says {answer}");
        Ok(())
    }

    /// The mail of the grant goes from the database by the relay to the catcher.
    fn try_mail(&self) -> Result<()> {
        let (smtp, page, metrics) = (any_free_port()?, any_free_port()?, any_free_port()?);
        let catcher = self.buildah.container(&name("mail"))?;
        let mut words = catcher.arguments.clone();
        for word in &mut words {
            *word = word
                .replace("0.0.0.0:1025", &format!("127.0.0.1:{smtp}"))
                .replace("0.0.0.0:8025", &format!("127.0.0.1:{page}"));
        }
        let mut catching = catcher.start(&[], &words, &self.log("mail"))?;
        let url = format!("http://127.0.0.1:{page}/messages");
        healthy("mail", &mut catching, || answers(&url))?;
        os::run(&mut catcher.command(&[], &["http-health", &page.to_string(), "/"]))?;

        let relay = self.buildah.container(&name("relay"))?;
        let mut options = self.options(&[("relay", "/run/loyalty-relay:ro")]);
        for (name, value) in self.compose.service("relay")?.variables() {
            let value = match name.as_str() {
                "LOYALTY_RELAY_SMTP_HOST" => "127.0.0.1".to_owned(),
                "LOYALTY_RELAY_SMTP_PORT" => smtp.to_string(),
                _ => value.replace(
                    "host=database",
                    &format!("host=127.0.0.1 port={}", self.port),
                ),
            };
            options.push(format!("--env={name}={value}"));
        }
        options.push(format!("--env=LOYALTY_RELAY_LISTEN=127.0.0.1:{metrics}"));
        let mut relaying = relay.start(&options, &relay.arguments, &self.log("relay"))?;
        let check = ["http-health", &metrics.to_string(), "/healthz"];
        healthy("relay", &mut relaying, || {
            os::run(&mut relay.command(&[], &check)).is_ok()
        })?;
        let arrived = || get(&url, "", PATIENCE).is_ok_and(|text| text.contains("yui@example.com"));
        ensure!(
            wait_until(PATIENCE, arrived),
            "no mail arrives:\n{}",
            log_tail(&self.log("relay"), 12)
        );
        Ok(())
    }
}

fn healthy(what: &str, running: &mut Running, check: impl Fn() -> bool) -> Result<()> {
    let mut is_healthy = false;
    wait_until(PATIENCE, || {
        is_healthy = check();
        is_healthy || running.has_ended()
    });
    ensure!(
        is_healthy,
        "the {what} does not become healthy:\n{}",
        log_tail(&running.log, 12)
    );
    Ok(())
}

/// Ended when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _status = self.0.wait();
    }
}
