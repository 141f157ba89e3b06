//! What is known of events by their ids, wherever it is kept: the archive, the jobs, the dead letters and
//! the outcomes. For whoever has events from elsewhere and must not take for new what was here before.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::brief::JUST_NOW;
use super::{Standing, Waits};
use crate::amqp::BrokerError;
use crate::course::{Course, Reasons, State};
use crate::dead::DeadLetter;
use crate::event::{AnswerKey, EventId};
use crate::outcome::{Outcome, What};
use crate::{Queue, QueueError};

/// What was done about an event, as its outcomes tell, in their order: what decides beside where it stands
/// whether it can be put back. Small, as there may be many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Acts {
    /// Whether a reply to its message was posted by way of it, in whichever round.
    pub was_answered: bool,
    /// The last round that a person has begun.
    pub last_round: Option<Timestamp>,
    /// The highest counter of those lines that say that it was put back; 0: there are none.
    pub replayed: u32,
    /// While the last word is that it waits: until when. What was put back waits for ever.
    pub waits_until: Option<Timestamp>,
    /// When something last became of it.
    pub last_at: Option<Timestamp>,
}

impl Acts {
    /// Those that these outcomes tell.
    pub fn of<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Self {
        let mut acts = Self::default();
        for outcome in outcomes {
            acts.apply(outcome);
        }
        acts
    }

    /// Takes in the next outcome.
    fn apply(&mut self, outcome: &Outcome) {
        // It may be told late, and then it is no news.
        if matches!(outcome.what, What::Received { .. }) && self.last_at.is_some() {
            return;
        }
        self.last_at = Some(outcome.at);
        self.waits_until = None;
        match outcome.what {
            What::Posted { .. } => self.was_answered = true,
            What::Replayed { replay, .. } => {
                self.replayed = self.replayed.max(replay);
                self.last_round = self.last_round.max(outcome.again);
                self.waits_until = Some(Timestamp::MAX);
            }
            What::Later { until, .. } => self.waits_until = Some(until),
            _ => {}
        }
    }

    /// Whether the last word is that it waits.
    pub fn is_said_to_wait(&self, now: Timestamp) -> bool {
        self.waits_until.is_some_and(|until| until >= now)
    }
}

/// What is known here of an event.
#[derive(Debug, Clone)]
pub struct Known {
    /// Where it stands. On a broker one without an end is open: only the audit counts all of them.
    pub standing: Standing,
    /// The reason or the cause, where there is one.
    pub why: Option<String>,
    /// See [`Listed::open_round`](super::Listed::open_round).
    pub open_round: Option<Timestamp>,
    /// What was done about it.
    pub acts: Acts,
    /// Its dead letter, if there is one now.
    pub letter: Option<DeadLetter>,
    /// If it is in the archive: how often it had been put back when it came there.
    pub archived: Option<u32>,
}

/// What is known here of some events and their messages.
#[derive(Debug, Default)]
pub struct Knowledge {
    /// The events of which anything is known.
    pub events: HashMap<EventId, Known>,
    /// The messages among theirs that have a reply, by way of whichever event.
    pub answered: HashSet<AnswerKey>,
}

#[derive(Debug, Default)]
struct Trace {
    course: Course,
    acts: Acts,
    archived: Option<u32>,
}

