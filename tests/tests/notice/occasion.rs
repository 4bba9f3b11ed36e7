//! C18: what is queued, on which days, at what times, and only once.

use crate::{Club, queue};
use anyhow::Result;
use loyalty_testkit::TestDb;
use loyalty_tests::rows;

/// From 7 days before the last day through that day: eight mails. What lapses later is not in
/// them, and the day after nothing is.
#[tokio::test]
async fn c18_an_expiry_notice_comes_on_eight_days() -> Result<()> {
    let club = Club::open("expiry_eight").await?;
    club.grant(club.ann, 1500, "2025-06-30").await?;
    club.grant(club.ann, 500, "2025-07-31").await?;
    let mut expected = Vec::new();
    for day in 20..=30 {
        club.at(&format!("2025-06-{day} 08:45+09")).await?;
        let due = i64::from(day >= 23);
        assert_eq!(club.queue("expiry").await?, due, "2025-06-{day}");
        assert_eq!(club.queue("expiry").await?, 0, "again on 2025-06-{day}");
        if day >= 23 {
            expected.push(format!("2025-06-{day}|1500|2025-06-30|1500"));
        }
    }
    club.at("2025-07-01 08:45+09").await?;
    assert_eq!(club.queue("expiry").await?, 0);
    assert_eq!(expected.len(), 8);
    assert_eq!(club.told(club.ann, "expiry").await?, expected);
    // by the texts: 7 days to go on the first, the day itself on the last
    club.run("delete from loyalty.notice").await?;
    for (day, subject) in [
        (23, "2025年6月30日に有効期限を迎えるcoinがございます"),
        (30, "本日有効期限を迎えるcoinがございます"),
    ] {
        club.at(&format!("2025-06-{day} 08:45+09")).await?;
        club.queue("expiry").await?;
        assert_eq!(
            club.deliver().await?,
            [format!("ann@example.com|【Sample Club】{subject}|t")]
        );
    }
    Ok(())
}

#[tokio::test]
async fn c18_spending_ends_the_expiry_notices() -> Result<()> {
    let club = Club::open("expiry_spent").await?;
    club.grant(club.ann, 1500, "2025-06-30").await?;
    club.grant(club.ann, 500, "2025-07-02").await?;
    club.at("2025-06-24 08:45+09").await?;
    assert_eq!(club.queue("expiry").await?, 1);
    club.run(&format!("select loyalty.spend_fifo({}, 1000)", club.ann))
        .await?;
    club.at("2025-06-25 08:45+09").await?;
    assert_eq!(club.queue("expiry").await?, 1);
    club.run(&format!("select loyalty.spend_fifo({}, 500)", club.ann))
        .await?;
    // the first lot is empty; the second one is within 7 days
    club.at("2025-06-26 08:45+09").await?;
    assert_eq!(club.queue("expiry").await?, 1);
    club.run(&format!("select loyalty.spend_fifo({}, 500)", club.ann))
        .await?;
    club.at("2025-06-27 08:45+09").await?;
    assert_eq!(club.queue("expiry").await?, 0);
    assert_eq!(
        club.told(club.ann, "expiry").await?,
        [
            "2025-06-24|1500|2025-06-30|1500",
            "2025-06-25|1000|2025-06-30|500",
            "2025-06-26|500|2025-07-02|500"
        ]
    );
    assert_eq!(
        club.rows(
            "select lot_expires_on, lot_points from loyalty.notice where occasion = '2025-06-25'"
        )
        .await?,
        ["{2025-06-30,2025-07-02}|{500,500}"]
    );
    Ok(())
}

/// Points that an open hold pins do not lapse and are not available (law 8).
#[tokio::test]
async fn held_points_are_not_told_of() -> Result<()> {
    let club = Club::open("expiry_held").await?;
    club.grant(club.ann, 100, "2025-06-30").await?;
    club.grant(club.ann, 100, "2025-07-01").await?;
    club.at("2025-06-26 08:45+09").await?;
    club.run(&format!(
        "select loyalty.hold({}, 130, expires_in => '1 day')",
        club.ann
    ))
    .await?;
    club.queue("expiry").await?;
    club.queue("balance").await?;
    // a hold past its time counts as released, whether or not it was swept
    club.at("2025-06-27 08:45+09").await?;
    club.queue("expiry").await?;
    club.queue("balance").await?;
    let expected = |kind| club.told(club.ann, kind);
    assert_eq!(
        expected("expiry").await?,
        [
            "2025-06-26|70|2025-07-01|70",
            "2025-06-27|200|2025-06-30|100"
        ]
    );
    assert_eq!(
        expected("balance").await?,
        [
            "2025-06-26|70|2025-07-01|70",
            "2025-06-27|200|2025-06-30|100"
        ]
    );
    Ok(())
}

