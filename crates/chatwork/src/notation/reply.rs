//! The reply as it is posted: our own tag, then somebody else's words made harmless.

use unicode_segmentation::UnicodeSegmentation as _;

use crate::id::{AccountId, MessageId, RoomId};

/// The longest message Chatwork is asked to take, in UTF-8 bytes. Its documentation says 65,535
/// without a unit; counted in bytes it fits whichever is meant.
pub const MAX_MESSAGE_BYTES: usize = 65_535;

/// The flag that emoji of regions begin with; invisible tag characters after it are part of them.
const BLACK_FLAG: char = '\u{1f3f4}';

/// The text without anything that could act in Chatwork or pass for something else.
///
/// Every `[` becomes the full-width `［`, so that no tag can form: there is no documented escape,
/// and `[code]` does not help against a text that contains `[/code]`. Control characters go, except
/// the line feed; a tab becomes a space, a line or paragraph separator a line feed. So do invisible
/// format characters, above all those that turn the direction of writing; what emoji and scripts
/// need (joiners, variation selectors, the tags of a region's flag) stays.
pub fn neutralise(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    let mut in_flag = false;
    for character in text.chars() {
        in_flag = character == BLACK_FLAG || (in_flag && is_flag_tag(character));
        match character {
            '[' => harmless.push('［'),
            '\t' => harmless.push(' '),
            '\n' | '\u{2028}' | '\u{2029}' => harmless.push('\n'),
            _ if character.is_control() => {}
            _ if is_invisible_format(character) && !in_flag => {}
            _ => harmless.push(character),
        }
    }
    harmless
}

fn is_flag_tag(character: char) -> bool {
    matches!(character, '\u{e0020}'..='\u{e007f}')
}

/// Characters of the general category Cf that show nothing and change how their neighbours are
/// read. Not among them: the joiners U+200C and U+200D, and the visible signs of Arabic and others.
fn is_invisible_format(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' // soft hyphen
        | '\u{61c}' | '\u{200e}' | '\u{200f}' // direction marks
        | '\u{202a}'..='\u{202e}' // embeddings and overrides
        | '\u{2066}'..='\u{2069}' // isolates
        | '\u{180e}' | '\u{200b}' | '\u{feff}' // spaces without width
        | '\u{2060}'..='\u{2064}' // word joiner, invisible operators
        | '\u{206a}'..='\u{206f}' // deprecated switches
        | '\u{fff9}'..='\u{fffb}' // interlinear annotation
        | '\u{1d173}'..='\u{1d17a}' // musical formatting
        | '\u{e0000}'..='\u{e007f}' // tags
    )
}

/// The whole text to post as a reply to a message: the reply tag, a line feed, the answer
/// [neutralised](neutralise) and, where it would exceed [`MAX_MESSAGE_BYTES`], cut.
pub fn reply(author: AccountId, room: RoomId, message: &MessageId, answer: &str) -> String {
    let mut reply = format!("[rp aid={author} to={room}-{message}]\n");
    let space = MAX_MESSAGE_BYTES - reply.len();
    reply.push_str(first_bytes(&neutralise(answer), space));
    reply
}

/// As much of the text as fits, whole as a reader sees characters; of a character that alone is
/// longer than that (hundreds of accents on one letter), the beginning.
fn first_bytes(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    let whole = end_within(text.graphemes(true), limit);
    if whole > 0 {
        return &text[..whole];
    }
    &text[..end_within(text.split_inclusive(|_| true), limit)]
}

/// How many bytes the pieces have that fit, from the first one on.
fn end_within<'a>(pieces: impl Iterator<Item = &'a str>, limit: usize) -> usize {
    let ends = pieces.scan(0, |end, piece| {
        *end += piece.len();
        Some(*end)
    });
    ends.take_while(|&end| end <= limit).last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply_with(answer: &str) -> String {
        let message = MessageId::new("3").expect("a digit is a message id");
        reply(AccountId(1), RoomId(2), &message, answer)
    }

    #[test]
    fn a_reply_is_the_tag_a_line_feed_and_the_answer() {
        assert_eq!(reply_with("chào bạn 🐤"), "[rp aid=1 to=2-3]\nchào bạn 🐤");
    }

    #[test]
    fn an_answer_cannot_bring_tags() {
        assert_eq!(
            reply_with("[toall] [To:9]x[/code][[info]"),
            "[rp aid=1 to=2-3]\n［toall] ［To:9]x［/code]［［info]"
        );
    }

    #[test]
    fn characters_that_show_nothing_and_change_others_are_removed() {
        for (text, harmless) in [
            ("a\0b\u{7}c\u{1b}[0m\u{7f}\u{9b}", "abc［0m"),
            ("one\r\ntwo\tthree", "one\ntwo three"),
            ("one\u{2028}two\u{2029}three", "one\ntwo\nthree"),
            ("abc\u{202e}fed\u{202c}", "abcfed"),
            ("\u{2066}x\u{2069}\u{feff}\u{200b}y\u{ad}", "xy"),
            ("a\u{e0041}b", "ab"),
            (
                "👨\u{200d}👩\u{200d}👧 ❤\u{fe0f}",
                "👨\u{200d}👩\u{200d}👧 ❤\u{fe0f}",
            ),
            (
                "🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}\u{e0041}!",
                "🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}\u{e0041}!",
            ),
            ("می\u{200c}خواهم", "می\u{200c}خواهم"),
            ("e\u{301}", "e\u{301}"),
        ] {
            assert_eq!(neutralise(text), harmless, "{text:?}");
        }
    }

    #[test]
    fn a_long_answer_is_cut_between_what_a_reader_sees_as_characters() {
        let family = "👨\u{200d}👩\u{200d}👧";
        let reply = reply_with(&family.repeat(10_000));
        assert!(reply.len() <= MAX_MESSAGE_BYTES);
        assert!(reply.len() > MAX_MESSAGE_BYTES - family.len());
        assert!(reply.ends_with(family));
    }

    #[test]
    fn brackets_that_grow_still_fit() {
        let reply = reply_with(&"[".repeat(MAX_MESSAGE_BYTES));
        assert_eq!(reply.matches('［').count(), (MAX_MESSAGE_BYTES - 18) / 3);
    }

    #[test]
    fn one_endless_character_is_cut_as_well() {
        let reply = reply_with(&format!("e{}", "\u{301}".repeat(MAX_MESSAGE_BYTES)));
        assert!((MAX_MESSAGE_BYTES - 1..=MAX_MESSAGE_BYTES).contains(&reply.len()));
    }
}
