//! Puts the install script together for cargo-pgrx, which finds it in the library.

use std::error::Error;
use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=sql");
    let dir = std::env::var("OUT_DIR")?;
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
