//! Three years of an account, month by month, as the ledger would have booked them: lots are
//! spent in the order they lapse, which here is the order they came in.

use std::ops::Range;

use super::shape::{MONTHS, Months};

/// A grant or spend of an account.
#[derive(Debug, PartialEq)]
pub struct Booked<'a> {
    pub entry: i32,
    /// Below zero for a spend.
    pub points: i64,
    pub balance: i64,
    /// Months whose lots it touched, with the change of each.
    pub lots: &'a [(usize, i64)],
}

/// What an account has at the end of it, as the columns of its wallet.
#[derive(Default)]
pub struct Holding {
    pub balance: i64,
    pub last_entry: i32,
    /// Months whose lots it has, the empty ones too.
    pub months: Vec<usize>,
    pub granted: Vec<i64>,
    pub remaining: Vec<i64>,
}

/// Where an account is. Eight bytes, since there are millions.
#[derive(Clone, Copy, Default)]
struct State {
    balance: u32,
    /// What was taken from the lot of month `head`; those before it are empty.
    taken: u16,
    head: u8,
    entries: u8,
}

/// The accounts of a span, all at the same month.
pub struct Histories<'a> {
    months: &'a Months,
    first: usize,
    states: Vec<State>,
    touched: Vec<(usize, i64)>,
}

impl<'a> Histories<'a> {
    pub fn new(months: &'a Months, accounts: Range<usize>) -> Self {
        Self {
            months,
            first: accounts.start,
            states: vec![State::default(); accounts.len()],
            touched: Vec::new(),
        }
    }

    /// The month's grant to an account of the span, if it has one.
    pub fn grant(&mut self, place: usize, month: usize) -> Option<Booked<'_>> {
        let points = self.months.granted(self.first + place, month);
        if points == 0 {
            return None;
        }
        let state = &mut self.states[place];
        state.balance += points as u32;
        state.entries += 1;
        self.touched.clear();
        self.touched.push((month, points));
        Some(Booked {
            entry: i32::from(state.entries),
            points,
            balance: i64::from(state.balance),
            lots: &self.touched,
        })
    }

    /// What an account of the span spends after the month's grant, if it does.
    pub fn spend(&mut self, place: usize, month: usize) -> Option<Booked<'_>> {
        let account = self.first + place;
        let state = &mut self.states[place];
        let points = i64::from(state.balance) * self.months.spent_eighths(account, month) / 8;
        if points == 0 {
            return None;
        }
        self.touched.clear();
        let mut wanted = points;
        while wanted > 0 {
            let lot = self.months.granted(account, usize::from(state.head));
            let left = lot - i64::from(state.taken);
            let part = left.min(wanted);
            if part > 0 {
                self.touched.push((usize::from(state.head), -part));
                wanted -= part;
            }
            if wanted > 0 {
                state.head += 1;
                state.taken = 0;
            } else {
                state.taken += part as u16;
            }
        }
        state.balance -= points as u32;
        state.entries += 1;
        Some(Booked {
            entry: i32::from(state.entries),
            points: -points,
            balance: i64::from(state.balance),
            lots: &self.touched,
        })
    }

    /// Writes what an account of the span has after all months.
    pub fn holding(&self, place: usize, holding: &mut Holding) {
        let state = self.states[place];
        holding.balance = i64::from(state.balance);
        holding.last_entry = i32::from(state.entries);
        holding.months.clear();
        holding.granted.clear();
        holding.remaining.clear();
        for month in 0..MONTHS {
            let granted = self.months.granted(self.first + place, month);
            if granted == 0 {
                continue;
            }
            let taken = match month.cmp(&usize::from(state.head)) {
                std::cmp::Ordering::Less => granted,
                std::cmp::Ordering::Equal => i64::from(state.taken),
                std::cmp::Ordering::Greater => 0,
            };
            holding.months.push(month);
            holding.granted.push(granted);
            holding.remaining.push(granted - taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Histories, Holding};
    use crate::bench::scale::shape::{MONTHS, Platform};

    #[test]
    fn balances_are_the_sums_of_entries_and_of_lots() -> anyhow::Result<()> {
        let platform = Platform::new(5_000, 12.0)?;
        let mut histories = Histories::new(platform.months(), 0..platform.members);
        let mut holding = Holding::default();
        let mut spends = 0;
        let mut lots = vec![[0_i64; MONTHS]; platform.members];
        let mut sums = vec![(0_i64, 0); platform.members];
        for month in 0..MONTHS {
            for place in 0..platform.members {
                for spend in [false, true] {
                    let booked = if spend {
                        histories.spend(place, month)
                    } else {
                        histories.grant(place, month)
                    };
                    let Some(booked) = booked else { continue };
                    spends += i32::from(spend);
                    let (sum, entries) = &mut sums[place];
                    *sum += booked.points;
                    *entries += 1;
                    assert_eq!((booked.balance, booked.entry), (*sum, *entries));
                    let mut explained = 0;
                    for &(lot, points) in booked.lots {
                        lots[place][lot] += points;
                        assert!(lots[place][lot] >= 0 && points != 0);
                        explained += points;
                    }
                    assert_eq!(explained, booked.points);
                }
            }
        }
        assert!(spends > 5_000, "{spends}");
        for (place, (sum, entries)) in sums.iter().enumerate() {
            histories.holding(place, &mut holding);
            assert_eq!((holding.balance, holding.last_entry), (*sum, *entries));
            let left: Vec<i64> = holding.months.iter().map(|&m| lots[place][m]).collect();
            assert_eq!(holding.remaining, left);
            assert_eq!(left.iter().sum::<i64>(), *sum);
        }
        Ok(())
    }
}
