//! A page: its blocks, what it lists, and what it links to.

use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeSet;

/// The section of functions that callers do not use: each a name in backquotes, or its
/// beginning and an ellipsis.
pub use loyalty_testkit::repository;

pub fn read(page: &str) -> Result<String> {
    std::fs::read_to_string(repository().join(page)).with_context(|| page.to_owned())
}

/// The pages in docs/.
pub fn pages() -> Result<BTreeSet<String>> {
    let mut pages = BTreeSet::new();
    for entry in std::fs::read_dir(repository().join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            pages.insert(format!("docs/{name}"));
        }
    }
    Ok(pages)
}

/// A fenced block; lines are counted from 0.
#[derive(Debug)]
pub struct Block {
    pub info: String,
    pub opening: usize,
    pub closing: usize,
}

impl Block {
    pub fn language(&self) -> &str {
        self.info.split_whitespace().next().unwrap_or_default()
    }

    pub fn runs(&self) -> bool {
        matches!(self.info.as_str(), "sql" | "sh")
    }

    pub fn body(&self, lines: &[&str]) -> String {
        lines[self.opening + 1..self.closing].join("\n")
    }
}

pub fn blocks(lines: &[&str]) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in lines.iter().enumerate() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        open = match open {
            None => Some((index, info.trim().to_owned())),
            Some((opening, info)) => {
                blocks.push(Block {
                    info,
                    opening,
                    closing: index,
                });
                None
            }
        };
    }
    ensure!(open.is_none(), "a fence is not closed");
    Ok(blocks)
}

/// The block that shows the output of the one at `index`, where there is one.
pub fn output_of<'a>(blocks: &'a [Block], index: usize, lines: &[&str]) -> Option<&'a Block> {
    let next = blocks.get(index + 1)?;
    let between = &lines[blocks[index].closing + 1..next.opening];
    (matches!(next.language(), "text" | "json") && between.iter().all(|line| line.is_empty()))
        .then_some(next)
}

/// Without spaces at line ends, and without empty lines around.
pub fn trimmed(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

/// Lines outside of blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    })
}

/// The targets of a page's links.
pub fn links(text: &str) -> Vec<String> {
    prose(text)
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect()
}

/// What a page's headings can be linked by.
pub fn anchors(text: &str) -> BTreeSet<String> {
    prose(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}
