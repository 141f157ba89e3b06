//! Lists and stories from the streams of a broker.
//!
//! A stream is read forwards, from an offset or a time on. So a list that begins with what is newest
//! goes back in steps, the last hour, then four more, and so on, and within them by so many messages
//! that they can be put in order. Of the outcomes as much is read, likewise going back, as the events that are
//! listed can have: so a list of the newest few costs little, and a long one reads everything once.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use deadpool_lapin::lapin;
use jiff::{SignedDuration, Timestamp};
use lapin::message::Delivery;

use super::letters::Acts;
use super::stream::{CLOCKS_DIFFER, EMPTY, From, Reading, entry, last_chunk};
use super::{Broker, BrokerError, REQUEST_LIMIT, close_in_background, wire};
use crate::course::{Course, Reasons, State};
use crate::event::{Event, EventId};
use crate::events::{Archived, Choice, Found, Page, Reach, Waits, Whom};
use crate::outcome::{Outcome, What};
use crate::{Entry, Queue, QueueError};

/// The first step back, and by how much each is longer than the one before.
const FIRST_STEP: SignedDuration = SignedDuration::from_hours(1);
const LONGER: i32 = 4;
/// So many events are held at once: a few MiB. The first time fewer, as few may be enough.
const HELD: i64 = 4_000;
const HELD_AT_FIRST: i64 = 1_000;
/// So many lines of the outcomes are read at once.
const OUTCOMES_AT_ONCE: i64 = 20_000;
/// So many events that are asked for by their ids are looked for one by one.
const ONE_BY_ONE: usize = 32;
/// A message is looked for among what was stored this long before it was sent, as its id seems to
/// tell, and in the day after it, before everything is looked through.
const BEFORE: SignedDuration = SignedDuration::from_mins(10);
const AFTER: SignedDuration = SignedDuration::from_hours(24);
/// Where an event is found in the archive this close to its own time, its ingress has the broker's time.
const CLOCKS_AGREE: SignedDuration = SignedDuration::from_secs(3);
/// Several events about one message come soon after each other: so much more is read after the first, in
/// time and in messages.
const BESIDE: SignedDuration = SignedDuration::from_mins(10);
const BESIDE_AT_MOST: u32 = 20_000;
/// From what the outcomes say of what a person does to what the log of dead letters says.
const ACT_TAKES: SignedDuration = SignedDuration::from_secs(3);
/// Once an event is answered, so much more is read of the outcomes, in lines, before it is looked
/// whether it has been quiet about it for [`BESIDE`]; and so much at most, where very much is going on.
const QUIET_LINES: u32 = 1_000;
const QUIET_LINES_AT_MOST: u32 = 50_000;

/// How the clock by which an event was received stands to the broker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clocks {
    /// They differ by this much at most.
    Differ(SignedDuration),
    /// The event lies nowhere near its own time.
    Unknown,
}

impl Clocks {
    /// From where on to read what became of an event that was received at this time.
    fn since(self, received: Timestamp) -> From {
        match self {
            Self::Differ(_) => From::Time(received),
            Self::Unknown => From::First,
        }
    }
}

/// A stream as it is when it is looked at first.
#[derive(Debug, Clone, Copy)]
struct End {
    /// The last message.
    offset: i64,
    /// When the youngest of the last messages was written.
    dated: Timestamp,
}

/// Streams that are read in pieces, on one connection.
#[derive(Debug)]
struct Streams {
    connection: Option<lapin::Connection>,
}

impl Streams {
    async fn open(broker: &Broker) -> Result<Self, BrokerError> {
        let connection = broker.inner.connections.consuming().await?;
        Ok(Self {
            connection: Some(connection),
        })
    }

    fn connection(&self) -> &lapin::Connection {
        let connection = self.connection.as_ref();
        connection.unwrap_or_else(|| unreachable!("it is taken out when this is dropped"))
    }

