//! Notices about logins (A3, A8, C12, C13): a code or a link, never both, to the address that
//! it proves, and no longer than it is good.

use crate::Club;
use anyhow::{Context as _, Result, ensure};
use loyalty_tests::sqlstate;

/// Each kind, and what of its challenge it carries.
const KINDS: [(&str, &str); 12] = [
    ("verification_code", "code"),
    ("login_in_use", "code"),
    ("password_reset", "link"),
    ("unlock", "link"),
    ("login_change", "link"),
    ("login_approved", "link"),
    ("family_approval", "link"),
    ("family_invitation", "link"),
    ("staff_invitation", "link"),
    ("password_changed", ""),
    ("login_changed", ""),
    ("family_ended", ""),
];

const FAMILY: &str = r#"{"name": "山田 太郎", "relation": "child"}"#;

/// The club with a site, a sender of short messages, and a person who is ann.
async fn opened(name: &str) -> Result<Club> {
    let club = Club::open(name).await?;
    club.run(&format!(
        "insert into loyalty.access_policy (program_id, organisation_id, site_url)
         values (loyalty.program_id('club'), 'club', 'https://club.example.com');
         insert into loyalty.identity (login_id, state, created_at, changed_at)
         values ('ann@example.com', 'active', loyalty.now(), loyalty.now());
         insert into loyalty.identity_link (identity_id, account_id, program_id, linked_at)
         select identity_id, {}, loyalty.program_id('club'), loyalty.now() from loyalty.identity;
         select loyalty.set_notice_sender('club', sms => 'CLUB')",
        club.ann
    ))
    .await?;
    Ok(club)
}

impl Club {
    /// Queues a notice with a new challenge, as the functions of accounts do; the challenge.
    async fn challenge(
        &self,
        kind: &str,
        account: Option<i64>,
        address: Option<&str>,
    ) -> Result<String> {
        let account = account.map_or("null".to_owned(), |account| account.to_string());
        let address = address.map_or("null".to_owned(), |address| format!("'{address}'"));
        self.row(&format!(
            "select challenge_id from loyalty_private.new_challenge('{kind}', loyalty.program_id('club'),
                (select identity_id from loyalty.identity), {account}, {address}, '{FAMILY}')"
        ))
        .await
    }
}

struct Message {
    address: String,
    subject: String,
    text: String,
    html: String,
    unsubscribe: String,
}

async fn claim(club: &Club) -> Result<Vec<Message>> {
    let rows = club
        .client
        .query(
            "select c.address, coalesce(c.subject, ''), c.text_body, coalesce(c.html_body, ''),
                    coalesce(c.unsubscribe, ''), loyalty.notice_sent(c.notice_id, c.attempt)
               from loyalty.lease_notices(100) c",
            &[],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Message {
            address: row.get(0),
            subject: row.get(1),
            text: row.get(2),
            html: row.get(3),
            unsubscribe: row.get(4),
        })
        .collect())
}

async fn claim_one(club: &Club, about: &str) -> Result<Message> {
    let mut all = claim(club).await?;
    ensure!(all.len() == 1, "{about}: {} messages", all.len());
    all.pop().context("a message")
}

