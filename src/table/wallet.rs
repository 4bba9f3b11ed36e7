//! `loyalty.wallet`: what an account has.

use crate::error::{Fault, Result};
use crate::pg::index_scan::{Index, IndexScan, Key};
use crate::pg::snapshot::{RegisteredSnapshot, Snapshot};
use crate::pg::sql_type::{Int8, SqlType as _};
use crate::pg::table::table;
use loyalty_core::wallet::{Day, EntryNo};
use pgrx::pg_sys::{self, Datum};

table! {
    /// As sql/20_ledger/table.sql creates it.
    Wallet = c"wallet", WALLET {
        account_id: Int8 [not_null],
        balance: Int8 [not_null],
        debt: Int8,
        program_id: Int4 [not_null],
        status: AccountStatus [not_null],
        first_entry: Int4,
        last_entry: Int4 [not_null],
        next_expiry_on: Date,
        lot_expires_on: DateArray [not_null],
        lot_granted: Int8Array [not_null],
        lot_remaining: Int8Array [not_null],
        lot_class: Int2Array,
        hold_entry: Int4Array,
        hold_until: TimestamptzArray,
    }
}

static BY_ACCOUNT: Index<Wallet, 1> = Index::new(c"wallet_pkey", [Key::column(WALLET.account_id)]);

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
    /// The tid of this version of the row.
    pub tid: pg_sys::ItemPointerData,
}

/// Reads wallets by their accounts.
pub struct WalletScan(IndexScan<Wallet, 1>);

impl WalletScan {
    /// The snapshot outlives the scan.
    pub fn open(snapshot: &RegisteredSnapshot) -> Result<Self> {
        Ok(WalletScan(IndexScan::open(&BY_ACCOUNT, snapshot)?))
    }

    pub fn find(&mut self, account_id: i64) -> Result<Option<WalletRow>> {
        let Some(row) = self.0.find([Int8::datum(account_id)]) else {
            return Ok(None);
        };
        let missing = || Fault::damaged("a wallet row is incomplete");
        Ok(Some(WalletRow {
            balance: row.get(WALLET.balance).ok_or_else(missing)?,
            debt: row.get(WALLET.debt).unwrap_or(0),
            program_id: row.get(WALLET.program_id).ok_or_else(missing)?,
            status: row.get(WALLET.status).ok_or_else(missing)?,
            last_entry: row.get(WALLET.last_entry).ok_or_else(missing)?,
            lot_expires_on: row.get(WALLET.lot_expires_on).ok_or_else(missing)?,
            lot_granted: row.get(WALLET.lot_granted).ok_or_else(missing)?,
            lot_remaining: row.get(WALLET.lot_remaining).ok_or_else(missing)?,
            lot_class: row.get(WALLET.lot_class),
            hold_entry: row.get(WALLET.hold_entry),
            tid: row.tid(),
        }))
    }

    /// Transactions that lock or change a wallet's row, or did; the strongest lock first.
    pub fn lockers(&mut self, account_id: i64) -> Vec<pg_sys::TransactionId> {
        let row = self.0.find([Int8::datum(account_id)]);
        row.map_or_else(Vec::new, |row| row.lockers())
    }
}

/// The wallet of an account.
pub fn wallet(account_id: i64, snapshot: Snapshot) -> Result<Option<WalletRow>> {
    let snapshot = snapshot.register();
    WalletScan::open(&snapshot)?.find(account_id)
}
