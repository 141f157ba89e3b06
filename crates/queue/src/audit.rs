//! `chickwork audit`: what came in, held against what became of it. Looking changes nothing.
//!
//! An event that is neither at an end nor waiting anywhere is unexplained. What has come to an end the
//! outcomes prove, as they are stored before the event is gone ([`Outcome::is_proof`]). What waits a
//! file tells by id; a broker tells how many jobs wait, but not which. How many are in the hands of
//! workers these tell themselves ([`Report::holds`]), a little late. So on a broker it is looked again
//! until nothing is open that is not known to wait.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use chickwork_chatwork::id::{MessageId, RoomId};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::time::Instant;

use crate::amqp::BrokerError;
use crate::content::Content;
use crate::course::{Course, Reasons, State};
use crate::event::{AnswerKey, BotName, Event, EventId};
use crate::job::Cause;
use crate::outcome::{Outcome, Reason, What};
use crate::report::{Depth, Report};
use crate::{Backend, Queue, QueueError};

/// Between two looks.
const AGAIN: Duration = Duration::from_secs(1);
/// So often it is looked when ids tell what waits: what happened during one look is seen by the next.
const EXACT_LOOKS: u32 = 2;
/// The next look goes so far back behind the last one: what was dated before it may be stored after it.
const OVERLAP: SignedDuration = SignedDuration::from_secs(60);

/// So long a worker is believed that it holds what it said. It says so three times as often, and what
/// was held by one that is gone is in its queue again.
const BELIEVED: SignedDuration = SignedDuration::from_secs(15);

/// How an event is put back in.
#[derive(Debug, Clone, Copy)]
pub struct PutBack<'a> {
    /// How often it was put back before, as far as is known; the event's own counter is looked at too.
    pub replay: u32,
    /// Why.
    pub reason: &'a str,
    /// By which command: [`By`](crate::outcome::By).
    pub by: &'a str,
    /// Now, where its message is to be answered once more though it was answered: this begins a new
    /// round ([`AnswerKey::again`]). Else the round that it is in without a reply, which whatever is
    /// known of the event tells: [`Unexplained::open_round`], [`Listed::open_round`](crate::events::Listed::open_round).
    /// `None`: a message that was answered stays as it is.
    pub again: Option<Timestamp>,
}

/// An event that is ended as the duplicate of another one about the same message.
#[derive(Debug, Clone, Copy)]
pub struct Duplicate<'a> {
    /// The event.
    pub id: EventId,
    /// The bot it was sent to.
    pub bot: &'a BotName,
    /// The room, where known.
    pub room_id: Option<RoomId>,
    /// The message, where known.
    pub message_id: Option<&'a MessageId>,
}

impl PutBack<'_> {
    /// The event as it is put back, and what is said of that.
    fn mark(self, event: Event) -> (Event, What) {
        let event = Event {
            put_back_at: Some(Timestamp::now()),
            replay: event.replay.max(self.replay).saturating_add(1),
            again: self.again.and_then(whole_milliseconds),
            ..event
        };
        let replayed = What::Replayed {
            replay: event.replay,
            reason: self.reason.to_owned(),
            by: Some(self.by.to_owned()),
        };
        (event, replayed)
    }
}

/// As both back ends keep it: the round has to be the same wherever it is written.
fn whole_milliseconds(time: Timestamp) -> Option<Timestamp> {
    Timestamp::from_millisecond(time.as_millisecond()).ok()
}

/// Where every event has got to.
#[derive(Debug, Clone)]
pub struct Audit {
    /// How many are where.
    pub sums: Sums,
    /// How many of those received are in the archive; `None`: there is none.
    pub archived: Option<u64>,
    /// The events that nothing explains, oldest first; more than there are by the sums where
    /// `told_apart` is false.
    pub unexplained: Vec<Unexplained>,
    /// Whether it can be told which of the open events wait. If not, `unexplained` are those among
    /// which the unexplained are.
    pub told_apart: bool,
    /// Whether what waits is known by id. A broker tells only how many jobs wait, and so many lost
    /// events may hide among those that do.
    pub is_by_id: bool,
    /// The messages that were answered twice.
    pub twice: Vec<Twice>,
}

