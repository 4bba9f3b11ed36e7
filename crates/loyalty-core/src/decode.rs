//! The text of a file: its encoding, its limits, and where it is not what it should be.

use encoding_rs::{DecoderResult, Encoding, UTF_8};
use std::borrow::Cow;
use std::fmt;

/// The largest file: it is held in memory as a whole, a second time when it is not UTF-8.
pub const FILE_BYTES: usize = 64 * 1024 * 1024;
pub const ROWS: u32 = 1_000_000;
pub const COLUMNS: usize = 200;
/// Why a file cannot be read at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    TooLarge {
        bytes: usize,
    },
    UnknownEncoding(String),
    Undecodable {
        encoding: &'static str,
        place: Place,
        bytes: Vec<u8>,
    },
    ZeroByte(Place),
    Empty,
    TooManyColumns(usize),
    Heading {
        place: usize,
        heading: String,
        flaw: String,
    },
    TwiceInHeader {
        heading: String,
        places: [usize; 2],
    },
    NoMemberNo {
        headings: String,
    },
    OpenQuote {
        row: u32,
    },
    TooManyRows,
}

/// Where in a file: lines and characters from 1, bytes from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub character: usize,
    pub byte: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "line {}, character {} (byte {})",
            self.line, self.character, self.byte
        )
    }
}

impl Place {
    /// The place after a text of so many bytes in its file.
    fn after(text: &str, byte: usize) -> Self {
        let line = 1 + text.bytes().filter(|b| *b == b'\n').count();
        let last = text.rsplit('\n').next().unwrap_or_default();
        Place {
            line,
            character: 1 + last.chars().count(),
            byte,
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Unreadable::TooLarge { bytes } => {
                write!(f, "It has {bytes} bytes; at most {FILE_BYTES} are allowed.")
            }
            Unreadable::UnknownEncoding(name) => write!(f, "{name:?} is not a known encoding."),
            Unreadable::Undecodable {
                encoding,
                place,
                bytes,
            } => {
                let bytes: Vec<String> = bytes.iter().map(|b| format!("0x{b:02X}")).collect();
                write!(f, "{place}: {} is not {encoding}.", bytes.join(" "))
            }
            Unreadable::ZeroByte(place) => write!(f, "{place}: a zero byte."),
            Unreadable::Empty => write!(f, "It has no row at all."),
            Unreadable::TooManyColumns(columns) => {
                write!(
                    f,
                    "It has {columns} columns; at most {COLUMNS} are allowed."
                )
            }
            Unreadable::Heading {
                place,
                heading,
                flaw,
            } => write!(f, "Row 1, column {place}: heading {heading:?} {flaw}."),
            Unreadable::TwiceInHeader { heading, places } => write!(
                f,
                "Row 1: {heading} is the heading of column {} and of column {}.",
                places[0], places[1]
            ),
            Unreadable::NoMemberNo { headings } => write!(
                f,
                "Row 1: no column has the heading member_no; there are {headings}."
            ),
            Unreadable::OpenQuote { row } => {
                write!(f, "Row {row}: a quote is opened and not closed.")
            }
            Unreadable::TooManyRows => write!(f, "It has more than {ROWS} rows."),
        }
    }
}

impl Unreadable {
    /// The way out.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Unreadable::TooLarge { .. } | Unreadable::TooManyRows => {
                "Split it, each part with the header; loading a part again changes nothing."
            }
            Unreadable::UnknownEncoding(_) => "Such as UTF-8, Shift_JIS, EUC-JP or UTF-16LE.",
            Unreadable::Undecodable {
                encoding: "UTF-8", ..
            } => {
                "Save it as UTF-8, or name its encoding: Japanese office programs write Shift_JIS."
            }
            Unreadable::Undecodable { .. } => "Name the encoding that it was saved in.",
            Unreadable::ZeroByte(_) => "Is it CSV? A file in UTF-16 needs its encoding named.",
            Unreadable::Empty => "The first row is the header: member_no,name,….",
            Unreadable::TooManyColumns(_) => "Leave out what the program does not use.",
            Unreadable::Heading { .. } | Unreadable::TwiceInHeader { .. } => {
                "Give each column a name of its own in the first row."
            }
            Unreadable::NoMemberNo { .. } => {
                "The first row names the columns, with commas between them; member_no is needed."
            }
            Unreadable::OpenQuote { .. } => "Close it; a quote inside of quotes is written twice.",
        }
    }

    /// Whether it is a limit and no mistake in the file.
    #[must_use]
    pub fn is_limit(&self) -> bool {
        matches!(
            self,
            Unreadable::TooLarge { .. } | Unreadable::TooManyRows | Unreadable::TooManyColumns(_)
        )
    }
}

