//! The ask step: from an event to a stored reply, or to the reason why there is none.

use std::sync::Arc;
use std::time::Duration;

use chickwork_chatwork::id::{AccountId, RoomId};
use chickwork_chatwork::webhook::Message;
use chickwork_clients::simsimi::{Answer, AskError};
use chickwork_queue::Claim;
use chickwork_queue::event::{AnswerKey, Event, EventId};
use chickwork_queue::job::{Cause, Job, Reply, Work};
use chickwork_queue::outcome::What;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::compose::{self, NotHeard};
use crate::decide::{Decision, Happened, Situation, decide};
use crate::desk::{Desk, Ending, Held, Subject, called, until_resumed};
use crate::history::{Answered, History};
use crate::pause::Gate;
use crate::understand::Reason;

/// An event of a bot that somebody else works for: that worker gets it, or we see it again.
const ANOTHER_BOT: Duration = Duration::from_secs(60);

/// The same message is being asked about in this process right now, by another event.
const BEING_ASKED: Duration = Duration::from_secs(3);

/// Works on one claim from the ask queue, to its end, or gives it back when it is time to leave.
pub(crate) async fn ask(desk: &Desk, claim: Claim, leave: impl Future<Output = ()>) {
    let job = claim.job().clone();
    let Work::Ask(event) = &job.work else {
        // Dropped, it is given back and its deaths are counted until it is buried.
        log::error!("the ask queue holds something that is no event");
        return;
    };
    let subject = Subject::of_event(event);
    let mut hands = Hands::default();
    let ending = tokio::select! {
        // What is just finished, and perhaps paid for, comes first.
        biased;
        ending = Box::pin(consider(desk, &job, event, &subject, &mut hands)) => ending,
        () = leave => subject.given_back(),
    };
    desk.settle(claim, &subject, ending).await;
    // Only now may another event about the same message find out what became of this one.
    drop(hands);
}

/// That bot's worker is given its time, and no more: an event that nobody works on has to end, too.
fn anothers(desk: &Desk, job: &Job, event: &Event, subject: &Subject) -> Ending {
    let received_at = event.put_back_at.unwrap_or(event.received_at);
    let situation = situation(desk, job, received_at);
    if situation.left.is_zero() {
        let error = format!("no worker answers for the bot {}", event.bot);
        return dead(subject, decide(Happened::TooOld, &situation), error);
    }
    subject.not_yet(ANOTHER_BOT, "another bot's")
}

/// What is held while an event is worked on, until it is settled.
#[derive(Debug, Default)]
struct Hands {
    held: Option<Held>,
    reservation: Option<Reservation>,
}

