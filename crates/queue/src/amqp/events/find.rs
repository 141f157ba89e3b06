//! Events that are asked for by name, and their stories: found near the time that their ids tell, and read
//! for as long as something may still be said of them.

use std::collections::{HashMap, HashSet, VecDeque};

use deadpool_lapin::lapin;
use jiff::{SignedDuration, Timestamp};
use lapin::message::Delivery;

use super::super::letters::{Note, Noted, Notes};
use super::super::stream::{CLOCKS_DIFFER, From};
use super::super::{Broker, BrokerError, wire};
use super::{End, Go, Streams, archived, earlier, end_of, id, outcome};
use crate::course::{Course, Reasons, State};
use crate::event::{Event, EventId};
use crate::events::{Found, Reach, Whom};
use crate::outcome::{Outcome, What};

/// A message is looked for among what was stored this long before it was sent, as its id seems to
/// tell, and in the day after it, before everything is looked through.
const BEFORE: SignedDuration = SignedDuration::from_mins(10);
const AFTER: SignedDuration = SignedDuration::from_hours(24);
/// Where an event is found in the archive this close to its own time, its ingress has the broker's time.
/// Not more: of a rush of thousands a second all that is read before it is in vain.
const CLOCKS_AGREE: SignedDuration = SignedDuration::from_secs(1);
/// So long after its own time it is looked for there, and then again from earlier on: it may have waited
/// in a spool, or be where another clock says.
const NEAR: SignedDuration = SignedDuration::from_secs(5);
/// Several events about one message come soon after each other: the archive is read on so long after the
/// first, and so many messages at least, and at most, however many come in that time.
const BESIDE: SignedDuration = SignedDuration::from_mins(10);
const BESIDE_AT_LEAST: u32 = 20_000;
const BESIDE_AT_MOST: u32 = 5 * BESIDE_AT_LEAST;
/// So far apart are the note of something in the log of dead letters and its outcome: stores and
/// acknowledgements that take their time.
const NOTE_TAKES: SignedDuration = SignedDuration::from_secs(10);
/// Once an event has come to an end, so much more is read of the outcomes, in lines, before it is looked
/// whether it has been quiet about it for [`BESIDE`]; and so much at most, where very much is going on.
const QUIET_LINES: u32 = 1_000;
const QUIET_LINES_AT_MOST: u32 = 50_000;

/// How the clock by which an event was received stands to the broker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clocks {
    /// They differ by this much at most.
    Differ(SignedDuration),
    /// The event lies nowhere near its own time.
    Unknown,
}

impl Clocks {
    /// When it began that the first of these events was received, by whichever clock is behind: a message
    /// was sent by the time in its id, if it was found by that.
    fn begun(self, received: Timestamp, whom: &Whom) -> Timestamp {
        match (self, whom.time()) {
            (Self::Differ(_), Some(time)) => received.min(time),
            _ => received,
        }
    }

    /// From where on to read what became of an event that was received at this time.
    fn since(self, received: Timestamp) -> From {
        match self {
            Self::Differ(_) => From::Time(received),
            Self::Unknown => From::First,
        }
    }
}

impl Broker {
    /// An event of the archive.
    pub(super) async fn find_event(
        &self,
        streams: &Streams,
        id: EventId,
    ) -> Result<(Option<Event>, Clocks), BrokerError> {
        let whom = Whom::Event(id);
        let about = About::new(&whom);
        let (read, clocks) = self.find_events(streams, &about, Reach::End).await?;
        Ok((read.events.into_iter().next(), clocks))
    }

    /// All that became of these events, in the order in which it was stored.
    pub(super) async fn became(
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
        let between = streams.between(&outcomes, (first, end.next()), |delivery| {
            if let Some(told) = id(&delivery).and_then(|id| became.get_mut(&id)) {
                told.extend(outcome(&delivery));
            }
            Go::On
        });
        between.await?;
        Ok(became)
    }

