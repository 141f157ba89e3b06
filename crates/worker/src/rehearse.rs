//! What the bot would say to an event: the same functions as in the ask step, without a queue and
//! without posting. SimSimi is whoever is given, the real one or what it answered once.
//!
//! Left out on purpose is what depends on the moment and not on the event: its age, the sender's limit,
//! rooms that were closed, other events about the same message.

use std::time::Duration;

use chickwork_chatwork::id::AccountId;
use chickwork_chatwork::webhook::Malformed;
use chickwork_clients::simsimi::Answer;

use crate::compose::{self, Heard, NotHeard};
use crate::decide::Situation;
use crate::understand::Reason;
use crate::who::Me;

/// A bot that rehearses.
#[derive(Debug, Clone)]
pub struct Rehearsal {
    /// Whose part is played.
    pub me: Me,
    /// Accounts that are never answered.
    pub ignore_accounts: Vec<AccountId>,
    /// Said when SimSimi does not understand, or nothing is left to ask; without it, silence.
    pub fallback: Option<String>,
}

/// What would come of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsed<E> {
    /// What SimSimi would be asked, if anything.
    pub question: Option<String>,
    /// How it would end.
    pub end: End<E>,
}

/// How an event would end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End<E> {
    /// This would be posted, whole, with its reply tag.
    Said(String),
    /// Nothing would be said, for a reason as it stands in the outcomes.
    Ignored(&'static str),
    /// It would be given up as no webhook.
    Malformed(Malformed),
    /// Whoever was asked has no answer.
    Unanswered(E),
}

impl Rehearsal {
    /// Whether SimSimi would be asked about this webhook, and what.
    pub fn question(&self, body: &[u8]) -> Option<String> {
        self.hear(body).ok()?.question
    }

    /// Plays one event. `ask` is called at most once, with the question.
    pub async fn play<E>(
        &self,
        body: &[u8],
        ask: impl AsyncFnOnce(&str) -> Result<Answer, E>,
    ) -> Rehearsed<E> {
        let heard = match self.hear(body) {
            Ok(heard) => heard,
            Err(NotHeard::Malformed(malformed)) => {
                return Rehearsed {
                    question: None,
                    end: End::Malformed(malformed),
                };
            }
            Err(NotHeard::Ignored(reason)) => {
                return Rehearsed {
                    question: None,
                    end: End::Ignored(reason.as_str()),
                };
            }
        };
        let answer = match &heard.question {
            None => Ok(None),
            Some(question) => ask(question).await.map(Some),
        };
        let end = match answer {
            Err(error) => End::Unanswered(error),
            Ok(answer) => {
                let fallback = self.fallback.as_deref();
                let situation = self.situation();
                match compose::reply(&heard.message, answer.as_ref(), &situation, fallback) {
                    Some(text) => End::Said(text),
                    None => End::Ignored(Reason::NothingToSay.as_str()),
                }
            }
        };
        Rehearsed {
            question: heard.question,
            end,
        }
    }

    /// The words of the reasons that depend on the moment, which no rehearsal gives.
    pub fn of_the_moment() -> [&'static str; 3] {
        [Reason::Duplicate, Reason::RoomClosed, Reason::Flood].map(Reason::as_str)
    }

    fn hear(&self, body: &[u8]) -> Result<Heard, NotHeard> {
        compose::hear(body, &self.me, &self.ignore_accounts)
    }

    /// The first try at an event that is as fresh as can be.
    fn situation(&self) -> Situation {
        Situation {
            left: Duration::MAX,
            attempts: 0,
            since_intent: Duration::ZERO,
            fallback: self.fallback.is_some(),
            dice: 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rehearsal(fallback: Option<&str>) -> Rehearsal {
        Rehearsal {
            me: Me {
                account: AccountId(7),
                name: "Chick".to_owned(),
            },
            ignore_accounts: vec![AccountId(9)],
            fallback: fallback.map(str::to_owned),
        }
    }

    fn webhook(author: u64, text: &str) -> Vec<u8> {
        let text = text.replace('\n', "\\n");
        format!(
            r#"{{"webhook_setting_id":"1","webhook_event_type":"mention_to_me","webhook_event_time":1700000000,"webhook_event":{{"from_account_id":{author},"to_account_id":7,"room_id":2,"message_id":"3","body":"{text}","send_time":1700000000,"update_time":0}}}}"#
        )
        .into_bytes()
    }

    #[tokio::test]
    async fn an_event_is_played_up_to_its_reply_or_its_reason() {
        let said = |words: &str| End::Said(format!("[rp aid=1 to=2-3]\n{words}"));
        let answers = [
            Ok(Answer::Said("chíp".to_owned())),
            Ok(Answer::NothingToSay),
            Err("not reachable"),
        ];
        let [chirp, silence, failure] = &answers;
        let table = [
            (
                webhook(1, "[To:7]Chick\nhi"),
                chirp,
                None,
                Some("hi"),
                said("chíp"),
            ),
            (
                webhook(1, "[To:7]Chick\nhi"),
                silence,
                Some("what?"),
                Some("hi"),
                said("what?"),
            ),
            (
                webhook(1, "[To:7]Chick\nhi"),
                silence,
                None,
                Some("hi"),
                End::Ignored("nothing_to_say"),
            ),
            (
                webhook(1, "[To:7]Chick\nhi"),
                failure,
                Some("what?"),
                Some("hi"),
                End::Unanswered("not reachable"),
            ),
            // Nobody is asked.
            (
                webhook(1, "[To:7]Chick"),
                failure,
                Some("what?"),
                None,
                said("what?"),
            ),
            (
                webhook(7, "[To:7]me"),
                failure,
                Some("what?"),
                None,
                End::Ignored("own"),
            ),
            (
                webhook(9, "[To:7]you"),
                failure,
                Some("what?"),
                None,
                End::Ignored("ignored_account"),
            ),
        ];
        for (body, answer, fallback, question, end) in table {
            let rehearsal = rehearsal(fallback);
            let played = rehearsal.play(&body, async |_| answer.clone()).await;
            assert_eq!(rehearsal.question(&body), played.question);
            let expected = Rehearsed {
                question: question.map(str::to_owned),
                end,
            };
            assert_eq!(played, expected, "{answer:?} {fallback:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_webhook_is_given_up() {
        let played = rehearsal(None).play(b"no JSON", async |_| Err(())).await;
        assert!(matches!(played.end, End::Malformed(_)), "{played:?}");
    }
}
