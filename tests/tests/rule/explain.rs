//! `explain_rule` says when the next payment comes, or why none does.

use crate::{ANNIVERSARY, Program, REFERRAL};
use anyhow::Result;

/// `pays_on|points|explanation` of a rule for an account.
async fn explain(program: &Program, account: i64, rule: &str) -> Result<String> {
    program
        .show(&format!(
            "select pays_on, points, explanation from loyalty.explain_rule({account}, '{rule}')"
        ))
        .await
}

#[tokio::test]
async fn c2_c3_explained() -> Result<()> {
    let program = Program::open("explain_anniversary").await?;
    program
        .rule("anniversary", "anniversary", ANNIVERSARY, "")
        .await?;
    let june = program
        .member("june", "first_service_on", "2024-06-20")
        .await?;
    let may = program
        .member("may", "first_service_on", "2024-06-01")
        .await?;
    let other = program
        .member("other", "contract_since", "2024-06-01")
        .await?;
    let none = program.account("none").await?;
    assert_eq!(
        explain(&program, june, "anniversary").await?,
        "2025-06-16|2000|2000 on 2025-06-16, the first business day from 2025-06-15 on, 12 months after the month of first_service_on 2024-06-20."
    );
    let told = explain(&program, may, "anniversary").await?;
    assert!(
        told.starts_with("2025-05-15|2000|") && told.contains("2024-06-01"),
        "{told}"
    );
    let told = explain(&program, other, "anniversary").await?;
    assert!(
        told.starts_with("||None:") && told.contains("first_service_on"),
        "{told}"
    );
    let told = explain(&program, none, "anniversary").await?;
    assert!(
        told.starts_with("||None:") && told.contains("no record"),
        "{told}"
    );

    // on the day itself before and after the run, and the day before
    program.at("2025-06-16 00:00+09").await?;
    assert!(
        explain(&program, june, "anniversary")
            .await?
            .starts_with("2025-06-16|2000|")
    );
    program.live_until("2025-06-16").await?;
    assert!(
        explain(&program, june, "anniversary")
            .await?
            .starts_with("2026-06-15|2000|")
    );
    assert_eq!(
        program.show(&format!("select last_paid_on, last_points, version from loyalty.explain_rule({june}, 'anniversary')")).await?,
        "2025-06-16|2000|1"
    );

    // what will be in force then
    let changed = ANNIVERSARY.replace("2000", "3000");
    program
        .run(&format!("select loyalty.change_rule('coin', 'anniversary', '{changed}', from_day => '2026-01-01')"))
        .await?;
    assert!(
        explain(&program, june, "anniversary")
            .await?
            .starts_with("2026-06-15|3000|")
    );
    program
        .run("select loyalty.end_rule('coin', 'anniversary', '2026-06-14')")
        .await?;
    let told = explain(&program, june, "anniversary").await?;
    assert!(
        told.starts_with("||None:") && told.contains("2026-06-14"),
        "{told}"
    );
    program.at("2026-06-15 10:00+09").await?;
    let told = explain(&program, june, "anniversary").await?;
    assert!(
        told.starts_with("||None: the rule ended on 2026-06-14"),
        "{told}"
    );
    program
        .run(&format!(
            "select loyalty.close_account({june}, forfeit => true)"
        ))
        .await?;
    let told = explain(&program, june, "anniversary").await?;
    assert!(
        told.starts_with("||None:") && told.contains("closed"),
        "{told}"
    );
    Ok(())
}

