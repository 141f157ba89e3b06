//! Forgetting on request: what is kept of a room, or of single messages, before its time is up.
//!
//! A file forgets it for real. What proves what became of an event stays, as it says nothing of what was
//! written: so nothing is answered twice, and an audit can still explain everything. A broker's streams
//! cannot forget single messages; there only dead letters can be dropped, and [`Kept::until`] says when
//! the rest is gone.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chickwork_chatwork::id::{MessageId, RoomId};
use jiff::Timestamp;

use crate::course::{Course, Reasons, State};
use crate::dead::DeadLetter;
use crate::event::{BotName, EventId};
use crate::{Backend, Queue, QueueError};

/// Of what everything is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whose {
    /// What was said in this room.
    pub room: RoomId,
    /// Only these messages of it; none named: all that were written there.
    pub messages: Vec<MessageId>,
    /// Only what was sent to this bot.
    pub bot: Option<BotName>,
}

impl Whose {
    pub(crate) fn is_of(
        &self,
        bot: &BotName,
        room: Option<RoomId>,
        message: Option<&MessageId>,
    ) -> bool {
        room == Some(self.room)
            && (self.messages.is_empty()
                || message.is_some_and(|message| self.messages.contains(message)))
            && self.bot.as_ref().is_none_or(|own| own == bot)
    }
}

/// What is kept of it.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Archived events.
    pub events: u64,
    /// Outcomes that quote what was said, or may, as this release cannot read them.
    pub texts: u64,
    /// Outcomes of which cannot be told of whom they are. They are left, and may quote what was said.
    pub nobodys: u64,
    /// Dead letters. They are dropped by way of [`crate::dead::DeadLetters::take`].
    pub letters: Vec<DeadLetter>,
    /// How many of the archived events have come to no end and wait nowhere, so that they seem to be lost
    /// (see [`crate::audit`]); 0 on a broker, where none is forgotten.
    pub unexplained: u64,
    /// Events that wait to be answered or are being answered. All that belongs to them is left, and not
    /// counted above. `None`: a broker cannot tell.
    pub waiting: Option<u64>,
    /// When a broker will have forgotten the events and outcomes, at the latest, provided that its
    /// streams were made with today's settings and a process runs that takes webhooks.
    pub until: Option<Timestamp>,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purged {
    /// Archived events.
    pub events: u64,
    /// Outcomes that quoted what was said. They go on telling what happened.
    pub texts: u64,
    /// How many of the archived events had come to no end. They have one now: dropped.
    pub unexplained: u64,
    /// Why the file was not written anew, if so: then its free pages may still hold what was deleted by
    /// an older release, which did not overwrite it.
    pub not_rewritten: Option<String>,
    /// Whether no copy is left in the file's journal either. Somebody who reads or writes without a
    /// pause can keep it from being emptied; it will be, within a minute of work on the file.
    pub journal_emptied: bool,
}

