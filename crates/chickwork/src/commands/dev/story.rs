//! The stories of the events, told while they happen: what goes as it should is not worth a word,
//! everything else is a short line. From outcomes to lines, and nothing else.

use std::collections::HashMap;

use chickwork_queue::event::EventId;
use chickwork_queue::job::Step;
use chickwork_queue::outcome::{Outcome, What};
use jiff::Timestamp;

use crate::telling;
use crate::words;

/// The stories of the events that are not over yet.
#[derive(Debug, Default)]
pub(super) struct Stories(HashMap<EventId, Story>);

/// What was heard of an event so far.
#[derive(Debug, Default)]
struct Story {
    /// What the service said last, until it is known what follows from it.
    failure: Option<String>,
    /// A post was sent then, and nobody knows what became of it.
    in_doubt_since: Option<Timestamp>,
    /// Something was told, so the end is worth a line as well.
    told: bool,
}

impl Stories {
    /// Takes in what happened; a line if it is worth one.
    pub(super) fn hear(&mut self, outcome: &Outcome) -> Option<String> {
        let story = self.0.entry(outcome.id).or_default();
        let line = story.line(outcome);
        if is_the_end(&outcome.what) {
            self.0.remove(&outcome.id);
        }
        line
    }
}

/// Whether nothing more is to be expected of an event, unless a person puts it back.
pub(super) fn is_the_end(what: &What) -> bool {
    matches!(
        what,
        What::Ignored { .. } | What::Posted { .. } | What::Dead { .. } | What::Dropped { .. }
    )
}

impl Story {
    fn line(&mut self, outcome: &Outcome) -> Option<String> {
        let failure = self.failure.take();
        let line = match &outcome.what {
            // The mention itself has been printed.
            What::Received { .. } => {
                self.failure = failure;
                return None;
            }
            What::Asked { result, .. } if result == What::ANSWERED => return None,
            What::Asked { result, .. } if result == What::NO_ANSWER => {
                // And yet it goes on as it should, with the friendly line.
                return Some(telling::outcome(&outcome.what));
            }
            What::Asked { result, .. } => {
                self.failure = Some(result.clone());
                return None;
            }
            What::ReplyStored { .. } => return None,
            What::Intent { .. } => {
                self.in_doubt_since = Some(outcome.at);
                return None;
            }
            What::NotPosted { reason, .. } => {
                self.in_doubt_since = None;
                self.failure = Some(reason.clone());
                return None;
            }
            What::Later {
                step,
                reason,
                until,
            } => {
                let next = if *step == Step::Post && self.in_doubt_since.is_some() {
                    "the room will be looked at"
                } else {
                    "again"
                };
                let why = match failure {
                    Some(failure) if failure != *reason => format!("{failure} ({reason})"),
                    _ => reason.clone(),
                };
                format!("{why}; {next} {}", when(outcome.at, *until))
            }
            What::Looked { result, .. } => {
                if result == What::ABSENT {
                    self.in_doubt_since = None;
                }
                telling::outcome(&outcome.what)
            }
            What::Posted { .. } if !self.told => return None,
            What::Posted { found, .. } => match (received(outcome.id), self.in_doubt_since) {
                (Some(received), Some(sent)) if *found => format!(
                    "answered after {} s, known after {} s",
                    seconds(received, sent),
                    seconds(received, outcome.at)
                ),
                (Some(received), _) => {
                    format!("answered after {} s", seconds(received, outcome.at))
                }
                (None, _) => "answered".to_owned(),
            },
            What::Ignored { .. }
            | What::Dead { .. }
            | What::Dropped { .. }
            | What::Replayed { .. } => telling::outcome(&outcome.what),
        };
        self.told = true;
        Some(words::line(&line, usize::MAX))
    }
}

