//! The demo's story calculated without the extension: nothing here asks a calendar, a rule or
//! a ledger. Points are kept by their last day, as only that tells them apart in this story.

use std::collections::BTreeMap;

use chrono::{Datelike as _, Days, NaiveDate};

/// The 15ths of 2024 to 2028, from January on, rolled to the next business day: over Saturdays
/// and Sundays, Marine Day (third Monday of July: 2024-07-15, 2028-07-17) and Respect for the
/// Aged Day (third Monday of September: 2024-09-16, 2025-09-15). No other holiday comes near.
const PAY_DAYS: [[u32; 12]; 5] = [
    [15, 15, 15, 15, 15, 17, 16, 15, 17, 15, 15, 16],
    [15, 17, 17, 15, 15, 16, 15, 15, 16, 15, 17, 15],
    [15, 16, 16, 15, 15, 15, 15, 17, 15, 15, 16, 15],
    [15, 15, 15, 15, 17, 15, 15, 16, 15, 15, 15, 15],
    [17, 15, 15, 17, 15, 15, 18, 15, 15, 16, 15, 15],
];
pub const ANNIVERSARY: i64 = 2_000;
const PRICES: [(i64, &str); 3] = [
    (1_200, "焼き菓子の詰め合わせ"),
    (1_800, "お食事券"),
    (3_500, "ハウスキーピング"),
];

pub fn day(year: i32, month: u32, day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(year, month, day).expect("a day of the calendar")
}

fn pay_day(year: i32, month: u32) -> NaiveDate {
    let (year_at, month_at) = ((year - 2024) as usize, (month - 1) as usize);
    day(year, month, PAY_DAYS[year_at][month_at])
}

/// The last day of the month three years later (C6).
fn last_day_of(granted_on: NaiveDate) -> NaiveDate {
    let next_month = match granted_on.month() {
        12 => day(granted_on.year() + 4, 1, 1),
        month => day(granted_on.year() + 3, month + 1, 1),
    };
    next_month - Days::new(1)
}

/// Full years from a day to 2024-06-01, that day included.
fn years_at_start(since: NaiveDate) -> i32 {
    let is_over = (since.month(), since.day()) <= (6, 1);
    2024 - since.year() - i32::from(!is_over)
}

/// One line of a member's statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub day: NaiveDate,
    pub kind: &'static str,
    pub points: i64,
    pub reason: &'static str,
    pub expires_on: Option<NaiveDate>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Lot {
    pub granted: i64,
    pub remaining: i64,
}

pub struct Member {
    pub n: i32,
    pub first_service: NaiveDate,
    joined: bool,
    pub lots: BTreeMap<NaiveDate, Lot>,
    pub entries: Vec<Entry>,
    /// What the last order took, to be given back.
    order: Option<Vec<(NaiveDate, i64)>>,
}

/// A mail that was queued: member, kind, day, points, the last day told and its points.
pub type Notice = (
    String,
    &'static str,
    NaiveDate,
    i64,
    Option<NaiveDate>,
    Option<i64>,
);

/// A run: job, period, the day that counts, payments, lots, points and notices.
pub type Run = (String, NaiveDate, NaiveDate, i64, i64, i64, i64);

pub struct Story {
    pub members: Vec<Member>,
    pub notices: Vec<Notice>,
    pub runs: Vec<Run>,
}

impl Member {
    fn new(n: i32) -> Self {
        let after = |from: NaiveDate, days: i32| from + Days::new(days as u64);
        let first_service = match n {
            ..=400 => after(day(2010, 4, 1), n * 12),
            401 => day(2024, 6, 20),
            _ => after(day(2024, 6, 21), (n - 401) * 1465 / 600),
        };
        Member {
            n,
            first_service,
            joined: false,
            lots: BTreeMap::new(),
            entries: Vec::new(),
            order: None,
        }
    }

