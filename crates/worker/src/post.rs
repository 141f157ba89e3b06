//! The post step: from a stored reply to a message in its room, once.
//!
//! Posting has no idempotency key, so it has a write-ahead log. An *intent* is stored before a post
//! is sent, a *result* after it: posted, or certainly not. An intent without a result is a doubt,
//! and a doubt is resolved by looking, never by posting on the chance.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use chickwork_chatwork::id::MessageId;
use chickwork_clients::chatwork::{Answered, CallError};
use chickwork_queue::Claim;
use chickwork_queue::event::EventId;
use chickwork_queue::job::{Cause, Job, Reply, Work};
use chickwork_queue::outcome::{Outcome, What};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::decide::{Decision, Happened, LOOK_AFTER_SILENCE, Limited, Situation, decide};
use crate::desk::{
    Desk, Ending, LIMITED, LIMITED_FOR_ACCOUNT, LIMITED_IN_ROOM, Standing, Standings, Subject,
    at_most, called, chatwork_result, until_resumed,
};
use crate::history::Post;
use crate::limits::{Slot, Ticket, Told};
use crate::look::{Doubt, Seen};
use crate::pause::{Gate, Pass};
use crate::understand::Reason;

/// Nothing is sent later than this after its intent was begun: a process that froze and thawed does
/// not post behind its successor's back.
const SEND_WITHIN: Duration = Duration::from_secs(2);

/// A call that is not over so long after its intent was begun is dropped: [`SEND_WITHIN`], and the
/// 10 s that the client gives a call. A successor looks after [`LOOK_AFTER_SILENCE`], which is later.
const OVER_WITHIN: Duration = Duration::from_secs(12);

/// Another claim for the same message is being worked on in this process.
const BEING_POSTED: Duration = Duration::from_secs(2);

/// After an intent that was not confirmed, or not in time.
const NOT_INTENDED: Duration = Duration::from_secs(1);

/// A doubt that could not be looked at so long after the event's last moment stays one.
const LOOK_UNTIL: Duration = Duration::from_secs(300);

/// Works on one claim from the reply queue, to its end, or gives it back when it is time to leave: a
/// post that is under way is a doubt then, as if its process had died.
pub(crate) async fn post(desk: &Desk, claim: Claim, leave: impl Future<Output = ()>) {
    let job = claim.job().clone();
    let Work::Post(reply) = &job.work else {
        // Dropped, it is given back and its deaths are counted until it is buried.
        log::error!("the reply queue holds something that is no reply");
        return;
    };
    let subject = Subject::of_reply(reply);
    let held = desk.posting.hold(&reply.answer_key());
    let ending = if held.is_some() {
        let step = PostStep {
            desk,
            claim: &claim,
            job: &job,
            reply,
            subject: &subject,
        };
        tokio::select! {
            // What is just finished comes first.
            biased;
            ending = Box::pin(step.run()) => ending,
            () = leave => subject.given_back(),
        }
    } else {
        subject.not_yet(
            BEING_POSTED,
            "another reply to this message is being posted",
        )
    };
    desk.settle(claim, &subject, ending).await;
    drop(held);
}

/// One reply on its way.
struct PostStep<'a> {
    desk: &'a Desk,
    claim: &'a Claim,
    job: &'a Job,
    reply: &'a Reply,
    subject: &'a Subject,
}

/// When to come back for the right to post.
struct NotNow {
    wait: Duration,
    why: String,
}

/// What is known of the reply's post when a claim begins.
enum Begins {
    Posted {
        by: EventId,
    },
    Clear,
    InDoubt {
        intended_at: Timestamp,
        look_at: Instant,
    },
}

