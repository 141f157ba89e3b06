//! Reading the archive together with what became of each event: lists, newest first, and the whole
//! story of one event. Looking changes nothing.
//!
//! Where an event stands is the fold of its outcomes that the audit goes by, too (`course`). What a
//! file cannot tell apart does not exist: whatever waits it knows by id. A broker tells only how many
//! jobs wait, so an event without an end may be [`Standing::Open`] there.

mod brief;
mod known;
mod sought;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_chatwork::webhook::Webhook;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::dead::DeadLetter;
use crate::event::{BotName, Event, EventId};
use crate::outcome::Outcome;
use crate::{Backend, Queue, QueueError, amqp, sqlite};

use self::brief::Brief;
pub use self::known::{Acts, Knowledge, Known};
pub use self::sought::Sought;

/// An id is made when its event is received, which may be noted a moment before that; and meanwhile somebody
/// may set the clock.
const ID_MADE_LATER: SignedDuration = SignedDuration::from_secs(60);

/// Which events. Empty fields choose everything.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// These events and no others.
    pub ids: Vec<EventId>,
    /// Received at this time or later.
    pub since: Option<Timestamp>,
    /// Received at this time or earlier.
    pub until: Option<Timestamp>,
    /// Of this room.
    pub room: Option<RoomId>,
    /// About this message.
    pub message: Option<MessageId>,
    /// Of this type, by its name.
    pub event_type: Option<String>,
    /// Sent to this bot.
    pub bot: Option<BotName>,
    /// Whose message was written by this account.
    pub sender: Option<AccountId>,
    /// Whose message has this in its text. What is no message is searched as it came.
    pub text: Option<Sought>,
    /// Standing in one of these ways.
    pub standings: Vec<Standing>,
}

impl Choice {
    /// Whether this is one of the events, wherever it stands.
    pub fn takes(&self, event: &Event) -> bool {
        fn is<T: PartialEq + ?Sized>(wanted: Option<&T>, found: Option<&T>) -> bool {
            wanted.is_none_or(|wanted| found == Some(wanted))
        }
        (self.ids.is_empty() || self.ids.contains(&event.id))
            && self.since.is_none_or(|since| event.received_at >= since)
            && self.until.is_none_or(|until| event.received_at <= until)
            && is(self.room.as_ref(), event.room_id.as_ref())
            && is(self.message.as_ref(), event.message_id.as_ref())
            && is(self.event_type.as_deref(), Some(event.event_type))
            && is(self.bot.as_ref(), Some(&event.bot))
            && self.takes_content(&event.body)
    }

    /// Last, as it is what costs most.
    fn takes_content(&self, body: &[u8]) -> bool {
        if self.sender.is_none() && self.text.is_none() {
            return true;
        }
        let webhook = Webhook::parse(body).ok();
        let message = webhook
            .as_ref()
            .and_then(|webhook| webhook.happening.message());
        if let Some(sender) = self.sender
            && message.is_none_or(|message| message.author != sender)
        {
            return false;
        }
        self.text.as_ref().is_none_or(|text| match message {
            Some(message) => text.is_in_message(&message.body),
            None => text.is_in(&String::from_utf8_lossy(body)),
        })
    }

    /// Whether events that stand like this are among those chosen. An open one may be waiting or
    /// unexplained, so whoever asks for either gets it; what was dropped was dead.
    pub fn takes_standing(&self, standing: Standing) -> bool {
        use Standing::{Dead, Dropped, Open, Unexplained, Waiting};
        let is_chosen = |chosen: &Standing| match standing {
            Open => matches!(chosen, Open | Waiting | Unexplained),
            Dropped => matches!(chosen, Dropped | Dead),
            _ => *chosen == standing,
        };
        self.standings.is_empty() || self.standings.iter().any(is_chosen)
    }

