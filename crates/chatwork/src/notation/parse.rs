//! The parser: message text into nodes that give the text back when joined.
//!
//! Chatwork publishes no grammar. What is taken for a tag here is what its documentation and its
//! client write; anything else, and whatever is not balanced, is plain text, as it is for Chatwork.
//! The work grows with the length of the text and not faster, and nothing recurses on its depth:
//! anybody may write a message of ten thousand brackets.

use std::ops::Range;

use crate::id::{AccountId, MessageId, RoomId};

/// A message's text, parsed: a flat list of nodes in which every [`Kind::Open`] has its
/// [`Kind::Close`], properly nested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notation<'a> {
    pub(super) nodes: Vec<Node<'a>>,
}

/// A piece of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node<'a> {
    /// The piece as it was written.
    pub source: &'a str,
    /// What it is.
    pub kind: Kind<'a>,
}

/// What a piece of the text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Text, among it everything that only looks like a tag. Two texts never follow one another.
    Text,
    /// A tag that stands alone.
    Tag(Tag<'a>),
    /// The beginning of a block.
    Open(Block),
    /// The end of the innermost open block, which is one of this kind.
    Close(Block),
}

/// A tag that stands alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tag<'a> {
    /// `[To:1]`
    To(AccountId),
    /// `[rp aid=1 to=2-3]`, also spelt `返信`
    Reply {
        /// Whose message is replied to.
        author: AccountId,
        /// The room that message is in.
        room: RoomId,
        /// That message.
        message: MessageId,
    },
    /// `[toall]`
    ToAll,
    /// `[qtmeta aid=1 time=2]`, at the beginning of a quote: who is quoted, if that can be read.
    QuoteMeta(Option<AccountId>),
    /// `[hr]`
    Rule,
    /// `[picon:1]`, `[pname:1]` and `[piconname:1]`
    Person(AccountId),
    /// `[dtext:key]`: a phrase that Chatwork writes in each reader's language.
    SystemText(&'a str),
    /// `[preview id=1 ht=150]`
    Preview,
    /// `[deleted]`: what the text of a deleted message becomes.
    Deleted,
}

/// A tag that has an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// `[qt]…[/qt]`, also spelt `[引用 aid=1]…[/引用]`: then the author, if it can be read.
    Quote(Option<AccountId>),
    /// `[info]…[/info]`
    Info,
    /// An info box that Chatwork wrote: it, or its title, holds a [`Tag::SystemText`].
    SystemInfo,
    /// `[title]…[/title]`
    Title,
    /// `[code]…[/code]`: its content is one text, whatever is written in it.
    Code,
    /// `[url]…[/url]`
    Url,
    /// `[task aid=1 st=open lt=0]…[/task]`
    Task,
    /// `[download:1]…[/download]`
    Download,
}

impl<'a> Notation<'a> {
    /// Parses any text; there is no wrong one.
    pub fn parse(text: &'a str) -> Self {
        let mut parser = Parser::new(text);
        let mut at = 0;
        while let Some(distance) = text[at..].find('[') {
            at += distance;
            at = match bracketed(&text[at..]) {
                Some(tag) => parser.take(at..at + tag.len()),
                None => at + 1,
            };
        }
        parser.finish()
    }

    /// The pieces in the order of the text; their sources joined are the text.
    pub fn nodes(&self) -> &[Node<'a>] {
        &self.nodes
    }

    /// Whether nothing in it is notation.
    pub fn is_plain(&self) -> bool {
        self.nodes.iter().all(|node| node.kind == Kind::Text)
    }
}

/// From the bracket at the beginning to the next closing one, if no other bracket and no line
/// ending comes between. So no character is looked at for two brackets.
fn bracketed(text: &str) -> Option<&str> {
    let inside = &text[1..];
    let end = inside.find(['[', ']', '\n'])?;
    inside[end..].starts_with(']').then(|| &text[..end + 2])
}

