//! The events that a replay chooses: what is known of each, and where its bytes are. From the archive, from
//! the dead letters, or from a file of `events export`.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_chatwork::webhook::Webhook;
use chickwork_queue::Queue;
use chickwork_queue::dead::{DeadLetter, Held};
use chickwork_queue::event::{AnswerKey, BotName, Event, EventId};
use chickwork_queue::events::{Acts, Choice, Known, Listed, Standing};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use super::plan::{self, ByNumbers, seen_closely};
use crate::export::{Exported, Reader, STDIN};
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
    /// Whether its copy is in the archive, or in its dead letter.
    #[serde(skip)]
    pub(super) has_copy: bool,
    /// Whether a person has put it back since it came here.
    #[serde(skip)]
    pub(super) was_put_back: bool,
    /// Whether its last word is that it waits.
    #[serde(skip)]
    pub(super) is_said_to_wait: bool,
    /// Whether that is so of more events than there are jobs.
    #[serde(skip)]
    pub(super) may_be_lost: bool,
    /// When something last became of it.
    #[serde(skip)]
    pub(super) last_at: Option<Timestamp>,
    /// Whether its message is known to have a reply, by way of whichever event.
    #[serde(skip)]
    pub(super) message_is_answered: bool,
    /// The last round that a person has begun.
    #[serde(skip)]
    pub(super) last_round: Option<Timestamp>,
    /// Whether a reply to its message is in the room, from this round or an earlier one.
    #[serde(skip)]
    pub(super) was_answered: bool,
    /// The round that it is in without a reply: it is put back in this one.
    #[serde(skip)]
    pub(super) open_round: Option<Timestamp>,
    /// How often it was put back before.
    #[serde(skip)]
    pub(super) replay: u32,
    /// Its dead letter, if there is one now.
    #[serde(skip)]
    pub(super) letter: Option<Box<DeadLetter>>,
    /// Where it stands in the file that it is from.
    #[serde(skip)]
    pub(super) place: Option<Place>,
    /// What was said about it, where it is from a file and was read from there.
    #[serde(skip)]
    pub(super) recorded: Option<Box<Recorded>>,
}

/// A line of a file that was opened.
#[derive(Debug, Clone)]
pub(super) struct Place {
    file: Arc<std::fs::File>,
    bytes: Range<u64>,
}

impl Found {
    /// What answers it in the first round.
    fn answer_key(&self) -> Option<AnswerKey> {
        Some(AnswerKey {
            bot: self.bot.clone(),
            room_id: self.room_id?,
            message_id: self.message_id.clone()?,
            again: None,
        })
    }

    /// The message that it is about, to a bot.
    pub(super) fn key(&self) -> Option<(BotName, RoomId, MessageId)> {
        Some((self.bot.clone(), self.room_id?, self.message_id.clone()?))
    }