/// When something comes, seen from when it was decided.
fn when(now: Timestamp, until: Timestamp) -> String {
    match until.duration_since(now).as_millis() {
        ..=0 => "at once".to_owned(),
        millis => format!("in {} s", (millis + 999) / 1000),
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> String {
    format!("{:.1}", to.duration_since(from).as_secs_f64().max(0.0))
}

/// When the event came in: its id begins with the time.
fn received(id: EventId) -> Option<Timestamp> {
    let (seconds, nanoseconds) = id.0.get_timestamp()?.to_unix();
    Timestamp::new(seconds.try_into().ok()?, nanoseconds.try_into().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use chickwork_queue::event::BotName;
    use chickwork_queue::job::Cause;

    use super::*;
    use crate::recorded::tests::asked;

    /// Tells a story of outcomes, each so many seconds after the event came in.
    fn told(outcomes: &[(i64, What)]) -> Vec<String> {
        let id = EventId::fresh();
        let began = received(id).expect("the time is in the id");
        let mut stories = Stories::default();
        let lines = outcomes
            .iter()
            .filter_map(|(after, what)| {
                stories.hear(&Outcome {
                    v: Outcome::VERSION,
                    at: began + jiff::SignedDuration::from_secs(*after),
                    id,
                    bot: BotName::default(),
                    room_id: None,
                    message_id: None,
                    again: None,
                    what: match what.clone() {
                        // In these tests a time is a number of seconds from now on.
                        What::Later {
                            step,
                            reason,
                            until,
                        } => What::Later {
                            step,
                            reason,
                            until: began
                                + jiff::SignedDuration::from_secs(*after)
                                + until.duration_since(Timestamp::UNIX_EPOCH),
                        },
                        what => what,
                    },
                })
            })
            .collect();
        let over = outcomes.last().is_some_and(|(_, what)| is_the_end(what));
        assert_eq!(stories.0.is_empty(), over, "what is over is forgotten");
        lines
    }

    fn later(step: Step, reason: &str, millis: i64) -> What {
        What::Later {
            step,
            reason: reason.to_owned(),
            until: Timestamp::from_millisecond(millis).expect("a time"),
        }
    }

    fn stored() -> What {
        What::ReplyStored {
            text: "hush".to_owned(),
        }
    }

    fn intent() -> What {
        What::Intent {
            consumer: "x.1".to_owned(),
        }
    }

    fn posted(found: bool) -> What {
        What::Posted {
            reply_message_id: None,
            found,
        }
    }

    fn not_posted(reason: &str) -> What {
        What::NotPosted {
            reason: reason.to_owned(),
            called: true,
            intended_at: None,
            overrules_until: None,
        }
    }

    fn looked(result: &str) -> What {
        What::Looked {
            result: result.to_owned(),
            reply_message_id: None,
            reaches_back_to: None,
        }
    }

    fn ignored(reason: &str) -> What {
        What::Ignored {
            reason: reason.to_owned(),
        }
    }

    fn dead(step: Step, cause: Cause, error: &str) -> What {
        What::Dead {
            step,
            cause,
            error: error.to_owned(),
            status: None,
        }
    }

    /// What happens to an event, and the lines about it.
    type Told<'a> = (&'a [(i64, What)], &'a [&'a str]);

    #[test]
    fn every_story() {
        use Step::{Ask, Post};
        let failed = "SimSimi failed: 500 Server error";
        let lost = "no answer from Chatwork: connection closed";
        let dropped = What::Dropped {
            reason: "\u{1b}[2Jgone".to_owned(),
        };
        let stories: [Told<'_>; 13] = [
            // As it should be.
            (
                &[
                    (0, asked(What::ANSWERED, None, None)),
                    (0, stored()),
                    (0, intent()),
                    (0, posted(false)),
                ],
                &[],
            ),
            (
                &[
                    (0, asked(What::NO_ANSWER, None, None)),
                    (0, stored()),
                    (0, intent()),
                    (1, posted(false)),
                ],
                &["SimSimi does not understand that"],
            ),
            (&[(0, ignored("flood"))], &["ignored: flood"]),
            // Nobody's words command the terminal.
            (&[(0, dropped)], &["dropped: \\u{1b}[2Jgone"]),
            // SimSimi fails, and then it does not.
            (
                &[
                    (1, asked(failed, None, None)),
                    (1, later(Ask, failed, 1_400)),
                    (3, asked(What::ANSWERED, None, None)),
                    (3, stored()),
                    (3, intent()),
                    (4, posted(false)),
                ],
                &[
                    "SimSimi failed: 500 Server error; again in 2 s",
                    "answered after 4.0 s",
                ],
            ),
            // It does not want us, and the next one does not even ask.
            (
                &[
                    (0, asked("no key", None, None)),
                    (0, later(Ask, "paused", 60_000)),
                ],
                &["no key (paused); again in 60 s"],
            ),
            (&[(0, later(Ask, "paused", 0))], &["paused; again at once"]),
            // It fails to the end.
            (
                &[
                    (0, asked(failed, None, None)),
                    (0, dead(Ask, Cause::Exhausted, failed)),
                ],
                &["given up (exhausted): SimSimi failed: 500 Server error"],
            ),
            // The answer to a post is lost; the post is found.
            (
                &[
                    (0, intent()),
                    (0, later(Post, lost, 15_000)),
                    (15, looked("found")),
                    (15, posted(true)),
                ],
                &[
                    "no answer from Chatwork: connection closed; the room will be looked at in 15 s",
                    "looked: it is there",
                    "answered after 0.0 s, known after 15.0 s",
                ],
            ),
            // The post is lost, and posted again under a limit.
            (
                &[
                    (0, intent()),
                    (0, later(Post, lost, 15_000)),
                    (15, looked("absent")),
                    (15, later(Post, "rate limit", 4_000)),
                    (19, intent()),
                    (19, posted(false)),
                ],
                &[
                    "no answer from Chatwork: connection closed; the room will be looked at in 15 s",
                    "looked: it is not there",
                    "rate limit; again in 4 s",
                    "answered after 19.0 s",
                ],
            ),
            // Nobody can tell.
            (
                &[
                    (0, intent()),
                    (20, looked("unclear")),
                    (20, later(Post, "in doubt", 1_000)),
                    (30, looked("unclear")),
                    (30, dead(Post, Cause::Uncertain, "in doubt")),
                ],
                &[
                    "looked: nobody can tell",
                    "in doubt; the room will be looked at in 1 s",
                    "looked: nobody can tell",
                    "given up (uncertain): in doubt",
                ],
            ),
            // Certainly not posted: too many, or out of reach.
            (
                &[
                    (0, intent()),
                    (0, not_posted("Chatwork answered 429")),
                    (0, later(Post, "rate limit", 9_001)),
                ],
                &["Chatwork answered 429 (rate limit); again in 10 s"],
            ),
            // Refused for good.
            (
                &[
                    (0, intent()),
                    (0, not_posted("Chatwork answered 403: no")),
                    (0, dead(Post, Cause::Refused, "Chatwork answered 403: no")),
                ],
                &["given up (refused): Chatwork answered 403: no"],
            ),
        ];
        for (outcomes, lines) in stories {
            assert_eq!(told(outcomes), lines, "{outcomes:?}");
        }
    }
}
