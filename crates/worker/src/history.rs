//! What this process remembers of the outcomes: the write-ahead log of posts, read from the store
//! from `MAX_AGE` + 10 min back and followed from then on, together with what it wrote itself.
//!
//! It answers whether a message has been answered, is perhaps being answered, or may be answered
//! now; which rooms are closed; who has asked too much; and which calls others have made. Nothing
//! here is the truth except up to a [`barrier`](History::barrier): whatever was stored before that
//! is known after it. Everything is forgotten in time, so memory is bounded by the rate of answers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_queue::event::{AnswerKey, BotName, EventId};
use chickwork_queue::job::{Cause, Reply, Step};
use chickwork_queue::outcome::{Outcome, What};
use chickwork_queue::{Entry, Outcomes, QueueError};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::decide::LOOK_AFTER_SILENCE;
use crate::limits::Limit;

/// How much longer than an event may be answered its outcomes are remembered.
pub(crate) const BEYOND_MAX_AGE: Duration = Duration::from_secs(600);

/// How long a room is not asked for after Chatwork refused a post there with 403 or 404.
const ROOM_CLOSED: SignedDuration = SignedDuration::from_mins(10);

/// How long a barrier may take: setting the mark, and reading up to it.
const BARRIER: Duration = Duration::from_secs(20);

/// The first wait after a barrier that was not passed; it doubles.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait between two barriers that were not passed.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How many of the marks read last are remembered; every process that shares the store sets some.
const MARKS: usize = 256;

/// How often what is too old is forgotten.
const FORGET_EVERY: SignedDuration = SignedDuration::from_secs(30);

/// Why the outcomes are not known up to now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotCaughtUp {
    /// The mark could not be set.
    #[error("no mark could be set in the outcomes: {0}")]
    NoMark(#[from] QueueError),
    /// It was not read in time.
    #[error("the outcomes could not be read up to now within {} s", BARRIER.as_secs())]
    TooSlow,
}

/// The memory, shared by everything in this process.
#[derive(Debug)]
pub(crate) struct History {
    outcomes: Outcomes,
    memory: Mutex<Memory>,
    progress: watch::Sender<Progress>,
    /// Whether the last barrier was passed.
    caught_up: watch::Sender<Result<(), String>>,
    /// Asks the follower to begin again.
    silent: Notify,
}

/// How far the follower has come.
#[derive(Debug, Default)]
struct Progress {
    entries: u64,
    marks: VecDeque<uuid::Uuid>,
}

impl History {
    /// An empty memory of what `outcomes` hold about this bot.
    pub(crate) fn new(outcomes: Outcomes, bot: BotName, max_age: Duration) -> Self {
        Self {
            outcomes,
            memory: Mutex::new(Memory::new(bot, max_age + BEYOND_MAX_AGE, Timestamp::now())),
            progress: watch::Sender::default(),
            caught_up: watch::Sender::new(Err(
                "the outcomes of earlier events are being read".to_owned()
            )),
            silent: Notify::new(),
        }
    }

    /// Reads from as far back as is remembered, and goes on for ever. Begins again when nothing is
    /// read though something is there: what is read twice changes nothing.
    pub(crate) async fn follow(self: Arc<Self>) {
        loop {
            let since = self.memory().horizon(Timestamp::now());
            let mut follow = self.outcomes.follow(since);
            loop {
                tokio::select! {
                    entry = follow.next() => self.take_in(entry),
                    () = self.silent.notified() => break,
                }
            }
            log::warn!("the outcomes are silent: they are read again from where memory begins");
        }
    }

    fn take_in(&self, entry: Entry) {
        let mark = match entry {
            Entry::Outcome(outcome) => {
                let (now, instant) = (Timestamp::now(), Instant::now());
                self.memory().apply(&outcome, Origin::Store, now, instant);
                None
            }
            Entry::Mark(mark) => Some(mark),
        };
        self.progress.send_modify(|progress| {
            progress.entries += 1;
            progress.marks.extend(mark);
            if progress.marks.len() > MARKS {
                progress.marks.pop_front();
            }
        });
    }

    /// Returns when everything that was stored before this call is remembered.
    pub(crate) async fn barrier(&self) -> Result<(), NotCaughtUp> {
        let passed = self.pass(Instant::now() + BARRIER).await;
        let told = passed.as_ref().copied().map_err(NotCaughtUp::to_string);
        self.caught_up.send_modify(|caught_up| *caught_up = told);
        passed
    }

    async fn pass(&self, until: Instant) -> Result<(), NotCaughtUp> {
        let mark = tokio::time::timeout_at(until, self.outcomes.mark()).await;
        let mark = mark.map_err(|_| NotCaughtUp::TooSlow)??;
        let mut progress = self.progress.subscribe();
        let entries = progress.borrow().entries;
        let read = progress.wait_for(|progress| progress.marks.contains(&mark));
        // The sender lives in `self`: the wait cannot end by its absence.
        if tokio::time::timeout_at(until, read).await.is_ok() {
            return Ok(());
        }
        // A follower that is merely behind gets there, and would not if it began again. One that
        // reads nothing, though a mark is stored, waits for something that never comes: its place in
        // the store is none any more, or the broker has forgotten its consumer.
        if self.progress.borrow().entries == entries {
            self.silent.notify_one();
        }
        Err(NotCaughtUp::TooSlow)
    }

