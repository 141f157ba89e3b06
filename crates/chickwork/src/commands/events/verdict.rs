//! "Why did the bot not reply?" in a sentence or two: what a person wants to know first of an event, and
//! what can be typed next. From a story to words, and nothing else.

use std::time::Duration;

use chickwork_chatwork::id::MessageId;
use chickwork_queue::events::{Standing, Story};
use chickwork_queue::job::{Cause, Step};
use chickwork_queue::outcome::{Reason, What};
use jiff::Timestamp;

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

fn answered(story: &Story) -> Verdict {
    let posts = story.outcomes.iter().filter_map(|outcome| {
        let What::Posted {
            reply_message_id,
            found,
        } = &outcome.what
        else {
            return None;
        };
        Some((outcome.at, outcome.again, reply_message_id.as_ref(), *found))
    });
    // A result may be stored twice, once by who posted and once by who looked: the round is what counts.
    let mut rounds: Vec<Post<'_>> = Vec::new();
    for (at, again, reply, found) in posts {
        match rounds.iter_mut().find(|round| round.again == again) {
            None => rounds.push(Post {
                at,
                again,
                reply,
                found,
            }),
            Some(round) => {
                round.found &= found;
                round.reply = round.reply.or(reply);
            }
        }
    }
    let Some((first, others)) = rounds.split_first() else {
        return Verdict {
            answer: "The bot replied; when, is not known any more.".to_owned(),
            because: Vec::new(),
            next: Vec::new(),
        };
    };
    let after = received_at(story).map_or_else(
        || format!("at {}", words::time(first.at)),
        |received_at| {
            let after = telling::span(telling::between(received_at, first.at));
            format!("after {after}, at {}", words::time(first.at))
        },
    );
    let mut because = Vec::new();
    because.extend(first.found.then(|| FOUND.to_owned()));
    for other in others {
        let reply = reply(other.reply);
        because.push(format!(
            "It was asked to reply again, and did so at {}{reply}.",
            words::time(other.at)
        ));
    }
    Verdict {
        answer: format!("The bot replied {after}{}.", reply(first.reply)),
        because,
        next: Vec::new(),
    }
}

/// A reply in the room.
struct Post<'a> {
    at: Timestamp,
    again: Option<Timestamp>,
    reply: Option<&'a MessageId>,
    found: bool,
}

const FOUND: &str = "Whether the post had arrived was not known at first; the bot looked into the room and found its reply there.";

fn reply(message: Option<&MessageId>) -> String {
    message.map_or_else(String::new, |message| format!(", with message {message}"))
}

