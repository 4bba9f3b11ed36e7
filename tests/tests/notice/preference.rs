//! C18: members refuse what they do not want, order received excepted; and by which channel
//! they are reached.

use crate::Club;
use anyhow::Result;

#[tokio::test]
async fn c18_each_kind_can_be_refused_but_order_received() -> Result<()> {
    let club = Club::open("preference").await?;
    let ann = club.ann;
    club.run("select loyalty.set_member('club', 'bob', email => 'bob@example.com')")
        .await?;
    let bob = club
        .number("select loyalty.open_account('club', 'bob')")
        .await?;
    for account in [ann, bob] {
        club.grant(account, 100, "2025-06-20").await?;
    }
    for kind in ["points_received", "balance", "expiry"] {
        club.run(&format!(
            "select loyalty.set_notice_preference({ann}, '{kind}', false)"
        ))
        .await?;
    }
    assert_eq!(
        club.refused(&format!(
            "select loyalty.set_notice_preference({ann}, 'order_received', false)"
        ))
        .await?,
        "22023"
    );
    // nor past the function
    assert_eq!(
        club.refused(&format!(
            "insert into loyalty.notice_preference values ({ann}, 'order_received', false, now())"
        ))
        .await?,
        "23514"
    );
    club.at("2025-06-15 13:00+09").await?;
    club.run(
        "delete from loyalty.notice;
         select loyalty_private.announce_grants(array_agg(account_id), array_agg(account_id << 24 | 1), array_agg(100::bigint), array_agg(null::date))
           from loyalty.account;
         select loyalty.announce_order(account_id, 'A-1', 'Meal voucher', 2, 3000) from loyalty.account",
    )
    .await?;
    assert_eq!(club.queue("balance").await?, 1);
    assert_eq!(club.queue("expiry").await?, 1);
    let kinds = "select string_agg(kind, ' ' order by kind) from loyalty.notice where account_id =";
    assert_eq!(club.row(&format!("{kinds} {ann}")).await?, "order_received");
    assert_eq!(
        club.row(&format!("{kinds} {bob}")).await?,
        "balance expiry order_received points_received"
    );
    // wanted again
    club.run(&format!(
        "select loyalty.set_notice_preference({ann}, 'balance', true)"
    ))
    .await?;
    assert_eq!(club.queue("balance").await?, 1);
    Ok(())
}

/// Refused between queueing and sending: it is not sent. An order's is, whatever the table says.
#[tokio::test]
async fn c18_a_refusal_holds_for_what_is_queued_already() -> Result<()> {
    let club = Club::open("preference_late").await?;
    club.at("2025-06-15 13:00+09").await?;
    assert_eq!(club.queue("balance").await?, 1);
    club.run(&format!(
        "select loyalty.announce_order({}, 'A-1', 'Meal voucher', 1, 500)",
        club.ann
    ))
    .await?;
    club.run(&format!(
        "select loyalty.set_notice_preference({}, 'balance', false)",
        club.ann
    ))
    .await?;
    assert_eq!(
        club.deliver().await?,
        ["ann@example.com|【Sample Club】お申し込みを受け付けました(申込番号: A-1)|t"]
    );
    assert_eq!(
        club.rows("select kind, sent_at is not null, gave_up_at is not null, error from loyalty.notice order by kind")
            .await?,
        ["balance|f|t|the member refused it meanwhile", "order_received|t|f|"]
    );
    Ok(())
}

#[tokio::test]
async fn bad_preferences_are_refused() -> Result<()> {
    let club = Club::open("preference_bad").await?;
    let ann = club.ann;
    for (call, code) in [
        (format!("{ann}, 'nonsense', false"), "22023"),
        (format!("{ann}, null, false"), "22023"),
        (format!("{ann}, 'balance', null"), "22004"),
        ("-1, 'balance', false".to_owned(), "LY002"),
        ("null, 'balance', false".to_owned(), "LY002"),
    ] {
        let sql = format!("select loyalty.set_notice_preference({call})");
        assert_eq!(club.refused(&sql).await?, code, "{call}");
    }
    assert_eq!(
        club.number("select count(*) from loyalty.notice_preference")
            .await?,
        0
    );
    Ok(())
}

