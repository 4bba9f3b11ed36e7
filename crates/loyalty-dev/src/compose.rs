//! docker/compose.yaml, as far as it is looked at here.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
pub struct Compose {
    pub services: BTreeMap<String, Service>,
    pub volumes: BTreeMap<String, Option<Value>>,
}

#[derive(Debug, Deserialize)]
pub struct Service {
    pub image: String,
    pub build: Option<Build>,
    #[serde(default)]
    pub environment: BTreeMap<String, Value>,
    #[serde(default)]
    pub volumes: Vec<String>,
    #[serde(default)]
    pub depends_on: BTreeMap<String, Dependency>,
    #[serde(default)]
    pub entrypoint: Vec<String>,
    #[serde(default)]
    pub ports: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Build {
    pub context: String,
    pub dockerfile: String,
    pub target: String,
    #[serde(default)]
    pub args: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub struct Dependency {
    pub condition: String,
}

impl Compose {
    /// What Compose reads where no variable is set.
    pub fn read(repo: &Path) -> Result<Self> {
        let path = repo.join("docker/compose.yaml");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        serde_saphyr::from_str(&with_defaults(&text)?).context("docker/compose.yaml")
    }

    pub fn service(&self, name: &str) -> Result<&Service> {
        self.services
            .get(name)
            .with_context(|| format!("docker/compose.yaml has no service {name}"))
    }
}

impl Service {
    /// Its environment, as text.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let variables = self.environment.iter();
        variables
            .map(|(name, value)| (name.clone(), text(value)))
            .collect()
    }
}

/// `${NAME:-default}` becomes the default; a variable without one is a mistake here.
fn with_defaults(text: &str) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (variable, tail) = after.split_once('}').context("a ${ is not closed")?;
        let (_, default) = variable
            .split_once(":-")
            .with_context(|| format!("{variable} has no default"))?;
        out += before;
        out += default;
        rest = tail;
    }
    Ok(out + rest)
}
