//! One record at a time, and what a record keeps.

use crate::Club;
use anyhow::Result;

#[tokio::test]
async fn set_member_writes_a_record_and_opens_the_account() -> Result<()> {
    let club = Club::open("member_set").await?;
    let opened = club
        .show(
            "select account_id, program_id from loyalty.set_member(
                 program => 'club', member_no => 'M-1', name => '山田 花子', kana => 'ﾔﾏﾀﾞ はなこ',
                 birth_date => '1990-04-01', email => 'Hanako@Example.com', phone => '090-1234-5678',
                 language => 'EN', facts => '{\"first_service_on\": \"2024/06/20\"}',
                 attributes => '{\"team\": {\"floor\": 3, \"room\": null}}')",
        )
        .await?;
    assert_eq!(opened, "1|1");
    let first = "M-1|山田 花子|ヤマダ ハナコ|1990-04-01|Hanako@example.com|+819012345678|en\
                 |{\"first_service_on\": \"2024-06-20\"}|{\"team\": {\"room\": null, \"floor\": 3}}";
    assert_eq!(club.members().await?, first);
    assert_eq!(
        club.show("select account_id from loyalty.account where member_no = 'M-1'")
            .await?,
        "1"
    );

    // what is not given stays
    club.show("select loyalty.set_member('club', 'M-1')")
        .await?;
    assert_eq!(club.members().await?, first);
    club.show(
        "select loyalty.set_member('club', 'M-1', email => '', clear => '{birth_date}',
             facts => '{\"contract_since\": \"2015-04-01\", \"first_service_on\": null}',
             attributes => '{\"team\": null, \"size\": \"L\"}')",
    )
    .await?;
    assert_eq!(
        club.members().await?,
        "M-1|山田 花子|ヤマダ ハナコ|||+819012345678|en|{\"contract_since\": \"2015-04-01\"}|{\"size\": \"L\"}"
    );
    // an emptied language is the usual one
    club.show("select loyalty.set_member('club', 'M-1', language => '')")
        .await?;
    assert_eq!(
        club.show("select language from loyalty.member").await?,
        "ja"
    );
    Ok(())
}

#[tokio::test]
async fn an_unchanged_record_is_not_written() -> Result<()> {
    let club = Club::open("member_same").await?;
    let set = "select updated_at from loyalty.set_member('club', 'M-1', name => 'Ann', phone => '03-1234-5678')";
    let first = club.show(set).await?;
    club.show("set loyalty.clock = '2026-07-01 12:00+09'")
        .await?;
    assert_eq!(club.show(set).await?, first);
    let third = club
        .show("select updated_at from loyalty.set_member('club', 'M-1', name => 'Bea')")
        .await?;
    assert!(third > first, "{third} after {first}");
    Ok(())
}

#[tokio::test]
async fn set_member_refuses_what_cannot_be_and_writes_nothing() -> Result<()> {
    let club = Club::open("member_refused").await?;
    for (arguments, code) in [
        ("'none', 'M-1'", "LY002"),
        ("'club', null", "22004"),
        ("'club', ''", "22023"),
        ("'club', '=1'", "22023"),
        ("'club', 'M-1', name => '@SUM(A1)'", "22023"),
        ("'club', 'M-1', kana => 'Smith'", "22023"),
        ("'club', 'M-1', birth_date => '2026-06-16'", "22023"),
        ("'club', 'M-1', birth_date => 'infinity'", "22023"),
        ("'club', 'M-1', email => 'nobody'", "22023"),
        ("'club', 'M-1', phone => '110110'", "22023"),
        ("'club', 'M-1', language => 'Japanese!'", "22023"),
        ("'club', 'M-1', facts => '[]'", "22023"),
        ("'club', 'M-1', facts => '{\"a_on\": 20240620}'", "22023"),
        (
            "'club', 'M-1', facts => '{\"a_on\": \"2024-06-31\"}'",
            "22023",
        ),
        (
            "'club', 'M-1', facts => '{\"=a\": \"2024-06-30\"}'",
            "22023",
        ),
        ("'club', 'M-1', attributes => '\"x\"'", "22023"),
        ("'club', 'M-1', clear => '{member_no}'", "22023"),
    ] {
        let before = club.everything().await?;
        let refused = club
            .refusal(&format!("select loyalty.set_member({arguments})"))
            .await?;
        assert_eq!(refused.code, code, "{arguments}: {refused:?}");
        assert_eq!(club.everything().await?, before, "{arguments}");
    }
    // born today in the program's time zone, where a new day has begun
    club.show("set loyalty.clock = '2026-06-15 23:30+00'")
        .await?;
    club.show("select loyalty.set_member('club', 'M-1', birth_date => '2026-06-16')")
        .await?;
    Ok(())
}

#[tokio::test]
async fn the_table_itself_keeps_records_sound() -> Result<()> {
    let club = Club::open("member_table").await?;
    club.show("select loyalty.set_member('club', 'M-1', name => 'Ann')")
        .await?;
    for change in [
        "name = ''",
        "kana = ''",
        "birth_date = '1849-12-31'",
        "email = repeat('x', 255)",
        "phone = '03-1234-5678'",
        "language = 'x'",
        "facts = '[]'",
        "facts = '{\"a_on\": \"soon\"}'",
        "facts = '{\"a_on\": 5}'",
        "attributes = '1'",
    ] {
        let refused = club
            .refusal(&format!("update loyalty.member set {change}"))
            .await?;
        assert_eq!(refused.code, "23514", "{change}");
    }
    // a record is beside an account, and the account's program is its own
    assert_eq!(
        club.refusal(
            "insert into loyalty.member (account_id, program_id, updated_at) values (99, 1, now())"
        )
        .await?
        .code,
        "23503"
    );
    Ok(())
}
