//! What both steps share: the clients, the memory, the limits; and how a claim is settled, told and
//! counted, which is the same for both.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_clients::chatwork::{CallError, Chatwork};
use chickwork_clients::simsimi::SimSimi;
use chickwork_queue::event::{AnswerKey, BotName, Event, EventId};
use chickwork_queue::job::{Attempt, Cause, Reply, Settled, Settlement, Step, Tenure};
use chickwork_queue::outcome::{Outcome, What};
use chickwork_queue::{Claim, Outcomes, Queue};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Settings;
use crate::decide::Situation;
use crate::history::{History, NotCaughtUp};
use crate::limits::Limiter;
use crate::look::Looks;
use crate::pause::Pause;
use crate::understand::Reason;
use crate::who::{Known, Me};

/// Put off until after the event's last moment, a job comes back just late enough to be given up.
const PAST_THE_END: Duration = Duration::from_secs(1);

/// Who comes out of a pause comes within so much of its length.
const PAUSE_JITTER: f64 = 0.1;

/// Why a reply is put off that has no slot.
pub(crate) const LIMITED: &str = "rate limit";
/// Why one is put off that Chatwork refused with 429: by whose limit.
pub(crate) const LIMITED_IN_ROOM: &str = "rate limit: Chatwork wants no more posts in this room";
/// See [`LIMITED_IN_ROOM`].
pub(crate) const LIMITED_FOR_ACCOUNT: &str =
    "rate limit: Chatwork wants no more calls by this account";

/// What is counted for a claim that made its step panic.
pub(crate) const PANIC: &str = "panic";

/// What can come of a claim in either step; of one to ask also `answered` and `ignored`, of one to
/// post `posted`.
const OUTCOMES: [&str; 6] = ["done", "later", "put_off", "dead", "given_back", PANIC];

/// Everything the steps work with.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) settings: Settings,
    pub(crate) outcomes: Outcomes,
    pub(crate) simsimi: SimSimi,
    pub(crate) chatwork: Chatwork,
    pub(crate) known: watch::Receiver<Known>,
    pub(crate) history: Arc<History>,
    pub(crate) limiter: Limiter,
    pub(crate) looks: Looks,
    pub(crate) ask_pause: Pause,
    pub(crate) post_pause: Pause,
    pub(crate) asking: Busy,
    pub(crate) posting: Busy,
    pub(crate) standings: Standings,
    /// One clone for each claim that is worked on.
    pub(crate) claimed: Arc<()>,
    /// Tells this process from others in intents.
    process: String,
}

impl Desk {
    pub(crate) fn new(
        settings: Settings,
        queue: &Queue,
        simsimi: SimSimi,
        chatwork: Chatwork,
        known: watch::Receiver<Known>,
    ) -> Self {
        let outcomes = queue.outcomes();
        let history = History::new(outcomes.clone(), settings.bot.clone(), settings.max_age);
        begin_at_zero();
        Self {
            limiter: Limiter::new(settings.account_limit, settings.room_limit),
            history: Arc::new(history),
            outcomes,
            simsimi,
            chatwork,
            known,
            looks: Looks::default(),
            ask_pause: Pause::new(Step::Ask),
            post_pause: Pause::new(Step::Post),
            asking: Busy::default(),
            posting: Busy::default(),
            standings: Standings::default(),
            claimed: Arc::default(),
            process: format!("{:016x}", fastrand::u64(..)),
            settings,
        }
    }

    /// The bot; an error only before anything was claimed.
    pub(crate) fn me(&self) -> Result<Me, String> {
        self.known.borrow().clone()
    }

    /// How this process signs intents.
    pub(crate) fn consumer(&self, tenure: Tenure) -> String {
        format!("{}.{}", self.process, tenure.0)
    }

    /// How much longer something of this age may be answered.
    pub(crate) fn left(&self, aged_from: Timestamp, now: Timestamp) -> Duration {
        // What lies in the future counts as now.
        let age = Duration::try_from(now.duration_since(aged_from)).unwrap_or(Duration::ZERO);
        self.settings.max_age.saturating_sub(age)
    }

