//! Outcomes: what became of each event, step by step. One JSON object each, versioned.
//!
//! Intents and results of posts are the write-ahead log of the post step: they are stored, confirmed,
//! before anything else happens. So is how an event has ended, before the event is gone: else nobody
//! could tell an event that was ignored or dropped from one that was lost ([`Outcome::is_proof`]). What
//! happens on the way is best effort, and for people.
//!
//! Releases run side by side and read each other's lines, and a line that cannot be read is passed
//! over. So `intent`, `posted` and `not_posted` keep their names, their meaning and every field
//! that they have; what is added to them later is optional. Frozen examples: `tests/data/outcomes.v1.jsonl`.

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Stored;
use crate::event::{AnswerKey, BotName, Event, EventId};
use crate::job::{Cause, Step};

/// One line in the story of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Version of this JSON: [`Outcome::VERSION`].
    pub v: u32,
    /// When it happened, by the clock of whoever wrote it.
    pub at: Timestamp,
    /// The event.
    pub id: EventId,
    /// The bot.
    pub bot: BotName,
    /// The room, where known.
    pub room_id: Option<RoomId>,
    /// The message, where known.
    pub message_id: Option<MessageId>,
    /// The round that this is about: when a person asked for another answer to a message that was
    /// answered ([`AnswerKey::again`]). With `replayed` it says that a new round begins. Without it, it
    /// is about the first round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Timestamp>,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened to an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// It was received, and where it was made safe; `at` is the time of that. Best effort, and may come
    /// late: behind what has become of the event meanwhile.
    Received {
        /// Where.
        stored: Stored,
        /// When the broker took what had waited in a spool.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        forwarded_at: Option<Timestamp>,
    },
    /// Nothing is to be said, for this reason (`own`, `flood`, `not_addressed`, `duplicate`, …).
    Ignored {
        /// Why.
        reason: String,
    },
    /// SimSimi was asked.
    Asked {
        /// How long it took, milliseconds.
        millis: u64,
        /// `answered`, `no_answer`, or what went wrong.
        result: String,
        /// Who had asked, for the limit per sender.
        sender: AccountId,
        /// What SimSimi was asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        question: Option<String>,
        /// What it answered, in its own words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<String>,
    },
    /// The reply is stored and waits to be posted.
    ReplyStored {
        /// What will be posted, whole.
        text: String,
    },
    /// Put off.
    Later {
        /// Which step.
        step: Step,
        /// Why.
        reason: String,
        /// Until when.
        until: Timestamp,
    },
    /// About to be posted; confirmed before the post is sent.
    Intent {
        /// Which consumer means to post it: process and tenure.
        consumer: String,
    },
    /// The result of a post: it is in the room.
    Posted {
        /// The reply's own message id, where Chatwork told it or a look found it.
        reply_message_id: Option<MessageId>,
        /// Found by looking, not told by Chatwork.
        found: bool,
    },
    /// The result of a post: it is certainly not in the room (it was not sent, or was refused).
    NotPosted {
        /// Why.
        reason: String,
        /// Whether a request reached Chatwork, and so counts against its limits.
        called: bool,
        /// The time of the intent that this is the result of; a line without one is a person's
        /// word about the message as a whole. A late line must not close a successor's intent.
        #[serde(default)]
        intended_at: Option<Timestamp>,
        /// A person's word is about what was intended up to this time, when the reply was given up.
        /// What is begun afterwards the person has not seen. Only where there is no `intended_at`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        overrules_until: Option<Timestamp>,
    },
    /// The room was read to see whether the reply is there.
    Looked {
        /// `found`, `absent` or `unclear`.
        result: String,
        /// The reply that was found.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply_message_id: Option<MessageId>,
        /// When the oldest message that was seen was sent, by Chatwork's clock.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reaches_back_to: Option<Timestamp>,
    },
    /// Given up.
    Dead {
        /// Which step.
        step: Step,
        /// Why.
        cause: Cause,
        /// The last error.
        error: String,
        /// HTTP status of a refusal by Chatwork.
        status: Option<u16>,
    },
    /// A person dropped the dead letter.
    Dropped {
        /// Why.
        reason: String,
    },
    /// A person put it back in.
    Replayed {
        /// The counter after it.
        replay: u32,
        /// Why.
        reason: String,
        /// By which command: [`By`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
}

