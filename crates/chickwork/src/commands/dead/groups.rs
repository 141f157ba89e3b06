//! Dead letters of one kind: the same cause, step and error, whatever numbers and ids stand in it.

use std::collections::HashMap;
use std::io::{self, Write};

use chickwork_queue::dead::DeadLetter;
use chickwork_queue::event::EventId;
use chickwork_queue::job::{Cause, Step};
use jiff::Timestamp;

use super::LONGEST_ERROR;
use crate::words;

/// So many kinds are told apart; errors may be written by anybody.
const MOST_GROUPS: usize = 1000;
/// What stands for a number or an id.
const ANY_NUMBER: char = '#';
/// A word of so many hexadecimal digits is an id.
const SHORTEST_ID: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: HashMap<Kind, Group>,
    total: u64,
    /// Of those in `total` that are in no group, because there are too many.
    beyond: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    cause: Cause,
    step: Step,
    pattern: String,
}

#[derive(Debug)]
struct Group {
    count: u64,
    first: Timestamp,
    last: Timestamp,
    example: EventId,
    /// The error, as long as all have the same.
    error: Option<String>,
}

impl Groups {
    pub(super) fn of<'a>(letters: impl IntoIterator<Item = &'a DeadLetter>) -> Self {
        let mut groups = Self::default();
        letters.into_iter().for_each(|letter| groups.add(letter));
        groups
    }

    /// One more, given up later than those before it.
    pub(super) fn add(&mut self, letter: &DeadLetter) {
        self.total += 1;
        let kind = Kind {
            cause: letter.cause,
            step: letter.step,
            pattern: pattern(&letter.error),
        };
        if self.groups.len() >= MOST_GROUPS && !self.groups.contains_key(&kind) {
            self.beyond += 1;
            return;
        }
        let group = self.groups.entry(kind).or_insert_with(|| Group {
            count: 0,
            first: letter.buried_at,
            last: letter.buried_at,
            example: letter.id,
            error: Some(letter.error.clone()),
        });
        group.count += 1;
        group.first = group.first.min(letter.buried_at);
        group.last = group.last.max(letter.buried_at);
        group.example = letter.id;
        if group.error.as_ref() != Some(&letter.error) {
            group.error = None;
        }
    }

    /// How many dead letters there are in all groups.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Writes a table of them, the largest group first.
    pub(super) fn write(&self, out: &mut impl Write, now: Timestamp) -> io::Result<()> {
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by(|(_, left), (_, right)| {
            (right.count, right.last).cmp(&(left.count, left.last))
        });
        writeln!(
            out,
            "{:>6}  {:<9}  {:<7}  {:<10}  {:<10}  EXAMPLE",
            "COUNT", "CAUSE", "STEP", "FIRST", "LAST"
        )?;
        for (kind, group) in groups {
            writeln!(
                out,
                "{:>6}  {:<9}  {:<7}  {:<10}  {:<10}  {}",
                group.count,
                kind.cause.as_str(),
                kind.step.as_str(),
                words::ago(group.first, now),
                words::ago(group.last, now),
                group.example,
            )?;
            let error = group.error.as_ref().unwrap_or(&kind.pattern);
            writeln!(out, "        {}", words::line(error, LONGEST_ERROR))?;
        }
        if self.beyond > 0 {
            writeln!(out, "{:>6}  of still other kinds", self.beyond)?;
        }
        Ok(())
    }
}

/// The error with its numbers and ids taken out.
fn pattern(error: &str) -> String {
    let separates = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    let mut pattern = String::with_capacity(error.len());
    for piece in error.split_inclusive(separates) {
        let word = piece.trim_end_matches(separates);
        if is_id(word) {
            pattern.push(ANY_NUMBER);
        } else {
            let mut in_number = false;
            for c in word.chars() {
                if !c.is_ascii_digit() {
                    pattern.push(c);
                } else if !in_number {
                    pattern.push(ANY_NUMBER);
                }
                in_number = c.is_ascii_digit();
            }
        }
        pattern.push_str(&piece[word.len()..]);
    }
    pattern
}

fn is_id(word: &str) -> bool {
    word.len() >= SHORTEST_ID
        && word.bytes().any(|byte| byte.is_ascii_digit())
        && word
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::filter::tests::a_letter;

    #[test]
    fn numbers_and_ids_make_no_other_kind() {
        let table = [
            ("Chatwork answered 403: no", "Chatwork answered #: no"),
            (
                "no answer to 01a20caa-3f93-70fb-83f5-248e49a65e0a, 3.5 s",
                "no answer to #, #.# s",
            ),
            ("by 27167dbb43a6bc1c.1", "by #.#"),
            ("facade-of-decade", "facade-of-decade"),
            ("x86: 1999-12-31", "x#: #"),
            ("lỗi 12 ở đây", "lỗi # ở đây"),
            ("", ""),
        ];
        for (error, expected) in table {
            assert_eq!(pattern(error), expected);
        }
    }

    #[tokio::test]
    async fn letters_of_one_kind_are_one_group_with_its_times_and_an_example() {
        let letter = a_letter().await;
        let letters = [
            (0, Cause::Malformed, "line 1"),
            (60, Cause::Malformed, "line 20"),
            (120, Cause::Poison, "ten\u{1b}[2J deaths"),
            (7200, Cause::Malformed, "line 3"),
        ];
        let letters = letters.map(|(later, cause, error)| DeadLetter {
            id: EventId::fresh(),
            buried_at: letter.buried_at + Duration::from_secs(later),
            cause,
            error: error.to_owned(),
            ..letter.clone()
        });
        let groups = Groups::of(&letters);
        assert_eq!(groups.total(), 4);
        let now = letters[3].buried_at + Duration::from_secs(5);
        let mut table = Vec::new();
        groups.write(&mut table, now).expect("a vector takes it");
        let table = String::from_utf8(table).expect("text");
        let [_, first, first_error, second, second_error] = table.lines().collect::<Vec<_>>()[..]
        else {
            panic!("{table}");
        };
        let example = letters[3].id;
        assert_eq!(
            first,
            format!("     3  malformed  receive  2 h ago     5 s ago     {example}")
        );
        // They differ in their numbers.
        assert_eq!(first_error, "        line #");
        let example = letters[2].id;
        assert_eq!(
            second,
            format!("     1  poison     receive  1 h ago     1 h ago     {example}")
        );
        assert_eq!(second_error, "        ten\\u{1b}[2J deaths");
    }

    #[tokio::test]
    async fn there_is_an_end_of_groups() {
        let letter = a_letter().await;
        let mut groups = Groups::default();
        let letters = 0..MOST_GROUPS + 2;
        for error in letters.map(|number| "x".repeat(number)) {
            groups.add(&DeadLetter {
                error,
                ..letter.clone()
            });
        }
        assert_eq!((groups.total(), groups.beyond), (1002, 2));
        let mut table = Vec::new();
        let written = groups.write(&mut table, letter.buried_at);
        written.expect("a vector takes it");
        assert!(table.ends_with(b"     2  of still other kinds\n"));
    }
}
