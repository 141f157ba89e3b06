//! What was said and what would be said, side by side for people.

use crate::recorded::Before;
use crate::words;

/// What is said on one side.
#[derive(Debug)]
pub(crate) enum Side<'a> {
    /// These words.
    Said(&'a str),
    /// Nothing, and why.
    Silent(&'a str),
}

impl<'a> Side<'a> {
    /// What was.
    pub(crate) fn before(before: &'a Before) -> Self {
        match before {
            Before::Said(text) => Self::Said(text),
            Before::SaidSomething => Self::Silent("something was said"),
            Before::Ignored(reason) => Self::Silent(reason),
            Before::Dead(cause) => Self::Silent(cause),
            Before::Open => Self::Silent("nothing yet"),
        }
    }

    /// Both, line by line, as it can be shown on a terminal.
    pub(crate) fn difference(then: &Self, now: &Self) -> Vec<String> {
        difference(&then.lines(), &now.lines())
    }

    fn lines(&self) -> Vec<String> {
        match self {
            Self::Said(text) => words::lines(text).lines().map(str::to_owned).collect(),
            Self::Silent(why) => vec![format!("({})", words::line(why, usize::MAX))],
        }
    }
}

/// Two texts, line by line: what they begin and end with is there once, between them is first what was, then
/// what would be. Replies are short; more is not needed to see what has changed.
fn difference(then: &[String], now: &[String]) -> Vec<String> {
    let alike = |(then, now): &(&String, &String)| then == now;
    let begin = then.iter().zip(now).take_while(alike).count();
    let (then_rest, now_rest) = (&then[begin..], &now[begin..]);
    let both = then_rest.iter().rev().zip(now_rest.iter().rev());
    let end = both.take_while(alike).count();
    let lines = |sign: &'static str, lines: &[String]| {
        let signed = lines.iter().map(|line| format!("{sign} {line}"));
        signed.collect::<Vec<_>>()
    };
    [
        lines(" ", &then[..begin]),
        lines("-", &then_rest[..then_rest.len() - end]),
        lines("+", &now_rest[..now_rest.len() - end]),
        lines(" ", &then_rest[then_rest.len() - end..]),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lines_that_differ_are_there_twice() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let table = [
            ("a\nb\nc", "a\nx\ny\nc", "  a\n- b\n+ x\n+ y\n  c"),
            ("a", "b", "- a\n+ b"),
            ("a\na", "a", "  a\n- a"),
            ("", "a", "+ a"),
            ("a", "a", "  a"),
        ];
        for (then, now, expected) in table {
            let difference = difference(&lines(then), &lines(now));
            assert_eq!(difference, lines(expected), "{then:?} {now:?}");
        }
    }

    #[test]
    fn what_others_said_cannot_command_the_terminal() {
        let (then, now) = (Side::Said("a\u{1b}[2J"), Side::Silent("b\u{9b}"));
        assert_eq!(
            Side::difference(&then, &now),
            ["- a\\u{1b}[2J", "+ (b\\u{9b})"]
        );
    }
}
