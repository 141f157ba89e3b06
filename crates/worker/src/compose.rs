//! What a webhook asks for and what is said to it, without a queue, a history, limits or a clock: the part
//! of answering that depends on nothing but the webhook, the bot and SimSimi's answer. The ask step and
//! the rehearsal both go through here, so that a rehearsal is true. Pure.

use chickwork_chatwork::id::AccountId;
use chickwork_chatwork::notation;
use chickwork_chatwork::webhook::{Malformed, Message, Webhook};
use chickwork_clients::simsimi::Answer;

use crate::decide::{Decision, Happened, Situation, decide};
use crate::understand::{self, Reason};
use crate::who::Me;

/// A message that is for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The message.
    pub(crate) message: Message,
    /// When Chatwork recorded the event, Unix seconds.
    pub(crate) event_time: i64,
    /// What to ask, if anything is left of the message.
    pub(crate) question: Option<String>,
}

/// Why there is nothing to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotHeard {
    /// It is no webhook.
    Malformed(Malformed),
    /// It is not for us.
    Ignored(Reason),
}

/// What a webhook asks for.
pub(crate) fn hear(body: &[u8], me: &Me, ignored: &[AccountId]) -> Result<Heard, NotHeard> {
    let webhook = Webhook::parse(body).map_err(NotHeard::Malformed)?;
    let message = understand::for_us(&webhook.happening, me, ignored).map_err(NotHeard::Ignored)?;
    Ok(Heard {
        question: understand::question(message, me),
        message: message.clone(),
        event_time: webhook.event_time,
    })
}

/// The whole text of the reply to a message that SimSimi gave this answer to, or that left nothing to
/// ask; `None`: nothing is said.
pub(crate) fn reply(
    message: &Message,
    answer: Option<&Answer>,
    situation: &Situation,
    fallback: Option<&str>,
) -> Option<String> {
    let happened = answer.map_or(Happened::NothingToAsk, Happened::Answered);
    let words = match (decide(happened, situation), answer) {
        (Decision::Say, Some(Answer::Said(words))) => words,
        (Decision::SayFallback, _) => fallback?,
        _ => return None,
    };
    let Message {
        author,
        room_id,
        message_id,
        ..
    } = message;
    Some(notation::reply(*author, *room_id, message_id, words))
}
