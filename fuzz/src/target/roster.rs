//! Rosters as CSV: every row is told by a number that the file has, and what is loaded is clean.

use super::text_of;
use chrono::NaiveDate;
use loyalty_core::roster::{Roster, Row};

pub fn run(data: &[u8]) {
    if let Some(text) = text_of(data) {
        read(text);
    }
}

/// Reads a roster to its end.
pub fn read(text: &str) {
    let today = NaiveDate::from_ymd_opt(2026, 6, 15).expect("a day");
    let Ok(mut roster) = Roster::open(text, today) else {
        return;
    };
    let columns = roster.columns().to_vec();
    // a line ends with \n, \r or both
    let ends = text.bytes().filter(|byte| b"\r\n".contains(byte)).count();
    let lines = u32::try_from(ends).expect("a small file") + 1;
    let mut last = 1;
    let mut seen = std::collections::HashSet::new();
    while let Ok(Some(row)) = roster.next_row() {
        let number = match &row {
            Row::Good(record) => record.row,
            Row::Bad(problems) => {
                assert!(
                    problems
                        .iter()
                        .all(|problem| problem.row == problems[0].row)
                );
                problems[0].row
            }
        };
        assert!(
            last < number && number <= lines,
            "row {number} after {last} of {lines}"
        );
        last = number;
        match row {
            Row::Good(record) => {
                assert_eq!(record.cells.len(), columns.len());
                assert!(
                    seen.insert(record.member_no.clone()),
                    "{} twice",
                    record.member_no
                );
                for (column, cell) in columns.iter().zip(&record.cells) {
                    let Some(cell) = cell else { continue };
                    // what was taken would be taken again, and stay as it is
                    let again = column.clean(cell, today);
                    assert_eq!(again.as_ref(), Ok(&Some(cell.clone())), "{column:?}");
                }
            }
            Row::Bad(problems) => {
                for problem in problems {
                    let known = |name: &String| columns.iter().any(|c| c.name() == name);
                    assert!(problem.column.as_ref().is_none_or(known), "{problem:?}");
                    assert!(!problem.reason.is_empty());
                }
            }
        }
    }
}
