//! What PostgreSQL installs of pg_loyalty, put together: the install script from the folders of
//! `sql/`, the control file, the library.

mod files;
mod script;

pub use files::{Places, VERSION, install, script_name};
pub use script::{UPGRADE, install_script, sql_files};