    pub fn no(&self) -> String {
        format!("M{:04}", self.n)
    }
    fn has_address(&self) -> bool {
        self.n % 10 == 1
    }
    fn wants_balance(&self) -> bool {
        self.n % 20 != 11
    }
    pub fn balance(&self) -> i64 {
        self.lots.values().map(|lot| lot.remaining).sum()
    }
    /// A statement shows the last day of an entry that touches one lot.
    fn note(
        &mut self,
        day: NaiveDate,
        kind: &'static str,
        points: i64,
        reason: &'static str,
        lots: &[(NaiveDate, i64)],
    ) {
        let expires_on = match lots {
            [(expires_on, _)] => Some(*expires_on),
            _ => None,
        };
        self.entries.push(Entry {
            day,
            kind,
            points,
            reason,
            expires_on,
        });
    }

    fn grant(&mut self, today: NaiveDate, points: i64, reason: &'static str) -> NaiveDate {
        let expires_on = last_day_of(today);
        let lot = self.lots.entry(expires_on).or_default();
        lot.granted += points;
        lot.remaining += points;
        self.note(today, "grant", points, reason, &[(expires_on, points)]);
        expires_on
    }

    /// Soonest expiry first (law 5).
    fn spend(&mut self, today: NaiveDate, points: i64, reason: &'static str) {
        let mut left = points;
        let mut taken = Vec::new();
        for (expires_on, lot) in &mut self.lots {
            let part = left.min(lot.remaining);
            if part > 0 {
                lot.remaining -= part;
                left -= part;
                taken.push((*expires_on, part));
            }
        }
        assert_eq!(left, 0);
        self.note(today, "spend", -points, reason, &taken);
        self.order = Some(taken);
    }

    fn bring_back(&mut self, today: NaiveDate) {
        let Some(taken) = self.order.take() else {
            return;
        };
        let points = taken.iter().map(|(_, part)| part).sum();
        for (expires_on, part) in &taken {
            self.lots.entry(*expires_on).or_default().remaining += part;
        }
        self.note(today, "refund", points, "Returned", &taken);
    }

    /// What lapsed before today: lots and points.
    fn expire(&mut self, today: NaiveDate) -> (i64, i64) {
        let mut lapsed = Vec::new();
        for (expires_on, lot) in self.lots.range_mut(..today) {
            if lot.remaining > 0 {
                lapsed.push((*expires_on, std::mem::take(&mut lot.remaining)));
            }
        }
        let (mut lots, mut points) = (0, 0);
        for (expires_on, part) in lapsed {
            self.note(today, "expire", -part, "", &[(expires_on, part)]);
            lots += 1;
            points += part;
        }
        (lots, points)
    }

    /// Of the points that lapse from a day to another: the first such day, its points, and all.
    fn lapsing(&self, from: NaiveDate, to: NaiveDate) -> Option<(NaiveDate, i64, i64)> {
        let mut lots = self.lots.range(from..=to).filter(|(_, l)| l.remaining > 0);
        let (first, lot) = lots.next()?;
        let others: i64 = lots.map(|(_, lot)| lot.remaining).sum();
        Some((*first, lot.remaining, lot.remaining + others))
    }
}

impl Story {
    pub fn calculate() -> Self {
        let mut story = Story {
            members: (1..=1000).map(Member::new).collect(),
            notices: Vec::new(),
            runs: Vec::new(),
        };
        let (first, last) = (day(2024, 4, 30), day(2028, 7, 31));
        for today in first.iter_days().take_while(|today| *today <= last) {
            story.expire(today);
            // the founding day has an afternoon only
            if today > first {
                story.pay(today);
                story.tell_expiry(today);
                story.live(today);
                story.tell_balance(today);
            }
        }
        story.notices.sort();
        story.runs.sort();
        story
    }

    fn expire(&mut self, today: NaiveDate) {
        let (mut lots, mut points) = (0, 0);
        for member in &mut self.members {
            let lapsed = member.expire(today);
            lots += lapsed.0;
            points += lapsed.1;
        }
        let job = "expire".to_owned();
        self.runs.push((job, today, today, 0, lots, points, 0));
    }

    /// Pays by one rule on its day, and tells who can be told.
    fn pay_by(
        &mut self,
        job: &str,
        title: &'static str,
        period: NaiveDate,
        today: NaiveDate,
        payments: Vec<(i32, i64)>,
    ) {
        let points = payments.iter().map(|(_, points)| points).sum();
        let paid = payments.len() as i64;
        self.runs
            .push((job.to_owned(), period, today, paid, 0, points, 0));
        for (n, points) in payments {
            let member = &mut self.members[(n - 1) as usize];
            assert!(member.joined);
            let expires_on = member.grant(today, points, title);
            if member.has_address() {
                let notice = (
                    member.no(),
                    "points_received",
                    today,
                    points,
                    Some(expires_on),
                    None,
                );
                self.notices.push(notice);
            }
        }
    }

