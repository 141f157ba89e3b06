//! Words for people: counts, times and ages, and text from outside as it may be shown on a terminal.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::time::Duration;

use jiff::Timestamp;

/// Tells a person something that is no result.
pub(crate) fn tell(what: impl Display) {
    // Whoever has closed stderr does not want to be told.
    let _ = writeln!(io::stderr(), "{what}");
}

/// So many of them: `1 dead letter`, `12 dead letters`.
pub(crate) fn count(number: u64, one: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {one}{plural}")
}

/// So many bytes: `512 bytes`, `320 KB`, `1073 MB`.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => count(bytes, "byte"),
        10_000..10_000_000 => format!("{} KB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

/// Ends as a sentence does; what others say often does not.
pub(crate) fn sentence(says: &str) -> String {
    // A sentence in brackets ends within them.
    let has_ended = says.trim_end_matches(')').ends_with(['.', '?', '!', '…']);
    format!("{says}{}", if has_ended { "" } else { "." })
}

/// A time in full seconds, as it can be given to `--since`.
pub(crate) fn time(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// A time to the millisecond, where steps follow each other closely.
pub(crate) fn time_of_step(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// How long ago that was, in the largest unit that fits.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    match Duration::try_from(now.duration_since(at)) {
        Ok(age) if age < Duration::from_secs(1) => "just now".to_owned(),
        Ok(age) => format!("{} ago", length(age)),
        Err(_) => "in the future".to_owned(),
    }
}

/// A length of time in the largest unit that fits: `40 s`, `5 min`, `3 h`, `2 d`.
pub(crate) fn length(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// Text from outside on one line, cut to so many characters.
pub(crate) fn line(text: &str, longest: usize) -> String {
    let mut line = String::new();
    let mut characters = text.chars();
    characters
        .by_ref()
        .take(longest)
        .for_each(|c| show(c, &mut line));
    if characters.next().is_some() {
        line.push('…');
    }
    line
}

/// Text from outside, in lines as it came.
pub(crate) fn lines(text: &str) -> String {
    let mut lines = String::new();
    for c in text.chars() {
        match c {
            '\n' => lines.push(c),
            c => show(c, &mut lines),
        }
    }
    lines
}

/// What would move the cursor, colour the screen or turn the reading direction.
pub(crate) fn is_command(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

/// What is no letter but a command is written out.
fn show(c: char, out: &mut String) {
    if is_command(c) {
        out.extend(c.escape_default());
    } else {
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_the_largest_unit_that_fits() {
        let now = Timestamp::from_second(2_000_000_000).expect("a time");
        let table = [
            (0, "just now"),
            (1, "1 s ago"),
            (59, "59 s ago"),
            (60, "1 min ago"),
            (3599, "59 min ago"),
            (3600, "1 h ago"),
            (86_399, "23 h ago"),
            (86_400, "1 d ago"),
            (864_000, "10 d ago"),
            (-1, "in the future"),
        ];
        for (seconds, expected) in table {
            let at = Timestamp::from_second(now.as_second() - seconds).expect("a time");
            assert_eq!(ago(at, now), expected, "{seconds} s");
        }
    }

    #[test]
    fn times_can_be_pasted_into_the_next_command() {
        let at: Timestamp = "2026-11-24T08:26:53.724735892Z".parse().expect("a time");
        assert_eq!(time(at), "2026-11-24T08:26:53Z");
    }

    #[test]
    fn a_sentence_ends_once() {
        for (says, sentence) in [
            ("so it is", "so it is."),
            ("is it?", "is it?"),
            ("and…", "and…"),
            ("So. (Or not.)", "So. (Or not.)"),
            ("refused (os error 111)", "refused (os error 111)."),
        ] {
            assert_eq!(super::sentence(says), sentence);
        }
    }

    #[test]
    fn counts_are_words() {
        assert_eq!(count(0, "dead letter"), "0 dead letters");
        assert_eq!(count(1, "dead letter"), "1 dead letter");
        assert_eq!(count(12, "dead letter"), "12 dead letters");
        assert_eq!(size(1), "1 byte");
        assert_eq!(size(327_680), "327 KB");
        assert_eq!(size(1 << 30), "1073 MB");
    }

    #[test]
    fn text_from_outside_cannot_command_the_terminal() {
        assert_eq!(line("chào 😀", 20), "chào 😀");
        assert_eq!(line("chào", 3), "chà…");
        assert_eq!(line("a\u{1b}[2Jb\r\nc", 20), "a\\u{1b}[2Jb\\r\\nc");
        assert_eq!(line("\u{202e}cba", 20), "\\u{202e}cba");
        assert_eq!(lines("one\ntwo\u{9b}"), "one\ntwo\\u{9b}");
    }
}
