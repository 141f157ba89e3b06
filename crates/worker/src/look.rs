//! Looking: whether a reply that may have been posted is in its room. One read of the room's newest
//! messages serves all doubtful replies of that room.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chickwork_chatwork::id::{AccountId, MessageId, RoomId};
use chickwork_chatwork::notation;
use chickwork_clients::chatwork::{Answered, CallError, Newest};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::desk::{Desk, called, chatwork_result};
use crate::limits::{Slot, Told};

/// How long a read is kept for others. It holds what the bot said lately in a room.
const KEPT: Duration = Duration::from_secs(60);

/// How far the clocks of those who write intents may be from Chatwork's, seconds. The list has to
/// reach back this much further than the intent.
const CLOCKS: i64 = 60;

/// A reply of a later round, which is not to be taken for one of an earlier round, was not sent earlier
/// than so many seconds before its intent: Chatwork's clock is known to the second.
const ROUNDING: i64 = 2;

/// A reply that may be in its room.
#[derive(Debug)]
pub(crate) struct Doubt<'a> {
    pub(crate) room: RoomId,
    pub(crate) message: &'a MessageId,
    /// Before this it cannot have been posted, by the clock of who meant to.
    pub(crate) intended_at: Timestamp,
    /// A read that began before this does not tell.
    pub(crate) look_at: Instant,
    /// The replies that the message is known to have from other rounds, where this is of a later one.
    /// In the first round any reply to the message is the one.
    pub(crate) others: Option<Vec<MessageId>>,
}

/// What a look shows.
#[derive(Debug)]
pub(crate) enum Seen {
    /// It is there, as this message.
    Found(MessageId),
    /// It is not there, and would have been seen.
    Absent,
    /// It may be older than what was seen.
    Unclear,
    /// The room could not be read.
    Failed(CallError),
    /// The rate limit does not allow a read before this.
    NotBefore(Instant),
}

/// The rooms that were read lately.
#[derive(Debug, Default)]
pub(crate) struct Looks(Mutex<HashMap<RoomId, Place>>);

/// A room's last read; who wants to read holds it, so that others wait and share.
type Place = Arc<tokio::sync::Mutex<Option<Read>>>;

/// What is kept of a read.
#[derive(Debug)]
struct Read {
    begun: Instant,
    /// What the bot said.
    ours: Vec<Ours>,
    /// When the oldest message was sent, Unix seconds.
    oldest: Option<i64>,
    whole_room: bool,
    /// Chatwork's clock minus ours.
    ahead: SignedDuration,
}

/// A message of the bot.
#[derive(Debug)]
struct Ours {
    id: MessageId,
    body: String,
    /// Unix seconds, by Chatwork's clock.
    sent: i64,
}

impl Looks {
    /// Looks for the reply, in a fresh read of its room or in one that was begun late enough. How far
    /// back that reached is known where the room could be read and something is in it.
    pub(crate) async fn look(
        &self,
        desk: &Desk,
        bot: AccountId,
        doubt: &Doubt<'_>,
    ) -> (Seen, Option<Timestamp>) {
        match self.read(desk, bot, doubt).await {
            Ok(place) => match place.as_ref() {
                Some(read) => (read.tell(doubt), read.reaches_back_to()),
                None => (Seen::Unclear, None),
            },
            Err(seen) => (seen, None),
        }
    }

