//! A malformed CSV gets an error that says where, and nothing is half-written.

use crate::Club;
use anyhow::{Context as _, Result};
use loyalty_tests::Refusal;

#[tokio::test]
async fn csv_in_the_wrong_encoding_says_line_and_character() -> Result<()> {
    let club = Club::open("csv_encoding").await?;
    let text = "member_no,name\nM-1,Ann\nM-2,山田\n";
    let sjis: Vec<u8> = club
        .client
        .query_one("select convert_to($1, 'SJIS')", &[&text])
        .await?
        .get(0);
    let refused = club.unreadable(&sjis, "").await?;
    assert_eq!(refused.code, "22023");
    assert_eq!(
        refused.detail,
        "line 3, character 5 (byte 27): 0x8E is not UTF-8."
    );
    assert!(refused.hint.contains("Shift_JIS"), "{refused:?}");
    let refused = club
        .unreadable(text.as_bytes(), ", encoding => 'EUC-JP'")
        .await?;
    assert!(
        refused
            .detail
            .starts_with("line 3, character 7 (byte 31): 0x94 "),
        "{refused:?}"
    );
    // UTF-16 taken for UTF-8, an unknown encoding, bytes that are no text
    for (file, options) in [
        (b"\xFF\xFEm\0e\0".as_slice(), ""),
        (b"member_no\nM-1\n", ", encoding => 'klingon'"),
        (b"member_no\nM-1\0\n", ""),
        (b"\x89PNG\r\n\x1a\n", ""),
    ] {
        let refused = club.unreadable(file, options).await?;
        assert_eq!(refused.code, "22023", "{file:?}");
        assert!(!refused.detail.is_empty() && !refused.hint.is_empty());
    }
    // mojibake that somebody pasted is a row's problem
    let told = club.import("member_no,name\nM-1,\u{FFFD}R\n", "").await?;
    assert_eq!(told[0], "refused 1");
    assert!(told[1].starts_with("2 M-1 name: "), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn csv_with_a_missing_or_double_column_says_which() -> Result<()> {
    let club = Club::open("csv_column").await?;
    for (csv, detail) in [
        ("", "It has no row at all."),
        (
            "name,email\nAnn,ann@example.com\n",
            "Row 1: no column has the heading member_no; there are name, email.",
        ),
        (
            "member_no;name\nM-1;Ann\n",
            "Row 1: no column has the heading member_no; there are member_no;name.",
        ),
        (
            "member_no,name,Name\nM-1,Ann,Ann\n",
            "Row 1: name is the heading of column 2 and of column 3.",
        ),
        (
            "member_no,,name\nM-1,,Ann\n",
            "Row 1, column 2: heading \"\" has no name.",
        ),
        (
            "member_no,=1+1\nM-1,x\n",
            "Row 1, column 2: heading \"=1+1\" begins with '=', so a spreadsheet would run it as a formula.",
        ),
        (
            "member_no,name\nM-1,Ann\nM-2,\"Bea\nM-3,Cid\n",
            "Row 3: a quote is opened and not closed.",
        ),
    ] {
        let refused = club.unreadable(csv.as_bytes(), "").await?;
        assert_eq!(
            (refused.code.as_str(), refused.detail.as_str()),
            ("22023", detail)
        );
        assert!(!refused.hint.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn csv_of_200_mb_is_refused_without_using_up_memory() -> Result<()> {
    let club = Club::open("csv_200mb").await?;
    let status = "select pg_backend_pid()";
    let pid = club.show(status).await?;
    let peak = || -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .context("no VmHWM")?;
        let kilobytes = line.split_whitespace().nth(1).context("no figure")?;
        Ok(kilobytes.parse::<u64>()? / 1024)
    };
    club.import("member_no\nM-1\n", "").await?;
    let before = peak()?;
    for csv in [
        "'member_no' || repeat(E'\\nM-123456', 200 * 1024 * 1024 / 9)",
        "convert_to('member_no' || repeat(E'\\nM-123456', 200 * 1024 * 1024 / 9), 'UTF8')",
    ] {
        let refused = club
            .refusal(&format!(
                "select * from loyalty.import_members('club', {csv})"
            ))
            .await?;
        assert_eq!(refused.code, "54000", "{refused:?}");
        assert!(
            refused.detail.contains("at most 67108864 are allowed"),
            "{refused:?}"
        );
        assert!(!refused.hint.is_empty());
    }
    // the text itself is 200 MB, and PostgreSQL copies it while it makes and converts it; the
    // import adds nothing that grows with the file
    let after = peak()?;
    assert!(after - before < 900, "{before} MB, then {after} MB");
    assert_eq!(club.show("select count(*) from loyalty.member").await?, "1");
    Ok(())
}

#[tokio::test]
async fn csv_that_is_too_wide_too_long_or_all_wrong_is_refused() -> Result<()> {
    let club = Club::open("csv_limits").await?;
    let wide: String = (0..200).map(|number| format!(",c{number}")).collect();
    let refused = club
        .unreadable(format!("member_no{wide}\n").as_bytes(), "")
        .await?;
    assert_eq!(
        (refused.code.as_str(), refused.detail.as_str()),
        ("54000", "It has 201 columns; at most 200 are allowed.")
    );
    let refused = club
        .refusal(
            "select * from loyalty.import_members('club', 'member_no' || repeat(E'\\n,x', 100001))",
        )
        .await?;
    assert_eq!(refused.code, "54000");
    let refused = club
        .refusal("select * from loyalty.import_members('club', 'member_no' || repeat(E'\\n', 1000002) || '1')")
        .await?;
    assert_eq!(
        (refused.code.as_str(), refused.detail.as_str()),
        ("54000", "It has more than 1000000 rows.")
    );
    // a long cell is its row's problem
    let csv = format!(
        "member_no,name,note\nM-1,{},\nM-2,,{}\nM-3,,\n",
        "x".repeat(201),
        "x".repeat(1_001)
    );
    assert_eq!(
        club.import(&csv, "").await?,
        [
            "inserted 1",
            "refused 2",
            "2 M-1 name: has 201 characters; at most 200 are allowed",
            "3 M-2 note: has 1001 characters; at most 1000 are allowed",
        ]
    );
    Ok(())
}

#[tokio::test]
async fn csv_with_formula_injection_cells_says_which_cell() -> Result<()> {
    let club = Club::open("csv_formula").await?;
    let csv = "member_no,name,kana,email,phone,所属\n\
        =1,,,,,\n\
        M-2,+1+1,,,,\n\
        M-3,,@SUM(A1),,,\n\
        M-4,,,=1@example.com,,\n\
        M-5,,,,=1+1,\n\
        M-6,,,,,\"-2+3+cmd|' /C calc'!A0\"\n\
        M-7,\"\tx\",,,,\n\
        M-8,\"\rx\",,,,\n\
        M-9,＝1,,,,\n\
        M-10,Ann,アン,ann@example.com,+81 90-1234-5678,-5\n";
    let told = club.import(csv, "").await?;
    assert_eq!(told[..2], ["inserted 1", "refused 9"]);
    let places: Vec<&str> = told[2..]
        .iter()
        .filter_map(|line| line.split(':').next())
        .collect();
    assert_eq!(
        places,
        [
            "2 =1 member_no",
            "3 M-2 name",
            "4 M-3 kana",
            "5 M-4 email",
            "6 M-5 phone",
            "7 M-6 所属",
            "8 M-7 name",
            "9 M-8 name",
            "10 M-9 name",
        ]
    );
    // a number with its country code is one
    assert_eq!(
        club.members().await?,
        "M-10|Ann|アン||ann@example.com|+819012345678|ja|{}|{\"所属\": \"-5\"}"
    );
    Ok(())
}

#[tokio::test]
async fn import_refuses_nulls_and_unknown_programs() -> Result<()> {
    let club = Club::open("csv_null").await?;
    for (arguments, code) in [
        ("'none', 'member_no'", "LY002"),
        ("null, 'member_no'", "22004"),
        ("'club', null::text", "22004"),
        ("'club', null::bytea", "22004"),
        ("'club', ''::bytea, null", "22004"),
    ] {
        let sql = format!("select * from loyalty.import_members({arguments})");
        assert_eq!(club.refusal(&sql).await?.code, code, "{arguments}");
    }
    // only who may: an operator, and nobody else by SQL
    for role in [
        "loyalty_anon",
        "loyalty_member",
        "loyalty_granter",
        "loyalty_admin",
    ] {
        let client = club.db.connect_as(role).await?;
        for call in [
            "import_members('club', 'member_no')",
            "set_member('club', 'M-1')",
        ] {
            let answer = client
                .simple_query(&format!("select * from loyalty.{call}"))
                .await;
            let error = answer.err().context(role)?;
            assert_eq!(Refusal::of(&error)?.code, "42501", "{role} {call}");
        }
    }
    let operator = club.db.connect_as("loyalty_operator").await?;
    operator
        .simple_query("select * from loyalty.import_members('club', E'member_no\\nM-1')")
        .await?;
    Ok(())
}
