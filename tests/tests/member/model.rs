//! Random rosters against a plain model of what the records are after each.

use crate::Club;
use anyhow::Result;
use loyalty_tests::assert_sound;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;

/// A load: which columns the file has, and a cell of each for some members.
#[derive(Debug, Clone)]
struct Load {
    columns: Vec<&'static str>,
    rows: Vec<(u8, Vec<String>)>,
    all_or_nothing: bool,
}

type Records = BTreeMap<String, BTreeMap<&'static str, String>>;

fn cell(column: &'static str) -> BoxedStrategy<String> {
    let value = match column {
        "name" => "[A-Z][a-z \",]{0,6}[a-z]|=[a-z]",
        "first_service_on" => "20[0-9]{2}-0[1-9]-(0[1-9]|2[0-9]|30)",
        _ => "[a-z]([a-z\n\",]{0,5}[a-z])?",
    };
    prop_oneof![1 => Just(String::new()), 4 => value].boxed()
}

fn load() -> impl Strategy<Value = Load> {
    (
        proptest::sample::subsequence(vec!["name", "first_service_on", "team"], 0..=3),
        any::<bool>(),
    )
        .prop_flat_map(|(columns, all_or_nothing)| {
            let cells: Vec<_> = columns.iter().map(|column| cell(column)).collect();
            let rows = proptest::collection::vec((0u8..6, cells), 0..8);
            rows.prop_map(move |rows| Load {
                columns: columns.clone(),
                rows,
                all_or_nothing,
            })
        })
}

fn is_bad(column: &str, cell: &str) -> bool {
    let no_day = chrono::NaiveDate::parse_from_str(cell, "%Y-%m-%d").is_err();
    cell.starts_with('=') || column == "first_service_on" && !cell.is_empty() && no_day
}

/// What the load does to the records; how many rows it loads.
fn apply(records: &mut Records, load: &Load) -> usize {
    let mut after = records.clone();
    let mut seen = Vec::new();
    let mut refused = 0;
    for (member, cells) in &load.rows {
        let bad = load
            .columns
            .iter()
            .zip(cells)
            .any(|(column, cell)| is_bad(column, cell));
        let again = seen.contains(member);
        seen.push(*member);
        if bad || again {
            refused += 1;
            continue;
        }
        let record = after.entry(format!("M-{member}")).or_default();
        for (column, cell) in load.columns.iter().zip(cells) {
            if cell.is_empty() {
                record.remove(column);
            } else {
                record.insert(column, cell.clone());
            }
        }
    }
    if load.all_or_nothing && refused > 0 {
        return 0;
    }
    *records = after;
    load.rows.len() - refused
}

fn csv(load: &Load) -> String {
    let quoted = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
    let mut text = std::iter::once("member_no")
        .chain(load.columns.iter().copied())
        .collect::<Vec<_>>()
        .join(",");
    for (member, cells) in &load.rows {
        text += &format!("\r\nM-{member}");
        for cell in cells {
            text += &format!(",{}", quoted(cell));
        }
    }
    text
}

#[tokio::test]
async fn random_rosters_leave_what_a_plain_model_has() -> Result<()> {
    let club = Club::open("import_model").await?;
    let mut runner = TestRunner::new(Config::default());
    let mut records = Records::new();
    for _ in 0..150 {
        let load = load()
            .new_tree(&mut runner)
            .map_err(|reason| anyhow::anyhow!("{reason}"))?
            .current();
        let before = records.clone();
        let loaded = apply(&mut records, &load);
        let options = format!(", all_or_nothing => {}", load.all_or_nothing);
        let told = club.import(&csv(&load), &options).await?;
        let counted: usize = told
            .iter()
            .filter_map(|line| {
                let (outcome, count) = line.split_once(' ')?;
                matches!(outcome, "inserted" | "updated" | "unchanged")
                    .then(|| count.parse::<usize>().ok())?
            })
            .sum();
        assert_eq!(counted, loaded, "{load:?} after {before:?}: {told:?}");
        let stored = club
            .client
            .query(
                "select a.member_no, m.name, m.facts ->> 'first_service_on', m.attributes ->> 'team'
                   from loyalty.member m join loyalty.account a using (account_id)",
                &[],
            )
            .await?;
        let stored: Records = stored
            .iter()
            .map(|row| {
                let record = ["name", "first_service_on", "team"]
                    .into_iter()
                    .enumerate()
                    .filter_map(|(index, column)| {
                        Some((column, row.get::<_, Option<String>>(index + 1)?))
                    })
                    .collect();
                (row.get(0), record)
            })
            .collect();
        assert_eq!(stored, records, "{load:?} after {before:?}");
    }
    assert!(!records.is_empty());
    assert_sound(&club.client).await
}
