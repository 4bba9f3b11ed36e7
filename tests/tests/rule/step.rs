//! Periods and payments as the runs walk them.

use crate::{ANNIVERSARY, Program, REFERRAL};
use anyhow::Result;

#[tokio::test]
async fn periods_go_by_the_programs_calendar() -> Result<()> {
    let program = Program::open("step_periods").await?;
    program
        .rule(
            "r",
            "anniversary",
            ANNIVERSARY,
            "valid_from => '2025-05-01'",
        )
        .await?;
    let periods = |after: &str, up_to: &str| {
        format!(
            "select string_agg(period || '>' || pays_on, ' ') from loyalty.rule_periods(1, 'r', {after}, '{up_to}')"
        )
    };
    assert_eq!(
        program.show(&periods("null", "2025-07-15")).await?,
        "2025-05-15>2025-05-15 2025-06-15>2025-06-16 2025-07-15>2025-07-15"
    );
    assert_eq!(
        program.show(&periods("'2025-06-15'", "2025-07-14")).await?,
        ""
    );
    program
        .run("select loyalty.set_calendar_day('JP', '2025-06-16', false, 'closed')")
        .await?;
    assert_eq!(
        program.show(&periods("'2025-05-15'", "2025-06-30")).await?,
        "2025-06-15>2025-06-17"
    );
    // as far as the calendar goes, and no further
    assert_eq!(
        program.show(&periods("'2099-10-31'", "2300-01-01")).await?,
        "2099-11-15>2099-11-16 2099-12-15>2099-12-15"
    );
    program
        .rule("once", "event", r#"{"event": "e", "points": 1}"#, "")
        .await?;
    assert_eq!(
        program
            .show("select count(*) from loyalty.rule_periods(1, 'once', null, '2030-01-01')")
            .await?,
        "0"
    );
    Ok(())
}

/// In steps of any size: everybody is looked at once, in account order, nobody twice.
#[tokio::test]
async fn steps_of_any_size_find_the_same() -> Result<()> {
    let program = Program::open("step_sizes").await?;
    program
        .rule("anniversary", "anniversary", ANNIVERSARY, "")
        .await?;
    program.rule("referral", "event", REFERRAL, "").await?;
    program
        .rule(
            "birthday",
            "birthday",
            r#"{"points": 5, "day_of_month": 15}"#,
            "",
        )
        .await?;
    let tenure = r#"{"fact": "first_service_on", "key_date": "2024-10-01", "pays_on": "2025-06-16", "table": [{"years": 0, "points": 1}, {"years": 1, "points": 2}]}"#;
    program.rule("tenure", "tenure", tenure, "").await?;
    // members of another program lie between
    program
        .run("select loyalty.create_program('other', 'Other');
              select count(loyalty.set_member(case when n % 3 = 0 then 'other' else 'coin' end, 'm' || n,
                         birth_date => date '1990-05-20' + n, facts => jsonb_build_object('first_service_on', (date '2024-05-20' + n)::text)))
                from generate_series(1, 90) n;
              select count(loyalty.open_account('coin', 'without record ' || n)) from generate_series(1, 5) n;
              select loyalty.close_account(a.account_id) from loyalty.account a where member_no in ('m20', 'm40');
              set loyalty.clock = '2025-05-31 10:00+09';
              select count(loyalty.record_event('coin', 'referral', 'm' || (3 * (n % 7) + 1), 'm' || (3 * (n % 11) + 2)))
                from generate_series(1, 40) n")
        .await?;
    program
        .run("create function walk(rule text, size bigint) returns table (account bigint, points bigint, key text)
              language plpgsql as $$
              declare
                  p record;
                  seen bigint := null;
              begin
                  loop
                      p := loyalty_private.rule_payments(1, rule, case rule when 'tenure' then date '2025-06-16' else '2025-06-15' end, seen, size);
                      assert p.looked_at <= size or rule = 'referral';
                      assert cardinality(p.account_ids) = cardinality(p.points)
                         and cardinality(p.account_ids) = cardinality(p.idempotency_keys);
                      assert p.granted_on = '2025-06-16' and p.reason = rule;
                      return query select * from unnest(p.account_ids, p.points, p.idempotency_keys);
                      exit when p.last_account is null;
                      assert p.last_account > coalesce(seen, 0);
                      seen := p.last_account;
                  end loop;
              end $$")
        .await?;
    for (rule, expected) in [
        // 12 months after June 2024: 12 to 41 days after 2024-05-20, less the others' and the closed
        (
            "anniversary",
            "select count(*) from loyalty.member where program_id = 1 and facts ->> 'first_service_on' between '2024-06-02' and '2024-06-30' and account_id not in (select account_id from loyalty.wallet where status = 'closed')",
        ),
        (
            "birthday",
            "select count(*) from loyalty.member where program_id = 1 and birth_date between '1990-06-01' and '1990-06-30' and account_id not in (select account_id from loyalty.wallet where status = 'closed')",
        ),
        (
            "tenure",
            "select count(*) from loyalty.member where program_id = 1 and facts ->> 'first_service_on' <= '2024-10-01' and account_id not in (select account_id from loyalty.wallet where status = 'closed')",
        ),
        (
            "referral",
            "select count(*) from loyalty.event e, lateral (values (account_id), (other_account_id)) p (id) where id not in (select account_id from loyalty.wallet where status = 'closed')",
        ),
    ] {
        let whole = program
            .show(&format!("select * from walk('{rule}', 1000)"))
            .await?;
        let count = program.show(expected).await?;
        assert_eq!(whole.lines().count().to_string(), count, "{rule}");
        assert_ne!(count, "0", "{rule}");
        for size in [1, 2, 7, 30, 60] {
            let steps = program
                .show(&format!("select * from walk('{rule}', {size})"))
                .await?;
            assert_eq!(steps, whole, "{rule} in steps of {size}");
        }
        // what is forecast is what is paid
        let forecast = program
            .show(&format!("select members, points from loyalty.rule_forecast(1, '{rule}', '2025-06-14', '2025-06-16')"))
            .await?;
        let paid = program
            .show(&format!(
                "select count(*), sum(points) from walk('{rule}', 1000)"
            ))
            .await?;
        assert_eq!(forecast, paid, "{rule}");
    }
    assert_eq!(
        program
            .refused("select loyalty_private.rule_payments(1, 'tenure', '2025-06-16', null, 0)")
            .await?
            .code,
        "22023"
    );
    // a day that is no period pays nobody
    assert_eq!(
        program.show("select account_ids, last_account from loyalty_private.rule_payments(1, 'anniversary', '2025-06-16', null, 10)").await?,
        "{}|"
    );
    Ok(())
}

/// A rule's own expiry policy wins over the program's, and is frozen at the grant (law 9).
#[tokio::test]
async fn law9_a_rule_has_its_own_expiry() -> Result<()> {
    let program = Program::open("step_expiry").await?;
    let terms =
        r#"{"fact": "first_service_on", "every_months": 1, "points": 1, "day_of_month": 15}"#;
    for (code, expiry) in [
        ("a", "180 days"),
        ("b", "never"),
        ("c", "after 2 months of inactivity"),
        ("d", "fixed 2027-03-31"),
    ] {
        program
            .rule(code, "anniversary", terms, &format!("expiry => '{expiry}'"))
            .await?;
    }
    program.rule("e", "anniversary", terms, "").await?;
    program
        .member("m", "first_service_on", "2024-04-30")
        .await?;
    program.live_until("2024-05-15").await?;
    assert_eq!(
        program
            .show("select split_part(idempotency_key, '/', 2), coalesce(expires_on, lot_expires_on[1]) from loyalty.entry where kind = 'grant' order by 1")
            .await?,
        "a|2024-11-11\nb|infinity\nc|2024-07-15\nd|2027-03-31\ne|2027-05-31"
    );
    assert_eq!(
        program
            .show("select inactivity_months from loyalty.lot_class")
            .await?,
        "2"
    );
    program.verify().await
}

/// A fact that is no day leaves its member out, and nobody else.
#[tokio::test]
async fn a_wrong_fact_stops_nobody_else() -> Result<()> {
    let program = Program::open("step_fact").await?;
    program
        .rule("anniversary", "anniversary", ANNIVERSARY, "")
        .await?;
    program
        .run("insert into loyalty.member (account_id, program_id, facts, updated_at)
              select loyalty.open_account('coin', f), 1, jsonb_build_object('first_service_on', f), loyalty.now()
                from unnest(array['2024-06-10', '2024-06-31', '0000-00-00', '9999-12-31', '2024-06-11']) f")
        .await?;
    assert_eq!(
        program.show("select account_ids, looked_at from loyalty_private.rule_payments(1, 'anniversary', '2025-06-15', null, 10)").await?,
        "{1,5}|5"
    );
    assert!(
        program
            .show("select explanation from loyalty.explain_rule(2, 'anniversary')")
            .await?
            .starts_with("None:")
    );
    Ok(())
}
