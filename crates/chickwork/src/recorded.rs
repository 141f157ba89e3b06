//! What was said about an event once, and what SimSimi had answered, as the event's outcomes tell. Pure.

use chickwork_clients::simsimi::Answer;
use chickwork_queue::outcome::{Outcome, What};

/// What is written down about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// How it ended.
    pub(crate) before: Before,
    /// What SimSimi was asked and answered, if it was.
    pub(crate) asked: Option<Asked>,
}

/// How an event ended once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Before {
    /// This was said, the reply tag included. Of several rounds it is the last reply.
    Said(String),
    /// Something was said, and the words were not written down.
    SaidSomething,
    /// Nothing was said, for this reason.
    Ignored(String),
    /// It was given up before there was a reply, for this cause.
    Dead(&'static str),
    /// It had not ended.
    Open,
}

/// A question that SimSimi has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The question; older releases did not write it down.
    pub(crate) question: Option<String>,
    /// The answer, if it is known.
    pub(crate) answer: Option<Answer>,
}

/// Why there is no recorded answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// Another question was asked then, or none.
    AnotherQuestion,
    /// The question was asked, and its answer was not written down.
    NotRecorded,
}

impl Recorded {
    /// What these outcomes tell, in their order.
    pub(crate) fn of(outcomes: &[Outcome]) -> Self {
        let (mut reply, mut ignored, mut dead) = (None, None, None);
        let mut posted = false;
        // What was asked last, and what had been asked before the reply was stored.
        let (mut asked, mut asked_for_reply) = (None, None);
        for outcome in outcomes {
            match &outcome.what {
                What::Asked {
                    result,
                    question,
                    answer,
                    ..
                } if result == What::ANSWERED || result == What::NO_ANSWER => {
                    asked = Some(Asked {
                        question: question.clone(),
                        answer: match result.as_str() {
                            What::NO_ANSWER => Some(Answer::NothingToSay),
                            _ => answer.clone().map(Answer::Said),
                        },
                    });
                }
                What::ReplyStored { text } => {
                    reply = Some(text.clone());
                    asked_for_reply = asked.take();
                }
                What::Posted { .. } => posted = true,
                What::Ignored { reason } => ignored = Some(reason.clone()),
                What::Dead { cause, .. } => dead = Some(cause.as_str()),
                _ => {}
            }
        }
        let mut asked = asked_for_reply.or(asked);
        // An older release has written down the reply alone, which has the answer's words.
        if let (Some(reply), Some(asked)) = (&reply, &mut asked)
            && asked.answer.is_none()
        {
            asked.answer = Some(Answer::Said(words(reply).to_owned()));
        }
        let before = match (reply, ignored, dead) {
            (Some(reply), _, _) => Before::Said(reply),
            (None, _, _) if posted => Before::SaidSomething,
            (None, Some(reason), _) => Before::Ignored(reason),
            (None, None, Some(cause)) => Before::Dead(cause),
            (None, None, None) => Before::Open,
        };
        Self { before, asked }
    }

    /// What SimSimi has answered to this question.
    pub(crate) fn answer(&self, question: &str) -> Result<Answer, NoAnswer> {
        let asked = self.asked.as_ref().ok_or(NoAnswer::AnotherQuestion)?;
        match &asked.question {
            Some(then) if then != question => Err(NoAnswer::AnotherQuestion),
            _ => asked.answer.clone().ok_or(NoAnswer::NotRecorded),
        }
    }

    /// What SimSimi was asked then, if that is known.
    pub(crate) fn question(&self) -> Option<&str> {
        self.asked.as_ref()?.question.as_deref()
    }
}

