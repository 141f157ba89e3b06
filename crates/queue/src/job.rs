//! The work in the queue: an event to ask about, or a reply to post; and what can become of it.

use std::time::Duration;

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{AnswerKey, BotName, Event, EventId};
use crate::outcome::Outcome;

/// The two steps of a job's life, each with a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Before a job: the ingress could not make sense of it.
    Receive,
    /// Ask SimSimi.
    Ask,
    /// Post the reply.
    Post,
}

impl Step {
    /// The word used in the queue, in metrics and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Ask => "ask",
            Self::Post => "post",
        }
    }
}

/// A reply that is stored and waits to be posted. Its JSON is versioned: see [`Reply::VERSION`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The event that is answered.
    pub id: EventId,
    /// Who answers.
    pub bot: BotName,
    /// Type of the event, for the record.
    pub event_type: String,
    /// The room to post in.
    pub room_id: RoomId,
    /// The message that is answered.
    pub message_id: MessageId,
    /// Who wrote that message.
    pub account_id: AccountId,
    /// When the ingress received the event.
    pub received_at: Timestamp,
    /// When the message was written, or last edited: before this nobody has replied to it as it is. Not
    /// after `received_at`; `None` in what older releases wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_at: Option<Timestamp>,
    /// From when on the answer's age counts; see `CHICKWORK_MAX_AGE`.
    pub aged_from: Timestamp,
    /// How often a person has put it back in.
    pub replay: u32,
    /// The text to post, complete with its reply tag.
    pub text: String,
    /// When a person asked for another answer to the message; see [`AnswerKey::again`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Timestamp>,
}

impl Reply {
    /// The version that this release writes, and the newest that it reads.
    pub const VERSION: u32 = 1;

    /// The reply as a person puts it back: aged from now.
    #[must_use]
    pub fn put_back(self, now: Timestamp) -> Self {
        Self {
            aged_from: now,
            replay: self.replay + 1,
            ..self
        }
    }

    /// What is answered by this reply.
    pub fn answer_key(&self) -> AnswerKey {
        AnswerKey {
            bot: self.bot.clone(),
            room_id: self.room_id,
            message_id: self.message_id.clone(),
            again: self.again,
        }
    }
}

/// What a claim holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// An event to answer.
    Ask(Event),
    /// A reply to post.
    Post(Reply),
}

/// Work together with its history in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// What is to be done.
    pub work: Work,
    /// How many tries have failed so far. Interruptions, pauses and rate limits are not tries.
    pub attempts: u32,
    /// How often it came back without having been settled: its worker died, or the broker did.
    pub deaths: u32,
}

/// The period during which this process alone claims from a reply queue. A claim of a new tenure
/// may follow posts by somebody else, so the outcomes have to be read before it is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenure(pub u64);

/// Whether putting a job off counts as a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The job's own try failed.
    Counted,
    /// Not the job's fault: a pause, a rate limit, a look not yet due.
    NotCounted,
}

/// The ways in which a claim ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Nothing is left to do.
    Done,
    /// The ask step is done and this reply is to be posted; it is stored before the event is gone.
    Next(Reply),
    /// Not before this time has passed; rounded up to whole seconds, at most [`Settlement::LONGEST_DELAY`].
    Later(Duration, Attempt),
    /// Given up: to the dead letters.
    Bury {
        /// Why.
        cause: Cause,
        /// The last error, for a person; shortened to [`Settlement::LONGEST_ERROR`].
        error: String,
    },
    /// Given back untouched: somebody may have it at once, and nothing is counted.
    GiveBack,
}

impl Settlement {
    /// The longest time a job can be put off at once.
    pub const LONGEST_DELAY: Duration = Duration::from_secs(3600);
    /// The longest error text that is kept with a dead letter, in bytes.
    pub const LONGEST_ERROR: usize = 500;
}

/// Why a job was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Authentic, but not JSON or not the shape of its type.
    Malformed,
    /// Tried until it was too old.
    Exhausted,
    /// Too old before it could be tried.
    Expired,
    /// The service refused it for good.
    Refused,
    /// Nobody can tell whether the reply was posted.
    Uncertain,
    /// It kept coming back unsettled; presumably it kills its worker.
    Poison,
    /// Written by a newer release than any that reads it.
    Newer,
}

impl Cause {
    /// The word used in dead letters, outcomes and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Exhausted => "exhausted",
            Self::Expired => "expired",
            Self::Refused => "refused",
            Self::Uncertain => "uncertain",
            Self::Poison => "poison",
            Self::Newer => "newer",
        }
    }
}

impl Cause {
    /// Every cause, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::Malformed,
        Self::Exhausted,
        Self::Expired,
        Self::Refused,
        Self::Uncertain,
        Self::Poison,
        Self::Newer,
    ];

    /// The cause of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == name)
    }
}

impl Step {
    /// The step of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Receive, Self::Ask, Self::Post]
            .into_iter()
            .find(|step| step.as_str() == name)
    }
}

/// A settlement together with what is to be written into the outcomes about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// How the claim ends.
    pub settlement: Settlement,
    /// What became of the event, in order. The result of a post, and how the event has ended, are
    /// stored, confirmed, before the claim ends; everything else is best effort.
    pub outcomes: Vec<Outcome>,
}