    /// What the streams have of the events so named. Of these there are dead letters now.
    pub(crate) async fn find(
        &self,
        whom: &Whom,
        reach: Reach,
        letters: HashSet<EventId>,
    ) -> Result<Found, BrokerError> {
        let streams = Streams::open(self).await?;
        let about = About::new(whom);
        let outcomes = self.names().outcomes();
        // At once, as it takes a while until a stream that is empty is known to be.
        let ((read, clocks), end, log) = tokio::try_join!(
            self.find_events(&streams, &about, reach),
            end_of(self, &outcomes),
            self.log_of_letters(reach),
        )?;
        let mut found = Found {
            events: read.events,
            read_until: read.stopped_at,
            ..Found::default()
        };
        let Some(end) = end else {
            return Ok(found);
        };
        let mut telling = Telling {
            streams: &streams,
            outcomes: &outcomes,
            end,
            about: &about,
            ids: found.events.iter().map(|event| event.id).collect(),
            letters,
            to_come: VecDeque::new(),
            told: Vec::new(),
            read_until: None,
        };
        let received = found.events.iter().map(|event| event.received_at).min();
        match (received, about.looked_for_from()) {
            (Some(received), _) => {
                let begun = clocks.begun(received, about.whom);
                let notes = self.notes(&streams, log, &telling.ids, begun).await?;
                telling.by_notes(begun, clocks, notes).await?;
            }
            (None, Some(time)) => {
                let read_from = telling.all_since(From::Time(time), end.next()).await?;
                // The time in a message's id may mean nothing, and that in an event's may be of another clock.
                if telling.told.is_empty() {
                    telling.all_since(From::First, read_from).await?;
                }
            }
            (None, None) => drop(telling.all_since(From::First, end.next()).await?),
        }
        found.outcomes = telling.told;
        // Of an event that was not found nothing is told either.
        found.read_until = telling.read_until.into_iter().chain(read.stopped_at).min();
        Ok(found)
    }

    /// The log of dead letters, where stories are read by it.
    async fn log_of_letters(&self, reach: Reach) -> Result<Log, BrokerError> {
        if reach == Reach::End || !self.inner.connections.has_letters() {
            return Ok(Log::Unused);
        }
        match end_of(self, &self.names().letters()).await {
            Ok(Some(end)) => Ok(Log::Until(end)),
            Ok(None) => Ok(Log::Empty),
            // May not be read, or is no stream.
            Err(BrokerError::Refused { .. } | BrokerError::Unusable(_)) => Ok(Log::Unused),
            Err(error) => Err(error),
        }
    }

    /// What the log of dead letters notes of these events, oldest first; `None`: it is not asked.
    async fn notes(
        &self,
        streams: &Streams,
        log: Log,
        ids: &HashSet<EventId>,
        since: Timestamp,
    ) -> Result<Option<Vec<Note>>, BrokerError> {
        let end = match log {
            Log::Unused => return Ok(None),
            Log::Empty => return Ok(Some(Vec::new())),
            Log::Until(end) => end,
        };
        let letters = self.names().letters();
        let since = From::Time(earlier(since, CLOCKS_DIFFER));
        let Some(from) = streams.first_at(&letters, since, end).await? else {
            return Ok(Some(Vec::new()));
        };
        let mut notes = Notes::about(ids);
        let between = streams.between(&letters, (from, end.next()), |line| {
            notes.take_in(&line);
            Go::On
        });
        between.await?;
        Ok(Some(notes.in_order()))
    }

    /// The events, and how their clocks stand to the broker's.
    async fn find_events(
        &self,
        streams: &Streams,
        about: &About<'_>,
        reach: Reach,
    ) -> Result<(Read, Clocks), BrokerError> {
        let nothing = (Read::default(), Clocks::Differ(CLOCKS_DIFFER));
        if !self.keeps_archive() {
            return Ok(nothing);
        }
        let archive = self.names().archive();
        let Some(end) = end_of(self, &archive).await? else {
            return Ok(nothing);
        };
        let search = Search {
            streams,
            archive: &archive,
            end,
            about,
            reach,
        };
        search.run().await
    }
}

/// The log of dead letters as it is when a story is asked for.
#[derive(Debug, Clone, Copy)]
enum Log {
    /// There is none, or everything is read without it.
    Unused,
    Empty,
    Until(End),
}

/// Looking for events in the archive.
#[derive(Debug)]
struct Search<'a> {
    streams: &'a Streams,
    archive: &'a str,
    end: End,
    about: &'a About<'a>,
    reach: Reach,
}

