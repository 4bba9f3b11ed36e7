//! Files of members: `loyalty-core` reads and checks them, `sql/30_member/member.sql` writes them.

use crate::day;
use crate::error::{Code, Fault, Result};
use crate::pg::call::{Call, sql_function};
use crate::pg::datum::{text, to_bool};
use crate::pg::spi::{Param, Plan, Spi};
use crate::program;
use chrono::NaiveDate;
use loyalty_core::decode::{self, Unreadable};
use loyalty_core::member::Column;
use loyalty_core::roster::{Problem, Record, Roster, Row};
use pgrx::pg_sys::{self, Datum};
use serde_json::{Map, Value};

/// Records that one statement writes: what is in memory as JSON at a time.
const RECORDS_PER_STATEMENT: usize = 5_000;
/// Problems that one file may have; they are kept until all is read.
const PROBLEMS: usize = 100_000;

/// Imports into a program go one after the other: two that met each other's members in
/// different orders would be a deadlock.
static QUEUE: Plan = Plan::new(
    c"select pg_catalog.pg_advisory_xact_lock(
          pg_catalog.hashtext('loyalty.import_members'), $1)",
);
static WRITE: Plan = Plan::new(
    c"select w.inserted, w.updated from loyalty_private.write_members(
          $1, $2, pg_catalog.string_to_array($3, ','), $4::boolean) w",
);

sql_function!(import_members);
/// `loyalty.import_members(program, csv text, all_or_nothing, dry_run)`
fn import_members(call: &Call) -> Result<()> {
    import(call, "UTF-8", 2)
}

sql_function!(import_member_file);
/// `loyalty.import_members(program, csv bytea, encoding, all_or_nothing, dry_run)`
fn import_member_file(call: &Call) -> Result<()> {
    let encoding = call.need("encoding", call.text(2))?;
    import(call, &encoding, 3)
}

impl From<Unreadable> for Fault {
    fn from(unreadable: Unreadable) -> Self {
        let (code, reason) = if unreadable.is_limit() {
            (Code::LimitExceeded, "file_too_large")
        } else {
            (Code::InvalidValue, "file_unreadable")
        };
        Fault::new(code, reason, "the file of members cannot be read")
            .field("csv")
            .detail(unreadable.to_string())
            .hint(unreadable.hint())
    }
}

/// What became of the rows.
#[derive(Default)]
struct Outcome {
    inserted: i64,
    updated: i64,
    unchanged: i64,
    refused: i64,
    held_back: i64,
    problems: Vec<Problem>,
}

fn import(call: &Call, encoding: &str, options: usize) -> Result<()> {
    let program = call.need("program", call.text(0))?;
    let file = call.need("csv", call.datum(1))?;
    let option = |index: usize| call.datum(options + index).is_some_and(to_bool);
    let (all_or_nothing, dry_run) = (option(0), option(1));
    let encoding = decode::encoding(encoding)?;
    check_size(file)?;
    // SAFETY: csv is a text or bytea, not null; the copy, where there is one, lives as long
    // as the call.
    let file = unsafe {
        let detoasted = pg_sys::pg_detoast_datum_packed(file.cast_mut_ptr());
        pgrx::varlena_to_byte_slice(detoasted)
    };
    let csv = decode::decode(file, encoding)?;
    let (program_id, today) = find_program(&program)?;
    let target = Target {
        program_id,
        dry_run,
    };
    if !dry_run {
        let spi = Spi::connect();
        QUEUE.execute(&spi, &[Param::i32(program_id)]);
    }
    let mut outcome = Outcome::default();
    if all_or_nothing {
        let mut good = 0;
        read(&csv, today, &mut outcome, |records, _| {
            good += records.len() as i64;
            Ok((0, 0))
        })?;
        if outcome.refused > 0 {
            outcome = Outcome {
                held_back: good,
                refused: outcome.refused,
                problems: outcome.problems,
                ..Outcome::default()
            };
        } else {
            outcome = Outcome::default();
        }
    }
    if outcome.refused == 0 {
        read(&csv, today, &mut outcome, |records, columns| {
            target.write(records, columns)
        })?;
    }
    report(call, &outcome);
    Ok(())
}

/// Refuses what is too large before it is taken out of its table.
fn check_size(file: Datum) -> Result<()> {
    // SAFETY: a varlena, not null; the sizes of both kinds include a header of four bytes.
    let bytes = unsafe { pg_sys::toast_raw_datum_size(file) }.saturating_sub(4);
    if bytes > decode::FILE_BYTES {
        return Err(Unreadable::TooLarge { bytes }.into());
    }
    Ok(())
}

