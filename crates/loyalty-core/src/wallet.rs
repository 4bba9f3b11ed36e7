//! What one account holds, and the arithmetic of every operation on it.
//!
//! An operation loads a [`Wallet`], changes it here, and writes it back together
//! with the [`Entry`]s it returns. Nothing here knows of PostgreSQL; the shell adds
//! entry numbers and running balances.
//!
//! Days are counted from 2000-01-01 and instants are microseconds from
//! 2000-01-01 00:00 UTC, as PostgreSQL stores both, so that nothing is converted on
//! the way in or out. Points are whole and never negative unless called a change.

pub use crate::entry::*;

/// Lots one account may hold at once; an account row must stay cheap to rewrite.
pub const LOTS_PER_ACCOUNT: usize = 4096;
/// Open holds one account may have at once.
pub const HOLDS_PER_ACCOUNT: usize = 1000;

/// Points of one account that expire on one day and share a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lot {
    /// The last day on which they can be spent.
    pub expires_on: Day,
    pub class: Class,
    /// What it got, by grants, transfers and grace.
    pub granted: i64,
    /// What is left, pinned points included.
    pub remaining: i64,
}

/// Points set aside for a spend to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The entry that opened it.
    pub entry: EntryNo,
    /// The instant from which it counts as released.
    pub until: Instant,
    pub pins: Vec<Movement>,
}

impl Hold {
    /// Points it pins.
    #[must_use]
    pub fn points(&self) -> i64 {
        self.pins.iter().map(|pin| pin.points).sum()
    }
}

/// Part of a spend that may come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// What was taken of a lot and not given back yet.
    pub part: Movement,
    /// The last day of that lot by now: activity since may have extended it (S10).
    pub last_day: Day,
    /// Where grace puts it when that day has passed: the same funding, a fixed day.
    pub grace_class: Class,
}

/// What becomes of refunded points whose lot has passed its day (law 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LapsedRefund {
    /// Given back and booked as breakage at once.
    Forfeit,
    /// Spendable through this day.
    GraceUntil(Day),
}

/// What becomes of revoked points that were already spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortfall {
    /// Only what the lot still holds is taken.
    Clamp,
    /// The rest becomes a debt that later grants repay, up to these points.
    Debt(i64),
}

/// The state of one account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wallet {
    /// In spend order: soonest expiry first, never-expiring last, then oldest (law 5).
    pub lots: Vec<Lot>,
    pub holds: Vec<Hold>,
    /// Points revoked after they were spent, to be repaid by later grants.
    pub debt: i64,
}

impl Wallet {
    /// The sum of what the lots hold (law 1).
    #[must_use]
    pub fn balance(&self) -> i64 {
        self.lots.iter().map(|lot| lot.remaining).sum()
    }

    /// Points that open holds pin (law 8: a hold past its time pins nothing).
    #[must_use]
    pub fn held(&self, now: Instant) -> i64 {
        self.open_holds(now).map(Hold::points).sum()
    }

    /// Points that can be spent on that day (law 4), were nothing held.
    fn live(&self, today: Day) -> impl Iterator<Item = (usize, &Lot)> {
        self.lots
            .iter()
            .enumerate()
            .filter(move |(_, lot)| lot.expires_on >= today && lot.remaining > 0)
    }

    /// Points that can be spent now.
    #[must_use]
    pub fn available(&self, today: Day, now: Instant) -> i64 {
        self.live(today).map(|(_, lot)| self.free(lot, now)).sum()
    }

    /// The next day on which available points expire, and how many.
    #[must_use]
    pub fn next_expiry(&self, today: Day, now: Instant) -> Option<(Day, i64)> {
        let mut next: Option<(Day, i64)> = None;
        for (_, lot) in self.live(today) {
            let free = self.free(lot, now);
            match &mut next {
                _ if lot.expires_on == NEVER || free == 0 => {}
                None => next = Some((lot.expires_on, free)),
                Some((day, points)) if *day == lot.expires_on => *points += free,
                Some(_) => break,
            }
        }
        next
    }

    /// The earliest day after which the expiry run has something to book here.
    #[must_use]
    pub fn due_after(&self) -> Option<Day> {
        self.lots
            .iter()
            .find(|lot| lot.remaining > 0)
            .map(|lot| lot.expires_on)
            .filter(|day| *day != NEVER)
    }

    fn open_holds(&self, now: Instant) -> impl Iterator<Item = &Hold> {
        self.holds.iter().filter(move |hold| hold.until > now)
    }

    /// What open holds pin of a lot.
    #[must_use]
    pub fn pinned(&self, lot: &Lot, now: Instant) -> i64 {
        if self.holds.is_empty() {
            return 0;
        }
        self.open_holds(now)
            .flat_map(|hold| &hold.pins)
            .filter(|pin| same_lot(pin, lot))
            .map(|pin| pin.points)
            .sum()
    }

