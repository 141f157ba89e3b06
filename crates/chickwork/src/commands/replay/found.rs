//! The events that a replay chooses: what is known of each, and where its bytes are. From the archive, from
//! the dead letters, or from a file of `events export`.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::Context as _;
use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_chatwork::webhook::Webhook;
use chickwork_queue::Queue;
use chickwork_queue::dead::{DeadLetter, Held};
use chickwork_queue::event::{BotName, Event, EventId};
use chickwork_queue::events::{Choice, Listed, Standing};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::plan::{Around, Known, seen_closely};
use crate::export::{Exported, Reader};
use crate::recorded::Recorded;
use crate::words;

/// Who looks longer than this is told why.
const PATIENCE: Duration = Duration::from_secs(3);
/// An archive on a broker goes by the broker's clock, and events by their ingress's: so much further back
/// is read.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(5);
/// So many bytes of events are in memory at most, and one event: the archive is read for one batch
/// after the other, as reading it must not take as long as putting back does.
const LARGEST_BATCH: usize = 64 * 1024 * 1024;

/// Where the events come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// What came in.
    Archive,
    /// What was given up.
    Dead,
    /// A file of `events export`, or the standard input.
    File(String),
}

/// An event and what is known of it. The JSON fields are a contract.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Found {
    /// The event.
    pub(super) id: EventId,
    /// The bot it was sent to.
    pub(super) bot: BotName,
    /// Its type.
    #[serde(rename = "type")]
    pub(super) event_type: String,
    /// The room, where known.
    pub(super) room_id: Option<RoomId>,
    /// The message, where known.
    pub(super) message_id: Option<MessageId>,
    /// When the ingress received it.
    pub(super) received_at: Timestamp,
    /// Where it stands.
    pub(super) state: Option<Standing>,
    /// The reason or the cause.
    pub(super) why: Option<String>,
    /// Whether it is known here; else the state is what the file told.
    #[serde(skip)]
    pub(super) is_here: bool,
    /// When its message was written, as far as that is known.
    #[serde(skip)]
    pub(super) aged_from: Timestamp,
    /// When something last became of it.
    #[serde(skip)]
    pub(super) last_at: Option<Timestamp>,
    /// Whether a reply to its message is in the room, from this round or an earlier one.
    #[serde(skip)]
    pub(super) was_answered: bool,
    /// How often it was put back before.
    #[serde(skip)]
    pub(super) replay: u32,
    /// Its dead letter, if there is one now.
    #[serde(skip)]
    pub(super) letter: Option<Box<DeadLetter>>,
    /// The event itself, where it is from a file.
    #[serde(skip)]
    pub(super) event: Option<Box<Event>>,
    /// What was said about it, where it is from a file.
    #[serde(skip)]
    pub(super) recorded: Option<Box<Recorded>>,
}

impl Found {
    /// The message that it is about, to a bot.
    pub(super) fn key(&self) -> Option<(BotName, RoomId, MessageId)> {
        Some((self.bot.clone(), self.room_id?, self.message_id.clone()?))
    }