/// Each kind in each language, by mail and by short message, with the real code or link of its
/// challenge in each text and nothing of the other sort.
#[tokio::test]
async fn a3_a8_c12_c13_each_kind_is_written_in_both_languages_and_as_sms() -> Result<()> {
    let club = opened("login_texts").await?;
    for language in ["ja", "en"] {
        club.run(&format!(
            "update loyalty.member set language = '{language}'"
        ))
        .await?;
        for (kind, carries) in KINDS {
            for address in ["new@example.com", "+819012345678"] {
                let about = format!("{kind} {language} {address}");
                let mut code = String::new();
                let mut token = String::new();
                if carries.is_empty() {
                    club.run(&format!(
                        "select loyalty_private.send_notice(loyalty.program_id('club'), {}, '{kind}', '{about}', '{address}', '{FAMILY}')",
                        club.ann
                    ))
                    .await?;
                } else {
                    let id = club.challenge(kind, Some(club.ann), Some(address)).await?;
                    code = club
                        .row(&format!("select loyalty_private.challenge_code('{id}')"))
                        .await?;
                    token = club
                        .row(&format!("select loyalty_private.challenge_token('{id}')"))
                        .await?;
                }
                let link = format!("https://club.example.com/{kind}#{token}");
                let message = claim_one(&club, &about).await?;
                assert_eq!(message.address, address, "{about}");
                assert_eq!(message.unsubscribe, "", "{about}");
                let is_mail = address.contains('@');
                assert_eq!(is_mail, !message.html.is_empty(), "{about}");
                // what a mail server may log or a locked screen may show
                assert_eq!(is_mail, message.subject.contains("Sample Club"), "{about}");
                for secret in [&code, &token] {
                    assert!(
                        secret.is_empty() || !message.subject.contains(secret.as_str()),
                        "{about}"
                    );
                }
                let html = message.html.replace("&#x2f;", "/");
                let texts = match is_mail {
                    true => vec![message.text.as_str(), &html],
                    false => vec![message.text.as_str()],
                };
                for text in texts {
                    assert!(text.contains("Sample Club"), "{about}: {text}");
                    assert_eq!(
                        text.contains(&code),
                        matches!(carries, "code" | ""),
                        "{about}: {text}"
                    );
                    assert_eq!(
                        text.contains(&token),
                        matches!(carries, "link" | ""),
                        "{about}: {text}"
                    );
                    assert_eq!(text.contains(&link), carries == "link", "{about}: {text}");
                    let minutes = ["15分", "15 minutes"].iter().any(|m| text.contains(m));
                    assert_eq!(minutes, !carries.is_empty(), "{about}: {text}");
                    // an address that nobody has proven may be anybody's
                    let named = text.contains("花子");
                    let unproven = matches!(
                        kind,
                        "verification_code" | "login_in_use" | "login_change" | "staff_invitation"
                    );
                    assert!(!(named && unproven), "{about}: {text}");
                    if is_mail && !unproven {
                        assert!(named, "{about}: {text}");
                    }
                    let family = kind.starts_with("family");
                    assert_eq!(
                        is_mail && family,
                        text.contains("山田 太郎"),
                        "{about}: {text}"
                    );
                    // what to do who did not ask for it; a code's short message has no room but for one warning
                    let calm = match language {
                        "ja" => ["心当たりのない", "心当たりがなければ", "教えないでください"],
                        _ => ["If you", "If it", "Do not give"],
                    };
                    assert!(
                        calm.iter().any(|words| text.contains(words))
                            || text.contains("If this means nothing"),
                        "{about}: {text}"
                    );
                    assert!(!text.contains("\n\n\n"), "{about}: {text}");
                }
                if !is_mail {
                    assert!(
                        !message.text.contains('\n') && message.text.chars().count() < 330,
                        "{about}"
                    );
                }
            }
        }
    }
    Ok(())
}

/// An administrator is no member: nothing in the texts depends on there being one.
#[tokio::test]
async fn who_is_no_member_is_written_to_as_well() -> Result<()> {
    let club = opened("login_staff").await?;
    club.run("select loyalty.set_notice_sender('club', language => 'en')")
        .await?;
    for (kind, _) in KINDS {
        for address in ["staff@example.com", "+819012345678"] {
            let about = format!("{kind} {address}");
            match kind {
                "password_changed" | "login_changed" | "family_ended" => {
                    club.run(&format!(
                        "select loyalty_private.send_notice(loyalty.program_id('club'), null, '{kind}', '{about}', '{address}', '{FAMILY}')"
                    ))
                    .await?;
                }
                _ => {
                    club.challenge(kind, None, Some(address)).await?;
                }
            }
            let message = claim_one(&club, &about).await?;
            assert_eq!(message.address, address);
            assert!(!message.text.contains("花子"), "{}", message.text);
        }
    }
    Ok(())
}

/// The newest challenge is the one that is good; mails of the others would only mislead.
#[tokio::test]
async fn what_is_used_or_replaced_is_not_sent_any_more() -> Result<()> {
    let club = opened("login_over").await?;
    let ann = Some(club.ann);
    for kind in ["verification_code", "password_reset"] {
        club.challenge(kind, ann, Some("replaced@example.com"))
            .await?;
        club.challenge(kind, ann, Some("newest@example.com"))
            .await?;
        assert_eq!(claim_one(&club, kind).await?.address, "newest@example.com");
        let used = club.challenge(kind, ann, Some("used@example.com")).await?;
        club.run(&format!("select loyalty_private.use_challenge('{used}')"))
            .await?;
        let purged = club
            .challenge(kind, ann, Some("purged@example.com"))
            .await?;
        club.run(&format!(
            "delete from loyalty_private.challenge where challenge_id = '{purged}'"
        ))
        .await?;
        assert_eq!(claim(&club).await?.len(), 0, "{kind}");
    }
    // given up at once, not tried ten times, and not to be had again
    let problems =
        "select address, attempts, due_at is null, gave_up_at is not null from loyalty.notice
                     where sent_at is null order by notice_id";
    let expected = ["replaced", "used", "purged", "replaced", "used", "purged"];
    let rows = club.rows(problems).await?;
    assert_eq!(
        rows,
        expected.map(|name| format!("{name}@example.com|1|t|t"))
    );
    assert_eq!(
        club.number("select loyalty.retry_notices('club', '-infinity')")
            .await?,
        0
    );
    // sent to nobody: nothing is queued, and no answer tells
    club.challenge("password_reset", ann, None).await?;
    assert_eq!(claim(&club).await?.len(), 0);
    Ok(())
}