    /// Nothing chosen was received before this.
    pub(crate) fn begins(&self) -> Option<Timestamp> {
        let ids = self.ids.iter().map(|id| id.received_at());
        // An id that tells no time may be of any.
        let by_ids: Option<Vec<_>> = ids.collect();
        let by_ids = by_ids.and_then(|times| times.into_iter().min());
        let by_ids = by_ids.map(|time| time.checked_sub(ID_MADE_LATER).unwrap_or(time));
        match (self.since, by_ids) {
            (Some(since), Some(by_ids)) => Some(since.max(by_ids)),
            (since, by_ids) => since.or(by_ids),
        }
    }
}

/// Where an event stands. The JSON words are a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// A reply to its message is in the room.
    Answered,
    /// It waits to be worked on, or is being worked on.
    Waiting,
    /// Nothing was to be said.
    Ignored,
    /// Given up.
    Dead,
    /// Given up, and a person dropped the dead letter.
    Dropped,
    /// It has come to no end, and waits nowhere.
    Unexplained,
    /// It has come to no end, and a broker cannot tell whether it waits.
    Open,
}

impl Standing {
    /// All of them, in the order in which people want to read them.
    pub const ALL: [Self; 7] = [
        Self::Answered,
        Self::Waiting,
        Self::Ignored,
        Self::Dead,
        Self::Dropped,
        Self::Unexplained,
        Self::Open,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Waiting => "waiting",
            Self::Ignored => "ignored",
            Self::Dead => "dead",
            Self::Dropped => "dropped",
            Self::Unexplained => "unexplained",
            Self::Open => "open",
        }
    }
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event of the archive, and what became of it in short.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The event as it was received.
    pub event: Event,
    /// Where it stands.
    pub standing: Standing,
    /// The reason or the cause, where there is one.
    pub why: Option<String>,
    /// The reply in the room, where its id is known.
    pub reply_message_id: Option<MessageId>,
    /// How often a person has put it back in.
    pub replay: u32,
    /// The round that a person has begun, and that has no reply yet, however it stands: who puts it back
    /// does so in this round ([`PutBack::again`](crate::audit::PutBack::again)).
    pub open_round: Option<Timestamp>,
    /// The last thing that happened to it, by its name among the outcomes.
    pub last: Option<&'static str>,
    /// When that happened.
    pub last_at: Option<Timestamp>,
    /// Its dead letter, if there is one now.
    pub letter: Option<DeadLetter>,
    /// What became of it, in the order in which it was stored.
    pub outcomes: Vec<Outcome>,
}

/// Whose stories.
#[derive(Debug, Clone)]
pub enum Whom {
    /// One event.
    Event(EventId),
    /// Whatever came about one message.
    Message {
        /// In this room.
        room: Option<RoomId>,
        /// The message.
        message: MessageId,
        /// Sent to this bot.
        bot: Option<BotName>,
    },
}

impl Whom {
    pub(crate) fn is_outcome(&self, outcome: &Outcome) -> bool {
        match self {
            Self::Event(id) => outcome.id == *id,
            Self::Message { .. } => self.is(
                outcome.id,
                Some(&outcome.bot),
                outcome.room_id,
                outcome.message_id.as_ref(),
            ),
        }
    }

    pub(crate) fn is_event(&self, event: &Event) -> bool {
        self.is(
            event.id,
            Some(&event.bot),
            event.room_id,
            event.message_id.as_ref(),
        )
    }

    fn is_letter(&self, letter: &DeadLetter) -> bool {
        self.is(
            letter.id,
            Some(&letter.bot),
            letter.room_id,
            letter.message_id.as_ref(),
        )
    }

    fn is(
        &self,
        event: EventId,
        its_bot: Option<&BotName>,
        its_room: Option<RoomId>,
        its_message: Option<&MessageId>,
    ) -> bool {
        match self {
            Self::Event(id) => event == *id,
            Self::Message { room, message, bot } => {
                its_message == Some(message)
                    && room.is_none_or(|room| its_room == Some(room))
                    && bot.as_ref().is_none_or(|bot| its_bot == Some(bot))
            }
        }
    }

    /// When it was received or, for a message, sent; as far as its id tells.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        match self {
            Self::Event(id) => id.received_at(),
            Self::Message { message, .. } => {
                Timestamp::from_millisecond(message.seems_sent_at()?).ok()
            }
        }
    }
}