    /// What decides.
    pub(super) fn known(&self, named: &HashSet<EventId>) -> plan::Known<'_> {
        plan::Known {
            standing: self.state,
            is_here: self.is_here,
            why: self.why.as_deref(),
            letter: self
                .letter
                .as_ref()
                .map(|letter| (letter.cause, letter.step)),
            aged_from: self.aged_from,
            last_at: self.last_at,
            has_copy: self.has_copy,
            open_round: self.open_round,
            last_round: self.last_round,
            may_be_lost: self.may_be_lost,
            was_answered: self.was_answered,
            is_named: named.contains(&self.id),
        }
    }

    fn of_listed(listed: Listed, now: Timestamp) -> Self {
        let (event, acts) = (listed.event, Acts::of(&listed.outcomes));
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
            has_copy: true,
            was_put_back: acts.replayed > event.replay,
            is_said_to_wait: acts.is_said_to_wait(now),
            may_be_lost: false,
            last_at: listed.last_at,
            message_is_answered: false,
            last_round: acts.last_round,
            was_answered: listed.standing == Standing::Answered || acts.was_answered,
            open_round: listed.open_round,
            replay: listed.replay,
            letter: listed.letter.map(Box::new),
            place: None,
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
            has_copy: true,
            was_put_back: false,
            is_said_to_wait: false,
            may_be_lost: false,
            last_at: Some(letter.buried_at),
            message_is_answered: false,
            last_round: None,
            was_answered: false,
            open_round: None,
            replay: 0,
            letter: Some(Box::new(letter)),
            place: None,
            recorded: None,
        }
    }

    /// Not known here.
    fn of_exported(exported: Exported, place: Place) -> Self {
        let event = exported.event;
        let state = exported.state.as_deref().and_then(|word| {
            let named = |state: &Standing| state.as_str() == word;
            Standing::ALL.into_iter().find(named)
        });
        Self {
            aged_from: aged_from(&event),
            id: event.id,
            bot: event.bot,
            event_type: event.event_type.to_owned(),
            room_id: event.room_id,
            message_id: event.message_id,
            received_at: event.received_at,
            state,
            why: exported.why,
            is_here: false,
            has_copy: false,
            was_put_back: false,
            is_said_to_wait: false,
            may_be_lost: false,
            last_at: None,
            message_is_answered: false,
            last_round: None,
            was_answered: state == Some(Standing::Answered),
            open_round: None,
            replay: event.replay,
            letter: None,
            place: Some(place),
            recorded: None,
        }
    }

    /// Whatever its file tells, here this is known of it.
    fn is_known_here(&mut self, known: Known, now: Timestamp) {
        let acts = known.acts;
        self.state = Some(known.standing);
        self.why = known.why;
        self.is_here = true;
        self.has_copy = known.archived.is_some() || known.letter.is_some();
        self.was_put_back = acts.replayed > known.archived.unwrap_or(0);
        self.is_said_to_wait = acts.is_said_to_wait(now);
        self.last_at = acts.last_at;
        self.last_round = acts.last_round;
        self.was_answered = known.standing == Standing::Answered || acts.was_answered;
        self.open_round = known.open_round;
        self.replay = self.replay.max(acts.replayed);
        self.letter = known.letter.map(Box::new);
        if known.archived.is_some() {
            // What was received here counts, not what somebody may have written into a file.
            self.place = None;
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
    /// Whether the queue is on a broker, which tells what waits in numbers alone.
    pub(super) on_broker: bool,
    /// From when on everything is known that has become of events.
    pub(super) kept_since: Timestamp,
    /// Whether what comes in is archived.
    pub(super) is_archived: bool,
}

impl Choosing {
    /// Whether they are read from a file.
    pub(super) fn is_of_file(&self) -> bool {
        matches!(self.source, Source::File(_))
    }

    /// Why nothing may have been found where something was expected.
    pub(super) fn hint(&self) -> &'static str {
        match self.source {
            Source::Archive if !self.is_archived => {
                " There is no archive (CHICKWORK_ARCHIVE_KEEP is 0): see --from dead."
            }
            _ => "",
        }
    }

    /// Where nothing is, or the flags choose none of it: which of the two nobody has counted.
    pub(super) fn none_is_chosen(&self) -> &'static str {
        match self.source {
            Source::Archive => "none of the events that are kept is chosen",
            Source::Dead => "none of the dead letters is chosen",
            Source::File(_) => "none of the events in the file is chosen",
        }
    }

    /// Where dead letters are wanted since a time: those given up since then whose events were received
    /// before are not chosen, and whoever has an outage in mind may have meant them.
    pub(super) async fn hint_of_letters_of_older_events(
        &self,
        queue: &Queue,
    ) -> anyhow::Result<Option<String>> {
        let are_wanted = match self.source {
            Source::Archive => self.choice.standings.contains(&Standing::Dead),
            Source::Dead => true,
            Source::File(_) => false,
        };
        let Some(since) = self.choice.since.filter(|_| are_wanted) else {
            return Ok(None);
        };
        let received_whenever = Choice {
            since: None,
            ..self.choice.clone()
        };
        let mut left_out = 0;
        let mut letters = queue.dead_letters().read().await?;
        while let Some(letter) = letters.next().await? {
            if letter.buried_at >= since
                && letter.received_at < since
                && takes_letter(&received_whenever, &letter)
            {
                left_out += 1;
            }
        }
        let (were, received) = match left_out {
            0 => return Ok(None),
            1 => ("1 dead letter was".to_owned(), "its event was received"),
            many => (
                format!("{many} dead letters were"),
                "their events were received",
            ),
        };
        let retry = self.retry_since(since);
        let retry = retry.map_or_else(String::new, |retry| format!("{retry}, or "));
        Ok(Some(format!(
            "{were} given up since then, but {received} before, and --since is about that: {retry}an earlier --since."
        )))
    }

    /// The command that retries what was given up since then of what is chosen, if it can choose as much.
    fn retry_since(&self, since: Timestamp) -> Option<String> {
        let Choice {
            ids,
            until,
            room,
            message,
            event_type,
            bot,
            ..
        } = &self.choice;
        let is_finer =
            !ids.is_empty() || until.is_some() || message.is_some() || event_type.is_some();
        if is_finer {
            return None;
        }
        let mut retry = format!("chickwork dead retry --since {}", words::time(since));
        if let Some(room) = room {
            retry += &format!(" --room {room}");
        }
        if let Some(bot) = bot {
            retry += &format!(" --bot {bot}");
        }
        Some(retry)
    }

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
        let now = Timestamp::now();
        while let Some(listed) = events.next().await? {
            found.push(Found::of_listed(listed, now));
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
    async fn see_closely(
        &self,
        queue: &Queue,
        found: impl IntoIterator<Item = &mut Found>,
    ) -> anyhow::Result<()> {
        let unsure = |event: &&mut Found| {
            event.is_here && matches!(event.state, Some(Standing::Open | Standing::Waiting))
        };
        let mut unsure: Vec<_> = found.into_iter().filter(unsure).collect();
        if unsure.is_empty() {
            return Ok(());
        }
        let audit = queue.audit(self.kept_since, Duration::ZERO).await?;
        let may_be_lost: HashSet<_> = audit.unexplained.iter().map(|event| event.id).collect();
        let some_were_put_back = unsure.iter().any(|event| event.was_put_back);
        for event in &mut unsure {
            let by = ByNumbers {
                may_be_lost: may_be_lost.contains(&event.id),
                is_said_to_wait: event.is_said_to_wait,
                some_were_put_back,
            };
            event.state = Some(seen_closely(by));
            event.may_be_lost = by.may_be_lost && by.is_said_to_wait;
        }
        Ok(())
    }

    async fn dead(&self, queue: &Queue) -> anyhow::Result<Vec<Found>> {
        let mut found = Vec::new();
        let mut letters = queue.dead_letters().read().await?;
        while let Some(letter) = letters.next().await? {
            if takes_letter(&self.choice, &letter) {
                found.push(Found::of_letter(letter));
            }
        }
        Ok(found)
    }

    async fn exported(&self, path: &str, queue: Option<&Queue>) -> anyhow::Result<Vec<Found>> {
        let (mut lines, file) = open(path).await?;
        let mut found = HashMap::new();
        while let Some(exported) = lines.next().await? {
            if self.choice.takes(&exported.event) {
                let place = Place {
                    file: file.clone(),
                    bytes: lines.place(),
                };
                // The same event twice is one.
                let event = Found::of_exported(exported, place);
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

    /// Events that are known here are judged by what is known here, wherever that is kept: the archive may
    /// have forgotten them, or there may be none.
    async fn know_those_from_here(
        &self,
        queue: &Queue,
        found: &mut HashMap<EventId, Found>,
    ) -> anyhow::Result<()> {
        let Some(begins) = found.values().map(|event| event.received_at).min() else {
            return Ok(());
        };
        let since = begins.checked_sub(CLOCKS_DIFFER).unwrap_or(Timestamp::MIN);
        let wanted = found.iter().map(|(id, event)| (*id, event.answer_key()));
        let mut known = queue.known(&wanted.collect(), since).await?;
        let now = Timestamp::now();
        for event in found.values_mut() {
            if let Some(known) = known.events.remove(&event.id) {
                event.is_known_here(known, now);
            }
            let key = event.answer_key();
            event.message_is_answered = key.is_some_and(|key| known.answered.contains(&key));
        }
        if self.on_broker {
            self.see_closely(queue, found.values_mut()).await?;
        }
        Ok(())
    }
}

/// By what a letter tells; who wrote and what, it does not.
fn takes_letter(choice: &Choice, letter: &DeadLetter) -> bool {
    choice.takes(&Event {
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

/// Opens a file to be read twice: through, and then here and there. What can be read only once, such as
/// the standard input, is copied to a nameless file first.
async fn open(path: &str) -> anyhow::Result<(Reader, Arc<std::fs::File>)> {
    let is_plain = path != STDIN
        && tokio::fs::metadata(path)
            .await
            .is_ok_and(|metadata| metadata.is_file());
    if is_plain {
        let lines = Reader::open(path).await?;
        let file = std::fs::File::open(path).with_context(|| format!("cannot read {path}"))?;
        return Ok((lines, Arc::new(file)));
    }
    let name = match path {
        STDIN => "the standard input",
        path => path,
    };
    let copy = tempfile::tempfile().context("there is no room for a copy of what is read")?;
    let mut to = tokio::fs::File::from_std(copy.try_clone()?);
    if path == STDIN {
        tokio::io::copy(&mut tokio::io::stdin(), &mut to).await
    } else {
        let mut from = tokio::fs::File::open(path)
            .await
            .with_context(|| format!("{path} cannot be read"))?;
        tokio::io::copy(&mut from, &mut to).await
    }
    .with_context(|| format!("{name} cannot be read, or copied"))?;
    to.flush().await?;
    to.rewind().await?;
    Ok((Reader::of(name, Box::new(to)), Arc::new(copy)))
}

impl Place {
    /// The event that stands there, with what was said about it.
    async fn read(&self, found: &mut Found) -> anyhow::Result<Event> {
        let Self { file, bytes } = self.clone();
        let line = tokio::task::spawn_blocking(move || {
            let length = usize::try_from(bytes.end - bytes.start).unwrap_or(usize::MAX);
            let mut line = vec![0; length];
            std::os::unix::fs::FileExt::read_exact_at(&*file, &mut line, bytes.start)?;
            std::io::Result::Ok(line)
        });
        let changed = "the file has changed since it was read";
        let line = line.await?.context(changed)?;
        let exported = Exported::read(&line).context(changed)?;
        anyhow::ensure!(exported.event.id == found.id, changed);
        found.recorded = Some(Box::new(Recorded::of(&exported.outcomes)));
        Ok(exported.event)
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
    /// Those of a file.
    placed: std::vec::IntoIter<(Found, Place)>,
    ready: std::vec::IntoIter<(Found, Event)>,
    /// Those whose bytes are still to be read.
    left: HashMap<EventId, Found>,
    /// Whether the archive was read to its end and none of those left was in it.
    archive_is_read: bool,
}

impl<'a> Bodies<'a> {
    /// Of these events.
    pub(super) fn of(queue: Option<&'a Queue>, found: Vec<Found>) -> Self {
        let (mut placed, mut left) = (Vec::new(), HashMap::new());
        for mut found in found {
            match found.place.take() {
                Some(place) => placed.push((found, place)),
                None => drop(left.insert(found.id, found)),
            }
        }
        Self {
            queue,
            placed: placed.into_iter(),
            ready: Vec::new().into_iter(),
            left,
            archive_is_read: false,
        }
    }

    /// The next one; `None`: the rest is not to be had any more.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<(Found, Event)>> {
        if let Some((mut found, place)) = self.placed.next() {
            let event = place.read(&mut found).await?;
            return Ok(Some((found, event)));
        }
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
            has_copy: true,
            was_put_back: false,
            is_said_to_wait: false,
            may_be_lost: false,
            aged_from: received_at,
            last_at: None,
            message_is_answered: false,
            last_round: None,
            was_answered: false,
            open_round: None,
            replay: 0,
            letter: None,
            place: None,
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
