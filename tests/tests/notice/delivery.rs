//! The outbox as a relay uses it: leases, reports, further attempts, giving up. Delivery goes
//! by the machine's clock, so these tests move rows instead of time.

use crate::Club;
use anyhow::Result;
use loyalty_tests::{rows, sqlstate};

/// One notice for each of so many members `m1`, `m2`, …, all due; ann has none.
async fn queued(name: &str, members: i32) -> Result<Club> {
    let club = Club::open(name).await?;
    club.run(&format!(
        "delete from loyalty.member;
         select loyalty.set_member('club', 'm' || n, email => format('m%s@example.com', n))
           from generate_series(1, {members}) n"
    ))
    .await?;
    club.at("2025-06-15 13:00+09").await?;
    assert_eq!(club.queue("balance").await?, i64::from(members));
    Ok(club)
}

/// As if the lease or the wait of every notice were over.
async fn time_passes(club: &Club) -> Result<()> {
    club.run("update loyalty.notice set due_at = clock_timestamp() - interval '1 second' where due_at is not null")
        .await
}

#[tokio::test]
async fn a_claim_is_a_lease_with_one_message_id() -> Result<()> {
    let club = queued("claim_lease", 2).await?;
    let claim =
        "select notice_id, channel, address, sender, subject, message_id, attempt, unsubscribe
                   from loyalty.lease_notices(10, '10 minutes') order by notice_id";
    let first = club.rows(claim).await?;
    assert_eq!(first.len(), 2);
    assert!(first[0].contains(
        "|email|m1@example.com|Sample Club <points@example.com>|【Sample Club】coin残高のお知らせ|"
    ));
    assert!(first[0].ends_with("@example.com|1|"), "{first:?}");
    assert_eq!(
        club.rows("select due_at - leased_at from loyalty.notice")
            .await?,
        ["00:10:00", "00:10:00"]
    );
    // leased: not there for anybody else
    assert_eq!(club.rows(claim).await?, [""; 0]);
    // the relay died: taken again, as the same message
    time_passes(&club).await?;
    let again = club.rows(claim).await?;
    assert_eq!(
        again,
        first
            .iter()
            .map(|row| row.replace("|1|", "|2|"))
            .collect::<Vec<_>>()
    );
    let ids = club
        .number("select count(distinct message_id) from loyalty.notice")
        .await?;
    assert_eq!(ids, 2);
    // what comes from an address that changed meanwhile is still the same message
    club.run("select loyalty.set_notice_sender('club', email => 'other@example.org', preferences_url => 'https://example.org/me')")
        .await?;
    time_passes(&club).await?;
    let moved = club
        .row("select message_id, sender, unsubscribe from loyalty.lease_notices(1)")
        .await?;
    assert!(
        first
            .iter()
            .any(|row| row.contains(moved.split('|').next().unwrap_or("?")))
    );
    assert!(
        moved.ends_with("|other@example.org|https://example.org/me"),
        "{moved}"
    );
    Ok(())
}

/// Order received cannot be refused (C18), so it offers no way to.
#[tokio::test]
async fn c18_only_what_can_be_refused_says_where() -> Result<()> {
    let club = Club::open("claim_unsubscribe").await?;
    club.run(&format!(
        "select loyalty.set_notice_sender('club', preferences_url => 'https://example.com/me');
         select loyalty.announce_order({0}, 'A-1', 'Voucher', 1, 5);
         select loyalty_private.announce_grants('{{{0}}}', '{{77}}', '{{5}}', '{{infinity}}')",
        club.ann
    ))
    .await?;
    assert_eq!(
        club.rows(
            "select c.subject, c.unsubscribe from loyalty.lease_notices(5) c order by 2 nulls first"
        )
        .await?,
        [
            "【Sample Club】お申し込みを受け付けました(申込番号: A-1)|",
            "【Sample Club】5coinを付与いたしました|https://example.com/me"
        ]
    );
    Ok(())
}

