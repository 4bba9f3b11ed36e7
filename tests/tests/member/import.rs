//! Loading rosters that are as they should be, or mostly.

use crate::Club;
use anyhow::Result;
use loyalty_tests::assert_sound;

const ROSTER: &str = "member_no,name,kana,birth_date,email,phone,language,first_service_on,所属\r\n\
    M-1,山田 花子,やまだ はなこ,1990/4/1,hanako@example.com,090-1234-5678,ja,2024-06-20,営業部\r\n\
    M-2,\"Lee, \"\"Ann\"\"\",アン・リー,,,+44 20 7946 0018,en,,\"2F\nroom 5\"\r\n";
const LOADED: &str = "M-1|山田 花子|ヤマダ ハナコ|1990-04-01|hanako@example.com|+819012345678|ja|{\"first_service_on\": \"2024-06-20\"}|{\"所属\": \"営業部\"}\n\
    M-2|Lee, \"Ann\"|アン・リー|||+442079460018|en|{}|{\"所属\": \"2F\\nroom 5\"}";

#[tokio::test]
async fn a_roster_is_loaded_and_loading_it_again_changes_nothing() -> Result<()> {
    let club = Club::open("import").await?;
    assert_eq!(club.import(ROSTER, "").await?, ["inserted 2"]);
    assert_eq!(club.members().await?, LOADED);
    let before = club.everything().await?;
    assert_eq!(club.import(ROSTER, "").await?, ["unchanged 2"]);
    // with and without the byte order mark, by its bytes, all or nothing
    let marked = format!("\u{FEFF}{ROSTER}");
    assert_eq!(club.import(&marked, "").await?, ["unchanged 2"]);
    assert_eq!(
        club.import_file(marked.as_bytes(), ", all_or_nothing => true")
            .await?,
        ["unchanged 2"]
    );
    assert_eq!(club.everything().await?, before);
    // the accounts are whole
    assert_sound(&club.client).await?;
    assert_eq!(
        club.show("select count(*) from loyalty.account a, loyalty.balance(a.account_id) b where b.balance = 0")
            .await?,
        "2"
    );
    Ok(())
}

#[tokio::test]
async fn an_absent_column_leaves_as_is_and_an_empty_cell_empties() -> Result<()> {
    let club = Club::open("import_empty").await?;
    club.import(ROSTER, "").await?;
    let lines = club
        .import(
            "member_no,email,first_service_on,size\nM-1,,,L\nM-2,,2020-01-31,\n",
            "",
        )
        .await?;
    assert_eq!(lines, ["updated 2"]);
    assert_eq!(
        club.members().await?,
        "M-1|山田 花子|ヤマダ ハナコ|1990-04-01||+819012345678|ja|{}|{\"size\": \"L\", \"所属\": \"営業部\"}\n\
         M-2|Lee, \"Ann\"|アン・リー|||+442079460018|en|{\"first_service_on\": \"2020-01-31\"}|{\"所属\": \"2F\\nroom 5\"}"
    );
    // accounts opened before have their records now, and no second account
    club.show("select loyalty.open_account('club', 'M-3')")
        .await?;
    assert_eq!(
        club.import("member_no\nM-3\nM-1\n", "").await?,
        ["inserted 1", "unchanged 1"]
    );
    assert_eq!(
        club.show("select count(*) from loyalty.account").await?,
        "3"
    );
    Ok(())
}

const MIXED: &str = "member_no,name,birth_date,first_service_on\n\
    M-1,Ann,1990-02-30,2024-06-31\n\
    M-2,Bea,,2024-06-30\n\
    \n\
    ,Cid,,\n\
    M-2,Dan,,\n\
    M-4,Eve\n\
    M-5,=cmd|' /C calc'!A0,,\n\
    ,,,\n\
    M-6,Fay,,\n";
const PROBLEMS: [&str; 6] = [
    "2 M-1 birth_date: \"1990-02-30\" is not a day; write 2024-06-20 or 2024/06/20",
    "2 M-1 first_service_on: \"2024-06-31\" is not a day; write 2024-06-20 or 2024/06/20",
    "5 member_no: is empty",
    "6 M-2 member_no: is on row 3 already",
    "7 M-4: has 2 cells, and the header 4",
    "8 M-5 name: begins with '=', so a spreadsheet would run it as a formula",
];

#[tokio::test]
async fn every_bad_row_is_told_and_the_good_ones_are_loaded() -> Result<()> {
    let club = Club::open("import_good").await?;
    let told = [["inserted 2", "refused 5"].as_slice(), &PROBLEMS].concat();
    // told the same before it is done
    assert_eq!(club.import(MIXED, ", dry_run => true").await?, told);
    assert_eq!(club.everything().await?, "0|0||0");
    assert_eq!(club.import(MIXED, "").await?, told);
    assert_eq!(
        club.show("select string_agg(name, ' ' order by name) from loyalty.member")
            .await?,
        "Bea Fay"
    );
    assert_eq!(
        club.show("select count(*) from loyalty.account").await?,
        "2"
    );
    Ok(())
}