fn find_program(code: &str) -> Result<(i32, NaiveDate)> {
    let (program_id, today) = program::today(code)?;
    Ok((program_id, day::date(today)?))
}

/// Reads all of a file, hands on its good rows by the thousand, and keeps the problems.
fn read(
    csv: &str,
    today: NaiveDate,
    outcome: &mut Outcome,
    mut write: impl FnMut(&[Record], &[Column]) -> Result<(i64, i64)>,
) -> Result<()> {
    let mut roster = Roster::open(csv, today)?;
    let columns = roster.columns().to_vec();
    let mut records: Vec<Record> = Vec::new();
    loop {
        let row = roster.next_row()?;
        let is_end = row.is_none();
        match row {
            Some(Row::Good(record)) => records.push(record),
            Some(Row::Bad(problems)) => {
                outcome.refused += 1;
                outcome.problems.extend(problems);
                if outcome.problems.len() > PROBLEMS {
                    return Err(too_many_problems(&outcome.problems[0]));
                }
            }
            None => {}
        }
        if records.len() == RECORDS_PER_STATEMENT || is_end && !records.is_empty() {
            let (inserted, updated) = write(&records, &columns)?;
            outcome.inserted += inserted;
            outcome.updated += updated;
            outcome.unchanged += records.len() as i64 - inserted - updated;
            records.clear();
        }
        if is_end {
            return Ok(());
        }
    }
}

fn too_many_problems(first: &Problem) -> Fault {
    Fault::new(
        Code::LimitExceeded,
        "too_many_problems",
        "too many problems in the file of members",
    )
    .detail(format!(
        "More than {PROBLEMS}; the first: row {}, {} {}.",
        first.row,
        first.column.as_deref().unwrap_or("the row"),
        first.reason
    ))
    .hint("Nothing was loaded. Look at the file's columns and encoding.")
}

struct Target {
    program_id: i32,
    dry_run: bool,
}

impl Target {
    /// Writes records; how many were new, and how many changed.
    fn write(&self, records: &[Record], columns: &[Column]) -> Result<(i64, i64)> {
        let json: Vec<Value> = records
            .iter()
            .map(|record| object(record, columns))
            .collect();
        let json = Value::Array(json).to_string();
        let mut given: Vec<&str> = columns.iter().map(kept_in).collect();
        given.sort_unstable();
        given.dedup();
        let spi = Spi::connect();
        let json = text(&json);
        let written = WRITE
            .execute(
                &spi,
                &[
                    Param::i32(self.program_id),
                    Param::of(pg_sys::JSONOID, Some(json)),
                    Param::text(given.join(",").as_str()),
                    Param::text(if self.dry_run { "true" } else { "false" }),
                ],
            )
            .first();
        let count = |column| written.and_then(|row| row.i64(column)).unwrap_or_default();
        let counts = (count(1), count(2));
        // SAFETY: made above, and of no more use; a file has many of them.
        unsafe { pg_sys::pfree(json.cast_mut_ptr()) };
        Ok(counts)
    }
}

/// The column of the table that one of the file is kept in.
fn kept_in(column: &Column) -> &str {
    match column {
        Column::Fact(_) => "facts",
        Column::Attribute(_) => "attributes",
        own => own.name(),
    }
}

fn object(record: &Record, columns: &[Column]) -> Value {
    let mut object = Map::new();
    let mut facts = Map::new();
    let mut attributes = Map::new();
    for (column, cell) in columns.iter().zip(&record.cells) {
        let place = match column {
            Column::Fact(_) => &mut facts,
            Column::Attribute(_) => &mut attributes,
            _ => &mut object,
        };
        place.insert(column.name().to_owned(), Value::from(cell.as_deref()));
    }
    object.insert("facts".to_owned(), Value::Object(facts));
    object.insert("attributes".to_owned(), Value::Object(attributes));
    Value::Object(object)
}

fn report(call: &Call, outcome: &Outcome) {
    let sink = call.rows();
    let counts = [
        ("inserted", outcome.inserted),
        ("updated", outcome.updated),
        ("unchanged", outcome.unchanged),
        ("refused", outcome.refused),
        ("held back", outcome.held_back),
    ];
    for (name, rows) in counts {
        sink.put(&[
            Some(text(name)),
            Some(Datum::from(rows)),
            None,
            None,
            None,
            None,
        ]);
    }
    for problem in &outcome.problems {
        sink.put(&[
            Some(text("problem")),
            None,
            Some(Datum::from(i32::try_from(problem.row).unwrap_or(i32::MAX))),
            problem.member_no.as_deref().map(text),
            problem.column.as_deref().map(text),
            Some(text(&problem.reason)),
        ]);
    }
}
