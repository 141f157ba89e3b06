//! "Why did the bot not reply?" in a sentence or two: what a person wants to know first of an event, and
//! what can be typed next. From a story to words, and nothing else.

mod doubt;
mod replies;

use std::time::Duration;

use chickwork_queue::event::EventId;
use chickwork_queue::events::{Standing, Story};
use chickwork_queue::job::{Cause, Step};
use chickwork_queue::outcome::{Outcome, Reason, What};
use jiff::Timestamp;

pub(super) use self::doubt::Doubt;
use self::doubt::Of;
use self::replies::{Replied, replied};
use crate::commands::dead::cause;
use crate::{telling, words};

/// What it comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The answer.
    pub(super) answer: String,
    /// What explains it.
    pub(super) because: Vec<String>,
    /// What to type, each with what it does.
    pub(super) next: Vec<String>,
}

/// What the story comes to, at this time. A spool knows of nothing but what waits in it.
pub(super) fn verdict(story: &Story, is_in_spool: bool, now: Timestamp) -> Verdict {
    match story.standing {
        Standing::Waiting if is_in_spool => in_spool(),
        Standing::Answered => answered(story),
        Standing::Waiting => waiting(story, now),
        Standing::Ignored => ignored(story),
        Standing::Dead => dead(story),
        Standing::Dropped => dropped(story),
        Standing::Unexplained => unexplained(story),
        Standing::Open => open(story, now),
    }
}

/// When it came in, as far as that is known.
pub(super) fn received_at(story: &Story) -> Option<Timestamp> {
    let event = story.event.as_ref();
    event
        .map(|event| event.received_at)
        .or_else(|| story.letter.as_ref().map(|letter| letter.received_at))
        .or_else(|| story.id.received_at())
}

/// The state, and why, as far as that is said. Of what nothing explains, the last that was heard is no reason.
pub(super) fn state(standing: Standing, why: Option<&str>) -> String {
    match (standing, why) {
        (_, None) => standing.as_str().to_owned(),
        (Standing::Unexplained | Standing::Open, Some(last)) => {
            format!("{} (last: {last})", standing.as_str())
        }
        (_, Some(why)) => format!("{}: {why}", standing.as_str()),
    }
}

fn answered(story: &Story) -> Verdict {
    let Replied { answer, because } = replied(story).unwrap_or_else(|| Replied {
        answer: "The bot replied; when, is not known any more.".to_owned(),
        because: Vec::new(),
    });
    Verdict {
        answer,
        because,
        next: Vec::new(),
    }
}

/// How an answer begins when the reply that is asked for is not known to be there.
struct Opening {
    words: String,
    /// What explains the reply that there was before.
    because: Vec<String>,
}

impl Opening {
    /// As it is with a reply of an earlier round, which stands first; or as it is without.
    fn of(story: &Story, again: &str, otherwise: &str) -> Self {
        match replied(story) {
            Some(Replied { answer, because }) => Self {
                words: format!("{answer} {again}"),
                because,
            },
            None => Self {
                words: otherwise.to_owned(),
                because: Vec::new(),
            },
        }
    }
}

fn waiting(story: &Story, now: Timestamp) -> Verdict {
    let doubt = Doubt::after(story);
    let opening = if doubt.is_open() {
        Opening::of(story, "Asked to reply again, perhaps it has:", "Perhaps:")
    } else {
        let again = "Asked to reply again, it has not yet:";
        Opening::of(story, again, "No reply yet:")
    };
    let mut because = opening.because;
    because.extend(doubt.explained());
    Verdict {
        answer: format!("{} {}", opening.words, where_it_is(story, &doubt, now)),
        because,
        next: vec![STATUS.to_owned()],
    }
}

fn in_spool() -> Verdict {
    Verdict {
        answer: "No reply yet: it waits in this spool until the broker takes it.".to_owned(),
        because: vec![
            "Its ingress brings it there by itself, as long as it runs; then a worker takes it up."
                .to_owned(),
        ],
        next: vec!["chickwork status   is the broker there, and the ingress?".to_owned()],
    }
}

const STATUS: &str = "chickwork status                 are workers at work, is anything paused?";