impl Audit {
    /// Whether everything is explained, and nothing was said twice.
    pub fn is_clean(&self) -> bool {
        self.sums.unexplained == 0 && self.sums.twice == 0
    }
}

/// How many events are where. The JSON fields are a contract.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// All of them: the sum of the next five.
    pub received: u64,
    /// Their messages have a reply.
    pub answered: u64,
    /// Nothing was to be said.
    pub ignored: u64,
    /// Given up, whether or not the dead letter is still there.
    pub dead: u64,
    /// Waiting to be worked on, at once or later.
    pub waiting: u64,
    /// None of these.
    pub unexplained: u64,
    /// Messages with two different replies.
    pub twice: u64,
    /// Beside all these: what ingresses say that they keep in their spools until the broker takes it.
    pub spooled: u64,
    /// Those that were ignored, by reason.
    pub ignored_by: BTreeMap<String, u64>,
    /// Those that were given up, by cause; [`Sums::DROPPED`] where a person dropped the dead letter.
    pub dead_by: BTreeMap<String, u64>,
}

impl Sums {
    /// What a dead letter that a person dropped is counted as, among the causes.
    pub const DROPPED: &str = "dropped";
}

/// An event that nothing explains. The JSON fields are a contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unexplained {
    /// The event.
    pub id: EventId,
    /// The bot it was sent to.
    pub bot: BotName,
    /// The event's type; known from the archive.
    #[serde(rename = "type")]
    pub event_type: Option<&'static str>,
    /// The room, where known.
    pub room_id: Option<RoomId>,
    /// The message, where known.
    pub message_id: Option<MessageId>,
    /// When the ingress received it.
    pub received_at: Option<Timestamp>,
    /// The last thing that happened to it, by its name among the outcomes.
    pub last: Option<&'static str>,
    /// When that happened.
    #[serde(skip)]
    pub last_at: Option<Timestamp>,
    /// Whether it is in the archive, and so can be put back.
    #[serde(skip)]
    pub archived: bool,
    /// How often a person has put it back in.
    #[serde(skip)]
    pub replay: u32,
    /// The round that a person has begun, and that has no reply yet: it is to be put back in this one.
    #[serde(skip)]
    pub open_round: Option<Timestamp>,
}

/// A message that was answered twice. The JSON fields are a contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Twice {
    /// Who answered.
    #[serde(skip)]
    pub bot: BotName,
    /// The message's room.
    pub room_id: RoomId,
    /// The message.
    pub message_id: MessageId,
    /// The replies to it.
    pub replies: Vec<MessageId>,
}

impl Queue {
    /// Where every event that was received since then has got to. What is under way is given so long
    /// to come to an end, and no longer than it takes.
    ///
    /// An event that is on its way through while this looks is counted if it was archived, or has an
    /// outcome.
    pub async fn audit(&self, since: Timestamp, wait: Duration) -> Result<Audit, QueueError> {
        self.refuse_spool().await?;
        let until = Instant::now() + wait;
        let mut books = Books::open(since, Timestamp::now());
        books.read_archive(self).await?;
        books.read_letters(self).await?;
        let (mut from, mut looks) = (since, 0);
        let balance = loop {
            let begun = Timestamp::now();
            let balance = books.look(self, from).await?;
            looks += 1;
            let looked_enough = balance.is_by_id && looks >= EXACT_LOOKS;
            if balance.is_sure || looked_enough || Instant::now() >= until {
                break balance;
            }
            from = since.max(begun.saturating_sub(OVERLAP).unwrap_or(since));
            tokio::time::sleep_until((Instant::now() + AGAIN).min(until)).await;
        };
        let mut audit = Audit {
            sums: balance.sums,
            archived: books.archived,
            told_apart: balance.told_apart,
            is_by_id: balance.is_by_id,
            unexplained: Vec::new(),
            twice: Vec::new(),
        };
        if !balance.candidates.is_empty() || !books.posts.suspects.is_empty() {
            let details = Details::of(balance.candidates, &books);
            (audit.unexplained, audit.twice) = details.read(self, since).await?;
        }
        audit.sums.twice = audit.twice.len() as u64;
        Ok(audit)
    }