#[tokio::test]
async fn relays_at_once_share_the_work() -> Result<()> {
    let club = queued("claim_at_once", 40).await?;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let session = club.db.connect().await?;
        sessions.push(tokio::spawn(async move {
            let mut taken = Vec::new();
            loop {
                let some = rows(&session, "select address from loyalty.lease_notices(3)").await?;
                if some.is_empty() {
                    return Ok::<_, anyhow::Error>(taken);
                }
                taken.extend(some);
            }
        }));
    }
    let mut taken = Vec::new();
    for session in sessions {
        taken.extend(session.await??);
    }
    taken.sort();
    let mut expected: Vec<String> = (1..=40).map(|n| format!("m{n}@example.com")).collect();
    expected.sort();
    assert_eq!(taken, expected);
    // while one's claim is not committed, another passes by
    time_passes(&club).await?;
    let other = club.db.connect().await?;
    club.run("begin").await?;
    let mine = club
        .rows("select notice_id from loyalty.lease_notices(30)")
        .await?;
    let theirs = rows(&other, "select notice_id from loyalty.lease_notices(30)").await?;
    assert_eq!((mine.len(), theirs.len()), (30, 10));
    assert!(mine.iter().all(|id| !theirs.contains(id)));
    club.run("rollback").await?;
    assert_eq!(
        rows(&other, "select notice_id from loyalty.lease_notices(1000)")
            .await?
            .len(),
        30
    );
    Ok(())
}

/// What a server has taken is sent, whichever attempt says so.
#[tokio::test]
async fn a_late_report_counts() -> Result<()> {
    let club = queued("claim_late", 1).await?;
    let id = club
        .number("select notice_id from loyalty.lease_notices(1)")
        .await?;
    time_passes(&club).await?;
    assert_eq!(
        club.row("select attempt from loyalty.lease_notices(1)")
            .await?,
        "2"
    );
    // attempt 1 cannot fail what attempt 2 is at
    let failed = |attempt: i32| format!("select loyalty.notice_failed({id}, {attempt}, 'x', true)");
    let sent = |attempt: i32| format!("select loyalty.notice_sent({id}, {attempt})");
    assert_eq!(club.row(&failed(1)).await?, "f");
    assert_eq!(
        club.row("select leased_at is not null from loyalty.notice")
            .await?,
        "t"
    );
    assert_eq!(club.row(&sent(1)).await?, "t");
    assert_eq!(club.row(&sent(2)).await?, "f");
    assert_eq!(club.row(&failed(2)).await?, "f");
    let state = "select loyalty.notice_state(attempts, leased_at, sent_at, gave_up_at), due_at, error from loyalty.notice";
    assert_eq!(club.row(state).await?, "sent||");
    // an attempt that never was says nothing
    club.run("update loyalty.notice set sent_at = null, due_at = clock_timestamp()")
        .await?;
    assert_eq!(club.row(&sent(3)).await?, "f");
    Ok(())
}

