//! Steps that mean something in whatever state they meet: numbers are taken modulo what there is.

use crate::reference::Policy;
use chrono::NaiveDate;
use proptest::option::weighted;
use proptest::prelude::*;

#[derive(Clone, Debug)]
pub struct World {
    pub programs: Vec<ProgramTerms>,
    pub members: usize,
}

#[derive(Clone, Debug)]
pub struct ProgramTerms {
    pub zone: &'static str,
    pub policy: Policy,
    pub grace: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub enum Key {
    None,
    New,
    /// One of a few, so that calls meet others under their key.
    Pool(u8),
}

/// Share of the whole in 200ths; none for all that is left.
pub type Part = Option<u8>;

#[derive(Clone, Debug)]
pub struct Terms {
    pub points: i64,
    /// Days ago; below zero is the future.
    pub granted: Option<i16>,
    /// Days ahead.
    pub expires: Option<i16>,
    pub expiry: Option<Policy>,
    pub funding: Option<u8>,
}

#[derive(Clone, Debug)]
pub struct Bulk {
    pub who: u16,
    pub terms: Terms,
    pub key: Key,
}

#[derive(Clone, Debug)]
pub enum Clock {
    Minutes(u16),
    Days(u8),
    Months(u8),
    /// A microsecond before or after the next midnight of a program.
    Midnight {
        program: u16,
        late: bool,
    },
}

#[derive(Clone, Debug)]
pub enum Step {
    Grant {
        who: u16,
        terms: Terms,
        key: Key,
    },
    Spend {
        who: u16,
        points: i64,
        key: Key,
    },
    /// All that is available, or one more.
    SpendAll {
        who: u16,
        more: bool,
    },
    Hold {
        who: u16,
        points: i64,
        minutes: u16,
        key: Key,
    },
    Capture {
        who: u16,
        which: u16,
        part: Part,
        key: Key,
    },
    Release {
        who: u16,
        which: u16,
        key: Key,
    },
    Refund {
        who: u16,
        which: u16,
        part: Part,
        key: Key,
    },
    Revoke {
        who: u16,
        which: u16,
        part: Part,
        debt: bool,
        key: Key,
    },
    Transfer {
        from: u16,
        to: u16,
        points: i64,
        key: Key,
    },
    Expire {
        program: u16,
        back: Option<u8>,
        batch: bool,
    },
    Clock(Clock),
    Repeat {
        which: u16,
        changed: bool,
    },
    Bulk {
        spend: bool,
        items: Vec<Bulk>,
    },
    Suspend {
        who: u16,
        suspended: bool,
    },
    Explain {
        who: u16,
        points: i64,
    },
    LookBack {
        which: u16,
        minutes: u16,
    },
    LookAhead {
        minutes: u32,
    },
}

const ZONES: [&str; 7] = [
    "Asia/Tokyo",
    "America/New_York",
    "Europe/London",
    "UTC",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
    "Asia/Kolkata",
];

fn policy(inactivity: bool) -> impl Strategy<Value = Policy> {
    let fixed = (0u64..900)
        .prop_map(|days| Policy::Fixed(NaiveDate::default() + chrono::Days::new(19_740 + days)));
    let ends = prop_oneof![
        1 => Just(Policy::Never),
        3 => (1u64..200).prop_map(Policy::Days),
        2 => (1u32..37).prop_map(|months| Policy::EndOfMonth { months }),
        1 => fixed,
    ];
    let inactive = (1u32..14).prop_map(|months| Policy::Inactivity { months });
    // the first test is without inactivity, the second is mostly about it
    let share = if inactivity { 4 } else { 1 };
    (0..6u8, ends, inactive).prop_map(move |(dice, ends, inactive)| {
        if inactivity && dice < share {
            inactive
        } else {
            ends
        }
    })
}

pub fn world(inactivity: bool) -> impl Strategy<Value = World> {
    let grace = prop_oneof![2 => Just(None), 1 => Just(Some(0)), 2 => (1u64..60).prop_map(Some)];
    let program = (
        prop::sample::select(ZONES.to_vec()),
        policy(inactivity),
        grace,
    )
        .prop_map(|(zone, policy, grace)| ProgramTerms {
            zone,
            policy,
            grace,
        });
    (prop::collection::vec(program, 1..=2), 2usize..=3)
        .prop_map(|(programs, members)| World { programs, members })
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        5 => Just(Key::None),
        4 => Just(Key::New),
        1 => any::<u8>().prop_map(Key::Pool),
    ]
}

