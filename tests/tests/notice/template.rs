//! Templates (C18): supplied ones for each kind and language; own ones, checked when written.

use crate::Club;
use anyhow::Result;

/// Each supplied text passes the check of set_template, and says what a reader looks for.
#[tokio::test]
async fn c18_texts_are_supplied_for_each_kind_and_language() -> Result<()> {
    let club = Club::open("template_supplied").await?;
    assert_eq!(
        club.rows(
            "select kind || ' ' || language from loyalty.notice_template t
              cross join lateral loyalty_private.check_template(kind, language, subject, text_body, html_body, sms_body)
              where program_id is null and sms_body is not null and html_body is not null order by 1"
        )
        .await?,
        [
            "balance en", "balance ja", "expiry en", "expiry ja",
            "family_approval en", "family_approval ja", "family_ended en", "family_ended ja", "family_invitation en", "family_invitation ja",
            "login_approved en", "login_approved ja", "login_change en", "login_change ja",
            "login_changed en", "login_changed ja", "login_in_use en", "login_in_use ja",
            "order_received en", "order_received ja",
            "password_changed en", "password_changed ja", "password_reset en", "password_reset ja",
            "points_received en", "points_received ja",
            "staff_invitation en", "staff_invitation ja", "unlock en", "unlock ja",
            "verification_code en", "verification_code ja"
        ]
    );
    for (kind, language, subject, parts) in [
        (
            "points_received",
            "ja",
            "【Sample Club】2,000coinを付与いたしました",
            ["山田 花子 様", "2,000coin", "2031年6月30日(月)まで"],
        ),
        (
            "points_received",
            "en",
            "Sample Club: 2,000 coin received",
            ["Dear Hanako Yamada,", "2,000 coin", "30 June 2031"],
        ),
        (
            "balance",
            "ja",
            "【Sample Club】coin残高のお知らせ",
            [
                "2028年6月23日(金)現在",
                "12,345coin",
                "うち1,500coinは2028年6月30日(金)まで",
            ],
        ),
        (
            "balance",
            "en",
            "Sample Club: your coin balance",
            [
                "as of 23 June 2028",
                "12,345 coin",
                "1,500 coin valid until 30 June 2028",
            ],
        ),
        (
            "expiry",
            "ja",
            "【Sample Club】2028年6月28日に有効期限を迎えるcoinがございます",
            [
                "あと5日で",
                "2028年6月28日(水)まで: 1,500coin",
                "2028年6月30日(金)まで: 500coin",
            ],
        ),
        (
            "expiry",
            "en",
            "Sample Club: coin expiring on 28 June 2028",
            [
                "in 5 days",
                "28 June 2028: 1,500 coin",
                "30 June 2028: 500 coin",
            ],
        ),
        (
            "order_received",
            "ja",
            "【Sample Club】お申し込みを受け付けました(申込番号: 20280623-0001)",
            ["お食事券", "3,000coin", "2028年6月23日(金)"],
        ),
        (
            "order_received",
            "en",
            "Sample Club: order 20280623-0001 received",
            ["Meal voucher", "3,000 coin", "23 June 2028"],
        ),
    ] {
        let texts = club
            .row(&format!(
                "select subject, text_body, html_body, sms_body, error from loyalty.preview_template('club', '{kind}', '{language}')"
            ))
            .await?;
        let texts: Vec<&str> = texts.split('|').collect();
        assert_eq!(texts[0], subject);
        for part in parts {
            assert!(
                texts[1].contains(part),
                "{kind} {language}: {part} in {}",
                texts[1]
            );
        }
        assert!(texts[2].starts_with("<!DOCTYPE html>"));
        assert!(texts[3].contains("Sample Club") && !texts[3].contains('\n'));
        assert_eq!(texts[4], "");
    }
    Ok(())
}

