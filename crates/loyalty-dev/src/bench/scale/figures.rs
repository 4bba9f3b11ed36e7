//! What was measured at each size, and how it grew.

use anyhow::Result;

use crate::bench::report::{self, grouped, median, percentile};

/// More than this of the smallest size's is too much growth.
const MOST_GROWTH: f64 = 1.5;

/// Tables of the output, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Milliseconds of single calls: they should not notice how many members there are.
    Calls,
    /// Milliseconds of bare statements, to hold those against.
    Bare,
    /// The calls with nothing in memory.
    Cold,
    /// Microseconds an item of what goes through all of it.
    Bulk,
    /// MiB of a server process.
    Memory,
    /// Bytes a member.
    Disk,
}

const GROUPS: [(Group, &str, bool); 6] = [
    (Group::Calls, "single call: median (p99), ms", true),
    (
        Group::Bare,
        "bare statement, to compare: median (p99), ms",
        false,
    ),
    (Group::Cold, "from a cold start: median (p99), ms", false),
    (Group::Bulk, "over all of it: time, and of each item", true),
    (Group::Memory, "memory of the server process, MiB", false),
    (Group::Disk, "on disk: MiB, and bytes a member", false),
];

/// One figure at one size.
struct Figure {
    group: Group,
    name: String,
    /// As it is shown.
    text: String,
    /// What grows.
    value: f64,
}

/// Everything measured at one size.
pub struct Figures {
    pub members: usize,
    all: Vec<Figure>,
    /// Sentences below the tables.
    pub notes: Vec<String>,
    /// What does not hold: laws broken, plans that read a ledger table from end to end.
    pub findings: Vec<String>,
}

impl Figures {
    pub fn new(members: usize) -> Self {
        Self {
            members,
            all: Vec::new(),
            notes: Vec::new(),
            findings: Vec::new(),
        }
    }

    fn add(&mut self, group: Group, name: &str, text: String, value: f64) {
        self.all.push(Figure {
            group,
            name: name.to_owned(),
            text,
            value,
        });
    }

    /// Calls with the milliseconds of each.
    pub fn call(&mut self, group: Group, name: &str, times: &[f64]) -> Result<()> {
        let middle = median(times);
        let text = format!("{middle:.3} ({:.3})", percentile(times, 99.0)?);
        self.add(group, name, text, middle);
        Ok(())
    }

    /// Work on so many items that took so long.
    pub fn bulk(&mut self, name: &str, items: f64, took: std::time::Duration) {
        let seconds = took.as_secs_f64();
        let each = seconds * 1e6 / items.max(1.0);
        let text = format!("{seconds:.1} s, {each:.2} µs");
        self.add(Group::Bulk, name, text, each);
    }

    pub fn memory(&mut self, name: &str, mebibytes: f64) {
        self.add(Group::Memory, name, format!("{mebibytes:.1}"), mebibytes);
    }

    pub fn disk(&mut self, name: &str, bytes: f64) {
        let mebibytes = bytes / f64::from(1 << 20);
        let each = bytes / self.members as f64;
        let text = format!("{}, {each:.0} B", grouped(mebibytes));
        self.add(Group::Disk, name, text, each);
    }
}

/// The tables: a column for each size, and how much each grew from the first.
pub fn text(sizes: &[Figures]) -> String {
    let Some(first) = sizes.first() else {
        return String::new();
    };
    let mut text = String::new();
    for (group, title, has_target) in GROUPS {
        let mut head = vec![title.to_owned()];
        head.extend(sizes.iter().map(|size| grouped(size.members as f64)));
        head.extend(sizes[1..].iter().map(|_| "growth".to_owned()));
        if has_target && sizes.len() > 1 {
            head.extend(["target".to_owned(), String::new()]);
        }
        let mut rows = vec![head];
        for figure in first.all.iter().filter(|figure| figure.group == group) {
            rows.push(row(figure, sizes, has_target));
        }
        if rows.len() > 1 {
            text.push('\n');
            text.push_str(&report::table(&rows, 1));
        }
    }
    text
}

fn row(figure: &Figure, sizes: &[Figures], has_target: bool) -> Vec<String> {
    let same = |size: &Figures| {
        size.all
            .iter()
            .find(|other| other.group == figure.group && other.name == figure.name)
            .map(|other| (other.text.clone(), other.value))
    };
    let at: Vec<_> = sizes.iter().map(same).collect();
    let mut row = vec![figure.name.clone()];
    row.extend(at.iter().map(|at| {
        at.as_ref()
            .map_or_else(|| "-".to_owned(), |at| at.0.clone())
    }));
    let growth: Vec<Option<f64>> = at[1..]
        .iter()
        .map(|at| at.as_ref().map(|at| at.1 / figure.value))
        .collect();
    row.extend(
        growth
            .iter()
            .map(|growth| growth.map_or_else(|| "-".to_owned(), |growth| format!("{growth:.2}"))),
    );
    if has_target && sizes.len() > 1 {
        row.push(format!("<= {MOST_GROWTH}"));
        let met = growth
            .iter()
            .all(|growth| growth.is_some_and(|growth| growth <= MOST_GROWTH));
        row.push(if met { "met" } else { "missed" }.to_owned());
    }
    row
}

#[cfg(test)]
mod tests {
    use super::{Figures, Group, text};
    use std::time::Duration;

    fn size(members: usize, call: f64, seconds: u64) -> anyhow::Result<Figures> {
        let mut figures = Figures::new(members);
        figures.call(Group::Calls, "spend", &[call, call, 2.0 * call])?;
        figures.bulk("verify", members as f64, Duration::from_secs(seconds));
        Ok(figures)
    }

    #[test]
    fn growth_is_held_against_the_smallest_size() -> anyhow::Result<()> {
        let text = text(&[
            size(1_000, 1.0, 1)?,
            size(10_000, 1.4, 10)?,
            size(20_000, 1.6, 20)?,
        ]);
        let line = |name: &str| {
            text.lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default()
                .to_owned()
        };
        assert!(line("spend").contains("1.000 (2.000)"), "{text}");
        assert!(
            line("spend").contains("1.40    1.60  <= 1.5  missed"),
            "{text}"
        );
        assert!(
            line("verify").ends_with("1.00    1.00  <= 1.5  met"),
            "{text}"
        );
        Ok(())
    }

    #[test]
    fn one_size_alone_has_no_growth() -> anyhow::Result<()> {
        let text = text(&[size(1_000, 1.0, 1)?]);
        assert!(
            !text.contains("growth") && !text.contains("target"),
            "{text}"
        );
        Ok(())
    }
}