/// How much is read for a story. A file is read by its indexes, and so to the end in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// To look, and not to act by it: once the events have all come to an end and it is quiet about them,
    /// a broker's outcomes are read on only from where its log of dead letters notes that something more
    /// happened to them. Missed may be what that log has lost the note of, and a job that was in the queue
    /// twice and came up much later: [`Story::read_until`] says up to when all was read. Several events
    /// about one message are found if they are near each other in the archive.
    Ended,
    /// All that was written since.
    End,
}

/// Everything that is known of one event.
#[derive(Debug, Clone)]
pub struct Story {
    /// The event.
    pub id: EventId,
    /// The event as it was received, where it is archived or waits.
    pub event: Option<Event>,
    /// What became of it, in time order.
    pub outcomes: Vec<Outcome>,
    /// Its dead letter, if there is one now.
    pub letter: Option<DeadLetter>,
    /// Where it stands.
    pub standing: Standing,
    /// The reason or the cause, where there is one.
    pub why: Option<String>,
    /// The reply in the room, where its id is known.
    pub reply_message_id: Option<MessageId>,
    /// How often a person has put it back in.
    pub replay: u32,
    /// The round that a person has begun, and that has no reply yet; see [`Listed::open_round`].
    pub open_round: Option<Timestamp>,
    /// Up to when its outcomes were read without a gap; `None`: all of them were, to the end.
    pub read_until: Option<Timestamp>,
}

/// What a back end found of events that a story is to be told of.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) events: Vec<Event>,
    /// In the order in which they were stored. One may be there twice.
    pub(crate) outcomes: Vec<Outcome>,
    /// Up to when the outcomes were read without a gap; `None`: to the end.
    pub(crate) read_until: Option<Timestamp>,
}

/// What the queue says of the jobs in it.
#[derive(Debug)]
pub(crate) enum Waits {
    /// Those of these events that are looked at have one.
    These(HashSet<EventId>),
    /// There are so many, of whichever events.
    SoMany(u64),
}

/// Some of the archive's events, newest first.
#[derive(Debug)]
pub(crate) struct Page {
    /// Those that [`Choice::takes`].
    pub(crate) events: Vec<Archived>,
    /// What became of the others that were looked at; `None`: that was not read.
    pub(crate) beside: Option<Vec<(EventId, Vec<Outcome>)>>,
    pub(crate) waits: Waits,
    /// How many were looked at to find them.
    pub(crate) looked_through: u64,
}

/// An event and what became of it, in the order in which it was stored.
#[derive(Debug)]
pub(crate) struct Archived {
    pub(crate) event: Event,
    pub(crate) outcomes: Vec<Outcome>,
}

impl Queue {
    /// The archive's events, newest first, at most so many of them if there is a limit. Events that are
    /// not in the archive, because there is none or it has forgotten them, are not among them.
    ///
    /// Memory does not grow with what is passed over. Dead letters are kept whole meanwhile, without
    /// what they hold.
    ///
    /// On a broker, events come in the order of their arrival in the archive; those that waited in a spool
    /// arrived later than they were received. While younger events are looked at, what became of older
    /// ones comes up as well: it is kept until their turn, some hundred bytes each.
    pub fn events(&self, choice: Choice, limit: Option<u64>) -> Events {
        let choice = Arc::new(choice);
        let pages = match &self.0 {
            Backend::Sqlite(store) => Pages::Sqlite(store.event_pages(choice.clone())),
            Backend::Amqp(broker) => Pages::Amqp(Box::new(broker.event_pages(choice.clone()))),
        };
        Events {
            queue: self.clone(),
            choice,
            left: limit.unwrap_or(u64::MAX),
            pages,
            letters: None,
            ready: VecDeque::new(),
            looked_through: Arc::default(),
            open: 0,
            listed: HashSet::new(),
        }
    }

