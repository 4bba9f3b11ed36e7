//! Puts the install script together for cargo-pgrx, which finds it in the library.

use std::error::Error;
use std::fs;
use std::path::Path;

/// Set by `./dev`, which puts the script together by itself.
const WITHOUT: &str = "LOYALTY_NO_INSTALL_SCRIPT";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={WITHOUT}");
    let dir = std::env::var("OUT_DIR")?;
    if std::env::var_os(WITHOUT).is_some() {
        println!("cargo::rerun-if-changed=build.rs");
        return Ok(fs::write(Path::new(&dir).join("install.rs"), "")?);
    }
    println!("cargo::rerun-if-changed=sql");
    let script = Path::new(&dir).join("install.sql");
    fs::write(&script, loyalty_install::install_script(Path::new("sql"))?)?;
    // The macro takes the path as a literal only.
    let declaration = format!(
        "pgrx::extension_sql_file!({:?}, name = \"install\", bootstrap);\n",
        script.display().to_string()
    );
    fs::write(Path::new(&dir).join("install.rs"), declaration)?;
    Ok(())
}
