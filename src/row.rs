//! A wallet and its entries as the columns of their tables, and back.

use crate::ledger::{Account, Posted};
use crate::receipt::Kinds;
use crate::spi::{
    Param, Plan, Row, Spi, array_of_days, array_of_i16, array_of_i32, array_of_i64,
    array_of_instants, text,
};
use loyalty_core::wallet::{Class, Day, Entry, EntryNo, Hold, Instant, Kind, Movement};
use pgrx::pg_sys::Datum;

/// Columns of the tables, as sql/20_ledger/table.sql declares them.
pub const WALLET_COLUMNS: usize = 14;
pub const ENTRY_COLUMNS: usize = 22;

/// A row of loyalty.wallet.
pub fn wallet_row(
    account: &Account,
    state: &State,
    program_id: Option<Datum>,
    status: Option<Datum>,
    first_entry: EntryNo,
    last_entry: EntryNo,
) -> Vec<Option<Datum>> {
    vec![
        Some(Datum::from(account.account_id)),
        Some(Datum::from(account.wallet.balance())),
        state.debt.map(Datum::from),
        program_id,
        status,
        Some(Datum::from(first_entry)),
        Some(Datum::from(last_entry)),
        state.due.map(Datum::from),
        Some(array_of_days(&state.days)),
        Some(array_of_i64(&state.granted)),
        Some(array_of_i64(&state.remaining)),
        state.classes.as_deref().map(array_of_i16),
        state.hold_entries.as_deref().map(array_of_i32),
        state.hold_untils.as_deref().map(array_of_instants),
    ]
}

/// A row of loyalty.entry.
pub fn entry_row(
    account: &Account,
    one: &Posted,
    kinds: &Kinds,
    actor: &str,
) -> Vec<Option<Datum>> {
    let lots = LotColumns::of(&one.entry);
    vec![
        Some(Datum::from(account.account_id)),
        Some(Datum::from(one.entry.points)),
        Some(Datum::from(one.balance)),
        Some(Datum::from(account.now)),
        Some(Datum::from(one.number)),
        Some(kinds.value(one.entry.kind)),
        lots.one.map(Datum::from),
        one.granted_on.map(Datum::from),
        one.hash.map(Datum::from),
        one.entry.refers_to.map(Datum::from),
        (one.available != one.balance).then(|| Datum::from(one.available)),
        nonzero(one.entry.held).map(Datum::from),
        nonzero(one.entry.debt).map(Datum::from),
        one.other.map(|(account_id, _)| Datum::from(account_id)),
        one.other.map(|(_, entry)| Datum::from(entry)),
        Some(text(actor)),
        one.reason.as_deref().map(text),
        one.key.as_deref().map(text),
        lots.days(),
        lots.points(),
        lots.classes.as_deref().map(array_of_i16),
        one.hold_until.map(Datum::from),
    ]
}

fn nonzero(value: i64) -> Option<i64> {
    (value != 0).then_some(value)
}

/// A wallet as its columns.
pub struct State {
    pub debt: Option<i64>,
    pub due: Option<Day>,
    pub days: Vec<Day>,
    pub granted: Vec<i64>,
    pub remaining: Vec<i64>,
    pub classes: Option<Vec<i16>>,
    pub hold_entries: Option<Vec<EntryNo>>,
    pub hold_untils: Option<Vec<Instant>>,
}

impl State {
    pub fn of(account: &Account) -> Self {
        let wallet = &account.wallet;
        let lots = &wallet.lots;
        let holds = Some(&wallet.holds).filter(|holds| !holds.is_empty());
        State {
            debt: nonzero(wallet.debt),
            due: wallet.due_after(),
            days: lots.iter().map(|lot| lot.expires_on).collect(),
            granted: lots.iter().map(|lot| lot.granted).collect(),
            remaining: lots.iter().map(|lot| lot.remaining).collect(),
            classes: classes(lots.iter().map(|lot| lot.class.id)),
            hold_entries: holds.map(|holds| holds.iter().map(|hold| hold.entry).collect()),
            hold_untils: holds.map(|holds| holds.iter().map(|hold| hold.until).collect()),
        }
    }
}