    /// Ends the claim, and tells.
    pub(crate) async fn settle(&self, claim: Claim, subject: &Subject, ending: Ending) {
        let Ending {
            settlement,
            outcomes,
        } = ending;
        let told = Told::new(subject.step, &settlement, &outcomes);
        let settled = Settled {
            settlement,
            outcomes: outcomes.clone(),
        };
        match claim.settle(settled).await {
            Ok(()) => {
                for outcome in &outcomes {
                    self.history.wrote(outcome);
                }
                told.log(subject);
            }
            Err(error) => {
                log::warn!(
                    step = subject.step.as_str(), id:% = subject.id;
                    "could not be settled and comes back: {error}"
                );
                // What is in a room stays there, whoever the claim belongs to now.
                let posted = |outcome: &Outcome| matches!(outcome.what, What::Posted { .. });
                for outcome in outcomes.into_iter().filter(posted) {
                    self.outcomes.record(outcome.clone());
                    self.history.memory().not_told(outcome);
                }
            }
        }
    }
}

/// What a claim is about.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) step: Step,
    pub(crate) id: EventId,
    bot: BotName,
    room_id: Option<RoomId>,
    message_id: Option<MessageId>,
    again: Option<Timestamp>,
}

impl Subject {
    pub(crate) fn of_event(event: &Event) -> Self {
        Self {
            step: Step::Ask,
            id: event.id,
            bot: event.bot.clone(),
            room_id: event.room_id,
            message_id: event.message_id.clone(),
            again: event.again,
        }
    }

    pub(crate) fn of_reply(reply: &Reply) -> Self {
        Self {
            step: Step::Post,
            id: reply.id,
            bot: reply.bot.clone(),
            room_id: Some(reply.room_id),
            message_id: Some(reply.message_id.clone()),
            again: reply.again,
        }
    }

    /// A line for this subject's story, now.
    pub(crate) fn outcome(&self, what: What) -> Outcome {
        Outcome {
            v: Outcome::VERSION,
            at: Timestamp::now(),
            id: self.id,
            bot: self.bot.clone(),
            room_id: self.room_id,
            message_id: self.message_id.clone(),
            again: self.again,
            what,
        }
    }

    /// Nothing is left to do.
    pub(crate) fn done(&self) -> Ending {
        Ending {
            settlement: Settlement::Done,
            outcomes: Vec::new(),
        }
    }

    /// Nothing is to be said.
    pub(crate) fn ignored(&self, reason: Reason) -> Ending {
        let reason = reason.as_str().to_owned();
        self.done().and(self.outcome(What::Ignored { reason }))
    }

    /// The next step.
    pub(crate) fn next(&self, reply: Reply) -> Ending {
        let text = reply.text.clone();
        Ending {
            settlement: Settlement::Next(reply),
            outcomes: vec![self.outcome(What::ReplyStored { text })],
        }
    }

    /// A try has failed: the next one comes after this time.
    pub(crate) fn again(&self, wait: Duration, reason: impl ToString) -> Ending {
        self.later(wait, Attempt::Counted, reason)
    }

    /// Not now, through no fault of the job.
    pub(crate) fn not_yet(&self, wait: Duration, reason: impl ToString) -> Ending {
        self.later(wait, Attempt::NotCounted, reason)
    }

    fn later(&self, wait: Duration, attempt: Attempt, reason: impl ToString) -> Ending {
        let wait = wait.min(Settlement::LONGEST_DELAY);
        let now = Timestamp::now();
        let later = What::Later {
            step: self.step,
            reason: shortened(reason.to_string()),
            until: now.saturating_add(wait).unwrap_or(now),
        };
        Ending {
            settlement: Settlement::Later(wait, attempt),
            outcomes: vec![self.outcome(later)],
        }
    }

    /// Given up.
    pub(crate) fn dead(&self, cause: Cause, status: Option<u16>, error: impl ToString) -> Ending {
        let error = shortened(error.to_string());
        let dead = What::Dead {
            step: self.step,
            cause,
            error: error.clone(),
            status,
        };
        Ending {
            settlement: Settlement::Bury { cause, error },
            outcomes: vec![self.outcome(dead)],
        }
    }

    /// Not ours any more.
    pub(crate) fn given_back(&self) -> Ending {
        Ending {
            settlement: Settlement::GiveBack,
            outcomes: Vec::new(),
        }
    }
}

/// How a claim ends, and what is written about it.
#[derive(Debug)]
pub(crate) struct Ending {
    settlement: Settlement,
    outcomes: Vec<Outcome>,
}

impl Ending {
    /// Another line for the story, at its end.
    pub(crate) fn and(mut self, outcome: Outcome) -> Self {
        self.outcomes.push(outcome);
        self
    }

