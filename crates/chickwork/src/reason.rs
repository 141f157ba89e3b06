//! Why a person does something to events: `--reason`, which is kept in the outcomes of each.

use clap::{Arg, ArgMatches};

use crate::command_line;

/// The longest one, in bytes: every event keeps it.
const LONGEST: usize = 500;

/// `--reason`, with what stands in the outcomes unless one is given.
pub(crate) fn flag(usual: &'static str) -> Arg {
    command_line::value("reason", "TEXT", "Why; kept in the outcomes of each event")
        .value_parser(parse)
        .default_value(usual)
}

/// What the flags say.
pub(crate) fn of(flags: &ArgMatches) -> String {
    let reason = flags.get_one::<String>("reason");
    reason.expect("it has a default").clone()
}

fn parse(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("is empty".to_owned()),
        1..=LONGEST if text.contains(char::is_control) => {
            Err("contains a line break or another control character".to_owned())
        }
        1..=LONGEST => Ok(text.to_owned()),
        _ => Err(format!("is longer than {LONGEST} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_a_line_of_text_that_is_not_too_long() {
        for wrong in ["", "one\ntwo", "\u{1b}[2J", &"a".repeat(LONGEST + 1)] {
            parse(wrong).expect_err("no reason");
        }
        let longest = "a".repeat(LONGEST);
        for right in ["asked for by its owner", "một lý do", &longest] {
            assert_eq!(parse(right).expect("a reason"), right);
        }
    }
}
