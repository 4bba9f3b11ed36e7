//! HTTP by hand: what is cut off and timed here is bytes.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer: the head's lines, and the body.
pub struct Answer {
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn has_status(&self, status: u16) -> bool {
        self.head
            .lines()
            .next()
            .is_some_and(|line| line.split(' ').nth(1) == Some(&status.to_string()))
    }
}

/// The address in a PostgREST's URL.
pub fn address(url: &str) -> Result<SocketAddr> {
    url.trim_start_matches("http://")
        .parse()
        .context("an address and port")
}

/// A call's bytes. HTTP/1.0 has no chunks, and ends with its answer.
pub fn request(function: &str, token: &str, body: &serde_json::Value) -> String {
    let body = body.to_string();
    format!(
        "POST /rpc/{function} HTTP/1.0\r\nHost: api\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends it; none when the connection ends without an answer.
pub async fn send(address: SocketAddr, request: &str) -> Result<Option<Answer>> {
    let mut stream = TcpStream::connect(address).await?;
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_end(&mut answer).await
    };
    if exchange.await.is_err() || answer.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8(answer)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    Ok(Some(Answer {
        head: head.to_owned(),
        body: body.to_owned(),
    }))
}
