//! A web page to look at what was caught, and the webhook that catches short messages.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::store::{self, Caught, Kept, Store};

/// More than anybody scrolls through.
const LISTED: usize = 500;

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, store: Arc<Store>) -> Result<()> {
    let app = Router::new()
        .route("/", get(list))
        .route("/messages", get(list_json))
        .route("/messages/{number}", get(show))
        .route("/messages/{number}/html", get(html))
        .route("/messages/{number}/source", get(source))
        .route("/sms", post(sms))
        .with_state(store);
    axum::serve(listener, app).await.context("the page ended")
}

/// What went wrong here is shown to the one who looks.
struct Failure(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (StatusCode::NOT_FOUND, format!("{:#}\n", self.0)).into_response()
    }
}

/// The newest first.
fn newest(store: &Store) -> Result<Vec<Kept>> {
    let numbers = store::numbers(store.dir())?;
    let newest = numbers.iter().rev().take(LISTED);
    newest
        .map(|number| store::read(store.dir(), *number))
        .collect()
}

async fn list(State(store): State<Arc<Store>>) -> Result<Html<String>, Failure> {
    let mut rows = String::new();
    for kept in newest(&store)? {
        write!(
            rows,
            "<tr><td><a href=\"/messages/{0}\">{0}</a><td>{1}<td>{2}<td>{3}</tr>",
            kept.number,
            escape(&kept.caught_at),
            escape(&kept.to),
            escape(&kept.subject)
        )?;
    }
    Ok(page(&format!(
        "<h1>Caught mails</h1><p>Nothing here was delivered. Newest first.\
         <table><tr><th>#<th>caught at<th>to<th>subject</tr>{rows}</table>"
    )))
}

async fn list_json(State(store): State<Arc<Store>>) -> Result<Json<Value>, Failure> {
    let messages = newest(&store)?.into_iter().map(|kept| {
        json!({
            "number": kept.number, "caught_at": kept.caught_at, "from": kept.from,
            "to": kept.to, "subject": kept.subject,
        })
    });
    Ok(Json(messages.collect()))
}

async fn show(
    State(store): State<Arc<Store>>,
    Path(number): Path<u64>,
) -> Result<Html<String>, Failure> {
    let kept = store::read(store.dir(), number)?;
    let mut body = format!(
        "<p><a href=\"/\">all</a> · <a href=\"/messages/{number}/source\">source</a>\
         <h1>{}</h1><p>From: {}<br>To: {}<br>Caught at: {}<pre>{}</pre>",
        escape(&kept.subject),
        escape(&kept.from),
        escape(&kept.to),
        escape(&kept.caught_at),
        escape(&kept.text)
    );
    if kept.html.is_some() {
        // Its scripts and links stay in their box.
        write!(
            body,
            "<iframe sandbox src=\"/messages/{number}/html\"></iframe>"
        )?;
    }
    Ok(page(&body))
}

async fn html(
    State(store): State<Arc<Store>>,
    Path(number): Path<u64>,
) -> Result<impl IntoResponse, Failure> {
    let kept = store::read(store.dir(), number)?;
    let html = kept.html.context("it has no HTML")?;
    Ok((
        [(
            header::CONTENT_SECURITY_POLICY,
            "sandbox; default-src 'none'; style-src 'unsafe-inline'",
        )],
        Html(html),
    ))
}

async fn source(
    State(store): State<Arc<Store>>,
    Path(number): Path<u64>,
) -> Result<impl IntoResponse, Failure> {
    let kind = "text/plain; charset=utf-8";
    let source = store::source(store.dir(), number)?;
    Ok(([(header::CONTENT_TYPE, kind)], source))
}

/// Keeps a short message as if it had been a mail, so that it is found among them.
async fn sms(
    State(store): State<Arc<Store>>,
    Json(sms): Json<Value>,
) -> Result<StatusCode, Failure> {
    let field = |name: &str| {
        let text = sms[name].as_str().unwrap_or_default();
        text.replace(['\r', '\n'], " ")
    };
    let text = sms["text"].as_str().unwrap_or_default();
    let data = format!(
        "From: <sms@catcher.example.com>\r\nTo: <{}>\r\nSubject: SMS {}\r\n\
         Message-ID: {}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n",
        field("to"),
        field("subject"),
        field("message_id"),
    );
    store.add(&Caught {
        from: String::new(),
        to: vec![field("to")],
        data: data.into_bytes(),
        user: None,
        is_encrypted: false,
    })?;
    Ok(StatusCode::ACCEPTED)
}

fn page(body: &str) -> Html<String> {
    Html(format!(
        "<!doctype html><meta charset=\"utf-8\"><title>Caught mails</title><style>\
         body{{font:16px/1.5 sans-serif;margin:2em;max-width:70em}}\
         table{{border-collapse:collapse}}td,th{{padding:.2em 1em .2em 0;text-align:left}}\
         pre{{white-space:pre-wrap;background:#f4f4f4;padding:1em}}\
         iframe{{width:100%;height:30em;border:1px solid #ccc}}</style>{body}"
    ))
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}
