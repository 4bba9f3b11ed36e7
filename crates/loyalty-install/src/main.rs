//! `loyalty-install`: installs what plain cargo has built, or prints the install script.

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use loyalty_install::{Places, install, install_script};

const USAGE: &str = "\
usage: loyalty-install LIBRARY [--pg-config PROGRAM] [--out DIR]
       loyalty-install --script

Installs the extension: the library that `cargo build --release --lib` has made, the control
file, and the install script from sql/. Called in the repository.

  --pg-config PROGRAM  the pg_config of the PostgreSQL that it is for; by default that of PATH
  --out DIR            below DIR instead of the root, as packages are made of
  --script             only print the install script
";

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loyalty-install: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let mut library = None;
    let mut pg_config = PathBuf::from("pg_config");
    let mut out = None;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--script" => {
                let script = install_script(Path::new("sql"))?;
                return Ok(std::io::stdout().write_all(script.as_bytes())?);
            }
            "--pg-config" => pg_config = arguments.next().ok_or(USAGE)?.into(),
            "--out" => out = Some(PathBuf::from(arguments.next().ok_or(USAGE)?)),
            name if name.starts_with('-') || library.is_some() => return Err(USAGE.into()),
            name => library = Some(PathBuf::from(name)),
        }
    }
    let library = library.ok_or(USAGE)?;
    let mut places = Places::of(&pg_config)?;
    if let Some(root) = out {
        places = places.below(&root);
    }
    Ok(install(Path::new("."), &library, &places)?)
}
