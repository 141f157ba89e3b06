//! Whom a message addresses, and whether a person wrote it at all.

use super::parse::{Block, Kind, Node, Notation, Tag};
use crate::id::{AccountId, MessageId, RoomId};

/// How a message addresses the bot, from the weakest way to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// Not by any tag.
    Nobody,
    /// Only in other people's words: a tag for the bot or for all in a quote or in code, or a
    /// quote of the bot.
    Quoted,
    /// Only as a member of the room, by `[toall]` outside quotes and code.
    ToAll,
    /// A To or reply tag for the bot that the author wrote: outside quotes and code.
    Direct,
}

impl Notation<'_> {
    /// The strongest way in which the message addresses this account.
    pub fn address_of(&self, bot: AccountId) -> Address {
        let addresses = self.with_quoting().map(|(node, quoted)| {
            if quoted {
                address_in(node, bot).min(Address::Quoted)
            } else {
                address_of(node, bot)
            }
        });
        addresses.max().unwrap_or(Address::Nobody)
    }

    /// Whether Chatwork alone wrote it: system phrases and the boxes around them ("file uploaded",
    /// "task added", …), or the remains of a deleted message.
    pub fn is_system_text_only(&self) -> bool {
        let mut boxes = 0_usize;
        let mut system_text = false;
        for node in &self.nodes {
            match &node.kind {
                Kind::Open(Block::SystemInfo) => boxes += 1,
                Kind::Close(Block::SystemInfo) => boxes -= 1,
                Kind::Tag(Tag::SystemText(_) | Tag::Deleted) => system_text = true,
                _ if boxes > 0 => {}
                Kind::Tag(Tag::Person(_) | Tag::Rule | Tag::Preview) => {}
                Kind::Text if node.source.trim().is_empty() => {}
                Kind::Text | Kind::Tag(_) | Kind::Open(_) | Kind::Close(_) => return false,
            }
        }
        system_text
    }

    /// The nodes, each with whether it is in a quote or in code.
    fn with_quoting(&self) -> impl Iterator<Item = (&Node<'_>, bool)> {
        let mut depth = 0_usize;
        self.nodes.iter().map(move |node| {
            match node.kind {
                Kind::Open(Block::Quote(_) | Block::Code) => depth += 1,
                Kind::Close(Block::Quote(_) | Block::Code) => depth -= 1,
                _ => {}
            }
            (node, depth > 0)
        })
    }
}

/// How this node addresses the account.
fn address_of(node: &Node<'_>, bot: AccountId) -> Address {
    match &node.kind {
        Kind::Tag(Tag::To(account)) if *account == bot => Address::Direct,
        Kind::Tag(Tag::Reply { author, .. }) if *author == bot => Address::Direct,
        Kind::Tag(Tag::ToAll) => Address::ToAll,
        Kind::Tag(Tag::QuoteMeta(Some(author))) if *author == bot => Address::Quoted,
        Kind::Open(Block::Quote(Some(author))) if *author == bot => Address::Quoted,
        _ => Address::Nobody,
    }
}

/// How this node, which may be the text of code, would address the account if it were not quoted.
fn address_in(node: &Node<'_>, bot: AccountId) -> Address {
    match node.kind {
        Kind::Text => Notation::parse(node.source).address_of(bot),
        _ => address_of(node, bot),
    }
}