    /// What happened before. Stories are told in the order of time, so what it led to is no earlier, in
    /// whichever order the lines were made.
    pub(crate) fn after(mut self, earlier: impl IntoIterator<Item = Outcome>) -> Self {
        let earlier: Vec<Outcome> = earlier.into_iter().collect();
        if let Some(at) = earlier.iter().map(|outcome| outcome.at).max() {
            for outcome in &mut self.outcomes {
                outcome.at = outcome.at.max(at);
            }
        }
        self.outcomes.splice(0..0, earlier);
        self
    }
}

/// Cuts a text for people at the length that is kept, between two characters.
fn shortened(mut text: String) -> String {
    let mut end = text.len().min(Settlement::LONGEST_ERROR);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// A wait that ends soon after the event's last moment, when that comes first.
pub(crate) fn at_most(wait: Duration, left: Duration) -> Duration {
    wait.min(left + PAST_THE_END)
}

/// When to come back to a step that pauses: a little after its end, not all in the same moment.
pub(crate) fn until_resumed(rest: Duration, situation: &Situation) -> Duration {
    let rest = rest.mul_f64(1.0 + PAUSE_JITTER * situation.dice);
    at_most(rest, situation.left)
}

/// A settlement as metrics and the log tell it.
struct Told {
    outcome: &'static str,
    detail: String,
    level: log::Level,
    step: Step,
    cause: Option<Cause>,
}

impl Told {
    fn new(step: Step, settlement: &Settlement, outcomes: &[Outcome]) -> Self {
        use log::Level::{Debug, Info, Warn};
        let ignored = outcomes.iter().find_map(|outcome| match &outcome.what {
            What::Ignored { reason } => Some(reason.clone()),
            _ => None,
        });
        let put_off = outcomes.iter().find_map(|outcome| match &outcome.what {
            What::Later { reason, .. } => Some(reason.clone()),
            _ => None,
        });
        let posted = outcomes
            .iter()
            .any(|outcome| matches!(outcome.what, What::Posted { .. }));
        let (outcome, detail, level) = match (settlement, ignored) {
            (Settlement::Done, Some(reason)) => ("ignored", reason, Info),
            (Settlement::Done, None) if posted => ("posted", String::new(), Info),
            (Settlement::Done, None) => ("done", "it was done already".to_owned(), Info),
            (Settlement::Next(_), _) => ("answered", String::new(), Info),
            (Settlement::Later(_, Attempt::Counted), _) => {
                ("later", put_off.unwrap_or_default(), Warn)
            }
            (Settlement::Later(_, Attempt::NotCounted), _) => {
                ("put_off", put_off.unwrap_or_default(), Debug)
            }
            (Settlement::Bury { cause, error }, _) => {
                ("dead", format!("{}: {error}", cause.as_str()), Warn)
            }
            (Settlement::GiveBack, _) => ("given_back", String::new(), Info),
        };
        let cause = match settlement {
            Settlement::Bury { cause, .. } => Some(*cause),
            _ => None,
        };
        Self {
            outcome,
            detail,
            level,
            step,
            cause,
        }
    }

    fn log(&self, subject: &Subject) {
        if let Some(cause) = self.cause {
            metrics::counter!("chickwork_dead_total", "cause" => cause.as_str()).increment(1);
        }
        jobs(self.step, self.outcome).increment(1);
        let room = subject
            .room_id
            .map_or("-".to_owned(), |room| room.to_string());
        let message = subject.message_id.as_ref().map_or("-", MessageId::as_str);
        let separator = if self.detail.is_empty() { "" } else { ": " };
        log::log!(
            self.level,
            step = self.step.as_str(), id:% = subject.id, room = room.as_str(), message = message;
            "{}{separator}{}", self.outcome, self.detail
        );
    }
}

/// How many claims ended so.
pub(crate) fn jobs(step: Step, outcome: &'static str) -> metrics::Counter {
    metrics::counter!("chickwork_jobs_total", "step" => step.as_str(), "outcome" => outcome)
}

/// A figure that exists before its first event shows that as an increase.
fn begin_at_zero() {
    let own: [(Step, &[&str]); 2] = [
        (Step::Ask, &["answered", "ignored"]),
        (Step::Post, &["posted"]),
    ];
    for (step, own) in own {
        for outcome in own.iter().chain(&OUTCOMES) {
            jobs(step, outcome).absolute(0);
        }
    }
}

/// Notes how long a call took and what came of it.
pub(crate) fn called(service: &'static str, result: &'static str, took: Duration) {
    metrics::histogram!("chickwork_call_seconds", "service" => service, "result" => result)
        .record(took.as_secs_f64());
}

/// What came of a call to Chatwork, in a word.
pub(crate) fn chatwork_result<T>(answer: &Result<T, CallError>) -> &'static str {
    match answer {
        Ok(_) => "ok",
        Err(CallError::NotSent(_)) => "not_sent",
        Err(CallError::InDoubt(_)) => "in_doubt",
        Err(CallError::Refused { status: 429, .. }) => "limited",
        Err(CallError::Refused { status: 500.., .. }) => "failed",
        Err(CallError::Refused { .. }) => "refused",
        Err(CallError::Nonsense(_)) => "nonsense",
    }
}