/// 1, 2, 4, … times the first wait, never more than the longest, less up to a half by chance;
/// then it is given up, and one can see it.
#[tokio::test]
async fn failures_wait_longer_each_time_and_are_given_up() -> Result<()> {
    let club = queued("claim_backoff", 1).await?;
    club.run("select loyalty.set_notice_sender('club', max_attempts => 5, first_retry => '1 hour', longest_retry => '3 hours')")
        .await?;
    for (attempt, hours) in [(1, 1.0), (2, 2.0), (3, 3.0), (4, 3.0)] {
        assert_eq!(
            club.row(
                "select attempt, loyalty.notice_failed(notice_id, attempt, '451 later, m1@example.com', false)
                   from loyalty.lease_notices(1)"
            )
            .await?,
            format!("{attempt}|t")
        );
        // the wait began within this test, which lasts less than an hour's half
        let wait: f64 = club
            .row("select extract(epoch from due_at - clock_timestamp()) / 3600 from loyalty.notice")
            .await?
            .parse()?;
        assert!(
            wait > hours / 2.0 - 0.25 && wait <= hours,
            "attempt {attempt}: {wait} hours"
        );
        assert_eq!(
            club.row("select attempts, gave_up_at, error from loyalty.notice_problem")
                .await?,
            format!("{attempt}||451 later, (address)")
        );
        time_passes(&club).await?;
    }
    club.run("select loyalty.notice_failed(notice_id, attempt, '451 later', false) from loyalty.lease_notices(1)")
        .await?;
    assert_eq!(
        club.row(
            "select attempts, gave_up_at is not null, due_at, error from loyalty.notice_problem"
        )
        .await?,
        "5|t||451 later"
    );
    assert_eq!(
        club.rows("select 1 from loyalty.lease_notices(1)").await?,
        [""; 0]
    );
    // mended: another go, as often again
    assert_eq!(
        club.number("select loyalty.retry_notices('club', now() - interval '1 day')")
            .await?,
        1
    );
    assert_eq!(
        club.number("select loyalty.retry_notices('club', now() - interval '1 day')")
            .await?,
        0
    );
    assert_eq!(
        club.row(
            "select attempt, loyalty.notice_sent(notice_id, attempt) from loyalty.lease_notices(1)"
        )
        .await?,
        "1|t"
    );
    assert_eq!(
        club.rows("select 1 from loyalty.notice_problem").await?,
        [""; 0]
    );
    Ok(())
}

