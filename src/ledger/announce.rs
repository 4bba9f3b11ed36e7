//! Telling members of points they received (C18), in the transaction that granted them.

use crate::ledger::receipt::Receipt;
use crate::pg::datum::array_of_days;
use crate::pg::spi::{Param, Plan, Spi};
use loyalty_core::wallet::{Day, Kind, NEVER};
use pgrx::pg_sys;

static ANNOUNCE: Plan = Plan::new(c"select loyalty_private.announce_grants($1, $2, $3, $4)");

/// Grants of one call whose programs tell of them.
#[derive(Default)]
pub struct News {
    account_ids: Vec<i64>,
    operation_ids: Vec<i64>,
    points: Vec<i64>,
    expires_on: Vec<Day>,
}

impl News {
    /// Takes note of a receipt, if it is of a grant.
    pub fn add(&mut self, receipt: &Receipt) {
        if receipt.kind != Kind::Grant {
            return;
        }
        self.account_ids.push(receipt.account_id);
        self.operation_ids.push(receipt.operation_id);
        self.points.push(receipt.points);
        self.expires_on
            .push(receipt.lots.first().map_or(NEVER, |(day, _)| *day));
    }

    /// Queues the notices, once for all of them.
    pub fn announce(self, spi: &Spi) {
        if self.account_ids.is_empty() {
            return;
        }
        ANNOUNCE.execute(
            spi,
            &[
                Param::i64s(&self.account_ids),
                Param::i64s(&self.operation_ids),
                Param::i64s(&self.points),
                Param::of(pg_sys::DATEARRAYOID, Some(array_of_days(&self.expires_on))),
            ],
        );
    }
}