/// What an event without an end is doing, by the last that was heard of it.
fn where_it_is(story: &Story, doubt: &Doubt, now: Timestamp) -> String {
    let told = |outcome: &&Outcome| {
        // It may be stored late, and says nothing of what came after it.
        !matches!(outcome.what, What::Received { .. })
    };
    let Some(last) = story.outcomes.iter().rev().find(told) else {
        return format!("{WAITS}; nothing else was heard of it.");
    };
    match &last.what {
        What::Later {
            step,
            reason,
            until,
        } => {
            let doing = match step {
                Step::Post if doubt.is_open() => {
                    "for the room to be looked at, as nobody knows whether the reply is there"
                }
                Step::Post => "to be posted",
                Step::Ask | Step::Receive => "for SimSimi to be asked",
            };
            let at = words::time(*until);
            let reason = words::sentence(reason);
            match Duration::try_from(until.duration_since(now)) {
                Ok(left) => format!(
                    "it waits until {at} (another {}) {doing}. Put off because: {reason}",
                    telling::span(left)
                ),
                Err(_) => format!(
                    "it waited until {at} {doing}, and is due since {}. It had been put off because: {reason}",
                    telling::span(telling::between(*until, now))
                ),
            }
        }
        What::Replayed { reason, .. } => {
            let ago = words::ago(last.at, now);
            let looks = match doubt.of {
                Some(Of::Post) => {
                    " An earlier post may have arrived, so the bot looks into the room before it posts."
                }
                Some(Of::Elsewhere) | None => "",
            };
            format!("a person put it back {ago} ({reason}), and {WAITS}.{looks}")
        }
        What::Ignored { reason } => format!(
            "it was ignored ({reason}) after a person had asked for another answer, and that is still owed."
        ),
        What::Asked { .. } => {
            "SimSimi was asked, and what follows from that is under way.".to_owned()
        }
        What::ReplyStored { .. } => {
            "the reply is stored, and waits to be posted, or a worker is about it.".to_owned()
        }
        What::Intent { .. } => format!(
            "a worker began to post the reply {}. If it died over that, the next one looks into the room before it posts.",
            words::ago(last.at, now)
        ),
        What::NotPosted { .. } => ABSENT.to_owned(),
        What::Looked { result, .. } => match result.as_str() {
            What::ABSENT => ABSENT.to_owned(),
            What::FOUND => {
                "the bot looked into the room and found its reply there, which is about to be noted."
                    .to_owned()
            }
            _ => "the bot looked into the room, and could not tell whether the reply is there. It looks once more, and does not post until it knows."
                .to_owned(),
        },
        // None of these is the last word of an event without an end.
        What::Received { .. } | What::Posted { .. } | What::Dead { .. } | What::Dropped { .. } => {
            format!("{WAITS}.")
        }
    }
}

/// Neither a broker nor the outcomes tell which of these it is.
const WAITS: &str = "it waits for a worker, or one has it in hand";
const ABSENT: &str = "the reply is certainly not in the room, and waits to be posted.";

fn ignored(story: &Story) -> Verdict {
    let reason = story.why.as_deref().unwrap_or_default();
    let (answer, next) = match reason {
        Reason::OWN => ("the bot wrote that message itself.", None),
        Reason::IGNORED_ACCOUNT => (
            "whoever wrote it is never answered (CHICKWORK_IGNORE_ACCOUNTS).",
            None,
        ),
        Reason::SYSTEM_TEXT => (
            "nobody said anything: Chatwork reports an upload, a task or a new member.",
            None,
        ),
        Reason::NOT_ADDRESSED => (
            "the message does not address the bot: no To and no reply names it, or only within a quotation, or it is for everybody ([toall]).",
            None,
        ),
        Reason::DUPLICATE => (
            "another event about the same message was answered.",
            message(story).map(|message| {
                format!("chickwork events show {message}   all events about the message")
            }),
        ),
        Reason::ROOM_CLOSED => (
            "Chatwork had said lately that the bot may not post in this room. Let it be a member with the right to write there.",
            Some(replay(story, "once it may")),
        ),
        Reason::FLOOD => (
            "whoever wrote it had asked more than is answered in so short a time (CHICKWORK_SENDER_LIMIT).",
            Some(replay(story, "answers it after all")),
        ),
        Reason::NOTHING_TO_SAY => (
            "there was nothing to answer with, and the bot has no line for that (CHICKWORK_FALLBACK is empty).",
            None,
        ),
        _ => ("nothing was to be said.", None),
    };
    let doubt = Doubt::after(story);
    let (again, otherwise) = if doubt.is_open() {
        (
            "Asked to reply again, perhaps it did, though none was due",
            "Perhaps: nobody knows whether a reply is in the room, though none was due",
        )
    } else {
        (
            "Asked to reply again, it did not, and none was due",
            "No reply, and none was due",
        )
    };
    let opening = Opening::of(story, again, otherwise);
    let mut because = opening.because;
    because.extend(doubt.explained());
    Verdict {
        answer: format!("{} ({reason}): {answer}", opening.words),
        because,
        next: next.into_iter().collect(),
    }
}

