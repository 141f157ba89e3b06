//! What this process remembers of the outcomes: the write-ahead log of posts, read from the store
//! from `MAX_AGE` + 10 min back and followed from then on, together with what it wrote itself.
//!
//! It answers whether a message has been answered, is perhaps being answered, or may be answered
//! now; which rooms are closed; who has asked too much; and which calls others have made. Nothing
//! here is the truth except up to a [`barrier`](History::barrier): whatever was stored before that
//! is known after it. Everything is forgotten in time, so memory is bounded by the rate of answers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_queue::event::{AnswerKey, BotName, EventId};
use chickwork_queue::job::{Cause, Step};
use chickwork_queue::outcome::{Outcome, What};
use chickwork_queue::{Entry, Outcomes, QueueError};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::decide::LOOK_AFTER_SILENCE;
use crate::limits::Limit;

/// How much longer than an event may be answered its outcomes are remembered.
pub(crate) const BEYOND_MAX_AGE: Duration = Duration::from_secs(600);

/// How long a room is not asked for after Chatwork refused a post there with 403 or 404.
const ROOM_CLOSED: SignedDuration = SignedDuration::from_mins(10);

/// How long a barrier may take: setting the mark, and reading up to it.
const BARRIER: Duration = Duration::from_secs(20);

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
    marks: watch::Sender<VecDeque<uuid::Uuid>>,
}

impl History {
    /// An empty memory of what `outcomes` hold about this bot.
    pub(crate) fn new(outcomes: Outcomes, bot: BotName, max_age: Duration) -> Self {
        Self {
            outcomes,
            memory: Mutex::new(Memory::new(bot, max_age + BEYOND_MAX_AGE, Timestamp::now())),
            marks: watch::Sender::new(VecDeque::new()),
        }
    }

    /// Reads from as far back as is remembered, and goes on for ever.
    pub(crate) async fn follow(self: Arc<Self>) {
        let since = self.memory().horizon(Timestamp::now());
        let mut follow = self.outcomes.follow(since);
        loop {
            match follow.next().await {
                Entry::Outcome(outcome) => {
                    self.memory()
                        .apply(&outcome, Origin::Store, Timestamp::now(), Instant::now());
                }
                Entry::Mark(mark) => self.marks.send_modify(|marks| {
                    marks.push_back(mark);
                    if marks.len() > MARKS {
                        marks.pop_front();
                    }
                }),
            }
        }
    }

    /// Returns when everything that was stored before this call is remembered.
    pub(crate) async fn barrier(&self) -> Result<(), NotCaughtUp> {
        let caught_up = async {
            let mark = self.outcomes.mark().await?;
            // The sender lives in `self`: the wait cannot end by its absence.
            let _ = self
                .marks
                .subscribe()
                .wait_for(|marks| marks.contains(&mark))
                .await;
            Ok(())
        };
        tokio::time::timeout(BARRIER, caught_up)
            .await
            .unwrap_or(Err(NotCaughtUp::TooSlow))
    }

    /// Remembers what this process did, before or after the store hears of it.
    pub(crate) fn wrote(&self, outcome: &Outcome) {
        self.memory()
            .apply(outcome, Origin::Here, Timestamp::now(), Instant::now());
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
        /// When the intent was written, by its writer's clock.
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
    stories: HashMap<(RoomId, MessageId), Story>,
    /// Lines of the write-ahead log that were applied already; they may be read again.
    applied: HashSet<(Timestamp, EventId, Line)>,
    /// Calls by all processes, by the intent or look that made them.
    calls: HashMap<(Timestamp, EventId), Call>,
    closed: HashMap<RoomId, Timestamp>,
    senders: HashMap<(RoomId, AccountId), Vec<Asked>>,
    put_off: HashMap<EventId, (Timestamp, String)>,
    /// Posts that were made but could not be written down yet.
    untold: HashMap<EventId, Outcome>,
}

#[derive(Debug)]
struct Story {
    touched: Timestamp,
    answered_by: Option<EventId>,
    post: Post,
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
            applied: HashSet::new(),
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
        let story = self.stories.get(&(key.room_id, key.message_id.clone()));
        story.map_or(Post::Unbegun, |story| story.post)
    }