/// Part, line and what is wrong there; nothing is written, not even the parts that are well.
#[tokio::test]
async fn malformed_templates_are_refused_with_where() -> Result<()> {
    let club = Club::open("template_bad").await?;
    club.run("select loyalty.set_template('club', 'balance', 'ja', 'Mine', 'Balance {{ points }}', '<p>{{ points }}</p>')")
        .await?;
    let stored =
        "select json_agg(t)::text from loyalty.notice_template t where program_id is not null";
    let before = club.row(stored).await?;
    let bombs = [
        format!("{{{{ {}points }}}}", "not ".repeat(5000)),
        "{% if points %}".repeat(4000),
        format!(
            "{{{{ {}points{} }}}}",
            "(".repeat(10_000),
            ")".repeat(10_000)
        ),
        "{% if points %}a".to_owned() + &"{% elif points %}b".repeat(1000) + "{% endif %}",
        "x".repeat(20_001),
    ];
    let mut cases = vec![
        (
            "balance",
            "text_body",
            "a\nb {{ points",
            "line 2: syntax error",
        ),
        (
            "balance",
            "text_body",
            "a\n{% if points %}b",
            "line 2: syntax error",
        ),
        (
            "balance",
            "text_body",
            "a\n\n{% endif %}",
            "line 3: syntax error",
        ),
        ("balance", "text_body", "{{ }}", "line 1: syntax error"),
        (
            "balance",
            "text_body",
            "{{ points | }}",
            "line 1: syntax error",
        ),
        (
            "balance",
            "text_body",
            "{# never ends",
            "line 1: syntax error",
        ),
        (
            "balance",
            "text_body",
            "a\n{{ pionts }}",
            "line 2: unknown variable pionts",
        ),
        (
            "balance",
            "text_body",
            "{{ member.nmae }}",
            "line 1: unknown variable member.nmae",
        ),
        (
            "balance",
            "text_body",
            "{{ lots }}",
            "line 1: unknown variable lots",
        ),
        (
            "balance",
            "text_body",
            "{{ order.number }}",
            "line 1: unknown variable order",
        ),
        (
            "order_received",
            "text_body",
            "{{ order.colour }}",
            "line 1: unknown variable order.colour",
        ),
        (
            "expiry",
            "text_body",
            "{% for l in lots %}\n{{ l.day }}{% endfor %}",
            "line 2: unknown variable l.day",
        ),
        (
            "expiry",
            "text_body",
            "{% for l in lots %}{% endfor %}{{ l.points }}",
            "line 1: unknown variable l",
        ),
        (
            "expiry",
            "text_body",
            "{{ lots }}",
            "line 1: lots is a list",
        ),
        (
            "balance",
            "text_body",
            "{{ member }}",
            "line 1: member has parts",
        ),
        (
            "balance",
            "text_body",
            "a\n{{ member.name }}",
            "line 2: member.name is not there for every member",
        ),
        (
            "balance",
            "text_body",
            "{% if member.name %}{{ expires_on | date }}{% endif %}",
            "line 1: expires_on is not there",
        ),
        (
            "balance",
            "text_body",
            "{{ points | upper }}",
            "line 1: the filter upper is not known here",
        ),
        (
            "balance",
            "text_body",
            "{{ program.name | number }}",
            "line 1: ",
        ),
        ("balance", "text_body", "{{ points | date }}", "line 1: "),
        (
            "balance",
            "text_body",
            "{% for p in program.name %}{% endfor %}",
            "line 1: a loop needs a list",
        ),
        (
            "balance",
            "text_body",
            "{% set x = 1 %}",
            "line 1: {% set %} is not known here",
        ),
        (
            "balance",
            "text_body",
            "{% include 'x' %}",
            "line 1: syntax error",
        ),
        (
            "balance",
            "text_body",
            "{% macro f() %}{% endmacro %}",
            "line 1: syntax error",
        ),
        (
            "balance",
            "text_body",
            "{{ range(1000000) }}",
            "line 1: this call is not known here",
        ),
        (
            "balance",
            "text_body",
            "{{ points * 1000 }}",
            "line 1: this operator is not known here",
        ),
        (
            "balance",
            "text_body",
            "{{ 'x' * 10000000000 }}",
            "line 1: this operator is not known here",
        ),
        (
            "balance",
            "text_body",
            "{{ program.name ~ program.name }}",
            "line 1: this operator is not known here",
        ),
        (
            "balance",
            "text_body",
            "{{ [points, points] }}",
            "line 1: this list literal is not known here",
        ),
        (
            "balance",
            "text_body",
            "{{ program['name'] }}",
            "line 1: this expression is not known here",
        ),
        ("balance", "text_body", "  \n ", ": it is empty"),
        (
            "balance",
            "subject",
            "One\nBcc: two@example.com",
            ": it has a line break",
        ),
        ("balance", "subject", "One\rTwo", ": it has a line break"),
        ("balance", "subject", "", ": it is empty"),
        (
            "balance",
            "subject",
            "{{ nothing }}",
            "line 1: unknown variable nothing",
        ),
        (
            "balance",
            "html_body",
            "<p>\n{{ points }\n</p>",
            "line 2: syntax error",
        ),
        ("balance", "html_body", "", ": it is empty"),
        (
            "balance",
            "sms_body",
            "{{ today | weekday | date }}",
            "line 1: ",
        ),
    ];
    for bomb in &bombs {
        cases.push(("balance", "text_body", bomb, ""));
    }
    let nested = "{% for a in lots %}".repeat(30) + "x" + &"{% endfor %}".repeat(30);
    cases.push(("expiry", "text_body", &nested, "line 1: it takes too long"));
    for (kind, part, source, expected) in cases {
        let texts: Vec<String> = ["subject", "text_body", "html_body", "sms_body"]
            .iter()
            .map(|name| {
                if *name == part {
                    source.to_owned()
                } else {
                    "well".to_owned()
                }
            })
            .collect();
        let answer = club
            .client
            .execute(
                "select loyalty.set_template('club', $1, 'ja', $2, $3, $4, $5)",
                &[&kind, &texts[0], &texts[1], &texts[2], &texts[3]],
            )
            .await;
        let shown: String = source.chars().take(60).collect();
        let error = answer.err().and_then(|error| error.as_db_error().cloned());
        let error = error.ok_or_else(|| anyhow::anyhow!("not refused: {shown}"))?;
        assert_eq!(error.code().code(), "22023", "{shown}: {}", error.message());
        let place = expected.split(':').next().unwrap_or_default();
        let separator = if place.is_empty() { "" } else { " " };
        assert!(
            error
                .message()
                .starts_with(&format!("{part}{separator}{expected}"))
                || expected.is_empty() && error.message().starts_with(part),
            "{shown}: {}",
            error.message()
        );
        assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{shown}");
    }
    // an unknown variable is answered with those there are
    let answer = club
        .client
        .batch_execute("select loyalty.set_template('club', 'expiry', 'ja', 's', '{{ pionts }}')")
        .await;
    let error = answer.err().and_then(|error| error.as_db_error().cloned());
    let hint = error
        .and_then(|error| error.hint().map(str::to_owned))
        .unwrap_or_default();
    for name in [
        "points",
        "days_left",
        "member.name",
        "lots (a list of expires_on, points)",
    ] {
        assert!(hint.contains(name), "{hint}");
    }
    assert_eq!(club.row(stored).await?, before);
    Ok(())
}