async fn consider(
    desk: &Desk,
    job: &Job,
    event: &Event,
    subject: &Subject,
    hands: &mut Hands,
) -> Ending {
    if event.bot != desk.settings.bot {
        return anothers(desk, job, event, subject);
    }
    let me = match desk.me() {
        Ok(me) => me,
        Err(why) => return subject.not_yet(BEING_ASKED, why),
    };
    let heard = match compose::hear(&event.body, &me, &desk.settings.ignore_accounts) {
        Ok(heard) => heard,
        Err(NotHeard::Malformed(malformed)) => {
            return subject.dead(Cause::Malformed, None, malformed);
        }
        Err(NotHeard::Ignored(reason)) => return subject.ignored(reason),
    };
    let message = &heard.message;

    let key = AnswerKey {
        bot: event.bot.clone(),
        room_id: message.room_id,
        message_id: message.message_id.clone(),
        again: event.again,
    };
    hands.held = desk.asking.hold(&key);
    if hands.held.is_none() {
        return subject.not_yet(
            BEING_ASKED,
            "this event or another one about the message is being answered",
        );
    }
    let (now, room) = (Timestamp::now(), message.room_id);
    let answered = desk.history.memory().answered(&key, event.id, event.replay);
    match answered {
        Answered::No => {}
        Answered::ByItself => return subject.done(),
        Answered::ByAnother => return subject.ignored(Reason::Duplicate),
    }

    let aged_from = aged_from(event, heard.event_time);
    let situation = situation(desk, job, aged_from);
    if situation.left.is_zero() {
        let error = desk
            .history
            .memory()
            .last_reason(event.id)
            .unwrap_or("too old")
            .to_owned();
        return dead(subject, decide(Happened::TooOld, &situation), error);
    }
    if desk
        .history
        .memory()
        .is_closed(room, event.put_back_at, now)
    {
        return subject.ignored(Reason::RoomClosed);
    }
    // Who puts an event in, or back in, wants it answered: that is no flood.
    if event.put_back_at.is_none() {
        hands.reservation = Reservation::new(desk, room, message.author, event.id, now);
        if hands.reservation.is_none() {
            return subject.ignored(Reason::Flood);
        }
    }

    let say = |answer: Option<&Answer>, situation: &Situation| {
        let fallback = desk.settings.fallback.as_deref();
        let text = compose::reply(message, answer, situation, fallback)?;
        Some(reply(event, message, aged_from, text))
    };
    let Some(question) = &heard.question else {
        let said = say(None, &situation);
        // Nobody was asked, so no line in the log tells other processes: each of them counts for
        // itself what it answers in this way. It costs nothing, and ends bot loops all the same.
        if let Some(reservation) = &mut hands.reservation {
            reservation.used = said.is_some();
        }
        return said_or_silent(subject, said);
    };
    let pass = match desk.ask_pause.gate(Instant::now()) {
        Gate::Open(pass) => pass,
        Gate::Closed(rest) => {
            let wait = until_resumed(rest, &situation);
            return subject.not_yet(wait, desk.ask_pause.reason());
        }
    };

    let begun = Instant::now();
    let answer = desk.simsimi.ask(question).await;
    let took = begun.elapsed();
    called("simsimi", simsimi_result(&answer), took);
    let asked = subject.outcome(What::Asked {
        millis: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        result: match &answer {
            Ok(Answer::Said(_)) => What::ANSWERED.to_owned(),
            Ok(Answer::NothingToSay) => What::NO_ANSWER.to_owned(),
            Err(error) => error.to_string(),
        },
        sender: message.author,
        question: Some(question.clone()),
        answer: match &answer {
            Ok(Answer::Said(words)) => Some(words.clone()),
            Ok(Answer::NothingToSay) | Err(_) => None,
        },
    });
    let situation = self::situation(desk, job, aged_from);
    let ending = match &answer {
        Ok(answer) => {
            pass.welcome();
            said_or_silent(subject, say(Some(answer), &situation))
        }
        Err(error) => match decide(Happened::AskFailed(error), &situation) {
            Decision::Pause => {
                let rest = pass.unwelcome(error, Instant::now());
                subject.not_yet(until_resumed(rest, &situation), desk.ask_pause.reason())
            }
            Decision::Again(wait) => subject.again(wait, error),
            decision => dead(subject, decision, error.to_string()),
        },
    };
    ending.after([asked])
}

/// From when on the event ages. Chatwork's clock may be ahead: what lies in the future of its
/// receipt counts as received just then, or it would never be too old.
fn aged_from(event: &Event, event_time: i64) -> Timestamp {
    event.put_back_at.unwrap_or_else(|| {
        let told = Timestamp::from_second(event_time).unwrap_or(event.received_at);
        told.min(event.received_at)
    })
}

/// When the message was written as it is. Chatwork's clock may be ahead, and what was received was
/// written before.
fn written_at(event: &Event, message: &Message) -> Timestamp {
    let told = message.send_time.max(message.update_time);
    let told = Timestamp::from_second(told).unwrap_or(event.received_at);
    told.min(event.received_at)
}

fn situation(desk: &Desk, job: &Job, aged_from: Timestamp) -> Situation {
    Situation {
        left: desk.left(aged_from, Timestamp::now()),
        attempts: job.attempts,
        since_intent: Duration::ZERO,
        fallback: desk.settings.fallback.is_some(),
        dice: fastrand::f64(),
    }
}

fn said_or_silent(subject: &Subject, reply: Option<Reply>) -> Ending {
    match reply {
        Some(reply) => subject.next(reply),
        None => subject.ignored(Reason::NothingToSay),
    }
}