/// What a bracketed piece is by itself, without regard to what surrounds it.
fn read(tag: &str) -> Option<Kind<'_>> {
    /// In bytes; `/download` has them.
    const LONGEST_NAME: usize = 9;

    let inside = &tag[1..tag.len() - 1];
    let name_ends = inside.find([':', ' ']).unwrap_or(inside.len());
    let (name, rest) = inside.split_at(name_ends);
    if name.len() > LONGEST_NAME {
        return None;
    }
    let name = name.to_ascii_lowercase();
    let name = name.as_str();

    if let Some(value) = rest.strip_prefix(':') {
        return Some(match name {
            "to" => Kind::Tag(Tag::To(account(value)?)),
            "picon" | "pname" | "piconname" => Kind::Tag(Tag::Person(account(value)?)),
            "dtext" => Kind::Tag(Tag::SystemText(phrase(value)?)),
            "download" => Kind::Open(number(value).map(|_| Block::Download)?),
            _ => return None,
        });
    }
    if let Some(attributes) = rest.strip_prefix(' ') {
        return Some(match name {
            "rp" | "返信" => Kind::Tag(reply(attributes)?),
            "qtmeta" => Kind::Tag(Tag::QuoteMeta(aid(attributes))),
            "引用" => Kind::Open(Block::Quote(aid(attributes))),
            "preview" => Kind::Tag(Tag::Preview),
            "task" => Kind::Open(Block::Task),
            _ => return None,
        });
    }
    Some(match name {
        "toall" => Kind::Tag(Tag::ToAll),
        "hr" => Kind::Tag(Tag::Rule),
        "deleted" => Kind::Tag(Tag::Deleted),
        "qt" => Kind::Open(Block::Quote(None)),
        "info" => Kind::Open(Block::Info),
        "title" => Kind::Open(Block::Title),
        "code" => Kind::Open(Block::Code),
        "url" => Kind::Open(Block::Url),
        "/qt" | "/引用" => Kind::Close(Block::Quote(None)),
        "/info" => Kind::Close(Block::Info),
        "/title" => Kind::Close(Block::Title),
        "/url" => Kind::Close(Block::Url),
        "/task" => Kind::Close(Block::Task),
        "/download" => Kind::Close(Block::Download),
        // `[/code]` is met only where no code is open.
        _ => return None,
    })
}

fn reply<'a>(attributes: &str) -> Option<Tag<'a>> {
    let (room, message) = attribute(attributes, "to")?.split_once('-')?;
    Some(Tag::Reply {
        author: aid(attributes)?,
        room: RoomId(number(room)?),
        message: MessageId::new(message).ok()?,
    })
}

fn aid(attributes: &str) -> Option<AccountId> {
    account(attribute(attributes, "aid")?)
}

fn attribute<'a>(attributes: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = attributes
        .split(' ')
        .filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(found, _)| found.eq_ignore_ascii_case(name))?;
    Some(value)
}

fn account(digits: &str) -> Option<AccountId> {
    number(digits).map(AccountId)
}

/// Digits only: `u64::from_str` would take a sign.
fn number(digits: &str) -> Option<u64> {
    let digits_only = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits_only.then(|| digits.parse().ok())?
}

/// The key of a system phrase, such as `task_added`.
fn phrase(key: &str) -> Option<&str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (!key.is_empty() && key.bytes().all(fits)).then_some(key)
}

/// What the parser knows so far. Only what is not text is stored; text is what lies between.
struct Parser<'a> {
    text: &'a str,
    marks: Vec<Mark<'a>>,
    /// The blocks that are open, outermost first, with the place of their beginning in `marks`.
    open: Vec<(usize, Block)>,
    /// How many blocks of each kind are open: whether an end has a beginning must not take a
    /// walk through all of them.
    open_count: [usize; Block::KINDS],
    /// From some place on the text has no `[/code]` any more; no need to search again.
    code_has_no_end: bool,
}

