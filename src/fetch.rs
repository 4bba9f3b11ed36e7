//! Reading one row by its key without the executor: what every operation and every balance
//! does first. It takes a quarter of the time of the same SELECT through SPI. Writing is
//! `write`'s.

use crate::error::{Code, Fault, Result};
use crate::scan::{Key, Moment, Scan, Sight, eight, four};
use crate::spi::{read_array, read_text, text};
use loyalty_core::wallet::{Day, EntryNo, Instant};
use pgrx::pg_sys::{self, Datum};

/// A wallet row.
pub struct WalletRow {
    pub balance: i64,
    pub debt: i64,
    pub program_id: i32,
    /// A value of the enum type.
    pub status: Datum,
    pub last_entry: EntryNo,
    pub lot_expires_on: Vec<Day>,
    pub lot_granted: Vec<i64>,
    pub lot_remaining: Vec<i64>,
    pub lot_class: Option<Vec<i16>>,
    pub hold_entry: Option<Vec<EntryNo>>,
    /// Where this version of the row is.
    pub place: pg_sys::ItemPointerData,
}

/// Columns of the tables, as sql/ declares them; new ones only ever come behind.
mod column {
    pub mod wallet {
        pub const BALANCE: usize = 2;
        pub const DEBT: usize = 3;
        pub const PROGRAM_ID: usize = 4;
        pub const STATUS: usize = 5;
        pub const LAST_ENTRY: usize = 7;
        pub const LOT_EXPIRES_ON: usize = 9;
        pub const LOT_GRANTED: usize = 10;
        pub const LOT_REMAINING: usize = 11;
        pub const LOT_CLASS: usize = 12;
        pub const HOLD_ENTRY: usize = 13;
    }
    pub mod session {
        pub const IDENTITY_ID: usize = 2;
        pub const PROGRAM_ID: usize = 3;
        pub const ACCOUNT_ID: usize = 4;
        pub const ROLE: usize = 5;
        pub const EXPIRES_AT: usize = 11;
        pub const ENDED_AT: usize = 12;
    }
    pub mod service_hours {
        pub const CLOSED_FROM: usize = 2;
        pub const CLOSED_UNTIL: usize = 3;
    }
    pub mod entry {
        pub const ENTRY: usize = 5;
        pub const IDEMPOTENCY_KEY: usize = 18;
    }
}

/// Reads wallets and keys as one moment has them.
pub struct Reader {
    wallets: Scan,
    keys: Option<Scan>,
    moment: Moment,
}

impl Reader {
    pub fn open(sight: Sight) -> Result<Self> {
        let moment = Moment::of(sight);
        Ok(Reader {
            wallets: Scan::open(c"wallet", c"wallet_pkey", 1, &moment)?,
            keys: None,
            moment,
        })
    }

    /// The wallet of an account.
    pub fn wallet(&mut self, account_id: i64) -> Result<Option<WalletRow>> {
        let Some(row) = self.wallets.find(&[eight(1, account_id)]) else {
            return Ok(None);
        };
        use column::wallet as c;
        let missing = || Fault::invalid("a wallet row is incomplete");
        // SAFETY: each column is asked for as the type it is declared with.
        unsafe {
            let days = row.get(c::LOT_EXPIRES_ON).ok_or_else(missing)?;
            let granted = row.get(c::LOT_GRANTED).ok_or_else(missing)?;
            let remaining = row.get(c::LOT_REMAINING).ok_or_else(missing)?;
            Ok(Some(WalletRow {
                balance: row.get(c::BALANCE).ok_or_else(missing)?.value() as i64,
                debt: row.get(c::DEBT).map_or(0, |debt| debt.value() as i64),
                program_id: row.get(c::PROGRAM_ID).ok_or_else(missing)?.value() as i32,
                status: row.get(c::STATUS).ok_or_else(missing)?,
                last_entry: row.get(c::LAST_ENTRY).ok_or_else(missing)?.value() as i32,
                lot_expires_on: read_array(days),
                lot_granted: read_array(granted),
                lot_remaining: read_array(remaining),
                lot_class: row.get(c::LOT_CLASS).map(|array| read_array(array)),
                hold_entry: row.get(c::HOLD_ENTRY).map(|array| read_array(array)),
                place: row.place(),
            }))
        }
    }

