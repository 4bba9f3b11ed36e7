//! Caught messages, as files that any mail program opens.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use mail_parser::{Address, DateTime, MessageParser};

/// A message as it came.
#[derive(Clone, Debug)]
pub struct Caught {
    pub from: String,
    pub to: Vec<String>,
    pub data: Vec<u8>,
    /// Who was logged in.
    pub user: Option<String>,
    pub is_encrypted: bool,
}

/// A directory of `NUMBER.eml`.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    next: Mutex<u64>,
}

/// A kept message, read.
#[derive(Clone, Debug)]
pub struct Kept {
    pub number: u64,
    pub caught_at: String,
    pub from: String,
    pub to: String,
    pub subject: String,
    pub text: String,
    pub html: Option<String>,
}

impl Store {
    pub fn open(dir: &Path) -> Result<Self> {
        crate::os::create_dir(dir)?;
        let last = numbers(dir)?.last().copied().unwrap_or(0);
        Ok(Self {
            dir: dir.to_owned(),
            next: Mutex::new(last + 1),
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a message with the envelope as a mailbox's server would note it.
    pub fn add(&self, caught: &Caught) -> Result<()> {
        let mut next = self
            .next
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let now = DateTime::from_timestamp(i64::try_from(seconds.as_secs())?);
        let mut text = format!("Return-Path: <{}>\r\n", caught.from).into_bytes();
        for to in &caught.to {
            text.extend(format!("Delivered-To: {to}\r\n").into_bytes());
        }
        text.extend(
            format!("Received: by catcher.example.com; {}\r\n", now.to_rfc822()).into_bytes(),
        );
        text.extend(&caught.data);
        let path = path(&self.dir, *next);
        let new = path.with_extension("new");
        fs::write(&new, text).with_context(|| format!("{} cannot be written", new.display()))?;
        fs::rename(&new, &path)?;
        *next += 1;
        Ok(())
    }
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:06}.eml"))
}

/// The numbers of the messages in a directory, in order; none where it does not exist.
pub fn numbers(dir: &Path) -> Result<Vec<u64>> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(Vec::new());
    };
    let mut numbers: Vec<u64> = entries
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_suffix(".eml")?
                .parse()
                .ok()
        })
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

pub fn source(dir: &Path, number: u64) -> Result<Vec<u8>> {
    let path = path(dir, number);
    fs::read(&path).with_context(|| format!("there is no message {number}"))
}

pub fn read(dir: &Path, number: u64) -> Result<Kept> {
    let source = source(dir, number)?;
    let message = MessageParser::default()
        .parse(&source)
        .with_context(|| format!("message {number} cannot be read"))?;
    let html = message
        .html_bodies()
        .any(mail_parser::MessagePart::is_text_html)
        .then(|| message.body_html(0))
        .flatten();
    Ok(Kept {
        number,
        caught_at: message
            .received()
            .and_then(|received| received.date())
            .map(|date| date.to_rfc3339())
            .unwrap_or_default(),
        from: addresses(message.from()),
        to: addresses(message.to()),
        subject: message.subject().unwrap_or_default().to_owned(),
        text: message.body_text(0).unwrap_or_default().into_owned(),
        html: html.map(|html| html.into_owned()),
    })
}

fn addresses(address: Option<&Address>) -> String {
    let all = address.into_iter().flat_map(Address::iter);
    let each = all.map(|one| {
        let email = one.address().unwrap_or_default();
        match one.name() {
            Some(name) => format!("{name} <{email}>"),
            None => email.to_owned(),
        }
    });
    each.collect::<Vec<_>>().join(", ")
}
