//! What came back from PostgREST.

use anyhow::{Context, Result, ensure};
use reqwest::RequestBuilder;
use reqwest::header::HeaderMap;
use serde_json::Value;

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
            text: response.text().await?,
        })
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| format!("{} {}", self.status, self.text))
    }

    /// The body of a success.
    pub fn ok(&self) -> Result<Value> {
        ensure!(
            (200..300).contains(&self.status),
            "{} {}",
            self.status,
            self.text
        );
        match self.text.as_str() {
            "" => Ok(Value::Null),
            _ => self.json(),
        }
    }

    /// The body of an error of ours, which has all four parts and tells the way out.
    pub fn refused(&self, status: u16, code: &str) -> Result<Value> {
        let body = self.json()?;
        ensure!(
            self.status == status && body["code"] == code,
            "expected {status} {code}, got {} {body}",
            self.status
        );
        for part in ["code", "message", "details", "hint"] {
            ensure!(body.get(part).is_some(), "no {part} in {body}");
        }
        for part in ["message", "hint"] {
            let is_told = body[part].as_str().is_some_and(|text| !text.is_empty());
            ensure!(is_told, "no {part} in {body}");
        }
        Ok(body)
    }

    /// Too many attempts: LY008, with the seconds to wait in Retry-After.
    pub fn throttled(&self) -> Result<u64> {
        self.refused(429, "LY008")?;
        let seconds = self.headers.get("retry-after").context("no Retry-After")?;
        Ok(seconds.to_str()?.parse()?)
    }
}