    /// The first message that was stored at this time or later, or soon before; `None`: none was.
    async fn first_at(
        &self,
        stream: &str,
        from: From,
        end: End,
    ) -> Result<Option<i64>, BrokerError> {
        let patience = match from {
            From::Time(time) if end.dated < time => EMPTY,
            _ => REQUEST_LIMIT,
        };
        let mut reading = Reading::on(self.connection(), stream, from).await?;
        let first = match tokio::time::timeout(patience, reading.next()).await {
            Ok(first) => Some(first?.0).filter(|first| *first <= end.offset),
            // Nothing is as young, or who dated it had a clock that was ahead of the broker's.
            Err(_) if matches!(from, From::Time(_)) => None,
            Err(_) => return Err(BrokerError::TimedOut("reading a stream")),
        };
        reading.end().await;
        Ok(first)
    }

    /// Takes what is between these offsets, the second not included, until it is told to stop. What the
    /// stream has forgotten meanwhile does not come.
    async fn between(
        &self,
        stream: &str,
        (from, to): (i64, i64),
        mut take: impl FnMut(Delivery) -> Go,
    ) -> Result<(), BrokerError> {
        if from >= to {
            return Ok(());
        }
        let mut reading = Reading::on(self.connection(), stream, From::Offset(from)).await?;
        loop {
            // There is a message at the end or behind it, so silence is not the end.
            let next = tokio::time::timeout(REQUEST_LIMIT, reading.next()).await;
            let (offset, delivery) =
                next.map_err(|_| BrokerError::TimedOut("reading a stream"))??;
            if offset >= to || take(delivery) == Go::Stop || offset == to - 1 {
                break;
            }
        }
        reading.end().await;
        Ok(())
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(close_in_background(connection, ()));
        }
    }
}

/// Whether to read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