/// Several sessions at once queue each notice once, and nobody is passed over.
#[tokio::test]
async fn at_once_is_once() -> Result<()> {
    let club = Club::open("queue_at_once").await?;
    club.run(
        "select loyalty.set_member('club', 'm' || n, email => format('m%s@example.com', n))
           from generate_series(1, 50) n;
         select loyalty.grant(account_id, 10, expires_on => '2025-06-15') from loyalty.account",
    )
    .await?;
    club.run("delete from loyalty.notice").await?;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let session = club.db.connect().await?;
        session
            .batch_execute("set loyalty.clock = '2025-06-15 13:00+09'")
            .await?;
        sessions.push(tokio::spawn(async move {
            Ok::<_, anyhow::Error>((
                queue(&session, "club", "balance").await?,
                queue(&session, "club", "expiry").await?,
            ))
        }));
    }
    let (mut balances, mut expiries) = (0, 0);
    for session in sessions {
        let (balance, expiry) = session.await??;
        balances += balance;
        expiries += expiry;
    }
    assert_eq!((balances, expiries), (51, 51));
    assert_eq!(
        club.rows(
            "select kind, occasion, count(*), count(distinct account_id), sum(points)
                     from loyalty.notice group by kind, occasion order by kind"
        )
        .await?,
        [
            "balance|2025-06-15|51|51|510",
            "expiry|2025-06-15|51|51|510"
        ]
    );
    Ok(())
}

/// What the balance mail tells is what can be spent, and what lapses next.
#[tokio::test]
async fn c18_balance_tells_what_is_available() -> Result<()> {
    let club = Club::open("balance_figures").await?;
    for (member, grants, expected) in [
        ("none", vec![], "0||"),
        ("never", vec![(10, "")], "10||"),
        (
            "lapsed",
            vec![(10, "2025-06-14"), (5, "2025-06-15")],
            "5|2025-06-15|5",
        ),
        (
            "several",
            vec![(10, "2025-06-30"), (7, "2025-07-31"), (3, "")],
            "20|2025-06-30|10",
        ),
    ] {
        let account = club
            .number(&format!(
                "select account_id from loyalty.set_member('club', '{member}', email => '{member}@example.com')"
            ))
            .await?;
        for (points, day) in grants {
            club.grant(account, points, day).await?;
        }
        club.at("2025-06-15 13:00+09").await?;
        club.queue("balance").await?;
        assert_eq!(
            club.told(account, "balance").await?,
            [format!("2025-06-15|{expected}")],
            "{member}"
        );
        // the ledger's own answer
        assert_eq!(
            club.row(&format!(
                "select available, next_expiry_on, next_expiry_points from loyalty.balance({account})"
            ))
            .await?,
            expected
        );
        club.at("2025-06-10 10:00+09").await?;
    }
    Ok(())
}