struct Mark<'a> {
    kind: Kind<'a>,
    place: Range<usize>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            marks: Vec::new(),
            open: Vec::new(),
            open_count: [0; Block::KINDS],
            code_has_no_end: false,
        }
    }

    /// Takes in the next bracketed piece. Returns where to go on.
    fn take(&mut self, place: Range<usize>) -> usize {
        let text = self.text;
        let end = place.end;
        match read(&text[place.clone()]) {
            None | Some(Kind::Text) => {}
            Some(Kind::Open(Block::Code)) => return self.take_code(place),
            Some(Kind::Open(block)) => self.open(block, place),
            Some(Kind::Close(block)) => self.close(block, place),
            Some(Kind::Tag(tag)) => {
                if let Tag::SystemText(_) = tag {
                    self.enclosing_info_is_system();
                }
                self.mark(Kind::Tag(tag), place);
            }
        }
        end
    }

    fn mark(&mut self, kind: Kind<'a>, place: Range<usize>) {
        self.marks.push(Mark { kind, place });
    }

    /// Code goes from its beginning to the first end, whatever is between.
    fn take_code(&mut self, place: Range<usize>) -> usize {
        let content = place.end;
        let Some(end) = self.code_end(content) else {
            return content;
        };
        let after = end.end;
        self.mark(Kind::Open(Block::Code), place);
        self.mark(Kind::Close(Block::Code), end);
        after
    }

    fn code_end(&mut self, from: usize) -> Option<Range<usize>> {
        const END: &str = "[/code]";
        if self.code_has_no_end {
            return None;
        }
        let end = self.text[from..]
            .match_indices("[/")
            .map(|(distance, _)| from + distance..from + distance + END.len())
            .find(|place| {
                let candidate = self.text.get(place.clone());
                candidate.is_some_and(|candidate| candidate.eq_ignore_ascii_case(END))
            });
        self.code_has_no_end = end.is_none();
        end
    }

    /// The beginning of a block is text until its end is met.
    fn open(&mut self, block: Block, place: Range<usize>) {
        self.open_count[block.index()] += 1;
        self.open.push((self.marks.len(), block));
        self.mark(Kind::Text, place);
    }

    /// Ends the innermost block of this kind. Blocks inside it that are still open never end, so
    /// their beginnings stay text; and so does an end without a beginning.
    fn close(&mut self, block: Block, place: Range<usize>) {
        if self.open_count[block.index()] == 0 {
            return;
        }
        while let Some((beginning, opened)) = self.open.pop() {
            self.open_count[opened.index()] -= 1;
            if opened.index() == block.index() {
                self.marks[beginning].kind = Kind::Open(opened);
                self.mark(Kind::Close(opened), place);
                return;
            }
        }
    }

    /// A system phrase was met: the info box around it, or around the title it is in, is
    /// Chatwork's own.
    fn enclosing_info_is_system(&mut self) {
        let outwards = self.open.iter_mut().rev().map(|(_, block)| block);
        let around = outwards.take(2).find(|block| **block != Block::Title);
        if let Some(block @ Block::Info) = around {
            *block = Block::SystemInfo;
        }
    }

    /// Puts the text between the marks.
    fn finish(self) -> Notation<'a> {
        let mut nodes = Vec::with_capacity(2 * self.marks.len() + 1);
        let mut done = 0;
        let marks = self.marks.into_iter();
        for Mark { kind, place } in marks.filter(|mark| mark.kind != Kind::Text) {
            nodes.extend(text(&self.text[done..place.start]));
            done = place.end;
            let source = &self.text[place];
            nodes.push(Node { source, kind });
        }
        nodes.extend(text(&self.text[done..]));
        Notation { nodes }
    }
}

fn text(source: &str) -> Option<Node<'_>> {
    let kind = Kind::Text;
    (!source.is_empty()).then_some(Node { source, kind })
}

impl Block {
    const KINDS: usize = 7;

