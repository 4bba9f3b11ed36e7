//! Members by COPY: all rows or none.

use crate::Club;
use anyhow::{Result, bail};
use loyalty_tests::Refusal;
use std::pin::pin;
use tokio_postgres::Client;

/// `copy loyalty.member_upload` of a file with a header.
async fn copy(client: &Client, csv: &str) -> Result<u64, tokio_postgres::Error> {
    let columns = csv.lines().next().unwrap_or_default();
    let sql = format!("copy loyalty.member_upload ({columns}) from stdin (format csv, header)");
    let sink = client.copy_in(&sql).await?;
    let mut sink = pin!(sink);
    use futures_util::SinkExt as _;
    sink.send(bytes::Bytes::copy_from_slice(csv.as_bytes()))
        .await?;
    sink.finish().await
}

async fn refused(club: &Club, csv: &str) -> Result<Refusal> {
    let before = club.everything().await?;
    let refused = match copy(&club.client, csv).await {
        Ok(rows) => bail!("{rows} rows were taken"),
        Err(error) => Refusal::of(&error)?,
    };
    assert_eq!(club.everything().await?, before, "something was written");
    Ok(refused)
}

#[tokio::test]
async fn copy_loads_members_and_leaves_nothing_behind() -> Result<()> {
    let club = Club::open("copy").await?;
    let csv = "member_no,name,birth_date,first_service_on\n\
               M-1,\"Lee, \"\"Ann\"\"\",1990/4/1,2024/6/20\n\
               M-2,Bea,,\n";
    for _ in 0..2 {
        assert_eq!(copy(&club.client, csv).await?, 2);
        assert_eq!(
            club.members().await?,
            "M-1|Lee, \"Ann\"||1990-04-01|||ja|{\"first_service_on\": \"2024-06-20\"}|{}\n\
             M-2|Bea|||||ja|{}|{}"
        );
        assert_eq!(
            club.show("select count(*) from loyalty.member_upload")
                .await?,
            "0"
        );
    }
    // a column that is not there, or empty throughout, leaves as is; an empty cell empties
    copy(
        &club.client,
        "member_no,name,first_service_on\nM-1,,\nM-2,,2020-01-31\n",
    )
    .await?;
    assert_eq!(
        club.members().await?,
        "M-1|Lee, \"Ann\"||1990-04-01|||ja|{}|{}\n\
         M-2|Bea|||||ja|{\"first_service_on\": \"2020-01-31\"}|{}"
    );
    assert_eq!(copy(&club.client, "member_no,name\n").await?, 0);
    Ok(())
}

#[tokio::test]
async fn copy_refuses_all_rows_for_a_bad_one_and_says_where() -> Result<()> {
    let club = Club::open("copy_refused").await?;
    let refusal = refused(
        &club,
        "member_no,name,first_service_on\nM-1,Ann,2024-06-20\nM-2,=1,2024-06-31\nM-1,Ann,\n",
    )
    .await?;
    assert_eq!(refusal.code, "22023");
    assert_eq!(
        refusal.detail,
        "Row 3, name begins with '=', so a spreadsheet would run it as a formula. \
         Row 3, first_service_on \"2024-06-31\" is not a day; write 2024-06-20 or 2024/06/20. \
         Row 4, member_no is on row 2 already."
    );
    assert!(!refusal.hint.is_empty());
    // rows without a number, an unknown program, two programs, no program where there are two
    assert_eq!(
        refused(&club, "member_no,name\n,Ann\n").await?.code,
        "22023"
    );
    assert_eq!(
        refused(&club, "program,member_no\nnone,M-1\n").await?.code,
        "LY002"
    );
    club.show("select loyalty.create_program(code => 'mile', name => 'Mile')")
        .await?;
    assert_eq!(refused(&club, "member_no\nM-1\n").await?.code, "22004");
    assert_eq!(
        refused(&club, "program,member_no\nclub,M-1\nmile,M-1\n")
            .await?
            .code,
        "22023"
    );
    copy(&club.client, "program,member_no\nmile,M-1\n").await?;
    assert_eq!(
        club.show("select p.code from loyalty.member m join loyalty.program p using (program_id)")
            .await?,
        "mile"
    );
    Ok(())
}
