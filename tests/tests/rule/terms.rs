//! What is refused when a rule is written: where it is wrong is told, and nothing half-written.

use crate::{ANNIVERSARY, Program};
use anyhow::Result;

#[tokio::test]
async fn malformed_terms_are_told_by_path() -> Result<()> {
    let program = Program::open("terms").await?;
    for (kind, terms, path, allowed) in [
        (
            "anniversary",
            r#"{"fact": "f", "every_years": 1, "points": 2000}"#,
            "$",
            "missing field `day_of_month`",
        ),
        (
            "anniversary",
            r#"{"fact": "f", "every_years": 0, "points": 1, "day_of_month": 15}"#,
            "$.every_years",
            "from 1 to 100",
        ),
        (
            "anniversary",
            r#"{"fact": "f", "every_years": 1, "points": "2000", "day_of_month": 15}"#,
            "$.points",
            "a whole number from 1",
        ),
        (
            "anniversary",
            r#"{"fact": "f", "every_years": 1, "points": 1, "day_of_month": 0}"#,
            "$.day_of_month",
            "from 1 to 31",
        ),
        (
            "anniversary",
            r#"{"fact": "f", "every_years": 1, "points": 1, "day_of_month": 15, "cut_off": {"fact_until": "2024-02-30", "first_month": "2025-05"}}"#,
            "$.cut_off.fact_until",
            "a day as YYYY-MM-DD",
        ),
        (
            "anniversary",
            r#"{"fact": "f", "every_years": 1, "points": 1, "day_of_month": 15, "cutoff": {}}"#,
            "$.cutoff",
            "unknown field",
        ),
        (
            "event",
            r#"{"event": "e", "points": {"member": 5000, "friend": 5000}}"#,
            "$.points.friend",
            "expected `member` or `other`",
        ),
        (
            "event",
            r#"{"event": "e", "points": 5000, "day_of_month": 15}"#,
            "$.months_after",
            "together",
        ),
        (
            "tenure",
            r#"{"fact": "f", "key_date": "2024-06-01", "pays_on": "2024-05-29", "table": [{"years": 5, "points": 1}, {"years": 8}]}"#,
            "$.table[1]",
            "missing field `points`",
        ),
        (
            "birthday",
            r#"{"points": 1.5}"#,
            "$.points",
            "a whole number",
        ),
        (
            "purchase",
            r#"{"per_amount": 100, "points": 1, "rounding": "nearest"}"#,
            "$.rounding",
            "`half_up`",
        ),
        (
            "manual",
            r#"{"points": 5, "max_points": 1}"#,
            "$.points",
            "max_points",
        ),
        ("manual", "[]", "$", "expected"),
        ("manual", "\"points\"", "$", "expected"),
    ] {
        let refusal = program
            .refused(&format!(
                "select loyalty.create_rule('coin', 'r', '{kind}', '{terms}')"
            ))
            .await?;
        assert_eq!(refusal.code, "22023", "{terms}");
        assert!(
            refusal.message.ends_with(&format!("at {path}")),
            "{terms}: {refusal:?}"
        );
        assert!(
            refusal.detail.starts_with(&format!("{path}: ")),
            "{terms}: {refusal:?}"
        );
        assert!(refusal.detail.contains(allowed), "{terms}: {refusal:?}");
        // what the hint shows is right
        let example = refusal
            .hint
            .strip_prefix("These are right: ")
            .unwrap_or_default();
        program
            .run(&format!(
                "select loyalty_private.rule_is_sound('{kind}', '{example}')"
            ))
            .await?;
    }
    assert_eq!(
        program.show("select count(*) from loyalty.rule").await?,
        "0"
    );
    Ok(())
}

#[tokio::test]
async fn bad_arguments_are_refused() -> Result<()> {
    let program = Program::open("terms_arguments").await?;
    let manual = r#"'{"points": 1}'"#;
    for (call, code) in [
        (format!("create_rule('coin', 'r', 'lottery', {manual})"), "22023"),
        (format!("create_rule('none', 'r', 'manual', {manual})"), "LY002"),
        (format!("create_rule('coin', 'r/1', 'manual', {manual})"), "22023"),
        (format!("create_rule('coin', null, 'manual', {manual})"), "23502"),
        (format!("create_rule('coin', 'r', null, {manual})"), "22004"),
        ("create_rule('coin', 'r', 'manual', null)".to_owned(), "22004"),
        (format!("create_rule('coin', 'r', 'manual', {manual}, title => '')"), "22023"),
        (format!("create_rule('coin', 'r', 'manual', {manual}, valid_from => '2025-01-01', valid_to => '2024-01-01')"), "22023"),
        (format!("create_rule('coin', 'r', 'manual', {manual}, valid_from => 'infinity')"), "22023"),
        (format!("create_rule('coin', 'r', 'manual', {manual}, valid_to => 'infinity')"), "22023"),
        (format!("create_rule('coin', 'r', 'manual', {manual}, valid_to => '-infinity')"), "22023"),
        (format!("create_rule('coin', 'r', 'manual', {manual}, valid_from => '1900-01-01')"), "22023"),
        (format!("create_rule('coin', 'r', 'manual', {manual}, expiry => 'someday')"), "22023"),
        // its one day lies before the rule
        (r#"create_rule('coin', 'r', 'tenure', '{"fact": "f", "key_date": "2024-06-01", "pays_on": "2024-04-30", "table": [{"years": 1, "points": 1}]}')"#.to_owned(), "22023"),
        ("change_rule('coin', 'r')".to_owned(), "LY002"),
        ("end_rule('coin', 'r')".to_owned(), "LY002"),
        ("explain_rule(99, 'r')".to_owned(), "LY002"),
        ("rule_periods(1, 'r', null, '2030-01-01')".to_owned(), "LY002"),
    ] {
        let refusal = program.refused(&format!("select * from loyalty.{call}")).await?;
        assert_eq!(refusal.code, code, "{call}: {refusal:?}");
    }
    program.rule("r", "manual", r#"{"points": 1}"#, "").await?;
    let again = program
        .refused(&format!(
            "select loyalty.create_rule('coin', 'r', 'manual', {manual})"
        ))
        .await?;
    assert_eq!(again.code, "23505");
    assert!(!again.hint.is_empty());
    Ok(())
}

/// No other route writes what is malformed, and versions stay as they are.
#[tokio::test]
async fn the_table_keeps_its_rows() -> Result<()> {
    let program = Program::open("terms_table").await?;
    program.rule("r", "anniversary", ANNIVERSARY, "").await?;
    for (statement, code) in [
        (
            "insert into loyalty.rule select program_id, 'x', 1, kind, title, '{}', valid_from, null, null, created_at, 'x' from loyalty.rule",
            "22023",
        ),
        (
            "insert into loyalty.rule select program_id, 'x', 1, 'lottery', title, terms, valid_from, null, null, created_at, 'x' from loyalty.rule",
            "22023",
        ),
        (
            "update loyalty.rule set terms = terms || '{\"points\": 1}'",
            "LY005",
        ),
        ("update loyalty.rule set valid_from = '2020-01-01'", "LY005"),
        ("delete from loyalty.rule", "LY005"),
        ("truncate loyalty.rule", "LY005"),
        ("update loyalty.rule set valid_to = '2020-01-01'", "23514"),
    ] {
        assert_eq!(program.refused(statement).await?.code, code, "{statement}");
    }
    program
        .run("begin; update loyalty.rule set valid_to = '2030-01-01'; rollback")
        .await
}