/// What is said in a reply, without its tag.
pub(crate) fn words(reply: &str) -> &str {
    match reply.split_once('\n') {
        Some((tag, words)) if tag.starts_with("[rp ") && tag.ends_with(']') => words,
        _ => reply,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use chickwork_chatwork::id::{AccountId, MessageId};
    use chickwork_queue::event::{BotName, EventId};
    use chickwork_queue::job::{Cause, Step};
    use jiff::Timestamp;

    use super::*;

    /// Lines of one event.
    pub(crate) fn outcomes(whats: impl IntoIterator<Item = What>) -> Vec<Outcome> {
        let outcome = |what| Outcome {
            v: Outcome::VERSION,
            at: Timestamp::UNIX_EPOCH,
            id: EventId::fresh(),
            bot: BotName::default(),
            room_id: None,
            message_id: None,
            again: None,
            what,
        };
        whats.into_iter().map(outcome).collect()
    }

    pub(crate) fn asked(result: &str, question: Option<&str>, answer: Option<&str>) -> What {
        What::Asked {
            millis: 1,
            result: result.to_owned(),
            sender: AccountId(1),
            question: question.map(str::to_owned),
            answer: answer.map(str::to_owned),
        }
    }

    pub(crate) fn stored(words: &str) -> What {
        What::ReplyStored {
            text: format!("[rp aid=1 to=2-3]\n{words}"),
        }
    }

    pub(crate) fn ignored(reason: &str) -> What {
        What::Ignored {
            reason: reason.to_owned(),
        }
    }

    pub(crate) fn dead(cause: Cause) -> What {
        What::Dead {
            step: Step::Ask,
            cause,
            error: String::new(),
            status: None,
        }
    }

    fn posted() -> What {
        What::Posted {
            reply_message_id: MessageId::new("4").ok(),
            found: false,
        }
    }

    #[test]
    fn the_outcomes_tell_what_was_said_and_what_simsimi_had_answered() {
        let said = |words: &str| Before::Said(format!("[rp aid=1 to=2-3]\n{words}"));
        let answered = |words: &str| Ok(Answer::Said(words.to_owned()));
        let table = [
            (
                vec![
                    asked("answered", Some("hi"), Some("chíp [x]")),
                    stored("chíp ［x]"),
                    posted(),
                ],
                said("chíp ［x]"),
                answered("chíp [x]"),
            ),
            // An older release.
            (
                vec![
                    asked("answered", None, None),
                    stored("chíp\nchíp"),
                    posted(),
                ],
                said("chíp\nchíp"),
                answered("chíp\nchíp"),
            ),
            (
                vec![asked("no_answer", None, None), stored("what?")],
                said("what?"),
                Ok(Answer::NothingToSay),
            ),
            (
                vec![
                    asked("no_answer", Some("hi"), None),
                    ignored("nothing_to_say"),
                ],
                Before::Ignored("nothing_to_say".to_owned()),
                Ok(Answer::NothingToSay),
            ),
            // Failures on the way are none of its answers.
            (
                vec![
                    asked("SimSimi failed: 500", Some("hi"), None),
                    asked("answered", Some("hi"), Some("chíp")),
                    stored("chíp"),
                    dead(Cause::Refused),
                ],
                said("chíp"),
                answered("chíp"),
            ),
            (
                vec![
                    asked("SimSimi failed: 500", Some("hi"), None),
                    dead(Cause::Exhausted),
                ],
                Before::Dead("exhausted"),
                Err(NoAnswer::AnotherQuestion),
            ),
            // Put back after it was a flood, and answered twice.
            (
                vec![
                    ignored("flood"),
                    asked("answered", Some("hi"), Some("one")),
                    stored("one"),
                    posted(),
                    asked("answered", Some("hi"), Some("two")),
                    stored("two"),
                ],
                said("two"),
                answered("two"),
            ),
            (
                vec![asked("answered", Some("ho"), Some("chíp")), stored("chíp")],
                said("chíp"),
                Err(NoAnswer::AnotherQuestion),
            ),
            (
                vec![asked("answered", Some("hi"), None)],
                Before::Open,
                Err(NoAnswer::NotRecorded),
            ),
            (
                vec![stored("what?")],
                said("what?"),
                Err(NoAnswer::AnotherQuestion),
            ),
            (
                vec![posted()],
                Before::SaidSomething,
                Err(NoAnswer::AnotherQuestion),
            ),
            (vec![], Before::Open, Err(NoAnswer::AnotherQuestion)),
        ];
        for (whats, before, answer) in table {
            let outcomes = outcomes(whats);
            let recorded = Recorded::of(&outcomes);
            assert_eq!(recorded.before, before, "{outcomes:?}");
            assert_eq!(recorded.answer("hi"), answer, "{outcomes:?}");
        }
    }

    #[test]
    fn the_words_of_a_reply_are_what_stands_below_its_tag() {
        assert_eq!(words("[rp aid=1 to=2-3]\nchíp\nchíp"), "chíp\nchíp");
        assert_eq!(words("chíp\nchíp"), "chíp\nchíp");
    }
}
