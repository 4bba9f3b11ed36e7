//! docker/ and debian/ agree with the sources and with each other. Building and trying what
//! they make takes minutes: `./dev image`, `./dev package`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use loyalty_dev::compose::Compose;
use loyalty_dev::{image, licences, package};
use loyalty_testkit::{TestServer, os, repository};

fn read(path: &str) -> Result<String> {
    fs::read_to_string(repository().join(path)).with_context(|| path.to_owned())
}

/// The instructions of docker/Dockerfile, each on a line of its own.
fn instructions() -> Result<Vec<String>> {
    let text = read("docker/Dockerfile")?.replace("\\\n", " ");
    let lines = text.lines().map(str::trim);
    Ok(lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect())
}

/// The stages: what each is made of, its name, its instructions.
fn stages() -> Result<Vec<(String, String, Vec<String>)>> {
    let mut stages: Vec<(String, String, Vec<String>)> = Vec::new();
    for line in instructions()? {
        if let Some(stage) = line.strip_prefix("FROM ") {
            let (from, name) = stage.split_once(" AS ").context(line.clone())?;
            stages.push((from.to_owned(), name.to_owned(), Vec::new()));
        } else if let Some((_, _, instructions)) = stages.last_mut() {
            instructions.push(line);
        }
    }
    Ok(stages)
}

#[test]
fn packaging_has_the_version_of_the_sources() -> Result<()> {
    let version = package::VERSION;
    let changelog = read("debian/changelog")?;
    let first = changelog.lines().next().unwrap_or_default();
    ensure!(
        first.starts_with(&format!("pg-loyalty ({version}) ")),
        "debian/changelog begins with {first:?}, the version is {version}"
    );
    let control = read("pg_loyalty.control")?;
    ensure!(control.contains("default_version = '@CARGO_VERSION@'"));
    ensure!(read("Cargo.toml")?.contains(&format!("version = \"{version}\"")));
    let compose = Compose::read(repository())?;
    for (name, service) in &compose.services {
        let Some(build) = &service.build else {
            continue;
        };
        ensure!(
            service.image == image::name(&build.target),
            "service {name} is built as {}",
            service.image
        );
    }
    Ok(())
}

#[test]
fn packaging_has_the_files_that_are_installed() -> Result<()> {
    let server = TestServer::get()?;
    // Below a prefix of the same layout as /usr.
    let prefix = server.bin.ancestors().nth(4).context("no prefix")?;
    let mut installed = BTreeSet::new();
    for entry in walk(prefix)? {
        let path = entry.strip_prefix(prefix)?.display().to_string();
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        if path.contains("postgresql") && name.starts_with("pg_loyalty") {
            installed.insert(format!("/usr/{path}"));
        }
    }
    let expected = package::extension_files(repository(), server.pg_major)?;
    ensure!(
        installed == expected,
        "installed are {installed:?}, the packages have {expected:?}"
    );
    Ok(())
}

/// The assembler refuses what has no place in `sql/`; here is that it leaves out nothing else.
#[test]
fn packaging_has_each_file_of_sql_once() -> Result<()> {
    let sql = repository().join("sql");
    let used = loyalty_install::sql_files(&sql)?;
    let mut there = BTreeSet::new();
    for path in walk(&sql)? {
        let name = path.strip_prefix(&sql)?;
        if !name.starts_with(loyalty_install::UPGRADE) {
            there.insert(name.to_owned());
        }
    }
    let once: BTreeSet<PathBuf> = used.iter().cloned().collect();
    ensure!(once.len() == used.len(), "a file is used twice: {used:?}");
    ensure!(once == there, "used are {once:?}, there are {there:?}");
    let script = loyalty_install::install_script(&sql)?;
    for file in &used {
        let text = fs::read_to_string(sql.join(file))?;
        let uses = script.matches(text.trim_end()).count();
        ensure!(
            uses == 1,
            "{} is in the script {uses} times",
            file.display()
        );
    }
    Ok(())
}

