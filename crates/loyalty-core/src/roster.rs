//! A roster: a file of members as CSV (RFC 4180), read row by row.

use crate::decode::{COLUMNS, ROWS, Unreadable};
use crate::member::Column;
use chrono::NaiveDate;
use csv::StringRecord;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{Chain, Read};

/// Ends what is read. No text of a file has a zero byte, so when the last cell does, a quote
/// was left open before it.
const END: &[u8] = b"\n\0";

/// What is wrong with a row. The header is row 1, as a spreadsheet counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub row: u32,
    pub member_no: Option<String>,
    pub column: Option<String>,
    pub reason: String,
}

/// A row that can be loaded: a cell for each column, none where it is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub row: u32,
    pub member_no: String,
    pub cells: Vec<Option<String>>,
}

/// A row of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    Good(Record),
    /// Each with what is wrong, one problem at least.
    Bad(Vec<Problem>),
}

/// Reads the rows of a file.
pub struct Roster<'a> {
    columns: Vec<Column>,
    member_no: usize,
    rows: Rows<'a>,
    seen: HashMap<String, u32>,
    today: NaiveDate,
}

impl<'a> Roster<'a> {
    /// Reads the header. `today` is the last day that somebody may be born on.
    ///
    /// # Errors
    /// What is wrong with the header.
    pub fn open(text: &'a str, today: NaiveDate) -> Result<Self, Unreadable> {
        let mut rows = Rows::new(text);
        let (_, header) = rows.next()?.ok_or(Unreadable::Empty)?;
        if header.len() > COLUMNS {
            return Err(Unreadable::TooManyColumns(header.len()));
        }
        let mut columns: Vec<Column> = Vec::new();
        for (index, heading) in header.iter().enumerate() {
            let column = Column::of_heading(heading).map_err(|flaw| Unreadable::Heading {
                place: index + 1,
                heading: heading.chars().take(60).collect(),
                flaw,
            })?;
            if let Some(first) = columns
                .iter()
                .position(|other| other.name() == column.name())
            {
                return Err(Unreadable::TwiceInHeader {
                    heading: column.name().to_owned(),
                    places: [first + 1, index + 1],
                });
            }
            columns.push(column);
        }
        let names: Vec<&str> = columns.iter().map(Column::name).take(20).collect();
        let member_no = columns
            .iter()
            .position(|column| *column == Column::MemberNo)
            .ok_or_else(|| Unreadable::NoMemberNo {
                headings: names.join(", "),
            })?;
        Ok(Roster {
            columns,
            member_no,
            rows,
            seen: HashMap::new(),
            today,
        })
    }

    /// The columns of the file, in its order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The next row that is not empty.
    ///
    /// # Errors
    /// When the file cannot be read on.
    pub fn next_row(&mut self) -> Result<Option<Row>, Unreadable> {
        loop {
            let Some((row, cells)) = self.rows.next()? else {
                return Ok(None);
            };
            // row 1 is the header
            if row > ROWS + 1 {
                return Err(Unreadable::TooManyRows);
            }
            if cells.iter().any(|cell| !cell.trim().is_empty()) {
                return Ok(Some(self.check(row, &cells)));
            }
        }
    }

    fn check(&mut self, row: u32, cells: &StringRecord) -> Row {
        let given = cells.get(self.member_no).unwrap_or_default().trim();
        let known = (!given.is_empty()).then(|| given.chars().take(100).collect::<String>());
        let problem = |column: Option<&str>, reason: String| Problem {
            row,
            member_no: known.clone(),
            column: column.map(str::to_owned),
            reason,
        };
        if cells.len() != self.columns.len() {
            let broken = cells.iter().any(|cell| cell.contains('\n'));
            let reason = format!(
                "has {} cells, and the header {}{}",
                cells.len(),
                self.columns.len(),
                if broken {
                    "; a cell goes over several lines: is a quote missing?"
                } else {
                    ""
                }
            );
            return Row::Bad(vec![problem(None, reason)]);
        }
        let mut problems = Vec::new();
        let mut clean = Vec::with_capacity(cells.len());
        for (column, cell) in self.columns.iter().zip(cells) {
            match column.clean(cell, self.today) {
                Ok(value) => clean.push(value),
                Err(flaw) => {
                    clean.push(None);
                    problems.push(problem(Some(column.name()), flaw.to_string()));
                }
            }
        }
        let member_no = clean[self.member_no].clone().unwrap_or_default();
        if !member_no.is_empty() {
            match self.seen.entry(member_no.clone()) {
                Entry::Occupied(first) => problems.push(problem(
                    Some("member_no"),
                    format!("is on row {} already", first.get()),
                )),
                Entry::Vacant(place) => {
                    place.insert(row);
                }
            }
        }
        if problems.is_empty() {
            Row::Good(Record {
                row,
                member_no,
                cells: clean,
            })
        } else {
            Row::Bad(problems)
        }
    }
}

