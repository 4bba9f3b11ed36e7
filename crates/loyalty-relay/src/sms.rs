//! Short messages by an HTTP webhook: a JSON document is posted, any 2xx answer means that it
//! was taken.

use std::time::Duration;

use anyhow::{Context as _, Result};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, StatusCode};
use serde_json::json;

use crate::notice::{Notice, Outcome, Progress, Sender, Why};
use crate::settings::Sms;

/// Whoever asks for more does not mean it.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// Of the answer's body, to say in the database what the provider disliked.
const BODY_CHARACTERS: usize = 300;

pub struct Webhook {
    client: Client,
    settings: Sms,
}

impl Webhook {
    pub fn new(settings: Sms, authorities: &[Vec<u8>]) -> Result<Self> {
        let certificates = authorities
            .iter()
            .map(|der| Certificate::from_der(der))
            .collect::<Result<Vec<_>, _>>()
            .context("a certificate authority cannot be used")?;
        let client = Client::builder()
            .tls_certs_merge(certificates)
            .user_agent(concat!("loyalty-relay/", env!("CARGO_PKG_VERSION")))
            // A redirected POST may become a GET, and its token goes elsewhere.
            .redirect(Policy::none())
            .timeout(settings.timeout)
            .connect_timeout(settings.timeout.min(Duration::from_secs(10)))
            .build()
            .context("HTTP cannot be set up")?;
        Ok(Self { client, settings })
    }
}

impl Sender for Webhook {
    const CHANNEL: &'static str = "sms";

    async fn ready(&self) -> Result<(), Why> {
        // Whether it works shows only a message.
        Ok(())
    }

    async fn send(&self, notice: &Notice, progress: &Progress) -> Outcome {
        let body = json!({
            "notice_id": notice.notice_id,
            "message_id": notice.message_id,
            "to": notice.address,
            "from": notice.sender,
            "subject": notice.subject,
            "text": notice.text_body,
        });
        let mut request = self
            .client
            .post(&self.settings.url)
            // The same for every attempt: a provider that heeds it sends once.
            .header("Idempotency-Key", notice.notice_id.to_string())
            .json(&body);
        if let Some(token) = &self.settings.token {
            request = request.bearer_auth(token.expose());
        }
        progress.handed();
        match request.send().await {
            Ok(response) => {
                let status = response.status();
                let pause = retry_after(response.headers());
                let body = if status.is_success() {
                    String::new()
                } else {
                    response.text().await.unwrap_or_default()
                };
                judge(status, pause, &body)
            }
            // The error's own text holds the URL.
            Err(error) if error.is_connect() => Outcome::Down(Why::plain("cannot connect")),
            Err(error) if error.is_timeout() => {
                Outcome::Faltered(Why::plain("no answer in time"), None)
            }
            Err(_) => Outcome::Faltered(Why::plain("the connection broke"), None),
        }
    }

    async fn tidy(&self, _all: bool) {}
}

fn judge(status: StatusCode, pause: Option<Duration>, body: &str) -> Outcome {
    let code = format!("HTTP {}", status.as_u16());
    let said: String = body.chars().take(BODY_CHARACTERS).collect();
    let why = Why::new(code.clone(), format!("{code} {said}"));
    match status {
        _ if status.is_success() => Outcome::Sent,
        // Our token, not this message.
        StatusCode::UNAUTHORIZED => Outcome::Down(why),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Outcome::Faltered(why, pause)
        }
        _ if status.is_server_error() => Outcome::Faltered(why, None),
        // An address that moved, an endpoint that is not there: settings, or a bad hour.
        StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::REQUEST_TIMEOUT
        | StatusCode::CONFLICT
        | StatusCode::TOO_EARLY => Outcome::Deferred(why),
        _ if status.is_client_error() => Outcome::Refused(why),
        _ => Outcome::Deferred(why),
    }
}

/// Retry-After in seconds; its form as a date is not worth a parser.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::StatusCode;
    use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};

    use super::{judge, retry_after};
    use crate::notice::Outcome;

    fn outcome(status: u16) -> Outcome {
        judge(StatusCode::from_u16(status).expect("a status"), None, "")
    }

    #[test]
    fn each_status_has_its_meaning() {
        assert_eq!(outcome(202), Outcome::Sent);
        assert!(matches!(outcome(400), Outcome::Refused(_)));
        assert!(matches!(outcome(422), Outcome::Refused(_)));
        assert!(matches!(outcome(401), Outcome::Down(_)));
        assert!(matches!(outcome(301), Outcome::Deferred(_)));
        assert!(matches!(outcome(404), Outcome::Deferred(_)));
        assert!(matches!(outcome(429), Outcome::Faltered(..)));
        assert!(matches!(outcome(500), Outcome::Faltered(..)));
    }

    #[test]
    fn a_pause_that_is_asked_for_has_a_limit() {
        let asked = |text| {
            retry_after(&HeaderMap::from_iter([(
                RETRY_AFTER,
                HeaderValue::from_static(text),
            )]))
        };
        assert_eq!(asked("30"), Some(Duration::from_secs(30)));
        assert_eq!(asked("99999999"), Some(Duration::from_secs(3600)));
        assert_eq!(asked("Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }
}