    /// What decides.
    pub(super) fn known(&self, named: &HashSet<EventId>) -> Known<'_> {
        Known {
            standing: self.state,
            is_here: self.is_here,
            why: self.why.as_deref(),
            letter: self
                .letter
                .as_ref()
                .map(|letter| (letter.cause, letter.step)),
            aged_from: self.aged_from,
            last_at: self.last_at,
            is_named: named.contains(&self.id),
        }
    }

    fn of_listed(listed: Listed) -> Self {
        let event = listed.event;
        Self {
            aged_from: aged_from(&event),
            id: event.id,
            bot: event.bot,
            event_type: event.event_type.to_owned(),
            room_id: event.room_id,
            message_id: event.message_id,
            received_at: event.received_at,
            state: Some(listed.standing),
            why: listed.why,
            is_here: true,
            last_at: listed.last_at,
            was_answered: listed.standing == Standing::Answered
                || listed.reply_message_id.is_some(),
            replay: listed.replay,
            letter: listed.letter.map(Box::new),
            event: None,
            recorded: None,
        }
    }

    fn of_letter(letter: DeadLetter) -> Self {
        Self {
            aged_from: letter.received_at,
            id: letter.id,
            bot: letter.bot.clone(),
            event_type: letter.event_type.clone(),
            room_id: letter.room_id,
            message_id: letter.message_id.clone(),
            received_at: letter.received_at,
            state: Some(Standing::Dead),
            why: Some(letter.cause.as_str().to_owned()),
            is_here: true,
            last_at: Some(letter.buried_at),
            was_answered: false,
            replay: 0,
            letter: Some(Box::new(letter)),
            event: None,
            recorded: None,
        }
    }

    /// Not known here.
    fn of_exported(exported: Exported) -> Self {
        let recorded = Recorded::of(&exported.outcomes);
        let event = exported.event;
        let state = exported.state.as_deref().and_then(|word| {
            let named = |state: &Standing| state.as_str() == word;
            Standing::ALL.into_iter().find(named)
        });
        Self {
            aged_from: aged_from(&event),
            id: event.id,
            bot: event.bot.clone(),
            event_type: event.event_type.to_owned(),
            room_id: event.room_id,
            message_id: event.message_id.clone(),
            received_at: event.received_at,
            state,
            why: exported.why,
            is_here: false,
            last_at: None,
            was_answered: state == Some(Standing::Answered),
            replay: event.replay,
            letter: None,
            event: Some(Box::new(event)),
            recorded: Some(Box::new(recorded)),
        }
    }
}

/// From when on an event ages: its own time, unless that lies in the future of its receipt.
fn aged_from(event: &Event) -> Timestamp {
    let told = Webhook::parse(&event.body)
        .ok()
        .and_then(|webhook| Timestamp::from_second(webhook.event_time).ok());
    told.map_or(event.received_at, |told| told.min(event.received_at))
}

/// How events are chosen.
#[derive(Debug)]
pub(super) struct Choosing {
    pub(super) source: Source,
    pub(super) choice: Choice,
    /// The states that were named.
    pub(super) states: Vec<Standing>,
    /// Whether the queue is on a broker, which tells what waits in numbers alone.
    pub(super) on_broker: bool,
    /// From when on everything is known that has become of events.
    pub(super) kept_since: Timestamp,
}

impl Choosing {
    /// All that are chosen, oldest first. Without a queue only those of a file, by what the file tells.
    pub(super) async fn find(&self, queue: Option<&Queue>) -> anyhow::Result<Vec<Found>> {
        let finding = async {
            match (&self.source, queue) {
                (Source::Archive, Some(queue)) => self.archived(queue).await,
                (Source::Dead, Some(queue)) => self.dead(queue).await,
                (Source::File(path), queue) => self.exported(path, queue).await,
                (Source::Archive | Source::Dead, None) => {
                    anyhow::bail!("there is no queue to look into")
                }
            }
        };
        tokio::pin!(finding);
        let found = tokio::select! {
            found = &mut finding => found,
            () = tokio::time::sleep(PATIENCE) => {
                words::tell("Still looking: there is much to read.");
                finding.await
            }
        };
        let mut found = found?;
        found.sort_by_key(|found| (found.received_at, found.id));
        Ok(found)
    }

    async fn archived(&self, queue: &Queue) -> anyhow::Result<Vec<Found>> {
        // Where mere numbers tell what waits, who waits is seen more closely below.
        let mut choice = self.choice.clone();
        if self.on_broker && choice.standings.iter().any(|state| is_without_end(*state)) {
            choice
                .standings
                .extend([Standing::Open, Standing::Waiting, Standing::Unexplained]);
        }
        let mut found = Vec::new();
        let mut events = queue.events(choice, None);
        while let Some(listed) = events.next().await? {
            found.push(Found::of_listed(listed));
        }
        if self.on_broker {
            self.see_closely(queue, &mut found).await?;
            found.retain(|event| {
                let state = event.state.unwrap_or(Standing::Open);
                self.choice.takes_standing(state)
            });
        }
        Ok(found)
    }