    fn pay(&mut self, today: NaiveDate) {
        // C4
        if today == day(2024, 5, 29) {
            let payments = self
                .members
                .iter()
                .map(|member| (member.n, years_at_start(member.first_service)))
                .filter(|(_, years)| *years >= 5)
                .map(|(n, years)| (n, 500 * i64::from(years)))
                .collect();
            self.pay_by("rule:special", "Years with us", today, today, payments);
        }
        let (year, month) = (today.year(), today.month());
        if today != pay_day(year, month) {
            return;
        }
        let nominal = day(year, month, 15);
        // C2; C3: those served by the cut-off have their year in May
        let anniversary = |member: &&Member| {
            let fact = member.first_service;
            if fact <= day(2024, 6, 1) {
                month == 5 && year >= 2025
            } else {
                fact.month() == month && fact.year() < year
            }
        };
        let due = self.members.iter().filter(anniversary);
        let payments = due.map(|member| (member.n, ANNIVERSARY)).collect();
        self.pay_by("rule:anniversary", "Anniversary", nominal, today, payments);
        // C5: signed in the month before; C7: 6,000 from April 2027 on
        let signed = match month {
            1 => (year - 1, 12),
            _ => (year, month - 1),
        };
        let coins = if today < day(2027, 4, 1) {
            5_000
        } else {
            6_000
        };
        let payments = self
            .members
            .iter()
            .filter(|friend| friend.n > 400 && friend.n % 5 == 0)
            .filter(|friend| (friend.first_service.year(), friend.first_service.month()) == signed)
            .flat_map(|friend| [(friend.n, coins), (friend.n % 400 + 1, coins)])
            .collect();
        self.pay_by("rule:referral", "Referral", nominal, today, payments);
    }

    /// C18: daily from seven days before.
    fn tell_expiry(&mut self, today: NaiveDate) {
        let before = self.notices.len();
        for member in self.members.iter().filter(|member| member.has_address()) {
            if let Some((first, part, all)) = member.lapsing(today, today + Days::new(7)) {
                let notice = (member.no(), "expiry", today, all, Some(first), Some(part));
                self.notices.push(notice);
            }
        }
        let queued = (self.notices.len() - before) as i64;
        let job = "notice:expiry".to_owned();
        self.runs.push((job, today, today, 0, 0, 0, queued));
    }

    /// C18: on the 1st and 15th, which are not rolled.
    fn tell_balance(&mut self, today: NaiveDate) {
        if today.day() != 1 && today.day() != 15 {
            return;
        }
        let before = self.notices.len();
        for member in &self.members {
            if member.joined && member.has_address() && member.wants_balance() {
                let next = member.lapsing(today, NaiveDate::MAX);
                let (first, part) = (next.map(|next| next.0), next.map(|next| next.1));
                let notice = (member.no(), "balance", today, member.balance(), first, part);
                self.notices.push(notice);
            }
        }
        let queued = (self.notices.len() - before) as i64;
        let job = "notice:balance".to_owned();
        self.runs.push((job, today, today, 0, 0, 0, queued));
    }

    fn live(&mut self, today: NaiveDate) {
        let month = |day: NaiveDate| (day.year(), day.month());
        for member in &mut self.members {
            // the roster of the first has who begins in the month
            if today.day() == 1 && month(member.first_service) <= month(today) {
                member.joined = true;
            }
            let (price, item) = PRICES[(member.n % 3) as usize];
            let orders = (member.n as u32 + today.month()).is_multiple_of(11);
            if today.day() == 20 {
                member.order = None;
                if member.joined && orders && member.balance() >= price {
                    member.spend(today, price, item);
                    if member.has_address() {
                        let notice = (member.no(), "order_received", today, price, None, None);
                        self.notices.push(notice);
                    }
                }
            } else if today.day() == 25 && matches!(member.n % 10, 1 | 3) {
                member.bring_back(today);
            }
        }
    }
}
