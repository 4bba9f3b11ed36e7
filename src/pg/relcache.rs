//! Noticing that a table or index was changed: what was looked up in the catalog is good as long.

use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

thread_local! {
    static CHANGES: Cell<u64> = const { Cell::new(1) };
}

/// Called once in every backend.
pub fn init() {
    // SAFETY: registers a callback that only touches our own memory.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(count), Datum::from(0)) };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn count(_argument: Datum, _relation: Oid) {
    CHANGES.set(CHANGES.get().wrapping_add(1));
}

/// How many changes of tables this backend was told of.
pub fn changes() -> u64 {
    CHANGES.get()
}

/// What was found out of a relation, good until any is changed. A backend has one thread.
pub struct Known {
    relation: AtomicU32,
    changes: AtomicU64,
    answer: AtomicBool,
}

impl Known {
    pub const fn nothing() -> Self {
        Known {
            relation: AtomicU32::new(0),
            changes: AtomicU64::new(0),
            answer: AtomicBool::new(false),
        }
    }

    pub fn get(&self, relation: Oid) -> Option<bool> {
        (self.changes.load(Ordering::Relaxed) == changes()
            && self.relation.load(Ordering::Relaxed) == relation.to_u32())
        .then(|| self.answer.load(Ordering::Relaxed))
    }

    /// The answer, and as of which change it was looked up.
    pub fn set(&self, relation: Oid, as_of: u64, answer: bool) {
        self.relation.store(relation.to_u32(), Ordering::Relaxed);
        self.changes.store(as_of, Ordering::Relaxed);
        self.answer.store(answer, Ordering::Relaxed);
    }
}