/// The rows of a CSV text with the numbers that a spreadsheet shows: blank lines count, line
/// breaks within a cell do not.
struct Rows<'a> {
    text: &'a [u8],
    reader: csv::Reader<Chain<&'a [u8], &'static [u8]>>,
    cells: StringRecord,
    row: u32,
}

impl<'a> Rows<'a> {
    fn new(text: &'a str) -> Self {
        let text = text.as_bytes();
        Rows {
            text,
            reader: csv::ReaderBuilder::new()
                .has_headers(false)
                .flexible(true)
                .from_reader(text.chain(END)),
            cells: StringRecord::new(),
            row: 0,
        }
    }

    fn next(&mut self) -> Result<Option<(u32, StringRecord)>, Unreadable> {
        // the reader fails on what is not UTF-8 only, and this is
        if !matches!(self.reader.read_record(&mut self.cells), Ok(true)) {
            return Ok(None);
        }
        let start = self.cells.position().map_or(0, csv::Position::byte);
        self.row += 1 + self.blank_lines(usize::try_from(start).unwrap_or(usize::MAX));
        let last = self.cells.len().saturating_sub(1);
        match self.cells.get(last) {
            Some("\0") if last == 0 => Ok(None),
            Some(cell) if cell.ends_with('\0') => Err(Unreadable::OpenQuote { row: self.row }),
            _ => Ok(Some((self.row, std::mem::take(&mut self.cells)))),
        }
    }

    /// How many blank lines the reader passes over from there.
    fn blank_lines(&self, start: usize) -> u32 {
        let byte = |at: usize| self.text.get(at).copied();
        let mut at = start;
        if at > 0 && byte(at - 1) == Some(b'\r') && byte(at) == Some(b'\n') {
            at += 1;
        }
        let mut lines = 0;
        loop {
            match byte(at) {
                Some(b'\r') if byte(at + 1) == Some(b'\n') => at += 2,
                Some(b'\r' | b'\n') => at += 1,
                _ => return lines,
            }
            lines += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::decode;
    use encoding_rs::UTF_8;
    use proptest::prelude::*;

    fn today() -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 6, 15).expect("a day")
    }
    /// Rows as `number member_no cells`, problems as `number! column reason`.
    fn read(text: &str) -> Result<Vec<String>, Unreadable> {
        let mut roster = Roster::open(text, today())?;
        let mut lines = Vec::new();
        while let Some(row) = roster.next_row()? {
            match row {
                Row::Good(record) => {
                    let cells: Vec<String> = record
                        .cells
                        .iter()
                        .map(|cell| cell.clone().unwrap_or_else(|| "-".to_owned()))
                        .collect();
                    lines.push(format!("{} {}", record.row, cells.join("|")));
                }
                Row::Bad(problems) => lines.extend(problems.iter().map(|problem| {
                    let column = problem.column.as_deref().unwrap_or("-");
                    format!("{}! {column} {}", problem.row, problem.reason)
                })),
            }
        }
        Ok(lines)
    }

    #[test]
    fn rows_are_numbered_as_a_spreadsheet_shows_them() {
        for end in ["\n", "\r\n"] {
            let text = [
                "member_no,name",
                "",
                "1,\"Ann",
                "Lee\"",
                "",
                ",",
                "2,\"say \"\"hi\"\"\"",
                "3,=x",
                "",
            ]
            .join(end);
            // the cell with a line break has it refused: a name is one line
            let rows = read(&text).expect("a roster");
            let numbers: Vec<&str> = rows
                .iter()
                .filter_map(|line| line.split([' ', '!']).next())
                .collect();
            assert_eq!(numbers, ["3", "6", "7"], "{rows:?}");
            assert_eq!(rows[1], "6 2|say \"hi\"");
        }
        assert_eq!(read("member_no\r1\r\r2").expect("a roster"), ["2 1", "4 2"]);
        assert_eq!(
            read("member_no,所属\n1,\"a\nb\"\n2,c").expect("a roster"),
            ["2 1|a\nb", "3 2|c"]
        );
    }

