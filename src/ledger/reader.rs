//! Reading wallets and keys without the executor: what every operation does first. It takes a
//! quarter of the time of the same SELECT through SPI.

use crate::error::Result;
use crate::pg::snapshot::{RegisteredSnapshot, Snapshot};
use crate::table::entry::KeyScan;
use crate::table::wallet::{WalletRow, WalletScan};
use loyalty_core::wallet::EntryNo;
use pgrx::pg_sys;

/// Reads wallets and keys as one snapshot has them. It goes last.
pub struct Reader {
    wallets: WalletScan,
    keys: Option<KeyScan>,
    snapshot: RegisteredSnapshot,
}

impl Reader {
    pub fn open(snapshot: Snapshot) -> Result<Self> {
        let snapshot = snapshot.register();
        Ok(Reader {
            wallets: WalletScan::open(&snapshot)?,
            keys: None,
            snapshot,
        })
    }

    /// The wallet of an account.
    pub fn wallet(&mut self, account_id: i64) -> Result<Option<WalletRow>> {
        self.wallets.find(account_id)
    }

    /// Transactions that lock or change a wallet's row, or did; the strongest lock first.
    pub fn lockers(&mut self, account_id: i64) -> Vec<pg_sys::TransactionId> {
        self.wallets.lockers(account_id)
    }

    /// The entry that an idempotency key made (law 6).
    pub fn entry_by_key(&mut self, account_id: i64, key: &str) -> Result<Option<EntryNo>> {
        let keys = match &mut self.keys {
            Some(keys) => keys,
            none => none.insert(KeyScan::open(&self.snapshot)?),
        };
        keys.find(account_id, key)
    }
}
