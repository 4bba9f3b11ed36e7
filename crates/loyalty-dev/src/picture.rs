//! `./dev picture`: docs/picture.svg, a session in psql as it really went.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use loyalty_testkit::client_program;

use crate::context::{Context, DATABASE};

/// What is typed. It is rolled back.
const SESSION: &str = include_str!("../sql/picture.sql");
const BEGINS: &str = "-- shown from here on\n";
const FILE: &str = "docs/picture.svg";

const CHAR_WIDTH: f32 = 7.8;
const LINE_HEIGHT: usize = 19;
const MARGIN: usize = 16;

pub fn draw(context: &Context) -> Result<()> {
    let cluster = context.running_cluster()?;
    let mut psql = client_program(
        &cluster.bin,
        "psql",
        &cluster.socket_dir,
        cluster.port,
        DATABASE,
    );
    let script = context.repo.join("crates/loyalty-dev/sql/picture.sql");
    let output = psql
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
        .arg(script)
        .output()?;
    ensure!(
        output.status.success(),
        "psql: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let (_, typed) = SESSION.split_once(BEGINS).context("nothing is shown")?;
    let typed: Vec<&str> = typed.lines().filter(|line| !line.is_empty()).collect();
    let printed = String::from_utf8(output.stdout)?;
    fs::write(context.repo.join(FILE), svg(printed.trim_end(), &typed))?;
    eprintln!("dev: wrote {FILE}");
    Ok(())
}

/// Lines as a terminal shows them, what was typed in another colour.
fn svg(printed: &str, typed: &[&str]) -> String {
    let lines: Vec<&str> = printed.lines().collect();
    let longest = lines.iter().map(|line| line.chars().count()).max();
    let width = (longest.unwrap_or(0) as f32 * CHAR_WIDTH) as usize + 2 * MARGIN;
    let height = lines.len() * LINE_HEIGHT + 2 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>A session in psql</title>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#1b1f27\"/>\n\
         <g font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"13\" \
         fill=\"#c9d1d9\" xml:space=\"preserve\">\n"
    );
    for (place, line) in lines.iter().enumerate() {
        let y = MARGIN + LINE_HEIGHT * place + 13;
        let colour = match typed.contains(line) {
            true => " fill=\"#8ddb8c\"",
            false => "",
        };
        let text = line
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        let _ = writeln!(svg, "<text x=\"{MARGIN}\" y=\"{y}\"{colour}>{text}</text>");
    }
    svg + "</g>\n</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_is_told_apart_and_nothing_is_markup() {
        let svg = svg("select 1 < 2;\n t", &["select 1 < 2;"]);
        assert!(svg.contains("fill=\"#8ddb8c\">select 1 &lt; 2;</text>"));
        assert!(svg.contains("y=\"48\"> t</text>"));
    }
}