#[tokio::test]
async fn c4_c5_and_the_others_explained() -> Result<()> {
    let program = Program::open("explain_others").await?;
    let tenure = r#"{"fact": "contract_since", "key_date": "2024-06-01", "pays_on": "2024-05-29",
                     "table": [{"years": 5, "points": 2500}, {"years": 8, "points": 4000}]}"#;
    program.rule("tenure", "tenure", tenure, "").await?;
    program.rule("referral", "event", REFERRAL, "").await?;
    program
        .rule("birthday", "birthday", r#"{"points": 5}"#, "")
        .await?;
    program
        .rule("hand", "manual", r#"{"points": 5}"#, "")
        .await?;
    let eight = program
        .member("eight", "contract_since", "2016-03-01")
        .await?;
    let four = program
        .member("four", "contract_since", "2020-03-01")
        .await?;
    assert!(
        explain(&program, eight, "tenure")
            .await?
            .starts_with("2024-05-29|4000|")
    );
    let told = explain(&program, four, "tenure").await?;
    assert!(
        told.starts_with("||None:")
            && told.contains("4 full years")
            && told.contains("begins at 5"),
        "{told}"
    );
    program.live_until("2024-05-30").await?;
    let told = explain(&program, eight, "tenure").await?;
    assert!(
        told.starts_with("||None: paid once, on 2024-05-29"),
        "{told}"
    );
    let late = program
        .member("late", "contract_since", "2016-03-01")
        .await?;
    let told = explain(&program, late, "tenure").await?;
    assert!(
        told.starts_with("||None:") && told.contains("2024-05-29"),
        "{told}"
    );

    let told = explain(&program, eight, "referral").await?;
    assert!(
        told.starts_with("||None:") && told.contains("no event"),
        "{told}"
    );
    program
        .run("select loyalty.record_event('coin', 'referral', 'four', 'eight', '2024-05-20')")
        .await?;
    for account in [eight, four] {
        assert!(
            explain(&program, account, "referral")
                .await?
                .starts_with("2024-06-17|5000|")
        );
    }
    program.run("select loyalty.cancel_event(1)").await?;
    assert!(
        explain(&program, eight, "referral")
            .await?
            .starts_with("||None:")
    );

    let told = explain(&program, eight, "birthday").await?;
    assert!(
        told.starts_with("||None:") && told.contains("birth_date"),
        "{told}"
    );
    program
        .run("select loyalty.set_member('coin', 'eight', birth_date => '2000-02-29')")
        .await?;
    assert!(
        explain(&program, eight, "birthday")
            .await?
            .starts_with("2025-02-28|5|")
    );
    assert!(
        explain(&program, eight, "hand")
            .await?
            .starts_with("||Paid when")
    );
    assert_eq!(
        program
            .refused(&format!("select loyalty.explain_rule({eight}, 'none')"))
            .await?
            .code,
        "LY002"
    );
    Ok(())
}

/// What is explained is what then happens: every member's next payment, day by day.
#[tokio::test]
async fn what_is_explained_comes_true() -> Result<()> {
    let program = Program::open("explain_true").await?;
    program
        .rule("anniversary", "anniversary", ANNIVERSARY, "")
        .await?;
    program
        .rule(
            "half",
            "anniversary",
            r#"{"fact": "first_service_on", "every_months": 6, "points": 11, "day_of_month": 31}"#,
            "",
        )
        .await?;
    program
        .rule(
            "birthday",
            "birthday",
            r#"{"points": 5, "day_of_month": 20}"#,
            "",
        )
        .await?;
    program
        .run("select count(loyalty.set_member('coin', 'm' || n, birth_date => date '1980-01-31' + n * 41,
                       facts => jsonb_build_object('first_service_on', (date '2024-02-27' + n * 17)::text)))
                from generate_series(0, 30) n")
        .await?;
    program
        .run(
            "create table told as
              select a.account_id, r.rule, e.pays_on, e.points
                from loyalty.account a
               cross join (values ('anniversary'), ('half'), ('birthday')) r (rule)
               cross join lateral loyalty.explain_rule(a.account_id, r.rule) e",
        )
        .await?;
    assert_eq!(
        program
            .show("select count(*) from told where pays_on is null")
            .await?,
        "0"
    );
    program.live_until("2027-01-01").await?;
    let wrong = program
        .show(
            "select t.*, f.granted_on, f.points from told t
               left join lateral (
                         select e.granted_on, e.points from loyalty.entry e
                          where e.account_id = t.account_id and e.idempotency_key like 'rule/' || t.rule || '/%'
                          order by e.entry limit 1) f on true
              where (t.pays_on, t.points) is distinct from (f.granted_on, f.points)",
        )
        .await?;
    assert_eq!(wrong, "");
    Ok(())
}