    /// See [`seen_closely`]. What the audit lists is all that may be lost, by what is known of all
    /// events and not only of those that are chosen.
    async fn see_closely(&self, queue: &Queue, found: &mut [Found]) -> anyhow::Result<()> {
        let unsure =
            |event: &&mut Found| matches!(event.state, Some(Standing::Open | Standing::Waiting));
        let mut unsure: Vec<_> = found.iter_mut().filter(unsure).collect();
        if unsure.is_empty() {
            return Ok(());
        }
        let audit = queue.audit(self.kept_since, Duration::ZERO).await?;
        let may_be_lost: HashSet<_> = audit.unexplained.iter().map(|event| event.id).collect();
        let around = Around {
            is_by_id: false,
            some_were_put_back: unsure.iter().any(|event| event.replay > 0),
        };
        let is_wanted_anyhow = self
            .states
            .iter()
            .any(|state| matches!(state, Standing::Open | Standing::Unexplained));
        for event in &mut unsure {
            let standing = if may_be_lost.contains(&event.id) {
                Standing::Open
            } else {
                Standing::Waiting
            };
            let is_wanted = is_wanted_anyhow || self.choice.ids.contains(&event.id);
            event.state = Some(seen_closely(standing, event.replay, is_wanted, around));
        }
        Ok(())
    }

    async fn dead(&self, queue: &Queue) -> anyhow::Result<Vec<Found>> {
        let mut found = Vec::new();
        let mut letters = queue.dead_letters().read().await?;
        while let Some(letter) = letters.next().await? {
            if self.takes_letter(&letter) {
                found.push(Found::of_letter(letter));
            }
        }
        Ok(found)
    }

    /// By what a letter tells; who wrote and what, it does not.
    fn takes_letter(&self, letter: &DeadLetter) -> bool {
        self.choice.takes(&Event {
            id: letter.id,
            bot: letter.bot.clone(),
            event_type: Event::known_type(&letter.event_type),
            room_id: letter.room_id,
            message_id: letter.message_id.clone(),
            received_at: letter.received_at,
            put_back_at: None,
            replay: 0,
            again: None,
            body: Default::default(),
        })
    }

    async fn exported(&self, path: &str, queue: Option<&Queue>) -> anyhow::Result<Vec<Found>> {
        let mut file = Reader::open(path).await?;
        let mut found = HashMap::new();
        while let Some(exported) = file.next().await? {
            if self.choice.takes(&exported.event) {
                // The same event twice is one.
                let event = Found::of_exported(exported);
                found.entry(event.id).or_insert(event);
            }
        }
        if let Some(queue) = queue {
            self.know_those_from_here(queue, &mut found).await?;
        }
        let is_chosen = |event: &Found| match event.state {
            Some(state) => self.choice.takes_standing(state),
            None => self.choice.standings.is_empty(),
        };
        Ok(found.into_values().filter(is_chosen).collect())
    }

    /// Events that are known here are judged by what is known here.
    async fn know_those_from_here(
        &self,
        queue: &Queue,
        found: &mut HashMap<EventId, Found>,
    ) -> anyhow::Result<()> {
        let times = || found.values().map(|event| event.received_at);
        let (Some(since), Some(until)) = (times().min(), times().max()) else {
            return Ok(());
        };
        let all_in_between = Self {
            source: Source::Archive,
            choice: Choice {
                since: Some(since),
                until: Some(until),
                ..Choice::default()
            },
            states: self.states.clone(),
            on_broker: self.on_broker,
            kept_since: self.kept_since,
        };
        for known in all_in_between.archived(queue).await? {
            if let Some(event) = found.get_mut(&known.id) {
                *event = known;
            }
        }
        Ok(())
    }
}

fn is_without_end(state: Standing) -> bool {
    matches!(
        state,
        Standing::Open | Standing::Waiting | Standing::Unexplained
    )
}

