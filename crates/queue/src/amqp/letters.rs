//! The log of dead letters, and reading by it.
//!
//! A quorum queue cannot be looked into without its counting a return of every message. So every
//! burial is copied to a stream, and whoever takes a letter out writes there that it is gone. What
//! is left is the list, provided that it is as long as the queue, which tells its length for
//! nothing. Copies are best effort, older releases make none, and queues can be purged: where the
//! lengths differ for longer than a copy takes, the queue itself is looked through, and the log put
//! right by what is found. The queue is the truth.
//!
//! So that the log forgets nothing that is still in the queue, long bodies are in the queue alone, and
//! so are those of letters that were found there.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use deadpool_lapin::lapin;
use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::message::Delivery;
use tokio::time::Instant;

use super::stream::{From, ReadToEnd, Reading};
use super::taking::{Announced, Pass};
use super::topology::{self, Destination};
use super::{Address, Broker, BrokerError, Message, REQUEST_LIMIT, close, dead, look, wire};
use crate::dead::{DeadLetter, Held};
use crate::event::EventId;

/// `type` of the line that says that a letter was taken out.
const GONE: &str = "gone";
/// Copies are in the log by then. Until then log and queue are compared again, after this pause.
const COPIES_TAKE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// The log does without a body that is longer, in bytes: it is in the queue, and where the log forgets
/// letters the queue has to be looked through each time.
const LONGEST_BODY: usize = 4 * 1024;
/// So many copies at most are handed over before they are waited for, when the log is put right.
const WINDOW: usize = 1_000;
/// A letter that the log has arrives in this time.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the log says.
#[derive(Debug)]
struct Log {
    broker: Broker,
    from: From,
    /// What was buried and is not gone, by name.
    live: HashMap<String, DeadLetter>,
}

impl Log {
    fn new(broker: &Broker) -> Self {
        Self {
            broker: broker.clone(),
            from: From::First,
            live: HashMap::new(),
        }
    }

    /// Reads on, to the end.
    async fn catch_up(&mut self) -> Result<(), BrokerError> {
        let log = self.broker.names().letters();
        let mut read = ReadToEnd::new(self.broker.clone(), log, self.from);
        while let Some(line) = read.next().await? {
            let offset = wire::number(&wire::headers(&line.properties), "x-stream-offset");
            let name = dead::name(&line.properties, &line.data);
            if is_gone(&line.properties) {
                self.live.remove(&name);
            } else {
                // A copy may be there twice.
                self.live.entry(name).or_insert_with(|| {
                    let mut letter = dead::describe(&line.properties, &line.data);
                    letter.letter.offset = offset;
                    letter
                });
            }
            if let Some(offset) = offset {
                self.from = From::Offset(offset + 1);
            }
        }
        Ok(())
    }
}

fn is_gone(properties: &BasicProperties) -> bool {
    let kind = properties.kind().as_ref();
    kind.is_some_and(|kind| kind.as_str() == GONE)
}

/// Something that happened to an event, as a line of the log tells. Its outcomes tell the whole of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) id: EventId,
    pub(super) at: Timestamp,
    pub(super) what: Noted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noted {
    /// It was given up.
    Buried,
    /// Somebody took its letter out, to retry or to drop it.
    Taken,
    /// Somebody put it back in.
    PutBack,
}

/// The notes about some events.
#[derive(Debug)]
pub(super) struct Notes<'a> {
    ids: &'a HashSet<EventId>,
    /// What lines about them name: their letters, or that they are put back.
    names: HashMap<String, (EventId, Noted)>,
    found: Vec<Note>,
}

impl<'a> Notes<'a> {
    pub(super) fn about(ids: &'a HashSet<EventId>) -> Self {
        let names = ids.iter().map(|id| (put_back(*id), (*id, Noted::PutBack)));
        Self {
            names: names.collect(),
            ids,
            found: Vec::new(),
        }
    }

    /// Takes in the next line.
    pub(super) fn take_in(&mut self, line: &Delivery) {
        let Delivery {
            properties, data, ..
        } = line;
        if is_gone(properties) {
            let named = self.names.get(&dead::name(properties, data));
            if let (Some((id, what)), Some(at)) = (named, wire::dated(properties)) {
                let (id, what) = (*id, *what);
                self.found.push(Note { id, at, what });
            }
            return;
        }
        let id = properties.message_id().as_ref();
        let id = id.and_then(|id| id.as_str().parse().ok());
        if let Some(id) = id.filter(|id| self.ids.contains(id)) {
            let letter = dead::describe(properties, data);
            let (at, what) = (letter.buried_at, Noted::Buried);
            self.names.insert(letter.letter.name, (id, Noted::Taken));
            self.found.push(Note { id, at, what });
        }
    }

    /// Oldest first.
    pub(super) fn in_order(mut self) -> Vec<Note> {
        self.found.sort_by_key(|note| note.at);
        self.found
    }
}