fn reply(event: &Event, message: &Message, aged_from: Timestamp, text: String) -> Reply {
    Reply {
        id: event.id,
        bot: event.bot.clone(),
        event_type: event.event_type.to_owned(),
        room_id: message.room_id,
        message_id: message.message_id.clone(),
        account_id: message.author,
        received_at: event.received_at,
        written_at: Some(written_at(event, message)),
        aged_from,
        replay: event.replay,
        again: event.again,
        text,
    }
}

/// Given up; only decisions to do so come here.
fn dead(subject: &Subject, decision: Decision, error: String) -> Ending {
    match decision {
        Decision::Bury(cause, status) => subject.dead(cause, status, error),
        _ => subject.dead(Cause::Exhausted, None, error),
    }
}

fn simsimi_result(answer: &Result<Answer, AskError>) -> &'static str {
    match answer {
        Ok(Answer::Said(_)) => "ok",
        Ok(Answer::NothingToSay) => "no_answer",
        Err(AskError::Unauthorized(_)) => "unauthorized",
        Err(AskError::QuotaUsedUp(_)) => "quota",
        Err(AskError::Rejected(_)) => "rejected",
        Err(AskError::Failed(_)) => "failed",
        Err(AskError::TimedOut) => "timeout",
        Err(AskError::Unreachable(_)) => "unreachable",
    }
}

/// One of the sender's answers, until it is known whether it is given.
#[derive(Debug)]
struct Reservation {
    history: Arc<History>,
    room: RoomId,
    sender: AccountId,
    id: EventId,
    /// It was answered without asking.
    used: bool,
}

impl Reservation {
    fn new(
        desk: &Desk,
        room: RoomId,
        sender: AccountId,
        id: EventId,
        now: Timestamp,
    ) -> Option<Self> {
        let limit = desk.settings.sender_limit;
        let reserved = desk.history.memory().reserve(room, sender, id, limit, now);
        reserved.then(|| Self {
            history: Arc::clone(&desk.history),
            room,
            sender,
            id,
            used: false,
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut memory = self.history.memory();
        if self.used {
            memory.answered_to(self.room, self.sender, self.id, Timestamp::now());
        } else {
            memory.release(self.room, self.sender, self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chickwork_queue::event::BotName;

    use super::*;
    use crate::scratch::{Scratch, mention};

    /// Its worker may come yet, but not for ever.
    #[tokio::test]
    async fn an_event_of_another_bot_waits_for_its_worker_until_it_is_too_old() {
        let scratch = Scratch::new().await;
        let desk = scratch.desk();
        let of_another = |age: Duration| Event {
            bot: BotName::new("another").expect("a name"),
            received_at: Timestamp::now() - age,
            ..mention()
        };
        let (waits, over) = (
            of_another(Duration::ZERO),
            of_another(desk.settings.max_age),
        );
        let publisher = scratch.queue.publisher();
        publisher.publish(&waits).await.expect("an event");
        publisher.publish(&over).await.expect("an event");
        let mut claims = scratch.queue.claim_asks(2);
        for _ in 0..2 {
            ask(&desk, claims.next().await, std::future::pending()).await;
        }
        let mut letters = scratch.queue.dead_letters().read().await.expect("a list");
        let letter = letters.next().await.expect("a list").expect("a letter");
        assert_eq!((letter.id, letter.cause), (over.id, Cause::Expired));
        assert_eq!(letter.error, "no worker answers for the bot another");
        assert_eq!(letters.next().await.expect("a list"), None);
    }

    #[test]
    fn an_event_ages_from_its_own_time_unless_that_is_in_the_future_or_a_person_put_it_back() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let table = [
            // Received, put back, told by Chatwork; aged from.
            (1000, None, 990, 990),
            (1000, None, 1000, 1000),
            (1000, None, 9_999_999, 1000),
            (1000, None, i64::MAX, 1000),
            (1000, Some(5000), 990, 5000),
        ];
        for (received, put_back, told, expected) in table {
            let event = Event {
                id: EventId::fresh(),
                bot: BotName::default(),
                event_type: "mention_to_me",
                room_id: None,
                message_id: None,
                received_at: at(received),
                put_back_at: put_back.map(at),
                replay: 0,
                again: None,
                body: Bytes::new(),
            };
            assert_eq!(
                aged_from(&event, told),
                at(expected),
                "{received} {put_back:?} {told}"
            );
        }
    }
}
