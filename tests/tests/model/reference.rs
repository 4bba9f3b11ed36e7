//! The plain model: lists, loops and nothing clever, written from the laws and from what the
//! functions' comments say, apart from the implementation.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, Utc};
use std::collections::BTreeMap;

pub type Refused = &'static str;
pub const NOT_ENOUGH: Refused = "LY001";
pub const UNKNOWN: Refused = "LY002";
pub const KEY_TAKEN: Refused = "LY003";
pub const NOT_OPEN: Refused = "LY004";
pub const HOLD_OVER: Refused = "LY006";
pub const BAD_VALUE: Refused = "22023";

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    Never,
    Days(u64),
    EndOfMonth { months: u32 },
    Fixed(NaiveDate),
    Inactivity { months: u32 },
}

impl Policy {
    pub fn text(self) -> String {
        match self {
            Policy::Never => "never".into(),
            Policy::Days(days) => format!("{days} days"),
            Policy::EndOfMonth { months } if months % 12 == 0 => {
                format!("end of month after {} years", months / 12)
            }
            Policy::EndOfMonth { months } => format!("end of month after {months} months"),
            Policy::Fixed(day) => format!("fixed {day}"),
            Policy::Inactivity { months } => format!("after {months} months of inactivity"),
        }
    }

    /// The last day; none for never.
    pub fn last_day(self, granted_on: NaiveDate) -> Option<NaiveDate> {
        match self {
            Policy::Never => None,
            Policy::Days(days) => granted_on.checked_add_days(Days::new(days)),
            Policy::EndOfMonth { months } => {
                let mut day = granted_on + Months::new(months);
                while (day + Days::new(1)).month() == day.month() {
                    day = day + Days::new(1);
                }
                Some(day)
            }
            Policy::Fixed(day) => Some(day),
            Policy::Inactivity { months } => Some(granted_on + Months::new(months)),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Program {
    pub code: String,
    pub zone: &'static str,
    pub policy: Policy,
    /// None forfeits.
    pub grace: Option<u64>,
    pub today: NaiveDate,
}

#[derive(Clone, Debug)]
pub struct Lot {
    pub day: Option<NaiveDate>,
    /// After so many months without activity it lapses; activity moves what is free to a later lot.
    pub months: Option<u32>,
    /// Where activity moved what was free of it.
    pub moved_to: Option<usize>,
    /// Nothing was left behind.
    pub gone: bool,
    pub funding: String,
    pub granted: i64,
    pub remaining: i64,
    /// Left by choice and did not come back, less what is debt already.
    pub spent: i64,
}

impl Lot {
    pub fn lapsed(&self, today: NaiveDate) -> bool {
        self.day.is_some_and(|day| day < today)
    }
}

#[derive(Clone, Debug)]
pub struct Hold {
    pub entry: i32,
    pub until: DateTime<Utc>,
    pub pins: Vec<(usize, i64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub at: DateTime<Utc>,
    pub day: NaiveDate,
    pub kind: &'static str,
    pub points: i64,
    pub balance: i64,
    pub held: i64,
    pub debt: i64,
    pub refers_to: Option<i32>,
    pub other: Option<i64>,
    pub key: Option<String>,
    /// Lots and points touched, in order; for refunds to look up, not compared.
    pub touched: Vec<(usize, i64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    pub operation_id: i64,
    pub account_id: i64,
    pub kind: String,
    pub points: i64,
    pub balance: i64,
    pub available: i64,
    pub at: DateTime<Utc>,
    pub lots: Vec<(Option<NaiveDate>, i64)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Balance {
    pub balance: i64,
    pub held: i64,
    pub available: i64,
    pub next: Option<(NaiveDate, i64)>,
}

#[derive(Clone, Debug)]
pub struct Account {
    pub id: i64,
    pub program: usize,
    pub suspended: bool,
    pub debt: i64,
    /// In order of their first points; never dropped.
    pub lots: Vec<Lot>,
    pub holds: Vec<Hold>,
    pub entries: Vec<Entry>,
    pub keys: BTreeMap<String, (Request, Receipt)>,
}

/// Which account of the model, what, under which key.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub account: usize,
    pub key: Option<String>,
    pub call: Call,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Grant {
        points: i64,
        granted_on: Option<NaiveDate>,
        expires_on: Option<NaiveDate>,
        expiry: Option<Policy>,
        funding: Option<String>,
    },
    Spend {
        points: i64,
    },
    Hold {
        points: i64,
        minutes: i64,
    },
    Capture {
        entry: i32,
        points: Option<i64>,
    },
    Release {
        entry: i32,
    },
    Refund {
        entry: i32,
        points: Option<i64>,
    },
    Revoke {
        entry: i32,
        points: Option<i64>,
        debt: bool,
    },
    Transfer {
        to: usize,
        points: i64,
    },
}

impl Request {
    /// Refused whatever there is, also under a key that was used.
    pub fn is_nonsense(&self) -> bool {
        let (points, itself) = match self.call {
            Call::Grant { points, .. } | Call::Spend { points } => (points, false),
            Call::Hold { points, minutes } => (points.min(minutes), false),
            Call::Transfer { to, points } => (points, to == self.account),
            Call::Capture { points, .. }
            | Call::Refund { points, .. }
            | Call::Revoke { points, .. } => (points.unwrap_or(1), false),
            Call::Release { .. } => (1, false),
        };
        points <= 0 || itself
    }

    /// The earlier entry that it is about.
    pub fn entry(&self) -> Option<i32> {
        match self.call {
            Call::Capture { entry, .. }
            | Call::Release { entry }
            | Call::Refund { entry, .. }
            | Call::Revoke { entry, .. } => Some(entry),
            Call::Grant { .. } | Call::Spend { .. } | Call::Hold { .. } | Call::Transfer { .. } => {
                None
            }
        }
    }
}

impl Account {
    pub fn operation_id(&self, entry: i32) -> i64 {
        self.id * 16_777_216 + i64::from(entry)
    }

    pub fn booked(&self) -> i64 {
        self.entries.iter().map(|e| e.points).sum()
    }

    /// What the holds open at that time pin of a lot (law 8: a hold past its time pins nothing).
    pub fn pinned(&self, lot: usize, now: DateTime<Utc>) -> i64 {
        let mut points = 0;
        for hold in self.holds.iter().filter(|hold| now < hold.until) {
            for pin in hold.pins.iter().filter(|pin| pin.0 == lot) {
                points += pin.1;
            }
        }
        points
    }

    pub fn free(&self, lot: usize, now: DateTime<Utc>) -> i64 {
        self.lots[lot].remaining - self.pinned(lot, now)
    }

    /// Law 5: soonest expiry first, never-expiring last, then oldest.
    pub fn spend_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.lots.len()).collect();
        order.sort_by_key(|&lot| (self.lots[lot].day.unwrap_or(NaiveDate::MAX), lot));
        order
    }

    /// Law 4: read from the days alone, whatever was booked.
    pub fn balance(&self, now: DateTime<Utc>, today: NaiveDate) -> Balance {
        let mut read = Balance {
            balance: self.booked(),
            ..Balance::default()
        };
        for lot in self.spend_order() {
            read.held += self.pinned(lot, now);
            let free = self.free(lot, now);
            if self.lots[lot].lapsed(today) || free == 0 {
                continue;
            }
            read.available += free;
            if let Some(day) = self.lots[lot].day {
                match &mut read.next {
                    None => read.next = Some((day, free)),
                    Some((first, points)) if *first == day => *points += free,
                    Some(_) => {}
                }
            }
        }
        read
    }

    /// As it will be when nothing but time happens: each midnight's run has been.
    pub fn balance_to_come(&self, at: DateTime<Utc>, day: NaiveDate, today: NaiveDate) -> Balance {
        let mut read = self.balance(at, day);
        if day > today {
            for lot in 0..self.lots.len() {
                if self.lots[lot].lapsed(day) {
                    read.balance -= self.free(lot, at);
                }
            }
        }
        read
    }

    /// What a spend would take now; None when there is not enough.
    pub fn allocate(
        &self,
        points: i64,
        now: DateTime<Utc>,
        today: NaiveDate,
    ) -> Option<Vec<(usize, i64)>> {
        let mut wanted = points;
        let mut taken = Vec::new();
        for lot in self.spend_order() {
            let take = wanted.min(self.free(lot, now));
            if self.lots[lot].lapsed(today) || take == 0 {
                continue;
            }
            taken.push((lot, take));
            wanted -= take;
        }
        (wanted == 0).then_some(taken)
    }

    pub fn shown(&self, touched: &[(usize, i64)]) -> Vec<(Option<NaiveDate>, i64)> {
        touched
            .iter()
            .map(|&(lot, points)| (self.lots[lot].day, points))
            .collect()
    }

    /// The lot of that day, inactivity and funding.
    pub fn lot_for(&mut self, day: Option<NaiveDate>, months: Option<u32>, funding: &str) -> usize {
        let found = self.lots.iter().position(|lot| {
            lot.funding == funding && lot.months == months && lot.day == day && !lot.gone
        });
        found.unwrap_or_else(|| {
            self.lots.push(Lot {
                day,
                months,
                moved_to: None,
                gone: false,
                funding: funding.to_owned(),
                granted: 0,
                remaining: 0,
                spent: 0,
            });
            self.lots.len() - 1
        })
    }

    /// Where the points of a lot are now, after all that activity moved.
    pub fn now_in(&self, lot: usize) -> usize {
        self.lots[lot]
            .moved_to
            .map_or(lot, |next| self.now_in(next))
    }

    pub fn put(&mut self, lot: usize, points: i64) {
        self.lots[lot].granted += points;
        self.lots[lot].remaining += points;
    }

    pub fn take(&mut self, touched: &[(usize, i64)]) {
        for &(lot, points) in touched {
            self.lots[lot].remaining -= points;
            self.lots[lot].spent += points;
        }
    }

    /// Activity first moves what has not lapsed to a later day, but for what a hold pins.
    pub fn extend(&mut self, now: DateTime<Utc>, today: NaiveDate) {
        let mut moved = false;
        for old in self.spend_order() {
            let Some(months) = self.lots[old].months else {
                continue;
            };
            let day = Some(today + Months::new(months));
            let lot = &self.lots[old];
            if lot.gone || lot.lapsed(today) || lot.day >= day {
                continue;
            }
            let free = self.free(old, now);
            let funding = self.lots[old].funding.clone();
            let new = self.lot_for(day, Some(months), &funding);
            self.lots[old].remaining -= free;
            self.lots[old].moved_to = Some(new);
            self.lots[old].gone = self.lots[old].remaining == 0;
            self.put(new, free);
            moved |= free > 0;
        }
        if moved {
            self.write(now, today, "extend", 0);
        }
    }

    pub fn write(
        &mut self,
        at: DateTime<Utc>,
        day: NaiveDate,
        kind: &'static str,
        points: i64,
    ) -> &mut Entry {
        let balance = self.booked() + points;
        self.entries.push(Entry {
            at,
            day,
            kind,
            points,
            balance,
            held: 0,
            debt: 0,
            refers_to: None,
            other: None,
            key: None,
            touched: Vec::new(),
        });
        self.entries.last_mut().expect("just pushed")
    }

    /// Writing operations book the release of holds whose time is over first.
    pub fn book_releases(&mut self, now: DateTime<Utc>, today: NaiveDate) {
        let mut over: Vec<Hold> = self
            .holds
            .iter()
            .filter(|hold| hold.until <= now)
            .cloned()
            .collect();
        over.sort_by_key(|hold| hold.entry);
        self.holds.retain(|hold| now < hold.until);
        for hold in over {
            let entry = self.write(now, today, "release", 0);
            entry.held = -hold.pins.iter().map(|pin| pin.1).sum::<i64>();
            entry.refers_to = Some(hold.entry);
        }
    }

    /// Laws 1 to 3, of the model itself.
    pub fn check(&self) {
        let held: i64 = self.lots.iter().map(|lot| lot.remaining).sum();
        assert_eq!(self.booked(), held, "the model broke law 1");
        for lot in &self.lots {
            assert!(
                0 <= lot.remaining && lot.remaining <= lot.granted,
                "the model broke law 2"
            );
        }
    }
}