/// Messages that somebody in this process is busy with; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Busy(Arc<Mutex<HashSet<AnswerKey>>>);

/// As long as it lives, nobody else is busy with the message.
#[derive(Debug)]
pub(crate) struct Held {
    busy: Busy,
    key: AnswerKey,
}

impl Busy {
    /// Takes the message, unless somebody else has it.
    pub(crate) fn hold(&self, key: &AnswerKey) -> Option<Held> {
        self.set().insert(key.clone()).then(|| Held {
            busy: self.clone(),
            key: key.clone(),
        })
    }

    fn set(&self) -> std::sync::MutexGuard<'_, HashSet<AnswerKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.busy.set().remove(&self.key);
    }
}

/// Whether this process knows all posts by its predecessors.
#[derive(Debug, Default)]
pub(crate) struct Standings(tokio::sync::Mutex<Newest>);

#[derive(Debug, Default)]
struct Newest {
    current: Option<(Tenure, Instant)>,
    failed: Option<(Tenure, Instant)>,
}

/// Whether a claim's tenure gives the right to post.
#[derive(Debug)]
pub(crate) enum Standing {
    /// It does, since then.
    Current(Instant),
    /// A newer tenure has begun: somebody else may have been active in between.
    Superseded,
    /// What predecessors did is not known; try again a little later.
    Unknown(Option<NotCaughtUp>),
}

impl Standings {
    /// Whether this process is the one that posts, as far as it knows. It is not told when somebody
    /// else has taken over; it finds out with its next claim.
    pub(crate) fn posts(&self) -> bool {
        // Locked is he who waits for what his predecessors did.
        let newest = self.0.try_lock();
        newest.is_ok_and(|newest| newest.current.is_some())
    }

    /// After a failure nobody of that tenure tries again for so long.
    pub(crate) const REST: Duration = Duration::from_secs(5);