    /// What is known of the events so named, oldest first; none where nothing is.
    pub async fn stories(&self, whom: &Whom, reach: Reach) -> Result<Vec<Story>, QueueError> {
        // In this order: what is put back or comes to an end meanwhile the outcomes tell.
        let letters = self.letters(|letter| whom.is_letter(letter)).await?;
        let waiting = self.waiting_now().await?;
        let found = match &self.0 {
            Backend::Sqlite(store) => store.find(whom.clone()).await?,
            Backend::Amqp(broker) => {
                let dead = letters.keys().copied().collect();
                Box::pin(broker.find(whom, reach, dead)).await?
            }
        };
        Ok(stories(found, letters, &waiting))
    }

    /// The dead letters that are wanted, by event; of two the younger one.
    async fn letters(
        &self,
        is_wanted: impl Fn(&DeadLetter) -> bool,
    ) -> Result<HashMap<EventId, DeadLetter>, QueueError> {
        let mut letters = HashMap::new();
        let mut read = self.dead_letters().read().await?;
        while let Some(letter) = read.next().await? {
            if is_wanted(&letter) {
                letters.insert(letter.id, letter);
            }
        }
        Ok(letters)
    }

    async fn waiting_now(&self) -> Result<Waits, QueueError> {
        match &self.0 {
            Backend::Sqlite(store) => Ok(Waits::These(store.waiting_anywhere().await?)),
            Backend::Amqp(_) => Ok(Waits::SoMany(self.jobs_in_numbers().await?)),
        }
    }
}

/// How many events [`Events`] has looked at; it goes on counting.
#[derive(Debug, Clone)]
pub struct LookedThrough(Arc<AtomicU64>);