#[tokio::test]
async fn all_or_nothing_loads_nothing_when_a_row_is_bad() -> Result<()> {
    let club = Club::open("import_none").await?;
    let told = [["refused 5", "held back 2"].as_slice(), &PROBLEMS].concat();
    for options in [
        ", all_or_nothing => true",
        ", all_or_nothing => true, dry_run => true",
    ] {
        assert_eq!(club.import(MIXED, options).await?, told);
        assert_eq!(club.everything().await?, "0|0||0");
    }
    assert_eq!(
        club.import(ROSTER, ", all_or_nothing => true").await?,
        ["inserted 2"]
    );
    assert_eq!(club.members().await?, LOADED);
    Ok(())
}

#[tokio::test]
async fn a_dry_run_tells_and_writes_nothing() -> Result<()> {
    let club = Club::open("import_dry").await?;
    club.import("member_no,name\nM-1,Ann\nM-2,Bea\n", "")
        .await?;
    let before = club.everything().await?;
    let csv = "member_no,name\nM-1,Ann\nM-2,Bob\nM-3,Cid\n";
    let told = ["inserted 1", "updated 1", "unchanged 1"];
    assert_eq!(club.import(csv, ", dry_run => true").await?, told);
    assert_eq!(club.everything().await?, before);
    assert_eq!(club.import(csv, "").await?, told);
    Ok(())
}

#[tokio::test]
async fn files_in_the_encodings_of_japanese_offices_are_loaded() -> Result<()> {
    let club = Club::open("import_sjis").await?;
    for (encoding, postgres) in [
        ("Shift_JIS", "SJIS"),
        ("cp932", "SJIS"),
        ("EUC-JP", "EUC_JP"),
    ] {
        let file: Vec<u8> = club
            .client
            .query_one("select convert_to($1, $2)", &[&ROSTER, &postgres])
            .await?
            .get(0);
        let options = format!(", encoding => '{encoding}'");
        club.import_file(&file, &options).await?;
        assert_eq!(club.members().await?, LOADED, "{encoding}");
    }
    // what Excel saves as Unicode text with commas
    let utf16: Vec<u8> = format!("\u{FEFF}{ROSTER}")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_eq!(
        club.import_file(&utf16, ", encoding => 'UTF-16LE'").await?,
        ["unchanged 2"]
    );
    Ok(())
}

/// More rows than one statement writes; a problem in a later one changes nothing about the
/// earlier ones, and an unreadable end takes all of them back.
#[tokio::test]
async fn twelve_thousand_rows_are_loaded_in_steps_of_one_transaction() -> Result<()> {
    let club = Club::open("import_many").await?;
    let mut csv = "member_no,name,first_service_on\n".to_owned();
    for number in 1..=12_000 {
        let day = if number == 11_000 {
            32
        } else {
            1 + number % 28
        };
        csv += &format!("M-{number},Name {number},2020-01-{day:02}\n");
    }
    let refused = club
        .unreadable(format!("{csv}M-12001,\"open,\n").as_bytes(), "")
        .await?;
    assert_eq!(refused.code, "22023");
    assert_eq!(
        refused.detail,
        "Row 12002: a quote is opened and not closed."
    );
    let told = club.import(&csv, "").await?;
    assert_eq!(told[..2], ["inserted 11999", "refused 1"]);
    assert_eq!(told.len(), 3);
    assert_eq!(
        club.show("select count(*), count(distinct account_id), min(facts ->> 'first_service_on') from loyalty.member")
            .await?,
        "11999|11999|2020-01-01"
    );
    Ok(())
}

#[tokio::test]
async fn two_imports_at_once_of_the_same_members_both_end_well() -> Result<()> {
    let club = Club::open("import_twice").await?;
    let rows = |names: &str, up: bool| {
        let line = |number: u32| format!("M-{number},{names}\n");
        let lines: String = if up {
            (0..6_000).map(line).collect()
        } else {
            (0..6_000).rev().map(line).collect()
        };
        format!("member_no,name\n{lines}")
    };
    let (first, second) = (club.db.connect().await?, club.db.connect().await?);
    let import = "select sum(row_count) from loyalty.import_members('club', $1)";
    let (up, down) = (rows("Ann", true), rows("Bea", false));
    let up_parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&up];
    let down_parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&down];
    let (one, two) = tokio::join!(
        first.query_one(import, &up_parameters),
        second.query_one(import, &down_parameters)
    );
    one?;
    two?;
    let names = club
        .show("select distinct name, count(*) from loyalty.member group by name")
        .await?;
    assert!(names == "Ann|6000" || names == "Bea|6000", "{names}");
    Ok(())
}

/// C2 to C4 read these facts: whichever way they were written, they are one day.
#[tokio::test]
async fn facts_of_c2_c3_and_c4_come_from_columns() -> Result<()> {
    let club = Club::open("import_facts").await?;
    let csv = "member_no,first_service_on,contract_since,left_on\n\
               M-1,2024/6/20,2015-04-01,\n\
               M-2,２０２４－０６－０１,,2026-03-31\n";
    assert_eq!(club.import(csv, "").await?, ["inserted 2"]);
    assert_eq!(
        club.show(
            "select (facts ->> 'first_service_on')::date, (facts ->> 'contract_since')::date,
                    (facts ->> 'left_on')::date
               from loyalty.member order by account_id"
        )
        .await?,
        "2024-06-20|2015-04-01|\n2024-06-01||2026-03-31"
    );
    Ok(())
}
