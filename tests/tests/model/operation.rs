//! The plain model's operations: a call changes lists of lots and entries, or is refused.

use crate::reference::{
    Account, BAD_VALUE, Balance, Call, Entry, HOLD_OVER, Hold, KEY_TAKEN, Lot, NOT_ENOUGH,
    NOT_OPEN, Policy, Program, Receipt, Refused, Request, UNKNOWN,
};
use chrono::{DateTime, Days, Duration, NaiveDate, Utc};

#[derive(Clone, Debug)]
pub struct Model {
    pub now: DateTime<Utc>,
    pub programs: Vec<Program>,
    pub accounts: Vec<Account>,
}

/// What a receipt tells of the operation's own entry.
struct Done {
    entry: i32,
    points: i64,
    lots: Vec<(Option<NaiveDate>, i64)>,
}

/// When, and which day that is for the program.
#[derive(Clone, Copy)]
struct When {
    now: DateTime<Utc>,
    today: NaiveDate,
}

impl Model {
    pub fn today(&self, account: usize) -> NaiveDate {
        self.programs[self.accounts[account].program].today
    }

    pub fn balance(&self, account: usize) -> Balance {
        self.accounts[account].balance(self.now, self.today(account))
    }

    /// One operation: what it answers, or the code it is refused with.
    pub fn call(&mut self, request: &Request) -> Result<Receipt, Refused> {
        if request.is_nonsense() {
            return Err(BAD_VALUE);
        }
        let account = &self.accounts[request.account];
        if let Some((first, receipt)) = request.key.as_ref().and_then(|key| account.keys.get(key)) {
            // law 6
            return if first == request {
                Ok(receipt.clone())
            } else {
                Err(KEY_TAKEN)
            };
        }
        // all or nothing
        let before = self.accounts.clone();
        let when = When {
            now: self.now,
            today: self.today(request.account),
        };
        let known = self.accounts[request.account].entries.len() as i32;
        self.accounts[request.account].book_releases(when.now, when.today);
        // not one that this very call would book
        let done = match self.apply(request, when) {
            Err(BAD_VALUE) if request.entry().is_some_and(|entry| entry > known) => Err(UNKNOWN),
            done => done,
        };
        match done {
            Ok(done) => {
                let account = &mut self.accounts[request.account];
                let entry = &mut account.entries[done.entry as usize - 1];
                entry.key.clone_from(&request.key);
                let receipt = Receipt {
                    kind: entry.kind.to_owned(),
                    operation_id: account.operation_id(done.entry),
                    account_id: account.id,
                    points: done.points,
                    balance: account.booked(),
                    available: account.balance(when.now, when.today).available,
                    at: when.now,
                    lots: done.lots,
                };
                if let Some(key) = &request.key {
                    account
                        .keys
                        .insert(key.clone(), (request.clone(), receipt.clone()));
                }
                Ok(receipt)
            }
            Err(refused) => {
                self.accounts = before;
                Err(refused)
            }
        }
    }

    fn apply(&mut self, request: &Request, when: When) -> Result<Done, Refused> {
        let program = self.programs[self.accounts[request.account].program].clone();
        let account = &mut self.accounts[request.account];
        match &request.call {
            Call::Grant {
                points,
                granted_on,
                expires_on,
                expiry,
                funding,
            } => {
                let policy = expiry.unwrap_or(program.policy);
                let funding = funding.as_deref().unwrap_or("program");
                account.grant(when, *points, *granted_on, *expires_on, policy, funding)
            }
            Call::Spend { points } => account.spend(when, *points),
            Call::Hold { points, minutes } => account.hold(when, *points, *minutes),
            Call::Capture { entry, points } => account.capture(when, *entry, *points),
            Call::Release { entry } => account.release(when, *entry),
            Call::Refund { entry, points } => account.refund(when, &program, *entry, *points),
            Call::Revoke {
                entry,
                points,
                debt,
            } => account.revoke(when, *entry, *points, *debt),
            Call::Transfer { to, points } => self.transfer(when, request.account, *to, *points),
        }
    }

    fn transfer(
        &mut self,
        when: When,
        from: usize,
        to: usize,
        points: i64,
    ) -> Result<Done, Refused> {
        if self.accounts[from].program != self.accounts[to].program {
            return Err(BAD_VALUE);
        }
        let (from_id, to_id) = (self.accounts[from].id, self.accounts[to].id);
        let sender = &mut self.accounts[from];
        let taken = sender.choose(when, points)?;
        let moved: Vec<(Lot, i64)> = taken
            .iter()
            .map(|&(lot, points)| (sender.lots[lot].clone(), points))
            .collect();
        sender.take(&taken);
        sender
            .write(when.now, when.today, "transfer", -points)
            .other = Some(to_id);
        let done = sender.done(points, &taken);
        let receiver = &mut self.accounts[to];
        receiver.book_releases(when.now, when.today);
        receiver.extend(when.now, when.today);
        for (lot, points) in moved {
            let home = receiver.lot_for(lot.day, lot.months, &lot.funding);
            receiver.put(home, points);
        }
        receiver
            .write(when.now, when.today, "transfer", points)
            .other = Some(from_id);
        Ok(done)
    }

