//! HTTP to PostgREST, to the relay and to the mail catcher's page.

use std::thread;
use std::time::Duration;

use crate::Api;
use anyhow::{Context as _, Result, ensure};
use reqwest::header::HeaderMap;
use reqwest::{Client, ClientBuilder, Method, RequestBuilder};
use serde_json::Value;

/// A client yet to be built.
pub fn client() -> ClientBuilder {
    // the relay's reqwest has TLS, and wants this and authorities also where nothing is encrypted
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    ClientBuilder::new().tls_certs_only([])
}

/// The body of a page, whoever asks: also within a runtime, whose threads must not wait.
/// An empty token sends none; an error answered is one here too.
pub fn get(url: &str, token: &str, patience: Duration) -> Result<String> {
    let ask = async {
        let mut request = client().timeout(patience).build()?.get(url);
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        Ok(request.send().await?.error_for_status()?.text().await?)
    };
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(ask)
        });
        asking
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// As a part of a URL.
pub fn percent(text: &str) -> String {
    text.bytes()
        .map(
            |byte| match byte.is_ascii_alphanumeric() || b"-_.~*".contains(&byte) {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02X}"),
            },
        )
        .collect()
}

/// A request still to be sent; an empty token sends none.
pub fn request(
    client: &Client,
    api: &Api,
    method: Method,
    token: &str,
    path: &str,
) -> RequestBuilder {
    let request = client.request(method, format!("{}{path}", api.url()));
    match token {
        "" => request,
        _ => request.bearer_auth(token),
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Result<Self> {
        let response = request.send().await?;
        Ok(Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: String::from_utf8(response.bytes().await?.to_vec())?,
        })
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| format!("{} {}", self.status, self.text))
    }

    /// The body of a success; null where there is none.
    pub fn ok(&self) -> Result<Value> {
        match (self.status, self.text.as_str()) {
            (201 | 204, "") => Ok(Value::Null),
            (status, text) => {
                ensure!(status == 200, "{status} {text}");
                self.json()
            }
        }
    }

    /// The only row of a success.
    pub fn row(&self) -> Result<Value> {
        let rows = self.ok()?;
        let rows = rows.as_array().context("not an array")?;
        ensure!(rows.len() == 1, "{rows:?}");
        Ok(rows[0].clone())
    }

    /// The values of one field in each row of a success.
    pub fn column(&self, name: &str) -> Result<Vec<Value>> {
        let rows = self.ok()?;
        let rows = rows.as_array().context("not an array")?;
        Ok(rows.iter().map(|row| row[name].clone()).collect())
    }

    /// The body of an error, which has all four parts; `hint` may be null.
    pub fn error(&self, status: u16, code: &str) -> Result<Value> {
        let body = self.json()?;
        ensure!(
            self.status == status && body["code"] == code,
            "expected {status} {code}, got {} {body}",
            self.status
        );
        for part in ["code", "message", "details", "hint"] {
            ensure!(body.get(part).is_some(), "no {part} in {body}");
        }
        must_be_told(&body, "message")?;
        Ok(body)
    }

    /// The body of an error of ours: it tells the way out.
    pub fn refused(&self, status: u16, code: &str) -> Result<Value> {
        let body = self.error(status, code)?;
        must_be_told(&body, "hint")?;
        Ok(body)
    }

    /// Too many attempts: LY008, with the seconds to wait in Retry-After.
    pub fn throttled(&self) -> Result<u64> {
        self.refused(429, "LY008")?;
        let seconds = self.headers.get("retry-after").context("no Retry-After")?;
        Ok(seconds.to_str()?.parse()?)
    }
}

fn must_be_told(body: &Value, part: &str) -> Result<()> {
    let is_told = body[part].as_str().is_some_and(|text| !text.is_empty());
    ensure!(is_told, "no {part} in {body}");
    Ok(())
}