    /// The room's last read, if it tells; else why there is none.
    async fn read(
        &self,
        desk: &Desk,
        bot: AccountId,
        doubt: &Doubt<'_>,
    ) -> Result<OwnedMutexGuard<Option<Read>>, Seen> {
        let place = self.place(doubt.room);
        let mut last = place.lock_owned().await;
        if last
            .as_ref()
            .is_some_and(|read| read.begun >= doubt.look_at)
        {
            return Ok(last);
        }
        let mut ticket = match desk.limiter.read(Instant::now()) {
            Slot::Now(ticket) => ticket,
            Slot::At(at) => return Err(Seen::NotBefore(at)),
        };
        let begun = Instant::now();
        ticket.sent();
        let answer = desk.chatwork.newest(doubt.room).await;
        called("chatwork", chatwork_result(&answer), begun.elapsed());
        let (now, clock) = (Instant::now(), Timestamp::now());
        match answer {
            Ok(Answered { value, limits }) => {
                ticket.answered(&Told::new(&limits, clock), now);
                let ahead = limits.date.unwrap_or(clock).duration_since(clock);
                *last = Some(Read::new(begun, value, bot, ahead));
                Ok(last)
            }
            Err(CallError::Refused {
                status: 429,
                said,
                limits,
                room_limit,
            }) => {
                ticket.refused_for_account(&Told::new(&limits, clock), now);
                Err(Seen::Failed(CallError::Refused {
                    status: 429,
                    said,
                    limits,
                    room_limit,
                }))
            }
            Err(CallError::NotSent(why)) => {
                ticket.unsent();
                Err(Seen::Failed(CallError::NotSent(why)))
            }
            Err(error) => {
                ticket.unanswered(now);
                Err(Seen::Failed(error))
            }
        }
    }

    fn place(&self, room: RoomId) -> Place {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.retain(|_, place| {
            let in_use = Arc::strong_count(place) > 1;
            let fresh = |read: &Read| read.begun.elapsed() < KEPT;
            in_use
                || place
                    .try_lock()
                    .is_ok_and(|read| read.as_ref().is_some_and(fresh))
        });
        Arc::clone(rooms.entry(room).or_default())
    }
}

impl Read {
    fn new(begun: Instant, newest: Newest, bot: AccountId, ahead: SignedDuration) -> Self {
        Self {
            begun,
            oldest: newest
                .messages
                .iter()
                .map(|message| message.send_time)
                .min(),
            whole_room: newest.whole_room,
            ours: newest
                .messages
                .into_iter()
                .filter(|message| message.account_id == bot)
                .map(|message| Ours {
                    id: message.message_id,
                    body: message.body,
                    sent: message.send_time,
                })
                .collect(),
            ahead,
        }
    }

    fn tell(&self, doubt: &Doubt<'_>) -> Seen {
        let replies = self
            .ours
            .iter()
            .filter(|ours| notation::replies_to(&ours.body, doubt.room, doubt.message));
        let intended_at = self.by_chatworks_clock(doubt.intended_at);
        let mut may_be_there = false;
        for reply in replies {
            match &doubt.others {
                None => return Seen::Found(reply.id.clone()),
                Some(others) if others.contains(&reply.id) => {}
                // It was sent before this one was meant to be.
                Some(_) if reply.sent.saturating_add(CLOCKS) < intended_at => {}
                Some(_) if reply.sent.saturating_add(ROUNDING) < intended_at => may_be_there = true,
                Some(_) => return Seen::Found(reply.id.clone()),
            }
        }
        if !may_be_there && self.reaches(intended_at) {
            Seen::Absent
        } else {
            Seen::Unclear
        }
    }

    /// When the oldest message was sent that it shows.
    fn reaches_back_to(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.oldest?).ok()
    }

    fn by_chatworks_clock(&self, time: Timestamp) -> i64 {
        time.as_second().saturating_add(self.ahead.as_secs())
    }

    /// Whether everything is seen that was sent since then, by Chatwork's clock.
    fn reaches(&self, intended_at: i64) -> bool {
        self.whole_room
            || self
                .oldest
                .is_some_and(|oldest| oldest.saturating_add(CLOCKS) <= intended_at)
    }
}

#[cfg(test)]
mod tests {
    use chickwork_clients::chatwork::RoomMessage;

    use super::*;

    const BOT: AccountId = AccountId(7);
    const ROOM: RoomId = RoomId(2);

    fn id(id: &str) -> MessageId {
        MessageId::new(id).expect("a message id")
    }

    fn message(number: &str, author: AccountId, body: &str, send_time: i64) -> RoomMessage {
        RoomMessage {
            message_id: id(number),
            account_id: author,
            body: body.to_owned(),
            send_time,
            update_time: 0,
        }
    }

