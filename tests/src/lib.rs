//! What every test needs: a database of its own, and HTTP to it.

/// A ledger in which every kind of operation has happened: SQL for a new database.
pub const RICH_LEDGER: &str = include_str!("rich.sql");

/// The SQLSTATE that a call was refused with, or `00000`.
pub fn sqlstate<T>(answer: &Result<T, tokio_postgres::Error>) -> String {
    match answer {
        Ok(_) => "00000".to_owned(),
        Err(error) => error
            .code()
            .map_or_else(|| error.to_string(), |code| code.code().to_owned()),
    }
}