#[tokio::test]
async fn other_arguments_of_templates_are_checked() -> Result<()> {
    let club = Club::open("template_argument").await?;
    for (call, code) in [
        ("set_template('club', 'nonsense', 'ja', 's', 't')", "22023"),
        (
            "set_template('club', 'balance', 'Japanese!', 's', 't')",
            "22023",
        ),
        ("set_template('club', 'balance', null, 's', 't')", "22023"),
        ("set_template('club', 'balance', 'ja', null, 't')", "22004"),
        ("set_template('club', 'balance', 'ja', 's', null)", "22004"),
        (
            "set_template('nowhere', 'balance', 'ja', 's', 't')",
            "LY002",
        ),
        ("preview_template('club', 'nonsense')", "22023"),
        (
            "preview_template('club', 'balance', 'ja', text_body => '{{ x }}')",
            "22023",
        ),
        ("preview_template('nowhere', 'balance')", "LY002"),
    ] {
        assert_eq!(
            club.refused(&format!("select loyalty.{call}")).await?,
            code,
            "{call}"
        );
    }
    assert_eq!(
        club.number("select count(*) from loyalty.notice_template where program_id is not null")
            .await?,
        0
    );
    Ok(())
}

/// A program's own text goes before the supplied one; a member's language before the usual one.
#[tokio::test]
async fn the_nearest_template_is_taken() -> Result<()> {
    let club = Club::open("template_nearest").await?;
    for (member, language) in [("ja", "ja"), ("en", "en-GB"), ("fr", "fr"), ("de", "de")] {
        club.run(&format!(
            "select loyalty.set_member('club', '{member}', email => '{member}@example.com', language => '{language}')"
        ))
        .await?;
    }
    club.run(
        "select loyalty.set_template('club', 'balance', 'fr', 'Solde: {{ points | number }}', 'Le {{ today | date }}');
         delete from loyalty.member where email = 'ann@example.com';
         select loyalty.grant(loyalty.open_account('club', 'fr'), 1234567);
         delete from loyalty.notice",
    )
    .await?;
    club.at("2025-06-15 13:00+09").await?;
    club.queue("balance").await?;
    assert_eq!(
        club.deliver().await?,
        [
            "ja@example.com|【Sample Club】coin残高のお知らせ|t",
            "en@example.com|Sample Club: your coin balance|t",
            "fr@example.com|Solde: 1,234,567|t",
            "de@example.com|【Sample Club】coin残高のお知らせ|t",
        ]
    );
    club.run(
        "delete from loyalty.notice; select loyalty.set_notice_sender('club', language => 'en')",
    )
    .await?;
    assert_eq!(
        club.row("select loyalty.delete_template('club', 'balance', 'fr'), loyalty.delete_template('club', 'balance', 'fr')")
            .await?,
        "t|f"
    );
    club.queue("balance").await?;
    assert_eq!(
        club.deliver().await?[1..],
        [
            "en@example.com|Sample Club: your coin balance|t",
            "fr@example.com|Sample Club: your coin balance|t",
            "de@example.com|Sample Club: your coin balance|t",
        ]
    );
    Ok(())
}

