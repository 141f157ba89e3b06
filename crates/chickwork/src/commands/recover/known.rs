//! Which mentions the queue knows of already: by the archive, by what became of them, by the dead
//! letters. What is read is passed over one by one, so memory holds only what is looked for.
//!
//! A message that was edited may have come in before, when it was another one, and have been ignored. So what
//! came in before it was written as it is counts only if it was answered, or may still be.

use std::collections::{HashMap, HashSet};

use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_chatwork::webhook::Webhook;
use chickwork_queue::dead::DeadLetter;
use chickwork_queue::event::{AnswerKey, BotName, Event, EventId};
use chickwork_queue::events::Standing;
use chickwork_queue::outcome::{Outcome, What};
use chickwork_queue::{BrokerError, Queue, QueueError};
use jiff::{SignedDuration, Timestamp};

use super::missed::{Mention, Mentions};

/// Chatwork's clock may be ahead of those by which events are dated, by so much.
const CLOCKS: SignedDuration = SignedDuration::from_mins(5);
/// Where nothing but the time of receipt tells whether an event is of a message as it is now, the clocks
/// count as closer: somebody may well edit a message within minutes.
const CLOCKS_AGREE: SignedDuration = SignedDuration::from_secs(10);

/// What the queue is expected to know.
#[derive(Debug)]
pub(super) struct Memory<'a> {
    pub(super) queue: &'a Queue,
    pub(super) bot: &'a BotName,
    /// Whether there is to be an archive.
    pub(super) is_archived: bool,
    /// What is older may be forgotten, except by the dead letters.
    pub(super) oldest_kept: Timestamp,
}

/// Of the mentions that were taken out, as they are known, those that may never be answered: it is for the
/// audit to tell more of them, and to put them back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WithoutEnd {
    /// They have come to no end, and wait nowhere.
    pub(super) lost: u64,
    /// They have come to no end, and a broker cannot tell whether they wait.
    pub(super) open: u64,
}

