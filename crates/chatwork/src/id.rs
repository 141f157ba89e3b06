//! Chatwork's identifiers as types of their own, so that a room is never taken for an account.
//!
//! In JSON a room and an account are numbers, a message is a string ("message ids became strings
//! in v2 because they outgrew the integers some languages handle safely").

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// A Chatwork account: a person or the bot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountId(pub u64);

/// A room: a group, a direct chat or somebody's "my chat".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RoomId(pub u64);

/// A message, unique within its room: 1 to [`MessageId::MAX_LENGTH`] ASCII letters or digits
/// (19 digits today), so that it can stand inside a tag, a header or a link as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct MessageId(String);

/// The text is not a message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message id is 1 to {max} letters or digits", max = MessageId::MAX_LENGTH)]
pub struct NotAMessageId;

impl MessageId {
    /// The longest message id that is taken for one, in characters.
    pub const MAX_LENGTH: usize = 40;

    /// Takes the text for a message id if it has the form of one.
    pub fn new(text: impl Into<String>) -> Result<Self, NotAMessageId> {
        let text = text.into();
        let fits = (1..=Self::MAX_LENGTH).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            Ok(Self(text))
        } else {
            Err(NotAMessageId)
        }
    }

    /// What the ids of messages seem to count from: 2010-06-14T00:00:00Z, in Unix milliseconds.
    pub const SEEMS_TO_BEGIN: i64 = 1_276_473_600_000;
    /// So many bits below the milliseconds tell messages of one millisecond apart, or so it seems.
    pub const SEEMS_TO_SHIFT: u32 = 22;

    /// When the message was sent, in Unix milliseconds, as its id seems to tell. Chatwork promises nothing
    /// of the kind, but the ids of its samples carry it in their upper bits: a hint for where to look
    /// first.
    pub fn seems_sent_at(&self) -> Option<i64> {
        let id: u64 = self.0.parse().ok()?;
        let millis = i64::try_from(id >> Self::SEEMS_TO_SHIFT).ok()?;
        Self::SEEMS_TO_BEGIN.checked_add(millis)
    }

    /// The id as Chatwork wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
