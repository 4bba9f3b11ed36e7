//! How far it is, on standard error: a bar on a terminal, else a line a phase.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// One phase of the run; cheap to clone, gone when dropped.
#[derive(Clone)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub fn phase(what: &str, steps: u64) -> Result<Self> {
        if !std::io::stderr().is_terminal() {
            eprintln!("dev: {what}");
        }
        let style = ProgressStyle::with_template(
            "{spinner} {prefix} {wide_bar} {percent:>3} % {elapsed} {msg}",
        )?;
        let bar = ProgressBar::new(steps)
            .with_style(style)
            .with_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Ok(Self { bar })
    }

    pub fn now(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    pub fn advance(&self, steps: u64) {
        self.bar.inc(steps);
    }

    pub fn end(self) {
        self.bar.finish_and_clear();
    }
}