/// An encoding by any of its usual names.
///
/// # Errors
/// When there is none of that name.
pub fn encoding(name: &str) -> Result<&'static Encoding, Unreadable> {
    let wanted = name.trim().to_lowercase();
    let label = match wanted.as_str() {
        "cp932" | "ms_932" | "windows-932" => "windows-31j",
        "utf16" | "utf-16" => "utf-16le",
        "eucjp" | "euc_jp" => "euc-jp",
        other => other,
    };
    Encoding::for_label_no_replacement(label.as_bytes())
        .ok_or_else(|| Unreadable::UnknownEncoding(name.to_owned()))
}

/// The text of a file, without its byte order mark.
///
/// # Errors
/// Where it is not of that encoding, or when it is too large.
pub fn decode<'a>(file: &'a [u8], encoding: &'static Encoding) -> Result<Cow<'a, str>, Unreadable> {
    if file.len() > FILE_BYTES {
        return Err(Unreadable::TooLarge { bytes: file.len() });
    }
    let text = if encoding == UTF_8 {
        match std::str::from_utf8(file) {
            Ok(text) => Cow::Borrowed(text),
            Err(error) => {
                let end = error.valid_up_to();
                let bad = error.error_len().unwrap_or(file.len() - end);
                let before = std::str::from_utf8(&file[..end]).unwrap_or_default();
                return Err(Unreadable::Undecodable {
                    encoding: encoding.name(),
                    place: Place::after(before, end),
                    bytes: file[end..end + bad].to_vec(),
                });
            }
        }
    } else {
        Cow::Owned(decode_other(file, encoding)?)
    };
    let text = match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.strip_prefix('\u{FEFF}').unwrap_or(text)),
        Cow::Owned(mut text) => {
            if text.starts_with('\u{FEFF}') {
                text.drain(..'\u{FEFF}'.len_utf8());
            }
            Cow::Owned(text)
        }
    };
    match text.find('\0') {
        Some(at) => Err(Unreadable::ZeroByte(Place::after(&text[..at], at))),
        None => Ok(text),
    }
}

fn decode_other(file: &[u8], encoding: &'static Encoding) -> Result<String, Unreadable> {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let room = decoder.max_utf8_buffer_length_without_replacement(file.len());
    let mut text = String::with_capacity(room.unwrap_or(file.len()));
    let mut read = 0;
    loop {
        let (result, more) =
            decoder.decode_to_string_without_replacement(&file[read..], &mut text, true);
        read += more;
        match result {
            DecoderResult::InputEmpty => return Ok(text),
            DecoderResult::OutputFull => text.reserve(file.len() - read + 16),
            DecoderResult::Malformed(bad, after) => {
                let end = read.saturating_sub(usize::from(after));
                let start = end.saturating_sub(usize::from(bad));
                return Err(Unreadable::Undecodable {
                    encoding: encoding.name(),
                    place: Place::after(&text, start),
                    bytes: file[start..end].to_vec(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_encodings_are_read_and_what_is_not_in_them_is_told_by_place() {
        let text = "member_no,name\nM-1,山田\n";
        for name in ["Shift_JIS", "cp932", "EUC-JP", "ISO-2022-JP", "utf-8"] {
            let encoding = encoding(name).expect("an encoding");
            let (bytes, _, lossy) = encoding.encode(text);
            assert!(!lossy);
            assert_eq!(decode(&bytes, encoding).expect(name), text, "{name}");
        }
        let utf16: Vec<u8> = format!("\u{FEFF}{text}")
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(
            decode(&utf16, encoding("utf-16").expect("an encoding")).expect("text"),
            text
        );
        assert_eq!(
            decode(format!("\u{FEFF}{text}").as_bytes(), UTF_8).expect("text"),
            text
        );
        let (sjis, _, _) = encoding_rs::SHIFT_JIS.encode(text);
        let place = Place {
            line: 2,
            character: 5,
            byte: 19,
        };
        assert_eq!(
            decode(&sjis, UTF_8),
            Err(Unreadable::Undecodable {
                encoding: "UTF-8",
                place,
                bytes: vec![0x8E]
            })
        );
        let Err(Unreadable::Undecodable { place, .. }) =
            decode(b"a\nb\nc\x82\x20d", encoding_rs::SHIFT_JIS)
        else {
            panic!("it was decoded");
        };
        assert_eq!(
            place,
            Place {
                line: 3,
                character: 2,
                byte: 5
            }
        );
        assert!(matches!(
            encoding("klingon"),
            Err(Unreadable::UnknownEncoding(_))
        ));
        assert!(matches!(
            decode(b"a\n\0", UTF_8),
            Err(Unreadable::ZeroByte(Place { line: 2, .. }))
        ));
        // UTF-16 taken for UTF-8
        assert!(decode(&utf16, UTF_8).is_err());
        assert_eq!(
            decode(&vec![b'x'; FILE_BYTES + 1], UTF_8),
            Err(Unreadable::TooLarge {
                bytes: FILE_BYTES + 1
            })
        );
    }
}
