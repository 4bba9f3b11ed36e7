//! What the platform looks like: programs of unequal size, which account is of which, and what
//! each account's months bring. All of it follows from the account's number and the month, so
//! that nothing has to be kept while it is written month by month.

use anyhow::{Result, ensure};

/// The platform that the sizes are scaled from (P16).
const PLATFORM_MEMBERS: f64 = 4_040_000.0;
const PLATFORM_PROGRAMS: f64 = 576.0;

/// The k-th largest program is this power of k smaller than the largest.
const UNEQUAL: f64 = 0.8;

/// Of a program's accounts, so many were opened when it began, one after the other; the others
/// came later, between those of other programs.
const OPENED_TOGETHER: f64 = 0.8;

/// Lots live for three years and the rest of their month, so that these months of grants are
/// there at once, the last of them today's.
pub const MONTHS: usize = 37;

/// Of all accounts, the part that is granted points every single month, where the mean is 12.
const EVERY_MONTH: f64 = 0.125;

/// Months between two spends of an account, on average.
const SPENDS_EVERY: u64 = 18;

/// Which account is of which program.
pub struct Platform {
    pub members: usize,
    /// Members of each program, the largest first.
    pub sizes: Vec<usize>,
    /// Program of each account, counted from 0.
    program_of: Vec<u16>,
    months: Months,
}

impl Platform {
    /// A platform of so many members, granted so many times each on average.
    pub fn new(members: usize, grants: f64) -> Result<Self> {
        ensure!(
            (1.0..=MONTHS as f64).contains(&grants),
            "an account has 1 to {MONTHS} grants on average"
        );
        let sizes = sizes(members);
        let mut program_of = Vec::with_capacity(members);
        let mut later = Vec::new();
        for (program, &size) in sizes.iter().enumerate() {
            let program = u16::try_from(program)?;
            let together = (size as f64 * OPENED_TOGETHER) as usize;
            program_of.extend(std::iter::repeat_n(program, together));
            later.extend(std::iter::repeat_n(program, size - together));
        }
        fastrand::Rng::with_seed(1).shuffle(&mut later);
        program_of.extend(later);
        Ok(Self {
            members,
            sizes,
            program_of,
            months: Months::new(grants),
        })
    }

    /// Program of an account, both counted from 0.
    pub fn program_of(&self, account: usize) -> usize {
        usize::from(self.program_of[account])
    }

    /// Whether an account ever got points; some of what it got is then left.
    pub fn has_points(&self, account: usize) -> bool {
        (0..MONTHS).any(|month| self.months.granted(account, month) > 0)
    }

    /// Any account that has points.
    pub fn any_account(&self) -> usize {
        loop {
            let account = fastrand::usize(..self.members);
            if self.has_points(account) {
                return account;
            }
        }
    }

    pub fn months(&self) -> &Months {
        &self.months
    }
}

/// Members of each program: together as many as asked for, the largest first.
fn sizes(members: usize) -> Vec<usize> {
    let programs = (members as f64 * PLATFORM_PROGRAMS / PLATFORM_MEMBERS).round();
    let programs = (programs as usize).clamp(1, members);
    let weights: Vec<f64> = (1..=programs)
        .map(|rank| (rank as f64).powf(-UNEQUAL))
        .collect();
    let total: f64 = weights.iter().sum();
    let mut sizes: Vec<usize> = weights
        .iter()
        .map(|weight| ((members as f64 * weight / total) as usize).max(1))
        .collect();
    // What rounding left over is the largest's.
    let others: usize = sizes[1..].iter().sum();
    sizes[0] = members - others;
    sizes
}

/// What an account's months bring.
pub struct Months {
    /// Chances in 2^32 of an account to be one that is granted points every month.
    every_month: u64,
    /// Chances in 2^32 of any other to be granted points in a month.
    sometimes: u64,
}

impl Months {
    fn new(grants: f64) -> Self {
        let months = MONTHS as f64;
        let every_month = (EVERY_MONTH * grants / 12.0).min(1.0);
        // What is left to reach the mean.
        let sometimes = if every_month < 1.0 {
            ((grants / months - every_month) / (1.0 - every_month)).clamp(0.0, 1.0)
        } else {
            1.0
        };
        let of_32_bits = |chance: f64| (chance * f64::from(u32::MAX)) as u64;
        Self {
            every_month: of_32_bits(every_month),
            sometimes: of_32_bits(sometimes),
        }
    }

    /// Points that an account, counted from 0, is granted in a month; 0 for none.
    pub fn granted(&self, account: usize, month: usize) -> i64 {
        let dice = mix(account as u64, month as u64);
        let whole = mix(account as u64, 1_000) >> 32 <= self.every_month;
        if whole || dice >> 32 <= self.sometimes {
            10 * (1 + (dice & 0xffff) as i64 % 100)
        } else {
            0
        }
    }

    /// What an account spends of its balance at the end of a month: eighths, 0 for nothing.
    pub fn spent_eighths(&self, account: usize, month: usize) -> i64 {
        let dice = mix(account as u64, 2_000 + month as u64);
        if dice.is_multiple_of(SPENDS_EVERY) {
            1 + (dice >> 40) as i64 % 6
        } else {
            0
        }
    }
}

/// A number that looks random, the same for the same two.
pub fn mix(account: u64, salt: u64) -> u64 {
    let mut bits = account
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(salt.wrapping_mul(0xd1b5_4a32_d192_ed03));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::{MONTHS, Platform};

    #[test]
    fn the_platform_of_p16_has_its_programs_and_members() -> anyhow::Result<()> {
        let platform = Platform::new(4_040_000, 12.0)?;
        assert_eq!(platform.sizes.len(), 576);
        assert_eq!(platform.sizes.iter().sum::<usize>(), 4_040_000);
        assert!(platform.sizes.is_sorted_by(|a, b| a >= b));
        let of_first = (0..platform.members)
            .filter(|&account| platform.program_of(account) == 0)
            .count();
        assert_eq!(of_first, platform.sizes[0]);
        Ok(())
    }

    #[test]
    fn accounts_have_as_many_grants_as_asked_for_and_some_have_all_months() -> anyhow::Result<()> {
        for grants in [1.0, 6.0, 12.0, 36.0] {
            let platform = Platform::new(20_000, grants)?;
            let counts: Vec<usize> = (0..platform.members)
                .map(|account| {
                    (0..MONTHS)
                        .filter(|&month| platform.months().granted(account, month) > 0)
                        .count()
                })
                .collect();
            let mean = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
            assert!((mean / grants - 1.0).abs() < 0.05, "{mean} for {grants}");
            assert_eq!(counts.iter().max(), Some(&MONTHS));
        }
        Ok(())
    }

    #[test]
    fn a_small_platform_has_one_program() -> anyhow::Result<()> {
        assert_eq!(Platform::new(1_000, 12.0)?.sizes, [1_000]);
        assert!(Platform::new(1_000, 0.0).is_err());
        Ok(())
    }
}
