//! The archive, page by page, newest first, with what became of each event.
//!
//! A list that begins with what is newest goes back in steps, the last hour, then four more, and so on, and
//! within them by so many messages that they can be put in order. Of the outcomes as much is read, likewise
//! going back, as the events that are listed can have: so a list of the newest few costs little, and a long
//! one reads everything once.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::super::stream::{CLOCKS_DIFFER, From};
use super::super::{Broker, BrokerError, wire};
use super::find::Clocks;
use super::{End, Go, Streams, archived, earlier, end_of, id, outcome};
use crate::event::EventId;
use crate::events::{Archived, Choice, Page, Waits};
use crate::outcome::Outcome;
use crate::{Queue, QueueError};

/// The first step back, and by how much each is longer than the one before.
const FIRST_STEP: SignedDuration = SignedDuration::from_hours(1);
const LONGER: i32 = 4;
/// So many events are held at once: a few MiB. The first time fewer, as few may be enough.
const HELD: i64 = 4_000;
const HELD_AT_FIRST: i64 = 100;
/// So many lines of the outcomes are read at once.
const OUTCOMES_AT_ONCE: i64 = 20_000;
/// So many events that are asked for by their ids are looked for one by one.
const ONE_BY_ONE: usize = 32;

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
    /// The outcomes have been read from here on, the last time this piece of them.
    outcomes_to: i64,
    piece: Piece,
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
        let to = archive.next();
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
            outcomes_to: outcomes.map_or(0, |end| end.next()),
            piece: Piece::before_the_first(),
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
        self.passed.extend(ids.iter().map(|id| id.random_part()));
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

    /// Reads back what can have become of these events, the oldest of which was received then. What is
    /// about events that were passed over is not kept.
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
        let mut first = None;
        // That clocks may differ is a reason to look further back, but not past so much else.
        while self.piece.newest >= oldest || self.piece.is_about(chosen.union(others)) {
            let outcomes = broker.names().outcomes();
            let first = match first {
                Some(first) => first,
                None => {
                    let from = From::Time(since);
                    let found = self.streams.first_at(&outcomes, from, end).await?;
                    *first.insert(found.unwrap_or(self.outcomes_to))
                }
            };
            if first >= self.outcomes_to {
                break;
            }
            let from = first.max(self.outcomes_to - OUTCOMES_AT_ONCE);
            self.piece = self
                .read_outcomes_from(from, &outcomes, chosen, others)
                .await?;
            if from == first {
                // Not a whole one, so it shows nothing about what lies before it.
                self.piece.newest = Timestamp::MAX;
            }
        }
        Ok(())
    }

    /// Reads back to this offset.
    async fn read_outcomes_from(
        &mut self,
        from: i64,
        outcomes: &str,
        chosen: &HashSet<EventId>,
        others: &HashSet<EventId>,
    ) -> Result<Piece, BrokerError> {
        // Nothing that was stored before the current step was received later, but for clocks.
        let still_to_come = self
            .step_at
            .checked_add(CLOCKS_DIFFER)
            .unwrap_or(Timestamp::MAX);
        let (to_come, in_step) = (self.step_from > self.begin, self.to > self.step_from);
        let mut read: HashMap<EventId, Vec<Outcome>> = HashMap::new();
        let passed = &self.passed;
        let mut piece = Piece {
            newest: Timestamp::MIN,
            events: HashSet::new(),
        };
        self.streams
            .between(outcomes, (from, self.outcomes_to), |delivery| {
                let dated = wire::dated(&delivery.properties);
                piece.newest = piece.newest.max(dated.unwrap_or(Timestamp::MIN));
                let Some(id) = id(&delivery) else {
                    return Go::On;
                };
                piece.events.insert(id.random_part());
                let comes = || {
                    let received_at = id.received_at().unwrap_or(Timestamp::MIN);
                    let is_older = received_at <= still_to_come;
                    (to_come && is_older) || (in_step && !passed.contains(&id.random_part()))
                };
                let is_other = others.contains(&id);
                if (is_other || chosen.contains(&id) || comes())
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
        Ok(piece)
    }
}

/// A piece of the outcomes that was read.
#[derive(Debug)]
struct Piece {
    /// When the youngest line was written.
    newest: Timestamp,
    /// Which events it is about, by the part of their ids that is random.
    events: HashSet<u64>,
}

impl Piece {
    /// There is nothing before the end that was not read.
    fn before_the_first() -> Self {
        Self {
            newest: Timestamp::MAX,
            events: HashSet::new(),
        }
    }

    fn is_about<'a>(&self, mut events: impl Iterator<Item = &'a EventId>) -> bool {
        events.any(|id| self.events.contains(&id.random_part()))
    }
}
