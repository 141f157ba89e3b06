//! The policy: what happened, and what is to be done about it. One pure function; its cases are the
//! table of the tests below. Whoever calls it performs the decision, nobody else takes one.

use std::time::Duration;

use chickwork_clients::chatwork::CallError;
use chickwork_clients::simsimi::{Answer, AskError};
use chickwork_queue::job::Cause;

/// How long after its intent a silent post may still take effect: it is sent at most 2 s after
/// the intent, its call ends after 10 s, the rest is margin.
pub(crate) const LOOK_AFTER_SILENCE: Duration = Duration::from_secs(15);

/// How long after a plain 5xx a message would have appeared, had it been taken after all.
pub(crate) const LOOK_AFTER_SERVER_ERROR: Duration = Duration::from_secs(3);

/// The longest back-off between two tries.
pub(crate) const LONGEST_BACK_OFF: Duration = Duration::from_secs(300);

/// A try that would begin later than this before the end is not worth waiting for: delays are whole
/// seconds, rounded up, and the queue takes its time as well.
const LAST_TRY: Duration = Duration::from_secs(2);

/// What the outside world did.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Happened<'a> {
    /// The job came back when it was too old.
    TooOld,
    /// SimSimi answered.
    Answered(&'a Answer),
    /// After cleaning, nothing was left to ask.
    NothingToAsk,
    /// SimSimi did not answer.
    AskFailed(&'a AskError),
    /// Chatwork has taken the post.
    Posted,
    /// Chatwork has not, or did not say.
    PostFailed(&'a CallError),
    /// A look found the reply in its room.
    Found,
    /// A look found the room without it, and would have seen it.
    Absent,
    /// A look did not reach back far enough.
    Unclear,
    /// The look itself failed.
    LookFailed(&'a CallError),
}

/// What else the decision depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation {
    /// How long the event may still be answered; zero when it is too old.
    pub(crate) left: Duration,
    /// Failed tries before this one.
    pub(crate) attempts: u32,
    /// Time since the intent was begun; only matters after a post.
    pub(crate) since_intent: Duration,
    /// Whether there is a line for when there is nothing to say.
    pub(crate) fallback: bool,
    /// A random number from 0 to 1, for the jitter.
    pub(crate) dice: f64,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Store the answer as a reply.
    Say,
    /// Store the fallback line as a reply.
    SayFallback,
    /// Say nothing: ignored `nothing_to_say`.
    Silence,
    /// The reply is in the room.
    Done,
    /// The reply is certainly not in the room: post it.
    Post,
    /// In doubt: after this time, look. The intent stays open.
    Look(Duration),
    /// Try again after this time; the try counts.
    Again(Duration),
    /// A rate limit: wait for a slot; nothing counts.
    Limited(Limited),
    /// Not the event's fault: the step pauses; nothing counts.
    Pause,
    /// Give up.
    Bury(Cause, Option<u16>),
}

/// Which of Chatwork's limits refused a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limited {
    /// All calls of the account.
    Account,
    /// Posts in one room.
    Room,
}

/// The decision table.
pub(crate) fn decide(happened: Happened<'_>, situation: &Situation) -> Decision {
    match happened {
        Happened::TooOld if situation.attempts == 0 => Decision::Bury(Cause::Expired, None),
        Happened::TooOld => Decision::Bury(Cause::Exhausted, None),

        Happened::Answered(Answer::Said(_)) => Decision::Say,
        Happened::Answered(Answer::NothingToSay) | Happened::NothingToAsk => {
            if situation.fallback {
                Decision::SayFallback
            } else {
                Decision::Silence
            }
        }
        Happened::AskFailed(error) => match error {
            AskError::Unauthorized(_) | AskError::QuotaUsedUp(_) | AskError::Rejected(_) => {
                Decision::Pause
            }
            AskError::Failed(_) | AskError::TimedOut | AskError::Unreachable(_) => {
                again(situation, Cause::Exhausted)
            }
        },

        // A 2xx is done whatever its body.
        Happened::Posted | Happened::PostFailed(CallError::Nonsense(_)) => Decision::Done,
        Happened::PostFailed(CallError::NotSent(_)) => again(situation, Cause::Exhausted),
        Happened::PostFailed(CallError::InDoubt(_)) => {
            Decision::Look(LOOK_AFTER_SILENCE.saturating_sub(situation.since_intent))
        }
        Happened::PostFailed(CallError::Refused {
            status, room_limit, ..
        }) => match status {
            401 => Decision::Pause,
            429 if *room_limit => Decision::Limited(Limited::Room),
            429 => Decision::Limited(Limited::Account),
            500.. => Decision::Look(LOOK_AFTER_SERVER_ERROR),
            _ => Decision::Bury(Cause::Refused, Some(*status)),
        },

        Happened::Found => Decision::Done,
        Happened::Absent if situation.left.is_zero() => Decision::Bury(Cause::Exhausted, None),
        Happened::Absent => Decision::Post,
        Happened::Unclear => again(situation, Cause::Uncertain),
        Happened::LookFailed(CallError::Refused { status: 401, .. }) => Decision::Pause,
        Happened::LookFailed(CallError::Refused { status: 429, .. }) => {
            Decision::Limited(Limited::Account)
        }
        // Anything else told nothing about the reply, a refusal to let us read included.
        Happened::LookFailed(_) => again(situation, Cause::Uncertain),
    }
}

/// Another try while there is time for one, else the end for this cause.
fn again(situation: &Situation, at_last: Cause) -> Decision {
    if situation.left <= LAST_TRY {
        return Decision::Bury(at_last, None);
    }
    let wait = back_off(situation.attempts, situation.dice);
    Decision::Again(wait.min(situation.left - LAST_TRY))
}

/// 1 s, 2 s, 4 s … at most [`LONGEST_BACK_OFF`], full jitter: any time up to that.
fn back_off(attempts: u32, dice: f64) -> Duration {
    let ceiling = 1u64
        .checked_shl(attempts)
        .map_or(LONGEST_BACK_OFF, Duration::from_secs)
        .min(LONGEST_BACK_OFF);
    ceiling.mul_f64(dice.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use chickwork_clients::chatwork::Limits;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn early() -> Situation {
        Situation {
            left: HOUR,
            attempts: 0,
            since_intent: Duration::from_secs(10),
            fallback: true,
            dice: 1.0,
        }
    }

    fn late() -> Situation {
        Situation {
            left: Duration::ZERO,
            attempts: 7,
            ..early()
        }
    }

    fn refused(status: u16) -> CallError {
        CallError::Refused {
            status,
            said: "words".to_owned(),
            limits: Limits::default(),
            room_limit: false,
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn every_row_of_the_table() {
        let room_limit = CallError::Refused {
            status: 429,
            said: String::new(),
            limits: Limits::default(),
            room_limit: true,
        };
        let said = Answer::Said("chip".to_owned());
        let words = String::new;
        let silent = Situation {
            fallback: false,
            ..early()
        };
        let untried = Situation {
            attempts: 0,
            ..late()
        };
        use Decision::*;
        use Happened::*;
        let table = [
            (Answered(&said), early(), Say),
            (Answered(&said), late(), Say),
            (Answered(&Answer::NothingToSay), early(), SayFallback),
            (Answered(&Answer::NothingToSay), silent, Silence),
            (NothingToAsk, early(), SayFallback),
            (NothingToAsk, silent, Silence),
            (
                AskFailed(&AskError::Failed(words())),
                early(),
                Again(seconds(1)),
            ),
            (AskFailed(&AskError::TimedOut), early(), Again(seconds(1))),
            (
                AskFailed(&AskError::Unreachable(words())),
                early(),
                Again(seconds(1)),
            ),
            (
                AskFailed(&AskError::TimedOut),
                late(),
                Bury(Cause::Exhausted, None),
            ),
            (AskFailed(&AskError::Unauthorized(words())), early(), Pause),
            (AskFailed(&AskError::QuotaUsedUp(words())), early(), Pause),
            (AskFailed(&AskError::Rejected(words())), late(), Pause),
            (Posted, early(), Done),
            (Posted, late(), Done),
            (PostFailed(&CallError::Nonsense(words())), early(), Done),
            (
                PostFailed(&CallError::NotSent(words())),
                early(),
                Again(seconds(1)),
            ),
            (
                PostFailed(&CallError::NotSent(words())),
                late(),
                Bury(Cause::Exhausted, None),
            ),
            (
                PostFailed(&CallError::InDoubt(words())),
                early(),
                Look(seconds(5)),
            ),
            (
                PostFailed(&CallError::InDoubt(words())),
                late(),
                Look(seconds(5)),
            ),
            (PostFailed(&refused(500)), early(), Look(seconds(3))),
            (PostFailed(&refused(503)), late(), Look(seconds(3))),
            (
                PostFailed(&refused(429)),
                early(),
                Limited(super::Limited::Account),
            ),
            (
                PostFailed(&room_limit),
                early(),
                Limited(super::Limited::Room),
            ),
            (PostFailed(&refused(401)), early(), Pause),
            (
                PostFailed(&refused(400)),
                early(),
                Bury(Cause::Refused, Some(400)),
            ),
            (
                PostFailed(&refused(403)),
                early(),
                Bury(Cause::Refused, Some(403)),
            ),
            (
                PostFailed(&refused(404)),
                early(),
                Bury(Cause::Refused, Some(404)),
            ),
            (
                PostFailed(&refused(413)),
                early(),
                Bury(Cause::Refused, Some(413)),
            ),
            (
                PostFailed(&refused(302)),
                early(),
                Bury(Cause::Refused, Some(302)),
            ),
            (Found, early(), Done),
            (Found, late(), Done),
            (Absent, early(), Post),
            (Absent, late(), Bury(Cause::Exhausted, None)),
            (Unclear, early(), Again(seconds(1))),
            (Unclear, late(), Bury(Cause::Uncertain, None)),
            (
                LookFailed(&CallError::InDoubt(words())),
                early(),
                Again(seconds(1)),
            ),
            (
                LookFailed(&CallError::Nonsense(words())),
                late(),
                Bury(Cause::Uncertain, None),
            ),
            (LookFailed(&refused(403)), early(), Again(seconds(1))),
            (
                LookFailed(&refused(404)),
                late(),
                Bury(Cause::Uncertain, None),
            ),
            (
                LookFailed(&refused(429)),
                early(),
                Limited(super::Limited::Account),
            ),
            (LookFailed(&refused(401)), early(), Pause),
            (TooOld, untried, Bury(Cause::Expired, None)),
            (TooOld, late(), Bury(Cause::Exhausted, None)),
        ];
        for (happened, situation, expected) in table {
            assert_eq!(
                decide(happened, &situation),
                expected,
                "{happened:?} in {situation:?}"
            );
        }
    }

    #[test]
    fn the_back_off_doubles_up_to_five_minutes() {
        let waits: Vec<u64> = (0..12)
            .map(|attempts| back_off(attempts, 1.0).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(back_off(u32::MAX, 1.0), LONGEST_BACK_OFF);
    }

    #[test]
    fn the_jitter_is_full() {
        assert_eq!(back_off(5, 0.0), Duration::ZERO);
        assert_eq!(back_off(5, 0.5), seconds(16));
    }

    #[test]
    fn a_last_try_is_made_before_the_end_not_after_it() {
        let situation = Situation {
            left: seconds(40),
            attempts: 9,
            ..early()
        };
        let decision = decide(Happened::AskFailed(&AskError::TimedOut), &situation);
        assert_eq!(decision, Decision::Again(seconds(38)));
    }

    #[test]
    fn whatever_happens_to_a_post_that_may_have_been_sent_it_is_never_simply_tried_again() {
        let errors = (300..600)
            .map(refused)
            .chain([CallError::InDoubt(String::new())]);
        for error in errors {
            for situation in [early(), late()] {
                let decision = decide(Happened::PostFailed(&error), &situation);
                assert!(
                    !matches!(decision, Decision::Again(_) | Decision::Post),
                    "{error:?}: {decision:?}"
                );
            }
        }
    }
}
