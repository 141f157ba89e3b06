//! What a person said, without what surrounds it in Chatwork: the text that a reply engine gets.
//!
//! Everything removed leaves a space, and white space is joined at the end. So removing never
//! glues two halves to a new word, emoticon or tag, and cleaning a cleaned text changes nothing.

use unicode_normalization::UnicodeNormalization as _;
use unicode_segmentation::UnicodeSegmentation as _;

use super::parse::{Block, Kind, Notation, Tag};

/// What was said in a message, on one line, composed (NFC); empty if nothing is left.
///
/// Gone are: tags that address, mark up or show people; quotes, tasks, files and Chatwork's own
/// boxes, with what is in them; emoticons; the bot's own name after a tag that addresses, with or
/// without an honorific; and the rest of a line after such a tag if it looks like somebody else's
/// name, that is, ends in an honorific. Kept is the text in boxes, titles, links and code.
///
/// The result contains no tag, and cleaning it again returns it unchanged.
pub fn what_was_said(body: &str, names: &[&str]) -> String {
    let body: String = body.nfc().collect();
    let names: Vec<String> = names
        .iter()
        .map(|name| name.trim().nfc().collect())
        .collect();

    let text = without_emoticons(&without_notation(&Notation::parse(&body), &names));
    let said = text
        .split(|character: char| character.is_whitespace() || character.is_control())
        .filter(|word| !word.is_empty() && !EMOTICON_WORDS.contains(word))
        .collect::<Vec<_>>()
        .join(" ");
    // A tag can be left if it was code, or was written around something that is gone now.
    if Notation::parse(&said).is_plain() {
        said
    } else {
        said.replace('[', "［")
    }
}

/// The longest beginning of the text that has at most `limit` UTF-16 units, and with that at most
/// as many code points, without cutting what a reader sees as one character.
pub fn cut(text: &str, limit: usize) -> &str {
    let mut units = 0_usize;
    let mut end = 0;
    for grapheme in text.graphemes(true) {
        units += grapheme.encode_utf16().count();
        if units > limit {
            break;
        }
        end += grapheme.len();
    }
    &text[..end]
}

fn without_notation(notation: &Notation<'_>, names: &[String]) -> String {
    let mut said = String::new();
    // How many blocks deep in something that was not said.
    let mut unsaid = 0_usize;
    // Whether what follows, up to the end of the line, may be the name of who was addressed.
    let mut name_follows = false;
    for node in notation.nodes() {
        match &node.kind {
            Kind::Open(_) if unsaid > 0 => unsaid += 1,
            Kind::Close(_) if unsaid > 0 => unsaid -= 1,
            _ if unsaid > 0 => {}
            Kind::Open(block) => {
                name_follows = false;
                unsaid = usize::from(!is_said(*block));
            }
            Kind::Tag(Tag::To(_) | Tag::Reply { .. }) => name_follows = true,
            Kind::Text if name_follows => {
                let line_ends = node.source.find(['\n', '\r']);
                let (line, rest) = node.source.split_at(line_ends.unwrap_or(node.source.len()));
                said.push_str(without_name(line.trim(), names));
                said.push_str(rest);
                name_follows = rest.is_empty() && line.trim().is_empty();
            }
            Kind::Text => said.push_str(node.source),
            Kind::Close(_) | Kind::Tag(_) => {}
        }
        if node.kind != Kind::Text {
            said.push(' ');
        }
    }
    said
}

/// Whether what is in such a block was said by the author of the message.
fn is_said(block: Block) -> bool {
    match block {
        Block::Info | Block::Title | Block::Code | Block::Url => true,
        Block::Quote(_) | Block::SystemInfo | Block::Task | Block::Download => false,
    }
}

/// What Chatwork's client, or a person, puts behind a name.
const HONORIFICS: [&str; 6] = ["さん", "様", "さま", "殿", "san", "San"];

/// What makes a name and its honorific a part of the sentence (`Chick さんは元気？`).
const PARTICLES: [char; 9] = ['は', 'が', 'を', 'の', 'に', 'も', 'と', 'へ', 'で'];

/// A line that ends a sentence is not just somebody's name.
const SENTENCE_ENDS: [char; 5] = ['。', '？', '?', '！', '!'];

/// A longer line is not somebody's name, in characters.
const LONGEST_NAME: usize = 64;

/// What follows an addressing tag on its line, without the name of who is addressed.
fn without_name<'a>(line: &'a str, names: &[String]) -> &'a str {
    let without_own = names.iter().filter_map(|name| without_own_name(line, name));
    // The longest name counts, as one may begin with another.
    match without_own.min_by_key(|rest| rest.len()) {
        Some(rest) => rest,
        None if is_somebodys_name(line) => "",
        None => line,
    }
}