/// The message in the form that `show` takes.
fn message(story: &Story) -> Option<String> {
    let event = story.event.as_ref();
    let outcome = story.outcomes.first();
    let room = event
        .and_then(|event| event.room_id)
        .or_else(|| outcome.and_then(|outcome| outcome.room_id))?;
    let message = event
        .and_then(|event| event.message_id.clone())
        .or_else(|| outcome.and_then(|outcome| outcome.message_id.clone()))?;
    Some(format!("{room}-{message}"))
}

fn replay(story: &Story, what: &str) -> String {
    let (id, state) = (story.id, story.standing.as_str());
    format!("chickwork replay {id} --state {state}   {what}")
}

fn dead(story: &Story) -> Verdict {
    // The letter is true whatever the outcomes have lost.
    let letter = story.letter.as_ref();
    let letter = letter.map(|letter| GivenUp {
        step: letter.step,
        cause: letter.cause,
        error: &letter.error,
        at: letter.buried_at,
    });
    let Some(given_up) = letter.or_else(|| last_given_up(story)) else {
        let opening = Opening::of(story, "Asked to reply again, it gave up.", NO_REPLY);
        return Verdict {
            answer: opening.words,
            because: opening.because,
            next: vec![format!("chickwork dead show {}", story.id)],
        };
    };
    let GivenUp {
        step,
        cause,
        error,
        at,
    } = given_up;
    // Whatever it was given up for, a post before that may have arrived.
    let doubt = Doubt::after(story);
    let opening = if cause == Cause::Uncertain || doubt.is_open() {
        Opening::of(
            story,
            "Asked to reply again, perhaps it did: nobody knows whether that reply is in the room. It was given up",
            "Perhaps: nobody knows whether the reply is in the room. It was given up",
        )
    } else {
        Opening::of(
            story,
            "Asked to reply again, it gave up",
            NO_REPLY.trim_end_matches('.'),
        )
    };
    let mut because = opening.because;
    because.extend(doubt.explained());
    if cause != Cause::Uncertain {
        let explained = cause::explained(cause);
        because.extend([explained.means.to_owned(), explained.cure.to_owned()]);
    }
    if story.letter.is_none() {
        because.push(
            "Its dead letter is not there: somebody is taking it out just now, or it was lost."
                .to_owned(),
        );
    }
    Verdict {
        answer: format!(
            "{} at {} while {} ({}): {}",
            opening.words,
            words::time(at),
            cause::step(step, cause),
            cause.as_str(),
            words::sentence(error),
        ),
        because,
        next: match story.letter {
            Some(_) => about_letter(story.id, cause),
            None => Vec::new(),
        },
    }
}

const NO_REPLY: &str = "No reply: it was given up.";

/// Where and why it was given up.
struct GivenUp<'a> {
    step: Step,
    cause: Cause,
    error: &'a str,
    at: Timestamp,
}

fn last_given_up(story: &Story) -> Option<GivenUp<'_>> {
    let outcomes = story.outcomes.iter().rev();
    outcomes
        .filter_map(|outcome| match &outcome.what {
            What::Dead {
                step, cause, error, ..
            } => Some(GivenUp {
                step: *step,
                cause: *cause,
                error,
                at: outcome.at,
            }),
            _ => None,
        })
        .next()
}

