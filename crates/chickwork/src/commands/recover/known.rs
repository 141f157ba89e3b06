//! Which mentions the queue knows of already: by the archive, by what became of them, by the dead
//! letters. What is read is passed over one by one, so memory holds only what is looked for.

use chickwork_chatwork::id::{MessageId, RoomId};
use chickwork_queue::event::BotName;
use chickwork_queue::{BrokerError, Queue, QueueError};
use jiff::{SignedDuration, Timestamp};

use super::missed::Mentions;

/// Chatwork's clock may be ahead of those by which events are dated, by so much.
const CLOCKS: SignedDuration = SignedDuration::from_mins(5);

/// What the queue is expected to know.
#[derive(Debug)]
pub(super) struct Memory<'a> {
    pub(super) queue: &'a Queue,
    pub(super) bot: &'a BotName,
    /// Whether there is to be an archive.
    pub(super) is_archived: bool,
    /// What is older may be forgotten, except by the dead letters.
    pub(super) oldest_kept: Timestamp,
}

impl Memory<'_> {
    /// Takes out those that the queue knows of. They came in no earlier than they were written.
    pub(super) async fn take_out_known(&self, mentions: &mut Mentions) -> Result<(), QueueError> {
        let written = mentions.values().map(|mention| mention.sent_at);
        let Some(oldest) = written.min() else {
            return Ok(());
        };
        if oldest < self.oldest_kept {
            self.take_out_dead(mentions).await?;
        }
        self.take_out_known_since(oldest, mentions).await
    }

    /// Takes out those that have become known since then.
    pub(super) async fn take_out_known_since(
        &self,
        since: Timestamp,
        mentions: &mut Mentions,
    ) -> Result<(), QueueError> {
        let since = since.saturating_sub(CLOCKS).unwrap_or(Timestamp::MIN);
        self.take_out_archived(since, mentions).await?;
        let mut outcomes = self.queue.outcomes().read(since);
        while !mentions.is_empty()
            && let Some(outcome) = outcomes.next().await?
        {
            self.take_out(&outcome.bot, outcome.room_id, outcome.message_id, mentions);
        }
        Ok(())
    }

    async fn take_out_archived(
        &self,
        since: Timestamp,
        mentions: &mut Mentions,
    ) -> Result<(), QueueError> {
        let mut archived = self.queue.archive().read(since);
        while !mentions.is_empty() {
            match archived.next().await {
                Ok(Some(event)) => {
                    self.take_out(&event.bot, event.room_id, event.message_id, mentions);
                }
                Ok(None) => break,
                Err(QueueError::Amqp(BrokerError::Missing(_))) if !self.is_archived => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn take_out_dead(&self, mentions: &mut Mentions) -> Result<(), QueueError> {
        let mut letters = self.queue.dead_letters().read().await?;
        while !mentions.is_empty()
            && let Some(letter) = letters.next().await?
        {
            self.take_out(&letter.bot, letter.room_id, letter.message_id, mentions);
        }
        Ok(())
    }

    fn take_out(
        &self,
        bot: &BotName,
        room: Option<RoomId>,
        message: Option<MessageId>,
        mentions: &mut Mentions,
    ) {
        if bot == self.bot
            && let (Some(room), Some(message)) = (room, message)
        {
            mentions.remove(&(room, message));
        }
    }
}