impl PostStep<'_> {
    async fn run(&self) -> Ending {
        let Self { desk, subject, .. } = *self;
        let tenure = self.claim.tenure();
        let since = match desk
            .standings
            .of(tenure, &desk.history, &desk.limiter)
            .await
        {
            Standing::Current(since) => since,
            Standing::Superseded => return subject.given_back(),
            Standing::Unknown(error) => {
                if let Some(error) = error {
                    log::warn!("nothing is posted for the moment: {error}");
                }
                return subject.not_yet(Standings::REST, "what was posted before is not known yet");
            }
        };
        if self.may_be_unknown()
            && let Err(error) = desk.history.barrier().await
        {
            let why = "what was said when it was put back is not known yet";
            log::warn!("{why}: {error}");
            return subject.not_yet(Standings::REST, why);
        }
        match self.begins(since) {
            Begins::Posted { by } if by == subject.id => {
                // It is told again if it could not be stored the first time.
                subject
                    .done()
                    .after(desk.history.memory().untold(self.reply))
            }
            Begins::Posted { .. } => subject.ignored(Reason::Duplicate),
            Begins::Clear => {
                let situation = self.situation(Duration::ZERO);
                if situation.left.is_zero() {
                    return self.dead(decide(Happened::TooOld, &situation), self.last_reason());
                }
                match self.permission() {
                    Ok((pass, ticket)) => self.send(pass, ticket).await,
                    Err(NotNow { wait, why }) => subject.not_yet(wait, why),
                }
            }
            Begins::InDoubt {
                intended_at,
                look_at,
            } => self.resolve(intended_at, look_at).await,
        }
    }

    /// Whether there may be something to be known that this process has not read yet. Others write about
    /// a reply only while they have the right to post, except who puts it back in: that it is in doubt,
    /// as it was received elsewhere, stands in the log before it is in the queue.
    fn may_be_unknown(&self) -> bool {
        let key = self.reply.answer_key();
        self.reply.replay > 0 && !self.desk.history.memory().knows_post(&key)
    }

    /// What the log says, and what it cannot say.
    fn begins(&self, since: Instant) -> Begins {
        let key = self.reply.answer_key();
        let memory = self.desk.history.memory();
        match memory.post(&key) {
            Post::Posted { by } => Begins::Posted { by },
            Post::InDoubt {
                here,
                intended_at,
                look_at,
            } => {
                // A predecessor may have held on until this process took over.
                let taken_over = if here {
                    look_at
                } else {
                    since + LOOK_AFTER_SILENCE
                };
                Begins::InDoubt {
                    intended_at,
                    look_at: look_at.max(taken_over),
                }
            }
            // A person has put it in or back in, and what was done before is beyond memory.
            Post::Unbegun
                if !memory.knows_post(&key)
                    && self.is_from_beyond(memory.horizon(Timestamp::now())) =>
            {
                Begins::InDoubt {
                    intended_at: self.possible_since(),
                    look_at: Instant::now(),
                }
            }
            Post::Unbegun => Begins::Clear,
        }
    }

    /// Looks whether the reply is there, and posts it if it certainly is not.
    async fn resolve(&self, intended_at: Timestamp, look_at: Instant) -> Ending {
        let Self { desk, subject, .. } = *self;
        let now = Instant::now();
        if now < look_at {
            return subject.not_yet(
                look_at - now,
                "in doubt, and too soon to look: a late post could still arrive",
            );
        }
        let pass = match desk.post_pause.gate(now) {
            Gate::Open(pass) => pass,
            Gate::Closed(rest) => return self.look_later(rest, &self.in_doubt_and_paused()),
        };
        let me = match desk.me() {
            Ok(me) => me,
            Err(why) => return self.look_later(Standings::REST, &why),
        };
        let doubt = Doubt {
            room: self.reply.room_id,
            message: &self.reply.message_id,
            intended_at,
            look_at,
            others: self.other_replies(),
        };
        let (seen, reaches_back_to) = desk.looks.look(desk, me.account, &doubt).await;

        let situation = self.situation(Duration::ZERO);
        let happened = match &seen {
            Seen::NotBefore(at) => {
                let wait = at.saturating_duration_since(Instant::now());
                return self.look_later(wait, "in doubt, and the rate limit allows no look");
            }
            Seen::Failed(error) => Happened::LookFailed(error),
            Seen::Found(_) => Happened::Found,
            Seen::Absent => Happened::Absent,
            Seen::Unclear => Happened::Unclear,
        };
        let decision = decide(happened, &situation);
        let why = match &seen {
            Seen::Failed(error) => error.to_string(),
            _ => "in doubt: the room's newest messages do not reach back to when it was sent"
                .to_owned(),
        };
        match decision {
            Decision::Pause => {
                let rest = pass.unwelcome(&why, Instant::now());
                return self.look_later(rest, &self.in_doubt_and_paused());
            }
            // The token is good; whether the room may be read is another question.
            _ if !matches!(
                seen,
                Seen::Failed(CallError::NotSent(_) | CallError::InDoubt(_))
            ) =>
            {
                pass.welcome();
            }
            _ => drop(pass),
        }
        let (result, reply_message_id) = match &seen {
            Seen::Found(id) => (What::FOUND, Some(id.clone())),
            Seen::Absent => (What::ABSENT, None),
            _ => (What::UNCLEAR, None),
        };
        let looked = subject.outcome(What::Looked {
            result: result.to_owned(),
            reply_message_id,
            reaches_back_to,
        });
        desk.history.wrote(&looked);

        if matches!(seen, Seen::Absent) {
            // Only here, not in the log: what is posted now has an intent of its own there, and a
            // successor that finds the old one alone had better look for itself.
            let key = self.reply.answer_key();
            desk.history.memory().resolved(&key, intended_at);
        }

        let ending = match (decision, seen) {
            (Decision::Done, Seen::Found(id)) => self.posted(Some(id), true),
            (Decision::Post, _) => match self.permission() {
                Ok((pass, ticket)) => self.send(pass, ticket).await,
                Err(NotNow { wait, why }) => subject.not_yet(wait, why),
            },
            (Decision::Bury(Cause::Exhausted, _), _) => self.dead(decision, self.last_reason()),
            (Decision::Again(wait), _) => subject.again(wait, why),
            (Decision::Limited(_), _) => self.look_later(NOT_INTENDED, &why),
            (decision, _) => self.dead(decision, why),
        };
        ending.after([looked])
    }

    fn in_doubt_and_paused(&self) -> String {
        format!("in doubt, and {}", self.desk.post_pause.reason())
    }

    /// Whether what was done about its message may be older than memory, which begins there. One that is
    /// young enough to be answered nevertheless was put in by a person (`recover`).
    fn is_from_beyond(&self, horizon: Timestamp) -> bool {
        let was_put_in = self.reply.replay > 0 || self.reply.aged_from >= horizon;
        was_put_in && self.possible_since() < horizon
    }

    /// Since when there may be a reply of this round: for the first one, since the message is as it is.
    /// It may have been received long after that, by way of `recover`, and answered in between.
    fn possible_since(&self) -> Timestamp {
        let Reply {
            again, written_at, ..
        } = self.reply;
        again.or(*written_at).unwrap_or(self.reply.received_at)
    }

    /// What the message is known to have been answered with in other rounds, if this is a later one.
    fn other_replies(&self) -> Option<Vec<MessageId>> {
        self.reply.again?;
        let memory = self.desk.history.memory();
        Some(memory.other_replies(&self.reply.answer_key()))
    }

    /// The right to post now, or when to come back for it.
    fn permission(&self) -> Result<(Pass, Ticket), NotNow> {
        let now = Instant::now();
        let situation = self.situation(Duration::ZERO);
        let pass = match self.desk.post_pause.gate(now) {
            Gate::Open(pass) => pass,
            Gate::Closed(rest) => {
                let wait = until_resumed(rest, &situation);
                let why = self.desk.post_pause.reason();
                return Err(NotNow { wait, why });
            }
        };
        match self
            .desk
            .limiter
            .post(self.reply.room_id, self.reply.id, now)
        {
            Slot::Now(ticket) => Ok((pass, ticket)),
            Slot::At(at) => {
                let wait = at_most(at - now, situation.left);
                let why = LIMITED.to_owned();
                Err(NotNow { wait, why })
            }
        }
    }

    /// Intent, post, result.
    async fn send(&self, pass: Pass, mut ticket: Ticket) -> Ending {
        let Self { desk, subject, .. } = *self;
        let begun = Begun::now();
        let intent = subject.outcome(What::Intent {
            consumer: desk.consumer(self.claim.tenure()),
        });
        // Before it is confirmed: should this process end meanwhile, it is a doubt.
        if !desk.history.means(&intent) {
            return subject.not_yet(
                NOT_INTENDED,
                "another process has begun to post it meanwhile",
            );
        }
        let too_late = "not sent, storing the intent took too long";
        match tokio::time::timeout(SEND_WITHIN, self.claim.intend(&intent)).await {
            Ok(Ok(())) if begun.elapsed() <= SEND_WITHIN => {}
            Ok(Ok(())) => {
                let not_posted = self.not_posted(too_late, false, &intent);
                return subject.not_yet(NOT_INTENDED, too_late).after([not_posted]);
            }
            failed => {
                let why = match failed {
                    Ok(Err(error)) => format!("not sent, the intent could not be stored: {error}"),
                    _ => too_late.to_owned(),
                };
                // It may be stored all the same, and would be a doubt for good in a room in which people
                // talk too much for a look to tell. Of this very intent nothing came, whoever has the
                // claim by now. Best effort: the job does not wait for a log that has just failed.
                desk.outcomes.record(self.not_posted(&why, false, &intent));
                return subject.not_yet(NOT_INTENDED, why);
            }
        }

        ticket.sent();
        let call = desk.chatwork.post(self.reply.room_id, &self.reply.text);
        let answer = while_in_time(|| begun.elapsed(), call).await;
        let took = begun.elapsed();
        called("chatwork", chatwork_result(&answer), took);
        let happened = match &answer {
            Ok(_) => Happened::Posted,
            Err(error) => Happened::PostFailed(error),
        };
        let situation = self.situation(took);
        let decision = decide(happened, &situation);
        let rest = self.note(pass, ticket, &answer, decision);

        let error = match answer {
            Ok(Answered { value, .. }) => return self.posted(value, false),
            Err(error) => error,
        };
        match decision {
            Decision::Done => return self.posted(None, false),
            // The intent stays open.
            Decision::Look(wait) => {
                let look_at = Instant::now() + wait;
                desk.history
                    .memory()
                    .look_at(&self.reply.answer_key(), look_at);
                return subject.again(wait, error);
            }
            _ => {}
        }
        let called = !matches!(error, CallError::NotSent(_));
        // Dated before what follows from it.
        let not_posted = self.not_posted(&error.to_string(), called, &intent);
        let ending = match decision {
            Decision::Again(wait) => subject.again(wait, &error),
            Decision::Pause => {
                let why = desk.post_pause.reason();
                subject.not_yet(until_resumed(rest, &situation), why)
            }
            Decision::Limited(limited) => {
                let why = match limited {
                    Limited::Room => LIMITED_IN_ROOM,
                    Limited::Account => LIMITED_FOR_ACCOUNT,
                };
                let now = Instant::now();
                let slot = desk.limiter.post(self.reply.room_id, self.reply.id, now);
                let wait = match slot {
                    Slot::At(at) => at - now,
                    Slot::Now(_) => NOT_INTENDED,
                };
                subject.not_yet(at_most(wait, situation.left), why)
            }
            decision => self.dead(decision, error.to_string()),
        };
        ending.after([not_posted])
    }

    /// Tells pause and limits what the answer to a post says about them; how long the step pauses.
    fn note(
        &self,
        pass: Pass,
        ticket: Ticket,
        answer: &Result<Answered<Option<MessageId>>, CallError>,
        decision: Decision,
    ) -> Duration {
        let now = Instant::now();
        let limits = match answer {
            Ok(Answered { limits, .. }) | Err(CallError::Refused { limits, .. }) => Some(limits),
            Err(_) => None,
        };
        let told = limits.map(|limits| Told::new(limits, Timestamp::now()));
        match (decision, &told) {
            (Decision::Limited(Limited::Account), Some(told)) => {
                ticket.refused_for_account(told, now)
            }
            (Decision::Limited(Limited::Room), Some(told)) => ticket.refused_for_room(told, now),
            (_, Some(told)) => ticket.answered(told, now),
            (_, None) if matches!(answer, Err(CallError::NotSent(_))) => ticket.unsent(),
            (_, None) => ticket.unanswered(now),
        }
        match (answer, decision) {
            (Err(error), Decision::Pause) => return pass.unwelcome(error, now),
            (Ok(_) | Err(CallError::Refused { .. } | CallError::Nonsense(_)), _) => pass.welcome(),
            (Err(_), _) => drop(pass),
        }
        Duration::ZERO
    }

    /// It is in the room.
    fn posted(&self, reply_message_id: Option<MessageId>, found: bool) -> Ending {
        let posted = self.subject.outcome(What::Posted {
            reply_message_id,
            found,
        });
        self.desk.history.wrote(&posted);
        let took = posted.at.duration_since(self.reply.received_at);
        metrics::histogram!("chickwork_reply_seconds").record(took.as_secs_f64().max(0.0));
        self.subject.done().and(posted)
    }

    /// What was intended is certainly not in the room.
    fn not_posted(&self, reason: &str, called: bool, intent: &Outcome) -> Outcome {
        let not_posted = self.subject.outcome(What::NotPosted {
            reason: reason.to_owned(),
            called,
            intended_at: Some(intent.at),
            overrules_until: None,
        });
        self.desk.history.wrote(&not_posted);
        not_posted
    }

    /// In doubt, and it cannot be looked now. That has an end as well.
    fn look_later(&self, wait: Duration, why: &str) -> Ending {
        let now = Timestamp::now();
        let ended = now.saturating_sub(LOOK_UNTIL).unwrap_or(now);
        if self.desk.left(self.reply.aged_from, ended).is_zero() {
            return self.subject.dead(Cause::Uncertain, None, why);
        }
        self.subject.not_yet(wait, why)
    }

    fn situation(&self, since_intent: Duration) -> Situation {
        Situation {
            left: self.desk.left(self.reply.aged_from, Timestamp::now()),
            attempts: self.job.attempts,
            since_intent,
            fallback: false,
            dice: fastrand::f64(),
        }
    }

    fn last_reason(&self) -> String {
        let memory = self.desk.history.memory();
        memory
            .last_reason(self.reply.id)
            .unwrap_or("too old")
            .to_owned()
    }

    /// Given up; only decisions to do so come here.
    fn dead(&self, decision: Decision, error: String) -> Ending {
        let (cause, status) = match decision {
            Decision::Bury(cause, status) => (cause, status),
            _ => (Cause::Uncertain, None),
        };
        self.subject.dead(cause, status, error)
    }
}