/// The lots of an entry as its columns: a lone lot of class 0 that explains all of the entry
/// needs its day only.
struct LotColumns<'a> {
    one: Option<Day>,
    lots: &'a [Movement],
    classes: Option<Vec<i16>>,
}

impl<'a> LotColumns<'a> {
    fn of(entry: &'a Entry) -> Self {
        let whole = match entry.kind {
            Kind::Hold | Kind::Release => entry.held,
            _ => entry.points,
        };
        match entry.lots.as_slice() {
            [lot] if lot.class.id == 0 && lot.points.abs() == whole.abs() => LotColumns {
                one: Some(lot.expires_on),
                lots: &[],
                classes: None,
            },
            lots => LotColumns {
                one: None,
                lots,
                classes: classes(lots.iter().map(|lot| lot.class.id)),
            },
        }
    }
    fn days(&self) -> Option<Datum> {
        let days: Vec<Day> = self.lots.iter().map(|lot| lot.expires_on).collect();
        (!days.is_empty()).then(|| array_of_days(&days))
    }
    fn points(&self) -> Option<Datum> {
        let points: Vec<i64> = self.lots.iter().map(|lot| lot.points).collect();
        (!points.is_empty()).then(|| array_of_i64(&points))
    }
}

fn classes(ids: impl Iterator<Item = i16>) -> Option<Vec<i16>> {
    let ids: Vec<i16> = ids.collect();
    ids.iter().any(|id| *id != 0).then_some(ids)
}

static CLASSES: Plan =
    Plan::new(c"select lot_class, inactivity_months from loyalty.lot_class where program_id = $1");
static HOLDS: Plan = Plan::new(
    c"select entry, hold_until, expires_on, held, lot_expires_on, lot_points, lot_class
        from loyalty.entry where account_id = $1 and entry = any($2) order by entry",
);

/// What the lots of these classes share.
pub fn classes_of(spi: &Spi, program_id: i32, ids: &[i16]) -> Vec<Class> {
    let known: Vec<(i16, Option<i16>)> = if ids.iter().all(|id| *id == 0) {
        Vec::new()
    } else {
        let rows = CLASSES.run(spi, &[Param::i32(program_id)]);
        let known = rows
            .iter()
            .filter_map(|row| Some((row.i16(1)?, row.i16(2))))
            .collect();
        rows.free();
        known
    };
    ids.iter()
        .map(|id| Class {
            id: *id,
            inactivity_months: known
                .iter()
                .find(|(known, _)| known == id)
                .and_then(|(_, months)| months.map(|months| months.unsigned_abs())),
        })
        .collect()
}

pub fn read_holds(spi: &Spi, account_id: i64, program_id: i32, entries: &[EntryNo]) -> Vec<Hold> {
    let rows = HOLDS.run(spi, &[Param::i64(account_id), Param::i32s(Some(entries))]);
    let holds = rows
        .iter()
        .filter_map(|row| {
            Some(Hold {
                entry: row.i32(1)?,
                until: row.i64(2)?,
                pins: read_movements(spi, program_id, row, 3, row.i64(4)?),
            })
        })
        .collect();
    rows.free();
    holds
}

/// The lots of a journal row, from columns `expires_on`, (any), `lot_expires_on`, `lot_points`,
/// `lot_class`, the first of which is `column`. A lone lot of class 0 stands in `expires_on`,
/// with all of the entry's points.
pub fn read_movements(
    spi: &Spi,
    program_id: i32,
    row: Row,
    column: i32,
    points: i64,
) -> Vec<Movement> {
    if let Some(expires_on) = row.i32(column) {
        return vec![Movement {
            expires_on,
            class: Class::default(),
            points,
        }];
    }
    let (Some(days), Some(parts)) = (row.i32s(column + 2), row.i64s(column + 3)) else {
        return Vec::new();
    };
    let classes = row
        .i16s(column + 4)
        .map(|ids| classes_of(spi, program_id, &ids));
    days.into_iter()
        .zip(parts)
        .enumerate()
        .map(|(index, (expires_on, points))| Movement {
            expires_on,
            class: classes
                .as_ref()
                .map_or(Class::default(), |classes| classes[index]),
            points,
        })
        .collect()
}