    /// Tries, for ever, to pass a barrier whenever the last one was not passed: a process that has
    /// nothing to post finds out as well that the outcomes can be read again.
    pub(crate) async fn keep_up(self: Arc<Self>) {
        let mut caught_up = self.caught_up();
        let mut wait = SHORTEST_WAIT;
        loop {
            // The sender lives in `self`: the wait cannot end by its absence.
            let _ = caught_up.wait_for(Result::is_err).await;
            match self.barrier().await {
                Ok(()) => wait = SHORTEST_WAIT,
                Err(error) => {
                    log::warn!("not ready: {error}");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }

    /// Whether the outcomes were read up to the last mark; an error is a sentence.
    pub(crate) fn caught_up(&self) -> watch::Receiver<Result<(), String>> {
        self.caught_up.subscribe()
    }

    /// How many marks were read.
    #[cfg(test)]
    pub(crate) fn marks(&self) -> usize {
        self.progress.borrow().marks.len()
    }

    /// Remembers what this process did, before or after the store hears of it.
    pub(crate) fn wrote(&self, outcome: &Outcome) {
        self.memory()
            .apply(outcome, Origin::Here, Timestamp::now(), Instant::now());
    }

    /// Remembers that this process means to post a reply, unless it has heard meanwhile that somebody else
    /// has: whether it has.
    pub(crate) fn means(&self, intent: &Outcome) -> bool {
        let mut memory = self.memory();
        let key = intent.answer_key();
        let is_free = key.is_some_and(|key| memory.post(&key) == Post::Unbegun);
        if is_free {
            memory.apply(intent, Origin::Here, Timestamp::now(), Instant::now());
        }
        is_free
    }

    /// The memory, for a question that needs no waiting.
    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known about the post of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Post {
    /// Nobody has begun.
    Unbegun,
    /// It is in the room.
    Posted {
        /// The event that was answered by it.
        by: EventId,
    },
    /// Somebody meant to post it, and nobody knows what came of it.
    InDoubt {
        /// It was this process that meant to.
        here: bool,
        /// When the intent was written: by its writer's clock, but not after it was read.
        intended_at: Timestamp,
        /// From when on a look tells.
        look_at: Instant,
    },
}

/// Whether an event's message has been taken care of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// Not yet.
    No,
    /// By this very event, which was delivered twice.
    ByItself,
    /// By another event about the same message.
    ByAnother,
}

/// Who tells about an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This process, of itself.
    Here,
    /// The store; others', or our own for a second time.
    Store,
}

/// The pure part: everything that is remembered, with time passed in.
#[derive(Debug)]
pub(crate) struct Memory {
    bot: BotName,
    keep: SignedDuration,
    forgotten_at: Timestamp,
    /// By message and round.
    stories: HashMap<StoryKey, Story>,
    /// Lines that were applied already, and when; they may be read again. Kept twice as long as what
    /// they tell: reading begins a little before memory does, and an old intent with its result must
    /// not be taken for news of a message that somebody answers only now.
    applied: HashMap<(Timestamp, EventId, Line), Timestamp>,
    /// Calls by all processes, by the intent or look that made them.
    calls: HashMap<(Timestamp, EventId), Call>,
    closed: HashMap<RoomId, Timestamp>,
    senders: HashMap<(RoomId, AccountId), Vec<Asked>>,
    put_off: HashMap<EventId, (Timestamp, String)>,
    /// Posts that were made but could not be written down yet.
    untold: HashMap<(EventId, Option<Timestamp>), Outcome>,
}

/// A message, and when a person asked for another answer to it.
type StoryKey = (RoomId, MessageId, Option<Timestamp>);

fn story_key(key: &AnswerKey) -> StoryKey {
    (key.room_id, key.message_id.clone(), key.again)
}

#[derive(Debug)]
struct Story {
    touched: Timestamp,
    /// The reply, where its id is known.
    reply: Option<MessageId>,
    answered_by: Option<EventId>,
    post: Post,
    /// The latest intent, as its writer dated it.
    intent: Option<(Timestamp, EventId)>,
}

impl Story {
    fn is_posted(&self) -> bool {
        matches!(self.post, Post::Posted { .. })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Line {
    Intent,
    Posted,
    NotPosted,
    Looked,
    Refused,
}

#[derive(Debug)]
struct Call {
    at: Timestamp,
    room: Option<RoomId>,
    counted: bool,
}

#[derive(Debug)]
struct Asked {
    id: EventId,
    received: Timestamp,
    /// Reserved by a try that is under way, not yet answered.
    pending: bool,
}

impl Memory {
    fn new(bot: BotName, keep: Duration, now: Timestamp) -> Self {
        Self {
            bot,
            keep: SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX),
            forgotten_at: now,
            stories: HashMap::new(),
            applied: HashMap::new(),
            calls: HashMap::new(),
            closed: HashMap::new(),
            senders: HashMap::new(),
            put_off: HashMap::new(),
            untold: HashMap::new(),
        }
    }

    /// From when on outcomes are remembered.
    pub(crate) fn horizon(&self, now: Timestamp) -> Timestamp {
        now.saturating_sub(self.keep).unwrap_or(Timestamp::MIN)
    }

    /// What is known about the post of this answer.
    pub(crate) fn post(&self, key: &AnswerKey) -> Post {
        let story = self.stories.get(&story_key(key));
        story.map_or(Post::Unbegun, |story| story.post)
    }

    /// The replies that the message is known to have from other rounds.
    pub(crate) fn other_replies(&self, key: &AnswerKey) -> Vec<MessageId> {
        let own = story_key(key);
        let others = self
            .stories
            .iter()
            .filter(|(other, _)| (&other.0, &other.1) == (&own.0, &own.1) && other.2 != own.2);
        others
            .filter_map(|(_, story)| story.reply.clone())
            .collect()
    }

    /// Whether anything at all is known about the post of this answer.
    pub(crate) fn knows_post(&self, key: &AnswerKey) -> bool {
        let story = self.stories.get(&story_key(key));
        story.is_some_and(|story| story.intent.is_some() || story.is_posted())
    }

    /// Whether this event's message has been answered. An event that a person has put back in is
    /// asked again, unless an answer is in the room: one answer per message.
    pub(crate) fn answered(&self, key: &AnswerKey, id: EventId, replay: u32) -> Answered {
        let Some(story) = self.stories.get(&story_key(key)) else {
            return Answered::No;
        };
        match story.answered_by {
            _ if replay > 0 && !story.is_posted() => Answered::No,
            Some(by) if by == id && replay == 0 => Answered::ByItself,
            None if !story.is_posted() => Answered::No,
            Some(_) | None => Answered::ByAnother,
        }
    }

    /// Whether Chatwork said lately that we may not post in this room. Who puts an event back in
    /// after that has done something about it.
    pub(crate) fn is_closed(
        &self,
        room: RoomId,
        put_back_at: Option<Timestamp>,
        now: Timestamp,
    ) -> bool {
        self.closed.get(&room).is_some_and(|closed| {
            now.duration_since(*closed) < ROOM_CLOSED && put_back_at.is_none_or(|at| at < *closed)
        })
    }

    /// Why the event was last put off.
    pub(crate) fn last_reason(&self, id: EventId) -> Option<&str> {
        self.put_off.get(&id).map(|(_, reason)| reason.as_str())
    }

    /// After a plain 5xx a look tells earlier than after silence.
    pub(crate) fn look_at(&mut self, key: &AnswerKey, at: Instant) {
        let story = self.stories.get_mut(&story_key(key));
        if let Some(Post::InDoubt { look_at, .. }) = story.map(|story| &mut story.post) {
            *look_at = at;
        }
    }

    /// A look showed that what was intended then did not happen: that doubt is over, for this process.
    /// A newer one, of somebody who took over meanwhile, is not.
    pub(crate) fn resolved(&mut self, key: &AnswerKey, then: Timestamp) {
        let story = self.stories.get_mut(&story_key(key));
        if let Some(story) = story
            && matches!(story.post, Post::InDoubt { intended_at, .. } if intended_at == then)
        {
            story.post = Post::Unbegun;
        }
    }

    /// A result could not be stored; it is to be told when its job comes back.
    pub(crate) fn not_told(&mut self, outcome: Outcome) {
        self.untold.insert((outcome.id, outcome.again), outcome);
    }

    /// A result that is still to be told.
    pub(crate) fn untold(&mut self, reply: &Reply) -> Option<Outcome> {
        self.untold.remove(&(reply.id, reply.again))
    }

    /// Counts this event against its sender's limit, unless that would be one answer too many in
    /// some window. Windows are measured by when events were received, so that a backlog that is
    /// worked off at once is no flood.
    pub(crate) fn reserve(
        &mut self,
        room: RoomId,
        sender: AccountId,
        id: EventId,
        limit: Limit,
        now: Timestamp,
    ) -> bool {
        let received = received_at(id, now);
        let per = SignedDuration::try_from(limit.per).unwrap_or(SignedDuration::MAX);
        let asked = self.senders.entry((room, sender)).or_default();
        if asked.iter().any(|asked| asked.id == id) {
            return true;
        }
        let mut near: Vec<Timestamp> = asked
            .iter()
            .map(|asked| asked.received)
            .filter(|other| received.duration_since(*other).abs() < per)
            .collect();
        near.push(received);
        near.sort_unstable();
        let most = near
            .iter()
            .filter(|from| **from <= received)
            .map(|from| {
                near.iter()
                    .filter(|at| *at >= from && at.duration_since(*from) < per)
                    .count()
            })
            .max();
        if most > Some(limit.calls as usize) {
            return false;
        }
        asked.push(Asked {
            id,
            received,
            pending: true,
        });
        true
    }

    /// Takes a reservation back, if no answer came of it.
    pub(crate) fn release(&mut self, room: RoomId, sender: AccountId, id: EventId) {
        if let Some(asked) = self.senders.get_mut(&(room, sender)) {
            asked.retain(|asked| asked.id != id || !asked.pending);
        }
    }

    /// Calls by other processes, each told once: how long ago, and in which room if it was a post.
    pub(crate) fn calls_by_others(&mut self, now: Timestamp) -> Vec<(Option<RoomId>, Duration)> {
        let new = self.calls.values_mut().filter(|call| !call.counted);
        new.map(|call| {
            call.counted = true;
            let ago = now.duration_since(call.at);
            (call.room, Duration::try_from(ago).unwrap_or(Duration::ZERO))
        })
        .collect()
    }

    /// Takes in one outcome. Applying one twice changes nothing.
    ///
    /// What it tells about happened `at` its writer's time, and not after `now`: a clock that is
    /// ahead must not let a post seem younger than it is, or a line be immortal. How long it is
    /// remembered counts from `now`, whatever its date: a clock that is behind must not make an
    /// intent be forgotten.
    pub(crate) fn apply(
        &mut self,
        outcome: &Outcome,
        origin: Origin,
        now: Timestamp,
        instant: Instant,
    ) {
        if outcome.bot != self.bot {
            return;
        }
        self.forget(now);
        let at = outcome.at.min(now);
        if let What::Later { reason, .. } = &outcome.what {
            self.put_off.insert(outcome.id, (now, reason.clone()));
        } else if matches!(outcome.what, What::Dead { .. } | What::Posted { .. }) {
            self.put_off.remove(&outcome.id);
        }
        let Some(key) = outcome.answer_key() else {
            return;
        };
        match &outcome.what {
            What::Asked { result, sender, .. }
                if matches!(result.as_str(), What::ANSWERED | What::NO_ANSWER) =>
            {
                self.answered_to(key.room_id, *sender, outcome.id, at);
            }
            What::ReplyStored { .. } => {
                let story = self.story(key, now);
                story.answered_by.get_or_insert(outcome.id);
            }
            What::Dead {
                step: Step::Post,
                cause: Cause::Refused,
                status: Some(403 | 404),
                ..
            } if self.is_new(outcome, Line::Refused, now) => {
                let closed = self.closed.entry(key.room_id).or_insert(at);
                *closed = (*closed).max(at);
            }
            What::Intent { consumer } if self.is_new(outcome, Line::Intent, now) => {
                let intent = (outcome.at, outcome.id);
                // What was done elsewhere was done long ago, if at all.
                if consumer != What::ELSEWHERE {
                    self.call(intent, at, Some(key.room_id), origin);
                }
                let story = self.story(key, now);
                story.intent = Some(intent);
                if !story.is_posted() {
                    story.post = Post::InDoubt {
                        here: origin == Origin::Here,
                        intended_at: at,
                        look_at: instant + LOOK_AFTER_SILENCE,
                    };
                }
            }
            What::Posted {
                found,
                reply_message_id,
            } if self.is_new(outcome, Line::Posted, now) => {
                self.closed.remove(&key.room_id);
                let story = self.story(key, now);
                story.post = Post::Posted { by: outcome.id };
                story.reply = story.reply.take().or_else(|| reply_message_id.clone());
                if let Some(call) = story.intent
                    && !found
                {
                    self.call_answered(call, at);
                }
            }
            What::NotPosted {
                called,
                intended_at,
                overrules_until,
                ..
            } if self.is_new(outcome, Line::NotPosted, now) => {
                let intent = intended_at.map(|at| (at, outcome.id));
                let story = self.story(key, now);
                // Late, it must not end the doubt about what a successor has begun meanwhile.
                let ends_doubt = match intent {
                    Some(_) => intent == story.intent,
                    // Nor what was begun since a person decided, for instance by this very word.
                    None => {
                        let until = overrules_until.unwrap_or(outcome.at);
                        story.intent.is_none_or(|(begun, _)| begun <= until)
                    }
                };
                if ends_doubt && !story.is_posted() {
                    story.post = Post::Unbegun;
                }
                match intent {
                    Some(call) if *called => self.call_answered(call, at),
                    Some(call) => {
                        self.calls.remove(&call);
                        // It may come late, as it went another way.
                        let (begun, id) = call;
                        self.applied.insert((begun, id, Line::Intent), now);
                    }
                    // A person overrules: that it was decided is all that has to be known.
                    None => {
                        story.intent.get_or_insert((outcome.at, outcome.id));
                    }
                }
            }
            What::Looked { .. } if self.is_new(outcome, Line::Looked, now) => {
                self.call((outcome.at, outcome.id), at, None, origin);
            }
            _ => {}
        }
    }

    fn is_new(&mut self, outcome: &Outcome, line: Line, now: Timestamp) -> bool {
        let key = (outcome.at, outcome.id, line);
        self.applied.insert(key, now).is_none()
    }

    fn story(&mut self, key: AnswerKey, now: Timestamp) -> &mut Story {
        let story = self.stories.entry(story_key(&key)).or_insert(Story {
            touched: now,
            reply: None,
            answered_by: None,
            post: Post::Unbegun,
            intent: None,
        });
        story.touched = now;
        story
    }

    fn call(
        &mut self,
        call: (Timestamp, EventId),
        at: Timestamp,
        room: Option<RoomId>,
        origin: Origin,
    ) {
        // Our own calls are counted where they are made.
        let counted = origin == Origin::Here;
        self.calls.entry(call).or_insert(Call { at, room, counted });
    }

    fn call_answered(&mut self, call: (Timestamp, EventId), at: Timestamp) {
        if let Some(call) = self.calls.get_mut(&call) {
            call.at = call.at.max(at);
        }
    }

    /// The event was answered, whoever reserved that: it counts from now on as long as is remembered.
    pub(crate) fn answered_to(
        &mut self,
        room: RoomId,
        sender: AccountId,
        id: EventId,
        at: Timestamp,
    ) {
        let all = self.senders.entry((room, sender)).or_default();
        match all.iter_mut().find(|asked| asked.id == id) {
            Some(asked) => asked.pending = false,
            None => all.push(Asked {
                id,
                received: received_at(id, at),
                pending: false,
            }),
        }
    }

    fn forget(&mut self, now: Timestamp) {
        if now.duration_since(self.forgotten_at) < FORGET_EVERY {
            return;
        }
        self.forgotten_at = now;
        let horizon = self.horizon(now);
        self.stories.retain(|_, story| story.touched >= horizon);
        let applied_since = self.horizon(horizon);
        self.applied.retain(|_, applied| *applied >= applied_since);
        self.calls.retain(|_, call| call.at >= horizon);
        self.closed
            .retain(|_, closed| now.duration_since(*closed) < ROOM_CLOSED);
        self.put_off.retain(|_, (at, _)| *at >= horizon);
        self.untold.retain(|_, outcome| outcome.at >= horizon);
        self.senders.retain(|_, asked| {
            asked.retain(|asked| asked.received >= horizon || asked.pending);
            !asked.is_empty()
        });
    }
}

/// An event's id tells when it was received.
fn received_at(id: EventId, otherwise: Timestamp) -> Timestamp {
    let told = id.0.get_timestamp().map(|time| time.to_unix());
    told.and_then(|(seconds, nanoseconds)| {
        let seconds = i64::try_from(seconds).ok()?;
        Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
    })
    .unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::{PATIENCE, Scratch, queue_away};

    const ROOM: RoomId = RoomId(5);
    const SENDER: AccountId = AccountId(1);
    const KEEP: Duration = Duration::from_secs(4200);

    /// A memory, with a clock that the test moves.
    struct Told {
        memory: Memory,
        now: Timestamp,
        instant: Instant,
    }

    impl Told {
        fn new() -> Self {
            let now = Timestamp::now();
            Self {
                memory: Memory::new(BotName::default(), KEEP, now),
                now,
                instant: Instant::now(),
            }
        }

        fn pass(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
            self.instant += Duration::from_secs(seconds);
        }

        fn outcome(&self, id: EventId, what: What) -> Outcome {
            Outcome {
                v: Outcome::VERSION,
                at: self.now,
                id,
                bot: BotName::default(),
                room_id: Some(ROOM),
                message_id: Some(message()),
                again: None,
                what,
            }
        }

        fn apply(&mut self, outcome: &Outcome, origin: Origin) {
            self.memory.apply(outcome, origin, self.now, self.instant);
        }

        fn read(&mut self, id: EventId, what: What) -> Outcome {
            let outcome = self.outcome(id, what);
            self.apply(&outcome, Origin::Store);
            outcome
        }

        fn wrote(&mut self, id: EventId, what: What) -> Outcome {
            let outcome = self.outcome(id, what);
            self.apply(&outcome, Origin::Here);
            outcome
        }

        fn post(&self) -> Post {
            self.memory.post(&key())
        }
    }

    fn message() -> MessageId {
        MessageId::new("11").expect("a message id")
    }

    fn key() -> AnswerKey {
        AnswerKey {
            bot: BotName::default(),
            room_id: ROOM,
            message_id: message(),
            again: None,
        }
    }

    fn intent() -> What {
        What::Intent {
            consumer: "somebody".to_owned(),
        }
    }

    fn posted(found: bool) -> What {
        What::Posted {
            reply_message_id: None,
            found,
        }
    }

    fn not_posted(called: bool, intent: Option<&Outcome>) -> What {
        What::NotPosted {
            reason: String::new(),
            called,
            intended_at: intent.map(|intent| intent.at),
            overrules_until: None,
        }
    }

    fn asked(result: &str) -> What {
        What::Asked {
            millis: 1,
            result: result.to_owned(),
            sender: SENDER,
            question: None,
            answer: None,
        }
    }

    fn refused(status: u16) -> What {
        What::Dead {
            step: Step::Post,
            cause: Cause::Refused,
            error: String::new(),
            status: Some(status),
        }
    }

    #[test]
    fn the_last_line_of_the_write_ahead_log_tells_what_may_be_done() {
        enum Line {
            Intent,
            Posted { found: bool },
            NotPosted,
            Overruled,
        }
        use Line::{Intent, NotPosted, Overruled, Posted};
        let posted_here = |post| matches!(post, Post::Posted { .. });
        let in_doubt = |post| matches!(post, Post::InDoubt { here: false, .. });
        let unbegun = |post| post == Post::Unbegun;
        type Expected = fn(Post) -> bool;
        let table: [(&[Line], Expected); 9] = [
            (&[], unbegun),
            (&[Intent], in_doubt),
            (&[Intent, NotPosted], unbegun),
            (&[Intent, NotPosted, Intent], in_doubt),
            (&[Intent, Overruled], unbegun),
            (&[Intent, Overruled, Intent], in_doubt),
            (&[Intent, Posted { found: false }], posted_here),
            (&[Intent, Posted { found: true }, Intent], posted_here),
            (&[Intent, Posted { found: false }, NotPosted], posted_here),
        ];
        for (number, (lines, expected)) in table.iter().enumerate() {
            let (mut told, id) = (Told::new(), EventId::fresh());
            let mut last_intent = None;
            for line in *lines {
                match line {
                    Intent => last_intent = Some(told.read(id, intent())),
                    Posted { found } => drop(told.read(id, posted(*found))),
                    NotPosted => drop(told.read(id, not_posted(true, last_intent.as_ref()))),
                    Overruled => drop(told.read(id, not_posted(false, None))),
                }
                told.pass(1);
            }
            assert!(expected(told.post()), "row {number}: {:?}", told.post());
        }
    }

    #[test]
    fn a_late_result_does_not_end_the_doubt_about_a_successors_intent() {
        for same_event in [true, false] {
            let (mut told, id) = (Told::new(), EventId::fresh());
            let frozen = told.read(id, intent());
            told.pass(20);
            let successors = if same_event { id } else { EventId::fresh() };
            let successor = told.read(successors, intent());
            told.pass(1);
            told.read(id, not_posted(false, Some(&frozen)));
            assert!(matches!(told.post(), Post::InDoubt { intended_at, .. }
                if intended_at == successor.at));
            // The call that it was about is free all the same.
            assert_eq!(told.memory.calls_by_others(told.now).len(), 1);
            told.pass(1);
            told.read(successors, not_posted(true, Some(&successor)));
            assert_eq!(told.post(), Post::Unbegun);
        }
    }

    #[test]
    fn an_intent_that_comes_behind_its_own_end_is_no_doubt() {
        let (mut told, id) = (Told::new(), EventId::fresh());
        let late = told.outcome(id, intent());
        told.pass(1);
        told.read(id, not_posted(false, Some(&late)));
        told.apply(&late, Origin::Store);
        assert_eq!(told.post(), Post::Unbegun);
        assert!(told.memory.calls_by_others(told.now).is_empty());
        told.pass(1);
        told.read(id, intent());
        assert!(matches!(told.post(), Post::InDoubt { .. }));
    }

    #[tokio::test]
    async fn nobody_means_to_post_what_somebody_else_has_begun() {
        let scratch = Scratch::new().await;
        let history = history(&scratch.queue);
        let told = Told::new();
        let own = told.outcome(EventId::fresh(), intent());
        assert!(history.means(&own));
        assert!(!history.means(&told.outcome(EventId::fresh(), intent())));
        history.wrote(&told.outcome(own.id, not_posted(false, Some(&own))));
        history.take_in(Entry::Outcome(told.outcome(EventId::fresh(), intent())));
        assert!(!history.means(&told.outcome(own.id, intent())));
        assert!(matches!(
            history.memory().post(&key()),
            Post::InDoubt { here: false, .. }
        ));
    }

    #[test]
    fn reading_again_what_was_written_here_changes_nothing() {
        let (mut told, id) = (Told::new(), EventId::fresh());
        let first = told.wrote(id, intent());
        told.pass(1);
        let not_posted = told.wrote(id, not_posted(true, Some(&first)));
        told.pass(1);
        let second = told.wrote(id, intent());
        told.pass(1);
        let before = told.post();
        assert!(matches!(before, Post::InDoubt { here: true, .. }));
        for line in [&first, &not_posted, &second] {
            told.apply(line, Origin::Store);
        }
        assert_eq!(told.post(), before);
        assert!(told.memory.calls_by_others(told.now).is_empty());
    }

    #[test]
    fn reading_again_from_before_memory_begins_does_not_end_a_younger_doubt() {
        let (mut told, id) = (Told::new(), EventId::fresh());
        let first = told.read(id, intent());
        let not_posted = told.read(id, not_posted(true, Some(&first)));
        told.pass(KEEP.as_secs() + 60);
        let second = told.read(id, intent());
        for line in [&first, &not_posted, &second] {
            told.apply(line, Origin::Store);
        }
        assert!(matches!(told.post(), Post::InDoubt { intended_at, .. }
            if intended_at == second.at));
    }

    #[test]
    fn reading_again_does_not_close_a_room_that_was_opened_since() {
        let (mut told, id) = (Told::new(), EventId::fresh());
        let lines = [told.read(id, refused(403)), told.read(id, posted(false))];
        for line in &lines {
            told.apply(line, Origin::Store);
        }
        assert!(!told.memory.is_closed(ROOM, None, told.now));
    }

    #[test]
    fn an_intent_counts_however_far_behind_its_writers_clock_is() {
        let (mut told, id) = (Told::new(), EventId::fresh());
        let behind = Outcome {
            at: told.now - 3 * KEEP,
            ..told.outcome(id, intent())
        };
        told.apply(&behind, Origin::Store);
        told.pass(KEEP.as_secs() - 1);
        told.read(EventId::fresh(), asked(What::ANSWERED));
        assert!(matches!(told.post(), Post::InDoubt { .. }));
        // And it is still known to be the same one.
        told.memory.resolved(&key(), behind.at);
        told.apply(&behind, Origin::Store);
        assert_eq!(told.post(), Post::Unbegun);
    }

    #[test]
    fn an_intent_is_not_younger_than_its_reading_however_far_ahead_its_writers_clock_is() {
        let mut told = Told::new();
        let ahead = Outcome {
            at: told.now + Duration::from_secs(600),
            ..told.outcome(EventId::fresh(), intent())
        };
        told.apply(&ahead, Origin::Store);
        let now = told.now;
        assert!(matches!(told.post(), Post::InDoubt { intended_at, .. } if intended_at == now));
        let result = not_posted(false, Some(&ahead));
        told.read(ahead.id, result);
        assert_eq!(
            told.post(),
            Post::Unbegun,
            "its result is known by its own date"
        );
    }

    #[test]
    fn a_doubt_may_be_looked_at_fifteen_seconds_after_it_began() {
        let mut told = Told::new();
        told.read(EventId::fresh(), intent());
        let expected = told.instant + Duration::from_secs(15);
        assert!(matches!(told.post(), Post::InDoubt { look_at, .. } if look_at == expected));
        told.memory
            .look_at(&key(), told.instant + Duration::from_secs(3));
        let expected = told.instant + Duration::from_secs(3);
        assert!(matches!(told.post(), Post::InDoubt { look_at, .. } if look_at == expected));
    }

    #[test]
    fn a_look_ends_a_doubt_until_the_next_intent() {
        let (mut told, id) = (Told::new(), EventId::fresh());
        let first = told.wrote(id, intent());
        told.memory.resolved(&key(), first.at);
        assert_eq!(told.post(), Post::Unbegun);
        assert!(told.memory.knows_post(&key()));
        told.pass(1);
        told.read(id, intent());
        assert!(matches!(told.post(), Post::InDoubt { here: false, .. }));
        told.memory.resolved(&key(), first.at);
        assert!(
            matches!(told.post(), Post::InDoubt { .. }),
            "somebody else's doubt stays"
        );
        let last = told.read(id, posted(false));
        told.memory.resolved(&key(), last.at);
        assert!(matches!(told.post(), Post::Posted { .. }));
    }

    #[test]
    fn a_person_overrules_what_was_there_to_be_seen_and_nothing_that_was_begun_since() {
        let (mut told, id) = (Told::new(), EventId::fresh());
        let overrule = |buried_at: Timestamp| What::NotPosted {
            reason: "it is not there".to_owned(),
            called: false,
            intended_at: None,
            overrules_until: Some(buried_at),
        };
        told.read(id, intent());
        told.pass(60);
        let buried_at = told.now;
        told.read(id, overrule(buried_at));
        assert_eq!(told.post(), Post::Unbegun);
        // Posted on this word, and lost. The word comes once more: a second letter about the same
        // message, or a command that was stopped and begun again.
        told.pass(1);
        told.wrote(id, intent());
        told.pass(1);
        told.read(id, overrule(buried_at));
        assert!(matches!(told.post(), Post::InDoubt { .. }));
    }

    #[test]
    fn one_answer_per_message_however_many_events_carry_it() {
        let (first, second) = (EventId::fresh(), EventId::fresh());
        let mut told = Told::new();
        assert_eq!(told.memory.answered(&key(), first, 0), Answered::No);
        told.read(
            first,
            What::ReplyStored {
                text: String::new(),
            },
        );
        assert_eq!(told.memory.answered(&key(), first, 0), Answered::ByItself);
        assert_eq!(told.memory.answered(&key(), second, 0), Answered::ByAnother);
        // A person puts it back in: asked again, unless the answer is in the room.
        assert_eq!(told.memory.answered(&key(), first, 1), Answered::No);
        told.read(first, posted(false));
        assert_eq!(told.memory.answered(&key(), first, 1), Answered::ByAnother);
        assert_eq!(told.memory.answered(&key(), second, 0), Answered::ByAnother);
    }

    #[test]
    fn a_room_is_closed_for_ten_minutes_after_a_403_or_404() {
        for (status, closes) in [(403, true), (404, true), (400, false)] {
            let mut told = Told::new();
            told.read(EventId::fresh(), refused(status));
            assert_eq!(
                told.memory.is_closed(ROOM, None, told.now),
                closes,
                "{status}"
            );
            let put_back = told.now + Duration::from_secs(1);
            assert!(!told.memory.is_closed(ROOM, Some(put_back), told.now));
            told.pass(600);
            assert!(!told.memory.is_closed(ROOM, None, told.now));
        }
    }

    #[test]
    fn a_post_that_works_opens_its_room_again() {
        let mut told = Told::new();
        told.read(EventId::fresh(), refused(403));
        told.read(EventId::fresh(), posted(false));
        assert!(!told.memory.is_closed(ROOM, None, told.now));
    }

    fn received(told: &Told, seconds: u64) -> EventId {
        let at = told.now + Duration::from_secs(seconds);
        let seconds = at.as_second().unsigned_abs();
        let time = uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0);
        EventId(uuid::Uuid::new_v7(time))
    }

    const THREE_A_MINUTE: Limit = Limit {
        calls: 3,
        per: Duration::from_secs(60),
    };

    fn ask(told: &mut Told, id: EventId) -> bool {
        let now = told.now;
        let asked_for = told.memory.reserve(ROOM, SENDER, id, THREE_A_MINUTE, now);
        if asked_for {
            told.wrote(id, asked(What::ANSWERED));
        }
        asked_for
    }

    #[test]
    fn a_sender_gets_so_many_answers_in_any_window() {
        let mut told = Told::new();
        let seconds = [0, 10, 20, 30, 59, 61, 62, 71];
        let answered = seconds.map(|seconds| {
            let id = received(&told, seconds);
            ask(&mut told, id)
        });
        assert_eq!(
            answered,
            [true, true, true, false, false, true, false, true]
        );
    }

    #[test]
    fn the_order_in_which_a_flood_is_worked_off_makes_no_difference_to_how_much_is_answered() {
        let mut told = Told::new();
        let answered = (0..12).rev().filter(|number| {
            let id = received(&told, number * 5);
            ask(&mut told, id)
        });
        assert_eq!(answered.count(), 3);
    }

    #[test]
    fn a_backlog_is_no_flood() {
        let mut told = Told::new();
        let answered = (0..30).filter(|number| {
            let id = received(&told, number * 25);
            ask(&mut told, id)
        });
        assert_eq!(answered.count(), 30);
    }

    #[test]
    fn a_try_that_failed_is_not_held_against_its_sender() {
        let mut told = Told::new();
        for number in 0..6 {
            let (id, now) = (received(&told, number), told.now);
            assert!(told.memory.reserve(ROOM, SENDER, id, THREE_A_MINUTE, now));
            told.wrote(id, asked("SimSimi did not answer in time"));
            told.memory.release(ROOM, SENDER, id);
        }
    }

    #[test]
    fn asks_in_flight_count() {
        let told = &mut Told::new();
        let reserved = (0..6).filter(|number| {
            let (id, now) = (received(told, *number), told.now);
            told.memory.reserve(ROOM, SENDER, id, THREE_A_MINUTE, now)
        });
        assert_eq!(reserved.count(), 3);
    }

    #[test]
    fn calls_by_others_are_told_once_and_at_the_time_of_their_answer() {
        let (mut told, id) = (Told::new(), EventId::fresh());
        told.read(id, intent());
        told.pass(2);
        told.read(id, posted(false));
        told.pass(1);
        told.read(
            EventId::fresh(),
            What::Looked {
                result: "absent".to_owned(),
                reply_message_id: None,
                reaches_back_to: None,
            },
        );
        let not_sent = EventId::fresh();
        let intent = told.read(not_sent, intent());
        told.read(not_sent, not_posted(false, Some(&intent)));
        told.pass(3);
        let mut calls = told.memory.calls_by_others(told.now);
        calls.sort();
        let seconds = Duration::from_secs;
        assert_eq!(calls, [(None, seconds(3)), (Some(ROOM), seconds(4))]);
        assert!(told.memory.calls_by_others(told.now).is_empty());
    }

    #[test]
    fn another_bots_outcomes_are_not_ours() {
        let mut told = Told::new();
        let mut outcome = told.outcome(EventId::fresh(), intent());
        outcome.bot = BotName::new("other").expect("a name");
        told.apply(&outcome, Origin::Store);
        assert_eq!(told.post(), Post::Unbegun);
    }

    #[test]
    fn everything_is_forgotten_in_time() {
        let (mut told, id) = (Told::new(), EventId::fresh());
        for what in [
            asked(What::ANSWERED),
            intent(),
            refused(403),
            not_posted(true, None),
        ] {
            told.read(id, what);
        }
        told.read(
            id,
            What::Later {
                step: Step::Ask,
                reason: "busy".to_owned(),
                until: told.now,
            },
        );
        assert_eq!(told.memory.last_reason(id), Some("busy"));
        told.pass(KEEP.as_secs() + 1);
        let now = told.now;
        told.memory.forget(now);
        let memory = &told.memory;
        assert!(memory.stories.is_empty() && memory.calls.is_empty());
        assert!(memory.closed.is_empty() && memory.senders.is_empty() && memory.put_off.is_empty());
        told.pass(KEEP.as_secs());
        let now = told.now;
        told.memory.forget(now);
        assert!(told.memory.applied.is_empty());
    }

    fn history(queue: &chickwork_queue::Queue) -> Arc<History> {
        let (bot, max_age) = (BotName::default(), Duration::from_secs(3600));
        Arc::new(History::new(queue.outcomes(), bot, max_age))
    }

    fn entries(history: &History) -> u64 {
        history.progress.borrow().entries
    }

    #[tokio::test]
    async fn whoever_passes_the_barrier_knows_what_was_stored_before_it() {
        let scratch = Scratch::new().await;
        let history = history(&scratch.queue);
        let mut outcome = Told::new().outcome(EventId::fresh(), intent());
        outcome.at = Timestamp::now();
        scratch.queue.outcomes().record(outcome);
        let follower = tokio::spawn(Arc::clone(&history).follow());
        assert!(history.caught_up().borrow().is_err(), "nothing is read yet");
        history.barrier().await.expect("a barrier");
        assert_eq!(*history.caught_up().borrow(), Ok(()));
        assert!(matches!(
            history.memory().post(&key()),
            Post::InDoubt { .. }
        ));
        follower.abort();
    }

    #[tokio::test]
    async fn a_follower_that_reads_nothing_though_a_mark_is_stored_begins_again() {
        let scratch = Scratch::new().await;
        let history = history(&scratch.queue);
        let soon = Instant::now() + Duration::from_secs(1);
        let passed = history.pass(soon).await;
        assert!(matches!(passed, Err(NotCaughtUp::TooSlow)), "nobody reads");
        // It is asked to begin again, and reads the mark once before that or once after.
        let follower = tokio::spawn(Arc::clone(&history).follow());
        history.barrier().await.expect("a barrier");
        let before = entries(&history);
        history.silent.notify_one();
        let mut progress = history.progress.subscribe();
        let again = progress.wait_for(|progress| progress.entries >= before + 2);
        tokio::time::timeout(PATIENCE, again)
            .await
            .expect("both marks are read again")
            .expect("the sender lives");
        history.barrier().await.expect("a barrier");
        follower.abort();
    }

    #[tokio::test]
    async fn a_silent_follower_is_told_once_and_a_slow_one_never() {
        let scratch = Scratch::new().await;
        let history = history(&scratch.queue);
        let told = || {
            let told = history.silent.notified();
            let mut told = std::pin::pin!(told);
            told.as_mut().enable()
        };
        // Setting the mark takes a part of it, on a slow disk a large one.
        let limit = Duration::from_secs(3);
        assert!(history.pass(Instant::now() + limit).await.is_err());
        assert!(told() && !told());

        let behind = async {
            loop {
                let outcome = Told::new().outcome(EventId::fresh(), intent());
                history.take_in(Entry::Outcome(outcome));
                // Slow, but at it all the time.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let passed = tokio::select! {
            passed = history.pass(Instant::now() + limit) => passed,
            () = behind => unreachable!("it has no end"),
        };
        assert!(passed.is_err() && !told());
    }

    #[tokio::test]
    async fn a_worker_is_ready_again_by_itself_when_the_outcomes_can_be_read_again() {
        let scratch = Scratch::new().await;
        let history = history(&scratch.queue);
        let sentence = "they cannot be read".to_owned();
        history
            .caught_up
            .send_modify(|caught_up| *caught_up = Err(sentence));
        let follower = tokio::spawn(Arc::clone(&history).follow());
        let keeper = tokio::spawn(Arc::clone(&history).keep_up());
        let mut caught_up = history.caught_up();
        let ready = caught_up.wait_for(Result::is_ok);
        let ready = tokio::time::timeout(PATIENCE, ready).await;
        assert!(matches!(ready, Ok(Ok(_))), "it is ready");
        follower.abort();
        keeper.abort();
    }

    #[tokio::test]
    async fn a_barrier_that_cannot_be_passed_says_why() {
        let history = history(&queue_away().await);
        assert!(matches!(
            history.barrier().await,
            Err(NotCaughtUp::NoMark(_) | NotCaughtUp::TooSlow)
        ));
        let caught_up = history.caught_up().borrow().clone();
        let why = caught_up.expect_err("it is not caught up");
        assert!(why.contains("outcomes"), "{why}");
    }
}