impl Memory<'_> {
    /// Takes out those that the queue knows of. They came in no earlier than they were written.
    pub(super) async fn take_out_known(
        &self,
        mentions: &mut Mentions,
    ) -> Result<WithoutEnd, QueueError> {
        let written = mentions.values().map(|mention| mention.sent_at);
        let Some(oldest) = written.min() else {
            return Ok(WithoutEnd::default());
        };
        if oldest < self.oldest_kept {
            self.take_out_dead(mentions).await?;
        }
        let known = self.take_out_known_since(oldest, mentions).await?;
        self.without_end(known, oldest).await
    }

    /// Those of these events whose messages were never answered, as far as that can be seen.
    async fn without_end(
        &self,
        known: HashMap<EventId, (RoomId, MessageId)>,
        since: Timestamp,
    ) -> Result<WithoutEnd, QueueError> {
        let mut without_end = WithoutEnd::default();
        if known.is_empty() {
            return Ok(without_end);
        }
        let key = |(room_id, message_id)| AnswerKey {
            bot: self.bot.clone(),
            room_id,
            message_id,
            again: None,
        };
        let events: HashMap<EventId, Option<AnswerKey>> = known
            .into_iter()
            .map(|(id, message)| (id, Some(key(message))))
            .collect();
        let since = since.saturating_sub(CLOCKS).unwrap_or(Timestamp::MIN);
        let knowledge = self.queue.known(&events, since).await?;
        // Several events may be about one.
        let (mut lost, mut open) = (HashSet::new(), HashSet::new());
        for (id, known) in &knowledge.events {
            let key = events.get(id).and_then(Option::as_ref);
            if key.is_some_and(|key| knowledge.answered.contains(key)) {
                continue;
            }
            match known.standing {
                Standing::Unexplained => drop(lost.insert(key)),
                Standing::Open => drop(open.insert(key)),
                _ => {}
            }
        }
        without_end.lost = lost.len() as u64;
        without_end.open = open.difference(&lost).count() as u64;
        Ok(without_end)
    }

    /// Takes out those that have become known since then. Returns by which events.
    pub(super) async fn take_out_known_since(
        &self,
        since: Timestamp,
        mentions: &mut Mentions,
    ) -> Result<HashMap<EventId, (RoomId, MessageId)>, QueueError> {
        let since = since.saturating_sub(CLOCKS).unwrap_or(Timestamp::MIN);
        let mut traces = Traces::default();
        self.take_out_archived(since, mentions, &mut traces).await?;
        let mut outcomes = self.queue.outcomes().read(since);
        while !mentions.is_empty()
            && let Some(outcome) = outcomes.next().await?
        {
            if outcome.bot == *self.bot {
                traces.take_in_outcome(&outcome, mentions);
            }
        }
        traces.take_out_open(mentions);
        Ok(traces.known)
    }

    async fn take_out_archived(
        &self,
        since: Timestamp,
        mentions: &mut Mentions,
        traces: &mut Traces,
    ) -> Result<(), QueueError> {
        let mut archived = self.queue.archive().read(since);
        while !mentions.is_empty() {
            match archived.next().await {
                Ok(Some(event)) if event.bot == *self.bot => {
                    traces.take_in_event(&event, mentions);
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(QueueError::Amqp(BrokerError::Missing(_))) if !self.is_archived => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn take_out_dead(&self, mentions: &mut Mentions) -> Result<(), QueueError> {
        let mut letters = self.queue.dead_letters().read().await?;
        while !mentions.is_empty()
            && let Some(letter) = letters.next().await?
        {
            if letter.bot == *self.bot {
                take_in_letter(&letter, mentions);
            }
        }
        Ok(())
    }
}

/// The mention that this is about.
fn find<'a>(
    mentions: &'a Mentions,
    room: Option<RoomId>,
    message: Option<&MessageId>,
) -> Option<&'a Mention> {
    mentions.get(&(room?, message?.clone()))
}

/// Whether what was received then is of the message as it is now, as far as clocks tell.
fn is_received_since(mention: &Mention, received_at: Timestamp) -> bool {
    let latest = received_at
        .saturating_add(CLOCKS_AGREE)
        .unwrap_or(Timestamp::MAX);
    !mention.is_edited() || latest >= mention.written_at
}

fn take_in_letter(letter: &DeadLetter, mentions: &mut Mentions) {
    let mention = find(mentions, letter.room_id, letter.message_id.as_ref());
    if let Some(mention) = mention
        && is_received_since(mention, letter.received_at)
    {
        let key = mention.key();
        mentions.remove(&key);
    }
}

/// What was found of the mentions.
#[derive(Debug, Default)]
struct Traces {
    /// The events about messages that were edited later, and have not been answered.
    before: HashMap<EventId, Trace>,
    /// The events by which mentions are known, with what these are about.
    known: HashMap<EventId, (RoomId, MessageId)>,
}

#[derive(Debug)]
struct Trace {
    room: RoomId,
    message: MessageId,
    /// Whether it has come to its end, and will not be answered.
    has_ended: bool,
}

impl Traces {
    fn take_in_event(&mut self, event: &Event, mentions: &mut Mentions) {
        let Some(mention) = find(mentions, event.room_id, event.message_id.as_ref()) else {
            return;
        };
        let webhook = Webhook::parse(&event.body).ok();
        let message = webhook.as_ref().and_then(|hook| hook.happening.message());
        // By Chatwork's own clock, which dates both.
        let is_as_it_is = match message.map(|message| message.send_time.max(message.update_time)) {
            Some(written) => !mention.is_edited() || written >= mention.written_at.as_second(),
            None => is_received_since(mention, event.received_at),
        };
        self.take_in(event.id, mention.key(), is_as_it_is, mentions);
    }

    fn take_in_outcome(&mut self, outcome: &Outcome, mentions: &mut Mentions) {
        let message = outcome.message_id.as_ref();
        let Some(mention) = find(mentions, outcome.room_id, message) else {
            return;
        };
        let key = mention.key();
        if matches!(outcome.what, What::Posted { .. }) {
            mentions.remove(&key);
            return;
        }
        if !self.before.contains_key(&outcome.id) {
            let received_at = outcome.id.received_at().unwrap_or(outcome.at);
            let is_as_it_is = is_received_since(mention, received_at);
            self.take_in(outcome.id, key, is_as_it_is, mentions);
        }
        if let Some(trace) = self.before.get_mut(&outcome.id) {
            match outcome.what {
                What::Replayed { .. } => trace.has_ended = false,
                ref what if what.is_end() => trace.has_ended = true,
                _ => {}
            }
        }
    }

    fn take_in(
        &mut self,
        id: EventId,
        (room, message): (RoomId, MessageId),
        is_as_it_is: bool,
        mentions: &mut Mentions,
    ) {
        if is_as_it_is {
            let key = (room, message);
            mentions.remove(&key);
            self.known.insert(id, key);
        } else {
            self.before.entry(id).or_insert(Trace {
                room,
                message,
                has_ended: false,
            });
        }
    }

    /// Takes out those of which an event has come to no end: it waits, and will be answered.
    fn take_out_open(&mut self, mentions: &mut Mentions) {
        for (id, trace) in self.before.drain() {
            if !trace.has_ended {
                let key = (trace.room, trace.message);
                mentions.remove(&key);
                self.known.insert(id, key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chickwork_chatwork::id::AccountId;
    use chickwork_chatwork::webhook::Message;
    use chickwork_queue::outcome::Reason;

    use super::*;

    const ROOM: RoomId = RoomId(2);
    const SENT: i64 = 1_800_000_000;
    const EDITED: i64 = SENT + 60;

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn message(update_time: i64) -> Message {
        Message {
            message_id: MessageId::new("7").expect("a digit"),
            room_id: ROOM,
            author: AccountId(1),
            addressee: None,
            body: "[To:9] hi".to_owned(),
            send_time: SENT,
            update_time,
        }
    }

    fn mentions(update_time: i64) -> Mentions {
        let mention = Mention {
            message: message(update_time),
            sent_at: time(SENT),
            written_at: time(SENT.max(update_time)),
        };
        Mentions::from([(mention.key(), mention)])
    }

    /// Received in this second, of the message as it was edited in that one.
    fn event(received_at: i64, update_time: i64) -> Event {
        let body = message(update_time).as_mention_of(AccountId(9), "1", received_at);
        Event {
            id: id(received_at),
            bot: BotName::default(),
            event_type: "mention_to_me",
            room_id: Some(ROOM),
            message_id: Some(message(0).message_id),
            received_at: time(received_at),
            put_back_at: None,
            replay: 0,
            again: None,
            body: body.into(),
        }
    }

    /// An id of an event that was received in this second.
    fn id(received_at: i64) -> EventId {
        let millis = u64::try_from(received_at * 1_000).expect("after 1970");
        let id = format!(
            "{:08x}-{:04x}-7000-8000-000000000000",
            millis >> 16,
            millis & 0xffff
        );
        id.parse().expect("an id")
    }

    fn outcome(id: EventId, what: What) -> Outcome {
        Outcome {
            v: Outcome::VERSION,
            at: time(EDITED + 3_600),
            id,
            bot: BotName::default(),
            room_id: Some(ROOM),
            message_id: Some(message(0).message_id),
            again: None,
            what,
        }
    }

    fn ignored() -> What {
        What::Ignored {
            reason: Reason::NOT_ADDRESSED.to_owned(),
        }
    }

    fn posted() -> What {
        What::Posted {
            reply_message_id: None,
            found: false,
        }
    }

    fn replayed() -> What {
        What::Replayed {
            replay: 1,
            reason: String::new(),
            by: None,
        }
    }

    #[test]
    fn what_came_in_before_an_edit_counts_only_if_it_is_answered_or_waits() {
        let (before, after) = (SENT + 1, EDITED + 1);
        // Edited when; its archived event, received and edited when; what became of an event received
        // then; whether the mention is known.
        let table = [
            (0, Some((before, 0)), None, true),
            (0, None, Some((before, vec![ignored()])), true),
            (EDITED, None, None, false),
            // Of the message as it is, by whichever clock.
            (EDITED, Some((after, EDITED)), None, true),
            (EDITED, Some((EDITED - 30, EDITED)), None, true),
            (EDITED, None, Some((after, vec![ignored()])), true),
            // As it was: ignored then, or after the edit.
            (
                EDITED,
                Some((before, 0)),
                Some((before, vec![ignored()])),
                false,
            ),
            (EDITED, None, Some((before, vec![ignored()])), false),
            // The webhook came late.
            (
                EDITED,
                Some((after, 0)),
                Some((after, vec![ignored()])),
                false,
            ),
            // It waits, is answered, or was put back.
            (EDITED, Some((before, 0)), None, true),
            (
                EDITED,
                Some((before, 0)),
                Some((before, vec![posted(), ignored()])),
                true,
            ),
            (
                EDITED,
                Some((before, 0)),
                Some((before, vec![ignored(), replayed()])),
                true,
            ),
        ];
        for (edited, archived, told, expected) in table {
            let said = format!("{edited} {archived:?} {told:?}");
            let mut mentions = mentions(edited);
            let mut traces = Traces::default();
            if let Some((received_at, update_time)) = archived {
                traces.take_in_event(&event(received_at, update_time), &mut mentions);
            }
            if let Some((received_at, whats)) = told {
                for what in whats {
                    traces.take_in_outcome(&outcome(id(received_at), what), &mut mentions);
                }
            }
            traces.take_out_open(&mut mentions);
            assert_eq!(mentions.is_empty(), expected, "{said}");
        }
    }

    #[test]
    fn it_is_kept_by_which_event_a_mention_is_known() {
        let message = (ROOM, message(0).message_id);
        let known_by = |edited, received_at| {
            let mut mentions = mentions(edited);
            let mut traces = Traces::default();
            traces.take_in_event(&event(received_at, 0), &mut mentions);
            traces.take_out_open(&mut mentions);
            traces.known
        };
        let as_it_is = SENT + 1;
        let expected = HashMap::from([(id(as_it_is), message)]);
        assert_eq!(known_by(0, as_it_is), expected);
        assert_eq!(known_by(EDITED, as_it_is), expected, "it came to no end");
    }
}