/// Whether the message's author replied, outside quotes and code, to this message.
pub fn replies_to(body: &str, room: RoomId, message: &MessageId) -> bool {
    Notation::parse(body).with_quoting().any(|(node, quoted)| {
        let Kind::Tag(Tag::Reply {
            room: to_room,
            message: to_message,
            ..
        }) = &node.kind
        else {
            return false;
        };
        !quoted && *to_room == room && to_message == message
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOT: AccountId = AccountId(7);

    #[test]
    fn the_strongest_way_of_addressing_counts() {
        for (text, expected) in [
            ("[To:7]Chick さん\nhi", Address::Direct),
            ("[to:7]hi", Address::Direct),
            ("hi [rp aid=7 to=1-2] Chick", Address::Direct),
            ("[返信 aid=7 to=1-2]hi", Address::Direct),
            ("[info][To:7] hi[/info]", Address::Direct),
            ("[qt][To:7][/qt][To:7]", Address::Direct),
            ("[toall][To:7]", Address::Direct),
            ("[qt]never closed [To:7]", Address::Direct),
            ("[code]never closed [To:7]", Address::Direct),
            ("[qt]a[/qt][To:7][qt]b[/qt]", Address::Direct),
            ("[toall]hi", Address::ToAll),
            ("[TOALL]hi", Address::ToAll),
            ("[qt][To:7][/qt][toall]", Address::ToAll),
            ("[toall][qt][To:7][/qt]", Address::ToAll),
            ("[qt][To:7] hi[/qt] look", Address::Quoted),
            (
                "[qt][qtmeta aid=1 time=2][rp aid=7 to=1-2]hi[/qt]",
                Address::Quoted,
            ),
            ("[qt][qt]a[/qt][To:7][/qt]", Address::Quoted),
            ("[引用 aid=1 time=2][To:7]hi[/引用]", Address::Quoted),
            ("[引用 aid=7 time=2]hi[/引用]", Address::Quoted),
            ("[qt][qtmeta aid=7 time=2]hi[/qt]", Address::Quoted),
            ("[code][To:7][/code]", Address::Quoted),
            ("[code]x[qt]y[To:7][/code]", Address::Quoted),
            ("[qt][code][To:7][/code][/qt]", Address::Quoted),
            ("[qt][toall][/qt]", Address::Quoted),
            ("[To:8]hi", Address::Nobody),
            ("[To:77]hi", Address::Nobody),
            ("[rp aid=8 to=7-7]hi", Address::Nobody),
            ("[picon:7] is nice", Address::Nobody),
            ("[qt]hi[/qt]", Address::Nobody),
            ("[code]To:7[/code]", Address::Nobody),
            ("[To:7", Address::Nobody),
            ("To:7]", Address::Nobody),
            ("", Address::Nobody),
        ] {
            assert_eq!(Notation::parse(text).address_of(BOT), expected, "{text}");
        }
    }

    #[test]
    fn what_chatwork_itself_wrote_is_system_text() {
        for text in [
            "[info][title][dtext:file_uploaded][/title][preview id=1 ht=150][download:1]a.png (54 KB)[/download][/info]",
            "[info][title][dtext:task_added][/title][task aid=1,2 st=open lt=0 ltype=date]Buy milk[/task][/info]",
            "[info][title][dtext:task_done][/title][task aid=1 st=done lt=1700000000]Buy milk[/task][/info]\n",
            "[info][title][dtext:chatroom_groupchat_created][/title][dtext:chatroom_chatname_is]Room[dtext:chatroom_set][/info]",
            "[dtext:chatroom_chat_joined]",
            "[dtext:chatroom_member_is][piconname:1][dtext:chatroom_added]",
            "[deleted]",
        ] {
            assert!(Notation::parse(text).is_system_text_only(), "{text}");
        }
    }

    #[test]
    fn what_a_person_wrote_is_not_system_text() {
        for text in [
            "",
            "hello",
            "[hr]",
            "[info]hello[/info]",
            "[To:7]Chick\n[info][title][dtext:file_uploaded][/title][download:1]a[/download][/info]",
            "look\n[info][title][dtext:file_uploaded][/title][download:1]a[/download][/info]",
            "[qt][dtext:task_added][/qt]",
            "[task aid=1 st=open lt=0]Buy milk[/task]",
            "[deleted] they said",
        ] {
            assert!(!Notation::parse(text).is_system_text_only(), "{text}");
        }
    }

    #[test]
    fn only_a_reply_tag_of_ones_own_for_just_this_message_is_a_reply_to_it() {
        let message = MessageId::new("33").expect("digits are a message id");
        let replies = |body| replies_to(body, RoomId(22), &message);
        assert!(replies("[rp aid=1 to=22-33]\nhi"));
        assert!(replies("hi [返信 aid=1 to=22-33]"));
        assert!(!replies("[rp aid=1 to=22-333]\nhi"));
        assert!(!replies("[rp aid=1 to=222-33]\nhi"));
        assert!(!replies("[qt][rp aid=1 to=22-33]hi[/qt]"));
        assert!(!replies("[code][rp aid=1 to=22-33][/code]"));
        assert!(!replies("[rp aid=1 to=22-33"));
        assert!(!replies("to=22-33"));
    }
}