/// What can be done with its letter. With a reply in doubt, what cannot make two of one comes first.
fn about_letter(id: EventId, cause: Cause) -> Vec<String> {
    let show = ("show", "", "what was given up");
    let commands = match cause {
        Cause::Uncertain => vec![
            show,
            (
                "retry",
                "",
                "looks into the room once more, and posts it if it is certainly not there",
            ),
            (
                "retry",
                " --again",
                "posts it WITHOUT LOOKING: only if you have seen that it is not there",
            ),
            ("drop", "", "if you have seen that it is there"),
        ],
        _ => vec![show, ("retry", "", "tries it once more")],
    };
    let commands = commands.into_iter().map(|(command, flags, does)| {
        let command = format!("chickwork dead {command} {id}{flags}");
        (command, does)
    });
    let commands: Vec<_> = commands.collect();
    let lengths = commands.iter().map(|(command, _)| command.len());
    let longest = lengths.max().unwrap_or_default();
    commands
        .into_iter()
        .map(|(command, does)| format!("{command:<longest$}   {does}"))
        .collect()
}

fn dropped(story: &Story) -> Verdict {
    let reason = story.why.as_deref().unwrap_or("no reason was given");
    let doubt = Doubt::after(story);
    let (again, otherwise) = match last_given_up(story).map(|given_up| given_up.cause) {
        Some(Cause::Uncertain) => (
            "Asked to reply again, perhaps it did: it was given up, as nobody knew whether that reply is in the room, and",
            "Perhaps: it was given up, as nobody knew whether the reply is in the room, and",
        ),
        _ if doubt.is_open() => (
            "Asked to reply again, perhaps it did: nobody knows whether that reply is in the room, and",
            "Perhaps: nobody knows whether the reply is in the room, and",
        ),
        Some(_) => (
            "Asked to reply again, it gave up, and",
            "No reply: it was given up, and",
        ),
        None => ("Asked to reply again, it did not:", "No reply:"),
    };
    let opening = Opening::of(story, again, otherwise);
    let mut because = opening.because;
    because.extend(doubt.explained());
    Verdict {
        answer: format!(
            "{} a person dropped it: {}",
            opening.words,
            words::sentence(reason)
        ),
        because,
        // What is forgotten cannot be put back.
        next: story
            .event
            .iter()
            .map(|_| replay(story, "asks after all"))
            .collect(),
    }
}

fn unexplained(story: &Story) -> Verdict {
    let last = story.outcomes.last();
    let last = last.map_or_else(
        || "nothing was heard of it since it came in".to_owned(),
        |last| {
            format!(
                "the last that was heard of it is `{}`, at {}",
                last.what.name(),
                words::time(last.at)
            )
        },
    );
    let doubt = Doubt::after(story);
    let (again, otherwise) = if doubt.is_open() {
        (
            "Asked to reply again, perhaps it did, and nothing explains what became of it:",
            "Perhaps: nobody knows whether the reply is in the room, and nothing explains that:",
        )
    } else {
        (
            "Asked to reply again, it did not, and nothing explains that:",
            "No reply, and nothing explains that:",
        )
    };
    let opening = Opening::of(story, again, otherwise);
    let mut because = opening.because;
    because.extend(doubt.explained());
    because.push("A queue may have been emptied by hand, or a store was lost.".to_owned());
    Verdict {
        answer: format!("{} {last}, and it waits nowhere.", opening.words),
        because,
        next: vec![
            format!("chickwork replay {}   puts it back", story.id),
            "chickwork audit --requeue        puts everything back that nothing explains"
                .to_owned(),
        ],
    }
}

fn open(story: &Story, now: Timestamp) -> Verdict {
    let mut verdict = waiting(story, now);
    verdict.because.push(
        "So it seems: a broker does not tell which events wait, so it may as well be lost."
            .to_owned(),
    );
    verdict.next.push(
        "chickwork audit                  waits until what is under way has ended, and tells what is lost"
            .to_owned(),
    );
    verdict
}

#[cfg(test)]
mod tests {
    use chickwork_chatwork::id::MessageId;
    use chickwork_queue::dead::DeadLetter;
    use chickwork_queue::event::BotName;

    use super::*;
    use crate::filter::tests::a_letter;
    use crate::recorded::tests::asked;