impl Queue {
    /// What is kept of this. `looked` is called for everything that is looked through.
    pub async fn kept_of(
        &self,
        whose: &Whose,
        mut looked: impl FnMut(),
    ) -> Result<Kept, QueueError> {
        let mut kept = Kept::default();
        let waiting = match &self.0 {
            Backend::Sqlite(store) => store.waiting().await?,
            Backend::Amqp(_) => HashSet::new(),
        };
        let mut left = HashSet::new();
        let mut is_left = |id: EventId| {
            let is_left = waiting.contains(&id);
            if is_left {
                left.insert(id);
            }
            is_left
        };
        let (mut archived_last, mut told_last) = (None, None);
        let (mut courses, mut reasons) = (HashMap::<EventId, Course>::new(), Reasons::default());
        let is_file = self.forgets_single_messages();
        let mut archive = self.archive().read(Timestamp::UNIX_EPOCH);
        while let Some(event) = archive.next().await? {
            looked();
            if whose.is_of(&event.bot, event.room_id, event.message_id.as_ref())
                && !is_left(event.id)
            {
                kept.events += 1;
                if is_file {
                    courses.insert(event.id, Course::default());
                }
                archived_last = archived_last.max(Some(event.received_at));
            }
        }
        let mut outcomes = self.outcomes().read(Timestamp::UNIX_EPOCH);
        while let Some(outcome) = outcomes.next().await? {
            looked();
            if let Some(course) = courses.get_mut(&outcome.id) {
                course.apply(&outcome, &mut reasons);
            }
            let message = outcome.message_id.as_ref();
            if whose.is_of(&outcome.bot, outcome.room_id, message)
                && outcome.what.has_words()
                && !is_left(outcome.id)
            {
                kept.texts += 1;
                told_last = told_last.max(Some(outcome.at));
            }
        }
        if let Backend::Sqlite(store) = &self.0 {
            let unread = store.unread_of(whose).await?;
            kept.texts += unread.texts;
            kept.nobodys = unread.nobodys;
        }
        let mut letters = self.dead_letters().read().await?;
        while let Some(letter) = letters.next().await? {
            looked();
            courses.remove(&letter.id);
            if whose.is_of(&letter.bot, letter.room_id, letter.message_id.as_ref())
                && !is_left(letter.id)
            {
                kept.letters.push(letter);
            }
        }
        let lost = courses
            .values()
            .filter(|course| course.state(None) == State::Open);
        kept.unexplained = lost.count() as u64;
        kept.waiting = is_file.then_some(left.len() as u64);
        if let Backend::Amqp(broker) = &self.0 {
            let archive_outlasts = broker.archive_forgets_within();
            let outcomes_outlast = broker.outcomes_forgotten_within();
            let gone = |last: Option<Timestamp>, within: Duration| {
                // Beyond the end of time is late enough.
                Some(last?.checked_add(within).unwrap_or(Timestamp::MAX))
            };
            kept.until =
                gone(archived_last, archive_outlasts).max(gone(told_last, outcomes_outlast));
        }
        Ok(kept)
    }

    /// Whether it can forget single messages: a file can, a broker cannot.
    pub fn forgets_single_messages(&self) -> bool {
        matches!(self.0, Backend::Sqlite(_))
    }

    /// Removes what is archived of it, and what its outcomes quote, from the disk. `None`: nothing was
    /// done, as a broker cannot do it.
    ///
    /// An archived event that has come to no end, and waits nowhere, gets one: it was dropped, for this
    /// reason. At last the file is written anew, unless that takes longer than `rewriting`: nobody else
    /// can write to it meanwhile. That takes room on the disk for two copies of what is kept.
    pub async fn purge(
        &self,
        whose: &Whose,
        reason: &str,
        rewriting: Duration,
    ) -> Result<Option<Purged>, QueueError> {
        self.refuse_spool().await?;
        let Backend::Sqlite(store) = &self.0 else {
            return Ok(None);
        };
        let purged = store.purge(whose.clone(), reason.to_owned(), rewriting);
        Ok(Some(purged.await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_of_its_room_and_its_bot() {
        let message = MessageId::new("7").expect("a digit");
        let other = MessageId::new("8").expect("a digit");
        let bot = BotName::default();
        let of = |messages: &[&MessageId], bot: Option<&BotName>| Whose {
            room: RoomId(3),
            messages: messages.iter().copied().cloned().collect(),
            bot: bot.cloned(),
        };
        let (room, another) = (Some(RoomId(3)), Some(RoomId(4)));
        assert!(of(&[], None).is_of(&bot, room, None));
        assert!(!of(&[], None).is_of(&bot, None, None));
        assert!(!of(&[], None).is_of(&bot, another, Some(&message)));
        assert!(of(&[&message], Some(&bot)).is_of(&bot, room, Some(&message)));
        assert!(!of(&[&message], None).is_of(&bot, room, Some(&other)));
        assert!(!of(&[&message], None).is_of(&bot, another, Some(&message)));
        assert!(of(&[&other, &message], None).is_of(&bot, room, Some(&message)));
        assert!(!of(&[&message], None).is_of(&bot, room, None));
        let two = BotName::new("two").expect("a bot's name");
        assert!(!of(&[], Some(&two)).is_of(&bot, room, None));
    }
}