/// The line without the name at its beginning, if it is there as a whole word.
fn without_own_name<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = strip_name(line, name)?;
    let rest = match strip_honorific(rest) {
        // Keeping a name too many does no harm; a sentence without its beginning does.
        Some(rest) if rest.starts_with(PARTICLES) => return None,
        Some(rest) => rest,
        None if starts_in_a_word(rest) => return None,
        None => rest,
    };
    Some(rest.trim_start_matches(|character: char| {
        character.is_whitespace() || matches!(character, '、' | ',' | '，')
    }))
}

/// Any white space in the name matches any in the line: names are typed with both U+0020 and
/// U+3000.
fn strip_name<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    if name.is_empty() {
        return None;
    }
    let mut rest = line.chars();
    for expected in name.chars() {
        let found = rest.next()?;
        if found != expected && !(found.is_whitespace() && expected.is_whitespace()) {
            return None;
        }
    }
    Some(rest.as_str())
}

/// The text behind an honorific at its beginning. A Latin one has to be a word of its own: "Chick
/// sandwich" has none.
fn strip_honorific(text: &str) -> Option<&str> {
    let spaced =
        text.trim_start_matches(|character: char| character.is_whitespace() || character == '-');
    HONORIFICS.iter().find_map(|honorific| {
        let rest = spaced.strip_prefix(honorific)?;
        let whole = spaced.len() < text.len() && !starts_in_a_word(rest);
        (whole || !honorific.is_ascii()).then_some(rest)
    })
}

/// Whether the character before this text was not the last of its word.
fn starts_in_a_word(rest: &str) -> bool {
    rest.starts_with(char::is_alphanumeric)
}

/// Whether the line is somebody's name with an honorific, as Chatwork's client writes it behind a
/// To tag.
fn is_somebodys_name(line: &str) -> bool {
    let ends_in_honorific = HONORIFICS.iter().any(|honorific| {
        // "artisan" is not a name with an honorific, "Tanaka-san" is.
        line.strip_suffix(honorific)
            .is_some_and(|name| !honorific.is_ascii() || name.ends_with([' ', '\u{3000}', '-']))
    });
    ends_in_honorific
        && !line.contains(SENTENCE_ENDS)
        && line.chars().take(LONGEST_NAME + 1).count() <= LONGEST_NAME
}

/// Text that Chatwork shows as a picture, wherever it stands. Source: lists made by users.
#[rustfmt::skip]
const EMOTICONS: [&str; 46] = [
    ":)", ":(", ":D", ":o", ";)", ";(", "(sweat)", ":|", ":*", ":p", "(blush)", ":^)", "|-)",
    "(inlove)", "]:)", "(talk)", "(yawn)", "(puke)", "(emo)", ":#)", "(nod)", "(shake)", "(^^;)",
    "(whew)", "(clap)", "(bow)", "(roger)", "(flex)", "(dance)", "(:/)", "(gogo)", "(think)",
    "(please)", "(quick)", "(anger)", "(devil)", "(lightbulb)", "(*)", "(F)", "(cracker)", "(eat)",
    "(^)", "(coffee)", "(beer)", "(handshake)", "(y)",
];

/// Emoticons that are ordinary text as well: only where they stand alone.
const EMOTICON_WORDS: [&str; 3] = ["8-)", "8-|", "(h)"];

/// The text with a space for each emoticon, found from left to right.
fn without_emoticons(text: &str) -> String {
    let mut without = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find([':', ';', '(', '|', ']']) {
        let (before, candidate) = rest.split_at(start);
        without.push_str(before);
        let emoticon = EMOTICONS
            .iter()
            .find(|emoticon| begins_with(candidate, emoticon));
        let length = match emoticon {
            Some(emoticon) => {
                without.push(' ');
                emoticon.len()
            }
            None => {
                without.push_str(&candidate[..1]);
                1
            }
        };
        rest = &candidate[length..];
    }
    without.push_str(rest);
    without
}