    /// Whether anything at all is known about the post of this answer.
    pub(crate) fn knows_post(&self, key: &AnswerKey) -> bool {
        let story = self.stories.get(&(key.room_id, key.message_id.clone()));
        story.is_some_and(|story| story.intent.is_some() || story.is_posted())
    }

    /// Whether this event's message has been answered. An event that a person has put back in is
    /// asked again, unless an answer is in the room: one answer per message.
    pub(crate) fn answered(&self, key: &AnswerKey, id: EventId, replay: u32) -> Answered {
        let Some(story) = self.stories.get(&(key.room_id, key.message_id.clone())) else {
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
        let story = self.stories.get_mut(&(key.room_id, key.message_id.clone()));
        if let Some(Post::InDoubt { look_at, .. }) = story.map(|story| &mut story.post) {
            *look_at = at;
        }
    }

    /// A look showed that what was intended then did not happen: that doubt is over, for this process.
    /// A newer one, of somebody who took over meanwhile, is not.
    pub(crate) fn resolved(&mut self, key: &AnswerKey, then: Timestamp) {
        let story = self.stories.get_mut(&(key.room_id, key.message_id.clone()));
        if let Some(story) = story
            && matches!(story.post, Post::InDoubt { intended_at, .. } if intended_at == then)
        {
            story.post = Post::Unbegun;
        }
    }

    /// A result could not be stored; it is to be told when its job comes back.
    pub(crate) fn not_told(&mut self, outcome: Outcome) {
        self.untold.insert(outcome.id, outcome);
    }

    /// A result that is still to be told.
    pub(crate) fn untold(&mut self, id: EventId) -> Option<Outcome> {
        self.untold.remove(&id)
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
    pub(crate) fn apply(
        &mut self,
        outcome: &Outcome,
        origin: Origin,
        now: Timestamp,
        instant: Instant,
    ) {
        // A clock that is ahead must not make a line immortal.
        let at = outcome.at.min(now);
        if outcome.bot != self.bot || at < self.horizon(now) {
            return;
        }
        self.forget(now);
        if let What::Later { reason, .. } = &outcome.what {
            self.put_off.insert(outcome.id, (at, reason.clone()));
        } else if matches!(outcome.what, What::Dead { .. } | What::Posted { .. }) {
            self.put_off.remove(&outcome.id);
        }
        let Some(key) = outcome.answer_key() else {
            return;
        };
        match &outcome.what {
            What::Asked { result, sender, .. }
                if matches!(result.as_str(), ANSWERED | NO_ANSWER) =>
            {
                self.asked(key.room_id, *sender, outcome.id, at);
            }
            What::ReplyStored { .. } => {
                let story = self.story(key, at);
                story.answered_by.get_or_insert(outcome.id);
            }
            What::Dead {
                step: Step::Post,
                cause: Cause::Refused,
                status: Some(403 | 404),
                ..
            } => {
                let closed = self.closed.entry(key.room_id).or_insert(at);
                *closed = (*closed).max(at);
            }
            What::Intent { .. } if self.is_new(outcome, Line::Intent) => {
                let call = (outcome.at, outcome.id);
                self.call(call, at, Some(key.room_id), origin);
                let story = self.story(key, at);
                story.intent = Some(call);
                if !story.is_posted() {
                    story.post = Post::InDoubt {
                        here: origin == Origin::Here,
                        intended_at: outcome.at,
                        look_at: instant + LOOK_AFTER_SILENCE,
                    };
                }
            }
            What::Posted { found, .. } if self.is_new(outcome, Line::Posted) => {
                self.closed.remove(&key.room_id);
                let story = self.story(key, at);
                story.post = Post::Posted { by: outcome.id };
                if let Some(call) = story.intent
                    && !found
                {
                    self.call_answered(call, at);
                }
            }
            What::NotPosted { called, .. } if self.is_new(outcome, Line::NotPosted) => {
                let story = self.story(key, at);
                if !story.is_posted() {
                    story.post = Post::Unbegun;
                }
                match story.intent {
                    Some(call) if *called => self.call_answered(call, at),
                    Some(call) => drop(self.calls.remove(&call)),
                    // A person overrules: that it was decided is all that has to be known.
                    None => story.intent = Some((outcome.at, outcome.id)),
                }
            }
            What::Looked { .. } if self.is_new(outcome, Line::Looked) => {
                self.call((outcome.at, outcome.id), at, None, origin);
            }
            _ => {}
        }
    }

    fn is_new(&mut self, outcome: &Outcome, line: Line) -> bool {
        self.applied.insert((outcome.at, outcome.id, line))
    }

    fn story(&mut self, key: AnswerKey, at: Timestamp) -> &mut Story {
        let story = self
            .stories
            .entry((key.room_id, key.message_id))
            .or_insert(Story {
                touched: at,
                answered_by: None,
                post: Post::Unbegun,
                intent: None,
            });
        story.touched = story.touched.max(at);
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

    fn asked(&mut self, room: RoomId, sender: AccountId, id: EventId, at: Timestamp) {
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
        self.applied.retain(|(at, ..)| *at >= horizon);
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

/// The results of asking that are answers, as the outcomes name them.
pub(crate) const ANSWERED: &str = "answered";
/// See [`ANSWERED`].
pub(crate) const NO_ANSWER: &str = "no_answer";

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

    fn not_posted(called: bool) -> What {
        What::NotPosted {
            reason: String::new(),
            called,
        }
    }

    fn asked(result: &str) -> What {
        What::Asked {
            millis: 1,
            result: result.to_owned(),
            sender: SENDER,
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
        let id = EventId::fresh();
        let in_doubt = |post| matches!(post, Post::InDoubt { here: false, .. });
        type Expected = fn(Post) -> bool;
        let table: [(&[What], Expected); 7] = [
            (&[], |post| post == Post::Unbegun),
            (&[intent()], in_doubt),
            (&[intent(), not_posted(true)], |post| post == Post::Unbegun),
            (&[intent(), not_posted(false), intent()], in_doubt),
            (&[intent(), posted(false)], |post| {
                matches!(post, Post::Posted { .. })
            }),
            (&[intent(), posted(true), intent()], |post| {
                matches!(post, Post::Posted { .. })
            }),
            (&[intent(), posted(false), not_posted(true)], |post| {
                matches!(post, Post::Posted { .. })
            }),
        ];
        for (lines, expected) in table {
            let mut told = Told::new();
            for line in lines {
                told.read(id, line.clone());
                told.pass(1);
            }
            assert!(expected(told.post()), "{lines:?}: {:?}", told.post());
        }
    }

    #[test]
    fn reading_again_what_was_written_here_changes_nothing() {
        let (mut told, id) = (Told::new(), EventId::fresh());
        let mut lines = Vec::new();
        for what in [intent(), not_posted(true), intent()] {
            lines.push(told.wrote(id, what));
            told.pass(1);
        }
        let before = told.post();
        assert!(matches!(before, Post::InDoubt { here: true, .. }));
        for line in &lines {
            told.apply(line, Origin::Store);
        }
        assert_eq!(told.post(), before);
        assert!(told.memory.calls_by_others(told.now).is_empty());
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
            told.wrote(id, asked(ANSWERED));
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
            },
        );
        let not_sent = EventId::fresh();
        told.read(not_sent, intent());
        told.read(not_sent, not_posted(false));
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
        for what in [asked(ANSWERED), intent(), refused(403), not_posted(true)] {
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
        assert!(memory.stories.is_empty() && memory.applied.is_empty() && memory.calls.is_empty());
        assert!(memory.closed.is_empty() && memory.senders.is_empty() && memory.put_off.is_empty());
        // What is older than the memory is not taken in either.
        let old = Outcome {
            at: told.now - KEEP - Duration::from_secs(1),
            ..told.outcome(id, intent())
        };
        told.apply(&old, Origin::Store);
        assert_eq!(told.post(), Post::Unbegun);
    }
}