    /// The standing of a tenure. Its first claim sets a mark and waits until everything before it
    /// is known; the others wait for the first.
    pub(crate) async fn of(
        &self,
        tenure: Tenure,
        history: &History,
        limiter: &Limiter,
    ) -> Standing {
        let mut newest = self.0.lock().await;
        match newest.current {
            Some((current, since)) if current == tenure => return Standing::Current(since),
            Some((current, _)) if current > tenure => return Standing::Superseded,
            Some(_) | None => {}
        }
        if let Some((failed, at)) = newest.failed
            && failed == tenure
            && at.elapsed() < Self::REST
        {
            return Standing::Unknown(None);
        }
        if let Err(error) = history.barrier().await {
            newest.failed = Some((tenure, Instant::now()));
            return Standing::Unknown(Some(error));
        }
        let now = Instant::now();
        let by_others = history.memory().calls_by_others(Timestamp::now());
        let by_others = by_others
            .into_iter()
            .filter_map(|(room, ago)| Some((room, now.checked_sub(ago)?)));
        limiter.restore(by_others, now);
        newest.current = Some((tenure, now));
        log::info!(tenure = tenure.0; "this process posts now");
        Standing::Current(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::{PATIENCE, Scratch, mention, queue_away, reply};
    use crate::{ask, post};

    fn key(message: &str) -> AnswerKey {
        AnswerKey {
            bot: BotName::default(),
            room_id: RoomId(1),
            message_id: MessageId::new(message).expect("a message id"),
            again: None,
        }
    }

    #[test]
    fn one_at_a_time_is_busy_with_a_message() {
        let busy = Busy::default();
        let held = busy.hold(&key("1"));
        assert!(held.is_some());
        assert!(busy.hold(&key("1")).is_none());
        assert!(busy.hold(&key("2")).is_some());
        drop(held);
        assert!(busy.hold(&key("1")).is_some());
    }

    #[test]
    fn no_wait_ends_long_after_the_last_moment() {
        let seconds = Duration::from_secs;
        assert_eq!(at_most(seconds(300), seconds(20)), seconds(21));
        assert_eq!(at_most(seconds(5), seconds(20)), seconds(5));
    }

    #[test]
    fn an_error_is_cut_between_characters() {
        let long = "ươ".repeat(500);
        let short = shortened(long.clone());
        assert!(short.len() <= Settlement::LONGEST_ERROR && long.starts_with(&short));
        assert_eq!(shortened("short".to_owned()), "short");
    }

    #[tokio::test]
    async fn a_tenure_begins_with_one_barrier_whatever_the_number_of_its_claims() {
        let scratch = Scratch::new().await;
        let desk = scratch.desk();
        let follower = tokio::spawn(Arc::clone(&desk.history).follow());
        let standing = |tenure| {
            desk.standings
                .of(Tenure(tenure), &desk.history, &desk.limiter)
        };

        let (one, two, three) = tokio::join!(standing(4), standing(4), standing(4));
        for standing in [&one, &two, &three] {
            assert!(matches!(standing, Standing::Current(_)), "{standing:?}");
        }
        assert_eq!(desk.history.marks(), 1);
        assert!(matches!(standing(3).await, Standing::Superseded));
        assert!(matches!(standing(5).await, Standing::Current(_)));
        assert!(matches!(standing(4).await, Standing::Superseded));
        assert_eq!(desk.history.marks(), 2);
        follower.abort();
    }

    #[tokio::test]
    async fn while_the_outcomes_cannot_be_read_nothing_is_posted_and_no_try_counts() {
        let scratch = Scratch::new().await;
        let event = mention();
        let publisher = scratch.queue.publisher();
        publisher.publish(&event).await.expect("an event");
        let mut desk = scratch.desk();
        let away = queue_away().await.outcomes();
        let history = History::new(away, BotName::default(), desk.settings.max_age);
        desk.history = Arc::new(history);

        let claim = scratch.queue.claim_asks(1).next().await;
        let subject = Subject::of_event(&event);
        desk.settle(claim, &subject, subject.next(reply(&event)))
            .await;
        let mut posts = scratch.queue.claim_posts(&BotName::default(), 1);
        let claim = posts.next().await;
        let before = Timestamp::now();
        post::post(&desk, claim, std::future::pending()).await;

        let story = scratch.story().await;
        let last = &story.last().expect("a story").what;
        let What::Later { step, until, .. } = last else {
            panic!("{last:?}");
        };
        let wait = until.duration_since(before).as_secs_f64();
        assert_eq!(*step, Step::Post);
        assert!((4.9..25.0).contains(&wait), "{wait}");
        let begun = |outcome: &Outcome| matches!(outcome.what, What::Intent { .. });
        assert!(!story.iter().any(begun));
        let claim = tokio::time::timeout(PATIENCE, posts.next())
            .await
            .expect("it comes back");
        assert_eq!((claim.job().attempts, claim.job().deaths), (0, 0));
        desk.settle(claim, &subject, subject.done()).await;
    }

    #[tokio::test]
    async fn an_event_that_comes_back_after_its_reply_was_stored_is_not_asked_about_again() {
        let scratch = Scratch::new().await;
        let event = mention();
        let desk = scratch.desk();
        let publisher = scratch.queue.publisher();
        let mut asks = scratch.queue.claim_asks(1);

        publisher.publish(&event).await.expect("an event");
        let claim = asks.next().await;
        let subject = Subject::of_event(&event);
        desk.settle(claim, &subject, subject.next(reply(&event)))
            .await;
        // The reply was stored, only the end of the claim was not confirmed: it is delivered again.
        publisher.publish(&event).await.expect("an event");
        ask::ask(&desk, asks.next().await, std::future::pending()).await;

        let mut story = scratch.story().await;
        story.retain(|outcome| !matches!(outcome.what, What::Received { .. }));
        let [only] = &story[..] else {
            panic!("{story:?}");
        };
        assert!(matches!(only.what, What::ReplyStored { .. }));
    }
}