/// The 1st and 15th at 13:00, where the program is; also over a change of its clocks.
#[tokio::test]
async fn c18_occasions_are_of_the_programs_time_zone() -> Result<()> {
    let db = TestDb::create("occasion_zone").await?;
    let client = db.connect().await?;
    client
        .batch_execute("set datestyle = 'ISO'; set timezone = 'UTC'; set loyalty.clock = '2025-01-01 00:00+00'")
        .await?;
    for (zone, expected) in [
        (
            "Asia/Tokyo",
            [
                "2025-03-01|2025-03-01 04:00:00+00",
                "2025-03-15|2025-03-15 04:00:00+00",
                "2025-04-01|2025-04-01 04:00:00+00",
            ],
        ),
        (
            "America/New_York",
            [
                "2025-03-01|2025-03-01 18:00:00+00",
                "2025-03-15|2025-03-15 17:00:00+00",
                "2025-04-01|2025-04-01 17:00:00+00",
            ],
        ),
        (
            "Pacific/Kiritimati",
            [
                "2025-03-01|2025-02-28 23:00:00+00",
                "2025-03-15|2025-03-14 23:00:00+00",
                "2025-04-01|2025-03-31 23:00:00+00",
            ],
        ),
    ] {
        let id = program(&client, zone).await?;
        let mut after = "2025-02-20 00:00+00".to_owned();
        for expected in expected {
            let next = rows(
                &client,
                &format!(
                    "select period, due_at from loyalty.next_notice({id}, 'balance', '{after}')"
                ),
            )
            .await?;
            assert_eq!(next, [expected], "{zone} after {after}");
            after = expected.split('|').nth(1).unwrap_or_default().to_owned();
        }
        // daily: strictly after, even at the moment itself
        let daily = format!("select period from loyalty.next_notice({id}, 'expiry', due)");
        let moments = format!(
            "timezone('{zone}', timestamp '2025-06-10 08:44:59.999999'), timezone('{zone}', timestamp '2025-06-10 08:45')"
        );
        let next = rows(
            &client,
            &format!("select n.period from unnest(array[{moments}]) due cross join lateral ({daily}) n order by 1"),
        )
        .await?;
        assert_eq!(next, ["2025-06-10", "2025-06-11"], "{zone}");
        // what is told depends on the program's day, not on the session's
        client
            .batch_execute(&format!(
                "select set_config('loyalty.clock', timezone('{zone}', timestamp '2025-06-15 00:30')::text, false)"
            ))
            .await?;
        assert_eq!(
            queue(
                &client,
                zone.rsplit('/').next().unwrap_or_default(),
                "balance"
            )
            .await?,
            1
        );
        let told = rows(
            &client,
            &format!("select occasion from loyalty.notice where program_id = {id}"),
        )
        .await?;
        assert_eq!(told, ["2025-06-15"], "{zone}");
        client
            .batch_execute("set loyalty.clock = '2025-01-01 00:00+00'")
            .await?;
    }
    Ok(())
}

/// A program named as the last part of its zone, with one member; its number.
async fn program(client: &tokio_postgres::Client, zone: &str) -> Result<i32> {
    let code = zone.rsplit('/').next().unwrap_or_default();
    client
        .batch_execute(&format!(
            "select loyalty.create_program('{code}', '{code}', time_zone => '{zone}');
             select loyalty.set_notice_sender('{code}', email => 'points@example.com');
             select loyalty.enable_notices('{code}');
             select loyalty.set_member('{code}', 'm', email => 'm@example.com')"
        ))
        .await?;
    Ok(rows(client, &format!("select loyalty.program_id('{code}')")).await?[0].parse()?)
}

/// A month's missing day is its last; a kind that is off has no occasions.
#[tokio::test]
async fn days_that_a_month_does_not_have() -> Result<()> {
    let club = Club::open("occasion_31").await?;
    let id = club.number("select loyalty.program_id('club')").await?;
    club.run("select loyalty.set_notice('club', 'balance', days_of_month => '{31,30,10}', at => '00:00')")
        .await?;
    let mut days = Vec::new();
    let mut after = "2027-01-20 00:00+09".to_owned();
    for _ in 0..6 {
        let next = club
            .row(&format!(
                "select period, due_at from loyalty.next_notice({id}, 'balance', '{after}')"
            ))
            .await?;
        let (day, due) = next.split_once('|').unwrap_or_default();
        days.push(day.to_owned());
        after = due.to_owned();
    }
    assert_eq!(
        days,
        [
            "2027-01-30",
            "2027-01-31",
            "2027-02-10",
            "2027-02-28",
            "2027-03-10",
            "2027-03-30"
        ]
    );
    club.run("select loyalty.set_notice('club', 'balance', is_enabled => false)")
        .await?;
    for kind in ["balance", "points_received", "order_received", "nonsense"] {
        let sql = format!(
            "select period from loyalty.next_notice({id}, '{kind}', '2027-01-20 00:00+09')"
        );
        assert!(club.rows(&sql).await?.is_empty(), "{kind}");
    }
    Ok(())
}

/// Only for today: a run that comes too late, or too early, tells nobody anything.
#[tokio::test]
async fn another_day_queues_nothing() -> Result<()> {
    let club = Club::open("queue_day").await?;
    club.grant(club.ann, 10, "2025-06-15").await?;
    club.at("2025-06-15 13:00+09").await?;
    for kind in ["balance", "expiry"] {
        for day in ["2025-06-14", "2025-06-16"] {
            let sql = format!(
                "select last_account, queued from loyalty_private.queue_{kind}_notices(loyalty.program_id('club'), '{day}', null, 10)"
            );
            assert_eq!(club.row(&sql).await?, "|0", "{kind} {day}");
        }
    }
    club.run("select loyalty.set_notice('club', 'balance', is_enabled => false)")
        .await?;
    assert_eq!(club.queue("balance").await?, 0);
    Ok(())
}