    /// Puts an event back in, to be worked on as if it had just come. The outcomes say so first:
    /// stopped in between, the event is as unexplained as before, or once more in work.
    pub async fn put_back(&self, event: Event, put_back: PutBack<'_>) -> Result<(), QueueError> {
        let (event, replayed) = put_back.mark(event);
        match &self.0 {
            Backend::Sqlite(store) => Ok(store.put_back(&event, replayed).await?),
            Backend::Amqp(broker) => Ok(broker.put_back(&event, replayed).await?),
        }
    }

    /// Takes in an event that was received by another deployment: the same, but it is archived as well,
    /// if there is an archive, so that it can be put back from here another time. What became of it
    /// elsewhere since it was received nobody here knows, so its reply is in doubt, as if somebody had
    /// meant to post it then: a worker looks into the room before it posts. In a later round, which is
    /// begun here, there is no such doubt.
    pub async fn take_in(&self, event: Event, put_back: PutBack<'_>) -> Result<(), QueueError> {
        let (event, replayed) = put_back.mark(event);
        let told = |at, what| Content::of_event(&event).outcome(what, at);
        let consumer = What::ELSEWHERE.to_owned();
        let doubt = told(event.received_at, What::Intent { consumer });
        let doubt = (event.again.is_none() && doubt.answer_key().is_some()).then_some(doubt);
        let lines: Vec<_> = doubt
            .into_iter()
            .chain([told(Timestamp::now(), replayed)])
            .collect();
        match &self.0 {
            Backend::Sqlite(store) => Ok(store.take_in(&event, lines).await?),
            Backend::Amqp(broker) => Ok(broker.take_in(&event, &lines).await?),
        }
    }

    /// Writes down that an event without an end needs none of its own, as another one about the same
    /// message answers it or has done so: what a worker would say of it, without asking anybody.
    pub async fn end_as_duplicate(&self, duplicate: Duplicate<'_>) -> Result<(), QueueError> {
        let outcome = Outcome {
            v: Outcome::VERSION,
            at: Timestamp::now(),
            id: duplicate.id,
            bot: duplicate.bot.clone(),
            room_id: duplicate.room_id,
            message_id: duplicate.message_id.cloned(),
            again: None,
            what: What::Ignored {
                reason: Reason::DUPLICATE.to_owned(),
            },
        };
        match &self.0 {
            Backend::Sqlite(store) => Ok(store.end(outcome).await?),
            Backend::Amqp(broker) => Ok(broker.end(&outcome).await?),
        }
    }

    /// Whether what came in is kept.
    pub(crate) fn keeps_archive(&self) -> bool {
        match &self.0 {
            // Its table is always there.
            Backend::Sqlite(_) => true,
            Backend::Amqp(broker) => broker.keeps_archive(),
        }
    }

    /// What waits, where ids tell.
    async fn waiting_by_id(&self) -> Result<Option<HashSet<EventId>>, QueueError> {
        match &self.0 {
            Backend::Sqlite(store) => Ok(Some(store.waiting().await?)),
            Backend::Amqp(_) => Ok(None),
        }
    }

    /// How many jobs there are, those in the hands of workers included.
    pub(crate) async fn jobs_in_numbers(&self) -> Result<u64, QueueError> {
        let (jobs, _) = self.waiting_in_numbers(Timestamp::now()).await?;
        Ok(jobs.all())
    }

