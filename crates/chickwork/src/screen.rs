//! How much room there is on a terminal, and how much of it a text takes.

use std::io::{self, IsTerminal as _};

/// The columns of the terminal that results are written to; `None`: it is none.
pub(crate) fn columns() -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    // One that does not tell has none.
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// The text cut to so many columns, without a mark if it fits. It must be one line that commands
/// nothing, as [`crate::words::line`] makes it.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let mut cut = String::new();
    for c in text.chars() {
        match left.checked_sub(width_of(c)) {
            Some(rest) => left = rest,
            None => break,
        }
        cut.push(c);
    }
    if columns > 0 {
        cut.push('…');
    }
    cut
}

/// The text cut, or filled with blanks, to so many columns.
pub(crate) fn fitted(text: &str, columns: usize) -> String {
    let mut fitted = cut(text, columns);
    let blanks = columns.saturating_sub(width(&fitted));
    fitted.extend(std::iter::repeat_n(' ', blanks));
    fitted
}

/// How many columns it takes.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(width_of).sum()
}

/// Terminals differ in the rare ones. These ranges are what matters to Japanese and Vietnamese rooms:
/// East Asian wide characters and emoji take two columns, what is put onto the letter before it none.
fn width_of(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}'
        | '\u{200b}'..='\u{200d}'
        | '\u{3099}'..='\u{309a}'
        | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{303e}'
        | '\u{3041}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1f64f}'
        | '\u{1f680}'..='\u{1f6ff}'
        | '\u{1f900}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_takes_the_columns_that_it_is_given_and_no_more() {
        for (text, columns, expected) in [
            ("chào bạn", 8, "chào bạn"),
            ("chào bạn", 7, "chào b…"),
            ("日本語", 6, "日本語"),
            // There is no room for half a letter.
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("a\u{300}b", 2, "a\u{300}b"),
            ("ab", 1, "…"),
            ("ab", 0, ""),
            ("", 0, ""),
        ] {
            assert_eq!(cut(text, columns), expected, "{text} in {columns}");
            assert_eq!(width(&fitted(text, columns)), columns);
        }
    }
}