/// The outbox is in the transaction of what it tells of: both or neither, and each once.
#[tokio::test]
async fn c18_points_received_with_the_grant_or_not_at_all() -> Result<()> {
    let club = Club::open("received").await?;
    let grant = format!(
        "select loyalty.grant({}, 2000, 'Anniversary', idempotency_key => 'k')",
        club.ann
    );
    club.run("begin").await?;
    club.run(&grant).await?;
    assert_eq!(club.told(club.ann, "points_received").await?.len(), 1);
    club.run("rollback").await?;
    assert_eq!(club.told(club.ann, "points_received").await?, [""; 0]);
    // repeated with its key: one grant, one notice
    club.run(&grant).await?;
    club.run(&grant).await?;
    let operation = (club.ann << 24) | 1;
    assert_eq!(
        club.told(club.ann, "points_received").await?,
        [format!("{operation}|2000|2028-06-30|")]
    );
    let body = club
        .row("select replace(text_body, e'\\n', ' ') from loyalty.lease_notices(10)")
        .await?;
    for part in [
        "山田 花子 様",
        "Anniversary",
        "2,000coin",
        "2028年6月30日(金)まで",
    ] {
        assert!(body.contains(part), "{part} in {body}");
    }
    // the same operation, announced by whom ever: known already
    club.run(&format!(
        "select loyalty_private.announce_grants('{{{}}}', '{{{operation}}}', '{{2000}}', '{{2028-06-30}}')",
        club.ann
    ))
    .await?;
    assert_eq!(club.told(club.ann, "points_received").await?.len(), 1);
    Ok(())
}

/// Every way of granting announces: one, many, each of a rule's; points that never lapse too.
#[tokio::test]
async fn c18_each_way_of_granting_announces() -> Result<()> {
    let club = Club::open("received_ways").await?;
    let ann = club.ann;
    club.grant(ann, 1, "").await?;
    club.run(&format!(
        "select loyalty.grant_many('[{{\"account_id\": {ann}, \"points\": 2}}, {{\"account_id\": {ann}, \"points\": -5}}]');
         select loyalty_private.grant_each('{{{ann},{ann}}}', '{{3,4}}', 'r', '2025-06-10', '2025-06-30', '{{a,b}}');
         select loyalty.set_notice('club', 'points_received', is_enabled => false);
         select loyalty.grant({ann}, 5)"
    ))
    .await?;
    assert_eq!(
        club.rows("select points, expires_on from loyalty.notice order by points")
            .await?,
        ["1|", "2|2028-06-30", "3|2025-06-30", "4|2025-06-30"]
    );
    Ok(())
}

/// The whole way: ticks from four sessions at once, minute by minute around the hours, over nine
/// days; each member is told once a day of what lapses, and once of the balance.
#[tokio::test]
async fn c18_told_on_time_and_once_by_the_schedule() -> Result<()> {
    let club = Club::open("schedule").await?;
    club.run(
        "select loyalty.set_member('club', 'bob', email => 'bob@example.com');
         select loyalty.grant(account_id, 100, expires_on => '2025-06-20') from loyalty.account;
         delete from loyalty.notice",
    )
    .await?;
    let told = "select count(*) from loyalty.notice where kind =";
    let (mut expiries, mut balances) = (0, 0);
    for day in 12..=21 {
        for time in ["08:44:59", "08:45:00", "12:59:59", "13:00:00", "23:59:00"] {
            let clock = format!("2025-06-{day} {time}+09");
            let mut ticks = Vec::new();
            for _ in 0..4 {
                let session = club.db.connect().await?;
                session
                    .batch_execute(&format!("set loyalty.clock = '{clock}'"))
                    .await?;
                ticks.push(tokio::spawn(async move {
                    session.batch_execute("call loyalty.tick(1)").await
                }));
            }
            for tick in ticks {
                tick.await??;
            }
            if time == "08:45:00" && (13..=20).contains(&day) {
                expiries += 2;
            }
            if time == "13:00:00" && day == 15 {
                balances += 2;
            }
            assert_eq!(
                (
                    club.number(&format!("{told} 'expiry'")).await?,
                    club.number(&format!("{told} 'balance'")).await?
                ),
                (expiries, balances),
                "{clock}"
            );
        }
    }
    assert_eq!((expiries, balances), (16, 2));
    assert_eq!(
        club.rows("select distinct count(*) from loyalty.notice group by account_id")
            .await?,
        ["9"]
    );
    Ok(())
}