/// The bytes of the events that were found, oldest first, as far as they are still there.
pub(super) struct Bodies<'a> {
    queue: Option<&'a Queue>,
    ready: std::vec::IntoIter<(Found, Event)>,
    /// Those whose bytes are still to be read.
    left: HashMap<EventId, Found>,
    /// Whether the archive was read to its end and none of those left was in it.
    archive_is_read: bool,
}

impl<'a> Bodies<'a> {
    /// Of these events.
    pub(super) fn of(queue: Option<&'a Queue>, found: Vec<Found>) -> Self {
        let (mut ready, mut left) = (Vec::new(), HashMap::new());
        for mut found in found {
            match found.event.take() {
                Some(event) => ready.push((found, *event)),
                None => drop(left.insert(found.id, found)),
            }
        }
        Self {
            queue,
            ready: ready.into_iter(),
            left,
            archive_is_read: false,
        }
    }

    /// The next one; `None`: the rest is not to be had any more.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<(Found, Event)>> {
        loop {
            if let Some(next) = self.ready.next() {
                return Ok(Some(next));
            }
            let Some(queue) = self.queue else {
                return Ok(None);
            };
            if self.left.is_empty() {
                return Ok(None);
            }
            if self.archive_is_read {
                return self.next_of_letter(queue).await;
            }
            let batch = self.next_batch(queue).await?;
            self.archive_is_read = batch.is_empty();
            self.ready = batch.into_iter();
        }
    }

    /// The next ones in the archive, as far as memory allows.
    async fn next_batch(&mut self, queue: &Queue) -> anyhow::Result<Vec<(Found, Event)>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let begins = self.left.values().map(|found| found.received_at).min();
        let since = begins.and_then(|begins| begins.checked_sub(CLOCKS_DIFFER).ok());
        let mut archived = queue.archive().read(since.unwrap_or(Timestamp::MIN));
        while bytes < LARGEST_BATCH
            && !self.left.is_empty()
            && let Some(event) = archived.next().await?
        {
            // An event may be in the archive twice.
            if let Some(found) = self.left.remove(&event.id) {
                bytes += event.body.len();
                batch.push((found, event));
            }
        }
        Ok(batch)
    }

    /// What was never archived may be held by its dead letter.
    async fn next_of_letter(&mut self, queue: &Queue) -> anyhow::Result<Option<(Found, Event)>> {
        while let Some(id) = self.left.keys().next().copied() {
            let found = self.left.remove(&id).context("it was just there")?;
            let Some(letter) = &found.letter else {
                continue;
            };
            if let Some(Held::Event(event)) = queue.dead_letters().held(letter).await? {
                return Ok(Some((found, event)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An event about this message, of which nothing else is known.
    pub(in super::super) fn found(message: &str, received_at: Timestamp) -> Found {
        Found {
            id: EventId::fresh(),
            bot: BotName::default(),
            event_type: "mention_to_me".to_owned(),
            room_id: Some(RoomId(3)),
            message_id: MessageId::new(message).ok(),
            received_at,
            state: None,
            why: None,
            is_here: true,
            aged_from: received_at,
            last_at: None,
            was_answered: false,
            replay: 0,
            letter: None,
            event: None,
            recorded: None,
        }
    }

    #[test]
    fn an_event_ages_from_its_own_time_unless_that_is_in_the_future() {
        let received_at = Timestamp::from_second(1000).expect("a time");
        for (told, expected) in [(990, 990), (1000, 1000), (2000, 1000)] {
            let body = format!(
                r#"{{"webhook_setting_id":"1","webhook_event_type":"room_renamed","webhook_event_time":{told},"webhook_event":{{}}}}"#
            );
            let event = Event {
                id: EventId::fresh(),
                bot: BotName::default(),
                event_type: Event::OTHER,
                room_id: None,
                message_id: None,
                received_at,
                put_back_at: None,
                replay: 0,
                again: None,
                body: body.into(),
            };
            assert_eq!(aged_from(&event).as_second(), expected);
        }
    }
}
