//! Snapshots, which say what of all that was committed is read.

use pgrx::pg_sys;

/// Where a snapshot is taken from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Snapshot {
    /// What the calling statement sees: for stable functions.
    Active,
    /// What is committed now: for operations, which wait for others and read again. Under
    /// REPEATABLE READ, what was committed when the transaction began.
    Transaction,
    /// What is committed now in every isolation level: for what is remembered beyond the
    /// transaction.
    Latest,
}

/// A snapshot, kept as long as something is read by it.
pub struct RegisteredSnapshot {
    snapshot: pg_sys::Snapshot,
    registered: bool,
}

impl Snapshot {
    pub fn register(self) -> RegisteredSnapshot {
        // SAFETY: we run inside a statement, which has a snapshot.
        unsafe {
            let fresh = match self {
                Snapshot::Active => None,
                Snapshot::Transaction => Some(pg_sys::GetTransactionSnapshot()),
                Snapshot::Latest => Some(pg_sys::GetLatestSnapshot()),
            };
            RegisteredSnapshot {
                snapshot: fresh.map_or_else(
                    || pg_sys::GetActiveSnapshot(),
                    |snapshot| pg_sys::RegisterSnapshot(snapshot),
                ),
                registered: fresh.is_some(),
            }
        }
    }
}

impl RegisteredSnapshot {
    pub fn as_ptr(&self) -> pg_sys::Snapshot {
        self.snapshot
    }
}

impl Drop for RegisteredSnapshot {
    fn drop(&mut self) {
        // While an error unwinds, PostgreSQL's abort unregisters it.
        if self.registered && !std::thread::panicking() {
            // SAFETY: registered above, once.
            unsafe { pg_sys::UnregisterSnapshot(self.snapshot) };
        }
    }
}