/// The end of a stream; `None`: there is nothing in it, or no such stream.
async fn end_of(broker: &Broker, stream: &str) -> Result<Option<End>, BrokerError> {
    let mut dated = Timestamp::MIN;
    let end = last_chunk(broker, stream, |delivery| {
        dated = dated.max(wire::dated(&delivery.properties).unwrap_or(Timestamp::MAX));
    });
    match end.await {
        Ok(end) => Ok(end.map(|offset| End { offset, dated })),
        Err(BrokerError::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn earlier(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_sub(by).unwrap_or(Timestamp::MIN)
}

fn archived(delivery: &Delivery) -> Option<Event> {
    let (content, _) = wire::read(&delivery.properties, &delivery.data).ok()?;
    Some(content.into_event())
}

fn id(delivery: &Delivery) -> Option<EventId> {
    delivery
        .properties
        .message_id()
        .as_ref()?
        .as_str()
        .parse()
        .ok()
}

fn outcome(delivery: &Delivery) -> Option<Outcome> {
    match entry(delivery)? {
        Entry::Outcome(outcome) => Some(outcome),
        Entry::Mark(_) => None,
    }
}

impl Broker {
    pub(crate) fn event_pages(&self, choice: Arc<Choice>) -> EventPages {
        EventPages {
            broker: self.clone(),
            choice,
            listing: Listing::NotBegun,
            jobs: None,
        }
    }
}

/// The archive, page by page, newest first.
#[derive(Debug)]
pub(crate) struct EventPages {
    broker: Broker,
    choice: Arc<Choice>,
    listing: Listing,
    /// How many jobs there are, counted after the first outcomes were read.
    jobs: Option<u64>,
}

#[derive(Debug)]
enum Listing {
    NotBegun,
    Back(Box<Back>),
    Done,
}

/// On the way back.
#[derive(Debug)]
struct Back {
    streams: Streams,
    archive: End,
    /// `None`: there are none.
    outcomes: Option<End>,
    /// The first of the archive that may be chosen.
    begin: i64,
    /// The archive has been read from here on.
    to: i64,
    /// The current step begins here, at this time.
    step_from: i64,
    step_at: Timestamp,
    step: SignedDuration,
    held: i64,
    /// What was read in the current step, so as not to keep what becomes of it any longer: the part of
    /// their ids that is random.
    passed: HashSet<u64>,
    /// The outcomes have been read from here on.
    outcomes_to: i64,
    /// What became of events that have not come up yet.
    became: HashMap<EventId, Vec<Outcome>>,
}

impl EventPages {
    pub(crate) async fn next(&mut self, queue: &Queue) -> Result<Option<Page>, QueueError> {
        let back = match &mut self.listing {
            Listing::Done => return Ok(None),
            Listing::Back(back) => back,
            Listing::NotBegun => {
                self.listing = Listing::Done;
                if (1..=ONE_BY_ONE).contains(&self.choice.ids.len()) {
                    return Ok(Some(self.one_by_one(queue).await?));
                }
                let Some(back) = Back::begin(&self.broker, &self.choice).await? else {
                    return Ok(None);
                };
                self.listing = Listing::Back(Box::new(back));
                match &mut self.listing {
                    Listing::Back(back) => back,
                    _ => return Ok(None),
                }
            }
        };
        if back.to <= back.begin {
            self.listing = Listing::Done;
            return Ok(None);
        }
        let read = back.next(&self.broker, &self.choice).await?;
        let jobs = match (self.jobs, read.events.is_empty()) {
            (Some(jobs), _) => jobs,
            (None, true) => 0,
            (None, false) => *self.jobs.insert(queue.jobs_in_numbers().await?),
        };
        Ok(Some(Page {
            waits: Waits::SoMany(jobs),
            ..read
        }))
    }

    /// Each by the time in its id; and what became of them, to the end, as a person may act by it.
    async fn one_by_one(&self, queue: &Queue) -> Result<Page, QueueError> {
        let mut found = Vec::new();
        let mut clocks = Clocks::Differ(CLOCKS_DIFFER);
        let mut looked_through = 0;
        let ids: HashSet<EventId> = self.choice.ids.iter().copied().collect();
        let streams = Streams::open(&self.broker).await?;
        for id in ids {
            looked_through += 1;
            let (event, its_clocks) = self.broker.find_event(&streams, id).await?;
            let event = event.filter(|event| self.choice.takes(event));
            if event.is_some() && its_clocks == Clocks::Unknown {
                clocks = its_clocks;
            }
            found.extend(event);
        }
        let mut became = self.broker.became(&streams, &found, clocks).await?;
        let mut events: Vec<Archived> = found
            .into_iter()
            .map(|event| Archived {
                outcomes: became.remove(&event.id).unwrap_or_default(),
                event,
            })
            .collect();
        events.sort_by_key(|archived| Reverse((archived.event.received_at, archived.event.id)));
        Ok(Page {
            events,
            beside: None,
            waits: Waits::SoMany(queue.jobs_in_numbers().await?),
            looked_through,
        })
    }
}

impl Back {
    /// `None`: the archive is empty, or there is none.
    async fn begin(broker: &Broker, choice: &Choice) -> Result<Option<Self>, BrokerError> {
        let archive_name = broker.names().archive();
        if !broker.keeps_archive() {
            return Ok(None);
        }
        let Some(archive) = end_of(broker, &archive_name).await? else {
            return Ok(None);
        };
        // In this order: what became of the archived events meanwhile is read.
        let outcomes = end_of(broker, &broker.names().outcomes()).await?;
        let streams = Streams::open(broker).await?;
        let from = match choice.begins() {
            Some(since) => From::Time(earlier(since, CLOCKS_DIFFER)),
            None => From::First,
        };
        let Some(begin) = streams.first_at(&archive_name, from, archive).await? else {
            return Ok(None);
        };
        let to = archive.offset + 1;
        Ok(Some(Self {
            streams,
            archive,
            outcomes,
            begin,
            to,
            step_from: to,
            step_at: archive.dated.min(Timestamp::now()),
            step: FIRST_STEP,
            held: HELD_AT_FIRST,
            passed: HashSet::new(),
            outcomes_to: outcomes.map_or(0, |end| end.offset + 1),
            became: HashMap::new(),
        }))
    }

    /// The next page, which may be empty.
    async fn next(&mut self, broker: &Broker, choice: &Choice) -> Result<Page, BrokerError> {
        let archive = broker.names().archive();
        while self.to <= self.step_from && self.step_from > self.begin {
            self.step_at = earlier(self.step_at, self.step);
            self.step = self.step.saturating_mul(LONGER);
            let from = From::Time(self.step_at);
            let first = self.streams.first_at(&archive, from, self.archive).await?;
            self.step_from = first.unwrap_or(self.to).clamp(self.begin, self.to);
            self.passed.clear();
        }
        let from = self.step_from.max(self.to.saturating_sub(self.held));
        self.held = HELD.min(self.held.saturating_mul(LONGER.into()));
        let mut ids = HashSet::new();
        let mut events = Vec::new();
        let mut looked_through = 0;
        self.streams
            .between(&archive, (from, self.to), |delivery| {
                looked_through += 1;
                if let Some(event) = archived(&delivery)
                    && ids.insert(event.id)
                    && choice.takes(&event)
                {
                    events.push(event);
                }
                Go::On
            })
            .await?;
        self.to = from;
        events.sort_by_key(|event| Reverse((event.received_at, event.id)));
        let mut beside = None;
        if let Some(oldest) = events.iter().map(|event| event.received_at).min() {
            let chosen: HashSet<EventId> = events.iter().map(|event| event.id).collect();
            let others: HashSet<EventId> = ids.difference(&chosen).copied().collect();
            self.read_outcomes(broker, oldest, &chosen, &others).await?;
            let others = others.iter();
            beside = Some(others.map(|id| (*id, self.became(*id))).collect());
        }
        self.passed.extend(ids.iter().map(|id| random_part(*id)));
        let events = events.into_iter().map(|event| Archived {
            outcomes: self.became(event.id),
            event,
        });
        Ok(Page {
            events: events.collect(),
            beside,
            waits: Waits::SoMany(0),
            looked_through,
        })
    }

    fn became(&mut self, id: EventId) -> Vec<Outcome> {
        self.became.remove(&id).unwrap_or_default()
    }

    /// Reads back what can have become of events that were received at this time or later. What is about
    /// events that were passed over is not kept.
    async fn read_outcomes(
        &mut self,
        broker: &Broker,
        oldest: Timestamp,
        chosen: &HashSet<EventId>,
        others: &HashSet<EventId>,
    ) -> Result<(), BrokerError> {
        let since = earlier(oldest, CLOCKS_DIFFER);
        // Nothing was written as late as that.
        let Some(end) = self.outcomes.filter(|end| end.dated >= since) else {
            return Ok(());
        };
        let outcomes = broker.names().outcomes();
        let from = From::Time(since);
        let first = self.streams.first_at(&outcomes, from, end).await?;
        let first = first.unwrap_or(self.outcomes_to);
        while first < self.outcomes_to {
            let from = first.max(self.outcomes_to - OUTCOMES_AT_ONCE);
            let (is_about_them, newest) = self
                .read_outcomes_from(from, &outcomes, chosen, others)
                .await?;
            // That clocks may differ is a reason to look further back, but not past so much else.
            if !is_about_them && newest < oldest {
                break;
            }
        }
        Ok(())
    }

    /// Reads back to this offset. Tells whether something was about these events, and when the youngest
    /// line was written.
    async fn read_outcomes_from(
        &mut self,
        from: i64,
        outcomes: &str,
        chosen: &HashSet<EventId>,
        others: &HashSet<EventId>,
    ) -> Result<(bool, Timestamp), BrokerError> {
        // Nothing that was stored before the current step was received later, but for clocks.
        let still_to_come = self
            .step_at
            .checked_add(CLOCKS_DIFFER)
            .unwrap_or(Timestamp::MAX);
        let (to_come, in_step) = (self.step_from > self.begin, self.to > self.step_from);
        let mut read: HashMap<EventId, Vec<Outcome>> = HashMap::new();
        let passed = &self.passed;
        let (mut is_about_them, mut newest) = (false, Timestamp::MIN);
        self.streams
            .between(outcomes, (from, self.outcomes_to), |delivery| {
                newest = newest.max(wire::dated(&delivery.properties).unwrap_or(newest));
                let Some(id) = id(&delivery) else {
                    return Go::On;
                };
                let comes = || {
                    let received_at = id.received_at().unwrap_or(Timestamp::MIN);
                    let is_older = received_at <= still_to_come;
                    (to_come && is_older) || (in_step && !passed.contains(&random_part(id)))
                };
                let is_other = others.contains(&id);
                let is_chosen = chosen.contains(&id);
                is_about_them |= is_other || is_chosen;
                if (is_other || is_chosen || comes())
                    && let Some(outcome) = outcome(&delivery)
                {
                    let what = outcome.what;
                    // Of the others it only matters where they stand.
                    let what = if is_other { what.without_words() } else { what };
                    let outcome = Outcome { what, ..outcome };
                    read.entry(id).or_default().push(outcome);
                }
                Go::On
            })
            .await?;
        self.outcomes_to = from;
        for (id, mut outcomes) in read {
            outcomes.extend(self.became.remove(&id).unwrap_or_default());
            self.became.insert(id, outcomes);
        }
        Ok((is_about_them, newest))
    }
}

/// Enough to tell events of one hour apart.
fn random_part(id: EventId) -> u64 {
    id.0.as_u64_pair().1
}

impl Broker {
    /// An event of the archive.
    async fn find_event(
        &self,
        streams: &Streams,
        id: EventId,
    ) -> Result<(Option<Event>, Clocks), BrokerError> {
        if !self.keeps_archive() {
            return Ok((None, Clocks::Unknown));
        }
        let whom = Whom::Event(id);
        let mut events = Vec::new();
        let about = About::new(&whom);
        let clocks = self.find_events(streams, &about, &mut events).await?;
        Ok((events.into_iter().next(), clocks))
    }

    /// All that became of these events, in the order in which it was stored.
    async fn became(
        &self,
        streams: &Streams,
        events: &[Event],
        clocks: Clocks,
    ) -> Result<HashMap<EventId, Vec<Outcome>>, BrokerError> {
        let mut became: HashMap<EventId, Vec<Outcome>> =
            events.iter().map(|event| (event.id, Vec::new())).collect();
        let outcomes = self.names().outcomes();
        let Some(oldest) = events.iter().map(|event| event.received_at).min() else {
            return Ok(became);
        };
        let Some(end) = end_of(self, &outcomes).await? else {
            return Ok(became);
        };
        let since = match clocks.since(oldest) {
            From::Time(since) => From::Time(earlier(since, CLOCKS_DIFFER)),
            from => from,
        };
        let Some(first) = streams.first_at(&outcomes, since, end).await? else {
            return Ok(became);
        };
        let between = streams.between(&outcomes, (first, end.offset + 1), |delivery| {
            if let Some(told) = id(&delivery).and_then(|id| became.get_mut(&id)) {
                told.extend(outcome(&delivery));
            }
            Go::On
        });
        between.await?;
        Ok(became)
    }

    /// What the streams have of the events so named.
    pub(crate) async fn find(&self, whom: &Whom, reach: Reach) -> Result<Found, BrokerError> {
        let streams = Streams::open(self).await?;
        let mut found = Found::default();
        let about = About::new(whom);
        let mut clocks = Clocks::Differ(CLOCKS_DIFFER);
        if self.keeps_archive() {
            clocks = self
                .find_events(&streams, &about, &mut found.events)
                .await?;
        }
        let outcomes = self.names().outcomes();
        let Some(end) = end_of(self, &outcomes).await? else {
            return Ok(found);
        };
        let mut telling = Telling {
            streams: &streams,
            outcomes: &outcomes,
            end,
            about: &about,
            ids: found.events.iter().map(|event| event.id).collect(),
            told: Vec::new(),
            read_until: None,
        };
        let received = found.events.iter().map(|event| event.received_at).min();
        match (received, about.looked_for_from()) {
            (Some(received), _) => {
                let acts = match reach {
                    Reach::Answered => self.acts(&streams, &telling.ids, received).await?,
                    Reach::End => None,
                };
                telling.by_acts((received, clocks), acts).await?;
            }
            (None, Some(time)) => {
                let read_from = telling.all_since(From::Time(time), end.offset + 1).await?;
                // The time in a message's id may mean nothing, and that in an event's may be of another clock.
                if telling.told.is_empty() {
                    telling.all_since(From::First, read_from).await?;
                }
            }
            (None, None) => drop(telling.all_since(From::First, end.offset + 1).await?),
        }
        (found.outcomes, found.read_until) = (telling.told, telling.read_until);
        Ok(found)
    }

    /// When people did something about these events, oldest first, as the log of dead letters has it;
    /// `None`: there is no log.
    async fn acts(
        &self,
        streams: &Streams,
        ids: &HashSet<EventId>,
        since: Timestamp,
    ) -> Result<Option<Vec<Timestamp>>, BrokerError> {
        let letters = self.names().letters();
        if !self.inner.connections.has_letters() {
            return Ok(None);
        }
        let end = match end_of(self, &letters).await {
            Ok(end) => end,
            // May not be read, or is no stream.
            Err(BrokerError::Refused { .. } | BrokerError::Unusable(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(end) = end else {
            return Ok(Some(Vec::new()));
        };
        let since = From::Time(earlier(since, CLOCKS_DIFFER));
        let Some(from) = streams.first_at(&letters, since, end).await? else {
            return Ok(Some(Vec::new()));
        };
        let mut acts = Acts::about(ids);
        let between = streams.between(&letters, (from, end.offset + 1), |line| {
            acts.take_in(&line);
            Go::On
        });
        between.await?;
        acts.at.sort_unstable();
        Ok(Some(acts.at))
    }

    /// Finds the events, and tells how their clocks stand to the broker's.
    async fn find_events(
        &self,
        streams: &Streams,
        about: &About<'_>,
        events: &mut Vec<Event>,
    ) -> Result<Clocks, BrokerError> {
        let archive = self.names().archive();
        let Some(end) = end_of(self, &archive).await? else {
            return Ok(Clocks::Differ(CLOCKS_DIFFER));
        };
        let all = streams.first_at(&archive, From::First, end).await?;
        let Some(first) = all else {
            return Ok(Clocks::Differ(CLOCKS_DIFFER));
        };
        let end_offset = end.offset + 1;
        let mut looked_from = end_offset;
        // An event, or a message, is mostly where its id says, and does not have to wait for what is a minute older.
        if let Some(time) = about.whom.time().filter(|time| *time <= Timestamp::now())
            && let time = From::Time(earlier(time, CLOCKS_AGREE))
            && let Some(from) = streams.first_at(&archive, time, end).await?
        {
            let to = end_offset.min(from + i64::from(BESIDE_AT_MOST));
            let between = streams.between(&archive, (from, to), |delivery| {
                if !about.is_event(&delivery) {
                    return Go::On;
                }
                events.extend(archived(&delivery));
                // About a message there may be others beside it.
                if about.is_one() { Go::Stop } else { Go::On }
            });
            between.await?;
            if !events.is_empty() {
                return Ok(Clocks::Differ(CLOCKS_AGREE));
            }
        }
        if let Some(time) = about.looked_for_from()
            && let Some(from) = streams.first_at(&archive, From::Time(time), end).await?
        {
            looked_from = from;
            let mut after = 0;
            let until = about.looked_for_until();
            streams
                .between(&archive, (from, end_offset), |delivery| {
                    if about.is_event(&delivery) {
                        events.extend(archived(&delivery));
                    }
                    after += u32::from(!events.is_empty());
                    match events.first() {
                        Some(_) if about.is_one() => Go::Stop,
                        Some(found) => {
                            let dated = wire::dated(&delivery.properties);
                            let is_later = dated.is_some_and(|dated| {
                                dated.duration_since(found.received_at) > BESIDE
                            });
                            if is_later || after > BESIDE_AT_MOST {
                                Go::Stop
                            } else {
                                Go::On
                            }
                        }
                        None if until
                            .zip(wire::dated(&delivery.properties))
                            .is_some_and(|(until, dated)| dated > until) =>
                        {
                            looked_from = end_offset;
                            Go::Stop
                        }
                        None => Go::On,
                    }
                })
                .await?;
        }
        if !events.is_empty() {
            return Ok(Clocks::Differ(CLOCKS_DIFFER));
        }
        // The time in a message's id may mean nothing, and that in an event's may be of another clock.
        streams
            .between(&archive, (first, looked_from), |delivery| {
                if !about.is_event(&delivery) {
                    return Go::On;
                }
                events.extend(archived(&delivery));
                if about.is_one() { Go::Stop } else { Go::On }
            })
            .await?;
        Ok(Clocks::Unknown)
    }
}

/// The outcomes of the events that are looked for.
#[derive(Debug)]
struct Telling<'a> {
    streams: &'a Streams,
    outcomes: &'a str,
    end: End,
    about: &'a About<'a>,
    ids: HashSet<EventId>,
    told: Vec<Outcome>,
    /// Up to when it was read without a gap; `None`: to the end.
    read_until: Option<Timestamp>,
}

impl Telling<'_> {
    /// Reads all of them from there on up to this offset; tells the offset at which it began.
    async fn all_since(&mut self, from: From, to: i64) -> Result<i64, BrokerError> {
        let from = match from {
            From::Time(time) => From::Time(earlier(time, CLOCKS_DIFFER)),
            from => from,
        };
        let first = self.streams.first_at(self.outcomes, from, self.end).await?;
        let from = first.unwrap_or(to).min(to);
        let between = self.streams.between(self.outcomes, (from, to), |delivery| {
            self.told.extend(self.about.outcome(&delivery, &self.ids));
            Go::On
        });
        between.await?;
        Ok(from)
    }

    /// Reads from the receipt on until all events are answered, and a while longer, and likewise from
    /// everything on that a person did about them: days later there is mostly nothing in between. Where
    /// nobody knows when that was, it is read to the end; and where an event was not answered, as what
    /// people do about that is told by lines that may have been lost.
    async fn by_acts(
        &mut self,
        (received, clocks): (Timestamp, Clocks),
        acts: Option<Vec<Timestamp>>,
    ) -> Result<(), BrokerError> {
        let to = self.end.offset + 1;
        let (Some(acts), Clocks::Differ(clocks_differ)) = (acts, clocks) else {
            self.all_since(clocks.since(received), to).await?;
            return Ok(());
        };
        let mut read_to = 0;
        let mut stopped_at = None;
        let acts = acts.into_iter().map(|act| (act, CLOCKS_DIFFER));
        for (begun, clocks_differ) in std::iter::once((received, clocks_differ)).chain(acts) {
            if self.is_act_told(begun) {
                continue;
            }
            let from = From::Time(earlier(begun, clocks_differ));
            let Some(from) = self.streams.first_at(self.outcomes, from, self.end).await? else {
                break;
            };
            let from = from.max(read_to);
            if from > read_to {
                self.read_until = self.read_until.or(stopped_at);
            }
            stopped_at = None;
            let mut quiet = Quiet::since(begun);
            let mut reached = from;
            // What is to come is behind what was told before.
            let told_before = self.told.len();
            let between = self.streams.between(self.outcomes, (from, to), |delivery| {
                reached += 1;
                if let Some(outcome) = self.about.outcome(&delivery, &self.ids) {
                    quiet = Quiet::since(outcome.at.max(begun));
                    self.told.push(outcome);
                }
                let is_told = self.told.len() > told_before;
                if quiet.is_long(&delivery) && is_told && are_answered(&self.ids, &self.told) {
                    stopped_at = Some(wire::dated(&delivery.properties).unwrap_or(quiet.since));
                    Go::Stop
                } else {
                    Go::On
                }
            });
            between.await?;
            // By the count of what was read, as offsets have gaps: not too far in any case.
            read_to = read_to.max(reached);
        }
        self.read_until = self.read_until.or(stopped_at);
        if self.read_until.is_some() && !are_answered(&self.ids, &self.told) {
            // What was passed over may tell how it went on.
            (self.read_until, self.told) = (None, Vec::new());
            self.all_since(From::Time(received), to).await?;
        }
        Ok(())
    }
}

impl Telling<'_> {
    /// Whether what a person did at this time, as the log of dead letters has it, was come upon already.
    fn is_act_told(&self, at: Timestamp) -> bool {
        let is_it = |outcome: &Outcome| {
            matches!(outcome.what, What::Replayed { .. } | What::Dropped { .. })
                && outcome.at.duration_until(at).abs() <= ACT_TAKES
        };
        self.told.iter().any(is_it)
    }
}

/// How long nothing was said of the events that are looked for.
#[derive(Debug)]
struct Quiet {
    since: Timestamp,
    lines: u32,
}

impl Quiet {
    fn since(since: Timestamp) -> Self {
        Self { since, lines: 0 }
    }

    /// Takes the next line in; whether it has been quiet for long. Asked for only now and then.
    fn is_long(&mut self, delivery: &Delivery) -> bool {
        self.lines += 1;
        if !self.lines.is_multiple_of(QUIET_LINES) {
            return false;
        }
        let dated = wire::dated(&delivery.properties);
        let is_late = dated.is_some_and(|dated| dated.duration_since(self.since) > BESIDE);
        is_late || self.lines >= QUIET_LINES_AT_MOST
    }
}

/// Whether each of these events is answered, as far as is told.
fn are_answered(ids: &HashSet<EventId>, told: &[Outcome]) -> bool {
    let mut reasons = Reasons::default();
    let mut courses: HashMap<EventId, Course> = HashMap::new();
    for outcome in told {
        let course = courses.entry(outcome.id).or_default();
        course.apply(outcome, &mut reasons);
    }
    let is_answered = |id| {
        courses
            .get(id)
            .is_some_and(|course| course.state(None) == State::Answered)
    };
    ids.iter().all(is_answered)
}

/// What is looked for, so that most of what is not it need not be read closely.
#[derive(Debug)]
struct About<'a> {
    whom: &'a Whom,
    /// How it stands in an outcome of the message.
    written: String,
}

impl<'a> About<'a> {
    fn new(whom: &'a Whom) -> Self {
        let written = match whom {
            Whom::Event(id) => id.to_string(),
            Whom::Message { message, .. } => format!("\"message_id\":\"{message}\""),
        };
        Self { whom, written }
    }

    fn is_one(&self) -> bool {
        matches!(self.whom, Whom::Event(_))
    }

    /// From when on it is looked for first.
    fn looked_for_from(&self) -> Option<Timestamp> {
        let time = self.whom.time()?;
        let before = if self.is_one() { CLOCKS_DIFFER } else { BEFORE };
        (time <= Timestamp::now()).then(|| earlier(time, before))
    }

    /// Until when; `None`: until the end.
    fn looked_for_until(&self) -> Option<Timestamp> {
        match self.whom {
            // It may have waited in a spool for days.
            Whom::Event(_) => None,
            Whom::Message { .. } => self.whom.time()?.checked_add(AFTER).ok(),
        }
    }

    fn is_event(&self, delivery: &Delivery) -> bool {
        match self.whom {
            Whom::Event(wanted) => id(delivery) == Some(*wanted),
            Whom::Message { message, .. } => {
                let headers = delivery.properties.headers().as_ref();
                let told = headers.and_then(|headers| wire::text(headers, "message-id"));
                told.as_deref() == Some(message.as_str())
                    && archived(delivery).is_some_and(|event| self.whom.is_event(&event))
            }
        }
    }

    /// The outcome, if it is about what is looked for.
    fn outcome(&self, delivery: &Delivery, ids: &HashSet<EventId>) -> Option<Outcome> {
        if !self.may_be_outcome(delivery, ids) {
            return None;
        }
        outcome(delivery).filter(|outcome| self.whom.is_outcome(outcome))
    }

    fn may_be_outcome(&self, delivery: &Delivery, ids: &HashSet<EventId>) -> bool {
        if self.is_one() || !ids.is_empty() {
            let id = delivery.properties.message_id().as_ref();
            return match self.whom {
                Whom::Event(_) => id.is_some_and(|id| id.as_str() == self.written),
                Whom::Message { .. } => id
                    .and_then(|id| id.as_str().parse().ok())
                    .is_some_and(|id| ids.contains(&id)),
            };
        }
        std::str::from_utf8(&delivery.data).is_ok_and(|line| line.contains(&self.written))
    }
}