    /// Books breakage; lots and points booked.
    pub fn expire(
        &mut self,
        program: usize,
        as_of: Option<NaiveDate>,
    ) -> Result<(i64, i64), Refused> {
        let now = self.now;
        let today = self.programs[program].today;
        let as_of = as_of.unwrap_or(today);
        if as_of > today {
            return Err(BAD_VALUE);
        }
        let mut booked = (0, 0);
        for account in self
            .accounts
            .iter_mut()
            .filter(|account| account.program == program)
        {
            let mut points = 0;
            for lot in 0..account.lots.len() {
                let free = account.free(lot, now);
                if account.lots[lot].lapsed(as_of) && free > 0 {
                    account.lots[lot].remaining -= free;
                    points += free;
                    booked.0 += 1;
                }
            }
            if points > 0 {
                account.book_releases(now, today);
                account.write(now, today, "expire", -points);
                booked.1 += points;
            }
        }
        Ok(booked)
    }
}

impl Account {
    /// The last entry as the operation's own.
    fn done(&self, points: i64, touched: &[(usize, i64)]) -> Done {
        Done {
            entry: self.entries.len() as i32,
            points,
            lots: self.shown(touched),
        }
    }

    /// For spend, hold and transfer: what they take, after activity moved what it moves.
    fn choose(&mut self, when: When, points: i64) -> Result<Vec<(usize, i64)>, Refused> {
        if self.suspended {
            return Err(NOT_OPEN);
        }
        self.extend(when.now, when.today);
        self.allocate(points, when.now, when.today)
            .ok_or(NOT_ENOUGH)
    }

    fn grant(
        &mut self,
        When { now, today }: When,
        points: i64,
        granted_on: Option<NaiveDate>,
        expires_on: Option<NaiveDate>,
        policy: Policy,
        funding: &str,
    ) -> Result<Done, Refused> {
        let granted_on = granted_on.unwrap_or(today);
        let day = expires_on.or(policy.last_day(granted_on));
        let early = day.is_some_and(|day| day < today || day < granted_on);
        if granted_on > today || early {
            return Err(BAD_VALUE);
        }
        let inactivity = match (expires_on, policy) {
            (None, Policy::Inactivity { months }) => Some(months),
            _ => None,
        };
        self.extend(now, today);
        let lot = self.lot_for(day, inactivity, funding);
        self.put(lot, points);
        self.write(now, today, "grant", points).touched = vec![(lot, points)];
        let done = self.done(points, &[(lot, points)]);
        let repaid = self.debt.min(points);
        if repaid > 0 {
            self.take(&[(lot, repaid)]);
            self.debt -= repaid;
            let repay = self.write(now, today, "repay", -repaid);
            repay.debt = -repaid;
            repay.refers_to = Some(done.entry);
        }
        Ok(done)
    }

    fn spend(&mut self, when: When, points: i64) -> Result<Done, Refused> {
        let taken = self.choose(when, points)?;
        self.take(&taken);
        self.write(when.now, when.today, "spend", -points).touched = taken.clone();
        Ok(self.done(points, &taken))
    }

    fn hold(&mut self, when: When, points: i64, minutes: i64) -> Result<Done, Refused> {
        let pins = self.choose(when, points)?;
        self.write(when.now, when.today, "hold", 0).held = points;
        let done = self.done(points, &pins);
        let until = when.now + Duration::minutes(minutes);
        self.holds.push(Hold {
            entry: done.entry,
            until,
            pins,
        });
        Ok(done)
    }

    fn capture(&mut self, when: When, entry: i32, points: Option<i64>) -> Result<Done, Refused> {
        if self.suspended {
            return Err(NOT_OPEN);
        }
        self.find(entry, &["hold"])?;
        self.extend(when.now, when.today);
        let hold = self.end_hold(entry)?;
        let held: i64 = hold.pins.iter().map(|pin| pin.1).sum();
        let points = points.unwrap_or(held);
        if points > held {
            return Err(BAD_VALUE);
        }
        let mut taken = Vec::new();
        let mut wanted = points;
        for (lot, pinned) in hold.pins {
            let take = wanted.min(pinned);
            if take > 0 {
                taken.push((lot, take));
            }
            wanted -= take;
        }
        self.take(&taken);
        let capture = self.write(when.now, when.today, "capture", -points);
        capture.touched = taken.clone();
        capture.held = -held;
        capture.refers_to = Some(entry);
        Ok(self.done(points, &taken))
    }

