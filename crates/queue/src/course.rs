//! How far an event has come: one fold over its outcomes, for whoever asks where it has got to.
//!
//! Pure and small, as there may be a million of them.

use std::collections::HashMap;
use std::num::{NonZeroI64, NonZeroU32};

use jiff::Timestamp;

use crate::job::Cause;
use crate::outcome::{Outcome, What};

/// Where an event has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// A reply to its message is in the room, by way of this event.
    Answered,
    /// Nothing is to be said.
    Ignored(Reason),
    /// Given up.
    Dead(Cause),
    /// Given up, and a person dropped the dead letter.
    Dropped,
    /// None of these yet.
    Open,
}

/// A reason for which events are ignored, by its place among [`Reasons`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reason(u16);

/// The reasons that have come up.
#[derive(Debug, Default)]
pub(crate) struct Reasons {
    names: Vec<String>,
    places: HashMap<String, u16>,
}

impl Reasons {
    /// So many are told apart: a worker has a dozen, but anybody may write into a queue.
    const MOST: usize = 1_000;
    /// What the others are called together.
    const OTHERS: &str = "other";

    fn place(&mut self, name: &str) -> Reason {
        if let Some(place) = self.places.get(name) {
            return Reason(*place);
        }
        let name = if self.names.len() < Self::MOST {
            name
        } else {
            Self::OTHERS
        };
        let next = u16::try_from(self.names.len()).unwrap_or(u16::MAX);
        let place = *self.places.entry(name.to_owned()).or_insert(next);
        if place == next {
            self.names.push(name.to_owned());
        }
        Reason(place)
    }

    /// The reason as it is written in the outcomes.
    pub(crate) fn name(&self, reason: Reason) -> &str {
        self.names
            .get(usize::from(reason.0))
            .map_or(Self::OTHERS, String::as_str)
    }
}

/// What the outcomes of one event have told so far, in their order. To read the last of them once more
/// changes nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Course {
    end: Option<End>,
    /// In seconds; only while the last word is that it waits. One that was put back waits for ever.
    waits_until: Option<NonZeroU32>,
    /// The round that it is in: when a person asked for another answer, in milliseconds, as the answer
    /// key has it. Two rounds may begin within a second.
    round: Option<NonZeroI64>,
}

/// An end that a person can take back. Only another round takes back that the reply is posted, whatever
/// is told after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Posted,
    Ignored(Reason),
    Dead(Cause),
    Dropped,
}

impl Course {
    /// Takes in the next outcome.
    pub(crate) fn apply(&mut self, outcome: &Outcome, reasons: &mut Reasons) {
        let (what, round) = (&outcome.what, outcome.again.and_then(milliseconds));
        self.waits_until = match what {
            // It may be told late, and then it is no news.
            What::Received { .. } => return,
            What::Later { until, .. } => seconds(*until),
            What::Replayed { .. } => Some(NonZeroU32::MAX),
            _ => None,
        };
        // A round begins once; what is told of it again, or of an earlier one, does not begin it anew.
        if matches!(what, What::Replayed { .. }) && round > self.round {
            (self.round, self.end) = (round, None);
        }
        match what {
            // What is in the room stays there. Where a person asked for another answer, it is that
            // one which counts.
            What::Posted { .. } if self.round.is_none() || round == self.round => {
                self.end = Some(End::Posted);
            }
            _ if self.end == Some(End::Posted) => {}
            What::Dead { cause, .. } => self.end = Some(End::Dead(*cause)),
            What::Dropped { .. } => self.end = Some(End::Dropped),
            // The same event may have been there twice: that one of them was of no use does not
            // take back that the other one was given up.
            What::Ignored { reason } if !self.is_given_up() => {
                self.end = Some(End::Ignored(reasons.place(reason)));
            }
            What::Replayed { .. } => self.end = None,
            _ => {}
        }
    }

    fn is_given_up(self) -> bool {
        matches!(self.end, Some(End::Dead(_) | End::Dropped))
    }

    /// Where the event has got to, given its dead letter, if there is one now. That one is true whatever
    /// the outcomes have lost.
    pub(crate) fn state(self, letter: Option<Cause>) -> State {
        match (self.end, letter) {
            (Some(End::Posted), _) => State::Answered,
            (_, Some(cause)) | (Some(End::Dead(cause)), None) => State::Dead(cause),
            (Some(End::Dropped), None) => State::Dropped,
            (Some(End::Ignored(reason)), None) => State::Ignored(reason),
            (None, None) => State::Open,
        }
    }

    /// The round that a person has begun and that has no reply yet, however it has ended so far. Who puts
    /// the event back in does so in this round: in any other its message has a reply already, and nobody
    /// would hear the one that was asked for.
    pub(crate) fn open_round(self) -> Option<Timestamp> {
        let round = self.round.filter(|_| self.end != Some(End::Posted))?;
        Timestamp::from_millisecond(round.get()).ok()
    }