impl Search<'_> {
    async fn run(&self) -> Result<(Read, Clocks), BrokerError> {
        let near = self.near().await?;
        if !near.events.is_empty() {
            return Ok((near, Clocks::Differ(CLOCKS_AGREE)));
        }
        let (around, looked_from) = self.around().await?;
        if !around.events.is_empty() {
            return Ok((around, Clocks::Differ(CLOCKS_DIFFER)));
        }
        // The time in a message's id may mean nothing, and that in an event's may be of another clock.
        Ok((self.before(looked_from).await?, Clocks::Unknown))
    }

    /// An event, or a message, is mostly where its id says, and does not have to wait for what is a minute
    /// older.
    async fn near(&self) -> Result<Read, BrokerError> {
        let time = self.about.whom.time();
        let Some(time) = time.filter(|time| *time <= Timestamp::now()) else {
            return Ok(Read::default());
        };
        let Some(from) = self.first_at(earlier(time, CLOCKS_AGREE)).await? else {
            return Ok(Read::default());
        };
        let until = time.checked_add(NEAR).ok();
        let mut read = self.read((from, self.end.next()), until).await?;
        // The first about a message comes at once, so one that came later, by its own clock, may not be it.
        let is_late = |first: &Event| until.is_some_and(|until| first.received_at > until);
        if !self.about.is_one() && read.events.first().is_some_and(is_late) {
            read.events.clear();
        }
        Ok(read)
    }

    /// As far away as clocks may differ, and as a message may be told late. Also tells from where on that
    /// was; from there on nothing is left to be looked at.
    async fn around(&self) -> Result<(Read, i64), BrokerError> {
        let end = self.end.next();
        let Some(time) = self.about.looked_for_from() else {
            return Ok((Read::default(), end));
        };
        let Some(from) = self.first_at(time).await? else {
            return Ok((Read::default(), end));
        };
        let until = self.about.looked_for_until();
        let read = self.read((from, end), until).await?;
        let looked_from = if read.is_given_up { end } else { from };
        Ok((read, looked_from))
    }

    /// In everything up to this offset.
    async fn before(&self, to: i64) -> Result<Read, BrokerError> {
        let streams = self.streams;
        let first = streams.first_at(self.archive, From::First, self.end);
        match first.await? {
            Some(first) => self.read((first, to), None).await,
            None => Ok(Read::default()),
        }
    }

    async fn first_at(&self, time: Timestamp) -> Result<Option<i64>, BrokerError> {
        let from = From::Time(time);
        self.streams.first_at(self.archive, from, self.end).await
    }

    /// Reads what is between these offsets until something is found, and a while longer, as about a message
    /// there may be others beside it. Given up where nothing is found among what was received until then.
    async fn read(
        &self,
        between: (i64, i64),
        until: Option<Timestamp>,
    ) -> Result<Read, BrokerError> {
        let mut read = Read::default();
        let mut beside = 0;
        let look = |delivery: Delivery| {
            if self.about.is_event(&delivery) {
                read.events.extend(archived(&delivery));
            }
            let dated = wire::dated(&delivery.properties);
            let is_enough = match read.events.first() {
                Some(_) if self.about.is_one() => true,
                Some(found) => {
                    beside += 1;
                    let is_later =
                        |dated: Timestamp| dated.duration_since(found.received_at) > BESIDE;
                    let is_far = beside > BESIDE_AT_LEAST && dated.is_some_and(is_later);
                    let is_enough =
                        (is_far || beside > BESIDE_AT_MOST) && self.reach == Reach::Ended;
                    if is_enough {
                        read.stopped_at = Some(dated.unwrap_or(found.received_at));
                    }
                    is_enough
                }
                None => {
                    read.is_given_up = until.zip(dated).is_some_and(|(until, dated)| dated > until);
                    read.is_given_up
                }
            };
            if is_enough { Go::Stop } else { Go::On }
        };
        self.streams.between(self.archive, between, look).await?;
        Ok(read)
    }
}

/// What was found.
#[derive(Debug, Default)]
struct Read {
    events: Vec<Event>,
    /// There was nothing up to the time until which it was looked for.
    is_given_up: bool,
    /// Up to when others about the same message were looked for; `None`: to the end, or there is but one.
    stopped_at: Option<Timestamp>,
}