fn walk(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

/// A library in every backend has no more in it than it needs: its tokens are signed with HMAC.
#[test]
fn packaging_links_no_cryptography_but_what_is_used() -> Result<()> {
    let linked = licences::linked(repository(), "pg_loyalty")?;
    for needed in ["pg_loyalty", "pgrx", "argon2", "hmac", "sha2"] {
        ensure!(linked.contains(needed), "{needed} is not in {linked:?}");
    }
    let unneeded = [
        "aws-lc-rs",
        "crypto-bigint",
        "curve25519-dalek",
        "der",
        "dsa",
        "ecdsa",
        "ed25519",
        "ed25519-dalek",
        "elliptic-curve",
        "jsonwebtoken",
        "num-bigint-dig",
        "openssl",
        "p256",
        "p384",
        "pem",
        "pkcs1",
        "pkcs8",
        "ring",
        "rsa",
        "rustls",
        "simple_asn1",
        "spki",
    ];
    let found: Vec<&str> = unneeded
        .into_iter()
        .filter(|name| linked.contains(*name))
        .collect();
    ensure!(found.is_empty(), "the library links {found:?}");
    // the tree is read right: the relay speaks TLS
    ensure!(licences::linked(repository(), "loyalty-relay")?.contains("ring"));
    Ok(())
}

/// The licence of each crate that is shipped, and of no other.
#[test]
fn packaging_has_the_licences_of_what_is_linked() -> Result<()> {
    let text = licences::text(repository())?;
    ensure!(
        read(licences::FILE)? == text,
        "{} is of other crates; write it with: ./dev licences",
        licences::FILE
    );
    for package in ["pg_loyalty", "loyalty-relay"] {
        for name in licences::linked(repository(), package)? {
            let is_ours = name == package || name.starts_with("loyalty-");
            let is_listed = text
                .lines()
                .any(|line| line.starts_with(&format!("{name} ")));
            ensure!(is_listed != is_ours, "{name} of {package}");
        }
    }
    // in the packages and the images
    let rules = read("debian/rules")?;
    let docs = |line: &&str| line.contains("dh_installdocs --package");
    let docs: Vec<&str> = rules.lines().filter(docs).collect();
    ensure!(
        docs.len() == 2 && docs.iter().all(|line| line.contains(licences::FILE)),
        "{docs:?}"
    );
    let stages = stages()?;
    for image in ["database", "relay"] {
        let (_, _, lines) = stages
            .iter()
            .find(|(_, name, _)| name == image)
            .context(image)?;
        let has = |line: &String| line.starts_with("COPY ") && line.contains(licences::FILE);
        ensure!(lines.iter().any(has), "{image}");
    }
    Ok(())
}

#[test]
fn packaging_makes_a_control_file_for_each_major_version() -> Result<()> {
    let template = read("debian/control.in")?;
    for major in 15..=18 {
        let control = package::control(&template, major);
        let packages: Vec<&str> = control
            .lines()
            .filter_map(|line| line.strip_prefix("Package: "))
            .collect();
        let extension = format!("postgresql-{major}-pg-loyalty");
        ensure!(packages == [extension.as_str(), "loyalty-relay"]);
        ensure!(control.contains(&format!("Depends: postgresql-{major}, ")));
        ensure!(control.contains(&format!("Recommends: postgresql-{major}-cron\n")));
        ensure!(!control.contains("PGVERSION"));
    }
    Ok(())
}

#[test]
fn packaging_names_only_files_that_are_there() -> Result<()> {
    let root = repository();
    for name in package::SOURCES {
        ensure!(root.join(name).exists(), "the packages want {name}");
    }
    let rules = read("debian/rules")?;
    let named: Vec<&str> = rules
        .split([' ', '\t', '\n', '='])
        .filter(|word| word.starts_with("docs/") && !word.contains('*'))
        .collect();
    ensure!(named.len() >= 3, "debian/rules names {named:?}");
    for path in named {
        ensure!(root.join(path).exists(), "debian/rules wants {path}");
    }

    let kept: Vec<String> = read("docker/Dockerfile.dockerignore")?
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .map(str::to_owned)
        .collect();
    for name in &kept {
        ensure!(root.join(name).exists(), "the images want {name}");
    }
    let stages = stages()?;
    let mut names = BTreeSet::new();
    for (from, stage, instructions) in &stages {
        ensure!(
            matches!(from.as_str(), "${BASE}" | "scratch") || names.contains(from),
            "{stage} is made of {from}"
        );
        names.insert(stage.clone());
        for copy in instructions
            .iter()
            .filter_map(|line| line.strip_prefix("COPY "))
        {
            let words: Vec<&str> = copy.split(' ').collect();
            if let Some(other) = words[0].strip_prefix("--from=") {
                ensure!(names.contains(other), "{stage} copies from {other}");
                continue;
            }
            for source in &words[..words.len() - 1] {
                ensure!(root.join(source).exists(), "{stage} copies {source}");
                let is_kept = |name: &String| Path::new(source).starts_with(name);
                ensure!(kept.iter().any(is_kept), "{source} is ignored");
            }
        }
    }
    Ok(())
}

#[test]
fn packaging_images_are_small_in_rights() -> Result<()> {
    let stages = stages()?;
    for target in image::TARGETS {
        let (_, _, instructions) = stages
            .iter()
            .find(|(_, name, _)| name == target)
            .with_context(|| format!("there is no target {target}"))?;
        let users: Vec<&str> = instructions
            .iter()
            .filter_map(|line| line.strip_prefix("USER "))
            .collect();
        ensure!(
            matches!(users.last(), Some(user) if !matches!(*user, "root" | "0")),
            "{target} runs as {users:?}"
        );
        let has = |what: &str| instructions.iter().any(|line| line.starts_with(what));
        ensure!(has("HEALTHCHECK "), "{target} has no health check");
        ensure!(has("ENTRYPOINT "), "{target} does not start by itself");
    }
    Ok(())
}

#[test]
fn packaging_scripts_are_programs_that_bash_can_read() -> Result<()> {
    let mut scripts = 0;
    for path in walk(&repository().join("docker"))? {
        let text = fs::read_to_string(&path)?;
        if !text.starts_with("#!") {
            continue;
        }
        scripts += 1;
        let mode = fs::metadata(&path)?.permissions().mode();
        ensure!(mode & 0o111 == 0o111, "{} cannot be run", path.display());
        os::run(os::plain_command("bash").arg("-n").arg(&path))?;
    }
    ensure!(scripts == 5, "{scripts} scripts");
    let rules = repository().join("debian/rules");
    ensure!(fs::metadata(rules)?.permissions().mode() & 0o111 == 0o111);
    Ok(())
}

#[test]
fn packaging_compose_fits_together() -> Result<()> {
    let compose = Compose::read(repository())?;
    let names: Vec<&str> = compose.services.keys().map(String::as_str).collect();
    ensure!(names == ["api", "database", "mail", "page", "relay", "secrets"]);
    let stages = stages()?;
    let has_health = |name: &str| -> Result<bool> {
        let Some(build) = &compose.service(name)?.build else {
            return Ok(false);
        };
        let stage = stages.iter().find(|(_, stage, _)| *stage == build.target);
        Ok(stage
            .is_some_and(|(_, _, lines)| lines.iter().any(|line| line.starts_with("HEALTHCHECK "))))
    };
    let mut mounted = BTreeSet::new();
    for (name, service) in &compose.services {
        if let Some(build) = &service.build {
            let context = repository().join("docker").join(&build.context);
            ensure!(
                context.canonicalize()? == repository().canonicalize()?,
                "{name} is built in {}",
                build.context
            );
            ensure!(
                context.join(&build.dockerfile).is_file(),
                "{name} is built by {}",
                build.dockerfile
            );
            ensure!(
                image::TARGETS.contains(&build.target.as_str()),
                "{name} is {}",
                build.target
            );
            let dockerfile = instructions()?;
            for (argument, value) in &build.args {
                let default = format!("ARG {argument}={value}");
                ensure!(dockerfile.contains(&default), "{name}: {default}");
            }
        }
        for (other, dependency) in &service.depends_on {
            let condition = dependency.condition.as_str();
            let is_met = match condition {
                "service_healthy" => has_health(other)?,
                "service_started" => compose.services.contains_key(other),
                "service_completed_successfully" => other == "secrets",
                _ => false,
            };
            ensure!(is_met, "{name} waits for {other} to be {condition}");
        }
        for volume in &service.volumes {
            let source = volume.split(':').next().unwrap_or_default();
            ensure!(
                compose.volumes.contains_key(source),
                "{name} mounts {volume}"
            );
            mounted.insert(source.to_owned());
        }
        // Nobody but this machine gets in, until somebody decides so.
        for port in &service.ports {
            ensure!(port.starts_with("127.0.0.1:"), "{name} opens {port}");
        }
    }
    ensure!(mounted.iter().eq(compose.volumes.keys()));
    Ok(())
}

#[test]
fn packaging_has_no_secret_in_its_files() -> Result<()> {
    let compose = Compose::read(repository())?;
    for (name, service) in &compose.services {
        for (variable, value) in service.variables() {
            let is_secret = ["PASSWORD", "SECRET", "TOKEN", "URI"]
                .iter()
                .any(|part| variable.contains(part) && !variable.starts_with("PGRST_OPENAPI_"));
            let file = value.strip_prefix('@').unwrap_or(&value);
            let volume = service.volumes.iter().find(|volume| {
                let place = volume.split(':').nth(1).unwrap_or_default();
                Path::new(file).starts_with(place)
            });
            ensure!(
                !is_secret || volume.is_some_and(|volume| volume.ends_with(":ro")),
                "{name} has {variable} in its environment"
            );
        }
    }
    for path in walk(&repository().join("docker"))? {
        let text = fs::read_to_string(&path)?;
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let looks_random = |word: &str| {
            word.len() >= 16
                && word.contains(|c: char| c.is_ascii_digit())
                && word.contains(|c: char| c.is_ascii_lowercase())
        };
        let random: Vec<&str> = words.filter(|word| looks_random(word)).collect();
        ensure!(random.is_empty(), "{} has {random:?}", path.display());
        ensure!(!text.contains("password '"), "{}", path.display());
    }
    Ok(())
}