#[tokio::test]
async fn a_permanent_failure_is_given_up_at_once() -> Result<()> {
    let club = queued("claim_permanent", 2).await?;
    club.run("select loyalty.notice_failed(notice_id, attempt, '550 5.1.1 <m1@example.com>: no such user', true)
                from loyalty.lease_notices(1)")
        .await?;
    assert_eq!(
        club.rows("select member_no, kind, occasion, attempts, error from loyalty.notice_problem")
            .await?,
        ["m1|balance|2025-06-15|1|550 5.1.1 <(address)>: no such user"]
    );
    assert_eq!(club.deliver().await?.len(), 1);
    Ok(())
}

/// A relay that stops, or whose server is down, gives its leases back uncounted.
#[tokio::test]
async fn released_notices_are_due_at_once() -> Result<()> {
    let club = queued("claim_release", 3).await?;
    club.run("create temp table mine as select notice_id, attempt from loyalty.lease_notices(2)")
        .await?;
    let release =
        "select loyalty.return_notices(array_agg(notice_id), array_agg(attempt)) from mine";
    assert_eq!(club.number(release).await?, 2);
    assert_eq!(club.number(release).await?, 0);
    assert_eq!(
        club.rows("select distinct attempt from loyalty.lease_notices(10)")
            .await?,
        ["1"]
    );
    Ok(())
}

/// A template that fails for one member fails for that member: the claim goes on.
#[tokio::test]
async fn what_cannot_be_filled_in_stops_nothing() -> Result<()> {
    let club = queued("claim_render", 3).await?;
    // set_template would refuse these; a superuser's update does not ask it
    club.run(
        "select loyalty.set_member('club', 'm2', language => 'xx');
         insert into loyalty.notice_template (program_id, kind, language, subject, text_body)
         values (loyalty.program_id('club'), 'balance', 'xx', 'Hello', e'One\\n{{ member.name }}');
         select loyalty.set_member('club', 'm3', email => '')",
    )
    .await?;
    let claimed = club
        .rows("select address from loyalty.lease_notices(2)")
        .await?;
    assert_eq!(claimed, ["m1@example.com"]);
    assert_eq!(
        club.rows("select member_no, gave_up_at, due_at is not null, error from loyalty.notice_problem order by 1")
            .await?,
        [
            "m2||t|template, text_body line 2: undefined value: a value that is not there is written",
            "m3||t|the member has no address for email"
        ]
    );
    // once mended, the next attempt sends it
    club.run("select loyalty.set_member('club', 'm2', name => 'Two')")
        .await?;
    time_passes(&club).await?;
    assert!(
        club.rows("select address, attempt from loyalty.lease_notices(10)")
            .await?
            .contains(&"m2@example.com|2".to_owned())
    );
    Ok(())
}

/// Whatever the texts of others do, each claim sends as many as were asked for.
#[tokio::test]
async fn too_late_is_given_up_and_makes_room() -> Result<()> {
    let club = queued("claim_too_late", 6).await?;
    club.run(
        "update loyalty.notice set send_by = clock_timestamp() - interval '1 second'
          where account_id in (select account_id from loyalty.member where email < 'm5')",
    )
    .await?;
    assert_eq!(
        club.rows("select address from loyalty.lease_notices(2)")
            .await?,
        ["m5@example.com", "m6@example.com"]
    );
    assert_eq!(
        club.rows("select distinct error, gave_up_at is not null from loyalty.notice_problem")
            .await?,
        ["its time is over|t"]
    );
    Ok(())
}

/// An expiry notice is over with its day, by however much the day has left.
#[tokio::test]
async fn an_expiry_notice_does_not_outlast_its_day() -> Result<()> {
    let club = Club::open("claim_expiry_day").await?;
    club.grant(club.ann, 10, "2025-06-16").await?;
    club.at("2025-06-15 22:45+09").await?;
    club.queue("balance").await?;
    club.queue("expiry").await?;
    assert_eq!(
        club.rows("select kind, send_by - due_at from loyalty.notice where kind <> 'points_received' order by kind")
            .await?,
        ["balance|1 day", "expiry|01:15:00"]
    );
    // given up: of yesterday, it stays so; another kind has another go
    club.run("update loyalty.notice set due_at = null, gave_up_at = clock_timestamp()")
        .await?;
    club.at("2025-06-16 08:00+09").await?;
    assert_eq!(
        club.number("select loyalty.retry_notices('club', '-infinity', 'expiry')")
            .await?,
        0
    );
    assert_eq!(
        club.number("select loyalty.retry_notices('club', '-infinity', 'balance')")
            .await?,
        1
    );
    Ok(())
}

/// What just happened to one member goes before a million balance mails.
#[tokio::test]
async fn urgent_ones_go_first_and_channels_apart() -> Result<()> {
    let club = queued("claim_urgent", 3).await?;
    club.run(
        "select loyalty.set_notice_sender('club', sms => 'Club');
         select loyalty.set_member('club', 'phone', phone => '+81312345678');
         select loyalty.announce_order(loyalty.open_account('club', 'm3'), 'A-1', 'Voucher', 1, 5);
         select loyalty.announce_order(loyalty.open_account('club', 'phone'), 'A-2', 'Voucher', 1, 5)",
    )
    .await?;
    assert_eq!(
        club.rows("select address from loyalty.lease_notices(1, channels => '{email}')")
            .await?,
        ["m3@example.com"]
    );
    assert_eq!(
        club.rows("select channel, waiting, due, leased, given_up from loyalty.notice_backlog()")
            .await?,
        ["email|4|3|1|0", "sms|1|1|0|0"]
    );
    assert_eq!(
        club.rows("select address from loyalty.lease_notices(10, channels => '{sms}')")
            .await?,
        ["+81312345678"]
    );
    assert_eq!(
        club.rows("select address from loyalty.lease_notices(10)")
            .await?,
        ["m1@example.com", "m2@example.com", "m3@example.com"]
    );
    Ok(())
}

#[tokio::test]
async fn bad_claims_are_refused() -> Result<()> {
    let club = Club::open("claim_bad").await?;
    for call in [
        "lease_notices(0)",
        "lease_notices(1001)",
        "lease_notices(null)",
        "lease_notices(1, '0')",
        "lease_notices(1, null)",
        "lease_notices(1, '2 days')",
        "lease_notices(1, channels => '{fax}')",
        "purge_notices('2 days')",
        "purge_notices(null)",
        "announce_order(1, '', 'Voucher', 1, 5)",
        "announce_order(1, 'A-1', null, 1, 5)",
        "announce_order(1, 'A-1', 'Voucher', 0, 5)",
        "announce_order(1, 'A-1', 'Voucher', 1, -1)",
        "retry_notices('club', '-infinity', 'nonsense')",
    ] {
        assert_eq!(
            club.refused(&format!("select loyalty.{call}")).await?,
            "22023",
            "{call}"
        );
    }
    assert_eq!(
        club.refused("select loyalty.retry_notices('club', null)")
            .await?,
        "22004"
    );
    Ok(())
}

/// Old ones go, open ones stay however old; what was told is not told again meanwhile.
#[tokio::test]
async fn settled_notices_are_purged() -> Result<()> {
    let club = queued("purge", 3).await?;
    club.run("select loyalty.notice_sent(notice_id, attempt) from loyalty.lease_notices(1);
              select loyalty.notice_failed(notice_id, attempt, 'x', true) from loyalty.lease_notices(1)")
        .await?;
    club.at("2025-09-13 12:59+09").await?;
    assert_eq!(club.number("select loyalty.purge_notices()").await?, 0);
    club.at("2025-09-13 13:01+09").await?;
    assert_eq!(club.number("select loyalty.purge_notices()").await?, 2);
    assert_eq!(club.number("select count(*) from loyalty.notice").await?, 1);
    Ok(())
}

/// The relay's role can do its work, and nothing else.
#[tokio::test]
async fn the_relay_reads_no_table() -> Result<()> {
    let club = queued("relay_role", 1).await?;
    let relay = club.db.connect_as("loyalty_relay").await?;
    assert_eq!(
        rows(
            &relay,
            "select address, loyalty.notice_sent(notice_id, attempt) from loyalty.lease_notices(1)"
        )
        .await?,
        ["m1@example.com|t"]
    );
    for sql in [
        "select loyalty.notice_failed(1, 1, 'x', false)",
        "select loyalty.return_notices('{1}', '{1}')",
        "select loyalty.notice_backlog()",
    ] {
        assert_eq!(sqlstate(&relay.batch_execute(sql).await), "00000", "{sql}");
    }
    for sql in [
        "select 1 from loyalty.notice",
        "select 1 from loyalty.member",
        "select 1 from loyalty.wallet",
        "select loyalty.announce_order(1, 'A', 'B', 1, 1)",
        "select loyalty.grant(1, 1)",
        "select loyalty_private.settle_failed_notice(1, 'x', true)",
        "select loyalty.set_template('club', 'balance', 'ja', 's', 't')",
        "set loyalty.clock = '2020-01-01'",
    ] {
        assert_eq!(sqlstate(&relay.batch_execute(sql).await), "42501", "{sql}");
    }
    Ok(())
}

/// A relay that listens is woken once for a transaction, and only when it is committed.
#[tokio::test]
async fn queueing_wakes_the_relay_once() -> Result<()> {
    let club = Club::open("notify_once").await?;
    // psql tells of each notification after the statement that brought it
    let mut psql = club.db.program("psql");
    psql.args(["-qAt", "-v", "ON_ERROR_STOP=1"]);
    let script = format!(
        "listen loyalty_notice;
         set loyalty.clock = '2025-06-15 13:00+09';
         begin;
         select loyalty.announce_order({0}, 'A-1', 'Voucher', 1, 5);
         select loyalty.announce_order({0}, 'A-2', 'Voucher', 1, 5);
         commit;
         begin;
         select loyalty.announce_order({0}, 'A-3', 'Voucher', 1, 5);
         rollback;
         select loyalty.announce_order({0}, 'A-1', 'Voucher', 1, 5);
         select queued from loyalty_private.queue_balance_notices(loyalty.program_id('club'), '2025-06-15', null, 10);
         select 'the end';",
        club.ann
    );
    for statement in script.split_inclusive(';') {
        psql.arg("-c").arg(statement);
    }
    let told = loyalty_testkit::os::run(&mut psql)?;
    assert_eq!(
        told.matches("Asynchronous notification \"loyalty_notice\"")
            .count(),
        2,
        "{told}"
    );
    Ok(())
}