/// The outcomes of the events that are looked for.
#[derive(Debug)]
struct Telling<'a> {
    streams: &'a Streams,
    outcomes: &'a str,
    end: End,
    about: &'a About<'a>,
    ids: HashSet<EventId>,
    /// Those of which there are dead letters now.
    letters: HashSet<EventId>,
    /// What is noted of them and was not looked up yet.
    to_come: VecDeque<Note>,
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

    /// Reads from the receipt on until all events have come to an end, and a while longer, and likewise
    /// from everything on that is noted of them: days later there is mostly nothing in between. Without
    /// notes it is read to the end; and so it is where an event has come to none, was given up and nobody
    /// knows what became of its letter, or where something is noted that is not found.
    async fn by_notes(
        &mut self,
        begun: Timestamp,
        clocks: Clocks,
        notes: Option<Vec<Note>>,
    ) -> Result<(), BrokerError> {
        let to = self.end.next();
        let (Some(notes), Clocks::Differ(by)) = (notes, clocks) else {
            self.all_since(clocks.since(begun), to).await?;
            return Ok(());
        };
        self.to_come = notes.into();
        let first = self.first_at(earlier(begun, by)).await?;
        let (mut read_to, mut stopped_at) = self.until_quiet(first, begun).await?;
        let receipt = self.told.first().map(|outcome| &outcome.what);
        if by < CLOCKS_DIFFER && !matches!(receipt, Some(What::Received { .. })) {
            // What came before may have been stored before, by other clocks than were taken for right.
            let told = std::mem::take(&mut self.told);
            self.all_since(From::Time(begun), first).await?;
            self.told.extend(told);
        }
        let mut is_missed = false;
        while let Some(note) = self.to_come.pop_front() {
            if self.is_told(note) {
                continue;
            }
            let from = self.first_at(earlier(note.at, CLOCKS_DIFFER)).await?;
            let from = from.max(read_to);
            if from > read_to {
                self.read_until = self.read_until.or(stopped_at);
            }
            (read_to, stopped_at) = self.until_quiet(from, note.at).await?;
            is_missed |= !self.is_told(note);
        }
        self.read_until = self.read_until.or(stopped_at);
        if self.read_until.is_some() && (is_missed || !self.have_ended()) {
            // What was passed over may tell how it went on.
            (self.read_until, self.told) = (None, Vec::new());
            self.all_since(From::Time(begun), to).await?;
        }
        Ok(())
    }

    /// The first that was stored at this time or later; the end, if none was.
    async fn first_at(&self, time: Timestamp) -> Result<i64, BrokerError> {
        let from = From::Time(time);
        let first = self.streams.first_at(self.outcomes, from, self.end).await?;
        Ok(first.unwrap_or(self.end.next()))
    }

    /// Reads on from this offset, as something happened then, until something is told, all events have come
    /// to an end, and it is quiet about them. Tells up to which offset, and at which time, if that is not
    /// the end.
    async fn until_quiet(
        &mut self,
        from: i64,
        begun: Timestamp,
    ) -> Result<(i64, Option<Timestamp>), BrokerError> {
        let to = self.end.next();
        let mut stopped_at = None;
        let mut quiet = Quiet::since(begun);
        let mut reached = from;
        let told_before = self.told.len();
        let between = self.streams.between(self.outcomes, (from, to), |delivery| {
            // By the count of what was read, as offsets have gaps: not too far in any case.
            reached += 1;
            if let Some(outcome) = self.about.outcome(&delivery, &self.ids) {
                quiet = Quiet::since(outcome.at.max(begun));
                self.told.push(outcome);
            }
            let is_told = self.told.len() > told_before;
            if quiet.is_long(&delivery) && is_told && self.have_ended() {
                stopped_at = Some(wire::dated(&delivery.properties).unwrap_or(quiet.since));
                Go::Stop
            } else {
                Go::On
            }
        });
        between.await?;
        Ok((reached, stopped_at))
    }

    /// Whether what is noted was come upon already.
    fn is_told(&self, note: Note) -> bool {
        let is_it = |outcome: &Outcome| {
            let fits = match note.what {
                Noted::Buried => matches!(outcome.what, What::Dead { .. }),
                Noted::Taken => {
                    matches!(outcome.what, What::Replayed { .. } | What::Dropped { .. })
                }
                Noted::PutBack => matches!(outcome.what, What::Replayed { .. }),
            };
            fits && outcome.id == note.id && outcome.at.duration_until(note.at).abs() <= NOTE_TAKES
        };
        self.told.iter().any(is_it)
    }

    /// Whether each of the events has come to an end, as far as is told. One that was given up has if its
    /// dead letter is there, or if it is noted when somebody took it.
    fn have_ended(&self) -> bool {
        let mut reasons = Reasons::default();
        let mut courses: HashMap<EventId, Course> = HashMap::new();
        for outcome in &self.told {
            let course = courses.entry(outcome.id).or_default();
            course.apply(outcome, &mut reasons);
        }
        let is_taken = |id: &EventId| {
            let mut notes = self.to_come.iter();
            notes.any(|note| note.id == *id && note.what == Noted::Taken)
        };
        let has_ended = |id| match courses.get(id).map(|course| course.state(None)) {
            Some(State::Answered | State::Ignored(_) | State::Dropped) => true,
            Some(State::Dead(_)) => self.letters.contains(id) || is_taken(id),
            Some(State::Open) | None => false,
        };
        self.ids.iter().all(has_ended)
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