    /// Whether the last word is that it waits: put off until a time that is still to come, or put back
    /// by a person.
    pub(crate) fn is_said_to_wait(self, now: Timestamp) -> bool {
        self.waits_until
            .is_some_and(|until| i64::from(until.get()) >= now.as_second())
    }
}

/// A time, in little room.
fn seconds(time: Timestamp) -> Option<NonZeroU32> {
    u32::try_from(time.as_second())
        .ok()
        .and_then(NonZeroU32::new)
}

/// A round, as both back ends keep it.
fn milliseconds(round: Timestamp) -> Option<NonZeroI64> {
    NonZeroI64::new(round.as_millisecond())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Stored;
    use crate::event::{BotName, EventId};
    use crate::job::Step;

    fn ignored() -> What {
        let reason = "flood".to_owned();
        What::Ignored { reason }
    }

    fn posted() -> What {
        What::Posted {
            reply_message_id: None,
            found: false,
        }
    }

    fn dead(cause: Cause) -> What {
        What::Dead {
            step: Step::Ask,
            cause,
            error: String::new(),
            status: None,
        }
    }

    fn dropped() -> What {
        let reason = String::new();
        What::Dropped { reason }
    }

    fn replayed() -> What {
        let reason = String::new();
        What::Replayed {
            replay: 1,
            reason,
            by: None,
        }
    }

    fn later(until: Timestamp) -> What {
        What::Later {
            step: Step::Post,
            reason: String::new(),
            until,
        }
    }

    fn received() -> What {
        What::Received {
            stored: Stored::Broker,
            forwarded_at: None,
        }
    }

    /// In the round that began in this millisecond; in the first one, if that is zero.
    fn outcome(what: What, round: i64) -> Outcome {
        Outcome {
            v: Outcome::VERSION,
            at: Timestamp::UNIX_EPOCH,
            id: EventId::fresh(),
            bot: BotName::default(),
            room_id: None,
            message_id: None,
            again: (round > 0).then(|| Timestamp::from_millisecond(round).expect("a time")),
            what,
        }
    }

    fn course(outcomes: &[What], reasons: &mut Reasons) -> Course {
        let first = |what: &What| outcome(what.clone(), 0);
        let outcomes: Vec<_> = outcomes.iter().map(first).collect();
        course_of(&outcomes, reasons)
    }

    fn course_of(outcomes: &[Outcome], reasons: &mut Reasons) -> Course {
        let mut course = Course::default();
        for outcome in outcomes {
            course.apply(outcome, reasons);
        }
        course
    }

    #[test]
    fn an_event_is_where_its_outcomes_and_its_dead_letter_say() {
        use Cause::{Exhausted, Poison, Refused};
        let mut reasons = Reasons::default();
        let flood = State::Ignored(reasons.place("flood"));
        let text = String::new;
        let asked = What::ReplyStored { text: text() };
        let table = [
            // Its outcomes in their order; its dead letter; where it is.
            (vec![], None, State::Open),
            (vec![asked.clone()], None, State::Open),
            (vec![later(Timestamp::UNIX_EPOCH)], None, State::Open),
            (vec![asked.clone(), posted()], None, State::Answered),
            (vec![ignored()], None, flood),
            // A second delivery of what was answered.
            (vec![posted(), ignored()], None, State::Answered),
            (vec![ignored(), posted()], None, State::Answered),
            (vec![dead(Refused)], Some(Refused), State::Dead(Refused)),
            // Nobody could say it, or the letter was purged.
            (vec![asked.clone()], Some(Poison), State::Dead(Poison)),
            (vec![dead(Refused)], None, State::Dead(Refused)),
            (vec![dead(Refused), dropped()], None, State::Dropped),
            (
                vec![dead(Refused), dropped(), dropped()],
                None,
                State::Dropped,
            ),
            (vec![dead(Refused), ignored()], None, State::Dead(Refused)),
            (vec![ignored(), dead(Refused)], None, State::Dead(Refused)),
            // Put back by a person.
            (vec![dead(Refused), replayed()], None, State::Open),
            (vec![ignored(), replayed()], None, State::Open),
            (vec![replayed(), asked], None, State::Open),
            (
                vec![dead(Refused), replayed(), dead(Exhausted)],
                Some(Exhausted),
                State::Dead(Exhausted),
            ),
            (vec![dead(Refused), replayed(), ignored()], None, flood),
            (
                vec![dead(Refused), replayed(), posted()],
                None,
                State::Answered,
            ),
            (
                vec![posted(), dead(Refused)],
                Some(Refused),
                State::Answered,
            ),
            (vec![posted(), replayed()], None, State::Answered),
            // That it was received may be told at any time, and is no news.
            (vec![received()], None, State::Open),
            (vec![posted(), received()], None, State::Answered),
            (vec![dead(Refused), received()], None, State::Dead(Refused)),
        ];
        for (outcomes, letter, expected) in table {
            let once = course(&outcomes, &mut reasons);
            assert_eq!(once.state(letter), expected, "{outcomes:?}, {letter:?}");
            // What was read before is read again, from somewhere on.
            for from in 0..outcomes.len() {
                let again = [&outcomes[..], &outcomes[from..]].concat();
                let twice = course(&again, &mut reasons);
                assert_eq!(twice.state(letter), expected, "{again:?}, {letter:?}");
            }
        }
    }

    #[test]
    fn who_asks_for_another_answer_makes_it_open_until_that_one_is_there() {
        let mut reasons = Reasons::default();
        let flood = State::Ignored(reasons.place("flood"));
        let table = [
            // What, and in which round, by milliseconds; where it is then, and which round has no reply.
            (vec![(posted(), 0)], State::Answered, None),
            (vec![(posted(), 0), (replayed(), 0)], State::Answered, None),
            (vec![(posted(), 0), (replayed(), 5)], State::Open, Some(5)),
            (
                vec![(posted(), 0), (replayed(), 5), (posted(), 5)],
                State::Answered,
                None,
            ),
            // An earlier answer that is told late, or found by who put it back as it was.
            (
                vec![
                    (posted(), 0),
                    (replayed(), 5),
                    (replayed(), 0),
                    (posted(), 0),
                ],
                State::Open,
                Some(5),
            ),
            // Its dead letter was put back in the meantime.
            (
                vec![(replayed(), 5), (posted(), 5), (replayed(), 5)],
                State::Answered,
                None,
            ),
            (
                vec![(replayed(), 5), (posted(), 5), (dead(Cause::Refused), 5)],
                State::Answered,
                None,
            ),
            (
                vec![(replayed(), 5), (posted(), 5), (replayed(), 6)],
                State::Open,
                Some(6),
            ),
            (
                vec![
                    (replayed(), 5),
                    (replayed(), 6),
                    (posted(), 6),
                    (replayed(), 5),
                ],
                State::Answered,
                None,
            ),
            // What was told of its beginning is forgotten.
            (vec![(posted(), 5)], State::Answered, None),
            // Nothing was to be said in it, for the moment.
            (
                vec![(posted(), 0), (replayed(), 5), (ignored(), 5)],
                flood,
                Some(5),
            ),
            // An older release takes it for a duplicate.
            (
                vec![(posted(), 0), (replayed(), 5), (ignored(), 0)],
                flood,
                Some(5),
            ),
            (
                vec![(posted(), 0), (replayed(), 5), (dead(Cause::Refused), 5)],
                State::Dead(Cause::Refused),
                Some(5),
            ),
        ];
        for (told, expected, open_round) in table {
            let open_round =
                open_round.map(|round| Timestamp::from_millisecond(round).expect("a time"));
            let told: Vec<_> = told
                .into_iter()
                .map(|(what, round)| outcome(what, round))
                .collect();
            let course = course_of(&told, &mut reasons);
            assert_eq!(course.state(None), expected, "{told:?}");
            assert_eq!(course.open_round(), open_round, "{told:?}");
            for from in 0..told.len() {
                let again = [&told[..], &told[from..]].concat();
                let twice = course_of(&again, &mut reasons);
                assert_eq!(twice.state(None), expected, "{again:?}");
                assert_eq!(twice.open_round(), open_round, "{again:?}");
            }
        }
    }

    #[test]
    fn what_was_put_off_until_later_or_put_back_is_said_to_wait() {
        let now = Timestamp::from_second(1_000).expect("a time");
        let (soon, over) = (now + Duration::from_secs(5), now - Duration::from_secs(5));
        let table = [
            (vec![later(soon)], true),
            (vec![later(over)], false),
            (vec![later(over), later(soon)], true),
            (vec![later(soon), replayed()], true),
            (vec![later(soon), received()], true),
            (vec![replayed(), ignored()], false),
            (vec![replayed(), later(over)], false),
            (vec![], false),
        ];
        let mut reasons = Reasons::default();
        for (outcomes, expected) in table {
            let course = course(&outcomes, &mut reasons);
            assert_eq!(course.is_said_to_wait(now), expected, "{outcomes:?}");
        }
    }

    #[test]
    fn a_million_of_them_are_few_megabytes() {
        assert!(size_of::<Course>() <= 16);
    }

    #[test]
    fn there_is_an_end_of_reasons() {
        let mut reasons = Reasons::default();
        for number in 0..Reasons::MOST {
            let reason = reasons.place(&number.to_string());
            assert_eq!(reasons.name(reason), number.to_string());
        }
        for name in ["one more", "and another"] {
            let reason = reasons.place(name);
            assert_eq!(reasons.name(reason), Reasons::OTHERS);
        }
        assert_eq!(reasons.names.len(), Reasons::MOST + 1);
    }
}