/// A notice whose time is over by the machine's clock is given up like any other.
#[tokio::test]
async fn what_is_too_late_is_given_up() -> Result<()> {
    let club = opened("login_late").await?;
    club.challenge("unlock", Some(club.ann), Some("ann@example.com"))
        .await?;
    assert_eq!(
        club.row("select send_by - due_at between '14 minutes' and '16 minutes', is_urgent from loyalty.notice")
            .await?,
        "t|t"
    );
    club.run("update loyalty.notice set send_by = clock_timestamp() - interval '1 second'")
        .await?;
    assert_eq!(claim(&club).await?.len(), 0);
    assert_eq!(
        club.row("select error, gave_up_at is not null from loyalty.notice")
            .await?,
        "its time is over|t"
    );
    Ok(())
}

/// Servers repeat what they refuse: address, link and code are taken out of what they said.
#[tokio::test]
async fn errors_hold_no_address_and_no_secret() -> Result<()> {
    let club = opened("login_error").await?;
    for (kind, address) in [
        ("verification_code", "New.Person@example.com"),
        ("password_reset", "New.Person@example.com"),
        ("verification_code", "+819012345678"),
        ("password_reset", "+819012345678"),
    ] {
        let id = club.challenge(kind, Some(club.ann), Some(address)).await?;
        let secrets = club
            .row(&format!(
                "select loyalty_private.challenge_code('{id}'), loyalty_private.challenge_token('{id}')"
            ))
            .await?;
        let (code, token) = secrets.split_once('|').context("two columns")?;
        let said = format!(
            "550 5.7.1 <{address}>: refused for \"code: {code}\", https://club.example.com/{kind}#{token} ({address})"
        );
        club.client
            .execute(
                "select loyalty.notice_failed(c.notice_id, c.attempt, $1, true) from loyalty.lease_notices(1) c",
                &[&said],
            )
            .await?;
        let error = club
            .row("select error from loyalty.notice order by notice_id desc limit 1")
            .await?;
        assert!(error.starts_with("550 5.7.1 "), "{error}");
        for secret in [address, code, token] {
            assert!(!error.contains(secret), "{secret} in {error}");
        }
        assert!(error.contains("(secret)"), "{error}");
    }
    Ok(())
}

/// Without the keys no link can be made: what needs none goes on, the others wait.
#[tokio::test]
async fn missing_keys_keep_back_what_needs_them_only() -> Result<()> {
    let club = opened("login_keys").await?;
    club.challenge("password_reset", Some(club.ann), Some("ann@example.com"))
        .await?;
    club.run(&format!(
        "select loyalty.announce_order({}, 'A-1', 'Voucher', 1, 5);
         set loyalty.secret_dir = '/nowhere/to/be/found'",
        club.ann
    ))
    .await?;
    let sent = claim(&club).await?;
    assert_eq!(sent.len(), 1);
    assert!(sent[0].subject.contains("A-1"), "{}", sent[0].subject);
    let error = club
        .row("select error, gave_up_at is null, due_at > clock_timestamp() from loyalty.notice where kind = 'password_reset'")
        .await?;
    assert!(
        error.ends_with("|t|t") && !error.contains("/nowhere"),
        "{error}"
    );
    club.run("reset loyalty.secret_dir; update loyalty.notice set due_at = clock_timestamp() where due_at is not null")
        .await?;
    assert_eq!(claim(&club).await?.len(), 1);
    Ok(())
}