    #[test]
    fn a_header_is_needed_and_says_what_is_wrong_with_it() {
        assert_eq!(read(""), Err(Unreadable::Empty));
        assert_eq!(read("\n\n"), Err(Unreadable::Empty));
        assert!(matches!(
            read("name;member_no\n"),
            Err(Unreadable::NoMemberNo { .. })
        ));
        assert!(matches!(
            read("member_no,Name,name\n"),
            Err(Unreadable::TwiceInHeader { places: [2, 3], .. })
        ));
        assert!(matches!(
            read("member_no,\n"),
            Err(Unreadable::Heading { place: 2, .. })
        ));
        assert!(matches!(
            read("member_no,=1\n"),
            Err(Unreadable::Heading { place: 2, .. })
        ));
        let wide = format!(
            "member_no{}",
            (0..COLUMNS).map(|n| format!(",c{n}")).collect::<String>()
        );
        assert_eq!(read(&wide), Err(Unreadable::TooManyColumns(COLUMNS + 1)));
        assert_eq!(read("member_no,name").expect("a roster"), [""; 0]);
    }

    #[test]
    fn an_open_quote_is_found_where_it_opens() {
        assert_eq!(
            read("member_no,name\n1,a\n2,\"b\n3,c\n"),
            Err(Unreadable::OpenQuote { row: 3 })
        );
        assert_eq!(
            read("member_no,name\n1,\""),
            Err(Unreadable::OpenQuote { row: 2 })
        );
        assert_eq!(read("\"member_no"), Err(Unreadable::OpenQuote { row: 1 }));
        assert_eq!(
            read("member_no,name\n1,\"b\"").expect("a roster"),
            ["2 1|b"]
        );
        // two of them hide what is between: told by the number of cells
        let rows = read("member_no,name\n1,\"b\n2,c\n3,\"d\n4,e\n").expect("a roster");
        assert!(
            rows[0].starts_with("2! - has ") && rows[0].ends_with("is a quote missing?")
                || rows[0].starts_with("2! name has the control"),
            "{rows:?}"
        );
    }

    #[test]
    fn every_problem_of_a_row_is_told_and_a_number_is_taken_once() {
        let text = "member_no,name,birth_date,phone\n\
                    M-1,Ann,1990-02-30,12\n\
                    M-1,Ann,1990-02-28,\n\
                    ,Bob,,\n\
                    M-2,Bob\n\
                    M-3,Cid,,090-1234-5678\n";
        let rows = read(text).expect("a roster");
        assert_eq!(
            rows.iter()
                .map(|row| row.split(" has ").next().unwrap_or_default())
                .collect::<Vec<_>>(),
            [
                "2! birth_date \"1990-02-30\" is not a day; write 2024-06-20 or 2024/06/20",
                "2! phone \"12\" is not a phone number; those outside Japan begin with + and the country code",
                "3! member_no is on row 2 already",
                "4! member_no is empty",
                "5! -",
                "6 M-3|Cid|-|+819012345678",
            ]
        );
    }

    fn quoted(cell: &str) -> String {
        format!("\"{}\"", cell.replace('"', "\"\""))
    }

    proptest! {
        // What a spreadsheet would write comes back cell by cell, whatever stands in the cells,
        // and any text at all gives rows or an error.
        #[test]
        fn what_was_written_is_read(cells in proptest::collection::vec("(|[^\0\u{FFFD}=+\\-@＝＋－＠\\p{C}]{1,12}(\r?\n[a-z\"]{0,3})?)", 1..20)) {
            let mut text = "member_no,x\r\n".to_owned();
            for (index, cell) in cells.iter().enumerate() {
                text += &format!("{index},{}\r\n", quoted(cell));
            }
            let rows = read(&text).expect("a roster");
            let expected: Vec<String> = cells.iter().enumerate().map(|(index, cell)| {
                let cell = cell.trim();
                format!("{} {index}|{}", index + 2, if cell.is_empty() { "-" } else { cell })
            }).collect();
            prop_assert_eq!(rows, expected);
        }

        #[test]
        fn any_bytes_give_rows_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200), head in any::<bool>()) {
            let mut file = if head { b"member_no,name\n".to_vec() } else { Vec::new() };
            file.extend(&bytes);
            for encoding in [UTF_8, encoding_rs::SHIFT_JIS, encoding_rs::UTF_16LE] {
                if let Ok(text) = decode(&file, encoding)
                    && let Ok(mut roster) = Roster::open(&text, today())
                {
                    let mut last = 1;
                    while let Ok(Some(row)) = roster.next_row() {
                        let number = match row {
                            Row::Good(record) => record.row,
                            Row::Bad(problems) => problems[0].row,
                        };
                        prop_assert!(number > last);
                        last = number;
                    }
                }
            }
        }
    }
}
