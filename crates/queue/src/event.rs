//! An event: the raw body of an authentic webhook and what we know about it.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use chickwork_chatwork::id::{MessageId, RoomId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The identity of an event, given when it was received and kept through spool, retries and
/// replay. UUIDv7: ids sort by time of receipt, and tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub Uuid);

impl EventId {
    /// A new id, for an event that was received just now.
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }

    /// When the event was received, as its id tells; `None`: it is no id of ours.
    pub fn received_at(self) -> Option<Timestamp> {
        let (seconds, nanoseconds) = self.0.get_timestamp()?.to_unix();
        let seconds = i64::try_from(seconds).ok()?;
        Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
    }

    /// The half of it that is random, which takes half the memory and tells millions of events apart.
    pub(crate) fn random_part(self) -> u64 {
        self.0.as_u64_pair().1
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// The name of a bot: 1 to 32 of `a-z 0-9 _ -`. It stands in the webhook's path, in routing keys
/// and in the name of the bot's reply queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct BotName(String);

/// The text is not a bot's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a bot's name is 1 to 32 of a-z, 0-9, _ and -")]
pub struct NotABotName;

impl BotName {
    /// Takes the text for a bot's name if it has the form of one.
    pub fn new(text: impl Into<String>) -> Result<Self, NotABotName> {
        let text = text.into();
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
        if (1..=32).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text))
        } else {
            Err(NotABotName)
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for BotName {
    /// The one bot of a deployment that did not name its bot.
    fn default() -> Self {
        Self("bot".to_owned())
    }
}

impl<'de> Deserialize<'de> for BotName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for BotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What must be answered once, however many events carry it: a message, by a bot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AnswerKey {
    /// Who answers.
    pub bot: BotName,
    /// The message's room.
    pub room_id: RoomId,
    /// The message.
    pub message_id: MessageId,
    /// The round: when a person asked for another answer to a message that was answered. `None` is
    /// the first round. What is promised once is promised once in every round.
    pub again: Option<Timestamp>,
}

/// An authentic webhook as it waits, is archived and is replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The event's identity.
    pub id: EventId,
    /// The bot it was sent to.
    pub bot: BotName,
    /// `message_created`, `message_updated`, `mention_to_me`, or `other` for a type that we do not
    /// know; `other` too for what is no event at all.
    pub event_type: &'static str,
    /// The room, where the event has one.
    pub room_id: Option<RoomId>,
    /// The message, where the event has one.
    pub message_id: Option<MessageId>,
    /// When the ingress received it.
    pub received_at: Timestamp,
    /// When a person last put it back in, or put it in the first time (`recover`): from then on it is aged
    /// anew. `None`: it came in by itself.
    pub put_back_at: Option<Timestamp>,
    /// How often a person has put it back in.
    pub replay: u32,
    /// When a person asked for another answer to its message, though that was answered; whole
    /// milliseconds. See [`AnswerKey::again`].
    pub again: Option<Timestamp>,
    /// The webhook's body, byte for byte.
    pub body: Bytes,
}

impl Event {
    /// The type of an event that is of no known type.
    pub const OTHER: &'static str = "other";

    /// The known name equal to `text`, else [`Event::OTHER`].
    pub fn known_type(text: &str) -> &'static str {
        ["message_created", "message_updated", "mention_to_me"]
            .into_iter()
            .find(|known| *known == text)
            .unwrap_or(Self::OTHER)
    }

    /// The routing key of the archive copy: `<bot>.<event type>.<room id>`, `-` for no room.
    pub fn routing_key(&self) -> String {
        match self.room_id {
            Some(room_id) => format!("{}.{}.{}", self.bot, self.event_type, room_id),
            None => format!("{}.{}.-", self.bot, self.event_type),
        }
    }
}
