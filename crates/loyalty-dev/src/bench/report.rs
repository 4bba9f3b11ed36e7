//! The table of ratios.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Where a command's output goes in a Markdown file.
#[derive(Clone, Copy)]
pub struct Place {
    pub begin: &'static str,
    pub end: &'static str,
}

/// The table of ratios.
pub const RATIOS: Place = Place {
    begin: "<!-- ./dev bench --write begin -->",
    end: "<!-- ./dev bench --write end -->",
};

/// The tables of growth.
pub const GROWTH: Place = Place {
    begin: "<!-- ./dev bench --scale --write begin -->",
    end: "<!-- ./dev bench --scale --write end -->",
};

/// One figure, measured and compared round by round.
struct Line {
    name: String,
    compared_with: String,
    unit: Unit,
    /// One of each a round; rates or times, as the unit says.
    measured: Vec<f64>,
    base: Vec<f64>,
    target: Option<Target>,
}

#[derive(Clone, Copy)]
pub enum Unit {
    PerSecond,
    Milliseconds,
    Mebibytes,
}

#[derive(Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Of the figure itself, in its own unit, and not of the ratio.
    Below(f64),
}

/// Bytes that one grant takes on disk.
pub struct Size {
    /// The tables and indexes, with the bytes of each.
    pub parts: Vec<(String, f64)>,
    pub target: Target,
}

pub struct Report {
    surroundings: String,
    lines: Vec<Line>,
    pub size: Option<Size>,
    /// Sentences below the table.
    pub notes: Vec<String>,
    /// What `verify()` found.
    pub findings: Vec<String>,
}

impl Report {
    pub fn new(surroundings: String) -> Self {
        Self {
            surroundings,
            lines: Vec::new(),
            size: None,
            notes: Vec::new(),
            findings: Vec::new(),
        }
    }

    pub fn line(
        &mut self,
        name: &str,
        compared_with: &str,
        unit: Unit,
        measured: Vec<f64>,
        base: Vec<f64>,
        target: Option<Target>,
    ) {
        self.lines.push(Line {
            name: name.to_owned(),
            compared_with: compared_with.to_owned(),
            unit,
            measured,
            base,
            target,
        });
    }

    pub fn text(&self) -> String {
        let mut text = self.surroundings.clone();
        if !self.lines.is_empty() {
            text.push('\n');
            text.push_str(&table(&self.ratio_rows(), 2));
        }
        if let Some(size) = &self.size {
            text.push('\n');
            text.push_str(&table(&size.rows(), 1));
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for note in self.notes.iter().chain(&self.findings) {
            text.push_str(note);
            text.push('\n');
        }
        text
    }

    fn ratio_rows(&self) -> Vec<Vec<String>> {
        let heads = "this|against that|this|that|ratio|min|max|target|";
        let mut rows = vec![heads.split('|').map(str::to_owned).collect::<Vec<_>>()];
        for line in &self.lines {
            let ratios: Vec<f64> = line
                .measured
                .iter()
                .zip(&line.base)
                .map(|(measured, base)| measured / base)
                .collect();
            let ratio = median(&ratios);
            let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let most = ratios.iter().copied().fold(0.0, f64::max);
            let (target, met) = match line.target {
                Some(Target::Below(most)) => (
                    format!("< {}", line.unit.show(most)),
                    met_or_missed(median(&line.measured) < most),
                ),
                target => verdict(target, ratio, 2),
            };
            rows.push(vec![
                line.name.clone(),
                line.compared_with.clone(),
                line.unit.show(median(&line.measured)),
                line.unit.show(median(&line.base)),
                format!("{ratio:.3}"),
                format!("{least:.3}"),
                format!("{most:.3}"),
                target,
                met,
            ]);
        }
        rows
    }

    /// An error when the figures are of a ledger that does not hold together.
    pub fn must_be_sound(&self) -> Result<()> {
        if !self.findings.is_empty() {
            bail!("verify() found what does not hold; see above");
        }
        Ok(())
    }
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond => format!("{} /s", grouped(value)),
            Self::Milliseconds => format!("{value:.3} ms"),
            Self::Mebibytes => format!("{value:.1} MiB"),
        }
    }
}

impl Size {
    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![
            ["on disk", "bytes a grant", "target", ""]
                .map(str::to_owned)
                .to_vec(),
        ];
        for (name, bytes) in &self.parts {
            rows.push(vec![
                name.clone(),
                format!("{bytes:.1}"),
                String::new(),
                String::new(),
            ]);
        }
        let total = self.parts.iter().map(|(_, bytes)| bytes).sum();
        let (target, met) = verdict(Some(self.target), total, 0);
        rows.push(vec![
            "together".to_owned(),
            format!("{total:.1}"),
            target,
            met,
        ]);
        rows
    }
}