    /// The kind as a number below [`Self::KINDS`]: which beginnings and ends belong together.
    fn index(self) -> usize {
        match self {
            Self::Quote(_) => 0,
            Self::Info | Self::SystemInfo => 1,
            Self::Title => 2,
            Self::Code => 3,
            Self::Url => 4,
            Self::Task => 5,
            Self::Download => 6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nodes as a line: text in quotation marks, everything else by its kind.
    fn shape(text: &str) -> String {
        let notation = Notation::parse(text);
        let joined: String = notation.nodes().iter().map(|node| node.source).collect();
        assert_eq!(joined, text, "parsing loses nothing");
        let shapes = notation.nodes().iter().map(|node| match &node.kind {
            Kind::Text => format!("{:?}", node.source),
            Kind::Tag(Tag::To(account)) => format!("To({account})"),
            Kind::Tag(tag) => format!("{tag:?}")
                .split('(')
                .next()
                .unwrap_or_default()
                .into(),
            Kind::Open(block) => format!("<{}", block.index()),
            Kind::Close(block) => format!("{}>", block.index()),
        });
        shapes.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_documented_tag_is_read() {
        for (text, expected) in [
            ("[To:1]", Kind::Tag(Tag::To(AccountId(1)))),
            ("[toall]", Kind::Tag(Tag::ToAll)),
            ("[hr]", Kind::Tag(Tag::Rule)),
            ("[picon:7]", Kind::Tag(Tag::Person(AccountId(7)))),
            ("[pname:7]", Kind::Tag(Tag::Person(AccountId(7)))),
            ("[piconname:7]", Kind::Tag(Tag::Person(AccountId(7)))),
            ("[dtext:task_done]", Kind::Tag(Tag::SystemText("task_done"))),
            ("[preview id=1 ht=150]", Kind::Tag(Tag::Preview)),
            ("[deleted]", Kind::Tag(Tag::Deleted)),
            (
                "[qtmeta aid=5 time=1700000000]",
                Kind::Tag(Tag::QuoteMeta(Some(AccountId(5)))),
            ),
            ("[qtmeta time=1700000000]", Kind::Tag(Tag::QuoteMeta(None))),
        ] {
            let notation = Notation::parse(text);
            assert_eq!(
                notation.nodes(),
                [Node {
                    source: text,
                    kind: expected
                }]
            );
        }
    }

    #[test]
    fn both_spellings_of_a_reply_name_the_author_the_room_and_the_message() {
        for text in [
            "[rp aid=1 to=2-3]",
            "[返信 aid=1 to=2-3]",
            "[RP to=2-3 AID=1]",
        ] {
            let reply = Tag::Reply {
                author: AccountId(1),
                room: RoomId(2),
                message: MessageId::new("3").expect("a digit is a message id"),
            };
            assert_eq!(Notation::parse(text).nodes()[0].kind, Kind::Tag(reply));
        }
    }

    #[test]
    fn names_of_tags_are_taken_in_any_case() {
        assert_eq!(shape("[TO:1][ToAll][QT]x[/Qt]"), "To(1) ToAll <0 \"x\" 0>");
    }

    #[test]
    fn blocks_nest_and_both_spellings_of_a_quote_are_one_kind() {
        assert_eq!(shape("[qt]a[qt]b[/qt]c[/qt]"), r#"<0 "a" <0 "b" 0> "c" 0>"#);
        assert_eq!(shape("[引用 aid=1 time=2]a[/引用]"), r#"<0 "a" 0>"#);
        assert_eq!(
            shape("[info][title]t[/title]x[/info]"),
            r#"<1 <2 "t" 2> "x" 1>"#
        );
    }

    #[test]
    fn what_only_looks_like_a_tag_is_text() {
        for text in [
            "[To:]",
            "[To:x]",
            "[To: 1]",
            "[To:+1]",
            "[To:1",
            "[To:1\n]",
            "[To:18446744073709551616]",
            "[To]",
            "[rp]",
            "[rp aid=1]",
            "[rp to=2-3]",
            "[rp aid=1 to=2]",
            "[rp aid=1 to=2-あ]",
            "[rp　aid=1 to=2-3]",
            "[/rp]",
            "[dtext:]",
            "[download:x]y[/download]",
            "[foo]",
            "[]",
            "[",
            "]",
            "[ 12 ]",
            "[/code]",
            "[a-very-long-name-that-is-no-tag]",
        ] {
            assert!(Notation::parse(text).is_plain(), "{text}");
        }
    }

    #[test]
    fn what_is_not_balanced_is_text() {
        assert_eq!(shape("[qt]a"), r#""[qt]a""#);
        assert_eq!(shape("a[/qt]"), r#""a[/qt]""#);
        assert_eq!(shape("[qt][info]a[/qt]"), r#"<0 "[info]a" 0>"#);
        assert_eq!(shape("[qt]a[/qt][/qt]"), r#"<0 "a" 0> "[/qt]""#);
        assert_eq!(shape("[code][To:1]"), r#""[code]" To(1)"#);
        assert_eq!(shape("[[To:1]]"), r#""[" To(1) "]""#);
    }

    #[test]
    fn code_is_literal_up_to_its_first_end() {
        assert_eq!(
            shape("[code][To:1][/qt][code][/CODE][To:2]"),
            r#"<3 "[To:1][/qt][code]" 3> To(2)"#
        );
        assert_eq!(
            shape("[qt][code][/qt][/code][/qt]"),
            r#"<0 <3 "[/qt]" 3> 0>"#
        );
    }

    #[test]
    fn an_info_box_with_a_system_phrase_in_it_or_in_its_title_is_chatworks_own() {
        let system =
            |text: &str| Notation::parse(text).nodes()[0].kind == Kind::Open(Block::SystemInfo);
        assert!(system("[info][title][dtext:file_uploaded][/title]x[/info]"));
        assert!(system("[info]x[dtext:chatroom_added][/info]"));
        assert!(!system("[info]x[/info][dtext:chatroom_added]"));
        assert!(!system("[info][qt][dtext:task_added][/qt]x[/info]"));
    }

    #[test]
    fn a_mebibyte_of_brackets_is_parsed_at_once() {
        const SIZE: usize = 1 << 20;
        for piece in [
            "[",
            "[qt]",
            "[/qt]",
            "[code]",
            "[/code]",
            "[code][/code",
            "[info][/qt]",
            "[To:1]",
            "[/",
            "[qt][info]",
            "[rp aid=1 to=",
            "[info][title][dtext:a]",
            "[title][dtext:a]",
        ] {
            // Beginnings, then ends that may have to look for theirs.
            let text = piece.repeat(SIZE / 2 / piece.len()) + &"[/info]".repeat(SIZE / 14);
            let notation = Notation::parse(&text);
            let length: usize = notation.nodes().iter().map(|node| node.source.len()).sum();
            assert_eq!(length, text.len());
        }
    }
}
