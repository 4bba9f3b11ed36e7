//! The keys of a private cluster: what `loyalty.secret_dir` names.

use std::path::{Path, PathBuf};

use anyhow::Result;
use loyalty_secret::key;

use crate::os::Owner;

/// A directory with the key that PostgREST has, too, and a pepper, which is made once. Only
/// the cluster's owner reads it.
pub fn ensure(owner: &Owner, dir: &Path, jwt_secret: &str) -> Result<PathBuf> {
    owner.private_dir(dir)?;
    let jwt = key::set_of("dev", jwt_secret.as_bytes());
    owner.private_file(&dir.join("jwt.json"), &jwt)?;
    let pepper = dir.join("pepper.json");
    if !pepper.exists() {
        owner.private_file(&pepper, &key::generate("dev")?)?;
    }
    Ok(dir.to_owned())
}

/// The line of postgresql.conf.
pub fn setting(dir: &Path) -> String {
    format!("loyalty.secret_dir = '{}'\n", dir.display())
}