/// What is said to be gone when an event is put back in. There is no letter of that name.
fn put_back(id: EventId) -> String {
    format!("{id}@put-back")
}

/// Oldest first.
fn in_order(letters: HashMap<String, DeadLetter>) -> Vec<DeadLetter> {
    let mut letters: Vec<_> = letters.into_values().collect();
    letters.sort_by_key(|letter| (letter.buried_at, letter.letter.offset));
    letters
}

/// Whether the log does not exist, may not be read, or is no stream.
fn says_that_there_is_no_log(error: &BrokerError) -> bool {
    match error {
        BrokerError::Missing(_) | BrokerError::Unusable(_) | BrokerError::Refused { .. } => true,
        // Where a stream is asked for, and something else is there.
        BrokerError::Unreachable(said) => said.starts_with("PRECONDITION_FAILED"),
        _ => false,
    }
}

/// How many messages a queue has.
async fn length(
    connection: &lapin::Connection,
    queue: &str,
) -> Result<lapin::Result<u32>, BrokerError> {
    let looked = look(connection, queue).await?;
    Ok(looked.map(|queue| queue.message_count()))
}

impl Broker {
    /// The dead letters that are there now, oldest first. Their bodies are not kept.
    pub(crate) async fn dead(&self) -> Result<Vec<DeadLetter>, BrokerError> {
        let connection = self.inner.connections.consuming().await?;
        let letters = self.dead_by_log(&connection).await;
        close(connection).await;
        letters
    }