    fn free(&self, lot: &Lot, now: Instant) -> i64 {
        lot.remaining - self.pinned(lot, now)
    }

    /// Which lots a spend of these points takes, in order (law 5).
    pub fn allocate(
        &self,
        points: i64,
        today: Day,
        now: Instant,
    ) -> Result<Vec<Movement>, Refusal> {
        let mut wanted = points;
        let mut taken = Vec::with_capacity(1);
        for (_, lot) in self.live(today) {
            let part = wanted.min(self.free(lot, now));
            if part > 0 {
                taken.push(movement(lot, part));
                wanted -= part;
            }
            if wanted == 0 {
                return Ok(taken);
            }
        }
        Err(Refusal::NotEnough {
            wanted: points,
            available: points - wanted,
        })
    }

    /// Adds points to a lot, and repays debt from them.
    pub fn grant(
        &mut self,
        points: i64,
        expires_on: Day,
        class: Class,
    ) -> Result<Vec<Entry>, Refusal> {
        self.put(points, expires_on, class)?;
        let into = Movement {
            expires_on,
            class,
            points,
        };
        let mut entries = vec![Entry::new(Kind::Grant, points, vec![into])];
        let repaid = points.min(self.debt);
        if repaid > 0 {
            let back = Movement {
                points: -repaid,
                ..into
            };
            self.apply(&back);
            self.debt -= repaid;
            let mut entry = Entry::new(Kind::Repay, -repaid, vec![back]);
            entry.debt = -repaid;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Takes points, soonest expiry first.
    pub fn spend(&mut self, points: i64, today: Day, now: Instant) -> Result<Entry, Refusal> {
        let lots = self.take(points, today, now)?;
        Ok(Entry::new(Kind::Spend, -points, lots))
    }

    /// Takes points for another account; the lots keep their last day and class.
    pub fn send(&mut self, points: i64, today: Day, now: Instant) -> Result<Entry, Refusal> {
        let lots = self.take(points, today, now)?;
        Ok(Entry::new(Kind::Transfer, -points, lots))
    }

    /// Receives what [`Wallet::send`] took elsewhere.
    pub fn receive(&mut self, sent: &Entry) -> Result<Entry, Refusal> {
        let mut lots = Vec::with_capacity(sent.lots.len());
        for part in &sent.lots {
            self.put(-part.points, part.expires_on, part.class)?;
            lots.push(Movement {
                points: -part.points,
                ..*part
            });
        }
        Ok(Entry::new(Kind::Transfer, -sent.points, lots))
    }

    /// Pins lots until an instant (law 8). The shell gives the entry its number.
    pub fn hold(
        &mut self,
        points: i64,
        until: Instant,
        entry: EntryNo,
        today: Day,
        now: Instant,
    ) -> Result<Entry, Refusal> {
        if self.holds.len() >= HOLDS_PER_ACCOUNT {
            return Err(Refusal::TooManyHolds);
        }
        let pins = self.allocate(points, today, now)?;
        self.holds.push(Hold {
            entry,
            until,
            pins: pins.clone(),
        });
        let mut opened = Entry::new(Kind::Hold, 0, pins);
        opened.held = points;
        Ok(opened)
    }

    /// Spends from an open hold, soonest expiry first; the rest is released (law 8).
    /// `None` is all of it.
    pub fn capture(
        &mut self,
        entry: EntryNo,
        points: Option<i64>,
        now: Instant,
    ) -> Result<Entry, Refusal> {
        let hold = self.close_hold(entry, now)?;
        let held = hold.points();
        let wanted = points.unwrap_or(held);
        if wanted > held {
            self.holds.push(hold);
            return Err(Refusal::CaptureOverHold { wanted, held });
        }
        let mut left = wanted;
        let mut lots = Vec::with_capacity(hold.pins.len());
        for pin in &hold.pins {
            let part = left.min(pin.points);
            if part > 0 {
                lots.push(Movement {
                    points: -part,
                    ..*pin
                });
                left -= part;
            }
        }
        for part in &lots {
            self.apply(part);
        }
        let mut captured = Entry::new(Kind::Capture, -wanted, lots);
        captured.held = -held;
        captured.refers_to = Some(entry);
        Ok(captured)
    }

    /// Unpins an open hold.
    pub fn release(&mut self, entry: EntryNo, now: Instant) -> Result<Entry, Refusal> {
        let hold = self.close_hold(entry, now)?;
        Ok(released(&hold))
    }

    /// Drops the holds past their time, and says so in the journal. They pin nothing
    /// either way (law 8); the entries only keep the journal complete.
    pub fn release_lapsed(&mut self, now: Instant) -> Vec<Entry> {
        let (open, lapsed): (Vec<_>, Vec<_>) =
            self.holds.drain(..).partition(|hold| hold.until > now);
        self.holds = open;
        lapsed.iter().map(released).collect()
    }

    /// Gives points of a spend back to the lots they came from, the last taken first
    /// (law 7). `spent` is what the spend took, less what earlier refunds gave back, in
    /// the order it was taken. `points` `None` is all that is left.
    pub fn refund(
        &mut self,
        spend: EntryNo,
        points: Option<i64>,
        spent: &[Spent],
        lapsed: LapsedRefund,
        today: Day,
    ) -> Result<Vec<Entry>, Refusal> {
        let left: i64 = spent.iter().map(|spent| spent.part.points).sum();
        if left == 0 {
            return Err(Refusal::NothingLeft);
        }
        let wanted = points.unwrap_or(left);
        if wanted > left {
            return Err(Refusal::OverLimit { wanted, left });
        }
        let mut to_give = wanted;
        let mut back = Vec::with_capacity(spent.len());
        let mut forfeited = Vec::new();
        for spent in spent.iter().rev() {
            let part = &spent.part;
            let points = to_give.min(part.points);
            if points == 0 {
                continue;
            }
            to_give -= points;
            let given = Movement { points, ..*part };
            if spent.last_day == part.expires_on && spent.last_day >= today {
                self.restore(&given)?;
                back.push(given);
                continue;
            }
            let (expires_on, class) = match lapsed {
                _ if spent.last_day >= today => (spent.last_day, part.class),
                LapsedRefund::GraceUntil(day) => (day, spent.grace_class),
                LapsedRefund::Forfeit => {
                    back.push(given);
                    forfeited.push(Movement {
                        points: -points,
                        ..*part
                    });
                    continue;
                }
            };
            self.put(points, expires_on, class)?;
            back.push(Movement {
                expires_on,
                class,
                points,
            });
        }
        let mut refund = Entry::new(Kind::Refund, wanted, back);
        refund.refers_to = Some(spend);
        let mut entries = vec![refund];
        if !forfeited.is_empty() {
            let points = forfeited.iter().map(|part| part.points).sum();
            entries.push(Entry::new(Kind::Expire, points, forfeited));
        }
        Ok(entries)
    }

    /// Claws a grant back from the lot it went to, as activity since may have extended it.
    /// `left` is the grant less what was revoked before.
    pub fn revoke(
        &mut self,
        grant: EntryNo,
        points: Option<i64>,
        left: i64,
        lot: &Movement,
        shortfall: Shortfall,
        now: Instant,
    ) -> Result<Entry, Refusal> {
        if left == 0 {
            return Err(Refusal::NothingLeft);
        }
        let wanted = points.unwrap_or(left);
        if wanted > left {
            return Err(Refusal::OverLimit { wanted, left });
        }
        let free = self
            .find(lot)
            .map_or(0, |index| self.free(&self.lots[index], now));
        let taken = wanted.min(free);
        let debt = match shortfall {
            Shortfall::Clamp => 0,
            Shortfall::Debt(limit) => (wanted - taken).min(limit),
        };
        let mut lots = Vec::new();
        if taken > 0 {
            let back = Movement {
                points: -taken,
                ..*lot
            };
            self.apply(&back);
            lots.push(back);
        }
        self.debt = self.debt.checked_add(debt).ok_or(Refusal::Overflow)?;
        let mut entry = Entry::new(Kind::Revoke, -taken, lots);
        entry.debt = debt;
        entry.refers_to = Some(grant);
        Ok(entry)
    }

    /// Books breakage for lots whose last day lies before `day`, all but what open holds
    /// pin. `None` when there is nothing to book.
    pub fn expire(&mut self, day: Day, now: Instant) -> Option<Entry> {
        self.forfeit(|lot| lot.expires_on < day, now)
    }

    /// Books all that is left as breakage, when an account is closed.
    pub fn forfeit_all(&mut self, now: Instant) -> Option<Entry> {
        self.forfeit(|_| true, now)
    }

    fn forfeit(&mut self, lapsed: impl Fn(&Lot) -> bool, now: Instant) -> Option<Entry> {
        let lots: Vec<Movement> = self
            .lots
            .iter()
            .filter(|lot| lapsed(lot))
            .map(|lot| movement(lot, -self.free(lot, now)))
            .filter(|part| part.points != 0)
            .collect();
        for part in &lots {
            self.apply(part);
        }
        self.lots.retain(|lot| lot.remaining > 0 || !lapsed(lot));
        let points: i64 = lots.iter().map(|part| part.points).sum();
        (points != 0).then(|| Entry::new(Kind::Expire, points, lots))
    }

    /// Drops lots that are empty and past their day.
    pub fn tidy(&mut self, today: Day) {
        self.lots
            .retain(|lot| lot.remaining > 0 || lot.expires_on >= today);
    }

    /// Gives lots that lapse by inactivity, and have not, the day that counts from today's
    /// activity (S10): all but what open holds pin, which keep the day they were held with.
    /// `last_day` is the day after so many months from today.
    pub fn extend(
        &mut self,
        today: Day,
        now: Instant,
        last_day: impl Fn(u16) -> Day,
    ) -> Result<Option<Entry>, Refusal> {
        let mut moved = Vec::new();
        for lot in self.lots.clone() {
            let Some(months) = lot.class.inactivity_months else {
                continue;
            };
            let day = last_day(months);
            if lot.expires_on < today || lot.expires_on >= day {
                continue;
            }
            let from = movement(&lot, -self.free(&lot, now));
            let to = Movement {
                expires_on: day,
                class: lot.class,
                points: -from.points,
            };
            self.apply(&from);
            // First, so that a wallet full of lots can move one.
            self.lots
                .retain(|old| !same_lot(&from, old) || old.remaining > 0);
            // An empty lot goes along too: a refund will find it.
            self.put(to.points, to.expires_on, to.class)?;
            if to.points > 0 {
                moved.extend([from, to]);
            }
        }
        Ok((!moved.is_empty()).then(|| Entry::new(Kind::Extend, 0, moved)))
    }

    /// Applies the lots of a journal entry again, to see what was at some time before.
    pub fn replay(&mut self, lots: &[Movement]) {
        for part in lots {
            match self.find(part) {
                Some(index) => self.lots[index].remaining += part.points,
                None => {
                    let at = self
                        .lots
                        .partition_point(|lot| lot.expires_on <= part.expires_on);
                    self.lots.insert(
                        at,
                        Lot {
                            expires_on: part.expires_on,
                            class: part.class,
                            granted: part.points,
                            remaining: part.points,
                        },
                    );
                }
            }
        }
    }

    fn take(&mut self, points: i64, today: Day, now: Instant) -> Result<Vec<Movement>, Refusal> {
        let mut lots = self.allocate(points, today, now)?;
        for part in &mut lots {
            part.points = -part.points;
            self.apply(part);
        }
        Ok(lots)
    }

    /// Adds points to the lot of that day and class, a new one if need be (law 2).
    fn put(&mut self, points: i64, expires_on: Day, class: Class) -> Result<(), Refusal> {
        self.balance()
            .checked_add(points)
            .ok_or(Refusal::Overflow)?;
        let wanted = Movement {
            expires_on,
            class,
            points,
        };
        if let Some(index) = self.find(&wanted) {
            let lot = &mut self.lots[index];
            lot.granted = lot.granted.checked_add(points).ok_or(Refusal::Overflow)?;
            lot.remaining += points;
            return Ok(());
        }
        if self.lots.len() >= LOTS_PER_ACCOUNT {
            return Err(Refusal::TooManyLots);
        }
        // Behind the lots of the same day: oldest first among equals (law 5).
        let at = self
            .lots
            .partition_point(|lot| lot.expires_on <= expires_on);
        self.lots.insert(
            at,
            Lot {
                expires_on,
                class,
                granted: points,
                remaining: points,
            },
        );
        Ok(())
    }

    fn restore(&mut self, given: &Movement) -> Result<(), Refusal> {
        self.balance()
            .checked_add(given.points)
            .ok_or(Refusal::Overflow)?;
        match self.find(given) {
            Some(index) => {
                let lot = &mut self.lots[index];
                lot.remaining += given.points;
                // Where the clock was set back after the lot was dropped, a refund began it again.
                lot.granted = lot.granted.max(lot.remaining);
                Ok(())
            }
            None => self.put(given.points, given.expires_on, given.class),
        }
    }

    fn apply(&mut self, change: &Movement) {
        if let Some(index) = self.find(change) {
            self.lots[index].remaining += change.points;
        }
    }

    fn find(&self, wanted: &Movement) -> Option<usize> {
        self.lots.iter().position(|lot| same_lot(wanted, lot))
    }

    fn close_hold(&mut self, entry: EntryNo, now: Instant) -> Result<Hold, Refusal> {
        let index = self
            .holds
            .iter()
            .position(|hold| hold.entry == entry && hold.until > now)
            .ok_or(Refusal::HoldNotOpen)?;
        Ok(self.holds.remove(index))
    }
}

fn same_lot(part: &Movement, lot: &Lot) -> bool {
    part.class.id == lot.class.id && part.expires_on == lot.expires_on
}

fn movement(lot: &Lot, points: i64) -> Movement {
    Movement {
        expires_on: lot.expires_on,
        class: lot.class,
        points,
    }
}

fn released(hold: &Hold) -> Entry {
    let mut entry = Entry::new(Kind::Release, 0, hold.pins.clone());
    entry.held = -hold.points();
    entry.refers_to = Some(hold.entry);
    entry
}
