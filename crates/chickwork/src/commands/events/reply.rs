//! Which message of the bot's answers which, as the outcomes tell.

use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_queue::event::BotName;
use chickwork_queue::outcome::{Outcome, What};
use chickwork_queue::{Queue, QueueError};
use jiff::{SignedDuration, Timestamp};

use super::whom::Named;

/// Chatwork's clock may be ahead of the workers', by so much.
const CLOCKS: SignedDuration = SignedDuration::from_hours(1);

/// The bot's reply that an outcome tells of.
fn reply(outcome: &Outcome) -> Option<&MessageId> {
    match &outcome.what {
        What::Posted {
            reply_message_id, ..
        }
        | What::Looked {
            reply_message_id, ..
        } => reply_message_id.as_ref(),
        _ => None,
    }
}

/// The message to which this one is the bot's reply, as the outcomes since it was sent tell.
pub(crate) async fn answered_by(
    queue: &Queue,
    room: Option<RoomId>,
    message: &MessageId,
    bot: Option<&BotName>,
) -> Result<Option<Named>, QueueError> {
    let sent_at = message.seems_sent_at();
    let since = sent_at
        .and_then(|at| Timestamp::from_millisecond(at).ok())
        .and_then(|at| at.checked_sub(CLOCKS).ok())
        .filter(|at| *at < Timestamp::now())
        .unwrap_or(Timestamp::MIN);
    let mut outcomes = queue.outcomes().read(since);
    while let Some(outcome) = outcomes.next().await? {
        if reply(&outcome) == Some(message)
            && room.is_none_or(|room| outcome.room_id == Some(room))
            && bot.is_none_or(|bot| outcome.bot == *bot)
            && let Some(answered) = outcome.message_id
        {
            return Ok(Some(Named::Message(outcome.room_id, answered)));
        }
    }
    Ok(None)
}

/// A message and the bot's replies to it: this one, or the one that it is a reply to, and then whatever else
/// was replied to that. All that is kept is read, since when a message was sent is only guessed.
/// `looked` is called for every outcome.
pub(super) async fn exchange(
    queue: &Queue,
    room: RoomId,
    message: MessageId,
    bot: Option<&BotName>,
    mut looked: impl FnMut(),
) -> Result<(MessageId, Vec<MessageId>), QueueError> {
    let mut replies: Vec<(MessageId, MessageId)> = Vec::new();
    let mut outcomes = queue.outcomes().read(Timestamp::UNIX_EPOCH);
    while let Some(outcome) = outcomes.next().await? {
        looked();
        if outcome.room_id == Some(room)
            && bot.is_none_or(|bot| outcome.bot == *bot)
            && let (Some(answered), Some(reply)) = (&outcome.message_id, reply(&outcome))
        {
            replies.push((answered.clone(), reply.clone()));
        }
    }
    let answered = replies
        .iter()
        .find(|(_, reply)| *reply == message)
        .map_or_else(|| message.clone(), |(answered, _)| answered.clone());
    let mut its_replies: Vec<MessageId> = Vec::new();
    let is_among_them = |to: &MessageId| *to == answered || *to == message;
    for (_, reply) in replies.into_iter().filter(|(to, _)| is_among_them(to)) {
        // Found by looking, it is told of twice.
        if !its_replies.contains(&reply) {
            its_replies.push(reply);
        }
    }
    Ok((answered, its_replies))
}