    /// What waits, in numbers, for an audit that was begun at this time; and how much is in spools.
    async fn waiting_in_numbers(&self, begun: Timestamp) -> Result<(Jobs, u64), QueueError> {
        let depths = self.depths().await?;
        let (reports, now) = (self.reports().await?, Timestamp::now());
        let ready = depths.iter().filter(|depth| depth.queue != Depth::DEAD);
        let held = |report: &Report| match now.duration_since(report.at) <= BELIEVED {
            true => report.holds.unwrap_or(0),
            false => 0,
        };
        let jobs = Jobs {
            ready: ready.map(|depth| depth.jobs).sum(),
            held: reports.iter().map(held).sum(),
            unsure: reports
                .iter()
                .filter(|report| report.at < begun)
                .map(held)
                .sum(),
        };
        let spools = reports.iter().filter_map(|report| report.spool);
        Ok((jobs, spools.map(|spool| spool.events).sum()))
    }
}

/// What is known of all events.
#[derive(Debug)]
struct Books {
    since: Timestamp,
    /// What was received after this is not looked for: there would be no end.
    until: Timestamp,
    /// How many of those received are in the archive; `None`: there is none.
    archived: Option<u64>,
    /// Some 30 to 60 bytes each.
    courses: HashMap<EventId, Course>,
    letters: HashMap<EventId, Cause>,
    reasons: Reasons,
    posts: Posts,
}

impl Books {
    fn open(since: Timestamp, until: Timestamp) -> Self {
        Self {
            since,
            until,
            archived: None,
            courses: HashMap::new(),
            letters: HashMap::new(),
            reasons: Reasons::default(),
            posts: Posts::default(),
        }
    }