    fn release(&mut self, when: When, entry: i32) -> Result<Done, Refused> {
        let hold = self.end_hold(entry)?;
        let held: i64 = hold.pins.iter().map(|pin| pin.1).sum();
        let release = self.write(when.now, when.today, "release", 0);
        release.held = -held;
        release.refers_to = Some(entry);
        Ok(self.done(held, &hold.pins))
    }

    fn find(&self, entry: i32, kinds: &[&str]) -> Result<Entry, Refused> {
        let place = usize::try_from(entry - 1).ok();
        let found = place
            .and_then(|place| self.entries.get(place))
            .ok_or(UNKNOWN)?;
        if kinds.contains(&found.kind) {
            Ok(found.clone())
        } else {
            Err(BAD_VALUE)
        }
    }

    fn end_hold(&mut self, entry: i32) -> Result<Hold, Refused> {
        self.find(entry, &["hold"])?;
        let open = self.holds.iter().position(|hold| hold.entry == entry);
        Ok(self.holds.remove(open.ok_or(HOLD_OVER)?))
    }

    /// What earlier refunds or revokes of an entry came to, debt included.
    fn undone(&self, kind: &str, entry: i32) -> i64 {
        let same = |e: &&Entry| e.kind == kind && e.refers_to == Some(entry);
        self.entries
            .iter()
            .filter(same)
            .map(|e| e.points.abs() + e.debt)
            .sum()
    }

    fn wanted(points: Option<i64>, left: i64) -> Result<i64, Refused> {
        let wanted = points.unwrap_or(left);
        if wanted <= 0 || wanted > left {
            Err(BAD_VALUE)
        } else {
            Ok(wanted)
        }
    }

    /// Where points that came from the lot can still be spent; law 7.
    fn home(&mut self, lot: usize, program: &Program) -> Option<usize> {
        let today = program.today;
        let now_in = self.now_in(lot);
        if !self.lots[now_in].lapsed(today) {
            return Some(now_in);
        }
        let day = today + Days::new(program.grace?);
        let funding = self.lots[lot].funding.clone();
        Some(self.lot_for(Some(day), None, &funding))
    }

    /// Law 7: back to the lots they came from, the last taken first.
    fn refund(
        &mut self,
        When { now, today }: When,
        program: &Program,
        entry: i32,
        points: Option<i64>,
    ) -> Result<Done, Refused> {
        let spend = self.find(entry, &["spend", "capture"])?;
        let before = self.undone("refund", entry);
        let wanted = Self::wanted(points, -spend.points - before)?;
        let (mut skip, mut give) = (before, wanted);
        let mut given = Vec::new();
        let mut forfeited = 0;
        for &(lot, taken) in spend.touched.iter().rev() {
            let skipped = skip.min(taken);
            skip -= skipped;
            let points = give.min(taken - skipped);
            if points == 0 {
                continue;
            }
            give -= points;
            self.lots[lot].spent -= points;
            match self.home(lot, program) {
                Some(home) if home == lot => self.lots[lot].remaining += points,
                Some(home) => self.put(home, points),
                None => forfeited += points,
            }
            given.push((self.home(lot, program).unwrap_or(lot), points));
        }
        self.write(now, today, "refund", wanted).refers_to = Some(entry);
        let done = self.done(wanted, &given);
        if forfeited > 0 {
            self.write(now, today, "expire", -forfeited).refers_to = Some(done.entry);
        }
        Ok(done)
    }

    /// From the grant's own lot only; 'debt' books what was really spent of it.
    fn revoke(
        &mut self,
        When { now, today }: When,
        entry: i32,
        points: Option<i64>,
        debt: bool,
    ) -> Result<Done, Refused> {
        let grant = self.find(entry, &["grant"])?;
        let wanted = Self::wanted(points, grant.points - self.undone("revoke", entry))?;
        let lot = self.now_in(grant.touched[0].0);
        let taken = wanted.min(self.free(lot, now));
        let owed = if debt {
            (wanted - taken).min(self.spent_of(lot))
        } else {
            0
        };
        self.lots[lot].remaining -= taken;
        self.lots[lot].spent -= owed;
        self.debt += owed;
        let revoke = self.write(now, today, "revoke", -taken);
        revoke.debt = owed;
        revoke.refers_to = Some(entry);
        let touched = if taken > 0 {
            vec![(lot, taken)]
        } else {
            Vec::new()
        };
        Ok(self.done(taken, &touched))
    }

    /// What left a lot by choice and did not come back; of all that lapse together by inactivity.
    fn spent_of(&self, lot: usize) -> i64 {
        let one = &self.lots[lot];
        let mut spent = 0;
        for (place, other) in self.lots.iter().enumerate() {
            let together = one.months.is_some() && one.months == other.months;
            if place == lot || together && one.funding == other.funding {
                spent += other.spent;
            }
        }
        spent.max(0)
    }
}