/// By mail who has an address; by short message who has a phone only, where the program does
/// that; nobody else, and nobody without a member record.
#[tokio::test]
async fn each_member_is_reached_by_one_channel() -> Result<()> {
    let club = Club::open("channel").await?;
    club.run(
        "select loyalty.set_member('club', 'both', email => 'both@example.com', phone => '+81312345678');
         select loyalty.set_member('club', 'phone', phone => '+81387654321');
         select loyalty.set_member('club', 'neither', name => 'Nobody');
         select loyalty.open_account('club', 'unknown')",
    )
    .await?;
    club.at("2025-06-15 13:00+09").await?;
    let channels = "select a.member_no, n.channel from loyalty.notice n join loyalty.account a using (account_id)
                     order by a.account_id";
    assert_eq!(club.queue("balance").await?, 2);
    assert_eq!(club.rows(channels).await?, ["ann|email", "both|email"]);
    club.run("select loyalty.set_notice_sender('club', sms => 'SampleClub')")
        .await?;
    assert_eq!(club.queue("balance").await?, 1);
    assert_eq!(
        club.rows(channels).await?,
        ["ann|email", "both|email", "phone|sms"]
    );
    assert_eq!(
        club.rows("select channel, address, sender, subject, text_body, html_body is null from loyalty.lease_notices(9, channels => '{sms}')")
            .await?,
        ["sms|+81387654321|SampleClub||【Sample Club】2025年6月15日現在の残高は0coinです。|t"]
    );
    // a closed account has no balance to tell of
    club.run("delete from loyalty.notice; select loyalty.close_account(loyalty.open_account('club', 'both'))")
        .await?;
    assert_eq!(club.queue("balance").await?, 2);
    Ok(())
}

/// "Why did no mail come?" has an answer for each kind.
#[tokio::test]
async fn explain_notices_tells_why() -> Result<()> {
    let club = Club::open("explain").await?;
    let ann = club.ann;
    assert_eq!(
        answers(&club, ann).await?,
        [
            "points_received|sent by email||",
            "balance|sent by email||",
            "expiry|no points lapse within 7 days||",
            "order_received|sent by email||"
        ]
    );
    club.grant(ann, 10, "2025-06-16").await?;
    club.run(&format!(
        "delete from loyalty.notice;
         select loyalty.set_notice('club', 'points_received', is_enabled => false);
         select loyalty.set_notice_preference({ann}, 'balance', false);
         select loyalty.announce_order({ann}, 'A-1', 'Voucher', 1, 5);
         select loyalty.notice_failed(notice_id, attempt, '550 no <ann@example.com> here', true)
           from loyalty.lease_notices(1)"
    ))
    .await?;
    assert_eq!(
        answers(&club, ann).await?,
        [
            "points_received|the program does not send it||",
            "balance|the member refused it||",
            "expiry|sent by email||",
            "order_received|sent by email|given up|550 no <(address)> here"
        ]
    );
    for (member, answer) in [
        (
            "select loyalty.open_account('club', 'unknown')",
            "there is no member record, and so no address",
        ),
        (
            "select account_id from loyalty.set_member('club', 'neither', name => 'N')",
            "the member has no address",
        ),
        (
            "select account_id from loyalty.set_member('club', 'phone', phone => '+81312345678')",
            "the program has no sender for the member's address",
        ),
    ] {
        let account = club.number(member).await?;
        let told = answers(&club, account).await?;
        assert_eq!(told[1], format!("balance|{answer}||"));
    }
    assert_eq!(
        club.refused(&EXPLAIN.replace("ACCOUNT", "-1")).await?,
        "LY002"
    );
    Ok(())
}

const EXPLAIN: &str =
    "select kind, answer, last_state, error from loyalty.explain_notices(ACCOUNT)";

async fn answers(club: &Club, account: i64) -> Result<Vec<String>> {
    club.rows(&EXPLAIN.replace("ACCOUNT", &account.to_string()))
        .await
}
