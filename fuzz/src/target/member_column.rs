//! Columns of a member's record and login IDs: what was cleaned is clean.

use super::{line_and_rest, text_of};
use chrono::{Datelike as _, NaiveDate};
use loyalty_core::member::{Column, check_member_no, clean_login_id, clean_member_no};

pub fn run(data: &[u8]) {
    let Some((heading, cell)) = text_of(data).map(line_and_rest) else {
        return;
    };
    let today = NaiveDate::from_ymd_opt(2026, 6, 15).expect("a day");
    if let Ok(column) = Column::of_heading(heading) {
        let again = Column::of_heading(column.name());
        assert_eq!(again.as_ref(), Ok(&column));
        match column.clean(cell, today) {
            Ok(Some(clean)) => {
                assert!(!clean.is_empty());
                let again = column.clean(&clean, today);
                assert_eq!(again.as_ref(), Ok(&Some(clean.clone())), "{column:?}");
                if let Column::BirthDate | Column::Fact(_) = column {
                    let day: NaiveDate = clean.parse().expect("a day");
                    assert!((1850..2200).contains(&day.year()));
                } else if !matches!(column, Column::Attribute(_)) {
                    assert!(!clean.contains(char::is_control), "{clean:?}");
                }
            }
            Ok(None) => assert_ne!(column, Column::MemberNo),
            Err(flaw) => assert!(!flaw.to_string().is_empty()),
        }
    }
    if let Ok(number) = clean_member_no(cell) {
        assert_eq!(clean_member_no(&number).as_ref(), Ok(&number));
        assert_eq!(check_member_no(&number), Ok(()));
    }
    if let Some(login_id) = clean_login_id(cell) {
        // else nobody could log in with what was stored
        assert_eq!(clean_login_id(&login_id).as_ref(), Some(&login_id));
        assert!(!login_id.contains(|c: char| c.is_control() || c.is_whitespace() && c != ' '));
    }
}
