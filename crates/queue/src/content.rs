//! What a stored job, dead letter or archived event consists of, whichever back end it lies in.

use bytes::Bytes;
use chickwork_chatwork::id::{MessageId, RoomId};
use jiff::Timestamp;

use crate::dead::{Held, Verdict};
use crate::event::{BotName, Event, EventId};
use crate::job::{Cause, Reply, Step};
use crate::outcome::{Outcome, What};
use crate::reply_json;

/// The bytes of an event or a reply, with what must be known without reading them.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) id: EventId,
    pub(crate) bot: BotName,
    pub(crate) event_type: String,
    pub(crate) room_id: Option<RoomId>,
    pub(crate) message_id: Option<MessageId>,
    pub(crate) received_at: Timestamp,
    pub(crate) put_back_at: Option<Timestamp>,
    pub(crate) replay: u32,
    pub(crate) again: Option<Timestamp>,
    pub(crate) body: Vec<u8>,
}

impl Content {
    pub(crate) fn of_event(event: &Event) -> Self {
        Self {
            id: event.id,
            bot: event.bot.clone(),
            event_type: event.event_type.to_owned(),
            room_id: event.room_id,
            message_id: event.message_id.clone(),
            received_at: event.received_at,
            put_back_at: event.put_back_at,
            replay: event.replay,
            again: event.again,
            body: event.body.to_vec(),
        }
    }

    pub(crate) fn of_reply(reply: &Reply) -> Self {
        Self {
            id: reply.id,
            bot: reply.bot.clone(),
            event_type: reply.event_type.clone(),
            room_id: Some(reply.room_id),
            message_id: Some(reply.message_id.clone()),
            received_at: reply.received_at,
            put_back_at: None,
            replay: reply.replay,
            again: reply.again,
            body: reply_json::encode(reply),
        }
    }

    pub(crate) fn into_event(self) -> Event {
        Event {
            id: self.id,
            bot: self.bot,
            event_type: Event::known_type(&self.event_type),
            room_id: self.room_id,
            message_id: self.message_id,
            received_at: self.received_at,
            put_back_at: self.put_back_at,
            replay: self.replay,
            again: self.again,
            body: Bytes::from(self.body),
        }
    }

    /// From when on its age counts: when it came, or when a person last put it back in.
    pub(crate) fn aged_from(&self) -> Timestamp {
        self.put_back_at.unwrap_or(self.received_at)
    }

    /// An outcome of this event.
    pub(crate) fn outcome(&self, what: What, at: Timestamp) -> Outcome {
        Outcome {
            v: Outcome::VERSION,
            at,
            id: self.id,
            bot: self.bot.clone(),
            room_id: self.room_id,
            message_id: self.message_id.clone(),
            again: self.again,
            what,
        }
    }

    /// The outcome of having been given up by the queue itself.
    pub(crate) fn dead(&self, step: Step, cause: Cause, error: String, at: Timestamp) -> Outcome {
        self.outcome(
            What::Dead {
                step,
                cause,
                error,
                status: None,
            },
            at,
        )
    }

    /// What the outcomes say when a person takes the dead letter out. That a message is to be posted
    /// again stands first: it must be known before the reply is back.
    pub(crate) fn taken(
        &self,
        verdict: &Verdict,
        buried_at: Timestamp,
        now: Timestamp,
    ) -> Vec<Outcome> {
        match verdict {
            Verdict::Retry { reason, again, by } => {
                let overrule = again.then(|| What::NotPosted {
                    reason: format!("a person said to post again: {reason}"),
                    called: false,
                    intended_at: None,
                    overrules_until: Some(buried_at),
                });
                let replayed = What::Replayed {
                    replay: self.replay.saturating_add(1),
                    reason: reason.clone(),
                    by: Some((*by).to_owned()),
                };
                let said = overrule.into_iter().chain([replayed]);
                said.map(|what| self.outcome(what, now)).collect()
            }
            Verdict::Drop { reason } => {
                let reason = reason.clone();
                vec![self.outcome(What::Dropped { reason }, now)]
            }
        }
    }

    /// What a dead letter with this content holds.
    pub(crate) fn into_held(self, is_reply: bool) -> Held {
        if !is_reply {
            return Held::Event(self.into_event());
        }
        match reply_json::decode(&self.body) {
            Ok(reply) => Held::Reply(reply),
            Err(_) => Held::Unreadable(self.body),
        }
    }

    /// The same, put back by a person: aged from now.
    pub(crate) fn put_back(self, now: Timestamp) -> Self {
        match reply_json::decode(&self.body) {
            Ok(reply) => Self::of_reply(&reply.put_back(now)),
            Err(_) => Self {
                put_back_at: Some(now),
                replay: self.replay + 1,
                ..self
            },
        }
    }
}
