//! Settings: all per program, off until set, and refused by the name of what is wrong.

use crate::Club;
use anyhow::Result;
use loyalty_testkit::TestDb;
use loyalty_tests::{Refusal, sqlstate};

#[tokio::test]
async fn errors_name_the_wrong_field() -> Result<()> {
    let club = Club::open("setting_bad").await?;
    let everything = "select (select json_agg(s order by kind) from loyalty.notice_setting s)::text
                          || (select json_agg(f) from loyalty.notice_sender f)::text";
    let before = club.row(everything).await?;
    for (call, field) in [
        ("set_notice('club', 'nonsense')", "kind"),
        ("set_notice('club', null)", "kind"),
        (
            "set_notice('club', 'balance', days_of_month => '{}')",
            "days_of_month",
        ),
        (
            "set_notice('club', 'balance', days_of_month => '{0}')",
            "days_of_month",
        ),
        (
            "set_notice('club', 'balance', days_of_month => '{1,32}')",
            "days_of_month",
        ),
        (
            "set_notice('club', 'balance', days_of_month => '{1,null}')",
            "days_of_month",
        ),
        (
            "set_notice('club', 'balance', days_of_month => '{{1},{2}}')",
            "days_of_month",
        ),
        (
            "set_notice('club', 'expiry', days_of_month => '{1}')",
            "days_of_month",
        ),
        ("set_notice('club', 'balance', at => '24:00')", "at"),
        ("set_notice('club', 'points_received', at => '09:00')", "at"),
        (
            "set_notice('club', 'expiry', days_before => -1)",
            "days_before",
        ),
        (
            "set_notice('club', 'expiry', days_before => 61)",
            "days_before",
        ),
        (
            "set_notice('club', 'balance', days_before => 7)",
            "days_before",
        ),
        (
            "set_notice('club', 'balance', send_within => '0')",
            "send_within",
        ),
        (
            "set_notice('club', 'balance', send_within => '31 days')",
            "send_within",
        ),
        ("set_notice_sender('club', email => 'nobody')", "email"),
        (
            "set_notice_sender('club', email => e'a@example.com\\nBcc: b@example.com')",
            "email",
        ),
        (
            "set_notice_sender('club', email => e'Club\\r\\n <a@example.com>')",
            "email",
        ),
        (
            "set_notice_sender('club', email => 'Club <a@example.com>, b@example.com')",
            "email",
        ),
        ("set_notice_sender('club', sms => e'+81\\n12345')", "sms"),
        (
            "set_notice_sender('club', language => 'Japanese!')",
            "language",
        ),
        (
            "set_notice_sender('club', preferences_url => 'javascript:alert(1)')",
            "preferences_url",
        ),
        (
            "set_notice_sender('club', preferences_url => 'https://example.com/\"x')",
            "preferences_url",
        ),
        (
            "set_notice_sender('club', max_attempts => 0)",
            "max_attempts",
        ),
        (
            "set_notice_sender('club', first_retry => '0')",
            "first_retry",
        ),
        (
            "set_notice_sender('club', longest_retry => '1 second')",
            "longest_retry",
        ),
    ] {
        let Refusal {
            code,
            message,
            detail,
            ..
        } = club.refusal(&format!("select loyalty.{call}")).await?;
        assert_eq!(code, "22023", "{call}: {message}");
        assert!(
            message.starts_with(&format!("{field} ")),
            "{call}: {message}"
        );
        assert!(detail.contains(&format!("{field}: ")), "{call}: {detail}");
    }
    assert_eq!(
        club.refused("select loyalty.set_notice('nowhere', 'balance')")
            .await?,
        "LY002"
    );
    assert_eq!(club.row(everything).await?, before);
    Ok(())
}

/// What is not given stays as it is; the defaults are C18's.
#[tokio::test]
async fn c18_settings_are_kept_but_for_what_is_given() -> Result<()> {
    let club = Club::open("setting_keep").await?;
    let shown = "select is_enabled, days_of_month, at, days_before from loyalty.notice_setting
                  where kind in ('balance', 'expiry') order by kind";
    assert_eq!(
        club.rows(shown).await?,
        ["t|{1,15}|13:00:00|", "t||08:45:00|7"]
    );
    club.run(
        "select loyalty.set_notice('club', 'balance', days_of_month => '{20,5,20}');
         select loyalty.set_notice('club', 'balance', at => '09:30');
         select loyalty.set_notice('club', 'expiry', is_enabled => false);
         select loyalty.set_notice('club', 'expiry', days_before => 3)",
    )
    .await?;
    assert_eq!(
        club.rows(shown).await?,
        ["t|{5,20}|09:30:00|", "f||08:45:00|3"]
    );
    // 3 days before through the last day are four
    club.run("select loyalty.set_notice('club', 'expiry', is_enabled => true)")
        .await?;
    club.grant(club.ann, 10, "2025-06-30").await?;
    let mut days = 0;
    for day in 24..=30 {
        club.at(&format!("2025-06-{day} 09:00+09")).await?;
        days += club.queue("expiry").await?;
    }
    assert_eq!(days, 4);
    Ok(())
}

/// Ledgers that send nothing pay for nothing: off from birth, and a sender is needed first.
#[tokio::test]
async fn a_program_sends_nothing_until_told_to() -> Result<()> {
    let db = TestDb::create("setting_off").await?;
    let client = db.connect().await?;
    client
        .batch_execute(
            "set loyalty.clock = '2025-06-15 13:00+09';
             select loyalty.create_program('club', 'Sample Club');
             select loyalty.set_member('club', 'ann', email => 'ann@example.com')",
        )
        .await?;
    let call = "select loyalty.set_notice('club', 'balance', is_enabled => true)";
    assert_eq!(sqlstate(&client.batch_execute(call).await), "22023");
    client
        .batch_execute(
            "select loyalty_private.announce_grants('{1}', '{16777217}', '{5}', '{2028-06-30}');
             select loyalty.announce_order(1, 'A-1', 'Voucher', 1, 5);
             select loyalty.set_notice('club', 'points_received');
             select loyalty_private.queue_balance_notices(loyalty.program_id('club'), '2025-06-15', null, 10)",
        )
        .await?;
    let row = client
        .query_one(
            "select (select count(*) from loyalty.notice), (select announces_grants from loyalty.program),
                    (select count(*) from loyalty.schedule where job like 'notice:%')",
            &[],
        )
        .await?;
    assert_eq!((row.get(0), row.get(1), row.get(2)), (0i64, false, 0i64));
    Ok(())
}

/// The program's column says whether grants are announced, and the schedule knows what is next.
#[tokio::test]
async fn switching_plans_the_schedule() -> Result<()> {
    let club = Club::open("setting_plan").await?;
    let planned = "select job, due_at from loyalty.schedule where job like 'notice:%' and due_at is not null order by job";
    assert_eq!(
        club.rows(planned).await?,
        [
            "notice:balance|2025-06-15 04:00:00+00",
            "notice:expiry|2025-06-10 23:45:00+00"
        ]
    );
    club.run(
        "select loyalty.set_notice('club', 'balance', days_of_month => '{20}', at => '00:00');
         select loyalty.set_notice('club', 'expiry', is_enabled => false);
         select loyalty.set_notice('club', 'points_received', is_enabled => false)",
    )
    .await?;
    assert_eq!(
        club.rows(planned).await?,
        ["notice:balance|2025-06-19 15:00:00+00"]
    );
    assert_eq!(
        club.row("select announces_grants from loyalty.program")
            .await?,
        "f"
    );
    Ok(())
}
