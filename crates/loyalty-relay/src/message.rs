//! A notice as a mail.

use std::time::SystemTime;

use lettre::address::Envelope;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message};

use crate::notice::{Notice, Why};

#[derive(Debug)]
pub struct Mail {
    pub from: Address,
    pub to: Address,
    pub bytes: Vec<u8>,
}

/// The mail of a notice; an error says what of the notice makes none.
pub fn build(notice: &Notice) -> Result<Mail, Why> {
    let sender = notice.sender.as_deref().unwrap_or_default();
    let from = mailbox(sender).ok_or_else(|| Why::plain("the sender is not a mail address"))?;
    let to: Address = notice
        .address
        .trim()
        .parse()
        .map_err(|_| Why::plain("the address is not a mail address"))?;
    let envelope = Envelope::new(Some(from.email.clone()), vec![to.clone()])
        .map_err(|_| Why::plain("the address is not a mail address"))?;
    let mut builder = Message::builder()
        .envelope(envelope)
        .from(from.clone())
        .to(Mailbox::new(None, to.clone()))
        .subject(one_line(notice.subject.as_deref().unwrap_or_default()))
        .date(SystemTime::now())
        .message_id(Some(bracketed(&notice.message_id)))
        // Away notes and other robots need not answer (RFC 3834).
        .raw_header(header("Auto-Submitted", "auto-generated"));
    if let Some(unsubscribe) = &notice.unsubscribe {
        builder = builder.raw_header(header("List-Unsubscribe", &bracketed(unsubscribe)));
    }
    let text = notice.text_body.clone();
    let message = match &notice.html_body {
        Some(html) => builder.multipart(MultiPart::alternative_plain_html(text, html.clone())),
        None => builder.singlepart(SinglePart::plain(text)),
    };
    let message = message.map_err(|_| Why::plain("the notice makes no mail"))?;
    Ok(Mail {
        from: from.email,
        to,
        bytes: message.formatted(),
    })
}

/// `Name <address>` or the address alone. The name may hold anything.
fn mailbox(text: &str) -> Option<Mailbox> {
    let text = text.trim();
    let Some(rest) = text.strip_suffix('>') else {
        return Some(Mailbox::new(None, text.parse().ok()?));
    };
    let (name, address) = rest.rsplit_once('<')?;
    let name = one_line(name.trim().trim_matches('"'));
    let name = (!name.is_empty()).then_some(name);
    Some(Mailbox::new(name, address.trim().parse().ok()?))
}

fn header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), one_line(value))
}

fn bracketed(text: &str) -> String {
    let text = one_line(text.trim());
    if text.starts_with('<') {
        text
    } else {
        format!("<{text}>")
    }
}

/// What stands in a header line cannot begin another.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{Mail, build, mailbox};
    use crate::notice::{Notice, Why};

    fn notice() -> Notice {
        Notice {
            notice_id: 7,
            attempt: 1,
            address: "member@example.com".into(),
            sender: Some("ポイントクラブ <club@example.com>".into()),
            subject: Some("2,000 コインが届きました".into()),
            text_body: "こんにちは。\n2,000 コイン。\n".into(),
            html_body: Some("<p>こんにちは。</p>".into()),
            message_id: "notice-7@club.example.com".into(),
            unsubscribe: Some("https://club.example.com/notices".into()),
            hand_over_until: Instant::now(),
        }
    }

    fn lines(mail: &Mail) -> Vec<String> {
        String::from_utf8_lossy(&mail.bytes)
            .split("\r\n")
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn a_mail_is_plain_ascii_with_short_lines() -> Result<(), Why> {
        let mail = build(&notice())?;
        assert!(mail.bytes.is_ascii());
        assert!(lines(&mail).iter().all(|line| line.len() <= 78));
        let has = |line: &str| lines(&mail).iter().any(|l| l == line);
        assert!(has("Message-ID: <notice-7@club.example.com>"));
        assert!(has("List-Unsubscribe: <https://club.example.com/notices>"));
        assert!(has("Auto-Submitted: auto-generated"));
        Ok(())
    }

    #[test]
    fn no_value_begins_a_header_of_its_own() -> Result<(), Why> {
        let evil = "x\r\nBcc: everyone@example.com\r\n\r\nbody";
        let mut notice = notice();
        notice.subject = Some(evil.into());
        notice.sender = Some(format!("{evil} <club@example.com>"));
        notice.message_id = evil.into();
        notice.unsubscribe = Some(evil.into());
        let mail = build(&notice)?;
        assert!(!lines(&mail).iter().any(|line| line.starts_with("Bcc")));
        Ok(())
    }

    #[test]
    fn senders_have_names_of_all_kinds() {
        let email = |text| mailbox(text).map(|m| (m.name, m.email.to_string()));
        let club = "club@example.com".to_owned();
        for (text, name) in [
            ("club@example.com", None),
            ("<club@example.com>", None),
            ("Club, Inc. <club@example.com>", Some("Club, Inc.")),
            ("\"Club, Inc.\" <club@example.com>", Some("Club, Inc.")),
            ("クラブ <club@example.com>", Some("クラブ")),
        ] {
            assert_eq!(
                email(text),
                Some((name.map(str::to_owned), club.clone())),
                "{text}"
            );
        }
        for text in ["", "club", "Club <club>", "<club@example.com"] {
            assert_eq!(email(text), None, "{text}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_said_to_be_so() {
        let mut notice = notice();
        notice.address = "member".into();
        assert!(build(&notice).is_err());
    }
}