    async fn read_archive(&mut self, queue: &Queue) -> Result<(), QueueError> {
        if !queue.keeps_archive() {
            return Ok(());
        }
        let mut archived = queue.archive().read(self.since);
        loop {
            match archived.next().await {
                Ok(Some(event)) => {
                    self.courses.entry(event.id).or_default();
                }
                Ok(None) => break,
                Err(QueueError::Amqp(BrokerError::Missing(_))) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.archived = Some(self.courses.len() as u64);
        Ok(())
    }

    /// Before the outcomes: what is put back meanwhile they tell.
    async fn read_letters(&mut self, queue: &Queue) -> Result<(), QueueError> {
        let mut letters = queue.dead_letters().read().await?;
        while let Some(letter) = letters.next().await? {
            if letter.received_at >= self.since {
                self.courses.entry(letter.id).or_default();
                self.letters.insert(letter.id, letter.cause);
            }
        }
        Ok(())
    }

    /// Reads the outcomes from this time on, and sees where every event is now.
    async fn look(&mut self, queue: &Queue, from: Timestamp) -> Result<Balance, QueueError> {
        // Ids are read before the outcomes: what is worked off in between has its end there. Mere
        // numbers are read after them: else they would count as waiting what has ended meanwhile, and
        // so hide as many events that nothing explains.
        let by_id = queue.waiting_by_id().await?;
        let mut outcomes = queue.outcomes().read(from);
        while let Some(outcome) = outcomes.next().await? {
            self.take_in(&outcome);
        }
        let (waits, spooled) = match by_id {
            Some(ids) => {
                // One that waits was received, whether or not it is archived.
                for id in &ids {
                    if self.was_received(*id, self.until) {
                        self.courses.entry(*id).or_default();
                    }
                }
                (Waits::These(ids), 0)
            }
            None => {
                let (jobs, spooled) = queue.waiting_in_numbers(self.until).await?;
                (Waits::SoMany(jobs), spooled)
            }
        };
        let mut balance = self.balance(&waits, Timestamp::now());
        balance.sums.spooled = spooled;
        Ok(balance)
    }

    /// The round that it is in without a reply.
    fn open_round(&self, id: EventId) -> Option<Timestamp> {
        self.courses.get(&id).copied().and_then(Course::open_round)
    }

    /// Whether an event, of which something is known from this time, was received in between.
    fn was_received(&self, id: EventId, known_at: Timestamp) -> bool {
        let received_at = id.received_at().unwrap_or(known_at);
        (self.since..=self.until).contains(&received_at)
    }

    fn take_in(&mut self, outcome: &Outcome) {
        self.posts.take_in(outcome);
        let is_ours = self.was_received(outcome.id, outcome.at);
        let course = match self.courses.entry(outcome.id) {
            Entry::Occupied(course) => course.into_mut(),
            Entry::Vacant(place) if is_ours => place.insert(Course::default()),
            Entry::Vacant(_) => return,
        };
        course.apply(outcome, &mut self.reasons);
    }

    fn balance(&self, waits: &Waits, now: Timestamp) -> Balance {
        let mut sums = Sums {
            received: self.courses.len() as u64,
            ..Sums::default()
        };
        let mut open = Vec::new();
        for (id, course) in &self.courses {
            let dead_by = match course.state(self.letters.get(id).copied()) {
                State::Answered => {
                    sums.answered += 1;
                    continue;
                }
                State::Ignored(reason) => {
                    sums.ignored += 1;
                    add_one(&mut sums.ignored_by, self.reasons.name(reason));
                    continue;
                }
                State::Open => {
                    let is_said_to_wait = course.is_said_to_wait(now);
                    open.push(Open {
                        id: *id,
                        is_said_to_wait,
                    });
                    continue;
                }
                State::Dead(cause) => cause.as_str(),
                State::Dropped => Sums::DROPPED,
            };
            sums.dead += 1;
            add_one(&mut sums.dead_by, dead_by);
        }
        let all = open.len() as u64;
        let apart = tell_apart(open, waits);
        sums.waiting = apart.waiting;
        sums.unexplained = apart.unexplained;
        let is_sure = match waits {
            Waits::These(_) => apart.unexplained == 0,
            Waits::SoMany(jobs) => all <= jobs.all() - jobs.unsure,
        };
        // Without an archive, jobs are the only trace of what nobody has begun to work on. What workers
        // hold may have ended since they said so, and is in the outcomes then.
        if let (None, Waits::SoMany(jobs)) = (self.archived, waits) {
            let others = jobs.ready.saturating_sub(all);
            sums.received += others;
            sums.waiting += others;
        }
        Balance {
            sums,
            is_sure,
            candidates: apart.candidates,
            told_apart: apart.told_apart,
            is_by_id: matches!(waits, Waits::These(_)),
        }
    }
}

fn add_one(counts: &mut BTreeMap<String, u64>, name: &str) {
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => drop(counts.insert(name.to_owned(), 1)),
    }
}

/// What one look shows.
#[derive(Debug)]
struct Balance {
    sums: Sums,
    /// Nothing is unexplained, whatever has ended since a worker said that it holds it.
    is_sure: bool,
    /// Oldest first.
    candidates: Vec<EventId>,
    told_apart: bool,
    is_by_id: bool,
}

/// What the queue says of the jobs in it.
#[derive(Debug)]
enum Waits {
    /// They are these, the ones that somebody works on included.
    These(HashSet<EventId>),
    /// There are so many, of whichever events.
    SoMany(Jobs),
}

/// Jobs in numbers.
#[derive(Debug, Clone, Copy)]
struct Jobs {
    /// Nobody has claimed them.
    ready: u64,
    /// In the hands of workers, as these have said lately.
    held: u64,
    /// Those of them that were held when this audit began; nobody has said since that they still are.
    unsure: u64,
}

impl Jobs {
    fn all(self) -> u64 {
        self.ready + self.held
    }
}

/// An event without an end.
#[derive(Debug, Clone, Copy)]
struct Open {
    id: EventId,
    /// Its last word says that it waits.
    is_said_to_wait: bool,
}

/// The open events that wait, and those that nothing explains.
#[derive(Debug, PartialEq, Eq)]
struct Apart {
    waiting: u64,
    unexplained: u64,
    /// Among these are the unexplained, oldest first.
    candidates: Vec<EventId>,
    /// Whether these are the unexplained and no others.
    told_apart: bool,
}

fn tell_apart(open: Vec<Open>, waits: &Waits) -> Apart {
    let all = open.len() as u64;
    let (waiting, mut rest): (u64, Vec<Open>) = match waits {
        Waits::These(ids) => {
            let rest: Vec<_> = open
                .into_iter()
                .filter(|event| !ids.contains(&event.id))
                .collect();
            (all - rest.len() as u64, rest)
        }
        Waits::SoMany(jobs) => (all.min(jobs.all()), open),
    };
    let unexplained = all - waiting;
    if unexplained == 0 {
        rest.clear();
    } else if matches!(waits, Waits::SoMany(_)) {
        let said = rest.iter().filter(|event| event.is_said_to_wait).count() as u64;
        // Those wait before any other does. If fewer wait, one of them is gone.
        if said <= waiting {
            rest.retain(|event| !event.is_said_to_wait);
        }
    }
    let mut candidates: Vec<_> = rest.into_iter().map(|event| event.id).collect();
    candidates.sort_unstable();
    Apart {
        waiting,
        unexplained,
        told_apart: candidates.len() as u64 == unexplained,
        candidates,
    }
}

/// Which replies were posted to which messages, by hashes alone: what looks like two replies to one
/// message is read once more.
#[derive(Debug, Default)]
struct Posts {
    hasher: RandomState,
    replies: HashMap<u64, u64>,
    suspects: HashSet<u64>,
}

impl Posts {
    fn take_in(&mut self, outcome: &Outcome) {
        if let Some((key, reply)) = posted(outcome) {
            let key = self.hasher.hash_one(key);
            let reply = self.hasher.hash_one(reply);
            if *self.replies.entry(key).or_insert(reply) != reply {
                self.suspects.insert(key);
            }
        }
    }