/// The call's answer, if it comes before [`OVER_WITHIN`] has elapsed, which is asked before every
/// step that the call makes.
///
/// The client has time limits of its own, but its clock stands still while a machine is suspended:
/// on waking it would go on looking up, connecting and at last posting as if nothing had happened,
/// behind a successor that has looked and posted. (What was handed to the kernel before the machine
/// fell asleep is out of reach. That is the blink of an eye, not the seconds that connecting takes.)
async fn while_in_time<T>(
    elapsed: impl Fn() -> Duration,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let mut call = pin!(call);
    poll_fn(|context| {
        if elapsed() > OVER_WITHIN {
            let why = "it took too long; was this machine asleep?".to_owned();
            return Poll::Ready(Err(CallError::InDoubt(why)));
        }
        call.as_mut().poll(context)
    })
    .await
}

/// A moment, by two clocks: the one stands still while a machine sleeps, the other can be set.
struct Begun {
    instant: Instant,
    clock: Timestamp,
}

impl Begun {
    fn now() -> Self {
        Self {
            instant: Instant::now(),
            clock: Timestamp::now(),
        }
    }

    /// The longer of what both clocks say.
    fn elapsed(&self) -> Duration {
        let by_clock = Timestamp::now().duration_since(self.clock);
        let by_clock = Duration::try_from(by_clock).unwrap_or(Duration::ZERO);
        self.instant.elapsed().max(by_clock)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;
    use std::sync::Arc;

    use chickwork_queue::event::BotName;
    use chickwork_queue::job::{Settled, Settlement};
    use chickwork_queue::{Claims, Entry};

    use super::*;
    use crate::scratch::{PATIENCE, Scratch, mention, reply};

    /// Stores a reply, with what is said before it; and the claim for it.
    async fn stored(
        scratch: &Scratch,
        posts: &mut Claims,
        reply: Reply,
        outcomes: Vec<Outcome>,
    ) -> Claim {
        let publisher = scratch.queue.publisher();
        publisher.publish(&mention()).await.expect("an event");
        let claim = scratch.queue.claim_asks(1).next().await;
        let settled = Settled {
            settlement: Settlement::Next(reply),
            outcomes,
        };
        claim.settle(settled).await.expect("it is stored");
        tokio::time::timeout(PATIENCE, posts.next())
            .await
            .expect("it is stored")
    }

    fn intents(story: &[Outcome], message: &MessageId) -> usize {
        let is_one = |outcome: &&Outcome| {
            matches!(outcome.what, What::Intent { .. })
                && outcome.message_id.as_ref() == Some(message)
        };
        story.iter().filter(is_one).count()
    }

    #[tokio::test]
    async fn what_was_put_back_is_looked_for_if_it_may_have_been_answered_before_memory_begins() {
        let now = Timestamp::now();
        let ago = |minutes: u64| now - Duration::from_secs(minutes * 60);
        let table = [
            // How often it was put back, when it was received, and written; whether it is posted at once.
            (0, now, Some(ago(1)), true),
            (1, now, Some(ago(1)), true),
            (1, now, None, true),
            (1, ago(69), Some(ago(69)), true),
            // A mention that was missed, and found long after; and the same, put back.
            (0, now, Some(ago(71)), false),
            (1, now, Some(ago(71)), false),
            (1, ago(71), Some(ago(72)), false),
            (1, ago(71), None, false),
        ];
        for (replay, received_at, written_at, is_posted) in table {
            let scratch = Scratch::new().await;
            let desk = scratch.desk();
            let follower = tokio::spawn(Arc::clone(&desk.history).follow());
            let reply = Reply {
                replay,
                received_at,
                written_at,
                // Put in or back just now.
                aged_from: now,
                ..reply(&mention())
            };
            let message = reply.message_id.clone();
            let mut posts = scratch.queue.claim_posts(&BotName::default(), 1);
            let claim = stored(&scratch, &mut posts, reply, Vec::new()).await;
            post(&desk, claim, pending()).await;
            follower.abort();
            let story = scratch.story().await;
            let is_meant = intents(&story, &message) == 1;
            assert_eq!(is_meant, is_posted, "{replay} {written_at:?}: {story:?}");
        }
    }

    /// It was received elsewhere, and nobody can tell what became of it there.
    #[tokio::test]
    async fn that_a_reply_is_in_doubt_is_known_before_it_is_posted() {
        let scratch = Scratch::new().await;
        let desk = scratch.desk();
        let follower = tokio::spawn(Arc::clone(&desk.history).follow());
        let mut posts = scratch.queue.claim_posts(&BotName::default(), 1);
        let first = reply(&mention());
        let claim = stored(&scratch, &mut posts, first.clone(), Vec::new()).await;
        post(&desk, claim, pending()).await;
        // This process has the right to post, and is behind with reading.
        follower.abort();

        let message = MessageId::new("12").expect("a message id");
        let put_back = Reply {
            replay: 1,
            id: EventId::fresh(),
            message_id: message.clone(),
            ..first
        };
        let consumer = "elsewhere".to_owned();
        let doubt = Subject::of_reply(&put_back).outcome(What::Intent { consumer });
        let claim = stored(&scratch, &mut posts, put_back, vec![doubt]).await;
        let reads_on = async {
            let mut outcomes = scratch.queue.outcomes().follow(Timestamp::UNIX_EPOCH);
            let mut marks = 0;
            while marks < 2 {
                marks += usize::from(matches!(outcomes.next().await, Entry::Mark(_)));
            }
            Arc::clone(&desk.history).follow().await;
        };
        tokio::select! {
            () = post(&desk, claim, pending()) => {}
            () = reads_on => {}
        }
        let story = scratch.story().await;
        assert_eq!(intents(&story, &message), 1, "{story:?}");
    }

    /// The right to post is gone before the intent is stored: nothing is sent, and this process knows it.
    #[tokio::test]
    async fn a_post_without_its_intent_is_no_doubt() {
        let scratch = Scratch::new().await;
        let desk = scratch.desk();
        let follower = tokio::spawn(Arc::clone(&desk.history).follow());
        let mut posts = scratch.queue.claim_posts(&BotName::default(), 1);
        let reply = reply(&mention());
        let claim = stored(&scratch, &mut posts, reply.clone(), Vec::new()).await;
        posts.stop().await;
        post(&desk, claim, pending()).await;
        follower.abort();
        let story = scratch.story().await;
        assert_eq!(intents(&story, &reply.message_id), 0, "{story:?}");
        let why = story.iter().find_map(|outcome| match &outcome.what {
            What::NotPosted { reason, called, .. } => Some((reason.as_str(), *called)),
            _ => None,
        });
        let (reason, called) = why.expect("it is told");
        assert!(reason.starts_with("not sent") && !called, "{reason}");
        let known = desk.history.memory().post(&reply.answer_key());
        assert_eq!(known, Post::Unbegun);
    }

    /// A call of several steps, each of which takes a while by the wall clock.
    async fn steps(
        clock: &Cell<Duration>,
        each: [Duration; 3],
        sent: &Cell<bool>,
    ) -> Result<(), CallError> {
        for step in each {
            clock.set(clock.get() + step);
            tokio::task::yield_now().await;
        }
        sent.set(true);
        Ok(())
    }

    #[tokio::test]
    async fn a_machine_that_wakes_late_goes_on_with_no_post() {
        let seconds = Duration::from_secs;
        let table = [
            ([seconds(1), seconds(1), seconds(1)], true),
            ([seconds(4), seconds(4), seconds(4)], true),
            // Asleep while looking up, connecting, greeting.
            ([seconds(3600), seconds(0), seconds(0)], false),
            ([seconds(1), seconds(3600), seconds(0)], false),
            ([seconds(1), seconds(1), seconds(3600)], false),
        ];
        for (each, expected) in table {
            let (clock, sent) = (Cell::new(Duration::ZERO), Cell::new(false));
            let answer = while_in_time(|| clock.get(), steps(&clock, each, &sent)).await;
            assert_eq!(sent.get(), expected, "{each:?}");
            assert_eq!(answer.is_ok(), expected, "{each:?}");
            assert!(
                answer.is_ok() || matches!(answer, Err(CallError::InDoubt(_))),
                "what was on its way may have arrived"
            );
        }
    }
}