fn points() -> impl Strategy<Value = i64> {
    prop_oneof![6 => 1i64..=120, 3 => 1i64..=20, 1 => 121i64..=1_000]
}

fn terms(inactivity: bool) -> impl Strategy<Value = Terms> {
    (
        prop_oneof![30 => points(), 1 => -1i64..=0],
        weighted(0.15, -1i16..50),
        weighted(
            0.35,
            prop_oneof![8 => 0i16..=10, 4 => 11i16..=120, 1 => -2i16..0],
        ),
        weighted(0.08, policy(inactivity)),
        weighted(0.15, 0u8..2),
    )
        .prop_map(|(points, granted, expires, expiry, funding)| Terms {
            points,
            granted,
            expires,
            expiry,
            funding,
        })
}

pub fn step(inactivity: bool) -> impl Strategy<Value = Step> {
    let part = || weighted(0.6, 1u8..=220);
    let who = any::<u16>;
    let clock = prop_oneof![
        6 => (0u16..600).prop_map(Clock::Minutes),
        4 => (1u8..20).prop_map(Clock::Days),
        1 => (1u8..5).prop_map(Clock::Months),
        4 => (who(), any::<bool>()).prop_map(|(program, late)| Clock::Midnight { program, late }),
    ];
    let bulk =
        (who(), terms(inactivity), key()).prop_map(|(who, terms, key)| Bulk { who, terms, key });
    prop_oneof![
        16 => (who(), terms(inactivity), key()).prop_map(|(who, terms, key)| Step::Grant { who, terms, key }),
        10 => (who(), points(), key()).prop_map(|(who, points, key)| Step::Spend { who, points, key }),
        3 => (who(), prop::bool::weighted(0.3)).prop_map(|(who, more)| Step::SpendAll { who, more }),
        9 => (who(), points(), prop_oneof![1u16..90, 90u16..20_000], key())
            .prop_map(|(who, points, minutes, key)| Step::Hold { who, points, minutes, key }),
        7 => (who(), any::<u16>(), part(), key())
            .prop_map(|(who, which, part, key)| Step::Capture { who, which, part, key }),
        4 => (who(), any::<u16>(), key()).prop_map(|(who, which, key)| Step::Release { who, which, key }),
        8 => (who(), any::<u16>(), part(), key())
            .prop_map(|(who, which, part, key)| Step::Refund { who, which, part, key }),
        8 => (who(), any::<u16>(), part(), any::<bool>(), key())
            .prop_map(|(who, which, part, debt, key)| Step::Revoke { who, which, part, debt, key }),
        8 => (who(), who(), points(), key())
            .prop_map(|(from, to, points, key)| Step::Transfer { from, to, points, key }),
        6 => (who(), weighted(0.3, 0u8..40), any::<bool>())
            .prop_map(|(program, back, batch)| Step::Expire { program, back, batch }),
        16 => clock.prop_map(Step::Clock),
        5 => (any::<u16>(), prop::bool::weighted(0.3)).prop_map(|(which, changed)| Step::Repeat { which, changed }),
        4 => (any::<bool>(), prop::collection::vec(bulk, 1..8))
            .prop_map(|(spend, items)| Step::Bulk { spend, items }),
        2 => (who(), prop::bool::weighted(0.3)).prop_map(|(who, suspended)| Step::Suspend { who, suspended }),
        4 => (who(), points()).prop_map(|(who, points)| Step::Explain { who, points }),
        4 => (any::<u16>(), 0u16..3_000).prop_map(|(which, minutes)| Step::LookBack { which, minutes }),
        4 => (0u32..200_000).prop_map(|minutes| Step::LookAhead { minutes }),
    ]
}