    fn is_suspect(&self, key: &AnswerKey) -> bool {
        self.suspects.contains(&self.hasher.hash_one(key))
    }
}

/// The reply that was posted, where its id is known; what is not known differs from nothing.
fn posted(outcome: &Outcome) -> Option<(AnswerKey, &MessageId)> {
    match &outcome.what {
        What::Posted {
            reply_message_id: Some(reply),
            ..
        } => Some((outcome.answer_key()?, reply)),
        _ => None,
    }
}

/// What is to be told of some few.
#[derive(Debug)]
struct Details<'a> {
    wanted: HashSet<EventId>,
    events: BTreeMap<EventId, Unexplained>,
    books: &'a Books,
    replies: BTreeMap<AnswerKey, Vec<MessageId>>,
}

impl<'a> Details<'a> {
    fn of(wanted: Vec<EventId>, books: &'a Books) -> Self {
        Self {
            wanted: wanted.into_iter().collect(),
            events: BTreeMap::new(),
            books,
            replies: BTreeMap::new(),
        }
    }

    async fn read(
        mut self,
        queue: &Queue,
        since: Timestamp,
    ) -> Result<(Vec<Unexplained>, Vec<Twice>), QueueError> {
        if !self.wanted.is_empty() && queue.keeps_archive() {
            let mut archived = queue.archive().read(since);
            loop {
                match archived.next().await {
                    Ok(Some(event)) => self.archived(event),
                    Ok(None) | Err(QueueError::Amqp(BrokerError::Missing(_))) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        let mut outcomes = queue.outcomes().read(since);
        while let Some(outcome) = outcomes.next().await? {
            self.became(outcome);
        }
        let replies = self
            .replies
            .into_iter()
            .filter(|(_, replies)| replies.len() > 1);
        let twice = replies.map(|(key, replies)| Twice {
            bot: key.bot,
            room_id: key.room_id,
            message_id: key.message_id,
            replies,
        });
        Ok((self.events.into_values().collect(), twice.collect()))
    }

    fn archived(&mut self, event: Event) {
        if !self.wanted.contains(&event.id) {
            return;
        }
        self.events.insert(
            event.id,
            Unexplained {
                id: event.id,
                bot: event.bot,
                event_type: Some(event.event_type),
                room_id: event.room_id,
                message_id: event.message_id,
                received_at: Some(event.received_at),
                last: None,
                last_at: None,
                archived: true,
                replay: event.replay,
                open_round: self.books.open_round(event.id),
            },
        );
    }

    fn became(&mut self, outcome: Outcome) {
        if let Some((key, reply)) = posted(&outcome)
            && self.books.posts.is_suspect(&key)
        {
            let replies = self.replies.entry(key).or_default();
            if !replies.contains(reply) {
                replies.push(reply.clone());
            }
        }
        if !self.wanted.contains(&outcome.id) {
            return;
        }
        let books = self.books;
        let event = self
            .events
            .entry(outcome.id)
            .or_insert_with(|| Unexplained {
                id: outcome.id,
                bot: outcome.bot,
                event_type: None,
                room_id: outcome.room_id,
                message_id: outcome.message_id,
                received_at: outcome.id.received_at(),
                last: None,
                last_at: None,
                archived: false,
                replay: 0,
                open_round: books.open_round(outcome.id),
            });
        // That it was received may be told late.
        if event.last.is_none() || !matches!(outcome.what, What::Received { .. }) {
            event.last = Some(outcome.what.name());
            event.last_at = Some(outcome.at);
        }
        if let What::Replayed { replay, .. } = outcome.what {
            event.replay = event.replay.max(replay);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many events, of which these are said to wait.
    fn open(count: usize, said_to_wait: &[usize]) -> Vec<Open> {
        let events = (0..count).map(|number| Open {
            id: EventId::fresh(),
            is_said_to_wait: said_to_wait.contains(&number),
        });
        let mut events: Vec<_> = events.collect();
        events.sort_by_key(|event| event.id);
        events
    }

    fn so_many(ready: u64) -> Waits {
        Waits::SoMany(Jobs {
            ready,
            held: 0,
            unsure: 0,
        })
    }

    #[test]
    fn by_their_ids_all_are_told_apart() {
        let events = open(4, &[3]);
        let ids: Vec<_> = events.iter().map(|event| event.id).collect();
        // The last one was put off, and is gone all the same.
        let jobs = HashSet::from([ids[1], EventId::fresh()]);
        let apart = tell_apart(events, &Waits::These(jobs));
        let expected = Apart {
            waiting: 1,
            unexplained: 3,
            candidates: vec![ids[0], ids[2], ids[3]],
            told_apart: true,
        };
        assert_eq!(apart, expected);
    }

    #[test]
    fn by_numbers_alone_they_are_told_apart_as_far_as_that_goes() {
        let table = [
            // Open, those of them that are put off, jobs; waiting, unexplained, candidates, told apart.
            (0, vec![], 0, (0, 0), vec![], true),
            (0, vec![], 7, (0, 0), vec![], true),
            (2, vec![], 2, (2, 0), vec![], true),
            // What else waits was received earlier, or is there twice.
            (2, vec![], 7, (2, 0), vec![], true),
            (2, vec![], 0, (0, 2), vec![0, 1], true),
            (3, vec![], 1, (1, 2), vec![0, 1, 2], false),
            // The one that waits is the one that was put off.
            (3, vec![1], 1, (1, 2), vec![0, 2], true),
            (3, vec![1], 2, (2, 1), vec![0, 2], false),
            // One that was put off is gone as well, whichever it is.
            (3, vec![1, 2], 1, (1, 2), vec![0, 1, 2], false),
        ];
        for (count, put_off, jobs, (waiting, unexplained), candidates, told_apart) in table {
            let events = open(count, &put_off);
            let candidates: Vec<_> = candidates
                .iter()
                .map(|place: &usize| events[*place].id)
                .collect();
            let apart = tell_apart(events, &so_many(jobs));
            let expected = Apart {
                waiting,
                unexplained,
                candidates,
                told_apart,
            };
            assert_eq!(apart, expected, "{count} {put_off:?} {jobs}");
        }
    }

    fn told(id: EventId, message: &str, what: What) -> Outcome {
        Outcome {
            v: Outcome::VERSION,
            at: Timestamp::now(),
            id,
            bot: BotName::default(),
            room_id: Some(RoomId(3)),
            message_id: MessageId::new(message).ok(),
            again: None,
            what,
        }
    }

    fn reply(number: Option<&str>, found: bool) -> What {
        What::Posted {
            reply_message_id: number.and_then(|number| MessageId::new(number).ok()),
            found,
        }
    }

    #[test]
    fn what_was_said_twice_has_two_different_replies() {
        let table = [
            (vec![("1", Some("8"), false)], false),
            (
                vec![("1", Some("8"), false), ("2", Some("9"), false)],
                false,
            ),
            (vec![("1", Some("8"), false), ("1", Some("8"), true)], false),
            (vec![("1", Some("8"), false), ("1", None, false)], false),
            (vec![("1", None, false), ("1", None, false)], false),
            (vec![("1", Some("8"), false), ("1", Some("9"), false)], true),
            (
                vec![
                    ("1", Some("8"), false),
                    ("1", None, false),
                    ("1", Some("9"), true),
                ],
                true,
            ),
        ];
        for (replies, expected) in table {
            let mut posts = Posts::default();
            for (message, number, found) in &replies {
                posts.take_in(&told(EventId::fresh(), message, reply(*number, *found)));
            }
            assert_eq!(!posts.suspects.is_empty(), expected, "{replies:?}");
        }
    }

    #[test]
    fn the_sums_are_of_the_events_that_were_received_in_between() {
        let (until, hour) = (Timestamp::now(), SignedDuration::from_hours(1));
        let mut books = Books::open(until - hour, until);
        let at = |time: Timestamp| {
            let seconds = time.as_second().unsigned_abs();
            let time = uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0);
            EventId(uuid::Uuid::new_v7(time))
        };
        let minute = SignedDuration::from_mins(1);
        let ids = [
            at(until - hour - minute),
            at(until - minute),
            at(until + minute),
        ];
        for id in ids {
            books.take_in(&told(id, "1", reply(None, false)));
        }
        let balance = books.balance(&so_many(0), until);
        let expected = Sums {
            received: 1,
            answered: 1,
            ..Sums::default()
        };
        assert_eq!(balance.sums, expected);
    }

    /// The books of an hour with so many events that have no end.
    fn books_with_open(count: u32) -> Books {
        let until = Timestamp::now() + SignedDuration::from_mins(1);
        let mut books = Books::open(until - SignedDuration::from_hours(1), until);
        for _ in 0..count {
            books.courses.insert(EventId::fresh(), Course::default());
        }
        books
    }

    #[test]
    fn what_workers_hold_waits_and_is_sure_once_they_say_so_anew() {
        let mut books = books_with_open(5);
        books.archived = Some(5);
        let table = [
            // Ready, held, unsure; waiting, sure.
            (5, 0, 0, 5, true),
            (2, 3, 0, 5, true),
            (2, 3, 3, 5, false),
            (5, 3, 3, 5, true),
            (2, 2, 0, 4, false),
        ];
        for (ready, held, unsure, waiting, is_sure) in table {
            let jobs = Jobs {
                ready,
                held,
                unsure,
            };
            let balance = books.balance(&Waits::SoMany(jobs), books.until);
            let told = (balance.sums.waiting, balance.sums.received);
            assert_eq!((told, balance.is_sure), ((waiting, 5), is_sure), "{jobs:?}");
        }
    }

    #[test]
    fn without_an_archive_what_waits_was_received_all_the_same() {
        let books = books_with_open(1);
        let jobs = Jobs {
            ready: 3,
            held: 2,
            unsure: 0,
        };
        let sums = books.balance(&Waits::SoMany(jobs), books.until).sums;
        let expected = (3, 3, 0);
        assert_eq!((sums.received, sums.waiting, sums.unexplained), expected);
    }
}