    /// Five minutes after the event came in.
    const NOW: i64 = 300;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).expect("a time")
    }

    /// A story of outcomes, each so many seconds after the event came in.
    fn story(standing: Standing, why: Option<&str>, outcomes: &[(i64, What)]) -> Story {
        let id: EventId = "01a20caa-3f93-70fb-83f5-248e49a65e0a"
            .parse()
            .expect("an id");
        let mut event = super::super::list::tests::listed("hi").event;
        event.received_at = at(0);
        let outcomes = outcomes.iter().map(|(second, what)| Outcome {
            v: Outcome::VERSION,
            at: at(*second),
            id,
            bot: BotName::default(),
            room_id: event.room_id,
            message_id: event.message_id.clone(),
            again: None,
            what: what.clone(),
        });
        Story {
            id,
            outcomes: outcomes.collect(),
            event: Some(event),
            letter: None,
            standing,
            why: why.map(str::to_owned),
            reply_message_id: None,
            replay: 0,
            open_round: None,
            read_until: None,
        }
    }

    fn later(step: Step, until: i64) -> What {
        What::Later {
            step,
            reason: "no answer from Chatwork".to_owned(),
            until: at(until),
        }
    }

    fn posted(found: bool) -> What {
        What::Posted {
            reply_message_id: MessageId::new("77").ok(),
            found,
        }
    }

    fn intent() -> What {
        What::Intent {
            consumer: "x.1".to_owned(),
        }
    }

    fn elsewhere() -> What {
        What::Intent {
            consumer: What::ELSEWHERE.to_owned(),
        }
    }

    fn stored() -> What {
        What::ReplyStored {
            text: "Chíp?".to_owned(),
        }
    }

    fn looked(result: &str) -> What {
        What::Looked {
            result: result.to_owned(),
            reply_message_id: None,
            reaches_back_to: None,
        }
    }

    fn not_posted() -> What {
        What::NotPosted {
            reason: "refused".to_owned(),
            called: true,
            intended_at: None,
            overrules_until: None,
        }
    }

    fn replayed() -> What {
        What::Replayed {
            replay: 1,
            reason: "why not".to_owned(),
            by: None,
        }
    }

    fn dead(cause: Cause, error: &str) -> What {
        What::Dead {
            step: Step::Post,
            cause,
            error: error.to_owned(),
            status: None,
        }
    }

    fn dropped() -> What {
        What::Dropped {
            reason: "it is there".to_owned(),
        }
    }

    /// The same, with its dead letter.
    async fn with_letter(mut story: Story, cause: Cause) -> Story {
        story.letter = Some(DeadLetter {
            id: story.id,
            step: Step::Post,
            cause,
            error: "nobody can tell".to_owned(),
            buried_at: at(30),
            ..a_letter().await
        });
        story
    }

    /// The same; it is in another round from the outcome of this number on.
    fn again(mut story: Story, from: usize) -> Story {
        for outcome in &mut story.outcomes[from..] {
            outcome.again = Some(at(60));
        }
        story
    }

    /// All of it as one text.
    fn told(story: &Story) -> String {
        let Verdict {
            answer,
            because,
            next,
        } = verdict(story, false, at(NOW));
        [vec![answer], because, next].concat().join("\n")
    }

    #[test]
    fn the_first_sentence_says_why_the_bot_did_not_reply() {
        use Standing::{Answered, Dead, Dropped, Ignored, Open, Unexplained, Waiting};
        let table: [(Story, &[&str]); 14] = [
            (
                story(Answered, None, &[(0, intent()), (21, posted(false))]),
                &["The bot replied after 21.0 s, at 2026-09-21T14:13:41Z, with message 77."],
            ),
            // Once posted and once found is one reply, and who posted it knows when.
            (
                story(Answered, None, &[(20, posted(true)), (21, posted(false))]),
                &["The bot replied after 21.0 s, at 2026-09-21T14:13:41Z, with message 77."],
            ),
            // Found long after it was posted.
            (
                story(
                    Answered,
                    None,
                    &[
                        (1, intent()),
                        (2, not_posted()),
                        (3, intent()),
                        (20, posted(true)),
                    ],
                ),
                &[
                    "The bot replied after 3.0 s, at 2026-09-21T14:13:23Z, with message 77.",
                    "not known until 2026-09-21T14:13:40Z, when the bot looked into the room and found its reply there.",
                ],
            ),
            // Found, and who posted it nobody knows.
            (
                story(Answered, None, &[(20, posted(true))]),
                &[
                    "The bot has replied, with message 77: its reply was found in the room at 2026-09-21T14:13:40Z, when it was posted is not known.",
                ],
            ),
            (
                story(Answered, None, &[(0, elsewhere()), (20, posted(true))]),
                &["found in the room at", "came from another deployment"],
            ),
            (
                story(Waiting, None, &[]),
                &[
                    "No reply yet: it waits for a worker, or one has it in hand; nothing else",
                    "chickwork status",
                ],
            ),
            (
                story(Waiting, None, &[(299, later(Step::Ask, 310))]),
                &[
                    "it waits until 2026-09-21T14:18:30Z (another 10.0 s) for SimSimi to be asked",
                    "no answer from Chatwork.",
                ],
            ),
            (
                story(Waiting, None, &[(1, intent()), (1, later(Step::Post, 290))]),
                &[
                    "Perhaps: it waited until",
                    "for the room to be looked at",
                    "is due since 10.0 s",
                ],
            ),
            (
                story(Ignored, Some("flood"), &[]),
                &["No reply, and none was due (flood)", "--state ignored"],
            ),
            (
                story(Ignored, Some("duplicate"), &[]),
                &["chickwork events show 446240519-1795508813713968449"],
            ),
            (
                story(Dead, None, &[(30, dead(Cause::Refused, "no"))]),
                &[
                    "No reply: it was given up at 2026-09-21T14:13:50Z while posting the reply (refused): no.",
                    "Mend what they name",
                ],
            ),
            (
                story(Dropped, Some("a test of ours"), &[]),
                &["a person dropped it: a test of ours."],
            ),
            (
                story(Unexplained, None, &[(1, later(Step::Ask, 2))]),
                &[
                    "the last that was heard of it is `later`",
                    "chickwork replay ",
                ],
            ),
            (
                story(Open, None, &[]),
                &["a broker does not tell", "chickwork audit"],
            ),
        ];
        for (story, parts) in table {
            let told = told(&story);
            for part in parts {
                assert!(told.contains(part), "{part} in {told}");
            }
        }
    }

    #[test]
    fn what_is_in_a_spool_waits_for_the_broker() {
        let waits = story(Standing::Waiting, None, &[]);
        let verdict = verdict(&waits, true, at(NOW));
        assert!(verdict.answer.contains("in this spool"), "{verdict:?}");
        let told = [verdict.because, verdict.next].concat().join(" ");
        assert!(told.contains("chickwork status "), "{told}");
    }

    #[test]
    fn every_round_is_told() {
        let posts = [(1, posted(false)), (61, intent()), (90, posted(true))];
        let told = told(&again(story(Standing::Answered, None, &posts), 1));
        assert!(told.starts_with("The bot replied after 1.0 s"), "{told}");
        let again = "asked to reply again, and did so at 2026-09-21T14:14:21Z, with message 77.";
        assert!(told.contains(again), "{told}");
    }

    /// What a person asked for besides did not come; the reply of before is in the room all the same.
    #[test]
    fn a_reply_of_an_earlier_round_is_told_first() {
        use Standing::{Dead, Dropped, Ignored, Open, Unexplained, Waiting};
        let table: [(Standing, Option<&str>, &[What], &str); 10] = [
            (
                Dead,
                None,
                &[intent(), not_posted(), dead(Cause::Refused, "no")],
                "Asked to reply again, it gave up at 2026-09-21T14:14:23Z while posting the reply (refused): no.",
            ),
            (
                Dead,
                None,
                &[intent(), dead(Cause::Uncertain, "no way to tell")],
                "Asked to reply again, perhaps it did: nobody knows whether that reply is in the room. It was given up at",
            ),
            (Dead, None, &[], "Asked to reply again, it gave up."),
            (
                Dropped,
                Some("enough"),
                &[dead(Cause::Refused, "no"), dropped()],
                "Asked to reply again, it gave up, and a person dropped it: enough.",
            ),
            (
                Dropped,
                Some("it is there"),
                &[dead(Cause::Uncertain, "no"), dropped()],
                "Asked to reply again, perhaps it did: it was given up, as nobody knew",
            ),
            (
                Waiting,
                None,
                &[],
                "Asked to reply again, it has not yet: a person put it back 4 min ago (why not), and it waits for a worker, or one has it in hand.",
            ),
            (
                Waiting,
                None,
                &[intent()],
                "Asked to reply again, perhaps it has: a worker began",
            ),
            (Open, None, &[], "Asked to reply again, it has not yet:"),
            (
                Unexplained,
                None,
                &[],
                "Asked to reply again, it did not, and nothing explains that: the last",
            ),
            (
                Ignored,
                Some("room_closed"),
                &[],
                "Asked to reply again, it did not, and none was due (room_closed): Chatwork",
            ),
        ];
        for (standing, why, then, told_of_it) in table {
            let mut outcomes = vec![(0, intent()), (1, posted(false)), (60, replayed())];
            outcomes.extend((61..).zip(then.iter().cloned()));
            let told = told(&again(story(standing, why, &outcomes), 2));
            let before = "The bot replied after 1.0 s, at 2026-09-21T14:13:21Z, with message 77. ";
            let rest = told.strip_prefix(before).expect(&told);
            assert!(rest.starts_with(told_of_it), "{told_of_it} in {rest}");
        }
    }

    #[tokio::test]
    async fn of_a_reply_that_may_be_there_nobody_says_that_there_is_none() {
        let died = [(1, intent()), (30, dead(Cause::Uncertain, "lost"))];
        let story = with_letter(story(Standing::Dead, None, &died), Cause::Uncertain).await;
        let verdict = verdict(&story, false, at(NOW));
        assert_eq!(
            verdict.answer,
            "Perhaps: nobody knows whether the reply is in the room. It was given up at 2026-09-21T14:13:50Z while posting the reply (uncertain): nobody can tell."
        );
        let id = story.id;
        assert_eq!(
            verdict.next,
            [
                format!("chickwork dead show {id}            what was given up"),
                format!(
                    "chickwork dead retry {id}           looks into the room once more, and posts it if it is certainly not there"
                ),
                format!(
                    "chickwork dead retry {id} --again   posts it WITHOUT LOOKING: only if you have seen that it is not there"
                ),
                format!("chickwork dead drop {id}            if you have seen that it is there"),
            ]
        );
    }

    #[tokio::test]
    async fn what_was_begun_may_be_there_whatever_it_was_given_up_for() {
        let late = What::NotPosted {
            reason: "cut off".to_owned(),
            called: true,
            intended_at: Some(at(1)),
            overrules_until: None,
        };
        let elsewhere = What::Intent {
            consumer: What::ELSEWHERE.to_owned(),
        };
        let may_be: [&[(i64, What)]; 3] = [
            &[(1, intent())],
            &[(1, elsewhere)],
            // What somebody else has begun meanwhile the first one does not know.
            &[(1, intent()), (2, intent()), (3, late.clone())],
        ];
        for before in may_be {
            for cause in [Cause::Poison, Cause::Exhausted] {
                let outcomes = [before, &[(30, dead(cause, "no more"))]].concat();
                let dead = with_letter(story(Standing::Dead, None, &outcomes), cause).await;
                let said = told(&dead);
                assert!(said.starts_with("Perhaps: nobody knows whether"), "{said}");
            }
            let outcomes = [before, &[(40, dropped())]].concat();
            let said = told(&story(Standing::Dropped, Some("purged"), &outcomes));
            assert!(said.starts_with("Perhaps: nobody knows whether"), "{said}");
        }
        let outcomes = [(1, intent()), (3, late), (30, dead(Cause::Exhausted, "no"))];
        let dead = with_letter(story(Standing::Dead, None, &outcomes), Cause::Exhausted).await;
        assert!(told(&dead).starts_with("No reply: it was given up"));
    }

    #[test]
    fn what_is_forgotten_is_not_to_be_put_back() {
        let mut forgotten = story(Standing::Dropped, Some("purged"), &[(40, dropped())]);
        assert!(told(&forgotten).contains("chickwork replay"));
        forgotten.event = None;
        assert!(!told(&forgotten).contains("chickwork replay"));
    }

    #[test]
    fn what_an_event_without_an_end_is_doing_follows_from_its_last_outcomes() {
        let table: [(&[What], &str); 11] = [
            (
                &[asked(What::ANSWERED, None, None)],
                "No reply yet: SimSimi was asked",
            ),
            (&[stored()], "No reply yet: the reply is stored"),
            (&[intent()], "Perhaps: a worker began to post"),
            (
                &[intent(), not_posted()],
                "No reply yet: the reply is certainly not in the room",
            ),
            (
                &[intent(), looked(What::ABSENT)],
                "No reply yet: the reply is certainly not in the room",
            ),
            (
                &[intent(), looked(What::UNCLEAR)],
                "Perhaps: the bot looked into the room, and could not tell",
            ),
            (
                &[intent(), looked(What::FOUND)],
                "Perhaps: the bot looked into the room and found its reply there",
            ),
            (
                &[intent(), dead(Cause::Uncertain, "lost"), replayed()],
                "Perhaps: a person put it back",
            ),
            // Who has looked says that it is not there.
            (
                &[
                    intent(),
                    dead(Cause::Uncertain, "lost"),
                    not_posted(),
                    replayed(),
                ],
                "No reply yet: a person put it back",
            ),
            (&[elsewhere(), replayed()], "Perhaps: a person put it back"),
            (
                &[elsewhere(), looked(What::ABSENT)],
                "No reply yet: the reply is certainly not in the room",
            ),
        ];
        for (outcomes, answer) in table {
            let outcomes: Vec<_> = (1..).zip(outcomes.iter().cloned()).collect();
            let is_elsewhere = matches!(outcomes[..], [_, (_, What::Replayed { .. })]);
            let told = told(&story(Standing::Waiting, None, &outcomes));
            assert!(told.starts_with(answer), "{answer} in {told}");
            let tells = told.contains("another deployment");
            assert_eq!(tells, is_elsewhere, "{told}");
        }
    }

    #[test]
    fn why_the_bot_said_a_line_of_its_own_is_told() {
        let line = "a line of its own (CHICKWORK_FALLBACK)";
        let table: [(&[What], Option<&str>); 5] = [
            (&[asked(What::ANSWERED, None, None), stored()], None),
            (
                &[
                    asked("SimSimi failed", None, None),
                    asked(What::NO_ANSWER, None, None),
                    stored(),
                ],
                Some("SimSimi did not understand that, so"),
            ),
            (
                &[
                    asked(What::NO_ANSWER, None, None),
                    asked(What::ANSWERED, None, None),
                    stored(),
                ],
                None,
            ),
            (
                &[stored()],
                Some("SimSimi was not asked, as far as is known"),
            ),
            // What was asked is not kept any more.
            (&[], None),
        ];
        for (before, why) in table {
            let mut outcomes: Vec<_> = (0..).zip(before.iter().cloned()).collect();
            outcomes.extend([(4, intent()), (5, posted(false))]);
            let told = told(&story(Standing::Answered, None, &outcomes));
            assert_eq!(told.contains(line), why.is_some(), "{told}");
            assert!(why.is_none_or(|why| told.contains(why)), "{told}");
        }
    }

    #[test]
    fn what_nothing_explains_has_no_reason_but_a_last_word() {
        for (standing, why, told) in [
            (Standing::Answered, None, "answered"),
            (Standing::Ignored, Some("flood"), "ignored: flood"),
            (Standing::Waiting, Some("paused"), "waiting: paused"),
            (Standing::Unexplained, None, "unexplained"),
            (
                Standing::Unexplained,
                Some("HTTP 500"),
                "unexplained (last: HTTP 500)",
            ),
            (Standing::Open, Some("HTTP 500"), "open (last: HTTP 500)"),
        ] {
            assert_eq!(state(standing, why), told);
        }
    }

    #[test]
    fn what_is_ignored_for_a_reason_that_nobody_knows_is_told_all_the_same() {
        let told = told(&story(Standing::Ignored, Some("moonlight"), &[]));
        assert!(told.contains("moonlight"), "{told}");
    }
}