/// A program's own words; but no code where a link is, no name that may be missing.
#[tokio::test]
async fn a_program_writes_its_own() -> Result<()> {
    let club = opened("login_own").await?;
    for (kind, carries) in KINDS {
        let body = match carries {
            "" => "{{ today | date }}".to_owned(),
            proof => format!("{{{{ {proof} }}}} {{{{ minutes | duration }}}}"),
        };
        club.run(&format!(
            "select loyalty.set_template('club', '{kind}', 'ja', 'Mine', '{body}', '<p>{body}</p>', '{body}')"
        ))
        .await?;
        for wrong in [
            match carries {
                "code" => "{{ link }}",
                _ => "{{ code }}",
            },
            "{{ member.name }}",
            "{{ member.member_no }}",
            "{{ preferences_url }}",
            "{{ points }}",
        ] {
            let call =
                format!("select loyalty.set_template('club', '{kind}', 'ja', 's', '{wrong}')");
            assert_eq!(club.refused(&call).await?, "22023", "{kind} {wrong}");
        }
        // neither set nor refused: they come whatever a program or member chose (C18)
        for call in [
            format!("set_notice('club', '{kind}', true)"),
            format!("set_notice_preference({}, '{kind}', false)", club.ann),
        ] {
            assert_eq!(
                club.refused(&format!("select loyalty.{call}")).await?,
                "22023",
                "{call}"
            );
        }
    }
    let id = club
        .challenge("password_reset", Some(club.ann), Some("ann@example.com"))
        .await?;
    let token = club
        .row(&format!("select loyalty_private.challenge_token('{id}')"))
        .await?;
    let message = claim_one(&club, "own").await?;
    assert_eq!(message.subject, "Mine");
    assert_eq!(
        message.text,
        format!("https://club.example.com/password_reset#{token} 15分")
    );
    // without a site the token itself, for an application that knows what to do with it
    club.run("update loyalty.access_policy set site_url = null")
        .await?;
    let id = club
        .challenge("password_reset", Some(club.ann), Some("ann@example.com"))
        .await?;
    let token = club
        .row(&format!("select loyalty_private.challenge_token('{id}')"))
        .await?;
    assert_eq!(
        claim_one(&club, "bare").await?.text,
        format!("{token} 15分")
    );
    Ok(())
}

/// What templates are checked with is what they get.
#[tokio::test]
async fn examples_have_the_variables_that_login_notices_have() -> Result<()> {
    let club = opened("login_context").await?;
    for (kind, carries) in KINDS {
        if carries.is_empty() {
            club.run(&format!(
                "select loyalty_private.send_notice(loyalty.program_id('club'), {}, '{kind}', 'x', 'a@example.com', '{FAMILY}')",
                club.ann
            ))
            .await?;
        } else {
            club.challenge(kind, Some(club.ann), Some("a@example.com"))
                .await?;
        }
    }
    // `details` are what each caller gives: those of this test are a family's
    let different = club
        .rows(
            "with shape as (
                 select n.kind, 'real' as source, loyalty_private.notice_context(n) || loyalty_private.challenge_context(n)
                        - case when n.kind like 'family%' then '{}' else '{name,relation}'::text[] end as context
                   from loyalty.notice n
                  union all
                 select n.kind, 'example', loyalty_private.notice_example(n.kind, 'ja') from loyalty.notice n
             ), path as (
                 select s.kind, s.source, k.key || coalesce('.' || i.key, '') as path
                   from shape s
                  cross join lateral jsonb_each(s.context) k
                   left join lateral (
                        select jsonb_object_keys(case jsonb_typeof(k.value) when 'object' then k.value end) as key) i on true
             )
             select kind, path, min(source) from path group by kind, path having count(*) <> 2",
        )
        .await?;
    assert_eq!(different, [""; 0]);
    assert_eq!(
        club.number("select count(distinct kind) from loyalty.notice")
            .await?,
        12
    );
    Ok(())
}

/// What a relay claims has codes and links in it: an operator may look at the outbox, and not
/// at those.
#[tokio::test]
async fn an_operator_cannot_claim() -> Result<()> {
    let club = opened("login_operator").await?;
    club.challenge("password_reset", Some(club.ann), Some("ann@example.com"))
        .await?;
    let operator = club.db.connect_as("loyalty_operator").await?;
    operator
        .batch_execute("select * from loyalty.notice")
        .await?;
    for call in [
        "loyalty.lease_notices(1)",
        "loyalty_private.fill_notice((select n from loyalty.notice n))",
        "loyalty_private.challenge_context((select n from loyalty.notice n))",
        "loyalty_private.challenge_token((select challenge_id from loyalty.notice))",
        "loyalty_private.challenge_code((select challenge_id from loyalty.notice))",
    ] {
        let answer = operator
            .batch_execute(&format!("select * from {call}"))
            .await;
        assert_eq!(sqlstate(&answer), "42501", "{call}");
    }
    Ok(())
}
