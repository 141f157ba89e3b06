//! Results on stdout: JSON that cannot command the terminal it is shown on, and what becomes of a
//! command whose reader goes before the end.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use crate::words;

/// Writes a value as one line of JSON. What must not reach a terminal raw is escaped, which means the
/// same to a program.
pub(crate) fn json(value: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(&mut *out, Harmless))?;
    writeln!(out)
}

/// JSON without a blank, and without the characters that [`words::is_command`] knows; below U+0020
/// JSON itself escapes them.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        for piece in fragment.split_inclusive(words::is_command) {
            let plain = piece.trim_end_matches(words::is_command);
            writer.write_all(plain.as_bytes())?;
            for unit in piece[plain.len()..].encode_utf16() {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

/// Whether whoever reads our results has had enough of them, as in `chickwork dead list | head`.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// The end of a command whose exit code is a result as well: that holds also when nobody read on.
pub(crate) fn end(written: io::Result<()>, code: ExitCode) -> anyhow::Result<ExitCode> {
    match written {
        Err(error) if !is_closed(&error) => {
            Err(anyhow::Error::new(error).context("stdout cannot be written to"))
        }
        Ok(()) | Err(_) => Ok(code),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn json_cannot_command_the_terminal_and_means_the_same() {
        let value = json!({ "said": "chào 😀\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{202e}cba\n" });
        let mut out = Vec::new();
        super::json(&value, &mut out).expect("a vector takes it");
        let line = String::from_utf8(out).expect("text");
        assert_eq!(
            line,
            "{\"said\":\"chào 😀\\u001b[2J\\u009b31m\\u007f\\u202e\\u202ecba\\n\"}\n"
        );
        let read: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read, value);
    }

    #[test]
    fn a_reader_who_goes_early_changes_no_exit_code() {
        let code = end(Err(io::ErrorKind::BrokenPipe.into()), ExitCode::FAILURE);
        assert_eq!(code.expect("no error"), ExitCode::FAILURE);
        let full = end(Err(io::ErrorKind::StorageFull.into()), ExitCode::SUCCESS);
        assert!(full.is_err());
    }
}