    fn tell(messages: Vec<RoomMessage>, whole_room: bool, ahead: i64, intended_at: i64) -> Seen {
        tell_of_round(messages, whole_room, ahead, intended_at, None)
    }

    /// In the first round, or in a later one while these replies are known from others.
    fn tell_of_round(
        messages: Vec<RoomMessage>,
        whole_room: bool,
        ahead: i64,
        intended_at: i64,
        others: Option<Vec<MessageId>>,
    ) -> Seen {
        let newest = Newest {
            messages,
            whole_room,
        };
        let read = Read::new(
            Instant::now(),
            newest,
            BOT,
            SignedDuration::from_secs(ahead),
        );
        read.tell(&Doubt {
            room: ROOM,
            message: &id("11"),
            intended_at: Timestamp::from_second(intended_at).expect("a time"),
            look_at: Instant::now(),
            others,
        })
    }

    fn ours(answered: &str) -> String {
        notation::reply(AccountId(1), ROOM, &id(answered), "chip")
    }

    #[test]
    fn a_reply_that_is_there_is_found() {
        let messages = vec![message("20", BOT, &ours("11"), 1000)];
        assert!(matches!(tell(messages, false, 0, 990), Seen::Found(found) if found == id("20")));
    }

    #[test]
    fn an_earlier_answer_is_not_taken_for_the_one_that_a_person_asked_for_since() {
        let (old, new) = (
            || message("20", BOT, &ours("11"), 1000),
            |sent| message("21", BOT, &ours("11"), sent),
        );
        let later = |messages, intended_at, known: &[&str]| {
            let others = known.iter().map(|number| id(number)).collect();
            tell_of_round(messages, true, 0, intended_at, Some(others))
        };
        // By its id, by its time, or not at all: then nobody can tell.
        assert!(matches!(later(vec![old()], 1001, &["20"]), Seen::Absent));
        assert!(matches!(later(vec![old()], 1061, &[]), Seen::Absent));
        assert!(matches!(later(vec![old()], 1060, &[]), Seen::Unclear));
        assert!(matches!(later(vec![old()], 1003, &[]), Seen::Unclear));
        let both = || vec![old(), new(1005)];
        for known in [&["20"][..], &[]] {
            let seen = later(both(), 1005, known);
            assert!(
                matches!(&seen, Seen::Found(found) if *found == id("21")),
                "{seen:?}"
            );
        }
    }

    #[test]
    fn somebody_elses_message_with_the_same_tag_is_not_our_reply() {
        let messages = vec![message("20", AccountId(1), &ours("11"), 1000)];
        assert!(matches!(tell(messages, true, 0, 990), Seen::Absent));
    }

    #[test]
    fn a_reply_to_another_message_is_not_it() {
        let messages = vec![message("20", BOT, &ours("12"), 1000)];
        assert!(matches!(tell(messages, true, 0, 990), Seen::Absent));
    }

    #[test]
    fn a_list_that_reaches_back_far_enough_shows_that_it_is_not_there() {
        let oldest = |send_time| vec![message("19", AccountId(1), "hi", send_time)];
        assert!(matches!(tell(oldest(900), false, 0, 960), Seen::Absent));
        assert!(matches!(tell(oldest(901), false, 0, 960), Seen::Unclear));
    }

    #[test]
    fn chatworks_clock_is_what_counts() {
        let oldest = |send_time| vec![message("19", AccountId(1), "hi", send_time)];
        assert!(matches!(tell(oldest(1000), false, 100, 960), Seen::Absent));
        assert!(matches!(tell(oldest(800), false, -200, 960), Seen::Unclear));
    }

    #[test]
    fn a_list_that_hides_messages_tells_nothing() {
        assert!(matches!(tell(Vec::new(), false, 0, 960), Seen::Unclear));
        assert!(matches!(tell(Vec::new(), true, 0, 960), Seen::Absent));
    }
}