impl LookedThrough {
    /// So many by now.
    pub fn so_far(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Events of the archive, newest first.
#[derive(Debug)]
pub struct Events {
    queue: Queue,
    choice: Arc<Choice>,
    left: u64,
    pages: Pages,
    /// Read before the first page.
    letters: Option<HashMap<EventId, DeadLetter>>,
    ready: VecDeque<Listed>,
    looked_through: Arc<AtomicU64>,
    /// How many without an end there were so far, on a broker.
    open: u64,
    /// Those that were listed, on a broker, whose archive may have copies far apart: the part of their ids
    /// that is random.
    listed: HashSet<u64>,
}

#[derive(Debug)]
enum Pages {
    Sqlite(sqlite::EventPages),
    Amqp(Box<amqp::EventPages>),
}

impl Events {
    /// The next one; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Listed>, QueueError> {
        loop {
            if self.left == 0 {
                return Ok(None);
            }
            if let Some(listed) = self.ready.pop_front() {
                self.left -= 1;
                return Ok(Some(listed));
            }
            if self.letters.is_none() {
                self.letters = Some(self.queue.letters(|_| true).await?);
            }
            let page = match &mut self.pages {
                Pages::Sqlite(pages) => pages.next().await?,
                Pages::Amqp(pages) => Box::pin(pages.next(&self.queue)).await?,
            };
            match page {
                Some(page) => self.take_in(page),
                None => return Ok(None),
            }
        }
    }

    /// How many events are looked at, to be read while [`Events::next`] is under way: between two events
    /// that are chosen, a million may be passed over.
    pub fn looked_through(&self) -> LookedThrough {
        LookedThrough(self.looked_through.clone())
    }

    fn take_in(&mut self, page: Page) {
        self.looked_through
            .fetch_add(page.looked_through, Ordering::Relaxed);
        let letters = self.letters.as_mut();
        let letter = |id: EventId| letters.as_ref()?.get(&id).cloned();
        let now = Timestamp::now();
        let beside = match &page.beside {
            Some(beside) => {
                let open = beside
                    .iter()
                    .filter(|(id, outcomes)| Brief::of(outcomes, letter(*id).as_ref()).is_open());
                open.count() as u64
            }
            None if page.looked_through == 0 => 0,
            // As many as can be.
            None => u64::MAX,
        };
        let mut briefs = Vec::with_capacity(page.events.len());
        for archived in page.events {
            let is_copied = matches!(self.pages, Pages::Amqp(_));
            if is_copied && !self.listed.insert(archived.event.id.random_part()) {
                continue;
            }
            let letter = letter(archived.event.id);
            let brief = Brief::of(&archived.outcomes, letter.as_ref());
            self.open = self.open.saturating_add(brief.is_open().into());
            briefs.push((archived, brief, letter));
        }
        self.open = self.open.saturating_add(beside);
        for (archived, brief, letter) in briefs {
            let Archived { event, outcomes } = archived;
            let standing = brief.standing(&event, &page.waits, self.open, now);
            if self.choice.takes_standing(standing) {
                self.ready.push_back(Listed {
                    standing,
                    why: brief.why,
                    reply_message_id: brief.reply_message_id,
                    replay: brief.replay.max(event.replay),
                    open_round: brief.open_round,
                    last: brief.last.map(|(name, _)| name),
                    last_at: brief.last.map(|(_, at)| at),
                    event,
                    letter,
                    outcomes,
                });
            }
        }
    }
}

fn stories(found: Found, mut letters: HashMap<EventId, DeadLetter>, waits: &Waits) -> Vec<Story> {
    let mut outcomes: HashMap<EventId, Vec<Outcome>> = HashMap::new();
    for outcome in found.outcomes {
        let told = outcomes.entry(outcome.id).or_default();
        // A line may be stored twice.
        if !told.contains(&outcome) {
            told.push(outcome);
        }
    }
    let mut events: HashMap<EventId, Event> = HashMap::new();
    for event in found.events {
        events.entry(event.id).or_insert(event);
    }
    let mut ids: Vec<EventId> = events
        .keys()
        .chain(outcomes.keys())
        .chain(letters.keys())
        .copied()
        .collect();
    ids.sort_unstable();
    ids.dedup();
    let now = Timestamp::now();
    let read_until = found.read_until;
    let stories = ids.into_iter().map(|id| {
        let event = events.remove(&id);
        let mut outcomes = outcomes.remove(&id).unwrap_or_default();
        let letter = letters.remove(&id);
        let brief = Brief::of(&outcomes, letter.as_ref());
        let received_at = event
            .as_ref()
            .map(|event| event.received_at)
            .or_else(|| id.received_at())
            .unwrap_or(Timestamp::MIN);
        // More may be open than this one, and nobody has counted them.
        let open = u64::MAX;
        let standing = brief.standing_of(id, received_at, waits, open, now);
        // Who wrote them had clocks of their own, and what is best effort is stored late.
        outcomes.sort_by_key(|outcome| outcome.at);
        Story {
            id,
            outcomes,
            standing,
            why: brief.why,
            reply_message_id: brief.reply_message_id,
            replay: event
                .as_ref()
                .map_or(brief.replay, |event| brief.replay.max(event.replay)),
            open_round: brief.open_round,
            read_until,
            event,
            letter,
        }
    });
    stories.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_chosen_by_its_id_though_that_was_made_after_it_was_received() {
        let received_at = Timestamp::now();
        // An id tells milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(2));
        let choice = Choice {
            ids: vec![EventId::fresh()],
            ..Choice::default()
        };
        assert!(choice.begins().is_some_and(|begins| begins <= received_at));
    }

    #[test]
    fn who_asks_for_a_state_also_gets_what_may_be_meant() {
        use Standing::{Answered, Dead, Dropped, Open, Unexplained, Waiting};
        let table: [(&[Standing], &[Standing]); 8] = [
            (&[], &Standing::ALL),
            (&[Answered], &[Answered]),
            (&[Waiting], &[Waiting, Open]),
            (&[Unexplained], &[Unexplained, Open]),
            (&[Waiting, Unexplained], &[Waiting, Unexplained, Open]),
            (&[Open], &[Open]),
            (&[Dead], &[Dead, Dropped]),
            (&[Dropped], &[Dropped]),
        ];
        for (asked_for, taken) in table {
            let choice = Choice {
                standings: asked_for.to_vec(),
                ..Choice::default()
            };
            for standing in Standing::ALL {
                let expected = taken.contains(&standing);
                let is_taken = choice.takes_standing(standing);
                assert_eq!(is_taken, expected, "{standing:?} by {asked_for:?}");
            }
        }
    }
}