/// Values cannot break out: of HTML, of the subject's line.
#[tokio::test]
async fn values_are_escaped_where_that_matters() -> Result<()> {
    let club = Club::open("template_escape").await?;
    club.run(
        "select loyalty.set_template('club', 'order_received', 'ja', 'Got {{ order.item }}', '{{ order.item }}',
                                     '<b title=\"{{ order.item }}\">{{ order.item }}</b>')",
    )
    .await?;
    club.client
        .execute(
            "select loyalty.announce_order($1, 'A-1', $2, 1, 5)",
            &[&club.ann, &"a<script>\"&'\r\nBcc: x@example.com"],
        )
        .await?;
    let row = club
        .client
        .query_one(
            "select subject, text_body, html_body from loyalty.lease_notices(1)",
            &[],
        )
        .await?;
    assert_eq!(
        row.get::<_, &str>(0),
        "Got a<script>\"&'  Bcc: x@example.com"
    );
    assert_eq!(row.get::<_, &str>(1), "a<script>\"&'\nBcc: x@example.com");
    let html = row.get::<_, &str>(2);
    assert!(
        !html.contains("<script>") && html.contains("&lt;script&gt;&quot;&amp;"),
        "{html}"
    );
    Ok(())
}

/// What templates are checked with is what they get: each kind's real context has the
/// example's variables, no more and no fewer.
#[tokio::test]
async fn examples_have_the_variables_that_notices_have() -> Result<()> {
    let club = Club::open("template_context").await?;
    club.grant(club.ann, 10, "2025-06-15").await?;
    club.at("2025-06-15 13:00+09").await?;
    club.queue("balance").await?;
    club.queue("expiry").await?;
    club.run(&format!(
        "select loyalty_private.announce_grants('{{{0}}}', array[{0}::bigint << 24 | 1], '{{10}}', '{{2025-06-15}}');
         select loyalty.announce_order({0}, 'A-1', 'Voucher', 1, 5)",
        club.ann
    ))
    .await?;
    let different = club
        .rows(
            "with shape as (
                 select n.kind, 'real' as source, loyalty_private.notice_context(n) as context from loyalty.notice n
                  union all
                 select distinct n.kind, 'example', loyalty_private.notice_example(n.kind, 'ja') from loyalty.notice n
             ), path as (
                 select s.kind, s.source, k.key || coalesce('.' || i.key, '') as path
                   from shape s
                  cross join lateral jsonb_each(s.context) k
                   left join lateral (
                        select jsonb_object_keys(case jsonb_typeof(k.value)
                                                     when 'object' then k.value
                                                     when 'array' then k.value -> 0 end) as key) i on true
             )
             (select kind, path from path where source = 'real' except select kind, path from path where source = 'example')
             union all
             (select kind, path from path where source = 'example' except select kind, path from path where source = 'real')",
        )
        .await?;
    assert_eq!(different, [""; 0]);
    assert_eq!(
        club.number("select count(distinct kind) from loyalty.notice")
            .await?,
        4
    );
    Ok(())
}