impl Queue {
    /// What is known of these events, none of which was received before `since`, and of their messages in
    /// the first round. Some hundred bytes are kept of each, however much there is of others.
    pub async fn known(
        &self,
        events: &HashMap<EventId, Option<AnswerKey>>,
        since: Timestamp,
    ) -> Result<Knowledge, QueueError> {
        let messages: HashSet<&AnswerKey> = events.values().flatten().collect();
        let (mut traces, mut reasons) = (HashMap::<EventId, Trace>::new(), Reasons::default());
        // In this order: what is put back or comes to an end meanwhile the outcomes tell.
        let mut letters = self
            .letters(|letter| events.contains_key(&letter.id))
            .await?;
        let waits = self.waiting_now().await?;
        if self.keeps_archive() {
            let mut archived = self.archive().read(since);
            loop {
                match archived.next().await {
                    Ok(Some(event)) if events.contains_key(&event.id) => {
                        let trace = traces.entry(event.id).or_default();
                        trace.archived.get_or_insert(event.replay);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(QueueError::Amqp(BrokerError::Missing(_))) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        let mut knowledge = Knowledge::default();
        let mut outcomes = self.outcomes().read(since);
        while let Some(outcome) = outcomes.next().await? {
            if matches!(outcome.what, What::Posted { .. })
                && let Some(key) = outcome.answer_key()
            {
                // Of whichever round: the first one has a reply then, too.
                let key = AnswerKey { again: None, ..key };
                if messages.contains(&key) {
                    knowledge.answered.insert(key);
                }
            }
            if events.contains_key(&outcome.id) {
                let trace = traces.entry(outcome.id).or_default();
                trace.course.apply(&outcome, &mut reasons);
                trace.acts.apply(&outcome);
            }
        }
        for id in letters.keys() {
            traces.entry(*id).or_default();
        }
        if let Waits::These(ids) = &waits {
            for id in ids.iter().filter(|id| events.contains_key(id)) {
                traces.entry(*id).or_default();
            }
        }
        let now = Timestamp::now();
        let known = traces.into_iter().map(|(id, trace)| {
            let letter = letters.remove(&id);
            let state = trace
                .course
                .state(letter.as_ref().map(|letter| letter.cause));
            let (standing, why) = match state {
                State::Answered => (Standing::Answered, None),
                State::Ignored(reason) => {
                    (Standing::Ignored, Some(reasons.name(reason).to_owned()))
                }
                State::Dead(cause) => (Standing::Dead, Some(cause.as_str().to_owned())),
                State::Dropped => (Standing::Dropped, None),
                State::Open => (open(id, &trace.acts, &waits, now), None),
            };
            let known = Known {
                standing,
                why,
                open_round: trace.course.open_round(),
                acts: trace.acts,
                letter,
                archived: trace.archived,
            };
            (id, known)
        });
        knowledge.events = known.collect();
        Ok(knowledge)
    }
}

/// Where an event without an end stands.
fn open(id: EventId, acts: &Acts, waits: &Waits, now: Timestamp) -> Standing {
    let heard = acts.last_at.max(id.received_at());
    match waits {
        Waits::These(ids) if ids.contains(&id) => Standing::Waiting,
        Waits::These(_) => Standing::Unexplained,
        Waits::SoMany(0) if heard.is_none_or(|heard| now.duration_since(heard) >= JUST_NOW) => {
            Standing::Unexplained
        }
        Waits::SoMany(_) => Standing::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::BotName;

    fn told(second: i64, again: Option<Timestamp>, what: What) -> Outcome {
        Outcome {
            v: Outcome::VERSION,
            at: Timestamp::from_second(second).expect("a time"),
            id: EventId::fresh(),
            bot: BotName::default(),
            room_id: None,
            message_id: None,
            again,
            what,
        }
    }

    #[test]
    fn what_was_done_about_an_event_is_told_by_its_outcomes() {
        let posted = || What::Posted {
            reply_message_id: None,
            found: false,
        };
        let replayed = |replay| What::Replayed {
            replay,
            reason: String::new(),
            by: None,
        };
        let later = |second| What::Later {
            step: crate::job::Step::Ask,
            reason: String::new(),
            until: Timestamp::from_second(second).expect("a time"),
        };
        let received = || What::Received {
            stored: crate::Stored::Broker,
            forwarded_at: None,
        };
        let round = Timestamp::from_second(5).ok();
        let now = Timestamp::from_second(100).expect("a time");
        // Outcomes; was answered, last round, counter, said to wait.
        let table = [
            (vec![], (false, None, 0, false)),
            (vec![told(1, None, posted())], (true, None, 0, false)),
            (vec![told(1, None, replayed(2))], (false, None, 2, true)),
            (
                vec![told(1, None, replayed(2)), told(2, None, received())],
                (false, None, 2, true),
            ),
            (vec![told(1, None, later(101))], (false, None, 0, true)),
            (vec![told(1, None, later(99))], (false, None, 0, false)),
            (
                vec![
                    told(1, None, posted()),
                    told(5, round, replayed(1)),
                    told(6, None, replayed(2)),
                    told(7, round, posted()),
                ],
                (true, round, 2, false),
            ),
        ];
        for (outcomes, expected) in table {
            let acts = Acts::of(&outcomes);
            let told = (
                acts.was_answered,
                acts.last_round,
                acts.replayed,
                acts.is_said_to_wait(now),
            );
            assert_eq!(told, expected, "{outcomes:?}");
        }
    }
}
