//! How missed mentions are shown: lines for people, JSON for programs.

use std::collections::HashMap;
use std::io::{self, Write};

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_chatwork::notation;
use chickwork_queue::event::{BotName, EventId};
use jiff::Timestamp;
use serde::Serialize;

use super::missed::Mention;
use super::rooms::Place;
use crate::{output, words};

/// What somebody wrote is shown up to this length, in characters.
const LONGEST_TEXT: usize = 60;

/// What has become of a missed mention. The words are a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// It was found.
    Missed,
    /// It was found, and is older than what is answered.
    TooOld,
    /// It is in the queue.
    Queued,
}

/// Shows mentions.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    pub(super) bot: &'a BotName,
    /// The bot's name in Chatwork, which stands in what people write to it.
    pub(super) name: &'a str,
    pub(super) places: HashMap<RoomId, &'a Place>,
    pub(super) now: Timestamp,
}

/// The JSON of a mention. Its fields are a contract.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// The event, once it is queued.
    id: Option<EventId>,
    bot: &'a BotName,
    room_id: RoomId,
    /// The room's name, where Chatwork told it.
    room: Option<&'a str>,
    message_id: &'a MessageId,
    sender: AccountId,
    sent_at: Timestamp,
    text: &'a str,
    state: State,
}

impl Listing<'_> {
    /// One line for people.
    pub(super) fn line(
        &self,
        mention: &Mention,
        is_too_old: bool,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let message = &mention.message;
        let place = self.places.get(&message.room_id);
        let room = place.map_or_else(|| message.room_id.to_string(), |place| place.shown());
        let said = notation::what_was_said(&message.body, &[self.name]);
        let said = match said.trim() {
            "" => "(says nothing else)".to_owned(),
            said => format!("\"{}\"", words::line(said, LONGEST_TEXT)),
        };
        writeln!(
            out,
            "  {} ({}{})  room {room}, message {}, by {}: {said}",
            words::time(mention.sent_at),
            words::ago(mention.sent_at, self.now),
            if is_too_old { ", too old" } else { "" },
            message.message_id,
            message.author,
        )
    }

    /// One line for programs.
    pub(super) fn json(
        &self,
        mention: &Mention,
        id: Option<EventId>,
        state: State,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let message = &mention.message;
        let place = self.places.get(&message.room_id);
        let line = Line {
            id,
            bot: self.bot,
            room_id: message.room_id,
            room: place.and_then(|place| place.name.as_deref()),
            message_id: &message.message_id,
            sender: message.author,
            sent_at: mention.sent_at,
            text: &message.body,
            state,
        };
        output::json(&line, out)
    }
}

#[cfg(test)]
mod tests {
    use chickwork_chatwork::webhook::Message;

    use super::*;

    #[test]
    fn a_mention_is_shown_without_what_could_command_a_terminal() {
        let at = Timestamp::from_second(1_700_000_000).expect("a time");
        let place = Place {
            room: RoomId(2),
            name: Some("tea\u{1b}[2J".to_owned()),
        };
        let bot = BotName::default();
        let listing = Listing {
            bot: &bot,
            name: "Chick",
            places: HashMap::from([(RoomId(2), &place)]),
            now: Timestamp::from_second(1_700_000_120).expect("a time"),
        };
        let mut mention = Mention {
            message: Message {
                message_id: MessageId::new("5").expect("a digit"),
                room_id: RoomId(2),
                author: AccountId(1),
                addressee: None,
                body: "[To:7]Chick\nchào\u{202e}\nbạn".to_owned(),
                send_time: 1_700_000_000,
                update_time: 0,
            },
            sent_at: at,
            written_at: at,
        };
        let told = |mention: &Mention, is_too_old| {
            let mut out = Vec::new();
            listing
                .line(mention, is_too_old, &mut out)
                .expect("a vector takes it");
            String::from_utf8(out).expect("text")
        };
        assert_eq!(
            told(&mention, false),
            "  2023-11-14T22:13:20Z (2 min ago)  room 2 tea\\u{1b}[2J, message 5, by 1: \"chào\\u{202e} bạn\"\n"
        );
        mention.message.body = "[To:7]Chick\n".to_owned();
        let said = told(&mention, true);
        assert!(said.contains("(2 min ago, too old)"), "{said}");
        assert!(said.ends_with(": (says nothing else)\n"), "{said}");

        let mut out = Vec::new();
        listing
            .json(&mention, None, State::TooOld, &mut out)
            .expect("a vector takes it");
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "{\"id\":null,\"bot\":\"bot\",\"room_id\":2,\"room\":\"tea\\u001b[2J\",\"message_id\":\"5\",\"sender\":1,\
             \"sent_at\":\"2023-11-14T22:13:20Z\",\"text\":\"[To:7]Chick\\n\",\"state\":\"too_old\"}\n"
        );
    }
}
