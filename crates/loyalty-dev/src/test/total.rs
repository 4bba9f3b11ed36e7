//! What test programs said at their ends, added up.

use std::fmt;
use std::process::ExitStatus;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub passed: usize,
    pub failed: Vec<String>,
    pub skipped: usize,
}

impl Total {
    pub fn and(mut self, other: Self) -> Self {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped += other.skipped;
        self
    }

    /// Adds what a program printed.
    pub fn add(&mut self, name: &str, printed: &str, status: ExitStatus) {
        let before = self.failed.len();
        let mut has_result = false;
        let mut counted = 0;
        for line in printed.lines() {
            if let Some(test) = line
                .strip_prefix("test ")
                .and_then(|line| line.strip_suffix(" ... FAILED"))
            {
                self.failed.push(format!("{name}: {test}"));
            } else if let Some(result) = line.strip_prefix("test result: ") {
                has_result = true;
                self.passed += number_of(result, "passed");
                self.skipped += number_of(result, "ignored");
                counted += number_of(result, "failed");
            }
        }
        let named = self.failed.len() - before;
        // Where a test prints without its output being captured, its line may be torn.
        for _ in named..counted {
            self.failed
                .push(format!("{name}: a test whose name is above"));
        }
        if self.failed.len() == before && (!status.success() || !has_result) {
            self.failed.push(format!("{name}: ended early ({status})"));
        }
    }
}

/// The number before a word in `ok. 3 passed; 0 failed; …`.
fn number_of(result: &str, word: &str) -> usize {
    let before = result.split(word).next().unwrap_or_default();
    let number = before.split_whitespace().next_back();
    number.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed.len())?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::Total;

    #[test]
    fn what_programs_said_is_added_up() {
        let mut total = Total::default();
        let (good, bad) = (ExitStatus::from_raw(0), ExitStatus::from_raw(101 << 8));
        total.add(
            "ledger",
            "running 3 tests\ntest a ... ok\ntest b ... ok\ntest c ... ignored\n\n\
             test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.1s\n",
            good,
        );
        assert_eq!(total.to_string(), "2 passed, 0 failed, 1 skipped");
        total.add(
            "run",
            "test d ... ok\ntest e ... FAILED\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured\n",
            bad,
        );
        assert_eq!(total.failed, ["run: e"]);
        assert_eq!(total.to_string(), "3 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn a_program_that_ends_without_a_result_has_failed() {
        for status in [ExitStatus::from_raw(11), ExitStatus::from_raw(0)] {
            let mut total = Total::default();
            total.add("law", "running 9 tests\ntest a ... ok\n", status);
            assert_eq!(total.failed.len(), 1);
        }
    }
}
