//! A step becomes a request to the model, and the same call in SQL.

use crate::reference::{Call, Policy, Request};
use crate::step::{Key, Part, Step, Terms};
use crate::world::World;
use chrono::Duration;

/// NULL, or a literal.
pub fn literal(value: Option<impl ToString>) -> String {
    value.map_or("null".into(), |value| format!("'{}'", value.to_string()))
}

pub fn number(value: Option<i64>) -> String {
    value.map_or("null".into(), |value| value.to_string())
}

impl World {
    pub(crate) fn who(&self, who: u16) -> usize {
        usize::from(who) % self.model.accounts.len()
    }

    pub(crate) fn key(&mut self, key: Key) -> Option<String> {
        match key {
            Key::None => None,
            Key::New => {
                self.keys += 1;
                Some(format!("new {}", self.keys))
            }
            Key::Pool(place) => Some(format!("pool {}", place % 8)),
        }
    }

    /// An entry of such a kind, of the account; now and then any, or none.
    pub(crate) fn entry(&self, account: usize, kinds: &[&str], which: u16) -> (i32, i64) {
        let entries = &self.model.accounts[account].entries;
        let fit: Vec<usize> = (0..entries.len())
            .filter(|&place| kinds.contains(&entries[place].kind))
            .collect();
        if which % 12 == 11 || fit.is_empty() {
            return ((usize::from(which) % (entries.len() + 2)) as i32 + 1, 10);
        }
        // the latest ones more often
        let place = fit[fit.len() - 1 - usize::from(which / 12) % fit.len().min(6)];
        (
            place as i32 + 1,
            entries[place].points.abs().max(entries[place].held),
        )
    }

    pub(crate) fn part(part: Part, whole: i64) -> Option<i64> {
        part.map(|share| (whole * i64::from(share) / 200).max(1))
    }

    pub(crate) fn terms(&self, account: usize, terms: &Terms) -> Call {
        let today = self.model.today(account);
        let away = |days: i64| today + Duration::days(days);
        Call::Grant {
            points: terms.points,
            granted_on: terms.granted.map(|days| away(-i64::from(days))),
            expires_on: terms.expires.map(|days| away(i64::from(days))),
            expiry: terms.expiry,
            funding: terms.funding.map(|place| format!("sponsor {place}")),
        }
    }

    pub(crate) fn request(&mut self, step: &Step) -> Option<Request> {
        let (account, key, call) = match step {
            Step::Grant { who, terms, key } => {
                let account = self.who(*who);
                (account, *key, self.terms(account, terms))
            }
            Step::Spend { who, points, key } => {
                (self.who(*who), *key, Call::Spend { points: *points })
            }
            Step::SpendAll { who, more } => {
                let account = self.who(*who);
                let points = self.model.balance(account).available + i64::from(*more);
                (account, Key::None, Call::Spend { points })
            }
            Step::Hold {
                who,
                points,
                minutes,
                key,
            } => (
                self.who(*who),
                *key,
                Call::Hold {
                    points: *points,
                    minutes: i64::from(*minutes),
                },
            ),
            Step::Capture {
                who,
                which,
                part,
                key,
            } => {
                let account = self.who(*who);
                let (entry, held) = self.entry(account, &["hold"], *which);
                (
                    account,
                    *key,
                    Call::Capture {
                        entry,
                        points: Self::part(*part, held),
                    },
                )
            }
            Step::Release { who, which, key } => {
                let account = self.who(*who);
                (
                    account,
                    *key,
                    Call::Release {
                        entry: self.entry(account, &["hold"], *which).0,
                    },
                )
            }
            Step::Refund {
                who,
                which,
                part,
                key,
            } => {
                let account = self.who(*who);
                let (entry, spent) = self.entry(account, &["spend", "capture"], *which);
                (
                    account,
                    *key,
                    Call::Refund {
                        entry,
                        points: Self::part(*part, spent),
                    },
                )
            }
            Step::Revoke {
                who,
                which,
                part,
                debt,
                key,
            } => {
                let account = self.who(*who);
                let (entry, granted) = self.entry(account, &["grant"], *which);
                (
                    account,
                    *key,
                    Call::Revoke {
                        entry,
                        points: Self::part(*part, granted),
                        debt: *debt,
                    },
                )
            }
            Step::Transfer {
                from,
                to,
                points,
                key,
            } => (
                self.who(*from),
                *key,
                Call::Transfer {
                    to: self.who(*to),
                    points: *points,
                },
            ),
            _ => return None,
        };
        Some(Request {
            account,
            key: self.key(key),
            call,
        })
    }

    pub(crate) fn sql(&self, request: &Request) -> String {
        let account = self.model.accounts[request.account].id;
        let operation = |entry: i32| self.model.accounts[request.account].operation_id(entry);
        let key = literal(request.key.as_ref());
        match &request.call {
            Call::Grant {
                points,
                granted_on,
                expires_on,
                expiry,
                funding,
            } => format!(
                "loyalty.grant(account_id => {account}, points => {points}, granted_on => {}, expires_on => {}, \
                 expiry => {}, funding => {}, idempotency_key => {key}) r",
                literal(*granted_on),
                literal(*expires_on),
                literal(expiry.map(Policy::text)),
                literal(funding.as_ref()),
            ),
            Call::Spend { points } => {
                format!(
                    "loyalty.spend_fifo(account_id => {account}, points => {points}, idempotency_key => {key}) r"
                )
            }
            Call::Hold { points, minutes } => format!(
                "loyalty.hold(account_id => {account}, points => {points}, expires_in => '{minutes} minutes', \
                 idempotency_key => {key}) r"
            ),
            Call::Capture { entry, points } => format!(
                "loyalty.capture(account_id => {account}, operation_id => {}, points => {}, idempotency_key => {key}) r",
                operation(*entry),
                number(*points),
            ),
            Call::Release { entry } => format!(
                "loyalty.release(account_id => {account}, operation_id => {}, idempotency_key => {key}) r",
                operation(*entry)
            ),
            Call::Refund { entry, points } => format!(
                "loyalty.refund(account_id => {account}, operation_id => {}, points => {}, idempotency_key => {key}) r",
                operation(*entry),
                number(*points),
            ),
            Call::Revoke {
                entry,
                points,
                debt,
            } => format!(
                "loyalty.revoke(account_id => {account}, operation_id => {}, points => {}, policy => '{}', \
                 idempotency_key => {key}) r",
                operation(*entry),
                number(*points),
                if *debt { "debt" } else { "clamp" },
            ),
            Call::Transfer { to, points } => format!(
                "loyalty.transfer(from_account => {account}, to_account => {}, points => {points}, \
                 idempotency_key => {key}) r",
                self.model.accounts[*to].id
            ),
        }
    }
}