fn verdict(target: Option<Target>, value: f64, digits: usize) -> (String, String) {
    let (text, met) = match target {
        None => return (String::new(), String::new()),
        Some(Target::AtLeast(least)) => (format!(">= {least:.digits$}"), value >= least),
        Some(Target::AtMost(most)) => (format!("<= {most:.digits$}"), value <= most),
        Some(Target::Below(most)) => (format!("< {most:.digits$}"), value < most),
    };
    (text, met_or_missed(met))
}

fn met_or_missed(met: bool) -> String {
    if met { "met" } else { "missed" }.to_owned()
}

/// Columns of equal width, the first `names` of them aligned to the left; a rule below the head.
pub fn table(rows: &[Vec<String>], names: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut lines = aligned(rows, |column| column < names || column + 1 == columns);
    if let Some(width) = lines.iter().map(|line| line.chars().count()).max() {
        lines.insert(1, "-".repeat(width));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Lines of columns of equal width, texts aligned to the left and the others to the right.
pub fn aligned(rows: &[Vec<String>], is_text: impl Fn(usize) -> bool) -> Vec<String> {
    let widths = widths(rows);
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| match is_text(column) {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            })
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    (0..columns).map(width).collect()
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// The time that so many of a hundred stay under.
pub fn percentile(times: &[f64], percent: f64) -> Result<f64> {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    let time = sorted.get(place.saturating_sub(1));
    time.copied().context("nothing was measured")
}

/// A whole number with a comma before each three digits.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Puts the output between the markers of a Markdown file.
pub fn write_into(path: &Path, place: Place, output: &str) -> Result<()> {
    let page =
        fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let page = replaced(&page, place, output).with_context(|| {
        let Place { begin, end } = place;
        format!("{} lacks the markers {begin} and {end}", path.display())
    })?;
    fs::write(path, page).with_context(|| format!("{} cannot be written", path.display()))
}

fn replaced(page: &str, place: Place, output: &str) -> Option<String> {
    let Place { begin, end } = place;
    let (before, rest) = page.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!(
        "{before}{begin}\n```text\n{}\n```\n{end}{after}",
        output.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    use super::{
        Place, RATIOS, Report, Target, Unit, grouped, median, percentile, replaced, table,
    };

    fn report(target: Target) -> Report {
        let mut report = Report::new("surroundings\n".to_owned());
        let measured = vec![600.0, 1_400.0, 650.0];
        let base = vec![1_000.0, 2_000.0, 1_000.0];
        report.line(
            "spend",
            "update",
            Unit::PerSecond,
            measured,
            base,
            Some(target),
        );
        report
    }

    #[test]
    fn ratios_are_taken_round_by_round_and_their_median_judged() {
        let text = report(Target::AtLeast(0.65)).text();
        assert!(text.contains("0.650  0.600  0.700"), "{text}");
        assert!(text.ends_with("met\n"), "{text}");
        let text = report(Target::AtLeast(0.66)).text();
        assert!(text.ends_with("missed\n"), "{text}");
        let text = report(Target::AtMost(0.64)).text();
        assert!(text.ends_with("missed\n"), "{text}");
    }

    #[test]
    fn a_target_of_the_figure_itself_does_not_look_at_the_ratio() {
        let text = report(Target::Below(651.0)).text();
        assert!(text.contains("< 651 /s  met"), "{text}");
        let text = report(Target::Below(650.0)).text();
        assert!(text.contains("< 650 /s  missed"), "{text}");
    }

    #[test]
    fn a_rule_as_wide_as_the_table_is_below_its_head() {
        let rows = [["name", "each", "so"], ["a é", "1,000", "met"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        let shown = "name   each  so\n----------------\na é   1,000  met\n";
        assert_eq!(table(&rows, 1), shown);
        assert_eq!(table(&[], 1), "");
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn of_a_hundred_times_one_may_be_longer() -> anyhow::Result<()> {
        let times: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&times, 99.0)?, 99.0);
        assert_eq!(percentile(&[7.0], 99.0)?, 7.0);
        assert!(percentile(&[], 99.0).is_err());
        Ok(())
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(grouped(999.4), "999");
        assert_eq!(grouped(1_234_567.0), "1,234,567");
    }

    #[test]
    fn writing_replaces_what_is_between_the_markers_only() {
        let Place { begin, end } = RATIOS;
        let page = format!("a\n{begin}\nold\n{end}\nb\n");
        let new = replaced(&page, RATIOS, "new\n").unwrap_or_default();
        assert_eq!(new, format!("a\n{begin}\n```text\nnew\n```\n{end}\nb\n"));
        assert_eq!(replaced(&new, RATIOS, "new\n"), Some(new.clone()));
        assert_eq!(replaced("no markers", RATIOS, "new"), None);
    }

    #[test]
    fn findings_make_the_run_fail() {
        let mut report = report(Target::AtLeast(0.5));
        assert!(report.must_be_sound().is_ok());
        report.findings.push("law 1".to_owned());
        assert!(report.must_be_sound().is_err());
    }
}