    async fn dead_by_log(
        &self,
        connection: &lapin::Connection,
    ) -> Result<Vec<DeadLetter>, BrokerError> {
        if !self.inner.connections.has_letters() {
            return self.dead_by_queue(None).await;
        }
        let mut log = Log::new(self);
        let since = Instant::now();
        let mut was_empty = false;
        let waiting = loop {
            let before = length(connection, &self.names().dead()).await?? as usize;
            // Nothing waits in a queue whose letters are all held by somebody who goes through it, either.
            let none = before == 0 && !self.is_passed_through(connection).await?;
            let read = match length(connection, &self.names().letters()).await? {
                // The count leaves the youngest lines out, so it does not show that there are none;
                // but an empty stream is slow to show that, and here it hardly matters.
                Ok(0) if none && was_empty => return Ok(Vec::new()),
                // What somebody has just given back is counted a moment later.
                Ok(0) if none => {
                    was_empty = true;
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
                Ok(_) => log.catch_up().await,
                Err(error) => Err(error.into()),
            };
            match read {
                Ok(()) => {}
                Err(error) if says_that_there_is_no_log(&error) => {
                    return self.dead_without_log(&error).await;
                }
                Err(error) => return Err(error),
            }
            // Others bury and take while it is read.
            let waiting = length(connection, &self.names().dead()).await?? as usize;
            let fits = before.min(waiting)..=before.max(waiting);
            if fits.contains(&log.live.len()) {
                return Ok(in_order(log.live));
            }
            if self.is_passed_through(connection).await? {
                log::warn!(
                    "somebody is going through the dead letters, so this list may be incomplete"
                );
                return Ok(in_order(log.live));
            }
            if since.elapsed() > COPIES_TAKE {
                break waiting;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        log::warn!(
            "dead letters: {waiting} in the queue, {} in the log, so the queue is looked through: an \
             older release or the broker buried some, or a process was killed, or somebody purged it",
            log.live.len()
        );
        self.dead_by_queue(Some(log)).await
    }

    /// Whether somebody goes through the queue: what they hold is not counted there.
    pub(super) async fn is_passed_through(
        &self,
        connection: &lapin::Connection,
    ) -> Result<bool, BrokerError> {
        Ok(match length(connection, &self.names().dead_pass()).await? {
            Ok(_) => true,
            Err(error) => topology::said(&error).starts_with("RESOURCE_LOCKED"),
        })
    }

    async fn dead_without_log(&self, error: &BrokerError) -> Result<Vec<DeadLetter>, BrokerError> {
        log::warn!("dead letters have no log, so the queue is looked through: {error}");
        if matches!(error, BrokerError::Missing(_)) {
            self.inner.connections.miss_letters().await;
        }
        self.dead_by_queue(None).await
    }

    /// Looks through the queue, and puts the log right, if there is one.
    async fn dead_by_queue(&self, log: Option<Log>) -> Result<Vec<DeadLetter>, BrokerError> {
        let mut pass = Pass::begin(self).await?;
        let mut found = HashMap::new();
        let mut written = 0;
        while let Some(delivery) = pass.next().await? {
            let letter = dead::describe(&delivery.properties, &delivery.data);
            let name = letter.letter.name.clone();
            if found.contains_key(&name) {
                // One burial, stored twice because its confirm came late.
                pass.remove(&delivery).await?;
                continue;
            }
            if let Some(log) = &log
                && !log.live.contains_key(&name)
            {
                self.log(dead::for_log(&delivery.properties, &letter), Vec::new());
                self.written(&mut written).await;
            }
            found.insert(name, letter);
        }
        let announced = pass.announced();
        pass.end().await;
        let Some(mut log) = log else {
            return Ok(in_order(found));
        };
        // Another one who passes unannounced may hold what was not found.
        if announced == Announced::Yes {
            let names = log.live.keys().map(String::as_str);
            let gone = names.filter(|name| !found.contains_key(*name));
            self.log_all_gone(gone).await;
        }
        self.log_flushed().await;
        // Where they lie in the log, if it can be told; the letters themselves are known.
        if let Err(error) = log.catch_up().await {
            log::debug!("the log of dead letters cannot be read: {error}");
        }
        for (name, letter) in &mut found {
            letter.letter.offset = log.live.get(name).and_then(|known| known.letter.offset);
        }
        Ok(in_order(found))
    }

    /// What a letter holds, by the log; from the queue if it is not there, which counts as a return of
    /// the letters up to it.
    pub(crate) async fn held(&self, letter: &DeadLetter) -> Result<Option<Held>, BrokerError> {
        let by_log = match letter.letter.offset {
            Some(offset) => self.logged(offset, &letter.letter.name).await,
            None => Ok(None),
        };
        let found = match by_log {
            Ok(Some(line)) => Some(line),
            _ => Pass::begin(self).await?.find(&letter.letter.name).await?,
        };
        let Some(Delivery {
            properties, data, ..
        }) = found
        else {
            return Ok(None);
        };
        let is_reply = matches!(dead::destination(&properties), Destination::Post(_));
        Ok(Some(match wire::read(&properties, &data) {
            Ok((content, _)) => content.into_held(is_reply),
            Err(_) => Held::Unreadable(data),
        }))
    }

    /// The letter at this offset, unless the log has forgotten it.
    async fn logged(&self, offset: i64, name: &str) -> Result<Option<Delivery>, BrokerError> {
        let log = self.names().letters();
        let mut reading = Reading::start(self, &log, From::Offset(offset)).await?;
        // Silence: the log was made anew, and is shorter now.
        let Ok(line) = tokio::time::timeout(PATIENCE, reading.next()).await else {
            return Ok(None);
        };
        let (_, line) = line?;
        let is_whole = !is_gone(&line.properties) && !dead::is_without_body(&line.properties);
        let is_it = is_whole && dead::name(&line.properties, &line.data) == name;
        Ok(is_it.then_some(line))
    }

    /// Copies a burial that is stored to the log.
    pub(super) fn log_burial(&self, message: &Message) {
        let Message {
            properties, body, ..
        } = message;
        if body.len() > LONGEST_BODY {
            let letter = dead::describe(properties, body);
            self.log(dead::for_log(properties, &letter), Vec::new());
        } else {
            self.log(properties.clone(), body.clone());
        }
    }

    /// Says in the log that a letter was taken out.
    pub(super) fn log_gone(&self, name: &str) {
        self.log(dead::naming(name, GONE), Vec::new());
    }

    /// Notes in the log that an event is put back in. It names no letter, so it takes none off the list.
    /// Stored before anything else is done, as the story of an event that has come to an end is read on
    /// by it; but a log that cannot be used holds up nobody.
    pub(super) async fn note_put_back(&self, id: EventId) {
        if !self.inner.connections.has_letters() {
            return;
        }
        let line = self.line(dead::naming(&put_back(id), GONE), Vec::new());
        let Err(error) = self.store(&line).await else {
            return;
        };
        if matches!(error, BrokerError::Returned(_)) || says_that_there_is_no_log(&error) {
            log::debug!("the log of dead letters cannot be used: {error}");
        } else {
            log::warn!(
                "the log of dead letters does not take that {id} is put back, so events show may need --to-the-end: {error}"
            );
            // Perhaps soon.
            self.inner.letters.send(line);
        }
    }

    /// Says it of many.
    pub(super) async fn log_all_gone(&self, names: impl Iterator<Item = &str>) {
        let mut written = 0;
        for name in names {
            self.log_gone(name);
            self.written(&mut written).await;
        }
    }

    fn log(&self, properties: BasicProperties, body: Vec<u8>) {
        if self.inner.connections.has_letters() {
            self.inner.letters.send(self.line(properties, body));
        }
    }

    fn line(&self, properties: BasicProperties, body: Vec<u8>) -> Message {
        let address = Address {
            exchange: self.names().letters(),
            key: String::new(),
        };
        Message {
            address,
            properties,
            body,
        }
    }

    /// Counts a line that was handed over, and waits once there are many.
    async fn written(&self, lines: &mut usize) {
        *lines += 1;
        if lines.is_multiple_of(WINDOW) {
            self.log_flushed().await;
        }
    }

    async fn log_flushed(&self) {
        let flushed = tokio::time::timeout(REQUEST_LIMIT, self.inner.letters.flush());
        if !matches!(flushed.await, Ok(Ok(()))) {
            log::warn!(
                "the log of dead letters could not be put right; the next look will try again"
            );
        }
    }
}