/// Whether the text begins with the emoticon, which must not be the beginning of a word: the `:D`
/// of `C:Drive` is none. Kana and kanji have no case and are not taken for the rest of a word.
fn begins_with(text: &str, emoticon: &str) -> bool {
    let Some(rest) = text.strip_prefix(emoticon) else {
        return false;
    };
    let goes_on = |next: char| next.is_ascii_digit() || next.is_lowercase() || next.is_uppercase();
    !(emoticon.ends_with(|last: char| last.is_ascii_alphabetic()) && rest.starts_with(goes_on))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Gà Con" (chick), as a Mac sends it: decomposed.
    const DECOMPOSED: &str = "Ga\u{300} Con";

    fn said_to(names: &[&str], body: &str) -> String {
        let said = what_was_said(body, names);
        assert_eq!(
            what_was_said(&said, names),
            said,
            "cleaning twice is cleaning once: {body:?}"
        );
        said
    }

    #[test]
    fn what_was_said_is_what_is_left_without_notation_and_names() {
        for (body, expected) in [
            // What the client writes.
            ("[To:1]Chick さん\nhello", "hello"),
            ("[To:1]Chickさん\nhello", "hello"),
            ("[To:1] Chick さん\nhello", "hello"),
            ("[To:1]Chick　様\nhello", "hello"),
            ("[To:1]Chick さま\r\nhello\r\nthere", "hello there"),
            ("[To:1]Chick 殿\nおはよう", "おはよう"),
            ("[To:1]Chick san\nhello", "hello"),
            ("[To:1]Chick-San, hello", "hello"),
            ("[To:1]Chick\nhello", "hello"),
            ("[rp aid=1 to=2-3]Chick さん\nありがとう", "ありがとう"),
            ("[rp aid=1 to=2-3] Chick\ntest", "test"),
            ("[返信 aid=1 to=2-3]Chick さん\nありがとう", "ありがとう"),
            ("[to:1]Chick さん\nhello", "hello"),
            ("[toall]\nhello everybody", "hello everybody"),
            // The question on the same line.
            (
                "[To:1]What do you like to eat？",
                "What do you like to eat？",
            ),
            ("[To:1]Chick さん hello", "hello"),
            ("[To:1]Chick さん、元気？", "元気？"),
            ("[To:1]Chick さん元気？", "元気？"),
            ("[To:1]Chick さんは元気？", "Chick さんは元気？"),
            ("[To:1]Chick, how are you?", "how are you?"),
            ("[To:1]Chicken is good", "Chicken is good"),
            ("[To:1]Chick sandwich", "sandwich"),
            ("[To:1]chick", "chick"),
            ("[To:1]ひよこ さん　今日は　暑いね", "今日は 暑いね"),
            ("[To:1]ひよこは好き？", "ひよこは好き？"),
            ("hello [To:1]Chick さん", "hello"),
            ("hi\n[To:1]Chick さん\nhow are you?", "hi how are you?"),
            ("Do you know Chick さん?", "Do you know Chick さん?"),
            // Other people on the way.
            (
                "[To:2]田中さん\n[To:1]Chick さん\n会議は何時？",
                "会議は何時？",
            ),
            ("[To:2]田中 太郎 さん [To:1]Chick さん\nhello", "hello"),
            (
                "[To:1]Chick さん[To:2]Nguyễn Văn An さん\nxin chào",
                "xin chào",
            ),
            ("[To:2]Tanaka san\n[To:1]hello", "hello"),
            ("[To:2]Tanaka-san\n[To:1]hello", "hello"),
            ("[To:2]Tanaka\n[To:1]hello", "Tanaka hello"),
            ("[To:1]I met an artisan", "I met an artisan"),
            ("[To:1]だれ？王様", "だれ？王様"),
            ("[To:1]元気？\n田中さん", "元気？ 田中さん"),
            // Vietnamese, composed and decomposed.
            ("[To:1]Gà Con さん\nbạn khỏe không?", "bạn khỏe không?"),
            (
                "[To:1]Ga\u{300} Con さん\nba\u{323}n kho\u{309}e không?",
                "bạn khỏe không?",
            ),
            ("[To:1]Gà　Con\nchào", "chào"),
            ("[To:1]Gà Công nghiệp", "Gà Công nghiệp"),
            ("[rp aid=1 to=2-3]Gà Con\n1 + 1 = mấy?", "1 + 1 = mấy?"),
            // Other people's words and Chatwork's own.
            (
                "[qt][qtmeta aid=5 time=1]何時？[/qt]\n[To:1]Chick さん\nどう思う？",
                "どう思う？",
            ),
            (
                "[引用 aid=5 time=1]何時？[/引用][To:1]どう思う？",
                "どう思う？",
            ),
            ("[To:1]a[qt]b[qt]c[/qt]d[/qt]e", "a e"),
            ("[To:1]a [qt]never closed", "a [qt]never closed"),
            (
                "[To:1]Chick さん\nこれ見て\n[info][title][dtext:file_uploaded][/title][preview id=1 ht=150][download:1]a.png (54 KB)[/download][/info]",
                "これ見て",
            ),
            (
                "[info][title][dtext:task_added][/title][task aid=1 st=open lt=0]Buy milk[/task][/info]",
                "",
            ),
            ("[To:1][download:9]cat.jpg (5 KB)[/download] cute?", "cute?"),
            ("[deleted]", ""),
            // Mark-up around what was said.
            (
                "[To:1]Chick\n[info][title]News[/title]It rains[/info]",
                "News It rains",
            ),
            ("[To:1]a[hr]b", "a b"),
            ("[To:1][picon:5] [piconname:5] cute?", "cute?"),
            ("[To:1][pname:1]さん\nhello", "hello"),
            (
                "[To:1]look [url]https://example.com[/url]",
                "look https://example.com",
            ),
            ("[To:1][code]let a = b;[/code]", "let a = b;"),
            ("[code][To:1] [x][/code]", "［To:1] ［x]"),
            ("[To:1]a [b] c", "a [b] c"),
            // Emoticons.
            ("[To:1]Chick さん\nhello:) (bow)", "hello"),
            ("[To:1]了解(y)です", "了解 です"),
            ("[To:1]嬉しい:Dありがとう(F)", "嬉しい ありがとう"),
            ("[To:1]C:Drive re:order a:pâte", "C:Drive re:order a:pâte"),
            ("[To:1](h) f(h) 8-) (9 8-)", "f(h) (9"),
            ("[To:1](h):)", ""),
            ("[To:1]http://example.com/?a=b", "http://example.com/?a=b"),
            ("]:) oh ;(", "oh"),
            // White space.
            ("[To:1]　 a　b\t\n\n c \u{0}d", "a b c d"),
            ("[To:1]Chick さん\n", ""),
            ("", ""),
            // Removing must not make something new.
            ("[To:[To:1]1]", "[To: 1]"),
            ("[rp aid=1[hr]to=2-3]", "［rp aid=1 to=2-3]"),
            ("[rp　aid=1　to=2-3]", "［rp aid=1 to=2-3]"),
            (":[hr])", ": )"),
            ("e[hr]\u{301}", "e \u{301}"),
        ] {
            assert_eq!(
                said_to(&["Chick", "ひよこ", "Gà Con"], body),
                expected,
                "{body:?}"
            );
        }
    }

    #[test]
    fn the_published_mention_says_test() {
        let body = "[rp aid=2739132 to=93207172-1007287785163345920] sue445\ntest";
        assert_eq!(said_to(&["sue445"], body), "test");
    }

    #[test]
    fn names_are_compared_composed_whichever_side_is_decomposed() {
        for (name, written) in [(DECOMPOSED, "Gà Con"), ("Gà Con", DECOMPOSED)] {
            let body = format!("[To:1]{written} さん\nchào");
            assert_eq!(said_to(&[name], &body), "chào");
        }
    }

    #[test]
    fn the_longest_of_the_bots_names_is_taken() {
        assert_eq!(
            said_to(&["Chick", "Chick Bot"], "[To:1]Chick Bot hello"),
            "hello"
        );
    }

    #[test]
    fn without_a_name_of_its_own_a_bot_drops_none() {
        assert_eq!(said_to(&["", " "], "[To:1]Chick hello"), "Chick hello");
        assert_eq!(said_to(&[], "[To:1]Chick hello"), "Chick hello");
    }

    #[test]
    fn a_name_with_brackets_is_a_name() {
        assert_eq!(
            said_to(&["[Bot]Chick"], "[To:1][Bot]Chick さん\nhello"),
            "hello"
        );
    }

    #[test]
    fn a_long_line_is_a_sentence_even_if_it_ends_in_an_honorific() {
        let line = format!("{}田中様", "あ".repeat(LONGEST_NAME));
        assert_eq!(said_to(&[], &format!("[To:1]{line}")), line);
    }

    #[test]
    fn a_mebibyte_is_cleaned_at_once() {
        for piece in [
            "[To:1]Chick さん ",
            "(h):)",
            "[rp aid=1 to=",
            "[qt]",
            "a\u{300}\u{323}",
            ":",
        ] {
            let body = piece.repeat((1 << 20) / piece.len());
            assert!(what_was_said(&body, &["Chick", "ひよこ"]).len() <= 3 * body.len());
        }
    }

    #[test]
    fn a_cut_keeps_characters_whole_and_counts_utf_16_units() {
        for (text, limit, expected) in [
            ("hello", 5, "hello"),
            ("hello", 4, "hell"),
            ("hello", 0, ""),
            ("", 4, ""),
            // Two units each.
            ("😀😀😀", 4, "😀😀"),
            ("😀😀😀", 5, "😀😀"),
            // A letter with its accent; a family of five code points, eight units.
            ("ae\u{301}b", 2, "a"),
            ("ae\u{301}b", 3, "ae\u{301}"),
            ("a👨\u{200d}👩\u{200d}👧", 8, "a"),
            ("a👨\u{200d}👩\u{200d}👧", 9, "a👨\u{200d}👩\u{200d}👧"),
            ("ひよこ", 2, "ひよ"),
        ] {
            assert_eq!(cut(text, limit), expected, "{text:?} to {limit}");
        }
    }
}
