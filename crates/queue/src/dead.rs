//! Dead letters: jobs that were given up, each with its cause. Nothing removes them but a person's
//! [`Verdict`].

use chickwork_chatwork::id::{MessageId, RoomId};
use jiff::Timestamp;
use serde::Serialize;

use crate::amqp::DeadTaking as AmqpTaking;
use crate::event::{BotName, Event, EventId};
use crate::job::{Cause, Reply, Step};
use crate::sqlite::{DeadRead as SqliteRead, DeadTaking as SqliteTaking};
use crate::{Backend, QueueError};

/// Which dead letter: an event can be given up more than once.
#[derive(Debug, Clone)]
pub struct LetterId {
    /// Unique among dead letters, past ones included.
    pub(crate) name: String,
    /// Where the broker's log of dead letters has it; a hint.
    pub(crate) offset: Option<i64>,
}

impl PartialEq for LetterId {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for LetterId {}

/// A dead letter as listed. The JSON fields are a contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// Its identity, for [`DeadLetters::held`] and [`DeadLetters::take`].
    #[serde(skip)]
    pub letter: LetterId,
    /// The event.
    pub id: EventId,
    /// The bot it was sent to.
    pub bot: BotName,
    /// The event's type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The room, where known.
    pub room_id: Option<RoomId>,
    /// The message, where known.
    pub message_id: Option<MessageId>,
    /// The step that gave up.
    pub step: Step,
    /// Why.
    pub cause: Cause,
    /// The last error.
    pub error: String,
    /// How many tries had failed.
    pub attempts: u32,
    /// When the ingress received the event.
    pub received_at: Timestamp,
    /// When it was given up.
    pub buried_at: Timestamp,
}

/// What a dead letter holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// An event that was not answered.
    Event(Event),
    /// A reply that was not posted.
    Reply(Reply),
    /// Bytes that this release cannot read.
    Unreadable(Vec<u8>),
}

/// What a person wants done with dead letters. The reason goes into the outcomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Back where it was given up, aged from now.
    Retry {
        /// Why.
        reason: String,
        /// Post without looking whether the reply is there already.
        again: bool,
        /// By which command: [`By`](crate::outcome::By).
        by: &'static str,
    },
    /// Removed for good.
    Drop {
        /// Why.
        reason: String,
    },
}

/// What was given up. It stays until a person retries or drops it.
#[derive(Debug, Clone)]
pub struct DeadLetters(pub(crate) Backend);

impl DeadLetters {
    /// All dead letters, oldest first, a page at a time. Reading changes nothing, not even a
    /// delivery count, unless a broker's log of them has to be put right. While somebody goes
    /// through the dead letters of a broker it may lack some; then that is logged.
    pub async fn read(&self) -> Result<DeadRead, QueueError> {
        Ok(DeadRead(match &self.0 {
            Backend::Sqlite(store) => DeadReadOf::Sqlite(store.dead().await?),
            Backend::Amqp(broker) => DeadReadOf::Amqp(broker.dead().await?.into_iter()),
        }))
    }

    /// What a dead letter holds; `None` when it is not there any more. Of one that was taken out
    /// meanwhile a broker may still know it.
    pub async fn held(&self, letter: &DeadLetter) -> Result<Option<Held>, QueueError> {
        match &self.0 {
            Backend::Sqlite(store) => Ok(store.held(letter).await?),
            Backend::Amqp(broker) => Ok(broker.held(letter).await?),
        }
    }

    /// Takes these out, one at each call of [`Taking::next`], and does with each what the verdict says.
    /// A broker sends some hundred letters ahead and no more, however long the caller waits between
    /// two calls.
    pub fn take(&self, letters: Vec<DeadLetter>, verdict: Verdict) -> Taking {
        Taking(match &self.0 {
            Backend::Sqlite(store) => TakingOf::Sqlite(store.take_dead(letters, verdict)),
            Backend::Amqp(broker) => TakingOf::Amqp(Box::new(broker.take_dead(letters, verdict))),
        })
    }
}

/// Dead letters, one at a time, up to those that were there when this was begun.
#[derive(Debug)]
pub struct DeadRead(DeadReadOf);

#[derive(Debug)]
enum DeadReadOf {
    Sqlite(SqliteRead),
    Amqp(std::vec::IntoIter<DeadLetter>),
}

impl DeadRead {
    /// The next one; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, QueueError> {
        match &mut self.0 {
            DeadReadOf::Sqlite(read) => Ok(read.next().await?),
            DeadReadOf::Amqp(letters) => Ok(letters.next()),
        }
    }
}

/// Dead letters on their way out.
#[derive(Debug)]
pub struct Taking(TakingOf);

#[derive(Debug)]
enum TakingOf {
    Sqlite(SqliteTaking),
    Amqp(Box<AmqpTaking>),
}

impl Taking {
    /// Takes the next one that it comes upon; `None`: done. Letters that somebody else took meanwhile
    /// do not come. After an error the rest is still to be had. One that no queue takes when it is put
    /// back remains a dead letter and holds up no other: an error at the end tells of such. What is in
    /// between two calls is kept from others who want to take dead letters, so the last call should be
    /// made.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, QueueError> {
        match &mut self.0 {
            TakingOf::Sqlite(taking) => Ok(taking.next().await?),
            TakingOf::Amqp(taking) => Ok(taking.next().await?),
        }
    }
}