fn waiting(story: &Story, now: Timestamp) -> Verdict {
    Verdict {
        answer: format!("No reply yet: {}", where_it_is(story, now)),
        because: Vec::new(),
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
fn where_it_is(story: &Story, now: Timestamp) -> String {
    let told = |outcome: &&chickwork_queue::outcome::Outcome| {
        // It may be stored late, and says nothing of what came after it.
        !matches!(outcome.what, What::Received { .. })
    };
    let Some(last) = story.outcomes.iter().rev().find(told) else {
        return "it waits for a worker; nothing else was heard of it.".to_owned();
    };
    match &last.what {
        What::Later {
            step,
            reason,
            until,
        } => {
            let doing = match step {
                Step::Post if is_in_doubt(story) => {
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
        What::Replayed { reason, .. } => format!(
            "a person put it back {} ({reason}), and it waits for a worker.",
            words::ago(last.at, now)
        ),
        What::Ignored { reason } => format!(
            "it was ignored ({}) after a person had asked for another answer, and that is still owed.",
            words::sentence(reason)
        ),
        What::Asked { .. } => {
            "SimSimi was asked, and what follows from its answer is under way.".to_owned()
        }
        What::ReplyStored { .. } => {
            "SimSimi has answered, and the reply waits to be posted.".to_owned()
        }
        What::Intent { .. } => format!(
            "a worker began to post the reply {}. If it died over that, the next one looks into the room before it posts.",
            words::ago(last.at, now)
        ),
        What::Looked { .. } | What::NotPosted { .. } => {
            "the reply is certainly not in the room, and waits to be posted.".to_owned()
        }
        // None of these is the last word of an event without an end.
        What::Received { .. } | What::Posted { .. } | What::Dead { .. } | What::Dropped { .. } => {
            "it waits for a worker.".to_owned()
        }
    }
}

/// Whether a post was begun and nothing has told since how it ended.
fn is_in_doubt(story: &Story) -> bool {
    let mut in_doubt = false;
    for outcome in &story.outcomes {
        match &outcome.what {
            What::Intent { .. } => in_doubt = true,
            What::NotPosted { .. } | What::Posted { .. } => in_doubt = false,
            What::Looked { result, .. } if result == What::ABSENT => in_doubt = false,
            _ => {}
        }
    }
    in_doubt
}

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
        other => {
            return Verdict {
                answer: format!("No reply, as nothing was to be said: {other}."),
                because: Vec::new(),
                next: Vec::new(),
            };
        }
    };
    Verdict {
        answer: format!("No reply, and none was due ({reason}): {answer}"),
        because: Vec::new(),
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
    let last = story.outcomes.iter().rev().find_map(|outcome| {
        let What::Dead {
            step, cause, error, ..
        } = &outcome.what
        else {
            return None;
        };
        Some((*step, *cause, error.clone(), outcome.at))
    });
    // The letter is true whatever the outcomes have lost.
    let letter = story.letter.as_ref();
    let letter = letter.map(|letter| {
        (
            letter.step,
            letter.cause,
            letter.error.clone(),
            letter.buried_at,
        )
    });
    let Some((step, cause, error, at)) = letter.or(last) else {
        return Verdict {
            answer: "No reply: it was given up.".to_owned(),
            because: Vec::new(),
            next: vec![format!("chickwork dead show {}", story.id)],
        };
    };
    let explained = cause::explained(cause);
    let mut next = Vec::new();
    if story.letter.is_some() {
        next.push(format!(
            "chickwork dead show {}    what was given up",
            story.id
        ));
        let (again, what) = match cause {
            Cause::Uncertain => (" --again", "posts it, if it is not in the room"),
            _ => ("", "tries it once more"),
        };
        next.push(format!("chickwork dead retry {}{again}   {what}", story.id));
    }
    let mut because = vec![explained.means.to_owned(), explained.cure.to_owned()];
    if story.letter.is_none() {
        because.push(
            "Its dead letter is not there: somebody is taking it out just now, or it was lost."
                .to_owned(),
        );
    }
    Verdict {
        answer: format!(
            "No reply: it was given up at {} while {} ({}): {}",
            words::time(at),
            cause::step(step, cause),
            cause.as_str(),
            words::sentence(&error),
        ),
        because,
        next,
    }
}

fn dropped(story: &Story) -> Verdict {
    let reason = story.why.as_deref().unwrap_or("no reason was given");
    Verdict {
        answer: format!(
            "No reply: it was given up, and a person dropped it: {}",
            words::sentence(reason)
        ),
        because: Vec::new(),
        next: vec![replay(story, "asks after all")],
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
    Verdict {
        answer: format!("No reply, and nothing explains that: {last}, and it waits nowhere."),
        because: vec!["A queue may have been emptied by hand, or a store was lost.".to_owned()],
        next: vec![
            format!("chickwork replay {}   puts it back", story.id),
            "chickwork audit --requeue        puts everything back that nothing explains"
                .to_owned(),
        ],
    }
}

fn open(story: &Story, now: Timestamp) -> Verdict {
    Verdict {
        answer: format!("No reply yet: {}", where_it_is(story, now)),
        because: vec![
            "So it seems: a broker does not tell which events wait, so it may as well be lost."
                .to_owned(),
        ],
        next: vec![
            STATUS.to_owned(),
            "chickwork audit                  waits until what is under way has ended, and tells what is lost"
                .to_owned(),
        ],
    }
}

#[cfg(test)]
mod tests {
    use chickwork_queue::event::{BotName, EventId};
    use chickwork_queue::outcome::Outcome;

    use super::*;

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
        let dead = What::Dead {
            step: Step::Post,
            cause: Cause::Uncertain,
            error: "nobody can tell".to_owned(),
            status: None,
        };
        let table: [(Story, &[&str]); 12] = [
            (
                story(Answered, None, &[(0, intent()), (21, posted(false))]),
                &["The bot replied after 21.0 s, at 2026-09-21T14:13:41Z, with message 77."],
            ),
            // Once posted and once found is one reply.
            (
                story(Answered, None, &[(20, posted(true)), (21, posted(false))]),
                &["The bot replied after 20.0 s, at 2026-09-21T14:13:40Z, with message 77."],
            ),
            (
                story(Answered, None, &[(20, posted(true))]),
                &["found its reply there"],
            ),
            (
                story(Waiting, None, &[]),
                &["No reply yet: it waits for a worker", "chickwork status"],
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
                &["for the room to be looked at", "is due since 10.0 s"],
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
                story(Dead, Some("uncertain"), &[(30, dead)]),
                &[
                    "while posting the reply (uncertain): nobody can tell.",
                    "Look into the room.",
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
        let mut story = story(
            Standing::Answered,
            None,
            &[(1, posted(false)), (90, posted(true))],
        );
        story.outcomes[1].again = Some(at(60));
        let told = told(&story);
        assert!(told.starts_with("The bot replied after 1.0 s"), "{told}");
        assert!(
            told.contains("asked to reply again, and did so at"),
            "{told}"
        );
    }

    #[test]
    fn what_is_ignored_for_a_reason_that_nobody_knows_is_told_all_the_same() {
        let told = told(&story(Standing::Ignored, Some("moonlight"), &[]));
        assert!(told.contains("moonlight"), "{told}");
    }
}