    /// Transactions that lock or change a wallet's row, or did; the strongest lock first.
    pub fn lockers(&mut self, account_id: i64) -> Vec<pg_sys::TransactionId> {
        let row = self.wallets.find(&[eight(1, account_id)]);
        row.map_or_else(Vec::new, |row| row.lockers())
    }

    /// The entry that an idempotency key made (law 6).
    pub fn entry_by_key(&mut self, account_id: i64, key: &str) -> Result<Option<EntryNo>> {
        // SAFETY: the function that the index is on, under the collation of the column.
        let hash = unsafe {
            pg_sys::OidFunctionCall2Coll(
                pg_sys::Oid::from(pg_sys::F_HASHTEXTEXTENDED),
                pg_sys::DEFAULT_COLLATION_OID,
                text(key),
                Datum::from(0i64),
            )
        };
        let keys = match &mut self.keys {
            Some(keys) => keys,
            none => none.insert(Scan::open(c"entry", c"entry_by_key", 2, &self.moment)?),
        };
        let Some(row) = keys.find(&[eight(1, account_id), eight(2, hash.value() as i64)]) else {
            return Ok(None);
        };
        use column::entry as c;
        // SAFETY: a text.
        let stored = row
            .get(c::IDEMPOTENCY_KEY)
            .map(|stored| unsafe { read_text(stored) });
        if stored.as_deref() == Some(key) {
            return Ok(row.get(c::ENTRY).map(|entry| entry.value() as EntryNo));
        }
        // Another key with the same hash: the index would refuse ours, and so do we.
        Err(
            Fault::new(Code::KeyReused, "the idempotency key cannot be used")
                .detail("Its hash is that of another key of the account.")
                .hint("Use another key."),
        )
    }
}

/// The wallet of an account.
pub fn wallet(account_id: i64, sight: Sight) -> Result<Option<WalletRow>> {
    Reader::open(sight)?.wallet(account_id)
}

/// A login, as far as its requests stand on it.
pub struct SessionRow {
    pub identity_id: Option<i64>,
    /// None of an operator's.
    pub program_id: Option<i32>,
    pub account_id: Option<i64>,
    pub role: String,
    pub expires_at: Instant,
    pub is_ended: bool,
}

/// The session of a number.
pub fn session(id: [u8; 16]) -> Result<Option<SessionRow>> {
    let mut scan = Scan::open(
        c"session",
        c"session_pkey",
        1,
        &Moment::of(Sight::Statement),
    )?;
    let key = Key {
        column: 1,
        procedure: pg_sys::F_UUID_EQ,
        value: Datum::from(id.as_ptr()),
    };
    use column::session as c;
    Ok(scan.find(&[key]).map(|row| SessionRow {
        identity_id: row.get(c::IDENTITY_ID).map(|id| id.value() as i64),
        program_id: row.get(c::PROGRAM_ID).map(|id| id.value() as i32),
        account_id: row.get(c::ACCOUNT_ID).map(|id| id.value() as i64),
        // SAFETY: a text.
        role: row
            .get(c::ROLE)
            .map(|role| unsafe { read_text(role) })
            .unwrap_or_default(),
        expires_at: row
            .get(c::EXPIRES_AT)
            .map_or(Instant::MIN, |at| at.value() as i64),
        is_ended: row.get(c::ENDED_AT).is_some(),
    }))
}

/// From when to when a program is closed over HTTP, in microseconds from midnight; none when
/// it never is.
pub fn closed_hours(program_id: i32) -> Result<Option<(i64, i64)>> {
    let moment = Moment::of(Sight::Statement);
    let mut scan = Scan::open(c"service_hours", c"service_hours_pkey", 1, &moment)?;
    use column::service_hours as c;
    Ok(scan.find(&[four(1, program_id)]).and_then(|row| {
        let time = |column| row.get(column).map(|time| time.value() as i64);
        Some((time(c::CLOSED_FROM)?, time(c::CLOSED_UNTIL)?))
    }))
}