/// Why nothing is said, as [`What::Ignored`] names it.
#[derive(Debug)]
pub struct Reason;

impl Reason {
    /// The bot wrote it.
    pub const OWN: &str = "own";
    /// Somebody wrote it who is never answered.
    pub const IGNORED_ACCOUNT: &str = "ignored_account";
    /// Nobody wrote it: Chatwork reports an upload, a task, a new member.
    pub const SYSTEM_TEXT: &str = "system_text";
    /// It is not for the bot.
    pub const NOT_ADDRESSED: &str = "not_addressed";
    /// Another event about this message answers it.
    pub const DUPLICATE: &str = "duplicate";
    /// Chatwork said lately that the bot may not post there.
    pub const ROOM_CLOSED: &str = "room_closed";
    /// Its sender has asked too much.
    pub const FLOOD: &str = "flood";
    /// There is no answer, and no fallback line.
    pub const NOTHING_TO_SAY: &str = "nothing_to_say";
}

/// The commands that put events back in, as [`What::Replayed`] names them.
#[derive(Debug)]
pub struct By;

impl By {
    /// `chickwork dead retry`.
    pub const DEAD_RETRY: &str = "dead retry";
    /// `chickwork audit --requeue`.
    pub const AUDIT: &str = "audit --requeue";
    /// `chickwork replay`.
    pub const REPLAY: &str = "replay";
    /// `chickwork recover`.
    pub const RECOVER: &str = "recover";
}

impl What {
    /// Who meant to post, in the [`What::Intent`] of an event that was taken in from another deployment:
    /// whoever worked on it there, for all that anybody knows here.
    pub const ELSEWHERE: &str = "elsewhere";
    /// What came of asking, in [`What::Asked`]: SimSimi said something.
    pub const ANSWERED: &str = "answered";
    /// It had nothing to say.
    pub const NO_ANSWER: &str = "no_answer";
    /// What came of looking, in [`What::Looked`]: the reply is in the room.
    pub const FOUND: &str = "found";
    /// It is not.
    pub const ABSENT: &str = "absent";
    /// Nobody can tell.
    pub const UNCLEAR: &str = "unclear";

    /// The word by which it is written down.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Received { .. } => "received",
            Self::Ignored { .. } => "ignored",
            Self::Asked { .. } => "asked",
            Self::ReplyStored { .. } => "reply_stored",
            Self::Later { .. } => "later",
            Self::Intent { .. } => "intent",
            Self::Posted { .. } => "posted",
            Self::NotPosted { .. } => "not_posted",
            Self::Looked { .. } => "looked",
            Self::Dead { .. } => "dead",
            Self::Dropped { .. } => "dropped",
            Self::Replayed { .. } => "replayed",
        }
    }

    /// The same without what was said by people or SimSimi.
    #[must_use]
    pub(crate) fn without_words(self) -> Self {
        match self {
            Self::Asked {
                millis,
                result,
                sender,
                question: _,
                answer: _,
            } => Self::Asked {
                millis,
                result,
                sender,
                question: None,
                answer: None,
            },
            Self::ReplyStored { text: _ } => Self::ReplyStored {
                text: String::new(),
            },
            Self::Received { .. }
            | Self::Ignored { .. }
            | Self::Later { .. }
            | Self::Intent { .. }
            | Self::Posted { .. }
            | Self::NotPosted { .. }
            | Self::Looked { .. }
            | Self::Dead { .. }
            | Self::Dropped { .. }
            | Self::Replayed { .. } => self,
        }
    }

    /// Whether it has words of people or of SimSimi.
    pub(crate) fn has_words(&self) -> bool {
        self.clone().without_words() != *self
    }

    /// Whether the event has come to an end with this, unless a person puts it back in.
    pub fn is_end(&self) -> bool {
        matches!(
            self,
            Self::Ignored { .. } | Self::Posted { .. } | Self::Dead { .. } | Self::Dropped { .. }
        )
    }
}

/// The fields of an outcome's JSON in which nobody's words are. Of a line that this release cannot read,
/// no others are left when its words are to be forgotten: in what it does not know there may be some.
pub(crate) const WORDLESS: [&str; 27] = [
    "v",
    "at",
    "id",
    "bot",
    "room_id",
    "message_id",
    "again",
    "what",
    "stored",
    "forwarded_at",
    "reason",
    "millis",
    "result",
    "sender",
    "step",
    "until",
    "consumer",
    "reply_message_id",
    "found",
    "called",
    "intended_at",
    "overrules_until",
    "reaches_back_to",
    "cause",
    "status",
    "replay",
    "by",
];

impl Outcome {
    /// The version that this release writes.
    pub const VERSION: u32 = 1;

    /// That this event was received.
    pub(crate) fn received(event: &Event, stored: Stored, forwarded_at: Option<Timestamp>) -> Self {
        Self {
            v: Self::VERSION,
            at: event.received_at,
            id: event.id,
            bot: event.bot.clone(),
            room_id: event.room_id,
            message_id: event.message_id.clone(),
            again: event.again,
            what: What::Received {
                stored,
                forwarded_at,
            },
        }
    }

    /// Whether this is the result of a post, which is true whoever has the claim by now.
    pub fn is_result(&self) -> bool {
        matches!(self.what, What::Posted { .. } | What::NotPosted { .. })
    }

    /// Whether this line must be stored before its claim may be settled: it belongs to the write-ahead
    /// log of the post step, or proves how the event has ended.
    pub fn is_proof(&self) -> bool {
        self.is_result() || self.what.is_end()
    }

    /// The message that this is about, where it is about one.
    pub fn answer_key(&self) -> Option<AnswerKey> {
        Some(AnswerKey {
            bot: self.bot.clone(),
            room_id: self.room_id?,
            message_id: self.message_id.clone()?,
            again: self.again,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROZEN: &str = include_str!("../tests/data/outcomes.v1.jsonl");

    #[test]
    fn the_frozen_lines_of_version_1_are_read_and_written_as_they_are() {
        for line in FROZEN.lines() {
            let outcome: Outcome = serde_json::from_str(line).expect(line);
            assert_eq!(serde_json::to_string(&outcome).expect(line), line);
            let name = format!("\"what\":\"{}\"", outcome.what.name());
            assert!(line.contains(&name), "{name} in {line}");
        }
    }

    #[test]
    fn a_line_without_words_tells_the_rest() {
        for line in FROZEN.lines() {
            let outcome: Outcome = serde_json::from_str(line).expect(line);
            let has_words = outcome.what.has_words();
            let what = outcome.what.clone().without_words();
            assert!(!what.has_words(), "{line}");
            assert_eq!(what.name(), outcome.what.name());
            let fields = serde_json::from_str::<serde_json::Value>(line).expect(line);
            let fields = fields.as_object().expect("an object").keys();
            // What went wrong is no word of anybody, but nobody knows that of what cannot be read.
            let others: Vec<_> = fields
                .filter(|name| !WORDLESS.contains(&name.as_str()) && *name != "error")
                .collect();
            assert_eq!(!others.is_empty(), has_words, "{others:?} of {line}");
        }
        assert!(FROZEN.lines().any(|line| line.contains("\"question\"")));
        assert!(FROZEN.lines().any(|line| line.contains("\"text\"")));
    }

    #[test]
    fn a_line_with_something_more_is_read_all_the_same() {
        let line = FROZEN.lines().next().expect("there are lines");
        let newer = line.replace("{\"v\":1,", "{\"v\":2,\"mood\":\"good\",");
        let outcome: Outcome = serde_json::from_str(&newer).expect("what is added does no harm");
        assert_eq!(outcome.v, 2);
    }
}
